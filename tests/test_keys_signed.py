"""Signed keys: what is one, whom it names, how long it lives, and every way in which a text is not one.

Promises: each row of a table says why it is there; nothing here shares code with what it tests, but for `signed.mint` as the
source of genuine keys, which tests/test_keys_page.py holds to the vectors.
Never: measures time.
"""

from __future__ import annotations

import base64
import hmac
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatepost.keys import base32, signed
from gatepost.keys.signed import Verdict

ROOT = Path(__file__).parent.parent
SECRET = b"the-newest-secret-of-reply-keys-"
OLD = b"an-older-secret-that-still-works"
KEY_ID = "reply-keys"
DOMAIN = "in.example.com"
OWNER = "person@example.org"
DAY = 2516  # 2026-11-21
GENUINE: dict[str, Any] = {"secret": SECRET, "key_id": KEY_ID, "domain": DOMAIN, "subject": b"ticket-42"}


def verify(text: str, **changes: Any) -> Verdict:
    arguments: dict[str, Any] = {"secrets": (OLD, SECRET), "key_id": KEY_ID, "domains": (DOMAIN,), "today": DAY}
    return signed.verify(text, **(arguments | changes))


def mint(**changes: Any) -> str:
    return signed.mint(**(GENUINE | changes))


def spelled(data: bytes) -> str:
    """Any bytes as a key is spelled."""
    return base64.b32encode(data).decode().rstrip("=").lower()


def with_tag(payload: bytes, **changes: Any) -> str:
    """Any payload with the tag that a secret gives it, by the page's formula: what only the tag's check would let pass."""
    arguments = {"secret": SECRET, "key_id": KEY_ID, "domain": DOMAIN} | changes
    covered = b"gatepost key 1\0" + arguments["key_id"].encode() + b"\0" + arguments["domain"].encode() + b"\0" + payload
    return spelled(payload + hmac.digest(arguments["secret"], covered, "sha256")[:10])


KEY = mint(expires=DAY, owner=OWNER)
EVEN = mint(subject=b"fourteen bytes")  # 25 bytes, 40 characters: no spare bits


UNKNOWN = [
    ("empty", "", "nothing stands in the key's place"),
    ("one letter", "c", "too short"),
    ("a word", "support", "a guess at an address"),
    ("capitals", KEY.upper(), "who takes the key from an address folds it first; here one spelling only"),
    ("one capital", KEY[:5] + KEY[5:].upper(), "the same in part"),
    ("padded", KEY + "=" * (-len(KEY) % 8), "RFC 4648 padding is not part of a key"),
    ("a zero", "0" + KEY[1:], "0 is not in the alphabet"),
    ("a one", KEY[:9] + "1" + KEY[10:], "1 is not in the alphabet"),
    ("an eight", KEY[:9] + "8" + KEY[10:], "8 and 9 are not in the alphabet"),
    ("a minus in front", "-" + KEY[1:], "int() reads signs"),
    ("a plus in front", "+" + KEY[1:], "int() reads signs"),
    ("an underscore", KEY[:9] + "_" + KEY[10:], "int() reads underscores between digits"),
    ("a space in front", " " + KEY, "int() strips white space"),
    ("a newline behind", KEY + "\n", "int() strips white space"),
    ("a NUL", KEY[:9] + "\0" + KEY[10:], "no character of the alphabet"),
    ("a Kelvin sign", KEY[:9] + "\u212a" + KEY[10:], "U+212A folds to k in lower()"),
    ("full-width digits", KEY[:9] + "\uff12" + KEY[10:], "int() reads Unicode digits"),
    ("a lone surrogate", KEY[:9] + "\udcff" + KEY[10:], "an address that was not UTF-8"),
    ("one character more", EVEN + "a", "5 spare bits: no bytes have this length"),
    ("one character less", EVEN[:-1], "the same from below"),
    ("three characters more", EVEN + "aaa", "15 bits are one byte and 7 spare ones"),
    ("six characters more", EVEN + "aaaaaa", "30 bits are three bytes and 6 spare ones"),
    ("19 characters", with_tag(b"\x10a")[:19], "shorter than any key"),
    ("no subject", with_tag(b"\x10"), "a subject has a byte at least; rightly signed otherwise"),
    ("expiry, no subject", with_tag(b"\x11\xff\xff"), "a head, an expiry and a tag: rightly signed, but no subject"),
    ("owner, no subject", with_tag(b"\x12\x01\x02\x03\x04"), "the same with an owner"),
    ("flags beyond the end", with_tag(b"\x13\xff"), "the head promises six bytes, the payload has one"),
    ("subject of 17 bytes", with_tag(b"\x10" + bytes(17)), "rightly signed, but a subject has 16 at most"),
    ("34 bytes", with_tag(b"\x13" + bytes(23)), "longer than any key"),
    ("version 0", with_tag(b"\x00ab"), "another version, rightly signed"),
    ("version 2", with_tag(b"\x20ab"), "a later version, rightly signed"),
    ("version 15", with_tag(b"\xf0ab"), "the highest version"),
    ("flag 4", with_tag(b"\x14ab"), "a flag that we do not know may change what the key means"),
    ("flag 8", with_tag(b"\x18ab"), "the other unknown flag"),
    ("all flags", with_tag(b"\x1f\xff\xffabcdef"), "known flags beside unknown ones"),
    ("a megabyte", "a" * 1_000_000, "length is looked at first"),
]


@pytest.mark.parametrize(("text", "reason"), [row[1:] for row in UNKNOWN], ids=[row[0] for row in UNKNOWN])
def test_unknown(text: str, reason: str) -> None:
    """What is not of a signed key's form is unknown, even where its tag would fit, and tells nothing else."""
    assert verify(text) == Verdict(result="unknown"), reason
    assert not signed.looks_signed(text), reason


def test_spare_bits_must_be_zero() -> None:
    """Of the spellings that decode to the same bytes one is the key; the others are unknown."""
    key = mint(subject=b"a")  # 12 bytes in 20 characters: 4 spare bits
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    last = alphabet.index(key[-1])
    others = [key[:-1] + alphabet[last + spare] for spare in range(1, 16)]
    assert [verify(other).result for other in others] == ["unknown"] * 15
    assert verify(key).result == "live"


FORGED = [
    ("other secret", mint(secret=b"x" * 32), "we never had that secret"),
    ("other key_id", mint(key_id="other-keys"), "another route's keys under the same secret"),
    ("other domain", mint(domain="other.example.com"), "another domain's keys under the same secret"),
    ("subdomain", mint(domain="a.in.example.com"), "a subdomain is another domain"),
    ("no tag at all", spelled(b"\x10ticket-42" + bytes(10)), "what a stranger can make"),
    ("owner's text as tag", with_tag(b"\x10ab", key_id="gatepost owner 1"), "one HMAC's input must not serve as another's"),
    (
        "expiry set later",
        spelled(base64.b32decode(KEY.upper() + "=" * (-len(KEY) % 8)).replace(b"\x09\xd4", b"\xff\xff")),
        "an expired key made good by hand",
    ),
]


@pytest.mark.parametrize(("text", "reason"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_forged(text: str, reason: str) -> None:
    """What has the form and no fitting tag is forged, and gives neither subject, expiry, owner nor secret."""
    assert verify(text) == Verdict(result="forged"), reason
    assert signed.looks_signed(text), reason


@pytest.mark.parametrize("owner", [None, OWNER])
@pytest.mark.parametrize("expires", [None, DAY])
@pytest.mark.parametrize("subject", [b"a", b"\0", b"sixteen bytes !!", bytes(16), uuid.UUID(int=2**128 - 1).bytes])
def test_live(subject: bytes, expires: int | None, owner: str | None) -> None:
    """A minted key verifies and gives back all it was made of."""
    key = mint(subject=subject, expires=expires, owner=owner)
    verdict = verify(key)
    assert (verdict.result, verdict.subject, verdict.expires, verdict.secret) == ("live", subject, expires, SECRET)
    assert len(verdict.owner) == (0 if owner is None else 4)
    assert signed.looks_signed(key)
    assert key == with_tag(
        bytes([16 | (expires is not None) | (owner is not None) << 1])
        + (b"" if expires is None else expires.to_bytes(2, "big"))
        + verdict.owner
        + subject
    )


EXPIRY = [
    ("the day before", 2515, "live"),
    ("the day itself", 2516, "live"),
    ("the day after", 2517, "expired"),
    ("day 0", 0, "live"),
    ("long after", 60_000, "expired"),
]


@pytest.mark.parametrize(("today", "result"), [row[1:] for row in EXPIRY], ids=[row[0] for row in EXPIRY])
def test_expiry(today: int, result: str) -> None:
    """A key is good through its last day; afterwards it is expired and still says whom it names."""
    verdict = verify(KEY, today=today)
    assert (verdict.result, verdict.subject, verdict.expires) == (result, b"ticket-42", DAY)


def test_a_key_without_expiry_never_expires() -> None:
    """No expiry, no last day."""
    assert verify(mint(), today=10**6).result == "live"


def test_an_expired_key_under_a_wrong_tag_is_forged() -> None:
    """Expiry is judged only where a secret vouches for it."""
    assert verify(KEY[:-8] + "a" * 8, today=60_000).result == "forged"


MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
CLOCK = [
    ("the last second of the last day, UTC", MIDNIGHT - 1, 2516),
    ("a fraction before midnight", MIDNIGHT - 0.001, 2516),
    ("midnight UTC", MIDNIGHT, 2517),
    ("day 0", datetime(2020, 1, 1, tzinfo=UTC).timestamp(), 0),
    ("the last second before day 0", datetime(2020, 1, 1, tzinfo=UTC).timestamp() - 1, -1),
    ("a host whose clock is not set", 0.0, -18_262),
]


@pytest.mark.parametrize(("now", "day"), [row[1:] for row in CLOCK], ids=[row[0] for row in CLOCK])
def test_days_change_at_midnight_utc(now: float, day: int) -> None:
    """`today` counts UTC days from 2020-01-01, rounding down."""
    assert signed.today(now) == day


def test_day_text_is_the_calendar() -> None:
    """Every day that two bytes can say has the date that the calendar gives it."""
    first = date(2020, 1, 1)
    for day in range(65_536):
        assert signed.day_text(day) == (first + timedelta(days=day)).isoformat()


def test_rotation() -> None:
    """Keys of every listed secret verify, and say under which; those of a secret that was taken out are forged."""
    new, old = mint(), mint(secret=OLD)
    assert (verify(new).secret, verify(old).secret) == (SECRET, OLD)
    assert verify(old, secrets=(SECRET,)).result == "forged"
    assert verify(old, secrets=()).result == "forged"


def test_the_newest_secret_wins() -> None:
    """Where a secret is listed twice in effect (HMAC pads with zeros), the key verifies under the newest."""
    padded = SECRET + b"\0"
    assert verify(mint(), secrets=(SECRET, padded)).secret == padded


def test_former_domains() -> None:
    """A key made for a former domain verifies; one for a domain that is not listed does not."""
    moved = mint(domain="old.example.com")
    assert verify(moved, domains=(DOMAIN, "old.example.com")).result == "live"
    assert verify(moved, domains=(DOMAIN,)).result == "forged"
    assert verify(moved, domains=()).result == "forged"


def test_domain_in_any_case() -> None:
    """A to Z of a domain are folded on both sides; key_id is not."""
    assert mint(domain="IN.Example.COM") == mint()
    assert verify(mint(), domains=("In.EXAMPLE.com",)).result == "live"
    assert verify(mint(), key_id="Reply-Keys").result == "forged"


OWNERS = [
    ("the owner", "person@example.org", True),
    ("in capitals", "PERSON@EXAMPLE.ORG", True),
    ("in title case", "Person@Example.Org", True),
    ("another person", "other@example.org", False),
    ("another domain", "person@example.net", False),
    ("a space behind", "person@example.org ", False),
    ("a sub-address", "person+a@example.org", False),
    ("a dot behind", "person@example.org.", False),
    ("empty", "", False),
    ("a NUL", "person@example.org\0", False),
    ("a lone surrogate", "person\udcff@example.org", False),
    ("another lone surrogate", "\ud800@example.org", False),
    ("a Kelvin sign", "person@example.or\u212a", False),
]


@pytest.mark.parametrize(("address", "matches"), [row[1:] for row in OWNERS], ids=[row[0] for row in OWNERS])
def test_owner(address: str, matches: bool) -> None:
    """The owner matches in any case, nobody else does, and no text of an address raises."""
    assert signed.owner_matches(verify(KEY), address, KEY_ID) is matches


def test_owner_beyond_ascii() -> None:
    """Letters beyond A to Z are compared as they stand: five languages fold them in five ways."""
    verdict = verify(mint(owner="Ünal@example.net"))
    assert signed.owner_matches(verdict, "ÜNAL@example.net", KEY_ID)
    assert not signed.owner_matches(verdict, "ünal@example.net", KEY_ID)


def test_owner_depends_on_everything() -> None:
    """The same owner gives other four bytes under another secret, key_id, expiry or subject, but not another domain."""

    def owner(**changes: Any) -> bytes:
        arguments = GENUINE | {"owner": OWNER, "expires": DAY} | changes
        return signed.verify(
            signed.mint(**arguments),
            secrets=(arguments["secret"],),
            key_id=arguments["key_id"],
            domains=(arguments["domain"],),
            today=0,
        ).owner

    others = [owner(secret=OLD), owner(key_id="other"), owner(expires=DAY + 1), owner(expires=None), owner(subject=b"other")]
    assert len({owner(), *others}) == 6
    assert owner(domain="old.example.com") == owner()


def test_no_owner_matches_nobody() -> None:
    """A key without an owner, and one that no secret vouches for, match no address."""
    assert not signed.owner_matches(verify(mint()), OWNER, KEY_ID)
    assert not signed.owner_matches(verify(KEY, secrets=(b"x" * 32,)), OWNER, KEY_ID)
    assert not signed.owner_matches(verify(KEY), OWNER, "other-keys")


def test_an_expired_key_still_has_its_owner() -> None:
    """Policy may ask for the owner of a key that was live when the message was first seen."""
    assert signed.owner_matches(verify(KEY, today=60_000), OWNER, KEY_ID)


MINT_ERRORS = [
    ("short secret", {"secret": b"x" * 31}, r"31 bytes: use at least 32.*openssl rand"),
    ("empty subject", {"subject": b""}, r"0 bytes.*1 to 16"),
    ("long subject", {"subject": b"x" * 17}, r"17 bytes.*1 to 16.*UUID as its 16 bytes"),
    ("before day 0", {"expires": -1}, r"day -1.*2020-01-01"),
    ("beyond the last day", {"expires": 65_536}, r"day 65536.*2199-06-06"),
    ("no domain", {"domain": ""}, r"domain is empty"),
    ("no key_id", {"key_id": ""}, r"key_id is empty"),
    ("no owner's address", {"owner": ""}, r"owner is empty: leave it out"),
    ("owner is a name", {"owner": "person"}, r"owner 'person'.*whole address"),
    ("NUL in owner", {"owner": "a\0b@example.org"}, r"owner .*NUL"),
    ("NUL in key_id", {"key_id": "a\0b"}, r"key_id .*NUL"),
    ("NUL in domain", {"domain": "a\0b"}, r"domain .*NUL"),
    ("surrogate in owner", {"owner": "\udcff@example.org"}, r"owner .*surrogates"),
]


@pytest.mark.parametrize(("change", "text"), [row[1:] for row in MINT_ERRORS], ids=[row[0] for row in MINT_ERRORS])
def test_mint_says_what_is_wrong(change: dict[str, Any], text: str) -> None:
    """What no key can carry is a ValueError with the mend, and the secret is not in it."""
    with pytest.raises(ValueError, match=text) as caught:
        mint(**change)
    assert SECRET.decode() not in str(caught.value)


SUBJECTS = [
    ("an id", b"42", "42"),
    ("all of printable ASCII's ends", b"!~", "!~"),
    ("a space", b"a b", "0x612062"),
    ("a NUL", b"\0", "0x00"),
    ("DEL", b"\x7f", "0x7f"),
    ("8-bit", b"\xff\xfe", "0xfffe"),
    ("begins with 0x", b"0x41", "0x30783431"),
    ("capital 0X", b"0X41", "0X41"),
    ("0 alone", b"0", "0"),
    ("a UUID", uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes, "0x00112233445566778899aabbccddeeff"),
    ("nothing", b"", "0x"),
]


@pytest.mark.parametrize(("subject", "text"), [row[1:] for row in SUBJECTS], ids=[row[0] for row in SUBJECTS])
def test_subject_as_text(subject: bytes, text: str) -> None:
    """A subject is shown as printable ASCII or as 0x and hex, and can be read back."""
    assert signed.subject_text(subject) == text
    assert signed.subject_bytes(text) == subject


@pytest.mark.parametrize("text", ["", "a b", "é", "a\n", "\x7f", "0x1", "0xzz", "0x 11", "0x11 ", "0x1\u0661", "0x0x"])
def test_no_subject(text: str) -> None:
    """What shows no subject is a ValueError with the mend."""
    with pytest.raises(ValueError, match=r"subject .*(hex digits|printable ASCII)"):
        signed.subject_bytes(text)


@given(st.binary(max_size=16))
def test_subject_round_trip(subject: bytes) -> None:
    """Any subject can be read back from its text, which is printable ASCII."""
    text = signed.subject_text(subject)
    assert signed.subject_bytes(text) == subject
    assert text.isascii()
    assert text.isprintable()


@settings(deadline=None)
@given(
    subject=st.binary(min_size=1, max_size=16),
    expires=st.none() | st.integers(0, 65_535),
    owner=st.booleans(),
    today=st.integers(-20_000, 70_000),
)
def test_round_trip(subject: bytes, expires: int | None, owner: bool, today: int) -> None:
    """Whatever is minted verifies, on any day, and is expired exactly after its last one."""
    verdict = verify(mint(subject=subject, expires=expires, owner=OWNER if owner else None), today=today)
    assert verdict.subject == subject
    assert verdict.expires == expires
    assert verdict.result == ("expired" if expires is not None and today > expires else "live")
    assert signed.owner_matches(verdict, OWNER, KEY_ID) is owner


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=70) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=19, max_size=54))
@example("cmaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
def test_any_text(text: str) -> None:
    """No text raises, and none that we did not mint is live."""
    verdict = verify(text)
    assert verdict.result in ("unknown", "forged")
    assert (verdict.result == "forged") is signed.looks_signed(text)
    assert verdict == Verdict(result=verdict.result)


@pytest.mark.parametrize("key", [KEY, EVEN, mint(subject=b"a"), mint(expires=DAY), mint(owner=OWNER)])
def test_flipping_any_bit(key: str) -> None:
    """No bit of a live key can be flipped: each gives an unknown or a forged one."""
    data = base32.decode(key)
    assert data is not None
    for bit in range(len(data) * 8):
        flipped = (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")
        assert verify(spelled(flipped)).result in ("unknown", "forged"), f"bit {bit}"
    for at in range(len(key)):
        for other in set("abcdefghijklmnopqrstuvwxyz234567") - {key[at]}:
            assert verify(key[:at] + other + key[at + 1 :]).result in ("unknown", "forged"), f"character {at}"


class _Counted:
    """hmac_sha256, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, secret: bytes, message: bytes) -> bytes:
        self.calls += 1
        return hmac.digest(secret, message, "sha256")


@pytest.mark.parametrize("text", ["", "support", KEY, mint(secret=OLD), mint(secret=b"x" * 32), KEY.upper(), "a" * 1000])
def test_the_same_work_for_any_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets times domains HMACs, whatever the text is and whichever secret fits."""
    counted = _Counted()
    monkeypatch.setattr(signed, "hmac_sha256", counted)
    verify(text, domains=(DOMAIN, "old.example.com", "older.example.com"))
    assert counted.calls == 2 * 3


@given(st.binary(max_size=60))
def test_base32_is_rfc_4648(data: bytes) -> None:
    """The spelling is the standard library's in lower case without padding, and is read back."""
    assert base32.encode(data) == spelled(data)
    assert base32.decode(base32.encode(data)) == data


@given(st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=60))
def test_base32_has_one_spelling(text: str) -> None:
    """What decodes at all is what encoding gives again."""
    data = base32.decode(text)
    assert data is None or base32.encode(data) == text


COSTLY = ("_hashlib", "base64", "dataclasses", "datetime", "enum", "hashlib", "hmac", "random", "re", "secrets", "typing")


def test_no_costly_import() -> None:
    """Judging a key loads none of the modules that cost the pipe script its start-up time."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom gatepost.keys import keyring, outgoing, reply_ids, signed\n"
        f"print([name for name in {COSTLY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
