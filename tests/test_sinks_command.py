"""The command: what a program is given, what its end means, and that nothing of it stays."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gatepost.decision import Finding, Thread
from gatepost.settings import Sink
from gatepost.sinks import command, deliver
from gatepost.sinks.command import environment
from gatepost.sinks.delivery import Outcome
from tests.test_sinks import FORBIDDEN, HERE, ID, MESSAGE, in_seconds, make_delivery

if TYPE_CHECKING:
    from gatepost.sinks.delivery import OutcomeKind

#: The statuses that do not mean "later".
STATUSES = {
    0: "delivered",
    65: "refused",  # EX_DATAERR
    67: "refused",  # EX_NOUSER
    77: "refused",  # EX_NOPERM
    78: "misconfigured",  # EX_CONFIG
    126: "misconfigured",  # the shell's and env's: cannot be executed
    127: "misconfigured",  # theirs: not found
}
#: Signals that end nobody: ignored by default, or (TSTP, TTIN, TTOU) without effect in a group that has no terminal.
HARMLESS = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """After each test: no child, zombies included, no descriptor, the same folder and umask."""
    before = open_descriptors(), os.getcwd(), current_umask()
    yield
    command._reap_left_behind()  # on a machine under load a killed program may outlast its short time here
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert (open_descriptors(), os.getcwd(), current_umask()) == before


def open_descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def current_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sink(*argv: str) -> Sink:
    return Sink(name="app", kind="command", target=argv[0] if argv else "", argv=argv)


def shell(script: str, *words: object, raw: bytes = MESSAGE, seconds: float = 60, **changes: Any) -> Outcome:
    """Hands a message to a small shell script; `words` are its $1 and so on."""
    argv = ("/bin/sh", "-c", script, "sh", *map(str, words))
    return deliver(sink(*argv), make_delivery(raw, **changes), deadline=in_seconds(seconds))


def until(what: Callable[[], object], seconds: float = 30) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def living(group: int) -> list[str]:
    """The processes of a group that run: zombies, which their parent will reap, do not."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, _, of_group = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(of_group) == group and state != "Z":
                found.append(name)
    return found


def group_in(file: Path) -> int:
    """The number that a script wrote with `echo $$`: its process id, which is its group's."""
    return int(file.read_text())


# -- what the end means


@pytest.mark.parametrize("status", range(256))
def test_each_exit_status_means_one_thing(status: int) -> None:
    """0 has it; 65, 67 and 77 refuse; 78, 126 and 127 say that the set-up is wrong; every other one means later."""
    outcome = shell(f"exit {status}")
    assert outcome.kind == STATUSES.get(status, "unavailable")
    assert outcome.detail.startswith(f"status {status}")
    assert outcome.text == ""


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_each_signal_means_later(number: int) -> None:
    """A program that a signal ends, or stops for good, does not have the message, whichever it is."""
    outcome = shell("kill -$1 $$; exit 0", number, seconds=0.5 if number == signal.SIGSTOP else 60)
    assert outcome.kind == ("delivered" if number in HARMLESS else "unavailable")
    if number == signal.SIGSTOP:
        assert "still running" in outcome.detail
    elif number not in HARMLESS:
        assert f"signal {number} (" in outcome.detail


@pytest.mark.parametrize(
    ("script", "kind", "text", "detail"),
    [
        pytest.param("echo '5.7.1 Closed for the night.'; exit 77", "refused", "Closed for the night.",
                     "status 77, refused: 5.7.1 Closed for the night.", id="as pipe(8) reads it"),
        pytest.param("printf '5.1.1 No\\tsuch\\0topic'; exit 67", "refused", "No such topic",
                     "status 67, refused: 5.1.1 No such topic", id="one clean line"),
        pytest.param("echo; echo '5.1.1 a'; echo '5.1.1 b'; exit 67", "refused", "a", "status 67, refused: 5.1.1 a ... 5.1.1 b",
                     id="the first line that says something"),
        pytest.param("echo 'loading /srv/app'; exit 65", "refused", "", "status 65, refused: loading /srv/app",
                     id="no code: not for the sender"),
        pytest.param("echo '5.7.1 secret' >&2; exit 65", "refused", "", "status 65, refused: 5.7.1 secret",
                     id="standard error is never for the sender"),
        pytest.param("echo '5.7.1'; exit 65", "refused", "", "status 65, refused: 5.7.1", id="a code alone"),
        pytest.param("echo '5.7 x'; exit 65", "refused", "", "status 65, refused: 5.7 x", id="no whole code"),
        pytest.param("echo '5.7.1000 x'; exit 65", "refused", "", "status 65, refused: 5.7.1000 x", id="no code: four digits"),
        pytest.param("echo '2.0.0 x'; exit 65", "refused", "", "status 65, refused: 2.0.0 x", id="no code of a refusal"),
        pytest.param("echo '4.2.2 Full.'; exit 77", "unavailable", "", "status 77, but its output says later: 4.2.2 Full.",
                     id="says later while it refuses: later"),
        pytest.param("echo '5.7.1 No.'; exit 75", "unavailable", "", "status 75: 5.7.1 No.", id="says no with later's status"),
        pytest.param("echo '5.7.1 No.'; exit 1", "unavailable", "", "status 1: 5.7.1 No.", id="a status of no meaning: later"),
        pytest.param("echo 'ticket 7'", "delivered", "", "status 0: ticket 7", id="what it has to say of a success"),
        pytest.param("echo out; echo err >&2; exit 1", "unavailable", "", "status 1: err", id="standard error goes first"),
        pytest.param("printf 'Traceback:\\n  one\\n  two\\nKeyError: 7\\n' >&2; exit 1", "unavailable", "",
                     "status 1: Traceback: ... KeyError: 7", id="first and last line"),
        pytest.param("printf '\\033[1mbold\\r\\377' >&2; exit 1", "unavailable", "", "status 1: [1mbold \ufffd",
                     id="no control characters"),
    ],
)  # fmt: skip
def test_words_of_a_program(script: str, kind: OutcomeKind, text: str, detail: str) -> None:
    """The log gets a line or two. The sender of a refused message gets only what stands behind a 5.x.y on standard output."""
    assert shell(script) == Outcome(kind=kind, text=text, detail=detail)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_long_words_are_cut(stream: str) -> None:
    """Of long lines and of many, some hundred characters reach the log, the beginning and the end among them."""
    many = "head -c 5000 /dev/zero"
    detail = shell(f"{{ printf first; {many} | tr '\\0' a; echo; {many}; echo; echo last; }} >&{stream}; exit 1").detail
    assert re.fullmatch(r"status 1: firsta{145} \.\.\. last", detail)


def test_text_for_the_sender_is_cut() -> None:
    """A refusal's text fits a reply line."""
    assert shell("printf '5.7.1 '; head -c 5000 /dev/zero | tr '\\0' a; exit 77").text == "a" * 200


# -- the message


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(MESSAGE, id="small"),
        pytest.param(b"", id="empty"),
        pytest.param(b"From: a@example.org\r\n\r\nbare \r CR, \r\r\n, NUL \0, \xff, no end", id="odd octets"),
        pytest.param(b"X-Gatepost-Id: a stranger's\r\n\r\n.\r\nFrom me\r\n", id="nothing added, taken out or quoted"),
        pytest.param(b"\r\n" + b"0123456789abcdef\r\n" * 580_000, id="10 MB"),
    ],
)
def test_program_reads_the_message(raw: bytes, tmp_path: Path) -> None:
    """Standard input is the message as it came, with LF line ends, and then it ends."""
    assert shell('cat >"$1"', tmp_path / "seen", raw=raw).kind == "delivered"
    assert (tmp_path / "seen").read_bytes() == raw.replace(b"\r\n", b"\n")


LARGE = b"Subject: large\r\n\r\n" + b"x" * 10_000_000


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param("exit 0", "delivered", id="unread: its status decides"),
        pytest.param("exit 75", "unavailable", id="unread, later"),
        pytest.param("exec <&-; exit 0", "delivered", id="closed"),
        pytest.param("head -c 5000000 >/dev/null; exit 67", "refused", id="half read"),
        pytest.param("for i in 1 2 3 4 5; do dd bs=1 count=99 2>/dev/null >/dev/null; done", "delivered", id="dripping"),
        pytest.param("kill -9 $$", "unavailable", id="killed before it reads"),
    ],
)
def test_large_message_never_blocks(script: str, kind: str) -> None:
    """However little of 10 MB a program reads, and however slowly, nobody waits for it to read the rest."""
    assert shell(script, raw=LARGE).kind == kind


def test_program_may_seek_in_the_message(tmp_path: Path) -> None:
    """Standard input can be read twice: a wrapper may look at the head and hand on the whole."""
    script = 'head -n 1 >"$1/head"; cat /dev/stdin >"$1/whole"'
    assert shell(script, tmp_path).kind == "delivered"
    assert (tmp_path / "head").read_bytes() == MESSAGE.split(b"\r\n")[0] + b"\n"
    assert (tmp_path / "whole").read_bytes() == MESSAGE.replace(b"\r\n", b"\n")


DELIVER = """if True:
    import os, sys, threading, time
    sys.path[:0] = sys.argv[1:2]
    from gatepost.settings import Sink
    from gatepost.sinks import command, deliver
    from tests.test_sinks import make_delivery
    words = tuple(sys.argv[2:])
    sink = Sink(name="app", kind="command", target=words[0], argv=words)
    raw = b"Subject: x\\r\\n\\r\\n" + b"x" * 3_000_000
    def run():
        return deliver(sink, make_delivery(raw), deadline=time.monotonic() + 120)
"""


def start(code: str, *words: object) -> subprocess.Popen[str]:
    """A process of its own that runs DELIVER and then `code`."""
    arguments = [sys.executable, "-c", f"{DELIVER}\n{code}", os.path.join(HERE, ".."), *map(str, words)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_message_is_whole_even_if_we_are_killed(tmp_path: Path) -> None:
    """kill -9 of the one who delivers cuts nothing off: a program that reads only then still finds the whole message."""
    script = """cd "$1"; echo $$ >new; mv new pid
        until [ -e go ]; do sleep 0.02; done
        cat >part; mv part seen"""
    with start("run()", "/bin/sh", "-c", script, "sh", tmp_path) as process:
        until((tmp_path / "pid").exists)
        process.kill()
        process.wait()
    (tmp_path / "go").touch()
    until((tmp_path / "seen").exists)
    assert (tmp_path / "seen").read_bytes() == b"Subject: x\n\n" + b"x" * 3_000_000
    until(lambda: not living(group_in(tmp_path / "pid")))


# -- the environment


def seen_environment(tmp_path: Path, **changes: Any) -> dict[str, str]:
    """The environment that a program was started with, as the kernel has it."""
    outcome = shell('cat "/proc/$$/environ" >"$1"', tmp_path / "environ", **changes)
    assert outcome.kind == "delivered", outcome
    entries = (tmp_path / "environ").read_bytes().decode("utf-8").split("\0")
    assert entries.pop() == ""
    return dict(entry.split("=", 1) for entry in entries)


def test_environment_is_exactly_what_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base, each fact, and nothing of ours."""
    for name in ("SECRET_MARKER", "LD_PRELOAD_MARKER", "GATEPOST_MARKER", "PYTHONPATH", "HOME"):
        monkeypatch.setenv(name, "/leaked")
    monkeypatch.setenv("PATH", f"/leaked:{os.environ['PATH']}")
    seen = seen_environment(
        tmp_path,
        sender_verified="yes",
        sender_verified_by="dmarc mx.example.com",
        thread=Thread(found_in="In-Reply-To", parent_message_id="<reply-k3y.r@in.example.com>"),
        findings=(
            Finding(slug="precedence", family="automatic", evidence="Precedence: bulk"),
            Finding(slug="precedence", family="automatic", evidence="Precedence: list"),
            Finding(slug="bare-cr", family="parser", evidence="a CR alone"),
        ),
    )
    assert seen == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "GATEPOST_ID": ID,
        "GATEPOST_ROUTE": "replies",
        "GATEPOST_RECEIVED_AT": "1795255200",
        "GATEPOST_KEY": "k3y",
        "GATEPOST_KEY_SUBJECT": "topic-7",
        "GATEPOST_KEY_OPTIONS": "x",
        "GATEPOST_SENDER": "reka@example.org",
        "GATEPOST_SENDER_VERIFIED": "yes",
        "GATEPOST_SENDER_VERIFIED_BY": "dmarc mx.example.com",
        "GATEPOST_RECIPIENT": "reply+k3y@in.example.com",
        "GATEPOST_ORIGINAL_RECIPIENT": "Reply+K3Y@in.example.com",
        "GATEPOST_CLIENT_ADDRESS": "192.0.2.7",
        "GATEPOST_HELO": "mail.example.org",
        "GATEPOST_QUEUE_ID": "4jWl4Z5tH8zJv6D",
        "GATEPOST_THREAD_FOUND_IN": "In-Reply-To",
        "GATEPOST_THREAD_PARENT_MESSAGE_ID": "<reply-k3y.r@in.example.com>",
        "GATEPOST_FINDINGS": "precedence bare-cr",
        "GATEPOST_SHA256": hashlib.sha256(MESSAGE).hexdigest(),
        "GATEPOST_TOO_LONG": "",
    }


def test_every_name_is_there_when_there_is_nothing_to_say(tmp_path: Path) -> None:
    """Without key, thread and sender the variables are empty, so that a script under `set -u` runs."""
    full = set(seen_environment(tmp_path))
    seen = seen_environment(tmp_path, key=None, sender="", queue_id="", helo="", client_address="", original_recipient="")
    assert set(seen) == full
    empty = {"KEY", "KEY_SUBJECT", "KEY_OPTIONS", "SENDER", "ORIGINAL_RECIPIENT", "CLIENT_ADDRESS", "HELO", "QUEUE_ID",
             "SENDER_VERIFIED_BY", "THREAD_FOUND_IN", "THREAD_PARENT_MESSAGE_ID", "FINDINGS", "TOO_LONG"}  # fmt: skip
    assert {name for name, value in seen.items() if not value} == {f"GATEPOST_{name}" for name in empty}


def test_environment_is_the_same_on_every_attempt() -> None:
    """A retry tells the program nothing else than the first time."""
    assert environment(make_delivery()) == environment(make_delivery(attempt=9))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a\0b", "a\ufffdb", id="NUL would end the value"),
        pytest.param("a\nGATEPOST_KEY=b", "a\ufffdGATEPOST_KEY=b", id="a line end would look like another one"),
        pytest.param("\t\r\x1b\x7f\x85", "\ufffd" * 5, id="control characters of each kind"),
        pytest.param("caf\udce9", "caf\ufffd", id="an octet that was not UTF-8"),
        pytest.param("\ud83d!", "\ufffd!", id="half a surrogate pair"),
        pytest.param("d\u00f6rte \U0001f4ec \u202e", "d\u00f6rte \U0001f4ec \u202e", id="any other text"),
        pytest.param("$(id) `id` ;|&<>'\"*~ =", "$(id) `id` ;|&<>'\"*~ =", id="a shell's characters"),
        pytest.param("--config=/etc/passwd", "--config=/etc/passwd", id="an option's form"),
        pytest.param("x" * 4_096, "x" * 4_096, id="as long as it may be"),
        pytest.param("x" * 4_097, "", id="one longer"),
        pytest.param("\u00f6" * 2_049, "", id="one longer in octets"),
        pytest.param("x" * 100_000, "", id="100 kB"),
        pytest.param("\udce9" * 5_000_000, "", id="5 MB of surrogates"),
    ],
)
@pytest.mark.parametrize(
    ("field", "name"),
    [("sender", "GATEPOST_SENDER"), ("recipient", "GATEPOST_RECIPIENT"), ("helo", "GATEPOST_HELO")],
)
def test_odd_values(text: str, value: str, field: str, name: str, tmp_path: Path) -> None:
    """U+FFFD stands for what an environment cannot hold; what is too long is left empty and named, never cut."""
    seen = seen_environment(tmp_path, **{field: text})
    assert seen[name] == value
    assert seen["GATEPOST_TOO_LONG"] == ("" if value else name)
    assert seen["GATEPOST_ROUTE"] == "replies"


def test_every_value_odd_at_once(tmp_path: Path) -> None:
    """The largest environment that strangers can bring about still starts the program."""
    longest = "\U0001f4ec" * 1_024
    fields = ("sender", "recipient", "original_recipient", "queue_id", "client_address", "helo", "sender_verified_by", "route")
    changes: dict[str, Any] = {**dict.fromkeys(fields, longest), "thread": Thread(found_in=longest, parent_message_id=longest)}
    seen = seen_environment(tmp_path, **changes)
    assert sorted(seen.values()).count(longest) == len(fields) + 2


# -- the arguments

WORDS = ("two words", "", "%s %{key} %(id)s ${recipient}", "'\"\\", "$HOME $(id) `id`", "*", "~", "a\nb", "d\u00f6rte",
         "caf\udce9", ";exit 1", "--", "-x", "x" * 100_000)  # fmt: skip


def test_arguments_are_untouched(tmp_path: Path) -> None:
    """Every word arrives as it stands in the configuration: nothing is split, filled in or expanded."""
    argv = ("/bin/sh", "-c", 'printf "%s\\0" "$@" >"$0"', str(tmp_path / "words"), *WORDS)
    assert deliver(sink(*argv), make_delivery(), deadline=in_seconds(60)).kind == "delivered"
    seen = (tmp_path / "words").read_bytes().split(b"\0")[:-1]
    assert seen == [word.encode("utf-8", "surrogateescape") for word in WORDS]


def written(path: Path, text: str, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda at: at / "none", "there is no such file", id="missing"),
        pytest.param(lambda at: at / "none" / "receive", "there is no such file", id="in a missing folder"),
        pytest.param(lambda at: written(at / "file", "", 0o644) / "receive", "there is no such file", id="below a file"),
        pytest.param(lambda at: at, "it is a folder", id="a folder"),
        pytest.param(lambda at: written(at / "plain", "#!/bin/sh\nexit 0\n", 0o644), "chmod +x", id="not executable"),
        pytest.param(lambda at: written(at / "bare", "exit 0\n", 0o755), "first line (#!)", id="script without a first line"),
        pytest.param(lambda at: written(at / "empty", "", 0o755), "first line (#!)", id="empty file"),
        pytest.param(lambda at: written(at / "lost", "#!/none/ruby\n", 0o755), "the interpreter that it", id="no interpreter"),
        pytest.param(lambda at: written(at / "crlf", "#!/bin/sh\r\nexit 0\r\n", 0o755), "the interpreter that it", id="CR LF"),
        pytest.param(lambda at: (at / "loop").symlink_to(at / "loop") or at / "loop", "in a circle", id="a circle of links"),
        pytest.param(lambda at: at / ("x" * 300), "shorter path", id="a name too long"),
    ],
)
def test_program_that_cannot_be_started(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    """A person must mend it, is told how, and the message waits."""
    path = make(tmp_path)
    outcome = deliver(sink(str(path), "word"), make_delivery(), deadline=in_seconds(60))
    assert outcome.kind == "misconfigured"
    assert says in outcome.detail
    assert str(path)[:100] in outcome.detail


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param((), id="nothing"),
        pytest.param(("true",), id="a name without a path"),
        pytest.param(("bin/true",), id="a relative path"),
        pytest.param(("/bin/true", "a\0b"), id="a NUL"),
    ],
)
def test_command_that_the_configuration_would_refuse(argv: tuple[str, ...]) -> None:
    """It is a misconfigured sink, not an exception."""
    outcome = deliver(sink(*argv), make_delivery(), deadline=in_seconds(60))
    assert (outcome.kind, "config check" in outcome.detail) == ("misconfigured", True)


def test_arguments_that_are_too_long() -> None:
    """Past the kernel's limit of 128 KiB a word, a person must mend the configuration."""
    outcome = deliver(sink("/bin/true", "x" * 200_000), make_delivery(), deadline=in_seconds(60))
    assert (outcome.kind, "arguments are too long" in outcome.detail) == ("misconfigured", True)


@pytest.mark.parametrize("more", range(8))
def test_no_descriptor_to_be_had(more: int) -> None:
    """Our own shortage passes, at whichever step it comes: later, and what was opened is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, open_descriptors()))
    spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]  # fill the gaps below
    highest = max(map(int, open_descriptors()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
    try:
        outcome = shell("exit 0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in spare:
            os.close(each)
    assert outcome.kind == ("unavailable" if more < 6 else "delivered"), outcome


# -- what the program is born with


def test_program_starts_clean(tmp_path: Path) -> None:
    """Folder `/`, umask 077, a session and group of its own, no ignored or blocked signal, whatever we have."""
    # All builtins: while a shell starts another program, its own signals are blocked for a moment.
    script = """copy() { while read -r line; do echo "$line"; done; }
        copy <"/proc/$$/status" >"$1/status"; copy <"/proc/$$/stat" >"$1/stat"; pwd -P >"$1/pwd"; :>"$1/file\""""
    changed = signal.SIGHUP, signal.SIGUSR2, signal.SIGRTMAX
    old = [signal.signal(number, signal.SIG_IGN) for number in changed]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    mask, here = os.umask(0o002), os.getcwd()
    os.chdir(tmp_path)
    try:
        assert shell(script, tmp_path).kind == "delivered"
        assert os.getcwd() == str(tmp_path)
        assert os.umask(mask) == 0o002
    finally:
        os.umask(mask)
        os.chdir(here)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in zip(changed, old, strict=True):
            signal.signal(number, handler)
    status = dict(line.split(":", 1) for line in (tmp_path / "status").read_text().splitlines())
    internal = 1 << 31 | 1 << 32  # the C library's own two, which nobody can set
    assert {name: int(status[name], 16) & ~internal for name in ("SigBlk", "SigIgn")} == {"SigBlk": 0, "SigIgn": 0}
    assert (tmp_path / "pwd").read_text() == "/\n"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    group, session = (tmp_path / "stat").read_text().rpartition(")")[2].split()[2:4]
    assert group == session == status["Pid"].strip()


def test_program_without_a_folder_to_return_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder that we stand in is gone, a program starts all the same."""
    here = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert shell("exit 0").kind == "delivered"
    finally:
        os.chdir(here)


def test_program_inherits_no_descriptor(tmp_path: Path) -> None:
    """Only 0, 1 and 2 are open, also where who started us left others open for children."""
    script = """sh -c 'ls -l "/proc/$1/fd" >"$2"' sh $$ "$1"; exit 0"""
    with open(tmp_path / "secret", "w") as secret:
        for number in (3, 77, 200):
            if number > 3:
                os.dup2(secret.fileno(), number, inheritable=True)
        os.set_inheritable(secret.fileno(), True)
        try:
            assert shell(script, tmp_path / "list").kind == "delivered"
        finally:
            os.close(77)
            os.close(200)
    seen = dict(re.findall(r" (\d+) -> (.*)$", (tmp_path / "list").read_text(), re.MULTILINE))
    assert set(seen) == {"0", "1", "2"}
    assert "gatepost-message" in seen["0"]
    assert seen["1"].startswith("pipe:")
    assert seen["2"].startswith("pipe:")
    assert seen["1"] != seen["2"]


def test_many_at_once(tmp_path: Path) -> None:
    """Threads that deliver at the same time keep apart: each program gets its own message, `/` and umask 077."""
    failed = []
    mask, here = os.umask(0o022), os.getcwd()

    def work(number: int) -> None:
        for turn in range(5):
            raw = b"Subject: %d.%d\r\n\r\n" % (number, turn)
            outcome = shell('cd "$PWD" && [ "$(pwd -P)" = / ] && cat >"$1"', tmp_path / f"{number}.{turn}", raw=raw)
            if outcome.kind != "delivered":
                failed.append(outcome)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.umask(mask) == 0o022
    assert os.getcwd() == here
    assert not failed
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        f"{number}.{turn}": f"Subject: {number}.{turn}\n\n" for number in range(6) for turn in range(5)
    }
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


# -- what does not end


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param("sleep 600", "still running", id="hangs"),
        pytest.param("exec >&- 2>&-; sleep 600", "still running", id="hangs and has closed its output"),
        pytest.param("trap '' TERM; sleep 600; sleep 600", "still running", id="does not listen"),
        pytest.param("trap 'exit 0' TERM; sleep 600 & wait", "still running", id="leaves with 0 when it is told to"),
        pytest.param("trap 'exit 67' TERM; sleep 600 & wait", "still running", id="leaves with a refusal when it is told to"),
        pytest.param("(trap '' TERM; sleep 600; sleep 600) & sleep 600 & wait", "still running", id="a child does not listen"),
        pytest.param("yes | cat & yes >&2", "still running", id="noise without end"),
        pytest.param("echo thinking; kill -STOP $$", "still running", id="stopped"),
        pytest.param("while :; do :; done", "still running", id="busy"),
        pytest.param("while :; do sleep 0.01; echo .; done", "still running", id="a dot now and then"),
    ],
)
def test_overrun_is_ended(script: str, says: str, tmp_path: Path) -> None:
    """At the end of its time the program and its whole group are killed, and whatever it says then, the message waits."""
    outcome = shell(f'echo $$ >"$1"\n{script}', tmp_path / "pid", seconds=0.6)
    assert outcome.kind == "unavailable"
    assert says in outcome.detail
    until(lambda: not living(group_in(tmp_path / "pid")))


def test_overrun_is_asked_first(tmp_path: Path) -> None:
    """SIGTERM comes before SIGKILL, so that a program can put things in order."""
    shell("trap 'echo asked >\"$1\"; exit 1' TERM; sleep 600 & wait", tmp_path / "asked", seconds=0.6)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_words_before_the_overrun_are_kept() -> None:
    """What the program last said helps to find out where it hangs."""
    assert shell("echo connecting to the database >&2; sleep 600", seconds=0.6).detail.endswith(": connecting to the database")


def test_deadline_that_has_passed(tmp_path: Path) -> None:
    """Then nothing is started."""
    outcome = shell(':>"$1"', tmp_path / "started", seconds=-1)
    assert (outcome.kind, outcome.detail[:11]) == ("unavailable", "not started")
    assert not (tmp_path / "started").exists()


def test_group_goes_with_a_program_that_a_signal_ended(tmp_path: Path) -> None:
    """A retry will come, so what a killed program had begun does not go on beside it."""
    assert shell('echo $$ >"$1"; sleep 600 & kill -9 $$', tmp_path / "pid").kind == "unavailable"
    until(lambda: not living(group_in(tmp_path / "pid")))


def test_child_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """A program that exits by itself may leave a child, which holds both outputs and goes on: its own status counts."""
    script = 'cd "$1"; echo $$ >pid; { until [ -e go ]; do sleep 0.02; done; :>done; } & exit 0'
    assert shell(script, tmp_path).kind == "delivered"
    assert not (tmp_path / "done").exists()
    (tmp_path / "go").touch()
    until((tmp_path / "done").exists)
    until(lambda: not living(group_in(tmp_path / "pid")))


def test_noisy_child_in_the_background_has_nobody_to_talk_to(tmp_path: Path) -> None:
    """It gets SIGPIPE; nobody waits for it to fall silent."""
    assert shell('echo $$ >"$1"; yes & yes >&2 & exit 65', tmp_path / "pid").kind == "refused"
    until(lambda: not living(group_in(tmp_path / "pid")))


@pytest.mark.parametrize(
    "script", ["head -c 100000000 /dev/zero", "head -c 100000000 /dev/zero >&2", "yes | head -c 100000000 >&2"]
)
def test_noise_fills_no_memory(script: str) -> None:
    """100 MB of output are read and dropped; the program is not held up, and its status counts."""
    tracemalloc.start()
    try:
        outcome = shell(f"{script}; exit 65")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome.kind == "refused"
    assert peak < 1_000_000


def test_program_that_cannot_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's program (sudo) may refuse our signals: nobody waits past the deadline, and a later run reaps it."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as kernel:
        kernel.setattr(os, "killpg", refuse)
        outcome = shell('echo $$ >"$1"; exec sleep 600', tmp_path / "pid", seconds=0.6)
    assert (outcome.kind, "cannot be ended" in outcome.detail) == ("unavailable", True)
    pid = group_in(tmp_path / "pid")
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert shell("exit 0").kind == "delivered"
    assert not command._left_behind


def test_exception_on_the_way_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours leaves no program that runs on while the message waits."""

    def fail(_output: object, _octets: bytes) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(command._Output, "take", fail)
        with pytest.raises(MemoryError):
            shell('echo $$ >"$1"; echo word; sleep 600', tmp_path / "pid")
    until(lambda: not living(group_in(tmp_path / "pid")))
    until(lambda: shell("exit 0").kind == "delivered" and not command._left_behind)


def test_end_running_takes_the_program_along(tmp_path: Path) -> None:
    """A process that leaves at once, from another thread, ends what it has started, and starts no more."""
    code = """
    def leave():
        while not os.path.exists(words[-1]):
            time.sleep(0.01)
        command.end_running()
        os._exit(75 if command._lock.locked() else 1)
    threading.Thread(target=leave).start()
    while True:
        run()
    """
    script = 'echo $$ >"$1.new"; sleep 600 & mv "$1.new" "$1"; sleep 600'
    with start(code.replace("\n    ", "\n"), "/bin/sh", "-c", script, "sh", tmp_path / "pid") as process:
        assert process.wait(60) == 75
    until(lambda: not living(group_in(tmp_path / "pid")))


def test_ignored_child_signal_is_later() -> None:
    """Where who started us ignores SIGCHLD, the kernel drops the exit status: nobody knows, so the message waits."""
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        outcome = shell("exit 0")
    finally:
        signal.signal(signal.SIGCHLD, old)
    assert (outcome.kind, "SIGCHLD" in outcome.detail) == ("unavailable", True)


@pytest.mark.parametrize("missing", ["pidfd_open", "memfd_create", "both"])
def test_older_kernel(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor for a process, or files in memory, everything is the same."""

    def refuse(*_arguments: object) -> int:
        raise OSError(38, "Function not implemented")

    for name in ("pidfd_open", "memfd_create") if missing == "both" else (missing,):
        monkeypatch.setattr(os, name, refuse)
    assert shell('cat >"$1"; exec >&- 2>&-; sleep 0.2; exit 67', tmp_path / "seen", raw=LARGE).kind == "refused"
    assert (tmp_path / "seen").read_bytes() == LARGE.replace(b"\r\n", b"\n")
    assert shell("sleep 600", seconds=0.6).kind == "unavailable"
    assert shell('echo $$ >"$1"; sleep 600 & exit 0', tmp_path / "pid").kind == "delivered"
    os.killpg(group_in(tmp_path / "pid"), signal.SIGKILL)


# -- the whole


def test_a_run_loads_nothing_that_costs() -> None:
    """The sink brings neither subprocess nor what that brings."""
    code = f"import sys; sys.path[:0] = [{os.path.join(HERE, '..')!r}]; import gatepost.sinks.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(done.stdout.split()) & {*FORBIDDEN, "subprocess", "signal", "selectors", "threading"}


PAGE = Path(HERE, "..", "docs", "command.md")


def test_page_lists_every_variable() -> None:
    """docs/command.md has each variable of the environment, and no other."""
    listed = re.findall(r"^\| `([A-Z_0-9]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert listed == [name.decode() for name in environment(make_delivery())]


def test_page_lists_every_status() -> None:
    """docs/command.md has each exit status that means something of its own."""
    rows = re.findall(r"^\| ([0-9, ]+) \| (\w+)", PAGE.read_text(), re.MULTILINE)
    assert {int(status): kind for numbers, kind in rows for status in numbers.split(",")} == STATUSES


def test_example_of_the_page_works(tmp_path: Path) -> None:
    """The page's script, as it stands there, keeps a message once, refuses a closed topic, waits for its folder."""
    found = re.search(r"```sh\n(#!/bin/sh\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    script = written(tmp_path / "receive", found[1].replace("/srv/app/mail", str(tmp_path / "mail")), 0o755)
    argv = (str(script),)

    def send() -> Outcome:
        return deliver(sink(*argv), make_delivery(), deadline=in_seconds(60))

    assert send().kind == "unavailable"
    (tmp_path / "mail").mkdir()
    assert [send().kind, send().kind] == ["delivered", "delivered"]
    assert [file.name for file in (tmp_path / "mail").iterdir()] == [ID]
    assert (tmp_path / "mail" / ID).read_bytes() == MESSAGE.replace(b"\r\n", b"\n")
    (tmp_path / "mail" / "closed-topic-7").touch()
    refusal = send()
    assert (refusal.kind, refusal.text) == ("refused", "This discussion is closed.")
