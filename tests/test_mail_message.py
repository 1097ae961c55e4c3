"""One message as a whole: what its fields say, what the limits cut, and the digest that two hosts share."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from gatepost.mail.canonical import crlf
from gatepost.mail.headers import FLAGS
from gatepost.mail.message import LIMIT_FLAGS, Message, parse
from gatepost.settings import ParserLimits

ROOT = str(Path(__file__).parent.parent)

LIMITS = ParserLimits()

REPLY = b"""\
Received: from mail.example.net (mail.example.net [192.0.2.7]) by mx.example.com (Postfix) with ESMTPS id 4abC
 for <reply+k@in.example.com>; Mon, 5 Jan 2026 10:00:00 +0000 (UTC)
From: =?utf-8?q?J=C3=B6rg?= <Joerg@Example.NET>
To: reply+k@in.example.com, "Lee, Ann" <ann@example.org>
Cc: one@example.org
Cc: two@example.org
Subject: Re: =?utf-8?q?caf=C3=A9?=
Date: Mon, 5 Jan 2026 10:59:58 +0100
Message-ID: <abc@example.net>
In-Reply-To: <reply-k.1@in.example.com>
References: <first@in.example.com>
 <reply-k.1@in.example.com>
Content-Type: text/plain; charset=utf-8

Subject: not this one
"""


def message(data: bytes, limits: ParserLimits = LIMITS) -> Message:
    """The message that pipe(8) would give as `data`."""
    return parse(crlf(data), limits)


def test_a_reply_says_what_its_fields_say() -> None:
    """Every field of interest is read; the body is not."""
    found = message(REPLY)
    assert found.subject == "Re: caf\xe9"
    assert found.date == "Mon, 5 Jan 2026 10:59:58 +0100"
    assert found.message_id == "<abc@example.net>"
    assert found.in_reply_to == ("<reply-k.1@in.example.com>",)
    assert found.references == ("<first@in.example.com>", "<reply-k.1@in.example.com>")
    assert [(each.address, each.name) for each in found.from_.list] == [("Joerg@example.net", "J\xf6rg")]
    assert [each.address for each in found.to.list] == ["reply+k@in.example.com", "ann@example.org"]
    assert [each.address for each in found.cc.list] == ["one@example.org", "two@example.org"]
    assert found.content_type.type == "text/plain"
    assert found.flags == ()
    assert found.raw[found.headers.body_start :] == b"Subject: not this one\r\n"


def test_a_message_without_fields_says_nothing() -> None:
    """What is absent is empty; the type is RFC 2045's default."""
    found = message(b"\nbody\n")
    assert (found.subject, found.date, found.message_id, found.in_reply_to, found.references) == ("", "", "", (), ())
    assert (found.from_.list, found.to.list, found.cc.list) == ((), (), ())
    assert found.content_type.type == "text/plain"
    assert found.limits_hit == ()


# id, head, limits changed, flags
FLAGGED: list[tuple[str, bytes, dict[str, int], tuple[str, ...]]] = [
    ("references at the limit", b"References: <a@b> <c@d>", {"references": 2}, ()),
    ("references", b"References: <a@b> <c@d> <e@f>", {"references": 2}, ("too-many-references",)),
    ("references in two fields", b"References: <a@b>\nReferences: <c@d> <e@f>", {"references": 2}, ("too-many-references",)),
    ("parameters", b"Content-Type: text/plain; a=b; c=d", {"parameters": 1}, ("too-many-parameters",)),
    ("addresses in From", b"From: a@x, b@x", {"addresses": 1}, ("too-many-addresses",)),
    ("addresses in To", b"To: a@x, b@x", {"addresses": 1}, ("too-many-addresses",)),
    ("addresses in two Cc", b"Cc: a@x\nCc: b@x", {"addresses": 1}, ("too-many-addresses",)),
    ("addresses: each name has its own", b"From: a@x\nTo: b@x\nCc: c@x", {"addresses": 1}, ()),
    ("fields", b"A: 1\nB: 2", {"header_fields": 1}, ("too-many-fields",)),
    ("a long field", b"A: 0123456789", {"field_bytes": 8}, ("field-too-long",)),
    ("a large head", b"A: 1\nB: 2\nC: 3", {"header_bytes": 8}, ("header-too-large",)),
]


@pytest.mark.parametrize(("head", "limits", "flags"), [row[1:] for row in FLAGGED], ids=[row[0] for row in FLAGGED])
def test_what_a_limit_cut_is_named(head: bytes, limits: dict[str, int], flags: tuple[str, ...]) -> None:
    """Past a limit the message goes on with a flag, among those that name their limit; raw is whole."""
    data = head + b"\n\nbody\n"
    found = message(data, LIMITS.replace(**limits))
    assert found.limits_hit == flags
    assert {LIMIT_FLAGS[flag] for flag in flags} <= set(limits)
    assert found.raw == crlf(data)
    assert found.raw[found.headers.body_start :] == b"body\r\n"
    assert len(found.references) <= found.limits.references
    assert all(len(each.list) <= found.limits.addresses for each in (found.from_, found.to, found.cc))


def test_a_strange_head_is_a_flag_but_no_limit() -> None:
    """`flags` has the head's own; `limits_hit` only what a limit cut, and each names a setting that exists."""
    found = message(b"nonsense\nSubject: a\0\n")
    assert found.flags == ("missing-colon", "no-blank-line", "nul-in-header")
    assert found.limits_hit == ()
    settings = vars(LIMITS)
    assert set(LIMIT_FLAGS.values()) <= set(settings)
    assert {flag for flag in LIMIT_FLAGS if not flag.startswith("too-many-")} <= set(FLAGS)


def test_the_newest_references_are_kept() -> None:
    """Over several fields, too, the last ones stay."""
    found = message(b"References: <a@b> <c@d>\nReferences: <e@f>\n\n", LIMITS.replace(references=2))
    assert found.references == ("<c@d>", "<e@f>")


OWN = ("mx1.example.com", "mx2.example.com")
STRANGER = b"Received: from a by mail.example.net; Mon\nFrom: ann@example.org\n\nbody\n"

# id, what stands in front of a stranger's message, how much of it is left out: all or nothing
FRONTS = [
    ("nothing", b"", True),
    ("one Received", b"Received: from mail.example.net by mx1.example.com id 1; Mon\n", True),
    ("folded, capitals, final dot", b"Received: from mail.example.net\n\tby MX1.Example.COM. (Postfix)\n\tid 1; Mon\n", True),
    ("two hosts", b"Received: from mx1.example.com by mx2.example.com\nReceived: from x by mx1.example.com\n", True),
    ("our Authentication-Results", b"Authentication-Results: mx1.example.com; spf=pass\n", True),
    ("with comment and version", b'Authentication-Results: (x) "MX1.example.com." 1; none\n', True),
    ("stamp", b"X-Gatepost-Stamp: t=1\n", True),
    ("all three", b"X-Gatepost-Stamp: 1\nAuthentication-Results: mx2.example.com; none\nReceived: by mx2.example.com\n", True),
    ("a stranger's Received", b"Received: from x by mx1.example.net\n", False),
    ("a stranger's that names us", b"Received: from mx1.example.com by x.example.net\n", False),
    ("ours only in a comment", b"Received: by x.example.net (by mx1.example.com)\n", False),
    ("a stranger's Authentication-Results", b"Authentication-Results: x.example.net; spf=pass\n", False),
    ("no authserv-id", b"Authentication-Results: ; mx1.example.com\n", False),
    ("another field", b"X-Other: mx1.example.com\n", False),
    ("another field before ours", b"X-Other: 1\nReceived: by mx1.example.com\n", False),
    ("a line without colon before ours", b"nonsense\nReceived: by mx1.example.com\n", False),
]


@pytest.mark.parametrize(("front", "left_out"), [row[1:] for row in FRONTS], ids=[row[0] for row in FRONTS])
def test_the_digest_leaves_out_what_our_hosts_put_in_front(front: bytes, left_out: bool) -> None:
    """From the top, up to the first field that is not ours."""
    plain = hashlib.sha256(crlf(STRANGER)).hexdigest()
    whole = hashlib.sha256(crlf(front + STRANGER)).hexdigest()
    assert message(front + STRANGER).sha256(OWN) == (plain if left_out else whole)


def test_the_digest_without_hosts_is_that_of_raw() -> None:
    """Where no host is ours, nothing is left out; nor is a Received without `by`."""
    for data in (STRANGER, b"Received: x\n" + STRANGER, b""):
        assert message(data).sha256(()) == hashlib.sha256(crlf(data)).hexdigest()


def test_reading_a_message_imports_little() -> None:
    """The pipe script reads a message without the modules that make a start slow."""
    code = (
        "import sys\n"
        "from gatepost.mail.message import parse\n"
        "from gatepost.settings import ParserLimits\n"
        "found = parse(sys.stdin.buffer.read(), ParserLimits())\n"
        "assert found.subject and found.from_.list and found.references and not found.limits_hit\n"
        "slow = 'dataclasses typing enum re pathlib logging email base64 functools contextlib collections hashlib'\n"
        "print(sorted(set(sys.modules) & set(slow.split())))\n"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, input=crlf(REPLY), capture_output=True, check=True, env={"PYTHONPATH": ROOT})
    assert done.stdout == b"[]\n"
