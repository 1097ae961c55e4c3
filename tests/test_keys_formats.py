"""All key formats together: any local part at all gives a reading or None, in bounded work, and loads what it needs only.

Promises: the hostile local parts are made from a fixed seed, 100,000 of them, each through every format.
Never: times anything; steps are counted.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.keys import formats
from gatepost.keys.expression import PatternError, parse
from gatepost.keys.formats import LONGEST, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.keys.formats import Format

ROOT = Path(__file__).resolve().parent.parent
HEX = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
BASE36 = "0a1b2c3d4e5f6g7h8i9j0klmz"
TICKET = r"ticket-(?P<subject>[0-9]{1,9})(?:\.(?P<option>urgent|quiet))*"
#: The line for `k1`, hashed, and two plain ones.
LIST = b"# keys\nsha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0 9\nlisted 7\nother\n"

#: A key for each kind, to be taken apart and spoiled.
SEEDS = [
    HEX,
    f"1-{BASE36}",
    f"1-{BASE36}-2s",
    f"{HEX}-unsubscribe",
    f"1-{BASE36}+unsubscribe",
    "garden-20-glimt-abc-issue",
    "garden-20-abc-merge-request",
    "garden-20-issue-",
    "garden-20-abc-issue-34",
    f"garden.{HEX}",
    f"garden+{HEX}+show-sender",
    f"mm{HEX}",
    f"{HEX}.prefer-html.include-quotes",
    "ticket-42.urgent",
    "listed",
    "other",
    "k1",
]
#: What hostile text is made of: the formats' own delimiters and words, and what no address should hold.
PIECES = [
    "", "-", "+", ".", "--", "..", "++", "-issue", "-issue-", "issue", "-merge-request", "unsubscribe", "-unsubscribe", "mm",
    "0", "20", "-20-", "show-sender", ".prefer-text", "sha256:", "#", "%", "/", "@", '"', "\\", " ", "\t", "\n", "\r\n", "\0",
    "\x1b[2J", "\x7f", "\u212a", "\u0130", "\u017f", "\u0661", "ß", "é", "漢", "\u202e", "\ufeff", "\udcff", "\ud800",
    "\U0001f4e7", "A", HEX[:16], BASE36, HEX, "a" * 64, "ticket-7", ".urgent", "listed", "k1", "\n" * 40,
]  # fmt: skip


def hostile(count: int) -> Iterator[str]:
    """Local parts that a stranger might try: spoiled keys, pieces in any order, any characters, far too long ones."""
    chance = random.Random(4)
    for number in range(count):
        way = number % 5
        if way == 0:  # a key with one place changed
            text = chance.choice(SEEDS)
            at = chance.randrange(len(text) + 1)
            yield text[:at] + chance.choice(PIECES) + text[at + chance.randrange(3) :]
        elif way == 1:
            yield "".join(chance.choices(PIECES, k=chance.randrange(1, 9)))
        elif way == 2:
            yield "".join(chance.choices("0123456789abcdefgilmnoqrstu-+._", k=chance.randrange(80)))
        elif way == 3:
            yield "".join(map(chr, chance.choices(range(0x250), k=chance.randrange(40))))
        else:
            yield chance.choice(PIECES[1:]) * chance.choice((1, 2, 30, 127, 254, 255, 300))


def through_all(text: str) -> list[Reading | None]:
    """What each format, with each single kind and with all, makes of a text."""
    return [
        formats.read(name, text, kinds=taken, expression=TICKET, blocks=(LIST,))
        for name, kinds in formats.FORMATS.items() for taken in ((), *((kind,) for kind in kinds))
    ]  # fmt: skip


def whole(text: str, *readings: Reading | None) -> None:
    """Every reading is one of a text that can be a key, and names something."""
    for reading in readings:
        if reading is not None:
            assert type(reading) is Reading
            assert reading.raw == text
            assert reading.subject
            assert 0 < len(text) <= LONGEST
            assert not text.strip(formats.KEY_CHARACTERS)


_KEY = "(?:[0-9a-f]{32}|[0-9a-z]{1,4}-[0-9a-z]{25}(?:-[0-9a-z]{1,13})?)"
_SLUG = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_TOKEN = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_OPTION = "(?:show-sender|include-footer|include-quotes|prefer-text|prefer-html)"
_GITLAB = re.compile(f"{_KEY}(?:[-+]unsubscribe)?|{_SLUG}-[1-9][0-9]{{0,18}}-issue-")
_GITLAB_PROJECT = re.compile("(.+)-[1-9][0-9]{0,18}-(.+)-(?:issue(?:-[1-9][0-9]{0,18})?|merge-request)")
_HEX = "[0-9a-f]{32}"
_NAME = f"[a-z0-9_%-]+[.+](?:{_OPTION}[.+])*"
_ZULIP = re.compile(f"mm{_HEX}|(?:{_OPTION}[.+])*(?:{_NAME})?{_HEX}(?:[.+]{_OPTION})*")


def by_expression(text: str) -> tuple[bool, bool]:
    """Whether GitLab and Zulip's forms, written as expressions, take this text."""
    if len(text) > LONGEST:
        return False, False
    project = _GITLAB_PROJECT.fullmatch(text)
    made = bool(project and re.fullmatch(_SLUG, project[1]) and re.fullmatch(_TOKEN, project[2]))
    return made or bool(_GITLAB.fullmatch(text)), bool(_ZULIP.fullmatch(text))


def test_a_hundred_thousand_hostile_local_parts() -> None:
    """None of them raises; what is read holds what a key has; GitLab's and Zulip's are read where their forms say so."""
    taken = dict.fromkeys(formats.FORMATS, 0)
    for text in hostile(100_000):
        readings = {name: formats.read(name, text, expression=TICKET, blocks=(LIST,)) for name in formats.FORMATS}
        whole(text, *readings.values())
        assert (readings["gitlab"] is not None, readings["zulip"] is not None) == by_expression(text), text
        for name, reading in readings.items():
            taken[name] += reading is not None
    assert min(taken.values()) > 50, "the texts come near enough to keys to be some"
    assert max(taken.values()) < 30_000


@settings(max_examples=500)
@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    """Any text of any characters is a reading or None."""
    whole(text, *through_all(text))


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES + SEEDS), max_size=10).map("".join))
def test_any_text_of_their_pieces(text: str) -> None:
    """So is any text made of what keys are made of."""
    whole(text, *through_all(text))


NO_KEYS = [
    ("empty", ""),
    ("an option word", "show-sender"),
    ("an action", "issue"),
    ("300 characters", "a" * 300),
    ("300 hex digits", "0" * 300),
    ("Unicode", "ключ"),
    ("a letter that folds to k", "\u212a1"),
    ("NUL", "\0"),
    ("a line end", f"{HEX}\n"),
    ("white space", " "),
    ("a key in capitals", HEX.upper()),
    ("a key in front of a line end", f"listed\n{HEX}"),
]


@pytest.mark.parametrize("text", [row[1] for row in NO_KEYS], ids=[row[0] for row in NO_KEYS])
def test_one_uniform_refusal(text: str) -> None:
    """Whatever is wrong, every format says the same: None."""
    assert set(through_all(text)) == {None}


def test_every_seed_is_a_key_of_one_format() -> None:
    """The keys that the hostile ones are made from are read, so that a spoiled one could be."""
    for text in SEEDS:
        names = {name for name in formats.FORMATS if formats.read(name, text, expression=TICKET, blocks=(LIST,))}
        assert len(names - {"zulip"} or names) == 1, text  # 32 hex digits are a GitLab reply key and a Zulip token too


def lines_run(name: Format, text: str) -> int:
    """How many lines of Python a reading runs."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        formats.read(name, text, expression=TICKET, blocks=(LIST,))
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_work_is_bounded(name: Format) -> None:
    """A longer text than a key is looked at not at all; of the longest, the work is a few lines a character at most."""
    formats.read(name, "x", expression=TICKET)  # its module is loaded
    parsing = lines_run(name, "")
    assert lines_run(name, "a" * 1_000_000) == lines_run(name, "-1" * 1_000_000) == parsing
    for piece in ("a", "-", "1-", "-1", ".", "+", "-issue", "-issue-1", "1-issue-", "show-sender.", HEX, "ticket-"):
        text = (piece * LONGEST)[:LONGEST]
        for tail in ("", "-issue", "-issue-", "-issue-1", "-merge-request", "-unsubscribe"):
            assert lines_run(name, text[: LONGEST - len(tail)] + tail) - parsing <= 8 * LONGEST


def test_an_expression_that_is_none_takes_nothing() -> None:
    """The check of the configuration tells the mistake; a message meets no exception."""
    assert formats.read("pattern", "a", expression="(a") is None
    assert formats.read("pattern", "a", expression="") is None


def test_only_a_list_can_tell() -> None:
    """The formats whose keys anybody can make up are the ones without a list."""
    assert set(formats.FORMATS) - formats.CANNOT_TELL == {"list"}


MODULES = {"gitlab": "gitlab", "zulip": "zulip", "pattern": "pattern", "list": "listed"}


@pytest.mark.parametrize(("name", "module"), MODULES.items())
def test_a_route_pays_for_its_own_format(name: str, module: str) -> None:
    """Reading a key loads that format's module and no other's, and nothing that costs a message its start-up."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "from gatepost.keys import formats\n"
        f"formats.read({name!r}, 'a', expression='a', blocks=(b'a',))\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert loaded & {f"gatepost.keys.{each}" for each in MODULES.values()} == {f"gatepost.keys.{module}"}
    assert not loaded & {"re", "typing", "enum", "dataclasses", "hashlib", "hmac", "functools"}


PAGE = (ROOT / "docs" / "key-formats.md").read_text()


def test_the_pages_examples_are_read_as_it_says() -> None:
    """The page's pattern, its list and its table of GitLab's keys are what the code does."""
    expression = re.findall(r"pattern: '(.*)'", PAGE)[0]
    reading = formats.read("pattern", "ticket-42.urgent", expression=expression)
    assert reading == Reading(kind="", subject="42", options=("urgent",), raw="ticket-42.urgent")
    content = re.findall(r"```\n(# one key a line.*?)```", PAGE, re.DOTALL)[0].encode()
    subjects = {"0a1b2c3d4e": "ticket/42", "9z8y7x6w5v": "ticket/43", "spring-sale": "spring-sale"}
    for key, subject in subjects.items():
        assert formats.read("list", key, blocks=(content,)) == Reading(kind="", subject=subject, raw=key)
    rows = re.findall(r"^\| `([a-z-]+)` \| `([0-9a-zA-Z-]+)`", PAGE.partition("## zulip")[0], re.MULTILINE)
    assert [kind for kind, _ in rows] == ["reply", "service-desk", "issue", "merge-request", "note"]
    for kind, text in rows:
        gitlab = formats.read("gitlab", text.replace("TOKEN", "glimt-abc"))
        assert gitlab is not None
        assert gitlab.kind == kind


def test_the_pages_mistakes_are_told_in_these_words() -> None:
    """What the page shows of `config check` is what the parser says."""
    wrong = ["ticket-[0-9]+X", r"(a)\1", "a(?P<subject>b*)"]
    told = []
    for expression in wrong:
        with pytest.raises(PatternError) as raised:
            parse(expression)
        told.append(str(raised.value))
    assert "\n".join(told) in PAGE
