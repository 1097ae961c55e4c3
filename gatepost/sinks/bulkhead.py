"""So many messages in one app's hands and no more: one that hangs does not take all that the process can do.

Promises: who comes beyond that waits only while the others get done with: for as long as something moves, STANDSTILL seconds at
most between two movements, PATIENCE in all. Where nothing has moved for that long, he is turned away at once.
Never: turns anybody away for good: the message waits in Postfix's queue.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

__all__ = ["PATIENCE", "STANDSTILL", "Bulkhead"]

#: Seconds without any end or beginning, after which the app is taken to hang. Who waits takes one of Postfix's deliveries
#: away from the other apps; who is turned away comes again after minimal_backoff_time (300 s).
STANDSTILL: Final = 2.0
#: Seconds to wait at most where the app is slow but works: as long as for room in the process.
PATIENCE: Final = 10.0


class Bulkhead:
    """Places for `size` messages. Thread-safe; `now`: seconds of a clock that never goes back."""

    def __init__(self, size: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self.size = self._free = size
        self._now = now
        self._changed = threading.Condition()
        self._moved = now()

    @contextmanager
    def place(self, deadline: float) -> Iterator[bool]:
        """A place until the end of the `with`; False where there was none soon enough. `deadline`: by the same clock."""
        got = self._take(min(deadline, self._now() + PATIENCE))
        try:
            yield got
        finally:
            if got:
                self._give_back()

    def _take(self, until: float) -> bool:
        with self._changed:
            while not self._free:
                left = min(until, self._moved + STANDSTILL) - self._now()
                if left <= 0:
                    return False
                self._changed.wait(left)
            self._free -= 1
            self._moved = self._now()
            return True

    def _give_back(self) -> None:
        with self._changed:
            self._free += 1
            self._moved = self._now()
            self._changed.notify()
