"""One answer of the doctor: what was looked at, how it stands, what shows it, and what mends it.

Promises: a check never raises; what nobody foresaw is "unknown", with the error's class. Evidence and mend are one printable
line each.
Never: "ok" for what was not looked at.
"""

from __future__ import annotations

from gatepost.sinks.delivery import one_line
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal

    Status = Literal["ok", "warn", "FAIL", "unknown", "not used"]
    Question = Callable[[], "Verdict"]
    #: A family's checks: name and question, in the order in which they are asked and shown.
    Questions = tuple[tuple[str, Question], ...]

__all__ = ["SEVERITY", "Check", "Verdict", "answer", "fail", "not_used", "ok", "unknown", "warn", "worst_first"]

#: Worst first. FAIL: mail is lost, bounced, read by others, or waits. warn: it works, and a person should look.
SEVERITY: Final[tuple[Status, ...]] = ("FAIL", "warn", "unknown", "ok", "not used")
#: Characters of evidence and of a mend.
_EVIDENCE_LIMIT: Final = 600
_MEND_LIMIT: Final = 400


class Verdict(Value):
    """What a question was answered with, still without its name. `mend`: a command or an edit, "" where nothing is to do."""

    status: Status
    evidence: str
    mend: str = ""


class Check(Value):
    """One line of the report. The fields are those of `doctor --json`."""

    name: str
    status: Status
    evidence: str
    mend: str = ""


def ok(evidence: str) -> Verdict:
    """It is as it should be."""
    return Verdict(status="ok", evidence=evidence)


def warn(evidence: str, mend: str) -> Verdict:
    """Mail goes its way, but something is not as it should be."""
    return Verdict(status="warn", evidence=evidence, mend=mend)


def fail(evidence: str, mend: str) -> Verdict:
    """Mail is lost, bounced, readable for others, or waits, now or as soon as something else goes wrong."""
    return Verdict(status="FAIL", evidence=evidence, mend=mend)


def unknown(evidence: str, mend: str = "") -> Verdict:
    """It could not be looked at."""
    return Verdict(status="unknown", evidence=evidence, mend=mend)


def not_used(evidence: str) -> Verdict:
    """This installation does not have it."""
    return Verdict(status="not used", evidence=evidence)


def answer(name: str, question: Question) -> Check:
    """Asks, and never raises: an error that the question did not foresee is "unknown"."""
    try:
        verdict = question()
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        verdict = unknown(f"{type(error).__name__}: {error}")
    return Check(
        name=name,
        status=verdict.status,
        evidence=one_line(verdict.evidence, _EVIDENCE_LIMIT),
        mend=one_line(verdict.mend, _MEND_LIMIT),
    )


def worst_first(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """By severity; within one, as they were asked: a cause is asked before its effects."""
    return tuple(sorted(checks, key=lambda check: SEVERITY.index(check.status)))
