"""What becomes of a decision: one answer for all recipients, behind the queue, after a limit, a wait or a sink's answer.

Promises: pure and total. Behind the queue a refusal is a bounce, so it stays one only where it can hit nobody else; a deferral
ends as parked mail before Postfix would bounce it.
Never: looks at a message: `policy` has decided about that.
"""

from __future__ import annotations

from gatepost.decision import rule_decision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

    from gatepost.decision import Action, Decision, Envelope
    from gatepost.settings import Settings

__all__ = [
    "after_handover",
    "behind_queue",
    "keeps_headers_only",
    "over_limit",
    "parked_kind",
    "together",
    "waiting",
]

#: Machines get no answer, whatever after_queue says (RFC 3834 2; a bounce to a bounce is a loop).
_NEVER_ANSWERED: Final = ("loop", "bounce", "automatic", "null-sender")
#: A refused key says little about its message, and a guesser must not fill the disk.
_HEADERS_ONLY: Final = ("key-unknown", "key-forged", "key-expired", "key-revoked")


def behind_queue(decision: Decision, settings: Settings, envelope: Envelope) -> Decision:
    """What a refusal becomes behind the queue, where it would be a bounce (design: "Refuse early, or refuse nobody").

    Only a reject changes: to a discard for what a machine sent; otherwise as `after_queue` says, where bounce-verified stays a
    reject only if SPF passed for the MAIL FROM domain itself and MAIL FROM is not null.
    """
    if decision.action != "reject":
        return decision
    machine = decision.rule in _NEVER_ANSWERED
    how = settings.after_queue
    if how == "bounce-verified":
        how = "bounce" if decision.sender.mail_from_verified else "discard" if machine else "park"
    if how != "bounce":
        return decision.replace(action=how)
    if machine:
        return decision.replace(action="discard")
    # RFC 5321 4.5.5: nothing can be sent to the null reverse-path.
    return decision if envelope.sender not in ("", "<>") else decision.replace(action="park")


def together(decisions: tuple[Decision, ...], *, others: bool) -> Action:
    """What the one answer at the end of a message says, for all its recipients (RFC 5321 4.2.5: it is one for all).

    `others`: Postfix has accepted recipients that are not ours. reject and discard only where that is every recipient's
    decision; defer where nobody's is to have the message and somebody's must be asked again. Otherwise accept: each goes its
    own way behind the queue, and who discards is deleted from the envelope.
    """
    actions = {decision.action for decision in decisions}
    if others or not actions or not actions.isdisjoint(("accept", "park")):
        return "accept"
    if "defer" in actions:
        return "defer"
    return "accept" if len(actions) > 1 else next(iter(actions))


def keeps_headers_only(rule: str) -> bool:
    """Is a message parked under this rule parked without its body?"""
    return rule in _HEADERS_ONLY


def parked_kind(rule: str) -> Literal["refused", "screened", "kept"]:
    """Which parked mail is dropped first at the cap: what was refused, then what was screened out; the rest is kept.

    What was accepted and could not be handed over, and mail for postmaster@ or abuse@, is never dropped by itself.
    """
    if rule in _HEADERS_ONLY or rule in ("no-route", "app-refused"):
        return "refused"
    return "kept" if rule in ("gave-up", "app-cannot-take", "role-address") else "screened"


#: How often a sink may say that it cannot take a message before the message is parked for a person.
CANNOT_TAKE_TRIES: Final = 3


def over_limit(limit: str, until: float, *, verdict: Decision, now: float) -> Decision:
    """The decision on an accepted message for which a limit has no room.

    `limit`: which one is full, as the configuration writes it; `until`: when it has room (Unix seconds).
    """
    made = rule_decision("defer", "limit", detail=f"{limit}, room in {max(0, until - now):.0f}s", route=verdict.route)
    return made.replace(
        key=verdict.key, thread=verdict.thread, findings=verdict.findings, sender=verdict.sender, trace=verdict.trace
    )


def waiting(verdict: Decision, *, first_seen: float, settings: Settings, now: float) -> Decision:
    """What becomes of a deferral behind the queue: the message stays there, or is parked before Postfix would bounce it."""
    if verdict.action == "defer" and now - first_seen > settings.timing.give_up_after:
        gave_up = rule_decision("park", "gave-up", detail=f"{verdict.rule}: {verdict.detail}", route=verdict.route)
        return verdict.replace(action="park", rule="gave-up", status=gave_up.status, text=gave_up.text, detail=gave_up.detail)
    return verdict


def after_handover(kind: str, *, detail: str, text: str, cannot_take: int, first_seen: float, settings: Settings,
                   now: float) -> Decision:  # fmt: skip
    """The decision that a sink's answer makes of an accepted message.

    `cannot_take`: how often a sink has said so, this time included. `first_seen` and `now`: Unix seconds.
    """
    if kind == "delivered":
        return rule_decision("accept", "accepted", detail=detail)
    if kind == "refused":
        refusal = rule_decision("reject", "app-refused", detail=detail)
        return refusal.replace(text=text or refusal.text)
    if kind == "cannot-take" and cannot_take >= CANNOT_TAKE_TRIES:
        return rule_decision("park", "app-cannot-take", detail=detail)
    if now - first_seen > settings.timing.give_up_after:
        return rule_decision("park", "gave-up", detail=detail)
    rules = {"cannot-take": "app-cannot-take", "misconfigured": "app-misconfigured"}
    return rule_decision("defer", rules.get(kind, "app-unavailable"), detail=detail)
