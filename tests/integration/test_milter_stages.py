"""Through a real Postfix with the milter: every refusal at its stage, in its words; and several recipients at once.

Each row of REFUSALS is one message of its own client (XCLIENT), with DNS on loopback. Needs root and the package postfix.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from demo.dns_server import SILENT, DnsServer
from demo.environment import Environment
from demo.postfix_instance import Session, wait_for
from gatepost.keys.keyring import revocation_line
from tests.faulty_app import FaultyApp, Request, behaviour
from tests.installation import DOMAIN, KEY_ID, SECRET, message
from tests.integration.conftest import TIMING, flush_if_idle, parked_in
from tests.integration.milter_host import MilterHost, client, fields, handed, milter_host

#: A sender with SPF and DMARC, one whose DNS never answers, and one who has neither.
GOOD: Final = ("person@good.example.org", "192.0.2.1")
SILENT_ONE: Final = ("person@silent.example.org", "192.0.2.2")
STRANGER: Final = ("person@example.org", "192.0.2.3")
DENIED: Final = ("person@example.org", "198.51.100.7")
ZONES: Final[dict[str, dict[str, list[str]] | str]] = {
    "good.example.org": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.good.example.org": {"TXT": ["v=DMARC1; p=reject"]},
    "silent.example.org": SILENT,
    "_dmarc.silent.example.org": SILENT,
}
OTHERS: Final = "other.example.net"
_STRICT: Final = (
    "automatic: reject, loops: reject, bounces: reject, lists: reject, spam: reject, malformed: reject, unauthenticated: reject"
)
_SOFT: Final = _STRICT.replace("reject", "discard")


def _route(name: str, more: str = "", keys: str = "format: signed, secret: reply-keys") -> str:
    return (f"  - name: {name}\n    address: \"{name}+%{{key}}@{DOMAIN}\"\n    keys: {{{keys}}}\n    deliver: [app]\n"
            + "".join(f"    {line}\n" for line in more.split("\n") if line))  # fmt: skip


ROUTES: Final = (
    _route("strict", f"screening: {{{_STRICT}}}")
    + _route("soft", f"screening: {{{_SOFT}}}")
    + _route("open", f"screening: {{{_STRICT.replace('reject', 'accept')}}}")
    + _route("owned", "sender: {must-match: reject}")
    + _route("only", "sender: {allow: [good.example.org, silent.example.org]}")
    + _route("denies", "sender: {deny: [badly.example.net, 198.51.100.0/24]}")
)
LIMITS: Final = "limits: {per_key: [1/1h], per_sender: []}\n"


@behaviour
def key_check(app: FaultyApp, request: Request, argument: str) -> None:
    """An app that is asked about keys: those that begin with live are alive; of down it cannot tell."""
    raw = json.loads(request.body)["data"]["key"]["raw"]
    if raw.startswith("down"):
        request.answer(500)  # of this key; a 503 would be of the whole app
    else:
        request.answer(200, json.dumps({"alive": raw.startswith("live")}).encode(), kind="application/json")


def asked(url: str) -> str:
    """The route whose keys the app knows."""
    return _route("asked", keys=f"format: pattern, pattern: '[a-z]{{4}}[0-9]{{4}}', ask: '{url}', ask_secret: app-webhook")


@contextmanager
def staged(environment: Environment, *, more: str = "") -> Iterator[MilterHost]:
    """The host of these tests; it also relays OTHERS."""
    with DnsServer(ZONES) as dns, FaultyApp() as keys, milter_host(
        environment, more=ROUTES + asked(keys.url("key-check")) + TIMING + "trusted: [mx.example.com]\n" + more,
        milter=f"dns: ['{dns.address}'], dns_deadline: 1s", relayed=OTHERS,
    ) as host:  # fmt: skip
        host.made.revoked.write_text(f"{revocation_line(SECRET.encode(), KEY_ID, host.made.key('revoked'))}\n")
        yield host


@pytest.fixture(scope="module")
def host(milter_tree: Environment) -> Iterator[MilterHost]:
    """One host, with limits, for all that follows."""
    with staged(milter_tree, more=LIMITS) as made:
        yield made


# --- one recipient --------------------------------------------------------------------------------------------------------

_NUMBER = iter(range(1_000_000))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One message. `to`: the route, and what its key is. `reply`: the answer to RCPT (stage rcpt) or to the data."""

    what: str
    stage: str
    reply: str
    rule: str
    to: str = "strict"
    key: str = "live"
    who: tuple[str, str] = GOOD
    sender: str | None = None
    written: str | None = None
    head: str = ""
    action: str = "reject"
    why: str = ""


_NO_SUCH: Final = "550 5.1.1 No such address"
_DENIED: Final = "550 5.7.1 Sender is not accepted here"
_REPORTS: Final = "550 5.7.1 Delivery reports are not accepted here"
_LOOP: Final = "550 5.4.6 Mail loop"
_AUTO: Final = "550 5.7.1 Automatic mail is not accepted here"
_CLAIM: Final = "Authentication-Results: mx.example.com; dmarc=pass\n"

REFUSALS: Final = [
    Row(what="unknown", stage="rcpt", key="unknown", reply=_NO_SUCH, rule="key-unknown"),
    Row(what="forged", stage="rcpt", key="forged", reply=_NO_SUCH, rule="key-forged"),
    Row(what="expired", stage="rcpt", key="expired", reply=_NO_SUCH, rule="key-expired"),
    Row(what="revoked", stage="rcpt", to="reply", key="revoked", reply=_NO_SUCH, rule="key-revoked"),
    Row(what="unknown from the null sender", stage="rcpt", key="unknown", sender="", reply=_NO_SUCH, rule="key-unknown"),
    Row(what="the app says that it is dead", stage="rcpt", to="asked", key="=dead0001", reply=_NO_SUCH, rule="key-unknown"),
    Row(what="the app cannot tell", stage="rcpt", to="asked", key="=down0001", action="defer",
        reply="451 4.3.0 Temporary failure, try later", rule="ask-unavailable"),
    Row(what="no key of the pattern", stage="rcpt", to="asked", key="=alive", reply=_NO_SUCH, rule="key-unknown"),
    Row(what="a denied client", stage="rcpt", to="denies", who=DENIED, reply=_DENIED, rule="sender-denied"),
    Row(what="a denied MAIL FROM", stage="rcpt", to="denies", sender="x@badly.example.net", reply=_DENIED, rule="sender-denied"),
    Row(what="a dead key of a denied client", stage="rcpt", to="denies", key="unknown", who=DENIED, reply=_DENIED,
        rule="sender-denied", why="who is denied learns nothing of keys"),
    Row(what="a denied From", stage="end", to="denies", written="x@badly.example.net", reply=_DENIED, rule="sender-denied"),
    Row(what="somebody else than the owner", stage="end", to="owned", key="owner:nora@example.org",
        reply="550 5.7.1 Sender is not the one this address was made for", rule="sender-mismatch"),
    Row(what="the owner, not authenticated", stage="end", to="owned", key=f"owner:{STRANGER[0]}", who=STRANGER,
        reply="550 5.7.1 Sender could not be verified", rule="sender-unverified"),
    Row(what="the owner, and DNS is silent", stage="end", to="owned", key=f"owner:{SILENT_ONE[0]}", who=SILENT_ONE, action="defer",
        reply="451 4.7.0 Sender could not be verified yet, try later", rule="sender-unchecked"),
    Row(what="not one of those allowed", stage="end", to="only", who=STRANGER, reply=_DENIED, rule="sender-not-allowed"),
    Row(what="allowed, and DNS is silent", stage="end", to="only", who=SILENT_ONE, action="defer",
        reply="451 4.7.0 Sender could not be verified yet, try later", rule="sender-unchecked"),
    Row(what="a forged From", stage="end", who=("person@good.example.org", "192.0.2.9"),
        reply="550 5.7.26 Sender failed authentication", rule="unauthenticated"),
    Row(what="a loop", stage="end", head="List-Id: <replies.in.example.com>\n", reply=_LOOP, rule="loop"),
    Row(what="a bounce", stage="end", head='Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n',
        reply=_REPORTS, rule="bounce"),
    Row(what="the null sender", stage="end", sender="", reply=_REPORTS, rule="null-sender"),
    Row(what="a vacation reply", stage="end", head="Auto-Submitted: auto-replied\n", reply=_AUTO, rule="automatic"),
    Row(what="a vacation reply from the null sender", stage="end", sender="", head="Auto-Submitted: auto-replied\n", reply=_AUTO,
        rule="automatic"),
    Row(what="a list", stage="end", head="List-Id: <boats.example.org>\nList-Unsubscribe: <mailto:x@example.org>\n",
        reply="550 5.7.1 Mailing lists are not accepted here", rule="list"),
    Row(what="spam, by a trusted filter", stage="end", head="X-Spam-Flag: YES\n", reply="550 5.7.1 Message was marked as spam",
        rule="spam"),
    Row(what="malformed", stage="end", head="X-A: b\n" * 2_001, reply="550 5.6.0 Message is malformed", rule="malformed"),
    Row(what="51 forged results", stage="end", to="open", head=_CLAIM * 51, reply="550 5.6.0 Too many forged header fields",
        rule="forged-results"),
    *(Row(what=f"{what}, discarded", stage="end", to="soft", head=head, who=who, action="discard", reply="250 2.0.0 Ok: queued",
          rule=rule)
      for what, head, who, rule in (
          ("a vacation reply", "Auto-Submitted: auto-replied\n", GOOD, "automatic"),
          ("a loop", "List-Id: <replies.in.example.com>\n", GOOD, "loop"),
          ("spam", "X-Spam-Flag: YES\n", GOOD, "spam"),
          ("a forged From", "", ("person@good.example.org", "192.0.2.9"), "unauthenticated"))),
    Row(what="accepted", stage="", to="open", head="Auto-Submitted: auto-replied\n", action="accept",
        reply="250 2.0.0 Ok: queued", rule="accepted"),
    Row(what="accepted, the app says that the key lives", stage="", to="asked", key="=live0001", action="accept",
        reply="250 2.0.0 Ok: queued", rule="accepted"),
    Row(what="accepted, the owner", stage="", to="owned", key=f"owner:{GOOD[0]}", action="accept", reply="250 2.0.0 Ok: queued",
        rule="accepted"),
    Row(what="accepted, one of those allowed", stage="", to="only", action="accept", reply="250 2.0.0 Ok: queued",
        rule="accepted"),
]  # fmt: skip


def address(host: MilterHost, to: str, key: str) -> str:
    """An address that no other message has. `key`: what it is, `owner:` and whose, or `=` and how it is written."""
    made, subject = host.made, f"k{next(_NUMBER)}"
    if key.startswith("="):
        return f"{to}+{key[1:]}@{DOMAIN}"
    text = {
        "live": lambda: made.key(subject),
        "forged": lambda: made.key(subject, secret="x" * 40),
        "expired": lambda: made.key(subject, days=-1),
        "revoked": lambda: made.key("revoked"),
        "unknown": lambda: f"nonsense{subject}",
    }.get(key, lambda: made.key(subject, owner=key.partition(":")[2]))()
    return f"{to}+{text}@{DOMAIN}"


@contextmanager
def session_of(host: MilterHost, who: tuple[str, str], door: str = "milter") -> Iterator[Session]:
    """A dialogue of that client's."""
    with host.session(door) as session:
        client(session, name="unknown", address=who[1], helo="client.example.net")
        yield session


@pytest.mark.parametrize("row", REFUSALS, ids=[row.what for row in REFUSALS])
def test_each_refusal_comes_at_its_stage_in_its_words(host: MilterHost, row: Row) -> None:
    """At RCPT what the recipient or the client is, at the end what the message is; our log has one line and the same rule."""
    start, taken = len(host.log()), len(host.app.taken)
    to = address(host, row.to, row.key)
    sender = row.who[0] if row.sender is None else row.sender
    data = message(sender=row.written or row.who[0], to=to, subject=row.what, headers=row.head)
    data = data.replace(b"Content-Type: text/plain\n", b"") if row.rule == "bounce" else data
    with session_of(host, row.who) as session:
        sent = session.message(sender, [to], data)
    assert sent.mail.code == 250
    if row.stage == "rcpt":
        assert (str(sent.rcpt(to)), sent.data) == (row.reply, None), row.why
    else:
        assert sent.rcpt(to).code == 250
        assert re.sub(r"queued as \w+", "queued", str(sent.data)) == row.reply, row.why
    ours = [line for line in host.log(start) if line.door == "milter"]
    assert [(line.stage, line.action, line.rule) for line in ours] == ([(row.stage, row.action, row.rule)] if row.stage else [])
    if sent.queue_id and row.action == "accept":
        (delivery,) = host.postfix.wait_delivery(sent.queue_id)
        assert (delivery.status, delivery.text[:39]) == ("sent", "delivered via gatepost service (accepte")
        assert len(host.app.taken) == taken + 1
    else:
        host.idle()
        assert len(host.app.taken) == taken
        assert not host.postfix.deliveries(sent.queue_id) if sent.queue_id else True


def test_the_dead_keys_get_one_reply(host: MilterHost) -> None:
    """Unknown, forged, expired and revoked: byte for byte the same answer."""
    with session_of(host, STRANGER) as session:
        session.command("MAIL FROM:<person@example.org>")
        said = {
            str(session.command(f"RCPT TO:<{address(host, 'reply', key)}>"))
            for key in ("unknown", "forged", "expired", "revoked")
        }
    assert said == {_NO_SUCH}


def test_a_full_limit_is_told_at_rcpt(host: MilterHost) -> None:
    """The second message of an hour to a key of one a hour: 451 4.7.1 at RCPT, whoever writes; RCPT alone counts nothing."""
    to = address(host, "reply", "live")
    with session_of(host, STRANGER) as session:
        for _ in range(3):
            session.command("MAIL FROM:<person@example.org>")
            assert session.command(f"RCPT TO:<{to}>").code == 250
            session.command("RSET")
        assert session.message("person@example.org", [to], message(to=to)).queue_id
        sent = session.message("person@example.org", [to], message(to=to))
    assert str(sent.rcpt(to)) == "451 4.7.1 Too many messages, try later"
    host.idle()


def test_of_two_at_once_a_limit_lets_one_in(host: MilterHost) -> None:
    """Both find room at RCPT; at the end the first is counted and the second is told to come again."""
    to = address(host, "reply", "live")
    with session_of(host, STRANGER) as first, session_of(host, STRANGER) as second:
        for session in (first, second):
            session.command("MAIL FROM:<person@example.org>")
            assert session.command(f"RCPT TO:<{to}>").code == 250
            assert session.command("DATA").code == 354
        data = message(to=to).replace(b"\n", b"\r\n") + b".\r\n"
        first.raw(data)
        assert first.reply().code == 250
        second.raw(data)
        assert str(second.reply()) == "451 4.7.1 Too many messages, try later"
    host.idle()


# --- several recipients ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """One message to several. `to`: route and key. `rcpt`: the codes. `data`: the answer's code, 0 for none asked.

    `ends`: what becomes of each: `app`, `refused` (in the dialogue), `deleted` (by the milter), or behind the queue `discarded`,
    `parked` or `bounced`.
    """

    what: str
    to: tuple[tuple[str, str], ...]
    rcpt: tuple[int, ...]
    data: int
    ends: tuple[str, ...]
    head: str = ""
    who: tuple[str, str] = STRANGER
    why: str = ""


_LIST: Final = "List-Id: <boats.example.org>\nList-Unsubscribe: <mailto:x@example.org>\n"
MIXED: Final = [
    Mixed(what="a dead key among good ones", to=(("reply", "live"), ("reply", "unknown"), ("reply", "expired"), ("reply", "live")),
          rcpt=(250, 550, 550, 250), data=250, ends=("app", "refused", "refused", "app")),
    Mixed(what="only dead ones", to=(("reply", "unknown"), ("reply", "forged")), rcpt=(550, 550), data=0, ends=("refused", "refused")),
    Mixed(what="one rejects, one accepts", to=(("strict", "live"), ("open", "live")), head=_LIST, rcpt=(250, 250), data=250,
          ends=("parked", "app"), why="the answer is one for all: who rejects goes on to after_queue"),
    Mixed(what="the same, of a sender who may be told", to=(("strict", "live"), ("open", "live")), head=_LIST, who=GOOD,
          rcpt=(250, 250), data=250, ends=("bounced", "app"), why="the milter found that SPF passes for MAIL FROM: one notice"),
    Mixed(what="one discards, one accepts", to=(("soft", "live"), ("open", "live")), head=_LIST, rcpt=(250, 250), data=250,
          ends=("deleted", "app")),
    Mixed(what="one discards, one rejects", to=(("soft", "live"), ("strict", "live")), head=_LIST, rcpt=(250, 250), data=250,
          ends=("deleted", "parked")),
    Mixed(what="discard, reject, accept, dead", to=(("soft", "live"), ("strict", "live"), ("open", "live"), ("open", "unknown")),
          head=_LIST, rcpt=(250, 250, 250, 550), data=250, ends=("deleted", "parked", "app", "refused")),
    Mixed(what="both discard", to=(("soft", "live"), ("soft", "live")), head=_LIST, rcpt=(250, 250), data=250,
          ends=("deleted", "deleted")),
    Mixed(what="all reject", to=(("strict", "live"), ("strict", "live")), head=_LIST, rcpt=(250, 250), data=550,
          ends=("refused", "refused")),
    Mixed(what="all reject, for different reasons", to=(("strict", "live"), ("owned", "owner:nora@example.org")), head=_LIST,
          rcpt=(250, 250), data=550, ends=("refused", "refused")),
    Mixed(what="the app cannot tell of one", to=(("asked", "=down0002"), ("asked", "=live0002"), ("asked", "=dead0002")),
          rcpt=(451, 250, 550), data=250, ends=("refused", "app", "refused")),
    Mixed(what="one rejects a machine, one accepts", to=(("strict", "live"), ("open", "live")), head="Auto-Submitted: auto-replied\n",
          rcpt=(250, 250), data=250, ends=("discarded", "app"), why="behind the queue a machine is never answered"),
]  # fmt: skip


@pytest.mark.parametrize("row", MIXED, ids=[row.what for row in MIXED])
def test_recipients_who_disagree(host: MilterHost, row: Mixed) -> None:
    """Each recipient goes its own way; the one answer at the end is 550 only where all reject; nobody sees another's fate."""
    start = len(host.log())
    before = len(handed(host.app))
    to = [address(host, *each) for each in row.to]
    host.outbox.clear()
    with session_of(host, row.who) as session:
        data = message(sender=row.who[0], to="list@example.org", subject=row.what, headers=row.head)
        sent = session.message(row.who[0], to, data)
    assert tuple(reply.code for _, reply in sent.recipients) == row.rcpt
    assert (sent.data.code if sent.data else 0) == row.data, row.why
    behind = [each for each, end in zip(to, row.ends, strict=True) if end not in ("refused", "deleted")]
    if sent.queue_id and behind:
        host.postfix.wait_delivery(sent.queue_id, count=len(behind))
    host.idle()
    said = {each.recipient: each for each in host.postfix.deliveries(sent.queue_id)} if sent.queue_id else {}
    got = {data["envelope"]["recipient"]: data for data in handed(host.app)[before:]}
    assert set(said) == set(behind), "what is deleted has no status= line"
    words = {"app": "(accepted ", "parked": "(parked ", "discarded": "(discarded ", "bounced": "Mailing lists are not accepted"}
    for each, end in zip(to, row.ends, strict=True):
        assert (each in got) is (end == "app")
        if each in said:
            assert words[end] in said[each].text
    deleted = [line for line in host.log(start) if (line.door, line.stage, line.action) == ("milter", "end", "discard")]
    assert len(deleted) == row.ends.count("deleted"), "one line of our own for each"
    assert all(line.queue_id == sent.queue_id for line in deleted)
    wait_for(lambda: len(host.outbox.messages) == row.ends.count("bounced"), what="the notice, or none")
    for each, event in got.items():
        raw = base64.b64decode(event["raw"]).lower()
        for other in {*to} - {each}:
            assert other.partition("@")[0].partition("+")[2].encode() not in raw, "nothing of another recipient (Bcc)"
        assert len(fields(raw, "x-gatepost-stamp")) == len(fields(raw, "authentication-results")) == 1


SPELLINGS: Final = [
    ("<{local}@in.example.com>", "as it is"),
    ("<{LOCAL}@IN.Example.COM>", "in capitals"),
    ('<"{local}"@in.example.com>', "quoted"),
    ('<"s\\oft{rest}"@in.example.com>', "with a quoted pair"),
    ("<{local}@in.example.com.>", "with a final dot"),
    ("<@relay.example.net:{local}@in.example.com>", "with a source route"),
    ("<@a.example.net,@b.example.net:{local}@in.example.com>", "with a long one"),
    ("{local}@in.example.com", "without brackets"),
    ("< {local}@in.example.com >", "with white space"),
    ("<{local}@in.example.com> ORCPT=rfc822;other@example.net", "with a parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("spelling", "why"), SPELLINGS, ids=[row[1] for row in SPELLINGS])
def test_whoever_discards_is_deleted_however_written(host: MilterHost, spelling: str, why: str) -> None:
    """Postfix finds the recipient to delete by the path of RCPT, in whatever form; the other one gets the message."""
    local = address(host, "soft", "live").partition("@")[0]
    keep = address(host, "open", "live")
    start = len(host.log())
    with session_of(host, STRANGER) as session:
        session.command("MAIL FROM:<person@example.org>")
        path = spelling.format(local=local, LOCAL=local.upper(), rest=local.removeprefix("soft"))
        reply = session.command(f"RCPT TO:{path}")
        if reply.code == 501:
            assert "ORCPT" in path, "without DSN, Postfix takes none of its parameters"
            return
        assert reply.code == 250, reply
        assert session.command(f"RCPT TO:<{keep}>").code == 250
        session.command("DATA")
        session.raw(message(headers=_LIST).replace(b"\n", b"\r\n") + b".\r\n")
        queue_id = str(session.reply()).rpartition(" ")[2]
    host.postfix.wait_delivery(queue_id)
    host.idle()
    assert [each.recipient for each in host.postfix.deliveries(queue_id)] == [keep], why
    lines = [line for line in host.log(start) if line.action == "discard"]
    assert [(line.door, line.rule) for line in lines] == [("milter", "list")]


def test_the_head_does_not_tell_how_many_there_were(host: MilterHost) -> None:
    """Our fields have the same form and length for one recipient of three as for one of two, whatever became of the others."""
    forms = set()
    for others in (("soft",), ("strict",), ("soft", "strict"), ("open", "open", "strict")):
        to = [address(host, name, "live") for name in ("open", *others)]
        before = len(handed(host.app))
        with session_of(host, GOOD) as session:
            sent = session.message(GOOD[0], to, message(sender=GOOD[0], to="list@example.org", headers=_LIST))
        host.postfix.wait_delivery(sent.queue_id)
        host.idle()
        (raw,) = [base64.b64decode(data["raw"]) for data in handed(host.app)[before:] if data["envelope"]["recipient"] == to[0]]
        own = raw[: raw.index(b"Received: ")]
        forms.add(re.sub(rb"(?<=[tqb]=)\w+", b"", own))
    assert len(forms) == 1


# --- recipients that are not ours -----------------------------------------------------------------------------------------

FOREIGN: Final = [
    ("plain", message(to=f"x@{OTHERS}"), "a person's"),
    ("8 bit", message(to=f"x@{OTHERS}", headers="X-Raw: \u00e9\u2003\n", body="h\u00e4 \u20ac\n"), "octets above 127"),
    ("long", message(to=f"x@{OTHERS}", size=300_000), "several chunks"),
    ("folds", message(to=f"x@{OTHERS}", headers="X-Fold:\n\ta\n  b  \nX-Empty:\nX-Space:   c   \nx-tab:\td\n"), "white space as it is"),
    ("forged", message(to=f"x@{OTHERS}", headers=_CLAIM * 60 + "X-Gatepost-Stamp: v=1; t=x\n"), "not our mail, not our business"),
    ("no blank line", b"From: a@example.org\nSubject: no body", "it ends with its head"),
    ("no head", b"\nonly a body\n", "it begins with its body"),
    ("dots", message(to=f"x@{OTHERS}", body=".\n..\n.a\n"), "leading dots"),
    ("a bounce", message(to=f"x@{OTHERS}", headers="Auto-Submitted: auto-replied\n"), "what we would refuse"),
]  # fmt: skip


def as_delivered(data: bytes) -> bytes:
    """What left, without Postfix's own Received field and what it makes of the queue ID."""
    assert data.startswith(b"Received: ")
    return re.sub(rb"(?m)^(Message-Id|Date): .*\r\n", b"", re.sub(rb"\AReceived: .*\r\n(?:[ \t].*\r\n)*", b"", data))


def relayed(host: MilterHost, door: str, data: bytes, to: list[str], sender: str = "person@example.org") -> bytes:
    """Sends it and returns what the other domain got."""
    host.outbox.clear()
    with session_of(host, STRANGER, door) as session:
        sent = session.message(sender, to, data)
    assert sent.queue_id, sent
    ((got),) = wait_for(lambda: host.outbox.messages, what="the other domain's mail")
    host.idle()
    return bytes(got.data)


@pytest.mark.parametrize(("what", "data", "why"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_mail_that_is_not_ours_passes_byte_for_byte(host: MilterHost, what: str, data: bytes, why: str) -> None:
    """What another domain of this Postfix gets is what it gets without a milter, and our log says nothing of it."""
    start = len(host.log())
    with_milter = relayed(host, "milter", data, [f"x@{OTHERS}"])
    without = relayed(host, "plain", data, [f"x@{OTHERS}"])
    assert as_delivered(with_milter) == as_delivered(without), why
    assert not [line for line in host.log(start) if line.door == "milter"]


def test_others_mail_passes_by_a_dead_key_of_ours(host: MilterHost) -> None:
    """Where our recipient was refused at RCPT the message is not ours any more."""
    data = message(to=f"x@{OTHERS}", headers=_CLAIM)
    got = relayed(host, "milter", data, [address(host, "reply", "unknown"), f"x@{OTHERS}"])
    assert as_delivered(got) == as_delivered(relayed(host, "plain", data, [f"x@{OTHERS}"]))


def test_others_get_a_message_that_is_ours_too_whole(host: MilterHost) -> None:
    """One that one of ours accepts: two fields of ours on top, which say nothing of it; one that all of ours reject: the same."""
    for route in ("open", "strict"):
        data = message(to=f"x@{OTHERS}", headers=_LIST, sender=GOOD[0])
        to = address(host, route, "live")
        got = relayed(host, "milter", data, [to, f"x@{OTHERS}"], sender=GOOD[0])
        top, _, rest = got.partition(b"Received: ")
        assert [line.partition(b":")[0] for line in top.split(b"\r\n") if line and line[:1] not in b" \t"] == [
            b"X-Gatepost-Stamp", b"Authentication-Results"]  # fmt: skip
        assert to.partition("@")[0].partition("+")[2].encode() not in got
        assert as_delivered(b"Received: " + rest) == as_delivered(relayed(host, "plain", data, [f"x@{OTHERS}"]))
    assert host.log()[-1].rule, "the rejecting one went on to after_queue"


# --- one connection -------------------------------------------------------------------------------------------------------


def test_twenty_messages_on_one_connection(host: MilterHost) -> None:
    """Each is judged by itself, whatever stood before it: RSET at every place, a second MAIL, refusals, data that failed."""
    before, start = len(host.app.taken), len(host.log())
    interruptions: list[Callable[[Session], None]] = [
        lambda session: _say(session, "RSET", 250),
        lambda session: _say(session, "MAIL FROM:<x@example.org>", 250, "RSET", 250),
        lambda session: _say(session, "MAIL FROM:<x@example.org>", 250, f"RCPT TO:<{address(host, 'reply', 'live')}>", 250, "RSET", 250),
        lambda session: _say(session, "MAIL FROM:<x@example.org>", 250, f"RCPT TO:<{address(host, 'reply', 'unknown')}>", 550, "RSET", 250),
        lambda session: _say(session, "MAIL FROM:<x@example.org>", 250, "MAIL FROM:<y@badly.example.net>", 503, "RSET", 250),
        lambda session: _say(session, "MAIL FROM:<x@example.org>", 250, "EHLO again.example.net", 250),
        lambda session: _say(session, "NOOP", 250, "HELP", 500),
    ]  # fmt: skip
    kinds = [
        ("open", "live", 250),
        ("strict", "live", 550),
        ("denies", "live", 250),
        ("reply", "expired", 0),
        ("soft", "live", 250),
    ]
    wanted = []
    with session_of(host, GOOD) as session:
        for number in range(20):
            interruptions[number % len(interruptions)](session)
            route, key, code = kinds[number % len(kinds)]
            to = address(host, route, key)
            sent = session.message(GOOD[0], [to], message(sender=GOOD[0], to=to, subject=str(number), headers=_LIST))
            assert (sent.data.code if sent.data else 0) == code, (number, sent)
            if route in ("open", "denies"):
                wanted.append(to)
    wait_for(lambda: len(host.app.taken) >= before + len(wanted), what="the accepted ones")
    host.idle()
    assert sorted(taken["recipient"] for taken in host.app.taken[before:]) == sorted(wanted)
    ours = [line.rule for line in host.log(start) if line.door == "milter" and line.stage == "end"]
    assert ours == ["list"] * 8, "four refused, four discarded"


def _say(session: Session, *lines: Any) -> None:
    for command, code in zip(lines[::2], lines[1::2], strict=True):
        reply = session.command(command)
        assert reply.code == code, (command, reply)


# --- when something of ours is down ---------------------------------------------------------------------------------------


def test_a_store_that_is_down_defers_at_rcpt_and_at_the_end(host: MilterHost) -> None:
    """451 4.3.0 for a live and for a dead key alike, while it is down; others' mail passes; the next message is taken."""
    database = host.made.store / "gatepost.sqlite"
    aside = database.with_name("aside")
    live, dead, later = (address(host, "reply", key) for key in ("live", "unknown", "live"))
    with session_of(host, STRANGER) as session:
        session.command("MAIL FROM:<person@example.org>")
        assert session.command(f"RCPT TO:<{later}>").code == 250
        assert session.command("DATA").code == 354
        os.rename(database, aside)
        database.mkdir()
        try:
            session.raw(message(to=later).replace(b"\n", b"\r\n") + b".\r\n")
            assert str(session.reply()) == "451 4.3.0 Temporary storage failure, try later"
            sent = session.message("person@example.org", [live, dead], message())
            assert {str(reply) for _, reply in sent.recipients} == {"451 4.3.0 Temporary storage failure, try later"}
            assert session.message("person@example.org", [f"x@{OTHERS}"], message()).queue_id
        finally:
            database.rmdir()
            os.rename(aside, database)
        sent = session.message("person@example.org", [later, dead], message())
        assert [reply.code for _, reply in sent.recipients] == [250, 550]
        assert sent.queue_id
    host.idle()


def test_a_milter_that_was_killed_and_others_mail(host: MilterHost) -> None:
    """With default_action=accept theirs passes as without a milter; ours is judged behind the queue; then all is as before."""
    data = message(to=f"x@{OTHERS}", headers=_CLAIM)
    without = relayed(host, "plain", data, [f"x@{OTHERS}"])
    host.milter.kill()
    try:
        assert as_delivered(relayed(host, "accept", data, [f"x@{OTHERS}"])) == as_delivered(without)
        live, dead = (address(host, "reply", key) for key in ("live", "unknown"))
        with session_of(host, STRANGER, "accept") as session:
            sent = session.message("person@example.org", [live, dead], message())
        said = {each.recipient: each.text for each in host.postfix.wait_delivery(sent.queue_id, count=2)}
        assert "(accepted " in said[live]
        assert "(parked rule=key-unknown" in said[dead]
        with session_of(host, STRANGER) as session:
            assert session.command("MAIL FROM:<person@example.org>").code == 451
    finally:
        host.milter.start()
    with session_of(host, STRANGER) as session:
        assert (
            str(session.message("person@example.org", [address(host, "reply", "unknown")], message()).recipients[0][1])
            == _NO_SUCH
        )
    host.idle()


def test_nothing_is_left(host: MilterHost) -> None:
    """After all this the queue is empty, and parked is what was to be. (Runs last.)"""
    wait_for(lambda: flush_if_idle(host.postfix), timeout=60, what="an empty queue")
    assert {each.rule for each in parked_in(host.made)} <= {"key-unknown", "list"}
