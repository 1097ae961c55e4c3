"""The webhook against an app that has every fault: each row, what the app does and what gatepost makes of it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from gatepost.settings import Sink
from gatepost.sinks import deliver, wire
from gatepost.sinks.delivery import Outcome
from gatepost.sinks.http_post import Answer, parse_url
from gatepost.sinks.webhook import judge
from gatepost.sinks.wire import WireError
from tests.faulty_app import STANDING, FaultyApp
from tests.test_sinks import HERE, ID, MESSAGE, SECRET, in_seconds, make_delivery

KEY = b"a secret of thirty-two octets..."
#: A message that fills the socket buffers on both sides, so that a server that does not read is felt.
LARGE = b"Subject: large\r\n\r\n" + b"x" * 8_000_000


@pytest.fixture
def app() -> Iterator[FaultyApp]:
    with FaultyApp(secrets=[SECRET]) as running:
        yield running


def send(app: FaultyApp, path: str = "ok", *, seconds: float = 60, raw: bytes = MESSAGE, **options: Any) -> Outcome:
    """One delivery to that path of the app."""
    changes = options.pop("changes", {})
    fields = {"name": "app", "kind": "webhook", "target": app.url(path), "secrets": (KEY,), **options}
    return deliver(Sink(**fields), make_delivery(raw, **changes), deadline=in_seconds(seconds))


# -- what each status means

CODES = [
    (100, "unavailable", "an interim answer and no final one"),
    (101, "unavailable", "nobody asked to switch protocols"),
    (102, "unavailable", "an interim answer and no final one"),
    (103, "unavailable", "an interim answer and no final one"),
    (150, "unavailable", "an interim answer that does not exist, and no final one"),
    (200, "delivered", "the app has it"),
    (201, "delivered", "the app made something of it"),
    (202, "delivered", "the app has queued it"),
    (203, "delivered", "2xx"),
    (204, "delivered", "the app has it and nothing to say"),
    (205, "delivered", "2xx without a body"),
    (206, "delivered", "2xx"),
    (207, "delivered", "2xx"),
    (226, "delivered", "2xx"),
    (299, "delivered", "an unknown 2xx is a 2xx (RFC 9110 15)"),
    (300, "misconfigured", "3xx is not the app"),
    (301, "misconfigured", "a redirect is never followed"),
    (302, "misconfigured", "to a login page, most often"),
    (303, "misconfigured", "to a login page, most often"),
    (304, "misconfigured", "nothing can be unmodified here"),
    (307, "misconfigured", "a redirect is never followed"),
    (308, "misconfigured", "a redirect is never followed"),
    (399, "misconfigured", "3xx is not the app"),
    (400, "cannot-take", "the app does not understand this one"),
    (401, "misconfigured", "the secret is wrong, or a login stands before the URL"),
    (402, "unavailable", "an unpaid hoster's word, not the message's fault"),
    (403, "misconfigured", "rights or CSRF protection"),
    (404, "misconfigured", "the URL is wrong"),
    (405, "unavailable", "not in the table: in doubt, defer"),
    (406, "unavailable", "named in the table"),
    (407, "unavailable", "a proxy that we did not ask for"),
    (408, "unavailable", "the app waited too long"),
    (409, "unavailable", "named in the table: another worker has it now"),
    (410, "misconfigured", "the URL is gone"),
    (411, "unavailable", "we do say the length: not the app's word"),
    (412, "unavailable", "in doubt, defer"),
    (413, "cannot-take", "too large for the app"),
    (414, "unavailable", "in doubt, defer"),
    (415, "cannot-take", "the app wants another format"),
    (417, "unavailable", "in doubt, defer"),
    (418, "unavailable", "in doubt, defer"),
    (421, "unavailable", "the wrong server answered"),
    (422, "cannot-take", "the app cannot make sense of this one"),
    (423, "unavailable", "locked now"),
    (425, "unavailable", "too early"),
    (426, "unavailable", "in doubt, defer"),
    (429, "unavailable", "too many at once"),
    (431, "unavailable", "in doubt, defer"),
    (451, "unavailable", "in doubt, defer"),
    (499, "unavailable", "an unknown 4xx is no reason to give the message up"),
    (500, "unavailable", "the app crashed"),
    (501, "unavailable", "5xx"),
    (502, "unavailable", "the app behind the proxy is down"),
    (503, "unavailable", "overloaded, or being deployed"),
    (504, "unavailable", "the app behind the proxy is slow"),
    (505, "unavailable", "5xx"),
    (507, "unavailable", "the app's disk is full"),
    (508, "unavailable", "5xx"),
    (511, "unavailable", "a network that wants a login"),
    (520, "unavailable", "a content network's own code"),
    (599, "unavailable", "5xx"),
    (600, "unavailable", "no such class (RFC 9110 15)"),
    (999, "unavailable", "no such class; some sites say it to machines"),
    (0, "unavailable", "no such class"),
]


@pytest.mark.parametrize(("code", "kind", "reason"), CODES, ids=[f"{code}: {reason}" for code, _, reason in CODES])
def test_each_status_has_its_meaning(app: FaultyApp, code: int, kind: str, reason: str) -> None:
    """Through a real connection, each status ends as the table of docs/webhook.md says; only a 2xx has taken the message."""
    outcome = send(app, f"status/{code}")
    assert outcome.kind == kind, outcome
    assert (len(app.taken) == 1) == (kind == "delivered")
    if code >= 200:
        assert str(code) in outcome.detail


def test_every_status_there_can_be_has_a_meaning() -> None:
    """100 to 599, each: delivered for 2xx, misconfigured for 3xx, and never refused: only the app's own words refuse."""
    exact = {code: kind for code, kind, _ in CODES}
    for code in range(100, 600):
        kind = judge(Answer(status=code, fields={}), ID, confirm=False).kind
        by_class = {2: "delivered", 3: "misconfigured"}.get(code // 100, "unavailable")
        assert kind == exact.get(code, by_class), code


def test_retry_after_reaches_the_log(app: FaultyApp) -> None:
    """What the app says of when to come back stands in the detail."""
    assert "Retry-After: 120" in send(app, "status/503").detail


def test_explanation_reaches_the_log(app: FaultyApp) -> None:
    """Why the app cannot take a message stands in the detail, on one line."""
    outcome = send(app, "explain")
    assert outcome.kind == "cannot-take"
    assert '{"error": "no such project"}' in outcome.detail


# -- what each fault ends as

#: Behaviour, kind, what the detail must say, why. The deadline of those that never end by themselves is short.
FAULTS = [
    ("ok", "delivered", "200", "the good case"),
    ("chunked", "delivered", "200", "chunks, an extension and a trailer are HTTP"),
    ("until-close", "delivered", "200", "HTTP/1.0: the end of the connection ends the body"),
    ("until-cut", "delivered", "200", "without TLS nothing tells that end from a cut"),
    ("interim", "delivered", "204", "100 and 103 are passed over"),
    ("confirm", "delivered", "200", "the app echoes the id though nobody asks"),
    ("confirm-as-html", "delivered", "200", "the app's own words, whatever type PHP gives them"),
    ("empty-html", "delivered", "200", "an empty body is no page, whatever its type"),
    ("refuse", "refused", "refused", "the app's own words"),
    ("refuse-silently", "refused", "refused", "no text is a refusal too"),
    ("refuse-rudely", "refused", "refused", "a text of any kind is a refusal"),
    ("login-page", "misconfigured", "HTML page", "a login page says 200"),
    ("login-page-untyped", "misconfigured", "HTML page", "found by how it begins, behind a byte order mark"),
    ("login-page-xhtml", "misconfigured", "HTML page", "found by its root element"),
    ("redirect", "misconfigured", "to /ok ", "never followed, and its query not logged"),
    ("redirect-307", "misconfigured", "never followed", "the kind that asks to repeat the POST"),
    ("garbage", "unavailable", "not HTTP", "any octets"),
    ("smtp", "unavailable", "not HTTP", "another server on the port"),
    ("http-09", "unavailable", "not HTTP", "an answer without a head"),
    ("http-2", "unavailable", "not HTTP", "nobody spoke HTTP/2"),
    ("hang", "unavailable", "deadline", "reads all and says nothing"),
    ("hang-before-read", "unavailable", "deadline", "accepts, and no more"),
    ("drip-headers", "unavailable", "deadline", "each octet would renew a time limit per read"),
    ("drip-status", "unavailable", "deadline", "the same in the first line"),
    ("drip-body", "unavailable", "deadline", "the same behind a status 200"),
    ("drip-chunks", "unavailable", "deadline", "the same in chunks"),
    ("drip-until-close", "unavailable", "deadline", "the same without a length"),
    ("drip-interim", "unavailable", "deadline", "102 for ever"),
    ("drip-refusal", "unavailable", "503", "its status is known; nobody waits for the reason"),
    ("close", "unavailable", "ended", "no answer at all"),
    ("close-before-read", "unavailable", "", "leaves with the body unread"),
    ("reset", "unavailable", "", "RST behind the request"),
    ("reset-before-read", "unavailable", "", "RST in mid-request"),
    ("cut-status", "unavailable", "ended", "a status line without its end is no status"),
    ("cut-headers", "unavailable", "ended", "a 200 whose head is cut off is no 200"),
    ("cut-before-body", "unavailable", "ended", "a 200 that promises three octets and gives none"),
    ("cut-body", "unavailable", "ended", "a 200 shorter than it says"),
    ("cut-chunk", "unavailable", "ended", "cut in mid-chunk"),
    ("cut-chunks", "unavailable", "ended", "no last chunk"),
    ("cut-trailer", "unavailable", "ended", "no end of the trailer"),
    ("huge-headers", "unavailable", "too long", "a field without end"),
    ("many-headers", "unavailable", "too many", "fields without end"),
    ("huge-status", "unavailable", "too long", "a reason without end"),
    ("endless-interim", "unavailable", "too long", "interim answers without end"),
    ("endless-body", "unavailable", "longer", "a body without end"),
    ("endless-chunks", "unavailable", "longer", "chunks without end"),
    ("endless-trailer", "unavailable", "too many", "a trailer without end"),
    ("long-body", "unavailable", "longer", "one octet above the limit"),
    ("two-lengths", "unavailable", "framing", "which one?"),
    ("bad-length", "unavailable", "framing", "less than nothing"),
    ("both-framings", "unavailable", "framing", "a smuggler's answer (RFC 9112 6.3)"),
    ("other-coding", "unavailable", "framing", "a coding that nobody asked for"),
    ("bad-chunk", "unavailable", "framing", "0x2 is no chunk size, though Python's int() reads it"),
    ("bad-chunk-end", "unavailable", "framing", "more than the size says"),
    ("bad-field", "unavailable", "not HTTP", "a field without a colon"),
    ("encoded", "unavailable", "encoded", "what cannot be read might be a refusal"),
    ("other-word", "unavailable", "neither", "a word of a newer app: in doubt, defer"),
    ("other-id", "delivered", "200", "only confirm asks for the id"),
    ("deep-json", "delivered", "200", "not JSON, not HTML: a 2xx"),
    ("early-ok", "unavailable", "before it had", "nobody can have what was not sent yet"),
    ("early-413", "cannot-take", "413", "a refusal is heard while we still send"),
]
#: These never end: the deadline does.
ENDLESS = {name for name, _, detail, _ in FAULTS if detail == "deadline"}
#: These need a message that does not fit the buffers.
NEED_LARGE = {"early-ok", "early-413", "close-before-read", "reset-before-read", "hang-before-read"}


@pytest.mark.parametrize(("path", "kind", "says", "reason"), FAULTS, ids=[row[0] for row in FAULTS])
def test_each_fault_ends_as_it_should(app: FaultyApp, path: str, kind: str, says: str, reason: str) -> None:
    """Whatever the other side does, the call returns, raises nothing, and only a truthful yes counts as delivered."""
    outcome = send(app, path, seconds=0.7 if path in ENDLESS else 60, raw=LARGE if path in NEED_LARGE else MESSAGE)
    assert outcome.kind == kind, outcome
    assert says in outcome.detail
    assert "\n" not in outcome.detail


def test_server_that_does_not_read_ends_at_the_deadline(app: FaultyApp) -> None:
    """A server that takes an octet now and then holds nobody beyond the deadline."""
    outcome = send(app, "slow-read", seconds=0.7, raw=LARGE)
    assert outcome.kind == "unavailable"
    assert "deadline" in outcome.detail


def test_every_behaviour_is_in_a_table() -> None:
    """No fault of the test app is left untried."""
    assert STANDING - {name for name, _, _, _ in FAULTS} == {"status", "explain", "slow-read", "confirm-plain"}


def test_deadline_in_the_past_sends_nothing(app: FaultyApp) -> None:
    """With no time left there is no attempt."""
    assert send(app, seconds=-1).kind == "unavailable"
    assert not app.requests


# -- confirm, refusals, pages


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("confirm", "delivered"),
        ("confirm-plain", "delivered"),
        ("confirm-as-html", "delivered"),
        ("ok", "unavailable"),
        ("status/204", "unavailable"),
        ("other-id", "unavailable"),
        ("empty-html", "unavailable"),
        ("refuse", "refused"),
        ("login-page", "misconfigured"),
    ],
)
def test_confirm_asks_for_the_id(app: FaultyApp, path: str, kind: str) -> None:
    """With confirm on, a 2xx counts only where the answer names the id; a refusal needs none."""
    assert send(app, path, confirm=True).kind == kind


def test_echo_of_the_request_is_no_confirmation() -> None:
    """A server that sends back what it got names the id too, in another place: that is not the app's word."""
    echo = json.dumps({"json": {"data": {"id": ID}}, "headers": {"webhook-id": ID}, "gatepost": "accepted"}).encode()
    assert judge(Answer(status=200, fields={}, body=echo), ID, confirm=True).kind == "unavailable"


def test_refusal_text_is_cleaned(app: FaultyApp) -> None:
    """What the app says to the sender is one printable line of at most 200 characters."""
    assert send(app, "refuse").text == "This discussion is closed."
    rude = send(app, "refuse-rudely").text
    assert rude.startswith("a 250 2.0.0 b [31m xxx")
    assert len(rude) == 200


PAGES = [
    ("text/html", b"Please log in", True, "any text under an HTML type"),
    ("text/html; charset=utf-8", b"ok", True, "the type decides: text/plain or 204 is the app's mend"),
    ("TEXT/HTML", b"<p>", True, "types are case-insensitive"),
    ("application/xhtml+xml", b"<x/>", True, "XHTML"),
    ("", b"<!DOCTYPE html><p>", True, "by its first octets"),
    ("text/plain", b"\n\n  <HTML lang=en>", True, "white space and case"),
    ("text/plain", "\ufeff<html>".encode("utf-16-le"), True, "UTF-16"),
    ("text/plain", b"<!-- served by x --><html>", True, "a comment first"),
    ("application/json", b'{"html": "<html>"}', False, "HTML inside JSON"),
    ("application/xml", b'<?xml version="1.0"?><ok/>', False, "XML is no HTML"),
    ("text/plain", b"ok <html>", False, "not at the start"),
    ("text/html", b" \r\n", False, "nothing but white space"),
    ("", b"", False, "nothing"),
]


@pytest.mark.parametrize(("kind", "body", "page", "reason"), PAGES, ids=[row[3] for row in PAGES])
def test_html_page_is_not_the_app(kind: str, body: bytes, page: bool, reason: str) -> None:
    """A 2xx with a page is what a login wall, a proxy or a parked domain says, and not that the app has the message."""
    outcome = judge(Answer(status=200, fields={"content-type": kind}, body=body), ID, confirm=False)
    assert outcome.kind == ("misconfigured" if page else "delivered")


# -- what is sent


def test_request_is_a_standard_webhook(app: FaultyApp) -> None:
    """Headers, signature and body are what docs/webhook.md says, checked by code that is not ours."""
    assert send(app, "mail?source=mail").kind == "delivered"
    (request,) = app.requests
    assert request.line == "POST /mail?source=mail HTTP/1.1"
    assert request.fields["host"] == f"127.0.0.1:{app.port}"
    assert request.fields["content-type"] == "application/json"
    assert request.fields["user-agent"].startswith("gatepost/")
    assert request.fields["webhook-id"] == ID
    assert app.taken == [
        {
            "id": ID,
            "recipient": "reply+k3y@in.example.com",
            "message_id": "<one@example.org>",
            "sha256": hashlib.sha256(MESSAGE).hexdigest(),
            "body_sha256": hashlib.sha256(request.body).hexdigest(),
        }
    ]


def test_wrong_secret_is_a_misconfiguration(app: FaultyApp) -> None:
    """The app answers 401, and the log says what to look at."""
    outcome = send(app, secrets=(b"w" * 32,))
    assert outcome.kind == "misconfigured"
    assert "secret" in outcome.detail
    assert not app.taken


@pytest.mark.parametrize("secrets", [(b"o" * 32, KEY), (KEY, b"n" * 32)], ids=["knows the new", "knows the old"])
def test_every_secret_signs_while_one_rotates(app: FaultyApp, secrets: tuple[bytes, ...]) -> None:
    """An app that knows either secret takes the message."""
    assert send(app, secrets=secrets).kind == "delivered"
    assert len(app.requests[0].fields["webhook-signature"].split(" ")) == 2


def test_retry_has_the_same_bytes_and_a_fresh_signature(app: FaultyApp) -> None:
    """Same id, same body; another time, another signature."""
    app.tolerance = None
    times = iter([1_795_255_200.9, 1_795_258_800.0])
    sink = Sink(name="app", kind="webhook", target=app.url(), secrets=(KEY,))
    for attempt in (1, 2):
        outcome = deliver(sink, make_delivery(attempt=attempt), deadline=in_seconds(60), now=lambda: next(times))
        assert outcome.kind == "delivered"
    first, second = app.requests
    assert first.body == second.body
    assert first.fields["webhook-id"] == second.fields["webhook-id"]
    assert (first.fields["webhook-timestamp"], second.fields["webhook-timestamp"]) == ("1795255200", "1795258800")
    assert first.fields["webhook-signature"] != second.fields["webhook-signature"]


def test_raw_format_posts_the_message(app: FaultyApp) -> None:
    """The message itself, signed the same way, our fields in front and the stranger's of those names gone."""
    forged = b"X-Gatepost-Sender-Verified: yes\r\nx-gatepost-ID: 0\r\n" + MESSAGE
    assert send(app, format="raw", raw=forged, changes={"sender_verified": "no"}).kind == "delivered"
    (request,) = app.requests
    assert request.fields["content-type"] == "message/rfc822"
    assert request.body == (
        b"X-Gatepost-Id: " + ID.encode() + b"\r\n"
        b"X-Gatepost-Route: replies\r\n"
        b"X-Gatepost-Key-Subject: topic-7\r\n"
        b"X-Gatepost-Sender-Verified: no\r\n" + MESSAGE
    )
    assert app.taken[0]["sha256"] == hashlib.sha256(MESSAGE).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_messages_of_any_size_arrive_whole(app: FaultyApp, size: int) -> None:
    """Around the size of a send, and far beyond the socket buffers, every octet arrives."""
    raw = b"Subject: s\r\n\r\n" + b"x" * size
    assert send(app, raw=raw).kind == "delivered"
    assert app.taken[0]["sha256"] == hashlib.sha256(raw).hexdigest()


def test_environment_sets_no_proxy(app: FaultyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy and its kin are nothing to us."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert send(app).kind == "delivered"


# -- getting there


def test_refused_connection_is_unavailable() -> None:
    """Nobody listens: the app is down, and the message waits."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sink = Sink(name="app", kind="webhook", target=f"http://127.0.0.1:{closed.getsockname()[1]}/", secrets=(KEY,))
        outcome = deliver(sink, make_delivery(), deadline=in_seconds(60))
    assert outcome.kind == "unavailable"
    assert "refused" in outcome.detail


def test_unknown_host_is_unavailable() -> None:
    """A name that does not resolve may do so later: DNS fails for a while more often than for good."""
    sink = Sink(name="app", kind="webhook", target="http://no-such-host.invalid/", secrets=(KEY,))
    outcome = deliver(sink, make_delivery(), deadline=in_seconds(10))
    assert outcome.kind == "unavailable"
    assert "looking up no-such-host.invalid" in outcome.detail


def test_next_address_is_tried(app: FaultyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with several addresses is reached by the one that answers."""
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", app.port)),
    ]
    monkeypatch.setattr(wire, "_addresses", lambda *_: found)
    assert send(app).kind == "delivered"


def test_silent_address_leaves_time_for_the_next(app: FaultyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that never answers the connect uses up its share of the time only."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]  # a full backlog: the kernel drops the next SYN
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname()),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", app.port)),
        ]
        monkeypatch.setattr(wire, "_addresses", lambda *_: found)
        assert send(app, seconds=4).kind == "delivered"
        for filler in fillers:
            filler.close()


def test_name_server_that_hangs_ends_at_the_deadline(app: FaultyApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """getaddrinfo knows no time limit; the deadline holds all the same."""
    import _socket
    import threading

    let_go, real = threading.Event(), _socket.getaddrinfo

    def hangs(host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if not flags & _socket.AI_NUMERICHOST:
            let_go.wait()
        return real(host, port, family, kind, proto, flags)

    monkeypatch.setattr(_socket, "getaddrinfo", hangs)
    sink = Sink(name="app", kind="webhook", target="http://app.example.com/", secrets=(KEY,))
    outcome = deliver(sink, make_delivery(), deadline=in_seconds(0.5))
    let_go.set()
    assert outcome.kind == "unavailable"
    assert "looking up app.example.com" in outcome.detail


URLS = [
    ("https://app.example.com/mail", (True, "app.example.com", 443, "app.example.com", "/mail")),
    ("HTTP://127.0.0.1:8000", (False, "127.0.0.1", 8000, "127.0.0.1:8000", "/")),
    ("http://[::1]:8000/a?b=c#d", (False, "::1", 8000, "[::1]:8000", "/a?b=c")),
    ("http://[::1]", (False, "::1", 80, "[::1]", "/")),
    ("https://app.example.com?x=/y", (True, "app.example.com", 443, "app.example.com", "/?x=/y")),
    ("https://app.example.com:/", (True, "app.example.com", 443, "app.example.com:", "/")),
]


@pytest.mark.parametrize(("text", "parts"), URLS, ids=[row[0] for row in URLS])
def test_urls_are_taken_apart(text: str, parts: tuple[object, ...]) -> None:
    """Scheme, host, port, Host field and request target."""
    assert tuple(parse_url(text).__dict__.values()) == parts


@pytest.mark.parametrize(
    "text",
    [
        "", "app", "//app/", "ftp://app/", "http://", "http:///x", "http://a@b/", "http://a:b@c:1/", "http://a:0/", "http://a:65536/",
        "http://a:١/", "http://a:+1/", "http://[::1/", "http://[::1]1/", "http://a b/", "http://a/\r\nX: y", "http://é.example.com/",
        "http://a:999999/", "http://:80/",
    ],
)  # fmt: skip
def test_other_urls_are_a_misconfiguration(text: str) -> None:
    """What is no URL of ours, or would break the request, never gets as far as a connection."""
    with pytest.raises(WireError) as caught:
        parse_url(text)
    assert caught.value.kind == "misconfigured"


# -- the test app itself


def test_app_runs_as_a_script(tmp_path: Any) -> None:
    """As a process: port file, secret, log, and a behaviour that changes at run time."""
    port_file, log = tmp_path / "port", tmp_path / "log"
    script = [sys.executable, os.path.join(HERE, "faulty_app.py"), "--port-file", port_file, "--log", log, "--secret", SECRET]
    process = subprocess.Popen(script)
    try:
        until = time.monotonic() + 30
        while not port_file.exists() and time.monotonic() < until:
            time.sleep(0.02)
        port = int(port_file.read_text())
        sink = Sink(name="app", kind="webhook", target=f"http://127.0.0.1:{port}/mail", secrets=(KEY,))
        kinds = []
        for word in ("ok", "status/503", "refuse", "ok"):
            control = json.dumps({"behaviour": word}).encode()
            urllib.request.urlopen(f"http://127.0.0.1:{port}/control", control, timeout=30).close()
            kinds.append(deliver(sink, make_delivery(), deadline=in_seconds(30)).kind)
    finally:
        process.terminate()
        process.wait(30)
    assert kinds == ["delivered", "unavailable", "refused", "delivered"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["id"] for line in lines] == [ID, ID]
    assert lines[0] == lines[1]
