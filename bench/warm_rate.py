"""The warm process's rate: by how many messages are in flight at once, and by how many rows the ledger has.

Promises: the numbers take turns, so that a burst of other work spoils a round and not one number's figure; clients speak to the
socket themselves, so that Postfix is no part of it; a turn counts only if the app and our own log have every message.
Never: measures a ledger in which nothing is old: every message deletes old rows, as it does on a host that has run for long.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

from bench import lmtp_load
from bench.as_user import as_user
from bench.stage import letter
from demo.postfix_instance import PostfixError
from gatepost.gateway import KEEP_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.figures import Results
    from bench.place import Place, Warm

    #: Messages a second, one for each round, by what is compared.
    Rates = dict[int, list[float]]
    #: To whom, how many at once, how many; messages a second, and the longest that one took.
    Load = Callable[[Warm, int, int], tuple[float, float]]

__all__ = ["IN_FLIGHT", "ROWS", "fill", "measure", "summary"]

#: Messages at once. All are compared with 10, for one alone waits for each step in turn.
IN_FLIGHT: Final = (1, 10, 100, 400)
_BASE_IN_FLIGHT: Final = 10
#: Rows in the ledger before the first message that counts. All are compared with the first.
ROWS: Final = (1, 10_000, 1_000_000)
ROUNDS: Final = 3
MESSAGES: Final = 1_000
_MESSAGES_ALONE: Final = 300
#: Messages at once into each ledger.
_AT_ONCE: Final = 10
_OCTETS: Final = 5_000
#: Of the rows, so many in a hundred are old enough to go; the rest is spread over the time for which rows are kept.
_OLD_PERCENT: Final = 5
#: Rows in one transaction.
_BATCH: Final = 50_000
_FILL: Final = """\
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :rows)
INSERT INTO delivery (id, queue_id, first_seen, changed, attempts, cannot_take, fence, lease_until, state, judgement, outcome,
    sender_hash, recipient_hash, passed)
SELECT randomblob(32), '4jWl4Z5tH8z' || n, at, at, 1, 0, 1, 0, 'done', '', :outcome, randomblob(16), randomblob(16), 1
FROM (SELECT n, :now - :keep * (abs(random()) % 100000) / (1000.0 * (100 - :old)) AS at FROM number)"""


def measure(place: Place, say: Callable[[str], None]) -> Results:
    """Both; medians."""
    to = [place.to("lmtp-webhook", f"ticket-{number}") for number in range(MESSAGES)]
    load = partial(_turn, place, to, letter(to[0], _OCTETS))
    return {"warm_rounds": ROUNDS, "warm_messages": MESSAGES, **_in_flight(place.warm, load, say), **_rows(place, load, say)}


def _in_flight(warm: Warm, load: Load, say: Callable[[str], None]) -> Results:
    load(warm, max(IN_FLIGHT), MESSAGES)
    turns = {at_once: partial(load, warm, at_once, MESSAGES if at_once > 1 else _MESSAGES_ALONE) for at_once in IN_FLIGHT}
    rates, _ = _rounds("in flight", turns, say)
    return summary("in_flight", rates, base=_BASE_IN_FLIGHT)


def _rows(place: Place, load: Load, say: Callable[[str], None]) -> Results:
    turns = {}
    for rows in ROWS:
        warm = place.serve(f"rows-{rows}")
        load(warm, _AT_ONCE, _AT_ONCE)
        as_user(partial(fill, warm.store, rows))
        turns[rows] = partial(load, warm, _AT_ONCE, MESSAGES)
    rates, longest = _rounds("rows", turns, say)
    for rows in ROWS:
        place.end(f"rows-{rows}")
    results = summary("ledger_rows", rates, base=ROWS[0])
    for rows in (ROWS[0], ROWS[-1]):
        results[f"ledger_rows_{rows}_longest_ms"] = round(longest[rows] * 1e3, 1)
    return results


def _turn(place: Place, to: list[str], message: bytes, warm: Warm, at_once: int, count: int) -> tuple[float, float]:
    """Messages a second, and the longest that one took, in seconds. PostfixError where not every one came."""
    in_app, accepted = place.in_app(), len(place.accepted(warm.name))
    started = time.perf_counter()
    longest = max(lmtp_load.load(warm.socket, to, message, at_once=at_once, count=count))
    seconds = time.perf_counter() - started
    came = place.in_app() - in_app, len(place.accepted(warm.name)) - accepted
    if came != (count, count):
        raise PostfixError(f"of {count} messages {came[0]} came to the app, and {came[1]} are in the log as accepted")
    return count / seconds, longest


def _rounds(
    what: str, turns: Mapping[int, Callable[[], tuple[float, float]]], say: Callable[[str], None]
) -> tuple[Rates, dict[int, float]]:
    """The rates, and the longest of all rounds."""
    rates: Rates = {number: [] for number in turns}
    longest = dict.fromkeys(turns, 0.0)
    for done in range(ROUNDS):
        for number, turn in turns.items():
            rate, slowest = turn()
            rates[number].append(rate)
            longest[number] = max(longest[number], slowest)
        say(f"  {what}, round {done + 1}: " + ", ".join(f"{number}: {each[-1]:.0f}/s" for number, each in rates.items()))
    return rates, longest


def summary(name: str, rates: Rates, *, base: int) -> Results:
    """The figures of some rounds: medians of the rates, and of the ratios to the base's within a round."""
    results: Results = {}
    for number, each in rates.items():
        results[f"{name}_{number}_per_second"] = round(statistics.median(each), 1)
        if number != base:
            ratios = [one / other for one, other in zip(each, rates[base], strict=True)]
            results[f"{name}_{number}_ratio"] = round(statistics.median(ratios), 4)
    return results


def fill(store: Path, rows: int) -> int:
    """Adds deliveries that are done with to the ledger in that folder; how many rows it has then."""
    with closing(sqlite3.connect(store / "gatepost.sqlite", timeout=60)) as database:
        database.execute("PRAGMA synchronous = OFF")
        for begun in range(0, rows, _BATCH):
            with database:
                database.execute(_FILL, {"rows": min(_BATCH, rows - begun), "now": time.time(), "keep": KEEP_ROWS,
                                         "old": _OLD_PERCENT, "outcome": "accepted"})  # fmt: skip
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        count: int = database.execute("SELECT count(*) FROM delivery").fetchone()[0]
        return count
