"""gatepost.beside: our domains beside others'. A real Postfix wired so stands in tests/integration/test_beside.py."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gatepost.beside import beside
from gatepost.doctor.postfix_instance import PostfixError
from gatepost.settings import LmtpSettings
from tests.test_wiring import GIVEN, milter, parameters, render

FOLDER = GIVEN["folder"]
RECIPIENTS, ALIASES = f"regexp:{FOLDER}/recipients.regexp", f"regexp:{FOLDER}/aliases.regexp"
TRANSPORT = f"texthash:{FOLDER}/transport"
OURS = render("reply+%{key}@in.example.com", "help@b.example.com")
TIMES = "connect_timeout=10s, command_timeout=30s, content_timeout=300s"
MILTER = f"{{unix:gatepost/milter.sock, {TIMES}, default_action=accept}}"
SOCKET = "unix:/var/spool/postfix/gatepost/milter.sock"

#: A Postfix as it comes: what `postconf -x` says of the settings that are asked for.
DEFAULTS = {
    "bounce_queue_lifetime": "5d",
    "mailbox_size_limit": "51200000",
    "maximal_backoff_time": "4000s",
    "maximal_queue_lifetime": "5d",
    "message_size_limit": "10240000",
    "minimal_backoff_time": "300s",
    "mydestination": "mx.example.com, localhost",
    "relay_domains": "",
    "smtpd_discard_ehlo_keywords": "",
    "smtpd_reject_unlisted_recipient": "yes",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination",
    "virtual_alias_domains": "",
    "virtual_mailbox_limit": "51200000",
}
#: What is added to it.
ADDED = {
    "virtual_mailbox_domains": "in.example.com, b.example.com",
    "transport_maps": TRANSPORT,
    "virtual_mailbox_maps": RECIPIENTS,
    "virtual_alias_maps": ALIASES,
    "gatepost_destination_recipient_limit": "1",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
    "smtpd_forbid_bare_newline": "yes",
    "smtpd_forbid_bare_newline_exclusions": "",
    "smtpd_forbid_unauth_pipelining": "yes",
    "smtpd_data_restrictions": "reject_unauth_pipelining",
    "smtpd_discard_ehlo_keywords": "dsn, silent-discard",
    "enable_long_queue_ids": "yes",
    "message_size_limit": "26214400",
}


def added(written: dict[str, str], *, fragments: dict[str, str] = OURS, **effective: str) -> dict[str, str]:
    """What is added to a Postfix with these settings; `effective`: what Postfix makes of them where that is not the same."""
    knows = {**DEFAULTS, **written, **effective}
    made = beside(fragments, written=written, effective=knows, folder=FOLDER, person=GIVEN["person"])
    return parameters(made["main.cf"])


def with_milter(action: Any = "accept") -> dict[str, str]:
    """The fragments with a milter."""
    return render("reply+%{key}@in.example.com", "help@b.example.com", milter=milter(SOCKET, action=action))


#: id, main.cf, what is added otherwise than to a bare one (None: that setting is not touched)
BESIDE: list[tuple[str, dict[str, str], dict[str, str | None]]] = [
    ("a bare one", {}, {}),
    (
        "lists that others have set: ours behind theirs, so that their answers stay",
        {"virtual_mailbox_domains": "theirs.example", "virtual_mailbox_maps": "hash:/t", "virtual_alias_maps": "hash:/v"},
        {
            "virtual_mailbox_domains": "theirs.example, in.example.com, b.example.com",
            "virtual_mailbox_maps": f"hash:/t, {RECIPIENTS}",
            "virtual_alias_maps": f"hash:/v, {ALIASES}",
        },
    ),
    (
        "domains that are theirs by default: Postfix's default is $virtual_mailbox_maps, and would end",
        {"virtual_mailbox_maps": "hash:/t"},
        {
            "virtual_mailbox_domains": "$virtual_mailbox_maps, in.example.com, b.example.com",
            "virtual_mailbox_maps": f"hash:/t, {RECIPIENTS}",
        },
    ),
    (
        "aliases of an old name: the default is $virtual_maps",
        {"virtual_maps": "hash:/v"},
        {"virtual_alias_maps": f"$virtual_maps, {ALIASES}"},
    ),
    (
        "a transport table of theirs: ours in front, for theirs may have a *",
        {"transport_maps": "hash:/t"},
        {"transport_maps": f"{TRANSPORT}, hash:/t"},
    ),
    (
        "a list with an expression in it: it stays as it was written",
        {"virtual_mailbox_domains": "${x?{a.example} : {b.example}} c.example"},
        {"virtual_mailbox_domains": "${x?{a.example} : {b.example}} c.example, in.example.com, b.example.com"},
    ),
    (
        "one of our domains is there already, in other letters",
        {"virtual_mailbox_domains": "IN.example.com"},
        {"virtual_mailbox_domains": "IN.example.com, b.example.com"},
    ),
    (
        "who may relay still may: only the word that ends in 4xx is another",
        {"smtpd_relay_restrictions": "permit_mynetworks check_client_access hash:/c defer_unauth_destination"},
        {"smtpd_relay_restrictions": "permit_mynetworks, check_client_access, hash:/c, reject_unauth_destination"},
    ),
    (
        "restrictions that end otherwise are theirs",
        {"smtpd_relay_restrictions": "permit_mynetworks, reject"},
        {"smtpd_relay_restrictions": None},
    ),
    (
        "what they have already is not said again",
        {"smtpd_data_restrictions": "reject_unauth_pipelining, permit", "enable_long_queue_ids": "yes"},
        {"smtpd_data_restrictions": None, "enable_long_queue_ids": None},
    ),
    (
        "other restrictions at DATA: ours in front, for theirs may end in permit",
        {"smtpd_data_restrictions": "reject_multi_recipient_bounce, permit"},
        {"smtpd_data_restrictions": "reject_unauth_pipelining, reject_multi_recipient_bounce, permit"},
    ),
    (
        "keywords are added",
        {"smtpd_discard_ehlo_keywords": "chunking, dsn"},
        {"smtpd_discard_ehlo_keywords": "chunking, dsn, silent-discard"},
    ),
    (
        "a device of theirs stays excepted: somebody has thought about it",
        {"smtpd_forbid_bare_newline_exclusions": "192.0.2.7"},
        {"smtpd_forbid_bare_newline_exclusions": None},
    ),
    ("a larger message of theirs", {"message_size_limit": "52428800"}, {"message_size_limit": None}),
    ("no limit of theirs", {"message_size_limit": "0"}, {"message_size_limit": None}),
    (
        "no larger than a mailbox of theirs, or local(8) and virtual(8) refuse to start",
        {"mailbox_size_limit": "20000000"},
        {"message_size_limit": "20000000"},
    ),
    ("mailboxes without limit", {"mailbox_size_limit": "0", "virtual_mailbox_limit": "0"}, {}),
    (
        "times below ours grow, each by the unit that Postfix reads it with",
        {"maximal_queue_lifetime": "1", "bounce_queue_lifetime": "2h", "minimal_backoff_time": "20", "maximal_backoff_time": "1h"},
        {
            "maximal_queue_lifetime": "432000s",
            "bounce_queue_lifetime": "432000s",
            "minimal_backoff_time": "300s",
            "maximal_backoff_time": "4000s",
        },
    ),
    ("times above ours stay", {"maximal_queue_lifetime": "7d", "minimal_backoff_time": "1h"}, {}),
    (
        "what the others live by is never touched",
        {
            "mydestination": "theirs.example",
            "relay_domains": "r.example",
            "virtual_alias_domains": "a.example",
            "virtual_transport": "lmtp:unix:private/dovecot",
            "local_recipient_maps": "hash:/l",
            "delay_warning_time": "4h",
            "recipient_delimiter": "-",
        },
        {},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("written", "more"), [row[1:] for row in BESIDE], ids=[row[0] for row in BESIDE])
def test_ours_is_added_to_what_is_there(written: dict[str, str], more: dict[str, str | None]) -> None:
    """Added where a list is shared, the larger where a number is, and nothing else touched; once it is in place, nothing."""
    wanted = {name: value for name, value in {**ADDED, **more}.items() if value is not None}
    assert added(written) == wanted
    assert added({**written, **wanted}) == {}


OTHER = "inet:localhost:11332"
MILTERS = [
    ("", MILTER, "none there"),
    (OTHER, f"{OTHER}, {MILTER}", "ours is the last, and sees what theirs has found"),
    (f"{{ {OTHER}, default_action = accept }}", f"{{ {OTHER}, default_action = accept }}, {MILTER}", "theirs in braces"),
    (f"{{unix:gatepost/milter.sock, default_action=tempfail}}, {OTHER}", f"{OTHER}, {MILTER}", "ours with other times: once"),
    (f"unix:gatepost/milter.sock {OTHER}", f"{OTHER}, {MILTER}", "ours without times: once"),
    (f"{OTHER}, {MILTER}", None, "in place"),
]


@pytest.mark.parametrize(("there", "wanted", "why"), MILTERS, ids=[row[2] for row in MILTERS])
def test_our_milter_stands_behind_theirs(there: str, wanted: str | None, why: str) -> None:
    """Their milters stay, in their order; ours comes last, and once."""
    found = added({"smtpd_milters": there} if there else {}, fragments=with_milter())
    assert found.get("smtpd_milters") == wanted, why


LMTPS = [
    (None, "gatepost:", ["gatepost"], "the script"),
    ("thin", "gatepost-thin:", ["gatepost", "gatepost-lmtp", "gatepost-thin"], "the thin script has a limit of its own"),
    ("lmtp", "gatepost-lmtp:unix:gatepost/l", ["gatepost", "gatepost-lmtp", "gatepost-thin"], "LMTP"),
]


@pytest.mark.parametrize(("rung", "transport", "limits", "why"), LMTPS, ids=[row[3] for row in LMTPS])
def test_each_rung(rung: Any, transport: str, limits: list[str], why: str) -> None:
    """Our domains, and no other, go where virtual_transport would send them; each service has its limit."""
    lmtp = LmtpSettings(socket="unix:/var/spool/postfix/gatepost/l", wiring=rung) if rung else None
    fragments = render("reply+%{key}@in.example.com", "help@b.example.com", lmtp=lmtp)
    made = beside(fragments, written={}, effective=DEFAULTS, folder=FOLDER, person=GIVEN["person"])
    lines = [line for line in made["transport"].splitlines() if line and not line.startswith("#")]
    assert lines == [f"in.example.com  {transport}", f"b.example.com  {transport}"], why
    found = parameters(made["main.cf"])
    assert sorted(name.partition("_")[0] for name in found if name.endswith("_destination_recipient_limit")) == limits
    assert {name for name in fragments if made[name] == fragments[name]} == {"master.cf", "recipients.regexp", "status.regexp"}


PEOPLE = [
    ("postmaster@in.example.com", True, "RFC 5321 4.5.1"),
    ("ABUSE@b.example.com", True, "RFC 2142; regexp tables ignore case"),
    ("postmaster", False, "bare: the others'"),
    ("postmaster@[192.0.2.1]", False, "an address literal: the others'"),
    ("postmaster@theirs.example", False, "another domain"),
    ("postmaster@mx.example.com", False, "this host's own name"),
    ("root@mx.example.com", False, "what cron writes: the others'"),
    ("postmaster@inxexample.com", False, "a dot is a dot"),
    ("postmaster@in.example.com.evil.example", False, "anchored at the end"),
    ("notpostmaster@in.example.com", False, "anchored at the start"),
    ("in.example.com", False, "virtual_alias_domains' default asks for bare domains: none is meant"),
]


@pytest.mark.parametrize(("address", "person", "why"), PEOPLE, ids=[f"{row[0]}: {row[2]}" for row in PEOPLE])
def test_the_person_is_ours_alone(address: str, person: bool, why: str) -> None:
    """Behind postmaster and abuse of our domains stands the person, and behind nothing of the others'."""
    made = beside(OURS, written={}, effective=DEFAULTS, folder=FOLDER, person=GIVEN["person"])
    (line,) = [line for line in made["aliases.regexp"].splitlines() if line and not line.startswith("#")]
    pattern, _, to = line.rpartition("/")
    assert to.strip() == GIVEN["person"]
    assert bool(re.search(pattern[1:], address, re.IGNORECASE)) is person, why


REFUSED: list[tuple[str, dict[str, str], dict[str, str], str]] = [
    ("local already", {"mydestination": "localhost, in.example.com"}, OURS, "in.example.com stands in mydestination"),
    ("relayed already, in other letters", {"relay_domains": "B.example.com"}, OURS, "b.example.com stands in relay_domains"),
    ("an alias domain already", {"virtual_alias_domains": "in.example.com"}, OURS, "stands in virtual_alias_domains"),
    ("any recipient is taken", {"smtpd_reject_unlisted_recipient": "no"}, OURS, "no route has would be taken"),
    ("a milter that would stop the others' mail", {}, with_milter("tempfail"), "would wait with its senders"),
    ("a time that is none", {"maximal_queue_lifetime": "soon"}, OURS, "soon: is no time"),
]


@pytest.mark.parametrize(("written", "fragments", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_stand_side_by_side_is_refused(written: dict[str, str], fragments: dict[str, str], says: str) -> None:
    """Where ours could not work, or would harm theirs, nothing is made, and the text says why."""
    with pytest.raises((ValueError, PostfixError), match=says):
        added(written, fragments=fragments)


def test_each_setting_says_why_it_is_there() -> None:
    """Every line has its reason above it, and every setting of the fragment is either added or the others' own."""
    lmtp = LmtpSettings(socket="unix:/run/l", wiring="thin")
    fragments = render("%{key}@in.example.com", lmtp=lmtp, milter=milter(SOCKET, action="accept"))
    low = {**DEFAULTS, **{name: "1s" for name in DEFAULTS if name.endswith(("_lifetime", "_time"))}}
    made = beside(fragments, written={}, effective=low, folder=FOLDER, person=GIVEN["person"])["main.cf"]
    lines = made.splitlines()
    assert all(lines[at - 1].startswith("# ") for at, line in enumerate(lines) if line and line[0] != "#")
    assert set(parameters(fragments["main.cf"])) - set(parameters(made)) == {
        "virtual_transport",
        "smtpd_reject_unlisted_recipient",
        "virtual_alias_domains",
        "mydestination",
        "local_recipient_maps",
        "relay_domains",
        "delay_warning_time",
    }
