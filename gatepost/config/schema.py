"""What the configuration may say: every name, its type, its default, and what must agree with what.

Promises: every problem is told, each at its place; defaults are those of `settings`, so that there is one list of them.
A choice of the design that would change what happens to mail and does not exist yet is a problem; a name that only does
nothing yet is a warning.
Never: opens a file (a path is only folded and made absolute); holds a secret (`loading` puts them in).
"""

from __future__ import annotations

from gatepost.config.nodes import Text
from gatepost.config.notes import Notes, shown, suggestion
from gatepost.config.scalars import (
    absolute_path,
    address_and_port,
    choice,
    count,
    duration,
    file_name,
    host_name,
    label,
    lmtp_socket,
    log_target,
    milter_socket,
    percent,
    rate,
    sender_entry,
    size,
    slug,
    store_folder,
    truth,
    user_name,
    webhook_url,
)
from gatepost.config.sections import Section, entries, items, later, listed, mapped, scalar, section
from gatepost.keys.formats import CANNOT_TELL, FORMATS
from gatepost.mail.address import check_pattern, compile_pattern, overlap
from gatepost.settings import (
    DISCOVERY,
    USUAL_LIMITS,
    KeySettings,
    LmtpSettings,
    MilterSettings,
    ParkedLimits,
    ParserLimits,
    Screening,
    Settings,
    Sink,
    Timing,
)
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from gatepost.config.nodes import Entry, Node
    from gatepost.config.sections import Table
    from gatepost.mail.address import AddressPattern

__all__ = ["Draft", "SecretUse", "check"]

#: Postfix's defaults, in seconds (postconf(5)): minimal_backoff_time 300s, maximal_queue_lifetime 5d.
_MINIMAL_BACKOFF = 300
_MAXIMAL_QUEUE_LIFETIME = 5 * 86_400
#: Seconds, well below the 300s of milter_content_timeout (postconf(5)) and the 10 minutes of a client (RFC 5321 4.5.3.2.6).
_LONGEST_DNS = 60
#: Seconds, below command_time_limit's default of 1000s.
_LONGEST_DEADLINE = 900

_screening_action = scalar(choice("accept", "discard", "reject", "park"))
_screening: Table = dict.fromkeys(Screening._fields, _screening_action)
_senders = listed(scalar(sender_entry))
_sender: Table = {"must-match": scalar(choice("reject", "park", "flag")), "allow": _senders, "deny": _senders}
_milter: Table = {
    "socket": scalar(milter_socket),
    "authserv_id": scalar(host_name),
    "authenticate": listed(scalar(choice(*MilterSettings.authenticate))),
    "dns": listed(scalar(address_and_port)),
    "dns_deadline": scalar(duration),
    "default_action": scalar(choice("tempfail", "accept")),
}
_lmtp: Table = {
    "socket": scalar(lmtp_socket),
    "wiring": scalar(choice("lmtp", "thin", "pipe")),
    "fallback": scalar(choice("local", "defer")),
    "workers": scalar(count(1, 64)),
    "max_messages": scalar(count(1, 10_000)),
    "max_bytes": scalar(count(1_048_576, 1_099_511_627_776, bytes_too=True)),
    "peers": listed(scalar(user_name)),
    "idle": scalar(duration),
}
_rates = listed(scalar(rate))
_limits: Table = dict.fromkeys(("per_key", "per_sender", "per_route"), _rates)
_timing: Table = dict.fromkeys(Timing._fields, scalar(duration))
_parked: Table = {"max_age": scalar(duration), "max_size": scalar(size), "min_free": scalar(percent)}
#: The most of each that can be asked for: the parser is bounded whatever the file says.
_most_bytes = scalar(count(1, 67_108_864, bytes_too=True))
_most_things = scalar(count(1, 1_000_000))
_parser: Table = {name: _most_bytes if name.endswith("_bytes") else _most_things for name in ParserLimits._fields}
_parser["recipient_fields"] = listed(scalar(choice(*DISCOVERY)), least=1)
#: Names that people write one level too high or too low.
_elsewhere = {
    **dict.fromkeys(_timing, "timing:"),
    **dict.fromkeys(_parked, "parked:"),
    **dict.fromkeys(_limits, "limits:"),
    **dict.fromkeys(_screening, "screening:"),
    **dict.fromkeys(_lmtp, "lmtp:"),
    **dict.fromkeys(_milter, "milter:"),
    "socket": "milter: or lmtp:",
    **dict.fromkeys(("address", "deliver", "keys"), "a route"),
    **dict.fromkeys(("webhook", "maildir", "command", "confirm", "at_once"), "a sink"),
    "secret": "a route's keys: or a sink",
    "must-match": "a route's sender:",
    **dict.fromkeys(("allow", "deny"), "sender:"),
}


class SecretUse(Value):
    """A place that names a secret, and what it is for."""

    name: str
    kind: Literal["key", "webhook"]
    line: int
    column: int
    #: Where the decoded secrets go: the tree's dict under `secrets`.
    owner: dict[str, Any]


class _General(Value):
    """What a route has where it does not say otherwise."""

    screening: dict[str, str]
    must_match: str
    allow: list[str]
    deny: list[str]


class Draft(Value):
    """The tree for `settings.from_tree`, still without secrets; which are needed, and from which file."""

    tree: dict[str, Any]
    uses: tuple[SecretUse, ...]
    #: Absolute; "" where nothing needs a secret, or what was written is no file name.
    secrets_path: str
    #: Files that a sink needs and that the caller may look for: path and place.
    ca_files: tuple[tuple[str, Node], ...]


def check(root: Node, notes: Notes, folder: str) -> Draft:
    """Reads the whole document; relative files are meant from `folder` (absolute). Problems go to `notes`."""
    top = section(root, notes, "the configuration", _top(folder), required=("routes", "sinks"), elsewhere=_elsewhere)
    timing = _timing_tree(top, notes)
    sender = _sub(top, "sender")
    general = _General(
        screening=_sub(top, "screening").values,
        must_match=sender.get("must-match", ""),
        allow=sender.get("allow", []),
        deny=sender.get("deny", []),
    )
    sinks, sink_uses, ca_files = _sinks(top.nodes.get("sinks"), notes, folder)
    names = {entry.name.text for entry in entries(top.nodes.get("sinks"))}
    webhooks = {use.owner["name"]: (use, use.owner) for use in sink_uses}
    routes, route_uses = _routes(top, notes, general, names if "sinks" in top.nodes else None, webhooks)
    parked = _sub(top, "parked")
    tree = {
        "trusted": top.get("trusted", []),
        "routes": routes,
        "timing": timing,
        "after_queue": top.get("after_queue", Settings.after_queue),
        "parked": {
            "max_age": parked.get("max_age", ParkedLimits.max_age),
            "max_bytes": parked.get("max_size", ParkedLimits.max_bytes),
            "min_free_percent": parked.get("min_free", ParkedLimits.min_free_percent),
        },
        "parser": {name: value for name, value in _sub(top, "parser").values.items() if name != "recipient_fields"},
        "discovery": _sub(top, "parser").get("recipient_fields", list(DISCOVERY)),
        "limits": _limits_tree(top),
        "milter": _milter_tree(top, notes),
        "lmtp": _lmtp_tree(top, notes),
        "sinks": sinks,
        "store": top.get("store", Settings.store),
        "log": top.get("log", Settings.log),
    }
    return Draft(
        tree=tree,
        uses=(*route_uses, *sink_uses),
        ca_files=ca_files,
        secrets_path=_secrets_path(top, folder, needed=bool(route_uses or sink_uses)),
    )


def _secrets_path(top: Section, folder: str, *, needed: bool) -> str:
    if "secrets" in top.nodes:
        path: str = top.get("secrets", "")
        return path
    return file_name(folder)("secrets.yml") if needed else ""


def _top(folder: str) -> Table:
    """Every top-level name, in the design's order."""
    return {
        "trusted": listed(scalar(host_name)),
        "routes": listed(mapped(_route_table(folder), required=("name", "address", "deliver"), called="this route"), least=1),
        "screening": mapped(_screening),
        "sender": mapped(_sender),
        "limits": mapped(_limits),
        "timing": mapped(_timing),
        "after_queue": scalar(choice("bounce-verified", "bounce", "park", "discard")),
        "parked": mapped(_parked),
        "parser": mapped(_parser),
        "sinks": lambda node, notes, name: section(node, notes, name, dict.fromkeys(_names(node), _anything)),
        "secrets": scalar(file_name(folder)),
        "store": scalar(store_folder),
        "log": scalar(log_target),
        "milter": mapped(_milter, required=("socket", "authserv_id")),
        "lmtp": mapped(_lmtp, required=("socket",)),
        "mailboxes": later(None),
    }


def _route_table(folder: str) -> Table:
    return {
        "name": scalar(slug),
        "address": scalar(check_pattern),
        "keys": mapped(_key_table(folder), required=("format",)),
        "screening": mapped(_screening),
        "sender": mapped(_sender),
        "deliver": listed(scalar(slug), least=1),
    }


def _anything(node: Node, _notes: Notes, _name: str) -> Node:
    """Leaves a node to somebody who knows more about it."""
    return node


def _names(node: Node) -> list[str]:
    return [entry.name.text for entry in entries(node)]


def _sub(top: Section, name: str) -> Section:
    """A mapping below another; an empty one where it was not written, or is wrong."""
    found = top.get(name)
    return found if isinstance(found, Section) else Section(top.node)


def _key_table(folder: str) -> Table:
    return {
        "format": scalar(choice("signed", *FORMATS)),
        "secret": scalar(label),
        "key_id": scalar(label),
        "former_domains": listed(scalar(host_name)),
        "revoked": scalar(file_name(folder)),
        "kinds": listed(scalar(choice(*dict.fromkeys(kind for kinds in FORMATS.values() for kind in kinds))), least=1),
        "pattern": scalar(_expression),
        "file": scalar(file_name(folder)),
        "unchecked": scalar(truth),
        "ask": scalar(webhook_url),
        "ask_secret": scalar(label),
    }


def _expression(text: str) -> str:
    """A pattern's expression that can be used; ValueError with the column in it and the mend."""
    from gatepost.keys.pattern import parse

    parse(text)
    return text


def _timing_tree(top: Section, notes: Notes) -> dict[str, float]:
    """The times, and whether they fit each other and Postfix's defaults."""
    timing = _sub(top, "timing")
    times = timing.good(deadline=Timing.deadline, lease=Timing.lease, give_up_after=Timing.give_up_after)
    written = [timing.nodes[name] for name in ("lease", "deadline") if name in timing.nodes]
    right = all(name in timing.values for name in ("lease", "deadline") if name in timing.nodes)
    if written and right and times["deadline"] >= times["lease"]:
        notes.problem(
            written[0],
            (
                f"timing: deadline ({times['deadline']:g}s) must be below lease ({times['lease']:g}s), "
                "or two runs could hand over one message at once"
            ),
        )
    if "deadline" in timing.values and times["deadline"] > _LONGEST_DEADLINE:
        notes.problem(
            timing.nodes["deadline"],
            (f"deadline: more than {_LONGEST_DEADLINE}s; pipe(8) itself ends a command after 1000s, and that is a bounce"),
        )
    if "lease" in timing.values and times["lease"] >= _MINIMAL_BACKOFF:
        notes.warning(
            timing.nodes["lease"],
            (
                f"lease: not below {_MINIMAL_BACKOFF}s, Postfix's default minimal_backoff_time: "
                "a retry would find the lease held and wait for another turn"
            ),
        )
    if "give_up_after" in timing.values and times["give_up_after"] >= _MAXIMAL_QUEUE_LIFETIME:
        notes.warning(
            timing.nodes["give_up_after"],
            (
                "give_up_after: not below 5d, Postfix's default maximal_queue_lifetime: "
                "Postfix would bounce the message before it is parked"
            ),
        )
    return times


def _milter_tree(top: Section, notes: Notes) -> dict[str, Any] | None:
    """The milter's settings, None where there is none."""
    milter = _sub(top, "milter")
    if "milter" not in top.values:
        return None
    if milter.get("dns_deadline", 0.0) > _LONGEST_DNS:
        notes.problem(milter.nodes["dns_deadline"], f"dns_deadline: more than {_LONGEST_DNS}s; no client should wait so long")
    return {
        "socket": milter.get("socket", ""),
        "authserv_id": milter.get("authserv_id", ""),
        **milter.good(
            authenticate=list(MilterSettings.authenticate),
            dns=[],
            dns_deadline=MilterSettings.dns_deadline,
            default_action=MilterSettings.default_action,
        ),
    }


def _lmtp_tree(top: Section, notes: Notes) -> dict[str, Any] | None:
    """The warm process's settings, None where there is none."""
    lmtp = _sub(top, "lmtp")
    if "lmtp" not in top.values:
        return None
    if lmtp.get("socket") and lmtp.get("socket") == _sub(top, "milter").get("socket"):
        notes.problem(lmtp.nodes["socket"], "socket: is milter.socket as well: two processes cannot listen at one place")
    if lmtp.get("workers", LmtpSettings.workers) > lmtp.get("max_messages", LmtpSettings.max_messages):
        place = lmtp.nodes.get("max_messages", lmtp.nodes.get("workers", lmtp.node))
        notes.problem(place, "max_messages: is less than one for each of the workers")
    return {
        "socket": lmtp.get("socket", ""),
        **lmtp.good(
            wiring=LmtpSettings.wiring,
            fallback=LmtpSettings.fallback,
            workers=LmtpSettings.workers,
            max_messages=LmtpSettings.max_messages,
            max_bytes=LmtpSettings.max_bytes,
            peers=list(LmtpSettings.peers),
            idle=LmtpSettings.idle,
        ),
    }


def _limits_tree(top: Section) -> dict[str, list[tuple[int, float]]]:
    """Nothing is limited without `limits:`; with it, key and sender have the usual windows unless it says otherwise."""
    if not top.wrote("limits"):
        return {}
    usual = {"per_key": list(USUAL_LIMITS), "per_sender": list(USUAL_LIMITS)}
    return {**usual, **_sub(top, "limits").values}


def _routes(
    top: Section,
    notes: Notes,
    general: _General,
    sinks: set[str] | None,
    webhooks: dict[str, tuple[SecretUse, dict[str, Any]]],
) -> tuple[list[dict[str, Any]], list[SecretUse]]:
    """The routes as trees, in their order, and the secrets that they name."""
    trees: list[dict[str, Any]] = []
    uses: list[SecretUse] = []
    routes: list[Section] = top.get("routes", [])
    for route in routes:
        tree = _route(route, notes, general)
        trees.append(tree)
        if tree["keys"]:
            uses += _key_use(_sub(route, "keys"), tree["keys"])
            if tree["keys"]["ask"]:
                uses += _ask_use(_sub(route, "keys"), tree, webhooks, notes)
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


def _route(route: Section, notes: Notes, general: _General) -> dict[str, Any]:
    """One route's tree, and whether its parts agree."""
    keys = _sub(route, "keys")
    address: str = route.get("address", "")
    must_match: str = _sub(route, "sender").get("must-match", "")
    if not must_match and route.wrote("keys") and keys.get("format") == "signed":
        must_match = general.must_match
    if "%{key}" in address and not route.wrote("keys"):
        notes.problem(route.nodes["address"], "address: has a place for a key, and the route has no keys: to check it")
    if must_match and not route.wrote("keys"):
        notes.problem(route.nodes["sender"], "sender: must-match needs keys: it compares the sender with the key's owner")
    _agree_on_keys(keys, notes)
    if must_match and keys.get("format", "signed") != "signed" and "sender" in route.nodes:
        notes.problem(route.nodes["sender"], "sender: must-match needs format: signed: no other key has an owner")
    screening = _sub(route, "screening").values
    return {
        "name": route.get("name", ""),
        "address": address,
        "keys": _key_tree(keys) if "keys" in route.values else None,
        "screening": {
            name: screening.get(name, general.screening.get(name, getattr(Screening, name))) for name in Screening._fields
        },
        "must_match": must_match,
        "allow": _sub(route, "sender").get("allow", general.allow),
        "deny": list(dict.fromkeys((*general.deny, *_sub(route, "sender").get("deny", [])))),
        "deliver": route.get("deliver", []),
    }


def _key_tree(keys: Section) -> dict[str, Any]:
    secret = keys.get("secret", "")
    return {
        "format": keys.get("format", "signed"),
        "secret": secret,
        "key_id": keys.get("key_id", secret),
        "secrets": [],
        "former_domains": keys.get("former_domains", []),
        "revoked": keys.get("revoked", KeySettings.revoked),
        "kinds": keys.get("kinds", []),
        "pattern": keys.get("pattern", ""),
        "file": keys.get("file", ""),
        "unchecked": keys.get("unchecked", False),
        "ask": {"url": keys.get("ask"), "secrets": [], "ca_file": ""} if "ask" in keys.values else None,
    }


#: What belongs to which format; `revoked` belongs to all.
_BELONGS = {
    **dict.fromkeys(("secret", "key_id", "former_domains"), ("signed",)),
    "kinds": ("gitlab", "zulip"),
    "pattern": ("pattern",),
    "file": ("list",),
    "unchecked": tuple(sorted(CANNOT_TELL)),
}
#: What a format cannot do without.
_NEEDS = {
    "signed": ("secret", "the name of an entry in the secrets file"),
    "pattern": ("pattern", "the expression that its keys match"),
    "list": ("file", "the file with the keys, one a line"),
}


def _agree_on_keys(keys: Section, notes: Notes) -> None:
    """A format has what it needs, and nothing that belongs to another."""
    form = keys.get("format")
    if form is None:
        return
    need, what = _NEEDS.get(form, ("", ""))
    if need and not keys.wrote(need):
        notes.problem(keys.node, f"keys: {need} is missing: {what}")
    for name, formats in _BELONGS.items():
        if name in keys.nodes and form not in formats:
            notes.problem(keys.nodes[name], f"{name}: belongs to format: {' or '.join(formats)}; this one is {form}")
    for node in items(keys.nodes.get("kinds")):
        if form in FORMATS and FORMATS[form] and node.text in keys.get("kinds", []) and node.text not in FORMATS[form]:
            notes.problem(node, f"kinds: {shown(node.text)} is no kind of {form}; it has {', '.join(FORMATS[form])}")
    if form in CANNOT_TELL and keys.get("unchecked") is not True and not keys.wrote("ask"):
        notes.problem(
            keys.nodes["format"],
            (
                f"format: {form} cannot tell a live key from a made-up one: name a URL under ask: where your app says it, "
                "or write unchecked: true if your app checks its keys itself"
            ),
        )
    if "ask_secret" in keys.nodes and not keys.wrote("ask"):
        notes.problem(keys.nodes["ask_secret"], "ask_secret: signs the question of ask:, and there is no ask:")
    if "ask" in keys.nodes and keys.get("unchecked") is True:
        notes.problem(keys.nodes["ask"], "ask: the app is asked, so its keys are checked: take unchecked: true out")


def _key_use(keys: Section, tree: dict[str, Any]) -> list[SecretUse]:
    if "secret" not in keys.values:
        return []
    node = keys.nodes["secret"]
    return [SecretUse(name=tree["secret"], kind="key", line=node.line, column=node.column, owner=tree)]


def _ask_use(
    keys: Section, route: dict[str, Any], webhooks: dict[str, tuple[SecretUse, dict[str, Any]]], notes: Notes
) -> list[SecretUse]:
    """What signs the question: `ask_secret`, or else the secret of the first webhook that the route delivers to."""
    owner, place = route["keys"]["ask"], keys.nodes["ask"]
    sink = next((webhooks[name] for name in route["deliver"] if name in webhooks), None)
    if sink is not None:
        owner["ca_file"] = sink[1]["ca_file"]
    if keys.wrote("ask_secret"):
        if "ask_secret" not in keys.values:
            return []
        place = keys.nodes["ask_secret"]
        return [SecretUse(name=keys.get("ask_secret"), kind="webhook", line=place.line, column=place.column, owner=owner)]
    if sink is None:
        notes.problem(place, "ask: no webhook of this route has a secret to sign the question with: name one under ask_secret:")
        return []
    return [sink[0].replace(owner=owner)]


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


def _sinks(
    node: Node | None,
    notes: Notes,
    folder: str,
) -> tuple[list[dict[str, Any]], list[SecretUse], tuple[tuple[str, Node], ...]]:
    """The sinks as trees, the secrets that they name, and the CA files."""
    trees: list[dict[str, Any]] = []
    uses: list[SecretUse] = []
    ca_files: list[tuple[str, Node]] = []
    for entry in entries(node):
        scalar(slug)(entry.name, notes, "a sink's name")
        sink = section(entry.node, notes, entry.name.text[:40], _sink_table(folder), elsewhere={"deliver": "a route"})
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


def _sink_table(folder: str) -> Table:
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
