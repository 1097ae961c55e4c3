"""A socket that Postfix connects to: whose it may be, and whether somebody listens there already.

Promises: a socket that a crash left behind is removed, one on which somebody listens never; of two that start at once one gives
up. What is removed at the end is our own socket and no other's.
Never: removes what is no socket; listens on more than was configured.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import socket
import stat
import time
from contextlib import contextmanager, suppress

from gatepost.errors import GatepostError
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Endpoint", "EndpointError", "clear", "endpoint", "identity", "remove"]

#: Seconds to wait for another process's look at the same folder, and for whoever listens to take a connection.
_PATIENCE = 5.0


class EndpointError(GatepostError):
    """The socket cannot be had; the text says why, and what to do."""


class Endpoint(Value):
    """`path`: of a Unix socket, "" for one of the network. `spelled`: as libmilter takes it."""

    spelled: str
    path: str


def endpoint(spelled: str) -> Endpoint:
    """What a `socket:` says: `unix:/PATH` or `inet:PORT@HOST`. libmilter has another word where HOST is of IPv6."""
    kind, _, place = spelled.partition(":")
    if kind == "inet" and ":" in place:
        return Endpoint(spelled=f"inet6:{place}", path="")
    return Endpoint(spelled=spelled, path=place if kind == "unix" else "")


@contextmanager
def clear(at: Endpoint) -> Iterator[None]:
    """Within it the place is ours to listen on: nobody else does, nobody else begins to, nothing lies there.

    Raises EndpointError.
    """
    if not at.path:
        yield
        return
    folder = os.path.dirname(at.path) or "/"
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        mend = f"make it with: install -d -o gatepost -g postfix -m 2710 {folder}"
        raise EndpointError(f"{folder}: {error.strerror}; {mend}") from error
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            who = _user()
            mend = f"chown {who}:postfix {folder}; chmod 2710 {folder}"
            raise EndpointError(f"{folder}: {who} may not make a socket in it: {mend}")
        _lock(handle, folder)
        _remove_stale(at.path)
        yield
    finally:
        os.close(handle)


def _user() -> str:
    """Whom this process runs as; a number where it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _lock(handle: int, folder: str) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() > until:
                raise EndpointError(f"{folder}: another process is about to listen here") from error
            time.sleep(0.05)


def _remove_stale(path: str) -> None:
    """Removes the socket of a process that is gone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise EndpointError(f"{path}: is no socket: remove it, or name another place")
        if _listens(path):
            raise EndpointError(f"{path}: somebody listens here already (is it running already?)")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EndpointError(f"{path}: {error.strerror}") from error


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (BlockingIOError, TimeoutError):  # its queue is full: it is there
            return True
        return True


def identity(at: Endpoint) -> tuple[int, int] | None:
    """Which file the socket is; None for one of the network."""
    if not at.path:
        return None
    status = os.lstat(at.path)
    return status.st_dev, status.st_ino


def remove(at: Endpoint, ours: tuple[int, int] | None) -> None:
    """Removes the socket, if it is still ours: a new process may have its own there."""
    if ours is None:
        return
    with suppress(OSError):
        if identity(at) == ours:
            os.unlink(at.path)
