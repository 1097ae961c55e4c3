"""gatepost.receiver: signatures, timestamps, bodies, answers and minting, as an app's author sees them.

Promises: requests are signed here by the standard's formula, not by our sender; one row is the standard's own vector.
Never: asks the clock, but in the one test that says so.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import io
import json
import re
import subprocess
import sys
import time
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost import receiver
from gatepost.keys import reply_ids, signed
from gatepost.receiver import (
    BodyError,
    EventTypeError,
    HeaderError,
    ReceiverError,
    SecretError,
    SignatureError,
    TimestampError,
    verify_webhook,
)

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "receiver.md").read_text(encoding="utf-8")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes here!").decode()
NOW = 1_795_262_400
RAW = b"From: person@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n\xff\x00 hello\r\n"
DATA: dict[str, Any] = {
    "version": 1,
    "id": "5f" * 32,
    "route": "replies",
    "key": {"raw": "ca2dfld6i5z3mdipdacta", "subject": "42", "options": []},
    "thread": {"found_in": "References", "parent_message_id": "<reply-k.00@in.example.com>"},
    "sender": {"address": "person@example.org", "name": "A Person", "verified": "yes", "by": "mx.example.com"},
    "envelope": {
        "sender": "bounce@example.org",
        "recipient": "reply+k@in.example.com",
        "original_recipient": "reply+K@in.example.com",
        "client_address": "192.0.2.1",
        "helo": "mail.example.org",
        "queue_id": "4jWl4Z5tH8zJv6D",
    },
    "authentication": None,
    "message": {
        "message_id": "<1@example.org>",
        "in_reply_to": ["<reply-k.00@in.example.com>"],
        "references": ["<0@x>", "<1@x>"],
        "subject": "Grüße",
        "from": [{"address": "person@example.org", "name": "A Person"}],
        "to": [{"address": "reply+k@in.example.com", "name": ""}],
        "cc": [],
        "date": "Sat, 21 Nov 2026 12:00:00 +0000",
        "sha256": "ab" * 32,
    },
    "findings": [{"slug": "auto-submitted", "family": "automatic", "evidence": "auto-replied"}],
    "limits_hit": ["too-many-references"],
    "raw": base64.b64encode(RAW).decode(),
}
CONTENT: dict[str, Any] = {"type": "message.received", "timestamp": "2026-11-21T12:00:00Z", "data": DATA}
BODY = json.dumps(CONTENT).encode()


def signature(secret: str, event_id: str, stamp: str, body: bytes) -> str:
    """By Standard Webhooks 1.0.0: base64 of HMAC-SHA256 over id, timestamp and body with dots between."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, f"{event_id}.{stamp}.".encode() + body, "sha256")).decode()


def headers(body: bytes = BODY, secret: str = SECRET, stamp: str = str(NOW), event_id: str = "5f" * 32) -> dict[str, str]:
    return {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": signature(secret, event_id, stamp, body)}


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The whole body with one field changed, or taken out (`to` is ...)."""
    content: dict[str, Any] = json.loads(BODY)
    parent: Any = content
    for step in path[:-1]:
        parent = parent[step]
    if to is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = to
    return content


def read(content: Any) -> receiver.Received:
    body = json.dumps(content).encode()
    return verify_webhook(headers(body), body, SECRET, now=NOW).received()


def test_the_standards_own_vector() -> None:
    """The vector of Standard Webhooks verifies."""
    sent = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    with pytest.raises(BodyError, match="type: text expected"):  # the signature is right; the body is no event of ours
        verify_webhook(sent, b'{"test": 2432232314}', SECRET, now=1_614_265_330)
    with pytest.raises(SignatureError):
        verify_webhook(sent, b'{"test": 2432232315}', SECRET, now=1_614_265_330)


def test_a_message() -> None:
    """Every field of the webhook can be read by name."""
    message = verify_webhook(headers(), BODY, SECRET, now=NOW)
    assert (message.id, message.timestamp, message.type, message.body) == ("5f" * 32, NOW, "message.received", BODY)
    mail = message.received()
    assert (mail.id, mail.version, mail.route) == ("5f" * 32, 1, "replies")
    assert mail.timestamp == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert mail.key is not None
    assert (mail.key.raw, mail.key.subject, mail.key.options) == ("ca2dfld6i5z3mdipdacta", "42", ())
    assert mail.thread == receiver.Thread(found_in="References", parent_message_id="<reply-k.00@in.example.com>")
    assert mail.sender == receiver.Sender(**DATA["sender"])
    assert mail.envelope == receiver.Envelope(**DATA["envelope"])
    assert mail.authentication is None
    assert mail.message == receiver.Headers(
        message_id="<1@example.org>",
        in_reply_to=("<reply-k.00@in.example.com>",),
        references=("<0@x>", "<1@x>"),
        subject="Grüße",
        from_=(receiver.Mailbox(address="person@example.org", name="A Person"),),
        to=(receiver.Mailbox(address="reply+k@in.example.com"),),
        cc=(),
        date="Sat, 21 Nov 2026 12:00:00 +0000",
        sha256="ab" * 32,
    )
    assert mail.findings == (receiver.Finding(slug="auto-submitted", family="automatic", evidence="auto-replied"),)
    assert mail.limits_hit == ("too-many-references",)
    assert mail.raw == RAW
    assert mail.data == DATA


def test_the_schema_is_what_is_read() -> None:
    """docs/webhook.schema.json names the fields of this file's example, and each has its place in a value."""
    definitions = json.loads((ROOT / "docs" / "webhook.schema.json").read_text(encoding="utf-8"))["$defs"]
    assert set(definitions["data"]["required"]) == set(DATA) == set(receiver.Received._fields) - {"data", "timestamp"}
    for name, value in (
        ("key", receiver.Key),
        ("thread", receiver.Thread),
        ("sender", receiver.Sender),
        ("envelope", receiver.Envelope),
        ("finding", receiver.Finding),
    ):
        assert set(definitions[name]["properties"]) == set(value._fields)
    assert set(definitions["message"]["required"]) == {field.rstrip("_") for field in receiver.Headers._fields}


FITS = headers()["webhook-signature"]
HEADERS_THAT_FIT: list[tuple[str, dict[str, str], str | list[str]]] = [
    ("as sent", headers(), SECRET),
    ("in title case", {name.title(): value for name, value in headers().items()}, SECRET),
    ("in capitals", {name.upper(): value for name, value in headers().items()}, SECRET),
    ("among others", {"Content-Type": "application/json", **headers(), "Host": "app.example.com"}, SECRET),
    ("white space around", {name: f" {value} " for name, value in headers().items()}, SECRET),
    ("old and new secret here, old one there", headers(), [SECRET, OTHER]),
    ("old and new secret here, new one there", headers(secret=OTHER), [SECRET, OTHER]),
    (
        "two signatures there, the second fits",
        headers() | {"webhook-signature": headers(secret=OTHER)["webhook-signature"] + " " + FITS},
        SECRET,
    ),
    ("beside another version", headers() | {"webhook-signature": "v1a,AAAA v2,x " + FITS}, SECRET),
    ("beside rubbish", headers() | {"webhook-signature": "v1, v1 , \u00e9 v1,\udcff " + FITS}, SECRET),
    ("a secret read from a file, line end and all", headers(), SECRET + "\n"),
    ("tolerance's edge, past", headers(stamp=str(NOW - 300)), SECRET),
    ("tolerance's edge, future", headers(stamp=str(NOW + 300)), SECRET),
]


@pytest.mark.parametrize(("sent", "secrets"), [row[1:] for row in HEADERS_THAT_FIT], ids=[row[0] for row in HEADERS_THAT_FIT])
def test_headers_that_fit(sent: dict[str, str], secrets: str | list[str]) -> None:
    """Header names count in any case; one signature that fits one secret is enough."""
    assert verify_webhook(sent, BODY, secrets, now=NOW).id == "5f" * 32


def without(name: str) -> dict[str, str]:
    return {given: value for given, value in headers().items() if given != name}


HEADERS_THAT_DO_NOT: list[tuple[str, dict[str, str], type[ReceiverError]]] = [
    ("no headers", {}, HeaderError),
    ("no id", without("webhook-id"), HeaderError),
    ("empty id", headers() | {"webhook-id": " "}, HeaderError),
    ("an id with a dot", headers(event_id="a.b"), HeaderError),
    ("no timestamp", without("webhook-timestamp"), HeaderError),
    ("a date", headers(stamp="2026-11-21T12:00:00Z"), HeaderError),
    ("a negative timestamp", headers(stamp="-5"), HeaderError),
    ("a fraction", headers(stamp=f"{NOW}.0"), HeaderError),
    ("digits of another script", headers(stamp="".join(chr(0x660 + int(digit)) for digit in str(NOW))), HeaderError),
    ("5,000 digits", headers(stamp="9" * 5_000), HeaderError),
    ("no signature", without("webhook-signature"), HeaderError),
    ("another secret", headers(secret=OTHER), SignatureError),
    ("another id", headers() | {"webhook-id": "60" * 32}, SignatureError),
    ("another timestamp", headers() | {"webhook-timestamp": str(NOW + 1)}, SignatureError),
    ("another body's", headers(BODY + b" "), SignatureError),
    ("no version", headers() | {"webhook-signature": FITS[3:]}, SignatureError),
    ("another version", headers() | {"webhook-signature": "v2" + FITS[2:]}, SignatureError),
    ("a part of it", headers() | {"webhook-signature": FITS[:-4]}, SignatureError),
    ("none in it", headers() | {"webhook-signature": "v1,"}, SignatureError),
    ("not ASCII", headers() | {"webhook-signature": "v1,\u00e9\udcff"}, SignatureError),
    ("an id that was not UTF-8", headers() | {"webhook-id": "\udcff"}, SignatureError),
    ("too old", headers(stamp=str(NOW - 301)), TimestampError),
    ("from the future", headers(stamp=str(NOW + 301)), TimestampError),
    ("too old and forged", headers(stamp=str(NOW - 301), secret=OTHER), SignatureError),
]


@pytest.mark.parametrize(
    ("sent", "error"),
    [row[1:] for row in HEADERS_THAT_DO_NOT],
    ids=[row[0] for row in HEADERS_THAT_DO_NOT],
)
def test_headers_that_do_not(sent: dict[str, str], error: type[ReceiverError]) -> None:
    """Each way in which a request is not gatepost's, or not a fresh one, has its error."""
    with pytest.raises(ReceiverError) as caught:
        verify_webhook(sent, BODY, SECRET, now=NOW)
    assert type(caught.value) is error
    assert caught.value.id == sent.get("webhook-id", "").strip()


def test_errors_carry_what_was_learned() -> None:
    """An error says which header, how many were tried, how far off, and where in the body."""
    with pytest.raises(HeaderError) as header:
        verify_webhook(without("webhook-signature"), BODY, SECRET, now=NOW)
    assert header.value.header == "webhook-signature"
    with pytest.raises(SignatureError) as fit:
        verify_webhook(headers() | {"webhook-signature": "v1,a v1,b v1a,c"}, BODY, [SECRET, OTHER], now=NOW)
    assert fit.value.tried == (2, 2)
    with pytest.raises(TimestampError, match=r"signed 900 seconds ago, 300 are allowed") as off:
        verify_webhook(headers(), BODY, SECRET, now=NOW + 900)
    assert (off.value.timestamp, off.value.off) == (NOW, 900)
    with pytest.raises(BodyError) as body:
        read(changed("data", "envelope", "sender", to=None))
    assert (body.value.path, body.value.id) == ("data.envelope.sender", "5f" * 32)


def test_tolerance_is_the_callers() -> None:
    """An app whose clock is off may allow more."""
    assert verify_webhook(headers(), BODY, SECRET, tolerance=900, now=NOW + 900).id
    with pytest.raises(TimestampError):
        verify_webhook(headers(), BODY, SECRET, tolerance=10, now=NOW + 11)


def test_the_clock_is_asked_where_no_time_is_given() -> None:
    """Without `now` it is the system's."""
    assert verify_webhook(headers(stamp=str(int(time.time()))), BODY, SECRET).id
    with pytest.raises(TimestampError):
        verify_webhook(headers(stamp=str(int(time.time()) - 10_000)), BODY, SECRET)


@pytest.mark.parametrize(
    "secrets",
    [
        [],
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_not base64!",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        [SECRET, "whsec_short"],
    ],
)
def test_a_secret_that_is_none(secrets: str | list[str]) -> None:
    """The app's own mistake is said before anything else, and the secret is not in the text."""
    with pytest.raises(SecretError) as caught:
        verify_webhook({}, b"", secrets, now=NOW)
    assert not isinstance(secrets, str) or len(secrets) < 7 or secrets not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff",
        b"[" * 100_000,
        b'{"type": 1}',
        b"{}",
        b"NaN",
    ],
)
def test_a_body_that_is_no_event(body: bytes) -> None:
    """Rightly signed, but not a JSON object with a type, is a BodyError."""
    with pytest.raises(BodyError):
        verify_webhook(headers(body), body, SECRET, now=NOW)


MISREAD: list[tuple[str, dict[str, Any], str]] = [
    ("no data", changed("data", to=...), "data"),
    ("data is a list", changed("data", to=[]), "data"),
    ("a later version", changed("data", "version", to=2), "data.version"),
    ("no version", changed("data", "version", to=...), "data.version"),
    ("no id", changed("data", "id", to=...), "data.id"),
    ("no route", changed("data", "route", to=None), "data.route"),
    ("no timestamp", changed("timestamp", to=...), "timestamp"),
    ("no time", changed("timestamp", to="yesterday"), "timestamp"),
    ("no offset from UTC", changed("timestamp", to="2026-11-21T12:00:00"), "timestamp"),
    ("before the calendar, in UTC", changed("timestamp", to="0001-01-01T00:00:00+10:00"), "timestamp"),
    ("key is text", changed("data", "key", to="k"), "data.key"),
    ("key without raw", changed("data", "key", "raw", to=...), "data.key.raw"),
    ("options are numbers", changed("data", "key", "options", to=["a", 1]), "data.key.options[1]"),
    ("thread without its mail", changed("data", "thread", "parent_message_id", to=...), "data.thread.parent_message_id"),
    ("no sender", changed("data", "sender", to=None), "data.sender"),
    ("address is a number", changed("data", "sender", "address", to=1), "data.sender.address"),
    ("no envelope", changed("data", "envelope", to=...), "data.envelope"),
    ("no envelope recipient", changed("data", "envelope", "recipient", to=...), "data.envelope.recipient"),
    ("references is text", changed("data", "message", "references", to="<a@b>"), "data.message.references"),
    ("from is text", changed("data", "message", "from", to=["a@b"]), "data.message.from[0]"),
    ("a name is a list", changed("data", "message", "from", 0, "name", to=[]), "data.message.from[0].name"),
    ("findings is an object", changed("data", "findings", to={}), "data.findings"),
    ("a finding is text", changed("data", "findings", to=["x"]), "data.findings[0]"),
    ("a finding without slug", changed("data", "findings", 0, "slug", to=...), "data.findings[0].slug"),
    ("limits_hit holds null", changed("data", "limits_hit", to=[None]), "data.limits_hit[0]"),
    ("authentication is text", changed("data", "authentication", to="pass"), "data.authentication"),
    ("no raw", changed("data", "raw", to=...), "data.raw"),
    ("raw is no base64", changed("data", "raw", to="a b"), "data.raw"),
    ("raw is cut off", changed("data", "raw", to="abc"), "data.raw"),
]


@pytest.mark.parametrize(("content", "path"), [row[1:] for row in MISREAD], ids=[row[0] for row in MISREAD])
def test_a_field_of_another_type(content: dict[str, Any], path: str) -> None:
    """What cannot be read is a BodyError that names the path."""
    with pytest.raises(BodyError) as caught:
        read(content)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")


def test_fields_of_a_later_gatepost() -> None:
    """Fields and words that this module does not know are no error, and can be read in `data`."""
    content: dict[str, Any] = json.loads(BODY)
    content["new"] = content["data"]["new"] = {"a": 1}
    for name in ("key", "thread", "sender", "envelope", "message"):
        content["data"][name]["new"] = [1]
    content["data"]["findings"][0]["new"] = content["data"]["message"]["from"][0]["new"] = 1
    content["data"]["findings"].append({"slug": "spf", "family": "sender", "evidence": ""})
    content["data"]["authentication"] = {"spf": "pass"}
    mail = read(content)
    assert mail.data["new"] == {"a": 1}
    assert mail.findings[1].family == "sender"
    assert mail.authentication == {"spf": "pass"}


@pytest.mark.parametrize("word", ["maybe", "YES", "yes ", ""])
def test_an_unknown_word_verifies_nobody(word: str) -> None:
    """`verified` is "yes" only where it says yes."""
    assert read(changed("data", "sender", "verified", to=word)).sender.verified == "unknown"


@pytest.mark.parametrize("name", ["key", "thread"])
def test_null_where_there_is_none(name: str) -> None:
    """A dedicated address has no key, a first message no thread."""
    assert getattr(read(changed("data", name, to=None)), name) is None
    assert getattr(read(changed("data", name, to=...)), name) is None


def test_another_event() -> None:
    """A probe verifies; only its reading as a message is an error, and that names the type."""
    body = b'{"type": "gatepost.probe", "timestamp": "2026-11-21T12:00:00Z"}'
    message = verify_webhook(headers(body), body, SECRET, now=NOW)
    assert message.type == "gatepost.probe"
    with pytest.raises(EventTypeError, match=r"gatepost\.probe is not message\.received") as caught:
        message.received()
    assert caught.value.type == "gatepost.probe"


CHECK: dict[str, Any] = {
    "type": "key.check",
    "timestamp": "2026-11-21T12:00:00Z",
    "data": {
        "version": 1,
        "route": "desk",
        "domain": "in.example.com",
        "key": {"raw": "garden-20-issue-", "subject": "20", "options": ["x"], "kind": "service-desk"},
    },
}


def check(content: Any, event_id: str = "1f" * 16) -> receiver.KeyCheck:
    body = json.dumps(content).encode()
    return verify_webhook(headers(body, event_id=event_id), body, SECRET, now=NOW).key_check()


def test_a_question() -> None:
    """Every field of a key.check can be read by name, and fields of a later gatepost are no error."""
    asked = check(CHECK | {"new": 1, "data": {**CHECK["data"], "new": [1]}})
    assert asked == receiver.KeyCheck(
        id="1f" * 16,
        version=1,
        timestamp=datetime(2026, 11, 21, 12, tzinfo=UTC),
        route="desk",
        domain="in.example.com",
        key=receiver.Key(raw="garden-20-issue-", subject="20", options=("x",), kind="service-desk"),
        data={**CHECK["data"], "new": [1]},
    )


def test_the_schema_of_a_question_is_what_is_read() -> None:
    """docs/key-check.schema.json names the fields of this file's example, and each has its place in a value."""
    schema = json.loads((ROOT / "docs" / "key-check.schema.json").read_text(encoding="utf-8"))
    data = schema["properties"]["data"]
    assert set(schema["required"]) == set(CHECK)
    assert set(data["required"]) == set(CHECK["data"]) == set(receiver.KeyCheck._fields) - {"data", "id", "timestamp"}
    assert set(data["properties"]["key"]["properties"]) == set(receiver.Key._fields)


def check_changed(name: str, to: Any) -> dict[str, Any]:
    """A question with one field of its data changed, or taken out (`to` is ...)."""
    return CHECK | {"data": {each: value for each, value in (CHECK["data"] | {name: to}).items() if value is not ...}}


MISREAD_CHECKS: list[tuple[str, dict[str, Any], str]] = [
    ("no data", {"type": "key.check", "timestamp": "2026-11-21T12:00:00Z"}, "data"),
    ("a later version", check_changed("version", 2), "data.version"),
    ("no route", check_changed("route", ...), "data.route"),
    ("no domain", check_changed("domain", ...), "data.domain"),
    ("no key", check_changed("key", ...), "data.key"),
    ("a key that is null", check_changed("key", None), "data.key"),
    ("a key without raw", check_changed("key", {"subject": "20"}), "data.key.raw"),
    ("no time", CHECK | {"timestamp": "now"}, "timestamp"),
]


@pytest.mark.parametrize(("content", "path"), [row[1:] for row in MISREAD_CHECKS], ids=[row[0] for row in MISREAD_CHECKS])
def test_a_question_that_cannot_be_read(content: dict[str, Any], path: str) -> None:
    """What cannot be read is a BodyError that names the path: no key is taken for another."""
    with pytest.raises(BodyError) as caught:
        check(content)
    assert caught.value.path == path


def test_a_message_is_no_question() -> None:
    """Neither event is read as the other, and the error names both."""
    with pytest.raises(EventTypeError, match=r"message\.received is not key\.check") as caught:
        check(CONTENT)
    assert caught.value.type == receiver.MESSAGE_RECEIVED
    with pytest.raises(EventTypeError, match=r"key\.check is not message\.received") as caught:
        read(CHECK)
    assert caught.value.type == receiver.KEY_CHECK


@pytest.mark.parametrize("alive", [None, 0, 1, "", "false", [], {}], ids=repr)
def test_only_a_bool_answers(alive: Any) -> None:
    """What a look-up gives that found nothing, or failed, must not become a final no."""
    with pytest.raises(TypeError, match="True or False"):
        receiver.key_alive(alive)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*DATA, "address"]), inner),
        max_leaves=20,
    ),
    st.sampled_from([("data", name) for name in DATA] + [("data",), ("timestamp",), ("type",)]),
)
def test_any_signed_body_is_read_or_refused(value: Any, path: tuple[str, ...]) -> None:
    """Whatever stands in a field, the answer is a value or a ReceiverError."""
    with contextlib.suppress(ReceiverError):
        assert isinstance(read(changed(*path, to=value)), receiver.Received)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "x"]), st.text()), st.binary())
def test_no_strangers_request_verifies(sent: dict[str, str], body: bytes) -> None:
    """Any headers and body without the secret end in a ReceiverError and in nothing else."""
    with pytest.raises(ReceiverError):
        verify_webhook(sent, body, SECRET, now=NOW)


KEY_SECRET = "the newest of reply-keys in secrets.yml"
MINT: dict[str, Any] = {"address": "reply+%{key}@in.example.com", "secret": KEY_SECRET, "key_id": "reply-keys"}
A_UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


def verdict_on(key: str, today: int = 0) -> signed.Verdict:
    return signed.verify(key, secrets=(KEY_SECRET.encode(),), key_id="reply-keys", domains=("in.example.com",), today=today)


@pytest.mark.parametrize(
    ("subject", "carried"),
    [
        ("42", b"42"),
        (b"\0\xff", b"\0\xff"),
        (A_UUID, A_UUID.bytes),
        ("grün", "grün".encode()),
        ("0x41", b"0x41"),
    ],
)
def test_mint_key(subject: str | bytes | uuid.UUID, carried: bytes) -> None:
    """Text, bytes and UUIDs can be a subject, and come back through the webhook."""
    key = receiver.mint_key(**MINT, subject=subject)
    assert (verdict_on(key).result, verdict_on(key).subject) == ("live", carried)
    mail = read(changed("data", "key", "subject", to=signed.subject_text(carried)))
    assert mail.key is not None
    assert mail.key.subject_bytes == carried
    if isinstance(subject, uuid.UUID):
        assert mail.key.subject_uuid == subject


def test_a_uuid_whose_bytes_are_text() -> None:
    """A UUID that happens to be printable is shown as text, and still comes back as that UUID."""
    text = signed.subject_text(b"sixteen-letters!")
    assert text == "sixteen-letters!"
    assert receiver.Key(raw="k", subject=text).subject_uuid == uuid.UUID(bytes=b"sixteen-letters!")
    with pytest.raises(ValueError, match="16"):
        _ = receiver.Key(raw="k", subject="42").subject_uuid


EXPIRES: list[tuple[str, date | None, int | None]] = [
    ("none", None, None),
    ("a date", date(2026, 11, 21), 2516),
    ("day 0", date(2020, 1, 1), 0),
    ("the last day", date(2199, 6, 6), 65_535),
    ("a moment in UTC", datetime(2026, 11, 21, 23, 59, tzinfo=UTC), 2516),
    ("a moment elsewhere, the next day in UTC", datetime(2026, 11, 21, 23, tzinfo=timezone(-timedelta(hours=5))), 2517),
    ("a moment without a zone", datetime(2026, 11, 21, 23), 2516),  # noqa: DTZ001 - that is the case
]


@pytest.mark.parametrize(("expires", "day"), [row[1:] for row in EXPIRES], ids=[row[0] for row in EXPIRES])
def test_expires(expires: date | None, day: int | None) -> None:
    """A date is the key's last day; a moment with a zone is the day that it is in UTC."""
    assert verdict_on(receiver.mint_key(**MINT, subject="42", expires=expires)).expires == day


def test_owner() -> None:
    """A key can be made for one person."""
    verdict = verdict_on(receiver.mint_key(**MINT, subject="42", owner="Person@Example.org"))
    assert signed.owner_matches(verdict, "person@example.org", "reply-keys")


MINT_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("a UUID as text", {"subject": str(A_UUID)}, r"36 bytes.*UUID as its 16 bytes"),
    ("empty subject", {"subject": ""}, r"0 bytes"),
    ("nine umlauts", {"subject": "ü" * 9}, r"18 bytes"),
    ("short secret", {"secret": "short"}, r"5 bytes: use at least 32"),
    ("before 2020", {"expires": date(2019, 12, 31)}, r"day -1.*2020-01-01"),
    ("no address", {"address": "reply"}, r"give the route's address"),
    ("no room", {"address": "a-very-long-name-indeed+%{key}@in.example.com", "subject": A_UUID}, r"\d+ bytes are left"),
]


@pytest.mark.parametrize(("change", "text"), [row[1:] for row in MINT_ERRORS], ids=[row[0] for row in MINT_ERRORS])
@pytest.mark.parametrize("function", [receiver.mint_key, receiver.outgoing])
def test_what_cannot_be_minted(function: Any, change: dict[str, Any], text: str) -> None:
    """What no key or address can carry is a ValueError with the mend."""
    with pytest.raises(ValueError, match=text):
        function(**(MINT | {"subject": "42"} | change))


def test_outgoing() -> None:
    """An outgoing mail gets Reply-To with the key, and a Message-ID of its own that names the same key."""
    first, second = (receiver.outgoing(**MINT, subject="42") for _ in range(2))
    assert first.key == second.key == receiver.mint_key(**MINT, subject="42")
    assert first.reply_to == f"reply+{first.key}@in.example.com"
    assert first.message_id != second.message_id
    assert reply_ids.key_of(first.message_id) == reply_ids.key_of(second.message_id) == (first.key, "in.example.com")


def test_outgoing_from_a_dedicated_address() -> None:
    """Reply-To of a dedicated address is that address; the Message-ID carries the key."""
    made = receiver.outgoing(**(MINT | {"address": "support@in.example.com"}), subject="42")
    assert made.reply_to == "support@in.example.com"
    assert reply_ids.key_of(made.message_id) == (made.key, "in.example.com")
    assert verdict_on(made.key).result == "live"


def test_answers() -> None:
    """The answers are JSON as the sink reads it, whatever the text."""
    assert json.loads(receiver.refuse('geschlossen – "zu"\n')) == {"gatepost": "refuse", "text": 'geschlossen – "zu"\n'}
    assert json.loads(receiver.accepted("5f" * 32)) == {"gatepost": "accepted", "id": "5f" * 32}
    assert [receiver.key_alive(alive) for alive in (True, False)] == [b'{"alive": true}', b'{"alive": false}']


def blocks() -> list[str]:
    found: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 2
    return found


def asks(raw: str) -> bytes:
    return json.dumps(check_changed("key", {"raw": raw, "subject": "x"})).encode()


APP_ANSWERS = [
    ("a message", BODY, SECRET, "42", "200 OK", b'"accepted"'),
    ("a message that the app refuses", BODY, SECRET, "closed-ticket", "200 OK", b'"refuse"'),
    ("a probe", b'{"type": "gatepost.probe"}', SECRET, "", "200 OK", b""),
    ("a question", asks("ticket-42"), SECRET, "", "200 OK", b'{"alive": true}'),
    ("a question about a dead key", asks("ticket-43"), SECRET, "", "200 OK", b'{"alive": false}'),
    ("a stranger's question", asks("ticket-42"), OTHER, "", "401 Unauthorized", b"no signature fits"),
    ("a stranger's", BODY, OTHER, "42", "401 Unauthorized", b"no signature fits"),
    ("not JSON", b"{", SECRET, "", "400 Bad Request", b"not JSON"),
]


@pytest.mark.parametrize(
    ("body", "secret", "subject", "status", "text"),
    [row[1:] for row in APP_ANSWERS],
    ids=[row[0] for row in APP_ANSWERS],
)
def test_the_pages_app(body: bytes, secret: str, subject: str, status: str, text: bytes) -> None:
    """The app in docs/receiver.md runs, answers as its page says, and keeps one copy of a message that comes twice."""
    namespace: dict[str, Any] = {}
    exec(compile(blocks()[0], "docs/receiver.md", "exec"), namespace)
    if subject:
        body = json.dumps(changed("data", "key", "subject", to=subject)).encode()
    for _ in range(2):
        sent = headers(body, secret, stamp=str(int(time.time())))
        environ = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in sent.items()}
        seen: list[str] = []
        answer = namespace["app"](
            {**environ, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)},
            lambda given, _headers, seen=seen: seen.append(given),
        )
        assert seen == [status]
        assert text in b"".join(answer)
    assert len(namespace["SEEN"]) == (text == b'"accepted"')


def test_the_pages_outgoing_mail() -> None:
    """The mail in docs/receiver.md has a Reply-To and a Message-ID that lead back."""
    namespace: dict[str, Any] = {}
    exec(compile(blocks()[1], "docs/receiver.md", "exec"), namespace)
    mail = namespace["mail"]
    key, domain = reply_ids.key_of(str(mail["Message-ID"])) or ("", "")
    assert str(mail["Reply-To"]) == f"reply+{key}@{domain}"
    assert verdict_on(key).subject == A_UUID.bytes


def test_the_page_names_everything() -> None:
    """Each public name stands on the page."""
    assert [name for name in receiver.__all__ if name not in PAGE] == []


def test_it_needs_nothing_but_the_standard_library() -> None:
    """Importing the receiver loads no other room of gatepost and no package from elsewhere."""
    code = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {str(ROOT)!r})\nimport gatepost.receiver\n"
        "new = {name for name in set(sys.modules) - before}\n"
        "rooms = {n.split('.')[1] for n in new if n.startswith('gatepost.')}\n"
        "print(sorted(rooms - {'receiver', 'keys', 'value', 'digest'}),\n"
        "      sorted(n for n in new if n.split('.')[0] not in sys.stdlib_module_names | {'gatepost'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] []\n", "")
