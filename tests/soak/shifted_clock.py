"""A clock that can be set while a process runs: the eight octets of the file $SOAK_CLOCK are the seconds that it is off.

A copy lies among the packages of the soak's own installation, with a .pth file that imports it at the start of every Python.
Promises: without $SOAK_CLOCK, which only the warm process has, nothing is changed. Only time.time is: not the monotonic clock.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

if _place := os.environ.get("SOAK_CLOCK"):
    with open(_place, "rb") as _file:
        _page = mmap.mmap(_file.fileno(), 8, prot=mmap.PROT_READ)
    _right = time.time

    def _shifted() -> float:
        off: float = struct.unpack("d", _page[:8])[0]
        return _right() + off

    time.time = _shifted
