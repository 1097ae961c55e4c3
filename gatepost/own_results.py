"""Fields of a message from outside that claim to be ours: Authentication-Results with our authserv-id, and stamps.

A host that writes such fields must remove what strangers wrote in its name (RFC 8601 5): whoever reads the message later
believes them.
Promises: a field whose authserv-id cannot be read for certain counts as a claim where our name stands in it. One pass.
Never: takes another host's results for ours; reads the body.
"""

from __future__ import annotations

from gatepost.mail.address import compile_pattern
from gatepost.mail.headers import scan
from gatepost.mail.message import STAMP
from gatepost.mail.tokens import ATOM, QUOTED, STRAY, tokens
from gatepost.mail.words import text
from gatepost.settings import ParserLimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["FORGED_LIMIT", "forged"]

#: More claims than this refuse the message. Removing is quadratic in Postfix: 20,000 fields took 15 s and killed its cleanup.
FORGED_LIMIT: Final = 50
#: The whole head, whatever a route's parser reads of it: a claim beyond those limits is read by others.
_WHOLE: Final = ParserLimits(header_bytes=1 << 40, header_fields=1 << 40, field_bytes=1 << 40)
_RESULTS: Final = "authentication-results"
#: Words before the first semicolon that are put together: RFC 8601 has two there, and a name has few parts.
_WORDS: Final = 64


def forged(raw: bytes, authserv_id: str) -> tuple[tuple[str, int], ...]:
    """The claims, as name and number among the fields of that name (from 1), the last first; at most FORGED_LIMIT + 1."""
    counts = {_RESULTS: 0, STAMP: 0}
    found: list[tuple[str, int]] = []
    for field in scan(raw, _WHOLE).fields:
        if field.name not in counts:
            continue
        counts[field.name] += 1
        if field.name == STAMP or _claims(field.value, authserv_id):
            found.append((field.name, counts[field.name]))
            if len(found) > FORGED_LIMIT:
                break
    return tuple(reversed(found))


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
