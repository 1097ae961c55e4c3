"""What a configuration comes to before its secrets are read: a tree, and who names which secret.

Promises: values only. Never: holds a secret: `loading` puts them where `SecretUse.owner` says.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from gatepost.config.nodes import Node

__all__ = ["Draft", "SecretUse"]


class SecretUse(Value):
    """A place that names a secret, and what it is for."""

    name: str
    kind: Literal["key", "webhook"]
    line: int
    column: int
    #: Where the decoded secrets go: the tree's dict under `secrets`.
    owner: dict[str, Any]


class Draft(Value):
    """The tree for `settings.from_tree`, still without secrets; which are needed, and from which file."""

    tree: dict[str, Any]
    uses: tuple[SecretUse, ...]
    #: Absolute; "" where nothing needs a secret, or what was written is no file name.
    secrets_path: str
    #: Files that a sink needs and that the caller may look for: path and place.
    ca_files: tuple[tuple[str, Node], ...]
