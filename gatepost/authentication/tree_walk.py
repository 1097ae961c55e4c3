"""The DNS tree walk: DMARC records from a domain upwards, and the organizational domain they give (RFC 9989 4.10).

Promises: at most eight questions a walk; a name's records count only if there is exactly one.
Never: asks a list of public suffixes.
"""

from __future__ import annotations

from gatepost.authentication.dmarc_record import Record, record
from gatepost.authentication.names import parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.resolver import Questions

__all__ = ["Walk", "record_at", "walk"]

#: Labels of the name asked for after the first: longer names skip some of theirs (RFC 9989 4.10).
LABELS: Final = 7
_PREFIX: Final = "_dmarc."


class Walk:
    """The records on the way up: domain and record, the starting domain's first. `organizational`: RFC 9989 4.10.2."""

    def __init__(self, start: str, found: list[tuple[str, Record]]) -> None:
        self.start = start
        self.found = found
        self.organizational = _organizational(start, found)

    def at(self, domain: str) -> Record | None:
        """The record found there."""
        return dict(self.found).get(domain)


def record_at(domain: str, questions: Questions) -> Record | None:
    """The one DMARC record of a domain, None where there is none or several. Raises Unanswered."""
    records = [each for each in map(record, questions.ask(_PREFIX + domain, "TXT").texts) if each is not None]
    return records[0] if len(records) == 1 else None


def walk(start: str, questions: Questions) -> Walk:
    """Asks from `start` up to the root, until a record says psd=n, or one above it psd=y. Raises Unanswered."""
    found: list[tuple[str, Record]] = []
    name = start
    while name:
        here = record_at(name, questions)
        if here is not None:
            found.append((name, here))
            if here.psd == "n" or (here.psd == "y" and name != start):
                break
        name = ".".join(name.split(".")[1:][-LABELS:]) if parent(name) else ""
    return Walk(start, found)


def _organizational(start: str, found: list[tuple[str, Record]]) -> str:
    """One label below a public suffix; else the last domain with a record: psd=n ended there, or it has the fewest labels."""
    if not found:
        return start
    domain, last = found[-1]
    if last.psd == "y" and domain != start:
        return ".".join(start.split(".")[-domain.count(".") - 2 :])
    return domain
