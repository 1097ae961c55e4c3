"""Memory of our milter after its first messages, and after many.

Promises: a milter that begins anew, with everything authenticated; every message passes through Postfix and is judged.
Never: counts what the kernel keeps of its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.milter_rate import send
from bench.stage import resident

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.doors import Doors
    from bench.figures import Results

__all__ = ["measure"]

FIRST: Final = 1_000
LAST: Final = 20_000
#: Messages between two looks that are shown.
_STEP: Final = 4_750
_DOOR: Final = "checking"
_MEGABYTE: Final = 1 << 20


def measure(doors: Doors, say: Callable[[str], None]) -> Results:
    """Megabytes after FIRST messages and after LAST."""
    doors.restart(_DOOR)
    send(doors, _DOOR, FIRST, kept=True)
    first = last = resident(doors.pid(_DOOR))
    for sent in range(FIRST + _STEP, LAST + 1, _STEP):
        send(doors, _DOOR, _STEP, kept=True)
        last = resident(doors.pid(_DOOR))
        say(f"  {last / _MEGABYTE:.1f} MB after {sent} messages")
    return {
        "milter_memory_first_mb": round(first / _MEGABYTE, 1),
        "milter_memory_last_mb": round(last / _MEGABYTE, 1),
        "milter_memory_growth_mb": round((last - first) / _MEGABYTE, 1),
    }
