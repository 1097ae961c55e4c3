"""A Postfix with several doors side by side: without a milter, and one for each milter that is compared.

Promises: everything lies in one folder below /var/tmp, which `close` deletes; the doors differ in `smtpd_milters` alone, and
what they take goes to discard(8), so that no delivery counts; before anything is measured one message through each door shows
that its milter did its work. All milters run as user gatepost, on sockets in one folder.
Never: asks DNS elsewhere than on 127.0.0.1; ends a process that it did not start.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench.guesses import dead_keys, revoked_file
from demo.dns_server import DnsServer
from demo.environment import CHECKOUT, ensure_user
from demo.postfix_instance import LOOPBACK, MailRecorder, PostfixError, PrivatePostfix, Session, free_port, wait_for
from gatepost.config import load
from gatepost.keys.outgoing import fill
from gatepost.keys.signed import mint
from gatepost.wiring import render
from tests.signed_mail import Key, rsa_key, sign

if TYPE_CHECKING:
    from demo.environment import Environment

__all__ = ["BODY_BYTES", "DOMAIN", "DOORS", "SENDER", "Doors"]

DOMAIN: Final = "in.example.com"
SENDER: Final = "person@example.org"
#: The doors, in the order of a round. "none": no milter; "idle": one that does nothing (idle_milter.py); "ours": no DNS asked;
#: "checking": ours, with everything authenticated; "opendkim": Debian's, which verifies DKIM alone.
DOORS: Final = ("none", "idle", "ours", "checking", "opendkim")
BODY_BYTES: Final = 5_000
_KEY_ID: Final = "reply-keys"
_SECRET: Final = b"a secret of the benchmark, which ends with it"
#: Long enough that no milter is given up, however busy the machine.
_TIMES: Final = "connect_timeout=30s, command_timeout=30s, content_timeout=120s, default_action=tempfail"
_CONFIG: Final = """\
store: {store}
log: {folder}/log/gatepost.log
routes:
  - name: replies
    address: "reply+%{{key}}@{domain}"
    keys: {{format: signed, secret: {key_id}, revoked: {folder}/etc/revoked}}
    deliver: [folder]
milter: {{socket: "unix:{socket}", authserv_id: mx.example.com, authenticate: [{methods}], dns: ["{dns}"]}}
sinks:
  folder: {{maildir: {folder}/mail/Maildir}}
"""
#: The sender's public key stands in a file: with ResolverConfiguration, Debian 12's crashes as soon as two threads read that.
_OPENDKIM: Final = """\
Mode v
Socket local:{socket}
UMask 0117
AuthservID mx.example.com
TestPublicKeys {folder}/etc/public-keys
Syslog no
"""
#: Dead keys of each kind; so many lines has the `revoked:` file.
_DEAD_KEYS: Final = 500


class Doors:
    """All of it, as a context manager. `environment` has gatepost with its extra [milter]."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.folder = Path(tempfile.mkdtemp(prefix="gatepost-bench.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.postfix = PrivatePostfix(self.folder / "postfix")
        self.ports = {"none": self.postfix.port} | {door: free_port() for door in DOORS[1:]}
        self.message = self.folder / "message"
        self.to = _address(_key("ticket-42"))
        keys = dead_keys(_DEAD_KEYS, secret=_SECRET, key_id=_KEY_ID, domain=DOMAIN)
        self._revoked = keys["revoked"]
        #: Addresses with a key that is not live, of each kind.
        self.dead = {kind: [_address(key) for key in each] for kind, each in keys.items()}
        self._milters: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

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
        for milter in self._milters.values():
            milter.send_signal(signal.SIGKILL)
            milter.wait()
        self.postfix.remove()
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self) -> None:
        account = ensure_user()
        self.sockets = self.postfix.milter_folder(account.pw_name)
        for name, mode in (("etc", 0o755), ("log", 0o755), ("mail", 0o700), ("store", 0o700), ("store-checking", 0o700)):
            made = self.folder / name
            made.mkdir()
            made.chmod(mode)
            os.chown(made, account.pw_uid, account.pw_gid)
        key = rsa_key()
        dns = self._stack.enter_context(DnsServer(_zones(key)))
        self.message.write_bytes(_message(key, self.to).replace(b"\r\n", b"\n"))
        self._configure(dns.port, key)
        for door in DOORS[1:]:
            self._start(door)
        outbox = MailRecorder()
        self._stack.callback(outbox.close)
        self._wire(outbox.port)
        self.postfix.start()
        self._try(outbox)

    def _configure(self, dns_port: int, key: Key) -> None:
        etc = self.folder / "etc"
        for door, methods in (("ours", ""), ("checking", "spf, dkim, dmarc, arc")):
            self.config(door).write_text(
                _CONFIG.format(
                    folder=self.folder, store=self.store(door), domain=DOMAIN, key_id=_KEY_ID, socket=self.socket(door),
                    methods=methods, dns=f"{LOOPBACK}:{dns_port}",
                )
            )  # fmt: skip
        secrets = etc / "secrets.yml"
        secrets.touch(mode=0o600)
        secrets.write_text(f"{_KEY_ID}: ['{_SECRET.decode()}']\n")
        shutil.chown(secrets, "gatepost", "gatepost")
        (etc / "opendkim.conf").write_text(_OPENDKIM.format(socket=self.socket("opendkim"), folder=self.folder))
        (etc / "revoked").write_text(revoked_file(self._revoked, secret=_SECRET, key_id=_KEY_ID))
        (etc / "public-keys").write_text(f"s._domainkey.example.org {key.record}\n")
        shutil.copyfile(CHECKOUT / "bench" / "idle_milter.py", etc / "idle_milter.py")
        for file in etc.iterdir():
            if file != secrets:
                file.chmod(0o644)

    def _command(self, door: str) -> list[str]:
        etc = self.folder / "etc"
        if door == "idle":
            return [self.environment.python, "-I", str(etc / "idle_milter.py"), str(self.socket(door))]
        if door != "opendkim":
            return [self.environment.command, "milter", "--config", str(self.config(door))]
        opendkim = shutil.which("opendkim", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if opendkim is None:
            raise PostfixError("opendkim was not found: demo/setup.sh bench installs it")
        return [opendkim, "-f", "-x", str(etc / "opendkim.conf")]

    def _start(self, door: str) -> None:
        account = ensure_user()
        with (self.folder / f"{door}.out").open("wb") as said:
            self._milters[door] = subprocess.Popen(
                self._command(door), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd="/",
                user=account.pw_uid, group=account.pw_gid, extra_groups=[], env={"PATH": "/usr/bin:/bin", "LANG": "C"},
                start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: self._listens(door), what=f"the milter {door}")

    def _listens(self, door: str) -> bool:
        if self._milters[door].poll() is not None:
            raise PostfixError(f"the milter {door} has ended: {(self.folder / f'{door}.out').read_text()}")
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket(door))) == 0

    def _wire(self, outbox_port: int) -> None:
        """gatepost's fragments, with all that comes in dropped, and a door for each milter."""
        fragments = render(
            load(str(self.config("ours"))),
            python=self.environment.python,
            pipe_script=self.environment.pipe_script,
            config=str(self.config("ours")),
            person="person@example.net",
            host=self.postfix.host,
            folder=str(self.postfix.maps_folder),
        )
        fragments["main.cf"] = re.sub(r"(?m)^(smtpd_milters|virtual_transport) = .*$", "", fragments["main.cf"])
        # in_flow_delay: a client that is faster than the queue would be made to wait, and the queue is not what is measured.
        fragments["main.cf"] += (
            "\nvirtual_transport = discard:\nin_flow_delay = 0\n"
            f"transport_maps = inline:{{ {{ {self.trial} = smtp:[{LOOPBACK}]:{outbox_port} }} }}\n"
        )
        for door in DOORS[1:]:
            fragments["master.cf"] += (
                f"\n{LOOPBACK}:{self.ports[door]} inet n - n - - smtpd\n"
                f"    -o {{ smtpd_milters = {{unix:{self.socket(door)}, {_TIMES}}} }}\n"
            )
        self.postfix.wire(fragments)

    def _try(self, outbox: MailRecorder) -> None:
        """One message through each door, as it comes out behind: PostfixError where a milter does not do what it is for."""
        wanted = {"none": b"", "idle": b"", "ours": b"mx.example.com; none", "checking": b"dkim=pass", "opendkim": b"dkim=pass"}
        for door in DOORS:
            outbox.clear()
            with Session(self.ports[door]) as session:
                sent = session.message(SENDER, [self.trial], self.message.read_bytes())
            if not sent.queue_id:
                raise PostfixError(f"{door}: {sent}:\n{self.postfix.log_tail()}")
            wait_for(lambda: outbox.messages, what=f"the message through {door}")
            head = outbox.messages[0].data.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
            results = b"".join(re.findall(rb"(?im)^authentication-results:(.*(?:\n[ \t].*)*)", head))
            if (wanted[door] not in results) if wanted[door] else results:
                raise PostfixError(f"{door}: Authentication-Results:{results.decode(errors='replace')!r}")

    # -- what is asked while measuring

    def restart(self, door: str) -> None:
        """A milter as it was at first."""
        self._milters[door].terminate()
        self._milters[door].wait(timeout=30)
        self._start(door)

    def socket(self, door: str) -> Path:
        """Where a milter listens."""
        return self.sockets / f"{door}.sock"

    def config(self, door: str) -> Path:
        """The configuration of one of ours."""
        return self.folder / "etc" / f"{door}.yml"

    def store(self, door: str) -> Path:
        """The store of one of ours."""
        return self.folder / ("store-checking" if door == "checking" else "store")

    @property
    def trial(self) -> str:
        """Where trial messages go, to be looked at: an address with a key of its own."""
        return _address(_key("trial"))

    def judged(self, door: str) -> int:
        """How many messages one of our milters has judged, by its store."""
        with closing(sqlite3.connect(f"file:{self.store(door)}/gatepost.sqlite?mode=ro", uri=True)) as database:
            count: int = database.execute("SELECT count(*) FROM token").fetchone()[0]
            return count

    def memory(self, door: str) -> int:
        """Bytes of a milter that are in memory."""
        status = Path(f"/proc/{self._milters[door].pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def idle(self) -> None:
        """Returns once the queue is empty."""
        wait_for(self._is_idle, timeout=60, what="an empty queue")

    def _is_idle(self) -> bool:
        queue = self.postfix.queue_folder
        return not any(files for name in ("maildrop", "incoming", "active") for _, _, files in os.walk(queue / name))


def _key(subject: str) -> str:
    return mint(secret=_SECRET, key_id=_KEY_ID, domain=DOMAIN, subject=subject.encode())


def _address(key: str) -> str:
    return fill(f"reply+%{{key}}@{DOMAIN}", key)


def _zones(key: Key) -> dict[str, dict[str, list[str]]]:
    """The sender's domain: everything passes."""
    return {
        "example.org": {"TXT": [f"v=spf1 ip4:{LOOPBACK} -all"]},
        "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
        "s._domainkey.example.org": {"TXT": [key.record]},
    }


def _message(key: Key, to: str) -> bytes:
    """A person's reply, signed."""
    head = (
        f"From: A Person <{SENDER}>\r\nTo: {to}\r\nSubject: Re: your order\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
        "Message-ID: <1.42@example.org>\r\nIn-Reply-To: <0.42@example.net>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    )
    line = b"The pump room is dry again, and the lamp above the stairs has been mended.\r\n"
    return sign(head.encode("ascii") + line * (BODY_BYTES // len(line)), key)
