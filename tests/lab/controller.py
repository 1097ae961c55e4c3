"""The controller: where a newcomer types the README's commands; Ansible runs here, in the lab's network and with its name server.

Promises: every command sees the lab's network and no other; Ansible's output is kept; the recap's figures are numbers to assert.
Never: reads another inventory than the lab's own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.lab import net
from tests.lab.cgroup import enter_cgroup
from tests.lab.fixtures import variables
from tests.lab.machine import CHECKOUT, LabError
from tests.lab.places import ADDRESSES, HOST_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.lab.places import Places

__all__ = ["VENV", "Controller", "Played", "Recap"]

#: The environment with Ansible that demo/setup.sh lab makes from ansible/requirements.txt.
VENV: Final = CHECKOUT / ".lab-venv"
#: Seconds for one playbook.
_PLAYBOOK: Final = 420.0
_RECAP: Final = re.compile(
    r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)\s+unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Recap:
    """What a playbook did to one host, from Ansible's own closing lines."""

    ok: int
    changed: int
    unreachable: int
    failed: int


@dataclass(frozen=True, slots=True)
class Played:
    """A playbook's run: exit status, output, a recap for each host."""

    status: int
    output: str
    recaps: Mapping[str, Recap]


class Controller:
    """Runs commands in the lab's network. `tree`: the folder with ansible/ (the checkout, or a copy with a mutant in it)."""

    def __init__(self, places: Places, tree: Path = CHECKOUT) -> None:
        self.places, self.tree = places, tree

    def command(self, command: Sequence[str]) -> list[str]:
        """The command in the lab's network, with the lab's name server."""
        script = f'mount --bind {self.places.folder}/resolv.conf /etc/resolv.conf && exec "$@"'
        return [*net.inside(self.places.net), "unshare", "--mount", "sh", "-c", script, "sh", *command]

    def environment(self) -> dict[str, str]:
        """What a newcomer's shell has once Ansible's environment is active."""
        kept = {name: os.environ[name] for name in ("HOME", "TERM", "USER") if name in os.environ}
        return {
            **kept, "PATH": f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
            "ANSIBLE_INVENTORY": str(self.places.inventory), "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(self.places.folder / "ansible"), "ANSIBLE_HOME": str(self.places.folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.places.folder / "ssh"), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def run(self, command: Sequence[str], *, timeout: float = _PLAYBOOK) -> tuple[int, str]:
        """Exit status and output."""
        done = subprocess.run(
            self.command(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
            env=self.environment(), cwd=self.tree / "ansible", preexec_fn=lambda: enter_cgroup(f"{self.places.name}-controller"),
        )  # fmt: skip
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def play(self, hosts: Sequence[str], *arguments: str, variables: Mapping[str, Any] | None = None) -> Played:
        """`ansible-playbook -i INVENTORY site.yml` in ansible/, as its README.md has it, for these hosts; and what it said."""
        self.write_inventory(self.variables, hosts)
        command = ["ansible-playbook", "-i", str(self.places.inventory), "site.yml", *arguments]
        if variables:
            command += ["--extra-vars", json.dumps(variables)]
        status, output = self.run(command)
        with (self.places.folder / "ansible.log").open("a") as log:
            log.write(f"$ {shlex.join(command)}\n{output}\n")
        recaps = {
            m["host"]: Recap(*(int(m[name]) for name in ("ok", "changed", "unreachable", "failed")))
            for m in _RECAP.finditer(output)
        }
        return Played(status, output, recaps)

    def converge(self, hosts: Sequence[str], *arguments: str, variables: Mapping[str, Any] | None = None) -> Played:
        """The same; LabError where it fails."""
        played = self.play(hosts, *arguments, variables=variables)
        if played.status:
            raise LabError(f"ansible-playbook for {', '.join(hosts)}: exit status {played.status}\n{played.output[-6000:]}")
        return played

    @property
    def variables(self) -> Mapping[str, Any]:
        """What a newcomer writes into the inventory."""
        return variables(self.places)

    def write_inventory(self, variables: Mapping[str, Any], names: Sequence[str]) -> None:
        """The lab's inventory: JSON is YAML. The first of the mail hosts is preferred."""
        hosts = {
            name: {"ansible_host": ADDRESSES[name].ipv4, "gatepost_host": f"{name}.{HOST_DOMAIN}", "mx_priority": 10 * place,
                   "mx_addresses": [ADDRESSES[name].ipv4, ADDRESSES[name].ipv6]}
            for place, name in enumerate(names, 1)
        }  # fmt: skip
        ssh = f"-o UserKnownHostsFile={self.places.folder}/known_hosts -o ControlMaster=auto -o ControlPersist=30s"
        everywhere = {"ansible_user": "root", "ansible_ssh_private_key_file": str(self.places.key), "ansible_ssh_common_args": ssh,
                      "ansible_python_interpreter": "/usr/bin/python3"}  # fmt: skip
        tree = {"all": {"vars": everywhere, "children": {"mail_hosts": {"hosts": hosts, "vars": dict(variables)}}}}
        self.places.inventory.write_text(json.dumps(tree, indent=2) + "\n")
