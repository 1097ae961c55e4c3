"""`gatepost serve`: the warm process, LMTP on a Unix socket, in the foreground until a signal ends it."""

from __future__ import annotations

import os

from gatepost.cli import add_common
from gatepost.cli.store_owner import become_store_owner
from gatepost.config import load
from gatepost.errors import GatepostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost serve`."""
    add_common(parser, json=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the warm process; 0 after SIGTERM or SIGINT. Whatever keeps it from starting is 75, with what to do about it."""
    config = os.path.abspath(arguments.config)
    settings = load(config)
    if settings.lmtp is None:
        raise GatepostError(f"{config}: there is no lmtp: section, which says where to listen (docs/lmtp.md)")
    from gatepost_filter.server import serve

    become_store_owner(settings.store)
    if os.geteuid() == 0:
        raise GatepostError(f"serve does not run as root: give the store to a user (chown -R gatepost {settings.store})")
    os.chdir("/")
    return serve(config)
