"""Bounces and delivery reports: mail about mail.

Promises: each detector names its source and its strength. A report or a mailer-daemon is a bounce whatever else it says of
itself; the null reverse-path alone is weaker evidence of *what* it is (vacation replies use it too, RFC 3834 3.3) and
decides after the automatic family. The body is looked at only where sender, subject or reverse-path already look like a
bounce's, and there within bounds (`opening`, docs/decisions/0006-bounces.md).
Never: takes a person who quotes, forwards, resends or attaches a bounce for one.
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.mail.recipient import recipient
from gatepost.screening.subjects import BOUNCE, MAYBE_BOUNCE, folded, is_bounce

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from gatepost.decision import Envelope
    from gatepost.mail.message import Message

    Detector = Callable[[Envelope, Message], Iterator[Finding]]

__all__ = ["DETECTORS", "NULL_SENDER", "TOGETHER", "WEAK_DETECTORS", "find"]

NULL_SENDER = "null-sender"

#: Local parts, without their punctuation, that only mail systems report from (RFC 5321 4.5.5 and custom).
_DAEMONS: Final = ("mailerdaemon", "maildaemon")
#: Local parts that mail systems report from, and that a person may have (RFC 2142 5: postmaster is a person's duty).
_POSTMASTERS: Final = (
    "postmaster", "mdaemon", "maildelivery", "maildeliverysystem", "maildeliverysubsystem", "maildeliveryservice",
    "doublebounce", "mailsystem", "postoffice", "mailmarshal", "interscan", "mailadmin", "mailmaster", "systemadministrator",
    "mailrouter",
)  # fmt: skip
#: Where large providers send complaints from, without a report's type (Outlook.com's JMRP, AOL's feedback loop).
_COMPLAINTS: Final = ("staff@hotmail.com", "scomp@aol.net")
#: Local parts that make a message worth a look inside, and nothing more.
_SUSPECTS: Final = (
    "admin", "administrator", "sysadmin", "root", "daemon", "mail", "mailserver", "mailgateway", "mailgate", "smtp",
    "exchange", "system", "bounce", "bounces", "mta", "mailer", "robot", "router", "uucp", "gwia", "noreply", "donotreply",
    "autoreply", "autoresponder",
)  # fmt: skip
#: How display names of mail systems begin.
_SYSTEM_NAMES: Final = (
    "mail delivery", "mail deliver", "maildelivery", "mailer-daemon", "mailer daemon", "postmaster", "electronic postmaster",
    "mail administrator", "system administrator", "systemadministrator", "internet mail delivery", "mail system",
    "mail router", "mail server", "microsoft exchange", "microsoft outlook", "delivery subsystem", "delivery system",
    "interscan", "mailmarshal", "mail daemon", "administrateur système", "administrador del sistema",
    "administrador do sistema", "amministratore di sistema", "systeembeheerder", "systemadministratör", "systemadministratør",
    "системный администратор", "システム管理者", "系统管理员", "系統管理員",
)  # fmt: skip
#: How an answer or a forwarded message begins, in the languages of the mail programs: a person's doing.
_ANSWERS: Final = (
    "re", "fw", "fwd", "aw", "wg", "sv", "vs", "vb", "tr", "rif", "r", "i", "res", "enc", "rv", "odp", "pd", "ynt", "ilt",
    "antw", "doorst", "atb", "antwort", "weitergeleitet", "ref", "vl", "vá", "továbbítás", "απ", "πρθ", "отв", "ha", "回复",
    "回覆", "答复", "转发", "轉寄", "返信", "転送", "회신", "전달",
)  # fmt: skip


_REPORT_TYPES: Final = (
    "message/delivery-status", "message/disposition-notification", "message/feedback-report",
    "message/global-delivery-status", "message/global-disposition-notification",
)  # fmt: skip
_MIXED: Final = ("multipart/mixed", "multipart/alternative", "multipart/related")

# Detectors, each with its strength and its source.


def _report(_envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Alone. RFC 6522 3: the top-level type of every standard report, whatever its report-type (RFC 3464, 8098, 5965, 8460).

    Some programs send a report's own part without the whole, or keep the parameter under multipart/mixed.
    """
    content = message.content_type
    report = content.parameter("report-type")
    if content.type == "multipart/report":
        yield _finding("multipart-report", f"Content-Type: multipart/report; report-type={(report or 'not given')[:60]}")
    elif content.type in _REPORT_TYPES or (report is not None and content.type in _MIXED):
        yield _finding("report-type", f"Content-Type: {content.type[:60]}; report-type={(report or 'not given')[:60]}")


def _mailer_daemon(envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Alone. The mailbox that MTAs report from (RFC 5321 4.5.5; the name is sendmail's), in MAIL FROM or From."""
    if _plain(recipient(envelope.sender).local) in _DAEMONS:
        yield _finding("mailer-daemon", "MAIL FROM is mailer-daemon@")
    for mailbox in message.from_.list:
        if _plain(recipient(mailbox.address).local) in _DAEMONS:
            yield _finding("mailer-daemon", "From is mailer-daemon@")
            return
    field = message.headers.first("from")  # `From: MAILER-DAEMON <>` has a name and no address (dma(8))
    if field is not None and not message.from_.list and field.value.lower().lstrip(b' "<').startswith(b"mailer-daemon"):
        yield _finding("mailer-daemon", "From is mailer-daemon")


def _exchange_system(_envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Alone. Exchange reports from a system mailbox: MicrosoftExchange and 32 hex digits (Microsoft on NDRs)."""
    for mailbox in message.from_.list[:1]:
        local = recipient(mailbox.address).local.lower()
        if local.startswith("microsoftexchange") and len(local) == 49 and local[17:].isalnum():
            yield _finding("exchange-system-sender", "From is MicrosoftExchange...@")


#: Fields that only a report has. X-Failed-Recipients: Exim's and Gmail's. X-MS-Exchange-Message-Is-Ndr, X-DSNContext and
#: X-MS-Embedded-Report: Exchange's. X-ARF, X-XARF: abuse reports before RFC 5965 and beside it.
_REPORT_FIELDS: Final[dict[str, str]] = {
    "x-failed-recipients": "X-Failed-Recipients", "x-ms-exchange-message-is-ndr": "X-MS-Exchange-Message-Is-Ndr",
    "x-dsncontext": "X-DSNContext", "x-ms-embedded-report": "X-MS-Embedded-Report", "x-arf": "X-ARF", "x-xarf": "X-XARF",
}  # fmt: skip


def _report_fields(_envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Alone, but for a message that a person has sent again (RFC 5322 3.6.6): there they tell of an earlier journey."""
    if message.headers.first("resent-from") is not None:
        return
    for field in message.headers.fields:
        if field.name in _REPORT_FIELDS:
            yield _finding(field.name, f"{_REPORT_FIELDS[field.name]}: {field.value[:80].decode('latin-1')}")


def _null_sender(envelope: Envelope, _message: Message) -> Iterator[Finding]:
    """Alone, by a rule of its own. RFC 5321 4.5.5: notifications, and nothing a person sends."""
    if envelope.sender in ("", "<>"):
        yield _finding(NULL_SENDER, "MAIL FROM:<>")


def _null_return_path(_envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Second. Return-Path: <> (RFC 5321 4.4) or a mailbox file's `From MAILER-DAEMON` (RFC 4155): an earlier envelope."""
    if message.headers.first("resent-from") is not None:
        return
    field = message.headers.first("return-path")
    path = b"" if field is None else field.value.replace(b" ", b"").lower()
    if path == b"<>" or path.startswith((b"<mailer-daemon", b"mailer-daemon")):
        yield _weak("null-return-path", f"Return-Path: {path[:80].decode('latin-1')}")
    elif message.raw[:19].lower() == b"from mailer-daemon ":
        yield _weak("null-return-path", "From MAILER-DAEMON on the line before the head")


def _postmaster(_envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Second. postmaster@ and its like, or a display name such as Mail Delivery System. People answer from postmaster@, too."""
    for mailbox in message.from_.list[:1]:
        if _plain(recipient(mailbox.address).local) in _POSTMASTERS or mailbox.address.lower() in _COMPLAINTS:
            yield _weak("postmaster-sender", f"From is {mailbox.address[:60]}")
        elif mailbox.name.lower().startswith(_SYSTEM_NAMES):
            yield _weak("postmaster-sender", f"From calls itself {mailbox.name[:60]!r}")


def _subject(_envelope: Envelope, message: Message) -> Iterator[Finding]:
    """Second. A subject that mail programs print (`subjects.BOUNCE`). People copy it when they ask about a bounce."""
    if is_bounce(message.subject):
        yield _weak("bounce-subject", f"Subject: {message.subject[:60]}")


#: In the order in which they are asked; the first finding is the one a log line names.
DETECTORS: Final[tuple[Detector, ...]] = (_report, _mailer_daemon, _exchange_system, _report_fields, _null_sender)
#: Asked only where none of those found anything.
WEAK_DETECTORS: Final[tuple[Detector, ...]] = (_null_return_path, _postmaster, _subject)

#: Which weak findings decide when they meet: two looks at different things. bounce-subject with noreply-sender is what services
#: send that report from there.
TOGETHER: Final = (
    ("postmaster-sender", "bounce-subject"),
    ("postmaster-sender", "null-return-path"),
    ("bounce-subject", "null-return-path"),
    ("bounce-subject", "noreply-sender"),
)


def find(envelope: Envelope, message: Message) -> tuple[Finding, ...]:
    """Every sign that this message is a delivery report, each slug once."""
    found = _asked(DETECTORS, envelope, message)
    if not found:
        found = _asked(WEAK_DETECTORS, envelope, message)
        found.update((finding.slug, finding) for finding in _look_inside(message, found))
    return tuple(found.values())


def _asked(detectors: tuple[Detector, ...], envelope: Envelope, message: Message) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for detector in detectors:
        for finding in detector(envelope, message):
            found.setdefault(finding.slug, finding)
    return found


def _look_inside(message: Message, found: dict[str, Finding]) -> Iterator[Finding]:
    """What the text says, where something outside makes it worth a look. An answer or a forwarded message is a person's."""
    subject = folded(message.subject)
    before_colon, colon, _ = subject.partition(":")
    if colon and before_colon.rstrip("0123456789[]() ") in _ANSWERS and "null-return-path" not in found:
        return
    sender = "postmaster-sender" in found or "null-return-path" in found or _is_suspect(message)
    if sender or subject.startswith((*BOUNCE, *MAYBE_BOUNCE)):
        from gatepost.screening import bounce_text  # few messages come here

        yield from bounce_text.find(message, sender=sender, subject="bounce-subject" in found)


def _is_suspect(message: Message) -> bool:
    """May the sender be a program's address? No sender at all counts as one."""
    first = message.from_.list[:1]
    return not first or _plain(recipient(first[0].address).local) in _SUSPECTS


def _plain(local: str) -> str:
    """A local part without case and punctuation: MAILER-DAEMON, mailer_daemon and Mailer.Daemon are one."""
    return local.lower().replace("-", "").replace("_", "").replace(".", "").replace(" ", "")


def _finding(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="bounces", evidence=evidence)


def _weak(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="bounces", evidence=evidence, strength="second")
