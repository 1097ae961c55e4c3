"""The DNS records of a domain that only receives mail: which there must be, and how those that there are differ.

Promises: the same input gives the same answer; text from DNS is compared, quoted and printed, and never makes it raise.
Never: asks the network, or takes another's text in a set of TXT records for ours (which begin with a version: `v=spf1`).
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Change",
    "Host",
    "Key",
    "Wanted",
    "asked_for",
    "differences",
    "login_domain",
    "name_of",
    "sts_id",
    "sts_policy",
    "text_after",
    "text_before",
    "text_to_paste",
    "wanted",
]

#: Owner name (lower case, no final dot) and type of a set of records.
Key = tuple[str, str]

#: RFC 1035, section 3.3: a character string holds at most 255 octets; a longer text is several of them, read as one.
STRING = 255

#: A sender keeps a policy at least this long (RFC 8461, section 3.2, wants weeks where it is enforced).
STS_MAX_AGE = {"testing": 86_400, "enforce": 1_209_600, "none": 86_400}

#: Addresses before what points to them: a server may refuse an MX whose host has none (BIND's check-mx).
ORDER = {"CNAME": 0, "A": 1, "AAAA": 2, "MX": 3, "TXT": 4}


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host that takes the domain's mail. `sure`: the addresses were given, not seen on the host, where NAT hides them."""

    name: str
    priority: int = 10
    addresses: tuple[str, ...] = ()
    sure: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a set of records must hold.

    `version`: only texts that begin with it are ours, the others in the set stay. `only_if_none`: if anything of ours stands
    there, it stays.
    """

    name: str
    type: str
    values: tuple[str, ...]
    why: str
    version: str = ""
    only_if_none: bool = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is too much and what is missing in one set of records."""

    name: str
    type: str
    remove: tuple[str, ...]
    add: tuple[str, ...]
    why: str


def name_of(text: str) -> str:
    """A domain name as it is compared: ASCII (IDNA), lower case, no final dot. ValueError: not a domain name."""
    bare = text.strip().rstrip(".").lower()
    labels = [label if label.isascii() else label.encode("idna").decode("ascii") for label in bare.split(".")]
    name = ".".join(labels)
    if not 0 < len(name) < 254 or any(not 0 < len(label) < 64 or not set(label) <= _LABEL for label in labels):
        raise ValueError(f"{text!r} is not a domain name")
    return name


_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def login_domain(domain: str, login_domains: Iterable[str]) -> str:
    """The login domain that the mail domain equals or contains (is a parent of), or an empty text."""
    mail = name_of(domain)
    for login in login_domains:
        if (name_of(login) + ".").endswith(f"{mail}.") and (name_of(login) == mail or name_of(login).endswith(f".{mail}")):
            return name_of(login)
    return ""


def sts_policy(mode: str, hosts: Iterable[Host]) -> str:
    """The policy file that https://mta-sts.DOMAIN/.well-known/mta-sts.txt must answer with (RFC 8461, section 3.2)."""
    names = sorted({name_of(host.name) for host in hosts})
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {name}" for name in names), f"max_age: {STS_MAX_AGE[mode]}"]
    return "".join(f"{line}\n" for line in lines)


def sts_id(policy: str) -> str:
    """The policy's id: another one whenever the file changes, which is how senders learn of it (RFC 8461, section 3.1)."""
    return hashlib.sha256(policy.encode()).hexdigest()[:32]


def wanted(
    domain: str,
    hosts: Iterable[Host],
    *,
    spf: str,
    host_spf: str = "",
    dmarc: str = "",
    tls_reports: Iterable[str] = (),
    sts: str = "none",
    sts_web: Iterable[str] = (),
) -> tuple[Wanted, ...]:
    """Every set of records that the domain needs, addresses first. No host: what there is of ours must go."""
    mail = name_of(domain)
    all_hosts = tuple(hosts)
    sets: list[Wanted] = []
    for host in all_hosts:
        sets += _host(host, host_spf)
    values = tuple(
        f"{host.priority} {name_of(host.name)}" for host in sorted(all_hosts, key=lambda one: (one.priority, one.name))
    )
    sets.append(Wanted(name=mail, type="MX", values=values, why="where the domain's mail goes"))
    reports = ",".join(uri if ":" in uri else f"mailto:{uri}" for uri in tls_reports)
    policy = sts_policy(sts, all_hosts)
    texts = (
        (mail, "v=spf1", spf, "who may send from the domain: nobody"),
        (f"_dmarc.{mail}", "v=DMARC1", dmarc, "what becomes of mail that claims to be from the domain"),
        (f"_smtp._tls.{mail}", "v=TLSRPTv1", f"v=TLSRPTv1; rua={reports}" if reports else "", "who is told when TLS fails"),
        (f"_mta-sts.{mail}", "v=STSv1", f"v=STSv1; id={sts_id(policy)};" if sts != "none" else "", "there is a policy for TLS"),
    )
    for name, version, text, why in texts:
        if text or not all_hosts:
            sets.append(Wanted(name=name, type="TXT", values=(text,) if all_hosts else (), version=version, why=why))
    if sts != "none" and all_hosts:
        sets += _web(f"mta-sts.{mail}", tuple(sts_web))
    return tuple(sorted(sets, key=lambda one: (ORDER[one.type], one.name)))


def _host(host: Host, spf: str) -> list[Wanted]:
    name = name_of(host.name)
    sets = [
        Wanted(name=name, type=kind, values=values, why="the host that takes the mail", only_if_none=not host.sure)
        for kind, values in _addresses(host.addresses)
    ]
    if spf:
        sets.append(
            Wanted(name=name, type="TXT", values=(spf,), version="v=spf1", why="the host's own notices pass", only_if_none=True)
        )
    return sets


def _addresses(given: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    parsed = [ipaddress.ip_address(text.strip()) for text in given]
    kinds = (("A", 4), ("AAAA", 6))
    return [
        (kind, values) for kind, version in kinds if (values := tuple(sorted({str(a) for a in parsed if a.version == version})))
    ]


def _web(name: str, web: tuple[str, ...]) -> list[Wanted]:
    why = "the web server that has the policy"
    try:
        return [Wanted(name=name, type=kind, values=values, why=why) for kind, values in _addresses(web)]
    except ValueError:
        return [Wanted(name=name, type="CNAME", values=tuple(name_of(host) for host in web), why=why)]


def differences(sets: Iterable[Wanted], found: Mapping[Key, Iterable[str]]) -> tuple[Change, ...]:
    """What must change for `found` to be as wanted, in the order in which a server takes it; TTLs do not count."""
    listed = tuple(sets)
    changes = _aliases(listed, found)
    for one in listed:
        there = [_compared(one.type, value) for value in found.get((one.name, one.type), ())]
        ours = [value for value in there if not one.version or _begins(value, one.version)]
        if one.only_if_none and ours:
            continue
        remove = tuple(value for value in ours if value not in one.values)
        add = tuple(value for value in one.values if value not in ours)
        if remove or add:
            changes.append(Change(name=one.name, type=one.type, remove=remove, add=add, why=one.why))
    return tuple(sorted(changes, key=lambda change: (bool(change.add), ORDER[change.type])))


def asked_for(sets: Iterable[Wanted]) -> tuple[Key, ...]:
    """Every set of records that `differences` looks at: the wanted ones, and what may not stand beside them."""
    keys = {(one.name, kind) for one in sets for kind in (one.type, *_barred(one))}
    return tuple(sorted(keys))


def _barred(one: Wanted) -> tuple[str, ...]:
    """An alias stands alone (RFC 1034, section 3.6.2)."""
    if not one.values:
        return ()
    return ("A", "AAAA") if one.type == "CNAME" else ("CNAME",)


def _aliases(sets: Iterable[Wanted], found: Mapping[Key, Iterable[str]]) -> list[Change]:
    """What must go first because a wanted set may not stand beside it."""
    barred = {(one.name, kind) for one in sets for kind in _barred(one)} - {(one.name, one.type) for one in sets}
    gone = [(key, tuple(_compared(key[1], value) for value in found.get(key, ()))) for key in sorted(barred)]
    why = "an alias stands alone"
    return [Change(name=name, type=kind, remove=values, add=(), why=why) for (name, kind), values in gone if values]


def _begins(text: str, version: str) -> bool:
    """Has a text this version? After it comes a blank, a semicolon or nothing (`v=spf10` is another)."""
    head, rest = text[: len(version)], text[len(version) :]
    return head.lower() == version.lower() and (not rest or rest[0] in " ;\t")


def _compared(kind: str, value: str) -> str:
    """A record's data as it is compared: names in lower case without a final dot, addresses in their short form."""
    if kind == "TXT":
        return value
    if kind in ("A", "AAAA"):
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            return value
    return value.lower().rstrip(".")


def _line(name: str, kind: str, value: str, ttl: int) -> str:
    """A record in zone-file form, names absolute (RFC 1035, section 5)."""
    data = value
    if kind == "TXT":
        data = _quoted(value)
    elif kind in ("MX", "CNAME"):
        data = f"{value}."
    return f"{name}. {ttl} IN {kind} {data}"


def _quoted(text: str) -> str:
    octets = text.encode("utf-8", "surrogateescape")
    strings = [octets[start : start + STRING] for start in range(0, len(octets), STRING)] or [b""]
    return " ".join(f'"{"".join(map(_escaped, string))}"' for string in strings)


def _escaped(octet: int) -> str:
    character = chr(octet)
    if character in '"\\':
        return f"\\{character}"
    return character if 32 <= octet < 127 else f"\\{octet:03d}"


def text_to_paste(changes: Iterable[Change], ttl: int) -> str:
    """The missing records, ready for a zone file; those that must go are comments. Empty where nothing is missing."""
    lines: list[str] = []
    for change in changes:
        lines.append(f"; {change.name}: {change.why}")
        lines += [f";   remove: {_line(change.name, change.type, value, ttl)}" for value in change.remove]
        lines += [_line(change.name, change.type, value, ttl) for value in change.add]
    return "".join(f"{line}\n" for line in lines)


def text_before(changes: Iterable[Change], ttl: int) -> str:
    """What a diff shows as the state before."""
    return "".join(f"{_line(change.name, change.type, value, ttl)}\n" for change in changes for value in change.remove)


def text_after(changes: Iterable[Change], ttl: int) -> str:
    """What a diff shows as the state after."""
    return "".join(f"{_line(change.name, change.type, value, ttl)}\n" for change in changes for value in change.add)
