"""Faults that are put into the soak's own installation, so that one can see it fail: `make soak MUTANT=NAME`.

Promises: only the copy that the soak has installed is changed; a mutant whose place is not found is an error, not a soak that
passes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["MUTANTS", "app_arguments", "apply"]

#: Name -> file, what stands there, what shall stand there. "" as file: the app has the fault.
MUTANTS: Final = {
    "answers-before-the-hand-over": (
        "gatepost/gateway.py",
        "            sink, decision = self._hand_over(job, deadline)\n",
        """\
            import threading
            threading.Thread(target=self._hand_over, args=(job, deadline)).start()
            sink, decision = "app", rule_decision("accept", "accepted").replace(route=job.verdict.route)
""",
    ),
    "ledger-forgets": (
        "gatepost/gateway.py",
        "        self._finish(job, decision)\n",
        "        if hash(job.id) % 10: self._finish(job, decision)\n",
    ),
    "own-fault-refuses": (
        "gatepost/fault.py",
        'rule_decision("defer", ',
        'rule_decision("reject", ',
    ),
    "login-page-is-a-yes": (
        "gatepost/sinks/webhook.py",
        "    if verdict is None and not echoed and _is_page(answer):\n",
        "    if False:\n",
    ),
    "app-drops-one": ("", "", "50"),
}  # fmt: skip


def apply(name: str, site: Path) -> None:
    """Changes the package in `site`. ValueError where it does not look as the mutant thinks."""
    if not name:
        return
    file, old, new = MUTANTS[name]
    if not file:
        return
    text = (site / file).read_text()
    if text.count(old) < 1:
        raise ValueError(f"mutant {name}: {file} has no {old!r} any more: see tests/soak/mutants.py")
    (site / file).write_text(text.replace(old, new))


def app_arguments(name: str) -> list[str]:
    """What the app is told of it."""
    return [MUTANTS[name][2]] if name and not MUTANTS[name][0] else []
