"""Messages a second through a real Postfix: the pipe script with a webhook and a Maildir, against a pipe that does nothing.

Promises: the three take turns, so that a burst of other work spoils a round and not one pipe's figure; a turn counts only if
Postfix's log, our own log and the sink agree that every message of it was delivered, and only once.
Never: compares figures of two runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Final

from bench.place import PIPES
from demo.postfix_instance import LOOPBACK, PostfixError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Results
    from bench.place import Place

__all__ = ["measure", "summary"]

MESSAGES: Final = 400
WARM_UP: Final = 30
MESSAGE_BYTES: Final = 5_000
SESSIONS: Final = 10
#: At least so many rounds, then more until there are enough, or until so many seconds have passed.
LEAST_ROUNDS: Final = 3
MOST_ROUNDS: Final = 6
BUDGET: Final = 90.0
#: Seconds for one pipe's turn; a slow machine needs 20.
_PATIENCE: Final = 180.0
#: Seconds between two looks at the log; the shortest turn takes about a second.
_POLL: Final = 0.005


def measure(place: Place, say: Callable[[str], None]) -> Results:
    """Rounds of noop, Maildir, webhook; medians."""
    for pipe in PIPES:
        _turn(place, pipe, WARM_UP, 0)
    rates: dict[str, list[float]] = {pipe: [] for pipe in PIPES}
    started = time.monotonic()
    while True:
        for pipe in PIPES:
            rates[pipe].append(MESSAGES / _turn(place, pipe, MESSAGES, len(rates[pipe]) + 1))
        done = len(rates["noop"])
        say(f"  round {done}: " + ", ".join(f"{pipe} {rates[pipe][-1]:.0f}/s" for pipe in PIPES))
        seconds = time.monotonic() - started
        if done >= MOST_ROUNDS or (done >= LEAST_ROUNDS and seconds + seconds / done > BUDGET):
            return summary(rates)


def summary(rates: dict[str, list[float]]) -> Results:
    """The figures of some rounds: medians of the rates, and of the ratios within a round."""
    results: Results = {
        "rounds": len(rates["noop"]),
        "messages": MESSAGES,
        "message_bytes": MESSAGE_BYTES,
        "sessions": SESSIONS,
    }
    for pipe, name in (("noop", "noop"), ("webhook", "pipe_alone"), ("maildir", "pipe_alone_maildir")):
        results[f"{name}_per_second"] = round(statistics.median(rates[pipe]), 1)
        if pipe != "noop":
            ratios = [ours / noop for ours, noop in zip(rates[pipe], rates["noop"], strict=True)]
            for suffix, value in (("", statistics.median(ratios)), ("_lowest", min(ratios)), ("_highest", max(ratios))):
                results[f"{name}_ratio{suffix}"] = round(value, 4)
    return results


def _turn(place: Place, pipe: str, count: int, number: int) -> float:
    """Seconds from the first connection to the last delivery of `count` messages. PostfixError where one was not delivered.

    Each turn has a key of its own: a limit counts what came for a key, and no key in use has thousands of messages an hour.
    """
    had, accepted, position = place.arrived(pipe), place.accepted(), _size(place)
    started = time.perf_counter()
    source = subprocess.run(
        [
            "/usr/sbin/smtp-source",
            "-s",
            str(SESSIONS),
            "-m",
            str(count),
            "-l",
            str(MESSAGE_BYTES),
            "-f",
            "person@example.org",
            "-t",
            place.address(pipe, f"turn-{number:03}"),
            "-M",
            "client.example.net",
            f"{LOOPBACK}:{place.postfix.port}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_PATIENCE,
        check=False,
    )
    if source.returncode:
        raise PostfixError(f"smtp-source: exit status {source.returncode}: {source.stdout.decode(errors='replace')}")
    seconds = _until_delivered(place, pipe, count, position) - started
    ours = 0 if pipe == "noop" else count
    seen = {"in the sink": place.arrived(pipe) - had, "in gatepost's log": place.accepted() - accepted}
    if any(number != ours for number in seen.values()):
        raise PostfixError(f"{pipe}: {ours} messages were expected {seen}:\n{place.postfix.log_tail()}")
    return seconds


def _size(place: Place) -> int:
    return os.path.getsize(place.postfix.log_file)


def _until_delivered(place: Place, pipe: str, count: int, position: int) -> float:
    """When Postfix's log, from `position` on, had the last of `count` deliveries by this pipe."""
    service = b" relay=noop, " if pipe == "noop" else b" relay=gatepost, "
    delivered, rest, ends = 0, b"", time.perf_counter() + _PATIENCE
    with place.postfix.log_file.open("rb") as log:
        log.seek(position)
        while True:
            *lines, rest = (rest + log.read()).split(b"\n")
            now = time.perf_counter()
            for line in lines:
                if b" status=" in line:
                    if b" status=sent " not in line or service not in line:
                        raise PostfixError(f"{pipe}: {line.decode(errors='replace')}")
                    delivered += 1
            if delivered > count:
                raise PostfixError(f"{pipe}: {delivered} deliveries of {count} messages")
            if delivered == count:
                return now
            if now > ends:
                raise PostfixError(f"{pipe}: {delivered} of {count} after {_PATIENCE:g} s:\n{place.postfix.log_tail()}")
            time.sleep(_POLL)
