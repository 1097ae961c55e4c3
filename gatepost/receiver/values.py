"""What a webhook says, field by field (docs/webhook.md): values, as they came.

Promises: names are the body's own, `from_` apart; what a field of a later gatepost adds is in `data`.
Never: judges: what a stranger wrote is in here as it was written.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

from gatepost.keys import signed
from gatepost.value import Value

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "Envelope",
    "Finding",
    "Headers",
    "Key",
    "KeyCheck",
    "Mailbox",
    "Received",
    "Sender",
    "Thread",
]


class Key(Value):
    """The key that the message came, or wants to come, to. `subject` as text; `subject_bytes` is what was minted."""

    raw: str
    subject: str
    options: tuple[str, ...] = ()
    kind: str = ""

    @property
    def subject_bytes(self) -> bytes:
        """The subject as it was given to `mint_key`; ValueError for a key of another app's format."""
        return signed.subject_bytes(self.subject)

    @property
    def subject_uuid(self) -> uuid.UUID:
        """The subject as the UUID that was given to `mint_key`; ValueError where it has not 16 bytes."""
        return uuid.UUID(bytes=self.subject_bytes)


class Thread(Value):
    """Which mail of yours this answers: the header field that names it, and that Message-ID with its brackets."""

    found_in: str
    parent_message_id: str


class Sender(Value):
    """Who wrote it, by the From field. Believe `address` only where `verified` is "yes"; `by` says who vouches for it."""

    address: str
    name: str = ""
    verified: Literal["yes", "no", "unknown"] = "unknown"
    by: str = ""


class Envelope(Value):
    """What Postfix knew (RFC 5321). `sender` is "" for the null reverse-path."""

    sender: str
    recipient: str
    original_recipient: str = ""
    client_address: str = ""
    helo: str = ""
    queue_id: str = ""


class Mailbox(Value):
    """One mailbox of an address field (RFC 5322 section 3.4), its name decoded."""

    address: str
    name: str = ""


class Headers(Value):
    """What the message's own head says; anybody can write anything there. `date` is the field's text.

    `sha256` is of the message without what our own hosts put in front, so it is equal for one message through two hosts.
    """

    message_id: str = ""
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    subject: str = ""
    from_: tuple[Mailbox, ...] = ()
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    date: str = ""
    sha256: str = ""


class Finding(Value):
    """Something that was noticed about the message, and on what evidence."""

    slug: str
    family: str
    evidence: str = ""
    strength: str = "alone"


class Received(Value):
    """A message for one recipient. `raw` is the mail itself, CRLF line ends. `timestamp`: when it was first seen (UTC).

    `data` is the webhook's data object whole, with what this class does not name.
    """

    id: str
    version: int
    timestamp: datetime
    route: str
    key: Key | None
    thread: Thread | None
    sender: Sender
    envelope: Envelope
    authentication: dict[str, Any] | None
    message: Headers
    findings: tuple[Finding, ...]
    limits_hit: tuple[str, ...]
    raw: bytes
    data: dict[str, Any]


class KeyCheck(Value):
    """A question: is this key alive? Answer 200 with `key_alive`. `id`: another each time. `timestamp`: when asked (UTC).

    `domain`: of the address that somebody writes to. `data` is the webhook's data object whole.
    """

    id: str
    version: int
    timestamp: datetime
    route: str
    domain: str
    key: Key
    data: dict[str, Any]
