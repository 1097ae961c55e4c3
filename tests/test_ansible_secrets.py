"""Module gatepost_secrets of role gatepost: secrets are made once, stay, and are seen by nobody."""

from __future__ import annotations

import base64
import json
import os
import pwd
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ansible_module import Answer, run_module

OWNER = pwd.getpwuid(os.getuid()).pw_name
ROUTE, SINK = "reply-keys", "app-webhook"
CONFIG: dict[str, Any] = {
    "routes": [{"name": "replies", "keys": {"format": "signed", "secret": ROUTE}}],
    "sinks": {"app": {"webhook": "https://app.example.com/mail", "secret": SINK}},
}
OLD, OTHER, HOOK = "ab" * 32, "cd" * 32, "whsec_" + base64.b64encode(b"x" * 32).decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the secrets will be: in a folder that only its owner may write to."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o750)
    return folder / "secrets.yml"


def run(path: Path, *, check: bool = False, under: tuple[str, ...] = (), **arguments: Any) -> Answer:
    given = {"path": str(path), "owner": OWNER, "config": CONFIG, "python": sys.executable, **arguments}
    return run_module("gatepost", "gatepost_secrets", given, check=check, under=under)


def written(path: Path, secrets: object, mode: int = 0o600) -> str:
    """A secrets file, as text or by name."""
    text = secrets if isinstance(secrets, str) else json.dumps(secrets)
    path.write_text(text)
    path.chmod(mode)
    return text


def state(path: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in the file's folder: mode and content."""
    found = {}
    for each in path.parent.iterdir():
        status = each.lstat()
        found[each.name] = (status.st_mode, each.read_bytes() if stat.S_ISREG(status.st_mode) else b"")
    return found


def secrets_in(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def in_lists(secrets: dict[str, Any]) -> dict[str, Any]:
    """Our own secrets as lists, as they are written; the others as they are."""
    return {name: [value] if name in (ROUTE, SINK) and isinstance(value, str) else value for name, value in secrets.items()}


def test_what_nobody_has_is_made_once(path: Path) -> None:
    """A key for each name, of 32 bytes from the system's random source, in the form of its use; mode 0600; then nothing more."""
    first = run(path)
    assert (first.failed, first.result["changed"], sorted(first.result["made"])) == ("", True, sorted([ROUTE, SINK]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = secrets_in(path)
    assert len(bytes.fromhex(made[ROUTE][0])) == 32
    assert len(base64.b64decode(made[SINK][0].removeprefix("whsec_"), validate=True)) == 32
    before = state(path)
    assert list(before) == [path.name], "no part of it lies beside it"
    again = run(path)
    assert (again.result["changed"], again.result["made"], state(path)) == (False, [], before)
    assert not any(values[0] in first.text + again.text for values in made.values())


def test_two_hosts_make_different_secrets(path: Path) -> None:
    """Nothing of what is made follows from the arguments."""
    run(path)
    first = path.read_text()
    path.unlink()
    run(path)
    assert secrets_in(path).keys() == yaml.safe_load(first).keys()
    assert not set(path.read_text().splitlines()[1:]) & set(first.splitlines()[1:])


def test_what_is_made_loads_as_gatepost_loads_it(path: Path) -> None:
    """Both forms are such as gatepost takes, from the file as it is written."""
    from gatepost.config.scalars import key_secret, webhook_secret

    run(path)
    made = secrets_in(path)
    assert len(key_secret(made[ROUTE][0])) >= 32
    assert len(webhook_secret(made[SINK][0])) == 32


NEEDED = [
    ("both uses", CONFIG, {ROUTE: False, SINK: True}),
    ("a route that asks", {"routes": [{"keys": {"ask_secret": "a"}}]}, {"a": True}),
    ("one name for a key and a webhook: the webhook's form fits both", {**CONFIG, "sinks": {"x": {"secret": ROUTE}}}, {ROUTE: True}),
    ("routes without keys, sinks without secrets", {"routes": [{"name": "r"}], "sinks": {"m": {"maildir": "/m"}}}, {}),
    ("nothing", {}, {}),
    ("null, as YAML has an empty section", {"routes": None, "sinks": None}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "names"), [row[1:] for row in NEEDED], ids=[row[0] for row in NEEDED])
def test_every_name_that_the_configuration_has(path: Path, config: dict[str, Any], names: dict[str, bool]) -> None:
    """Routes and sinks name secrets; none is made that nobody named. The file is there in any case, and never of no bytes."""
    answer = run(path, config=config)
    assert {name: values[0].startswith("whsec_") for name, values in (yaml.safe_load(path.read_text()) or {}).items()} == names
    assert answer.result["made"] == list(names)
    assert run(path, config=config).result["changed"] is False
    assert path.read_text().startswith("#")


#: id, what is there, given, brothers, what there is afterwards ("new": made)
KEPT: list[tuple[str, Any, dict[str, Any], list[Any], dict[str, Any]]] = [
    ("what is there stays", {ROUTE: [OLD], SINK: HOOK}, {}, [], {ROUTE: [OLD], SINK: [HOOK]}),
    ("one is missing: the other stays", {ROUTE: [OLD]}, {}, [], {ROUTE: [OLD], SINK: "new"}),
    ("what nobody names is left alone, text or not", {ROUTE: OLD, SINK: HOOK, "x": 5, "y": None}, {}, [],
     {ROUTE: [OLD], SINK: [HOOK], "x": 5, "y": None}),
    ("what is left alone goes into the new file, too", {ROUTE: OLD, "x": {"a": [1]}}, {}, [], {ROUTE: [OLD], SINK: "new", "x": {"a": [1]}}),
    ("given: it is taken, as a text or a list", {}, {ROUTE: OLD, SINK: [HOOK]}, [], {ROUTE: [OLD], SINK: [HOOK]}),
    ("given goes over what is there", {ROUTE: [OTHER], SINK: HOOK}, {ROUTE: [OTHER, OLD]}, [], {ROUTE: [OTHER, OLD], SINK: [HOOK]}),
    ("a brother's is taken", {}, {}, [{ROUTE: [OLD], SINK: HOOK}], {ROUTE: [OLD], SINK: [HOOK]}),
    ("a brother's that is not needed here is not taken", {ROUTE: OLD, SINK: HOOK}, {}, [{"x": "secret"}], {ROUTE: [OLD], SINK: [HOOK]}),
    ("each host made its own: both know both", {ROUTE: [OLD], SINK: HOOK}, {}, [{ROUTE: [OTHER]}], {ROUTE: [OTHER, OLD], SINK: [HOOK]}),
    ("a brother has one more: in his order, newest last", {ROUTE: [OLD], SINK: HOOK}, {}, [{ROUTE: [OLD, OTHER]}],
     {ROUTE: [OLD, OTHER], SINK: [HOOK]}),
    ("a brother that has none yet", {ROUTE: [OLD], SINK: HOOK}, {}, [""], {ROUTE: [OLD], SINK: [HOOK]}),
    ("given goes over a brother's", {}, {ROUTE: OLD, SINK: HOOK}, [{ROUTE: [OTHER]}], {ROUTE: [OLD], SINK: [HOOK]}),
]  # fmt: skip


@pytest.mark.parametrize(("there", "given", "others", "wanted"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_where_each_secret_comes_from(
    path: Path, check: bool, there: Any, given: dict[str, Any], others: list[Any], wanted: dict[str, Any]
) -> None:
    """Given, then what hosts have, then made; check mode tells the same and writes nothing; a second run changes nothing; no
    answer has a secret in it.
    """
    if there:
        written(path, there)
    before = state(path)
    arguments: dict[str, Any] = {
        "given": given,
        "others": [base64.b64encode(json.dumps(each).encode() if each else b"").decode() for each in others],
    }
    answer = run(path, check=check, **arguments)
    made = [name for name, value in wanted.items() if value == "new"]
    assert (answer.failed, answer.result["made"], answer.result["changed"]) == ("", made, wanted != in_lists(there))
    assert "diff" not in answer.result
    if check:
        assert state(path) == before
    else:
        assert {**in_lists(secrets_in(path)), **dict.fromkeys(made, "new")} == wanted
        assert run(path, **arguments).result["changed"] is False
    assert not any(secret in answer.text for secret in (OLD, OTHER, HOOK, HOOK[6:], *arguments["others"]) if secret)


def not_root(path: Path) -> None:
    os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)


#: id, what somebody did to a file that has all its secrets
UNSOUND: list[tuple[str, Callable[[Path], object]]] = [
    ("others may read it", lambda path: path.chmod(0o644)),
    ("its group may read it", lambda path: path.chmod(0o640)),
    ("its owner may not write it: it is not as it was made", lambda path: path.chmod(0o400)),
    ("it would run as its owner", lambda path: path.chmod(0o4600)),
    ("it is another user's", not_root),
]


@pytest.mark.parametrize("change", [row[1] for row in UNSOUND], ids=[row[0] for row in UNSOUND])
def test_mode_and_owner_are_mended(path: Path, change: Callable[[Path], object]) -> None:
    """The same bytes in a new file, mode 0600, its owner's; check mode says that it would."""
    text = written(path, {ROUTE: OLD, SINK: HOOK})
    change(path)
    before, content = path.lstat(), state(path)
    assert run(path, check=True).result["changed"] is True
    assert (path.lstat().st_ino, path.lstat().st_uid, state(path)) == (before.st_ino, before.st_uid, content)
    answer = run(path)
    assert (answer.failed, answer.result["changed"], answer.result["made"]) == ("", True, [])
    status = path.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, path.read_text()) == (0o600, os.getuid(), text)
    assert status.st_ino != before.st_ino, "what somebody has open already is the old file"
    assert run(path).result["changed"] is False


def linked(path: Path) -> None:
    written(path.parent / "elsewhere", {ROUTE: OLD, SINK: HOOK})
    path.symlink_to(path.parent / "elsewhere")


#: id, what is in the way, arguments, what the reason has in it
HOSTILE: list[tuple[str, Callable[[Path], object], dict[str, Any], str]] = [
    ("a link to a file that is as it must be", linked, {}, "is a symbolic link"),
    ("a link to nothing: what it pointed to may only be away", lambda path: path.symlink_to("/nowhere/x"), {}, "is a symbolic link"),
    ("a folder", lambda path: path.mkdir(), {}, "is no regular file"),
    ("a FIFO: to read it would wait for ever", lambda path: os.mkfifo(path), {}, "is no regular file"),
    ("no bytes: a write that broke off", lambda path: written(path, ""), {}, "is empty"),
    ("blanks", lambda path: written(path, " \n"), {}, "is empty"),
    ("cut off within a text", lambda path: written(path, f'"{ROUTE}": ["{OLD[:20]}'), {}, "cannot be read as YAML"),
    ("cut off behind a name: None is no secret", lambda path: written(path, f"{SINK}: {HOOK}\n{ROUTE}:"), {}, f"{ROUTE}, in "),
    ("a list of none", lambda path: written(path, {ROUTE: [], SINK: HOOK}), {}, f"{ROUTE}, in "),
    ("an empty text", lambda path: written(path, {ROUTE: [OLD, ""], SINK: HOOK}), {}, f"{ROUTE}, in "),
    ("a number: YAML reads 12345678 so", lambda path: written(path, f"{ROUTE}: 12345678"), {}, f"{ROUTE}, in "),
    ("names in names", lambda path: written(path, {ROUTE: {"new": OLD}}), {}, f"{ROUTE}, in "),
    ("a list, not names", lambda path: written(path, [OLD]), {}, "cannot be read as YAML"),
    ("a text, not names", lambda path: written(path, OLD), {}, "cannot be read as YAML"),
    ("no UTF-8", lambda path: path.write_bytes(b"a: \xff\xfe"), {}, "cannot be read as YAML"),
    ("a Python object", lambda path: written(path, f"{ROUTE}: !!python/object/apply:os.getpid []"), {}, "cannot be read as YAML"),
    ("a folder open to all", lambda path: path.parent.chmod(0o777), {}, "(mode 0777): chmod go-w"),
    ("a folder open to its group", lambda path: path.parent.chmod(0o770), {}, "(mode 0770): chmod go-w"),
    ("a folder open to all, and others' files safe there", lambda path: path.parent.chmod(0o1777), {}, "(mode 1777): chmod go-w"),
    ("no folder", lambda path: path.parent.rmdir(), {}, "cannot be written: No such file"),
    ("no such user", lambda path: None, {"owner": "no-such-user"}, "there is no user no-such-user"),
    ("no Python", lambda path: written(path, {ROUTE: OLD}), {"python": "/nowhere/python"}, "/nowhere/python does not run"),
    ("given: an empty text, as a vault that has none", lambda path: None, {"given": {ROUTE: ""}}, f"{ROUTE}, in gatepost_secrets"),
    ("given: null", lambda path: None, {"given": {ROUTE: None}}, f"{ROUTE}, in gatepost_secrets"),
    ("given: a number", lambda path: None, {"given": {ROUTE: [1234]}}, f"{ROUTE}, in gatepost_secrets"),
    ("a brother's file that did not come whole", lambda path: None, {"others": ["%%%%"]}, "the secrets of host 1 did not come"),
    ("a brother's file that is cut off", lambda path: None, {"others": ["", "YTogWyJ4"]}, "the secrets of host 2 cannot be read"),
    ("routes that are none", lambda path: None, {"config": {"routes": ["x"]}}, "not of their form"),
    ("sinks that are none", lambda path: None, {"config": {"sinks": ["x"]}}, "not of their form"),
]  # fmt: skip


@pytest.mark.parametrize(("put", "arguments", "says"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_is_not_as_it_must_be_is_told_and_left(
    path: Path, put: Callable[[Path], object], arguments: dict[str, Any], says: str
) -> None:
    """It fails with the reason and without a secret; nothing is made in its place, and nothing changes."""
    put(path)
    before = state(path) if path.parent.exists() else {}
    answer = run(path, **arguments)
    assert says in answer.failed
    assert "Traceback" not in answer.text
    assert not any(secret in answer.text for secret in (OLD, OLD[:20], HOOK))
    assert (state(path) if path.parent.exists() else {}) == before


def test_check_mode_does_not_ask_for_what_the_run_would_bring(tmp_path: Path) -> None:
    """On a fresh host neither folder nor user is there: check mode tells what would be made."""
    answer = run(tmp_path / "etc" / "secrets.yml", check=True, owner="no-such-user")
    assert (answer.failed, answer.result["changed"], answer.result["made"]) == ("", True, [ROUTE, SINK])


@pytest.mark.parametrize("full", [0, 10], ids=["not a byte", "a few bytes"])
def test_a_disk_that_is_full_leaves_the_old_file(path: Path, full: int) -> None:
    """What cannot be written whole is not written: the file is the old one, and nothing lies beside it."""
    written(path, {ROUTE: OLD})
    before = state(path)
    answer = run(path, under=("prlimit", f"--fsize={full}"))
    assert "cannot be written: File too large" in answer.failed
    assert state(path) == before
