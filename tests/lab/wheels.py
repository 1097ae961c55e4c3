"""The wheels that a guest installs gatepost's dependencies from: for its own Python, which may be another than this machine's.

Promises: what is already built for this machine's Python (demo/setup.sh keeps it) is taken as it is; for another Debian, wheels come from
the package index, and pymilter is built in a copy of that Debian.
Never: leaves a compiler in the image.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Final

from tests.lab.machine import CHECKOUT, LabError, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.places import Places

__all__ = ["make_wheels"]

#: What .cache/wheels is made of, and what it was made from (demo/setup.sh).
_KEPT: Final = CHECKOUT / ".cache/wheels"
_REQUIREMENTS: Final = CHECKOUT / ".cache/requirements.txt"
#: What builds pymilter; in the copy alone.
_BUILD: Final = ("gcc", "libc6-dev", "python3-dev", "libmilter-dev", "python3-pip", "python3-setuptools", "python3-wheel")
_TIMEOUT: Final = 300.0


def make_wheels(places: Places, suite: str) -> None:
    """Fills the suite's folder of wheels; after the image."""
    target = places.wheels(suite)
    version = run(
        ["chroot", str(places.base(suite)), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    ).strip()
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version and any(_KEPT.glob("pymilter-*.whl")):
        shutil.copytree(_KEPT, target)
        return
    target.mkdir()
    for kept in _KEPT.glob("*.whl"):
        if kept.name.endswith("-none-any.whl"):
            shutil.copy(kept, target)
    _download(target, version)
    _build(places, suite, target)


def _download(target: Path, version: str) -> None:
    """Ready-made wheels for that Python, and pymilter's source."""
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input", "download", "--dest", str(target),
           "--find-links", str(target)]  # fmt: skip
    wanted = [line for line in _REQUIREMENTS.read_text().split() if not line.startswith("pymilter")]
    pymilter = next((line for line in _REQUIREMENTS.read_text().split() if line.startswith("pymilter")), "pymilter")
    short = version.replace(".", "")
    machine = os.uname().machine
    abi = [part for tag in (f"cp{short}", "abi3", "none") for part in ("--abi", tag)]
    platforms = [part for minor in (34, 28, 17) for part in ("--platform", f"manylinux_2_{minor}_{machine}")]
    run([*pip, "--only-binary", ":all:", "--python-version", version, "--implementation", "cp", *abi, *platforms,
         "--platform", f"manylinux2014_{machine}", *wanted], timeout=_TIMEOUT)  # fmt: skip
    run([*pip, "--no-deps", "--no-binary", "pymilter", "--no-build-isolation", pymilter], timeout=_TIMEOUT)


def _build(places: Places, suite: str, target: Path) -> None:
    """pymilter, in a copy of the image."""
    folder = places.folder / suite
    upper, work, root = folder / "build", folder / "build.work", folder / "build.root"
    for each in (upper, work, root):
        each.mkdir()
    run(
        [
            "mount",
            "-t",
            "overlay",
            f"{places.name}-build",
            "-o",
            f"lowerdir={places.base(suite)},upperdir={upper},workdir={work}",
            str(root),
        ]
    )
    try:
        for shown, name in ((places.repository(suite), "srv/repo"), (target, "srv/wheels")):
            run(["mount", "--bind", str(shown), str(root / name)])
        source = next(path.name for path in target.iterdir() if re.match(r"pymilter-.*\.(tar\.gz|zip)$", path.name))
        script = (
            f"apt-get -qy install --no-install-recommends {' '.join(_BUILD)} && cd /srv/wheels && "
            f"python3 -m pip wheel -qq --no-index --no-deps --no-build-isolation /srv/wheels/{source} && rm /srv/wheels/{source}"
        )
        run(["chroot", str(root), "sh", "-c", script], timeout=_TIMEOUT,
            environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"})  # fmt: skip
    finally:
        for name in ("srv/wheels", "srv/repo", ""):
            run(["umount", str(root / name)], check=False)
    if not any(target.glob("pymilter-*.whl")):
        raise LabError(f"no wheel of pymilter was built for {suite}")
    shutil.rmtree(upper)
