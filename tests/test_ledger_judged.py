"""Messages judged before Postfix queued them: what the first claim finds, what a limit leaves out, tokens, and asking for room."""

from __future__ import annotations

import functools
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gatepost.errors import StoreError
from gatepost.stores import database
from gatepost.stores.ledger import Claim, Judged, Ledger, Limited, Recorded
from gatepost.stores.limits import Counter
from tests.test_ledger_crash import child, status_of, together
from tests.test_ledger_faults import in_child, small_disk
from tests.test_limits import CLOCKS, VERSION_1, Clock

NOW = 1_800_000_000.0
LEASE = 180.0
DAY = 86_400.0
QUEUE_ID = "4jWl4Z5tH8zJv6D"
BINDING = bytes(range(32))
Window = tuple[int, float]


def number(n: int) -> str:
    """A delivery id."""
    return f"{n:064x}"


def token(n: int) -> str:
    return f"{n:032x}"


def counter(subject: str = "replies k", *windows: Window, name: str = "per_key") -> Counter:
    """Two a minute, unless it says otherwise."""
    return Counter(name=name, subject=subject, windows=windows or ((2, 60.0),))


def judged(n: int, *counters: Counter, judgement: str = "milter", wanted: bool = True) -> Judged:
    return Judged(
        id=number(n), recipient=f"reply+k{n}@in.example.com", judgement=judgement, counters=counters, wanted=wanted
    )  # fmt: skip


def judge(ledger: Ledger, n: int, *deliveries: Judged, now: float = NOW, keep_token: bool = False) -> tuple[Limited, ...]:
    return ledger.judge(
        deliveries, token=token(n), queue_id=QUEUE_ID, sender="a@example.org", binding=BINDING, now=now, lease=LEASE,
        keep_token=keep_token,
    )  # fmt: skip


def claim(ledger: Ledger, n: int, *counters: Counter, now: float = NOW + 1) -> Claim:
    return ledger.claim(
        number(n), now=now, lease=LEASE, judgement="pipe", queue_id=QUEUE_ID, sender="a@example.org",
        recipient=f"reply+k{n}@in.example.com", counters=counters,
    )  # fmt: skip


@pytest.fixture(name="ledger")
def _ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(str(tmp_path))
    yield ledger
    ledger.close()


class Contents(NamedTuple):
    deliveries: int
    counts: int
    tokens: int


def contents(folder: Path) -> Contents:
    """How many of each the store holds."""
    with sqlite3.connect(folder / "gatepost.sqlite") as connection:
        found = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("delivery", "counted", "token")]
    connection.close()
    return Contents(*found)


# What the first claim finds


def test_first_claim_gets_the_judgement(ledger: Ledger) -> None:
    """The first claim behind the queue is attempt 1, gets what was judged before the queue, and was seen when that was."""
    assert judge(ledger, 1, judged(1)) == ()
    assert claim(ledger, 1) == Claim(state="claimed", fence=1, attempts=1, first_seen=NOW, judgement="milter")
    assert claim(ledger, 1).state == "busy"
    assert ledger.release(number(1), 1, cannot_take=True)
    again = claim(ledger, 1)
    assert (again.fence, again.attempts, again.cannot_take, again.judgement) == (2, 2, 1, "milter")
    assert ledger.finish(number(1), 2, outcome="accepted", now=NOW + 2)
    assert claim(ledger, 1).outcome == "accepted"


def test_judged_is_counted_once(ledger: Ledger, tmp_path: Path) -> None:
    """A judged delivery was counted then: its claims ask no limit, however full, and count nothing."""
    for n in (1, 2):
        judge(ledger, n, judged(n, counter()))
    assert contents(tmp_path).counts == 2
    for n in (1, 2):
        assert claim(ledger, n, counter(), counter("other", (1, 60.0))).judgement == "milter"
    assert contents(tmp_path).counts == 2
    assert claim(ledger, 3, counter()).state == "limited"


def test_counts_of_both_doors_are_one(ledger: Ledger) -> None:
    """What the pipe script counted leaves no room for judge, and the other way round."""
    assert claim(ledger, 1, counter()).state == "claimed"
    assert judge(ledger, 2, judged(2, counter())) == ()
    assert judge(ledger, 3, judged(3, counter())) == (Limited(id=number(3), limit="per_key 2/1m", until=NOW + 60),)
    assert claim(ledger, 4, counter()).until == NOW + 60


def test_row_that_nobody_has(ledger: Ledger) -> None:
    """A judged delivery that no run has claimed can be neither released nor finished, under no fence."""
    judge(ledger, 1, judged(1))
    row = ledger.look(number(1))
    assert row is not None
    assert (row.state, row.passed, row.attempts, row.cannot_take, row.fence, row.lease_until) == ("open", 1, 0, 0, 0, 0.0)
    assert (row.queue_id, row.judgement, row.outcome, row.first_seen, row.changed) == (QUEUE_ID, "milter", "", NOW, NOW)
    for fence in (0, 1):
        assert not ledger.release(number(1), fence)
        assert not ledger.finish(number(1), fence, outcome="x", now=NOW)
    assert claim(ledger, 1).state == "claimed"


def test_hashes_are_those_of_a_claim(ledger: Ledger) -> None:
    """Addresses stand in the row as a claim would have put them."""
    judge(ledger, 1, judged(1))
    ledger.claim(number(2), now=NOW, lease=LEASE, judgement="", queue_id="Q", sender="A@example.org",
                 recipient="reply+k1@in.example.com")  # fmt: skip
    ours, theirs = ledger.look(number(1)), ledger.look(number(2))
    assert ours is not None
    assert theirs is not None
    assert (ours.sender_hash, ours.recipient_hash) == (theirs.sender_hash, theirs.recipient_hash)
    assert ours.sender_hash != ours.recipient_hash


# Which of a message's deliveries pass


class Message(NamedTuple):
    id: str
    deliveries: tuple[Judged, ...]
    limited: tuple[tuple[int, str, float], ...]
    left: Contents
    reason: str
    keep_token: bool = False


FULL = counter("full", (1, 60.0))
LONGER = counter("longer", (1, 600.0), name="per_sender")
SENDER = counter("sender", (2, 60.0), name="per_sender")
#: Beside one count under each of FULL and LONGER, of a delivery that was judged before at NOW - 1.
MESSAGES = [
    Message("passes", (judged(1, counter()),), (), Contents(1, 1, 1), "a row, a count, the token"),
    Message("nobody", (), (), Contents(0, 0, 1), "nothing to judge, but the token is wanted"),
    Message("no-counters", (judged(1), judged(2)), (), Contents(2, 0, 1), "refused ones: rows without counts"),
    Message("full", (judged(1, FULL),), ((1, "per_key 1/1m", 59.0),), Contents(0, 0, 0), "deferred whole: comes again"),
    Message("all-full", (judged(1, FULL), judged(2, FULL, SENDER)), ((1, "per_key 1/1m", 59.0), (2, "per_key 1/1m", 59.0)),
            Contents(0, 0, 0), "nothing is left behind of any"),
    Message("all-full-queued", (judged(1, FULL),), ((1, "per_key 1/1m", 59.0),), Contents(0, 0, 1),
            "it is queued for others' recipients, and the pipe script will ask for the token", keep_token=True),
    Message("one-full", (judged(1, FULL), judged(2, counter())), ((1, "per_key 1/1m", 59.0),), Contents(1, 1, 1),
            "one is left to the pipe script"),
    Message("full-and-parked", (judged(1, FULL), judged(2)), ((1, "per_key 1/1m", 59.0),), Contents(1, 0, 1),
            "somebody is to have the one without counters"),
    Message("full-and-refused", (judged(2, wanted=False), judged(1, FULL)), ((1, "per_key 1/1m", 59.0),), Contents(0, 0, 0),
            "nobody would have it now: deferred whole, the refused one too"),
    Message("full-and-refused-queued", (judged(2, wanted=False), judged(1, FULL)), ((1, "per_key 1/1m", 59.0),),
            Contents(1, 0, 1), "queued for others' recipients: the refused one is judged", keep_token=True),
    Message("room-full-and-refused", (judged(3, wanted=False), judged(1, FULL), judged(2, SENDER)),
            ((1, "per_key 1/1m", 59.0),), Contents(2, 1, 1), "one has it: queued, and the refused one is judged"),
    Message("refused", (judged(1, wanted=False), judged(2, wanted=False)), (), Contents(2, 0, 1), "no limit stands in the way"),
    Message("longest", (judged(1, FULL, LONGER), judged(2)), ((1, "per_sender 1/10m", 599.0),), Contents(1, 0, 1),
            "where several are full, that which lasts longest"),
    Message("half-counted", (judged(1, SENDER, FULL), judged(2, SENDER), judged(3, SENDER)), ((1, "per_key 1/1m", 59.0),),
            Contents(2, 2, 1), "a limited one counts under none, so the two others find room"),
    Message("shared", (judged(1, SENDER), judged(2, SENDER), judged(3, SENDER)), ((3, "per_sender 2/1m", 60.0),),
            Contents(2, 2, 1), "the second sees the first, the third finds it full"),
    Message("twice", (judged(1, SENDER), judged(1, SENDER, judgement="other")), (), Contents(1, 1, 1),
            "one delivery, whichever way its recipient was written"),
    Message("no-windows", (judged(1, Counter(name="per_key", subject="k", windows=())),), (), Contents(1, 0, 1), "asks nothing"),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.id)
def test_message(message: Message, ledger: Ledger, tmp_path: Path) -> None:
    """What passes gets a row and counts; what is limited gets neither; the token stays unless the whole message is limited."""
    judge(ledger, 99, judged(99, FULL, LONGER), now=NOW - 1)
    before = contents(tmp_path)
    limited = judge(ledger, 1, *message.deliveries, keep_token=message.keep_token)
    assert [(int(each.id, 16), each.limit, each.until - NOW) for each in limited] == list(message.limited), message.reason
    after = contents(tmp_path)
    assert Contents(*(new - old for old, new in zip(before, after, strict=True))) == message.left, message.reason
    assert (ledger.recorded(token(1)) is not None) == (message.left.tokens == 1)
    left_out = {each.id for each in (limited if message.left.tokens else message.deliveries)}
    for each in message.deliveries:
        assert (ledger.look(each.id) is None) == (each.id in left_out)


def test_what_was_limited_is_judged_by_its_first_claim(ledger: Ledger) -> None:
    """The pipe script's first run of a limited delivery judges it, as if nothing had been before."""
    judge(ledger, 1, judged(1, FULL), judged(2, FULL))
    later = claim(ledger, 2, FULL, now=NOW + 5)
    assert (later.state, later.attempts, later.first_seen) == ("limited", 1, NOW + 5)
    assert claim(ledger, 2, FULL, now=NOW + 60).judgement == "pipe"


Prepare = Callable[[Ledger], object]
ROWS: dict[str, Prepare] = {
    "judged": lambda ledger: judge(ledger, 8, judged(1, judgement="earlier")),
    "held": lambda ledger: claim(ledger, 1),
    "released": lambda ledger: (claim(ledger, 1), ledger.release(number(1), 1, cannot_take=True)),
    "done": lambda ledger: (claim(ledger, 1), ledger.finish(number(1), 1, outcome="accepted", now=NOW)),
    "limited": lambda ledger: claim(ledger, 1, FULL),
}


@pytest.mark.parametrize("prepare", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("counters", [(), (FULL,), (SENDER,)], ids=["none", "full", "room"])
def test_row_that_is_there_stays(counters: tuple[Counter, ...], prepare: Prepare, ledger: Ledger, tmp_path: Path) -> None:
    """A delivery that has a row is left as it is, not counted, and not called limited."""
    judge(ledger, 99, judged(99, FULL))
    prepare(ledger)
    before, counts = ledger.look(number(1)), contents(tmp_path).counts
    assert judge(ledger, 1, judged(1, *counters), now=NOW + 30) == ()
    assert ledger.look(number(1)) == before
    assert contents(tmp_path).counts == counts
    assert ledger.recorded(token(1)) is not None


# Tokens


def test_recorded(ledger: Ledger) -> None:
    """A token gives back when it was recorded, for which queue ID, and what it is bound to; the first record stays."""
    judge(ledger, 1, judged(1))
    assert ledger.recorded(token(1)) == Recorded(at=NOW, queue_id=QUEUE_ID, binding=BINDING)
    assert ledger.recorded(token(1).upper()) == ledger.recorded(token(1))
    ledger.judge((), token=token(1), queue_id="other", sender="", binding=b"other", now=NOW + 9, lease=LEASE)
    assert ledger.recorded(token(1)) == Recorded(at=NOW, queue_id=QUEUE_ID, binding=BINDING)


@pytest.mark.parametrize("text", ["", token(2), "ab" * 15, "ab" * 17, "zz" * 16, "\0" * 32, "\udcff", "é" * 32, "ab " * 16])
def test_unknown_token(text: str, ledger: Ledger) -> None:
    """What is no token, or not a known one, is None: a message may hold anything."""
    judge(ledger, 1, judged(1))
    assert ledger.recorded(text) is None


@pytest.mark.parametrize(("text", "id_"), [("", number(1)), ("ab" * 15, number(1)), ("zz" * 16, number(1)), (token(1), "ab")])
def test_wrong_token_or_id(text: str, id_: str, ledger: Ledger, tmp_path: Path) -> None:
    """A token or an id that is none is a mistake of the caller, told at once, and nothing is written."""
    deliveries = (judged(2, counter()), Judged(id=id_, recipient="", judgement=""))
    with pytest.raises(ValueError, match=r"not a token|not a delivery id|fromhex"):
        ledger.judge(deliveries, token=text, queue_id="Q", sender="", binding=b"", now=NOW, lease=LEASE)
    assert contents(tmp_path) == (0, 0, 0)


TEXTS = {"empty": "", "nul": "Q\0Q", "utf-8": "ü", "surrogates": "\udcff\ud800", "long": "x" * 100_000}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_kept(text: str, ledger: Ledger) -> None:
    """Whatever the envelope held comes back as it was: no message makes the ledger raise."""
    each = Judged(id=number(1), recipient=text, judgement=text, counters=(counter(text),))
    assert ledger.judge((each,), token=token(1), queue_id=text, sender=text, binding=b"", now=NOW, lease=LEASE) == ()
    assert ledger.recorded(token(1)) == Recorded(at=NOW, queue_id=text, binding=b"")
    assert [row.judgement for row in ledger.rows(queue_id=text)] == [text]
    assert claim(ledger, 1).judgement == text
    assert ledger.room((counter(text),), now=NOW, lease=LEASE) is None


def test_nothing_in_the_clear(ledger: Ledger, tmp_path: Path) -> None:
    """The store holds no address and nothing that was counted."""
    each = Judged(id=number(1), recipient="secret+k@in.example.com", judgement="{}", counters=(counter("k3yk3yk3y"),))
    ledger.judge((each,), token=token(1), queue_id="Q", sender="someone@example.org", binding=BINDING, now=NOW, lease=LEASE)
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert BINDING in everything
    assert not [text for text in (b"someone@", b"secret+k", b"k3yk3y") if text in everything]


# What goes


def test_prune_takes_tokens(ledger: Ledger, tmp_path: Path) -> None:
    """prune deletes judged rows that nobody claimed and tokens past their age, oldest first, as many as asked of each."""
    for n in range(10):
        judge(ledger, n, judged(n), now=NOW + n)
    later = NOW + 10 * DAY + 5.5
    assert ledger.prune(later, 10 * DAY, 4) == 4
    assert [n for n in range(10) if ledger.recorded(token(n)) is None] == [0, 1, 2, 3]
    assert [n for n in range(10) if ledger.look(number(n)) is None] == [0, 1, 2, 3]
    assert ledger.prune(later, 10 * DAY, 100) == 2
    assert contents(tmp_path) == (4, 0, 4)


def test_finish_prunes_tokens(ledger: Ledger) -> None:
    """finish deletes as many old tokens as rows, and none where it is asked for none."""
    for n in range(5):
        judge(ledger, n, judged(n))
    judge(ledger, 9, judged(9), judged(10), now=NOW + 20 * DAY)
    for n, prune, gone in ((9, 0, 0), (10, 3, 3)):
        fence = claim(ledger, n, now=NOW + 20 * DAY).fence
        assert ledger.finish(number(n), fence, outcome="x", now=NOW + 20 * DAY, prune=prune, keep=10 * DAY)
        assert sum(ledger.recorded(token(m)) is None for m in range(5)) == gone
        assert sum(ledger.look(number(m)) is None for m in range(5)) == gone
    assert ledger.recorded(token(9)) is not None


def traced(ledger: Ledger, work: Callable[[], object]) -> list[str]:
    """The statements that some work makes."""
    statements: list[str] = []
    ledger._database.set_trace_callback(statements.append)
    work()
    ledger._database.set_trace_callback(None)
    return statements


def test_searches_use_an_index(ledger: Ledger, tmp_path: Path) -> None:
    """Judging, asking for room, looking for a token and pruning are looks into an index, however much there is."""
    judge(ledger, 8, judged(8, counter(), counter("ahead", (1, 60.0))), now=NOW + 100)
    statements = [
        *traced(ledger, lambda: judge(ledger, 1, judged(1, counter()))),
        *traced(ledger, lambda: ledger.room((counter("ahead", (1, 60.0)),), now=NOW, lease=LEASE)),
        *traced(ledger, lambda: ledger.recorded(token(1))),
        *traced(ledger, lambda: ledger.prune(NOW, 0.0, 1)),
    ]
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        plans = [
            str(step[3])
            for statement in statements
            if "WHERE" in statement
            for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    connection.close()
    assert len(plans) >= 10
    assert any("token_at" in plan for plan in plans)
    walks = [plan for plan in plans if plan.startswith("SCAN") or "TEMP B-TREE" in plan]
    assert not [plan for plan in walks if plan != "SCAN CONSTANT ROW"]  # the one row of several sub-selects


# Asking for room


def test_room_is_what_judge_says(ledger: Ledger) -> None:
    """room answers as judge would, and a hundred questions use nothing up."""
    both = (counter(), SENDER.replace(windows=((9, 60.0),)))
    for n in (1, 2):
        assert [ledger.room(both, now=NOW, lease=LEASE) for _ in range(100)] == [None] * 100
        assert judge(ledger, n, judged(n, *both)) == ()
    assert ledger.room(both, now=NOW + 10, lease=LEASE) == (NOW + 60, "per_key 2/1m")
    assert ledger.room(both[1:], now=NOW + 10, lease=LEASE) is None
    assert ledger.room((), now=NOW + 10, lease=LEASE) is None
    assert ledger.room(both, now=NOW + 60, lease=LEASE) is None
    assert ledger.room((counter("x", (2, 60.0), (3, 600.0)), LONGER), now=NOW, lease=LEASE) is None


def test_room_names_the_longest(ledger: Ledger) -> None:
    """Where several windows are full, of whichever counter, the one that has room last is named."""
    judge(ledger, 1, judged(1, FULL, LONGER))
    assert ledger.room((FULL, LONGER, counter()), now=NOW, lease=LEASE) == (NOW + 600, "per_sender 1/10m")


@pytest.mark.parametrize("row", CLOCKS, ids=lambda row: row.id)
def test_room_whatever_the_clock(row: Clock, ledger: Ledger, tmp_path: Path) -> None:
    """With a clock that was set back or forward room says what a claim would, and does not write what a claim would."""
    for n in (1, 2):
        judge(ledger, n, judged(n, counter()), now=NOW + n - 1)
    said = [ledger.room((counter(),), now=row.now, lease=LEASE) for _ in range(2)]
    assert said == [(row.until, "per_key 2/1m") if row.until else None] * 2, row.reason
    asked = claim(ledger, 3, counter(), now=row.now)
    assert (asked.state, asked.until) == (("limited", row.until) if row.until else ("claimed", 0.0))


def test_room_between_near_and_far(ledger: Ledger) -> None:
    """Counts a little ahead are later than now, those far ahead stand for now: each counts in its place."""
    wide = counter("wide", (4, 60.0))
    for n, time in enumerate((NOW - 10, NOW - 5, NOW + 100, NOW + 9_000)):
        judge(ledger, n, judged(n, wide))
        ledger._database.execute("UPDATE counted SET time = ? WHERE delivery = ?", (time, bytes.fromhex(number(n))))
    said = [ledger.room((counter("wide", (n, 60.0)),), now=NOW, lease=LEASE) for n in (1, 2, 3, 4, 5)]
    assert [each and each[0] - NOW for each in said] == [160.0, 60.0, 55.0, 50.0, None]
    assert claim(ledger, 9, wide, now=NOW).until == NOW + 50
    assert [ledger.room((counter("wide", (n, 60.0)),), now=NOW, lease=LEASE) for n in (1, 2, 3, 4, 5)] == said


def test_room_reads_only(ledger: Ledger, tmp_path: Path) -> None:
    """room changes nothing, and waits for no process that writes."""
    judge(ledger, 1, judged(1, counter()), now=NOW + 9_000)
    other = sqlite3.connect(tmp_path / "gatepost.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    before = ledger._database.total_changes
    assert ledger.room((counter("replies k", (1, 60.0)),), now=NOW, lease=LEASE) == (NOW + 60, "per_key 1/1m")
    assert ledger._database.total_changes == before
    assert not ledger._database.in_transaction
    other.execute("ROLLBACK")
    other.close()


def test_room_asks_alike_for_every_key(ledger: Ledger) -> None:
    """An unknown, a quiet, a busy and a full key cost as many statements, and so do no counters as often as they are asked."""
    windows = ((2, 60.0), (3, 600.0))
    for n, subject in enumerate(("quiet", "busy", "busy", "full", "full", "full")):
        judge(ledger, n, judged(n, counter(subject, *windows)), now=NOW + 61 * n)
    asked = {
        subject: traced(ledger, lambda subject=subject: ledger.room((counter(subject, *windows),), now=NOW + 400, lease=LEASE))  # type: ignore[misc]
        for subject in ("unknown", "quiet", "busy", "full")
    }
    assert {len(statements) for statements in asked.values()} == {4}
    assert len(traced(ledger, lambda: ledger.room((), now=NOW, lease=LEASE))) == 3


# Many processes, and processes killed


@pytest.mark.parametrize("round_", range(3))
def test_exactly_fifty(round_: int, tmp_path: Path) -> None:
    """Of 80 deliveries in messages of two that 20 processes judge at once, exactly 50 pass, and no message loses its token."""
    Ledger.open(str(tmp_path)).close()
    fifty = counter("k", (50, 60.0))

    def bring(n: int) -> int:
        ledger = Ledger.open(str(tmp_path))
        passed = 0
        for m in range(2):
            pair = [4 * n + 2 * m, 4 * n + 2 * m + 1]
            limited = judge(ledger, pair[0], *(judged(each, fifty) for each in pair), now=NOW + (n * 7 + m) % 5)
            assert (ledger.recorded(token(pair[0])) is None) == (len(limited) == 2)
            passed += 2 - len(limited)
        return passed

    answers = together(bring, 20)
    assert sum(passed * processes for passed, processes in answers.items()) == 50
    assert contents(tmp_path)[:2] == (50, 50)


def test_killed_at_random(tmp_path: Path) -> None:
    """Processes killed between any two instructions of judge: of each message all is there (rows, counts, token) or nothing."""
    dice = random.Random(0)
    Ledger.open(str(tmp_path)).close()
    each_message = 4

    def work(round_: int, tell: int) -> int:
        ledger = Ledger.open(str(tmp_path))
        os.write(tell, b".")
        for n in range(round_ * 8, round_ * 8 + 8):
            deliveries = (judged(n * each_message + m, counter(f"{n}"), counter(f"{n} {m}")) for m in range(each_message))
            judge(ledger, n, *deliveries)
            os.write(tell, b".")
        return 0

    told = 0
    for round_ in range(150):
        hear, tell = os.pipe()
        pid = child(functools.partial(work, round_, tell))
        os.close(tell)
        for _ in range(dice.randrange(1, 9)):
            os.read(hear, 1)
        for _ in range(dice.randrange(12_000)):
            pass
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) in (0, -9)
        said = b""
        while more := os.read(hear, 100):
            said += more
        os.close(hear)
        told += len(said)
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        tokens = {int(each[0].hex(), 16) for each in connection.execute("SELECT token FROM token")}
        rows = [int(each[0].hex(), 16) for each in connection.execute("SELECT id FROM delivery")]
        counts = [int(each[0].hex(), 16) for each in connection.execute("SELECT delivery FROM counted")]
    connection.close()
    assert 150 < len(tokens) < 150 * 8
    passed = [n * each_message + m for n in tokens for m in (0, 1)]
    assert sorted(rows) == sorted(passed)
    assert sorted(counts) == sorted(passed * 2)


# A store of the version before

#: What version 2 added to VERSION_1, as it was released.
VERSION_2 = (
    "ALTER TABLE delivery ADD COLUMN passed INTEGER NOT NULL DEFAULT 1",
    """CREATE TABLE counted (
        counter BLOB NOT NULL,
        time REAL NOT NULL,
        delivery BLOB NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (counter, time, delivery)
    ) WITHOUT ROWID""",
    "CREATE INDEX counted_until ON counted (until)",
)


def version_2(folder: Path) -> None:
    """A store of version 2: one delivery done, one that waits in the queue, one limited; a hundred, and their counts, beside."""
    with sqlite3.connect(folder / "gatepost.sqlite") as connection:
        for statement in (*VERSION_1, *VERSION_2):
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES (?, ?, 0)", ("ab" * 16, b"k" * 32))
        rows = [(1, "done", "", "accepted", 1), (2, "open", "early", "", 1), (3, "open", "", "", 0)]
        rows += [(n, "open", "early", "", 1) for n in range(100, 200)]
        for n, state, judgement, outcome, passed in rows:
            connection.execute(
                "INSERT INTO delivery VALUES (?, 'Q', ?, ?, 2, 1, ?, 0, ?, ?, ?, x'00', x'00', ?)",
                (bytes.fromhex(number(n)), NOW - DAY, NOW, passed, state, judgement, outcome, passed),
            )
            connection.execute("INSERT INTO counted VALUES (?, ?, ?, ?)", (b"c" * 16, NOW, bytes.fromhex(number(n)), NOW + 60))
        connection.execute("PRAGMA user_version=2")
        connection.commit()
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    (folder / "gatepost.sqlite").chmod(0o600)
    (folder / "host-id").write_text("ab" * 16 + "\n")


def test_migration(tmp_path: Path) -> None:
    """A store of version 2 is brought up to date with its rows and counts, and takes judged messages."""
    version_2(tmp_path)
    ledger = Ledger.open(str(tmp_path))
    assert contents(tmp_path) == (103, 103, 0)
    assert judge(ledger, 1, judged(1), judged(2), judged(3), judged(4)) == ()
    assert [claim(ledger, n).state for n in (1, 2, 3, 4)] == ["done", "claimed", "claimed", "claimed"]
    assert [row and row.judgement for row in map(ledger.look, map(number, (1, 2, 3, 4)))] == ["", "early", "pipe", "milter"]
    assert ledger.recorded(token(1)) is not None
    ledger.close()
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(database._MIGRATIONS),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_the_version_before_refuses(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gatepost that knows only version 2 does not touch a store of version 3."""
    judge(ledger, 1, judged(1))
    monkeypatch.setattr(database, "_MIGRATIONS", database._MIGRATIONS[:2])
    with pytest.raises(StoreError, match=r"written by a newer gatepost \(schema 3, this one knows 2\)"):
        Ledger.open(str(tmp_path))


def test_released_versions_do_not_change() -> None:
    """What a store of version 2 has is what version 2 says: a change there would reach no store that exists."""

    def plain(statements: tuple[str, ...]) -> list[str]:
        return [" ".join(each.split()) for each in statements]

    assert plain(database._MIGRATIONS[1]) == plain(VERSION_2)


# When the file, the folder or the disk fails

Ask = Callable[[Ledger], object]
#: Everything that is asked before the queue.
ASKS: dict[str, Ask] = {
    "judge": lambda ledger: judge(ledger, 7, judged(7, counter())),
    "room": lambda ledger: ledger.room((counter(),), now=NOW, lease=LEASE),
    "room-without-counters": lambda ledger: ledger.room((), now=NOW, lease=LEASE),
    "recorded": lambda ledger: ledger.recorded(token(7)),
}


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Path:
    """A store that was there yesterday, with a few hundred rows."""
    (tmp_path / "store").mkdir(mode=0o700)
    ledger = Ledger.open(str(tmp_path / "store"))
    judge(ledger, 1, *(judged(n, counter(f"{n}")) for n in range(1_000, 1_300)))
    ledger.close()
    return tmp_path / "store"


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_damaged_under_an_open_ledger(ask: Ask, store: Path) -> None:
    """A database that something wrote over while it was open is a StoreError, whatever is asked, and never an answer."""
    ledger = Ledger.open(str(store))

    def write_over() -> str:
        (store / "gatepost.sqlite").write_bytes(os.urandom((store / "gatepost.sqlite").stat().st_size))
        (store / "gatepost.sqlite-shm").write_bytes(bytes(32_768))  # else the ledger would trust the pages that it has read
        return "written"

    assert in_child(write_over) == "written"
    with pytest.raises(StoreError, match=str(store)):
        ask(ledger)
    ledger.close()


def test_judge_locked(store: Path) -> None:
    """A lock that another process holds for longer than the patience is a StoreError, and nothing is written."""
    ledger = Ledger.open(str(store), busy_timeout=0.05)
    other = sqlite3.connect(store / "gatepost.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"locked.*fuser"):
        ASKS["judge"](ledger)
    other.execute("ROLLBACK")
    other.close()
    assert ledger.recorded(token(7)) is None
    assert ASKS["judge"](ledger) == ()
    ledger.close()


@pytest.mark.parametrize("limit", [0, 1_000, 4_096, 30_000, 36_000, 41_000, 45_000])
def test_judge_on_a_full_disk(limit: int, store: Path) -> None:
    """When the disk is full judge is a StoreError at some point; each message before it is whole, that one is not there."""

    def fill() -> str:
        small_disk(limit)
        ledger = Ledger.open(str(store))
        for n in range(2, 200):
            judge(ledger, n, *(judged(n * 10_000 + m, counter(f"{n} {m}"), judgement="j" * 300) for m in range(3)))
        return "all judged"

    answer = in_child(fill)
    assert answer.startswith("StoreError"), answer
    ledger = Ledger.open(str(store))
    judged_ones = {n for n in range(2, 200) if ledger.recorded(token(n)) is not None}
    assert judged_ones == set(range(2, 2 + len(judged_ones)))
    for n in range(2, 200):
        assert [ledger.look(number(n * 10_000 + m)) is not None for m in range(3)] == [n in judged_ones] * 3
    ledger.close()


def test_judge_read_only(store: Path) -> None:
    """A store that can only be read, as on a disk that the kernel made read-only, is a StoreError for judge, not for room."""
    ledger = Ledger.open(str(store))
    ledger._database.execute("PRAGMA query_only=1")
    with pytest.raises(StoreError, match="SQLITE_READONLY"):
        ASKS["judge"](ledger)
    assert ASKS["room"](ledger) is None
    ledger._database.execute("PRAGMA query_only=0")
    assert ASKS["judge"](ledger) == ()
    ledger.close()
