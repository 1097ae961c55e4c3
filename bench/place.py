"""Where the benchmark runs: gatepost installed from its wheel, an app, a private Postfix with three pipes side by side.

Promises: everything lies in one folder below /var/tmp, which `close` deletes; the no-op pipe is gatepost's own service in
master.cf with another command, so that both have the same settings; each pipe has an address of its own in one domain.
Never: touches another Postfix; ends a process that it did not start.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.request import urlopen

from demo.environment import CHECKOUT, USER, ensure_user, make_environment, run_as
from demo.postfix_instance import LOOPBACK, PrivatePostfix, wait_for
from gatepost.config import load
from gatepost.keys.outgoing import fill
from gatepost.keys.signed import mint
from gatepost.wiring import render

if TYPE_CHECKING:
    from gatepost.settings import Settings

__all__ = ["DOMAIN", "PIPES", "Place"]

DOMAIN: Final = "in.example.com"
#: The three pipes, in the order of a round.
PIPES: Final = ("noop", "maildir", "webhook")
_CONFIG: Final = """\
store: {folder}/store
log: {folder}/log/gatepost.log
routes:
  - {{name: noop, address: "noop+%{{key}}@{domain}", keys: {{format: signed, secret: reply-keys}}, deliver: [folder]}}
  - {{name: maildir, address: "maildir+%{{key}}@{domain}", keys: {{format: signed, secret: reply-keys}}, deliver: [folder]}}
  - {{name: webhook, address: "webhook+%{{key}}@{domain}", keys: {{format: signed, secret: reply-keys}}, deliver: [app]}}
limits: {{per_key: [100000/1m, 100000/5m, 100000/1h], per_sender: [100000/1m, 100000/5m, 100000/1h]}}
sinks:
  app: {{webhook: "http://{loopback}:{port}/mail", secret: app-webhook}}
  folder: {{maildir: {folder}/mail/Maildir}}
"""
_NOOP: Final = "argv=/bin/sh -c {exec cat >/dev/null}"


class Place:
    """All of it, as a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gatepost-bench.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.postfix = PrivatePostfix(self.folder / "postfix")
        self._secret = os.urandom(32).hex()
        self._app: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what was started and deletes the folder."""
        self.postfix.remove()
        if self._app is not None:
            self._app.kill()
            self._app.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self) -> None:
        account = ensure_user()
        for name, mode, owner in (
            ("etc", 0o755, 0),
            ("store", 0o700, account.pw_uid),
            ("log", 0o755, account.pw_uid),
            ("mail", 0o700, account.pw_uid),
            ("app", 0o777, 0),
            ("inputs", 0o755, 0),
        ):
            made = self.folder / name
            made.mkdir()
            made.chmod(mode)
            os.chown(made, owner, account.pw_gid if owner else 0)
        self.environment = make_environment(self.folder / "installed", milter=True)
        self._port = self._start_app()
        self.config = self.folder / "etc" / "gatepost.yml"
        self.config.write_text(_CONFIG.format(folder=self.folder, domain=DOMAIN, loopback=LOOPBACK, port=self._port))
        self.config.chmod(0o644)
        secrets = self.folder / "etc" / "secrets.yml"
        secrets.touch(mode=0o600)
        secrets.write_text(f"reply-keys: ['{self._secret}']\napp-webhook: ['whsec_{b64encode(os.urandom(32)).decode()}']\n")
        os.chown(secrets, account.pw_uid, account.pw_gid)
        self._wire()
        self.postfix.start()

    def _start_app(self) -> int:
        script, port_file = self.folder / "app" / "app.py", self.folder / "app" / "port"
        shutil.copyfile(CHECKOUT / "bench" / "app.py", script)
        script.chmod(0o644)
        nobody = pwd.getpwnam("nobody")
        self._app = subprocess.Popen(
            [self.environment.python, "-I", str(script), str(port_file)],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(port_file.exists, what="the app")
        return int(port_file.read_text())

    def _wire(self) -> None:
        """The fragments of postfix/, and beside gatepost's service one that differs from it in name and command only."""
        fragments = render(
            self.settings,
            python=self.environment.python,
            pipe_script=self.environment.pipe_script,
            config=str(self.config),
            person="person@example.org",
            host=self.postfix.host,
            folder=str(self.postfix.maps_folder),
        )
        service = "".join(line for line in fragments["master.cf"].splitlines(keepends=True) if not line.startswith("#"))
        noop, commands = re.subn(r"argv=.*", _NOOP, service.replace("gatepost", "noop", 1), flags=re.DOTALL)
        if commands != 1:
            raise ValueError("postfix/master.cf has no argv= that could be replaced")
        noop = noop.replace("gatepost_time_limit", "noop_time_limit").replace("noop-", "gatepost-")
        fragments["master.cf"] += "\n" + noop + "\n"
        fragments["main.cf"] += (
            "\nnoop_destination_recipient_limit = $gatepost_destination_recipient_limit\n"
            f"transport_maps = regexp:{self.postfix.maps_folder}/noop.regexp\n"
        )
        fragments["noop.regexp"] = "/^noop\\+/  noop:\n"
        self.postfix.wire(fragments)

    def python_version(self) -> str:
        """Of the interpreter that runs the pipe script."""
        code = "import platform; print(platform.python_version())"
        return run_as(USER, [self.environment.python, "-I", "-c", code]).stdout.decode().strip()

    @property
    def settings(self) -> Settings:
        """The configuration as the pipe script sees it."""
        return load(str(self.config))

    def address(self, pipe: str, subject: str = "ticket-42") -> str:
        """An address with a live key, of one of PIPES; each subject has a key of its own."""
        key = mint(secret=self._secret.encode(), key_id="reply-keys", domain=DOMAIN, subject=subject.encode())
        return fill(f"{pipe}+%{{key}}@{DOMAIN}", key)

    def arguments(self, pipe: str, queue_id: str) -> list[str]:
        """The command that pipe(8) would run for a message to that address."""
        to = self.address(pipe)
        return [
            self.environment.python,
            "-I",
            self.environment.pipe_script,
            f"--config={self.config}",
            "--size=5200",
            "--sender=person@example.org",
            f"--recipient={to}",
            f"--original-recipient={to}",
            f"--queue-id={queue_id}",
            "--client-address=192.0.2.1",
            "--helo=client.example.net",
        ]

    def arrived(self, pipe: str) -> int:
        """How many messages its sink has, 0 for the no-op."""
        if pipe == "maildir":
            new = self.folder / "mail" / "Maildir" / "new"
            return len(os.listdir(new)) if new.is_dir() else 0
        if pipe == "webhook":
            with urlopen(f"http://{LOOPBACK}:{self._port}/count", timeout=10) as answer:
                return int(answer.read())
        return 0

    def accepted(self) -> int:
        """How many messages gatepost's own log says it accepted."""
        log = self.folder / "log" / "gatepost.log"
        return log.read_text().count(" action=accept ") if log.exists() else 0
