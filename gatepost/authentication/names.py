"""Domain names as the methods compare them: A-labels, lower case, no final dot (RFC 5890 2.3.2.1, RFC 8616).

Promises: what `ascii_domain` returns has only letters, digits, hyphens, underscores and dots, at most 253 of them; it can stand
in a field, a log line or a DNS question as it is.
Never: raises; guesses at a name that is none.
"""

from __future__ import annotations

import re

import idna

from gatepost.mail.recipient import fold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["ascii_domain", "is_at_or_under", "parent"]

#: Octets of a name (RFC 1035 2.3.4), without the final dot.
LONGEST: Final = 253
#: A label. Underscores stand in real sending domains and in selectors.
_LABELS: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


def ascii_domain(text: str) -> str:
    """The domain's one form, "" where `text` is none: another character, an empty or long label, no IDNA 2008 name."""
    if len(text) > LONGEST + 1:
        return ""
    name = fold(text).removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii").lower()
        except UnicodeError:  # idna.IDNAError is one
            return ""
    return name if len(name) <= LONGEST and _LABELS.fullmatch(name) else ""


def is_at_or_under(name: str, domain: str) -> bool:
    """Is `name` this domain or a subdomain of it? Both as `ascii_domain` returns them."""
    return bool(domain) and (name == domain or name.endswith("." + domain))


def parent(name: str) -> str:
    """The name without its first label; "" for one label."""
    return name.partition(".")[2]
