"""The milter killed, hung, slow and restarted at every stage of a message, through a real Postfix.

In each round twelve clients stand at six stages, six before the door that defers while the milter is down (tempfail) and six
before the one that lets pass (accept), when kill -9 strikes; then each goes on to the end of its message. Every message has a
dead key and a live one. Needs root and the package postfix.
"""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pytest

from demo.environment import Environment
from demo.postfix_instance import Reply, Session
from tests.installation import DOMAIN, message
from tests.integration.conftest import TIMING, wait_for_empty_queue
from tests.integration.milter_host import MilterHost, handed, milter_host

ROUNDS: Final = 100
SEED: Final = 20261121
STAGES: Final = ("connect", "mail", "rcpt", "data", "body", "end")
DOORS: Final = ("milter", "accept")
#: Seconds at most from the last octet of a message to the kill: the milter takes about a third of it to judge one.
_LATEST: Final = 0.03
#: Octets of the messages of every fourth round: the milter gets them in many pieces.
_LARGE: Final = 1_500_000


@dataclass
class Attempt:
    """One client's message, from its connection to the answer at its end."""

    door: str
    stage: str
    number: str
    session: Session
    good: str
    dead: str
    data: bytes = field(repr=False)
    said: dict[str, Reply] = field(default_factory=dict)
    waiting: str = ""
    done: int = 0

    @property
    def message_id(self) -> str:
        return f"<{self.number}@killed.example.org>"

    def steps(self) -> list[tuple[str, str, bytes]]:
        """Stage, the name of the reply (none is awaited for ""), and what is sent."""
        half = len(self.data) // 2
        return [
            ("connect", "greeting", b""),
            ("mail", "helo", b"EHLO client.example.net\r\n"),
            ("mail", "mail", b"MAIL FROM:<person@example.org>\r\n"),
            ("rcpt", "dead", f"RCPT TO:<{self.dead}>\r\n".encode()),
            ("rcpt", "good", f"RCPT TO:<{self.good}>\r\n".encode()),
            ("data", "data", b"DATA\r\n"),
            ("body", "", self.data[:half]),
            ("end", "end", self.data[half:] + b".\r\n"),
        ]

    def advance(self, *, wait: bool) -> None:
        """To the end of its stage; with `wait` the last reply is read, else it is under way. The end's reply never is."""
        last = [number for number, (stage, _, _) in enumerate(self.steps()) if stage == self.stage][-1]
        for number, (_, name, octets) in enumerate(self.steps()[: last + 1]):
            self._step(name, octets, wait=number < last or (wait and self.stage != "end"))

    def finish(self) -> None:
        """Everything that is left, as a client does that heard nothing of a kill."""
        self._heard()
        for _, name, octets in self.steps()[self.done :]:
            if self.over:
                break
            self._step(name, octets, wait=True)
        self.session.close()

    @property
    def over(self) -> bool:
        """Has the server said that it is of no use to go on?"""
        if any(reply.code in (0, 421) for reply in self.said.values()):
            return True
        refused = [name for name in ("mail", "good", "data") if name in self.said and self.said[name].code >= 400]
        return bool(refused)

    def _step(self, name: str, octets: bytes, *, wait: bool) -> None:
        self.done += 1
        try:
            self.session.raw(octets)
        except OSError:
            self.said[name or "body"] = Reply(0, "connection lost")
            return
        self.waiting = name
        if wait:
            self._heard()

    def _heard(self) -> None:
        name, self.waiting = self.waiting, ""
        if name and name not in self.said:
            self.said[name] = _first(self.session) if name == "greeting" else self.session.reply()

    @property
    def taken(self) -> bool:
        """Has Postfix said that it has the message?"""
        return self.said.get("end", Reply(0, "")).code == 250


def _first(session: Session) -> Reply:
    return session.greeting


def attempt(host: MilterHost, door: str, stage: str, number: str, *, size: int = 0) -> Attempt:
    """Connected, at the beginning."""
    made = host.made
    good = made.address(made.key(hashlib.sha256(number.encode()).hexdigest()[:12]))
    dead = f"reply+dead{number}@{DOMAIN}"
    head = f"Message-ID: <{number}@killed.example.org>\n".encode()
    text = head + message(to=good, subject=number, size=size).replace(b"\nMessage-ID: ", b"\nX-Other-ID: ")
    session = Session(host.ports[door], helo="", timeout=60)
    return Attempt(door, stage, number, session, good, dead, text.replace(b"\n", b"\r\n"))


@pytest.fixture(scope="module")
def host(milter_tree: Environment) -> Iterator[MilterHost]:
    """One host for all; it waits three seconds for a milter that hangs."""
    times = "connect_timeout=3s, command_timeout=3s, content_timeout=3s"
    with milter_host(milter_tree, more=TIMING, times=times) as made:
        yield made


def check(host: MilterHost, attempts: list[Attempt]) -> None:
    """What must hold of every message, whatever happened to the milter."""
    wait_for_empty_queue(host.postfix, timeout=120)
    for each in attempts:
        said = {name: str(reply) for name, reply in each.said.items() if name != "dead"}
        assert not [reply for reply in said.values() if reply[0] == "5"], (each.door, each.stage, said)
    got = Counter((data["message"]["message_id"], data["envelope"]["recipient"]) for data in handed(host.app))
    mine = {each.message_id for each in attempts}
    assert {key: count for key, count in got.items() if key[0] in mine} == {
        (each.message_id, each.good): 1 for each in attempts if each.taken}  # fmt: skip
    assert not host.outbox.messages, "no notice"


def test_killed_at_each_stage(host: MilterHost) -> None:
    """No dead key reaches the app, no live one gets a 5xx, and what got a 250 is handed over once; a hundred times each."""
    chance = random.Random(SEED)
    attempts: list[Attempt] = []
    codes: Counter[tuple[str, str, int]] = Counter()
    for number in range(ROUNDS):
        size = _LARGE if number % 4 == 3 else 0
        size_at_end = {stage: size if stage in ("body", "end") else 0 for stage in STAGES}
        clients = [
            attempt(host, door, stage, f"{number}.{door}.{stage}", size=size_at_end[stage])
            for door in DOORS
            for stage in STAGES
        ]
        for each in clients:
            each.advance(wait=number % 2 == 0)
        time.sleep(chance.uniform(0, _LATEST))
        host.milter.kill()
        if number % 3:
            host.milter.start(wait=False)  # it comes back while they go on
        for each in clients:
            each.finish()
            codes[each.door, each.stage, each.said.get("end", Reply(0, "")).code] += 1
        if not number % 3:
            host.milter.start(wait=False)
        host.milter.wait_until_it_listens()
        attempts += clients
    print(sorted(codes.items()))
    check(host, attempts)
    for stage in STAGES:
        assert codes["accept", stage, 250] == ROUNDS, "with accept, a kill costs nobody anything"
        assert codes["milter", stage, 250] < ROUNDS, "with tempfail, a kill is noticed"
    assert codes["milter", "end", 250] > 0, "some kills came after the answer"
    _sound(host)


def _sound(host: MilterHost) -> None:
    """The milter that runs now judges as ever."""
    with host.session() as session:
        dead = f"reply+dead@{DOMAIN}"
        good = host.made.address(host.made.key("sound"))
        sent = session.message("person@example.org", [dead, good], message())
    assert [reply.code for _, reply in sent.recipients] == [550, 250]
    assert sent.queue_id
    host.idle()


@pytest.mark.parametrize("door", DOORS)
def test_hung_at_each_stage(host: MilterHost, door: str) -> None:
    """A milter that hangs (SIGSTOP) is one that is down, once Postfix has waited; afterwards it goes on as if nothing was."""
    clients = [attempt(host, door, stage, f"hung.{door}.{stage}") for stage in STAGES]
    for each in clients:
        each.advance(wait=True)
    host.milter.send(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(len(clients)) as pool:
            list(pool.map(Attempt.finish, clients))
    finally:
        host.milter.send(signal.SIGCONT)
    check(host, clients)
    late = [each for each in clients if each.stage not in ("end",)]
    assert {each.taken for each in late} == {door == "accept"}
    _sound(host)


def test_slow_is_not_down(host: MilterHost) -> None:
    """Stopped for less than Postfix waits, at each stage: everything is judged, only later."""
    clients = [attempt(host, door, stage, f"slow.{door}.{stage}") for door in DOORS for stage in STAGES]
    for each in clients:
        each.advance(wait=True)
    host.milter.send(signal.SIGSTOP)
    with ThreadPoolExecutor(len(clients)) as pool:
        ends = [pool.submit(each.finish) for each in clients]
        time.sleep(0.5)
        host.milter.send(signal.SIGCONT)
        for end in ends:
            end.result()
    check(host, clients)
    assert all(each.taken for each in clients)
    assert {str(each.said["dead"]) for each in clients} == {"550 5.1.1 No such address"}


@pytest.mark.parametrize("door", DOORS)
def test_restarted_in_mid_message(host: MilterHost, door: str) -> None:
    """SIGTERM: what is under way is finished, within its time, by the milter that began it; the next one serves the rest."""
    clients = [attempt(host, door, stage, f"restart.{door}.{stage}") for stage in STAGES]
    for each in clients:
        each.advance(wait=True)
    host.milter.send(signal.SIGTERM)
    begun = [each for each in clients if each.stage in ("rcpt", "data", "body", "end")]
    for each in begun:
        each.finish()
    assert host.milter.end() == 0
    host.milter.start()
    for each in clients:
        if each not in begun:
            each.finish()
    check(host, clients)
    assert all(each.taken for each in begun), [each.said for each in begun]
    assert all(str(each.said["dead"]) == "550 5.1.1 No such address" for each in begun)
    _sound(host)


def test_down_and_up_again(host: MilterHost) -> None:
    """While nobody listens: 451 to MAIL, or everything passes; a client that comes again is served."""
    host.milter.kill()
    clients = [attempt(host, door, "connect", f"down.{door}") for door in DOORS]
    for each in clients:
        each.finish()
    host.milter.start()
    again = [attempt(host, door, "connect", f"up.{door}") for door in DOORS]
    for each in again:
        each.finish()
    check(host, clients + again)
    assert [each.taken for each in clients] == [False, True]
    assert str(clients[0].said["mail"]) == "451 4.7.1 Service unavailable - try again later"
    assert clients[1].said["dead"].code == 250, "nobody was there who knew better; the pipe script does"
    assert [each.taken for each in again] == [True, True]


def test_what_was_handed_over_is_whole(host: MilterHost) -> None:
    """After all of it: no message lost an octet. (Runs last.)"""
    for taken in host.app.taken:
        assert len(taken["sha256"]) == hashlib.sha256().digest_size * 2
