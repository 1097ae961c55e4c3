"""The configuration in force: noticed when it changes on disk, and never half a change.

Promises: a transaction keeps the configuration that it began with; a file that is wrong changes nothing and is told once for
each change of it; one that could not be read, for a reason that may pass, is told once and tried again by itself; an old
configuration lets go of its store when its last transaction has ended.
Never: looks at the disk more often than once a second; makes a transaction wait for another that loads.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Generic, Protocol, TypeVar

from gatepost.config.loading import build
from gatepost.errors import ConfigError, UnreadableProblem
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.settings import Settings

    Marks = tuple[tuple[int, ...] | None, ...]

__all__ = ["Closes", "Current", "Lease"]

#: Seconds between two looks at the files.
_LOOK_EVERY: Final = 1.0
#: Seconds until what could not be read is tried again: the first, doubled each time, and the longest. A file that is missing
#: for good costs so much for as long as it is.
_FIRST_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 60.0


class Closes(Protocol):
    """What stands on a configuration, and has a store open."""

    def close(self) -> None:
        """Lets go of the store."""


Engine = TypeVar("Engine", bound=Closes)


class Lease(Generic[Engine]):
    """One transaction's hold on a configuration: `settings` and `engine` until `give_back`."""

    def __init__(self, settings: Settings, engine: Engine, give_back: Callable[[], None]) -> None:
        self.settings, self.engine = settings, engine
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        """Ends the hold. May be called again."""
        done, self._give_back = self._give_back, None
        if done is not None:
            done()


class _Read(Value):
    """A configuration, the files that it was read from, and their marks before that."""

    settings: Settings
    files: tuple[str, ...]
    marks: Marks


class _InForce(Generic[Engine]):
    """A configuration that transactions hold, and how many do."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.holders = 0
        self.replaced = False


class Current(Generic[Engine]):
    """The configuration in the file `path`, for all threads, and what stands on it (the milter's dialogue, the gateway)."""

    def __init__(
        self, path: str, open_engine: Callable[[Settings], Engine], *, note: Callable[[str], None] = lambda _text: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`note` is told of each change, the bad ones too. Raises ConfigError, and what `open_engine` raises."""
        self.note = note
        self._path = path
        self._open_engine = open_engine
        self._now = now
        self._holding = threading.Lock()
        self._looking = threading.Lock()
        read = _read(path, (path,))
        self._files, self._marks = read.files, read.marks
        self._in_force = _InForce(read.settings, open_engine(read.settings))
        self._looked = now()
        self._pause = _FIRST_RETRY
        self._retry_at: float | None = None

    @property
    def settings(self) -> Settings:
        """The settings in force now."""
        return self._in_force.settings

    def take(self) -> Lease[Engine]:
        """The configuration for a transaction that begins now."""
        if self._now() - self._looked >= _LOOK_EVERY:
            self.look()
        with self._holding:
            held = self._in_force
            held.holders += 1
        return Lease(held.settings, held.engine, lambda: self._given_back(held))

    def look(self, *, again: bool = False) -> None:
        """Loads what has changed since the last look, or could not be read; `again`: even what has not. Never raises.

        Where another thread looks, it does not wait for it.
        """
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._looked = self._now()
            marks = _marks(self._files)
            due = self._retry_at is not None and self._looked >= self._retry_at
            if again or marks != self._marks:
                self._pause, self._retry_at = _FIRST_RETRY, None
            elif not due:
                return
            self._marks = marks
            self._try()
        finally:
            self._looking.release()

    def retry(self) -> None:
        """Looks, if something could not be read and it is time to try again. For a process to call every second or so."""
        at = self._retry_at  # another thread may take it back
        if at is not None and self._now() >= at:
            self.look()

    def _try(self) -> None:
        try:
            self._change()
        except ConfigError as error:
            passing = all(isinstance(each, UnreadableProblem) for each in error.problems)
            self._failed(tuple(map(str, error.problems)), passing=passing)
        except Exception as error:  # noqa: BLE001  # the configuration in force still serves
            self._failed((f"{type(error).__name__}: {error}",), passing=isinstance(error, (OSError, MemoryError)))

    def _failed(self, problems: tuple[str, ...], *, passing: bool) -> None:
        """Tells it, if it is news, and whether it is tried again."""
        first = self._retry_at is None
        self._retry_at = self._looked + self._pause if passing else None
        self._pause = min(2 * self._pause, _LONGEST_RETRY)
        for problem in problems if first or not passing else ():
            self.note(f"not changed: {problem}{'; it is tried again by itself' if passing else ''}")

    def _change(self) -> None:
        read = _read(self._path, self._files)
        new = _InForce(read.settings, self._open_engine(read.settings))
        self._files, self._marks, self._retry_at = read.files, read.marks, None
        with self._holding:
            old, self._in_force = self._in_force, new
            old.replaced = True
            idle = old.holders == 0
        if idle:
            old.engine.close()
        self.note("changed")

    def _given_back(self, held: _InForce[Engine]) -> None:
        with self._holding:
            held.holders -= 1
            last = held.replaced and held.holders == 0
        if last:
            held.engine.close()

    def close(self) -> None:
        """Lets go of the store. For the end of the process."""
        self._in_force.engine.close()


def _read(path: str, files: tuple[str, ...]) -> _Read:
    """The configuration, read after the marks of all its files were taken: a change in between shows at the next look.

    `files`: what it is thought to consist of. Raises ConfigError.
    """
    while True:
        marks = _marks(files)
        built = build(path)
        found = (path, built.secrets_path) if built.secrets_path else (path,)
        if found == files:
            return _Read(settings=built.settings(), files=files, marks=marks)
        files = found


def _marks(files: tuple[str, ...]) -> Marks:
    """What changes when a file is written or replaced; None for one that is not there."""
    return tuple(map(_mark, files))


def _mark(path: str) -> tuple[int, ...] | None:
    """With the time of its last change of owner or mode: a file that may not be read, or that others may, is mended so."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
