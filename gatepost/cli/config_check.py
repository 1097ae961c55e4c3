"""`gatepost config check FILE`: the only validator of a configuration. Offline: asks no DNS, no app, no store."""

from __future__ import annotations

import json
import sys

from gatepost.config import load_with_warnings
from gatepost.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from gatepost.errors import Problem

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost config`."""
    actions = parser.add_subparsers(title="actions", required=True)
    check = actions.add_parser("check", help="name every mistake, with file:line:column and the mend")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0: usable, perhaps with warnings. 1: it has mistakes, all of them named."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    summary = ""
    try:
        settings, warnings = load_with_warnings(arguments.file)
        summary = f"{arguments.file}: ok, {_count(len(settings.routes), 'route')}, {_count(len(settings.sinks), 'sink')}"
    except ConfigError as error:
        problems = error.problems
    if arguments.json:
        found = {"ok": not problems, "problems": list(map(_plain, problems)), "warnings": list(map(_plain, warnings))}
        print(json.dumps(found))
        return 1 if problems else 0
    for problem in problems:
        print(problem, file=sys.stderr)
    for warning in warnings:
        print(warning.replace(text=f"warning: {warning.text}"), file=sys.stderr)
    print(summary or f"{arguments.file}: {_count(len(problems), 'mistake')}; it cannot be used",
          file=sys.stderr if problems else sys.stdout)  # fmt: skip
    return 1 if problems else 0


def _plain(problem: Problem) -> dict[str, object]:
    return dict(problem.__dict__)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
