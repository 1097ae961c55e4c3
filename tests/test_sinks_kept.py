"""Connections that stay open between two messages: when one is used again, when never, and that no message goes twice."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gatepost.settings import Sink
from gatepost.sinks import deliver
from gatepost.sinks.delivery import Outcome
from gatepost.sinks.http_post import answer
from gatepost.sinks.kept import AGE, IDLE, WARY, Kept
from gatepost.sinks.wire import Wire
from tests.faulty_app import FaultyApp
from tests.lmtp_host import wait_for
from tests.test_sinks import MESSAGE, SECRET, in_seconds, make_delivery
from tests.test_sinks_tls import Certificates, certificates  # noqa: F401 - a fixture
from tests.test_sinks_webhook import KEY, LARGE


class Clock:
    """It stands still."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        return self.time


class Client:
    """One sink's connections, to an app."""

    def __init__(self, app: FaultyApp, ca_file: str = "") -> None:
        self.clock = Clock()
        self.kept = Kept(now=self.clock)
        self._app, self._ca_file = app, ca_file

    def send(self, path: str = "kept", raw: bytes = MESSAGE, *, seconds: float = 60) -> Outcome:
        """One delivery. `path`: of the app; the connections do not look at it."""
        sink = Sink(name="app", kind="webhook", target=self._app.url(path), secrets=(KEY,), ca_file=self._ca_file)
        return deliver(sink, make_delivery(raw), deadline=in_seconds(seconds), post=self.kept.post)


@contextmanager
def client_of(ca_file: str = "", certificate: str = "") -> Iterator[tuple[FaultyApp, Client]]:
    with FaultyApp(secrets=[SECRET], certificate=certificate) as app:
        client = Client(app, ca_file)
        try:
            yield app, client
        finally:
            client.kept.close()


@pytest.fixture
def pair() -> Iterator[tuple[FaultyApp, Client]]:
    """An app over HTTP, and a client of it."""
    with client_of() as made:
        yield made


Pair = tuple[FaultyApp, Client]

#: The app's behaviour; connections that three messages take; what each ends as; why.
ANSWERS = [
    ("kept", 1, "delivered", "a length, and nothing against it (RFC 9112 9.3)"),
    ("kept-chunked", 1, "delivered", "the last chunk ends it"),
    ("kept-204", 1, "delivered", "no body by definition"),
    ("kept-said", 1, "delivered", "keep-alive says what holds anyway"),
    ("kept-503", 1, "unavailable", "a whole answer, whatever it says"),
    ("kept/2", 2, "delivered", "the second answer on a connection says close"),
    ("kept-close-said", 3, "delivered", "close among other options, in any case: the connection is over even if it stays open"),
    ("kept-http-10", 3, "delivered", "HTTP/1.0 is never kept, whatever it says"),
    ("kept-interim", 3, "delivered", "two heads in one answer"),
    ("kept-two-lengths", 3, "delivered", "a length that is told twice"),
    ("kept-204-long", 3, "delivered", "204 has no length: does a body follow?"),
    ("kept-205", 3, "delivered", "whether a body follows is told in two ways"),
    ("kept-302", 3, "misconfigured", "its body is not read"),
    ("kept-trailing", 3, "delivered", "octets behind the answer"),
    ("kept-second-answer", 3, "delivered", "an answer to nobody's request"),
    ("ok", 3, "delivered", "the app says close"),
    ("until-close", 3, "delivered", "the end of the connection is the end of the answer"),
    ("cut-body", 3, "unavailable", "cut off"),
    ("both-framings", 3, "unavailable", "unclear framing"),
    ("long-body", 3, "unavailable", "too long"),
    ("status/503", 3, "unavailable", "it says close"),
]


@pytest.mark.parametrize(("path", "connections", "kind", "reason"), ANSWERS, ids=[f"{row[0]}: {row[3]}" for row in ANSWERS])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_connection_is_used_again_only_without_doubt(
    certificates: Certificates, secure: bool, path: str, connections: int, kind: str, reason: str,  # noqa: F811
) -> None:  # fmt: skip
    """Three messages, one after the other: each reaches the app once, over as many connections as the answers' ends allow."""
    with client_of(*((certificates.ca, certificates.good) if secure else ())) as (app, client):
        assert [client.send(path).kind for _ in range(3)] == [kind] * 3
        assert app.connections == connections
        assert len(app.requests) == 3
        assert [request.fields.get("connection") for request in app.requests] == [None] * 3


def test_an_early_answer_ends_the_connection(pair: Pair) -> None:
    """An answer to a message that was not sent yet: its status stands, and nothing more goes that way."""
    app, client = pair
    assert [client.send("kept-early", LARGE).kind for _ in range(2)] == ["cannot-take"] * 2
    assert app.connections == 2


def test_an_answer_that_was_there_before_our_last_octet_is_to_no_message() -> None:
    """However short the message: one who answers as he accepts, or twice to the message before, has not had this one."""
    ours, app = socket.socketpair()
    with ours, app:
        app.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        ours.setblocking(False)
        wire = Wire(ours, in_seconds(60))
        wire.give(b"POST /mail HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        early = answer(wire)
    assert (early.fault, early.whole) == ("said before it had the whole message", False)


#: Seconds between two messages, how many times, connections, why.
AGES = [
    (IDLE - 0.01, 2, 1, "rests for less than IDLE each time"),
    (IDLE, 2, 2, "has rested for long enough"),
    (IDLE - 0.01, round(AGE / (IDLE - 0.01)) + 3, 2, "old, though never idle"),
    (-5.0, 2, 1, "a clock that goes back does no harm"),
]


@pytest.mark.parametrize(("seconds", "times", "connections", "reason"), AGES, ids=[row[3] for row in AGES])
def test_a_connection_rests_and_lives_for_so_long(
    pair: Pair, seconds: float, times: int, connections: int, reason: str
) -> None:
    """IDLE is below what servers allow; AGE lets a change of address or certificate be noticed."""
    app, client = pair
    for _ in range(times):
        assert client.send().kind == "delivered"
        client.clock.time += seconds
    assert app.connections == connections


def test_what_rests_too_long_is_ended(pair: Pair) -> None:
    """Though nobody asks for it: an app of one thread would be held by it. The thread that does it goes as well."""
    app, client = pair
    assert client.send().kind == "delivered"
    client.clock.time += IDLE
    wait_for(lambda: app.open_now == 0, "the end of the connection")
    wait_for(lambda: not any("_end_in_time" in each.name for each in threading.enumerate()), "the end of the thread")
    assert client.send().kind == "delivered"


# -- what the app does with a connection that rests


RESTING = [
    ("kept-ends", "closed"),
    ("kept-ends/reset", "reset"),
    ("kept-speaks", "an answer that nobody asked for: it would be taken for the next message's"),
]


@pytest.mark.parametrize(("path", "reason"), RESTING, ids=[row[1] for row in RESTING])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_connection_that_the_app_has_touched_is_not_used(
    certificates: Certificates, secure: bool, path: str, reason: str,  # noqa: F811
) -> None:  # fmt: skip
    """The next message takes a new one; and for WARY seconds none is kept for an app that does such things."""
    with client_of(*((certificates.ca, certificates.good) if secure else ())) as (app, client):
        assert client.send(path).kind == "delivered"
        ((wire, _, _),) = client.kept._resting
        app.told.set()
        wait_for(lambda: not wire.quiet, "what the app does")
        assert [client.send("kept").kind for _ in range(2)] == ["delivered"] * 2
        assert [(request.connection, request.number) for request in app.requests] == [(1, 1), (2, 1), (3, 1)]
        client.clock.time += WARY
        assert [client.send("kept").kind for _ in range(2)] == ["delivered"] * 2
        assert app.connections == 4


#: What the app does with the second message of a connection, the message, what it ends as, requests in all, why.
SECOND = [
    ("close", MESSAGE, "unavailable", 2, "read, and no answer: it may have been taken"),
    ("reset", MESSAGE, "unavailable", 2, "read, and a reset"),
    ("close-before-read", MESSAGE, "unavailable", 2, "the kernel took all of it: who knows who has read it"),
    ("cut-status", MESSAGE, "unavailable", 2, "cut off in mid-answer"),
    ("cut-body", MESSAGE, "unavailable", 2, "cut off in mid-answer"),
    ("hang", MESSAGE, "unavailable", 2, "no answer in time"),
    ("hang-before-read", LARGE, "unavailable", 2, "no answer in time, though it was not all sent"),
    ("early-cut", LARGE, "unavailable", 2, "it began an answer"),
    ("early-413", LARGE, "cannot-take", 2, "an answer is an answer"),
    ("close-before-read", LARGE, "delivered", 3, "not all of it was sent, so nobody has it: sent again, once"),
    ("reset-before-read", LARGE, "delivered", 3, "not all of it was sent, so nobody has it: sent again, once"),
]


@pytest.mark.parametrize(
    ("path", "raw", "kind", "requests", "reason"),
    SECOND,
    ids=[f"{row[0]}, {len(row[1])} octets: {row[4]}" for row in SECOND],
)
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_message_is_sent_again_only_if_nobody_can_have_it(
    certificates: Certificates, secure: bool, path: str, raw: bytes, kind: str, requests: int, reason: str,  # noqa: F811
) -> None:  # fmt: skip
    """The app fails on the second message of a connection. On a new one it would take it; but that is Postfix's to try."""
    with client_of(*((certificates.ca, certificates.good) if secure else ())) as (app, client):
        assert client.send(f"kept-until/{path}").kind == "delivered"
        assert client.send(f"kept-until/{path}", raw, seconds=2 if path.startswith("hang") else 60).kind == kind
        assert len(app.requests) == requests
        assert len(app.taken) == 1 + (kind == "delivered")


def test_a_new_connection_is_not_tried_twice(pair: Pair) -> None:
    """What fails there would fail again."""
    app, client = pair
    assert client.send("close-before-read", LARGE).kind == "unavailable"
    assert app.connections == 1


# -- many threads, the end, descriptors


def test_no_more_connections_than_messages_at_once(pair: Pair) -> None:
    """Eight threads, a hundred messages: each is taken, and a connection carries one at a time."""
    app, client = pair
    kinds: list[str] = []

    def send_some() -> None:
        for _ in range(13):
            kinds.append(client.send().kind)  # noqa: PERF401 - seen by others as it grows

    threads = [threading.Thread(target=send_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kinds == ["delivered"] * 104
    assert len(app.taken) == 104
    assert app.connections <= 8


def test_the_bytes_are_those_of_a_connection_of_its_own(pair: Pair) -> None:
    """Kept or not, first or second: the same fields and body, but for Connection and what bears the time."""
    app, client = pair
    for _ in range(2):
        client.send()
    sink = Sink(name="app", kind="webhook", target=app.url("kept"), secrets=(KEY,))
    assert deliver(sink, make_delivery(), deadline=in_seconds(60)).kind == "delivered"
    apart = ("connection", "webhook-timestamp", "webhook-signature")
    seen = [{name: value for name, value in each.fields.items() if name not in apart} for each in app.requests]
    assert seen[0] == seen[1] == seen[2]
    assert len({request.body for request in app.requests}) == 1
    assert [request.fields.get("connection") for request in app.requests] == [None, None, "close"]


def test_closing_ends_what_rests_and_what_comes_to_rest(pair: Pair) -> None:
    """A configuration that is no longer in force leaves no connection behind, whichever was in use meanwhile."""
    app, client = pair
    assert client.send().kind == "delivered"
    client.kept.close()
    wait_for(lambda: app.open_now == 0, "the end of the connection")
    assert client.send().kind == "delivered"
    wait_for(lambda: app.open_now == 0, "the end of the connection")


def test_another_host_s_certificate_is_refused_as_ever(certificates: Certificates) -> None:  # noqa: F811
    """Nothing about the check is kept."""
    with client_of(certificates.ca, certificates.other_host) as (app, client):
        assert client.send().kind == "misconfigured"
        assert not app.requests


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_no_descriptor_is_left(certificates: Certificates, secure: bool) -> None:  # noqa: F811
    """After every kind of answer and fault, twice, as many are open as before."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with client_of(*((certificates.ca, certificates.good) if secure else ())) as (app, client):
        for _ in range(2):
            for path in ("kept", "kept-trailing", "kept-until/close", "kept", "kept-until/reset", "cut-body", "kept-http-10"):
                client.send(path)
            client.clock.time += WARY
        client.kept.close()
    wait_for(lambda: app.open_now == 0, "the app's end")
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, "the descriptors")
