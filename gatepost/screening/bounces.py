"""Bounces and delivery reports: mail about mail.

Promises: each detector names its source. Two strengths: a report or a mailer-daemon is a bounce whatever else it says of
itself; the null reverse-path alone is weaker evidence of *what* it is (vacation replies use it too, RFC 3834 3.3) and
decides after the automatic family.
Never: reads the body: a person who quotes or attaches a bounce is a person.
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.mail.recipient import recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.decision import Envelope
    from gatepost.mail.message import Message

__all__ = ["NULL_SENDER", "find"]

NULL_SENDER = "null-sender"
_DAEMON = "mailer-daemon"


def find(envelope: Envelope, message: Message) -> tuple[Finding, ...]:
    """Every sign that this message is a delivery report."""
    found = []
    content = message.content_type
    if content.type == "multipart/report":  # RFC 6522: the top-level type of every standard report
        report = next((value for name, value in content.parameters if name == "report-type"), "not given")
        found.append(_finding("multipart-report", f"Content-Type: multipart/report; report-type={report[:60]}"))
    if recipient(envelope.sender).local.lower() == _DAEMON:  # the mailbox that MTAs report from (RFC 5321 4.5.5, custom)
        found.append(_finding(_DAEMON, "MAIL FROM is mailer-daemon@"))
    if any(recipient(mailbox.address).local.lower() == _DAEMON for mailbox in message.from_.list):
        found.append(_finding(_DAEMON, "From is mailer-daemon@"))
    if envelope.sender in ("", "<>"):  # RFC 5321 4.5.5: notifications, and nothing a person sends
        found.append(_finding(NULL_SENDER, "MAIL FROM:<>"))
    return tuple(found)


def _finding(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="bounces", evidence=evidence)
