"""Every message of tests/corpus on all three rungs: by the pipe script, by the same thin, and by LMTP.

What is decided, handed over, said and logged is the same. Each rung has a store of its own, and the same host id in it, as rungs
of one host would; only where the whole script is run no warm process is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatepost.stores.ledger import Ledger
from tests.corpus_cases import Case, cases
from tests.corpus_installation import corpus_installation
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, give_to, webhook
from tests.lmtp_client import lmtp_client
from tests.lmtp_host import AS_OWNER, NOBODY, ROOT, Serving, open_folder

PIPE = ROOT / "filter" / "gatepost_filter" / "pipe.py"
_TIME = re.compile(rb'"timestamp":\s*"[^"]*"')


@dataclass(frozen=True)
class Told:
    """What became of one message: the line for Postfix behind its code, our own without ms, and the requests to the app."""

    said: str
    logged: tuple[str, ...]
    bodies: tuple[bytes, ...]
    sha256: tuple[str, ...]


def queue_id(number: int) -> str:
    """A long queue ID for each case: one digit counts for 31."""
    digits = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
    return f"4jWl4Z{digits[number // 31]}{digits[number % 31]}H8zJv6D"


def sender(case: Case) -> str:
    """As Postfix gives it to either: no null reverse-path has brackets there (one case has, for other MTAs)."""
    return "" if case.sender == "<>" else case.sender


def numbered() -> Iterator[tuple[str, Case, bytes]]:
    """Each case with its queue ID and its bytes; Postfix ends each last line."""
    for number, case in enumerate(cases()):
        yield case.queue_id or queue_id(number), case, case.raw if case.raw.endswith(b"\n") else case.raw + b"\n"


def by_script(made: Installation, *thin: str) -> dict[str, str]:
    """Runs the script for each, two at a time; code and line. `thin`: what makes it thin."""

    def run(row: tuple[str, Case, bytes]) -> tuple[str, str]:
        id_, case, data = row
        words = [*thin, f"--config={made.config}", f"--size={len(data)}", f"--sender={sender(case)}",
                 f"--recipient={case.recipient}", f"--original-recipient={case.recipient}", f"--queue-id={id_}",
                 "--client-address=192.0.2.7", "--helo=mail.example.org"]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-I", *["-S"] * bool(thin), "-c", AS_OWNER, str(made.store), str(PIPE), *words],
            input=data + b"\n", capture_output=True, timeout=60, check=False, cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C"},
        )  # fmt: skip
        assert done.stderr == b"", done.stderr
        code = {0: "250 2.0.0", 75: "451"}.get(done.returncode, "550")
        return case.id, f"{code} {done.stdout.decode().rstrip()}"

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(run, numbered()))


def by_lmtp(serving: Serving) -> dict[str, str]:
    """All on one connection."""
    with lmtp_client(serving.path) as client:
        return {
            case.id: client.message(sender(case), [case.recipient], data, queue_id=id_, size=len(data))[0]
            for id_, case, data in numbered()
        }


def told(made: Installation, app: FaultyApp, said: Mapping[str, str]) -> dict[str, Told]:
    """Put together by queue ID."""
    lines: dict[str, list[str]] = {}
    for line in made.log_lines():
        found = re.fullmatch(r"\S+ gatepost\[\d+\]: (\w+): (action=.*)", line)
        if found:
            lines.setdefault(found[1], []).append(re.sub(r" ms=\d+", "", found[2]))
    bodies: dict[str, list[bytes]] = {}
    for request in app.requests:
        bodies.setdefault(json.loads(request.body)["data"]["envelope"]["queue_id"], []).append(request.body)
    return {
        case.id: Told(
            said[case.id],
            tuple(lines.get(id_, [])),
            tuple(_TIME.sub(b"", body) for body in bodies.get(id_, [])),
            tuple(hashlib.sha256(b64decode(json.loads(body)["data"]["raw"])).hexdigest() for body in bodies.get(id_, [])),
        )
        for id_, case, _ in numbered()
    }


@contextmanager
def served(made: Installation, socket: Path) -> Iterator[Serving]:
    """The warm process of an installation that is there already."""
    serving = Serving.__new__(Serving)
    serving.path, serving.made, serving.error, serving.process = socket, made, made.folder / "stderr", None
    try:
        serving.start()
        yield serving
    finally:
        serving.stop()


Rungs = dict[str, dict[str, Told]]


@pytest.fixture(scope="module")
def rungs() -> Iterator[Rungs]:
    """Each rung has had every message."""
    with open_folder() as folder, ExitStack() as apps:
        app = {name: apps.enter_context(FaultyApp(secrets=[WEBHOOK_SECRET])) for name in ("pipe", "thin", "lmtp")}
        socket = folder / "socket" / "lmtp.sock"
        made = {
            name: corpus_installation(folder / name, app=webhook(each.url("mail")), more=f"lmtp: {{socket: 'unix:{socket}'}}\n")
            for name, each in app.items()
        }
        Ledger.open(str(made["lmtp"].store)).close()
        for name in ("pipe", "thin"):
            shutil.copytree(made["lmtp"].store, made[name].store, dirs_exist_ok=True)
        socket.parent.mkdir()
        if os.geteuid() == 0:
            os.chown(socket.parent, NOBODY, NOBODY)
            for each in made.values():
                give_to(NOBODY, NOBODY, each)
        with served(made["lmtp"], socket) as serving:
            lmtp = by_lmtp(serving)
        with served(made["thin"], socket):
            thin = by_script(made["thin"], f"--socket={socket}", "--fallback=defer", "--deadline=60")
        said = {"pipe": by_script(made["pipe"]), "thin": thin, "lmtp": lmtp}
        yield {name: told(made[name], app[name], said[name]) for name in said}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_message_is_the_same_to_every_rung(rungs: Rungs, case: Case) -> None:
    """Reply, rule, action, route, delivery id, raw's SHA-256, the webhook's bytes but for its time, and the log line but for ms."""
    pipe = rungs["pipe"][case.id]
    for rung in ("thin", "lmtp"):
        other = rungs[rung][case.id]
        assert pipe.said == other.said, rung
        assert pipe.logged == other.logged, rung
        assert pipe.sha256 == other.sha256, rung
        assert pipe.bodies == other.bodies, rung
    assert len(pipe.logged) == 1


def test_the_corpus_says_much(rungs: Rungs) -> None:
    """Many were handed over, and many rules decided: else the above would compare nothing with nothing."""
    told_ = rungs["lmtp"].values()
    assert sum(bool(each.bodies) for each in told_) > 50
    assert len({re.findall(r"rule=(\S+)", each.logged[0])[0] for each in told_}) >= 10
