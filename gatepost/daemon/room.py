"""How much of large messages may be in memory at once, and who is under way.

Promises: who waits for room comes in turn and waits at most as long as he said; a message larger than all of the room is let in
alone. A transaction is under way from its first accepted recipient to its end, whichever way it ends.
Never: refuses for good: no room in time is a deferral.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Room", "UnderWay"]


class Room:
    """So many bytes for all. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def taken(self, size: int, patience: float) -> Iterator[bool]:
        """Room for `size` bytes until the end of the `with`; False where there was none within `patience` seconds."""
        share = min(size, self._size)
        got = self._take(share, patience)
        try:
            yield got
        finally:
            if got:
                with self._changed:
                    self._free += share
                    self._changed.notify_all()

    def _take(self, share: int, patience: float) -> bool:
        until = time.monotonic() + patience
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or self._free < share:
                    left = until - time.monotonic()
                    if left <= 0:
                        return False
                    self._changed.wait(left)
                self._free -= share
                return True
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()  # the next one's turn


class UnderWay:
    """The transactions that have a recipient of ours, and whether new ones may begin. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._ending = False

    @property
    def ending(self) -> bool:
        """Does the process end soon?"""
        return self._ending

    def begin(self) -> bool:
        """One more; False where none may begin any more."""
        with self._changed:
            if not self._ending:
                self._count += 1
            return not self._ending

    def end(self) -> None:
        """One less."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def finish(self, patience: float) -> int:
        """Lets none begin any more and waits for the others, `patience` seconds at most; how many are left."""
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: self._count == 0, patience)
            return self._count
