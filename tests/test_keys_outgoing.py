"""What an outgoing mail needs: the address with its key, and a Message-ID that carries it there and back.

Promises: every form of Message-ID that `key_of` takes or leaves is a row.
Never: asks the system for randomness.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.keys import outgoing, reply_ids, signed

SECRET = b"the-newest-secret-of-reply-keys-"
RANDOM = bytes(range(10))
ARGUMENTS: dict[str, Any] = {
    "address": "reply+%{key}@in.example.com",
    "secret": SECRET,
    "key_id": "reply-keys",
    "subject": b"42",
    "random": RANDOM,
}
KEY = signed.mint(secret=SECRET, key_id="reply-keys", domain="in.example.com", subject=b"42")

ADDRESSES = [
    ("sub-address", "reply+%{key}@in.example.com", f"reply+{KEY}@in.example.com"),
    ("%s", "reply+%s@in.example.com", f"reply+{KEY}@in.example.com"),
    ("catch-all", "%{key}@in.example.com", f"{KEY}@in.example.com"),
    ("key in the middle", "r-%{key}-x@in.example.com", f"r-{KEY}-x@in.example.com"),
    ("dedicated", "support@in.example.com", "support@in.example.com"),
    ("capitals stay in what people see", "Reply+%{key}@In.Example.COM", f"Reply+{KEY}@In.Example.COM"),
]


@pytest.mark.parametrize(("address", "reply_to"), [row[1:] for row in ADDRESSES], ids=[row[0] for row in ADDRESSES])
def test_outgoing(address: str, reply_to: str) -> None:
    """Reply-To is the address with the key, or the dedicated address; the Message-ID carries the key in both cases."""
    made = outgoing.outgoing(**(ARGUMENTS | {"address": address}))
    assert (made.key, made.reply_to, made.domain) == (KEY, reply_to, "in.example.com")
    assert made.message_id == f"<reply-{KEY}.{RANDOM.hex()}@in.example.com>"
    assert reply_ids.key_of(made.message_id) == (KEY, "in.example.com")


def test_another_mail_another_message_id() -> None:
    """The same key under other random bytes gives another Message-ID, which names the same key."""
    ids = {outgoing.outgoing(**(ARGUMENTS | {"random": bytes([n] * 8)})).message_id for n in range(5)}
    assert len(ids) == 5
    assert {reply_ids.key_of(each) for each in ids} == {(KEY, "in.example.com")}


def test_the_longest_key_fits_behind_reply() -> None:
    """A bound UUID with an expiry after `reply+` is 59 octets of the 64 (RFC 5321 section 4.5.3.1.1)."""
    made = outgoing.outgoing(**(ARGUMENTS | {"subject": bytes(16), "expires": 1, "owner": "person@example.org"}))
    assert len(made.reply_to.partition("@")[0]) == 59


def test_local_part_limit_is_64_octets() -> None:
    """At 64 octets the address is made; at 65 it is an error."""
    key_length = len(KEY)
    assert outgoing.outgoing(**(ARGUMENTS | {"address": "x" * (64 - key_length) + "%{key}@in.example.com"}))
    with pytest.raises(ValueError, match=r"would have 65 octets, 64 are allowed"):
        outgoing.outgoing(**(ARGUMENTS | {"address": "x" * (65 - key_length) + "%{key}@in.example.com"}))
    with pytest.raises(ValueError, match=r"would have 65 octets"):
        outgoing.outgoing(**(ARGUMENTS | {"address": "ü" + "x" * (63 - key_length) + "%{key}@in.example.com"}))


@pytest.mark.parametrize("expires", [None, 1])
@pytest.mark.parametrize("owner", [None, "person@example.org"])
@pytest.mark.parametrize("length", range(1, 46))
def test_the_bytes_left_are_the_bytes_that_fit(length: int, owner: str | None, expires: int | None) -> None:
    """The error says how many bytes are left for the subject, for each sort of key: so many fit, and one more does not."""
    address = "x" * length + "%{key}@in.example.com"
    made: dict[str, Any] = ARGUMENTS | {"address": address, "owner": owner, "expires": expires}
    fits = [size for size in range(1, 17) if _is_made(made | {"subject": bytes(size)})]
    if len(fits) == 16:
        return
    with pytest.raises(ValueError, match="are left") as caught:
        outgoing.outgoing(**(made | {"subject": bytes(16)}))
    text = str(caught.value)
    kind = {
        (False, False): "are left for the subject",
        (True, False): "with an expiry",
        (False, True): "with an owner",
        (True, True): "with both",
    }[expires is not None, owner is not None]
    if "for the key" in text:
        assert fits == []
    else:
        assert _number_before(text, kind) == len(fits), text


def _is_made(arguments: dict[str, Any]) -> bool:
    try:
        outgoing.outgoing(**arguments)
    except ValueError:
        return False
    return True


def _number_before(text: str, words: str) -> int:
    """The last whole number in front of these words."""
    before = text.partition(words)[0].replace("(", " ").split()
    return next(int(word) for word in reversed(before) if word.isdigit())


BAD_ADDRESSES = [
    ("no domain", "reply+%{key}", "give the route's address"),
    ("nothing in front", "@in.example.com", "give the route's address"),
    ("two places", "%{key}+%{key}@in.example.com", "one place only"),
    ("both spellings", "%s+%{key}@in.example.com", "one place only"),
]


@pytest.mark.parametrize(("address", "text"), [row[1:] for row in BAD_ADDRESSES], ids=[row[0] for row in BAD_ADDRESSES])
def test_an_address_that_is_none(address: str, text: str) -> None:
    """What is no route's address is a ValueError with the mend."""
    with pytest.raises(ValueError, match=text):
        outgoing.outgoing(**(ARGUMENTS | {"address": address}))


MESSAGE_IDS = [
    ("as minted", f"<reply-{KEY}.00ff@in.example.com>", (KEY, "in.example.com")),
    ("without brackets", f"reply-{KEY}.00ff@in.example.com", (KEY, "in.example.com")),
    ("without RANDOM", f"<reply-{KEY}@in.example.com>", (KEY, "in.example.com")),
    ("in capitals", f"<REPLY-{KEY.upper()}.00FF@IN.EXAMPLE.COM>", (KEY, "in.example.com")),
    ("space around", f"  <reply-{KEY}.00ff@in.example.com>\r\n", (KEY, "in.example.com")),
    ("RANDOM is after the last dot", "<reply-a.b.c@d>", ("a.b", "d")),
    ("not ours", "<20261121.42@mail.example.org>", None),
    ("a prefix of the prefix", "<reply@in.example.com>", None),
    ("no key", "<reply-@in.example.com>", None),
    ("no key, RANDOM", "<reply-.00ff@in.example.com>", None),
    ("empty RANDOM", f"<reply-{KEY}.@in.example.com>", None),
    ("no domain", f"<reply-{KEY}.00ff@>", None),
    ("no at", f"<reply-{KEY}.00ff>", None),
    ("two ats", f"<reply-{KEY}.00ff@a@b>", None),
    ("one bracket", f"<reply-{KEY}.00ff@in.example.com", None),
    ("the other bracket", f"reply-{KEY}.00ff@in.example.com>", None),
    ("brackets twice", f"<<reply-{KEY}.00ff@in.example.com>>", None),
    ("two IDs", "<reply-a@b> <reply-c@d>", None),
    ("a space within", "<reply-a b@c>", None),
    ("a line within", "<reply-a\nb@c>", None),
    ("a NUL", "<reply-a\0@c>", None),
    ("a Kelvin sign", "<reply-\u212aey@c>", None),
    ("a lone surrogate", "<reply-\udcff@c>", None),
    ("too long for a line", f"<reply-{'a' * 1000}@c>", None),
    ("empty", "", None),
    ("brackets only", "<>", None),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in MESSAGE_IDS], ids=[row[0] for row in MESSAGE_IDS])
def test_key_of(text: str, expected: tuple[str, str] | None) -> None:
    """A Message-ID of ours gives key and domain in lower case; any other text None."""
    assert reply_ids.key_of(text) == expected


@given(st.text() | st.text("<>reply-.@ab ").map(lambda text: "<reply-" + text))
def test_key_of_never_raises(text: str) -> None:
    """No text raises, and what is found has no character that a Message-ID cannot have."""
    found = reply_ids.key_of(text)
    assert found is None or (all(found) and not set("<>@ \n\0") & set("".join(found)))


@given(st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=1), st.binary(min_size=8, max_size=32))
def test_message_id_round_trip(key: str, random: bytes) -> None:
    """What is minted is read back, and fits RFC 5322's msg-id: two dot-atoms."""
    made = reply_ids.mint(key, random, "In.Example.com")
    assert reply_ids.key_of(made) == (key, "in.example.com")
    assert made.count(".", 0, made.index("@")) == 1


BAD_IDS = [
    ("seven random bytes", ("k", bytes(7), "in.example.com"), "8 random bytes or more"),
    ("empty key", ("", RANDOM, "in.example.com"), "key ''"),
    ("a line end in the key", ("a\nBcc: x", RANDOM, "in.example.com"), "key 'a"),
    ("a bracket", ("a>", RANDOM, "in.example.com"), "key 'a>'"),
    ("empty domain", ("k", RANDOM, ""), "domain ''"),
    ("a domain in Unicode", ("k", RANDOM, "b\u00fccher.example"), "domain"),
]


@pytest.mark.parametrize(("arguments", "text"), [row[1:] for row in BAD_IDS], ids=[row[0] for row in BAD_IDS])
def test_no_message_id(arguments: tuple[str, bytes, str], text: str) -> None:
    """What cannot stand in a header field is a ValueError, so that no key injects one."""
    with pytest.raises(ValueError, match=text):
        reply_ids.mint(*arguments)
