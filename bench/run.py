"""`make bench`: measures what gatepost costs on this machine, shows it, and writes .bench/results.json.

Promises: one run takes less than ten minutes; what it started is ended and its folder deleted, also after Ctrl-C; exit status
0 once everything was measured (an aim that is missed is shown, not an error); docs/bench.md explains every figure.
Never: measures on a Postfix, a store or a configuration of the machine's own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if __name__ == "__main__":  # the folder of this file would hide the package `bench` behind this file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import (
    guessing,
    hostile_input,
    latency,
    milter_memory,
    milter_rate,
    starts,
    throughput,
    warm_memory,
    warm_rate,
)
from bench.doors import Doors
from bench.figures import FIGURES, checked, table
from bench.place import Place
from demo.environment import CHECKOUT
from gatepost import __version__

if TYPE_CHECKING:
    from bench.figures import Results

__all__ = ["main", "write"]


def main() -> int:
    """The exit status. FULL=1 in the environment: what takes longer than ten minutes, too."""
    full = os.environ.get("FULL", "") not in ("", "0")
    if os.geteuid():
        _say("bench: a private Postfix can be started by root only: sudo make bench")
        return 1
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()
    results: Results = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gatepost_version": __version__,
        "machine_cores": len(os.sched_getaffinity(0)),
        "machine_load": round(os.getloadavg()[0], 2),
    }
    _say("bench: installing gatepost from its wheel, starting an app and a private Postfix")
    with Place() as place:
        results["machine_python"] = place.python_version()
        results["machine_postfix"] = place.postfix.command("postconf", "-h", "mail_version").strip()
        _say("bench: messages a second through Postfix, on every rung")
        results |= throughput.measure(place, _say)
        _say(f"bench: from Postfix's queue to the app, {latency.SESSIONS} clients at once")
        results |= latency.measure(place, float(results["lmtp_per_second"]), _say)
        _say("bench: the warm process's rate, by messages in flight and by rows in the ledger")
        results |= warm_rate.measure(place, _say)
        _say("bench: the warm process's memory")
        results |= warm_memory.measure(place, _say, full=full)
        _say("bench: single runs of the pipe script")
        results |= starts.measure(place, _say)
        _say("bench: hostile input")
        results |= hostile_input.measure(place, _say)
        _say(f"bench: the milter, rounds of {milter_rate.MESSAGES} messages through Postfix with each of four and with none")
        with Doors(place.environment) as doors:
            results |= milter_rate.measure(doors, _say)
            _say("bench: key guessing")
            results |= guessing.measure(doors, _say)
            _say(f"bench: the milter's memory, up to {milter_memory.LAST} messages")
            results |= milter_memory.measure(doors, _say)
    file = write(checked(results))
    _say(f"\n{table(results)}\n\nbench: {time.monotonic() - began:.0f} s; {file} (docs/bench.md explains each figure)")
    missed = [figure.name for figure in FIGURES if figure.missed(results[figure.name])]
    _say(f"bench: aims missed: {', '.join(missed)}" if missed else "bench: every aim was met")
    return 0


def write(results: Results, folder: Path = CHECKOUT / ".bench") -> Path:
    """results.json, whole or not at all; it belongs to the checkout's owner, who could not delete root's."""
    owner = CHECKOUT.stat()
    folder.mkdir(mode=0o755, exist_ok=True)
    part = folder / "results.part"
    part.write_text(json.dumps(results, indent=1) + "\n")
    file = part.rename(folder / "results.json")
    for each in (folder, file):
        os.chown(each, owner.st_uid, owner.st_gid)
    return file


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _interrupted(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
