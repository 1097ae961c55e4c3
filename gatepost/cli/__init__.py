"""The `gatepost` command: one module a subcommand, imported only when it is asked for.

Promises: answers readable on a terminal, one JSON object (or one a line) with `--json`; an error says what to do. Exit status:
0 = done, or the answer is yes; 1 = the answer is no (config has mistakes, the key is refused, the sink did not take it);
2 = the command line is wrong; 75 = cannot be done now (configuration, store).
Never: leaves a file in the store that belongs to root: as root it becomes the store's owner first.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from gatepost import __version__
from gatepost.errors import ConfigError, GatepostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["main"]

#: Subcommand, its module in this package, and what `--help` says of it.
COMMANDS: Final = (
    ("config", "config_check", "check a configuration file"),
    ("key", "key", "mint, read and revoke signed keys"),
    ("try", "try_message", "what would happen to a message, and why"),
    ("parked", "parked", "mail put aside for a person"),
    ("prune", "prune", "delete what is past its age"),
    ("postfix", "postfix", "print the Postfix configuration for this gatepost.yml"),
    ("milter", "milter", "the door at SMTP time: refuses while the sender is still connected"),
    ("serve", "serve", "the warm process: takes messages from Postfix by LMTP"),
    ("doctor", "doctor", "is this installation well, and if not, what is to be done"),
)
DEFAULT_CONFIG: Final = "/etc/gatepost/gatepost.yml"


def _parser(wanted: str | None) -> argparse.ArgumentParser:
    """The whole command line; only the wanted subcommand's module is imported for its options."""
    parser = argparse.ArgumentParser(prog="gatepost", description="Lets an application receive email.")
    parser.add_argument("--version", action="version", version=f"gatepost {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == wanted:
            importlib.import_module(f"gatepost.cli.{module}").add_arguments(command)
    return parser


def add_common(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """`--config` and `--json`, the same on every command that takes them."""
    default = os.environ.get("GATEPOST_CONFIG", DEFAULT_CONFIG)
    parser.add_argument("--config", default=default, metavar="FILE", help=f"default: $GATEPOST_CONFIG or {DEFAULT_CONFIG}")
    if json:
        parser.add_argument("--json", action="store_true", help="for programs")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        _parser(None).print_help(sys.stderr)
        return 2
    wanted = next((word for word in words if not word.startswith("-")), None)
    arguments = _parser(wanted).parse_args(words)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return int(status)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 75
    except GatepostError as error:
        print(f"gatepost: {error}", file=sys.stderr)
        return 75
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `gatepost ... | head`
        return 0
