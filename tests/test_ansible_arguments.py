"""What the roles' pages, specs and defaults say of a variable is the same, and each default tells why it is there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ANSIBLE = Path(__file__).resolve().parent.parent / "ansible"
ROLES = sorted(path for path in (ANSIBLE / "roles").iterdir() if path.is_dir())
NAMES = [role.name for role in ROLES]

#: A line of defaults/main.yml that begins a variable.
VARIABLE = re.compile(r"([a-z_][a-z0-9_]*):")


def tables() -> ModuleType:
    """The script beside the roles; it is no part of a package."""
    spec = importlib.util.spec_from_file_location("argument_tables", ANSIBLE / "argument_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("argument_tables", module)
    spec.loader.exec_module(module)
    return module


def defaults_text(role: Path) -> str:
    return (role / "defaults" / "main.yml").read_text(encoding="utf-8")


def defaults(role: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(defaults_text(role)) or {})


def options(role: Path) -> dict[str, Any]:
    """The options of all entry points; one that stands in two must be the same in both."""
    together: dict[str, Any] = {}
    for spec in tables().specs_of(role).values():
        for name, option in spec.get("options", {}).items():
            assert together.setdefault(name, option) == option, f"{name} differs between entry points"
    return together


def test_there_are_the_four_roles() -> None:
    """The tests below see every role that site.yml uses."""
    assert NAMES == ["firewall", "gatepost", "mx", "postfix"]


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_the_page_has_the_table_of_the_specs(role: Path) -> None:
    """README.md has exactly the tables that argument_tables.py makes of meta/argument_specs.yml."""
    page: Path = tables().readme(role)
    text = page.read_text(encoding="utf-8")
    assert text == tables().filled_in(text, role), "run ansible/argument_tables.py"


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_every_default_stands_in_the_specs_with_its_value(role: Path) -> None:
    """A default in defaults/main.yml is an option of the specs, with the same default; the specs have no default of their own."""
    specs = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert specs == defaults(role)


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_an_option_without_a_default_is_needed_or_says_so(role: Path) -> None:
    """An option that has no default is either required or meant to be left undefined, and its page says what then happens."""
    bare = [name for name, option in options(role).items() if "default" not in option and not option.get("required")]
    silent = [name for name in bare if "without" not in str(options(role)[name]["description"]).lower()]
    assert silent == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_every_default_has_prose_above_it(role: Path) -> None:
    """Above each default stands a comment of at least four words, or another default to which one comment belongs as well."""
    lines = defaults_text(role).splitlines()
    bare: list[str] = []
    for number, line in enumerate(lines):
        match = VARIABLE.match(line)
        above = lines[number - 1] if number else ""
        told = above.startswith("# ") and len(_comment(lines, number).split()) >= 4
        if match and not told and not VARIABLE.match(above):
            bare.append(match[1])
    assert bare == []


def _comment(lines: list[str], end: int) -> str:
    start = end
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return " ".join(line.lstrip("# ") for line in lines[start:end])


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_names_begin_with_the_role(role: Path) -> None:
    """Defaults, options and the role's own variables begin with its name, so that no two roles mean different things by one."""
    own = role / "vars" / "main.yml"
    shared = dict(yaml.safe_load(own.read_text(encoding="utf-8")) or {}) if own.exists() else {}
    names = {*defaults(role), *options(role), *shared}
    assert [name for name in sorted(names) if not name.startswith(f"{role.name}_")] == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_no_option_is_without_words(role: Path) -> None:
    """Every option says what it is, with a type, and every entry of a list of entries too."""
    assert list(_wordless(options(role))) == []


def _wordless(given: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for name, option in given.items():
        if not option.get("description") or "type" not in option:
            found.append(name)
        found += _wordless(option.get("options", {}))
    return found


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_secrets_are_not_printed(role: Path) -> None:
    """An option whose name says that it holds a secret, a password or a key's text has no_log in the specs."""
    secret = re.compile(r"(secret|password|private_key)s?$")
    assert [name for name, option in options(role).items() if secret.search(name) and not option.get("no_log")] == []


TABLE_ROWS = [
    ("plain", {"a_x": {"type": "str", "default": "y", "description": "Text."}}, "| `a_x` | str | `y` | Text. |"),
    ("needed", {"a_x": {"type": "int", "required": True, "description": "Text."}}, "| `a_x` | int | **needed** | Text. |"),
    (
        "choices",
        {"a_x": {"type": "str", "choices": ["p", "q"], "default": "p", "description": "T."}},
        "| `a_x` | `p`, `q` | `p` | T. |",
    ),
    ("bool", {"a_x": {"type": "bool", "default": False, "description": "T."}}, "| `a_x` | bool | `false` | T. |"),
    ("empty", {"a_x": {"type": "str", "default": "", "description": "T."}}, '| `a_x` | str | `""` | T. |'),
    ("none", {"a_x": {"type": "str", "description": "T."}}, "| `a_x` | str |  | T. |"),
    (
        "list",
        {"a_x": {"type": "list", "elements": "str", "default": [], "description": "T."}},
        "| `a_x` | list of str | `[]` | T. |",
    ),
    (
        "bar",
        {"a_x": {"type": "str", "default": "{{ b | c }}", "description": "p|q"}},
        "| `a_x` | str | `{{ b \\| c }}` | p\\|q |",
    ),
    ("marks", {"a_x": {"type": "str", "description": ["See C(y)", "and V(z)."]}}, "| `a_x` | str |  | See `y` and `z`. |"),
    (
        "below",
        {
            "a_x": {
                "type": "list",
                "elements": "dict",
                "description": "T.",
                "options": {"n": {"type": "int", "description": "N."}},
            }
        },
        "| `a_x[].n` | int |  | N. |",
    ),
]


@pytest.mark.parametrize(("given", "row"), [row[1:] for row in TABLE_ROWS], ids=[row[0] for row in TABLE_ROWS])
def test_a_row_of_the_table(given: dict[str, Any], row: str) -> None:
    """An option becomes one row: name, type or choices, default, text; a bar in it does not end the cell."""
    assert tables().table(given).splitlines()[-1] == row


def test_a_page_without_marks_is_an_error() -> None:
    """A README that has lost the marks is named, and not overwritten."""
    with pytest.raises(ValueError, match=r"firewall: README\.md must have"):
        tables().filled_in("# No marks\n", ANSIBLE / "roles" / "firewall")
