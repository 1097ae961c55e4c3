"""SPF: MAIL FROM and HELO against records of every kind (RFC 7208)."""

from __future__ import annotations

import threading
import time

import pytest
import spf

from demo.dns_server import NXDOMAIN, REFUSED, SERVFAIL, DnsServer
from gatepost.authentication import Authenticator, Checked, Mail, Resolver
from tests.signed_mail import MESSAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = "192.0.2.7"
CLIENT6 = "2001:db8::7"

#: The name's first label is the row's id without spaces; `zone` is added below it.
ROWS: list[tuple[str, str, str, dict[str, dict[str, list[str]]]]] = [
    # id, record, result, further names
    ("all", "v=spf1 +all", "pass", {}),
    ("fail", "v=spf1 -all", "fail", {}),
    ("softfail", "v=spf1 ~all", "softfail", {}),
    ("neutral", "v=spf1 ?all", "neutral", {}),
    ("nothing-matches", "v=spf1 ip4:198.51.100.1", "neutral", {}),
    ("empty-record", "v=spf1", "neutral", {}),
    ("not-spf1", "v=spf10 -all", "none", {}),
    ("capitals", "V=SPF1 -ALL", "fail", {}),
    ("ip4", "v=spf1 ip4:192.0.2.7 -all", "pass", {}),
    ("ip4-network", "v=spf1 ip4:192.0.2.0/24 -all", "pass", {}),
    ("ip4-outside", "v=spf1 ip4:192.0.2.8/29 -all", "fail", {}),
    ("ip4-bad", "v=spf1 ip4:192.0.2.700 -all", "permerror", {}),
    ("ip4-cidr-bad", "v=spf1 ip4:192.0.2.0/33 -all", "permerror", {}),
    ("a", "v=spf1 a -all", "pass", {"": {"A": [CLIENT]}}),
    ("a-other", "v=spf1 a:mail.%Z -all", "pass", {"mail.": {"A": ["192.0.2.9", CLIENT]}}),
    ("a-network", "v=spf1 a:mail.%Z/24 -all", "pass", {"mail.": {"A": ["192.0.2.9"]}}),
    ("a-cname", "v=spf1 a:www.%Z -all", "pass", {"www.": {"CNAME": ["mail.%Z"]}, "mail.": {"A": [CLIENT]}}),
    ("a-cname-loop", "v=spf1 a:one.%Z -all", "temperror", {"one.": {"CNAME": ["two.%Z"]}, "two.": {"CNAME": ["one.%Z"]}}),
    ("mx", "v=spf1 mx -all", "pass", {"": {"MX": ["10 mx1.%Z", "20 mx2.%Z"]}, "mx1.": {"A": ["192.0.2.1"]}, "mx2.": {"A": [CLIENT]}}),
    ("mx-eleven", "v=spf1 mx -all", "permerror", {"": {"MX": [f"10 m{n}.%Z" for n in range(11)]}}),
    ("include", "v=spf1 include:other.%Z -all", "pass", {"other.": {"TXT": ["v=spf1 ip4:192.0.2.7 -all"]}}),
    ("include-fail-goes-on", "v=spf1 include:other.%Z ~all", "softfail", {"other.": {"TXT": ["v=spf1 -all"]}}),
    ("include-none", "v=spf1 include:other.%Z ~all", "permerror", {"other.": {"TXT": ["hello"]}}),
    ("include-permerror", "v=spf1 include:other.%Z ~all", "permerror", {"other.": {"TXT": ["v=spf1 what"]}}),
    ("include-temperror", "v=spf1 include:other.%Z ~all", "temperror", {"other.": {"TXT": [SERVFAIL]}}),
    ("include-loop", "v=spf1 include:other.%Z -all", "permerror", {"other.": {"TXT": ["v=spf1 include:%Z -all"]}}),
    ("include-self", "v=spf1 include:%Z -all", "permerror", {}),
    ("redirect", "v=spf1 redirect=other.%Z", "pass", {"other.": {"TXT": ["v=spf1 +all"]}}),
    ("redirect-none", "v=spf1 redirect=other.%Z", "permerror", {}),
    ("redirect-loop", "v=spf1 redirect=other.%Z", "permerror", {"other.": {"TXT": ["v=spf1 redirect=%Z"]}}),
    ("exists", "v=spf1 exists:%{ir}.list.%Z -all", "pass", {"7.2.0.192.list.": {"A": ["127.0.0.2"]}}),
    ("macro-sender", "v=spf1 exists:%{l}._at_.%{o}.list.%Z -all", "pass", {"ann._at_.macro-sender.spf.example.list.": {"A": ["127.0.0.2"]}}),
    ("macro-helo", "v=spf1 exists:%{h}.list.%Z -all", "pass", {"h.example.net.list.": {"A": ["127.0.0.2"]}}),
    ("macro-cut-and-turned", "v=spf1 exists:%{d2r}.list.%Z -all", "pass", {"spf.macro-cut-and-turned.list.": {"A": ["127.0.0.2"]}}),
    ("macro-bad", "v=spf1 exists:%{zz}.list.%Z -all", "permerror", {}),
    ("macro-open", "v=spf1 exists:%{d.list.%Z -all", "permerror", {}),
    ("ptr", "v=spf1 ptr -all", "pass", {"host.": {"A": [CLIENT]}}),
    ("unknown-mechanism", "v=spf1 iq:x -all", "permerror", {}),
    ("unknown-modifier", "v=spf1 color=blue -all", "fail", {}),
    ("macro-zero", "v=spf1 exists:%{d0}.list.%Z -all", "permerror", {}),
    ("macro-escapes", "v=spf1 exists:%%a%_b%-c.%Z -all", "fail", {}),
    ("two-redirects", "v=spf1 redirect=a.%Z redirect=b.%Z", "permerror", {}),
    ("ten-lookups", "v=spf1 " + "a:m.%Z " * 10 + "-all", "fail", {"m.": {"A": ["192.0.2.1"]}}),
    ("eleven-lookups", "v=spf1 " + "a:m.%Z " * 11 + "-all", "permerror", {"m.": {"A": ["192.0.2.1"]}}),
    ("lookups-after-a-match", "v=spf1 ip4:192.0.2.7 " + "a:m.%Z " * 20 + "-all", "pass", {}),
    ("two-void-lookups", "v=spf1 a:x.%Z a:y.%Z -all", "fail", {}),
    ("three-void-lookups", "v=spf1 a:x.%Z a:y.%Z a:z.%Z -all", "permerror", {}),
    ("address-servfail", "v=spf1 a:m.%Z -all", "temperror", {"m.": {"A": [SERVFAIL]}}),
    ("exp-is-not-asked", "v=spf1 -all exp=why.%Z", "fail", {"why.": {"TXT": [SERVFAIL]}}),
    ("not-ascii", "v=spf1 a:\u00e4.%Z -all", "permerror", {}),
    ("long-record", "v=spf1 " + "ip4:192.0.2.1 " * 150 + "+all", "pass", {}),
    ("too-long-a-record", "v=spf1 " + "ip4:192.0.2.1 " * 400 + "+all", "permerror", {}),
]  # fmt: skip


def _zones() -> dict[str, dict[str, list[str]]]:
    zones: dict[str, dict[str, list[str]]] = {}
    for slug, record, _, further in ROWS:
        zone = f"{slug}.spf.example"
        zones[zone] = {"TXT": [record.replace("%Z", zone)]}
        for name, records in further.items():
            full = f"{name}{zone}" if name else zone
            spelled = {kind: [text.replace("%Z", zone) for text in texts] for kind, texts in records.items()}
            zones[full] = {**zones.get(full, {}), **spelled}
    zones["7.2.0.192.in-addr.arpa"] = {"PTR": ["gone.spf.example", "host.ptr.spf.example"]}
    zones["six.spf.example"] = {"TXT": ["v=spf1 ip6:2001:db8::/64 -all"]}
    zones["four.spf.example"] = {"TXT": ["v=spf1 ip4:192.0.2.0/24 -all"], "AAAA": [CLIENT6]}
    zones["aaaa.spf.example"] = {"TXT": ["v=spf1 a//120 -all"], "AAAA": ["2001:db8::1"]}
    zones["two.spf.example"] = {"TXT": ["v=spf1 +all", "v=spf1 -all"]}
    zones["beside.spf.example"] = {"TXT": ["hello", "v=spf1 -all", "v=DMARC1; p=none"]}
    zones["none.spf.example"] = {"A": [CLIENT]}
    zones["servfail.spf.example"] = {"TXT": [SERVFAIL]}
    zones["refused.spf.example"] = {"TXT": [REFUSED]}
    zones["nxdomain.spf.example"] = {"TXT": [NXDOMAIN]}
    zones["xn--mnchen-3ya.example"] = {"TXT": ["v=spf1 +all"]}
    zones["h.example.net"] = {"TXT": ["v=spf1 ip4:192.0.2.7 -all"]}
    zones["evil.example"] = {"TXT": ["v=spf1 +all"]}
    return zones


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    """All the zones of this page."""
    with DnsServer(_zones()) as running:
        yield running


def check(server: DnsServer, mail_from: str, *, client: str = CLIENT, helo: str = "h.example.net") -> Checked:
    """SPF alone."""
    judge = Authenticator(Resolver((server.address,)), methods=("spf",), authserv_id="mx.in.example.com")
    mail = Mail(client_address=client, helo=helo, mail_from=mail_from, raw=MESSAGE, host="mx.in.example.com")
    return judge.check(mail, deadline=time.monotonic() + 20)


@pytest.mark.parametrize(("slug", "expected"), [(row[0], row[2]) for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_record_gives_its_result(server: DnsServer, slug: str, expected: str) -> None:
    """What RFC 7208 makes of each record for 192.0.2.7."""
    found = check(server, f"ann@{slug}.spf.example")
    assert found.spf.result == expected
    assert (found.spf.domain, found.spf.identity) == (f"{slug}.spf.example", "mailfrom")
    assert found.sender.mail_from_verified is (expected == "pass")


@pytest.mark.parametrize(("mail_from", "client", "helo", "expected", "identity", "domain"), [
    ("ann@six.spf.example", CLIENT6, "h.example.net", "pass", "mailfrom", "six.spf.example"),
    ("ann@six.spf.example", CLIENT, "h.example.net", "fail", "mailfrom", "six.spf.example"),
    ("ann@four.spf.example", CLIENT6, "h.example.net", "fail", "mailfrom", "four.spf.example"),
    ("ann@four.spf.example", "::ffff:192.0.2.7", "h.example.net", "pass", "mailfrom", "four.spf.example"),
    ("ann@aaaa.spf.example", CLIENT6, "h.example.net", "pass", "mailfrom", "aaaa.spf.example"),
    ("ann@two.spf.example", CLIENT, "h.example.net", "permerror", "mailfrom", "two.spf.example"),
    ("ann@beside.spf.example", CLIENT, "h.example.net", "fail", "mailfrom", "beside.spf.example"),
    ("ann@none.spf.example", CLIENT, "h.example.net", "none", "mailfrom", "none.spf.example"),
    ("ann@nxdomain.spf.example", CLIENT, "h.example.net", "none", "mailfrom", "nxdomain.spf.example"),
    ("ann@servfail.spf.example", CLIENT, "h.example.net", "temperror", "mailfrom", "servfail.spf.example"),
    ("ann@refused.spf.example", CLIENT, "h.example.net", "temperror", "mailfrom", "refused.spf.example"),
    ("ann@ALL.spf.Example.", CLIENT, "h.example.net", "pass", "mailfrom", "all.spf.example"),
    ("ann@m\u00fcnchen.example", CLIENT, "h.example.net", "pass", "mailfrom", "xn--mnchen-3ya.example"),
    ("", CLIENT, "h.example.net", "pass", "helo", "h.example.net"),
    ("<>", CLIENT, "h.example.net", "pass", "helo", "h.example.net"),
    ("", "192.0.2.8", "h.example.net", "fail", "helo", "h.example.net"),
    ("", CLIENT, "[192.0.2.7]", "none", "helo", ""),
    ("", CLIENT, "localhost", "none", "helo", "localhost"),
    ("", CLIENT, "", "none", "helo", ""),
    ("", CLIENT, "x\0y.example", "none", "helo", ""),
    ("ann", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("ann@", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("ann@localhost", CLIENT, "h.example.net", "none", "mailfrom", "localhost"),
    ("ann@[192.0.2.7]", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("ann@a..spf.example", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("ann@" + "a" * 64 + ".spf.example", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("@all.spf.example", CLIENT, "h.example.net", "pass", "mailfrom", "all.spf.example"),
    ("x@evil.example@fail.spf.example", CLIENT, "h.example.net", "fail", "mailfrom", "fail.spf.example"),
    ('"x@evil.example"@fail.spf.example', CLIENT, "h.example.net", "fail", "mailfrom", "fail.spf.example"),
    ("any@absent.fail.spf.example", CLIENT, "h.example.net", "none", "mailfrom", "absent.fail.spf.example"),
    ("(any@fail.spf.example", CLIENT, "evil.example", "fail", "mailfrom", "fail.spf.example"),
    ("any@fail.spf.example(.evil.example", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("any@fail.spf.example\0.evil.example", CLIENT, "h.example.net", "none", "mailfrom", ""),
    ("\udcff@macro-sender.spf.example", CLIENT, "h.example.net", "fail", "mailfrom", "macro-sender.spf.example"),
    ("ann@fail.spf.example", "no address", "h.example.net", "permerror", "mailfrom", "fail.spf.example"),
    ("ann@fail.spf.example", "", "h.example.net", "permerror", "mailfrom", "fail.spf.example"),
])  # fmt: skip
def test_whom_it_asks_about(
    server: DnsServer, mail_from: str, client: str, helo: str, expected: str, identity: str, domain: str
) -> None:
    """MAIL FROM's domain behind its last @; HELO for the null reverse-path alone, and never in place of a MAIL FROM."""
    found = check(server, mail_from, client=client, helo=helo)
    assert (found.spf.result, found.spf.identity, found.spf.domain) == (expected, identity, domain)
    assert found.sender.mail_from_verified is (expected == "pass" and identity == "mailfrom")


def test_queries_of_threads_do_not_meet(server: DnsServer) -> None:
    """Eight threads with two resolvers that say opposite things: each gets its own answers, and pyspf's module stays as it was."""
    before = spf.DNSLookup
    results: set[tuple[str, str]] = set()
    with (
        DnsServer({"opposite.spf.example": {"TXT": ["v=spf1 +all"]}}) as yes,
        DnsServer({"opposite.spf.example": {"TXT": ["v=spf1 -all"]}}) as no,
    ):

        def ask(which: DnsServer, label: str) -> None:
            for _ in range(20):
                results.add((label, check(which, "ann@opposite.spf.example").spf.result))

        threads = [threading.Thread(target=ask, args=pair) for pair in [(yes, "yes"), (no, "no")] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {("yes", "pass"), ("no", "fail")}
    assert spf.DNSLookup is before


def test_the_work_of_one_record_is_bounded(server: DnsServer) -> None:
    """Ten mx terms with ten names each ask 111 questions and no more; the eleventh term is permerror before any."""
    zone = {f"m{term}-{n}.wide.example": {"A": ["192.0.2.1"]} for term in range(10) for n in range(10)}
    zones: dict[str, dict[str, list[str]]] = {
        f"t{term}.wide.example": {"MX": [f"10 m{term}-{n}.wide.example" for n in range(10)]} for term in range(10)
    }
    zones |= zone
    zones["wide.example"] = {"TXT": ["v=spf1 " + " ".join(f"mx:t{term}.wide.example" for term in range(10)) + " -all"]}
    with DnsServer(zones) as wide:
        assert check(wide, "ann@wide.example").spf.result == "fail"
        assert wide.count() == 111
