"""The configuration: YAML in, `Settings` out, or every problem at once.

The map: `source` reads a file and checks its mode; `compiled` keeps a copy that needs no YAML; `loading` is the whole way,
by `nodes` (YAML to nodes with positions), `scalars` (one text to one value), `schema` with
`route_schema`, `key_schema` and `sink_schema` (names, types and what must agree), and `secret_file`; `notes` collects the
problems, and `draft` is what comes out.

Promises: the answer depends on the files alone, never on the environment; a problem names its file, line and column.
Never: imports YAML for `load_compiled` while the compiled copy is good; looks at the network; shows a secret.
"""

from __future__ import annotations

from gatepost.config.compiled import load_compiled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.errors import Problem
    from gatepost.settings import Settings

__all__ = ["load", "load_compiled", "load_with_warnings"]


def load(path: str) -> Settings:
    """The settings in the file `path`. Raises `errors.ConfigError` with every problem in it and in its secrets file."""
    return load_with_warnings(path)[0]


def load_with_warnings(path: str) -> tuple[Settings, tuple[Problem, ...]]:
    """As `load`, and what is legal but deserves a word: names not acted on yet, times that do not fit Postfix's defaults."""
    from gatepost.config.loading import build  # YAML: 16 ms that the hot path does not pay

    built = build(path)
    return built.settings(), built.warnings
