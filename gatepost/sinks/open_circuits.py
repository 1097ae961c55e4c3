"""Which circuits are open, for whoever looks from outside: a small file in the store for each sink and process.

Promises: a file is whole or not there, and counts only while the process that wrote it lives (it holds a lock, which the kernel
takes back at its end, however that comes). No message needs it.
Never: is read by the process itself; holds a word of the app's or a sender's.
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

__all__ = ["OpenCircuit", "Sign", "read"]

#: In the store: `circuit.SINK.PID`.
_NAME: Final = "circuit"
#: Octets read of a file; a reason is far shorter.
_MOST: Final = 4_096


class OpenCircuit(Value):
    """`since`: Unix seconds. `failures`: attempts in a row before. `reason`: what the last of them met."""

    since: float
    failures: int
    reason: str


class Sign:
    """One sink's file of this process, from here until `remove`. Raises OSError where it cannot be written."""

    def __init__(self, store: str, sink: str, circuit: OpenCircuit) -> None:
        for path, file in _files(store, sink):
            if _is_free(file):  # its process is gone
                with suppress(FileNotFoundError):  # another worker has just done it
                    os.unlink(path)
        self._path = os.path.join(store, f"{_NAME}.{sink}.{os.getpid()}")
        part = f"{self._path}.part"
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
        """The circuit is closed, or its sink no longer in force."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):  # the lock goes in any case, and with it what the file says
            os.close(self._file)


def read(store: str, sink: str) -> tuple[OpenCircuit, ...]:
    """One for each process that has left this sink alone, the longest first. Raises OSError where the store cannot be read."""
    found = []
    for _, file in _files(store, sink):
        if _is_free(file):
            continue
        with suppress(ValueError, TypeError):
            found.append(OpenCircuit(**json.loads(os.read(file, _MOST))))
    return tuple(sorted(found, key=lambda each: each.since))


def _files(store: str, sink: str) -> Iterator[tuple[str, int]]:
    """Path and descriptor of each file about this sink; it is closed behind the caller's turn."""
    for name in os.listdir(store):
        about, _, pid = name.rpartition(".")
        if about != f"{_NAME}.{sink}" or not pid.isdigit():
            continue
        path = os.path.join(store, name)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:  # closed meanwhile
            continue
        try:
            yield path, file
        finally:
            os.close(file)


def _is_free(file: int) -> bool:
    """Whether nobody holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
