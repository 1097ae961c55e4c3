"""Canonical forms of head and body, and the body's hash (RFC 6376 3.4).

Promises: linear in the message, whatever it holds: no regular expression runs over a stranger's white space. A body is hashed
once for each form, however many signatures ask; memory beside the message is a block of it.
Never: changes the message; raises.
"""

from __future__ import annotations

import hashlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

__all__ = ["Body", "relaxed_field", "simple_field"]

_CRLF: Final = b"\r\n"
_WSP: Final = b" \t"
#: Octets of the body that are worked on at once. A longer line is worked on whole.
_BLOCK: Final = 262_144


class Body:
    """The part of `raw` behind the head."""

    def __init__(self, raw: bytes, start: int) -> None:
        self._raw = raw
        self._start = start
        self._hashes: dict[bool, bytes] = {}

    def sha256(self, *, relaxed: bool) -> bytes:
        """SHA-256 of the body in its relaxed or simple form."""
        if relaxed not in self._hashes:
            self._hashes[relaxed] = self._relaxed() if relaxed else self._simple()
        return self._hashes[relaxed]

    def _simple(self) -> bytes:
        end = _content_end(self._raw, self._start)
        digest = hashlib.sha256(memoryview(self._raw)[self._start : end])
        digest.update(_CRLF)
        return digest.digest()

    def _relaxed(self) -> bytes:
        digest = hashlib.sha256()
        empty = True
        withheld = 0  # CRLFs that count only if something follows
        for block in _blocks(self._raw, self._start):
            lines = _one_space(block).replace(b" \r\n", _CRLF)
            end = _content_end(lines, 0)
            if end:
                digest.update(_CRLF * withheld)
                digest.update(memoryview(lines)[:end])
                empty = False
                withheld = 0
            withheld += (len(lines) - end) // 2
        if not empty:
            digest.update(_CRLF)
        return digest.digest()


def simple_field(octets: bytes) -> bytes:
    """A whole field, with its line end, as it came."""
    return octets


def relaxed_field(octets: bytes) -> bytes:
    """A whole field: name in lower case, unfolded, white space to one space, none at the ends or around the colon."""
    name, _, value = octets.partition(b":")
    return name.lower().rstrip(_WSP) + b":" + _one_space(value.replace(_CRLF, b"")).strip(_WSP) + _CRLF


def _one_space(octets: bytes) -> bytes:
    """Each run of spaces and tabs as one space. A run of n takes log n passes."""
    octets = octets.replace(b"\t", b" ")
    while b"  " in octets:
        octets = octets.replace(b"  ", b" ")
    return octets


def _blocks(raw: bytes, start: int) -> Iterator[bytes]:
    """The body in blocks that end in CRLF; the last one gets one where it has none."""
    while start < len(raw):
        end = raw.rfind(_CRLF, start, start + _BLOCK)
        if end < 0:
            end = raw.find(_CRLF, start + _BLOCK - 1)
        if end < 0:
            rest = raw[start:]
            # white space at the very end, without a line end behind it, is at the end of its line all the same
            yield rest + _CRLF
            return
        yield raw[start : end + 2]
        start = end + 2


def _content_end(octets: bytes, start: int) -> int:
    """Where the CRLFs at the end begin. Doubles, then halves: a body of nothing else takes 40 comparisons."""
    end = len(octets)
    if not octets.endswith(_CRLF, start):
        return end
    fits = 1
    while octets.endswith(_CRLF * (2 * fits), start):
        fits *= 2
    step = fits
    while step > 1:
        step //= 2
        if octets.endswith(_CRLF * (fits + step), start):
            fits += step
    return end - 2 * fits
