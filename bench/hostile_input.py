"""Hostile messages (tests/hostile.py), each at scale 1 and 10: how the time grows, how long it is, how much memory it takes.

Promises: the time is that of everything gatepost does with a message before it hands it over: canonical form, head, everything
that a `Message` has, the verdict. It is processor time: nothing here waits, and on a busy machine the clock on the wall counts
what others do (seen: 17 to 51 ms of one input, 17.0 to 18.5 of the processor). Scales take turns, the shortest of several
runs counts, and a short one is repeated until the clock can be trusted. Memory is that of a fresh process for each large input.
Never: keeps an input longer than it is measured.

    python bench/hostile_input.py CONFIG RECIPIENT FILE     reads and judges one message, and prints its own peak in kB
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gatepost import policy
from gatepost.config import load
from gatepost.decision import Envelope
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import parse
from gatepost.mail.received import received

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Results
    from bench.place import Place
    from gatepost.settings import Settings

__all__ = ["judge", "measure", "read_everything"]

#: Seconds for each scale of an input: as many runs as fit, but at least so many.
_BUDGET: Final = 0.06
_LEAST_RUNS: Final = 5
#: Memory is measured for inputs from so many bytes on.
_LARGE: Final = 4_000_000


def read_everything(data: bytes, settings: Settings, to: str) -> str:
    """All that is done with a message before it is handed over; the action that was decided. `data`: as pipe(8) writes it."""
    message = parse(from_pipe(data), settings.parser)
    _ = (
        message.flags,
        message.limits_hit,
        message.message_id,
        message.in_reply_to,
        message.references,
        message.subject,
        message.date,
        message.from_,
        message.to,
        message.cc,
        message.content_type,
        message.sha256(("mx.example.com",)),
    )
    for field in message.headers.all("received")[: settings.parser.received]:
        received(field.value)
    envelope = Envelope(sender="person@example.org", recipient=to, queue_id="4dBench00000")
    return policy.decide(envelope, message, settings, policy.Facts(now=time.time())).action


def judge(one: Callable[[], object], ten: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of both, the shortest of several runs that take turns."""
    best = [float("inf"), float("inf")]
    spent, runs = [0.0, 0.0], 0
    while runs < _LEAST_RUNS or min(spent) < _BUDGET:
        for at, work in enumerate((one, ten)):
            if runs >= _LEAST_RUNS and spent[at] >= _BUDGET:
                continue
            started = time.process_time()
            work()
            seconds = time.process_time() - started
            spent[at] += seconds
            best[at] = min(best[at], seconds)
        runs += 1
    return best[0], best[1]


def measure(place: Place, say: Callable[[str], None]) -> Results:
    """Every input of tests/hostile.py."""
    from tests.hostile import HOSTILE

    settings, to = place.settings, place.to("pipe-webhook", "ticket-42")
    ratios, seconds, exceptions, large = {}, {}, 0, {}
    for name, make in HOSTILE.items():
        one, ten = make(1), make(10)
        try:
            short, long = judge(partial(read_everything, one, settings, to), partial(read_everything, ten, settings, to))
        except Exception as error:  # noqa: BLE001 - counted: none may raise
            say(f"  {name}: {type(error).__name__}: {error}")
            exceptions += 1
            continue
        ratios[name], seconds[name] = long / short, long
        if len(ten) >= _LARGE:
            large[name] = place.folder / "inputs" / name
            large[name].write_bytes(ten if ten.endswith(b"\n\n") else ten.rstrip(b"\n") + b"\n\n")
    for name in sorted(ratios, key=ratios.__getitem__, reverse=True)[:5]:
        say(f"  {name}: {ratios[name]:.1f} times as long at ten times the size, {seconds[name] * 1e3:.1f} ms")
    worst, slowest = max(ratios, key=ratios.__getitem__), max(seconds, key=seconds.__getitem__)
    return {
        "parser_inputs": len(HOSTILE),
        "parser_exceptions": exceptions,
        "parser_worst_10x": round(ratios[worst], 2),
        "parser_worst_10x_input": worst,
        "parser_slowest_seconds": round(seconds[slowest], 4),
        "parser_slowest_input": slowest,
        **_memory(place, large, to),
    }


def _memory(place: Place, large: dict[str, Path], to: str) -> Results:
    """The most that a fresh process took, for reading and judging alone and for the whole script."""
    from bench.as_user import as_user
    from bench.starts import run_once

    parser = {name: _peak_of_parser(place, path, to) for name, path in large.items()}
    script = as_user(
        lambda: {name: run_once(place.arguments("webhook", f"4dHostile{name}"), str(path)) for name, path in large.items()},
    )
    results: Results = {}
    for what, peaks in (("parser", parser), ("script", script)):
        most = max(peaks, key=peaks.__getitem__)
        results |= {f"{what}_peak_rss_mb": round(peaks[most] / 1024, 1), f"{what}_peak_rss_input": most}
    return results


def _peak_of_parser(place: Place, path: Path, to: str) -> int:
    command = [place.environment.python, "-I", __file__, str(place.config), to, str(path)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, text=True)
    if done.returncode:
        raise RuntimeError(f"{path.name}: exit status {done.returncode}: {done.stderr}")
    return int(done.stdout)


def main() -> None:
    """One message in a process of its own."""
    config, to, path = sys.argv[1:]
    settings = load(config)
    file = os.open(path, os.O_RDONLY)
    read_everything(os.read(file, os.fstat(file).st_size), settings, to)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    sys.stdout.write(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
