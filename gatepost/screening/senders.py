"""Lists of senders: whom `sender.allow` and `sender.deny` name.

An entry is an address (`person@example.org`), a domain (`example.org`), everything below one (`.example.org`), or a network
(`192.0.2.0/24`), in lower case and A-labels, as the configuration was checked.
Promises: total, whatever an address or client is.
Never: believes an address; whether it is authentic is another's question.
"""

from __future__ import annotations

from gatepost.client_address import numbers, within
from gatepost.mail.recipient import recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

__all__ = ["named"]

#: Characters of a domain (RFC 1035 2.3.4).
_LONGEST: Final = 253


def named(entries: tuple[str, ...], client_address: str, addresses: Iterable[str]) -> str:
    """The first entry that names the client or one of the addresses, "" where none does."""
    client = numbers(client_address)
    people = [recipient(address.strip("<>")) for address in addresses]
    forms = [
        (f"{person.final_form.removesuffix(person.domain)}{domain}", domain)
        for person in people
        if person.domain
        for domain in dict.fromkeys((person.domain, _a_labels(person.domain)))
    ]
    for entry in entries:
        if "/" in entry and "@" not in entry:
            if client is not None and within(client, entry):
                return entry
        elif any(_is(entry, whole, domain) for whole, domain in forms):
            return entry
    return ""


def _a_labels(domain: str) -> str:
    """The domain as entries have it (RFC 5890 2.3.2.1); as it is where it is ASCII, or no name that DNS could have."""
    if domain.isascii() or len(domain) > _LONGEST:
        return domain
    labels = [label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}" for label in domain.split(".")]
    return ".".join(labels)


def _is(entry: str, whole: str, domain: str) -> bool:
    if entry.startswith("."):
        return domain.endswith(entry)
    return entry in (whole, domain)
