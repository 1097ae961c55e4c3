"""What the pipe script needs to run as its own user: that user, and a Python environment which that user can reach.

Promises: an environment lies wholly in the folder it is given, readable by everybody, whatever the checkout's own rights and
the caller's umask; the wheel is built from a copy, so that nothing is left in the checkout and nothing stale gets in.
Never: changes a user that exists; uses the network where .cache/wheels (made by demo/setup.sh) has what is needed.
"""

from __future__ import annotations

import compileall
import fcntl
import os
import pwd
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["CHECKOUT", "USER", "Environment", "SetUpError", "base_python", "ensure_user", "make_environment", "run_as"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
#: The one system user of pipe, server and milter.
USER: Final = "gatepost"
#: What a wheel is made of.
_SOURCES: Final = ("gatepost", "filter", "milter", "postfix", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_WHEELS: Final = CHECKOUT / ".cache" / "wheels"
#: Seconds for one step: a build, an installation.
_TIMEOUT: Final = 300


class SetUpError(RuntimeError):
    """A step failed; the text has the command and what it said."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed gatepost: its interpreter, the pipe script and the `gatepost` command, all absolute paths."""

    folder: str
    python: str
    pipe_script: str
    command: str


def ensure_user(name: str = USER) -> pwd.struct_passwd:
    """The system user, made if it is missing: no home, no shell, a group of its own. Root only."""
    lock = os.open(CHECKOUT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes that need it at once, one makes it
        return pwd.getpwnam(name)
    except KeyError:
        home = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        _run(["useradd", "--system", "--user-group", *home, "--comment", "gatepost mail gateway", name])
        return pwd.getpwnam(name)
    finally:
        os.close(lock)


def run_as(
    user: str, command: list[str], *, timeout: float = 60.0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command as a user, with that user's group only, in /, without any of the caller's environment."""
    account = pwd.getpwnam(user)
    return subprocess.run(
        command,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
        env=environment or {"PATH": "/usr/bin:/bin", "LANG": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
        umask=0o022,
    )


def base_python(user: str = USER) -> str:
    """An interpreter, 3.11 or newer, that this user can run: the one that runs now, or one of the system's."""
    names = [f"/usr/{place}/python3{minor}" for place in ("bin", "local/bin") for minor in ("", ".14", ".13", ".12", ".11")]
    for path in dict.fromkeys([os.path.realpath(sys.executable), *names]):
        try:
            if run_as(user, [path, "-I", "-c", "import sys, venv; sys.exit(sys.version_info < (3, 11))"]).returncode == 0:
                return path
        except OSError:
            continue
    raise SetUpError(f"no Python 3.11 or newer that the user {user} can run: install python3 and python3-venv")


def make_environment(folder: str | Path, *, source: Literal["wheel", "tree"] = "wheel", milter: bool = False) -> Environment:
    """Installs this checkout into `folder` (made, mode 0755): from a wheel built now, or as a copy of the tree on the path.

    `milter`: with the extra [milter]. `folder` must be where the user gatepost can go, below /var/tmp or /opt say. Takes
    seconds; needs root.
    """
    folder = Path(os.path.abspath(folder))
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)
    ensure_user()
    venv = folder / "venv"
    _run([base_python(), "-I", "-m", "venv", "--without-pip", str(venv)])
    python = venv / "bin" / "python"
    site = Path(_run([str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    if source == "wheel":
        _install(python, f"{_build_wheel(folder / 'wheel')}{'[milter]' * milter}")
        script = site / "gatepost_filter" / "pipe.py"
    else:
        tree = folder / "tree"
        _copy_sources(tree)
        _install(python, *_requirements(milter=milter))
        (site / "gatepost-tree.pth").write_text(f"{tree}\n{tree / 'filter'}\n{tree / 'milter'}\n")
        compileall.compile_dir(tree, quiet=1)
        (venv / "bin" / "gatepost").write_text(f"#!{python} -I\nfrom gatepost.cli import main\nraise SystemExit(main())\n")
        (venv / "bin" / "gatepost").chmod(0o755)
        script = tree / "filter" / "gatepost_filter" / "pipe.py"
    seen = run_as(USER, [str(python), "-I", "-c", "import gatepost, gatepost.settings, yaml, email_validator"])
    if seen.returncode:
        raise SetUpError(f"the user {USER} cannot use {python}:\n{seen.stderr.decode(errors='replace')}")
    return Environment(folder=str(folder), python=str(python), pipe_script=str(script), command=str(venv / "bin" / "gatepost"))


def _copy_sources(target: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in _SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.exists():
            target.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    _open_for_reading(target)


def _build_wheel(folder: Path) -> Path:
    """The wheel of a copy of this checkout, without the network: setuptools is the development environment's own."""
    source = folder / "source"
    _copy_sources(source)
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            *_QUIET,
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(source),
        ]
    )
    shutil.rmtree(source)
    return next(folder.glob("gatepost-*.whl"))


def _requirements(*, milter: bool) -> list[str]:
    """install_requires of setup.cfg, and the extra's."""
    config = ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].splitlines()
    if milter:
        lines += config["options.extras_require"]["milter"].splitlines()
    return [line for line in lines if line.strip()]


_QUIET: Final = ("-qq", "--disable-pip-version-check", "--no-input")


def _install(python: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *_QUIET, "--root-user-action=ignore"]
    if _WHEELS.is_dir():
        try:
            _run([*command, "--no-index", "--find-links", str(_WHEELS), *what])
            return
        except SetUpError:
            pass  # made for another Python: ask the index
    _run([*command, *what])


def _open_for_reading(folder: Path) -> None:
    """Lets everybody read what was copied from a checkout that may be closed."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        timeout=_TIMEOUT,
        check=False,
        umask=0o022,
    )
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise SetUpError(f"{' '.join(command)}: exit status {done.returncode}\n{text}")
    return text
