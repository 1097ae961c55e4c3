"""Canonical line ends: the bytes of a message, the same by whichever way it came.

Promises: every LF, with all CR directly before it, becomes one CRLF; any other CR and every NUL stays. Doing it again
changes nothing. Time and memory are in proportion to the data, whatever they are.
Never: adds or removes a line, the LF that `flags=B` of pipe(8) appends included (the pipe script removes that one).
"""

from __future__ import annotations

__all__ = ["crlf", "from_pipe"]


def crlf(data: bytes) -> bytes:
    """`data` with CRLF line ends (RFC 5322 2.1). Costs at most two copies of the result."""
    if b"\r\n" in data:
        data = _without_cr_before_lf(data)
    return data.replace(b"\n", b"\r\n")


#: pipe(8) writes LF; a CR that a sender left before it came as CR CR LF and would else differ between pipe and LMTP.
from_pipe = crlf


def _without_cr_before_lf(data: bytes) -> bytes:
    """Takes runs of 1, 2, 4 ... CR off, longest first: a run of any length goes in as many passes as its length has bits."""
    run = 1
    while b"\r" * (2 * run) + b"\n" in data:
        run *= 2
    while run:
        data = data.replace(b"\r" * run + b"\n", b"\n")
        run //= 2
    return data
