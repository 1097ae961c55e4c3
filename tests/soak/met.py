"""What each trouble has met so far, by what those said whom it struck: it is read while the soak runs.

Promises: a trouble that came and met nobody counts as none: such a soak proves nothing.
Never: reads a line twice.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Final

from tests.soak.place import Place

__all__ = ["Met"]

#: What our own log, the warm process's standard error or Postfix's log says of it.
_SAID: Final = {
    "worker killed": ("ended with -9",),
    "postfix stopped": ("stopping the Postfix mail system", "aborting the Postfix mail system"),
    "good configuration": ("detail=changed",),
    "bad configuration": ("not changed: ",),
    "app refuses": ("Connection refused",),
    "disk full": ("disk is full", "No space left"),
    "descriptors used up": ("Too many open files",),
}
#: How the app's journal calls it.
_HOW: Final = {"app is slow": "slow", "app hangs": "hang", "app cuts off": "cut", "app errs": "error", "login page": "login"}
#: Seconds by which a request's time stamp is older than the request, where a clock was set back.
_OLD: Final = 2.0


class Met:
    """Counts by the troubles' names. `look` reads on."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._read: Counter[Path] = Counter()
        self.counts: Counter[str] = Counter()

    def look(self) -> Counter[str]:
        """All that is known by now."""
        for text in map(self._new, (self._place.log_file, self._place.server.out, self._place.postfix.log_file)):
            for name, words in _SAID.items():
                self.counts[name] += sum(text.count(word) for word in words)
        for line in self._new(self._place.journal).splitlines():
            request = json.loads(line)
            self.counts.update(name for name, how in _HOW.items() if request.get("how") == how)
            self.counts["clock set back"] += request.get("stamp", request.get("at", 0)) < request.get("at", 0) - _OLD
        self.counts["server killed"] = self._place.server.statuses.count(-signal.SIGKILL)
        return self.counts

    def _new(self, path: Path) -> str:
        """The whole lines that have been added."""
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(self._read[path])
            whole, end, _ = file.read().rpartition(b"\n")
        self._read[path] += len(whole) + len(end)
        return (whole + end).decode(errors="replace")
