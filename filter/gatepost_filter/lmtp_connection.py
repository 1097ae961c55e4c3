"""One client of the warm process: a thread that talks to it, and hands each of its messages to the gateway.

Promises: a reply for each recipient at the end of DATA, whatever happens, in their order, and as soon as it is known; our own
fault is `451`. A message whose client has gone is not handed over. Another thread can end all of it at any moment (`give_up`):
then every recipient that has no reply yet is told 451. What is told and logged is what the pipe script would.
Never: writes a message to a disk; waits without a bound; keeps anything of a message behind its last reply.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial

from gatepost import answer, log
from gatepost.asker import GuardedAsk
from gatepost.daemon.room import Room
from gatepost.decision import rule_decision
from gatepost.errors import GatepostError
from gatepost.fault import fault
from gatepost.gateway import Gateway, Receipt
from gatepost.mail.message import parse
from gatepost.mail.received import received
from gatepost.masking import masked
from gatepost.sinks.guarded import GuardedSinks
from gatepost.smtp_reply import reply_for
from gatepost.stores.pool import Ledgers
from gatepost.value import Value
from gatepost_filter.lmtp_content import Content
from gatepost_filter.lmtp_session import GREETING, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.daemon.current import Current, Lease
    from gatepost.decision import Decision, Envelope
    from gatepost.settings import Settings

__all__ = ["Connection", "Engine", "Shared"]

#: Of the deadline, what sinks may use, as in the pipe script: the rest is for what comes after an app that never answers.
SINK_SHARE: Final = 0.9
#: Longest command line. A path has 256 octets (RFC 5321 4.5.3.1.3); Postfix's own lines have 2,048.
_LINE_LIMIT: Final = 8_192
_COMMANDS: Final = 65_536
#: Octets of a message taken at once.
_PIECE: Final = 262_144
#: Seconds that a message waits for room among the others.
_PATIENCE: Final = 10.0
#: What a message without SIZE is thought to have; it may become more.
_UNKNOWN_SIZE: Final = 65_536
_NO_QUEUE_ID: Final = "no queue ID: neither XFORWARD nor Postfix's own Received field says one (do header_checks remove it?)"
#: Seconds without an answer of a thread that keeps the reply's lock.
_LOCKED: Final = 0.2


class GoneError(GatepostError):
    """The client has gone, or was given up: nobody would hear that its message is done with."""

    rule = "interrupted"


class CutOffError(GoneError):
    """The client went away, or fell silent, in the middle of a message."""

    rule = "incomplete-input"


class Engine:
    """What stands on one configuration: the gateway, and the ledger and the apps for its threads. For `Current`."""

    def __init__(self, settings: Settings) -> None:
        if settings.lmtp is None:
            raise GatepostError(f"{settings.file}: there is no lmtp: section")
        note = partial(_note_circuit, settings)
        self._sinks = GuardedSinks(settings, note=note)
        self._asked = GuardedAsk(settings, note=note, workers=settings.lmtp.workers)
        self.gateway = Gateway(
            settings, ledgers=Ledgers(settings.store), deliver=self._sinks.deliver, ask=self._asked.ask
        )  # fmt: skip

    def close(self) -> None:
        """Lets go of the store, and of the connections to the app."""
        self.gateway.close()
        self._sinks.close()
        self._asked.close()


class Shared(Value):
    """What the connections of a process have in common. `messages`, `octets`: room for what is in flight."""

    current: Current[Engine]
    messages: Room
    octets: Room
    most_octets: int


class _Message:
    """One message in flight: its time, its configuration, and how many of its recipients have been answered."""

    def __init__(self, session: Session, lease: Lease[Engine]) -> None:
        self.lease = lease
        self.start()
        self.envelopes = session.envelopes()
        self.size, self.queue_id = session.size, session.queue_id
        self.octets = 0
        self.answered = 0

    def start(self) -> None:
        """Its time begins now."""
        self.started = time.monotonic()
        self.ends = self.started + self.lease.settings.timing.deadline

    def take_queue_id(self, raw: bytes) -> None:
        """Postfix tells none by XFORWARD of what this host made (a program's mail, a bounce): it stands in the field on top.

        That field is Postfix's own, for it names no client: `Received: by HOST (Postfix, from userid 0) id QUEUEID`.
        """
        top = parse(raw, self.lease.settings.parser).headers.first("received")
        found = received(top.value) if top is not None else None
        if found is not None and found.by and not found.from_ and found.id.isalnum():
            self.queue_id = found.id
            self.envelopes = [envelope.replace(queue_id=found.id) for envelope in self.envelopes]

    def log(self, receipt: Receipt) -> None:
        """Our own line."""
        ms = round((time.monotonic() - self.started) * 1000)
        line = answer.log_line(receipt, queue_id=self.queue_id, size=self.size, octets=self.octets, ms=ms)
        log.write(line, log.destination(self.lease.settings), error=receipt.decision.action == "defer")

    def deferral(self, envelope: Envelope, decision: Decision) -> Receipt:
        """What becomes of a recipient that the gateway was not asked about, or did not answer for."""
        return Receipt(decision=decision, to=masked(envelope.recipient, self.lease.settings))


class Connection:
    """One client. `run` is the thread's; `give_up` and the properties are for another."""

    def __init__(self, sock: socket.socket, shared: Shared) -> None:
        self._sock, self._shared = sock, shared
        self._session = Session()
        self._speaking = threading.Lock()
        self._ended = False
        self._inbox = b""
        self._outbox: list[str] = []
        self._message: _Message | None = None

    @property
    def ends(self) -> float | None:
        """When the message in flight must be answered (time.monotonic() seconds); None where none waits for an answer."""
        message = self._message
        return message.ends if message is not None and not self._ended else None

    def run(self) -> None:
        """Talks until the client, or `give_up`, ends it."""
        lmtp = self._shared.current.settings.lmtp
        try:
            self._sock.settimeout(lmtp.idle if lmtp is not None else 1.0)
            self._say(GREETING)
            self._talk()
        except TimeoutError:
            self.give_up("deadline", farewell="421 4.4.2 Silent for too long")
        except (OSError, GoneError):  # the client has gone, or `give_up` was here
            return
        except Exception as error:  # noqa: BLE001  # whatever it was about stays in Postfix's queue
            self._note(error)
            self.give_up("internal-error", farewell="421 4.3.0 Temporary failure, try later")
        finally:
            self._sock.close()

    def give_up(self, rule: str, *, farewell: str = "421 4.3.2 Going down, come back") -> None:
        """Ends the connection now: each recipient that waits for an answer is told the rule's deferral. For any thread.

        Where the connection's own thread is just speaking, and stays at it, the client learns nothing: that is a deferral too.
        """
        if not self._speaking.acquire(timeout=_LOCKED):
            self._sever()
            return
        try:
            if self._ended:
                return
            self._ended = True
            message = self._message
            waiting = message.envelopes[message.answered :] if message is not None else []
            decision = rule_decision("defer", rule)
            said = [str(reply_for(decision, _spoken(Receipt(decision=decision)))) for _ in waiting] or [farewell]
            if message is not None:
                self._log_waiting(message, decision)
            self._sock.settimeout(_LOCKED)
            self._sock.sendall("".join(f"{line}\r\n" for line in said).encode("ascii"))
        except OSError:
            return
        finally:
            self._speaking.release()
            self._sever()

    def _sever(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    # -- commands

    def _talk(self) -> None:
        while True:
            line = self._line()
            if line is None:
                return
            step = self._session.command(line)
            self._outbox.append(step.reply)
            if step.then == "message":
                self._take_message()
            elif step.then == "end":
                self._flush()
                return

    def _line(self) -> bytes | None:
        """The next command; None where the client has said its last, or says too much at once. Replies go out in groups."""
        while b"\n" not in self._inbox:
            self._flush()
            if len(self._inbox) > _LINE_LIMIT:
                self._say("421 4.5.2 Line too long")
                return None
            came = self._sock.recv(_COMMANDS)
            if not came:
                return None
            self._inbox += came
        line, _, self._inbox = self._inbox.partition(b"\n")
        return line.removesuffix(b"\r")

    def _flush(self) -> None:
        """RFC 2920 3.2: replies to a group of commands in one piece."""
        if self._outbox:
            said, self._outbox = self._outbox, []
            self._say("\r\n".join(said))

    def _say(self, reply: str) -> None:
        with self._speaking:
            if self._ended:
                raise GoneError("given up")
            self._sock.sendall(f"{reply}\r\n".encode("ascii", "replace"))

    # -- messages

    def _take_message(self) -> None:
        """From the 354 to the last recipient's reply."""
        lease = self._shared.current.take()
        message = _Message(self._session, lease)
        try:
            with ExitStack() as room:
                if not room.enter_context(self._shared.messages.taken(1, _PATIENCE)):
                    self._refuse(message)
                    return
                expected = _expected(message.size)
                if not room.enter_context(self._shared.octets.taken(expected, _PATIENCE)):
                    self._refuse(message)
                    return
                message.start()
                self._message = message
                self._hand_over(message, self._content(message, room, expected))
        except GoneError as error:
            if not self._ended:
                self._log_waiting(message, fault(error))
            raise
        finally:
            self._message = None
            lease.give_back()
            self._session.reset()

    def _refuse(self, message: _Message) -> None:
        """No room: the message is not even sent. One reply is for all: it answers DATA."""
        decision = rule_decision("defer", "overloaded")
        self._log_waiting(message, decision)
        self._outbox[-1] = str(reply_for(decision, _spoken(Receipt(decision=decision))))
        self._flush()

    def _log_waiting(self, message: _Message, decision: Decision) -> None:
        """A line for each recipient that has no answer yet."""
        for envelope in message.envelopes[message.answered :]:
            message.log(message.deferral(envelope, decision))

    def _content(self, message: _Message, room: ExitStack, taken: int) -> bytes | None:
        """The whole message; None where it grew and found no room."""
        self._flush()
        content = Content()
        piece, self._inbox = self._inbox, b""
        fits = True
        while (rest := content.feed(piece)) is None:
            while fits and taken < min(content.size, self._shared.most_octets):
                more = min(taken, self._shared.most_octets - taken)  # all of the room is enough, and more it never gets
                fits = room.enter_context(self._shared.octets.taken(more, _PATIENCE))
                taken += more
                if not fits:
                    content.drop()
            piece = self._piece()
        self._inbox = rest
        message.octets = content.size
        return content.take() if fits else None

    def _piece(self) -> bytes:
        try:
            piece = self._sock.recv(_PIECE)
        except OSError as error:
            raise CutOffError(f"in the middle of a message: {error.strerror or error}") from error
        if not piece:
            raise CutOffError("the client went away in the middle of a message")
        return piece

    def _hand_over(self, message: _Message, raw: bytes | None) -> None:
        """Each recipient in turn, with an equal share of the time that is left: one slow app leaves the others theirs."""
        if raw is not None and not message.queue_id:
            message.take_queue_id(raw)
        sinks_end = message.started + SINK_SHARE * message.lease.settings.timing.deadline
        for number, envelope in enumerate(message.envelopes):
            now = time.monotonic()
            share = max(0.0, sinks_end - now) / (len(message.envelopes) - number)
            self._answer(message, self._receipt(message, envelope, raw, now + share))

    def _receipt(self, message: _Message, envelope: Envelope, raw: bytes | None, deadline: float) -> Receipt:
        """What became of one recipient; our own fault is a deferral."""
        if raw is None:
            return message.deferral(envelope, rule_decision("defer", "overloaded"))
        if not envelope.queue_id:  # without it nobody could tell a retry from another message
            return message.deferral(envelope, rule_decision("defer", "config-error", detail=_NO_QUEUE_ID))
        try:
            return message.lease.engine.gateway.receive(envelope, raw, deadline=deadline, still_whole=self._still_there)
        except Exception as error:  # noqa: BLE001
            return message.deferral(envelope, fault(error))

    def _still_there(self) -> None:
        """Raises GoneError where nobody waits for the answer any more: Postfix brings the message again."""
        if self._ended:
            raise GoneError("given up")
        look = select.poll()
        look.register(self._sock, select.POLLIN)
        try:
            gone = bool(look.poll(0)) and self._sock.recv(1, socket.MSG_PEEK) == b""
        except OSError as error:
            raise GoneError(f"the client has gone: {error.strerror}") from error
        if gone:
            raise GoneError("the client has gone")

    def _answer(self, message: _Message, receipt: Receipt) -> None:
        """Log first, then reply, as the pipe script does it. Where `give_up` was faster, the log tells what came of it."""
        message.log(receipt)
        reply = reply_for(receipt.decision, _spoken(receipt))
        with self._speaking:
            if self._ended:
                raise GoneError("given up")
            message.answered += 1
            self._sock.sendall(f"{reply}\r\n".encode("ascii"))

    def _note(self, error: Exception) -> None:
        decision = fault(error)
        settings = self._shared.current.settings
        queue_id = self._session.queue_id or "lmtp"
        line = log.line(queue_id, action="defer", rule=decision.rule, detail=decision.detail)
        log.write(line, log.destination(settings), error=True)


def _note_circuit(settings: Settings, kind: str, name: str, detail: str) -> None:
    """A line of the process: `lmtp: state=circuit sink=app detail="open after 5 failures: ..."`."""
    log.write(log.line("lmtp", state="circuit", **{kind: name}, detail=detail), log.destination(settings), error=True)


def _spoken(receipt: Receipt) -> str:
    """The pipe script's line, without the status that a reply has anyway."""
    return answer.said(receipt).removeprefix(f"{receipt.decision.status} ")[: answer.LINE_LIMIT]


def _expected(size: str) -> int:
    """Octets to expect. Postfix's SIZE is approximate."""
    return int(size) + int(size) // 16 + _UNKNOWN_SIZE if size else _UNKNOWN_SIZE
