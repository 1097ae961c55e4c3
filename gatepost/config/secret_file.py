"""The secrets file: names, and for each its texts, newest last.

Promises: each problem names the file, line and column; a secret nobody names is left alone, whatever it is.
Never: puts a text of this file into a problem, an error or a log.
"""

from __future__ import annotations

from gatepost.config.nodes import Broken, List, Mapping, Node, Text, parse
from gatepost.config.notes import Notes
from gatepost.config.scalars import key_secret, webhook_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.config.draft import SecretUse

__all__ = ["decoded", "read_entries"]

_FORM = "must be a list of texts, newest last (or one text)"


def read_entries(data: bytes, notes: Notes) -> dict[str, tuple[Node, ...]] | None:
    """The texts of each name, oldest first; None where the file cannot be read. Problems go to `notes`."""
    root = parse(data, notes)
    if root is None or isinstance(root, Broken):
        return None
    if not isinstance(root, Mapping):
        notes.problem(root, "must be names with values: a line `name: [text, ...]` for each secret")
        return None
    return {entry.name.text: _texts(entry.node) for entry in root.entries}


def _texts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, List):
        return node.items or (node,)
    return (node,)


def decoded(use: SecretUse, nodes: tuple[Node, ...], notes: Notes) -> list[bytes]:
    """What this use makes of the texts: HMAC keys, oldest first."""
    decode = key_secret if use.kind == "key" else webhook_secret
    secrets = []
    for node in nodes:
        if isinstance(node, Broken):
            continue
        if not isinstance(node, Text) or not node.text:
            notes.problem(node, f"the secret {_FORM}")
            continue
        try:
            if node.text != node.text.strip():
                raise ValueError("begins or ends with a blank")
            secrets.append(decode(node.text))
        except ValueError as wrong:
            notes.problem(node, f"the secret {wrong}")
    return secrets
