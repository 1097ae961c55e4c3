"""What stands between DATA and the lone dot (RFC 5321 4.5.2), taken in pieces of any size.

Promises: the same bytes as the pipe script makes of the same message: dots unstuffed, every line end one CRLF. Only CRLF . CRLF
ends it. Lines may be of any length. Time is in proportion to the data however it is cut; memory is one copy of it and a piece.
Never: looks at what it holds but for line ends and dots; raises for it.
"""

from __future__ import annotations

import io

from gatepost.mail.canonical import crlf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["Content"]

_END: Final = b"\r\n.\r\n"


class Content:
    """One message's content. `size`: octets so far, as they will be."""

    def __init__(self) -> None:
        self._written = io.BytesIO()  # its getvalue() is no copy
        #: The beginning of what may become `_END`. The line end of the DATA command counts: a dot may come first.
        self._held = b"\r\n"
        self._line_end_of_data = 2
        #: CR that may stand before an LF that is still to come.
        self._returns = 0
        self._dropped = False
        self.size = 0

    def feed(self, piece: bytes) -> bytes | None:
        """Takes the next octets. What follows the end of the message, once that has come; None before."""
        data = self._held + piece
        end = data.find(_END)
        if end >= 0:
            rest = data[end + len(_END) :]
            self._unstuff(data[: end + 2])
            return rest
        held = next((length for length in (4, 3, 2, 1) if data.endswith(_END[:length])), 0)
        self._held = data[len(data) - held :]
        self._unstuff(data[: len(data) - held])
        return None

    def drop(self) -> None:
        """Forgets what has come so far, and what is still to come: nobody will ask for it."""
        self._written = io.BytesIO()
        self._dropped = True

    def take(self) -> bytes:
        """The whole content. To be called once, at the end."""
        written, self._written = self._written, io.BytesIO()
        return written.getvalue()

    def _unstuff(self, data: bytes) -> None:
        data = data.replace(b"\r\n.", b"\r\n")
        skip = min(self._line_end_of_data, len(data))
        self._line_end_of_data -= skip
        self._write(data[skip:])

    def _write(self, data: bytes) -> None:
        """Makes line ends canonical. A run of CR at the end waits for what follows it."""
        if self._dropped:
            return
        stripped = data.rstrip(b"\r")
        returns = len(data) - len(stripped)
        if not stripped:
            self._returns += returns
            return
        if self._returns:
            stripped = b"\r" * self._returns + stripped
        self._returns = returns
        if stripped.count(b"\n") != stripped.count(b"\r\n") or b"\r\r\n" in stripped:
            stripped = crlf(stripped)
        self._written.write(stripped)
        self.size += len(stripped)
