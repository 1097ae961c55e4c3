"""An app that is gone is left alone for a while: its messages are deferred at once, and one at a time tries whether it is back.

Promises: FAILURES attempts in a row that say so themselves (`gone`) open it; one outcome of any other kind closes it, for
whoever answers is there. While it is open one message in each pause is the trial; the pause grows from FIRST to LONGEST
seconds. Who comes while the trial is under way waits for its end, WAIT seconds from its beginning at most, and goes on with it:
Postfix brings what waits in one burst, and of that only the messages before the recovery are sent back.
Never: lets a message alone be the reason (what a sender can bring about with a mail, such as a 500, is not `gone`); lets an
attempt that began before the last answer count against the app; ends a message that waits too long (that is judged where all
deferrals are).
"""

from __future__ import annotations

import threading
import time

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol, TypeVar

    class Said(Protocol):
        """What came of an attempt. `gone`: as of an `Outcome`."""

        @property
        def gone(self) -> str: ...

    Result = TypeVar("Result", bound=Said)

__all__ = ["FAILURES", "FIRST", "LONGEST", "WAIT", "Circuit", "Opened"]

#: Attempts in a row: one is an accident, and a deployment costs a few.
FAILURES: Final = 5
#: Seconds between two trials: the first, doubled after each that fails, and the longest. A trial costs one attempt, and what
#: comes in a pause waits for minimal_backoff_time (300 s) or more once the app is back: so it is short.
FIRST: Final = 2.0
LONGEST: Final = 30.0
#: Seconds that others wait for the trial. An app that needs longer for one message is not yet well.
WAIT: Final = 2.0


class Opened(Value):
    """Why a circuit is open. `failures`: attempts in a row until then. `reason`: what the last of all attempts met."""

    failures: int
    reason: str


class _Attempt:
    """One that was let through, when, and whether it is the trial."""

    def __init__(self, began: float, *, trial: bool) -> None:
        self.began, self.trial = began, trial


class Circuit:
    """One app's. Thread-safe. `changed` is called after each opening and closing, without a lock; `opened` says which.

    `now`: seconds of a clock that never goes back.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._now = changed, now
        self._changed = threading.Condition()
        self._failures = 0
        self._opened: Opened | None = None
        self._answered = now()
        self._pause = FIRST
        self._next = 0.0
        self._trial: _Attempt | None = None

    @property
    def opened(self) -> Opened | None:
        """Why it is open; None while it is closed."""
        return self._opened

    def run(self, attempt: Callable[[], Result], turned_away: Callable[[str], Result], *, deadline: float) -> Result:
        """The attempt's outcome, or what it raises, which counts for nothing.

        Where the circuit is open, no attempt is made, and the outcome is what `turned_away` makes of the reason. `deadline`:
        nobody waits longer for the trial, by the same clock.
        """
        through = self._enter(deadline)
        if through is None:
            opened = self._opened
            return turned_away(f"left alone for a while: {opened.reason if opened else 'no answer'}")
        outcome = None
        try:
            outcome = attempt()
        finally:
            self._leave(through, outcome)
        return outcome

    def _enter(self, deadline: float) -> _Attempt | None:
        """Leave to go on; None for a message that must wait in the queue."""
        with self._changed:
            while self._opened is not None:
                now = self._now()
                if self._trial is None:
                    if now < self._next:
                        return None
                    self._trial = _Attempt(now, trial=True)
                    return self._trial
                left = min(self._trial.began + WAIT, deadline) - now
                if left <= 0:
                    return None
                self._changed.wait(left)
            return _Attempt(self._now(), trial=False)

    def _leave(self, attempt: _Attempt, outcome: Said | None) -> None:
        with self._changed:
            before = self._opened
            if attempt is self._trial:
                self._end_trial()
            if outcome is not None and not outcome.gone:
                self._close()
            elif outcome is not None and attempt.began >= self._answered:
                self._count(attempt, outcome.gone)
            turned = (before is None) != (self._opened is None)
        if turned:
            self._tell()

    def _end_trial(self) -> None:
        self._trial = None
        self._changed.notify_all()

    def _close(self) -> None:
        """It may be another's answer: a trial that still hangs is none any more, and keeps nobody from the next."""
        self._failures, self._opened, self._pause = 0, None, FIRST
        self._answered = self._now()
        self._end_trial()

    def _count(self, attempt: _Attempt, reason: str) -> None:
        """One more failure; those that began before the opening change nothing."""
        if self._opened is None:
            self._failures += 1
            if self._failures < FAILURES:
                return
        elif attempt.trial:
            self._pause = min(2 * self._pause, LONGEST)
        else:
            return
        self._opened = Opened(failures=self._failures, reason=reason)
        self._next = self._now() + self._pause
