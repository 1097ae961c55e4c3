"""What the doors behind the queue say of one message for one recipient: to Postfix, and in our own log.

Promises: both doors say the same of the same receipt, but for `ms` (and the log's pid): the mail log reads alike on every rung.
Never: says more to Postfix than the rule's public text, route and id; raises for what a message holds.
"""

from __future__ import annotations

from gatepost.log import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.gateway import Receipt

__all__ = ["LINE_LIMIT", "log_line", "said"]

#: The most that Postfix is told. pipe(8) bears 4 kB, a reply line has 512 octets (RFC 5321 4.5.3.1.5). Of a pipe's success
#: Postfix logs the first 100, so an id is cut to what tells messages apart (`gatepost parked show` and grep take a prefix).
LINE_LIMIT: Final = 200
_ID_SHOWN: Final = 16


def said(receipt: Receipt) -> str:
    """The line for Postfix's log; where the message is not done with, its status (RFC 3463) comes first."""
    decision = receipt.decision
    if decision.action == "defer":
        return f"{decision.status} {decision.text} (rule={decision.rule})"
    if decision.action == "reject":
        return f"{decision.status} {decision.text}"
    done = {"accept": "accepted", "discard": "discarded", "park": "parked"}[decision.action]
    rule = "" if decision.action == "accept" else f" rule={decision.rule}"
    route = f" route={decision.route}" if decision.route else ""
    return f"{done}{rule}{route} id={receipt.id[:_ID_SHOWN]}{' again' if receipt.already else ''}"


def log_line(receipt: Receipt, *, queue_id: str, size: str, octets: int, ms: int) -> str:
    """Our own line. `size`: what Postfix said (it is approximate); `octets`: of raw; `ms`: from the start to now."""
    decision = receipt.decision
    return line(
        queue_id,
        action=decision.action,
        rule=decision.rule,
        route=decision.route,
        to=receipt.to,
        id=receipt.id,
        sink=receipt.sink,
        again="yes" if receipt.already else "",
        attempt=receipt.attempt or "",
        size=size,
        bytes=octets,
        ms=ms,
        detail=decision.detail,
    )
