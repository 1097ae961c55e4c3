"""`sinks:`: what each may say; a sink is one thing, with what belongs to it.

Promises: every sink is looked at, whatever is wrong with another.
Never: opens a file; holds a secret.
"""

from __future__ import annotations

from gatepost.config.draft import SecretUse
from gatepost.config.nodes import Text
from gatepost.config.notes import Notes, shown
from gatepost.config.scalars import absolute_path, choice, count, file_name, label, slug, truth, webhook_url
from gatepost.config.sections import Section, entries, items, listed, scalar, section
from gatepost.settings import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gatepost.config.nodes import Entry, Node
    from gatepost.config.sections import Table

__all__ = ["sink_table", "sink_trees"]


def sink_trees(
    node: Node | None, notes: Notes, folder: str
) -> tuple[list[dict[str, Any]], list[SecretUse], tuple[tuple[str, Node], ...]]:
    """The sinks as trees, the secrets that they name, and the CA files."""
    trees: list[dict[str, Any]] = []
    uses: list[SecretUse] = []
    ca_files: list[tuple[str, Node]] = []
    for entry in entries(node):
        scalar(slug)(entry.name, notes, "a sink's name")
        sink = section(entry.node, notes, entry.name.text[:40], sink_table(folder), elsewhere={"deliver": "a route"})
        if not sink.whole:
            continue
        _agree(entry, sink, notes)
        tree = _sink_tree(entry, sink)
        trees.append(tree)
        if "secret" in sink.values and tree["kind"] == "webhook":
            place = sink.nodes["secret"]
            use = SecretUse(name=sink.get("secret"), kind="webhook", line=place.line, column=place.column, owner=tree)
            uses.append(use)
        if "ca_file" in sink.values:
            ca_files.append((sink.get("ca_file"), sink.nodes["ca_file"]))
    if node is not None and not entries(node) and hasattr(node, "entries"):
        notes.problem(node, "sinks: is empty; it needs at least one")
    return trees, uses, tuple(ca_files)


def sink_table(folder: str) -> Table:
    """Every name; relative files are meant from `folder`."""
    return {
        "webhook": scalar(webhook_url),
        "secret": scalar(label),
        "format": scalar(choice("json", "raw")),
        "confirm": scalar(truth),
        "ca_file": scalar(file_name(folder)),
        "maildir": scalar(absolute_path),
        "command": _command,
        "at_once": scalar(count(1, 10_000)),
    }


def _command(node: Node, notes: Notes, name: str) -> list[str] | None:
    """A program and its words: a list, since no shell takes a line apart; absolute, since there is no PATH to look along."""
    if isinstance(node, Text) and node.text:
        notes.problem(node, f"{name}: must be a list, one word an item, such as [/bin/app, --mail]: there is no shell")
        return None
    words: list[str] | None = listed(scalar(str), least=1)(node, notes, name)
    if words and not words[0].startswith("/"):
        notes.problem(items(node)[0], f"{name}: {shown(words[0])} is no absolute path: begin the program with /")
    return words


def _agree(entry: Entry, sink: Section, notes: Notes) -> None:
    """A sink is one thing, with what belongs to it."""
    kinds = [name for name in ("webhook", "maildir", "command") if name in sink.nodes]
    if not kinds and sink.meant & {"webhook", "maildir", "command"}:
        return
    if not kinds:
        notes.problem(
            entry.name,
            (f"{shown(entry.name.text)}: says nowhere to go: give it webhook: URL, maildir: /FOLDER or command: [/PROGRAM]"),
        )
    elif len(kinds) > 1:
        notes.problem(sink.nodes[kinds[1]], f"{kinds[1]}: this sink is a {kinds[0]} already; make it two sinks")
    elif kinds == ["webhook"] and not sink.wrote("secret"):
        notes.problem(entry.name, f"{shown(entry.name.text)}: secret is missing: the name of an entry in the secrets file")
    elif kinds != ["webhook"]:
        for name in ("secret", "format", "confirm", "ca_file"):
            if name in sink.nodes:
                notes.problem(sink.nodes[name], f"{name}: belongs to a webhook; this sink is a {kinds[0]}")


def _sink_tree(entry: Entry, sink: Section) -> dict[str, Any]:
    kind = next((name for name in ("maildir", "command") if name in sink.nodes), "webhook")
    words = sink.get("command", [])
    target = next(iter(words), "") if kind == "command" else sink.get(kind, "")
    return {
        "name": entry.name.text,
        "kind": kind,
        "target": target,
        "argv": words,
        "secrets": [],
        **sink.good(format=Sink.format, confirm=Sink.confirm, ca_file=Sink.ca_file, at_once=Sink.at_once),
    }
