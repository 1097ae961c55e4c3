"""Message-IDs, as they stand in Message-ID, In-Reply-To and References (RFC 5322 3.6.4).

Promises: each with its brackets, white space inside removed, at most `LONGEST` octets; junk between them is passed over.
Never: raises; looks at a quoted string or a comment (Message-IDs in angle brackets need neither to be found).
"""

from __future__ import annotations

from gatepost.mail.words import displayable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

__all__ = ["LONGEST", "message_ids"]

#: Octets of one Message-ID with its brackets: an identifier fits on one line (RFC 5322 2.1.1). Longer ones are left out.
LONGEST: Final = 998


def message_ids(value: bytes, limit: int) -> tuple[str, ...]:
    """The last `limit` Message-IDs of a value, in its order: in References the nearest ancestors stand last.

    Where no bracket is in the value at all, words with one @ in them are taken. What is not UTF-8 becomes U+FFFD.
    """
    found: list[str] = []
    for written in _bracketed(value) if b"<" in value or b">" in value else _bare(value):
        found.append(displayable(written.decode("utf-8", "replace")))
        if len(found) > 2 * limit:
            del found[: len(found) - limit]
    return tuple(found[max(len(found) - limit, 0) :])


def _bracketed(value: bytes) -> Iterator[bytes]:
    start = 0
    while (close := value.find(b">", start)) >= 0:
        opened = value.rfind(b"<", start, close)
        start, inner = close + 1, value[opened + 1 : close].translate(None, b" \t\r\n") if opened >= 0 else b""
        if 0 < len(inner) <= LONGEST - 2:
            yield b"<" + inner + b">"


def _bare(value: bytes) -> Iterator[bytes]:
    for word in value.replace(b",", b" ").split():
        if word.count(b"@") == 1 and len(word) <= LONGEST - 2:
            yield b"<" + word + b">"
