"""The house keeps its shape: who may import whom, what a pure module never touches, what the pipe script never pays for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Each room, and the rooms it may import (itself always). A room is a package or a module of gatepost/.
MAY_IMPORT = {
    "value": set(),
    "errors": {"value"},
    "decision": {"value"},
    "settings": {"value"},
    "digest": set(),
    "frozen": {"value", "decision"},
    "queue_id": set(),
    "client_address": set(),
    "mail": {"value", "settings", "digest"},
    "keys": {"value", "settings", "digest"},
    "screening": {"value", "settings", "decision", "mail", "client_address"},
    "smtp_reply": {"value", "decision"},
    "stamp": {"value", "decision", "digest", "mail", "client_address"},
    "own_results": {"settings", "mail"},
    "discovery": {"value", "settings", "mail", "keys", "policy"},
    "masking": {"decision", "settings", "mail", "policy"},
    "policy": {"value", "settings", "decision", "mail", "keys", "screening"},
    "log": {"settings"},
    "stores": {"value", "errors", "settings", "digest", "client_address"},
    "probe": {"mail", "stores"},
    "sinks": {"value", "settings", "decision", "digest", "mail", "probe"},
    "ask": {"value", "sinks"},
    "asker": {"ask", "digest", "settings", "sinks"},
    "authentication": {"value", "settings", "decision", "mail", "screening"},
    "consequences": {"decision", "settings"},
    "facts": {"ask", "decision", "errors", "mail", "policy", "settings", "stores"},
    "gateway": {
        "consequences",
        "facts",
        "ask",
        "probe",
        "stamp",
        "masking",
        "value",
        "errors",
        "settings",
        "decision",
        "digest",
        "frozen",
        "mail",
        "screening",
        "policy",
        "log",
        "queue_id",
        "stores",
        "sinks",
    },
    "answer": {"gateway", "log"},
    "fault": {"decision", "errors"},
    "dialogue": {
        "ask",
        "asker",
        "authentication",
        "consequences",
        "decision",
        "errors",
        "facts",
        "fault",
        "frozen",
        "gateway",
        "mail",
        "masking",
        "own_results",
        "policy",
        "probe",
        "settings",
        "sinks",
        "stamp",
        "stores",
        "value",
    },
    "config": {"value", "errors", "settings", "digest", "mail", "keys"},
    "daemon": {"value", "errors", "settings", "config"},
    "wiring": {"settings", "decision"},
    "beside": {"doctor"},
    "receiver": {"value", "keys"},
    "doctor": {
        "authentication",
        "config",
        "decision",
        "errors",
        "frozen",
        "keys",
        "log",
        "mail",
        "probe",
        "settings",
        "sinks",
        "stores",
        "value",
        "wiring",
    },
    "cli": None,  # all
}
#: Each door: what it stands on, and the values and edges that it needs to speak its protocol.
DOOR_MAY_IMPORT = {
    "filter": {
        "answer",
        "asker",
        "config",
        "daemon",
        "decision",
        "errors",
        "fault",
        "gateway",
        "log",
        "mail",
        "masking",
        "settings",
        "sinks",
        "smtp_reply",
        "stores",
        "value",
    },
    "milter": {
        "dialogue",
        "config",
        "daemon",
        "decision",
        "errors",
        "fault",
        "log",
        "mail",
        "masking",
        "settings",
        "sinks",
        "smtp_reply",
        "value",
    },
}
DOORS = {"filter": "gatepost_filter", "milter": "gatepost_milter", "mailbox": "gatepost_mailbox"}
PURE = (
    "client_address",
    "discovery",
    "masking",
    "own_results",
    "smtp_reply",
    "stamp",
    "value",
    "errors",
    "decision",
    "frozen",
    "queue_id",
    "settings",
    "digest",
    "mail",
    "keys",
    "screening",
    "policy",
)
IMPURE_MODULES = {"socket", "subprocess", "sqlite3", "urllib", "http", "ssl", "asyncio", "threading", "shutil", "tempfile"}
IMPURE_NAMES = {("os", "environ"), ("os", "getenv"), ("os", "open"), ("time", "time"), ("datetime", "now")}
#: What the pipe script must not import for an ordinary message: each costs milliseconds of every message
#: (docs/decisions/0001-start-up-is-the-cost.md).
PUT_OFF = {"dataclasses", "typing", "inspect", "argparse", "pathlib", "logging", "tempfile", "yaml", "email_validator", "idna",
           "asyncio", "importlib.metadata", "difflib", "uuid", "shutil", "subprocess", "threading", "enum", "re",
           "json", "signal", "hashlib", "hmac"}  # fmt: skip


def room_of(path: Path) -> str:
    """The room a file of gatepost/ belongs to."""
    return path.relative_to(ROOT / "gatepost").parts[0].removesuffix(".py")


def python_files(folder: str) -> list[Path]:
    """Every Python file below a folder of the project."""
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, type-checking blocks and functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def rooms_imported(path: Path) -> set[str]:
    """The rooms of gatepost/ that a file imports."""
    parts = [name.split(".") for name in imported(path) if name.startswith("gatepost.")]
    return {part[1] for part in parts} & set(MAY_IMPORT)


@pytest.mark.parametrize("path", python_files("gatepost"), ids=lambda p: str(p.relative_to(ROOT)))
def test_each_room_imports_only_what_stands_below_it(path: Path) -> None:
    """A room imports itself and the rooms that MAY_IMPORT gives it; a room that is not listed has no place yet."""
    room = room_of(path)
    if room == "__init__":
        assert imported(path) == set(), "gatepost/__init__.py imports nothing"
        return
    allowed = MAY_IMPORT[room]
    if allowed is not None:
        assert rooms_imported(path) - {room} <= allowed


@pytest.mark.parametrize("path", [p for door in DOOR_MAY_IMPORT for p in python_files(door)],
                         ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_doors_import_what_they_stand_on_and_never_each_other(path: Path) -> None:
    """A door stands on the gateway or the dialogue, the configuration and the values."""
    door = path.relative_to(ROOT).parts[0]
    assert rooms_imported(path) <= DOOR_MAY_IMPORT[door]
    others = tuple(package for name, package in DOORS.items() if name != door)
    assert not any(name.startswith(others) for name in imported(path))


def test_the_milter_s_libraries_are_only_where_they_are_needed() -> None:
    """They are an extra: what the pipe script and the other commands import has neither pymilter nor what checks senders."""
    needed_by = {
        "Milter": {"gatepost/cli/milter.py"},
        "milter": set(),
        **{library: {"gatepost/authentication"} for library in ("spf", "dkim", "dns", "cryptography")},
    }
    for path in python_files("gatepost") + python_files("filter"):
        place = str(path.relative_to(ROOT))
        for name in {name.split(".")[0] for name in imported(path)} & set(needed_by):
            assert place.startswith(tuple(needed_by[name])), f"{place} imports {name}"


@pytest.mark.parametrize("path", [p for room in PURE for p in python_files("gatepost") if room_of(p) == room],
                         ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_the_core_does_no_io(path: Path) -> None:
    """Deciding takes bytes, clock and secrets as arguments: no socket, process, database, environment or clock."""
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE_MODULES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in IMPURE_NAMES, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", python_files("gatepost") + python_files("filter") + python_files("milter"),
                         ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_each_file_opens_by_saying_what_it_is(path: Path) -> None:
    """Every module has a docstring; one of more than a few lines of code also says what it promises and never does."""
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree) or ""
    assert docstring
    if len(path.read_text().splitlines()) > 60 and "cli" not in path.parts:
        assert "Promises:" in docstring
        assert "Never:" in docstring


@pytest.mark.parametrize("name", ["filter", "milter", "mailbox", "ansible"])
def test_source_roots_hold_no_init(name: str) -> None:
    """`milter/__init__.py` would break `import Milter`; the others would shadow a builtin or a package."""
    assert not (ROOT / name / "__init__.py").exists()


def test_no_vague_rooms() -> None:
    """A name says what is inside."""
    names = {path.stem for folder in ("gatepost", "filter", "milter") for path in python_files(folder)}
    assert not names & {"utils", "helpers", "manager", "common", "misc", "tools", "filter", "mime"}


def test_the_thin_script_imports_next_to_nothing() -> None:
    """Beside its own three files and `_socket`, what every interpreter has loaded; `select` is part of most."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'filter')!r}); before = set(sys.modules)\n"
        "from gatepost_filter import pipe, thin; print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    ours = {"gatepost_filter", *(f"gatepost_filter.{name}" for name in ("pipe", "thin", "contract"))}
    assert set(done.stdout.split()) == ours | {"_socket", "select"}


def test_the_pipe_script_puts_off_what_a_message_does_not_need() -> None:
    """Importing everything that a message through a webhook's door needs, up to the sink, loads none of PUT_OFF."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'filter')!r}]\n"
        "import gatepost_filter.transport, gatepost.gateway, gatepost.config, gatepost.mail.canonical, gatepost.log\n"
        "import gatepost.sinks.maildir, gatepost.sinks.webhook, gatepost.sinks.command, gatepost.ask, gatepost.stamp, gatepost.answer\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert not loaded & PUT_OFF
    assert not {
        name for name in loaded if name.startswith(("gatepost.authentication", "gatepost.dialogue", "gatepost.own_results"))
    }
