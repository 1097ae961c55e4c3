"""Ledgers for a process of many threads that come and go: a few connections, each used by one thread at a time.

Promises: never more than `most` connections; who waits for one waits `patience` seconds at most. A connection under which
anything was raised is closed, not used again. A store that was deleted or restored under the running process is noticed before
the next use: the file in its place is not the one that is open.
Never: opens the database but through SQLite, nor keeps a connection over a fork. A process of one thread needs no pool.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager, nullcontext, suppress

from gatepost.errors import StoreError
from gatepost.stores.database import DATABASE
from gatepost.stores.ledger import Ledger
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Ledgers"]


class _File(Value):
    """Which file stood in the database's place: while it is open, no other has its number."""

    device: int
    inode: int


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
        self._writer = threading.Lock()
        self._changed = threading.Condition()
        self._free: list[tuple[Ledger, _File | None]] = []
        self._given = 0
        self._closed = False

    @contextmanager
    def ledger(self, *, writes: bool = False) -> Iterator[Ledger]:
        """A ledger for this thread alone, until the end of the `with`. One at a time: a second one inside may wait in vain.

        `writes`: for a method that writes. The store has one writer at a time; threads that wait for each other here get it in
        their turn, where SQLite would have each sleep and ask again. Readers wait for no writer.

        Raises StoreError where no turn comes within `patience` seconds, where the store cannot be opened (`open_database`), and
        after `close`. host_id and hash_key are this ledger's own: a store that was restored meanwhile may have others.
        """
        until = time.monotonic() + self._patience
        with self._turn(until) if writes else nullcontext(), self._one(until) as ledger:
            yield ledger

    def close(self) -> None:
        """Closes what is free now, and the others when they are given back. No ledger is given out any more."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for ledger, _ in free:
            _let_go(ledger)

    @contextmanager
    def _turn(self, until: float) -> Iterator[None]:
        if not self._writer.acquire(timeout=max(0.0, until - time.monotonic())):
            raise StoreError(f"{self._folder}: other threads have been writing to it for {self._patience:g} s")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def _one(self, until: float) -> Iterator[Ledger]:
        ledger, file = self._take(until)
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
