"""DNS for sender authentication: bounded questions, one deadline a message, answers kept for their time to live.

Promises: every question ends in an `Answer` or in `Unanswered`, at the latest when its part of the deadline is over; a cut
answer is asked for again over TCP; a CNAME is followed at most `CHAIN` times; threads may share one `Resolver`.
Never: takes silence, SERVFAIL or a broken answer for "there is none"; keeps a failure beyond the message; uses search domains.
"""

from __future__ import annotations

import re
import time
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver

from gatepost.authentication.cache import AnswerCache
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, Literal

    Type = Literal["A", "AAAA", "MX", "PTR", "TXT"]

__all__ = ["Answer", "Questions", "Resolver", "TooManyQuestions", "Unanswered"]

#: Seconds for one question, so that one dead name does not use up the time of all.
QUESTION_SECONDS: Final = 5.0
#: Seconds for one try at one server: the third try still fits.
TRY_SECONDS: Final = 1.6
#: CNAMEs followed for one question. A loop ends here.
CHAIN: Final = 8
#: Seconds an answer is kept at most, whatever its time to live says: keys and records are changed within the hour.
KEPT_LONGEST: Final = 3600.0
#: Seconds that "there is none" is kept at most, and where the answer does not say how long (RFC 2308 5).
KEPT_LONGEST_EMPTY: Final = 300.0
KEPT_EMPTY: Final = 60.0
#: UDP payload (RFC 6891): what passes every path without fragments.
_PAYLOAD: Final = 1232
_PORT: Final = 53
#: [address], or address without a colon; a port. Whatever has more colons is an address of version 6.
_SERVER: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([0-9.]+))(?::([0-9]{1,5}))?|[0-9A-Fa-f:.%]+")


class Unanswered(Exception):  # noqa: N818  what it says, not an error of the program
    """DNS did not say: a time-out, SERVFAIL, no server, a broken answer. It may say later."""


class TooManyQuestions(Unanswered):
    """This message has asked all that it may."""


class Answer(Value):
    """What DNS said. `exists`: False for NXDOMAIN. `records` by type: A, AAAA: address; MX: (preference, name); PTR: name;
    TXT: octets, strings joined. Names are lower case without final dot. `octets`: of the records.
    """

    exists: bool
    records: tuple[str | bytes | tuple[int, str], ...] = ()
    octets: int = 0

    @property
    def texts(self) -> tuple[bytes, ...]:
        """The records of type TXT."""
        return tuple([each for each in self.records if isinstance(each, bytes)])


class Resolver:
    """`servers`: "ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT"; () = those of the system's resolv.conf.

    Raises ValueError for a server that is no address.
    """

    def __init__(self, servers: tuple[str, ...] = (), *, cache: AnswerCache | None = None) -> None:
        self._cache = AnswerCache() if cache is None else cache
        self._resolver = _configured(servers)

    def questions(self, deadline: float, limit: int) -> Questions:
        """The right to ask `limit` questions until `deadline` (on the clock of `time.monotonic`)."""
        return Questions(self, deadline, limit)

    def ask(self, name: str, kind: Type, deadline: float) -> Answer:
        """The answer to one question; raises Unanswered."""
        question = (name.lower().removesuffix("."), kind)
        now = time.monotonic()
        kept = self._cache.get(question, now)
        if kept is not None:
            return kept
        try:
            wire_name = _wire_name(question[0])
        except (dns.exception.DNSException, UnicodeError):
            return Answer(exists=False)  # no name: nothing can stand there
        answer, seconds = self._follow(wire_name, kind, deadline)
        if seconds > 0:
            self._cache.put(question, answer, time.monotonic() + seconds)
        return answer

    def _follow(self, name: dns.name.Name, kind: Type, deadline: float) -> tuple[Answer, float]:
        """Asks, and asks again where a CNAME leads to; a server that resolves has followed it already."""
        seconds = KEPT_LONGEST
        for _ in range(CHAIN):
            response = self._response(name, kind, deadline)
            chain = _chain(response)
            seconds = min(seconds, chain.minimum_ttl)
            if chain.answer is not None:
                return _answer(chain.answer), seconds
            if chain.canonical_name == name or response.rcode() == dns.rcode.NXDOMAIN:
                most = min(seconds, KEPT_LONGEST_EMPTY if _says_how_long(response) else KEPT_EMPTY)
                return Answer(exists=response.rcode() != dns.rcode.NXDOMAIN), most
            name = chain.canonical_name
        raise Unanswered("a chain of CNAMEs that does not end")

    def _response(self, name: dns.name.Name, kind: Type, deadline: float) -> dns.message.QueryMessage:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unanswered("no time left")
        try:
            answer = self._resolver.resolve(name, kind, raise_on_no_answer=False, search=False, lifetime=left)
            return answer.response
        except dns.resolver.NXDOMAIN as none:
            response: dns.message.QueryMessage = none.response(name)  # type: ignore[no-untyped-call]
            return response
        except (dns.exception.DNSException, OSError, ValueError, KeyError) as failure:
            raise Unanswered(f"{type(failure).__name__}") from failure


class Questions:
    """What one message, or one method for it, may still ask. What was not answered once is not asked again."""

    def __init__(self, resolver: Resolver, deadline: float, limit: int, unanswered: set[tuple[str, str]] | None = None) -> None:
        self._resolver = resolver
        self._deadline = deadline
        self._left = limit
        self._unanswered: set[tuple[str, str]] = set() if unanswered is None else unanswered

    def part(self, share: float, limit: int) -> Questions:
        """A part of them: this share of the time that is left, and at most `limit` questions."""
        now = time.monotonic()
        return Questions(self._resolver, now + max(self._deadline - now, 0.0) * share, min(limit, self._left), self._unanswered)

    def ask(self, name: str, kind: Type) -> Answer:
        """The answer; raises Unanswered, and TooManyQuestions when all are used up."""
        if self._left <= 0:
            raise TooManyQuestions("too many questions")
        self._left -= 1
        if (name, kind) in self._unanswered:
            raise Unanswered("not answered before")
        try:
            return self._resolver.ask(name, kind, min(self._deadline, time.monotonic() + QUESTION_SECONDS))
        except Unanswered:
            self._unanswered.add((name, kind))
            raise


def _configured(servers: tuple[str, ...]) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    if servers:
        resolver.nameservers = [_server(each) for each in servers]
    else:
        try:
            resolver = dns.resolver.Resolver(configure=True)
        except dns.resolver.NoResolverConfiguration:
            resolver.nameservers = ["127.0.0.1"]  # what resolv.conf(5) says of an empty file
    resolver.cache = None
    resolver.timeout = TRY_SECONDS
    resolver.rotate = False
    resolver.use_edns(0, 0, _PAYLOAD)
    return resolver


def _server(text: str) -> dns.nameserver.Nameserver:
    """One server with its port. Raises ValueError."""
    found = _SERVER.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        return dns.nameserver.Do53Nameserver(str(ip_address(found[1] or found[2] or text)), int(found[3] or _PORT))
    except ValueError as bad:
        right = "192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353"
        raise ValueError(f"no address of a DNS server: {text!r}; write {right}") from bad


def _wire_name(name: str) -> dns.name.Name:
    """The name, label by label: no escapes, no IDNA; raises for empty and long labels and names."""
    labels = [label.encode("utf-8") for label in name.split(".")]
    if b"" in labels:
        raise dns.name.EmptyLabel
    return dns.name.Name([*labels, b""])


def _chain(response: dns.message.QueryMessage) -> dns.message.ChainingResult:
    try:
        return response.resolve_chaining()
    except dns.exception.DNSException as broken:
        raise Unanswered(f"{type(broken).__name__}") from broken


def _says_how_long(response: dns.message.QueryMessage) -> bool:
    """Has "there is none" an SOA, which says for how long (RFC 2308 5)?"""
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)


def _answer(rrset: Iterable[dns.rdata.Rdata]) -> Answer:
    records = tuple([_record(each) for each in rrset])
    return Answer(exists=True, records=records, octets=sum([_octets(each) for each in records]))


def _record(rdata: dns.rdata.Rdata) -> str | bytes | tuple[int, str]:
    kind = dns.rdatatype.to_text(rdata.rdtype)
    if kind == "TXT":
        return b"".join(rdata.strings)  # type: ignore[attr-defined]
    if kind == "MX":
        return int(rdata.preference), _text(rdata.exchange)  # type: ignore[attr-defined]
    if kind == "PTR":
        return _text(rdata.target)  # type: ignore[attr-defined]
    return str(rdata.address)  # type: ignore[attr-defined]


def _text(name: dns.name.Name) -> str:
    return b".".join([label for label in name.labels if label]).decode("utf-8", "replace").lower()


def _octets(record: str | bytes | tuple[int, str]) -> int:
    return len(record[1]) + 50 if isinstance(record, tuple) else len(record) + 50
