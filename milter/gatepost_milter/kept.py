"""A message on its way in: a little in memory, the rest in a file without a name.

Promises: at most IN_MEMORY bytes of a message in memory until it is read back; the file is gone with the process, whatever
ends it. The folder is the store's: it is ours alone, and a service that may write nowhere else may write there.
Never: keeps a message longer than its transaction; syncs (Postfix has the message).
"""

from __future__ import annotations

import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Final

__all__ = ["IN_MEMORY", "Kept"]

#: Bytes of one message in memory. Nine of ten messages are smaller, and several hundred sessions at once bear it.
IN_MEMORY: Final = 1_048_576


class Kept:
    """What has come of one message. Used by one thread at a time."""

    def __init__(self, folder: str) -> None:
        """`folder`: where the file lies once there is one."""
        self._folder = folder
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    @property
    def in_file(self) -> bool:
        """Is it larger than what may stand in memory?"""
        return self._file is not None

    def add(self, data: bytes) -> None:
        """Appends. Raises OSError where the disk does not take it."""
        self._memory += data
        self.size += len(data)
        if len(self._memory) > IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="milter.", buffering=0)  # noqa: SIM115  # `drop` closes it
        view = memoryview(self._memory)
        while view:
            written = self._file.write(view) or 0
            view = view[written:]
        view.release()
        self._memory = bytearray()

    def read(self) -> bytes:
        """All of it, and lets go of what was kept. Raises OSError."""
        if self._file is None:
            data = bytes(self._memory)
        else:
            self._file.seek(0)
            data = b"".join((self._file.read(), self._memory))
        if len(data) != self.size:
            raise OSError(f"{len(data)} bytes of {self.size} could be read back")
        self.drop()
        return data

    def drop(self) -> None:
        """Lets go of everything. May be called again."""
        self._memory = bytearray()
        self.size = 0
        file, self._file = self._file, None
        if file is not None:
            file.close()
