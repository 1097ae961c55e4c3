"""A small LMTP client over a Unix socket: says what it is told, byte for byte, and reads replies."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["QUEUE_ID", "LmtpClient", "Reply", "content", "lmtp_client"]

QUEUE_ID = "4jWl4Z5tH8zJv6D"


@dataclass(frozen=True)
class Reply:
    """One reply: its code, and its lines without it. The text of one line begins with its enhanced status."""

    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.code} {self.lines[-1]}"


def content(data: bytes) -> bytes:
    """A message with LF line ends as Postfix sends it: CRLF, dots stuffed, and the end of data."""
    lines = data.removesuffix(b"\n").split(b"\n")
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


class LmtpClient:
    """A connection. Waits `timeout` seconds at most for anything."""

    def __init__(self, path: Path, *, timeout: float = 30.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self._inbox = b""

    def send(self, data: bytes) -> None:
        """Octets as they are."""
        self.sock.sendall(data)

    def reply(self) -> Reply:
        """The next reply; EOFError where the server has said its last."""
        lines = []
        while True:
            line = self._line()
            assert line[3:4] in (" ", "-"), line
            lines.append(line[4:])
            if line[3] == " ":
                return Reply(int(line[:3]), tuple(lines))

    def replies(self, count: int) -> list[str]:
        """The next ones, as texts."""
        return [str(self.reply()) for _ in range(count)]

    def _line(self) -> str:
        while b"\r\n" not in self._inbox:
            came = self.sock.recv(65_536)
            if not came:
                raise EOFError(self._inbox)
            self._inbox += came
        line, _, self._inbox = self._inbox.partition(b"\r\n")
        return line.decode("ascii")

    def ended(self) -> bool:
        """Whether the server has closed the connection, and said no more before."""
        return self._inbox == b"" and self.sock.recv(1) == b""

    def command(self, line: str) -> Reply:
        """One command and its reply."""
        self.send(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return self.reply()

    def greet(self) -> Reply:
        """The greeting, and LHLO."""
        assert self.reply().code == 220
        return self.command("LHLO mx.example.com")

    def envelope(self, sender: str, recipients: Sequence[str], *, queue_id: str = QUEUE_ID, size: int | None = None,
                 forward: str = "ADDR=192.0.2.7 HELO=mail.example.org") -> list[str]:  # fmt: skip
        """XFORWARD, MAIL, RCPT and DATA in one go, as Postfix sends them; their replies."""
        parameter = "" if size is None else f" SIZE={size}"
        lines = [f"XFORWARD {forward} IDENT={queue_id}", f"MAIL FROM:<{sender}>{parameter}",
                 *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"]  # fmt: skip
        self.send("".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape"))
        return self.replies(len(lines))

    def message(self, sender: str, recipients: Sequence[str], data: bytes, *, queue_id: str = QUEUE_ID,
                size: int | None = None, forward: str = "ADDR=192.0.2.7 HELO=mail.example.org") -> list[str]:  # fmt: skip
        """One message (LF line ends); the reply for each recipient."""
        said = self.envelope(sender, recipients, queue_id=queue_id, size=size, forward=forward)
        assert said[-1].startswith("354 "), said
        self.send(content(data))
        return self.replies(len(recipients))


@contextmanager
def lmtp_client(path: Path, *, greet: bool = True, timeout: float = 30.0) -> Iterator[LmtpClient]:
    """A connection that is closed at the end."""
    client = LmtpClient(path, timeout=timeout)
    try:
        if greet:
            client.greet()
        yield client
    finally:
        client.sock.close()
