"""Comments, quoted strings and the other tokens of structured fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.comments import without_comments
from gatepost.mail.tokens import quoted, tokens

# id, value, without comments
COMMENTS = [
    ("none", b"no", b"no"),
    ("behind", b"no (really)", b"no  "),
    ("before, no white space", b"(a)no", b" no"),
    ("in the middle parts two words", b"auto(x)replied", b"auto replied"),
    ("nested", b"a(b(c)d(e(f)))g", b"a g"),
    ("escaped parenthesis", b"a(b\\)c)d", b"a d"),
    ("escaped backslash", b"a(b\\\\)c", b"a c"),
    ("a quote in a comment is no quoted string", b'a(")b', b"a b"),
    ("parentheses in a quoted string are no comment", b'"a(b)c"', b'"a(b)c"'),
    ("an escaped quote ends no quoted string", b'"a\\"(b)"(c)', b'"a\\"(b)" '),
    ("nothing closes the comment", b"no (really", b"no (really"),
    ("nothing closes the outer one", b"a((b)", b"a((b)"),
    ("nothing closes the quoted string", b'a"b(c)', b'a"b '),
    ("nothing opens it", b"a)b(c)", b"a)b "),
    ("8-bit", b"\xff(\xff)", b"\xff "),
]


@pytest.mark.parametrize(("value", "left"), [row[1:] for row in COMMENTS], ids=[row[0] for row in COMMENTS])
def test_comments_become_a_space(value: bytes, left: bytes) -> None:
    """A comment (RFC 5322 3.2.2) is white space; what only looks like one stays."""
    assert without_comments(value) == left


# id, value, tokens (kind, text, spaced)
TOKENS: list[tuple[str, bytes, list[tuple[str, str, bool]]]] = [
    ("empty", b" \t", []),
    ("atoms and specials", b"a, b", [("atom", "a", False), (",", ",", False), ("atom", "b", True)]),
    ("quoted", b'"a \\"b\\\\" ', [("quoted", 'a "b\\', False)]),
    ("three backslashes and a quote", b'"\\\\\\""', [("quoted", '\\"', False)]),
    ("comment counts as white space", b"a(b(c))d", [("atom", "a", False), ("comment", "b(c)", False), ("atom", "d", True)]),
    ("literal", b"[1.2]x", [("literal", "[1.2]", False), ("atom", "x", False)]),
    ("folded", b"a\r\n b", [("atom", "a", False), ("atom", "b", True)]),
    ("quote without end", b'"a', [("stray", '"', False), ("atom", "a", False)]),
    ("told once", b'"a b ["', [("quoted", "a b [", False)]),
    ("openers without end", b"((a", [("stray", "(", False), ("atom", "a", False)]),
    ("closer", b"a)", [("atom", "a", False), ("stray", ")", False)]),
    ("8-bit is Latin-1", b"\xe4", [("atom", "\xe4", False)]),
]


@pytest.mark.parametrize(("value", "found"), [row[1:] for row in TOKENS], ids=[row[0] for row in TOKENS])
def test_a_value_is_cut_into_tokens(value: bytes, found: list[tuple[str, str, bool]]) -> None:
    """Each token has its kind, its text without delimiters, and whether white space stands before it."""
    assert list(tokens(value, b",")) == found


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=50))
def test_a_quoted_string_is_read_as_it_was_written(content: str) -> None:
    """Quoting and reading again gives the same text."""
    assert list(tokens(quoted(content).encode("latin-1"), b"")) == [("quoted", content, False)]
