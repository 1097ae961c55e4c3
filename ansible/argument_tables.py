"""Writes the tables of variables in the roles' README.md from their meta/argument_specs.yml.

Promises: what stands outside the two marks of a README is left as it is; the same specs give the same table.
Never: reads a role's tasks or defaults, or changes anything but README.md.

    argument_tables.py            writes what differs, and names it
    argument_tables.py --check    writes nothing; exit status 1 where a table is not as its specs say
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BEGIN", "END", "ROLES", "filled_in", "main", "readme", "specs_of", "table"]

ROLES = Path(__file__).resolve().parent / "roles"

#: The table stands between these two lines.
BEGIN = "<!-- made by argument_tables.py from meta/argument_specs.yml: begin -->"
END = "<!-- made by argument_tables.py: end -->"

HEAD = "| variable | type | default | what it says |\n|---|---|---|---|\n"


def specs_of(role: Path) -> dict[str, Any]:
    """The specs of a role's entry points; ValueError where there are none."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    if not isinstance(specs, dict) or not isinstance(specs.get("argument_specs"), dict):
        raise ValueError(f"{role.name}: meta/argument_specs.yml has no argument_specs")
    return dict(specs["argument_specs"])


def table(options: dict[str, Any]) -> str:
    """The options of one entry point as a table in Markdown, options of options below theirs."""
    return HEAD + "".join(_rows(options, prefix=""))


def _rows(options: dict[str, Any], *, prefix: str) -> list[str]:
    rows: list[str] = []
    for name, option in options.items():
        inside = option.get("elements") == "dict"
        cells = (f"`{prefix}{name}`", _type(option), _default(option), _text(option))
        rows.append(f"| {' | '.join(cells)} |\n")
        rows += _rows(option.get("options", {}), prefix=f"{prefix}{name}{'[]' if inside else ''}.")
    return rows


def _type(option: dict[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    if option.get("choices"):
        return ", ".join(f"`{_plain(choice)}`" for choice in option["choices"])
    return f"{kind} of {option['elements']}" if option.get("elements") else kind


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "**needed**"
    if "default" not in option or option["default"] is None:
        return ""
    text = _plain(option["default"]) or '""'
    return f"`{text}`".replace("|", "\\|")


def _plain(value: object) -> str:
    """A value as YAML would have it on one line."""
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _text(option: dict[str, Any]) -> str:
    given = option.get("description", "")
    text = " ".join(given) if isinstance(given, list) else str(given)
    return " ".join(_code(text).split()).replace("|", "\\|")


def _code(text: str) -> str:
    """Ansible's own marks, as `C(x)`, in Markdown's."""
    for mark in ("C(", "O(", "V("):
        while (start := text.find(mark)) >= 0 and (end := text.find(")", start)) >= 0:
            text = f"{text[:start]}`{text[start + 2 : end]}`{text[end + 1 :]}"
    return text


def filled_in(text: str, role: Path) -> str:
    """The README's text with the tables of the role's entry points between the marks; ValueError where it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{role.name}: README.md must have the lines\n{BEGIN}\n{END}")
    made = [f"\n\n{_title(name, spec)}{table(spec.get('options', {}))}" for name, spec in specs_of(role).items()]
    return f"{before}{BEGIN}{''.join(made)}\n{END}{after}"


def _title(name: str, spec: dict[str, Any]) -> str:
    return "" if name == "main" else f"With `tasks_from: {name}` ({spec.get('short_description', '')}):\n\n"


def readme(role: Path) -> Path:
    """Where a role's README lies."""
    return role / "README.md"


def main(arguments: list[str]) -> int:
    """Writes or checks every role's README; the exit status."""
    differing: list[str] = []
    for role in sorted(path for path in ROLES.iterdir() if (path / "meta" / "argument_specs.yml").exists()):
        text = readme(role).read_text(encoding="utf-8")
        wanted = filled_in(text, role)
        if text != wanted:
            differing.append(role.name)
            if "--check" not in arguments:
                readme(role).write_text(wanted, encoding="utf-8")
    sys.stdout.writelines(f"{name}: README.md differs from meta/argument_specs.yml\n" for name in differing)
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
