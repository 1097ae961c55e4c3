"""One of the warm process's workers: takes clients from the socket, a thread for each, and ends what takes too long.

Promises: only root, our own user and the configured peers are heard. A message that is not answered at timing.deadline is
deferred, whatever its thread hangs in. A client for whom there is no thread waits for one. Told to end, it takes no more
clients, finishes what is in flight (FINISH seconds at most), defers the rest and is gone; so it does when the process that
started it is gone.
Never: has more threads than it has room for messages, and as many again, and one for each webhook (`sinks.kept`); starts
a process but by the command sink.
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import socket
import struct
import sys
import threading
import time

from gatepost import log
from gatepost.daemon import memory
from gatepost.daemon.room import Room
from gatepost.sinks import open_circuits
from gatepost_filter.lmtp_connection import Connection, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from gatepost.daemon.current import Current
    from gatepost.settings import LmtpSettings
    from gatepost_filter.lmtp_connection import Engine

__all__ = ["FINISH", "PULSE", "Worker"]

#: Seconds for messages in flight when the process is told to end. systemd waits 90 (TimeoutStopSec).
FINISH: Final = 20.0
#: Seconds between two signs of life, and two looks at the clock.
PULSE: Final = 0.5
#: Seconds without a look at the socket when descriptors or threads are used up: others may end meanwhile.
_SHORT: Final = 0.5
#: Seconds that a client without a thread waits for one: as long as a message waits for room. A 421 in place of the greeting
#: counts against all of us: with as many in a row as it brings at once, Postfix stops bringing any for minimal_backoff_time.
_PATIENCE: Final = 10.0
#: Seconds between two lines about the same trouble.
_QUIET: Final = 10.0
_UCRED: Final = struct.Struct("3i")  # socket(7): pid, uid, gid


class Worker:
    """A process of its own, from here on; `lifeline` ends where the process that started it does."""

    def __init__(self, current: Current[Engine], lmtp: LmtpSettings, listener: socket.socket, lifeline: socket.socket) -> None:
        self._current, self._listener, self._lifeline = current, listener, lifeline
        share = -(-lmtp.max_messages // lmtp.workers)
        octets = -(-lmtp.max_bytes // lmtp.workers)
        self._shared = Shared(current=current, messages=Room(share), octets=Room(octets), most_octets=octets)
        #: Clients that wait for room, or are between two messages (Postfix keeps connections for 2 s), come on top.
        self._most = 2 * share
        self._connections: dict[Connection, float] = {}
        self._changing = threading.Lock()
        #: A client that has no thread yet; while there is one, no other is taken.
        self._without_thread: tuple[Connection, socket.socket, float] | None = None
        self._not_before = 0.0
        self._told: dict[str, float] = {}

    def run(self) -> NoReturn:
        """To the end of the process."""
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        os.set_blocking(ear, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        memory.give_back()
        open_circuits.clear(self._current.settings.store)
        self._listener.setblocking(False)
        self._lifeline.setblocking(False)
        while not self._turn(ear):
            pass
        self._finish()

    def _turn(self, ear: int) -> bool:
        """Waits for a client, a signal, or the next look at the clock; whether the end has come."""
        self._pulse()
        look = select.poll()
        look.register(ear, select.POLLIN)
        look.register(self._lifeline, select.POLLIN)
        self._look_for_a_thread()
        if not self._without_thread and len(self._connections) < self._most and time.monotonic() >= self._not_before:
            look.register(self._listener, select.POLLIN)
        events = dict(look.poll(PULSE * 1000))
        if self._lifeline.fileno() in events:  # nothing is ever sent to us: it is the end
            return True
        if ear in events:
            signals = os.read(ear, 64)
            if signal.SIGTERM in signals or signal.SIGINT in signals:
                return True
            if signal.SIGHUP in signals:
                self._current.look(again=True)
        if self._listener.fileno() in events:
            self._accept()
        self._current.retry()
        self._watch()
        return False

    def _pulse(self) -> None:
        try:
            self._lifeline.send(b".")
        except OSError:  # full: whoever reads it is slow; broken: the next turn sees it
            return

    def _watch(self) -> None:
        """Ends what is past its time."""
        now = time.monotonic()
        with self._changing:
            late = [each for each in self._connections if (ends := each.ends) is not None and ends < now]
        for connection in late:
            connection.give_up("deadline")

    # -- clients

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:  # another worker was faster
            return
        except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM (accept(2)); the client waits in the queue
            self._trouble(f"accept: {error.strerror}")
            return
        if not self._may(sock):
            return
        connection, now = Connection(sock, self._shared), time.monotonic()
        with self._changing:
            self._connections[connection] = now
        self._without_thread = connection, sock, now + _PATIENCE
        self._look_for_a_thread()

    def _look_for_a_thread(self) -> None:
        """One for the client that has none, if there is one to be had."""
        now = time.monotonic()
        if self._without_thread is None or now < self._not_before:
            return
        connection, sock, until = self._without_thread
        try:
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except RuntimeError as error:  # can't start new thread: RLIMIT_NPROC, TasksMax, no memory
            self._trouble(str(error))
            if now < until:
                return
            self._forget(connection)
            connection.give_up("overloaded", farewell="421 4.3.2 Overloaded, come back later")
            sock.close()
        self._without_thread = None

    def _may(self, sock: socket.socket) -> bool:
        """Whether this client may deliver; one that may not is told so, for the time being."""
        _, user, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        lmtp = self._current.settings.lmtp
        if user in (0, os.geteuid()) or user in _numbers(lmtp.peers if lmtp is not None else ()):
            return True
        self._tell(f"user {user} may not deliver: lmtp.peers does not name it")
        try:
            sock.settimeout(_SHORT)
            sock.sendall(b"421 4.7.0 You may not deliver here\r\n")
        except OSError:
            pass
        finally:
            sock.close()
        return False

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._changing:
            self._connections.pop(connection, None)

    def _trouble(self, what: str) -> None:
        """Somebody must end before another can begin."""
        self._not_before = time.monotonic() + _SHORT
        self._tell(what)

    def _tell(self, what: str) -> None:
        """A line of the process, not the same one all the time."""
        now = time.monotonic()
        if now - self._told.get(what, -_QUIET) < _QUIET:
            return
        self._told = {what: now}
        line = log.line("lmtp", state="trouble", detail=what)
        log.write(line, log.destination(self._current.settings), error=True)

    # -- the end

    def _finish(self) -> NoReturn:
        try:
            self._listener.close()
            until = time.monotonic() + FINISH
            while time.monotonic() < until and self._busy():
                self._pulse()
                time.sleep(0.02)
            with self._changing:
                left = list(self._connections)
            for connection in left:
                connection.give_up("interrupted")
            command = sys.modules.get("gatepost.sinks.command")
            if command is not None:  # a program that it has started must not go on without us
                command.end_running()
        finally:
            os._exit(0)

    def _busy(self) -> bool:
        """Lets go of the clients that are between two messages; whether any message is in flight."""
        with self._changing:
            idle = [each for each in self._connections if each.ends is None]
            busy = len(self._connections) > len(idle)
        for connection in idle:
            connection.give_up("interrupted")
        self._watch()
        return busy


def _numbers(names: tuple[str, ...]) -> set[int]:
    """The users' numbers; a name that this host does not have is nobody's."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return found
