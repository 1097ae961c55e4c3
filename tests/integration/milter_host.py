"""A mail host with the milter: a wired Postfix, `gatepost milter` as a process of the user gatepost, an app, DNS on loopback.

Promises: three doors to the same Postfix (`Doors`): through the milter as the fragment has it, through the milter with
default_action=accept, and past it; behind all of them the pipe script with the same store. The milter's process is ended by
its id, whatever state it is in.
Never: asks DNS elsewhere than on 127.0.0.1.
"""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from demo.environment import Environment, ensure_user
from demo.postfix_instance import MailRecorder, PrivatePostfix, Session, free_port, wait_for
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, webhook
from tests.integration.conftest import PATIENT, Service, given, open_folder

__all__ = ["AUTHSERV_ID", "Line", "MilterHost", "MilterProcess", "client", "fields", "handed", "lines_of", "milter_host"]

AUTHSERV_ID: Final = "mx.example.com"
#: Seconds for the milter to begin, and to end, on a busy machine.
_PATIENCE: Final = 30.0
_FIELD: Final = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
_LINE: Final = re.compile(r"\S+ gatepost\[\d+\]: (?:\"((?:[^\"\\]|\\.)*)\"|(\S+)): (.*)")


# --- our log, and what the app got ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of our own log. `stage`: rcpt or end for the milter's, "" for the pipe script's."""

    queue_id: str
    fields: Mapping[str, str]

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.fields.get(name, "")


def lines_of(made: Installation, start: int = 0) -> list[Line]:
    """Our log from its `start`th line on."""
    found = []
    for text in made.log_lines()[start:]:
        match = _LINE.fullmatch(text)
        assert match, text
        pairs = {name: value.strip('"') for name, value in _FIELD.findall(match[3])}
        found.append(Line(match[1] or match[2], pairs))
    return found


def handed(app: FaultyApp) -> list[dict[str, Any]]:
    """`data` of every message that the app was sent, in the order of arrival, whether it took it or not."""
    found = []
    for request in list(app.requests):
        event = json.loads(request.body)
        if event["type"] == "message.received":
            found.append(event["data"])
    return found


def fields(raw: bytes, name: str) -> list[str]:
    """The unfolded values of every field of that name, in any case, from the top."""
    head = re.sub(rb"\r?\n(?=[ \t])", b"", re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0])
    found = (line.partition(b":") for line in re.split(rb"\r?\n", head))
    wanted = name.lower()
    return [value.strip().decode("latin-1") for field, _, value in found if field.strip().decode("latin-1").lower() == wanted]


# --- the process ----------------------------------------------------------------------------------------------------------


class MilterProcess:
    """`gatepost milter`, as its own user, which can be killed, stopped in mid-way and started anew."""

    def __init__(self, environment: Environment, made: Installation, socket_path: Path) -> None:
        self._command = [environment.command, "milter", "--config", str(made.config)]
        self.socket = socket_path
        self.said = made.folder / "milter.out"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 where none runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self, *, wait: bool = True) -> None:
        """Starts it, and returns once it listens."""
        who = ensure_user()
        with self.said.open("ab") as said:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd="/", user=who.pw_uid,
                group=who.pw_gid, extra_groups=[], env={"PATH": "/usr/bin:/bin", "LANG": "C"}, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait_until_it_listens()

    def wait_until_it_listens(self) -> None:
        """Returns once somebody takes connections."""
        wait_for(self._listens, timeout=_PATIENCE, what="the milter")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said.read_text()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
            return True

    def send(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it by a signal; the exit status, negative for the signal's own doing."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
            if number != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
        return self._process.wait(_PATIENCE)

    def kill(self) -> None:
        """kill -9, and nothing of it is left."""
        self.end(signal.SIGKILL)


# --- the host -------------------------------------------------------------------------------------------------------------


@dataclass
class MilterHost:
    """Everything of one host. `ports`: "milter", "accept" and "plain", the doors of the module's text."""

    postfix: PrivatePostfix
    outbox: MailRecorder
    app: FaultyApp
    made: Installation
    milter: MilterProcess
    environment: Environment
    ports: Mapping[str, int] = field(default_factory=dict)

    def session(self, door: str = "milter", *, helo: str = "client.example.net", timeout: float = 60.0) -> Session:
        """A new SMTP dialogue."""
        return Session(self.ports[door], helo=helo, timeout=timeout)

    def log(self, start: int = 0) -> list[Line]:
        """Our own log."""
        return lines_of(self.made, start)

    def idle(self, *, timeout: float = 120.0) -> None:
        """Returns once nothing is on its way: the queue is empty, or holds only what was deferred."""
        wait_for(self._is_idle, timeout=timeout, what="an idle queue")

    def _is_idle(self) -> bool:
        return all(entry["queue_name"] == "deferred" for entry in self.postfix.queue())

    def wait_log(self, look: Callable[[list[Line]], Any], *, start: int = 0, what: str = "a log line") -> Any:
        """What `look` finds in our log, once it finds something."""
        return wait_for(lambda: look(self.log(start)), timeout=60, what=what)


def client(session: Session, *, name: str, address: str, helo: str) -> None:
    """The session goes on as that client's (XCLIENT)."""
    said = session.command(f"XCLIENT NAME={name} ADDR={address}")
    assert said.code == 220, said
    said = session.command(f"EHLO {helo}")
    assert said.code == 250, said


@contextmanager
def milter_host(
    environment: Environment,
    *,
    more: str = "",
    sinks: str = "",
    milter: str = "authenticate: []",
    times: str = "",
    options: Mapping[str, str] | None = None,
    behaviour: str = "ok",
    config: Callable[[Path, str, str], Installation] | None = None,
    host: str = "mx.example.com",
    master: Sequence[str] = (),
    chains: Mapping[str, tuple[str, str]] | None = None,
    relayed: str = "",
) -> Iterator[MilterHost]:
    """A running host. `more`, `sinks`: see conftest.given. `milter`: further settings of `milter:`, in flow style.

    `times`: of the milter's line in main.cf, in place of the wiring's. `config`: makes the installation of its own: folder, app
    sink, the `milter:` line. `master`: further lines of master.cf. `chains`: further doors, and the milters before ours and behind.
    `relayed`: another domain of this Postfix; its mail goes to the outbox.
    """
    outbox = MailRecorder()
    with ExitStack() as stack:
        stack.callback(outbox.close)
        folder = stack.enter_context(open_folder("milter"))
        app = stack.enter_context(FaultyApp(secrets=[WEBHOOK_SECRET], behaviour=behaviour))
        place = folder / "socket"
        who = ensure_user()
        place.mkdir()
        os.chown(place, who.pw_uid, grp.getgrnam("postfix").gr_gid)
        place.chmod(0o2710)  # as docs/wiring.md has it: the socket gets the folder's group
        path = place / "milter.sock"
        line = (
            f'milter: {{socket: "unix:{path}", {"" if "authserv_id" in milter else f"authserv_id: {AUTHSERV_ID}, "}{milter}}}\n'
        )
        if config is not None:
            made = config(folder / "main", webhook(app.url()), line)
        else:
            made = given(folder / "main", app=webhook(app.url()), more=f"{more}{line}", sinks=sinks)
        process = MilterProcess(environment, made, path)
        stack.callback(process.kill)
        postfix = PrivatePostfix(
            folder / "instance", host=host, outbox_port=outbox.port,
            options={**PATIENT, "smtpd_authorized_xclient_hosts": "0.0.0.0/0, [::]/0", **(options or {})},
        )  # fmt: skip
        fragments = Service(made=made, python=environment.python, script=environment.pipe_script).fragments(postfix)
        if relayed:
            postfix.set(relay_domains=relayed, relay_transport=f"smtp:[127.0.0.1]:{outbox.port}")
        ours = re.search(r"(?m)^smtpd_milters = (\{.*\})$", fragments["main.cf"])
        assert ours, "the wiring prints the milter"
        spelled = ours[1]
        if times:
            spelled = re.sub(r"(?<=, )connect_timeout=.*(?=, default_action)", times, spelled)
        fragments["main.cf"] = fragments["main.cf"].replace(ours[0], f"smtpd_milters = {spelled}")
        doors = {"accept": re.sub(r"default_action=\w+", "default_action=accept", spelled), "plain": ""}
        doors |= {name: f"{before} {spelled} {behind}" for name, (before, behind) in (chains or {}).items()}
        ports = {"milter": postfix.port, **{name: free_port() for name in doors}}
        fragments["master.cf"] += "".join(
            f"\n127.0.0.1:{ports[name]} inet n - n - - smtpd\n    -o {{ smtpd_milters = {value} }}\n"
            for name, value in doors.items()
        )
        fragments["master.cf"] += "".join(f"\n{each}\n" for each in master)
        postfix.wire(fragments)
        process.start()
        stack.enter_context(postfix)
        yield MilterHost(postfix, outbox, app, made, process, environment, ports)
