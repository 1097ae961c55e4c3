"""A decision as the answer of an SMTP or LMTP server (RFC 5321 4.2, RFC 2034).

Promises: the first digit says permanent or temporary, as the status does; one line of printable ASCII.
Never: says more than the rule's public text.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.decision import Decision

__all__ = ["Reply", "reply_for"]


class Reply(Value):
    """`code`: of RFC 5321 4.2.3; `status`: of RFC 3463."""

    code: int
    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.status} {self.text}"


def reply_for(decision: Decision, text: str = "") -> Reply:
    """250 for what is done with or goes on, 451 for a deferral, 550 for a refusal. `text`: in place of the decision's."""
    text = "".join(char if " " <= char <= "~" else "?" for char in text or decision.text)
    if decision.action == "reject":
        return Reply(code=550, status=decision.status, text=text)
    if decision.action == "defer":
        return Reply(code=451, status=decision.status, text=text)
    return Reply(code=250, status="2.0.0", text=text)
