"""Memory that a message needed goes back to the system when the message is done with.

Promises: blocks of a message's size are mapped one by one, so that freeing one unmaps it. Without it glibc learns to keep them:
100 messages of 8 MB, 30 at once, left 250 MB behind, and more each time. Smaller ones come from one arena for all threads, not
one for each: ten threads were still growing after 60,000 messages, and with one arena they had stopped after 30,000.
Never: fails: another C library has other habits.
"""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["give_back"]

#: mallopt(3).
_M_MMAP_THRESHOLD: Final = -3
_GIVEN_BACK: Final = 262_144
_M_ARENA_MAX: Final = -8


def give_back() -> None:
    """For the whole process, from now on."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK)
        mallopt(_M_ARENA_MAX, 1)  # the interpreter lets one thread at a time ask for memory in any case
    except (AttributeError, OSError):
        return
