"""Files that a power cut leaves whole: written beside their place, synced, renamed.

Promises: after `write` and `sync` the file is on the disk with all its bytes, and its name too; before, the name stands for
what it stood for, or for nothing. New files have mode 0600 whatever the umask allows.
Never: follows a symbolic link in the last part of a name; leaves its temporary file behind when it fails.
"""

from __future__ import annotations

import os

__all__ = ["TEMPORARY", "open_regular", "read", "sync", "write"]

#: How a temporary file's name ends. What a crash left of them may be deleted once it is old.
TEMPORARY = ".tmp"


def write(folder: int, name: str, data: bytes) -> None:
    """Puts `data` under `name` in the open folder, synced; the name itself is durable only after `sync`. Raises OSError."""
    temporary = f"{name}.{os.getpid()}.{os.urandom(4).hex()}{TEMPORARY}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        try:  # noqa: SIM105 contextlib is start-up time
            os.unlink(temporary, dir_fd=folder)
        except OSError:
            pass  # the first error is the one to tell
        raise


def read(folder: int, name: str) -> bytes:
    """The bytes of a regular file in the open folder. Raises OSError; a symbolic link or anything else is ENOTSUP or ELOOP."""
    file = open_regular(folder, name)
    with open(file, "rb") as stream:
        return stream.read()


def open_regular(folder: int, name: str) -> int:
    """A descriptor to read a regular file in the open folder: never a link, a pipe (which would hang) or a device."""
    import errno
    import stat

    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ENOTSUP, "not a regular file", name)
    return file


def sync(folder: int) -> None:
    """Makes the names in the open folder durable (fsync(2): a file's own fsync does not cover its name)."""
    os.fsync(folder)
