"""The one path behind the queue: judged once, handed over once, acknowledged only when it is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.decision import Decision, Envelope, Finding, Key, Thread, rule_decision
from gatepost.errors import StoreError
from gatepost.frozen import freeze, thaw
from gatepost.gateway import Gateway, Receipt, delivery_id, first_seen
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import parse
from gatepost.settings import ParserLimits
from gatepost.stores.ledger import Ledger
from gatepost.stores.parked import Parked
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, install, message, webhook

DAY = 86_400.0


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FaultyApp]:
    """An app that verifies signatures and can have every fault."""
    with FaultyApp(secrets=[WEBHOOK_SECRET], log=str(tmp_path / "app.log"), tolerance=None) as running:  # the clock is moved
        yield running


@pytest.fixture
def made(tmp_path: Path, app: FaultyApp) -> Installation:
    """An installation whose sink is the app."""
    return install(tmp_path, app=webhook(app.url("mail")))


def receive(
    made: Installation, clock: Clock, to: str, *, queue_id: str = "Q1", data: bytes = b"", sender: str = "p@example.org"
) -> Receipt:
    """One run, as of a process of its own."""
    raw = from_pipe(data or message())
    envelope = Envelope(sender=sender, recipient=to, queue_id=queue_id)
    return Gateway(made.settings, now=clock).receive(envelope, raw, deadline=time.monotonic() + 20)


def taken(made: Installation) -> list[dict[str, str]]:
    """What the app has logged."""
    log = made.folder / "app.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def parked(made: Installation) -> list[tuple[str, str, bool]]:
    """Rule, kind and whether only the head was kept, of everything parked."""
    folder = Parked.open(made.settings, now=time.time)
    return [(entry.rule, entry.kind, entry.headers_only) for entry in folder.list()]


def test_handed_over_once_and_acknowledged(made: Installation, clock: Clock) -> None:
    """The app has the message under the delivery id; a second run says the same and does not ask it again."""
    to = made.address(made.key())
    first, second = receive(made, clock, to), receive(made, clock, to)
    ledger = Ledger.open(str(made.store))
    envelope = Envelope(sender="", recipient=to, queue_id="Q1")
    assert first.id == delivery_id(ledger.host_id, envelope, parse(from_pipe(message()), ParserLimits()))
    assert (first.decision.action, first.sink, first.already) == ("accept", "app", False)
    assert (second.decision.rule, second.id, second.already) == ("accepted", first.id, True)
    assert [(each["id"], each["recipient"]) for each in taken(made)] == [(first.id, to)]


def test_one_id_for_every_spelling_of_a_recipient(made: Installation, clock: Clock) -> None:
    """Quotes, capitals and a final dot are the same recipient; another queue ID is another message."""
    key = made.key()
    spellings = [f"reply+{key}@in.example.com", f'"Reply+{key.upper()}"@IN.example.com', f"reply+{key}@in.example.com."]
    ids = {receive(made, clock, to).id for to in spellings}
    assert len(ids) == 1
    assert len(taken(made)) == 1
    assert receive(made, clock, spellings[0], queue_id="Q2").id not in ids
    assert len(taken(made)) == 2


def test_an_accepted_message_outlives_its_key(made: Installation, clock: Clock, app: FaultyApp) -> None:
    """Judged once: the key expires, and is revoked, while the app is down; the mail that was accepted arrives."""
    key = made.key(days=0)
    app.behaviour = "status/503"
    assert receive(made, clock, made.address(key)).decision.rule == "app-unavailable"
    clock.time += 2 * DAY
    assert receive(made, clock, made.address(key), queue_id="Q2").decision.rule == "key-expired"
    app.behaviour = "ok"
    assert receive(made, clock, made.address(key)).decision.rule == "accepted"
    assert len(taken(made)) == 1


def test_each_try_carries_the_same_bytes(made: Installation, clock: Clock, app: FaultyApp) -> None:
    """Two hand-overs of one id have one body, hours apart, even if the first was cut off in mid-answer."""
    to = made.address(made.key())
    app.behaviour = "cut-body"
    assert receive(made, clock, to).decision.action == "defer"
    clock.time += 3 * 3600
    app.behaviour = "ok"
    assert receive(made, clock, to).decision.action == "accept"
    assert len(app.requests) == 2
    assert len({request.body for request in app.requests}) == 1


def test_a_second_run_at_the_same_time_touches_no_sink(made: Installation, clock: Clock) -> None:
    """While another run has the lease the message is deferred 4.3.2; when the lease is over it is handed over."""
    to = made.address(made.key())
    ledger = Ledger.open(str(made.store))
    envelope = Envelope(sender="", recipient=to, queue_id="Q1")
    id_ = delivery_id(ledger.host_id, envelope, parse(from_pipe(message()), ParserLimits()))
    judged = rule_decision("accept", "accepted", route="replies")
    ledger.claim(id_, now=clock(), lease=180, judgement=freeze(judged), queue_id="Q1", sender="", recipient=to)
    busy = receive(made, clock, to)
    assert (busy.decision.action, busy.decision.rule, busy.decision.status) == ("defer", "in-flight", "4.3.2")
    assert taken(made) == []
    clock.time += 181
    assert receive(made, clock, to).attempt == 2
    assert len(taken(made)) == 1


def test_a_message_that_waited_too_long_is_parked_whole(made: Installation, clock: Clock, app: FaultyApp) -> None:
    """First seen more than give_up_after ago, and the app still down: a person gets it, and Postfix is told 'done'."""
    to = made.address(made.key())
    app.behaviour = "status/500"
    assert receive(made, clock, to).decision.action == "defer"
    clock.time += 4 * DAY + 60
    receipt = receive(made, clock, to)
    assert (receipt.decision.action, receipt.decision.rule) == ("park", "gave-up")
    assert parked(made) == [("gave-up", "kept", False)]
    assert receive(made, clock, to).already


def test_what_the_app_cannot_take_is_parked_after_three_tries(made: Installation, clock: Clock, app: FaultyApp) -> None:
    """Tries that failed for other reasons do not count."""
    to = made.address(made.key())
    actions = []
    for behaviour in ("status/422", "status/503", "status/422", "status/401", "status/413"):
        app.behaviour = behaviour
        actions.append(receive(made, clock, to).decision.action)
    assert actions == ["defer", "defer", "defer", "defer", "park"]
    assert parked(made) == [("app-cannot-take", "kept", False)]


PARKED = [
    ("garbage", "reply+garbage@in.example.com", message(body="secret body\n"), "key-unknown", "refused", True),
    ("no route", "nobody@in.example.com", message(), "no-route", "refused", False),
    ("postmaster", "postmaster@in.example.com", message(), "role-address", "kept", False),
]


@pytest.mark.parametrize(
    ("to", "data", "rule", "kind", "head_only"), [row[1:] for row in PARKED], ids=[row[0] for row in PARKED]
)
def test_what_is_not_for_the_app_is_parked(
    made: Installation, clock: Clock, to: str, data: bytes, rule: str, kind: str, head_only: bool
) -> None:
    """A refused key is parked as its head alone; nobody is verified without a milter, so no notice leaves."""
    receipt = receive(made, clock, to, data=data)
    assert (receipt.decision.action, receipt.decision.rule) == ("park", rule)
    assert parked(made) == [(rule, kind, head_only)]
    _, raw = Parked.open(made.settings, now=time.time).load(receipt.id)
    assert (b"secret body" in raw) is False
    assert taken(made) == []


def test_release_hands_over_under_the_same_id_and_drops_the_copy(made: Installation, clock: Clock, app: FaultyApp) -> None:
    """The copy goes only when the sink has the message; the key was judged long ago and is not asked again."""
    to = made.address(made.key(days=0))
    app.behaviour = "status/500"
    first = receive(made, clock, to)
    clock.time += 5 * DAY
    receive(made, clock, to)
    gateway = Gateway(made.settings, now=clock)
    assert gateway.release(first.id, deadline=time.monotonic() + 20).decision.action != "accept"
    assert len(parked(made)) == 1
    app.behaviour = "ok"
    assert gateway.release(first.id, deadline=time.monotonic() + 20).decision.action == "accept"
    assert parked(made) == []
    assert [each["id"] for each in taken(made)] == [first.id]
    assert len({request.body for request in app.requests}) == 1


def test_a_head_alone_cannot_be_released(made: Installation, clock: Clock) -> None:
    """Half a message is not handed to the app as if it were one."""
    receipt = receive(made, clock, "reply+garbage@in.example.com")
    with pytest.raises(StoreError, match="only the head was kept"):
        Gateway(made.settings, now=clock).release(receipt.id, deadline=time.monotonic() + 20)


def test_mail_for_no_route_can_be_released_to_one(made: Installation, clock: Clock) -> None:
    """A person may say which route a message was meant for."""
    receipt = receive(made, clock, "nobody@in.example.com")
    gateway = Gateway(made.settings, now=clock)
    with pytest.raises(StoreError, match="name one with --route"):
        gateway.release(receipt.id, deadline=time.monotonic() + 20)
    assert gateway.release(receipt.id, route="support", deadline=time.monotonic() + 20).decision.action == "accept"
    assert len(taken(made)) == 1


def test_a_ledger_that_fails_after_the_app_has_it_is_no_second_delivery(
    made: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app has the message: a deferral now would make Postfix bring it again."""

    def fail(*_words: object, **_options: object) -> bool:
        raise StoreError("disk full")

    monkeypatch.setattr(Ledger, "finish", fail)
    assert receive(made, clock, made.address(made.key())).decision.action == "accept"
    assert any("the ledger could not be told" in line for line in made.log_lines())


def test_the_other_sinks_get_one_try(tmp_path: Path, app: FaultyApp, clock: Clock) -> None:
    """The first sink must have it; the others are best effort, and their failure is logged and delays nobody."""
    more = (
        f'  copy: {{webhook: "{app.url("status/500")}", secret: app-webhook}}\n  files: {{maildir: {tmp_path / "Maildir"}}}\n'
    )
    made = install(tmp_path, app=webhook(app.url("mail")))
    text = made.config.read_text().replace("deliver: [app]", "deliver: [app, copy, files]")
    made.config.write_text(text + more)
    receipt = receive(made, clock, made.address(made.key()))
    assert (receipt.decision.action, receipt.sink) == ("accept", "app")
    assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 1
    assert [line for line in made.log_lines() if "sink=copy" in line and "500" in line]


def test_the_ledger_keeps_no_address(made: Installation, clock: Clock) -> None:
    """Sender and recipient are keyed hashes; when a message is done, not even its key is left."""
    key = made.key("secret-42")
    receive(made, clock, made.address(key), sender="someone@example.org")
    stored = b"".join(file.read_bytes() for file in made.store.glob("gatepost.sqlite*"))
    (row,) = Ledger.open(str(made.store)).rows(queue_id="Q1")
    assert (row.state, row.judgement) == ("done", "")
    assert b"someone@example.org" not in stored
    assert key not in row.outcome


def test_a_short_queue_id_that_comes_again_is_another_message(made: Installation, clock: Clock) -> None:
    """Postfix's default IDs repeat within days; the Received field that Postfix wrote tells the messages apart."""
    to = "support@in.example.com"
    hop = "Received: from a by mx.example.com (Postfix) with ESMTP id 80F0D1F3C1A; Fri, 15 Jan 2027 08:00:0{} +0000\n"
    first, again, other = (
        receive(made, clock, to, queue_id="80F0D1F3C1A", data=hop.format(n).encode() + message()) for n in (1, 1, 2)
    )
    assert (first.already, again.already, other.already) == (False, True, False)
    assert len(taken(made)) == 2


ARRIVED = [
    (1000.0, "Q1", 1500.0, 1000.0, "the ledger's own"),
    (1_795_248_999.0, "4jWl4Z5tH8zJv6D", 1_795_249_000.0, 1_795_248_030.0, "Postfix had it before we could note it"),
    (5.0, "4jWl4Z5tH8zJv6D", 1_795_249_000.0, 1_795_248_030.0, "noted by a clock that stood at 1970"),
    (5.0, "Q1", 1_795_249_000.0, 1_795_249_000.0, "and nothing else is known"),
    (2000.0, "Q1", 1500.0, 1500.0, "the clock was set back since"),
]


@pytest.mark.parametrize(("claimed", "queue_id", "now", "expected"), [r[:4] for r in ARRIVED], ids=[r[4] for r in ARRIVED])
def test_the_wait_counts_from_the_arrival(claimed: float, queue_id: str, now: float, expected: float) -> None:
    """give_up_after counts from when Postfix took the message, even where our own fault kept it from the ledger."""
    assert first_seen(Envelope(sender="", recipient="", queue_id=queue_id), claimed, now) == expected


def test_a_message_without_a_blank_line_is_not_kept_whole_as_a_head(made: Installation, clock: Clock) -> None:
    """A refused key's head is bounded, or a guesser could fill the disk."""
    receipt = receive(made, clock, "reply+garbage@in.example.com", data=b"X-Long: " + b"x" * 5_000_000 + b"\n")
    _, raw = Parked.open(made.settings, now=time.time).load(receipt.id)
    assert len(raw) == 65_536


def test_refused_mail_without_room_is_discarded_and_not_deferred(made: Installation, clock: Clock) -> None:
    """A deferral would end as a bounce to a sender whom nobody has verified."""
    made.config.write_text(made.config.read_text() + "parked: {max_size: 100}\n")
    receipt = receive(made, clock, "reply+garbage@in.example.com")
    assert (receipt.decision.action, receipt.decision.rule) == ("discard", "key-unknown")
    assert "not parked" in receipt.decision.detail
    assert receive(made, clock, "nobody@in.example.com").decision.rule == "parked-full"


def test_the_log_has_no_key_that_the_app_echoes(made: Installation, clock: Clock, app: FaultyApp) -> None:
    """An app may name the address in its answer; our line shows the key cut."""
    app.behaviour = "explain"
    key = made.key()
    receipt = receive(made, clock, made.address(key))
    assert key not in receipt.decision.detail


def test_a_limit_defers_and_counts_a_message_once(made: Installation, clock: Clock) -> None:
    """Over: 4.7.1, and the message stays in the queue; a retry asks again, and what has passed is not asked."""
    made.config.write_text(made.config.read_text() + "limits: {per_key: [2/1m], per_sender: []}\n")
    to = made.address(made.key())
    for queue_id in ("A", "A", "B"):
        assert receive(made, clock, to, queue_id=queue_id).decision.rule == "accepted"
    over = receive(made, clock, to, queue_id="C").decision
    assert (over.action, over.rule, over.status) == ("defer", "limit", "4.7.1")
    assert receive(made, clock, made.address(made.key("other")), queue_id="D").decision.rule == "accepted"
    assert receive(made, clock, to, queue_id="A").already
    clock.time += 61
    assert receive(made, clock, to, queue_id="C").decision.rule == "accepted"
    assert len(taken(made)) == 4


def test_a_message_that_a_limit_keeps_too_long_is_parked(made: Installation, clock: Clock) -> None:
    """Never dropped, never bounced: past give_up_after a person gets it, and can release it."""
    made.config.write_text(made.config.read_text() + "limits: {per_key: [1/30d], per_sender: []}\n")
    to = made.address(made.key())
    receive(made, clock, to, queue_id="A")
    assert receive(made, clock, to, queue_id="B").decision.rule == "limit"
    clock.time += 4 * DAY + 1
    kept = receive(made, clock, to, queue_id="B")
    assert (kept.decision.action, kept.decision.rule) == ("park", "gave-up")
    assert Gateway(made.settings, now=clock).release(kept.id, deadline=time.monotonic() + 20).decision.action == "accept"
    assert len(taken(made)) == 2


def test_what_is_refused_counts_in_no_limit(made: Installation, clock: Clock) -> None:
    """A flood of bad keys uses up nobody's share."""
    made.config.write_text(made.config.read_text() + "limits: {per_route: [1/1m]}\n")
    for number in range(3):
        assert receive(made, clock, "reply+garbage@in.example.com", queue_id=f"N{number}").decision.rule == "key-unknown"
    assert receive(made, clock, made.address(made.key()), queue_id="A").decision.rule == "accepted"


def test_a_revoked_key_is_refused_from_then_on(made: Installation, clock: Clock) -> None:
    """The revoked: file is read again for each message."""
    from gatepost.cli import main

    to = made.address(made.key())
    assert receive(made, clock, to).decision.rule == "accepted"
    assert main(["key", "revoke", "--config", str(made.config), to]) == 0
    assert receive(made, clock, to, queue_id="Q2").decision.rule == "key-revoked"


def test_an_unreadable_revoked_file_defers(made: Installation, clock: Clock) -> None:
    """A revoked key must not pass because of a wrong mode: what is there and cannot be read is our own fault."""
    made.revoked.mkdir()
    receipt = receive(made, clock, made.address(made.key()))
    assert (receipt.decision.action, receipt.decision.rule) == ("defer", "internal-error")
    assert taken(made) == []


ODD = "tab\t line\n back\\slash \u202e \udcff \x00 \U0001f600"
FROZEN = [
    ("plain", rule_decision("accept", "accepted", route="replies"), "the least"),
    ("whole", rule_decision("park", "gave-up", detail=ODD).replace(
        key=Key(raw="k", subject=ODD, options=("a", ODD)), thread=Thread(found_in="References", parent_message_id=ODD),
        findings=(Finding(slug="x", family="parser", evidence=ODD), Finding(slug="y", family="loops", evidence=""))), "whole"),
    ("empty option", rule_decision("accept", "accepted").replace(key=Key(raw="", subject="", options=("",))), "none lost"),
]  # fmt: skip


@pytest.mark.parametrize("decision", [row[1] for row in FROZEN], ids=[row[0] for row in FROZEN])
def test_a_decision_survives_the_ledger(decision: Decision) -> None:
    """What was judged comes back as it was, whatever characters a stranger put into it; and it is one ASCII text."""
    assert thaw(freeze(decision)) == decision
    assert freeze(decision).isascii()


@pytest.mark.parametrize("text", ["", "x", "key\ta", "decision\taccept", "decision\ta\tb\tc\td\te\tf\nfinding\tx", "\u00e9"])
def test_another_text_is_no_decision(text: str) -> None:
    """A damaged ledger gives an error, which defers, and never half a decision."""
    with pytest.raises(ValueError):  # noqa: PT011  # any of them
        thaw(text)


@pytest.mark.parametrize("back", [3.0, 3_600.0, 40 * DAY])
def test_a_clock_that_is_set_back_changes_no_octet(made: Installation, app: FaultyApp, clock: Clock, back: float) -> None:
    """What was cut off comes again with the same body, whatever our clock says meanwhile: an app may compare them."""
    app.behaviour = "cut-body"
    to, queue_id = made.address(made.key()), "4jWl4Z5tH8zJv6D"
    assert receive(made, clock, to, queue_id=queue_id).decision.action == "defer"
    clock.time -= back
    app.behaviour = "ok"
    assert receive(made, clock, to, queue_id=queue_id).decision.action == "accept"
    first, second = (request.body for request in app.requests)
    assert first == second
