"""Mail on its way: put in at sender, followed through the logs of both Postfixes, and looked for at the app.

Promises: a message is known by its own Message-ID, and counted wherever it is; what is read is what a person would read: the mail
log of each host, the app's list.
Never: takes a missing line for a good one.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from gatepost.receiver import mint_key
from gatepost.receiver import outgoing as new_outgoing
from tests.lab.fixtures import STRANGER, read_secrets
from tests.lab.machine import LabError, wait_for
from tests.lab.places import HOST_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import date

    from tests.lab.world import World

__all__ = ["REPLIES", "SUPPORT", "Fate", "Mail", "Post", "new_mail"]

REPLIES: Final = f"reply+%{{key}}@{HOST_DOMAIN}"
SUPPORT: Final = f"support@{HOST_DOMAIN}"
#: Seconds for mail to get where it should be; a stranger's server tries again every 2.
_ARRIVES: Final = 60.0
#: Seconds between two looks.
_LOOK: Final = 0.2
_QUEUED: Final = re.compile(r": (?P<queue_id>\w+): message-id=(?P<message_id><[^>]*>)")
_STATUS: Final = re.compile(
    r": (?P<queue_id>\w+): to=<(?P<recipient>.*?)>,.*? relay=(?P<relay>[^,]+),.*? dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<text>.*)\)$"
)
_OURS: Final = re.compile(r"gatepost\S*: (?P<queue_id>\S+): (?P<fields>.*\baction=.*)$")
_FIELD: Final = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True, slots=True)
class Mail:
    """One message: LF line ends, a Message-ID of its own."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    message_id: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a message for one recipient: a `status=` line of a Postfix."""

    recipient: str
    relay: str
    dsn: str
    status: str
    text: str

    @property
    def host(self) -> str:
        """The first part of the relay's name: mx1."""
        return self.relay.partition(".")[0].partition("[")[0]

    @property
    def queue_id(self) -> str:
        """The queue ID over there."""
        found = re.search(r"queued as (\w+)", self.text)
        return found[1] if found else ""


def new_mail(
    *recipients: str, sender: str = STRANGER, author: str = STRANGER, subject: str = "Re: your order", headers: str = "",
    kind: str = "text/plain; charset=us-ascii", body: bytes = b"Thank you, that was it.\n",
) -> Mail:  # fmt: skip
    """A person's mail, unless the rest makes it something else."""
    message_id = f"<{os.urandom(8).hex()}@example.net>"
    head = (
        f"From: {author}\nTo: {recipients[0]}\nSubject: {subject}\nDate: {formatdate()}\nMessage-ID: {message_id}\n{headers}"
        f"MIME-Version: 1.0\nContent-Type: {kind}\n\n"
    )
    return Mail(sender, recipients, head.encode("ascii") + body, message_id)


class Post:
    """The way from sender to the app."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._secret = read_secrets(world.places)["reply-keys"]
        self._sender = world.guest("sender")
        self._app = world.guest("app")

    # --- addresses --------------------------------------------------------------------------------------------------------

    def address(self, subject: str = "order-7", *, expires: date | None = None, secret: str = "") -> str:
        """A reply address with a key; with another secret it is a forged one."""
        key = mint_key(address=REPLIES, secret=secret or self._secret, key_id="reply-keys", subject=subject, expires=expires)
        return REPLIES.replace("%{key}", key)

    def thread(self, subject: str) -> tuple[str, str]:
        """Reply-To and Message-ID of a mail that the app has sent from the dedicated address."""
        made = new_outgoing(address=SUPPORT, secret=self._secret, key_id="reply-keys", subject=subject)
        return made.reply_to, made.message_id

    # --- in ---------------------------------------------------------------------------------------------------------------

    def send(self, *mails: Mail) -> None:
        """Gives them to sender's Postfix, in one go."""
        jobs = [[mail.sender, list(mail.recipients), mail.data.decode("latin-1")] for mail in mails]
        self._sender.run("python3", "/opt/lab/client.py", "submit", stdin=json.dumps(jobs), timeout=120)

    def flush(self) -> None:
        """Has sender try again what waits there, now."""
        self._sender.run("postqueue", "-f")

    def queue(self, host: str = "sender") -> int:
        """Messages that wait there."""
        return len(self._world.guest(host).run("postqueue", "-j").splitlines())

    def worked_off(self, host: str) -> bool:
        """Whether nothing waits there; what does is tried again."""
        if self.queue(host) == 0:
            return True
        self._world.guest(host).try_run("postqueue", "-f")  # refused by a queue manager that has too much to do: asked again
        return False

    # --- what became of it ------------------------------------------------------------------------------------------------

    def log(self, host: str, *, since: str = "") -> list[str]:
        """The host's mail log."""
        extra = [f"--since={since}"] if since else []
        return self._world.guest(host).run("journalctl", "-q", "--facility=mail", "-o", "short", *extra).splitlines()

    def fates(self, mail: Mail, *, host: str = "sender") -> list[Fate]:
        """Every `status=` line about it in that host's log."""
        lines, wanted = (
            self.log(host),
            {each.lower() for each in mail.recipients},
        )  # what came back under the same Message-ID went elsewhere
        ids = {m["queue_id"] for line in lines if (m := _QUEUED.search(line)) and m["message_id"] == mail.message_id}
        return [
            Fate(m["recipient"], m["relay"], m["dsn"], m["status"], m["text"])
            for line in lines if (m := _STATUS.search(line)) and m["queue_id"] in ids and m["recipient"].lower() in wanted
        ]  # fmt: skip

    def wait_fates(self, mail: Mail, *, host: str = "sender", final: bool = True) -> list[Fate]:
        """One for each recipient, once each has one (`final`: that is not a deferral); by recipient as they were named."""

        def enough() -> list[Fate]:
            found = {
                each.recipient.lower(): each for each in self.fates(mail, host=host) if not final or each.status != "deferred"
            }
            return list(found.values()) if len(found) == len({each.lower() for each in mail.recipients}) else []

        found = {
            each.recipient.lower(): each
            for each in wait_for(enough, timeout=_ARRIVES, what=f"{host}'s status= lines of {mail.message_id}")
        }
        return [found[each.lower()] for each in mail.recipients]

    def ends(self, host: str, recipients: Collection[str], *, since: str = "") -> Counter[str]:
        """How often that host's Postfix logged each status about one of these: sent, deferred, bounced, expired."""
        wanted = {each.lower() for each in recipients}
        found = (_STATUS.search(line) for line in self.log(host, since=since))
        return Counter(match["status"] for match in found if match and match["recipient"].lower() in wanted)

    def decisions(self, host: str, queue_id: str = "", *, since: str = "") -> list[dict[str, str]]:
        """gatepost's own lines on that host, the milter's too; all, or those of a queue ID."""
        found = []
        for line in self.log(host, since=since):
            match = _OURS.search(line)
            if match and queue_id in ("", match["queue_id"]):
                fields = {name: value.strip('"') for name, value in _FIELD.findall(match["fields"])}
                found.append({"queue_id": match["queue_id"], **fields})
        return found

    def received(self) -> list[dict[str, Any]]:
        """What the app has, in its own words."""
        return [json.loads(line) for line in self._app.read("/var/lib/app/received.jsonl").splitlines()]

    def arrivals(self, mails: Iterable[Mail]) -> Counter[str]:
        """How often the app has each of these, by Message-ID; a repeated hand-over of one id counts once."""
        wanted = {mail.message_id for mail in mails}
        seen = {(line["id"], line["message_id"]) for line in self.received() if line["message_id"] in wanted}
        return Counter(message_id for _, message_id in seen)

    def wait_arrivals(self, mails: Sequence[Mail], *, timeout: float = _ARRIVES) -> Counter[str]:
        """The same, once each is there; what is there when the time is over."""
        end = time.monotonic() + timeout
        while len(found := self.arrivals(mails)) < len(mails) and time.monotonic() < end:
            time.sleep(_LOOK)
        return found

    def kept(self, message_id: str) -> bytes:
        """The message as the app keeps it; LabError where it has none."""
        for line in self.received():
            if line["message_id"] == message_id:
                return self._app.run("cat", f"/var/lib/app/{line['id']}.eml").encode("utf-8")
        raise LabError(f"the app has no {message_id}")

    def persons(self, mail: Mail) -> int:
        """Copies in the person's Maildir at sender."""
        found = self._sender.try_run(
            "sh", "-c", f"grep -rlF '{mail.message_id}' /home/person/Maildir/new /home/person/Maildir/cur 2>/dev/null"
        )
        return len(found.splitlines())

    def now(self) -> str:
        """The hosts' clock (they share the machine's), as journalctl takes it."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()) + " UTC"
