"""DKIM: one result for each signature (RFC 6376, 8301, 8463; results as RFC 8601 2.7.1 names them)."""

from __future__ import annotations

import time

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.dns_server import SERVFAIL, DnsServer
from gatepost.authentication import Authenticator, Checked, Mail, Resolver
from gatepost.authentication.dkim import SIGNATURES
from tests.signed_mail import MESSAGE, Key, ed25519_key, rsa_key, short_key, sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_800_000_000
DAY = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    """Keys of every kind."""
    good = rsa_key().public
    texts = {
        "s": rsa_key().record,
        "e": ed25519_key().record,
        "short": short_key().record,
        "edge": rsa_key(1024).record,
        "bare": f"p={good}",
        "spaced": f"v = DKIM1 ;\tp = {good[:40]} {good[40:]} ; n = a note",
        "revoked": "v=DKIM1; p=",
        "sha1only": f"v=DKIM1; h=sha1; p={good}",
        "sha256too": f"v=DKIM1; h=sha1:sha256; p={good}",
        "tlsrpt": f"v=DKIM1; s=tlsrpt; p={good}",
        "anything": f"v=DKIM1; s=*; p={good}",
        "strict": f"v=DKIM1; t=y:s; p={good}",
        "late-v": f"p={good}; v=DKIM1",
        "v2": f"v=DKIM2; p={good}",
        "garbage": "v=DKIM1; p=AAAA",
        "nobase64": "v=DKIM1; p=!!!",
        "notags": "v=DKIM1; p",
        "unknown": f"v=DKIM1; k=dsa; p={good}",
        "twice": f"v=DKIM1; p={good}; p={good}",
        "long": "v=DKIM1; p=" + "A" * 60_000,
    }
    zones: dict[str, dict[str, list[str]]] = {f"{name}._domainkey.example.org": {"TXT": [text]} for name, text in texts.items()}
    zones["two._domainkey.example.org"] = {"TXT": [f"v=DKIM1; p={good}", ed25519_key().record]}
    zones["wildcard._domainkey.example.org"] = {"TXT": ["v=spf1 -all", f"v=DKIM1; p={good}", "google-site-verification=x"]}
    zones["cname._domainkey.example.org"] = {"CNAME": ["s._domainkey.example.org"]}
    zones["noanswer._domainkey.example.org"] = {"TXT": [SERVFAIL]}
    zones["empty._domainkey.example.org"] = {"A": ["192.0.2.1"]}
    with DnsServer(zones) as running:
        yield running


def check(server: DnsServer, raw: bytes, now: float = NOW) -> Checked:
    """DKIM alone."""
    judge = Authenticator(Resolver((server.address,)), methods=("dkim",), authserv_id="mx.in.example.com", now=lambda: now)
    mail = Mail(client_address="192.0.2.1", helo="h.example.org", mail_from="ann@example.org", raw=raw)
    return judge.check(mail, deadline=time.monotonic() + 20)


E_ = ed25519_key
ROWS = [
    # id, signed message, result
    ("none: no signature", lambda: MESSAGE, []),
    ("relaxed/relaxed", lambda: sign(), ["pass"]),
    ("simple/simple", lambda: sign(c="simple/simple"), ["pass"]),
    ("relaxed/simple", lambda: sign(c="relaxed/simple"), ["pass"]),
    ("simple/relaxed", lambda: sign(c="simple/relaxed"), ["pass"]),
    ("c= of one word: body simple", lambda: sign(c="relaxed"), ["pass"]),
    ("c= left out: both simple", lambda: sign(c=None), ["pass"]),
    ("c= unknown", lambda: sign().replace(b"c=relaxed/relaxed", b"c=nowsp/simple"), ["permerror"]),
    ("ed25519", lambda: sign(key=E_(), selector="e"), ["pass"]),
    ("ed25519, simple", lambda: sign(key=E_(), selector="e", c="simple/simple"), ["pass"]),
    ("ed25519 by another key", lambda: sign(key=E_(1), selector="e"), ["fail"]),
    ("rsa by another key", lambda: sign(key=rsa_key(2048, 1)), ["fail"]),
    ("a= says rsa, the key is ed25519", lambda: sign(key=E_(), selector="e", a="rsa-sha256"), ["permerror"]),
    ("a= says ed25519, the key is rsa", lambda: sign(a="ed25519-sha256"), ["permerror"]),
    ("rsa-sha1 must not be verified", lambda: sign(a="rsa-sha1"), ["permerror"]),
    ("a= in capitals: values are case-sensitive", lambda: sign(a="RSA-SHA256"), ["permerror"]),
    ("1,024 bits are enough", lambda: sign(key=rsa_key(1024), selector="edge"), ["pass"]),
    ("below 1,024 bits is policy", lambda: sign(key=short_key(), selector="short"), ["policy"]),
    ("l= is policy", lambda: sign(l="4"), ["policy"]),
    ("l= with appended text is policy", lambda: sign(l="4") + b"buy this\r\n", ["policy"]),
    ("l= over the whole body is policy too", lambda: sign(l="17"), ["policy"]),
    ("body changed", lambda: sign().replace(b"again", b"never"), ["fail"]),
    ("text appended", lambda: sign() + b"more\r\n", ["fail"]),
    ("empty lines appended are no change", lambda: sign() + b"\r\n\r\n", ["pass"]),
    ("Subject changed", lambda: sign().replace(b"pump", b"bank"), ["fail"]),
    ("white space changed, relaxed", lambda: sign().replace(b"the  pump\t room", b"the pump\r\n  room "), ["pass"]),
    ("white space changed, simple", lambda: sign(c="simple/simple").replace(b"the  pump\t", b"the pump "), ["fail"]),
    ("white space in the body, relaxed", lambda: sign().replace(b"is  dry \r", b"is \tdry\t\r"), ["pass"]),
    ("white space in the body, simple", lambda: sign(c="relaxed/simple").replace(b"dry \r", b"dry\r"), ["fail"]),
    ("name in other case, relaxed", lambda: sign().replace(b"Subject:", b"SUBJECT :"), ["pass"]),
    ("unsigned field added", lambda: b"X-Seen: yes\r\n" + sign(), ["pass"]),
    ("not yet expired", lambda: sign(t=str(NOW - DAY), x=str(NOW + DAY)), ["pass"]),
    ("expired", lambda: sign(t=str(NOW - 2 * DAY), x=str(NOW - DAY)), ["fail"]),
    ("expired ten minutes ago", lambda: sign(x=str(NOW - 600)), ["fail"]),
    ("expired a minute ago: clocks differ", lambda: sign(x=str(NOW - 60)), ["pass"]),
    ("from tomorrow", lambda: sign(t=str(NOW + DAY)), ["fail"]),
    ("from ten minutes ahead", lambda: sign(t=str(NOW + 600)), ["fail"]),
    ("from a minute ahead: clocks differ", lambda: sign(t=str(NOW + 60)), ["pass"]),
    ("x= before t=", lambda: sign(t=str(NOW), x=str(NOW - 10)), ["permerror"]),
    ("t= is no number", lambda: sign(t="soon"), ["permerror"]),
    ("x= of 5,000 digits", lambda: sign(x="9" * 5_000), ["permerror"]),
    ("x= in other digits", lambda: sign(x="\u0661\u0662"), ["permerror"]),
    ("no key", lambda: sign(selector="absent"), ["permerror"]),
    ("name without TXT", lambda: sign(selector="empty"), ["permerror"]),
    ("DNS does not answer: temperror, never fail", lambda: sign(selector="noanswer"), ["temperror"]),
    ("revoked", lambda: sign(selector="revoked"), ["fail"]),
    ("record without v= and k=", lambda: sign(selector="bare"), ["pass"]),
    ("record with white space", lambda: sign(selector="spaced"), ["pass"]),
    ("record of another version", lambda: sign(selector="v2"), ["permerror"]),
    ("v= not first", lambda: sign(selector="late-v"), ["permerror"]),
    ("key is no key", lambda: sign(selector="garbage"), ["permerror"]),
    ("key is no base64", lambda: sign(selector="nobase64"), ["permerror"]),
    ("key record is no list", lambda: sign(selector="notags"), ["permerror"]),
    ("key of another type", lambda: sign(selector="unknown"), ["permerror"]),
    ("p= twice", lambda: sign(selector="twice"), ["permerror"]),
    ("key of 45,000 octets", lambda: sign(selector="long"), ["permerror"]),
    ("key for sha1 alone", lambda: sign(selector="sha1only"), ["permerror"]),
    ("key for sha256 too", lambda: sign(selector="sha256too"), ["pass"]),
    ("key for TLS reports", lambda: sign(selector="tlsrpt"), ["permerror"]),
    ("key for every service", lambda: sign(selector="anything"), ["pass"]),
    ("two keys", lambda: sign(selector="two"), ["permerror"]),
    ("other texts beside the key", lambda: sign(selector="wildcard"), ["pass"]),
    ("CNAME to the key", lambda: sign(selector="cname"), ["pass"]),
    ("i= in the domain", lambda: sign(i="ann@example.org"), ["pass"]),
    ("i= below the domain", lambda: sign(i="@list.example.org"), ["pass"]),
    ("i= elsewhere", lambda: sign(i="ann@example.net"), ["fail"]),
    ("i= ends like the domain", lambda: sign(i="ann@badexample.org"), ["fail"]),
    ("i= without @", lambda: sign(i="example.org"), ["fail"]),
    ("t=s: i= is the domain", lambda: sign(selector="strict", i="@example.org"), ["pass"]),
    ("t=s: i= may not be below", lambda: sign(selector="strict", i="@list.example.org"), ["fail"]),
    ("From is not signed", lambda: sign(h="to:subject"), ["fail"]),
    ("h= empty", lambda: sign(h=""), ["permerror"]),
    ("h= with an empty name", lambda: sign(h="from::to"), ["permerror"]),
    ("h= with white space and capitals", lambda: sign(h="FROM : To\r\n\t: Subject"), ["pass"]),
    ("h= names fields that are not there", lambda: sign(h="from:to:cc:x-none:subject"), ["pass"]),
    ("oversigned", lambda: sign(h="from:from:subject:subject:to"), ["pass"]),
    ("oversigned, and one more From on top", lambda: b"From: Eve <e@example.net>\r\n" + sign(h="from:from"), ["fail"]),
    ("one more From on top", lambda: b"From: Eve <e@example.net>\r\n" + sign(), ["policy"]),
    ("one more From below", lambda: sign().replace(b"To:", b"From: e@example.net\r\nTo:"), ["fail"]),
    ("one more Subject on top", lambda: b"Subject: Invoice\r\n" + sign(), ["policy"]),
    ("one more Content-Type, none signed", lambda: b"Content-Type: text/html\r\n" + sign(), ["pass"]),
    ("v= left out", lambda: sign(v=None), ["permerror"]),
    ("v=2", lambda: sign(v="2"), ["permerror"]),
    ("d= left out", lambda: sign(d=None), ["permerror"]),
    ("s= left out", lambda: sign(s=None), ["permerror"]),
    ("h= left out", lambda: sign(h=None), ["permerror"]),
    ("bh= left out", lambda: sign(bh=None), ["permerror"]),
    ("b= empty", lambda: sign(b=""), ["permerror"]),
    ("b= is no base64", lambda: sign(b="!!!!"), ["permerror"]),
    ("b= too short", lambda: sign(b="AAAAAAAAAAA="), ["fail"]),
    ("b= with folds", lambda: sign(), ["pass"]),
    ("a tag twice", lambda: sign().replace(b"d=example.org;", b"d=example.org; d=example.net;"), ["permerror"]),
    ("no tags", lambda: b"DKIM-Signature: hello\r\n" + MESSAGE, ["permerror"]),
    ("empty field", lambda: b"DKIM-Signature:\r\n" + MESSAGE, ["permerror"]),
    ("unknown tag", lambda: sign(zz="top"), ["pass"]),
    ("q= known", lambda: sign(q="dns/txt"), ["pass"]),
    ("q= known among others", lambda: sign(q="http/x:dns/txt"), ["pass"]),
    ("q= unknown", lambda: sign(q="http/x"), ["permerror"]),
    ("d= in capitals", lambda: sign(d="EXAMPLE.org"), ["pass"]),
    ("d= with a comment's opening", lambda: sign(d="example.org(.example.net"), ["permerror"]),
    ("d= with a NUL", lambda: sign(d="example.org\0.example.net"), ["permerror"]),
    ("s= with a NUL", lambda: sign(s="x.example.net.\0.s"), ["permerror"]),
    ("s= with a quote", lambda: sign(s='s"'), ["permerror"]),
    ("d= of 300 octets", lambda: sign(d="a." * 150 + "org"), ["permerror"]),
    ("first bad, second good", lambda: sign(sign(), key=rsa_key(2048, 1)), ["fail", "pass"]),
    ("first without key, second good", lambda: sign(sign(), selector="absent"), ["permerror", "pass"]),
    ("first temperror, second good", lambda: sign(sign(), selector="noanswer"), ["temperror", "pass"]),
    ("first good, second bad", lambda: sign(sign().replace(b"\r\n\tb=", b"\r\n\tb=A"), c="simple/simple"), ["pass", "permerror"]),
    ("rsa and ed25519", lambda: sign(sign(), key=E_(), selector="e"), ["pass", "pass"]),
    ("signatures are signed too", lambda: sign(sign(), h="from:dkim-signature"), ["pass", "pass"]),
    ("a line without colon in the head", lambda: b"no colon here\r\n" + sign(), ["pass"]),
    ("no body", lambda: sign(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"), ["pass"]),
    ("no body, simple", lambda: sign(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", c="simple/simple"), ["pass"]),
    ("body without line end", lambda: sign(MESSAGE.rstrip()), ["pass"]),
    ("body without line end, simple", lambda: sign(MESSAGE.rstrip(), c="simple/simple"), ["pass"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_signature_has_its_result(server: DnsServer, make: object, expected: list[str]) -> None:
    """Every signature of a message gets the result that RFC 6376 and RFC 8601 give it."""
    assert callable(make)
    assert [each.result for each in check(server, make()).dkim] == expected


def test_what_a_signature_says_is_reported(server: DnsServer) -> None:
    """Domain, selector, algorithm and the beginning of b= stand in the result."""
    (found,) = check(server, sign(key=ed25519_key(), selector="e", d="EXAMPLE.org")).dkim
    assert (found.domain, found.selector, found.algorithm, len(found.start)) == ("example.org", "e", "ed25519-sha256", 8)


def test_the_vector_of_the_rfc_verifies() -> None:
    """The message of RFC 8463 appendix A passes by its Ed25519 key."""
    raw = (
        "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\n d=football.example.com; i=@football.example.com;\n"
        " q=dns/txt; s=brisbane; t=1528637909; h=from : to :\n subject : date : message-id : from : subject : date;\n"
        " bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\n"
        " b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\n Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\n"
        "From: Joe SixPack <joe@football.example.com>\nTo: Suzie Q <suzie@shopping.example.net>\n"
        "Subject: Is dinner ready?\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\n"
        "Message-ID: <20030712040037.46341.5F8J@football.example.com>\n\n"
        "Hi.\n\nWe lost the game.  Are you hungry yet?\n\nJoe.\n"
    ).replace("\n", "\r\n").encode()  # fmt: skip
    record = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    with DnsServer({"brisbane._domainkey.football.example.com": {"TXT": [record]}}) as server:
        assert [each.result for each in check(server, raw).dkim] == ["pass"]


def test_only_so_many_signatures_are_looked_at(server: DnsServer) -> None:
    """Of 1,000 signatures the first ten are verified; the rest cost nothing."""
    server.queries.clear()
    field = sign()[: -len(MESSAGE)]
    found = check(server, field * 1_000 + MESSAGE).dkim
    assert [each.result for each in found] == ["pass"] * SIGNATURES
    assert server.count("s._domainkey.example.org") == 1


def other_program_signs(body: bytes, subject: bytes, form: tuple[bytes, bytes], key: Key) -> bytes:
    """A message that dkimpy itself has signed."""
    assert not isinstance(key.private, bytes)
    pem = key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    message = b"From: Ann <ann@example.org>\r\nSubject: " + subject + b"\r\nTo: x@example.com\r\n\r\n" + body
    signed: bytes = dkim.sign(message, b"s", b"example.org", pem, canonicalize=form)
    return signed + message


WHITE = st.sampled_from([b" ", b"\t", b"\r\n", b"a", b"b:", b"\xc3\xa4", b"=", b".", b"\r\n\r\n", b"  \r\n"])


@settings(max_examples=60, deadline=None)
@given(body=st.lists(WHITE, max_size=40).map(b"".join), subject=st.lists(st.sampled_from([b" ", b"\t", b"x", b"\r\n "]), max_size=9),
       form=st.tuples(*[st.sampled_from([b"relaxed", b"simple"])] * 2))  # fmt: skip
def test_what_another_program_signs_verifies(
    server: DnsServer, body: bytes, subject: list[bytes], form: tuple[bytes, bytes]
) -> None:
    """White space of every kind, in head and body: what dkimpy signs passes here, and one octet more in the body fails."""
    body += b"\r\n"  # as SMTP ends every message; without, RFC 6376 leaves white space at the very end open
    raw = other_program_signs(body, b"".join([b"x", *subject, b"x"]), form, rsa_key())
    now = time.time()
    assert [each.result for each in check(server, raw, now).dkim] == ["pass"]
    assert [each.result for each in check(server, raw + b"!", now).dkim] == ["fail"]
