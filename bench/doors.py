"""A Postfix with several doors side by side: without a milter, and one for each milter that is compared.

Promises: the doors differ in `smtpd_milters` alone, and what they take goes to discard(8), so that no delivery counts; before
anything is measured one message through each door shows that its milter did its work. All milters run as user gatepost, on
sockets in one folder.
Never: asks DNS elsewhere than on 127.0.0.1.
"""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.guesses import dead_keys, revoked_file
from bench.stage import DOMAIN, KEY_ID, SENDER, Stage, letter
from demo.dns_server import DnsServer
from demo.environment import CHECKOUT, ensure_user
from demo.postfix_instance import LOOPBACK, MailRecorder, PostfixError, Session, free_port, wait_for
from gatepost.keys.outgoing import fill
from tests.signed_mail import Key, rsa_key, sign

if TYPE_CHECKING:
    from demo.environment import Environment

__all__ = ["BODY_BYTES", "DOORS", "Doors"]

#: The doors, in the order of a round. "none": no milter; "idle": one that does nothing (idle_milter.py); "ours": no DNS asked;
#: "checking": ours, with everything authenticated; "opendkim": Debian's, which verifies DKIM alone.
DOORS: Final = ("none", "idle", "ours", "checking", "opendkim")
BODY_BYTES: Final = 5_000
_ADDRESS: Final = f"reply+%{{key}}@{DOMAIN}"
#: Long enough that no milter is given up, however busy the machine.
_TIMES: Final = "connect_timeout=30s, command_timeout=30s, content_timeout=120s, default_action=tempfail"
_CONFIG: Final = """\
store: {store}
log: {folder}/log/gatepost.log
routes:
  - name: replies
    address: "{address}"
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


class Doors(Stage):
    """All of it, as a context manager."""

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.environment = environment
        self.ports = {"none": self.postfix.port} | {door: free_port() for door in DOORS[1:]}
        self.message = self.folder / "message"
        self.recipient = self.to("reply", "ticket-42")
        #: Where trial messages go, to be looked at.
        self.trial = self.to("reply", "trial")
        self._keys = dead_keys(_DEAD_KEYS, secret=self.secret.encode(), key_id=KEY_ID, domain=DOMAIN)
        #: Addresses with a key that is not live, of each kind.
        self.dead = {kind: [fill(_ADDRESS, key) for key in each] for kind, each in self._keys.items()}
        self._stack = ExitStack()

    def close(self) -> None:
        """Ends what was started and deletes the folder."""
        self._stack.close()
        super().close()

    def _build(self) -> None:
        self.sockets = self.postfix.milter_folder(ensure_user().pw_name)
        self.own("etc", "log", mode=0o755)
        self.own("mail", "store", "store-checking")
        key = rsa_key()
        dns = self._stack.enter_context(DnsServer(_zones(key)))
        self.message.write_bytes(sign(letter(self.recipient, BODY_BYTES), key).replace(b"\r\n", b"\n"))
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
                    folder=self.folder, store=self.store(door), address=_ADDRESS, key_id=KEY_ID, socket=self.socket(door),
                    methods=methods, dns=f"{LOOPBACK}:{dns_port}",
                )
            )  # fmt: skip
        (etc / "opendkim.conf").write_text(_OPENDKIM.format(socket=self.socket("opendkim"), folder=self.folder))
        (etc / "revoked").write_text(revoked_file(self._keys["revoked"], secret=self.secret.encode(), key_id=KEY_ID))
        (etc / "public-keys").write_text(f"s._domainkey.example.org {key.record}\n")
        shutil.copyfile(CHECKOUT / "bench" / "idle_milter.py", etc / "idle_milter.py")
        for file in etc.iterdir():
            file.chmod(0o644)
        self.write_secrets()

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
        self.start(door, self._command(door), ready=lambda: self._listens(door))

    def _listens(self, door: str) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket(door))) == 0

    def _wire(self, outbox_port: int) -> None:
        """gatepost's fragments, with all that comes in dropped, and a door for each milter."""
        fragments = self.fragments(self.config("ours"))
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
        self.end(door)
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

    def judged(self, door: str) -> int:
        """How many messages one of our milters has judged, by its store."""
        with closing(sqlite3.connect(f"file:{self.store(door)}/gatepost.sqlite?mode=ro", uri=True)) as database:
            count: int = database.execute("SELECT count(*) FROM token").fetchone()[0]
            return count


def _zones(key: Key) -> dict[str, dict[str, list[str]]]:
    """The sender's domain: everything passes."""
    return {
        "example.org": {"TXT": [f"v=spf1 ip4:{LOOPBACK} -all"]},
        "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
        "s._domainkey.example.org": {"TXT": [key.record]},
    }
