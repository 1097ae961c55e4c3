"""The clauses of Received."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.received import WORDS, Received, received

# id, value, what it says (from, by, with, id, for)
VALUES: list[tuple[str, bytes, tuple[str, str, str, str, str]]] = [
    ("as Postfix writes it",
     b"from mail.example.net (mail.example.net [192.0.2.7]) by MX.example.com (Postfix) with ESMTPS id 4abCdE1 \
for <reply+K@In.Example.com>; Mon, 5 Jan 2026 10:00:00 +0000 (UTC)",
     ("mail.example.net", "mx.example.com", "ESMTPS", "4abCdE1", "reply+K@in.example.com")),
    ("by pickup", b"by mx.example.com (Postfix, from userid 1) id 4abC; Mon", ("", "mx.example.com", "", "4abC", "")),
    ("no date", b"from a by b", ("a", "b", "", "", "")),
    ("empty", b"", ("", "", "", "", "")),
    ("clauses in any case", b"FROM a BY b WITH c ID d FOR e@f", ("a", "b", "c", "d", "e@f")),
    ("final dot", b"from A. by B.", ("a", "b", "", "", "")),
    ("literal", b"from [192.0.2.7] by [IPv6:::1]", ("[192.0.2.7]", "[ipv6:::1]", "", "", "")),
    ("no white space before a comment", b"by b(x)for c@d", ("", "b", "", "", "c@d")),
    ("a client that calls itself by", b"from by (by [192.0.2.7]) by mx.example.com", ("by", "mx.example.com", "", "", "")),
    ("a clause in a comment", b"from a (by evil.example) by b", ("a", "b", "", "", "")),
    ("a clause in nested comments", b"from a (x (y) by evil.example) by b", ("a", "b", "", "", "")),
    ("the first of two", b"from a by b by c", ("a", "b", "", "", "")),
    ("behind the semicolon", b"from a; by b", ("a", "", "", "", "")),
    ("quoted local part", b'by b for <"a b; c"@D.example>; x', ("", "b", "", "", '"a b; c"@d.example')),
    ("for without domain", b"by b for <root>", ("", "b", "", "", "root")),
    ("via", b"from a via tcp by b", ("a", "b", "", "", "")),
    ("clause without a word", b"from", ("", "", "", "", "")),
    ("comment without end", b"by b (x for c@d", ("", "b", "", "", "c@d")),
    ("8-bit", b"by \xff for \xc3\xbc@x", ("", "\xff", "", "", "\xfc@x")),
    ("KELVIN SIGN does not fold to k", b"by \xe2\x84\xaa.example", ("", "\u212a.example", "", "", "")),
    ("past the words that are looked at", b"a " * WORDS + b"by b", ("", "", "", "", "")),
]  # fmt: skip


@pytest.mark.parametrize(("value", "clauses"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES])
def test_clauses_are_read(value: bytes, clauses: tuple[str, str, str, str, str]) -> None:
    """The first word of each clause, without comments, up to the semicolon."""
    from_, by, with_, id_, for_ = clauses
    assert received(value) == Received(from_=from_, by=by, with_=with_, id=id_, for_=for_)


@given(st.text(alphabet='by for<>@;()"\\ \0\xff', max_size=60))
def test_any_bytes_give_clauses(value: str) -> None:
    """Whatever the bytes: five texts without controls."""
    found = received(value.encode("latin-1"))
    assert not any("\0" in each for each in (found.by, found.from_, found.for_, found.id, found.with_))
