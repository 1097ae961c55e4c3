#!/usr/bin/python
"""Ansible module: gatepost's secrets file, with every secret that the configuration names.

Promises: a secret that is there stays; one that is given, or that a brother host has, is taken; one that nobody has is made
here, once. The file is whole at any time, mode 0600, its owner's. In check mode nothing is made.
Never: returns, logs or shows a secret: names only.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import subprocess
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gatepost_secrets
short_description: gatepost's secrets file
options:
  path:
    description: The file.
    type: path
    required: true
  owner:
    description: Whose it is.
    type: str
    required: true
  config:
    description: gatepost.yml, which names the secrets.
    type: dict
    required: true
  given:
    description: Secrets by name, each a text or a list of texts.
    type: dict
    default: {}
  others:
    description: The files of other hosts, base64.
    type: list
    elements: str
    default: []
  python:
    description: An interpreter on this host that can read YAML.
    type: path
    required: true
author: gatepost
"""

EXAMPLES = r"""
- name: Have the secrets
  gatepost_secrets:
    path: /etc/gatepost/secrets.yml
    owner: gatepost
    config: "{{ config }}"
    python: /opt/gatepost/current/bin/python
  no_log: true
"""

RETURN = r"""
made:
  description: Names of the secrets that were made.
  type: list
  elements: str
  returned: always
"""

HEAD = (
    "# gatepost's secrets, by name, newest last (docs/configuration.md). Ansible adds what is missing, and takes nothing out.\n"
)
#: Bytes of a secret.
LENGTH = 32
READ = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin.read()) or {}))"


class Trouble(Exception):  # noqa: N818
    """What keeps the file from being made; the text has no secret."""


def needed(config: dict[str, Any]) -> dict[str, bool]:
    """Names of secrets that the configuration wants; whether each is a webhook's."""
    names: dict[str, bool] = {}
    for route in config.get("routes") or []:
        keys = route.get("keys") or {}
        if keys.get("secret"):
            names.setdefault(keys["secret"], False)
        if keys.get("ask_secret"):
            names.setdefault(keys["ask_secret"], True)
    for sink in (config.get("sinks") or {}).values():
        if sink.get("secret"):
            names[sink["secret"]] = True
    return names


def new(webhook: bool) -> str:
    """A secret that nobody knows yet."""
    value = os.urandom(LENGTH)
    return "whsec_" + base64.b64encode(value).decode("ascii") if webhook else value.hex()


def parsed(text: str, python: str, whose: str) -> dict[str, list[str]]:
    """A secrets file by name, each a list."""
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-I", "-c", READ], input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        return {str(name): listed(value) for name, value in json.loads(done.stdout).items()}
    except (OSError, ValueError, AttributeError, subprocess.CalledProcessError):
        raise Trouble(f"{whose} cannot be read as YAML: mend it by hand (gatepost config check says where)") from None


def listed(value: Any) -> list[str]:
    """One text, or several."""
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def together(mine: list[str], other: list[str]) -> list[str]:
    """Both hosts' values of a secret, so that each takes what the other has made; in the longer one's order, newest last."""
    longer, shorter = (other, mine) if len(other) > len(mine) else (mine, other)
    return [value for value in shorter if value not in longer] + longer


def spelled(secrets: dict[str, list[str]]) -> str:
    """The file's text."""
    return HEAD + "".join(f"{json.dumps(name)}: {json.dumps(values)}\n" for name, values in secrets.items())


def main() -> None:
    """One run."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"type": "str", "required": True},
            "config": {"type": "dict", "required": True, "no_log": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
            "others": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "python": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    path, python = module.params["path"], module.params["python"]
    names = needed(module.params["config"])
    made: list[str] = []
    try:
        before = ""
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                before = file.read()
        found = parsed(before, python, path) if before else {}
        wanted = dict(found)
        for number, other in enumerate(module.params["others"], 1):
            for name, values in parsed(base64.b64decode(other).decode(), python, f"the secrets of host {number}").items():
                if name in names:
                    wanted[name] = together(wanted.get(name, []), values)
        wanted |= {name: listed(value) for name, value in module.params["given"].items()}
        for name, webhook in names.items():
            if name not in wanted:
                made.append(name)
                wanted[name] = [new(webhook)]
        changed = wanted != found or not sound(path, module.params["owner"])
        if changed and not module.check_mode:
            write(module, path, before if wanted == found else spelled(wanted))
    except Trouble as trouble:
        module.fail_json(msg=str(trouble))
    module.exit_json(changed=changed, made=made)


def sound(path: str, owner: str) -> bool:
    """Is it there, its owner's, and nobody else's to read?"""
    try:
        status = os.stat(path)
        return status.st_mode & 0o7777 == 0o600 and status.st_uid == pwd.getpwnam(owner).pw_uid
    except (OSError, KeyError):
        return False


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Whole or not at all, never open to anybody else, not even while it is written."""
    account = pwd.getpwnam(module.params["owner"])
    handle, part = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


if __name__ == "__main__":
    main()
