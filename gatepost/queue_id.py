"""Postfix's queue IDs: which form one has, and when its message arrived (postconf(5), enable_long_queue_ids).

Promises: total: any text has an answer. A long queue ID is never used twice; it begins with the time of arrival.
Never: takes a short one (the default) for unique: it is made of an inode number and microseconds, and comes again.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["arrival", "is_long"]

#: Digits of the long form: no vowels, so that no ID spells a word. The last digit ends the time, before the inode number.
_DIGITS: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_SECONDS: Final = 6
_MICROSECONDS: Final = 4
_END: Final = "z"


def is_long(queue_id: str) -> bool:
    """Six digits of seconds, four of microseconds, `z`, and the inode number."""
    return (
        len(queue_id) > _SECONDS + _MICROSECONDS + 1
        and queue_id[_SECONDS + _MICROSECONDS] == _END
        and all(digit in _DIGITS for digit in queue_id)
    )


def arrival(queue_id: str) -> int | None:
    """Unix seconds at which Postfix took the message; None for what is no long queue ID."""
    if not is_long(queue_id):
        return None
    seconds = 0
    for digit in queue_id[:_SECONDS]:
        seconds = seconds * len(_DIGITS) + _DIGITS.index(digit)
    return seconds
