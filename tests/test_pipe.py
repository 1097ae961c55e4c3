"""The transport script's contract with pipe(8): one line, an exit status, and no message lost or bounced by our own fault."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installation import Installation, install, message, webhook

ROOT = Path(__file__).resolve().parent.parent
PIPE = ROOT / "filter" / "gatepost_filter" / "pipe.py"
QUEUE_ID = "4jWl4Z5tH8zJv6D"


@dataclass(frozen=True)
class Ran:
    """What pipe(8) would have seen."""

    status: int
    out: bytes
    err: bytes

    @property
    def line(self) -> str:
        """The one line, checked to be one, of at most 200 bytes, with nothing on standard error."""
        assert self.err == b""
        assert self.out.endswith(b"\n")
        assert self.out.count(b"\n") == 1
        assert len(self.out) <= 200
        return self.out.decode("ascii").rstrip("\n")


def words(made: Installation, recipient: str, sender: str = "person@example.org", queue_id: str = QUEUE_ID) -> list[str]:
    """The arguments that master.cf gives."""
    return [
        f"--config={made.config}", "--size=1234", f"--sender={sender}", f"--recipient={recipient}",
        f"--original-recipient={recipient}", f"--queue-id={queue_id}", "--client-address=192.0.2.7", "--helo=mail.example.org",
    ]  # fmt: skip


def run(arguments: list[str], data: bytes, *, script: Path = PIPE, limits: Callable[[], None] | None = None) -> Ran:
    """Runs the script as pipe(8) does: its own session, C locale, the queue folder as working folder."""
    done = subprocess.run(
        [sys.executable, "-I", str(script), *arguments], input=data, capture_output=True, timeout=60, check=False, cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C"}, start_new_session=True, preexec_fn=limits,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def made(tmp_path: Path) -> Installation:
    """An installation with a Maildir."""
    return install(tmp_path, app="", more="timing: {deadline: 3s, lease: 5s}")


def maildir(made: Installation) -> list[Path]:
    """What the app's Maildir has."""
    return sorted((made.folder / "Maildir" / "new").glob("*"))


def test_an_accepted_message_is_in_the_sink_and_says_so_in_one_line(made: Installation) -> None:
    """Exit 0, and the line that Postfix will log has route and id."""
    ran = run(words(made, made.address(made.key())), message() + b"\n")
    assert (ran.status, ran.line.split(" id=")[0]) == (0, "accepted route=replies")
    assert len(ran.line) <= 100, "Postfix logs no more of a success"
    assert len(maildir(made)) == 1
    assert [QUEUE_ID in line and "action=accept rule=accepted" in line for line in made.log_lines()] == [True]


def test_the_same_message_again_succeeds_at_once_and_is_not_handed_over_twice(made: Installation) -> None:
    """A second run of a finished message touches no sink."""
    arguments = words(made, made.address(made.key()))
    first, again = (run(arguments, message() + b"\n") for _ in range(2))
    assert (first.status, again.status) == (0, 0)
    assert again.line == first.line + " again"
    assert len(maildir(made)) == 1


CUT_OFF = [
    ("nothing at all", b"", "Postfix never sends an empty message: its own Received is there"),
    ("in mid-line", b"From: a@example.org\nSubj", "the end of file came in a line"),
    ("after a line", b"From: a@example.org\n", "one LF is the line's own; flag B adds another"),
    ("64 kB of a body", message(size=200_000)[:65536], "what a killed pipe(8) left in the pipe"),
]


@pytest.mark.parametrize("data", [row[1] for row in CUT_OFF], ids=[row[0] for row in CUT_OFF])
def test_a_message_without_its_end_is_deferred(made: Installation, data: bytes) -> None:
    """A truncated standard input is a clean end of file; what does not end as flag B ends it is not whole."""
    ran = run(words(made, made.address(made.key())), data)
    assert (ran.status, ran.line) == (75, "4.3.0 Message was cut off, try later (rule=incomplete-input)")
    assert maildir(made) == []


def test_a_message_cut_off_at_a_blank_line_is_deferred_when_its_reader_is_gone(made: Installation) -> None:
    """The end of a header looks like a whole message; the closed standard output tells that pipe(8) is gone."""
    arguments = [sys.executable, "-I", str(PIPE), *words(made, made.address(made.key()))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"From: a@example.org\n\n")
        process.stdin.flush()
        process.stdout.close()
        process.stdin.close()
        assert process.wait(timeout=30) == 75
    assert maildir(made) == []
    assert not list(made.store.glob("*.sqlite")), "it was deferred before the ledger was asked"


def test_a_message_whose_writer_died_is_deferred(made: Installation) -> None:
    """The parent is another at the end than at the start: pipe(8) was killed while it wrote."""
    code = (
        "import os, sys, time, subprocess\n"
        "r, w = os.pipe(); o = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "p = subprocess.Popen(sys.argv[2:], stdin=r, stdout=o)\n"
        "os.set_inheritable(w, False); os.close(r); os.write(w, b'From: a@example.org\\n\\n')\n"
        "time.sleep(0.5)\n"  # the script must have started and noted its parent; the test then waits for its answer
        "os._exit(0)\n"
    )
    out = made.folder / "out"
    subprocess.run([sys.executable, "-c", code, str(out), sys.executable, "-I", str(PIPE),
                    *words(made, made.address(made.key()))], check=True, timeout=30)  # fmt: skip
    wait_for(lambda: out.read_bytes().endswith(b"\n"))
    assert out.read_text() == "4.3.0 Message was cut off, try later (rule=incomplete-input)\n"
    assert maildir(made) == []


def wait_for(condition: Callable[[], bool]) -> None:
    """Polls, bounded."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen within 30 s"
        time.sleep(0.02)


def break_config(made: Installation) -> None:
    made.config.write_text("routes: [\n")


def forget_config(made: Installation) -> None:
    made.config.unlink()


def share_secrets(made: Installation) -> None:
    (made.folder / "secrets.yml").chmod(0o644)


def lose_store(made: Installation) -> None:
    made.store.rmdir()


def corrupt_store(made: Installation) -> None:
    run(words(made, "support@in.example.com", queue_id="first"), message() + b"\n")
    (made.store / "gatepost.sqlite").write_bytes(b"not a database" * 1000)


def empty_store(made: Installation) -> None:
    run(words(made, "support@in.example.com", queue_id="first"), message() + b"\n")
    for file in made.store.glob("gatepost.sqlite*"):
        file.unlink()


def file_for_maildir(made: Installation) -> None:
    shutil.rmtree(made.folder / "Maildir", ignore_errors=True)
    (made.folder / "Maildir").write_text("")


FAULTS: list[tuple[str, Callable[[Installation], None], str, str]] = [
    ("no config", forget_config, "config-error", "the file is gone"),
    ("broken config", break_config, "config-error", "a person is just editing it"),
    ("secrets others may read", share_secrets, "config-error", "refused, and the mail waits"),
    ("no store folder", lose_store, "store-unavailable", "the disk is not mounted"),
    ("corrupt store", corrupt_store, "store-unavailable", "never silently made anew"),
    ("ledger deleted", empty_store, "store-unavailable", "never silently made anew"),
    ("sink is a file", file_for_maildir, "app-", "the sink cannot take it now"),
]


@pytest.mark.parametrize(("fault", "rule"), [row[1:3] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_our_own_fault_defers(made: Installation, fault: Callable[[Installation], None], rule: str) -> None:
    """Whatever is wrong on our side, the exit status is 75, the code begins with 4 and names its rule."""
    fault(made)
    ran = run(words(made, made.address(made.key())), message() + b"\n")
    assert ran.status == 75
    assert ran.line.startswith("4.")
    assert f"rule={rule}" in ran.line


def only_the_script(folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(PIPE, folder)


def only_the_door(folder: Path) -> None:
    shutil.copytree(PIPE.parent, folder)


def a_broken_door(folder: Path) -> None:
    shutil.copytree(PIPE.parent, folder)
    (folder / "transport.py").write_text("def\n")


INCOMPLETE = [
    ("pipe.py alone", only_the_script, "half of the package was deleted"),
    ("without gatepost", only_the_door, "an update that is just at work"),
    ("a syntax error", a_broken_door, "an update for another Python"),
]


@pytest.mark.parametrize("left", [row[1] for row in INCOMPLETE], ids=[row[0] for row in INCOMPLETE])
def test_a_missing_package_defers(made: Installation, left: Callable[[Path], None], tmp_path: Path) -> None:
    """pipe.py still keeps the contract where what it needs is not beside it, or cannot be read."""
    alone = tmp_path / "alone" / "gatepost_filter"
    left(alone)
    script = alone / "pipe.py"
    with_nothing = ["-S", "-I"]
    done = subprocess.run([sys.executable, *with_nothing, str(script), *words(made, "x@in.example.com")], input=b"a: b\n\n\n",
                          capture_output=True, timeout=60, check=False)  # fmt: skip
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert (ran.status, ran.line) == (75, "4.3.0 Temporary failure, try later (rule=internal-error)")


BAD_LINES = [
    ("unknown word", ["--config=/x", "--recipient=a@b", "--queue-id=1", "--verbose"], "a typing error in master.cf"),
    ("option injection", ["--config=/x", "--recipient=a@b", "--queue-id=1", "--config2=EVIL"], "a sender's word is no option"),
    ("two recipients", ["--config=/x", "--recipient=a@b", "--recipient=c@d", "--queue-id=1"], "the first would be lost"),
    ("no recipient", ["--config=/x", "--queue-id=1"], "nothing to decide about"),
    ("no arguments", [], "somebody runs it by hand"),
    ("bare word", ["--config=/x", "--recipient=a@b", "--queue-id=1", "app"], "not of the form --name=value"),
]


@pytest.mark.parametrize("arguments", [row[1] for row in BAD_LINES], ids=[row[0] for row in BAD_LINES])
def test_a_wrong_line_in_master_cf_defers(arguments: list[str]) -> None:
    """Arguments that master.cf should not give are our own fault."""
    ran = run(arguments, message() + b"\n")
    assert (ran.status, ran.line) == (75, "4.3.0 Temporary failure, try later (rule=internal-error)")


def test_a_mistake_in_the_config_is_placed_in_the_line(made: Installation) -> None:
    """Where our log goes is not known then: Postfix's line says where to look."""
    break_config(made)
    ran = run(words(made, made.address(made.key())), message() + b"\n")
    assert ran.line.startswith("4.3.5 Mail system configuration error (rule=config-error gatepost.yml:")


def test_the_log_has_the_recipient_without_its_key(made: Installation) -> None:
    """Two recipients of one queue ID are told apart, and no line has a whole key."""
    key = made.key()
    run(words(made, made.address(key)), message() + b"\n")
    run(words(made, "support@in.example.com"), message() + b"\n")
    lines = made.log_lines()
    assert [f"to=reply+{key[:4]}...@in.example.com" in lines[0], "to=support@in.example.com" in lines[1]] == [True, True]
    assert not any(key in line for line in lines)


def test_strange_recipients_keep_the_contract(made: Installation) -> None:
    """300 characters, quotes, U+202E, bytes that are no UTF-8: refused as no key, parked, and one ASCII line."""
    for local in ("k" * 300, '"reply+a b"', "reply+\u202e", "reply+\udcff", "reply+%", "\u0440\u0435", "reply+\u212a" * 3):
        ran = run(words(made, f"{local}@in.example.com", queue_id=f"q{abs(hash(local))}"), message() + b"\n")
        assert ran.status == 0
        assert ran.line.split(" ")[0] == "parked"


@pytest.fixture
def silent_app() -> Iterator[str]:
    """An app that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        server.shutdown(socket.SHUT_RDWR)
        for each in kept:
            each.close()


def test_an_app_that_hangs_ends_at_the_deadline(tmp_path: Path, silent_app: str) -> None:
    """The script ends by itself, deferring, and not by Postfix's time limit, which bounces."""
    made = install(tmp_path, app=webhook(silent_app), more="timing: {deadline: 1s, lease: 5s}")
    ran = run(words(made, made.address(made.key())), message() + b"\n")
    assert ran.status == 75
    assert ran.line.startswith("4.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_mid_delivery_defers(tmp_path: Path, silent_app: str, number: signal.Signals) -> None:
    """Whoever ends the script gets a deferral at once, not an exception's status."""
    made = install(tmp_path, app=webhook(silent_app), more="timing: {deadline: 50s, lease: 60s}")
    arguments = [sys.executable, "-I", str(PIPE), *words(made, made.address(made.key()))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(message() + b"\n")
        process.stdin.close()
        wait_for(lambda: any(made.store.glob("gatepost.sqlite*")))
        process.send_signal(number)
        assert process.stdout is not None
        out = process.stdout.read()
        assert process.wait(timeout=30) == 75
    assert out == b"4.3.2 Interrupted, try later (rule=interrupted)\n"


def no_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (120 << 20, 120 << 20))


def no_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))


def no_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


SHORTAGES = [
    ("memory", no_memory, 60_000_000, "60 MB of message in 120 MB of memory"),
    ("descriptors", no_files, 0, "eight open files"),
    ("disk", no_disk, 100_000, "no file may pass 4 kB: the ledger and the Maildir cannot be written"),
]


@pytest.mark.parametrize(("limits", "size"), [row[1:3] for row in SHORTAGES], ids=[row[0] for row in SHORTAGES])
def test_a_shortage_defers(made: Installation, limits: Callable[[], None], size: int) -> None:
    """Out of memory, descriptors or disk: status 75 and one line, and nothing in the sink."""
    ran = run(words(made, made.address(made.key())), message(size=size) + b"\n", limits=limits)
    assert ran.status == 75
    assert ran.line.startswith("4.")
    assert maildir(made) == []


def test_nothing_a_library_prints_reaches_postfix(made: Installation, tmp_path: Path) -> None:
    """A module that prints and warns when it is imported changes neither the line nor the status."""
    room = tmp_path / "site" / "gatepost_filter"
    shutil.copytree(PIPE.parent, room)
    shutil.copytree(ROOT / "gatepost", tmp_path / "site" / "gatepost")
    loud = tmp_path / "site" / "gatepost" / "policy.py"
    noise = "import os, sys; print('noise'); print('noise', file=sys.stderr); os.system('echo noise')\n"
    loud.write_text(loud.read_text().replace("TYPE_CHECKING = False\n", "TYPE_CHECKING = False\n" + noise, 1))
    ran = run(words(made, made.address(made.key())), message() + b"\n", script=room / "pipe.py")
    assert (ran.status, ran.line.split(" id=")[0]) == (0, "accepted route=replies")


def test_a_closed_standard_output_still_ends_with_a_status(made: Installation) -> None:
    """Nobody reads: the message is deferred, since nobody would hear that it was taken."""
    ran = run(words(made, made.address(made.key())), message() + b"\n", limits=lambda: os.close(1))
    assert (ran.status, ran.out, ran.err) == (75, b"", b"")
