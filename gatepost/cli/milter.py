"""`gatepost milter`: the door at SMTP time, in the foreground until a signal ends it."""

from __future__ import annotations

import os
import sys

from gatepost.cli import add_common
from gatepost.cli.store_owner import become_store_owner
from gatepost.config import load
from gatepost.errors import GatepostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost milter`."""
    add_common(parser, json=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the milter; 0 after SIGTERM or SIGINT. Whatever keeps it from starting is 75, with what to do about it."""
    try:
        import Milter  # noqa: F401  # `import milter` finds a folder of ours where it is not installed
    except ModuleNotFoundError:
        print('gatepost: pymilter is not installed: pip install "gatepost[milter]"', file=sys.stderr)
        return 75
    except ImportError as error:  # the library that it stands on is gone: apt-get install libmilter1.0.1
        print(f"gatepost: pymilter cannot be loaded: {error}", file=sys.stderr)
        return 75
    config = os.path.abspath(arguments.config)
    settings = load(config)
    if settings.milter is None:
        raise GatepostError(f"{config}: there is no milter: section, which says where to listen (docs/milter.md)")
    if settings.milter.authenticate:
        try:
            import gatepost.authentication  # noqa: F401  # as the milter will
        except ImportError as error:
            raise GatepostError(f"the extra [milter] is not whole ({error}): pip install 'gatepost[milter]'") from error
    from gatepost_milter.server import serve

    become_store_owner(settings.store)
    if os.geteuid() == 0:
        raise GatepostError(f"the milter does not run as root: give the store to a user (chown -R gatepost {settings.store})")
    os.chdir("/")
    return serve(config)
