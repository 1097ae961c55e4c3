"""What the soak sends: a message for each number, the same for the same seed, and what may become of it.

Promises: each message has a key, a body and a Message-ID of its own, and a digest in its head by which the app knows whether
it came whole. `KINDS` says of each kind who may have it in the end.
Never: sends anything to a domain outside the documentation's (RFC 2606).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Final

from gatepost.keys.outgoing import fill
from gatepost.keys.signed import mint
from tests.installation import DOMAIN, KEY_ID, SECRET

__all__ = ["FATES", "KINDS", "ROUTES", "SENDERS", "Kind", "Letter", "letter", "number_of"]

#: Routes alike, each with an address of its own, so that `transport_maps` can send a part of the mail by each rung.
ROUTES: Final = tuple(f"desk{number}" for number in range(10))
#: The domain of all senders; a bounce that comes back names the message by its local part.
SENDERS: Final = "sender.example.net"
#: Where a message may be in the end. `refused`: by a rule that has a name, at RCPT or behind the queue.
FATES: Final = ("handed over", "still queued", "parked", "discarded", "refused")


@dataclass(frozen=True)
class Kind:
    """`to`: good and bad recipients. `fates`: of each in turn; `rules`: under which it may be refused, parked or discarded."""

    name: str
    weight: int
    to: tuple[str, ...]
    fates: tuple[str, ...]
    rules: tuple[str, ...] = ()
    head: str = ""
    null_sender: bool = False
    large: bool = False


KINDS: Final = (
    Kind("a reply", 58, ("key",), ("handed over",)),
    Kind("to two", 12, ("key", "key"), ("handed over", "handed over")),
    Kind("large", 2, ("key",), ("handed over",), large=True),
    Kind("to two, one key is bad", 4, ("key", "forged"), ("handed over", "refused"), ("key-forged",)),
    Kind("a forged key", 4, ("forged",), ("refused",), ("key-forged",)),
    Kind("no key", 2, ("unknown",), ("refused",), ("key-unknown",)),
    Kind("no key, null sender", 2, ("unknown",), ("parked",), ("key-unknown",), null_sender=True),
    Kind("no such address", 2, ("nobody",), ("refused",)),
    Kind("a vacation reply", 3, ("key",), ("discarded",), ("automatic",), "Auto-Submitted: auto-replied\n"),
    Kind("a loop", 2, ("key",), ("discarded",), ("loop",), f"List-Id: <replies.{DOMAIN}>\n"),
    Kind("spam", 3, ("key",), ("refused",), ("spam",), "X-Spam-Flag: YES\n"),
    Kind("the app refuses it", 3, ("key",), ("refused",), ("app-refused",), "X-Soak-App: refuse\n"),
    Kind("the app cannot take it", 3, ("key",), ("parked",), ("app-cannot-take",), "X-Soak-App: cannot-take\n"),
)  # fmt: skip


@dataclass(frozen=True)
class Letter:
    """One message. `message_id`: with its angle brackets. `data`: LF line ends."""

    number: int
    kind: Kind
    sender: str
    recipients: tuple[str, ...]
    message_id: str
    data: bytes


def letter(seed: int, number: int, attempt: int = 0, *, to: tuple[str, ...] | None = None) -> Letter:
    """The message of that number. `attempt`: it is another message to everybody but the reader of `number`; `to`: only they.

    Every hundred numbers have each kind at least once.
    """
    chance = random.Random(f"{seed} {number}")
    weights = [kind.weight for kind in KINDS]
    kind = KINDS[number % 100] if number % 100 < len(KINDS) else chance.choices(KINDS, weights)[0]
    recipients = tuple(_address(form, f"{number}.{place}", chance) for place, form in enumerate(kind.to))
    message_id = f"<{number}.{attempt}.{seed}@{SENDERS}>"
    size = chance.randrange(200_000, 1_500_000) if kind.large else chance.choice((200, 1_000, 2_500, 5_000, 20_000))
    own = "X-Soak-App: " in kind.head
    text = (
        f"{kind.head * own}From: Person {number} <n{number}@{SENDERS}>\nTo: {recipients[0]}\nSubject: number {number}\n"
        f"Message-ID: {message_id}\nDate: Sat, 21 Nov 2026 12:00:00 +0000\n{kind.head * (not own)}"
        f"MIME-Version: 1.0\nContent-Type: text/plain\n\n{_body(chance, size)}"
    ).encode("ascii")
    digest = hashlib.sha256(text.replace(b"\n", b"\r\n")).hexdigest()
    sender = "" if kind.null_sender else f"n{number}@{SENDERS}"
    return Letter(number, kind, sender, to or recipients, message_id, f"X-Soak-Digest: {digest}\n".encode() + text)


def number_of(address: str) -> int:
    """Whose message it was, by its sender's address; -1 for any other."""
    local, _, domain = address.partition("@")
    return int(local[1:]) if domain == SENDERS and local[1:].isdigit() else -1


def _address(form: str, subject: str, chance: random.Random) -> str:
    if form == "nobody":
        return f"nobody.{subject}@{DOMAIN}"
    pattern = f"{chance.choice(ROUTES)}+%{{key}}@{DOMAIN}"
    if form == "unknown":
        return fill(pattern, f"nokey{subject.replace('.', 'x')}")
    secret = SECRET if form == "key" else f"not {SECRET}"
    return fill(pattern, mint(secret=secret.encode(), key_id=KEY_ID, domain=DOMAIN, subject=subject.encode()))


def _body(chance: random.Random, size: int) -> str:
    """Lines that a transport may get wrong: dots, empty ones, and one of more than 998 octets."""
    lines = ["Thank you.", ".", "..", "", chance.randbytes(8).hex(), "x" * chance.choice((1, 76, 1_200))]
    filler = chance.randbytes(37).hex()
    return "\n".join(lines + [filler] * (size // (len(filler) + 1))) + "\n"
