"""DMARC records: one text, read (RFC 9989 4.7; records written for RFC 7489 read the same).

Promises: a text is a `Record` or none; unknown tags, pct= among them, are passed over; a tag that is said twice counts once.
Never: raises; takes sp= or np= for the domain that says it.
"""

from __future__ import annotations

import re

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["Record", "record"]

_START: Final = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(;|$)")
_POLICIES: Final = ("none", "quarantine", "reject")
#: Octets of a record that are read. Long lists of rua= reach 1,000.
_LONGEST: Final = 8_192


class Record(Value):
    """`policy`: of p=. `subdomains`: of sp=, else p=. `missing`: of np=, else `subdomains`. `psd`: y, n or u.

    `usable`: p=, sp= and np= are as they should be, or rua= makes up for it (RFC 9989 4.7): else nothing is asked of anybody.
    """

    policy: str
    subdomains: str
    missing: str
    strict_dkim: bool
    strict_spf: bool
    testing: bool
    psd: str
    usable: bool


def record(text: bytes) -> Record | None:
    """The record that a TXT record holds; None where it does not begin as one."""
    written = text[:_LONGEST].decode("latin-1")
    if not _START.match(written):
        return None
    tags: dict[str, str] = {}
    for part in written.split(";")[1:]:
        name, sign, value = part.partition("=")
        if sign:
            tags.setdefault(name.strip(" \t").lower(), value.strip(" \t"))
    given = [tags[name].lower() for name in ("p", "sp", "np") if name in tags]
    sound = "p" in tags and all(each in _POLICIES for each in given)
    policy = tags["p"].lower() if sound else "none"
    subdomains = tags.get("sp", policy).lower() if sound else "none"
    psd = tags.get("psd", "u").lower()
    return Record(
        policy=policy, subdomains=subdomains, missing=tags.get("np", subdomains).lower() if sound else "none",
        strict_dkim=tags.get("adkim", "").lower() == "s", strict_spf=tags.get("aspf", "").lower() == "s",
        testing=tags.get("t", "").lower() == "y", psd=psd if psd in ("y", "n") else "u",
        usable=sound or "mailto:" in tags.get("rua", "").lower(),
    )  # fmt: skip
