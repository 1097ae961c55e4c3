"""Which circuits are open, for whoever looks from outside: a small file in the store for each app and process.

Promises: a file is whole or not there, and counts only while the process that wrote it lives (it holds a lock, which the kernel
takes back at its end, however that comes). No message needs it.
Never: is read by the process itself; holds a word of the app's or a sender's; removes what a process that lives has written.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

__all__ = ["OpenCircuit", "Sign", "clear", "read"]

#: In the store: `circuit.SINK.PID`, `circuit.ask:ROUTE.PID`. No name has a colon or a dot in it.
_NAME: Final = "circuit"
#: A file that is not whole yet.
_PART: Final = ".part"
#: Octets read of a file; a reason is far shorter.
_MOST: Final = 4_096


class OpenCircuit(Value):
    """`since`: Unix seconds. `failures`: attempts in a row before. `reason`: what the last of them met."""

    since: float
    failures: int
    reason: str


class Sign:
    """One app's file of this process, from here until `remove`. Raises OSError where it cannot be written."""

    def __init__(self, store: str, kind: str, name: str, circuit: OpenCircuit) -> None:
        self._path = os.path.join(store, f"{_about(kind, name)}.{os.getpid()}")
        part = f"{self._path}{_PART}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(part, flags, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._file, json.dumps(circuit.__dict__).encode("ascii"))
            os.rename(part, self._path)
        except OSError:
            os.close(self._file)
            raise

    def remove(self) -> None:
        """The circuit is closed, or its app no longer in force."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):  # the lock goes in any case, and with it what the file says
            os.close(self._file)


def read(store: str, kind: str, name: str) -> tuple[OpenCircuit, ...]:
    """One for each process that has left this app alone, the longest first. Raises OSError where the store cannot be read.

    `kind`, `name`: a sink, or a route that asks, as of a `Guard`.
    """
    found = []
    for each, _ in _of(store):
        if each.rpartition(".")[0] != _about(kind, name):
            continue
        for file in _opened(os.path.join(store, each)):
            if not _is_free(file):
                with suppress(ValueError, TypeError):
                    found.append(OpenCircuit(**json.loads(os.read(file, _MOST))))
    return tuple(sorted(found, key=lambda each: each.since))


def clear(store: str) -> None:
    """Removes what processes have left that are gone. For the start of a process, before it has written any; never raises."""
    with suppress(OSError):  # whoever needs the store will say what is wrong with it
        for each, pid in _of(store):
            # Between its making and its lock only the number tells whose it is.
            if each.endswith(_PART) and _lives(pid):
                continue
            path = os.path.join(store, each)
            with suppress(OSError):  # another process has just done it, or it is none of ours
                for file in _opened(path):
                    if _is_free(file):
                        os.unlink(path)


def _about(kind: str, name: str) -> str:
    return f"{_NAME}.{name}" if kind == "sink" else f"{_NAME}.{kind}:{name}"


def _of(store: str) -> Iterator[tuple[str, int]]:
    """Name and process number of each file of ours."""
    for name in os.listdir(store):
        about, _, pid = name.removesuffix(_PART).rpartition(".")
        if about.startswith(f"{_NAME}.") and pid.isascii() and pid.isdigit():
            yield name, int(pid)


def _opened(path: str) -> Iterator[int]:
    """The file's descriptor, closed behind the caller's turn; nothing where it is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:  # closed meanwhile
        return
    try:
        yield file
    finally:
        os.close(file)


def _lives(pid: int) -> bool:
    """Whether another process has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_free(file: int) -> bool:
    """Whether nobody holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
