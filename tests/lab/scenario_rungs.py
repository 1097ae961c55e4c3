"""Up and down the ladder on one host: pipe, LMTP, thin, pipe; mail comes all the while.

Promises: on each rung the same is looked at, before and after a reboot; a message that waits while the rung changes is followed by its
delivery id; what is sent during a change is counted at the app, and nobody touches the host's queue for it.
Never: takes what the role says for the rung: Postfix's log names the service that had the message.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.lab.machine import wait_for
from tests.lab.places import HOST_DOMAIN
from tests.lab.post import new_mail
from tests.lab.scenario_door import hand
from tests.lab.scenario_fresh import units

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.course import Course
    from tests.lab.guest import Guest
    from tests.lab.post import Mail

__all__ = ["doctor", "rungs", "straight_to"]

_HOST: Final = "r3"
#: How Postfix's log names the way of each rung.
_RELAY: Final = {"pipe": "gatepost", "lmtp": f"{_HOST}.{HOST_DOMAIN}[gatepost/lmtp.sock]", "thin": "gatepost-thin"}
_SOCKET: Final = "/var/spool/postfix/gatepost/lmtp.sock"
#: Seconds between two messages while a rung changes.
_PACE: Final = 0.5
#: Connects as that user, with Postfix's queue folder for a root; says the greeting, or what kept it from being heard.
_FROM_CHROOT: Final = """\
import os, pwd, socket, sys
user, there = pwd.getpwnam(sys.argv[1]), socket.socket(socket.AF_UNIX)
os.chroot("/var/spool/postfix")
os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
there.settimeout(10)
try:
    there.connect("/gatepost/lmtp.sock")
    print(there.recv(200).decode().strip())
except OSError as error:
    print(error.strerror)
"""


def rungs(course: Course) -> None:
    """pipe, lmtp, thin, pipe: each settled, looked at, rebooted where a process has to come back, and left with mail waiting."""
    course.world.fresh(_HOST)
    course.controller.converge((_HOST,), "--skip-tags", "mx")
    _on_rung(course, "pipe")
    for rung in ("lmtp", "thin", "pipe"):
        _change(course, rung)
        _on_rung(course, rung)


# --- a change -------------------------------------------------------------------------------------------------------------


def _change(course: Course, rung: str) -> None:
    """To another rung, with a message in the queue that the app could not take, and others on their way."""
    guest, app = course.world.guest(_HOST), course.world.guest("app")
    app.stop_unit("app", 443)
    waiting = new_mail(course.post.address("waits"))
    hand(course, _HOST, waiting)
    before = wait_for(lambda: course.post.fates(waiting, host=_HOST), what="a first attempt")
    course.expect(f"to {rung}: the app is stopped: status", {each.status for each in before}, {"deferred"})
    app.start_unit("app", 443)

    with _coming(course) as meanwhile:
        course.controller.converge((_HOST,), "--skip-tags", "mx", variables={"gatepost_rung": rung})
    second = course.controller.converge((_HOST,), "--skip-tags", "mx", variables={"gatepost_rung": rung})
    course.expect(f"{rung}: second run: changed", second.recaps[_HOST].changed, 0)
    course.hold(f"to {rung}: messages sent meanwhile", len(meanwhile) > 3, f"actual {len(meanwhile)}")
    found = course.post.wait_arrivals(meanwhile)
    course.expect(f"to {rung}: messages sent meanwhile, at the app", len(found), len(meanwhile))
    course.expect(f"to {rung}: messages sent meanwhile, copies of each", set(found.values()), {1})

    guest.run("postqueue", "-f")
    course.expect(
        f"to {rung}: the message that waited: copies at the app",
        dict(course.post.wait_arrivals([waiting])),
        {waiting.message_id: 1},
    )
    after = [each for each in course.post.wait_fates(waiting, host=_HOST) if each.status == "sent"]
    course.expect(f"to {rung}: the message that waited: handed over by", [each.relay for each in after], [_RELAY[rung]])
    ids = {each["id"] for each in course.post.decisions(_HOST, _queue_id(course, waiting)) if "id" in each}
    course.hold(f"to {rung}: the message that waited: one delivery id", len(ids) == 1, f"actual {ids}")
    course.expect(f"to {rung}: messages in the queue", course.post.queue(_HOST), 0)


def _queue_id(course: Course, mail: Mail) -> str:
    """The one that the mail has on the host."""
    line = next(line for line in course.post.log(_HOST) if f"message-id={mail.message_id}" in line)
    return line.partition(": message-id=")[0].rpartition(" ")[2]


@contextmanager
def _coming(course: Course) -> Iterator[list[Mail]]:
    """Meanwhile somebody sends, two messages a second, by a real Postfix that tries again."""
    mails: list[Mail] = []
    over = threading.Event()

    def send() -> None:
        while not over.wait(_PACE):
            mails.append(new_mail(course.post.address("meanwhile")))
            course.post.send(mails[-1])

    sending = threading.Thread(target=send, daemon=True)
    with straight_to(course, _HOST):
        sending.start()
        try:
            yield mails
        finally:
            over.set()
            sending.join(60)
        wait_for(lambda: course.post.worked_off("sender"), every=1, what="sender's queue to be empty")


@contextmanager
def straight_to(course: Course, host: str, **settings: str) -> Iterator[None]:
    """sender's Postfix brings our domain's mail to this host, wherever the MX leads; with these settings of main.cf besides."""
    sender, address = course.world.guest("sender"), course.world.guest(host).address.ipv4
    wanted = {"transport_maps": f"inline:{{ {{ {HOST_DOMAIN} = smtp:[{address}] }} }}", **settings}
    before = sender.run("cat", "/etc/postfix/main.cf")
    sender.run("postconf", "-e", *(f"{key}={value}" for key, value in wanted.items()))
    sender.run("postfix", "reload")
    try:
        yield
    finally:
        sender.run("sh", "-c", "cat >/etc/postfix/main.cf && postfix reload", stdin=before)


# --- on a rung ------------------------------------------------------------------------------------------------------------


def _on_rung(course: Course, rung: str) -> None:
    guest = course.world.guest(_HOST)
    units(course, guest)
    _looked_at(course, guest, rung)
    if rung != "pipe":
        guest.reboot()
        _looked_at(course, guest, rung, ", after a reboot")


def _looked_at(course: Course, guest: Guest, rung: str, when: str = "") -> None:
    """The server, who reaches it, the doctor's word, a message."""
    runs = rung != "pipe"
    for unit in ("gatepost-serve.service", "gatepost-serve.socket"):
        course.expect(
            f"{rung}{when}: {unit}", guest.try_run("systemctl", "is-active", unit).strip(), "active" if runs else "inactive"
        )
        course.expect(f"{rung}{when}: {unit} at boot", guest.succeeds("systemctl", "is-enabled", unit), runs)
    processes = guest.try_run("pgrep", "--full", "--count", "/gatepost serve ").strip()
    course.hold(f"{rung}{when}: the server's processes", (processes != "0") == runs, f"actual {processes}")
    course.expect(f"{rung}{when}: its socket is there", guest.succeeds("test", "-e", _SOCKET), runs)
    if runs:
        _reached(course, guest, f"{rung}{when}")
    found = doctor(course, _HOST)
    course.expect(
        f"{rung}{when}: doctor: FAILs", {name: said for name, (status, said) in found.items() if status == "FAIL"}, {}
    )
    status, evidence = found.get("postfix-rung", ("", ""))
    course.expect(f"{rung}{when}: doctor: postfix-rung", (status, evidence.partition(":")[0]), ("ok", f"rung {rung}"))
    course.expect(f"{rung}{when}: doctor: lmtp-socket", found.get("lmtp-socket", ("", ""))[0], "ok" if runs else "not used")
    mail = new_mail(course.post.address("on-it"))
    course.expect(f"{rung}{when}: a message taken", hand(course, _HOST, mail), 1)
    course.expect(f"{rung}{when}: its copies at the app", dict(course.post.wait_arrivals([mail])), {mail.message_id: 1})
    fate = course.post.wait_fates(mail, host=_HOST)[0]
    course.expect(f"{rung}{when}: the service that had it, its status", (fate.relay, fate.status), (_RELAY[rung], "sent"))


def _reached(course: Course, guest: Guest, when: str) -> None:
    """From Postfix's chroot, by Postfix's user and nobody else."""
    greeting = guest.run("python3", "-c", _FROM_CHROOT, "postfix").strip()
    course.hold(f"{when}: the socket from Postfix's chroot", greeting.endswith(" LMTP gatepost"), f"actual {greeting!r}")
    course.expect(
        f"{when}: the socket for nobody", guest.run("python3", "-c", _FROM_CHROOT, "nobody").strip(), "Permission denied"
    )


def doctor(course: Course, host: str, *arguments: str) -> dict[str, tuple[str, str]]:
    """What `gatepost doctor` says there: status and evidence by name."""
    text = course.world.guest(host).try_run("/opt/gatepost/current/bin/gatepost", "doctor", "--json", *arguments, timeout=180)
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {each["name"]: (each["status"], each["evidence"]) for each in found}
