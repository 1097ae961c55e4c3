"""A webhook whose signature is right, and what it says: a message that was received, or a question about a key.

Promises: every field that is not as docs/webhook.md has it is a `BodyError` with its path; fields that a later gatepost adds
are passed over.
Never: sees a request whose signature was not looked at: `verify_webhook` makes the `Message`.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, cast

from gatepost.receiver.errors import BodyError, EventTypeError
from gatepost.receiver.values import Envelope, Finding, Headers, Key, KeyCheck, Mailbox, Received, Sender, Thread
from gatepost.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KEY_CHECK", "MESSAGE_RECEIVED", "Message", "key_check", "received", "text_of"]

MESSAGE_RECEIVED: Final = "message.received"
KEY_CHECK: Final = "key.check"
_VERSION: Final = 1


class Message(Value):
    """A webhook whose signature is right: of any type. `received` makes a `Received` of it, `key_check` a `KeyCheck`.

    `id`: the same on each retry. `timestamp`: of this attempt, Unix seconds. `content`: the whole body, decoded.
    """

    id: str
    timestamp: int
    type: str
    body: bytes
    content: dict[str, Any]

    def received(self) -> Received:
        """The message that was received. Raises EventTypeError for another type of event, BodyError for an unreadable body."""
        return received(self)

    def key_check(self) -> KeyCheck:
        """The question that was asked. Raises EventTypeError for another type of event, BodyError for an unreadable body."""
        return key_check(self)


def received(message: Message) -> Received:
    """The message that a webhook of type `message.received` carries; see `Message.received`."""
    if message.type != MESSAGE_RECEIVED:
        raise EventTypeError(type=message.type, id=message.id, wanted=MESSAGE_RECEIVED)
    return _Reader(message).received()


def key_check(message: Message) -> KeyCheck:
    """The question that a webhook of type `key.check` asks; see `Message.key_check`."""
    if message.type != KEY_CHECK:
        raise EventTypeError(type=message.type, id=message.id, wanted=KEY_CHECK)
    return _Reader(message).key_check()


def text_of(parent: Mapping[str, Any], name: str, path: str, event_id: str, default: str | None = None) -> str:
    """A field that is text. BodyError for another kind, and where it is missing without a `default`."""
    value = parent.get(name, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str):
        raise BodyError(f"text expected, not {type(value).__name__}", path=f"{path}{name}", id=event_id)
    return value


class _Reader:
    """Reads one data object. Each method names the path that it reads, for the error."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._data = self._object(message.content, "data", "")

    def received(self) -> Received:
        data, path = self._data, "data."
        self._check_version()
        authentication = data.get("authentication")
        return Received(
            id=self._text(data, "id", path),
            version=_VERSION,
            timestamp=self._timestamp(),
            route=self._text(data, "route", path),
            key=self._key(),
            thread=self._thread(),
            sender=self._sender(),
            envelope=self._envelope(),
            message=self._headers(),
            findings=self._findings(),
            limits_hit=self._texts(data, "limits_hit", path),
            raw=self._raw(),
            data=data,
            authentication=None if authentication is None else self._object(data, "authentication", path),
        )

    def key_check(self) -> KeyCheck:
        data, path = self._data, "data."
        self._check_version()
        key = self._key()
        if key is None:
            self._fail("data.key", "object expected")
        return KeyCheck(
            id=self._message.id,
            version=_VERSION,
            timestamp=self._timestamp(),
            route=self._text(data, "route", path),
            domain=self._text(data, "domain", path),
            key=key,
            data=data,
        )

    def _check_version(self) -> None:
        version = self._data.get("version")
        if version != _VERSION:
            self._fail("data.version", f"this module reads version {_VERSION}, not {version!r}: update gatepost")

    def _timestamp(self) -> datetime:
        text = self._text(self._message.content, "timestamp", "")
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                self._fail("timestamp", f"has no offset from UTC: {text!r}")
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self._fail("timestamp", f"not a time by RFC 3339: {text!r}")

    def _key(self) -> Key | None:
        if self._data.get("key") is None:
            return None
        key, path = self._object(self._data, "key", "data."), "data.key."
        return Key(
            raw=self._text(key, "raw", path),
            subject=self._text(key, "subject", path, ""),
            kind=self._text(key, "kind", path, ""),
            options=self._texts(key, "options", path),
        )

    def _thread(self) -> Thread | None:
        if self._data.get("thread") is None:
            return None
        thread, path = self._object(self._data, "thread", "data."), "data.thread."
        return Thread(
            found_in=self._text(thread, "found_in", path, ""), parent_message_id=self._text(thread, "parent_message_id", path)
        )

    def _sender(self) -> Sender:
        sender, path = self._object(self._data, "sender", "data."), "data.sender."
        verified = self._text(sender, "verified", path, "unknown")
        if verified not in ("yes", "no"):  # a word that this version does not know vouches for nobody
            verified = "unknown"
        return Sender(
            address=self._text(sender, "address", path, ""),
            name=self._text(sender, "name", path, ""),
            verified=cast("Literal['yes', 'no', 'unknown']", verified),
            by=self._text(sender, "by", path, ""),
        )

    def _envelope(self) -> Envelope:
        envelope, path = self._object(self._data, "envelope", "data."), "data.envelope."
        optional = ("original_recipient", "client_address", "helo", "queue_id")
        return Envelope(
            sender=self._text(envelope, "sender", path),
            recipient=self._text(envelope, "recipient", path),
            **{name: self._text(envelope, name, path, "") for name in optional},
        )

    def _headers(self) -> Headers:
        head, path = self._object(self._data, "message", "data."), "data.message."
        return Headers(
            message_id=self._text(head, "message_id", path, ""),
            in_reply_to=self._texts(head, "in_reply_to", path),
            references=self._texts(head, "references", path),
            subject=self._text(head, "subject", path, ""),
            from_=self._mailboxes(head, "from", path),
            to=self._mailboxes(head, "to", path),
            cc=self._mailboxes(head, "cc", path),
            date=self._text(head, "date", path, ""),
            sha256=self._text(head, "sha256", path, ""),
        )

    def _findings(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(
                slug=self._text(each, "slug", path),
                family=self._text(each, "family", path, ""),
                strength=self._text(each, "strength", path, "alone"),
                evidence=self._text(each, "evidence", path, ""),
            )
            for each, path in self._objects(self._data, "findings", "data.")
        )

    def _mailboxes(self, parent: Mapping[str, Any], name: str, path: str) -> tuple[Mailbox, ...]:
        return tuple(
            Mailbox(address=self._text(each, "address", at, ""), name=self._text(each, "name", at, ""))
            for each, at in self._objects(parent, name, path)
        )

    def _raw(self) -> bytes:
        try:
            return base64.b64decode(self._text(self._data, "raw", "data."), validate=True)
        except ValueError as error:
            self._fail("data.raw", f"not base64: {error}")

    def _text(self, parent: Mapping[str, Any], name: str, path: str, default: str | None = None) -> str:
        return text_of(parent, name, path, self._message.id, default)

    def _texts(self, parent: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
        texts = self._list(parent, name, path)
        for at, each in enumerate(texts):
            if not isinstance(each, str):
                self._fail(f"{path}{name}[{at}]", f"text expected, not {type(each).__name__}")
        return tuple(texts)

    def _objects(self, parent: Mapping[str, Any], name: str, path: str) -> list[tuple[dict[str, Any], str]]:
        """Each object of a list, with its path."""
        objects = self._list(parent, name, path)
        for at, each in enumerate(objects):
            if not isinstance(each, dict):
                self._fail(f"{path}{name}[{at}]", f"object expected, not {type(each).__name__}")
        return [(each, f"{path}{name}[{at}].") for at, each in enumerate(objects)]

    def _list(self, parent: Mapping[str, Any], name: str, path: str) -> list[Any]:
        value = parent.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._fail(f"{path}{name}", f"list expected, not {type(value).__name__}")
        return value

    def _object(self, parent: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
        value = parent.get(name)
        if not isinstance(value, dict):
            self._fail(f"{path}{name}", f"object expected, not {type(value).__name__}")
        return value

    def _fail(self, path: str, text: str) -> NoReturn:
        raise BodyError(text, path=path, id=self._message.id)
