"""For the app's author: check that a webhook is gatepost's, read it, answer it, and mint keys for the mail that you send.

A webhook brings a message, or asks whether a key is alive (`ask:`, docs/ask.md).

Promises: nothing of a body is looked at before its signature is right; every error is a `ReceiverError` and carries what was
learned; fields that a later gatepost adds are ignored. Needs Python's standard library and gatepost.keys, no configuration.
Never: opens a connection or a file; logs; keeps state (telling a repeated id apart is the app's: docs/receiver.md).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import time
import uuid
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, cast

from gatepost.keys import signed
from gatepost.keys.outgoing import Outgoing, domain_of, fill
from gatepost.keys.outgoing import outgoing as _outgoing
from gatepost.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "KEY_CHECK",
    "MESSAGE_RECEIVED",
    "BodyError",
    "Envelope",
    "EventTypeError",
    "Finding",
    "HeaderError",
    "Headers",
    "Key",
    "KeyCheck",
    "Mailbox",
    "Message",
    "Outgoing",
    "Received",
    "ReceiverError",
    "SecretError",
    "Sender",
    "SignatureError",
    "Thread",
    "TimestampError",
    "accepted",
    "key_alive",
    "key_check",
    "mint_key",
    "outgoing",
    "received",
    "refuse",
    "verify_webhook",
]

MESSAGE_RECEIVED: Final = "message.received"
KEY_CHECK: Final = "key.check"
TOLERANCE: Final = 300  # seconds: Standard Webhooks' advice; an attempt is signed afresh, so retries are never late
_VERSION: Final = 1
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a mark, no secret
_MIN_SECRET: Final = 24  # bytes: Standard Webhooks asks for 24 to 64
_MAX_DIGITS: Final = 12  # of a timestamp in seconds: beyond the year 30,000
_DAY_ZERO: Final = date(2020, 1, 1)


class ReceiverError(Exception):
    """A request that is not, or not yet, gatepost's message. `id` is its webhook-id as sent, "" if none: not to be trusted."""

    def __init__(self, text: str, *, id: str = "") -> None:  # noqa: A002 - the header's own name
        super().__init__(text)
        self.id = id


class HeaderError(ReceiverError):
    """webhook-id, webhook-timestamp or webhook-signature is missing or malformed. `header` says which."""

    def __init__(self, text: str, *, header: str, id: str = "") -> None:  # noqa: A002
        super().__init__(text, id=id)
        self.header = header


class SignatureError(ReceiverError):
    """No signature fits any secret: not gatepost's, a changed body, or another secret. `tried`: (signatures, secrets)."""

    def __init__(self, text: str, *, id: str, tried: tuple[int, int]) -> None:  # noqa: A002
        super().__init__(text, id=id)
        self.tried = tried


class TimestampError(ReceiverError):
    """Rightly signed, but too long ago or in the future: a replay, or a clock that is wrong. `off`: seconds, past positive."""

    def __init__(self, text: str, *, id: str, timestamp: int, off: float) -> None:  # noqa: A002
        super().__init__(text, id=id)
        self.timestamp = timestamp
        self.off = off


class BodyError(ReceiverError):
    """Rightly signed, but not what this module can read. `path` is where in the body, such as `data.envelope.sender`."""

    def __init__(self, text: str, *, path: str, id: str = "") -> None:  # noqa: A002
        super().__init__(f"{path or 'body'}: {text}", id=id)
        self.path = path


class EventTypeError(BodyError):
    """An event of another type, such as `gatepost.probe`. `type` says which: answer 200 to those you do not know."""

    def __init__(self, *, type: str, id: str, wanted: str = MESSAGE_RECEIVED) -> None:  # noqa: A002
        super().__init__(f"{type} is not {wanted}: answer 200 to events that you do not know", path="type", id=id)
        self.type = type


class SecretError(ReceiverError, ValueError):
    """The app's own mistake: a webhook secret that is none."""


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


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secrets: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> Message:
    """Check a request by Standard Webhooks 1.0.0 and give what it carries.

    `headers` in any case; `body` as it came, not decoded and encoded again; `secrets`: one or several (while one rotates), each
    `whsec_` and base64; `tolerance` in seconds; `now` in Unix seconds, the clock's time if None. Raises HeaderError,
    SignatureError, TimestampError (answer 401 to these), BodyError (400), SecretError (your own set-up: 500).
    """
    keys = [_webhook_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise SecretError("no webhook secret: give at least one, whsec_ and base64")
    event_id = _header(headers, "webhook-id", id="")
    if "." in event_id:  # it separates id, timestamp and body in what is signed
        raise HeaderError("webhook-id has a dot", header="webhook-id", id=event_id)
    stamp = _header(headers, "webhook-timestamp", id=event_id)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _MAX_DIGITS):
        raise HeaderError("webhook-timestamp is not a number of seconds", header="webhook-timestamp", id=event_id)
    _check_signature(_header(headers, "webhook-signature", id=event_id), keys, event_id, stamp, body)
    off = (time.time() if now is None else now) - int(stamp)
    if abs(off) > tolerance:
        raise TimestampError(
            f"signed {off:.0f} seconds ago, {tolerance:.0f} are allowed: a replay, or a wrong clock",
            id=event_id,
            timestamp=int(stamp),
            off=off,
        )
    content = _content(body, event_id)
    return Message(id=event_id, timestamp=int(stamp), type=_text(content, "type", "", event_id), body=body, content=content)


def received(message: Message) -> Received:
    """The message that a webhook of type `message.received` carries; see `Message.received`."""
    if message.type != MESSAGE_RECEIVED:
        raise EventTypeError(type=message.type, id=message.id)
    return _Reader(message).received()


def key_check(message: Message) -> KeyCheck:
    """The question that a webhook of type `key.check` asks; see `Message.key_check`."""
    if message.type != KEY_CHECK:
        raise EventTypeError(type=message.type, id=message.id, wanted=KEY_CHECK)
    return _Reader(message).key_check()


def key_alive(alive: bool) -> bytes:
    """The body of a 200 answer (application/json) to a `key.check`. TypeError for anything but True and False: what a look-up
    gives that went wrong must not become a no, which refuses the mail for good.
    """
    if not isinstance(alive, bool):
        raise TypeError(f"alive is True or False, not {type(alive).__name__}: answer 503 where you do not know")
    return json.dumps({"alive": alive}).encode("ascii")


def refuse(text: str) -> bytes:
    """The body of a 200 answer (application/json) that refuses the message for good; a sender may see the text."""
    return json.dumps({"gatepost": "refuse", "text": text}).encode("ascii")


def accepted(id: str) -> bytes:  # noqa: A002 - the webhook's own name for it
    """The body of a 200 answer (application/json) that says you have the message: a sink with `confirm: true` waits for it."""
    return json.dumps({"gatepost": "accepted", "id": id}).encode("ascii")


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


def _webhook_key(secret: str) -> bytes:
    text = secret.strip()
    try:
        key = base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_SECRET_PREFIX) or len(key) < _MIN_SECRET:
        raise SecretError(f"a webhook secret is whsec_ and the base64 of {_MIN_SECRET} bytes or more")
    return key


def _header(headers: Mapping[str, str], name: str, *, id: str) -> str:  # noqa: A002
    for given, value in headers.items():
        if given.lower() == name:
            value = value.strip()
            if value:
                return value
    raise HeaderError(f"{name} is missing", header=name, id=id)


def _check_signature(header: str, keys: list[bytes], event_id: str, stamp: str, body: bytes) -> None:
    """Every signature against every key, in constant time; other versions than v1 are not ours to read."""
    signed_content = f"{event_id}.{stamp}.".encode("utf-8", "surrogateescape") + body
    expected = [base64.b64encode(hmac.digest(key, signed_content, "sha256")) for key in keys]
    given = [part[3:].encode("utf-8", "surrogateescape") for part in header.split() if part.startswith("v1,")]
    fits = False
    for mine in expected:
        for theirs in given:
            fits |= hmac.compare_digest(mine, theirs)
    if not fits:
        raise SignatureError(
            "no signature fits: not gatepost's, another secret, or the body is not the bytes that came",
            id=event_id,
            tried=(len(given), len(keys)),
        )


def _content(body: bytes, event_id: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"not JSON: {error}", path="", id=event_id) from None
    if not isinstance(content, dict):
        raise BodyError("not a JSON object", path="", id=event_id)
    return content


def _text(parent: Mapping[str, Any], name: str, path: str, event_id: str, default: str | None = None) -> str:
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
        return _text(parent, name, path, self._message.id, default)

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
