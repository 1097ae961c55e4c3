"""All of the lab: image, network, hosts, controller; made, renewed and taken away.

Promises: `clean` leaves nothing of a lab, however far it came and whoever made it; a host that is made anew is as it was.
Never: leaves a process running that it started.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import net
from tests.lab.cgroup import end_cgroup
from tests.lab.controller import Controller
from tests.lab.fixtures import FILLS, OWN, make_authority, make_secrets, variables
from tests.lab.guest import Guest
from tests.lab.image import make_image, make_key, make_layer
from tests.lab.machine import LabError, run
from tests.lab.places import ADDRESSES
from tests.lab.wheels import make_wheels

if TYPE_CHECKING:
    from tests.lab.places import Address, Places

__all__ = ["World"]


class World:
    """A lab of this name."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.controller = Controller(places)

    def guest(self, name: str) -> Guest:
        """The host of that name, whether it is there or not."""
        if name not in ADDRESSES:
            raise LabError(f"no host is called {name}: {', '.join(ADDRESSES)}")
        return Guest(self.places, name)

    def stands(self) -> bool:
        """Whether `build` came to its end."""
        return (self.places.folder / "ready").exists()

    def build(self, *suites: str) -> None:
        """Everything but the roles' hosts: image, network, inventory; app, sender and dns up."""
        folder = self.places.folder
        folder.mkdir(mode=0o755)
        run(["mount", "-t", "tmpfs", "-o", "size=8G,mode=0755", self.places.name, str(folder)])
        for each in ("ansible", "ssh", "hosts"):
            (folder / each).mkdir(mode=0o700)
        make_key(self.places)
        make_authority(self.places)
        make_secrets(self.places)
        for suite in suites or ("bookworm",):
            make_image(self.places, suite)
            make_wheels(self.places, suite)
        make_layer(self.places, "bookworm")
        net.make_bridge(self.places)
        (folder / "resolv.conf").write_text(f"nameserver {ADDRESSES['dns'].ipv4}\n")
        (folder / "known_hosts").write_text("".join(self._known(each) for each in ADDRESSES.values()))
        self.add(*OWN)
        (folder / "ready").touch()

    def _known(self, address: Address) -> str:
        """The line of ssh's known_hosts: hosts of one image have one key."""
        file = self.places.base(address.suite) / "etc/ssh/ssh_host_ed25519_key.pub"
        return f"{address.ipv4},{address.ipv6} {' '.join(file.read_text().split()[:2])}\n" if file.exists() else ""

    def add(self, *names: str) -> None:
        """Makes and starts these hosts, and waits until they are up."""
        guests = [self.guest(name) for name in names]
        for guest in guests:
            guest.prepare(own=guest.name in OWN, fill=self._fill(guest.name))
            guest.start()
        for guest in guests:
            guest.wait_until_up()
        self.controller.write_inventory(
            variables(self.places), [name for name in ADDRESSES if name not in OWN and self.guest(name).leader()]
        )

    def have(self, *names: str) -> None:
        """Adds those that are not up."""
        self.add(*(name for name in names if not self.guest(name).leader()))

    def fresh(self, *names: str) -> None:
        """Those hosts as they are after an installation of Debian."""
        for name in names:
            self.guest(name).remove()
        self.add(*names)

    def clean(self) -> None:
        """Nothing is left."""
        for each in ("keep", "controller"):
            end_cgroup(f"{self.places.name}-{each}")
        for name in ADDRESSES:
            end_cgroup(f"{self.places.name}-{name}")
            for left in ("propagate", "unix-export"):
                shutil.rmtree(Path("/run/systemd/nspawn") / left / f"{self.places.name}-{name}", ignore_errors=True)
        below = f"{self.places.folder}"
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed([each for each in mounts if each == below or each.startswith(f"{below}/")]):
            run(["umount", "--lazy", mount])
        net.remove_all(self.places)
        if self.places.folder.exists():
            shutil.rmtree(self.places.folder)

    def _fill(self, name: str):  # type: ignore[no-untyped-def]
        fill = FILLS.get(name)
        return (lambda root: fill(self.places, root)) if fill else None
