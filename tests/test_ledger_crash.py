"""The ledger with many processes at once, and with processes killed at any point (kill -9)."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost.stores.ledger import Ledger

#: Children killed in the crash test: enough to hit every statement of claim and finish many times over, in about 2 s.
KILLS = 600
LEASE = 180.0


def child(work: Callable[[], int]) -> int:
    """Runs `work` in a process of its own and returns its id; the exit status is what `work` returned, 99 if it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        status = work()
    finally:
        os._exit(status)


def status_of(pid: int) -> int:
    """The exit status of a child; -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def together(work: Callable[[int], int], count: int) -> Counter[int]:
    """Starts so many children, lets them go at the same moment, and counts their exit statuses."""
    gate, opener = os.pipe()

    def start(n: int) -> Callable[[], int]:
        def run() -> int:
            os.close(opener)
            os.read(gate, 1)  # returns when the last writer, the parent, closes
            return work(n)

        return run

    children = [child(start(n)) for n in range(count)]
    os.close(opener)
    os.close(gate)
    return Counter(status_of(pid) for pid in children)


def ask(ledger: Ledger, id_: str, now: float) -> tuple[str, int]:
    claim = ledger.claim(
        id_, now=now, lease=LEASE, judgement="{}", queue_id="4jWl4Z5tH8zJv6D", sender="", recipient="reply+k@in.example.com"
    )
    return claim.state, claim.fence


@pytest.mark.parametrize("round_", range(5))
def test_one_of_twenty_gets_it(round_: int, tmp_path: Path) -> None:
    """Of twenty processes that claim the same delivery at once, exactly one gets it and nineteen are told it is busy."""
    states = ["claimed", "busy", "done"]
    Ledger.open(str(tmp_path)).close()

    def claim(n: int) -> int:
        return states.index(ask(Ledger.open(str(tmp_path)), "00" * 32, 1_000.0 + n)[0])

    assert together(claim, 20) == {0: 1, 1: 19}


@pytest.mark.parametrize("round_", range(5))
def test_one_of_twenty_gets_what_was_left(round_: int, tmp_path: Path) -> None:
    """When a lease is over, exactly one of twenty gets the next one."""
    ledger = Ledger.open(str(tmp_path))
    ask(ledger, "00" * 32, 1_000.0)
    ledger.close()

    def claim(n: int) -> int:
        return ask(Ledger.open(str(tmp_path)), "00" * 32, 2_000.0 + n)[1]

    assert together(claim, 20) == {2: 1, 0: 19}


def test_made_at_once(tmp_path: Path) -> None:
    """Ten processes that make the store at the same moment all get the same one."""
    seen = tmp_path / "seen"

    def make(n: int) -> int:
        ledger = Ledger.open(str(tmp_path / "store"))
        with seen.open("a") as file:
            file.write(f"{ledger.host_id} {ledger.hash_key.hex()}\n")
        return 0

    for round_ in range(5):
        (tmp_path / "store").mkdir(mode=0o700)
        assert together(make, 10) == {0: 10}
        lines = seen.read_text().splitlines()
        assert len(lines) == 10
        assert len(set(lines)) == 1
        (tmp_path / "store").rename(tmp_path / f"store-{round_}")
        seen.unlink()


def test_killed_while_making(tmp_path: Path) -> None:
    """A process killed while it makes the store leaves nothing that stops the next one, nor two stores."""
    for n in range(60):
        folder = str(tmp_path / f"store-{n}")
        Path(folder).mkdir(mode=0o700)
        started = os.pipe()

        def make(folder: str = folder, tell: int = started[1]) -> int:
            os.write(tell, b".")
            Ledger.open(folder)
            return 0

        pid = child(make)
        os.read(started[0], 1)
        for _ in range(n * 400):  # a little later each time: from before the first file to after the last
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(started[0])
        os.close(started[1])
        first, second = Ledger.open(folder), Ledger.open(folder)
        assert first.host_id == second.host_id
        assert Path(folder, "host-id").read_text() == f"{first.host_id}\n"
        assert not [name for name in os.listdir(folder) if ".tmp" in name and "host-id" not in name]
        first.close()
        second.close()


def test_killed_at_random(tmp_path: Path) -> None:
    """Processes killed between any two instructions of claim, release and finish: no delivery is done twice, no done one

    is lost, no fence is given twice, and what was left open is claimed and done by a later run.
    """
    dice = random.Random(0)
    folder, story = str(tmp_path / "store"), tmp_path / "story"
    Path(folder).mkdir(mode=0o700)
    Ledger.open(folder).close()
    ids = [f"{n:064x}" for n in range(KILLS)]

    def work(round_: int, tell: int) -> int:
        """Goes over some deliveries; each thing that came true is written down after it did."""
        ledger = Ledger.open(folder)
        now = 10_000.0 * round_  # every earlier lease is over
        with story.open("a", buffering=1) as said:
            for id_ in ids[max(0, round_ - 4) : round_ + 4]:
                state, fence = ask(ledger, id_, now)
                said.write(f"{state} {id_} {fence}\n")
                os.write(tell, b".")
                if state != "claimed":
                    continue
                if int(id_[-1], 16) % 5 == 0 and ledger.look(id_).attempts == 1:  # type: ignore[union-attr]
                    ledger.release(id_, fence)
                elif ledger.finish(id_, fence, outcome=f"fence {fence}", now=now):
                    said.write(f"finished {id_} {fence}\n")
                os.write(tell, b".")
        return 0

    for round_ in range(0, KILLS, 2):
        hear, tell = os.pipe()
        pair = [child(functools.partial(work, n, tell)) for n in (round_, round_ + 1)]
        os.close(tell)
        for pid in pair:
            for _ in range(dice.randrange(12)):
                os.read(hear, 1)
            os.kill(pid, signal.SIGKILL)
        assert {status_of(pid) for pid in pair} <= {0, -9}
        os.close(hear)

    ledger = Ledger.open(folder)
    for id_ in ids:
        _, fence = ask(ledger, id_, 1e9)
        if fence:
            assert ledger.finish(id_, fence, outcome=f"fence {fence}", now=1e9)
    _check_story(ledger, story.read_text().splitlines())
    ledger.close()


def _check_story(ledger: Ledger, lines: list[str]) -> None:
    finished: dict[str, str] = {}
    given: set[tuple[str, str]] = set()
    for line in lines:
        what, id_, fence = line.split()
        if what == "claimed":
            assert (id_, fence) not in given, "one fence for two runs"
            given.add((id_, fence))
        elif what == "finished":
            assert finished.setdefault(id_, fence) == fence, "done by two runs"
    assert len(finished) > KILLS / 10, "too few got anywhere: the test says nothing"
    for id_, fence in finished.items():
        row = ledger.look(id_)
        assert row is not None, "a done delivery is lost"
        assert (row.state, row.outcome) == ("done", f"fence {fence}")


def test_journal_does_not_grow(tmp_path: Path) -> None:
    """Three hundred runs that end without closing the ledger leave a write-ahead log of bounded size."""
    folder = str(tmp_path)

    def run(n: int) -> int:
        ledger = Ledger.open(folder)
        id_ = f"{n:064x}"
        _, fence = ask(ledger, id_, 1_000.0)
        return 0 if ledger.finish(id_, fence, outcome="x" * 300, now=1_000.0) else 1

    for n in range(300):
        assert status_of(child(functools.partial(run, n))) == 0
    assert os.path.getsize(f"{folder}/gatepost.sqlite-wal") < 1_000_000
    ledger = Ledger.open(folder)
    assert len(list(ledger.rows(queue_id="4jWl4Z5tH8zJv6D"))) == 300
    ledger.close()
