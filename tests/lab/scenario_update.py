"""An update while 20 messages a second come in: a new release, a broken one, a broken variable.

Promises: the load lasts through each of the three; every message of it is looked for at the app, by its own Message-ID; what is in
force is read on the host, and why something was refused in what Ansible says.
Never: counts a message as lost while a queue still has some; takes any failure of a playbook for the one that is meant.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.lab.course import Course, Verdict
from tests.lab.machine import run, wait_for
from tests.lab.net import inside
from tests.lab.post import new_mail
from tests.lab.trees import change, copy_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

__all__ = ["counted", "update"]

#: Messages a second, and at most in all: five minutes of them. A playbook that takes longer is not under load to its end.
_RATE: Final = 20
_MOST: Final = 6000
#: The part of the rate that must be reached: the client catches up, but its last second may be short.
_REACHED: Final = 0.98
_STOP: Final = "/opt/lab/stop"
_HOSTS: Final = ("mx1", "mx2")
#: Strangers' hosts, as addresses of sender's. One source may make 120 connections a minute (postfix_firewall_smtp): one that brought
#: all of the load, each message on a connection of its own, would be held up at the door. These bring one message a second each.
_SOURCES: Final = tuple(f"10.77.0.{number}" for number in range(101, 101 + _RATE))
#: Seconds for what has piled up meanwhile to be worked off: at worst everything, at 5 a second.
_WORKED_OFF: Final = 1200.0
#: Seconds between two looks at the queues, and two requests to try again.
_LOOK: Final = 5.0


def _stranger(number: int) -> str:
    return f"stranger-{number}@example.net"


@contextmanager
def _strangers(course: Course) -> Iterator[None]:
    """sender's Postfix sends each stranger's mail from another address, and takes mail as fast as it comes."""
    sender = course.world.guest("sender")
    net = [*inside(course.world.places.namespace("sender")), "ip", "addr"]
    services = {f"source-{number}": address for number, address in enumerate(_SOURCES)}
    choice = ", ".join(f"{_stranger(number)}={name}:" for number, name in enumerate(services))
    sender.run("cp", "-p", "/etc/postfix/main.cf", "/etc/postfix/master.cf", "/root")
    try:
        for address in _SOURCES:
            run([*net, "add", f"{address}/24", "dev", "eth0"])
        sender.run("postconf", "-Me", *(f"{name}/unix={name} unix - - n - - smtp -o inet_protocols=ipv4 -o smtp_bind_address={address}"
                                        for name, address in services.items()))  # fmt: skip
        sender.run("postconf", "-e", "in_flow_delay=0", f"sender_dependent_default_transport_maps=inline:{{{choice}}}")
        sender.run("postfix", "reload")
        yield
    finally:
        sender.run("cp", "-p", "/root/main.cf", "/root/master.cf", "/etc/postfix")
        sender.run("postfix", "reload")
        for address in _SOURCES:
            run([*net, "del", f"{address}/24", "dev", "eth0"], check=False)


@contextmanager
def _ahead(course: Course) -> Iterator[None]:
    """Ansible and sender go before the hosts' mail, as if each had a machine of its own: all of it here would be minutes a step.

    What they start from here on has it (SCHED_RR); Postfix and gatepost on mx1 and mx2 are started by others.
    """
    change = 'for pid in $(pgrep -x "$0"); do chrt "$1" --pid "$2" "$pid" || :; done'
    starters = {"sender": "master", **dict.fromkeys(_HOSTS, "sshd")}
    try:
        for name, starter in starters.items():
            course.world.guest(name).run("sh", "-c", change, starter, "--rr", "1")
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for name, starter in starters.items():
            course.world.guest(name).run("sh", "-c", change, starter, "--other", "0")


class _Load:
    """Mail at a steady rate, from a thread; ends at a file. `taken`: Unix seconds at sender's Postfix by Message-ID, at the end."""

    def __init__(self, course: Course) -> None:
        self._course, self.mark, self.taken = course, uuid.uuid4().hex[:8], dict[str, float]()
        self._sender = course.world.guest("sender")
        self._job: Future[str]
        self.recipients = [course.post.address(f"load-{number}") for number in range(len(_SOURCES))]

    def _run(self) -> str:
        mails = []
        for number, recipient in enumerate(self.recipients):
            mail = new_mail(recipient, sender=_stranger(number), author=_stranger(number))
            mails.append([mail.sender, recipient, mail.data.decode().replace(mail.message_id, "{message_id}")])
        job = {"rate": _RATE, "most": _MOST, "mark": self.mark, "stop": _STOP, "mails": mails}
        return self._sender.run("python3", "/opt/lab/client.py", "pace", stdin=json.dumps(job), timeout=1800)

    def __enter__(self) -> _Load:
        self._sender.run("rm", "-f", _STOP)
        pool = ThreadPoolExecutor(1)
        self._job = pool.submit(self._run)
        pool.shutdown(wait=False)
        wait_for(
            lambda: self._job.done() or _arrived(self._course, self.mark), timeout=60, what="the first message of the load"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.run("touch", _STOP)
        self.taken = json.loads(self._job.result(60))


def _arrived(course: Course, mark: str) -> Counter[str]:
    """Lines in the app's list by Message-ID, of those with this mark: how often each was handed over."""
    text = course.world.guest("app").try_run("grep", "-sF", mark, "/var/lib/app/received.jsonl", timeout=60)
    return Counter(json.loads(line)["message_id"] for line in text.splitlines())


def counted(course: Course, ids: Collection[str], found: Mapping[str, int]) -> None:
    """To the message: the app has each of these, once, and no other."""
    course.none("messages that the app has not", sorted(set(ids) - set(found)))
    course.none("messages that the app has twice", sorted(each for each, copies in found.items() if copies > 1))
    course.none("messages that nobody has sent", sorted(set(found) - set(ids)))


def update(course: Course) -> None:
    """Under load: a new release comes into use; a broken one and a broken variable do not; then all is counted."""
    new, broken = copy_tree(course.world.places, "new"), copy_tree(course.world.places, "broken")
    change(new, "gatepost/__init__.py", '"""', f'"""Release {uuid.uuid4().hex}. ')
    change(broken, "filter/gatepost_filter/pipe.py", "import posix\n", "import no_such_module\nimport posix\n")
    since, parked = course.post.now(), _parked(course)
    with _strangers(course):
        with _ahead(course), _Load(course) as load:
            before = _in_force(course)
            times = [_play(course, new, 0, "")]
            after = _in_force(course)
            for name in _HOSTS:
                course.hold(
                    f"{name}: a new release is in use",
                    after[name]["release"] != before[name]["release"],
                    f"still {after[name]['release']}",
                )
            times.append(_play(course, broken, 2, "No module named 'no_such_module'"))
            course.expect("after a broken release: what is in force", _in_force(course), after)
            times.append(
                _play(course, new, 2, 'deadline: "soon" is no duration', gatepost_config={"timing": {"deadline": "soon"}})
            )
            course.expect("after a broken variable: what is in force", _in_force(course), after)
        _lasted(course, list(load.taken.values()), times)
        _worked_off(course)
    found = _arrived(course, load.mark)
    counted(course, load.taken, found)
    _proven(course, load.taken, found)
    _ends(course, load, since)
    course.expect("parked", _parked(course), parked)


def _lasted(course: Course, taken: Sequence[float], times: Sequence[tuple[float, float]]) -> None:
    """The rate was kept, and to the end of the last playbook."""
    rate = (len(taken) - 1) / (taken[-1] - taken[0])
    course.hold("messages a second", rate >= _REACHED * _RATE, f"expected at least {_REACHED * _RATE}; actual {rate:.2f}")
    course.hold("the load lasted to the last playbook's end", taken[-1] > times[-1][1] - 1,
                f"its last message was {times[-1][1] - taken[-1]:.0f} s before")  # fmt: skip
    during = [sum(begin <= each <= end for each in taken) for begin, end in times]
    course.note(f"{len(taken)} messages at {rate:.2f} a second; during the new release {during[0]}, the broken one {during[1]}, "
                f"the broken variable {during[2]}")  # fmt: skip


def _worked_off(course: Course) -> None:
    """What waits behind it is tried again at once: Postfix would wait for minutes, strangers for hours."""
    begin = time.monotonic()
    # In the order in which mail goes, or what moves meanwhile would be seen nowhere.
    while [host for host in ("sender", *_HOSTS) if not course.post.worked_off(host)] and time.monotonic() < begin + _WORKED_OFF:
        time.sleep(_LOOK)
    course.note(f"the queues were watched for {time.monotonic() - begin:.0f} s after the last message")
    for host in ("sender", *_HOSTS):
        course.expect(f"{host}: messages in the queue", course.post.queue(host), 0)


def _proven(course: Course, ids: Collection[str], found: Mapping[str, int]) -> None:
    """The count itself: with a message taken out of the app's list, one put in twice and one of nobody's it is wrong three times."""
    first, second, *_ = found
    wrong = {**found, second: 2, "<nobody's@example.net>": 1}
    del wrong[first]
    verdict = Verdict()
    counted(Course(course.world, verdict), ids, wrong)
    course.expect("the count of a list with three mistakes: figures that are wrong", len(verdict.wrong), 3)


def _ends(course: Course, load: _Load, since: str) -> None:
    """What both sides' logs say: as many as were sent left sender, and as many left our hosts; no notice came back."""
    there = course.post.ends("sender", load.recipients, since=since)
    ours = sum((course.post.ends(host, load.recipients, since=since) for host in _HOSTS), Counter[str]())
    for what, ends in (("sender", there), ("mx1 and mx2", ours)):
        course.expect(f"{what}: sent, in the mail log", ends["sent"], len(load.taken))
        course.expect(
            f"{what}: other ends, in the mail log", {name for name in ends if name not in ("sent", "deferred")}, set()
        )
    course.note(f"deferred meanwhile: {there['deferred']} times at sender, {ours['deferred']} times at mx1 and mx2")
    notices = course.world.guest("sender").try_run("grep", "-rlsF", load.mark, "/home/person/Maildir")
    course.none("notices with strangers", notices.splitlines())


def _play(course: Course, tree: Path, status: int, says: str, **variables: Any) -> tuple[float, float]:
    """From when to when, in Unix seconds. `says`: why it fails."""
    course.controller.tree, begin = tree, time.time()
    try:
        played = course.controller.play(_HOSTS, "--skip-tags", "mx", variables=variables)
    finally:
        course.controller.tree = course.checkout
    what = f"the playbook of {tree.name}{' with ' + ', '.join(variables) if variables else ''}"
    course.expect(f"{what}: exit status", played.status, status)
    course.hold(f"{what}: says why", says in played.output, f"no {says!r} in {played.output[-3000:]}")
    return begin, time.time()


def _in_force(course: Course) -> dict[str, dict[str, str]]:
    """Of each host: the release in use, the configuration's checksum, what runs."""
    return {
        name: {
            "release": guest.run("readlink", "-f", "/opt/gatepost/current").strip(),
            "configuration": guest.run(
                "sha256sum", "/etc/gatepost/gatepost.yml", "/etc/postfix/main.cf", "/etc/postfix/master.cf"
            ),
            "milter": guest.try_run("systemctl", "is-active", "gatepost-milter").strip(),
            "postfix": guest.try_run("systemctl", "is-active", "postfix").strip(),
        }
        for name, guest in ((name, course.world.guest(name)) for name in _HOSTS)
    }


def _parked(course: Course) -> list[int]:
    """Parked messages on each host."""
    command = ("/opt/gatepost/current/bin/gatepost", "parked", "list", "--json")
    return [len(course.world.guest(name).run(*command).splitlines()) for name in _HOSTS]
