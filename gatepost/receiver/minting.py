"""Keys for the mail that the app sends, and what else that mail needs to be answered.

Promises: the format of docs/keys.md; what cannot be a key raises ValueError with the mend.
Never: keeps a secret.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, date, datetime
from typing import Final

from gatepost.keys import signed
from gatepost.keys.outgoing import Outgoing, domain_of, fill
from gatepost.keys.outgoing import outgoing as _outgoing

__all__ = ["mint_key", "outgoing"]

_DAY_ZERO: Final = date(2020, 1, 1)


def mint_key(
    *,
    address: str,
    secret: str,
    key_id: str,
    subject: str | bytes | uuid.UUID,
    expires: date | None = None,
    owner: str | None = None,
) -> str:
    """A signed key for the route's `address`, as in `reply+%{key}@in.example.com` (the domain goes into the key).

    `secret`: as in secrets.yml, the newest; `key_id`: the route's, by default its secret's name; `subject`: 1 to 16 bytes, text
    counts in UTF-8; `expires`: the last day (UTC) on which it is good; `owner`: the address that it is meant for. Raises
    ValueError, with the mend, also for an address whose part before @ would be over 64 octets.
    """
    key = signed.mint(
        secret=_secret(secret),
        key_id=key_id,
        domain=domain_of(address),
        subject=_subject(subject),
        expires=_days(expires),
        owner=owner,
    )
    fill(address, key)
    return key


def outgoing(
    *,
    address: str,
    secret: str,
    key_id: str,
    subject: str | bytes | uuid.UUID,
    expires: date | None = None,
    owner: str | None = None,
) -> Outgoing:
    """What one outgoing mail needs: key, Reply-To, a Message-ID of its own. Arguments and errors as in `mint_key`.

    Reply-To of a dedicated address (no placeholder) is that address: the reply is known by the Message-ID that it answers.
    """
    return _outgoing(
        address=address,
        secret=_secret(secret),
        key_id=key_id,
        subject=_subject(subject),
        expires=_days(expires),
        owner=owner,
        random=os.urandom(10),
    )


def _secret(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")


def _subject(subject: str | bytes | uuid.UUID) -> bytes:
    if isinstance(subject, uuid.UUID):
        return subject.bytes
    return subject.encode("utf-8", "surrogatepass") if isinstance(subject, str) else subject


def _days(expires: date | None) -> int | None:
    """Days since 2020-01-01; a moment with a time zone counts as its day in UTC."""
    if isinstance(expires, datetime):
        expires = (expires.astimezone(UTC) if expires.tzinfo else expires).date()
    return None if expires is None else (expires - _DAY_ZERO).days
