"""The policy: what each rule decides, what a refusal becomes behind the queue, what a sink's answer becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gatepost import policy
from gatepost.decision import RULES, Decision, Envelope, Sender, rule_decision
from gatepost.keys.keyring import revocation_line
from gatepost.keys.reply_ids import mint as mint_id
from gatepost.keys.signed import mint
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import Message, parse
from gatepost.masking import masked
from gatepost.settings import KeySettings, ParkedLimits, ParserLimits, Route, Screening, Settings, Sink, Timing

SECRET = b"0123456789abcdef0123456789abcdef"
OLD_SECRET = b"fedcba9876543210fedcba9876543210"
STRANGERS_SECRET = b"a stranger's secret, 32 bytes long"
DOMAIN = "in.example.com"
NOW = 1_800_000_000.0  # 2027-01-15
TODAY = 2571


def keys(**changes: Any) -> KeySettings:
    """The routes' keys."""
    return KeySettings(**{"secret": "k", "key_id": "k", "secrets": (OLD_SECRET, SECRET), **changes})


def route(name: str, address: str, **changes: Any) -> Route:
    """One route that delivers to the sink app."""
    return Route(**{"name": name, "address": address, "keys": keys(), "screening": Screening(), "deliver": ("app",), **changes})


def settings(*routes: Route, **changes: Any) -> Settings:
    """Settings with these routes, or with a sub-addressed and a dedicated one."""
    chosen = routes or (route("replies", f"reply+%{{key}}@{DOMAIN}"), route("support", f"support@{DOMAIN}"))
    sink = Sink(name="app", kind="maildir", target="/nowhere")
    return Settings(**{
        "file": "/etc/gatepost/gatepost.yml", "routes": chosen, "timing": Timing(), "parked": ParkedLimits(),
        "parser": ParserLimits(), "sinks": (sink,), **changes,
    })  # fmt: skip


def key(subject: bytes = b"42", *, secret: bytes = SECRET, **options: Any) -> str:
    """A key for DOMAIN."""
    return mint(secret=secret, key_id="k", domain=DOMAIN, subject=subject, **options)


def mail(head: str = "", sender: str = "person@example.org") -> Message:
    """A person's message with further header lines."""
    text = f"From: A Person <{sender}>\nSubject: Hello\n{head}\nHello.\n"
    return parse(from_pipe(text.encode()), ParserLimits())


LIVE, EXPIRED, OWNED = key(), key(expires=TODAY - 1), key(owner="owner@example.org")
REVOKED_FILE = (revocation_line(SECRET, "k", key(b"revoked")) + "\n").encode()


@dataclass(frozen=True)
class Row:
    """One case: the recipient's local part, the message, and what must be decided."""

    id: str
    local: str
    rule: str
    action: str
    why: str
    head: str = ""
    sender: str = "person@example.org"
    from_: str = "person@example.org"
    verified: str = "unknown"
    routes: tuple[Route, ...] = ()
    subject: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def guarded(must_match: str) -> tuple[Route, ...]:
    """A route whose keys belong to their owners."""
    return (route("guarded", f"reply+%{{key}}@{DOMAIN}", must_match=must_match),)


def screened(**actions: Any) -> tuple[Route, ...]:
    """A route with other actions for what is found."""
    return (route("replies", f"reply+%{{key}}@{DOMAIN}", screening=Screening(**actions)),)


CATCH_ALL = (route("all", f"%{{key}}@{DOMAIN}"),)
HOP = "Received: from a by {by} with ESMTP id {id} for <{to}>; Fri, 15 Jan 2027 08:00:00 +0000\n"

ROWS = [
    Row("live", f"reply+{LIVE}", "accepted", "accept", "a key of ours", subject="42"),
    Row("capitals", f"Reply+{LIVE.upper()}", "accepted", "accept", "keys and user parts have no case", subject="42"),
    Row("old secret", f"reply+{key(b'old', secret=OLD_SECRET)}", "accepted", "accept", "secrets rotate", subject="old"),
    Row("garbage", "reply+garbage", "key-unknown", "reject", "not of a signed key's form"),
    Row("empty", "reply+", "key-unknown", "reject", "the placeholder holds nothing"),
    Row("kelvin", f"reply+{'K' + LIVE[1:]}", "key-unknown", "reject", "U+212A would fold to k"),
    Row("forged", f"reply+{key(secret=STRANGERS_SECRET)}", "key-forged", "reject", "another's secret made it"),
    Row("expired", f"reply+{EXPIRED}", "key-expired", "reject", "yesterday was its last day"),
    Row("last day", f"reply+{key(expires=TODAY)}", "accepted", "accept", "good through its last day", subject="42"),
    Row("revoked", f"reply+{key(b'revoked')}", "key-revoked", "reject", "the revoked: file names it"),
    Row("stranger's user", "other+x", "no-route", "reject", "no route takes it"),
    Row("other domain", "reply+x@example.org", "no-route", "reject", "the domain is part of the address"),
    Row("not anchored", f"xreply+{LIVE}", "no-route", "reject", "the pattern is anchored at its start"),
    Row("postmaster", "PostMaster", "role-address", "park", "RFC 5321 4.5.1: a person must get it"),
    Row("abuse", "abuse", "role-address", "park", "RFC 2142"),
    Row("catch-all postmaster", "postmaster", "role-address", "park", "never a key", routes=CATCH_ALL),
    Row("catch-all daemon", "mailer-daemon", "no-route", "reject", "never a key", routes=CATCH_ALL),
    Row("catch-all key", LIVE, "accepted", "accept", "the whole user part is the key", routes=CATCH_ALL, subject="42"),
    Row("dedicated", "support", "accepted", "accept", "a new conversation has no key"),
    Row("report", f"reply+{LIVE}", "bounce", "discard", "RFC 6522",
        head="Content-Type: multipart/report; report-type=delivery-status; boundary=x\n"),
    Row("report, auto-replied", f"reply+{LIVE}", "bounce", "discard", "a report is a bounce, whatever else it says",
        head="Auto-Submitted: auto-replied\nContent-Type: multipart/report; boundary=x\n", sender=""),
    Row("daemon", f"reply+{LIVE}", "bounce", "discard", "mail servers report from it", sender="MAILER-DAEMON@example.org"),
    Row("vacation", f"reply+{LIVE}", "automatic", "discard", "RFC 3834 3.3: null sender, yet a vacation reply",
        head="Auto-Submitted: auto-replied (vacation)\n", sender=""),
    Row("null sender", f"reply+{LIVE}", "null-sender", "discard", "no person sends from it", sender=""),
    Row("person says no", f"reply+{LIVE}", "accepted", "accept", "RFC 3834 5: `no` is a person",
        head="Auto-Submitted: No (really)\n", subject="42"),
    Row("bad key, vacation", "reply+garbage", "key-unknown", "reject", "the recipient is asked first",
        head="Auto-Submitted: auto-replied\n"),
    Row("loop", f"reply+{LIVE}", "loop", "discard", "it was here before",
        head=HOP.format(by="mx.example.com", id="Q1", to="x@example.org") + HOP.format(by="far.example.org", id="F", to="")
        + HOP.format(by="mx.example.com", id="Q0", to=f"Reply+{LIVE}@{DOMAIN}")),
    Row("own passage twice", f"reply+{LIVE}", "accepted", "accept", "a content filter on this host gave it back", subject="42",
        head=HOP.format(by="mx.example.com", id="Q1", to=f"reply+{LIVE}@{DOMAIN}")
        + HOP.format(by="mx.example.com", id="Q0", to=f"reply+{LIVE}@{DOMAIN}")),
    Row("another's hop", f"reply+{LIVE}", "accepted", "accept", "a stranger's host wrote it, for whom it likes", subject="42",
        head=HOP.format(by="mx.example.com", id="Q1", to="x@example.org")
        + HOP.format(by="far.example.org", id="F", to=f"reply+{LIVE}@{DOMAIN}")),
    Row("own message-id", f"reply+{LIVE}", "loop", "discard", "our own mail came back",
        head=f"Message-ID: {mint_id(LIVE, b'12345678', DOMAIN)}\n"),
    Row("forged message-id", f"reply+{LIVE}", "accepted", "accept", "anybody can write <reply-x.y@...>", subject="42",
        head=f"Message-ID: {mint_id(key(secret=STRANGERS_SECRET), b'12345678', DOMAIN)}\n"),
    Row("51 hops", f"reply+{LIVE}", "loop", "discard", "no path is that long",
        head="".join(HOP.format(by=f"h{n}.example.org", id="F", to="") for n in range(51))),
    Row("50 hops", f"reply+{LIVE}", "accepted", "accept", "the limit itself passes", subject="42",
        head="".join(HOP.format(by=f"h{n}.example.org", id="F", to="") for n in range(50))),
    Row("screening off", f"reply+{LIVE}", "accepted", "accept", "the route takes automatic mail", subject="42",
        head="Auto-Submitted: auto-generated\n", routes=screened(automatic="accept")),
    Row("screening rejects", f"reply+{LIVE}", "automatic", "reject", "the route refuses it",
        head="Auto-Submitted: auto-generated\n", routes=screened(automatic="reject")),
    Row("screening parks", f"reply+{LIVE}", "null-sender", "park", "the route keeps bounces", sender="",
        routes=screened(bounces="park")),
    Row("owner, nobody verified", f"reply+{OWNED}", "sender-unverified", "park", "From alone proves nothing",
        from_="owner@example.org", routes=guarded("park")),
    Row("owner verified", f"reply+{OWNED}", "accepted", "accept", "From is the owner, and authenticated", verified="yes",
        from_="Owner@Example.org", routes=guarded("reject"), subject="42"),
    Row("another's From", f"reply+{OWNED}", "sender-mismatch", "reject", "authenticated, but not the owner", verified="yes",
        routes=guarded("reject")),
    Row("two Froms", f"reply+{OWNED}", "sender-mismatch", "reject", "RFC 5322 allows it; an owner is one", verified="yes",
        from_="owner@example.org>, B <b@example.org", routes=guarded("reject")),
    Row("flag", f"reply+{OWNED}", "accepted", "accept", "the app is told, and decides", routes=guarded("flag"), subject="42"),
    Row("no owner", f"reply+{LIVE}", "accepted", "accept", "a bearer key has no owner to match", routes=guarded("reject"),
        subject="42"),
]  # fmt: skip


def decided(row: Row) -> Decision:
    """The decision on a row."""
    to = row.local if "@" in row.local else f"{row.local}@{DOMAIN}"
    facts = policy.Facts(now=NOW, revoked=REVOKED_FILE, sender=Sender(verified=row.verified))  # type: ignore[arg-type]
    envelope = Envelope(sender=row.sender, recipient=to, queue_id="Q1")
    return policy.decide(envelope, mail(row.head, row.from_), settings(*row.routes, **row.settings), facts)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_each_rule_decides_what_it_is_for(row: Row) -> None:
    """Rule, action and key of each row; the trace names every rule, and says of one that it applied."""
    decision = decided(row)
    assert (decision.rule, decision.action) == (row.rule, row.action), row.why
    assert (decision.key and decision.key.subject) == row.subject or decision.action != "accept"
    assert [step.rule for step in decision.trace] == [slug for slug, _ in policy.ORDER]
    assert [step.rule for step in decision.trace if step.applied] == [decision.rule]
    assert all(step.evidence for step in decision.trace)


def test_refused_keys_look_alike() -> None:
    """Unknown, forged, expired, revoked and no route at all give one status and one text: a guess learns nothing."""
    refused = [decided(row) for row in ROWS if row.rule.startswith(("key-", "no-route"))]
    assert len({decision.rule for decision in refused}) == 5
    assert {(decision.status, decision.text) for decision in refused} == {("5.1.1", "No such address")}


def test_must_match_flag_tells_the_app() -> None:
    """Where must-match only flags, the message passes with the finding."""
    row = next(row for row in ROWS if row.id == "flag")
    assert [finding.slug for finding in decided(row).findings] == ["sender-mismatch"]


PARENT, OTHER = mint_id(LIVE, b"12345678", DOMAIN), mint_id(key(b"other"), b"12345678", DOMAIN)
FORGED, GONE = mint_id(key(secret=STRANGERS_SECRET), b"12345678", DOMAIN), mint_id(EXPIRED, b"12345678", DOMAIN)
ABROAD = mint(secret=SECRET, key_id="k", domain="other.example.com", subject=b"42")
THREADS = [
    ("in-reply-to", f"In-Reply-To: {PARENT}\n", ("In-Reply-To", PARENT, "42"), "what a reply carries (RFC 5322 3.6.4)"),
    ("references", f"References: <a@example.org> {PARENT}\n", ("References", PARENT, "42"), "some clients send only this"),
    ("nearest", f"References: {OTHER} {PARENT}\n", ("References", PARENT, "42"), "the last reference is the parent"),
    ("in-reply-to first", f"References: {OTHER}\nIn-Reply-To: {PARENT}\n", ("In-Reply-To", PARENT, "42"), "the closer field"),
    ("forged falls back", f"In-Reply-To: {FORGED}\nReferences: {PARENT}\n", ("References", PARENT, "42"), "it names none"),
    ("forged", f"In-Reply-To: {FORGED}\n", None, "accepted as a new conversation"),
    ("expired", f"In-Reply-To: {GONE}\n", None, "a key past its day relates nothing"),
    ("revoked", f"In-Reply-To: {mint_id(key(b'revoked'), b'12345678', DOMAIN)}\n", None, "a revoked key relates nothing"),
    (
        "another domain",
        f"In-Reply-To: {mint_id(ABROAD, b'12345678', 'other.example.com')}\n",
        None,
        "genuine, of another host of ours",
    ),
    ("strangers", "In-Reply-To: <x@example.org>\n", None, "not a Message-ID of ours"),
]


@pytest.mark.parametrize(("head", "expected"), [row[1:3] for row in THREADS], ids=[row[0] for row in THREADS])
def test_a_reply_to_a_dedicated_address_finds_its_thread(head: str, expected: tuple[str, str, str] | None) -> None:
    """In-Reply-To and References with a Message-ID that we minted relate the reply, and give the app the key."""
    envelope = Envelope(sender="person@example.org", recipient=f"support@{DOMAIN}", queue_id="Q1")
    decision = policy.decide(envelope, mail(head), settings(), policy.Facts(now=NOW, revoked=REVOKED_FILE))
    assert decision.action == "accept"
    thread, found = decision.thread, decision.key
    assert (thread and found and (thread.found_in, thread.parent_message_id, found.subject)) == expected


def test_must_match_holds_for_a_dedicated_address_too() -> None:
    """The key of the thread has an owner as well: another's reply does not get that thread."""
    owned = mint_id(OWNED, b"12345678", DOMAIN)
    guarded_support = settings(route("support", f"support@{DOMAIN}", must_match="reject"))
    envelope = Envelope(sender="person@example.org", recipient=f"support@{DOMAIN}", queue_id="Q1")
    decision = policy.decide(envelope, mail(f"In-Reply-To: {owned}\n"), guarded_support, policy.Facts(now=NOW))
    assert (decision.action, decision.rule) == ("reject", "sender-mismatch")
    assert policy.decide(envelope, mail(), guarded_support, policy.Facts(now=NOW)).action == "accept"


def test_a_key_is_good_in_either_form_of_its_domain() -> None:
    """A key minted for the A-label, mail to the U-label (RFC 6531), is the same address."""
    abroad = mint(secret=SECRET, key_id="k", domain="xn--bcher-kva.example.com", subject=b"42")
    german = settings(route("replies", "reply+%{key}@xn--bcher-kva.example.com"))
    for domain in ("xn--bcher-kva.example.com", "b\u00fccher.example.com"):
        envelope = Envelope(sender="person@example.org", recipient=f"reply+{abroad}@{domain}", queue_id="Q1")
        assert policy.decide(envelope, mail(), german, policy.Facts(now=NOW)).rule == "accepted"


MASKED = [
    (f"reply+{LIVE}@{DOMAIN}", f"reply+{LIVE[:4]}...@{DOMAIN}", "a key is cut"),
    (f"Reply+{LIVE.upper()}@{DOMAIN}", f"reply+{LIVE[:4]}...@{DOMAIN}", "in any case"),
    (f"reply+short@{DOMAIN}", f"reply+...@{DOMAIN}", "too short to show a part of"),
    (f"support@{DOMAIN}", f"support@{DOMAIN}", "a dedicated address is no secret"),
    (f"repyl+{LIVE}@{DOMAIN}", f"repy...@{DOMAIN}", "may be a key, misspelt"),
    (f"nobody@{DOMAIN}", f"nobody@{DOMAIN}", "no key is that short"),
    (f"reply+@{DOMAIN}", f"...@{DOMAIN}", "nothing stands there"),
]


@pytest.mark.parametrize(("address", "shown"), [row[:2] for row in MASKED], ids=[row[2] for row in MASKED])
def test_a_log_shows_no_whole_key(address: str, shown: str) -> None:
    """The recipient as the log has it."""
    assert masked(address, settings()) == shown


NEVER_ANSWERED = ("loop", "bounce", "automatic", "null-sender")
BEHIND = [
    # after_queue, rule, SPF passed for MAIL FROM, MAIL FROM, action; why
    *[("bounce-verified", rule, True, "a@example.org", "discard", "machines get no answer") for rule in NEVER_ANSWERED],
    *[("bounce", rule, True, "a@example.org", "discard", "machines get no answer") for rule in NEVER_ANSWERED],
    *[("park", rule, True, "a@example.org", "park", "the sysadmin wants to see it") for rule in NEVER_ANSWERED],
    ("bounce-verified", "key-unknown", False, "a@example.org", "park", "MAIL FROM may be forged"),
    ("bounce-verified", "key-unknown", True, "a@example.org", "reject", "the notice goes where it came from"),
    ("bounce-verified", "key-unknown", True, "", "park", "nothing can be sent to the null reverse-path"),
    ("bounce-verified", "app-refused", False, "a@example.org", "park", "the same for what the app refused"),
    ("bounce", "key-expired", False, "a@example.org", "reject", "the sysadmin wants bounces"),
    ("bounce", "key-expired", False, "", "park", "nothing can be sent to the null reverse-path"),
    ("park", "key-forged", True, "a@example.org", "park", "as it says"),
    ("discard", "no-route", True, "a@example.org", "discard", "as it says"),
]


@pytest.mark.parametrize(("how", "rule", "verified", "sender", "action", "why"), BEHIND)
def test_a_refusal_behind_the_queue(how: str, rule: str, verified: bool, sender: str, action: str, why: str) -> None:
    """after_queue says what becomes of a refusal where it would be a bounce; the rule stays."""
    facts = policy.Facts(now=NOW, sender=Sender(mail_from_verified=verified))
    envelope = Envelope(sender=sender, recipient=f"x@{DOMAIN}")
    result = policy.behind_queue(rule_decision("reject", rule), settings(after_queue=how), facts, envelope)
    assert (result.action, result.rule) == (action, rule), why


@pytest.mark.parametrize("action", ["accept", "defer", "discard", "park"])
def test_only_refusals_change_behind_the_queue(action: Any) -> None:
    """Everything but a reject is the same behind the queue."""
    decision = rule_decision(action, "automatic")
    facts, envelope = policy.Facts(now=NOW), Envelope(sender="", recipient="x@y")
    assert policy.behind_queue(decision, settings(after_queue="bounce"), facts, envelope) == decision


DAY = 86_400.0
HANDOVERS = [
    ("delivered", 0, 0.0, "accept", "accepted", "the sink has it"),
    ("delivered", 9, 9 * DAY, "accept", "accepted", "late, but it has it"),
    ("refused", 0, 0.0, "reject", "app-refused", "the app said so"),
    ("cannot-take", 1, 0.0, "defer", "app-cannot-take", "the first time"),
    ("cannot-take", 2, 0.0, "defer", "app-cannot-take", "the second"),
    ("cannot-take", 3, 0.0, "park", "app-cannot-take", "three tries are enough"),
    ("misconfigured", 0, 0.0, "defer", "app-misconfigured", "a person must mend it; the mail waits"),
    ("unavailable", 0, 4 * DAY, "defer", "app-unavailable", "give_up_after itself still waits"),
    ("unavailable", 0, 4 * DAY + 1, "park", "gave-up", "before Postfix would bounce it"),
    ("misconfigured", 0, 4 * DAY + 1, "park", "gave-up", "the same"),
    ("cannot-take", 1, 4 * DAY + 1, "park", "gave-up", "the same"),
    ("a kind of a later version", 0, 0.0, "defer", "app-unavailable", "in doubt, defer"),
]


@pytest.mark.parametrize(("kind", "times", "age", "action", "rule", "why"), HANDOVERS)
def test_what_a_sinks_answer_becomes(kind: str, times: int, age: float, action: str, rule: str, why: str) -> None:
    """The answer of a sink, how often it could not take the message, and how long that goes on."""
    decision = policy.after_handover(
        kind, detail="d", text="", cannot_take=times, first_seen=NOW - age, settings=settings(), now=NOW
    )
    assert (decision.action, decision.rule) == (action, rule), why


def test_an_apps_refusal_keeps_the_apps_words() -> None:
    """The text that the app gives is the public text."""
    decision = policy.after_handover(
        "refused", detail="", text="Closed", cannot_take=0, first_seen=NOW, settings=settings(), now=NOW
    )
    assert decision.text == "Closed"


@pytest.mark.parametrize("slug", RULES)
def test_every_rule_has_a_class_that_fits(slug: str) -> None:
    """The first digit says transient or permanent, and the text is one printable line without the slug."""
    rule = RULES[slug]
    assert rule.status[0] in "245"
    assert rule.text.isprintable()
    assert rule.text
    assert rule.meaning
    if slug in ("internal-error", "deadline", "config-error", "store-unavailable", "in-flight", "app-unavailable"):
        assert rule.status[0] == "4"


def test_every_rule_of_the_order_is_in_the_table() -> None:
    """No rule can decide that decision.RULES does not list."""
    assert {slug for slug, _ in policy.ORDER} <= set(RULES)


HEX = "0123456789abcdef0123456789abcdef"


def foreign(**form: Any) -> Settings:
    """A route for another app's keys."""
    return settings(route("app", f"incoming+%{{key}}@{DOMAIN}", keys=KeySettings(**form)))


FOREIGN = [
    ("gitlab", {"format": "gitlab"}, HEX, b"", b"", ("accepted", "reply", HEX, ()), "a reply key"),
    ("gitlab kinds", {"format": "gitlab", "kinds": ("issue",)}, HEX, b"", b"", ("key-unknown", None, None, None), "not taken here"),
    ("zulip", {"format": "zulip"}, f"general.{HEX}.prefer-html", b"", b"",
     ("accepted", "channel", HEX, ("prefer-html",)), "a channel with an option"),
    ("zulip reply", {"format": "zulip", "kinds": ("reply",)}, f"mm{HEX}", b"", b"", ("accepted", "reply", f"mm{HEX}", ()), "mm and hex"),
    ("pattern", {"format": "pattern", "pattern": "[0-9]{4}"}, "1234", b"", b"", ("accepted", "", "1234", ()), "matches"),
    ("pattern not", {"format": "pattern", "pattern": "[0-9]{4}"}, "12345", b"", b"", ("key-unknown", None, None, None), "anchored"),
    ("list", {"format": "list", "file": "/k"}, "abc", b"abc ticket-7\n", b"", ("accepted", "", "ticket-7", ()), "in the file"),
    ("list not", {"format": "list", "file": "/k"}, "abd", b"abc\n", b"", ("key-unknown", None, None, None), "not in the file"),
    ("list revoked", {"format": "list", "file": "/k"}, "abc", b"abc\n", b"abc\n", ("key-revoked", None, None, None), "in both"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "listed", "gone", "expected"), [r[1:6] for r in FOREIGN], ids=[r[0] for r in FOREIGN])
def test_other_apps_keys(form: dict[str, Any], text: str, listed: bytes, gone: bytes, expected: tuple[Any, ...]) -> None:
    """Rule, kind, subject and options of a key that another app made."""
    envelope = Envelope(sender="person@example.org", recipient=f"incoming+{text}@{DOMAIN}", queue_id="Q1")
    decision = policy.decide(envelope, mail(), foreign(**form), policy.Facts(now=NOW, revoked=gone, listed=listed))
    found = decision.key
    assert (decision.rule, *((found.kind, found.subject, found.options) if found else (None, None, None))) == expected


def test_a_made_up_message_id_is_no_loop() -> None:
    """Of a format that cannot tell a made-up key, a Message-ID proves nothing: a person's mail would vanish."""
    made_up = mail(f"Message-ID: <reply-{HEX}@{DOMAIN}>\n")
    envelope = Envelope(sender="person@example.org", recipient=f"incoming+{HEX}@{DOMAIN}", queue_id="Q1")
    assert policy.decide(envelope, made_up, foreign(format="gitlab"), policy.Facts(now=NOW)).rule == "accepted"
