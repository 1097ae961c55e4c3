"""The sinks' common parts: dispatch, outcomes, the webhook's signature, its body and the published schema."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from typing import Any

import jsonschema
import pytest

from gatepost.decision import Envelope, Finding, Key, Thread, rule_decision
from gatepost.mail.message import parse
from gatepost.settings import ParserLimits, Sink
from gatepost.sinks import deliver
from gatepost.sinks.delivery import Delivery, one_line
from gatepost.sinks.envelope_json import body
from gatepost.sinks.webhook import signature
from tests.faulty_app import FaultyApp

HERE = os.path.dirname(os.path.abspath(__file__))
ID = hashlib.sha256(b"one delivery").hexdigest()
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two octets...").decode()
MESSAGE = (
    b"Received: from mail.example.org by mx.in.example.com; Sat, 21 Nov 2026 10:00:00 +0000\r\n"
    b"From: =?utf-8?Q?R=C3=A9ka?= <reka@example.org>, Second <second@example.org>\r\n"
    b"To: App <reply+k3y@in.example.com>\r\n"
    b"Cc: third@example.net\r\n"
    b"Subject: =?utf-8?Q?Sz=C3=A9p?= day\r\n"
    b"Message-ID: <one@example.org>\r\n"
    b"In-Reply-To: <reply-k3y.r@in.example.com>\r\n"
    b"References: <zero@in.example.com> <reply-k3y.r@in.example.com>\r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
    b"\r\n"
    b"Hello.\r\n"
)


def make_delivery(raw: bytes = MESSAGE, **changes: Any) -> Delivery:
    """A delivery as the gateway makes it; `changes` are fields of it, or of its envelope or decision."""
    envelope = Envelope(
        sender="reka@example.org",
        recipient="reply+k3y@in.example.com",
        original_recipient="Reply+K3Y@in.example.com",
        queue_id="4jWl4Z5tH8zJv6D",
        client_address="192.0.2.7",
        helo="mail.example.org",
    )
    key = Key(raw="k3y", subject="topic-7", options=("x",))
    decision = rule_decision("accept", "accepted", route="replies").replace(key=key)
    for name in set(changes) & set(Envelope._fields):
        envelope = envelope.replace(**{name: changes.pop(name)})
    for name in {"key", "thread", "findings"} & set(changes):
        decision = decision.replace(**{name: changes.pop(name)})
    fields: dict[str, Any] = {
        "id": ID,
        "received_at": 1_795_255_200,
        "route": "replies",
        "envelope": envelope,
        "decision": decision,
        "message": parse(raw, ParserLimits()),
    }
    return Delivery(**{**fields, **changes})


def in_seconds(seconds: float) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def data_of(delivery: Delivery) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(b"".join(body(delivery)))["data"]
    return data


def validator() -> jsonschema.Draft202012Validator:
    with open(os.path.join(HERE, "..", "docs", "webhook.schema.json"), encoding="ascii") as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


# -- the signature


def test_signature_is_that_of_standard_webhooks() -> None:
    """The published vector of the Standard Webhooks libraries comes out."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_large_bodies_are_signed_alike() -> None:
    """Above the size where OpenSSL takes over, the signature is still HMAC-SHA256 over id.timestamp.body."""
    import hmac

    large = b"x" * 1_000_000
    wanted = base64.b64encode(hmac.digest(b"k" * 70, b"id.1." + large, "sha256")).decode()
    assert signature(b"k" * 70, "id", "1", large) == f"v1,{wanted}"


# -- the body


def test_body_says_everything() -> None:
    """Each field of the envelope holds what the message, Postfix and the decision say."""
    delivery = make_delivery(
        sender_verified="yes",
        sender_verified_by="dmarc mx.example.com",
        thread=Thread(found_in="In-Reply-To", parent_message_id="<reply-k3y.r@in.example.com>"),
        findings=(Finding(slug="precedence", family="automatic", evidence="Precedence: bulk"),),
    )
    whole = json.loads(b"".join(body(delivery)))
    data = whole["data"]
    assert base64.b64decode(data.pop("raw"), validate=True) == MESSAGE
    assert whole == {"type": "message.received", "timestamp": "2026-11-21T10:00:00Z", "data": data}
    assert data == {
        "version": 1,
        "id": ID,
        "route": "replies",
        "key": {"raw": "k3y", "subject": "topic-7", "options": ["x"], "kind": ""},
        "thread": {"found_in": "In-Reply-To", "parent_message_id": "<reply-k3y.r@in.example.com>"},
        "sender": {"address": "reka@example.org", "name": "Réka", "verified": "yes", "by": "dmarc mx.example.com"},
        "envelope": {
            "sender": "reka@example.org",
            "recipient": "reply+k3y@in.example.com",
            "original_recipient": "Reply+K3Y@in.example.com",
            "client_address": "192.0.2.7",
            "helo": "mail.example.org",
            "queue_id": "4jWl4Z5tH8zJv6D",
        },
        "authentication": None,
        "message": {
            "message_id": "<one@example.org>",
            "in_reply_to": ["<reply-k3y.r@in.example.com>"],
            "references": ["<zero@in.example.com>", "<reply-k3y.r@in.example.com>"],
            "subject": "Szép day",
            "from": [
                {"address": "reka@example.org", "name": "Réka"},
                {"address": "second@example.org", "name": "Second"},
            ],
            "to": [{"address": "reply+k3y@in.example.com", "name": "App"}],
            "cc": [{"address": "third@example.net", "name": ""}],
            "date": "Sat, 21 Nov 2026 10:00:00 +0000",
            "sha256": hashlib.sha256(MESSAGE).hexdigest(),
        },
        "findings": [{"slug": "precedence", "family": "automatic", "evidence": "Precedence: bulk", "strength": "alone"}],
        "limits_hit": [],
    }


def test_body_names_what_is_not_there() -> None:
    """Without key, thread, From or any field at all, the same names stand with null or empty values."""
    data = data_of(make_delivery(b"\r\n", key=None))
    assert data["key"] is None
    assert data["thread"] is None
    assert data["sender"] == {"address": "", "name": "", "verified": "unknown", "by": ""}
    assert data["message"]["from"] == []
    assert data["message"]["message_id"] == ""


def test_body_is_the_same_on_every_attempt() -> None:
    """Neither the attempt's number nor the time of day is in the bytes."""
    first = body(make_delivery(attempt=1))
    assert body(make_delivery(attempt=7)) == first
    assert b'"attempt"' not in first


def test_limits_that_cut_something_are_named() -> None:
    """A message past a limit of the parser arrives whole, with the limit's name."""
    limits = ParserLimits(references=1)
    data = data_of(make_delivery(message=parse(MESSAGE, limits)))
    assert data["limits_hit"] == ["too-many-references"]
    assert base64.b64decode(data["raw"]) == MESSAGE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("caf\udce9@example.org", "caf\ufffd@example.org", id="surrogateescape: an octet that was not UTF-8"),
        pytest.param("a\0b@example.org", "a\ufffdb@example.org", id="NUL: databases refuse it"),
        pytest.param("\ud83d@example.org", "\ufffd@example.org", id="half a pair: no JSON parser agrees on it"),
        pytest.param("\U0001f4ee@example.org", "\U0001f4ee@example.org", id="beyond the basic plane: stays"),
        pytest.param('"a\\"b\x7f\x1f"@example.org', '"a\\"b\x7f\x1f"@example.org', id="quotes, backslash, controls: escaped"),
    ],
)
def test_body_is_ascii_and_sound(text: str, shown: str) -> None:
    """Whatever text Postfix hands over, the body is ASCII JSON that each parser and database takes."""
    octets = b"".join(body(make_delivery(sender=text)))
    assert octets.isascii()
    assert json.loads(octets)["data"]["envelope"]["sender"] == shown


HOSTILE = {
    "nothing": b"",
    "only a blank line": b"\r\n",
    "no blank line": b"Subject: x",
    "8-bit everywhere": bytes(range(128, 256)) * 20 + b": x\r\nFrom: " + bytes(range(256)) + b"\r\n\r\nx",
    "NUL": b"From: a\0b <a\0b@example.org>\r\nSubject: \0\r\n\r\n\0",
    "bad encoded words": b"Subject: =?utf-8?B?////?= =?nope?Q?=FF?=\r\nFrom: =?utf-16?B?2AA=?= <a@example.org>\r\n\r\n",
    "many addresses": b"To: " + b"a@example.org, " * 3_000 + b"\r\n\r\n",
    "many references": b"References: " + b"<a@example.org> " * 3_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("key", [None, Key(raw="k", subject="s")], ids=["no key", "key"])
def test_bodies_are_valid_by_the_published_schema(raw: bytes, key: Key | None) -> None:
    """Real bodies, of hostile messages too, validate against docs/webhook.schema.json."""
    thread = Thread(found_in="References", parent_message_id="<a@in.example.com>") if key else None
    validator().validate(json.loads(b"".join(body(make_delivery(raw, key=key, thread=thread, sender="\udcff")))))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("type",), "message.sent"),
        (("timestamp",), "2026-11-21 10:00:00"),
        (("data", "version"), 2),
        (("data", "id"), "5f0c"),
        (("data", "raw"), None),
        (("data", "sender", "verified"), "maybe"),
        (("data", "message", "from"), "a@example.org"),
        (("data", "findings"), [{"slug": "x"}]),
        (("data", "envelope", "recipient"), None),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else "",
)
def test_schema_refuses_what_is_wrong(path: tuple[str, ...], value: object) -> None:
    """The schema is no rubber stamp: each wrong value is found."""
    whole = json.loads(b"".join(body(make_delivery())))
    place = whole
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert not validator().is_valid(whole)


def test_every_field_is_in_the_schema() -> None:
    """No field goes out that the schema does not describe."""
    schema: Any = validator().schema
    definitions = schema["$defs"]
    data = data_of(make_delivery())
    assert set(data) == set(definitions["data"]["properties"])
    for name in ("key", "sender", "envelope", "message"):
        assert set(data[name]) == set(definitions[name]["properties"]), name


def test_example_in_the_documentation_is_valid() -> None:
    """The example of docs/webhook.md validates against the schema."""
    with open(os.path.join(HERE, "..", "docs", "webhook.md"), encoding="utf-8") as file:
        text = file.read()
    example = json.loads(text.partition("```json\n")[2].partition("```")[0])
    validator().validate(example)


@pytest.mark.parametrize("form", ["json", "raw"])
def test_large_message_stays_small_in_memory(form: str) -> None:
    """A message of 10 MB, body made, signed and sent, stays below 100 MB in all: no copies upon copies."""
    script = """if True:
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from tests.test_sinks import make_delivery
        from gatepost.settings import Sink
        from gatepost.sinks import deliver
        def peak():  # kB; ru_maxrss would begin with that of the process that started this one
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
        before = peak()
        raw = b"Subject: large\\r\\nMessage-ID: <l@example.org>\\r\\n\\r\\n" + b"x" * 10_000_000
        delivery = make_delivery(raw)
        sink = Sink(name="app", kind="webhook", target=sys.argv[2], format=sys.argv[3], secrets=(b"k" * 32,))
        outcome = deliver(sink, delivery, deadline=time.monotonic() + 60)
        print(outcome.kind, (peak() - before) // 1024)
    """
    with FaultyApp() as app:
        arguments = [sys.executable, "-c", script, os.path.join(HERE, ".."), app.url("ok"), form]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    kind, megabytes = done.stdout.split()
    assert kind == "delivered"
    assert int(megabytes) < 60


# -- what travels to logs and replies


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("  two\r\nlines\t\tand tabs ", "two lines and tabs"),
        ("\x1b[31mred\x00\u202e", "[31mred"),
        ("Ünïcode stays", "Ünïcode stays"),
        ("x" * 1_000, "x" * 50),
        ("\n" * 100_000 + "late", ""),
    ],
)
def test_text_is_one_printable_line(text: str, shown: str) -> None:
    """Nothing that an app says can break a line of the log or of a reply, or make it long."""
    assert one_line(text, 50) == shown


# -- what a run pays


FORBIDDEN = (
    "argparse", "base64", "contextlib", "dataclasses", "email", "enum", "functools", "hashlib", "hmac", "http", "json",
    "logging", "pathlib", "random", "re", "secrets", "socket", "ssl", "tempfile", "textwrap", "threading", "typing",
    "urllib", "uuid",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["webhook", "maildir"])
def test_delivery_loads_nothing_that_costs(kind: str, tmp_path: object) -> None:
    """A small message to a plain webhook or a Maildir loads none of the modules that a run of the pipe script cannot afford."""
    script = """if True:
        import sys, time
        sys.path.insert(0, sys.argv[1])
        before = set(sys.modules)
        from gatepost.decision import Decision, Envelope, rule_decision
        from gatepost.settings import Sink
        from gatepost.sinks import deliver
        from gatepost.sinks.delivery import Delivery
        class Message:
            raw = b"Subject: x\\r\\n\\r\\nx\\r\\n"
            message_id = subject = date = ""
            in_reply_to = references = limits_hit = ()
            class from_: list = ()
            to = cc = from_
            def sha256(own_hosts): return "0" * 64
        delivery = Delivery(id="0" * 64, received_at=1, route="r", envelope=Envelope(sender="", recipient="a@in.example.com"),
                            decision=rule_decision("accept", "accepted"), message=Message)
        sink = Sink(name="s", kind=sys.argv[2], target=sys.argv[3], secrets=(b"k" * 32,))
        kind = deliver(sink, delivery, deadline=time.monotonic() + 60).kind
        print(kind, *sorted(set(sys.modules) - before))
    """
    with FaultyApp() as app:
        target = app.url("ok") if kind == "webhook" else f"{tmp_path}/mail"
        arguments = [sys.executable, "-I", "-S", "-c", script, os.path.join(HERE, ".."), kind, target]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    outcome, *loaded = done.stdout.split()
    assert outcome == "delivered"
    assert not set(loaded) & set(FORBIDDEN)


@pytest.mark.parametrize("target", ["ftp://in.example.com/", "in.example.com/mail", "", "https://"])
def test_unusable_target_is_an_outcome(target: str) -> None:
    """A URL that config should have refused is a misconfigured sink, not an exception."""
    sink = Sink(name="app", kind="webhook", target=target, secrets=(b"k" * 32,))
    assert deliver(sink, make_delivery(), deadline=in_seconds(30)).kind == "misconfigured"
