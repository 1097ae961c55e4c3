"""Who sent this message: SPF, DKIM, DMARC and ARC, each with its result, and what follows for the sender.

Promises: `check` ends by its deadline and after at most `QUESTIONS` questions, whatever the message and whatever DNS does; the
policy of From's domain is asked for first, so that a stranger's slow DNS cannot hide it; threads may share one `Authenticator`.
Never: raises; takes a look-up that failed for an answer; lets ARC, HELO or a header field of the message decide.
"""

from __future__ import annotations

import time

from gatepost.authentication.arc import check_arc
from gatepost.authentication.canonicalization import Body
from gatepost.authentication.dkim import check_dkim
from gatepost.authentication.dmarc import Published, aligned_method, check_dmarc, published
from gatepost.authentication.names import ascii_domain
from gatepost.authentication.results import Checked, DmarcResult, SpfResult
from gatepost.authentication.signature import Head
from gatepost.authentication.spf import check_spf
from gatepost.decision import Sender
from gatepost.mail.message import parse
from gatepost.mail.recipient import recipient
from gatepost.screening.sender import one_sender
from gatepost.settings import ParserLimits
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.authentication.resolver import Questions, Resolver
    from gatepost.authentication.results import DkimResult

__all__ = ["METHODS", "Authenticator", "Mail"]

METHODS: Final = ("spf", "dkim", "dmarc", "arc")
#: DNS questions of one message: for each step its share of the time that is left then, and how many it may ask.
#: The policy: 9 for the walk and one for np=. DKIM: 10 signatures. SPF: 10 terms of 11 (RFC 7208 4.6.4), the record, and PTR
#: with its names. Alignment: 8 a domain. ARC: 50 seals and a message signature.
_POLICY: Final = (0.4, 10)
_DKIM: Final = (0.5, 10)
_SPF: Final = (0.6, 128)
_ALIGNMENT: Final = (0.6, 40)
_ARC: Final = (1.0, 51)
QUESTIONS: Final = 239


class Mail(Value):
    """A message as it came over SMTP. `mail_from`: "" for the null reverse-path. `raw`: with CRLF, without our own Received.

    `host`: our own name, which SPF's records may ask for (RFC 7208 7.3, macro r).
    """

    client_address: str
    helo: str
    mail_from: str
    raw: bytes
    host: str = ""


class Authenticator:
    """`methods`: those reported; DMARC also needs SPF and DKIM, which are then checked whether reported or not. () asks no DNS.

    `now`: the wall clock, for signatures that expire.
    """

    def __init__(
        self, resolver: Resolver, *, methods: tuple[str, ...] = METHODS, authserv_id: str,
        limits: ParserLimits = ParserLimits(), now: Callable[[], float] = time.time,  # noqa: B008  immutable
    ) -> None:  # fmt: skip
        self._resolver = resolver
        self._methods = methods
        self._authserv_id = authserv_id
        self._limits = limits
        self._now = now

    def check(self, mail: Mail, *, deadline: float) -> Checked:
        """What all methods find. `deadline`: on the clock of `time.monotonic`; past it whatever is open is temperror."""
        try:
            return self._check(mail, self._resolver.questions(deadline, QUESTIONS))
        except Exception:  # noqa: BLE001  our own fault: it leaves the sender unknown for now, which a door can defer on
            return self._at_fault()

    def _check(self, mail: Mail, questions: Questions) -> Checked:
        message = parse(mail.raw, self._limits)
        head, body = Head(mail.raw, message.headers.fields), Body(mail.raw, message.headers.body_start)
        address = one_sender(message)
        domain = ascii_domain(recipient(address).domain) if address else ""
        asked = set(self._methods) | ({"spf", "dkim"} if "dmarc" in self._methods else set())
        author = published(domain, questions.part(*_POLICY)) if domain and "dmarc" in asked else None
        dkim = check_dkim(head, body, questions.part(*_DKIM), self._now()) if "dkim" in asked else ()
        spf = SpfResult()
        if "spf" in asked:
            spf = check_spf(mail.client_address, mail.helo, mail.mail_from, mail.host, questions.part(*_SPF))
        dmarc = DmarcResult(reason="From names nobody" if "dmarc" in asked else "")
        alignment = questions.part(*_ALIGNMENT)
        if author is not None:
            dmarc = check_dmarc(author, spf, dkim, alignment)
        sender = self._sender(domain, author, spf, dkim, dmarc, alignment)
        if not address:
            sender = sender.replace(verified="no")
        arc = check_arc(head, body, questions.part(*_ARC), self._now()) if "arc" in asked else "none"
        return Checked(methods=self._methods, spf=spf, dkim=dkim, dmarc=dmarc, arc=arc, sender=sender)

    def _sender(
        self, domain: str, author: Published | None, spf: SpfResult, dkim: tuple[DkimResult, ...], dmarc: DmarcResult,
        questions: Questions,
    ) -> Sender:  # fmt: skip
        """The verdict on From's domain, as `gatepost.screening.sender` gives it for other hosts' results."""
        known = Sender(mail_from_verified=spf.identity == "mailfrom" and spf.result == "pass")
        if dmarc.result in ("pass", "fail"):
            return known.replace(verified="yes" if dmarc.result == "pass" else "no", by=f"dmarc {self._authserv_id}")
        if not domain:
            return known
        method, opened = aligned_method(author or Published(domain), spf, dkim, questions)
        if method:
            return known.replace(verified="yes", by=f"{method} {self._authserv_id}")
        return known.replace(temporary=opened or dmarc.result == "temperror")

    def _at_fault(self) -> Checked:
        failed = "temperror"
        return Checked(
            methods=self._methods, spf=SpfResult(result=failed), dmarc=DmarcResult(result=failed), arc=failed,
            sender=Sender(temporary=True),
        )  # fmt: skip
