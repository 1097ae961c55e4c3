"""`routes:`: what each may say, and what must agree within one and between two.

Promises: two routes that could take one address and key are a problem, told at the second.
Never: opens a file; holds a secret.
"""

from __future__ import annotations

from gatepost.config.key_schema import agree_on_keys, ask_use, key_table, key_tree, key_use
from gatepost.config.notes import Notes, shown, suggestion
from gatepost.config.scalars import choice, sender_entry, slug
from gatepost.config.sections import Section, items, listed, mapped, scalar
from gatepost.mail.address import check_pattern, compile_pattern, overlap
from gatepost.settings import Screening
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gatepost.config.draft import SecretUse
    from gatepost.config.key_schema import Webhooks
    from gatepost.config.nodes import Node
    from gatepost.config.sections import Table
    from gatepost.mail.address import AddressPattern

__all__ = ["SCREENING", "SENDER", "General", "route_table", "route_trees"]

_screening_action = scalar(choice("accept", "discard", "reject", "park"))
SCREENING: Table = dict.fromkeys(Screening._fields, _screening_action)
_senders = listed(scalar(sender_entry))
SENDER: Table = {"must-match": scalar(choice("reject", "park", "flag")), "allow": _senders, "deny": _senders}


class General(Value):
    """What a route has where it does not say otherwise."""

    screening: dict[str, str]
    must_match: str
    allow: list[str]
    deny: list[str]


def route_table(folder: str) -> Table:
    """Every name; relative files are meant from `folder`."""
    return {
        "name": scalar(slug),
        "address": scalar(check_pattern),
        "keys": mapped(key_table(folder), required=("format",)),
        "screening": mapped(SCREENING),
        "sender": mapped(SENDER),
        "deliver": listed(scalar(slug), least=1),
    }


def route_trees(
    top: Section, notes: Notes, general: General, sinks: set[str] | None, webhooks: Webhooks
) -> tuple[list[dict[str, Any]], list[SecretUse]]:
    """The routes as trees, in their order, and the secrets that they name. `sinks`: None where none were written."""
    trees: list[dict[str, Any]] = []
    uses: list[SecretUse] = []
    routes: list[Section] = top.get("routes", [])
    for route in routes:
        tree = _route(route, notes, general)
        trees.append(tree)
        if tree["keys"]:
            uses += key_use(route.below("keys"), tree["keys"])
            if tree["keys"]["ask"]:
                uses += ask_use(route.below("keys"), tree, webhooks, notes)
        if sinks is not None:
            _refuse_unknown_sinks(route, notes, sinks)
        _refuse_repeats(items(route.nodes.get("deliver")), notes, "deliver")
    _refuse_repeats(tuple(route.nodes["name"] for route in routes if "name" in route.values), notes, "name")
    _refuse_overlaps(routes, notes)
    return trees, uses


def _refuse_unknown_sinks(route: Section, notes: Notes, sinks: set[str]) -> None:
    """Each name under deliver: that is no sink, once."""
    told: set[str] = set()
    for item in items(route.nodes.get("deliver")):
        if item.text in route.get("deliver", []) and item.text not in sinks | told:
            near = suggestion(item.text, sinks) or f"; known here: {', '.join(sorted(sinks)) or 'none'}"
            notes.problem(item, f"deliver: there is no sink {shown(item.text)}{near}")
            told.add(item.text)


def _route(route: Section, notes: Notes, general: General) -> dict[str, Any]:
    """One route's tree, and whether its parts agree."""
    keys = route.below("keys")
    address: str = route.get("address", "")
    must_match: str = route.below("sender").get("must-match", "")
    if not must_match and route.wrote("keys") and keys.get("format") == "signed":
        must_match = general.must_match
    if "%{key}" in address and not route.wrote("keys"):
        notes.problem(route.nodes["address"], "address: has a place for a key, and the route has no keys: to check it")
    if must_match and not route.wrote("keys"):
        notes.problem(route.nodes["sender"], "sender: must-match needs keys: it compares the sender with the key's owner")
    agree_on_keys(keys, notes)
    if must_match and keys.get("format", "signed") != "signed" and "sender" in route.nodes:
        notes.problem(route.nodes["sender"], "sender: must-match needs format: signed: no other key has an owner")
    screening = route.below("screening").values
    return {
        "name": route.get("name", ""),
        "address": address,
        "keys": key_tree(keys) if "keys" in route.values else None,
        "screening": {
            name: screening.get(name, general.screening.get(name, getattr(Screening, name))) for name in Screening._fields
        },
        "must_match": must_match,
        "allow": route.below("sender").get("allow", general.allow),
        "deny": list(dict.fromkeys((*general.deny, *route.below("sender").get("deny", [])))),
        "deliver": route.get("deliver", []),
    }


def _refuse_repeats(nodes: tuple[Node, ...], notes: Notes, name: str) -> None:
    """Texts that stand twice in what must be different."""
    first: dict[str, Node] = {}
    for node in nodes:
        text = getattr(node, "text", "")
        if text in first:
            notes.problem(node, f"{name}: {shown(text)} stands twice: the first is at {first[text].line}:{first[text].column}")
        first.setdefault(text, node)


def _refuse_overlaps(routes: list[Section], notes: Notes) -> None:
    """Two routes that could take one address and key. Only routes of one domain are compared."""
    domains: dict[str, list[tuple[AddressPattern, Node]]] = {}
    for route in routes:
        if "address" not in route.values:
            continue
        pattern, node = compile_pattern(route.get("address")), route.nodes["address"]
        others = domains.setdefault(route.get("address").rpartition("@")[2], [])
        for other, first in others:
            if overlap(pattern, other):
                notes.problem(node, f"address: the route at {first.line}:{first.column} could take the same address and key")
                break
        others.append((pattern, node))
