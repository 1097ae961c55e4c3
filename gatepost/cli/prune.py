"""`gatepost prune`: deletes ledger rows and parked mail that are past their age, a bounded number a run."""

from __future__ import annotations

import json
import time

from gatepost.cli import add_common
from gatepost.cli.store_owner import become_store_owner
from gatepost.config import load
from gatepost.gateway import KEEP_ROWS
from gatepost.stores.ledger import Ledger
from gatepost.stores.parked import Parked

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]

#: Rows in one transaction: about 6 ms in which no message can write, in a ledger of a million.
_AT_ONCE = 250


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost prune`."""
    add_common(parser)
    parser.add_argument("--most", type=int, default=10_000, metavar="N", help="delete at most N of each (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Deletes, then says how much."""
    settings = load(arguments.config)
    become_store_owner(settings.store)
    now = time.time()
    ledger, parked = Ledger.open(settings.store), Parked.open(settings, now=time.time)
    counts = {"ledger_rows": _rows(ledger, now, arguments.most), "parked": parked.prune(now, arguments.most)}
    parked.close()
    ledger.close()
    if arguments.json:
        print(json.dumps(counts))
    else:
        print(f"deleted {counts['ledger_rows']} ledger rows and {counts['parked']} parked messages")
    return 0


def _rows(ledger: Ledger, now: float, most: int) -> int:
    """Deletes a few at a time, and between two of them leaves the ledger to others for as long as it had it."""
    deleted = 0
    while deleted < most:
        began = time.monotonic()
        some = ledger.prune(now, KEEP_ROWS, min(_AT_ONCE, most - deleted))
        deleted += some
        if some < _AT_ONCE:
            break
        time.sleep(time.monotonic() - began)
    return deleted
