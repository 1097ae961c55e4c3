"""A client's address, in each form in which Postfix and the milter write one: as numbers, and the networks around it."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.client_address import client_network, numbers, within


class Network(NamedTuple):
    id: str
    address: str
    network: str
    reason: str


NETWORKS = [
    Network("v4", "192.0.2.77", "192.0.2.0/24", "a sender's host has neighbours that are the same people"),
    Network("v4-tagged", "IPv6:192.0.2.77", "192.0.2.0/24", "the tag alone says nothing"),
    Network("v6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "one host has a /64 to itself (RFC 4291 2.5.4)"),
    Network("v6-short", "2001:db8::1", "2001:db8:0:0::/64", "zeros left out are zeros"),
    Network("v6-upper", "2001:DB8:A::1", "2001:db8:a:0::/64", "two spellings are one network"),
    Network("v6-tagged", "IPv6:2001:db8::1", "2001:db8:0:0::/64", "RFC 5321 4.1.3"),
    Network("v6-tagged-upper", "IPV6:2001:db8::1", "2001:db8:0:0::/64", "XFORWARD's spelling"),
    Network("v6-zone", "fe80::1%eth0", "fe80:0:0:0::/64", "a zone is this host's own name for a link"),
    Network("mapped", "::ffff:192.0.2.77", "192.0.2.0/24", "a socket for both families shows IPv4 so"),
    Network("mapped-hex", "::FFFF:c000:24d", "192.0.2.0/24", "the same, without dots"),
    Network("dotted-v6", "2001:db8::192.0.2.77", "2001:db8:0:0::/64", "RFC 4291 2.2 form 3, and no IPv4 address"),
    Network("all-ahead", "1:2:3:4:5:6:7::", "1:2:3:4::/64", ":: may stand for one group"),
    Network("all-behind", "::2:3:4:5:6:7:8", "0:2:3:4::/64", "the same at the front"),
    Network("loopback", "127.0.0.1", "", "a filter on this host: all strangers would share it"),
    Network("loopback-6", "::1", "", "the same"),
    Network("loopback-mapped", "::ffff:127.0.0.1", "", "the same"),
    Network("any", "::", "", "the unspecified address"),
    Network("any-4", "0.0.0.0", "", "the unspecified address"),
    Network("empty", "", "", "sendmail(1): there is no client"),
    Network("unknown", "unknown", "", "Postfix has none"),
    Network("unavailable", "[UNAVAILABLE]", "", "XFORWARD has none"),
    Network("name", "mx.example.org", "", "not an address"),
    Network("brackets", "[192.0.2.7]", "", "not Postfix's form"),
    Network("three", "192.0.2", "", "some read it as 192.0.0.2"),
    Network("five", "192.0.2.1.5", "", "no address"),
    Network("big", "192.0.2.256", "", "no address"),
    Network("octal", "192.0.02.1", "", "some read it as octal"),
    Network("digits", "\u0661.2.3.4", "", "isdigit() alone would take it"),
    Network("sign", "+1.2.3.4", "", "int() alone would take it"),
    Network("sign-6", "+1::", "", "int() alone would take it"),
    Network("underscore-6", "1_1::", "", "int() alone would take it"),
    Network("two-gaps", "1::2::3", "", "ambiguous"),
    Network("gap-for-nothing", "1:2:3:4::5:6:7:8", "", ":: stands for at least one group"),
    Network("nine", "1:2:3:4:5:6:7:8:9", "", "too many groups"),
    Network("seven", "1:2:3:4:5:6:7", "", "too few groups"),
    Network("colons", ":::", "", "no address"),
    Network("five-digits", "12345::", "", "too large a group"),
    Network("dotted-in-front", "1.2.3.4::1", "", "the dotted form stands last"),
    Network("dotted-wrong", "::1.2.3", "", "no address in the last place"),
    Network("long", "1:" * 50_000, "", "garbage of any size"),
    Network("nul", "192.0.2.1\0", "", "no address"),
    Network("surrogate", "\udcff", "", "what was not UTF-8"),
]


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: row.id)
def test_client_network(row: Network) -> None:
    """An address gives its /24 or /64 in one spelling; what names nobody, or this host, gives nothing."""
    assert client_network(row.address) == row.network, row.reason


@given(st.ip_addresses())
def test_client_network_of_every_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Every address that the standard library writes is read as the standard library reads it, in each of its forms."""
    mapped = getattr(address, "ipv4_mapped", None) or address
    ours = client_network(str(address))
    assert ours == client_network(address.exploded)
    if mapped.is_loopback or int(mapped) == 0 or (mapped.version == 4 and int(mapped) >> 24 == 0):
        assert ours == ""
    else:
        length = 24 if mapped.version == 4 else 64
        assert ipaddress.ip_network(ours) == ipaddress.ip_network((mapped, length), strict=False)


@given(st.one_of(st.text(), st.text("0123456789abcdef:.%", max_size=50)))
def test_client_network_is_total(text: str) -> None:
    """Whatever text stands there, there is an answer, and it is never one that the standard library would refuse."""
    answer = client_network(text)
    if answer:
        plain = text[5:] if text[:5].lower() == "ipv6:" else text
        ipaddress.ip_address(plain.partition("%")[0])
        ipaddress.ip_network(answer)


# In which network


WITHIN = [
    ("192.0.2.7", "192.0.2.0/24", True, "in it"),
    ("192.0.2.0", "192.0.2.0/24", True, "its first"),
    ("192.0.2.255", "192.0.2.0/24", True, "its last"),
    ("192.0.3.0", "192.0.2.0/24", False, "one behind"),
    ("192.0.1.255", "192.0.2.0/24", False, "one before"),
    ("192.0.2.7", "192.0.2.7/32", True, "itself"),
    ("192.0.2.6", "192.0.2.7/32", False, "its neighbour"),
    ("198.51.100.9", "0.0.0.0/0", True, "everybody"),
    ("192.0.2.129", "192.0.2.128/25", True, "a prefix within an octet"),
    ("192.0.2.127", "192.0.2.128/25", False, "the other half"),
    ("::ffff:192.0.2.7", "192.0.2.0/24", True, "mapped: the same host (RFC 4291 2.5.5.2)"),
    ("::FFFF:c000:207", "192.0.2.0/24", True, "the same, without dots"),
    ("IPv6:::ffff:192.0.2.7", "192.0.2.0/24", True, "with the tag of RFC 5321 4.1.3"),
    ("2001:db8::1", "2001:db8::/32", True, "in it"),
    ("IPv6:2001:DB8:ffff::1", "2001:db8::/32", True, "tagged, and in capitals"),
    ("2001:db9::1", "2001:db8::/32", False, "one behind"),
    ("fe80::1%eth0", "fe80::/10", True, "with a zone"),
    ("2001:db8::1", "2001:db8::1/128", True, "itself"),
    ("2001:db8::2", "2001:db8::1/128", False, "its neighbour"),
    ("2001:db8::8000", "2001:db8::8000/113", True, "a prefix within a group"),
    ("2001:db8::7fff", "2001:db8::8000/113", False, "the other half"),
    ("2001:db8::1", "::/0", True, "everybody with IPv6"),
    ("192.0.2.7", "::/0", False, "IPv4 is another kind"),
    ("2001:db8::1", "0.0.0.0/0", False, "IPv6 is another kind"),
    ("192.0.2.7", "192.0.2.0", False, "no prefix, no network"),
    ("192.0.2.7", "192.0.2.0/", False, "the same"),
    ("192.0.2.7", "mx.example.org/24", False, "no address"),
]


@pytest.mark.parametrize(("address", "network", "inside"), [row[:3] for row in WITHIN], ids=[f"{r[0]} {r[3]}" for r in WITHIN])
def test_within(address: str, network: str, inside: bool) -> None:
    """An address is in a network of its own kind whose prefix it begins with."""
    found = numbers(address)
    assert found is not None
    assert within(found, network) is inside


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_within_is_the_standard_library_s(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, base: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int
) -> None:
    """For every address and network the answer is the standard library's, but that a mapped address is the IPv4 one."""
    network = ipaddress.ip_network((base, min(prefix, base.max_prefixlen)), strict=False)
    if getattr(network.network_address, "ipv4_mapped", None):
        return  # config writes such a network as IPv4
    plain = getattr(address, "ipv4_mapped", None) or address
    found = numbers(str(address))
    assert found is not None
    assert within(found, str(network)) == (plain.version == network.version and plain in network)


@given(st.ip_addresses())
def test_numbers(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Four octets or eight groups, in each spelling that the standard library has."""
    plain = getattr(address, "ipv4_mapped", None) or address
    size = 1 if plain.version == 4 else 2
    packed = plain.packed
    expected = tuple(int.from_bytes(packed[at : at + size]) for at in range(0, len(packed), size))
    for text in (str(address), address.exploded, str(address).upper(), f"IPv6:{address}"):
        assert numbers(text) == expected


@given(st.text(max_size=60))
def test_numbers_is_total(text: str) -> None:
    """Whatever text stands there is an address or nobody."""
    found = numbers(text)
    assert found is None or (len(found), max(found) < 256 if len(found) == 4 else max(found) < 65_536) in ((4, True), (8, True))
