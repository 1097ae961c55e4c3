"""The Maildir: whole files only, one for each message, on disk before anybody is told so."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatepost.settings import Sink
from gatepost.sinks import deliver, maildir
from gatepost.sinks.delivery import Outcome
from tests.test_sinks import HERE, ID, MESSAGE, in_seconds, make_delivery

NAME = f"1795255200.{ID}.gatepost"


def send(folder: str, raw: bytes = MESSAGE, **changes: Any) -> Outcome:
    sink = Sink(name="mail", kind="maildir", target=folder)
    return deliver(sink, make_delivery(raw, **changes), deadline=in_seconds(60))


def names(folder: str) -> list[str]:
    """Every file of the Maildir."""
    return sorted(f"{part}/{name}" for part in ("cur", "new", "tmp") for name in os.listdir(os.path.join(folder, part)))


@pytest.fixture
def folder(tmp_path: Any) -> str:
    return str(tmp_path / "mail")


def test_message_is_one_file_in_new(folder: str) -> None:
    """The folder is made (0700), the file too (0600); it begins with the envelope and our fields, and its lines end in LF."""
    assert send(folder, sender_verified="yes") == Outcome(kind="delivered", detail=f"new/{NAME}")
    assert names(folder) == [f"new/{NAME}"]
    for part in ("", "tmp", "new", "cur"):
        assert os.stat(os.path.join(folder, part)).st_mode & 0o777 == 0o700
    path = os.path.join(folder, "new", NAME)
    assert os.stat(path).st_mode & 0o777 == 0o600
    with open(path, "rb") as file:
        content = file.read()
    assert content == (
        b"Return-Path: <reka@example.org>\n"
        b"Delivered-To: reply+k3y@in.example.com\n"
        b"X-Gatepost-Id: " + ID.encode() + b"\n"
        b"X-Gatepost-Route: replies\n"
        b"X-Gatepost-Key-Subject: topic-7\n"
        b"X-Gatepost-Sender-Verified: yes\n" + MESSAGE.replace(b"\r\n", b"\n")
    )


def test_strangers_fields_do_not_pass_for_ours(folder: str) -> None:
    """A message's own Return-Path and X-Gatepost-* are gone; a bounce's null sender stands as <>."""
    send(folder, b"Return-Path: <boss@in.example.com>\r\nX-Gatepost-Route: other\r\nSubject: s\r\n\r\nx\r\n", sender="")
    with open(os.path.join(folder, "new", NAME), "rb") as file:
        lines = file.read().split(b"\n")
    assert lines[0] == b"Return-Path: <>"
    assert [line for line in lines if b"boss" in line or b"other" in line] == []


LEFT_BY_A_READER = ["new/{}", "cur/{}", "cur/{}:2,", "cur/{}:2,S", "cur/{}:2,FRS", "cur/{},S=900,W=920:2,ad"]


@pytest.mark.parametrize("place", LEFT_BY_A_READER)
def test_second_run_leaves_one_file(folder: str, place: str) -> None:
    """Wherever a reader has moved the first file, and whatever flags it has by now, the second attempt writes none."""
    assert send(folder).kind == "delivered"
    moved = place.format(NAME)
    os.rename(os.path.join(folder, "new", NAME), os.path.join(folder, moved))
    for other in range(3_000):
        with open(os.path.join(folder, "cur", f"{other}.other.host:2,S"), "wb"):
            pass
    assert send(folder, attempt=2) == Outcome(kind="delivered", detail=f"{moved} (an earlier run wrote it)")
    assert [name for name in names(folder) if ID in name] == [moved]


@pytest.mark.parametrize("place", LEFT_BY_A_READER[:4])
def test_first_attempt_looks_for_the_usual_names(folder: str, place: str) -> None:
    """Even where the ledger has lost count, a message that lies under a usual name is not written again."""
    send(folder)
    os.rename(os.path.join(folder, "new", NAME), os.path.join(folder, place.format(NAME)))
    assert "earlier run" in send(folder, attempt=1).detail
    assert names(folder) == [place.format(NAME)]


def test_other_messages_are_other_files(folder: str) -> None:
    """Another delivery id is another file, also in the same second."""
    send(folder)
    send(folder, id=hashlib.sha256(b"another").hexdigest())
    assert len(names(folder)) == 2


def test_what_a_killed_run_left_is_swept(folder: str) -> None:
    """A later attempt removes this message's unfinished files once no run can be writing them, and nobody else's."""
    send(folder, id="f" * 64)
    for name, age in ((f"{NAME}.old", 3_600), (f"{NAME}.young", 5), ("123.other.host", 3_600)):
        path = os.path.join(folder, "tmp", name)
        with open(path, "wb"):
            pass
        os.utime(path, (time.time() - age,) * 2)
    assert send(folder, attempt=2).kind == "delivered"
    assert [name for name in names(folder) if name.startswith("tmp/")] == ["tmp/123.other.host", f"tmp/{NAME}.young"]


# -- crashes

STEPS = ["mkdir", "open", "write", "fsync", "close", "rename", "fsync after rename"]
CRASH = """if True:
    import os, signal, sys, time
    sys.path.insert(0, sys.argv[1])
    from tests.test_sinks_maildir import send
    target, step, when = sys.argv[2], sys.argv[3], int(sys.argv[4])
    state = {"renamed": False, "calls": 0}
    wanted = step.split()[0]
    def die_in(name):
        real = getattr(os, name)
        def call(*arguments, **options):
            if name == wanted and (state["renamed"] or "rename" not in step.split()[1:]):
                state["calls"] += 1
                if state["calls"] == when + 1:
                    if name == "write":
                        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            done = real(*arguments, **options)
            if name == "rename":
                state["renamed"] = True
            return done
        setattr(os, name, call)
    for name in ("mkdir", "open", "write", "fsync", "close", "rename"):
        die_in(name)
    send(target)
    print("survived")
"""


@pytest.mark.parametrize("when", [0, 1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_kill_at_any_step_leaves_whole_files_only(folder: str, step: str, when: int) -> None:
    """kill -9 before each call, and in mid-write: new/ holds the whole message or nothing, and the next run makes it one."""
    arguments = [sys.executable, "-c", CRASH, os.path.join(HERE, ".."), folder, step, str(when)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL or "survived" in done.stdout, done.stderr
    if os.path.isdir(os.path.join(folder, "new")):
        assert os.listdir(os.path.join(folder, "new")) in ([], [NAME])
    assert send(folder, attempt=2).kind == "delivered"
    (found,) = [name for name in names(folder) if not name.startswith("tmp/")]
    with open(os.path.join(folder, found), "rb") as file:
        assert file.read().endswith(MESSAGE.replace(b"\r\n", b"\n"))


def test_each_step_is_really_reached(folder: str) -> None:
    """The first call of every step kills: the table above tries what it says."""
    for step in STEPS:
        target = folder + step.replace(" ", "")
        arguments = [sys.executable, "-c", CRASH, os.path.join(HERE, ".."), target, step, "0"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, (step, done.stdout, done.stderr)


def test_order_makes_it_durable(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on disk before its name is in new/, and the name before anybody is told."""
    send(folder, id="f" * 64)
    steps: list[str] = []

    def note(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            kind = "folder" if name == "fsync" and os.path.isdir(f"/proc/self/fd/{arguments[0]}") else ""
            steps.append(" ".join(filter(None, (name, kind))))
            return real(*arguments, **options)

        return call

    for name in ("write", "fsync", "rename"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    assert send(folder).kind == "delivered"
    assert steps == ["write", "write", "fsync", "rename", "fsync folder"]


# -- what can be wrong with a folder


def test_parent_that_is_missing_is_not_made(tmp_path: Any) -> None:
    """A file system that is not mounted must not be filled from below: the parent has to be there."""
    outcome = send(str(tmp_path / "not-mounted" / "mail"))
    assert outcome.kind == "misconfigured"
    assert "make the folder above it" in outcome.detail
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["mail", "mail/new", "mail/tmp"])
def test_file_in_a_folders_place(tmp_path: Any, place: str) -> None:
    """Something else under the name is a mistake in the set-up, and stays as it is."""
    os.makedirs(tmp_path / os.path.dirname(place), exist_ok=True)
    (tmp_path / place).write_text("mine")
    outcome = send(str(tmp_path / "mail"))
    assert outcome.kind == "misconfigured"
    assert "something else" in outcome.detail
    assert (tmp_path / place).read_text() == "mine"


AS_NOBODY = """if True:
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from tests.test_sinks_maildir import send
    if os.getuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
    outcome = send(sys.argv[2])
    print(outcome.kind, outcome.detail)
"""


@pytest.mark.parametrize("part", ["", "tmp", "new"])
def test_folder_that_cannot_be_written(folder: str, tmp_path: Any, part: str) -> None:
    """Without the right to write there, the message waits and the detail says whose right is missing."""
    if part:
        send(folder, id="f" * 64)
    for each in (str(tmp_path), folder, *(os.path.join(folder, name) for name in ("tmp", "new", "cur"))):
        if os.path.isdir(each):
            os.chmod(each, 0o777)
    locked = os.path.join(folder, part) if part else str(tmp_path)
    os.chmod(locked, 0o555)
    for above in (tmp_path.parent, tmp_path.parent.parent):
        os.chmod(above, 0o755)
    arguments = [sys.executable, "-c", AS_NOBODY, os.path.join(HERE, ".."), folder]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    os.chmod(locked, 0o755)
    assert done.stdout.startswith("misconfigured")
    assert "let the user that gatepost runs as write there" in done.stdout
    assert not [name for name in names(folder) if ID in name] if part else True


def test_file_that_would_grow_too_large(folder: str) -> None:
    """At a limit on the file's size in mid-write (as on a full disk) nothing is left behind, and the message waits."""
    script = """if True:
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from tests.test_sinks_maildir import send
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        outcome = send(sys.argv[2], b"Subject: large\\r\\n\\r\\n" + b"x" * 300_000)
        print(outcome.kind, outcome.detail)
    """
    arguments = [sys.executable, "-c", script, os.path.join(HERE, ".."), folder]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("unavailable")
    assert "raise the limit on the size of a file" in done.stdout
    assert names(folder) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, "unavailable"),
        (errno.EDQUOT, "unavailable"),
        (errno.EIO, "unavailable"),
        (errno.EMFILE, "unavailable"),
        (errno.ENFILE, "unavailable"),
        (errno.ESTALE, "unavailable"),
        (errno.EROFS, "misconfigured"),
        (errno.EACCES, "misconfigured"),
        (errno.ENAMETOOLONG, "misconfigured"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else value,
)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_each_error_of_the_system_is_an_outcome(
    folder: str, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: str
) -> None:
    """Whichever call fails, and however, the message is not delivered, no half file is seen, and nothing is raised."""
    send(folder, id="f" * 64)

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    outcome = send(folder)
    monkeypatch.undo()
    assert outcome.kind == kind
    assert os.strerror(number) in outcome.detail
    assert not [name for name in names(folder) if ID in name]


def test_folder_that_does_not_reach_the_disk_is_not_delivered(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the name may be lost in a crash, nobody is told that it is safe; the next run finds the file and says so then."""
    send(folder, id="f" * 64)
    real = os.fsync

    def fails_for_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    assert send(folder).kind == "unavailable"
    assert send(folder, attempt=2).kind == "unavailable"
    monkeypatch.undo()
    assert send(folder, attempt=3).kind == "delivered"
    assert [name for name in names(folder) if ID in name] == [f"new/{NAME}"]


def test_deadline_in_the_past_writes_nothing(folder: str) -> None:
    """With no time left there is no attempt."""
    sink = Sink(name="mail", kind="maildir", target=folder)
    assert deliver(sink, make_delivery(), deadline=in_seconds(-1)).kind == "unavailable"
    assert names(folder) == []


def test_listing_stops_at_the_deadline(folder: str) -> None:
    """A cur/ of any size cannot hold a later attempt beyond its deadline."""
    send(folder, id="f" * 64)
    with open(os.path.join(folder, "cur", "1.other.host:2,S"), "wb"):
        pass
    sink = Sink(name="mail", kind="maildir", target=folder)
    outcome = maildir.deliver(sink, make_delivery(attempt=2), deadline=in_seconds(-1), now=time.time)
    assert outcome.kind == "unavailable"
    assert "deadline" in outcome.detail


def test_folder_made_by_somebody_else_is_kept(folder: str) -> None:
    """An existing Maildir keeps its modes and its mail."""
    for part in ("", "tmp", "new", "cur"):
        os.mkdir(os.path.join(folder, part), 0o750)
    send(folder)
    assert os.stat(folder).st_mode & 0o777 == 0o750
