"""The stamp: how the milter tells the door behind the queue what it saw, in a header field that nobody else can write.

    X-Gatepost-Stamp: v=1; t=TOKEN; q=QUEUE_ID; c=CLIENT; s=yes,mail-from; m=dmarc; b=MAC

The milter puts it on top of one Authentication-Results field. t: 16 random octets, hex, new for each message: what delivery
ids are made of. q, c: queue ID and client address when it was written. s: `none` where the sender was not checked (the client
is a trusted host), else verified (`yes`, `no`, `unknown`), and `temporary` and `mail-from` where they hold. m: the method that
said so. b: HMAC-SHA256 over the host id, all of that, MAIL FROM, the results below, From and the body.

Promises: `read` believes nothing that is not whole, ours, for this MAIL FROM, client, From and body; a stamp that came under
another queue ID (`postsuper -r` makes a new one) it returns as `moved`, and somebody must know its token.
Never: says anything of a recipient: every recipient sees the head.
"""

from __future__ import annotations

from gatepost.client_address import numbers
from gatepost.decision import Sender
from gatepost.digest import hmac_sha256, same, sha256
from gatepost.mail.message import STAMP
from gatepost.mail.recipient import recipient
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.decision import Envelope
    from gatepost.mail.message import Message

__all__ = ["FIELD", "RESULTS", "Stamp", "content_hash", "read", "write"]

#: The field's name as it is written.
FIELD: Final = "X-Gatepost-Stamp"
#: The field below it, whose value the MAC covers (RFC 8601).
RESULTS: Final = "Authentication-Results"

_NAMES: Final = ("v", "t", "q", "c", "s", "m", "b")
_TOKEN_DIGITS: Final = 32
_MAC_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
#: Empty lines are taken off so many at a time: a stranger may send millions.
_MANY_LINES: Final = b"\r\n" * 4_096
#: Longer than any that `write` makes: queue IDs have up to 20 octets, addresses 45.
_LONGEST: Final = 400
#: Fields that may stand between the two: a milter behind ours that inserts at place 1 (OpenDKIM, OpenDMARC) puts its own there.
_BETWEEN: Final = 10


class Stamp(Value):
    """What the milter saw. `sender`: None where it did not check. `results`: the value of the field below, unfolded.

    `moved`: the queue ID is another one now. `binding`: a keyed hash over MAIL FROM, client, From and body, which must be the
    same then.
    """

    token: str
    sender: Sender | None
    results: bytes
    moved: bool
    binding: bytes


def content_hash(message: Message) -> str:
    """SHA-256, in hex, of what the verdict on the sender is about: every From field, and the body.

    Without From a head that somebody has seen (a notice has it) would vouch for another. Of the body the empty lines at its end
    are left out: Postfix may add one to a message that has none.
    """
    start, end = message.headers.body_start, len(message.raw)
    for lines in (_MANY_LINES, b"\r\n"):
        while end - start >= len(lines) and message.raw.endswith(lines, start, end):
            end -= len(lines)
    written = [b" ".join(field.value.split()) for field in message.headers.all("from")]
    return sha256(*(b"%b\n" % each for each in written), b"\n", memoryview(message.raw)[start:end]).hex()


def write(
    key: bytes, host_id: str, *, token: str, queue_id: str, mail_from: str, client_address: str, sender: Sender | None,
    results: str, content: str,
) -> tuple[str, bytes]:  # fmt: skip
    """The field's value, and the binding. `key`: the store's secret; `results`: the field below; `content`: its hash."""
    fields = {"v": "1", "t": token, "q": queue_id, "c": _client(client_address), "s": _sender(sender),
              "m": sender.by.partition(" ")[0] if sender is not None else ""}  # fmt: skip
    text = "; ".join(f"{name}={value}" for name, value in fields.items())
    mac = _mac(key, host_id, text, mail_from, results, content)
    return f"{text};\r\n\tb={mac}", _binding(key, mail_from, fields["c"], content)


def read(key: bytes, host_id: str, message: Message, envelope: Envelope, authserv_id: str) -> Stamp | None:
    """The stamp of this message, or None where it has none that holds: the first field of that name, its results below it."""
    fields = message.headers.fields
    at = next((at for at, field in enumerate(fields) if field.name == STAMP), None)
    found = _fields(fields[at].value) if at is not None else None
    if at is None or found is None:
        return None
    content = content_hash(message)
    text = "; ".join(f"{name}={found[name]}" for name in _NAMES[:-1])
    below = (field.value for field in fields[at + 1 : at + 2 + _BETWEEN] if field.name == RESULTS.lower())
    macs = ((each, _mac(key, host_id, text, envelope.sender, each.decode("latin-1"), content)) for each in below)
    results = next((each for each, mac in macs if same(mac, found["b"])), None)
    if results is None:
        return None
    moved = found["q"] != envelope.queue_id
    if found["c"] != _client(envelope.client_address) and not (moved and numbers(envelope.client_address) is None):
        return None
    return Stamp(
        token=found["t"], sender=_read_sender(found["s"], found["m"], authserv_id), results=results, moved=moved,
        binding=_binding(key, envelope.sender, found["c"], content),
    )  # fmt: skip


def _fields(value: bytes) -> dict[str, str] | None:
    """The parts of a value, each once and in their order, in the form that `write` gives them."""
    if len(value) > _LONGEST or not value.isascii():
        return None
    parts = [part.strip().partition("=") for part in value.decode("ascii").split(";")]
    if tuple(name for name, _, _ in parts) != _NAMES:
        return None
    found = {name: text for name, _, text in parts}
    token, mac = found["t"], found["b"]
    if found["v"] != "1" or len(token) != _TOKEN_DIGITS or len(mac) != _MAC_DIGITS or not _HEX.issuperset(token + mac):
        return None
    return found


def _sender(sender: Sender | None) -> str:
    if sender is None:
        return "none"
    words = [sender.verified, "temporary" if sender.temporary else "", "mail-from" if sender.mail_from_verified else ""]
    return ",".join(word for word in words if word)


def _read_sender(text: str, method: str, authserv_id: str) -> Sender | None:
    verified, *words = text.split(",")
    if verified == "none":
        return None
    return Sender(
        verified="yes" if verified == "yes" else "no" if verified == "no" else "unknown",
        by=f"{method} {authserv_id}" if method else "",
        mail_from_verified="mail-from" in words,
        temporary="temporary" in words,
    )


def _client(address: str) -> str:
    """One form of one address, so that no spelling makes two."""
    known = numbers(address)
    if known is None:
        return "unknown"
    return ".".join(map(str, known)) if len(known) == 4 else ":".join(f"{group:x}" for group in known)


def _mac(key: bytes, host_id: str, text: str, mail_from: str, results: str, content: str) -> str:
    return _keyed(key, "stamp 1", host_id, text, _mail_from(mail_from), _one_line(results), content).hex()


def _binding(key: bytes, mail_from: str, client: str, content: str) -> bytes:
    return _keyed(key, "stamp binding 1", _mail_from(mail_from), client, content)


def _keyed(key: bytes, purpose: str, *parts: str) -> bytes:
    text = "\0".join((f"gatepost {purpose}", *parts))
    return hmac_sha256(key, text.encode("utf-8", "surrogatepass"))


def _one_line(results: str) -> str:
    """However it is folded (RFC 5322 2.2.3); of other characters each counts."""
    return b" ".join(results.encode("utf-8").split()).decode("utf-8")


def _mail_from(address: str) -> str:
    return recipient(address.removeprefix("<").removesuffix(">")).final_form
