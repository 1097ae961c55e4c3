"""The person behind postmaster@ and abuse@: takes the mail that leaves the private Postfix, and keeps it as files.

Promises: each message becomes one file NNNN.eml, whole when it has that name, with its envelope in two fields in front.
Never: sends anything on; listens elsewhere than on loopback.

    python -m demo.person PORT FOLDER
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from demo.postfix_instance import MailRecorder, Recorded

__all__ = ["PersonsMailbox", "main"]


class PersonsMailbox(MailRecorder):
    """A recorder that writes down what it takes before it says 250."""

    def __init__(self, port: int, folder: Path) -> None:
        self._folder = folder
        super().__init__(port)

    def record(self, message: Recorded) -> None:
        """Keeps one message as a file."""
        super().record(message)
        envelope = f"Return-Path: <{message.sender}>\r\nDelivered-To: {', '.join(message.recipients)}\r\n"
        name = self._folder / f"{len(self.messages):04}.eml"
        part = name.with_suffix(".part")
        part.write_bytes(envelope.encode("utf-8", "replace") + message.data)
        part.rename(name)


def main() -> None:
    """Takes mail until it is ended."""
    port, folder = sys.argv[1:]
    PersonsMailbox(int(port), Path(folder))
    signal.pause()


if __name__ == "__main__":
    main()
