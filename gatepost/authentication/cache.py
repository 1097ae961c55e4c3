"""DNS answers kept for their time to live, under three bounds: number, octets, time.

Promises: what is past its time is never returned; the least recently used goes first; each operation is constant time; threads
may share one.
Never: keeps a failure; grows past its bounds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.resolver import Answer

__all__ = ["AnswerCache"]

#: Answers kept. A busy host sees a few thousand sending domains an hour, with about five questions each.
ENTRIES: Final = 20_000
#: Octets kept, answers and names. Usual answers have 200, with the objects around them.
OCTETS: Final = 16 * 1024 * 1024
#: What one answer costs besides its text: objects and the dictionary's entry.
OVERHEAD: Final = 600


class AnswerCache:
    """A question (name, type) -> its `Answer`, until a time on the caller's clock."""

    def __init__(self, entries: int = ENTRIES, octets: int = OCTETS) -> None:
        self._entries = entries
        self._octets = octets
        self._held = 0
        self._kept: OrderedDict[tuple[str, str], tuple[float, int, Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def octets(self) -> int:
        """Octets held now, as they are counted."""
        return self._held

    def get(self, question: tuple[str, str], now: float) -> Answer | None:
        """What is kept and still good."""
        with self._lock:
            found = self._kept.get(question)
            if found is None:
                return None
            until, size, answer = found
            if until <= now:
                del self._kept[question]
                self._held -= size
                return None
            self._kept.move_to_end(question)
            return answer

    def put(self, question: tuple[str, str], answer: Answer, until: float) -> None:
        """Keeps an answer; one that is larger than a tenth of all is not kept."""
        size = OVERHEAD + len(question[0]) + answer.octets
        if size > self._octets // 10:
            return
        with self._lock:
            before = self._kept.pop(question, None)
            if before is not None:
                self._held -= before[1]
            self._kept[question] = (until, size, answer)
            self._held += size
            while len(self._kept) > self._entries or self._held > self._octets:
                _, (_, gone, _) = self._kept.popitem(last=False)
                self._held -= gone
