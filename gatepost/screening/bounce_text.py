"""What the bounces of many mail programs say in their text: asked only of a message that looks like one from outside.

Promises: bounded by `opening`; a text counts where it *begins* as only a program's does; from a suspect sender, as a program's
may; where sender and subject both look like a bounce's, wherever on the first screen it stands. Quoted and forwarded text is
not looked at.
Never: looks into a message that nothing makes suspect: a person may paste any of these into a letter.

Sources: what the programs themselves print. Each line of the tables names which.
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.screening.opening import opening

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from gatepost.mail.message import Message

__all__ = ["BEGINNINGS", "LIKELY", "PHRASES", "find"]

#: Parts that only a report has (RFC 3464, RFC 8098, RFC 5965, RFC 6533; RFC 6522 for the whole).
REPORT_PARTS: Final = (
    "message/delivery-status", "message/disposition-notification", "message/feedback-report",
    "message/global-delivery-status", "message/global-disposition-notification", "text/rfc822-headers",
    "message/rfc822-headers", "multipart/report", "message/tracking-status", "message/x-delivery-status",
)  # fmt: skip

#: How a program begins, and nobody else does. One suspicion is enough with these, the subject's included.
BEGINNINGS: Final = (
    # qmail and what was made of it, James, OpenSMTPD, DragonFly, MessageLabs, Postfix without MIME
    "hi. this is the qmail", "hi. this is the mail", "hi. this is the james", "hi. this is the mta",
    "hi. this is the deliver", "hi! this is the mail", "hi! this is the qmail", "hi! this is the ezmlm",
    "hi, this is the mail", "hello. this is the mail", "hello, this is the mail", "this is the mailer-daemon",
    "this is the machine generated message from mail", "this is the mail delivery agent", "this is the mail delivery system",
    "this is the dragonfly mail agent", "this is the mail server at", "this is the mail system at",
    "this is the postfix program at", "this is the email server at", "message from yahoo",
    "sorry. your message could not be delivered to", "we're sorry. there's a problem with the e-mail",
    "i'm afraid i wasn't able to deliver", "i'm sorry to have to inform you that your message could not",
    "i'm sorry to have to inform you that the message returned",
    # Exim, smail, GMX, 1&1
    "this message was created automatically by mail", "this message was created automatically by the mail",
    "this message has been created automatically by mail", "this e-mail was created automatically by mail",
    "a message that you sent could not", "a message that you sent has not", "a message that you sent was undeliver",
    "a message that you sent to ", "a message (from <", "this is an automatically generated delivery", "message log follows",
    "failed addresses follow", "no valid recipient addresses were found",
    # sendmail, and what copied its first line
    "the original message was received at", "the following addresses had", "transcript of session follows",
    "this is a mime-encapsulated message the original message was received",
    # Exchange, GroupWise, Mercury, SMTP gateways
    "your message did not reach some or all of", "the message that you sent was undeliver",
    "your mail message to the following address", "the following recipient(s) could not be reached",
    "each of the following recipients was rejected", "delivery has failed to these recipient",
    "delivery to the following recipient", "delivery of the following message to", "delivery is delayed to these recipient",
    "this is an informative message sent by", "this report relates to a message you sent", "mailenable: message delivery",
    "unable to deliver message to the following", "could not deliver message to the following",
    "one or more addresses in your message have failed", "invalid final delivery userid", "user mailbox exceeds allowed size",
    "an error was detected while processing a file", "error: no valid recipients for this mm",
    "your message could not be sent. a transcript", "reporting-mta:", "final-recipient:",
    "technical details of permanent failure",
    # other languages
    "diese nachricht wurde automatisch von", "diese e-mail wurde automatisch von", "ihre nachricht hat einige oder alle",
    "fehler bei der nachrichtenzustellung", "ce message a été créé automatiquement", "échec de la remise aux destinataires",
    "este mensaje ha sido creado autom", "este mensaje fue creado autom", "esta mensagem foi criada autom",
    "questo messaggio è stato creato autom", "это письмо создано автоматически", "это сообщение создано автоматически",
    "次のあて先へのメッセージ", "次の宛先へのメッセージ", "以下のメールアドレスへの",
)  # fmt: skip

#: How programs begin, and a person may. Asked where the sender is suspect.
LIKELY: Final = (
    "this message was created automatically", "this message was automatically generated",
    "this message is automatically generated", "sorry, we were unable to deliver your", "sorry, i wasn't able to",
    "sorry, i couldn't find", "we were unable to deliver", "we are unable to deliver", "your message, sent with",
    "this is a warning message only", "this is a mime-encapsulated", "a message that you sent",
    "your message to the following", "your message could not be", "your message was not delivered",
    "your message has not been delivered", "your message wasn't delivered", "your message couldn't be",
    "your message cannot be", "your message has encountered delivery", "your mail could not be", "your mail sent on",
    "your email could not be", "your e-mail could not be", "your email was not delivered", "your e-mail message could not",
    "your email message could not", "the message you sent", "the message you tried to send", "the e-mail you sent",
    "the email you sent", "the following message", "the following recipient", "the following destination",
    "the following user(s)", "the attached message has failed", "the attached message had", "the attached message could not",
    "the enclosed message could not", "the user(s)", "the e-mail system was unable", "delivery has failed", "delivery failed",
    "delivery failure", "delivery status notification", "delivery report", "this message could not be",
    "this message was undeliverable", "this message is undeliverable", "this mail could not be", "this is a permanent error",
    "this is a delivery status", "message could not be delivered", "message delivery has failed", "message delivery failed",
    "mail could not be delivered", "a problem occurred while delivering", "unknown user", "user unknown", "undeliverable",
    "unable to deliver", "could not deliver", "cannot deliver", "failed to deliver", "failed recipient", "failed addresses",
    "we had trouble delivering", "an error occurred while trying to deliver", "recipient address rejected", "returned mail",
    "remote host said", "we could not deliver", "we couldn't deliver", "address not found", "this user doesn't have a",
    "ihre nachricht konnte nicht", "ihre e-mail konnte nicht", "ihre nachricht an die folgenden", "votre message n'a pas",
    "échec de la remise", "su mensaje no", "no se pudo entregar", "a sua mensagem não pôde", "sua mensagem não pôde",
    "impossibile recapitare", "uw bericht kan niet", "dit bericht is automatisch", "meddelandet kunde inte",
    "beskeden kunne ikke", "письмо не может быть доставлено", "ваше сообщение не", "このメールはシステム",
    "メールを配信できませんでした", "您的邮件无法", "您發送的郵件", "您发送的邮件", "抱歉，您的邮件",
)  # fmt: skip

#: Exchange 5.5 and Domino begin with the message's own fields between `Your message` and one of these.
_NOT_REACHED: Final = (
    "did not reach the following recipient",
    "was not delivered to",
    "could not be delivered",
    "has been delayed",
    "not delivered",
)

#: What stands somewhere on the first screen. Asked where sender and subject both look like a bounce's.
PHRASES: Final = (
    "did not reach", "not delivered", "not be delivered", "not been delivered", "wasn't delivered", "couldn't be delivered",
    "can't be delivered", "permanent fatal errors", "delivery problems", "transcript of session", "session transcript",
    "below this line is a copy", "undeliverable", "undelivered", "unable to deliver", "not able to deliver",
    "failed to deliver", "delivery failed", "delivery failure", "delivery has failed", "permanent failure", "permanent error",
    "fatal error", "user unknown", "unknown user", "unknown recipient", "no such user", "no such recipient", "does not exist",
    "doesn't exist", "host unknown", "unknown host", "host not found", "domain not found", "unrouteable", "unroutable",
    "relaying", "rejected", "refused", "mailbox", "quota", "over limit", "disk full", "not listed in", "not found",
    "invalid recipient", "invalid address", "bad address", "returned message", "original message", "diagnostic",
    "failure reasons", "keep trying", "be retried", "still trying", "delayed", "timed out", "blocked", "virus",
    "action: failed", "action: delayed", "zugestellt", "zustellbar", "konnte nicht", "n'a pas pu", "n'a pu être",
    "no se pudo", "no ha podido", "não pôde", "stato possibile", "kan niet", "kunde inte", "kunne ikke", "nie mogła",
    "nelze doručit", "не может быть", "не доставлено", "配信", "退信", "无法", "無法", "できませんでした",
)  # fmt: skip

#: Words looked at for a reply code.
_WORDS: Final = 400


def find(message: Message, *, sender: bool, subject: bool) -> Iterator[Finding]:
    """The first sign in the body that this is a bounce. `sender`: may it be a program's; `subject`: is it one."""
    seen = opening(message)
    part = next((part for part in seen.parts if part in REPORT_PARTS), "")
    if part:
        yield _finding("report-part", f"a part is {part}")
    elif seen.text.startswith(BEGINNINGS) or _names_its_message(seen.text):
        yield _finding("bounce-text", f"its text begins {seen.text[:60]!r}")
    elif sender and seen.text.startswith(LIKELY):
        yield _finding("bounce-text", f"its sender is suspect, and its text begins {seen.text[:60]!r}")
    elif sender and subject:
        yield from _anywhere(seen.text)


def _names_its_message(text: str) -> bool:
    """`Your message / To: ... / Subject: ... / Sent: ... / did not reach the following recipient(s):`."""
    top = text[:600]
    return top.startswith(("your message to:", "your message subject:", "your message from:", "your message sent:")) and any(
        phrase in top for phrase in _NOT_REACHED
    )


def _anywhere(text: str) -> Iterator[Finding]:
    phrase = next((phrase for phrase in PHRASES if phrase in text), "")
    if phrase:
        yield _finding("bounce-text", f"its text has {phrase!r}")
        return
    code = next((word for word in text.split(None, _WORDS)[:_WORDS] if _is_status(word)), "")
    if code:
        yield _finding("bounce-text", f"its text has the status {code!r}")


def _is_status(word: str) -> bool:
    """An enhanced status code of a failure (RFC 3463 2): `5.1.1`, `(#4.4.2)`."""
    code = word.strip("()[]<>#:;,.-")
    return len(code) <= 9 and code.startswith(("4.", "5.")) and code.count(".") == 2 and code.replace(".", "").isdecimal()


def _finding(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="bounces", evidence=evidence)
