"""The contract with pipe(8), as far as every run needs it: a whole standard input, one line, an exit status.

Promises: what stands here costs no start-up: it imports what the interpreter has loaded anyway, and `select`.
Never: takes a message for whole whose end may have been cut off; gives a line that is longer than LINE_LIMIT, or two.
"""

import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

__all__ = ["LINE_LIMIT", "STARTED", "TEMPFAIL", "Input", "line_of", "refusal"]

#: The start of the run, time.monotonic() seconds: the first module that the script imports.
STARTED: "Final" = time.monotonic()
#: The most that ever stands on standard output: gatepost.answer.LINE_LIMIT, which is too far to import.
LINE_LIMIT: "Final" = 200
#: sysexits.h: EX_TEMPFAIL, the one status that defers whatever the output says.
TEMPFAIL: "Final" = 75
#: Chunk of standard input. Pipes hold 64 KiB.
_CHUNK: "Final" = 1 << 20


class Input:
    """Standard input, and whether it is the whole message. To be made early: it notes who the parent is.

    `line_to`: the descriptor that pipe(8) reads. `cut_off` is called with what shows that the message is not whole; it does
    not return.
    """

    def __init__(self, line_to: int, cut_off: "Callable[[str], NoReturn]") -> None:
        self.cut_off = cut_off
        #: The message, once `read` has found it whole.
        self.data = b""
        self._line_to = line_to
        self._parent = posix.getppid()

    def read(self) -> None:
        """Everything to the end of file, without the LF that flag `B` adds, into `data`; cut off where it was."""
        chunks = []
        while chunk := posix.read(0, _CHUNK):
            chunks.append(chunk)
        data = b"".join(chunks)
        # pipe(8) ends the last line, then B adds one LF: a whole message ends in two.
        if not data.endswith(b"\n\n"):
            self.cut_off(f"{len(data)} bytes, and no LF of flag B at their end")
        self.check()
        self.data = data[:-1]

    def take(self) -> bytes:
        """The message, read if it was not yet. Once: who has it may let go of it."""
        if not self.data:
            self.read()
        data, self.data = self.data, b""
        return data

    def check(self) -> None:
        """Cut off where pipe(8) has gone: then the end of file was no end of message.

        The reader of our standard output is gone at once (POLLERR); getppid() may change only some milliseconds later.
        """
        reader = select.poll()
        reader.register(self._line_to, 0)
        if reader.poll(0):
            self.cut_off("nobody reads our standard output any more")
        if posix.getppid() != self._parent or self._parent == 1:
            self.cut_off("our parent process is gone")


def line_of(text: str) -> bytes:
    """The one line: printable ASCII, cut to the limit, its LF included."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[: LINE_LIMIT - 1]).encode("ascii") + b"\n"


def refusal(status: str) -> int:
    """The exit status for a refusal with this enhanced status (RFC 3463): sysexits.h's EX_NOUSER, EX_NOPERM, EX_UNAVAILABLE."""
    return {"1": 67, "7": 77}.get(status[2:3], 69)
