"""Loops: a message that was here before, or that we made ourselves.

Promises: a hop is only evidence where our own host wrote it for this same recipient in an earlier passage.
Never: calls a thread's References a loop (a reply carries our Message-ID there; that is what a reply is).
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.mail.recipient import recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.decision import Envelope
    from gatepost.mail.message import Message
    from gatepost.screening.passage import Passage

__all__ = ["find"]


def find(
    envelope: Envelope, message: Message, hops: Passage, *, minted: Callable[[str], bool], limit: int
) -> tuple[Finding, ...]:
    """Every sign of a loop. `minted` says of a Message-ID whether it carries a key of ours; `limit` is the count of hops."""
    found = []
    ours = recipient(envelope.recipient).final_form
    for hop in hops.fields[hops.own :]:
        if hop.by in hops.hosts and hop.for_ and recipient(hop.for_).final_form == ours:
            found.append(_finding("received-before", f"Received by {hop.by[:60]} for this recipient, below this passage"))
            break
    if message.message_id and minted(message.message_id):
        found.append(_finding("own-message-id", "its Message-ID is one that we minted"))
    if len(hops.fields) > limit:  # RFC 5321 6.3: counting Received fields, at least 100 allowed between MTAs
        found.append(_finding("too-many-hops", f"more than {limit} Received fields"))
    return tuple(found)


def _finding(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="loops", evidence=evidence)
