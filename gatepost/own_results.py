"""Fields of a message from outside that claim to be ours: Authentication-Results with our authserv-id, and stamps.

A host that writes such fields must remove what strangers wrote in its name (RFC 8601 5): whoever reads the message later
believes them.
Promises: a field whose authserv-id cannot be read for certain counts as a claim where our name stands in it. One pass.
Never: takes another host's results for ours; reads the body.
"""

from __future__ import annotations

from gatepost.mail.headers import scan
from gatepost.mail.message import STAMP
from gatepost.mail.tokens import ATOM, QUOTED, STRAY, tokens
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
    """Does this value say that we speak? `authserv_id`: lower case, no final dot."""
    for kind, word, _ in tokens(value, b";"):
        if kind == STRAY:  # nothing closes a quote or a comment: another reader may find our name in it
            break
        if kind in (ATOM, QUOTED):
            return word.lower().partition("/")[0].rstrip(".") == authserv_id  # a reader may part a version from it so
        if kind == ";":
            return False
    return authserv_id in value.decode("latin-1").lower()
