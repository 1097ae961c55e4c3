"""Backscatter: ten thousand messages under forged names, and not one delivery notice leaves the queue.

Through a real Postfix with the milter and DNS on loopback, over many connections, several at once. Needs root and the package
postfix.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest

from demo.dns_server import DnsServer
from demo.environment import Environment
from demo.postfix_instance import Session, wait_for
from tests.faulty_app import FaultyApp
from tests.installation import DOMAIN, WEBHOOK_SECRET, message, webhook
from tests.integration.conftest import TIMING, wait_for_empty_queue
from tests.integration.milter_host import MilterHost, client, milter_host
from tests.signed_mail import ed25519_key, sign

SEED: Final = 20261121
AT_ONCE: Final = 4
EACH: Final = 100
EVIL: Final = "evil.example.net"
ATTACKER: Final = "203.0.113.66"
GOOD: Final = ("person@good.example.org", "192.0.2.1")
ZONES: Final = {
    "victim.example.org": {"TXT": ["v=spf1 ip4:192.0.2.200 -all"]},
    "_dmarc.victim.example.org": {"TXT": ["v=DMARC1; p=reject"]},
    "soft.example.org": {"TXT": ["v=spf1 ~all"]},
    f"_dmarc.{EVIL}": {"TXT": ["v=DMARC1; p=reject"]},
    f"s._domainkey.{EVIL}": {"TXT": [ed25519_key().record]},
    EVIL: {"TXT": [f"v=spf1 ip4:{ATTACKER} -all"]},
    "good.example.org": {"TXT": [f"v=spf1 ip4:{GOOD[1]} -all"]},
}
#: Whom a notice would hit: a domain that says who may use it, one that half says so, one that says nothing, and ourselves.
VICTIMS: Final = ("victim.example.org", "soft.example.org", "silent.example.net", DOMAIN, "mx.example.com")
_LIST: Final = "List-Id: <boats.example.org>\n"
_REPORT: Final = 'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n'
_NO_SUCH: Final = "550 5.1.1 No such address"
_TAKEN: Final = "250 2.0.0 Ok"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """So many messages of one kind. `to`: routes, `dead` for a key that is none. `said`: the last answer of each dialogue."""

    what: str
    count: int
    to: tuple[str, ...]
    said: str
    head: str = ""
    null: bool = False
    signed: bool = False


KINDS: Final = (
    Kind(what="a dead key", count=5_000, to=("dead",), said=_NO_SUCH),
    Kind(what="a vacation reply, refused", count=500, to=("strict",), head="Auto-Submitted: auto-replied\n",
         said="550 5.7.1 Automatic mail is not accepted here"),
    Kind(what="a vacation reply of the null sender, refused", count=500, to=("strict",), head="Auto-Submitted: auto-replied\n",
         null=True, said="550 5.7.1 Automatic mail is not accepted here"),
    Kind(what="a vacation reply, discarded", count=1_000, to=("reply",), head="Auto-Submitted: auto-replied\n", said=_TAKEN),
    Kind(what="spam", count=1_000, to=("reply",), head="X-Spam-Flag: YES\n", said="550 5.7.1 Message was marked as spam"),
    Kind(what="a bounce, refused", count=500, to=("strict",), head=_REPORT, null=True,
         said="550 5.7.1 Delivery reports are not accepted here"),
    Kind(what="a bounce, discarded", count=250, to=("reply",), head=_REPORT, null=True, said=_TAKEN),
    Kind(what="an aligned From under a victim's MAIL FROM, refused", count=500, to=("strict",), head=_LIST, signed=True,
         said="550 5.7.1 Mailing lists are not accepted here"),
    Kind(what="the same, and one of two accepts", count=250, to=("strict", "reply"), head=_LIST, signed=True, said=_TAKEN),
    Kind(what="the same, and the app refuses", count=250, to=("closed",), signed=True, said=_TAKEN),
    Kind(what="a dead key beside a live one", count=250, to=("dead", "reply"), said=_TAKEN),
)  # fmt: skip


@pytest.fixture(scope="module")
def host(milter_tree: Environment) -> Iterator[MilterHost]:
    """after_queue is bounce-verified, the default: who may be told is told."""
    strict = "automatic: reject, loops: reject, bounces: reject, lists: reject, spam: reject, unauthenticated: accept"
    with DnsServer(ZONES) as dns, FaultyApp(secrets=[WEBHOOK_SECRET], behaviour="refuse") as refusing:
        routes = "".join(
            f'  - name: {name}\n    address: "{name}+%{{key}}@{DOMAIN}"\n    keys: {{format: signed, secret: reply-keys}}\n'
            f"{more}    deliver: [{sink}]\n"
            for name, more, sink in (("strict", f"    screening: {{{strict}}}\n", "app"), ("closed", "", "closed"))
        )
        with milter_host(
            milter_tree, more=f"{routes}{TIMING}trusted: [mx.example.com]\n", milter=f"dns: ['{dns.address}']",
            sinks=f"  closed: {webhook(refusing.url())}\n",
        ) as made:  # fmt: skip
            yield made


def data_of(kind: Kind, sender: str) -> bytes:
    """The message; signed by the attacker's own domain, or under the victim's name."""
    person = f"someone@{EVIL}" if kind.signed else sender or "someone@victim.example.org"
    data = message(sender=person, to="list@example.org", headers=kind.head)
    if kind.head == _REPORT:
        data = data.replace(b"Content-Type: text/plain\n", b"")
    if not kind.signed:
        return data
    return sign(data.replace(b"\n", b"\r\n"), ed25519_key(), domain=EVIL, h="from:to:subject")


def send(host: MilterHost, session: Session, kind: Kind, number: int) -> tuple[str, str]:
    """Sends one; its kind, and the last answer."""
    sender = "" if kind.null else f"victim{number}@{VICTIMS[number % len(VICTIMS)]}"
    key = host.made.key(f"b{number}")
    to = [f"reply+guess{number}@{DOMAIN}" if name == "dead" else f"{name}+{key}@{DOMAIN}" for name in kind.to]
    sent = session.message(sender, to, data_of(kind, sender))
    last = sent.data or sent.recipients[-1][1]
    return kind.what, str(last).partition(": queued as")[0]


def run(host: MilterHost, numbered: list[tuple[int, Kind]]) -> list[tuple[str, str]]:
    """One connection of the attacker's."""
    with host.session() as session:
        client(session, name="unknown", address=ATTACKER, helo=f"h.{EVIL}")
        return [send(host, session, kind, number) for number, kind in numbered]


def test_ten_thousand_messages_and_no_notice(host: MilterHost) -> None:
    """Whatever is refused, screened out, or refused behind the queue: nobody whose name was forged hears of it."""
    kinds = [kind for kind in KINDS for _ in range(kind.count)]
    assert len(kinds) == 10_000
    random.Random(SEED).shuffle(kinds)
    numbered = list(enumerate(kinds))
    batches = [numbered[start : start + EACH] for start in range(0, len(numbered), EACH)]
    one: Callable[[list[tuple[int, Kind]]], list[tuple[str, str]]] = partial(run, host)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = Counter(each for batch in pool.map(one, batches) for each in batch)
    assert said == {(kind.what, kind.said): kind.count for kind in KINDS}
    wait_for_empty_queue(host.postfix, timeout=120)
    assert host.outbox.messages == []
    assert "postfix/bounce[" not in host.postfix.log()
    actions = Counter(line.action for line in host.log() if line.id and not line.door)
    assert actions == {"accept": 500, "park": 500}, "behind the queue: handed over, or kept for a person"
    assert len(host.app.taken) == 500
    believed = Counter(line.rule for line in host.log() if not line.door and line.action == "park")
    assert believed == {"list": 250, "app-refused": 250}


@pytest.mark.parametrize("door", ["milter", "plain"])
def test_nobody_can_ask_for_a_notice(host: MilterHost, door: str) -> None:
    """NOTIFY=SUCCESS (RFC 3461) would tell a forged MAIL FROM of each message that arrives, or is parked: it is not offered."""
    host.outbox.clear()
    with host.session(door) as session:
        assert session.hello is not None
        assert "DSN" not in session.hello.text.split()
        assert session.command("MAIL FROM:<victim@victim.example.org> RET=HDRS").code == 501
        for number, head in enumerate((b"", b"Auto-Submitted: auto-replied\r\n")):
            to = host.made.address(host.made.key(f"n{door}{number}"))
            assert session.command("MAIL FROM:<victim@victim.example.org>").code == 250
            assert session.command(f"RCPT TO:<{to}> NOTIFY=SUCCESS,FAILURE,DELAY").code == 501
            assert session.command(f"RCPT TO:<{to}>").code == 250
            assert session.command("DATA").code == 354
            session.raw(b"From: someone@victim.example.org\r\n" + head + b"\r\nHello.\r\n.\r\n")
            assert session.reply().code == 250
    wait_for_empty_queue(host.postfix, timeout=60)
    assert host.outbox.messages == []


def test_who_may_be_told_is_told_once(host: MilterHost) -> None:
    """MAIL FROM passes SPF, one of two recipients refuses, behind the queue: exactly one notice, to MAIL FROM. (Runs last.)"""
    host.outbox.clear()
    to = [f"{name}+{host.made.key('told')}@{DOMAIN}" for name in ("strict", "reply")]
    with host.session() as session:
        client(session, name="unknown", address=GOOD[1], helo="h.good.example.org")
        sent = session.message(GOOD[0], to, message(sender=GOOD[0], headers=_LIST))
    assert sent.queue_id
    wait_for(lambda: host.outbox.messages, what="the notice")
    wait_for_empty_queue(host.postfix, timeout=60)
    ((notice),) = host.outbox.messages
    assert (notice.sender, notice.recipients) == ("", (GOOD[0],))
    assert to[0].encode() in notice.data
    assert to[1].encode() not in notice.data
