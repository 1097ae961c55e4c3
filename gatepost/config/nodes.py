"""YAML as nodes with positions: a mapping, a list, or a text; nothing else.

Promises: every scalar is a text (YAML 1.1 would read `on`, `1:30` and `010` as something else); a name that stands twice,
an anchor, an alias, a merge, a tag and a second document are problems, not meanings; depth and number of nodes are bounded;
no bytes make it raise.
Never: recurses, follows an alias, or builds an object from a tag.
"""

from __future__ import annotations

import re

import yaml

from gatepost.config.notes import Notes
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Broken", "Entry", "Item", "List", "Mapping", "Node", "Text", "parse"]

#: The schema's deepest name stands at 6.
_MAX_DEPTH = 16
#: 1 MiB of commas would be half a million nodes; a thousand routes are twenty thousand.
_MAX_NODES = 50_000
_MAX_ODD = 10

#: What an editor does not show as a character, and what would make our line numbers differ from the editor's.
_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]|\r(?!\n)|(?m:^) *\t")
#: The same in a text that has been read: an escape ("\\0") can make any of them, and a line end means a block or a long quote.
_ODD_IN_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")

_QUOTE = "put quotation marks around the text"
#: pyyaml's own words, and what a person can do about it. First match wins.
_HINTS = (
    (r"character '\\t'", "a tab: use spaces"),
    (r"character '(.)' that cannot start any token", f"text cannot begin with this character: {_QUOTE}"),
    (r"mapping values are not allowed here", f"a colon does not fit here: look at the indentation, or {_QUOTE}"),
    (r"could not find expected ':'", "a name without its colon, or a colon without the space that must follow it"),
    (r"found unexpected end of stream", "the quotation mark at the front has no partner"),
    (r"expected '?,' or '(.)'", "a bracket is not closed, or a comma is missing"),
    (r"node content, but found '<stream end>'", "the file ends before this is complete"),
    (r"expected <block end>", "does not fit what is around it: look at the indentation and the quotation marks"),
    (r"expected alphabetic or numeric character", _QUOTE + " that begins with %, & or *"),
)


class Node(Value):
    """Something in the file, and where: line and column count from 1."""

    line: int
    column: int


class Text(Node):
    """A scalar, quoted or not."""

    text: str


class Broken(Node):
    """What was there is a problem that has been told already."""


class Entry(Value):
    """A name in a mapping, where it stands, and what it is given."""

    name: Text
    node: Node


class Mapping(Node):
    """Names and what they are given; each name once."""

    entries: tuple[Entry, ...]


class Item(Value):
    """One opened collection while it is being read."""

    place: Node
    named: bool
    children: list[Node]


class List(Node):
    """Nodes in their order."""

    items: tuple[Node, ...]


class _StopReadingError(Exception):
    """Reading cannot go on; the problem has been told."""


def parse(data: bytes, notes: Notes) -> Node | None:
    """The document's root, or None where it cannot be read (then `notes` has at least one problem)."""
    text = _decoded(data, notes)
    if text is None:
        return None
    try:
        return _root(text, notes)
    except _StopReadingError:
        return None
    except yaml.MarkedYAMLError as fault:
        notes.problem(_mark(fault.problem_mark or fault.context_mark), _in_plain_words(fault, notes))
    except (yaml.YAMLError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError):
        # pyyaml lets a few escape: "\UFFFFFFFF" is an OverflowError of chr().
        notes.problem(Node(line=0, column=0), "is not YAML: look for a backslash in quotation marks")
    return None


def _decoded(data: bytes, notes: Notes) -> str | None:
    """The text, or None where there are bytes or characters that do not belong into it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        before = fault.object[: fault.start].decode("utf-8-sig", "replace")
        notes.problem(_place(before, len(before)), f"byte 0x{fault.object[fault.start]:02x} is not UTF-8")
        return None
    odd = _ODD.finditer(text)
    for found, _ in zip(odd, range(_MAX_ODD), strict=False):
        last = found.end() - 1
        tab = text[last] == "\t"
        what = "a tab at the front of a line: use spaces" if tab else f"control character U+{ord(text[last]):04X}"
        notes.problem(_place(text, last), what)
    return None if notes.problems else text


def _place(text: str, offset: int) -> Node:
    return Node(line=text.count("\n", 0, offset) + 1, column=offset - text.rfind("\n", 0, offset))


def _mark(mark: Any) -> Node:
    return Node(line=mark.line + 1, column=mark.column + 1) if mark else Node(line=0, column=0)


def _in_plain_words(fault: yaml.MarkedYAMLError, notes: Notes) -> str:
    problem = fault.problem or fault.context or "unreadable"
    hint = next((words for pattern, words in _HINTS if re.search(pattern, problem)), "")
    if notes.private:
        return "is not YAML: " + (hint or "each line is `name: [text, ...]`, with quotation marks around each text")
    where = fault.context_mark and f" ({fault.context}, begun at {fault.context_mark.line + 1}:{fault.context_mark.column + 1})"
    return f"is not YAML: {hint or problem}{where or ''}"


def _root(text: str, notes: Notes) -> Node | None:
    """One pass over pyyaml's events with a stack of our own."""
    open_items: list[Item] = []
    root: Node | None = None
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = _mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            notes.problem(place, "a second document: only one is read, take the --- line away")
            raise _StopReadingError
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            _refuse_properties(event, place, notes)
            if len(open_items) == _MAX_DEPTH:
                notes.problem(place, f"nested deeper than {_MAX_DEPTH} levels")
                raise _StopReadingError
            open_items.append(Item(place=place, named=isinstance(event, yaml.MappingStartEvent), children=[]))
            continue
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            node = _closed(open_items.pop(), notes)
        elif isinstance(event, yaml.ScalarEvent):
            node = _scalar(event, place, notes)
        elif isinstance(event, yaml.AliasEvent):
            notes.problem(place, f"an alias; there are none here: write it out, or {_QUOTE} that begins with *")
            node = Broken(line=place.line, column=place.column)
        else:
            continue
        count += 1
        if count > _MAX_NODES:
            notes.problem(place, f"more than {_MAX_NODES:,} values: is it the right file?")
            raise _StopReadingError
        if open_items:
            open_items[-1].children.append(node)
        else:
            root = node
    if root is None or (isinstance(root, Text) and not root.text):
        notes.problem(Node(line=0, column=0), "is empty")
        return None
    return root


def _refuse_properties(event: yaml.NodeEvent, place: Node, notes: Notes) -> bool:
    """Anchors and tags are problems; True where there was one."""
    if event.anchor is not None:
        notes.problem(place, f"an anchor; there are none here: take it away, or {_QUOTE} that begins with &")
    if getattr(event, "tag", None) is not None:
        notes.problem(place, f"a tag; there are none here: take it away, or {_QUOTE} that begins with !")
        return True
    return event.anchor is not None


def _scalar(event: yaml.ScalarEvent, place: Node, notes: Notes) -> Node:
    if _refuse_properties(event, place, notes):
        return Broken(line=place.line, column=place.column)
    odd = _ODD_IN_TEXT.search(event.value)
    if odd:
        what = "a line end" if odd[0] == "\n" else f"control character U+{ord(odd[0]):04X}"
        notes.problem(place, f"{what} in a text: write it on one line")
        return Broken(line=place.line, column=place.column)
    return Text(line=place.line, column=place.column, text=event.value)


def _closed(item: Item, notes: Notes) -> Node:
    """The collection, once its end has been seen."""
    place = item.place
    if not item.named:
        return List(line=place.line, column=place.column, items=tuple(item.children))
    entries: dict[str, Entry] = {}
    for name, node in zip(item.children[::2], item.children[1::2], strict=True):
        if isinstance(name, Broken):
            continue
        if not isinstance(name, Text):
            notes.problem(name, "a name must be a text")
        elif name.text == "<<":
            notes.problem(name, "a merge; there are none here: write it out")
        elif name.text in entries:
            first = entries[name.text].name
            notes.problem(name, f"{notes.named(name.text)} stands twice: the first is at {first.line}:{first.column}")
        else:
            entries[name.text] = Entry(name=name, node=node)
    return Mapping(line=place.line, column=place.column, entries=tuple(entries.values()))
