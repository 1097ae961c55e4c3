"""Runs a module of the roles as Ansible does on a host: arguments as JSON on its standard input, one JSON object back.

Promises: the interpreter is the one of .lab-venv, with the Ansible that ansible/requirements.txt pins. Never: a stand-in for Ansible.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["ANSIBLE", "LAB_PYTHON", "Answer", "run_module"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
ANSIBLE: Final = CHECKOUT / "ansible"
#: `demo/setup.sh test` makes it.
LAB_PYTHON: Final = CHECKOUT / ".lab-venv" / "bin" / "python"
#: A module finds its role's module_utils among Ansible's own, as in what Ansible sends to a host.
_START: Final = """
import runpy, sys
import ansible.module_utils
ansible.module_utils.__path__.append(sys.argv.pop())
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Answer:
    """`result`: what the module says; `text`: every byte that it wrote, on either stream."""

    result: dict[str, Any]
    text: str

    @property
    def failed(self) -> str:
        """The reason; "" where it has not failed."""
        return str(self.result["msg"]) if self.result.get("failed") else ""


def run_module(role: str, name: str, arguments: dict[str, Any], *, check: bool = False, under: tuple[str, ...] = ()) -> Answer:
    """One run, with --diff and the most that -vvvv would ask a module for. A module that breaks instead of answering is a failure.

    `under`: a command in front, which runs it.
    """
    asked = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_verbosity": 4}
    folder = ANSIBLE / "roles" / role
    command = [
        *under,
        str(LAB_PYTHON),
        "-I",
        "-c",
        _START,
        str(folder / "library" / f"{name}.py"),
        str(folder / "module_utils"),
    ]
    done = subprocess.run(command, input=json.dumps({"ANSIBLE_MODULE_ARGS": asked}), capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip
    assert done.stderr == "", done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if result.get("failed") else 0)
    return Answer(result, done.stdout + done.stderr)
