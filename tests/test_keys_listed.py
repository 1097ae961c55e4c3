"""A list of keys or of their hashes: which line answers for a key, in files as people and programs write them.

Promises: content is cut into blocks at every place; what a line says is compared with a plain reading of the same file.
Never: reads a file, but where a list of 1,000,000 is looked through by way of mmap.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.keys import listed
from gatepost.keys.formats import KEY_CHARACTERS, Reading


def hashed(key: str) -> bytes:
    return b"sha256:" + hashlib.sha256(key.encode()).hexdigest().encode()


# id, content, key, subject
TAKEN = [
    ("alone, no line end", b"k1", "k1", "k1"),
    ("alone", b"k1\n", "k1", "k1"),
    ("first of two", b"k1\nk2\n", "k1", "k1"),
    ("last of two, no line end", b"k1\nk2", "k2", "k2"),
    ("between", b"k1\nk2\nk3\n", "k2", "k2"),
    ("line ends of DOS", b"k1\r\nk2\r\n", "k1", "k1"),
    ("line ends of DOS, last", b"k1\r\nk2", "k2", "k2"),
    ("with a subject", b"k1 ticket/42\n", "k1", "ticket/42"),
    ("with a subject, tab", b"k1\tticket/42\n", "k1", "ticket/42"),
    ("with a subject, much white space", b"k1 \t  ticket/42 \t\r\n", "k1", "ticket/42"),
    ("with a subject of words", b"k1 the red one\n", "k1", "the red one"),
    ("with a subject in UTF-8", "k1 jardín\n".encode(), "k1", "jardín"),
    ("with a subject that is no UTF-8", b"k1 jard\xedn\n", "k1", "jard\ufffdn"),
    ("with a subject that holds a terminal's escape", b"k1 a\x1b[2Jb\0\n", "k1", "a\ufffd[2Jb\ufffd"),
    ("with a subject in capitals", b"k1 Ticket\n", "k1", "Ticket"),
    ("with white space and no subject", b"k1  \n", "k1", "k1"),
    ("with a comment", b"k1 # of Tuesday\n", "k1", "k1"),
    ("with a comment, tab", b"k1\t# of Tuesday\n", "k1", "k1"),
    ("with a subject and a comment", b"k1 42 # of Tuesday\n", "k1", "42"),
    ("with a subject that has a number sign", b"k1 a#42\n", "k1", "a#42"),
    ("in capitals", b"K1 42\n", "k1", "42"),
    ("behind comments and empty lines", b"# keys\n\n  # more\n\nk1 42\n", "k1", "42"),
    ("a longer one in front", b"k12 no\nk1 yes\n", "k1", "yes"),
    ("one that ends in it in front", b"xk1 no\nk1 yes\n", "k1", "yes"),
    ("a subject that is the key in front", b"k2 k1\nk1 yes\n", "k1", "yes"),
    ("twice, the first counts", b"k1 one\nk1 two\n", "k1", "one"),
    ("every character a key may have", KEY_CHARACTERS[::-1].encode() + b"\n", KEY_CHARACTERS[::-1], KEY_CHARACTERS[::-1]),
    ("a number sign within", b"k#1\n", "k#1", "k#1"),
    ("254 characters", 254 * b"k" + b"\n", 254 * "k", 254 * "k"),
    ("hashed", hashed("k1") + b"\n", "k1", "k1"),
    ("hashed, no line end", hashed("k1"), "k1", "k1"),
    ("hashed, in capitals", hashed("k1").upper() + b"\n", "k1", "k1"),
    ("hashed, with a subject", hashed("k1") + b" 42\n", "k1", "42"),
    ("hashed, line ends of DOS", hashed("k1") + b"\r\n", "k1", "k1"),
    ("hashed and plain, hash first", hashed("k1") + b" one\nk1 two\n", "k1", "one"),
    ("hashed and plain, plain first", b"k1 two\n" + hashed("k1") + b" one\n", "k1", "two"),
]

# id, content, key
REFUSED = [
    ("empty file", b"", "k1"),
    ("empty lines", b"\n\n\n", "k1"),
    ("another key", b"k2\n", "k1"),
    ("a longer key", b"k12\n", "k1"),
    ("a key that ends in it", b"xk1\n", "k1"),
    ("a subject", b"k2 k1\n", "k1"),
    ("the end of a subject", b"k2 a k1\n", "k1"),
    ("a comment", b"#k1\n", "k1"),
    ("a comment behind a key", b"k2 # k1\n", "k1"),
    ("a comment with the hash", b"# " + hashed("k1") + b"\n", "k1"),
    ("white space in front", b" k1\n", "k1"),
    ("a comma behind", b"k1, 42\n", "k1"),
    ("a hash one digit short", hashed("k1")[:-1] + b"\n", "k1"),
    ("a hash one digit long", hashed("k1") + b"0\n", "k1"),
    ("a hash without its name", hashed("k1").removeprefix(b"sha256:") + b"\n", "k1"),
    ("the hash of another key", hashed("k2") + b"\n", "k1"),
    ("a hash for the key", hashed("k1") + b"\n", hashed("k1").decode()),
    ("a hash of the hash", hashed(hashed("k1").decode()) + b"\n", hashed("k1").decode()),
    ("the name of the hash", hashed("k1") + b"\n", "sha256:"),
    ("the name of the hash, without its colon", hashed("k1") + b"\n", "sha256"),
    ("the number sign", b"#\n# x\n", "#"),
    ("a comment for the key", b"#k1\n", "#k1"),
    ("the empty key", b"\n\n k1\n", ""),
    ("white space", b"k1 42\n", "k1 42"),
    ("white space alone", b" \n", " "),
    ("a line end in the key", b"k1\nk2\n", "k1\nk2"),
    ("capitals in the key", b"K1\nk1\n", "K1"),
    ("Unicode", "jardín\n".encode(), "jardín"),
    ("a lone surrogate", b"\xff\n", "\udcff"),
    ("NUL", b"\0\n", "\0"),
    ("255 characters", 255 * b"k" + b"\n", 255 * "k"),
    ("a line of more than 4096 octets", b"k1 " + 4096 * b"x" + b"\n", "k1"),
]


def cuts(content: bytes) -> list[tuple[bytes, ...]]:
    """The content whole, in two at every place, and octet by octet."""
    halves = [(content[:at], content[at:]) for at in range(min(len(content), 200) + 1)]
    return [(content,), *halves, tuple(content[at : at + 1] for at in range(len(content) if len(content) < 500 else 0))]


@pytest.mark.parametrize(("content", "key", "subject"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_a_line_answers_for_its_key(content: bytes, key: str, subject: str) -> None:
    """The first line whose whole first field is the key, or its hash, gives the subject; blocks may end anywhere."""
    for blocks in cuts(content):
        assert listed.read(key, blocks) == Reading(kind="", subject=subject, raw=key), blocks


@pytest.mark.parametrize(("content", "key"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_no_other_line_does(content: bytes, key: str) -> None:
    """A part of a field, a subject, a comment, a hash itself: nothing else makes a key live, wherever blocks end."""
    for blocks in cuts(content):
        assert listed.read(key, blocks) is None, blocks


_FIELDS = st.text("ab#", min_size=1, max_size=3).map(lambda text: text.encode())
_LINES = st.one_of(
    _FIELDS,
    _FIELDS.map(lambda key: key + b" s"),
    _FIELDS.map(lambda key: b" " + key),
    _FIELDS.map(lambda key: key + b"\r"),
    _FIELDS.map(lambda key: hashed(key.decode())),
    st.just(b""),
)


def plainly(key: str, content: bytes) -> bool:
    """What the page says, line by line."""
    fields = [line.replace(b"\r", b" ").partition(b" ")[0] for line in content.split(b"\n")]
    return not key.startswith("#") and any(field in (key.encode(), hashed(key)) for field in fields)


@given(st.lists(_LINES, max_size=6).map(b"\n".join), _FIELDS, st.integers(1, 80))
def test_searching_finds_what_reading_line_by_line_finds(content: bytes, field: bytes, size: int) -> None:
    """No cut into blocks and no neighbour changes the answer."""
    key = field.decode()
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    assert (listed.read(key, blocks) is not None) is plainly(key, content)


def test_the_line_that_a_program_writes() -> None:
    """`line_of` gives a line that answers for the key in any case, and does not hold it."""
    line = listed.line_of("Secret-Key", "ticket/42")
    assert "ecret" not in line.casefold()
    assert listed.read("secret-key", (line.encode(),)) == Reading(kind="", subject="ticket/42", raw="secret-key")
    assert listed.line_of("k1") == hashed("k1").decode()


WRONG = [
    ("a key", b"k1", ""),
    ("a key with a subject", b"k1 42", ""),
    ("a hash", hashed("k1") + b" 42", ""),
    ("a hash in capitals", hashed("k1").upper(), ""),
    ("empty", b" \t\r", ""),
    ("a comment", b"# k\xff", ""),
    ("white space in front", b" k1", "begin the line with the key"),
    ("a short hash", b"sha256:abc", "64 hex digits"),
    ("no hex", b"sha256:" + 64 * b"x", "64 hex digits"),
    ("not ASCII", "jardín".encode(), "printable ASCII"),
    ("NUL", b"k\0", "printable ASCII"),
    ("a byte order mark", b"\xef\xbb\xbfk1", "byte order mark"),
    ("a long key", 255 * b"k", "254 octets"),
    ("a long line", b"k1 " + 4096 * b"x", "4096 octets"),
]


@pytest.mark.parametrize(("line", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_line_that_no_key_can_match_is_told(line: bytes, words: str) -> None:
    """`problems` names the line and the mend, and says nothing of a line that is right."""
    found = list(listed.problems(b"k0\n" + line + b"\n"))
    if not words:
        assert found == []
    else:
        [(number, text)] = found
        assert number == 2
        assert words in text


def test_no_more_than_twenty_problems() -> None:
    """Another file in the list's place does not fill the terminal."""
    assert len(list(listed.problems(b"\xff\n" * 1000))) == 20


def lines_run(key: str, blocks: list[bytes]) -> int:
    """How many lines of Python a look-up runs."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        listed.read(key, blocks)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("key", ["k", "key-", "key-7", "key-49999", "sha", "x" * 254, "\n", "key-7 s"])
def test_the_work_does_not_grow_with_the_lines(key: str) -> None:
    """A look-up runs as many lines of Python for 50,000 keys in a block as for one, whatever the key shares with them."""
    content = b"".join(b"key-%d s\n" % number for number in range(50_000))
    assert lines_run(key, [content]) <= lines_run("key-0", [b"key-0 s\n"]) + 5


def test_a_key_in_front_costs_what_one_at_the_end_costs() -> None:
    """Every block is looked through, found or not."""
    blocks = [b"key-%d\n" % number for number in range(100)]
    first, last, none = (lines_run(key, blocks) for key in ("key-0", "key-99", "key-x"))
    assert first == last
    assert first - none <= 30  # of 2,800: the lines that cut out what stands behind the key


def test_a_million_keys_by_way_of_mmap(tmp_path: Path) -> None:
    """Slices of an open mmap serve as blocks; each of a million lines can be found."""
    path = tmp_path / "keys"
    path.write_bytes(b"".join(b"key-%07d %d\n" % (number, number) for number in range(1_000_000)))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number in (0, 1, 499_999, 999_999):
            blocks = (content[at : at + listed.BLOCK] for at in range(0, len(content), listed.BLOCK))
            assert listed.read(f"key-{number:07d}", blocks) == Reading(kind="", subject=str(number), raw=f"key-{number:07d}")
        assert listed.read("key-1000000", (content[at : at + 99_999] for at in range(0, len(content), 99_999))) is None
