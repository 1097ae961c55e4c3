"""Messages straight to the warm process's socket, as Postfix brings them, so many at once.

Promises: each client has one connection, which is kept, and one message in flight; every message has a queue ID of its own,
in the long form; every reply is read, and one that is not as wanted ends the load with an error.
Never: has a process or a thread for a client; does more for a message than write and count lines, for it shares the machine
with what is measured.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from typing import TYPE_CHECKING, Final

from demo.postfix_instance import PostfixError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["load", "queue_id", "replies"]

#: Seconds for one reply; timing.deadline is 120.
_PATIENCE: Final = 150.0
#: Lines of the replies to XFORWARD, MAIL, RCPT and DATA.
_ENVELOPE_LINES: Final = 4
_DIGITS: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_NUMBERS: Final = itertools.count()


class _Client:
    """A connection. `wanted`: lines of replies that are still to come; 1: the reply to the message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wanted = 0
        self.rest = b""


def load(path: Path, to: Sequence[str], message: bytes, *, at_once: int, count: int) -> list[float]:
    """Sends `count` messages over `at_once` connections; of each the seconds from MAIL to its reply, in the order of replies.

    `to`: addresses that take turns, each with a sender and a network of its own: limits count by network, and a window of n
    messages is read up to n rows (docs/limits.md). `message`: lines end in CR LF, none begins with a dot.
    PostfixError for a reply that is not the one wanted.
    """
    clients = {client.sock.fileno(): client for client in (_connect(path) for _ in range(at_once))}
    poll = select.epoll()
    began: dict[_Client, float] = {}
    taken: list[float] = []
    content = message + b".\r\n"
    left = iter(range(count))

    def begin(client: _Client) -> None:
        number = next(left, None)
        if number is not None:
            turn = number % len(to)
            began[client] = time.perf_counter()
            client.wanted = _ENVELOPE_LINES + 1
            client.sock.sendall(
                f"XFORWARD ADDR=10.{turn // 256}.{turn % 256}.7 HELO=client.example.net IDENT={queue_id()}\r\n"
                f"MAIL FROM:<person-{turn}@example.org> SIZE={len(message)}\r\nRCPT TO:<{to[turn]}>\r\nDATA\r\n".encode()
            )

    try:
        for client in clients.values():
            poll.register(client.sock, select.EPOLLIN)
            begin(client)
        while len(taken) < count:
            ready = poll.poll(_PATIENCE)
            if not ready:
                raise PostfixError(f"no reply within {_PATIENCE:g} s; {len(taken)} of {count} messages were answered")
            for number, _ in ready:
                client = clients[number]
                before = client.wanted
                _hear(client)
                if before > 1 >= client.wanted:
                    client.sock.sendall(content)
                elif client.wanted == 0:
                    taken.append(time.perf_counter() - began[client])
                    begin(client)
    finally:
        poll.close()
        for client in clients.values():
            client.sock.close()
    return taken


def queue_id() -> str:
    """A new one, as Postfix would make it now (enable_long_queue_ids)."""
    number = next(_NUMBERS)
    return f"{_written(int(time.time()), 6)}{_written(number % 1_000_000, 4)}z{_written(number, 4)}"


def _written(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text


def _connect(path: Path) -> _Client:
    client = _Client(socket.socket(socket.AF_UNIX))
    client.sock.settimeout(_PATIENCE)
    client.sock.connect(str(path))
    client.sock.sendall(b"LHLO mx.example.com\r\n")
    client.wanted = 2
    while client.wanted:
        _hear(client)
    client.sock.settimeout(None)
    return client


def _hear(client: _Client) -> None:
    """What has come; each whole reply is one less that is wanted."""
    said, client.rest = replies(client.sock, client.rest)
    client.wanted -= len(said)


def replies(sock: socket.socket, rest: bytes) -> tuple[list[bytes], bytes]:
    """The last line of each reply that has come, and what there is of the next one; `rest`: what there was of it before.

    PostfixError for a reply that is neither 2xx nor 3xx, and where there is no other end.
    """
    came = sock.recv(65_536)
    if not came:
        raise PostfixError(f"the server has closed a connection: {rest!r}")
    *lines, rest = (rest + came).split(b"\r\n")
    if wrong := [line for line in lines if line[:1] not in (b"2", b"3")]:
        raise PostfixError(wrong[0].decode(errors="replace"))
    return [line for line in lines if line[3:4] == b" "], rest
