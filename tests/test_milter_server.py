"""The milter's process, over its socket: what an MTA hears in any order of commands, and how it starts and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from gatepost.keys.base32 import decode, encode
from tests.installation import give_to, install
from tests.milter_client import (
    ABORT,
    BODY,
    END_OF_HEADERS,
    HEADER,
    HELO,
    LEADING_SPACE,
    MAIL,
    NO_REPLY,
    NOT_SENT,
    QUIT_NC,
    MilterClient,
    Said,
    milter_client,
)

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
QUEUE_ID = "4jWl4Z5tH8zJv6D"
#: As the console script does, whether it is installed or not.
GATEPOST = (
    f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'milter')!r}]; from gatepost.cli import main; sys.exit(main())"
)
PATIENCE = 30.0


def wait_for(look: Callable[[], object], what: str) -> None:
    """Polls, bounded."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s for {what}"
        time.sleep(0.01)


class Running:
    """An installation with a socket of its own, and the process of `gatepost milter`."""

    def __init__(self, folder: Path, *, socket_: str = "", more: str = "") -> None:
        self.path = folder / "milter.sock"
        spelled = socket_ or f"unix:{self.path}"
        self.made = install(
            folder, more=f"milter: {{socket: '{spelled}', authserv_id: mx.example.com, authenticate: []}}\n{more}"
        )
        self.error = folder / "stderr"
        if os.geteuid() == 0:
            give_to(NOBODY, NOBODY, self.made)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, environment: dict[str, str] | None = None, wait: bool = True, code: str = GATEPOST) -> None:
        """Starts it as root where we are root: it becomes the store's owner."""
        before = len(self.listening())
        with self.error.open("ab") as error:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, "milter", f"--config={self.made.config}"], stdin=subprocess.DEVNULL,
                stdout=error, stderr=error, env={"PATH": os.environ["PATH"], **(environment or {})}, cwd="/",
            )  # fmt: skip
        if wait:
            wait_for(
                lambda: len(self.listening()) > before or self.process is None or self.process.poll() is not None, "the start"
            )
            assert self.process.poll() is None, self.error.read_text()

    def listening(self) -> list[str]:
        return [line for line in self.made.log_lines() if "milter: state=listening" in line]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def status(self) -> int:
        """The exit status, once it has ended."""
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)

    def client(self) -> AbstractContextManager[MilterClient]:
        return milter_client(self.path)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that another user can enter, which pytest's own are not."""
    import shutil

    folder = Path(mkdtemp(prefix="gatepost-milter.", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One process for all tests that leave it alone."""
    with open_folder() as folder:
        it = Running(folder)
        it.start()
        try:
            yield it
        finally:
            it.stop()


@pytest.fixture
def fresh() -> Iterator[Running]:
    """A process of the test's own, not started."""
    with open_folder() as folder:
        it = Running(folder)
        try:
            yield it
        finally:
            it.stop()


def good(running: Running) -> str:
    return running.made.address(running.made.key())


def forged(running: Running) -> str:
    """A key with its last octet changed."""
    octets = decode(running.made.key())
    assert octets is not None
    return running.made.address(encode(octets[:-1] + bytes([octets[-1] ^ 1])))


def changed_head(said: Said) -> list[str]:
    return [name for _, name, _ in reversed(said.inserted)]


# -- the protocol


def test_what_is_asked_of_the_mta(running: Running) -> None:
    """Leading white space kept; no reply where there is never another than continue; only the changes that we make."""
    with running.client() as client:
        assert client.protocol & LEADING_SPACE
        silent = {name for name, bit in NO_REPLY.items() if client.protocol & bit}
        assert silent == {b"C", b"H", b"M", b"L", b"N"}
        assert {name for name, bit in NOT_SENT.items() if client.protocol & bit} == {b"T"}
        assert client.asked == 0x1 | 0x8 | 0x10 | 0x100, "add fields, delete recipients, change fields, name macros"
        assert b"{rcpt_addr}" in client.wanted


def test_an_mta_that_offers_too_little_is_refused(running: Running) -> None:
    """Then Postfix does what default_action says, and the log says why; better than half a check."""
    for actions, offered in ((0x1FF & ~0x10, 0x1FFFFF), (0x1FF, 0x1FFFFF & ~LEADING_SPACE), (0x1FF, 0)):
        with pytest.raises(ConnectionError):
            MilterClient(running.path, actions=actions, offered=offered)
    assert "does not offer what gatepost needs" in running.made.log_lines()[-1]


REFUSED: list[tuple[str, Callable[[Running], str], str, str]] = [
    ("no key", lambda running: "reply+nokey@in.example.com", "550 5.1.1 No such address", "key-unknown"),
    ("forged", forged, "550 5.1.1 No such address", "key-forged"),
    ("expired", lambda running: running.made.address(running.made.key(days=-2)), "550 5.1.1 No such address", "key-expired"),
]


@pytest.mark.parametrize(("address", "reply", "rule"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_dead_key_is_refused_at_rcpt(running: Running, address: Callable[[Running], str], reply: str, rule: str) -> None:
    """One text for all of them; the log knows the difference."""
    with running.client() as client:
        client.mail()
        said = client.rcpt(address(running))
        assert (said.code, said.text) == ("y", reply)
        assert f"action=reject rule={rule} route=replies door=milter stage=rcpt" in running.made.log_lines()[-1]
        assert client.rcpt(good(running)).code == "c"


def test_a_good_message_gets_stamp_and_results_on_top(running: Running) -> None:
    """Above Postfix's own Received field, stamp first, the results below it."""
    with running.client() as client:
        said = client.message(good(running))
        assert (said.code, said.deleted, said.removed) == ("c", (), ())
        assert changed_head(said) == ["X-Gatepost-Stamp", "Authentication-Results"]
        assert {place for place, _, _ in said.inserted} == {0}
        for _, _, value in said.inserted:
            assert value[0] == " "
            assert "\r" not in value


def test_mail_for_others_passes_untouched(running: Running) -> None:
    """No field, and after the first chunk no body is sent any more."""
    before = running.made.log_lines()
    with running.client() as client:
        client.mail()
        assert client.rcpt("somebody@example.net").code == "c"
        client.headers(("Authentication-Results", " mx.example.com; spf=pass"))
        assert client.say(BODY, b"x" * 65_535) == Said("s")
        assert client.end() == Said("c")
    assert running.made.log_lines() == before


def test_a_recipient_that_discards_is_deleted_and_the_others_go_on(running: Running) -> None:
    """Automatic mail for us and for somebody else: 250, our recipient deleted, one line of ours."""
    ours = good(running)
    with running.client() as client:
        client.mail()
        assert client.rcpt(ours).code == "c"
        assert client.rcpt("somebody@example.net", queue_id=QUEUE_ID).code == "c"
        client.headers(("From", " person@example.org"), ("Auto-Submitted", " auto-replied"))
        said = client.end()
    assert (said.code, said.deleted) == ("c", (f"<{ours}>",))
    assert f"{QUEUE_ID}: action=discard rule=automatic route=replies door=milter stage=end" in running.made.log_lines()[-1]


def test_automatic_mail_for_us_alone_is_discarded(running: Running) -> None:
    """The MTA says 250 and forgets it."""
    with running.client() as client:
        client.mail()
        client.rcpt(good(running))
        client.headers(("From", " person@example.org"), ("Auto-Submitted", " auto-replied"))
        assert client.end() == Said("d")


def test_forged_results_are_removed_from_the_last_to_the_first(running: Running) -> None:
    """Else each deletion would change the number of the next."""
    with running.client() as client:
        client.mail()
        client.rcpt(good(running))
        client.headers(
            ("From", " person@example.org"), ("Authentication-Results", " mx.example.com; dmarc=pass"),
            ("Authentication-Results", " other.example; dmarc=pass"), ("Authentication-Results", "\n\tMX.example.com.; dmarc=pass"),
        )  # fmt: skip
        said = client.end()
    assert [(name.lower(), number) for name, number in said.removed] == [
        ("authentication-results", 3), ("authentication-results", 1)
    ]  # fmt: skip


def test_too_many_forged_results_refuse_the_message(running: Running) -> None:
    """550 at the end, nothing removed."""
    with running.client() as client:
        client.mail()
        client.rcpt(good(running))
        client.headers(*[("Authentication-Results", " mx.example.com; dmarc=pass")] * 51)
        said = client.end()
    assert (said.code, said.text[:9], said.removed) == ("y", "550 5.6.0", ())


def aborted(client: MilterClient) -> None:
    client.say(ABORT)


def new_connection(client: MilterClient) -> None:
    client.say(QUIT_NC)
    client.connect()
    client.helo()


def mail_again(client: MilterClient) -> None:
    client.mail("<second@example.org>")


BETWEEN: list[tuple[str, Callable[[MilterClient], None], str]] = [
    ("abort", aborted, "RSET, or the client is gone"),
    ("another connection", new_connection, "SMFIC_QUIT_NC out of turn: libmilter takes it for an abort"),
    ("MAIL again", mail_again, "libmilter calls abort itself"),
]


@pytest.mark.parametrize("between", [row[1] for row in BETWEEN], ids=[row[0] for row in BETWEEN])
def test_what_was_broken_off_leaves_nothing_behind(running: Running, between: Callable[[MilterClient], None]) -> None:
    """In the middle of a body: the next message has its own recipients, head and body, and is taken."""
    with running.client() as client:
        client.mail("<first@example.org>")
        client.rcpt(good(running))
        client.headers(("From", " first@example.org"), ("Auto-Submitted", " auto-replied"))
        client.say(BODY, b"first" * 1000)
        between(client)
        said = client.message("support@in.example.com")
        assert (said.code, changed_head(said)) == ("c", ["X-Gatepost-Stamp", "Authentication-Results"])


def test_another_client_over_the_same_connection(running: Running) -> None:
    """SMFIC_QUIT_NC after a message: no negotiation comes before the next client, and nothing of the first is left."""
    with running.client() as client:
        assert client.message(good(running)).code == "c"
        client.say(QUIT_NC)
        client.connect("198.51.100.9", "[198.51.100.9]")
        client.helo()
        client.mail()
        assert client.rcpt("reply+none@in.example.com").code == "y"
        assert "client=198.51.100.9 " in running.made.log_lines()[-1]
        client.say(ABORT)
        assert client.message(good(running)).code == "c"


def test_twenty_messages_on_one_connection(running: Running) -> None:
    """Good and refused by turns, each answered for itself."""
    with running.client() as client:
        for turn in range(20):
            if turn % 3 == 2:
                client.mail()
                assert client.rcpt(forged(running)).code == "y"
                client.say(ABORT)
            else:
                assert client.message(good(running), queue_id=f"{QUEUE_ID}{turn}").code == "c"


CLIENTS: list[tuple[str, dict[str, Any], str]] = [
    ("IPv4", {"address": "192.0.2.7", "name": "mail.example.org", "family": b"4"}, "192.0.2.7"),
    ("IPv4 without a name", {"address": "192.0.2.7", "name": "[192.0.2.7]", "family": b"4"}, "192.0.2.7"),
    ("IPv6", {"address": "2001:db8::7", "name": "mail.example.org", "family": b"6"}, "2001:db8::7"),
    ("a Unix socket", {"address": "/run/x", "name": "localhost", "family": b"L"}, "/run/x"),
]


@pytest.mark.parametrize(("client", "shown"), [row[1:] for row in CLIENTS], ids=[row[0] for row in CLIENTS])
def test_whoever_connects_is_heard(running: Running, client: dict[str, Any], shown: str) -> None:
    """Every family of address; the log line has it."""
    mta = MilterClient(running.path)
    try:
        mta.connect(**client)
        mta.helo()
        mta.mail()
        assert mta.rcpt("reply+none@in.example.com").code == "y"
        assert f"client={shown} " in running.made.log_lines()[-1]
    finally:
        mta.close()


def test_what_is_no_utf8_stops_nothing(running: Running) -> None:
    """pymilter cannot decode it and calls nobody: a HELO is then unknown, a field not seen; the message is still answered."""
    with running.client() as client:
        client.say(HELO, b"caf\xe9\xff\0")
        client.say(MAIL, b"<j\xfcrgen@example.org>\0")
        assert client.rcpt("reply+\udcff@in.example.com").code == "y"
        assert client.rcpt(good(running)).code == "c"
        client.say(HEADER, b"X-\xff\0 v\0")
        client.say(HEADER, b"From\0 \xff@example.org\0")
        client.say(END_OF_HEADERS)
        assert client.end().code == "c"
    assert sum('at=pymilter detail="UnicodeDecodeError: ' in line for line in running.made.log_lines()) == 2
    assert running.error.read_text() == "", "no traceback"


def test_rubbish_ends_its_own_connection_alone(running: Running) -> None:
    """What speaks no milter protocol: the process goes on."""
    for rubbish in (b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\0", b"\xff" * 64, b"\0\0\0\1Z", b"\0\0\0\1R", b""):
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(running.path))
            other.sendall(rubbish)
    with running.client() as client:
        assert client.message(good(running)).code == "c"


def test_three_hundred_sessions_at_once(running: Running) -> None:
    """All open in mid-message, all answered, and afterwards no descriptor is left."""
    before = len(os.listdir(f"/proc/{running.pid}/fd"))
    clients = [MilterClient(running.path) for _ in range(300)]
    try:
        for client in clients:
            client.connect()
            client.helo()
            client.mail()
            assert client.rcpt("support@in.example.com").code == "c"
        for client in clients:
            client.headers(("From", " person@example.org"))
            client.say(BODY, b"Hello.\r\n")
        assert {client.end().code for client in clients} == {"c"}
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: len(os.listdir(f"/proc/{running.pid}/fd")) <= before + 4, "the sessions' descriptors to be closed")


# -- a life from start to end


def test_it_runs_as_the_stores_owner_on_a_socket_for_the_group(running: Running) -> None:
    """Never root; 0660, so that Postfix's group may connect and nobody else."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    uids = {int(uid) for line in status.splitlines() if line.startswith("Uid:") for uid in line.split()[1:]}
    assert uids == {running.made.store.stat().st_uid}
    assert 0 not in uids or os.geteuid() != 0
    assert running.path.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_under_way(fresh: Running, number: int) -> None:
    """The message in mid-body is judged and answered, a new one is put off, and the status is 0."""
    fresh.start()
    first, second = MilterClient(fresh.path), MilterClient(fresh.path)
    for client in (first, second):
        client.connect()
        client.helo()
        client.mail()
    assert first.rcpt(good(fresh)).code == "c"
    first.headers(("From", " person@example.org"))
    first.say(BODY, b"first half")
    fresh.signal(number)
    wait_for(lambda: not fresh.path.exists(), "the socket to go")
    assert second.rcpt(good(fresh)).text == "451 4.3.2 Interrupted, try later"
    assert second.rcpt("somebody@example.net").code == "c", "others' mail is not held up"
    first.say(BODY, b"second half")
    said = first.end()
    assert (said.code, changed_head(said)) == ("c", ["X-Gatepost-Stamp", "Authentication-Results"])
    assert fresh.status() == 0
    assert "milter: state=ended" in fresh.made.log_lines()[-1]
    first.close()
    second.close()


def test_a_signal_with_nothing_under_way_ends_at_once(fresh: Running) -> None:
    """Idle connections, and others' mail, hold nothing up."""
    fresh.start()
    with fresh.client() as idle, fresh.client() as other:
        other.mail()
        other.rcpt("somebody@example.net")
        fresh.signal(signal.SIGTERM)
        assert fresh.status() == 0
        with pytest.raises(ConnectionError):
            idle.message("somebody@example.net")


def test_hangup_reads_the_configuration_and_ends_nothing(fresh: Running) -> None:
    """libmilter's own meaning of it is the end; a message in the middle goes on."""
    fresh.start()
    with fresh.client() as client:
        client.mail()
        assert client.rcpt(good(fresh)).code == "c"
        for turn in range(3):
            fresh.signal(signal.SIGHUP)
            wait_for(partial(read_again, fresh, turn + 1), "its line")
        client.headers(("From", " person@example.org"))
        assert client.end().code == "c"


def read_again(running: Running, times: int) -> bool:
    return sum("state=configuration detail=changed" in line for line in running.made.log_lines()) == times


def test_a_changed_file_serves_the_next_message(fresh: Running) -> None:
    """A bad file is told and changes nothing; the mended one is in force."""
    fresh.start()
    text = fresh.made.config.read_text()

    def answer() -> str:
        with fresh.client() as client:
            client.mail()
            return client.rcpt("help-none@in.example.com").text

    assert answer() == "", "not ours: Postfix decides"
    fresh.made.config.write_text(text + "routes: [\n")
    wait_for(lambda: answer() == "" and any("not changed" in line for line in fresh.made.log_lines()), "the mistake to be told")
    fresh.made.config.write_text(text.replace("support@in", "help-%{key}@in"))
    wait_for(lambda: answer() == "550 5.1.1 No such address", "the new route")


def test_the_socket_of_a_killed_process_is_taken_over(fresh: Running) -> None:
    """kill -9 leaves it; the next start works."""
    fresh.start()
    fresh.signal(signal.SIGKILL)
    fresh.status()
    assert fresh.path.exists()
    fresh.start()
    with fresh.client() as client:
        assert client.message(good(fresh)).code == "c"


def test_a_second_one_does_not_start(fresh: Running) -> None:
    """75 and a sentence; the first one still answers."""
    fresh.start()
    first = fresh.process
    fresh.start(wait=False)
    assert fresh.status() == 75
    assert "somebody listens here already" in fresh.error.read_text()
    assert first is not None
    with fresh.client() as client:
        assert client.message(good(fresh)).code == "c"
    first.kill()
    first.wait(PATIENCE)


def broken_config(fresh: Running) -> None:
    fresh.made.config.write_text("routes: [\n")


def no_milter(fresh: Running) -> None:
    text = fresh.made.config.read_text()
    fresh.made.config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("milter:")) + "\n")


def no_folder(fresh: Running) -> None:
    fresh.made.config.write_text(fresh.made.config.read_text().replace("milter.sock", "none/milter.sock"))


def no_store(fresh: Running) -> None:
    fresh.made.store.rmdir()


def roots_store(fresh: Running) -> None:
    os.chown(fresh.made.store, 0, 0)


def roots_folder(fresh: Running) -> None:
    folder = fresh.path.parent / "roots"
    folder.mkdir(mode=0o755)
    fresh.made.config.write_text(fresh.made.config.read_text().replace("milter.sock", "roots/milter.sock"))


def port_taken(fresh: Running) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    TAKEN.append(server)
    text = fresh.made.config.read_text()
    fresh.made.config.write_text(text.replace(f"unix:{fresh.path}", f"inet:{server.getsockname()[1]}@127.0.0.1"))


TAKEN: list[socket.socket] = []
NO_START: list[tuple[str, Callable[[Running], None], str]] = [
    ("broken configuration", broken_config, "is not YAML"),
    ("no milter section", no_milter, "there is no milter: section"),
    ("no folder for the socket", no_folder, "install -d -o gatepost -g postfix -m 2710"),
    ("no store", no_store, "make it with: install -d"),
    ("port in use", port_taken, "cannot listen there"),
    *(
        [
            ("root's store", roots_store, "does not run as root"),
            ("root's folder for the socket", roots_folder, "may not make a socket in it: chown"),
        ]
        if os.geteuid() == 0
        else []
    ),
]


@pytest.mark.parametrize(("spoil", "says"), [row[1:] for row in NO_START], ids=[row[0] for row in NO_START])
def test_it_does_not_start_and_says_why(fresh: Running, spoil: Callable[[Running], None], says: str) -> None:
    """75, as systemd's RestartPreventExitStatus and a person need it, and no traceback."""
    spoil(fresh)
    try:
        fresh.start(wait=False)
        assert fresh.status() == 75
    finally:
        while TAKEN:
            TAKEN.pop().close()
    assert says in fresh.error.read_text()
    assert "Traceback" not in fresh.error.read_text()
    assert not fresh.path.exists()


def test_without_pymilter_it_says_what_to_install(fresh: Running) -> None:
    """The extra, by name."""
    fresh.start(wait=False, code=GATEPOST.replace("import sys;", "import sys; sys.modules['Milter'] = None;"))
    assert fresh.status() == 75
    assert fresh.error.read_text() == 'gatepost: pymilter is not installed: pip install "gatepost[milter]"\n'


def test_without_a_part_of_the_extra_it_says_so(fresh: Running) -> None:
    """What checks senders has libraries of its own: one that is missing is a sentence, no traceback."""
    fresh.made.config.write_text(fresh.made.config.read_text().replace("authenticate: []", "authenticate: [spf]"))
    fresh.start(wait=False, code=GATEPOST.replace("import sys;", "import sys; sys.modules['spf'] = None;"))
    assert fresh.status() == 75
    said = fresh.error.read_text()
    assert "the extra [milter] is not whole" in said
    assert "pip install 'gatepost[milter]'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_socket_of_the_network(host: str) -> None:
    """inet: on loopback, as configured, in both families."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server(("::1" if ":" in host else "127.0.0.1", 0), family=family) as probe:
            port = probe.getsockname()[1]
    except OSError:
        assert family == socket.AF_INET6, "a host without IPv6 has one family less"
        return
    with open_folder() as folder:
        it = Running(folder, socket_=f"inet:{port}@{host}")
        try:
            it.start()
            with socket.create_connection((host, port), timeout=PATIENCE) as there:
                there.sendall(b"\0\0\0\x0dO" + (6).to_bytes(4) + (0x1FF).to_bytes(4) + (0x1FFFFF).to_bytes(4))
                assert there.recv(5)[4:] == b"O"
            it.signal(signal.SIGHUP)
            wait_for(partial(read_again, it, 1), "its line")
            assert not [line for line in it.made.log_lines() if "restart to listen there" in line], "it listens there"
            it.signal(signal.SIGTERM)
            assert it.status() == 0
        finally:
            it.stop()


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_is_told(fresh: Running, abstract: bool) -> None:
    """READY=1 once it listens, STOPPING=1 when it ends; in both forms of the socket's name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"@{fresh.path.parent.name}" if abstract else str(fresh.made.folder / "notify")
        systemd.bind("\0" + name[1:] if abstract else name)
        if not abstract:
            Path(name).chmod(0o666)
        systemd.settimeout(PATIENCE)
        fresh.start(environment={"NOTIFY_SOCKET": name})
        assert systemd.recv(100) == b"READY=1"
        assert fresh.path.exists()
        fresh.signal(signal.SIGTERM)
        assert systemd.recv(100) == b"STOPPING=1"
        assert fresh.status() == 0


def test_a_store_that_is_gone_defers(fresh: Running) -> None:
    """451 4.3.0, rule store-unavailable; and when it is back, mail is taken again."""
    fresh.start()
    away = fresh.made.folder / "away"
    with fresh.client() as client:
        client.mail()
        fresh.made.store.rename(away)
        said = client.rcpt(good(fresh))
        assert (said.code, said.text) == ("y", "451 4.3.0 Temporary storage failure, try later")
        client.say(ABORT)
        away.rename(fresh.made.store)
        assert client.message(good(fresh)).code == "c"


def test_a_callback_that_fails_is_a_deferral_with_a_line(fresh: Running) -> None:
    """In the glue itself: 451 4.3.0, and the MTA sees no word of it."""
    spoiled = GATEPOST.replace(
        "from gatepost.cli import main;",
        "from gatepost.cli import main; from gatepost_milter import session; "
        "session.Session.rcpt = lambda *a: 1 / 0; session.Session.header = lambda *a: [][1];",
    )
    fresh.start(code=spoiled)

    def lines() -> list[str]:
        return [line for line in fresh.made.log_lines() if "milter: state=internal-error" in line]

    with fresh.client() as client:
        client.mail()
        assert client.rcpt(good(fresh)) == Said("y", "451 4.3.0 Temporary failure, try later")
        client.headers(("From", " person@example.org"))
        wait_for(lambda: len(lines()) == 2, "both lines")
    assert 'at=rcpt detail="ZeroDivisionError: division by zero"' in lines()[0]
    assert "at=header detail=" in lines()[1]
    assert "Traceback" not in fresh.error.read_text()
