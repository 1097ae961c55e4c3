"""What of `make demo` can be tested without a Postfix: the example app, the file to source, and who is ended at the end."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from demo.app import MOST, App
from demo.demo import Notes, NotNowError, environment_text, identity
from gatepost.decision import Envelope
from gatepost.gateway import Gateway, Receipt
from gatepost.sinks.webhook import signature
from tests.installation import WEBHOOK_KEY, WEBHOOK_SECRET, Installation, install, message, webhook

RAW = message().replace(b"\n", b"\r\n")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """The demo's app, running, with a folder of its own."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with App(0, inbox, WEBHOOK_SECRET) as server:
        runs = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        runs.start()
        yield server
        server.shutdown()
        runs.join(10)


@pytest.fixture
def made(tmp_path: Path, app: App) -> Installation:
    """A gatepost whose webhook is that app."""
    return install(tmp_path, app=webhook(f"http://127.0.0.1:{app.server_address[1]}/mail"))


def receive(made: Installation, queue_id: str = "4jWl4Z5tH8zJv6D") -> Receipt:
    """What the gateway makes of one message to a good key."""
    envelope = Envelope(sender="a@example.org", recipient=made.address(made.key("order-7")), queue_id=queue_id)
    return Gateway(made.settings).receive(envelope, RAW, deadline=time.monotonic() + 30)


def lines(tmp_path: Path) -> list[dict[str, object]]:
    """The app's log."""
    log = tmp_path / "inbox" / "received.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def post(app: App, body: bytes, *, key: bytes = WEBHOOK_KEY, id_: str = "made-up", length: int | None = None) -> int:
    """The app's answer to a request with a signature of this key."""
    stamp = str(int(time.time()))
    fields = {
        "webhook-id": id_,
        "webhook-timestamp": stamp,
        "webhook-signature": signature(key, id_, stamp, body),
        "Content-Length": str(len(body) if length is None else length),
    }
    connection = http.client.HTTPConnection("127.0.0.1", app.server_address[1], timeout=30)
    try:
        connection.request("POST", "/mail", body if length is None else None, fields)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_app_has_the_message_before_it_says_so(tmp_path: Path, made: Installation) -> None:
    """Accepted: the raw message is in a file named by its id, and the log's line says what it is."""
    receipt = receive(made)
    assert receipt.decision.action == "accept"
    (line,) = lines(tmp_path)
    assert (tmp_path / "inbox" / f"{receipt.id}.eml").read_bytes() == RAW
    assert (line["id"], line["sha256"]) == (receipt.id, sha256(RAW).hexdigest())
    assert (line["route"], line["key_subject"], line["repeated"]) == ("replies", "order-7", False)
    assert line["message_id"] == RAW.split(b"Message-ID: ")[1].split(b"\r\n")[0].decode()


def test_the_app_knows_a_message_that_comes_again(tmp_path: Path, made: Installation, app: App) -> None:
    """The ledger is gone, and with it the proof: the app sees the id again and says so; so does one that was started anew."""
    first = receive(made)
    body = json.dumps(
        {
            "type": "message.received",
            "timestamp": "2026-01-01T00:00:00Z",
            "data": {
                "version": 1,
                "id": first.id,
                "route": "replies",
                "sender": {},
                "message": {},
                "raw": b64encode(RAW).decode(),
                "envelope": {"sender": "a@example.org", "recipient": "b@in.example.com"},
            },
        }
    ).encode()
    assert post(app, body, id_=first.id) == 204
    app.inbox = type(app.inbox)(tmp_path / "inbox")
    assert post(app, body, id_=first.id) == 204
    assert [line["repeated"] for line in lines(tmp_path)] == [False, True, True]
    assert (tmp_path / "inbox" / f"{first.id}.eml").read_bytes() == RAW


REQUESTS = [
    ("another secret", {"key": b"another secret, thirty-two bytes"}, b"{}", 401, "not gatepost's: nothing of it is read"),
    ("no JSON", {}, b"hello", 400, "rightly signed, and unreadable"),
    ("no message", {}, b'{"type": "message.received"}', 400, "rightly signed, and nothing in it"),
    ("a probe", {}, b'{"type": "gatepost.probe", "data": {}}', 200, "an event that the app does not know"),
    ("too large", {"length": MOST + 1}, b"", 413, "not even read"),
]


@pytest.mark.parametrize(("options", "body", "status"), [row[1:4] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_what_is_no_message_leaves_nothing(
    tmp_path: Path,
    app: App,
    options: dict[str, bytes],
    body: bytes,
    status: int,
) -> None:
    """The app answers by docs/webhook.md and keeps nothing."""
    assert post(app, body, **options) == status  # type: ignore[arg-type]
    assert list((tmp_path / "inbox").iterdir()) == []


def test_the_environment_file_is_safe_to_source() -> None:
    """A shell gets every value as it is, whatever stands in it, and runs nothing."""
    values = {"PLAIN": "127.0.0.1", "GOOD_ADDRESS": "reply+a2b@in.example.com", "ODD": "a b'c\"$(exit 9);`exit 8`\\ #&*"}
    script = environment_text(values) + 'printf "%s\\0" "$PLAIN" "$GOOD_ADDRESS" "$ODD"'
    done = subprocess.run(["/bin/sh", "-eu"], input=script.encode(), capture_output=True, check=True, timeout=30)
    assert done.stdout.decode().split("\0")[:-1] == list(values.values())


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that says what it is told, until it is ended."""
    code = "while True: print(input(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_only_the_process_that_was_started_is_ended(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    """A process id that has come again, for somebody else, is left alone; so is a folder that no demo made."""
    notes, folder = Notes(tmp_path / ".demo"), tmp_path / "gatepost-demo.abc"
    folder.mkdir()
    notes.lock()
    notes.write(folder, 25, {"app": bystander})
    state = json.loads((notes.folder / "state.json").read_text())
    state["processes"][0]["started"] = "1"
    (notes.folder / "state.json").write_text(json.dumps(state))
    assert notes.stop()
    assert bystander.stdin is not None
    assert bystander.stdout is not None
    bystander.stdin.write(b"alive\n")
    bystander.stdin.flush()
    assert bystander.stdout.readline() == b"alive\n"
    assert folder.is_dir()
    notes.write(folder, 25, {"app": bystander})
    assert notes.stop()
    assert bystander.wait(30) != 0
    notes.forget()
    assert not notes.stop()
    assert not notes.folder.exists()


def test_a_process_is_told_from_another_with_its_number(bystander: subprocess.Popen[bytes]) -> None:
    """`identity` is the start of the process, and nothing once it has ended."""
    assert identity(bystander.pid) == identity(bystander.pid) != ""
    bystander.kill()
    bystander.wait(30)
    assert identity(bystander.pid) == ""


def test_a_second_demo_waits_its_turn(tmp_path: Path) -> None:
    """Two at once would end each other's processes."""
    Notes(tmp_path / ".demo").lock()
    with pytest.raises(NotNowError, match="wait for its end"):
        Notes(tmp_path / ".demo").lock()


def test_notes_that_cannot_be_read_delete_nothing(tmp_path: Path) -> None:
    """A state file that somebody has edited says what to do, and is left there."""
    notes = Notes(tmp_path / ".demo")
    notes.lock()
    (notes.folder / "state.json").write_text("{}")
    with pytest.raises(NotNowError, match="by hand"):
        notes.stop()
    assert (notes.folder / "state.json").exists()
