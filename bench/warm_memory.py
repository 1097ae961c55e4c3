"""Memory of the warm process: half-way through many messages and after them, and what one large message costs.

Promises: a process that begins anew; every message is the whole job, and comes to the app or the Maildir.
Never: counts what the kernel keeps of its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.lmtp_load import load
from bench.stage import forget_peak, letter, peak, resident
from demo.postfix_instance import PostfixError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Results
    from bench.place import Place, Warm

__all__ = ["MANY", "MANY_FULL", "measure"]

#: Messages of a run, and of one with FULL=1.
MANY: Final = 10_000
MANY_FULL: Final = 100_000
#: Looks at the memory; the one in the middle is compared with the last.
_LOOKS: Final = 4
_KEYS: Final = 1_000
_AT_ONCE: Final = 20
_OCTETS: Final = 5_000
_LARGE_OCTETS: Final = 10_000_000
_NAME: Final = "memory"
_MEGABYTE: Final = 1 << 20


def measure(place: Place, say: Callable[[str], None], *, full: bool) -> Results:
    """Megabytes of all workers after half of the messages and after all, then the peaks of a large message."""
    many = MANY_FULL if full else MANY
    warm = place.serve(_NAME)
    workers = warm.workers
    to = [place.to("lmtp-webhook", f"ticket-{number}") for number in range(_KEYS)]
    message = letter(to[0], _OCTETS)
    had, looks = place.in_app(), list[int]()
    for look in range(1, _LOOKS + 1):
        load(warm.socket, to, message, at_once=_AT_ONCE, count=many // _LOOKS)
        looks.append(sum(map(resident, workers)))
        say(f"  {looks[-1] / _MEGABYTE:.1f} MB after {look * many // _LOOKS} messages")
    came = place.in_app() - had
    if came != many or warm.workers != workers:
        raise PostfixError(f"of {many} messages {came} came to the app; workers {workers} are {warm.workers} now")
    middle, last = looks[_LOOKS // 2 - 1], looks[-1]
    results: Results = {
        "warm_memory_messages": many,
        "warm_memory_half_mb": round(middle / _MEGABYTE, 1),
        "warm_memory_last_mb": round(last / _MEGABYTE, 1),
        "warm_memory_growth_mb": round((last - middle) / _MEGABYTE, 1),
    }
    for sink in ("webhook", "maildir"):
        results[f"large_message_{sink}_times"] = round(_large(place, warm, sink), 2)
    place.end(_NAME)
    return results


def _large(place: Place, warm: Warm, sink: str) -> float:
    """How many times its size a large message costs, above what the worker that takes it had before."""
    to = [place.to(f"lmtp-{sink}", "large")]
    message = letter(to[0], _LARGE_OCTETS)
    for pid in warm.workers:
        forget_peak(pid)
    before = {pid: resident(pid) for pid in warm.workers}
    load(warm.socket, to, message, at_once=1, count=1)
    return max(peak(pid) - before[pid] for pid in before) / len(message)
