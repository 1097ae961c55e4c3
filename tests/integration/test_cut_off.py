"""A hundred deliveries cut off in mid-write by `postfix stop`, `postfix abort` or kill -9 of pipe(8): the app sees none.

A truncated standard input is a clean end of file. So half of the messages are made of blank lines: wherever they are cut off,
what came looks whole, and only what the script knows of its reader and its parent tells. Needs root and the package postfix.

How a cut is made certain: a shell stands where the interpreter should be and stops itself (SIGSTOP) before it becomes the
interpreter. Nobody reads, so pipe(8) fills the pipe and waits in mid-write. Then the reader may go on, or not, before the end.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import signal
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from demo.environment import Environment
from demo.postfix_instance import PrivatePostfix, wait_for
from tests.faulty_app import FaultyApp, Request
from tests.installation import DOMAIN, WEBHOOK_SECRET, Installation, webhook
from tests.integration.conftest import Letter, Service, ended, flush_if_idle, given, open_folder, post, wired

#: Deliveries cut off in each row; as many as master.cf lets run at once.
EACH = 10
#: Bytes of a message: many times what a pipe holds.
SIZE = 2_000_000
#: What a pipe holds (pipe(7)), less the piece that did not fit any more.
FULL = 65_536 - 4_096
TIMING = "timing: {deadline: 20s, lease: 21s}\n"

#: Stands where the interpreter should be. With the file `stop` there it waits to be continued; with `stay` it keeps running
#: while the script does, as a wrapper of a person's own would.
GATE = """#!/bin/sh
if [ -e {folder}/stop ]; then kill -STOP $$; fi
if [ -e {folder}/stay ]; then {python} "$@"; exit $?; fi
exec {python} "$@"
"""


class WholeApp(FaultyApp):
    """An app that notes what each message is without the Received field that Postfix put in front, and keeps no body."""

    def __init__(self) -> None:
        super().__init__(secrets=[WEBHOOK_SECRET])
        self.contents: list[tuple[str, str]] = []

    def take(self, request: Request) -> bool:
        """As FaultyApp; then the digest of what was sent, by Message-ID."""
        taken = super().take(request)
        if taken:
            data = json.loads(request.body)["data"]
            raw = base64.b64decode(data["raw"])
            self.contents.append((data["message"]["message_id"], digest(raw)))
        self.requests.clear()
        return taken


def digest(raw: bytes) -> str:
    """SHA-256 of a message from its first field that is not Postfix's Received, with CRLF line ends."""
    return hashlib.sha256(re.sub(rb"\AReceived: [^\r]*\r\n(?:[ \t][^\r]*\r\n)*", b"", raw)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How ten deliveries are cut off, and why that is a row of its own.

    `reader`: `late` = the script starts only when pipe(8) is gone; `waiting` = it has read what there was, and waits for more.
    `shell`: a shell stays between pipe(8) and the script, so that the script's parent lives on.
    """

    name: str
    end: Literal["kill", "stop", "abort"]
    reader: Literal["late", "waiting"]
    shell: bool = False
    why: str


CUTS = [
    Cut(name="kill, late", end="kill", reader="late", why="the script starts with its parent already gone"),
    Cut(name="kill, waiting", end="kill", reader="waiting", why="getppid() is still the old one at the end of file"),
    Cut(name="kill, waiting, again", end="kill", reader="waiting", why="the same: it is a race"),
    Cut(name="kill, late, shell", end="kill", reader="late", shell=True, why="the parent lives; the reader of stdout is gone"),
    Cut(name="kill, waiting, shell", end="kill", reader="waiting", shell=True, why="the same with a script that waits"),
    Cut(name="stop, late", end="stop", reader="late", why="the sysadmin's way; two runs at once after the start"),
    Cut(name="stop, waiting", end="stop", reader="waiting", why="the same with a script that waits"),
    Cut(name="stop, waiting, shell", end="stop", reader="waiting", shell=True, why="the same behind a shell"),
    Cut(name="abort, late", end="abort", reader="late", why="what a package's upgrade may do"),
    Cut(name="abort, waiting", end="abort", reader="waiting", why="the same with a script that waits"),
]  # fmt: skip


# --- who runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """A process, as /proc has it. `state`: T is stopped."""

    pid: int
    name: str
    state: str
    parent: int


def running(postfix: PrivatePostfix) -> list[Running]:
    """The processes of this instance: master, its services, and what pipe(8) runs, orphans too."""
    found = []
    for pid in postfix.processes():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/stat").read_text()
            name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            found.append(Running(pid, name, fields[0], int(fields[1])))
    return found


def in_pipe(pid: int) -> int:
    """How many bytes wait on a process's standard input; -1 where the process is gone."""
    try:
        file = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return -1
    try:
        return int(struct.unpack("i", fcntl.ioctl(file, termios.FIONREAD, b"\0\0\0\0"))[0])
    finally:
        os.close(file)


@dataclass(frozen=True)
class Held:
    """A delivery in mid-write: pipe(8), and what it started, stopped."""

    pipe: int
    reader: int


@dataclass
class Place:
    """The running Postfix, its app and the gate between them."""

    postfix: PrivatePostfix
    app: WholeApp
    made: Installation
    gate: Path
    letters: dict[str, Letter] = field(default_factory=dict)

    def send(self, name: str) -> None:
        """One large message: of text, or of blank lines that look whole wherever they are cut off."""
        blank = len(self.letters) % 2
        line = b"\n" * 76 if blank else b"x" * 75 + b"\n"
        head = f"From: A Person <person@example.org>\nSubject: {name}\n\n".encode()
        letter = post(self.postfix, name, f"reply+{self.made.key(name[-16:])}@{DOMAIN}", data=head + line * (SIZE // 76))
        self.letters[letter.message_id] = letter

    def of(self, cut: Cut) -> list[Letter]:
        """A row's messages."""
        return [letter for letter in self.letters.values() if letter.name.rpartition(" ")[0] == cut.name]

    def held(self) -> list[Held]:
        """Every delivery whose pipe(8) has filled the pipe to a stopped reader."""
        processes = running(self.postfix)
        pipes = {each.pid for each in processes if each.name == "pipe"}
        return [Held(each.parent, each.pid) for each in processes
                if each.state == "T" and each.parent in pipes and in_pipe(each.pid) >= FULL]  # fmt: skip

    def drained(self, reader: int) -> bool:
        """Whether the script has read what there was: the reader, or behind a shell the shell's child."""
        readers = {each.pid for each in running(self.postfix) if each.parent == reader} or {reader}
        return all(in_pipe(pid) == 0 for pid in readers)

    def arrived(self) -> bool:
        """Whether the app has every message; until then whatever waits in the queue is tried again."""
        there = {message_id for message_id, _ in self.app.contents}
        if set(self.letters) <= there:
            return True
        flush_if_idle(self.postfix)
        return False


def cut_off(place: Place, cut: Cut) -> int:
    """Sends, waits until each delivery is in mid-write, ends them as the row says; how many were cut off."""
    (place.gate / "stop").touch()
    if cut.shell:
        (place.gate / "stay").touch()
    for number in range(EACH):
        place.send(f"{cut.name} {number}")
    held = wait_for(lambda: found if len(found := place.held()) >= EACH else [], timeout=120, what=f"{EACH} in mid-write")
    (place.gate / "stop").unlink()
    if cut.reader == "waiting":
        for each in held:
            os.kill(each.pipe, signal.SIGSTOP)
            os.kill(each.reader, signal.SIGCONT)
        wait_for(lambda: all(place.drained(each.reader) for each in held), timeout=120, what="scripts that wait for more")
    if cut.end == "kill":
        for each in held:
            os.kill(each.pipe, signal.SIGKILL)
    else:
        place.postfix.stop(immediate=cut.end == "abort")
    for each in held:
        for pid in (each.pipe, each.reader):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    if cut.end != "kill":
        place.postfix.start()
    return len(held)


@pytest.fixture(scope="module")
def place(wheel: Environment) -> Iterator[Place]:
    """One Postfix, one app and one store for all rows."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder("cut"))
        app = stack.enter_context(WholeApp())
        made = given(folder / "installed", app=webhook(app.url()), more=TIMING)
        gate = folder / "gate"
        gate.mkdir(mode=0o755)
        python = gate / "python"
        python.write_text(GATE.format(folder=gate, python=wheel.python))
        python.chmod(0o755)
        postfix, outbox = stack.enter_context(wired([Service(made=made, python=str(python), script=wheel.pipe_script)]))
        stack.enter_context(ended(lambda: [each.pid for each in running(postfix) if each.state == "T"]))
        yield Place(postfix, app, made, gate)
        assert outbox.messages == [], "nothing has left this host"


def cut_and_come_again(place: Place, cut: Cut) -> list[str]:
    """Ten deliveries end in mid-write; none reaches the app before it is whole, all do then. Our lines about those cut off."""
    before = len(place.made.log_lines())
    try:
        assert cut_off(place, cut) == EACH, cut.why
        wait_for(place.arrived, timeout=180, what=f"every message at the app\n{place.postfix.log_tail()}")
    finally:
        for name in ("stop", "stay"):
            (place.gate / name).unlink(missing_ok=True)
    sent = {letter.message_id: digest(letter.data.replace(b"\n", b"\r\n")) for letter in place.of(cut)}
    seen = [content for content in place.app.contents if content[0] in sent]
    assert sorted(seen) == sorted(sent.items()), cut.why
    cuts = [line for line in place.made.log_lines()[before:] if "rule=incomplete-input" in line]
    assert (len([line for line in cuts if "no LF of flag B" in line]), len(cuts)) == (EACH / 2, EACH), "text, and all"
    return cuts


@pytest.mark.parametrize("cut", CUTS, ids=[cut.name for cut in CUTS])
def test_only_whole_messages_reach_the_app(place: Place, cut: Cut) -> None:
    """Ten deliveries end in mid-write; each is deferred as cut off, none reaches the app before it is whole, all do then."""
    cuts = cut_and_come_again(place, cut)
    assert len([line for line in cuts if "nobody reads our standard output" in line]) == EACH / 2, "blank lines look whole"


def test_each_message_came_once_or_as_the_same(place: Place) -> None:
    """Over all rows: each message has one id at the app, and what came under it was the same, byte for byte."""
    assert len(place.letters) == EACH * len(CUTS) == 100
    by_message: dict[str, set[tuple[str, str, str]]] = {}
    for taken in place.app.taken:
        by_message.setdefault(taken["message_id"], set()).add((taken["id"], taken["sha256"], taken["body_sha256"]))
    assert set(by_message) == set(place.letters)
    assert {message_id: seen for message_id, seen in by_message.items() if len(seen) > 1} == {}
    assert place.postfix.queue() == []
    assert [each for each in place.postfix.deliveries() if each.status == "bounced"] == []
