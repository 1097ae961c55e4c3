"""Fields that a stranger writes in our name, through a real Postfix: none is left, and what is another's is.

Removal goes by number among the fields of one name, so Postfix and gatepost must count alike, whatever the head looks like.
Needs root and the package postfix.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from demo.environment import Environment
from demo.postfix_instance import Sent
from tests.integration.conftest import TIMING
from tests.integration.milter_host import MilterHost, fields, handed, milter_host

#: What every forged field says, and nothing else does.
MARK: Final = b"header.from=forged.example.org"
_A: Final = b"Authentication-Results"
_US: Final = b"mx.example.com"
_PASS: Final = b"; dmarc=pass " + MARK

#: id, the field or fields as a stranger writes them, LF line ends; why somebody may take it for ours.
FORMS: Final[list[tuple[str, bytes, str]]] = [
    ("plain", _A + b": " + _US + _PASS, "as we write it"),
    ("capitals", _A.upper() + b": " + _US.upper() + _PASS, "names have no case"),
    ("small", _A.lower() + b": " + _US + _PASS, "the same"),
    ("final dot", _A + b": " + _US + b"." + _PASS, "the same name"),
    ("space before the colon", _A + b" : " + _US + _PASS, "RFC 5322 4.5"),
    ("tab before the colon", _A + b"\t: " + _US + _PASS, "the same"),
    ("many spaces before the colon", _A + b"     : " + _US + _PASS, "the same"),
    ("no space behind the colon", _A + b":" + _US + _PASS, "optional"),
    ("tabs", _A + b":\t\t" + _US + b"\t" + _PASS, "white space"),
    ("folded before the name", _A + b":\n " + _US + _PASS, "RFC 5322 2.2.3"),
    ("folded many times", _A + b":\n \n\t\n " + _US + b"\n " + _PASS, "obsolete folding"),
    ("folded behind the name", _A + b": " + _US + b"\n\t" + _PASS, "as we write it"),
    ("version", _A + b": " + _US + b" 1" + _PASS, "RFC 8601 2.2"),
    ("version behind a slash", _A + b": " + _US + b"/1" + _PASS, "some readers part it"),
    ("no space at all", _A + b":" + _US + b";dmarc=pass " + MARK, "as terse as can be"),
    ("quoted", _A + b': "' + _US + b'"' + _PASS, "a value may be quoted"),
    ("quoted pairs", _A + b': "mx.ex\\ample.com"' + _PASS, "the same name"),
    ("comment before", _A + b": (see below) " + _US + _PASS, "comments are nothing"),
    ("nested comments", _A + b": (a (b) \\) c)" + _US + _PASS, "the same"),
    ("comment behind", _A + b": " + _US + b" (us)" + _PASS, "the same"),
    ("comment with another name", _A + b": (mx.example.net) " + _US + _PASS, "the same"),
    ("a quote that nothing closes", _A + b': "mx.example.com; dmarc=pass ' + MARK, "who knows what a reader makes of it"),
    ("a comment that nothing closes", _A + b": (mx.example.com; dmarc=pass " + MARK, "the same"),
    ("twice in a row", (_A + b": " + _US + _PASS + b"\n") * 2 + _A + b": " + _US + _PASS, "each is removed"),
    ("long", _A + b": " + _US + _PASS + b"\n " + b"; x=y" * 8_000, "Postfix cuts a field at 60,000 octets"),
    ("8-bit behind", _A + b": " + _US + b"; dmarc=pass reason=\"\xc3\xa4\xff\" " + MARK, "octets of any kind"),
    ("bare CR", _A + b": " + _US + b"\r; dmarc=pass " + MARK, "RFC 5322 2.2 forbids it"),
    ("NUL behind", _A + b": " + _US + b"\0" + _PASS, "a C string would end there"),
    ("in an encoded word", _A + b": =?us-ascii?q?mx=2Eexample=2Ecom?=" + _PASS, "no reader should decode it"),
    ("old-style version", _A + b": " + _US + b" (v1) 1 (x)" + _PASS, "a version with comments"),
    ("a stamp", b"X-Gatepost-Stamp: v=1; t=00; " + MARK, "our own field"),
    ("a stamp in small letters", b"x-gatepost-stamp:\n v=1; " + MARK, "the same"),
    ("a stamp, space before the colon", b"X-Gatepost-Stamp : " + MARK, "the same"),
    ("a whole head of ours", b"X-Gatepost-Stamp: v=1; t=" + b"0" * 32 + b"; q=A; c=127.0.0.1; s=yes; m=dmarc;\n\tb=" + b"0" * 64
     + b"\n" + _A + b": " + _US + _PASS, "as it looks"),
    ("an empty one before", _A + b":\n" + _A + b": " + _US + _PASS, "it counts as one of the name"),
    ("in the middle of odd lines", b"X-Odd:\nX-Tab\t: y\nx@y: z\n" + _A + b": " + _US + _PASS, "fields with strange names"),
]  # fmt: skip
#: What stands around it: another host's results, which must all be there afterwards, in their order.
KEPT: Final = [
    b"Authentication-Results: other1.example.net; spf=pass smtp.mailfrom=a@example.org",
    b"authentication-results: mx.example.com.evil.example.net; spf=pass smtp.mailfrom=b@example.org",
    b"Authentication-Results : other2.example.net;\n\tdkim=pass header.d=example.org",
    b"Authentication-Results: other3.example.net; x=mx.example.com",
    b"Authentication-Results: notmx.example.com; spf=pass smtp.mailfrom=d@example.org",
    b"X-Authentication-Results: mx.example.com; spf=pass smtp.mailfrom=e@example.org",
    b"Old-Authentication-Results: mx.example.com; spf=pass smtp.mailfrom=f@example.org",
]


@pytest.fixture(scope="module")
def host(milter_tree: Environment) -> Iterator[MilterHost]:
    """No DNS: what is ours says `none`."""
    with milter_host(milter_tree, more=TIMING) as made:
        yield made


def send(host: MilterHost, number: int, head: bytes) -> tuple[Sent, str]:
    """The message with that head, and its recipient."""
    to = host.made.address(host.made.key(f"f{number}"))
    person = b"From: person@example.org\nTo: list@example.org\nSubject: Hello\nMessage-ID: <f%d@example.org>\n" % number
    with host.session() as session:
        return session.message("person@example.org", [to], person + head + b"\n\nHello.\n"), to


def handed_to(host: MilterHost, sent: Sent, to: str) -> bytes:
    """The message as the app has it."""
    host.postfix.wait_delivery(sent.queue_id)
    data: list[dict[str, Any]] = [each for each in handed(host.app) if each["envelope"]["recipient"] == to]
    return base64.b64decode(data[-1]["raw"])


def head_of(raw: bytes) -> bytes:
    return raw.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("number", range(len(FORMS)), ids=[f"{row[0]}: {row[2]}" for row in FORMS])
def test_no_forged_field_is_left(host: MilterHost, number: int) -> None:
    """Of the fields in our name only the milter's own is left, on top; every other host's is there, in order, whole."""
    forged = FORMS[number][1]
    around = [KEPT[0], forged, *KEPT[1:4], forged, *KEPT[4:], forged]
    sent, to = send(host, number, b"\n".join(around))
    assert sent.queue_id, sent
    raw = handed_to(host, sent, to)
    head = head_of(raw)
    assert MARK not in head
    assert raw.endswith(b"\r\n\r\nHello.\r\n"), "the head is whole, and ends where it did"
    ours, *others = fields(raw, "authentication-results")
    assert ours == "mx.example.com; none"
    assert [value for value in others if value] == [
        re.sub(rb"\n(?=[ \t])", b"", each).partition(b":")[2].strip().decode() for each in KEPT[:5]]  # fmt: skip
    assert len(fields(raw, "x-gatepost-stamp")) == 1
    for name in ("x-authentication-results", "old-authentication-results"):
        assert len(fields(raw, name)) == 1


def test_thirty_forms() -> None:
    """At least thirty, each with a name of its own."""
    assert len({row[0] for row in FORMS}) == len(FORMS) >= 30


def test_past_the_milter_they_stay(host: MilterHost) -> None:
    """The control: nobody else takes them away, and nobody believes them."""
    with host.session("plain") as session:
        to = host.made.address(host.made.key("control"))
        data = b"From: person@example.org\nTo: list@example.org\n" + FORMS[0][1] + b"\n\nHello.\n"
        sent = session.message("person@example.org", [to], data)
    assert MARK in head_of(handed_to(host, sent, to))
    assert handed(host.app)[-1]["sender"]["verified"] == "unknown"


@pytest.mark.parametrize("count", [1, 2, 49, 50])
def test_so_many_are_removed(host: MilterHost, count: int) -> None:
    """Up to fifty claims among as many of another's: all removed, none of the other's."""
    pair = KEPT[0] + b"\n" + FORMS[0][1] + b"\n"
    sent, to = send(host, 100 + count, (pair * count)[:-1])
    raw = handed_to(host, sent, to)
    assert MARK not in head_of(raw)
    assert len(fields(raw, "authentication-results")) == count + 1


@pytest.mark.parametrize("count", [51, 1_000, 20_000])
def test_more_are_refused(host: MilterHost, count: int) -> None:
    """550 5.6.0, nothing is removed one by one, and Postfix's cleanup is well: the next message passes."""
    start = len(host.log())
    sent, _ = send(host, 100_000 + count, (FORMS[0][1] + b"\n") * (count - 1) + FORMS[0][1])
    assert str(sent.data) == "550 5.6.0 Too many forged header fields"
    (line,) = [line for line in host.log(start) if line.door == "milter"]
    assert (line.action, line.rule, line.detail) == ("reject", "forged-results", "more than 50 fields claim to be ours")
    sent, to = send(host, 200_000 + count, KEPT[0])
    assert handed_to(host, sent, to)
    assert not [line for line in host.postfix.complaints() if "cleanup" in line]


def test_many_of_another_host_are_nobody_s_claim(host: MilterHost) -> None:
    """Two thousand results of other hosts pass, all of them: as many as are read (own_results.READ)."""
    sent, to = send(host, 300_000, (KEPT[0] + b"\n") * 1_999 + KEPT[0])
    raw = handed_to(host, sent, to)
    assert len(fields(raw, "authentication-results")) == 2_001
