"""One run of the pipe script, by itself: what it costs above an empty interpreter, and where that goes.

Promises: the variants take turns; each is a process of user gatepost with the arguments and the environment of pipe(8).
Never: runs through Postfix (throughput.py does).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Final

from bench.as_user import as_user
from bench.stage import letter

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Results
    from bench.place import Place

__all__ = ["import_split", "measure", "run_once"]

ROUNDS: Final = 60
#: What pipe(8) gives a command.
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C"}
#: Everything that a message for a Maildir imports, and nothing else happens.
_IMPORTS: Final = (
    "import sys; sys.path.insert(0, {folder!r})\n"
    "import os, time, _thread, select, _signal, gatepost_filter.transport, gatepost.log, gatepost.config, gatepost.gateway\n"
    "import gatepost.mail.canonical, gatepost.sinks.maildir\n"
    "'x'.encode('unicode_escape')"
)


def measure(place: Place, say: Callable[[str], None]) -> Results:
    """Medians of ROUNDS turns, in milliseconds."""
    message = place.folder / "inputs" / "message"
    message.write_bytes(letter(place.to("pipe-maildir", "ticket-42"), 4_800).replace(b"\r\n", b"\n") + b"\n")
    python = place.environment.python
    imports = _IMPORTS.format(folder=os.path.dirname(os.path.dirname(place.environment.pipe_script)))
    commands: dict[str, Callable[[int], list[str]]] = {
        "noop": lambda _: ["/bin/sh", "-c", "exec cat >/dev/null"],
        "bare": lambda _: [python, "-I", "-c", "pass"],
        "imports": lambda _: [python, "-I", "-c", imports],
        "maildir": lambda turn: place.arguments("maildir", f"4dBench{turn:05}"),
        "webhook": lambda turn: place.arguments("webhook", f"4dBench{turn:05}"),
    }

    def turns() -> Results:
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(ROUNDS + 2):
            for name, command in commands.items():
                started = time.perf_counter()
                run_once(command(turn), str(message))
                seconds[name].append(time.perf_counter() - started)
        return {f"start_{name}_ms": round(statistics.median(each[2:]) * 1e3, 2) for name, each in seconds.items()}

    results = as_user(turns)
    say("  where the imports go (ms under -X importtime, which makes each a little slower):")
    for line in import_split(python, imports):
        say(f"    {line}")
    return results


def run_once(command: list[str], message: str) -> int:
    """Runs a command as pipe(8) does, to its end; the most memory it took, in kB. RuntimeError where its status is not 0.

    The kernel counts what this process has at the start of the command, too: so a small one should call this.
    """
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, message, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_DUP2, writer, 2),
                (os.POSIX_SPAWN_CLOSE, reader),
                (os.POSIX_SPAWN_CLOSE, writer),
            ],
        )
    finally:
        os.close(writer)
    with open(reader, "rb") as output:
        said = output.read()
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{command[0]}: status {os.waitstatus_to_exitcode(status)}: {said.decode(errors='replace')}")
    return used.ru_maxrss


def import_split(python: str, code: str) -> list[str]:
    """What -X importtime says, in groups, then the dearest modules."""
    done = subprocess.run(
        [python, "-I", "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    rows = [(int(own), name) for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr)]
    bare = next(place for place, row in enumerate(rows) if row[1] == "site") + 1
    groups: dict[str, list[int]] = {"the interpreter's start": [own for own, _ in rows[:bare]], "gatepost": [], "others": []}
    for own, name in rows[bare:]:
        groups["gatepost" if name.partition(".")[0].startswith("gatepost") else "others"].append(own)
    lines = [f"{sum(each) / 1e3:6.2f}  {name} ({len(each)} modules)" for name, each in groups.items()]
    dearest = sorted(rows[bare:], reverse=True)[:8]
    return [*lines, "dearest: " + ", ".join(f"{name} {own / 1e3:.2f}" for own, name in dearest)]
