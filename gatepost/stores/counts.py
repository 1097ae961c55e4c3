"""Counts of a limit's windows, in the ledger's database: is there room, and one more.

Promises: of a limit of n exactly n are counted, for each call is a part of the caller's one transaction; a wrong clock holds
mail up for a lease longer than the window, and lets no flood through.
Never: begins or ends a transaction; knows what is counted: a counter comes with its hash.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Final

    from gatepost.stores.limits import Counter

    #: Counters that have a window, each with its hash.
    Asked = list[tuple[bytes, Counter]]

__all__ = ["count", "fullest", "prune"]

#: No time is later (seconds; SQL has no literal for infinity).
_NEVER: Final = 1e300
#: The nth newest of a counter's counts in a time.
_COUNTED: Final = "(SELECT time FROM counted WHERE counter = ? AND time > ? AND time <= ? ORDER BY time DESC LIMIT 1 OFFSET ?)"


def count(database: sqlite3.Connection, delivery: bytes, asked: Asked, now: float, lease: float) -> tuple[float, str] | None:
    """Counts a delivery under each counter, or under none where a window is full: then until when, and which.

    A count made at t is in a window of w seconds until t + w. Counts after `now` are in it too: a run that started later
    may be here first. None of those started more than a lease from now; a count further ahead was made before the clock was
    set back, and is moved to now.
    """
    full, ahead = fullest(database, asked, now, lease)
    if ahead:
        database.executemany(
            "UPDATE OR REPLACE counted SET until = until - time + ?, time = ? WHERE counter = ? AND time > ?",
            [(now, now, hashed, now + lease) for hashed, _ in asked],
        )
    if full:
        return full
    database.executemany(
        "INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?)",
        [(hashed, now, delivery, now + max(seconds for _, seconds in counter.windows)) for hashed, counter in asked],
    )
    return None


def fullest(database: sqlite3.Connection, asked: Asked, now: float, lease: float) -> tuple[tuple[float, str] | None, bool]:
    """Of the windows that are full the one that lasts longest: until when, and which; None where all have room. And whether

    any count is more than a lease ahead. A window that is full has room again when the oldest of as many counts as it holds
    leaves it. Counts more than a lease ahead stand for now, whether `count` has moved them yet or not.
    """
    windows = [(hashed, counter, *window) for hashed, counter in asked for window in counter.windows]
    far = [(hashed, now + lease, _NEVER, 1) for hashed, _ in asked]
    found = _nth(database, far + [(hashed, now - seconds, _NEVER, count) for hashed, _, count, seconds in windows])
    ahead, oldest = any(time is not None for time in found[: len(far)]), found[len(far) :]
    if any(time is not None and time > now for time in oldest):
        near = _nth(database, [(hashed, now, now + lease, count) for hashed, _, count, _ in windows])
        ended = [now if soon is None else soon for soon in near]
        oldest = [soon if time is not None and time > now else time for time, soon in zip(oldest, ended, strict=True)]
    full = [
        (time + seconds, counter.limit((count, seconds)))
        for (_, counter, count, seconds), time in zip(windows, oldest, strict=True)
        if time is not None
    ]
    return max(full, default=None), ahead


def _nth(database: sqlite3.Connection, wanted: list[tuple[bytes, float, float, int]]) -> list[float | None]:
    """Of each (counter, after, until, n) the nth newest (from 1) of its counts in that time, None where it has fewer."""
    values = [value for hashed, after, until, count in wanted for value in (hashed, after, until, count - 1)]
    found: tuple[float | None, ...] = database.execute(f"SELECT {', '.join([_COUNTED] * len(wanted))}", values).fetchone()
    return list(found)


def prune(database: sqlite3.Connection, now: float, limit: int) -> None:
    """Deletes at most so many counts that have left every window."""
    database.execute(
        "DELETE FROM counted WHERE (counter, time, delivery) IN"
        " (SELECT counter, time, delivery FROM counted WHERE until <= ? ORDER BY until LIMIT ?)",
        (now, limit),
    )
