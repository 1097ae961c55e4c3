"""From, To and Cc: addresses and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.mail.mailboxes import FLAGS, mailboxes
from gatepost.mail.recipient import recipient

# id, value, [(address, name)], flags
LISTS: list[tuple[str, bytes, list[tuple[str, str]], tuple[str, ...]]] = [
    ("empty", b"", [], ()),
    ("bare", b"ann@example.org", [("ann@example.org", "")], ()),
    ("name", b"Ann Lee <ann@example.org>", [("ann@example.org", "Ann Lee")], ()),
    ("dots in a name", b"Ann B. Lee <ann@example.org>", [("ann@example.org", "Ann B. Lee")], ()),
    ("quoted name", b'"Lee, Ann" <ann@example.org>', [("ann@example.org", "Lee, Ann")], ()),
    ("escapes in a name", b'"Ann \\"A\\" Lee" <a@b.example>', [("a@b.example", 'Ann "A" Lee')], ()),
    ("name in a comment", b"ann@example.org (Ann (A) Lee)", [("ann@example.org", "Ann (A) Lee")], ()),
    ("encoded name", b"=?utf-8?q?J=C3=B6rg=2C?= <j@example.org>", [("j@example.org", "J\xf6rg,")], ()),
    ("encoded name, quoted", b'"=?utf-8?q?J=C3=B6rg?=" <j@example.org>', [("j@example.org", "J\xf6rg")], ()),
    ("two", b"a@x.example, B <b@y.example>", [("a@x.example", ""), ("b@y.example", "B")], ()),
    ("empty elements", b", ,a@x.example,,", [("a@x.example", "")], ()),
    ("case: local kept, domain lower", b"Ann@EXAMPLE.org", [("Ann@example.org", "")], ()),
    ("final dot", b"a@example.org.", [("a@example.org", "")], ()),
    ("spaces around the signs", b"a . b @ example . org", [("a.b@example.org", "")], ()),
    ("comments everywhere", b"(x) a(y)@(z)example.org(w)", [("a@example.org", "x")], ()),
    ("quotes that are not needed", b'"ann"@example.org', [("ann@example.org", "")], ()),
    ("quotes that are", b'"ann lee"@example.org', [('"ann lee"@example.org', "")], ()),
    ("a sign in quotes", b'"owner@x.example"@y.example', [('"owner@x.example"@y.example', "")], ()),
    ("quotes in a dotted local part", b'"a".b@example.org', [("a.b@example.org", "")], ()),
    ("dots as a phone company allows", b"a..b.@example.org", [("a..b.@example.org", "")], ()),
    ("domain literal", b"a@[192.0.2.1]", [("a@[192.0.2.1]", "")], ()),
    ("IPv6 literal", b"<a@[IPv6:2001:DB8::1]>", [("a@[ipv6:2001:db8::1]", "")], ()),
    ("route", b"<@x.example,@y.example:a@z.example>", [("a@z.example", "")], ()),
    ("group", b"Team: a@x.example, B <b@y.example>; c@z.example",
     [("a@x.example", ""), ("b@y.example", "B"), ("c@z.example", "")], ("group",)),
    ("empty group", b"undisclosed-recipients:;", [], ("group",)),
    ("8-bit", b"J\xc3\xb6rg <j\xc3\xb6@b\xc3\xbc.example>", [("j\xf6@b\xfc.example", "J\xf6rg")], ()),
    # broken, and guessed
    ("no brackets", b"Ann Lee ann@example.org", [("ann@example.org", "Ann Lee")], ("unparsed",)),
    ("no comma", b"a@x.example b@y.example", [("a@x.example", ""), ("b@y.example", "")], ("unparsed",)),
    ("no comma between brackets", b"<a@x.example> <b@y.example>", [("a@x.example", ""), ("b@y.example", "")], ("unparsed",)),
    ("comma in a name", b"Lee, Ann <ann@example.org>", [("ann@example.org", "Lee, Ann")], ("unparsed",)),
    ("comma in an encoded name", b"=?utf-8?q?Lee,_Ann?= <a@x.example>", [("a@x.example", "Lee, Ann")], ("unparsed",)),
    ("no closing bracket", b"<a@x.example, B <b@y.example>", [("a@x.example", ""), ("b@y.example", "B")], ("unparsed",)),
    ("doubled brackets", b"<<a@x.example>>", [("a@x.example", "")], ("unparsed",)),
    ("junk behind", b"<a@x.example> junk, b@y.example", [("a@x.example", ""), ("b@y.example", "")], ("unparsed",)),
    ("quote without end", b'"Ann <ann@example.org>', [("ann@example.org", "Ann")], ("unparsed",)),
    ("comment without end", b"ann@example.org (Ann", [("ann@example.org", "Ann")], ("unparsed",)),
    ("semicolons between", b"a@x.example; b@y.example", [("a@x.example", ""), ("b@y.example", "")], ()),
    ("mailto", b"Ann <mailto:ann@example.org>", [("ann@example.org", "Ann")], ("unparsed",)),
    ("no domain", b"MAILER-DAEMON", [("MAILER-DAEMON", "")], ("no-domain",)),
    ("no domain, in brackets", b"Mail System <MAILER-DAEMON>", [("MAILER-DAEMON", "Mail System")], ("no-domain",)),
    ("no domain, in a list", b"root, a@x.example", [("root", ""), ("a@x.example", "")], ("no-domain",)),
    ("only words", b"Undisclosed recipients", [], ("unparsed",)),
    ("empty brackets", b"<>", [], ("unparsed",)),
    ("nothing before the sign", b"@example.org", [], ("unparsed",)),
    ("nothing behind it", b"a@", [], ("unparsed",)),
    ("only dots behind it", b"a@.", [], ("unparsed",)),
    ("a quoted domain", b'a@"b.example"', [], ("unparsed",)),
    # what tries to pass for another
    ("an address as a name", b"owner@x.example <evil@y.example>", [("evil@y.example", "owner@x.example")], ()),
    ("an address in quotes as a name", b'"owner@x.example" <evil@y.example>', [("evil@y.example", "owner@x.example")], ()),
    ("an address in a comment", b"evil@y.example (owner@x.example)", [("evil@y.example", "owner@x.example")], ()),
    ("two signs", b"owner@x.example@y.example", [], ("unparsed",)),
    ("two signs in brackets", b"<owner@x.example@y.example>", [], ("unparsed",)),
    ("an encoded address is not decoded", b"=?utf-8?q?owner=40x?=@y.example", [("=?utf-8?q?owner=40x?=@y.example", "")],
     ("encoded-word-in-address",)),
    ("nul does not vanish", b"ow\0ner@x.example", [("ow\ufffdner@x.example", "")], ("nul",)),
    ("KELVIN SIGN does not fold to k", b"a@\xe2\x84\xaa.example", [("a@\u212a.example", "")], ()),
]  # fmt: skip


@pytest.mark.parametrize(("value", "found", "flags"), [row[1:] for row in LISTS], ids=[row[0] for row in LISTS])
def test_a_list_is_read(value: bytes, found: list[tuple[str, str]], flags: tuple[str, ...]) -> None:
    """Addresses and names come out in order; what is not as RFC 5322 3.4 says is a flag."""
    result = mailboxes(value, 10)
    assert [(each.address, each.name) for each in result.list] == found
    assert result.flags == flags


# id, value, limit, how many, too many?
LIMITED = [
    ("as many as allowed", b"a@x, b@x", 2, 2, False),
    ("a comma at the end", b"a@x, b@x,", 2, 2, False),
    ("one more", b"a@x, b@x, c@x", 2, 2, True),
    ("one more, no comma", b"a@x, b@x c@x", 2, 2, True),
    ("no comma, then one more", b"a@x b@x, c@x", 2, 2, True),
    ("without domain", b"a, b, c", 2, 2, True),
    ("empty elements count", b",,,a@x", 2, 0, True),
    ("brackets count", b"<a@x><b@x><c@x>", 2, 2, True),
    ("none allowed", b"a@x", 0, 0, True),
    ("none there", b"", 0, 0, False),
]


@pytest.mark.parametrize(("value", "limit", "count", "cut"), [row[1:] for row in LIMITED], ids=[row[0] for row in LIMITED])
def test_the_limit_bounds_the_list(value: bytes, limit: int, count: int, cut: bool) -> None:
    """Never more mailboxes than the limit, and a flag where something was left out."""
    result = mailboxes(value, limit)
    assert len(result.list) == count
    assert ("too-many" in result.flags) == cut


@given(st.text(alphabet='aB@.,:;<>()[]"\\ \t\0\xe4=?', max_size=60), st.integers(0, 4))
def test_any_bytes_give_a_bounded_list(value: str, limit: int) -> None:
    """Whatever the bytes: documented flags, no more than the limit, and no address that reads as two."""
    result = mailboxes(value.encode("latin-1"), limit)
    assert len(result.list) <= limit
    assert set(result.flags) <= set(FLAGS)
    for each in result.list:
        assert each.address
        again = mailboxes(each.address.encode(), 2)
        assert [mailbox.address for mailbox in again.list] == [each.address]
        assert recipient(each.address).domain == each.address.rpartition("@")[2] or "no-domain" in result.flags
