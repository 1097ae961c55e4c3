"""So many messages in one sink's hands: who waits, who is turned away, and when."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

import pytest

from gatepost.sinks import bulkhead as module
from gatepost.sinks.bulkhead import PATIENCE, STANDSTILL, Bulkhead
from tests.lmtp_host import wait_for
from tests.test_sinks import in_seconds
from tests.test_sinks_kept import Clock

FAR = 1e9


class Full:
    """A bulkhead of two places, both taken by messages that hang."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bulkhead = Bulkhead(2, now=self.clock)
        self.hung = ExitStack()
        for _ in range(2):
            assert self.hung.enter_context(self.bulkhead.place(FAR))

    def let_in(self, deadline: float = FAR) -> bool:
        with self.bulkhead.place(deadline) as got:
            return got


def test_so_many_at_once_and_the_next_one_when_a_place_is_free() -> None:
    """Whatever ends the one before, a bug too."""
    bulkhead = Bulkhead(1)
    for _ in range(3):
        with suppress(ZeroDivisionError), bulkhead.place(in_seconds(60)) as got:
            assert got
            assert 1 / 0


def test_nobody_waits_where_nothing_moves() -> None:
    """A sink that hangs: from STANDSTILL seconds on each message is turned away at once, whatever its deadline."""
    full = Full()
    full.clock.time += STANDSTILL
    assert [full.let_in() for _ in range(50)] == [False] * 50
    full.hung.close()
    assert full.let_in()


def test_a_beginning_is_a_movement() -> None:
    """After an hour without mail, a burst: those beyond the places are not turned away for what the hour was."""
    clock = Clock()
    bulkhead = Bulkhead(1, now=clock)
    clock.time += 3_600
    with bulkhead.place(FAR):
        assert bulkhead._moved == clock.time


def test_the_deadline_holds_the_wait() -> None:
    """Nobody waits for a place that is of no use any more."""
    full = Full()
    assert not full.let_in(full.clock.time)


@pytest.mark.parametrize(("standstill", "patience"), [(0.05, 60.0), (60.0, 0.05)], ids=["standstill", "patience"])
def test_who_waits_is_turned_away_in_time(standstill: float, patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the shorter of the two."""
    monkeypatch.setattr(module, "STANDSTILL", standstill)
    monkeypatch.setattr(module, "PATIENCE", patience)
    bulkhead = Bulkhead(1)
    with bulkhead.place(in_seconds(60)), bulkhead.place(in_seconds(60)) as got:
        assert not got


def test_who_waits_gets_the_place_that_becomes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that is slow and works: many more messages than places, one after the other, and none is turned away."""
    monkeypatch.setattr(module, "STANDSTILL", 30.0)
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    bulkhead, inside, most, got_in = Bulkhead(3), [0], [0], []
    counting = threading.Lock()
    go = threading.Semaphore(0)

    def send() -> None:
        with bulkhead.place(in_seconds(60)) as got:
            with counting:
                got_in.append(got)
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            assert go.acquire(timeout=30)
            with counting:
                inside[0] -= 1

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for done in range(20):
        wait_for(lambda done=done: len(got_in) == min(done + 3, 20), "the places to be taken")  # type: ignore[misc]
        go.release()
    for thread in threads:
        thread.join(30)
    assert got_in == [True] * 20
    assert most == [3]


def test_patience_is_longer_than_a_standstill() -> None:
    """Else a sink that works would be taken for one that hangs."""
    assert PATIENCE > STANDSTILL
