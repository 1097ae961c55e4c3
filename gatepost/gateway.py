"""The one path behind the queue: decide, take the lease, hand over, record.

Promises: a message is acknowledged (accept, discard, park) only after the sink, or the disk, has it; what was judged when a
message was first seen stays judged; a second run of the same message touches no sink while the first has the lease, and
succeeds at once when it is done. Our own faults leave here as a deferral.
Never: spools; retries by itself (Postfix's queue does); chooses (policy does).
"""

from __future__ import annotations

import time

from gatepost import consequences, log, policy
from gatepost.decision import Decision, Envelope, rule_decision
from gatepost.digest import same, sha256
from gatepost.errors import GatepostError, ParkedFullError, StoreError
from gatepost.facts import counters, facts_for, question
from gatepost.frozen import freeze, thaw
from gatepost.mail.message import PROBE, STAMP, parse
from gatepost.mail.recipient import recipient
from gatepost.masking import masked, without_key
from gatepost.queue_id import arrival, is_long
from gatepost.screening.passage import passage
from gatepost.sinks import deliver
from gatepost.sinks.delivery import Delivery
from gatepost.stores.ledger import Claim, Ledger
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    from gatepost.ask import Answer, Question
    from gatepost.mail.authentication_results import AuthenticationResults
    from gatepost.mail.message import Message
    from gatepost.settings import Settings
    from gatepost.sinks.delivery import Outcome
    from gatepost.stamp import Stamp
    from gatepost.stores.limits import Counter
    from gatepost.stores.parked import Parked
    from gatepost.stores.pool import Ledgers

    Result = TypeVar("Result")

__all__ = ["KEEP_ROWS", "Gateway", "Receipt", "delivery_id", "first_seen"]

#: Rows live twice as long as a queue entry may (Postfix's maximal_queue_lifetime is 5 days).
KEEP_ROWS: Final = 10 * 86_400.0
#: Old rows deleted with each message, so that a host without `gatepost prune` still does not grow.
_PRUNE_A_RUN: Final = 3
#: No message is in a queue for longer; a time before that comes from a clock that was wrong (1970, at a boot).
_BELIEVED: Final = 30 * 86_400.0
#: Bytes of a head that is parked without its body. A message without a blank line is all head.
_HEAD_KEPT: Final = 65_536
#: Parked mail past its age that is deleted when something is parked; `gatepost prune` does the rest.
_PRUNE_PARKED: Final = 3


class Receipt(Value):
    """What became of one message for one recipient. `sink`: which has it. `already`: an earlier run had done it.

    `to`: the recipient as a log may show it, without the whole of its key.
    """

    decision: Decision
    to: str = ""
    id: str = ""
    sink: str = ""
    attempt: int = 0
    already: bool = False


def delivery_id(host_id: str, envelope: Envelope, message: Message, token: str = "") -> str:
    """SHA-256, in hex, over host id, long queue ID and final recipient, NUL between: the same on every rung and retry.

    `token`: of the milter's stamp, where it holds; it stands for the queue ID then, and outlives it (`postsuper -r`). A short
    queue ID comes again with another message, so the Received field that Postfix wrote with it goes in as well.
    """
    to = recipient(envelope.recipient).final_form
    if token:
        return _hashed(["gatepost delivery 2", host_id, token, to])
    parts = ["gatepost delivery 1", host_id, envelope.queue_id, to]
    if not is_long(envelope.queue_id):
        written = message.headers.first("received")
        parts.append(written.value.decode("latin-1") if written is not None else "")
    return _hashed(parts)


def _hashed(parts: list[str]) -> str:
    return sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hex()


def first_seen(envelope: Envelope, claimed: float, now: float) -> float:
    """When we, or Postfix, first had the message (Unix seconds); what a clock that was far off wrote down is not believed."""
    known = [stamp for stamp in (claimed, arrival(envelope.queue_id)) if stamp is not None and 0 <= now - stamp < _BELIEVED]
    return min(known, default=now)


class _OneLedger:
    """The ledger of a process of one thread: opened when it is first asked for, and kept. Used as `Ledgers` is."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._opened: Ledger | None = None

    def ledger(self) -> _OneLedger:
        return self

    def write(self, work: Callable[[Ledger], Result]) -> Result:
        with self as ledger:
            return work(ledger)

    def __enter__(self) -> Ledger:
        if self._opened is None:
            self._opened = Ledger.open(self._folder)
        return self._opened

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _ask(question: Question, *, deadline: float, now: Callable[[], float]) -> Answer:
    from gatepost.ask import ask  # most routes ask nobody

    return ask(question, deadline=deadline, now=now)


class Gateway:
    """A configuration with its stores open. `now` gives Unix seconds; a test may pass its own.

    With `ledgers` it may be used by many threads at once, else by one. `deliver`: how a sink gets a message, `ask`: how the
    app is asked for a key (`GuardedSinks.deliver` and `GuardedAsk.ask` where the process stays).
    """

    def __init__(
        self, settings: Settings, *, now: Callable[[], float] = time.time, ledgers: Ledgers | None = None,
        deliver: Callable[..., Outcome] = deliver, ask: Callable[..., Answer] = _ask,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.now = now
        self._hand = deliver
        self._ask = ask
        self._ledgers = ledgers or _OneLedger(settings.store)
        self._stays = ledgers is not None

    def close(self) -> None:
        """Lets go of the ledger. For processes that live on; the pipe script ends by os._exit, which costs no sync."""
        self._ledgers.close()

    def _parked(self) -> Parked:
        from gatepost.stores.parked import Parked  # most messages are not parked

        return Parked.open(self.settings, now=self.now)

    def receive(
        self, envelope: Envelope, raw: bytes, *, deadline: float, still_whole: Callable[[], None] = lambda: None
    ) -> Receipt:
        """Everything that happens to one message for one recipient.

        `raw`: canonical bytes (CRLF). `deadline`: time.monotonic() seconds. `still_whole` raises a GatepostError where the
        message turns out to be cut off; it is asked before the lease and before the sink. Raises what nobody foresaw; the
        door defers then.
        """
        try:
            receipt = self._receive(envelope, raw, deadline, still_whole)
        except GatepostError as error:
            receipt = Receipt(decision=rule_decision("defer", error.rule, detail=str(error)))
        return receipt.replace(to=masked(envelope.recipient, self.settings))

    def _receive(self, envelope: Envelope, raw: bytes, deadline: float, still_whole: Callable[[], None]) -> Receipt:
        settings, started = self.settings, self.now()
        message = parse(raw, settings.parser)
        with self._ledgers.ledger() as ledger:
            seen = self._stamp(ledger, envelope, message)
            probe = self._is_probe(ledger, envelope, message)
            host_id = ledger.host_id
        id_ = delivery_id(host_id, envelope, message, seen.token if seen is not None else "")
        facts = facts_for(envelope, settings, started).replace(probe=probe)
        if seen is not None:
            # What DNS left open stays open: nobody asks again, so a deferral would end in nothing but give_up_after.
            known = seen.sender.replace(temporary=False) if seen.sender is not None else None
            facts = facts.replace(sender=known, direct=known is not None)
        elif settings.milter is not None:
            facts = facts.replace(unseen=True)
        facts, said = self._ask_the_app(envelope, message, facts, id_, deadline)
        verdict = policy.decide(envelope, message, settings, facts, traced=False)
        if verdict.rule == "ask-unavailable":
            verdict = verdict.replace(detail=said)
        still_whole()
        claim = self._claim(id_, envelope, verdict, started, counters(envelope, message, settings, verdict))
        if claim.state in ("limited", "waiting"):
            if claim.state == "limited":
                verdict = consequences.over_limit(claim.limit, claim.until, verdict=verdict, now=started)
            waited = first_seen(envelope, claim.first_seen, started)
            verdict = consequences.waiting(verdict, first_seen=waited, settings=settings, now=started)
            if verdict.action == "defer":
                return Receipt(decision=verdict, id=id_, attempt=claim.attempts)
            claim = self._claim(id_, envelope, verdict, started, ())  # given up: asks no limit, counts in none
        if claim.state == "busy":
            busy = rule_decision("defer", "in-flight", route=verdict.route)
            return Receipt(decision=busy, id=id_, attempt=claim.attempts)
        if claim.state == "done":
            return Receipt(decision=_thaw(claim.outcome).replace(detail=""), id=id_, attempt=claim.attempts, already=True)
        if claim.judgement != freeze(verdict):  # an earlier run's, or the milter's: judged once
            verdict = _thaw(claim.judgement)
        return self._carry_out(_Job(id_, claim, envelope, message, verdict, seen), deadline, still_whole)

    def _stamp(self, ledger: Ledger, envelope: Envelope, message: Message) -> Stamp | None:
        """What the milter saw of this message, where it has seen it; under another queue ID, only what it has recorded."""
        if self.settings.milter is None or message.headers.first(STAMP) is None:
            return None
        from gatepost import stamp

        found = stamp.read(ledger.hash_key, ledger.host_id, message, envelope, self.settings.milter.authserv_id)
        if found is None or not found.moved:
            return found
        record = ledger.recorded(found.token)
        young = record is not None and self.now() - record.at < self.settings.timing.queue_lifetime
        return found if record is not None and young and same(record.binding, found.binding) else None

    def _is_probe(self, ledger: Ledger, envelope: Envelope, message: Message) -> bool:
        if message.headers.first(PROBE) is None:
            return False
        from gatepost.probe import is_probe

        return is_probe(ledger, message, recipient(envelope.recipient).final_form)

    def _ask_the_app(
        self, envelope: Envelope, message: Message, facts: policy.Facts, id_: str, deadline: float
    ) -> tuple[policy.Facts, str]:  # fmt: skip
        """Asks whether the key is alive, where its route says so and no earlier run has judged the message.

        With what the log is to say of the answer.
        """
        key = policy.key_to_ask(envelope, message, self.settings, facts)
        if key is None:
            return facts, ""
        with self._ledgers.ledger() as ledger:
            row = ledger.look(id_)
        if row is not None and row.passed:
            return facts.replace(alive="yes"), ""  # the judgement that stands counts
        answer = self._ask(question(envelope, self.settings, key), deadline=deadline, now=self.now)
        return facts.replace(alive=answer.alive), answer.detail

    def _claim(
        self, id_: str, envelope: Envelope, verdict: Decision, started: float, counters: tuple[Counter, ...]
    ) -> Claim:  # fmt: skip
        judgement, to = freeze(verdict), recipient(envelope.recipient).final_form
        return self._ledgers.write(
            lambda ledger: ledger.claim(
                id_,
                now=started,
                lease=self.settings.timing.lease,
                judgement=judgement,
                queue_id=envelope.queue_id,
                sender=envelope.sender,
                recipient=to,
                counters=counters,
                waits=verdict.action == "defer",
            )
        )

    def _carry_out(self, job: _Job, deadline: float, still_whole: Callable[[], None]) -> Receipt:
        sink = ""
        if job.verdict.action == "accept":
            still_whole()
            sink, decision = self._hand_over(job, deadline)
        else:
            decision = job.verdict
        decision = consequences.behind_queue(decision, self.settings, job.envelope)
        if decision.action == "park":
            decision = self._park(job, decision)
        receipt = Receipt(decision=decision, id=job.id, sink=sink, attempt=job.claim.attempts)
        if decision.action == "defer":
            self._release(job, decision)
            return receipt
        self._finish(job, decision)
        if decision.action == "accept":
            self._best_effort(job, deadline)
        return receipt

    def _hand_over(self, job: _Job, deadline: float) -> tuple[str, Decision]:
        """The first sink's name, and the decision that its answer makes."""
        route = self.settings.route(job.verdict.route)
        if route is None:
            detail = f"route {job.verdict.route} is no longer configured"
            outcome_kind, detail, text, name = "misconfigured", detail, "", ""
        else:
            name = route.deliver[0]
            outcome = self._deliver(job, name, deadline)
            outcome_kind, detail, text = outcome.kind, outcome.detail, outcome.text
        decision = consequences.after_handover(
            outcome_kind,
            detail=without_key(detail, job.verdict.key),
            text=text,
            cannot_take=job.claim.cannot_take + (outcome_kind == "cannot-take"),
            first_seen=first_seen(job.envelope, job.claim.first_seen, self.now()),
            settings=self.settings,
            now=self.now(),
        )
        if decision.action == "accept":
            decision = rule_decision("accept", job.verdict.rule, detail=decision.detail)
        return name, decision.replace(route=job.verdict.route, key=job.verdict.key, thread=job.verdict.thread,
                                      findings=job.verdict.findings, sender=job.verdict.sender)  # fmt: skip

    def _deliver(self, job: _Job, sink: str, deadline: float) -> Outcome:
        hosts = passage(job.envelope, job.message, self.settings.trusted, self.settings.parser.received).hosts
        if self.settings.milter is not None:  # whose results need not stand under this host's own name
            hosts = (*hosts, self.settings.milter.authserv_id)
        delivery = Delivery(
            id=job.id,
            # Postfix's own time, where the queue ID has one: first_seen moves when a clock is set back, and no byte may change.
            received_at=int(arrival(job.envelope.queue_id) or job.claim.first_seen),
            attempt=job.claim.attempts,
            route=job.verdict.route,
            envelope=job.envelope,
            decision=job.verdict,
            message=job.message,
            own_hosts=hosts,
            sender_verified=job.verdict.sender.verified,
            sender_verified_by=job.verdict.sender.by,
            authentication=_results(job.seen),
        )
        return self._hand(self.settings.sink(sink), delivery, deadline=deadline, now=self.now)

    def _park(self, job: _Job, decision: Decision) -> Decision:
        """Puts the message aside; a refused head that finds no room is discarded, for a deferral would end as a bounce."""
        parked = self._parked()
        headers_only = consequences.keeps_headers_only(decision.rule)
        meta = {
            "rule": decision.rule,
            "reason": decision.detail,
            "route": job.verdict.route,
            "kind": consequences.parked_kind(decision.rule),
            "queue_id": job.envelope.queue_id,
            "sender": job.envelope.sender,
            "recipient": job.envelope.recipient,
            "first_seen": job.claim.first_seen,
            "envelope": dict(job.envelope.__dict__),
            "judgement": freeze(job.verdict),
        }
        raw = job.message.raw[: min(job.message.headers.body_start, _HEAD_KEPT)] if headers_only else job.message.raw
        try:
            parked.park(job.id, raw=raw, headers_only=headers_only, meta=meta)
            parked.prune(self.now(), _PRUNE_PARKED)
        except ParkedFullError as error:
            if not headers_only:
                raise
            return decision.replace(action="discard", detail=f"{decision.detail}; not parked: {error}")
        finally:
            self._let_go(parked)
        return decision

    def _let_go(self, parked: Parked) -> None:
        """In a process that stays: sqlite3 keeps what nobody closes, and its descriptors, until the garbage is collected."""
        try:
            if self._stays:
                parked.close()
        except StoreError:
            pass  # what was parked is on the disk

    def _release(self, job: _Job, decision: Decision) -> None:
        """Ends the lease of a message that stays in Postfix's queue."""
        cannot_take = decision.rule == "app-cannot-take"
        self._ledgers.write(lambda ledger: ledger.release(job.id, job.claim.fence, cannot_take=cannot_take))

    def _finish(self, job: _Job, decision: Decision) -> None:
        """Records the end. What the sink or the disk has is acknowledged even where the record fails: a deferral now would

        make Postfix bring it again, and the app get it twice.
        """
        outcome, now = freeze(_kept(decision)), self.now()
        try:
            self._ledgers.write(
                lambda ledger: ledger.finish(
                    job.id, job.claim.fence, outcome=outcome, now=now, prune=_PRUNE_A_RUN, keep=KEEP_ROWS
                )
            )
        except StoreError as error:
            if decision.action == "reject":
                raise
            self._log(job, rule=error.rule, detail=f"has it, but the ledger could not be told: {error}")

    def _best_effort(self, job: _Job, deadline: float) -> None:
        """The route's other sinks: one try each; what they do not take is logged and lost to them."""
        route = self.settings.route(job.verdict.route)
        for name in route.deliver[1:] if route is not None else ():
            outcome = self._deliver(job, name, deadline)
            if outcome.kind != "delivered":
                self._log(job, sink=name, outcome=outcome.kind, detail=outcome.detail)

    def _log(self, job: _Job, **fields: str) -> None:
        log.write(log.line(job.envelope.queue_id, id=job.id, **fields), log.destination(self.settings), error=True)

    def release(self, id_: str, *, route: str = "", deadline: float) -> Receipt:
        """Hands a parked message to its route's first sink (or to `route`'s), under its id, without deciding again.

        The copy is dropped only once the sink has it. Raises StoreError where there is no such entry or only its head was kept.
        """
        parked = self._parked()
        with parked.lock(id_):
            entry, raw = parked.load(id_)
            if entry.headers_only:
                raise StoreError(f"only the head was kept (rule {entry.rule}): it cannot be released")
            meta = entry.meta
            verdict = _thaw(meta["judgement"]).replace(action="accept", rule="accepted")
            verdict = verdict.replace(route=route or verdict.route)
            claim = Claim(state="claimed", attempts=2, first_seen=meta["first_seen"])  # not the first: the sink looks closer
            envelope = Envelope(**meta["envelope"])
            message = parse(raw, self.settings.parser)
            with self._ledgers.ledger() as ledger:
                seen = self._stamp(ledger, envelope, message)
            job = _Job(id_, claim, envelope, message, verdict, seen)
            if self.settings.route(verdict.route) is None:
                raise StoreError(f"no route {verdict.route!r} is configured now: name one with --route")
            sink, decision = self._hand_over(job, deadline)
            if decision.action == "accept":
                parked.drop(id_)
            return Receipt(decision=decision, id=id_, sink=sink, attempt=1)


class _Job:
    """One claimed message on its way: what every step needs."""

    def __init__(
        self, id_: str, claim: Claim, envelope: Envelope, message: Message, verdict: Decision, seen: Stamp | None
    ) -> None:  # fmt: skip
        self.id, self.claim, self.envelope = id_, claim, envelope
        self.message, self.verdict, self.seen = message, verdict, seen


def _results(seen: Stamp | None) -> AuthenticationResults | None:
    """What the milter found of the sender, where it saw the message."""
    if seen is None:
        return None
    from gatepost.mail.authentication_results import authentication_results

    return authentication_results(seen.results)


def _kept(decision: Decision) -> Decision:
    """What the ledger keeps of a message that is done: enough to give the same answer again, no key, nothing a sender wrote."""
    return decision.replace(key=None, thread=None, findings=(), detail="")


def _thaw(text: str) -> Decision:
    """A decision out of the ledger; StoreError where it holds something else."""
    try:
        return thaw(text)
    except ValueError as error:
        raise StoreError(f"the ledger holds no decision: {error}") from error
