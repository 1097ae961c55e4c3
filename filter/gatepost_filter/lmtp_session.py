"""What a client says between two messages (RFC 2033), and what it is told: no socket, no clock, no message.

Promises: whatever is wrong with a message's command (its syntax, its place, a queue ID that is missing) is answered 4xx, and
Postfix keeps the message: only a rule refuses. What XFORWARD said is forgotten with the message it was about.
Never: reads ORCPT or a header; offers BDAT; believes a size.

The thin pipe script says the whole envelope in one private command, XGATEPOST, and needs no LHLO.
"""

from __future__ import annotations

import os
import re

from gatepost.decision import Envelope
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

__all__ = ["GREETING", "MOST_RECIPIENTS", "Session", "Step"]

#: RFC 5321 4.5.3.1.8 wants 100 at least; Postfix brings what the transport's destination_recipient_limit says.
MOST_RECIPIENTS: Final = 1_000
#: XFORWARD's attributes (Postfix, XFORWARD_README) are all taken, and four of them read.
_OFFERED: Final = (
    "PIPELINING",
    "8BITMIME",
    "SMTPUTF8",
    "SIZE",  # without a number: no limit of ours (RFC 1870 3); what finds no room is deferred
    "ENHANCEDSTATUSCODES",
    "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
)
_UNKNOWN: Final = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
#: RFC 5321 4.1.2. A `>` in a quoted local part ends nothing.
_PATH: Final = re.compile(r'\s*<((?:[^<>"\\]|\\.|"(?:[^"\\]|\\.)*")*)>(.*)', re.DOTALL)
#: RFC 3461 4: `+` and two hexadecimal digits.
_XTEXT: Final = re.compile(rb"\+([0-9A-Fa-f]{2})")
_SIZE: Final = re.compile(r"(?i)(?:.*\s)?SIZE=([0-9]{1,20})(?:\s.*)?", re.DOTALL)

#: What XGATEPOST tells: the arguments of master.cf, by the envelope's names.
_TOLD: Final = ("size", "sender", "recipient", "original_recipient", "queue_id", "client_address", "helo")

_HOST: Final = os.uname().nodename
GREETING: Final = f"220 {_HOST} LMTP gatepost"
_OK: Final = "250 2.0.0 Ok"
_ORDER: Final = "451 4.5.1 Not now"
_SYNTAX: Final = "451 4.5.2 Not understood"


class Step(Value):
    """What to do next: say `reply` (whole lines, without their CRLF), then go on, take a message, or end."""

    reply: str
    then: Literal["", "message", "end"] = ""


class Session:
    """What one client has said so far. `recipients`, `size` (as Postfix said it) and `queue_id` are those of its message."""

    def __init__(self) -> None:
        self._greeted = False
        self._facts: dict[str, str] = {}
        self._sender: str | None = None
        #: By our own pipe script alone.
        self._whole: Envelope | None = None
        self.recipients: list[str] = []
        self.size = ""

    @property
    def queue_id(self) -> str:
        """What XFORWARD said; "" where it did not."""
        return self._whole.queue_id if self._whole is not None else self._facts.get("IDENT", "")

    @property
    def local(self) -> bool:
        """Whether this host made the message itself: then Postfix knows no client, and tells no queue ID."""
        return self._facts.get("SOURCE", "").upper() == "LOCAL"

    def envelopes(self) -> list[Envelope]:
        """One for each recipient, in their order."""
        if self._whole is not None:
            return [self._whole]
        return [
            Envelope(
                sender=self._sender or "",
                recipient=recipient,
                original_recipient=recipient,  # ORCPT is the sender's word, and a socket has no other
                queue_id=self.queue_id,
                client_address=_without_kind(self._facts.get("ADDR", "")),
                helo=self._facts.get("HELO", ""),
            )
            for recipient in self.recipients
        ]

    def reset(self) -> None:
        """The message is over, or given up."""
        self._facts, self._sender, self._whole, self.recipients, self.size = {}, None, None, [], ""

    def command(self, line: bytes) -> Step:
        """One line, without its end."""
        verb, _, rest = line.decode("utf-8", "surrogateescape").partition(" ")
        match verb.upper():
            case "LHLO":
                self.reset()
                self._greeted = True
                return Step(reply=_lines([_HOST, *_OFFERED]))
            case "XFORWARD":
                return self._xforward(rest)
            case "XGATEPOST":
                return self._xgatepost(rest)
            case "MAIL":
                return self._mail(rest)
            case "RCPT":
                return self._rcpt(rest)
            case "DATA":
                return self._data()
            case "RSET":
                self.reset()
                return Step(reply=_OK)
            case "NOOP":
                return Step(reply=_OK)
            case "QUIT":
                return Step(reply="221 2.0.0 Bye", then="end")
            case "VRFY":
                return Step(reply="252 2.0.0 Send mail and see")
            case "HELO" | "EHLO":
                return Step(reply="451 4.5.1 This is LMTP: LHLO")
        return Step(reply="500 5.5.1 No such command")

    def _xforward(self, rest: str) -> Step:
        if not self._greeted or self._sender is not None:
            return Step(reply=_ORDER)
        found = {}
        for word in rest.split():
            name, equals, value = word.partition("=")
            if not equals:
                return Step(reply=_SYNTAX)
            found[name.upper()] = "" if value.upper() in _UNKNOWN else _decoded(value)
        self._facts |= found
        return Step(reply=_OK)

    def _xgatepost(self, rest: str) -> Step:
        """The whole envelope from the thin pipe script, `name=HEX` as in master.cf: LMTP has no place for all of it.

        Not offered to anybody: Postfix would not use it, and the script finds out.
        """
        if self._sender is not None:
            return Step(reply=_ORDER)
        told = dict.fromkeys(_TOLD, "")
        try:
            for word in rest.split(" "):
                name, _, value = word.partition("=")
                field = name.removeprefix("--").replace("-", "_")
                if told[field]:  # pipe(8) gives --recipient once for each: the others would be lost
                    return Step(reply=_SYNTAX)
                told[field] = bytes.fromhex(value).decode("utf-8", "surrogateescape")
        except (KeyError, ValueError):
            return Step(reply=_SYNTAX)
        size = told.pop("size")
        if not (told["recipient"] and told["queue_id"]) or size.strip("0123456789") or len(size) > 20:
            return Step(reply=_SYNTAX)
        self._whole = Envelope(**told)
        self._sender, self.recipients, self.size = told["sender"], [told["recipient"]], size
        return Step(reply=_OK)

    def _mail(self, rest: str) -> Step:
        if not self._greeted or self._sender is not None:
            return Step(reply=_ORDER)
        path = _path("FROM:", rest)
        if path is None:
            return Step(reply=_SYNTAX)
        if not (self.queue_id or self.local):
            return Step(reply="451 4.3.5 Mail system configuration error (lmtp_send_xforward_command = yes is missing)")
        self._sender, parameters = path
        size = _SIZE.fullmatch(parameters)
        self.size = size[1] if size else ""
        return Step(reply="250 2.1.0 Ok")

    def _rcpt(self, rest: str) -> Step:
        path = _path("TO:", rest)
        if self._sender is None or self._whole is not None:
            return Step(reply=_ORDER)
        if path is None or not path[0]:
            return Step(reply=_SYNTAX)
        if len(self.recipients) >= MOST_RECIPIENTS:
            return Step(reply="452 4.5.3 Too many recipients")
        self.recipients.append(path[0])
        return Step(reply="250 2.1.5 Ok")

    def _data(self) -> Step:
        if not self.recipients:
            return Step(reply=_ORDER)
        return Step(reply="354 End data with <CR><LF>.<CR><LF>", then="message")


def _lines(texts: list[str]) -> str:
    """A reply of several lines (RFC 5321 4.2.1)."""
    return "\r\n".join([*(f"250-{text}" for text in texts[:-1]), f"250 {texts[-1]}"])


def _path(word: str, rest: str) -> tuple[str, str] | None:
    """The address between the angle brackets, as it stands, and the parameters behind it."""
    if rest[: len(word)].upper() != word:
        return None
    found = _PATH.fullmatch(rest[len(word) :])
    return (found[1], found[2]) if found else None


def _decoded(value: str) -> str:
    octets = value.encode("utf-8", "surrogateescape")
    return _XTEXT.sub(lambda found: bytes.fromhex(found[1].decode()), octets).decode("utf-8", "surrogateescape")


def _without_kind(address: str) -> str:
    """`IPv6:2001:db8::1` (RFC 5321 4.1.3) is 2001:db8::1 to pipe(8)."""
    return address[5:] if address[:5].upper() == "IPV6:" else address
