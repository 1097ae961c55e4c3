"""The whole way from the file to a tree that `settings.from_tree` takes: read, parse, check, put the secrets in.

Promises: every problem of the configuration and of its secrets file comes in one `ConfigError`, the configuration's first.
Never: on the way of a message while the compiled copy is good: this brings YAML.
"""

from __future__ import annotations

import os.path

from gatepost.config import schema, secret_file
from gatepost.config.nodes import Node, Text, parse
from gatepost.config.notes import Notes, in_order, suggestion
from gatepost.config.source import read_config, read_secrets
from gatepost.errors import ConfigError, Problem
from gatepost.settings import Settings, from_tree
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gatepost.config.draft import Draft

__all__ = ["Built", "build"]


class Built(Value):
    """A configuration without problems: its tree, its warnings, and the secrets file that went in ("" = none was needed)."""

    tree: dict[str, Any]
    warnings: tuple[Problem, ...]
    secrets_path: str
    secrets_bytes: bytes

    def settings(self) -> Settings:
        """The values that every other module is given."""
        return from_tree(self.tree)


def build(path: str, source: tuple[bytes, tuple[Problem, ...]] | None = None) -> Built:
    """The configuration in `path`; `source` where its bytes have been read already. Raises ConfigError."""
    data, problems = read_config(path) if source is None else source
    notes, private = Notes(path), Notes("", private=True)
    root = parse(data, notes)
    if root is None:
        raise ConfigError((*problems, *in_order(notes.problems)))
    secret_problems: tuple[Problem, ...] = ()
    draft = schema.check(root, notes, os.path.dirname(os.path.abspath(path)))
    secrets = b""
    if draft.secrets_path:
        private.file = draft.secrets_path
        secrets, secret_problems = _put_secrets_in(draft, notes, private)
    problems = (*problems, *in_order(notes.problems), *secret_problems, *in_order(_once(private.problems)))
    if problems:
        raise ConfigError(problems)
    _warn_of_missing_files(draft, notes)
    tree = {"file": os.path.abspath(path), **draft.tree}
    return Built(tree=tree, warnings=in_order(notes.warnings), secrets_path=draft.secrets_path, secrets_bytes=secrets)


def _put_secrets_in(draft: Draft, notes: Notes, private: Notes) -> tuple[bytes, tuple[Problem, ...]]:
    """Reads the secrets file and gives each use its keys. The bytes, and the problems of the file as a whole."""
    try:
        data, problems = read_secrets(draft.secrets_path)
    except ConfigError as fault:
        return b"", fault.problems
    entries = secret_file.read_entries(data, private)
    if entries is None:
        return data, problems
    for use in draft.uses:
        if use.name in entries:
            use.owner["secrets"] = secret_file.decoded(use, entries[use.name], private)
        else:
            # The name is not shown: people put the secret itself here.
            near = suggestion(use.name, (name for name, nodes in entries.items() if all(isinstance(n, Text) for n in nodes)))
            notes.problem(use, f"secret: there is no entry of this name in {draft.secrets_path}{near}")
    return data, problems


def _once(problems: list[Problem]) -> list[Problem]:
    """Two uses of one secret tell the same problem; it is mended once."""
    return list(dict.fromkeys(problems))


def _warn_of_missing_files(draft: Draft, notes: Notes) -> None:
    node: Node
    for path, node in draft.ca_files:
        if not os.path.isfile(path):
            notes.warning(node, f"ca_file: there is no file {path}: every hand-over to this sink will be deferred")
