"""Memory that a message needed goes back to the system when the message is done with.

Promises: blocks of a message's size are mapped one by one, so that freeing one unmaps it. Without it glibc learns to keep them:
100 messages of 8 MB, 30 at once, left 250 MB behind, and more each time.
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


def give_back() -> None:
    """For the whole process, from now on."""
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK)
    except (AttributeError, OSError):
        return
