"""Fields of a message from outside that claim to be ours: Authentication-Results with our authserv-id, and stamps.

A host that writes such fields must remove what strangers wrote in its name (RFC 8601 5): whoever reads the message later
believes them.
Promises: a field whose authserv-id cannot be read for certain counts as a claim where our name stands in it. The whole head is
looked at, for these two names; of Authentication-Results at most `READ` octets are read, and what is behind counts as claims.
Never: takes another host's results for ours, short of that bound; reads the body; holds the head's fields: a head of 25 MB may
have six million.
"""

from __future__ import annotations

import re

from gatepost.mail.address import compile_pattern
from gatepost.mail.message import STAMP
from gatepost.mail.tokens import ATOM, QUOTED, STRAY, tokens
from gatepost.mail.words import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["FORGED_LIMIT", "READ", "forged"]

#: More claims than this refuse the message. Removing is quadratic in Postfix: 20,000 fields took 15 s and killed its cleanup.
FORGED_LIMIT: Final = 50
#: Octets of Authentication-Results that are read in one message; long chains of forwarders leave 20,000. Reading costs up to 4
#: microseconds an octet (comments, NFKC), and no other message is judged meanwhile.
READ: Final = 262_144
_RESULTS: Final = "authentication-results"
#: The beginning of one of the two fields, with the line end before it, and the end of a head or a field.
_FIELD: Final = re.compile(rb"\n(authentication-results|x-gatepost-stamp)[ \t]*:", re.IGNORECASE)
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_FIELD_END: Final = re.compile(rb"\n(?![ \t])")
#: Words before the first semicolon that are put together: RFC 8601 has two there, and a name has few parts.
_WORDS: Final = 64


def forged(raw: bytes, authserv_id: str) -> tuple[tuple[str, int], ...]:
    """The claims, as name and number among the fields of that name (from 1), the last first; at most FORGED_LIMIT + 1."""
    counts = {_RESULTS: 0, STAMP: 0}
    found: list[tuple[str, int]] = []
    left = READ
    head = b"\n" + raw  # as if a line had ended before the first
    blank = _HEAD_END.search(head)
    stop = blank.start() + 1 if blank is not None else len(head)
    for field in _FIELD.finditer(head, 0, stop):
        name = field[1].decode("ascii").lower()
        counts[name] += 1
        if name == _RESULTS:
            end = _FIELD_END.search(head, field.end(), min(stop, field.end() + left))
            left -= (end.start() if end is not None else stop) - field.start()
            if left >= 0 and not _claims(_unfolded(head[field.end() : end.start() if end is not None else stop]), authserv_id):
                continue
        found.append((name, counts[name]))
        if len(found) > FORGED_LIMIT:
            break
    return tuple(reversed(found))


def _unfolded(value: bytes) -> bytes:
    """Without its line ends and the white space at its ends (RFC 5322 2.2.3)."""
    return value.replace(b"\r\n", b"").replace(b"\n", b"").strip(b" \t\r")


def _claims(value: bytes, authserv_id: str) -> bool:
    """Does this value say that we speak, as some reader may take it? `authserv_id`: lower case, no final dot."""
    names = compile_pattern(f"x@{authserv_id}").domains  # A-labels and U-labels
    words: list[str] = []
    for kind, word, _ in tokens(value, b";"):
        if kind == STRAY:  # nothing closes a quote or a comment: another reader may find our name in it
            return any(name in _folded(value) for name in names)
        if (kind == ";" and words) or len(words) > _WORDS:
            break
        if kind in (ATOM, QUOTED):
            words.append(word)
    first, all_ = "".join(words[:1]), "".join(words)
    # As RFC 8601 has it the first word; up to NUL for who ends a text there; all for who takes comments and white space out.
    read = [_folded(each.encode("latin-1")) for each in (first, first.partition("\0")[0], all_)]
    return any(_is_of(each, name) for each in read for name in names)


def _folded(value: bytes) -> str:
    """The text in lower case, encoded words (RFC 2047) decoded, without what cannot be seen; IDNA's mapping (UTS 46 4)."""
    shown = text(value)
    if not shown.isascii():
        from unicodedata import normalize

        shown = normalize("NFKC", shown).replace("\u3002", ".")
    return "".join(char for char in shown.lower() if char.isprintable() and char not in " \ufffd")


def _is_of(found: str, name: str) -> bool:
    """Does it begin with this host's name, perhaps with final dots, and behind it no more of a name?"""
    start = next((at for at, char in enumerate(found) if char.isalnum()), 0)
    rest = found[start + len(name) :].lstrip(".")
    return found.startswith(name, start) and (not rest or rest.isdigit() or not (rest[0].isalnum() or rest[0] in "-_"))
