"""What is done to gatepost while mail flows: each trouble begins, stays for a while, and ends; several at once.

Promises: which trouble comes when is chance, but the same chance for the same seed; each is counted when it has really begun.
Behind `end` none is in force.
Never: judges what came of it.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

from demo.environment import USER, run_as
from tests.soak.place import Place

__all__ = ["KILLS", "TROUBLES", "Troubles"]

#: By name: what the table at the end calls it. Those of `KILLS` come every second, the others in turn.
TROUBLES: Final = (
    "worker killed", "server killed", "postfix stopped", "good configuration", "bad configuration", "app refuses",
    "app is slow", "app hangs", "app cuts off", "app errs", "login page", "disk full", "descriptors used up", "clock set back",
)  # fmt: skip
KILLS: Final = TROUBLES[:2]
#: Every so many seconds something is killed, every third time the server.
_KILL_EVERY: Final = 1.0
#: Seconds that a trouble stays. A full disk is noticed late: SQLite's log has room for some 25 messages more.
_STAYS: Final = (0.8, 2.5)
_DISK_STAYS: Final = (3.0, 5.0)
#: Seconds by which the clock is set back: within a lease, beyond it, far beyond it.
_BACK: Final = (3.0, 60.0, 3_600.0, 86_400.0)


class Troubles:
    """`begin`, `spare` (no more kills), `end`, `mend`. `begun`: how often each has come; `ended_at`: when (Unix seconds) what carries

    messages was killed; `faults`: troubles that failed themselves.
    """

    def __init__(self, place: Place, seed: int, pause: float) -> None:
        """`pause`: seconds from one trouble's beginning to the next one's, more or less."""
        self._place, self._pause = place, pause
        self._chance = random.Random(f"{seed} troubles")
        self.begun: Counter[str] = Counter()
        self.ended_at: list[float] = []
        self._killing = True
        self._stop = threading.Event()
        self._in_force: list[threading.Thread] = []
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._kill, self._take_turns)]
        self._does: dict[str, Callable[[random.Random], AbstractContextManager[bool]]] = {
            "postfix stopped": self._postfix_stopped,
            "good configuration": self._good_configuration,
            "bad configuration": self._bad_configuration,
            "app refuses": self._app_refuses,
            **{name: self._app_fault(fault) for name, fault in (
                ("app is slow", "slow"), ("app hangs", "hang"), ("app cuts off", "cut"), ("app errs", "error"), ("login page", "login"),
            )},
            "disk full": self._disk_full,
            "descriptors used up": self._descriptors_used_up,
            "clock set back": self._clock_set_back,
        }  # fmt: skip
        self.faults: list[str] = []

    def begin(self) -> None:
        """From now on."""
        for thread in self._threads:
            thread.start()

    def spare(self) -> None:
        """From now on nothing is killed: what leaks, leaks in processes that live on."""
        self._killing = False

    def end(self) -> None:
        """Returns once none is in force."""
        self._stop.set()
        for thread in (*self._threads, *self._in_force):
            if thread.ident is not None:  # else it was never begun
                thread.join(120)
            if thread.is_alive():
                self.faults.append(f"a trouble did not end: {thread.name}")

    def in_force(self) -> list[str]:
        """Those that are, at this moment."""
        return [each.name for each in self._in_force if each.is_alive()]

    def mend(self) -> None:
        """Whatever a trouble may have left behind where it failed itself."""
        place = self._place
        place.start_app()
        place.set_clock(0.0)
        place.empty_disk()
        place.write_config()
        if not place.postfix.pid():
            place.postfix.start()

    # -- when

    def _kill(self) -> None:
        turn = 0
        while not self._stop.wait(_KILL_EVERY):
            if not self._killing:
                continue
            turn += 1
            name = KILLS[turn % 3 == 0]
            pids = self._place.server.workers() if name == "worker killed" else [self._place.server.pid]
            if any(pids):
                with suppress(ProcessLookupError):
                    os.kill(self._chance.choice(pids), signal.SIGKILL)
                    self._ended(name)

    def _take_turns(self) -> None:
        """Each in turn, in an order that chance makes anew every time; Postfix, which takes long to come back, every other time."""
        names = [*self._does]
        while not self._stop.is_set():
            for name in self._chance.sample(names, len(names)):
                chance = random.Random(self._chance.random())
                if name in self.in_force():
                    continue  # it stays for longer than all the others took
                thread = threading.Thread(target=self._one, args=(name, chance), name=name, daemon=True)
                thread.start()
                self._in_force = [each for each in self._in_force if each.is_alive()] + [thread]
                if self._stop.wait(chance.uniform(0.4, 1.6) * self._pause):
                    return
            names = [name for name in self._does if name != "postfix stopped" or name not in names]

    def _one(self, name: str, chance: random.Random) -> None:
        try:
            with self._does[name](chance) as begun:
                self.begun[name] += begun
                self._stop.wait(chance.uniform(*(_DISK_STAYS if name == "disk full" else _STAYS)))
        except Exception as error:
            self.faults.append(f"the trouble {name!r} failed: {type(error).__name__}: {error}")

    def _ended(self, name: str) -> None:
        self.begun[name] += 1
        self.ended_at.append(time.time())

    # -- what

    @contextmanager
    def _postfix_stopped(self, chance: random.Random) -> Iterator[bool]:
        """`postfix stop` with deliveries on their way; until the start, the rungs change."""
        postfix = self._place.postfix
        until = time.monotonic() + 5
        while not (busy := any((postfix.queue_folder / "active").iterdir())) and time.monotonic() < until:
            time.sleep(0.05)
        self.ended_at.append(time.time())
        postfix.stop(immediate=chance.random() < 0.3)
        self._place.change_rungs()
        try:
            yield busy
        finally:
            postfix.start()

    @contextmanager
    def _good_configuration(self, chance: random.Random) -> Iterator[bool]:
        """Another configuration, and SIGHUP."""
        self._place.write_config(deadline=chance.choice(("3.5", "4.5")))
        yield self._hang_up()

    @contextmanager
    def _bad_configuration(self, chance: random.Random) -> Iterator[bool]:
        """One with a mistake in it, and SIGHUP; then as it was."""
        self._place.write_config(good=False)
        try:
            yield self._hang_up()
        finally:
            self._place.write_config()
            self._hang_up()

    def _hang_up(self) -> bool:
        with suppress(ProcessLookupError):
            if pid := self._place.server.pid:
                os.kill(pid, signal.SIGHUP)
                return True
        return False

    @contextmanager
    def _app_refuses(self, chance: random.Random) -> Iterator[bool]:
        """Nobody listens; what it was answering is cut off."""
        self._place.kill_app()
        try:
            yield True
        finally:
            self._place.start_app()

    def _app_fault(self, name: str) -> Callable[[random.Random], AbstractContextManager[bool]]:
        @contextmanager
        def fault(chance: random.Random) -> Iterator[bool]:
            self._place.fault(name, on=True)
            try:
                yield True
            finally:
                self._place.fault(name, on=False)

        return fault

    @contextmanager
    def _disk_full(self, chance: random.Random) -> Iterator[bool]:
        """The store's disk has no octet left."""
        try:
            self._place.fill_disk()
            yield True
        finally:
            self._place.empty_disk()

    @contextmanager
    def _descriptors_used_up(self, chance: random.Random) -> Iterator[bool]:
        """The workers, and every other time the server, get none any more, or a few."""
        server = self._place.server
        pids = [*server.workers(), *([server.pid] if chance.random() < 0.5 else [])]
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # ours, which they were started with
        few = chance.choice((0, 1, 2, 4))
        for pid in pids:
            with suppress(OSError):
                used = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
                _limit(pid, next(number for number in range(1 << 16) if number not in used) + few)
        try:
            yield bool(pids)
        finally:
            for pid in pids:
                _limit(pid, most)

    @contextmanager
    def _clock_set_back(self, chance: random.Random) -> Iterator[bool]:
        """The warm process's, in the middle of whatever it does; and forward again."""
        self._place.set_clock(-chance.choice(_BACK))
        try:
            yield True
        finally:
            self._place.set_clock(0.0)


def _limit(pid: int, descriptors: int) -> None:
    """The soft limit, set as the process's own user: a container's root may lack CAP_SYS_RESOURCE. A process that is gone has none."""
    run_as(USER, ["prlimit", f"--pid={pid}", f"--nofile={descriptors}:"])
