"""The first words of a message and the kinds of its parts, for the few messages that must be looked into.

Promises: reads at most `BYTES` octets behind the head, `PARTS` parts of one level and `DEPTH` levels, whatever the message
holds; iterative. `text` is what the sender wrote on top: it ends where a quoted or forwarded message begins.
Never: raises; opens an attached message (message/rfc822); decides.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp

from gatepost.mail.content import content_type
from gatepost.mail.headers import scan
from gatepost.mail.words import charset_text, octets_text
from gatepost.settings import ParserLimits
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.mail.content import ContentType
    from gatepost.mail.message import Message

__all__ = ["BYTES", "DEPTH", "PARTS", "Opening", "opening"]

#: Octets behind the head. A bounce says what it is on its first screen; 32 KiB hold that with HTML styles in front.
BYTES: Final = 32_768
#: Parts of one multipart. A report has three.
PARTS: Final = 12
#: Levels. Reports under a filter's footer and an alternative have three.
DEPTH: Final = 5
#: Characters of text that are kept.
TEXT: Final = 8_000

_PART_LIMITS: Final = ParserLimits(header_bytes=8_192, header_fields=40, field_bytes=4_096, parameters=20)

#: A line that begins so starts somebody else's message (mail programs' forwards; Outlook prints a rule).
_FORWARDED: Final = (
    "-----original message", "----- original message", "-------- original message", "---- original message",
    "-----ursprüngliche", "-----urspr", "-----message d'origine", "-----mensaje original", "-----messaggio originale",
    "-----oorspronkelijk", "begin forwarded message", "---------- forwarded message", "-------- forwarded message",
    "----- forwarded message", "-------- weitergeleitete nachricht", "---------- message transféré",
    "-------- message transféré", "________________________________", "anfang der weitergeleiteten",
    "début du message réexpédié", "-----исходное сообщение", "-------- пересылаемое",
)  # fmt: skip


class Opening(Value):
    """`text`: lower case, single spaces, at most `TEXT` characters. `parts`: types of the parts, in order."""

    text: str
    parts: tuple[str, ...]


def opening(message: Message) -> Opening:
    """What the first text part says on top, and which parts there are beside it."""
    start = message.headers.body_start
    body = message.raw[start : start + BYTES]
    kind, encoding = message.content_type, _encoding(message)
    seen: list[str] = []
    for _ in range(DEPTH):
        if not kind.type.startswith("multipart/"):
            break
        parts = _parts(body, kind.parameter("boundary") or "")
        if not parts:
            break
        seen += [each.type for _, each, _ in parts]
        body, kind, encoding = _first_readable(parts)
    return Opening(text=_own_words(_decoded(body, kind, encoding)), parts=tuple(seen))


def _encoding(message: Message) -> str:
    field = message.headers.first("content-transfer-encoding")
    return "" if field is None else field.value.decode("latin-1").strip().lower()


def _first_readable(parts: list[tuple[bytes, ContentType, str]]) -> tuple[bytes, ContentType, str]:
    """The first part that is text or holds parts; else the first."""
    for part in parts:
        if part[1].type.startswith(("text/", "multipart/")) or not part[1].type:
            return part
    return parts[0]


def _parts(body: bytes, boundary: str) -> list[tuple[bytes, ContentType, str]]:
    """Octets, type and transfer encoding of the parts between lines that begin with the boundary (RFC 2046 5.1.1)."""
    try:
        delimiter = b"--" + boundary.encode("latin-1")
    except UnicodeEncodeError:
        return []
    if len(delimiter) == 2:
        return []
    found: list[tuple[bytes, ContentType, str]] = []
    at = 0 if body.startswith(delimiter) else _line(body, delimiter, 0)
    while at >= 0 and len(found) < PARTS:
        after = at + len(delimiter)
        if body.startswith(b"--", after):
            break
        line_end = body.find(b"\n", after)
        if line_end < 0:
            break
        at = _line(body, delimiter, line_end)
        found.append(_part(body[line_end + 1 : at if at >= 0 else len(body)]))
    return found


def _line(body: bytes, delimiter: bytes, start: int) -> int:
    found = body.find(b"\n" + delimiter, start)
    return found + 1 if found >= 0 else -1


def _part(octets: bytes) -> tuple[bytes, ContentType, str]:
    head = scan(octets, _PART_LIMITS)
    kind, encoding = head.first("content-type"), head.first("content-transfer-encoding")
    return (
        octets[head.body_start :],
        content_type(b"text/plain" if kind is None else kind.value, _PART_LIMITS.parameters),
        "" if encoding is None else encoding.value.decode("latin-1").strip().lower(),
    )


def _decoded(body: bytes, kind: ContentType, encoding: str) -> str:
    """The part's text, its tags taken out where it is HTML."""
    if encoding == "base64":
        body = _from_base64(body.translate(None, b" \t\r\n"))
    elif encoding == "quoted-printable":
        body = a2b_qp(body)
    text = charset_text(body, kind.parameter("charset") or "") or octets_text(body)
    return _without_tags(text) if kind.type == "text/html" else text


def _from_base64(letters: bytes) -> bytes:
    """What they spell, up to where `BYTES` cut them; themselves where they are no base64."""
    try:
        return a2b_base64(letters[: len(letters) // 4 * 4])
    except Base64Error:
        return letters


#: What a reader does not see, or did not write.
_HIDDEN: Final = ("style", "script", "title", "blockquote")
_SHOWN: Final = ("/style", "/script", "/title", "/blockquote")


def _without_tags(text: str) -> str:
    """What stands between tags, with a line for each block, quotations left out; only the entities that the phrases need."""
    first, *others = text.split("<")
    pieces = [first]
    hidden = 0
    for piece in others:
        tag, _, rest = piece.partition(">")
        name = tag[:11].lower()
        if name.startswith(_HIDDEN):
            hidden += 1
        elif name.startswith(_SHOWN) and hidden:
            hidden -= 1
        if name.startswith(("br", "p", "div", "/p", "/div", "tr", "/tr")):
            pieces.append("\n")
        if not hidden:
            pieces.append(rest)
    joined = "".join(pieces)
    for entity, char in (("&nbsp;", " "), ("&#39;", "'"), ("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        joined = joined.replace(entity, char)
    return joined


def _own_words(text: str) -> str:
    """The lines that are no quotation, up to a forwarded message or the line that introduces a quotation."""
    kept: list[str] = []
    for line in text.split("\n"):
        words = " ".join(line.split()).lower()
        if not words or words.startswith(">"):
            continue
        if words.startswith(_FORWARDED) or _introduces(words):
            break
        kept.append(words)
    return " ".join(kept)[:TEXT].lstrip("*-=#~| ")


def _introduces(words: str) -> bool:
    """`On Monday Ann wrote:` in any language: a line that ends with a colon and has both an address or a date and a verb."""
    return words.endswith(":") and (
        words.startswith(("on ", "am ", "le ", "el ", "il ", "op ", "em ", "den ", "dnia ", "w dniu ")) or "wrote" in words
    )
