"""Content-Type: the type and its parameters (RFC 2045 5.1).

Promises: one pass, at most `limit` parameters; quoted strings, comments and white space anywhere; `name*=charset'language'...`
(RFC 2231 4) decoded. What is not as the RFC says is a flag.
Never: raises; joins the pieces of RFC 2231 3 (`name*0=`): what is asked here, `report-type`, is short.
"""

from __future__ import annotations

from gatepost.mail.tokens import COMMENT, QUOTED, STRAY, tokens
from gatepost.mail.words import charset_text, displayable, octets_text
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["FLAGS", "ContentType", "content_type"]

#: Every flag that `content_type` can set, with its meaning.
FLAGS: Final[dict[str, str]] = {
    "duplicate-parameter": "a parameter stands twice; both are in the list",
    "too-many": "more parameters than the limit; the rest is not read",
    "unparsed": "something is not as RFC 2045 5.1 says: a part is left out or guessed",
}


class ContentType(Value):
    """`type`: "type/subtype" in lower case, "" where none can be read. `parameters`: in order, names in lower case."""

    type: str
    parameters: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]

    def parameter(self, name: str) -> str | None:
        """The first parameter of that name, or None."""
        for each, value in self.parameters:
            if each == name:
                return value
        return None


def content_type(value: bytes, limit: int) -> ContentType:
    """The parts of an unfolded value. `limit` counts parameters, empty ones (`;;`) too."""
    flags: set[str] = set()
    parts: list[list[tuple[str, str, bool]]] = [[]]
    for token in tokens(value, b";=/"):
        kind = token[0]
        if kind == STRAY:
            flags.add("unparsed")
        elif kind == ";":
            if len(parts) > limit:
                flags.add("too-many")
                break
            parts.append([])
        elif kind != COMMENT:
            parts[-1].append(token)
    read = [_parameter(part, flags) for part in parts[1:]]
    parameters = tuple(each for each in read if each is not None)
    if len({name for name, _ in parameters}) < len(parameters):
        flags.add("duplicate-parameter")
    return ContentType(type=_type(parts[0], flags), parameters=parameters, flags=tuple(sorted(flags)))


def _type(part: list[tuple[str, str, bool]], flags: set[str]) -> str:
    readable = len(part) >= 3 and part[1][0] == "/" and part[0][0] not in "=/" and part[2][0] not in "=/"
    if len(part) != 3 or not readable:
        flags.add("unparsed")
    if not readable:
        return ""
    return _text(f"{part[0][1]}/{part[2][1]}").lower()


def _parameter(part: list[tuple[str, str, bool]], flags: set[str]) -> tuple[str, str] | None:
    if not part:
        return None
    if len(part) < 2 or part[0][0] in "=/" or part[1][0] != "=":
        flags.add("unparsed")
        return None
    name = _text(part[0][1]).lower()
    value = part[2:]
    words = [value[0][1]] if value else []
    for _, word, spaced in value[1:]:
        if spaced:
            flags.add("unparsed")
            break
        words.append(word)  # `boundary=a/b`, which should be quoted
    written = "".join(words)
    if name.endswith("*") and not (value and value[0][0] == QUOTED):
        return name.removesuffix("*"), _extended(written, flags)
    return name, _text(written)


def _extended(written: str, flags: set[str]) -> str:
    """charset'language'text with %XX (RFC 2231 4); as written where it is not that."""
    charset, _, rest = written.partition("'")
    _, quote, encoded = rest.partition("'")
    first, *others = encoded.encode("latin-1").split(b"%")
    try:
        octets = first + b"".join([_octet(other[:2]) + other[2:] for other in others])
    except ValueError:
        octets = None
    decoded = charset_text(octets, charset or "us-ascii") if quote and octets is not None else None
    if decoded is None:
        flags.add("unparsed")
        return _text(written)
    return displayable(decoded)


def _octet(digits: bytes) -> bytes:
    """Two hexadecimal digits; raises ValueError for anything else."""
    if len(digits) != 2:
        raise ValueError("not two digits")
    return bytes.fromhex(digits.decode("ascii"))


def _text(latin1: str) -> str:
    return displayable(octets_text(latin1.encode("latin-1")))
