"""The lexical tokens of structured fields (RFC 5322 3.2), one after the other.

Promises: one pass, each token in proportion to its length; text is Latin-1, one character an octet, so that nothing is lost.
Never: raises; holds more than one token.
"""

from __future__ import annotations

from gatepost.mail.comments import closing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Literal

    #: kind (a special character stands for itself), text (comments and quoted strings without their delimiters and backslashes;
    #: literals with their brackets), and whether white space or a comment stands before it.
    Token = tuple[str, str, bool]

__all__ = ["ATOM", "COMMENT", "LITERAL", "QUOTED", "STRAY", "quoted", "tokens"]

ATOM: Final = "atom"
QUOTED: Final = "quoted"
COMMENT: Final = "comment"
LITERAL: Final = "literal"
#: A delimiter that nothing opens or closes. Of openers that nothing closes only the first of its kind is told.
STRAY: Final = "stray"

_SPACE: Final = " \t\r\n"
_OPENS: Final[dict[str, Literal["quoted", "comment", "literal"]]] = {'"': "quoted", "(": "comment", "[": "literal"}
_ALWAYS: Final = b'()"[]\\ \t\r\n'


def tokens(value: bytes, specials: bytes) -> Iterator[Token]:
    """The tokens of an unfolded value. `specials`: which characters end an atom and are a token each."""
    stops = _ALWAYS + specials
    marks = value.translate(bytes.maketrans(stops, b" " * len(stops)))
    text, special = value.decode("latin-1"), specials.decode("latin-1")
    unclosed = ""
    spaced = False
    at = 0
    while at < len(text):
        char = text[at]
        end = at + 1
        if char in _SPACE:
            spaced = True
        elif char in _OPENS:
            if char not in unclosed:
                close = closing(value, marks, at)
                if close < 0:
                    unclosed += char
                    yield STRAY, char, spaced
                else:
                    end = close + 1
                    kind = _OPENS[char]
                    yield kind, text[at:end] if kind == LITERAL else _unescaped(text[at + 1 : close]), spaced
                    spaced = kind == COMMENT
        elif char in ")]":
            yield STRAY, char, spaced
        elif char in special:
            yield char, char, spaced
            spaced = False
        else:
            end = marks.find(b" ", end)
            end = len(text) if end < 0 else end
            yield ATOM, text[at:end], spaced
            spaced = False
        at = end


def _unescaped(inner: str) -> str:
    """Quoted pairs (RFC 5322 3.2.1) without their backslash."""
    if "\\" not in inner:
        return inner
    # A backslash behind a backslash is what is meant: pairs are taken from the left.
    return "\\".join([part.replace("\\", "") for part in inner.split("\\\\")])


def quoted(content: str) -> str:
    """`content` as a quoted string."""
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'
