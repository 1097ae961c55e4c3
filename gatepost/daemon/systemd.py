"""What systemd asks of a process that stays: readiness, signs of life, and a socket that it has opened itself.

Promises: without systemd's environment nothing is said and nothing is taken; what it does not hear costs nothing.
Never: imports a library for it: sd_notify(3) is one datagram, sd_listen_fds(3) are two variables.
"""

from __future__ import annotations

import os
import socket
import time

from gatepost.daemon.endpoint import EndpointError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["reloading", "tell", "the_socket", "watchdog"]

#: sd_listen_fds(3): SD_LISTEN_FDS_START.
_FIRST: Final = 3


def tell(state: str) -> None:
    """sd_notify(3), where a unit of Type=notify asks for it."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect("\0" + place[1:] if place.startswith("@") else place)
            sender.send(state.encode("ascii"))
    except OSError:  # nobody listens, or no descriptor is left
        return


def reloading() -> str:
    """What Type=notify-reload wants to hear before the READY=1 that ends it (sd_notify(3))."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog() -> float:
    """Seconds between two signs of life: half of what WatchdogSec says (sd_watchdog_enabled(3)); 0.0 where nobody asks."""
    try:
        wanted = int(os.environ.get("WATCHDOG_USEC", "0"))
        ours = int(os.environ.get("WATCHDOG_PID", str(os.getpid()))) == os.getpid()
    except ValueError:
        return 0.0
    return wanted / 2_000_000 if ours and wanted > 0 else 0.0


def the_socket() -> socket.socket | None:
    """The Unix socket on which systemd listens for us (sd_listen_fds(3)); None where it does not.

    Raises EndpointError where it gave us something else: several, or no Unix stream socket that listens. Call it once.
    """
    given, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if given != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise EndpointError(f"systemd gave {count} sockets: the .socket unit must have one ListenStream=")
    try:
        taken = socket.socket(fileno=_FIRST)
        listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise EndpointError(f"LISTEN_FDS names no socket: {error.strerror}") from error
    if taken.family != socket.AF_UNIX or taken.type != socket.SOCK_STREAM or not listens:
        raise EndpointError("systemd's socket is no Unix socket that listens: ListenStream=/PATH")
    taken.set_inheritable(False)
    return taken
