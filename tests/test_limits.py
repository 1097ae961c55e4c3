"""Limits: by whom a message is counted, when it passes, and what a wrong clock or an old store do to the counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from gatepost.settings import USUAL_LIMITS, LimitSettings
from gatepost.stores import database
from gatepost.stores.ledger import Claim, Ledger
from gatepost.stores.limits import Counter, counters_for

NOW = 1_800_000_000.0
LEASE = 180.0
DAY = 86_400.0
Window = tuple[int, float]
TWO_A_MINUTE = ((2, 60.0),)

USUAL = LimitSettings(per_key=USUAL_LIMITS, per_sender=USUAL_LIMITS)


def number(n: int) -> str:
    """A delivery id."""
    return f"{n:064x}"


def counter(subject: str = "replies k", windows: tuple[Window, ...] = TWO_A_MINUTE, name: str = "per_key") -> Counter:
    return Counter(name=name, subject=subject, windows=windows)


def ask(ledger: Ledger, n: int, now: float, *counters: Counter, judgement: str = "{}") -> Claim:
    return ledger.claim(
        number(n), now=now, lease=LEASE, judgement=judgement, queue_id=f"Q{n}", sender="a@example.org",
        recipient="reply+k@in.example.com", counters=counters,
    )  # fmt: skip


@pytest.fixture(name="ledger")
def _ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(str(tmp_path))
    yield ledger
    ledger.close()


def counted(folder: Path) -> int:
    """How many counts the store holds."""
    with sqlite3.connect(folder / "gatepost.sqlite") as connection:
        (rows,) = connection.execute("SELECT count(*) FROM counted").fetchone()
    connection.close()
    return int(rows)


# Who is counted


class Who(NamedTuple):
    id: str
    change: dict[str, str]
    subjects: tuple[tuple[str, str], ...]
    reason: str


KEY = ("per_key", "replies k3y")
WHO = [
    Who("stranger", {}, (KEY, ("per_sender", "network 192.0.2.0/24")), "From can be forged: not the victim's share"),
    Who("no", {"sender_verified": "no"}, (KEY, ("per_sender", "network 192.0.2.0/24")), "nor where it was found forged"),
    Who("verified", {"sender_verified": "yes"}, (KEY, ("per_sender", "address ann@example.org")), "whatever host it came by"),
    Who("verified-nobody", {"sender_verified": "yes", "sender": ""}, (KEY, ("per_sender", "network 192.0.2.0/24")),
        "a verdict about nobody"),
    Who("nobody", {"client_address": "unknown"}, (KEY,), "all unknown clients together would be one share for strangers"),
    Who("dedicated", {"key": ""}, (("per_sender", "network 192.0.2.0/24"),), "an address without a key"),
]  # fmt: skip


@pytest.mark.parametrize("row", WHO, ids=lambda row: row.id)
def test_who_is_counted(row: Who) -> None:
    """A message counts for its key, and for its sender only where that was authenticated, else for the client's network."""
    given_ = {"key": "k3y", "route": "replies", "sender": "Ann@Example.org", "sender_verified": "unknown",
              "client_address": "192.0.2.7", **row.change}  # fmt: skip
    found = counters_for(USUAL, **given_)
    assert tuple((each.name, each.subject) for each in found) == row.subjects, row.reason


def test_the_usual_limits() -> None:
    """Unless the configuration says otherwise: 50 in a minute, 120 in 5, 600 in an hour, per key and per sender."""
    usual = ((50, 60.0), (120, 300.0), (600, 3_600.0))
    assert usual == USUAL_LIMITS
    assert LimitSettings() == LimitSettings(per_key=(), per_sender=(), per_route=())


def test_a_route_may_have_a_limit() -> None:
    """per_route counts what a route takes in all, and an empty list asks nothing."""
    limits = LimitSettings(per_key=(), per_sender=(), per_route=((9, 60.0),))
    found = counters_for(limits, key="k", route="desk", sender="", sender_verified="unknown", client_address="192.0.2.1")
    assert found == (Counter(name="per_route", subject="desk", windows=((9, 60.0),)),)


@pytest.mark.parametrize(("window", "text"), [
    ((50, 60.0), "per_key 50/1m"), ((120, 300.0), "per_key 120/5m"), ((600, 3_600.0), "per_key 600/1h"),
    ((7, 90.0), "per_key 7/90s"), ((1, 2 * DAY), "per_key 1/2d"), ((1, 0.5), "per_key 1/0.5s"),
    ((999_999_999, 999_999_999 * DAY), "per_key 999999999/999999999d"),
])  # fmt: skip
def test_a_limit_reads_as_it_is_written(window: tuple[int, float], text: str) -> None:
    """The log names a limit in the configuration's words."""
    assert counter().limit(window) == text


# When it passes


def test_the_third_waits(ledger: Ledger) -> None:
    """Of a limit of two a minute two pass; the third gets no lease, and is told which limit and until when."""
    assert ask(ledger, 1, NOW, counter()).state == "claimed"
    assert ask(ledger, 2, NOW + 10, counter()).state == "claimed"
    third = ask(ledger, 3, NOW + 20, counter())
    assert third == Claim(state="limited", limit="per_key 2/1m", until=NOW + 60, first_seen=NOW + 20, attempts=1)


def test_limited_then_passes(ledger: Ledger) -> None:
    """Each retry asks again and is counted as an attempt; what passes is what was judged then, seen when it first came."""
    for n in (1, 2):
        ask(ledger, n, NOW, counter())
    assert ask(ledger, 3, NOW + 1, counter(), judgement="early").state == "limited"
    assert ask(ledger, 3, NOW + 59, counter(), judgement="early").attempts == 2
    passed = ask(ledger, 3, NOW + 61, counter(), judgement="late")
    assert passed == Claim(state="claimed", fence=1, attempts=3, first_seen=NOW + 1, judgement="late")
    assert ledger.release(number(3), 1)
    again = ask(ledger, 3, NOW + 62, counter(windows=((1, DAY),)), judgement="later")
    assert (again.state, again.judgement, again.first_seen, again.attempts) == ("claimed", "late", NOW + 1, 4)


def test_what_is_limited_is_no_verdict(ledger: Ledger) -> None:
    """A limited delivery keeps no judgement and no lease, can be neither released nor finished, and has not passed."""
    for n in (1, 2, 3):
        ask(ledger, n, NOW, counter())
    row, other = ledger.look(number(3)), ledger.look(number(2))
    assert row is not None
    assert other is not None
    assert (row.judgement, row.lease_until, row.fence, row.state, row.passed, other.passed) == ("", 0.0, 0, "open", 0, 1)
    assert not ledger.release(number(3), 0)
    assert not ledger.finish(number(3), 0, outcome="done", now=NOW)
    assert ask(ledger, 3, NOW, counter()).state == "limited"


def test_retries_count_once(ledger: Ledger) -> None:
    """A delivery that the app does not take is counted when it first passes, however often Postfix brings it."""
    for n in range(30):
        claim = ask(ledger, 1, NOW + n, counter())
        assert claim.state == "claimed"
        ledger.release(number(1), claim.fence)
    assert ask(ledger, 2, NOW + 30, counter()).state == "claimed"
    assert ask(ledger, 3, NOW + 30, counter()).until == NOW + 60
    assert ask(ledger, 1, NOW + 31, counter()).state == "claimed"


def test_busy_and_done_ask_no_limit(ledger: Ledger) -> None:
    """A second run of what has passed is told busy, then done, also while the limit is full."""
    for n in (1, 2, 3):
        claim = ask(ledger, n, NOW, counter())
    assert claim.state == "limited"
    assert ask(ledger, 1, NOW + 1, counter()).state == "busy"
    ledger.finish(number(1), 1, outcome="accepted", now=NOW + 1)
    assert ask(ledger, 1, NOW + 2, counter()).outcome == "accepted"


def test_all_windows_or_none(ledger: Ledger, tmp_path: Path) -> None:
    """Where the second window is full, nothing is counted in the first, nor for another counter."""
    windows = ((2, 60.0), (3, 600.0))
    sender = counter("address a@example.org", ((5, 600.0),), "per_sender")
    for n in range(3):
        assert ask(ledger, n, NOW + 40 * n, counter(windows=windows), sender).state == "claimed"
    for n in range(3, 9):
        limited = ask(ledger, n, NOW + 130, counter(windows=windows), sender)
        assert (limited.state, limited.limit, limited.until) == ("limited", "per_key 3/10m", NOW + 600)
    assert counted(tmp_path) == 6
    other_keys = [ask(ledger, n, NOW + 130, counter(f"replies {n}"), sender).state for n in range(10, 13)]
    assert other_keys == ["claimed", "claimed", "limited"]
    assert ask(ledger, 3, NOW + 130, counter(windows=((2, 60.0),))).state == "claimed"


def test_the_longest_wait_is_told(ledger: Ledger) -> None:
    """Where several windows are full, of whichever counter, the one that has room last is named."""
    route = counter("replies", ((1, 30.0), (2, 300.0)), "per_route")
    for n in (1, 2):
        ask(ledger, n, NOW + 40 * n, counter(), route)
    assert ask(ledger, 3, NOW + 81, counter(), route).limit == "per_route 2/5m"


def test_one_share_each(ledger: Ledger) -> None:
    """Keys, senders and routes with the same text are counted apart, and a full one keeps no other waiting."""
    for n in (1, 2):
        ask(ledger, n, NOW, counter("x"))
    assert ask(ledger, 3, NOW, counter("x")).state == "limited"
    assert ask(ledger, 4, NOW, counter("y")).state == "claimed"
    assert ask(ledger, 5, NOW, counter("x", name="per_route")).state == "claimed"
    assert ask(ledger, 6, NOW).state == "claimed"


def test_a_lower_limit_holds_at_once(ledger: Ledger) -> None:
    """After the limit was lowered it is over-full, and has room when so many have left that one more fits."""
    wide, narrow = counter(windows=((5, 60.0),)), counter(windows=((2, 60.0),))
    for n in range(5):
        ask(ledger, n, NOW + n, wide)
    assert ask(ledger, 9, NOW + 10, narrow).until == NOW + 63
    assert ask(ledger, 9, NOW + 62.9, narrow).state == "limited"
    assert ask(ledger, 9, NOW + 63, narrow).state == "claimed"


def test_given_up(ledger: Ledger, tmp_path: Path) -> None:
    """A message that was limited for days keeps first_seen; a claim that asks no limit gets it, uncounted, for parking."""
    full = counter(windows=((1, 10 * DAY),))
    ask(ledger, 1, NOW, full)
    for hour in range(97):
        claim = ask(ledger, 2, NOW + hour * 3_600, full)
    assert (claim.state, claim.first_seen, claim.attempts) == ("limited", NOW, 97)
    assert ledger.prune(NOW + 8 * DAY, 10 * DAY, 100) == 0
    claim = ask(ledger, 2, NOW + 97 * 3_600, judgement="gave-up")
    assert (claim.state, claim.first_seen, claim.judgement) == ("claimed", NOW, "gave-up")
    assert counted(tmp_path) == 1
    assert ledger.finish(number(2), claim.fence, outcome="parked", now=NOW + 98 * 3_600)


def test_windows_of_none(ledger: Ledger, tmp_path: Path) -> None:
    """A counter without windows asks nothing and counts nothing."""
    assert ask(ledger, 1, NOW, counter(windows=())).state == "claimed"
    assert counted(tmp_path) == 0


SUBJECTS = {"empty": "", "nul": "\0", "utf-8": "ü", "surrogates": "\udcff\ud800", "long": "x" * 100_000}


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_any_subject(subject: str, ledger: Ledger) -> None:
    """No sender and no key makes the ledger raise."""
    assert [ask(ledger, n, NOW, counter(subject)).state for n in (1, 2, 3)] == ["claimed", "claimed", "limited"]


def test_nothing_in_the_clear(ledger: Ledger, tmp_path: Path) -> None:
    """The store holds keyed hashes of what it counted: neither the key nor the sender nor the network can be read."""
    found = counters_for(USUAL, key="k3yk3yk3y", route="replies", sender="someone@example.org", sender_verified="yes",
                         client_address="")  # fmt: skip
    ask(ledger, 1, NOW, *found, counter("network 192.0.2.0/24", name="per_sender"))
    assert counted(tmp_path) == 3
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not [each for each in (b"k3yk3y", b"someone", b"192.0.2", b"per_key") if each in everything]


# Wrong clocks


class Clock(NamedTuple):
    id: str
    now: float
    until: float
    reason: str


#: Two a minute, and two passed, at NOW and NOW + 1. `until` 0: the next one passes.
CLOCKS = [
    Clock("next", NOW + 1, NOW + 60, "the first leaves the window after a minute"),
    Clock("last-instant", NOW + 59.75, NOW + 60, "not before"),
    Clock("room", NOW + 60, 0, "a count is in the window for exactly its length"),
    Clock("forward-a-year", NOW + 365 * DAY, 0, "every window has passed: that cannot be told from a quiet year"),
    Clock("back-a-second", NOW - 1, NOW + 60, "or another run, which started later, was quicker"),
    Clock("back-a-lease", NOW + 1 - LEASE, NOW + 60, "no run is older than its lease"),
    Clock("back-an-hour", NOW - 3_600, NOW - 3_540, "the clock was set back: they count as now, for one window"),
    Clock("back-to-1970", 0.0, 60.0, "a host without a clock battery"),
    Clock("back-two-hundred", NOW - 200, NOW - 140, "past the lease"),
]


@pytest.mark.parametrize("row", CLOCKS, ids=lambda row: row.id)
def test_clock(row: Clock, ledger: Ledger) -> None:
    """A clock set back neither opens a full window nor holds mail up for more than a lease and the window."""
    for n in (1, 2):
        ask(ledger, n, NOW + n - 1, counter())
    claim = ask(ledger, 3, row.now, counter())
    assert (claim.state, claim.until) == (("limited", row.until) if row.until else ("claimed", 0.0)), row.reason
    if row.until:
        assert ask(ledger, 4, row.until - 0.25, counter()).state == "limited"
        assert ask(ledger, 4, row.until, counter()).state == "claimed"


def test_forward_and_back(ledger: Ledger) -> None:
    """A clock that jumps ahead empties the windows once; when it is set back, what passed meanwhile counts as of then."""
    for n in (1, 2):
        ask(ledger, n, NOW, counter())
    for n in (3, 4):
        assert ask(ledger, n, NOW + 365 * DAY, counter()).state == "claimed"
    assert ask(ledger, 5, NOW + 365 * DAY + 1, counter()).state == "limited"
    assert ask(ledger, 5, NOW + 2, counter()).until == NOW + 62
    assert ask(ledger, 5, NOW + 61.75, counter()).state == "limited"
    assert ask(ledger, 5, NOW + 62, counter()).state == "claimed"


def test_what_is_moved_goes_in_time(ledger: Ledger, tmp_path: Path) -> None:
    """Counts that a wrong clock had put ahead are deleted when they have left their windows, not when that clock would say."""
    for n in (1, 2):
        ask(ledger, n, NOW + DAY, counter())
    assert ask(ledger, 3, NOW, counter()).state == "limited"
    assert ask(ledger, 3, NOW + 60, counter()).state == "claimed"
    assert counted(tmp_path) == 1


def test_a_clock_that_trembles(ledger: Ledger) -> None:
    """A clock that is set back again and again keeps nothing for ever: each count only ever comes nearer."""
    for n in (1, 2):
        ask(ledger, n, NOW, counter())
    untils = [ask(ledger, 3, NOW - 200 * n, counter()).until for n in range(1, 20)]
    assert untils == sorted(untils, reverse=True)
    assert ask(ledger, 3, untils[-1], counter()).state == "claimed"


# What is kept


def test_old_counts_go(ledger: Ledger, tmp_path: Path) -> None:
    """Counts go once they have left their longest window, a few with each message, so that the table stays small."""
    wide = tuple(counter(f"{name} {{}}", ((500, 60.0),), name) for name in ("per_key", "per_sender", "per_route"))
    for n in range(300):
        ask(ledger, n, NOW, *(each.replace(subject=each.subject.format(n)) for each in wide))
    assert counted(tmp_path) == 900
    sizes = []
    for n in range(300, 500):
        ask(ledger, n, NOW + 60 + n, *wide)
        sizes.append(counted(tmp_path))
    assert min(after - before for before, after in pairwise(sizes)) == 3 - 8
    assert max(sizes[-20:]) <= 60 * 3


def test_prune_keeps_what_is_needed(ledger: Ledger, tmp_path: Path) -> None:
    """prune, and the end of a delivery's row, take away no count that is still in a window, and at most as many as asked."""
    hour = counter(windows=((2, 60.0), (3, 3_600.0)))
    for n in range(3):
        claim = ask(ledger, n, NOW + 61 * n, hour)
        ledger.finish(number(n), claim.fence, outcome="x", now=NOW + 61 * n)
    for n in range(10, 15):
        ask(ledger, n, NOW, counter(str(n)))
    assert counted(tmp_path) == 8
    later = NOW + 3_599
    assert ledger.prune(later, 60.0, 2) == 2
    assert counted(tmp_path) == 6
    assert ledger.prune(later, 60.0, 100) == 6
    assert counted(tmp_path) == 3
    assert ask(ledger, 20, later, hour).state == "limited"
    assert ask(ledger, 20, later + 1, hour).state == "claimed"
    assert counted(tmp_path) == 3


def test_searches_use_an_index(ledger: Ledger, tmp_path: Path) -> None:
    """Asking a window, moving counts, and finding old ones are looks into an index, however many counts there are."""
    statements: list[str] = []
    ask(ledger, 1, NOW + 10 * LEASE, counter())
    ledger._database.set_trace_callback(statements.append)
    ask(ledger, 2, NOW, counter())
    ledger._database.set_trace_callback(None)
    assert [statement.split()[0] for statement in statements if "counted" in statement] == [
        "SELECT", "UPDATE", "INSERT", "DELETE"
    ]  # fmt: skip
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        plans = [
            str(step[3])
            for statement in statements
            if "counted" in statement and "WHERE" in statement
            for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    connection.close()
    assert len(plans) >= 5
    walks = [plan for plan in plans if plan.startswith("SCAN") or "TEMP B-TREE" in plan]
    assert not [plan for plan in walks if plan != "SCAN CONSTANT ROW"]  # the one row of several sub-selects


# The schema before there were limits

#: Version 1, as it was released.
VERSION_1 = (
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
)


def old_store(folder: Path) -> None:
    """A store of version 1: one delivery handed over, one that waits in the queue, one that a run has now."""
    with sqlite3.connect(folder / "gatepost.sqlite") as connection:
        for statement in VERSION_1:
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES (?, ?, 0)", ("ab" * 16, b"k" * 32))
        rows = [(1, 0.0, "done", "", "accepted"), (2, 0.0, "open", "judged", ""), (3, NOW + LEASE, "open", "judged", "")]
        for n, lease_until, state, judgement, outcome in rows:
            connection.execute(
                "INSERT INTO delivery VALUES (?, 'Q', ?, ?, 2, 1, 2, ?, ?, ?, ?, x'00', x'00')",
                (bytes.fromhex(number(n)), NOW - DAY, NOW, lease_until, state, judgement, outcome),
            )
        connection.execute("PRAGMA user_version=1")
        connection.commit()
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    (folder / "gatepost.sqlite").chmod(0o600)
    (folder / "host-id").write_text("ab" * 16 + "\n")


def test_migration(tmp_path: Path) -> None:
    """A store of version 1 is brought up to date with its rows; what was seen before has passed, and asks no limit."""
    old_store(tmp_path)
    ledger = Ledger.open(str(tmp_path))
    full = counter(windows=((1, 60.0),))
    assert ask(ledger, 4, NOW, full).state == "claimed"
    assert ask(ledger, 5, NOW, full).state == "limited"
    assert ask(ledger, 1, NOW + 1, full).outcome == "accepted"
    assert ask(ledger, 2, NOW + 1, full) == Claim(
        state="claimed", fence=3, attempts=3, cannot_take=1, first_seen=NOW - DAY, judgement="judged"
    )
    assert ask(ledger, 3, NOW + 1, full).state == "busy"
    assert ledger.finish(number(3), 2, outcome="accepted", now=NOW + 2)
    ledger.close()
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(database._MIGRATIONS),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_released_versions_do_not_change() -> None:
    """What a store of version 1 has is what version 1 says: a change there would reach no store that exists."""

    def plain(statements: tuple[str, ...]) -> list[str]:
        return [" ".join(each.split()) for each in statements]

    assert plain(database._MIGRATIONS[0]) == plain(VERSION_1)
