"""Parked mail: what is put aside for a person to release or drop, in a folder with caps.

An entry is `ID.eml` (the message, or its head alone) and `ID.json` (what is known of it), under the delivery id. It exists if
and only if the .json does, which is written last.

Promises: what `park` returned for is on the disk, file and folder synced. Parking an id twice leaves one entry. Names come
from delivery ids alone. Refused keys are dropped first at a cap, then screened mail, oldest first; what the app could not
take ("kept") is never dropped: at the cap `park` raises ParkedFullError, and the door defers.
Never: follows a symbolic link in the folder, or opens what is no regular file; walks the folder for one message.

How much is parked stands in the store's database, because adding up 100,000 files for each message would take a second. The
files are the truth. The row goes in before the files, and goes out after them, so that a crash in between counts too much,
never too little; `sweep` puts it right. Listing and reading need no database: they work while the ledger is damaged.
"""

from __future__ import annotations

import os

from gatepost.errors import ParkedFullError, StoreError
from gatepost.stores import durable
from gatepost.stores.database import DATABASE, Transaction, close, fetch, open_database
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Final, Literal

    from gatepost.settings import ParkedLimits, Settings

    Kind = Literal["refused", "screened", "kept"]

__all__ = ["Entry", "EntryLock", "NotParkedError", "Parked"]

#: In the order in which they are dropped; the last never is. The database holds the place in this list.
_KINDS: Final[tuple[Kind, ...]] = ("refused", "screened", "kept")
_KEPT: Final = 2

#: Seconds after which what a crash left half-done is cleaned up. Nothing of ours takes longer than timing.deadline.
_LEFTOVER_AGE: Final = 3_600.0
#: An entry is two files, and a file needs an inode.
_FILES_AN_ENTRY: Final = 2


class NotParkedError(StoreError):
    """There is no entry of that id (any more)."""


class Entry(Value):
    """One parked message. `parked_at`: Unix seconds. `size`: bytes of the .eml. `meta`: all that was given to `park`."""

    id: str
    parked_at: float
    kind: Kind
    rule: str
    route: str
    reason: str
    sender: str
    recipient: str
    queue_id: str
    headers_only: bool
    size: int
    meta: dict[str, Any]


class Parked:
    """The parked mail of one host. `folder` is the store's `parked`; it is made when first needed. Opening costs nothing."""

    def __init__(self, folder: str, limits: ParkedLimits, *, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._folder = folder.rstrip("/")
        self._limits = limits
        self._clock = clock
        self._store = os.path.dirname(self._folder)
        self._path = f"{self._store}/{DATABASE}"
        self._database: sqlite3.Connection | None = None

    @classmethod
    def open(cls, settings: Settings, *, now: Callable[[], float]) -> Parked:
        """The parked mail that these settings mean."""
        return cls(f"{settings.store}/parked", settings.parked, clock=now)

    def park(self, id_: str, *, raw: bytes, headers_only: bool, meta: dict[str, object]) -> None:
        """Puts a message aside; on the disk when this returns.

        `raw` is written as it is: the caller cuts it where `headers_only`. `meta["kind"]` is refused, screened or kept; all of
        meta must be JSON. An entry that is there already stays, unless this one holds more of the message or is kept longer.
        Raises ParkedFullError at a cap, StoreError where the disk or the database fails, ValueError for an unknown kind.
        """
        import json

        _check(id_)
        kind = _place(meta.get("kind"))
        now = self._clock()
        whole = {**meta, "id": id_, "parked_at": now, "headers_only": headers_only, "size": len(raw)}
        about = json.dumps(whole, indent=1).encode("ascii") + b"\n"
        with _Folder(self._folder, make=True, alone=True) as folder:
            if self._is_there(folder, id_, kind, headers_only):
                _sync_entry(folder, id_)  # the run that wrote it may have been killed before its last sync
                return
            self._make_room(folder, id_, kind, len(raw) + len(about), now)
            try:
                durable.write(folder, f"{id_}.eml", raw)
                durable.sync(folder)
                durable.write(folder, f"{id_}.json", about)
                durable.sync(folder)
            except OSError:
                self._forget(folder, id_)
                raise

    def list(self) -> Iterator[Entry]:
        """Every entry, newest last. One whose .json cannot be read is there too, as kept, with the reason. Raises StoreError.

        Reads each .json twice rather than holding all of them: 100,000 would be some 300 MB.
        """
        try:
            with _Folder(self._folder) as folder:
                entries = (_entry(folder, id_) for id_ in _ids(folder))
                order = sorted((entry.parked_at, entry.id) for entry in entries if entry is not None)
                for _, id_ in order:
                    entry = _entry(folder, id_)
                    if entry is not None:
                        yield entry
        except NotParkedError:
            return

    def load(self, id_: str) -> tuple[Entry, bytes]:
        """The entry and its bytes. Raises NotParkedError, or StoreError where they cannot be read or are not whole."""
        _check(id_)
        with _Folder(self._folder) as folder:
            entry = _entry(folder, id_)
            if entry is None:
                raise NotParkedError(f"{id_}: no such parked message")
            raw = durable.read(folder, f"{id_}.eml")
        if not entry.meta or len(raw) != entry.size:
            raise StoreError(f"{self._folder}/{id_}: is not as it was written: {entry.reason or f'{len(raw)} bytes'}")
        return entry, raw

    def drop(self, id_: str) -> bool:
        """Deletes an entry, for good when this returns. False: there was none. Raises StoreError.

        Whoever drops what another may be releasing takes `lock` first.
        """
        _check(id_)
        try:
            with _Folder(self._folder) as folder:
                there = _unlink_entry(folder, id_)
                durable.sync(folder)
        except NotParkedError:
            return False
        try:
            self._delete_rows((id_,))
        except StoreError:
            if not there:
                raise
            # The mail is gone, as asked; the count is put right by `sweep`.
        return there

    def lock(self, id_: str) -> EntryLock:
        """`with parked.lock(id):` keeps others from the same. Raises NotParkedError, or StoreError where another has it."""
        _check(id_)
        return EntryLock(self._folder, id_)

    def prune(self, now: float, limit: int) -> int:
        """Drops at most `limit` entries past their age, oldest first; how many. Kept mail has no age. Raises StoreError.

        Once an hour it also sweeps. `now`: Unix seconds.
        """
        try:
            with _Folder(self._folder) as folder:
                if self._sweep_is_due(now):
                    self.sweep(now)
                with Transaction(self._opened(), self._path) as database:
                    old = database.execute(
                        "SELECT id, size FROM parked WHERE kind < ? AND parked_at < ? ORDER BY parked_at LIMIT ?",
                        (_KEPT, now - self._limits.max_age, max(limit, 0)),
                    ).fetchall()
                    return _drop(database, folder, old)
        except NotParkedError:
            return 0

    def sweep(self, now: float) -> None:
        """Deletes what crashes left half-written over an hour ago, and makes the count agree with the files.

        Walks the whole folder: a second for 100,000 entries, four where the database knows none of them. Raises StoreError.
        """
        with _Folder(self._folder) as folder:
            _delete_leftovers(folder, now - _LEFTOVER_AGE)
            there = set(_ids(folder))
            rows = fetch(self._opened(), self._path, "SELECT id, parked_at FROM parked")
            counted = {key.hex() for key, _ in rows}
            missing = [_row(folder, id_) for id_ in there - counted]
            with Transaction(self._opened(), self._path) as database:
                database.executemany("INSERT OR IGNORE INTO parked VALUES (?, ?, ?, ?)", [row for row in missing if row])
        # Not the young ones: their files are being written at this moment.
        self._delete_rows(tuple(key.hex() for key, at in rows if key.hex() not in there and at < now - _LEFTOVER_AGE))

    def close(self) -> None:
        """Lets go of the database. Raises StoreError."""
        if self._database is not None:
            close(self._database, self._path)
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = open_database(self._store)
        return self._database

    def _is_there(self, folder: int, id_: str, kind: int, headers_only: bool) -> bool:
        """Whether an entry of that id holds as much as the new one would."""
        entry = _entry(folder, id_)
        if entry is None or not entry.meta or _size(folder, f"{id_}.eml") != entry.size:
            return False
        if headers_only != entry.headers_only:
            return headers_only
        return _place(entry.kind) >= kind

    def _make_room(self, folder: int, id_: str, kind: int, size: int, now: float) -> None:
        """Counts the new entry in, and drops what must go for it; nothing is dropped where even that would not do."""
        with Transaction(self._opened(), self._path) as database:
            database.execute("DELETE FROM parked WHERE id = ?", (bytes.fromhex(id_),))
            totals = database.execute("SELECT entries, bytes FROM parked_total ORDER BY kind").fetchall()
            files, octets, cap = self._shortfall(folder, sum(total for _, total in totals), size)
            if files > 0 or octets > 0:
                below = min(kind + 1, _KEPT)  # nothing goes for what would go before it
                droppable = [sum(column) for column in zip(*totals[:below], strict=True)]
                if droppable[0] * _FILES_AN_ENTRY < files or droppable[1] < octets:
                    raise ParkedFullError(f"{self._folder}: {cap}: release or drop mail, or raise the cap")
                _drop(database, folder, _victims(database, below, files, octets))
            database.execute("INSERT INTO parked VALUES (?, ?, ?, ?)", (bytes.fromhex(id_), kind, now, size))

    def _shortfall(self, folder: int, total: int, size: int) -> tuple[int, int, str]:
        """How many files and bytes must go before `size` bytes more fit, and which cap says so."""
        limits, disk = self._limits, os.fstatvfs(folder)
        over_cap = total + size - limits.max_bytes
        share = limits.min_free_percent / 100
        over_disk = int(disk.f_blocks * share - disk.f_bavail) * disk.f_frsize + size
        files = int(disk.f_files * share - disk.f_favail) + _FILES_AN_ENTRY if disk.f_files else 0  # 0: no such limit there
        if files > 0 >= max(over_cap, over_disk):
            return files, 0, f"less than {limits.min_free_percent} percent of the disk's inodes would be free"
        if over_cap >= over_disk:
            return files, over_cap, f"{total} bytes are parked, {size} more exceed max_bytes {limits.max_bytes}"
        return files, over_disk, f"less than {limits.min_free_percent} percent of the disk would be free"

    def _forget(self, folder: int, id_: str) -> None:
        """After a failed write: no half entry, no count of it. What fails here too is left to `sweep`."""
        try:
            if _size(folder, f"{id_}.json") is None:
                _unlink(folder, f"{id_}.eml")
                self._delete_rows((id_,))
        except (OSError, StoreError):
            pass

    def _delete_rows(self, ids: tuple[str, ...]) -> None:
        if ids:
            with Transaction(self._opened(), self._path) as database:
                database.executemany("DELETE FROM parked WHERE id = ?", [(bytes.fromhex(id_),) for id_ in ids])

    def _sweep_is_due(self, now: float) -> bool:
        """Once an hour, and whoever comes first writes down that it was here. A clock set back makes it due."""
        with Transaction(self._opened(), self._path) as database:
            (swept,) = database.execute("SELECT swept FROM store").fetchone()
            if now - _LEFTOVER_AGE < swept <= now:
                return False
            database.execute("UPDATE store SET swept = ?", (now,))
        return True


class EntryLock:
    """Holds one entry. The lock is on the .json itself, so there is no lock file to leave behind; it ends with the process."""

    def __init__(self, folder: str, id_: str) -> None:
        self._folder = folder
        self._id = id_
        self._file = -1

    def __enter__(self) -> None:
        import fcntl

        name = f"{self._id}.json"
        with _Folder(self._folder) as folder:
            try:
                self._file = durable.open_regular(folder, name)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.fstat(self._file)
                now = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except BlockingIOError as error:
                self.__exit__(None, None, None)
                raise StoreError(f"{self._id}: another command is at work on it") from error
            except FileNotFoundError as error:
                self.__exit__(None, None, None)
                raise NotParkedError(f"{self._id}: no such parked message") from error
        if (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino):  # replaced by one that holds more, between open and lock
            self.__exit__(None, None, None)
            raise StoreError(f"{self._id}: was parked anew at this moment: try again")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Folder:
    """The parked folder, open: every name is looked up in this very folder. An OSError in the body becomes a StoreError."""

    def __init__(self, path: str, *, make: bool = False, alone: bool = False) -> None:
        """`make`: where it is missing. `alone`: one at a time, so that the two files of an entry are of one hand."""
        self._path = path
        self._make = make
        self._alone = alone
        self._opened = -1

    def __enter__(self) -> int:
        try:
            if self._make:
                self._make_folder()
            self._opened = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if self._alone:
                self._wait_for_turn()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self._make:
                raise NotParkedError(f"{self._path}: nothing is parked") from error
            raise StoreError(f"{self._path}: {error.strerror}") from error
        return self._opened

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._opened)
        if isinstance(error, OSError):
            raise StoreError(f"{self._path}/{error.filename or ''}: {error.strerror}") from error

    def _wait_for_turn(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._opened, fcntl.LOCK_EX)
        except BaseException:
            os.close(self._opened)
            raise

    def _make_folder(self) -> None:
        try:
            os.mkdir(self._path, 0o700)
        except FileExistsError:
            return
        store = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            durable.sync(store)
        finally:
            os.close(store)


def _place(kind: object) -> int:
    """A kind's place in the order of dropping. Raises ValueError."""
    for place, name in enumerate(_KINDS):
        if name == kind:
            return place
    raise ValueError(f"{kind!r} is no kind of parked mail")


def _is_id(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _check(id_: str) -> None:
    if not _is_id(id_):
        raise NotParkedError(f"{id_!r} is no id of a parked message: 64 lower-case hexadecimal digits")


def _ids(folder: int) -> list[str]:
    """The ids that have a .json which is a regular file."""
    with os.scandir(folder) as names:
        return [
            name.name[:-5]
            for name in names
            if name.name.endswith(".json") and _is_id(name.name[:-5]) and name.is_file(follow_symlinks=False)
        ]


def _entry(folder: int, id_: str) -> Entry | None:
    """The entry of that id; None where there is none. One that cannot be understood has empty `meta`, and is kept."""
    import json

    try:
        meta = json.loads(durable.read(folder, f"{id_}.json"))
        return Entry(
            parked_at=float(meta["parked_at"]),
            kind=_KINDS[_place(meta["kind"])],
            headers_only=bool(meta["headers_only"]),
            size=int(meta["size"]),
            meta=meta,
            **{name: str(meta.get(name, "")) for name in ("rule", "route", "reason", "sender", "recipient", "queue_id")},
            id=id_,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        nothing = dict.fromkeys(("rule", "route", "sender", "recipient", "queue_id"), "")
        reason = f"{id_}.json cannot be read: {error}"
        return Entry(id=id_, parked_at=0.0, kind="kept", reason=reason, headers_only=False, size=0, meta={}, **nothing)


def _size(folder: int, name: str) -> int | None:
    """A regular file's size in bytes; None where there is none. Raises OSError."""
    import stat

    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _row(folder: int, id_: str) -> tuple[bytes, int, float, int] | None:
    """What the database should say of an entry that it does not know; None where it went in the meantime."""
    entry = _entry(folder, id_)
    if entry is None:
        return None
    size = (_size(folder, f"{id_}.eml") or 0) + (_size(folder, f"{id_}.json") or 0)
    return bytes.fromhex(id_), _place(entry.kind), entry.parked_at, size


def _victims(database: sqlite3.Connection, below: int, files: int, octets: int) -> list[tuple[bytes, int]]:
    """Refused keys, then screened mail, oldest first, of kinds `below` this, until so many files and bytes are found."""
    found = []
    for key, size in database.execute("SELECT id, size FROM parked WHERE kind < ? ORDER BY kind, parked_at", (below,)):
        if files <= 0 and octets <= 0:
            break
        found.append((key, size))
        files, octets = files - _FILES_AN_ENTRY, octets - size
    return found


def _drop(database: sqlite3.Connection, folder: int, rows: list[tuple[bytes, int]]) -> int:
    """Deletes these entries and their rows; how many entries there were.

    The files have the last word: one that says it is kept, or cannot be read, stays, and its row is mended. (A database that
    was restored from an older copy may be wrong about it.)
    """
    dropped, kept = 0, []
    for key, _ in rows:
        row = _row(folder, key.hex())
        if row is not None and row[1] == _KEPT:
            kept.append(row)
        else:
            dropped += _unlink_entry(folder, key.hex())
    database.executemany("DELETE FROM parked WHERE id = ?", [(key,) for key, _ in rows])
    database.executemany("INSERT INTO parked VALUES (?, ?, ?, ?)", kept)
    return dropped


def _unlink_entry(folder: int, id_: str) -> bool:
    """The .json first: without it there is no entry."""
    there = _unlink(folder, f"{id_}.json")
    _unlink(folder, f"{id_}.eml")
    return there


def _unlink(folder: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _sync_entry(folder: int, id_: str) -> None:
    for name in (f"{id_}.eml", f"{id_}.json"):
        file = durable.open_regular(folder, name)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    durable.sync(folder)


def _delete_leftovers(folder: int, before: float) -> None:
    """Regular files of ours that no entry owns: temporary ones, and an .eml without .json, last written before that time."""
    owned = set(_ids(folder))
    with os.scandir(folder) as names:
        for found in names:
            stem, _, rest = found.name.partition(".")
            if not _is_id(stem) or not found.is_file(follow_symlinks=False):
                continue
            if (rest.endswith(durable.TEMPORARY) or (rest == "eml" and stem not in owned)) and _written(found) < before:
                _unlink(folder, found.name)


def _written(found: os.DirEntry[str]) -> float:
    """When a file was last written; now and for ever where it went in the meantime."""
    try:
        return found.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return float("inf")
