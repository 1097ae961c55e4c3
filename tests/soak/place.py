"""Where the soak runs: gatepost installed from its wheel, the warm process with somebody who restarts it, an app, a Postfix.

Promises: everything lies in one folder below /var/tmp; the store is a small disk of its own (tmpfs); mail goes by every wiring
that `gatepost postfix` prints, each for a share of the routes. `end` ends what was started and says what did not end.
Never: touches another Postfix; ends a process that it did not start.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from demo.environment import USER, ensure_user, make_environment
from demo.postfix_instance import LOOPBACK, MailRecorder, PrivatePostfix, free_port, wait_for
from gatepost.config import load
from gatepost.wiring import render
from tests.installation import DOMAIN, SECRET, WEBHOOK_SECRET
from tests.soak import mutants
from tests.soak.letters import ROUTES

__all__ = ["Place", "Server", "descriptors_of", "memory_of"]

_HERE: Final = Path(__file__).resolve().parent
_PERSON: Final = "person@example.org"
_APP_USER: Final = "nobody"
#: Megabytes of the store's disk: 20,000 rows are 6, parked mail 4, the write-ahead log 1.
_DISK: Final = 64
#: Seconds from the end of the warm process to its next start, as systemd's RestartSec has it by default.
_RESTART: Final = 0.1
#: Seconds that an end may take: the warm process gives what is in flight 20.
_END: Final = 40.0
_CONFIG: Final = """\
store: {folder}/store
log: {folder}/log/gatepost.log
trusted: [mx.example.com]
routes:
{routes}
after_queue: bounce
screening: {{spam: reject}}
timing: {{deadline: {deadline}s, lease: 5s}}
limits: {{per_sender: []}}
lmtp: {{socket: "unix:{socket}", workers: 3}}
sinks:
  app: {{webhook: "http://{loopback}:{port}/mail", secret: app-webhook}}
"""
_ROUTE: Final = """\
  - {{name: {name}, address: "{name}+%{{key}}@{domain}", keys: {{format: signed, secret: reply-keys}}, deliver: [app]}}
"""
#: Postfix's own times, so that the end comes: nothing waits long for its next try.
_OPTIONS: Final = {"minimal_backoff_time": "1s", "maximal_backoff_time": "5s", "queue_run_delay": "2s"}


class Server:
    """`gatepost serve`, and what systemd does for it: it is started again whenever it ends."""

    def __init__(self, folder: Path, clock: Path) -> None:
        """`clock`: the file that tells shifted_clock.py how far off it is. What the process says goes to `out`."""
        self.out = folder / "serve.out"
        notify = folder / "notify"
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # nobody reads it: it need not be heard
        self._systemd.bind(str(notify))
        notify.chmod(0o666)
        self._environment = {
            "PATH": "/usr/bin:/bin", "LANG": "C", "SOAK_CLOCK": str(clock), "NOTIFY_SOCKET": str(notify),
            "WATCHDOG_USEC": "60000000",
        }  # fmt: skip
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.statuses: list[int] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self, command: list[str]) -> None:
        """From now on it runs."""
        self._command = command
        self._thread.start()

    def _watch(self) -> None:
        who = ensure_user()
        while not self._stopping.is_set():
            with self.out.open("ab") as out:
                self._process = subprocess.Popen(
                    self._command, user=who.pw_uid, group=who.pw_gid, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL,
                    stdout=out, stderr=out, env=self._environment, start_new_session=True,
                )  # fmt: skip
            self.statuses.append(self._process.wait())
            self._stopping.wait(_RESTART)

    @property
    def pid(self) -> int:
        """Its process id; 0 where it does not run at this moment."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def workers(self) -> list[int]:
        """The process ids of the workers that it has now."""
        with suppress(OSError):
            return [int(each) for each in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def stop(self) -> int | None:
        """SIGTERM; its exit status, None where it did not end in time or was never started."""
        self._stopping.set()
        if pid := self.pid:
            os.kill(pid, signal.SIGTERM)
        if self._thread.ident is not None:
            self._thread.join(_END)
        return None if self._thread.is_alive() or not self.statuses else self.statuses[-1]


class Place:
    """All of it: `build`, then troubles, then `end`; `remove` deletes the folder."""

    def __init__(self, seed: int, mutant: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gatepost-soak.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.outbox = MailRecorder()
        self.postfix = PrivatePostfix(self.folder / "postfix", outbox_port=self.outbox.port, options=_OPTIONS)
        self.store, self.log_file = self.folder / "store", self.folder / "log" / "gatepost.log"
        self.config = self.folder / "etc" / "gatepost.yml"
        self.journal, self._faults = self.folder / "app" / "journal", self.folder / "app" / "faults"
        self._clock = self.folder / "clock"
        self.server = Server(self.folder, self._clock)
        self._app_port = free_port()
        self._app: subprocess.Popen[bytes] | None = None
        self._faulty: set[str] = set()
        self._changing = threading.Lock()
        self._mutant = mutant
        self._chance = random.Random(f"{seed} rungs")

    # -- set up

    def build(self) -> None:
        """Installs, configures, wires and starts everything."""
        account = ensure_user()
        for name, owner in (("etc", ""), ("log", USER), ("app", _APP_USER), ("store", "")):
            (self.folder / name).mkdir(mode=0o755)
            if owner:
                shutil.chown(self.folder / name, owner)
        size = f"size={_DISK}m,mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "gatepost-soak", str(self.store)], check=True, timeout=30)
        self.environment = make_environment(self.folder / "installed")
        self._add_clock()
        mutants.apply(self._mutant, Path(self.environment.pipe_script).parent.parent)
        self.write_config()
        secrets = self.config.with_name("secrets.yml")
        secrets.touch(mode=0o600)
        secrets.write_text(f"reply-keys: ['{SECRET}']\napp-webhook: ['{WEBHOOK_SECRET}']\n")
        shutil.chown(secrets, USER)
        _replace(self._faults, "")
        shutil.copy(_HERE / "app.py", self.folder / "app" / "app.py")
        self.start_app()
        self.server.start([self.environment.command, "serve", "--config", str(self.config)])
        self._wire()
        self.postfix.start()
        # postsuper looks at the queue before each start, as user postfix: what a killed cleanup left there it must be able to log.
        self.postfix.log_file.chmod(0o666)
        wait_for(lambda: self.server.workers() and self._socket.exists(), what="the warm process")

    @property
    def _socket(self) -> Path:
        return self.postfix.queue_folder / "gatepost" / "lmtp.sock"

    def _add_clock(self) -> None:
        site = Path(self.environment.pipe_script).parent.parent
        shutil.copy(_HERE / "shifted_clock.py", site / "shifted_clock.py")
        (site / "shifted_clock.pth").write_text("import shifted_clock\n")
        self._clock.write_bytes(struct.pack("d", 0.0))

    def write_config(self, *, deadline: str = "4", good: bool = True) -> None:
        """Whole or not at all; what reads it sees the old one or the new one."""
        routes = "".join(_ROUTE.format(name=name, domain=DOMAIN) for name in ROUTES)
        text = _CONFIG.format(
            folder=self.folder, routes=routes, socket=self._socket, loopback=LOOPBACK, port=self._app_port, deadline=deadline
        )
        with self._changing:
            _replace(self.config, text if good else text.replace("after_queue: bounce", "after_queue: somehow"))

    def _wire(self) -> None:
        """The fragments of postfix/, and a map of which route's mail takes which rung."""
        self.postfix.milter_folder(USER)
        fragments = render(
            load(str(self.config)), python=self.environment.python, pipe_script=self.environment.pipe_script,
            config=str(self.config), person=_PERSON, host=self.postfix.host, folder=str(self.postfix.maps_folder),
            queue_directory=str(self.postfix.queue_folder),
        )  # fmt: skip
        fragments["main.cf"] += f"\ntransport_maps = regexp:{self.postfix.maps_folder}/rungs.regexp\n"
        self.postfix.wire(fragments | {"rungs.regexp": self._shuffled_rungs()})

    def _shuffled_rungs(self) -> str:
        """Which route's mail goes by which rung: of ten, one by the script alone, three by the thin one, six by LMTP."""
        rungs = ["gatepost:"] + ["gatepost-thin:"] * 3 + ["gatepost-lmtp:unix:gatepost/lmtp.sock"] * 6
        self._chance.shuffle(rungs)
        return "".join(f"/^{route}\\+/  {rung}\n" for route, rung in zip(ROUTES, rungs, strict=True))

    # -- what a trouble does, and undoes

    def change_rungs(self) -> None:
        """While Postfix is stopped: what was deferred on one rung is tried again on another."""
        (self.postfix.maps_folder / "rungs.regexp").write_text(self._shuffled_rungs())

    def start_app(self) -> None:
        """Starts the app, unless it runs."""
        if self._app is not None and self._app.poll() is None:
            return
        nobody = pwd.getpwnam(_APP_USER)
        words = [str(self._app_port), str(self.journal), str(self._faults), WEBHOOK_SECRET]
        words += mutants.app_arguments(self._mutant)
        with (self.folder / "app.out").open("ab") as out:
            self._app = subprocess.Popen(
                [self.environment.python, "-I", str(self.folder / "app" / "app.py"), *words], user=nobody.pw_uid,
                group=nobody.pw_gid, extra_groups=[], cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def kill_app(self) -> None:
        """kill -9: its port refuses connections, and what it was answering is cut off."""
        if self._app is not None:
            self._app.kill()
            self._app.wait(_END)
            self._app = None

    def fault(self, name: str, *, on: bool) -> None:
        """From now on the app has that fault, or has it no more."""
        with self._changing:
            (self._faulty.add if on else self._faulty.discard)(name)
            _replace(self._faults, "\n".join(sorted(self._faulty)))

    def set_clock(self, off: float) -> None:
        """The warm process's clock is off by so many seconds, in all of its processes at once."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", off))

    def fill_disk(self) -> None:
        """Not an octet is left on the store's disk."""
        with (self.store / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def empty_disk(self) -> None:
        """As it was."""
        (self.store / "filler").unlink(missing_ok=True)

    # -- the end

    def processes(self) -> list[int]:
        """Whatever runs with this folder on its command line, or for this Postfix."""
        mark, found = os.fsencode(self.folder), set(self.postfix.processes())
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
        return sorted(found - {os.getpid()})

    def end(self) -> tuple[int | None, list[str]]:
        """Ends everything as a person would: the warm process's exit status, and what is still there half a minute later."""
        self.postfix.stop()
        status = self.server.stop()
        self.kill_app()
        self.outbox.close()
        until = time.monotonic() + 30
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        names = [f"{pid} {_command(pid)}" for pid in left]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return status, names

    def remove(self) -> None:
        """Deletes the folder; `end` was before."""
        self.unmount()
        shutil.rmtree(self.folder, ignore_errors=True)

    def unmount(self) -> None:
        """Takes the small disk away."""
        subprocess.run(["umount", "-l", str(self.store)], check=False, timeout=30, capture_output=True)


def memory_of(pid: int) -> int:
    """Kilobytes of memory of its own that a process has; 0 for one that is gone."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0])
    return 0


def descriptors_of(pid: int) -> Counter[str]:
    """Its open descriptors, by what they are: `socket`, `pipe`, or the name of a file."""
    found = Counter[str]()
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            found[each.readlink().name.partition(":")[0]] += 1
    return found


def _replace(file: Path, text: str) -> None:
    """Whoever reads it sees what it was, or what it is."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.chmod(0o644)
    part.rename(file)


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return "?"
