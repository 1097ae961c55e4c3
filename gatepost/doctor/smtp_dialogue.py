"""A dialogue with an SMTP server (RFC 5321), as far as the doctor needs one.

Promises: every reply is read whole; all of it ends within `PATIENCE` seconds, TLS included.
Never: sends what it was not told to; retries.
"""

from __future__ import annotations

import socket
import time
from ssl import cert_time_to_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from types import TracebackType
    from typing import Final, Self

__all__ = ["PATIENCE", "Dialogue", "SmtpError"]

#: Seconds for the whole dialogue: postscreen(8) alone waits 6 before it greets.
PATIENCE: Final = 30.0
_LONGEST_REPLY: Final = 65_536


class SmtpError(Exception):
    """There is no dialogue; the text says why."""


class Dialogue:
    """Commands and whole replies (RFC 5321 4.2), as a context manager that closes the connection."""

    def __init__(self, host: str, port: int) -> None:
        """Connects. Raises OSError."""
        self._end = time.monotonic() + PATIENCE
        self._there = socket.create_connection((host, port), timeout=PATIENCE)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._there.close()

    def said(self, command: str) -> str:
        """The last line of the reply; "" as command: the greeting. Raises SmtpError, OSError."""
        return self.lines(command)[-1]

    def lines(self, command: str) -> list[str]:
        """Every line of the reply."""
        if command:
            self._there.sendall(command.encode() + b"\r\n")
        found = []
        while True:
            line = self._line(command)
            found.append(line)
            if line[3:4] != "-":
                return found

    def hello(self, name: str) -> None:
        """The greeting, then EHLO; raises SmtpError where either is no welcome."""
        self.expect("", "220")
        self.expect(f"EHLO {name}", "250")

    def expect(self, command: str, code: str) -> None:
        """Raises SmtpError for a reply whose last line begins otherwise."""
        reply = self.said(command)
        if not reply.startswith(code):
            raise SmtpError(f"{command or 'the greeting'}: {reply}")

    def starttls(self, context: ssl.SSLContext, name: str) -> float:
        """STARTTLS (RFC 3207), for the server of that name: when its certificate ends (Unix seconds).

        Raises SmtpError, and ssl.SSLError for a handshake that fails.
        """
        self.expect("STARTTLS", "220")
        if self._rest:
            raise SmtpError("STARTTLS: the server went on talking before TLS began")
        self._there.settimeout(max(0.1, self._end - time.monotonic()))
        secured = context.wrap_socket(self._there, server_hostname=name)
        self._there = secured
        return float(cert_time_to_seconds(str((secured.getpeercert() or {})["notAfter"])))

    def _line(self, command: str) -> str:
        while True:
            line, found, rest = self._rest.partition(b"\r\n")
            if found:
                self._rest = rest
                return line.decode("ascii", "replace")
            left = self._end - time.monotonic()
            if left <= 0 or len(self._rest) > _LONGEST_REPLY:
                raise SmtpError(f"{command or 'the greeting'}: no reply in {PATIENCE:.0f} s")
            self._there.settimeout(left)
            data = self._there.recv(4_096)
            if not data:
                raise SmtpError(f"{command or 'the greeting'}: the connection ended")
            self._rest += data
