"""What can be found out at the end, each from where it stands: the app's journal, both logs, the queue, parked mail, the ledger.

Promises: nothing here judges; `count` does.
Never: takes one place's word for what another has.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import subprocess
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from demo.postfix_instance import Delivery
from tests.soak.letters import number_of
from tests.soak.place import Place

__all__ = ["Evidence", "Line", "Take", "gather"]

_FIELD: Final = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
_LINE: Final = re.compile(r"\S+ gatepost\[\d+\]: \S+: (.*)")


@dataclass(frozen=True)
class Take:
    """One request that the app read whole. `how`: ok, or its fault or will. `answered`: its answer left, whole."""

    at: float
    how: str
    took: bool
    answered: bool
    id: str
    message_id: str
    recipient: str
    octets: str
    whole: bool


@dataclass(frozen=True)
class Line:
    """One line of our own log."""

    fields: dict[str, str]


@dataclass
class Evidence:
    """Everything. Pairs are (queue ID, recipient in lower case); ids are delivery ids. `parked` has the rule, `rows` the state."""

    takes: list[Take] = field(default_factory=list)
    unsigned: int = 0
    lines: list[Line] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    queued: set[tuple[str, str]] = field(default_factory=set)
    parked: dict[tuple[str, str], str] = field(default_factory=dict)
    notices: Counter[int] = field(default_factory=Counter)
    rows: dict[str, str] = field(default_factory=dict)
    host_id: str = ""
    _of_id: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))

    def id(self, queue_id: str, recipient: str) -> str:
        """The delivery id, as docs/design.md defines it."""
        return hashlib.sha256("\0".join(("gatepost delivery 1", self.host_id, queue_id, recipient)).encode()).hexdigest()

    def lines_of(self, id_: str) -> list[Line]:
        """Our lines about one delivery."""
        if not self._of_id:
            for line in self.lines:
                self._of_id[line.fields.get("id", "")].append(line)
        return self._of_id.get(id_, [])


def gather(place: Place) -> Evidence:
    """Looks everywhere. The warm process and Postfix may have ended."""
    found = Evidence()
    _journal(place, found)
    _our_log(place, found)
    found.deliveries = place.postfix.deliveries()
    found.expired = re.findall(r": (\w+): from=<[^\n]*>, status=(?:force-)?expired,", place.postfix.log())
    for entry in place.postfix.queue():
        found.queued.update((entry["queue_id"], each["address"].lower()) for each in entry["recipients"])
    _parked(place, found)
    for message in place.outbox.messages:
        found.notices.update(number_of(each) for each in message.recipients)
    with closing(sqlite3.connect(f"file:{place.store}/gatepost.sqlite?mode=ro", uri=True)) as database:
        if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise RuntimeError("the ledger is damaged")
        ((found.host_id,),) = database.execute("SELECT host_id FROM store").fetchall()
        found.rows = {key.hex(): state for key, state in database.execute("SELECT id, state FROM delivery")}
    return found


def _journal(place: Place, found: Evidence) -> None:
    lines = [json.loads(line) for line in place.journal.read_text().splitlines()]
    answered = {line["number"] for line in lines if line.get("answered")}
    for line in lines:
        if "message_id" in line:
            del line["stamp"]
            found.takes.append(Take(answered=line.pop("number") in answered, **line))
        else:
            found.unsigned += line.get("how") == "unsigned"


def _our_log(place: Place, found: Evidence) -> None:
    for text in place.log_file.read_text(errors="replace").splitlines():
        if match := _LINE.fullmatch(text):
            fields = {name: value.strip('"') for name, value in _FIELD.findall(match[1])}
            found.lines.append(Line(fields))


def _parked(place: Place, found: Evidence) -> None:
    """By the command that a person would use."""
    done = subprocess.run(
        [place.environment.command, "parked", "list", "--json", "--config", str(place.config)],
        capture_output=True, check=True, timeout=120, env={"PATH": "/usr/bin:/bin", "LANG": "C"}, cwd="/",
    )  # fmt: skip
    for line in done.stdout.splitlines():
        entry: dict[str, Any] = json.loads(line)
        found.parked[entry["queue_id"], entry["recipient"].lower()] = entry["rule"]


def by_id(takes: list[Take]) -> dict[str, list[Take]]:
    """Each delivery's requests, in the order in which they came."""
    found: dict[str, list[Take]] = defaultdict(list)
    for take in sorted(takes, key=lambda each: each.at):
        found[take.id].append(take)
    return found
