"""SPF of one MAIL FROM or HELO (RFC 7208), by pyspf with our resolver passed in.

Promises: a result for whatever the client said; at most 10 terms with look-ups and 2 void ones (RFC 7208 4.6.4), at most the
questions and the time given; a name without an answer is temperror.
Never: raises; replaces anything in pyspf's module: a query is a subclass that asks for itself, so threads do not meet.
"""

from __future__ import annotations

import re

import spf

from gatepost.authentication.names import ascii_domain
from gatepost.authentication.resolver import TooManyQuestions, Unanswered
from gatepost.authentication.results import SpfResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.resolver import Answer, Questions, Type

__all__ = ["check_spf"]

#: Octets of one SPF record. RFC 7208 3.4 asks for 512; past this it is no record for mail but for us to work on.
RECORD_LONGEST: Final = 4_096
#: Labels that make a domain that can have a record (RFC 7208 4.3).
_LABELS: Final = 2
_MACRO: Final = re.compile(r"%(?:[%_-]|\{[slodiphcrtv](?:0*[1-9][0-9]*)?r?[.+,/_=-]*\})", re.IGNORECASE)
_RESULTS: Final = frozenset(("none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"))


def check_spf(client_address: str, helo: str, mail_from: str, host: str, questions: Questions) -> SpfResult:
    """The result for MAIL FROM's domain; for HELO where MAIL FROM is null (RFC 7208 2.4)."""
    if mail_from in ("", "<>"):
        local, name, sender = "postmaster", helo, f"postmaster@{helo}"
        found = SpfResult(identity="helo", domain=ascii_domain(name))
    else:
        local, at, name = mail_from.rpartition("@")
        name, sender = name if at else "", mail_from
        found = SpfResult(identity="mailfrom", domain=ascii_domain(name))
    domain = found.domain
    if domain.count(".") < _LABELS - 1:  # RFC 7208 4.3
        return found.replace(reason="no domain that could have a record")
    try:
        query = _Query(client_address, helo, questions)
        query.s, query.l, query.o, query.d, query.r = sender, local or "postmaster", domain, domain, host or "unknown"
        result = query.check()[0]
    except (spf.TempError, Unanswered):
        result = "temperror"
    except Exception:  # noqa: BLE001  a library's fault on a stranger's input: no message may raise
        result = "permerror"
    return found.replace(result=result if result in _RESULTS else "permerror")


class _Query(spf.query):  # type: ignore[misc]
    """pyspf's evaluation of a record, on our answers. Names of one letter are macros to it: none may be added here."""

    def __init__(self, client_address: str, helo: str, questions: Questions) -> None:
        super().__init__(i=client_address, s="", h=helo, strict=True, querytime=0)
        self._questions = questions

    def dns(self, name: str, qtype: Type, cnames: object = None, ignore_void: bool = False) -> list[object]:  # noqa: ARG002
        """What pyspf's method of that name returns: records in its forms; counts void look-ups as it does."""
        name = str(name).lower().removesuffix(".")
        if not all(0 < len(label) < 64 for label in name.split(".")):
            return []
        answer = self._answer(name, qtype)
        if not answer.records and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        if qtype == "TXT":
            return [_strings(text) for text in answer.texts]
        return list(answer.records)

    def _answer(self, name: str, qtype: Type) -> Answer:
        try:
            return self._questions.ask(name, qtype)
        except TooManyQuestions as past:
            raise spf.PermError("Too many DNS lookups") from past
        except Unanswered as failure:
            raise spf.TempError("DNS did not answer") from failure

    def expand(self, s: str, stripdot: bool = True) -> str:
        """Macros (RFC 7208 7.1). A percent sign that begins none is permerror; pyspf passes over some."""
        if "%" in _MACRO.sub("", s):
            raise spf.PermError("not a macro")
        expanded: str = super().expand(s, stripdot)
        return expanded

    def get_explanation(self, spec: str) -> None:
        """exp= is for people who read a refusal; ours has its own words, so nothing is asked."""

    def validated_ptrs(self) -> list[str]:
        """The names of the client's address that lead back to it; a name without an answer is left out (RFC 7208 5.5)."""
        try:
            names = self.dns_ptr(self.i)[: spf.MAX_PTR]
        except spf.TempError:
            return []
        return [name for name in names if self._leads_back(name)]

    def _leads_back(self, name: str) -> bool:
        try:
            return bool(self.cidrmatch(self.dns_a(name, self.A), self.cidrmax))
        except spf.TempError:
            return False


def _strings(text: bytes) -> tuple[bytes, ...]:
    """A TXT record as pyspf wants it. Raises PermError for an SPF record that is past our bound."""
    if len(text) > RECORD_LONGEST and spf.RE_SPF.match(text):
        raise spf.PermError("record too long")
    return (text,)
