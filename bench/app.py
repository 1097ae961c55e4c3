"""The app of the benchmark: takes a webhook, answers 204, and counts.

Promises: answers only once it has the whole body; one process, one request at a time, so that it takes little of the machine
that it shares with what is measured.
Never: checks a signature or parses the message (what an app does with its mail is not what is measured); writes to a disk;
listens on anything but 127.0.0.1.

    python -I app.py PORT-FILE      the file appears, whole, once it listens; GET /count answers how many it took
"""

from __future__ import annotations

import os
import socket
import sys

#: Octets taken at once.
_CHUNK = 1 << 16
#: Seconds that one read may take: a client that stalls does not stop the benchmark.
_PATIENCE = 10.0


def serve(listener: socket.socket) -> None:
    """For ever."""
    taken = 0
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_PATIENCE)
            try:
                head = _request(connection)
                if head.startswith(b"POST "):
                    taken += 1
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                elif head:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n%10d" % taken)
            except OSError:
                continue


def _request(connection: socket.socket) -> bytes:
    """The head of one request, once its body is here too; b"" where the client left before that."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if not (some := connection.recv(_CHUNK)):
            return b""
        data += some
    head, missing = data[:end], 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            missing = int(line[15:]) - (len(data) - end - 4)
    while missing > 0:
        if not (some := connection.recv(_CHUNK)):
            return b""
        missing -= len(some)
    return head


def main() -> None:
    """Listens, says where, serves."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        part = sys.argv[1] + ".part"
        with open(part, "w", encoding="ascii") as file:
            file.write(str(listener.getsockname()[1]))
        os.rename(part, sys.argv[1])
        serve(listener)


if __name__ == "__main__":
    main()
