"""The transport script, thin: hands envelope and message to the warm process, and tells Postfix what that has answered.

Promises: what Postfix is told is to the letter what the whole script would say. A message that may have been cut off gets no
final dot. Who answers otherwise than our own server does has not answered: then `--fallback` decides. `local`: the whole job is
done here, under the same id, so that what was handed over is not handed over again; `defer`: Postfix keeps the message. A 4xx
or 550 of our server is final. It ends by itself at `--deadline`, and defers at a signal.
Never: imports anything but `_socket` that is not there already, unless it falls back or defers; takes for the answer what was
said before the message was whole; refuses by itself.
"""

import _signal
import _socket
import posix
import time

from gatepost_filter.contract import STARTED, TEMPFAIL, Input, line_of, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

__all__ = ["run"]

#: What is ours in argv, and what stands for it where it is missing; the rest is the envelope's, and `--config`.
_OWN: "Final" = {"socket": "", "fallback": "local", "deadline": "120"}
#: What Postfix is told of the deferrals that are made here: gatepost.decision.RULES, which is too far to import.
_DEFERRALS: "Final" = {
    "incomplete-input": "4.3.0 Message was cut off, try later",
    "deadline": "4.3.0 Took too long, try later",
    "interrupted": "4.3.2 Interrupted, try later",
    "no-server": "4.3.2 Temporarily not available, try later",
}
#: Seconds until the server has greeted: it does so at once, or it hangs. And until it wants the message: it may wait for room
#: twice, ten seconds each.
_GREETING: "Final" = 5.0
_ROOM: "Final" = 30.0
#: Seconds to log a deferral.
_LOGGING: "Final" = 5.0
#: Longest reply that is read; RFC 5321 4.5.3.1.5 has 512 octets.
_REPLY: "Final" = 1_000
_SIGNALS: "Final" = (_signal.SIGALRM, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)


class _NoAnswerError(Exception):
    """Nobody is there, or who is there is not our server, or breaks off. The text says what happened."""


def run(argv: list[str], line_to: int) -> "NoReturn":
    """One message, from standard input to the exit status; `line_to`: the descriptor that pipe(8) reads. Does not return."""
    own, words = _taken_apart(argv)
    way_out = _WayOut(words, line_to)
    way_out.watch(float(own["deadline"]))
    stdin = Input(line_to, lambda detail: way_out.defer("incomplete-input", detail))
    stdin.read()
    try:
        code, status, text = _asked(own["socket"], words, stdin)
    except (OSError, _NoAnswerError) as error:
        if own["fallback"] == "local":
            _signal.setitimer(_signal.ITIMER_REAL, 0)  # the transport has a watch of its own
            from gatepost_filter import transport

            transport.run(words, line_to, stdin)
        way_out.defer("no-server", f"{own['socket']}: {error}")
    if code == "250":
        way_out.leave(0, text)
    way_out.leave(TEMPFAIL if code[0] == "4" else refusal(status), f"{status} {text}")


def _taken_apart(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Our own options, and the words that the whole script takes. ValueError where a line of master.cf is wrong."""
    own, words = dict(_OWN), []
    for word in argv:
        name, _, value = word.partition("=")
        if name[2:] in own:
            own[name[2:]] = value
        else:
            words.append(word)
    if own["fallback"] not in ("local", "defer"):
        raise ValueError(f"--fallback={own['fallback']} is neither local nor defer")
    return own, words


class _WayOut:
    """The one way out, for the run itself and for what interrupts it: a signal, or the clock."""

    def __init__(self, words: list[str], line_to: int) -> None:
        self._words, self._line_to = words, line_to
        self._left = False

    def watch(self, seconds: float) -> None:
        """From here on a signal is a deferral, and so is the end of the time, which counts from the start of the run.

        A system call that a signal interrupts goes on only behind the handler (PEP 475), and this one does not return.
        """
        for number in _SIGNALS:
            _signal.signal(number, self._interrupted)
        _signal.setitimer(_signal.ITIMER_REAL, max(0.001, STARTED + seconds - time.monotonic()))

    def _interrupted(self, number: int, _frame: object) -> None:
        if not self._left:
            self.defer("deadline" if number == _signal.SIGALRM else "interrupted", "")

    def defer(self, rule: str, detail: str) -> "NoReturn":
        """Postfix keeps the message. Our own log says why, if that can be done soon."""
        line = f"{_DEFERRALS[rule]} (rule={rule})"

        def at_once(_number: int, _frame: object) -> None:
            if not self._left:
                self.leave(TEMPFAIL, line)

        for number in _SIGNALS:
            _signal.signal(number, at_once)
        _signal.setitimer(_signal.ITIMER_REAL, _LOGGING)
        try:
            from gatepost_filter import transport

            transport.note(self._words, rule, detail)
        finally:
            self.leave(TEMPFAIL, line)

    def leave(self, status: int, line: str) -> "NoReturn":
        """Prints the line and ends the process."""
        self._left = True  # a signal has nothing more to say
        try:
            posix.write(self._line_to, line_of(line))
        finally:  # where nobody reads, pipe(8) is gone, and the status goes nowhere either
            posix._exit(status)  # noqa: SLF001  # os._exit


# --- the dialogue ---------------------------------------------------------------------------------------------------------


def _asked(path: str, words: list[str], stdin: Input) -> tuple[str, str, str]:
    """Code, enhanced status and text of the answer for this message. Raises OSError or _NoAnswerError where there is none.

    Two round trips: what is to be said up to DATA goes out in one piece; the content waits for its 354.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(_GREETING)
        sock.connect(path)
        sock.sendall(_envelope(words))
        replies = _Replies(sock)
        greeting = replies.next(_GREETING)
        if not (greeting.startswith("220 ") and greeting.endswith(" LMTP gatepost")):
            raise _NoAnswerError(f"it greets as another: {greeting[:80]}")
        told = replies.next(_ROOM)
        if not told.startswith("250 "):
            raise _NoAnswerError(f"it does not take the envelope: {told[:80]}")
        told = replies.next(_ROOM)
        if told.startswith("4"):  # no room
            return _answer(told)
        if not told.startswith("354 "):
            raise _NoAnswerError(f"it does not take the message: {told[:80]}")
        sock.settimeout(None)  # the clock is the process's own from here on
        _send(sock, stdin.data)
        stdin.check()
        replies.nothing_more()  # an answer that came before the dot is to no message
        sock.sendall(b"\r\n.\r\n")
        return _answer(replies.next(None))
    finally:
        sock.close()  # what has had no dot is not handed over


def _envelope(words: list[str]) -> bytes:
    """The arguments as the server's own verb takes them: `name=HEX`, so that no octet means anything on the way."""
    told = ["XGATEPOST"]
    for word in words:
        name, _, value = word.partition("=")
        if name != "--config":
            told.append(f"{name}={value.encode('utf-8', 'surrogateescape').hex()}")
    return f"{' '.join(told)}\r\nDATA\r\n".encode("utf-8", "surrogateescape")


def _send(sock: _socket.socket, data: bytes) -> None:
    """The content but for its last line end. The server makes CRLF of LF; a dot means something to it only behind a CRLF."""
    if b"\r\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    if data.startswith(b"."):
        sock.sendall(b".")
    sock.sendall(memoryview(data)[:-1])


class _Replies:
    """What the server says, line by line."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._inbox = b""

    def next(self, seconds: float | None) -> str:
        """The next line. Raises _NoAnswerError where there is none that is short enough, OSError after so many seconds."""
        until = time.monotonic() + (seconds or 0.0)
        while b"\r\n" not in self._inbox:
            if len(self._inbox) > _REPLY:
                raise _NoAnswerError("its reply has no end")
            self._sock.settimeout(None if seconds is None else max(0.001, until - time.monotonic()))
            came = self._sock.recv(_REPLY)
            if not came:
                raise _NoAnswerError("it has closed the connection")
            self._inbox += came
        line, _, self._inbox = self._inbox.partition(b"\r\n")
        return line.decode("latin-1")

    def nothing_more(self) -> None:
        """Raises _NoAnswerError where it has said something already, or has gone."""
        if not self._inbox:
            self._sock.settimeout(0.0)
            try:
                came = self._sock.recv(1)
            except BlockingIOError:
                self._sock.settimeout(None)
                return
            if not came:
                raise _NoAnswerError("it has closed the connection")
        raise _NoAnswerError("it answers before it was asked")


def _answer(line: str) -> tuple[str, str, str]:
    """A reply of one line: what is done with, a deferral, or a rule's refusal. Anything else is none of our server's."""
    code, status, text = (*line.split(" ", 2), "", "")[:3]
    taken = code == "250" or code == "550" or (code[:1] == "4" and code.isdigit() and len(code) == 3 and code != "421")
    if not (taken and status[:2] == f"{'2' if code == '250' else code[0]}." and text):
        raise _NoAnswerError(f"it answers nonsense: {line[:80]}")
    return code, status, text
