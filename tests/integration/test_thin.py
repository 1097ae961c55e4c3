"""A real Postfix that runs the pipe script thin: the warm process does the work, and where it does not answer nothing is lost.

Needs root and the package postfix.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from demo.environment import Environment, ensure_user
from demo.postfix_instance import wait_for
from tests.installation import message, webhook
from tests.integration.conftest import Service, ended, flush_if_idle, given, open_folder, wait_for_empty_queue, wired
from tests.integration.test_cut_off import GATE, Cut, Place, WholeApp, cut_and_come_again, running
from tests.integration.test_cut_off import TIMING as CUT_TIMING
from tests.integration.warm_host import LMTP, PIPE, SUPPORT, THIN, Host, warm_host
from tests.test_thin import BEGIN, DOT, ENVELOPE, NONSENSE, SILENT, fake


@pytest.fixture(scope="module")
def host(tree: Environment) -> Iterator[Host]:
    """As `gatepost postfix` prints it for `wiring: thin`. A refusal bounces, so that its status can be seen."""
    with warm_host(tree, lmtp=", wiring: thin", more="after_queue: bounce\n") as made:
        yield made


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds an app that takes mail, an empty queue, and the thin script with its fallback."""
    yield
    if "host" not in request.fixturenames:
        return
    made: Host = request.getfixturevalue("host")
    made.app.behaviour = "ok"
    if made.process is None or made.process.poll() is not None:
        made.start()
    made.postfix.set(virtual_transport=THIN)
    made.postfix.delete_queued()


def test_the_mail_log_tells_the_story(host: Host) -> None:
    """The whole script's line in Postfix's; our own is written by a worker, and the app has the message."""
    queue_id = host.send(host.made.address(host.made.key()), message())
    (line,) = host.delivered(queue_id)
    (data,) = host.handed(queue_id)
    assert (line.status, line.dsn, line.relay) == ("sent", "2.0.0", "gatepost-thin")
    assert line.text == f"delivered via gatepost-thin service (accepted route=replies id={data['id'][:16]})"
    (ours,) = [each for each in host.made.log_lines() if f" {queue_id}: " in each]
    assert int(re.findall(r"gatepost\[(\d+)\]", ours)[0]) in host.workers()


def test_a_refusal_is_the_same_refusal(host: Host) -> None:
    """By a rule, and by the app: the status, the code and the text that the whole script gives."""
    told = {}
    host.app.behaviour = "refuse"
    for transport in (PIPE, THIN):
        host.postfix.set(virtual_transport=transport)
        found = []
        for to in ("reply+nokey@in.example.com", SUPPORT):
            (line,) = host.delivered(host.send(to, message()))
            found.append((line.status, line.dsn, line.text))
        told[transport] = found
    assert told[THIN] == told[PIPE]
    assert [(status, dsn) for status, dsn, _ in told[THIN]] == [("bounced", "5.1.1"), ("bounced", "5.7.1")]


def test_the_address_before_aliases_is_not_lost(host: Host) -> None:
    """pipe(8) knows it, and LMTP has no place for it: both scripts tell it; by LMTP it is the final recipient."""
    maps = host.postfix.maps_folder / "aliases.regexp"
    before = maps.read_text()
    maps.write_text(f"/^old@in\\.example\\.com$/  {SUPPORT}\n{before}")
    found = []
    try:
        for transport in (PIPE, THIN, LMTP):
            host.postfix.set(virtual_transport=transport)
            queue_id = host.send("old@in.example.com", message())
            host.delivered(queue_id)
            found += [data["envelope"]["original_recipient"] for data in host.handed(queue_id)]
    finally:
        maps.write_text(before)
    assert found == ["old@in.example.com", "old@in.example.com", SUPPORT]


# --- nobody there, or nobody of ours -----------------------------------------------------------------------------------------


def test_without_the_process_the_script_does_the_job(host: Host) -> None:
    """`fallback: local`: delivered at the first try; of both ways our own log has one line."""
    assert host.end() == 0
    queue_id = host.send(SUPPORT, message())
    (line,) = host.delivered(queue_id)
    assert (line.status, line.dsn) == ("sent", "2.0.0")
    assert len(host.handed(queue_id)) == len(host.ours(queue_id)) == 1


@contextmanager
def deferring(host: Host) -> Iterator[None]:
    """`fallback: defer` stands in master.cf."""
    file = host.postfix.config_folder / "master.cf"
    before = file.read_text()
    file.write_text(before.replace("--fallback=local", "--fallback=defer"))
    host.postfix.reload()
    try:
        yield
    finally:
        file.write_text(before)
        host.postfix.reload()


def test_without_the_process_and_without_fallback_mail_waits(host: Host) -> None:
    """`fallback: defer`: by name, in both logs; afterwards it goes on by itself, once."""
    with deferring(host):
        assert host.end() == 0
        queue_id = host.send(SUPPORT, message())
        (line,) = host.delivered(queue_id)
        assert (line.status, line.dsn) == ("deferred", "4.3.2")
        assert "Temporarily not available, try later (rule=no-server)" in line.text
        assert [ours.startswith("defer rule=no-server") for ours in host.ours(queue_id)] == [True]
        host.start()
        wait_for_empty_queue(host.postfix, timeout=60)
    assert host.delivered(queue_id, 2)[-1].status == "sent"
    assert len(host.handed(queue_id)) == 1


@pytest.mark.parametrize("steps", [row[1] for row in NONSENSE], ids=[row[0] for row in NONSENSE])
def test_nonsense_from_the_socket_costs_no_message(host: Host, steps: list[tuple[bytes, bytes]]) -> None:
    """Whoever listens there: the script does the job, at the first try, once."""
    host.end(signal.SIGKILL)
    host.socket.unlink(missing_ok=True)
    with fake(host.socket, steps):
        queue_id = host.send(SUPPORT, message())
        (line,) = host.delivered(queue_id)
    assert (line.status, line.dsn, len(host.handed(queue_id))) == ("sent", "2.0.0", 1), line


def test_a_server_that_never_answers_defers_at_the_deadline(host: Host) -> None:
    """The script ends by itself before Postfix ends it; the next try finds the true server."""
    host.end(signal.SIGKILL)
    host.socket.unlink(missing_ok=True)
    with fake(host.socket, [BEGIN, ENVELOPE, (DOT, SILENT)]):
        queue_id = host.send(SUPPORT, message())
        (line,) = host.delivered(queue_id)
        assert (line.status, line.dsn) == ("deferred", "4.3.0")
        assert "(rule=deadline)" in line.text
    host.start()
    wait_for_empty_queue(host.postfix, timeout=60)
    assert len(host.handed(queue_id)) == 1


@pytest.mark.parametrize("whom", ["workers", "all"])
def test_killed_in_mid_delivery(host: Host, whom: str) -> None:
    """kill -9 while the app has the message: nothing bounces; handed over again, with the same bytes under the same id."""
    host.app.behaviour = "hang"
    queue_id = host.send(SUPPORT, message())
    wait_for(lambda: host.handed(queue_id), what="the app to be asked")
    assert host.process is not None
    for each in (*([host.process.pid] if whom == "all" else []), *host.workers()):
        os.kill(each, signal.SIGKILL)
    (line,) = host.delivered(queue_id)
    assert (line.status, line.dsn) == ("deferred", "4.3.2"), "the lease is taken: the script that falls back leaves it alone"
    assert "(rule=in-flight)" in line.text
    host.app.behaviour = "ok"
    wait_for_empty_queue(host.postfix, timeout=90)  # the lease of the run that was killed ends after 13 s
    assert host.delivered(queue_id)[-1].status == "sent"
    first, *_, last = host.handed(queue_id)
    assert first == last
    assert len([each for each in host.app.taken if each["id"] == first["id"]]) == 1


# --- from rung to rung ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations((PIPE, THIN, LMTP), 2)))
def test_a_message_that_waited_is_handed_over_once_whichever_rung_it_takes(host: Host, first: str, second: str) -> None:
    """Deferred on one rung, retried on another: the same delivery id, the same bytes, the second attempt, and taken once."""
    host.postfix.set(virtual_transport=first)
    host.app.behaviour = "status/503"
    queue_id = host.send(SUPPORT, message())
    assert [line.status for line in host.delivered(queue_id)] == ["deferred"]
    host.app.behaviour = "ok"
    host.postfix.set(virtual_transport=second)
    wait_for_empty_queue(host.postfix, timeout=60)
    assert [line.status for line in host.delivered(queue_id, 2)] == ["deferred", "sent"]
    refused, taken = host.handed(queue_id)
    assert refused == taken
    assert len([each for each in host.app.taken if each["id"] == taken["id"]]) == 1
    assert " attempt=2 " in host.ours(queue_id)[-1]


# --- cut off ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tree: Environment) -> Iterator[Place]:
    """As in test_cut_off, but thin, with the warm process behind it."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder("cut-thin"))
        app = stack.enter_context(WholeApp())
        who = ensure_user()
        sockets, gate = folder / "sockets", folder / "gate"
        for each in (sockets, gate):
            each.mkdir(mode=0o755)
        os.chown(sockets, who.pw_uid, who.pw_gid)
        socket = sockets / "lmtp.sock"
        more = f"lmtp: {{socket: 'unix:{socket}', wiring: thin, fallback: defer}}\n{CUT_TIMING}"
        made = given(folder / "installed", app=webhook(app.url()), more=more)
        python = gate / "python"
        python.write_text(GATE.format(folder=gate, python=tree.python))
        python.chmod(0o755)
        postfix, outbox = stack.enter_context(wired([Service(made=made, python=str(python), script=tree.pipe_script)]))
        stack.enter_context(ended(lambda: [each.pid for each in running(postfix) if each.state == "T"]))
        host = Host(postfix, app, made, tree, socket)
        stack.callback(host.end, signal.SIGKILL)
        host.start()
        yield Place(postfix, app, made, gate)
        assert outbox.messages == [], "nothing has left this host"


CUTS = [
    Cut(name="kill, late", end="kill", reader="late", why="the script starts with its parent already gone"),
    Cut(name="kill, waiting", end="kill", reader="waiting", why="getppid() is still the old one at the end of file"),
    Cut(name="stop, waiting, shell", end="stop", reader="waiting", shell=True, why="the parent lives; the reader of stdout is gone"),
    Cut(name="abort, late", end="abort", reader="late", why="what a package's upgrade may do"),
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS, ids=[cut.name for cut in CUTS])
def test_only_whole_messages_reach_the_app(place: Place, cut: Cut) -> None:
    """Ten deliveries end in mid-write: each is deferred as cut off, none reaches the app before it is whole, all do then, once."""
    cut_and_come_again(place, cut)
    wait_for(lambda: flush_if_idle(place.postfix), what="an empty queue")
    assert [each for each in place.postfix.deliveries() if each.status == "bounced"] == []


def test_nothing_of_all_this_bounced_but_what_was_refused(host: Host) -> None:
    """Nor has Postfix complained of anything but of what was meant to fail."""
    bounced = [each for each in host.postfix.deliveries() if each.status not in ("sent", "deferred")]
    assert {each.dsn for each in bounced} == {"5.1.1", "5.7.1"}
    assert len(bounced) == 4
    meant = re.compile(r"connect to|lost connection|conversation with|unable to look up|closed connection")
    assert [line for line in host.postfix.complaints() if not meant.search(line)] == []
