"""The lab's network: one bridge in a namespace of its own, one namespace a host, IPv4 and IPv6.

Promises: nothing is made in the machine's own network; a host's namespace, its address and its MAC stay while the guest reboots;
taking down what is not there is not an error.
Never: leads anywhere: the default route ends at the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.lab.machine import run
from tests.lab.places import CONTROLLER

if TYPE_CHECKING:
    from tests.lab.places import Address, Places

__all__ = ["add_host", "forget_kernel_rules", "inside", "make_bridge", "remove_all", "remove_host"]

_BRIDGE: Final = "lab0"


def inside(namespace: str) -> list[str]:
    """What a command is put behind to run in that namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


def make_bridge(places: Places) -> None:
    """The bridge, and the controller's addresses on it."""
    run(["ip", "netns", "add", places.net])
    _ip(places.net, f"link set lo up; link add {_BRIDGE} type bridge; link set {_BRIDGE} up")
    _ip(places.net, f"addr add {CONTROLLER.ipv4}/24 dev {_BRIDGE}; addr add {CONTROLLER.ipv6}/64 dev {_BRIDGE} nodad")
    # Hosts have a default route, as real ones do. It ends here, and whoever takes it is told at once that nothing lies beyond.
    run([*inside(places.net), "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    _ip(places.net, "route add unreachable 0.0.0.0/0; route add unreachable ::/0")


def add_host(places: Places, address: Address) -> None:
    """The host's namespace with its eth0, plugged into the bridge."""
    namespace, plug = places.namespace(address.name), f"v-{address.name}"
    run(["ip", "netns", "add", namespace])
    run(["ip", "-n", namespace, "link", "add", "eth0", "address", address.mac, "type", "veth", "peer", "name", plug,
         "netns", places.net])  # fmt: skip
    _ip(places.net, f"link set {plug} master {_BRIDGE} up")
    _ip(namespace, f"link set lo up; link set eth0 up; addr add {address.ipv4}/24 dev eth0")
    _ip(
        namespace,
        f"addr add {address.ipv6}/64 dev eth0 nodad; route add 0.0.0.0/0 via {CONTROLLER.ipv4}; route add ::/0 via {CONTROLLER.ipv6}",
    )


def remove_host(places: Places, name: str) -> None:
    """The namespace, and with it the cable."""
    run(["ip", "netns", "del", places.namespace(name)], check=False)


def remove_all(places: Places) -> None:
    """Every namespace of this lab, whoever made it."""
    for line in run(["ip", "netns", "list"]).splitlines():
        if line.split()[0].startswith(f"{places.name}-"):
            run(["ip", "netns", "del", line.split()[0]], check=False)


def forget_kernel_rules(places: Places, name: str) -> None:
    """What a reboot does to a real host's kernel: its packet filter is empty."""
    run([*inside(places.namespace(name)), "nft", "flush", "ruleset"])


def _ip(namespace: str, lines: str) -> None:
    run(["ip", "-n", namespace, "-batch", "-"], stdin=lines.replace("; ", "\n") + "\n")
