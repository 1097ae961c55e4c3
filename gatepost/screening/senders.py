"""Lists of senders: whom `sender.allow` and `sender.deny` name.

An entry is an address (`person@example.org`), a domain (`example.org`), everything below one (`.example.org`), or a network
(`192.0.2.0/24`), in lower case, as the configuration was checked.
Promises: total, whatever an address or client is.
Never: believes an address; whether it is authentic is another's question.
"""

from __future__ import annotations

from gatepost.client_address import numbers, within
from gatepost.mail.recipient import recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["named"]


def named(entries: tuple[str, ...], client_address: str, addresses: Iterable[str]) -> str:
    """The first entry that names the client or one of the addresses, "" where none does."""
    client = numbers(client_address)
    people = [recipient(address.strip("<>")) for address in addresses]
    forms = [(person.final_form, person.domain) for person in people if person.domain]
    for entry in entries:
        if "/" in entry:
            if client is not None and within(client, entry):
                return entry
        elif any(_is(entry, whole, domain) for whole, domain in forms):
            return entry
    return ""


def _is(entry: str, whole: str, domain: str) -> bool:
    if entry.startswith("."):
        return domain.endswith(entry)
    return entry in (whole, domain)
