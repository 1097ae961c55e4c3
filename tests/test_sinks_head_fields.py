"""The fields in front of a message: ours, first and alone, whatever the stranger wrote."""

from __future__ import annotations

import email.parser
import email.policy
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.decision import Key
from gatepost.sinks.head_fields import address_value, field_value, gatepost_fields, with_fields, without_fields
from tests.test_sinks import ID, make_delivery

ROWS = [
    (b"Subject: a\r\n\r\nb", b"Subject: a\r\n\r\nb", "nothing to take out"),
    (b"X-Gatepost-Id: 1\r\nSubject: a\r\n\r\nb", b"Subject: a\r\n\r\nb", "the first field"),
    (b"Subject: a\r\nx-GATEPOST-whatever: 1\r\nTo: c\r\n\r\nb", b"Subject: a\r\nTo: c\r\n\r\nb", "any case, any name of ours"),
    (b"Subject: a\r\nX-Gatepost-Id: 1\r\n\r\nb", b"Subject: a\r\n\r\nb", "the last field"),
    (b"X-Gatepost-Id: 1\r\n\r\nb", b"\r\nb", "the only field"),
    (b"X-Gatepost-A: 1\r\nX-Gatepost-B: 2\r\nX-Gatepost-C: 3\r\nTo: c\r\n\r\nb", b"To: c\r\n\r\nb", "several, from the top"),
    (b"X-Gatepost-Id: 1\r\n 2\r\n\t3\r\nTo: c\r\n\r\nb", b"To: c\r\n\r\nb", "with its folds"),
    (b"To: c\r\nX-Gatepost-Id : 1\r\n\r\nb", b"To: c\r\n\r\nb", "white space before the colon (obsolete)"),
    (b"To: c\r\nX-Gatepost-Id\r\n\r\nb", b"To: c\r\n\r\nb", "no colon at all"),
    (b"Subject: a\rX-Gatepost-Id: 1\r\nTo: c\r\n\r\nb", b"Subject: a\r\nTo: c\r\n\r\nb", "behind a bare CR"),
    (b"Subject: a\nX-Gatepost-Id: 1\r\nTo: c\r\n\r\nb", b"Subject: a\r\nTo: c\r\n\r\nb", "behind a bare LF"),
    (b"To: c\r\nX-Gatepost-Id: 1\rSubject: a\r\n\r\nb", b"To: c\rSubject: a\r\n\r\nb", "ended by a bare CR"),
    (b"To: X-Gatepost-Id: 1\r\n\r\nb", b"To: X-Gatepost-Id: 1\r\n\r\nb", "inside a value: no field"),
    (b"To: c\r\n X-Gatepost-Id: 1\r\n\r\nb", b"To: c\r\n X-Gatepost-Id: 1\r\n\r\nb", "a fold: no field"),
    (b"To: c\r\n\r\nX-Gatepost-Id: 1\r\n", b"To: c\r\n\r\nX-Gatepost-Id: 1\r\n", "the body is nobody's head"),
    (b"\r\nX-Gatepost-Id: 1\r\n\r\n", b"\r\nX-Gatepost-Id: 1\r\n\r\n", "an empty head"),
    (b"To: c\r\nX-Gatepost-Id: 1", b"To: c", "no blank line, no line end"),
    (b"X-Gatepost-Id: 1", b"", "nothing else"),
    (b"", b"", "nothing"),
    (b"Return-Path: <a>\r\nReturn-Path-Of: b\r\nreturn-path : d\r\n\r\n", b"Return-Path-Of: b\r\n\r\n", "a whole name only"),
]


@pytest.mark.parametrize(("raw", "kept", "reason"), ROWS, ids=[row[2] for row in ROWS])
def test_strangers_fields_are_taken_out(raw: bytes, kept: bytes, reason: str) -> None:
    """Exactly the stranger's fields of our names go, and every other octet stays."""
    assert without_fields(raw, b"return-path") == kept


PIECES = st.sampled_from([
    b"X-Gatepost-Id", b"x-gatepost-sender-verified", b"Subject", b": ", b":", b" ",
    b"\t", b"\r\n", b"\r", b"\n", b"\r\n ", b"yes", b"\xff",
])  # fmt: skip


@given(st.lists(PIECES, max_size=40))
def test_no_reader_finds_a_strangers_field(pieces: list[bytes]) -> None:
    """Python's parser ends lines at CR, LF and CR LF alike: it finds our fields, intact, and none of their names again."""
    raw = b"".join(pieces)
    delivery = make_delivery(sender_verified="no", key=None)
    whole = b"".join(with_fields(without_fields(raw), gatepost_fields(delivery)))
    head, _, _ = whole.partition(b"\r\n\r\n")
    parsed = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(head + b"\r\n\r\n")
    assert parsed.get_all("X-Gatepost-Sender-Verified") == ["no"]
    assert parsed.get_all("X-Gatepost-Id") == [ID]


def test_white_space_in_front_folds_into_nothing_of_ours() -> None:
    """A message whose first line begins with white space cannot continue our last field."""
    whole = b"".join(with_fields(b" yes\r\nTo: c\r\n\r\n", gatepost_fields(make_delivery(sender_verified="no"))))
    assert b"X-Gatepost-Sender-Verified: no\r\nX-Unnamed: yes\r\nTo: c\r\n" in whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("topic-7", b"topic-7"),
        ("a b%c", b"a%20b%25c"),
        ("a\r\nTo: x", b"a%0D%0ATo:%20x"),
        ("é", b"%C3%A9"),
        ("\udce9", b"%E9"),
        ("\ud800", b"?"),
        ("", b""),
    ],
)
def test_values_cannot_break_their_line(text: str, value: bytes) -> None:
    """Visible ASCII stands as it is; every other octet is percent-encoded."""
    assert field_value(text) == value


def test_key_subject_is_there_and_empty_without_a_key() -> None:
    """All four fields stand in front always, so that a reader of the first never reads a stranger's."""
    fields = dict(gatepost_fields(make_delivery(key=None)))
    assert fields[b"X-Gatepost-Key-Subject"] == b""
    fields = dict(gatepost_fields(make_delivery(key=Key(raw="k", subject="a b"))))
    assert fields[b"X-Gatepost-Key-Subject"] == b"a%20b"


def test_addresses_keep_their_octets() -> None:
    """An envelope address is written as it came, but for what would break the line."""
    assert address_value("caf\udce9\r\n@example.org") == b"caf\xe9??@example.org"


@pytest.mark.parametrize(
    "piece",
    [
        b"X-Gatepost-A: b\r\n",
        b"X-Gatepost-A: b\n",
        b"X-Gatepost-A: b\r",
        b"X-Gatepost-A:\r\n ",
        b"x-gatepost-",
        b"\r",
        b" x-gatepost-",
    ],
)
def test_work_grows_with_the_message_only(piece: bytes) -> None:
    """A head of ten times the size does not take a hundred times the time: one pass, whatever ends the lines."""

    def cost(size: int) -> float:
        raw = b"Subject: a\r\n" + piece * (size // len(piece))
        times = []
        for _ in range(3):
            started = time.process_time()
            without_fields(raw)
            times.append(time.process_time() - started)
        return min(times)

    assert cost(2_000_000) < 40 * (cost(200_000) + 0.005)
