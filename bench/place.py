"""Where mail comes to gatepost: installed from its wheel, an app, a Postfix with every rung of the ladder side by side.

Promises: what does nothing and what is compared are gatepost's own service in master.cf with another command, so that all of
them have the same settings; each variant has an address of its own in one domain, and the rungs share a configuration, a store
and a log.
Never: has a rung wired in another way than the fragments of postfix/ say.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

from bench.stage import DOMAIN, KEY_ID, SENDER, Stage
from demo.environment import CHECKOUT, USER, ensure_user, make_environment, run_as
from demo.postfix_instance import LOOPBACK, PostfixError
from gatepost.config import load

if TYPE_CHECKING:
    from gatepost.settings import Settings

__all__ = ["RUNGS", "SINKS", "Place", "Warm", "like_gatepost"]

#: The rungs of the ladder, each with the service that it is in master.cf.
RUNGS: Final = {"pipe": "gatepost", "thin": "gatepost-thin", "lmtp": "gatepost-lmtp"}
SINKS: Final = ("webhook", "maildir")
_ROUTE: Final = (
    '  - {{name: {name}, address: "{name}+%{{key}}@{domain}", keys: {{format: signed, secret: {key_id}}}, deliver: [{sink}]}}\n'
)
_CONFIG: Final = """\
store: {store}
log: {log}
routes:
{routes}limits: {{per_key: [100000/1m, 100000/5m, 100000/1h], per_sender: [100000/1m, 100000/5m, 100000/1h]}}
lmtp: {{socket: "unix:{socket}", workers: {workers}, max_messages: {most}}}
sinks:
  webhook: {{webhook: "http://{loopback}:{port}/mail", secret: app-webhook}}
  maildir: {{maildir: {folder}/mail/Maildir}}
"""
#: Messages that a warm process may have in flight: as many as are ever sent at once here.
_MOST_MESSAGES: Final = 400
#: The default.
_WORKERS: Final = 2
_NOOP: Final = "/bin/sh -c {exec cat >/dev/null}"
_MAILGATE: Final = "{mailgate} --queue=General --action=correspond --url=http://{loopback}:{port}"


@dataclass(frozen=True)
class Warm:
    """A `gatepost serve` that runs, and its configuration's name."""

    name: str
    pid: int
    socket: Path
    store: Path

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [int(each) for each in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


class Place(Stage):
    """All of it. `warm`: the process that the rungs thin and LMTP speak to."""

    warm: Warm

    def _build(self) -> None:
        ensure_user()
        self.own("etc", "log", mode=0o755)
        self.own("mail", "stores", "sockets")
        for name, mode in (("app", 0o777), ("inputs", 0o755)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(mode)
        self.environment = make_environment(self.folder / "installed", milter=True)
        self._start_app()
        self.write_secrets()
        self.warm = self.serve("gatepost", self.postfix.milter_folder(USER) / "lmtp.sock")
        self.config = self.folder / "etc" / "gatepost.yml"
        self._wire()
        self.postfix.start()

    def _start_app(self) -> None:
        script, port_file = self.folder / "app" / "app.py", self.folder / "app" / "port"
        shutil.copyfile(CHECKOUT / "bench" / "app.py", script)
        script.chmod(0o644)
        self.start("app", [self.environment.python, "-I", str(script), str(port_file)], ready=port_file.exists, user="nobody")
        self.app_port = int(port_file.read_text())

    def serve(self, name: str, socket: Path | None = None) -> Warm:
        """Starts a warm process with a store and a log of its own; it ends with `end(name)`, or at the end.

        Postfix knows only of one that listens where it looks (`socket`). All else in the configuration is as in the others.
        """
        config, log, store = self.folder / "etc" / f"{name}.yml", self.log(name), self.folder / "stores" / name
        socket = socket or self.folder / "sockets" / f"{name}.sock"
        self.own(f"stores/{name}")
        sinks = {"noop": "maildir", "rt-mailgate": "maildir"} | {f"{rung}-{sink}": sink for rung in RUNGS for sink in SINKS}
        routes = "".join(_ROUTE.format(name=each, domain=DOMAIN, key_id=KEY_ID, sink=sink) for each, sink in sinks.items())
        config.write_text(
            _CONFIG.format(
                store=store, log=log, routes=routes, socket=socket, workers=_WORKERS, most=_MOST_MESSAGES,
                loopback=LOOPBACK, port=self.app_port, folder=self.folder,
            )
        )  # fmt: skip
        config.chmod(0o644)

        def ready() -> bool:
            listens = log.exists() and b"state=listening" in log.read_bytes()
            return listens and len(Warm(name, self.pid(name), socket, store).workers) == _WORKERS

        return Warm(
            name, self.start(name, [self.environment.command, "serve", f"--config={config}"], ready=ready), socket, store
        )

    def log(self, name: str = "gatepost") -> Path:
        """gatepost's own log, of one configuration."""
        return self.folder / "log" / f"{name}.log"

    # -- Postfix

    def _wire(self) -> None:
        """The fragments of postfix/, and beside gatepost's service two that differ from it in name and command only."""
        fragments = self.fragments(self.config)
        for service, command in (("noop", _NOOP), ("mailgate", self._mailgate())):
            fragments["master.cf"] += f"\n{like_gatepost(fragments['master.cf'], service, command)}\n"
            fragments["main.cf"] += f"\n{service}_destination_recipient_limit = $gatepost_destination_recipient_limit\n"
        fragments["main.cf"] += f"\ntransport_maps = regexp:{self.postfix.maps_folder}/transport.regexp\n"
        places = {"noop+": "noop:", "rt-mailgate+": "mailgate:"}
        places |= {f"{rung}-": f"{service}:" for rung, service in RUNGS.items()}
        places["lmtp-"] += "unix:gatepost/lmtp.sock"
        fragments["transport.regexp"] = "".join(f"/^{re.escape(start)}/  {to}\n" for start, to in places.items())
        self.postfix.wire(fragments)

    def _mailgate(self) -> str:
        mailgate = shutil.which("rt-mailgate", path="/usr/bin:/usr/local/bin")
        if mailgate is None:
            raise PostfixError("rt-mailgate was not found: demo/setup.sh bench installs it")
        return _MAILGATE.format(mailgate=mailgate, loopback=LOOPBACK, port=self.app_port)

    def python_version(self) -> str:
        """Of the interpreter that runs the pipe script."""
        code = "import platform; print(platform.python_version())"
        return run_as(USER, [self.environment.python, "-I", "-c", code]).stdout.decode().strip()

    @property
    def settings(self) -> Settings:
        """The configuration as the pipe script sees it."""
        return load(str(self.config))

    def arguments(self, sink: str, queue_id: str) -> list[str]:
        """The command that pipe(8) would run for a message to that sink: the pipe script alone."""
        to = self.to(f"pipe-{sink}", "ticket-42")
        return [
            self.environment.python,
            "-I",
            self.environment.pipe_script,
            f"--config={self.config}",
            "--size=5200",
            f"--sender={SENDER}",
            f"--recipient={to}",
            f"--original-recipient={to}",
            f"--queue-id={queue_id}",
            "--client-address=192.0.2.1",
            "--helo=client.example.net",
        ]

    # -- what came

    def in_maildir(self) -> int:
        """How many messages the Maildir has."""
        new = self.folder / "mail" / "Maildir" / "new"
        return len(os.listdir(new)) if new.is_dir() else 0

    def empty_maildir(self) -> None:
        """Deletes them."""
        new = self.folder / "mail" / "Maildir" / "new"
        for each in os.listdir(new) if new.is_dir() else ():
            (new / each).unlink()

    def in_app(self) -> int:
        """How many messages the app has taken."""
        with urlopen(f"http://{LOOPBACK}:{self.app_port}/count", timeout=10) as answer:
            return int(answer.read())

    def accepted(self, name: str = "gatepost") -> list[int]:
        """For each message that gatepost's own log says it accepted the process that did."""
        log = self.log(name)
        lines = log.read_text().splitlines() if log.exists() else ()
        return [int(line.partition("[")[2].partition("]")[0]) for line in lines if " action=accept " in line]


def like_gatepost(master: str, service: str, command: str) -> str:
    """gatepost's service of that master.cf fragment, with another name and another command."""
    found = re.search(r"(?m)^gatepost +unix .*\n(?:[ \t].*\n?)*", master)
    if found is None or "argv=" not in found[0]:
        raise ValueError("postfix/master.cf has no service `gatepost` with a command")
    text = re.sub(r"(?s)argv=.*", f"argv={command}", found[0].replace("gatepost ", f"{service} ", 1))
    return text.replace("gatepost_time_limit", f"{service}_time_limit")
