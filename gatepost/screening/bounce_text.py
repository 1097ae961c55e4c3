"""What the bounces of many mail programs say in their text: asked only of a message that looks like one from outside.

Promises: bounded by `opening`; a text counts where it *begins* as a program's does, or, where sender and subject both look like
a bounce's, wherever on the first screen it stands. Quoted and forwarded text is not looked at.
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

__all__ = ["BEGINNINGS", "PHRASES", "find"]

#: Parts that only a report has (RFC 3464, RFC 8098, RFC 5965, RFC 6533; RFC 6522 for the whole).
REPORT_PARTS: Final = (
    "message/delivery-status", "message/disposition-notification", "message/feedback-report",
    "message/global-delivery-status", "message/global-disposition-notification", "text/rfc822-headers",
    "message/rfc822-headers", "multipart/report", "message/tracking-status", "message/x-delivery-status",
)  # fmt: skip

#: How a program begins, and a person does not. One suspicion is enough with these.
BEGINNINGS: Final = (
    # qmail and what was made of it, James, OpenSMTPD, DragonFly, MessageLabs, Postfix without MIME
    "hi. this is the ", "hi! this is the mail", "hi! this is the qmail", "hi! this is the ezmlm", "hi, this is the mail",
    "hello. this is the mail", "hello, this is the mail", "this is the mailer-daemon",
    "this is the machine generated message", "this is the mail delivery ", "this is the dragonfly mail agent",
    "this is the mail server at", "this is the mail system at", "this is the postfix program at",
    "this is the email server at", "this is the email delivery", "message from yahoo",
    "sorry. your message could not be delivered", "sorry, we were unable to deliver your message", "sorry, i wasn't able to",
    "sorry, i couldn't find", "we're sorry. there's a problem with the e-mail", "i'm afraid i wasn't able to deliver",
    "i'm sorry to have to inform you that your message", "i'm sorry to have to inform you that the message",
    "we were unable to deliver your message", "we are unable to deliver the message",
    # Exim, smail, GMX, 1&1
    "this message was created automatically by", "this message has been created automatically by", "a message that you sent ",
    "a message (from <", "a message that you have sent ", "this e-mail was created automatically by",
    "this is an automatically generated delivery", "this message is automatically generated",
    "this message was automatically generated", "message log follows", "failed addresses follow",
    "no valid recipient addresses", "your message, sent with sender address",
    # sendmail, and what copied its first line
    "the original message was received at", "the following addresses had", "transcript of session follows",
    "this is a warning message only", "this is a mime-encapsulated",
    # Exchange, Domino, GroupWise, Netscape, Openwave, other SMTP gateways
    "your message did not reach some or all", "your message could not be delivered", "your message was not delivered",
    "your message has not been delivered", "your message wasn't delivered", "your message couldn't be delivered",
    "your message cannot be delivered", "your message has encountered delivery", "your message to the following recipient",
    "your mail message to the following address", "your mail could not be delivered", "your mail sent on",
    "your email could not be delivered", "your e-mail could not be delivered", "your email was not delivered",
    "your e-mail message could not", "your email message could not", "the message that you sent was undeliver",
    "the message you sent could not be", "the message you sent was", "the message you tried to send",
    "the e-mail you sent could not", "the email you sent could not", "the following message to <",
    "the following message could not be", "the following message was not", "the following recipient(s) could not",
    "the following recipients could not", "the following recipients did not", "the following destination addresses",
    "the following user(s)", "the attached message has failed", "the attached message had", "the attached message could not",
    "the enclosed message could not", "the user(s) account is", "the user(s) ", "the e-mail system was unable to deliver",
    "each of the following recipients was rejected", "delivery has failed to these", "delivery has failed",
    "delivery to the following recipient", "delivery of the following message", "delivery is delayed to", "delivery failed",
    "delivery failure", "delivery status notification", "this message could not be delivered",
    "this message was undeliverable", "this message is undeliverable", "this mail could not be delivered",
    "this is a permanent error", "this is a delivery status notification", "this is an informative message sent by",
    "this report relates to a message you sent", "message could not be delivered", "message delivery has failed",
    "message delivery failed", "mail could not be delivered", "mailenable: message delivery",
    "a problem occurred while delivering",
    # IMail, Mercury, MIMEsweeper, SurfControl, KDDI, Verizon, services
    "unknown user:", "user unknown", "user mailbox exceeds", "invalid final delivery", "undeliverable to ",
    "undeliverable mail", "undeliverable message", "unable to deliver message", "unable to deliver mail",
    "unable to deliver your", "unable to deliver to", "could not deliver message", "could not deliver mail",
    "could not deliver your", "could not deliver to", "cannot deliver message", "failed to deliver to",
    "failed to deliver message", "failed recipient", "failed addresses", "we had trouble delivering your message",
    "an error occurred while trying to deliver", "an error was detected while processing a file",
    "your message could not be sent", "one or more addresses in your message have failed",
    "error: no valid recipients for this mm", "recipient address rejected", "returned mail:", "reporting-mta:",
    "final-recipient:", "technical details of permanent failure", "remote host said", "we could not deliver your message",
    "we couldn't deliver your message", "address not found", "this user doesn't have a",
    # other languages (Exchange, Exim, GMX, mail.ru, Sina, NTT)
    "diese nachricht wurde automatisch", "diese e-mail wurde automatisch", "ihre nachricht konnte nicht",
    "ihre e-mail konnte nicht", "ihre nachricht an die folgenden empfänger", "fehler bei der nachrichtenzustellung",
    "ce message a été créé automatiquement", "votre message n'a pas pu être", "votre message n'a pas été remis",
    "échec de la remise", "este mensaje ha sido creado autom", "su mensaje no se pudo entregar", "su mensaje no pudo",
    "no se pudo entregar el mensaje", "esta mensagem foi criada autom", "a sua mensagem não pôde", "sua mensagem não pôde",
    "questo messaggio è stato creato autom", "impossibile recapitare il messaggio", "uw bericht kan niet",
    "dit bericht is automatisch", "meddelandet kunde inte levereras", "beskeden kunne ikke leveres",
    "это письмо создано автоматически", "это сообщение создано автоматически", "письмо не может быть доставлено",
    "ваше сообщение не доставлено", "ваше сообщение не может быть", "不正なメール", "以下のメールアドレスへの",
    "次のあて先へのメッセージ", "次の宛先へのメッセージ", "このメールはシステム", "メールを配信できませんでした",
    "您的邮件无法", "您發送的郵件", "您发送的邮件", "抱歉，您的邮件",
)  # fmt: skip

#: Exchange 5.5 and Domino begin with the message's own fields between `Your message` and one of these.
_NOT_REACHED: Final = (
    "did not reach the following recipient", "was not delivered to", "could not be delivered", "has been delayed",
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


def find(message: Message, *, both: bool) -> Iterator[Finding]:
    """The first sign in the body that this is a bounce. `both`: sender and subject look like one's, not only one of them."""
    seen = opening(message)
    part = next((part for part in seen.parts if part in REPORT_PARTS), "")
    if part:
        yield _finding("report-part", f"a part is {part}")
    elif seen.text.startswith(BEGINNINGS) or _names_its_message(seen.text):
        yield _finding("bounce-text", f"its text begins {seen.text[:60]!r}")
    elif both:
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
