"""Line ends: the same bytes by whichever way a message came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.canonical import crlf, from_pipe

# id, what pipe(8) writes, canonical
LINE_ENDS = [
    ("empty", b"", b""),
    ("lf", b"a\nb\n", b"a\r\nb\r\n"),
    ("no last line end", b"a\nb", b"a\r\nb"),
    ("already canonical", b"a\r\n\r\nb\r\n", b"a\r\n\r\nb\r\n"),
    ("a sender's CR before the line end belongs to it", b"a\r\nb\n", b"a\r\nb\r\n"),
    ("a run of CR before LF is one line end", b"a\r\r\r\nb\n", b"a\r\nb\r\n"),
    ("bare CR inside a line stays", b"a\rb\n", b"a\rb\r\n"),
    ("bare CR at the end of the data stays", b"a\n\r\r", b"a\r\n\r\r"),
    ("CR, text, CR LF: only the last goes with the line end", b"\r\ra\r\n", b"\r\ra\r\n"),
    ("empty lines stay", b"\n\n\r\n\n", b"\r\n\r\n\r\n\r\n"),
    ("NUL stays", b"a\0\n\0", b"a\0\r\n\0"),
    ("a run of 32", b"a" + b"\r" * 32 + b"\nb", b"a\r\nb"),
    ("a run of 33, and a short one", b"a" + b"\r" * 33 + b"\nb\r\r\n", b"a\r\nb\r\n"),
    ("a run of 1,000, twice", (b"\r" * 1_000 + b"\n") * 2, b"\r\n\r\n"),
]


@pytest.mark.parametrize(("data", "raw"), [row[1:] for row in LINE_ENDS], ids=[row[0] for row in LINE_ENDS])
def test_line_ends_become_crlf(data: bytes, raw: bytes) -> None:
    """Every LF becomes CRLF together with the CR before it; nothing else changes."""
    assert from_pipe(data) == raw


@pytest.mark.parametrize("run", range(70))
def test_a_run_of_any_length_is_one_line_end(run: int) -> None:
    """However many CR stand before an LF, they are one line end with it."""
    assert crlf(b"a" + b"\r" * run + b"\nb\r") == b"a\r\nb\r"


@given(st.text(alphabet="\r\na\0", max_size=200))
def test_every_rung_gives_the_same_bytes(text: str) -> None:
    """Canonical data stays as it is, and neither a CR more before LF nor a second passage changes the result."""
    data = text.encode()
    once = crlf(data)
    assert crlf(once) == once
    assert crlf(data.replace(b"\n", b"\r\n")) == once
    assert once.count(b"\n") == once.count(b"\r\n") == data.count(b"\n")
    assert b"\r\r\n" not in once
