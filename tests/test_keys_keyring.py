"""A route's keyring: the result for each kind of key, rotation, former domains, and revocation.

Promises: revocation is tested with the file's content as a person or `gatepost key revoke` writes it.
Never: reads a file or the clock.
"""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.keys import keyring, signed
from gatepost.keys.keyring import KeyVerdict, check, revocation_line
from gatepost.settings import KeySettings

SECRET = b"the-newest-secret-of-reply-keys-"
OLD = b"an-older-secret-that-still-works"
DOMAIN = "in.example.com"
DAY = 2516
NOW = (DAY + 18_262) * 86_400.0 + 43_200
KEYS = KeySettings(secret="reply-keys", key_id="reply-keys", secrets=(OLD, SECRET), former_domains=("old.example.com",))


def mint(**changes: Any) -> str:
    arguments: dict[str, Any] = {"secret": SECRET, "key_id": "reply-keys", "domain": DOMAIN, "subject": b"42"} | changes
    return signed.mint(**arguments)


KEY = mint(expires=DAY, owner="person@example.org")
LINE = revocation_line(SECRET, "reply-keys", KEY)
OTHER_LINE = revocation_line(SECRET, "reply-keys", mint(subject=b"43"))

RESULTS = [
    ("live", KEY, "live", "42"),
    ("live, old secret", mint(secret=OLD), "live", "42"),
    ("live, former domain", mint(domain="old.example.com"), "live", "42"),
    ("live, a subject that is no text", mint(subject=b"\0\1"), "live", "0x0001"),
    ("expired yesterday", mint(expires=DAY - 1), "expired", "42"),
    ("expires today", mint(expires=DAY), "live", "42"),
    ("forged", mint(secret=b"x" * 32), "forged", ""),
    ("forged, other key_id", mint(key_id="other"), "forged", ""),
    ("unknown", "support", "unknown", ""),
    ("unknown, empty", "", "unknown", ""),
    ("unknown, no text at all", "\udcff\0", "unknown", ""),
]


@pytest.mark.parametrize(("key", "result", "subject"), [row[1:] for row in RESULTS], ids=[row[0] for row in RESULTS])
def test_result(key: str, result: str, subject: str) -> None:
    """Each kind of key has its result; a subject is given only where a secret vouches for it."""
    verdict = check(KEYS, key, DOMAIN, now=NOW)
    assert (verdict.result, verdict.subject) == (result, subject)
    assert bool(verdict.signed.secret) is bool(subject)


def test_the_domain_is_the_recipients() -> None:
    """A key is judged for the domain that the message came to, in any case."""
    assert check(KEYS, KEY, "IN.EXAMPLE.COM", now=NOW).result == "live"
    assert check(KEYS, KEY, "elsewhere.example.com", now=NOW).result == "forged"


REVOKED = [
    ("alone, no line end", LINE, "revoked"),
    ("alone", f"{LINE}\n", "revoked"),
    ("first of two", f"{LINE}\n{OTHER_LINE}\n", "revoked"),
    ("last of two, no line end", f"{OTHER_LINE}\n{LINE}", "revoked"),
    ("between blank lines and comments", f"# lost phone\n\n{LINE}\n\n# end\n", "revoked"),
    ("CRLF", f"{OTHER_LINE}\r\n{LINE}\r\n", "revoked"),
    ("indented", f"   {LINE}\n", "revoked"),
    ("a comment behind", f"{LINE} # lost phone\n", "revoked"),
    ("in capitals", f"{LINE.upper()}\n", "revoked"),
    ("a byte-order mark in front", f"\ufeff{LINE}\n", "revoked"),
    ("commented out", f"# {LINE}\n", "live"),
    ("commented out without a space", f"#{LINE}\n", "live"),
    ("commented out, and again below", f"# {LINE}\n{LINE}\n", "revoked"),
    ("listed, and commented out below", f"{LINE}\n# {LINE}\n", "revoked"),
    ("behind a comment that ends with CR only", f"# x\r{LINE}\n", "live"),
    ("another key", f"{OTHER_LINE}\n", "live"),
    ("half of the line", f"{LINE[:32]}\n{LINE[32:]}\n", "live"),
    ("the key itself", f"{KEY}\n", "live"),
    ("nothing", "", "live"),
    ("not text", "\udcff\udcfe\0", "live"),
]


@pytest.mark.parametrize(("content", "result"), [row[1:] for row in REVOKED], ids=[row[0] for row in REVOKED])
def test_revocation(content: str, result: str) -> None:
    """A line of the file revokes its key and no other, wherever it stands, unless it is in a comment."""
    verdict = check(KEYS, KEY, DOMAIN, now=NOW, revoked=content.encode("utf-8", "surrogateescape"))
    assert (verdict.result, verdict.subject) == (result, "42")


def test_the_line_is_as_documented() -> None:
    """A line is the hex of HMAC-SHA256(secret, "gatepost revoked 1" NUL key_id NUL key)."""
    assert hmac.new(SECRET, b"gatepost revoked 1\0reply-keys\0" + KEY.encode(), "sha256").hexdigest() == LINE
    assert KEY not in LINE


def test_a_line_is_for_one_secret_and_key_id() -> None:
    """The line of a key made with the old secret is made with that secret; under any other it revokes nothing."""
    old = mint(secret=OLD)
    by = {secret: revocation_line(secret, "reply-keys", old).encode() for secret in (OLD, SECRET)}
    assert check(KEYS, old, DOMAIN, now=NOW, revoked=by[OLD]).result == "revoked"
    assert check(KEYS, old, DOMAIN, now=NOW, revoked=by[SECRET]).result == "live"
    assert check(KEYS, old, DOMAIN, now=NOW, revoked=revocation_line(OLD, "other", old).encode()).result == "live"


def test_revoked_and_expired_is_revoked() -> None:
    """Somebody meant the revocation, so it is what the log says."""
    assert check(KEYS, KEY, DOMAIN, now=NOW + 10 * 86_400, revoked=LINE.encode()).result == "revoked"


@pytest.mark.parametrize("key", ["support", mint(secret=b"x" * 32)])
def test_a_line_cannot_revoke_what_is_no_key(key: str) -> None:
    """What no secret vouches for stays unknown or forged, even where a line of the file fits it by the newest secret."""
    line = revocation_line(SECRET, "reply-keys", key).encode()
    assert check(KEYS, key, DOMAIN, now=NOW, revoked=line).result == check(KEYS, key, DOMAIN, now=NOW).result != "revoked"


def test_a_hundred_thousand_lines() -> None:
    """First, middle and last of 100,000 lines revoke their keys; a key that is not among them lives."""
    keys = [mint(subject=number.to_bytes(3, "big")) for number in (0, 50_000, 99_999)]
    lines = [hmac.new(b"filler", str(number).encode(), "sha256").hexdigest() for number in range(100_000)]
    for number, key in zip((0, 50_000, 99_999), keys, strict=True):
        lines[number] = revocation_line(SECRET, "reply-keys", key)
    content = ("\n".join(lines) + "\n").encode()
    assert [check(KEYS, key, DOMAIN, now=NOW, revoked=content).result for key in keys] == ["revoked"] * 3
    assert check(KEYS, KEY, DOMAIN, now=NOW, revoked=content).result == "live"


class _Content(bytes):
    """A file's content that keeps what is asked of it, and how far it was read for that."""

    asked: list[tuple[str, int]]

    def count(self, *arguments: Any) -> int:
        self.asked.append(("count", len(self)))
        return super().count(*arguments)

    def find(self, *arguments: Any) -> int:
        at = super().find(*arguments)
        self.asked.append(("find", at))
        return at


@pytest.mark.parametrize("key", [KEY, mint(), mint(expires=DAY - 1), mint(secret=b"x" * 32), "support", ""])
def test_the_same_work_for_each(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live, revoked, expired, forged and unknown keys cost as many HMACs, and the file is gone through to its end."""
    macs = []

    def counted(secret: bytes, message: bytes) -> bytes:
        macs.append(message.split(b"\0")[0])
        return hmac.digest(secret, message, "sha256")

    monkeypatch.setattr(signed, "hmac_sha256", counted)
    monkeypatch.setattr(keyring, "hmac_sha256", counted)
    content = _Content(("# about\n" + LINE).encode())
    content.asked = []
    check(KEYS, key, DOMAIN, now=NOW, revoked=content)
    assert macs == [b"gatepost key 1"] * 4 + [b"gatepost revoked 1"]
    assert [how for how, _ in content.asked] == ["count", "find"] * 2, "each spelling to the end, then as far as a line"
    assert all(far >= 0 for _, far in content.asked), "a line that is not there is given up for one that is"


def test_no_secret_no_key() -> None:
    """A keyring without secrets takes nothing, and does not raise."""
    assert check(KEYS.replace(secrets=()), KEY, DOMAIN, now=NOW, revoked=LINE.encode()).result == "forged"


@settings(deadline=None)
@given(key=st.text(max_size=60), domain=st.text(max_size=30), now=st.floats(-1e12, 1e12), revoked=st.binary(max_size=200))
def test_never_raises(key: str, domain: str, now: float, revoked: bytes) -> None:
    """Any key, domain, clock and file give a verdict, and no stranger's text is live."""
    verdict = check(KEYS, key, domain, now=now, revoked=revoked)
    assert isinstance(verdict, KeyVerdict)
    assert verdict.result in ("unknown", "forged")
