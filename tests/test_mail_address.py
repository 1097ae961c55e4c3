"""Configured addresses: their form, which recipients they take, and which two could take one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.address import AddressPattern, check_pattern, compile_pattern, overlap, parse_pattern
from gatepost.mail.recipient import recipient

ROOT = str(Path(__file__).parent.parent)

# id, pattern, recipient, key (None: not taken), well formed
MATCHES: list[tuple[str, str, str, str | None, bool]] = [
    ("plus", "reply+%{key}@in.example.com", "reply+abc@in.example.com", "abc", True),
    ("%s", "reply+%s@in.example.com", "reply+abc@in.example.com", "abc", True),
    ("minus", "reply-%{key}@in.example.com", "reply-abc@in.example.com", "abc", True),
    ("dot", "reply.%{key}@in.example.com", "reply.abc@in.example.com", "abc", True),
    ("no delimiter", "reply%{key}@in.example.com", "replyabc@in.example.com", "abc", True),
    ("key first", "%{key}+reply@in.example.com", "abc+reply@in.example.com", "abc", True),
    ("between", "r+%{key}-in@in.example.com", "r+a-b-in@in.example.com", "a-b", True),
    ("capitals", "reply+%{key}@in.example.com", "REPLY+AbC@IN.EXAMPLE.COM", "abc", True),
    ("capitals in the pattern", "Reply+%{key}@In.Example.com", "reply+abc@in.example.com", "abc", True),
    ("final dot", "reply+%{key}@in.example.com", "reply+abc@in.example.com.", "abc", True),
    ("quoted", "reply+%{key}@in.example.com", '"reply+abc"@in.example.com', "abc", True),
    ("catch-all", "%{key}@in.example.com", "Abc@in.example.com", "abc", True),
    ("sub-address in the key", "reply+%{key}@in.example.com", "reply+a+b@in.example.com", "a+b", True),
    ("dedicated", "team@in.example.com", "Team@in.example.com", "", True),
    ("a pattern for a role's key", "reply+%{key}@in.example.com", "reply+postmaster@in.example.com", "postmaster", True),
    # taken, but no key
    ("empty key", "reply+%{key}@in.example.com", "reply+@in.example.com", "", False),
    ("empty catch-all", "%{key}@in.example.com", "@in.example.com", "", False),
    ("KELVIN SIGN", "reply+%{key}@in.example.com", "reply+\u212a@in.example.com", "\u212a", False),
    ("Cyrillic", "reply+%{key}@in.example.com", "reply+\u0430bc@in.example.com", "\u0430bc", False),
    ("not UTF-8", "reply+%{key}@in.example.com", "reply+\udcff@in.example.com", "\udcff", False),
    ("a letter that grows", "reply+%{key}-x@in.example.com", "reply+\u0130-x@in.example.com", "\u0130", False),
    # not taken
    ("other domain", "reply+%{key}@in.example.com", "reply+abc@example.com", None, False),
    ("subdomain", "reply+%{key}@in.example.com", "reply+abc@x.in.example.com", None, False),
    ("anchored in front", "reply+%{key}@in.example.com", "xreply+abc@in.example.com", None, False),
    ("anchored behind", "reply+%{key}@in.example.com", "reply+abc@in.example.com.example.org", None, False),
    ("anchored behind the key", "r+%{key}-in@in.example.com", "r+abc-in2@in.example.com", None, False),
    ("no delimiter in it", "reply+%{key}@in.example.com", "reply@in.example.com", None, False),
    ("prefix and suffix may not share", "a-%{key}-a@in.example.com", "a-a@in.example.com", None, False),
    ("a dot is a dot", "reply.%{key}@in.example.com", "replyxabc@in.example.com", None, False),
    ("no domain", "reply+%{key}@in.example.com", "reply+abc", None, False),
    ("KELVIN SIGN in the user part", "kit+%{key}@in.example.com", "\u212ait+abc@in.example.com", None, False),
    ("KELVIN SIGN in the domain", "a+%{key}@k.example.com", "a+abc@\u212a.example.com", None, False),
    ("dedicated, more behind", "team@in.example.com", "team+x@in.example.com", None, False),
    ("postmaster is never a key", "%{key}@in.example.com", "PostMaster@in.example.com", None, False),
    ("abuse is never a key", "%{key}@in.example.com", '"abuse"@in.example.com', None, False),
    ("mailer-daemon is never a key", "%{key}@in.example.com", "MAILER-DAEMON@in.example.com", None, False),
    ("nor cut in pieces", "mailer-%{key}@in.example.com", "mailer-daemon@in.example.com", None, False),
    # internationalized domains
    ("U-label for U-label", "a+%{key}@b\xfccher.example", "a+abc@B\xdcCHER.example", "abc", True),
    ("A-label for U-label", "a+%{key}@b\xfccher.example", "a+abc@xn--bcher-kva.example", "abc", True),
    ("U-label for A-label", "a+%{key}@xn--bcher-kva.example", "a+abc@b\xfccher.example", "abc", True),
    ("Cyrillic user part", "\u043e\u0442+%{key}@in.example.com", "\u041e\u0422+abc@in.example.com", "abc", True),
]


@pytest.mark.parametrize(("pattern", "to", "key", "well_formed"), [row[1:] for row in MATCHES], ids=[row[0] for row in MATCHES])
def test_a_pattern_takes_a_recipient(pattern: str, to: str, key: str | None, well_formed: bool) -> None:
    """Anchored at both ends, in any case; what can be no key is told from an address that does not match."""
    match = compile_pattern(pattern).match(recipient(to))
    if key is None:
        assert match is None
    else:
        assert match is not None
        assert (match.key, match.well_formed) == (key, well_formed)
        assert match.dedicated == ("%" not in pattern)


# id, text, a part of the message
REFUSED = [
    ("no domain", "reply+%{key}", "no domain"),
    ("empty", "", "no domain"),
    ("empty domain", "reply+%{key}@", "no domain"),
    ("only a dot", "reply+%{key}@.", "no domain"),
    ("empty label", "reply+%{key}@in..example.com", "empty label"),
    ("empty first label", "reply+%{key}@.example.com", "empty label"),
    ("placeholder in the domain", "reply@%{key}.example.com", "placeholder in the domain"),
    ("two placeholders", "%{key}+%{key}@in.example.com", "two placeholders"),
    ("two of both spellings", "%s+%{key}@in.example.com", "two placeholders"),
    ("unknown placeholder", "reply+%{id}@in.example.com", "no placeholder"),
    ("a percent sign", "reply%in.example.com@example.com", "no placeholder"),
    ("nothing before the sign", "@in.example.com", "nothing before the @"),
    ("quotes", '"reply %{key}"@in.example.com', "quotes"),
    ("two signs", "a@b+%{key}@in.example.com", "second @"),
    ("postmaster", "Postmaster@in.example.com", "kept for a person"),
    ("abuse", "abuse@in.example.com", "kept for a person"),
    ("mailer-daemon", "mailer-daemon@in.example.com", "kept for a person"),
]


@pytest.mark.parametrize(("text", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_wrong_address_is_refused_with_the_mend(text: str, message: str) -> None:
    """The error says what is wrong; the full check and the cheap one agree."""
    for read in (parse_pattern, compile_pattern, check_pattern):
        with pytest.raises(ValueError, match=message):
            read(text)


# id, text, canonical
CHECKED = [
    ("plain", "reply+%{key}@in.example.com", "reply+%{key}@in.example.com"),
    ("%s", "reply+%s@in.example.com", "reply+%{key}@in.example.com"),
    ("catch-all", "%{key}@in.example.com", "%{key}@in.example.com"),
    ("dedicated", "team@in.example.com", "team@in.example.com"),
    ("capitals", "Reply+%{key}@IN.Example.com", "Reply+%{key}@in.example.com"),
    ("final dot", "reply+%{key}@in.example.com.", "reply+%{key}@in.example.com"),
    ("test", "reply+%{key}@mail.test", "reply+%{key}@mail.test"),
    ("localhost", "reply+%{key}@mail.localhost", "reply+%{key}@mail.localhost"),
    ("bare localhost", "reply+%{key}@localhost", "reply+%{key}@localhost"),
    ("local", "reply+%{key}@mail.local", "reply+%{key}@mail.local"),
    ("U-label", "a+%{key}@B\xfccher.example.org", "a+%{key}@xn--bcher-kva.example.org"),
    ("A-label", "a+%{key}@xn--bcher-kva.example.org", "a+%{key}@xn--bcher-kva.example.org"),
    ("user part in its normal form", "u\u0308+%{key}@in.example.com", "\xfc+%{key}@in.example.com"),
]


@pytest.mark.parametrize(("text", "canonical"), [row[1:] for row in CHECKED], ids=[row[0] for row in CHECKED])
def test_a_good_address_gets_one_spelling(text: str, canonical: str) -> None:
    """What can be sent to passes; checking twice changes nothing, and the pattern of it keeps the spelling."""
    assert check_pattern(text) == canonical
    assert check_pattern(canonical) == canonical
    assert compile_pattern(canonical).text == canonical


@pytest.mark.parametrize(
    "text",
    ["a b+%{key}@in.example.com", "reply..%{key}@in.example.com", ".%{key}@in.example.com", "r+%{key}@in_.example.com",
     "r+%{key}@host", "r+%{key}@-a.example.com", "r+%{key}@[192.0.2.1]", "a" * 65 + "@in.example.com",
     "r\n+%{key}@in.example.com", "r+%{key}@" + "a" * 64 + ".example.com", "(%{key}@in.example.com"],
)  # fmt: skip
def test_what_no_address_may_be_is_refused(text: str) -> None:
    """email-validator has the last word on a configured address."""
    with pytest.raises(ValueError, match=r"no address that mail can be sent to|longer than 64"):
        check_pattern(text)


def test_the_pipe_script_loads_no_validator() -> None:
    """Compiling and matching import neither email-validator nor what it brings."""
    code = (
        "import sys\n"
        "from gatepost.mail.address import compile_pattern\n"
        "from gatepost.mail.recipient import recipient\n"
        "assert compile_pattern('a+%{key}@b\\xfccher.example').match(recipient('a+k@xn--bcher-kva.example'))\n"
        "print(sorted(set(sys.modules) & {'email_validator', 'idna', 're', 'dataclasses', 'typing', 'enum'}))\n"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ROOT})
    assert done.stdout == "[]\n"


# id, one, other, do they overlap
OVERLAPS = [
    ("the same", "reply+%{key}@x.example", "reply+%{key}@x.example", True),
    ("the same in capitals", "reply+%{key}@x.example", "REPLY+%s@X.example", True),
    ("other domains", "reply+%{key}@x.example", "reply+%{key}@y.example", False),
    ("other users", "reply+%{key}@x.example", "contact+%{key}@x.example", False),
    ("two catch-alls", "%{key}@x.example", "%{key}@x.example", True),
    ("catch-all and key", "%{key}@x.example", "reply+%{key}@x.example", True),
    ("catch-all and dedicated", "%{key}@x.example", "team@x.example", True),
    ("dedicated inside", "reply+%{key}@x.example", "reply+x@x.example", True),
    ("dedicated beside", "reply+%{key}@x.example", "reply@x.example", False),
    ("dedicated where the key is empty", "reply+%{key}@x.example", "reply+@x.example", True),
    ("two dedicated", "a@x.example", "A@x.example", True),
    ("two other dedicated", "a@x.example", "b@x.example", False),
    ("one prefix begins the other", "r+%{key}@x.example", "r+a-%{key}@x.example", True),
    ("prefix and suffix", "r+%{key}@x.example", "%{key}-in@x.example", True),
    ("two suffixes, one ends the other", "%{key}-in@x.example", "%{key}-b-in@x.example", True),
    ("two other suffixes", "%{key}-in@x.example", "%{key}-on@x.example", False),
    ("prefixes agree, suffixes do not", "r+%{key}-in@x.example", "r+%{key}-on@x.example", False),
    ("shared in the middle", "a-%{key}-a@x.example", "a-a@x.example", False),
    ("two spellings of a domain", "a+%{key}@b\xfccher.example", "a+%{key}@xn--bcher-kva.example", True),
]


@pytest.mark.parametrize(("one", "other", "both"), [row[1:] for row in OVERLAPS], ids=[row[0] for row in OVERLAPS])
def test_two_patterns_that_could_take_one_address_are_found(one: str, other: str, both: bool) -> None:
    """`overlap` is symmetrical and true only where one address would be taken twice."""
    assert overlap(parse_pattern(one), parse_pattern(other)) == both
    assert overlap(parse_pattern(other), parse_pattern(one)) == both


_WITH_KEY = [before + "%{key}" + behind for before in ("", "a", "ab", "b") for behind in ("", "a", "ba", "b")]
_PARTS = [*_WITH_KEY, "a", "ab", "ba", "aba"]
#: Every local part of up to five letters: long enough for two prefixes and two suffixes.
_LOCALS = ["".join(chars) for size in range(1, 6) for chars in itertools.product("ab", repeat=size)]


def _taken(pattern: AddressPattern) -> set[str]:
    return {local for local in _LOCALS if pattern.match(recipient(f"{local}@x.example")) is not None}


@given(st.sampled_from(_PARTS), st.sampled_from(_PARTS))
def test_overlap_agrees_with_matching(one: str, other: str) -> None:
    """`overlap` says what trying every short address says."""
    first, second = parse_pattern(f"{one}@x.example"), parse_pattern(f"{other}@x.example")
    assert overlap(first, second) == bool(_taken(first) & _taken(second))


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_raises_but_value_error(local: str, domain: str) -> None:
    """Whatever is configured: a pattern or a ValueError; whatever arrives: a match or None."""
    for read in (parse_pattern, check_pattern):
        try:
            read(f"{local}%s@{domain}")
        except ValueError:
            continue
    match = parse_pattern("a+%s@x.example").match(recipient(f"a+{local}@x.example"))
    assert match is None or match.well_formed == (match.key.isascii() and match.key != "")
