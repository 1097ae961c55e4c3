"""Reads nodes against a table of names: what a mapping may hold, what each name must be.

Promises: an unknown name is told with the nearest known one, or with the place where it belongs; a wrong type with the right
one; every name of a mapping is looked at, whatever is wrong with the others.
Never: knows a name of the configuration: those are `schema`'s and its neighbours'.
"""

from __future__ import annotations

import re

from gatepost.config.nodes import Broken, Entry, List, Mapping, Node, Text
from gatepost.config.notes import Notes, near, shown, suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: Gives the value, or None once the problem has been told.
    Reader = Callable[[Node, Notes, str], Any]
    Table = dict[str, Reader]

__all__ = ["Section", "entries", "items", "later", "listed", "mapped", "scalar", "section"]

_NOT_YET = "not acted on in this version"


class Section:
    """What a mapping held: the good values, and the node of every name that was written."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.whole = isinstance(node, Mapping)
        self.values: dict[str, Any] = {}
        self.nodes: dict[str, Node] = {}
        #: Known names that an unknown one comes near to: a misspelled name is one mistake, not also a missing one.
        self.meant: set[str] = set()

    def wrote(self, name: str) -> bool:
        """Whether the name stands there, right, wrong or misspelled."""
        return name in self.nodes or name in self.meant

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name that was written and is right, else the default."""
        return self.values.get(name, default)

    def good(self, **defaults: Any) -> dict[str, Any]:
        """The values under those names, with these defaults."""
        return {name: self.values.get(name, default) for name, default in defaults.items()}

    def below(self, name: str) -> Section:
        """The mapping under that name; an empty one where it was not written, or is wrong."""
        found = self.get(name)
        return found if isinstance(found, Section) else Section(self.node)


def section(
    node: Node,
    notes: Notes,
    name: str,
    table: Table,
    *,
    required: tuple[str, ...] = (),
    elsewhere: dict[str, str] | None = None,
) -> Section:
    """Reads a mapping by its table. `elsewhere`: names that belong to another place, and which."""
    found = Section(node)
    if not isinstance(node, Mapping):
        _wrong_type(node, notes, name, "names with values (name: value)")
        return found
    for entry in node.entries:
        key = entry.name.text
        found.nodes[key] = entry.node
        if key not in table:
            found.meant.add(near(key, table))
            notes.problem(entry.name, _unknown(key, name, table, elsewhere or {}))
            continue
        value = table[key](entry.node, notes, key)
        if value is not None:
            found.values[key] = value
    for key in required:
        if not found.wrote(key):
            notes.problem(node, f"{name}: {key} is missing")
    return found


def _unknown(key: str, name: str, table: Table, elsewhere: dict[str, str]) -> str:
    if key in elsewhere:
        return f"{shown(key)} does not belong here: write it under {elsewhere[key]}"
    return f"unknown setting {shown(key)} in {name}{suggestion(key, table) or _known(table)}"


def _known(table: Table) -> str:
    return f"; known here: {', '.join(table)}"


def _wrong_type(node: Node, notes: Notes, name: str, right: str) -> None:
    if isinstance(node, Broken):
        return
    if isinstance(node, Text) and not node.text:
        notes.problem(node, f"{name}: has no value; it must be {right}")
        return
    kinds: dict[type[Node], str] = {Text: "a text", List: "a list", Mapping: "names with values"}
    notes.problem(node, f"{name}: must be {right}, is {kinds[type(node)]}")


def scalar(parse: Callable[[str], Any]) -> Reader:
    """A reader of one text: `parse` gives its value or raises ValueError."""

    def read(node: Node, notes: Notes, name: str) -> Any:
        if not isinstance(node, Text) or not node.text:
            _wrong_type(node, notes, name, "a text")
            return None
        try:
            return parse(node.text)
        except ValueError as wrong:
            notes.problem(node, f"{name}: {wrong}")
            return None

    return read


def listed(one: Reader, *, least: int = 0) -> Reader:
    """A reader of a list: the good values, in their order."""

    def read(node: Node, notes: Notes, name: str) -> list[Any] | None:
        if not isinstance(node, List):
            plain = isinstance(node, Text) and re.fullmatch("[A-Za-z0-9.-]{1,40}", node.text)
            example = f", such as [{plain[0]}]" if plain else ""
            _wrong_type(node, notes, name, f"a list{example}")
            return None
        if len(node.items) < least:
            notes.problem(node, f"{name}: is empty; it needs at least one")
        values = [one(item, notes, name) for item in node.items]
        return [value for value in values if value is not None]

    return read


def mapped(table: Table, *, required: tuple[str, ...] = (), called: str = "") -> Reader:
    """A reader of a mapping with a table of its own: a `Section`, or None where it is no mapping."""

    def read(node: Node, notes: Notes, name: str) -> Section | None:
        found = section(node, notes, called or name, table, required=required)
        return found if found.whole else None

    return read


def items(node: Node | None) -> tuple[Text, ...]:
    """The texts of a list, with their places; none where it is no list."""
    return tuple(item for item in node.items if isinstance(item, Text)) if isinstance(node, List) else ()


def later(one: Reader | None, advice: str = "") -> Reader:
    """A name that is frozen and not acted on yet: its form is checked (None: anything goes), and a warning says so."""

    def read(node: Node, notes: Notes, name: str) -> None:
        before = len(notes.problems)
        if one is not None:
            one(node, notes, name)
        if len(notes.problems) == before:
            notes.warning(node, f"{name}: {_NOT_YET}{advice}")

    return read


def entries(node: Node | None) -> tuple[Entry, ...]:
    """The names of a mapping; none where it is no mapping."""
    return node.entries if isinstance(node, Mapping) else ()
