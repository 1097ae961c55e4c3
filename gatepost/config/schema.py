"""What the configuration may say: every name, its type, its default, and what must agree with what.

Promises: every problem is told, each at its place; defaults are those of `settings`, so that there is one list of them.
A choice of the design that would change what happens to mail and does not exist yet is a problem; a name that only does
nothing yet is a warning.
Never: opens a file (a path is only folded and made absolute); holds a secret (`loading` puts them in).
"""

from __future__ import annotations

from gatepost.config.draft import Draft
from gatepost.config.notes import Notes
from gatepost.config.route_schema import SCREENING, SENDER, General, route_table, route_trees
from gatepost.config.scalars import (
    address_and_port,
    choice,
    count,
    duration,
    file_name,
    host_name,
    lmtp_socket,
    log_target,
    milter_socket,
    percent,
    rate,
    size,
    store_folder,
    user_name,
)
from gatepost.config.sections import Section, entries, later, listed, mapped, scalar, section
from gatepost.config.sink_schema import sink_trees
from gatepost.settings import (
    DISCOVERY,
    USUAL_LIMITS,
    LmtpSettings,
    MilterSettings,
    ParkedLimits,
    ParserLimits,
    Settings,
    Timing,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gatepost.config.nodes import Node
    from gatepost.config.sections import Table

__all__ = ["check"]

#: Postfix's defaults, in seconds (postconf(5)): minimal_backoff_time 300s, maximal_queue_lifetime 5d.
_MINIMAL_BACKOFF = 300
_MAXIMAL_QUEUE_LIFETIME = 5 * 86_400
#: Seconds, well below the 300s of milter_content_timeout (postconf(5)) and the 10 minutes of a client (RFC 5321 4.5.3.2.6).
_LONGEST_DNS = 60
#: Seconds, below command_time_limit's default of 1000s.
_LONGEST_DEADLINE = 900

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
    **dict.fromkeys(SCREENING, "screening:"),
    **dict.fromkeys(_lmtp, "lmtp:"),
    **dict.fromkeys(_milter, "milter:"),
    "socket": "milter: or lmtp:",
    **dict.fromkeys(("address", "deliver", "keys"), "a route"),
    **dict.fromkeys(("webhook", "maildir", "command", "confirm", "at_once"), "a sink"),
    "secret": "a route's keys: or a sink",
    "must-match": "a route's sender:",
    **dict.fromkeys(("allow", "deny"), "sender:"),
}


def check(root: Node, notes: Notes, folder: str) -> Draft:
    """Reads the whole document; relative files are meant from `folder` (absolute). Problems go to `notes`."""
    top = section(root, notes, "the configuration", _top(folder), required=("routes", "sinks"), elsewhere=_elsewhere)
    timing = _timing_tree(top, notes)
    sender = top.below("sender")
    general = General(
        screening=top.below("screening").values,
        must_match=sender.get("must-match", ""),
        allow=sender.get("allow", []),
        deny=sender.get("deny", []),
    )
    sinks, sink_uses, ca_files = sink_trees(top.nodes.get("sinks"), notes, folder)
    names = {entry.name.text for entry in entries(top.nodes.get("sinks"))}
    webhooks = {use.owner["name"]: use for use in sink_uses}
    routes, route_uses = route_trees(top, notes, general, names if "sinks" in top.nodes else None, webhooks)
    parked = top.below("parked")
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
        "parser": {name: value for name, value in top.below("parser").values.items() if name != "recipient_fields"},
        "discovery": top.below("parser").get("recipient_fields", list(DISCOVERY)),
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
        "routes": listed(mapped(route_table(folder), required=("name", "address", "deliver"), called="this route"), least=1),
        "screening": mapped(SCREENING),
        "sender": mapped(SENDER),
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


def _anything(node: Node, _notes: Notes, _name: str) -> Node:
    """Leaves a node to somebody who knows more about it."""
    return node


def _names(node: Node) -> list[str]:
    return [entry.name.text for entry in entries(node)]


def _timing_tree(top: Section, notes: Notes) -> dict[str, float]:
    """The times, and whether they fit each other and Postfix's defaults."""
    timing = top.below("timing")
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
    milter = top.below("milter")
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
    lmtp = top.below("lmtp")
    if "lmtp" not in top.values:
        return None
    if lmtp.get("socket") and lmtp.get("socket") == top.below("milter").get("socket"):
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
    return {**usual, **top.below("limits").values}
