"""One message: raw, its head, and what its fields say, each read when it is asked for.

Promises: `parse` and everything on a `Message` is bounded by `ParserLimits`; what the limits cut is named in `limits_hit`.
Never: raises for what a message contains; looks into the body; changes raw.
"""

from __future__ import annotations

from gatepost.digest import sha256
from gatepost.mail.content import ContentType, content_type
from gatepost.mail.headers import Headers, scan
from gatepost.mail.mailboxes import Mailbox, Mailboxes, mailboxes
from gatepost.mail.message_ids import message_ids
from gatepost.mail.received import received
from gatepost.mail.tokens import ATOM, QUOTED, tokens
from gatepost.mail.words import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.mail.headers import Field
    from gatepost.mail.received import Received
    from gatepost.settings import ParserLimits

__all__ = ["LIMIT_FLAGS", "PROBE", "STAMP", "Mailbox", "Mailboxes", "Message", "parse"]

#: The flags that say that a limit cut something: its name in `ParserLimits` stands behind it.
LIMIT_FLAGS: Final[dict[str, str]] = {
    "field-too-long": "field_bytes",
    "header-too-large": "header_bytes",
    "too-many-addresses": "addresses",
    "too-many-fields": "header_fields",
    "too-many-parameters": "parameters",
    "too-many-references": "references",
}

#: The field by which one host of ours tells another what it has seen, as `Field.name` spells it.
STAMP: Final = "x-gatepost-stamp"
#: The field with the token of `gatepost doctor --chain`.
PROBE: Final = "x-gatepost-probe"


class Message:
    """A message in canonical form (`canonical.crlf`). Text is for display; addresses and Message-IDs are as written."""

    __slots__ = ("_flags", "_read", "_received", "headers", "limits", "raw")

    def __init__(self, raw: bytes, headers: Headers, limits: ParserLimits) -> None:
        self.raw = raw
        self.headers = headers
        self.limits = limits
        self._read: dict[str, Mailboxes] = {}
        self._received: dict[int, Received] = {}
        self._flags: tuple[str, ...] | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Everything strange about the head (`headers.FLAGS`, `LIMIT_FLAGS`), sorted, unique."""
        if self._flags is None:
            self._flags = self._look_at_everything()
        return self._flags

    def _look_at_everything(self) -> tuple[str, ...]:
        found = set(self.headers.flags)
        if any("too-many" in each.flags for each in (self.from_, self.to, self.cc)):
            found.add("too-many-addresses")
        if "too-many" in self.content_type.flags:
            found.add("too-many-parameters")
        if len(self._ids("references", self.limits.references + 1)) > self.limits.references:
            found.add("too-many-references")
        return tuple(sorted(found))

    @property
    def limits_hit(self) -> tuple[str, ...]:
        """The flags that say that a limit cut something."""
        return tuple(flag for flag in self.flags if flag in LIMIT_FLAGS)

    @property
    def message_id(self) -> str:
        """The first Message-ID, with its brackets; "" where there is none."""
        for field in self.headers.all("message-id"):
            found = message_ids(field.value, self.limits.references)
            if found:
                return found[0]
        return ""

    @property
    def in_reply_to(self) -> tuple[str, ...]:
        """The Message-IDs of In-Reply-To; the last `limits.references`."""
        return self._ids("in-reply-to", self.limits.references)

    @property
    def references(self) -> tuple[str, ...]:
        """The Message-IDs of References; the last `limits.references`, where the nearest ancestors stand."""
        return self._ids("references", self.limits.references)

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """The messages that this one answers, the nearest first: the field's name and the Message-ID (RFC 5322 3.6.4)."""
        return (
            *(("In-Reply-To", each) for each in reversed(self.in_reply_to)),
            *(("References", each) for each in reversed(self.references)),
        )

    @property
    def subject(self) -> str:
        """The first Subject, decoded; "" where there is none."""
        return self._text("subject")

    @property
    def date(self) -> str:
        """The first Date as written; "" where there is none."""
        return self._text("date")

    @property
    def from_(self) -> Mailboxes:
        """The mailboxes of every From field (RFC 5322 3.6 allows one)."""
        return self._mailboxes("from")

    @property
    def to(self) -> Mailboxes:
        """The mailboxes of every To field."""
        return self._mailboxes("to")

    @property
    def cc(self) -> Mailboxes:
        """The mailboxes of every Cc field."""
        return self._mailboxes("cc")

    @property
    def content_type(self) -> ContentType:
        """The first Content-Type; text/plain where there is none (RFC 2045 5.2)."""
        field = self.headers.first("content-type")
        if field is None:
            return ContentType(type="text/plain", parameters=(), flags=())
        return content_type(field.value, self.limits.parameters)

    def received(self, field: Field) -> Received:
        """What one of its Received fields says; each is read once."""
        if field.start not in self._received:
            self._received[field.start] = received(field.value)
        return self._received[field.start]

    def sha256(self, own_hosts: tuple[str, ...]) -> str:
        """Hex SHA-256 of raw without what our own hosts put in front: the same when the message came through two of them.

        Left out are, from the top, Received fields whose `by` is one of `own_hosts` (lower case), Authentication-Results of
        theirs (RFC 8601 2.5) and our stamp, up to the first other line.
        """
        hosts = {host.removesuffix(".") for host in own_hosts}
        start = 0
        for field in self.headers.fields:
            if field.start != start or not self._is_ours(field, hosts):
                break
            start = field.end
        return sha256(memoryview(self.raw)[start:]).hex()

    def _is_ours(self, field: Field, hosts: set[str]) -> bool:
        """Did a host of ours put this field in front?"""
        if field.name == "received":
            return self.received(field).by in hosts
        if field.name == "authentication-results":
            return _authserv_id(field.value) in hosts
        return field.name == STAMP

    def _text(self, name: str) -> str:
        field = self.headers.first(name)
        return "" if field is None else text(field.value)

    def _ids(self, name: str, limit: int) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        for field in self.headers.all(name):
            found = (found + message_ids(field.value, limit))[-limit:]
        return found

    def _mailboxes(self, name: str) -> Mailboxes:
        if name not in self._read:
            self._read[name] = self._read_mailboxes(name)
        return self._read[name]

    def _read_mailboxes(self, name: str) -> Mailboxes:
        found: list[Mailbox] = []
        flags: set[str] = set()
        for field in self.headers.all(name):
            part = mailboxes(field.value, self.limits.addresses - len(found))
            found.extend(part.list)
            flags.update(part.flags)
            if "too-many" in flags:
                break
        return Mailboxes(list=tuple(found), flags=tuple(sorted(flags)))


def parse(raw: bytes, limits: ParserLimits) -> Message:
    """The message that `raw`, canonical, holds. Reads the head only."""
    return Message(raw, scan(raw, limits), limits)


def _authserv_id(value: bytes) -> str:
    """Who says so: the first token of Authentication-Results (RFC 8601 2.2), lower case, no final dot; "" for none."""
    for kind, word, _ in tokens(value, b";"):
        if kind in (ATOM, QUOTED):
            return word.lower().removesuffix(".")
        if kind == ";":
            break
    return ""
