"""The sinks of a process that stays: each behind its own guard, a webhook over connections that are kept.

Promises: a sink that hangs or is gone takes no more than its share of the process, and none of another sink's; who finds no
place, or an open circuit, is told "unavailable" as by the sink itself.
Never: tries a message twice; shares anything with another process, or with another configuration of the same one.
"""

from __future__ import annotations

import time

from gatepost.sinks import deliver
from gatepost.sinks.delivery import Outcome
from gatepost.sinks.guard import Guard, share
from gatepost.sinks.kept import Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.settings import Settings, Sink
    from gatepost.sinks.delivery import Delivery
    from gatepost.sinks.guard import Note

__all__ = ["GuardedSinks"]


class GuardedSinks:
    """All sinks of a configuration. `deliver` is `sinks.deliver`, for many threads at once."""

    def __init__(self, settings: Settings, *, note: Note) -> None:
        workers = settings.lmtp.workers if settings.lmtp is not None else 1
        self._guarded = {sink.name: (_guard(sink, workers, settings.store, note), Kept()) for sink in settings.sinks}

    def deliver(self, sink: Sink, delivery: Delivery, *, deadline: float, now: Callable[[], float] = time.time) -> Outcome:
        """Hands one message to one sink, once. `deadline`: time.monotonic() seconds; it holds the wait for a place too."""
        guard, kept = self._guarded[sink.name]
        return guard.run(
            lambda: deliver(sink, delivery, deadline=deadline, now=now, post=kept.post), _unavailable, deadline=deadline
        )

    def close(self) -> None:
        """Ends what rests between two messages."""
        for guard, kept in self._guarded.values():
            kept.close()
            guard.close()


def _guard(sink: Sink, workers: int, store: str, note: Note) -> Guard:
    places = share(sink.at_once, workers)
    full = f"it has {places} messages in hand, and was done with none of them soon enough (at_once)"
    return Guard("sink", sink.name, places, full=full, store=store, note=note)


def _unavailable(detail: str) -> Outcome:
    return Outcome(kind="unavailable", detail=detail)
