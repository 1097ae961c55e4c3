"""A list of keys, or of their hashes, in a file: a key is live if a line has it (docs/key-formats.md).

Promises: no loop over lines: a few searches in each block, 0.1 s for 1,000,000 hashes (72 MB); all blocks, whether the key is
there or not and wherever it stands; at most a block and a line in memory. A line counts only whole, and case does not matter.
Never: reads the file (its content is an argument, in blocks), raises on any text or content, or takes a hash for a key: who can
read a file of hashes has no key.

    KEY                     a key, or
    sha256:64 HEX DIGITS    the SHA-256 of a key in lower case; behind either, after white space, a subject
    # comment               a whole line; behind a key after white space
"""

from __future__ import annotations

from gatepost.digest import sha256
from gatepost.keys.formats import KEY_CHARACTERS, LONGEST, Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

__all__ = ["BLOCK", "line_of", "problems", "read"]

#: Octets to read from a file at a time: what is made of them stays in the processor's cache.
BLOCK: Final = 262_144

_HASH: Final = b"sha256:"
_HEX: Final = b"0123456789abcdef"
_COMMENT: Final = b"#"
_END: Final = b"\n"
_BEHIND: Final = (b"\n", b" ", b"\t", b"\r")
_SPACE: Final = b" \t\r"
#: Octets of a line; a longer one is none of ours. A key has 254, a subject is a database's id or a path.
_LINE: Final = 4_096
#: Mistakes that `problems` tells: who has more has another file.
_TOLD: Final = 20


def read(text: str, blocks: Iterable[bytes]) -> Reading | None:
    """What the list says of this key (lower case), or None. `blocks`: its content, one behind the other, of any sizes.

    Kind "" (a list has none). Of several lines for one key the first counts. The subject is the line's, without characters
    that cannot be printed; the key itself where the line has none.
    """
    if not 0 < len(text) <= LONGEST or text.strip(KEY_CHARACTERS):
        return None
    key = text.encode("ascii")
    if key.startswith((_HASH, _COMMENT)):
        return None
    hashed = _HASH + sha256(key).hex().encode("ascii")
    found: bytes | None = None
    for data, end in _whole_lines(blocks):
        rest = _find(data, end, key, hashed)  # every block, found or not: the time says nothing of the place
        found = rest if found is None else found
    return None if found is None else Reading(kind="", subject=_subject(found) or text, raw=text)


def line_of(key: str, subject: str = "") -> str:
    """The line, without its end, that puts a key on a list without giving the key away. Any case."""
    return f"sha256:{sha256(key.lower().encode('utf-8', 'surrogatepass')).hex()} {subject}".rstrip()


def problems(content: bytes) -> Iterator[tuple[int, str]]:
    """Lines that no key can match, by their number from 1, and the mend; 20 at most. For checks: it does go line by line."""
    told = 0
    for number, line in enumerate(content.split(_END), 1):
        wrong = _wrong(line)
        if wrong:
            yield number, wrong
            told += 1
            if told == _TOLD:
                return


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """The content again, in pieces that begin with the end of the line before, each with where its last whole line ends."""
    rest = _END
    for block in blocks:
        data = rest + block
        end = data.rfind(_END)
        if end < 0:
            rest = b""  # in the middle of a line too long
            continue
        yield data, end + 1
        rest = data[end:] if len(data) - end <= _LINE else b""
    if rest:
        yield rest + _END, len(rest) + 1


def _find(data: bytes, stop: int, key: bytes, hashed: bytes) -> bytes | None:
    """What stands behind this key, or its hash, on the first line that has one of them.

    Each search is for the whole field with both its ends, so that a stranger's key meets no line but its own.
    """
    folded = data.lower()  # as long as what it folds
    behind = [end for end in _BEHIND if end in folded]
    whole = [(_END + field + end, len(field)) for field in (key, hashed) for end in behind]
    places = [(at, length) for field, length in whole if (at := folded.find(field, 0, stop)) >= 0]
    if not places:
        return None
    at, length = min(places)
    line_end = data.find(_END, at + 1)
    return data[at + 1 + length : line_end] if line_end - at <= _LINE else None


def _subject(rest: bytes) -> str:
    """What stands behind a key on its line, without a comment."""
    line = rest.replace(b"\t", b" ")
    comment = line.find(b" #")
    words = (line if comment < 0 else line[:comment]).strip(_SPACE).decode("utf-8", "replace")
    return words if words.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in words)


def _wrong(line: bytes) -> str:
    """Why no key can match this line, "" where one can or it is no key's line."""
    field = line.rstrip(_SPACE)
    if not field or field.startswith(_COMMENT):
        return ""
    if len(line) > _LINE:
        return f"the line is longer than {_LINE} octets"
    if field[:1] in (b" ", b"\t"):
        return "white space stands in front: begin the line with the key"
    field = field.replace(b"\t", b" ").partition(b" ")[0].lower()
    if field.startswith(_HASH):
        digits = field.removeprefix(_HASH)
        return "" if len(digits) == 64 and not digits.strip(_HEX) else "sha256: is followed by 64 hex digits"
    if len(field) > LONGEST:
        return f"the key is longer than {LONGEST} octets: no address carries it"
    if field.startswith(b"\xef\xbb\xbf"):
        return "the file begins with a byte order mark: save it as UTF-8 without one"
    if field.strip(KEY_CHARACTERS.encode("ascii")):
        return "a key is printable ASCII: an address carries nothing else"
    return ""
