"""Text of main.cf and master.cf: what stands there, ours put in, ours taken out again byte for byte.

Promises: what `put_in` did `take_out` undoes to the byte, wherever somebody else has changed other lines meanwhile; comments,
blank lines and continuation lines that are not ours stay as they are. What cannot be merged is a `Conflict` with its reason.
Never: reads or writes a file; runs a command; changes a setting of somebody else's that gatepost does not need.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Conflict",
    "Entry",
    "entries",
    "put_in",
    "serves",
    "service_key",
    "setting_key",
    "settings",
    "take_out",
    "with_settings",
]

#: The lines around ours. They are looked for whole: changing them orphans what older releases of the role have written.
BEGIN = "# --- gatepost, begin: written by Ansible; `postfix_state: absent` takes it out ---"
END = "# --- gatepost, end ---"
#: Right below BEGIN where the file's last line had no end.
_NO_END = "# (the line above had no end)"
#: In front of each line that ours takes the place of.
_FOUND = "#gatepost-found:"


class Conflict(Exception):  # noqa: N818  # it is an answer, not an accident
    """Ours and what is there cannot stand side by side; the text says why, and what a person can do."""


class Entry(NamedTuple):
    """A logical line (postconf(5), master(5)): its words, and the physical lines it stands on, comments between left out."""

    text: str
    lines: tuple[int, ...]


# -- the form of the files ---------------------------------------------------------------------------------------------------


def entries(text: str) -> list[Entry]:
    """The logical lines: a line that begins with white space goes on from the one above, past comments and blank lines."""
    found: list[tuple[list[str], list[int]]] = []
    for number, line in enumerate(text.split("\n")):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if line[0] in " \t" and found:
            found[-1][0].append(bare)
            found[-1][1].append(number)
        else:
            found.append(([bare], [number]))
    return [Entry(" ".join(words), tuple(numbers)) for words, numbers in found]


def setting_key(entry: Entry) -> str:
    """The name of a main.cf setting."""
    return entry.text.partition("=")[0].strip()


def service_key(entry: Entry) -> str:
    """`name/type` of a master.cf service."""
    return "/".join(entry.text.split()[:2])


def settings(text: str) -> dict[str, str]:
    """main.cf by name; of a name that stands twice the last one counts, as for Postfix."""
    return {setting_key(entry): entry.text.partition("=")[2].strip() for entry in entries(text) if "=" in entry.text}


def with_settings(text: str, wanted: Mapping[str, str]) -> str:
    """main.cf with these settings: each in the place of the one of that name, new ones at the end."""
    lines: list[str | None] = list(text.split("\n"))
    rest = dict(wanted)
    for entry in entries(text):
        name = setting_key(entry)
        if name not in wanted:
            continue
        for number in entry.lines:
            lines[number] = None
        if name in rest:
            lines[entry.lines[0]] = assignment(name, rest.pop(name))
    kept = "\n".join(line for line in lines if line is not None)
    if not rest:
        return kept
    return kept.rstrip("\n") + "\n\n" + "".join(assignment(name, value) + "\n" for name, value in rest.items())


def assignment(name: str, value: str) -> str:
    """One line of main.cf. Conflict for a value that would be two."""
    if "\n" in value or "\r" in value:
        raise Conflict(f"{name}: a setting of main.cf is one line")
    return f"{name} = {value}".rstrip()


# -- ours in a file that is somebody else's ----------------------------------------------------------------------------------


def put_in(text: str, ours: str, key: Callable[[Entry], str] = setting_key) -> str:
    """The file with `ours` at its end; entries outside that have the key of one of ours become comments.

    Put in twice is the same as once.
    """
    text = take_out(text)
    names = {key(entry) for entry in entries(ours)}
    lines = text.split("\n")
    for entry in entries(text):
        if key(entry) in names:
            for number in entry.lines:
                lines[number] = _FOUND + lines[number]
    text = "\n".join(lines)
    no_end = bool(text) and not text.endswith("\n")
    parts = [text, "\n" * no_end, BEGIN, "\n", f"{_NO_END}\n" * no_end, ours.rstrip("\n"), "\n", END, "\n"]
    return "".join(parts)


def take_out(text: str) -> str:
    """The file as it would be without us. Conflict where our block has a beginning and no end."""
    while BEGIN in (lines := text.split("\n")):
        begin = lines.index(BEGIN)
        if END not in lines[begin:]:
            raise Conflict(f"the line {END!r} is gone: put it back where gatepost's settings end")
        end = lines.index(END, begin)
        before, after = lines[:begin], lines[end + 1 :]
        if lines[begin + 1] == _NO_END and after in ([], [""]):
            after = []
        text = "\n".join([*before, *after])
    return "\n".join(line.removeprefix(_FOUND) for line in text.split("\n"))


# -- a Postfix that serves others, too ---------------------------------------------------------------------------------------


def serves(found: Mapping[str, str]) -> list[str]:
    """What a main.cf without us does for others, as `name = value`; nothing for a package's that nobody has configured."""
    if found.get("inet_interfaces", "all") in ("loopback-only", "localhost", "127.0.0.1"):
        return []
    names = ("virtual_mailbox_domains", "virtual_alias_domains", "relay_domains", "transport_maps")
    busy = [name for name in names if found.get(name, "") not in ("", "$mydestination")]
    own = {"$myhostname", "localhost.$mydomain", found.get("myhostname", "").lower()}
    local = (word.lower() for word in _words(found.get("mydestination", "")))
    if [word for word in local if "." in word and word not in own and not word.startswith("localhost.")]:
        busy.append("mydestination")
    return [f"{name} = {found[name]}" for name in busy]


def _words(value: str) -> list[str]:
    """A list of Postfix's: white space or commas between, braces held together."""
    return [word for word in re.findall(r"\{[^}]*\}|[^\s,{}]+", value) if word]
