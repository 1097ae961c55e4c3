"""`ask:`: what is asked, and what counts as an answer.

Promises: every question goes over loopback to a server that is there, or is not.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jsonschema
import pytest

from gatepost import ask as module
from gatepost import receiver
from gatepost.ask import Answer, Question, ask
from tests.faulty_app import PAGE, STANDING, FaultyApp, Request, verify
from tests.test_sinks import SECRET, in_seconds
from tests.test_sinks_tls import Certificates
from tests.test_sinks_webhook import ENDLESS, KEY

ROOT = Path(__file__).resolve().parent.parent
PAGE_ASK = (ROOT / "docs" / "ask.md").read_text(encoding="utf-8")
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "key-check.schema.json").read_text(encoding="utf-8"))
NOW = 1_795_255_200.0  # 2026-11-21T10:00:00Z
#: Seconds that nothing here should need.
PATIENCE = 30.0


def question(url: str, raw: str = "garden-tools-20-issue-", **changes: Any) -> Question:
    usual: dict[str, Any] = {
        "secrets": (KEY,),
        "route": "desk",
        "subject": "20",
        "kind": "service-desk",
        "domain": "in.example.com",
    }
    return Question(url=url, raw=raw, **(usual | changes))


def asked_once(url: str, **changes: Any) -> Answer:
    return ask(question(url, **changes), deadline=in_seconds(PATIENCE))


class Said(FaultyApp):
    """Says the same octets to everybody who asked a whole question."""

    words = b""

    def _act(self, request: Request) -> None:
        assert request.body is not None
        self.requests.append(request)
        request.say(self.words)


def http(body: bytes, *fields: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Content-Type: {kind}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@pytest.fixture
def said() -> Iterator[Said]:
    with Said() as app:
        app.words = http(b'{"alive": true}')
        yield app


class KeyApp:
    """A good app: says of each key whether it is in `live`, when `open` lets it. `answer` may say something else for a key."""

    def __init__(self, *, live: tuple[str, ...] = (), port: int = 0) -> None:
        self.live = set(live)
        self.asked: list[str] = []
        self.under_way = self.peak = 0
        self.open = threading.Event()
        self.open.set()
        self.answer: Callable[[str], bytes | None] = lambda raw: None
        self._lock = threading.Lock()
        app = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = {name.lower(): value for name, value in self.headers.items()}
                self.wfile.write(app.answered(json.loads(body)["data"]["key"]["raw"], verify([SECRET], fields, body, 300)))

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 1_024

            def handle_error(self, *_: object) -> None:
                """A client that left is no news."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/mail/key"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answered(self, raw: str, well_signed: bool) -> bytes:
        with self._lock:
            self.asked.append(raw)
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
        self.open.wait(PATIENCE)
        with self._lock:
            self.under_way -= 1
        said = self.answer(raw)
        if said is not None:
            return said
        return http(json.dumps({"alive": raw in self.live}).encode()) if well_signed else http(b"", status="401 No")


@pytest.fixture
def app() -> Iterator[KeyApp]:
    with KeyApp(live=("live",)) as running:
        yield running


# -- the request


def test_the_request(said: Said) -> None:
    """One signed POST, valid by the schema, that says of the key what the page shows, and nothing of a message."""
    answer = ask(question(said.url("mail/key")), deadline=in_seconds(PATIENCE), now=lambda: NOW)
    assert answer.alive == "yes"
    (request,) = said.requests
    content = json.loads(request.body)
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    shown = re.findall(r"^```json\n(.*?)^```$", PAGE_ASK, re.DOTALL | re.MULTILINE)
    assert content == json.loads(shown[0])
    jsonschema.Draft202012Validator(SCHEMA["$defs"]["answer"]).validate(json.loads(shown[1]))
    assert (request.method, request.path, request.fields["content-type"]) == ("POST", "/mail/key", "application/json")
    assert request.body.isascii()
    assert b"\n" not in request.body
    assert verify([SECRET], request.fields, request.body, None)
    check = receiver.verify_webhook(request.fields, request.body, SECRET, now=NOW).key_check()
    assert check.id == request.fields["webhook-id"]
    assert (check.route, check.domain) == ("desk", "in.example.com")
    assert check.key == receiver.Key(raw="garden-tools-20-issue-", subject="20", kind="service-desk")


def test_the_receivers_answers_are_answers(said: Said) -> None:
    """What `receiver.key_alive` makes is understood."""
    for alive, word in ((True, "yes"), (False, "no")):
        said.words = http(receiver.key_alive(alive))
        assert asked_once(said.url()).alive == word


def test_every_secret_signs(said: Said) -> None:
    """While a secret rotates, an app that has one of the two verifies."""
    other = b"another secret of thirty-two oct"
    asked_once(said.url(), secrets=(KEY, other))
    (request,) = said.requests
    assert len(request.fields["webhook-signature"].split(" ")) == 2
    for secret in (KEY, other):
        text = "whsec_" + base64.b64encode(secret).decode()
        assert verify([text], request.fields, request.body, 300)


def test_each_question_has_an_id_of_its_own(said: Said) -> None:
    """A replayed request can be told from a new one; ids are such as the receiver takes."""
    for _ in range(3):
        asked_once(said.url())
    ids = {request.fields["webhook-id"] for request in said.requests}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_what_a_stranger_put_into_a_key_arrives_as_text(said: Said) -> None:
    """Quotes, backslashes and halves of surrogate pairs break neither the JSON nor a database."""
    asked_once(said.url(), raw='a"\\\0\udcff', subject="ü", options=("x", '"'))
    content = json.loads(said.requests[0].body)
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    assert content["data"]["key"] == {"raw": 'a"\\\ufffd\ufffd', "subject": "ü", "options": ["x", '"'], "kind": "service-desk"}


# -- what is an answer

DEEP = b"[" * 30_000 + b"]" * 30_000
ANSWERS: list[tuple[str, bytes, str, str, str]] = [
    ("yes", http(b'{"alive": true}'), "yes", "is alive", "the app said so"),
    ("no", http(b'{"alive": false}'), "no", "is not alive", "the app said so"),
    ("other fields", http(b'{"alive": false, "why": {"closed": [1, null]}}'), "no", "", "a later app may say more"),
    ("white space", http(b'\r\n\t {"alive"\n:\ttrue} \n'), "yes", "", "RFC 8259 2"),
    ("an escaped name", http(b'{"\\u0061live": true}'), "yes", "", "the same name"),
    ("text/html", http(b'{"alive": true}', kind="text/html"), "yes", "", "what PHP says of all it prints"),
    ("no Content-Type", b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"alive": true}', "yes", "", "the body decides"),
    ("chunked", b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{"alive": true}\r\n0\r\n\r\n', "yes", "", "HTTP"),
    ("until the end", b'HTTP/1.0 200 OK\r\n\r\n{"alive": false}', "no", "", "HTTP/1.0"),
    ("behind 103", b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(b'{"alive": true}'), "yes", "", "interim answers are passed over"),
    ("identity", http(b'{"alive": true}', "Content-Encoding: identity"), "yes", "", "no encoding at all"),
    ("empty", http(b""), "unavailable", "not JSON", "nothing is not a no"),
    ("empty object", http(b"{}"), "unavailable", "not an object with", "nothing is not a no"),
    ("null", http(b'{"alive": null}'), "unavailable", "not an object with", "what a look-up that failed gives"),
    ("1", http(b'{"alive": 1}'), "unavailable", "not an object with", "1 == True in Python"),
    ("0", http(b'{"alive": 0}'), "unavailable", "not an object with", "0 == False in Python"),
    ("text", http(b'{"alive": "false"}'), "unavailable", "not an object with", "true in most languages"),
    ("a list", http(b'{"alive": [true]}'), "unavailable", "not an object with", "not a boolean"),
    ("an object", http(b'{"alive": {"alive": true}}'), "unavailable", "not an object with", "not a boolean"),
    ("within", http(b'{"data": {"alive": true}}'), "unavailable", "not an object with", "another place may mean another thing"),
    ("in a list", http(b'[{"alive": true}]'), "unavailable", "not an object with", "an answer to many questions?"),
    ("Alive", http(b'{"Alive": true}'), "unavailable", "not an object with", "names have a case"),
    ("true alone", http(b"true"), "unavailable", "not an object with", "an object is asked for"),
    ("True", http(b'{"alive": True}'), "unavailable", "not JSON", "Python, not JSON"),
    ("single quotes", http(b"{'alive': true}"), "unavailable", "not JSON", "Python, not JSON"),
    ("twice, the same", http(b'{"alive": true, "alive": true}'), "unavailable", "twice", "who writes that has a fault"),
    ("twice, not the same", http(b'{"alive": true, "alive": false}'), "unavailable", "twice", "which one?"),
    ("twice, escaped", http(b'{"alive": true, "aliv\\u0065": false}'), "unavailable", "twice", "the same name, which one?"),
    ("twice, within", http(b'{"alive": true, "x": {"a": 1, "a": 2}}'), "unavailable", "twice", "more than one reading"),
    ("NaN", http(b'{"alive": true, "x": NaN}'), "unavailable", "NaN", "not JSON, though Python reads it"),
    ("Infinity", http(b'{"alive": true, "x": -Infinity}'), "unavailable", "Infinity", "not JSON, though Python reads it"),
    ("a long number", http(b'{"alive": true, "x": ' + b"1" * 5_000 + b"}"), "unavailable", "not JSON", "Python refuses to read it"),
    ("two objects", http(b'{"alive": true}{"alive": true}'), "unavailable", "not JSON", "which one?"),
    ("a comment", http(b'{"alive": true} // yes'), "unavailable", "not JSON", "not JSON"),
    ("a warning in front", http(b'Warning: x\n{"alive": true}'), "unavailable", "not JSON", "PHP has a fault to report"),
    ("a control character", http(b'{"alive": true, "x": "\0"}'), "unavailable", "not JSON", "RFC 8259 7"),
    ("not UTF-8", http(b'{"alive": true, "x": "\xff"}'), "unavailable", "not JSON", "octets that mean nothing"),
    ("a surrogate in UTF-8", http(b'{"alive": true, "x": "\xed\xa0\x80"}'), "unavailable", "not JSON", "RFC 3629 3"),
    ("UTF-16", http('{"alive": true}'.encode("utf-16")), "unavailable", "not JSON", "RFC 8259 8.1; Python would read it"),
    ("UTF-32", http('{"alive": true}'.encode("utf-32-be")), "unavailable", "not JSON", "Python would read it"),
    ("byte order mark", http(b'\xef\xbb\xbf{"alive": true}'), "unavailable", "not JSON", "RFC 8259 8.1"),
    ("deep", http(b'{"alive": true, "x": ' + DEEP + b"}"), "unavailable", "not JSON", "RecursionError"),
    ("deep, never closed", http(b"[" * 65_000), "unavailable", "not JSON", "RecursionError"),
    ("deep objects", http(b'{"a":' * 13_000), "unavailable", "not JSON", "RecursionError in the object reader"),
    ("100,000 deep", http(b"[" * 100_000), "unavailable", "longer than", "above the limit of a body"),
    ("huge", http(b'{"alive": true, "x": "' + b"x" * 65_536 + b'"}'), "unavailable", "longer than", "above the limit of a body"),
    ("page", http(PAGE, kind="text/html"), "unavailable", "login page", "a login page with 200"),
    ("page, typed as JSON", http(PAGE), "unavailable", "login page", "a page is a page"),
    ("gzip", http(b'{"alive": true}', "Content-Encoding: gzip"), "unavailable", "encoded", "who knows what it says"),
    ("201", http(b'{"alive": true}', status="201 Created"), "unavailable", "201", "nothing was to be made"),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", "unavailable", "204", "says nothing"),
    ("302", http(b'{"alive": true}', "Location: /login?next=x", status="302 Found"), "unavailable", "to /login is", "not followed"),
    ("401", http(b"", status="401 Unauthorized"), "unavailable", "secret", "the mend is said"),
    ("404", http(b'{"alive": false}', status="404 Not Found"), "unavailable", "check ask:", "a wrong URL says the same"),
    ("410", http(b'{"alive": false}', status="410 Gone"), "unavailable", "check ask:", "a URL can be gone, too"),
    ("500", http(b'{"alive": true}', status="500 Oops"), "unavailable", "500 Oops", "the app failed"),
    ("503", http(b"", "Retry-After: 120", status="503 Busy"), "unavailable", "Retry-After: 120", "for the log"),
    ("shorter than it says", b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"alive": true}', "unavailable", "ended", "cut off"),
    ("longer than it says", b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"alive": true}', "unavailable", "not JSON", "no more is read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "alive", "says", "reason"), [row[1:] for row in ANSWERS], ids=[f"{row[0]}: {row[4]}" for row in ANSWERS]
)
def test_what_is_an_answer(said: Said, words: bytes, alive: str, says: str, reason: str) -> None:
    """Only a 200 with an object in which `alive` is true or false answers; all else is unavailable, and the detail says why."""
    said.words = words
    answer = asked_once(said.url())
    assert answer.alive == alive, answer
    assert says in answer.detail
    assert answer.detail.isprintable()
    assert 0 < len(answer.detail) <= 400


def test_no_other_status_answers(said: Said) -> None:
    """Of 200 to 599, each with a body that says yes, 200 alone is a yes."""
    for status in range(200, 600):
        said.words = http(b'{"alive": true}', status=f"{status} Because")
        assert (asked_once(said.url()).alive == "yes") == (status == 200), status


@pytest.mark.parametrize("path", sorted({*STANDING, "status/100", "status/204", "status/418"} - {"status"}))
def test_no_fault_is_an_answer(path: str) -> None:
    """Whatever an app has instead of an answer, the call ends, raises nothing, and knows nothing."""
    with FaultyApp() as app:
        seconds = 0.4 if path in ENDLESS | {"slow-read"} else PATIENCE
        answer = ask(question(app.url(path)), deadline=in_seconds(seconds))
    assert answer.alive == "unavailable"
    assert answer.detail


def test_without_an_app() -> None:
    """A port where nobody listens is unavailable at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = asked_once(f"http://127.0.0.1:{port}/")
    assert answer.alive == "unavailable"
    assert answer.detail.startswith("connecting to")
    assert answer.gone == answer.detail


def test_over_tls(tmp_path: Path) -> None:
    """The certificate is checked by ca_file; one that is not believed is no app."""
    certificates = Certificates(str(tmp_path))
    with Said(certificate=certificates.good) as app:
        app.words = http(b'{"alive": true}')
        assert asked_once(app.url(), ca_file=certificates.ca).alive == "yes"
        refused = asked_once(app.url())
    assert refused.alive == "unavailable"
    assert "certificate" in refused.detail
    assert len(app.requests) == 1


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("another scheme", {"url": "ftp://127.0.0.1/"}),
    ("no host", {"url": "http://"}),
    ("a host that is none", {"url": "http://a..b/"}),
    ("a URL that is not ASCII", {"url": "http://127.0.0.1/ü"}),
    ("a CA file that is not there", {"url": "https://127.0.0.1:1/", "ca_file": "/nonexistent/ca.pem"}),
    ("a secret of another type", {"secrets": ("text",)}),
    ("a route of another type", {"route": 1.5}),
]


@pytest.mark.parametrize("changes", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_our_own_faults_raise_nothing(said: Said, changes: dict[str, Any]) -> None:
    """A setting that cannot be used is unavailable: mail waits until somebody mends it."""
    answer = asked_once(**({"url": said.url()} | changes))
    assert answer.alive == "unavailable"
    assert answer.detail
    assert said.requests == []


def test_a_deadline_in_the_past_asks_nothing(said: Said) -> None:
    """With no time left there is no question."""
    assert ask(question(said.url()), deadline=time.monotonic() - 1).alive == "unavailable"
    assert said.requests == []


def test_no_question_takes_longer_than_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the caller would wait, DEADLINE ends it."""
    monkeypatch.setattr(module, "DEADLINE", 0.3)
    late = in_seconds(2 * PATIENCE)
    with FaultyApp() as app:
        answer = ask(question(app.url("drip-body")), deadline=late)
    assert answer.alive == "unavailable"
    assert "deadline" in answer.detail
    assert time.monotonic() < late


ECHOES = [
    ("in a reason", http(b"", status="500 No such key GARDEN-TOOLS-20-issue-")),
    ("in a Location", http(b"", "Location: /keys/garden-tools-20-issue-", status="302 Found")),
    ("in place of HTTP", b"garden-tools-20-issue- is dead\r\n\r\n"),
]


@pytest.mark.parametrize("words", [row[1] for row in ECHOES], ids=[row[0] for row in ECHOES])
def test_no_detail_has_the_key(said: Said, words: bytes) -> None:
    """An app that echoes the key does not bring it into the log."""
    said.words = words
    answer = asked_once(said.url())
    assert "garden-tools" not in answer.detail.lower()
    assert "..." in answer.detail


def test_live_and_dead_keys_are_asked_alike(app: KeyApp) -> None:
    """A key that is alive costs one question of the same size as one that is not."""
    assert ask(question(app.url, "live"), deadline=in_seconds(PATIENCE)).alive == "yes"
    assert ask(question(app.url, "dead"), deadline=in_seconds(PATIENCE)).alive == "no"
    assert app.asked == ["live", "dead"]


def test_the_page_says_how_long_a_question_takes() -> None:
    """docs/ask.md names the limit as it is."""
    assert f"at most {module.DEADLINE:.0f} seconds" in PAGE_ASK
