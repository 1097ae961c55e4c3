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
from gatepost.keys.signed import owner_matches
from gatepost.mail.address import compile_pattern
from gatepost.mail.message import parse
from gatepost.mail.recipient import NEVER_A_KEY, is_role, recipient
from gatepost.screening import automatic, bounces, lists, loops, sender, senders, spam
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

    Alive = Literal["", "yes", "no", "unavailable"]
    #: A rule's answer: the action it decides and why, or None and why it does not apply.
    Answer = tuple[Action | None, str]

__all__ = [
    "ORDER",
    "Facts",
    "at_recipient",
    "decide",
    "key_domains",
    "key_to_ask",
    "route_for",
]


class Facts(Value):
    """What only the world outside knows: Unix time in seconds, the route's revoked: file as it stands, who the sender is.

    `sender`: what our own checks found, None where there were none; where they found nothing, what trusted hosts wrote into the
    message counts. `direct`: the client was none of the trusted hosts, whatever the message says of its way; nor does it count
    then what the message says of its sender. `unseen`: the milter should have seen the message and has not, so that a stranger
    may have written in it what a trusted host would: that counts only against the sender. `alive`: what the app answered of the
    key that `key_to_ask` names, "" where it was not asked. `probe`: the store knows the token that it carries: the doctor's.
    """

    now: float
    revoked: bytes = b""
    listed: bytes = b""
    sender: Sender | None = None
    direct: bool = False
    unseen: bool = False
    alive: Alive = ""
    probe: bool = False


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
        self._hear_the_app()
        self._seen: tuple[tuple[Finding, ...], Sender] | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is observed of the message."""
        return self._look()[0]

    @property
    def sender(self) -> Sender:
        """Who sent it."""
        return self._look()[1]

    def _look(self) -> tuple[tuple[Finding, ...], Sender]:
        """Findings and sender, read when a rule first asks: most guesses never get so far."""
        if self._seen is None:
            envelope, message, settings, facts = self.envelope, self.message, self.settings, self.facts
            hops = passage(envelope, message, settings.trusted, settings.parser.received, direct=facts.direct)
            believed = ours(message, hops)
            domains = compile_pattern(self.route.address).domains if self.route is not None else ()
            findings = (
                *loops.find(envelope, message, hops, minted=self._minted, own=self._own, domains=domains,
                            limit=settings.parser.received),
                *bounces.find(envelope, message),
                *automatic.find(message),
                *lists.find(message),
                *spam.find(believed),
            )  # fmt: skip
            # All that a direct client's message says of its sender is the client's own word: no trusted host has seen it.
            names = () if facts.direct else _believed_names(settings)
            written = sender.verdict(message, believed, names, envelope)
            self._seen = findings, self._ask_sender(_at_worst(written) if facts.unseen else written)
        return self._seen

    def _ask_sender(self, written: Sender) -> Sender:
        """What our own checks found; where they found nothing, what is written. A From of nobody stays nobody's."""
        known = self.facts.sender
        if known is None:
            return written
        mail_from = known.mail_from_verified or written.mail_from_verified
        if not sender.one_sender(self.message) or (known.verified == "unknown" and written.verified != "unknown"):
            return written.replace(mail_from_verified=mail_from)
        return known.replace(mail_from_verified=mail_from)

    def _hear_the_app(self) -> None:
        """A key that the app says is dead is as one that never was."""
        self.unanswered = self.dead = False
        if self.asked() is None:
            return
        self.unanswered = self.facts.alive == "unavailable"
        if self.facts.alive != "no":
            return
        if self.verdict is not None:
            self.verdict = self.judged = self.verdict.replace(result="unknown")
            self.dead = True
        else:
            self.thread, self.judged = None, None

    def asked(self) -> Key | None:
        """The key whose life the app knows: one that lives as far as we can tell, of a route with `ask:`."""
        keys = self.route.keys if self.route is not None else None
        return self.key() if keys is not None and keys.ask is not None else None

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


def _at_worst(written: Sender) -> Sender:
    """What a message says of its sender that a stranger may have written: it counts where it speaks against him."""
    return Sender(verified="no", by=written.by) if written.verified == "no" else Sender()


def _believed_names(settings: Settings) -> tuple[str, ...]:
    """The authserv-ids whose written results count. Our own milter's count by its stamp alone (`Facts.sender`)."""
    own = settings.milter.authserv_id if settings.milter is not None else ""
    return tuple(name for name in settings.trusted if name != own)


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


def _unknown_key(case: _Case) -> Answer:
    if case.dead:
        return "reject", "the app says that it is none (ask:)"
    return _key_rule("unknown", lambda _: "it is no key of the route's format")(case)


def _unanswered(case: _Case) -> Answer:
    if case.unanswered:
        return "defer", "the app did not say whether the key is alive"
    return None, "the app was not asked, or has answered"


def _expiry(verdict: KeyVerdict) -> str:
    return f"its last day was {verdict.last_day}" if verdict.last_day else "its last day has passed"


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


def _malformed(case: _Case) -> Answer:
    flags = case.message.limits_hit
    if not flags:
        return None, "no limit of the parser was reached"
    return _as_configured(case, "malformed", ", ".join(flags))


def _denied(case: _Case) -> Answer:
    deny = case.route.deny if case.route is not None else ()
    if not deny:
        return None, "sender.deny names nobody"
    written = [person.address for person in case.message.from_.list]
    named = senders.named(deny, case.envelope.client_address, (case.envelope.sender, *written))
    return ("reject", f"sender.deny names {named}") if named else (None, "sender.deny names somebody else")


def _doubts(case: _Case) -> dict[str, str]:
    """What `sender:` asks of the one who wrote and does not find: rule and evidence. The first decides."""
    route, person = case.route, sender.one_sender(case.message)
    found: dict[str, str] = {}
    if route is None:
        return found
    by_name = False
    if route.allow and not senders.named(route.allow, case.envelope.client_address, ()):
        by_name = bool(person and senders.named(route.allow, "", (person,)))
        if not by_name:
            found["sender-not-allowed"] = "sender.allow names neither the client nor From"
    owned = bool(route.keys is not None and route.must_match and case.judged is not None and case.judged.signed.owner)
    if owned and not _owns(case, person):
        found["sender-mismatch"] = "From is not one address that owns the key"
        owned = False
    if (owned or by_name) and case.sender.verified != "yes":
        who = "sender.allow names From" if by_name else "From owns the key"
        if case.sender.temporary and case.sender.verified == "unknown" and (by_name or route.must_match != "park"):
            found["sender-unchecked"] = f"{who}, and DNS did not answer"
        else:
            found["sender-unverified"] = f"{who}, but nobody authenticated it"
    return found


def _owns(case: _Case, person: str) -> bool:
    """Is this person the one whom the key was made for?"""
    keys = case.route.keys if case.route is not None else None
    return bool(person and keys and case.judged and owner_matches(case.judged.signed, person, keys.key_id))


def _sender_rule(slug: str) -> Callable[[_Case], Answer]:
    """must-match rejects, parks or only flags; what `allow:` says always refuses."""

    def rule(case: _Case) -> Answer:
        evidence = _doubts(case).get(slug)
        if evidence is None or case.route is None:
            return None, "sender: asks nothing here, or is content"
        by_owner = slug == "sender-mismatch" or evidence.startswith("From owns")
        if by_owner and case.route.must_match == "flag":
            return None, f"flagged by sender.must-match: {evidence}"
        if by_owner and case.route.must_match == "park":
            return "park", evidence
        return ("defer" if slug == "sender-unchecked" else "reject"), evidence

    return rule


def _probe(case: _Case) -> Answer:
    """Before whatever judges content and sender: it shows the way, not what it carries."""
    if case.facts.probe:
        return "accept", "gatepost doctor sent it"
    return None, "not one of gatepost doctor's"


def _accepted(_case: _Case) -> Answer:
    return "accept", "no rule before applied"


#: What runs, and why in this order. People's role addresses come before everything. Then who may not write at all, before a key
#: is looked at: whoever is denied learns nothing of keys. Then what is wrong with the recipient: it costs least and says least.
#: So far goes what can be said at RCPT. A loop is stopped before its kind is asked. A report is a bounce even if it says it is
#: auto-replied; a vacation reply is automatic even though its reverse-path is null; then the null reverse-path alone. Then what
#: may be refused aloud: a list's mail, spam, what cannot be read. The sender is asked last, of what all others let pass.
ORDER: Final[tuple[tuple[str, Callable[[_Case], Answer]], ...]] = (
    ("role-address", _role_address),
    ("no-route", _no_route),
    ("sender-denied", _denied),
    ("key-unknown", _unknown_key),
    ("key-forged", _key_rule("forged", lambda _: "no secret of this route made it, for this domain")),
    ("key-expired", _key_rule("expired", _expiry)),
    ("key-revoked", _key_rule("revoked", lambda _: "the route's revoked: file names it")),
    ("ask-unavailable", _unanswered),
    ("probe", _probe),
    ("loop", _loop),
    ("bounce", _bounce),
    ("automatic", _automatic),
    ("null-sender", _null_sender),
    ("list", _list),
    ("spam", _spam),
    ("malformed", _malformed),
    ("sender-not-allowed", _sender_rule("sender-not-allowed")),
    ("sender-mismatch", _sender_rule("sender-mismatch")),
    ("sender-unverified", _sender_rule("sender-unverified")),
    ("sender-unchecked", _sender_rule("sender-unchecked")),
    ("unauthenticated", _unauthenticated),
    ("accepted", _accepted),
)


#: The rules that need no message: what can be said at RCPT.
_AT_RECIPIENT: Final = (*ORDER[: [slug for slug, _ in ORDER].index("probe")], ORDER[-1])


def decide(envelope: Envelope, message: Message, settings: Settings, facts: Facts, *, traced: bool = True) -> Decision:
    """The verdict on this message for this recipient. Total: every message gets one.

    `traced`: with its trace, which says of every rule whether it applied; a door has no use for it.
    """
    case = _Case(envelope, message, settings, facts)
    return _judged(case, ORDER, traced=traced).replace(findings=case.findings + _flagged(case), sender=case.sender)


def at_recipient(envelope: Envelope, settings: Settings, facts: Facts, *, traced: bool = True) -> Decision:
    """What can be said of a recipient before the message is there: the same rules, as far as they need none.

    no-route is a reject here too; at RCPT that recipient is not ours, and the door leaves it to Postfix.
    """
    case = _Case(envelope, parse(b"", settings.parser), settings, facts)
    return _judged(case, _AT_RECIPIENT, traced=traced, every=True)


def key_to_ask(envelope: Envelope, message: Message, settings: Settings, facts: Facts) -> Key | None:
    """The key whose life only the app knows (`ask:`); None where nothing is to be asked."""
    route, _ = route_for(recipient(envelope.recipient), settings)
    if route is None or route.keys is None or route.keys.ask is None:
        return None
    case = _Case(envelope, message, settings, facts.replace(alive=""))
    return None if _denied(case)[0] else case.asked()


def _judged(
    case: _Case, rules: tuple[tuple[str, Callable[[_Case], Answer]], ...], *, traced: bool, every: bool = False
) -> Decision:  # fmt: skip
    """The first rule that applies decides. `every`: the others are asked too, so that no time tells which one it was."""
    action: Action = "accept"
    decided = detail = ""
    trace = []
    for slug, rule in rules:
        if decided:
            if every:
                rule(case)
            elif not traced:
                break
            if traced:
                trace.append(Step(rule=slug, applied=False, evidence=f"not asked: {decided} decided"))
            continue
        answer, evidence = rule(case)
        if traced:
            trace.append(Step(rule=slug, applied=answer is not None, evidence=evidence))
        if answer is not None:
            action, decided, detail = answer, slug, evidence
    return rule_decision(action, decided, detail=detail, route=case.route.name if case.route else "").replace(
        key=case.key(), thread=case.thread, trace=tuple(trace)
    )


def _flagged(case: _Case) -> tuple[Finding, ...]:
    """What the app is told beside the findings: a must-match that only flags, and what the parser noticed."""
    found = [Finding(slug=flag, family="parser", evidence="noticed while reading the head") for flag in case.message.flags]
    if case.route is not None and case.route.must_match == "flag":
        slug = next((each for each in _doubts(case) if each != "sender-not-allowed"), "")
        if slug:
            found.append(Finding(slug=slug, family="sender", evidence=RULES[slug].meaning))
    return tuple(found)
