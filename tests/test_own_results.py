"""Fields that claim to be ours: each form of a forged one is found, no other host's is, and many cost little."""

from __future__ import annotations

import sys
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.own_results import FORGED_LIMIT, READ, forged

OURS = "mx.example.com"
PASS = b"dmarc=pass header.from=example.org"
HEAD = b"From: person@example.org\r\nSubject: Hello\r\n"
BODY = b"\r\nAuthentication-Results: mx.example.com; none\r\n"
RESULTS, STAMP = "authentication-results", "x-gatepost-stamp"


def message(*fields: bytes) -> bytes:
    """A message with these fields, whole lines without the last line end, on top."""
    return b"".join(field + b"\r\n" for field in fields) + HEAD + BODY


class Row(NamedTuple):
    id: str
    field: bytes
    why: str


def of(value: bytes) -> bytes:
    return b"Authentication-Results: " + value


CLAIMS = [
    Row("plain", of(b"mx.example.com; " + PASS), "RFC 8601 2.2"),
    Row("none", of(b"mx.example.com; none"), "a result of nothing claims as well"),
    Row("no result", of(b"mx.example.com"), "nor does it need one"),
    Row("no semicolon", of(b"mx.example.com " + PASS), "some readers split at white space"),
    Row("capitals", of(b"MX.Example.COM; " + PASS), "names have no case"),
    Row("final dot", of(b"mx.example.com.; " + PASS), "the same name (RFC 1034 3.1)"),
    Row("final dots", of(b"mx.example.com...; " + PASS), "a reader may strip them all"),
    Row("version", of(b"mx.example.com 1; " + PASS), "RFC 8601 2.2"),
    Row("another version", of(b"mx.example.com 2; " + PASS), "a reader may not look at it"),
    Row("version by a slash", of(b"mx.example.com/1; " + PASS), "as methods have it"),
    Row("version with dots", of(b"mx.example.com. 1; " + PASS), "both"),
    Row("folded before", of(b"\r\n mx.example.com; " + PASS), "RFC 5322 2.2.3"),
    Row("folded behind", of(b"mx.example.com\r\n\t;\r\n\t" + PASS), "the same"),
    Row("folded inside", of(b"mx.exam\r\n ple.com; " + PASS), "a reader may take the white space out"),
    Row("tabs", b"Authentication-Results:\tmx.example.com\t;\t" + PASS, "white space"),
    Row("no space", b"Authentication-Results:mx.example.com;" + PASS, "none is needed"),
    Row("form feed", of(b"\x0bmx.example.com\x0c; " + PASS), "white space to some"),
    Row("comment before", of(b"(x) mx.example.com; " + PASS), "CFWS may stand there"),
    Row("comments before", of(b"(a(b)c)(d)\r\n (\\)) mx.example.com; " + PASS), "nested, quoted, folded"),
    Row("comment behind", of(b"mx.example.com (our own); " + PASS), "CFWS"),
    Row("comment touching", of(b"mx.example.com(x); " + PASS), "CFWS"),
    Row("comment inside", of(b"mx.exa(x)mple.com; " + PASS), "a reader may take comments out first"),
    Row("comments everywhere", of(b"m(1)x(2).(3)e(4)xample(5).(6)com; " + PASS), "the same"),
    Row("space around a dot", of(b"mx . example . com; " + PASS), "obsolete domains may (RFC 5322 4.4)"),
    Row("quoted", of(b'"mx.example.com"; ' + PASS), "a value may be a quoted string (RFC 2045 5.1)"),
    Row("quoted pairs", of(b'"m\\x.example\\.com"; ' + PASS), "the same string"),
    Row("quoted in part", of(b'"mx".example.com; ' + PASS), "a reader may take the quotes out"),
    Row("quoted with spaces", of(b'" mx.example.com "; ' + PASS), "a reader may trim it"),
    Row("angle brackets", of(b"<mx.example.com>; " + PASS), "a reader may strip them"),
    Row("comma", of(b"mx.example.com, " + PASS), "instead of the semicolon"),
    Row("equals sign", of(b"mx.example.com=1; " + PASS), "where a reader's word ends"),
    Row("unclosed comment", of(b"(mx.example.com; " + PASS), "where it ends is a guess"),
    Row("unclosed comment before", of(b"( mx.example.com; " + PASS), "the same"),
    Row("unclosed quote", of(b'"mx.example.com; ' + PASS), "the same"),
    Row("stray bracket", of(b") mx.example.com; " + PASS), "the same"),
    Row("semicolon before", of(b"; mx.example.com; " + PASS), "a reader may skip what is empty"),
    Row("encoded word, Q", of(b"=?utf-8?q?mx.example.com?=; " + PASS), "a reader may decode first (RFC 2047 forbids it)"),
    Row("encoded word, escapes", of(b"=?us-ascii?Q?mx=2Eexample=2Ecom?=; " + PASS), "the same"),
    Row("encoded word, B", of(b"=?utf-8?B?bXguZXhhbXBsZS5jb20=?=; " + PASS), "the same"),
    Row("encoded words", of(b"=?utf-8?q?mx.exa?= =?utf-8?q?mple.com?=; " + PASS), "the same, in two"),
    Row("NUL behind", of(b"mx.example.com\0; " + PASS), "a reader may end there"),
    Row("NUL and more", of(b"mx.example.com\0.example.net; " + PASS), "the same"),
    Row("NUL inside", of(b"mx.exam\0ple.com; " + PASS), "a reader may leave it out"),
    Row("control characters", of(b"\x01mx.exam\x7fple.com\x1b; " + PASS), "the same"),
    Row("8-bit space", of(b"mx.example.com\xa0; " + PASS), "a space to some"),
    Row("UTF-8 space", of(b"\xc2\xa0mx.example.com\xe3\x80\x80; " + PASS), "the same"),
    Row("zero width", of("mx.exam\u200bple.com; ".encode() + PASS), "cannot be seen"),
    Row("soft hyphen", of("mx.exam\u00adple.com; ".encode() + PASS), "IDNA's mapping takes it out"),
    Row("byte order mark", of(b"\xef\xbb\xbfmx.example.com; " + PASS), "cannot be seen"),
    Row("full width", of("\uff4d\uff58\uff0e\uff45xample.com; ".encode() + PASS), "IDNA's mapping makes ASCII of it"),
    Row("ideographic full stop", of("mx\u3002example\uff61com; ".encode() + PASS), "IDNA takes it for a dot (RFC 3490 3.1)"),
    Row("very long", of(b"(" + b"x" * 200_000 + b") mx.example.com; " + PASS), "beyond every limit of the parser"),
    Row("very long behind", of(b"mx.example.com; " + PASS + b" x=" + b"x" * 200_000), "the same"),
    Row("name in capitals", b"AUTHENTICATION-RESULTS: mx.example.com; " + PASS, "field names have no case"),
    Row("name in odd case", b"aUTHENTICATION-rESULTS: mx.example.com; " + PASS, "field names have no case"),
    Row("space before the colon", b"Authentication-Results : mx.example.com; " + PASS, "RFC 5322 4.5, obsolete"),
    Row("tab before the colon", b"Authentication-Results\t: mx.example.com; " + PASS, "RFC 5322 4.5, obsolete"),
]  # fmt: skip


@pytest.mark.parametrize("row", CLAIMS, ids=lambda row: row.id)
def test_a_forged_field_is_found(row: Row) -> None:
    """Each form in which somebody may read our name is a claim, on top and at the bottom of the head."""
    assert forged(message(row.field), OURS) == ((RESULTS, 1),), row.why
    assert forged(HEAD + row.field + b"\r\n" + BODY, OURS) == ((RESULTS, 1),), row.why


def test_the_table_of_claims_is_long_enough() -> None:
    """Thirty forms at least, each with a name of its own."""
    assert len({row.id for row in CLAIMS}) == len(CLAIMS) >= 30


OTHERS = [
    Row("another host", of(b"mx.example.net; " + PASS), "its own"),
    Row("a host below", of(b"a.mx.example.com; " + PASS), "another host"),
    Row("a host below, folded", of(b"a.\r\n mx.example.com; " + PASS), "another host"),
    Row("the domain above", of(b"example.com; " + PASS), "another host"),
    Row("a longer name", of(b"mx.example.com.example.net; " + PASS), "another host"),
    Row("a longer last label", of(b"mx.example.community; " + PASS), "another host"),
    Row("a hyphen", of(b"mx.example.com-backup; " + PASS), "another host"),
    Row("a longer first label", of(b"smx.example.com; " + PASS), "another host"),
    Row("our name in a comment", of(b"mx.example.net (for mx.example.com); " + PASS), "a remark"),
    Row("our name in a comment before", of(b"(mx.example.com) mx.example.net; " + PASS), "a remark"),
    Row("our name in a reason", of(b'mx.example.net; spf=fail reason="mx.example.com says so"'), "its words"),
    Row("our name in a property", of(b"mx.example.net; spf=pass smtp.helo=mx.example.com"), "what it checked"),
    Row("our name as a result", of(b"mx.example.net; mx.example.com; dmarc=pass"), "its words"),
    Row("no authserv-id", of(b"spf=pass smtp.helo=mx.example.com; " + PASS), "Microsoft 365's form: nobody says it"),
    Row("unclosed behind the semicolon", of(b"mx.example.net; spf=pass (mx.example.com"), "its name is certain"),
    Row("unclosed, without our name", of(b"mx.example.net (x; " + PASS), "nobody's name"),
    Row("encoded word of another", of(b"=?utf-8?q?mx.example.net?=; " + PASS), "another host"),
    Row("empty", of(b""), "nobody says it"),
    Row("semicolons", of(b";;;;"), "nobody says it"),
    Row("another alphabet", of("m\u0445.example.com; ".encode() + PASS), "a Cyrillic letter is another name"),
    Row("another field", b"Authentication-Results-Original: mx.example.com; " + PASS, "moved aside by another host"),
    Row("ARC's field", b"ARC-Authentication-Results: i=1; mx.example.com; " + PASS, "sealed by ARC, or worth nothing"),
    Row("Received", b"Received: by mx.example.com", "no results"),
    Row("Subject", b"Subject: Authentication-Results: mx.example.com; none", "no field"),
    Row("in a fold", b"Subject: x\r\n Authentication-Results: mx.example.com; none", "no field"),
]  # fmt: skip


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.id)
def test_another_host_s_field_is_left_alone(row: Row) -> None:
    """What another host says in its own name stays, whatever it says of us."""
    assert forged(message(row.field), OURS) == (), row.why


@pytest.mark.parametrize("name", ["b\u00fccher.example.com", "xn--bcher-kva.example.com", "B\u00dcCHER.example.com"])
def test_our_name_in_either_form(name: str) -> None:
    """A configured A-label is claimed by the U-label too (RFC 8601 2.5, internationalized messages)."""
    assert forged(message(of(f"{name}; ".encode() + PASS)), "xn--bcher-kva.example.com") == ((RESULTS, 1),)
    assert forged(message(of(f"a{name}; ".encode() + PASS)), "xn--bcher-kva.example.com") == ()


def test_a_stamp_of_a_stranger_is_always_one() -> None:
    """Nobody but us writes X-Gatepost-Stamp: whatever stands in it, it goes."""
    fields = [b"X-Gatepost-Stamp: v=1", b"x-gatepost-stamp :", b"X-GATEPOST-STAMP: \xff\0"]
    assert forged(message(*fields), OURS) == ((STAMP, 3), (STAMP, 2), (STAMP, 1))


def test_each_is_named_by_its_place_among_its_name() -> None:
    """The number counts the fields of that name, other hosts' included; the last comes first, so that no number shifts."""
    fields = [of(b"mx.example.net; none"), CLAIMS[0].field, b"X-Gatepost-Stamp: x", of(b"mx.example.net; none"),
              CLAIMS[4].field, b"X-Other: y", b"X-Gatepost-Stamp: y", of(b"a; none")]  # fmt: skip
    assert forged(message(*fields), OURS) == ((STAMP, 2), (RESULTS, 4), (STAMP, 1), (RESULTS, 2))


def test_taking_them_out_in_that_order_leaves_none() -> None:
    """As Postfix takes a field out by name and number, the message that is left has no claim and all else."""
    kept = [of(b"mx.example.net; none"), b"X-Other: y"]
    fields = [kept[0], *(row.field for row in CLAIMS[:20]), kept[1], *(row.field for row in CLAIMS[20:40])]
    for name, number in forged(message(*fields), OURS):
        places = [at for at, field in enumerate(fields) if field.partition(b":")[0].strip().lower().decode() == name]
        del fields[places[number - 1]]
    assert fields == kept


def test_behind_many_other_fields() -> None:
    """The whole head is looked at, however much of it the parser's limits would read."""
    many = [b"X-Other: y"] * 3_000
    assert forged(message(*many, CLAIMS[0].field), OURS) == ((RESULTS, 1),)
    assert forged(message(b"X-Long: " + b"y" * 2_000_000, CLAIMS[0].field), OURS) == ((RESULTS, 1),)


def test_nothing_behind_the_head_counts() -> None:
    """The body may quote what it likes."""
    assert forged(message(), OURS) == ()
    assert forged(b"\r\n" + CLAIMS[0].field + b"\r\n", OURS) == ()
    assert forged(b"", OURS) == ()


@pytest.mark.parametrize(("count", "told"), [(0, 0), (1, 1), (49, 49), (50, 50), (51, 51), (52, 51), (5_000, 51)])
def test_fifty_are_removed_and_more_refuse(count: int, told: int) -> None:
    """Up to FORGED_LIMIT each is named, the last first; of more, one more than that, and nobody removes those."""
    fields = [CLAIMS[0].field, b"X-Gatepost-Stamp: x"] * (count // 2) + [CLAIMS[0].field] * (count % 2)
    found = forged(message(*fields), OURS)
    assert len(found) == told
    assert FORGED_LIMIT == 50
    assert len(set(found)) == told


def test_other_hosts_fields_do_not_count() -> None:
    """A hundred results of others, as a long chain of forwarders leaves them, refuse nothing."""
    assert forged(message(*[of(b"mx.example.net; none")] * 100), OURS) == ()


def test_twenty_thousand_end_at_the_fifty_first() -> None:
    """20,000 claims of ours, and a head that is one long value of anything: there is an answer, and it is the same."""
    assert len(forged(message(*[CLAIMS[0].field] * 20_000), OURS)) == FORGED_LIMIT + 1
    for unit in UNITS:
        assert forged(message(of(unit * (READ // 2 // len(unit)))), OURS) == ()


UNITS = (b"mx ", b"(a) ", b"()", b'"', b"(", b"=?utf-8?q?m?= ", b"\xff", "\ufdfa".encode(), b"; ", b". ", b"a;\r\n ")


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_not_read_is_a_claim(unit: bytes) -> None:
    """Reading has a bound for the message: one value beyond it is taken out, many fields beyond it refuse the message."""
    long = of(unit * (2 * READ // len(unit)))
    assert forged(message(long, CLAIMS[0].field, long), OURS) == ((RESULTS, 3), (RESULTS, 2), (RESULTS, 1))
    short = of(unit * (500 // len(unit)))
    assert len(forged(message(*[short] * 1_000), OURS)) == FORGED_LIMIT + 1
    assert len(forged(message(*[of(b"")] * 50_000), OURS)) == FORGED_LIMIT + 1


@pytest.mark.parametrize("left", range(-3, 40))
def test_no_claim_hides_where_reading_ends(left: int) -> None:
    """A fold exactly at the bound does not make two values of one: `mx.exam` and `ple.com` are our name all the same."""
    before = of(b"x" * (READ - left - len(of(b"")) - 1))
    forms = (of(b"mx.exam\r\n ple.com; " + PASS), of(b"\r\n mx.example.com; " + PASS))
    for form in forms:
        assert (RESULTS, 2) in forged(message(before, form), OURS)


def test_a_head_of_many_fields_is_not_held() -> None:
    """A million fields of other names, 4 MB: no object is made of any (each cost 300 octets and two microseconds)."""
    raw = b"a:\r\n" * 1_000_000 + CLAIMS[0].field + b"\r\n" + BODY
    tracemalloc.start()
    try:
        assert forged(raw, OURS) == ((RESULTS, 1),)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(raw)
    finally:
        tracemalloc.stop()


def test_the_work_is_in_proportion() -> None:
    """Four times as many fields of another host are four times the calls, not sixteen times."""
    field = of(b"(a) mx.example.net; spf=pass (x) smtp.mailfrom=example.com; " + PASS)
    few, many = (_calls(message(*[field] * count)) for count in (500, 2_000))
    assert many < 4.1 * few


def _calls(raw: bytes) -> int:
    """How many functions are called, C's included."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        assert forged(raw, OURS) == ()
    finally:
        sys.setprofile(before)
    return calls


@given(st.binary(max_size=300))
def test_any_head_ends(raw: bytes) -> None:
    """Whatever octets come, there is an answer, and it names no more than there are."""
    assert len(forged(raw, OURS)) <= raw.lower().count(b":")
    assert len(forged(of(raw), OURS)) <= 1 + raw.count(b"\n")
