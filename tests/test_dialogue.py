"""The one path before the queue: what each recipient is told, what is written down, and what the door behind believes of it.

Promises: the store, the policy and the app that is asked are real; only who looks DNS up is the test's own. Messages go through
both doors as Postfix would carry them.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from gatepost import ask, asker, policy, stamp
from gatepost.authentication import Checked, DmarcResult, Mail
from gatepost.decision import RULES, Decision, Envelope, Key, Sender
from gatepost.dialogue import Arrived, Dialogue, Ending
from gatepost.frozen import thaw
from gatepost.gateway import Gateway, Receipt, delivery_id
from gatepost.keys import keyring, signed
from gatepost.keys.base32 import encode
from gatepost.keys.keyring import revocation_line
from gatepost.mail.canonical import crlf
from gatepost.mail.message import parse
from gatepost.settings import Settings
from gatepost.smtp_reply import reply_for
from gatepost.stores import ledger as ledger_module
from gatepost.stores.database import DATABASE
from gatepost.stores.ledger import Ledger
from gatepost.stores.parked import Parked
from gatepost.stores.pool import Ledgers
from tests.hostile import HOSTILE
from tests.installation import DOMAIN, KEY_ID, SECRET, WEBHOOK_SECRET, Installation, install
from tests.test_ask import KeyApp
from tests.test_sinks import SECRET as ASKING

DAY = 86_400.0
HOST = "mx.in.example.com"
QUEUE_ID = "4jWl4Z5tH8zJv6D"
#: `milter:`, and routes beside those of tests/installation.py. The URL is replaced by the app's.
MORE = """\
  - name: desk
    address: "desk+%{{key}}@in.example.com"
    keys: {{format: gitlab, kinds: [reply], ask: "{url}", ask_secret: asking}}
    deliver: [app]
  - name: team
    address: "team@in.example.com"
    keys: {{format: signed, secret: reply-keys, ask: "{url}", ask_secret: asking}}
    deliver: [app]
  - name: strict
    address: "strict+%{{key}}@in.example.com"
    keys: {{format: signed, secret: reply-keys}}
    screening: {{automatic: reject, loops: reject, bounces: reject, lists: reject, unauthenticated: reject, malformed: reject}}
    deliver: [app]
  - name: kept
    address: "kept+%{{key}}@in.example.com"
    keys: {{format: signed, secret: reply-keys}}
    screening: {{automatic: park}}
    deliver: [app]
  - name: owned
    address: "owned+%{{key}}@in.example.com"
    keys: {{format: signed, secret: reply-keys}}
    sender: {{must-match: reject}}
    deliver: [app]
  - name: picky
    address: "picky+%{{key}}@in.example.com"
    keys: {{format: signed, secret: reply-keys}}
    sender: {{allow: [example.org, 198.51.100.0/24], deny: [192.0.2.66, example.net]}}
    deliver: [app]
trusted: [relay.example.com]
milter: {{socket: "unix:/run/gatepost/milter.sock", authserv_id: mx.in.example.com}}
{limits}
"""
PERSON = "From: A Person <person@example.org>\nTo: x\nSubject: Hello\nMessage-ID: <1@example.org>\n"
TEXT = "\nHello.\n"
VACATION = "Auto-Submitted: auto-replied\n"
TROUBLE = 30.0  # seconds that nothing here should need


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self) -> None:
        self.time = float(int(time.time()))

    def __call__(self) -> float:
        return self.time


class Checks:
    """Who looks senders up in DNS: says what the test says, and notes what it was given."""

    def __init__(self) -> None:
        self.sender = Sender(verified="yes", by=f"dmarc {HOST}", mail_from_verified=True)
        self.asked: list[Mail] = []
        self.fault: Exception | None = None

    def check(self, mail: Mail, *, deadline: float) -> Checked:
        assert deadline > time.monotonic()
        self.asked.append(mail)
        if self.fault is not None:
            raise self.fault
        result = {"yes": "pass", "no": "fail", "unknown": "temperror" if self.sender.temporary else "none"}[
            self.sender.verified
        ]
        return Checked(methods=("dmarc",), dmarc=DmarcResult(result=result, from_domain="example.org"), sender=self.sender)


class House:
    """An installation with both doors open."""

    def __init__(self, made: Installation, app: KeyApp, limits: str = "") -> None:
        self.made, self.app = made, app
        self.clock, self.checks = Clock(), Checks()
        self.settings: Settings = made.settings
        self.dialogue = Dialogue(self.settings, now=self.clock, authenticator=self.checks)  # type: ignore[arg-type]  # as one
        self._queued = itertools.count(1)

    def key(self, subject: str = "42", **options: Any) -> str:
        return self.made.key(subject, **options)

    def to(self, route: str = "reply", key: str = "") -> str:
        return f"{route}+{key or self.key()}@{DOMAIN}"

    def revoked(self, key: str) -> str:
        with self.made.revoked.open("a") as file:
            file.write(revocation_line(SECRET.encode(), KEY_ID, key) + "\n")
        return key

    def rcpt(self, to: str, *, sender: str = "person@example.org", client: str = "192.0.2.7", helo: str = "a") -> Decision:
        return self.dialogue.recipient(Envelope(sender=sender, recipient=to, client_address=client, helo=helo))

    def end(self, *recipients: str, **changes: Any) -> Ending:
        return self.dialogue.end(arrived(*recipients, **changes))

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        if not (self.made.store / DATABASE).exists():
            return []  # nothing was ever written
        with closing(sqlite3.connect(self.made.store / DATABASE)) as database:
            return database.execute(f"SELECT * FROM {table}").fetchall()

    def counts(self) -> tuple[int, int, int]:
        """How many deliveries, tokens and counts the store has."""
        return len(self.rows("delivery")), len(self.rows("token")), len(self.rows("counted"))

    def behind(self, to: str, ending: Ending, message: Arrived, **changes: Any) -> Receipt:
        """The pipe script's run on the message as Postfix has it now, for one recipient."""
        envelope = Envelope(
            **{"sender": message.sender, "recipient": to, "queue_id": message.queue_id, "client_address": message.client_address,
               "helo": message.helo, **changes}
        )  # fmt: skip
        raw = queued(ending, message, envelope.queue_id)
        return Gateway(self.settings, now=self.clock).receive(envelope, raw, deadline=time.monotonic() + TROUBLE)

    def parked(self) -> list[str]:
        return sorted(entry.rule for entry in Parked.open(self.settings, now=self.clock).list())


def arrived(*recipients: str, **changes: Any) -> Arrived:
    """A person's message at its end."""
    head, text = changes.pop("head", ""), changes.pop("text", TEXT)
    usual: dict[str, Any] = {
        "sender": "person@example.org", "client_address": "192.0.2.7", "client_name": "mail.example.org", "helo": "mail.example.org",
        "queue_id": QUEUE_ID, "host": HOST, "recipients": recipients, "others": False,
        "raw": crlf(f"{PERSON}{head}{text}".encode("utf-8", "surrogateescape")),
    }  # fmt: skip
    return Arrived(**(usual | changes))


def queued(ending: Ending, message: Arrived, queue_id: str) -> bytes:
    """What Postfix makes of it: forged fields out by name and number, ours on top, and its own Received above."""
    head, gap, body = crlf(message.raw).partition(b"\r\n\r\n")
    fields = [
        field.replace(b"\0", b"\r\n") for field in head.replace(b"\r\n ", b"\0 ").replace(b"\r\n\t", b"\0\t").split(b"\r\n")
    ]
    for name, number in ending.remove:
        places = [at for at, field in enumerate(fields) if field.partition(b":")[0].strip().lower().decode("latin-1") == name]
        del fields[places[number - 1]]
    ours = [f"{name}: {value}".encode("latin-1") for name, value in ending.insert]
    received = (
        f"Received: from {message.helo} ({message.client_name} [{message.client_address}])\r\n"
        f"\tby {message.host} (Postfix) with ESMTP id {queue_id};\r\n\tSat, 21 Nov 2026 10:00:00 +0000"
    )
    return b"\r\n".join([received.encode(), *ours, *fields]) + gap + body


@pytest.fixture(name="app")
def _app() -> Iterator[KeyApp]:
    with KeyApp(live=("a" * 32,)) as running:
        yield running


def built(folder: Path, app: KeyApp, limits: str = "", *, edit: Callable[[str], str] = str) -> Installation:
    """An installation with the routes of MORE; `edit` changes them."""
    made = install(folder, more=edit(MORE.format(url=app.url, limits=limits)))
    with (folder / "secrets.yml").open("a") as file:
        file.write(f"asking: ['{ASKING}']\n")
    return made


def opened(folder: Path, app: KeyApp, limits: str = "") -> House:
    return House(built(folder, app, limits), app)


@pytest.fixture(name="house")
def _house(tmp_path: Path, app: KeyApp) -> Iterator[House]:
    house = opened(tmp_path, app)
    yield house
    house.dialogue.close()


@pytest.fixture(name="limited")
def _limited(tmp_path: Path, app: KeyApp) -> Iterator[House]:
    """With a limit of two messages a minute to each key, and three from each sender."""
    house = opened(tmp_path, app, "limits: {per_key: [2/1m], per_sender: [3/1m], per_route: [1000/1m]}")
    yield house
    house.dialogue.close()


# RCPT


RCPTS: list[tuple[str, Callable[[House], str], dict[str, str], str, str, str]] = [
    ("live", lambda house: house.to(), {}, "accept", "accepted", "replies"),
    ("capitals, quoted", lambda house: f'"Reply+{house.key().upper()}"@IN.EXAMPLE.COM.', {}, "accept", "accepted", "replies"),
    ("dedicated", lambda _: f"support@{DOMAIN}", {}, "accept", "accepted", "support"),
    ("unknown", lambda house: house.to(key="garbage"), {}, "reject", "key-unknown", "replies"),
    ("nothing", lambda _: f"reply+@{DOMAIN}", {}, "reject", "key-unknown", "replies"),
    ("forged", lambda house: house.to(key=house.key(secret="a stranger's secret of 32 bytes.")), {}, "reject", "key-forged", "replies"),
    ("expired", lambda house: house.to(key=house.key(days=-1)), {}, "reject", "key-expired", "replies"),
    ("last day", lambda house: house.to(key=house.key(days=0)), {}, "accept", "accepted", "replies"),
    ("revoked", lambda house: house.to(key=house.revoked(house.key("gone"))), {}, "reject", "key-revoked", "replies"),
    ("app says yes", lambda house: house.to("desk", "a" * 32), {}, "accept", "accepted", "desk"),
    ("app says no", lambda house: house.to("desk", "b" * 32), {}, "reject", "key-unknown", "desk"),
    ("not to be asked", lambda house: house.to("desk", "garbage"), {}, "reject", "key-unknown", "desk"),
    ("denied client", lambda house: house.to("picky"), {"client": "192.0.2.66"}, "reject", "sender-denied", "picky"),
    ("denied client, mapped", lambda house: house.to("picky"), {"client": "::ffff:192.0.2.66"}, "reject", "sender-denied", "picky"),
    ("denied MAIL FROM", lambda house: house.to("picky"), {"sender": "x@EXAMPLE.net"}, "reject", "sender-denied", "picky"),
    ("denied elsewhere", lambda house: house.to(), {"sender": "x@example.net"}, "accept", "accepted", "replies"),
    ("not yet known whether allowed", lambda house: house.to("picky"), {"sender": "x@example.com"}, "accept", "accepted", "picky"),
    ("null sender", lambda house: house.to("strict"), {"sender": ""}, "accept", "accepted", "strict"),
    # Not ours: Postfix decides
    ("another user", lambda _: f"root@{DOMAIN}", {}, "accept", "accepted", ""),
    ("another domain", lambda house: f"reply+{house.key()}@example.org", {}, "accept", "accepted", ""),
    ("postmaster", lambda _: "postmaster", {}, "accept", "accepted", ""),
    ("abuse", lambda _: f"Abuse@{DOMAIN}", {}, "accept", "accepted", ""),
    ("mailer-daemon", lambda _: f"mailer-daemon@{DOMAIN}", {}, "accept", "accepted", ""),
    ("no address at all", lambda _: "", {}, "accept", "accepted", ""),
]  # fmt: skip


@pytest.mark.parametrize(("to", "client", "action", "rule", "route"), [row[1:] for row in RCPTS], ids=[row[0] for row in RCPTS])
def test_each_recipient_is_told_what_is_known_of_it(
    house: House, to: Callable[[House], str], client: dict[str, str], action: str, rule: str, route: str
) -> None:
    """A recipient of ours is accepted with its route, or refused by the rule that says why; another is left to Postfix."""
    decision = house.rcpt(to(house), **client)
    assert (decision.action, decision.rule, decision.route) == (action, rule, route)


def test_an_app_that_is_silent_defers_at_rcpt(house: House) -> None:
    """451, for a key that may be alive; what is no key is refused without it."""
    house.app.answer = lambda raw: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    silent = house.rcpt(house.to("desk", "a" * 32))
    assert str(reply_for(silent)) == "451 4.3.0 Temporary failure, try later"
    assert (silent.rule, silent.route) == ("ask-unavailable", "desk")
    assert "503" in silent.detail
    assert house.rcpt(house.to("desk", "garbage")).rule == "key-unknown"


def test_rcpt_writes_nothing(limited: House) -> None:
    """However often a recipient is asked for, nothing is counted, judged or recorded, and no limit is used up."""
    to = limited.to()
    assert {limited.rcpt(to).action for _ in range(50)} == {"accept"}
    assert {limited.rcpt(limited.to(key="garbage")).action for _ in range(50)} == {"reject"}
    assert limited.counts() == (0, 0, 0)


def test_a_full_limit_defers_at_rcpt_already(limited: House) -> None:
    """451 4.7.1 while the key's limit is full; other keys, and dead ones, have their own answer."""
    to = limited.to()
    for n in range(2):
        assert limited.end(to, queue_id=f"Q{n}").action == "accept"
    full = limited.rcpt(to)
    assert (full.action, full.rule, full.status) == ("defer", "limit", "4.7.1")
    assert full.detail == "per_key 2/1m, room in 60s"
    assert limited.rcpt(limited.to(key=limited.key("43"))).action == "accept"
    assert limited.rcpt(limited.to(key="garbage")).action == "reject"
    limited.clock.time += 61
    assert limited.rcpt(to).action == "accept"


def warm(house: House) -> AbstractContextManager[Ledger]:
    """The connection that the next one gets as well: the very first is opened before the store is there, and not used again."""
    for _ in range(2):
        house.rcpt(house.to())
    return house.dialogue._ledgers.ledger()


class Counted:
    """How often each thing was done."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        self.hmacs = self.asks = self.transactions = 0
        with warm(house) as kept:
            kept._database.set_trace_callback(self.statements.append)
        for module in (signed, keyring, ledger_module, asker, stamp):
            monkeypatch.setattr(module, "hmac_sha256", self._hmac(module.hmac_sha256))
        monkeypatch.setattr(house.dialogue._asker, "alive", self._ask(house.dialogue._asker.alive))

    def _hmac(self, whole: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(*arguments: bytes) -> bytes:
            self.hmacs += 1
            return whole(*arguments)

        return counted

    def _ask(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.asks += 1
            return whole(*arguments, **named)

        return counted

    def taken(self, act: Callable[[], object]) -> tuple[int, int, int, list[str]]:
        self.statements.clear()
        self.hmacs = self.asks = 0
        act()
        plain = [statement.partition("counter =")[0] for statement in self.statements]
        return len(self.statements), self.hmacs, self.asks, plain


@pytest.mark.parametrize("secrets", [1, 3], ids=["one secret", "three secrets"])
def test_a_guess_learns_nothing(limited: House, monkeypatch: pytest.MonkeyPatch, secrets: int) -> None:
    """Unknown, forged, expired and revoked: one reply, and as many statements, HMACs and questions for each of them."""
    if secrets > 1:
        path = limited.made.folder / "secrets.yml"
        more = [f"another secret of at least thirty-two bytes {n}" for n in range(secrets - 1)]
        path.write_text(f"reply-keys: {[*more, SECRET]}\napp-webhook: ['{WEBHOOK_SECRET}']\nasking: ['{ASKING}']\n")
        limited.dialogue.close()
        limited = House(limited.made, limited.app)
    revoked = limited.revoked(limited.key("gone"))
    dead = {
        "unknown": "garbage",
        "empty": "",
        "long": "x" * 60,
        "not ASCII": "\u212a" + limited.key()[1:],
        "forged": limited.key(secret="a stranger's secret of 32 bytes."),
        "expired": limited.key(days=-1),
        "revoked": revoked,
        "expired and revoked": limited.revoked(limited.key("both", days=-1)),
        "of another domain": encode(os.urandom(20)),
    }
    counted = Counted(limited, monkeypatch)
    replies: set[str] = set()
    work: set[tuple[int, int, int, tuple[str, ...]]] = set()
    for text in dead.values():
        for client in ("192.0.2.7", "unknown"):
            to = f"reply+{text}@{DOMAIN}"
            taken = counted.taken(lambda to=to, client=client: replies.add(str(reply_for(limited.rcpt(to, client=client)))))  # type: ignore[misc]
            work.add((*taken[:3], tuple(taken[3])))
    assert replies == {"550 5.1.1 No such address"}
    assert len(work) == 1
    ((statements, hmacs, asks),) = [each[:3] for each in work]
    assert statements > 0, "the store is asked for a dead key as for a live one"
    assert hmacs >= secrets
    assert asks == 0
    limited.dialogue.close()


def test_each_guess_at_an_asked_key_is_one_question(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a format that cannot tell, a made-up key and one that the app has ended cost the same: one question."""
    counted = Counted(house, monkeypatch)
    work = {counted.taken(lambda n=n: house.rcpt(house.to("desk", f"{n:032x}")))[:3] for n in range(20)}  # type: ignore[misc]
    assert len(work) == 1
    ((_, _, asks),) = work
    assert asks == 1
    assert len(house.app.asked) == 20


def test_twenty_thousand_guesses(house: House) -> None:
    """No guess of a key is accepted: random ones of the right form, and a live one changed in one character."""
    live = house.key()
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    changed = [live[:at] + char + live[at + 1 :] for at in range(len(live)) for char in alphabet if char != live[at]]
    random = [encode(bytes([0x10 + n % 4]) + os.urandom(11 + n % 16)) for n in range(20_000 - len(changed))]
    rules: set[tuple[str, str]] = set()
    for guess in itertools.chain(changed, random):
        decision = house.rcpt(f"reply+{guess}@{DOMAIN}")
        rules.add((decision.action, decision.rule))
    assert rules == {("reject", "key-forged"), ("reject", "key-unknown")}
    assert house.rcpt(f"reply+{live}@{DOMAIN}").action == "accept"
    assert house.counts() == (0, 0, 0)


# The end of a message, for one recipient


class Message:
    """What makes a rule decide at the end of a message: the recipient's route, the message, who the sender is."""

    def __init__(
        self, route: str, rule: str, action: str, *, verified: Sender | None = None, owner: str = "", **changes: Any
    ) -> None:
        self.route, self.rule, self.action, self.verified, self.owner, self.changes = (
            route,
            rule,
            action,
            verified,
            owner,
            changes,
        )


UNKNOWN, NO, TEMPORARY = Sender(), Sender(verified="no", by=f"dmarc {HOST}"), Sender(temporary=True)
OWNER = "owner@example.org"
ENDS: dict[str, Message] = {
    "a person": Message("reply", "accepted", "accept"),
    "nobody verified": Message("reply", "accepted", "accept", verified=UNKNOWN),
    "DNS silent": Message("reply", "accepted", "accept", verified=TEMPORARY),
    "a person to strict": Message("strict", "accepted", "accept"),
    "vacation": Message("reply", "automatic", "discard", head=VACATION),
    "vacation to strict": Message("strict", "automatic", "reject", head=VACATION),
    "vacation, kept": Message("kept", "automatic", "park", head=VACATION),
    "report": Message("strict", "bounce", "reject", head="Content-Type: multipart/report; boundary=x\n", sender=""),
    "null sender": Message("strict", "null-sender", "reject", sender=""),
    "list": Message("strict", "list", "reject", head="List-Id: <x.example.net>\n"),
    "unauthenticated": Message("strict", "unauthenticated", "reject", verified=NO),
    "unauthenticated, accepted": Message("reply", "accepted", "accept", verified=NO),
    "malformed": Message("strict", "malformed", "reject", head="References: " + "<a@example.org> " * 501 + "\n"),
    "malformed, accepted": Message("reply", "accepted", "accept", head="References: " + "<a@example.org> " * 501 + "\n"),
    "loop": Message("strict", "loop", "reject", head="List-Id: <x.in.example.com>\n"),
    "51 hops": Message("strict", "loop", "reject", head="Received: by a.example.org\n" * 50),  # and Postfix's own
    "50 hops": Message("strict", "accepted", "accept", head="Received: by a.example.org\n" * 49),
    "another than the owner": Message("owned", "sender-mismatch", "reject", owner=OWNER),
    "the owner": Message("owned", "accepted", "accept", owner="person@example.org"),
    "the owner, unverified": Message("owned", "sender-unverified", "reject", owner="person@example.org", verified=UNKNOWN),
    "the owner, DNS silent": Message("owned", "sender-unchecked", "defer", owner="person@example.org", verified=TEMPORARY),
    "allowed": Message("picky", "accepted", "accept"),
    "allowed, unverified": Message("picky", "sender-unverified", "reject", verified=UNKNOWN),
    "allowed, DNS silent": Message("picky", "sender-unchecked", "defer", verified=TEMPORARY),
    "allowed client": Message("picky", "accepted", "accept", verified=UNKNOWN, client_address="198.51.100.9"),
    "denied From": Message("picky", "sender-denied", "reject", raw=b"From: x@example.net\r\n\r\nHello.\r\n"),
    "not allowed": Message("picky", "sender-not-allowed", "reject", raw=b"From: x@example.com\r\n\r\nHello.\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_each_rule_decides_at_the_end(house: House, name: str) -> None:
    """One recipient: its verdict is the message's, with the status and text of its rule; parked is a 250."""
    row = ENDS[name]
    if row.verified is not None:
        house.checks.sender = row.verified
    to = house.to(row.route, house.key(owner=row.owner) if row.owner else "")
    ending = house.end(to, **row.changes)
    if row.action in ("accept", "park"):
        assert (ending.action, ending.lines, ending.delete) == ("accept", (), ())
        assert [field for field, _ in ending.insert] == ["X-Gatepost-Stamp", "Authentication-Results"]
        (kept,) = [thaw(each[9]) for each in house.rows("delivery")]
        assert (kept.action, kept.rule, kept.sender) == (row.action, row.rule, house.checks.sender)
        return
    assert (ending.action, ending.decision.rule) == (row.action, row.rule)
    assert (ending.decision.status, ending.decision.text) == (RULES[row.rule].status, RULES[row.rule].text)
    ((shown, decision, id_),) = ending.lines
    assert (decision, id_) == (ending.decision, "")
    assert house.key() not in shown
    assert (ending.insert, ending.remove, ending.delete) == ((), (), ())
    assert house.counts() == (0, 0, 0), "what is not queued leaves nothing behind"


@pytest.mark.parametrize("name", ENDS)
def test_behind_the_queue_it_is_judged_the_same(house: House, name: str) -> None:
    """Both doors give one verdict: what goes on past the milter is claimed under the milter's row, by the same rule."""
    row = ENDS[name]
    if row.verified is not None:
        house.checks.sender = row.verified
    to = house.to(row.route, house.key(owner=row.owner) if row.owner else "")
    message = arrived(to, **row.changes)
    ending = house.dialogue.end(message.replace(others=True))  # so that it is queued whatever was decided
    assert ending.action == "accept"
    if row.action == "discard":
        assert ending.delete == (to,)
        return
    receipt = house.behind(to, ending, message)
    if row.rule == "sender-unchecked":  # no client there to come again, and nobody asks DNS
        assert (receipt.decision.rule, receipt.decision.action) == ("sender-unverified", "park")
        return
    assert receipt.decision.rule == row.rule
    behind = {"reject": "reject" if house.checks.sender.mail_from_verified else "park"}
    machine = row.rule in ("loop", "automatic", "bounce", "null-sender")
    expected = "discard" if machine and row.action == "reject" else behind.get(row.action, row.action)
    assert receipt.decision.action == expected


def test_a_message_for_nobody_of_ours_goes_on(house: House) -> None:
    """Without a recipient of ours nothing refuses it; the milter does not come this far with it."""
    assert house.end(others=True).action == "accept"


# Recipients together


class Mixed:
    """The routes of a message's recipients, and what becomes of it. `gone`: by their place."""

    def __init__(
        self, id_: str, routes: str, action: str, *, gone: tuple[int, ...] = (), rule: str = "", **changes: Any
    ) -> None:
        self.id, self.routes, self.action, self.gone, self.rule, self.changes = id_, routes.split(), action, gone, rule, changes


#: With a vacation reply: reply+ discards, strict+ rejects, kept+ parks, picky+ takes it (see `mixed`), desk+ waits for the app.
MIXED = [
    Mixed("accept, reject", "machines strict", "accept"),
    Mixed("accept, discard", "machines reply", "accept", gone=(1,)),
    Mixed("accept, discard, discard", "reply machines reply", "accept", gone=(0, 2)),
    Mixed("accept, park", "machines kept", "accept"),
    Mixed("accept, defer", "machines silent", "accept"),
    Mixed("reject, reject", "strict strict", "reject", rule="automatic"),
    Mixed("reject, discard", "strict reply", "accept", gone=(1,)),
    Mixed("reject, park", "strict kept", "accept"),
    Mixed("reject, defer", "strict silent", "defer", rule="ask-unavailable"),
    Mixed("discard, discard", "reply reply", "discard", rule="automatic"),
    Mixed("discard, defer", "reply silent", "defer", rule="ask-unavailable"),
    Mixed("discard, park", "reply kept", "accept", gone=(0,)),
    Mixed("defer, defer", "silent silent", "defer", rule="ask-unavailable"),
    Mixed("everything", "machines strict reply kept silent", "accept", gone=(2,)),
    Mixed("others, accept", "machines", "accept", others=True),
    Mixed("others, reject", "strict", "accept", others=True),
    Mixed("others, discard", "reply", "accept", gone=(0,), others=True),
    Mixed("others, discard, discard", "reply reply", "accept", gone=(0, 1), others=True),
    Mixed("others, park", "kept", "accept", others=True),
    Mixed("others, defer", "silent", "accept", others=True),
    Mixed("others, reject, discard, defer", "strict reply silent", "accept", gone=(1,), others=True),
]


def mixed(house: House, routes: list[str]) -> list[str]:
    """Recipients with keys of their own. `machines` takes automatic mail; `silent` asks an app that does not answer."""
    house.app.answer = lambda raw: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" if raw.startswith("5") else None
    found = []
    for n, name in enumerate(routes):
        if name == "silent":
            found.append(house.to("desk", f"5{n:031x}"))
        else:
            found.append(house.to(name, house.key(f"{name}{n}")))
    return found


@pytest.fixture(name="various")
def _various(tmp_path: Path, app: KeyApp) -> Iterator[House]:
    """With a route that takes automatic mail, and a desk that takes it too."""
    accepting = "    screening: {automatic: accept}\n"
    machines = """\
  - name: machines
    address: "machines+%{key}@in.example.com"
    keys: {format: signed, secret: reply-keys}
    deliver: [app]
"""

    def edit(more: str) -> str:
        desk = more.replace("    keys: {format: gitlab", f"{accepting}    keys: {{format: gitlab", 1)
        return desk.replace("trusted:", machines.replace("    deliver:", f"{accepting}    deliver:") + "trusted:")

    house = House(built(tmp_path, app, edit=edit), app)
    yield house
    house.dialogue.close()


@pytest.mark.parametrize("row", MIXED, ids=lambda row: row.id)
def test_recipients_that_disagree(various: House, row: Mixed) -> None:
    """One answer for all; who discards is deleted and logged; who is to have it, and who refuses, goes on with its own row."""
    recipients = mixed(various, row.routes)
    message = arrived(*recipients, head=VACATION, **row.changes)
    ending = various.dialogue.end(message)
    assert ending.action == row.action
    assert ending.delete == tuple(recipients[at] for at in row.gone)
    if row.action != "accept":
        assert ending.decision.rule == row.rule
        assert len(ending.lines) == len(recipients), "each recipient has its line"
        assert various.counts() == (0, 0, 0)
        return
    gone = [decision.rule for _, decision, id_ in ending.lines if len(id_) == 64]
    assert gone == ["automatic"] * len(row.gone)
    for name, to in zip(row.routes, recipients, strict=True):
        if to in ending.delete:
            continue
        receipt = various.behind(to, ending, message)
        expected = {"machines": ("accept", "accepted"), "strict": ("discard", "automatic"), "kept": ("park", "automatic"),
                    "silent": ("defer", "ask-unavailable")}  # fmt: skip
        assert (receipt.decision.action, receipt.decision.rule) == expected[name]
    judged = [name for name in row.routes if name in ("machines", "strict", "kept")]
    deliveries, tokens, _ = various.counts()
    assert (deliveries, tokens) == (len(judged) + row.routes.count("silent"), 1)


def test_a_dead_key_among_good_ones_refuses_itself_alone(house: House) -> None:
    """A key that died since RCPT: the good ones get the message, the dead one goes on to after_queue, by its own rule."""
    good, dying = house.to(), house.key("gone")
    bad = house.to(key=dying)
    assert house.rcpt(bad).action == "accept"
    house.revoked(dying)
    message = arrived(good, bad)
    ending = house.dialogue.end(message)
    assert (ending.action, ending.delete) == ("accept", ())
    assert house.behind(good, ending, message).decision.rule == "accepted"
    assert house.behind(bad, ending, message).decision.rule == "key-revoked"


def test_one_recipient_in_several_spellings_is_one(limited: House) -> None:
    """Judged and counted once, and deleted in every spelling in which it came."""
    key = limited.key()
    spellings = (f"reply+{key}@{DOMAIN}", f"Reply+{key.upper()}@{DOMAIN}", f'"reply+{key}"@{DOMAIN}.', f"reply+{key}@{DOMAIN}")
    ending = limited.end(*spellings)
    assert ending.action == "accept"
    assert limited.counts() == (1, 1, 3)  # per_key, per_sender, per_route
    gone = limited.end(*spellings, limited.to("strict"), head=VACATION, queue_id="Q2", others=True)
    assert gone.delete == spellings
    assert len(gone.lines) == 1


# Limits


def test_limits_count_once_for_both_doors(limited: House) -> None:
    """Counted at the end of the message, once for each recipient; the pipe script's runs, however many, count nothing more."""
    first, second = limited.to(), limited.to(key=limited.key("43"))
    message = arrived(first, second)
    ending = limited.dialogue.end(message)
    assert limited.counts() == (2, 1, 6)
    for to in (first, second, first):
        assert limited.behind(to, ending, message).decision.rule == "accepted"
    assert limited.counts() == (2, 1, 6)


def test_a_full_limit_defers_the_message(limited: House) -> None:
    """All recipients limited: 451 4.7.1, and nothing is written: the message comes again and is judged afresh."""
    to = limited.to()
    for n in range(2):
        limited.end(to, queue_id=f"Q{n}")
    before = limited.counts()
    ending = limited.end(to, queue_id="Q3")
    assert (ending.action, ending.decision.rule, ending.decision.status) == ("defer", "limit", "4.7.1")
    assert ending.lines[0][1].detail == "per_key 2/1m, room in 60s"
    assert limited.counts() == before
    limited.clock.time += 61
    assert limited.end(to, queue_id="Q4").action == "accept"


def test_a_limited_recipient_among_others_waits_behind_the_queue(limited: House) -> None:
    """The others get the message now; the limited one has no row, waits in the queue, and is counted when it passes."""
    full, free = limited.to(), limited.to(key=limited.key("43"))
    for n in range(2):
        limited.end(full, queue_id=f"Q{n}")
    message = arrived(full, free)
    ending = limited.dialogue.end(message)
    assert ending.action == "accept"
    assert limited.behind(free, ending, message).decision.rule == "accepted"
    waits = limited.behind(full, ending, message)
    assert (waits.decision.action, waits.decision.rule) == ("defer", "limit")
    limited.clock.time += 61
    assert limited.behind(full, ending, message).decision.rule == "accepted"


def test_a_limited_recipient_among_strangers_keeps_the_token(limited: House) -> None:
    """All of ours limited, but others are on the message: it is queued, and a requeue finds its token in the store."""
    own = limited.to("owned", limited.key(owner="person@example.org"))
    for n in range(2):
        limited.end(own, queue_id=f"Q{n}")
    message = arrived(own, others=True)
    ending = limited.dialogue.end(message)
    assert (ending.action, limited.counts()) == ("accept", (2, 3, 6))
    assert limited.behind(own, ending, message, queue_id="4jZZZZ5tH8zJv6D").decision.rule == "limit"
    limited.clock.time += 61
    assert limited.behind(own, ending, message, queue_id="4jZZZZ5tH8zJv6D").decision.rule == "accepted"


def test_a_dead_key_is_refused_whatever_is_full(tmp_path: Path, app: KeyApp) -> None:
    """A full limit of the route says nothing of a dead key: 550 as ever, or a guesser could tell when the route is busy."""
    house = opened(tmp_path, app, "limits: {per_key: [], per_sender: [], per_route: [1/1h]}")
    assert house.end(house.to()).action == "accept"
    assert house.rcpt(house.to()).rule == "limit"
    assert str(reply_for(house.rcpt(house.to(key="garbage")))) == "550 5.1.1 No such address"
    house.dialogue.close()


@pytest.mark.parametrize("others", [False, True])
def test_limited_and_refused(limited: House, others: bool) -> None:
    """Limited beside a refusal: the message waits outside, and leaves nothing; with others on it, it is queued."""
    to = limited.to()
    for n in range(2):
        limited.end(to, queue_id=f"Q{n}")
    before = limited.counts()
    dying = limited.key("gone")
    limited.revoked(dying)
    message = arrived(to, limited.to(key=dying), others=others)
    ending = limited.dialogue.end(message)
    assert ending.action == ("accept" if others else "defer")
    if not others:
        assert limited.counts() == before
    else:
        assert limited.behind(to, ending, message).decision.rule == "limit"
        assert limited.behind(limited.to(key=dying), ending, message).decision.rule == "key-revoked"


def test_many_at_once_pass_as_many_as_may(tmp_path: Path, app: KeyApp) -> None:
    """Twelve threads end twelve messages to one key whose limit is five: five pass, and seven wait."""
    house = opened(tmp_path, app, "limits: {per_key: [5/1h], per_sender: []}")
    to, endings = house.to(), []
    barrier = threading.Barrier(12)

    def run(number: int) -> None:
        barrier.wait(TROUBLE)
        endings.append(house.end(to, queue_id=f"Q{number}").action)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TROUBLE)
    assert sorted(endings) == ["accept"] * 5 + ["defer"] * 7
    house.dialogue.close()


# What the door behind the queue makes of it


def test_the_door_behind_believes_the_stamp(house: House) -> None:
    """Judged once: token in the id, verdict and verified sender from the milter, though the key has expired meanwhile."""
    owned = house.to("owned", house.key(days=0, owner="person@example.org"))
    message = arrived(owned)
    ending = house.dialogue.end(message)
    ((token, *_),) = house.rows("token")
    house.clock.time += 2 * DAY
    receipt = house.behind(owned, ending, message)
    assert receipt.decision.rule == "accepted"
    assert receipt.attempt == 1
    raw = parse(queued(ending, message, QUEUE_ID), house.settings.parser)
    ledger = Ledger.open(str(house.made.store))
    assert receipt.id == delivery_id(ledger.host_id, Envelope(sender="", recipient=owned, queue_id="other"), raw, token.hex())
    ledger.close()
    assert house.behind(owned, ending, message).already
    unstamped = house.behind(owned, ending.replace(insert=()), message, queue_id="Q9")
    assert unstamped.decision.rule == "key-expired"


def test_the_results_field_is_what_was_checked(house: House) -> None:
    """Our results stand below the stamp, under our name; the app gets the milter's verdict, not what a stranger wrote."""
    message = arrived(house.to(), head="Authentication-Results: mx.in.example.com; dmarc=fail header.from=example.org\n")
    ending = house.dialogue.end(message)
    assert ending.remove == (("authentication-results", 1),)
    assert dict(ending.insert)["Authentication-Results"].startswith(f"{HOST};")
    assert "dmarc=pass" in dict(ending.insert)["Authentication-Results"]
    (asked,) = house.checks.asked
    assert (asked.client_address, asked.helo, asked.mail_from, asked.host) == (
        "192.0.2.7",
        "mail.example.org",
        "person@example.org",
        HOST,
    )
    assert asked.raw == message.raw


def test_a_trusted_host_s_mail_is_not_checked(house: House) -> None:
    """SPF would name the relay: what it wrote of the sender counts, at both doors; its name must be verified by Postfix."""
    head = ("Received: from x (x [198.51.100.1]) by relay.example.com with ESMTP id F; Sat, 21 Nov 2026 10:00:00 +0000\n"
            "Authentication-Results: relay.example.com; dmarc=pass header.from=example.org; spf=pass smtp.mailfrom=example.org\n")  # fmt: skip
    own = house.to("owned", house.key(owner="person@example.org"))
    raw = crlf((head + PERSON + TEXT).encode())
    for name in ("relay.example.com", "Relay.Example.COM."):
        message = arrived(own, raw=raw, client_name=name, queue_id=f"Q{name}")
        ending = house.dialogue.end(message)
        assert ending.action == "accept"
        assert dict(ending.insert)["Authentication-Results"] == f"{HOST}; none"
        assert house.checks.asked == []
        receipt = house.behind(own, ending, message)
        assert (receipt.decision.rule, receipt.decision.sender.by) == ("accepted", "dmarc relay.example.com")
    house.checks.sender = UNKNOWN
    direct = arrived(own, raw=raw, client_name="unknown", helo="relay.example.com")
    assert house.dialogue.end(direct).decision.rule == "sender-unverified"


HELO = ["a by relay.example.com", "a by relay.example.com;", "a (", 'a "', "a\r\n\tby relay.example.com id Q", "[192.0.2.7]", "", "\udcff"]  # fmt: skip


@pytest.mark.parametrize("helo", HELO)
def test_helo_names_no_host_of_ours(tmp_path: Path, app: KeyApp, helo: str) -> None:
    """What a client calls itself is not read as a clause of Received, also where nobody asks DNS."""
    made = built(tmp_path, app, edit=lambda more: more.replace("authserv_id:", "authenticate: [], authserv_id:"))
    dialogue = Dialogue(made.settings)
    own = f"owned+{made.key(owner='person@example.org')}@{DOMAIN}"
    head = "Authentication-Results: relay.example.com; dmarc=pass header.from=example.org\n"
    ending = dialogue.end(arrived(own, raw=crlf((head + PERSON + TEXT).encode()), helo=helo))
    assert ending.decision.rule == "sender-unverified"
    dialogue.close()


def test_only_a_stamp_of_this_message_is_believed(house: House) -> None:
    """A stamped head that somebody saw, under another From, body, MAIL FROM or client: the sender is as unknown as ever."""
    own = house.to("owned", house.key(owner=OWNER))
    other = house.to()
    message = arrived(other)
    ending = house.dialogue.end(message)
    forged = message.replace(raw=message.raw.replace(b"A Person <person@", b"A Person <owner@"))
    again: list[tuple[Arrived, dict[str, str]]] = [
        (forged, {}), (forged, {"queue_id": "4jZZZZ5tH8zJv6D"}),
        (forged.replace(raw=forged.raw + b"more\r\n"), {"queue_id": "4jZZZZ5tH8zJv6D"}),
        (forged, {"queue_id": "4jZZZZ5tH8zJv6D", "client_address": "198.51.100.9"}),
        (forged, {"queue_id": "4jZZZZ5tH8zJv6D", "sender": "victim@example.org"}),
    ]  # fmt: skip
    for each, changes in again:
        receipt = house.behind(own, ending, each, **changes)
        assert receipt.decision.rule == "sender-unverified", changes


REQUEUED: list[tuple[str, float, dict[str, str], bool, str]] = [
    ("at once", 0.0, {}, True, "the milter's token is in the store"),
    ("after a day", DAY, {}, True, "it may be in the queue that long"),
    ("just within the queue's lifetime", 5 * DAY - 1, {}, True, "the same"),
    ("past the queue's lifetime", 5 * DAY + 1, {}, False, "no message is there so long"),
    ("another MAIL FROM", 0.0, {"sender": "other@example.org"}, False, "another message"),
    ("another client", 0.0, {"client_address": "198.51.100.9"}, False, "another message"),
    ("client gone", 0.0, {"client_address": "unknown"}, True, "postsuper does not keep it on every Postfix"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("age", "changes", "known"), [row[1:4] for row in REQUEUED], ids=[f"{row[0]}: {row[4]}" for row in REQUEUED]
)
def test_a_requeued_message_keeps_its_token(house: House, age: float, changes: dict[str, str], known: bool) -> None:
    """`postsuper -r` makes a new queue ID and no milter sees it: the record says that the token is ours, and nothing else does."""
    own = house.to("owned", house.key(owner="person@example.org"))
    message = arrived(own)
    ending = house.dialogue.end(message)
    house.clock.time += age
    receipt = house.behind(own, ending, message, queue_id="4jZZZZ5tH8zJv6D", **changes)
    assert (receipt.decision.rule == "accepted") is known
    if known:
        assert receipt.id == house.behind(own, ending, message, queue_id="4jYYYY5tH8zJv6D", **changes).id
        assert house.behind(own, ending, message).already, "one delivery under all its queue IDs"


def test_a_requeued_message_without_a_record_is_unstamped(house: House) -> None:
    """The MAC alone vouches for no second queue ID: the record was deleted, is another's, or the store is from before."""
    own = house.to("owned", house.key(owner="person@example.org"))
    message = arrived(own)
    ending = house.dialogue.end(message)
    for statement in ("UPDATE token SET binding = zeroblob(32)", "DELETE FROM token"):
        with closing(sqlite3.connect(house.made.store / DATABASE)) as database, database:
            database.execute(statement)
        assert house.behind(own, ending, message, queue_id="4jYYYY5tH8zJv6D").decision.rule == "sender-unverified"
    assert house.behind(own, ending, message, queue_id="4jZZZZ5tH8zJv6D").decision.rule == "sender-unverified"
    assert house.behind(own, ending, message).decision.rule == "accepted"


# Forged fields


@pytest.mark.parametrize(("count", "action"), [(1, "accept"), (50, "accept"), (51, "reject"), (20_000, "reject")])
@pytest.mark.parametrize("others", [False, True])
def test_forged_fields(house: House, count: int, action: str, others: bool) -> None:
    """Up to fifty are named, last first; more refuse the message for everybody, and none is removed."""
    head = f"Authentication-Results: {HOST}; dmarc=pass header.from=example.org\n" * count
    ending = house.end(house.to(), head=head, others=others)
    assert ending.action == action
    if action == "accept":
        assert ending.remove == tuple(("authentication-results", number) for number in range(count, 0, -1))
        return
    assert str(reply_for(ending.decision)) == "550 5.6.0 Too many forged header fields"
    assert (ending.remove, ending.insert, len(ending.lines)) == ((), (), 1)
    assert house.checks.asked == [], "it is refused before anything is looked up"


def test_a_forged_stamp_goes(house: House) -> None:
    """A stranger's stamp is taken out, and ours is the one that is read behind the queue."""
    own = house.to("owned", house.key(owner="person@example.org"))
    message = arrived(own, head="X-Gatepost-Stamp: v=1; t=0\nX-GATEPOST-stamp: v=1\n")
    ending = house.dialogue.end(message)
    assert ending.remove == (("x-gatepost-stamp", 2), ("x-gatepost-stamp", 1))
    assert house.behind(own, ending, message).decision.rule == "accepted"


def test_nothing_of_a_recipient_stands_in_the_message(house: House) -> None:
    """What is inserted names no recipient, key, route or number of them: it looks the same for one and for three (Bcc)."""
    recipients = [house.to(key=house.key(f"subject-{n}")) for n in range(3)]
    shapes = set()
    for chosen in (recipients[:1], recipients, [*recipients, house.to("strict")]):
        ending = house.end(*chosen, head="List-Id: <x.example.net>\n")
        for name, value in ending.insert:
            for to in recipients:
                local = to.partition("@")[0]
                for secret in (to, local, local.partition("+")[2], "subject-", "replies", "strict", DOMAIN):
                    assert secret not in value.replace(HOST, ""), name
        shapes.add(tuple((name, len(value)) for name, value in ending.insert))
        first = dict(ending.insert)["X-Gatepost-Stamp"]
        assert first not in [dict(house.end(*chosen).insert)["X-Gatepost-Stamp"]], "a token is new for each message"
    assert len(shapes) == 1


# Asking the app


def test_a_yes_from_rcpt_is_not_asked_again(house: House) -> None:
    """RCPT and the end of the message ask once together; the pipe script does not ask what was judged."""
    to = house.to("desk", "a" * 32)
    assert house.rcpt(to).action == "accept"
    message = arrived(to)
    ending = house.dialogue.end(message)
    assert house.behind(to, ending, message).decision.rule == "accepted"
    assert house.app.asked == ["a" * 32]


def test_the_thread_s_key_is_asked_at_the_end(house: House) -> None:
    """A dedicated address has no key at RCPT; the reply's thread has one, and the app says whether it lives."""
    from gatepost.keys.reply_ids import mint

    live, dead = house.key("1"), house.key("2")
    house.app.live.add(live)
    found = {}
    for key in (live, dead):
        head = f"In-Reply-To: {mint(key, b'12345678', DOMAIN)}\n"
        house.end(f"team@{DOMAIN}", head=head, queue_id=f"Q{key}")
    for row in house.rows("delivery"):
        verdict = thaw(row[9])
        found[verdict.key and verdict.key.raw] = verdict.rule
    assert found == {live: "accepted", None: "accepted"}
    assert house.app.asked == [live, dead]


def test_questions_at_the_end_share_one_deadline(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow app and many recipients: all questions of one message end together, for Postfix waits for the answer."""
    deadlines: list[float] = []

    def alive(_: ask.Question, *, deadline: float) -> ask.Answer:
        deadlines.append(deadline)
        return ask.Answer(alive="unavailable", detail="too slow")

    monkeypatch.setattr(house.dialogue._asker, "alive", alive)
    house.end(*[house.to("desk", f"{n:032x}") for n in range(20)])
    assert len(deadlines) == 20
    assert len(set(deadlines)) == 1


# Faults of ours


def gone(house: House) -> None:
    house.dialogue.close()
    (house.made.store / DATABASE).unlink()
    house.made.store.rmdir() if not list(house.made.store.iterdir()) else house.made.store.rename(house.made.folder / "away")
    house.made.store.write_text("no folder")


def corrupt(house: House) -> None:
    house.dialogue.close()
    for path in house.made.store.glob(f"{DATABASE}*"):
        path.write_bytes(b"not a database, and of no use to anybody " * 1_000)


def damaged(house: House) -> None:
    """A page in the middle is not what it was; the head of the file is."""
    house.dialogue.close()
    path = house.made.store / DATABASE
    octets = bytearray(path.read_bytes())
    octets[4_096:] = b"\xff" * (len(octets) - 4_096)
    path.write_bytes(octets)


FAULTS = [("gone", gone), ("corrupt", corrupt), ("damaged", damaged)]


@pytest.mark.parametrize("spoil", [row[1] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_store_that_is_of_no_use_defers(house: House, spoil: Callable[[House], None]) -> None:
    """451 4.3.0 at RCPT and at the end, for every recipient of ours, dead keys too; mail that is not ours is left alone."""
    recipients = (house.to(), house.to(key="garbage"))
    house.end(recipients[0])
    spoil(house)
    dialogue = Dialogue(house.settings, now=house.clock, authenticator=house.checks)  # type: ignore[arg-type]  # as one
    for to in recipients:
        decision = dialogue.recipient(Envelope(sender="a@example.org", recipient=to))
        assert (decision.rule, str(reply_for(decision))) == (
            "store-unavailable",
            "451 4.3.0 Temporary storage failure, try later",
        )
    ending = dialogue.end(arrived(recipients[0]))
    assert (ending.action, ending.decision.rule) == ("defer", "store-unavailable")
    assert len(ending.lines) == 1
    assert dialogue.recipient(Envelope(sender="a@example.org", recipient=f"root@{DOMAIN}")).action == "accept"
    dialogue.close()


def test_a_store_that_another_holds_defers_at_the_end(house: House) -> None:
    """RCPT only reads and waits for no writer; the end of a message writes, and says 451 when its patience is over."""
    house.end(house.to(), queue_id="Q0")
    house.dialogue._ledgers = Ledgers(house.settings.store, patience=0.2, busy_timeout=0.05)
    with closing(sqlite3.connect(house.made.store / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert house.rcpt(house.to()).action == "accept"
        ending = house.end(house.to())
        assert (ending.action, ending.decision.rule) == ("defer", "store-unavailable")
        other.execute("ROLLBACK")
    assert house.end(house.to()).action == "accept"


def test_a_full_disk_defers_at_the_end(house: House) -> None:
    """What cannot be written down is not accepted; RCPT still answers, and room mends it."""
    with warm(house) as ledger:
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
    actions = []
    for n in range(400):
        ending = house.end(house.to(), queue_id=f"Q{n}")
        actions.append(ending.action)
        if ending.action != "accept":
            break
    assert ending.decision.rule == "store-unavailable"
    assert len(house.rows("delivery")) == len(actions) - 1
    assert house.rcpt(house.to()).action == "accept"
    assert house.end(house.to(), queue_id="again").action == "accept", (
        "the connection that failed is gone, and its bound with it"
    )


def test_a_key_file_that_cannot_be_read_defers(house: House) -> None:
    """A revoked key must not pass because nobody can see that it is: 451 at both stages."""
    house.made.revoked.mkdir()
    assert reply_for(house.rcpt(house.to())).code == 451
    assert house.end(house.to()).action == "defer"


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), ValueError(), RecursionError(), MemoryError(), OSError(5, "I/O error")], ids=repr
)
def test_a_fault_of_the_checks_defers(house: House, error: Exception) -> None:
    """What nobody foresaw is a 451 with the place of the fault in the log, never a word about it in the reply."""
    house.checks.fault = error
    ending = house.end(house.to(), house.to("strict"))
    assert (ending.action, ending.decision.rule) == ("defer", "internal-error")
    assert str(reply_for(ending.decision)) == "451 4.3.0 Temporary failure, try later"
    assert type(error).__name__ in ending.decision.detail
    assert "test_dialogue.py" in ending.decision.detail
    assert house.counts() == (0, 0, 0)


def test_a_fault_at_rcpt_defers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at RCPT, whoever the recipient is."""

    def fault(*_: object, **__: object) -> Decision:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(policy, "at_recipient", fault)
    decision = house.rcpt(house.to())
    assert (decision.action, decision.rule) == ("defer", "internal-error")
    assert "ZeroDivisionError" in decision.detail


def test_a_closed_dialogue_defers(house: House) -> None:
    """While the process ends, what still comes waits."""
    house.dialogue.close()
    assert house.rcpt(house.to()).rule == "store-unavailable"
    assert house.end(house.to()).decision.rule == "store-unavailable"


def test_a_dialogue_needs_a_milter(tmp_path: Path) -> None:
    """Without `milter:` there is no name to write results under."""
    with pytest.raises(ValueError, match="no milter:"):
        Dialogue(install(tmp_path).settings)


STRANGE = ["", "\0", "\udcff", "\ud800", '"', "a" * 5_000, "@", "<>", "\r\nX: y", "%s%n", "\u202e", "(", "reply+", "=?utf-8?q?x?="]  # fmt: skip


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: ascii(text[:10]))
def test_nothing_strange_in_an_envelope_raises(house: House, text: str) -> None:
    """Sender, recipient, client, HELO, queue ID, names: whatever stands there, there is an answer at RCPT and at the end."""
    for to in (text, f"{text}@{DOMAIN}", f"reply+{text}@{DOMAIN}", f"desk+{text}@{DOMAIN}"):
        decision = house.dialogue.recipient(
            Envelope(sender=text, recipient=to, original_recipient=text, queue_id=text, client_address=text, helo=text)
        )
        assert decision.rule in RULES
        message = arrived(to, sender=text, client_address=text, client_name=text, helo=text, queue_id=text, host=text)
        assert house.dialogue.end(message).decision.rule in RULES
    for name in ("sender", "client_address", "client_name", "helo", "queue_id", "host"):
        ending = house.end(house.to(), **{name: text})
        assert ending.decision.rule in RULES
        if name not in ("queue_id", "host"):  # Postfix's own
            assert all("\n" not in value.replace("\r\n\t", "") for _, value in ending.insert), (
                "nothing ends a field that we write"
            )


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_message_raises(house: House, name: str) -> None:
    """Sixty messages that are made to be slow, deep or large, in five line ends and cuts: each has an answer, and none is our fault."""
    raw = HOSTILE[name](1)
    forms = [raw, crlf(raw), raw.replace(b"\n", b"\r\r\n"), raw[: len(raw) // 2], b"\0" + raw]
    for n, form in enumerate(forms):
        ending = house.end(house.to(), house.to("strict"), raw=form, queue_id=f"Q{n}")
        assert ending.decision.rule in RULES
        assert ending.action != "defer", ending.decision.detail


def test_a_key_is_never_logged_whole(house: House) -> None:
    """Log lines show the recipient with its key cut short, whatever becomes of it."""
    key = house.key("a-long-subject")
    for changes in ({"head": VACATION}, {"head": f"Authentication-Results: {HOST}\n" * 51}, {"others": True, "head": VACATION}):
        ending = house.end(house.to(key=key), **changes)
        assert ending.lines
        for shown, decision, _ in ending.lines:
            assert key not in shown
            assert isinstance(decision.key, Key | None)
            assert key not in decision.detail
