"""The recipient, as Postfix gives it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.recipient import NEVER_A_KEY, fold, is_role, recipient

# id, text, local part, domain, final form
RECIPIENTS = [
    ("plain", "reply+K@In.Example.com", "reply+K", "in.example.com", "reply+k@in.example.com"),
    ("final dot", "a@in.example.com.", "a", "in.example.com", "a@in.example.com"),
    ("no domain", "Postmaster", "Postmaster", "", "postmaster"),
    ("empty", "", "", "", ""),
    ("empty local part", "@x", "", "x", "@x"),
    ("empty domain", "a@", "a", "", "a"),
    ("quoted", '"reply+k"@x', "reply+k", "x", "reply+k@x"),
    ("quoted space", '"reply+a b"@x', "reply+a b", "x", "reply+a b@x"),
    ("quoted sign", '"reply+a@b"@x', "reply+a@b", "x", "reply+a@b@x"),
    ("backslashes", '"a\\"b\\\\c\\d"@x', 'a"b\\cd', "x", 'a"b\\cd@x'),
    ("partly quoted", 'a."b c".d@x', "a.b c.d", "x", "a.b c.d@x"),
    ("several signs: the last splits", "a@b@c", "a@b", "c", "a@b@c"),
    ("quotes that do not pair", '"a@b', '"a', "b", '"a@b'),
    ("quotes that do not pair, sign inside", 'a@"b', "a", '"b', 'a@"b'),
    ("only quoted, no domain", '"a@b"', "a@b", "", "a@b"),
    ("300 characters", "A" * 300 + "@x", "A" * 300, "x", "a" * 300 + "@x"),
    ("spaces", "a b @ x", "a b ", " x", "a b @ x"),
    ("Cyrillic", "\u041e\u0422+k@\u041f.example", "\u041e\u0422+k", "\u043f.example", "\u043e\u0442+k@\u043f.example"),
    ("right-to-left override", "a\u202eb@x", "a\u202eb", "x", "a\u202eb@x"),
    ("not UTF-8", "a\udcffB@x", "a\udcffB", "x", "a\udcffb@x"),
    ("KELVIN SIGN stays apart from k", "reply+\u212a@x", "reply+\u212a", "x", "reply+\u212a@x"),
    ("a letter that grows in lower case stays", "\u0130@x", "\u0130", "x", "\u0130@x"),
    ("line break", "a\nb@x", "a\nb", "x", "a\nb@x"),
    ("IP address", "postmaster@[127.0.0.1]", "postmaster", "[127.0.0.1]", "postmaster@[127.0.0.1]"),
]


@pytest.mark.parametrize(
    ("text", "local", "domain", "final_form"), [row[1:] for row in RECIPIENTS], ids=[row[0] for row in RECIPIENTS]
)
def test_a_recipient_is_read(text: str, local: str, domain: str, final_form: str) -> None:
    """The last @ outside quotes splits; the local part is unquoted; one form serves for comparison."""
    found = recipient(text)
    assert (found.local, found.domain, found.final_form) == (local, domain, final_form)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("postmaster@in.example.com", True),
        ("PostMaster@[127.0.0.1]", True),
        ("postmaster", True),
        ('"abuse"@in.example.com', True),
        ("ABUSE@in.example.com", True),
        ("mailer-daemon@in.example.com", False),
        ("reply+postmaster@in.example.com", False),
        ("postmaster+x@in.example.com", False),
        ("po\u017ftmaster@in.example.com", False),
        ("", False),
    ],
)
def test_role_addresses_are_known_in_every_form(text: str, role: bool) -> None:
    """postmaster@ and abuse@ in any case, quoted or bare; nothing else."""
    assert is_role(recipient(text)) == role


def test_mail_servers_and_roles_are_never_a_key() -> None:
    """The list that others ask."""
    assert set(NEVER_A_KEY) == {"postmaster", "abuse", "mailer-daemon"}


@given(st.text(max_size=40))
def test_any_text_has_one_form(text: str) -> None:
    """Whatever the text: no exception; folding keeps the length, is done in one go, and makes no ASCII out of other letters."""
    found = recipient(text)
    assert fold(found.final_form) == found.final_form
    assert len(fold(text)) == len(text)
    assert [char.isascii() for char in fold(text)] == [char.isascii() for char in text]
    assert recipient(text.upper() if text.isascii() else text).final_form == found.final_form
