"""DMARC and the verdict on the sender: policy discovery, alignment, tree walk (RFC 9989), records of RFC 7489."""

from __future__ import annotations

import time

import pytest

from demo.dns_server import SERVFAIL, DnsServer
from gatepost.authentication import Authenticator, Checked, Mail, Resolver
from gatepost.authentication.dmarc_record import record
from tests.signed_mail import MESSAGE, rsa_key, sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

US = "mx.in.example.com"
KEY = {"TXT": [rsa_key().record]}
YES = {"TXT": ["v=spf1 +all"]}


def dmarc(text: str) -> dict[str, list[str]]:
    """A name that publishes this record."""
    return {"TXT": [text]}


def _zones() -> dict[str, dict[str, list[str]]]:
    zones: dict[str, dict[str, list[str]]] = {}
    policies = {
        "example.org": "v=DMARC1; p=reject; rua=mailto:d@example.org",
        "strict.org": "v=DMARC1; p=quarantine; adkim=s; aspf=s",
        "sub.org": "v=DMARC1; p=reject; sp=none",
        "np.org": "v=DMARC1; p=none; sp=quarantine; np=reject",
        "testing.org": "v=DMARC1; p=reject; t=y",
        "tq.org": "v=DMARC1; p=quarantine; t=y",
        "pct.org": "v=DMARC1; p=reject; pct=0",
        "none.org": "v=DMARC1; p=none",
        "bad.org": "v=DMARC1; p=whatever",
        "rua.org": "v=DMARC1; p=whatever; rua=mailto:x@rua.org",
        "nop.org": "v=DMARC1; rua=mailto:x@nop.org",
        "badsp.org": "v=DMARC1; p=reject; sp=some",
        "v2.org": "v=DMARC2; p=reject",
        "late.org": "p=reject; v=DMARC1",
        "lower.org": "v=dmarc1; p=reject",
        "spaced.org": " v = DMARC1 ; p = reject ",
        "gov.zz": "v=DMARC1; p=reject; psd=y; np=reject; sp=quarantine",
        "agency.gov.zz": "v=DMARC1; p=none",
        "unit.own.org": "v=DMARC1; p=reject; psd=n",
        "own.org": "v=DMARC1; p=none",
        "deep.org": "v=DMARC1; p=reject",
        "mid.deep.org": "v=DMARC1; p=none",
    }
    for domain, text in policies.items():
        zones[f"_dmarc.{domain}"] = dmarc(text)
    zones["_dmarc.twice.org"] = {"TXT": ["v=DMARC1; p=reject", "v=DMARC1; p=none"]}
    zones["_dmarc.beside.org"] = {"TXT": ["hello", "v=DMARC1; p=reject"]}
    zones["_dmarc.temp.org"] = {"TXT": [SERVFAIL]}
    signers = (
        *policies, "twice.org", "beside.org", "temp.org", "free.org", "mail.free.org", "mail.example.org", "a.strict.org", "x.sub.org",
        "example.net", "there.np.org", "gone.np.org", "mail.agency.gov.zz", "other.gov.zz", "city.gov.zz", "mail.unit.own.org",
        "x.own.org", "x.mid.deep.org", "y.deep.org", "a.b.c.d.e.f.g.h.i.example.org", "ann.github.io", "eve.github.io", "github.io",
        "co.uk", "eve.co.uk", "badexample.org", "org", "x.testing.org", "mail.temp.org",
    )  # fmt: skip
    for domain in signers:
        zones[f"s._domainkey.{domain}"] = KEY
        zones[domain] = {**YES, "A": ["192.0.2.1"]}
    del zones["gone.np.org"]
    del zones["s._domainkey.gone.np.org"]
    zones["wait._domainkey.example.org"] = {"TXT": [SERVFAIL]}
    zones["wait._domainkey.example.net"] = {"TXT": [SERVFAIL]}
    zones["wait._domainkey.free.org"] = {"TXT": [SERVFAIL]}
    zones["slow.example.org"] = {"TXT": [SERVFAIL]}
    zones["nospf.example"] = {"TXT": ["v=spf1 -all"]}
    return zones


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    """All the zones of this page."""
    with DnsServer(_zones()) as running:
        yield running


def check(server: DnsServer, author: str, mail_from: str = "x@nospf.example", signers: str = "", *, helo: str = "h.example",
          methods: tuple[str, ...] = ("spf", "dkim", "dmarc"), raw: bytes = b"") -> Checked:  # fmt: skip
    """A message of `author` (an address), signed by `signers` (domains, a selector before a slash)."""
    raw = raw or MESSAGE.replace(b"ann@example.org", author.encode("utf-8", "surrogateescape"))
    for each in signers.split():
        selector, _, domain = each.rpartition("/")
        raw = sign(raw, domain=domain, selector=selector or "s")
    judge = Authenticator(Resolver((server.address,)), methods=methods, authserv_id=US)
    return judge.check(
        Mail(client_address="192.0.2.7", helo=helo, mail_from=mail_from, raw=raw), deadline=time.monotonic() + 20
    )


N = "x@nospf.example"
ROWS = [
    # id, From, MAIL FROM, signers, dmarc, policy, disposition, verified, by
    ("dkim of the domain", "a@example.org", N, "example.org", "pass", "reject", "none", "yes", "dmarc"),
    ("spf of the domain", "a@example.org", "b@example.org", "", "pass", "reject", "none", "yes", "dmarc"),
    ("neither", "a@example.org", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("relaxed dkim, below", "a@example.org", N, "mail.example.org", "pass", "reject", "none", "yes", "dmarc"),
    ("relaxed dkim, above", "a@mail.example.org", N, "example.org", "pass", "reject", "none", "yes", "dmarc"),
    ("relaxed spf, below", "a@example.org", "b@mail.example.org", "", "pass", "reject", "none", "yes", "dmarc"),
    ("strict dkim", "a@strict.org", N, "strict.org", "pass", "quarantine", "none", "yes", "dmarc"),
    ("strict dkim, below", "a@strict.org", N, "a.strict.org", "fail", "quarantine", "quarantine", "no", "dmarc"),
    ("strict spf", "a@strict.org", "b@strict.org", "", "pass", "quarantine", "none", "yes", "dmarc"),
    ("strict spf, below", "a@strict.org", "b@a.strict.org", "", "fail", "quarantine", "quarantine", "no", "dmarc"),
    ("another's dkim", "a@example.org", N, "example.net", "fail", "reject", "reject", "no", "dmarc"),
    ("another's spf", "a@example.org", "b@example.net", "", "fail", "reject", "reject", "no", "dmarc"),
    ("ends alike", "a@example.org", N, "badexample.org", "fail", "reject", "reject", "no", "dmarc"),
    ("a top-level domain's dkim", "a@example.org", N, "org", "fail", "reject", "reject", "no", "dmarc"),
    ("another's dkim first, then the domain's", "a@example.org", N, "example.org example.net", "pass", "reject", "none", "yes", "dmarc"),
    ("sp= is not for the domain itself", "a@sub.org", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("sp= is for what is below", "a@x.sub.org", N, "", "fail", "none", "none", "no", "dmarc"),
    ("np= for what is not there", "a@gone.np.org", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("np= not for what is there", "a@there.np.org", N, "", "fail", "quarantine", "quarantine", "no", "dmarc"),
    ("np= not for the domain itself", "a@np.org", N, "", "fail", "none", "none", "no", "dmarc"),
    ("t=y: one step less", "a@testing.org", N, "", "fail", "reject", "quarantine", "no", "dmarc"),
    ("t=y below", "a@x.testing.org", N, "", "fail", "reject", "quarantine", "no", "dmarc"),
    ("t=y of quarantine", "a@tq.org", N, "", "fail", "quarantine", "none", "no", "dmarc"),
    ("pct= is history", "a@pct.org", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("p=none fails too", "a@none.org", N, "", "fail", "none", "none", "no", "dmarc"),
    ("p= that is none", "a@bad.org", N, "", "permerror", "", "none", "unknown", ""),
    ("p= that is none, signed", "a@bad.org", N, "bad.org", "permerror", "", "none", "yes", "dkim"),
    ("p= that is none, with rua=", "a@rua.org", N, "", "fail", "none", "none", "no", "dmarc"),
    ("no p=, with rua=", "a@nop.org", N, "nop.org", "pass", "none", "none", "yes", "dmarc"),
    ("sp= that is none, without rua=", "a@badsp.org", N, "", "permerror", "", "none", "unknown", ""),
    ("v= of another", "a@v2.org", N, "", "none", "", "none", "unknown", ""),
    ("v= not first", "a@late.org", N, "", "none", "", "none", "unknown", ""),
    ("v= in lower case", "a@lower.org", N, "", "none", "", "none", "unknown", ""),
    ("white space at its beginning", "a@spaced.org", N, "", "none", "", "none", "unknown", ""),
    ("two records are none", "a@twice.org", N, "", "none", "", "none", "unknown", ""),
    ("other texts beside it", "a@beside.org", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("public suffix with a record: below an agency", "a@mail.agency.gov.zz", N, "agency.gov.zz", "pass", "none", "none", "yes", "dmarc"),
    ("public suffix's own key speaks for nobody", "a@agency.gov.zz", N, "gov.zz", "fail", "none", "none", "no", "dmarc"),
    ("neighbours below a public suffix", "a@agency.gov.zz", N, "other.gov.zz", "fail", "none", "none", "no", "dmarc"),
    ("public suffix's policy for who has none", "a@city.gov.zz", N, "", "fail", "quarantine", "quarantine", "no", "dmarc"),
    ("public suffix's np=", "a@never.gov.zz", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("neighbours that only the suffix speaks for", "a@city.gov.zz", N, "other.gov.zz", "fail", "quarantine", "quarantine", "no", "dmarc"),
    ("the suffix itself as author", "a@gov.zz", N, "gov.zz", "pass", "reject", "none", "yes", "dmarc"),
    ("psd=n stands alone", "a@unit.own.org", N, "own.org", "fail", "reject", "reject", "no", "dmarc"),
    ("psd=n: nor from beside", "a@unit.own.org", N, "x.own.org", "fail", "reject", "reject", "no", "dmarc"),
    ("psd=n: below it", "a@unit.own.org", N, "mail.unit.own.org", "pass", "reject", "none", "yes", "dmarc"),
    ("psd=n below: not for the one above", "a@own.org", N, "mail.unit.own.org", "fail", "none", "none", "no", "dmarc"),
    ("fewest labels: the upper record's policy", "a@x.mid.deep.org", N, "", "fail", "reject", "reject", "no", "dmarc"),
    ("fewest labels: one organization", "a@mid.deep.org", N, "y.deep.org", "pass", "none", "none", "yes", "dmarc"),
    ("eleven labels", "a@a.b.c.d.e.f.g.h.i.example.org", N, "example.org", "pass", "reject", "none", "yes", "dmarc"),
    ("capitals", "a@EXAMPLE.ORG", N, "Example.Org", "pass", "reject", "none", "yes", "dmarc"),
    # no record anywhere: public suffixes
    ("no record, nothing", "a@free.org", N, "", "none", "", "none", "unknown", ""),
    ("no record, dkim", "a@free.org", N, "free.org", "none", "", "none", "yes", "dkim"),
    ("no record, spf", "a@free.org", "b@free.org", "", "none", "", "none", "yes", "spf"),
    ("no record, relaxed dkim", "a@free.org", N, "mail.free.org", "none", "", "none", "yes", "dkim"),
    ("no record, relaxed spf", "a@mail.free.org", "b@free.org", "", "none", "", "none", "yes", "spf"),
    ("no record, another's", "a@free.org", N, "example.net", "none", "", "none", "unknown", ""),
    ("no record, neighbours of a private suffix", "a@ann.github.io", N, "eve.github.io", "none", "", "none", "unknown", ""),
    ("no record, the suffix's key", "a@ann.github.io", N, "github.io", "none", "", "none", "unknown", ""),
    ("no record, a tenant for the suffix", "a@co.uk", N, "eve.co.uk", "none", "", "none", "unknown", ""),
    # null reverse-path
    ("HELO stands for a null MAIL FROM", "a@example.org", "", "", "pass", "reject", "none", "yes", "dmarc"),
    ("HELO of another", "a@deep.org", "", "", "fail", "reject", "reject", "no", "dmarc"),
    ("HELO beside a MAIL FROM", "a@example.org", "x@nospf.example", "", "fail", "reject", "reject", "no", "dmarc"),
    # DNS did not say
    ("policy open", "a@temp.org", N, "", "temperror", "", "none", "unknown*", ""),
    ("policy open, the very domain signed", "a@temp.org", N, "temp.org", "temperror", "", "none", "yes", "dkim"),
    ("policy open, below signed", "a@temp.org", N, "mail.temp.org", "temperror", "", "none", "unknown*", ""),
    ("key open, aligned", "a@example.org", N, "wait/example.org", "temperror", "reject", "none", "unknown*", ""),
    ("key open, but spf passes", "a@example.org", "b@example.org", "wait/example.org", "pass", "reject", "none", "yes", "dmarc"),
    ("key open, another's: nothing hangs on it", "a@example.org", N, "wait/example.net", "fail", "reject", "reject", "no", "dmarc"),
    ("spf open, aligned", "a@example.org", "b@slow.example.org", "", "temperror", "reject", "none", "unknown*", ""),
    ("no record, key open", "a@free.org", N, "wait/free.org", "none", "", "none", "unknown*", ""),
    ("no record, another's key open", "a@free.org", N, "wait/example.net", "none", "", "none", "unknown", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("author", "mail_from", "signers", "result", "policy", "disposition", "verified", "by"),
    [row[1:] for row in ROWS], ids=[row[0] for row in ROWS],
)  # fmt: skip
def test_dmarc_and_the_verdict(
    server: DnsServer,
    author: str,
    mail_from: str,
    signers: str,
    result: str,
    policy: str,
    disposition: str,
    verified: str,
    by: str,
) -> None:
    """DMARC's result, the policy that applies, and the sender that follows; a star: DNS may say more later."""
    found = check(server, author, mail_from, signers, helo="example.org")
    assert (found.dmarc.result, found.dmarc.policy, found.dmarc.disposition) == (result, policy, disposition)
    assert found.sender.verified + "*" * found.sender.temporary == verified
    assert found.sender.by == (f"{by} {US}" if by else "")


@pytest.mark.parametrize("head", [
    "Subject: no From at all",
    "From: a@example.org\r\nFrom: a@example.org",
    "From: a@example.org\r\nFrom : b@example.net",
    "From: a@example.org, b@example.net",
    "From: <a@example.org>, <b@example.net>",
    "From: group: a@example.org;",
    "From: a@example.org\0",
    "From: a@example.org\0.example.net",
    "From: =?utf-8?q?a=40example.org?=@example.net",
    "From: ann",
    "From: <>",
    "From:",
    "From:\r\n a@example.org,\r\n\tb@example.net",
    "From: a@example.org(\r\nFrom: b@example.net",
])  # fmt: skip
def test_a_from_that_names_nobody_has_no_verdict(server: DnsServer, head: str) -> None:
    """None, several, a group, NUL: DMARC has no domain to ask about, and the sender is nobody, whoever signed."""
    raw = sign(f"{head}\r\nTo: x@in.example.com\r\n\r\nhello\r\n".encode(), h="from:from:to")
    found = check(server, "", "b@example.org", raw=raw)
    assert (found.dmarc.result, found.dmarc.from_domain) == ("none", "")
    assert (found.sender.verified, found.sender.by, found.sender.temporary) == ("no", "", False)


@pytest.mark.parametrize(("head", "domain"), [
    ("From: <@example.net,@example.net:a@example.org>", "example.org"),
    ("From: (b@example.net) a@example.org (c@example.net)", "example.org"),
    ('From: "b@example.net" <a@example.org>', "example.org"),
    ("From: b@example.net <a@example.org>", "example.org"),
    ("From: =?utf-8?q?b=40example.net?= <a@example.org>", "example.org"),
    ('From: "a@example.net"@example.org', "example.org"),
    ("From: a@example(comment).org", ""),
    ("FROM:\r\n <a@example.org>", "example.org"),
    ("From : a@example.org", "example.org"),
    ("From: a@[192.0.2.1]", ""),
    ("From: a@example.org.", "example.org"),
    ("From: a@example.org\u3002", ""),
    ("From: a@ex\u00e4mple.org", "xn--exmple-cua.org"),
])  # fmt: skip
def test_whose_domain_is_asked_about(server: DnsServer, head: str, domain: str) -> None:
    """What stands where the address stands, never a name, a comment or a route."""
    raw = f"{head}\r\nTo: x@in.example.com\r\n\r\nhello\r\n".encode()
    found = check(server, "", "b@evil.example", raw=raw)
    if domain:
        assert found.dmarc.from_domain == domain
    assert found.sender.verified != "yes"


def test_the_walk_asks_eight_questions_at_most(server: DnsServer) -> None:
    """A From of 40 labels asks for itself and for the seven labels at its end, down to one."""
    server.queries.clear()
    check(server, "a@" + ".".join(["x"] * 38) + ".nowhere.test", methods=("dmarc",))
    names = [name for name, _, _ in server.queries if name.startswith("_dmarc.")]
    assert len(names) == 8
    assert [name.count(".") for name in names] == [40, 7, 6, 5, 4, 3, 2, 1]


def test_what_is_known_is_not_asked(server: DnsServer) -> None:
    """The author's own record, and a signature of the very domain: one question for the policy, none about organizations."""
    server.queries.clear()
    assert check(server, "a@example.org", N, "example.org").dmarc.result == "pass"
    assert [name for name, _, _ in server.queries if name.startswith("_dmarc.")] == ["_dmarc.example.org"]


def test_a_domain_elsewhere_is_not_asked_about(server: DnsServer) -> None:
    """A signature of a domain that is not below the author's organization: nothing is asked about its policy."""
    server.queries.clear()
    assert check(server, "a@example.org", N, "free.org").dmarc.result == "fail"
    assert server.count("_dmarc.free.org") == 0


def test_methods_that_are_not_asked_for(server: DnsServer) -> None:
    """Without DMARC the sender is verified by SPF or DKIM alone; with no method at all, DNS is not asked."""
    only = check(server, "a@example.org", N, "example.org", methods=("dkim",))
    assert (only.sender.verified, only.sender.by, only.dmarc.result) == ("yes", f"dkim {US}", "none")
    server.queries.clear()
    nothing = check(server, "a@example.org", "b@example.org", "example.org", methods=())
    assert (nothing.sender.verified, nothing.sender.mail_from_verified, server.queries) == ("unknown", False, [])


@pytest.mark.parametrize(("text", "expected"), [
    ("v=DMARC1", ("none", "none", "none", False)),
    ("v=DMARC1;", ("none", "none", "none", False)),
    ("v=DMARC1;p=reject", ("reject", "reject", "reject", True)),
    ("v=DMARC1; P=Reject; SP=None", ("reject", "none", "none", True)),
    ("v=DMARC1; p=reject; np=none", ("reject", "reject", "none", True)),
    ("v=DMARC1; p=reject; p=none", ("reject", "reject", "reject", True)),
    ("v=DMARC1; p=reject; ; ;=;garbage;x", ("reject", "reject", "reject", True)),
    ("v=DMARC1 p=reject", None),
    ("v=DMARC12; p=reject", None),
    ("\xff\xfe", None),
    ("", None),
])  # fmt: skip
def test_a_record_is_read(text: str, expected: tuple[str, str, str, bool] | None) -> None:
    """Policy, subdomains' policy, missing names' policy, and whether it is of use."""
    found = record(text.encode("latin-1"))
    assert (None if found is None else (found.policy, found.subdomains, found.missing, found.usable)) == expected
