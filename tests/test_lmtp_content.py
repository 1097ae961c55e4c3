"""What stands between DATA and the lone dot becomes the bytes that the pipe script makes of the same message."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.mail.canonical import from_pipe
from gatepost_filter.lmtp_content import Content
from tests.lmtp_client import content


def taken(data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """The content, and what follows it, of data that comes in pieces of these sizes (over and over)."""
    found, at, number = Content(), 0, 0
    while at < len(data):
        size = cuts[number % len(cuts)]
        rest = found.feed(data[at : at + size])
        at, number = at + size, number + 1
        if rest is not None:
            raw = found.take()
            assert found.size == len(raw)
            return raw, rest + data[at:]
    raise AssertionError("no end of data")


ROWS: list[tuple[str, bytes, bytes, bytes, str]] = [
    ("nothing", b".\r\n", b"", b"", "a dot directly behind the DATA command's line end is the end"),
    ("a line", b"a\r\n.\r\n", b"a\r\n", b"", "the line end before the dot belongs to the message"),
    ("a dot", b"..\r\n.\r\n", b".\r\n", b"", "a stuffed dot in the first line"),
    ("dots", b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n", b"", "one dot goes from each line that begins with one"),
    ("not stuffed", b".a\r\n.\r\n", b"a\r\n", b"", "RFC 5321 4.5.2: the first dot goes whatever follows"),
    ("dots inside", b"a.\r\nb..c\r\n.\r\n", b"a.\r\nb..c\r\n", b"", "no line begins with them"),
    ("what follows", b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n", "the next command"),
    (
        "bare LF",
        b"a\n.\nb\n.\r\nc\r\n.\r\n",
        b"a\r\n.\r\nb\r\n.\r\nc\r\n",
        b"",
        "only CR LF ends a line here: no second message",
    ),
    ("LF dot CRLF", b"a\n.\r\n.\r\n", b"a\r\n.\r\n", b"", "the same, from the other side"),
    ("CRLF dot LF", b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", b"", "a dot at the beginning of a line, and a bare LF"),
    ("CR dot CR", b"a\r.\rb\r\n.\r\n", b"a\r.\rb\r\n", b"", "bare CR stays, as in the pipe"),
    ("CR before CRLF", b"a\r\r\r\n.\r\n", b"a\r\n", b"", "all CR directly before an LF are one line end"),
    ("CR at the beginning", b"\r\ra\r\n.\r\n", b"\r\ra\r\n", b"", "no line end before it"),
    ("CR CRLF dot", b"a\r\r\n..b\r\n.\r\n", b"a\r\n.b\r\n", b"", "a line that ended in CR, and a stuffed one behind it"),
    ("NUL and 8 bit", b"\0\xff\xc3\xa4\r\n.\r\n", b"\0\xff\xc3\xa4\r\n", b"", "octets"),
    ("blank lines", b"\r\n\r\n\r\n.\r\n", b"\r\n\r\n\r\n", b"", "stay"),
]


@pytest.mark.parametrize(("data", "raw", "rest"), [row[1:4] for row in ROWS], ids=[row[0] for row in ROWS])
def test_content(data: bytes, raw: bytes, rest: bytes) -> None:
    """Each row gives the same in one piece, octet by octet, and in any other pieces."""
    for cuts in ([len(data)], [1], [2], [3], [4], [5], [1, 3], [3, 1, 2]):
        assert taken(data, cuts) == (raw, rest), cuts


@given(lines=st.lists(st.text("a.\r\0 ", max_size=6), max_size=8), cuts=st.lists(st.integers(1, 7), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_the_same_bytes_as_by_pipe(lines: list[str], cuts: list[int]) -> None:
    """Postfix gives a message to pipe(8) with LF line ends, to a socket with CRLF and stuffed dots: raw is the same."""
    data = "".join(f"{line}\n" for line in lines).encode() or b"\n"
    assert taken(content(data), cuts) == (from_pipe(data), b"")


@given(data=st.binary(max_size=30), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_pieces_make_no_difference(data: bytes, cuts: list[int]) -> None:
    """Whatever the octets are."""
    whole = data.replace(b"\n.", b"\n") + b"\r\n.\r\n"
    assert taken(whole, cuts) == taken(whole, [len(whole)])


HOSTILE: list[tuple[str, bytes, str]] = [
    ("one line", b"x" * 8_000_000, "aiosmtpd refuses a line over 1,001 octets"),
    ("CR", b"\r" * 8_000_000, "each may be the beginning of a line end"),
    ("dots", b"." * 8_000_000, "each may be the beginning of the end"),
    ("short lines", b"\r\n" * 4_000_000, "the most line ends"),
    ("stuffed lines", b"..\r\n" * 2_000_000, "the most dots"),
    ("bare LF", b"\n" * 4_000_000, "every octet becomes two"),
]


@pytest.mark.parametrize("data", [row[1] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_time_is_in_proportion(data: bytes) -> None:
    """Twice the data takes about twice the time, in whatever pieces; a quadratic way would take four times as long."""

    def seconds(part: bytes) -> float:
        best = 9.0
        for _ in range(3):
            began = time.process_time()
            taken(part + b"\r\n.\r\n", [4_096])
            best = min(best, time.process_time() - began)
        return best

    assert seconds(data) < 3.4 * seconds(data[: len(data) // 2]) + 0.02


def test_memory_is_one_copy() -> None:
    """While a message comes, and when it is taken: its size, what a growing buffer has in reserve, and a piece."""
    line = random.Random(1).randbytes(70).replace(b"\n", b"x").replace(b"\r", b"x") + b"\r\n"
    count = 8_000_000 // len(line)
    tracemalloc.start()
    try:
        found = Content()
        for _ in range(count // 1000):
            assert found.feed(line * 1000) is None
        assert found.feed(b".\r\n") == b""
        raw = found.take()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(raw) == count // 1000 * 1000 * len(line)
    assert peak < 1.3 * len(raw)


def test_what_is_dropped_is_gone() -> None:
    """A message that finds no room is read to its end, and nothing of it kept."""
    found = Content()
    assert found.feed(b"a\r\n") is None
    found.drop()
    assert found.feed(b"b\r\n.\r\nQUIT") == b"QUIT"
    assert found.take() == b""
