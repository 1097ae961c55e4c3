"""Whom a message was meant for, where it comes without an envelope: from a mailbox elsewhere, or from a file.

Promises: every address of ours that the fields of `discovery:` name, in that order, one delivery each; where none does, the
thread that the message answers, by a key in a Message-ID of ours.
Never: asked where Postfix knows the recipient. Then no header decides.
"""

from __future__ import annotations

from gatepost.keys.keyring import check
from gatepost.keys.outgoing import fill
from gatepost.keys.reply_ids import readings
from gatepost.mail.mailboxes import mailboxes
from gatepost.mail.received import received
from gatepost.mail.recipient import recipient
from gatepost.policy import key_domains, route_for
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from gatepost.mail.message import Message
    from gatepost.settings import Settings

__all__ = ["Discovered", "discover"]

#: Message-IDs that are tried: a stranger may name hundreds, and each costs a key check for each route.
_PARENTS: Final = 50


class Discovered(Value):
    """One delivery: the recipient in its final form, its route, and the field that names it."""

    recipient: str
    route: str
    found_in: str


def discover(message: Message, settings: Settings, *, now: float) -> tuple[Discovered, ...]:
    """Every delivery that this message asks for; () where it names nobody of ours. `now`: Unix seconds."""
    found: dict[str, Discovered] = {}
    for title, address in _named(message, settings.discovery):
        to = recipient(address)
        route, _ = route_for(to, settings)
        if route is not None and to.final_form not in found:
            found[to.final_form] = Discovered(recipient=to.final_form, route=route.name, found_in=title)
    return tuple(found.values()) or _by_thread(message, settings, now)


def _named(message: Message, fields: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Field and address of everything that these fields name; no more than `parser.addresses` in all."""
    left = message.limits.addresses
    for title in fields:
        for field in message.headers.all(title.lower()):
            if title.lower() == "received":  # RFC 5321 4.4: the recipient, where there was one alone
                addresses = [received(field.value).for_]
            else:
                addresses = [mailbox.address for mailbox in mailboxes(field.value, left).list]
            for address in addresses:
                if left <= 0:
                    return
                left -= 1
                if address:
                    yield title, address


def _by_thread(message: Message, settings: Settings, now: float) -> tuple[Discovered, ...]:
    """The address whose key stands in a Message-ID that the message answers; for a dedicated route its own."""
    for found_in, message_id in message.answers[:_PARENTS]:
        for key, domain in readings(message_id):
            for route in settings.routes:
                keys = route.keys
                # Of the formats that cannot tell, a key that anybody made up would choose the recipient.
                if keys is None or keys.format != "signed":
                    continue
                if domain not in key_domains(route):
                    continue
                if check(keys, key, domain, now=now).result in ("live", "expired"):
                    return (Discovered(recipient=fill(route.address, key), route=route.name, found_in=found_in),)
    return ()
