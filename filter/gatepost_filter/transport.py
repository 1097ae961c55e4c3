"""What the transport script does with one message, once it is sure that nothing can go wrong unheard.

Promises: whatever happens, at most one line of at most 200 bytes on what was standard output, and an exit status that pipe(8)
reads as we mean it: 0 = it is done with; 75 and `4.x.y text` = Postfix keeps the message; another status and `5.x.y text` only
for a rule that has a name and may refuse. It ends by itself at timing.deadline. A message that was cut off (a truncated
standard input is a clean end of file) is deferred.
Never: prints what a library prints, exits by an exception, believes `--size` (a milter's edits do not change it), or lets a
child hold its standard output.

It is not in pipe.py, because Python keeps what it has compiled of a module, but not of a script.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from gatepost_filter.contract import STARTED, TEMPFAIL, Input, line_of, refusal

#: Until the configuration has been read; the same as timing.deadline's default.
DEFAULT_DEADLINE = 120.0
#: Of the deadline, what a sink may use. The rest is for what comes after an app that never answers: without it the watch would
#: end the run at the same moment, and what has waited for give_up_after would never be parked.
SINK_SHARE = 0.9
#: What master.cf gives, by the envelope's names.
_ARGUMENTS = ("config", "size", "sender", "recipient", "original_recipient", "queue_id", "client_address", "helo")
_NEEDED = ("config", "recipient", "queue_id")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from gatepost.decision import Decision
    from gatepost.settings import Settings


class Exit:
    """The one way out. Whoever is first, the run itself or the watch, prints the line and ends the process."""

    def __init__(self, line_to: int) -> None:
        import _thread

        #: The descriptor that standard output was: pipe(8) reads it.
        self.line_to = line_to
        self._first = _thread.allocate_lock()
        #: Told of each deferral (rule, detail) before the line is printed: the log, once it is known where that is.
        self.note: Callable[[str, str], None] = lambda _rule, _detail: None

    def leave(self, status: int, line: str) -> NoReturn:
        """Prints the line, cut to the limit, and ends the process. A second caller waits here for the first one's end."""
        self._first.acquire()
        try:
            os.write(self.line_to, line_of(line))
            command = sys.modules.get("gatepost.sinks.command")
            if command is not None:  # a program that it has started must not go on without us
                command.end_running()
        finally:  # where nobody reads, pipe(8) is gone, and the status goes nowhere either
            os._exit(status)

    def defer(self, rule: str, status: str, text: str, detail: str = "", where: str = "") -> NoReturn:
        """Postfix keeps the message. `detail` goes to the log; `where`, the place of a mistake, into the line."""
        try:
            self.note(rule, detail)
        finally:
            self.leave(TEMPFAIL, f"{status} {text} (rule={rule}{where})")

    def cut_off(self, detail: str) -> NoReturn:
        """The message is not whole."""
        self.defer("incomplete-input", "4.3.0", "Message was cut off, try later", detail)


class Watch:
    """A thread that ends the run at its deadline or at a signal, whatever the main thread waits for.

    A signal handler of Python's would wait for a look-up or a lock inside a C library to come back.
    """

    def __init__(self, way_out: Exit) -> None:
        import _thread

        try:
            import _signal as signal  # `signal` itself brings enum, functools and collections: 4 ms of every message
        except ImportError:
            import signal

        self._way_out = way_out
        self._ends = STARTED + DEFAULT_DEADLINE
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _noted)
        _thread.start_new_thread(self._wait, ())

    def set_deadline(self, seconds: float) -> None:
        """Counts from the start of the run."""
        self._ends = STARTED + seconds
        os.write(self._mouth, b"\0")

    def _wait(self) -> None:
        try:
            self._listen()
        except BaseException as error:  # noqa: BLE001  # without a watch nothing would end a run that hangs
            self._way_out.defer("internal-error", "4.3.0", "Temporary failure, try later", f"watch: {type(error).__name__}")

    def _listen(self) -> NoReturn:
        import select

        ear = select.poll()
        ear.register(self._ear, select.POLLIN)
        while True:
            if not ear.poll(max(0.0, self._ends - time.monotonic()) * 1000):
                self._way_out.defer("deadline", "4.3.0", "Took too long, try later")
            if os.read(self._ear, 64).strip(b"\0"):
                self._way_out.defer("interrupted", "4.3.2", "Interrupted, try later")


def _noted(_number: int, _frame: object) -> None:
    """Signals reach the watch through the wake-up descriptor; this only keeps their default, death, away."""


def arguments(argv: list[str]) -> dict[str, str]:
    """The fields that master.cf gives, by name; ValueError for any other word (a line of master.cf is wrong then)."""
    given = dict.fromkeys(_ARGUMENTS, "")
    for word in argv:
        name, equals, value = word.partition("=")
        field = name[2:].replace("-", "_")
        if not (equals and name.startswith("--") and field in given):
            raise ValueError(f"unknown argument {name[:40]!r} in master.cf")
        if given[field]:  # pipe(8) gives --recipient once for each: the others would be lost
            raise ValueError(f"{name} stands twice: set gatepost_destination_recipient_limit = 1 in main.cf")
        given[field] = value
    for field in _NEEDED:
        if not given[field]:
            raise ValueError(f"no --{field.replace('_', '-')}= in master.cf")
    return given


def exit_for(decision: Decision) -> int:
    """The exit status for a decision (the table in docs/design.md; statuses of sysexits.h)."""
    if decision.action == "defer":
        return TEMPFAIL
    return refusal(decision.status) if decision.action == "reject" else 0


def run(argv: list[str], line_to: int, stdin: Input | None = None) -> NoReturn:
    """One message, from standard input to the exit status. Does not return.

    `line_to`: the descriptor that pipe(8) reads. `stdin`: where the thin script has read the message already.
    """
    way_out = Exit(line_to)
    try:
        _run(argv, way_out, stdin)
    except BaseException as error:  # noqa: BLE001  # an exception would end in status 1, and 1 bounces
        _defer_for(error, way_out)


def note(argv: list[str], rule: str, detail: str) -> None:
    """Logs a deferral that the thin script has made, where the configuration says. Raises what is wrong with that."""
    given = arguments(argv)
    _log_deferral(given["queue_id"], rule, detail, _settings(given["config"])[1])


def _run(argv: list[str], way_out: Exit, stdin: Input | None) -> NoReturn:
    watch = Watch(way_out)
    gc.disable()  # a process of one message: looking for cycles costs 0.7 ms and finds none worth freeing
    stdin = stdin or Input(way_out.line_to, way_out.cut_off)
    stdin.cut_off = way_out.cut_off
    given = arguments(argv)
    from gatepost import log  # what is imported late can fail late: as a deferral

    log_to = "syslog"
    way_out.note = lambda rule, detail: _log_deferral(given["queue_id"], rule, detail, log_to)
    # Before the message: a deferral in the middle of it is logged where the configuration says, too.
    settings, log_to = _settings(given.pop("config"))
    watch.set_deadline(settings.timing.deadline)
    sink_deadline = STARTED + SINK_SHARE * settings.timing.deadline
    data = stdin.take()

    from gatepost import answer
    from gatepost.decision import Envelope
    from gatepost.gateway import Gateway
    from gatepost.mail.canonical import from_pipe

    raw = from_pipe(data)
    del data
    size = given.pop("size")
    receipt = Gateway(settings).receive(Envelope(**given), raw, deadline=sink_deadline, still_whole=stdin.check)
    line = answer.log_line(receipt, queue_id=given["queue_id"], size=size, octets=len(raw), ms=_elapsed())
    log.write(line, log_to, error=receipt.decision.action == "defer")
    way_out.leave(exit_for(receipt.decision), answer.said(receipt))


def _settings(config: str) -> tuple[Settings, str]:
    """The configuration, and where it wants our own lines."""
    if sys.flags.no_site:  # -S of the thin script hides a venv's packages, and without a compiled copy this needs YAML
        import site

        site.main()
    from gatepost import log
    from gatepost.config import load_compiled

    settings = load_compiled(config)
    return settings, log.destination(settings)


def _log_deferral(queue_id: str, rule: str, detail: str, log_to: str) -> None:
    from gatepost import log

    log.write(log.line(queue_id, action="defer", rule=rule, detail=detail, ms=_elapsed()), log_to, error=True)


def _elapsed() -> int:
    return round((time.monotonic() - STARTED) * 1000)


def _defer_for(error: BaseException, way_out: Exit) -> NoReturn:
    """Our own fault, whatever it was: a deferral that names the rule; what happened goes to the log."""
    rule, status, text, detail, where = "internal-error", "4.3.0", "Temporary failure, try later", type(error).__name__, ""
    try:
        detail = f"{type(error).__name__}: {error}"
        from gatepost.errors import ConfigError
        from gatepost.fault import fault  # may fail as well: then this is what is told

        deferral = fault(error)
        rule, status, text, detail = deferral.rule, deferral.status, deferral.text, deferral.detail
        if isinstance(error, ConfigError):  # where the log is has not been read then: the line has to say where to look
            first = error.problems[0]
            where = f" {os.path.basename(first.file)}:{first.line}:{first.column}"
    finally:
        way_out.defer(rule, status, text, detail, where)
