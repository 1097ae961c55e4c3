"""What every part of the benchmark stands on: a folder, a private Postfix, processes that end with it, keys of its own.

Promises: everything lies in one folder below /var/tmp, which `close` deletes, also where `_build` failed; processes run as the
user they were given, without any of the caller's environment, and what one says lies in NAME.out.
Never: touches another Postfix; ends a process that it did not start.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from demo.environment import USER, ensure_user
from demo.postfix_instance import PostfixError, PrivatePostfix, wait_for
from gatepost.config import load
from gatepost.keys.outgoing import fill
from gatepost.keys.signed import mint
from gatepost.wiring import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.environment import Environment

__all__ = ["DOMAIN", "KEY_ID", "SENDER", "Stage", "forget_peak", "letter", "peak", "resident"]

DOMAIN: Final = "in.example.com"
SENDER: Final = "person@example.org"
#: The name of the secret that keys are minted with.
KEY_ID: Final = "reply-keys"
#: Seconds that a process may take to end by itself.
_PATIENCE: Final = 60


class Stage:
    """All of it, as a context manager; `_build` sets it up. `environment` has gatepost with its extra [milter]."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gatepost-bench.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.postfix = PrivatePostfix(self.folder / "postfix")
        self.environment: Environment
        self.secret = os.urandom(32).hex()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Ends what was started and deletes the folder."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.postfix.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- set up

    def own(self, *names: str, mode: int = 0o700) -> None:
        """Makes folders that belong to the user gatepost."""
        account = ensure_user()
        for name in names:
            made = self.folder / name
            made.mkdir()
            made.chmod(mode)
            os.chown(made, account.pw_uid, account.pw_gid)

    def write_secrets(self) -> None:
        """etc/secrets.yml: the keys' secret, and a webhook's."""
        file = self.folder / "etc" / "secrets.yml"
        file.touch(mode=0o600)
        file.write_text(f"{KEY_ID}: ['{self.secret}']\napp-webhook: ['whsec_{b64encode(os.urandom(32)).decode()}']\n")
        shutil.chown(file, USER, USER)

    def fragments(self, config: Path) -> dict[str, str]:
        """The fragments of postfix/, filled in for that configuration."""
        return render(
            load(str(config)),
            python=self.environment.python,
            pipe_script=self.environment.pipe_script,
            config=str(config),
            person="person@example.net",
            host=self.postfix.host,
            folder=str(self.postfix.maps_folder),
            queue_directory=str(self.postfix.queue_folder),
        )

    # -- processes

    def start(self, name: str, command: list[str], *, ready: Callable[[], bool], user: str = USER) -> int:
        """Runs a command until `end` or `close`; its process id, once `ready`. PostfixError where it ends before that."""
        account = pwd.getpwnam(user)
        said = self.folder / f"{name}.out"
        with said.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd="/",
                user=account.pw_uid, group=account.pw_gid, extra_groups=[], env={"PATH": "/usr/bin:/bin", "LANG": "C"},
                start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process

        def look() -> bool:
            if process.poll() is not None:
                raise PostfixError(f"{name} has ended: {said.read_text(errors='replace')}")
            return ready()

        wait_for(look, what=name)
        return process.pid

    def end(self, name: str) -> None:
        """Ends that process, and waits until it is gone."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(timeout=_PATIENCE)

    def pid(self, name: str) -> int:
        """The process id of what was started under that name."""
        return self._processes[name].pid

    # -- mail

    def key(self, subject: str) -> str:
        """A live key; each subject has one of its own."""
        return mint(secret=self.secret.encode(), key_id=KEY_ID, domain=DOMAIN, subject=subject.encode())

    def to(self, name: str, subject: str) -> str:
        """An address with a live key, `NAME+KEY@...`."""
        return fill(f"{name}+%{{key}}@{DOMAIN}", self.key(subject))

    def idle(self) -> None:
        """Returns once the queue is empty."""
        wait_for(self._is_idle, timeout=60, what="an empty queue")

    def _is_idle(self) -> bool:
        queue = self.postfix.queue_folder
        return not any(files for name in ("maildrop", "incoming", "active") for _, _, files in os.walk(queue / name))


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that it had there since `forget_peak`, or since its start."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """The peak is what is there now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def letter(to: str, octets: int) -> bytes:
    """A person's reply with a body of about so many octets; lines end in CR LF."""
    head = (
        f"From: A Person <{SENDER}>\r\nTo: {to}\r\nSubject: Re: your order\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
        "Message-ID: <1.42@example.org>\r\nIn-Reply-To: <0.42@example.net>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    )
    line = b"The pump room is dry again, and the lamp above the stairs has been mended.\r\n"
    return head.encode("ascii") + line * (octets // len(line))
