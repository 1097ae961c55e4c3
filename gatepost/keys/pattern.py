"""Keys by a regular expression of the configuration, matched by a walk that cannot run long (docs/key-formats.md).

Promises: no pair of an instruction and a place in the key is visited twice, so a match takes at most
`MAX_SIZE` * (`LONGEST` + 1) steps, whatever the expression and the key. Both ends are anchored. Among several ways to
match it finds the one that Python's `re` finds: the first alternative, the longest repetition.
Never: imports `re` (6 ms of a run of the pipe script), raises on any text, or says that a key is live.
"""

from __future__ import annotations

from gatepost.keys.expression import (
    CLOSE_OPTION,
    CLOSE_SUBJECT,
    EITHER,
    GO,
    MARK,
    OPEN_OPTION,
    OPEN_SUBJECT,
    SET,
    PatternError,
    parse,
)
from gatepost.keys.formats import KEY_CHARACTERS, LONGEST, Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.keys.expression import Instruction

    #: (which, place, the marks before), the last one in front: ways that part later share their beginning.
    Marks = tuple[int, int, "Marks"] | None

__all__ = ["PatternError", "parse", "read"]


def read(text: str, program: tuple[Instruction, ...]) -> Reading | None:
    """What this key (lower case) is to an expression's program, or None. Kind "": an expression has none.

    The subject is what the group `subject` took, the whole key where there is no such group or the way led past it; the options
    are what the groups `option` took, in their order, empty ones left out.
    """
    if not 0 < len(text) <= LONGEST or text.strip(KEY_CHARACTERS):
        return None
    marks = _match(text.encode("ascii"), program)
    if marks is None:
        return None
    subject, options = text, []
    for which, start, end in _groups(marks):
        if which == OPEN_SUBJECT:
            subject = text[start:end]
        elif end > start:
            options.append(text[start:end])
    return Reading(kind="", subject=subject, options=tuple(options), raw=text)


def _match(key: bytes, program: tuple[Instruction, ...]) -> list[tuple[int, int]] | None:
    """The marks on the first way that takes the whole key, or None where there is none.

    Where a way comes to where another has been, it ends: what failed from there fails again.
    """
    length = len(key)
    been = bytearray(len(program) * (length + 1))
    ways: list[tuple[int, int, Marks]] = [(0, 0, None)]
    while ways:
        at, place, marks = ways.pop()
        while not been[at * (length + 1) + place]:
            been[at * (length + 1) + place] = 1
            what, one, other = program[at]
            if what == SET:
                if place == length or not one >> key[place] & 1:
                    break
                at, place = at + 1, place + 1
            elif what == EITHER:
                ways.append((other, place, marks))
                at = one
            elif what == GO:
                at = one
            elif what == MARK:
                at, marks = at + 1, (one, place, marks)
            elif place == length:  # DONE
                return _in_order(marks)
            else:
                break
    return None


def _in_order(marks: Marks) -> list[tuple[int, int]]:
    found = []
    while marks is not None:
        which, place, marks = marks
        found.append((which, place))
    return found[::-1]


def _groups(marks: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(mark that opened it, start, end) of each group that was gone through, in the order in which they began."""
    groups: list[tuple[int, int, int]] = []
    opened: list[int] = []
    for which, place in marks:
        if which in (OPEN_SUBJECT, OPEN_OPTION):
            opened.append(len(groups))
            groups.append((which, place, place))
        else:
            assert which in (CLOSE_SUBJECT, CLOSE_OPTION)
            at = opened.pop()
            groups[at] = (groups[at][0], groups[at][1], place)
    return groups
