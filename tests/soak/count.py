"""The balance: where every message is, and whether it may be there.

Promises: what was sent equals what was handed over, is still queued, parked, discarded or refused by a rule that has a name,
and each message has the fate that its kind has, once. Pure: everything is an argument.
Never: calls a message accounted for that nobody has.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from gatepost.consequences import keeps_headers_only
from gatepost.decision import RULES
from tests.installation import DOMAIN
from tests.soak.evidence import Evidence, Take, by_id
from tests.soak.senders import Copy

__all__ = ["Balance", "balance"]

#: Seconds by which a kill may be written down after it was done.
_APART: Final = 1.0
#: Seconds that a run may go on after the app has answered: the longest deadline of the soak, and a little.
_LONGEST_RUN: Final = 6.0
#: What the app says to the sender of what it refuses (tests/soak/app.py).
_APP_SAYS: Final = "This discussion is closed."

Place = tuple[str, str]


@dataclass
class Balance:
    """`fates`: of copies (a message for one recipient). `messages`: how many have all their copies where they belong.

    `lost` and `bounced` (by our fault) are in `faults`, too. `twice`: why deliveries were handed over again.
    """

    sent: int
    messages: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    bounced: int = 0
    twice: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def balance(copies: Iterable[Copy], evidence: Evidence, ended_at: list[float]) -> Balance:
    """`ended_at`: when (Unix seconds) a process that carries messages was killed."""
    copies = list(copies)
    places = _places(copies, evidence)
    all_, wrong = {copy.number for copy in copies}, set()
    made = Balance(len(all_))
    for copy in copies:
        found = places[copy.queue_id, copy.recipient]
        made.fates.update(fate for fate, _ in found)
        fault = _misplaced(copy, found)
        if fault:
            wrong.add(copy.number)
            made.faults.append(fault)
            made.lost += not found
            made.bounced += any(fate == "refused" for fate, _ in found)
    made.messages = len(all_ - wrong)
    made.faults += [*_not_right(copies, evidence), *_not_in_the_ledger(evidence)]
    for id_, takes in by_id(evidence.takes).items():
        why, faults = _taken_again(id_, takes, evidence, ended_at)
        made.twice.update(why)
        made.faults += faults
    return made


def _places(copies: list[Copy], evidence: Evidence) -> dict[tuple[str, str], set[Place]]:
    """Of each copy, by queue ID and recipient: who has it, and under which rule."""
    found: dict[tuple[str, str], set[Place]] = defaultdict(set)
    taken = {(take.message_id, take.recipient) for take in evidence.takes if take.took}
    for copy in copies:
        pair = (copy.queue_id, copy.recipient)
        if (copy.message_id, copy.recipient) in taken:
            found[pair].add(("handed over", ""))
        if not copy.queue_id:  # the client was told at RCPT
            found[pair].add(("refused", ""))
        for line in evidence.lines_of(evidence.id(*pair)):
            if line.fields.get("action") in ("discard", "reject"):
                fate = "discarded" if line.fields["action"] == "discard" else "refused"
                found[pair].add((fate, line.fields["rule"]))
    for pair, rule in evidence.parked.items():
        found[pair].add(("parked", rule))
    for each in evidence.deliveries:
        pair = (each.queue_id, each.recipient.lower())
        if each.status == "sent" and (done := re.search(r"\b(discarded|parked) rule=([\w-]+)", each.text)):
            # A refused key's head that is parked no more was dropped since, to make room: docs/store.md.
            if done[1] == "discarded" or (keeps_headers_only(done[2]) and not found[pair]):
                found[pair].add(("discarded", done[2]))
        elif each.status not in ("sent", "deferred") and not any(fate == "refused" for fate, _ in found[pair]):
            found[pair].add(("refused", _rule_in(each.text)))
    for pair in evidence.queued:
        if not found[pair]:  # else Postfix has not heard yet that it is done with
            found[pair].add(("still queued", ""))
    return found


def _rule_in(text: str) -> str:
    """The rule whose public text stands in what Postfix logged, where our own line is missing; else that text."""
    if _APP_SAYS in text:
        return "app-refused"
    return next((name for name, rule in RULES.items() if f"{rule.status} {rule.text}" in text), text[:150])


def _misplaced(copy: Copy, found: set[Place]) -> str:
    """What is wrong with where a copy is; mostly nothing."""
    name = f"number {copy.number} ({copy.kind.name}) to {copy.recipient}, {copy.queue_id}"
    if not found:
        return f"lost: {name}"
    if len(found) > 1:
        return f"in {len(found)} places: {name}: {sorted(found)}"
    ((fate, rule),) = found
    right = fate == copy.fate or (fate == "discarded" and copy.fate == "parked" and keeps_headers_only(rule))  # no room for it
    if fate == "still queued" or (right and (not rule or rule in copy.kind.rules or _same_reply(rule, copy))):
        return ""
    return f"{fate} ({rule}) and not {copy.fate}: {name}"


def _same_reply(rule: str, copy: Copy) -> bool:
    """Rules that say the same to the world cannot be told apart in Postfix's log."""
    return rule in RULES and any(RULES[rule].text == RULES[each].text for each in copy.kind.rules)


def _not_right(copies: list[Copy], evidence: Evidence) -> list[str]:
    """What came and was not whole or not signed; notices to who should get none, or to nobody; what Postfix gave up."""
    faults = [f"not whole: {take.message_id} to {take.recipient}" for take in evidence.takes if not take.whole]
    faults += [f"expired in the queue: {each}" for each in evidence.expired]
    faults += [f"{evidence.unsigned} requests whose signature was not good"] * bool(evidence.unsigned)
    refused = {copy.number for copy in copies if copy.fate == "refused"}
    faults += [f"a notice to the sender of number {number}" for number in evidence.notices if number not in refused]
    behind = {copy.number for copy in copies if copy.fate == "refused" and copy.queue_id and not evidence.queued}
    faults += [f"the sender of number {number} was not told" for number in sorted(behind - {*evidence.notices})]
    return faults


def _not_in_the_ledger(evidence: Evidence) -> list[str]:
    """What Postfix was told is done with must stand there as done, unless our log says why it could not be written down."""
    faults = []
    for each in evidence.deliveries:
        if each.status != "sent" or not each.recipient.lower().endswith(f"@{DOMAIN}"):
            continue
        id_ = evidence.id(each.queue_id, each.recipient.lower())
        state = evidence.rows.get(id_, "missing")
        if state != "done" and not _untold(id_, evidence):
            faults.append(f"acknowledged, and {state} in the ledger: {each.queue_id} to {each.recipient}: {each.text[:80]}")
    return faults


def _untold(id_: str, evidence: Evidence) -> bool:
    """Whether our log says that the app has it and the ledger could not be told: a deferral would have brought it twice."""
    return any("ledger could not be told" in line.fields.get("detail", "") for line in evidence.lines_of(id_))


def _taken_again(id_: str, takes: list[Take], evidence: Evidence, ended_at: list[float]) -> tuple[Counter[str], list[str]]:
    """Why the app has a delivery more than once, for each time; and what is wrong with that."""
    faults, why = [], Counter[str]()
    name = f"{id_[:16]} ({takes[0].message_id})"
    if len({take.octets for take in takes}) > 1:
        faults.append(f"asked with other bytes: {name}")
    taken = [take for take in takes if take.took]
    for take, after in pairwise(taken):
        if take.how not in ("ok", "slow") or not take.answered:
            why["the app was cut off"] += 1
        elif any(take.at - _APART <= at <= min(after.at, take.at + _LONGEST_RUN) for at in ended_at):
            why["we were killed before the ledger had it"] += 1
        elif _untold(id_, evidence):
            why["the ledger could not be told, and Postfix did not hear of it"] += 1
        else:
            faults.append(f"handed over twice, and nobody was killed: {name}")
    accepted = [line for line in evidence.lines_of(id_) if line.fields.get("action") == "accept" and "again" not in line.fields]
    if len(accepted) > 1 and not _untold(id_, evidence):
        faults.append(f"accepted {len(accepted)} times: {name}")
    return why, faults
