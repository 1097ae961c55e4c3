"""The policy: what each rule decides, what a refusal becomes behind the queue, what a sink's answer becomes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatepost import consequences, policy
from gatepost.decision import RULES, Decision, Envelope, Sender, rule_decision
from gatepost.keys.keyring import revocation_line
from gatepost.keys.reply_ids import mint as mint_id
from gatepost.keys.signed import mint
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import Message, parse
from gatepost.masking import masked
from gatepost.settings import (
    Ask,
    KeySettings,
    MilterSettings,
    ParkedLimits,
    ParserLimits,
    Route,
    Screening,
    Settings,
    Sink,
    Timing,
)

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
    decision = rule_decision("reject", rule).replace(sender=Sender(mail_from_verified=verified))
    envelope = Envelope(sender=sender, recipient=f"x@{DOMAIN}")
    result = consequences.behind_queue(decision, settings(after_queue=how), envelope)
    assert (result.action, result.rule) == (action, rule), why


@pytest.mark.parametrize("action", ["accept", "defer", "discard", "park"])
def test_only_refusals_change_behind_the_queue(action: Any) -> None:
    """Everything but a reject is the same behind the queue."""
    decision = rule_decision(action, "automatic")
    envelope = Envelope(sender="", recipient="x@y")
    assert consequences.behind_queue(decision, settings(after_queue="bounce"), envelope) == decision


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
    decision = consequences.after_handover(
        kind, detail="d", text="", cannot_take=times, first_seen=NOW - age, settings=settings(), now=NOW
    )
    assert (decision.action, decision.rule) == (action, rule), why


def test_an_apps_refusal_keeps_the_apps_words() -> None:
    """The text that the app gives is the public text."""
    decision = consequences.after_handover(
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


# At RCPT


ASKED = KeySettings(format="gitlab", ask=Ask(url="https://app.example.com/k"))
ASKING = (route("desk", f"desk+%{{key}}@{DOMAIN}", keys=ASKED),)
CLOSED = (route("closed", f"reply+%{{key}}@{DOMAIN}", deny=("192.0.2.0/24", "bad.example.net", "person@example.net")),)

#: id, local part, MAIL FROM, client, the app's answer, routes; rule, action.
AT_RCPT: list[tuple[str, str, str, str, Any, tuple[Route, ...], str, str]] = [
    ("live", f"reply+{LIVE}", "a@example.org", "", "", (), "accepted", "accept"),
    ("unknown", "reply+garbage", "a@example.org", "", "", (), "key-unknown", "reject"),
    ("empty", "reply+", "a@example.org", "", "", (), "key-unknown", "reject"),
    ("forged", f"reply+{key(secret=STRANGERS_SECRET)}", "a@example.org", "", "", (), "key-forged", "reject"),
    ("expired", f"reply+{EXPIRED}", "a@example.org", "", "", (), "key-expired", "reject"),
    ("revoked", f"reply+{key(b'revoked')}", "a@example.org", "", "", (), "key-revoked", "reject"),
    ("not ours", "other", "a@example.org", "", "", (), "no-route", "reject"),
    ("postmaster", "Postmaster", "a@example.org", "", "", (), "role-address", "park"),
    ("dedicated", "support", "a@example.org", "", "", (), "accepted", "accept"),
    ("null sender", f"reply+{LIVE}", "", "", "", (), "accepted", "accept"),
    ("mailer-daemon", f"reply+{LIVE}", "mailer-daemon@example.org", "", "", (), "accepted", "accept"),
    ("app says yes", f"desk+{'0' * 32}", "a@example.org", "", "yes", ASKING, "accepted", "accept"),
    ("app says no", f"desk+{'0' * 32}", "a@example.org", "", "no", ASKING, "key-unknown", "reject"),
    ("app says nothing", f"desk+{'0' * 32}", "a@example.org", "", "unavailable", ASKING, "ask-unavailable", "defer"),
    ("app not asked", f"desk+{'0' * 32}", "a@example.org", "", "", ASKING, "accepted", "accept"),
    ("no key to ask about", "desk+garbage", "a@example.org", "", "unavailable", ASKING, "key-unknown", "reject"),
    ("client denied", f"reply+{LIVE}", "a@example.org", "192.0.2.7", "", CLOSED, "sender-denied", "reject"),
    ("client not denied", f"reply+{LIVE}", "a@example.org", "192.0.3.7", "", CLOSED, "accepted", "accept"),
    ("MAIL FROM denied", f"reply+{LIVE}", "Person@example.net", "", "", CLOSED, "sender-denied", "reject"),
    ("MAIL FROM's domain denied", f"reply+{LIVE}", "a@bad.example.net", "", "", CLOSED, "sender-denied", "reject"),
    ("denied, and a dead key: nobody learns which", "reply+garbage", "a@bad.example.net", "", "", CLOSED, "sender-denied", "reject"),
    ("must-match waits", f"reply+{OWNED}", "a@example.org", "", "", guarded("reject"), "accepted", "accept"),
    ("allow waits", f"reply+{LIVE}", "a@example.org", "", "", (route("r", f"reply+%{{key}}@{DOMAIN}", allow=("b@example.org",)),),
     "accepted", "accept"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("local", "sender", "client", "alive", "routes", "rule", "action"),
    [row[1:] for row in AT_RCPT],
    ids=[r[0] for r in AT_RCPT],
)
def test_what_can_be_said_at_rcpt(
    local: str, sender: str, client: str, alive: Any, routes: tuple[Route, ...], rule: str, action: str
) -> None:
    """Recipient, key, the app's answer and who may not write are known at RCPT; what needs the message lets it pass."""
    envelope = Envelope(sender=sender, recipient=f"{local}@{DOMAIN}", client_address=client)
    facts = policy.Facts(now=NOW, revoked=REVOKED_FILE, alive=alive)
    decision = policy.at_recipient(envelope, settings(*routes), facts)
    assert (decision.rule, decision.action) == (rule, action)
    whole = policy.decide(envelope, mail(), settings(*routes), facts)
    if rule != "accepted":
        assert (whole.rule, whole.status, whole.text) == (decision.rule, decision.status, decision.text)


def test_no_rule_at_rcpt_needs_a_message() -> None:
    """The trace of RCPT names the rules before the first that reads a message, and `accepted`."""
    envelope = Envelope(sender="", recipient=f"reply+{LIVE}@{DOMAIN}")
    trace = policy.at_recipient(envelope, settings(), policy.Facts(now=NOW)).trace
    assert [step.rule for step in trace] == [
        "role-address", "no-route", "sender-denied", "key-unknown", "key-forged", "key-expired", "key-revoked", "ask-unavailable",
        "accepted",
    ]  # fmt: skip


def test_refusals_at_rcpt_look_alike() -> None:
    """Unknown, forged, expired, revoked, and dead by the app's word: one status, one text."""
    dead = [row for row in AT_RCPT if row[6].startswith("key-")]
    facts = policy.Facts(now=NOW, revoked=REVOKED_FILE)
    told = {
        (decision.action, decision.status, decision.text)
        for _, local, sender, client, alive, routes, *_ in dead
        for decision in [
            policy.at_recipient(
                Envelope(sender=sender, recipient=f"{local}@{DOMAIN}", client_address=client),
                settings(*routes),
                facts.replace(alive=alive),
            )
        ]
    }
    assert told == {("reject", "5.1.1", "No such address")}


# Whether the app says that the key lives


SIGNED_AND_ASKED = keys(ask=Ask(url="https://app.example.com/k"))
#: id, the route's keys, recipient, header lines; the key that the app is asked about, and what becomes of a yes, a no and silence.
ASKS: list[tuple[str, KeySettings | None, str, str, str | None, tuple[str, str, str]]] = [
    ("recipient's key", ASKED, f"desk+{'0' * 32}", "", "0" * 32, ("accepted", "key-unknown", "ask-unavailable")),
    ("signed key", SIGNED_AND_ASKED, f"desk+{LIVE}", "", LIVE, ("accepted", "key-unknown", "ask-unavailable")),
    ("garbage", ASKED, "desk+garbage", "", None, ("key-unknown",) * 3),
    ("forged", SIGNED_AND_ASKED, f"desk+{key(secret=STRANGERS_SECRET)}", "", None, ("key-forged",) * 3),
    ("expired", SIGNED_AND_ASKED, f"desk+{EXPIRED}", "", None, ("key-expired",) * 3),
    ("revoked", SIGNED_AND_ASKED, f"desk+{key(b'revoked')}", "", None, ("key-revoked",) * 3),
    ("no ask:", keys(), f"desk+{LIVE}", "", None, ("accepted",) * 3),
    ("no keys", None, "team", "", None, ("accepted",) * 3),
    ("thread's key", SIGNED_AND_ASKED, "team", f"In-Reply-To: {PARENT}\n", LIVE, ("accepted", "accepted", "ask-unavailable")),
    ("no thread", SIGNED_AND_ASKED, "team", "", None, ("accepted",) * 3),
    ("forged thread", SIGNED_AND_ASKED, "team", f"In-Reply-To: {FORGED}\n", None, ("accepted",) * 3),
    ("recipient's key before the thread's", SIGNED_AND_ASKED, f"desk+{LIVE}", f"In-Reply-To: {OTHER}\n", LIVE,
     ("accepted", "key-unknown", "ask-unavailable")),
    ("role", SIGNED_AND_ASKED, "postmaster", f"In-Reply-To: {PARENT}\n", None, ("role-address",) * 3),
]  # fmt: skip


@pytest.mark.parametrize(("form", "local", "head", "raw", "rules"), [row[1:] for row in ASKS], ids=[row[0] for row in ASKS])
def test_what_the_app_is_asked_and_what_its_answer_does(
    form: KeySettings | None, local: str, head: str, raw: str | None, rules: tuple[str, str, str]
) -> None:
    """Only a key that lives as far as we can tell is asked about; a no is as if it never was, silence waits."""
    asking = settings(route("desk", f"desk+%{{key}}@{DOMAIN}", keys=form), route("team", f"team@{DOMAIN}", keys=form))
    envelope = Envelope(sender="person@example.org", recipient=f"{local}@{DOMAIN}", queue_id="Q1")
    facts = policy.Facts(now=NOW, revoked=REVOKED_FILE)
    asked = policy.key_to_ask(envelope, mail(head), asking, facts)
    assert (asked and asked.raw) == raw
    alives: tuple[Any, ...] = ("yes", "no", "unavailable")
    decisions = [policy.decide(envelope, mail(head), asking, facts.replace(alive=alive)) for alive in alives]
    assert tuple(decision.rule for decision in decisions) == rules
    if raw is not None:
        assert [decision.key and decision.key.raw for decision in decisions] == [raw, None, raw]
        assert policy.key_to_ask(envelope, mail(head), asking, facts.replace(alive="no")) == asked, (
            "the answer changes no question"
        )


def test_a_thread_that_the_app_says_is_dead_is_a_new_conversation() -> None:
    """A dedicated address takes everybody: the thread's key being dead only takes the thread away, and its owner."""
    owned = mint_id(OWNED, b"12345678", DOMAIN)
    team = settings(route("team", f"team@{DOMAIN}", keys=SIGNED_AND_ASKED, must_match="reject"))
    envelope = Envelope(sender="person@example.org", recipient=f"team@{DOMAIN}", queue_id="Q1")
    message = mail(f"In-Reply-To: {owned}\n")
    assert policy.decide(envelope, message, team, policy.Facts(now=NOW, alive="yes")).rule == "sender-mismatch"
    dead = policy.decide(envelope, message, team, policy.Facts(now=NOW, alive="no"))
    assert (dead.rule, dead.key, dead.thread) == ("accepted", None, None)


# Who may write


def peopled(**sender: Any) -> tuple[Route, ...]:
    """A route with `sender:`."""
    return (route("replies", f"reply+%{{key}}@{DOMAIN}", **sender),)


YES, NO, UNKNOWN = (Sender(verified="yes", by="dmarc mx"), Sender(verified="no", by="dmarc mx"), Sender())
TEMPORARY = Sender(temporary=True)
#: id, `sender:`, key, MAIL FROM, From, client, what our own checks say; rule and action.
PEOPLE: list[tuple[str, dict[str, Any], str, str, str, str, Sender, str, str]] = [
    # deny: whoever says so, verified or not
    *((f"deny From, {sender.verified}{', temporary' * sender.temporary}", {"deny": ("a@example.org",)}, LIVE, "x@example.net",
       "a@example.org", "", sender, "sender-denied", "reject") for sender in (YES, NO, UNKNOWN, TEMPORARY)),
    ("deny From's domain", {"deny": ("example.org",)}, LIVE, "x@example.net", "a@example.org", "", YES, "sender-denied", "reject"),
    ("deny below From's domain", {"deny": (".example.org",)}, LIVE, "x@example.net", "a@b.example.org", "", YES, "sender-denied", "reject"),
    ("deny not From's domain", {"deny": (".example.org",)}, LIVE, "x@example.net", "a@example.org", "", YES, "accepted", "accept"),
    ("deny one of two in From", {"deny": ("b@example.org",)}, LIVE, "x@example.net", "a@example.org>, B <b@example.org", "", YES,
     "sender-denied", "reject"),
    ("deny MAIL FROM", {"deny": ("x@example.net",)}, LIVE, "x@example.net", "a@example.org", "", YES, "sender-denied", "reject"),
    ("deny the client", {"deny": ("192.0.2.0/24",)}, LIVE, "x@example.net", "a@example.org", "192.0.2.7", YES, "sender-denied", "reject"),
    ("deny the client, mapped", {"deny": ("192.0.2.0/24",)}, LIVE, "x@example.net", "a@example.org", "::ffff:192.0.2.7", YES,
     "sender-denied", "reject"),
    ("deny the client, IPv6", {"deny": ("2001:db8::/32",)}, LIVE, "x@example.net", "a@example.org", "IPv6:2001:db8::7", YES,
     "sender-denied", "reject"),
    ("deny somebody else", {"deny": ("192.0.2.0/24", "b@example.org", "example.com")}, LIVE, "x@example.net", "a@example.org",
     "198.51.100.7", YES, "accepted", "accept"),
    ("deny before allow", {"deny": ("a@example.org",), "allow": ("example.org",)}, LIVE, "x@example.net", "a@example.org", "", YES,
     "sender-denied", "reject"),
    ("deny a null sender's From", {"deny": ("example.org",)}, LIVE, "", "a@example.org", "", UNKNOWN, "sender-denied", "reject"),
    # allow: by the client's address, or by a From that is verified
    ("allow From, verified", {"allow": ("a@example.org",)}, LIVE, "x@example.net", "a@example.org", "", YES, "accepted", "accept"),
    ("allow From's domain", {"allow": ("example.org",)}, LIVE, "x@example.net", "a@example.org", "", YES, "accepted", "accept"),
    ("allow below From's domain", {"allow": (".example.org",)}, LIVE, "x@example.net", "a@b.example.org", "", YES, "accepted", "accept"),
    ("allow From, unknown", {"allow": ("example.org",)}, LIVE, "x@example.net", "a@example.org", "", UNKNOWN,
     "sender-unverified", "reject"),
    ("allow From, failed", {"allow": ("example.org",)}, LIVE, "x@example.net", "a@example.org", "", NO, "sender-unverified", "reject"),
    ("allow From, DNS silent", {"allow": ("example.org",)}, LIVE, "x@example.net", "a@example.org", "", TEMPORARY,
     "sender-unchecked", "defer"),
    ("allow MAIL FROM is not enough", {"allow": ("example.net",)}, LIVE, "x@example.net", "a@example.org", "",
     YES.replace(mail_from_verified=True), "sender-not-allowed", "reject"),
    ("allow another", {"allow": ("b@example.org",)}, LIVE, "x@example.net", "a@example.org", "", YES, "sender-not-allowed", "reject"),
    ("allow another, DNS silent", {"allow": ("b@example.org",)}, LIVE, "x@example.net", "a@example.org", "", TEMPORARY,
     "sender-not-allowed", "reject"),
    ("allow one of two in From", {"allow": ("a@example.org",)}, LIVE, "x@example.net", "a@example.org>, B <b@example.org", "", YES,
     "sender-not-allowed", "reject"),
    ("allow the client", {"allow": ("192.0.2.0/24",)}, LIVE, "x@example.net", "a@example.org", "192.0.2.7", UNKNOWN, "accepted", "accept"),
    ("allow the client, whatever From", {"allow": ("192.0.2.0/24",)}, LIVE, "x@example.net", "a@example.org", "192.0.2.7", NO,
     "accepted", "accept"),
    ("allow another client", {"allow": ("192.0.2.0/24",)}, LIVE, "x@example.net", "a@example.org", "198.51.100.7", YES,
     "sender-not-allowed", "reject"),
    ("allow nobody in particular", {"allow": ()}, LIVE, "x@example.net", "a@example.org", "", UNKNOWN, "accepted", "accept"),
    # must-match, and DNS that does not answer
    ("owner, DNS silent, reject", {"must_match": "reject"}, OWNED, "x@example.net", "owner@example.org", "", TEMPORARY,
     "sender-unchecked", "defer"),
    ("owner, DNS silent, park", {"must_match": "park"}, OWNED, "x@example.net", "owner@example.org", "", TEMPORARY,
     "sender-unverified", "park"),
    ("owner, DNS silent, flag", {"must_match": "flag"}, OWNED, "x@example.net", "owner@example.org", "", TEMPORARY, "accepted", "accept"),
    ("another, DNS silent", {"must_match": "reject"}, OWNED, "x@example.net", "a@example.org", "", TEMPORARY, "sender-mismatch", "reject"),
    ("no owner, DNS silent", {"must_match": "reject"}, LIVE, "x@example.net", "a@example.org", "", TEMPORARY, "accepted", "accept"),
    ("owner, failed for good", {"must_match": "reject"}, OWNED, "x@example.net", "owner@example.org", "",
     NO.replace(temporary=True), "sender-unverified", "reject"),
    # both: must-match may only flag or park, what allow says refuses
    ("owner allowed, verified", {"must_match": "flag", "allow": ("example.org",)}, OWNED, "x@example.net", "owner@example.org", "", YES,
     "accepted", "accept"),
    ("owner allowed, unverified, flag", {"must_match": "flag", "allow": ("example.org",)}, OWNED, "x@example.net", "owner@example.org",
     "", UNKNOWN, "sender-unverified", "reject"),
    ("owner allowed, DNS silent, flag", {"must_match": "flag", "allow": ("example.org",)}, OWNED, "x@example.net", "owner@example.org",
     "", TEMPORARY, "sender-unchecked", "defer"),
    ("owner allowed, DNS silent, park", {"must_match": "park", "allow": ("example.org",)}, OWNED, "x@example.net", "owner@example.org",
     "", TEMPORARY, "sender-unchecked", "defer"),
    ("owner allowed by client, flag", {"must_match": "flag", "allow": ("192.0.2.0/24",)}, OWNED, "x@example.net", "owner@example.org",
     "192.0.2.7", UNKNOWN, "accepted", "accept"),
    ("owner allowed by client, reject", {"must_match": "reject", "allow": ("192.0.2.0/24",)}, OWNED, "x@example.net",
     "owner@example.org", "192.0.2.7", UNKNOWN, "sender-unverified", "reject"),
    ("another allowed, flag", {"must_match": "flag", "allow": ("example.org",)}, OWNED, "x@example.net", "a@example.org", "", UNKNOWN,
     "sender-unverified", "reject"),
    ("another allowed and verified, flag", {"must_match": "flag", "allow": ("example.org",)}, OWNED, "x@example.net", "a@example.org",
     "", YES, "accepted", "accept"),
    ("owner not allowed", {"must_match": "park", "allow": ("example.com",)}, OWNED, "x@example.net", "owner@example.org", "", YES,
     "sender-not-allowed", "reject"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("people", "made", "mail_from", "author", "client", "sender", "rule", "action"),
    [row[1:] for row in PEOPLE],
    ids=[r[0] for r in PEOPLE],
)
def test_who_may_write(
    people: dict[str, Any], made: str, mail_from: str, author: str, client: str, sender: Sender, rule: str, action: str
) -> None:
    """deny, allow and must-match, each alone and together, for each that our own checks may say of the sender."""
    envelope = Envelope(sender=mail_from or "", recipient=f"reply+{made}@{DOMAIN}", queue_id="Q1", client_address=client)
    chosen = settings(route("replies", f"reply+%{{key}}@{DOMAIN}", **people))
    if not mail_from:  # a null reverse-path is a rule of its own, and before the senders' ones only deny stands
        chosen = settings(route("replies", f"reply+%{{key}}@{DOMAIN}", screening=Screening(bounces="accept"), **people))
    decision = policy.decide(envelope, mail(sender=author), chosen, policy.Facts(now=NOW, sender=sender, direct=True))
    assert (decision.rule, decision.action) == (rule, action)
    assert decision.sender.temporary == sender.temporary or len(author) > 30


FLAGGED = [
    (OWNED, "owner@example.org", UNKNOWN, ["sender-unverified"]),
    (OWNED, "owner@example.org", TEMPORARY, ["sender-unchecked"]),
    (OWNED, "a@example.org", YES, ["sender-mismatch"]),
    (OWNED, "owner@example.org", YES, []),
    (LIVE, "a@example.org", UNKNOWN, []),
]


@pytest.mark.parametrize(("made", "author", "sender", "slugs"), FLAGGED)
def test_what_flag_tells_the_app(made: str, author: str, sender: Sender, slugs: list[str]) -> None:
    """The app hears which doubt there is, and none where there is none."""
    envelope = Envelope(sender="x@example.net", recipient=f"reply+{made}@{DOMAIN}", queue_id="Q1")
    decision = policy.decide(
        envelope, mail(sender=author), settings(*peopled(must_match="flag")), policy.Facts(now=NOW, sender=sender)
    )
    assert decision.action == "accept"
    assert [finding.slug for finding in decision.findings if finding.family == "sender"] == slugs


MALFORMED = [
    ("too-many-references", "References: " + "<a@example.org> " * 501 + "\n"),
    ("too-many-addresses", "To: " + "a@example.org, " * 1_001 + "\n"),
    ("too-many-parameters", "Content-Type: text/plain" + "; a=b" * 101 + "\n"),
    ("too-many-fields", "X-Other: y\n" * 2_001),
    ("field-too-long", "X-Other: " + "y" * 102_401 + "\n"),
    ("header-too-large", ("X-Other: " + "y" * 90_000 + "\n") * 12),
]


@pytest.mark.parametrize("action", ["accept", "reject", "discard", "park"])
@pytest.mark.parametrize(("flag", "head"), MALFORMED, ids=[row[0] for row in MALFORMED])
def test_what_is_past_a_limit(flag: str, head: str, action: Any) -> None:
    """Each limit of the parser that cuts something is `malformed`, with the action that screening names; accepted by default."""
    envelope = Envelope(sender="person@example.org", recipient=f"reply+{LIVE}@{DOMAIN}", queue_id="Q1")
    decision = policy.decide(envelope, mail(head), settings(*screened(malformed=action)), policy.Facts(now=NOW))
    assert (decision.action, decision.rule) == (action, "accepted" if action == "accept" else "malformed")
    assert flag in {finding.slug for finding in decision.findings}
    assert Screening().malformed == "accept"


def test_what_is_only_strange_is_not_malformed() -> None:
    """An 8-bit octet, a missing colon, a NUL: the parser notices, and read everything."""
    envelope = Envelope(sender="person@example.org", recipient=f"reply+{LIVE}@{DOMAIN}", queue_id="Q1")
    strange = mail("no colon\nX-\0: \xe9\nX :y\n")
    decision = policy.decide(envelope, strange, settings(*screened(malformed="reject")), policy.Facts(now=NOW))
    assert decision.rule == "accepted"
    assert len([finding for finding in decision.findings if finding.family == "parser"]) >= 4


# All recipients of a message together


ACTIONS: Any = ("accept", "reject", "defer", "discard", "park")


@pytest.mark.parametrize("others", [False, True], ids=["ours alone", "and others"])
@pytest.mark.parametrize(
    "actions",
    [each for size in range(4) for each in itertools.combinations_with_replacement(ACTIONS, size)],
    ids=lambda actions: "+".join(actions) or "none",
)
def test_recipients_together(actions: tuple[Any, ...], others: bool) -> None:
    """One answer for all, in every order: nobody's verdict is lost, and nobody loses mail for another's sake."""
    answers = {
        consequences.together(tuple(rule_decision(action, "accepted") for action in order), others=others)
        for order in itertools.permutations(actions)
    }
    (answer,) = answers
    if answer == "accept":
        wanted = others or not actions or {"accept", "park"} & set(actions)
        assert wanted or {"reject", "discard"} == set(actions), "a 250 has a recipient who is to have it, or two minds"
    elif answer == "defer":
        assert "defer" in actions
        assert not {"accept", "park"} & set(actions)
        assert not others
    else:
        assert set(actions) == {answer}, "a final answer is everybody's"
        assert not others


TOGETHER: list[tuple[str, bool, str]] = [
    ("reject", False, "reject"), ("reject reject", False, "reject"), ("discard discard", False, "discard"),
    ("reject discard", False, "accept"), ("accept reject", False, "accept"), ("accept discard", False, "accept"),
    ("accept defer", False, "accept"), ("park defer", False, "accept"), ("park reject", False, "accept"),
    ("defer", False, "defer"), ("defer reject", False, "defer"), ("defer discard", False, "defer"),
    ("defer reject discard", False, "defer"), ("", False, "accept"), ("", True, "accept"),
    ("reject", True, "accept"), ("discard", True, "accept"), ("defer", True, "accept"),
]  # fmt: skip


@pytest.mark.parametrize(("actions", "others", "answer"), TOGETHER)
def test_recipients_together_by_example(actions: str, others: bool, answer: str) -> None:
    """The answers that the design names."""
    decisions = tuple(rule_decision(action, "accepted") for action in actions.split())  # type: ignore[arg-type]  # as written
    assert consequences.together(decisions, others=others) == answer


WAITING = [
    ("accept", "accepted", 9 * DAY, "accept", "accepted", "nothing waits"),
    ("reject", "key-unknown", 9 * DAY, "reject", "key-unknown", "nothing waits"),
    ("park", "loop", 9 * DAY, "park", "loop", "nothing waits"),
    ("defer", "limit", 0.0, "defer", "limit", "it waits"),
    ("defer", "limit", 4 * DAY, "defer", "limit", "give_up_after itself still waits"),
    ("defer", "limit", 4 * DAY + 1, "park", "gave-up", "before Postfix would bounce it"),
    ("defer", "ask-unavailable", 4 * DAY + 1, "park", "gave-up", "the same"),
    ("defer", "sender-unchecked", 4 * DAY + 1, "park", "gave-up", "the same"),
    ("defer", "sender-unchecked", -9 * DAY, "defer", "sender-unchecked", "a clock that was set back"),
]


@pytest.mark.parametrize(("action", "rule", "age", "then", "as_rule", "why"), WAITING)
def test_what_waits_behind_the_queue(action: Any, rule: str, age: float, then: str, as_rule: str, why: str) -> None:
    """A deferral behind the queue ends before the queue would end it; its reason goes into the detail."""
    verdict = rule_decision(action, rule, detail="because", route="replies").replace(sender=TEMPORARY)
    waited = consequences.waiting(verdict, first_seen=NOW - age, settings=settings(), now=NOW)
    assert (waited.action, waited.rule) == (then, as_rule), why
    if as_rule == "gave-up":
        assert waited.detail == f"{rule}: because"
        assert waited.sender == TEMPORARY
    else:
        assert waited == verdict


# Who says who the sender is


def results(who: str, verdict: str = "pass", domain: str = "example.org") -> str:
    """An Authentication-Results field."""
    return f"Authentication-Results: {who}; dmarc={verdict} header.from={domain}; spf={verdict} smtp.mailfrom={domain}\n"


MX = "mx.example.com"
RELAY = "relay.example.net"
OWN_HOP = HOP.format(by=MX, id="Q1", to=f"reply+{LIVE}@{DOMAIN}")
BY_RELAY = HOP.format(by=RELAY, id="F", to=f"reply+{LIVE}@{DOMAIN}")
#: id, trusted, milter there, what our own checks say, direct, the head; verified, MAIL FROM verified.
WORDS: list[tuple[str, tuple[str, ...], bool, Sender | None, bool, str, str, bool]] = [
    # nothing checked here: what a trusted host wrote
    ("relay's word", (RELAY,), True, None, False, OWN_HOP + BY_RELAY + results(RELAY), "yes", True),
    ("relay's word above its hop", (RELAY,), True, None, False, OWN_HOP + results(RELAY) + BY_RELAY, "yes", True),
    ("a stranger's hop, relay's name", (RELAY,), True, None, False, OWN_HOP + HOP.format(by="far.example.net", id="F", to="x@example.net")
     + results(RELAY), "unknown", False),
    ("both trusted", (MX, RELAY), True, None, False, OWN_HOP + BY_RELAY + results(RELAY), "yes", True),
    ("both trusted, failed", (MX, RELAY), True, None, False, OWN_HOP + BY_RELAY + results(RELAY, "fail"), "no", False),
    # checked here, and known: nothing that is written changes it
    ("yes, and no is written", (MX, RELAY), True, YES, False, OWN_HOP + BY_RELAY + results(RELAY, "fail"), "yes", False),
    ("no, and yes is written", (MX, RELAY), True, NO, False, OWN_HOP + BY_RELAY + results(RELAY), "no", True),
    # checked here, and unknown: a trusted host that had it before may know
    ("unknown, and yes is written", (MX, RELAY), True, UNKNOWN, False, OWN_HOP + BY_RELAY + results(RELAY), "yes", True),
    ("unknown, and nothing is", (MX, RELAY), True, UNKNOWN, False, OWN_HOP + BY_RELAY, "unknown", False),
    # a direct client is none of them, whatever it writes
    ("direct, forged hop", (MX, RELAY), True, UNKNOWN, True, OWN_HOP + BY_RELAY + results(RELAY), "unknown", False),
    ("direct, forged hop, nothing else trusted", (RELAY,), True, UNKNOWN, True, OWN_HOP + BY_RELAY + results(RELAY), "unknown", False),
    ("direct, no hop", (MX, RELAY), True, UNKNOWN, True, OWN_HOP + results(RELAY), "unknown", False),
    ("direct, DNS silent", (MX, RELAY), True, TEMPORARY, True, OWN_HOP + results(RELAY), "unknown", False),
    ("direct, failed", (MX, RELAY), True, NO, True, OWN_HOP + results(RELAY), "no", False),
    ("direct, and MAIL FROM is written", (MX, RELAY), True, YES, True, OWN_HOP + results(RELAY), "yes", False),
    # our own name: worth something only with a stamp
    ("our name, milter down", (MX,), True, None, False, OWN_HOP + results(MX), "unknown", False),
    ("our name, and the relay's", (MX, RELAY), True, None, False, OWN_HOP + results(MX) + BY_RELAY + results(RELAY, "fail"), "no", False),
    ("our name, checked unknown", (MX,), True, UNKNOWN, False, OWN_HOP + results(MX), "unknown", False),
    ("our name, without a milter of ours", (MX,), False, None, False, OWN_HOP + results(MX), "yes", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("trusted", "milter", "known", "direct", "head", "verified", "mail_from"),
    [row[1:] for row in WORDS],
    ids=[row[0] for row in WORDS],
)
def test_whose_word_counts(
    trusted: tuple[str, ...], milter: bool, known: Sender | None, direct: bool, head: str, verified: str, mail_from: bool
) -> None:
    """Our own checks first; then what trusted hosts wrote, never our own name without a stamp, never a direct client's word."""
    own = MilterSettings(socket="unix:/m", authserv_id=MX) if milter else None
    message = parse(from_pipe(f"{head}From: person@example.org\n\nHello.\n".encode()), ParserLimits())
    envelope = Envelope(sender="person@example.org", recipient=f"reply+{LIVE}@{DOMAIN}", queue_id="Q1")
    facts = policy.Facts(now=NOW, sender=known, direct=direct)
    found = policy.decide(envelope, message, settings(trusted=trusted, milter=own), facts).sender
    assert (found.verified, found.mail_from_verified) == (verified, mail_from)


def test_from_that_names_nobody_is_nobody_s_whoever_was_checked() -> None:
    """Two addresses in From: no, even where our own checks said yes of one of them."""
    envelope = Envelope(sender="a@example.org", recipient=f"reply+{LIVE}@{DOMAIN}", queue_id="Q1")
    facts = policy.Facts(now=NOW, sender=YES.replace(mail_from_verified=True), direct=True)
    found = policy.decide(envelope, mail(sender="a@example.org>, B <b@example.org"), settings(), facts).sender
    assert (found.verified, found.by, found.mail_from_verified) == ("no", "", True)


def test_a_local_filter_s_spam_mark_counts_for_a_direct_client() -> None:
    """A milter of this host marked it: our own hop is the border, and it is trusted; a relay's forged hop changes nothing."""
    envelope = Envelope(sender="person@example.org", recipient=f"reply+{LIVE}@{DOMAIN}", queue_id="Q1")
    facts = policy.Facts(now=NOW, sender=YES, direct=True)
    forged = HOP.format(by=RELAY, id="F", to="x@example.net")
    for head, rule in ((OWN_HOP + "X-Spam: Yes\n", "spam"), (OWN_HOP + forged + "X-Spam: Yes\n", "accepted")):
        marked = parse(from_pipe(f"{head}From: person@example.org\n\nHello.\n".encode()), ParserLimits())
        assert policy.decide(envelope, marked, settings(trusted=(MX, RELAY)), facts).rule == rule
