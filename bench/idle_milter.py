"""A pymilter that does nothing: what ours is compared with.

Promises: hears what ours hears (connect to end of message, body and all), and answers each as a pymilter does that overrides
these methods and no more: CONTINUE.
Never: keeps, reads or changes anything.

    python -I idle_milter.py SOCKET
"""

from __future__ import annotations

import os
import sys
from typing import Any

import Milter


class Idle(Milter.Base):  # type: ignore[misc]  # pymilter has no types
    """One connection of the MTA."""

    def connect(self, *_: Any) -> int:
        """A client has connected."""
        return int(Milter.CONTINUE)

    def hello(self, *_: Any) -> int:
        """HELO."""
        return int(Milter.CONTINUE)

    def envfrom(self, *_: Any) -> int:
        """MAIL FROM."""
        return int(Milter.CONTINUE)

    def envrcpt(self, *_: Any) -> int:
        """RCPT TO."""
        return int(Milter.CONTINUE)

    def header(self, *_: Any) -> int:
        """A header field."""
        return int(Milter.CONTINUE)

    def eoh(self) -> int:
        """The end of the head."""
        return int(Milter.CONTINUE)

    def body(self, *_: Any) -> int:
        """A part of the body."""
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        """The end of the message."""
        return int(Milter.CONTINUE)


def main() -> None:
    """Serves until a signal ends it."""
    os.umask(0o117)
    Milter.factory = Idle
    Milter.runmilter("idle", f"unix:{sys.argv[1]}", 0, True)


if __name__ == "__main__":
    main()
