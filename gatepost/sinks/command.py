"""The command: starts a program for one message and reads from its exit status whether the program has it.

Promises: the program gets the whole message on standard input, from its first octet to its last, whatever becomes of us; the
facts in an environment that holds nothing else; an empty signal mask, default dispositions, the folder `/`, umask 077, a
session and process group of its own, no descriptor but the standard three. "delivered" only for exit status 0 before its time
is over. It has ended by the deadline, its process group with it, unless the kernel refuses; no zombie stays. Of what it says, a
few hundred octets are kept, however much it says.
Never: a shell; a word of the message or its envelope in the arguments; waits for an end of file (a child that the program
leaves behind may hold its output); raises for what the program does.

`os.posix_spawn` and not `subprocess`: that costs 8 ms of import, and a `fork` with Python code in the child may lock up where
another thread runs (the pipe script has its watch). Standard input is a file in memory and not a pipe: one that we feed would
end early, and look whole, if we were killed half-way; and a program that reads none of it cannot block us.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import time

from gatepost.sinks.delivery import DETAIL_LIMIT, TEXT_LIMIT, Outcome, one_line

try:
    import _signal as signal  # `signal` itself brings enum, functools and collections: 4 ms
except ImportError:
    import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.settings import Sink
    from gatepost.sinks.delivery import Delivery, OutcomeKind

__all__ = ["deliver", "end_running", "environment"]

#: What a program gets beside the facts. The usual places, and a character set in which mail can be printed.
_BASE: Final = {b"PATH": b"/usr/local/bin:/usr/bin:/bin", b"LANG": b"C.UTF-8"}
#: Octets of one fact. An address has at most 320 (RFC 5321 4.5.3.1), a Message-ID 998 (RFC 5322 2.1.1); Linux takes 131,072.
_VALUE_LIMIT: Final = 4_096

#: Seconds from SIGTERM to SIGKILL, and from SIGKILL to the deadline (to record what came of it); of a short time, a share.
_GRACE: Final = 2.0
_RESERVE: Final = 1.0
_SHARE: Final = 4
#: Octets kept of the beginning of each output, and of its end (a traceback's last line says most).
_KEPT: Final = 400
#: Characters of each of these two that the log gets.
_SHOWN: Final = 150
#: A pipe holds 64 KiB.
_CHUNK: Final = 65_536
#: Seconds between two looks at the program where the kernel gives no descriptor for it (before Linux 5.3).
_LOOK_EVERY: Final = 0.05
#: The largest time that poll(2) takes, in milliseconds.
_LONGEST: Final = 2**31 - 1

#: sysexits.h: EX_DATAERR, EX_NOUSER, EX_NOPERM.
_REFUSED: Final = (65, 67, 77)
#: Statuses that say a person must mend something: EX_CONFIG, and what a shell and env(1) use.
_MISCONFIGURED: Final = {
    78: "it says that its own set-up is wrong (EX_CONFIG)",
    126: "what it calls is not executable",
    127: "what it calls is missing",
}
#: Why a program cannot be started, where a person must mend it; the rest passes.
_MENDS: Final = {
    errno.ENOENT: "there is no such file: mend the sink's command",
    errno.ENOTDIR: "there is no such file: mend the sink's command",
    errno.EACCES: "let the user that gatepost runs as reach and execute it (chmod +x)",
    errno.EPERM: "let the user that gatepost runs as execute it",
    errno.ENOEXEC: "it is no program for this machine, and no script that names its interpreter in the first line (#!)",
    errno.ELIBBAD: "its interpreter is damaged or of another machine",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "choose a shorter path for it",
    errno.E2BIG: "its arguments are too long",
}


def deliver(sink: Sink, delivery: Delivery, *, deadline: float, now: Callable[[], float]) -> Outcome:  # noqa: ARG001
    """One attempt. `deadline`: time.monotonic() seconds. `now` is not asked: nothing here bears the time of the attempt."""
    started = time.monotonic()
    left = deadline - started
    if left <= 0:
        return _outcome("unavailable", "not started: the deadline had passed")
    if not sink.argv or not sink.argv[0].startswith("/") or any("\0" in word for word in sink.argv):
        return _outcome("misconfigured", "its command is no list that begins with an absolute path: run gatepost config check")
    reserve, grace = min(_RESERVE, left / _SHARE), min(_GRACE, left / _SHARE)
    _reap_left_behind()
    program = _Program()
    try:
        try:
            program.start(sink.argv, environment(delivery), delivery.message.raw.replace(b"\r\n", b"\n"))
        except OSError as error:
            return _not_started(sink.argv[0], error)
        if program.follow(deadline - reserve - grace):
            return _judge(program)
        took = time.monotonic() - started
        program.signal(signal.SIGTERM)
        ended = program.follow(deadline - reserve)
        program.signal(signal.SIGKILL)  # on the whole group, also where the program itself has obeyed
        ended = ended or program.follow(deadline - reserve / 2)
        stays = "" if ended else "; it cannot be ended from here and may still run"
        late = f"still running after {took:.1f} s, which is all there was{stays}"
        return _outcome("unavailable", late, program.words()).replace(gone=late)
    finally:
        program.close()


def end_running() -> None:
    """For a process that is about to exit at once: kills what runs, and lets nothing be started any more.

    May be called on any thread. Without it a program would go on, while Postfix may already bring the message again.
    """
    if not _lock.acquire(timeout=1.0):
        return
    for pid in _running:
        _kill(pid, signal.SIGKILL)


# -- the environment


def environment(delivery: Delivery) -> dict[bytes, bytes]:
    """All of the program's environment. Every name is there for every message, empty where there is nothing to say.

    U+FFFD stands for each control character (NUL and line ends are such) and each octet that was not UTF-8. A value of more
    than 4,096 octets is left empty, since part of an address is another address; GATEPOST_TOO_LONG names it.
    """
    made = dict(_BASE)
    too_long = []
    for name, text in _facts(delivery):
        value = _clean(text[: _VALUE_LIMIT + 1])
        if len(value) > _VALUE_LIMIT:
            too_long.append(name)
            value = b""
        made[name.encode("ascii")] = value
    made[b"GATEPOST_TOO_LONG"] = " ".join(too_long).encode("ascii")
    return made


def _facts(delivery: Delivery) -> tuple[tuple[str, str], ...]:
    envelope, decision = delivery.envelope, delivery.decision
    key, thread = decision.key, decision.thread
    return (
        ("GATEPOST_ID", delivery.id),
        ("GATEPOST_ROUTE", delivery.route),
        ("GATEPOST_RECEIVED_AT", str(delivery.received_at)),
        ("GATEPOST_KEY", key.raw if key else ""),
        ("GATEPOST_KEY_SUBJECT", key.subject if key else ""),
        ("GATEPOST_KEY_OPTIONS", " ".join(key.options) if key else ""),
        ("GATEPOST_SENDER", envelope.sender),
        ("GATEPOST_SENDER_VERIFIED", delivery.sender_verified),
        ("GATEPOST_SENDER_VERIFIED_BY", delivery.sender_verified_by),
        ("GATEPOST_RECIPIENT", envelope.recipient),
        ("GATEPOST_ORIGINAL_RECIPIENT", envelope.original_recipient),
        ("GATEPOST_CLIENT_ADDRESS", envelope.client_address),
        ("GATEPOST_HELO", envelope.helo),
        ("GATEPOST_QUEUE_ID", envelope.queue_id),
        ("GATEPOST_THREAD_FOUND_IN", thread.found_in if thread else ""),
        ("GATEPOST_THREAD_PARENT_MESSAGE_ID", thread.parent_message_id if thread else ""),
        ("GATEPOST_FINDINGS", " ".join(dict.fromkeys(each.slug for each in decision.findings))),
        ("GATEPOST_SHA256", delivery.sha256),
    )


def _clean(text: str) -> bytes:
    """UTF-8 that an environment can hold and a line can show."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(["\ufffd" if _is_odd(char) else char for char in text])
    return text.encode("utf-8")


def _is_odd(char: str) -> bool:
    """A control character (C0, DEL, C1) or a lone surrogate (PEP 383)."""
    return char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"


# -- what came of it


def _judge(program: _Program) -> Outcome:
    """What the program's end means: the table of docs/command.md."""
    if program.status is None:
        return _outcome("unavailable", program.how_it_ended, program.words())
    status, shown = program.status, f"status {program.status}"
    if status == 0:
        return _outcome("delivered", shown, program.words())
    if status in _REFUSED:
        code, text = _coded(program.out.first())
        if code.startswith("4."):  # pipe(8) defers for it, whatever the status
            return _outcome("unavailable", f"{shown}, but its output says later", program.words())
        refusal = _outcome("refused", f"{shown}, refused", program.words())
        return refusal.replace(text=one_line(text, TEXT_LIMIT)) if code else refusal
    if status in _MISCONFIGURED:
        return _outcome("misconfigured", f"{shown}: {_MISCONFIGURED[status]}", program.words())
    return _outcome("unavailable", shown, program.words())


def _coded(line: str) -> tuple[str, str]:
    """Enhanced status code (RFC 3463 2) and text of a line such as pipe(8) reads; ("", line) where it begins with none."""
    code, _, text = line.partition(" ")
    parts = code.split(".")
    numbers = all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts)
    return (code, text) if numbers and len(parts) == 3 and parts[0] in ("4", "5") else ("", line)


def _not_started(path: str, error: OSError) -> Outcome:
    """Whether a person must mend it, and how."""
    mend = _MENDS.get(error.errno or 0, "")
    if error.errno == errno.ENOENT and os.path.exists(path):
        mend = "the interpreter that it needs (its first line, #!) is not there"
    elif error.errno == errno.EACCES and os.path.isdir(path):
        mend = "it is a folder: mend the sink's command"
    kind: OutcomeKind = "misconfigured" if mend else "unavailable"
    shown = one_line(path, _SHOWN)
    return _outcome(kind, f"{shown} could not be started: {error.strerror or error}{': ' + mend if mend else ''}")


def _outcome(kind: OutcomeKind, detail: str, words: str = "") -> Outcome:
    return Outcome(kind=kind, detail=one_line(f"{detail}{': ' + words if words else ''}", DETAIL_LIMIT))


class _Output:
    """The beginning and the end of what a program says on one stream."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._whole = True

    def take(self, octets: bytes) -> None:
        """Keeps what there is room for; memory does not grow with what is said."""
        room = _KEPT - len(self._head)
        self._head += octets[:room]
        rest = octets[room:]
        self._whole = self._whole and len(self._tail) + len(rest) <= _KEPT
        self._tail = (self._tail + rest[-_KEPT:])[-_KEPT:]

    def _lines(self) -> list[str]:
        """Those that are kept and not blank."""
        kept = self._head + (b"" if self._whole else b"\n") + self._tail
        return [line.strip() for line in kept.decode("utf-8", "replace").split("\n") if line.strip()]

    def first(self) -> str:
        """The first line; "" where nothing was said."""
        return next(iter(self._lines()), "")

    def words(self) -> str:
        """First line and last, for the log."""
        lines = self._lines()
        ends = lines[:1] + lines[-1:] if len(lines) > 1 else lines
        return " ... ".join([one_line(line, _SHOWN) for line in ends])


# -- the process

#: Held while a program is started or reaped: `_running` is what runs, and umask and folder are the whole process's.
_lock: Final = _thread.allocate_lock()
_running: Final[set[int]] = set()
#: Programs that did not end when they were killed (another user's, or in the kernel): reaped by a later call.
_left_behind: Final[set[int]] = set()


class _Program:
    """One run of a program. `status`: its exit status, None where it did not exit by itself or still runs."""

    def __init__(self) -> None:
        self.out, self.err = _Output(), _Output()
        self.status: int | None = None
        self.how_it_ended = ""
        self._ended = False
        self._pid = 0
        self._ear = -1  # readable when the process has ended
        self._poll = select.poll()
        self._outputs: dict[int, _Output] = {}

    def start(self, argv: tuple[str, ...], facts: dict[bytes, bytes], message: bytes) -> None:
        """Raises OSError where it cannot be started; `close` must be called in any case."""
        os.stat(argv[0])  # a file system that does not answer holds us here, where other threads run, and not in the spawn
        theirs = [_file_of(message)]
        try:
            for output in (self.out, self.err):
                ours, end = os.pipe()
                theirs.append(end)
                self._outputs[ours] = output
                os.set_blocking(ours, False)
                self._poll.register(ours, select.POLLIN)
            self._pid = _spawn(argv, facts, theirs)
        finally:
            for each in theirs:
                os.close(each)
        try:
            self._ear = os.pidfd_open(self._pid)
            self._poll.register(self._ear, select.POLLIN)
        except (OSError, AttributeError):  # an older kernel, a sandbox, a Python built for one
            self._ear = -1

    def follow(self, until: float) -> bool:
        """Takes what the program says until it has ended; False where the time `until` comes first."""
        while not self._look():
            left = until - time.monotonic()
            if left <= 0:
                return False
            wait = left if self._ear >= 0 else min(left, _LOOK_EVERY)
            for descriptor, _ in self._poll.poll(min(wait * 1000 + 1, _LONGEST)):
                self._take(descriptor)
        for descriptor in list(self._outputs):  # its last words; a child that it left may go on, and nobody waits for that one
            self._take(descriptor)
        return True

    def _look(self) -> bool:
        """Has it ended, and how? It is not reaped yet, so that its number, and its group's, stay its own."""
        if self._ended:
            return True
        try:
            end = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else reaped it: an ignored SIGCHLD makes the kernel do so
            self._ended, self.how_it_ended = True, "its exit status is lost (does whoever started us ignore SIGCHLD?)"
            self._forget()  # the number may be another's by now
            return True
        if end is None:
            return False
        self._ended = True
        if end.si_code == os.CLD_EXITED:
            self.status = end.si_status
        else:
            self.how_it_ended = f"ended by signal {end.si_status} ({signal.strsignal(end.si_status) or 'unknown'})"
        return True

    def _take(self, descriptor: int) -> None:
        if descriptor not in self._outputs:
            return
        try:
            octets = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        if octets:
            self._outputs[descriptor].take(octets)
        else:
            self._poll.unregister(descriptor)
            del self._outputs[descriptor]
            os.close(descriptor)

    def signal(self, number: int) -> None:
        """Sends a signal to the program and all of its group."""
        _kill(self._pid, number)

    def words(self) -> str:
        """What the log gets of its output: standard error, or else standard output."""
        return self.err.words() or self.out.words()

    def close(self) -> None:
        """Ends what still runs, but for what a program that exited by itself left in the background; reaps it."""
        for descriptor in (*self._outputs, *([self._ear] if self._ear >= 0 else [])):
            os.close(descriptor)
        self._outputs, self._ear = {}, -1
        if not self._pid:
            return
        if self.status is None:
            _kill(self._pid, signal.SIGKILL)
        self._forget()

    def _forget(self) -> None:
        with _lock:
            _running.discard(self._pid)
            if not _reaped(self._pid):
                _left_behind.add(self._pid)
        self._pid = 0


def _file_of(message: bytes) -> int:
    """A descriptor from which the message can be read: memory, or where there is none a file in /tmp without a name."""
    try:
        descriptor = os.memfd_create("gatepost-message")
    except (OSError, AttributeError):  # a sandbox, vm.memfd_noexec=2, a Python built for an older kernel
        descriptor = os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)  # noqa: S108 - it has no name there
    try:
        rest = memoryview(message)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _spawn(argv: tuple[str, ...], facts: dict[bytes, bytes], streams: list[int]) -> int:
    """Starts the program with `streams` as its standard three; its process id. posix_spawn knows no folder and no umask, so

    the process has the program's for that moment.
    """
    actions = [(os.POSIX_SPAWN_DUP2, each, number) for number, each in enumerate(streams)]
    actions += [(os.POSIX_SPAWN_CLOSE, each) for each in _strays()]  # type: ignore[misc]  # a tuple of two is as good
    words = [word.encode("utf-8", "surrogateescape") for word in argv]
    with _lock:
        here = _here()
        mask = os.umask(0o077)
        try:
            os.chdir("/")
            pid = os.posix_spawn(
                words[0], words, facts, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_settable_signals()
            )
            _running.add(pid)
        finally:
            os.umask(mask)
            _go_back(here)
    return pid


def _here() -> int:
    """The folder we are in; -1 where we may not enter it again. Raises OSError where we are short of descriptors."""
    try:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (PermissionError, FileNotFoundError):
        return -1


def _go_back(here: int) -> None:
    if here < 0:
        return
    try:
        os.fchdir(here)
    except OSError:  # then we stay in `/`: nothing of ours is named from where we stand
        return
    finally:
        os.close(here)


def _strays() -> list[int]:
    """Descriptors that a program would inherit beside the standard three: none of ours, but perhaps of who started us."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(3, 256))
    return [number for number in numbers if number > 2 and _is_inheritable(number)]


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # not open, or not any more
        return False


def _settable_signals() -> list[int]:
    """All that have a disposition. Python ignores SIGPIPE and SIGXFSZ, and who started us may ignore others."""
    return [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]


def _kill(group: int, number: int) -> None:
    if not group:  # to kill(2) that is our own
        return
    try:
        os.killpg(group, number)
    except OSError:  # all gone, or another user's (sudo)
        return


def _reaped(pid: int) -> bool:
    """Whether a child is gone; one that has just been killed may take a moment, and a later call reaps it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _reap_left_behind() -> None:
    with _lock:
        _left_behind.difference_update([pid for pid in _left_behind if _reaped(pid)])
