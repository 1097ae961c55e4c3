"""The image: a small Debian with systemd, ssh and Python, and beside it a repository of the packages that roles may install.

Promises: made from this machine's own Debian sources, each time anew; a guest finds in it what a fresh host has, and nothing that a role
should install; package lists are those of the local repository.
Never: is changed by a guest: each has an overlay of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.machine import LabError, run

if TYPE_CHECKING:
    from tests.lab.places import Places

__all__ = ["make_image", "make_key", "make_layer"]

#: What a freshly installed host has.
_BASE: Final = (
    "systemd", "systemd-sysv", "dbus", "python3", "python3-apt", "iproute2", "openssh-server", "ca-certificates", "procps",
    "iputils-ping", "netbase", "sudo",
)  # fmt: skip
#: What roles may install.
_REPOSITORY: Final = (
    "postfix", "postfix-pcre", "nftables", "ufw", "firewalld", "python3-venv", "python3-pip", "libmilter1.0.1", "openssl", "ssl-cert", "rsyslog", "gcc", "libc6-dev", "python3-dev", "libmilter-dev", "python3-setuptools", "python3-wheel",
    "bind9-dnsutils", "python3-dnspython", "python3", "ca-certificates", "certbot", "dehydrated", "curl", "cron", "acl", "swaks", "iptables", "bsd-mailx",
)  # fmt: skip
#: What the lab itself puts on sender, app and dns.
_LAB_OWN: Final = ("postfix", "bind9", "bind9-dnsutils", "pebble", "openssl", "swaks", "python3-yaml")
_MASKED: Final = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "dpkg-db-backup.timer", "console-getty.service",
                  "fstrim.timer", "systemd-timesyncd.service")  # fmt: skip
_BUILD: Final = 300.0


def make_key(places: Places) -> None:
    """The controller's ssh key."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(places.key)])


def make_image(places: Places, suite: str) -> None:
    """The root file system, and the repository; half a minute."""
    root, repository = places.base(suite), places.repository(suite)
    repository.mkdir(parents=True)
    sources = places.folder / suite / "sources.list"
    sources.write_text(_sources(suite))
    run(
        ["mmdebstrap", "-q", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"',
         f"--include={','.join(_BASE)}", suite, str(root), str(sources)],
        timeout=_BUILD, environment={**os.environ, "TMPDIR": str(places.folder)},
    )  # fmt: skip
    _no_service_starts(root)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    wanted = " ".join(dict.fromkeys((*_REPOSITORY, *_LAB_OWN)))
    _chroot(root, f"apt-get -q update && apt-get -qy install --no-install-recommends --download-only {wanted}")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        shutil.move(package, repository / package.name)
    _index(repository, suite)
    for old in (*(root / "var/lib/apt/lists").glob("*"), *(root / "etc/apt/sources.list.d").glob("*")):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/repo ./\n")
    (root / "srv/repo").mkdir()
    (root / "srv/wheels").mkdir()
    run(["mount", "--bind", str(repository), str(root / "srv/repo")])
    try:
        _chroot(root, "apt-get -q update")
    finally:
        run(["umount", str(root / "srv/repo")])
    _fresh_host(root, places)


def make_layer(places: Places, suite: str) -> None:
    """A second layer over the image, for the lab's own hosts: Postfix and BIND installed, and not enabled."""
    folder = places.folder / suite
    upper, work, root = folder / "own", folder / "own.work", folder / "own.root"
    for each in (upper, work, root):
        each.mkdir()
    run(["mount", "-t", "overlay", f"{places.name}-own", "-o",
         f"lowerdir={places.base(suite)},upperdir={upper},workdir={work}", str(root)])  # fmt: skip
    run(["mount", "--bind", str(places.repository(suite)), str(root / "srv/repo")])
    try:
        _no_service_starts(root)
        _chroot(root, "echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections && "
                      f"apt-get -qy install --no-install-recommends {' '.join(_LAB_OWN)} && systemctl disable postfix named")  # fmt: skip
        (root / "usr/sbin/policy-rc.d").unlink()
    finally:
        run(["umount", str(root / "srv/repo")])
        run(["umount", str(root)])


def _fresh_host(root: Path, places: Places) -> None:
    """What makes the image a host: the controller's key, no machine id, nothing that wakes up by itself."""
    (root / "usr/sbin/policy-rc.d").unlink()
    (root / "etc/machine-id").write_text("")
    shutil.copy(places.folder / "authority/ca.crt", root / "usr/local/share/ca-certificates/lab.crt")
    _chroot(root, "update-ca-certificates >/dev/null")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(places.key.with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


def _index(repository: Path, suite: str) -> None:
    """Lists of the packages. Without date and checksum every second `apt-get update` would forget them."""
    run(["sh", "-c", "dpkg-scanpackages -m . >Packages 2>/dev/null"], cwd=repository, timeout=_BUILD)
    listed = (repository / "Packages").read_bytes()
    (repository / "Release").write_text(
        f"Origin: lab\nSuite: {suite}\nCodename: {suite}\nDate: {formatdate(usegmt=True).replace('GMT', 'UTC')}\n"
        f"SHA256:\n {hashlib.sha256(listed).hexdigest()} {len(listed)} Packages\n"
    )


def _no_service_starts(root: Path) -> None:
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)


def _chroot(root: Path, script: str) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    run(["chroot", str(root), "sh", "-c", script], timeout=_BUILD, environment=environment)


def _sources(suite: str) -> str:
    """This machine's Debian sources for another suite as well; what is not Debian's is left out."""
    text = "\n".join(path.read_text() for path in (*sorted(Path("/etc/apt/sources.list.d").glob("*")), Path("/etc/apt/sources.list"))
                     if path.is_file())  # fmt: skip
    found = re.findall(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+/debian(?:-security)?)/?(?:\s|$)", text, re.MULTILINE)
    lines = []
    for uri in dict.fromkeys(found):
        suites = [f"{suite}-security"] if uri.endswith("-security") else [suite, f"{suite}-updates"]
        lines += [f"deb {uri} {each} main" for each in suites]
    if not lines:
        raise LabError("no Debian package source was found in /etc/apt on this machine")
    return "\n".join(lines) + "\n"
