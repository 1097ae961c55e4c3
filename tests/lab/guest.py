"""One guest: Debian with a real systemd in systemd-nspawn, in a network namespace and a cgroup of its own, on an overlay of the image.

Promises: a keeper process starts the guest, starts it again after a reboot (its packet filter emptied, as a real reboot does), and ends with it; hands
on the host work without ssh, whatever the firewall says; removing ends every process by the guest's own cgroup.
Never: ends a process outside that cgroup; writes into the image.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab import net
from tests.lab.cgroup import end_cgroup, enter_cgroup
from tests.lab.machine import CHECKOUT, LabError, run, wait_for
from tests.lab.places import ADDRESSES, HOST_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.lab.places import Places

__all__ = ["Guest", "keep"]

#: nspawn's exit status for a guest that wants to be started again.
_REBOOT: Final = 133
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds for a guest to have started everything, or to have ended it.
_BOOT: Final = 90.0


class Guest:
    """A host of the lab."""

    def __init__(self, places: Places, name: str) -> None:
        self.places, self.name, self.address = places, name, ADDRESSES[name]
        self.folder = places.folder / "hosts" / name
        self.root = self.folder / "root"

    # --- its life ---------------------------------------------------------------------------------------------------------

    def prepare(self, *, own: bool = False, fill: Callable[[Path], None] | None = None) -> None:
        """Network and file system; `own`: with the lab's own layer. `fill` puts files into it before it starts."""
        suite = self.address.suite
        lower = str(self.places.base(suite))
        if own:
            lower = f"{self.places.folder / suite / 'own'}:{lower}"
        for each in ("upper", "work", "root"):
            (self.folder / each).mkdir(parents=True)
        net.add_host(self.places, self.address)
        run(["mount", "-t", "overlay", f"{self.places.name}-{self.name}", "-o",
             f"lowerdir={lower},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}", str(self.root)])  # fmt: skip
        self._name_it()
        if fill:
            fill(self.root)

    def start(self) -> None:
        """Starts the keeper, which starts the guest. Returns at once: see `wait_until_up`."""
        (self.folder / "stop").unlink(missing_ok=True)
        with (self.folder / "console.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, str(CHECKOUT / "tests/lab/lab.py"), "keep", self.name], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "GATEPOST_LAB": self.places.name}, cwd="/",
            )  # fmt: skip

    def wait_until_up(self) -> None:
        """Until systemd says `running`: every unit that should be started is. LabError names the failed ones."""

        def state() -> str:
            if not self.leader():
                return ""
            said = self.try_run("systemctl", "is-system-running").strip()
            return said if said in ("running", "degraded") else ""

        said = wait_for(state, timeout=_BOOT, what=f"{self.name} to be up")
        if said != "running":
            raise LabError(f"{self.name} is {said}:\n{self.try_run('systemctl', '--failed', '--no-legend')}")
        wait_for(lambda: "ssh" in self.try_run("ss", "-Hltnp", "sport = :22"), timeout=_BOOT, what=f"{self.name}'s ssh")

    def reboot(self) -> None:
        """As a person does it; returns when it is up again."""
        before = self.leader()
        self.run("systemctl", "reboot")
        wait_for(lambda: self.leader() not in (0, before), timeout=_BOOT, what=f"{self.name} to start again")
        self.wait_until_up()

    def remove(self) -> None:
        """Ends it at once, and leaves nothing; also where it is half made, or not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "stop").touch()
        end_cgroup(f"{self.places.name}-{self.name}")
        run(["umount", str(self.root)], check=False)
        net.remove_host(self.places, self.name)
        for left in ("propagate", "unix-export"):
            with suppress(OSError):
                (Path("/run/systemd/nspawn") / left / f"{self.places.name}-{self.name}").rmdir()
        shutil.rmtree(self.folder)

    def leader(self) -> int:
        """The process id of the guest's systemd on this machine; 0 while it is off."""
        with suppress(OSError, ValueError, IndexError):
            nspawn = int((self.folder / "nspawn.pid").read_text())
            if b"systemd-nspawn" in Path(f"/proc/{nspawn}/cmdline").read_bytes():
                for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
                    if re.search(r"^NSpid:.*\b1$", Path(f"/proc/{child}/status").read_text(), re.MULTILINE):
                        return int(child)
        return 0

    # --- hands on the host ------------------------------------------------------------------------------------------------

    def inside(self, *command: str) -> list[str]:
        """The command as root on the host, without ssh."""
        leader = self.leader()
        if not leader:
            raise LabError(f"{self.name} is off")
        return ["nsenter", f"--target={leader}", "--all", "env", "-i", _PATH, "LC_ALL=C.UTF-8", "HOME=/root", *command]

    def run(self, *command: str, timeout: float = 60.0, stdin: str = "") -> str:
        """Its output; LabError where it fails."""
        return run(self.inside(*command), timeout=timeout, stdin=stdin)

    def try_run(self, *command: str, timeout: float = 60.0) -> str:
        """Its output, whatever its exit status."""
        return run(self.inside(*command), timeout=timeout, check=False)

    def succeeds(self, *command: str) -> bool:
        """Whether its exit status is 0."""
        return subprocess.run(self.inside(*command), capture_output=True, check=False, timeout=60).returncode == 0

    def stop_unit(self, unit: str, port: int = 0) -> None:
        """Stops it, and waits until nobody listens at the port: Debian's postfix.service is over before its master is."""
        self.run("systemctl", "stop", unit)
        wait_for(lambda: not (port and self.listens(port)), timeout=_BOOT, what=f"{self.name}'s {unit} to be over")

    def start_unit(self, unit: str, port: int = 0) -> None:
        """Starts it, and waits until somebody listens at the port."""
        self.run("systemctl", "start", unit)
        wait_for(lambda: not port or self.listens(port), timeout=_BOOT, what=f"{self.name}'s {unit} to listen")

    def listens(self, port: int) -> bool:
        """Whether anybody does."""
        return bool(self.run("ss", "-Hltn", f"sport = :{port}").strip())

    def read(self, path: str) -> str:
        """A file of the host; empty where there is none."""
        return self.try_run("sh", "-c", f"cat -- {path} 2>/dev/null")

    def _name_it(self) -> None:
        etc, address = self.root / "etc", self.address
        full = f"{self.name}.{HOST_DOMAIN}"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(
            f"127.0.0.1 localhost\n::1 localhost\n{address.ipv4} {full} {self.name}\n{address.ipv6} {full} {self.name}\n"
        )
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text(f"nameserver {ADDRESSES['dns'].ipv4}\n")


def keep(places: Places, name: str) -> None:
    """The keeper: runs the guest until it is off for good. Called in a process of its own."""
    guest = Guest(places, name)
    enter_cgroup(f"{places.name}-keep")
    while True:
        with (guest.folder / "console.log").open("ab") as log:
            nspawn = subprocess.Popen(
                _nspawn(guest), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=lambda: enter_cgroup(f"{places.name}-{name}"),
                env={"PATH": os.environ["PATH"], "UNIFIED_CGROUP_HIERARCHY": "yes", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
            )  # fmt: skip
            (guest.folder / "nspawn.pid").write_text(str(nspawn.pid))
            status = nspawn.wait()
        if status != _REBOOT or (guest.folder / "stop").exists():
            return
        net.forget_kernel_rules(places, name)


def _nspawn(guest: Guest) -> Sequence[str]:
    places, suite = guest.places, guest.address.suite
    return [
        "systemd-nspawn", "-q", "-M", f"{places.name}-{guest.name}", "-D", str(guest.root), f"--hostname={guest.name}", "--register=no",
        "--keep-unit", f"--network-namespace-path=/run/netns/{places.namespace(guest.name)}", "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
        "--resolv-conf=off", f"--bind-ro={places.repository(suite)}:/srv/repo", f"--bind-ro={places.wheels(suite)}:/srv/wheels",
        "--console=pipe", "--boot",
    ]  # fmt: skip
