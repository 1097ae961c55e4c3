"""The head of a message: fields in order, where the body starts, and everything that can be strange."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.canonical import crlf
from gatepost.mail.headers import FLAGS, scan
from gatepost.settings import ParserLimits

LIMITS = ParserLimits()
SMALL = ParserLimits(header_bytes=60, header_fields=3, field_bytes=20)

# id, raw, [(name, value)], body, flags
HEADS: list[tuple[str, bytes, list[tuple[str, bytes]], bytes, tuple[str, ...]]] = [
    ("plain", b"A: 1\r\nB: 2\r\n\r\nbody", [("a", b"1"), ("b", b"2")], b"body", ()),
    ("lf only", b"A: 1\nB: 2\n\nbody", [("a", b"1"), ("b", b"2")], b"body", ()),
    ("order and duplicates", b"b:1\na:2\nB:3\n\n", [("b", b"1"), ("a", b"2"), ("b", b"3")], b"", ()),
    ("folded by space and tab", b"A: 1\r\n 2\r\n\t3\r\n\r\n", [("a", b"1 2\t3")], b"", ()),
    ("a line of white space continues", b"A: 1\n \nB: 2\n\nx", [("a", b"1"), ("b", b"2")], b"x", ()),
    ("empty value", b"A:\nB: \n\n", [("a", b""), ("b", b"")], b"", ()),
    ("colon in the value", b"A: b: c\n\n", [("a", b"b: c")], b"", ()),
    ("empty message", b"", [], b"", ("no-blank-line",)),
    ("no head", b"\r\nbody", [], b"body", ()),
    ("blank lines in the body", b"A: 1\n\n\nx\n\n", [("a", b"1")], b"\nx\n\n", ()),
    ("mixed line ends", b"A: 1\r\nB: 2\n\r\nx", [("a", b"1"), ("b", b"2")], b"x", ()),
    ("head without blank line", b"A: 1\nB: 2\n", [("a", b"1"), ("b", b"2")], b"", ("no-blank-line",)),
    ("no line end at all", b"A: 1", [("a", b"1")], b"", ("no-blank-line",)),
    ("line without colon", b"A: 1\nnonsense\nB: 2\n\nx", [("a", b"1"), ("b", b"2")], b"x", ("missing-colon",)),
    ("its folds go with it", b"A: 1\nnonsense\n C: 3\nB: 2\n\n", [("a", b"1"), ("b", b"2")], b"", ("missing-colon",)),
    ("no name", b": x\nA: 1\n\n", [("a", b"1")], b"", ("missing-colon",)),
    ("first line folded", b" x: y\nA: 1\n\n", [("a", b"1")], b"", ("leading-fold",)),
    ("space before colon", b"Subject \t: x\n\n", [("subject", b"x")], b"", ("space-before-colon",)),
    ("space in a name", b"a b: x\n\n", [("a b", b"x")], b"", ("strange-name",)),
    ("control in a name", b"a\x01: x\n\n", [("a\x01", b"x")], b"", ("strange-name",)),
    ("8-bit name", b"\xc4\xe4: x\n\n", [("\xc4\xe4", b"x")], b"", ("8-bit-header", "strange-name")),
    ("8-bit value", b"A: \xe4\n\n\xff", [("a", b"\xe4")], b"\xff", ("8-bit-header",)),
    ("8-bit body only", b"A: b\n\n\xff\0\r", [("a", b"b")], b"\xff\0\r", ()),
    ("nul", b"A: b\0c\n\n", [("a", b"b\0c")], b"", ("nul-in-header",)),
    ("bare CR ends no line", b"A: b\rC: d\r\n\r\n", [("a", b"b\rC: d")], b"", ("bare-cr-in-header",)),
    ("bare CR is no blank line", b"A: b\n\rC: d\n\n", [("a", b"b"), ("\rc", b"d")], b"", ("bare-cr-in-header", "strange-name")),
    ("mbox line", b"From ann Mon Jan  5 10:00:00 2026\nA: 1\n\n", [("a", b"1")], b"", ("mbox-from",)),
    ("mbox line later on", b"A: 1\nFrom ann\n\n", [("a", b"1")], b"", ("missing-colon",)),
    ("From and a space", b"From : a@example.org\n\n", [("from", b"a@example.org")], b"", ("space-before-colon",)),
]


@pytest.mark.parametrize(("raw", "fields", "body", "flags"), [row[1:] for row in HEADS], ids=[row[0] for row in HEADS])
def test_a_head_is_read(raw: bytes, fields: list[tuple[str, bytes]], body: bytes, flags: tuple[str, ...]) -> None:
    """Fields come in order with duplicates; what is no field is a flag, and never ends the head."""
    headers = scan(raw, LIMITS)
    assert [(field.name, field.value) for field in headers.fields] == fields
    assert raw[headers.body_start :] == body
    assert headers.flags == flags


# id, raw, limits, names, body, flags
LIMITED: list[tuple[str, bytes, list[str], bytes, tuple[str, ...]]] = [
    ("as many fields as allowed", b"a:1\nb:2\nc:3\n\nx", ["a", "b", "c"], b"x", ()),
    ("one field more", b"a:1\nb:2\nc:3\nd:4\n\nx", ["a", "b", "c"], b"x", ("too-many-fields",)),
    ("lines without colon count", b"-\n-\n-\nd:4\n\nx", [], b"x", ("missing-colon", "too-many-fields")),
    ("more fields, no blank line", b"a:1\nb:2\nc:3\nd:4\n", ["a", "b", "c"], b"", ("no-blank-line", "too-many-fields")),
    ("more fields, CRLF", b"a:1\r\nb:2\r\nc:3\r\nd:4\r\n\r\n\r\nx", ["a", "b", "c"], b"\r\nx", ("too-many-fields",)),
    ("a field of the length allowed", b"a: " + b"x" * 17 + b"\n\ny", ["a"], b"y", ()),
    ("a field longer by one", b"a: " + b"x" * 18 + b"\n\ny", ["a"], b"y", ("field-too-long",)),
    ("a long name", b"a" * 21 + b": x\nb:2\n\ny", ["b"], b"y", ("field-too-long", "missing-colon")),
    ("a head as large as allowed", b"a: " + b"x\n " * 18 + b"xx\n" + b"\nbody", ["a"], b"body", ("field-too-long",)),
    ("a larger one", b"a: " + b"x\n " * 30 + b"\n\nbody", ["a"], b"body", ("field-too-long", "header-too-large")),
    ("no line end in it", b"x" * 99 + b"\n\nbody", [], b"body", ("field-too-long", "header-too-large", "missing-colon")),
    ("no line end at all", b"a:" + b"x" * 99, ["a"], b"", ("field-too-long", "header-too-large", "no-blank-line")),
    ("limit between CR, LF", b"a:" + b"x" * 57 + b"\r\n\r\nbody", ["a"], b"body", ("field-too-long", "header-too-large")),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "names", "body", "flags"), [row[1:] for row in LIMITED], ids=[row[0] for row in LIMITED])
def test_past_a_limit_there_is_a_flag_and_the_body_is_still_found(
    raw: bytes, names: list[str], body: bytes, flags: tuple[str, ...]
) -> None:
    """A limit cuts what is read of the head, says so, and does not move the body."""
    headers = scan(raw, SMALL)
    assert [field.name for field in headers.fields] == names
    assert raw[headers.body_start :] == body
    assert headers.flags == flags
    assert all(len(field.raw) <= SMALL.field_bytes for field in headers.fields)


def test_a_field_knows_its_bytes_and_its_place() -> None:
    """`raw` is what follows the colon with its folds, without the last line end; the offsets take the line end along."""
    raw = b"A: 1\r\nSubject:  a\r\n b \r\n\r\nbody"
    field = scan(raw, LIMITS).fields[1]
    assert (field.raw, field.value) == (b"  a\r\n b ", b"a b")
    assert raw[field.start : field.end] == b"Subject:  a\r\n b \r\n"


def test_fields_are_found_by_name_in_any_case() -> None:
    """`all` gives every field of a name in order, `first` the first or None."""
    headers = scan(b"To: a\nX: b\nTO: c\n\n", LIMITS)
    assert [field.value for field in headers.all("To")] == [b"a", b"c"]
    first = headers.first("tO")
    assert first is not None
    assert first.value == b"a"
    assert headers.first("cc") is None
    assert headers.all("cc") == ()


@given(st.text(alphabet="Aa: \t\r\n\0\xff", max_size=120), st.booleans())
def test_fields_lie_in_the_head_in_order(text: str, small: bool) -> None:
    """Whatever the bytes: spans follow one another within the head, the body follows a blank line, flags are documented."""
    raw = crlf(text.encode("latin-1"))
    headers = scan(raw, SMALL if small else LIMITS)
    place = 0
    for field in headers.fields:
        assert place <= field.start < field.end <= headers.body_start
        assert raw[field.start : field.end].lower().startswith(field.name.encode("latin-1"))
        place = field.end
    assert "no-blank-line" in headers.flags or raw[: headers.body_start].endswith(b"\r\n")
    assert headers.body_start <= len(raw)
    assert set(headers.flags) <= set(FLAGS)
    assert list(headers.flags) == sorted(set(headers.flags))


@given(st.text(alphabet="Aa: \t\r\n\0\xff", max_size=120))
def test_a_limit_never_moves_the_body(text: str) -> None:
    """The body starts where it starts, however little of the head was read."""
    raw = crlf(text.encode("latin-1"))
    assert scan(raw, SMALL).body_start == scan(raw, LIMITS).body_start
