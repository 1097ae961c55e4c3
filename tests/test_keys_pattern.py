"""Keys by a regular expression: what the subset takes, what its mistakes say, and that no key makes it run long.

Promises: Python's `re` is the measure for what an expression means; steps are counted, not timed.
Never: leaves an expression that takes for ever to `re`.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gatepost.keys import expression as expressions
from gatepost.keys import pattern
from gatepost.keys.expression import MAX_SIZE, PatternError
from gatepost.keys.formats import KEY_CHARACTERS, LONGEST, Reading

TICKET = r"ticket-(?P<subject>[0-9]{1,9})(?:\.(?P<option>urgent|quiet))*"

# id, expression, key, subject, options
TAKEN: list[tuple[str, str, str, str, tuple[str, ...]]] = [
    ("characters", "abc", "abc", "abc", ()),
    ("anchors at the ends", "^abc$", "abc", "abc", ()),
    ("subject", TICKET, "ticket-42", "42", ()),
    ("subject and option", TICKET, "ticket-42.urgent", "42", ("urgent",)),
    ("an option each round", TICKET, "ticket-42.quiet.urgent.quiet", "42", ("quiet", "urgent", "quiet")),
    ("options in different places", r"(?P<option>a|b)-(?P<subject>\d+)-(?P<option>c)", "a-7-c", "7", ("a", "c")),
    ("an option within an option", r"(?P<option>a(?P<option>b))", "ab", "ab", ("ab", "b")),
    ("an empty option", r"x(?P<option>a*)", "x", "x", ()),
    ("the way round the subject", r"(?P<subject>\d+)|help", "help", "help", ()),
    ("the last round's subject", r"(?:(?P<subject>[a-z])\.)+", "a.b.c.", "c", ()),
    ("longest first", r"(?P<subject>a+)(?P<option>a*)b", "aaab", "aaa", ()),
    ("leftmost first", r"(?P<subject>a|ab)(?P<option>c|bcd)", "abcd", "a", ("bcd",)),
    ("any character", ".{3}", "~!@", "~!@", ()),
    ("digit", r"\d", "7", "7", ()),
    ("word", r"\w+", "a_9", "a_9", ()),
    ("class", "[abx-z_.-]+", "z-b._", "z-b._", ()),
    ("class with a dash in front", "[-a]+", "a-", "a-", ()),
    ("class with what has no meaning there", "[$.*+?(){}|]+", "$.*+?(){}|", "$.*+?(){}|", ()),
    ("class with escapes", r"[\]\[\\\^\d\-]+", r"]\[^7-", r"]\[^7-", ()),
    ("negated", "[^a-z]+", "09-", "09-", ()),
    ("a caret that negates nothing", "[a^]+", "^a", "^a", ()),
    ("escapes", r"\.\+\*\?\(\)\[\]\{\}\|\^\$\\\-\/\@", ".+*?()[]{}|^$\\-/@", ".+*?()[]{}|^$\\-/@", ()),
    ("repeat, none", "ab?c", "ac", "ac", ()),
    ("repeat, from 2", "a{2,}", "aaaa", "aaaa", ()),
    ("repeat, 2 to 3", "a{2,3}", "aaa", "aaa", ()),
    ("repeat, none at all", "ba{0}", "b", "b", ()),
    ("repeat a group", "(ab){2}", "abab", "abab", ()),
    ("repeat what may be empty", "(a*)*", "aaa", "aaa", ()),
    ("an empty alternative", "a(|b)", "a", "a", ()),
    ("the longest key", ".*", 254 * "k", 254 * "k", ()),
    ("twenty groups deep", "(" * 20 + "a" + ")" * 20, "a", "a", ()),
    ("every character of a key", ".*", KEY_CHARACTERS, KEY_CHARACTERS, ()),
]

# id, expression, key
REFUSED = [
    ("more in front", "abc", "xabc"),
    ("more behind", "abc", "abcx"),
    ("cut off", "abc", "ab"),
    ("a line end behind", "abc", "abc\n"),
    ("alternatives are anchored too", "a|b", "ax"),
    ("alternatives are anchored too, in front", "^a|b$", "xb"),
    ("an option word alone", TICKET, "urgent"),
    ("an option without its key", TICKET, ".urgent"),
    ("an unknown option", TICKET, "ticket-42.loud"),
    ("ten digits", TICKET, "ticket-1234567890"),
    ("too few", "a{2,3}", "a"),
    ("too many", "a{2,3}", "aaaa"),
    ("none at all", "ba{0}", "ba"),
    ("negated", "[^a-z]", "q"),
    ("capitals", ".*", "A"),
    ("capitals in a negated class", "[^a]", "A"),
    ("digits of another script", r"\d", "\u0661"),
    ("letters of another script", r"\w", "ж"),
    ("a letter that folds to k", "k", "\u212a"),
    ("a lone surrogate", ".*", "\udcff"),
    ("white space", ".*", "a b"),
    ("NUL", ".*", "\0"),
    ("DEL", ".*", "\x7f"),
    ("the empty key", ".*", ""),
    ("255 characters", ".*", 255 * "k"),
    ("300 characters", "a{254}.*", 300 * "a"),
]


@pytest.mark.parametrize(("text", "key", "subject", "options"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_what_an_expression_takes(text: str, key: str, subject: str, options: tuple[str, ...]) -> None:
    """The whole key matches; `subject` and `option` are what their groups took."""
    assert pattern.read(key, pattern.parse(text)) == Reading(kind="", subject=subject, options=options, raw=key)


@pytest.mark.parametrize(("text", "key"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_an_expression_does_not_take(text: str, key: str) -> None:
    """All else has the one answer, what could be no key included."""
    assert pattern.read(key, pattern.parse(text)) is None


# id, expression, column, words of the mend
MISTAKES = [
    ("empty", "", 1, "empty"),
    ("too long", 1001 * "a", 1001, "format: list"),
    ("a capital", "ticket-[0-9]+X", 14, "write x for X"),
    ("a capital in a class", "[A-Z]", 2, "write a for A"),
    ("a capital behind a backslash", r"a\Z", 2, r"\Z is not known here"),
    ("white space", "a b", 2, "take this character out"),
    ("a tab", "a\tb", 2, "take this character out"),
    ("no ASCII", "jardín", 5, "printable ASCII"),
    ("no ASCII in a class", "[é]", 2, "printable ASCII"),
    ("no ASCII behind a backslash", "\\é", 1, "not known here"),
    ("a group that is not closed", "a(b", 2, r"write \( for the character"),
    ("a group that is not open", "ab)c", 3, r"write \) for the character"),
    ("a class that is not closed", "a[b", 2, r"write \[ for the character"),
    ("a class that is not closed, range", "a[b-", 2, r"write \[ for the character"),
    ("an empty class", "a[]", 3, r"write \] for the character"),
    ("an empty negated class", "a[^]", 4, r"write \] for the character"),
    ("a class within a class", "[[:alpha:]]", 2, r"write \[ for the character"),
    ("a class of nothing", r"[^!-~]", 1, "write . for any"),
    ("a range the wrong way", "[z-a]", 3, "as in a-z"),
    ("a range from a class", r"[\d-z]", 4, "as in a-z"),
    ("a closing bracket", "a]", 2, r"write \] for the character"),
    ("a closing brace", "a}", 2, r"write \} for the character"),
    ("nothing to repeat", "*a", 1, r"write \* for the character"),
    ("nothing to repeat in a group", "a(+)", 3, r"write \+ for the character"),
    ("nothing to repeat in an alternative", "a|?", 3, r"write \? for the character"),
    ("lazy", "a+?", 3, "take the ? out"),
    ("possessive", "a*+", 3, "take the + out"),
    ("repeated twice", "a{2}{3}", 5, "group (?:...)"),
    ("repeated twice, star", "a**", 3, "group (?:...)"),
    ("braces with words", "a{x}", 2, r"write {n}, {n,} or {n,m}"),
    ("braces that are empty", "a{}", 2, r"write {n}, {n,} or {n,m}"),
    ("braces that are not closed", "a{3", 2, r"write {n}, {n,} or {n,m}"),
    ("braces without the first number", "a{,3}", 2, r"write {n}, {n,} or {n,m}"),
    ("braces with digits of another script", "a{\u0663}", 2, r"write {n}, {n,} or {n,m}"),
    ("more than a key has", "a{255}", 2, "no key has more than 254"),
    ("far more than a key has", "a{1,99999999999999999999}", 2, "no key has more than 254"),
    ("braces the wrong way", "a{3,2}", 2, "write {2,3}"),
    ("written out too large", "(a{100}){100}", 1, "1000 are allowed"),
    ("written out far too large", "(" * 18 + "a" + "{254})" * 17 + "{254})", 1, "1000 are allowed"),
    ("twenty-one groups deep", "(" * 21 + "a" + ")" * 21, 21, "20 deep"),
    ("an anchor within", "a^b", 2, r"write \^ for the character"),
    ("an end within", "a$b", 2, r"write \$ for the character"),
    ("an end in a group", "(a$)", 3, r"write \$ for the character"),
    ("an end that is repeated", "a$+", 2, r"write \$ for the character"),
    ("two anchors", "^^a", 2, r"write \^ for the character"),
    ("a boundary", r"a\b", 2, r"\b is not known here"),
    ("white space as a class", r"a\s", 2, "no white space"),
    ("no digit", r"\D", 1, "write [^0-9]"),
    ("no word", r"a\W", 2, "write [^a-z0-9_]"),
    ("a reference back", r"(a)\1", 4, "write out"),
    ("a backslash at the end", "ab\\", 3, r"write \\ for the character"),
    ("a backslash at the end of a class", "[\\", 2, r"write \\ for the character"),
    ("look ahead", "a(?=b)", 2, "look-around"),
    ("look ahead, not", "a(?!b)", 2, "look-around"),
    ("look behind", "(?<=a)b", 1, "look-around"),
    ("look behind, not", "(?<!a)b", 1, "look-around"),
    ("flags", "(?i)a", 1, "flags"),
    ("a comment", "a(?#b)", 2, "not known here"),
    ("an atomic group", "(?>a)", 1, "not known here"),
    ("a named reference", "(?P=subject)", 1, "not known here"),
    ("a group cut off", "a(?", 2, "not known here"),
    ("another name", "(?P<key>a)", 1, "(?P<subject>...) or (?P<option>...)"),
    ("the name in another spelling", "(?<subject>a)", 1, "(?P<subject>...) or (?P<option>...)"),
    ("two subjects", "(?P<subject>a)-(?P<subject>b)", 16, "column 1 names the subject"),
    ("a subject that may be empty", "a(?P<subject>b*)", 2, "one or more"),
    ("a subject that may be empty, alternative", "(?P<subject>b|)", 1, "one or more"),
]


@pytest.mark.parametrize(("text", "column", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_has_its_column_and_the_mend(text: str, column: int, words: str) -> None:
    """What the subset does not have is an error that says where, and what to write."""
    with pytest.raises(PatternError) as raised:
        pattern.parse(text)
    assert raised.value.column == column
    assert str(raised.value).startswith(f"column {column}: ")
    assert words in str(raised.value)


_PIECES = st.sampled_from(["a", "b", "ab", ".", r"\d", "[ab]", "[^a]", "1", "-", r"\."])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, min_size=1, max_size=3)
    quantifiers = st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "{1,}"])
    return st.one_of(
        several.map("".join),
        several.map(lambda nodes: f"({'|'.join(nodes)})"),
        st.builds("(?:{}){}".format, inner, quantifiers),
        inner.map("(?P<option>{})".format),
    )


_EXPRESSIONS = st.recursive(_PIECES, _grown, max_leaves=8)
_KEYS = st.text("ab1-.", min_size=1, max_size=8)


def parsed(text: str) -> tuple[tuple[int, int, int], ...]:
    """The program, () for an expression that is right and too large."""
    try:
        return pattern.parse(text)
    except PatternError as error:
        if "are allowed" in str(error):
            return ()
        raise


@settings(max_examples=1_000)
@given(_EXPRESSIONS, _KEYS)
def test_it_takes_what_re_takes(text: str, key: str) -> None:
    """Any expression of the subset takes exactly the keys that `re` takes."""
    program = parsed(text)
    assume(program)
    theirs = re.fullmatch(text.replace("(?P<option>", "(?:"), key)  # re wants names to differ
    assert (pattern.read(key, program) is not None) is (theirs is not None)


def _grown_solid(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, min_size=1, max_size=3)
    repeated = st.builds("(?:{}){}".format, inner, st.sampled_from(["+", "{2}", "{1,3}"]))
    return st.one_of(several.map("".join), several.map(lambda nodes: f"({'|'.join(nodes)})"), repeated)


#: What cannot be empty, as a subject may not.
_SOLID = st.recursive(_PIECES, _grown_solid, max_leaves=4)


@settings(max_examples=500)
@given(st.tuples(_EXPRESSIONS, _SOLID, _EXPRESSIONS), _KEYS)
def test_the_subject_is_the_one_that_re_finds(parts: tuple[str, str, str], key: str) -> None:
    """Of several ways to match, it is the one that `re` takes: first alternative, longest repetition."""
    before, subject, behind = (part.replace("(?P<option>", "(?:") for part in parts)
    text = f"(?:{before})(?P<subject>{subject})(?:{behind})"
    program = parsed(text)
    assume(program)
    reading, theirs = pattern.read(key, program), re.fullmatch(text, key)
    assert (reading and reading.subject) == (theirs and theirs["subject"])


@given(st.text(st.sampled_from("ab(|)[]^$*+?{}1,-\\.dP<subject>:=!é \n"), max_size=30))
def test_parsing_is_total(text: str) -> None:
    """Any text is a program, or a PatternError within it; what is a program fits, and matching it is total."""
    column = 1
    program: tuple[tuple[int, int, int], ...] = ()
    try:
        program = pattern.parse(text)
    except PatternError as error:
        column = error.column
    assert 1 <= column <= len(text) + 1
    assert len(program) <= MAX_SIZE
    if program:
        pattern.read("ab1", program)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `[--a]` may mean something else to re one day
            assert re.compile(text.replace("(?P<option>", "("))


def steps(text: str, key: str) -> int:
    """How many lines of Python a match runs."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        assert count <= 20 * MAX_SIZE * (LONGEST + 1), "it does not come to an end"
        return trace

    program = pattern.parse(text)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        pattern.read(key, program)
    finally:
        sys.settrace(before)
    return count


#: Each takes a backtracking search exponential or high polynomial time on "aaa...".
EVIL = [
    "(a+)+b", "(a*)*b", "(a|a)*b", "(a|aa)+b", "((a?){20}){10}b", "(a?){100}a{100}b", "a*a*a*a*a*a*a*a*a*b",
    "(.*)(.*)(.*)(.*)[b-z]", "(?P<option>a|(?P<option>a))*b", "(((a*)*)*)*b", "(a{0,9}){0,9}b",
]  # fmt: skip


@pytest.mark.parametrize("text", EVIL)
def test_no_expression_runs_long(text: str) -> None:
    """Steps are bounded by the program's size times the key's length; twice the key is about twice the work."""
    size = len(pattern.parse(text))
    short, long = steps(text, 100 * "a"), steps(text, 200 * "a")
    assert long <= 14 * size * 201
    assert long <= 2.3 * short


def test_the_largest_program_with_the_longest_key() -> None:
    """The worst that a configuration and a stranger can do together is MAX_SIZE * (LONGEST + 1) visits."""
    text = "(?:" + "|".join(199 * ["a*"]) + ")*b"
    assert MAX_SIZE - 5 < len(pattern.parse(text)) <= MAX_SIZE
    assert steps(text, LONGEST * "a") <= 14 * MAX_SIZE * (LONGEST + 1)


def test_the_largest_expression() -> None:
    """A program has MAX_SIZE instructions and not one more, its end included."""
    assert len(pattern.parse("a{249}" * 4 + "aaa")) == MAX_SIZE
    with pytest.raises(PatternError, match="has 1001 steps"):
        pattern.parse("a{249}" * 4 + "aaaa")


def test_a_program_is_plain_numbers() -> None:
    """It can be kept in the compiled configuration."""
    program = pattern.parse(TICKET)
    assert all(type(each) is tuple and [type(number) for number in each] == [int, int, int] for each in program)
    assert {what for what, _, _ in program} <= {expressions.SET, expressions.EITHER, expressions.GO, expressions.MARK,
                                                expressions.DONE}  # fmt: skip
