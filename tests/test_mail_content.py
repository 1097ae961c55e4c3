"""Content-Type and its parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.content import FLAGS, content_type

Parameters = list[tuple[str, str]]

# id, value, type, parameters, flags
VALUES: list[tuple[str, bytes, str, Parameters, tuple[str, ...]]] = [
    ("plain", b"text/plain", "text/plain", [], ()),
    ("case", b"Multipart/REPORT; Report-Type=Delivery-Status", "multipart/report", [("report-type", "Delivery-Status")], ()),
    ("quoted", b'multipart/mixed; boundary="a;b=\\"c"', "multipart/mixed", [("boundary", 'a;b="c')], ()),
    ("comments", b"text/plain (really); charset=utf-8 (yes)", "text/plain", [("charset", "utf-8")], ()),
    ("a parameter in a comment", b"text/plain (; report-type=x)", "text/plain", [], ()),
    ("spaces everywhere", b" text / plain ; charset = utf-8 ", "text/plain", [("charset", "utf-8")], ()),
    ("empty parameters", b"text/plain;; ;charset=a;", "text/plain", [("charset", "a")], ()),
    ("empty value", b"text/plain; a=", "text/plain", [("a", "")], ()),
    ("slash in a value", b"multipart/mixed; boundary=a/b=c", "multipart/mixed", [("boundary", "a/b=c")], ()),
    ("extended", b"multipart/report; report-type*=utf-8'en'delivery%2Dstatus", "multipart/report",
     [("report-type", "delivery-status")], ()),
    ("extended, charset", b"text/plain; name*=iso-8859-15''%A4", "text/plain", [("name", "\u20ac")], ()),
    ("extended, unknown charset", b"text/plain; name*=idna''%A4", "text/plain", [("name", "idna''%A4")], ("unparsed",)),
    ("extended, broken", b"text/plain; name*=utf-8''%4", "text/plain", [("name", "utf-8''%4")], ("unparsed",)),
    ("extended, no quotes", b"text/plain; name*=abc", "text/plain", [("name", "abc")], ("unparsed",)),
    ("pieces are not joined", b"text/plain; a*0=b; a*1=c", "text/plain", [("a*0", "b"), ("a*1", "c")], ()),
    ("twice", b"text/plain; a=b; A=c", "text/plain", [("a", "b"), ("a", "c")], ("duplicate-parameter",)),
    ("empty", b"", "", [], ("unparsed",)),
    ("no subtype", b"text", "", [], ("unparsed",)),
    ("no subtype, a parameter", b"text; a=b", "", [("a", "b")], ("unparsed",)),
    ("no type", b"/plain", "", [], ("unparsed",)),
    ("slashes", b"///", "", [], ("unparsed",)),
    ("no semicolon", b"text/plain charset=utf-8", "text/plain", [], ("unparsed",)),
    ("no sign", b"text/plain; charset", "text/plain", [], ("unparsed",)),
    ("no name", b"text/plain; =utf-8", "text/plain", [], ("unparsed",)),
    ("two values", b"text/plain; a=b c", "text/plain", [("a", "b")], ("unparsed",)),
    ("quote without end", b'text/plain; a="b; c=d', "text/plain", [("a", "b"), ("c", "d")], ("unparsed",)),
    ("8-bit", b"text/plain; name=\xc3\xbc", "text/plain", [("name", "\xfc")], ()),
    ("controls", b"text/plain; name=a\0", "text/plain", [("name", "a\ufffd")], ()),
]  # fmt: skip


@pytest.mark.parametrize(("value", "kind", "parameters", "flags"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES])
def test_a_value_is_read(value: bytes, kind: str, parameters: Parameters, flags: tuple[str, ...]) -> None:
    """Type and parameters come out; what is not as RFC 2045 5.1 says is a flag."""
    found = content_type(value, 10)
    assert (found.type, [*found.parameters], found.flags) == (kind, parameters, flags)


@pytest.mark.parametrize(("count", "flags"), [(9, ()), (10, ()), (11, ("too-many",))])
def test_the_limit_bounds_the_parameters(count: int, flags: tuple[str, ...]) -> None:
    """Ten are allowed here; the eleventh is left out with a flag."""
    found = content_type(b"text/plain" + b"".join(b"; a%d=b" % each for each in range(count)), 10)
    assert len(found.parameters) == min(count, 10)
    assert found.flags == flags


def test_a_parameter_is_found_by_name() -> None:
    """`parameter` gives the first of that name, or None."""
    found = content_type(b"text/plain; a=b; a=c", 10)
    assert (found.parameter("a"), found.parameter("b")) == ("b", None)


@given(st.text(alphabet="a/;=\"'%*() \\\0\xff", max_size=60), st.integers(0, 3))
def test_any_bytes_give_a_bounded_type(value: str, limit: int) -> None:
    """Whatever the bytes: no exception, no more parameters than the limit, documented flags."""
    found = content_type(value.encode("latin-1"), limit)
    assert len(found.parameters) <= limit
    assert set(found.flags) <= set(FLAGS)
    assert found.type == "" or found.type.count("/") >= 1
