"""An app for tests: an HTTP or HTTPS server on loopback that takes webhooks, and that has every fault an app can have.

Promises: checks Standard Webhooks signatures with code of its own; logs one JSON line for each message that it took, before it
says so, and none for a message that it did not take; ends when it is told to, whatever its faults hold open.
Never: listens on anything but 127.0.0.1; imports gatepost.

As a class: `with FaultyApp(secrets=[...]) as app: app.url("status/503")`. The path chooses the behaviour (`BEHAVIOURS` lists
them); any other path, such as /mail, has the one that `app.behaviour` names, which
`POST /control {"behaviour": "hang"}` changes.
As a script: `python tests/faulty_app.py --port-file F --log F [--secret whsec_...] [--behaviour ok] [--certificate PEM]`.
The port file appears, whole, once it listens; SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final, Self

#: Seconds between two octets of a peer that drips: short, so that a client without a total deadline is held for good.
DRIP: Final = 0.05
PAGE: Final = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form method=post></form></body></html>\n"


class Request:
    """One request: its head, and its body as far as somebody asked for it.

    `connection`: how many connections came before and with its own; `number`: the same of requests on that connection.
    `stays`: whether the connection takes another one. Where it does not, `answer` says so.
    """

    def __init__(self, sock: socket.socket, file: BinaryIO, *, connection: int, number: int) -> None:
        self.sock, self._file, self.connection, self.number = sock, file, connection, number
        self.stays = False
        self.line = self._file.readline(65_536).decode("latin-1").rstrip("\r\n")
        self.method, _, rest = self.line.partition(" ")
        self.path = rest.partition(" ")[0]
        self.fields: dict[str, str] = {}
        while (line := self._file.readline(65_536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            self.fields[name.strip().lower()] = value.strip()
        self._body: bytes | None = None

    @property
    def body(self) -> bytes:
        """The whole body, read now if it was not yet; ConnectionError where the client leaves before its end."""
        if self._body is None:
            length = int(self.fields.get("content-length", "0"))
            self._body = self._file.read(length)
            if len(self._body) < length:
                raise ConnectionError("the client left in mid-body")
        return self._body

    def read_some(self, count: int) -> bytes:
        return self._file.read(count)

    def say(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def answer(self, status: int, body: bytes = b"", *fields: str, kind: str = "text/plain") -> None:
        lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(body)}", *fields]
        if not self.stays:
            lines.append("Connection: close")
        if body:
            lines.append(f"Content-Type: {kind}")
        self.say("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self.sock.close()


def verify(secrets: Sequence[str], fields: dict[str, str], body: bytes, tolerance: float | None) -> bool:
    """Standard Webhooks 1.0: one of the signatures is by one of our secrets, and the time is about now."""
    stamp = fields.get("webhook-timestamp", "")
    signed = f"{fields.get('webhook-id', '')}.{stamp}.".encode("latin-1") + body
    if not stamp.isdigit() or (tolerance is not None and abs(time.time() - int(stamp)) > tolerance):
        return False
    good = False
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        ours = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for theirs in fields.get("webhook-signature", "").split():
            good |= hmac.compare_digest(f"v1,{ours}", theirs)
    return good


def describe(request: Request) -> dict[str, str]:
    """The log's line for a message: from the JSON body, or from the raw message without the fields that gatepost put there."""
    body = request.body
    seen = {"id": request.fields.get("webhook-id", ""), "recipient": "", "message_id": "", "sha256": ""}
    if request.fields.get("content-type") == "message/rfc822":
        lines = body.split(b"\r\n")
        while lines and lines[0].lower().startswith(b"x-gatepost-"):
            del lines[0]
        for line in lines[: lines.index(b"") if b"" in lines else len(lines)]:
            if line.lower().startswith(b"message-id:"):
                seen["message_id"] = line.partition(b":")[2].strip().decode("latin-1")
        raw = b"\r\n".join(lines)
    else:
        data = json.loads(body)["data"]
        seen.update(id=data["id"], recipient=data["envelope"]["recipient"], message_id=data["message"]["message_id"])
        raw = base64.b64decode(data["raw"], validate=True)
    seen["sha256"] = hashlib.sha256(raw).hexdigest()
    seen["body_sha256"] = hashlib.sha256(body).hexdigest()
    return seen


class FaultyApp:
    """The server, in threads of this process.

    `secrets`: whsec_ texts; with none, any signature will do. `tolerance`: seconds that a timestamp may be off; None: any.
    `certificate`: a PEM file with certificate and key, for TLS. `tls`: a context of the test's own instead. `tls_fault`: what
    happens in place of a handshake: "cut", "hang", "reset" or "plain" (HTTP on a port where TLS should be).
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str] = (),
        behaviour: str = "ok",
        log: str = "",
        tolerance: float | None = 300,
        certificate: str = "",
        tls: ssl.SSLContext | None = None,
        tls_fault: str = "",
    ) -> None:
        self.secrets, self.behaviour, self.tolerance, self._tls_fault = tuple(secrets), behaviour, tolerance, tls_fault
        self.taken: list[dict[str, str]] = []
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        #: Connections that came so far; the most that were open at once.
        self.connections = self.most = 0
        #: What `kept-speaks` and `kept-ends` wait for.
        self.told = threading.Event()
        self._log = open(log, "a", encoding="ascii", buffering=1) if log else None  # noqa: SIM115 - closed by stop()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._tls = tls
        if certificate and tls is None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, path: str = "mail", host: str = "127.0.0.1") -> str:
        scheme = "https" if self._tls or self._tls_fault else "http"
        return f"{scheme}://{host}:{self.port}/{path}"

    def stop(self) -> None:
        """Closes everything, whatever a fault holds open."""
        self.stopping.set()
        self.told.set()
        with self._lock:
            for sock in (self._listener, *self._open):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            self._listener.close()
            if self._log:
                self._log.close()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(sock)
                self.connections += 1
                self.most = max(self.most, len(self._open))
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    @property
    def open_now(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def _serve(self, sock: socket.socket, connection: int) -> None:
        try:
            if self._tls_fault and self._fail_handshake(sock):
                return
            if self._tls is not None:
                with self._lock:
                    self._open.discard(sock)
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open.add(sock)
                sock.do_handshake()
            with sock.makefile("rb") as file:
                self._converse(sock, file, connection)
        except (OSError, ValueError):  # the client left, or the test is over
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
                sock.close()

    def _converse(self, sock: socket.socket, file: BinaryIO, connection: int) -> None:
        """One request after the other, for as long as the connection stays."""
        number, stays = 0, True
        while stays:
            number += 1
            request = Request(sock, file, connection=connection, number=number)
            if number > 1 and not request.line:  # the client has ended it
                return
            self._act(request)
            stays = request.stays
            if stays:
                assert request.body is not None  # what nobody has read is no next request

    def _fail_handshake(self, sock: socket.socket) -> bool:
        """Whether the connection is done with."""
        if self._tls_fault == "plain":
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            sock.recv(65_536)
        elif self._tls_fault == "hang":
            self.stopping.wait()
        else:
            sock.recv(65_536)
            if self._tls_fault == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True

    def _act(self, request: Request) -> None:
        if request.path == "/control" and request.method == "POST":
            self.behaviour = json.loads(request.body)["behaviour"]
            request.answer(204)
            return
        self.requests.append(request)
        wanted = request.path.partition("?")[0].strip("/")
        if wanted.partition("/")[0] not in BEHAVIOURS:
            wanted = self.behaviour
        name, _, argument = wanted.partition("/")
        BEHAVIOURS[name](self, request, argument)

    def take(self, request: Request) -> bool:
        """Reads, verifies and logs a message; answers 401 itself, and is False, for a signature that is not good."""
        body = request.body
        if self.secrets and not verify(self.secrets, request.fields, body, self.tolerance):
            request.answer(401, b"bad signature\n")
            return False
        if request.fields.get("content-type") == "application/json" and json.loads(body)["type"] != "message.received":
            return True  # a probe
        seen = describe(request)
        with self._lock:
            self.taken.append(seen)
            if self._log:
                self._log.write(json.dumps(seen) + "\n")
        return True


Behaviour = Callable[[FaultyApp, Request, str], None]
BEHAVIOURS: Final[dict[str, Behaviour]] = {}


def behaviour(act: Behaviour) -> Behaviour:
    """Registers a function under its name, with "-" for "_": it is what the path says."""
    BEHAVIOURS[act.__name__.replace("_", "-")] = act
    return act


def reply_of(act: Callable[[Request], None]) -> Behaviour:
    """A behaviour that reads the message, does not take it, and then speaks."""

    def fault(app: FaultyApp, request: Request, argument: str) -> None:
        assert request.body is not None
        act(request)

    BEHAVIOURS[act.__name__.replace("_", "-")] = fault
    return fault


# -- apps that take the message


@behaviour
def ok(app: FaultyApp, request: Request, argument: str) -> None:
    if app.take(request):
        request.answer(200, b"ok\n")


@behaviour
def confirm(app: FaultyApp, request: Request, argument: str) -> None:
    if app.take(request):
        word = {"gatepost": "accepted", "id": request.fields["webhook-id"]}
        request.answer(200, json.dumps(word).encode(), kind="application/json")


@behaviour
def confirm_plain(app: FaultyApp, request: Request, argument: str) -> None:
    if app.take(request):
        request.answer(200, request.fields["webhook-id"].encode() + b"\n")


@behaviour
def confirm_as_html(app: FaultyApp, request: Request, argument: str) -> None:
    """What PHP does without a header() of one's own."""
    if app.take(request):
        word = {"gatepost": "accepted", "id": request.fields["webhook-id"]}
        request.answer(200, json.dumps(word).encode(), kind="text/html; charset=UTF-8")


@behaviour
def empty_html(app: FaultyApp, request: Request, argument: str) -> None:
    """What Flask and Django do with an empty answer."""
    if app.take(request):
        request.answer(200, b"", "Content-Type: text/html; charset=utf-8")


@behaviour
def chunked(app: FaultyApp, request: Request, argument: str) -> None:
    if app.take(request):
        request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nTrailer: t\r\n\r\n")


@behaviour
def until_close(app: FaultyApp, request: Request, argument: str) -> None:
    """HTTP/1.0: the end of the connection is the end of the body (with close_notify under TLS)."""
    if app.take(request):
        request.say(b"HTTP/1.0 200 OK\r\n\r\nok")
        if isinstance(request.sock, ssl.SSLSocket):
            request.sock.unwrap()


@behaviour
def until_cut(app: FaultyApp, request: Request, argument: str) -> None:
    """The same without close_notify: under TLS, a cut."""
    if app.take(request):
        request.say(b"HTTP/1.0 200 OK\r\n\r\nok")


@behaviour
def interim(app: FaultyApp, request: Request, argument: str) -> None:
    request.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    if app.take(request):
        request.say(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")


@behaviour
def status(app: FaultyApp, request: Request, argument: str) -> None:
    """/status/503: that status, truthfully: a 2xx has taken the message."""
    code = int(argument)
    if 200 <= code < 300 and not app.take(request):
        return
    assert request.body is not None
    if code < 200:
        request.say(f"HTTP/1.1 {code:03} Interim\r\n\r\n".encode())
    elif code in (204, 205, 304):
        request.say(f"HTTP/1.1 {code} Because\r\n\r\n".encode())
    else:
        request.answer(code, b"so it is\n", *(["Retry-After: 120"] if code in (429, 503) else []))


# -- apps that say no


@reply_of
def refuse(request: Request) -> None:
    request.answer(200, b'{"gatepost": "refuse", "text": "This discussion is closed."}', kind="application/json")


@reply_of
def refuse_silently(request: Request) -> None:
    request.answer(200, b'{"gatepost": "refuse"}', kind="application/json")


@reply_of
def refuse_rudely(request: Request) -> None:
    text = "a\r\n250 2.0.0 b\t\x1b[31m\u202e " + "x" * 5_000
    request.answer(200, json.dumps({"gatepost": "refuse", "text": text}).encode(), kind="application/json")


@reply_of
def explain(request: Request) -> None:
    request.answer(422, b'{"error": "no such\r\nproject"}', kind="application/json")


# -- what stands in an app's place


@reply_of
def login_page(request: Request) -> None:
    request.answer(200, PAGE, kind="text/html; charset=utf-8")


@reply_of
def login_page_untyped(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n\xef\xbb\xbf\r\n\t%s" % (len(PAGE) + 6, PAGE))


@reply_of
def login_page_xhtml(request: Request) -> None:
    page = b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>'
    request.answer(201, page, kind="application/xml")


@reply_of
def redirect(request: Request) -> None:
    """To a place of this server that would take the message, were it followed."""
    request.answer(302, b"", "Location: /ok?next=secret")


@reply_of
def redirect_307(request: Request) -> None:
    request.answer(307, b"", "Location: /ok")


@reply_of
def garbage(request: Request) -> None:
    request.say(bytes(range(256)) * 4)


@reply_of
def smtp(request: Request) -> None:
    request.say(b"220 mx.example.net ESMTP\r\n")


@reply_of
def http_09(request: Request) -> None:
    request.say(b"ok\n")


@reply_of
def http_2(request: Request) -> None:
    request.say(b"HTTP/2 200 OK\r\n\r\n")


# -- what is slow


@behaviour
def hang(app: FaultyApp, request: Request, argument: str) -> None:
    assert request.body is not None
    app.stopping.wait()


@behaviour
def hang_before_read(app: FaultyApp, request: Request, argument: str) -> None:
    app.stopping.wait()


@behaviour
def slow_read(app: FaultyApp, request: Request, argument: str) -> None:
    while request.read_some(1) and not app.stopping.wait(DRIP):
        pass


def drip(app: FaultyApp, request: Request, start: bytes, octet: bytes) -> None:
    assert request.body is not None
    request.say(start)
    while not app.stopping.wait(DRIP):
        request.say(octet)


@behaviour
def drip_headers(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"HTTP/1.1 200 OK\r\nX-Long: ", b"x")


@behaviour
def drip_status(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"HTTP/1.1 200 ", b"O")


@behaviour
def drip_body(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", b"x")


@behaviour
def drip_chunks(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")


@behaviour
def drip_until_close(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"HTTP/1.1 200 OK\r\n\r\n", b"x")


@behaviour
def drip_refusal(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"HTTP/1.1 503 Busy\r\nContent-Length: 50000\r\n\r\n", b"x")


@behaviour
def drip_interim(app: FaultyApp, request: Request, argument: str) -> None:
    drip(app, request, b"", b"HTTP/1.1 102 Processing\r\n\r\n")


# -- what is cut off


@reply_of
def close(request: Request) -> None:
    """No answer at all."""


@behaviour
def close_before_read(app: FaultyApp, request: Request, argument: str) -> None:
    """Leaves with the body unread."""


@reply_of
def reset(request: Request) -> None:
    request.close(reset=True)


@behaviour
def reset_before_read(app: FaultyApp, request: Request, argument: str) -> None:
    request.close(reset=True)


@reply_of
def cut_status(request: Request) -> None:
    request.say(b"HTTP/1.1 200")


@reply_of
def cut_headers(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")


@reply_of
def cut_before_body(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")


@reply_of
def cut_body(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")


@reply_of
def cut_chunk(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nok")


@reply_of
def cut_chunks(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")


@reply_of
def cut_trailer(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")


# -- what is too much, or unclear


def flood(app: FaultyApp, request: Request, start: bytes, piece: bytes) -> None:
    assert request.body is not None
    request.say(start)
    while not app.stopping.is_set():
        request.say(piece)


@behaviour
def huge_headers(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 8_192)


@behaviour
def many_headers(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 10)


@behaviour
def huge_status(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"HTTP/1.1 200 ", b"x" * 8_192)


@behaviour
def endless_interim(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 10)


@behaviour
def endless_body(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 8_192)


@behaviour
def endless_chunks(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1_024 + b"\r\n")


@behaviour
def endless_trailer(app: FaultyApp, request: Request, argument: str) -> None:
    flood(app, request, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 10)


@reply_of
def long_body(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65_537)


@reply_of
def two_lengths(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok\n")


@reply_of
def bad_length(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok")


@reply_of
def both_framings(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")


@reply_of
def other_coding(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")


@reply_of
def bad_chunk(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n")


@reply_of
def bad_chunk_end(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n")


@reply_of
def bad_field(request: Request) -> None:
    request.say(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n")


@reply_of
def encoded(request: Request) -> None:
    request.answer(200, b"\x1f\x8b\x08\x00", "Content-Encoding: gzip")


@reply_of
def other_word(request: Request) -> None:
    request.answer(200, b'{"gatepost": "later"}', kind="application/json")


@reply_of
def other_id(request: Request) -> None:
    request.answer(200, b'{"gatepost": "accepted", "id": "' + b"0" * 64 + b'"}', kind="application/json")


@reply_of
def deep_json(request: Request) -> None:
    request.answer(200, b'{"gatepost": ' + b"[" * 60_000, kind="application/json")


@behaviour
def early_ok(app: FaultyApp, request: Request, argument: str) -> None:
    """Says yes before it has read the message, and never reads it."""
    request.answer(200, b"ok\n")
    app.stopping.wait()


@behaviour
def early_413(app: FaultyApp, request: Request, argument: str) -> None:
    """Says no before it has read the message, and never reads it."""
    request.answer(413, b"too large\n")
    app.stopping.wait()


def main(arguments: Sequence[str]) -> None:
    """The server as a process, for tests that need one."""
    parser = argparse.ArgumentParser(description="A webhook app with every fault.")
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--secret", action="append", default=[])
    parser.add_argument("--behaviour", default="ok")
    parser.add_argument("--certificate", default="")
    given: Any = parser.parse_args(arguments)
    app = FaultyApp(secrets=given.secret, behaviour=given.behaviour, log=given.log, certificate=given.certificate)
    signal.signal(signal.SIGTERM, lambda *_: app.stop())
    with open(f"{given.port_file}.new", "w", encoding="ascii") as file:
        file.write(f"{app.port}\n")
    os.rename(f"{given.port_file}.new", given.port_file)
    app.stopping.wait()


#: The behaviours that stand in this file: a test of all of them must not ask those that other tests have added meanwhile.
STANDING: Final = frozenset(BEHAVIOURS)


# -- apps that keep connections, or seem to


@behaviour
def kept(app: FaultyApp, request: Request, argument: str) -> None:
    """Takes the message, and the next one; `/kept/3`: the third on a connection is the last, and it says so."""
    request.stays = request.number != int(argument or 0)
    if app.take(request):
        request.answer(200, b"ok\n")


def keeps(octets: bytes) -> Behaviour:
    """Takes the message, says this and waits for the next one."""

    def act(app: FaultyApp, request: Request, argument: str) -> None:
        request.stays = True
        if app.take(request):
            request.say(octets)

    return act


OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEHAVIOURS["kept-chunked"] = keeps(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
BEHAVIOURS["kept-204"] = keeps(b"HTTP/1.1 204 No Content\r\n\r\n")
BEHAVIOURS["kept-204-long"] = keeps(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n")
BEHAVIOURS["kept-205"] = keeps(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")
BEHAVIOURS["kept-said"] = keeps(OK.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"))
BEHAVIOURS["kept-close-said"] = keeps(OK.replace(b"\r\n\r\n", b"\r\nConnection: x, Close\r\n\r\n"))
BEHAVIOURS["kept-http-10"] = keeps(OK.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
BEHAVIOURS["kept-interim"] = keeps(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
BEHAVIOURS["kept-two-lengths"] = keeps(OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n"))
BEHAVIOURS["kept-trailing"] = keeps(OK + b"\r\n")
BEHAVIOURS["kept-second-answer"] = keeps(OK + OK)
BEHAVIOURS["kept-503"] = keeps(OK.replace(b"200", b"503"))
BEHAVIOURS["kept-302"] = keeps(OK.replace(b"200", b"302"))


@behaviour
def kept_early(app: FaultyApp, request: Request, argument: str) -> None:
    """Begins to say no before it has read the message, and ends when it has."""
    request.stays = True
    request.say(OK[:-2].replace(b"200", b"422"))
    assert request.body is not None
    request.say(OK[-2:])


@behaviour
def kept_speaks(app: FaultyApp, request: Request, argument: str) -> None:
    """Answers, and answers again when nobody has asked."""
    request.stays = True
    if app.take(request):
        request.say(OK)
        app.told.wait()
        request.say(OK)


@behaviour
def kept_ends(app: FaultyApp, request: Request, argument: str) -> None:
    """Says that it keeps the connection, and ends it when the test says so; `/kept-ends/reset`: with a reset."""
    if app.take(request):
        request.say(OK)
        app.told.wait()
        request.close(reset=argument == "reset")


@behaviour
def hang_until_told(app: FaultyApp, request: Request, argument: str) -> None:
    """Answers late, when the test says so."""
    assert request.body is not None
    app.told.wait()
    kept(app, request, "")


@behaviour
def early_cut(app: FaultyApp, request: Request, argument: str) -> None:
    """Begins an answer before it has read the message, and is gone."""
    request.say(OK[:12])
    app.stopping.wait(DRIP)


@behaviour
def kept_until(app: FaultyApp, request: Request, argument: str) -> None:
    """The first message of a connection is taken; what becomes of the second is that behaviour: `/kept-until/close`."""
    if request.number == 1:
        kept(app, request, "")
    else:
        name, _, rest = argument.partition("/")
        BEHAVIOURS[name](app, request, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
