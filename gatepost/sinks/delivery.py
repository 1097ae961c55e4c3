"""What a sink is given, and what it answers.

Promises: a `Delivery` holds everything a sink may tell the app; an `Outcome` has one of five kinds, and text that is safe on
one line of a log or a reply.
Never: anything in a `Delivery` that changes between two attempts, but for `attempt`: each retry carries the same bytes.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

    from gatepost.decision import Decision, Envelope
    from gatepost.mail.authentication_results import AuthenticationResults
    from gatepost.mail.message import Message

    OutcomeKind = Literal["delivered", "refused", "cannot-take", "misconfigured", "unavailable"]
    Verified = Literal["yes", "no", "unknown"]

__all__ = ["Delivery", "Outcome", "one_line"]

#: Characters of an app's refusal that travel on: with the status code it fits an SMTP reply line (RFC 5321 4.5.3.1.5: 512).
TEXT_LIMIT: Final = 200
#: Characters of an outcome's detail: a log line stays readable.
DETAIL_LIMIT: Final = 400


class Delivery(Value):
    """One accepted message for one recipient, on its way to a sink.

    `id`: 64 hex digits, the same on every retry. `received_at`: Unix seconds when it was first seen. `attempt`: 1 on the
    first. `own_hosts`: ours, by which it came (lower case). `sender_verified_by`: who vouches for the From address.
    `authentication`: what our own milter found, None where it did not see the message.
    """

    id: str
    received_at: int
    attempt: int = 1
    route: str
    envelope: Envelope
    decision: Decision
    message: Message
    own_hosts: tuple[str, ...] = ()
    sender_verified: Verified = "unknown"
    sender_verified_by: str = ""
    authentication: AuthenticationResults | None = None

    @property
    def sha256(self) -> str:
        """Hex, of the message without what our own hosts put in front. Made when asked for: a Maildir has no place for it."""
        return self.message.sha256(self.own_hosts)


class Outcome(Value):
    """What a sink made of a message. `detail`: for the log. `text`: an app's refusal, which a sender may see.

    delivered: the sink has it. refused: the app said no for good. cannot-take: this message is the app's problem.
    misconfigured: the set-up is wrong and a person must mend it. unavailable: try again later. `gone`: why another message
    would fare no better now, "" where this one may be the reason; never a word of the app's or a sender's.
    """

    kind: OutcomeKind
    detail: str = ""
    text: str = ""
    gone: str = ""


def one_line(text: str, limit: int) -> str:
    """The text with each run of white space and unprintable characters as one space, cut to `limit` characters."""
    shown = "".join(char if char.isprintable() else " " for char in text[: limit * 4])
    return " ".join(shown.split())[:limit].rstrip()
