"""ARC: the status of a chain (RFC 8617 5.2). Reported, and nothing more."""

from __future__ import annotations

import time

import pytest

from demo.dns_server import SERVFAIL, DnsServer
from gatepost.authentication import Authenticator, Checked, Mail, Resolver
from tests.signed_mail import MESSAGE, arc_set, ed25519_key, rsa_key, short_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = 1_800_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    """Two domains that seal."""
    zones = {
        "s._domainkey.example.org": {"TXT": [rsa_key().record]},
        "s._domainkey.example.net": {"TXT": [rsa_key(2048, 1).record]},
        "e._domainkey.example.org": {"TXT": [ed25519_key().record]},
        "short._domainkey.example.org": {"TXT": [short_key().record]},
        "wait._domainkey.example.org": {"TXT": [SERVFAIL]},
    }
    with DnsServer(zones) as running:
        yield running


def check(server: DnsServer, raw: bytes, methods: tuple[str, ...] = ("arc",)) -> Checked:
    """ARC alone."""
    judge = Authenticator(Resolver((server.address,)), methods=methods, authserv_id="mx.in.example.com", now=lambda: NOW)
    mail = Mail(client_address="192.0.2.1", helo="h.example.org", mail_from="ann@example.org", raw=raw)
    return judge.check(mail, deadline=time.monotonic() + 20)


def one(**given: object) -> bytes:
    """A message with one set."""
    return arc_set(MESSAGE, 1, **given)  # type: ignore[arg-type]


def two(**given: object) -> bytes:
    """A message with two sets, the second by another domain."""
    return arc_set(one(), 2, rsa_key(2048, 1), domain="example.net", **given)  # type: ignore[arg-type]


def many(count: int) -> bytes:
    """A message with so many sets."""
    raw = MESSAGE
    for instance in range(1, count + 1):
        raw = arc_set(raw, instance)
    return raw


def without(raw: bytes, name: bytes, count: int = 1) -> bytes:
    """The message without the first fields of that name."""
    for _ in range(count):
        start = raw.index(name + b":")
        end = raw.index(b"\r\n", start) + 2
        while raw[end : end + 1] in (b" ", b"\t"):
            end = raw.index(b"\r\n", end) + 2
        raw = raw[:start] + raw[end:]
    return raw


ROWS: list[tuple[str, Callable[[], bytes], str]] = [
    ("no set", lambda: MESSAGE, "none"),
    ("one", one, "pass"),
    ("two", two, "pass"),
    ("five", lambda: many(5), "pass"),
    ("simple message signature", lambda: one(ams={"c": "simple/simple"}), "pass"),
    ("ed25519", lambda: one(key=ed25519_key(), selector="e"), "pass"),
    ("body changed", lambda: two().replace(b"again", b"never"), "fail"),
    ("body changed between: the first message signature does not count", lambda: arc_set(
        one().replace(b"again", b"never"), 2, rsa_key(2048, 1), domain="example.net"), "pass"),
    ("signed field changed", lambda: two().replace(b"pump", b"bank"), "fail"),
    ("results changed", lambda: two().replace(b"i=1; mx.example.net; spf=pass", b"i=1; mx.example.net; spf=fail"), "fail"),
    ("white space of results changed: seals are relaxed", lambda: two().replace(b"i=1; mx", b"i=1;  mx"), "pass"),
    ("seal by another key", lambda: one(key=rsa_key(2048, 1)), "fail"),
    ("the first seal is by another key, the second is good", lambda: arc_set(
        one(key=rsa_key(2048, 1)), 2, rsa_key(2048, 1), domain="example.net"), "fail"),
    ("no key", lambda: one(selector="absent"), "fail"),
    ("short key", lambda: one(key=short_key(), selector="short"), "fail"),
    ("DNS does not answer", lambda: one(selector="wait"), "temperror"),
    ("cv=none in the second", lambda: two(cv="none"), "fail"),
    ("cv=pass in the first", lambda: one(cv="pass"), "fail"),
    ("cv=fail", lambda: two(cv="fail"), "fail"),
    ("cv= unknown", lambda: two(cv="maybe"), "fail"),
    ("cv= left out", lambda: two(seal={"cv": None}), "fail"),
    ("h= in a seal", lambda: one(seal={"h": "from"}), "fail"),
    ("a= of sha1", lambda: one(seal={"a": "rsa-sha1"}), "fail"),
    ("seal without d=", lambda: one(seal={"d": None}), "fail"),
    ("seal with strange d=", lambda: one(seal={"d": "example.org("}), "fail"),
    ("seal with bad b=", lambda: one(seal={"b": "!"}), "fail"),
    ("message signature signs seals", lambda: one(ams={"h": "from:arc-seal"}), "fail"),
    ("message signature without b=", lambda: one(ams={"b": ""}), "fail"),
    ("message signature expired", lambda: one(ams={"x": str(NOW - 86_400)}), "fail"),
    ("instance 0", lambda: arc_set(MESSAGE, 0), "fail"),
    ("instance 2 alone", lambda: arc_set(MESSAGE, 2), "fail"),
    ("instance 51", lambda: arc_set(MESSAGE, 51), "fail"),
    ("instance that is no number", lambda: one().replace(b"ARC-Authentication-Results: i=1", b"ARC-Authentication-Results: i=one"), "fail"),
    ("results without instance", lambda: one().replace(b"ARC-Authentication-Results: i=1; ", b"ARC-Authentication-Results: "), "fail"),
    ("results missing", lambda: without(two(), b"ARC-Authentication-Results"), "fail"),
    ("seal missing", lambda: without(two(), b"ARC-Seal"), "fail"),
    ("message signature missing", lambda: without(two(), b"ARC-Message-Signature"), "fail"),
    ("the second set is cut off", lambda: without(without(without(
        two(), b"ARC-Seal"), b"ARC-Message-Signature"), b"ARC-Authentication-Results"), "pass"),
    ("a field twice", lambda: b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=x.org; s=s; b=AAAA\r\n" + one(), "fail"),
    ("no tags", lambda: b"ARC-Seal: x\r\n" + one(), "fail"),
    ("200 seals", lambda: b"ARC-Seal: i=1; cv=none\r\n" * 200 + one(), "fail"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_chain_has_its_status(server: DnsServer, make: Callable[[], bytes], expected: str) -> None:
    """none, pass and fail as RFC 8617 5.2 says; temperror where DNS does not answer."""
    assert check(server, make()).arc == expected


def test_a_chain_says_nothing_about_the_sender(server: DnsServer) -> None:
    """A whole chain on a message that nobody else vouches for leaves its sender unknown."""
    found = check(server, two(), ("spf", "dkim", "dmarc", "arc"))
    assert (found.arc, found.sender.verified) == ("pass", "unknown")
