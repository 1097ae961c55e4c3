"""Does an authenticated domain speak for From's domain (RFC 9989 4.4).

Promises: `by_tree` for domains with a DMARC record, as that RFC says; `by_suffix` where nobody published one: the same domain
below a public suffix (docs/decisions/0007-sender-authentication.md).
Never: takes a domain for another's because their ends look alike.
"""

from __future__ import annotations

from functools import cache

from publicsuffixlist import PublicSuffixList

from gatepost.authentication.names import is_at_or_under
from gatepost.authentication.tree_walk import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.authentication.resolver import Questions

__all__ = ["by_suffix", "by_tree"]


def by_tree(domain: str, author: str, questions: Questions) -> bool:
    """Have both the same organizational domain? Raises Unanswered."""
    if domain.rpartition(".")[2] != author.rpartition(".")[2]:  # not even a top-level domain in common: nothing to ask
        return False
    organizational = walk(author, questions).organizational
    # A domain's organizational domain is itself or above it: nothing needs to be asked about a domain elsewhere.
    return is_at_or_under(domain, organizational) and walk(domain, questions).organizational == organizational


def by_suffix(domain: str, author: str) -> bool:
    """Have both the same registered domain?"""
    if domain == author:
        return True
    registered = _suffixes().privatesuffix(author)
    return registered is not None and _suffixes().privatesuffix(domain) == registered


@cache
def _suffixes() -> PublicSuffixList:
    """The list that came with the package, private section included; read once, about 50 ms."""
    return PublicSuffixList()
