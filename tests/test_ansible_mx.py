"""Which records a receiving domain needs, how those that there are differ, and what is printed to paste."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PARTS = Path(__file__).resolve().parent.parent / "ansible" / "roles" / "mx" / "module_utils"


def part(name: str) -> ModuleType:
    """A module of the role, which is no package."""
    known = f"tested_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, PARTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


zone = part("mx_zone")
DOMAIN = "in.example.com"
MX1 = zone.Host(name="mx1.in.example.com", priority=10, addresses=("192.0.2.11", "2001:DB8::0011"), sure=True)
MX2 = zone.Host(name="MX2.In.Example.COM.", priority=20, addresses=("192.0.2.12",), sure=False)

LOGIN = [
    ("the same", "example.com", ["example.com"], "example.com"),
    ("the same in other letters, with a dot", "Example.COM.", ["example.com"], "example.com"),
    ("a parent of it", "example.com", ["corp.example.com"], "corp.example.com"),
    ("the second of two", "example.com", ["example.org", "corp.example.com"], "corp.example.com"),
    ("below it: a name of its own", "in.example.com", ["example.com"], ""),
    ("ends alike, and is another", "ample.com", ["example.com"], ""),
    ("none known", "example.com", [], ""),
    ("another script, as IDNA", "bücher.example", ["xn--bcher-kva.example"], "xn--bcher-kva.example"),
]


@pytest.mark.parametrize(("mail", "login", "clash"), [row[1:] for row in LOGIN], ids=[row[0] for row in LOGIN])
def test_a_login_domain_is_found(mail: str, login: list[str], clash: str) -> None:
    """A mail domain that equals or contains a login domain is told with it; one below it is not."""
    assert zone.login_domain(mail, login) == clash


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "a b.example", "x" * 64 + ".example", "example.com; rm", ".".join(["a" * 60] * 5)]
)
def test_what_is_no_domain_name_is_an_error(text: str) -> None:
    """A name that DNS could not hold is refused before anybody is asked."""
    with pytest.raises(ValueError, match="is not a domain name"):
        zone.name_of(text)


def all_of_it(**changed: Any) -> tuple[Any, ...]:
    given: dict[str, Any] = {
        "spf": "v=spf1 -all",
        "host_spf": "v=spf1 a -all",
        "dmarc": "v=DMARC1; p=reject;",
        "tls_reports": ["you@example.org"],
    }
    sets: tuple[Any, ...] = zone.wanted(DOMAIN, changed.pop("hosts", (MX1, MX2)), **(given | changed))
    return sets


def test_everything_that_a_new_domain_needs() -> None:
    """From nothing, the text to paste has every record, addresses before what points to them."""
    lines = zone.text_to_paste(zone.differences(all_of_it(), {}), 3600).splitlines()
    assert [line for line in lines if not line.startswith(";")] == [
        "mx1.in.example.com. 3600 IN A 192.0.2.11",
        "mx2.in.example.com. 3600 IN A 192.0.2.12",
        "mx1.in.example.com. 3600 IN AAAA 2001:db8::11",
        "in.example.com. 3600 IN MX 10 mx1.in.example.com.",
        "in.example.com. 3600 IN MX 20 mx2.in.example.com.",
        '_dmarc.in.example.com. 3600 IN TXT "v=DMARC1; p=reject;"',
        '_smtp._tls.in.example.com. 3600 IN TXT "v=TLSRPTv1; rua=mailto:you@example.org"',
        'in.example.com. 3600 IN TXT "v=spf1 -all"',
        'mx1.in.example.com. 3600 IN TXT "v=spf1 a -all"',
        'mx2.in.example.com. 3600 IN TXT "v=spf1 a -all"',
    ]


def found_of(sets: tuple[Any, ...]) -> dict[tuple[str, str], list[str]]:
    return {(one.name, one.type): list(one.values) for one in sets}


def test_what_is_as_wanted_is_left_alone() -> None:
    """A second run finds nothing, however the server spells the names and addresses."""
    found = found_of(all_of_it())
    found[DOMAIN, "MX"] = ["20 mx2.in.example.com.", "10 MX1.in.example.com."]
    found["mx1.in.example.com", "AAAA"] = ["2001:0db8:0:0::11"]
    assert zone.differences(all_of_it(), found) == ()


#: id, what DNS has, type that changes, what goes, what comes (None: nothing changes at all)
DIFFERENCES = [
    (
        "an MX elsewhere goes",
        (DOMAIN, "MX", ["10 mx1.in.example.com", "20 mx2.in.example.com", "5 old.example.net"]),
        ("5 old.example.net",),
        (),
    ),
    (
        "another priority",
        (DOMAIN, "MX", ["30 mx1.in.example.com", "20 mx2.in.example.com"]),
        ("30 mx1.in.example.com",),
        ("10 mx1.in.example.com",),
    ),
    ("a wrong address that was given", ("mx1.in.example.com", "A", ["192.0.2.99"]), ("192.0.2.99",), ("192.0.2.11",)),
    ("an address that was only seen gives way", ("mx2.in.example.com", "A", ["198.51.100.7"]), None, None),
    ("another's text stays", (DOMAIN, "TXT", ["proof=abc", "v=spf1 -all"]), None, None),
    (
        "a wrong SPF goes, another's text stays",
        (DOMAIN, "TXT", ["proof=abc", "v=spf1 +all"]),
        ("v=spf1 +all",),
        ("v=spf1 -all",),
    ),
    ("two SPF records are an error of SPF", (DOMAIN, "TXT", ["v=spf1 -all", "v=spf1 mx ~all"]), ("v=spf1 mx ~all",), ()),
    ("SPF in capitals is SPF", (DOMAIN, "TXT", ["V=SPF1 +all"]), ("V=SPF1 +all",), ("v=spf1 -all",)),
    ("what only begins alike is another's", (DOMAIN, "TXT", ["v=spf10 +all"]), (), ("v=spf1 -all",)),
    ("a host's own SPF stays", ("mx1.in.example.com", "TXT", ["v=spf1 ip4:192.0.2.0/24 -all"]), None, None),
    ("text that is no UTF-8", (DOMAIN, "TXT", ["v=spf1 -all", "\udcff\udcfe"]), None, None),
]


@pytest.mark.parametrize(("there", "remove", "add"), [row[1:] for row in DIFFERENCES], ids=[row[0] for row in DIFFERENCES])
def test_what_differs(there: tuple[str, str, list[str]], remove: tuple[str, ...] | None, add: tuple[str, ...]) -> None:
    """One set that is not as wanted becomes one change of that set: what of ours is wrong goes, what is missing comes."""
    name, kind, values = there
    changes = zone.differences(all_of_it(), found_of(all_of_it()) | {(name, kind): values})
    if remove is None:
        assert changes == ()
    else:
        assert [(change.name, change.type, change.remove, change.add) for change in changes] == [(name, kind, remove, add)]


def test_an_alias_gives_way() -> None:
    """Where a host's name is an alias, the alias goes before its address comes (RFC 1034, 3.6.2; RFC 2181, 10.3)."""
    found = found_of(all_of_it()) | {("mx1.in.example.com", "CNAME"): ["host.example.net."]}
    del found["mx1.in.example.com", "A"]
    changes = zone.differences(all_of_it(), found)
    assert [(change.type, change.remove, change.add) for change in changes] == [
        ("CNAME", ("host.example.net",), ()),
        ("A", (), ("192.0.2.11",)),
    ]
    assert ("mx1.in.example.com", "CNAME") in zone.asked_for(all_of_it())


def test_an_address_gives_way_to_an_alias() -> None:
    """Where the policy's web server is to be an alias, the addresses of that name go before it comes."""
    sets = all_of_it(sts="testing", sts_web=["WWW.example.com."])
    found = found_of(sets) | {("mta-sts.in.example.com", "A"): ["192.0.2.80"], ("mta-sts.in.example.com", "CNAME"): []}
    assert [(change.type, change.remove, change.add) for change in zone.differences(sets, found)] == [
        ("A", ("192.0.2.80",), ()),
        ("CNAME", (), ("www.example.com",)),
    ]
    assert ("mta-sts.in.example.com", "A") in zone.asked_for(sets)


def test_no_host_is_left() -> None:
    """When the last host leaves, all of ours goes, what others have put there stays, and so do the hosts' own records."""
    found = found_of(all_of_it())
    found[DOMAIN, "TXT"] = ["proof=abc", "v=spf1 -all"]
    changes = zone.differences(all_of_it(hosts=()), found)
    assert {(change.name, change.type): (change.remove, change.add) for change in changes} == {
        (DOMAIN, "MX"): (("10 mx1.in.example.com", "20 mx2.in.example.com"), ()),
        (DOMAIN, "TXT"): (("v=spf1 -all",), ()),
        (f"_dmarc.{DOMAIN}", "TXT"): (("v=DMARC1; p=reject;",), ()),
        (f"_smtp._tls.{DOMAIN}", "TXT"): (("v=TLSRPTv1; rua=mailto:you@example.org",), ()),
    }


def test_what_is_not_asked_for_is_left_alone() -> None:
    """An empty DMARC text and nobody to report to mean that those names are not looked at."""
    names = {one.name for one in all_of_it(dmarc="", tls_reports=[], host_spf="")}
    assert names == {DOMAIN, "mx1.in.example.com", "mx2.in.example.com"}


def test_the_policy_of_mta_sts() -> None:
    """The file has each host once (RFC 8461, section 3.2), and its id changes with it and only with it."""
    policy = zone.sts_policy("enforce", (MX2, MX1))
    assert policy == "version: STSv1\nmode: enforce\nmx: mx1.in.example.com\nmx: mx2.in.example.com\nmax_age: 1209600\n"
    assert zone.sts_id(policy) == zone.sts_id(zone.sts_policy("enforce", (MX1, MX2)))
    assert zone.sts_id(policy) != zone.sts_id(zone.sts_policy("testing", (MX1, MX2)))
    assert zone.sts_id(policy).isalnum()
    assert len(zone.sts_id(policy)) <= 32


TEXTS = [
    ("plain", "v=spf1 -all", '"v=spf1 -all"'),
    ("quotes and backslash", 'a"b\\c', '"a\\"b\\\\c"'),
    ("a semicolon is no comment within quotes", "v=DMARC1; p=reject", '"v=DMARC1; p=reject"'),
    ("a line's end cannot add a record", "a\nb.example. IN A 192.0.2.1", '"a\\010b.example. IN A 192.0.2.1"'),
    ("not ASCII", "é", '"\\195\\169"'),
    ("long", "x" * 300, '"' + "x" * 255 + '" "' + "x" * 45 + '"'),
    ("empty", "", '""'),
]


@pytest.mark.parametrize(("text", "printed"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_text_is_quoted_for_a_zone_file(text: str, printed: str) -> None:
    """A text becomes quoted strings of at most 255 octets, and never more than one line (RFC 1035, sections 3.3 and 5.1)."""
    change = zone.Change(name="example.com", type="TXT", remove=(), add=(text,), why="a test")
    assert zone.text_to_paste([change], 60).splitlines()[1:] == [f"example.com. 60 IN TXT {printed}"]


def test_what_must_go_is_a_comment() -> None:
    """The text to paste adds and never removes: what is wrong stands there as a comment."""
    change = zone.Change(
        name="example.com", type="MX", remove=("5 old.example.net",), add=("10 mx.example.com",), why="where mail goes"
    )
    assert zone.text_to_paste([change], 60) == (
        "; example.com: where mail goes\n;   remove: example.com. 60 IN MX 5 old.example.net.\nexample.com. 60 IN MX 10 mx.example.com.\n"
    )
    assert zone.text_before([change], 60) == "example.com. 60 IN MX 5 old.example.net.\n"
    assert zone.text_after([change], 60) == "example.com. 60 IN MX 10 mx.example.com.\n"
