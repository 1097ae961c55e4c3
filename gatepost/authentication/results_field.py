"""The value of one Authentication-Results field, from what was checked (RFC 8601 2.2).

Promises: ASCII, folded with CRLF and a tab, at most `LONGEST` octets; `gatepost.mail.authentication_results` reads it back;
what a stranger chose stands in it only as a domain name, a selector, or the beginning of b=.
Never: a comment; a reason in other words than ours; the address of a person.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.results import Checked, DkimResult, DmarcResult, SpfResult

__all__ = ["LONGEST", "results_value"]

#: Octets of a value: ten signatures with the longest names, and the rest.
LONGEST: Final = 10_000
_FOLD: Final = "\r\n\t"
#: What may stand without quotes: less than a token may hold (RFC 2045 5.1).
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
_VALUE_LONGEST: Final = 255


def results_value(checked: Checked, authserv_id: str) -> str:
    """What stands behind `Authentication-Results: `."""
    results: list[str] = []
    if "spf" in checked.methods:
        results.append(_spf(checked.spf))
    if "dkim" in checked.methods:
        results += [_dkim(each) for each in checked.dkim] or ["dkim=none"]
    if "dmarc" in checked.methods:
        results.append(_dmarc(checked.dmarc))
    if "arc" in checked.methods:
        results.append(f"arc={checked.arc}")
    return f";{_FOLD}".join([_value(authserv_id), *(results or ["none"])])


def _spf(each: SpfResult) -> str:
    return _result("spf", each.result, each.reason, (f"smtp.{each.identity}", each.domain))


def _dkim(each: DkimResult) -> str:
    return _result(
        "dkim", each.result, each.reason, ("header.d", each.domain), ("header.s", each.selector), ("header.a", each.algorithm),
        ("header.b", each.start),
    )  # fmt: skip


def _dmarc(each: DmarcResult) -> str:
    return _result("dmarc", each.result, "" if each.result == "pass" else each.reason, ("header.from", each.from_domain),
                   ("policy.dmarc", each.policy))  # fmt: skip


def _result(method: str, result: str, reason: str, *properties: tuple[str, str]) -> str:
    """One result; each property on a line of its own where the line would be long."""
    words = [f"{method}={result}"]
    if reason:
        words.append(f"reason={_value(reason)}")
    words += [f"{name}={_value(value)}" for name, value in properties if value]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < 76:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return f"{_FOLD} ".join(lines)


def _value(text: str) -> str:
    """A token, or a quoted string with nothing in it that could end it."""
    if _PLAIN.fullmatch(text):
        return text
    safe = "".join([char if " " <= char <= "~" and char not in '"\\' else "?" for char in text[:_VALUE_LONGEST]])
    return f'"{safe}"'
