"""What the demo shows, one function a scenario: mail goes in over SMTP, and Postfix, our log and the app say what became of it.

The same scenarios are played in several acts: without a milter, with it, and with a milter that was killed (`World.door`).

Promises: each scenario checks what it shows, and says what is wrong; nothing waits for a fixed time; at the end every message
is looked for once more, where it was found before.
Never: takes a missing observation for a good one.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time
from base64 import encodebytes
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from demo.postfix_instance import LOOPBACK, PostfixError, Sent, wait_for
from demo.world import AUTHSERV_ID, DOMAIN, PERSON, Mail, World, new_mail
from gatepost.receiver import mint_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from demo.postfix_instance import Delivery, Reply
    from demo.world import Door

__all__ = ["ACTS", "Act", "Course", "Tale"]

#: Seconds for something to come true that should already be on its way.
_SOON: Final = 10.0


@dataclass(frozen=True)
class Fate:
    """What should become of a message for one recipient: Postfix's status=, our action and rule, and where it is then.

    `early`: what the milter makes of it while the client is still connected: refused at "rcpt" or at the end of the "data",
    "discard", or "": it goes on to the script.
    """

    status: str
    action: str
    rule: str
    place: str
    early: str = ""


_ACCEPTED: Final = Fate("sent", "accept", "accepted", "app")


def _parked(rule: str) -> Fate:
    return Fate("sent", "park", rule, "parked", early="rcpt")


def _discarded(rule: str, early: str) -> Fate:
    return Fate("sent", "discard", rule, "nowhere", early=early)


def _deferred(rule: str) -> Fate:
    return Fate("deferred", "defer", rule, "queue")


_PLACES: Final = {
    "app": "the app has it, once",
    "parked": "parked, its head only: gatepost parked show",
    "queue": "in Postfix's queue",
    "nowhere": "nowhere: our log line is what is left",
}


@dataclass
class Tale:
    """What one scenario showed: lines in three columns, and what was not as expected."""

    postfix: list[str] = field(default_factory=list)
    decision: list[str] = field(default_factory=list)
    now: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, seen: object, wanted: object) -> None:
        """Notes a difference."""
        if seen != wanted:
            self.wrong.append(f"{what}: expected {wanted}; actual {seen}")


class Course:
    """One scenario on its way: the world, its tale, and the places of all messages of the demo so far."""

    def __init__(self, world: World, tale: Tale, history: dict[tuple[str, str], tuple[Mail, str]]) -> None:
        self.world, self.tale, self._history = world, tale, history

    def send(self, mail: Mail, *, replies: tuple[int, ...] = (250,), to_data: int = 250) -> Sent:
        """Sends it, and checks Postfix's replies to the recipients and to the message (0: no recipient was taken)."""
        sent = self.world.send(mail)
        for (recipient, reply), wanted in zip(sent.recipients, replies, strict=True):
            self.tale.postfix.append(f"RCPT TO:<{recipient}>: {_without(recipient, reply)}")
            self.tale.expect("the reply to RCPT", reply.code, wanted)
        if sent.data:
            self.tale.postfix.append(f"end of DATA: {sent.data}")
        self.tale.expect("the reply to DATA", sent.data.code if sent.data else 0, to_data)
        if to_data == 250 and not sent.queue_id:
            raise PostfixError("Postfix did not take the message")
        return sent

    def follow(self, mail: Mail, sent: Sent, *fates: Fate, attempt: int = 1) -> list[Delivery]:
        """Waits for the attempt with this number, and holds each recipient's fate against what is there."""
        wanted = dict(zip(mail.recipients, fates, strict=True))
        deliveries = self.world.postfix.wait_delivery(sent.queue_id, count=attempt * len(fates))[-len(fates) :]
        for delivery in deliveries:
            recipient = next(each for each in mail.recipients if each.lower() == delivery.recipient.lower())
            self._follow(mail, sent.queue_id, recipient, delivery, wanted[recipient])
        return deliveries

    def _follow(self, mail: Mail, queue_id: str, recipient: str, delivery: Delivery, fate: Fate) -> None:
        self.tale.postfix.append(f"status={delivery.status} ({delivery.text})")
        self.tale.expect("Postfix's status", delivery.status, fate.status)
        id_ = re.search(r"\bid=(\w+)", delivery.text)
        self.decided(queue_id, id_[1] if id_ else "", fate.action, fate.rule)
        self.is_now(mail, queue_id, recipient, fate.place)

    def decided(self, queue_id: str, id_: str, action: str, rule: str) -> None:
        """Our log's newest line about it."""
        lines = self.world.decisions(queue_id, id_)
        newest = lines[-1] if lines else {}
        shown = ("action", "rule", "attempt", "again", "ms", "detail")
        self.tale.decision.append(" ".join(f"{name}={newest[name]}" for name in shown if name in newest) or "no log line")
        self.tale.expect("our decision", (newest.get("action"), newest.get("rule")), (action, rule))

    def is_now(self, mail: Mail, queue_id: str, recipient: str, place: str) -> None:
        """Where the message is; it gets some time to arrive there."""
        with suppress(PostfixError):
            wait_for(lambda: self.place(mail, queue_id, recipient) == place, timeout=_SOON, what=place)
        seen = self.place(mail, queue_id, recipient)
        self.tale.now.append(_PLACES.get(seen, seen))
        self.tale.expect("where it is", seen, place)
        self._history[queue_id, recipient] = (mail, place)

    def place(self, mail: Mail, queue_id: str, recipient: str) -> str:
        """Everywhere the message is for this recipient, as one text."""
        world = self.world
        places = ["queue"] * world.queued(queue_id, recipient) + ["parked"] * len(world.parked(queue_id, recipient))
        return " + ".join(places + ["app"] * len(world.received(mail, recipient))) or "nowhere"

    def look_again(self) -> None:
        """Every message of every scenario is where it was last seen."""
        for (queue_id, recipient), (mail, place) in self._history.items():
            self.tale.expect(f"where {queue_id} is", self.place(mail, queue_id, recipient), place)

    def expected(self, place: str) -> int:
        """How many messages of the demo so far were last seen there."""
        return sum(seen == place for _, seen in self._history.values())

    def app_line(self, mail: Mail) -> dict[str, Any]:
        """The app's line about it; empty where it has none."""
        lines = self.world.received(mail, mail.recipients[0])
        return lines[0] if lines else {}

    def simple(self, mail: Mail, fate: Fate) -> None:
        """One message, one recipient, one attempt; what becomes of it where the milter is there, or was killed."""
        if self.world.door == "tempfail":
            self.put_off(mail)
        elif self.world.door == "milter" and fate.early:
            self.early(mail, fate)
        else:
            self.follow(mail, self.send(mail), fate)

    def early(self, mail: Mail, fate: Fate) -> None:
        """The milter has decided: a refusal while the client is there, or a message that goes no further."""
        before = len(self.world.milters_decisions())
        if fate.early == "rcpt":
            sent = self.send(mail, replies=(550,), to_data=0)
            self.tale.expect("the status code", sent.rcpt(mail.recipients[0]).text[:5], "5.1.1")
        elif fate.early == "data":
            sent = self.send(mail, to_data=550)
            self.tale.expect("the status code", sent.data.text[:4] if sent.data else "", "5.7.")
        else:
            sent = self.send(mail)
        wanted = ("discard" if fate.early == "discard" else "reject", fate.rule)
        self.decided_early(self.world.milters_decisions()[before:], wanted)
        told = "with the sender, who was told at once"
        self.is_nowhere(mail, sent.queue_id, _PLACES["nowhere"] if fate.early == "discard" else told)

    def decided_early(self, lines: list[dict[str, str]], wanted: tuple[str, str]) -> None:
        """The milter's one line about it."""
        for line in lines:
            shown = ("stage", "action", "rule", "ms", "detail")
            self.tale.decision.append("milter: " + " ".join(f"{name}={line[name]}" for name in shown if name in line))
        self.tale.expect("the milter's decision", [(line.get("action"), line.get("rule")) for line in lines], [wanted])

    def put_off(self, mail: Mail) -> None:
        """Nobody can look at it: Postfix takes nothing, and asks nobody."""
        before = self.world.log_file.read_text()
        sent = self.world.send(mail)
        self.tale.postfix.append(f"MAIL FROM:<{mail.sender}>: {sent.mail}")
        self.tale.expect("the reply to MAIL", (sent.mail.code, sent.mail.text[:5]), (451, "4.7.1"))
        self.tale.decision.append("none: gatepost was not asked")
        self.tale.expect("our log", self.world.log_file.read_text(), before)
        self.is_nowhere(mail, "", "with the sender, who tries again")

    def is_nowhere(self, mail: Mail, queue_id: str, shown: str) -> None:
        """Not with the app, not in the queue, not parked; and it stays so."""
        name = queue_id or mail.message_id  # what was refused has no queue ID; what is parked is counted at the end
        for recipient in mail.recipients:
            self.tale.expect("where it is", self.place(mail, name, recipient), "nowhere")
            self._history[name, recipient] = (mail, "nowhere")
        self.tale.now.append(shown)


# --- keys -----------------------------------------------------------------------------------------------------------------


def good_reply(course: Course) -> None:
    """A reply to an address whose key is good."""
    mail = new_mail(course.world.address("order-7"))
    course.simple(mail, _ACCEPTED)
    if course.world.door == "tempfail":
        return
    subject = course.app_line(mail).get("key_subject")
    course.tale.now.append(f"the key names {subject}")
    course.tale.expect("what the key names", subject, "order-7")


def capitals(course: Course) -> None:
    """The same key in capitals, as some mail programs write it."""
    mail = new_mail(course.world.address("order-7").upper())
    course.simple(mail, _ACCEPTED)
    course.tale.expect("what the key names", course.app_line(mail).get("key_subject"), "order-7")


def thread(course: Course) -> None:
    """A reply to support@, which has no key: its References say which mail of ours it answers."""
    made = course.world.mint("ticket-9", route="support")
    references = f"References: <other@example.net> {made['message_id']}\n <later@example.net>\n"
    mail = new_mail(made["reply_to"], subject="Re: your ticket", headers=references)
    course.simple(mail, _ACCEPTED)
    line = course.app_line(mail)
    course.tale.now.append(f"it answers {line.get('answers')}; the key there names {line.get('key_subject')}")
    course.tale.expect("the thread", (line.get("answers"), line.get("key_subject")), (made["message_id"], "ticket-9"))


def unknown_key(course: Course) -> None:
    """An unknown key. Postfix itself knows the form of our addresses only."""
    course.simple(new_mail(f"reply+nosuchkey@{DOMAIN}"), _parked("key-unknown"))


def expired_key(course: Course) -> None:
    """A key past its last day."""
    course.simple(new_mail(course.world.address("order-7", expires="2024-02-29")), _parked("key-expired"))


def forged_key(course: Course) -> None:
    """A key made with another secret."""
    pattern = f"reply+%{{key}}@{DOMAIN}"
    key = mint_key(address=pattern, secret=os.urandom(32).hex(), key_id="reply-keys", subject="order-7")
    course.simple(new_mail(pattern.replace("%{key}", key)), _parked("key-forged"))


def revoked_key(course: Course) -> None:
    """A key that `gatepost key revoke` has ended."""
    address = course.world.address("order-8")
    course.world.gatepost("key", "revoke", address)
    course.simple(new_mail(address), _parked("key-revoked"))


# --- refused in the SMTP dialogue -----------------------------------------------------------------------------------------


def no_such_address(course: Course) -> None:
    """An address that no route has: Postfix itself refuses it, and nobody has to write a bounce."""
    _refused(course, f"info@{DOMAIN}", 550, "5.1.1")


def foreign_domain(course: Course) -> None:
    """A domain that is not ours."""
    _refused(course, "someone@example.org", 554, "5.7.1")


def _refused(course: Course, recipient: str, code: int, status: str) -> None:
    """By Postfix itself, whoever stands behind it."""
    before = course.world.log_file.read_text()
    sent = course.send(new_mail(recipient), replies=(code,), to_data=0)
    course.tale.expect("the status code", sent.rcpt(recipient).text[:5], status)
    course.tale.decision.append("none: gatepost was not asked")
    course.tale.expect("our log", course.world.log_file.read_text(), before)
    course.tale.now.append("with the sender, who was told at once")


# --- what no person wrote -------------------------------------------------------------------------------------------------


def vacation(course: Course) -> None:
    """A vacation reply (RFC 3834)."""
    mail = new_mail(
        course.world.address("order-7"),
        sender="",
        subject="Out of office",
        headers="Auto-Submitted: auto-replied (vacation)\n",
        body=b"I am away until Monday.\n",
    )
    course.simple(mail, _discarded("automatic", early="data"))


def bounce(course: Course) -> None:
    """A bounce of a mail that the app sent (RFC 3464)."""
    report = (
        b"--b\nContent-Type: text/plain\n\nYour mail could not be delivered.\n\n"
        b"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.net\n\n"
        b"Final-Recipient: rfc822; gone@example.net\nAction: failed\nStatus: 5.1.1\n\n--b--\n"
    )
    mail = new_mail(
        course.world.address("order-7"),
        sender="",
        author="mailer-daemon@example.net",
        subject="Undelivered mail",
        body=report,
        kind='multipart/report; report-type=delivery-status; boundary="b"',
    )
    course.simple(mail, _discarded("bounce", early="discard"))


# --- more than the usual --------------------------------------------------------------------------------------------------


def two_recipients(course: Course) -> None:
    """One mail to two addresses, one with a good key and one with a bad one: each has its own decision."""
    mail = new_mail(course.world.address("order-7"), f"reply+nosuchkey@{DOMAIN}")
    if course.world.door == "tempfail":
        course.put_off(mail)
    elif course.world.door == "milter":
        before = len(course.world.milters_decisions())
        sent = course.send(mail, replies=(250, 550))
        course.decided_early(course.world.milters_decisions()[before:], ("reject", "key-unknown"))
        course.follow(replace(mail, recipients=mail.recipients[:1]), sent, _ACCEPTED)
    else:
        course.follow(mail, course.send(mail, replies=(250, 250)), _ACCEPTED, _parked("key-unknown"))


def attachment(course: Course) -> None:
    """An attachment of 9 MB."""
    mail = _large(course, 9_000_000)
    course.simple(mail, _ACCEPTED)
    _compare(course, mail)


def _large(course: Course, size: int) -> Mail:
    part = (
        b'--b\nContent-Type: text/plain\n\nHere it is.\n\n--b\nContent-Type: application/octet-stream; name="data.bin"\n'
        b'Content-Disposition: attachment; filename="data.bin"\nContent-Transfer-Encoding: base64\n\n'
    )
    return new_mail(
        course.world.address("order-7"),
        kind='multipart/mixed; boundary="b"',
        subject="The file you asked for",
        body=part + encodebytes(os.urandom(size)) + b"--b--\n",
    )


def _compare(course: Course, mail: Mail) -> None:
    """What the app has on disk is what was sent, behind the fields of our own host: Postfix's and the milter's."""
    line = course.app_line(mail)
    kept = course.world.kept_by_app(line["id"]) if line else b""
    wanted, seen = (hashlib.sha256(data).hexdigest() for data in (mail.wire, kept[-len(mail.wire) :]))
    course.tale.now.append(f"{len(mail.wire):,} bytes sent, sha256 {wanted[:16]}...; the app's copy {seen[:16]}...")
    course.tale.expect("sha256 of the app's copy", seen, wanted)
    course.tale.expect("sha256 in the webhook", line.get("content_sha256"), wanted)
    front = re.findall(rb"(?m)^([\w-]+):", kept[: -len(mail.wire)])
    ours = [b"X-Gatepost-Stamp", b"Authentication-Results"] * (course.world.door == "milter")
    course.tale.expect("what stands in front of it", front, [*ours, b"Received"])


def postmaster(course: Course) -> None:
    """Mail to postmaster: no route, no key, no rule; it goes to a person (RFC 5321 section 4.5.1)."""
    mail = new_mail(f"postmaster@{DOMAIN}", subject="A question about your mail server")
    if course.world.door == "tempfail":
        course.put_off(mail)
        return
    sent = course.send(mail)
    (delivery,) = course.world.postfix.wait_delivery(sent.queue_id)
    course.tale.postfix.append(f"to={delivery.recipient} status={delivery.status} ({delivery.text})")
    course.tale.expect("Postfix's status", (delivery.recipient, delivery.status), (PERSON, "sent"))
    course.tale.decision.append("none: gatepost was not asked")
    course.tale.expect("our log", course.world.decisions(sent.queue_id), [])
    found = [data for data in course.world.persons_mail() if mail.message_id.encode() in data]
    course.tale.now.append(f"in the mailbox of {PERSON}" if found else "not with the person")
    course.tale.expect("copies that the person has", len(found), 1)


# --- who the sender is ----------------------------------------------------------------------------------------------------

#: What a stranger writes to look like our own host's verdict.
_CLAIM: Final = f"Authentication-Results: {AUTHSERV_ID}; dmarc=pass header.from=example.org\n"


def _written_by(course: Course, author: str) -> Mail:
    """A mail to an address that was made for person@example.net alone, with a forged verdict in it."""
    address = course.world.mint("ticket-9", route="tickets", owner="person@example.net")["address"]
    return new_mail(address, sender=author, author=author, headers=_CLAIM)


def owner(course: Course) -> None:
    """The key's owner writes; SPF says that it is so. A verdict that he brought along in our name is taken away."""
    mail = _written_by(course, "person@example.net")
    course.simple(mail, _ACCEPTED)
    _sender_is(course, mail, "yes")


def somebody_else(course: Course) -> None:
    """Somebody else, verified as well, writes to an address that was made for the owner alone."""
    course.simple(_written_by(course, "someone@example.net"), Fate("sent", "park", "sender-mismatch", "parked", early="data"))


def forged_sender(course: Course) -> None:
    """A From address of example.org, whose DMARC record has it refused; with a verdict in our name that says it is genuine."""
    author = "someone@example.org"
    mail = new_mail(course.world.address("order-7"), sender=author, author=author, headers=_CLAIM)
    if course.world.door == "milter":
        course.simple(mail, Fate("sent", "park", "unauthenticated", "parked", early="data"))
    else:
        course.simple(mail, _ACCEPTED)
        _sender_is(course, mail, "unknown")


def _sender_is(course: Course, mail: Mail, verified: str) -> None:
    """What the app was told of the sender, and by whose verdict."""
    line = course.app_line(mail)
    course.tale.now.append(f"the app was told: sender verified: {line.get('sender_verified')}")
    course.tale.expect("what the app was told", line.get("sender_verified"), verified)
    kept = course.world.kept_by_app(line["id"]) if line else b""
    ours = f"\r\nAuthentication-Results: {AUTHSERV_ID};".encode()
    if course.world.door == "milter":
        course.tale.expect("verdicts in our name", (b"\r\n" + kept).count(ours), 1)
        course.tale.expect("the forged verdict", b"header.from=example.org" in kept, False)


# --- faults: the message waits in Postfix's queue -------------------------------------------------------------------------


def app_down(course: Course) -> None:
    """A message while the app is down; it arrives when the app is back."""
    mail = new_mail(course.world.address("order-7"))
    course.world.stop_app()
    sent = course.send(mail)
    course.follow(mail, sent, _deferred("app-unavailable"))
    course.world.start_app()
    course.world.postfix.flush()
    course.follow(mail, sent, _ACCEPTED, attempt=2)


def login_page(course: Course) -> None:
    """A login page, status 200, where the app should be: that is no app, and the message waits for it."""
    mail = new_mail(course.world.address("order-7"))
    course.world.stop_app()
    with _login_page(course.world.app_port):
        sent = course.send(mail)
        course.follow(mail, sent, _deferred("app-misconfigured"))
    course.world.start_app()
    course.world.postfix.flush()
    course.follow(mail, sent, _ACCEPTED, attempt=2)


class _LoginPage(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Takes anything, and asks who it is."""
        page = b"<!DOCTYPE html>\n<html><title>Sign in</title><form method=post><input name=user></form></html>\n"
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def _login_page(port: int) -> Iterator[None]:
    with ThreadingHTTPServer((LOOPBACK, port), _LoginPage) as server:
        runs = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        runs.start()
        try:
            yield
        finally:
            server.shutdown()
            runs.join(_SOON)


def twice_in_parallel(course: Course) -> None:
    """The script run twice at once for one message, by hand: one run has it, the other defers; a third finds it done."""
    mail = new_mail(course.world.address("order-7"))
    queue_id = f"demo{os.urandom(6).hex()}"
    course.world.app_hangs(True)
    runs = [course.world.script(mail, queue_id) for _ in range(2)]
    try:
        wait_for(lambda: any(run.poll() is not None for run in runs), timeout=_SOON, what="one of two runs to defer")
        runs.sort(key=lambda run: run.returncode is None)
    finally:
        course.world.app_hangs(False)
    for run in runs:
        run.wait(_SOON)
    runs.append(course.world.script(mail, queue_id))
    ends = [(run.wait(_SOON), run.stdout.read().decode().strip() if run.stdout else "") for run in runs]
    course.tale.postfix.extend(f"run {number}: exit status {status}, {line}" for number, (status, line) in enumerate(ends, 1))
    course.tale.expect("the exit statuses", [status for status, _ in ends], [75, 0, 0])
    words = [(line.split()[0], line.split()[-1] == "again") for _, line in ends]
    course.tale.expect("the lines", words, [("4.3.2", False), ("accepted", False), ("accepted", True)])
    lines = course.world.decisions(queue_id)
    course.tale.decision.extend(f"action={line['action']} rule={line['rule']}" for line in lines)
    course.tale.expect("the decisions", [line["rule"] for line in lines], ["in-flight", "accepted", "accepted"])
    course.is_now(mail, queue_id, mail.recipients[0], "app")


def stopped_while_app_thinks(course: Course) -> None:
    """Postfix restarted while the app thinks: Postfix runs the message anew beside the first run, and the app sees it once."""
    mail = new_mail(course.world.address("order-7"))
    postfix = course.world.postfix
    course.world.app_hangs(True)
    try:
        sent = course.send(mail)
        wait_for(course.world.calls_waiting, timeout=_SOON, what="a request at the app")
        postfix.stop()
        postfix.start()
        course.follow(mail, sent, _deferred("in-flight"))
    finally:
        course.world.app_hangs(False)
    wait_for(lambda: course.world.decisions(sent.queue_id)[-1]["action"] == "accept", timeout=_SOON, what="the first run's end")
    postfix.flush()
    course.follow(mail, sent, _ACCEPTED, attempt=2)


def stopped_in_mid_write(course: Course) -> None:
    """Postfix stopped while it writes a large message to the script, which sees a clean end of file; then started again."""
    for _ in range(5):
        mail = _large(course, 6_000_000)
        script = _catch_script(course, mail.recipients[0])
        sent = course.world.send(mail)
        pid = script()
        if pid and _octets_read(pid) < len(mail.data):
            break
        if pid:
            os.kill(pid, signal.SIGCONT)
    else:
        raise PostfixError("no script could be caught in mid-write")
    course.tale.postfix.append(f"end of DATA: {sent.data}")
    try:
        course.tale.postfix.append(
            f"postfix stop, while the script has read at most {_octets_read(pid):,} of "
            f"{len(mail.data):,} bytes; later: postfix start"
        )
        course.world.postfix.stop()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not course.world.scripts_for(mail.recipients[0]), timeout=_SOON, what="the script's end")
    course.decided(sent.queue_id, "", "defer", "incomplete-input")
    course.is_now(mail, sent.queue_id, mail.recipients[0], "queue")
    course.world.postfix.start()
    course.follow(mail, sent, _ACCEPTED)
    _compare(course, mail)


def _catch_script(course: Course, recipient: str) -> Callable[[], int]:
    """Watches for the script that runs for this recipient, and stops it in its tracks; the result gives its process id, or 0.

    A Python takes 10 ms and more to start; the watch looks every millisecond.
    """
    found: list[int] = []

    def watch() -> None:
        end = time.monotonic() + _SOON
        while not found and time.monotonic() < end:
            for pid in course.world.scripts_for(recipient):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    found.append(pid)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()

    def result() -> int:
        watcher.join(_SOON)
        return found[0] if found else 0

    return result


def _octets_read(pid: int) -> int:
    """All that the process has read so far, its own modules included (proc(5), /proc/PID/io); much where it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/io").read_text().split("\n", 1)[0].split()[1])
    return 1 << 40


# --- a milter that was killed ---------------------------------------------------------------------------------------------


def back_again(course: Course) -> None:
    """The milter is started again, and the senders come back: the good mail arrives, the bad is refused."""
    course.world.start_milter()
    course.world.door = "milter"
    try:
        course.simple(new_mail(course.world.address("order-7")), _ACCEPTED)
        course.simple(new_mail(f"reply+nosuchkey@{DOMAIN}"), _parked("key-unknown"))
    finally:
        course.world.enter("tempfail")


# --- the end --------------------------------------------------------------------------------------------------------------


def nothing_left(course: Course) -> None:
    """At the end: no bounce was written, no mail left but those to postmaster, and nothing waits."""
    world, deliveries = course.world, course.world.postfix.deliveries()
    statuses = [delivery.status for delivery in deliveries]
    course.tale.postfix.append(", ".join(f"{statuses.count(each)} status={each}" for each in sorted(set(statuses))))
    course.tale.postfix.extend(line for line in world.postfix.complaints() if "Milter service" not in line)
    course.tale.expect("Postfix's bounces", statuses.count("bounced"), 0)
    course.tale.decision.append(f"{len(world.log_file.read_text().splitlines())} lines in our log")
    queue, persons, parked = world.postfix.queue(), world.persons_mail(), world.all_parked()
    course.tale.now.append(
        f"{len(queue)} in the queue; {parked} parked; {len(persons)} mails with {PERSON}; everything else where it was"
    )
    course.tale.expect("Postfix's queue", queue, [])
    course.tale.expect("what is parked", parked, course.expected("parked"))
    course.tale.expect("mail that left", [b"\r\nTo: postmaster@" in data for data in persons],
                       [True] * sum(each.recipient == PERSON for each in deliveries))  # fmt: skip
    course.look_again()


def _without(recipient: str, reply: Reply) -> str:
    """The reply without the recipient, which stands beside it."""
    return str(reply).replace(f"<{recipient}>: ", "")


@dataclass(frozen=True)
class Act:
    """Scenarios that are played one after the other, and who refuses meanwhile."""

    title: str
    door: Door
    scenarios: tuple[Callable[[Course], None], ...]


_KEYS: Final = (good_reply, capitals, thread, unknown_key, expired_key, forged_key, revoked_key)
_COMMON: Final = (no_such_address, foreign_domain, vacation, bounce, two_recipients, attachment, postmaster)
_FAULTS: Final = (app_down, login_page, twice_in_parallel, stopped_while_app_thinks, stopped_in_mid_write)

ACTS: Final = (
    Act("Without a milter: gatepost stands behind the queue, and decides there.", "script", (*_KEYS, *_COMMON, *_FAULTS)),
    Act(
        "With the milter: the same messages, refused while the sender is still connected.",
        "milter",
        (*_KEYS, *_COMMON, owner, somebody_else, forged_sender, app_down),
    ),
    Act(
        "The milter killed, default_action=tempfail: nothing comes in until it is back.",
        "tempfail",
        (good_reply, unknown_key, vacation, two_recipients, postmaster, back_again),
    ),
    Act(
        "The milter killed, default_action=accept: mail comes in, and the script behind the queue decides.",
        "accept",
        (good_reply, unknown_key, vacation, two_recipients, postmaster, forged_sender, nothing_left),
    ),
)
