"""From Postfix's queue to the app, with a hundred clients at once, on the LMTP rung.

Promises: every client has a connection that is kept, a key and a sender of its own. A message's time begins when the client has
sent its last octet, before Postfix has it on the disk, and ends when the app has all of it: both by the same clock. Two loads:
one at a given rate, which the machine can carry, and one with as many messages under way as there are clients, each of which
sends the next when the app has its last.
Never: leaves out the slow ones: the load ends when the app has every message.
"""

from __future__ import annotations

import re
import select
import socket
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from bench.lmtp_load import replies
from bench.stage import letter
from demo.postfix_instance import LOOPBACK, PostfixError
from gatepost.decision import Envelope
from gatepost.gateway import delivery_id
from gatepost.mail.message import parse
from gatepost.settings import ParserLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Results
    from bench.place import Place

__all__ = ["SESSIONS", "measure", "percentile"]

SESSIONS: Final = 100
#: Of the rate that was measured on this rung, what the given rate is.
SHARE: Final = 0.6
#: Messages of each load. The first do not count: Postfix starts a process for each client and for each delivery then.
MESSAGES: Final = 2_000
_WARM_UP: Final = 300
_OCTETS: Final = 5_000
_PATIENCE: Final = 60.0


class _Client:
    """One SMTP connection, one message at a time. `wanted`: lines of replies that are still to come."""

    def __init__(self, port: int, number: int, to: str) -> None:
        self.sock = socket.create_connection((LOOPBACK, port), timeout=_PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.to = to
        self.rest = b""
        self.sent = 0.0
        for greeting in (b"", b"EHLO client.example.net\r\n"):
            self.sock.sendall(greeting)
            self.wanted = 1
            while self.wanted:
                self.hear()
        self._envelope = f"MAIL FROM:<person-{number}@example.org>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode()
        self._content = letter(to, _OCTETS) + b".\r\n"

    def begin(self) -> None:
        """The envelope of the next message."""
        self.wanted = 4
        self.sock.sendall(self._envelope)

    def hear(self) -> bytes:
        """Reads replies, sends the message when it may; the queue ID once Postfix has the message, else b""."""
        said, self.rest = replies(self.sock, self.rest)
        for line in said:
            self.wanted -= 1
            if line[:3] == b"354":
                self.sock.sendall(self._content)
                self.sent = time.monotonic()
            elif found := re.search(rb"queued as (\w+)", line):
                return found[1]
        return b""


class _Load:
    """All clients, and the app's word of what has come."""

    def __init__(self, place: Place) -> None:
        self._host_id = (place.warm.store / "host-id").read_text().strip()
        self._nothing = parse(b"", ParserLimits())
        self._clients = [
            _Client(place.postfix.port, number, place.to("lmtp-webhook", f"client-{number}")) for number in range(SESSIONS)
        ]
        self._poll = select.epoll()
        self._by_number = {client.sock.fileno(): client for client in self._clients}
        for client in self._clients:
            self._poll.register(client.sock, select.EPOLLIN)
        self._arrivals = socket.create_connection((LOOPBACK, place.app_port), timeout=_PATIENCE)
        self._arrivals.sendall(b"GET /arrivals HTTP/1.1\r\nHost: app\r\n\r\n")
        self._poll.register(self._arrivals, select.EPOLLIN)
        self._told = b""
        #: By delivery id: what Postfix has queued, and what the app has; whichever is first waits for the other.
        self._queued: dict[bytes, tuple[_Client, float]] = {}
        self._arrived: dict[bytes, float] = {}

    def close(self) -> None:
        self._poll.close()
        for sock in (self._arrivals, *(client.sock for client in self._clients)):
            sock.close()

    def run(self, count: int, *, rate: float = 0.0) -> tuple[list[float], float]:
        """Seconds of each message, and messages a second. `rate`: messages a second; 0: each client waits for the app."""
        free = deque(self._clients)
        began = due = time.monotonic()
        started, taken = 0, list[float]()
        while len(taken) < count:
            now = time.monotonic()
            while free and started < count and due <= now:
                free.popleft().begin()
                started += 1
                due += 1 / rate if rate else 0.0
            waits = max(0.0, due - time.monotonic()) if free and started < count else _PATIENCE
            ready = self._poll.poll(waits)
            if not ready and waits == _PATIENCE:
                raise PostfixError(f"{len(taken)} of {count} messages came to the app; none in the last {_PATIENCE:g} s")
            for number, _ in ready:
                if number == self._arrivals.fileno():
                    self._hear_of_arrivals()
                elif queue_id := self._by_number[number].hear():
                    client = self._by_number[number]
                    self._queued[self._id(client, queue_id)] = client, client.sent
                    if rate:
                        free.append(client)
            for id_ in self._queued.keys() & self._arrived.keys():
                client, sent = self._queued.pop(id_)
                taken.append(self._arrived.pop(id_) - sent)
                if not rate:
                    free.append(client)
        return taken, count / (time.monotonic() - began)

    def _id(self, client: _Client, queue_id: bytes) -> bytes:
        envelope = Envelope(sender="", recipient=client.to, queue_id=queue_id.decode())
        return delivery_id(self._host_id, envelope, self._nothing).encode()

    def _hear_of_arrivals(self) -> None:
        *lines, self._told = (self._told + self._arrivals.recv(65_536)).split(b"\n")
        for line in lines:
            id_, _, at = line.partition(b" ")
            if len(id_) == 64:
                self._arrived[id_] = float(at)


def measure(place: Place, lmtp_per_second: float, say: Callable[[str], None]) -> Results:
    """Milliseconds, of both loads. `lmtp_per_second`: what this rung was found to carry."""
    place.idle()
    asked = SHARE * lmtp_per_second
    results: Results = {"queue_to_app_sessions": SESSIONS, "queue_to_app_messages": MESSAGES}
    load = _Load(place)
    try:
        load.run(_WARM_UP)
        for name, rate in (("queue_to_app", asked), ("queue_to_app_closed", 0.0)):
            taken, per_second = load.run(MESSAGES, rate=rate)
            results[f"{name}_per_second"] = round(per_second, 1)
            results[f"{name}_median_ms"] = round(statistics.median(taken) * 1e3, 1)
            results[f"{name}_p99_ms"] = round(percentile(taken, 99) * 1e3, 1)
            say(f"  {per_second:.0f}/s: median {results[f'{name}_median_ms']} ms, p99 {results[f'{name}_p99_ms']} ms")
    finally:
        load.close()
    return results


def percentile(values: list[float], percent: int) -> float:
    """The value that so many in a hundred do not exceed (nearest rank)."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]
