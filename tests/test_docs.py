"""What the pages promise: links lead somewhere, and every rule slug is in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gatepost.decision import RULES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the project names one that is there."""
    for target in LINK.findall(page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


def test_the_readme_lists_every_rule() -> None:
    """A slug that a sysadmin meets in the log is explained in the README, in the same words."""
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert table == {slug: rule.meaning for slug, rule in RULES.items()}
