"""Our own log line for each recipient and decision, beside Postfix's.

Promises: `QUEUEID: action=... rule=...` in one line, to syslog's mail facility, or to a file where the configuration names one
or there is no /dev/log; every value escaped and bounded, so that nothing a stranger sends can look like a second line or field.
Never: a key or a secret whole, a raised exception (a message must not wait for a log), a line without its queue ID.
"""

from __future__ import annotations

import os
import syslog
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import Settings

__all__ = ["destination", "line", "write"]

_SOCKET: Final = "/dev/log"
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


def write(text: str, to: str, *, error: bool = False) -> None:
    """One line to "syslog" or to the file `to`. What cannot be written is given up: the message matters more."""
    try:
        if to == "syslog":
            syslog.openlog("gatepost", syslog.LOG_PID, syslog.LOG_MAIL)
            syslog.syslog(syslog.LOG_ERR if error else syslog.LOG_INFO, text)
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = f"{stamp} gatepost[{os.getpid()}]: {text}\n".encode("ascii", "backslashreplace")
        # O_APPEND and one write: lines of runs in parallel do not mix.
        file = os.open(to, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            os.write(file, entry)
        finally:
            os.close(file)
    except OSError:
        return
