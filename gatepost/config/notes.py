"""Collects what is wrong with a file, and what deserves a word, each at its place.

Promises: problems come out in the order of the file, at most `MOST` of them; what was written is shown escaped and cut.
Never: shows any text of a private file (the secrets).
"""

from __future__ import annotations

import difflib

from gatepost.errors import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class Place(Protocol):
        """Whatever has a position, counted from 1."""

        @property
        def line(self) -> int: ...

        @property
        def column(self) -> int: ...


__all__ = ["MOST", "Notes", "in_order", "near", "shown", "suggestion"]

#: Nobody reads more; a file of another kind would give thousands.
MOST = 100
_SHOWN = 40


class Notes:
    """The problems and warnings of one file."""

    def __init__(self, file: str, *, private: bool = False) -> None:
        self.file = file
        self.private = private
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, place: Place, text: str) -> None:
        """Something that must be mended before the file can be used."""
        self.problems.append(Problem(file=self.file, line=place.line, column=place.column, text=text))

    def warning(self, place: Place, text: str) -> None:
        """Something legal that does not do what the writer may think."""
        self.warnings.append(Problem(file=self.file, line=place.line, column=place.column, text=text))

    def named(self, text: str) -> str:
        """How a problem calls a name that stands in the file."""
        return "this name" if self.private else shown(text)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By line and column; past `MOST`, one that says how many more there are."""
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
    if len(ordered) > MOST:
        more = Problem(file=ordered[0].file, text=f"and {len(ordered) - MOST} more problems")
        return (*ordered[:MOST], more)
    return tuple(ordered)


def shown(text: str) -> str:
    """A text from the file, in quotation marks, escaped and cut to 40 characters."""
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return '"' + repr('"' + cut)[2:-1] + '"'


def near(text: str, names: Iterable[str]) -> str:
    """The one of the names that is most like the text; "" where none is like it."""
    found = difflib.get_close_matches(text[:64].lower(), list(names), n=1, cutoff=0.6)
    return found[0] if found else ""


def suggestion(text: str, names: Iterable[str]) -> str:
    """`; did you mean "x"?` where one of the names is near, else nothing."""
    meant = near(text, names)
    return f"; did you mean {shown(meant)}?" if meant else ""
