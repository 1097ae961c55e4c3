"""`gatepost serve` and its sinks: a slow or dead app holds up no other; connections are kept, and bounded."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gatepost.sinks.circuit import FAILURES
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, message, webhook
from tests.lmtp_host import Serving, doctor, open_folder, wait_for
from tests.test_lmtp_server import PERSON

SLOW, WELL = "slow@in.example.com", "well@in.example.com"
ROUTES = """\
routes:
  - {name: slow, address: slow@in.example.com, keys: {format: signed, secret: reply-keys}, deliver: [slow]}
  - {name: well, address: well@in.example.com, keys: {format: signed, secret: reply-keys}, deliver: [well]}
  - {name: both, address: both@in.example.com, keys: {format: signed, secret: reply-keys}, deliver: [well, slow]}
"""
_DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


def queue_id(number: int, *, days_ago: int = 0) -> str:
    """A long queue ID of its own."""
    seconds, digits = int(time.time()) - days_ago * 86_400, ""
    for _ in range(6):
        seconds, digit = divmod(seconds, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return f"{digits}{_DIGITS[number // 31 % 31]}{_DIGITS[number % 31]}H8zJv6D"


class Host:
    """`gatepost serve` with two apps: one that is well, and one that is not."""

    def __init__(self, folder: Path, *, workers: int, at_once: int, deadline: str = "60s") -> None:
        self.slow, self.well = (FaultyApp(secrets=[WEBHOOK_SECRET], behaviour="kept") for _ in range(2))
        more = f"timing: {{deadline: {deadline}, lease: 70s}}\n"
        self.serving = Serving(folder, lmtp=f", workers: {workers}, max_messages: 40", more=more)
        config = self.serving.made.config
        text = config.read_text().replace("routes:\n", ROUTES)
        for name, app in (("slow", self.slow), ("well", self.well)):
            text += f"  {name}: {webhook(app.url(), at_once=str(at_once))}\n"
        config.write_text(text)
        self._number = 0
        self._counting = threading.Lock()

    def send(self, to: str, *, days_ago: int = 0) -> str:
        """One message on a connection of its own; its reply."""
        with self._counting:
            self._number += 1
            number = self._number
        with self.serving.client() as client:
            return client.message(PERSON, [to], message(to=to), queue_id=queue_id(number, days_ago=days_ago))[0]

    def circuits(self) -> list[str]:
        """What the log says of them."""
        return [line.partition("lmtp: ")[2] for line in self.serving.made.log_lines() if "state=circuit" in line]

    def doctor(self, sink: str) -> dict[str, str]:
        """What it says of that sink."""
        return doctor(self.serving.made, f"sink:{sink}")

    def descriptors(self) -> list[int]:
        """How many each worker has open."""
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in self.serving.workers()]


@contextmanager
def host(*, workers: int, at_once: int, deadline: str = "60s") -> Iterator[Host]:
    with open_folder() as folder, ExitStack() as end:
        made = Host(folder, workers=workers, at_once=at_once, deadline=deadline)
        for stop in (made.serving.stop, made.well.stop, made.slow.stop):  # what hangs ends first
            end.callback(stop)
        made.serving.start()
        yield made


class Senders:
    """Messages that are sent at once; `replies` as they come."""

    def __init__(self, made: Host, to: str, count: int, each: int = 1) -> None:
        self.replies: list[str] = []

        def send_some() -> None:
            for _ in range(each):
                self.replies.append(made.send(to))

        self._threads = [threading.Thread(target=send_some, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> list[str]:
        for thread in self._threads:
            thread.join(60)
        return self.replies


def test_an_app_that_hangs_holds_up_no_other() -> None:
    """Of twelve messages for it four are in its hands, the others are deferred; meanwhile all those for the other app are

    handed over, by the same two workers, over a few kept connections.
    """
    with host(workers=2, at_once=4) as made:
        made.slow.behaviour = "hang"
        slow = Senders(made, SLOW, 12)
        wait_for(lambda: len(slow.replies) >= 8, "the deferrals of those that find no place")
        well = Senders(made, WELL, 6, each=5)
        replies = well.wait()
        assert [reply[:31] for reply in replies] == ["250 2.0.0 accepted route=well i"] * 30
        assert len(made.well.taken) == 30
        assert made.well.most <= 4
        assert len(slow.replies) <= 10  # a place at least in each worker is still taken
        assert {reply.partition(" id=")[0] for reply in slow.replies} == {
            "451 4.4.1 The application is not available, try later (rule=app-unavailable)"
        }
        assert made.slow.most <= 4
        assert {each.number for each in made.slow.requests} == {1}
        assert made.circuits() == []


def test_an_app_that_is_gone_is_left_alone_until_it_is_back() -> None:
    """Its circuit opens, in the log and for the doctor; what waits too long is parked; the first that it takes closes it."""
    with host(workers=1, at_once=10) as made:
        made.slow.behaviour = "status/503"
        assert {made.send(SLOW)[:9] for _ in range(FAILURES)} == {"451 4.4.1"}
        assert made.circuits() == [f'state=circuit sink=slow detail="open after {FAILURES} failures: it answers 503"']
        asked = len(made.slow.requests)
        assert made.send(SLOW).startswith("451 4.4.1 ")
        old = made.send(SLOW, days_ago=5)
        assert old.startswith("250 2.0.0 parked rule=gave-up route=slow")
        assert len(made.slow.requests) == asked
        assert 'detail="left alone for a while: it answers 503"' in "".join(made.serving.made.log_lines())
        assert made.send(WELL).startswith("250 ")
        check = made.doctor("slow")
        assert check["status"] == "warn"
        assert check["evidence"].startswith("slow: circuit open since 20")
        assert check["evidence"].endswith(
            f" after {FAILURES} failures (it answers 503), in 1 of the warm process's workers; messages wait in Postfix's queue"
        )
        made.slow.behaviour = "kept"
        wait_for(lambda: made.send(SLOW).startswith("250 "), "the first message that is taken")
        assert made.circuits()[-1].startswith('state=circuit sink=slow detail="closed: it answers again, after ')
        assert {made.send(SLOW)[:3] for _ in range(5)} == {"250"}
        assert made.doctor("slow")["status"] == "ok"
        assert not list(made.serving.made.store.glob("circuit.*"))


def test_a_sink_of_best_effort_holds_up_nobody() -> None:
    """It hangs behind an app that has the message: those beyond its places are answered without it."""
    with host(workers=1, at_once=2) as made:
        made.slow.behaviour = "hang"
        both = Senders(made, "both@in.example.com", 6)
        wait_for(lambda: len(both.replies) >= 4, "the replies of those that find no place")
        assert {reply[:9] for reply in both.replies} == {"250 2.0.0"}
        assert len(made.well.taken) == 6


def test_connections_are_kept_and_bounded_and_nothing_is_left() -> None:
    """Ninety messages over at most four connections in each second; then the app has none, and a worker no descriptor more."""
    with host(workers=1, at_once=4) as made:
        for path in ("kept", "kept-until/close", "cut-body", "kept-trailing", "kept"):
            made.slow.behaviour = path
            Senders(made, SLOW, 4, each=2).wait()
        wait_for(lambda: made.slow.open_now == 0, "the end of the connections")
        before = made.descriptors()
        replies = Senders(made, WELL, 9, each=10).wait()
        assert {reply[:3] for reply in replies} == {"250"}
        assert len(made.well.taken) == 90
        assert made.well.most <= 4
        assert made.well.connections < 45
        wait_for(lambda: made.well.open_now == 0, "the end of the connections")
        # As many threads as never before may have opened the ledger as often as it can be: the file, its log, and their index.
        wait_for(lambda: made.descriptors()[0] <= before[0] + 8 * 3, "the descriptors")


def test_an_app_that_is_cut_off_in_mid_answer_gets_the_same_again() -> None:
    """It had the message, and its answer was lost on a kept connection: deferred, and the next attempt has the same bytes."""
    with host(workers=1, at_once=4) as made:
        made.slow.behaviour = "kept-until/cut-body"
        assert made.send(SLOW).startswith("250 ")
        number, made._number = made._number + 1, made._number
        assert made.send(SLOW).startswith("451 4.4.1 ")
        made.slow.behaviour = "kept"
        made._number = number - 1
        assert made.send(SLOW).startswith("250 ")
        first, second = made.slow.requests[1:]
        assert first.fields["webhook-id"] == second.fields["webhook-id"]
        assert first.body == second.body


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM"])
def test_the_doctor_believes_no_dead_process(ending: str) -> None:
    """An open circuit is over with the process that had it, however that ended."""
    import signal

    with host(workers=1, at_once=4) as made:
        made.slow.behaviour = "status/503"
        for _ in range(FAILURES):
            made.send(SLOW)
        assert made.doctor("slow")["status"] == "warn"
        workers = made.serving.workers()
        made.serving.signal(getattr(signal, ending))
        made.serving.status()
        for pid in workers:
            wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the end of a worker")  # type: ignore[misc]
        assert made.doctor("slow")["status"] == "ok"
