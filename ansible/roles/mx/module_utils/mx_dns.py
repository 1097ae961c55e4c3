"""Asks a resolver or a zone's own server for records, and has the server change them (RFC 2136, signed by TSIG, RFC 8945).

Promises: no answer is an error and never an empty set; one message changes all of one zone, or nothing of it; `DnsError` says
what to do. Never: decides what must stand in the zone, and never has the key's secret in a text.
"""

from __future__ import annotations

import ipaddress

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.tsig
import dns.tsigkeyring
import dns.update

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import dns.rdata
    import dns.rrset

__all__ = ["DnsError", "Server", "ask_resolver", "make_resolver"]

#: Seconds for one question.
PATIENCE = 10.0

#: What a refusal of an update means in practice.
MEANING = {
    "REFUSED": "the server does not let this key change these names, or wants an address for each MX first",
    "NOTAUTH": "the server does not know the key, the secret or its algorithm is wrong, or the zone is not its own",
    "NOTZONE": "a name lies outside the zone",
    "SERVFAIL": "the server cannot write the zone: its log says why",
}

#: What to do where a mail host's name is in a zone that the server does not have.
OTHERS = " (where the hosts' names are in somebody else's zone, set mx_host_records to false)"


class DnsError(Exception):
    """DNS did not do what was asked; the text says what, and what to do."""


def make_resolver(servers: Sequence[str], port: int) -> dns.resolver.Resolver:
    """The system's resolver, or one of the given addresses."""
    resolver = dns.resolver.Resolver(configure=not servers)
    resolver.lifetime = PATIENCE
    if servers:
        resolver.nameservers = list(servers)
        resolver.port = port
    return resolver


def ask_resolver(resolver: dns.resolver.Resolver, name: str, kind: str) -> list[str]:
    """The data of a set of records, [] where there is none; an alias on the way is not followed."""
    try:
        answer = resolver.resolve(f"{name}.", kind, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return []
    except dns.exception.DNSException as wrong:
        raise DnsError(f"the resolver gave no answer for {name} {kind}: {wrong}") from wrong
    return _data(answer.response.answer, name, kind)


class Server:
    """The server that holds the zones, and the key with which it lets us change them."""

    def __init__(
        self, address: str, port: int, *, key_name: str = "", secret: str = "", algorithm: str = "hmac-sha256"
    ) -> None:
        """`address` is an IP address, so that no DNS says where updates go. ValueError: it is none, or the secret no base64."""
        self.address, self.port = str(ipaddress.ip_address(address)), port
        self._keys = dns.tsigkeyring.from_text({key_name: (algorithm, secret)}) if key_name else None

    def ask(self, name: str, kind: str) -> list[str]:
        """The data of a set of records as the server has it now, [] where there is none."""
        return _data(self._query(name, kind).answer, name, kind)

    def zone(self, name: str) -> str:
        """The zone in which a name lies: the owner of the SOA record for it, or for a parent where it is an alias."""
        at = dns.name.from_text(name)
        while at != dns.name.root:
            response = self._query(at.to_text(omit_final_dot=True), "SOA")
            for rrset in (*response.answer, *response.authority):
                if rrset.rdtype == dns.rdatatype.SOA and at.is_subdomain(rrset.name):
                    return rrset.name.to_text(omit_final_dot=True).lower()
            at = at.parent()
        raise DnsError(f"{self.address} has no zone for {name}: is it the zone's primary server?")

    def change(self, zone: str, ttl: int, changes: Iterable[tuple[str, str, Iterable[str], Iterable[str]]]) -> None:
        """Removes and adds (name, type, to remove, to add), all in one message."""
        update = dns.update.UpdateMessage(zone, keyring=self._keys)
        for name, kind, remove, add in changes:
            owner = dns.name.from_text(name)
            for value in remove:
                update.delete(owner, _rdata(kind, value))
            for value in add:
                update.add(owner, ttl, _rdata(kind, value))
        code = dns.rcode.to_text(self._send(update, f"the update of {zone}").rcode())
        if code != "NOERROR":
            raise DnsError(f"{self.address} refused the update of {zone} with {code}: {MEANING.get(code, 'its log says why')}")

    def _query(self, name: str, kind: str) -> dns.message.Message:
        response = self._send(dns.message.make_query(f"{name}.", kind), f"{name} {kind}")
        if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise DnsError(f"{self.address} answered {dns.rcode.to_text(response.rcode())} for {name} {kind}{OTHERS}")
        if not response.flags & dns.flags.AA:
            raise DnsError(f"{self.address} does not answer for {name} itself: it is not a server of that zone{OTHERS}")
        return response

    def _send(self, message: dns.message.Message, what: str) -> dns.message.Message:
        try:
            return dns.query.tcp(message, self.address, timeout=PATIENCE, port=self.port)
        except dns.tsig.PeerError as wrong:
            raise DnsError(f"{self.address} refused {what}: {MEANING['NOTAUTH']} ({type(wrong).__name__})") from wrong
        except dns.exception.FormError as wrong:  # what is signed must be answered signed, but not by who does not know the key
            raise DnsError(f"{self.address} answered {what} unsigned, or garbled: {MEANING['NOTAUTH']}") from wrong
        except (dns.exception.DNSException, OSError, EOFError) as wrong:
            raise DnsError(
                f"{self.address} port {self.port} gave no answer for {what}: {type(wrong).__name__} {wrong}"
            ) from wrong


def _rdata(kind: str, value: str) -> dns.rdata.Rdata:
    if kind == "TXT":
        octets = value.encode("utf-8", "surrogateescape")
        strings = [octets[start : start + 255] for start in range(0, len(octets), 255)]
        return dns.rdata.from_text(
            "IN", kind, " ".join('"' + "".join(f"\\{octet:03d}" for octet in string) + '"' for string in strings)
        )
    return dns.rdata.from_text("IN", kind, f"{value}." if kind in ("MX", "CNAME") else value)


def _data(rrsets: Iterable[dns.rrset.RRset], name: str, kind: str) -> list[str]:
    owner, rdtype = dns.name.from_text(name), dns.rdatatype.from_text(kind)
    found: list[str] = []
    for rrset in rrsets:
        if rrset.name == owner and rrset.rdtype == rdtype:
            found += [_text(kind, rdata) for rdata in rrset]
    return found


def _text(kind: str, rdata: dns.rdata.Rdata) -> str:
    if kind == "TXT":
        return b"".join(rdata.strings).decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
    return rdata.to_text().rstrip(".").lower()
