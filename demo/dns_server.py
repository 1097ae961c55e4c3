"""A little DNS server on loopback for tests and the demo: answers from a table of zones, or does what broken DNS does.

Promises: UDP and TCP on one port; every question is counted; it ends with the `with` block.
Never: asks anybody else; listens elsewhere than on 127.0.0.1.

    with DnsServer({"example.org": {"TXT": ["v=spf1 -all"], "A": ["192.0.2.1"]}}) as server:
        ...  # 127.0.0.1:server.port

`python -m demo.dns_server PORT ZONES.json` serves until it is ended.
"""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import sys
import threading
from collections import Counter

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    #: name -> type -> records; or name -> one of the words below.
    Zones = Mapping[str, "Mapping[str, list[str]] | str"]

__all__ = ["NONSENSE", "NXDOMAIN", "REFUSED", "SERVFAIL", "SILENT", "DnsServer"]

#: What may stand in place of a name's records, or of one type's: no answer, SERVFAIL, ...
SILENT = "silent"
SERVFAIL = "servfail"
REFUSED = "refused"
NONSENSE = "nonsense"
NXDOMAIN = "nxdomain"
#: Octets that go into a UDP answer whatever the client says it takes.
_UDP_LARGEST = 1232
_TTL = 300


class DnsServer:
    """`zones`: name -> {"TXT": [text, ...], "MX": ["10 mx.example.org"], "CNAME": [...], "SOA": [...], "TTL": ["5"], ...}.

    A type's records may be one of the words above in a list of one. TXT is the text itself, cut into strings of 255 here; a
    name below a name of the table that is not in it is NXDOMAIN, a name above one is empty. `down`: answers nothing at all.
    `truncate`: UDP answers say that they are cut, with nothing in them. `follow`: CNAMEs are followed within the table, as a
    server that resolves does. `queries`: (name, type, "udp" or "tcp") in order.
    """

    def __init__(self, zones: Zones | None = None, *, port: int = 0, down: bool = False, truncate: bool = False,
                 follow: bool = True) -> None:  # fmt: skip
        self.zones: dict[str, Mapping[str, list[str]] | str] = {}
        self.down = down
        self.truncate = truncate
        self.follow = follow
        self.queries: list[tuple[str, str, str]] = []
        self.add(zones or {})
        self._tcp = _Tcp(("127.0.0.1", port), self)
        self.port: int = self._tcp.server_address[1]
        self._udp = _Udp(("127.0.0.1", self.port), self)
        self._threads = [
            threading.Thread(target=each.serve_forever, args=(0.02,), daemon=True) for each in (self._tcp, self._udp)
        ]

    @property
    def address(self) -> str:
        """As `gatepost.authentication.Resolver` takes it."""
        return f"127.0.0.1:{self.port}"

    def add(self, zones: Zones) -> None:
        """More names, or others in their place."""
        self.zones |= {name.lower().removesuffix("."): records for name, records in zones.items()}

    def count(self, name: str = "") -> int:
        """How many questions came, for a name or at all."""
        wanted = name.lower()
        return sum(not wanted or each == wanted for each, _, _ in self.queries)

    def asked(self) -> Counter[str]:
        """The names asked for."""
        return Counter(name for name, _, _ in self.queries)

    def start(self) -> Self:
        """Serves from now on; `stop` ends it."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Ends; the port is free."""
        for server, thread in zip((self._tcp, self._udp), self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def reply(self, wire: bytes, transport: str) -> bytes | None:
        """The answer to one question; None for silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, kind, transport))
        if self.down:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA
        if transport == "udp" and self.truncate:
            response.flags |= dns.flags.TC
            return response.to_wire()
        fault = self._fill(response, question.name, name, kind)
        if fault == SILENT:
            return None
        if fault == NONSENSE:
            return wire[:2] + b"\x84\x00" + b"\xff" * 20
        try:
            return response.to_wire(max_size=_UDP_LARGEST if transport == "udp" else 65535)
        except dns.exception.TooBig:
            cut = dns.message.make_response(query)
            cut.flags |= dns.flags.TC
            return cut.to_wire()

    def _fill(self, response: dns.message.Message, asked: dns.name.Name, name: str, kind: str) -> str:
        """Puts the answer in; returns the fault to show, "" for none. CNAMEs are followed within the table."""
        seen: set[str] = set()
        owner = asked
        while True:
            held = self.zones.get(name)
            records = held if isinstance(held, str) else (held or {}).get(kind, (held or {}).get("ANY", []))
            word = records if isinstance(records, str) else (records[0] if records and records[0] in _RCODES else "")
            if word:
                rcode = _RCODES[word]
                if rcode is not None:
                    response.set_rcode(rcode)
                return word
            table = held if not isinstance(held, str) and held is not None else {}
            ttl = int(table.get("TTL", [str(_TTL)])[0])
            if not records and "CNAME" in table and name not in seen:
                seen.add(name)
                target = dns.name.from_text(table["CNAME"][0])
                response.answer.append(dns.rrset.from_rdata(owner, ttl, dns.rdata.from_text("IN", "CNAME", target.to_text())))
                if not self.follow:
                    return ""
                owner, name = target, target.to_text(omit_final_dot=True).lower()
                continue
            if records:
                response.answer.append(dns.rrset.from_rdata_list(owner, ttl, [_rdata(kind, each) for each in records]))
            elif held is None and not any(each.endswith("." + name) for each in self.zones):
                response.set_rcode(dns.rcode.NXDOMAIN)
            if not records and "SOA" in table:
                response.authority.append(dns.rrset.from_rdata(owner, ttl, dns.rdata.from_text("IN", "SOA", table["SOA"][0])))
            return ""


_RCODES: dict[str, dns.rcode.Rcode | None] = {
    SILENT: None,
    NONSENSE: None,
    SERVFAIL: dns.rcode.SERVFAIL,
    REFUSED: dns.rcode.REFUSED,
    NXDOMAIN: dns.rcode.NXDOMAIN,
}


def _rdata(kind: str, text: str) -> dns.rdata.Rdata:
    if kind == "TXT":
        octets = text.encode("utf-8", "surrogateescape")
        strings = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
        wire = b"".join(bytes((len(each),)) + each for each in strings)
        return dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.TXT, wire, 0, len(wire))
    relative = {"MX", "PTR", "CNAME", "NS"}
    return dns.rdata.from_text("IN", kind, text + "." if kind in relative and not text.endswith(".") else text)


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 65535

    def __init__(self, address: tuple[str, int], dns_server: DnsServer) -> None:
        self.dns_server = dns_server
        super().__init__(address, _UdpHandler)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 100

    def __init__(self, address: tuple[str, int], dns_server: DnsServer) -> None:
        self.dns_server = dns_server
        super().__init__(address, _TcpHandler)


class _UdpHandler(socketserver.BaseRequestHandler):
    server: _Udp

    def handle(self) -> None:
        wire, channel = self.request
        reply = self.server.dns_server.reply(wire, "udp")
        if reply is not None:
            channel.sendto(reply, self.client_address)


class _TcpHandler(socketserver.BaseRequestHandler):
    server: _Tcp
    request: socket.socket

    def handle(self) -> None:
        stream = self.request.makefile("rb")
        while len(size := stream.read(2)) == 2:
            reply = self.server.dns_server.reply(stream.read(struct.unpack("!H", size)[0]), "tcp")
            if reply is None:
                break
            self.request.sendall(struct.pack("!H", len(reply)) + reply)
        stream.close()


def main() -> None:
    """Serves a table from a file until it is ended."""
    port, path = int(sys.argv[1]), sys.argv[2]
    with open(path, encoding="utf-8") as stream:
        zones = json.load(stream)
    with DnsServer(zones, port=port) as server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
