"""`keys:` of a route: its names, what each format needs, and which secrets it names.

Promises: a format has what it needs and nothing that belongs to another; a key that nobody can check is a problem.
Never: opens a file; holds a secret.
"""

from __future__ import annotations

from gatepost.config.draft import SecretUse
from gatepost.config.notes import Notes, shown
from gatepost.config.scalars import choice, file_name, host_name, label, truth, webhook_url
from gatepost.config.sections import Section, items, listed, scalar
from gatepost.keys.formats import CANNOT_TELL, FORMATS
from gatepost.settings import KeySettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gatepost.config.sections import Table

    #: By the name of the webhook.
    Webhooks = dict[str, SecretUse]

__all__ = ["agree_on_keys", "ask_use", "key_table", "key_tree", "key_use"]


def key_table(folder: str) -> Table:
    """Every name; relative files are meant from `folder`."""
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


def key_tree(keys: Section) -> dict[str, Any]:
    """For `settings.from_tree`, without secrets."""
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


def agree_on_keys(keys: Section, notes: Notes) -> None:
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


def key_use(keys: Section, tree: dict[str, Any]) -> list[SecretUse]:
    """The secret of signed keys; `tree`: where it goes."""
    if "secret" not in keys.values:
        return []
    node = keys.nodes["secret"]
    return [SecretUse(name=tree["secret"], kind="key", line=node.line, column=node.column, owner=tree)]


def ask_use(keys: Section, route: dict[str, Any], webhooks: Webhooks, notes: Notes) -> list[SecretUse]:
    """What signs the question: `ask_secret`, or else the secret of the first webhook that the route delivers to."""
    owner, place = route["keys"]["ask"], keys.nodes["ask"]
    sink = next((webhooks[name] for name in route["deliver"] if name in webhooks), None)
    if sink is not None:
        owner["ca_file"] = sink.owner["ca_file"]
    if keys.wrote("ask_secret"):
        if "ask_secret" not in keys.values:
            return []
        place = keys.nodes["ask_secret"]
        return [SecretUse(name=keys.get("ask_secret"), kind="webhook", line=place.line, column=place.column, owner=owner)]
    if sink is None:
        notes.problem(place, "ask: no webhook of this route has a secret to sign the question with: name one under ask_secret:")
        return []
    return [sink.replace(owner=owner)]
