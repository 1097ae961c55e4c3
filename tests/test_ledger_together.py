"""Threads that write together: one transaction for all that wait, each with its own answer, and nothing told before it is kept."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from gatepost.errors import StoreError
from gatepost.stores.ledger import Ledger
from gatepost.stores.pool import Ledgers
from tests.test_ledger_crash import child, status_of, together
from tests.test_ledger_faults import in_child, small_disk

NOW = 1_800_000_000.0
LEASE = 180.0
#: Seconds that a test waits for what must come.
PATIENCE = 30.0
#: Processes that are killed.
KILLS = 200
THREADS = 12


def name(n: int) -> str:
    return f"{n:064x}"


def claim(ledger: Ledger, n: int) -> str:
    return ledger.claim(
        name(n), now=NOW, lease=LEASE, judgement="{}", queue_id="Q", sender="", recipient="reply+k@in.example.com"
    ).state


def finish(ledger: Ledger, n: int) -> bool:
    return ledger.finish(name(n), 1, outcome="x", now=NOW, prune=3, keep=LEASE)


class Crowd:
    """Threads that all wait to write while another one does; then what each got."""

    def __init__(self, pool: Ledgers) -> None:
        self.pool = pool
        self.got: dict[int, object] = {}

    def run(
        self, works: list[Callable[[Ledger], object]], *, meanwhile: Callable[[], object] = lambda: None
    ) -> dict[int, object]:
        """What each work returned or raised, by its place. `meanwhile`: done while they wait."""
        go = threading.Event()
        threads = [threading.Thread(target=self._one, args=(n, work)) for n, work in enumerate(works)]
        holder = threading.Thread(target=self._one, args=(-1, lambda _: go.wait(PATIENCE)))
        holder.start()
        self._until(lambda: self.pool._writing)
        for n, thread in enumerate(threads):
            thread.start()
            self._until(lambda n=n: len(self.pool._works) > n)  # type: ignore[misc]
        meanwhile()
        go.set()
        for thread in (holder, *threads):
            thread.join(PATIENCE)
            assert not thread.is_alive()
        del self.got[-1]
        return self.got

    def _one(self, n: int, work: Callable[[Ledger], object]) -> None:
        try:
            self.got[n] = self.pool.write(work)
        except BaseException as error:
            self.got[n] = error

    @staticmethod
    def _until(look: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not look():
            assert time.monotonic() < end
            time.sleep(0.0005)


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir(mode=0o700)
    Ledger.open(str(tmp_path / "store")).close()
    return tmp_path / "store"


@pytest.fixture(name="pool")
def _pool(store: Path) -> Iterator[Ledgers]:
    pool = Ledgers(str(store), busy_timeout=0.05)
    yield pool
    pool.close()


@pytest.fixture(name="groups")
def _groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many works each transaction had."""
    sizes: list[int] = []
    whole = Ledger.together

    def counted(self: Ledger, works: Iterable[Callable[[Ledger], None]]) -> None:
        sizes.append(0)

        def count() -> Iterator[Callable[[Ledger], None]]:
            for work in works:
                sizes[-1] += 1
                yield work

        whole(self, count())

    monkeypatch.setattr(Ledger, "together", counted)
    return sizes


def rows(store: Path) -> dict[str, str]:
    """The ledger as another process sees it: state by delivery."""
    connection = sqlite3.connect(store / "gatepost.sqlite")
    try:
        return {key.hex(): state for key, state in connection.execute("SELECT id, state FROM delivery")}
    finally:
        connection.close()


def test_all_that_wait_are_one_transaction(pool: Ledgers, store: Path, groups: list[int]) -> None:
    """Twenty threads that wait while another writes are served in one transaction, in their order, each with its answer."""
    order: list[int] = []

    def work(n: int) -> Callable[[Ledger], object]:
        def note(ledger: Ledger) -> str:
            order.append(n)
            return claim(ledger, n % 15)

        return note

    got = Crowd(pool).run([work(n) for n in range(20)])
    assert groups == [21]
    assert order == list(range(20))
    assert [got[n] for n in range(20)] == ["claimed"] * 15 + ["busy"] * 5
    assert rows(store) == {name(n): "open" for n in range(15)}


def test_not_more_than_the_bound_at_once(pool: Ledgers, groups: list[int]) -> None:
    """A crowd is served in groups, so that another process has its turn in between."""
    Crowd(pool).run([lambda ledger, n=n: claim(ledger, n) for n in range(150)])  # type: ignore[misc]
    assert groups == [64, 64, 23]


def test_nothing_is_told_before_it_is_kept(pool: Ledgers, store: Path) -> None:
    """While the last of a group runs nobody has been told anything, and no other process sees anything."""
    crowd = Crowd(pool)
    seen: list[tuple[int, int]] = []

    def last(_: Ledger) -> None:
        end = time.monotonic() + 0.1
        while not crowd.got and time.monotonic() < end:
            time.sleep(0.001)
        seen.append((len(crowd.got), len(rows(store))))

    got = crowd.run([*(lambda ledger, n=n: claim(ledger, n) for n in range(8)), last])
    assert seen == [(0, 0)]
    assert len(got) == 9


def test_old_rows_go_with_the_group(pool: Ledgers, store: Path, groups: list[int]) -> None:
    """Ten that finish together, each with three old rows to delete, delete thirty: the oldest, and nothing that is young."""
    pool.write(lambda ledger: [claim(ledger, n) for n in range(10)])
    connection = sqlite3.connect(store / "gatepost.sqlite")
    connection.executemany(
        "INSERT INTO delivery VALUES (?, 'Q', 1, ?, 1, 0, 1, 0, 'done', '', '', x'', x'', 1)",
        [((n + 100).to_bytes(32), n) for n in range(50)],
    )
    connection.commit()
    connection.close()
    groups.clear()
    got = Crowd(pool).run([lambda ledger, n=n: finish(ledger, n) for n in range(10)])  # type: ignore[misc]
    assert groups == [11]
    assert set(got.values()) == {True}
    assert set(rows(store)) == {name(n) for n in (*range(10), *range(130, 150))}


def _bad_statement(ledger: Ledger) -> None:
    claim(ledger, 99)
    ledger._database.execute("SELECT nothing")


def _value_error(ledger: Ledger) -> None:
    claim(ledger, 99)
    raise ValueError("mine")


def _store_error(ledger: Ledger) -> None:
    claim(ledger, 99)
    raise StoreError("mine")


def _rolled_back(ledger: Ledger) -> None:
    """As SQLite does it by itself where it has no memory or no disk left (https://www.sqlite.org/lang_transaction.html)."""
    claim(ledger, 99)
    ledger._database.execute("ROLLBACK")
    raise sqlite3.OperationalError("database or disk is full")


def _full(ledger: Ledger) -> None:
    claim(ledger, 99)
    (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
    ledger._database.execute(f"PRAGMA max_page_count={pages}")
    try:
        for n in range(1_000, 1_100):
            claim(ledger, n)
    finally:
        ledger._database.execute("PRAGMA max_page_count=1000000000")


def _interrupted(ledger: Ledger) -> None:
    claim(ledger, 99)
    raise KeyboardInterrupt


FAILING = [
    pytest.param(_bad_statement, StoreError, "syntax error", id="a statement that SQLite refuses"),
    pytest.param(_value_error, ValueError, "mine", id="a bug of the caller's"),
    pytest.param(_store_error, StoreError, "mine", id="what the ledger itself says"),
    pytest.param(_rolled_back, StoreError, "disk is full", id="SQLite rolls all of it back"),
    pytest.param(_full, StoreError, "SQLITE_FULL", id="no room for it alone"),
    pytest.param(_interrupted, KeyboardInterrupt, "", id="not even an Exception"),
]


@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize(("fails", "kind", "says"), FAILING)
def test_one_that_fails_harms_no_other(
    fails: Callable[[Ledger], object], kind: type[BaseException], says: str, place: int, pool: Ledgers, store: Path
) -> None:
    """Of eight, one fails: it is told why, of it there is nothing in the ledger, and the other seven are served."""
    works: list[Callable[[Ledger], object]] = [lambda ledger, n=n: claim(ledger, n) for n in range(8)]  # type: ignore[misc]
    works[place] = fails
    got = Crowd(pool).run(works)
    error = got.pop(place)
    assert isinstance(error, kind)
    assert says in str(error)
    assert got == {n: "claimed" for n in range(8) if n != place}
    assert rows(store) == {name(n): "open" for n in range(8) if n != place}
    assert pool.write(lambda ledger: claim(ledger, 99)) == "claimed"


def test_all_fail(pool: Ledgers, store: Path) -> None:
    """Where each of them fails, each is told its own reason."""

    def work(n: int) -> Callable[[Ledger], object]:
        def fail(ledger: Ledger) -> None:
            claim(ledger, n)
            raise ValueError(str(n))

        return fail

    got = Crowd(pool).run([work(n) for n in range(5)])
    assert {n: str(error) for n, error in got.items()} == {n: str(n) for n in range(5)}
    assert rows(store) == {}


def test_commit_fails(pool: Ledgers, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that fails is everybody's failure: all are told, nothing is there, and the next goes on."""

    def spoil(ledger: Ledger) -> None:
        ledger._database.execute("CREATE TEMP TABLE a (b INTEGER PRIMARY KEY)")
        ledger._database.execute("PRAGMA foreign_keys")
        ledger._database.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        ledger._database.execute("CREATE TABLE orphan (of INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        ledger._database.execute("INSERT INTO orphan VALUES (1)")

    opening = Ledger.open

    def strict(folder: str, *, busy_timeout: float = 10.0, any_thread: bool = False, synced: bool = True) -> Ledger:
        ledger = opening(folder, busy_timeout=busy_timeout, any_thread=any_thread, synced=synced)
        ledger._database.execute("PRAGMA foreign_keys=ON")
        return ledger

    monkeypatch.setattr(Ledger, "open", strict)
    got = Crowd(pool).run([lambda ledger: claim(ledger, 1), spoil, lambda ledger: claim(ledger, 2)])
    assert [type(got[n]) for n in range(3)] == [StoreError] * 3
    assert all("FOREIGN KEY" in str(got[n]) for n in range(3))
    assert rows(store) == {}
    assert pool.write(lambda ledger: claim(ledger, 1)) == "claimed"


def test_another_process_holds_the_lock(store: Path, pool: Ledgers) -> None:
    """Everybody who writes meanwhile is told that it is locked, in time; afterwards all is well."""
    other = sqlite3.connect(store / "gatepost.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    told: list[str] = []

    def ask(n: int) -> None:
        try:
            pool.write(lambda ledger: claim(ledger, n))
        except StoreError as error:
            told.append(str(error))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(told) == 6
    assert all("locked" in each for each in told)
    other.execute("ROLLBACK")
    other.close()
    assert rows(store) == {}
    assert pool.write(lambda ledger: claim(ledger, 1)) == "claimed"


def test_deleted_while_they_wait(store: Path, pool: Ledgers) -> None:
    """A store that goes while a group waits is noticed by the next group: nothing is written where nobody would find it."""
    pool.write(lambda ledger: claim(ledger, 0))

    def delete() -> None:
        for path in store.glob("gatepost.sqlite*"):
            path.unlink()

    Crowd(pool).run([lambda ledger: claim(ledger, 1)], meanwhile=delete)  # its transaction had begun
    got = Crowd(pool)
    got._one(0, lambda ledger: claim(ledger, 2))
    assert "the ledger is gone" in str(got.got[0])
    assert not (store / "gatepost.sqlite").exists()


def test_closed_while_they_wait(pool: Ledgers) -> None:
    """What has begun when the process ends is finished; who comes later is told."""
    got = Crowd(pool).run([lambda ledger: claim(ledger, 1)], meanwhile=pool.close)
    assert got == {0: "claimed"}
    with pytest.raises(StoreError, match="the process ends"):
        pool.write(lambda ledger: claim(ledger, 2))


def test_patience(store: Path) -> None:
    """Who waits for longer than the patience is told so, and what he wanted is not done afterwards."""
    pool = Ledgers(str(store), patience=0.1)
    go = threading.Event()
    holder = threading.Thread(target=lambda: pool.write(lambda _: go.wait(PATIENCE)))
    holder.start()
    Crowd._until(lambda: pool._writing)
    with pytest.raises(StoreError, match=r"have been writing to it for 0\.1 s"):
        pool.write(lambda ledger: claim(ledger, 1))
    go.set()
    holder.join(PATIENCE)
    assert rows(store) == {}
    pool.close()


def test_full_disk(store: Path) -> None:
    """On a disk that fills up, whoever was told that it is done finds it there, and the others were told a StoreError."""
    told = store.parent / "told"

    def work() -> str:
        small_disk(120_000)
        pool = Ledgers(str(store))
        errors: list[str] = []

        def many(n: int) -> None:
            for m in range(n * 100, n * 100 + 20):
                try:
                    pool.write(lambda ledger, m=m: claim(ledger, m))  # type: ignore[misc]
                    with told.open("a") as file:
                        file.write(f"{name(m)}\n")
                except StoreError as error:
                    errors.append(str(error))

        threads = [threading.Thread(target=many, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return f"{len(errors)} {' '.join(set(errors))}"

    answer = in_child(work)
    assert int(answer.split()[0]) > 0, answer
    assert "SQLITE_FULL" in answer or "SQLITE_IOERR" in answer
    done = told.read_text().split()
    assert len(done) + int(answer.split()[0]) == 160
    kept = rows(store)
    assert set(done) <= set(kept)


@pytest.mark.parametrize("round_", range(3))
def test_one_gets_it(round_: int, store: Path) -> None:
    """Of eight threads in each of three processes that claim the same deliveries at once, each has one that gets it."""
    gets = store.parent / "gets"

    def run(_: int) -> int:
        pool = Ledgers(str(store))

        def many() -> None:
            for n in range(10):
                if pool.write(lambda ledger, n=n: claim(ledger, n)) == "claimed":  # type: ignore[misc]
                    with gets.open("a") as file:
                        file.write(f"{n}\n")

        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return 0

    assert together(run, 3) == {0: 3}
    assert Counter(gets.read_text().split()) == {str(n): 1 for n in range(10)}


def test_killed_at_random(store: Path) -> None:
    """Processes of twelve threads killed at any moment: no finish that a thread was told of is missing, no claim was given twice."""
    dice = random.Random(0)
    finished: set[str] = set()
    claimed: Counter[str] = Counter()

    def work(round_: int, tell: int) -> int:
        pool = Ledgers(str(store))

        def one(n: int) -> None:
            if pool.write(lambda ledger: claim(ledger, n)) == "claimed":
                os.write(tell, f"c{n}\n".encode())
            if pool.write(lambda ledger: finish(ledger, n)):
                os.write(tell, f"f{n}\n".encode())

        def many(k: int) -> None:
            for m in range(1_000):
                one(round_ * 1_000_000 + k * 1_000 + m)

        threads = [threading.Thread(target=many, args=(k,)) for k in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return 0

    for round_ in range(KILLS):
        hear, tell = os.pipe()
        pid = child(lambda round_=round_, tell=tell: work(round_, tell))  # type: ignore[misc]
        os.close(tell)
        said = os.read(hear, 65_536)
        for _ in range(dice.randrange(20)):
            said += os.read(hear, 65_536)
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) == -9
        while more := os.read(hear, 65_536):
            said += more
        os.close(hear)
        for line in said.decode().splitlines():
            if line[0] == "f":
                finished.add(name(int(line[1:])))
            else:
                claimed[line] += 1
    assert len(finished) > KILLS
    assert set(claimed.values()) == {1}
    kept = rows(store)
    assert {id_ for id_ in finished if kept.get(id_) != "done"} == set()
    connection = sqlite3.connect(store / "gatepost.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_alone_again(store: Path) -> None:
    """After works that ran together, and after works that failed together, a method is a transaction of its own again."""
    ledger = Ledger.open(str(store))
    ledger.together([lambda each: None])
    with pytest.raises(ValueError, match="mine"):
        ledger.together([_value_error])
    statements: list[str] = []
    ledger._database.set_trace_callback(statements.append)
    claim(ledger, 1)
    assert (statements[0], statements[-1]) == ("BEGIN IMMEDIATE", "COMMIT")
    ledger.close()
