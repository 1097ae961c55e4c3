"""DMARC of one message (RFC 9989): policy discovery, alignment, what comes of it.

Promises: pass where SPF of MAIL FROM or a DKIM signature passes for an aligned domain; temperror only where DNS left something
open that could have made it pass, or left the policy open; of look-ups that concern other domains nothing follows.
Never: raises; lets HELO speak where MAIL FROM is not null; applies sp= or np= to the domain that publishes them.
"""

from __future__ import annotations

from gatepost.authentication.alignment import by_suffix, by_tree
from gatepost.authentication.resolver import Unanswered
from gatepost.authentication.results import DmarcResult
from gatepost.authentication.tree_walk import record_at, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.authentication.dmarc_record import Record
    from gatepost.authentication.resolver import Questions
    from gatepost.authentication.results import DkimResult, SpfResult

__all__ = ["Published", "aligned_method", "check_dmarc", "published"]

#: One step less, for t=y (RFC 9989 4.7).
_TESTING = {"reject": "quarantine", "quarantine": "none", "none": "none"}


class Published:
    """What the domain of From publishes. `record`: the one to apply. `policy`: what it asks for in this domain's case.

    `unanswered`: DNS left it open; then the rest says nothing.
    """

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.record: Record | None = None
        self.policy = ""
        self.policy_domain = ""
        self.unanswered = False


def published(domain: str, questions: Questions) -> Published:
    """Policy discovery (RFC 9989 4.10.1): the domain's own record, the organizational domain's, the public suffix's."""
    found = Published(domain)
    try:
        own = record_at(domain, questions)
        if own is not None:
            found.record, found.policy_domain, found.policy = own, domain, own.policy
        else:
            _look_above(found, questions)
    except Unanswered:
        found.unanswered = True
    return found


def _look_above(found: Published, questions: Questions) -> None:
    walked = walk(found.domain, questions)
    above = walked.at(walked.organizational)
    suffix = next(((name, each) for name, each in walked.found if each.psd == "y"), None)
    if above is not None:
        found.policy_domain, found.record = walked.organizational, above
    elif suffix is not None:
        found.policy_domain, found.record = suffix
    else:
        return
    found.policy = found.record.subdomains
    if found.record.missing != found.policy and not questions.ask(found.domain, "A").exists:  # RFC 8020
        found.policy = found.record.missing


def check_dmarc(author: Published, spf: SpfResult, dkim: tuple[DkimResult, ...], questions: Questions) -> DmarcResult:
    """The result for a From that names one domain."""
    said = DmarcResult(from_domain=author.domain)
    if author.unanswered:
        return said.replace(result="temperror", reason="DNS did not answer")
    if author.record is None:
        return said
    if not author.record.usable:
        return said.replace(result="permerror", policy_domain=author.policy_domain, reason="record has no valid policy")
    said = said.replace(policy=author.policy, policy_domain=author.policy_domain)
    method, opened = aligned_method(author, spf, dkim, questions)
    if method:
        return said.replace(result="pass", reason=method)
    if opened:
        return said.replace(result="temperror", reason="DNS did not answer")
    return said.replace(result="fail", disposition=_TESTING[author.policy] if author.record.testing else author.policy)


def aligned_method(author: Published, spf: SpfResult, dkim: tuple[DkimResult, ...], questions: Questions) -> tuple[str, bool]:
    """Which method passes for an aligned domain, "" for none; and: could one that DNS left open have done so?"""
    opened = False
    for method, result, domain in _identifiers(spf, dkim):
        if result not in ("pass", "temperror"):
            continue
        try:
            aligned = _is_aligned(method, domain, author, questions)
        except Unanswered:
            opened = True
            continue
        if aligned and result == "pass":
            return method, False
        opened = opened or aligned
    return "", opened


def _identifiers(spf: SpfResult, dkim: tuple[DkimResult, ...]) -> list[tuple[str, str, str]]:
    """Method, result and domain. Of a null reverse-path MAIL FROM is postmaster at HELO (RFC 7208 2.4), and so for DMARC."""
    found = [("dkim", each.result, each.domain) for each in dkim if each.domain]
    if spf.domain:
        found.append(("spf", spf.result, spf.domain))
    return found


def _is_aligned(method: str, domain: str, author: Published, questions: Questions) -> bool:
    """As the author's record says; by the public suffixes where there is none; the same domain alone where DNS left it open."""
    if domain == author.domain:
        return True
    if author.unanswered:
        return False
    if author.record is None or not author.record.usable:
        return by_suffix(domain, author.domain)
    strict = author.record.strict_dkim if method == "dkim" else author.record.strict_spf
    return not strict and by_tree(domain, author.domain, questions)
