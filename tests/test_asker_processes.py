"""An app that is asked for keys and hangs, in the processes that stay: who holds up whom, and for how long.

Promises: the processes are those that Postfix talks to, and the app is a server that takes questions and says nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gatepost.asker import IN_FLIGHT
from gatepost.sinks.circuit import FAILURES
from gatepost.sinks.open_circuits import OpenCircuit, Sign
from tests.installation import Installation, message
from tests.lmtp_host import Serving, doctor, open_folder, wait_for
from tests.test_ask import KeyApp
from tests.test_lmtp_server import PERSON
from tests.test_lmtp_sinks import queue_id
from tests.test_milter_server import GATEPOST, Running
from tests.test_sinks import SECRET

SUPPORT = "support@in.example.com"
ROUTE = """\
routes:
  - name: desk
    address: "desk+%{{key}}@in.example.com"
    keys: {{format: gitlab, kinds: [reply], ask: "{url}", ask_secret: asking}}
    deliver: [app]
"""
#: Seconds for a question: so that it hangs for as long as the test lasts, or that nobody has to wait for its end.
FOR_LONG, NOT_FOR_LONG = (f"import gatepost.asker; gatepost.asker.DEADLINE = {seconds}; " for seconds in (100.0, 0.5))


def desk(number: int) -> str:
    """An address whose key only the app knows."""
    return f"desk+{number:032x}@in.example.com"


def ask_there(made: Installation, app: KeyApp) -> None:
    """The route, and the secret that the app knows."""
    made.config.write_text(made.config.read_text().replace("routes:\n", ROUTE.format(url=app.url)))
    with (made.folder / "secrets.yml").open("a") as file:
        file.write(f"asking: ['{SECRET}']\n")


@contextmanager
def hanging() -> Iterator[KeyApp]:
    with KeyApp(live=tuple(f"{number:032x}" for number in range(100))) as app:
        app.open.clear()
        yield app


class Warm:
    """`gatepost serve`, and the way to send it a message."""

    says = "lmtp"

    def __init__(self, folder: Path, app: KeyApp, change: str, *, workers: int = 1) -> None:
        self.serving = Serving(folder, lmtp=f", workers: {workers}, max_messages: 20")
        self.made = self.serving.made
        self._number = 0
        self._counting = threading.Lock()
        ask_there(self.made, app)
        self.stop = self.serving.stop
        self.start(change)

    def start(self, change: str) -> None:
        self.serving.start(change=change)

    def hang_up(self) -> None:
        self.serving.signal(signal.SIGHUP)

    def kill(self) -> None:
        """All of it: workers end with the process that started them."""
        workers = self.serving.workers()
        self.serving.signal(signal.SIGKILL)
        self.serving.status()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the end of the workers")

    def said(self, to: str) -> str:
        with self._counting:
            self._number += 1
            number = self._number
        with self.serving.client() as client:
            return client.message(PERSON, [to], message(to=to), queue_id=queue_id(number))[0]


class Before:
    """`gatepost milter`, and the way to ask it about a recipient."""

    says = "milter"

    def __init__(self, folder: Path, app: KeyApp, change: str) -> None:
        self.running = Running(folder)
        self.made = self.running.made
        ask_there(self.made, app)
        self.stop = self.running.stop
        self.start(change)

    def start(self, change: str) -> None:
        self.running.start(code=GATEPOST.replace("from gatepost.cli", f"{change}from gatepost.cli"))

    def hang_up(self) -> None:
        self.running.signal(signal.SIGHUP)

    def kill(self) -> None:
        self.running.stop()

    def said(self, to: str) -> str:
        with self.running.client() as client:
            client.mail()
            answer = client.rcpt(to)
            return answer.text or "250 goes on"


class Many:
    """So many ask at once, each about a key of its own; `replies` as they come."""

    def __init__(self, host: Warm | Before, count: int) -> None:
        self.replies: list[str] = []
        self._host = host
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> list[str]:
        for thread in self._threads:
            thread.join(60)
        return self.replies

    def _ask(self, number: int) -> None:
        self.replies.append(self._host.said(desk(number)))


def circuits(host: Warm | Before) -> list[str]:
    return [line.partition(f" {host.says}: ")[2] for line in host.made.log_lines() if "state=circuit" in line]


MANY: list[tuple[str, Callable[[Path, KeyApp], Warm | Before], int]] = [
    ("warm process", lambda folder, app: Warm(folder, app, FOR_LONG, workers=2), 24),
    ("milter", lambda folder, app: Before(folder, app, FOR_LONG), 24),
]


@pytest.mark.parametrize(("start", "count"), [row[1:] for row in MANY], ids=[row[0] for row in MANY])
def test_an_app_that_hangs_holds_up_no_other_route(start: Callable[[Path, KeyApp], Warm | Before], count: int) -> None:
    """So many of its messages are more than the process takes at once. IN_FLIGHT of them are asked about, the others are deferred

    meanwhile, and what is for another route goes through.
    """
    with open_folder() as folder, hanging() as app:
        host = start(folder, app)
        try:
            many = Many(host, count)
            wait_for(lambda: len(many.replies) == count - IN_FLIGHT, "the deferrals of those that find no place")
            assert {reply.partition(" (")[0] for reply in many.replies} == {"451 4.3.0 Temporary failure, try later"}
            assert app.under_way == app.peak == IN_FLIGHT
            assert {host.said(SUPPORT)[:4] for _ in range(20)} == {"250 "}
            assert len(many.replies) == count - IN_FLIGHT
            log = [line for line in host.made.log_lines() if "rule=ask-unavailable" in line]
            assert len(log) == count - IN_FLIGHT
            assert all("questions were under way, and none of them was answered soon enough" in line for line in log)
            app.open.set()
            assert sum(reply.startswith("250 ") for reply in many.wait()) == IN_FLIGHT
        finally:
            app.open.set()
            host.stop()


STAYS: list[tuple[str, Callable[[Path, KeyApp], Warm | Before]]] = [
    ("warm process", lambda folder, app: Warm(folder, app, NOT_FOR_LONG)),
    ("milter", lambda folder, app: Before(folder, app, NOT_FOR_LONG)),
]


@pytest.mark.parametrize("start", [row[1] for row in STAYS], ids=[row[0] for row in STAYS])
def test_an_app_that_hangs_is_left_alone_until_it_is_back(start: Callable[[Path, KeyApp], Warm | Before]) -> None:
    """Its circuit opens, in the log and for the doctor; then nobody is asked, but for the one that finds out that it is back."""
    with open_folder() as folder, hanging() as app:
        host = start(folder, app)
        try:
            assert {host.said(desk(number))[:9] for number in range(FAILURES)} == {"451 4.3.0"}
            assert len(circuits(host)) == 1
            assert circuits(host)[0] == (
                f'state=circuit ask=desk detail="open after {FAILURES} failures: the deadline passed while waiting for the app"'
            )
            assert len(app.asked) == FAILURES
            assert host.said(desk(50))[:9] == "451 4.3.0"
            assert len(app.asked) == FAILURES
            assert "left alone for a while: the deadline passed while waiting for the app" in host.made.log_lines()[-1]
            assert host.said(SUPPORT)[:4] == "250 "
            check = doctor(host.made, "ask:desk")
            assert check["status"] == "warn"
            assert f" after {FAILURES} failures (the deadline passed while waiting for the app), in 1 of " in check["evidence"]
            app.open.set()
            wait_for(lambda: host.said(desk(51))[:4] == "250 ", "the first answer")
            assert circuits(host)[-1].startswith('state=circuit ask=desk detail="closed: it answers again, after ')
            assert {host.said(desk(number))[:4] for number in range(60, 65)} == {"250 "}
            assert doctor(host.made, "ask:desk")["status"] == "ok"
            assert not list(host.made.store.glob("circuit.*"))
        finally:
            app.open.set()
            host.stop()


@pytest.mark.parametrize("start", [row[1] for row in STAYS], ids=[row[0] for row in STAYS])
def test_a_new_configuration_begins_anew(start: Callable[[Path, KeyApp], Warm | Before]) -> None:
    """The old one's circuit is no word of the new one's app."""
    with open_folder() as folder, hanging() as app:
        host = start(folder, app)
        try:
            assert [host.said(desk(number))[:4] for number in range(FAILURES)] == ["451 "] * FAILURES
            assert len(list(host.made.store.glob("circuit.*"))) == 1
            host.hang_up()
            wait_for(lambda: not list(host.made.store.glob("circuit.*")), "the end of its sign")
            app.open.set()
            assert host.said(desk(50))[:4] == "250 "
        finally:
            app.open.set()
            host.stop()


@pytest.mark.parametrize("start", [row[1] for row in STAYS], ids=[row[0] for row in STAYS])
def test_what_a_kill_left_is_gone_with_the_next_start(start: Callable[[Path, KeyApp], Warm | Before]) -> None:
    """The word of an open circuit, whole or not. The doctor believes none of it in between, and what lives is let alone."""
    with open_folder() as folder, hanging() as app:
        host = start(folder, app)
        store = host.made.store
        alive = Sign(str(store), "sink", "app", OpenCircuit(since=1.0, failures=5, reason="x"))
        try:
            assert [host.said(desk(number))[:4] for number in range(FAILURES)] == ["451 "] * FAILURES
            (left,) = store.glob("circuit.ask:desk.*")
            host.kill()
            # As if it had been killed in mid-write.
            os.link(left, f"{left}.part")
            assert doctor(host.made, "ask:desk")["status"] == "ok"
            host.start(NOT_FOR_LONG)
            assert host.said(SUPPORT)[:4] == "250 "
            assert [path.name for path in store.glob("circuit.*")] == [f"circuit.app.{os.getpid()}"]
        finally:
            alive.remove()
            app.open.set()
            host.stop()
