"""A real Postfix, `gatepost serve` behind it and an app: one store, on whichever rung of the ladder `virtual_transport` says."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.environment import Environment, ensure_user
from demo.postfix_instance import Delivery, PrivatePostfix, wait_for
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, webhook
from tests.integration.conftest import PATIENT, TIMING, Service, given, listens, open_folder

__all__ = ["LMTP", "PERSON", "PIPE", "SUPPORT", "THIN", "Host", "warm_host"]

PERSON: Final = "person@example.org"
SUPPORT: Final = "support@in.example.com"
PIPE, THIN, LMTP = "gatepost:", "gatepost-thin:", "gatepost-lmtp:unix:gatepost/lmtp.sock"


@dataclass
class Host:
    """Postfix, the warm process, the app, and the store that all rungs share."""

    postfix: PrivatePostfix
    app: FaultyApp
    made: Installation
    environment: Environment
    socket: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """`gatepost serve`, as the user gatepost; returns once it listens."""
        who = ensure_user()
        with (self.made.folder / "serve.out").open("ab") as out:
            self.process = subprocess.Popen(
                [self.environment.command, "serve", "--config", str(self.made.config)], user=who.pw_uid, group=who.pw_gid,
                extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C"}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_for(
            lambda: self.process is None or self.process.poll() is not None or listens(self.socket), what="the warm process"
        )
        assert self.process.poll() is None, (self.made.folder / "serve.out").read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it by a signal; its status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(40)

    def workers(self) -> list[int]:
        """The processes that take messages."""
        assert self.process is not None
        return [int(each) for each in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def send(self, to: str | list[str], data: bytes, *, sender: str = PERSON) -> str:
        """One message by SMTP; its queue ID."""
        sent = self.postfix.send(sender, to, data)
        assert sent.queue_id, sent
        return sent.queue_id

    def delivered(self, queue_id: str, count: int = 1) -> list[Delivery]:
        """Postfix's lines about it."""
        return self.postfix.wait_delivery(queue_id, count=count)

    def handed(self, queue_id: str) -> list[dict[str, Any]]:
        """`data` of what the app was sent under this queue ID."""
        events = [json.loads(request.body) for request in list(self.app.requests)]
        found = [event["data"] for event in events if event["type"] == "message.received"]
        return [data for data in found if data["envelope"]["queue_id"] == queue_id]

    def ours(self, queue_id: str) -> list[str]:
        """Our own lines about it, from `action=` on."""
        return [line.partition(": action=")[2] for line in self.made.log_lines() if f" {queue_id}: action=" in line]


@contextmanager
def warm_host(environment: Environment, *, lmtp: str = "", more: str = "") -> Iterator[Host]:
    """All of it, running, on the rung that the configuration wants.

    `lmtp`: further settings of that section, comma in front. `more`: further top-level lines.
    """
    with open_folder("warm") as folder, FaultyApp(secrets=[WEBHOOK_SECRET]) as app:
        postfix = PrivatePostfix(folder / "instance", options=PATIENT)
        socket = postfix.milter_folder("gatepost") / "lmtp.sock"
        more = f"lmtp: {{socket: 'unix:{socket}'{lmtp}}}\n{TIMING}{more}"
        made = given(folder / "made", app=webhook(app.url("mail")), more=more)
        service = Service(made=made, python=environment.python, script=environment.pipe_script)
        postfix.wire(service.fragments(postfix))
        host = Host(postfix, app, made, environment, socket)
        try:
            host.start()
            with postfix:
                yield host
        finally:
            host.end(signal.SIGKILL)
