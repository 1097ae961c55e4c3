"""Sinks of a process that stays: what is noted of a circuit, what the doctor reads of it, and which share a worker has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gatepost.doctor import sinks as doctor
from gatepost.doctor.subject import Subject
from gatepost.settings import LmtpSettings, ParkedLimits, ParserLimits, Settings, Sink, Timing
from gatepost.sinks import open_circuits
from gatepost.sinks.circuit import FAILURES
from gatepost.sinks.guarded import GuardedSinks
from gatepost.sinks.open_circuits import OpenCircuit, Sign
from tests.faulty_app import FaultyApp
from tests.test_sinks import HERE, SECRET, in_seconds, make_delivery
from tests.test_sinks_webhook import KEY

CIRCUIT = OpenCircuit(since=1_795_255_200.0, failures=5, reason="it answers 503")


def settings(store: Path, *sinks: Sink, workers: int = 1) -> Settings:
    lmtp = LmtpSettings(socket="unix:/run/none", workers=workers)
    return Settings(
        file="/etc/gatepost/gatepost.yml", routes=(), timing=Timing(), parked=ParkedLimits(), parser=ParserLimits(), sinks=sinks,
        store=str(store), lmtp=lmtp,
    )  # fmt: skip


class Guarded:
    """One sink behind its guards, and what was noted."""

    def __init__(self, store: Path, app: FaultyApp, path: str = "mail", **more: Any) -> None:
        self.sink = Sink(name="app", kind="webhook", target=app.url(path), secrets=(KEY,), **more)
        self.notes: list[str] = []
        self.sinks = GuardedSinks(settings(store, self.sink), note=lambda *said: self.notes.append(": ".join(said)))

    def send(self) -> str:
        return self.sinks.deliver(self.sink, make_delivery(), deadline=in_seconds(30)).detail

    def open(self) -> None:
        for _ in range(FAILURES):
            assert self.send().startswith("503")

    def trial(self) -> str:
        """The next message, as if the pause were over."""
        self.sinks._guarded["app"][0]._circuit._next = 0.0
        return self.send()


def test_an_opening_is_noted_and_shown_and_so_is_the_end(tmp_path: Path) -> None:
    """One line each, and a file in between, of mode 0600; what the app wrote stands in neither."""
    with FaultyApp(secrets=[SECRET], behaviour="status/503") as app:
        guarded = Guarded(tmp_path, app)
        guarded.open()
        assert guarded.notes == [f"sink: app: open after {FAILURES} failures: it answers 503"]
        assert guarded.send() == "left alone for a while: it answers 503"
        (path,) = tmp_path.iterdir()
        assert (path.name, path.stat().st_mode & 0o777) == (f"circuit.app.{os.getpid()}", 0o600)
        (shown,) = open_circuits.read(str(tmp_path), "sink", "app")
        assert abs(shown.since - time.time()) < 60
        assert shown == OpenCircuit(since=shown.since, failures=FAILURES, reason="it answers 503")
        assert guarded.trial().startswith("503")
        assert len(guarded.notes) == 1
        app.behaviour = "ok"
        assert guarded.trial() == "200 Because"
        assert guarded.notes[1].startswith("sink: app: closed: it answers again, after ")
        assert list(tmp_path.iterdir()) == []
        app.behaviour = "status/503"
        guarded.open()
        assert len(guarded.notes) == 3
        guarded.sinks.close()
        assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    """It is noted; the circuit opens and closes without its file."""
    with FaultyApp(secrets=[SECRET], behaviour="status/503") as app:
        guarded = Guarded(tmp_path / "none", app)
        guarded.open()
        assert guarded.notes[1:] == [
            f"sink: app: open, which gatepost doctor cannot see: {tmp_path / 'none'}: No such file or directory"
        ]
        app.behaviour = "ok"
        assert guarded.trial() == "200 Because"
        assert guarded.notes[2].startswith("sink: app: closed")
        guarded.sinks.close()


def test_the_share_of_a_worker(tmp_path: Path) -> None:
    """at_once is divided among the workers; each has one at least."""
    rows = [(10, 2, 5), (10, 3, 4), (1, 2, 1), (7, 1, 7)]
    for at_once, workers, share in rows:
        sink = Sink(name="box", kind="maildir", target="/var/mail/box", at_once=at_once)
        guarded = GuardedSinks(settings(tmp_path, sink, workers=workers), note=lambda *_: None)
        assert guarded._guarded["box"][0]._bulkhead.size == share


def test_a_full_sink_says_so(tmp_path: Path) -> None:
    """The line tells the setting that bounds it; the sink is not touched."""
    with FaultyApp(secrets=[SECRET]) as app:
        guarded = Guarded(tmp_path, app, at_once=1)
        bulkhead = guarded.sinks._guarded["app"][0]._bulkhead
        with bulkhead.place(in_seconds(60)):
            bulkhead._moved = 0.0
            outcome = guarded.sinks.deliver(guarded.sink, make_delivery(), deadline=in_seconds(30))
        assert (outcome.kind, outcome.gone) == ("unavailable", "")
        assert outcome.detail == "it has 1 messages in hand, and was done with none of them soon enough (at_once)"
        assert not app.requests
        guarded.sinks.close()


# -- the file


#: Opens a circuit, as far as the first call of a function, or whole. {}: that function.
_OPENS = """
import sys, os, fcntl, time
sys.path.insert(0, {root!r})
from gatepost.sinks.open_circuits import OpenCircuit, Sign
def stop(*_):
    print(flush=True)
    time.sleep(600)
{change}
sign = Sign(sys.argv[1], 'sink', 'app', OpenCircuit(since=1.0, failures=5, reason='x'))
stop()
"""
#: Where the process is killed; what it leaves; why.
KILLED = [
    ("fcntl.flock = stop", "circuit.app.{}.part", "made, and not locked yet"),
    ("os.write = stop", "circuit.app.{}.part", "locked, and empty"),
    ("os.rename = stop", "circuit.app.{}.part", "whole, and not in its place"),
    ("", "circuit.app.{}", "in its place"),
]


@pytest.mark.parametrize(("change", "name"), [row[:2] for row in KILLED], ids=[row[2] for row in KILLED])
def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, change: str, name: str) -> None:
    """By the next process that starts, and only once its own is gone; it counts for nothing in any case."""
    code = _OPENS.format(root=os.path.dirname(HERE), change=change)
    mine = Sign(str(tmp_path), "ask", "desk", CIRCUIT)
    ours = Path(mine._path).name
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == b"\n"
            left = name.format(other.pid)
            open_circuits.clear(str(tmp_path))
            assert {path.name for path in tmp_path.iterdir()} == {left, ours}
            assert len(open_circuits.read(str(tmp_path), "sink", "app")) == (not change)
        finally:
            other.kill()
    assert {path.name for path in tmp_path.iterdir()} == {left, ours}
    assert open_circuits.read(str(tmp_path), "sink", "app") == ()
    open_circuits.clear(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {ours}
    mine.remove()


def test_clearing_touches_nothing_else(tmp_path: Path) -> None:
    """Nothing of another name, and no process is kept from its start by a store that it cannot read."""
    names = {"circuit.app", "circuit.app.x", "circuit.app.part", "xcircuit.app.1", "circuit.app.1.new", "gatepost.sqlite"}
    gone = {f"circuit.app.{os.getpid()}", f"circuit.app.{os.getpid()}.part", "circuit.ask:desk.1"}
    for name in names | gone:
        (tmp_path / name).write_text("no JSON")
    names.add("circuit.a.1")
    (tmp_path / "circuit.a.1").symlink_to("gatepost.sqlite")
    open_circuits.clear(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == names
    open_circuits.clear(str(tmp_path / "none"))


def test_each_sink_has_its_own(tmp_path: Path) -> None:
    """Also where one's name begins with another's, and whatever else lies there."""
    for name in ("circuit.app", "circuit.app.x", "circuit.app.1.part", "circuit.app.2"):
        (tmp_path / name).write_text("no JSON")
    signs = [Sign(str(tmp_path), "sink", name, CIRCUIT) for name in ("app", "app-2")]
    for name in ("app", "app-2"):
        assert open_circuits.read(str(tmp_path), "sink", name) == (CIRCUIT,)
    assert open_circuits.read(str(tmp_path), "sink", "ap") == ()
    for sign in signs:
        sign.remove()
        sign_again = Sign(str(tmp_path), "sink", "app", CIRCUIT)
        sign_again.remove()


def test_the_doctor_tells(tmp_path: Path) -> None:
    """A warning where the sink itself looks well; where it does not, what is wrong with it comes first."""
    with FaultyApp() as app:
        sink = Sink(name="app", kind="webhook", target=app.url(), secrets=(KEY,))
        subject = Subject.__new__(Subject)
        subject.__dict__.update(probe=False, settings=settings(tmp_path, sink), config="/etc/gatepost/gatepost.yml")
        assert doctor._circuit(subject, "sink", "app") is None
        sign = Sign(str(tmp_path), "sink", "app", CIRCUIT)
        verdict = doctor._circuit(subject, "sink", "app")
        assert verdict is not None
        assert verdict.status == "warn"
        assert verdict.evidence == (
            "app: circuit open since 2026-11-21 10:00:00 UTC after 5 failures (it answers 503), in 1 of the warm process's "
            "workers; messages wait in Postfix's queue"
        )
        sign.remove()


@pytest.mark.parametrize("kind", ["maildir", "command"])
def test_every_kind_of_sink_is_guarded(kind: Any, tmp_path: Path) -> None:
    """A Maildir and a program take their messages through the same guards."""
    target = "/bin/true" if kind == "command" else str(tmp_path / "Maildir")
    sink = Sink(name="box", kind=kind, target=target, argv=(target,) if kind == "command" else ())
    guarded = GuardedSinks(settings(tmp_path, sink), note=lambda *_: None)
    bulkhead = guarded._guarded["box"][0]._bulkhead
    assert guarded.deliver(sink, make_delivery(), deadline=in_seconds(30)).kind == "delivered"
    assert bulkhead._free == bulkhead.size
