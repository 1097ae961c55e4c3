"""Who asks an app from many threads: how little it hears of them, and how few of them it can hold up.

Promises: every question goes over loopback to an app that is there, or is not; clocks are the test's own where answers grow old.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost import asker as module
from gatepost.ask import Answer
from gatepost.asker import IN_FLIGHT, KEEP_NO, KEEP_YES, PAUSE, Asker, GuardedAsk
from gatepost.doctor import sinks as doctor
from gatepost.doctor.subject import Subject
from gatepost.settings import Ask, KeySettings, ParkedLimits, ParserLimits, Route, Screening, Settings, Timing
from gatepost.sinks import bulkhead, open_circuits
from gatepost.sinks.circuit import FAILURES, Circuit
from gatepost.sinks.open_circuits import OpenCircuit, Sign
from tests.faulty_app import PAGE
from tests.test_ask import NOW, PAGE_ASK, PATIENCE, KeyApp, http, question
from tests.test_sinks import in_seconds
from tests.test_sinks_webhook import KEY


@pytest.fixture(name="app")
def an_app() -> Iterator[KeyApp]:
    with KeyApp(live=("live",)) as running:
        yield running


def settings(*urls: str, store: Path = Path("/nonexistent")) -> Settings:
    """A route for each URL that is asked."""
    routes = [
        Route(
            name=f"desk-{number}", address=f"contact-{number}+%{{key}}@in.example.com",
            keys=KeySettings(format="gitlab", ask=Ask(url=url)), screening=Screening(), deliver=("app",),
        )
        for number, url in enumerate(urls)
    ]  # fmt: skip
    return Settings(
        file="/etc/gatepost/gatepost.yml", routes=tuple(routes), timing=Timing(), parked=ParkedLimits(), parser=ParserLimits(),
        sinks=(), store=str(store),
    )  # fmt: skip


def make(*urls: str, **options: Any) -> Asker:
    """One that asks these; nobody hears of its circuits."""
    return Asker(GuardedAsk(settings(*urls), note=lambda *_: None), **options)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def until(condition: Callable[[], bool]) -> None:
    """Polls; fails where it never comes."""
    deadline = in_seconds(PATIENCE)
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def in_threads(count: int, act: Callable[[int], None]) -> list[threading.Thread]:
    """So many threads that begin together."""
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(PATIENCE)
        act(number)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# -- many at once


def test_one_key_asked_by_all_is_one_question(app: KeyApp) -> None:
    """10,000 questions about one key in 50 threads are one request, and all have its answer."""
    asker, answers, begun = make(app.url, monotonic=Clock()), list[str](), list[int]()
    app.open.clear()

    def act(number: int) -> None:
        begun.append(number)
        for _ in range(200):
            answers.append(asker.alive(question(app.url, "live"), deadline=in_seconds(PATIENCE)).alive)

    threads = in_threads(50, act)
    until(lambda: len(begun) == 50 and bool(app.asked))
    app.open.set()
    join(threads)
    assert answers == ["yes"] * 10_000
    assert app.asked == ["live"]


def test_many_keys_are_asked_few_at_a_time(app: KeyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 keys from 50 threads are never more than IN_FLIGHT requests at a time, each asked once and answered rightly."""
    monkeypatch.setattr(bulkhead, "STANDSTILL", PATIENCE)
    keys = [f"key-{number}" for number in range(1_000)]
    app.live.update(keys[::2])
    asker, answers = make(app.url, monotonic=Clock()), dict[str, str]()
    app.open.clear()

    def act(number: int) -> None:
        for key in keys[number::50]:
            answers[key] = asker.alive(question(app.url, key), deadline=in_seconds(PATIENCE)).alive

    threads = in_threads(50, act)
    until(lambda: app.under_way == IN_FLIGHT)
    app.open.set()
    join(threads)
    assert app.peak == IN_FLIGHT
    assert sorted(app.asked) == sorted(keys)
    assert answers == {key: "yes" if number % 2 == 0 else "no" for number, key in enumerate(keys)}


def test_two_urls_do_not_wait_for_each_other(app: KeyApp) -> None:
    """An app that hangs takes no room from another's."""
    app.open.clear()
    with KeyApp(live=("live",)) as other:
        asker = make(app.url, other.url)
        threads = in_threads(IN_FLIGHT, lambda n: void(asker.alive(question(app.url, f"k{n}"), deadline=in_seconds(PATIENCE))))
        until(lambda: app.under_way == IN_FLIGHT)
        assert asker.alive(question(other.url, "live"), deadline=in_seconds(PATIENCE)).alive == "yes"
        app.open.set()
        join(threads)


def void(_: object) -> None:
    """For a lambda that returns nothing."""


@pytest.mark.parametrize(("seconds", "standstill"), [(0.2, 600.0), (600.0, 0.2)], ids=["deadline", "nothing moves"])
def test_who_finds_no_room_is_turned_away(
    app: KeyApp, monkeypatch: pytest.MonkeyPatch, seconds: float, standstill: float
) -> None:
    """One more than IN_FLIGHT is unavailable at its own deadline, or sooner where nothing moves, and is not asked; nothing is

    held against its key or the app.
    """
    monkeypatch.setattr(module, "DEADLINE", PATIENCE)
    monkeypatch.setattr(bulkhead, "STANDSTILL", standstill)
    asker = make(app.url)
    app.open.clear()
    threads = in_threads(IN_FLIGHT, lambda n: void(asker.alive(question(app.url, f"k{n}"), deadline=in_seconds(PATIENCE))))
    until(lambda: app.under_way == IN_FLIGHT)
    assert asker.alive(question(app.url, "live"), deadline=in_seconds(seconds)) == Answer(
        alive="unavailable", detail=f"{IN_FLIGHT} questions were under way, and none of them was answered soon enough"
    )
    app.open.set()
    join(threads)
    assert "live" not in app.asked
    assert asker.alive(question(app.url, "live"), deadline=in_seconds(PATIENCE)).alive == "yes"


def test_who_waits_for_anothers_answer_keeps_the_own_deadline(app: KeyApp) -> None:
    """A follower with little time is unavailable; the one who asked gets the answer, and it is known from then on."""
    asker, answers = make(app.url, monotonic=Clock()), list[str]()
    app.open.clear()
    leader = in_threads(
        1, lambda _: answers.append(asker.alive(question(app.url, "live"), deadline=in_seconds(PATIENCE)).alive)
    )
    until(lambda: app.under_way == 1)
    answer = asker.alive(question(app.url, "live"), deadline=in_seconds(0.2))
    assert (answer.alive, "the same key" in answer.detail) == ("unavailable", True)
    app.open.set()
    join(leader)
    assert answers == ["yes"]
    assert asker.alive(question(app.url, "live"), deadline=in_seconds(PATIENCE)).alive == "yes"
    assert app.asked == ["live"]


def test_one_with_little_time_does_not_answer_for_the_others(app: KeyApp) -> None:
    """Where the one who asks had no time for an answer, the next asks for itself, and the app is not taken to be gone."""
    asker, answers = make(app.url, monotonic=Clock()), dict[str, str]()
    app.open.clear()

    def act(name: str, seconds: float) -> None:
        answers[name] = asker.alive(question(app.url, "live"), deadline=in_seconds(seconds)).alive

    hurried = threading.Thread(target=act, args=("hurried", 0.3), daemon=True)
    hurried.start()
    until(lambda: app.under_way == 1)
    patient = threading.Thread(target=act, args=("patient", PATIENCE), daemon=True)
    patient.start()
    join([hurried])
    until(lambda: len(app.asked) == 2)
    app.open.set()
    join([patient])
    assert answers == {"hurried": "unavailable", "patient": "yes"}


def test_an_interrupted_question_leaves_nobody_waiting(app: KeyApp) -> None:
    """What ends the thread that asks (a signal's exception) ends neither the key nor the room that it took."""
    asker = make(app.url, monotonic=Clock(), now=lambda: interrupted())
    for number in range(2 * IN_FLIGHT):
        with pytest.raises(KeyboardInterrupt):
            asker.alive(question(app.url, f"k{number % 3}"), deadline=in_seconds(PATIENCE))
    asker._now = time.time
    assert asker.alive(question(app.url, "live"), deadline=in_seconds(PATIENCE)).alive == "yes"
    assert asker.alive(question(app.url, "k1"), deadline=in_seconds(PATIENCE)).alive == "no"


def interrupted() -> float:
    raise KeyboardInterrupt


# -- what is known, and for how long

AGES = [
    ("live", 0.0, 1, "a yes is known"),
    ("live", KEEP_YES - 1, 1, "until its time is over"),
    ("live", KEEP_YES, 2, "then it is asked again"),
    ("dead", 0.0, 1, "a no is known"),
    ("dead", KEEP_NO - 1, 1, "until its time is over"),
    ("dead", KEEP_NO, 2, "then it is asked again"),
]


@pytest.mark.parametrize(("key", "age", "requests", "reason"), AGES, ids=[f"{row[0]} {row[1]}: {row[3]}" for row in AGES])
def test_answers_grow_old(app: KeyApp, key: str, age: float, requests: int, reason: str) -> None:
    """Each answer is known for its time and not longer."""
    clock = Clock()
    asker = make(app.url, monotonic=clock)
    first = asker.alive(question(app.url, key), deadline=in_seconds(PATIENCE))
    clock.seconds += age
    assert asker.alive(question(app.url, key), deadline=in_seconds(PATIENCE)) == first
    assert len(app.asked) == requests


def test_a_key_made_after_a_guess_lives_soon(app: KeyApp) -> None:
    """A no is known for less time than a person needs to answer a mail, and asking again does not prolong it."""
    clock = Clock()
    asker = make(app.url, monotonic=clock)
    assert asker.alive(question(app.url, "new"), deadline=in_seconds(PATIENCE)).alive == "no"
    app.live.add("new")
    for _ in range(10):
        clock.seconds += KEEP_NO / 10
        answer = asker.alive(question(app.url, "new"), deadline=in_seconds(PATIENCE)).alive
    assert answer == "yes"
    assert KEEP_NO < KEEP_YES


OTHERS: list[tuple[str, dict[str, Any], bool]] = [
    ("route", {"route": "other"}, True),
    ("domain", {"domain": "other.example.com"}, True),
    ("parts that meet", {"route": "des", "domain": "kin.example.com"}, True),
    ("quotes in a part", {"route": "desk', '", "domain": ""}, True),
    ("key", {"raw": "live "}, True),
    ("subject", {"subject": "21"}, False),
    ("secrets", {"secrets": (b"another secret of thirty-two oct", KEY)}, False),
]


@pytest.mark.parametrize(("changes", "again"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_an_answer_is_for_one_route_domain_and_key(app: KeyApp, changes: dict[str, Any], again: bool) -> None:
    """What is known of one is not taken for another; what follows from route and key does not count."""
    asker = make(app.url, monotonic=Clock())
    for each in ({}, changes):
        asker.alive(question(app.url, **({"raw": "live"} | each)), deadline=in_seconds(PATIENCE))
    assert len(app.asked) == 1 + again


def test_an_answer_is_for_one_url(app: KeyApp) -> None:
    """Two apps may know the same key differently."""
    with KeyApp() as other:
        asker = make(app.url, other.url)
        for running, alive in ((app, "yes"), (other, "no"), (app, "yes")):
            assert asker.alive(question(running.url, "live"), deadline=in_seconds(PATIENCE)).alive == alive
    assert (app.asked, other.asked) == (["live"], ["live"])


def test_what_is_kept_is_bounded(app: KeyApp) -> None:
    """The oldest goes; guesses never push out a live key."""
    asker = make(app.url, monotonic=Clock(), entries=10)
    app.live.update(f"live-{number}" for number in range(15))
    for number in range(15):
        asker.alive(question(app.url, f"live-{number}"), deadline=in_seconds(PATIENCE))
    for number in range(100):
        asker.alive(question(app.url, f"guess-{number}"), deadline=in_seconds(PATIENCE))
    assert len(app.asked) == 115
    for kind, number in [("live", n) for n in range(5, 15)] + [("guess", n) for n in range(90, 100)]:
        asker.alive(question(app.url, f"{kind}-{number}"), deadline=in_seconds(PATIENCE))
    assert len(app.asked) == 115
    assert len(asker._alive._kept) == len(asker._others._kept) == 10
    assert asker._asking == {}


def test_no_key_stays_in_memory(app: KeyApp) -> None:
    """Answers are kept under a hash whose secret each process makes."""
    names = set()
    for _ in range(2):
        asker = make(app.url, monotonic=Clock())
        asker.alive(question(app.url, "live"), deadline=in_seconds(PATIENCE))
        ((name, kept),) = asker._alive._kept.items()
        assert len(name) == 32
        assert "live" not in repr(kept[0]).replace("alive", "")
        names.add(name)
    assert len(names) == 2


# -- an app that fails


def asked(asker: Asker, app: KeyApp, raw: str) -> Answer:
    return asker.alive(question(app.url, raw), deadline=in_seconds(PATIENCE))


def circuit(asker: Asker, app: KeyApp) -> Circuit:
    return asker._guarded._guards[app.url]._circuit


def fail(asker: Asker, app: KeyApp) -> None:
    """So many keys fail that an app that is gone is left alone."""
    for number in range(FAILURES):
        assert asked(asker, app, f"bad-{number}").alive == "unavailable"


def fails_with(words: bytes) -> Callable[[str], bytes | None]:
    return lambda raw: words if raw.startswith("bad") else None


GONE = [
    ("429", http(b"", status="429 Slow down"), "it answers 429", "the app has too much to do"),
    ("502", http(b"", status="502 Bad Gateway"), "it answers 502", "the proxy is there, the app is not"),
    ("503", http(b"", status="503 Busy"), "it answers 503", "overloaded, or being deployed"),
    ("504", http(b"", status="504 Gateway Timeout"), "it answers 504", "the app is too slow for its proxy"),
    ("no answer", b"", "", "a key that kills the app's process"),
    ("cut off", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "", "a key that kills the app's process"),
    ("not HTTP", b"220 mx.example.net ESMTP\r\n", "", "never a word of that in a file or log"),
    ("500", http(b"", status="500 Oops"), "", "one key may do that, and must not shut the others"),
    ("404", http(b"", status="404 No"), "", "an app may mean the one key"),
    ("page", http(PAGE), "", "an answer to that request"),
    ("null", http(b'{"alive": null}'), "", "an answer to that key"),
]


@pytest.mark.parametrize(("words", "gone", "reason"), [row[1:] for row in GONE], ids=[f"{row[0]}: {row[3]}" for row in GONE])
def test_an_app_that_is_gone_is_left_alone(app: KeyApp, words: bytes, gone: str, reason: str) -> None:
    """FAILURES questions in a row that met nobody, and no key is asked about but one in each pause, until one is answered."""
    asker = make(app.url)
    app.answer = fails_with(words)
    fail(asker, app)
    other = asked(asker, app, "live")
    assert other.alive == ("unavailable" if gone else "yes")
    assert len(app.asked) == FAILURES + (not gone)
    if gone:
        assert other.detail == f"left alone for a while: {gone}"
        circuit(asker, app)._next = 0.0
        assert [asked(asker, app, raw).alive for raw in ("live", "dead")] == ["yes", "no"]
        assert circuit(asker, app).opened is None


@pytest.mark.parametrize("words", [row[1] for row in GONE], ids=[row[0] for row in GONE])
def test_a_key_on_which_the_app_fails_is_left_alone(app: KeyApp, words: bytes) -> None:
    """For PAUSE seconds; no other key has to wait for it."""
    clock = Clock()
    asker = make(app.url, monotonic=clock)
    app.answer = fails_with(words)
    assert [asked(asker, app, "bad").alive for _ in range(FAILURES)] == ["unavailable"] * FAILURES
    assert asked(asker, app, "live").alive == "yes"
    assert app.asked == ["bad", "live"]
    clock.seconds += PAUSE
    assert asked(asker, app, "bad").alive == "unavailable"
    assert app.asked == ["bad", "live", "bad"]


@pytest.mark.parametrize(("seconds", "opens"), [(PATIENCE, True), (0.1, False)], ids=["DEADLINE", "too little time"])
def test_an_app_that_hangs_is_gone(app: KeyApp, monkeypatch: pytest.MonkeyPatch, seconds: float, opens: bool) -> None:
    """Who got no answer in DEADLINE seconds counts; who had no time for one says nothing of the app."""
    monkeypatch.setattr(module, "DEADLINE", 0.5)
    asker = make(app.url)
    app.open.clear()
    details: list[str] = []
    join(
        in_threads(
            FAILURES,
            lambda n: details.append(asker.alive(question(app.url, f"k{n}"), deadline=in_seconds(seconds)).detail),
        )
    )
    assert details == ["the deadline passed while waiting for the app"] * FAILURES
    assert (circuit(asker, app).opened is not None) == opens


def test_our_own_fault_says_nothing_of_the_app(app: KeyApp) -> None:
    """It neither opens a circuit nor closes one."""
    asker, faults = make(app.url, now=lambda: broken()), 0
    for number in range(2 * FAILURES):
        faults += asked(asker, app, f"k{number}") == Answer(alive="unavailable", detail="ValueError on our side")
    assert faults == 2 * FAILURES
    assert circuit(asker, app).opened is None
    asker._now = time.time
    app.answer = fails_with(http(b"", status="503 Busy"))
    fail(asker, app)
    asker._now = lambda: broken()
    circuit(asker, app)._next = 0.0
    assert asked(asker, app, "live").detail == "ValueError on our side"
    assert circuit(asker, app).opened is not None


def broken() -> float:
    raise ValueError


def test_what_is_known_stays_known_while_the_app_is_gone(app: KeyApp) -> None:
    """An open circuit stops questions, not answers; and another URL has its own."""
    with KeyApp(live=("live",)) as other:
        asker = make(app.url, other.url)
        assert asked(asker, app, "live").alive == "yes"
        app.answer = fails_with(http(b"", status="503 Busy"))
        fail(asker, app)
        assert [asked(asker, app, raw).alive for raw in ("new", "live")] == ["unavailable", "yes"]
        assert asked(asker, other, "live").alive == "yes"


def test_guesses_at_a_dead_app_are_few_questions(app: KeyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 keys in 50 threads: no more than were under way, and as many as it takes; who waits is told at once."""
    monkeypatch.setattr(module, "DEADLINE", 2 * PATIENCE)  # longer than join() waits
    monkeypatch.setattr(bulkhead, "STANDSTILL", 2 * PATIENCE)
    monkeypatch.setattr("gatepost.sinks.circuit.FIRST", 2 * PATIENCE)
    asker, answers = make(app.url), list[str]()
    app.answer = lambda _: http(b"", status="503 Busy")
    app.open.clear()

    def act(number: int) -> None:
        for each in range(200):
            answers.append(asker.alive(question(app.url, f"{number}-{each}"), deadline=in_seconds(2 * PATIENCE)).alive)

    threads = in_threads(50, act)
    until(lambda: app.under_way == IN_FLIGHT)
    app.open.set()
    join(threads)
    assert answers == ["unavailable"] * 10_000
    assert len(app.asked) < IN_FLIGHT + FAILURES


def test_an_app_that_restarts_is_heard_again() -> None:
    """Down is gone; after the pause it is asked, on the same port, and an answer ends the pause for every key."""
    with KeyApp(live=("live",)) as app:
        asker = make(app.url)
        assert asked(asker, app, "live").alive == "yes"
    fail(asker, app)
    with KeyApp(live=("live", "new"), port=app.port) as again:
        assert asked(asker, again, "new").alive == "unavailable"
        assert again.asked == []
        circuit(asker, again)._next = 0.0
        assert [asked(asker, again, raw).alive for raw in ("new", "dead")] == ["yes", "no"]
        assert again.asked == ["new", "dead"]


def test_an_opening_is_noted_and_shown(app: KeyApp, tmp_path: Path) -> None:
    """By the first route of the URL, in the log and for the doctor; one of several that ask there is enough."""
    noted: list[str] = []
    guarded = GuardedAsk(settings(app.url, app.url, store=tmp_path), note=lambda *said: noted.append(" ".join(said)))
    asker = Asker(guarded)
    app.answer = fails_with(http(b"", status="503 Busy"))
    fail(asker, app)
    assert noted == [f"ask desk-0 open after {FAILURES} failures: it answers 503"]
    assert [path.name for path in tmp_path.iterdir()] == [f"circuit.ask:desk-0.{os.getpid()}"]
    assert [each.failures for each in open_circuits.read(str(tmp_path), "ask", "desk-0")] == [FAILURES]
    assert open_circuits.read(str(tmp_path), "sink", "desk-0") == open_circuits.read(str(tmp_path), "ask", "desk-1") == ()
    asker.close()
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_looks_at_each_url_once(app: KeyApp, tmp_path: Path) -> None:
    """By its first route; one where nobody listens is a FAIL, and its query is shown nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        down = f"http://127.0.0.1:{taken.getsockname()[1]}/key?token=secret"
    subject = Subject.__new__(Subject)
    subject.__dict__.update(
        settings=settings(app.url, app.url, down, app.url.replace("http:", "https:"), store=tmp_path), runs_as=os.geteuid(),
        config="/etc/gatepost/gatepost.yml", probe=False,
    )  # fmt: skip
    found = {name: question() for name, question in doctor.questions(subject)}
    assert {name: verdict.status for name, verdict in found.items()} == {
        "ask:desk-0": "ok", "ask:desk-2": "FAIL", "ask:desk-3": "FAIL"
    }  # fmt: skip
    assert found["ask:desk-0"].evidence == f"{app.url}: answers without TLS"
    assert found["ask:desk-2"].evidence.startswith(down.partition("?")[0] + ": connecting to")
    sign = Sign(str(tmp_path), "ask", "desk-0", OpenCircuit(since=NOW, failures=5, reason="it answers 503"))
    assert dict(doctor.questions(subject))["ask:desk-0"]().evidence == (
        "desk-0: circuit open since 2026-11-21 10:00:00 UTC after 5 failures (it answers 503), in 1 of the milter and the warm "
        "process's workers; mail to its keys has to come again"
    )
    sign.remove()


def test_workers_share_what_may_be_under_way(app: KeyApp) -> None:
    """IN_FLIGHT in all of them together; each has one at least."""
    for workers, places in ((1, 8), (2, 4), (3, 3), (20, 1)):
        guarded = GuardedAsk(settings(app.url), note=lambda *_: None, workers=workers)
        assert guarded._guards[app.url]._bulkhead.size == places


def test_the_page_says_the_numbers() -> None:
    """docs/ask.md names each limit as it is."""
    for words in (
        f"| {KEEP_YES:.0f} s |",
        f"| {KEEP_NO:.0f} s |",
        f"| {IN_FLIGHT} to one URL |",
        f"{FAILURES} questions in a row",
        f"left alone for {PAUSE:.0f} s",
        f"{module.ENTRIES:,} live keys",
    ):
        assert words in PAGE_ASK
