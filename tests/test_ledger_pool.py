"""The pool of ledgers: many threads that come and go, few connections, and a store that changes under a running process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatepost.errors import StoreError
from gatepost.stores.ledger import Judged, Ledger
from gatepost.stores.limits import Counter
from gatepost.stores.pool import Ledgers
from tests.test_ledger_faults import in_child

NOW = 1_800_000_000.0
LEASE = 180.0
#: Seconds that a test waits for what must come; it fails, and does not hang, where it does not.
PATIENCE = 30.0


def judge(ledger: Ledger, n: int, *counters: Counter) -> bool:
    """Whether one message for one recipient passed."""
    each = Judged(id=f"{n:064x}", recipient="reply+k@in.example.com", judgement="{}", counters=counters)
    return not ledger.judge((each,), token=f"{n:032x}", queue_id="Q", sender="", binding=b"", now=NOW, lease=LEASE)


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Path:
    """A store with one token in it, which is how the tests know it again."""
    (tmp_path / "store").mkdir(mode=0o700)
    ledger = Ledger.open(str(tmp_path / "store"))
    judge(ledger, 1)
    ledger.close()
    return tmp_path / "store"


Pools = Callable[..., Ledgers]
#: How a ledger is used: to read or to write.
Use = Callable[[Ledgers, Callable[[Ledger], object]], object]


def reading(pool: Ledgers, work: Callable[[Ledger], object]) -> object:
    with pool.ledger() as ledger:
        return work(ledger)


def writing(pool: Ledgers, work: Callable[[Ledger], object]) -> object:
    return pool.write(work)


each_use = pytest.mark.parametrize("use", [reading, writing])


@pytest.fixture(name="pooled")
def _pooled(store: Path) -> Iterator[Pools]:
    """Makes pools over the store, and closes them."""
    pools = []

    def pooled(**options: float) -> Ledgers:
        pools.append(Ledgers(str(store), **options))  # type: ignore[arg-type]  # `most` is an int
        return pools[-1]

    yield pooled
    for pool in pools:
        pool.close()


def in_threads(work: Callable[[int], object], count: int) -> None:
    """Runs `work` in so many threads at once; what one of them raises is raised here."""
    raised: list[BaseException] = []

    def run(n: int) -> None:
        try:
            work(n)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def opened(store: Path) -> int:
    """How many times this process has the database open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").split(" ")[0] == str(store / "gatepost.sqlite")
        except OSError:
            continue  # the descriptor that listed the folder
    return found


def test_one_connection_for_threads_in_turn(pooled: Pools, store: Path) -> None:
    """Threads that come one after the other use one connection, though another thread opened it."""
    pool, seen = pooled(), set()

    def look(_: int) -> None:
        with pool.ledger() as ledger:
            assert ledger.recorded(f"{1:032x}") is not None
            seen.add(ledger)

    for n in range(20):
        in_threads(lambda _, n=n: look(n), 1)  # type: ignore[misc]
    assert len(seen) == 1
    assert opened(store) == 1


def test_never_more_than_most(pooled: Pools, store: Path) -> None:
    """However many threads ask at once, no more connections are open than allowed, and no two threads have the same one."""
    pool, most = pooled(most=3), 0
    held: set[Ledger] = set()

    def ask(n: int) -> None:
        def hold(ledger: Ledger, m: int) -> None:
            nonlocal most
            assert ledger not in held
            held.add(ledger)
            most = max(most, opened(store), len(held))
            judge(ledger, 100 * n + m) if m % 2 else ledger.room((), now=NOW, lease=LEASE)
            held.remove(ledger)

        for m in range(10):
            (writing if m % 2 else reading)(pool, lambda ledger, m=m: hold(ledger, m))  # type: ignore[misc]

    in_threads(ask, 20)
    assert 1 < most <= 3


def known(ledger: Ledger) -> bool:
    """Whether it is the store of these tests."""
    return ledger.recorded(f"{1:032x}") is not None


@each_use
def test_who_waits_is_told_in_time(use: Use, pooled: Pools) -> None:
    """Where a connection, or the turn to write, stays with another for longer than the patience: a StoreError."""
    pool = pooled(most=1 if use is reading else 8, patience=0.05)

    def hold(_: Ledger) -> None:
        with pytest.raises(StoreError, match=r"(in use|writing to it) for 0\.05 s"):
            use(pool, known)

    use(pool, hold)
    assert use(pool, known)


@each_use
def test_who_waits_gets_the_next(use: Use, pooled: Pools) -> None:
    """A thread that waits gets the connection, or its turn to write, when another gives it back."""
    pool = pooled(most=1 if use is reading else 8, patience=PATIENCE)
    started, got = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        use(pool, lambda _: got.set())

    def hold(_: Ledger) -> None:
        waiting.start()
        assert started.wait(PATIENCE)
        assert not got.is_set()

    waiting = threading.Thread(target=wait)
    use(pool, hold)
    waiting.join(PATIENCE)
    assert got.is_set()


def test_readers_wait_for_no_writer(pooled: Pools) -> None:
    """While one thread writes, another reads."""
    pool = pooled(patience=0.05)

    def write(writer: Ledger) -> None:
        assert judge(writer, 2)
        with pool.ledger() as reader:
            assert reader.room((), now=NOW, lease=LEASE) is None
            assert reader.recorded(f"{2:032x}") is None

    pool.write(write)


def spoil(pool: Ledgers, error: BaseException, use: Use) -> Ledger:
    """Raises an error in the middle of a transaction, and checks that it comes out; the ledger that it was raised under."""
    given = []

    def fail(ledger: Ledger) -> None:
        given.append(ledger)
        if not ledger._database.in_transaction:
            ledger._database.execute("BEGIN IMMEDIATE")
        raise error

    with pytest.raises(type(error)) as caught:
        use(pool, fail)
    assert caught.value is error
    return given[0]


@pytest.mark.parametrize(
    "error", [StoreError("no"), ValueError("no"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
@each_use
def test_used_no_more_after_an_error(error: BaseException, use: Use, pooled: Pools, store: Path) -> None:
    """A connection under which something was raised is closed; the error is the one that is seen; the next gets another."""
    pool = pooled(most=1, patience=0.05)
    for _ in range(3):
        bad = spoil(pool, error, use)
        assert opened(store) == 0
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            bad._database.execute("SELECT 1")
    assert use(pool, lambda good: judge(good, 2))


def test_errors_leave_nothing_open(pooled: Pools, store: Path) -> None:
    """A hundred connections that fail while another is in use leave no descriptors behind."""
    pool = pooled(most=3)
    with pool.ledger() as good:
        for _ in range(100):
            spoil(pool, StoreError("no"), writing)
        assert opened(store) <= 3
        assert judge(good, 2)


def test_errors_in_opening(pooled: Pools, store: Path) -> None:
    """A store that cannot be opened is a StoreError each time, takes no connection away, and is used once it is mended."""
    pool = pooled(most=1, patience=0.05)
    (store / "gatepost.sqlite").rename(store / "away")
    for _ in range(3):
        with pytest.raises(StoreError, match="the ledger is gone"), pool.ledger():
            pass
    (store / "away").rename(store / "gatepost.sqlite")
    with pool.ledger() as ledger:
        assert ledger.recorded(f"{1:032x}") is not None


def _remove(store: Path) -> None:
    for path in store.glob("gatepost.sqlite*"):
        path.unlink()


def _give_up(pool: Ledgers) -> None:
    with pytest.raises(StoreError, match="the ledger is gone"), pool.ledger():
        pass


def test_deleted_and_restored(pooled: Pools, store: Path) -> None:
    """A store that is deleted under the process is a StoreError, not written to unseen; restored, it is used as it was saved."""
    pool = pooled()
    shutil.copytree(store, store.parent / "saved")
    with pool.ledger() as one, pool.ledger() as two:  # so that two are free
        assert judge(one, 2)
        assert two.recorded(f"{2:032x}") is not None
    _remove(store)
    for _ in range(2):
        _give_up(pool)
    shutil.copy(store.parent / "saved" / "gatepost.sqlite", store)
    for n in (1, 2):
        with pool.ledger() as one, pool.ledger() as two:
            assert [each.recorded(f"{1:032x}") is not None for each in (one, two)] == [True, True]
            assert [each.recorded(f"{2:032x}") is not None for each in (one, two)] == [n == 2] * 2
            assert judge(one, 2)
    assert opened(store) == 2


def test_replaced_without_a_gap(pooled: Pools, store: Path) -> None:
    """A copy that is renamed into place is used from the next time on, and what was open does not write to it."""
    pool = pooled()
    shutil.copy(store / "gatepost.sqlite", store / "copy")
    with pool.ledger() as old:
        assert judge(old, 2)
        for name in ("gatepost.sqlite-wal", "gatepost.sqlite-shm"):
            (store / name).unlink()
        (store / "copy").rename(store / "gatepost.sqlite")
    with pool.ledger() as new:
        assert new is not old
        assert new.recorded(f"{2:032x}") is None
        assert judge(new, 3)
    pool.close()
    connection = sqlite3.connect(store / "gatepost.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM token").fetchone() == (2,)
    connection.close()


def test_replaced_while_it_is_opened(pooled: Pools, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is replaced just after it was opened is noticed at the next use."""
    pool, opening = pooled(), Ledger.open

    def then_replace(folder: str, **options: bool) -> Ledger:
        monkeypatch.setattr(Ledger, "open", opening)
        shutil.copy(store / "gatepost.sqlite", store / "copy")
        ledger = opening(folder, **options)
        (store / "copy").rename(store / "gatepost.sqlite")
        return ledger

    monkeypatch.setattr(Ledger, "open", then_replace)
    with pool.ledger() as old:
        pass
    with pool.ledger() as new:
        assert new is not old


def test_deleted_after_it_was_made(tmp_path: Path) -> None:
    """A store that goes at once after the first use, which made it, is as gone as an old one."""
    pool = Ledgers(str(tmp_path))
    with pool.ledger() as ledger:
        assert judge(ledger, 1)
    _remove(tmp_path)
    _give_up(pool)
    pool.close()


def test_begun_anew(pooled: Pools, store: Path) -> None:
    """Where a person begins anew, the next ledger has the new store's host id and hash key."""
    pool = pooled()
    with pool.ledger() as ledger:
        before = (ledger.host_id, ledger.hash_key)
    _remove(store)
    (store / "host-id").unlink()
    with pool.ledger() as ledger:
        assert ledger.host_id != before[0]
        assert ledger.hash_key != before[1]
        assert ledger.recorded(f"{1:032x}") is None


def test_closed(pooled: Pools, store: Path) -> None:
    """close lets go of what is free at once and of the others when they are given back; then there is none."""
    pool = pooled()
    with pool.ledger() as one:
        with pool.ledger() as two:
            pass
        pool.close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            two._database.execute("SELECT 1")
        assert judge(one, 2)
        with pytest.raises(StoreError, match="closed"), pool.ledger():
            pass
    assert opened(store) == 0
    assert not (store / "gatepost.sqlite-wal").exists()
    pool.close()


def test_close_wakes_who_waits(pooled: Pools) -> None:
    """A thread that waits for a connection when the process ends is told so at once."""
    pool, said = pooled(most=1, patience=2 * PATIENCE), []

    def wait() -> None:
        try:
            with pool.ledger():
                said.append("got it")
        except StoreError as error:
            said.append(str(error))

    waiting = threading.Thread(target=wait)
    with pool.ledger():
        waiting.start()
        until = time.monotonic() + PATIENCE
        while not pool._changed._waiters and time.monotonic() < until:  # type: ignore[attr-defined]  # threading's own
            time.sleep(0.001)
        pool.close()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
    assert [each.endswith("the process ends") for each in said] == [True]


def test_locks_outlive_other_connections(pooled: Pools, store: Path) -> None:
    """Closing one connection takes no lock away from another in the same process: no other process can write meanwhile."""
    pool = pooled()

    def write() -> str:
        return str(judge(Ledger.open(str(store), busy_timeout=0.0), 9))

    def hold(_: Ledger) -> None:
        with pytest.raises(ValueError, match="x"), pool.ledger():
            raise ValueError("x")
        assert "locked" in in_child(write)

    pool.write(hold)
    assert in_child(write) == "True"


def test_threads_make_the_store_once(tmp_path: Path) -> None:
    """Where there is no store yet, threads that ask at once make one, and the first use after that keeps it."""
    pool, seen = Ledgers(str(tmp_path)), []

    def ask(n: int) -> None:
        pool.write(lambda ledger: judge(ledger, n))
        with pool.ledger() as ledger:
            seen.append((ledger.host_id, ledger.recorded(f"{n:032x}") is not None))

    in_threads(ask, 8)
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert seen[0][1]
    assert opened(tmp_path) <= 8
    pool.close()


@each_use
def test_exactly_fifty_of_many_threads(use: Use, pooled: Pools) -> None:
    """Of 120 messages to one key in 24 threads that come and go exactly 50 pass, taking turns here or in SQLite."""
    pool = pooled(most=4, patience=PATIENCE, busy_timeout=PATIENCE)
    passed: list[bool] = []
    fifty = Counter(name="per_key", subject="k", windows=((50, 60.0),))

    def ask(n: int) -> None:
        for m in range(100 + 5 * n, 105 + 5 * n):
            use(pool, lambda ledger, m=m: passed.append(judge(ledger, m, fifty)))  # type: ignore[misc]

    in_threads(ask, 24)
    assert (len(passed), sum(passed)) == (120, 50)


def test_copied_back_less_often(pooled: Pools, store: Path) -> None:
    """A process that lives on copies the log back every 1,000 pages; the pipe script's, which the next has to read, every 100."""
    with pooled().ledger() as lasting:
        assert lasting._database.execute("PRAGMA wal_autocheckpoint").fetchone() == (1_000,)
        assert lasting._database.execute("PRAGMA cache_size").fetchone() == (-500,)
    ledger = Ledger.open(str(store))
    assert ledger._database.execute("PRAGMA wal_autocheckpoint").fetchone() == (100,)
    ledger.close()


def test_sqlite_for_one_thread(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    """An SQLite that was built for one thread alone is refused, with what to do."""
    monkeypatch.setattr(sqlite3, "threadsafety", 0)
    with pytest.raises(StoreError, match="one thread alone"):
        Ledgers(str(store))
