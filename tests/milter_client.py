"""The MTA's side of the milter protocol (sendmail's, version 6), in any order of commands.

Promises: each call waits at most `timeout` seconds; a reply is expected where the milter did not say that it gives none.
Never: hides what the milter answered: an answer is a value, a lost connection a ConnectionError.

Our own, because the tests need what no well-behaved MTA does: an abort in the middle of a body, SMFIC_QUIT_NC, MAIL twice.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ACTIONS = 0x1FF
PROTOCOL = 0x1FFFFF
#: Commands, and the bit by which the milter says that it gives no reply, or does not want it at all (mfdef.h).
CONNECT, HELO, MAIL, RCPT, DATA, HEADER, END_OF_HEADERS, BODY = b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B"
END, ABORT, QUIT, QUIT_NC = b"E", b"A", b"Q", b"K"
NO_REPLY = {CONNECT: 0x1000, HELO: 0x2000, MAIL: 0x4000, RCPT: 0x8000, DATA: 0x10000, HEADER: 0x80, END_OF_HEADERS: 0x40000,
            BODY: 0x80000}  # fmt: skip
NOT_SENT = {CONNECT: 0x1, HELO: 0x2, MAIL: 0x4, RCPT: 0x8, BODY: 0x10, HEADER: 0x20, END_OF_HEADERS: 0x40, DATA: 0x200}
LEADING_SPACE = 0x100000


@dataclass(frozen=True)
class Said:
    """One answer: `code` is the protocol's letter, `text` that of an SMTP reply; what was to be changed before it."""

    code: str
    text: str = ""
    inserted: tuple[tuple[int, str, str], ...] = ()
    removed: tuple[tuple[str, int], ...] = ()
    deleted: tuple[str, ...] = ()


@dataclass
class MilterClient:
    """One connection to a milter. `close` ends it without QUIT."""

    path: Path
    timeout: float = 30.0
    macros: dict[bytes, dict[str, str]] = field(default_factory=dict)
    actions: int = ACTIONS
    offered: int = PROTOCOL

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(self.timeout)
        try:
            self._socket.connect(str(self.path))
            self.send(b"O", struct.pack("!III", 6, self.actions, self.offered))
            letter, data = self.packet()
            if letter != b"O":
                raise ConnectionError(f"negotiation refused: {letter!r}")
        except OSError:
            self.close()
            raise
        self.version, self.asked, self.protocol = struct.unpack("!III", data[:12])
        #: The macros that the milter asks for: stage number and names, by turns.
        self.wanted = data[12:]

    def close(self) -> None:
        """Drops the connection."""
        self._socket.close()

    def send(self, command: bytes, data: bytes = b"") -> None:
        """One packet."""
        self._socket.sendall(struct.pack("!I", len(data) + 1) + command + data)

    def packet(self) -> tuple[bytes, bytes]:
        """The next packet of the milter's."""
        (length,) = struct.unpack("!I", self._exactly(4))
        whole = self._exactly(length)
        return whole[:1], whole[1:]

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise ConnectionResetError("the milter has closed the connection")
            data += part
        return data

    def say(self, command: bytes, data: bytes = b"") -> Said | None:
        """A command with its macros before it, and the answer; None where there is none to be had."""
        if self.protocol & NOT_SENT.get(command, 0):
            return None
        macros = self.macros.get(command)
        if macros is not None:
            packed = b"".join(f"{name}\0{value}\0".encode("utf-8", "surrogateescape") for name, value in macros.items())
            self.send(b"D", command + packed)
        self.send(command, data)
        if command in (ABORT, QUIT, QUIT_NC) or self.protocol & NO_REPLY.get(command, 0):
            return None
        return self._answer()

    def _answer(self) -> Said:
        inserted, removed, deleted = list[tuple[int, str, str]](), list[tuple[str, int]](), list[str]()
        while True:
            letter, data = self.packet()
            if letter == b"i":
                name, value = data[4:].split(b"\0")[:2]
                inserted.append((struct.unpack("!I", data[:4])[0], name.decode(), value.decode()))
            elif letter == b"m":
                name, value = data[4:].split(b"\0")[:2]
                assert value == b"", "no field is given another value"
                removed.append((name.decode(), struct.unpack("!I", data[:4])[0]))
            elif letter == b"-":
                deleted.append(data.rstrip(b"\0").decode())
            else:
                text = data.rstrip(b"\0").decode()
                return Said(letter.decode(), text, tuple(inserted), tuple(removed), tuple(deleted))

    # -- what an MTA says, in short

    def connect(self, address: str = "192.0.2.7", name: str = "mail.example.org", family: bytes = b"4") -> Said | None:
        """A client; `name` "[192.0.2.7]" where it has none. `family`: 4, 6, L (a Unix socket) or U (unknown)."""
        known = "unknown" if name.startswith("[") else name
        self.macros[CONNECT] = {"j": "mx.example.com", "{client_name}": known, "{client_addr}": address}
        rest = b"" if family == b"U" else struct.pack("!H", 4711) + address.encode() + b"\0"
        return self.say(CONNECT, name.encode() + b"\0" + family + rest)

    def helo(self, name: bytes = b"mail.example.org") -> Said | None:
        """EHLO."""
        return self.say(HELO, name + b"\0")

    def mail(self, path: str = "<person@example.org>") -> Said | None:
        """MAIL FROM."""
        self.macros[MAIL] = {"{mail_addr}": path[1:-1].lower()}
        return self.say(MAIL, path.encode("utf-8", "surrogateescape") + b"\0")

    def rcpt(self, address: str, *, queue_id: str = "") -> Said:
        """RCPT TO."""
        self.macros[RCPT] = {"{rcpt_addr}": address.lower(), **({"i": queue_id} if queue_id else {})}
        said = self.say(RCPT, f"<{address}>".encode("utf-8", "surrogateescape") + b"\0")
        assert said is not None
        return said

    def headers(self, *fields: tuple[str, str]) -> None:
        """The head and its end; values with their leading space."""
        for name, value in fields:
            self.say(HEADER, f"{name}\0{value}\0".encode())
        self.say(END_OF_HEADERS)

    def end(self, queue_id: str = "4jWl4Z5tH8zJv6D") -> Said:
        """The end of the message."""
        self.macros[END] = {"i": queue_id}
        said = self.say(END)
        assert said is not None
        return said

    def message(self, *recipients: str, body: bytes = b"Hello.\r\n", queue_id: str = "4jWl4Z5tH8zJv6D") -> Said:
        """A person's whole message; every recipient is expected to be taken."""
        self.mail()
        for recipient in recipients:
            assert self.rcpt(recipient).code == "c"
        self.headers(("From", " person@example.org"), ("Subject", " Hello"))
        self.say(BODY, body)
        return self.end(queue_id)


@contextmanager
def milter_client(path: Path) -> Iterator[MilterClient]:
    """A connection that is past HELO, dropped at the end."""
    client = MilterClient(path)
    try:
        client.connect()
        client.helo()
        yield client
    finally:
        client.close()
