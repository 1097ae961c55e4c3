"""Copies of the checkout with something changed: another release, a broken one, a mutant of the roles.

Promises: the checkout itself is never changed; a change that finds nothing to change is an error.
Never: copies what is not the project's (environments, caches).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from tests.lab.machine import CHECKOUT, LabError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.places import Places

__all__ = ["change", "copy_tree"]

_PARTS: Final = ("ansible", "gatepost", "filter", "milter", "postfix", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def copy_tree(places: Places, name: str) -> Path:
    """A copy of what a host is made from, below the lab's folder."""
    target = places.folder / "trees" / name
    target.mkdir(parents=True)
    for part in _PARTS:
        source = CHECKOUT / part
        if source.is_dir():
            shutil.copytree(
                source, target / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "inventory.yml")
            )
        else:
            shutil.copy(source, target / part)
    return target


def change(tree: Path, path: str, old: str, new: str) -> None:
    """Replaces the first place that has `old`; LabError where there is none."""
    file = tree / path
    text = file.read_text()
    if old not in text:
        raise LabError(f"{path} has no {old!r} any more: this mutant says nothing")
    file.write_text(text.replace(old, new, 1))
