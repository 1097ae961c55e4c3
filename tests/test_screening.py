"""The parts that findings are made of: subjects, the first screen, Authentication-Results, whose fields are whose, pairs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost import policy
from gatepost.decision import Decision, Envelope, Finding, Sender
from gatepost.frozen import freeze, thaw
from gatepost.mail.authentication_results import authentication_results
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import Message, parse
from gatepost.screening import automatic, bounces, lists, loops, spam
from gatepost.screening.bounce_text import BEGINNINGS, LIKELY, PHRASES
from gatepost.screening.opening import BYTES, PARTS, TEXT, opening
from gatepost.screening.passage import ours, passage
from gatepost.screening.subjects import BOUNCE, MAYBE_BOUNCE, VACATION, is_bounce, is_vacation
from gatepost.settings import ParserLimits
from tests.corpus_cases import FACTS, SETTINGS, cases
from tests.hostile import HOSTILE

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ParserLimits()
PERSON = Envelope(sender="person@example.org", recipient="reply+k@in.example.com", queue_id="Q1")


def message(text: str | bytes) -> Message:
    """A message as pipe(8) gives it."""
    return parse(from_pipe(text.encode() if isinstance(text, str) else text), LIMITS)


def slugs(found: tuple[Finding, ...]) -> set[str]:
    """What was found."""
    return {finding.slug for finding in found}


# Subjects


VACATIONS = [
    ("Automatic reply: Boats", True, "Exchange"),
    ("AUTOMATIC REPLY: Boats", True, "case says nothing"),
    ("[Automatic reply] Boats", True, "in brackets"),
    ("Abwesenheitsnotiz", True, "nothing behind it"),
    ("Réponse automatique\N{NO-BREAK SPACE}: Bateaux", True, "French puts a space before the colon"),
    ("自动回复\N{FULLWIDTH COLON}船", True, "a full-width colon"),
    ("自動返信】船", True, "a closing bracket of Japan"),
    ("Out of office - until Monday", True, "a dash"),
    ("Re: Automatic reply: Boats", False, "an answer"),
    ("AW: Abwesenheitsnotiz: Boote", False, "an answer in German"),
    ("Out of office policy", False, "goes on as a sentence"),
    ("Out of officers: a list", False, "another word"),
    ("My automatic reply: how?", False, "does not begin so"),
    ("vacation", False, "one word that people write"),
    ("", False, "no subject"),
]


@pytest.mark.parametrize(("subject", "expected"), [row[:2] for row in VACATIONS], ids=[row[2] for row in VACATIONS])
def test_a_vacation_subject_begins_as_a_machine_writes(subject: str, expected: bool) -> None:
    """The words stand at the beginning, and end as a machine ends them."""
    assert is_vacation(subject) is expected


@pytest.mark.parametrize("language", VACATION)
def test_vacation_subjects_of_each_language(language: str) -> None:
    """Each phrase is found with and without the answered subject behind it, and not behind `Re:` or within a sentence."""
    for phrase in VACATION[language]:
        assert phrase == phrase.lower().strip()
        assert is_vacation(phrase)
        assert is_vacation(f"{phrase.upper() if phrase.isascii() else phrase}: Boats")
        assert not is_vacation(f"Re: {phrase}: Boats")
        assert not is_vacation(f"{phrase}x")


def test_enough_languages() -> None:
    """At least twelve languages, of at least four scripts."""
    assert len(VACATION) >= 12
    assert {"en", "de", "fr", "es", "pt", "it", "nl", "pl", "ru", "ja", "zh", "ar"} <= set(VACATION)


SUBJECTS = [
    ("Undelivered Mail Returned to Sender", True, "Postfix"),
    ("Returned mail: see transcript for details", True, "sendmail"),
    ("Undeliverable: Boats", True, "Exchange"),
    ("[BOUNCE]", True, "James"),
    ("[BOUNCE] Boats", True, "James, with the subject"),
    ("Delivery Status Notification (Failure)", True, "Gmail, Exchange"),
    ("系统退信/Systems bounce", True, "a service in China"),
    ("complaint about message from 192.0.2.2", True, "Outlook.com"),
    ("Fwd: Undeliverable: Boats", False, "forwarded"),
    ("Undelivered parcel", False, "goes on as a sentence"),
    ("Undeliverables of May", False, "another word"),
    ("Mail delivery problem", False, "a postmaster writes so"),
]


@pytest.mark.parametrize(("subject", "expected"), [row[:2] for row in SUBJECTS], ids=[row[2] for row in SUBJECTS])
def test_a_bounces_subject(subject: str, expected: bool) -> None:
    """Only what mail programs print, at the beginning."""
    assert is_bounce(subject) is expected


def test_tables_are_as_they_are_compared() -> None:
    """Phrases are lower case with single spaces, and each stands once: another spelling would never be found."""
    for table in (BOUNCE, MAYBE_BOUNCE, BEGINNINGS, LIKELY, PHRASES):
        assert [phrase for phrase in table if phrase != phrase.lower().lstrip("*-=#~|[ ") or "  " in phrase] == []
        assert len(set(table)) == len(table)


# The first screen


HEAD = "From: a@example.org\nSubject: x\nMIME-Version: 1.0\n"
OPENINGS = [
    ("plain", HEAD + "\nHello\n  there\n", "hello there", ()),
    ("quoted lines", HEAD + "\n> quoted\nmine\n>> more\n", "mine", ()),
    ("forwarded", HEAD + "\nSee this.\n---------- Forwarded message ---------\nFrom: b\n", "see this.", ()),
    ("introduced", HEAD + "\nYes.\nOn Monday Ann <a@example.org> wrote:\nNo?\n", "yes.", ()),
    ("base64", HEAD + "Content-Transfer-Encoding: base64\n\nSGVsbG8=\n", "hello", ()),
    ("base64 that is none", HEAD + "Content-Transfer-Encoding: base64\n\n!!\n", "", ()),
    ("quoted-printable", HEAD + "Content-Type: text/plain; charset=iso-8859-1\n"
     "Content-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe\n", "grüße", ()),
    ("html", HEAD + "Content-Type: text/html\n\n<style>p{}</style><p>Hello&nbsp;<b>you</b></p>\n", "hello you", ()),
    ("html that quotes first", HEAD + "Content-Type: text/html\n\n<blockquote><p>A<blockquote>B</blockquote>C</p></blockquote>"
     "<p>mine</p>\n", "mine", ()),
    ("multipart", HEAD + 'Content-Type: multipart/mixed; boundary="b"\n\npreamble\n--b\n\nHello\n--b\n'
     "Content-Type: image/png\n\nx\n--b--\n", "hello", ("text/plain", "image/png")),
    ("nested", HEAD + "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/alternative; boundary=c\n\n"
     "--c\nContent-Type: text/plain\n\nHello\n--c--\n--b\nContent-Type: message/rfc822\n\nSubject: y\n\ninner\n--b--\n",
     "hello", ("multipart/alternative", "message/rfc822", "text/plain")),
    ("attached first", HEAD + "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: image/png\n\nx\n"
     "--b\n\nHello\n--b--\n", "hello", ("image/png", "text/plain")),
    ("no boundary", HEAD + "Content-Type: multipart/mixed\n\nHello\n", "hello", ()),
    ("boundary of another script", HEAD + "Content-Type: multipart/mixed; boundary=\"\u044f\"\n\nHello\n", "hello", ()),
    ("empty", HEAD, "", ()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said", "parts"), [row[1:] for row in OPENINGS], ids=[row[0] for row in OPENINGS])
def test_the_first_screen(text: str, said: str, parts: tuple[str, ...]) -> None:
    """What the sender wrote on top, decoded, without quotations; and the types of the parts, attached messages closed."""
    seen = opening(message(text))
    assert (seen.text, seen.parts) == (said, parts)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_found_nothing_wrong_in(name: str) -> None:
    """Each family's detectors end on every hostile message; the first screen keeps its limits."""
    hostile = message(HOSTILE[name](1))
    seen = opening(hostile)
    assert len(seen.text) <= TEXT
    assert len(seen.parts) <= PARTS * 5
    assert policy.decide(PERSON, hostile, SETTINGS, FACTS).rule


BODIES = {
    "tags": b"Content-Type: text/html\n\n" + b"<" * 200_000,
    "lines": b"\n" + b"a\n" * 200_000,
    "boundaries": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n" * 100_000,
    "nested": b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3_000)),
    "one line": b"\n" + b"a" * 500_000,
    "base64": b"Content-Transfer-Encoding: base64\n\n" + b"=" * 100_000,
    "part heads": b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" + b"a: b\n" * 100_000,
    "precedences": b"Precedence: bulk\n" * 2_000,
    "lists": b"Precedence: bulk\nList-Id: <a.example.org>\n" * 1_000,
    "loops": b"X-Loop: reply+k@in.example.com\n" * 2_000,
    "results": b"Authentication-Results: mx.example.com; " + b"a=b " * 20_000 + b"\n",
    "spam": b"X-Spam-Status: Yes (\n" * 2_000,
}


@pytest.mark.parametrize("name", BODIES)
def test_suspect_messages_made_to_be_slow(name: str) -> None:
    """A message that must be looked into keeps to the limits, and each slug is found once."""
    suspect = message(b"From: postmaster@example.org\nSubject: Undeliverable things\n" + BODIES[name])
    decision = policy.decide(PERSON, suspect, SETTINGS, FACTS)
    found = [finding.slug for finding in decision.findings]
    assert len(found) == len(set(found)) < 30
    assert len(opening(suspect).text) <= TEXT


@given(
    st.binary(max_size=400), st.sampled_from(["base64", "quoted-printable", "8bit"]),
    st.sampled_from(["text/html", "text/plain", "multipart/mixed; boundary=b"]),
)  # fmt: skip
def test_no_body_raises(body: bytes, encoding: str, kind: str) -> None:
    """Whatever the octets are."""
    head = f"From: postmaster@x\nSubject: Mail\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
    assert bounces.find(PERSON, message(head + body))


def test_only_so_much_is_read() -> None:
    """What stands behind the first octets is not seen."""
    late = "a\n" * (BYTES // 2) + "--b\nContent-Type: message/delivery-status\n\n"
    assert opening(message(HEAD + "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n" + late)).parts == ("text/plain",)


# Authentication-Results


RESULTS = [
    ("rfc 8601 B.3", b"example.com; spf=pass smtp.mailfrom=example.net", "example.com",
     [("spf", "pass", "smtp.mailfrom", "example.net")]),
    ("none", b"example.org 1; none", "example.org", []),
    ("trailing semicolon", b"example.org; spf=pass smtp.mailfrom=a@b;", "example.org",
     [("spf", "pass", "smtp.mailfrom", "a@b")]),
    ("capitals, final dot", b"MX.Example.COM.; DMARC=Pass HEADER.From=example.org", "mx.example.com",
     [("dmarc", "pass", "header.from", "example.org")]),
    ("comments everywhere", b"(a) mx.example.com (b) 1 (c); dkim (d) = (e) pass (f (g)) header.d (h) = (i) example.org",
     "mx.example.com",
     [("dkim", "pass", "header.d", "example.org")]),
    ("a semicolon in a comment", b"mx.example.com; dkim=pass (a; dmarc=pass) header.d=b", "mx.example.com",
     [("dkim", "pass", "header.d", "b")]),
    ("a semicolon in a reason", b'mx.example.com; dkim=fail reason="no; dmarc=pass" header.d=b', "mx.example.com",
     [("dkim", "fail", "header.d", "b")]),
    ("base64", b"mx.example.com; dkim=pass header.b=ab+/== header.d=b", "mx.example.com",
     [("dkim", "pass", "header.d", "b")]),
    ("version of the method", b"mx.example.com; dkim/1=pass header.d=b", "mx.example.com", [("dkim", "pass", "header.d", "b")]),
    ("quoted id", b'"mx.example.com"; spf=pass smtp.mailfrom="a b"@c', "mx.example.com",
     [("spf", "pass", "smtp.mailfrom", "a b@c")]),
    ("Microsoft's form", b"spf=pass smtp.mailfrom=a; dkim=pass header.d=a", None, []),
    ("version 2", b"mx.example.com 2; spf=pass smtp.mailfrom=a", None, []),
    ("two ids", b"mx.example.com mx2; spf=pass smtp.mailfrom=a", None, []),
    ("an unclosed comment", b"mx.example.com; spf=pass (smtp.mailfrom=a", None, []),
    ("an unclosed quote", b'mx.example.com; dkim=fail reason="a; dmarc=pass header.from=b', None, []),
    ("nothing", b"", None, []),
    ("too long", b"mx.example.com; " + b"a" * 20_000, None, []),
    ("garbage", b"mx.example.com; = = ; a ; b= ; =c ; d=pass =e", "mx.example.com", []),
]  # fmt: skip


@pytest.mark.parametrize(("value", "who", "expected"), [row[1:] for row in RESULTS], ids=[row[0] for row in RESULTS])
def test_authentication_results(value: bytes, who: str | None, expected: list[tuple[str, str, str, str]]) -> None:
    """Who speaks, and of each expected result its value and a property."""
    read = authentication_results(value)
    assert (read and read.authserv_id) == who
    results = {each.method: each for each in read.results} if read else {}
    for method, result, name, content in expected:
        assert (results[method].result, results[method].property(name)) == (result, content)
    assert "dmarc" not in results or ("dmarc", "pass", "header.from", "example.org") in expected


@given(st.lists(st.sampled_from([b"mx", *map(bytes, zip(b';=()" /1\\\xff', strict=True)), b"spf", b"pass"]), max_size=60))
def test_no_field_raises(pieces: list[bytes]) -> None:
    """Whatever stands in the field."""
    authentication_results(b"".join(pieces))


# Whose fields


TOP = "Received: from a by in.example.com (Postfix) with ESMTP id Q1; Mon, 1 Jun 2026 10:00:00 +0000\n"
MX = "Received: from b by mx.example.com (Postfix) with ESMTP id M1; Mon, 1 Jun 2026 10:00:00 +0000\n"
LOCAL = "Received: from localhost by localhost with ESMTP id L1; Mon, 1 Jun 2026 10:00:00 +0000\n"
FAR = "Received: from c by far.example.org with ESMTP id F1; Mon, 1 Jun 2026 10:00:00 +0000\n"
WHOSE = [
    ("through the MX", TOP + "X-A: 1\n" + MX + "X-B: 1\n" + FAR + "X-C: 1\n", ("mx.example.com",), "ab"),
    ("one host, trusted", TOP + "X-A: 1\n" + FAR + "X-B: 1\n", ("in.example.com",), "a"),
    ("one host, not trusted", TOP + "X-A: 1\n" + FAR + "X-B: 1\n", (), ""),
    ("one host, another is trusted", TOP + "X-A: 1\n" + FAR, ("mx.example.com",), ""),
    ("in front of everything", "X-A: 1\n" + TOP + "X-B: 1\n" + FAR, ("in.example.com",), "ab"),
    ("a stranger names the MX below", TOP + FAR + MX + "X-A: 1\n", ("mx.example.com",), ""),
    ("a filter on localhost", TOP + "X-A: 1\n" + LOCAL + "X-B: 1\n" + MX + "X-C: 1\n" + FAR, ("mx.example.com",), "abc"),
    ("only localhost below ours", TOP + LOCAL + "X-A: 1\n" + FAR, ("in.example.com",), "a"),
    ("no Received of a stranger", TOP + "X-A: 1\n", ("in.example.com",), "a"),
    ("no Received at all", "X-A: 1\n", ("in.example.com",), ""),
]


@pytest.mark.parametrize(("head", "trusted", "expected"), [row[1:] for row in WHOSE], ids=[row[0] for row in WHOSE])
def test_whose_fields_they_are(head: str, trusted: tuple[str, ...], expected: str) -> None:
    """Fields above the first Received that is not ours, where the host at the border is trusted."""
    mail = message(head + "From: a@example.org\n\n")
    fields = ours(mail, passage(PERSON, mail, trusted, LIMITS.received))
    assert "".join(field.name[2:] for field in fields if field.name.startswith("x-")) == expected


BOTH = ("in.example.com", "mx.example.com")
DIRECT = [
    ("a forged hop of the MX", TOP + "X-A: 1\n" + MX + "X-B: 1\n" + FAR, ("mx.example.com",), ""),
    ("the same, and we are trusted", TOP + "X-A: 1\n" + MX + "X-B: 1\n" + FAR, BOTH, "a"),
    ("a filter on localhost", TOP + "X-A: 1\n" + LOCAL + "X-B: 1\n" + MX + "X-C: 1\n" + FAR, BOTH, "ab"),
    ("no hop of anybody", TOP + "X-A: 1\n", BOTH, "a"),
    ("in front of everything", "X-A: 1\n" + TOP + "X-B: 1\n" + MX, BOTH, "ab"),
    ("the MX on top", MX + "X-A: 1\n" + FAR, BOTH, ""),
    ("no Received at all", "X-A: 1\n", BOTH, ""),
]


@pytest.mark.parametrize(("head", "trusted", "expected"), [row[1:] for row in DIRECT], ids=[row[0] for row in DIRECT])
def test_whose_fields_they_are_where_the_client_was_a_stranger(head: str, trusted: tuple[str, ...], expected: str) -> None:
    """A host that saw the client itself believes no hop below its own: whoever names a trusted host there has forged it."""
    mail = message(head + "From: a@example.org\n\n")
    fields = ours(mail, passage(PERSON, mail, trusted, LIMITS.received, direct=True))
    assert "".join(field.name[2:] for field in fields if field.name.startswith("x-")) == expected


def test_what_the_door_knows_of_the_sender() -> None:
    """The door's word counts before what is written in the message; a From that names nobody stays nobody's."""
    case = next(case for case in cases() if case.id == "sender/dmarc-fail-accepted")
    envelope = Envelope(sender=case.sender, recipient=case.recipient, queue_id=case.queue_id)
    facts = FACTS.replace(sender=Sender(verified="yes"))
    assert policy.decide(envelope, message(case.raw), SETTINGS, FACTS).sender.verified == "no"
    assert policy.decide(envelope, message(case.raw), SETTINGS, facts).sender.verified == "yes"
    two = case.raw.replace(b"From: Rikke <rikke@example.org>", b"From: Rikke <rikke@example.org>, b@example.org")
    assert policy.decide(envelope, message(two), SETTINGS, facts).sender.verified == "no"
    helo = facts.replace(sender=Sender(mail_from_verified=True))
    assert policy.decide(envelope, message("From: a@example.org\n\n"), SETTINGS, helo).sender.mail_from_verified


# Pairs


WEAK = ["list-bulk", "x-auto-response-suppress", "vacation-subject", "noreply-sender", "responder-program", "null-return-path",
        "postmaster-sender", "bounce-subject"]  # fmt: skip
SIGNS = {
    "x-auto-response-suppress": "X-Auto-Response-Suppress: All\n",
    "vacation-subject": "Subject: Automatic reply: Boats\n",
    "noreply-sender": "From: noreply@example.org\n",
    "responder-program": "X-Mailer: vacation\n",
    "null-return-path": "Return-Path: <>\n",
    "postmaster-sender": "From: postmaster@example.org\n",
    "bounce-subject": "Subject: Undeliverable: Boats\n",
    "list-bulk": "Precedence: bulk\nList-Id: <walkers.lists.example.org>\n",
}
PAIRS = [(one, other) for at, one in enumerate(WEAK) for other in WEAK[at + 1 :]]


def decided(*weak: str) -> Decision:
    """The decision on a message with these signs."""
    head = "".join(SIGNS[slug] for slug in weak)
    if "From:" not in head:
        head += "From: Rikke <rikke@example.org>\n"
    case = next(case for case in cases() if case.id == "keys/live")
    envelope = Envelope(sender="rikke@example.org", recipient=case.recipient, queue_id="Q1")
    return policy.decide(envelope, message(head + "\nHello\n"), SETTINGS, FACTS)


@pytest.mark.parametrize("slug", WEAK)
def test_one_weak_sign_decides_nothing(slug: str) -> None:
    """It is found, said to be weak, and passes."""
    decision = decided(slug)
    assert decision.rule == "accepted"
    assert [(f.slug, f.strength) for f in decision.findings if f.family in ("automatic", "bounces")] == [(slug, "second")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_weak_signs_decide_where_the_table_says_so(one: str, other: str) -> None:
    """Each pair of TOGETHER decides, under the rule of its family, and no other pair does."""
    tables = {"automatic": automatic.TOGETHER, "bounce": bounces.TOGETHER}
    expected = [rule for rule, pairs in tables.items() if (one, other) in pairs or (other, one) in pairs] or ["accepted"]
    assert decided(one, other).rule in expected


def test_what_a_list_leaves_never_decides() -> None:
    """A list's bulk, a noreply name, a suppressed answer and an office subject, all at once, are still a person's."""
    assert decided("list-bulk", "noreply-sender", "x-auto-response-suppress", "vacation-subject").rule == "accepted"


def test_a_strong_sign_needs_no_weak_ones() -> None:
    """Beside one that decides alone the weak ones of its family are not asked."""
    both = message("From: noreply@example.org\nSubject: Automatic reply: x\nAuto-Submitted: auto-replied\n\n")
    assert slugs(automatic.find(both)) == {"auto-submitted"}


# The whole


def test_every_finding_is_on_the_page_and_in_the_corpus() -> None:
    """docs/findings.md names every slug that the corpus finds, and the corpus finds every slug that a table row there names."""
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8").partition("## The sender")[0]
    found = {slug for case in cases() for slug in case.finding}
    named = set(re.findall(r"`([a-z0-9-]+)`", page))
    assert found - named == set()
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    rows = {slug for cell in first_cells for slug in re.findall(r"`([a-z0-9-]+)`", cell)}
    assert rows - found == set()


def test_every_field_of_the_tables_is_in_the_corpus() -> None:
    """Each field that a table of a module names is found in some message."""
    found = {slug for case in cases() for slug in case.finding}
    tables = {*automatic._MARKS, *automatic._WORDS, *lists._MARKS, *spam.DETECTORS, *bounces._REPORT_FIELDS}
    assert tables - found == set()


def test_a_loop_s_marks() -> None:
    """X-Loop and our own mark are weak where nobody of ours had the message before, and decide where one had."""
    for below, strength in ((FAR, "second"), (FAR + MX, "alone")):
        mail = message(TOP + below + "X-Loop: <reply+K@in.example.com>\nX-Gatepost-Id: 1\nFrom: a@example.org\n\n")
        hops = passage(PERSON, mail, ("mx.example.com",), LIMITS.received)
        found = loops.find(PERSON, mail, hops, minted=lambda _: False, own=lambda _: False, domains=(), limit=50)
        assert {(finding.slug, finding.strength) for finding in found} == {("x-loop", strength), ("own-mark", strength)}


def test_what_was_frozen_before_thaws() -> None:
    """A decision frozen without strengths and sender reads as all alone and nobody known; today's reads as it was."""
    old = "decision\taccept\taccepted\t2.0.0\taccepted\t\treplies\nfinding\tlist-id\tautomatic\tList-Id: <x>"
    assert [(each.slug, each.strength) for each in thaw(old).findings] == [("list-id", "alone")]
    assert thaw(old).sender.verified == "unknown"
    for name in ("sender/dmarc-fail-accepted", "person/noreply-german-address"):
        case = next(case for case in cases() if case.id == name)
        envelope = Envelope(sender=case.sender, recipient=case.recipient, queue_id=case.queue_id)
        decision = policy.decide(envelope, message(case.raw), SETTINGS, FACTS)
        assert thaw(freeze(decision)) == decision.replace(trace=())


def test_a_person_s_message_pays_for_no_look_inside() -> None:
    """The modules that few messages need are not loaded for an ordinary one."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from gatepost.decision import Envelope\nfrom gatepost.mail.message import parse\n"
        "from gatepost.settings import ParserLimits\n"
        "from gatepost.screening import automatic, bounces, lists, loops, sender, spam\n"
        "m = parse(b'From: Ann <ann@example.org>\\r\\nSubject: Re: Boats\\r\\n\\r\\nHello\\r\\n', ParserLimits())\n"
        "e = Envelope(sender='ann@example.org', recipient='k@in.example.com')\n"
        "assert not automatic.find(m) + bounces.find(e, m) + lists.find(m) + spam.find(())\n"
        "sender.verdict(m, (), (), e)\nprint('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert not loaded & {"re", "email", "gatepost.screening.bounce_text", "gatepost.screening.opening",
                         "gatepost.mail.authentication_results"}  # fmt: skip
