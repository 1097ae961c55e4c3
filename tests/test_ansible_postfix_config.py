"""main.cf and master.cf in the hands of role postfix: read as Postfix does, ours put in beside others', taken out to the byte."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROLE = Path(__file__).resolve().parent.parent / "ansible" / "roles" / "postfix"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postfix_files", ROLE / "module_utils" / "postfix_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


files: Any = _load()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("a = 1\nb=2\n", {"a": "1", "b": "2"}, id="two"),
        pytest.param("a = 1,\n  2\n\t3\n", {"a": "1, 2 3"}, id="goes-on"),
        pytest.param("a = 1,\n# why 2\n\n  2\nb = 3\n", {"a": "1, 2", "b": "3"}, id="goes-on-past-a-comment-and-a-blank-line"),
        pytest.param("a = 1\n   # indented comment\nb = 2\n", {"a": "1", "b": "2"}, id="an-indented-comment-is-one"),
        pytest.param("a = 1\na = 2\n", {"a": "2"}, id="the-last-counts"),
        pytest.param("a = 1=2\n", {"a": "1=2"}, id="an-equals-sign-in-a-value"),
        pytest.param("a =\nb = 1\n", {"a": "", "b": "1"}, id="empty"),
        pytest.param("a = 1", {"a": "1"}, id="no-end-of-line"),
        pytest.param("#a = 1\n", {}, id="a-comment"),
        pytest.param("", {}, id="nothing"),
    ],
)
def test_main_cf_is_read_as_postfix_reads_it(text: str, wanted: dict[str, str]) -> None:
    """A logical line goes on where the next begins with white space; of two of one name the last counts (postconf(5))."""
    assert files.settings(text) == wanted


def test_master_cf_is_read_as_postfix_reads_it() -> None:
    """A service is its first two words, whatever lines its options stand on (master(5))."""
    text = "smtp  inet  n - y - - smtpd\n  -o a=b\n#x unix - - - - - y\nsmtp unix - - y - - smtp\n"
    assert [files.service_key(entry) for entry in files.entries(text)] == ["smtp/inet", "smtp/unix"]


@pytest.mark.parametrize(
    ("text", "ours", "wanted"),
    [
        pytest.param("a = 1\n", "b = 2\n", f"a = 1\n{files.BEGIN}\nb = 2\n{files.END}\n", id="at-the-end"),
        pytest.param(
            "a = 1,\n# why\n  2\nc = 3\n",
            "a = 9",
            f"#gatepost-found:a = 1,\n# why\n#gatepost-found:  2\nc = 3\n{files.BEGIN}\na = 9\n{files.END}\n",
            id="all-lines-of-what-it-takes-the-place-of",
        ),
        pytest.param(
            "a = 1\na = 2\n",
            "a = 9\n",
            f"#gatepost-found:a = 1\n#gatepost-found:a = 2\n{files.BEGIN}\na = 9\n{files.END}\n",
            id="of-two-both",
        ),
        pytest.param("", "a = 9\n", f"{files.BEGIN}\na = 9\n{files.END}\n", id="into-nothing"),
    ],
)
def test_ours_is_put_in(text: str, ours: str, wanted: str) -> None:
    """Ours stands in one block at the end; whatever it takes the place of becomes a comment, and nothing else changes."""
    assert files.put_in(text, ours) == wanted
    assert files.put_in(wanted, ours) == wanted


_LINES = st.lists(
    st.sampled_from(
        [
            "a = 1",
            "a=2",
            "b = x,",
            "  y",
            "\tz",
            "",
            " ",
            "# comment",
            "  # indented",
            "c =",
            "smtp inet n - y - - smtpd",
            "ä = ö",
            "\r",
        ]
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(lines=_LINES, end=st.booleans(), ours=st.sampled_from(["a = 9\n", "b = 8\nc = 7\n", "d = 6\n", ""]))
def test_what_was_put_in_comes_out_to_the_byte(lines: list[str], end: bool, ours: str) -> None:
    """Whatever stood there, with and without an end of its last line, stands there again."""
    text = "\n".join(lines) + "\n" * end
    once = files.put_in(text, ours)
    assert files.take_out(once) == text
    assert files.put_in(once, ours) == once
    assert files.settings(once) == {**files.settings(text), **files.settings(ours)}
    assert files.take_out(files.put_in(once, "e = 5\n")) == text


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param("a = 1\n{}d = 4\n", "a = 1\nd = 4\n", id="a-line-below"),
        pytest.param("z = 0\na = 1\n{}", "z = 0\na = 1\n", id="a-line-above"),
        pytest.param("a = 1\n{}d = 4", "a = 1\nd = 4", id="a-line-below-without-an-end"),
    ],
)
def test_what_others_changed_meanwhile_stays(found: str, wanted: str) -> None:
    """Taking ours out leaves what was written around it since."""
    block = f"{files.BEGIN}\nb = 2\n{files.END}\n"
    assert files.take_out(found.format(block)) == wanted


def test_a_block_without_its_end_is_not_guessed_at() -> None:
    """Somebody deleted the line at its end: what is ours is not known any more."""
    with pytest.raises(files.Conflict, match="put it back"):
        files.take_out(f"a = 1\n{files.BEGIN}\nb = 2\n")


@pytest.mark.parametrize(
    ("text", "wanted", "result"),
    [
        pytest.param("# why\na = 1\nb = 2\n", {"a": "9"}, "# why\na = 9\nb = 2\n", id="in-its-place"),
        pytest.param("a = 1,\n 2\nb = 2\n", {"a": "9"}, "a = 9\nb = 2\n", id="with-its-lines"),
        pytest.param("a = 1\n", {"c": "3"}, "a = 1\n\nc = 3\n", id="a-new-one"),
        pytest.param("a = 1\n", {"c": ""}, "a = 1\n\nc =\n", id="an-empty-one"),
        pytest.param("a = 1\n", {}, "a = 1\n", id="none"),
    ],
)
def test_a_person_settings_go_over_ours(text: str, wanted: dict[str, str], result: str) -> None:
    """A setting takes the place of the one of its name, or comes to the end."""
    assert files.with_settings(text, wanted) == result


def test_a_setting_is_one_line() -> None:
    """A value with a line break would be two settings."""
    with pytest.raises(files.Conflict, match="one line"):
        files.with_settings("", {"a": "1\nmynetworks = 0.0.0.0/0"})


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"mydestination": "$myhostname, mx1.example.com, localhost", "myhostname": "mx1.example.com"}, [], id="debian"
        ),
        pytest.param({"mydestination": "$myhostname, mx1, localhost.localdomain, , localhost"}, [], id="debian-short-name"),
        pytest.param({"mydestination": "theirs.example", "inet_interfaces": "loopback-only"}, [], id="only-this-host"),
        pytest.param(
            {"mydestination": "$myhostname, theirs.example"}, ["mydestination = $myhostname, theirs.example"], id="local"
        ),
        pytest.param({"virtual_mailbox_domains": "hash:/d"}, ["virtual_mailbox_domains = hash:/d"], id="mailboxes"),
        pytest.param({"relay_domains": "theirs.example"}, ["relay_domains = theirs.example"], id="relay"),
        pytest.param({"relay_domains": "$mydestination", "virtual_alias_domains": ""}, [], id="defaults-written-out"),
    ],
)
def test_a_postfix_that_serves_others_is_known(found: dict[str, str], wanted: list[str]) -> None:
    """Its main.cf is not replaced without a word: what it does is named."""
    assert files.serves(found) == wanted
