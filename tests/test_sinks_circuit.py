"""A sink that is gone is left alone for a while: what opens its circuit, what closes it, and who pays meanwhile."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest

from gatepost.settings import Sink
from gatepost.sinks import circuit as module
from gatepost.sinks import deliver
from gatepost.sinks.circuit import FAILURES, FIRST, LONGEST, WAIT, Circuit
from gatepost.sinks.delivery import Outcome
from tests.faulty_app import FaultyApp
from tests.lmtp_host import wait_for
from tests.test_sinks import SECRET, in_seconds, make_delivery
from tests.test_sinks_kept import Clock
from tests.test_sinks_tls import Certificates, certificates  # noqa: F401 - a fixture
from tests.test_sinks_webhook import KEY, LARGE

GONE: Final = Outcome(kind="unavailable", gone="connecting to app: Connection refused")
TAKEN: Final = Outcome(kind="delivered")
BUSY: Final = Outcome(kind="unavailable", detail="429")


def run(circuit: Circuit, attempt: Callable[[], Outcome], *, deadline: float = math.inf) -> Outcome:
    """As a sink's guard does it."""
    return circuit.run(attempt, lambda why: Outcome(kind="unavailable", detail=why), deadline=deadline)


class BugError(Exception):
    """Ours."""


class Tried:
    """A circuit, and what it let through."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[bool] = []
        self.circuit = Circuit(self._changed, now=self.clock)
        self.count = 0

    def _changed(self) -> None:
        self.told.append(self.circuit.opened is not None)

    def send(self, outcome: Outcome | Exception = TAKEN, meanwhile: Callable[[], object] = lambda: None) -> Outcome:
        """One message; what the sink makes of it, and what happens while it does."""

        def attempt() -> Outcome:
            self.count += 1
            meanwhile()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return run(self.circuit, attempt)

    def open(self) -> None:
        for _ in range(FAILURES):
            self.send(GONE)
        assert self.circuit.opened is not None


#: What the sink makes of messages, one after the other; whether the circuit is open then; why.
SEQUENCES: list[tuple[list[Outcome], bool, str]] = [
    ([GONE] * FAILURES, True, "so many in a row"),
    ([GONE] * (FAILURES - 1), False, "one fewer"),
    ([GONE] * (FAILURES - 1) + [TAKEN, GONE], False, "not in a row"),
    ([GONE] * (FAILURES - 1) + [BUSY, GONE], False, "who says later is there"),
    ([Outcome(kind="refused")] * 9, False, "an app that refuses is well"),
    ([Outcome(kind="cannot-take")] * 9, False, "it may be the messages"),
    ([Outcome(kind="misconfigured")] * 9, False, "a person must mend it, and each message's line says how"),
    ([Outcome(kind="unavailable", detail="500")] * 9, False, "it may be the messages"),
]


@pytest.mark.parametrize(("outcomes", "is_open", "reason"), SEQUENCES, ids=[row[2] for row in SEQUENCES])
def test_what_opens_it(outcomes: list[Outcome], is_open: bool, reason: str) -> None:
    """FAILURES attempts in a row that met nobody; whoever answers anything at all is there."""
    tried = Tried()
    assert [tried.send(outcome) for outcome in outcomes] == outcomes
    assert (tried.circuit.opened is not None) == is_open
    assert tried.told == [True] * is_open


def test_an_open_one_defers_without_an_attempt() -> None:
    """The message's line says what was met; nothing of the sink is touched."""
    tried = Tried()
    tried.open()
    outcomes = [tried.send() for _ in range(100)]
    assert tried.count == FAILURES
    assert set(outcomes) == {Outcome(kind="unavailable", detail=f"left alone for a while: {GONE.gone}")}
    assert tried.circuit.opened is not None
    assert (tried.circuit.opened.failures, tried.circuit.opened.reason) == (FAILURES, GONE.gone)


def test_one_in_each_pause_tries_and_pauses_grow_to_a_bound() -> None:
    """FIRST seconds, doubled each time, LONGEST at most; the first that is answered closes it, and all starts anew."""
    tried = Tried()
    tried.open()
    pauses: list[float] = []
    since = tried.clock.time
    while len(pauses) < 7:
        tried.clock.time += 0.5
        before = tried.count
        for _ in range(3):
            tried.send(GONE)
        assert tried.count - before in (0, 1)
        if tried.count > before:
            pauses.append(tried.clock.time - since)
            since = tried.clock.time
    assert pauses == [min(FIRST * 2**number, LONGEST) for number in range(7)]
    assert tried.told == [True]
    tried.clock.time += LONGEST
    assert tried.send() == TAKEN
    assert tried.told == [True, False]
    assert [tried.send(), tried.send()] == [TAKEN] * 2
    tried.open()
    tried.clock.time += FIRST
    assert tried.send() == TAKEN


@pytest.mark.parametrize("outcome", [TAKEN, BUSY, Outcome(kind="refused"), Outcome(kind="misconfigured"), Outcome(kind="cannot-take")],
                         ids=lambda outcome: outcome.kind)  # fmt: skip
def test_any_answer_closes_it(outcome: Outcome) -> None:
    """The sink is there again, whatever it says of this message."""
    tried = Tried()
    tried.open()
    tried.clock.time += FIRST
    assert tried.send(outcome) == outcome
    assert tried.circuit.opened is None


def test_a_trial_that_ends_in_a_bug_is_none() -> None:
    """Nothing was learned: the next message tries, and nobody waits for ever."""
    tried = Tried()
    tried.open()
    tried.clock.time += FIRST
    with pytest.raises(BugError):
        tried.send(BugError())
    assert tried.circuit.opened is not None
    assert tried.send() == TAKEN


def test_a_bug_counts_for_nothing() -> None:
    """It is ours, not the sink's."""
    tried = Tried()
    for _ in range(2 * FAILURES):
        with suppress(BugError):
            tried.send(BugError())
    assert tried.circuit.opened is None


def test_who_began_before_the_last_answer_says_nothing_new() -> None:
    """Messages that hung in an app which has recovered meanwhile: their ends do not open the circuit."""
    tried = Tried()

    def hang(depth: int) -> None:
        if depth:
            tried.send(GONE, lambda: hang(depth - 1))
        else:
            tried.clock.time += 1
            assert tried.send() == TAKEN

    hang(2 * FAILURES)
    assert tried.circuit.opened is None


def test_who_began_before_the_opening_changes_no_pause() -> None:
    """What was under way when it opened ends as it ends; only the trial counts. An answer closes it all the same."""
    tried = Tried()
    tried.send(GONE, tried.open)
    tried.clock.time += FIRST
    assert tried.send(GONE) == GONE  # the trial: the pause is not longer than FIRST
    tried.clock.time += 2 * FIRST
    assert tried.send() == TAKEN
    tried.send(TAKEN, tried.open)
    assert tried.circuit.opened is None


def test_a_trial_that_hangs_is_none_once_another_was_answered() -> None:
    """What was under way when it opened closes it again. When it opens anew, the next trial need not wait for the old one's end;

    and that end does not let a second one in beside it.
    """
    tried = Tried()
    hangs = threading.Event()
    old = threading.Thread(target=lambda: tried.send(GONE, hangs.wait))

    def open_and_try() -> None:
        tried.open()
        tried.clock.time += FIRST
        old.start()
        wait_for(lambda: tried.count == FAILURES + 2, "the trial")
        tried.clock.time += 1

    tried.send(TAKEN, open_and_try)
    assert tried.circuit.opened is None
    tried.open()
    tried.clock.time += FIRST

    def end_the_old_one() -> None:
        hangs.set()
        old.join(60)
        tried.clock.time += WAIT
        assert tried.send().detail.startswith("left alone")

    assert tried.send(TAKEN, end_the_old_one) == TAKEN
    assert tried.circuit.opened is None


class Burst:
    """A circuit whose pause is over: the trial hangs until `end`, and others come meanwhile."""

    def __init__(self, count: int, outcome: Outcome) -> None:
        self.circuit = Circuit()
        for _ in range(FAILURES):
            run(self.circuit, lambda: GONE)
        self.circuit._next = 0.0
        self.begun, self.end = threading.Event(), threading.Event()
        self.outcomes: list[Outcome] = []
        self._outcome = outcome
        self.trial = threading.Thread(target=self._run, args=(self._hang,))
        self.trial.start()
        assert self.begun.wait(30)
        self.others = [threading.Thread(target=self._run, args=(lambda: TAKEN,)) for _ in range(count)]
        for thread in self.others:
            thread.start()

    def _run(self, attempt: Callable[[], Outcome]) -> None:
        self.outcomes.append(run(self.circuit, attempt))

    def _hang(self) -> Outcome:
        self.begun.set()
        assert self.end.wait(30)
        return self._outcome

    def finish(self) -> None:
        self.end.set()
        for thread in (self.trial, *self.others):
            thread.join(30)
        assert not any(thread.is_alive() for thread in (self.trial, *self.others))


@pytest.mark.parametrize(("outcome", "taken"), [(TAKEN, 9), (GONE, 0)], ids=["the app is back", "the app is still gone"])
def test_who_comes_with_the_trial_shares_its_luck(outcome: Outcome, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postfix brings all that waits in one burst: the first is the trial, and the others are not sent back for another
    300 seconds while it is under way.
    """
    monkeypatch.setattr(module, "WAIT", 30.0)
    burst = Burst(8, outcome)
    assert all(thread.is_alive() for thread in burst.others)
    burst.finish()
    assert burst.outcomes.count(TAKEN) == taken
    assert len(burst.outcomes) == 9


def test_nobody_waits_long_for_a_trial_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them keeps a delivery of Postfix's from the other sinks."""
    monkeypatch.setattr(module, "WAIT", 0.05)
    burst = Burst(8, TAKEN)
    wait_for(lambda: len(burst.outcomes) == 8, "the others' deferrals")
    assert {outcome.kind for outcome in burst.outcomes} == {"unavailable"}
    burst.finish()
    assert burst.circuit.opened is None


def test_nobody_waits_for_a_trial_beyond_the_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has less time than the trial may take is deferred when his time is over."""
    monkeypatch.setattr(module, "WAIT", 300.0)
    burst = Burst(0, TAKEN)
    outcomes: list[Outcome] = []
    hurried = threading.Thread(
        target=lambda: outcomes.append(run(burst.circuit, lambda: TAKEN, deadline=time.monotonic() + 0.05))
    )
    hurried.start()
    try:
        wait_for(lambda: outcomes, "the end of the time")
        assert outcomes[0].detail.startswith("left alone")
    finally:
        burst.finish()
        hurried.join(30)


#: The app's behaviour; what is said of it, "" where the message may be the reason; why.
FAULTS = [
    ("status/502", "it answers 502", "nobody behind the proxy"),
    ("status/503", "it answers 503", "overloaded, or being deployed"),
    ("status/504", "it answers 504", "hangs behind the proxy"),
    ("hang", "the deadline passed while waiting for the app", "hangs"),
    ("slow-read", "the deadline passed while waiting for the app", "takes an octet now and then"),
    ("drip-headers", "the deadline passed while waiting for the app", "says an octet now and then"),
    ("drip-body", "200, but the deadline passed while waiting for the app", "never ends a yes"),
    ("status/500", "", "one sender's mail on which the app stumbles"),
    ("status/429", "", "a limit of the app's for one sender"),
    ("status/422", "", "this message"),
    ("status/404", "", "the set-up"),
    ("login-page", "", "the set-up"),
    ("close", "", "a mail that kills the app's process"),
    ("cut-body", "", "a mail that kills the app's process"),
    ("garbage", "", "no HTTP: never a word of that in a file or log"),
    ("ok", "", "the app has it"),
]


@pytest.mark.parametrize(("path", "gone", "reason"), FAULTS, ids=[f"{row[0]}: {row[2]}" for row in FAULTS])
def test_which_faults_of_an_app_say_that_it_is_gone(path: str, gone: str, reason: str) -> None:
    """Those that no mail alone can bring about: who writes to one address must not shut out those who write to the others."""
    with FaultyApp(secrets=[SECRET]) as app:
        sink = Sink(name="app", kind="webhook", target=app.url(path), secrets=(KEY,))
        raw = LARGE if path == "slow-read" else LARGE[:100]
        assert deliver(sink, make_delivery(raw), deadline=in_seconds(0.5 if "deadline" in gone else 30)).gone == gone


def test_nobody_there_is_gone() -> None:
    """No name, no port, no handshake."""
    with FaultyApp(tls_fault="cut") as cut, FaultyApp() as down:
        down.stop()
        said = [
            deliver(Sink(name="app", kind="webhook", target=url), make_delivery(), deadline=in_seconds(30)).gone
            for url in (cut.url(), down.url(), "http://app.invalid/mail")
        ]
    assert said[0] == "TLS: the connection ended in the handshake"
    assert said[1] == f"connecting to 127.0.0.1:{down.port} (127.0.0.1: Connection refused)"
    assert said[2].startswith("looking up app.invalid: ")


def test_a_wrong_certificate_is_not_gone(certificates: Certificates) -> None:  # noqa: F811
    """A person must mend it: each message's line says so."""
    with FaultyApp(certificate=certificates.expired) as app:
        sink = Sink(name="app", kind="webhook", target=app.url(), ca_file=certificates.ca)
        outcome = deliver(sink, make_delivery(), deadline=in_seconds(30))
    assert (outcome.kind, outcome.gone) == ("misconfigured", "")


def test_a_program_that_does_not_end_is_gone() -> None:
    """One that says later is not."""

    def run(*argv: str, seconds: float) -> Outcome:
        sink = Sink(name="app", kind="command", target=argv[0], argv=argv)
        return deliver(sink, make_delivery(), deadline=in_seconds(seconds))

    assert run("/bin/sleep", "60", seconds=1).gone.startswith("still running after 0.")
    assert run("/bin/sh", "-c", "exit 75", seconds=30).gone == ""
