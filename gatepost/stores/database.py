"""The store's one SQLite file: opened, made, brought up to date, or refused with the reason.

Promises: WAL, synchronous FULL unless asked otherwise (what was committed survives a power cut), every transaction BEGIN
IMMEDIATE, mode 0600 in a folder of mode 0700. Two processes that make the store at once both get the same one. Every failure
is a `StoreError` that says what to do.
Never: makes a store anew in silence. A store that was made has a file `host-id` beside it, with the id that stands in the
database too; while that is there, a missing, empty or foreign database is an error. Never opens the database file but
through SQLite: closing any descriptor of it would drop this process's locks (POSIX fcntl locks belong to the process).
"""

from __future__ import annotations

import os

try:
    import _sqlite3 as sqlite3  # `sqlite3` itself adds datetime and its adapters: 1.1 ms of every message, and no use here
except ImportError:  # an interpreter that has it elsewhere
    import sqlite3  # type: ignore[no-redef]

from gatepost.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final

__all__ = ["DATABASE", "HOST_ID", "Transaction", "close", "fetch", "open_database"]

DATABASE: Final = "gatepost.sqlite"
#: Beside the database: proof that there was one.
HOST_ID: Final = "host-id"

#: Pages in the write-ahead log before a commit copies them back. A process that finds no other at work reads the whole log
#: when it opens the store, and the pipe script is always a new process: 100 pages are 0.4 MB, about 25 messages.
_CHECKPOINT_PAGES: Final = 100
#: The same for a process of many threads. It lives on, so that nobody reads the log anew, and copying back is where all of its
#: threads wait for the disk: a quarter of the syncs, with 100.
_LASTING_CHECKPOINT_PAGES: Final = 1_000
#: Kibibytes of pages that each connection of such a process keeps. Whatever another one writes makes all of them worthless, so
#: SQLite's 2,000 were no quicker (half a million rows, 1 and 20 threads), and eight connections grow to 16 MB.
_LASTING_CACHE: Final = 500

_TWICE: Final = "messages still in the queue may be handed over a second time"

#: What each version of the schema adds, a statement at a time. A database's version is its `PRAGMA user_version`.
#: `delivery` has no rowid: its key is 32 random bytes, and a row is found by nothing else on the way of a message.
_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE store (host_id TEXT NOT NULL, hash_key BLOB NOT NULL, swept REAL NOT NULL)",
        """CREATE TABLE delivery (
            id BLOB PRIMARY KEY NOT NULL,
            queue_id TEXT NOT NULL,
            first_seen REAL NOT NULL,
            changed REAL NOT NULL,
            attempts INTEGER NOT NULL,
            cannot_take INTEGER NOT NULL,
            fence INTEGER NOT NULL,
            lease_until REAL NOT NULL,
            state TEXT NOT NULL,
            judgement TEXT NOT NULL,
            outcome TEXT NOT NULL,
            sender_hash BLOB NOT NULL,
            recipient_hash BLOB NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX delivery_changed ON delivery (changed)",
        # What is parked, so that caps need no walk through the folder. The files are the truth: parked.py, `sweep`.
        """CREATE TABLE parked (
            id BLOB PRIMARY KEY NOT NULL,
            kind INTEGER NOT NULL,
            parked_at REAL NOT NULL,
            size INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX parked_eviction ON parked (kind, parked_at, size)",
        "CREATE TABLE parked_total (kind INTEGER PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        "INSERT INTO parked_total VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0)",
        """CREATE TRIGGER parked_in AFTER INSERT ON parked BEGIN
            UPDATE parked_total SET entries = entries + 1, bytes = bytes + new.size WHERE kind = new.kind; END""",
        """CREATE TRIGGER parked_out AFTER DELETE ON parked BEGIN
            UPDATE parked_total SET entries = entries - 1, bytes = bytes - old.size WHERE kind = old.kind; END""",
    ),
    (
        # 0: the message was only ever deferred by a limit. What was there before there were limits has passed.
        "ALTER TABLE delivery ADD COLUMN passed INTEGER NOT NULL DEFAULT 1",
        # One row for each counter of each message that passed, until `until`: when it leaves the counter's longest window.
        """CREATE TABLE counted (
            counter BLOB NOT NULL,
            time REAL NOT NULL,
            delivery BLOB NOT NULL,
            until REAL NOT NULL,
            PRIMARY KEY (counter, time, delivery)
        ) WITHOUT ROWID""",
        "CREATE INDEX counted_until ON counted (until)",
    ),
    (
        # The token of each message that was judged before Postfix queued it.
        """CREATE TABLE token (
            token BLOB PRIMARY KEY NOT NULL,
            queue_id TEXT NOT NULL,
            at REAL NOT NULL,
            binding BLOB NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX token_at ON token (at)",
    ),
)

#: By SQLite's primary result code: what a person can do (https://www.sqlite.org/rescode.html).
_MENDS: Final[dict[int, str]] = {
    3: "its owner must be the user that gatepost runs as",
    5: "another process holds it: see fuser(1), and whether the disk answers",
    6: "another process holds it: see fuser(1), and whether the disk answers",
    8: "it, its folder and the files beside it must be writable for the user that gatepost runs as",
    10: "see the kernel's log for the disk, and df(1) and quota(1)",
    11: "it is damaged: restore a copy, docs/store.md says how",
    13: "the disk is full: make room; nothing is lost, Postfix keeps the mail",
    14: "it, its folder and the files beside it must be writable for the user that gatepost runs as",
    26: "something else is in its place: restore a copy, docs/store.md says how",
}


def _explained(path: str, error: Exception) -> StoreError:
    """The error as a person needs it: which file, what SQLite or the kernel said, and what to do."""
    if isinstance(error, OSError):
        return StoreError(f"{error.filename or path}: {error.strerror or error}")
    code = getattr(error, "sqlite_errorcode", 0)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    mend = _MENDS.get(code & 0xFF, "docs/store.md says what a store must be")
    return StoreError(f"{path}: {error} ({name}): {mend}")


class Transaction:
    """`with Transaction(database, path):` is one BEGIN IMMEDIATE ... COMMIT, rolled back where the body raises.

    IMMEDIATE, because a transaction that reads first and writes then fails at once where another wrote in between, and
    busy_timeout does not help it. `writes` False: the body only reads, sees one state of the store, and waits for no writer.
    Raises StoreError for what SQLite or the disk says, in the body too.
    """

    def __init__(self, database: sqlite3.Connection, path: str, *, writes: bool = True) -> None:
        self._database = database
        self._path = path
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    def __enter__(self) -> sqlite3.Connection:
        try:
            if self._database.in_transaction:  # a signal came between BEGIN and the body of an earlier one
                self._database.execute("ROLLBACK")
            self._database.execute(self._begin)
        except sqlite3.Error as error:
            raise _explained(self._path, error) from error
        return self._database

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            try:
                self._database.execute("COMMIT")
            except BaseException as failed:
                self._roll_back()
                if isinstance(failed, sqlite3.Error):
                    raise _explained(self._path, failed) from failed
                raise
            return
        self._roll_back()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _explained(self._path, error) from error

    def _roll_back(self) -> None:
        try:
            if self._database.in_transaction:  # a full disk makes SQLite roll back by itself
                self._database.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # the error that brought us here is the one to tell


def fetch(database: sqlite3.Connection, path: str, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """The rows of one SELECT outside a transaction. Raises StoreError."""
    try:
        return database.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise _explained(path, error) from error


def close(database: sqlite3.Connection, path: str) -> None:
    """Copies the write-ahead log back, where no other process is at work, and lets go of the file. Raises StoreError."""
    try:
        database.close()
    except sqlite3.Error as error:
        raise _explained(path, error) from error


def open_database(
    folder: str, *, busy_timeout: float = 10.0, any_thread: bool = False, synced: bool = True
) -> sqlite3.Connection:  # fmt: skip
    """The store in `folder`, made where there was none. `busy_timeout`: seconds to wait for another's lock.

    `synced`: a commit is on the disk when it returns; without it a power cut may take back the last ones, whole, and nothing
    else. `any_thread`: for a process of many threads that lives on: not only the thread that opens it may use the connection;
    the caller sees to it that one does at a time.

    Raises StoreError where it is gone, empty, damaged, of a newer gatepost, locked for too long, not ours to write, or where
    the disk is full. The connection is in autocommit mode: write through `Transaction`. A process that ends soon should leave
    it open and end with os._exit: the last one to close copies the write-ahead log back, 3 syncs that the next pays no more.
    """
    path = f"{folder}/{DATABASE}"
    try:
        _not_as_root(folder)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            _make(folder, busy_timeout)
            size = os.stat(path).st_size
        if size == 0:
            raise StoreError(f"{path}: is empty, it was cut off: restore a copy, docs/store.md says how")
        if not os.access(path, os.R_OK | os.W_OK):  # SQLite would give its journal the same mode, and leave it so for ever
            raise StoreError(f"{path}: may not be read and written: {_MENDS[8]}")
        database = _connect(path, busy_timeout, any_thread)
    except (sqlite3.Error, OSError) as error:
        raise _explained(path, error) from error
    try:
        _prepare(database, path, synced=synced, lasting=any_thread)
        _compare_host_id(database, folder)
    except BaseException as error:
        database.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _explained(path, error) from error
        raise
    return database


def _not_as_root(folder: str) -> None:
    """As root in another user's store every new file would be root's, and stop the pipe script: refused."""
    if os.geteuid() == 0:
        try:
            owner = os.stat(folder).st_uid
        except FileNotFoundError:
            return
        if owner != 0:
            raise StoreError(f"{folder}: belongs to user {owner}: run this as that user, not as root")


def _connect(path: str, busy_timeout: float, any_thread: bool = False) -> sqlite3.Connection:
    """Opens what is there; mode=rw, because SQLite would make a missing file."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{quoted}?mode=rw", timeout=busy_timeout, isolation_level=None, uri=True, check_same_thread=not any_thread
    )


def _prepare(database: sqlite3.Connection, path: str, *, synced: bool, lasting: bool) -> None:
    """Settings of the connection, and the schema of this version."""
    database.text_factory = _text
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        raise StoreError(f"{path}: is a database, but not gatepost's: restore a copy, docs/store.md says how")
    if version > len(_MIGRATIONS):
        raise StoreError(
            f"{path}: was written by a newer gatepost (schema {version}, this one knows {len(_MIGRATIONS)}): install that"
            " version again"
        )
    database.execute("PRAGMA journal_mode=WAL")  # in the file already, unless a copy was restored with another
    database.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
    database.execute("PRAGMA secure_delete=FAST")  # what finish() clears leaves the page that is written anyway
    database.execute(f"PRAGMA wal_autocheckpoint={_LASTING_CHECKPOINT_PAGES if lasting else _CHECKPOINT_PAGES}")
    if lasting:
        database.execute(f"PRAGMA cache_size={-_LASTING_CACHE}")
    if version < len(_MIGRATIONS):
        _migrate(database, path)


def _text(octets: bytes) -> str:
    """What Ledger stored: UTF-8, with surrogates where a queue ID or an address was none."""
    return octets.decode("utf-8", "surrogatepass")


def _migrate(database: sqlite3.Connection, path: str) -> None:
    """Brings the schema to this version, whole or not at all; where another process does it at once, one of them does."""
    with Transaction(database, path):
        (version,) = database.execute("PRAGMA user_version").fetchone()
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version={len(_MIGRATIONS)}")


def _compare_host_id(database: sqlite3.Connection, folder: str) -> None:
    """The database must be the one that `host-id` was written for; a host-id that was lost is written again."""
    row = database.execute("SELECT host_id FROM store").fetchone()
    if row is None:
        raise StoreError(f"{folder}/{DATABASE}: has no host id: restore a copy, docs/store.md says how")
    try:
        with open(f"{folder}/{HOST_ID}", "rb") as file:
            marked = file.read(64).strip()
    except FileNotFoundError:
        _mark(folder, row[0])
        return
    if marked != row[0].encode("utf-8", "surrogatepass"):
        raise StoreError(
            f"{folder}/{DATABASE}: is not the ledger that host-id names: put the right one back, or remove host-id to go on"
            f" with this one: {_TWICE}"
        )


def _mark(folder: str, host_id: str) -> None:
    from gatepost.stores import durable

    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        durable.write(opened, HOST_ID, host_id.encode() + b"\n")
        durable.sync(opened)
    finally:
        os.close(opened)


def _make(folder: str, patience: float) -> None:
    """Makes the store, unless another process just did. The database is renamed into place whole, then marked.

    A crash between the two leaves a good database without host-id, which the next opening writes; the other order would
    leave a host-id whose ledger is gone.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:  # never made here: a disk that is not mounted is no reason to begin anew
        raise StoreError(f"{folder}: is not there: mount it, or install -d -o gatepost -g gatepost -m 0700 {folder}") from error
    try:
        _lock(opened, folder, patience)
        if os.path.exists(f"{folder}/{DATABASE}"):
            return
        _refuse_if_it_was_there(folder)
        host_id = _build(f"{folder}/{DATABASE}.new")
        os.rename(f"{DATABASE}.new", DATABASE, src_dir_fd=opened, dst_dir_fd=opened)
        os.fsync(opened)
        _mark(folder, host_id)
    finally:
        os.close(opened)  # and with it the lock


def _lock(opened: int, folder: str, patience: float) -> None:
    """One maker at a time. The lock goes with the process that holds it, even one killed."""
    import fcntl
    import time

    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise StoreError(f"{folder}: another process is making the store and does not end") from error
            time.sleep(0.01)
        else:
            return


def _refuse_if_it_was_there(folder: str) -> None:
    """A new database beside an old journal would swallow that journal's pages, so they count as proof too."""
    for trace in (HOST_ID, f"{DATABASE}-wal", f"{DATABASE}-journal"):
        if os.path.lexists(f"{folder}/{trace}"):
            raise StoreError(
                f"{folder}/{DATABASE}: the ledger is gone, {trace} shows that there was one: restore it, or remove {trace} to"
                f" begin anew: {_TWICE}"
            )


def _build(path: str) -> str:
    """Writes a whole new database under a temporary name and returns its host id."""
    for leftover in ("", "-journal", "-wal", "-shm"):  # of a maker that was killed
        try:
            os.unlink(path + leftover)
        except FileNotFoundError:
            continue
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    database = _connect(path, 0)
    try:
        host_id = os.urandom(16).hex()
        _migrate(database, path)
        database.execute("INSERT INTO store VALUES (?, ?, 0)", (host_id, os.urandom(32)))
        database.execute("PRAGMA journal_mode=WAL")  # kept in the file; closing takes the log away again
    finally:
        database.close()
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # closed in SQLite: no lock of ours to lose
    try:
        os.fsync(file)
    finally:
        os.close(file)
    return host_id
