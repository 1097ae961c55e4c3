"""A small app that receives mail from gatepost: what the demo delivers to, and an example to start your own from.

Promises: answers 204 only once the message is on the disk, so that a crash at any moment loses nothing; nothing of a request is
looked at before its signature is right; a message that comes again is known by its id.
Never: parses the mail, or answers a sender: that is your app's affair.

    WEBHOOK_SECRET=whsec_... python app.py PORT FOLDER

FOLDER gets a file ID.eml for each message, and a line of JSON in received.jsonl. Needs gatepost and the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Literal

from gatepost.receiver import BodyError, EventTypeError, Received, ReceiverError, verify_webhook

#: Octets of a request: a message of 25 MiB (message_size_limit in postfix/main.cf) is a third longer in base64.
MOST: Final = 40 * 1024 * 1024


class Inbox:
    """Where the app keeps what it was sent: a folder of its own, one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "received.jsonl"
        self._lock = threading.Lock()
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._seen = {json.loads(line)["id"] for line in lines}

    def keep(self, mail: Received) -> None:
        """Writes the message and its line; both are on the disk when this returns."""
        with self._lock:
            part = self._folder / f"{mail.id}.part"
            _write(part, mail.raw, "wb")
            part.rename(self._folder / f"{mail.id}.eml")
            # Whoever acts on mail must not act twice: gatepost brings a message again where an answer of ours was lost.
            line = json.dumps({**_facts(mail), "repeated": mail.id in self._seen})
            _write(self._log, line.encode("ascii") + b"\n", "ab")
            self._seen.add(mail.id)
            _sync(self._folder)


def _facts(mail: Received) -> dict[str, object]:
    return {
        "id": mail.id,
        "recipient": mail.envelope.recipient,
        "message_id": mail.message.message_id,
        "sha256": hashlib.sha256(mail.raw).hexdigest(),  # of the mail as it is in ID.eml
        "content_sha256": mail.message.sha256,  # without the Received fields of our own hosts: what the sender sent
        "size": len(mail.raw),
        "route": mail.route,
        "key_subject": mail.key.subject if mail.key else "",  # what you minted the key for
        "answers": mail.thread.parent_message_id if mail.thread else "",  # the Message-ID of the mail of yours it answers
        "sender": mail.envelope.sender,
        "sender_verified": mail.sender.verified,  # believe the From address only where this says "yes"
        "subject": mail.message.subject,
    }


def _write(path: Path, data: bytes, mode: Literal["wb", "ab"]) -> None:
    """Returns once the disk has it."""
    with path.open(mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class App(ThreadingHTTPServer):
    """The app on loopback; port 0 takes any. `secret`: the sink's, whsec_ and base64."""

    def __init__(self, port: int, folder: Path, secret: str) -> None:
        super().__init__(("127.0.0.1", port), Webhook)
        self.inbox = Inbox(folder)
        self.secret = secret


class Webhook(BaseHTTPRequestHandler):
    """One request. What is answered decides what becomes of the message: see docs/webhook.md."""

    server: App
    timeout = 30  # seconds for one read: who stalls does not hold a thread for ever

    def do_POST(self) -> None:
        """Checks, keeps, answers."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MOST:
            self._answer(413)
            return
        body = self.rfile.read(int(length))  # the bytes as they came: the signature is over them
        try:
            mail = verify_webhook(dict(self.headers), body, self.server.secret).received()
        except EventTypeError:
            self._answer(200)  # an event that this app has no use for
        except BodyError as error:
            self._answer(400, error)
        except ReceiverError as error:
            self._answer(401, error)
        else:
            self.server.inbox.keep(mail)  # where this fails nothing is answered, and gatepost comes again
            self._answer(204)

    def _answer(self, status: int, error: Exception | None = None) -> None:
        text = f"{error}\n".encode("ascii", "backslashreplace") if error else b""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main() -> None:
    """Serves until it is ended."""
    port, folder = sys.argv[1:]
    with App(int(port), Path(folder), os.environ["WEBHOOK_SECRET"]) as app:
        app.serve_forever()


if __name__ == "__main__":
    main()
