"""One POST over HTTP/1.1 (RFC 9112), written for one purpose: to know for certain what the app answered, or that it did not.

Promises: ends by its deadline; an answer's body is whole or the answer says what is wrong with it; head and body of an answer
are bounded.
Never: follows a redirect, uses a proxy, keeps a connection (`kept` does), sends a request twice, reads the environment; imports
`http.client`: it costs each run of the pipe script 21 ms, measured, more than the rest of the run together, and takes a
connection that is shut in mid-head for status 200 with an empty body (docs/decisions/0001-start-up-is-the-cost.md).
"""

from __future__ import annotations

import time

from gatepost.sinks.wire import TooLongError, WireError, open_wire
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.sinks.wire import Wire

    #: `post`, or what does the same over connections that it keeps (`kept`).
    Post = Callable[..., "Answer"]

__all__ = ["BODY_LIMIT", "Answer", "Url", "answer", "parse_url", "post", "request_head"]

#: Octets of an answer's body; an app that has the message says so in fewer.
BODY_LIMIT: Final = 65_536
#: Octets and fields of all heads of an answer together (interim ones too); servers themselves stop at 8 to 32 KiB.
HEAD_LIMIT: Final = 65_536
FIELDS_LIMIT: Final = 200
#: One line between two chunks: a size, and extensions that nobody reads.
_CHUNK_LINE: Final = 1_024
#: Seconds that an answer which is no 2xx gets to explain itself in its body; its status has decided already.
_EXPLAIN: Final = 2.0
_DIGITS: Final = frozenset("0123456789")
_HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")
_NO_BODY: Final = (204, 205, 304)  # RFC 9110 15.3.5, 15.3.6, 15.4.5


class Url(Value):
    """An http or https URL, taken apart. `authority`: for the Host field. `path` has the query."""

    secure: bool
    host: str
    port: int
    authority: str
    path: str


class Answer(Value):
    """What the other side said. `fields`: names in lower case, the values of one name joined by ", " (RFC 9110 5.3).

    `fault`: why a 2xx may not be believed (cut off, too long, unclear framing, said before it had the request), or "";
    `late`: it is that the deadline passed. `whole`: it is the only answer, given to the whole request, and all of it was read.
    """

    version: str = "HTTP/1.1"
    status: int
    reason: str = ""
    fields: dict[str, str]
    body: bytes = b""
    fault: str = ""
    late: bool = False
    whole: bool = False


def parse_url(text: str) -> Url:
    """The URL; WireError (misconfigured) for what is none, has a user name in it, or holds what a request line cannot."""
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in ("http", "https") or not rest:
        raise WireError("misconfigured", "the sink's URL must begin with https:// or http://")
    if not all("!" <= char <= "~" for char in rest):
        raise WireError("misconfigured", "the sink's URL holds what must be percent-encoded")
    rest = rest.partition("#")[0]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    secure = scheme.lower() == "https"
    host, port = _host_and_port(authority, 443 if secure else 80)
    return Url(secure=secure, host=host, port=port, authority=authority, path=path if path[:1] == "/" else "/" + path)


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    if authority[:1] == "[":  # RFC 3986 3.2.2: an IPv6 address
        host, bracket, port = authority[1:].partition("]")
        good = bool(bracket) and port[:1] in ("", ":")
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
        good = "@" not in authority
    if not good or not host or not _DIGITS.issuperset(port) or len(port) > 5 or not 0 < int(port or default) < 65_536:
        raise WireError("misconfigured", "the sink's URL must be https://HOST[:PORT]/PATH, without a user name")
    return host, int(port or default)


def post(url: Url, fields: list[tuple[str, str]], *body: bytes, ca_file: str = "", deadline: float) -> Answer:
    """Sends one request and reads its answer. `deadline`: time.monotonic() seconds. Raises WireError for no answer.

    `body`: its parts, one behind the other, which need not become one: a message may be large.
    """
    head = request_head(url, [*fields, ("Connection", "close")], sum(map(len, body)))
    wire = open_wire(url.host, url.port, secure=url.secure, ca_file=ca_file, deadline=deadline)
    try:
        wire.give(head, *body)
        return answer(wire)
    finally:
        wire.close()


def request_head(url: Url, fields: list[tuple[str, str]], length: int) -> bytes:
    """What stands before the body, which has `length` octets."""
    lines = [f"POST {url.path} HTTP/1.1", f"Host: {url.authority}"]
    lines += [f"{name}: {value}" for name, value in fields]
    lines += [f"Content-Length: {length}", "Accept-Encoding: identity", "", ""]
    return "\r\n".join(lines).encode("ascii")


def answer(wire: Wire) -> Answer:
    """The final answer: interim ones (RFC 9110 15.2) are passed over, while the request is still being sent.

    Raises WireError for no answer.
    """
    room, interim = HEAD_LIMIT, False
    while True:
        while not wire.inbox:
            wire.more()
        had_all = wire.gave_all
        head, room = _head(wire, room)
        if not 100 <= head.status < 200 or head.status == 101:
            break
        interim = True
    success = 200 <= head.status < 300
    if success and not had_all:
        return head.replace(fault="said before it had the whole message")
    if not (success or 400 <= head.status < 600):
        return head
    if not success:  # whatever is wrong with what it has to say, its status stands
        wire.deadline = min(wire.deadline, time.monotonic() + _EXPLAIN)
    try:
        return head.replace(body=_body(wire, head.status, head.fields), whole=had_all and not interim)
    except WireError as error:
        return head.replace(fault=str(error), late=error.gone) if success else head


def _head(wire: Wire, room: int) -> tuple[Answer, int]:
    """Status line and fields of one answer, and what is left of `room` (octets)."""
    first = wire.line(room)
    room -= len(first)
    version, _, rest = first.decode("latin-1").partition(" ")
    code, _, reason = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not _DIGITS.issuperset(code):
        raise WireError("unavailable", f"not HTTP: the answer begins {first[:40]!r}")
    fields: dict[str, str] = {}
    name = ""
    for _ in range(FIELDS_LIMIT):
        line = wire.line(max(room, 0))
        room -= len(line) + 2
        if not line:
            return Answer(version=version, status=int(code), reason=reason, fields=fields), room
        text = line.decode("latin-1")
        if text[0] in " \t" and name:  # RFC 9112 5.2: obsolete folding
            fields[name] += " " + text.strip()
            continue
        name, colon, value = text.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not name or name != name.strip():
            raise WireError("unavailable", f"not HTTP: a field of the answer is {line[:40]!r}")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    raise TooLongError("the answer's head has too many fields")


def _body(wire: Wire, status: int, fields: dict[str, str]) -> bytes:
    """The whole body (RFC 9112 6.3); WireError where it is not whole, too long, or its length is anybody's guess."""
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if status in _NO_BODY:
        return b""
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise WireError("unavailable", f"the answer's framing is unclear (Transfer-Encoding: {coding})")
        return _chunked(wire)
    if length is not None:
        return wire.exactly(_length(length))
    while not wire.ended:  # RFC 9112 6.3 rule 8: the body lasts until the connection ends
        _bounded(len(wire.inbox))
        wire.turn()
    return wire.exactly(_bounded(len(wire.inbox)))


def _length(text: str) -> int:
    """Content-Length (RFC 9110 8.6): digits, or the same digits several times."""
    each = {part.strip() for part in text.split(",")}
    only = each.pop()
    if each or not only or len(only) > 18 or not _DIGITS.issuperset(only):
        raise WireError("unavailable", f"the answer's framing is unclear (Content-Length: {text})")
    return _bounded(int(only))


def _chunked(wire: Wire) -> bytes:
    """A chunked body (RFC 9112 7.1); the trailer is read, since only its end says that nothing was cut off."""
    body = bytearray()
    while True:
        size = wire.line(_CHUNK_LINE).partition(b";")[0].strip(b" \t")
        if not size or len(size) > 8 or not _HEX_DIGITS.issuperset(size):
            raise WireError("unavailable", "the answer's framing is unclear (a chunk's size)")
        if not (count := int(size, 16)):
            break
        _bounded(len(body) + count)
        body += wire.exactly(count)
        if wire.line(_CHUNK_LINE):
            raise WireError("unavailable", "the answer's framing is unclear (a chunk's end)")
    for _ in range(FIELDS_LIMIT):
        if not wire.line(_CHUNK_LINE):
            return bytes(body)
    raise TooLongError("the answer's trailer has too many fields")


def _bounded(count: int) -> int:
    if count > BODY_LIMIT:
        raise TooLongError(f"the answer is longer than {BODY_LIMIT} octets")
    return count
