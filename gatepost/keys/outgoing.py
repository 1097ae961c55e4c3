"""What a mail that an app sends needs, so that the reply comes back: the address with its key, Reply-To and Message-ID.

Promises: an address that would not fit a local part is refused here, when it is made, and not by a stranger's mail server.
Never: sends anything, or makes randomness: it is an argument.
"""

from __future__ import annotations

from gatepost.keys import reply_ids, signed
from gatepost.value import Value

__all__ = ["Outgoing", "domain_of", "fill", "outgoing"]

_PLACEHOLDER = "%{key}"
_MAX_LOCAL_PART = 64  # octets: RFC 5321 section 4.5.3.1.1
_TAG_AND_HEAD = 11
_OWNER = 4
_EXPIRY = 2


class Outgoing(Value):
    """What the outgoing mail needs. `reply_to` is the address with the key, or a dedicated route's own address.

    `message_id` has its brackets and is for one mail: make another value, with the same key or a new one, for the next.
    """

    key: str
    reply_to: str
    message_id: str
    domain: str


def outgoing(
    *,
    address: str,
    secret: bytes,
    key_id: str,
    subject: bytes,
    random: bytes,
    expires: int | None = None,
    owner: str | None = None,
) -> Outgoing:
    """Mint a key for a route's `address` (`reply+%{key}@in.example.com`, or a dedicated one without placeholder).

    `random`: 8 bytes or more, new for each mail. The rest as in `signed.mint`. Raises ValueError with the mend.
    """
    domain = domain_of(address)
    key = signed.mint(secret=secret, key_id=key_id, domain=domain, subject=subject, expires=expires, owner=owner)
    return Outgoing(
        key=key,
        reply_to=fill(address, key),
        message_id=reply_ids.mint(key, random, domain),
        domain=domain,
    )


def domain_of(address: str) -> str:
    """The domain that the keys of a route's address are signed for, in lower case. Raises ValueError where there is none."""
    local_part, _, domain = address.rpartition("@")
    if not local_part or not domain:
        raise ValueError(f"address {address!r}: give the route's address, as in reply+%{{key}}@in.example.com")
    return domain.lower()


def fill(address: str, key: str) -> str:
    """A route's address with the key in its place; an address without a placeholder as it is.

    Raises ValueError where the local part would exceed 64 octets: the text says how many bytes are left for the subject.
    """
    pattern, _, domain = address.replace("%s", _PLACEHOLDER).rpartition("@")
    if pattern.count(_PLACEHOLDER) > 1:
        raise ValueError(f"address {address!r}: a key can stand in one place only")
    local_part = pattern.replace(_PLACEHOLDER, key)
    octets = len(local_part.encode("utf-8", "surrogatepass"))
    if octets > _MAX_LOCAL_PART:
        room = _MAX_LOCAL_PART - (octets - len(key) * (_PLACEHOLDER in pattern))
        raise ValueError(
            f"{local_part}@{domain}: the part before @ would have {octets} octets, {_MAX_LOCAL_PART} are allowed "
            f"(RFC 5321 section 4.5.3.1.1). {_mend(room)}"
        )
    return f"{local_part}@{domain}"


def _mend(room: int) -> str:
    """What a subject may have in `room` characters, by what else the key carries."""
    plain = room * 5 // 8 - _TAG_AND_HEAD
    if plain < 1:
        return f"{max(room, 0)} are left for the key, a key has 20 or more: shorten the route's address"
    also = (0, _EXPIRY, _OWNER, _EXPIRY + _OWNER)
    left, expiry, owner, both = (min(max(plain - each, 0), signed.MAX_SUBJECT) for each in also)
    return (
        f"{left} bytes are left for the subject ({expiry} with an expiry, {owner} with an owner, {both} with both): "
        "use a shorter subject or a shorter address"
    )
