"""Which Received fields this host wrote while the message came in, and by what names it calls itself there.

Promises: our host's name is read from the Received field that carries the envelope's queue ID, which a sender cannot know
beforehand; the configured `trusted` names are ours as well.
Never: trusts a Received field below the first that a stranger's host wrote.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.decision import Envelope
    from gatepost.mail.headers import Field
    from gatepost.mail.message import Message
    from gatepost.mail.received import Received

__all__ = ["Passage", "ours", "passage"]

#: A content filter on the same host writes one of these between two Received fields of ours.
_LOCALHOST = ("localhost", "localhost.localdomain")


class Passage(Value):
    """`hosts`: our names, lower case. `own`: how many Received fields, from the top, this passage wrote. `fields`: all.

    `trusted`: is the host that took the message from the stranger, the lowest of ours, one of the configured names?
    """

    hosts: tuple[str, ...]
    own: int
    fields: tuple[Received, ...]
    trusted: bool = False


def passage(
    envelope: Envelope, message: Message, trusted: tuple[str, ...], limit: int, *, direct: bool = False
) -> Passage:  # fmt: skip
    """Reads at most `limit` + 1 Received fields (RFC 5321 4.4), newest first as they stand.

    `direct`: this host saw that its client was none of the trusted ones; a field that says otherwise is forged.
    """
    fields = tuple(message.received(field) for field in message.headers.all("received")[: limit + 1])
    hosts = [] if direct and fields else list(trusted)
    if fields and envelope.queue_id and fields[0].id == envelope.queue_id and fields[0].by not in hosts:
        hosts.append(fields[0].by)
    own = 0
    while own < len(fields) and (fields[own].by in hosts or (own and fields[own].by in _LOCALHOST)):
        own += 1
    border = next((field.by for field in reversed(fields[:own]) if field.by not in _LOCALHOST), "")
    return Passage(hosts=tuple(hosts), own=own, fields=fields, trusted=border in trusted)


def ours(message: Message, hops: Passage) -> tuple[Field, ...]:
    """The fields that hosts of ours may have written: those above the first Received that is not ours.

    None where the host at the border is not a `trusted` one. A sender can put a field there by sending no Received at all:
    a trusted host takes away what claims to be its own (RFC 8601 5), and that is what trusting it means.
    """
    if not hops.trusted:
        return ()
    received = 0
    for at, field in enumerate(message.headers.fields):
        received += field.name == "received"
        if received > hops.own:
            return message.headers.fields[:at]
    return message.headers.fields
