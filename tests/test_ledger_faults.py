"""What the ledger says when its file, its folder or its disk fails it: the reason, what to do, and nothing made anew."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gatepost.errors import StoreError
from gatepost.stores.database import _connect, open_database
from gatepost.stores.ledger import Ledger

ID = "ab" * 32
NOBODY = 65_534


def ask(ledger: Ledger, id_: str = ID) -> str:
    return ledger.claim(
        id_, now=1_000.0, lease=180.0, judgement="j" * 300, queue_id="Q", sender="", recipient="reply+k@in.example.com"
    ).state


def run(folder: Path) -> str:
    """What each message does: open, claim. The state, with the ledger closed again."""
    ledger = Ledger.open(str(folder), busy_timeout=0.05)
    try:
        return ask(ledger, "cd" * 32)
    finally:
        ledger.close()


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Path:
    """A store that was there yesterday, with a few hundred rows."""
    (tmp_path / "store").mkdir(mode=0o700)
    ledger = Ledger.open(str(tmp_path / "store"))
    for n in range(200):
        ask(ledger, f"{n:064x}")
    ledger.close()
    return tmp_path / "store"


def _overwrite(path: Path, start: int, octets: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(octets)


def _foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (id)")
    connection.close()


def _version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()


def _stranger(path: Path) -> None:
    """Another host's ledger in place of ours."""
    (path.parent.parent / "stranger").mkdir(mode=0o700)
    Ledger.open(f"{path.parent.parent}/stranger").close()
    shutil.copy(path.parent.parent / "stranger" / "gatepost.sqlite", path)


def _only_journal(path: Path) -> None:
    path.rename(path.with_name("gatepost.sqlite-wal"))
    path.with_name("host-id").unlink()


class Fault(NamedTuple):
    id: str
    spoil: Callable[[Path], object]
    says: str
    reason: str


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/gatepost.sqlite")


def _garbage(path: Path) -> None:
    """All pages but the first, which says that it is a database of ours."""
    _overwrite(path, 4_096, bytes(range(256)) * (os.path.getsize(path) // 256 - 16))


FAULTS = [
    Fault("gone", Path.unlink, "the ledger is gone", "it was there yesterday: host-id tells"),
    Fault("gone-but-journal", _only_journal, "the ledger is gone", "an old journal would be read into a new database"),
    Fault("empty", lambda path: os.truncate(path, 0), "is empty", "SQLite takes an empty file for a new database"),
    Fault("cut-off", lambda path: os.truncate(path, os.path.getsize(path) // 2 + 100), "SQLITE_CORRUPT", "a broken-off copy"),
    Fault("cut-to-a-page", lambda path: os.truncate(path, 4_096), "SQLITE_CORRUPT", "only the first page is left"),
    Fault("no-header", lambda path: _overwrite(path, 0, b"x" * 100), "not a database", "something wrote over its beginning"),
    Fault("text", lambda path: path.write_text("hello\n" * 999), "not a database", "not SQLite at all"),
    Fault("garbage", _garbage, "SQLITE_CORRUPT", "a dying disk"),
    Fault("foreign", _foreign, "not gatepost's", "a database of something else"),
    Fault("newer", lambda path: _version(path, 99), "newer gatepost", "a version went back"),
    Fault("version-0", lambda path: _version(path, 0), "not gatepost's", "never what we write"),
    Fault("stranger", _stranger, "not the ledger that host-id names", "its delivery ids would all be new"),
    Fault("folder", _folder, "unable to open", "a folder in its place"),
    Fault("dangling", _dangling, "the ledger is gone", "a link to a disk that is not mounted"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_fault(fault: Fault, store: Path) -> None:
    """A store that is not as it was left is a StoreError that says how, each time; nothing is made anew in its place."""
    fault.spoil(store / "gatepost.sqlite")
    before = _contents(store)
    for _ in range(2):
        with pytest.raises(StoreError, match=fault.says) as caught:
            run(store)
        assert str(store) in str(caught.value)
        assert caught.value.rule == "store-unavailable"
    assert _contents(store) == before, fault.reason


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes, without the index of the log, which SQLite makes whenever it looks."""
    return {
        path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir() if not path.name.endswith("-shm")
    }


def test_removed_host_id_begins_anew(store: Path) -> None:
    """Who removes host-id too, as the error says, gets a new store with another host id."""
    before = (store / "host-id").read_bytes()
    (store / "gatepost.sqlite").unlink()
    (store / "host-id").unlink()
    assert run(store) == "claimed"
    assert (store / "host-id").read_bytes() != before


def test_lost_host_id_is_written_again(store: Path) -> None:
    """A good ledger without host-id is used, and host-id is back as it was."""
    before = (store / "host-id").read_bytes()
    (store / "host-id").unlink()
    assert run(store) == "claimed"
    assert (store / "host-id").read_bytes() == before


def test_restored_copy_with_another_journal(store: Path) -> None:
    """A copy that was restored as a plain database, not in WAL mode, is used and put back into WAL mode."""
    connection = sqlite3.connect(store / "gatepost.sqlite")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    assert run(store) == "claimed"
    connection = sqlite3.connect(store / "gatepost.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_locked(statement: str, store: Path) -> None:
    """A lock that another process holds for longer than the patience is a StoreError; afterwards all is well."""
    other = sqlite3.connect(store / "gatepost.sqlite", isolation_level=None)
    other.execute(statement)
    with pytest.raises(StoreError, match=r"locked.*fuser"):
        run(store)
    other.execute("ROLLBACK")
    assert run(store) == "claimed"
    other.close()


def test_locked_before_finish(store: Path) -> None:
    """A finish that cannot be written raises, and leaves the claim as it was."""
    ledger = Ledger.open(str(store), busy_timeout=0.05)
    ask(ledger)
    other = sqlite3.connect(store / "gatepost.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        ledger.finish(ID, 1, outcome="", now=1.0)
    with pytest.raises(StoreError, match="locked"):
        ledger.release(ID, 1)
    with pytest.raises(StoreError, match="locked"):
        ledger.prune(9e9, 0, 1)
    other.execute("ROLLBACK")
    assert ledger.finish(ID, 1, outcome="", now=1.0)
    other.close()
    ledger.close()


def test_gone_at_the_last_moment(tmp_path: Path) -> None:
    """A file that goes between the look and the opening is not made by SQLite either."""
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        _connect(str(tmp_path / "absent.sqlite"), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there (a disk not mounted) is not made, and the error says how to make it."""
    with pytest.raises(StoreError, match="is not there: mount it, or install -d -o gatepost"):
        Ledger.open(str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


def test_folder_is_a_file(tmp_path: Path) -> None:
    """A file where the folder should be is a StoreError."""
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        Ledger.open(str(tmp_path / "store"))


def in_child(work: Callable[[], str]) -> str:
    """What `work` returned in a process of its own, or the StoreError it raised; anything else shows as "raised ..."."""
    hear, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = work()
        except StoreError as error:
            answer = f"StoreError {error}"
        except BaseException as error:
            answer = f"raised {error!r}"
        os.write(tell, answer.encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(hear, "rb") as file:
        answer = file.read().decode()
    os.waitpid(pid, 0)
    return answer


def small_disk(limit: int) -> None:
    """No file may grow past `limit` bytes (Python ignores SIGXFSZ): how a full disk looks from inside, without one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize("limit", [0, 1, 16, 4_096, 8_192, 20_000])
def test_full_disk_when_making(limit: int, tmp_path: Path) -> None:
    """A disk too full for a new store is a StoreError, and leaves no store and no mark of one."""
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)

    def make() -> str:
        small_disk(limit)
        Ledger.open(str(folder))
        return "made"

    answer = in_child(make)
    assert answer.startswith("StoreError"), answer
    assert not (folder / "host-id").exists()
    assert not (folder / "gatepost.sqlite").exists()
    assert run(folder) == "claimed"


@pytest.mark.parametrize("limit", [0, 1_000, 4_096, 30_000, 36_000, 41_000, 45_000])
def test_full_disk_when_claiming(limit: int, store: Path) -> None:
    """When the disk is full a claim is a StoreError at some point, what was claimed before stays, and room mends it."""

    def claim() -> str:
        small_disk(limit)
        ledger = Ledger.open(str(store))
        for n in range(200, 300):
            ask(ledger, f"{n:064x}")
            ledger.finish(f"{n:064x}", 1, outcome="x", now=1_000.0)
        return "all claimed"

    answer = in_child(claim)
    assert answer.startswith("StoreError"), answer
    ledger = Ledger.open(str(store))
    assert all(ask(ledger, f"{n:064x}") == "busy" for n in range(200))
    assert ledger.prune(9e9, 0.0, 1_000) >= 200
    ledger.close()


@pytest.fixture(name="nobodys")
def _nobodys() -> Iterator[Path]:
    """A store of a user who is not root, in a place where that user can reach it: rights mean nothing to root."""
    folder = Path(tempfile.mkdtemp(prefix="gatepost-test-"))
    ledger = Ledger.open(str(folder))
    ask(ledger)
    ledger.close()
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def as_nobody() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@pytest.mark.parametrize(
    ("name", "mode", "says"),
    [
        ("gatepost.sqlite", 0o400, "may not be read and written"),
        ("gatepost.sqlite", 0o000, "may not be read and written"),
        ("", 0o500, "unable to open|readonly"),
        ("", 0o000, "Permission denied"),
        ("host-id", 0o000, "Permission denied"),
    ],
)
def test_no_rights(name: str, mode: int, says: str, nobodys: Path) -> None:
    """A store that may not be read or written is a StoreError, not a new store; with its rights back it goes on."""

    def claim() -> str:
        as_nobody()
        return run(nobodys)

    before = (nobodys / name).stat().st_mode & 0o777
    (nobodys / name).chmod(mode)
    with pytest.raises(StoreError, match=says):
        _raise(in_child(claim))
    (nobodys / name).chmod(before)
    assert in_child(claim) == "claimed"


def _raise(answer: str) -> None:
    """Raises the StoreError that a child wrote down; AssertionError for any other answer."""
    assert answer.startswith("StoreError "), answer
    raise StoreError(answer)


def test_root_keeps_out(nobodys: Path) -> None:
    """Root does not open another user's store: its journal files would stop that user. (Run without root: the owner may.)"""
    before = _contents(nobodys)
    if os.geteuid() == 0:
        with pytest.raises(StoreError, match="run this as that user"):
            open_database(str(nobodys))
    else:
        open_database(str(nobodys)).close()
    assert _contents(nobodys) == before
