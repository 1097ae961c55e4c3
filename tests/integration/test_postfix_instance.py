"""The private Postfix itself: it minds its own business, and sees what it should. Needs root and the package postfix."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.environment import make_environment, run_as
from demo.postfix_instance import MailRecorder, PostfixError, PrivatePostfix, wait_for

MESSAGE = b"From: a@example.net\nSubject: x\n\n.one dot\n..two\nlast"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="gatepost-instance.", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def stat_of_etc() -> list[tuple[str, int, int]]:
    """What lies in /etc/postfix, and when it was last changed."""
    return [
        (path, os.stat(path).st_mtime_ns, os.stat(path).st_size)
        for path in sorted(str(found) for found in Path("/etc/postfix").rglob("*"))
    ]


def test_two_instances_do_not_meet(folder: Path) -> None:
    """One instance's end leaves the other running; no process and no folder stays, and /etc/postfix is as it was."""
    before = stat_of_etc()
    with PrivatePostfix(folder / "one") as one:
        with PrivatePostfix(folder / "two") as two:
            assert one.port != two.port
            assert one.pid() != two.pid()
            assert not set(one.processes()) & set(two.processes())
        assert two.processes() == []
        assert not two.folder.exists()
        with one.session() as session:
            assert session.command("NOOP").code == 250
    assert one.processes() == []
    assert list(folder.iterdir()) == []
    assert stat_of_etc() == before


@pytest.mark.parametrize("immediate", [False, True], ids=["stop", "abort"])
def test_stop_and_start_keep_the_queue(folder: Path, immediate: bool) -> None:
    """What is queued is there after a stop and a start; mail for elsewhere is deferred where there is no recorder."""
    with PrivatePostfix(folder / "p", options={"smtpd_relay_restrictions": "permit_mynetworks, reject"}) as postfix:
        sent = postfix.send("", "b@example.org", MESSAGE)
        (delivery,) = postfix.wait_delivery(sent.queue_id)
        assert (delivery.status, delivery.dsn) == ("deferred", "4.4.1")
        first = postfix.pid()
        postfix.stop(immediate=immediate)
        assert postfix.pid() == 0
        postfix.stop()
        postfix.start()
        assert postfix.pid() not in (0, first)
        wait_for(lambda: [entry["queue_id"] for entry in postfix.queue()] == [sent.queue_id], what="the message")
        postfix.flush()
        postfix.wait_delivery(sent.queue_id, count=2)
        postfix.delete_queued()
        assert postfix.queue() == []


def test_what_leaves_is_recorded_byte_for_byte(folder: Path) -> None:
    """Mail for elsewhere comes to the recorder, dots and missing final line end included."""
    outbox = MailRecorder()
    with PrivatePostfix(folder / "p", outbox_port=outbox.port) as postfix:
        postfix.set(smtpd_relay_restrictions="permit_mynetworks, reject")
        postfix.stop()
        postfix.start()
        sent = postfix.send("a@example.net", ["b@example.org", "c@example.org"], MESSAGE)
        wait_for(lambda: outbox.messages, what="a message at the recorder")
    (message,) = outbox.messages
    outbox.close()
    assert message.sender == "a@example.net"
    assert sorted(message.recipients) == ["b@example.org", "c@example.org"]
    assert message.data.endswith(b"\r\n\r\n.one dot\r\n..two\r\nlast\r\n")
    assert sent.rcpt("b@example.org").code == 250


def test_a_failed_start_says_why_and_leaves_nothing(folder: Path) -> None:
    """A Postfix that cannot start is an error with the log's words in it, and its folder is gone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        postfix = PrivatePostfix(folder / "p", port=taken.getsockname()[1])
        with pytest.raises(PostfixError, match=r"bind.*Address already in use"), postfix:
            pass
    assert postfix.processes() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("source", ["wheel", "tree"])
def test_the_user_gatepost_can_use_an_environment(folder: Path, source: str) -> None:
    """An environment made from the wheel, or from the tree, has the package, its dependencies and the Postfix fragments."""
    made = make_environment(folder / "env", source="wheel" if source == "wheel" else "tree")
    code = "import gatepost, yaml, email_validator; from gatepost.wiring import *; print(gatepost.__file__, template_folder())"
    done = run_as("gatepost", [made.python, "-I", "-c", code])
    assert done.returncode == 0, done.stderr
    assert [path.startswith(str(folder)) for path in done.stdout.decode().split()] == [True, True]
    assert Path(made.pipe_script).parent.is_dir()
