"""`gatepost doctor [--probe] [--chain]`: is this installation well, and if not, what is to be done.

Exit status: 0 = no FAIL; 1 = at least one; 75 = the configuration cannot be used, which is the first FAIL of the report.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap

from gatepost.cli import add_common
from gatepost.cli.postfix import pipe_script
from gatepost.cli.store_owner import become_store_owner
from gatepost.doctor import examine, worst_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from gatepost.doctor import Check

__all__ = ["add_arguments", "run"]

_NAME_COLUMN = 10
_TEXT_COLUMN = _NAME_COLUMN + 26
#: Columns of the report on a terminal that is wider, and on none.
_WIDEST = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost doctor`."""
    add_common(parser)
    parser.add_argument(
        "--probe", action="store_true", help="also ask each webhook: one probe well signed, one with a wrong signature"
    )
    parser.add_argument(
        "--chain", action="store_true", help="also walk the way of a message to here: DNS, port 25, TLS, and one probe by mail"
    )
    parser.add_argument(
        "--postfix-config",
        default=os.environ.get("POSTFIX_CONFIG", ""),
        metavar="FOLDER",
        help="the folder of its main.cf, or `none` (default: $POSTFIX_CONFIG, else the Postfix that runs this gatepost.yml)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The report, worst first."""
    checks = worst_first(
        examine(
            arguments.config,
            pipe_script=pipe_script(),
            python=sys.executable,
            become_owner=become_store_owner,
            postfix=arguments.postfix_config,
            probe=arguments.probe,
            chain=arguments.chain,
        )
    )
    if arguments.json:
        for check in checks:
            print(json.dumps(check.__dict__))
    else:
        for check in checks:
            _show(check)
        print(f"doctor: {_summary(checks)}")
    failed = {check.name for check in checks if check.status == "FAIL"}
    if not failed:
        return 0
    return 75 if any(check.name == "everything-else" for check in checks) else 1


def _show(check: Check) -> None:
    """One check: status, name, evidence; below it what mends it, unbroken, so that it can be copied."""
    width = max(80, min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST))
    first = f"{check.status:<{_NAME_COLUMN}}{check.name:<{_TEXT_COLUMN - _NAME_COLUMN - 1}} "
    print(
        "\n".join(
            textwrap.wrap(
                check.evidence,
                width,
                initial_indent=first,
                subsequent_indent=" " * _TEXT_COLUMN,
                break_long_words=False,
                break_on_hyphens=False,
            )
            or [first.rstrip()]
        )
    )
    if check.mend:
        print(f"{'':<{_NAME_COLUMN}}mend: {check.mend}")


def _summary(checks: tuple[Check, ...]) -> str:
    counts = {
        status: sum(check.status == status for check in checks) for status in ("FAIL", "warn", "unknown", "ok", "not used")
    }
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "FAIL")
