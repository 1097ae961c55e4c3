"""The milter's process: libmilter's callbacks, given on to a session, and its life from start to end.

Promises: what libmilter or a session throws at us ends as `451 4.3.0`, never as a traceback or an acceptance; after SIGTERM or
SIGINT no new message is taken, those under way are finished (FINISH seconds at most), and the status is 0; after SIGHUP the
configuration is read anew.
Never: forks; runs as root; asks the MTA for more than sessions use.

libmilter would end all sessions at once on any of these signals, from a thread of its own. So its loop runs in another thread
than the main one, to which the kernel gives a signal first, and it is never told to stop: the process ends.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import syslog
import threading
import time

import Milter

from gatepost import log
from gatepost.daemon import endpoint, memory, systemd
from gatepost.daemon.current import Current
from gatepost.daemon.room import Room, UnderWay
from gatepost.dialogue import Dialogue
from gatepost.errors import GatepostError
from gatepost.sinks import open_circuits
from gatepost_milter.session import GO_ON, Answer, Session, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from gatepost.settings import Settings

__all__ = ["serve"]

#: The name that libmilter's own log lines have.
NAME: Final = "gatepost"
#: Seconds for messages under way when the process is told to end. Our unit gives it 30 (TimeoutStopSec, docs/milter.md).
FINISH: Final = 20.0
#: Bytes of large messages (see kept.IN_MEMORY) that are read back and judged at once. Judging takes about three copies.
ROOM: Final = 64 * 1_048_576
#: Connections that may wait for `accept`: every smtpd of a busy host at once.
_BACKLOG: Final = 512
#: Seconds from the last answer that was given to libmilter to the end of the process: it has yet to write it.
_LAST_WORDS: Final = 0.25
#: Seconds between two looks at whether a configuration that could not be read is due again.
_RETRY_EVERY: Final = 1.0
_TEMPFAIL: Final = 75

#: What we may do to a message, and hear of it: else negotiation fails, and Postfix does what default_action says.
_ACTIONS: Final = Milter.ADDHDRS | Milter.CHGHDRS | Milter.DELRCPT
#: Header fields with the white space before their value: DKIM's simple canonicalisation needs it (RFC 6376 3.4.1). And no reply
#: where we would never have another than `continue`: one round trip less for each field of each message.
_SILENT: Final = Milter.P_NR_CONN | Milter.P_NR_HELO | Milter.P_NR_MAIL | Milter.P_NR_HDR | Milter.P_NR_EOH
#: And SKIP: the rest of a body that is none of ours need not come.
_PROTOCOL: Final = _SILENT | Milter.P_HDR_LEADSPC | Milter.P_SKIP
#: Calls that we do not need.
_UNUSED: Final = Milter.P_NODATA | Milter.P_NOUNKNOWN
#: The macros that we read, asked for so that nothing need be set in main.cf.
_MACROS: Final = (
    (Milter.M_CONNECT, "j {client_name} {client_addr}"),
    (Milter.M_ENVFROM, "{mail_addr}"),
    (Milter.M_ENVRCPT, "i {rcpt_addr}"),
    (Milter.M_EOM, "i"),
)


class _Connection:
    """What stands behind one libmilter context: a session, and how its answers are said to libmilter."""

    def __init__(self, shared: Shared) -> None:
        self.session = Session(shared)

    def connect(self, ctx: Any, name: str, _family: int, address: Any) -> int:
        host = _macro(ctx, "{client_addr}") or (address[0] if isinstance(address, tuple) else "")
        known = _macro(ctx, "{client_name}") or ("unknown" if name.startswith("[") else name)
        self.session.connect(host.removeprefix("IPv6:"), known, _macro(ctx, "j") or "")
        return int(Milter.NOREPLY)

    def helo(self, _ctx: Any, name: str) -> int:
        self.session.helo(name)
        return int(Milter.NOREPLY)

    def mail(self, ctx: Any, path: bytes, *_parameters: bytes) -> int:
        self.session.mail(_text(path), _macro(ctx, "{mail_addr}"))
        return int(Milter.NOREPLY)

    def rcpt(self, ctx: Any, path: bytes, *_parameters: bytes) -> int:
        answer = self.session.rcpt(_text(path), _macro(ctx, "{rcpt_addr}"), _macro(ctx, "i") or "")
        return _said(ctx, answer)

    def header(self, _ctx: Any, name: str, value: bytes) -> int:
        self.session.header(name.encode("utf-8", "surrogateescape"), value)
        return int(Milter.NOREPLY)

    def end_of_headers(self, _ctx: Any) -> int:
        self.session.end_of_headers()
        return int(Milter.NOREPLY)

    def body(self, _ctx: Any, chunk: bytes) -> int:
        if not self.session.wants_body:
            return int(Milter.SKIP)
        self.session.body(chunk)
        return int(Milter.CONTINUE)

    def end_of_message(self, ctx: Any) -> int:
        try:
            return _said(ctx, self.session.end_of_message(_macro(ctx, "i") or ""))
        finally:
            self.session.answered()

    def abort(self, _ctx: Any) -> int:
        self.session.abort()
        return int(Milter.CONTINUE)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _macro(ctx: Any, name: str) -> str | None:
    """A macro's value; None where the MTA did not give it, or it is no UTF-8."""
    try:
        value: str | None = ctx.getsymval(name)
    except UnicodeDecodeError:
        return None
    return value


def _said(ctx: Any, answer: Answer) -> int:
    """Tells libmilter the answer."""
    if answer.reply is not None:
        reply = answer.reply
        ctx.setreply(str(reply.code), reply.status, reply.text.replace("%", "%%"))
        return int(Milter.REJECT if reply.code >= 500 else Milter.TEMPFAIL)
    if answer.discard:
        return int(Milter.DISCARD)
    if answer is not GO_ON:
        _change(ctx, answer)
    return int(Milter.CONTINUE)


def _change(ctx: Any, answer: Answer) -> None:
    """The message's changes. The first deletion that fails ends this with an exception: then the message is deferred whole."""
    for name, number in answer.remove:
        ctx.chgheader(name, number, None)
    for name, value in reversed(answer.insert):
        # Place 0: above the MTA's own Received field. LF: the protocol's line end. The space: P_HDR_LEADSPC leaves it to us.
        ctx.addheader(name, " " + value.replace("\r\n", "\n"), 0)
    for path in answer.delete:
        ctx.delrcpt(path)


class _Callbacks:
    """libmilter's callbacks. An exception in one of them is a temporary failure of what it was about."""

    def __init__(self, shared: Shared, note: Callable[..., None]) -> None:
        self._shared, self._note = shared, note

    def register(self) -> None:
        """Tells libmilter all of them."""
        made = self._made
        Milter.set_connect_callback(made("connect", silent=True))
        Milter.set_helo_callback(made("helo", silent=True))
        Milter.set_envfrom_callback(made("mail", silent=True))
        Milter.set_envrcpt_callback(made("rcpt"))
        Milter.set_header_callback(made("header", silent=True))
        Milter.set_eoh_callback(made("end_of_headers", silent=True))
        Milter.set_body_callback(made("body"))
        Milter.set_eom_callback(made("end_of_message"))
        Milter.set_abort_callback(made("abort"))
        Milter.set_close_callback(self._close)
        # What fails before our own code is reached: an EHLO that is no UTF-8. The session then has no such HELO.
        Milter.set_exception_policy(Milter.CONTINUE)
        Milter.register(NAME, negotiate=self._negotiate)

    def _negotiate(self, ctx: Any, options: list[int]) -> int:
        try:
            if options[0] & _ACTIONS != _ACTIONS or options[1] & _PROTOCOL != _PROTOCOL:
                self._note("the MTA does not offer what gatepost needs: Postfix 2.6 or newer does", error=True)
                return int(Milter.REJECT)
            asked = options[0] & Milter.SETSYMLIST
            for stage, names in _MACROS if asked else ():
                ctx.setsymlist(stage, names)
            options[:] = [_ACTIONS | asked, _PROTOCOL | (options[1] & _UNUSED), 0, 0]
            ctx.setpriv(_Connection(self._shared))
        except Exception as error:  # noqa: BLE001
            self._failed("negotiate", error)
            return int(Milter.REJECT)
        return int(Milter.CONTINUE)

    def _made(self, name: str, *, silent: bool = False) -> Callable[..., int]:
        method = getattr(_Connection, name)

        def call(ctx: Any, *arguments: Any) -> int:
            connection = ctx.getpriv()
            if connection is None:  # another connection of the MTA over the same socket (SMFIC_QUIT_NC): no negotiation then
                connection = _Connection(self._shared)
                ctx.setpriv(connection)
            try:
                return int(method(connection, ctx, *arguments))
            except Exception as error:  # noqa: BLE001
                self._failed(name, error)
                if silent:  # the answer to the end of the message will tell it
                    connection.session.failed(error)
                    return int(Milter.NOREPLY)
                return _temporary(ctx)

        return call

    def _close(self, ctx: Any) -> int:
        connection = ctx.getpriv()
        try:
            if connection is not None:
                ctx.setpriv(None)
                connection.session.close()
        except Exception as error:  # noqa: BLE001
            self._failed("close", error)
        return int(Milter.CONTINUE)

    def _failed(self, name: str, error: Exception) -> None:
        self._note("internal-error", at=name, detail=f"{type(error).__name__}: {error}", error=True)


def _temporary(ctx: Any) -> int:
    ctx.setreply("451", "4.3.0", "Temporary failure, try later")
    return int(Milter.TEMPFAIL)


def serve(config: str) -> int:
    """Runs until a signal ends it; the exit status: 0, or 75 where libmilter gave up.

    Raises GatepostError where it cannot start.
    The configuration must have `milter:`, and the process must not be root's.
    """
    syslog.openlog("gatepost", syslog.LOG_PID, syslog.LOG_MAIL)  # libmilter's own lines
    memory.give_back()
    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number, event in ((signal.SIGTERM, "end"), (signal.SIGINT, "end"), (signal.SIGHUP, "read")):
        signal.signal(number, _putting(events, event))
    current = Current(config, _dialogue)
    log.keep_spare(log.destination(current.settings))
    open_circuits.clear(current.settings.store)
    return _Process(current, events).run()


def _dialogue(settings: Settings) -> Dialogue:
    return Dialogue(
        settings, note=lambda kind, name, detail: _note(settings, "circuit", error=True, **{kind: name}, detail=detail)
    )


def _putting(events: queue.SimpleQueue[str], event: str) -> Callable[[int, object], None]:
    return lambda _number, _frame: events.put(event)


class _Process:
    def __init__(self, current: Current[Dialogue], events: queue.SimpleQueue[str]) -> None:
        self._current, self._events = current, events
        milter = current.settings.milter
        if milter is None:
            raise GatepostError(f"{current.settings.file}: there is no milter: section")
        self._endpoint = endpoint.endpoint(milter.socket)
        self._under_way = UnderWay()
        current.note = self._configuration
        sys.excepthook = self._unraised  # pymilter prints what fails before our own code is reached, with its traceback
        shared = Shared(current=current, room=Room(ROOM), under_way=self._under_way)
        _Callbacks(shared, self._note).register()

    def run(self) -> int:
        """From listening to the end. The process ends in here after a signal: no thread of libmilter's is waited for."""
        ours = self._listen()
        threading.Thread(target=self._loop, name="libmilter", daemon=True).start()
        self._note("listening", socket=self._endpoint.spelled)
        systemd.tell("READY=1")
        while (event := self._event()) == "read":
            self._current.look(again=True)
        if event != "end":
            self._note(event, error=True)
            endpoint.remove(self._endpoint, ours)
            self._leave(_TEMPFAIL)
        systemd.tell("STOPPING=1")
        endpoint.remove(self._endpoint, ours)
        left = self._under_way.finish(FINISH)
        time.sleep(_LAST_WORDS)
        self._note("ended", unfinished=left or "", error=left > 0)
        self._leave(0)

    def _event(self) -> str:
        """What happens next. Between two looks it is seen to what could not be read."""
        while True:
            try:
                return self._events.get(timeout=_RETRY_EVERY)
            except queue.Empty:
                self._current.retry()

    def _listen(self) -> tuple[int, int] | None:
        Milter.setconn(self._endpoint.spelled)
        Milter.setbacklog(_BACKLOG)
        with endpoint.clear(self._endpoint):
            before = os.umask(0o117)
            try:
                Milter.opensocket(False)
            except Milter.error as error:
                raise endpoint.EndpointError(
                    f"{self._endpoint.spelled}: cannot listen there; libmilter's line in the mail log says why"
                ) from error
            finally:
                os.umask(before)
            return endpoint.identity(self._endpoint)

    def _loop(self) -> None:
        try:
            Milter.main()
            self._events.put("libmilter has stopped")
        except Exception as error:  # noqa: BLE001
            self._events.put(f"libmilter has stopped: {error}")

    def _leave(self, status: int) -> NoReturn:
        try:
            self._current.close()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _configuration(self, what: str) -> None:
        self._note("configuration", detail=what, error=what != "changed")
        milter = self._current.settings.milter
        if milter is not None and endpoint.endpoint(milter.socket) != self._endpoint:
            self._note("configuration", detail=f"milter.socket is {milter.socket} now: restart to listen there", error=True)

    def _unraised(self, kind: type[BaseException], error: BaseException, _trace: object) -> None:
        self._note("internal-error", at="pymilter", detail=f"{kind.__name__}: {error}", error=True)

    def _note(self, what: str, *, error: bool = False, **fields: str | int) -> None:
        _note(self._current.settings, what, error=error, **fields)


def _note(settings: Settings, what: str, *, error: bool = False, **fields: str | int) -> None:
    """A line of the process, where messages have their queue ID: `milter: state=listening socket=...`."""
    log.write(log.line("milter", state=what, **fields), log.destination(settings), error=error)
