"""The warm process: one that opens the socket and watches, and workers that take messages from it (LMTP, RFC 2033).

Promises: a worker that dies is replaced, one that gives no sign of life is killed and replaced; the socket stays open
meanwhile, and who connects waits. After SIGTERM or SIGINT no client is taken, messages in flight are finished or deferred, and
the status is 0; where its socket was removed it ends the same way, with 1. After SIGHUP the configuration is read anew: a valid
one is in force for the next message, a wrong one changes nothing and is told. A worker does not outlive this process.
Never: runs as root; touches a message itself; has a thread (it forks).
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time

from gatepost import log
from gatepost.daemon import endpoint, systemd
from gatepost.daemon.current import Current
from gatepost_filter.lmtp_connection import Engine
from gatepost_filter.lmtp_worker import FINISH, PULSE, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import LmtpSettings

__all__ = ["serve"]

#: Clients that may wait for a worker: every delivery process of a busy Postfix.
_BACKLOG: Final = 512
#: Seconds without a sign of life after which a worker is taken to hang.
_SILENT: Final = 60.0
#: Seconds to wait before a worker that died is replaced: doubled each time, from the first to the last; one that has run for
#: longer than the last begins anew.
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 10.0
#: Seconds beyond FINISH for workers to be gone.
_LAST_WAIT: Final = 5.0
#: What a message may need, imported once, before there are workers.
_NEEDED: Final = (
    "gatepost.ask",
    "gatepost.mail.authentication_results",
    "gatepost.sinks.command",
    "gatepost.sinks.maildir",
    "gatepost.sinks.webhook",
    "gatepost.stamp",
    "gatepost.stores.parked",
)


def serve(config: str) -> int:
    """Runs until a signal ends it; the exit status. Raises GatepostError where it cannot start.

    The configuration must have `lmtp:`, and the process must not be root's.
    """
    current = Current(config, Engine)
    return _Master(current).run()


class _Child:
    """A worker, seen from outside. `lifeline`: our end; it gives signs of life, and tells the worker that we are gone."""

    def __init__(self, pid: int, lifeline: socket.socket) -> None:
        self.pid, self.lifeline = pid, lifeline
        self.born = self.heard = time.monotonic()
        self.ready = False


class _Master:
    def __init__(self, current: Current[Engine]) -> None:
        lmtp = current.settings.lmtp
        assert lmtp is not None  # Engine looked
        self._current, self._lmtp = current, lmtp
        self._endpoint = endpoint.endpoint(lmtp.socket)
        self._children: dict[int, _Child] = {}
        self._wait = _FIRST_WAIT
        self._next_birth = 0.0
        self._ready = False
        current.note = self._configuration

    def run(self) -> int:
        """From listening to the end."""
        ear, mouth = os.pipe()
        os.set_blocking(ear, False)
        os.set_blocking(mouth, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        given = systemd.the_socket()
        listener, ours = (given, None) if given is not None else self._listen()
        for name in _NEEDED:
            importlib.import_module(name)
        log.keep_spare(log.destination(self._current.settings))
        gc.collect()
        gc.freeze()  # what the workers share stays shared
        place = listener.getsockname() or "?"
        self._note("listening", socket=f"unix:{place}", workers=self._lmtp.workers)
        while not (ended := self._turn(ear, listener)) and not self._is_gone(ours):
            pass
        self._end(listener, ours)
        return 0 if ended else 1

    def _listen(self) -> tuple[socket.socket, tuple[int, int] | None]:
        with endpoint.clear(self._endpoint):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o117)
            try:
                listener.bind(self._endpoint.path)
                listener.listen(_BACKLOG)
            except OSError as error:
                raise endpoint.EndpointError(f"{self._endpoint.path}: {error.strerror}") from error
            finally:
                os.umask(before)
            return listener, endpoint.identity(self._endpoint)

    def _is_gone(self, ours: tuple[int, int] | None) -> bool:
        """Whether somebody has removed the socket, or has put his own in its place: nobody would ever find us again."""
        try:
            gone = ours is not None and endpoint.identity(self._endpoint) != ours
        except FileNotFoundError:
            gone = True
        except OSError:  # it may be there, and Postfix may see it
            return False
        if gone:
            self._note("trouble", detail=f"{self._endpoint.path}: is not our socket any more: start anew", error=True)
        return gone

    # -- workers

    def _turn(self, ear: int, listener: socket.socket) -> bool:
        """One look at everything; whether the end has come."""
        if len(self._children) < self._lmtp.workers and time.monotonic() >= self._next_birth:
            self._start_one(ear, listener)
        look = select.poll()
        look.register(ear, select.POLLIN)
        by_number = {child.lifeline.fileno(): child for child in self._children.values()}
        for number in by_number:
            look.register(number, select.POLLIN)
        for number, _ in look.poll(PULSE * 1000):
            if number in by_number:
                self._hear(by_number[number])
            elif (signals := os.read(ear, 64)) and (signal.SIGTERM in signals or signal.SIGINT in signals):
                return True
            elif signal.SIGHUP in signals:
                self._reload()
        self._current.retry()
        self._bury()
        self._look_after()
        return False

    def _start_one(self, ear: int, listener: socket.socket) -> None:
        """Another worker. It has the configuration that is in force here, which is a valid one whatever is on the disk."""
        self._current.look()
        try:
            mine, its = socket.socketpair()
        except OSError as error:  # EMFILE, ENFILE, ENOBUFS: without a worker more, but not without us
            self._later(f"socketpair: {error.strerror}")
            return
        try:
            pid = os.fork()
        except OSError as error:
            mine.close()
            its.close()
            self._later(f"fork: {error.strerror}")
            return
        if pid == 0:
            self._be_a_worker(ear, listener, mine, its)
        its.close()
        mine.setblocking(False)
        self._children[pid] = _Child(pid, mine)

    def _be_a_worker(self, ear: int, listener: socket.socket, mine: socket.socket, its: socket.socket) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(ear)
            for lifeline in (mine, *(child.lifeline for child in self._children.values())):
                lifeline.close()  # else a worker would not see that we are gone while another lives
            Worker(self._current, self._lmtp, listener, its).run()
        except BaseException as error:  # noqa: BLE001
            self._note("worker failed", detail=f"{type(error).__name__}: {error}", error=True)
        finally:
            os._exit(1)

    def _hear(self, child: _Child) -> None:
        try:
            if child.lifeline.recv(4096):
                child.heard, child.ready = time.monotonic(), True
        except OSError:
            return

    def _bury(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            child = self._children.pop(pid)
            child.lifeline.close()
            self._later(f"worker {pid} ended with {os.waitstatus_to_exitcode(status)}", born=child.born)

    def _later(self, what: str, *, born: float = 0.0) -> None:
        """The next worker in a moment; in a longer one each time, while they die young."""
        now = time.monotonic()
        if born and now - born > _LONGEST_WAIT:
            self._wait = _FIRST_WAIT
        self._next_birth = now + self._wait
        self._note("worker", detail=what, error=True)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)

    def _look_after(self) -> None:
        """Kills workers that hang; tells systemd that all is well, where any worker is."""
        now = time.monotonic()
        for child in self._children.values():
            if now - child.heard > _SILENT:
                self._note("worker", detail=f"worker {child.pid} gives no sign of life: killed", error=True)
                child.heard = now
                os.kill(child.pid, signal.SIGKILL)
        if not self._ready and len(self._children) == self._lmtp.workers and all(c.ready for c in self._children.values()):
            self._ready = True
            systemd.tell("READY=1")
        if systemd.watchdog() and any(child.ready for child in self._children.values()):
            systemd.tell("WATCHDOG=1")

    # -- configuration, and the end

    def _reload(self) -> None:
        systemd.tell(systemd.reloading())
        self._current.look(again=True)
        self._signal(signal.SIGHUP)
        systemd.tell("READY=1")

    def _configuration(self, what: str) -> None:
        self._note("configuration", detail=what, error=what != "changed")
        new = self._current.settings.lmtp
        if new is None or what != "changed":
            return
        for name in _only_at_start(self._lmtp, new):
            self._note("configuration", detail=f"lmtp.{name} is {getattr(new, name)} now: restart for that", error=True)

    def _end(self, listener: socket.socket, ours: tuple[int, int] | None) -> None:
        systemd.tell("STOPPING=1")
        endpoint.remove(self._endpoint, ours)
        listener.close()
        self._signal(signal.SIGTERM)
        until = time.monotonic() + FINISH + _LAST_WAIT
        while self._children and time.monotonic() < until:
            time.sleep(0.02)
            for pid in [pid for pid in self._children if os.waitpid(pid, os.WNOHANG)[0]]:
                del self._children[pid]
        killed = len(self._children)
        self._signal(signal.SIGKILL)
        self._note("ended", killed=killed or "", error=killed > 0)
        sys.stdout.flush()

    def _signal(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)

    def _note(self, what: str, *, error: bool = False, **fields: str | int) -> None:
        """A line of the process, where messages have their queue ID: `lmtp: state=listening socket=...`."""
        log.write(log.line("lmtp", state=what, **fields), log.destination(self._current.settings), error=error)


def _only_at_start(old: LmtpSettings, new: LmtpSettings) -> list[str]:
    """What has changed, and is looked at only at the start."""
    return [name for name in ("socket", "workers", "max_messages", "max_bytes") if getattr(old, name) != getattr(new, name)]
