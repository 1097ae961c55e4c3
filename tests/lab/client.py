"""What a stranger's machine does, run on it: puts mail into its own Postfix, looks for open ports, speaks SMTP badly.

    python3 client.py submit|hand|scan|dialogue|hold|pace     a JSON document on standard input, another on standard output

Promises: standard library only; every connection has a time limit.
Never: connects to anything but what it is told.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import smtplib
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final

#: Seconds that a host may take to answer a connection that it lets in.
_CONNECT: Final = 2.0
_READ: Final = 30.0
#: Connections that are tried at a time.
_AT_ONCE: Final = 960


def submit(jobs: list[tuple[str, list[str], str]]) -> int:
    """Gives messages to the Postfix of this host; the number taken."""
    with smtplib.SMTP("127.0.0.1", 25, local_hostname="localhost", timeout=_READ) as server:
        for sender, recipients, text in jobs:
            server.sendmail(sender, recipients, text.encode("latin-1"))
    return len(jobs)


def hand(job: dict[str, Any]) -> int:
    """Gives messages to the host at that address; the number taken."""
    with smtplib.SMTP(job["address"], 25, local_hostname="sender.example.net", timeout=_READ) as server:
        for sender, recipients, text in job["mails"]:
            server.sendmail(sender, recipients, text.encode("latin-1"))
    return len(job["mails"])


def pace(job: dict[str, Any]) -> dict[str, float]:
    """Gives messages to the Postfix of this host at a rate, each at its time by the clock, until the file `stop` is there.

    Takes `mails` in turn; returns when each was taken (Unix seconds), by its Message-ID.
    """
    start, taken = time.monotonic(), dict[str, float]()
    with smtplib.SMTP("127.0.0.1", 25, local_hostname="localhost", timeout=_READ) as server:
        while len(taken) < job["most"] and not os.path.exists(job["stop"]):
            time.sleep(max(0.0, start + len(taken) / job["rate"] - time.monotonic()))
            message_id = f"<load-{len(taken)}-{job['mark']}@example.net>"
            sender, recipient, text = job["mails"][len(taken) % len(job["mails"])]
            server.sendmail(sender, [recipient], text.replace("{message_id}", message_id).encode("latin-1"))
            taken[message_id] = time.time()
    return taken


def scan(job: dict[str, Any]) -> list[int]:
    """The ports of that address that a connection to was made."""
    family = socket.AF_INET6 if ":" in job["address"] else socket.AF_INET
    found, ports = [], list(job["ports"])
    while ports:
        batch, ports = ports[:_AT_ONCE], ports[_AT_ONCE:]
        found += _scan(family, job["address"], batch)
    return sorted(found)


def _scan(family: int, address: str, ports: list[int]) -> list[int]:
    found = []
    with selectors.DefaultSelector() as selector:
        for port in ports:
            each = socket.socket(family)
            each.setblocking(False)
            if each.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                selector.register(each, selectors.EVENT_WRITE, (port, each))
        end = time.monotonic() + _CONNECT
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(end - time.monotonic()):
                port, each = key.data
                if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    found.append(port)
                selector.unregister(each)
                each.close()
        for key in list(selector.get_map().values()):
            key.data[1].close()
    return found


def hold(job: dict[str, Any]) -> dict[str, float]:
    """Connects so often, one after the other, with `keep` all at once; how many were let in, how many greeted, in how many seconds."""
    start, connected, greeted, held = time.monotonic(), 0, 0, []
    for _ in range(job["times"]):
        each = socket.socket(socket.AF_INET6 if ":" in job["address"] else socket.AF_INET)
        each.settimeout(job["patience"])
        if job.get("source"):
            each.bind((job["source"], 0))
        with suppress(OSError):
            each.connect((job["address"], 25))
            connected += 1
            if each.recv(4)[:3] == b"220":
                greeted += 1
        if job["keep"]:
            held.append(each)
        else:
            each.close()
    for each in held:
        each.close()
    return {"connected": connected, "greeted": greeted, "seconds": time.monotonic() - start}


def dialogue(job: dict[str, Any]) -> list[list[str]]:
    """Sends these pieces (latin-1), reading a reply after each; for each connection its replies."""
    answers = []
    for pieces in job["connections"]:
        replies = []
        with socket.create_connection((job["address"], 25), timeout=_READ) as connection:
            stream = connection.makefile("rb")
            replies.append(_reply(stream))
            for piece in pieces:
                with suppress(OSError):
                    connection.sendall(piece.encode("latin-1"))
                replies.append(_reply(stream))
            with suppress(OSError):  # what else it says until it closes
                connection.sendall(b"QUIT\r\n")
                while (line := _reply(stream)) != "":
                    replies.append(line)
        answers.append(replies)
    return answers


def _reply(stream: Any) -> str:
    lines: list[str] = []
    while True:
        try:
            line = stream.readline(10_000).decode("utf-8", "replace").rstrip("\r\n")
        except OSError:
            line = ""
        if not line:
            return " ".join(lines)
        lines.append(line)
        if line[3:4] != "-":
            return " ".join(lines)


if __name__ == "__main__":
    verbs: dict[str, Any] = {"submit": submit, "scan": scan, "dialogue": dialogue, "hold": hold, "pace": pace, "hand": hand}
    print(json.dumps(verbs[sys.argv[1]](json.load(sys.stdin))))
