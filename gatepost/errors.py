"""The errors that gatepost raises, a small tree.

Promises: each carries `rule` (the slug that the log and the door show) and, as its text, the detail for the log; the text a
sender may see is never in here but in `decision.RULES`.
Never: raised for what a message contains. A message, however hostile, is a value with flags.
"""

from __future__ import annotations

__all__ = ["ConfigError", "GatepostError", "ParkedFullError", "Problem", "StoreError", "UnreadableProblem"]

from gatepost.value import Value


class GatepostError(Exception):
    """Our own fault, or a dependency's. A door turns it into a deferral under `rule`."""

    rule = "internal-error"


class Problem(Value):
    """One mistake in a file: where (1-based line and column; 0 = the file as a whole), what, and the mend."""

    file: str
    line: int = 0
    column: int = 0
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.text}"


class UnreadableProblem(Problem):
    """A file that cannot be read at the moment: it may pass by itself, for it is the host's mistake and not the file's."""


class ConfigError(GatepostError):
    """The configuration cannot be used; `problems` has every mistake found, in the order of the file."""

    rule = "config-error"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class StoreError(GatepostError):
    """The store cannot be opened, is locked for too long, is corrupt, or its disk is full."""

    rule = "store-unavailable"


class ParkedFullError(StoreError):
    """Parked mail has reached its cap with mail that may not be dropped."""

    rule = "parked-full"
