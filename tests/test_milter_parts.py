"""What a milter session stands on: the paths of the envelope, and what is kept of a message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatepost.mail.recipient import recipient
from gatepost_milter.kept import IN_MEMORY, Kept
from gatepost_milter.paths import address

# -- paths: what Postfix 3.7 gave as path and macro, and what its pipe(8) with flag q gave for ${sender} or ${recipient}

PATHS: list[tuple[str, str, str | None, str, str]] = [
    ("plain", "<a@in.example.com>", "a@in.example.com", "a@in.example.com", "as it is"),
    ("null", "<>", "", "", "the null reverse-path"),
    ("case", "<Reply+KEY@In.Example.COM>", "reply+key@in.example.com", "Reply+KEY@In.Example.COM", "the macro is folded, pipe is not"),
    ("quoted", '<"quoted local"@in.example.com>', '"quoted local"@in.example.com', '"quoted local"@in.example.com', "needs them"),
    ("quotes", '<"Reply+k"@in.example.com>', "reply+k@in.example.com", "Reply+k@in.example.com", "quotes that are not needed go"),
    ("quote in quotes", r'<"a\"B"@in.example.com>', r'"a\"b"@in.example.com', r'"a\"B"@in.example.com', "stays escaped"),
    ("backslash", r'<"A\b"@in.example.com>', "ab@in.example.com", "Ab@in.example.com", "a quoted pair that is not needed goes"),
    ("route", "<@a.example,@b.example:User@Example.org>", "user@example.org", "User@Example.org", "RFC 5321 4.1.2: ignored"),
    ("final dot", "<Reply+k@in.example.com.>", "reply+k@in.example.com", "Reply+k@in.example.com", "the same domain"),
    ("bare", "reply+k@in.example.com", "reply+k@in.example.com", "reply+k@in.example.com", "Postfix takes it without brackets"),
    ("no domain", "<postmaster>", "postmaster@mx.example.com", "postmaster@mx.example.com", "Postfix adds its own"),
    ("UTF-8", "<reply+käy@in.example.com>", "reply+käy@in.example.com", "reply+käy@in.example.com", "SMTPUTF8"),
    ("folds longer", "<Straße@Example.org>", "strasse@example.org", "Straße@Example.org", "casefold makes two characters of one"),
    ("Kelvin sign", "<Reply+\u212a@in.example.com>", "reply+k@in.example.com", "Reply+\u212a@in.example.com", "is no k"),
    ("dots", "<Reply+.dot.@in.example.com>", '"reply+.dot."@in.example.com', '"Reply+.dot."@in.example.com', "no dot-atom: quoted"),
    ("two at", "<A@b@in.example.com>", '"a@b"@in.example.com', '"A@b"@in.example.com', "the last one counts"),
    ("comment", "<Reply+x (comment)@in.example.com>", "reply+x@in.example.com", "Reply+x@in.example.com", "is none of the address"),
    ("spaces", "< Reply+x@in.example.com >", "reply+x@in.example.com", "Reply+x@in.example.com", "around it"),
    ("percent", "<reply+a%B@in.example.com>", "reply+a%b@in.example.com", "reply+a%B@in.example.com", "an ordinary character here"),
    ("no macro", "<Reply+K@in.example.com>", None, "Reply+K@in.example.com", "an MTA that gives none"),
    ("no macro, route", "<@a.example:Reply+K@in.example.com.>", None, "Reply+K@in.example.com", "as well as we can"),
    ("no macro, null", "<>", None, "", "the null reverse-path"),
    ("octets", "<reply+\udcff@in.example.com>", None, "reply+\udcff@in.example.com", "no UTF-8: surrogates"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "macro", "expected"), [row[1:4] for row in PATHS], ids=[row[0] for row in PATHS])
def test_a_path_is_spelled_as_pipe_will_spell_it(written: str, macro: str | None, expected: str) -> None:
    """The door behind the queue must see the same envelope, or a stamp and a delivery id of ours are worth nothing."""
    assert address(written, macro) == expected


@pytest.mark.parametrize("written", ["", "<", ">", "<<>>", "@", '"', "<a@b@c", "\0", "(((", "<@a:@b:>", "\udcff", "İ" * 50])
@pytest.mark.parametrize("macro", ["", "a@b", '"', "\0", "İ", "x" * 1000, None])
def test_any_path_has_an_address(written: str, macro: str | None) -> None:
    """Whatever the MTA says: an answer, which the rest of gatepost can read."""
    recipient(address(written, macro))


# -- what is kept


def test_a_message_comes_back_as_it_went_in(tmp_path: Path) -> None:
    """In memory or in a file: the same octets, in any pieces."""
    for size in (0, 1, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY + 7):
        kept, data = Kept(str(tmp_path)), bytes(range(251)) * (size // 251 + 1)
        for at in range(0, size, 65_535):
            kept.add(data[at : min(at + 65_535, size)])
        assert (kept.size, kept.in_file) == (size, size > IN_MEMORY)
        assert kept.read() == data[:size]
        assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_memory_is_bounded_while_a_message_comes(tmp_path: Path) -> None:
    """However small the pieces are: a head of a million fields is not a million objects."""
    kept = Kept(str(tmp_path))
    for _ in range(3 * IN_MEMORY // 4):
        kept.add(b"a:b\n")
        assert len(kept._memory) <= IN_MEMORY
    assert len(kept.read()) == 3 * IN_MEMORY


def test_dropping_closes_the_file(tmp_path: Path) -> None:
    """An aborted transaction gives its disk space back at once."""
    before = len(os.listdir("/proc/self/fd"))
    kept = Kept(str(tmp_path))
    kept.add(b"x" * (IN_MEMORY + 1))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    kept.drop()
    kept.drop()
    assert len(os.listdir("/proc/self/fd")) == before
    assert kept.read() == b""
