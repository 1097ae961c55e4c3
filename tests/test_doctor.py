"""The doctor without Postfix: a healthy installation, one planted fault after the other, and what it names first.

Each run is a process of its own, as root where the tests are root: it becomes the store's owner for good.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.app import App
from demo.postfix_instance import wait_for
from gatepost.cli.doctor import _show
from gatepost.doctor.check import Check, answer, fail, ok, unknown, worst_first
from gatepost.doctor.milter import milters
from gatepost.doctor.postfix_instance import PostfixError, parse_service, seconds
from gatepost.doctor.sinks import _command
from gatepost.stores.database import DATABASE, HOST_ID
from gatepost.stores.ledger import Ledger
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, Installation, give_to, install, webhook

ROOT = Path(__file__).resolve().parent.parent
#: Whom the installation belongs to where the tests are root.
NOBODY = 65534
CODE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from gatepost.cli import main; sys.exit(main(sys.argv[1:]))"
COMMAND = [sys.executable, "-c", CODE, "doctor", "--postfix-config", "none", "--config"]
BOX = "  box: {{maildir: {folder}/Maildir}}\n"
ROW = """INSERT INTO delivery (id, queue_id, first_seen, changed, attempts, cannot_take, fence, lease_until, state, judgement,
    outcome, sender_hash, recipient_hash)
    VALUES (randomblob(32), 'Q', 0, {changed}, 1, 0, 1, {lease_until}, '{state}', '', '', '', '')"""
Plant = Callable[[Installation], None]


def report(made: Installation, *options: str, status: int | None = None) -> list[dict[str, str]]:
    """What `gatepost doctor --json` says, worst first; its exit status is checked."""
    command = [*COMMAND, str(made.config), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    assert done.stderr == ""
    found: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert status in (None, done.returncode), [check for check in found if check["status"] not in ("ok", "not used")]
    return found


@contextmanager
def installation(url: str) -> Iterator[Installation]:
    """A healthy installation with an app and a Maildir, used before, in a folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="gatepost-doctor.", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = install(folder, app=webhook(url))
        first, second, rest = made.config.read_text().split("deliver: [app]")
        text = f"{first}deliver: [app]{second}deliver: [box]{rest}"
        made.config.write_text(text + BOX.format(folder=folder))
        for place in ("Maildir", "Maildir/tmp", "Maildir/new", "Maildir/cur"):
            (folder / place).mkdir(mode=0o700)
        made.log.touch(mode=0o640)
        made.revoked.touch(mode=0o640)
        Ledger.open(str(made.store)).close()
        if os.geteuid() == 0:
            give_to(NOBODY, NOBODY, made)
        yield made


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """An app as the documentation says: the demo's."""
    with App(0, tmp_path, WEBHOOK_SECRET) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def made(app: App) -> Iterator[Installation]:
    """Healthy, and its app runs."""
    with installation(f"http://127.0.0.1:{app.server_address[1]}/mail") as healthy:
        yield healthy


# --- the installation -----------------------------------------------------------------------------------------------------


def test_nothing_is_found_in_a_healthy_installation(made: Installation, app: App, tmp_path: Path) -> None:
    """Every check is ok or not used, the exit status is 0, no file of root's is left behind, the app stores no probe."""
    found = report(made, "--probe", status=0)
    assert {check["status"] for check in found} == {"ok", "not used"}, found
    assert {"config", "ledger", "sink:app", "sink:box", "probe:app", "probe-signature:app"} <= {each["name"] for each in found}
    assert {path.stat().st_uid for path in made.store.rglob("*")} == {made.store.stat().st_uid}
    assert list(tmp_path.glob("*")) == []


def test_a_fresh_installation_is_healthy(made: Installation) -> None:
    """Before the first message there is no ledger, no log, no Maildir and nothing revoked, and that is no fault."""
    for path in (made.log, made.revoked, *made.store.iterdir()):
        path.unlink()
    shutil.rmtree(made.folder / "Maildir")
    os.chmod(made.folder, 0o755)
    assert {check["status"] for check in report(made, status=0)} == {"ok", "not used"}
    assert not (made.store / DATABASE).exists()


def edit(old: str, new: str) -> Plant:
    """A change in the configuration file."""

    def plant(made: Installation) -> None:
        text = made.config.read_text()
        assert old in text
        made.config.write_text(text.replace(old, new, 1))

    return plant


def ledger(statement: str) -> Plant:
    """A change in the ledger."""

    def plant(made: Installation) -> None:
        database = sqlite3.connect(made.store / DATABASE)
        with database:
            database.execute(statement)
        database.close()

    return plant


def damaged(made: Installation) -> None:
    """A page of the table of deliveries is overwritten."""
    database = sqlite3.connect(made.store / DATABASE)
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'delivery'").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with (made.store / DATABASE).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def miscounted(made: Installation) -> None:
    """The header (bytes 36 to 39) counts free pages that are not there: every statement works, and the file is not whole."""
    with (made.store / DATABASE).open("r+b") as file:
        file.seek(36)
        file.write(b"\0\0\0\x05")


def in_place_of(name: str, text: bytes) -> Plant:
    """A file of the store with another content."""

    def plant(made: Installation) -> None:
        (made.store / name).write_bytes(text)

    return plant


def ahead(made: Installation) -> None:
    """The configuration was written in a day's time."""
    os.utime(made.config, (time.time() + 86_400, time.time() + 86_400))


def file_for_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


FAULTS = [
    pytest.param(edit("deliver: [app]", "deliver: [ap]"), "config", "FAIL", 75, id="a sink that is not there"),
    pytest.param(edit("store:", "colour: red\nstore:"), "config", "FAIL", 75, id="an unknown setting"),
    pytest.param(lambda made: made.config.unlink(), "config", "FAIL", 75, id="no configuration"),
    pytest.param(lambda made: made.config.chmod(0o666), "config", "FAIL", 75, id="a configuration that anybody can change"),
    pytest.param(lambda made: (made.folder / "secrets.yml").chmod(0o644), "secrets-file", "FAIL", 75, id="open secrets"),
    pytest.param(lambda made: (made.folder / "secrets.yml").unlink(), "secrets-file", "FAIL", 75, id="no secrets"),
    pytest.param(lambda made: (made.folder / "secrets.yml").write_text("reply-keys: [short]\napp-webhook: [x]\n"),
                 "secrets-file", "FAIL", 75, id="secrets that are none"),
    pytest.param(lambda made: made.folder.chmod(0o777), "config-file", "warn", 0, id="a folder in which others replace files"),
    pytest.param(lambda made: shutil.rmtree(made.store), "store-folder", "FAIL", 1, id="no store"),
    pytest.param(lambda made: file_for_folder(made.store), "store-folder", "FAIL", 1, id="a file for a store"),
    pytest.param(lambda made: made.store.chmod(0o777), "store-folder", "FAIL", 1, id="a store that anybody can empty"),
    pytest.param(lambda made: made.store.chmod(0o755), "store-folder", "warn", 0, id="a store that anybody can look into"),
    pytest.param(lambda made: (made.store / DATABASE).chmod(0o644), "store-files", "warn", 0, id="a ledger open to all"),
    pytest.param(in_place_of(DATABASE, b"x" * 9999), "ledger", "FAIL", 1, id="something else for a ledger"),
    pytest.param(lambda made: os.truncate(made.store / DATABASE, 0), "ledger", "FAIL", 1, id="an empty ledger"),
    pytest.param(lambda made: (made.store / DATABASE).unlink(), "ledger", "FAIL", 1, id="a ledger that is gone"),
    pytest.param(in_place_of(HOST_ID, b"0" * 32), "ledger", "FAIL", 1, id="another host's id"),
    pytest.param(ledger("PRAGMA user_version=99"), "ledger", "FAIL", 1, id="a newer gatepost's ledger"),
    pytest.param(damaged, "ledger", "FAIL", 1, id="a damaged page"),
    pytest.param(miscounted, "ledger", "FAIL", 1, id="free pages that are not there"),
    pytest.param(lambda made: (made.store / DATABASE).chmod(0o400), "ledger", "FAIL", 1, id="a ledger that cannot be written"),
    pytest.param(ledger(ROW.format(changed=9e10, lease_until=0, state="done")), "ledger", "warn", 0,
                 id="a row from the future"),
    pytest.param(ledger(ROW.format(changed=1, lease_until=9e10, state="open")), "leases", "warn", 0, id="an endless lease"),
    pytest.param(ledger("UPDATE parked_total SET entries = 9, bytes = 1073741824 WHERE kind = 2"), "parked", "FAIL", 1,
                 id="parked mail at its cap"),
    pytest.param(ledger("UPDATE parked_total SET entries = 9, bytes = 1000000000 WHERE kind = 2"), "parked", "warn", 0,
                 id="parked mail near its cap"),
    pytest.param(edit("store:", "parked: {min_free: 99%}\nstore:"), "disk", "FAIL", 1, id="less free than must stay free"),
    pytest.param(ahead, "clock", "warn", 0, id="a file from tomorrow"),
    pytest.param(lambda made: made.log.chmod(0o400), "log", "FAIL", 1, id="a log that cannot be written"),
    pytest.param(edit("gatepost.log", "nowhere/gatepost.log"), "log", "FAIL", 1, id="a log in a folder that is not there"),
    pytest.param(lambda made: (made.log.unlink(), made.log.symlink_to("/dev/null")), "log", "FAIL", 1, id="a link for a log"),
    pytest.param(lambda made: made.revoked.chmod(0), "revoked-files", "FAIL", 1, id="a revoked: file that cannot be read"),
    pytest.param(lambda made: made.revoked.chmod(0o666), "revoked-files", "FAIL", 1, id="a revoked: file that anybody changes"),
    pytest.param(lambda made: (made.folder / "Maildir" / "new").chmod(0o500), "sink:box", "FAIL", 1, id="a closed Maildir"),
    pytest.param(lambda made: file_for_folder(made.folder / "Maildir"), "sink:box", "FAIL", 1, id="a file for a Maildir"),
    pytest.param(edit("/Maildir}", "/nowhere/Maildir}"), "sink:box", "FAIL", 1, id="a Maildir in a folder that is not there"),
    pytest.param(edit("{maildir:", "{command: [/nowhere/program]} # {maildir:"), "sink:box", "FAIL", 1, id="no program"),
    pytest.param(edit("http://", "https://"), "sink:app", "FAIL", 1, id="TLS where there is none"),
    pytest.param(edit("http://127.0.0.1:", "http://127.0.0.1:1/"), "sink:app", "FAIL", 1, id="an app that is down"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "name", "status", "exit_status"), FAULTS)
def test_a_planted_fault_is_named_first(made: Installation, plant: Plant, name: str, status: str, exit_status: int) -> None:
    """The first line of the report is the check that the fault belongs to; it has evidence, and says what mends it."""
    plant(made)
    first, *others = report(made, status=exit_status)
    assert (first["name"], first["status"]) == (name, status), first
    assert first["evidence"]
    assert first["mend"]
    assert not any(check["status"] == "FAIL" for check in others), others


# --- the milter, as far as it goes without Postfix --------------------------------------------------------------------------

#: Listens like a milter, or like what is none.
LISTENER = r"""
import socket, struct, sys
path, kind = sys.argv[1:]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
    server.bind(path)
    if kind == "deaf":
        raise SystemExit
    server.listen(8)
    kept = []
    while True:
        there, _ = server.accept()
        kept.append(there)
        if kind == "milter" and len(there.recv(17, socket.MSG_WAITALL)) == 17:
            there.sendall(struct.pack("!IcIII", 13, b"O", 6, 0, 0))
        elif kind == "web":
            there.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
"""


@contextmanager
def listener(made: Installation, kind: str, user: int = NOBODY) -> Iterator[None]:
    """The configuration names a socket; `kind`: who listens there. "": nobody ever did; "nowhere": there is no such folder."""
    edit("store:", f"milter: {{socket: 'unix:{made.folder}/milter/milter.sock', authserv_id: mx.example.com}}\nstore:")(made)
    folder, process = made.folder / "milter", None
    if kind != "nowhere":
        folder.mkdir(mode=0o711)
    if kind not in ("nowhere", ""):
        path = folder / "milter.sock"
        as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}
        os.chown(folder, user, user) if as_user else None
        process = subprocess.Popen([sys.executable, "-c", LISTENER, str(path), kind], cwd="/", **as_user)
        wait_for(lambda: path.exists() and (kind != "deaf" or process.poll() is not None), what="the listener")
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait(30)


MILTERS = [
    pytest.param("nowhere", NOBODY, "milter-socket", "install -d -o gatepost -g postfix", id="no folder for the socket"),
    pytest.param("", NOBODY, "milter-socket", "gatepost-milter", id="a milter that was never started"),
    pytest.param("deaf", NOBODY, "milter-socket", "gatepost-milter", id="the socket of a milter that is gone"),
    pytest.param("web", NOBODY, "milter-socket", "restart", id="something else at the socket"),
    pytest.param("silent", NOBODY, "milter-socket", "restart", id="a milter that hangs"),
    pytest.param("milter", 1, "milter-user", "as nobody", id="a milter of another user's"),
]


@pytest.mark.parametrize(("kind", "user", "name", "mend"), MILTERS)
def test_a_milter_that_does_not_work_is_named_first(made: Installation, kind: str, user: int, name: str, mend: str) -> None:
    """What Postfix would meet at the socket, and what mends it."""
    with listener(made, kind, user):
        first, *others = report(made, status=1)
    assert (first["name"], first["status"]) == (name, "FAIL"), first
    assert mend in first["mend"]
    assert not any(check["status"] == "FAIL" for check in others), others


def test_a_milter_that_answers_is_well(made: Installation) -> None:
    """Extra, socket and user are ok; of the sender nobody asks."""
    with listener(made, "milter"):
        found = {check["name"]: check["status"] for check in report(made, status=0)}
    assert {name: found[name] for name in ("milter", "milter-socket", "milter-user", "sender")} == {
        "milter": "ok", "milter-socket": "ok", "milter-user": "ok", "sender": "not used",
    }  # fmt: skip


SENDERS = [
    # the route's sender:, further settings, the status, why
    ("{must-match: reject}", "", "FAIL", "nobody says who the sender is"),
    ("{must-match: park}", "", "FAIL", "parked is not delivered either"),
    ("{must-match: flag}", "", "warn", "all mail is flagged, and arrives"),
    ("{allow: [person@example.org]}", "", "FAIL", "From must be verified to be let in"),
    ("{allow: [192.0.2.0/24, person@example.org]}", "", "FAIL", "half of the list works"),
    ("{allow: [192.0.2.0/24, '2001:db8::1']}", "", "not used", "Postfix knows the client's address"),
    ("{deny: [person@example.org]}", "", "not used", "a name that is refused needs no proof"),
    ("{must-match: reject}", "trusted: [mx.example.com]\n", "ok", "a host in front says it"),
]


@pytest.mark.parametrize(("sender", "more", "status"), [row[:3] for row in SENDERS],
                         ids=[f"{row[0]} {row[3]}" for row in SENDERS])  # fmt: skip
def test_who_asks_for_the_sender_needs_somebody_who_says_it(made: Installation, sender: str, more: str, status: str) -> None:
    """A route that lets verified senders in alone gets no mail where nobody verifies any."""
    edit("    deliver: [app]", f"    sender: {sender}\n    deliver: [app]")(made)
    edit("store:", f"{more}store:")(made)
    first = report(made, status=1 if status == "FAIL" else 0)
    (check,) = [each for each in first if each["name"] == "sender"]
    assert check["status"] == status
    assert status != "FAIL" or first[0] == check
    assert bool(check["mend"]) == (status in ("FAIL", "warn"))


def test_a_milter_that_authenticates_says_who_the_sender_is(made: Installation) -> None:
    """With methods it is enough; one that asks no DNS says nothing of senders."""
    edit("    deliver: [app]", "    sender: {must-match: reject}\n    deliver: [app]")(made)
    with listener(made, "milter"):
        assert {check["name"]: check["status"] for check in report(made, status=0)}["sender"] == "ok"
        edit("authserv_id:", "authenticate: [], authserv_id:")(made)
        assert report(made, status=1)[0]["name"] == "sender"
        edit("authenticate: []", "authenticate: [arc]")(made)
        assert report(made, status=1)[0]["name"] == "sender", "ARC vouches for nobody"


# --- the probe ------------------------------------------------------------------------------------------------------------


class Stopped(BaseHTTPRequestHandler):
    """An app whose clock stands still, and that takes anything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response_only(204)
        self.send_header("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()


def test_the_apps_clock_is_compared_with_ours() -> None:
    """An app whose Date is far from our time would refuse signed mail as a replay."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Stopped) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with installation(f"http://127.0.0.1:{server.server_port}/mail") as made:
            found = {check["name"]: check for check in report(made, "--probe", status=1)}
        server.shutdown()
    assert found["probe:app"]["status"] == "warn"
    assert "behind ours" in found["probe:app"]["evidence"]


PROBED = [
    pytest.param({"behaviour": "ok"}, "probe-signature:app", "FAIL", "does not verify signatures", id="no look at it"),
    pytest.param({"secrets": ["whsec_" + "QUJD" * 10]}, "probe:app", "FAIL", "401", id="another secret"),
    pytest.param({"behaviour": "login-page"}, "probe:app", "FAIL", "HTML page", id="a login page"),
    pytest.param({"behaviour": "redirect"}, "probe:app", "FAIL", "redirect", id="a redirect"),
    pytest.param({"behaviour": "status/404"}, "probe:app", "FAIL", "404", id="nothing at this URL"),
    pytest.param({"behaviour": "status/500"}, "probe:app", "FAIL", "500", id="a broken app"),
    pytest.param({"behaviour": "status/400"}, "probe:app", "FAIL", "400", id="an app that knows no probe"),
    pytest.param({"behaviour": "close"}, "probe:app", "FAIL", "no answer", id="no answer"),
]


@pytest.mark.parametrize(("options", "name", "status", "says"), PROBED)
def test_a_probe_shows_what_the_app_does(options: dict[str, Any], name: str, status: str, says: str) -> None:
    """What a connection alone does not show: the first FAIL is the probe that met the fault; without --probe there is none."""
    with FaultyApp(**options) as faulty, installation(faulty.url()) as made:
        assert not any(check["status"] == "FAIL" for check in report(made, status=0))
        first = report(made, "--probe", status=1)[0]
        assert (first["name"], first["status"]) == (name, status)
        assert says in first["evidence"]
        assert first["mend"]
        assert faulty.taken == []


def test_an_app_that_verifies_is_told_apart_from_one_that_refuses_all(made: Installation) -> None:
    """Two requests reach the app, of type gatepost.probe, equal but for id and signature; only the second is refused."""
    with FaultyApp(secrets=[WEBHOOK_SECRET]) as careful, installation(careful.url()) as other:
        found = {check["name"]: check["status"] for check in report(other, "--probe", status=0)}
        asked = [json.loads(request.body) for request in careful.requests if request.line]
    assert (found["probe:app"], found["probe-signature:app"]) == ("ok", "ok")
    assert [each["type"] for each in asked] == ["gatepost.probe"] * 2
    assert all(set(each) == {"type", "timestamp", "data"} for each in asked)
    assert all(set(each["data"]) == {"id", "version", "text"} for each in asked)


def test_raw_apps_get_no_probe() -> None:
    """An app that takes the message itself would take a probe for mail: nothing is sent, and the report says so."""
    with FaultyApp() as raw, installation(raw.url()) as made:
        edit("secret: app-webhook}", "secret: app-webhook, format: raw}")(made)
        found = {check["name"]: check["status"] for check in report(made, "--probe", status=0)}
        assert found["probe:app"] == "unknown"
        assert not any(request.line for request in raw.requests)


def test_a_sink_that_no_route_uses_is_left_alone(made: Installation) -> None:
    """It is "not used", whatever is wrong with it."""
    edit("/Maildir}", "/nowhere/Maildir}")(made)
    made.config.write_text(made.config.read_text().replace("deliver: [box]", "deliver: [app]"))
    assert {check["name"]: check["status"] for check in report(made, status=0)}["sink:box"] == "not used"


def test_a_person_reads_the_same(made: Installation) -> None:
    """Without --json: a line for each check, worst first, with its mend below it, and a summary."""
    made.log.chmod(0o400)
    done = subprocess.run([*COMMAND, str(made.config)], capture_output=True, text=True, timeout=120, check=False, cwd="/")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert lines[0].split()[:2] == ["FAIL", "log"]
    assert any(line.strip().startswith("mend: chown") for line in lines[1:4])
    assert lines[-1].startswith("doctor: 1 FAIL, ")


# --- the parts ------------------------------------------------------------------------------------------------------------


def test_a_check_that_breaks_is_unknown() -> None:
    """An error that nobody foresaw is told with its class, and does not stop the others."""

    def broken() -> Any:
        raise ZeroDivisionError("oh\x1b[31m\nno")

    assert answer("x", broken) == Check(name="x", status="unknown", evidence="ZeroDivisionError: oh [31m no")


def test_worst_comes_first_and_causes_before_effects() -> None:
    """By severity; equal ones in the order in which they were asked."""
    asked = tuple(answer(name, lambda verdict=verdict: verdict) for name, verdict in (  # type: ignore[misc]
        ("a", ok("")), ("b", fail("", "")), ("c", unknown("")), ("d", fail("", ""))))  # fmt: skip
    assert [check.name for check in worst_first(asked)] == ["b", "d", "c", "a"]


def test_a_mend_is_never_broken_into_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A person copies it whole."""
    mend = "postconf -e 'a = b' && " * 10
    _show(Check(name="x", status="FAIL", evidence="word " * 60, mend=mend))
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].endswith(f"mend: {mend}")
    assert len(printed) > 3


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("5d", "x", 432_000), ("300", "minimal_backoff_time", 300), ("5", "maximal_queue_lifetime", 432_000),
        ("2w", "x", 1_209_600), ("0h", "delay_warning_time", 0), ("4", "delay_warning_time", 14_400), ("7M", "x", 420),
    ],
)  # fmt: skip
def test_times_are_read_as_postfix_reads_them(text: str, name: str, expected: int) -> None:
    """A number alone has the parameter's own unit (postconf(5))."""
    assert seconds(text, name) == expected


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 days", "1.5d"])
def test_what_is_no_time_is_told(text: str) -> None:
    """It is no zero."""
    with pytest.raises(PostfixError):
        seconds(text, "maximal_queue_lifetime")


@pytest.mark.parametrize("line", ["", "a", "gatepost unix - n n - 10 pipe", "gatepost unix - n n - 10 pipe -o", "x " * 50])
def test_any_line_of_master_cf_is_a_service(line: str) -> None:
    """What is missing is empty; nothing raises."""
    service = parse_service(line)
    assert (service.argv, service.script, service.options) == ((), "", {})


@pytest.mark.parametrize(
    ("program", "mode", "status"),
    [("#!/bin/sh\n", 0o755, "ok"), ("#!/nowhere/sh\n", 0o755, "FAIL"), ("#!/bin/sh\n", 0o644, "FAIL"),
     ("#!/bin/sh\n", 0o777, "warn"), (None, 0, "FAIL")],
)  # fmt: skip
def test_a_commands_program_must_be_there_and_runnable(tmp_path: Path, program: str | None, mode: int, status: str) -> None:
    """What a message would find out first: no file, no right, no interpreter."""
    path = tmp_path / "program"
    if program is not None:
        path.write_text(program)
        path.chmod(mode)
    assert _command((str(path),)).status == status


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("unix:a/b", [("unix:a/b", {})]),
        ("inet:localhost:11332, unix:a/b", [("inet:localhost:11332", {}), ("unix:a/b", {})]),
        ("{unix:a/b, default_action=accept,command_timeout=5s} inet:[::1]:1",
         [("unix:a/b", {"default_action": "accept", "command_timeout": "5s"}), ("inet:[::1]:1", {})]),
        ("{ unix:a }, {unix:b}", [("unix:a", {}), ("unix:b", {})]),
        ("{unix:a", []), ("}{,,", []),
    ],
)  # fmt: skip
def test_a_list_of_milters_is_read_as_postfix_reads_it(value: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """postconf(5), smtpd_milters: white space and commas outside of braces separate; what is broken holds none, and nothing raises."""
    assert [(each.endpoint, each.options) for each in milters(value)] == expected
