"""A connection that one deadline holds from the first address to the last byte, in both directions at once.

Promises: every wait is for what remains of the deadline, so that a peer that sends, or takes, an octet a second gains nothing;
what the peer says while we still send is taken (RFC 9112 9.3: an early refusal). TLS 1.2 or later, certificate and host name
checked, over the same loop.
Never: imports `socket` or, without TLS, `ssl` (5 and 11 ms of each run of the pipe script, measured); raises anything but
`WireError` for what the peer, the network or the CA file does.
"""

from __future__ import annotations

import _socket
import _thread
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Literal

    WireKind = Literal["misconfigured", "unavailable"]

__all__ = ["EndedError", "TooLongError", "Wire", "WireError", "open_wire"]

#: Octets handed to the kernel, or taken from it, at once: one turn of the loop stays short.
_CHUNK: Final = 65_536
_TAKE: Final = select.POLLIN
_GIVE: Final = select.POLLOUT


class WireError(Exception):
    """No answer, and why. `kind` is that of the outcome: misconfigured where a person must mend the set-up.

    `gone`: nobody is there, or nobody answers in time: another request would fare no better now.
    """

    def __init__(self, kind: WireKind, detail: str, *, gone: bool = False) -> None:
        super().__init__(detail)
        self.kind: WireKind = kind
        self.gone = gone


class EndedError(WireError):
    """The peer ended the connection before it had said all."""

    def __init__(self, detail: str, *, gone: bool = False) -> None:
        super().__init__("unavailable", detail, gone=gone)


class TooLongError(WireError):
    """The peer says more than anybody reads."""

    def __init__(self, detail: str) -> None:
        super().__init__("unavailable", detail)


def open_wire(host: str, port: int, *, secure: bool, ca_file: str = "", deadline: float) -> Wire:
    """A connection to the first address of `host` that answers. `deadline`: time.monotonic() seconds. Raises WireError.

    `ca_file`: PEM; "" means the system's. The context is made first: a CA file that cannot be read costs no connection.
    """
    if not secure:
        return Wire(_connect(host, port, deadline), deadline)
    from gatepost.sinks import wire_tls

    context = wire_tls.client_context(ca_file)
    wire = wire_tls.TlsWire(_connect(host, port, deadline), deadline)
    try:
        wire.shake_hands(context, host)
    except BaseException:
        wire.close()
        raise
    return wire


def _left(deadline: float, doing: str) -> float:
    """Seconds that remain; WireError where none do."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise WireError("unavailable", f"the deadline passed while {doing}", gone=True)
    return left


def _addresses(host: str, port: int, deadline: float) -> list[Any]:
    """What getaddrinfo says. It knows no time limit, so a name is looked up in a thread that may be left behind."""
    name = host.encode("ascii")  # bytes: for a str, getaddrinfo loads the idna codec
    left = _left(deadline, f"looking up {host}")
    try:
        return _socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except _socket.gaierror:
        pass
    found: list[Any] = []
    done = _thread.allocate_lock()
    done.acquire()

    def look_up() -> None:
        try:
            found.extend(_socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - told to the thread that waits
            found.append(error)
        finally:
            done.release()

    try:
        _thread.start_new_thread(look_up, ())
    except RuntimeError as error:  # no thread to be had: our own limits, and they pass
        raise WireError("unavailable", f"looking up {host}: {error}") from error
    if not done.acquire(timeout=left):
        raise WireError("unavailable", f"the deadline passed while looking up {host}", gone=True)
    if not found or isinstance(found[0], Exception):
        raise WireError("unavailable", f"looking up {host}: {found[0] if found else 'no address'}", gone=True)
    return found


def _connect(host: str, port: int, deadline: float) -> _socket.socket:
    """A connected socket that never blocks. Each address gets its share of the time, so that a silent one leaves some."""
    addresses = _addresses(host, port, deadline)
    faults: list[str] = []
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        share = _left(deadline, f"connecting to {host}:{port}{_because(faults)}") / (len(addresses) - tried)
        try:
            sock = _socket.socket(family, kind, protocol)
        except OSError as error:  # a family that this host does not have
            faults.append(f"{address[0]}: {error.strerror or error}")
            continue
        try:
            sock.settimeout(share)
            sock.connect(address)
            sock.setblocking(False)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            faults.append(f"{address[0]}: {error.strerror or error}")
        except BaseException:
            sock.close()
            raise
    raise WireError("unavailable", f"connecting to {host}:{port}{_because(faults)}", gone=True)


def _because(faults: list[str]) -> str:
    return f" ({'; '.join(faults)})" if faults else ""


class Wire:
    """A plain connection. `inbox`: what the peer said and nobody has read yet. `ended`: it will say no more.

    `heard`: whether it has said anything since somebody set that to False. `gave_all`: the kernel has taken everything that was
    queued, whatever came then.
    """

    def __init__(self, sock: _socket.socket, deadline: float) -> None:
        self.inbox = bytearray()
        self.ended = self.heard = False
        self.gave_all = True
        self.deadline = deadline
        self.doing = "waiting for the app"
        self._sock = sock
        self._outgoing: list[memoryview] = []
        self._broken = False
        self._poll = select.poll()

    def close(self) -> None:
        """Ends the connection at once; safe to call twice."""
        self._sock.close()

    def give(self, *parts: bytes) -> None:
        """Queues what is to be sent; `turn` sends it. What is small goes as one: each part costs a system call and a packet."""
        if sum(map(len, parts)) <= _CHUNK:
            parts = (b"".join(parts),)
        self._outgoing.extend(memoryview(part) for part in parts if part)
        self.gave_all = False

    @property
    def quiet(self) -> bool:
        """Whether everything was given, everything was read, and the peer has neither said more nor ended the connection."""
        if self.inbox or self.ended or self._pending():
            return False
        self._poll.register(self._sock.fileno(), _TAKE)
        return not self._poll.poll(0)

    def more(self) -> None:
        """One turn; EndedError where the peer will say no more."""
        if self.ended:
            raise EndedError("the connection ended before the answer was whole")
        self.turn()

    def turn(self) -> None:
        """Waits until the peer speaks or takes something, then takes what it says, or else gives what it takes.

        Not both: what it said before our last octet went out was said before `gave_all`.
        """
        events = self._wait(_TAKE | _GIVE if self._pending() else _TAKE)
        if events & ~_GIVE:
            self._take_some()
        else:
            self._give_some()
            self.gave_all = not (self._broken or self._outgoing or self._pending())

    def line(self, limit: int) -> bytes:
        """The next line without its end (CR LF, or LF alone: RFC 9112 2.2); TooLongError past `limit` octets."""
        seen = 0
        while (end := self.inbox.find(b"\n", seen)) < 0:
            seen = len(self.inbox)
            if seen > limit:
                break
            self.more()
        if end > limit or end < 0:
            raise TooLongError("a line of the answer's head is too long")
        line = bytes(self.inbox[:end])
        del self.inbox[: end + 1]
        return line.removesuffix(b"\r")

    def exactly(self, count: int) -> bytes:
        """The next `count` octets."""
        while len(self.inbox) < count:
            self.more()
        octets = bytes(self.inbox[:count])
        del self.inbox[:count]
        return octets

    def _wait(self, events: int) -> int:
        left = _left(self.deadline, self.doing)
        self._poll.register(self._sock.fileno(), events)
        for _, happened in self._poll.poll(min(left * 1000 + 1, 2**31 - 1)):
            return happened
        raise WireError("unavailable", f"the deadline passed while {self.doing}", gone=True)

    def _pending(self) -> bool:
        return bool(self._outgoing)

    def _give_some(self) -> None:
        first = self._outgoing[0]
        taken = self._send(first[:_CHUNK])
        if taken == len(first):
            self._outgoing.pop(0)
        elif taken:
            self._outgoing[0] = first[taken:]

    def _send(self, octets: memoryview | bytes) -> int:
        """What the kernel took. A peer that no longer listens may still have said why, so that is no error yet."""
        try:
            return self._sock.send(octets, _socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._broken = True
            self._outgoing.clear()
            return 0

    def _receive(self) -> bytes | None:
        """What came; b"" at the end; None for nothing yet."""
        try:
            return self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise EndedError(f"the connection broke while {self.doing}: {error.strerror or error}") from error

    def _take_some(self) -> None:
        came = self._receive()
        if came:
            self.inbox += came
            self.heard = True
        elif came is not None:
            self.ended = True
