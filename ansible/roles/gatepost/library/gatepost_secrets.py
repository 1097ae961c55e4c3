#!/usr/bin/python
"""Ansible module: gatepost's secrets file, with every secret that the configuration names.

Promises: a secret that is there stays; one that is given, or that a brother host has, is taken; one that nobody has is made
here, once. The file is whole at any time, mode 0600, its owner's. In check mode nothing is made. What looks like a file that
somebody has lost or put there (empty, cut off, a link, in a folder open to others) is told, and nothing is made in its place: a
new secret ends every key that the old one has signed.
Never: returns, logs or shows a secret: names only.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import stat
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

HEAD = "# gatepost's secrets, by name, newest last (docs/configuration.md). Ansible adds what is missing or given.\n"
#: Bytes of a secret.
LENGTH = 32
#: What is no text of ours (a date, say) is left alone, as far as JSON can say it.
READ = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin.buffer.read().decode()) or {}, default=str))"


class Trouble(Exception):  # noqa: N818
    """What keeps the file from being made; the text has no secret."""


def needed(config: dict[str, Any]) -> dict[str, bool]:
    """Names of secrets that the configuration wants; whether each is a webhook's."""
    names: dict[str, bool] = {}
    try:
        for route in config.get("routes") or []:
            keys = route.get("keys") or {}
            if keys.get("secret"):
                names.setdefault(str(keys["secret"]), False)
            if keys.get("ask_secret"):
                names.setdefault(str(keys["ask_secret"]), True)
        for sink in (config.get("sinks") or {}).values():
            if sink.get("secret"):
                names[str(sink["secret"])] = True
    except AttributeError:
        raise Trouble("routes or sinks of the configuration are not of their form (gatepost config check says where)") from None
    return names


def new(webhook: bool) -> str:
    """A secret that nobody knows yet."""
    value = os.urandom(LENGTH)
    return "whsec_" + base64.b64encode(value).decode("ascii") if webhook else value.hex()


def there(path: str) -> bytes | None:
    """The file's bytes; None where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if os.path.islink(path):
            raise Trouble(f"{path} is a symbolic link: put the file itself there") from None
        raise Trouble(f"{path} cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Trouble(f"{path} is no regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read()
    finally:
        os.close(handle)
    if not content.strip():
        raise Trouble(f"{path} is empty: put the old one back; or, if there never was one, delete it, and all secrets are made")
    return content


def parsed(content: bytes, python: str, whose: str, names: dict[str, bool]) -> dict[str, Any]:
    """A secrets file by name; those of `names` are lists of texts, any other is what it is."""
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-I", "-c", READ], input=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        entries = json.loads(done.stdout).items()
    except OSError as error:
        raise Trouble(f"{python} does not run: {error.strerror}") from None
    except (ValueError, AttributeError, subprocess.CalledProcessError):
        raise Trouble(f"{whose} cannot be read as YAML: mend it by hand (gatepost config check says where)") from None
    return {str(name): listed(name, value, whose) if name in names else value for name, value in entries}


def listed(name: str, value: Any, whose: str) -> list[str]:
    """One text, or several; Trouble for what is none, as a line that was cut off behind its name."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) and each for each in values):
        raise Trouble(f"{name}, in {whose}: must be a text, or a list of texts, and none of them empty")
    return values


def together(mine: list[str], other: list[str]) -> list[str]:
    """Both hosts' values of a secret, so that each takes what the other has made; in the longer one's order, newest last."""
    longer, shorter = (other, mine) if len(other) > len(mine) else (mine, other)
    return [value for value in shorter if value not in longer] + longer


def spelled(secrets: dict[str, Any]) -> str:
    """The file's text."""
    return HEAD + "".join(f"{json.dumps(name)}: {json.dumps(values)}\n" for name, values in secrets.items())


def main() -> None:
    """One run."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"type": "str", "required": True},
            "config": {"type": "dict", "required": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
            "others": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "python": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        changed, made = run(module)
    except Trouble as trouble:
        module.fail_json(msg=str(trouble))
    module.exit_json(changed=changed, made=made)


def run(module: AnsibleModule) -> tuple[bool, list[str]]:
    """Whether something changes, and the names of what is made."""
    path, python, given = module.params["path"], module.params["python"], module.params["given"]
    names = needed(module.params["config"])
    before = there(path)
    found = {} if before is None else parsed(before, python, path, names)
    wanted = dict(found)
    for number, other in enumerate(module.params["others"], 1):
        for name, values in of_brother(other, python, f"the secrets of host {number}", names).items():
            wanted[name] = together(wanted.get(name, []), values)
    wanted |= {name: listed(name, value, "gatepost_secrets") for name, value in given.items()}
    made = [name for name in names if name not in wanted]
    wanted |= {name: [new(names[name])] for name in made}
    changed = before is None or wanted != found or not sound(path, module.params["owner"])
    if changed and not module.check_mode:
        write(module, path, spelled(wanted).encode() if before is None or wanted != found else before)
    return changed, made


def of_brother(other: str, python: str, whose: str, names: dict[str, bool]) -> dict[str, list[str]]:
    """What another host has of the secrets that are needed here."""
    try:
        content = base64.b64decode(other, validate=True)
    except ValueError:
        raise Trouble(f"{whose} did not come whole") from None
    found = parsed(content, python, whose, names)
    return {name: found[name] for name in names if name in found}


def sound(path: str, owner: str) -> bool:
    """Is it its owner's, and nobody else's to read?"""
    try:
        status = os.lstat(path)
        return status.st_mode & 0o7777 == 0o600 and status.st_uid == pwd.getpwnam(owner).pw_uid
    except (OSError, KeyError):
        return False


def write(module: AnsibleModule, path: str, content: bytes) -> None:
    """Whole or not at all, never open to anybody else, not even while it is written."""
    folder = os.path.dirname(path)
    try:
        account = pwd.getpwnam(module.params["owner"])
        mode = stat.S_IMODE(os.stat(folder).st_mode)
        if mode & 0o022:  # whoever may write there could put a file of his own in its place
            raise Trouble(f"{folder} is open to others (mode {mode:04o}): chmod go-w it")
        handle, part = tempfile.mkstemp(dir=folder, prefix=".secrets.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except KeyError:
        raise Trouble(f"there is no user {module.params['owner']}") from None
    except OSError as error:
        raise Trouble(f"{path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    main()
