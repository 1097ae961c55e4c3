"""`gatepost parked list|show|release|drop`: mail put aside for a person.

Promises: `release` hands a message to its route's first sink under the id it always had, without deciding again, and drops the
copy only once the sink has it. An id may be shortened to what is unique.
Never: prints a stranger's control characters to a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import time

from gatepost.cli import add_common
from gatepost.cli.store_owner import become_store_owner
from gatepost.cli.terminal import shown
from gatepost.config import load
from gatepost.errors import GatepostError
from gatepost.gateway import Gateway
from gatepost.log import destination, line, write
from gatepost.stores.parked import Parked

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

    from gatepost.settings import Settings
    from gatepost.stores.parked import Entry

__all__ = ["add_arguments", "run_drop", "run_list", "run_release", "run_show"]

#: Where the mail lies: a domain may have several hosts, and each has a store of its own.
_HOST: Final = os.uname().nodename


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost parked`."""
    actions = parser.add_subparsers(title="actions", required=True)
    listing = actions.add_parser("list", help="what is parked, oldest first")
    listing.set_defaults(run=run_list)
    show = actions.add_parser("show", help="one message: why it is here, and its bytes")
    show.add_argument("id", metavar="ID")
    show.add_argument("--raw", action="store_true", help="only the message's bytes, as they came")
    show.set_defaults(run=run_show)
    release = actions.add_parser("release", help="hand messages to the app after all")
    release.add_argument("--route", default="", metavar="NAME", help="hand over as if it had come to this route")
    release.set_defaults(run=run_release)
    drop = actions.add_parser("drop", help="delete messages for good")
    drop.set_defaults(run=run_drop)
    for action in (release, drop):
        action.add_argument("ids", nargs="*", metavar="ID")
        action.add_argument("--rule", default="", metavar="RULE", help="every message parked under this rule")
    for action in (listing, show, release, drop):
        add_common(action)


def _open(arguments: argparse.Namespace) -> tuple[Settings, Parked]:
    settings = load(arguments.config)
    become_store_owner(settings.store)
    return settings, Parked.open(settings, now=time.time)


def run_list(arguments: argparse.Namespace) -> int:
    """One line, or one JSON object, for each message."""
    _, parked = _open(arguments)
    entries = list(parked.list())
    if arguments.json:
        for entry in entries:
            print(json.dumps(_facts(entry)))
        return 0
    for entry in entries:
        kept = "head only" if entry.headers_only else f"{entry.size} bytes"
        print(f"{entry.id[:12]}  {_when(entry.parked_at)}  {entry.rule:<16} {entry.route or '-':<12} {kept:>14}  "
              f"{shown(entry.sender) or '<>'} -> {shown(entry.recipient)}")  # fmt: skip
    print(f"{len(entries) or 'nothing is'} parked on {_HOST}: each mail host has its own")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """The facts and the bytes of one message."""
    _, parked = _open(arguments)
    entry, raw = parked.load(_whole_id(parked, arguments.id))
    if arguments.raw:
        sys.stdout.buffer.write(raw)
        return 0
    if arguments.json:
        print(json.dumps({**_facts(entry), "raw": raw.decode("utf-8", "replace")}))
        return 0
    facts = {**_facts(entry), "parked_at": _when(entry.parked_at), "headers_only": "yes" if entry.headers_only else "no"}
    for name, value in facts.items():
        print(f"{name.replace('_', ' ') + ':':<14} {shown(str(value)) or '-'}")
    print()
    for text in raw.decode("utf-8", "replace").splitlines():
        print(shown(text))
    return 0


def run_release(arguments: argparse.Namespace) -> int:
    """0: the sinks have them all. 1: at least one stays parked, with the reason."""
    settings, parked = _open(arguments)
    gateway = Gateway(settings)
    stays = 0
    for id_ in _chosen(parked, arguments):
        try:
            receipt = gateway.release(id_, route=arguments.route, deadline=time.monotonic() + settings.timing.deadline)
            rule, detail, sink = receipt.decision.rule, receipt.decision.detail, receipt.sink
            released = receipt.decision.action == "accept"
        except GatepostError as error:  # this one cannot be released; the others may
            rule, detail, sink, released = error.rule, str(error), "", False
        stays += not released
        facts = {"id": id_, "released": released, "sink": sink, "rule": rule, "detail": detail}
        text = line("-", command="release", released="yes" if released else "no", id=id_, sink=sink, rule=rule, detail=detail)
        write(text, destination(settings), error=not released)
        outcome = f"released to {sink}" if released else f"stays parked: {shown(detail)}"
        print(json.dumps(facts) if arguments.json else f"{id_[:12]}  {outcome}")
    return 1 if stays else 0


def run_drop(arguments: argparse.Namespace) -> int:
    """Deletes what is named."""
    _, parked = _open(arguments)
    dropped = _chosen(parked, arguments)
    for id_ in dropped:
        with parked.lock(id_):
            parked.drop(id_)
    print(json.dumps({"dropped": dropped}) if arguments.json else f"dropped {len(dropped)}")
    return 0


def _facts(entry: Entry) -> dict[str, object]:
    """What a person or a program is told of an entry: all but the gateway's own notes."""
    return {**{name: value for name, value in entry.__dict__.items() if name != "meta"}, "host": _HOST}


def _chosen(parked: Parked, arguments: argparse.Namespace) -> list[str]:
    """The ids on the command line, or all under `--rule`; never everything by omission."""
    if bool(arguments.ids) == bool(arguments.rule):
        raise GatepostError("name ids, or one --rule")
    if arguments.rule:
        return [entry.id for entry in parked.list() if entry.rule == arguments.rule]
    return [_whole_id(parked, id_) for id_ in arguments.ids]


def _whole_id(parked: Parked, start: str) -> str:
    found = [entry.id for entry in parked.list() if entry.id.startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    raise GatepostError(f"{start}: {'no parked message has this id' if not found else 'several ids begin so: give more of it'}")


def _when(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp))
