"""The sinks of a process that stays: each behind its own bulkhead and circuit, a webhook over connections that are kept.

Promises: a sink that hangs or is gone takes no more than its share of the process, and none of another sink's; who finds no
place, or an open circuit, is told "unavailable" as by the sink itself. Openings and closings are noted and shown to the doctor.
Never: tries a message twice; shares anything with another process, or with another configuration of the same one.
"""

from __future__ import annotations

import threading
import time

from gatepost.sinks import deliver
from gatepost.sinks.bulkhead import Bulkhead
from gatepost.sinks.circuit import Circuit
from gatepost.sinks.delivery import Outcome
from gatepost.sinks.kept import Kept
from gatepost.sinks.open_circuits import OpenCircuit, Sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.settings import Settings, Sink
    from gatepost.sinks.delivery import Delivery

    #: Told a sink's name and what became of its circuit.
    Note = Callable[[str, str], None]

__all__ = ["GuardedSinks"]


class GuardedSinks:
    """All sinks of a configuration. `deliver` is `sinks.deliver`, for many threads at once."""

    def __init__(self, settings: Settings, *, note: Note) -> None:
        workers = settings.lmtp.workers if settings.lmtp is not None else 1
        self._guarded = {sink.name: _Guarded(sink, workers, settings.store, note) for sink in settings.sinks}

    def deliver(self, sink: Sink, delivery: Delivery, *, deadline: float, now: Callable[[], float] = time.time) -> Outcome:
        """Hands one message to one sink, once. `deadline`: time.monotonic() seconds; it holds the wait for a place too."""
        return self._guarded[sink.name].deliver(delivery, deadline, now)

    def close(self) -> None:
        """Ends what rests between two messages."""
        for guarded in self._guarded.values():
            guarded.close()


class _Guarded:
    """One sink, in one of so many `workers`."""

    def __init__(self, sink: Sink, workers: int, store: str, note: Note) -> None:
        self._sink, self._store, self._note = sink, store, note
        self._bulkhead = Bulkhead(-(-sink.at_once // workers))
        self._circuit = Circuit(self._show)
        self._kept = Kept()
        self._showing = threading.Lock()
        self._since: float | None = None
        self._sign: Sign | None = None
        self._closed = False

    def deliver(self, delivery: Delivery, deadline: float, now: Callable[[], float]) -> Outcome:
        with self._bulkhead.place(deadline) as got:
            if not got:
                full = f"it has {self._bulkhead.size} messages in hand, and was done with none of them soon enough (at_once)"
                return Outcome(kind="unavailable", detail=full)
            return self._circuit.run(
                lambda: deliver(self._sink, delivery, deadline=deadline, now=now, post=self._kept.post)
            )  # fmt: skip

    def close(self) -> None:
        self._kept.close()
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
                self._note(self._sink.name, f"closed: it answers again, after {time.time() - (self._since or 0):.0f} s")
                self._since = None
                self._remove_sign()
                return
            self._since = time.time()
            self._note(self._sink.name, f"open after {opened.failures} failures: {opened.reason}")
            try:
                circuit = OpenCircuit(since=self._since, failures=opened.failures, reason=opened.reason)
                self._sign = Sign(self._store, self._sink.name, circuit)
            except OSError as error:
                self._note(self._sink.name, f"open, which gatepost doctor cannot see: {self._store}: {error.strerror}")

    def _remove_sign(self) -> None:
        sign, self._sign = self._sign, None
        if sign is not None:
            sign.remove()
