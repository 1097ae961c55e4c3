"""Loops: a message that was here before, or that we made ourselves.

Promises: a hop is only evidence where our own host wrote it for this same recipient in an earlier passage. What anybody can
write (X-Loop, our own marks) decides only beside such a hop for any recipient.
Never: calls a thread's References a loop (a reply carries our Message-ID there; that is what a reply is), or Delivered-To.
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.mail.recipient import recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gatepost.decision import Envelope
    from gatepost.mail.message import Message
    from gatepost.screening.passage import Passage

__all__ = ["find"]

#: What a sink of ours puts in front of a message that it hands over raw: an app that mails it on makes these ours again.
_OWN_MARKS = ("x-gatepost-id", "x-gatepost-route")


def find(
    envelope: Envelope, message: Message, hops: Passage, *, minted: Callable[[str], bool], own: Callable[[str], bool],
    domains: tuple[str, ...], limit: int,
) -> tuple[Finding, ...]:  # fmt: skip
    """Every sign of a loop. `minted` says of a Message-ID whether it carries a key of ours, `own` of an address whether it is

    this recipient or one that this route's app writes from; `domains`: the route's. `limit` is the count of hops.
    """
    found = []
    ours = recipient(envelope.recipient).final_form
    for hop in hops.fields[hops.own :]:
        if hop.by in hops.hosts and hop.for_ and recipient(hop.for_).final_form == ours:
            found.append(_finding("received-before", f"Received by {hop.by[:60]} for this recipient, below this passage"))
            break
    if message.message_id and minted(message.message_id):
        found.append(_finding("own-message-id", "its Message-ID is one that we minted"))
    found += _own_addresses(envelope, message, own)
    found += _own_list(message, domains)
    found += _marks(message, hops, ours)
    if len(hops.fields) > limit:  # RFC 5321 6.3: counting Received fields, at least 100 allowed between MTAs
        found.append(_finding("too-many-hops", f"more than {limit} Received fields"))
    return tuple(found)


def _own_addresses(envelope: Envelope, message: Message, own: Callable[[str], bool]) -> Iterator[Finding]:
    """Alone. The app writes from its address; nobody else does. MAIL FROM counts as From (RFC 3834 4 for both)."""
    if any(own(mailbox.address) for mailbox in message.from_.list[:10]):
        yield _finding("own-from", "From is this recipient, or another address of this route")
    if envelope.sender and own(envelope.sender):
        yield _finding("own-mail-from", "MAIL FROM is this recipient, or another address of this route")


def _own_list(message: Message, domains: tuple[str, ...]) -> Iterator[Finding]:
    """Alone. A List-Id in the route's own domain (RFC 2919 3): only the app's own mail has it."""
    for field in message.headers.all("list-id")[:5]:
        opened = field.value.rfind(b"<")
        name = field.value[opened + 1 :].partition(b">")[0].strip().lower().decode("latin-1")
        if opened >= 0 and any(name == domain or name.endswith(f".{domain}") for domain in domains):
            yield _finding("own-list-id", f"List-Id: <{name[:60]}>")
            return


def _marks(message: Message, hops: Passage, ours: str) -> Iterator[Finding]:
    """X-Loop with this recipient (procmail's convention) or a mark of ours: alone where a host of ours had it before.

    Else second: anybody can write them, and an app may mail on what it got.
    """
    before = any(hop.by in hops.hosts for hop in hops.fields[hops.own :])
    seen = set()
    for field in message.headers.fields:
        if field.name == "x-loop":
            named = recipient(field.value[:1_000].decode("utf-8", "replace").strip(" <>")).final_form == ours
        else:
            named = field.name in _OWN_MARKS
        slug = "x-loop" if field.name == "x-loop" else "own-mark"
        if named and slug not in seen:
            seen.add(slug)
            evidence = f"{field.name}: {field.value[:60].decode('latin-1')}"
            yield Finding(slug=slug, family="loops", evidence=evidence, strength="alone" if before else "second")


def _finding(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="loops", evidence=evidence)
