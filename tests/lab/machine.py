"""The machine that the lab runs on: what it must allow, and how the lab runs a command on it.

Promises: a machine that cannot carry the lab is told so in one line, with the reason; every command has a time limit, and a failed
one is an error with its output; waiting is looking again, bounded.
Never: takes a machine's shortcoming for a reason to leave a part out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

__all__ = ["CHECKOUT", "LabError", "cgroup_roots", "preflight", "run", "wait_for"]

_T = TypeVar("_T")

CHECKOUT: Final = Path(__file__).resolve().parents[2]
#: Seconds between two looks at something that is waited for.
_POLL: Final = 0.05
#: What the lab runs on this machine; demo/setup.sh lab installs it.
_COMMANDS: Final = (
    "ip",
    "nft",
    "mmdebstrap",
    "systemd-nspawn",
    "dpkg-scanpackages",
    "ssh-keygen",
    "openssl",
    "nsenter",
    "unshare",
)


class LabError(RuntimeError):
    """The lab cannot go on: a command failed, a wait was too long, or this machine does not allow it."""


def run(
    command: Sequence[str],
    *,
    timeout: float = 60.0,
    check: bool = True,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """The command's output, both streams; LabError where its exit status is not 0 (unless `check` is false)."""
    done = subprocess.run(
        list(command), input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
        env=None if environment is None else dict(environment), cwd=cwd,
    )  # fmt: skip
    text = done.stdout.decode("utf-8", "replace")
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: exit status {done.returncode}\n{text}")
    return text


def wait_for(look: Callable[[], _T], *, timeout: float = 30.0, every: float = _POLL, what: str) -> _T:
    """The first result of `look` that counts as true, tried `every` so many seconds until `timeout` have passed; then LabError."""
    end = time.monotonic() + timeout
    while True:
        result = look()
        if result:
            return result
        if time.monotonic() > end:
            raise LabError(f"waited {timeout:g} s for {what}")
        time.sleep(every)


def cgroup_roots() -> list[Path]:
    """Where a guest needs a cgroup of its own: the cgroup2 tree first, then systemd's version 1 tree where both are mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    second = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    first = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup" and "name=systemd" in fields[3].split(",")]
    return second[:1] + first[:1]


def preflight(name: str) -> None:
    """Tries what the lab stands on: root, its commands, a cgroup, a mount, a network namespace. LabError says what is not allowed."""
    if os.geteuid():
        raise LabError("the lab needs root: it makes network namespaces, mounts and guests")
    missing = [each for each in _COMMANDS if shutil.which(each) is None]
    if missing:
        raise LabError(f"the lab needs {', '.join(missing)}: demo/setup.sh lab installs what is missing")
    roots = cgroup_roots()
    if not roots or not (roots[0] / "cgroup.controllers").exists():
        raise LabError("the lab needs a cgroup2 file system: none is mounted on this machine")
    try:
        for root in roots:
            (root / f"{name}-try").mkdir(exist_ok=True)
            (root / f"{name}-try").rmdir()
    except OSError as error:
        raise LabError(f"the lab needs to make cgroups, and this machine does not let it: {error}") from None
    for what, command in (
        ("to mount (CAP_SYS_ADMIN)", ["unshare", "--mount", "mount", "-t", "tmpfs", "try", "/mnt"]),
        ("to make a network namespace and a bridge", ["unshare", "--net", "ip", "link", "add", "try", "type", "bridge"]),
        ("nftables in the kernel", ["unshare", "--net", "nft", "add", "table", "inet", "try"]),
    ):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise LabError(f"the lab needs {what}, and this machine does not allow it: {reason[0]}")
