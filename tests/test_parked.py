"""Parked mail: what an entry is, what goes first at a cap, what is never followed, what a crash leaves."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import signal
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gatepost.errors import ParkedFullError, StoreError
from gatepost.settings import ParkedLimits
from gatepost.stores import parked as module
from gatepost.stores.parked import Entry, NotParkedError, Parked

NOW = 1_800_000_000.0
DAY = 86_400.0
RAW = b"Subject: hello\r\n\r\nbody\r\n"
LARGE = ParkedLimits(max_bytes=1_000_000_000, min_free_percent=0.0)


def number(n: int) -> str:
    """The id of a test's n-th message."""
    return hashlib.sha256(b"%d" % n).hexdigest()


def about(kind: str = "kept", **more: object) -> dict[str, object]:
    """What the gateway says of a message it parks."""
    return {"kind": kind, "rule": "app-cannot-take", "route": "replies", "reason": "HTTP 422", "sender": "a@example.org",
            "recipient": "reply+k@in.example.com", "queue_id": "4jWl4Z5tH8zJv6D", **more}  # fmt: skip


class Clock:
    """A clock that a test sets; each look makes it a second later, so that entries have an order."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        self.now += 1
        return self.now


Maker = Callable[..., Parked]


@pytest.fixture(name="made")
def _made(tmp_path: Path) -> Iterator[Maker]:
    """Opens parked mail below the test's own folder, with these limits, and closes it at the end."""
    every = []
    clock = Clock()

    def made(limits: ParkedLimits = LARGE) -> Parked:
        every.append(Parked(f"{tmp_path}/store/parked", limits, clock=clock))
        return every[-1]

    yield made
    for parked in every:
        parked.close()


@pytest.fixture(name="parked")
def _parked(made: Maker) -> Parked:
    return made()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Where the entries lie; the store is not made yet, but its folder can be."""
    (tmp_path / "store").mkdir(mode=0o700)
    return tmp_path / "store" / "parked"


def ids(parked: Parked) -> list[str]:
    return [entry.id for entry in parked.list()]


def counted(folder: Path) -> list[tuple[int, int]]:
    """What the database believes: entries and bytes, of refused, screened, kept."""
    connection = sqlite3.connect(folder.parent / "gatepost.sqlite")
    rows = connection.execute("SELECT entries, bytes FROM parked_total ORDER BY kind").fetchall()
    assert rows == [
        connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM parked WHERE kind = ?", (kind,)).fetchone()
        for kind in range(3)
    ]
    connection.close()
    return rows


def test_park_and_load(parked: Parked, folder: Path) -> None:
    """What was parked comes back: every fact, whatever else was said of it, and the very bytes."""
    raw = b"Subject: \xff\x00\r\n\r\n" + bytes(range(256))
    parked.park(number(1), raw=raw, headers_only=False, meta=about(first_seen=NOW - 5, sender="\udcff@example.org"))
    entry, octets = parked.load(number(1))
    assert octets == raw
    assert entry.replace(meta={}) == Entry(
        id=number(1), parked_at=NOW + 1, kind="kept", rule="app-cannot-take", route="replies", reason="HTTP 422",
        sender="\udcff@example.org", recipient="reply+k@in.example.com", queue_id="4jWl4Z5tH8zJv6D", headers_only=False,
        size=len(raw), meta={},
    )  # fmt: skip
    assert entry.meta["first_seen"] == NOW - 5
    assert list(parked.list()) == [entry]


def test_files_of_an_entry(parked: Parked, folder: Path) -> None:
    """An entry is ID.eml and ID.json, mode 0600, in a folder of mode 0700, whatever the umask; nothing else is left there."""
    before = os.umask(0)
    try:
        parked.park(number(1), raw=RAW, headers_only=False, meta=about())
    finally:
        os.umask(before)
    assert sorted(path.name for path in folder.iterdir()) == [f"{number(1)}.eml", f"{number(1)}.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / f"{number(1)}.eml").read_bytes() == RAW


def test_list_is_newest_last(parked: Parked, folder: Path) -> None:
    """Entries come in the order in which they were parked, whatever their ids."""
    for n in range(20):
        parked.park(number(n), raw=RAW, headers_only=False, meta=about())
    assert ids(parked) == [number(n) for n in range(20)]


def test_nothing_parked(parked: Parked, folder: Path) -> None:
    """Before anything was parked, listing is empty, and asking for an entry says that there is none; no folder is made."""
    assert ids(parked) == []
    assert not parked.drop(number(1))
    assert parked.prune(NOW, 10) == 0
    with pytest.raises(NotParkedError):
        parked.load(number(1))
    with pytest.raises(NotParkedError), parked.lock(number(1)):
        pass
    assert not folder.exists()


class Again(NamedTuple):
    id: str
    first: tuple[str, bool]
    second: tuple[str, bool]
    left: tuple[str, bool, bytes]
    reason: str


HEAD = RAW[:18]
AGAIN = [
    Again("same", ("kept", False), ("kept", False), ("kept", False, RAW), "a retry of what was not acknowledged"),
    Again("same-head", ("refused", True), ("refused", True), ("refused", True, HEAD), "the same, head only"),
    Again("less", ("kept", False), ("refused", True), ("kept", False, RAW), "what is whole must not shrink to a head"),
    Again("more", ("refused", True), ("kept", False), ("kept", False, RAW), "a head makes way for the whole"),
    Again("weaker", ("kept", False), ("screened", False), ("kept", False, RAW), "what is kept must not become droppable"),
    Again("whole-but-weaker", ("screened", False), ("kept", True), ("screened", False, RAW), "bytes are worth more than rank"),
    Again("stronger-head", ("refused", True), ("kept", True), ("kept", True, HEAD), "what is to be kept is kept"),
    Again("stronger", ("screened", False), ("kept", False), ("kept", False, RAW), "what is to be kept is kept"),
]


@pytest.mark.parametrize("row", AGAIN, ids=lambda row: row.id)
def test_parked_twice(row: Again, parked: Parked, folder: Path) -> None:
    """Parking an id twice leaves one entry, the one that holds more, counted once."""
    for kind, headers_only in (row.first, row.second):
        parked.park(number(1), raw=HEAD if headers_only else RAW, headers_only=headers_only, meta=about(kind))
    (entry,) = parked.list()
    assert (entry.kind, entry.headers_only, parked.load(number(1))[1]) == row.left, row.reason
    assert [entries for entries, _ in counted(folder)] == [int(kind == entry.kind) for kind in ("refused", "screened", "kept")]
    assert sum(octets for _, octets in counted(folder)) == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("spoil", ["no-eml", "short-eml", "bad-json"])
def test_parked_again_after_damage(spoil: str, parked: Parked, folder: Path) -> None:
    """A retry does not trust an entry that is not whole: it writes it again before the message is acknowledged."""
    parked.park(number(1), raw=RAW, headers_only=False, meta=about())
    eml, about_it = folder / f"{number(1)}.eml", folder / f"{number(1)}.json"
    if spoil == "no-eml":
        eml.unlink()
    elif spoil == "short-eml":
        eml.write_bytes(b"S")
    else:
        about_it.write_text("{")
    with pytest.raises(StoreError):
        parked.load(number(1))
    parked.park(number(1), raw=RAW, headers_only=False, meta=about())
    assert parked.load(number(1))[1] == RAW


DAMAGED = {"empty": "", "list": "[]", "object": "{}", "null": "null", "binary": "\xff", "deep": "[" * 100_000,
           "wrong-type": '{"kind":"kept","parked_at":"x"}', "wrong-kind": '{"kind":"other","parked_at":1}'}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_unreadable_facts(text: str, parked: Parked, folder: Path) -> None:
    """An entry whose .json is damaged is listed as kept, with the reason, is not loaded, and can be dropped by a person."""
    parked.park(number(1), raw=RAW, headers_only=True, meta=about("refused"))
    (folder / f"{number(1)}.json").write_text(text, encoding="latin-1")
    (entry,) = parked.list()
    assert (entry.id, entry.kind) == (number(1), "kept")
    assert "cannot be read" in entry.reason
    with pytest.raises(StoreError, match="cannot be read"):
        parked.load(number(1))
    assert parked.drop(number(1))


def test_drop(parked: Parked, folder: Path) -> None:
    """drop deletes both files and the count, says whether there was an entry, and touches no other."""
    for n in range(2):
        parked.park(number(n), raw=RAW, headers_only=False, meta=about())
    assert parked.drop(number(0))
    assert not parked.drop(number(0))
    assert ids(parked) == [number(1)]
    assert len(list(folder.iterdir())) == 2
    assert counted(folder)[2][0] == 1


@pytest.mark.parametrize("id_", ["", "x", "AB" * 32, "ab" * 33, "../" * 21 + "x", "ab" * 31 + "a\n", "٠" * 64])
def test_names(id_: str, parked: Parked, folder: Path) -> None:
    """Nothing but 64 lower-case hexadecimal digits ever becomes a file's name."""
    with pytest.raises(NotParkedError):
        parked.park(id_, raw=RAW, headers_only=False, meta=about())
    with pytest.raises(NotParkedError):
        parked.load(id_)
    with pytest.raises(NotParkedError):
        parked.drop(id_)
    with pytest.raises(NotParkedError):
        parked.lock(id_)
    assert not folder.exists()


def test_unknown_kind(parked: Parked, folder: Path) -> None:
    """A kind that has no place in the order of dropping is a mistake of the caller; nothing is written."""
    with pytest.raises(ValueError, match="other"):
        parked.park(number(1), raw=RAW, headers_only=False, meta=about("other"))
    assert not folder.exists()


class Cap(NamedTuple):
    id: str
    there: str
    new: str
    left: str | None
    reason: str


# Each letter is an entry of about 10,000 bytes, r(efused), s(creened) or k(ept), oldest first; three fit.
CAPS = [
    Cap("fits", "rr", "r", "rrr", "below the cap nothing goes"),
    Cap("refused-first", "rsk", "k", "skk", "a refused key is worth least"),
    Cap("refused-before-older-screened", "srk", "k", "skk", "age counts only within a kind"),
    Cap("oldest-refused", "r1r2r3", "r", "r2r3r", "the newest tells most of what happens now"),
    Cap("screened-next", "skk", "k", "kkk", "then screened mail"),
    Cap("oldest-screened", "s1s2k", "s", "s2ks", "oldest first there too"),
    Cap("refused-for-refused", "rkk", "r", "kkr", "a flood of refused keys pushes out only its own kind"),
    Cap("kept-at-cap", "kkk", "k", None, "what the app could not take is never dropped: defer"),
    Cap("refused-at-cap", "kkk", "r", None, "nothing may go for it"),
    Cap("screened-at-cap", "kkk", "s", None, "nothing may go for it"),
    Cap("too-large", "rsk", "k4", None, "larger than the cap: nothing is dropped in vain"),
    Cap("two-go", "rsk", "k2", "kk2", "as many go as must"),
    Cap("two-but-one", "rkk", "k2", None, "one could go, two would have to: nothing is dropped in vain"),
]


def _entries(letters: str) -> list[str]:
    """Cuts "r1k2s" into "r1", "k2", "s"."""
    found: list[str] = []
    for letter in letters:
        if letter.isdigit():
            found[-1] += letter
        else:
            found.append(letter)
    return found


@pytest.mark.parametrize("row", CAPS, ids=lambda row: row.id)
def test_caps(row: Cap, made: Maker, folder: Path) -> None:
    """At the cap refused keys go first, then screened mail, oldest first; kept mail stays, and what does not fit is refused."""
    kinds = {"r": "refused", "s": "screened", "k": "kept"}
    parked = made(ParkedLimits(max_bytes=32_000, min_free_percent=0.0))
    there = _entries(row.there)
    for n, name in enumerate(there):
        parked.park(number(n), raw=b"x" * 10_000, headers_only=False, meta=about(kinds[name[0]], name=name))
    size = 10_000 * (int(row.new[1:]) if len(row.new) > 1 else 1)
    refuses = pytest.raises(ParkedFullError, match="max_bytes 32000") if row.left is None else contextlib.nullcontext()
    with refuses:
        parked.park(number(99), raw=b"x" * size, headers_only=False, meta=about(kinds[row.new[0]], name=row.new))
    left = there if row.left is None else _entries(row.left)
    assert [entry.meta["name"] for entry in parked.list()] == left, row.reason
    assert sum(octets for _, octets in counted(folder)) == sum(path.stat().st_size for path in folder.iterdir()) <= 32_000


class Disk(NamedTuple):
    """A disk of 100 blocks of 1,000 bytes and 100 inodes, a tenth of each to stay free; three refused keys take 28 blocks."""

    free: int
    free_files: int
    size: int
    left: int | None
    says: str = ""


DISKS = {
    "room": Disk(free=30, free_files=50, size=9_000, left=4),
    "one-goes": Disk(free=12, free_files=50, size=9_000, left=3),
    "all-go": Disk(free=0, free_files=50, size=9_000, left=1),
    "disk-full": Disk(free=0, free_files=50, size=30_000, left=None, says="of the disk would be free"),
    "inodes-just-there": Disk(free=50, free_files=12, size=9_000, left=4),
    "inodes-short": Disk(free=50, free_files=11, size=9_000, left=3),
    "inodes-gone": Disk(free=50, free_files=5, size=9_000, left=None, says="inodes"),
    "inodes-not-counted": Disk(free=50, free_files=-1, size=9_000, left=4),
}


@pytest.mark.parametrize("name", DISKS)
def test_share_of_the_disk(name: str, made: Maker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the disk, and of its inodes, stays free: refused keys go for it, and where that would not do, nothing does."""
    disk = DISKS[name]
    free_files, files = max(disk.free_files, 0), 0 if disk.free_files < 0 else 100
    parked = made(ParkedLimits(max_bytes=10**9, min_free_percent=10.0))
    monkeypatch.setattr(os, "fstatvfs", lambda _: _disk(100, 100, 100, 100))
    for n in range(3):
        parked.park(number(n), raw=b"x" * 9_000, headers_only=False, meta=about("refused"))
    monkeypatch.setattr(os, "fstatvfs", lambda _: _disk(100, disk.free, files, free_files))
    refuses = pytest.raises(ParkedFullError, match=disk.says) if disk.left is None else contextlib.nullcontext()
    with refuses:
        parked.park(number(9), raw=b"x" * disk.size, headers_only=False, meta=about())
    assert len(ids(parked)) == (3 if disk.left is None else disk.left)


def _disk(blocks: int, free: int, files: int, free_files: int) -> os.statvfs_result:
    return os.statvfs_result((1_000, 1_000, blocks, free, free, files, free_files, free_files, 0, 255))


def test_age(made: Maker, folder: Path) -> None:
    """Refused keys and screened mail past their age go, oldest first, at most as many as asked; kept mail never does."""
    parked = made(ParkedLimits(max_age=30 * DAY, max_bytes=10**9, min_free_percent=0.0))
    for n, kind in enumerate(["kept", "refused", "screened", "refused"]):
        parked.park(number(n), raw=RAW, headers_only=False, meta=about(kind))
    assert parked.prune(NOW + 30 * DAY, 10) == 0
    assert parked.prune(NOW + 31 * DAY, 0) == 0
    assert parked.prune(NOW + 31 * DAY, 2) == 2
    assert ids(parked) == [number(0), number(3)]
    assert parked.prune(NOW + 310 * DAY, 10) == 1
    assert ids(parked) == [number(0)]
    assert len(list(folder.iterdir())) == 2
    assert [entries for entries, _ in counted(folder)] == [0, 0, 1]


def test_database_is_wrong_about_kept_mail(made: Maker, folder: Path) -> None:
    """An older copy of the database may call kept mail refused: the file has the last word, nothing kept is dropped."""
    parked = made(ParkedLimits(max_bytes=32_000, min_free_percent=0.0))
    for n in range(3):
        parked.park(number(n), raw=b"x" * 10_000, headers_only=False, meta=about())
    connection = sqlite3.connect(folder.parent / "gatepost.sqlite")
    connection.execute("CREATE TABLE copy AS SELECT * FROM parked")
    connection.execute("DELETE FROM parked")
    connection.execute("INSERT INTO parked SELECT id, 0, parked_at, size FROM copy")
    connection.commit()
    connection.close()
    assert parked.prune(NOW + 400 * DAY, 10) == 0
    assert ids(parked) == [number(0), number(1), number(2)]
    assert [entries for entries, _ in counted(folder)] == [0, 0, 3]
    with pytest.raises(ParkedFullError):
        parked.park(number(9), raw=b"x" * 10_000, headers_only=False, meta=about())


def test_sweep_mends_the_count(parked: Parked, folder: Path) -> None:
    """prune, once an hour, counts files that the database does not know, and forgets rows whose files are gone."""
    for n in range(4):
        parked.park(number(n), raw=RAW, headers_only=False, meta=about("refused"))
    for suffix in ("eml", "json"):
        (folder / f"{number(1)}.{suffix}").unlink()
    _lose_row(folder, number(0))
    assert parked.prune(NOW + 60, 10) == 0
    assert [entries for entries, _ in counted(folder)] == [4, 0, 0], "a young row's files may be on their way"
    _lose_row(folder, number(0))
    assert parked.prune(NOW + 1_000, 10) == 0
    assert [entries for entries, _ in counted(folder)] == [3, 0, 0], "not twice in an hour"
    assert parked.prune(NOW + 7_200, 10) == 0
    assert [entries for entries, _ in counted(folder)] == [3, 0, 0]
    assert sum(octets for _, octets in counted(folder)) == sum(path.stat().st_size for path in folder.iterdir())
    assert ids(parked) == [number(0), number(2), number(3)]


def _lose_row(folder: Path, id_: str) -> None:
    connection = sqlite3.connect(folder.parent / "gatepost.sqlite")
    connection.execute("DELETE FROM parked WHERE id = ?", (bytes.fromhex(id_),))
    connection.commit()
    connection.close()


def test_leftovers(parked: Parked, folder: Path) -> None:
    """What a crash left half-written goes after an hour, not before; an entry, and what is not ours, stays."""
    parked.park(number(1), raw=RAW, headers_only=False, meta=about())
    stays = [f"{number(1)}.eml", f"{number(1)}.json", "notes.txt", "x.tmp", f"{number(5)}.eml.gz", f"{number(6)}.json"]
    goes = [f"{number(2)}.eml", f"{number(3)}.eml.77.0badcafe.tmp", f"{number(1)}.json.77.0badcafe.tmp"]
    for name in (*stays[2:], *goes):
        (folder / name).write_text("{}")
    (folder / f"{number(4)}.eml").symlink_to("/etc/hostname")
    for name in os.listdir(folder):
        os.utime(folder / name, (NOW, NOW), follow_symlinks=False)
    parked.prune(NOW + 3_000, 10)
    assert set(os.listdir(folder)) == {*stays, *goes, f"{number(4)}.eml"}
    parked.prune(NOW + 7_000, 10)
    assert set(os.listdir(folder)) == {*stays, f"{number(4)}.eml"}


def test_strange_files(parked: Parked, folder: Path, tmp_path: Path) -> None:
    """Links, pipes and folders under an entry's name are no entries: never followed or waited for."""
    for n, raw in ((1, RAW), (5, b"")):
        parked.park(number(n), raw=raw, headers_only=False, meta=about())
        (folder / f"{number(n)}.eml").unlink()
    facts, copy = tmp_path / "facts", tmp_path / "copy"
    facts.write_text((folder / f"{number(1)}.json").read_text())
    copy.write_bytes(RAW)
    (folder / f"{number(1)}.eml").symlink_to(copy)
    (folder / f"{number(2)}.json").symlink_to(facts)
    (folder / f"{number(2)}.eml").write_bytes(RAW)
    os.mkfifo(folder / f"{number(3)}.json")
    (folder / f"{number(4)}.json").mkdir()
    os.mkfifo(folder / f"{number(5)}.eml")
    assert ids(parked) == [number(1), number(5)]
    for n in range(1, 6):
        with pytest.raises(StoreError):
            parked.load(number(n))
    parked.prune(NOW + DAY, 10)
    with pytest.raises(StoreError, match="Is a directory"):
        parked.park(number(4), raw=RAW, headers_only=False, meta=about())
    assert not (folder / f"{number(4)}.eml").exists()
    for n in (1, 2, 3, 5):
        parked.park(number(n), raw=RAW, headers_only=False, meta=about())
        assert parked.load(number(n))[1] == RAW
        assert parked.drop(number(n))
    assert json.loads(facts.read_text())["id"] == number(1)
    assert copy.read_bytes() == RAW


def child(work: Callable[[], object]) -> int:
    """Runs `work` in a process of its own and returns its id; status 0, or 99 if it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_lock(parked: Parked, folder: Path) -> None:
    """While one process has an entry, another is told so at once; a killed one holds nothing; other entries are free."""
    for n in range(2):
        parked.park(number(n), raw=RAW, headers_only=False, meta=about())
    hear, tell = os.pipe()

    def hold() -> None:
        with parked.lock(number(0)):
            os.write(tell, b".")
            signal.pause()

    pid = child(hold)
    os.read(hear, 1)
    with pytest.raises(StoreError, match="another command"), parked.lock(number(0)):
        pass
    with parked.lock(number(1)):
        pass
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    with parked.lock(number(0)):
        assert parked.load(number(0))[1] == RAW
        parked.drop(number(0))
    with pytest.raises(NotParkedError), parked.lock(number(0)):
        pass
    os.close(hear)
    os.close(tell)


def test_released_once(folder: Path, tmp_path: Path) -> None:
    """Of ten commands that release one entry at once, exactly one hands it over."""
    limits, app = LARGE, tmp_path / "app"

    def release() -> None:
        parked = Parked(str(folder), limits, clock=lambda: NOW)
        try:
            with parked.lock(number(1)):
                _, raw = parked.load(number(1))
                with app.open("ab") as file:
                    file.write(raw)
                parked.drop(number(1))
        except StoreError:
            pass

    for _ in range(5):
        app.write_bytes(b"")
        parked = Parked(str(folder), limits, clock=lambda: NOW)
        parked.park(number(1), raw=RAW, headers_only=False, meta=about())
        parked.close()
        assert {status_of(pid) for pid in [child(release) for _ in range(10)]} == {0}
        assert app.read_bytes() == RAW


def test_parked_at_once(folder: Path) -> None:
    """Ten processes that park the same ids at once, with different bytes, leave one whole entry of each, counted once."""
    gate, opener = os.pipe()

    def park(n: int) -> None:
        os.close(opener)
        os.read(gate, 1)  # returns when the parent closes
        parked = Parked(str(folder), LARGE, clock=lambda: NOW)
        for id_ in range(40):
            parked.park(number(id_), raw=RAW * (n + 1), headers_only=False, meta=about())

    children = [child(functools.partial(park, n)) for n in range(10)]
    os.close(opener)
    os.close(gate)
    assert {status_of(pid) for pid in children} == {0}
    parked = Parked(str(folder), LARGE, clock=lambda: NOW)
    for id_ in ids(parked):
        assert parked.load(id_)[1].startswith(RAW)
    assert len(list(folder.iterdir())) == 80
    assert counted(folder)[2] == (40, sum(path.stat().st_size for path in folder.iterdir()))


def test_killed_at_random(made: Maker, folder: Path) -> None:
    """A process killed at any point of park and drop leaves whole entries only, all those that park returned for, and

    nothing that a sweep does not put right.
    """
    done: set[str] = set()
    parked = made()
    for round_ in range(150):
        hear, tell = os.pipe()

        def work(round_: int = round_, tell: int = tell) -> None:
            mine = Parked(str(folder), LARGE, clock=lambda: NOW)
            for n in range(6):
                id_ = number(10 * round_ + n)
                mine.park(id_, raw=RAW * 200, headers_only=False, meta=about("refused"))
                os.write(tell, id_.encode())
            for n in range(6):
                os.write(tell, b"-" * 64)
                mine.drop(number(10 * round_ + n))

        pid = child(work)
        os.close(tell)
        heard = [os.read(hear, 64).decode() for _ in range(round_ % 9)]
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
        with os.fdopen(hear, "rb") as rest:
            text = "".join(heard) + rest.read().decode()
        said = [text[start : start + 64] for start in range(0, len(text), 64)]
        if "-" * 64 not in said:
            done |= set(said)
    there = set()
    for entry in parked.list():
        assert parked.load(entry.id)[1] == RAW * 200
        there.add(entry.id)
    assert len(done) > 100, "too few got anywhere: the test says nothing"
    assert done <= there
    for name in os.listdir(folder):
        os.utime(folder / name, (NOW, NOW))
    parked.sweep(NOW + 7_200)
    assert set(ids(parked)) == there
    assert {path.name for path in folder.iterdir()} == {f"{id_}.{suffix}" for id_ in there for suffix in ("eml", "json")}
    assert counted(folder)[0] == (len(there), sum(path.stat().st_size for path in folder.iterdir()))


@pytest.mark.parametrize("limit", [0, 4_096, 100_000, 299_999, 300_000])
def test_full_disk(limit: int, parked: Parked, folder: Path) -> None:
    """A disk that fills up while a message is parked is a StoreError, and leaves neither an entry nor a file of it."""
    parked.park(number(0), raw=RAW, headers_only=False, meta=about())
    raw, fits = b"x" * 300_000, limit == 300_000

    def park() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            parked.park(number(1), raw=raw, headers_only=False, meta=about())
        except StoreError:
            os._exit(7)

    parked.close()
    assert status_of(child(park)) == (0 if fits else 7)
    assert ids(parked) == [number(0), number(1)][: 1 + fits]
    assert len(list(folder.iterdir())) == 2 + 2 * fits
    assert counted(folder)[2] == (1 + fits, sum(path.stat().st_size for path in folder.iterdir()))
    parked.park(number(1), raw=raw, headers_only=False, meta=about())
    assert parked.load(number(1))[1] == raw


def test_damaged_database(parked: Parked, folder: Path) -> None:
    """While the database is damaged nothing is parked, but what is parked can be listed, read and dropped."""
    parked.park(number(1), raw=RAW, headers_only=False, meta=about())
    parked.close()
    (folder.parent / "gatepost.sqlite").write_bytes(b"x" * 9_000)
    with pytest.raises(StoreError, match="not a database"):
        parked.park(number(2), raw=RAW, headers_only=False, meta=about())
    assert ids(parked) == [number(1)]
    assert parked.load(number(1))[1] == RAW
    assert parked.drop(number(1))
    assert list(folder.iterdir()) == []


def test_a_park_reads_no_other_entry(parked: Parked, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parking looks at no entry but its own: not one name of the folder is listed, however much is there."""
    parked.park(number(1), raw=RAW, headers_only=False, meta=about())

    def walked(_: object) -> None:
        raise AssertionError("walked the folder")

    monkeypatch.setattr(os, "scandir", walked)
    monkeypatch.setattr(os, "listdir", walked)
    monkeypatch.setattr(module, "_row", walked)
    parked.park(number(2), raw=RAW, headers_only=False, meta=about())
    monkeypatch.undo()
    assert ids(parked) == [number(1), number(2)]


def test_open_by_settings(folder: Path) -> None:
    """The folder that settings mean is `parked` in their store, under their limits."""

    class Given:
        store = str(folder.parent)
        parked = ParkedLimits(max_bytes=1)

    opened = Parked.open(Given(), now=time.time)  # type: ignore[arg-type]
    with pytest.raises(ParkedFullError, match="max_bytes 1"):
        opened.park(number(1), raw=RAW, headers_only=False, meta=about())
    opened.close()
    assert folder.is_dir()
