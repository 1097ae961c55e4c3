"""What the methods found, as values (RFC 8601 2.7).

Promises: every text of a stranger in here is a domain name, a selector or an address as `names.ascii_domain` returns them.
Never: more than the methods said; a verdict on the message (`gatepost.policy` decides).
"""

from __future__ import annotations

from gatepost.decision import Sender
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = ["Checked", "DkimResult", "DmarcResult", "SpfResult"]


class SpfResult(Value):
    """SPF (RFC 7208) of MAIL FROM's domain, or of HELO where MAIL FROM is null. `domain`: "" where that is no domain."""

    result: str = "none"
    domain: str = ""
    identity: Literal["mailfrom", "helo"] = "mailfrom"
    reason: str = ""


class DkimResult(Value):
    """One signature. `domain`: d=; `selector`: s=; `algorithm`: a=; `start`: how b= begins; "" where not readable."""

    result: str
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    start: str = ""
    reason: str = ""


class DmarcResult(Value):
    """DMARC (RFC 9989) of From's domain. `policy`: what p=, sp= or np= asks for; `policy_domain`: who asks.

    `disposition`: what that comes to for this message: none where it passes, one step less where the record says t=y.
    """

    result: str = "none"
    from_domain: str = ""
    policy: str = ""
    policy_domain: str = ""
    disposition: str = "none"
    reason: str = ""


class Checked(Value):
    """What all methods found. `methods`: those that were asked for; of another the value says nothing.

    `dkim`: one result a signature, from the top, at most `dkim.SIGNATURES`; () = none. `arc`: none, pass, fail, temperror.
    """

    methods: tuple[str, ...] = ()
    spf: SpfResult = SpfResult()
    dkim: tuple[DkimResult, ...] = ()
    dmarc: DmarcResult = DmarcResult()
    arc: str = "none"
    sender: Sender = Sender()
