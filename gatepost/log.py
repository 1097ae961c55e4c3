"""Our own log line for each recipient and decision, beside Postfix's.

Promises: `QUEUEID: action=... rule=...` in one line, to syslog's mail facility, or to a file where the configuration names one
or there is no /dev/log; every value escaped and bounded, so that nothing a stranger sends can look like a second line or field.
Never: a key or a secret whole, a raised exception (a message must not wait for a log), a line without its queue ID.
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import Settings

__all__ = ["destination", "keep_spare", "line", "write"]

_SOCKET: Final = "/dev/log"
#: RFC 3164 4.1.1: the mail facility.
_MAIL: Final = 2
#: Longest value shown; the evidence of a decision is far shorter.
_VALUE_LIMIT: Final = 300
#: Escaped in every value; a value with a space or a quote is quoted.
_PLAIN: Final = frozenset("!#$%&'()*+,-./0123456789:;<>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~=")


def destination(settings: Settings) -> str:
    """Where lines go: "syslog", or an absolute file path."""
    if settings.log != "syslog":
        return settings.log
    return "syslog" if os.path.exists(_SOCKET) else os.path.join(settings.store, "gatepost.log")


def line(queue_id: str, **fields: str | int) -> str:
    """`QUEUEID: name=value ...`; empty values are left out, `ms=0` is not."""
    shown = [f"{name}={_value(str(value))}" for name, value in fields.items() if value != ""]
    return f"{_value(queue_id or '-')}: {' '.join(shown)}"


def _value(text: str) -> str:
    text = text if len(text) <= _VALUE_LIMIT else text[: _VALUE_LIMIT - 3] + "..."
    if _PLAIN.issuperset(text):
        return text
    escaped = "".join(c if c in _PLAIN or c == " " else _escape(c) for c in text)
    return f'"{escaped}"'


def _escape(character: str) -> str:
    code = ord(character)
    return "\\" + character if character in '"\\' else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


#: A descriptor of the log itself, by destination, for when there is no other to be had.
_spare: dict[str, int] = {}


def keep_spare(to: str) -> None:
    """From now on, in this process and those that it forks, a line gets into this log where no descriptor is left.

    Into the file that it is now: what logrotate moves away meanwhile gets such a line after all.
    """
    try:
        _spare[to] = _opened(to)
    except OSError:  # a log that cannot be written now: nothing is spared
        return


def write(text: str, to: str, *, error: bool = False) -> None:
    """One line to "syslog" or to the file `to`; where the file cannot be written, to syslog. Never waits for its reader.

    What cannot be written at once is given up: a message must not wait for a log, and neither may a deadline.
    """
    try:
        if to == "syslog":
            _to_syslog(text, error=error)
            return
        try:
            _to_file(text, to)
        except OSError as fault:
            _to_syslog(f"{text} log_fault={_value(f'{to}: {fault.strerror}')}", error=True)
    except OSError:
        return


def _to_file(text: str, path: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _put(f"{stamp} gatepost[{os.getpid()}]: {text}\n", path)


def _to_syslog(text: str, *, error: bool) -> None:
    """A datagram as syslog(3) sends it (RFC 3164 4.1), but without its wait for a reader that does not read."""
    severity = 3 if error else 6  # RFC 3164 4.1.1: error, informational
    stamp = time.strftime("%b %e %H:%M:%S", time.localtime())
    _put(f"<{_MAIL * 8 + severity}>{stamp} gatepost[{os.getpid()}]: {text}", "syslog")


def _put(entry: str, to: str) -> None:
    """One write, whole: lines of runs in parallel do not mix."""
    octets = entry.encode("ascii", "backslashreplace")
    try:
        log = _opened(to)
    except OSError as fault:
        if fault.errno not in (errno.EMFILE, errno.ENFILE) or to not in _spare:
            raise
        os.write(_spare[to], octets)
        return
    try:
        os.write(log, octets)
    finally:
        os.close(log)


def _opened(to: str) -> int:
    """A descriptor of the file, or of a socket that syslog reads; neither ever waits."""
    if to != "syslog":
        # O_NONBLOCK: a FIFO without a reader is an error, not a wait.
        return os.open(to, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(_SOCKET)
        return sock.detach()
    finally:
        sock.close()
