"""Message-IDs of ours: `<reply-KEY.RANDOM@domain>`, by which a reply to a dedicated address finds its thread.

Promises: each mail that is sent gets one of its own (RFC 5322 section 3.6.4 wants them unique); `key_of` reads it back, in any
case, with or without brackets and RANDOM, and never raises on any text.
Never: says that a key is genuine. Whoever reads one has it checked by `keyring`.
"""

from __future__ import annotations

__all__ = ["key_of", "mint", "readings"]

_PREFIX = "reply-"
_MIN_RANDOM = 8  # bytes: two of 2**32 mails for one key share an ID with a chance of one half
_LONGEST = 998  # octets: RFC 5322 section 2.1.1, no line is longer
_NOT_IN_AN_ID = frozenset(' \t\r\n\0<>@"(),;:\\[]')  # none of RFC 5322's atext, nor the dot between atoms


def mint(key: str, random: bytes, domain: str) -> str:
    """A Message-ID with its brackets. `random`: 8 bytes or more from the system's source, new for each mail.

    Raises ValueError for less, and for a key or domain that cannot stand in a Message-ID.
    """
    if len(random) < _MIN_RANDOM:
        raise ValueError(f"a Message-ID needs {_MIN_RANDOM} random bytes or more, as os.urandom gives; here are {len(random)}")
    for name, value in (("key", key), ("domain", domain)):
        if not value or not value.isascii() or not _NOT_IN_AN_ID.isdisjoint(value):
            raise ValueError(f"{name} {value!r} cannot stand in a Message-ID (RFC 5322 section 3.6.4)")
    return f"<{_PREFIX}{key}.{random.hex()}@{domain.lower()}>"


def key_of(message_id: str) -> tuple[str, str] | None:
    """(key, domain) of a Message-ID of ours, in lower case, or None. RANDOM is what follows the last dot, if there is one."""
    text = message_id.strip()
    if len(text) > _LONGEST or not text.isascii():  # before folding: U+212A folds to k
        return None
    text = text.lower()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    left, _, domain = text.partition("@")
    if not left.startswith(_PREFIX) or not domain or not _NOT_IN_AN_ID.isdisjoint(left + domain):
        return None
    left = left[len(_PREFIX) :]
    key, dot, random = left.rpartition(".") if "." in left else (left, "", "")
    if not key or (dot and not random):
        return None
    return key, domain


def readings(message_id: str) -> tuple[tuple[str, str], ...]:
    """Every (key, domain) that a Message-ID may carry: without RANDOM, and, since another app's key may have a dot, with it."""
    first = key_of(message_id)
    if first is None:
        return ()
    whole = message_id.strip().lower().removeprefix("<").partition("@")[0].removeprefix(_PREFIX)
    return (first,) if whole == first[0] else (first, (whole, first[1]))
