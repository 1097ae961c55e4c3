"""The thin pipe script: Postfix is told what the warm process says, and where nobody answers as it does, the whole job is done here."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatepost import answer
from gatepost.decision import RULES, Envelope
from gatepost.mail.canonical import from_pipe
from gatepost.settings import LmtpSettings, Timing
from gatepost_filter import contract, lmtp_connection, thin, transport
from gatepost_filter.lmtp_content import Content
from gatepost_filter.lmtp_session import GREETING, Session
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, install, message, webhook
from tests.lmtp_host import AS_OWNER, Serving, open_folder, wait_for
from tests.test_pipe import CUT_OFF, PIPE, QUEUE_ID, Ran, maildir, words

HELLO = f"{GREETING}\r\n".encode()
READY = b"250 2.0.0 Ok\r\n354 End\r\n"
DONE = b"250 2.0.0 accepted route=replies id=5f0c19a2b3c4d5e6\r\n"
DOT = b"\r\n.\r\n"
#: What stands in a row for something else than a text: nothing more; READY, once the test says so; DONE, octet by octet; a line
#: that goes on as long as anybody reads it.
SILENT, WAIT, DRIPS, ENDLESS = b"(silent)", b"(wait)", b"(drips)", b"(endless)"
NO_SERVER = "4.3.2 Temporarily not available, try later (rule=no-server)"
NOT_WHOLE = "4.3.0 Message was cut off, try later (rule=incomplete-input)"


def start(arguments: list[str], *, owner_of: Path | None = None) -> subprocess.Popen[bytes]:
    """Starts the script as pipe(8) does, by the argv of the thin service; `owner_of`: as the owner of this store."""
    script = [str(PIPE)] if owner_of is None else ["-c", AS_OWNER, str(owner_of), str(PIPE)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", *script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C"}, start_new_session=True,
    )  # fmt: skip


def run(arguments: list[str], data: bytes, *, owner_of: Path | None = None) -> Ran:
    """One whole run."""
    with start(arguments, owner_of=owner_of) as process:
        out, err = process.communicate(data, timeout=60)
    return Ran(process.returncode, out, err)


def own(path: Path | str, fallback: str = "local", deadline: float = 20) -> list[str]:
    """What makes it thin."""
    return [f"--socket={path}", f"--fallback={fallback}", f"--deadline={deadline:g}"]


@pytest.fixture
def made(tmp_path: Path) -> Installation:
    """An installation with a Maildir. Nobody serves it."""
    return install(tmp_path, app="", more="timing: {deadline: 20s, lease: 25s}")


# --- what it says -----------------------------------------------------------------------------------------------------------


def test_what_it_tells_without_the_rules_is_what_the_rules_say() -> None:
    """Texts and numbers that the script has for itself, so as to import nothing, are those of the modules that it does without."""
    for rule, line in thin._DEFERRALS.items():
        assert line == f"{RULES[rule].status} {RULES[rule].text}"
    assert contract.LINE_LIMIT == answer.LINE_LIMIT
    assert float(thin._OWN["deadline"]) == Timing.deadline == transport.DEFAULT_DEADLINE
    assert thin._OWN["fallback"] == LmtpSettings.fallback
    assert thin._ROOM > 2 * lmtp_connection._PATIENCE


ENVELOPES: list[tuple[str, dict[str, str], str]] = [
    ("ordinary", {}, "the plain case"),
    ("null sender", {"sender": ""}, "a bounce"),
    ("aliased", {"original-recipient": "old@in.example.com"}, "pipe(8) alone knows it"),
    ("no original recipient", {"original-recipient": ""}, "and where it does not, it is empty"),
    ("quoted", {"recipient": '"reply+a b>c"@in.example.com', "sender": r'"a\"> SIZE=1"@example.org'}, "flag q keeps the quotes"),
    ("UTF-8", {"sender": "käy@example.org", "recipient": "reply+ключ@in.example.com"}, "SMTPUTF8"),
    ("octets", {"sender": "\udcff@example.org", "helo": "\udc80"}, "no UTF-8: surrogates, as Python reads arguments"),
    ("white space", {"helo": "a b\tc", "recipient": '"a\r\nDATA"@in.example.com'}, "a line end in an address is no command"),
    ("hex", {"helo": "6162", "client-address": "unknown"}, "what looks like the encoding, and a client without an address"),
    ("IPv6", {"client-address": "IPv6:2001:db8::1"}, "as pipe(8) gives it"),
    ("no size", {"size": ""}, "for the log"),
    ("long", {"recipient": f"{'k' * 300}@in.example.com"}, "longer than a local part may be"),
]  # fmt: skip


@pytest.mark.parametrize("changes", [row[1] for row in ENVELOPES], ids=[row[0] for row in ENVELOPES])
def test_the_server_has_the_same_envelope_as_the_whole_script(made: Installation, changes: dict[str, str]) -> None:
    """Every argument goes through the socket to the letter, the original recipient and the size too."""
    arguments = [each for each in words(made, "reply+k@in.example.com") if each[2:].split("=")[0] not in changes]
    arguments += [f"--{name}={value}" for name, value in changes.items()]
    given_ = transport.arguments(arguments)
    del given_["config"]
    command, data, rest = thin._envelope(arguments).split(b"\r\n")
    session = Session()
    assert (session.command(command).reply[:3], data, rest) == ("250", b"DATA", b"")
    assert session.size == given_.pop("size")
    assert session.envelopes() == [Envelope(**given_)]
    assert session.command(data).then == "message"


class Sent:
    """Stands for a socket."""

    def __init__(self) -> None:
        self.data = b""

    def sendall(self, piece: bytes) -> None:
        self.data += piece


PIECES = st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"\n.\n", b"\r\n.\r\n", b"x" * 70, b"\r" * 9])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map(b"".join))
@example(b"")
@example(b".")
@example(b"a\r\n.\r")
@example(b".\r")
def test_the_server_has_the_same_message_as_the_whole_script(body: bytes) -> None:
    """Whatever stands in it: nothing but its end is its end, and raw is what the whole script makes of it."""
    sent = Sent()
    thin._send(sent, body + b"\n")  # type: ignore[arg-type]
    content = Content()
    assert content.feed(sent.data + b"\r\n.\r\n") == b""
    assert content.take() == from_pipe(body + b"\n")


# --- a server of a test's own -----------------------------------------------------------------------------------------------


@dataclass
class Fake:
    """Says at each turn what a row tells, once the client has said what it awaits; notes what it was sent."""

    path: Path
    heard: bytes = b""
    steps: list[tuple[bytes, bytes]] = field(default_factory=list)
    awaits: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        with listener:
            there, _ = listener.accept()
        with there:
            try:
                self._talk(there)
            except OSError:
                return

    def _talk(self, there: socket.socket) -> None:
        for wanted, said in self.steps:
            while wanted not in self.heard:
                came = there.recv(65_536)
                if not came:
                    return
                self.heard += came
            if said == WAIT:
                self.awaits.set()
                self.go_on.wait(30)
                said = READY
            if said == SILENT:
                self.awaits.set()
                while came := there.recv(65_536):
                    self.heard += came
                return
            while said == ENDLESS:
                there.sendall(b"220 " + b"x" * 4_096)
            if said == DRIPS:
                for octet in DONE:
                    there.sendall(bytes([octet]))
                    time.sleep(0.001)
                return
            there.sendall(said)


@contextmanager
def fake(path: Path, steps: list[tuple[bytes, bytes]]) -> Iterator[Fake]:
    """Listens for one client, whoever it is."""
    made = Fake(path, steps=steps)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(made.path))
    path.chmod(0o777)
    listener.listen(1)
    thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:  # where nobody came
            last.connect_ex(str(made.path))
        thread.join(30)
        path.unlink()
        assert not thread.is_alive()


BEGIN = (b"", HELLO)
ENVELOPE = (b"DATA\r\n", READY)
NONSENSE: list[tuple[str, list[tuple[bytes, bytes]], str]] = [
    ("closes at once", [], "it takes a connection and lets go of it"),
    ("greets and closes", [BEGIN], "it ends just then"),
    ("421", [(b"", b"421 4.3.2 Going down, come back\r\n")], "it is told to end; or we may not deliver"),
    ("another LMTP server", [(b"", b"220 mx LMTP Dovecot\r\n"), (b"DATA\r\n", READY), (DOT, DONE)], "none of ours: no message for it"),
    ("an SMTP server", [(b"", b"220-mx\r\n220 mx ESMTP\r\n"), ENVELOPE], "the same, in several lines"),
    ("500s", [BEGIN, (b"DATA\r\n", b"500 5.5.1 What?\r\n" * 2)], "a server of another version: no bounce"),
    ("a 550 before the message", [BEGIN, (b"DATA\r\n", b"250 2.0.0 Ok\r\n550 5.7.1 No\r\n")], "nobody refuses unseen"),
    ("451 to the envelope", [BEGIN, (b"DATA\r\n", b"451 4.5.2 Not understood\r\n451 4.5.1 Not now\r\n")], "it does not know one of our words"),
    ("421 at DATA", [BEGIN, (b"DATA\r\n", b"250 2.0.0 Ok\r\n421 4.3.2 Going down\r\n")], "about the server, and no message"),
    ("binary", [(b"", bytes(range(256)) * 8)], "something else listens"),
    ("an endless line", [(b"", ENDLESS)], "no line end, ever"),
    ("HTML", [(b"", b"HTTP/1.0 400 Bad Request\r\n\r\n<html>")], "a web server"),
    ("closes behind DATA", [BEGIN, ENVELOPE], "it ends before the message came"),
    ("an answer too early", [BEGIN, (b"DATA\r\n", READY + DONE)], "it was not about this message"),
    ("closes at the dot", [BEGIN, ENVELOPE, (DOT, b"")], "kill -9 in mid-delivery"),
    ("half an answer", [BEGIN, ENVELOPE, (DOT, DONE[:-1])], "the same: what has no end was not said"),
    ("an answer in several lines", [BEGIN, ENVELOPE, (DOT, b"250-2.0.0 accepted\r\n250 2.0.0 accepted\r\n")], "ours has one"),
    ("421 at the dot", [BEGIN, ENVELOPE, (DOT, b"421 4.3.2 Going down\r\n")], "about the server, and no message"),
    ("a 500 at the dot", [BEGIN, ENVELOPE, (DOT, b"500 5.5.1 What?\r\n")], "no rule says 500"),
    ("a status that contradicts", [BEGIN, ENVELOPE, (DOT, b"250 5.1.1 No such address\r\n")], "yes and no"),
    ("a deferral that contradicts", [BEGIN, ENVELOPE, (DOT, b"451 2.0.0 accepted\r\n")], "yes and no"),
    ("a code alone", [BEGIN, ENVELOPE, (DOT, b"250\r\n")], "ours has a text"),
    ("no status", [BEGIN, ENVELOPE, (DOT, b"250 Ok\r\n")], "ours has one"),
    ("no number", [BEGIN, ENVELOPE, (DOT, b"4xx 4.0.0 later\r\n")], "none of ours"),
    ("an endless answer", [BEGIN, ENVELOPE, (DOT, ENDLESS)], "no line end, ever"),
    ("silent", [(b"", SILENT)], "it hangs: after five seconds the script does not wait any longer"),
]  # fmt: skip


@pytest.mark.parametrize("fallback", ["local", "defer"])
@pytest.mark.parametrize("steps", [row[1] for row in NONSENSE], ids=[row[0] for row in NONSENSE])
def test_who_does_not_answer_as_ours_does_has_not_answered(
    made: Installation, steps: list[tuple[bytes, bytes]], fallback: str
) -> None:
    """The script does the whole job, or defers; the log says what happened. Nothing is refused, and nobody's 250 is believed."""
    recipient = made.address(made.key())
    with fake(made.folder / "fake.sock", steps) as server:
        ran = run(words(made, recipient) + own(server.path, fallback), message() + b"\n")
    (line,) = made.log_lines()
    if fallback == "defer":
        assert (ran.status, ran.line, maildir(made)) == (75, NO_SERVER, [])
        assert f"{QUEUE_ID}: action=defer rule=no-server" in line
    else:
        assert (ran.status, ran.line.split(" id=")[0], len(maildir(made))) == (0, "accepted route=replies", 1)
        assert f"{QUEUE_ID}: action=accept rule=accepted" in line


ANSWERS: list[tuple[str, list[tuple[bytes, bytes]], int, str, str]] = [
    ("accepted", [(DOT, DONE)], 0, "accepted route=replies id=5f0c19a2b3c4d5e6", "250 is the server's word, not the script's"),
    ("again", [(DOT, b"250 2.0.0 discarded rule=bounce id=1 again\r\n")], 0, "discarded rule=bounce id=1 again", "as it stands"),
    ("deferred", [(DOT, b"451 4.4.1 Not there (rule=app-unavailable)\r\n")], 75, "4.4.1 Not there (rule=app-unavailable)", "final"),
    ("another 4xx", [(DOT, b"452 4.3.1 Mail system full\r\n")], 75, "4.3.1 Mail system full", "the same"),
    ("no such address", [(DOT, b"550 5.1.1 No such address\r\n")], 67, "5.1.1 No such address", "EX_NOUSER"),
    ("not allowed", [(DOT, b"550 5.7.1 No\r\n")], 77, "5.7.1 No", "EX_NOPERM"),
    ("loop", [(DOT, b"550 5.4.6 Mail loop\r\n")], 69, "5.4.6 Mail loop", "EX_UNAVAILABLE"),
    ("octet by octet", [(DOT, DRIPS)], 0, "accepted route=replies id=5f0c19a2b3c4d5e6", "put together"),
    ("long", [(DOT, b"451 4.3.0 " + b"x" * 300 + b"\r\n")], 75, "4.3.0 " + "x" * 193, "cut as the whole script's"),
    ("no ASCII", [(DOT, "451 4.3.0 ä\x1b\r\n".encode())], 75, "4.3.0 ???", "never more than printable ASCII"),
    ("more than was asked", [(DOT, DONE + b"250 2.0.0 accepted id=2\r\n")], 0, "accepted route=replies id=5f0c19a2b3c4d5e6", "one recipient, one answer"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "status", "line"), [row[1:4] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_the_servers_answer_is_final(made: Installation, steps: list[tuple[bytes, bytes]], status: int, line: str) -> None:
    """Exit status and line are those of the whole script for that decision; nothing is done here, whatever `--fallback` says."""
    with fake(made.folder / "fake.sock", [BEGIN, ENVELOPE, *steps]) as server:
        ran = run(words(made, made.address(made.key())) + own(server.path), message() + b"\n")
    assert (ran.status, ran.line) == (status, line)
    assert server.heard.endswith(message().removesuffix(b"\n") + DOT)
    assert (maildir(made), made.log_lines()) == ([], []), "that is the server's"


def test_no_room_is_final(made: Installation) -> None:
    """A 4xx to DATA is about this message: doing the work here would be what the bounds are there to prevent."""
    said = b"250 2.0.0 Ok\r\n451 4.3.2 Too many messages at once, try later (rule=overloaded)\r\n"
    with fake(made.folder / "fake.sock", [BEGIN, (b"DATA\r\n", said)]) as server:
        ran = run(words(made, made.address(made.key())) + own(server.path), message() + b"\n")
    assert (ran.status, ran.line) == (75, "4.3.2 Too many messages at once, try later (rule=overloaded)")
    assert (maildir(made), made.log_lines()) == ([], [])
    assert b"From:" not in server.heard


def test_an_answer_in_the_middle_of_the_message_is_none(made: Installation) -> None:
    """Whatever it says: it was not about the whole message, which is done here then; the server gets no dot."""
    with fake(made.folder / "fake.sock", [BEGIN, ENVELOPE, (b"From: ", DONE), (DOT, DONE)]) as server:
        ran = run(words(made, made.address(made.key())) + own(server.path), message(size=2_000_000) + b"\n")
    assert (ran.status, len(maildir(made))) == (0, 1)
    assert not ran.line.endswith("id=5f0c19a2b3c4d5e6")
    assert DOT not in server.heard


# --- nobody there -----------------------------------------------------------------------------------------------------------


def a_file(path: Path) -> None:
    path.write_text("")


def left_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))


ABSENT: list[tuple[str, Callable[[Path], None], str]] = [
    ("no socket", lambda path: None, "ENOENT: it was never started"),
    ("a socket nobody listens on", left_behind, "ECONNREFUSED: kill -9"),
    ("a file", a_file, "ECONNREFUSED"),
    ("a folder", Path.mkdir, "ECONNREFUSED"),
]


@pytest.mark.parametrize("fallback", ["local", "defer"])
@pytest.mark.parametrize("make", [row[1] for row in ABSENT], ids=[row[0] for row in ABSENT])
def test_where_nobody_listens_the_script_does_the_job_or_defers(
    made: Installation, make: Callable[[Path], None], fallback: str
) -> None:
    """`local` is the whole job, `defer` leaves the message with Postfix under the rule `no-server`."""
    path = made.folder / "lmtp.sock"
    make(path)
    ran = run(words(made, made.address(made.key())) + own(path, fallback), message() + b"\n")
    assert (ran.status, ran.line.split(" id=")[0]) == (
        (0, "accepted route=replies") if fallback == "local" else (75, NO_SERVER)
    )
    assert len(maildir(made)) == (fallback == "local")


def test_where_the_queue_for_the_server_is_full_the_script_does_the_job(made: Installation) -> None:
    """EAGAIN: it does not wait for a place."""
    path = made.folder / "lmtp.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            waiting.append(client)
            if client.connect_ex(str(path)):
                break
        ran = run(words(made, made.address(made.key())) + own(path), message() + b"\n")
        for each in waiting:
            each.close()
    assert (ran.status, len(maildir(made))) == (0, 1)


def test_falling_back_finds_the_packages_of_a_venv(made: Installation) -> None:
    """Without a compiled copy the configuration needs YAML, which -S hides until the script falls back."""
    assert not (made.store / "config.compiled").exists()
    probe = "import sys; print('site' in sys.modules); import yaml"
    hidden = subprocess.run([sys.executable, "-I", "-S", "-c", probe], capture_output=True, check=False)
    assert (hidden.returncode, hidden.stdout) == (1, b"False\n"), "else this test shows nothing"
    ran = run(words(made, made.address(made.key())) + own(made.folder / "none"), message() + b"\n")
    assert (ran.status, len(maildir(made))) == (0, 1)


# --- its own time, signals, cut off -----------------------------------------------------------------------------------------


def test_a_server_that_never_answers_ends_at_the_deadline(made: Installation) -> None:
    """It may have handed over: the script defers, and the log has it."""
    with fake(made.folder / "fake.sock", [BEGIN, ENVELOPE, (DOT, SILENT)]) as server:
        ran = run(words(made, made.address(made.key())) + own(server.path, deadline=1), message() + b"\n")
    assert (ran.status, ran.line) == (75, "4.3.0 Took too long, try later (rule=deadline)")
    assert maildir(made) == []
    assert [f"{QUEUE_ID}: action=defer rule=deadline" in line for line in made.log_lines()] == [True]


def test_a_writer_that_never_ends_ends_at_the_deadline(made: Installation) -> None:
    """So does a message that does not come."""
    with start(words(made, made.address(made.key())) + own("/nowhere", deadline=1)) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"4.3.0 Took too long, try later (rule=deadline)\n"
        assert process.wait(30) == 75


def test_the_job_done_here_has_the_time_that_the_configuration_gives(tmp_path: Path) -> None:
    """--deadline is for the thin part: it ends no whole script whose app may take longer."""
    with FaultyApp(secrets=[WEBHOOK_SECRET], behaviour="hang") as app:
        made = install(tmp_path, app=webhook(app.url("mail")), more="timing: {deadline: 4s, lease: 5s}")
        ran = run(words(made, made.address(made.key())) + own(tmp_path / "none", deadline=2), message() + b"\n")
    assert (ran.status, ran.line.partition("(")[2]) == (75, "rule=app-unavailable)")


STAGES: list[tuple[str, list[tuple[bytes, bytes]]]] = [
    ("before the greeting", [(b"", SILENT)]),
    ("before the content", [BEGIN, (b"DATA\r\n", SILENT)]),
    ("before the answer", [BEGIN, ENVELOPE, (DOT, SILENT)]),
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("steps", [row[1] for row in STAGES], ids=[row[0] for row in STAGES])
def test_a_signal_defers(made: Installation, steps: list[tuple[bytes, bytes]], number: signal.Signals) -> None:
    """Whoever ends the script, and wherever it waits: at once, one line, and never a status that bounces."""
    with (
        fake(made.folder / "fake.sock", steps) as server,
        start(words(made, made.address(made.key())) + own(server.path)) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(message() + b"\n")
        process.stdin.close()
        assert server.awaits.wait(30)
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.read() == b"4.3.2 Interrupted, try later (rule=interrupted)\n"
        assert process.wait(30) == 75
    assert maildir(made) == []
    assert [f"{QUEUE_ID}: action=defer rule=interrupted" in line for line in made.log_lines()] == [True]


@pytest.mark.parametrize("data", [row[1] for row in CUT_OFF], ids=[row[0] for row in CUT_OFF])
def test_a_message_without_its_end_goes_to_nobody(made: Installation, data: bytes) -> None:
    """What does not end as flag B ends it is not even offered to the server."""
    with fake(made.folder / "fake.sock", [BEGIN, ENVELOPE, (DOT, DONE)]) as server:
        ran = run(words(made, made.address(made.key())) + own(server.path), data)
        heard = server.heard
    assert (ran.status, ran.line) == (75, NOT_WHOLE)
    assert (heard, maildir(made)) == (b"", [])
    assert [f"{QUEUE_ID}: action=defer rule=incomplete-input" in line for line in made.log_lines()] == [True]


def test_a_message_whose_reader_goes_away_gets_no_dot(made: Installation) -> None:
    """Blank lines look whole wherever they are cut off; the closed standard output tells that pipe(8) is gone, just in time."""
    with (
        fake(made.folder / "fake.sock", [BEGIN, (b"DATA\r\n", WAIT), (DOT, DONE)]) as server,
        start(words(made, made.address(made.key())) + own(server.path)) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"From: a@example.org\n\n")
        process.stdin.close()
        assert server.awaits.wait(30)
        process.stdout.close()
        server.go_on.set()
        assert process.wait(60) == 75
    assert server.heard.endswith(b"DATA\r\nFrom: a@example.org"), "the content, and no dot"
    assert maildir(made) == []
    assert ["reads our standard output" in line for line in made.log_lines()] == [True]


BAD: list[tuple[str, list[str], str]] = [
    ("fallback", ["--fallback=bounce"], "a typing error in master.cf"),
    ("deadline", ["--deadline=soon"], "the same"),
    ("no recipient limit", ["--recipient=c@in.example.com"], "pipe(8) gives --recipient once for each"),
    ("an unknown word", ["--verbose"], "a typing error"),
]


@pytest.mark.parametrize("more", [row[1] for row in BAD], ids=[row[0] for row in BAD])
def test_a_wrong_line_in_master_cf_defers(made: Installation, more: list[str]) -> None:
    """Arguments that master.cf should not give are our own fault, whoever finds them."""
    with fake(
        made.folder / "fake.sock", [BEGIN, (b"DATA\r\n", b"451 4.5.2 Not understood\r\n451 4.5.1 Not now\r\n")]
    ) as server:
        ran = run(words(made, made.address(made.key())) + own(server.path) + more, message() + b"\n")
    assert (ran.status, ran.line) == (75, "4.3.0 Temporary failure, try later (rule=internal-error)")
    assert maildir(made) == []


# --- the real server --------------------------------------------------------------------------------------------------------


def test_what_the_server_did_is_told_as_the_script_would_tell_it() -> None:
    """Accepted, then again, then by the whole script: one file, one id, one text; our own lines are the server's."""
    with open_folder() as folder:
        serving = Serving(folder)
        try:
            serving.start()
            arguments = words(serving.made, serving.made.address(serving.made.key()))
            first, again = (
                run(arguments + own(serving.path, "defer"), message() + b"\n", owner_of=serving.made.store) for _ in range(2)
            )
            alone = run(arguments, message() + b"\n", owner_of=serving.made.store)
        finally:
            serving.stop()
        assert first.line.startswith("accepted route=replies id=")
        assert [first.line + " again"] * 2 == [again.line, alone.line]
        assert len(serving.maildir()) == 1
        ours = [re.sub(r" ms=\d+", "", line.partition(": ")[2]) for line in serving.made.log_lines() if QUEUE_ID in line]
        assert (len(ours), ours[1]) == (3, ours[2])


def deaf_to_the_answer(listener: socket.socket, server: Path) -> None:
    """Stands between script and server: takes the server's answer to the message, and goes away instead of passing it on."""
    with listener:
        there, _ = listener.accept()
    with there, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as real:
        real.connect(str(server))
        there.sendall(real.recv(65_536))
        real.sendall(there.recv(65_536))
        said = b""
        while b"354 " not in said:
            said += real.recv(65_536)
        there.sendall(said)
        sent = b""
        while not sent.endswith(DOT):
            sent += there.recv(65_536)
        real.sendall(sent)
        assert real.recv(65_536).startswith(b"250 2.0.0 accepted")


def test_an_answer_that_got_lost_is_in_the_ledger() -> None:
    """The server has handed over, and the connection breaks: the script does the job, finds it done, and says so. Once, one id."""
    with open_folder() as folder:
        serving = Serving(folder)
        try:
            serving.start()
            path = folder / "between.sock"
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(path))
            path.chmod(0o777)
            listener.listen(1)
            between = threading.Thread(target=deaf_to_the_answer, args=(listener, serving.path), daemon=True)
            between.start()
            ran = run(
                words(serving.made, serving.made.address(serving.made.key())) + own(path),
                message() + b"\n",
                owner_of=serving.made.store,
            )
            between.join(30)
        finally:
            serving.stop()
        assert (ran.status, ran.line.startswith("accepted route=replies id="), ran.line.endswith(" again")) == (0, True, True)
        assert len(serving.maildir()) == 1


def test_a_server_that_is_killed_while_the_app_has_the_message() -> None:
    """kill -9: the script falls back and finds the lease taken; behind the lease the message is handed over under the same id."""
    with open_folder() as folder, FaultyApp(secrets=[WEBHOOK_SECRET], behaviour="hang") as app:
        serving = Serving(folder, app=webhook(app.url("mail")), more="timing: {deadline: 3s, lease: 3.2s}")
        arguments = words(serving.made, serving.made.address(serving.made.key())) + own(serving.path)
        try:
            serving.start()
            with start(arguments, owner_of=serving.made.store) as process:
                assert process.stdin is not None
                process.stdin.write(message() + b"\n")
                process.stdin.close()
                wait_for(lambda: app.requests, "the app to be asked")
                for each in (serving.pid, *serving.workers()):
                    os.kill(each, signal.SIGKILL)
                assert process.stdout is not None
                assert process.stdout.read() == b"4.3.2 Already being delivered, try later (rule=in-flight)\n"
                assert process.wait(30) == 75
        finally:
            serving.stop()
        app.behaviour = "ok"
        lines: list[str] = []

        def delivered() -> bool:
            lines.append(run(arguments, message() + b"\n", owner_of=serving.made.store).line)
            return "in-flight" not in lines[-1]

        wait_for(delivered, "the end of the lease")
        assert lines[-1].startswith("accepted route=replies id=")
        first, second = app.requests
        assert first.fields["webhook-id"] == second.fields["webhook-id"]
        assert first.body == second.body
        assert len(app.taken) == 1
