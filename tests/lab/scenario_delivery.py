"""Mail from a stranger's real Postfix to the app: found by MX, decided, handed over.

Promises: each message's fate is read in three places: what sender was told, gatepost's line in the host's mail log, the app's list.
Never: sends one message whose end it does not look for.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final

from tests.lab.machine import wait_for
from tests.lab.places import HOST_DOMAIN
from tests.lab.post import new_mail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.course import Course
    from tests.lab.post import Mail

__all__ = ["addresses", "delivery", "whole_keys"]


@dataclass(frozen=True)
class Row:
    """A message, and for each recipient: what sender is told (status, first part of the text), rule, copies at the app."""

    id: str
    mail: Mail
    ends: tuple[tuple[str, str, str, int], ...]


_TAKEN: Final = ("sent", "250 2.0.0", "accepted", 1)


def _refused(rule: str) -> tuple[str, str, str, int]:
    return ("bounced", "550 5.1.1", rule, 0)


def _rows(course: Course) -> list[Row]:
    post = course.post
    good, revoked = post.address(), post.address("order-8")
    course.world.guest("mx1").run("/opt/gatepost/current/bin/gatepost", "key", "revoke", revoked)
    reply_to, answered = post.thread("ticket-9")
    report = (
        b"--b\nContent-Type: text/plain\n\nYour mail could not be delivered.\n\n--b\nContent-Type: message/delivery-status\n\n"
        b"Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; gone@example.net\nAction: failed\nStatus: 5.1.1\n\n--b--\n"
    )
    lines = b"".join(os.urandom(36).hex().encode() + b"\n" for _ in range(14_000))
    return [
        Row("a reply", new_mail(good), (_TAKEN,)),
        Row("the key in capitals", new_mail(good.upper()), (_TAKEN,)),
        Row("a reply in a thread", new_mail(reply_to, headers=f"References: <x@example.net> {answered}\n"), (_TAKEN,)),
        Row("a megabyte", new_mail(good, body=lines), (_TAKEN,)),
        Row("8-bit words", new_mail(good, kind="text/plain; charset=utf-8", body="Zażółć gęślą jaźń.\n".encode()), (_TAKEN,)),
        Row("an unknown key", new_mail(f"reply+nosuchkey@{HOST_DOMAIN}"), (_refused("key-unknown"),)),
        Row("an expired key", new_mail(post.address(expires=date(2024, 2, 29))), (_refused("key-expired"),)),
        Row("a forged key", new_mail(post.address(secret=os.urandom(32).hex())), (_refused("key-forged"),)),
        Row("a revoked key", new_mail(revoked), (_refused("key-revoked"),)),
        Row("no such address", new_mail(f"info@{HOST_DOMAIN}"), (_refused(""),)),
        Row("no such address as mailer-daemon", new_mail(f"mailer-daemon@{HOST_DOMAIN}"), (_refused(""),)),
        Row("a vacation reply", new_mail(good, sender="", headers="Auto-Submitted: auto-replied (vacation)\n"), (("sent", "250 2.0.0", "automatic", 0),)),
        Row("a bounce of ours", new_mail(good, sender="", author="mailer-daemon@example.net", body=report,
                                        kind='multipart/report; report-type=delivery-status; boundary="b"'), (("sent", "250 2.0.0", "bounce", 0),)),
        Row("two recipients", new_mail(post.address("order-9"), f"reply+nosuch@{HOST_DOMAIN}"), (_TAKEN, _refused("key-unknown"))),
    ]  # fmt: skip


def delivery(course: Course) -> None:
    """All rows at once, as they would come; then where each is."""
    rows, post = _rows(course), course.post
    since = post.now()
    post.send(*(row.mail for row in rows))
    hosts = set()
    for row in rows:
        fates = post.wait_fates(row.mail)
        for fate, (status, text, rule, _) in zip(fates, row.ends, strict=True):
            hosts.add(fate.host)
            told = fate.text if status == "sent" else fate.text.partition(" said: ")[2]
            course.expect(f"{row.id}: sender was told", (fate.status, told[: len(text)]), (status, text))
            if rule and status == "sent":
                wait_for(lambda fate=fate, row=row: _rules(course, fate.queue_id) >= 1, what=f"a decision about {row.id}")  # type: ignore[misc]
                course.expect(
                    f"{row.id}: rule in the mail log", course.post.decisions("mx1", fate.queue_id)[-1].get("rule"), rule
                )
    course.expect("hosts that sender's Postfix chose", hosts, {"mx1"})
    refused = [rule for row in rows for _, text, rule, _ in row.ends if text.startswith("550") and rule]
    early = [
        each["rule"]
        for each in post.decisions("mx1", since=since)
        if each.get("stage") == "rcpt" and each["action"] == "reject"
    ]
    course.expect("rules of refusals at RCPT, in the mail log", sorted(early), sorted(refused))
    wanted = {row.mail.message_id: copies for row in rows if (copies := sum(end[3] for end in row.ends))}
    post.wait_arrivals([row.mail for row in rows if row.mail.message_id in wanted])
    course.expect("copies at the app", dict(post.arrivals([row.mail for row in rows])), wanted)
    large = rows[3].mail
    # pipe(8)'s flag B puts an empty line behind the last one.
    body, sent = (_body(data) for data in (post.kept(large.message_id), large.data + b"\n"))
    course.expect("the megabyte: octets, checksum", (len(body), _sum(body)), (len(sent), _sum(sent)))
    _status_line(course, rows[0].mail)
    whole_keys(course, "mx1", [row.mail for row in rows], since)
    _postmaster(course)


def _rules(course: Course, queue_id: str) -> int:
    return len(course.post.decisions("mx1", queue_id))


def _body(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _status_line(course: Course, mail: Mail) -> None:
    """The decision stands in Postfix's own line on the mail host, too."""
    remote = course.post.fates(mail)[-1].queue_id
    lines = [line for line in course.post.log("mx1") if f"{remote}: to=<" in line]
    course.hold(
        "Postfix's status= line on mx1",
        any("accepted route=replies" in line and "status=sent" in line for line in lines),
        f"actual {lines}",
    )


def whole_keys(course: Course, host: str, mails: Sequence[Mail], since: str) -> None:
    """gatepost's own lines show no key whole (Postfix's show every recipient)."""
    keys = {each.partition("+")[2].partition("@")[0].lower() for mail in mails for each in mail.recipients if "+" in each}
    ours = [
        line.partition("gatepost")[2]
        for line in course.post.log(host, since=since)
        if "gatepost" in line and "postfix/" not in line
    ]
    course.hold(f"{host}: lines of ours", len(ours) >= len(mails) - 2, f"actual {len(ours)} for {len(mails)} messages")
    course.none(
        f"{host}: lines of ours with a whole key",
        [line for line in ours if any(key in line.lower() for key in keys if len(key) > 8)],
    )


def _postmaster(course: Course) -> None:
    """Mail for postmaster and abuse reaches the person, whatever gatepost thinks of it."""
    mails = [new_mail(f"{name}@{HOST_DOMAIN}", subject="The host") for name in ("postmaster", "Abuse")]
    course.post.send(*mails)
    for mail in mails:
        course.expect(f"{mail.recipients[0]}: status", course.post.wait_fates(mail)[0].status, "sent")
        wait_for(lambda mail=mail: course.post.persons(mail), what=f"{mail.recipients[0]} in the person's mailbox")  # type: ignore[misc]
        course.expect(f"{mail.recipients[0]}: copies with the person", course.post.persons(mail), 1)
        course.expect(f"{mail.recipients[0]}: copies at the app", len(course.post.arrivals([mail])), 0)


def addresses(course: Course) -> None:
    """sender prefers one family, then the other; mail arrives by both."""
    sender, post = course.world.guest("sender"), course.post
    for family, address in (("ipv6", course.world.guest("mx1").address.ipv6), ("ipv4", course.world.guest("mx1").address.ipv4)):
        sender.run("postconf", "-e", f"smtp_address_preference={family}")
        sender.run("postfix", "reload")
        mail, since = new_mail(post.address()), post.now()
        post.send(mail)
        fate = post.wait_fates(mail)[0]
        course.expect(f"{family}: status", fate.status, "sent")
        course.hold(f"{family}: the address", f"[{address}]:25" in fate.relay, f"actual {fate.relay}")
        course.expect(f"{family}: copies at the app", len(post.wait_arrivals([mail])), 1)
        line = course.world.guest("mx1").run(
            "journalctl", "-q", "--facility=mail", "-o", "cat", f"--grep={fate.queue_id}: client="
        )
        client = getattr(sender.address, family)
        course.hold(f"{family}: mx1 saw the client", client in line, f"actual {line}")
        tls = [
            line
            for line in post.log("sender", since=since)
            if "TLS connection established" in line and f"[{address}]:25" in line
        ]
        course.hold(f"{family}: encrypted", any("TLSv1.3" in line or "TLSv1.2" in line for line in tls), f"actual {tls}")
    sender.run("postconf", "-e", "smtp_address_preference=any")
    sender.run("postfix", "reload")
