"""The same on Debian 13: another Postfix, another Python, another systemd.

Promises: the figures are those of Debian 12.
Never: takes a package of Debian 12's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab.post import new_mail
from tests.lab.scenario_door import hand, ports, relay, smuggling
from tests.lab.scenario_fresh import check_first, converge, secrets_kept, settled, units

if TYPE_CHECKING:
    from tests.lab.course import Course

__all__ = ["debian13"]

_HOST = "mx13"


def debian13(course: Course) -> None:
    """From bare to mail delivered. No MX leads to this host: mail is handed to it."""
    guest = course.world.guest(_HOST)
    release = guest.run("sh", "-c", ". /etc/os-release && echo $VERSION_ID $VERSION_CODENAME").strip()
    course.expect("the system", release, "13 trixie")
    check_first(course, _HOST, records=False)
    output = converge(course, _HOST, records=False)
    settled(course, _HOST, records=False)
    units(course, guest)
    secrets_kept(course, guest, output)
    ports(course, (_HOST,))
    relay(course, _HOST)
    smuggling(course, _HOST)
    good = [new_mail(course.post.address(f"case-{number}")) for number in range(5)]
    course.expect("messages taken", hand(course, _HOST, *good), 5)
    course.expect("copies at the app", sorted(course.post.wait_arrivals(good).values()), [1] * 5)
    course.note(f"{guest.run('postconf', '-h', 'mail_version').strip()} of Postfix, {guest.run('python3', '-V').strip()}")
