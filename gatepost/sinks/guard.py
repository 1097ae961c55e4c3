"""What stands between a process that stays and one app that it calls, to hand over or to ask: a bulkhead, and a circuit in it.

Promises: an app that hangs or is gone takes no more than its share of the process; who finds no place, or an open circuit, is
told so at once. Openings and closings are noted, and shown to the doctor.
Never: calls twice; shares anything with another process, or with another configuration of the same one.
"""

from __future__ import annotations

import threading
import time

from gatepost.sinks.bulkhead import Bulkhead
from gatepost.sinks.circuit import Circuit
from gatepost.sinks.open_circuits import OpenCircuit, Sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from gatepost.sinks.circuit import Result

    #: What an app is called for.
    Kind = Literal["sink", "ask"]
    #: Told kind and name, and what became of the circuit.
    Note = Callable[[Kind, str, str], None]

__all__ = ["Guard", "share"]


def share(places: int, workers: int) -> int:
    """What one of so many workers has of them: one at least."""
    return -(-places // workers)


class Guard:
    """One app's, for many threads. `name`: of the sink, or of a route that asks. `full`: what is said where there is no place.

    `store`: where the doctor looks.
    """

    def __init__(self, kind: Kind, name: str, places: int, *, full: str, store: str, note: Note) -> None:
        self._kind, self._name, self._full, self._store = kind, name, full, store
        self._note: Callable[[str], None] = lambda detail: note(kind, name, detail)
        self._bulkhead = Bulkhead(places)
        self._circuit = Circuit(self._show)
        self._showing = threading.Lock()
        self._since: float | None = None
        self._sign: Sign | None = None
        self._closed = False

    def run(self, attempt: Callable[[], Result], turned_away: Callable[[str], Result], *, deadline: float) -> Result:
        """The attempt's outcome, or what it raises; where none may be made, what `turned_away` makes of the reason.

        `deadline`: time.monotonic() seconds, for the wait before.
        """
        with self._bulkhead.place(deadline) as got:
            if not got:
                return turned_away(self._full)
            return self._circuit.run(attempt, turned_away, deadline=deadline)

    def close(self) -> None:
        """No word of it any more."""
        with self._showing:
            self._closed = True
            self._remove_sign()

    def _show(self) -> None:
        """Brings log and file up to the circuit's state, whichever thread's turn it was."""
        with self._showing:
            opened = self._circuit.opened
            if self._closed or (opened is None) == (self._since is None):
                return
            if opened is None:
                self._note(f"closed: it answers again, after {time.time() - (self._since or 0):.0f} s")
                self._since = None
                self._remove_sign()
                return
            self._since = time.time()
            self._note(f"open after {opened.failures} failures: {opened.reason}")
            try:
                circuit = OpenCircuit(since=self._since, failures=opened.failures, reason=opened.reason)
                self._sign = Sign(self._store, self._kind, self._name, circuit)
            except OSError as error:
                self._note(f"open, which gatepost doctor cannot see: {self._store}: {error.strerror}")

    def _remove_sign(self) -> None:
        sign, self._sign = self._sign, None
        if sign is not None:
            sign.remove()
