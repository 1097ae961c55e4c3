"""The compiled copy: a configuration that was checked once, kept so that a message needs no YAML.

Promises: a copy is believed only if it is ours (regular file, our user, mode 0600), whole (SHA-256) and made from exactly
these files by exactly this version; anything else costs a full load and is never an error. Modes of the configuration and
of the secrets file are checked on every run, copy or not. Writing is atomic, and a failure to write is of no consequence.
Never: imports YAML, `re`, OpenSSL or a validator while the copy is good; believes or writes a copy as root. The copy holds
secrets: it lies in the store's folder, mode 0600.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
import sys

from gatepost import __version__
from gatepost.config.source import read_config, read_secrets
from gatepost.digest import sha256
from gatepost.errors import ConfigError
from gatepost.settings import (
    Ask,
    KeySettings,
    LimitSettings,
    LmtpSettings,
    MilterSettings,
    ParkedLimits,
    ParserLimits,
    Route,
    Screening,
    Settings,
    Sink,
    Timing,
    from_tree,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.config.loading import Built

__all__ = ["COPY_NAME", "load_compiled"]

COPY_NAME = "config.compiled"

#: Raise it when the same files must give another tree: the copies of before are then stale.
_FORMAT = 8
_MAGIC = b"gatepost config\n"
_DIGEST = 32
_HEAD = len(_MAGIC) + 2 * _DIGEST
#: Eight times the largest configuration: a larger copy is none of ours.
_MAX_COPY = 8_388_608


def load_compiled(path: str) -> Settings:
    """As `load`, by way of the compiled copy where there is a good one. Raises ConfigError."""
    data, problems = read_config(path)
    folder = _store_folder(data)
    key = _key(path, data)
    if folder and not problems and os.geteuid() != 0:
        settings = _believed(folder, key)
        if settings is not None:
            return settings
    from gatepost.config.loading import build  # only here: it brings YAML

    built = build(path, (data, problems))
    settings = built.settings()
    if folder == settings.store and os.geteuid() != 0:  # a copy elsewhere would be written for every message and never found
        _keep(folder, key, built)
    return settings


def _store_folder(data: bytes) -> str:
    """A cheap guess at the top-level `store:`, without YAML. A wrong guess finds no copy, and costs a full load."""
    for line in data.splitlines():
        if line.startswith(b"store:"):
            value = line[6:].partition(b" #")[0].strip().strip(b"\"'")
            return os.path.normpath(os.fsdecode(value)) if value.startswith(b"/") and b"\0" not in value else ""
    return str(Settings.store)


def _key(path: str, data: bytes) -> bytes:
    """What a copy was made from and by: file, bytes, this version, this Python, and the fields that settings have."""
    kinds = (
        Settings, Route, KeySettings, Ask, MilterSettings, LmtpSettings, LimitSettings, Screening, Sink, Timing,
        ParkedLimits, ParserLimits,
    )  # fmt: skip
    fields = [kind._fields for kind in kinds]
    maker = repr((_FORMAT, __version__, sys.hexversion, os.path.abspath(path), fields))
    return sha256(maker.encode("utf-8", "surrogatepass"), b"\0", data)


def _believed(folder: str, key: bytes) -> Settings | None:
    """The settings of the copy, or None where there is none to believe."""
    payload = _payload(os.path.join(folder, COPY_NAME), key)
    if payload is None:
        return None
    try:
        secrets_path, secrets_digest, tree = marshal.loads(payload)  # noqa: S302  # ours, whole, and this Python's: see above
        if secrets_path:
            secrets, problems = read_secrets(secrets_path)
            if problems or sha256(secrets) != secrets_digest:
                return None
        return from_tree(tree)
    except (ConfigError, ValueError, TypeError, LookupError, AttributeError, EOFError):
        return None  # the full load tells what is wrong with the secrets file, together with what else is wrong


def _payload(name: str, key: bytes) -> bytes | None:
    """What follows the head of a copy that is ours, whole and made from `key`."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o600
            if not ours or not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_COPY:
                return None
            copy = os.read(handle, _MAX_COPY)
        finally:
            os.close(handle)
    except (OSError, ValueError):
        return None
    head, payload = copy[:_HEAD], copy[_HEAD:]
    return payload if head == _head(key, payload) else None


def _head(key: bytes, payload: bytes) -> bytes:
    return _MAGIC + key + sha256(key, payload)


def _keep(folder: str, key: bytes, built: Built) -> None:
    """Writes the copy, if the folder is ours alone to write to. A full disk, a read-only one: then there is no copy."""
    # One name for all: a writer that is killed leaves at most this file, and two at once write what nobody believes.
    new = os.path.join(folder, f"{COPY_NAME}.new")
    try:
        status = os.stat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return
        payload = marshal.dumps((built.secrets_path, sha256(built.secrets_bytes), built.tree))
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError):
        return
    try:
        try:
            # No fsync: a copy that a crash cuts off or loses is not believed, and made anew.
            copy = _head(key, payload) + payload
            if os.write(handle, copy) != len(copy):
                raise OSError(errno.ENOSPC, "cut off")
        finally:
            os.close(handle)
        os.rename(new, os.path.join(folder, COPY_NAME))
    except BaseException as fault:
        _remove(new)
        if not isinstance(fault, OSError):
            raise


def _remove(name: str) -> None:
    try:  # noqa: SIM105  # contextlib is start-up time
        os.unlink(name)
    except OSError:
        pass
