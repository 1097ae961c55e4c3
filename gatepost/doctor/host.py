"""The host: room on the disks that mail is written to, the clock, and the log.

Promises: what is measured is what the code that will need it measures: free blocks and inodes for an ordinary user.
Never: writes anything, not even a log line.
"""

from __future__ import annotations

import os
import socket
import stat
import time

import gatepost
from gatepost import log
from gatepost.doctor.check import fail, ok, warn
from gatepost.doctor.subject import Subject, mode_of, name_of
from gatepost.stores.database import DATABASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.check import Questions, Verdict

__all__ = ["questions"]

#: Below so many free bytes the next larger message may already fail: message_size_limit of the fragment, and the ledger's log.
_LEAST_FREE: Final = 64 * 1_048_576
#: Below this many times `parked.min_free` a person should look.
_SOON: Final = 2.0
#: Seconds by which a file may be younger than now, or the clock older than this software: a step of NTP, a time zone.
_STEP: Final = 300.0
_ZONE: Final = 86_400.0


def questions(subject: Subject) -> Questions:
    """Asked as the user that gatepost runs as: room that only root may use is no room."""
    return (
        ("disk", lambda: _disk(subject)),
        ("clock", lambda: _clock(subject)),
        ("log", subject.as_owner(lambda: _log(subject))),
    )


def _disk(subject: Subject) -> Verdict:
    settings = subject.sound
    places = [settings.store, *(sink.target for sink in settings.sinks if sink.kind == "maildir")]
    if log.destination(settings) != "syslog":
        places.append(os.path.dirname(log.destination(settings)))
    seen, verdicts = set(), []
    for place in places:
        above = _there(place)
        device = os.stat(above).st_dev
        if device not in seen:
            seen.add(device)
            verdicts.append(_room(above, settings.parked.min_free_percent))
    worst = [each for status in ("FAIL", "warn") for each in verdicts if each.status == status]
    return worst[0] if worst else ok("; ".join(each.evidence for each in verdicts))


def _there(path: str) -> str:
    """The path, or the nearest folder above it that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _room(place: str, least: float) -> Verdict:
    """`least`: percent that parked mail leaves free."""
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    room = 100 * disk.f_bavail / max(disk.f_blocks, 1)
    inodes = 100 * disk.f_favail / disk.f_files if disk.f_files else 100.0  # 0: no such limit there
    shown = f"{place}: {free // 1_048_576} MiB ({room:.0f} percent) and {inodes:.0f} percent of the inodes are free"
    mend = f"make room: df -h {place}; df -i {place}; gatepost parked list; gatepost prune"
    if free < _LEAST_FREE or inodes < 1:
        return fail(f"{shown}: mail is deferred when it is full", mend)
    if min(room, inodes) < least:
        return fail(f"{shown}: below parked.min_free ({least:g} percent), mail that would be parked is deferred", mend)
    if min(room, inodes) < _SOON * least:
        return warn(f"{shown}: parking ends at parked.min_free ({least:g} percent)", mend)
    return ok(shown)


def _clock(subject: Subject) -> Verdict:
    """What can be seen without asking anybody: no file is younger than now. (`--probe` compares with the app's clock.)"""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(subject.now))
    mend = "set the clock, and keep it set (systemctl enable --now systemd-timesyncd, or chrony)"
    try:
        made = os.stat(gatepost.__file__).st_mtime
    except OSError:  # a checkout that is closed to the user that gatepost runs as
        made = 0.0
    if subject.now < made - _ZONE:
        return fail(f"{shown} is before this software was installed ({_at(made)}): keys do not expire", mend)
    for path in (subject.config, subject.secrets, os.path.join(subject.sound.store, DATABASE)):
        try:
            written = os.stat(path).st_mtime
        except OSError:
            continue
        if written > subject.now + _STEP:
            return warn(f"{path} was written at {_at(written)}, and now it is {shown}", mend)
    return ok(shown)


def _at(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stamp))


def _log(subject: Subject) -> Verdict:
    settings = subject.sound
    to = log.destination(settings)
    if to == "syslog":
        return _syslog()
    fallback = "there is no /dev/log; lines go to " if settings.log == "syslog" else ""
    verdict = _log_file(to, name_of(os.geteuid()))
    return verdict.replace(evidence=f"{fallback}{verdict.evidence}")


def _syslog() -> Verdict:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect("/dev/log")
        except OSError as error:
            return fail(
                f"/dev/log: {error.strerror}: no decision is logged",
                "start the system's logger (systemctl restart systemd-journald rsyslog), or name a file: log: /path",
            )
    return ok("syslog, facility mail")


def _log_file(path: str, who: str) -> Verdict:
    """As `log.write` opens it: never through a symbolic link, made where there is none."""
    folder = os.path.dirname(path)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if os.access(folder, os.W_OK | os.X_OK):
            return ok(f"{path}: not there yet; the first message makes it")
        return fail(f"{path}: {who} cannot make it: no decision is logged", f"install -o {who} -m 0640 /dev/null {path}")
    except OSError as error:
        return fail(f"{path}: {error.strerror}: no decision is logged", f"let {who} into {folder}")
    if not stat.S_ISREG(found.st_mode):
        return fail(f"{path}: is no regular file: no decision is logged", f"move it away, or name another file: {who} makes it")
    if not os.access(path, os.W_OK):
        return fail(
            f"{path}: mode {mode_of(found.st_mode)}, of {name_of(found.st_uid)}: {who} cannot write to it, no decision"
            " is logged",
            f"chown {who}: {path}",
        )
    if found.st_mode & stat.S_IWOTH:
        return warn(f"{path}: mode {mode_of(found.st_mode)}: anybody can write lines into it", f"chmod o-w {path}")
    return ok(f"{path}: mode {mode_of(found.st_mode)}, of {name_of(found.st_uid)}")
