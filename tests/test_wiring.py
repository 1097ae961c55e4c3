"""gatepost.wiring: the Postfix fragments, filled in. A real Postfix reads them in tests/integration/test_wiring.py."""

from __future__ import annotations

import itertools
import re
from typing import Any, Literal

import pytest

from gatepost import wiring
from gatepost.decision import RULES
from gatepost.settings import LmtpSettings, MilterSettings, ParkedLimits, ParserLimits, Route, Screening, Settings, Timing

GIVEN = {
    "python": "/opt/gatepost/current/bin/python",
    "pipe_script": "/opt/gatepost/current/lib/gatepost_filter/pipe.py",
    "config": "/etc/gatepost/gatepost.yml",
    "person": "person@example.org",
    "host": "mx.example.com",
    "folder": "/etc/postfix/gatepost",
}


def settings(
    *addresses: str, timing: Timing | None = None, milter: MilterSettings | None = None, lmtp: LmtpSettings | None = None
) -> Settings:
    """Settings with one route for each address."""
    routes = tuple(
        Route(name=f"route{number}", address=address, screening=Screening(), deliver=("app",))
        for number, address in enumerate(addresses)
    )
    return Settings(
        file="/etc/gatepost/gatepost.yml",
        routes=routes,
        timing=timing or Timing(),
        parked=ParkedLimits(),
        parser=ParserLimits(),
        sinks=(),
        milter=milter,
        lmtp=lmtp,
    )


def render(
    *addresses: str, timing: Timing | None = None, milter: MilterSettings | None = None, lmtp: LmtpSettings | None = None,
    **changes: str,
) -> dict[str, str]:  # fmt: skip
    """The fragments for these addresses."""
    given: dict[str, Any] = {**GIVEN, **changes}
    return wiring.render(settings(*addresses, timing=timing, milter=milter, lmtp=lmtp), **given)


def milter(socket: str, *, action: Literal["tempfail", "accept"] = "tempfail") -> MilterSettings:
    """A milter that listens there."""
    return MilterSettings(socket=socket, authserv_id="mx.example.com", default_action=action)


def parameters(main_cf: str) -> dict[str, str]:
    """main.cf as a dict; each setting must stand once."""
    lines = [line.partition("=") for line in main_cf.splitlines() if line and not line.startswith("#")]
    names = [name.strip() for name, _, _ in lines]
    assert len(names) == len(set(names))
    return {name.strip(): value.strip() for name, _, value in lines}


LMTPS: list[tuple[LmtpSettings | None, str, bool, str]] = [
    (None, "gatepost:", False, "the pipe script alone"),
    (LmtpSettings(socket="unix:/run/gatepost/lmtp.sock"), "gatepost-lmtp:unix:/run/gatepost/lmtp.sock", True, "Postfix speaks LMTP"),
    (LmtpSettings(socket="unix:/var/spool/postfix/gatepost/l"), "gatepost-lmtp:unix:gatepost/l", True, "below the queue folder"),
    (LmtpSettings(socket="unix:/run/gatepost/lmtp.sock", wiring="thin"), "gatepost-thin:", True, "the script, thin"),
    (LmtpSettings(socket="unix:/run/gatepost/lmtp.sock", wiring="pipe"), "gatepost:", True, "the script, before a warm process"),
]  # fmt: skip


@pytest.mark.parametrize(("lmtp", "transport", "service"), [row[:3] for row in LMTPS], ids=[row[3] for row in LMTPS])
def test_one_setting_tells_the_rungs_apart(lmtp: LmtpSettings | None, transport: str, service: bool) -> None:
    """virtual_transport; all services are there once there is `lmtp:`, so that climbing and coming down change one line."""
    made, plain = render("reply+%{key}@in.example.com", lmtp=lmtp), render("reply+%{key}@in.example.com")
    found, before = parameters(made["main.cf"]), parameters(plain["main.cf"])
    assert found.pop("virtual_transport") == transport
    assert before.pop("virtual_transport") == "gatepost:"
    assert found.pop("gatepost-thin_destination_recipient_limit", "") == ("1" if service else "")
    assert found.pop("gatepost-lmtp_destination_recipient_limit", "") == ("1" if service else "")
    assert found.pop("gatepost-lmtp_destination_concurrency_failed_cohort_limit", "") == ("0" if service else "")
    assert found == before
    lines = [line for line in made["master.cf"].splitlines() if line.strip() and not line.startswith("#")]
    theirs = [line for line in plain["master.cf"].splitlines() if line.strip() and not line.startswith("#")]
    assert lines[: len(theirs)] == theirs
    lmtps = 2 * len(theirs) + 1 if service else len(theirs)  # between them: the thin service
    assert [line.split() for line in lines[lmtps:]] == (
        [
            ["gatepost-lmtp", "unix", "-", "-", "n", "-", "20", "lmtp"],
            ["-o", "lmtp_line_length_limit=0"],
            ["-o", "lmtp_send_xforward_command=yes"],
            ["-o", "lmtp_data_done_timeout=150s"],
        ]
        if service
        else []
    )


FALLBACKS: list[Literal["local", "defer"]] = ["local", "defer"]


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_the_thin_service_is_the_pipe_service_and_four_words(fallback: Literal["local", "defer"]) -> None:
    """Flags, user, belt and every fact of the envelope are the same; its name, -S, and where the warm process is come on top."""
    lmtp = LmtpSettings(socket="unix:/run/gatepost/lmtp.sock", fallback=fallback)
    text = render("reply+%{key}@in.example.com", lmtp=lmtp, timing=Timing(deadline=20.5, lease=30))["master.cf"]
    lines = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    pipe, thin, _ = (re.sub(r" +", " ", each).strip() for each in re.split(r"(?=gatepost-\w+  unix)", lines))
    assert thin == (
        pipe.replace("gatepost unix - n n - 10 pipe", "gatepost-thin unix - n n - 20 pipe")
        .replace("gatepost_time_limit=", "gatepost-thin_time_limit=")
        .replace("/pipe.py ", f"/pipe.py --socket=/run/gatepost/lmtp.sock --fallback={fallback} --deadline=20.5 ")
        .replace(" -I ", " -I -S ")
    )


WIRINGS: list[Literal["lmtp", "thin", "pipe"]] = ["lmtp", "thin", "pipe"]


@pytest.mark.parametrize("rung", WIRINGS)
def test_an_lmtp_socket_that_postfix_would_take_apart_is_refused(rung: Literal["lmtp", "thin", "pipe"]) -> None:
    """By its own name, whichever rung is wired: all services are printed."""
    with pytest.raises(ValueError, match=r"^lmtp\.socket: "):
        render("reply+%{key}@in.example.com", lmtp=LmtpSettings(socket="unix:/run/a b", wiring=rung))


PATTERNS = [
    # address, recipient in it, or not, why
    ("reply+%{key}@in.example.com", "reply+k@in.example.com", True, "the plain case"),
    ("reply+%{key}@in.example.com", "REPLY+K@IN.EXAMPLE.COM", True, "regexp tables ignore case"),
    ("Reply+%{key}@In.Example.Com", "reply+k@in.example.com", True, "so does the configuration"),
    ("reply+%s@in.example.com", "reply+k@in.example.com", True, "%s is read as %{key}"),
    ("reply+%{key}@in.example.com", "reply+@in.example.com", False, "a key has one character at least"),
    ("reply+%{key}@in.example.com", "replyyk@in.example.com", False, "+ is a character, not a repetition"),
    ("reply+%{key}@in.example.com", "reply+k@inxexample.com", False, "a dot is a dot"),
    ("reply+%{key}@in.example.com", "reply+k@in.example.com.evil.example", False, "anchored at the end"),
    ("reply+%{key}@in.example.com", "no-reply+k@in.example.com", False, "anchored at the start"),
    ("reply+%{key}@in.example.com", "reply+k@x@in.example.com", False, "no @ in a key"),
    ("reply+%{key}.x@in.example.com", "reply+k.x@in.example.com", True, "text behind the key"),
    ("reply+%{key}.x@in.example.com", "reply+k.y@in.example.com", False, "text behind the key counts"),
    ("%{key}@in.example.com", "anything@in.example.com", True, "catch-all"),
    ("%{key}@in.example.com", "anything@sub.in.example.com", False, "a catch-all is for one domain"),
    ("help.desk@in.example.com", "help.desk@in.example.com", True, "dedicated"),
    ("help.desk@in.example.com", "helpxdesk@in.example.com", False, "dedicated: the dot is a dot"),
    ("a*b/c{d}|e^f$g?%{key}@in.example.com", "a*b/c{d}|e^f$g?k@in.example.com", True, "every special character is itself"),
    ("a|b@in.example.com", "a", False, "no alternation"),
    ('"a b+%{key}"@in.example.com', "a b+k@in.example.com", True, "Postfix looks up the local part unquoted"),
]


@pytest.mark.parametrize(("address", "recipient", "matches", "why"), PATTERNS, ids=[row[3] for row in PATTERNS])
def test_pattern_matches_what_the_route_takes(address: str, recipient: str, matches: bool, why: str) -> None:
    """A route's expression matches the route's recipients and no others."""
    pattern = wiring.recipient_pattern(address)
    assert bool(re.search(pattern.replace("\\/", "/"), recipient, re.IGNORECASE)) is matches, why


@pytest.mark.parametrize(
    "address",
    [
        "",
        "in.example.com",
        "@in.example.com",
        "reply+%{key}@",
        "reply@in example.com",
        "reply\n@in.example.com",
        "a@b@in.example.com",
        "reply@-in.example.com",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """A text that is no address gives ValueError, never a line that matches something else."""
    with pytest.raises(ValueError, match=r"local part|address"):
        wiring.recipient_pattern(address)


def test_nothing_is_left_unfilled_and_every_file_is_there() -> None:
    """render gives every fragment, and no @NAME@ stays in the lines that Postfix reads or in the comments."""
    fragments = render("reply+%{key}@in.example.com")
    assert tuple(fragments) == wiring.FRAGMENTS
    for name, text in fragments.items():
        assert not re.search(r"@[A-Z_]+@", text), name
        assert text.endswith("\n"), name


def test_every_domain_of_every_route_once() -> None:
    """Each domain stands once in virtual_mailbox_domains and is among the domains of postmaster."""
    fragments = render("reply+%{key}@in.example.com", "help@IN.example.com", "%{key}@other.example.com")
    assert parameters(fragments["main.cf"])["virtual_mailbox_domains"] == "in.example.com, other.example.com"
    assert r"(@(in\.example\.com|other\.example\.com|mx\.example\.com))?$" in fragments["aliases.regexp"]


def test_the_service_is_wired_to_the_letter() -> None:
    """The pipe line names the interpreter and glues every value to its option."""
    service = render("reply+%{key}@in.example.com")["master.cf"]
    line = " ".join(" ".join(line for line in service.splitlines() if not line.startswith("#")).split())
    assert line == (
        "gatepost unix - n n - 10 pipe -o pipe_delivery_status_filter=regexp:/etc/postfix/gatepost/status.regexp "
        "-o gatepost_time_limit=150s flags=Bq user=gatepost null_sender= argv=/opt/gatepost/current/bin/python -I "
        "/opt/gatepost/current/lib/gatepost_filter/pipe.py --config=/etc/gatepost/gatepost.yml --size=${size} "
        "--sender=${sender} --recipient=${recipient} --original-recipient=${original_recipient} --queue-id=${queue_id} "
        "--client-address=${client_address} --helo=${client_helo}"
    )


TIMINGS = [
    (Timing(), "150s", "300s", "432000s", "the defaults"),
    (Timing(deadline=5, lease=8, give_up_after=60), "35s", "300s", "432000s", "short times do not shorten Postfix's"),
    (Timing(deadline=280.5, lease=400.2, give_up_after=6 * 86_400.0), "311s", "461s", "604800s", "long ones lengthen them"),
]


@pytest.mark.parametrize(("timing", "limit", "backoff", "lifetime", "why"), TIMINGS, ids=[row[4] for row in TIMINGS])
def test_postfix_waits_longer_than_gatepost(timing: Timing, limit: str, backoff: str, lifetime: str, why: str) -> None:
    """Postfix's time limit lies above the deadline, its first retry behind the lease, its end behind give_up_after."""
    fragments = render("reply+%{key}@in.example.com", timing=timing)
    main = parameters(fragments["main.cf"])
    assert f"gatepost_time_limit={limit}\n" in fragments["master.cf"], why
    assert main["minimal_backoff_time"] == backoff, why
    assert main["maximal_queue_lifetime"] == lifetime, why
    assert main["bounce_queue_lifetime"] == "$maximal_queue_lifetime", why


TIMES = "connect_timeout=10s, command_timeout=30s, content_timeout=300s"
MILTERS = [
    # the milter, Postfix's queue folder ("" = the usual), smtpd_milters, why
    (milter("unix:/var/spool/postfix/gatepost/milter.sock"), "",
     f"{{unix:gatepost/milter.sock, {TIMES}, default_action=tempfail}}", "below the queue folder: relative to it"),
    (milter("unix:/srv/postfix/milter.sock"), "/srv/postfix/",
     f"{{unix:milter.sock, {TIMES}, default_action=tempfail}}", "another queue folder"),
    (milter("unix:/var/spool/postfix-2/milter.sock"), "",
     f"{{unix:/var/spool/postfix-2/milter.sock, {TIMES}, default_action=tempfail}}", "a folder that only begins so"),
    (milter("unix:/run/gatepost/milter.sock", action="accept"), "",
     f"{{unix:/run/gatepost/milter.sock, {TIMES}, default_action=accept}}", "elsewhere, and others have mail here"),
    (milter("inet:8891@127.0.0.1"), "", f"{{inet:127.0.0.1:8891, {TIMES}, default_action=tempfail}}", "TCP: host and port"),
    (milter("inet:8891@::1"), "", f"{{inet:[::1]:8891, {TIMES}, default_action=tempfail}}", "TCP, IPv6"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "queue", "expected", "why"), MILTERS, ids=[row[3] for row in MILTERS])
def test_the_milter_is_named_as_postfix_names_it(given: MilterSettings, queue: str, expected: str, why: str) -> None:
    """One milter, in braces, with times and action of its own: those of other milters stay as they are."""
    queue = queue or wiring.QUEUE_DIRECTORY
    main = parameters(render("reply+%{key}@in.example.com", milter=given, queue_directory=queue)["main.cf"])
    assert main["smtpd_milters"] == expected, why
    assert not {name for name in main if "milter" in name} - {"smtpd_milters"}


def test_without_a_milter_none_is_named() -> None:
    """The fragment leaves smtpd_milters alone, for another milter may be there, and says where to read on."""
    text = render("reply+%{key}@in.example.com")["main.cf"]
    assert not any("milter" in name for name in parameters(text))
    assert "gatepost.yml has no `milter:`" in text


@pytest.mark.parametrize("path", ["/run/a b", "/run/a,b", "/run/a{b", "/run/a}", "/run/$a", "run/a", ""])
def test_a_socket_that_postfix_would_take_apart_is_refused(path: str) -> None:
    """A path may add neither an option nor another milter."""
    with pytest.raises(ValueError, match=r"^milter\.socket: "):
        render("reply+%{key}@in.example.com", milter=milter(f"unix:{path}"))


def test_the_belt_lets_through_what_the_rules_may_say_and_nothing_else() -> None:
    """The belt names exactly the permanent codes in decision.RULES."""
    table = render("reply+%{key}@in.example.com")["status.regexp"]
    named = re.search(r"(?m)^if !/\^5\\\.\((.*)\) /$", table)
    assert named
    assert {"5." + code.replace("\\", "") for code in named[1].split("|")} == {
        rule.status for rule in RULES.values() if rule.status.startswith("5.")
    }


def test_a_host_name_that_is_a_routes_domain_keeps_the_routes_addresses() -> None:
    """Where myhostname is a route's domain, no alias takes the whole domain away from the routes."""
    table = render("reply+%{key}@in.example.com", host="In.Example.Com")["aliases.regexp"]
    assert "/^[^@]+@" not in table
    assert r"(@(in\.example\.com))?$" in table


REFUSED = [
    ("python", "python3", "not absolute"),
    ("python", "/usr/bin/my python", "white space ends an argument"),
    ("pipe_script", "/opt/$x/pipe.py", "a macro"),
    ("config", "/etc/{a}.yml", "braces group"),
    ("config", "/etc/a.yml\nflags=u", "a new line"),
    ("folder", "maps", "not absolute"),
    ("folder", "/etc/a,b", "a comma ends an entry"),
    ("queue_directory", "spool", "not absolute"),
    ("person", "person", "no domain"),
    ("person", "a@example.org, b@example.org", "two"),
    ("person", "$1@example.org", "a macro of the table"),
    ("person", "root@localhost", "no mail is delivered on this host: it would bounce"),
    ("person", "root@mx.example.com", "no mail is delivered on this host"),
    ("person", "help@IN.example.com", "a route's domain: no person"),
    ("host", "mx.example.com/", "the table's delimiter"),
    ("user", "root", "pipe(8) refuses it"),
    ("user", "postfix", "pipe(8) refuses it"),
    ("user", "gatepost argv=/bin/sh", "an argument"),
    ("message_size_limit", 0, "to Postfix that is no limit"),
    ("message_size_limit", -1, "no size"),
]


@pytest.mark.parametrize(("name", "value", "why"), REFUSED, ids=[f"{row[0]}: {row[2]}" for row in REFUSED])
def test_a_value_that_postfix_would_take_apart_is_refused(name: str, value: object, why: str) -> None:
    """Such a value gives ValueError, which names the argument; nothing is rendered."""
    given: dict[str, Any] = {**GIVEN, name: value}
    with pytest.raises(ValueError, match=f"^{name}: "):
        wiring.render(settings("reply+%{key}@in.example.com"), **given)


def test_without_routes_there_is_nothing_to_wire() -> None:
    """No route: ValueError, rather than a Postfix whose virtual_mailbox_domains is empty."""
    with pytest.raises(ValueError, match="no routes"):
        render()


def test_each_setting_says_why_it_is_there() -> None:
    """Every setting in main.cf has a comment above it, so that each can be pasted alone."""
    lines = render("reply+%{key}@in.example.com")["main.cf"].splitlines()
    for above, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert above.startswith(("#", "minimal_backoff_time")), line
