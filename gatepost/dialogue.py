"""The one path before the queue: what a message's recipients are told while its client is still connected.

Promises: the same rules as behind the queue (policy), each recipient for itself; at RCPT nothing is written and no limit is
counted; at the end of a message each recipient is judged and counted once, and what was judged is in the store before the
answer is given, under a token that only the stamp in the message names. Nothing of one recipient stands in the message. Every
fault of ours is a deferral: nothing leaves here as an exception.
Never: hands over, parks or answers a message: it goes on through Postfix's queue to the door behind it.
"""

from __future__ import annotations

import os
import time

from gatepost import consequences, policy, stamp
from gatepost.ask import DEADLINE as ASK_DEADLINE
from gatepost.asker import Asker, GuardedAsk
from gatepost.decision import Envelope, Sender, rule_decision
from gatepost.facts import counters, facts_for, question
from gatepost.fault import fault
from gatepost.frozen import freeze
from gatepost.gateway import delivery_id
from gatepost.mail.canonical import crlf
from gatepost.mail.message import PROBE, parse
from gatepost.mail.recipient import recipient
from gatepost.masking import masked
from gatepost.own_results import FORGED_LIMIT, forged
from gatepost.probe import is_probe
from gatepost.stores.ledger import Judged
from gatepost.stores.limits import counters_for
from gatepost.stores.pool import Ledgers
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.authentication import Authenticator
    from gatepost.decision import Action, Decision
    from gatepost.mail.message import Message
    from gatepost.settings import MilterSettings, ParserLimits, Settings
    from gatepost.sinks.guard import Note
    from gatepost.stores.ledger import Ledger, Limited

__all__ = ["Arrived", "Dialogue", "Ending", "authenticator_for"]

#: Octets of a token: what names a message for as long as it is in the queue, and what nobody can guess.
_TOKEN: Final = 16
#: Seconds for all questions at the end of a message together. Postfix waits for that answer, and what is still open the door
#: behind the queue asks again.
_ASKING: Final = 30.0


class Arrived(Value):
    """A message at its end, as the MTA gave it. `raw`: without the MTA's own Received field, line ends as they came.

    `recipients`: those that `recipient` called ours; `others`: has Postfix accepted more? `host`: our name for SPF and the
    synthetic Received field; `client_name`: as the MTA has verified it, "unknown" where it could not.
    """

    sender: str
    client_address: str
    client_name: str
    helo: str
    queue_id: str
    host: str
    recipients: tuple[str, ...]
    others: bool
    raw: bytes


class Ending(Value):
    """The one answer at the end of a message, and what is changed in it where it goes on.

    `decision`: whose status and text the answer has. `delete`: recipients that discard, as they came. `insert`: fields for the
    top, name and value, the first uppermost. `remove`: forged fields, by name and number among those of the name, in the order
    in which to remove them. `lines`: for the log: the recipient without its key, what was decided, the delivery id.
    """

    action: Action
    decision: Decision
    delete: tuple[str, ...] = ()
    insert: tuple[tuple[str, str], ...] = ()
    remove: tuple[tuple[str, int], ...] = ()
    lines: tuple[tuple[str, Decision, str], ...] = ()


class _Judgement(Value):
    """One recipient at the end of the message."""

    to: str
    envelope: Envelope
    decision: Decision


class Dialogue:
    """A configuration with its stores open, for many threads. `now` gives Unix seconds; a test may pass its own."""

    def __init__(
        self, settings: Settings, *, now: Callable[[], float] = time.time, authenticator: Authenticator | None = None,
        note: Note = lambda *_: None,
    ) -> None:  # fmt: skip
        """`note` is told when an app that is asked for keys is left alone. ValueError where there is no `milter:`."""
        if settings.milter is None:
            raise ValueError("the configuration has no milter:")
        self.settings = settings
        self.milter: MilterSettings = settings.milter
        self.now = now
        self._authenticator = authenticator or authenticator_for(settings.milter, settings.parser)
        self._asker = Asker(GuardedAsk(settings, note=note), now=now)
        # Not synced: a power cut takes judgements back, and the door behind the queue makes them again.
        self._ledgers = Ledgers(settings.store, synced=False)

    def close(self) -> None:
        """Lets go of the store, and of what is shown of the apps."""
        self._ledgers.close()
        self._asker.close()

    def recipient(self, envelope: Envelope) -> Decision:
        """The answer at RCPT. Accept without a route: not ours, Postfix decides. Reads only; takes no limit's room."""
        try:
            return self._recipient(envelope)
        except Exception as error:  # noqa: BLE001 - our own fault defers
            return fault(error)

    def end(self, arrived: Arrived) -> Ending:
        """The answer at the end of the message."""
        try:
            return self._end(arrived)
        except Exception as error:  # noqa: BLE001 - our own fault defers
            return self._all(arrived, fault(error))

    def _recipient(self, envelope: Envelope) -> Decision:
        settings, started = self.settings, self.now()
        facts = facts_for(envelope, settings, started)
        decision = policy.at_recipient(envelope, settings, facts, traced=False)
        if decision.rule in ("no-route", "role-address"):
            return rule_decision("accept", "accepted", detail=decision.detail)
        until = time.monotonic() + ASK_DEADLINE
        decision = self._ask_the_app(decision, envelope, parse(b"", settings.parser), facts, until)
        # The store is asked for a dead key as for a live one: no guess tells them apart by what the answer took.
        counted = counters_for(
            settings.limits, key=decision.key.raw if decision.key is not None else "", route=decision.route, sender="",
            sender_verified="unknown", client_address="",
        )  # fmt: skip
        with self._ledgers.ledger() as ledger:
            full = ledger.room(counted, now=started, lease=settings.timing.lease)
        if full is not None and decision.action == "accept":
            until, limit = full
            return consequences.over_limit(limit, until, verdict=decision, now=started)
        return decision

    def _ask_the_app(
        self, decision: Decision, envelope: Envelope, message: Message, facts: policy.Facts, until: float
    ) -> Decision:  # fmt: skip
        """The decision once the app has been asked whether the key is alive; the same where it need not be asked."""
        key = policy.key_to_ask(envelope, message, self.settings, facts)
        if key is None:
            return decision
        asked = question(envelope, self.settings, key)
        answer = self._asker.alive(asked, deadline=until)
        facts = facts.replace(alive=answer.alive)
        if not message.raw:
            decided = policy.at_recipient(envelope, self.settings, facts, traced=False)
        else:
            decided = policy.decide(envelope, message, self.settings, facts, traced=False)
        return decided.replace(detail=answer.detail) if decided.rule == "ask-unavailable" else decided

    def _end(self, arrived: Arrived) -> Ending:
        raw = crlf(arrived.raw)
        claims = forged(raw, self.milter.authserv_id)
        if len(claims) > FORGED_LIMIT:
            refused = rule_decision("reject", "forged-results", detail=f"more than {FORGED_LIMIT} fields claim to be ours")
            return self._all(arrived, refused)
        sender, results = self._authenticate(arrived, raw)
        message = parse(_received(arrived) + raw, self.settings.parser)
        until = time.monotonic() + _ASKING
        probed = self._probed(message, arrived.recipients)
        judged = [self._judge(to, arrived, message, sender, until, probe=to in probed) for to in _once(arrived.recipients)]
        action = consequences.together(tuple(each.decision for each in judged), others=arrived.others)
        if action != "accept":
            return self._answered(action, judged)
        token = os.urandom(_TOKEN).hex()
        content = stamp.content_hash(message)
        recorded = [
            (each, freeze(each.decision), counters(each.envelope, message, self.settings, each.decision))
            for each in judged
            if each.decision.action in ("accept", "reject", "park")
        ]

        def record(ledger: Ledger) -> tuple[str, dict[str, str], tuple[Limited, ...]]:
            value, binding = stamp.write(
                ledger.hash_key, ledger.host_id, token=token, queue_id=arrived.queue_id, mail_from=arrived.sender,
                client_address=arrived.client_address, sender=sender, results=results, content=content,
            )  # fmt: skip
            ids = {each.to: delivery_id(ledger.host_id, each.envelope, message, token) for each in judged}
            limited = ledger.judge(
                tuple(
                    Judged(
                        id=ids[each.to],
                        recipient=recipient(each.to).final_form,
                        judgement=judgement,
                        counters=counted,
                        wanted=each.decision.action != "reject",
                    )
                    for each, judgement, counted in recorded
                ),
                token=token, queue_id=arrived.queue_id, sender=arrived.sender, binding=binding, now=self.now(),
                lease=self.settings.timing.lease, keep_token=arrived.others,
            )  # fmt: skip
            return value, ids, limited

        value, ids, limited = self._ledgers.write(record)
        full = {each.id: each for each in limited}
        judged = [self._limited(each, full.get(ids[each.to])) for each in judged]
        action = consequences.together(tuple(each.decision for each in judged), others=arrived.others)
        if action != "accept":
            return self._answered(action, judged)
        gone = [each for each in judged if each.decision.action == "discard"]
        forms = {_form(each.to) for each in gone}
        return Ending(
            action="accept",
            decision=rule_decision("accept", "accepted"),
            delete=tuple(to for to in arrived.recipients if _form(to) in forms),
            insert=((stamp.FIELD, value), (stamp.RESULTS, results)),
            remove=claims,
            lines=tuple((masked(each.to, self.settings), each.decision, ids[each.to]) for each in gone),
        )

    def _authenticate(self, arrived: Arrived, raw: bytes) -> tuple[Sender | None, str]:
        """Who the sender is, None where the client is one of the trusted hosts, and the value of the results field.

        Such a client brings others' mail: its own results count, and SPF would only name it.
        """
        if arrived.client_name.lower().removesuffix(".") in self.settings.trusted:
            return None, f"{self.milter.authserv_id}; none"
        if self._authenticator is None:  # nobody asked, and nobody whom we trust has had the message: not even if it says so
            return Sender(), f"{self.milter.authserv_id}; none"
        from gatepost.authentication import Mail, results_value

        mail = Mail(
            client_address=arrived.client_address, helo=arrived.helo, mail_from=arrived.sender, raw=raw, host=arrived.host
        )  # fmt: skip
        checked = self._authenticator.check(mail, deadline=time.monotonic() + self.milter.dns_deadline)
        return checked.sender, results_value(checked, self.milter.authserv_id)

    def _probed(self, message: Message, recipients: tuple[str, ...]) -> frozenset[str]:
        """The recipients for whom the message is the doctor's probe: of mail nobody."""
        if message.headers.first(PROBE) is None:
            return frozenset()
        with self._ledgers.ledger() as ledger:
            return frozenset(to for to in recipients if is_probe(ledger, message, _form(to)))

    def _judge(
        self, to: str, arrived: Arrived, message: Message, sender: Sender | None, until: float, *, probe: bool
    ) -> _Judgement:  # fmt: skip
        envelope = Envelope(
            sender=arrived.sender, recipient=to, queue_id=arrived.queue_id, client_address=arrived.client_address,
            helo=arrived.helo,
        )  # fmt: skip
        facts = facts_for(envelope, self.settings, self.now()).replace(sender=sender, direct=sender is not None, probe=probe)
        decision = policy.decide(envelope, message, self.settings, facts, traced=False)
        decision = self._ask_the_app(decision, envelope, message, facts, until)
        return _Judgement(to=to, envelope=envelope, decision=decision)

    def _limited(self, judged: _Judgement, full: Limited | None) -> _Judgement:
        if full is None:
            return judged
        decision = consequences.over_limit(full.limit, full.until, verdict=judged.decision, now=self.now())
        return judged.replace(decision=decision)

    def _answered(self, action: Action, judged: list[_Judgement]) -> Ending:
        """One answer for all: that of the first recipient who has it."""
        first = next(each.decision for each in judged if each.decision.action == action)
        lines = tuple((masked(each.to, self.settings), each.decision, "") for each in judged)
        return Ending(action=action, decision=first, lines=lines)

    def _all(self, arrived: Arrived, decision: Decision) -> Ending:
        lines = tuple((masked(to, self.settings), decision, "") for to in _once(arrived.recipients))
        return Ending(action=decision.action, decision=decision, lines=lines)


def authenticator_for(milter: MilterSettings, limits: ParserLimits) -> Authenticator | None:
    """What checks senders as the configuration says, None where nothing is checked. ImportError without the extra.

    `limits`: those of the rules, or the two would read two senders out of one From.
    """
    if not milter.authenticate:
        return None
    from gatepost.authentication import Authenticator, Resolver

    return Authenticator(Resolver(milter.dns), methods=milter.authenticate, authserv_id=milter.authserv_id, limits=limits)


def _received(arrived: Arrived) -> bytes:
    """The field that Postfix will put on top (RFC 5321 4.4), as far as a rule reads it: the message as it will be."""
    helo = "".join(char if char.isalnum() or char in "-._:[]" else "?" for char in arrived.helo)  # or it could say `by`
    text = f"Received: from {helo or 'unknown'} ({arrived.client_name} [{arrived.client_address}])\r\n"
    text += f"\tby {arrived.host} (Postfix) with ESMTP id {arrived.queue_id};\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"
    return text.encode("utf-8", "surrogateescape")


def _once(recipients: tuple[str, ...]) -> tuple[str, ...]:
    """The recipients, each once, however it is written."""
    return tuple({_form(to): to for to in reversed(recipients)}.values())[::-1]


def _form(to: str) -> str:
    return recipient(to).final_form
