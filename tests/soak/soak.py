"""`make soak`: mail through a real Postfix while everything around it breaks; at the end every message is accounted for.

Promises: ends within --minutes and a little; what it started is ended; the folder is deleted where all is well, and kept where
not. Exit status 0 only where nothing was lost, bounced by our fault, or handed over twice without a reason, and where every
trouble has really struck. docs/soak.md explains what it prints.
Never: touches another Postfix, or mail that it did not send.

    python -m tests.soak.soak --count 20000 [--seed N] [--minutes M] [--mutant NAME]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NoReturn

from tests.soak.count import Balance, balance
from tests.soak.evidence import gather
from tests.soak.letters import FATES
from tests.soak.met import Met
from tests.soak.mutants import MUTANTS
from tests.soak.place import Place, descriptors_of, memory_of
from tests.soak.senders import Senders
from tests.soak.troubles import KILLS, TROUBLES, Troubles

__all__ = ["main"]

#: Messages a second that are sent at most, and seconds that the sending lasts at least, so that each trouble finds mail.
_PACE: Final = 40
_SHORTEST: Final = 28.0
#: Shares of the minutes: for the sending as it is meant, and for as long as it may take. The rest is for the end.
_SENDING: Final = 0.6
_LONGEST_SENDING: Final = 0.8
#: Seconds from one trouble to the next; less where the sending is short, so that each comes several times.
_PAUSE: Final = 1.6
#: Messages before the first trouble.
_CALM: Final = 25
#: Seconds without a message less in the queue, while nothing stands in the way: it is stuck.
_STUCK: Final = 45.0
#: By how much a worker may have grown: kilobytes of memory of its own; descriptors. Eight connections to the ledger have two
#: each, and one more for all.
_MEMORY_GROWTH: Final = 32_768
_DESCRIPTOR_GROWTH: Final = 40
#: Faults that are shown; all are in the file.
_SHOWN: Final = 20


def main() -> int:
    """The exit status."""
    arguments = _arguments()
    if os.geteuid():
        _say("soak: a private Postfix can be started by root only: sudo make soak")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)
    seed = arguments.seed or int.from_bytes(os.urandom(3))
    _say(f"soak: {arguments.count} messages, seed {seed}; installing gatepost from its wheel")
    soak = _Soak(arguments.count, seed, arguments.minutes * 60, arguments.mutant)
    try:
        good = soak.run()
    except BaseException:
        soak.break_off()
        _say(f"soak: broken off; {_kept(soak.place)}")
        raise
    if good:
        soak.place.remove()
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="Everything breaks, nothing is lost.")
    parser.add_argument("--count", type=int, default=20_000, help="messages (20000)")
    parser.add_argument("--seed", type=int, default=0, help="the same messages and troubles again")
    parser.add_argument("--minutes", type=float, default=20, help="for all of it (20)")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS], help="a fault that the soak must notice")
    return parser.parse_args()


class _Soak:
    """One run."""

    def __init__(self, count: int, seed: int, seconds: float, mutant: str) -> None:
        self._count, self._seed, self._began = count, seed, time.monotonic()
        self._until, self._sent_by = self._began + seconds, self._began + seconds * _LONGEST_SENDING
        self._sending = min(max(_SHORTEST, count / _PACE), seconds * _SENDING)
        self.place = Place(seed, mutant)
        self._troubles, self._met = Troubles(self.place, seed, min(_PAUSE, self._sending / 40)), Met(self.place)
        self._faults: list[str] = []
        self._shown = 0.0

    def run(self) -> bool:
        """From the installation to the last line; whether all is well."""
        self.place.build()
        self._say(f"everything runs; sending for {self._sending:.0f} s")
        self._senders = Senders(self.place.postfix.port, self._seed, self._count, self._sending)
        self._wait(lambda: self._senders.sent >= min(_CALM, self._count // 4), "calm")
        before = self._largest_worker()
        self._troubles.begin()
        self._wait(lambda: self._senders.sent >= self._count // 2 and self._have_struck(KILLS), "troubles and kills")
        self._troubles.spare()
        self._wait(lambda: self._have_struck(TROUBLES), "troubles")
        self._senders.release()
        self._wait(lambda: self._senders.done, "troubles")
        self._troubles.end()
        self._senders.stop()
        if not self._senders.done:
            self._faults.append(f"not everything was sent in time: {self._senders.sent} of {self._count}")
        self._drain()
        self._compare(before, self._largest_worker())
        return self._judge()

    def break_off(self) -> None:
        """Ends everything, without a judgement."""
        self._troubles.end()
        self.place.end()

    # -- its parts

    def _wait(self, done: Callable[[], bool], phase: str) -> None:
        while not done() and time.monotonic() < self._sent_by:
            time.sleep(0.2)
            self._progress(phase)

    def _have_struck(self, names: Iterable[str]) -> bool:
        """Whether each of these troubles has come, and has met somebody."""
        met = self._met.look()
        return all(met[name] and self._troubles.begun[name] for name in names)

    def _progress(self, phase: str) -> None:
        now = time.monotonic()
        if now - self._shown < 5:
            return
        self._shown = now
        size = self.place.journal.stat().st_size if self.place.journal.exists() else 0
        troubles = ", ".join(self._troubles.in_force())
        self._say(f"{phase}: {self._senders.sent} sent, {len(self._senders.copies)} copies, {size >> 10} kB in the app's journal"
                  f"{'; ' if troubles else ''}{troubles}")  # fmt: skip

    def _drain(self) -> None:
        """Everything runs; the queue is tried again and again until it is empty, stuck, or the time is over."""
        self._troubles.mend()
        least, at = sys.maxsize, time.monotonic()
        asked = at
        while queue := self.place.postfix.queue():
            now = time.monotonic()
            if len(queue) < least:
                least, at = len(queue), now
            if now - at > _STUCK:
                self._faults.append(f"{len(queue)} messages are stuck in the queue: {queue[0]}")
                return
            if now > self._until:
                self._say(f"the time is over: {len(queue)} messages are still queued")
                return
            if not any(each["queue_name"] == "active" for each in queue):
                self.place.postfix.flush()
            self._progress(f"the end, {len(queue)} in the queue")
            time.sleep(max(0.5, 5 * (now - asked)))  # a long queue is a long list
            asked = time.monotonic()
        time.sleep(3)  # Postfix keeps a connection for 2 s

    def _largest_worker(self) -> tuple[int, Counter[str]]:
        """The most memory of its own that a worker has, in kB, and the most descriptors, by what they are."""
        workers = self.place.server.workers()
        memory, descriptors = [memory_of(pid) for pid in workers], [descriptors_of(pid) for pid in workers]
        return max(memory, default=0), max(descriptors, key=Counter.total, default=Counter())

    def _compare(self, before: tuple[int, Counter[str]], after: tuple[int, Counter[str]]) -> None:
        """What has grown too much is a fault."""
        (first, held), (last, holds) = before, after
        kinds = ", ".join(f"{count} {kind}" for kind, count in holds.most_common())
        self._say(
            f"the largest worker: {first} kB and {held.total()} descriptors then, {last} kB and {holds.total()} now ({kinds})"
        )
        if last > first + _MEMORY_GROWTH:
            self._faults.append(f"the memory of a worker has grown from {first} to {last} kB")
        if holds.total() > held.total() + _DESCRIPTOR_GROWTH:
            self._faults.append(f"the descriptors of a worker have grown from {held.total()} to {kinds}")

    def _judge(self) -> bool:
        status, left = self.place.end()
        if status != 0:
            self._faults.append(f"the warm process ended with {status}")
        self._faults += [f"still runs: {each}" for each in left] + self._troubles.faults
        evidence = gather(self.place)
        made = balance(self._senders.copies, evidence, self._troubles.ended_at)
        self._faults += [f"{name} never struck" for name in TROUBLES if not self._have_struck([name])]
        faults = self._faults + made.faults
        self._report(made)
        for fault in faults[:_SHOWN]:
            _say(f"  FAULT {fault}")
        (self.place.folder / "faults").write_text("".join(f"{fault}\n" for fault in faults))
        good = not faults and made.messages == self._count
        if not good:
            _say(f"soak: {len(faults)} faults; {_kept(self.place)}")
        again = sum(made.twice.values())
        _say(f"soak: {made.messages} of {self._count} accounted for, {made.lost} lost, {made.bounced} bounced by our fault, "
             f"{again} handed over again with cause, {len(faults)} faults, {time.monotonic() - self._began:.0f} s, seed {self._seed}")  # fmt: skip
        return good

    def _report(self, made: Balance) -> None:
        _say("\n  trouble               came   met")
        for name in TROUBLES:
            _say(f"  {name:<20} {self._troubles.begun[name]:>5} {self._met.counts[name]:>5}")
        _say(
            f"\n  {'sent':<20} {len(self._senders.copies):>7} copies of {made.sent} messages, {self._senders.uncertain} unanswered"
        )
        for fate in FATES:
            _say(f"  {fate:<20} {made.fates[fate]:>7}")
        for why, count in made.twice.items():
            _say(f"  handed over again: {count}, for {why}")
        _say("")

    def _say(self, text: str) -> None:
        _say(f"soak: {time.monotonic() - self._began:4.0f} s: {text}")


def _kept(place: Place) -> str:
    """Keeps the folder, and the store, whose disk goes."""
    with suppress(OSError, shutil.Error):
        shutil.copytree(place.store, place.folder / "store-copy", ignore=shutil.ignore_patterns("filler"))
    place.unmount()
    return f"everything is kept in {place.folder}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _interrupted(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
