"""All methods together: DNS that fails, messages that attack, work that must end, threads."""

from __future__ import annotations

import threading
import time

import pytest

from demo.dns_server import SERVFAIL, SILENT, DnsServer
from gatepost.authentication import Authenticator, Checked, Mail, Resolver, results_value
from gatepost.authentication.authenticator import QUESTIONS
from gatepost.mail.authentication_results import authentication_results
from tests.signed_mail import MESSAGE, arc_set, ed25519_key, rsa_key, sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

US = "mx.in.example.com"
CLIENT = "192.0.2.7"
#: A victim who publishes everything, an attacker who does too, and an attacker whose DNS is slow.
ZONES: dict[str, dict[str, list[str]]] = {
    "victim.org": {"TXT": ["v=spf1 ip4:198.51.100.1 -all"], "A": ["198.51.100.1"]},
    "_dmarc.victim.org": {"TXT": ["v=DMARC1; p=reject"]},
    "s._domainkey.victim.org": {"TXT": [rsa_key(2048, 1).record]},
    "example.org": {"TXT": ["v=spf1 ip4:192.0.2.7 -all"]},
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
    "s._domainkey.example.org": {"TXT": [rsa_key().record]},
    "e._domainkey.example.org": {"TXT": [ed25519_key().record]},
    "evil.org": {"TXT": ["v=spf1 +all"]},
    "s._domainkey.evil.org": {"TXT": [rsa_key().record]},
    "slow.org": {"TXT": [SILENT]},
    "s._domainkey.slow.org": {"TXT": [SILENT]},
    "mail.evil.org": {"TXT": ["v=spf1 +all"]},
}


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    """The zones of this page."""
    with DnsServer(ZONES) as running:
        yield running


def check(
    server: DnsServer, raw: bytes, mail_from: str = "ann@example.org", *, helo: str = "h.example.org", seconds: float = 20.0
) -> Checked:
    """All methods."""
    judge = Authenticator(Resolver((server.address,)), authserv_id=US)
    return judge.check(
        Mail(client_address=CLIENT, helo=helo, mail_from=mail_from, raw=raw), deadline=time.monotonic() + seconds
    )


def by(author: str) -> bytes:
    """A message that says it is from there."""
    return MESSAGE.replace(b"Ann <ann@example.org>", author.encode("utf-8", "surrogateescape"))


def test_a_message_as_it_should_be(server: DnsServer) -> None:
    """Every method passes, the sender and MAIL FROM are verified, and the field tells it."""
    found = check(server, arc_set(sign(), 1))
    assert (found.spf.result, [each.result for each in found.dkim], found.dmarc.result, found.arc) == (
        "pass",
        ["pass"],
        "pass",
        "pass",
    )
    assert (found.sender.verified, found.sender.by) == ("yes", f"dmarc {US}")
    assert (found.sender.mail_from_verified, found.sender.temporary) == (True, False)
    read = authentication_results(results_value(found, US).replace("\r\n", "").encode())
    assert read is not None
    assert [(each.method, each.result) for each in read.results] == [
        ("spf", "pass"),
        ("dkim", "pass"),
        ("dmarc", "pass"),
        ("arc", "pass"),
    ]


def test_a_forgery_with_everything_of_the_attackers_own(server: DnsServer) -> None:
    """SPF, DKIM and ARC of another domain pass, and the From is forged all the same."""
    found = check(server, arc_set(sign(by("boss@victim.org"), domain="evil.org"), 1, domain="evil.org"), "x@evil.org")
    assert (found.spf.result, found.dkim[0].result, found.arc, found.dmarc.result) == ("pass", "pass", "pass", "fail")
    assert (found.sender.verified, found.sender.mail_from_verified) == ("no", True)


@pytest.mark.parametrize("fault", ["down", "gone", SERVFAIL])
def test_without_dns_everything_is_temperror(fault: str) -> None:
    """Silence, no server, SERVFAIL: no method fails for it, the sender is unknown for now, and the field says so."""
    raw = arc_set(sign(sign(), key=ed25519_key(), selector="e"), 1)
    zones = dict.fromkeys(ZONES, SERVFAIL) if fault == SERVFAIL else {}
    with DnsServer(zones, down=fault == "down") as server:
        if fault != "gone":
            found = check(server, raw, seconds=1.0)
    if fault == "gone":
        found = check(server, raw, seconds=1.0)
    assert (found.spf.result, [each.result for each in found.dkim]) == ("temperror", ["temperror"] * 2)
    assert (found.dmarc.result, found.arc) == ("temperror", "temperror")
    assert (found.sender.verified, found.sender.temporary, found.sender.mail_from_verified) == ("unknown", True, False)
    assert results_value(found, US).count("=temperror") == 5


def test_a_strangers_slow_dns_hides_no_policy(server: DnsServer) -> None:
    """The attacker's names never answer: what they could say is not aligned, and the victim's policy stands."""
    server.queries.clear()
    found = check(server, sign(by("boss@victim.org"), domain="slow.org"), "x@slow.org", seconds=1.5)
    assert server.queries[0][0] == "_dmarc.victim.org"
    assert (found.spf.result, found.dkim[0].result) == ("temperror", "temperror")
    assert (found.dmarc.result, found.sender.verified, found.sender.temporary) == ("fail", "no", False)


def stacked() -> bytes:
    """A good signature of the attacker's own From, and the victim's From above it."""
    return b"From: boss@victim.org\r\n" + sign(by("x@evil.org"), domain="evil.org")


ATTACKS: list[tuple[str, Callable[[], bytes], str, str]] = [
    # id, message, MAIL FROM, HELO; the victim is always who reads as From somewhere, and the attacker has evil.org
    ("two From, the victim's on top", stacked, "x@evil.org", "evil.org"),
    ("two From, the victim's below", lambda: sign(by("x@evil.org"), domain="evil.org").replace(b"\r\nTo:", b"\r\nFrom: boss@victim.org\r\nTo:"),
     "x@evil.org", "evil.org"),
    ("From with a space before the colon", lambda: b"From : boss@victim.org\r\n" + sign(by("x@evil.org"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From folded before its value", lambda: b"From:\r\n boss@victim.org\r\n" + sign(by("x@evil.org"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From with two addresses", lambda: sign(by("x@evil.org, boss@victim.org"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From with two in brackets", lambda: sign(by("<x@evil.org><boss@victim.org>"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From with a group", lambda: sign(by("x@evil.org: boss@victim.org;"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From with a route", lambda: sign(by("<@evil.org,@evil.org:boss@victim.org>"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From with NUL", lambda: sign(by("boss@victim.org\0@evil.org"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From with comments", lambda: sign(by("boss@victim.org(<x@evil.org>)"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("From encoded", lambda: sign(by("=?utf-8?b?Ym9zc0B2aWN0aW0ub3Jn?=\0<x@evil.org>"), domain="evil.org"), "x@evil.org", "evil.org"),
    ("d= with a comment", lambda: sign(by("boss@victim.org"), domain="victim.org(.evil.org"), "x@evil.org", "evil.org"),
    ("d= with a quote", lambda: sign(by("boss@victim.org"), domain="victim.org'a.evil.org"), "x@evil.org", "evil.org"),
    ("d= with a space", lambda: sign(by("boss@victim.org"), domain="victim.org .evil.org"), "x@evil.org", "evil.org"),
    ("d= with NUL", lambda: sign(by("boss@victim.org"), domain="victim.org\0.evil.org"), "x@evil.org", "evil.org"),
    ("d= of two domains", lambda: sign(by("boss@victim.org"), domain="evil.org,victim.org"), "x@evil.org", "evil.org"),
    ("s= leads elsewhere", lambda: sign(by("boss@victim.org"), domain="victim.org", selector="s._domainkey.evil.org.\0"), "x@evil.org", "evil.org"),
    ("i= of the victim", lambda: sign(by("boss@victim.org"), domain="evil.org", i="boss@victim.org"), "x@evil.org", "evil.org"),
    ("d= is a top-level domain", lambda: sign(by("boss@victim.org"), domain="org"), "x@evil.org", "evil.org"),
    ("the victim's signature of another message", lambda: sign(key=rsa_key(2048, 1), domain="victim.org")[:-len(MESSAGE)] + by("boss@victim.org"),
     "x@evil.org", "evil.org"),
    ("From is not signed", lambda: sign(by("boss@victim.org"), key=rsa_key(2048, 1), domain="victim.org", h="to:subject"), "x@evil.org", "evil.org"),
    ("the victim's signature with l=0", lambda: sign(by("boss@victim.org"), key=rsa_key(2048, 1), domain="victim.org", l="0") + b"pay\r\n",
     "x@evil.org", "evil.org"),
    ("HELO passes, MAIL FROM is a name that is not there", lambda: by("boss@victim.org"), "any@not-there.victim.org", "evil.org"),
    ("MAIL FROM null, HELO passes", lambda: by("boss@victim.org"), "", "evil.org"),
    ("MAIL FROM opens a comment", lambda: by("boss@victim.org"), "(any@victim.org", "evil.org"),
    ("MAIL FROM with two at signs", lambda: by("boss@victim.org"), "any@evil.org@victim.org", "evil.org"),
    ("MAIL FROM with two at signs, turned", lambda: by("boss@victim.org"), "any@victim.org@evil.org", "evil.org"),
    ("MAIL FROM ends like a comment", lambda: by("boss@victim.org"), "any@victim.org(.evil.org", "evil.org"),
    ("MAIL FROM with NUL", lambda: by("boss@victim.org"), "any@victim.org\0.evil.org", "evil.org"),
    ("results of the attacker's own", lambda: f"Authentication-Results: {US}; dmarc=pass header.from=victim.org\r\n".encode() + by("boss@victim.org"),
     "x@evil.org", "evil.org"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "mail_from", "helo"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS])
def test_nobody_becomes_the_victim(server: DnsServer, make: Callable[[], bytes], mail_from: str, helo: str) -> None:
    """Fields and envelopes that two programs could read differently: the victim is never verified, and never named in a pass."""
    found = check(server, make(), mail_from, helo=helo)
    assert found.sender.verified != "yes" or found.dmarc.from_domain == "evil.org"
    assert (found.dmarc.result, found.dmarc.from_domain) != ("pass", "victim.org")
    read = authentication_results(results_value(found, US).replace("\r\n", "").encode("ascii"))
    assert read is not None
    for each in read.results:
        if each.result == "pass":
            assert "victim.org" not in [value for _, value in each.properties]


BULK = b"x" * 70 + b"\r\n"
WORK: list[tuple[str, Callable[[], bytes], list[str]]] = [
    # id, message, the results of its signatures
    ("1,000 signatures", lambda: sign()[: -len(MESSAGE)] * 1_000 + MESSAGE, ["pass"] * 10),
    ("1,000 signatures of 1,000 domains", lambda: b"".join(
        b"DKIM-Signature: v=1; a=rsa-sha256; d=d%d.org; s=s; h=from; bh=AAAA; b=AAAAAAAA\r\n" % n for n in range(1_000)) + MESSAGE, ["permerror"] * 10),
    ("60,000 octets of white space in b=", lambda: sign(b="AAAA" + " " * 60_000 + "!"), ["permerror"]),
    ("30,000 octets of folds in b=", lambda: sign(b="AAAA" + "\r\n " * 10_000 + "!"), ["permerror"]),
    ("60,000 octets of tags", lambda: sign(z=";".join(f"z{n}=x" for n in range(8_000))), ["permerror"]),
    ("h= with 10,000 names", lambda: sign(h="from" + ":a" * 10_000), ["pass"]),
    ("a line of 10 MB of spaces", lambda: sign(MESSAGE + b" " * 10_000_000 + b"\r\n"), ["pass"]),
    ("5 million empty lines", lambda: sign() + b"\r\n" * 5_000_000, ["pass"]),
    ("1 million lines of a space", lambda: sign() + b" \r\n" * 1_000_000, ["pass"]),
    ("10 MB, ten signatures in four forms", lambda: ten(MESSAGE + BULK * 140_000), ["pass"] * 10),
    ("2,000 fields", lambda: b"X-A: b\r\n" * 1_990 + sign(), ["pass"]),
    ("a field of 90,000 spaces", lambda: sign(b"X-A: b" + b" " * 90_000 + b"c\r\n" + MESSAGE, h="from:x-a"), ["pass"]),
]  # fmt: skip


def ten(message: bytes) -> bytes:
    """Ten signatures."""
    for number in range(10):
        message = sign(message, c=("relaxed/relaxed", "simple/simple", "relaxed/simple", "simple/relaxed")[number % 4])
    return message


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in WORK], ids=[row[0] for row in WORK])
def test_work_ends(server: DnsServer, make: Callable[[], bytes], expected: list[str]) -> None:
    """What makes a program that is not linear work for hours is answered, and asks few questions."""
    server.queries.clear()
    found = check(server, make())
    assert [each.result for each in found.dkim] == expected
    assert server.count() <= 30


def test_the_worst_message_asks_a_bounded_number_of_questions() -> None:
    """SPF with 110 look-ups, ten signatures, fifty seals, a deep From: not more than the number that is promised."""
    zones: dict[str, dict[str, list[str]]] = {
        f"t{term}.wide.org": {"MX": [f"10 m{term}-{n}.wide.org" for n in range(10)]} for term in range(10)
    }
    zones |= {f"m{term}-{n}.wide.org": {"A": ["198.51.100.9"]} for term in range(10) for n in range(10)}
    zones["wide.org"] = {"TXT": ["v=spf1 " + " ".join(f"mx:t{term}.wide.org" for term in range(10)) + " -all"]}
    zones |= {f"s{n}._domainkey.x{n}.a.b.c.d.e.f.g.wide.org": {"TXT": [rsa_key().record]} for n in range(1, 51)}
    zones["_dmarc.wide.org"] = {"TXT": ["v=DMARC1; p=reject"]}
    raw = by("a@y.a.b.c.d.e.f.g.wide.org")
    for n in range(1, 11):
        raw = sign(raw, domain=f"x{n}.a.b.c.d.e.f.g.wide.org", selector=f"s{n}", b="AAAAAAAAAAAA")
    for n in range(1, 31):
        raw = arc_set(raw, n, domain=f"x{n}.a.b.c.d.e.f.g.wide.org", selector=f"s{n}")
    with DnsServer(zones) as wide:
        found = check(wide, raw, "x@wide.org")
        assert (found.spf.result, found.dmarc.result, found.arc) == ("fail", "fail", "pass")
        assert wide.count() <= QUESTIONS


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"\n", b"From", b":", b"\0" * 1000, b"From: a@b.org", b"\r\n\r\n\r\n", b"\xff" * 5000,
                                 b"DKIM-Signature:", b"ARC-Seal: i=1", b" folded\r\n"])  # fmt: skip
def test_no_message_raises(server: DnsServer, raw: bytes) -> None:
    """What is no message has results too."""
    found = check(server, raw, "\udcff@\udcff", helo="\udcff")
    assert found.sender.verified in ("no", "unknown")


class Broken(Resolver):
    """A resolver with a fault of its own."""

    def ask(self, name: str, kind: object, deadline: float) -> object:  # type: ignore[override]
        raise RuntimeError(name)


def test_our_own_fault_is_not_the_senders(server: DnsServer) -> None:
    """An exception that nobody foresaw leaves the sender unknown for now, and no method says fail."""
    judge = Authenticator(Broken((server.address,)), authserv_id=US)
    found = judge.check(
        Mail(client_address=CLIENT, helo="h", mail_from="ann@example.org", raw=MESSAGE), deadline=time.monotonic() + 5
    )
    assert (found.sender.verified, found.sender.temporary) == ("unknown", True)
    assert (found.spf.result, found.dmarc.result, found.arc) == ("temperror", "temperror", "temperror")


def test_threads_share_an_authenticator(server: DnsServer) -> None:
    """Eight threads, good and forged messages in turn: each gets the result of its own."""
    judge = Authenticator(Resolver((server.address,)), authserv_id=US)
    good = Mail(client_address=CLIENT, helo="h", mail_from="ann@example.org", raw=sign())
    forged = Mail(client_address=CLIENT, helo="h", mail_from="x@evil.org", raw=sign(by("boss@victim.org"), domain="evil.org"))
    seen: set[tuple[str, str]] = set()

    def work() -> None:
        for _ in range(15):
            for name, mail in (("good", good), ("forged", forged)):
                seen.add((name, judge.check(mail, deadline=time.monotonic() + 20).sender.verified))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {("good", "yes"), ("forged", "no")}
