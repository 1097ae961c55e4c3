"""The ledger's behaviour, one process at a time: who gets a delivery, what is remembered, what goes."""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gatepost.errors import StoreError
from gatepost.stores import database
from gatepost.stores.ledger import Claim, Ledger

ID = "ab" * 32
NOW = 1_800_000_000.0
LEASE = 180.0
DAY = 86_400.0


def number(n: int) -> str:
    """A delivery id for a test that needs many."""
    return hashlib.sha256(b"%d" % n).hexdigest()


def ask(ledger: Ledger, id_: str = ID, *, now: float = NOW, lease: float = LEASE, judgement: str = "first") -> Claim:
    return ledger.claim(
        id_, now=now, lease=lease, judgement=judgement, queue_id="4jWl4Z5tH8zJv6D", sender="a@example.org",
        recipient="reply+k@in.example.com",
    )  # fmt: skip


Opener = Callable[[str], Ledger]


@pytest.fixture(name="opened")
def _opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens ledgers in folders below the test's own, and closes them all."""
    ledgers = []

    def opened(name: str) -> Ledger:
        (tmp_path / name).mkdir(mode=0o700, exist_ok=True)
        ledgers.append(Ledger.open(str(tmp_path / name)))
        return ledgers[-1]

    yield opened
    for ledger in ledgers:
        ledger.close()


@pytest.fixture(name="ledger")
def _ledger(opened: Opener) -> Ledger:
    return opened("store")


def test_first_claim_gets_it(ledger: Ledger) -> None:
    """The first claim of a delivery gets it, under fence 1, seen now, judged as it said."""
    assert ask(ledger) == Claim(state="claimed", fence=1, attempts=1, first_seen=NOW, judgement="first")


def test_release_lets_the_next_in(ledger: Ledger) -> None:
    """After a release the next claim gets it at once, with the first judgement and first_seen and a new fence."""
    first = ask(ledger)
    assert ledger.release(ID, first.fence)
    second = ask(ledger, now=NOW + 1, judgement="second")
    assert second == Claim(state="claimed", fence=2, attempts=2, first_seen=NOW, judgement="first")


def test_cannot_take_is_counted(ledger: Ledger) -> None:
    """Only a release that says so counts towards cannot_take; a second release of the same lease counts nothing."""
    counted = []
    for cannot_take in (True, False, True):
        claim = ask(ledger)
        counted.append(claim.cannot_take)
        assert ledger.release(ID, claim.fence, cannot_take=cannot_take)
        assert not ledger.release(ID, claim.fence, cannot_take=cannot_take)
    assert (*counted, ask(ledger).cannot_take) == (0, 1, 1, 2)


def test_finish_ends_it(ledger: Ledger) -> None:
    """After finish every claim is answered with the recorded outcome, and the judgement is cleared."""
    claim = ask(ledger)
    assert ledger.finish(ID, claim.fence, outcome='{"action":"accept"}', now=NOW + 2)
    again = ask(ledger, now=NOW + 9 * DAY)
    assert (again.state, again.outcome) == ("done", '{"action":"accept"}')
    row = ledger.look(ID)
    assert row is not None
    assert (row.state, row.judgement, row.changed, row.lease_until) == ("done", "", NOW + 2, 0.0)


def test_finish_twice(ledger: Ledger) -> None:
    """A second finish under the same fence is no failure, and keeps what the first recorded."""
    claim = ask(ledger)
    assert ledger.finish(ID, claim.fence, outcome="one", now=NOW)
    assert ledger.finish(ID, claim.fence, outcome="two", now=NOW)
    assert ask(ledger).outcome == "one"
    assert not ledger.release(ID, claim.fence)


def test_slow_holder_is_fenced_off(ledger: Ledger) -> None:
    """A holder whose lease ran out, and whose delivery another run then claimed, can neither finish nor release it."""
    slow = ask(ledger)
    quick = ask(ledger, now=NOW + LEASE + 1)
    assert quick.fence == slow.fence + 1
    assert not ledger.finish(ID, slow.fence, outcome="slow", now=NOW + 200)
    assert not ledger.release(ID, slow.fence)
    assert ask(ledger, now=NOW + 200).state == "busy"
    assert ledger.finish(ID, quick.fence, outcome="quick", now=NOW + 200)
    assert not ledger.finish(ID, slow.fence, outcome="slow", now=NOW + 201)
    assert ask(ledger, now=NOW + 202).outcome == "quick"


def test_late_finish_unclaimed(ledger: Ledger) -> None:
    """A holder past its lease may still finish while nobody else has claimed: the app has the message."""
    claim = ask(ledger)
    assert ledger.finish(ID, claim.fence, outcome="late", now=NOW + 1_000)


class Clock(NamedTuple):
    id: str
    now: float
    state: str
    first_seen: float
    reason: str


CLOCKS = [
    Clock("same-instant", NOW, "busy", NOW, "the lease has only begun"),
    Clock("within-lease", NOW + LEASE - 1, "busy", NOW, "the first run may still be handing over"),
    Clock("lease-ends", NOW + LEASE, "claimed", NOW, "a lease holds until its end, not longer"),
    Clock("next-day", NOW + DAY, "claimed", NOW, "the first run is long dead"),
    Clock("back-a-second", NOW - 1, "busy", NOW - 1, "a small step of the clock must not let two runs in"),
    Clock("back-a-lease", NOW - LEASE, "busy", NOW - LEASE, "the last instant of grace"),
    Clock("back-an-hour", NOW - 3_600, "claimed", NOW - 3_600, "no lease of ours ends that far ahead: it must not block"),
    Clock("back-to-1970", 0.0, "claimed", 0.0, "a host without a clock battery"),
]


@pytest.mark.parametrize("row", CLOCKS, ids=lambda row: row.id)
def test_clock(row: Clock, ledger: Ledger) -> None:
    """A lease holds until its end; a clock that was set back neither blocks a delivery for ever nor puts first_seen ahead."""
    ask(ledger)
    claim = ask(ledger, now=row.now)
    assert (claim.state, claim.first_seen) == (row.state, row.first_seen), row.reason


def test_clamped_first_seen_stays(ledger: Ledger) -> None:
    """Once first_seen is known to have been in the future, the clamped value is the one that counts from then on."""
    ask(ledger)
    ledger.release(ID, 1)
    assert ask(ledger, now=NOW - DAY).first_seen == NOW - DAY
    ledger.release(ID, 2)
    assert ask(ledger, now=NOW + DAY).first_seen == NOW - DAY


def test_row_has_no_address(ledger: Ledger, tmp_path: Path) -> None:
    """Addresses are kept as keyed hashes only: HMAC-SHA256 of the lower-case address under the store's key, 16 octets."""
    to = "secret+k@in.example.com"
    ledger.claim(ID, now=NOW, lease=LEASE, judgement="{}", queue_id="Q", sender="Someone@Example.ORG", recipient=to)
    row = ledger.look(ID)
    assert row is not None
    expected = hmac.digest(ledger.hash_key, b"someone@example.org", "sha256")[:16].hex()
    assert row.sender_hash == expected
    assert len(ledger.hash_key) == 32
    everything = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir()).lower()
    assert b"queue_id" in everything
    assert b"someone@" not in everything
    assert b"secret+k" not in everything


TEXTS = {"empty": "", "nul": "Q\0Q", "utf-8": "ü", "surrogates": "\udcff\ud800", "long": "x" * 100_000}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_kept(text: str, ledger: Ledger) -> None:
    """Whatever argv or JSON held, surrogates and NUL included, comes back as it was: no message makes the ledger raise."""
    ledger.claim(ID, now=NOW, lease=LEASE, judgement=text, queue_id=text, sender=text, recipient=text)
    assert [(row.id, row.judgement) for row in ledger.rows(queue_id=text)] == [(ID, text)]
    assert ledger.finish(ID, 1, outcome=text, now=NOW)
    assert ask(ledger).outcome == text


@pytest.mark.parametrize("id_", ["", "ab", "zz" * 32, "ab" * 33, "../" * 21 + "x"])
def test_wrong_id(id_: str, ledger: Ledger) -> None:
    """Anything but 64 hexadecimal digits is a mistake of the caller, told at once."""
    with pytest.raises(ValueError, match=r"delivery id|fromhex"):
        ask(ledger, id_)


def test_rows_of_a_queue_id(ledger: Ledger) -> None:
    """rows() gives one queue ID's recipients, oldest first, and nothing for another."""
    for n in range(3):
        ask(ledger, number(n), now=NOW - n)
    assert [row.id for row in ledger.rows(queue_id="4jWl4Z5tH8zJv6D")] == [number(2), number(1), number(0)]
    assert list(ledger.rows(queue_id="4jWl4Z5tH8zJv6")) == []
    assert ledger.look(number(9)) is None


def test_prune_is_bounded(ledger: Ledger) -> None:
    """prune deletes rows past their age, least recently changed first, never more than asked, never a young one."""
    for n in range(10):
        ask(ledger, number(n), now=NOW + n)
    later = NOW + 10 * DAY + 5.5
    assert ledger.prune(later, 10 * DAY, 4) == 4
    assert [n for n in range(10) if ledger.look(number(n)) is None] == [0, 1, 2, 3]
    assert ledger.prune(later, 10 * DAY, 100) == 2
    assert ledger.prune(later, 10 * DAY, 100) == 0
    assert ledger.prune(later + DAY, 10 * DAY, 0) == 0
    assert ledger.prune(later + DAY, 10 * DAY, -1) == 0
    assert [n for n in range(10) if ledger.look(number(n)) is not None] == [6, 7, 8, 9]


def test_age_counts_from_the_last_change(ledger: Ledger) -> None:
    """A delivery that is still being tried does not age."""
    ask(ledger)
    ask(ledger, now=NOW + 4 * DAY)
    assert ledger.prune(NOW + 11 * DAY, 10 * DAY, 10) == 0
    ledger.finish(ID, 2, outcome="", now=NOW + 5 * DAY)
    assert ledger.prune(NOW + 14.5 * DAY, 10 * DAY, 10) == 0
    assert ledger.prune(NOW + 15.5 * DAY, 10 * DAY, 10) == 1


def test_finish_prunes_a_few(ledger: Ledger) -> None:
    """finish deletes as many old rows as it is told, and not its own."""
    for n in range(5):
        ask(ledger, number(n))
    claim = ask(ledger, now=NOW + 20 * DAY)
    assert ledger.finish(ID, claim.fence, outcome="x", now=NOW + 20 * DAY, prune=3, keep=10 * DAY)
    assert sum(ledger.look(number(n)) is None for n in range(5)) == 3
    assert ask(ledger, now=NOW + 20 * DAY).state == "done"


def test_prune_uses_the_index(ledger: Ledger, tmp_path: Path) -> None:
    """Finding what to prune is a look into an index, not a walk through the table."""
    with sqlite3.connect(tmp_path / "store" / "gatepost.sqlite") as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM delivery WHERE changed < ? ORDER BY changed LIMIT ?", (NOW, 3)
        ).fetchall()
    connection.close()
    assert [row[3] for row in plan] == ["SEARCH delivery USING COVERING INDEX delivery_changed (changed<?)"]


def test_kept_over_openings(ledger: Ledger, opened: Opener) -> None:
    """Host id, hash key and rows are the same for every process that opens the store, closed before or not."""
    ask(ledger)
    second = opened("store")
    assert (second.host_id, second.hash_key) == (ledger.host_id, ledger.hash_key)
    assert len(second.host_id) == 32
    assert int(second.host_id, 16)
    assert ask(second).state == "busy"
    ledger.close()
    second.close()
    assert ask(opened("store")).state == "busy"


def test_two_hosts_differ(ledger: Ledger, opened: Opener) -> None:
    """Each store has its own host id and hash key."""
    other = opened("other")
    assert other.host_id != ledger.host_id
    assert other.hash_key != ledger.hash_key


def test_modes(opened: Opener, tmp_path: Path) -> None:
    """Every file of the store is 0600, whatever the umask allows."""
    before = os.umask(0)
    try:
        ask(opened("store"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").iterdir()}
    finally:
        os.umask(before)
    names = ("gatepost.sqlite", "gatepost.sqlite-shm", "gatepost.sqlite-wal", "host-id")
    assert modes == dict.fromkeys(names, 0o600)


def test_connection_settings(tmp_path: Path) -> None:
    """Commits are synced (FULL = 2), the journal is a write-ahead log, and what is cleared is overwritten."""
    (tmp_path / "store").mkdir(mode=0o700)
    connection = database.open_database(str(tmp_path / "store"))
    expected = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 2}
    assert {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected} == expected
    connection.close()


def test_odd_folder_names(opened: Opener, tmp_path: Path) -> None:
    """A folder's name may hold what means something in a URI."""
    opened("a b?c#d%41").close()
    assert sorted(path.name for path in (tmp_path / "a b?c#d%41").iterdir()) == ["gatepost.sqlite", "host-id"]


def test_migration(ledger: Ledger, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of an earlier schema is brought up to date, its rows kept; one that fails half-way stays as it was."""
    ask(ledger)
    version = len(database._MIGRATIONS)
    broken = (*database._MIGRATIONS, ("ALTER TABLE delivery ADD COLUMN extra TEXT", "no statement"))
    monkeypatch.setattr(database, "_MIGRATIONS", broken)
    with pytest.raises(StoreError, match="syntax error"):
        opened("store")
    good = (*broken[:-1], ("ALTER TABLE delivery ADD COLUMN extra TEXT NOT NULL DEFAULT ''",))
    monkeypatch.setattr(database, "_MIGRATIONS", good)
    assert ask(opened("store")).state == "busy"
    with sqlite3.connect(tmp_path / "store" / "gatepost.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version + 1,)
        assert connection.execute("SELECT extra FROM delivery").fetchall() == [("",)]
    connection.close()


def test_start_up_cost() -> None:
    """Opening the ledger loads none of the modules that a run of the pipe script must not pay for."""
    code = "import sys; sys.path[:0] = sys.argv[1:]; import gatepost.stores.ledger, gatepost.stores.parked; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, *sys.path], capture_output=True, text=True, check=True)
    dear = {"argparse", "contextlib", "dataclasses", "datetime", "email", "enum", "hashlib", "inspect", "json", "logging",
            "pathlib", "random", "re", "secrets", "sqlite3", "tempfile", "typing", "uuid"}  # fmt: skip
    assert dear & set(run.stdout.split()) == set()
