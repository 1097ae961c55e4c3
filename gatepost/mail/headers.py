"""The head of a message: its fields in order, and where the body starts (RFC 5322 2.2).

Promises: order and duplicates are kept; each field knows its offsets in raw; `FLAGS` lists everything that can be strange.
Time and memory are bounded by `ParserLimits`; past a limit only the end of the head is looked for.
Never: raises; lets a strange line end the head; drops bytes (what is no field is still in raw).
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import ParserLimits

__all__ = ["FLAGS", "Field", "Headers", "scan"]

#: Every flag that `scan` can set, with its meaning.
FLAGS: Final[dict[str, str]] = {
    "8-bit-header": "an octet above 127 in the head (RFC 6532 allows UTF-8; others are old practice)",
    "bare-cr-in-header": "a CR without LF in the head (RFC 5322 2.3 forbids it); it ends no line here",
    "field-too-long": "a field is longer than `field_bytes`: its value is cut there",
    "header-too-large": "the head is larger than `header_bytes`: what is behind is not read as fields",
    "leading-fold": "the first line starts with white space: it continues nothing and is no field",
    "mbox-from": "the first line is a mailbox file's `From ` line; it is no field",
    "missing-colon": "a line without colon, or without a name before it, in the head; it is no field",
    "no-blank-line": "the message ends with its head",
    "nul-in-header": "a NUL in the head (RFC 5322 4 forbids it)",
    "space-before-colon": "white space between a name and its colon (RFC 5322 4.5, obsolete)",
    "strange-name": "a field's name has characters that RFC 5322 2.2 does not allow",
    "too-many-fields": "more than `header_fields` fields: what is behind is not read",
}

_SPACE: Final = b" \t"


class Field:
    """One header field.

    `name`: ASCII letters in lower case, other octets as the character of that number (Latin-1). `raw`: what follows the colon,
    as received, with folds, without the last line end. `start`, `end`: the whole field's offsets in the message, line end
    included.
    """

    __slots__ = ("end", "name", "raw", "start")

    def __init__(self, name: str, raw: bytes, start: int, end: int) -> None:
        self.name = name
        self.raw = raw
        self.start = start
        self.end = end

    @property
    def value(self) -> bytes:
        """`raw` unfolded (RFC 5322 2.2.3), without white space at its ends."""
        return self.raw.replace(b"\r\n", b"").replace(b"\n", b"").strip(b" \t\r")

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.raw!r}, {self.start}, {self.end})"


class Headers(Value):
    """`fields`: in order, with duplicates. `body_start`: offset behind the blank line. `flags`: of `FLAGS`, sorted, unique."""

    fields: tuple[Field, ...]
    body_start: int
    flags: tuple[str, ...]

    def all(self, name: str) -> tuple[Field, ...]:
        """Every field of that name (in any case), in the order of the message."""
        wanted = name.lower()
        return tuple(field for field in self.fields if field.name == wanted)

    def first(self, name: str) -> Field | None:
        """The first field of that name, or None."""
        wanted = name.lower()
        for field in self.fields:
            if field.name == wanted:
                return field
        return None


def scan(raw: bytes, limits: ParserLimits) -> Headers:
    """The head of `raw`. Lines end at LF or CRLF; lines that start with SP or HTAB continue the one before."""
    flags: set[str] = set()
    fields: list[Field] = []
    stop = min(len(raw), limits.header_bytes)
    start = seen = 0
    while start < stop and not _is_blank(raw, start) and seen < limits.header_fields:
        end = _field_end(raw, start, stop)
        field = _field(raw, start, end, limits.field_bytes, flags)
        if field is not None:
            fields.append(field)
        start = end
        seen += 1
    body_start = _body_start(raw, start, stop, flags)
    _flag_octets(raw, start, flags)
    return Headers(fields=tuple(fields), body_start=body_start, flags=tuple(sorted(flags)))


def _is_blank(raw: bytes, start: int) -> bool:
    return raw.startswith((b"\r\n", b"\n"), start)


def _field_end(raw: bytes, start: int, stop: int) -> int:
    """The offset behind the line end that no fold follows; `stop` at the latest."""
    lf = raw.find(b"\n", start, stop)
    while lf >= 0 and raw.startswith((b" ", b"\t"), lf + 1):
        lf = raw.find(b"\n", lf + 1, stop)
    return stop if lf < 0 else lf + 1


def _field(raw: bytes, start: int, end: int, longest: int, flags: set[str]) -> Field | None:
    """The field that stands there, or None and a flag. At most `longest` octets of it are read."""
    read_to = min(end, start + longest)
    if read_to < end and raw[read_to:end] not in (b"\r\n", b"\n"):
        flags.add("field-too-long")
    if raw[start] in _SPACE:
        flags.add("leading-fold")
        return None
    line_end = raw.find(b"\n", start, read_to)
    colon = raw.find(b":", start, line_end if line_end >= 0 else read_to)
    written = raw[start:colon] if colon >= 0 else b""
    name = written.rstrip(_SPACE)
    if start == 0 and raw.startswith(b"From ") and name != b"From":
        flags.add("mbox-from")
        return None
    if not name:
        flags.add("missing-colon")
        return None
    if name != written:
        flags.add("space-before-colon")
    text = name.lower().decode("latin-1")
    if not (text.isascii() and text.isprintable()) or " " in text:
        flags.add("strange-name")
    value = raw[colon + 1 : read_to]
    return Field(text, value.removesuffix(b"\n").removesuffix(b"\r") if read_to == end else value, start, end)


def _body_start(raw: bytes, start: int, stop: int, flags: set[str]) -> int:
    """The offset behind the blank line at or after `start`, where the fields ended; flags why they ended."""
    behind = max(start - 1, 0)  # the line end that `start` follows may be the one before the blank line
    if start == 0 and _is_blank(raw, 0):
        return raw.index(b"\n") + 1
    crlf = raw.find(b"\n\r\n", behind)
    lf = raw.find(b"\n\n", behind, crlf + 1 if crlf >= 0 else len(raw))
    blank = lf if lf >= 0 else crlf
    if start < len(raw) and (blank < 0 or blank + 1 != start):
        flags.add("header-too-large" if start >= stop else "too-many-fields")
    if blank < 0:
        flags.add("no-blank-line")
        return len(raw)
    return raw.index(b"\n", blank + 1) + 1


def _flag_octets(raw: bytes, end: int, flags: set[str]) -> None:
    """Flags for single octets in the part of the head that was read."""
    if not raw[:end].isascii():
        flags.add("8-bit-header")
    if raw.find(b"\0", 0, end) >= 0:
        flags.add("nul-in-header")
    # `end` may stand between CR and LF, where the limit fell.
    if raw.count(b"\r", 0, end) != raw.count(b"\r\n", 0, end + 1):
        flags.add("bare-cr-in-header")
