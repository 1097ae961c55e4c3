"""Ledgers for a process of many threads that come and go: a few connections, each used by one thread at a time.

Promises: never more than `most` connections; who waits for one waits `patience` seconds at most. Threads that wait to write are
served in their order, several in one transaction with one sync; what one of them raises it gets alone. A connection under which
anything was raised is closed, not used again. A store that was deleted or restored under the running process is noticed before
the next use: the file in its place is not the one that is open.
Never: opens the database but through SQLite, nor keeps a connection over a fork. A process of one thread needs no pool.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress

from gatepost.errors import StoreError
from gatepost.stores.database import DATABASE
from gatepost.stores.ledger import Ledger
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Final, TypeVar

    Result = TypeVar("Result")

__all__ = ["Ledgers"]

#: Works in one transaction: more threads than a process has at work, and few enough that no other process's patience ends.
_MOST_TOGETHER: Final = 64


class _File(Value):
    """Which file stood in the database's place: while it is open, no other has its number."""

    device: int
    inode: int


class _Work:
    """What a thread wants to write, and what came of it."""

    def __init__(self, work: Callable[[Ledger], object]) -> None:
        self._work = work
        self._told = threading.Lock()
        self._told.acquire()
        #: Its thread is to run all that waits.
        self.leads = False
        self.failed = False
        self.result: object = None
        #: None once it is committed.
        self.error: BaseException | None = StoreError("not written")

    def run(self, ledger: Ledger) -> None:
        """`failed` until it has returned."""
        self.failed = True
        self.result = self._work(ledger)
        self.failed = False

    def tell(self) -> None:
        """Its thread need not wait any more: it is done with, or leads."""
        self._told.release()

    def wait(self, patience: float) -> bool:
        """Until `tell`, `patience` seconds at most; whether that came."""
        return self._told.acquire(timeout=patience)


class Ledgers:
    """The ledger of one host, for all threads of a process. The store is opened when it is first asked for."""

    def __init__(
        self, folder: str, *, most: int = 8, patience: float = 10.0, busy_timeout: float = 10.0, synced: bool = True
    ) -> None:  # fmt: skip
        """`patience`: seconds to wait for a connection; `busy_timeout`: for another process's lock. Raises StoreError.

        `synced`: as in `open_database`.
        """
        if not sqlite3.threadsafety:  # https://www.sqlite.org/threadsafe.html: the other two modes allow what we do
            raise StoreError("this Python's SQLite was built for one thread alone (SQLITE_THREADSAFE=0): install another")
        self._folder = folder
        self._most, self._patience, self._busy_timeout, self._synced = most, patience, busy_timeout, synced
        self._queueing = threading.Lock()
        self._works: deque[_Work] = deque()
        self._writing = False
        self._changed = threading.Condition()
        self._free: list[tuple[Ledger, _File | None]] = []
        self._given = 0
        self._closed = False

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """A ledger to read, for this thread alone, until the end of the `with`; it waits for no writer. One at a time: a second

        one inside may wait in vain. Raises StoreError where none is free within `patience` seconds, where the store cannot be
        opened (`open_database`), and after `close`. host_id and hash_key are this ledger's own: a store that was restored
        meanwhile may have others.
        """
        with self._one() as ledger:
            yield ledger

    def write(self, work: Callable[[Ledger], Result]) -> Result:
        """What `work` returns, once what it wrote is committed. It calls methods of the ledger, and nothing that waits.

        Threads that wait for one that writes are served together afterwards, in their order, in one transaction. So `work` may
        run in another thread; and once more, where the first time is undone because another work in it failed.

        Raises what `work` raises, and StoreError: where no turn comes within `patience` seconds, and as `ledger` does. What it
        wanted may be written all the same where the disk does not answer.
        """
        mine = _Work(work)
        with self._queueing:
            self._works.append(mine)
            if not self._writing:
                self._writing = mine.leads = True
        if not mine.leads:
            self._wait(mine)
        if mine.leads:
            self._lead()
        if mine.error is not None:
            raise mine.error
        return mine.result  # type: ignore[return-value]  # of this work

    def _wait(self, mine: _Work) -> None:
        """Until it is done with, or leads."""
        if mine.wait(self._patience):
            return
        with self._queueing:
            if mine in self._works and not mine.leads:
                self._works.remove(mine)
                raise StoreError(f"{self._folder}: other threads have been writing to it for {self._patience:g} s")
        if not mine.wait(self._patience):  # somebody has it in hand
            raise StoreError(f"{self._folder}: the disk has not answered for {self._patience:g} s")

    def _lead(self) -> None:
        """Runs the first of those that wait, which is its own, and those behind it; then another leads."""
        with self._queueing:
            group = [self._works.popleft()]
        try:
            self._run(group, self._joining(group))
        finally:
            with self._queueing:
                self._writing = bool(self._works)
                if self._works:
                    self._works[0].leads = True
                    self._works[0].tell()
            for each in group:
                each.tell()

    def _joining(self, group: list[_Work]) -> Iterator[Callable[[Ledger], None]]:
        """The first of the group, and who waits by the time that those before him have run."""
        yield group[0].run
        while len(group) < _MOST_TOGETHER:
            with self._queueing:
                if not self._works:
                    return
                group.append(self._works.popleft())
            yield group[-1].run

    def _run(self, group: list[_Work], works: Iterable[Callable[[Ledger], None]]) -> None:
        """In one transaction; where that fails because of one of them, each in its own."""
        try:
            with self._one() as ledger:
                ledger.together(works)
            for each in group:
                each.error = None
        except BaseException as error:  # noqa: BLE001  # each thread raises its own
            if len(group) == 1:
                group[0].error = error
            elif any(each.failed for each in group):
                for each in group:
                    self._run([each], [each.run])
            else:
                for each in group:
                    each.error = StoreError(str(error))

    def close(self) -> None:
        """Closes what is free now, and the others when they are given back. No ledger is given out any more."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for ledger, _ in free:
            _let_go(ledger)

    @contextmanager
    def _one(self) -> Iterator[Ledger]:
        ledger, file = self._take(time.monotonic() + self._patience)
        try:
            yield ledger
        except BaseException:
            _let_go(ledger)
            self._give_back(None)
            raise
        self._give_back((ledger, file))

    def _take(self, until: float) -> tuple[Ledger, _File | None]:
        """A free one, if the file that it has open is still the store; else a new one."""
        with self._changed:
            while self._given >= self._most and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    raise StoreError(f"{self._folder}: all {self._most} connections have been in use for {self._patience:g} s")
                self._changed.wait(left)
            if self._closed:
                raise StoreError(f"{self._folder}: the ledgers are closed, the process ends")
            self._given += 1
            here = _file(self._folder)
            stale = [each for each in self._free if here is None or each[1] != here]
            self._free = [each for each in self._free if each not in stale]
            taken = self._free.pop() if self._free else None
        for ledger, _ in stale:
            _let_go(ledger)
        if taken is not None:
            return taken
        try:
            # `here` is from before the opening: if the store is replaced meanwhile, the next one who takes it will see that.
            opened = Ledger.open(self._folder, busy_timeout=self._busy_timeout, any_thread=True, synced=self._synced)
            return opened, here
        except BaseException:
            self._give_back(None)
            raise

    def _give_back(self, taken: tuple[Ledger, _File | None] | None) -> None:
        with self._changed:
            self._given -= 1
            if taken is not None and not self._closed:
                self._free.append(taken)
                taken = None
            self._changed.notify()
        if taken is not None:
            _let_go(taken[0])


def _file(folder: str) -> _File | None:
    try:
        found = os.stat(f"{folder}/{DATABASE}")
    except OSError:
        return None  # opening it says what is wrong
    return _File(device=found.st_dev, inode=found.st_ino)


def _let_go(ledger: Ledger) -> None:
    """Closes one that is of no use any more; whether that fails says nothing new."""
    with suppress(StoreError):
        ledger.close()
