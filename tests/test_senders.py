"""Whom sender.allow and sender.deny name: addresses, domains, all below a domain, networks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.screening.senders import named


class Row(NamedTuple):
    id: str
    entry: str
    client: str
    address: str
    named: bool
    why: str


ROWS = [
    Row("address", "person@example.org", "", "person@example.org", True, "itself"),
    Row("address, case", "person@example.org", "", "Person@Example.ORG", True, "nobody tells two people by case"),
    Row("address, brackets", "person@example.org", "", "<person@example.org>", True, "MAIL FROM as SMTP writes it"),
    Row("address, quotes", "person@example.org", "", '"person"@example.org', True, "the same mailbox (RFC 5321 4.1.2)"),
    Row("address, quoted pair", "person@example.org", "", '"p\\erson"@example.org', True, "the same"),
    Row("address, final dot", "person@example.org", "", "person@example.org.", True, "the same domain"),
    Row("address, sub-address", "person@example.org", "", "person+x@example.org", False, "another address"),
    Row("address, another local part", "person@example.org", "", "xperson@example.org", False, "another address"),
    Row("address, domain below", "person@example.org", "", "person@a.example.org", False, "another domain"),
    Row("address, at sign inside", "person@example.org", "", '"person@example.org"@example.net', False, "the last @ outside quotes"),
    Row("address, Kelvin sign", "kim@example.org", "", "\u212aim@example.org", False, "U+212A is no k (mail.recipient)"),
    Row("address with a slash", "a/24@example.org", "192.0.2.1", "a/24@example.org", True, "no network"),
    Row("domain", "example.org", "", "person@example.org", True, "of it"),
    Row("domain, case", "example.org", "", "person@EXAMPLE.org", True, "of it"),
    Row("domain below", "example.org", "", "person@a.example.org", False, "not of it"),
    Row("domain above", "a.example.org", "", "person@example.org", False, "not of it"),
    Row("domain, same end", "example.org", "", "person@badexample.org", False, "another domain"),
    Row("domain as local part", "example.org", "", "example.org@example.net", False, "the domain counts"),
    Row("domain alone", "example.org", "", "example.org", False, "no address"),
    Row("below", ".example.org", "", "person@a.example.org", True, "below"),
    Row("far below", ".example.org", "", "person@c.b.a.example.org", True, "below"),
    Row("below, not itself", ".example.org", "", "person@example.org", False, "itself is not below"),
    Row("below, same end", ".example.org", "", "person@badexample.org", False, "another domain"),
    Row("U-label", "xn--bcher-kva.example", "", "person@b\u00fccher.example", True, "one domain in two forms (RFC 5890 2.3.2.1)"),
    Row("U-label, case", "xn--bcher-kva.example", "", "person@B\u00dcCHER.example", True, "the same"),
    Row("A-label", "xn--bcher-kva.example", "", "person@XN--Bcher-kva.example", True, "the same"),
    Row("U-label, address", "person@xn--bcher-kva.example", "", "person@b\u00fccher.example", True, "the same"),
    Row("U-label, below", ".xn--bcher-kva.example", "", "person@a.b\u00fccher.example", True, "the same"),
    Row("U-label, another", "xn--bcher-kva.example", "", "person@bucher.example", False, "another domain"),
    Row("a very long U-label", "example.org", "", "person@" + "\u00fc" * 90_000 + ".example.org", False, "no name, and no work"),
    Row("network", "192.0.2.0/24", "192.0.2.7", "", True, "in it"),
    Row("network, outside", "192.0.2.0/24", "198.51.100.7", "", False, "not in it"),
    Row("network, mapped", "192.0.2.0/24", "::ffff:192.0.2.7", "", True, "IPv4 all the same"),
    Row("network, IPv6", "2001:db8::/32", "IPv6:2001:db8::1", "", True, "as the milter writes it"),
    Row("network, IPv6 outside", "2001:db8::/32", "2001:db9::1", "", False, "not in it"),
    Row("network, unknown client", "0.0.0.0/0", "unknown", "", False, "nobody is in no network"),
    Row("network, no client", "::/0", "", "", False, "the same"),
    Row("network, as an address", "192.0.2.0/24", "", "person@192.0.2.7", False, "a network is for clients"),
    Row("network, address literal", "192.0.2.7/32", "", "person@[192.0.2.7]", False, "who the client is Postfix says"),
    Row("domain, as a client", "example.org", "example.org", "", False, "a client is an address"),
    Row("null sender", "example.org", "", "", False, "nobody"),
    Row("null sender in brackets", "example.org", "", "<>", False, "nobody"),
    Row("no domain", "person@example.org", "", "person", False, "no address"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_each_kind_of_entry(row: Row) -> None:
    """An entry names what it is written for, in each spelling of that, and nothing beside it."""
    assert named((row.entry,), row.client, (row.address,)) == (row.entry if row.named else ""), row.why


def test_the_first_that_names_one_is_told() -> None:
    """Of several entries the first in the order of the configuration; any address may be the one."""
    entries = ("example.net", ".example.org", "192.0.2.0/24", "person@a.example.org")
    assert named(entries, "192.0.2.7", ("x@example.com", "person@a.example.org")) == ".example.org"
    assert named(entries, "192.0.2.7", ()) == "192.0.2.0/24"
    assert named(entries, "", ("x@example.com",)) == ""
    assert named((), "192.0.2.7", ("person@example.org",)) == ""


@given(st.text(max_size=60), st.text(max_size=60))
def test_total(client: str, address: str) -> None:
    """Whatever texts come, there is an answer."""
    assert (
        named(("example.org", ".example.org", "a@example.org", "192.0.2.0/24", "::/0"), client, (address, f"a@{address}"))
        is not None
    )
