"""Messages a second through Postfix with each milter, on new connections and on kept ones.

Promises: the doors take turns, so that a burst of other work spoils a round and not one door's figure; the queue is empty
before each turn; a turn counts only if Postfix took every message, and for our own milters only if each was judged.
Never: compares figures of two runs; counts a delivery's time (the clock stops at the last 250).
"""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Final

from bench.doors import DOORS
from bench.stage import SENDER
from demo.postfix_instance import LOOPBACK, PostfixError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.doors import Doors
    from bench.figures import Results

    #: Of each kind of connection and each door: messages a second, a figure for each round.
    Rates = dict[str, dict[str, list[float]]]

__all__ = ["CONNECTIONS", "measure", "send", "summary"]

MESSAGES: Final = 500
WARM_UP: Final = 50
SESSIONS: Final = 10
#: "new": a connection for each message; "kept": one for all of a session's.
CONNECTIONS: Final = ("new", "kept")
#: At least so many rounds, then more until there are enough, or until so many seconds have passed.
LEAST_ROUNDS: Final = 3
MOST_ROUNDS: Final = 7
BUDGET: Final = 120.0
#: Seconds for one turn; a slow machine needs 20.
_PATIENCE: Final = 180.0
#: The ratios of results.json: name, door, and the door that it is compared with.
_RATIOS: Final = (("milter", "ours", "idle"), ("milter_idle", "idle", "none"))


def measure(doors: Doors, say: Callable[[str], None]) -> Results:
    """Rounds of all doors, on new connections and then on kept ones; medians."""
    rates: Rates = {kind: {door: [] for door in DOORS} for kind in CONNECTIONS}
    for door in DOORS:
        send(doors, door, WARM_UP, kept=True)
    started = time.monotonic()
    while True:
        for kind in CONNECTIONS:
            for door in DOORS:
                rates[kind][door].append(MESSAGES / send(doors, door, MESSAGES, kept=kind == "kept"))
            done = len(rates[kind][door])
            say(f"  round {done}, {kind}: " + ", ".join(f"{door} {rates[kind][door][-1]:.0f}/s" for door in DOORS))
        seconds = time.monotonic() - started
        if done >= MOST_ROUNDS or (done >= LEAST_ROUNDS and seconds + seconds / done > BUDGET):
            return summary(rates)


def summary(rates: Rates) -> Results:
    """The figures of some rounds: medians of the rates, and of the ratios within a round."""
    results: Results = {"milter_rounds": len(rates["new"]["none"]), "milter_messages": MESSAGES}
    for kind in CONNECTIONS:
        for door in DOORS:
            results[f"milter_{door}_{kind}_per_second"] = round(statistics.median(rates[kind][door]), 1)
        for name, door, against in _RATIOS:
            ratios = [one / other for one, other in zip(rates[kind][door], rates[kind][against], strict=True)]
            results[f"{name}_ratio_{kind}"] = round(statistics.median(ratios), 4)
            if name == "milter":
                results[f"{name}_ratio_{kind}_lowest"] = round(min(ratios), 4)
                results[f"{name}_ratio_{kind}_highest"] = round(max(ratios), 4)
    return results


def send(doors: Doors, door: str, count: int, *, kept: bool) -> float:
    """Seconds from the first connection to the last 250 of `count` messages. PostfixError where one was not taken."""
    doors.idle()
    ours = door in ("ours", "checking")
    had = doors.judged(door) if ours else 0
    command = ["/usr/sbin/smtp-source", "-s", str(SESSIONS), "-m", str(count), "-F", str(doors.message), "-f", SENDER]
    command += ["-t", doors.recipient, "-M", "client.example.net", *(["-d"] if kept else []), f"{LOOPBACK}:{doors.ports[door]}"]
    started = time.perf_counter()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_PATIENCE, check=False
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        said = done.stdout.decode(errors="replace")
        raise PostfixError(f"{door}: smtp-source: status {done.returncode}: {said}\n{doors.postfix.log_tail()}")
    if ours and doors.judged(door) - had != count:
        raise PostfixError(f"{door}: {doors.judged(door) - had} of {count} messages were judged")
    return seconds
