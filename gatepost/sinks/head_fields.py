"""The header fields that gatepost puts in front of a message, and the stranger's own of those names that it takes out.

Promises: the first X-Gatepost-* field of each name is ours, and no other stands in the head, however the reader of the message
breaks lines: at CR LF, at LF or at CR alone. One pass over the bytes.
Never: alters anything else of the message; lets a value break its line.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from gatepost.sinks.delivery import Delivery

__all__ = ["address_value", "field_value", "gatepost_fields", "with_fields", "without_fields"]

#: Fields that begin like this are ours alone.
OURS: Final = b"x-gatepost-"
_LF: Final = 0x0A
_CR_TO_LF: Final = bytes(0x0A if octet == 0x0D else octet for octet in range(256))
_FOLDS: Final = b" \t"
#: What a percent-encoded value leaves as it is: printable ASCII without the space and the percent sign.
_PLAIN: Final = frozenset(range(0x21, 0x7F)) - {0x25}


def field_value(text: str) -> bytes:
    """The text for a header field: visible ASCII as it is, every other octet of its UTF-8, and "%", as %XX (RFC 3986 2.1)."""
    return b"".join(b"%c" % octet if octet in _PLAIN else b"%%%02X" % octet for octet in _octets(text))


def address_value(address: str) -> bytes:
    """An envelope address for a header field: its own octets, and "?" for what would break the line."""
    return bytes(octet if octet >= 0x20 and octet != 0x7F else 0x3F for octet in _octets(address))


def _octets(text: str) -> bytes:
    """UTF-8, with the octets that were not (PEP 383) as they came; a surrogate of any other origin is a "?"."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def gatepost_fields(delivery: Delivery) -> list[tuple[bytes, bytes]]:
    """Name and value of our four fields; all four always, so that an app that reads the first never reads a stranger's."""
    key = delivery.decision.key
    return [
        (b"X-Gatepost-Id", field_value(delivery.id)),
        (b"X-Gatepost-Route", field_value(delivery.route)),
        (b"X-Gatepost-Key-Subject", field_value(key.subject if key else "")),
        (b"X-Gatepost-Sender-Verified", field_value(delivery.sender_verified)),
    ]


def with_fields(raw: bytes, fields: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """The message with these fields in front: they, and it, which need not become one. A first line that begins with white

    space would fold into the last of them, so it gets a name of its own there.
    """
    lines = [b"%s: %s\r\n" % field for field in fields]
    if raw[:1] in (b" ", b"\t"):
        lines.append(b"X-Unnamed:")
    return b"".join(lines), raw


def without_fields(raw: bytes, *names: bytes) -> bytes:
    """The message without the X-Gatepost-* fields of its head, nor those of these names (lower case).

    The head ends at the first CR LF CR LF, which is an empty line to every reader. A field goes with its folds.
    """
    end = raw.find(b"\r\n\r\n")
    if raw[:2] == b"\r\n":
        return raw
    lower = (raw if end < 0 else raw[: end + 2]).lower()
    lines = lower.translate(_CR_TO_LF)
    kept, start = [], 0
    for first in sorted(at for name in (OURS, *names) for at in _starts(lower, lines, name)):
        if first < start:
            continue  # inside a field that is already out
        last, after = _field_end(lower, lines, first)
        if first == start:  # nothing stands in front: the line end behind goes
            start = after
        else:  # the line end in front goes, so that the one behind still ends a line
            kept.append(raw[start : first - (2 if lower[first - 2 : first] == b"\r\n" else 1)])
            start = last
    if not start:
        return raw
    kept.append(raw[start:])
    return b"".join(kept)


def _starts(lower: bytes, lines: bytes, name: bytes) -> Iterator[int]:
    """Where a line begins with this field name. OURS is the beginning of one; any other is a whole one."""
    at = lower.find(name)
    while at >= 0:
        if at == 0 or lines[at - 1] == _LF:
            after = lower[at + len(name) : at + len(name) + 16].lstrip(_FOLDS)
            if name is OURS or after.startswith(b":"):
                yield at
        at = lower.find(name, at + 1)


def _field_end(lower: bytes, lines: bytes, at: int) -> tuple[int, int]:
    """The first line end from `at` on behind which no fold follows: where it begins, and where it is over."""
    size = len(lower)
    while True:
        end = lines.find(b"\n", at)
        if end < 0:
            return size, size
        at = end + (2 if lower[end : end + 2] == b"\r\n" else 1)
        if at >= size or lower[at] not in _FOLDS:
            return end, at
