"""The regular expressions of `pattern` keys: a subset that a bounded walk can match, read into a program for that walk.

Promises: what it takes means what it means to Python's `re`, matched against the whole key. A program has at most `MAX_SIZE`
instructions. A mistake is told with its column and the mend, the first one in the expression.
Never: imports `re`; takes what no such walk can match (back-references) or what it would need a second one for (look-around).

The subset: characters, `.`, `\\d`, `\\w`, classes `[a-z0-9_.-]` and `[^...]`, `|`, `?`, `*`, `+`, `{n,m}`, groups `( )`,
`(?: )`, `(?P<subject> )` once and `(?P<option> )` any number of times. Why our own: docs/decisions/0005-pattern-keys.md.
"""

from __future__ import annotations

from gatepost.keys.formats import KEY_CHARACTERS, LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    Instruction = tuple[int, int, int]

__all__ = [
    "CLOSE_OPTION",
    "CLOSE_SUBJECT",
    "DONE",
    "EITHER",
    "GO",
    "MARK",
    "MAX_DEPTH",
    "MAX_EXPRESSION",
    "MAX_REPEAT",
    "MAX_SIZE",
    "OPEN_OPTION",
    "OPEN_SUBJECT",
    "SET",
    "PatternError",
    "parse",
]

MAX_EXPRESSION: Final = 1_000  # characters: a form that takes more to say is a list
MAX_SIZE: Final = 1_000  # instructions: with the longest key the worst walk over them takes 70 ms, measured
MAX_REPEAT: Final = LONGEST  # no key has more characters
MAX_DEPTH: Final = 20  # groups within groups: they are read recursively

#: An instruction is (what, one, other).
SET: Final = 0  # the next character is one of these (bits by code point); go on behind it
EITHER: Final = 1  # go on at `one`; if that fails, at `other`
GO: Final = 2  # go on at `one`
MARK: Final = 3  # note that `one` of the marks below stands here
DONE: Final = 4  # the key must end here

OPEN_SUBJECT: Final = 0
CLOSE_SUBJECT: Final = 1
OPEN_OPTION: Final = 2
CLOSE_OPTION: Final = 3

_SUBJECT: Final = "subject"
_MARKS: Final = {_SUBJECT: (OPEN_SUBJECT, CLOSE_SUBJECT), "option": (OPEN_OPTION, CLOSE_OPTION)}
_QUANTIFIERS: Final = "?*+{"
_FOREVER: Final = -1


class PatternError(ValueError):
    """What is wrong with an expression, with the mend. `column`: where, from 1; the text names it too."""

    def __init__(self, column: int, text: str) -> None:
        super().__init__(f"column {column}: {text}")
        self.column = column


def parse(expression: str) -> tuple[Instruction, ...]:
    """The program of an expression. Raises PatternError for what the subset does not have and for what would grow too large."""
    tree = _Parser(expression).whole()
    program: list[Instruction] = []
    tree.write(program)
    program.append((DONE, 0, 0))
    return tuple(program)


class _Node:
    """A part of an expression. `least`: length of the shortest text it takes; `size`: how many instructions `write` adds."""

    size: int
    least: int

    def write(self, program: list[Instruction]) -> None:
        raise NotImplementedError


class _Set(_Node):
    size, least = 1, 1

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def write(self, program: list[Instruction]) -> None:
        program.append((SET, self.bits, 0))


class _Sequence(_Node):
    def __init__(self, nodes: list[_Node]) -> None:
        self.nodes = nodes
        self.size = sum(node.size for node in nodes)
        self.least = sum(node.least for node in nodes)

    def write(self, program: list[Instruction]) -> None:
        for node in self.nodes:
            node.write(program)


class _Choice(_Node):
    def __init__(self, nodes: list[_Node]) -> None:
        self.nodes = nodes
        self.size = sum(node.size for node in nodes) + 2 * (len(nodes) - 1)
        self.least = min(node.least for node in nodes)

    def write(self, program: list[Instruction]) -> None:
        ends = []
        for node in self.nodes[:-1]:
            fork = _later(program)
            node.write(program)
            ends.append(_later(program))
            program[fork] = (EITHER, fork + 1, len(program))
        self.nodes[-1].write(program)
        for end in ends:
            program[end] = (GO, len(program), 0)


class _Repeat(_Node):
    def __init__(self, node: _Node, least: int, most: int) -> None:
        self.node, self.times, self.most = node, least, most
        more = node.size + 2 if most == _FOREVER else (node.size + 1) * (most - least)
        self.size = node.size * least + more
        self.least = node.least * least

    def write(self, program: list[Instruction]) -> None:
        for _ in range(self.times):
            self.node.write(program)
        forks = []
        for _ in range(1 if self.most == _FOREVER else self.most - self.times):
            forks.append(_later(program))
            self.node.write(program)
        if self.most == _FOREVER:
            program.append((GO, forks[0], 0))
        for fork in forks:
            program[fork] = (EITHER, fork + 1, len(program))


class _Named(_Node):
    def __init__(self, name: str, node: _Node) -> None:
        self.name, self.node = name, node
        self.size, self.least = node.size + 2, node.least

    def write(self, program: list[Instruction]) -> None:
        opening, closing = _MARKS[self.name]
        program.append((MARK, opening, 0))
        self.node.write(program)
        program.append((MARK, closing, 0))


def _later(program: list[Instruction]) -> int:
    """The place of an instruction that is written when its aim is known."""
    program.append((DONE, 0, 0))
    return len(program) - 1


def _bits(characters: str) -> int:
    bits = 0
    for character in characters:
        bits |= 1 << ord(character)
    return bits


_ANY: Final = _bits(KEY_CHARACTERS)
_SHORT: Final = {"d": _bits("0123456789"), "w": _bits("abcdefghijklmnopqrstuvwxyz0123456789_")}


class _Parser:
    """Reads an expression from left to right; `at` is the place of the next character."""

    def __init__(self, expression: str) -> None:
        self.text = expression
        self.at = self.depth = 0
        self.subject = 0  # its column, once it is named

    def whole(self) -> _Node:
        if not self.text:
            raise PatternError(1, "the expression is empty, and so matches no key")
        if len(self.text) > MAX_EXPRESSION:
            raise PatternError(MAX_EXPRESSION + 1, f"an expression has at most {MAX_EXPRESSION} characters: use format: list")
        self.at = self.text[0] == "^"  # it says what is so already
        node = self.choice()
        if self.next():
            raise self.error("no group is open for this ); write \\) for the character")
        if node.size >= MAX_SIZE:
            raise PatternError(
                1,
                f"written out, the expression has {node.size + 1} steps, {MAX_SIZE} are allowed: "
                "repeat fewer characters, or use * and + in place of {n,m}",
            )
        return node

    def next(self) -> str:
        return self.text[self.at : self.at + 1]

    def error(self, text: str, *, back: int = 0) -> PatternError:
        """At the next character, or some before it."""
        return PatternError(self.at + 1 - back, text)

    def choice(self) -> _Node:
        nodes = [self.sequence()]
        while self.next() == "|":
            self.at += 1
            nodes.append(self.sequence())
        return nodes[0] if len(nodes) == 1 else _Choice(nodes)

    def sequence(self) -> _Node:
        nodes: list[_Node] = []
        while self.next() not in ("", "|", ")"):
            if self.next() == "$" and self.at == len(self.text) - 1 and not self.depth:
                self.at += 1  # it says what is so already
                break
            nodes.append(self.repeated(self.one()))
        return _Sequence(nodes)

    def one(self) -> _Node:
        character = self.next()
        if character == "(":
            return self.group()
        if character == "[":
            return _Set(self.brackets())
        self.at += 1
        if character == ".":
            return _Set(_ANY)
        if character == "\\":
            return _Set(self.escaped())
        return _Set(self.plain(character, _MEANT))

    def plain(self, character: str, special: dict[str, str]) -> int:
        """The character that was just read, as it may stand in a key."""
        if character in special:
            raise self.error(f"{special[character]}; write \\{character} for the character", back=1)
        if "A" <= character <= "Z":
            raise self.error(f"keys are compared in lower case: write {character.lower()} for {character}", back=1)
        if character not in KEY_CHARACTERS:
            raise self.error("a key is printable ASCII without white space: take this character out", back=1)
        return _bits(character)

    def escaped(self) -> int:
        """What a backslash, which was just read, makes of the next character."""
        character = self.next()
        self.at += 1
        if not character:
            raise self.error("nothing follows the backslash; write \\\\ for the character", back=2)
        if character in _SHORT:
            return _SHORT[character]
        if character in _INSTEAD:
            raise self.error(f"write {_INSTEAD[character]} for \\{character}", back=2)
        if character.isdigit():
            raise self.error(
                f"\\{character} looks back at what a group took, and such a search can take for ever: "
                "write out what may stand here",
                back=2,
            )
        if character.isalpha():
            raise self.error(f"\\{character} is not known here: there are \\d, \\w, and \\ before punctuation", back=2)
        return self.plain(character, {})

    def brackets(self) -> int:
        start = self.at
        self.at += 1
        negated = self.next() == "^"
        self.at += negated
        bits = 0
        while self.next() != "]" or not bits:
            if not self.next():
                raise PatternError(start + 1, "this [ has no ] that closes it; write \\[ for the character")
            bits |= self.members()
        self.at += 1
        bits = _ANY & ~bits if negated else bits
        if not bits:
            raise PatternError(start + 1, "no character is left in this class: write . for any")
        return bits

    def members(self) -> int:
        """One member of a class, or a range."""
        first = self.member()
        if self.next() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return first
        self.at += 1
        dash = self.at
        last = self.member()
        if first.bit_count() > 1 or last.bit_count() > 1 or first > last:
            raise PatternError(dash, "a range goes from one character to a later one, as in a-z; write \\- for the character")
        return _ANY & (2 * last - first)

    def member(self) -> int:
        character = self.next()
        self.at += 1
        return self.escaped() if character == "\\" else self.plain(character, _MEANT_IN_CLASS)

    def group(self) -> _Node:
        start = self.at
        self.at += 1
        name = self.name() if self.next() == "?" else ""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(start + 1, f"groups may lie {MAX_DEPTH} deep: take some brackets out")
        node = self.choice()
        self.depth -= 1
        if self.next() != ")":
            raise PatternError(start + 1, "this ( has no ) that closes it; write \\( for the character")
        self.at += 1
        if name == _SUBJECT and not node.least:
            raise PatternError(start + 1, "the subject could be empty: let it take one or more, as + does in place of *")
        return _Named(name, node) if name else node

    def name(self) -> str:
        """The name of the group whose `(` was just read, "" for `(?:`."""
        start = self.at
        for spelled, name in _NAMES.items():
            if self.text.startswith(spelled, start):
                if name == _SUBJECT and self.subject:
                    raise self.error(f"column {self.subject} names the subject, and a key has one: write (?:...)", back=1)
                self.subject = self.subject or start * (name == _SUBJECT)
                self.at += len(spelled)
                return name
        if self.text.startswith(("?P<", "?<"), start) and self.text[start + 2 : start + 3] not in ("=", "!"):
            raise self.error("a group is named (?P<subject>...) or (?P<option>...); without a name write (?:...)", back=1)
        raise self.error(
            f"(?{self.text[start + 1 : start + 2]} is not known here, as flags and look-around are not: write "
            "(...) or (?:...), and write out what may stand here",
            back=1,
        )

    def repeated(self, node: _Node) -> _Node:
        """The node with the quantifier behind it, if there is one."""
        start, character = self.at, self.next()
        if not character or character not in _QUANTIFIERS:
            return node
        if character == "{":
            least, most = self.counts()
        else:
            least, most = int(character == "+"), 1 if character == "?" else _FOREVER
            self.at += 1
        follows = self.next()
        if follows and follows in _QUANTIFIERS:
            raise self.error(
                f"{self.text[start : self.at]}{follows} is not known here: take the {follows} out (the longest "
                "match is tried first), or put what it repeats into a group (?:...)"
            )
        return _Repeat(node, least, most)

    def counts(self) -> tuple[int, int]:
        """The numbers of {n}, {n,} or {n,m}."""
        start = self.at
        end = self.text.find("}", start)
        first, comma, second = self.text[start + 1 : max(end, start + 1)].partition(",")
        if not all(number.isascii() and number.isdigit() for number in (first, second or first)):
            raise self.error("write {n}, {n,} or {n,m} to repeat what stands before it, or \\{ for the character")
        if max(len(first), len(second)) > 3 or max(int(first), int(second or 0)) > MAX_REPEAT:
            raise self.error(f"no key has more than {MAX_REPEAT} characters: write a smaller number, or {{n,}} for any")
        least, most = int(first), int(second or (_FOREVER if comma else first))
        if second and most < least:
            raise self.error(f"{{{least},{most}}} ends before it begins: write {{{most},{least}}}")
        self.at = end + 1
        return least, most


_NAMES: Final = {"?:": "", **{f"?P<{name}>": name for name in _MARKS}}
_INSTEAD: Final = {"D": "[^0-9]", "W": "[^a-z0-9_]", "S": ".", "s": "nothing (a key has no white space)"}
_AT_AN_END: Final = "^ and $ change nothing and can stand at the two ends of the expression only"
_MEANT: Final = {
    "^": _AT_AN_END,
    "$": _AT_AN_END,
    "]": "no class is open for this ]",
    "}": "no number is open for this }",
    **{quantifier: f"there is nothing here for {quantifier} to repeat" for quantifier in _QUANTIFIERS},
}
_MEANT_IN_CLASS: Final = {"[": "a class holds no other class", "]": "a class holds one character or more"}
