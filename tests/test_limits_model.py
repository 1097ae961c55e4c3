"""Limits against a plain model: any order of arrivals, retries, ends and clocks gives what a list and a loop would give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.stores import ledger as stores_ledger
from gatepost.stores.ledger import Judged, Ledger
from gatepost.stores.limits import Counter

START = 100_000.0
LEASE = 20.0

#: So small that every window fills within a few steps.
COUNTERS = (
    Counter(name="per_key", subject="k", windows=((2, 10.0), (3, 60.0))),
    Counter(name="per_key", subject="other", windows=((2, 10.0), (3, 60.0))),
    Counter(name="per_sender", subject="k", windows=((3, 30.0),)),
    Counter(name="per_route", subject="replies", windows=((4, 10.0), (5, 15.0), (9, 120.0))),
)


class Step(NamedTuple):
    #: "judge": a message with this delivery and the next, before the queue.
    what: Literal["claim", "release", "finish", "judge"]
    delivery: int
    #: Seconds that the clock goes on before this step; below 0: it is set back.
    later: int
    counters: frozenset[int]


class Model:
    """What the ledger promises, without hashes, indexes, transactions or pruning."""

    def __init__(self) -> None:
        self.first_seen: dict[int, float] = {}
        self.attempts: dict[int, int] = {}
        self.judgement: dict[int, str] = {}  # of what has passed
        self.lease: dict[int, float] = {}
        self.done: set[int] = set()
        self.counts: dict[int, list[float]] = {n: [] for n in range(len(COUNTERS))}

    def claim(self, delivery: int, now: float, judgement: str, counters: frozenset[int]) -> tuple[str, str, float, float]:
        seen = min(self.first_seen.get(delivery, now), now)
        if delivery in self.done:
            return "done", "", 0.0, seen
        if delivery in self.judgement and now < self.lease[delivery] <= now + 2 * LEASE:
            return "busy", "", self.lease[delivery], seen
        self.first_seen[delivery] = seen
        self.attempts[delivery] = self.attempts.get(delivery, 0) + 1
        if delivery not in self.judgement:
            full = self.full(counters, now)
            if full:
                return "limited", full[1], full[0], seen
            for n in counters:
                self.counts[n].append(now)
            self.judgement[delivery] = judgement
        self.lease[delivery] = now + LEASE
        return "claimed", self.judgement[delivery], 0.0, seen

    def judge(self, deliveries: tuple[int, ...], now: float, judgement: str, counters: frozenset[int]) -> list[int]:
        """Those that are limited."""
        limited = []
        for delivery in deliveries:
            if delivery in self.first_seen:
                continue
            if self.full(counters, now):
                limited.append(delivery)
                continue
            for n in counters:
                self.counts[n].append(now)
            self.first_seen[delivery], self.attempts[delivery], self.lease[delivery] = now, 0, 0.0
            self.judgement[delivery] = judgement
        return limited

    def room(self, counters: frozenset[int], now: float) -> tuple[float, str] | None:
        """What `full` says, with nothing moved."""
        before = {n: list(times) for n, times in self.counts.items()}
        answer = self.full(counters, now)
        self.counts = before
        return answer

    def full(self, counters: frozenset[int], now: float) -> tuple[float, str] | None:
        full = []
        for n in counters:
            self.counts[n] = [now if time > now + LEASE else time for time in self.counts[n]]
            for count, seconds in COUNTERS[n].windows:
                inside = sorted(time for time in self.counts[n] if time > now - seconds)
                if len(inside) >= count:
                    full.append((inside[-count] + seconds, COUNTERS[n].limit((count, seconds))))
        return max(full, default=None)


@pytest.fixture(name="ledger", scope="module")
def _ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger.open(str(tmp_path_factory.mktemp("store")))
    ledger._database.execute("PRAGMA synchronous=OFF")  # no power cuts here, and thousands of transactions
    yield ledger
    ledger.close()


def run(ledger: Ledger, steps: list[Step]) -> list[tuple[float, frozenset[int]]]:
    """Takes ledger and model through the steps, compares every answer, and returns when what passed."""
    ledger._database.execute("DELETE FROM delivery")
    ledger._database.execute("DELETE FROM counted")
    ledger._database.execute("DELETE FROM token")
    model, now, fences, passed = Model(), START, dict.fromkeys(range(12), 0), []
    for number, step in enumerate(steps):
        now += step.later
        id_ = f"{step.delivery:064x}"
        counters = tuple(COUNTERS[n] for n in sorted(step.counters))
        assert ledger.room(counters, now=now, lease=LEASE) == model.room(step.counters, now)
        if step.what == "claim":
            passing = step.delivery not in model.judgement
            expected = model.claim(step.delivery, now, str(number), step.counters)
            claim = ledger.claim(
                id_, now=now, lease=LEASE, judgement=str(number), queue_id="Q", sender="", recipient="",
                counters=counters,
            )  # fmt: skip
            assert (claim.state, claim.limit or claim.judgement, claim.until, claim.first_seen) == expected
            assert claim.attempts == model.attempts[step.delivery]
            fences[step.delivery] = claim.fence or fences[step.delivery]
            if passing and claim.state == "claimed":
                passed.append((now, step.counters))
        elif step.what == "judge":
            pair = (step.delivery, (step.delivery + 1) % 12)
            new = [each for each in pair if each not in model.first_seen]
            limited = ledger.judge(
                tuple(Judged(id=f"{each:064x}", recipient="", judgement=str(number), counters=counters) for each in pair),
                token=f"{number:032x}", queue_id="Q", sender="", binding=b"", now=now, lease=LEASE,
            )  # fmt: skip
            expected_limited = model.judge(pair, now, str(number), step.counters)
            assert [int(each.id, 16) for each in limited] == expected_limited
            assert (ledger.recorded(f"{number:032x}") is None) == (len(limited) == 2)
            passed += [(now, step.counters)] * (len(new) - len(limited))
        elif step.what == "release":
            held = model.lease.get(step.delivery, 0.0) > 0 and step.delivery not in model.done
            assert ledger.release(id_, fences[step.delivery]) == held
            if held:
                model.lease[step.delivery] = 0.0
        else:
            claimed = step.delivery in model.judgement and fences[step.delivery] > 0
            assert ledger.finish(id_, fences[step.delivery], outcome="x", now=now) == claimed
            if claimed:
                model.done.add(step.delivery)
    return passed


def steps(clock: st.SearchStrategy[int]) -> st.SearchStrategy[list[Step]]:
    whats = st.sampled_from(("claim", "claim", "claim", "judge", "judge", "release", "finish"))
    chosen = st.frozensets(st.integers(0, len(COUNTERS) - 1))
    return st.lists(st.builds(Step, whats, st.integers(0, 11), clock, chosen), max_size=60)


@settings(max_examples=150, deadline=None)
@given(steps=steps(st.sampled_from((0, 0, 0, 1, 1, 2, 5, 10, 11, 30, 61, 121))))
def test_as_the_model_and_never_too_many(ledger: Ledger, steps: list[Step]) -> None:
    """Every answer is the model's, though old counts are deleted on the way; and no window anywhere ever holds too many."""
    passed = run(ledger, steps)
    for n, counter in enumerate(COUNTERS):
        times = [time for time, counters in passed if n in counters]
        for count, seconds in counter.windows:
            for end in times:
                assert sum(end - seconds < time <= end for time in times) <= count


@settings(max_examples=150, deadline=None)
@given(steps=steps(st.sampled_from((0, 0, 1, 2, 5, 10, 61, 1_000, -1, -5, -15, -20, -21, -40, -300, -50_000))))
def test_as_the_model_whatever_the_clock_does(ledger: Ledger, steps: list[Step]) -> None:
    """The same with a clock that is set forward and back. Nothing is deleted here: what a clock that ran ahead has

    deleted is not there when it is set back, which the model does not know.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores_ledger, "_PRUNE_COUNTS", 0)
        run(ledger, steps)
