"""Reads a file of the configuration and says who else could read or change it.

Promises: at most `MAX_BYTES` are read; a file that cannot be used raises `ConfigError` with what to do; a mode that is too
open is a problem beside the bytes, so that the caller can tell it together with the others.
Never: waits (a FIFO is refused, not opened for its writer); judges the owner: whoever can open the file may use it.
"""

from __future__ import annotations

import os
import stat

from gatepost.errors import ConfigError, Problem, UnreadableProblem

__all__ = ["MAX_BYTES", "read_config", "read_secrets"]

#: A route takes about 200 bytes; 1 MiB is five thousand of them. More is a wrong file, not a configuration.
MAX_BYTES = 1_048_576

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ANYTHING = stat.S_IRWXG | stat.S_IRWXO


def read_config(path: str) -> tuple[bytes, tuple[Problem, ...]]:
    """The configuration file's bytes, and the problem that its group or others may write to it."""
    data, mode = _read(path)
    if mode & _OTHERS_WRITE:
        return data, (Problem(file=path, text=f"others may write to it (mode {mode:04o}): chmod go-w {path}"),)
    return data, ()


def read_secrets(path: str) -> tuple[bytes, tuple[Problem, ...]]:
    """The secrets file's bytes, and the problem that its group or others may read or write it."""
    data, mode = _read(path)
    if mode & _OTHERS_ANYTHING:
        text = f"others may read or change the secrets in it (mode {mode:04o}): make it gatepost's own and chmod 600 {path}"
        return data, (Problem(file=path, text=text),)
    return data, ()


def _read(path: str) -> tuple[bytes, int]:
    """Bytes and permission bits, both of the one open file. Raises ConfigError."""
    try:
        # O_NONBLOCK: opening a FIFO for reading would wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError((Problem(file=path, text="is no regular file"),))
            if status.st_size > MAX_BYTES:
                raise ConfigError((_too_large(path),))
            data = _read_all(handle)
        finally:
            os.close(handle)
    except PermissionError:
        raise ConfigError((Problem(file=path, text=_not_permitted(path)),)) from None
    except OSError as fault:
        raise ConfigError((UnreadableProblem(file=path, text=f"cannot be read: {fault.strerror}"),)) from None
    except ValueError:  # NUL in the name, or text that is no file name
        raise ConfigError((Problem(file=path, text="is no file name"),)) from None
    if len(data) > MAX_BYTES:
        raise ConfigError((_too_large(path),))
    return data, stat.S_IMODE(status.st_mode)


def _read_all(handle: int) -> bytes:
    parts = []
    left = MAX_BYTES + 1
    while left > 0 and (part := os.read(handle, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _too_large(path: str) -> Problem:
    return Problem(file=path, text="is larger than 1 MiB: is it the right file?")


def _not_permitted(path: str) -> str:
    """Who may read it, where that can be seen."""
    try:
        import pwd

        owner = pwd.getpwuid(os.stat(path).st_uid).pw_name
    except (OSError, KeyError, ImportError):
        owner = "gatepost"
    allowed = "root" if owner == "root" else f"root or as {owner}"
    return f"cannot be read by this user (permission denied): run this as {allowed}, or give the file to who runs it (chown)"
