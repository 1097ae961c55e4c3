"""A private Postfix on loopback, in a folder of its own, and what talks to it: for the demo, the tests and the bench.

Promises: everything it writes lies below one folder; it listens on 127.0.0.1 only; `stop` ends the master it started and
waits until it is gone; a call never waits longer than its timeout. Nothing leaves: mail for other hosts goes to a
`MailRecorder`, where it can be counted, or stays in the queue.
Never: reads or changes /etc/postfix beyond the package's own lists of files; touches another Postfix; ends a process that
was not started for its folder. Needs root, as master(8) does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "Delivery",
    "MailRecorder",
    "PostfixError",
    "PrivatePostfix",
    "Recorded",
    "Reply",
    "Sent",
    "Session",
    "free_port",
    "wait_for",
]

_T = TypeVar("_T")

#: Where the private instance listens and sends. Nothing else is ever bound.
LOOPBACK: Final = "127.0.0.1"
#: Seconds between two looks at something that is waited for.
_POLL: Final = 0.02
#: Ports tried: below Linux's ephemeral range (32768 on), so that no client socket takes one between two lines.
_PORTS: Final = range(20_000, 32_000)
#: Where nobody listens: mail for other hosts stays in the queue (connection refused), and RCPT does not know of it.
_CLOSED_PORT: Final = 1
#: The files of the Postfix package that a configuration folder needs beside main.cf and master.cf.
_PACKAGE_FILES: Final = (
    "postfix-files",
    "postfix-files.d",
    "postfix-script",
    "post-install",
    "dynamicmaps.cf",
    "dynamicmaps.cf.d",
)
_MASTER_TEMPLATES: Final = ("/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf.proto", "/etc/postfix/master.cf")
_STATUS: Final = re.compile(
    r"postfix/[\w/-]+\[\d+\]: (?P<queue_id>\w+): to=<(?P<recipient>.*?)>,(?: orig_to=<(?P<original_recipient>.*?)>,)? "
    r"relay=(?P<relay>[^,]+),.*? dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<text>.*)\)$"
)


class PostfixError(RuntimeError):
    """A Postfix command failed, or the instance did not do in time what was waited for; the text says which, and why."""


def wait_for(look: Callable[[], _T], *, timeout: float = 30.0, what: str) -> _T:
    """The first result of `look` that counts as true, tried until `timeout` seconds have passed; then PostfixError."""
    end = time.monotonic() + timeout
    while True:
        result = look()
        if result:
            return result
        if time.monotonic() > end:
            raise PostfixError(f"waited {timeout:g} s for {what}")
        time.sleep(_POLL)


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    for port in _shuffled(_PORTS):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise PostfixError(f"no free port from {_PORTS.start} to {_PORTS.stop}")


def _shuffled(ports: range) -> Iterable[int]:
    start = int.from_bytes(os.urandom(4)) % len(ports)
    return (ports[(start + step) % len(ports)] for step in range(len(ports)))


# --- SMTP from the client's side ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply (RFC 5321 section 4.2): the code, and the text of all its lines. Code 0: the connection ended."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, slots=True)
class Sent:
    """What Postfix said to one message: to MAIL, to each RCPT (a list, for one address may stand twice), to the data."""

    mail: Reply
    recipients: tuple[tuple[str, Reply], ...]
    data: Reply | None

    @property
    def queue_id(self) -> str:
        """The queue ID in `250 2.0.0 Ok: queued as ...`; "" where the message was not taken."""
        found = re.search(r"queued as (\w+)", self.data.text if self.data else "")
        return found[1] if found else ""

    def rcpt(self, recipient: str) -> Reply:
        """The reply to that recipient; KeyError for one that was not sent."""
        return dict(self.recipients)[recipient]


class Session:
    """An SMTP dialogue on loopback that hands out every reply; each step waits `timeout` seconds at most."""

    def __init__(self, port: int, *, helo: str = "client.example.net", timeout: float = 30.0) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=timeout)
        self._stream = self._socket.makefile("rb")
        self.greeting = self.reply()
        self.hello = self.command(f"EHLO {helo}") if helo else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection without QUIT."""
        self._stream.close()
        self._socket.close()

    def raw(self, data: bytes) -> None:
        """Sends these bytes as they are."""
        self._socket.sendall(data)

    def reply(self) -> Reply:
        """The next reply; code 0 where the server has ended the connection."""
        lines = []
        while True:
            try:
                line = self._stream.readline(10_000)
            except ConnectionError:
                line = b""
            if not line:
                return Reply(0, "connection closed")
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(text[4:])
            if text[3:4] != "-":
                return Reply(int(text[:3]), " ".join(lines))

    def command(self, line: str) -> Reply:
        """One command, CR LF added, and its reply."""
        self.raw(line.encode() + b"\r\n")
        return self.reply()

    def message(self, sender: str, recipients: Iterable[str], data: bytes) -> Sent:
        """One message. Addresses are written between < and > as given; bare LF becomes CR LF; leading dots are doubled."""
        body = re.sub(rb"(?m)^\.", b"..", re.sub(rb"\r?\n", b"\n", data)).replace(b"\n", b"\r\n")
        recipients = list(recipients)
        options = " BODY=8BITMIME" if not body.isascii() else ""
        options += " SMTPUTF8" if not "".join([sender, *recipients]).isascii() else ""
        mail = self.command(f"MAIL FROM:<{sender}>{options}")
        replies = tuple((recipient, self.command(f"RCPT TO:<{recipient}>")) for recipient in recipients)
        if not any(reply.code == 250 for _, reply in replies):
            self.command("RSET")
            return Sent(mail, replies, None)
        answer = self.command("DATA")
        if answer.code == 354:
            self.raw(body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n")
            answer = self.reply()
        return Sent(mail, replies, answer)


# --- SMTP from the server's side ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """A message that left the private Postfix: a bounce, a notice, or mail to a person."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes = field(repr=False)


class _RecorderHandler(socketserver.StreamRequestHandler):
    timeout = 60.0

    def handle(self) -> None:
        with suppress(OSError):
            self._say("220 recorder.example.org ESMTP")
            self._talk()

    def _talk(self) -> None:
        sender, recipients = "", list[str]()
        while line := self.rfile.readline():
            command = line.decode("utf-8", "replace").strip()
            verb, address = command[:4].upper(), command.partition("<")[2].rpartition(">")[0]
            if verb == "EHLO":
                self._say("250-recorder.example.org\r\n250-8BITMIME\r\n250 SMTPUTF8")
            elif verb == "MAIL":
                sender, recipients = address, []
                self._say("250 2.1.0 Ok")
            elif verb == "RCPT":
                recipients.append(address)
                self._say("250 2.1.5 Ok")
            elif verb == "DATA":
                self._say("354 go on")
                self.server.record(Recorded(sender, tuple(recipients), self._data()))  # type: ignore[attr-defined]
                self._say("250 2.0.0 Ok: recorded")
            elif verb == "QUIT":
                return self._say("221 2.0.0 Bye")
            else:
                self._say("250 2.0.0 Ok")
        return None

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def _data(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)


class MailRecorder(socketserver.ThreadingTCPServer):
    """A tiny SMTP server on loopback that takes everything and keeps it in `messages`. Ended by `close`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__((LOOPBACK, port), _RecorderHandler)
        self.port: int = self.server_address[1]
        self._messages: list[Recorded] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": _POLL}, daemon=True)
        self._thread.start()

    def record(self, message: Recorded) -> None:
        """Keeps one message; called by the handler."""
        with self._lock:
            self._messages.append(message)

    @property
    def messages(self) -> list[Recorded]:
        """What has come so far, in the order of arrival."""
        with self._lock:
            return list(self._messages)

    def clear(self) -> None:
        """Forgets what has come."""
        with self._lock:
            self._messages.clear()

    def close(self) -> None:
        """Stops listening."""
        self.shutdown()
        self.server_close()
        self._thread.join(5)


# --- the instance ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """One `status=` line of Postfix's log: what became of one recipient in one attempt."""

    queue_id: str
    recipient: str
    original_recipient: str
    relay: str
    dsn: str
    status: str
    text: str


class PrivatePostfix:
    """A Postfix of our own: `PrivatePostfix(folder)`, `wire(fragments)`, `start()` ... `remove()`; also a context manager.

    `folder` must not be below a folder that the users postfix and gatepost cannot enter; it is made, mode 0755, and must be
    new, empty, or one that this class made. `outbox_port`: where mail for other hosts goes (a `MailRecorder`); without it
    such mail is deferred. `options`: main.cf settings over everything else, the fragments included.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        host: str = "mx.example.com",
        port: int = 0,
        outbox_port: int = 0,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        if re.search(r"[\s,${}]", str(self.folder)):
            raise ValueError(f"{self.folder}: Postfix would take this path apart")
        self.host = host
        self.port = port or free_port()
        self.config_folder = self.folder / "etc"
        self.maps_folder = self.config_folder / "gatepost"
        self.queue_folder = self.folder / "queue"
        self.log_file = self.folder / "mail.log"
        self._outbox_port = outbox_port
        self._options = dict(options or {})
        self._fragments: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # -- set up

    def wire(self, fragments: Mapping[str, str]) -> None:
        """Adds the fragments of `gatepost.wiring.render(..., folder=str(instance.maps_folder))`; before `start`."""
        self._fragments = dict(fragments)

    def set(self, **options: str) -> None:
        """Changes main.cf settings; a running instance reloads."""
        self._options.update(options)
        if self.config_folder.is_dir():
            self._postconf(options)
            if self.pid():
                self.reload()

    def milter_folder(self, user: str) -> Path:
        """The folder for this user's milter's socket, below the queue folder as on a mail host; made at the first call."""
        folder = self.queue_folder / "gatepost"
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for each in (self.folder, self.queue_folder):
            each.chmod(0o755)
        shutil.chown(folder, user, "postfix")
        folder.chmod(0o2710)
        return folder

    def _write(self) -> None:
        self.config_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.maps_folder.mkdir(mode=0o755, exist_ok=True)
        self.queue_folder.mkdir(mode=0o755, exist_ok=True)
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(data, "postfix")
        for name in _PACKAGE_FILES:
            source, target = Path("/etc/postfix") / name, self.config_folder / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, target)
        fragments = dict(self._fragments)
        (self.config_folder / "main.cf").write_text(self._main_cf() + "\n" + fragments.pop("main.cf", ""))
        (self.config_folder / "master.cf").write_text(self._master_cf() + "\n" + fragments.pop("master.cf", ""))
        for name, text in fragments.items():
            (self.maps_folder / name).write_text(text)
        self._postconf(self._options)

    def _main_cf(self) -> str:
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.queue_folder,
            "data_directory": self.folder / "data",
            "meta_directory": self.config_folder,
            "maillog_file": self.log_file,
            "maillog_file_prefixes": self.folder,
            "alternate_config_directories": self.config_folder,
            "inet_interfaces": LOOPBACK,
            "inet_protocols": "ipv4",
            "myhostname": self.host,
            "myorigin": "$myhostname",
            "mynetworks": f"{LOOPBACK}/32",
            "smtpd_peername_lookup": "no",
            "smtp_dns_support_level": "disabled",
            "default_transport": f"smtp:[{LOOPBACK}]:{self._outbox_port or _CLOSED_PORT}",
            "alias_maps": "",
            "alias_database": "",
            # A crashed service comes back at once, and a client may err as often as a table of tests has rows.
            "service_throttle_time": "1s",
            "transport_retry_time": "1s",
            "smtpd_error_sleep_time": "0",
            "smtpd_soft_error_limit": "10000",
            "smtpd_hard_error_limit": "10000",
            "smtpd_junk_command_limit": "10000",
            "smtpd_recipient_limit": "10000",
        }
        return "# A private instance: see demo/postfix_instance.py.\n" + "".join(f"{k} = {v}\n" for k, v in settings.items())

    def _master_cf(self) -> str:
        """The package's own list of services: none in a chroot, none on port 25, none of the pipes to other software."""
        template = next((Path(name) for name in _MASTER_TEMPLATES if Path(name).exists()), None)
        if template is None:
            raise PostfixError(f"Postfix is not installed: none of {', '.join(_MASTER_TEMPLATES)}")
        lines = [f"{LOOPBACK}:{self.port} inet n - n - - smtpd"]
        for line in re.sub(r"\n[ \t]+", " ", re.sub(r"(?m)^#.*\n", "", template.read_text())).splitlines():
            fields = line.split(maxsplit=8)
            if len(fields) < 8 or fields[1] == "inet" or fields[7] == "pipe":
                continue
            lines.append(" ".join([*fields[:4], "n", *fields[5:]]))
        if not any(line.startswith("postlog ") for line in lines):
            lines.append("postlog unix-dgram n - n - 1 postlogd")
        return "\n".join(lines) + "\n"

    def _postconf(self, options: Mapping[str, str]) -> None:
        if options:
            self.command("postconf", "-e", *(f"{name}={value}" for name, value in options.items()))

    # -- life

    def start(self, *, timeout: float = 30.0) -> None:
        """Writes the configuration at the first call, starts master(8), and returns once SMTP answers."""
        if os.geteuid():
            raise PostfixError("a Postfix can be started by root only")
        if self.pid():
            raise PostfixError(f"a Postfix already runs in {self.folder} (process {self.pid()})")
        if not (self.config_folder / "main.cf").exists():
            self._write()
        self.command("postfix", "start")
        try:
            wait_for(self._answers, timeout=timeout, what=f"SMTP on port {self.port}")
        except PostfixError as error:
            raise PostfixError(f"{error}:\n{self.log_tail()}") from None

    def _answers(self) -> bool:
        with suppress(OSError), Session(self.port, helo="", timeout=5) as session:
            return session.greeting.code == 220
        return False

    def stop(self, *, immediate: bool = False, timeout: float = 30.0) -> None:
        """`postfix stop` (deliveries that run are ended, too), or `postfix abort`; returns once the master is gone."""
        pid = self.pid()
        if not pid:
            return
        with suppress(PostfixError):
            self.command("postfix", "abort" if immediate else "stop")
        try:
            wait_for(lambda: self.pid() != pid, timeout=timeout, what=f"the end of process {pid}")
        except PostfixError:
            if self.pid() != pid:
                return
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: self.pid() != pid, timeout=5, what=f"the end of process {pid} after SIGKILL")

    def reload(self) -> None:
        """`postfix reload`: maps and main.cf are read anew, by each process once it is idle."""
        self.command("postfix", "reload")

    def remove(self) -> None:
        """Stops the instance and deletes its folder."""
        self.stop(immediate=True)
        try:
            wait_for(lambda: not self.processes(), timeout=5, what="the end of the instance's processes")
        except PostfixError:
            for pid in self.processes():  # a command of pipe(8) that hangs, or was stopped
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if (self.config_folder / "main.cf").exists() or not any(self.folder.glob("*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def pid(self) -> int:
        """The process id of this folder's master(8), 0 where none runs; a pid file left behind counts for nothing."""
        try:
            pid = int((self.queue_folder / "pid" / "master.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if pid in self.processes() else 0

    def processes(self) -> list[int]:
        """Every process that was started for this folder: master, its services, and commands that pipe(8) runs."""
        mark = f"MAIL_CONFIG={self.config_folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                    found.append(int(entry.name))
        return sorted(found)

    # -- mail

    def session(self, *, helo: str = "client.example.net", timeout: float = 30.0) -> Session:
        """A new SMTP dialogue with this instance."""
        return Session(self.port, helo=helo, timeout=timeout)

    def send(self, sender: str, recipients: str | Iterable[str], data: bytes, *, helo: str = "client.example.net") -> Sent:
        """Sends one message over SMTP and returns every reply."""
        with self.session(helo=helo) as session:
            sent = session.message(sender, [recipients] if isinstance(recipients, str) else recipients, data)
            session.command("QUIT")
            return sent

    def flush(self) -> None:
        """Tries everything in the queue now."""
        self.command("postqueue", "-f")

    def queue(self) -> list[dict[str, Any]]:
        """What is in the queue: `postqueue -j`, one dict for each message; also while the instance is stopped."""
        lines = self.command("postqueue", "-j").splitlines()  # stopped, it says on standard error that the mail system is down
        return [json.loads(line) for line in lines if line.startswith("{")]

    def delete_queued(self) -> None:
        """Deletes everything in the queue."""
        self.command("postsuper", "-d", "ALL")

    # -- log

    def log(self) -> str:
        """Postfix's whole log so far."""
        try:
            return self.log_file.read_text(encoding="utf-8", errors="backslashreplace")
        except FileNotFoundError:
            return ""

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log, for an error message."""
        return "\n".join(self.log().splitlines()[-lines:])

    def complaints(self) -> list[str]:
        """The log's warnings, errors, fatals and panics."""
        return [line for line in self.log().splitlines() if re.search(r"\]: (?:warning|error|fatal|panic): ", line)]

    def deliveries(self, queue_id: str = "") -> list[Delivery]:
        """Every `status=` line, of one queue ID or of all, in the order of the log."""
        found = (_STATUS.search(line) for line in self.log().splitlines())
        all_ = (Delivery(**{name: value or "" for name, value in match.groupdict().items()}) for match in found if match)
        return [delivery for delivery in all_ if queue_id in ("", delivery.queue_id)]

    def wait_delivery(self, queue_id: str, *, count: int = 1, timeout: float = 30.0) -> list[Delivery]:
        """The queue ID's `status=` lines once there are `count` of them; PostfixError with the log's end otherwise."""

        def enough() -> list[Delivery]:
            found = self.deliveries(queue_id)
            return found if len(found) >= count else []

        try:
            return wait_for(enough, timeout=timeout, what=f"{count} status= lines of {queue_id}")
        except PostfixError as error:
            raise PostfixError(f"{error}:\n{self.log_tail()}") from None

    def command(self, program: str, *arguments: str, timeout: float = 60.0) -> str:
        """Runs one of Postfix's own commands on this instance and returns its output; PostfixError for a failure.

        The output goes through a file, not a pipe: master(8) inherits it, and a pipe would never end.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        output = self.folder / f"command.{os.getpid()}.{threading.get_ident()}"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "MAIL_CONFIG": str(self.config_folder)}
        with output.open("w+b") as stream:
            output.unlink()
            done = subprocess.run(
                [_find(program), "-c", str(self.config_folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                timeout=timeout,
                check=False,
            )
            stream.seek(0)
            text = stream.read().decode("utf-8", "replace")
        if done.returncode:
            raise PostfixError(f"{program} {' '.join(arguments)}: exit status {done.returncode}\n{text}{self.log_tail()}")
        return text


def _find(program: str) -> str:
    """The command's path: sbin is not on every user's PATH."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        raise PostfixError(f"{program} was not found: is Postfix installed?")
    return path


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
