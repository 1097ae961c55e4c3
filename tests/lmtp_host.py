"""`gatepost serve` as a process of its own, for the tests: an installation, a socket, workers that can be counted and killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tests.installation import Installation, give_to, install
from tests.lmtp_client import LmtpClient, lmtp_client

__all__ = ["AS_OWNER", "NOBODY", "PATIENCE", "Serving", "doctor", "open_folder", "wait_for"]

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
PATIENCE = 30.0
#: Runs a script as the owner of the store that stands before it, as `user=` of master.cf does, whoever may read the checkout.
AS_OWNER = (
    f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from gatepost.cli.store_owner import become_store_owner; "
    "become_store_owner(sys.argv.pop(1)); import runpy; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)
#: As the console script does, whether it is installed or not. `{}`: what a test changes before.
_GATEPOST = "import sys; sys.path[:0] = [{root!r}, {filter!r}]; {change}\nfrom gatepost.cli import main; sys.exit(main())"


def wait_for(look: Callable[[], object], what: str) -> None:
    """Polls, bounded."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s for {what}"
        time.sleep(0.01)


def doctor(made: Installation, name: str) -> dict[str, str]:
    """What `gatepost doctor` says of that check, without Postfix."""
    code = _GATEPOST.format(root=str(ROOT), filter=str(ROOT / "filter"), change="")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, "doctor", "--config", str(made.config), "--json", "--postfix-config", "none"],
        capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip
    checks: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    (check,) = [check for check in checks if check["name"] == name]
    return check


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that another user can enter, which pytest's own are not."""
    folder = Path(mkdtemp(prefix="gatepost-lmtp.", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Serving:
    """An installation with `lmtp:`, and its process. `lmtp`: further settings of that section, in front with a comma."""

    def __init__(self, folder: Path, *, lmtp: str = "", app: str = "", more: str = "") -> None:
        self.path = folder / "lmtp.sock"
        self.made: Installation = install(folder, app=app, more=f"lmtp: {{socket: 'unix:{self.path}'{lmtp}}}\n{more}")
        self.error = folder / "stderr"
        self.own()
        self.process: subprocess.Popen[bytes] | None = None

    def own(self) -> None:
        """As root: everything belongs to nobody, which the process then becomes."""
        if os.geteuid() == 0:
            give_to(NOBODY, NOBODY, self.made)

    def start(self, *, change: str = "", environment: dict[str, str] | None = None, wait: bool = True,
              prepare: Callable[[], None] | None = None, pass_fds: tuple[int, ...] = ()) -> None:  # fmt: skip
        """Starts it; `change`: Python that runs first. Returns once every worker takes clients."""
        code = _GATEPOST.format(root=str(ROOT), filter=str(ROOT / "filter"), change=change)
        with self.error.open("ab") as error:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, "serve", f"--config={self.made.config}"], stdin=subprocess.DEVNULL,
                stdout=error, stderr=error, env={"PATH": os.environ["PATH"], **(environment or {})}, cwd="/",
                preexec_fn=prepare, pass_fds=pass_fds,
            )  # fmt: skip
        if wait:
            wait_for(lambda: self.ended() or self.listens(), "the start")
            assert not self.ended(), self.error.read_text()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def listens(self) -> bool:
        """Whether each worker has gone to work."""
        lmtp = self.made.settings.lmtp
        assert lmtp is not None
        return (
            len(self.workers()) == lmtp.workers and "state=listening" in "".join(self.made.log_lines()) and self.path.exists()
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """The worker processes that live."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return [int(each) for each in children if "Z" not in Path(f"/proc/{each}/stat").read_text().rpartition(")")[2][:3]]
        except OSError:
            return []

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def status(self) -> int:
        """The exit status, once it has ended."""
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        """Ends what still runs, workers by their ids."""
        if self.process is None:
            return
        workers = self.workers()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        for each in workers:
            wait_for(lambda each=each: not Path(f"/proc/{each}").exists(), "the end of a worker")  # type: ignore[misc]

    def client(self, *, greet: bool = True) -> AbstractContextManager[LmtpClient]:
        return lmtp_client(self.path, greet=greet)

    def maildir(self) -> list[Path]:
        """What the app's Maildir has."""
        return sorted((self.made.folder / "Maildir" / "new").glob("*"))
