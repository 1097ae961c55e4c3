"""Messages a second through a real Postfix: each rung of the ladder with a webhook and a Maildir, and rt-mailgate, against a
pipe that does nothing.

Promises: all variants take turns, so that a burst of other work spoils a round and not one variant's figure; a turn counts only
if Postfix's log, our own log and the sink agree that every message of it was delivered, and only once.
Never: compares figures of two runs.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.place import RUNGS, SINKS
from demo.postfix_instance import LOOPBACK, PostfixError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Results
    from bench.place import Place

    #: Of each variant, by its figure's name: messages a second, one for each round.
    Rates = dict[str, list[float]]

__all__ = ["NOOP", "SIZES", "VARIANTS", "Size", "Variant", "measure", "summary"]

#: Clients at once, each a process with a key and a sender of its own: a limit counts what came for a key and from a sender,
#: and none that is in use has thousands of messages an hour.
SESSIONS: Final = 10


@dataclass(frozen=True)
class Variant:
    """What takes a message. `figure`: what its figures' names begin with; `address`: what its addresses begin with."""

    figure: str
    address: str
    service: str
    sink: str = ""

    @property
    def done_by(self) -> str:
        """Whose process does the job: "script", "warm", or "" where it is none of ours."""
        if not self.service.startswith("gatepost"):
            return ""
        return "script" if self.service == "gatepost" else "warm"


@dataclass(frozen=True)
class Size:
    """A size of message. `suffix`: what its figures' names end with; `messages`: in a turn, by the service."""

    suffix: str
    octets: int
    least_rounds: int
    most_rounds: int
    #: Seconds after which no further round begins.
    budget: float
    messages: dict[str, int]


NOOP: Final = Variant("noop", "noop", "noop")
_FIGURES: Final = {"pipe": "pipe_alone", "thin": "pipe_thin", "lmtp": "lmtp"}
#: In the order of a round.
VARIANTS: Final = (
    NOOP,
    *(
        Variant(_FIGURES[rung] + ("" if sink == "webhook" else f"_{sink}"), f"{rung}-{sink}", service, sink)
        for rung, service in RUNGS.items()
        for sink in SINKS
    ),
    Variant("rt_mailgate", "rt-mailgate", "mailgate", "webhook"),
)
#: A turn lasts one to three seconds: what is fast sends more. Multiples of SESSIONS.
SIZES: Final = (
    Size("", 5_000, 3, 5, 95.0, {"noop": 800, "gatepost": 120, "gatepost-thin": 400, "gatepost-lmtp": 800, "mailgate": 60}),
    Size("_1mb", 1_000_000, 3, 3, 50.0, {"noop": 80, "gatepost": 40, "gatepost-thin": 60, "gatepost-lmtp": 80, "mailgate": 30}),
)
_WARM_UP: Final = 30
#: Seconds for one turn; a slow machine needs 20.
_PATIENCE: Final = 180.0
#: Seconds between two looks at the log; the shortest turn takes about a second.
_POLL: Final = 0.005


def measure(place: Place, say: Callable[[str], None]) -> Results:
    """Rounds of all variants, 5 kB and then 1 MB; medians."""
    results: Results = {"sessions": SESSIONS}
    for variant in VARIANTS:
        _turn(place, variant, _WARM_UP, SIZES[0].octets, "warm-up")
    for size in SIZES:
        results |= summary(_rounds(place, size, say), size)
    return results


def _rounds(place: Place, size: Size, say: Callable[[str], None]) -> Rates:
    rates: Rates = {variant.figure: [] for variant in VARIANTS}
    started = time.monotonic()
    while True:
        done = len(rates[NOOP.figure]) + 1
        for variant in VARIANTS:
            count = size.messages[variant.service]
            seconds = _turn(place, variant, count, size.octets, f"turn{size.suffix}-{done}")
            rates[variant.figure].append(count / seconds)
        say(f"  round {done}, {size.octets} bytes: " + ", ".join(f"{name} {each[-1]:.0f}/s" for name, each in rates.items()))
        seconds = time.monotonic() - started
        if done >= size.most_rounds or (done >= size.least_rounds and seconds + seconds / done > size.budget):
            return rates


def summary(rates: Rates, size: Size) -> Results:
    """The figures of some rounds: medians of the rates, and of the ratios within a round."""
    noop = rates[NOOP.figure]
    results: Results = {f"rounds{size.suffix}": len(noop), f"message_bytes{size.suffix}": size.octets}
    for name, each in rates.items():
        results[f"{name}_per_second{size.suffix}"] = round(statistics.median(each), 1)
        if name == NOOP.figure:
            continue
        ratios = [ours / nothing for ours, nothing in zip(each, noop, strict=True)]
        results[f"{name}_ratio{size.suffix}"] = round(statistics.median(ratios), 4)
        if not size.suffix:
            results[f"{name}_ratio_lowest"], results[f"{name}_ratio_highest"] = round(min(ratios), 4), round(max(ratios), 4)
    return results


def _turn(place: Place, variant: Variant, count: int, octets: int, name: str) -> float:
    """Seconds from the first connection to the last delivery of `count` messages. PostfixError where one was not delivered."""
    place.idle()
    position = place.postfix.log_file.stat().st_size
    before = _arrived(place, variant)
    started = time.perf_counter()
    clients = [
        subprocess.Popen(
            [
                "/usr/sbin/smtp-source", "-s", "1", "-m", str(count // SESSIONS), "-l", str(octets),
                "-f", f"person-{client}-{name}@example.org", "-t", place.to(variant.address, f"{client}-{name}"[:16]),
                "-M", "client.example.net", f"{LOOPBACK}:{place.postfix.port}",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for client in range(SESSIONS)
    ]  # fmt: skip
    for client in clients:
        said = client.communicate(timeout=_PATIENCE)[0].decode(errors="replace")
        if client.returncode:
            raise PostfixError(f"smtp-source: exit status {client.returncode}: {said}\n{place.postfix.log_tail()}")
    seconds = _until_delivered(place, variant, count, position) - started
    wanted = {what: count * (what in (variant.sink and "sink", variant.done_by)) for what in before}
    arrived = {what: now - before[what] for what, now in _arrived(place, variant).items()}
    if arrived != wanted:
        raise PostfixError(f"{variant.figure}: {wanted} were expected, {arrived} came:\n{place.postfix.log_tail()}")
    place.empty_maildir()
    return seconds


def _arrived(place: Place, variant: Variant) -> dict[str, int]:
    """How many messages the sink has, and how many scripts and the warm process have logged as accepted."""
    accepted, workers = place.accepted(), place.warm.workers
    warm = sum(pid in workers for pid in accepted)
    sink = place.in_maildir() if variant.sink == "maildir" else place.in_app()
    return {"sink": sink, "warm": warm, "script": len(accepted) - warm}


def _until_delivered(place: Place, variant: Variant, count: int, position: int) -> float:
    """When Postfix's log, from `position` on, had the last of `count` deliveries by this variant's service."""
    service = f" relay={variant.service}, ".encode() if variant.service != "gatepost-lmtp" else b"/lmtp.sock], "
    delivered, rest, ends = 0, b"", time.perf_counter() + _PATIENCE
    with place.postfix.log_file.open("rb") as log:
        log.seek(position)
        while True:
            *lines, rest = (rest + log.read()).split(b"\n")
            now = time.perf_counter()
            for line in lines:
                if b" status=" in line:
                    if b" status=sent " not in line or service not in line:
                        raise PostfixError(f"{variant.figure}: {line.decode(errors='replace')}")
                    delivered += 1
            if delivered > count:
                raise PostfixError(f"{variant.figure}: {delivered} deliveries of {count} messages")
            if delivered == count:
                return now
            if now > ends:
                missing = f"{delivered} of {count} after {_PATIENCE:g} s"
                raise PostfixError(f"{variant.figure}: {missing}:\n{place.postfix.log_tail()}")
            time.sleep(_POLL)
