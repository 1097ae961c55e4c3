"""The one place that chooses: what becomes of a message for one recipient.

Promises: an explicit ordered tuple of rules (`ORDER`), each a small function that answers only "does it apply?"; the first that
applies decides; the trace says of every rule whether it applied and on what evidence. Pure: the clock and the revoked keys
are arguments, so that any decision can be replayed.
Never: does I/O, raises for a message's content, or lets a header decide what the envelope says.
"""

from __future__ import annotations

from gatepost.decision import RULES, Decision, Finding, Key, Sender, Step, Thread, rule_decision
from gatepost.keys.keyring import check
from gatepost.keys.outgoing import domain_of
from gatepost.keys.reply_ids import key_of, readings
from gatepost.keys.signed import day_text, owner_matches
from gatepost.mail.address import compile_pattern
from gatepost.mail.recipient import NEVER_A_KEY, is_role, recipient
from gatepost.screening import automatic, bounces, lists, loops, sender, spam
from gatepost.screening.passage import ours, passage
from gatepost.settings import Screening
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal

    from gatepost.decision import Action, Envelope
    from gatepost.keys.keyring import KeyVerdict
    from gatepost.mail.message import Message
    from gatepost.mail.recipient import Recipient
    from gatepost.settings import KeySettings, Route, ScreeningAction, Settings

    Verified = Literal["yes", "no", "unknown"]
    #: A rule's answer: the action it decides and why, or None and why it does not apply.
    Answer = tuple[Action | None, str]

__all__ = [
    "ORDER",
    "Facts",
    "after_handover",
    "behind_queue",
    "decide",
    "keeps_headers_only",
    "key_domains",
    "over_limit",
    "parked_kind",
    "route_for",
]


class Facts(Value):
    """What only the world outside knows: Unix time in seconds, the route's revoked: file as it stands, who the sender is.

    `mail_from_verified`: SPF passed for the MAIL FROM domain itself, by a verdict that we may believe. Both are what the door
    knows beside the message; where it knows nothing, what trusted hosts wrote into the message counts.
    """

    now: float
    revoked: bytes = b""
    listed: bytes = b""
    sender_verified: Verified = "unknown"
    mail_from_verified: bool = False


#: Message-IDs of ours that a message may name before the rest of its References is passed over: a stranger may name 500.
_THREAD_TRIES: Final = 50


class _Case:
    """What the rules ask about: one message for one recipient, with everything read once."""

    def __init__(self, envelope: Envelope, message: Message, settings: Settings, facts: Facts) -> None:
        self.envelope, self.message, self.settings, self.facts = envelope, message, settings, facts
        self.recipient = recipient(envelope.recipient)
        self.route, self.key_text = route_for(self.recipient, settings)
        self.thread, self.thread_key = self._find_thread()
        self.verdict = self._check_key()
        #: The key that the app will get, and so the one whose owner must match: the recipient's, or the thread's.
        self.judged = self._thread_verdict() if self.verdict is None and self.thread is not None else self.verdict
        hops = passage(envelope, message, settings.trusted, settings.parser.received)
        believed = ours(message, hops)
        domains = compile_pattern(self.route.address).domains if self.route is not None else ()
        self.findings = (
            *loops.find(envelope, message, hops, minted=self._minted, own=self._own, domains=domains,
                        limit=settings.parser.received),
            *bounces.find(envelope, message),
            *automatic.find(message),
            *lists.find(message),
            *spam.find(believed),
        )  # fmt: skip
        self.sender = self._ask_sender(sender.verdict(message, believed, settings.trusted, envelope))

    def _ask_sender(self, written: Sender) -> Sender:
        """What the door knows; where it knows nothing, what is written in the message. A From of nobody stays nobody's."""
        known, mail_from = self.facts.sender_verified, self.facts.mail_from_verified
        if known != "unknown" and sender.one_sender(self.message):
            written = Sender(verified=known, by="the door")
        return written.replace(mail_from_verified=mail_from or written.mail_from_verified)

    def _check_key(self) -> KeyVerdict | None:
        if self.route is None or self.route.keys is None or self.key_text is None:
            return None
        domain = domain_of(self.route.address)  # as it was minted, in whichever form the recipient's domain came
        return self._check(self.route.keys, self.key_text, domain)

    def _find_thread(self) -> tuple[Thread | None, tuple[str, str]]:
        """The newest Message-ID of ours that this message answers and whose key lives, and that key with its domain."""
        route = self.route
        if route is None or route.keys is None:
            return None, ("", "")
        tried: set[tuple[str, str]] = set()
        for found_in, message_id in self.message.answers:
            for named in readings(message_id):
                if named in tried or len(tried) >= _THREAD_TRIES:
                    continue
                tried.add(named)
                # First without the revoked: file: a stranger may name many, and a look into a large file takes milliseconds.
                if self._made_by(route, named) == "live" and self._named_verdict(named).result == "live":
                    return Thread(found_in=found_in, parent_message_id=message_id), named
        return None, ("", "")

    def _made_by(self, route: Route, named: tuple[str, str]) -> str:
        """Is this key, in a Message-ID of this domain, the route's? The domain is the sender's word: it must be one of ours."""
        key, domain = named
        if route.keys is None or domain not in key_domains(route):
            return "unknown"
        return check(route.keys, key, domain, now=self.facts.now, listed=(self.facts.listed,)).result

    def _thread_verdict(self) -> KeyVerdict:
        return self._named_verdict(self.thread_key)

    def _named_verdict(self, named: tuple[str, str]) -> KeyVerdict:
        assert self.route is not None
        assert self.route.keys is not None  # _find_thread looked
        return self._check(self.route.keys, *named)

    def _check(self, keys: KeySettings, key: str, domain: str) -> KeyVerdict:
        facts = self.facts
        return check(keys, key, domain, now=facts.now, revoked=facts.revoked, listed=(facts.listed,))

    def _minted(self, message_id: str) -> bool:
        """Does this Message-ID carry a key that any of our routes made? An expired one is still ours.

        Only of signed keys can that be said: of the other formats anybody can make one up.
        """
        named = key_of(message_id)
        return named is not None and any(
            self._made_by(each, named) in ("live", "expired")
            for each in self.settings.routes
            if each.keys is not None and each.keys.format == "signed"
        )

    def _own(self, address: str) -> bool:
        """Is it this recipient, or an address of this route that the app gave out? A key that was never made proves nothing."""
        to = recipient(address)
        if self.route is None or to.final_form == self.recipient.final_form:
            return self.route is not None
        route, text = route_for(to, self.settings)
        if route is not self.route:
            return False
        if route.keys is None or text is None:
            return True
        if route.keys.format != "signed":  # anybody can make one up
            return False
        return check(route.keys, text, to.domain, now=self.facts.now).result in ("live", "expired")

    def key(self) -> Key | None:
        """The key as the app gets it: from the recipient, or for a dedicated address from the thread."""
        if self.judged is None or self.judged.result != "live":
            return None
        raw = self.key_text if self.verdict is not None else self.thread_key[0]
        return Key(raw=raw or "", subject=self.judged.subject, options=self.judged.options, kind=self.judged.kind)


def key_domains(route: Route) -> tuple[str, ...]:
    """The domains that the route's keys may be signed for: its own in either form, and those it had before."""
    former = route.keys.former_domains if route.keys is not None else ()
    return (*compile_pattern(route.address).domains, *former)


def route_for(to: Recipient, settings: Settings) -> tuple[Route | None, str | None]:
    """The route whose address takes this recipient, and the key's text in lower case.

    (None, None): no route. (route, None): a dedicated address. (route, ""): something that can be no key stands there.
    """
    if to.local.lower() in NEVER_A_KEY:
        return None, None
    for route in settings.routes:
        match = compile_pattern(route.address).match(to)
        if match is not None:
            if match.dedicated:
                return route, None
            return route, match.key if match.well_formed else ""
    return None, None


# The rules. Each answers for itself only; `_Case` has what they ask about.


def _role_address(case: _Case) -> Answer:
    if is_role(case.recipient):
        return "park", f"{case.recipient.local.lower()}@ is exempt from every rule (RFC 2142)"
    return None, "not postmaster@ or abuse@"


def _no_route(case: _Case) -> Answer:
    if case.route is None:
        return "reject", "no route's address takes this recipient"
    return None, f"route {case.route.name}"


def _key_rule(result: str, evidence: Callable[[KeyVerdict], str]) -> Callable[[_Case], Answer]:
    def rule(case: _Case) -> Answer:
        if case.verdict is None:
            return None, "the address has no key"
        if case.verdict.result == result:
            return "reject", evidence(case.verdict)
        return None, f"the key is {case.verdict.result}"

    return rule


def _expiry(verdict: KeyVerdict) -> str:
    days = verdict.signed.expires
    return "its last day has passed" if days is None else f"its last day was {day_text(days)}"


def _screened(
    case: _Case, family: str, slugs: tuple[str, ...] = (), but: tuple[str, ...] = (),
    together: tuple[tuple[str, str], ...] = (),
) -> Answer:  # fmt: skip
    """`slugs`, `but`: which of the family are asked. `together`: pairs of weak findings that decide when they meet."""
    found = [f for f in case.findings if f.family == family and (not slugs or f.slug in slugs) and f.slug not in but]
    deciding = [f for f in found if f.strength == "alone"] or _met(case.findings, together)
    if not deciding:
        return None, f"weak alone: {_told(found)}" if found else "nothing found"
    return _as_configured(case, family, _told(deciding))


def _met(findings: tuple[Finding, ...], together: tuple[tuple[str, str], ...]) -> list[Finding]:
    """The weak findings of the first pair that is there whole."""
    weak = {f.slug: f for f in findings if f.strength == "second"}
    return next(([weak[one], weak[other]] for one, other in together if one in weak and other in weak), [])


def _told(found: list[Finding]) -> str:
    return "; ".join(f"{f.slug} ({f.evidence})" for f in found)


def _as_configured(case: _Case, family: str, evidence: str) -> Answer:
    """What `screening` says to do with this family."""
    screening = case.route.screening if case.route is not None else Screening()
    action: ScreeningAction = getattr(screening, family)
    if action == "accept":
        return None, f"accepted by screening.{family}: {evidence}"
    return action, evidence


def _loop(case: _Case) -> Answer:
    return _screened(case, "loops")


def _bounce(case: _Case) -> Answer:
    return _screened(case, "bounces", but=(bounces.NULL_SENDER,), together=bounces.TOGETHER)


def _automatic(case: _Case) -> Answer:
    return _screened(case, "automatic", together=automatic.TOGETHER)


def _null_sender(case: _Case) -> Answer:
    return _screened(case, "bounces", slugs=(bounces.NULL_SENDER,))


def _list(case: _Case) -> Answer:
    return _screened(case, "lists")


def _spam(case: _Case) -> Answer:
    return _screened(case, "spam")


def _unauthenticated(case: _Case) -> Answer:
    if case.sender.verified != "no":
        return None, f"verified: {case.sender.verified}"
    return _as_configured(case, "unauthenticated", f"From failed ({case.sender.by})" if case.sender.by else "From names nobody")


def _must_match(case: _Case) -> str:
    """Why the sender is not the key's owner, "" where the route does not ask or the key has no owner."""
    route, verdict = case.route, case.judged
    if route is None or route.keys is None or not route.must_match or verdict is None or not verdict.signed.owner:
        return ""
    person = sender.one_sender(case.message)
    if not person or not owner_matches(verdict.signed, person, route.keys.key_id):
        return "sender-mismatch"
    return "" if case.sender.verified == "yes" else "sender-unverified"


def _sender_rule(slug: str, evidence: str) -> Callable[[_Case], Answer]:
    def rule(case: _Case) -> Answer:
        if _must_match(case) != slug or case.route is None:
            return None, "must-match asks nothing here" if not _must_match(case) else "another must-match rule applies"
        if case.route.must_match == "flag":
            return None, f"flagged by sender.must-match: {evidence}"
        return ("park" if case.route.must_match == "park" else "reject"), evidence

    return rule


def _accepted(_case: _Case) -> Answer:
    return "accept", "no rule before applied"


#: What runs, and why in this order. People's role addresses come before everything. Then what is wrong with the recipient:
#: it costs least and says least. A loop is stopped before its kind is asked. A report is a bounce even if it calls itself
#: auto-replied; a vacation reply is automatic even though its reverse-path is null; then the null reverse-path alone. Then what
#: may be refused aloud: a list's mail, spam. The sender is asked last, of a message that everything else would let pass.
ORDER: Final[tuple[tuple[str, Callable[[_Case], Answer]], ...]] = (
    ("role-address", _role_address),
    ("no-route", _no_route),
    ("key-unknown", _key_rule("unknown", lambda _: "it is no key of the route's format")),
    ("key-forged", _key_rule("forged", lambda _: "no secret of this route made it, for this domain")),
    ("key-expired", _key_rule("expired", _expiry)),
    ("key-revoked", _key_rule("revoked", lambda _: "the route's revoked: file names it")),
    ("loop", _loop),
    ("bounce", _bounce),
    ("automatic", _automatic),
    ("null-sender", _null_sender),
    ("list", _list),
    ("spam", _spam),
    ("sender-mismatch", _sender_rule("sender-mismatch", "From is not one address that owns the key")),
    ("sender-unverified", _sender_rule("sender-unverified", "From owns the key, but nobody authenticated it")),
    ("unauthenticated", _unauthenticated),
    ("accepted", _accepted),
)


def decide(envelope: Envelope, message: Message, settings: Settings, facts: Facts) -> Decision:
    """The verdict on this message for this recipient, with its trace. Total: every message gets one."""
    case = _Case(envelope, message, settings, facts)
    action: Action = "accept"
    decided = detail = ""
    trace = []
    for slug, rule in ORDER:
        if decided:
            trace.append(Step(rule=slug, applied=False, evidence=f"not asked: {decided} decided"))
            continue
        answer, evidence = rule(case)
        trace.append(Step(rule=slug, applied=answer is not None, evidence=evidence))
        if answer is not None:
            action, decided, detail = answer, slug, evidence
    return rule_decision(action, decided, detail=detail, route=case.route.name if case.route else "").replace(
        key=case.key(),
        thread=case.thread,
        findings=case.findings + _flagged(case),
        sender=case.sender,
        trace=tuple(trace),
    )


def _flagged(case: _Case) -> tuple[Finding, ...]:
    """What the app is told beside the findings: a must-match that only flags, and what the parser noticed."""
    found = [Finding(slug=flag, family="parser", evidence="noticed while reading the head") for flag in case.message.flags]
    slug = _must_match(case)
    if slug and case.route is not None and case.route.must_match == "flag":
        found.append(Finding(slug=slug, family="sender", evidence=RULES[slug].meaning))
    return tuple(found)


#: Machines get no answer, whatever after_queue says (RFC 3834 2; a bounce to a bounce is a loop).
_NEVER_ANSWERED: Final = ("loop", "bounce", "automatic", "null-sender")
#: A refused key says little about its message, and a guesser must not fill the disk.
_HEADERS_ONLY: Final = ("key-unknown", "key-forged", "key-expired", "key-revoked")


def behind_queue(decision: Decision, settings: Settings, facts: Facts, envelope: Envelope) -> Decision:
    """What a refusal becomes behind the queue, where it would be a bounce (design: "Refuse early, or refuse nobody").

    Only a reject changes: to a discard for what a machine sent; otherwise as `after_queue` says, where bounce-verified stays a
    reject only if SPF passed for the MAIL FROM domain itself and MAIL FROM is not null.
    """
    if decision.action != "reject":
        return decision
    machine = decision.rule in _NEVER_ANSWERED
    how = settings.after_queue
    if how == "bounce-verified":
        verified = facts.mail_from_verified or decision.sender.mail_from_verified
        how = "bounce" if verified else "discard" if machine else "park"
    if how != "bounce":
        return decision.replace(action=how)
    if machine:
        return decision.replace(action="discard")
    # RFC 5321 4.5.5: nothing can be sent to the null reverse-path.
    return decision if envelope.sender not in ("", "<>") else decision.replace(action="park")


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


def over_limit(limit: str, until: float, *, verdict: Decision, first_seen: float, settings: Settings, now: float) -> Decision:
    """What becomes of an accepted message that a limit keeps waiting: it stays in the queue, or is parked like any other.

    `limit`: which one is full, as the configuration writes it; `until`: when it has room (Unix seconds).
    """
    detail = f"{limit}, room in {max(0, until - now):.0f}s"
    if now - first_seen > settings.timing.give_up_after:
        made = rule_decision("park", "gave-up", detail=detail, route=verdict.route)
    else:
        made = rule_decision("defer", "limit", detail=detail, route=verdict.route)
    return made.replace(
        key=verdict.key, thread=verdict.thread, findings=verdict.findings, sender=verdict.sender, trace=verdict.trace
    )


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
