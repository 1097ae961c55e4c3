"""A real Postfix that speaks LMTP to `gatepost serve`: what it logs, what the app gets, and that both are as on the other rungs.

One store behind all rungs; `virtual_transport` alone tells them apart. Needs root and the package postfix.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from demo.environment import Environment
from demo.postfix_instance import wait_for
from tests.installation import message
from tests.integration.conftest import wait_for_empty_queue
from tests.integration.warm_host import LMTP, PERSON, PIPE, SUPPORT, THIN, Host, warm_host


@pytest.fixture(scope="module")
def host(tree: Environment) -> Iterator[Host]:
    """As `gatepost postfix` prints it."""
    with warm_host(tree) as made:
        yield made


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds an app that takes mail, an empty queue, and LMTP."""
    made: Host = request.getfixturevalue("host")
    yield
    made.app.behaviour = "ok"
    if made.process is None or made.process.poll() is not None:
        made.start()
    made.postfix.set(virtual_transport=LMTP)
    made.postfix.delete_queued()


def test_the_mail_log_tells_the_story(host: Host) -> None:
    """The reply stands in Postfix's line whole; ours has the same queue ID; the socket is found below the queue folder."""
    queue_id = host.send(host.made.address(host.made.key()), message())
    (line,) = host.delivered(queue_id)
    (data,) = host.handed(queue_id)
    assert (line.status, line.dsn, line.relay) == ("sent", "2.0.0", f"{host.postfix.host}[gatepost/lmtp.sock]")
    assert line.text == f"250 2.0.0 accepted route=replies id={data['id'][:16]}"
    assert [each.startswith("accept rule=accepted route=replies to=reply+") for each in host.ours(queue_id)] == [True]
    assert (data["envelope"]["client_address"], data["envelope"]["helo"]) == ("127.0.0.1", "client.example.net")


REFUSALS = [
    (
        "key",
        "reply+nokey@in.example.com",
        message(),
        "parked rule=key-unknown route=replies",
        "bounce-verified, and SPF unknown",
    ),
    (
        "automatic",
        SUPPORT,
        message(headers="Auto-Submitted: auto-replied\n"),
        "discarded rule=automatic route=support",
        "no answer",
    ),
]


@pytest.mark.parametrize(("to", "data", "said"), [row[1:4] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_is_refused(host: Host, to: str, data: bytes, said: str) -> None:
    """What after_queue makes of it is told; nothing bounces."""
    (line,) = host.delivered(host.send(to, data))
    assert (line.status, line.text.rpartition(" id=")[0]) == ("sent", f"250 2.0.0 {said}")


def raw(host: Host, queue_id: str) -> bytes:
    """What the app got, with the queue ID and the time of arrival taken out of Postfix's own Received field."""
    (data,) = host.handed(queue_id)
    found = base64.b64decode(data["raw"])
    head, end, rest = found.partition(b"\r\nFrom: ")
    head = re.sub(rb"id \w+|for <[^>]*>|; [^\r]*", b"", head)
    return head + end + rest


_MORE = "From: a@example.org\nMessage-ID: <x@example.org>\n"
BODIES: list[tuple[str, bytes, str]] = [
    ("ordinary", message(), "the plain case"),
    ("long lines", f"{_MORE}\n{'x' * 998}\n{'y' * 999}\n{'z' * 3000}\n".encode(), "Postfix would break them at 998"),
    ("a very long line", f"{_MORE}\n{'x' * 200_000}\n".encode(), "beyond any limit of a line"),
    ("dots", f"{_MORE}\n.\n..\n.x\n\n.\n".encode(), "stuffed and unstuffed"),
    ("8 bit", f"{_MORE}Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nä€\n".encode(), "no quoted-printable"),
    ("no MIME, 8 bit", _MORE.encode() + b"Subject: \xff\xfe\n\n\xe4\xff\n", "octets that are no text"),
    ("CR inside", _MORE.encode() + b"\na\rb\r\rc\n", "bare CR"),
    ("CR before the line's end", _MORE.encode() + b"\na\r\nb\r\r\nc\n", "one line end"),
    ("NUL", _MORE.encode() + b"\na\0b\n", "octets"),
    ("blank lines at the end", _MORE.encode() + b"\na\n\n\n", "none is lost"),
    ("no body", _MORE.encode(), "a head alone"),
    ("a megabyte", message(size=1_000_000), "many pieces"),
]  # fmt: skip


@pytest.mark.parametrize("data", [row[1] for row in BODIES], ids=[row[0] for row in BODIES])
def test_raw_is_the_same_on_every_rung(host: Host, data: bytes) -> None:
    """The same message through the pipe script, thin or not, and by LMTP: the app gets the same bytes."""
    found = []
    for transport in (LMTP, THIN, PIPE):
        host.postfix.set(virtual_transport=transport)
        queue_id = host.send(SUPPORT, b"Date: Sat, 21 Nov 2026 12:00:00 +0000\n" + data)
        (line,) = host.delivered(queue_id)
        assert line.status == "sent", line
        found.append(raw(host, queue_id))
    assert found[0] == found[1] == found[2]


#: Without these, what a line of ours says of the same message is the same on both rungs.
_OWN = re.compile(r" (id|ms|detail)=(\"[^\"]*\"|\S*)")


def submitted(host: Host, sender: str, to: str) -> str:
    """Submits a message as a program of this host does, by sendmail; the queue ID of the first one for SUPPORT from then on."""
    before = {line.queue_id for line in host.postfix.deliveries()}
    subprocess.run(
        ["sendmail", "-C", str(host.postfix.config_folder), "-f", sender, to], input=message(), check=True, timeout=30,
        env={"PATH": "/usr/sbin:/usr/bin:/bin", "MAIL_CONFIG": str(host.postfix.config_folder)},
    )  # fmt: skip

    def first() -> str:
        lines = host.postfix.deliveries()
        return next((line.queue_id for line in lines if line.queue_id not in before and line.recipient == SUPPORT), "")

    return wait_for(first, what="a message for support")


def test_line_and_envelope_are_the_same_on_every_rung(host: Host) -> None:
    """Size, client, HELO, sender and recipient as Postfix says them, from SMTP and from this host itself; so is Postfix's text."""
    told: dict[str, list[tuple[str, list[str], list[dict[str, str]]]]] = {}
    for transport in (LMTP, THIN, PIPE):
        host.postfix.set(virtual_transport=transport)
        ids = [
            host.send(SUPPORT, message()),
            host.send(SUPPORT, message(headers="Subject: b\n"), sender=""),
            host.send(SUPPORT.upper(), message(), sender='"a b"@example.org'),
            host.send('"Reply+x y"@in.example.com', message()),
            host.send(SUPPORT, message(), sender="käy@example.org"),
        ]
        for each in ids:
            host.delivered(each)
        ids.append(submitted(host, PERSON, SUPPORT))
        ids.append(submitted(host, SUPPORT, "nobody-at-all@[127.0.0.1]"))  # the report that Postfix writes
        told[transport] = []
        for each in ids:
            (line,) = host.delivered(each)
            text = re.sub(r"^delivered via gatepost(?:-thin)? service \((.*)\)$|^250 2\.0\.0 (.*)$", r"\1\2", line.text)
            envelope = [{**data["envelope"], "queue_id": ""} for data in host.handed(each)]
            told[transport].append((text.partition(" id=")[0], [_OWN.sub("", ours) for ours in host.ours(each)], envelope))
    assert told[LMTP] == told[THIN] == told[PIPE]
    assert [len(ours) for _, ours, _ in told[LMTP]] == [1] * len(told[LMTP])


def test_each_recipient_has_its_own_fate(host: Host) -> None:
    """Even where Postfix brings several at once: one is deferred, the others are not, and a retry brings only that one."""
    host.postfix.set(**{"gatepost-lmtp_destination_recipient_limit": "10"})
    bad = "reply+nokey@in.example.com"
    try:
        host.app.behaviour = "status/503"
        queue_id = host.send([SUPPORT, bad, host.made.address(host.made.key())], message())
        lines = host.delivered(queue_id, 3)
        assert sorted((line.status, line.dsn) for line in lines) == [
            ("deferred", "4.4.1"), ("deferred", "4.4.1"), ("sent", "2.0.0")
        ]  # fmt: skip
        host.app.behaviour = "ok"
        wait_for_empty_queue(host.postfix, timeout=60)
        assert sorted(line.recipient == bad for line in host.delivered(queue_id, 5)) == [False] * 4 + [True]
        assert len([data for data in host.handed(queue_id) if data]) == 4, "two that it refused, two that it took"
    finally:
        host.postfix.set(**{"gatepost-lmtp_destination_recipient_limit": "1"})


def test_without_the_process_mail_waits(host: Host) -> None:
    """Nobody listens: deferred, never bounced; afterwards it goes on by itself."""
    assert host.end() == 0
    queue_id = host.send(SUPPORT, message())
    (line,) = host.delivered(queue_id)
    assert (line.status, line.dsn[0]) == ("deferred", "4")
    host.start()
    wait_for_empty_queue(host.postfix, timeout=60)
    assert host.delivered(queue_id, 2)[-1].status == "sent"
    assert len(host.handed(queue_id)) == 1


def test_a_short_absence_suspends_nothing(host: Host) -> None:
    """Mail that comes after it is delivered at once: Postfix does not take the process for gone because one connection failed."""
    assert host.end() == 0
    waits = [host.send(SUPPORT, message(headers=f"X-Number: {number}\n")) for number in range(3)]
    assert {host.delivered(each)[0].status for each in waits} == {"deferred"}
    host.start()
    (line,) = host.delivered(host.send(SUPPORT, message()))
    assert line.status == "sent", line
    assert {host.delivered(each)[-1].status for each in waits} == {"deferred"}, "those have a time of their own"


@pytest.mark.parametrize("whom", ["worker", "all"])
def test_killed_in_mid_delivery(host: Host, whom: str) -> None:
    """kill -9 while the app has the message: deferred, and handed over again with the same bytes under the same id."""
    host.app.behaviour = "hang"
    queue_id = host.send(SUPPORT, message())
    wait_for(lambda: host.handed(queue_id), what="the app to be asked")
    assert host.process is not None
    if whom == "all":
        host.process.kill()
        host.process.wait(30)
    else:
        for each in host.workers():
            os.kill(each, signal.SIGKILL)
    (line,) = host.delivered(queue_id)
    assert (line.status, line.dsn[0]) == ("deferred", "4")
    host.app.behaviour = "ok"
    if whom == "all":
        host.start()
    wait_for_empty_queue(host.postfix, timeout=90)  # the lease of the run that was killed ends after 13 s
    assert host.delivered(queue_id)[-1].status == "sent"
    first, *_, last = host.handed(queue_id)
    assert first == last


def test_ended_in_mid_delivery(host: Host) -> None:
    """SIGTERM while messages are on their way: each is answered or stays in the queue, and the app gets each under one id."""
    ids = [host.send(SUPPORT, message(headers=f"X-Number: {number}\n")) for number in range(5)]
    assert host.end() == 0
    host.start()
    for each in ids:
        host.delivered(each)
    wait_for_empty_queue(host.postfix, timeout=60)
    assert [len({data["id"] for data in host.handed(each)}) for each in ids] == [1] * 5
    assert [host.delivered(each)[-1].status for each in ids] == ["sent"] * 5


def test_no_complaint_of_postfix(host: Host) -> None:
    """All of the above without a warning of its own, but for what was meant to fail."""
    meant = re.compile(r"connect to|lost connection|conversation with|unable to look up|closed connection")
    assert [line for line in host.postfix.complaints() if not meant.search(line)] == []
