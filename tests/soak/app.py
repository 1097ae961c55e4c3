"""The app of the soak: takes webhooks, writes down what it has before it answers, and misbehaves as a file tells it to.

Promises: a message stands in the journal, with the whole of its bytes hashed, before the first octet of the answer; a second
line says that the answer has left. What it does not take is in the journal as not taken.
Never: imports gatepost or the tests: a copy of this file runs alone, as a user who may read neither.

    python -I app.py PORT JOURNAL FAULTS SECRET [FORGETS]

FAULTS holds the names of `FAULTS` that are in force, or slow, one a line; every second request meets one of them. FORGETS: a number n;
each nth message is answered and not kept (the mutant that the soak must notice).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

#: Share of requests that meet a fault, while any is in force.
SHARE: Final = 0.5
#: Seconds that a hanging request is held: longer than any deadline of the soak.
HANG: Final = 20.0
#: Seconds that a slow answer takes, which is a good one: long enough for Postfix to come back and bring the message again.
SLOW: Final = 2.5
PAGE: Final = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form method=post></form></body></html>\n"
#: What the app says of its own will, by the field X-Soak-App of the message: status and body.
WILL: Final = {
    "refuse": (200, b'{"gatepost": "refuse", "text": "This discussion is closed."}'),
    "cannot-take": (422, b'{"error": "no such project"}'),
}


class App(ThreadingHTTPServer):
    """The server, and its journal."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, journal: str, faults: str, secret: str, forgets: int) -> None:
        super().__init__(("127.0.0.1", port), Webhook)
        self.secret = base64.b64decode(secret.removeprefix("whsec_"))
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._faults, self._forgets = faults, forgets
        self._lock = threading.Lock()
        self._count = 0
        self._chance = random.Random()

    def write(self, **fields: object) -> None:
        """A line, whole: in the kernel's hands when this returns, so that kill -9 of this process takes nothing back."""
        os.write(self._journal, json.dumps(fields).encode("ascii") + b"\n")

    def next_count(self) -> int:
        """With the process id it names one request in the journal."""
        with self._lock:
            self._count += 1
            return self._count

    def forgets(self, count: int) -> bool:
        """Whether the mutant forgets this one."""
        return bool(self._forgets) and count % self._forgets == 0

    def fault(self) -> str:
        """What this request meets; "" for nothing."""
        with open(self._faults, encoding="ascii") as file:
            names = file.read().split()
        with self._lock:
            return self._chance.choice(names) if names and self._chance.random() < SHARE else ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Webhook(BaseHTTPRequestHandler):
    """One connection, kept open for further requests."""

    server: App
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length or not self._is_signed(body):
            self.server.write(at=time.time(), how="unsigned" if len(body) == length else "short", took=False)
            self._answer(401, b"bad signature\n")
            return
        facts, will = read(body)
        count, fault = self.server.next_count(), self.server.fault()
        if fault or will or not self.server.forgets(count):
            self.server.write(
                at=time.time(), number=f"{os.getpid()}.{count}", how=fault or will or "ok", stamp=int(self.headers["webhook-timestamp"]),
                took=not will and fault in TAKEN, **facts,
            )  # fmt: skip
        if fault == "slow":
            time.sleep(SLOW)
        elif fault:
            FAULTS[fault](self)
            return
        self._answer(*WILL.get(will, (200, b"ok\n")))
        self.server.write(number=f"{os.getpid()}.{count}", answered=True)

    def _is_signed(self, body: bytes) -> bool:
        """Standard Webhooks 1.0, but for the age of the timestamp: a clock that was set back is one of the troubles."""
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        ours = "v1," + base64.b64encode(hmac.new(self.server.secret, signed, hashlib.sha256).digest()).decode()
        return any(hmac.compare_digest(ours, theirs) for theirs in self.headers["webhook-signature"].split())

    def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind if not body.startswith(b"{") else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The journal says it."""

    # -- faults

    def hang(self) -> None:
        """Has the message, and says nothing."""
        time.sleep(HANG)
        self.close_connection = True

    def cut(self) -> None:
        """Has the message, and is cut off somewhere in its answer; every other time by a reset."""
        whole = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
        self.wfile.write(whole[: random.randrange(len(whole) - 1)])
        if random.random() < 0.5:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def error(self) -> None:
        """A bug, a proxy, maintenance."""
        self._answer(random.choice((500, 502, 503, 504)), b"so it is\n")

    def login(self) -> None:
        """Status 200, and nobody has the message."""
        self._answer(200, PAGE, "text/html; charset=utf-8")


FAULTS: Final[dict[str, Callable[[Webhook], None]]] = {
    each.__name__: each for each in (Webhook.hang, Webhook.cut, Webhook.error, Webhook.login)
}
#: Where the app has the message: no fault, and two of which gatepost cannot know that it has.
TAKEN: Final = ("", "slow", "hang", "cut")


def read(body: bytes) -> tuple[dict[str, object], str]:
    """What the journal says of a request, and what the app is to do with it of its own will.

    `whole`: the message behind its digest's field is what was sent, to the octet (tests/soak/letters.py).
    """
    data = json.loads(body)["data"]
    raw = base64.b64decode(data["raw"], validate=True)
    digest, _, rest = raw.partition(b"X-Soak-Digest: ")[2].partition(b"\r\n")
    will = rest.partition(b"X-Soak-App: ")[2].partition(b"\r\n")[0].decode("ascii") if rest.startswith(b"X-Soak-App: ") else ""
    facts = {
        "id": data["id"],
        "message_id": data["message"]["message_id"],
        "recipient": data["envelope"]["recipient"].lower(),
        "octets": hashlib.sha256(body).hexdigest(),
        "whole": hashlib.sha256(rest).hexdigest().encode() == digest,
    }
    return facts, will


def main() -> None:
    """Serves until it is ended."""
    port, journal, faults, secret, *forgets = sys.argv[1:]
    with App(int(port), journal, faults, secret, int(forgets[0]) if forgets else 0) as app:
        app.serve_forever(poll_interval=5)


if __name__ == "__main__":
    main()
