"""Two doors, one judgement: every message of tests/corpus through a real Postfix, with the milter and without.

Each message goes out twice, over SMTP, as the client that its own topmost Received field names (XCLIENT): once through the
milter, once past it. What decided stands in our log, what was handed over in the app. Needs root and the package postfix.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from demo.dns_server import DnsServer
from demo.environment import Environment
from demo.postfix_instance import Session
from gatepost.decision import RULES
from tests.corpus_cases import Case, cases
from tests.corpus_installation import corpus_installation
from tests.faulty_app import FaultyApp, Request, reply_of
from tests.installation import Installation
from tests.integration.conftest import TIMING, own
from tests.integration.milter_host import Line, MilterHost, client, handed, milter_host

#: Not the same rule: the one with the milter, the one without, and why that is right. Whatever else differs is a mistake.
DIFFERENT: Final = {
    "loops/trusted-mx-saw-it-before": (
        "accepted", "loop",
        "the client is none of our hosts, so the hop of our MX below is the sender's word; a real loop is found a round later",
    ),
    "sender/allowed-unchecked": ("sender-unchecked", "sender-unverified", "past the milter nobody asks DNS, so it will not know later"),
    **dict.fromkeys(
        ("sender/owner-verified-by-mx", "sender/allowed", "odd/strange-is-not-malformed"),
        ("accepted", "sender-unverified", "past the milter a stranger may write what our MX would: nobody saw who the client was"),
    ),
    "loops/no-queue-id-trusted-mx": ("accepted", "loop", "the same; through Postfix there always is a queue ID"),
}  # fmt: skip
#: Our own name: what the corpus' topmost Received fields say. `trusted` is another host, mx.example.com.
HOST: Final = "in.example.com"
#: A stranger's host, for a message that no Received field of ours stands on.
STRANGER: Final = ("client.example.net", "unknown", "192.0.2.99")
_TOP: Final = re.compile(rb"Received: [^\n]*\n(?:[ \t][^\n]*\n)*")
_FROM: Final = re.compile(
    rb"Received: from (\S+) \((\S+) \[([0-9a-fA-F.:]+)\]\)\s(?:.*\s)?by in\.example\.com \(Postfix\)", re.DOTALL
)


@dataclass(frozen=True)
class Judged:
    """What became of one message at one door. `rule`: "" where Postfix itself refused the recipient (`said`)."""

    said: str
    rule: str
    route: str
    sha256: str


Both = Mapping[str, Mapping[str, Judged]]
#: By case: the last answer, the queue ID, and the rule and route that the milter logged.
Sent = dict[str, tuple[str, str, str]]


def installed(folder: Path, app: str, milter: str, *, ask: str) -> Installation:
    """The corpus' settings, with a milter."""
    made = corpus_installation(folder, app=app, more=f"{TIMING}{milter}", ask=ask)
    own(made)
    return made


def passage(case: Case) -> tuple[bytes, tuple[str, str, str]]:
    """The message as its client sent it, and HELO, name and address of that client: as our Postfix wrote them down."""
    top = _TOP.match(case.raw)
    ours = _FROM.match(b" ".join(top[0].split())) if top else None
    if top is None or ours is None:
        return case.raw, STRANGER
    helo, name, address = (each.decode() for each in ours.groups())
    return case.raw[top.end() :], (helo, name, address)


def posted(session: Session, case: Case) -> tuple[str, str]:
    """The answer that counts, and the queue ID ("" where it was refused)."""
    raw, (helo, name, address) = passage(case)
    client(session, name=name, address=address, helo=helo)
    sent = session.message(case.sender, [case.recipient], raw or b"\n")
    last = sent.data or sent.rcpt(case.recipient)
    return str(last), sent.queue_id


def through(host: MilterHost, door: str, chosen: Iterable[Case], found: Sent) -> None:
    """Sends these through one door, on one connection. At the milter's the rule, if it was the milter's, is read at once."""
    with host.session(door) as session:
        seen = len(_of_milter(host))
        for case in chosen:
            said, queue_id = posted(session, case)
            new = _of_milter(host)[seen:] if door == "milter" else []
            seen += len(new)
            assert len(new) <= 1, (case.id, new)
            rule = f"{new[0].rule} {new[0].route}" if new else ""
            found[case.id] = (re.sub(r"queued as \w+", "queued", said), queue_id, rule)


def _of_milter(host: MilterHost) -> list[Line]:
    return [line for line in host.log() if line.door == "milter" and line.stage]


def usual(case: Case) -> bool:
    """Does nothing outside the message and its configuration matter?"""
    return not case.alive and not case.dns_silent


def apart(host: MilterHost, case: Case, keys: FaultyApp, dns: DnsServer, sent: Mapping[str, Sent]) -> None:
    """One message of which the app, or DNS, says what the case has; the milter begins anew, so that it knows no answer yet."""
    keys.behaviour = {"": "status/500", "unavailable": "status/500"}.get(case.alive, f"alive-{case.alive}")
    dns.down = case.dns_silent
    host.milter.end()
    host.milter.start()
    for door, found in sent.items():
        through(host, door, [case], found)
        host.idle()
    dns.down = False


@reply_of
def alive_yes(request: Request) -> None:
    """The app knows the key."""
    request.answer(200, b'{"alive": true}', kind="application/json")


@reply_of
def alive_no(request: Request) -> None:
    """The app does not."""
    request.answer(200, b'{"alive": false}', kind="application/json")


@pytest.fixture(scope="module")
def judged(milter_tree: Environment) -> Iterator[Both]:
    """Every case at both doors."""
    # Nothing of Postfix's own in a message without a head: a Message-ID made of the queue ID is another at each door.
    options = {"local_header_rewrite_clients": ""}
    with DnsServer() as dns, FaultyApp() as keys, milter_host(
        milter_tree, config=partial(installed, ask=keys.url("key")), host=HOST, options=options,
        milter=f"authserv_id: {HOST}, dns: ['{dns.address}'], dns_deadline: 1s",
    ) as host:  # fmt: skip
        sent: dict[str, Sent] = {"milter": {}, "plain": {}}
        several = [case for case in cases() if usual(case)]
        threads = [threading.Thread(target=through, args=(host, door, several, found)) for door, found in sent.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for case in cases():
            if not usual(case):
                apart(host, case, keys, dns, sent)
        host.idle()
        behind = {line.queue_id: line for line in host.log() if not line.door}
        hashes = {data["envelope"]["queue_id"]: data["message"]["sha256"] for data in handed(host.app)}
        yield {door: {id_: _judged(said, queue_id, rule, behind, hashes) for id_, (said, queue_id, rule) in found.items()}
               for door, found in sent.items()}  # fmt: skip


def _judged(said: str, queue_id: str, rule: str, behind: Mapping[str, Line], hashes: Mapping[str, str]) -> Judged:
    if not rule and queue_id in behind:
        line = behind[queue_id]
        rule = f"{line.rule} {line.route}"
    name, _, route = rule.partition(" ")
    return Judged(said, name, route, hashes.get(queue_id, ""))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_both_doors_judge_alike(judged: Both, case: Case) -> None:
    """The same rule of the same route decides, the app is handed the same message, and Postfix says the same of a recipient."""
    milter, plain = judged["milter"][case.id], judged["plain"][case.id]
    if case.id in DIFFERENT:
        assert (milter.rule, plain.rule) == DIFFERENT[case.id][:2], DIFFERENT[case.id][2]
        return
    assert (milter.rule, milter.route) == (plain.rule, plain.route)
    assert milter.sha256 == plain.sha256
    assert bool(milter.sha256) is (milter.rule == "accepted"), "what is accepted, and nothing else, was handed over"
    if not milter.rule:
        assert milter.said == plain.said, "Postfix itself refused it, or had it taken to a person"


def test_the_two_doors_are_two(judged: Both) -> None:
    """Without the milter nothing is refused but by Postfix itself; with it a refusal is a 550 before the message is queued."""
    refused = {id_: each for id_, each in judged["milter"].items() if each.rule and each.said.startswith("550 ")}
    assert len(refused) >= 30
    assert {judged["plain"][id_].said for id_ in refused} == {"250 2.0.0 Ok: queued"}
    assert Counter(bool(each.sha256) for each in judged["milter"].values())[True] >= 200
    assert {each.said for each in refused.values()} <= {
        f"550 {RULES[each.rule].status} {RULES[each.rule].text}" for each in refused.values()
    }
    assert not {id_ for id_, each in judged["plain"].items() if each.rule and each.said[0] == "5"}
