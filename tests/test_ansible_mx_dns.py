"""Asking a zone's server and having it change records, against a small server of our own on loopback."""

from __future__ import annotations

import importlib.util
import socketserver
import struct
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = Path(__file__).resolve().parent.parent / "ansible" / "roles" / "mx" / "module_utils"
KEY, SECRET, OTHER_SECRET = "key.example", "c2VjcmV0LXNlY3JldC1zZWNyZXQ=", "b3RoZXItb3RoZXItb3RoZXI="
ZONES = ("in.example.com", "example.net")
SOA = "ns.example.org. root.example.org. 1 300 300 300 300"


def part(name: str) -> ModuleType:
    """A module of the role, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tested_{name}", PARTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[f"tested_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mx_dns = part("mx_dns")


class Zones(socketserver.ThreadingTCPServer):
    """Holds the zones; takes updates that the key has signed. `answer`: a code that it gives to every update instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.records: dict[tuple[str, str], set[str]] = {}
        self.updates: list[list[str]] = []
        self.answer = dns.rcode.NOERROR

    def zone_of(self, name: dns.name.Name) -> str | None:
        return next((zone for zone in ZONES if name.is_subdomain(dns.name.from_text(zone))), None)


class Asked(socketserver.BaseRequestHandler):
    """One connection of one question."""

    def handle(self) -> None:
        (length,) = struct.unpack("!H", self.request.recv(2))
        wire = b""
        while len(wire) < length:
            wire += self.request.recv(length - len(wire))
        server = self.server
        assert isinstance(server, Zones)
        keyring = dns.tsigkeyring.from_text({KEY: ("hmac-sha256", SECRET)})
        try:
            query = dns.message.from_wire(wire, keyring=keyring)
        except (dns.message.UnknownTSIGKey, dns.tsig.BadSignature):
            response = dns.message.make_response(dns.message.from_wire(wire, keyring=False))
            response.set_rcode(dns.rcode.NOTAUTH)
        else:
            response = dns.message.make_response(query)
            (self.update if query.opcode() == dns.opcode.UPDATE else self.query)(server, query, response)
        answer = response.to_wire()
        self.request.sendall(struct.pack("!H", len(answer)) + answer)

    def query(self, server: Zones, query: dns.message.Message, response: dns.message.Message) -> None:
        asked = query.question[0]
        zone = server.zone_of(asked.name)
        if zone is None:
            response.set_rcode(dns.rcode.REFUSED)
            return
        response.flags |= dns.flags.AA
        kind = dns.rdatatype.to_text(asked.rdtype)
        owner = asked.name.to_text(omit_final_dot=True).lower()
        alias = server.records.get((owner, "CNAME"))
        data = server.records.get((owner, kind))
        if data:
            response.answer.append(dns.rrset.from_text_list(asked.name, 300, "IN", kind, sorted(data)))
        elif alias:
            response.answer.append(dns.rrset.from_text_list(asked.name, 300, "IN", "CNAME", sorted(alias)))
        elif asked.name == dns.name.from_text(zone) and kind == "SOA":
            response.answer.append(dns.rrset.from_text(asked.name, 300, "IN", "SOA", SOA))
        else:
            response.authority.append(dns.rrset.from_text(f"{zone}.", 300, "IN", "SOA", SOA))
            if not any(owner == name for name, _ in server.records):
                response.set_rcode(dns.rcode.NXDOMAIN)

    def update(self, server: Zones, query: dns.message.Message, response: dns.message.Message) -> None:
        if server.answer != dns.rcode.NOERROR or not query.had_tsig:
            response.set_rcode(server.answer or dns.rcode.REFUSED)
            return
        done: list[str] = []
        for rrset in query.sections[2]:
            key = (rrset.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(rrset.rdtype))
            texts = {rdata.to_text() for rdata in rrset}
            if rrset.deleting == dns.rdataclass.NONE:
                server.records.setdefault(key, set()).difference_update(texts)
            else:
                server.records.setdefault(key, set()).update(texts)
            done += [f"{'-' if rrset.deleting else '+'}{key[0]} {key[1]} {text}" for text in sorted(texts)]
        server.updates.append(done)


@pytest.fixture
def zones() -> Iterator[Zones]:
    """The server, ended with the test."""
    with Zones() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def server_of(zones: Zones, **changed: Any) -> Any:
    return mx_dns.Server("127.0.0.1", zones.server_address[1], **({"key_name": KEY, "secret": SECRET} | changed))


def test_records_are_read_as_they_are(zones: Zones) -> None:
    """Data comes without final dots, a text as one, and what is not there is an empty list."""
    zones.records[("in.example.com", "MX")] = {"10 MX1.In.Example.COM."}
    zones.records[("in.example.com", "TXT")] = {'"v=spf1 " "-all"', '"\\195\\169 \\255"'}
    server = server_of(zones)
    assert server.ask("in.example.com", "MX") == ["10 mx1.in.example.com"]
    assert sorted(server.ask("in.example.com", "TXT")) == ["v=spf1 -all", "é \udcff"]
    assert server.ask("in.example.com", "A") == []
    assert server.ask("nobody.in.example.com", "A") == []


def test_a_change_is_one_signed_message_in_the_order_given(zones: Zones) -> None:
    """All of a zone's changes travel together, so that a server takes all or none; texts survive the way."""
    zones.records[("in.example.com", "TXT")] = {'"v=spf1 +all"', '"proof"'}
    text = 'é "quoted" \\ ' + "x" * 300
    server = server_of(zones)
    server.change(
        "in.example.com",
        300,
        [
            ("mx1.in.example.com", "A", (), ("192.0.2.1",)),
            ("in.example.com", "MX", (), ("10 mx1.in.example.com",)),
            ("in.example.com", "TXT", ("v=spf1 +all",), (text,)),
        ],
    )
    assert [line[:40] for line in zones.updates[0]] == [
        "+mx1.in.example.com A 192.0.2.1",
        "+in.example.com MX 10 mx1.in.example.com",
        '-in.example.com TXT "v=spf1 +all"',
        '+in.example.com TXT "\\195\\169 \\"quoted\\"',
    ]
    assert len(zones.updates) == 1
    assert sorted(server.ask("in.example.com", "TXT")) == ["proof", text]


ZONE_OF = [
    ("the zone itself", "in.example.com", "in.example.com"),
    ("a name in it", "mx1.in.example.com", "in.example.com"),
    ("a name that is not there yet", "a.b.c.in.example.com", "in.example.com"),
    ("an alias", "www.in.example.com", "in.example.com"),
    ("another zone", "mx.example.net", "example.net"),
]


@pytest.mark.parametrize(("name", "zone"), [row[1:] for row in ZONE_OF], ids=[row[0] for row in ZONE_OF])
def test_the_zone_of_a_name(zones: Zones, name: str, zone: str) -> None:
    """The zone is found by its SOA record, also for a name that does not exist or is an alias elsewhere."""
    zones.records[("www.in.example.com", "CNAME")] = {"host.example.org."}
    assert server_of(zones).zone(name) == zone


REFUSALS = [
    ("not allowed", {}, dns.rcode.REFUSED, "REFUSED: the server does not let this key"),
    ("not its zone", {}, dns.rcode.NOTAUTH, "NOTAUTH: the server does not know the key"),
    ("cannot write", {}, dns.rcode.SERVFAIL, "its log says why"),
    ("no key", {"key_name": "", "secret": ""}, dns.rcode.NOERROR, "REFUSED"),
    ("another secret", {"secret": OTHER_SECRET}, dns.rcode.NOERROR, "secret or its algorithm is wrong"),
    ("another key", {"key_name": "no.example"}, dns.rcode.NOERROR, "secret or its algorithm is wrong"),
]


@pytest.mark.parametrize(("key", "code", "says"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_refusal_says_what_to_do(zones: Zones, key: dict[str, str], code: dns.rcode.Rcode, says: str) -> None:
    """An update that is refused is an error with the server's code and its meaning, and without the secret."""
    zones.answer = code
    with pytest.raises(mx_dns.DnsError) as raised:
        server_of(zones, **key).change("in.example.com", 300, [("in.example.com", "A", (), ("192.0.2.1",))])
    assert says in str(raised.value)
    assert SECRET not in str(raised.value)
    assert OTHER_SECRET not in str(raised.value)
    assert zones.records == {}


def test_no_answer_is_no_empty_set(zones: Zones) -> None:
    """A server that is not there, or that does not have the zone, is an error: else all records would seem to be missing."""
    with pytest.raises(mx_dns.DnsError, match=r"answered REFUSED for example\.org MX"):
        server_of(zones).ask("example.org", "MX")
    port = zones.server_address[1]
    zones.shutdown()
    zones.server_close()
    with pytest.raises(mx_dns.DnsError, match=f"port {port} gave no answer"):
        mx_dns.Server("127.0.0.1", port).ask("in.example.com", "MX")


@pytest.mark.parametrize("address", ["ns.example.org", "", "192.0.2.256"])
def test_the_server_is_an_address(address: str) -> None:
    """A name is refused: somebody's DNS would say where the update goes."""
    with pytest.raises(ValueError, match="does not appear to be"):
        mx_dns.Server(address, 53)
