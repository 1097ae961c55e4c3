"""Whom a message without an envelope is for."""

from __future__ import annotations

import pytest

from gatepost.discovery import discover
from gatepost.keys.reply_ids import mint as mint_id
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import parse
from gatepost.settings import DISCOVERY, ParserLimits
from tests.test_policy import DOMAIN, EXPIRED, LIVE, NOW, STRANGERS_SECRET, key, settings

OURS, OTHER = f"reply+{LIVE}@{DOMAIN}", f"reply+{key(b'other')}@{DOMAIN}"
SUPPORT = f"support@{DOMAIN}"
HOP = "Received: from a by b.example.org with ESMTP id 1 for <{}>; Fri, 15 Jan 2027 08:00:00 +0000"
PARENT = mint_id(LIVE, b"12345678", DOMAIN)
OLD = mint_id(EXPIRED, b"12345678", DOMAIN)
FORGED = mint_id(key(secret=STRANGERS_SECRET), b"12345678", DOMAIN)

ROWS = [
    *[(f"{title}", [f"{title}: {OURS}"], [(OURS, title)], "each field alone") for title in DISCOVERY if title != "Received"],
    ("received", [HOP.format("x@example.org"), HOP.format(OURS)], [(OURS, "Received")], "every `for` is asked"),
    ("order", [f"Cc: {SUPPORT}", f"Delivered-To: {OTHER}", f"To: {OURS}"],
     [(OURS, "To"), (OTHER, "Delivered-To"), (SUPPORT, "Cc")], "the setting's order, not the message's"),
    ("several in one", [f"To: a@example.org, Desk <{SUPPORT}>, <{OURS}>"], [(SUPPORT, "To"), (OURS, "To")], "as written"),
    ("once", [f"To: {OURS}", f"Delivered-To: {OURS.upper()}"], [(OURS, "To")], "one delivery, however often it is named"),
    ("a key that is none", [f"To: reply+x@{DOMAIN}"], [(f"reply+x@{DOMAIN}", "To")], "the policy refuses it, by name"),
    ("nobody of ours", ["To: a@example.org"], [], "no delivery"),
    ("postmaster", [f"To: postmaster@{DOMAIN}"], [], "no route's"),
    ("thread", ["To: list@example.org", f"In-Reply-To: {PARENT}"], [(OURS, "In-Reply-To")], "a list rewrote To"),
    ("references", [f"References: <x@example.org>,{PARENT}"], [(OURS, "References")], "joined by a comma"),
    ("bare", [f"References: {PARENT[1:-1]}"], [(OURS, "References")], "without its brackets"),
    ("without random", [f"In-Reply-To: <reply-{LIVE}@{DOMAIN}>"], [(OURS, "In-Reply-To")], "GitLab's form"),
    ("expired thread", [f"In-Reply-To: {OLD}"], [(f"reply+{EXPIRED}@{DOMAIN}", "In-Reply-To")], "ours: the policy says expired"),
    ("forged thread", [f"In-Reply-To: {FORGED}"], [], "anybody can write one"),
    ("field before thread", [f"To: {SUPPORT}", f"In-Reply-To: {OLD}"], [(SUPPORT, "To")], "an address is the better word"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "expected"), [row[1:3] for row in ROWS], ids=[f"{row[0]}: {row[3]}" for row in ROWS])
def test_a_head_names_its_recipients(head: list[str], expected: list[tuple[str, str]]) -> None:
    """Every address of ours, in the order of the setting, each once; else the thread's."""
    message = parse(from_pipe(("\n".join(head) + "\n\nHello.\n").encode()), ParserLimits())
    assert [(each.recipient, each.found_in) for each in discover(message, settings(), now=NOW)] == expected


def test_the_fields_and_their_order_are_a_setting() -> None:
    """Only what is listed is asked."""
    message = parse(from_pipe(f"To: {SUPPORT}\nCc: {OURS}\n\n".encode()), ParserLimits())
    assert [each.recipient for each in discover(message, settings(discovery=("Cc",)), now=NOW)] == [OURS]


def test_a_flood_of_addresses_is_bounded() -> None:
    """No more than parser.addresses are looked at."""
    flood = "To: " + ", ".join(f"x{number}@example.org" for number in range(2000)) + f"\nCc: {OURS}\n\n"
    assert discover(parse(from_pipe(flood.encode()), ParserLimits()), settings(), now=NOW) == ()
