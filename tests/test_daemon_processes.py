"""The processes that stay, and a configuration that cannot be read at the moment: real ones, with a real want of descriptors."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.lmtp_host import NOBODY, PATIENCE, Serving, open_folder, wait_for
from tests.test_milter_server import GATEPOST, Running


def pids(host: Serving | Running) -> list[int]:
    """Every process that reads the configuration."""
    return [host.pid, *(host.workers() if isinstance(host, Serving) else [])]


#: Put into the processes, for only they may change their limits: SIGUSR1 leaves no descriptor, SIGUSR2 gives them back.
LIMITS = """import os, resource, signal
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
def none_left(*_):
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
signal.signal(signal.SIGUSR1, none_left)
signal.signal(signal.SIGUSR2, lambda *_: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
"""


def start(host: Serving | Running) -> None:
    """Until all of it works: before that a worker may need a descriptor, or not hear a signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("")  # a name that nobody else has (unix(7), autobind)
        ear.settimeout(PATIENCE)
        environment = {"NOTIFY_SOCKET": "@" + ear.getsockname()[1:].decode()}
        if isinstance(host, Serving):
            host.start(change=LIMITS, environment=environment)
        else:
            host.start(code=GATEPOST.replace("from gatepost.cli", f"{LIMITS}from gatepost.cli"), environment=environment)
        assert ear.recv(64) == b"READY=1"


@contextmanager
def out_of_descriptors(host: Serving | Running) -> Iterator[None]:
    """None is left to any of its processes."""
    before = {pid: most_descriptors(pid) for pid in pids(host)}
    for pid in before:
        os.kill(pid, signal.SIGUSR1)
    wait_for(lambda: all(most_descriptors(pid) < most for pid, most in before.items()), "the limits")
    yield
    for pid in before:
        os.kill(pid, signal.SIGUSR2)


def most_descriptors(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files")]
    return int(line.split()[3])


@contextmanager
def renamed(host: Serving | Running) -> Iterator[None]:
    """Its place is empty for a moment."""
    away = host.made.config.with_suffix(".away")
    host.made.config.rename(away)
    yield
    away.rename(host.made.config)


def write(host: Serving | Running, text: str) -> None:
    """A new file in the old one's place."""
    new = host.made.config.with_suffix(".new")
    new.write_text(text)
    if os.geteuid() == 0:
        os.chown(new, NOBODY, NOBODY)
    new.rename(host.made.config)


def told(host: Serving | Running, what: str) -> int:
    return sum("state=configuration" in line and what in line for line in host.made.log_lines())


HOSTS: list[tuple[str, Callable[[Path], Serving | Running]]] = [
    ("warm process", lambda folder: Serving(folder, lmtp=", workers: 2")),
    ("milter", lambda folder: Running(folder)),
]
FAULTS: list[tuple[Callable[[Serving | Running], AbstractContextManager[None]], str]] = [
    (out_of_descriptors, "Too many open files"),
    (renamed, "No such file or directory"),
]


@pytest.mark.parametrize("make", [row[1] for row in HOSTS], ids=[row[0] for row in HOSTS])
@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=[row[1] for row in FAULTS])
def test_what_cannot_be_read_at_the_moment_is_in_force_soon_after(
    make: Callable[[Path], Serving | Running], fault: Callable[[Serving | Running], AbstractContextManager[None]], says: str
) -> None:
    """One SIGHUP and not one message: each process says once that it keeps what it has, and once that it has the new one."""
    with open_folder() as folder:
        host = make(folder)
        try:
            start(host)
            count = len(pids(host))
            write(host, host.made.config.read_text() + "after_queue: park\n")
            with fault(host):
                host.signal(signal.SIGHUP)
                wait_for(lambda: told(host, f"{says}; it is tried again by itself") == count, "the line of each process")
            wait_for(lambda: told(host, "detail=changed") == count, "the new configuration in each process")
            assert told(host, "not changed") == count
        finally:
            host.stop()


@pytest.mark.parametrize("make", [row[1] for row in HOSTS], ids=[row[0] for row in HOSTS])
def test_a_mistake_is_not_tried_again(make: Callable[[Path], Serving | Running]) -> None:
    """It waits for the next change, and the mend needs no second SIGHUP where a message comes."""
    with open_folder() as folder:
        host = make(folder)
        try:
            start(host)
            good = host.made.config.read_text()
            write(host, "routes: [\n")
            host.signal(signal.SIGHUP)
            wait_for(lambda: told(host, "is not YAML") == len(pids(host)), "the line of each process")
            assert told(host, "tried again") == 0
            write(host, good + "after_queue: park\n")
            host.signal(signal.SIGHUP)
            wait_for(lambda: told(host, "detail=changed") == len(pids(host)), "the mend")
        finally:
            host.stop()
