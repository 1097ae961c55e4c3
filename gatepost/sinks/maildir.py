"""The Maildir: one file a message, for an app or a person that reads folders.

Promises: "delivered" only once the file, its folder entry and the folder's own are on disk; a second run of the same message
leaves one file, also when a reader has moved the first to cur/; a kill at any point leaves a whole file or none in new/.
Never: overwrites a stranger's file, follows a name from the message, reads the messages that are there.

The name is `RECEIVED.ID.gatepost`: when the message was first seen (Unix seconds) and its delivery id, so both runs choose the
same. Lines end in LF, as in every Maildir. In front of the message stand Return-Path and Delivered-To (the envelope) and the
X-Gatepost-* fields of the raw webhook; a stranger's own Return-Path and X-Gatepost-* are taken out.
"""

from __future__ import annotations

import errno
import os
import time

from gatepost.sinks.delivery import DETAIL_LIMIT, Outcome, one_line
from gatepost.sinks.head_fields import address_value, gatepost_fields, with_fields, without_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal

    from gatepost.settings import Sink
    from gatepost.sinks.delivery import Delivery

__all__ = ["deliver", "file_name"]

#: Names under which a reader most often leaves a message in cur/: unseen, seen, seen and answered. Four look-ups, no listing.
_USUAL: Final = ("", ":2,", ":2,S", ":2,RS")
#: Seconds after which an unfinished file of the same message has no writer: the lease (180 s) is over, with room.
_ABANDONED: Final = 600.0
#: Names looked at between two looks at the clock, in a cur/ of any size.
_LOOKS: Final = 1_000

_MENDS: Final = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "raise the quota or free some space",
    errno.EFBIG: "raise the limit on the size of a file",
    errno.EMFILE: "raise the limit on open files",
    errno.ENOENT: "make the folder above it, or mend the sink's path",
    errno.ENOTDIR: "something else is in the folder's place: mend the sink's path",
    errno.EACCES: "let the user that gatepost runs as write there",
    errno.EPERM: "let the user that gatepost runs as write there",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENAMETOOLONG: "choose a shorter path for the sink",
    errno.ELOOP: "its symbolic links lead in a circle",
}
#: A person must mend these; the others pass, or a full disk is noticed anyway.
_SET_UP: Final = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


def deliver(sink: Sink, delivery: Delivery, *, deadline: float, now: Callable[[], float]) -> Outcome:
    """One attempt. `deadline`: time.monotonic() seconds; looked at before each step, since a write cannot be interrupted."""
    folder, name = sink.target, file_name(delivery)
    try:
        _make(folder)
        found = _find(folder, name, deadline, everywhere=delivery.attempt > 1)
        if found:
            _sync(os.path.join(folder, os.path.dirname(found)))
            return Outcome(kind="delivered", detail=f"{found} (an earlier run wrote it)")
        if delivery.attempt > 1:
            _sweep(folder, name, now())
        _in_time(deadline)
        _write(folder, name, _content(delivery))
    except OSError as error:
        return _outcome(error, folder)
    return Outcome(kind="delivered", detail=f"new/{name}")


def file_name(delivery: Delivery) -> str:
    """The message's name in new/: the same for each run, and sorted by the time of arrival."""
    return f"{delivery.received_at}.{delivery.id}.gatepost"


def _content(delivery: Delivery) -> tuple[bytes, bytes]:
    """The file's bytes: what we say, and the message."""
    envelope = delivery.envelope
    fields = [
        (b"Return-Path", b"<%s>" % address_value(envelope.sender)),
        (b"Delivered-To", address_value(envelope.recipient)),
        *gatepost_fields(delivery),
    ]
    front, raw = with_fields(without_fields(delivery.message.raw, b"return-path"), fields)
    return front.replace(b"\r\n", b"\n"), raw.replace(b"\r\n", b"\n")


def _make(folder: str) -> None:
    """The Maildir, mode 0700, where its parent is there. An `mkdir -p` would fill the disk below a file system not mounted."""
    made = False
    for each in (folder, *(os.path.join(folder, part) for part in ("tmp", "new", "cur"))):
        try:
            os.mkdir(each, 0o700)
            made = True
        except FileExistsError:
            if not os.path.isdir(each):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), each) from None
    if made:
        _sync(folder)
        try:
            _sync(os.path.dirname(os.path.abspath(folder)))
        except PermissionError:  # a parent that may be passed through but not read (mode 0711): the folder stands all the same
            return


def _find(folder: str, name: str, deadline: float, *, everywhere: bool) -> str:
    """Where an earlier run's file is ("new/NAME", "cur/NAME:2,S"), or "".

    A listing of cur/ costs 1 ms for 1,500 messages, so a first attempt only looks for the usual names: before it no run of
    this message can have got as far as the sink, but for one whose lease was lost with the ledger.
    """
    for at in (f"new/{name}", *(f"cur/{name}{flags}" for flags in _USUAL)):
        if os.path.lexists(os.path.join(folder, at)):
            return at
    if not everywhere:
        return ""
    with os.scandir(os.path.join(folder, "cur")) as entries:
        for looks, entry in enumerate(entries):
            if entry.name.startswith(name):
                return f"cur/{entry.name}"
            if looks % _LOOKS == 0:
                _in_time(deadline)
    return ""


def _sweep(folder: str, name: str, now: float) -> None:
    """Removes what runs of this message that were killed left in tmp/; what cannot be removed is a reader's to remove."""
    with os.scandir(os.path.join(folder, "tmp")) as entries:
        for entry in entries:
            if not entry.name.startswith(name):
                continue
            try:
                if entry.stat(follow_symlinks=False).st_mtime < now - _ABANDONED:
                    os.unlink(entry.path)
            except OSError:
                continue


def _write(folder: str, name: str, content: tuple[bytes, bytes]) -> None:
    """tmp/, fsync, rename into new/, fsync the folder. The name in tmp/ is this run's own: two may run at once."""
    written = os.path.join(folder, "tmp", f"{name}.{os.urandom(8).hex()}")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            for part in content:
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(written, os.path.join(folder, "new", name))
    except BaseException:
        _remove(written)
        raise
    _sync(os.path.join(folder, "new"))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _sync(folder: str) -> None:
    """Makes a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError(errno.ETIMEDOUT, "the deadline passed")


def _outcome(error: OSError, folder: str) -> Outcome:
    mend = _MENDS.get(error.errno or 0)
    detail = f"{error.filename or folder}: {error.strerror or error}{': ' + mend if mend else ''}"
    kind: Literal["misconfigured", "unavailable"] = "misconfigured" if error.errno in _SET_UP else "unavailable"
    return Outcome(kind=kind, detail=one_line(detail, DETAIL_LIMIT))
