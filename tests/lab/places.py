"""Who is in the lab: names, addresses, and where its files lie.

Promises: every address is from ranges that are nobody's on the Internet (10.77.0.0/24, fd77::/64); a lab's namespaces, cgroups
and folder carry its name, so that two labs do not meet.
Never: uses the machine's own network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ADDRESSES", "CONTROLLER", "HOST_DOMAIN", "Address", "Places"]

#: The domain of our mail, and of the hosts' own names.
HOST_DOMAIN: Final = "in.example.com"


@dataclass(frozen=True, slots=True)
class Address:
    """A host's place on the bridge."""

    name: str
    number: int
    suite: str = "bookworm"

    @property
    def ipv4(self) -> str:
        """The IPv4 address."""
        return f"10.77.0.{self.number}"

    @property
    def ipv6(self) -> str:
        """The IPv6 address; the last group is written as the decimal number is."""
        return f"fd77::{self.number}"

    @property
    def mac(self) -> str:
        """Always the same, so that a host that comes back is found at once."""
        return f"02:00:0a:4d:00:{self.number:02x}"


CONTROLLER: Final = Address("controller", 254)
ADDRESSES: Final = {
    each.name: each
    for each in (
        Address("mx1", 11),
        Address("mx2", 12),
        Address("r2", 13),
        Address("r3", 14),
        Address("other", 15),  # its Postfix serves another domain already
        Address("mx13", 16, "trixie"),
        Address("app", 20),
        Address("sender", 30),
        Address("dns", 53),
    )
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where a lab's things are; the name is the first part of every one."""

    name: str

    @classmethod
    def of_environment(cls, default: str) -> Places:
        """GATEPOST_LAB names a lab beside the usual one."""
        return cls(os.environ.get("GATEPOST_LAB", default))

    @property
    def folder(self) -> Path:
        """A tmpfs with everything the lab writes."""
        return Path("/var/tmp") / self.name

    @property
    def net(self) -> str:
        """The namespace with the bridge, where Ansible runs."""
        return f"{self.name}-net"

    def namespace(self, host: str) -> str:
        """The namespace of a host."""
        return f"{self.name}-{host}"

    @property
    def key(self) -> Path:
        """The controller's ssh key."""
        return self.folder / "key"

    @property
    def inventory(self) -> Path:
        """Ansible's inventory of this lab."""
        return self.folder / "inventory.yml"

    def wheels(self, suite: str) -> Path:
        """The dependencies' wheels; /srv/wheels in a guest."""
        return self.folder / suite / "wheels"

    def base(self, suite: str) -> Path:
        """The root file system that all guests of this Debian share."""
        return self.folder / suite / "root"

    def repository(self, suite: str) -> Path:
        """The packages that roles may install; /srv/repo in a guest."""
        return self.folder / suite / "repo"
