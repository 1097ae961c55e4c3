"""One connection of the MTA: collects what it says of a message, asks the dialogue, and spells the answer.

Promises: decides nothing. Each transaction begins with nothing of the one before: MAIL, abort and the end of a message reset.
Only what is addressed to us is kept, and not before a recipient of ours was accepted. Whatever goes wrong in here is a
deferral with a log line (rule internal-error), of that recipient or of that message alone.
Never: accepts early (RFC 5321 has one answer to each recipient and one to the message); knows of pymilter; writes a key whole
into a log.
"""

from __future__ import annotations

import time

from gatepost import log
from gatepost.decision import Envelope, rule_decision
from gatepost.dialogue import Arrived
from gatepost.fault import fault
from gatepost.mail.canonical import crlf
from gatepost.masking import masked
from gatepost.smtp_reply import Reply, reply_for
from gatepost.value import Value
from gatepost_milter.kept import Kept
from gatepost_milter.paths import address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.daemon.current import Current, Lease
    from gatepost.daemon.room import Room, UnderWay
    from gatepost.decision import Decision
    from gatepost.dialogue import Dialogue
    from gatepost.settings import Settings

__all__ = ["DOOR", "GO_ON", "Answer", "Session", "Shared"]

#: The value of `door=` in our log lines; the pipe's have none.
DOOR: Final = "milter"
#: What stands for the queue ID before Postfix has made one, as in its own log.
_NO_QUEUE_ID: Final = "NOQUEUE"
#: Seconds that a large message waits for its turn. Postfix waits 300 (milter_content_timeout) for the answer.
_PATIENCE: Final = 120.0


class Answer(Value):
    """What the MTA is told. No `reply` and no `discard`: it goes on.

    Then `remove` (field name, 1-based place among the fields of that name, in the order in which to delete), `insert` (name,
    value; in their order from the top) and `delete` (recipients, as RCPT had them) are what to change first.
    """

    reply: Reply | None = None
    discard: bool = False
    insert: tuple[tuple[str, str], ...] = ()
    remove: tuple[tuple[str, int], ...] = ()
    delete: tuple[str, ...] = ()


GO_ON: Final = Answer()


class Shared(Value):
    """What all sessions of a process share. `room`: for large messages in memory."""

    current: Current[Dialogue]
    room: Room
    under_way: UnderWay


class _Transaction:
    """From MAIL to the end of the message, or to what ends it before."""

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self.lease: Lease[Dialogue] | None = None
        #: Recipients of ours that were accepted: the address, and each path that names it (as RCPT wrote it, and as it is).
        self.ours: dict[str, list[str]] = {}
        self.others = False
        self.kept: Kept | None = None
        #: Why the message cannot be judged, whatever else comes of it.
        self.fault: Decision | None = None


class Session:
    """A connection. Its methods are called in the order in which the MTA speaks, by one thread at a time; none raises."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._client_address = self._client_name = self._helo = self._host = ""
        self._transaction: _Transaction | None = None
        self._ending: _Transaction | None = None

    # -- the connection

    def connect(self, address: str, name: str, host: str) -> None:
        """A client has connected to the MTA. `address`: "" where it has none; `name`: "unknown" where DNS does not agree.

        `host`: the MTA's own name (macro j).
        """
        self.abort()
        self._client_address, self._client_name, self._host, self._helo = address, name, host, ""

    def helo(self, name: str) -> None:
        """HELO or EHLO, perhaps for the second time."""
        self._helo = name

    def close(self) -> None:
        """The connection has ended, in whatever state."""
        self.abort()

    # -- the envelope

    def mail(self, path: str, macro: str | None) -> None:
        """MAIL FROM; what it was before is forgotten."""
        self.abort()
        self._transaction = transaction = _Transaction(address(path, macro))
        try:
            transaction.lease = self._shared.current.take()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is ours
            transaction.fault = fault(error)

    def rcpt(self, path: str, macro: str | None, queue_id: str = "") -> Answer:
        """RCPT TO: goes on, or refuses this recipient alone. `queue_id`: "" at the first of a message."""
        started = time.monotonic()
        to = address(path, macro)
        try:
            decision = self._recipient(to, path, queue_id)
        except Exception as error:  # noqa: BLE001
            decision = fault(error)
        if decision.action not in ("reject", "defer"):
            return GO_ON
        self._log("rcpt", queue_id, decision, to=self._masked(to), client=self._client_address, ms=_since(started))
        return Answer(reply=reply_for(decision))

    def _recipient(self, to: str, path: str, queue_id: str) -> Decision:
        transaction = self._transaction
        if transaction is None or transaction.lease is None:
            return (transaction and transaction.fault) or rule_decision("defer", "internal-error", detail="RCPT before MAIL")
        envelope = Envelope(
            sender=transaction.sender, recipient=to, original_recipient=to, queue_id=queue_id,
            client_address=self._client_address, helo=self._helo,
        )  # fmt: skip
        decision = transaction.lease.engine.recipient(envelope)
        if decision.action in ("reject", "defer"):
            return decision
        if not decision.route:
            transaction.others = True
            return decision
        if not transaction.ours and not self._shared.under_way.begin():
            return rule_decision("defer", "interrupted", route=decision.route)
        paths = transaction.ours.setdefault(to, [])
        # Postfix deletes by what was written, or by what it made of it where that is a source route (RFC 5321 4.1.2).
        paths += [each for each in dict.fromkeys((path, f"<{to}>")) if each not in paths]
        if transaction.kept is None:
            transaction.kept = Kept(transaction.lease.settings.store)
        return decision

    # -- the message

    @property
    def wants_body(self) -> bool:
        """Is there a recipient of ours, and will the message be judged?"""
        transaction = self._transaction
        return transaction is not None and transaction.kept is not None and transaction.fault is None

    def header(self, name: bytes, value: bytes) -> None:
        """One field, without the colon between; `value` with its leading white space and its folds."""
        self._keep(crlf(b"%b:%b\n" % (name, value)))

    def end_of_headers(self) -> None:
        """The blank line. It is told even of a message that has none."""
        self._keep(b"\r\n")

    def body(self, chunk: bytes) -> None:
        """A part of the body."""
        self._keep(chunk)

    def _keep(self, data: bytes) -> None:
        transaction = self._transaction
        if transaction is None or transaction.kept is None or transaction.fault is not None:
            return
        try:
            transaction.kept.add(data)
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Something went wrong where no answer can be given: the end of the message will."""
        transaction = self._transaction
        if transaction is not None:
            transaction.fault = _disk(error) if isinstance(error, OSError) else fault(error)
            if transaction.kept is not None:
                transaction.kept.drop()

    def end_of_message(self, queue_id: str) -> Answer:
        """The whole message is there: what to answer, and what to change in it. The transaction is over."""
        started = time.monotonic()
        transaction = self._transaction
        try:
            if transaction is None or not transaction.ours:
                return GO_ON
            try:
                return self._judged(transaction, queue_id, started)
            except Exception as error:  # noqa: BLE001
                return self._deferred(transaction, fault(error), queue_id, started)
        finally:
            self._transaction, self._ending = None, transaction
            self._over(transaction, under_way=False)

    def answered(self) -> None:
        """The MTA has been told the answer to the end of the message: only now nothing of it is under way."""
        ending, self._ending = self._ending, None
        if ending is not None and ending.ours:
            self._shared.under_way.end()

    def _judged(self, transaction: _Transaction, queue_id: str, started: float) -> Answer:
        kept, lease = transaction.kept, transaction.lease
        if transaction.fault is not None or kept is None or lease is None:
            fault = transaction.fault or rule_decision("defer", "internal-error", detail="nothing was kept")
            return self._deferred(transaction, fault, queue_id, started)
        if not kept.in_file:
            return self._ended(transaction, lease, kept, queue_id, started)
        with self._shared.room.taken(kept.size, _PATIENCE) as got:
            if not got:
                busy = rule_decision("defer", "deadline", detail=f"{kept.size} bytes waited {_PATIENCE:g} s for room")
                return self._deferred(transaction, busy, queue_id, started)
            return self._ended(transaction, lease, kept, queue_id, started)

    def _ended(self, transaction: _Transaction, lease: Lease[Dialogue], kept: Kept, queue_id: str, started: float) -> Answer:
        try:
            raw = kept.read()
        except OSError as error:
            return self._deferred(transaction, _disk(error), queue_id, started)
        ending = lease.engine.end(
            Arrived(
                sender=transaction.sender, client_address=self._client_address, client_name=self._client_name,
                helo=self._helo, queue_id=queue_id, host=self._host, recipients=tuple(transaction.ours),
                others=transaction.others, raw=raw,
            )
        )  # fmt: skip
        for to, decision, id_ in ending.lines:
            self._log("end", queue_id, decision, to=to, id=id_, bytes=len(raw), ms=_since(started))
        if ending.action in ("reject", "defer"):
            return Answer(reply=reply_for(ending.decision))
        paths = tuple(path for to in ending.delete for path in transaction.ours.get(to, ()))
        return Answer(discard=ending.action == "discard", insert=ending.insert, remove=ending.remove, delete=paths)

    def _deferred(self, transaction: _Transaction, fault: Decision, queue_id: str, started: float) -> Answer:
        for to in transaction.ours:
            self._log("end", queue_id, fault, to=self._masked(to), ms=_since(started))
        return Answer(reply=reply_for(fault))

    def abort(self) -> None:
        """RSET, a new MAIL, a lost connection: the transaction, if there is one, never was."""
        self.answered()
        transaction, self._transaction = self._transaction, None
        self._over(transaction, under_way=True)

    def _over(self, transaction: _Transaction | None, *, under_way: bool) -> None:
        """Lets go of what a transaction held."""
        if transaction is None:
            return
        if transaction.kept is not None:
            transaction.kept.drop()
        if transaction.ours and under_way:
            self._shared.under_way.end()
        if transaction.lease is not None:
            transaction.lease.give_back()

    # -- the log

    def _masked(self, to: str) -> str:
        try:
            return masked(to, self._settings)
        except Exception:  # noqa: BLE001  # a log line must not cost a message
            return ""

    @property
    def _settings(self) -> Settings:
        lease = self._transaction.lease if self._transaction is not None else None
        return lease.settings if lease is not None else self._shared.current.settings

    def _log(self, stage: str, queue_id: str, decision: Decision, **fields: str | int) -> None:
        """Our line: the pipe's words, and which door and stage it was."""
        line = log.line(
            queue_id or _NO_QUEUE_ID, action=decision.action, rule=decision.rule, route=decision.route, door=DOOR, stage=stage,
            **fields, detail=decision.detail,
        )  # fmt: skip
        log.write(line, log.destination(self._settings), error=decision.action == "defer")


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _disk(error: OSError) -> Decision:
    return rule_decision("defer", "store-unavailable", detail=f"the message could not be kept: {error.strerror or error}")
