"""Received: who took a message from whom, and for whom (RFC 5321 4.4).

Promises: the first value of each clause, comments left out; one pass over at most `WORDS` words.
Never: raises; believes anything: which Received fields are ours is for `screening.passage` to say.
"""

from __future__ import annotations

from gatepost.mail.recipient import fold
from gatepost.mail.tokens import ATOM, COMMENT, LITERAL, QUOTED, quoted, tokens
from gatepost.mail.words import displayable, octets_text
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

__all__ = ["WORDS", "Received", "received"]

#: Words that are looked at. The six clauses have twelve; some programs add a few of their own.
WORDS: Final = 64

_CLAUSES: Final = ("from", "by", "via", "with", "id", "for")


class Received(Value):
    """`by`, `from_`: domain or [address] in lower case, no final dot. `for_`: the address without its brackets, its domain in
    lower case. `id`, `with_`: as received. "" where the field does not say."""

    by: str
    for_: str
    id: str
    with_: str
    from_: str


def received(value: bytes) -> Received:
    """The clauses of an unfolded value, up to the semicolon before the date."""
    found: dict[str, str] = {}
    clause = ""
    for count, word in enumerate(_words(value)):
        if count == WORDS:
            break
        if clause:  # a clause's word is its value, even if it is spelled like a clause: a client may call itself "by"
            found.setdefault(clause, word)
            clause = ""
        elif word.lower() in _CLAUSES:
            clause = word.lower()
    address = found.get("for", "").removeprefix("<").removesuffix(">")
    local, at, domain = address.rpartition("@")
    return Received(
        by=_host(found.get("by", "")),
        for_=f"{local}{at}{_host(domain)}" if at else address,
        id=found.get("id", ""),
        with_=found.get("with", ""),
        from_=_host(found.get("from", "")),
    )


def _host(name: str) -> str:
    return fold(name).removesuffix(".")


def _words(value: bytes) -> Iterator[str]:
    """What stands between white space and comments, quoted strings whole, up to the first semicolon."""
    word = ""
    for kind, part, spaced in tokens(value, b";"):
        if kind == ";":
            break
        if spaced and word:
            yield _text(word)
            word = ""
        if kind in (ATOM, LITERAL):
            word += part
        elif kind == QUOTED:
            word += quoted(part)
        elif kind == COMMENT and word:
            yield _text(word)
            word = ""
    if word:
        yield _text(word)


def _text(latin1: str) -> str:
    return displayable(octets_text(latin1.encode("latin-1")))
