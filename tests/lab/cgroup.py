"""Cgroups of the lab: who is in one can be ended, whatever became of its parents.

Promises: ending one ends every process in it, and waits for that; ending what is not there is not an error.
Never: touches a cgroup whose name is not the lab's own.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

from tests.lab.machine import cgroup_roots, wait_for

__all__ = ["end_cgroup", "enter_cgroup"]

#: Seconds for killed processes to be gone.
_GONE: Final = 60.0


def enter_cgroup(name: str) -> None:
    """Puts this process into it, and with it whatever it starts."""
    for root in cgroup_roots():
        (root / name).mkdir(exist_ok=True)
        (root / name / "cgroup.procs").write_text(str(os.getpid()))


def end_cgroup(name: str) -> None:
    """Ends every process in it, waits until they are gone, and removes it."""
    roots = cgroup_roots()
    if not roots:
        return
    group = roots[0] / name
    if group.exists():
        (group / "cgroup.kill").write_text("1")
        wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text(), timeout=_GONE, what=f"the end of {name}")
    for root in roots:
        end = time.monotonic() + _GONE
        while (root / name).exists() and time.monotonic() < end:
            for folder, _, _ in os.walk(root / name, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
