"""mx1 goes away in four ways; mail goes to mx2, or waits with its sender; nothing is lost, nothing bounced, nothing twice.

Promises: every message of every phase is looked for at the app at the end; after a reboot nobody touches the host.
Never: repairs what should come back by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.lab.machine import wait_for
from tests.lab.post import new_mail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.course import Course
    from tests.lab.post import Mail

__all__ = ["outage", "rebooted", "rules"]

#: Messages in each phase.
_MESSAGES: Final = 10
#: A table of the lab's own, before the role's: port 25 is shut as a provider or a mistake would shut it.
_SHUT: Final = "table inet shut { chain input { type filter hook input priority -10; tcp dport 25 drop; }; }"


def outage(course: Course) -> None:
    """Closed, stopped, both off, rebooted."""
    mx1, mx2 = course.world.guest("mx1"), course.world.guest("mx2")
    sent: list[Mail] = []

    mx1.run("nft", _SHUT)
    sent += _phase(course, "mx1's port 25 closed", {"mx2"})
    mx1.run("nft", "delete", "table", "inet", "shut")

    mx1.stop_unit("postfix", 25)
    sent += _phase(course, "mx1's Postfix stopped", {"mx2"})

    mx2.stop_unit("postfix", 25)
    waiting = _mails(course)
    course.post.send(*waiting)
    for mail in waiting:
        wait_for(lambda mail=mail: course.post.fates(mail), what="a first attempt")  # type: ignore[misc]
    course.expect("both stopped: statuses", {each.status for mail in waiting for each in course.post.fates(mail)}, {"deferred"})
    course.expect("both stopped: messages in sender's queue", course.post.queue(), _MESSAGES)
    mx1.start_unit("postfix", 25)
    mx2.start_unit("postfix", 25)
    course.post.flush()
    course.expect("both back: copies at the app", sorted(course.post.wait_arrivals(waiting).values()), [1] * _MESSAGES)
    sent += waiting

    rebooted(course, "mx1")
    sent += _phase(course, "mx1 rebooted", {"mx1"})

    _counts(course, sent)


def rebooted(course: Course, host: str) -> None:
    """Nobody touches the host, and it is as it was."""
    guest, before = course.world.guest(host), rules(course, host)
    guest.reboot()
    course.hold(f"{host}: the packet filter has rules", any("dport 25" in line for line in before), f"actual {before}")
    course.expect(f"{host}: after the reboot: systemd", guest.try_run("systemctl", "is-system-running").strip(), "running")
    course.expect(f"{host}: after the reboot: packet filter", rules(course, host), before)


def _mails(course: Course) -> list[Mail]:
    return [new_mail(course.post.address(f"case-{number}")) for number in range(_MESSAGES)]


def _phase(course: Course, what: str, hosts: set[str]) -> list[Mail]:
    """Ten messages, and the host that took them."""
    mails = _mails(course)
    course.post.send(*mails)
    fates = [course.post.wait_fates(mail)[0] for mail in mails]
    course.expect(f"{what}: statuses", {fate.status for fate in fates}, {"sent"})
    course.expect(f"{what}: hosts that took them", {fate.host for fate in fates}, hosts)
    course.expect(f"{what}: copies at the app", sorted(course.post.wait_arrivals(mails).values()), [1] * _MESSAGES)
    return mails


def _counts(course: Course, sent: Sequence[Mail]) -> None:
    """To the message: each once, none bounced, none waits anywhere."""
    found = course.post.arrivals(sent)
    course.expect("all phases: messages at the app", len(found), len(sent))
    course.expect("all phases: copies", set(found.values()), {1})
    course.expect(
        "all phases: bounced", [each for mail in sent for each in course.post.fates(mail) if each.status == "bounced"], []
    )
    for host in ("sender", "mx1", "mx2"):
        course.expect(f"{host}: messages in the queue", course.post.queue(host), 0)


def rules(course: Course, host: str) -> list[str]:
    """What the host's packet filter lets in, without its counters and what it remembers; empty where it has no such table."""
    text = course.world.guest(host).try_run("nft", "-s", "list", "chain", "inet", "gatepost", "input")
    return [line.strip() for line in text.splitlines()]
