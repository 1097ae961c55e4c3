"""Message-IDs of Message-ID, In-Reply-To and References."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.message_ids import LONGEST, message_ids

# id, value, Message-IDs
VALUES: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("empty", b"", ()),
    ("one", b"<a@example.org>", ("<a@example.org>",)),
    ("several", b"<a@b> <c@d>\t<e@f>", ("<a@b>", "<c@d>", "<e@f>")),
    ("joined by commas", b"<a@b>,<c@d>", ("<a@b>", "<c@d>")),
    ("joined by nothing", b"<a@b><c@d>", ("<a@b>", "<c@d>")),
    ("junk between", b"Your mail of Monday <a@b> (x) <c@d>.", ("<a@b>", "<c@d>")),
    ("twice the same", b"<a@b> <a@b>", ("<a@b>", "<a@b>")),
    ("case is kept", b"<Reply-KEY.x@Example.ORG>", ("<Reply-KEY.x@Example.ORG>",)),
    ("folded inside", b"<a\r\n b@c >", ("<ab@c>",)),
    ("no sign", b"<abc>", ("<abc>",)),
    ("empty brackets", b"<> <a@b>", ("<a@b>",)),
    ("opened twice", b"<a@b <c@d>", ("<c@d>",)),
    ("closed twice", b"<a@b>> <c@d>", ("<a@b>", "<c@d>")),
    ("never closed", b"<a@b", ()),
    ("never opened", b"a@b>", ()),
    ("no brackets at all", b"a@b, c@d x e@f@g", ("<a@b>", "<c@d>")),
    ("UTF-8", b"<\xc3\xbc@b>", ("<\xfc@b>",)),
    ("not UTF-8", b"<\xff@b>", ("<\ufffd@b>",)),
    ("controls", b"<a\0\x1b@b>", ("<a\ufffd\ufffd@b>",)),
    ("as long as allowed", b"<" + b"a" * (LONGEST - 2) + b">", ("<" + "a" * (LONGEST - 2) + ">",)),
    ("longer", b"<" + b"a" * (LONGEST - 1) + b"> <a@b>", ("<a@b>",)),
    ("longer, no brackets", b"a@" + b"a" * (LONGEST - 3), ()),
]


@pytest.mark.parametrize(("value", "found"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES])
def test_message_ids_are_found(value: bytes, found: tuple[str, ...]) -> None:
    """What stands in angle brackets, with them; where there are none at all, words with one @."""
    assert message_ids(value, 10) == found


@pytest.mark.parametrize("limit", [0, 1, 3, 9, 50])
def test_the_last_ones_are_kept(limit: int) -> None:
    """Past the limit the first are left out: the nearest ancestors stand last."""
    ids = tuple(f"<{count}@x>" for count in range(40))
    assert message_ids(" ".join(ids).encode(), limit) == ids[max(40 - limit, 0) :]


@given(st.text(alphabet="<>@a, \0\xff", max_size=60), st.integers(0, 3))
def test_any_bytes_give_bounded_ids(value: str, limit: int) -> None:
    """Whatever the bytes: each has one pair of brackets, and there are no more than the limit."""
    found = message_ids(value.encode("latin-1"), limit)
    assert len(found) <= limit
    for each in found:
        assert each[0] + each[-1] == "<>"
        assert not set(each[1:-1]) & set("<> \0")
