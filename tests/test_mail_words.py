"""A field's bytes as text for people."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.words import CODECS, DECODED_BYTES, WORDS, charset_text, displayable, text

# id, value, text
TEXTS = [
    ("empty", b"", ""),
    ("ascii", b"hello there", "hello there"),
    ("q word", b"=?utf-8?q?caf=C3=A9?=", "caf\xe9"),
    ("q word, underscore is a space", b"=?UTF-8?Q?a_b=5Fc?=", "a b_c"),
    ("b word", b"=?utf-8?B?Y2Fmw6k=?=", "caf\xe9"),
    ("charset in any case", b"=?Iso-8859-15?q?=A4?=", "\u20ac"),
    ("language after the charset (RFC 2231 5)", b"=?utf-8*de?q?=C3=BC?=", "\xfc"),
    ("text around", b"Re: =?utf-8?q?=C3=BC?= x", "Re: \xfc x"),
    ("two words: white space between is not shown", b"=?utf-8?q?a?= \t =?utf-8?q?b?=", "ab"),
    ("two words of two charsets", b"=?utf-8?q?=C3=BC?= =?iso-8859-1?q?=FC?=", "\xfc\xfc"),
    ("words without white space between", b"=?utf-8?q?a?==?utf-8?q?b?=", "ab"),
    ("text between keeps its spaces", b"=?utf-8?q?a?= - =?utf-8?q?b?=", "a - b"),
    ("a character split between two words", b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "\xfc"),
    ("a character split, base64", b"=?utf-8?b?w7zDnw==?= =?utf-8?b?w6Q=?=", "\xfc\xdf\xe4"),
    ("iso-2022-jp", b"=?iso-2022-jp?b?GyRCJDMbKEI=?=", "\u3053"),
    ("a superset reads what is labelled too narrowly", b"=?iso-8859-1?q?=93x=94?=", "\u201cx\u201d"),
    ("spaces in a q word", b"=?utf-8?q?a b?=", "a b"),
    ("empty word", b"x =?utf-8?q??= y", "x  y"),
    ("unknown charset stays as written", b"=?x-none?q?a?=", "=?x-none?q?a?="),
    ("idna is not looked up", b"=?idna?q?xn--a?=", "=?idna?q?xn--a?="),
    ("punycode is not looked up", b"=?punycode?q?a?=", "=?punycode?q?a?="),
    ("unicode_escape is not looked up", b"=?unicode_escape?q?=5Cud800?=", "=?unicode_escape?q?=5Cud800?="),
    ("utf-7 is not looked up", b"=?utf-7?q?+ADw-?=", "=?utf-7?q?+ADw-?="),
    ("rot13 is not looked up", b"=?rot13?q?a?=", "=?rot13?q?a?="),
    ("unknown encoding stays", b"=?utf-8?x?a?=", "=?utf-8?x?a?="),
    ("no encoding stays", b"=?utf-8??a?=", "=?utf-8??a?="),
    ("broken base64 stays", b"=?utf-8?b?Y2!Fm?=", "=?utf-8?b?Y2!Fm?="),
    ("base64 without padding stays", b"=?utf-8?b?Y2E?=", "=?utf-8?b?Y2E?="),
    ("no end stays", b"=?utf-8?q?abc", "=?utf-8?q?abc"),
    ("a question mark in it stays", b"=?utf-8?q?a?b?=", "=?utf-8?q?a?b?="),
    ("broken q is read as far as it goes", b"=?utf-8?q?a=zz=4?=", "a=zz=4"),
    ("only half a word before a whole one", b"=?utf-8?q?=?utf-8?q?a?=", "=?utf-8?q?a"),
    ("8-bit that is UTF-8", b"caf\xc3\xa9", "caf\xe9"),
    ("8-bit that is not", b"caf\xe9 \x80", "caf\xe9 \u20ac"),
    ("8-bit around a word", b"\xe9 =?utf-8?q?=C3=BC?=", "\xe9 \xfc"),
    ("controls are replaced", b"a\0b\x1b[31m\x7f", "a\ufffdb\ufffd[31m\ufffd"),
    ("line breaks become spaces", b"a\r\nb\tc", "a  b c"),
    ("controls out of a word are replaced", b"=?utf-8?q?a=00=0A=0Dbcc:x?=", "a\ufffd  bcc:x"),
    ("line separators become spaces", b"a\xe2\x80\xa8b\xc2\x85c", "a b c"),
    ("C1 controls are replaced", b"a\xc2\x9bb", "a\ufffdb"),
    ("an encoded surrogate is no character", b"\xed\xa0\x80", "\xed\xa0\u20ac"),
    ("an encoded surrogate in a word", b"=?utf-8?q?=ED=A0=80?=", "\ufffd\ufffd\ufffd"),
]


@pytest.mark.parametrize(("value", "shown"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_value_is_shown(value: bytes, shown: str) -> None:
    """Encoded words that can be read are decoded; what cannot stays as written; nothing acts on a terminal."""
    assert text(value) == shown


def test_words_past_the_limit_stay_as_written() -> None:
    """At most WORDS encoded words are decoded, and only in the first DECODED_BYTES octets."""
    word = b"=?utf-8?q?a?="
    assert text(b" ".join([word] * (WORDS + 1))) == "a" * WORDS + " =?utf-8?q?a?="
    assert text(b"=?" + b"x" * DECODED_BYTES + word).endswith("x=?utf-8?q?a?=")


def test_lone_surrogates_are_replaced() -> None:
    """Text that came through surrogateescape can be shown, too."""
    assert displayable("a\udcff\u0151") == "a\ufffd\u0151"


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_charset_listed_decodes(name: str) -> None:
    """Each charset of the list is one that this Python has, reads ASCII, and replaces what it cannot read."""
    assert charset_text(b"abc", name) == "abc"
    assert isinstance(charset_text(bytes(range(256)), name.upper()), str)


def test_a_codec_that_is_not_listed_is_never_loaded() -> None:
    """A stranger's charset name makes Python import nothing."""
    before = set(sys.modules)
    for name in (b"idna", b"punycode", b"zip", b"bz2", b"hex", b"uu", b"undefined", b"mbcs", b"this", b"\xff", b"a" * 9_999):
        written = b"=?" + name + b"?q?a?="
        assert text(written).endswith("?q?a?=")
    assert {name for name in set(sys.modules) - before if name.startswith("encodings.")} <= {"encodings.cp1252"}


@given(st.binary(max_size=80), st.sampled_from(sorted(CODECS)), st.sampled_from("qQbB"))
def test_text_is_always_displayable(octets: bytes, charset: str, encoding: str) -> None:
    """Whatever stands in a word of whatever charset: no control character, no lone surrogate, no exception."""
    for value in (octets, b"=?%s?%s?%s?=" % (charset.encode(), encoding.encode(), octets)):
        shown = text(value)
        assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cs", "Zl", "Zp"}
