"""Messages made to be slow, deep or large: nothing raises, everything stays within its limit, and a flag says so."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.address import parse_pattern
from gatepost.mail.canonical import crlf, from_pipe
from gatepost.mail.comments import without_comments
from gatepost.mail.content import content_type
from gatepost.mail.mailboxes import mailboxes
from gatepost.mail.message import Message, parse
from gatepost.mail.message_ids import message_ids
from gatepost.mail.received import received
from gatepost.mail.recipient import is_role, recipient
from gatepost.mail.words import text
from gatepost.settings import ParserLimits
from tests.hostile import HOSTILE

LIMITS = ParserLimits()
#: Bytes at the peak, for an input of 10 MB: the whole script may have 150 MB.
PEAK = 100_000_000

#: name -> flags at scale 10. A name that is not here is one field, too long and otherwise within the limits.
EXPECTED: dict[str, tuple[str, ...]] = {
    "content-type-semicolons": ("field-too-long", "too-many-parameters"),
    "content-type-spaced-semicolons": ("field-too-long", "too-many-parameters"),
    "content-type-parameters": ("field-too-long", "header-too-large", "too-many-parameters"),
    "content-type-quotes": ("field-too-long", "too-many-parameters"),
    "subject-encoded-words": ("field-too-long", "header-too-large"),
    "subject-word-starts": ("field-too-long", "header-too-large"),
    "to-commas": ("field-too-long", "too-many-addresses"),
    "to-angles": ("field-too-long", "too-many-addresses"),
    "to-group-ends": ("field-too-long", "too-many-addresses"),
    "to-words-commas": ("field-too-long", "too-many-addresses"),
    "to-addresses": ("field-too-long", "too-many-addresses"),
    "to-adjacent-addresses": ("field-too-long", "too-many-addresses"),
    "to-encoded-names": ("field-too-long", "too-many-addresses"),
    "from-many-fields": ("too-many-addresses",),
    "cc-many-fields": (),
    "to-8-bit": ("8-bit-header", "field-too-long"),
    "subject-8-bit": ("8-bit-header", "field-too-long"),
    "subject-nul": ("field-too-long", "nul-in-header"),
    "references": ("field-too-long", "too-many-references"),
    "references-bare": ("field-too-long", "too-many-references"),
    "references-many-fields": ("too-many-fields", "too-many-references"),
    "received-many-fields": ("too-many-fields",),
    "headers": ("too-many-fields",),
    "headers-without-end": ("no-blank-line", "too-many-fields"),
    "lines-without-colon": ("missing-colon", "too-many-fields"),
    "colons": ("missing-colon", "too-many-fields"),
    "folds": ("field-too-long", "header-too-large"),
    "one-name": ("field-too-long", "header-too-large", "missing-colon", "no-blank-line"),
    "one-line": ("field-too-long", "header-too-large"),
    "nul-head": ("field-too-long", "header-too-large", "missing-colon", "nul-in-header"),
    "cr": ("bare-cr-in-header", "field-too-long", "header-too-large", "missing-colon", "no-blank-line"),
    **dict.fromkeys(
        ("parts", "nested-multiparts", "nested-messages", "body-lines", "cr-lf-at-end", "lf", "head-lf", "cr-cr-lf",
         "cr-runs", "cr-lf-cr"), ()
    ),
}  # fmt: skip


def read_everything(data: bytes) -> Message:
    """Canonical form, head, and every property."""
    message = parse(from_pipe(data), LIMITS)
    assert isinstance(message.subject + message.date + message.message_id, str)
    assert len(message.in_reply_to) <= LIMITS.references
    assert len(message.references) <= LIMITS.references
    assert len(message.headers.fields) <= LIMITS.header_fields
    assert sum(len(field.raw) for field in message.headers.fields) <= LIMITS.header_bytes
    assert all(len(field.raw) <= LIMITS.field_bytes for field in message.headers.fields)
    assert all(len(each.list) <= LIMITS.addresses for each in (message.from_, message.to, message.cc))
    assert len(message.content_type.parameters) <= LIMITS.parameters
    assert set(message.limits_hit) <= set(message.flags)
    assert len(message.sha256(("mx.example.com",))) == 64
    for field in message.headers.all("received")[: LIMITS.received]:
        received(field.value)
    return message


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_read_within_the_limits(name: str) -> None:
    """At ten times what Postfix lets pass: no exception, bounded results, the flags that are due, and bounded memory."""
    data = HOSTILE[name](10)
    tracemalloc.start()
    try:
        message = read_everything(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message.flags == EXPECTED.get(name, ("field-too-long",))
    assert peak < PEAK


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_grows_with_its_scale(name: str) -> None:
    """The benchmark compares scale 10 with scale 1: about ten times the octets, 10 MB at most."""
    one, ten = len(HOSTILE[name](1)), len(HOSTILE[name](10))
    assert 9 * one <= ten <= 11.5 * one
    assert ten <= 10_100_000


def test_a_million_headers_cost_what_the_limit_allows() -> None:
    """6 MB of fields: the first 2,000 are read, the body is found, and memory stays near one copy of the message."""
    data = b"a: b\n" * 1_000_000 + b"\nbody\n"
    tracemalloc.start()
    try:
        message = read_everything(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(message.headers.fields) == LIMITS.header_fields
    assert message.raw[message.headers.body_start :] == b"body\r\n"
    assert message.flags == ("too-many-fields",)
    assert peak < 3 * len(data)


#: Octets that mean something to one of the readers are likelier.
_OCTETS = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"From", b"To: ", b"References:", b"Content-Type:",
                         b"<", b">", b"@", b",", b";", b'"', b"\\", b"(", b")", b"[", b"=?utf-8?q?", b"?=", b"Received: by ",
                         b"%", b"*="]),
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


@given(_OCTETS)
def test_no_octets_raise(data: bytes) -> None:
    """Whatever arrives: every reader returns, and the spans of the fields lie in the head."""
    raw = crlf(data)
    assert crlf(raw) == raw
    message = read_everything(data)
    assert message.raw == raw
    place = 0
    for field in message.headers.fields:
        assert place <= field.start < field.end <= message.headers.body_start <= len(raw)
        place = field.end
    text(data)
    without_comments(data)
    received(data)
    content_type(data, 5)
    mailboxes(data, 5)
    message_ids(data, 5)
    to = recipient(data.decode("utf-8", "surrogateescape"))
    is_role(to)
    parse_pattern("reply+%{key}@in.example.com").match(to)
