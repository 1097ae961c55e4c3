"""The pipe script killed at random points a thousand times, and run twice at once: nothing is lost, nothing comes as two.

Without Postfix, which would be too slow for it: the script is run as pipe(8) runs it, as user gatepost, two at a time. A kill
is SIGKILL, so no line of Python has a say in it. Needs root.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest

from demo.environment import Environment
from tests.faulty_app import FaultyApp, Request
from tests.installation import DOMAIN, WEBHOOK_SECRET, Installation, message, webhook
from tests.integration.conftest import given, open_folder, queue_id, run_script, start_script

KILLS = 1_000
#: How often each message's run is killed before it may end in peace: later runs find what earlier ones left behind.
KILLS_EACH = 4
#: Messages in one round; a round takes longer than a lease, so that the next one finds the messages free.
ROUND = 250
#: Runs at once; the machine may have two cores.
AT_ONCE = 2
#: Pairs of runs at once.
PAIRS = 50
SEED = 20261121
#: Seconds. A killed run's lease ends soon, and is longer than the deadline all the same.
SHORT, LONG = "timing: {deadline: 3s, lease: 3.2s}\n", "timing: {deadline: 30s, lease: 31s}\n"
#: Seconds that the whole thousand may take; about 60 where nobody else is at work.
BOUND = 900.0
#: Bytes of every fifth message: more than one chunk to every sink, less than the pipe to the script is made to hold.
LARGE = 150_000
FILES = """\
  - name: files
    address: "files+%{key}@in.example.com"
    keys: {format: signed, secret: reply-keys}
    deliver: [files]
"""


@dataclass(frozen=True)
class Mail:
    """One message for one recipient under one queue ID, as Postfix would bring it again and again."""

    number: int
    queue_id: str
    recipient: str
    data: bytes = field(repr=False)

    @property
    def message_id(self) -> str:
        """With its angle brackets; in no other message."""
        return f"<{self.number}@example.org>"

    @property
    def canonical(self) -> bytes:
        """What every sink must get: CRLF line ends."""
        return self.data.replace(b"\n", b"\r\n")


class HoldingApp(FaultyApp):
    """An app that answers a message only when it is told to."""

    def __init__(self) -> None:
        super().__init__(secrets=[WEBHOOK_SECRET])
        self.go_on = threading.Event()
        self.go_on.set()

    def take(self, request: Request) -> bool:
        """As FaultyApp, but the answer waits."""
        taken = super().take(request)
        return self.go_on.wait(20) and taken


@dataclass(frozen=True)
class Bench:
    """An installation whose route `replies` goes to an app and `files` to a Maildir, and messages for both."""

    environment: Environment
    made: Installation
    app: HoldingApp

    def mail(self, number: int) -> Mail:
        """Every other message is for the app, every other for the Maildir; every fifth is larger."""
        route = ("reply", "files")[number % 2]
        recipient = f"{route}+{self.made.key(f'n{number}')}@{DOMAIN}"
        head, _, rest = message(to=recipient, subject=f"{number}", size=0 if number % 5 else LARGE).partition(b"Message-ID: ")
        data = head + f"Message-ID: <{number}@example.org>\n".encode() + rest.partition(b"\n")[2]
        return Mail(number, queue_id(number), recipient, data)

    def start(self, mail: Mail) -> subprocess.Popen[bytes]:
        """Starts the script, with the whole message in its pipe."""
        process = start_script(self.environment.python, self.environment.pipe_script, self.made, queue_id=mail.queue_id,
                               recipient=mail.recipient)  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(mail.data + b"\n")
        process.stdin.close()
        return process

    def run(self, mail: Mail) -> tuple[int, str]:
        """A run that nobody disturbs: exit status and line."""
        return run_script(self.environment.python, self.environment.pipe_script, self.made, mail.data, queue_id=mail.queue_id,
                          recipient=mail.recipient)  # fmt: skip

    def files(self) -> list[bytes]:
        """What is in the Maildir's new/."""
        folder = self.made.folder / "Maildir" / "new"
        return [file.read_bytes() for file in sorted(folder.iterdir())] if folder.is_dir() else []


@contextmanager
def opened(environment: Environment, timing: str) -> Iterator[Bench]:
    """A store that no run has touched yet: a kill may hit its making, too."""
    with open_folder("killed") as folder, HoldingApp() as app:
        maildir = folder / "installed" / "Maildir"
        sinks = f"  files: {{maildir: {maildir}}}\n"
        made = given(folder / "installed", app=webhook(app.url()), more=FILES + timing, sinks=sinks)
        yield Bench(environment, made, app)


@pytest.fixture
def bench(tree: Environment) -> Iterator[Bench]:
    """Short times, for runs that are killed."""
    with opened(tree, SHORT) as made:
        yield made


@pytest.fixture
def patient(tree: Environment) -> Iterator[Bench]:
    """Long times, for runs that wait for each other."""
    with opened(tree, LONG) as made:
        yield made


@contextmanager
def in_parallel() -> Iterator[Callable[[Callable[[Mail], Run], Iterable[Mail]], list[tuple[Mail, Run]]]]:
    """Runs something for each message, AT_ONCE at a time; the first exception is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def run_all(do: Callable[[Mail], Run], mails: Iterable[Mail]) -> list[tuple[Mail, Run]]:
            mails = list(mails)
            return list(zip(mails, pool.map(do, mails), strict=True))

        yield run_all


# --- killed ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """How a run ended: its exit status, negative for a signal, and what it had printed."""

    status: int
    line: str

    @property
    def killed(self) -> bool:
        """Whether the kill came before its end."""
        return self.status == -signal.SIGKILL


def killed_after(bench: Bench, mail: Mail, delay: float) -> Run:
    """A run that is killed once it is so many seconds old, unless it has ended by then."""
    with bench.start(mail) as process:
        watched = os.pidfd_open(process.pid)
        try:
            select.select([watched], [], [], delay)
        finally:
            os.close(watched)
            process.kill()
        assert process.stdout is not None
        return Run(process.wait(), process.stdout.read().decode("ascii"))


class Delays:
    """When to kill: at any moment of a run that takes as long as runs take here and now.

    The range follows the runs: longer after a run that was killed, shorter after one that came to its end, so that one in four
    does. Every other delay is drawn over the whole of it, every other over its second half.
    """

    def __init__(self) -> None:
        self._chance = random.Random(SEED)
        self._most = 0.5  # seconds: a first run, which makes the store and compiles the configuration
        self._lock = threading.Lock()

    def draw(self) -> float:
        """Seconds."""
        with self._lock:
            return self._chance.uniform(self._chance.choice((0, 0.5)) * self._most, self._most)

    def learn(self, run: Run) -> None:
        """1.01 three times is 0.97 once."""
        with self._lock:
            self._most *= 1.01 if run.killed else 0.97


@dataclass
class Killings:
    """What happened to the thousand: the messages, and every run that was killed or not."""

    mails: list[Mail]
    runs: list[Run]
    last: dict[int, Run]


def kill_a_thousand(bench: Bench) -> Killings:
    """Brings message after message, KILLS_EACH times each, until so many runs were killed; then brings the rest in peace."""
    delays, ends = Delays(), time.monotonic() + BOUND
    done = Killings([], [], {})
    times: dict[int, int] = {}
    waiting: list[Mail] = []

    def disturbed(mail: Mail) -> Run:
        run = killed_after(bench, mail, delays.draw())
        delays.learn(run)
        return run

    def undisturbed(mail: Mail) -> Run:
        return Run(*bench.run(mail))

    with in_parallel() as run_all:
        while sum(run.killed for run in done.runs) < KILLS:
            fresh = [bench.mail(len(done.mails) + number) for number in range(ROUND - len(waiting))]
            done.mails += fresh
            waiting += fresh
            for mail, run in run_all(disturbed, waiting):
                done.runs.append(run)
                times[mail.number] = times.get(mail.number, 0) + run.killed
                if run.status == 0:
                    done.last[mail.number] = run
            waiting = [mail for mail in waiting if mail.number not in done.last and times[mail.number] < KILLS_EACH]
            assert time.monotonic() < ends
        while waiting := [mail for mail in done.mails if mail.number not in done.last]:
            done.last |= {mail.number: run for mail, run in run_all(undisturbed, waiting) if run.status != 75}
            assert time.monotonic() < ends
    return done


def test_a_thousand_kills_lose_nothing_and_double_nothing(bench: Bench) -> None:
    """Killed wherever it was, and brought again, each message is in its sink: once, or as the same id and the same bytes."""
    done = kill_a_thousand(bench)
    assert sum(run.killed for run in done.runs) >= KILLS
    assert {run.status for run in done.runs} <= {-signal.SIGKILL, 0, 75}
    assert {(run.status, run.line.partition(" id=")[0]) for run in done.last.values()} <= {
        (0, "accepted route=replies"), (0, "accepted route=files")}  # fmt: skip
    by_message: dict[str, set[tuple[str, str, str]]] = {}
    for taken in bench.app.taken:
        by_message.setdefault(taken["message_id"], set()).add((taken["id"], taken["sha256"], taken["body_sha256"]))
    for_app = {mail.message_id: mail for mail in done.mails if mail.number % 2 == 0}
    assert set(by_message) == set(for_app)
    for message_id, seen in by_message.items():
        ((_, sha256, _),) = seen
        assert sha256 == hashlib.sha256(for_app[message_id].canonical).hexdigest()
    assert len({id_ for seen in by_message.values() for id_, *_ in seen}) == len(for_app), "no two messages have one id"
    assert_one_file_each(bench, [mail for mail in done.mails if mail.number % 2])
    assert_ledger_is_sound(bench, len(done.mails))
    assert taken_up_again(bench) >= KILLS / 20, "the kills came too early to prove anything"


def assert_one_file_each(bench: Bench, mails: Sequence[Mail]) -> None:
    """The Maildir has each message whole, and in one file."""
    files = bench.files()
    assert len(files) == len(mails)
    of_number = {file.partition(b"\nMessage-ID: <")[2].partition(b"@")[0]: file for file in files}
    for mail in mails:
        assert of_number[str(mail.number).encode()].endswith(mail.data)


def assert_ledger_is_sound(bench: Bench, count: int) -> None:
    """SQLite finds nothing wrong, and every message is recorded as done, nothing else."""
    with closing(sqlite3.connect(f"file:{bench.made.store}/gatepost.sqlite?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT state, count(*) FROM delivery GROUP BY state").fetchall() == [("done", count)]


def taken_up_again(bench: Bench) -> int:
    """How many messages a run had claimed when it was killed, so that another claimed them again."""
    with closing(sqlite3.connect(f"file:{bench.made.store}/gatepost.sqlite?mode=ro", uri=True)) as database:
        ((count,),) = database.execute("SELECT count(*) FROM delivery WHERE attempts > 1").fetchall()
    return int(count)


# --- twice at once --------------------------------------------------------------------------------------------------------


def ended(process: subprocess.Popen[bytes]) -> Run:
    """How it ended, once it has."""
    with process:
        assert process.stdout is not None
        line = process.stdout.read().decode("ascii").rstrip("\n")
    return Run(process.returncode, line)


def first_to_end(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The index of the process that ends first."""
    watched = [os.pidfd_open(process.pid) for process in processes]
    try:
        there, _, _ = select.select(watched, [], [], 60)
        return watched.index(there[0])
    finally:
        for each in watched:
            os.close(each)


IN_FLIGHT = (75, "4.3.2 Already being delivered, try later (rule=in-flight)")


def test_of_two_runs_at_once_one_hands_over(patient: Bench) -> None:
    """While the app has not answered the first run, the second touches no sink and defers; then the first succeeds."""
    for number in range(0, PAIRS, 2):
        mail = patient.mail(number)
        patient.app.go_on.clear()
        pair = [patient.start(mail) for _ in range(2)]
        index = first_to_end(pair)
        second = ended(pair.pop(index))
        patient.app.go_on.set()
        first = ended(pair.pop())
        assert (second.status, second.line) == IN_FLIGHT
        assert (first.status, first.line.partition(" id=")[0]) == (0, "accepted route=replies")
        assert not first.line.endswith(" again")
    assert len(patient.app.taken) == len({taken["id"] for taken in patient.app.taken}) == PAIRS / 2
    assert_ledger_is_sound(patient, PAIRS // 2)


def test_two_runs_at_once_leave_one_file(patient: Bench) -> None:
    """However the two meet, one hands over; the other defers, or finds that it is done."""
    for number in range(1, PAIRS, 2):
        mail = patient.mail(number)
        pair = [patient.start(mail) for _ in range(2)]
        runs = [ended(process) for process in pair]
        accepted = [run for run in runs if run.status == 0 and not run.line.endswith(" again")]
        assert len(accepted) == 1, runs
        (other,) = [run for run in runs if run is not accepted[0]]
        assert other.line == accepted[0].line + " again" if other.status == 0 else (other.status, other.line) == IN_FLIGHT
    assert_one_file_each(patient, [patient.mail(number) for number in range(1, PAIRS, 2)])
    assert_ledger_is_sound(patient, PAIRS // 2)
