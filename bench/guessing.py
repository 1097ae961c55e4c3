"""How well an unknown, a forged, an expired and a revoked key can be told apart by the time that the refusal takes.

Promises: all four take turns in random order, so that a burst of other work hits all alike; times are taken twice: of
`Dialogue.recipient` in this process, with a real store, and of the answer to RCPT through the milter's socket.
Never: trusts a refusal that names another rule, or that a client could tell from the others by its text.
"""

from __future__ import annotations

import random
import time
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Final

from bench.as_user import as_user
from bench.guesses import KINDS
from gatepost.config import load
from gatepost.decision import Envelope
from gatepost.dialogue import Dialogue
from tests.milter_client import milter_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.doors import Doors
    from bench.figures import Results

__all__ = ["area", "measure", "worst_pair"]

#: Guesses of each kind: then chance alone moves an area of 0.5 by 0.007 (one standard deviation).
GUESSES: Final = 3_000
#: Guesses before those that count: caches fill, and the store is opened.
_WARM_UP: Final = 400
#: RCPT commands after one MAIL.
_RECIPIENTS: Final = 20


def measure(doors: Doors, say: Callable[[str], None]) -> Results:
    """Both ways; of each the pair that is told apart best."""
    results: Results = {"guesses": GUESSES}
    for way, times in (("inside", as_user(partial(_inside, doors))), ("socket", _through_the_socket(doors))):
        medians = {kind: sorted(each)[len(each) // 2] / 1e6 for kind, each in times.items()}
        say(f"  {way}: " + ", ".join(f"{kind} {median:.3f} ms" for kind, median in medians.items()))
        results[f"guess_{way}_area"], results[f"guess_{way}_pair"] = worst_pair(times)
    return results


def _order(doors: Doors) -> Iterator[tuple[str, str, bool]]:
    """Kind, address, does it count?"""
    turns = [kind for kind in KINDS for _ in range(GUESSES)]
    random.shuffle(turns)
    for number, kind in enumerate([*KINDS * (_WARM_UP // 4), *turns]):
        yield kind, random.choice(doors.dead[kind]), number >= _WARM_UP  # noqa: S311  # no secret


def _inside(doors: Doors) -> dict[str, list[int]]:
    """Nanoseconds of each `Dialogue.recipient`."""
    times: dict[str, list[int]] = {kind: [] for kind in KINDS}
    dialogue = Dialogue(load(str(doors.config("ours"))))
    try:
        for kind, to, counts in _order(doors):
            envelope = Envelope(
                sender="person@example.org", recipient=to, original_recipient=to, queue_id="", client_address="192.0.2.1",
                helo="client.example.net",
            )  # fmt: skip
            started = time.perf_counter_ns()
            decision = dialogue.recipient(envelope)
            taken = time.perf_counter_ns() - started
            if decision.rule != f"key-{kind}":
                raise RuntimeError(f"{to} is {kind}, and was answered {decision.rule}")
            if counts:
                times[kind].append(taken)
    finally:
        dialogue.close()
    return times


def _through_the_socket(doors: Doors) -> dict[str, list[int]]:
    """Nanoseconds from RCPT to its answer."""
    times: dict[str, list[int]] = {kind: [] for kind in KINDS}
    texts = set()
    with milter_client(doors.socket("ours")) as client:
        for number, (kind, to, counts) in enumerate(_order(doors)):
            if number % _RECIPIENTS == 0:
                client.mail()
            started = time.perf_counter_ns()
            said = client.rcpt(to)
            taken = time.perf_counter_ns() - started
            texts.add((said.code, said.text))
            if counts:
                times[kind].append(taken)
    if len(texts) != 1 or next(iter(texts))[1][:10] != "550 5.1.1 ":
        raise RuntimeError(f"one refusal was expected for all: {texts}")
    return times


def worst_pair(times: dict[str, list[int]]) -> tuple[float, str]:
    """The area under the ROC curve of the pair that is told apart best, from 0.5 on, and that pair, the slower one first."""
    areas = {}
    for one, other in combinations(times, 2):
        found = area(times[one], times[other])
        areas[f"{one}, {other}" if found >= 0.5 else f"{other}, {one}"] = max(found, 1 - found)
    pair = max(areas, key=areas.__getitem__)
    return round(areas[pair], 4), pair


def area(one: Sequence[int], other: Sequence[int]) -> float:
    """How likely a time of `one` is longer than a time of `other`, a tie counting half: 0.5 is not to be told apart."""
    ranked = sorted([(value, True) for value in one] + [(value, False) for value in other])
    above, below, at = 0.0, 0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        ours = sum(is_one for _, is_one in ranked[at:end])
        others = end - at - ours
        above += ours * (below + others / 2)
        below += others
        at = end
    return above / (len(one) * len(other))
