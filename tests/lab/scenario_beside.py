"""A host whose Postfix serves another domain already: ours is put beside theirs, and taken away again.

Promises: their mail is compared byte by byte before, beside, with our milter killed, and after; main.cf and master.cf are compared whole.
Never: tells the role what stands in their main.cf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.lab.machine import wait_for
from tests.lab.post import new_mail
from tests.lab.scenario_door import hand

if TYPE_CHECKING:
    from tests.lab.course import Course
    from tests.lab.guest import Guest

__all__ = ["beside", "club_mail", "files", "serve"]

_CLUB: Final = "club.example"
#: Their main.cf: comments, odd spacing, a continued line, a transport map, settings that ours also has.
_MAIN: Final = f"""\
# The club's mail. Do not touch without asking Anna.
compatibility_level = 3.6
myhostname=other.{_CLUB}
mydestination = $myhostname, {_CLUB},
    localhost
mynetworks = 127.0.0.0/8 [::1]/128
inet_protocols = all
alias_maps = hash:/etc/aliases
alias_database = hash:/etc/aliases
virtual_alias_maps = hash:/etc/postfix/club-aliases
home_mailbox = Maildir/
message_size_limit = 20480000
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated,
	# the club's own list
	defer_unauth_destination
smtpd_banner = $myhostname ESMTP   the club
recipient_delimiter = +
"""


def beside(course: Course) -> None:
    """Before, beside, milter killed, after."""
    guest = course.world.guest("other")
    serve(guest)
    before = files(guest)
    plain = club_mail(course, "before")
    hosts, told = ("other",), {"postfix_mode": "beside", "mx_mode": "check"}

    course.controller.converge(hosts, "--skip-tags", "mx", variables=told)
    second = course.controller.converge(hosts, "--skip-tags", "mx", variables=told)
    course.expect("second run: changed", second.recaps["other"].changed, 0)
    course.hold("main.cf has changed", files(guest)["main.cf"] != before["main.cf"], "the role has put nothing into it")
    lost = [line for line in before["main.cf"].splitlines() if line.startswith("#") and line not in files(guest)["main.cf"]]
    course.expect("comments of theirs that are gone", lost, [])
    course.expect("their mail, beside ours", club_mail(course, "beside"), plain)
    _our_mail(course, "beside")

    guest.run("systemctl", "kill", "--signal=KILL", "gatepost-milter")
    guest.run("systemctl", "stop", "gatepost-milter")
    course.expect("their mail, our milter killed", club_mail(course, "milter killed"), plain)
    guest.run("systemctl", "start", "gatepost-milter")

    course.controller.converge(hosts, "--skip-tags", "mx", variables={**told, "gatepost_state": "absent"})
    after = files(guest)
    for name in before:
        course.expect(f"{name} after `absent`", after.get(name), before[name])
    course.expect("files in /etc/postfix", sorted(after), sorted(before))
    course.expect("their mail, after", club_mail(course, "after"), plain)
    course.expect(
        "units of ours that run, after", guest.try_run("systemctl", "list-units", "--no-legend", "gatepost*").strip(), ""
    )


def serve(guest: Guest) -> None:
    """The club's Postfix, as Anna has set it up."""
    guest.run("sh", "-c", "echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections && "
                          "DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends postfix", timeout=240)  # fmt: skip
    guest.run("sh", "-c", "useradd -m anna && cat >/etc/postfix/main.cf && echo 'office@club.example anna' >/etc/postfix/club-aliases && "
                          "postmap /etc/postfix/club-aliases && newaliases && systemctl restart postfix", stdin=_MAIN)  # fmt: skip
    wait_for(lambda: guest.try_run("ss", "-Hltn", "sport = :25"), what="the club's Postfix")


def files(guest: Guest) -> dict[str, str]:
    """Every file of /etc/postfix, by name; a table's index is left out where it can be made again."""
    names = guest.run("find", "/etc/postfix", "-type", "f", "-printf", "%P\\n").split()
    return {
        name: guest.run("base64", f"/etc/postfix/{name}") if name.endswith(".db") else guest.run("cat", f"/etc/postfix/{name}")
        for name in names
    }


def club_mail(course: Course, what: str) -> list[tuple[str, ...]]:
    """Two mails to the club, each as it lies in anna's Maildir, without the fields in which every delivery differs."""
    guest, found = course.world.guest("other"), []
    for recipient in ("anna@club.example", "office@club.example"):
        mail = new_mail(
            recipient,
            subject="Summer party",
            headers="Authentication-Results: other.club.example; none\n",
            body=b"Bring salad.\n.\nA.\n",
        )
        course.post.send(mail)
        course.expect(f"{what}: {recipient}", course.post.wait_fates(mail)[0].status, "sent")
        look = f"grep -rlF '{mail.message_id}' /home/anna/Maildir/new 2>/dev/null || :"
        path = wait_for(lambda look=look: guest.run("sh", "-c", look).strip(), what=f"{recipient}'s mail")  # type: ignore[misc]
        found.append(
            tuple(
                line for line in _unfolded(guest.run("cat", path)) if not line.startswith(("Received:", "Date:", "Message-ID:"))
            )
        )
    return found


def _unfolded(text: str) -> list[str]:
    return text.replace("\n\t", "\t").replace("\n ", " ").split("\n")


def _our_mail(course: Course, what: str) -> None:
    """A mail to our domain over this host: it is handed to it directly, for no MX leads here."""
    mail = new_mail(course.post.address("order-5"))
    course.expect(f"{what}: our mail taken", hand(course, "other", mail), 1)
    course.expect(f"{what}: our mail: copies at the app", len(course.post.wait_arrivals([mail])), 1)
