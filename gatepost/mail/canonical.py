"""Canonical line ends: the bytes of a message, the same by whichever way it came.

Promises: every LF, with all CR directly before it, becomes one CRLF; any other CR and every NUL stays. Doing it again
changes nothing. Time and memory are in proportion to the data, whatever they are.
Never: adds or removes a line, the LF that `flags=B` of pipe(8) appends included (the pipe script removes that one).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["crlf", "from_pipe"]

_LONG: Final = 32
_LONG_RUN: Final = b"\r" * _LONG + b"\n"
_SHORT_RUNS: Final = (16, 8, 4, 2, 1)


def crlf(data: bytes) -> bytes:
    """`data` with CRLF line ends (RFC 5322 2.1). Costs at most two copies of the result."""
    if b"\r\n" in data:
        data = _without_cr_before_lf(data)
    return data.replace(b"\n", b"\r\n")


#: pipe(8) writes LF; a CR that a sender left before it came as CR CR LF and would else differ between pipe and LMTP.
from_pipe = crlf


def _without_cr_before_lf(data: bytes) -> bytes:
    """Takes away every CR that stands directly before an LF, or before another such CR: a fixed number of passes."""
    if _LONG_RUN in data:
        data = _without_long_runs(data)
    for run in _SHORT_RUNS:  # together they take a run of any length below _LONG
        data = data.replace(b"\r" * run + b"\n", b"\n")
    return data


def _without_long_runs(data: bytes) -> bytes:
    """One by one: there is at most one in _LONG octets."""
    kept: list[bytes] = []
    start = 0
    while (at := data.find(_LONG_RUN, start)) >= 0:
        lf = at + _LONG
        kept.append(data[start:lf].rstrip(b"\r"))
        start = lf
    kept.append(data[start:])
    return b"".join(kept)
