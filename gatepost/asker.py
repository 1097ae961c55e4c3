"""`ask:` for a process that stays and has many threads: an app that hangs holds few of them, and hears little of many who ask.

Promises: each URL of the configuration has a guard of its own (sinks.guard): so many questions at a time, and none but now and
then to an app that is gone. Who may not ask is told "unavailable" at once, or as soon as nothing moves. Ends by its deadline,
as `ask` does.
Never: raises; asks twice in one call; lets a key alone, or a question that had no time for an answer, count against the app.
"""

from __future__ import annotations

import os
import threading
import time

from gatepost.ask import DEADLINE, our_fault, put, unavailable
from gatepost.digest import hmac_sha256
from gatepost.sinks.guard import Guard, share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.ask import Answer, Question
    from gatepost.settings import Settings
    from gatepost.sinks.guard import Note

__all__ = ["ENTRIES", "IN_FLIGHT", "KEEP_NO", "KEEP_YES", "PAUSE", "Asker", "GuardedAsk"]

#: Questions under way to one URL; more wait. An app of few workers keeps some for people, and 8 at 10 ms are 800 a second.
IN_FLIGHT: Final = 8
#: Seconds for which a yes is known: it covers one message from RCPT to its end. A key that dies in between gets its mail
#: refused by the door behind the queue, which asks again.
KEEP_YES: Final = 60.0
#: Seconds for which a no is known. Short, for a no is a 550 for good: who guesses a key that the app has not made yet must not
#: shut it for the person who gets it. It takes a person longer than this to get a mail and answer it.
KEEP_NO: Final = 10.0
#: Seconds for which a key on which the app failed is left alone. All mail to it waits so long at least, so it is short.
PAUSE: Final = 2.0
#: Answers kept of live keys, and as many of all others: 1.7 MB each. Guesses never push out a live key.
ENTRIES: Final = 10_000


class GuardedAsk:
    """The questions of a configuration. `ask` is `gatepost.ask.ask`, for many threads at once; nothing is kept of an answer."""

    def __init__(self, settings: Settings, *, note: Note, workers: int = 1) -> None:
        """`workers`: processes that share what may be under way."""
        places = share(IN_FLIGHT, workers)
        full = f"{places} questions were under way, and none of them was answered soon enough"
        self._guards: dict[str, Guard] = {}
        for route in settings.routes:
            asked = route.keys.ask if route.keys is not None else None
            if asked is not None and asked.url not in self._guards:
                self._guards[asked.url] = Guard("ask", route.name, places, full=full, store=settings.store, note=note)

    def ask(
        self, question: Question, *, deadline: float, now: Callable[[], float] = time.time,
        learn: Callable[[Answer], None] = lambda _: None,
    ) -> Answer:  # fmt: skip
        """As `ask.ask`, for a question of this configuration. `learn` is told what a question that was put has taught."""
        deadline = min(deadline, time.monotonic() + DEADLINE)

        def attempt() -> Answer:
            given = deadline - time.monotonic()
            answer = put(question, deadline=deadline, now=now())
            if answer.gone and given < DEADLINE / 2 and time.monotonic() >= deadline:
                raise _NoTimeError(answer)
            learn(answer)
            return answer

        try:
            return self._guards[question.url].run(attempt, unavailable, deadline=deadline)
        except _NoTimeError as error:
            return error.answer
        except Exception as error:  # noqa: BLE001 - mail waits
            return our_fault(error)

    def close(self) -> None:
        """No word of their circuits any more."""
        for guard in self._guards.values():
            guard.close()


class _NoTimeError(Exception):
    """Too little time was left for an answer: whose fault it was cannot be said."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


_SAME: Final = unavailable("the deadline passed while the same key was being asked about")


class Asker:
    """Knows for a while what it was told: however many ask about a key, the app hears little of it.

    One question about one key at a time, whose answer all get who asked meanwhile; answers known for `KEEP_YES` and `KEEP_NO`
    seconds, under a keyed hash of URL, route, domain and key, so that no route answers for another and no key stays in memory.
    "unavailable" is known of a key for `PAUSE` seconds: one on which alone the app fails stops no other.
    """

    def __init__(
        self,
        guarded: GuardedAsk,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        entries: int = ENTRIES,
    ) -> None:
        """`now`: Unix seconds, for signatures. `monotonic`: seconds by which answers grow old. `entries`: see `ENTRIES`."""
        self._guarded = guarded
        self._now = now
        self._monotonic = monotonic
        self._secret = os.urandom(32)
        self._lock = threading.Lock()
        self._alive = _Answers(entries)
        self._others = _Answers(entries)
        self._asking: dict[bytes, threading.Event] = {}

    def alive(self, question: Question, *, deadline: float) -> Answer:
        """As `ask`. `deadline` is time.monotonic()'s whatever `monotonic` is, and bounds the waiting for others, too."""
        deadline = min(deadline, time.monotonic() + DEADLINE)
        name = self._name(question)
        while True:
            with self._lock:
                if known := self._known(name):
                    return known
                asked = self._asking.get(name)
                if asked is None:
                    mine = self._asking[name] = threading.Event()
            if asked is None:
                return self._lead(question, name, mine, deadline)
            if not asked.wait(deadline - time.monotonic()):
                return _SAME

    def close(self) -> None:
        """As `GuardedAsk.close`."""
        self._guarded.close()

    def _name(self, question: Question) -> bytes:
        """What an answer is kept under; repr() sets the parts apart whatever is in them."""
        parts = (question.url, question.route, question.domain, question.raw)
        return hmac_sha256(self._secret, repr(parts).encode("utf-8"))

    def _known(self, name: bytes) -> Answer | None:
        now = self._monotonic()
        return self._alive.get(name, now) or self._others.get(name, now)

    def _lead(self, question: Question, name: bytes, landing: threading.Event, deadline: float) -> Answer:
        """Asks for all who ask the same; whatever happens, they go on. Those who find nothing known ask in their turn."""
        try:
            return self._guarded.ask(question, deadline=deadline, now=self._now, learn=lambda answer: self._learn(name, answer))
        finally:
            with self._lock:
                del self._asking[name]
            landing.set()

    def _learn(self, name: bytes, answer: Answer) -> None:
        now = self._monotonic()
        with self._lock:
            if answer.alive == "yes":
                self._alive.keep(name, answer, now + KEEP_YES)
            else:
                self._others.keep(name, answer, now + (KEEP_NO if answer.alive == "no" else PAUSE))


class _Answers:
    """Answers until they are too old; at the bound the oldest goes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._kept: dict[bytes, tuple[Answer, float]] = {}

    def get(self, name: bytes, now: float) -> Answer | None:
        answer, until = self._kept.get(name, (None, 0.0))
        return answer if now < until else None

    def keep(self, name: bytes, answer: Answer, until: float) -> None:
        self._kept.pop(name, None)
        self._kept[name] = (answer, until)
        if len(self._kept) > self._bound:
            del self._kept[next(iter(self._kept))]
