"""Hosts that filter packets with ufw or firewalld already, and what nftables does with IPv6 and with networks.

Promises: what a person has set up before stays, is in force, and is what is left when the role is gone; every figure of the packets is taken
from sender, over the network, in both families.
Never: takes a rule that is listed for one that acts.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.lab.machine import run, wait_for
from tests.lab.net import inside
from tests.lab.places import ADDRESSES, CONTROLLER
from tests.lab.post import new_mail
from tests.lab.scenario_door import from_sender, hand, ports
from tests.lab.scenario_outage import rebooted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab.controller import Played
    from tests.lab.course import Course
    from tests.lab.guest import Guest

__all__ = ["firewalls"]

#: What strangers connect from, all of it at sender: each IPv4 address is a source, and each IPv6 /64. The person has shut out the last.
_HOLDS, _KNOCKS, _ANOTHER, _UNLOVED = "10.77.0.31", "10.77.0.32", "10.77.0.33", "10.77.0.35"
_HOLDS6, _KNOCKS6, _SAME6, _ANOTHER6 = "fd77:0:0:1::30", "fd77:0:0:2::30", "fd77:0:0:2::31", "fd77:0:0:3::30"
_SOURCES: Final = (_HOLDS, _KNOCKS, _ANOTHER, _UNLOVED, _HOLDS6, _KNOCKS6, _SAME6, _ANOTHER6)
#: Few, and hours until there is room again: what is let in does not hang on how long the run takes.
_RATE: Final[dict[str, Any]] = {"port": 25, "rate": "30/hour", "burst": 10, "count": 5}
#: A service of the person's own, on a port that `ports` does not look at.
_SHOP: Final = 4711
_OPEN: Final[dict[str, Any]] = {"firewall_open": [_RATE]}
#: For one IPv4 network of two addresses, and one IPv6 network.
_GIVEN: Final[dict[str, Any]] = {"firewall_open": [{"port": 25, "from": ["10.77.0.32/31", "fd77:0:0:3::/64"]}]}

_UFW: Final = f"""\
ufw default deny incoming
ufw allow from {CONTROLLER.ipv4} to any port 22 proto tcp
ufw allow from {CONTROLLER.ipv6} to any port 22 proto tcp
ufw deny from {_UNLOVED} comment 'never again'
ufw allow {_SHOP}/tcp comment 'the shop'
ufw --force enable
"""
#: The host's door is not in the default zone.
_FIREWALLD: Final = f"""\
zone="firewall-cmd -q --permanent --zone=dmz"
$zone --change-interface=eth0
$zone --remove-service=ssh
$zone --add-rich-rule='rule family="ipv4" source address="{CONTROLLER.ipv4}" service name="ssh" accept'
$zone --add-rich-rule='rule family="ipv6" source address="{CONTROLLER.ipv6}" service name="ssh" accept'
$zone --add-rich-rule='rule family="ipv4" source address="{_UNLOVED}" drop'
$zone --add-port={_SHOP}/tcp
firewall-cmd -q --reload
"""
#: The person's own rules, in the file that the host loads at boot.
_NFTABLES: Final = f"""\
#!/usr/sbin/nft -f
flush ruleset
table inet shop {{
    chain input {{
        type filter hook input priority -5; policy accept;
        ip saddr {_UNLOVED} drop
    }}
}}
"""
#: Somebody who greets at port 25 where no Postfix is, after a reboot too.
_GREETER: Final = """\
import socket, socketserver
class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 x\\r\\n")
        self.rfile.read()
class Server(socketserver.ThreadingTCPServer):
    address_family, request_queue_size, daemon_threads = socket.AF_INET6, 100, True
Server(("::", 25), Greeter).serve_forever()
"""
_GREETER_UNIT: Final = """\
[Service]
ExecStart=/usr/bin/python3 /opt/greeter.py
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class _Filter:
    """A filter that a host uses already. `ours`: the rule of ours that it has beside the person's, wherever it is kept; `reload`: what a person does."""

    host: str
    package: str
    setup: str
    rules: str
    ours: tuple[str, ...]
    reload: str


_FILTERS: Final = (
    _Filter("r2", "ufw", _UFW, "ufw show added", ("ufw allow 25/tcp comment 'gatepost'",), "ufw reload"),
    _Filter(
        "r3",
        "firewalld",
        _FIREWALLD,
        "firewall-cmd --list-all-zones; firewall-cmd --permanent --list-all-zones",
        ('rule port port="25" protocol="tcp" accept',) * 2,
        "firewall-cmd -q --complete-reload",
    ),
)
_HOSTS: Final = tuple(each.host for each in _FILTERS)


def firewalls(course: Course) -> None:
    """ufw and firewalld, each with rules of the person's own; then nftables."""
    with _strangers(course):
        course.world.fresh(*_HOSTS)
        _used_already(course)
        _given_networks(course, _HOSTS)
        _the_persons_own(course)
        _nftables(course)


# --- ufw, firewalld -------------------------------------------------------------------------------------------------------


def _used_already(course: Course) -> None:
    """From --check to a reboot, and away again."""
    before = {}
    for each in _FILTERS:
        guest = course.world.guest(each.host)
        _install(guest, each.package)
        guest.run("sh", "-ec", each.setup)
        before[each.host] = _rules(course, each)
    played = course.controller.play(_HOSTS, "--check", "--tags", "firewall", variables=_OPEN)
    course.expect("--check: exit status", played.status, 0)
    for each in _FILTERS:
        course.hold(
            f"{each.package}: --check sees work to do", _changed(played).get(each.host, 0) > 0, f"actual {played.recaps}"
        )
        course.expect(f"{each.package}: rules after --check", _rules(course, each), before[each.host])
        course.expect(f"{each.package}: what --check has left", _left(course.world.guest(each.host)), "")
    course.controller.converge(_HOSTS, "--skip-tags", "mx", variables=_OPEN)
    for arguments in ((), ("--check", "--diff")):
        played = course.controller.play(_HOSTS, *arguments, "--tags", "firewall", variables=_OPEN)
        said = " ".join(arguments) or "second run"
        course.expect(f"{said}: exit status, changed", (played.status, _changed(played)), (0, dict.fromkeys(_HOSTS, 0)))
        course.expect(f"{said}: lines of a diff", re.findall(r"^(?:---|\+\+\+|@@).*", played.output, re.MULTILINE), [])
    for each in _FILTERS:
        _as_it_should_be(course, each, before[each.host])
        course.world.guest(each.host).run("sh", "-ec", each.reload)
        _limits(course, each.host, f"{each.package}, reloaded")
        rebooted(course, each.host)
        _as_it_should_be(course, each, before[each.host])
        _limits(course, each.host, f"{each.package}, rebooted")
    ports(course, _HOSTS)

    course.controller.converge(_HOSTS, "--tags", "firewall", variables={**_OPEN, "firewall_state": "absent"})
    for each in _FILTERS:
        course.expect(f"{each.package}: rules after `absent`", _rules(course, each), before[each.host])
        course.expect(f"{each.package}: our table, unit and file after `absent`", _left(course.world.guest(each.host)), "")
        course.expect(
            f"{each.package}: after `absent`: connections to port 25", _reached(course, each.host, _ANOTHER, _ANOTHER6), []
        )


def _as_it_should_be(course: Course, each: _Filter, before: Counter[str]) -> None:
    """The person's rules and one of ours; no second filter; mail comes in, and to the shop who may."""
    guest, rules = course.world.guest(each.host), _rules(course, each)
    course.expect(f"{each.package}: the person's rules that are gone", [*(before - rules).elements()], [])
    course.expect(f"{each.package}: rules of ours", [*(rules - before).elements()], [*each.ours])
    course.expect(f"{each.package}: nftables.service", guest.try_run("systemctl", "is-enabled", "nftables").strip(), "disabled")
    chain = guest.run("nft", "-s", "list", "chain", "inet", "gatepost", "input")
    course.expect(f"{each.package}: our table: drops what it does not name", "policy drop" in chain, False)
    for address in (guest.address.ipv4, guest.address.ipv6):
        guest.run("systemd-run", "-q", "--unit=shop", "python3", "-m", "http.server", "--bind", address, str(_SHOP))
        wait_for(lambda: guest.listens(_SHOP), what="the shop to open")
        seen = from_sender(course, "scan", {"address": address, "ports": [22, 25, _SHOP, _SHOP + 1]})
        guest.run("systemctl", "stop", "shop")
        course.expect(f"{each.package}: open ports of {address} from sender", seen, [25, _SHOP])
    course.expect(f"{each.package}: from whom the person has shut out", _reached(course, each.host, _UNLOVED), [])
    mail = new_mail(course.post.address("order-9"))
    course.expect(f"{each.package}: mail taken", hand(course, each.host, mail), 1)
    course.expect(f"{each.package}: copies at the app", len(course.post.wait_arrivals([mail])), 1)


def _given_networks(course: Course, hosts: Sequence[str]) -> None:
    """Port 25 for some networks: those are let in, in both families, and nobody else."""
    course.controller.converge(hosts, "--tags", "firewall", variables=_GIVEN)
    second = course.controller.converge(hosts, "--tags", "firewall", variables=_GIVEN)
    course.expect("port 25 for given networks: second run: changed", _changed(second), dict.fromkeys(hosts, 0))
    for host in hosts:
        seen = _reached(course, host, *_SOURCES)
        course.expect(f"{host}: port 25 for given networks: let in", seen, [_KNOCKS, _ANOTHER, _ANOTHER6])


def _the_persons_own(course: Course) -> None:
    """A rule of the person's about port 25 is never replaced: what shuts it is told, what opens it is left, also by `absent`."""
    guest, own = course.world.guest("r2"), "ufw allow 25/tcp comment 'mine'"
    guest.run("ufw", "deny", "25/tcp")
    before = guest.run("ufw", "show", "added")
    played = course.controller.play(("r2",), "--tags", "firewall", variables=_OPEN)
    course.hold(
        "ufw: a rule that shuts port 25 is told",
        played.status == 2 and "ufw has the rule `deny 25/tcp`, which shuts 25/tcp from any" in " ".join(played.output.split()),
        f"exit status {played.status}\n{played.output[-1500:]}",
    )
    course.expect("ufw: rules, after that", guest.run("ufw", "show", "added"), before)
    guest.run("ufw", "allow", "25/tcp", "comment", "mine")
    for state in ("present", "absent"):
        course.controller.converge(("r2",), "--tags", "firewall", variables={**_OPEN, "firewall_state": state})
        course.hold(f"ufw: the person's own rule for port 25, {state}", own in guest.run("ufw", "show", "added"), "it is gone")


def _rules(course: Course, each: _Filter) -> Counter[str]:
    return Counter(line.strip() for line in course.world.guest(each.host).run("sh", "-ec", each.rules).splitlines())


def _left(guest: Guest) -> str:
    return guest.try_run(
        "sh",
        "-c",
        "nft list tables 2>/dev/null | grep gatepost; ls -d /etc/nftables-gatepost* 2>/dev/null; systemctl list-unit-files --no-legend 'firewall-gatepost*'",
    )


# --- nftables -------------------------------------------------------------------------------------------------------------


def _nftables(course: Course) -> None:
    """A host with rules of its own in /etc/nftables.conf: IPv6 is limited by /64, ssh stays open for who came by it."""
    course.world.fresh("r2")
    guest = course.world.guest("r2")
    _install(guest, "nftables")
    guest.run("sh", "-ec", "cat >/etc/nftables.conf && systemctl -q enable --now nftables", stdin=_NFTABLES)
    guest.run("sh", "-c", "cat >/opt/greeter.py", stdin=_GREETER)
    guest.run("sh", "-ec", "cat >/etc/systemd/system/greeter.service && systemctl -q enable --now greeter", stdin=_GREETER_UNIT)
    wait_for(lambda: guest.listens(25), what="a greeting at port 25")
    course.controller.converge(("r2",), "--tags", "firewall", variables={**_OPEN, "firewall_ssh_from": ["192.0.2.0/24"]})
    seen = from_sender(course, "scan", {"address": guest.address.ipv6, "ports": [22, 25]})
    course.expect("nftables: open ports from sender, ssh for others alone", seen, [25])
    status, said = course.controller.run(["ansible", "r2", "-m", "ansible.builtin.ping"])
    course.expect("nftables: ping from the controller, ssh for others alone", (status, said.count("pong")), (0, 1))
    _limits(course, "r2", "nftables")
    rebooted(course, "r2")
    _limits(course, "r2", "nftables, rebooted")
    course.expect("nftables: from whom the person has shut out", _reached(course, "r2", _UNLOVED), [])
    _given_networks(course, ("r2",))


# --- strangers ------------------------------------------------------------------------------------------------------------


@contextmanager
def _strangers(course: Course) -> Iterator[None]:
    """More addresses for sender, while it lasts. The IPv6 networks are reached over the controller, where all default routes end."""
    places = course.world.places
    sender, middle = ([*inside(each), "ip"] for each in (places.namespace("sender"), places.net))
    networks = sorted({each.rpartition("::")[0] + "::/64" for each in _SOURCES if ":" in each})

    def take(verb: str, *, check: bool = True) -> None:
        for each in _SOURCES:
            run(
                [*sender, "addr", verb, each, "dev", "eth0", *(["nodad"] if ":" in each and verb == "replace" else [])],
                check=check,
            )
        for each in networks:
            run([*middle, "-6", "route", verb, each, "via", ADDRESSES["sender"].ipv6], check=check)

    take("replace")
    try:
        yield
    finally:
        take("del", check=False)


def _limits(course: Course, host: str, what: str) -> None:
    """One source of each family holds too many connections, another knocks too often; others are not held up."""
    for holds, knocks, another in ((_HOLDS, _KNOCKS, _ANOTHER), (_HOLDS6, _KNOCKS6, _ANOTHER6)):
        course.expect(f"{what}: held open at once from {holds}", _knock(course, host, holds, 8, keep=True), _RATE["count"])
        # No more in a row than may be open at once: the host may not have closed the one before yet.
        seen, most = sum(_knock(course, host, knocks, _RATE["count"]) for _ in range(3)), _RATE["burst"]
        # On a busy machine a connection may be made after who knocks has given it up: it has used its turn.
        course.hold(
            f"{what}: one after the other from {knocks}",
            most - 2 <= seen <= most,
            f"expected {most}, or one or two less; actual {seen}",
        )
        if knocks == _KNOCKS6:
            course.expect(f"{what}: then from the same /64", _knock(course, host, _SAME6, 2), 0)
        course.expect(f"{what}: then from {another}", _knock(course, host, another, 2), 2)


def _reached(course: Course, host: str, *sources: str) -> list[str]:
    """The sources from which a connection to port 25 was made."""
    return [source for source in sources if _knock(course, host, source, 1)]


def _knock(course: Course, host: str, source: str, times: int, *, keep: bool = False) -> int:
    """How many of so many connections were made."""
    address = course.world.guest(host).address
    job = {
        "address": address.ipv6 if ":" in source else address.ipv4,
        "source": source,
        "times": times,
        "keep": keep,
        "patience": 0.9,
    }
    connected: int = from_sender(course, "hold", job)["connected"]
    return connected


def _install(guest: Guest, package: str) -> None:
    guest.run(
        "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", "install", "--no-install-recommends", package, timeout=240
    )


def _changed(played: Played) -> dict[str, int]:
    return {host: recap.changed for host, recap in played.recaps.items()}
