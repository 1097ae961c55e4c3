"""Comments and quoted strings of structured fields (RFC 5322 3.2.2, 3.2.4): where they end, and values without comments.

Promises: nesting is a counter, so any depth costs the same; each value is passed over once.
Never: raises; takes a comment or a quoted string that nothing closes for one (its first character is then an ordinary one).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["closing", "without_comments"]

#: Every octet that matters to one of them.
_MARKED: Final = bytes.maketrans(b'()"[]\\', b"      ")
_LPAREN, _RPAREN, _QUOTE, _LBRACKET, _RBRACKET, _BACKSLASH = b'()"[]\\'
_CLOSERS: Final = {_LPAREN: _RPAREN, _QUOTE: _QUOTE, _LBRACKET: _RBRACKET}


def closing(value: bytes, marks: bytes, start: int) -> int:
    """The offset of what closes the comment, quoted string or domain literal that opens at `start`; -1 where nothing does.

    `marks` is `value` with a space at least at each of ( ) " [ ] \\ so that only those are looked at.
    """
    opener = value[start]
    closer = _CLOSERS[opener]
    depth = 1
    at = marks.find(b" ", start + 1)
    while at >= 0:
        octet = value[at]
        if octet == _BACKSLASH:
            at += 1
        elif octet == closer:
            depth -= 1
            if not depth:
                return at
        elif octet == opener == _LPAREN:
            depth += 1
        at = marks.find(b" ", at + 1)
    return -1


def without_comments(value: bytes) -> bytes:
    """`value` with one space for each comment; parentheses inside a quoted string are no comment."""
    if b"(" not in value:
        return value
    marks = value.translate(_MARKED)
    kept: list[bytes] = []
    unclosed: set[int] = set()
    start = 0
    at = marks.find(b" ")
    while at >= 0:
        octet = value[at]
        if octet in (_LPAREN, _QUOTE) and octet not in unclosed:
            end = closing(value, marks, at)
            if end < 0:
                unclosed.add(octet)
            else:
                if octet == _LPAREN:
                    kept.append(value[start:at])
                    start = end + 1
                at = end
        at = marks.find(b" ", at + 1)
    kept.append(value[start:])
    return b" ".join(kept)
