"""The clients of the soak: several SMTP sessions that send letter after letter, and know which of them Postfix took.

Promises: a message counts as sent where Postfix answered 250 to its data, and as refused where it answered 5xx to its
recipient; whatever else happened (the connection ended, 4xx) it is sent again as another message, as a client would do it.
Never: sends faster than it is told to.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from demo.postfix_instance import Session
from tests.soak.letters import Kind, letter

__all__ = ["Copy", "Senders"]

#: One of so many letters is held back at the end, and goes more slowly, until `release`: as long as a trouble has met nobody yet.
_HELD_BACK = 4
_SLOWLY = 3


@dataclass(frozen=True)
class Copy:
    """One message for one recipient, as Postfix answered it. `queue_id` "": refused at RCPT. `fate`: what is to become of it."""

    number: int
    kind: Kind
    fate: str
    message_id: str
    recipient: str
    queue_id: str


class Senders:
    """`count` letters in `seconds`, from `sessions` clients at once; `copies` grows meanwhile."""

    def __init__(self, port: int, seed: int, count: int, seconds: float, *, sessions: int = 8) -> None:
        self._port, self._seed, self._count = port, seed, count
        self._pace = seconds / count
        self._next = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._go = threading.Event()
        self._held = count - count // _HELD_BACK
        self.copies: list[Copy] = []
        self.uncertain = 0
        self.sent = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(sessions)]
        for thread in self._threads:
            thread.start()

    def release(self) -> None:
        """Nothing is held back any more."""
        self._go.set()

    @property
    def done(self) -> bool:
        """Whether every letter has been taken or refused."""
        return self.sent >= self._count

    def stop(self) -> None:
        """Ends the clients; what they have not sent stays unsent."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        session: Session | None = None
        while not self._stop.is_set():
            with self._lock:
                number = self._next
                self._next += 1
            if number >= self._count:
                break
            self._stop.wait(max(0.0, self._begun + number * self._pace - time.monotonic()))
            if number >= self._held:
                self._go.wait(self._pace * _SLOWLY * len(self._threads))
            session = self._send(number, session)
        if session is not None:
            session.close()

    def _send(self, number: int, session: Session | None) -> Session | None:
        """One letter until it is taken, whatever becomes of Postfix meanwhile; the session for the next one."""
        attempt, whole = 0, letter(self._seed, number)
        waiting = whole.recipients
        while waiting and not self._stop.is_set():
            mail = letter(self._seed, number, attempt, to=waiting)
            attempt += 1
            try:
                session = session or Session(self._port)
                said = session.message(mail.sender, waiting, mail.data)
            except (OSError, ValueError):  # ValueError: cut off in the middle of a reply's line
                self._leave(session)
                session = None
                continue
            taken = said.data is not None and said.data.code == 250
            with self._lock:
                self.uncertain += said.data is not None and said.data.code == 0
            for recipient, reply in said.recipients:
                if reply.code // 100 == 5 or (reply.code == 250 and taken):
                    fate = whole.kind.fates[whole.recipients.index(recipient)]
                    queue_id = said.queue_id if reply.code == 250 else ""
                    self.copies.append(Copy(number, whole.kind, fate, mail.message_id, recipient.lower(), queue_id))
                    waiting = tuple(each for each in waiting if each != recipient)
            if waiting:
                self._leave(session)
                session = None
        with self._lock:
            self.sent += not waiting
        return session

    def _leave(self, session: Session | None) -> None:
        """After a failure: the next one comes in a moment."""
        if session is not None:
            with suppress(OSError):
                session.close()
        self._stop.wait(0.2)
