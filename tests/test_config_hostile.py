"""The configuration's reader on bytes that nobody would write: it answers with settings or with problems, and soon."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gatepost.config import load_with_warnings
from gatepost.errors import ConfigError, Problem

GOOD = """\
routes:
  - name: replies
    address: "reply+%{key}@in.example.com"
    keys: {format: signed, secret: reply-keys}
    deliver: [app]
sinks:
  app: {webhook: "https://app.example.com/mail", secret: app-webhook}
timing: {deadline: 1s, lease: 2s}
"""
SECRETS = """\
reply-keys: ["a secret of thirty-two bytes, or more"]
app-webhook: [whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5]
"""
#: What YAML, this schema and careless people are made of.
PIECES = [
    "routes", "sinks", "name", "address", "keys", "deliver", "secret", "webhook", "maildir", "timing", "deadline", "store",
    "log", "trusted", "screening", "automatic", "format", "signed", "must-match", "sender", "limits", "parser", "parked",
    "secrets", "milter", "reply+%{key}@in.example.com", "%s@x.example", "https://a.example/", "http://[::1", "/var/x", "120s",
    "1GiB", "5%", ": ", ":", "\n", "\n  ", "\n    ", "\n  - ", "- ", "? ", "[", "]", "{", "}", ", ", ",", "|", ">", "|2\n",
    ">-\n", '"', "'", "#", " #", "&a ", "*a", "!", "!!str ", "!<tag:x> ", "!a!b ", "%YAML 1.1\n", "%TAG ! x\n", "---\n",
    "...\n", "<<: ", "~", "\\", "\\x", "\\ud800", "\\UFFFFFFFF", "\\0", "\t", "\r", "\r\n", "\0", "\x85", "\u2028", "\ufeff",
    "@", "`", "ä", "\U0001f600", "=", "1:30", "on", "0x1F", "1e400", "-.inf", "2020-01-01", "",
]  # fmt: skip
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def answers(folder: Path, config: bytes, secrets: bytes) -> None:
    """Loads the pair; fails on anything but settings or problems that say where and what."""
    path, beside = folder / "gatepost.yml", folder / "secrets.yml"
    for file, data, mode in ((path, config, 0o644), (beside, secrets, 0o600)):
        file.write_bytes(data)
        file.chmod(mode)
    for problem in problems(str(path)):
        assert problem.file in (str(path), str(beside))
        assert problem.text
        assert str(problem).isprintable(), "a problem is one line that no terminal obeys"
        assert (problem.line > 0) == (problem.column > 0)


def problems(path: str) -> tuple[Problem, ...]:
    """What is wrong with the file: at least one problem if it does not load, and no more than anybody reads."""
    try:
        return load_with_warnings(path)[1]
    except ConfigError as error:
        found = error.problems
    assert 1 <= len(found) <= 205
    return found


@QUICK
@given(data=st.binary(max_size=200))
@example(data=b"\xff\xfe")
def test_any_bytes_get_an_answer(tmp_path: Path, data: bytes) -> None:
    """Random bytes, as the configuration or as the secrets, raise nothing but ConfigError."""
    answers(tmp_path, data, SECRETS.encode())
    answers(tmp_path, GOOD.encode(), data)


@QUICK
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_text_like_yaml_gets_an_answer(tmp_path: Path, pieces: list[str]) -> None:
    """Pieces of YAML in any order raise nothing but ConfigError."""
    data = "".join(pieces).encode("utf-8", "surrogatepass")
    answers(tmp_path, data, SECRETS.encode())
    answers(tmp_path, GOOD.encode(), data)


@QUICK
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 6))
def test_a_good_file_with_pieces_changed_gets_an_answer(tmp_path: Path, seed: int, changes: int) -> None:
    """A good file with a few pieces put in or taken out, which is what a person's mistake looks like."""
    chance = random.Random(seed)
    for config, secrets in ((True, False), (False, True)):
        text = GOOD if config else SECRETS
        for _ in range(changes):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(PIECES) + text[at + chance.randrange(8) :]
        data = text.encode("utf-8", "surrogatepass")
        answers(tmp_path, data if config else GOOD.encode(), data if secrets else SECRETS.encode())


#: id, and about a megabyte that a slow or recursive reader chokes on.
LARGE: list[tuple[str, bytes]] = [
    ("opening brackets", b"[" * 1_000_000),
    ("opening braces", b"{" * 1_000_000),
    ("dashes", b"- " * 500_000),
    ("question marks", b"? " * 500_000),
    ("one long name", b"a" * 1_000_000),
    ("one long value", b"a: " + b"b" * 1_000_000),
    ("one long quotation", b'a: "' + b"b" * 1_000_000),
    ("escapes", b'a: "' + b"\\x41" * 250_000 + b'"'),
    ("names", b"".join(b"n%d: 1\n" % number for number in range(60_000))),
    ("one name again and again", b"a: 1\n" * 60_000),
    ("commas", b"[" + b"a," * 500_000),
    ("routes without anything", b"routes:\n" + b"- \n" * 40_000),
    ("routes with one name", b"routes:\n" + b"- name: a\n" * 20_000),
    ("sinks", b"sinks:\n" + b"".join(b"  s%d: {maildir: /a}\n" % number for number in range(10_000))),
    ("remarks", b"# x\n" * 250_000),
    ("blank lines", b"\n" * 1_000_000),
    ("anchors", b"&a " * 300_000),
    ("deep indentation", b"".join(b" " * depth + b"a:\n" for depth in range(1_300))),
]


@pytest.mark.parametrize("data", [pytest.param(row[1], id=row[0]) for row in LARGE])
def test_a_large_file_gets_an_answer(tmp_path: Path, data: bytes) -> None:
    """A megabyte of one thing neither recurses nor swells: it is refused, with problems that a person can count."""
    answers(tmp_path, data, SECRETS.encode())
    assert os.path.getsize(tmp_path / "gatepost.yml") == len(data)
