"""Limits with many processes at once, and with processes killed at any point (kill -9): counts stay exact."""

from __future__ import annotations

import functools
import os
import random
import signal
import sqlite3
from pathlib import Path

import pytest

from gatepost.settings import USUAL_LIMITS, LimitSettings
from gatepost.stores.ledger import Claim, Ledger
from gatepost.stores.limits import Counter, counters_for
from tests.test_ledger_crash import child, status_of, together

NOW = 1_800_000_000.0
#: Processes at once, and what each of them brings: more than one window takes, less than two.
PROCESSES, EACH = 20, 4
PASS = 50

USUAL = LimitSettings(per_key=USUAL_LIMITS, per_sender=USUAL_LIMITS)


def usual() -> tuple[Counter, ...]:
    """The usual limits, for one key."""
    return counters_for(USUAL, key="k", route="replies", sender="", sender_verified="no", client_address="192.0.2.1")


def ask(ledger: Ledger, n: int, now: float) -> Claim:
    return ledger.claim(
        f"{n:064x}", now=now, lease=180.0, judgement="{}", queue_id="Q", sender="", recipient="", counters=usual()
    )


@pytest.mark.parametrize("round_", range(3))
def test_exactly_fifty_of_eighty(round_: int, tmp_path: Path) -> None:
    """Of 80 messages to one key that 20 processes bring at once, exactly 50 pass in the first minute, the others in the next.

    The processes' clocks are read before they ask, so they are not in the order in which they get in.
    """
    Ledger.open(str(tmp_path)).close()

    def bring(n: int, now: float) -> int:
        ledger = Ledger.open(str(tmp_path))
        claims = [ask(ledger, n * EACH + m, now + (n * 7 + m) % 5) for m in range(EACH)]
        assert {claim.state for claim in claims} <= {"claimed", "limited"}
        for m, claim in enumerate(claims):
            if claim.state == "claimed":
                assert ledger.finish(f"{n * EACH + m:064x}", claim.fence, outcome="x", now=now)
        return sum(claim.state == "claimed" for claim in claims)

    first = together(functools.partial(bring, now=NOW), PROCESSES)
    assert sum(passed * processes for passed, processes in first.items()) == PASS
    ledger = Ledger.open(str(tmp_path))
    states = [ask(ledger, n, NOW + 65).state for n in range(PROCESSES * EACH)]
    assert (states.count("done"), states.count("claimed")) == (PASS, PROCESSES * EACH - PASS)
    ledger.close()


def test_one_delivery_twenty_times_at_once(tmp_path: Path) -> None:
    """Twenty runs of one delivery at once count it once."""
    Ledger.open(str(tmp_path)).close()
    states = ["claimed", "busy"]
    assert together(lambda n: states.index(ask(Ledger.open(str(tmp_path)), 0, NOW + n).state), 20) == {0: 1, 1: 19}
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM counted").fetchone() == (2,)
    connection.close()


def test_killed_at_random(tmp_path: Path) -> None:
    """Processes killed between any two instructions of a claim: what passed is counted once by each counter, the rest not."""
    dice = random.Random(0)
    Ledger.open(str(tmp_path)).close()

    def work(round_: int, tell: int) -> int:
        ledger = Ledger.open(str(tmp_path))
        for n in range(max(0, round_ - 2), round_ + 4):
            ask(ledger, n, NOW + round_ / 10)
            os.write(tell, b".")
        return 0

    for round_ in range(150):
        hear, tell = os.pipe()
        pid = child(functools.partial(work, round_, tell))
        os.close(tell)
        for _ in range(dice.randrange(4)):
            os.read(hear, 1)
        for _ in range(dice.randrange(8_000)):
            pass
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) in (0, -9)
        os.close(hear)
    with sqlite3.connect(tmp_path / "gatepost.sqlite") as connection:
        kept = dict(connection.execute("SELECT id, passed FROM delivery"))
        counts = dict(connection.execute("SELECT delivery, count(*) FROM counted GROUP BY delivery"))
    connection.close()
    assert sum(kept.values()) == PASS < len(kept)
    assert counts == {id_: 2 for id_, passed in kept.items() if passed}
