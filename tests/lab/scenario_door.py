"""The door, seen from outside: which ports are open, who knocks too often, second messages in a first, other people's mail.

Promises: everything is tried from sender, a host that is not the controller, over the network.
Never: takes the rules that are loaded for what they do.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

from tests.lab.fixtures import STRANGER
from tests.lab.machine import run, wait_for
from tests.lab.net import inside
from tests.lab.places import HOST_DOMAIN
from tests.lab.post import new_mail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.course import Course
    from tests.lab.post import Mail

__all__ = ["from_sender", "hand", "ports", "rate", "relay", "smuggling"]

#: Ports that are tried: all of the well-known ones, what databases and web servers use, and one that is listened on for the test.
_LISTENER: Final = 8025
_PORTS: Final = (
    *range(1, 900),
    990,
    993,
    995,
    1433,
    2049,
    2525,
    3306,
    5432,
    6379,
    8000,
    8080,
    _LISTENER,
    8443,
    8891,
    9000,
    11332,
    27017,
    49152,
)
#: A second address of sender's, for knocking: sender's own is not to be shut out.
_SECOND: Final = "10.77.0.31"


def from_sender(course: Course, verb: str, job: Any) -> Any:
    """What client.py says of it, run on sender."""
    return json.loads(
        course.world.guest("sender").run("python3", "/opt/lab/client.py", verb, stdin=json.dumps(job), timeout=240)
    )


def hand(course: Course, host: str, *mails: Mail) -> int:
    """Gives messages to that host itself, from sender; the number taken."""
    jobs = [[mail.sender, list(mail.recipients), mail.data.decode("latin-1")] for mail in mails]
    taken: int = from_sender(course, "hand", {"address": course.world.guest(host).address.ipv4, "mails": jobs})
    return taken


def ports(course: Course, hosts: Sequence[str] = ("mx1", "mx2")) -> None:
    """A listener that nobody asked for is not reached, nor ssh from a stranger; 25 is."""
    for name in hosts:
        guest = course.world.guest(name)
        for address in ("0.0.0.0", "::"):
            guest.run(
                "systemd-run",
                "-q",
                "--unit",
                f"stray-{len(address)}",
                "python3",
                "-m",
                "http.server",
                "--bind",
                address,
                str(_LISTENER + len(address) % 2),
            )
        wait_for(lambda guest=guest: guest.run("ss", "-Hltn", f"sport = :{_LISTENER}"), what="a listener on the host")  # type: ignore[misc]
        try:
            for address in (guest.address.ipv4, guest.address.ipv6):
                course.expect(
                    f"{name}: open ports of {address} from sender",
                    from_sender(course, "scan", {"address": address, "ports": [*_PORTS, _LISTENER + 1]}),
                    [25],
                )
        finally:
            for unit in ("stray-7", "stray-2"):
                guest.run("systemctl", "stop", unit)
    status, said = course.controller.run(["ansible", ",".join(hosts), "-m", "ansible.builtin.ping"])
    course.expect("Ansible's ping from the controller", (status, said.count("pong")), (0, len(hosts)))


# --- who knocks too often -------------------------------------------------------------------------------------------------


def rate(course: Course) -> None:
    """One source makes 200 connections as fast as it can, and holds 60 at a time; others are not held up."""
    burst, rate_, count = 120, 120, 40  # postfix_firewall_smtp's defaults
    net = [*inside(course.world.places.namespace("sender")), "ip", "addr"]
    run([*net, "add", f"{_SECOND}/24", "dev", "eth0"])
    try:
        held = _knock(course, count + 20, keep=True, patience=2)
        course.hold(
            "connections of one source open at once", 0 < held["connected"] <= count, f"expected 1 to {count}; actual {held}"
        )
        quick = _knock(course, burst + 80, keep=False, patience=0.3)
        most = burst + quick["seconds"] * rate_ / 60 + 1
        course.hold(
            "connections of one source, one after the other",
            0 < quick["connected"] <= min(most, burst + 79),
            f"expected 1 to {most:.0f}; actual {quick}",
        )
        course.note(
            f"let in: {held['connected']} of {count + 20} held at once, {quick['connected']} of {burst + 80} one after the other"
        )
        mail = new_mail(course.post.address())
        course.post.send(mail)
        course.expect("meanwhile, mail of another source: copies at the app", len(course.post.wait_arrivals([mail])), 1)
    finally:
        run([*net, "del", f"{_SECOND}/24", "dev", "eth0"])


def _knock(course: Course, times: int, *, keep: bool, patience: float) -> Any:
    address = course.world.guest("mx1").address.ipv4
    return from_sender(
        course, "hold", {"address": address, "source": _SECOND, "times": times, "keep": keep, "patience": patience}
    )


# --- smuggling ------------------------------------------------------------------------------------------------------------

#: What is no end of data (RFC 5321, section 4.1.1.4), and what some servers take for one.
_ENDS: Final = ("\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n\0.\r\n")


def smuggling(course: Course, host: str = "mx1") -> None:
    """A first message with a second dialogue in its text; the second never becomes a message."""
    address, guest = course.post.address("order-13"), course.world.guest(host)
    marks = [uuid.uuid4().hex for _ in _ENDS]
    since = course.post.now()
    for end, mark in zip(_ENDS, marks, strict=True):
        head = f"From: {STRANGER}\r\nTo: {address}\r\nMessage-ID: <first-{mark}@example.net>\r\n\r\nfirst"
        second = (
            f"MAIL FROM:<admin@example.org>\r\nRCPT TO:<{address}>\r\nDATA\r\nFrom: admin@example.org\r\nTo: {address}\r\n"
            f"Message-ID: <second-{mark}@example.net>\r\nSubject: smuggled\r\n\r\nsecond\r\n.\r\n"
        )
        pieces = [
            "EHLO sender.example.net\r\n",
            f"MAIL FROM:<{STRANGER}>\r\n",
            f"RCPT TO:<{address}>\r\n",
            "DATA\r\n",
            head + end + second,
        ]
        replies = from_sender(course, "dialogue", {"address": guest.address.ipv4, "connections": [pieces]})[0]
        name = f"variant {end!r}"
        course.expect(f"{name}: DATA", replies[4][:3], "354")
        course.hold(
            f"{name}: messages queued", sum("queued as" in reply for reply in replies[5:]) <= 1, f"actual {replies[5:]}"
        )
    # All that was taken has its end before anything is counted: a last good message comes behind it.
    last = new_mail(address)
    hand(course, host, last)
    course.expect("a good message behind them: copies at the app", len(course.post.wait_arrivals([last])), 1)
    wait_for(lambda: course.post.queue(host) == 0, what=f"{host}'s queue to be empty")
    log = "\n".join(course.post.log(host, since=since))
    seen = [line["message_id"] for line in course.post.received()]
    for end, mark in zip(_ENDS, marks, strict=True):
        course.expect(
            f"variant {end!r}: second messages at the app, in the log",
            (f"<second-{mark}@example.net>" in seen, f"message-id=<second-{mark}" in log),
            (False, False),
        )


# --- relay ----------------------------------------------------------------------------------------------------------------

#: Recipients elsewhere, as people have written them to get past a server. {address}: ours, {number}: its IPv4 address.
_FORMS: Final = (
    "<x@example.org>",
    "<x@sub.in.example.com>",
    "<x@mx1.in.example.com>",
    "<x%example.org@in.example.com>",
    "<x%example.org@mx1.in.example.com>",
    "<x%example.org>",
    "<example.org!x>",
    "<example.org!x@in.example.com>",
    "<example.org!x@[{number}]>",
    "<@in.example.com:x@example.org>",
    "<@mx1.in.example.com,@example.net:x@example.org>",
    '<"x@example.org">',
    '<"x@example.org"@in.example.com>',
    '<"x%example.org"@in.example.com>',
    "<x@example.org@in.example.com>",
    "<x@[{number}]@example.org>",
    "<x@[IPv6:fd77::30]>",
    "<x@[10.77.0.30]>",
    "<x@example.org.>",
    "<x@in.example.com.example.org>",
)


def relay(course: Course, host: str = "mx1") -> None:
    """Each form is refused for good, over both families; no mail is taken that leads elsewhere."""
    guest = course.world.guest(host)
    forms = [form.format(number=guest.address.ipv4) for form in _FORMS]
    course.expect("forms", len(set(forms)), 20)
    for address in (guest.address.ipv4, guest.address.ipv6):
        dialogues = [["EHLO sender.example.net\r\n", f"MAIL FROM:<{STRANGER}>\r\n", f"RCPT TO:{form}\r\n"] for form in forms]
        answers = from_sender(course, "dialogue", {"address": address, "connections": dialogues})
        for form, replies in zip(forms, answers, strict=True):
            course.hold(f"RCPT TO:{form} at {address}", replies[3][:1] == "5", f"expected 5xx; actual {replies[3]}")
    # The same with our own domain for a sender: a forged MAIL FROM opens nothing.
    dialogues = [["EHLO mx1.in.example.com\r\n", f"MAIL FROM:<postmaster@{HOST_DOMAIN}>\r\n", "RCPT TO:<x@example.org>\r\n"]]
    reply = from_sender(course, "dialogue", {"address": guest.address.ipv4, "connections": dialogues})[0][3]
    course.hold("a forged sender of ours", reply[:1] == "5", f"expected 5xx; actual {reply}")
