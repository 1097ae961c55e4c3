"""The store: its folder, who owns what in it, the ledger, leases, and parked mail against its caps.

Promises: looks at the store as a message does, so that what it finds is what a message will find; no walk is longer than
`_MOST_FILES`, no look into the ledger takes longer than `_PATIENCE`.
Never: makes a store where there is none; deletes, mends or moves anything in it. (The ledger is opened as a message opens it,
which brings one of an older version up to date.)
"""

from __future__ import annotations

import os
import stat
import time

from gatepost.doctor.check import fail, ok, unknown, warn
from gatepost.doctor.subject import Subject, mode_of, name_of
from gatepost.errors import StoreError
from gatepost.stores.database import DATABASE, HOST_ID, Transaction, fetch, open_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any, Final

    from gatepost.doctor.check import Questions, Verdict

__all__ = ["questions"]

#: What there is of a ledger that was made once.
_TRACES: Final = (DATABASE, HOST_ID, f"{DATABASE}-wal", f"{DATABASE}-journal")
#: Files looked at, a second's work; parked mail at its cap is about 100,000.
_MOST_FILES: Final = 200_000
#: Seconds for reading the whole ledger through: a million rows take about two.
_PATIENCE: Final = 20.0
#: SQLite asks whether to go on after so many of its instructions.
_STEPS: Final = 100_000
#: Of `parked.max_bytes`, from where on a person should look.
_NEARLY: Final = 0.8
_OPENS: Final = "docs/store.md says what each error means"
#: File systems without the locks and shared memory that the ledger's log needs (https://www.sqlite.org/wal.html, 2.2).
_REMOTE: Final = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "fuse.glusterfs", "afs"))


def questions(subject: Subject) -> Questions:
    """The folder before what lies in it."""
    return (
        ("store-folder", lambda: _folder(subject)),
        ("store-files", subject.as_owner(lambda: _files(subject))),
        ("ledger", subject.as_owner(lambda: _ledger(subject))),
        ("leases", subject.as_owner(lambda: _leases(subject))),
        ("parked", subject.as_owner(lambda: _parked(subject))),
    )


def _folder(subject: Subject) -> Verdict:
    store = subject.sound.store
    make = f"install -d -o gatepost -g gatepost -m 0700 {store}"
    try:
        found = os.stat(store)
    except OSError as error:
        return fail(f"{store}: {error.strerror}: all mail waits in the queue", f"mount it, or {make}")
    if not stat.S_ISDIR(found.st_mode):
        return fail(f"{store}: is no folder: all mail waits in the queue", f"move it away, then {make}")
    shown = f"{store}: mode {mode_of(found.st_mode)}, of {name_of(found.st_uid)}"
    if found.st_uid not in (0, subject.runs_as):
        runs_as = name_of(subject.runs_as)
        return fail(f"{shown}, but gatepost runs as {runs_as}: all mail waits in the queue", f"chown -R {runs_as}: {store}")
    if found.st_uid == 0:
        return fail(f"{shown}: pipe(8) runs nothing as root, so no message can be recorded", f"chown -R gatepost: {store}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fail(f"{shown}: others can delete the ledger", f"chmod 0700 {store}")
    if stat.S_IMODE(found.st_mode) & 0o700 != 0o700:
        return fail(f"{shown}: its owner may not use it", f"chmod 0700 {store}")
    if found.st_mode & stat.S_IRWXO:
        return warn(f"{shown}: others can look in", f"chmod 0700 {store}")
    kind = _file_system(store)
    if kind in _REMOTE:
        return warn(
            f"{store} is on {kind}: the ledger needs locks and shared memory that only a local disk has",
            "move the store to a local disk: docs/store.md, Moving",
        )
    return ok(shown)


def _file_system(path: str) -> str:
    """Its type, by the longest mount point above it (proc(5)); "" where that cannot be read."""
    real, best, kind = os.path.realpath(path) + "/", "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, place, found = line.split()[:3]
                if real.startswith(place.rstrip("/") + "/") and len(place) >= len(best):
                    best, kind = place, found
    except (OSError, ValueError):
        return ""
    return kind


def _files(subject: Subject) -> Verdict:
    store, owner = subject.sound.store, subject.owner
    if owner < 0:
        return unknown("there is no store folder")
    seen, foreign, open_ones = 0, [], []
    for entry in _walk(store):
        seen += 1
        found = entry.stat(follow_symlinks=False)
        if found.st_uid != owner:
            foreign.append(f"{entry.path} (of {name_of(found.st_uid)})")
        elif found.st_mode & stat.S_IRWXO and not stat.S_ISLNK(found.st_mode) and _ours(entry):
            open_ones.append(f"{entry.path} (mode {mode_of(found.st_mode)})")
    if foreign:
        return fail(
            f"not {name_of(owner)}'s, as left by somebody who worked as another user: {_some(foreign)}",
            f"chown -R {name_of(owner)}: {store}",
        )
    if open_ones:
        return warn(f"readable or writable for others: {_some(open_ones)}", f"chmod -R go-rwx {store}")
    return ok(f"{seen} files, all {name_of(owner)}'s" + (" (no more were looked at)" if seen >= _MOST_FILES else ""))


def _ours(entry: os.DirEntry[str]) -> bool:
    """Made by a store, whose files are 0600. Logs and revoked: files, which may lie here as well, have modes of their own."""
    folder, name = os.path.basename(os.path.dirname(entry.path)), entry.name
    return folder == "parked" or name in ("parked", HOST_ID) or name.startswith((DATABASE, "config.compiled"))


def _walk(folder: str) -> Iterator[os.DirEntry[str]]:
    """Everything in the folder and one level below, at most `_MOST_FILES`. A folder that is closed to us is told itself."""
    left, below = _MOST_FILES, [folder]
    for place in below:
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if left <= 0:
                        return
                    left -= 1
                    if place == folder and entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    yield entry
        except PermissionError:
            continue


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _opened(subject: Subject) -> sqlite3.Connection | None:
    """The ledger; None where none was ever made. Raises StoreError."""
    store = subject.sound.store
    if not any(os.path.lexists(os.path.join(store, trace)) for trace in _TRACES):
        return None
    return open_database(store)


def _ledger(subject: Subject) -> Verdict:
    path = os.path.join(subject.sound.store, DATABASE)
    if subject.owner < 0:
        return unknown("there is no store folder")
    try:
        database = _opened(subject)
    except StoreError as error:
        return fail(f"{error} (all mail waits in the queue)", _OPENS)
    if database is None:
        return ok(f"{path}: not there yet; the first message makes it")
    try:
        started = time.monotonic()
        database.set_progress_handler(lambda: int(time.monotonic() > started + _PATIENCE), _STEPS)
        with Transaction(database, path):  # nobody holds it for ever, and it may be written
            pass
        if time.monotonic() > started + _PATIENCE:
            return unknown(f"{path}: too large, or the disk too slow, to read in {_PATIENCE:.0f} s")
        (said,) = fetch(database, path, "PRAGMA quick_check(1)")[0]
        if said != "ok":
            return fail(f"{path}: is damaged: {said}", "restore a copy: docs/store.md, Restoring; then look at the disk")
        rows, unfinished, youngest = fetch(
            database, path, "SELECT count(*), coalesce(sum(state = 'open'), 0), coalesce(max(changed), 0) FROM delivery"
        )[0]
    except StoreError as error:
        if "interrupted" in str(error):
            return unknown(f"{path}: too large, or the disk too slow, to read in {_PATIENCE:.0f} s")
        return fail(f"{error} (all mail waits in the queue)", _OPENS)
    finally:
        database.close()
    if youngest > subject.now + subject.sound.timing.lease:
        return warn(
            f"{path}: has rows of {_at(youngest)}, which is yet to come: the clock was ahead, or is behind now",
            "let the host set its clock (NTP) before Postfix starts",
        )
    return ok(f"{path}: whole; deliveries: {rows}, of these not finished: {unfinished}")


def _leases(subject: Subject) -> Verdict:
    rows = _rows(subject, "SELECT lease_until FROM delivery WHERE state = 'open' AND lease_until > 0 LIMIT 10000")
    if isinstance(rows, str):
        return unknown(rows)
    now, lease = subject.now, subject.sound.timing.lease
    held = [until for (until,) in rows if now < until <= now + 2 * lease]
    ahead = [until for (until,) in rows if until > now + 2 * lease]
    over = len(rows) - len(held) - len(ahead)
    if ahead:
        return warn(
            f"{len(ahead)} leases end later than any could (at {_at(max(ahead))}): the clock was ahead when they began",
            "let the host set its clock (NTP); they count as over, mail is not held up",
        )
    return ok(f"runs at work: {len(held)}; left by runs that were killed, and taken over when Postfix tries again: {over}")


def _parked(subject: Subject) -> Verdict:
    limits = subject.sound.parked
    rows = _rows(subject, "SELECT entries, bytes FROM parked_total ORDER BY kind")
    if isinstance(rows, str):
        return unknown(rows)
    entries, octets = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0)
    kept_entries, kept = rows[-1] if rows else (0, 0)
    shown = (
        f"{entries} messages, {octets} bytes (cap {limits.max_bytes}); {kept_entries} of them are kept until a person acts;"
        f" on {os.uname().nodename} alone, as ledger and limits are"
    )
    act = "gatepost parked list, then release or drop; or raise parked.max_size"
    if kept >= limits.max_bytes:
        return fail(f"{shown}: mail that would be parked is deferred", act)
    if kept >= _NEARLY * limits.max_bytes:
        return warn(f"{shown}: nearly full of mail that is never dropped by itself", act)
    return ok(shown)


def _rows(subject: Subject, statement: str) -> list[tuple[Any, ...]] | str:
    """What the ledger answers, or why it does not; [] where there is none yet."""
    if subject.owner < 0:
        return "there is no store folder"
    try:
        database = _opened(subject)
        if database is None:
            return []
        try:
            return fetch(database, os.path.join(subject.sound.store, DATABASE), statement)
        finally:
            database.close()
    except StoreError as error:
        return f"the ledger cannot be read: {error}"


def _at(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stamp))
