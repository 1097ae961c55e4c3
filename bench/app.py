"""The app of the benchmark: takes webhooks, answers 204, counts, and tells when each one came.

Promises: answers only once it has the whole body; HTTP/1.1, connections kept as long as the client likes (RFC 9112 9.3),
any number of them; one process, one thread, which reads into one buffer and looks at nothing but lengths, so that it takes
little of the machine that it shares with what is measured.
Never: checks a signature or parses the message (what an app does with its mail is not what is measured); writes to a disk;
listens on anything but 127.0.0.1; takes a body without a Content-Length.

    python -I app.py PORT-FILE      the file appears, whole, once it listens

    GET /count      how many webhooks it took
    GET /arrivals   a line for each that comes from now on, until the client goes: `webhook-id`, time.monotonic()
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

#: Octets taken at once.
_CHUNK = 1 << 18
#: Octets of a head: more is no request of ours.
_MOST_HEAD = 1 << 16
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
#: Where rt-mailgate posts to, and what it wants to hear.
_MAILGATE = b"/REST/1.0/NoAuth/mail-gateway"
_MAILGATE_TAKEN = _OK % (3, b"ok\n")


class Client:
    """A connection, and how far its request has come."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self.missing = 0
        self.target = b""
        self.keep = True
        self.webhook_id = b""


class App:
    """Everything that came, for all connections."""

    def __init__(self) -> None:
        self._taken = 0
        self._watchers: list[Client] = []
        self._buffer = bytearray(_CHUNK)

    def serve(self, listener: socket.socket) -> None:
        """For ever."""
        poll = select.epoll()
        poll.register(listener, select.EPOLLIN)
        clients: dict[int, Client] = {}
        while True:
            for number, _ in poll.poll():
                if number == listener.fileno():
                    sock, _ = listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[sock.fileno()] = Client(sock)
                    poll.register(sock, select.EPOLLIN)
                    continue
                client = clients[number]
                try:
                    stays = self._read(client)
                except (OSError, ValueError):
                    stays = False
                if not stays:
                    del clients[number]
                    if client in self._watchers:
                        self._watchers.remove(client)
                    client.sock.close()

    def _read(self, client: Client) -> bool:
        """What has come; whether the connection stays. ValueError for what is no request of ours."""
        count = client.sock.recv_into(self._buffer)
        if not count:
            return False
        if client.target:
            client.missing -= count
        else:
            client.head += self._buffer[:count]
            head, end, rest = client.head.partition(b"\r\n\r\n")
            if not end:
                return len(client.head) < _MOST_HEAD
            _begin(client, head)
            client.missing -= len(rest)
        if client.missing > 0:
            return True
        if client.missing < 0:
            raise ValueError("more than one request at once")
        stays = self._answer(client)
        client.head = client.target = b""
        return stays

    def _answer(self, client: Client) -> bool:
        """To a request that is here whole."""
        if client.target == b"GET /arrivals":
            client.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
            self._watchers.append(client)
            return True
        if client.target == b"GET /count":
            client.sock.sendall(_OK % (10, b"%10d" % self._taken))
            return client.keep
        now = time.monotonic()
        self._taken += 1
        client.sock.sendall(_MAILGATE_TAKEN if client.target.endswith(_MAILGATE) else _TAKEN)
        for watcher in self._watchers:
            watcher.sock.sendall(b"%s %.6f\n" % (client.webhook_id, now))
        return client.keep


def _begin(client: Client, head: bytes) -> None:
    """What the head says; ValueError where that is not understood."""
    request, *fields = head.split(b"\r\n")
    method, path, version = request.split(b" ")
    if method not in (b"GET", b"POST"):
        raise ValueError(request)
    client.target = method + b" " + path
    client.keep = version == b"HTTP/1.1"
    client.missing, client.webhook_id = 0, b""
    for field in fields:
        name, _, value = field.partition(b":")
        match name.lower():
            case b"content-length":
                client.missing = int(value)
            case b"connection":
                client.keep = client.keep and b"close" not in value.lower()
            case b"webhook-id":
                client.webhook_id = value.strip()
            case b"transfer-encoding":
                raise ValueError(field)


def main() -> None:
    """Listens, says where, serves."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        part = sys.argv[1] + ".part"
        with open(part, "w", encoding="ascii") as file:
            file.write(str(listener.getsockname()[1]))
        os.rename(part, sys.argv[1])
        App().serve(listener)


if __name__ == "__main__":
    main()
