"""The mailboxes of From, To and Cc (RFC 5322 3.4), obsolete and broken forms tolerated.

Promises: one pass over the tokens, at most `limit` mailboxes; what could not be read as the RFC says is a flag. An address
is only what stands where an address stands: never a name, a comment or an encoded word's content.
Never: raises; recurses; decodes inside an address.
"""

from __future__ import annotations

from gatepost.mail.recipient import fold
from gatepost.mail.tokens import ATOM, COMMENT, LITERAL, QUOTED, STRAY, quoted, tokens
from gatepost.mail.words import displayable, octets_text, text
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.mail.tokens import Token

__all__ = ["FLAGS", "Mailbox", "Mailboxes", "mailboxes"]

#: Every flag that `mailboxes` can set, with its meaning.
FLAGS: Final[dict[str, str]] = {
    "encoded-word-in-address": "an address has the form of an encoded word in it (RFC 2047 5 forbids it); it is not decoded",
    "group": "the list has a group (RFC 5322 3.4); its members are taken as mailboxes",
    "no-domain": "an address has no domain",
    "nul": "the value has a NUL; U+FFFD stands for it",
    "too-many": "the list is longer than the limit; the rest is not read",
    "unparsed": "something is not as RFC 5322 3.4 says: a part is left out or guessed",
}

_SPECIALS: Final = b"<>@,;:."
#: What an unquoted local part may not hold (RFC 5322 3.2.3), beside white space and controls.
_QUOTED_ONLY: Final = frozenset('()<>[]:;@\\,"')


class Mailbox(Value):
    """`address`: local part in the case received, quoted only where it must be; domain in lower case. `name`: for display."""

    address: str
    name: str


class Mailboxes(Value):
    """`list`: in the order of the field, at most as many as the limit. `flags`: of `FLAGS`, sorted, unique."""

    list: tuple[Mailbox, ...]
    flags: tuple[str, ...]


def mailboxes(value: bytes, limit: int) -> Mailboxes:
    """The mailboxes of an unfolded value. `limit` counts list elements, empty ones too (RFC 5322 4.4 allows those)."""
    reader = _Reader(limit)
    if b"\0" in value:
        reader.flags.add("nul")
    for kind, word, spaced in tokens(value, _SPECIALS):
        reader.take(kind, word, spaced)
        if reader.full:
            break
    reader.finish()
    return Mailboxes(list=tuple(reader.found), flags=tuple(sorted(reader.flags)))


class _Reader:
    """What is known of the element that is being read. `outside`: tokens before `<`; `inside`: those behind it."""

    def __init__(self, limit: int) -> None:
        self.room = limit
        self.full = False
        self.found: list[Mailbox] = []
        self.flags: set[str] = set()
        self.nameless: list[list[Token]] = []  # elements without @: local addresses, or a name with commas in it
        self._start_element()

    def _start_element(self) -> None:
        self.outside: list[Token] = []
        self.inside: list[Token] | None = None
        self.in_route = False  # between `<@` and `:` (RFC 5322 4.4, obs-route)
        self.closed = False
        self.comment = ""

    def take(self, kind: str, word: str, spaced: bool) -> None:
        """One token more."""
        if kind == COMMENT:
            self.comment = self.comment or word
        elif kind == STRAY:
            self.flags.add("unparsed")
        elif kind == "<":
            self._open()
        elif kind == ">":
            self._close()
        elif self.in_route and kind != ";":
            self.in_route = kind != ":"
        elif kind in ",;":
            self._end_element()
            if kind == ";":
                self._flush_nameless()
        elif kind == ":":
            self._start_group()
        elif self.inside is None:
            self.outside.append((kind, word, spaced))
        elif self.closed:
            self.flags.add("unparsed")
        elif kind == "@" and not self.inside:
            self.in_route = True
        else:
            self.inside.append((kind, word, spaced))

    def finish(self) -> None:
        """The value ends."""
        if self.outside or self.inside is not None:
            self._end_element()
        self._flush_nameless()

    def _open(self) -> None:
        if self.inside is not None:
            self.flags.add("unparsed")
            self._end_element()
        self.inside = []

    def _close(self) -> None:
        if self.inside is None or self.closed:
            self.flags.add("unparsed")
        self.closed = self.inside is not None
        self.in_route = False

    def _start_group(self) -> None:
        if self.inside is not None and not self.closed:  # `<mailto:a@example.org>`
            self.flags.add("unparsed")
            self.inside = []
            return
        self._flush_nameless()
        if self.inside is not None:
            self.flags.add("unparsed")
            self._end_element()
        self.flags.add("group")
        self._start_element()

    def _end_element(self) -> None:
        """Takes what was collected as one element of the list."""
        self.room -= 1
        if self.room < 0:
            self.flags.add("too-many")
            self.full = True
        elif self.inside is not None:
            self._add_bracketed(self.inside)
        elif self.outside:
            self._add_bare()
        self._start_element()

    def _add_bracketed(self, inside: list[Token]) -> None:
        if not self.closed:
            self.flags.add("unparsed")
        name = self.outside
        if self.nameless:  # `Doe, John <j@example.org>`: the comma was the name's
            self.flags.add("unparsed")
            comma = (ATOM, ",", False)
            name = [token for element in self.nameless for token in (*element, comma)] + name
            self.nameless = []
        self._add(inside, name)

    def _add_bare(self) -> None:
        """`a@example.org`, also with spaces around its signs; where words stand before it, they are taken as its name."""
        runs = _runs(self.outside)
        addresses = [run for run in runs if any(kind == "@" for kind, _, _ in run)]
        if not addresses:
            self.nameless.append(self.outside)
            return
        self._flush_nameless()
        if len(runs) > 1:
            self.flags.add("unparsed")
        name = [token for run in runs if run not in addresses for token in run] if len(addresses) == 1 < len(runs) else []
        for run in addresses:
            if self.room < 0:
                self.flags.add("too-many")
                break
            self._add(run, name)
            self.room -= 1
        self.room += 1  # the element itself was counted before

    def _flush_nameless(self) -> None:
        """What had no @ and came to be no name: single words are addresses without domain, as programs on one host write."""
        for element in self.nameless:
            if len(_runs(element)) == 1:
                self._add(element, [])
            else:
                self.flags.add("unparsed")
        self.nameless = []

    def _add(self, address: list[Token], name: list[Token]) -> None:
        written = _address(address)
        if not written:
            self.flags.add("unparsed")
            return
        if not any(kind == "@" for kind, _, _ in address):
            self.flags.add("no-domain")
        if "=?" in written:
            self.flags.add("encoded-word-in-address")
        shown = _spelled(name) if name else self.comment
        self.found.append(Mailbox(address=written, name=text(shown.encode("latin-1")).strip()))


def _runs(element: list[Token]) -> list[list[Token]]:
    """The element cut where white space stands, but not around `.` and `@` (RFC 5322 4.4 allows it there)."""
    runs: list[list[Token]] = []
    joins = False
    for token in element:
        kind, _, spaced = token
        joined = joins or kind in ".@" or not spaced
        if joined and runs:
            runs[-1].append(token)
        else:
            runs.append([token])
        joins = kind in ".@"
    return runs


def _spelled(part: list[Token]) -> str:
    """The tokens' text, with a space where white space stood."""
    return "".join([f" {word}" if spaced else word for _, word, spaced in part]).strip()


def _address(part: list[Token]) -> str:
    """The address that the tokens spell; "" where they spell none."""
    signs = [at for at, (kind, _, _) in enumerate(part) if kind == "@"]
    if len(signs) > 1 or not part:
        return ""
    split = signs[0] if signs else len(part)
    local, domain = part[:split], part[split + 1 :]
    if not local or (signs and not domain) or any(kind == LITERAL for kind, _, _ in local):
        return ""
    if any(kind == QUOTED for kind, _, _ in domain) or len(_runs(domain)) > 1:
        return ""
    content = _octets(" ".join(["".join([word for _, word, _ in run]) for run in _runs(local)]))
    if not content or any(char in _QUOTED_ONLY or char <= " " for char in content):
        content = quoted(content)
    host = fold(_octets("".join([word for _, word, _ in domain]))).removesuffix(".")
    if signs and not host:
        return ""
    return f"{content}@{host}" if signs else content


def _octets(latin1: str) -> str:
    return displayable(octets_text(latin1.encode("latin-1")))
