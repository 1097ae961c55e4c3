"""Which lines are missing from this host's files of revoked keys.

Promises: a line that any host of the group has, or that is given, and this host has not, once for each file.
Never: names a line to be taken out.
"""

from __future__ import annotations

import base64
from typing import Any

__all__ = ["FilterModule"]


def gatepost_refused(results: list[dict[str, Any]], host: str, given: list[str], files: list[str]) -> list[tuple[str, str]]:
    """(file, line) to add; `results` are slurped, item = (host, file)."""
    mine: dict[str, set[str]] = {name: set() for name in files}
    wanted: dict[str, dict[str, None]] = {name: dict.fromkeys(_lines(given)) for name in files}
    for result in results:
        where, name = result["item"]
        if "content" not in result or name not in wanted:
            continue
        lines = _lines(base64.b64decode(result["content"]).decode("utf-8", "replace").splitlines())
        wanted[name].update(dict.fromkeys(lines))
        if where == host:
            mine[name].update(lines)
    return [(name, line) for name, lines in wanted.items() for line in lines if line not in mine[name]]


def _lines(text: list[str]) -> list[str]:
    """Those that name a key, without the blanks around them."""
    return [bare for line in text if (bare := line.strip()) and not bare.startswith("#")]


class FilterModule:
    """Ansible asks for this class by name."""

    def filters(self) -> dict[str, Any]:
        """By the name in Jinja."""
        return {"gatepost_refused": gatepost_refused}
