"""The doctor's own message through the one path behind the queue: told from mail by its token, and never taken for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.decision import Envelope
from gatepost.gateway import Gateway, Receipt
from gatepost.mail.canonical import from_pipe
from gatepost.mail.recipient import recipient
from gatepost.stores.ledger import Ledger
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, install, message, webhook


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FaultyApp]:
    """Takes what it is sent, signed."""
    with FaultyApp(secrets=[WEBHOOK_SECRET], log=str(tmp_path / "app.log")) as running:
        yield running


@pytest.fixture
def made(tmp_path: Path, app: FaultyApp) -> Installation:
    """One message for each key and minute; a second sink that is a Maildir."""
    made = install(tmp_path, app=webhook(app.url("mail")), more="limits: {per_key: [1/1h]}\n")
    text = made.config.read_text()
    box = f"  box: {{maildir: {tmp_path / 'Maildir'}}}\n"
    made.config.write_text(text.replace("deliver: [app]", "deliver: [app, box]", 1) + box)
    return made


def expected(made: Installation, to: str, token: str = "") -> str:
    """A token that the store expects for this recipient."""
    token = token or os.urandom(16).hex()
    ledger = Ledger.open(str(made.store))
    ledger.expect(token, recipient=recipient(to).final_form, now=time.time())
    ledger.close()
    return token


def receive(made: Installation, to: str, field: str, *, queue_id: str = "Q1", sender: str = "") -> Receipt:
    """One run with that field in the message, which calls itself automatic and has a null reverse-path."""
    data = message(to=to, headers=f"Auto-Submitted: auto-generated\n{field}\n")
    gateway = Gateway(made.settings)
    try:
        envelope = Envelope(sender=sender, recipient=to, queue_id=queue_id)
        return gateway.receive(envelope, from_pipe(data), deadline=time.monotonic() + 20)
    finally:
        gateway.close()


def types(app: FaultyApp) -> list[str]:
    """Of what the app was sent."""
    return [json.loads(request.body)["type"] for request in app.requests]


def test_a_probe_reaches_the_app_as_one(made: Installation, app: FaultyApp) -> None:
    """Neither screened nor counted nor shown as mail: the webhook gets gatepost.probe, the Maildir nothing, the ledger a row."""
    to = made.address(made.key())
    token = expected(made, to)
    receipts = [receive(made, to, f"X-Gatepost-Probe: {token}", queue_id=each) for each in ("Q1", "Q2", "Q1")]
    assert [(each.decision.action, each.decision.rule, each.already) for each in receipts] == [
        ("accept", "probe", False), ("accept", "probe", False), ("accept", "probe", True),
    ]  # fmt: skip
    assert types(app) == ["gatepost.probe"] * 2
    assert b"Hello" not in app.requests[0].body
    assert not (made.folder / "Maildir").exists()
    assert receive(made, to, "X-Other: 1", queue_id="Q3", sender="p@example.org").decision.rule == "automatic"


#: The field, and why it is not the doctor's.
STRANGERS = [
    pytest.param("X-Gatepost-Probe: {other}", id="a token that nobody wrote down"),
    pytest.param("X-Gatepost-Probe: {elsewhere}", id="another recipient's token"),
    pytest.param("X-Gatepost-Probe: {token} {token}", id="twice in one field"),
    pytest.param("X-Gatepost-Probe: {token}00", id="longer"),
    pytest.param("X-Gatepost-Probe:", id="empty"),
    pytest.param("X-Gatepost-Probe: \u20ac{token}", id="not ASCII"),
    pytest.param("X-Gatepost-Probe: %", id="no token"),
    pytest.param("X-Gatepost-Probes: {token}", id="another field"),
    pytest.param("X-Gatepost-Probe: {gone}", id="a token that has been used up"),
]


@pytest.mark.parametrize("field", STRANGERS)
def test_a_strangers_field_changes_nothing(made: Installation, app: FaultyApp, field: str) -> None:
    """The message is judged as it would be without it: it is automatic mail."""
    to, elsewhere = made.address(made.key()), made.address(made.key("43"))
    tokens = {
        "token": expected(made, to),
        "elsewhere": expected(made, elsewhere),
        "other": "0" * 32,
        "gone": expected(made, to),
    }
    ledger = Ledger.open(str(made.store))
    ledger.expect_no_more(tokens["gone"])
    ledger.close()
    assert receive(made, to, field.format(**tokens)).decision.rule == "automatic"
    assert types(app) == []


def test_a_dead_key_is_refused_all_the_same(made: Installation, app: FaultyApp) -> None:
    """The rules of keys come first: a probe shows that a key works, not that a token does."""
    to = made.address(made.key(secret="another secret of thirty-two bytes, or more of them"))
    assert receive(made, to, f"X-Gatepost-Probe: {expected(made, to)}").decision.rule == "key-forged"
    assert types(app) == []


def test_a_retry_has_the_same_bytes_and_stays_a_probe(made: Installation, app: FaultyApp) -> None:
    """Judged once: even where the token is gone meanwhile the app is not sent a message."""
    to = made.address(made.key())
    token = expected(made, to)
    app.behaviour = "status/503"
    assert receive(made, to, f"X-Gatepost-Probe: {token}").decision.rule == "app-unavailable"
    ledger = Ledger.open(str(made.store))
    ledger.expect_no_more(token)
    ledger.close()
    app.behaviour = "ok"
    assert receive(made, to, f"X-Gatepost-Probe: {token}").decision.rule == "probe"
    first, second = app.requests
    assert first.body == second.body


SINKS = [
    pytest.param("{{maildir: {folder}/inbox}}", id="a Maildir"),
    pytest.param("{{command: [/bin/false]}}", id="a program, which would refuse it"),
    pytest.param("{{webhook: '{url}', secret: app-webhook, format: raw}}", id="an app that takes the message itself"),
]


@pytest.mark.parametrize("sink", SINKS)
def test_other_sinks_get_none(tmp_path: Path, app: FaultyApp, sink: str) -> None:
    """They would take it for mail; the ledger shows that it came."""
    made = install(tmp_path, app=sink.format(folder=tmp_path, url=app.url("mail")))
    to = made.address(made.key())
    receipt = receive(made, to, f"X-Gatepost-Probe: {expected(made, to)}")
    assert (receipt.decision.action, receipt.decision.rule) == ("accept", "probe")
    assert types(app) == []
    assert not (tmp_path / "inbox").exists()
    ledger = Ledger.open(str(made.store))
    (row,) = ledger.rows(queue_id="Q1")
    ledger.close()
    assert row.state == "done"
