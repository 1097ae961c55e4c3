"""`make lab`: real hosts on this machine, and what the roles make of them.

    tests/lab/lab.py up [HOST...]       makes the lab's hosts and leaves them; `down` takes everything away again
    tests/lab/lab.py fresh HOST...      those hosts as they were after `up`; a few seconds
    tests/lab/lab.py exec COMMAND...    a command in the lab's network, Ansible's environment active and the inventory set
    tests/lab/lab.py on HOST COMMAND... a command as root on a host, without ssh
    tests/lab/lab.py try SCENARIO...    scenarios on the hosts that stand
    tests/lab/lab.py run [--full] [SCENARIO...]  what `make lab` does: hosts, scenarios, verdict, and nothing left

Promises: exit status 0 only where every figure was as expected; whatever happens, hosts, namespaces, mounts and files are gone at
the end, and what a killed run has left is cleaned by the next. Every wait is bounded.
Never: touches the machine's own network, services or files outside its folder below /var/tmp; runs beside another of the same name.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if __name__ == "__main__":  # the folder of this file would hide other modules
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.lab.guest import keep
from tests.lab.machine import LabError, preflight
from tests.lab.places import Places
from tests.lab.world import World

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["main"]

#: Seconds for everything; each wait in it has a limit of its own.
_AT_MOST: Final = 3600


def _alone(places: Places) -> IO[str]:
    """One command at a time for a lab of this name; the lock ends with the process."""
    lock = Path(f"/run/{places.name}.lock").open("w")  # noqa: SIM115 (kept until the end)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise LabError(
            f"another command works on the lab {places.name} right now; GATEPOST_LAB=NAME makes a second lab"
        ) from None
    return lock


def _up(places: Places, names: list[str]) -> int:
    world = World(places)
    if world.stands():
        raise LabError(f"the lab {places.name} stands already: `fresh HOST` renews a host, `down` takes it away")
    world.clean()
    try:
        world.build()
        world.add(*(names or ["r2", "r3"]))
    except BaseException:
        if not os.environ.get("KEEP"):
            world.clean()
        raise
    return 0


def _fresh(places: Places, names: list[str]) -> int:
    World(places).fresh(*names)
    return 0


def _down(places: Places) -> int:
    World(places).clean()
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"lab: ended by signal {number}")


def main(arguments: list[str]) -> int:
    """The command line; the exit status."""
    command, rest = (arguments[0] if arguments else ""), arguments[1:]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    places = Places.of_environment("gprun" if command == "run" else "gplab")
    try:
        if command == "keep":
            keep(places, rest[0])
            return 0
        if command == "exec":
            controller = World(places).controller
            return subprocess.run(controller.command(rest), env=controller.environment(), check=False).returncode
        if command == "on":
            return subprocess.run(World(places).guest(rest[0]).inside(*rest[1:]), check=False).returncode
        preflight(places.name)
        lock = _alone(places)
        try:
            if command == "up":
                return _up(places, rest)
            if command == "fresh":
                return _fresh(places, rest)
            if command == "down":
                return _down(places)
            if command in ("run", "try"):
                from tests.lab.course import play

                return play(places, rest, stays=command == "try")
        finally:
            lock.close()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
