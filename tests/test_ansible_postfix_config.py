"""main.cf and master.cf in the hands of role postfix: read as Postfix does, ours put in beside others', taken out to the byte."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROLE = Path(__file__).resolve().parent.parent / "ansible" / "roles" / "postfix"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postfix_files", ROLE / "module_utils" / "postfix_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


files: Any = _load()

#: What `gatepost postfix` prints, as far as the merge looks at it.
FRAGMENT = """\
# ours
virtual_mailbox_domains = in.example.com, b.example.com
virtual_transport = gatepost:
virtual_mailbox_maps = regexp:/etc/postfix/gatepost/recipients.regexp
smtpd_reject_unlisted_recipient = yes
gatepost_destination_recipient_limit = 1
virtual_alias_maps = regexp:/etc/postfix/gatepost/aliases.regexp
virtual_alias_domains =
smtpd_milters = {unix:gatepost/milter.sock, connect_timeout=10s, default_action=accept}
mydestination =
local_recipient_maps = $virtual_alias_maps
relay_domains =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_forbid_bare_newline = yes
smtpd_forbid_bare_newline_exclusions =
smtpd_forbid_unauth_pipelining = yes
smtpd_data_restrictions = reject_unauth_pipelining
enable_long_queue_ids = yes
message_size_limit = 26214400
maximal_queue_lifetime = 432000s
bounce_queue_lifetime = $maximal_queue_lifetime
minimal_backoff_time = 300s
maximal_backoff_time = 4000s
delay_warning_time = 0h
smtpd_discard_ehlo_keywords = dsn, silent-discard
"""
FOLDER = "/etc/postfix/gatepost"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("a = 1\nb=2\n", {"a": "1", "b": "2"}, id="two"),
        pytest.param("a = 1,\n  2\n\t3\n", {"a": "1, 2 3"}, id="goes-on"),
        pytest.param("a = 1,\n# why 2\n\n  2\nb = 3\n", {"a": "1, 2", "b": "3"}, id="goes-on-past-a-comment-and-a-blank-line"),
        pytest.param("a = 1\n   # indented comment\nb = 2\n", {"a": "1", "b": "2"}, id="an-indented-comment-is-one"),
        pytest.param("a = 1\na = 2\n", {"a": "2"}, id="the-last-counts"),
        pytest.param("a = 1=2\n", {"a": "1=2"}, id="an-equals-sign-in-a-value"),
        pytest.param("a =\nb = 1\n", {"a": "", "b": "1"}, id="empty"),
        pytest.param("a = 1", {"a": "1"}, id="no-end-of-line"),
        pytest.param("#a = 1\n", {}, id="a-comment"),
        pytest.param("", {}, id="nothing"),
    ],
)
def test_main_cf_is_read_as_postfix_reads_it(text: str, wanted: dict[str, str]) -> None:
    """A logical line goes on where the next begins with white space; of two of one name the last counts (postconf(5))."""
    assert files.settings(text) == wanted


def test_master_cf_is_read_as_postfix_reads_it() -> None:
    """A service is its first two words, whatever lines its options stand on (master(5))."""
    text = "smtp  inet  n - y - - smtpd\n  -o a=b\n#x unix - - - - - y\nsmtp unix - - y - - smtp\n"
    assert [files.service_key(entry) for entry in files.entries(text)] == ["smtp/inet", "smtp/unix"]


@pytest.mark.parametrize(
    ("text", "ours", "wanted"),
    [
        pytest.param("a = 1\n", "b = 2\n", f"a = 1\n{files.BEGIN}\nb = 2\n{files.END}\n", id="at-the-end"),
        pytest.param(
            "a = 1,\n# why\n  2\nc = 3\n",
            "a = 9",
            f"#gatepost-found:a = 1,\n# why\n#gatepost-found:  2\nc = 3\n{files.BEGIN}\na = 9\n{files.END}\n",
            id="all-lines-of-what-it-takes-the-place-of",
        ),
        pytest.param(
            "a = 1\na = 2\n",
            "a = 9\n",
            f"#gatepost-found:a = 1\n#gatepost-found:a = 2\n{files.BEGIN}\na = 9\n{files.END}\n",
            id="of-two-both",
        ),
        pytest.param("", "a = 9\n", f"{files.BEGIN}\na = 9\n{files.END}\n", id="into-nothing"),
    ],
)
def test_ours_is_put_in(text: str, ours: str, wanted: str) -> None:
    """Ours stands in one block at the end; whatever it takes the place of becomes a comment, and nothing else changes."""
    assert files.put_in(text, ours) == wanted
    assert files.put_in(wanted, ours) == wanted


_LINES = st.lists(
    st.sampled_from(
        [
            "a = 1",
            "a=2",
            "b = x,",
            "  y",
            "\tz",
            "",
            " ",
            "# comment",
            "  # indented",
            "c =",
            "smtp inet n - y - - smtpd",
            "ä = ö",
            "\r",
        ]
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(lines=_LINES, end=st.booleans(), ours=st.sampled_from(["a = 9\n", "b = 8\nc = 7\n", "d = 6\n", ""]))
def test_what_was_put_in_comes_out_to_the_byte(lines: list[str], end: bool, ours: str) -> None:
    """Whatever stood there, with and without an end of its last line, stands there again."""
    text = "\n".join(lines) + "\n" * end
    once = files.put_in(text, ours)
    assert files.take_out(once) == text
    assert files.put_in(once, ours) == once
    assert files.settings(once) == {**files.settings(text), **files.settings(ours)}
    assert files.take_out(files.put_in(once, "e = 5\n")) == text


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param("a = 1\n{}d = 4\n", "a = 1\nd = 4\n", id="a-line-below"),
        pytest.param("z = 0\na = 1\n{}", "z = 0\na = 1\n", id="a-line-above"),
        pytest.param("a = 1\n{}d = 4", "a = 1\nd = 4", id="a-line-below-without-an-end"),
    ],
)
def test_what_others_changed_meanwhile_stays(found: str, wanted: str) -> None:
    """Taking ours out leaves what was written around it since."""
    block = f"{files.BEGIN}\nb = 2\n{files.END}\n"
    assert files.take_out(found.format(block)) == wanted


def test_a_block_without_its_end_is_not_guessed_at() -> None:
    """Somebody deleted the line at its end: what is ours is not known any more."""
    with pytest.raises(files.Conflict, match="put it back"):
        files.take_out(f"a = 1\n{files.BEGIN}\nb = 2\n")


@pytest.mark.parametrize(
    ("text", "wanted", "result"),
    [
        pytest.param("# why\na = 1\nb = 2\n", {"a": "9"}, "# why\na = 9\nb = 2\n", id="in-its-place"),
        pytest.param("a = 1,\n 2\nb = 2\n", {"a": "9"}, "a = 9\nb = 2\n", id="with-its-lines"),
        pytest.param("a = 1\n", {"c": "3"}, "a = 1\n\nc = 3\n", id="a-new-one"),
        pytest.param("a = 1\n", {"c": ""}, "a = 1\n\nc =\n", id="an-empty-one"),
        pytest.param("a = 1\n", {}, "a = 1\n", id="none"),
    ],
)
def test_a_person_settings_go_over_ours(text: str, wanted: dict[str, str], result: str) -> None:
    """A setting takes the place of the one of its name, or comes to the end."""
    assert files.with_settings(text, wanted) == result


def test_a_setting_is_one_line() -> None:
    """A value with a line break would be two settings."""
    with pytest.raises(files.Conflict, match="one line"):
        files.with_settings("", {"a": "1\nmynetworks = 0.0.0.0/0"})


_OURS = {
    "enable_long_queue_ids": "yes",
    "gatepost_destination_recipient_limit": "1",
    "smtpd_forbid_bare_newline": "yes",
    "smtpd_forbid_bare_newline_exclusions": "",
    "smtpd_forbid_unauth_pipelining": "yes",
    "transport_maps": f"texthash:{FOLDER}/transport",
    "virtual_alias_maps": f"regexp:{FOLDER}/aliases.regexp",
    "virtual_mailbox_domains": "in.example.com, b.example.com",
    "virtual_mailbox_maps": f"regexp:{FOLDER}/recipients.regexp",
    "smtpd_milters": "{unix:gatepost/milter.sock, connect_timeout=10s, default_action=accept}",
    "smtpd_data_restrictions": "reject_unauth_pipelining",
    "smtpd_discard_ehlo_keywords": "dsn, silent-discard",
}


@pytest.mark.parametrize(
    ("found", "effective", "more"),
    [
        pytest.param({}, {}, {"message_size_limit": "26214400"}, id="a-bare-one"),
        pytest.param(
            {
                "virtual_mailbox_domains": "theirs.example",
                "virtual_mailbox_maps": "hash:/etc/theirs",
                "virtual_alias_maps": "hash:/v",
            },
            {"message_size_limit": "0"},
            {
                "virtual_mailbox_domains": "theirs.example, in.example.com, b.example.com",
                "virtual_mailbox_maps": f"hash:/etc/theirs, regexp:{FOLDER}/recipients.regexp",
                "virtual_alias_maps": f"hash:/v, regexp:{FOLDER}/aliases.regexp",
            },
            id="ours-behind-theirs",
        ),
        pytest.param(
            {"virtual_mailbox_maps": "hash:/etc/theirs"},
            {"message_size_limit": "0"},
            {
                "virtual_mailbox_domains": "$virtual_mailbox_maps, in.example.com, b.example.com",
                "virtual_mailbox_maps": f"hash:/etc/theirs, regexp:{FOLDER}/recipients.regexp",
            },
            id="domains-that-are-theirs-by-default",
        ),
        pytest.param(
            {"transport_maps": "hash:/etc/postfix/transport"},
            {"message_size_limit": "0"},
            {"transport_maps": f"texthash:{FOLDER}/transport, hash:/etc/postfix/transport"},
            id="our-transport-before-their-star",
        ),
        pytest.param(
            {"smtpd_milters": "inet:localhost:11332"},
            {"message_size_limit": "0"},
            {"smtpd_milters": "inet:localhost:11332, {unix:gatepost/milter.sock, connect_timeout=10s, default_action=accept}"},
            id="our-milter-is-the-last",
        ),
        pytest.param(
            {"smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated defer_unauth_destination"},
            {"message_size_limit": "0"},
            {"smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination"},
            id="a-foreign-domain-gets-5xx-and-who-may-relay-still-may",
        ),
        pytest.param(
            {"smtpd_data_restrictions": "reject_unauth_pipelining, permit", "smtpd_discard_ehlo_keywords": "chunking"},
            {"message_size_limit": "0", "smtpd_discard_ehlo_keywords": "chunking"},
            {"smtpd_data_restrictions": None, "smtpd_discard_ehlo_keywords": "chunking, dsn, silent-discard"},
            id="what-they-have-already",
        ),
        pytest.param(
            {"smtpd_forbid_bare_newline_exclusions": "192.0.2.7"},
            {"message_size_limit": "0"},
            {"smtpd_forbid_bare_newline_exclusions": None},
            id="a-device-of-theirs-stays-excepted",
        ),
        pytest.param({}, {"message_size_limit": "52428800"}, {}, id="a-larger-message-of-theirs"),
        pytest.param(
            {"mailbox_size_limit": "20000000"},
            {"message_size_limit": "10240000", "mailbox_size_limit": "20000000"},
            {"message_size_limit": "20000000"},
            id="no-larger-than-their-mailboxes",
        ),
        pytest.param(
            {"maximal_queue_lifetime": "1d", "bounce_queue_lifetime": "2h", "minimal_backoff_time": "20s"},
            {
                "message_size_limit": "0",
                "maximal_queue_lifetime": "1d",
                "bounce_queue_lifetime": "2h",
                "minimal_backoff_time": "20s",
            },
            {"maximal_queue_lifetime": "432000s", "bounce_queue_lifetime": "432000s", "minimal_backoff_time": "300s"},
            id="times-below-ours",
        ),
        pytest.param(
            {"maximal_queue_lifetime": "7d"},
            {"message_size_limit": "0", "maximal_queue_lifetime": "7d"},
            {},
            id="times-above-ours",
        ),
        pytest.param({"mydestination": "theirs.example"}, {"message_size_limit": "0"}, {}, id="their-own-class-stays"),
    ],
)
def test_beside_others(found: dict[str, str], effective: dict[str, str], more: dict[str, str | None]) -> None:
    """Our domains beside theirs: added where a list is shared, the larger where a number is, and nothing else touched."""
    wanted = {name: value for name, value in {**_OURS, **more}.items() if value is not None}
    assert files.beside(found, effective, FRAGMENT, FOLDER) == wanted


@pytest.mark.parametrize(
    ("effective", "fragment", "says"),
    [
        pytest.param(
            {"mydestination": "localhost, in.example.com"}, FRAGMENT, "in.example.com stands in mydestination", id="local"
        ),
        pytest.param(
            {"relay_domains": "B.example.com"}, FRAGMENT, "b.example.com stands in relay_domains", id="relay-any-case"
        ),
        pytest.param({"virtual_alias_domains": "in.example.com"}, FRAGMENT, "stands in virtual_alias_domains", id="alias"),
        pytest.param({"smtpd_reject_unlisted_recipient": "no"}, FRAGMENT, "no route has would be taken", id="takes-all"),
        pytest.param({}, FRAGMENT.replace("action=accept", "action=tempfail"), "would wait", id="a-milter-that-stops-others"),
        pytest.param({"maximal_queue_lifetime": "soon"}, FRAGMENT, "'soon' is no time", id="no-time"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(effective: dict[str, str], fragment: str, says: str) -> None:
    """A Postfix in which ours could not work, or would harm theirs, is left alone, and the text says why."""
    with pytest.raises(files.Conflict, match=says):
        files.beside({}, {"message_size_limit": "0", **effective}, fragment, FOLDER)


def test_beside_others_comes_out_to_the_byte() -> None:
    """main.cf as Debian writes it, with another's domain: merged twice the same, and given back as it was."""
    found = (
        "# Debian\nsmtpd_banner = $myhostname ESMTP\n\nmydestination = $myhostname, theirs.example,\n    localhost\n"
        "smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination\nmailbox_size_limit = 0\n"
    )
    effective = {"message_size_limit": "10240000", "mailbox_size_limit": "0"}
    once = files.merge(found, effective, FRAGMENT, FOLDER, {})
    assert files.merge(once, effective, FRAGMENT, FOLDER, {}) == once
    assert files.settings(once)["mydestination"] == "$myhostname, theirs.example, localhost"
    assert files.take_out(once) == found


def test_tables_name_our_domains_alone() -> None:
    """Where mail goes, and who is the person behind it: for our domains, not for bare names or this host's."""
    lines = [line for line in files.transport_table(FRAGMENT).splitlines() if not line.startswith("#")]
    assert lines == ["in.example.com  gatepost:", "b.example.com  gatepost:"]
    lines = [line for line in files.person_table(FRAGMENT, "p@example.org").splitlines() if not line.startswith("#")]
    assert lines == [r"/^(postmaster|abuse)@(in\.example\.com|b\.example\.com)$/  p@example.org"]


@pytest.mark.parametrize(
    ("text", "unit", "wanted"),
    [
        ("5", "d", 432_000),
        ("5d", "s", 432_000),
        ("300s", "d", 300),
        ("2h", "d", 7_200),
        ("1w", "s", 604_800),
        ("90m", "s", 5_400),
    ],
)
def test_times(text: str, unit: str, wanted: int) -> None:
    """A number, and a unit or the setting's own (postconf(5))."""
    assert files.seconds(text, unit) == wanted


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"mydestination": "$myhostname, mx1.example.com, localhost", "myhostname": "mx1.example.com"}, [], id="debian"
        ),
        pytest.param({"mydestination": "$myhostname, mx1, localhost.localdomain, , localhost"}, [], id="debian-short-name"),
        pytest.param({"mydestination": "theirs.example", "inet_interfaces": "loopback-only"}, [], id="only-this-host"),
        pytest.param(
            {"mydestination": "$myhostname, theirs.example"}, ["mydestination = $myhostname, theirs.example"], id="local"
        ),
        pytest.param({"virtual_mailbox_domains": "hash:/d"}, ["virtual_mailbox_domains = hash:/d"], id="mailboxes"),
        pytest.param({"relay_domains": "theirs.example"}, ["relay_domains = theirs.example"], id="relay"),
        pytest.param({"relay_domains": "$mydestination", "virtual_alias_domains": ""}, [], id="defaults-written-out"),
    ],
)
def test_a_postfix_that_serves_others_is_known(found: dict[str, str], wanted: list[str]) -> None:
    """Its main.cf is not replaced without a word: what it does is named."""
    assert files.serves(found) == wanted
