"""Connections to one webhook that stay open between two messages, for a process that stays itself.

Promises: a connection is used again only where nothing is left to doubt: HTTP/1.1 and no `Connection: close`, one whole answer
whose length it said itself, to a whole request, not one octet beyond it, and silence since (RFC 9112 9.3). None rests for
longer than IDLE or is used for longer than AGE. There are never more of them than requests were under way at once. An app
that ends them before we do is believed: for WARY seconds none is kept.
Never: sends a request again that may have arrived; has two threads use one connection (each takes its own out).

What an app that ends a resting connection just as we speak has read, nobody can tell us: the message waits in Postfix's queue.
Only a request of which the kernel itself did not take all cannot have been read whole by anybody; that one is sent again.
"""

from __future__ import annotations

import threading
import time

from gatepost.sinks.http_post import answer as answer_on
from gatepost.sinks.http_post import request_head
from gatepost.sinks.wire import EndedError, open_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.sinks.http_post import Answer, Url
    from gatepost.sinks.wire import Wire

__all__ = ["AGE", "IDLE", "WARY", "Kept"]

#: Seconds that a connection rests. Below what servers allow by default (gunicorn 2; Node, Apache and uvicorn 5; nginx 75), so
#: that it is we who end it. Whoever has more than one message a second keeps his connections; to the others one costs nothing.
IDLE: Final = 1.0
#: Seconds from its opening: after that a new one finds the app's new address and its certificate of today.
AGE: Final = 60.0
#: Seconds without kept connections for an app that ends them without saying so: each time, the next message may just miss it.
WARY: Final = 300.0


class Kept:
    """One webhook's connections. Thread-safe; `now`: seconds of a clock that never goes back."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        #: Who rests, the longest first: the connection, when it was opened, and since when it rests.
        self._resting: list[tuple[Wire, float, float]] = []
        self._watched = self._closed = False
        self._wary_until = now()

    def post(self, url: Url, fields: list[tuple[str, str]], *body: bytes, ca_file: str = "", deadline: float) -> Answer:
        """`http_post.post`, over a connection that rests where there is one. `url` and `ca_file`: always the same."""
        head = request_head(url, fields, sum(map(len, body)))
        rested = self._take()
        if rested is not None:
            wire, opened = rested
            wire.deadline = deadline
            try:
                return self._exchange(wire, opened, head, *body)
            except EndedError:
                self._be_wary()
                if wire.gave_all or wire.heard:
                    raise
        opened = self._now()
        return self._exchange(
            open_wire(url.host, url.port, secure=url.secure, ca_file=ca_file, deadline=deadline), opened, head, *body
        )

    def close(self) -> None:
        """Ends those that rest now, and the others when they are done with."""
        with self._changed:
            self._closed = True
            resting, self._resting = self._resting, []
            self._changed.notify_all()
        for wire, _, _ in resting:
            wire.close()

    def _exchange(self, wire: Wire, opened: float, *request: bytes) -> Answer:
        """One request and its answer; then the connection rests, or is closed."""
        rests = False
        try:
            wire.heard = False
            wire.give(*request)
            answer = answer_on(wire)
            rests = _leaves_no_doubt(answer) and self._rest(wire, opened)
            return answer
        finally:
            if not rests:
                wire.close()

    def _take(self) -> tuple[Wire, float] | None:
        """The connection that rests for the shortest time, and when it was opened; None where none is fit for use."""
        while True:
            with self._changed:
                if not self._resting:
                    return None
                wire, opened, since = self._resting.pop()
            now = self._now()
            if now - since < IDLE and now - opened < AGE and self._is_quiet(wire):
                return wire, opened
            wire.close()

    def _is_quiet(self, wire: Wire) -> bool:
        """Whether the app has left it as it was after its answer."""
        if not wire.quiet:
            self._be_wary()
            return False
        return True

    def _be_wary(self) -> None:
        self._wary_until = self._now() + WARY

    def _rest(self, wire: Wire, opened: float) -> bool:
        """Whether it was put to rest."""
        with self._changed:
            now = self._now()
            if self._closed or now < self._wary_until or not self._watch():
                return False
            self._resting.append((wire, opened, now))
            return True

    # -- what nobody took again in time

    def _watch(self) -> bool:
        """Sees to it that there is a thread that ends what rests too long; False where there is none to be had."""
        if not self._watched:
            try:
                threading.Thread(target=self._end_in_time, daemon=True).start()
            except RuntimeError:
                return False
            self._watched = True
        return True

    def _end_in_time(self) -> None:
        """Until none rests: an app of one thread, which a resting connection holds, has others to answer."""
        with self._changed:
            while self._resting:
                wire, _, since = self._resting[0]
                left = since + IDLE - self._now()
                if left > 0:
                    self._changed.wait(left)
                else:
                    del self._resting[0]
                    self._is_quiet(wire)  # for the next ones
                    wire.close()
            self._watched = False


def _leaves_no_doubt(answer: Answer) -> bool:
    """Whether the answer's end is beyond doubt, and the app has not said that it closes (RFC 9112 6.3, 9.3, 9.6)."""
    fields = answer.fields
    options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
    if not answer.whole or answer.version != "HTTP/1.1" or "close" in options:
        return False
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if answer.status == 204:  # RFC 9110 8.6, RFC 9112 6.1: it has neither; a server that says 0 means the same
        return coding is None and length in (None, "0")
    if answer.status in (205, 304):  # what stands behind these is told in two ways
        return False
    return coding is not None or (length or "").isdigit()
