#!/usr/bin/python
"""Ansible module, for the controller: gatepost's wheel, given or made from a checkout, and the name of its release.

Promises: one content, one name; a wheel that was made before is not made again, unless it is broken; in check mode the name is
told and none made. What is given is a whole wheel of gatepost, named as pip wants it, or is refused with the reason.
Never: writes into the checkout but below .cache, which git ignores.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gatepost_wheel
short_description: gatepost's wheel and its release's name
options:
  wheel:
    description: A wheel that is there; empty to make one.
    type: str
    default: ""
  checkout:
    description: The folder of gatepost's sources.
    type: path
    required: true
  salt:
    description: What else makes a release another one (versions of libraries, extras).
    type: str
    default: ""
author: gatepost
"""

EXAMPLES = r"""
- name: Have a wheel
  gatepost_wheel:
    checkout: "{{ playbook_dir | dirname }}"
  delegate_to: localhost
"""

RETURN = r"""
wheel:
  description: Its path.
  type: str
  returned: always
release:
  description: VERSION-HASH, 12 hex digits of the content.
  type: str
  returned: always
"""

#: What a wheel is made of.
SOURCES = ("gatepost", "filter", "milter", "postfix", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
IGNORED = re.compile(r"__pycache__|.*\.egg-info|\..*|.*\.pyc")
#: A wheel's name as pip reads it: version, perhaps a build number, three tags. The version becomes a folder's name.
NAME = re.compile(r"gatepost-([0-9A-Za-z][0-9A-Za-z.+!_]*)(-[0-9][0-9A-Za-z_.]*)?(-[0-9A-Za-z_.]+){3}\.whl")


class Trouble(Exception):  # noqa: N818
    """What keeps the wheel from being had."""


def files_of(checkout: str) -> list[str]:
    """The files that a wheel is made of, as paths within the checkout, in order."""
    found = []
    for source in SOURCES:
        top = os.path.join(checkout, source)
        if os.path.isfile(top):
            found.append(source)
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not IGNORED.fullmatch(name)]
            found += [os.path.relpath(os.path.join(folder, name), checkout) for name in names if not IGNORED.fullmatch(name)]
    return sorted(found)


def digest(checkout: str, names: list[str]) -> str:
    """SHA-256 over names and contents."""
    whole = hashlib.sha256()
    for name in names:
        with open(os.path.join(checkout, name), "rb") as file:
            content = file.read()
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


def version_of(checkout: str) -> str:
    """`__version__`, read and not imported."""
    with open(os.path.join(checkout, "gatepost", "__init__.py"), encoding="utf-8") as file:
        found = re.search(r'^__version__ = "([^"]+)"', file.read(), re.MULTILINE)
    return found[1] if found else "0"


def make(checkout: str, names: list[str], target: str) -> None:
    """The wheel of a copy, so that nothing stale gets in and nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="gatepost-wheel.") as folder:
        source, made = os.path.join(folder, "source"), os.path.join(folder, "made")
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(source, name)), exist_ok=True)
            shutil.copyfile(os.path.join(checkout, name), os.path.join(source, name))
        subprocess.run(command(source, made), check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603
        os.makedirs(os.path.dirname(target), exist_ok=True)
        part = f"{target}.{os.getpid()}"
        shutil.copyfile(os.path.join(made, os.listdir(made)[0]), part)
        os.replace(part, target)


def command(source: str, made: str) -> list[str]:
    """pip, without the network where setuptools is there."""
    try:
        import setuptools  # noqa: F401  # looked for, not used
        import wheel  # noqa: F401

        alone = ["--no-build-isolation"]
    except ImportError:
        alone = []
    return [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        *alone,
        "--wheel-dir",
        made,
        source,
    ]


def given(path: str) -> tuple[str, str]:
    """Version and SHA-256 of a wheel that is there."""
    named = NAME.fullmatch(os.path.basename(path))
    if not named:
        raise Trouble(f"{path}: is not named as a wheel of gatepost is, gatepost-VERSION-py3-none-any.whl (pip reads the name)")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                raise Trouble(f"{path}: is not whole: {broken} in it is broken")
            metadata = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            head = archive.read(metadata[0]).decode("utf-8", "replace").partition("\n\n")[0] if metadata else ""
        with open(path, "rb") as file:
            mark = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}") from None
    # The last two: encrypted, or packed in a way of its own.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise Trouble(f"{path}: is no wheel, or not a whole one: {error}") from None
    says = dict(re.findall(r"(?m)^(Name|Version): *(\S+)\s*$", head))
    if says.get("Name") != "gatepost" or says.get("Version", "").replace("-", "_") != named[1]:
        inside = f"{says.get('Name', 'nothing')} {says.get('Version', '')}".strip()
        raise Trouble(f"{path}: has {inside} in it, and not what its name says")
    return named[1], mark


def whole(path: str) -> bool:
    """Is it there, and as it was made?"""
    try:
        given(path)
    except Trouble:
        return False
    return True


def from_checkout(checkout: str, check_mode: bool) -> tuple[str, str, str, bool]:
    """Path, version and mark of the checkout's wheel; whether it was made just now."""
    try:
        names = files_of(checkout)
        version, mark = version_of(checkout), digest(checkout, names)
        path = os.path.join(checkout, ".cache", "ansible", mark[:12], f"gatepost-{version}-py3-none-any.whl")
        if check_mode or whole(path):
            return path, version, mark, False
        make(checkout, names, path)
    except OSError as error:
        raise Trouble(f"{checkout}: no sources to make a wheel of: {error}") from None
    except subprocess.CalledProcessError as error:
        said = error.output.decode(errors="replace")[-2000:]
        raise Trouble(f"the wheel cannot be made: {said}; give one with gatepost_wheel (python -m build --wheel)") from None
    return path, version, mark, True


def main() -> None:
    """One run."""
    module = AnsibleModule(
        argument_spec={
            "wheel": {"type": "str", "default": ""},
            "checkout": {"type": "path", "required": True},
            "salt": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wheel, checkout = module.params["wheel"], module.params["checkout"]
    made = False
    try:
        if wheel:
            version, mark = given(wheel)
        else:
            wheel, version, mark, made = from_checkout(checkout, module.check_mode)
    except Trouble as trouble:
        module.fail_json(msg=str(trouble))
    content = hashlib.sha256(f"{mark}\0{module.params['salt']}".encode()).hexdigest()
    module.exit_json(changed=False, made=made, wheel=wheel, release=f"{version}-{content[:12]}")


if __name__ == "__main__":
    main()
