"""Our own fault as a decision: what every door makes of an exception.

Promises: a deferral, whatever it was; the detail, for the log, says what happened and where.
Never: refuses; puts the detail into a public text.
"""

from __future__ import annotations

import os

from gatepost.decision import rule_decision
from gatepost.errors import GatepostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.decision import Decision

__all__ = ["fault"]


def fault(error: BaseException) -> Decision:
    """The deferral for an exception: under its own rule where it is a GatepostError, else internal-error."""
    if isinstance(error, GatepostError):
        return rule_decision("defer", error.rule, detail=str(error))
    return rule_decision("defer", "internal-error", detail=f"{_place(error)}: {type(error).__name__}: {error}")


def _place(error: BaseException) -> str:
    """The innermost line of code that failed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace is not None else "?"
