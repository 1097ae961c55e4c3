"""What `firewall_open` and the networks of the role mean, as the templates and the tasks need it.

Promises: everything that stands in the result may be written into a ruleset as it is; what is not understood is an error that
names it. Never: reads a file, asks the network, or needs more than the standard library.
"""

from __future__ import annotations

import ipaddress
import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["FilterModule", "covers", "networks", "opened", "other_drops", "pairs", "rich_rule", "ssh_ports", "ufw_missing"]

#: nft's own words for the unit of a rate (nft(8), LIMIT STATEMENT), without day and week: no set keeps a source for so long.
RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour)")

#: How long a source stays in the set that counts its rate after its last new connection: the unit's length.
KEEP = {"second": "1s", "minute": "1m", "hour": "1h"}

#: A line of `ss -Hltnp`: state, two queues, the local address and port, the peer, the process.
LISTENING = re.compile(r'LISTEN\s+\d+\s+\d+\s+\S*:(\d{1,5})\s.*"sshd"')

#: A line of `sshd -T`.
CONFIGURED = re.compile(r"port (\d{1,5})")

#: A line of `ufw show added`: what becomes of the packets, and which they are.
UFW_RULE = re.compile(r"ufw (?P<action>allow|limit|deny|reject)(?: log| log-all)? (?P<which>.+?)(?: comment '.*')?")


def networks(given: Iterable[object]) -> dict[str, list[str]]:
    """Addresses and networks by family, each written as nft, ufw and firewalld print it; ValueError names what is neither."""
    families: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    for item in given:
        network = ipaddress.ip_network(str(item).strip(), strict=False)
        text = str(network.network_address) if network.num_addresses == 1 else str(network)
        family = families[f"ipv{network.version}"]
        if text not in family:
            family.append(text)
    return families


def covers(given: Iterable[object], address: str) -> bool:
    """Is the address in one of the networks? No network at all means the world. A zone (`%eth0`) does not count."""
    nets = [ipaddress.ip_network(str(item).strip(), strict=False) for item in given]
    one = ipaddress.ip_address(address.partition("%")[0])
    return not nets or any(one in net for net in nets)


def opened(given: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Each entry of `firewall_open` with its defaults, its networks by family and a name; ValueError names the wrong one."""
    entries: list[dict[str, object]] = []
    for number, entry in enumerate(given, 1):
        try:
            entries.append(_opened(entry, number))
        except (ValueError, TypeError) as wrong:
            raise ValueError(f"firewall_open, entry {number} ({dict(entry)}): {wrong}") from wrong
    return entries


def _opened(entry: Mapping[str, object], number: int) -> dict[str, object]:
    unknown = sorted(set(entry) - {"port", "proto", "from", "rate", "burst", "count"})
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    port = int(str(entry["port"])) if "port" in entry else 0
    if not 0 < port < 65536:
        raise ValueError("port must be 1 to 65535")
    proto = str(entry.get("proto") or "tcp")
    if proto not in ("tcp", "udp"):
        raise ValueError("proto must be tcp or udp")
    given = entry.get("from") or []
    if not isinstance(given, list):
        raise ValueError("from must be a list of networks")
    rate, keep = _rate(str(entry.get("rate") or ""))
    burst, count = int(str(entry.get("burst") or 0)), int(str(entry.get("count") or 0))
    if burst < 0 or count < 0:
        raise ValueError("burst and count cannot be negative")
    if count and proto != "tcp":
        raise ValueError("count is for tcp: udp has no connections")
    return {
        "name": f"{proto}_{port}_{number}",
        "port": port,
        "proto": proto,
        "world": not given,
        **networks(given),
        "rate": rate,
        "keep": keep,
        "burst": burst or (int(rate.partition("/")[0]) if rate else 0),
        "count": count,
    }


def _rate(text: str) -> tuple[str, str]:
    if not text:
        return "", ""
    match = RATE.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(f"rate {text!r} is not NUMBER/second, NUMBER/minute or NUMBER/hour")
    return match[0], KEEP[match[2]]


def ssh_ports(given: Iterable[object], *, connection: str = "", listening: str = "", configured: str = "") -> list[int]:
    """The ports by which people come in.

    The given ones, that of SSH_CONNECTION (its fourth word), those where an sshd listens (`ss -Hltnp`) and those where it will
    after its next start (`sshd -T`).
    """
    ports = {int(str(port)) for port in given}
    ports.update(int(match[1]) for match in map(LISTENING.match, listening.splitlines()) if match)
    ports.update(int(match[1]) for match in map(CONFIGURED.fullmatch, configured.splitlines()) if match)
    words = connection.split()
    if len(words) == 4:
        ports.add(int(words[3]))
    return sorted(ports)


def other_drops(chains: str) -> list[str]:
    """Chains of other tables that drop what they do not name, from `nft -j list chains`; [] where there is no answer.

    firewalld's chain has the policy `accept`, and a last rule that rejects.
    """
    try:
        listed = json.loads(chains)["nftables"]
    except (ValueError, KeyError, TypeError):
        return []
    found = [item["chain"] for item in listed if "chain" in item]
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in found
        if chain.get("hook") == "input"
        and (chain.get("policy") == "drop" or chain["table"] == "firewalld")
        and (chain["family"], chain["table"]) != ("inet", "gatepost")
    ]


def pairs(entries: Iterable[Mapping[str, object]]) -> list[list[object]]:
    """Each entry with each of its networks, or with `any`: for filters whose rules take one source."""
    return [[entry, source] for entry in entries for source in _sources(entry)]


def _sources(entry: Mapping[str, object]) -> list[str]:
    if entry["world"]:
        return ["any"]
    return [source for family in ("ipv4", "ipv6") for source in entry[family]]  # type: ignore[attr-defined]


def rich_rule(entry: Mapping[str, object], source: str) -> str:
    """A pair in firewalld's rich language (firewalld.richlanguage(5)), as firewalld prints it."""
    family = "ipv6" if ":" in source else "ipv4"
    origin = "" if source == "any" else f'family="{family}" source address="{source}" '
    return f'rule {origin}port port="{entry["port"]}" protocol="{entry["proto"]}" accept'


def ufw_missing(wanted: Iterable[tuple[Mapping[str, object], str]], added: str) -> list[list[object]]:
    """The pairs of which no rule of ufw (`ufw show added`) says anything yet.

    A rule that lets them through already stays as it is: ufw would put ours in its place.
    ValueError: the first rule about a pair shuts it.
    """
    rules = [match for match in map(UFW_RULE.fullmatch, added.splitlines()) if match]
    missing: list[list[object]] = []
    for entry, source in wanted:
        forms = _ufw_forms(entry, source)
        first = next((rule for rule in rules if rule["which"] in forms), None)
        if first is None:
            missing.append([entry, source])
        elif first["action"] in ("deny", "reject"):
            raise ValueError(
                f"ufw has the rule `{first['action']} {first['which']}`, which shuts {entry['port']}/{entry['proto']} "
                f"from {source} whatever comes after it: take that rule away (ufw delete ...), or the port out of firewall_open"
            )
    return missing


def _ufw_forms(entry: Mapping[str, object], source: str) -> set[str]:
    """How ufw prints a rule that is about the whole of a pair."""
    forms = {f"{entry['port']}/{entry['proto']}", f"{entry['port']}"}
    if source != "any":
        forms |= {f"from {source} to any port {entry['port']}{proto}" for proto in ("", f" proto {entry['proto']}")}
        forms.add(f"from {source}")
    return forms


class FilterModule:
    """How Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """The filters by the names that the role uses."""
        return {
            "firewall_networks": networks,
            "firewall_covers": covers,
            "firewall_opened": opened,
            "firewall_other_drops": other_drops,
            "firewall_pairs": pairs,
            "firewall_rich_rule": rich_rule,
            "firewall_ssh_ports": ssh_ports,
            "firewall_ufw_missing": ufw_missing,
        }
