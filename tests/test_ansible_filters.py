"""The roles' filters: which revoked keys a host lacks, whether a mail domain is a login domain, and that Ansible finds them all."""

from __future__ import annotations

import base64
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.ansible_module import ANSIBLE

PLUGINS = sorted((ANSIBLE / "roles").glob("*/filter_plugins/*.py"))
FILES = ["/etc/gatepost/revoked", "/etc/gatepost/other"]
ONE, TWO, THREE = "a" * 64, "b" * 64, "c" * 64


def plugin(path: Path) -> ModuleType:
    """Loaded as Ansible does: by its path, under a name of Ansible's own."""
    spec = importlib.util.spec_from_file_location(f"ansible_filter_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PLUGINS, ids=[path.stem for path in PLUGINS])
def test_every_filter_is_used_and_begins_with_its_roles_name(path: Path) -> None:
    """A filter's name is global: the role's is in front of it. One that no task names is dead."""
    role = path.parent.parent
    files = [each for folder in ("tasks", "templates", "vars", "defaults") for each in (role / folder).glob("*")]
    text = "".join(each.read_text() for each in (*files, ANSIBLE / "site.yml"))
    for name, function in plugin(path).FilterModule().filters().items():
        assert callable(function)
        assert name.startswith(f"{role.name}_")
        assert re.search(rf"\|\s*{name}\b", text), name


def test_every_filter_that_a_role_names_is_there() -> None:
    """Each filter with a role's name in front, in any task, template or variable, is one that some role brings."""
    there = {name for path in PLUGINS for name in plugin(path).FilterModule().filters()}
    roles = "|".join(path.name for path in (ANSIBLE / "roles").iterdir())
    texts = [path.read_text() for path in ANSIBLE.rglob("*") if path.suffix in (".yml", ".j2")]
    assert {name for text in texts for name in re.findall(rf"\|\s*((?:{roles})_\w+)\s*[(}}|]", text)} <= there


# --- gatepost_refused -----------------------------------------------------------------------------------------------------

refused: Any = plugin(ANSIBLE / "roles" / "gatepost" / "filter_plugins" / "gatepost_refused.py").gatepost_refused


def slurped(host: str, text: str | bytes | None, file: str = FILES[0]) -> dict[str, Any]:
    """What the task knows of one file of one host; None: it is not there."""
    if text is None:
        return {"item": [host, file], "msg": "file not found"}
    return {"item": [host, file], "content": base64.b64encode(text.encode() if isinstance(text, str) else text).decode()}


#: id, slurped, given, (file, line) to add to mx1
REFUSED: list[tuple[str, list[dict[str, Any]], list[str], list[tuple[str, str]]]] = [
    ("nobody has any", [slurped("mx1", None), slurped("mx2", None)], [], []),
    ("what a brother has", [slurped("mx1", None), slurped("mx2", f"{ONE}\n")], [], [(FILES[0], ONE)]),
    ("what this host has already", [slurped("mx1", f"{ONE}\n"), slurped("mx2", f"{ONE}\n{TWO}\n")], [], [(FILES[0], TWO)]),
    ("what this host alone has stays", [slurped("mx1", f"{ONE}\n"), slurped("mx2", "")], [], []),
    ("two brothers have it: once", [slurped("mx2", f"{ONE}\n"), slurped("mx3", f"{ONE}\n{ONE}\n")], [], [(FILES[0], ONE)]),
    ("given: into each file", [slurped("mx1", f"{ONE}\n")], [ONE, TWO], [(FILES[0], TWO), (FILES[1], ONE), (FILES[1], TWO)]),
    ("comments and blank lines are the host's own", [slurped("mx2", f"# why\n\n  \n{ONE}\n")], [], [(FILES[0], ONE)]),
    ("a last line without its end", [slurped("mx1", ONE), slurped("mx2", ONE)], [], []),
    ("lines that end in CR LF", [slurped("mx1", f"{ONE}\r\n"), slurped("mx2", f"{ONE}\n")], [], []),
    ("blanks around a line are none of it", [slurped("mx1", f"{ONE}\n"), slurped("mx2", f"  {ONE} \n  # x\n")], [f" {ONE}"], [(FILES[1], ONE)]),
    ("an empty line given is none", [slurped("mx1", None)], ["", " "], []),
    ("each file for itself", [slurped("mx2", f"{ONE}\n"), slurped("mx2", f"{TWO}\n", FILES[1])], [], [(FILES[0], ONE), (FILES[1], TWO)]),
    ("a file that no route has any more", [slurped("mx2", f"{ONE}\n", "/etc/gatepost/gone")], [], []),
    ("bytes that are no UTF-8 keep none of the others back", [slurped("mx2", b"\xff\xfe\n" + ONE.encode() + b"\n")], [],
     [(FILES[0], "\ufffd\ufffd"), (FILES[0], ONE)]),
]  # fmt: skip


@pytest.mark.parametrize(("results", "given", "lines"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_refused_elsewhere_is_refused_here(
    results: list[dict[str, Any]], given: list[str], lines: list[tuple[str, str]]
) -> None:
    """Each line that another host has, or that is given, and this one lacks, once for each file; once added, nothing is left."""
    assert refused(results, "mx1", given, FILES) == lines
    mine: dict[str, list[str]] = {file: [] for file in FILES}
    for each in results:
        if each["item"][0] == "mx1" and "content" in each:
            mine[each["item"][1]] += base64.b64decode(each["content"]).decode().splitlines()
    for file, line in lines:
        mine[file].append(line)
    others = [each for each in results if each["item"][0] != "mx1"]
    after = [*others, *(slurped("mx1", "\n".join(whole) + "\n", file) for file, whole in mine.items())]
    assert refused(after, "mx1", given, FILES) == []


def test_three_hosts_agree() -> None:
    """Whatever each has, after one round all have all."""
    texts = {"mx1": f"{ONE}\n", "mx2": f"{TWO}\n", "mx3": f"{THREE}\n"}
    results = [slurped(host, text) for host, text in texts.items()]
    for host, text in texts.items():
        added = [line for _, line in refused(results, host, [], FILES[:1])]
        assert sorted([text.strip(), *added]) == [ONE, TWO, THREE]


# --- mx_login_domain ------------------------------------------------------------------------------------------------------


def test_the_login_domain_is_found_by_the_roles_own_module() -> None:
    """The filter is the function that tests/test_ansible_mx.py has a table for; loaded twice it is the same one."""
    path = ANSIBLE / "roles" / "mx" / "filter_plugins" / "mx_login.py"
    first, second = (plugin(path).FilterModule().filters()["mx_login_domain"] for _ in range(2))
    assert first is second
    assert Path(sys.modules[first.__module__].__file__ or "").parent == ANSIBLE / "roles" / "mx" / "module_utils"
    assert first("example.com", ["corp.example.com"]) == "corp.example.com"
    assert first("in.example.com", ["example.com"]) == ""
    with pytest.raises(ValueError, match="is not a domain name"):
        first("example.com", ["no domain"])
