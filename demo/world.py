"""What the demo runs and looks at: gatepost installed as on a mail host, its milter, a private Postfix, an app, a person, DNS.

Promises: everything lies in one folder that user gatepost can reach; gatepost is installed from the built wheel, configured by
the file a person would write and wired by `gatepost postfix`; each process that is started is told to `started` at once, so
that somebody can end it later.
Never: looks into gatepost from inside: what it shows comes from logs, commands and the app's own files.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from demo.environment import CHECKOUT, USER, SetUpError, ensure_user, make_environment
from demo.postfix_instance import LOOPBACK, PrivatePostfix, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from demo.postfix_instance import Sent

    #: Who refuses: the script behind the queue; the milter; nobody, for the milter was killed, with that default_action.
    Door = Literal["script", "milter", "tempfail", "accept"]

__all__ = ["APP_USER", "AUTHSERV_ID", "DOMAIN", "FOLDER_PREFIX", "PERSON", "Mail", "World", "new_mail"]

DOMAIN: Final = "in.example.com"
PERSON: Final = "person@example.org"
#: This host's name in the results that its milter writes (RFC 8601 2.5).
AUTHSERV_ID: Final = "mx.example.com"
#: The app is somebody else than gatepost, and can read neither its secrets nor its store.
APP_USER: Final = "nobody"
#: Every demo's folder begins so; nothing else is ever deleted.
FOLDER_PREFIX: Final = "/var/tmp/gatepost-demo."  # noqa: S108 - made by mkdtemp
#: Seconds for a command or a process of ours to do its work.
_PATIENCE: Final = 30.0

_CONFIG: Final = """\
# What `make demo` runs with: two addresses, one app.
store: {folder}/store
log: {folder}/log/gatepost.log
routes:
  - name: replies
    address: "reply+%{{key}}@{domain}"
    keys: {{format: signed, secret: reply-keys, revoked: {folder}/store/revoked-keys}}
    deliver: [app]
  - name: support
    address: "support@{domain}"
    keys: {{format: signed, secret: reply-keys}}
    deliver: [app]
{milter}screening: {{automatic: reject, unauthenticated: reject}}
timing: {{deadline: 15s, lease: 20s}}     # shorter than the defaults: nobody wants to watch a demo wait
sinks:
  app: {{webhook: "http://{loopback}:{port}/mail", secret: app-webhook}}
"""
#: What is added for the milter, at the end of the list of routes.
_MILTER: Final = """\
  - name: tickets
    address: "ticket+%{{key}}@{domain}"
    keys: {{format: signed, secret: reply-keys, key_id: ticket-keys}}
    sender: {{must-match: reject}}           # From must be the key's owner, and verified
    deliver: [app]
milter: {{socket: "unix:{socket}", authserv_id: {authserv_id}, dns: ["{loopback}:{dns}"], default_action: {action}}}
"""
#: The senders' domains: example.net writes from here; example.org writes from nowhere, and wants whoever says else refused.
_ZONES: Final = {
    "example.net": {"TXT": [f"v=spf1 ip4:{LOOPBACK} -all"]},
    "example.org": {"TXT": ["v=spf1 -all"]},
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
}
#: So that `$GATEPOST parked list` needs no --config.
_COMMAND: Final = """\
#!/bin/sh
GATEPOST_CONFIG=${{GATEPOST_CONFIG:-{config}}}
export GATEPOST_CONFIG
exec {command} "$@"
"""
_FIELD: Final = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True)
class Mail:
    """One message as a client sends it: LF line ends, a Message-ID of its own."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    message_id: str

    @property
    def wire(self) -> bytes:
        """The bytes that travel: CRLF."""
        return self.data.replace(b"\n", b"\r\n")


def new_mail(
    *recipients: str,
    sender: str = "someone@example.net",
    author: str = "someone@example.net",
    subject: str = "Re: your order",
    headers: str = "",
    kind: str = "text/plain; charset=us-ascii",
    body: bytes = b"Thank you, that was it.\n",
) -> Mail:
    """A person's mail, unless the rest makes it something else. `sender`: MAIL FROM; `author`: the From field."""
    message_id = f"<{os.urandom(8).hex()}@example.net>"
    head = (
        f"From: {author}\nTo: {recipients[0]}\nSubject: {subject}\n"
        f"Date: {formatdate()}\nMessage-ID: {message_id}\n{headers}MIME-Version: 1.0\nContent-Type: {kind}\n\n"
    )
    return Mail(sender, recipients, head.encode("ascii") + body, message_id)


class World:
    """All of it. `build`, then scenarios, then `close`; `started` is called with the world after each process it starts."""

    def __init__(self, folder: Path, started: Callable[[World], None]) -> None:
        self.folder = folder
        self.config = folder / "etc" / "gatepost.yml"
        self.log_file = folder / "log" / "gatepost.log"
        self.app_log = folder / "app" / "received.jsonl"
        self.command = folder / "gatepost"
        self.app_port, self._person_port, self._dns_port = free_port(), free_port(), free_port()
        self.postfix = PrivatePostfix(folder / "postfix", outbox_port=self._person_port)
        self.door: Door = "script"
        #: The app, the person, the DNS server and the milter, by name.
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = started
        self._webhook_secret = "whsec_" + b64encode(os.urandom(32)).decode()
        self._secret = os.urandom(32).hex()

    # -- set up

    def build(self, step: Callable[[str], None]) -> None:
        """Installs, configures, wires and starts everything; `step` is told what comes next."""
        step("installing gatepost from its wheel")
        self.environment = make_environment(self.folder / "gatepost-installed", milter=True)
        self._configure()
        step(self.gatepost("config", "check", str(self.config)).strip())
        step("starting the app and a private Postfix")
        self._copy_programs()
        self.start_app()
        self._start_person()
        self._start_dns()
        self.postfix.wire(self._fragments())
        self.postfix.start()
        self.postfix.log_file.chmod(0o644)
        self._started(self)

    def _configure(self) -> None:
        account = ensure_user()
        nobody = pwd.getpwnam(APP_USER)
        for name, mode, owner in (
            ("etc", 0o755, None),
            ("store", 0o700, account),
            ("log", 0o755, account),
            ("app", 0o755, nobody),
            ("person", 0o755, nobody),
        ):
            place = self.folder / name
            place.mkdir()
            place.chmod(mode)
            if owner:
                os.chown(place, owner.pw_uid, owner.pw_gid)
        self._socket = self.postfix.milter_folder(USER) / "milter.sock"
        self._write_config("")
        secrets = self.config.with_name("secrets.yml")
        secrets.touch(mode=0o600)
        secrets.write_text(f"reply-keys: ['{self._secret}']\napp-webhook: ['{self._webhook_secret}']\n")
        os.chown(secrets, account.pw_uid, account.pw_gid)
        for log, owner in ((self.log_file, account), (self.app_log, nobody)):
            log.touch()
            log.chmod(0o644)
            os.chown(log, owner.pw_uid, owner.pw_gid)
        self.command.write_text(_COMMAND.format(config=self.config, command=self.environment.command))
        self.command.chmod(0o755)

    def _write_config(self, milter: str) -> None:
        """Whole or not at all: a milter that runs reads it at once."""
        part = self.config.with_suffix(".part")
        part.write_text(_CONFIG.format(folder=self.folder, domain=DOMAIN, loopback=LOOPBACK, port=self.app_port, milter=milter))
        part.chmod(0o644)
        part.rename(self.config)

    def _fragments(self) -> dict[str, str]:
        """By the command that a person would use."""
        fragments = self.folder / "fragments"
        self.gatepost(
            "postfix",
            "--person",
            PERSON,
            "--host",
            self.postfix.host,
            "--folder",
            str(self.postfix.maps_folder),
            "--queue-directory",
            str(self.postfix.queue_folder),
            "--write",
            str(fragments),
        )
        return {file.name: file.read_text() for file in fragments.iterdir()}

    def enter(self, door: Door) -> None:
        """From now on that door refuses. The first time with a milter, gatepost and Postfix are told of it."""
        if door in ("milter", "accept") and door != self.door:
            self._use_milter("accept" if door == "accept" else "tempfail")
        self.door = door
        if door == "milter":
            self.start_milter()
        elif door != "script":
            self.kill_milter()

    def _use_milter(self, action: str) -> None:
        """As docs/wiring.md has it: write it down, print the fragments again, put the line into main.cf. And anew the maps."""
        milter = _MILTER.format(
            domain=DOMAIN,
            socket=self._socket,
            authserv_id=AUTHSERV_ID,
            loopback=LOOPBACK,
            dns=self._dns_port,
            action=action,
        )
        self._write_config(milter)
        fragments = self._fragments()
        (line,) = [each for each in fragments["main.cf"].splitlines() if each.startswith("smtpd_milters = ")]
        self.postfix.stop()
        for name in ("recipients.regexp", "aliases.regexp"):
            (self.postfix.maps_folder / name).write_text(fragments[name])
        self.postfix.set(smtpd_milters=line.partition(" = ")[2])
        self.postfix.start()

    def _copy_programs(self) -> None:
        """The app and the person run as nobody, who may not be able to enter the checkout."""
        target = self.folder / "programs" / "demo"
        target.mkdir(parents=True)
        for name in ("app.py", "dns_server.py", "person.py", "postfix_instance.py"):
            shutil.copyfile(CHECKOUT / "demo" / name, target / name)
            (target / name).chmod(0o644)
        for place in (target, target.parent):
            place.chmod(0o755)

    def _run_module(self, name: str, module: str, *arguments: str, port: int, **environment: str) -> None:
        """One of the demo's own programs, as somebody who is not gatepost."""
        environment |= {"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(self.folder / "programs")}
        command = [self.environment.python, "-P", "-m", module, *arguments]
        self._spawn(name, command, APP_USER, environment, lambda: _answers(port), f"port {port}")

    def _spawn(
        self, name: str, command: list[str], user: str, environment: dict[str, str], ready: Callable[[], bool], where: str
    ) -> None:
        """A process of its own session, so that neither Ctrl-C nor the end of the terminal reaches it."""
        account = pwd.getpwnam(user)
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command,
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,
            )
        self._started(self)
        wait_for(lambda: ready() or self._ended(name), timeout=_PATIENCE, what=f"the {name} on {where}")

    def _ended(self, name: str) -> bool:
        if self.processes[name].poll() is not None:
            raise SetUpError(f"the {name} ended:\n{(self.folder / f'{name}.out').read_text()}")
        return False

    def start_app(self) -> None:
        """Starts the app, unless it runs."""
        if "app" not in self.processes:
            self._run_module(
                "app",
                "demo.app",
                str(self.app_port),
                str(self.app_log.parent),
                port=self.app_port,
                WEBHOOK_SECRET=self._webhook_secret,
            )

    def _start_person(self) -> None:
        self._run_module("person", "demo.person", str(self._person_port), str(self.folder / "person"), port=self._person_port)

    def _start_dns(self) -> None:
        zones = self.folder / "zones.json"
        zones.write_text(json.dumps(_ZONES))
        self._run_module("DNS server", "demo.dns_server", str(self._dns_port), str(zones), port=self._dns_port)

    def start_milter(self) -> None:
        """Starts `gatepost milter`, unless it runs."""
        if "milter" not in self.processes:
            self._spawn(
                "milter",
                [self.environment.command, "milter", "--config", str(self.config)],
                USER,
                {"PATH": "/usr/bin:/bin", "LANG": "C"},
                lambda: _listens(self._socket),
                str(self._socket),
            )

    def stop_app(self) -> None:
        """Ends the app as a crash would."""
        self._kill("app")

    def kill_milter(self) -> None:
        """Ends the milter as a crash would."""
        self._kill("milter")

    def _kill(self, name: str) -> None:
        if process := self.processes.pop(name, None):
            process.kill()
            process.wait(_PATIENCE)

    def app_hangs(self, hangs: bool) -> None:
        """Stops the app in its tracks, so that it takes connections and answers nothing; or lets it go on."""
        self.processes["app"].send_signal(signal.SIGSTOP if hangs else signal.SIGCONT)

    def mend(self) -> None:
        """Whatever a scenario left behind: the app runs, Postfix runs, and the milter where it should."""
        self.start_app()
        self.app_hangs(False)
        if self.door == "milter":
            self.start_milter()
        if not self.postfix.pid():
            self.postfix.start()

    def close(self) -> None:
        """Ends everything and deletes the folder."""
        self.postfix.remove()
        for process in self.processes.values():
            process.kill()
            process.wait(_PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what a person would do

    def gatepost(self, *arguments: str) -> str:
        """Runs the gatepost command on this configuration; SetUpError where it fails."""
        done = subprocess.run(
            [str(self.command), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            cwd="/",
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        if done.returncode:
            raise SetUpError(f"gatepost {shlex.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def mint(self, subject: str, *, route: str = "replies", expires: str = "", owner: str = "") -> dict[str, str]:
        """`gatepost key new`: address, Reply-To and Message-ID of an outgoing mail."""
        more = [*(("--expires", expires) if expires else ()), *(("--owner", owner) if owner else ())]
        said = self.gatepost("key", "new", "--route", route, "--subject", subject, *more, "--json")
        made: dict[str, str] = json.loads(said)
        return made

    def address(self, subject: str, *, expires: str = "") -> str:
        """A new address of the replies route."""
        return self.mint(subject, expires=expires)["address"]

    def send(self, mail: Mail) -> Sent:
        """Sends it over SMTP."""
        return self.postfix.send(mail.sender, mail.recipients, mail.data)

    def script(self, mail: Mail, queue_id: str) -> subprocess.Popen[bytes]:
        """The pipe script, run by hand as pipe(8) runs it (master.cf), with the message on its standard input."""
        account = pwd.getpwnam(USER)
        to = mail.recipients[0]
        words = {
            "config": self.config,
            "size": len(mail.data),
            "sender": mail.sender,
            "recipient": to,
            "original-recipient": to,
            "queue-id": queue_id,
            "client-address": LOOPBACK,
            "helo": "client.example.net",
        }
        arguments = [f"--{name}={word}" for name, word in words.items()]
        process = subprocess.Popen(
            [self.environment.python, "-I", self.environment.pipe_script, *arguments],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None
        with process.stdin as stdin, suppress(BrokenPipeError):
            stdin.write(mail.data + b"\n")
        return process

    # -- what there is to see

    def received(self, mail: Mail, recipient: str) -> list[dict[str, Any]]:
        """The app's lines about this message to this recipient."""
        lines = [json.loads(line) for line in self.app_log.read_text().splitlines()]
        wanted = (mail.message_id, recipient.lower())
        return [line for line in lines if (line["message_id"], line["recipient"].lower()) == wanted]

    def kept_by_app(self, id_: str) -> bytes:
        """The message as the app has it."""
        return (self.app_log.parent / f"{id_}.eml").read_bytes()

    def parked(self, queue_id: str, recipient: str) -> list[dict[str, Any]]:
        """What `gatepost parked list` says of it."""
        entries = [json.loads(line) for line in self.gatepost("parked", "list", "--json").splitlines()]
        return [entry for entry in entries if (entry["queue_id"], entry["recipient"].lower()) == (queue_id, recipient.lower())]

    def queued(self, queue_id: str, recipient: str) -> bool:
        """Whether Postfix still has it."""
        waiting = [entry["recipients"] for entry in self.postfix.queue() if entry["queue_id"] == queue_id]
        return any(to["address"].lower() == recipient.lower() for recipients in waiting for to in recipients)

    def persons_mail(self) -> list[bytes]:
        """What has left this Postfix."""
        return [file.read_bytes() for file in sorted((self.folder / "person").glob("*.eml"))]

    def decisions(self, queue_id: str, id_: str = "") -> list[dict[str, str]]:
        """Our log's lines about that queue ID, and a delivery id that begins so: the fields by name, as they stand there."""
        lines = [line.partition(f"]: {queue_id}: ")[2] for line in self.log_file.read_text().splitlines()]
        found = [dict(_FIELD.findall(line)) for line in lines if line]
        # Postfix shows 100 octets of the script's line, which may cut the id.
        return [fields for fields in found if fields.get("id", "").startswith(id_)]

    def milters_decisions(self) -> list[dict[str, str]]:
        """The milter's lines about messages, in order."""
        found = [dict(_FIELD.findall(line)) for line in self.log_file.read_text().splitlines()]
        return [fields for fields in found if fields.get("door") == "milter"]

    def all_parked(self) -> int:
        """How many messages are parked."""
        return len(self.gatepost("parked", "list", "--json").splitlines())

    def calls_waiting(self) -> int:
        """How many requests wait for the hanging app: established connections with unread bytes (proc(5), /proc/net/tcp)."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(
            int(row[1].rpartition(":")[2], 16) == self.app_port and row[3] == "01" and not row[4].endswith(":00000000")
            for row in rows
        )

    def scripts_for(self, recipient: str) -> list[int]:
        """The process ids of pipe scripts that run for this recipient."""
        account, word, found = pwd.getpwnam(USER).pw_uid, f"--recipient={recipient}".encode(), []
        for name in os.listdir("/proc"):
            with suppress(OSError):
                ours = name.isdigit() and os.stat(f"/proc/{name}").st_uid == account
                if ours and word in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                    found.append(int(name))
        return found

    def tails(self) -> str:
        """The end of every log, for whoever asks why."""
        files = {
            "Postfix": self.postfix.log_file,
            "gatepost": self.log_file,
            "app": self.folder / "app.out",
            "milter": self.folder / "milter.out",
        }
        return "\n".join(f"--- {name}: {file}\n{_tail(file)}" for name, file in files.items())


def _tail(file: Path, lines: int = 8) -> str:
    try:
        return "\n".join(file.read_text(errors="backslashreplace").splitlines()[-lines:])
    except OSError as error:
        return str(error)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there, suppress(OSError):
        there.connect(str(place))
        return True
    return False
