"""Signed keys, version 1: minted by an app, checked with a secret and nothing else (docs/keys.md has the table and vectors).

Promises: the format byte for byte; `verify` never raises on any text, tries every secret with every domain whichever fits,
and compares in constant time; a subject, an expiry or an owner is given only where a secret vouches for it.
Never: reads a clock or makes randomness; folds case for the caller. A key in capitals is "unknown" here: whoever takes it
from an address checks that it is ASCII, then folds it.
"""

from __future__ import annotations

from gatepost.digest import hmac_sha256, same
from gatepost.keys.base32 import decode, encode
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = [
    "MAX_DAY",
    "MAX_SUBJECT",
    "MIN_SECRET",
    "Verdict",
    "day_text",
    "looks_signed",
    "mint",
    "owner_matches",
    "subject_bytes",
    "subject_text",
    "today",
    "verify",
]

MIN_SECRET = 32  # bytes: HMAC-SHA256's own strength (RFC 2104 section 3: keys below the output's length weaken it)
MAX_SUBJECT = 16  # bytes: a UUID
MAX_DAY = 0xFFFF  # two bytes: 2199-06-06

_VERSION = 1
_HAS_EXPIRY = 1
_HAS_OWNER = 2
_FLAGS = _HAS_EXPIRY | _HAS_OWNER
_EXPIRY_BYTES = 2
_OWNER_BYTES = 4
_TAG_BYTES = 10
_SHORTEST = 20  # characters: head, one byte of subject, tag
_LONGEST = 53  # characters: everything, 33 bytes
_DAY_ZERO = 18_262  # 2020-01-01 in days since 1970-01-01
_SECONDS_A_DAY = 86_400
#: Taken apart and hashed in place of a text that is no key, so that it costs what a key costs: the longest form, subject 0.
_STAND_IN = "cm" + 51 * "a"
_STAND_IN_DATA = decode(_STAND_IN)


class _Pieces(Value):
    """What a text of a signed key's form is made of; nobody vouches for it yet. `bound` is head, expiry and subject."""

    payload: bytes
    tag: bytes
    expires: int | None
    owner: bytes
    subject: bytes
    bound: bytes


_NO_PIECES = _Pieces(payload=b"", tag=b"", expires=None, owner=b"", subject=b"", bound=b"")


class Verdict(Value):
    """What a text is as a signed key.

    unknown: not of a signed key's form. forged: of that form, and no secret's tag fits. expired: ours, its last day past.
    `expires` counts days since 2020-01-01 UTC (None: for good); `owner` is b"" for a key without one; `secret` is the one it
    verified under; `bound` is what the owner was computed over. All are empty for unknown and forged.
    """

    result: Literal["live", "unknown", "forged", "expired"]
    subject: bytes = b""
    owner: bytes = b""
    expires: int | None = None
    secret: bytes = b""
    bound: bytes = b""


def mint(
    *,
    secret: bytes,
    key_id: str,
    domain: str,
    subject: bytes,
    expires: int | None = None,
    owner: str | None = None,
) -> str:
    """A new key, 20 to 53 characters. `expires`: its last day, in days since 2020-01-01 UTC; `owner`: an address.

    Raises ValueError, with the mend in its text, for anything that no key can carry.
    """
    _check_mintable(secret, key_id, domain, subject, expires, owner)
    head = bytes([_VERSION << 4 | (expires is not None and _HAS_EXPIRY) | (owner is not None and _HAS_OWNER)])
    last_day = b"" if expires is None else expires.to_bytes(_EXPIRY_BYTES, "big")
    bound = head + last_day + subject
    owner_part = b"" if owner is None else _owner(secret, key_id, bound, owner)
    payload = head + last_day + owner_part + subject
    return encode(payload + _tag(secret, key_id, _folded(domain), payload))


def verify(text: str, *, secrets: tuple[bytes, ...], key_id: str, domains: tuple[str, ...], today: int) -> Verdict:
    """What this text is. `secrets` oldest first, the newest tried first; `domains` the current one, then former ones.

    Every tag is computed whatever the text is and whichever fits: len(secrets) * len(domains) HMACs, always. So that no time
    tells more, every text goes the same way: as if it were a key, and only then is it asked whether it was one.
    """
    data = _decoded(text)
    octets = data or decode(_STAND_IN) or b""
    as_key = bytes((_VERSION << 4 | octets[0] & _FLAGS,)) + octets[1:]
    pieces = _pieces(as_key)
    hashed = pieces or _pieces(_STAND_IN_DATA)
    is_key = pieces is not None and as_key == data
    assert hashed is not None  # what stands in is well-formed
    fits = b""
    for secret in reversed(secrets):
        for domain in domains:
            if same(_tag(secret, key_id, _folded(domain), hashed.payload), hashed.tag) and not fits:
                fits = secret
    secret = fits if is_key else b""
    shown = hashed if secret else _NO_PIECES
    result: Literal["live", "unknown", "forged", "expired"] = "live"
    if not is_key:
        result = "unknown"
    elif not secret:
        result = "forged"
    elif hashed.expires is not None and today > hashed.expires:
        result = "expired"
    return Verdict(
        result=result, subject=shown.subject, owner=shown.owner, expires=shown.expires, secret=secret, bound=shown.bound
    )


def owner_matches(verdict: Verdict, address: str, key_id: str) -> bool:
    """Whether the key was made for this address; False for a key without an owner and for one that no secret vouches for."""
    if not verdict.owner:
        return False
    return same(_owner(verdict.secret, key_id, verdict.bound, address), verdict.owner)


def looks_signed(text: str) -> bool:
    """Whether the text has a signed key's form, genuine or not. Never raises."""
    return _pieces(_decoded(text)) is not None


def today(now: float) -> int:
    """Days since 2020-01-01 UTC at `now` (seconds since 1970-01-01 UTC); a key expires when this passes its last day."""
    return int(now // _SECONDS_A_DAY) - _DAY_ZERO


def day_text(days: int) -> str:
    """A day since 2020-01-01 as its date: `2026-11-21`.

    Years are counted from March, so that the leap day is a year's last; 146,097 days are 400 years of the Gregorian calendar.
    """
    since_0000_03_01 = days + _DAY_ZERO + 719_468
    era, day = divmod(since_0000_03_01, 146_097)
    year_of_era = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day_of_year = day - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = era * 400 + year_of_era + (month <= 2)
    return f"{year:04d}-{month:02d}-{day_of_year - (153 * month_from_march + 2) // 5 + 1:02d}"


def subject_text(subject: bytes) -> str:
    """A subject for people and JSON: itself where it is printable ASCII without spaces, else `0x` and lower-case hex."""
    if subject and not subject.startswith(b"0x") and all(0x21 <= octet <= 0x7E for octet in subject):
        return subject.decode("ascii")
    return "0x" + subject.hex()


def subject_bytes(text: str) -> bytes:
    """The subject that `subject_text` shows as this text. Raises ValueError, with the mend, for a text that shows none."""
    if text.startswith("0x"):
        try:
            return bytes.fromhex("".join(text[2:].split()) if " " not in text else "?")
        except ValueError:
            raise ValueError(f"subject {text!r}: after 0x come pairs of hex digits, as in 0x00ff") from None
    if not text or not all("\x21" <= character <= "\x7e" for character in text):
        raise ValueError(f"subject {text!r}: text is printable ASCII without spaces; write anything else as 0x and hex")
    return text.encode("ascii")


def _decoded(text: str) -> bytes | None:
    """The bytes of a text that may be a key by its length and characters."""
    return decode(text) if _SHORTEST <= len(text) <= _LONGEST else None


def _pieces(data: bytes | None) -> _Pieces | None:
    """The bytes taken apart, or None where they are not of a signed key's form (another version, unknown flags included)."""
    if data is None or data[0] >> 4 != _VERSION or data[0] & 0x0F & ~_FLAGS:
        return None
    at = 1
    expires = None
    if data[0] & _HAS_EXPIRY:
        expires = int.from_bytes(data[at : at + _EXPIRY_BYTES], "big")
        at += _EXPIRY_BYTES
    bound = data[:at]
    owner = b""
    if data[0] & _HAS_OWNER:
        owner = data[at : at + _OWNER_BYTES]
        at += _OWNER_BYTES
    subject = data[at:-_TAG_BYTES]
    if not 1 <= len(subject) <= MAX_SUBJECT:
        return None
    return _Pieces(
        payload=data[:-_TAG_BYTES], tag=data[-_TAG_BYTES:], expires=expires, owner=owner, subject=subject, bound=bound + subject
    )


def _tag(secret: bytes, key_id: str, domain: bytes, payload: bytes) -> bytes:
    return hmac_sha256(secret, b"gatepost key 1\0%b\0%b\0%b" % (_utf8(key_id), domain, payload))[:_TAG_BYTES]


def _owner(secret: bytes, key_id: str, bound: bytes, address: str) -> bytes:
    return hmac_sha256(secret, b"gatepost owner 1\0%b\0%b\0%b" % (_utf8(key_id), bound, _folded(address)))[:_OWNER_BYTES]


def _folded(text: str) -> bytes:
    """UTF-8 with A to Z in lower case. Other letters stay: each language folds them in its own way."""
    return _utf8(text).lower()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a text that was not UTF-8 equals no text that was


def _check_mintable(
    secret: bytes,
    key_id: str,
    domain: str,
    subject: bytes,
    expires: int | None,
    owner: str | None,
) -> None:
    if len(secret) < MIN_SECRET:
        raise ValueError(f"the secret has {len(secret)} bytes: use at least {MIN_SECRET}, as in: openssl rand -hex 32")
    if not 1 <= len(subject) <= MAX_SUBJECT:
        raise ValueError(
            f"the subject has {len(subject)} bytes: a key carries 1 to {MAX_SUBJECT} "
            "(a UUID as its 16 bytes, not as text; else an id of your database)"
        )
    if expires is not None and not 0 <= expires <= MAX_DAY:
        raise ValueError(
            f"expires is day {expires}: days count from 2020-01-01, 0 to {MAX_DAY} ({day_text(MAX_DAY)}); "
            "leave it out for a key without an end"
        )
    for name, value in (("key_id", key_id), ("domain", domain), ("owner", owner)):
        if value == "":
            raise ValueError(f"{name} is empty" + (": leave it out for a key without one" if name == "owner" else ""))
        if value is not None and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(f"{name} {value!r}: NUL and lone surrogates cannot be signed")
    if owner is not None and "@" not in owner:
        raise ValueError(f"owner {owner!r}: give the whole address, as in person@example.org")
