"""The warm process over its socket: replies, faults, bounds, and how it starts, changes and ends."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.installation import give_to, message
from tests.lmtp_client import QUEUE_ID, LmtpClient, content
from tests.lmtp_host import NOBODY, ROOT, Serving, open_folder, wait_for

PERSON = "person@example.org"
SUPPORT = "support@in.example.com"


def queue_id(number: int) -> str:
    """A long queue ID of its own."""
    digits = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
    return f"4jWl4Z{digits[number // 31 % 31]}{digits[number % 31]}H8zJv6D"


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """One process for all tests that leave it alone. Refusals are told to Postfix."""
    with open_folder() as folder:
        it = Serving(folder, more="after_queue: bounce\n")
        it.start()
        try:
            yield it
        finally:
            it.stop()


@pytest.fixture
def fresh() -> Iterator[Serving]:
    """A process of the test's own, not started."""
    with open_folder() as folder:
        it = Serving(folder, lmtp=", workers: 1, max_messages: 2", more="timing: {deadline: 3s, lease: 5s}\n")
        try:
            yield it
        finally:
            it.stop()


# -- messages


def test_each_recipient_has_its_own_reply(serving: Serving) -> None:
    """Accepted, refused, parked: in the order of RCPT, with what the pipe script would have said. One 5xx for all of them made a

    real Postfix bounce the first and log the second as sent.
    """
    to = [serving.made.address(serving.made.key()), "reply+nokey@in.example.com", "postmaster@in.example.com", SUPPORT]
    with serving.client() as client:
        said = client.message(PERSON, to, message(), queue_id=queue_id(1), size=700)
    assert [each.split(" id=")[0] for each in said] == [
        "250 2.0.0 accepted route=replies", "550 5.1.1 No such address", "250 2.0.0 parked rule=role-address",
        "250 2.0.0 accepted route=support",
    ]  # fmt: skip
    lines = [line for line in serving.made.log_lines() if f" {queue_id(1)}: " in line]
    assert [line.split("rule=")[1].split()[0] for line in lines] == ["accepted", "key-unknown", "role-address", "accepted"]
    assert all(" size=700 bytes=" in line for line in lines)


def test_the_same_message_again_is_not_handed_over_twice(serving: Serving) -> None:
    """Postfix did not hear the first answer: the ledger knows."""
    before = len(serving.maildir())
    with serving.client() as client:
        first, again = (client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(2)) for _ in range(2))
    assert again == [f"{first[0]} again"]
    assert len(serving.maildir()) == before + 1


def test_many_messages_on_one_connection(serving: Serving) -> None:
    """Postfix keeps connections; what one message left behind would show in the next."""
    with serving.client() as client:
        for number in range(10, 30):
            to = [SUPPORT, "reply+nokey@in.example.com"] if number % 3 else ["reply+nokey@in.example.com"]
            said = client.message(PERSON, to, message(subject=str(number)), queue_id=queue_id(number))
            assert [each[:9] for each in said] == (["250 2.0.0", "550 5.1.1"] if number % 3 else ["550 5.1.1"])
            assert str(client.command("RSET")) == "250 2.0.0 Ok"


def test_lines_of_any_length_arrive_whole(serving: Serving) -> None:
    """A line of 300,000 octets: raw is what the pipe script would have made of it."""
    data = message(body="x" * 300_000 + "\n.\n..\n")
    with serving.client() as client:
        assert client.message(PERSON, [SUPPORT], data, queue_id=queue_id(3))[0].startswith("250 ")
    assert any(path.read_bytes().endswith(b"\n" + b"x" * 300_000 + b"\n.\n..\n") for path in serving.maildir())


def test_a_message_without_a_queue_id_is_deferred(serving: Serving) -> None:
    """lmtp_send_xforward_command is missing: no two messages could be told apart."""
    with serving.client() as client:
        assert str(client.command("MAIL FROM:<a@example.org>")).startswith("451 4.3.5 Mail system configuration error")


def test_a_line_too_long_ends_the_connection(serving: Serving) -> None:
    """Temporarily: it is no command of Postfix's."""
    with serving.client() as client:
        client.send(b"x" * 70_000)
        assert str(client.reply()) == "421 4.5.2 Line too long"


def test_what_was_cut_off_is_not_handed_over(serving: Serving) -> None:
    """A client that went away in the middle of a message: nothing is delivered, and the log says so."""
    before = len(serving.maildir())
    with serving.client() as client:
        assert client.envelope(PERSON, [SUPPORT], queue_id=queue_id(4))[-1].startswith("354 ")
        client.send(content(message())[:-3])
    wait_for(
        lambda: any(f" {queue_id(4)}: action=defer rule=incomplete-input" in x for x in serving.made.log_lines()), "the log"
    )
    assert len(serving.maildir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_is_not_named_may_not_deliver(serving: Serving) -> None:
    """By the kernel's word, whatever the socket's mode; for now, for it is a mistake in the configuration."""
    serving.path.chmod(0o666)
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(99).decode(), end='')"
    done = subprocess.run([sys.executable, "-I", "-c", code, str(serving.path)], user=NOBODY - 1, capture_output=True, timeout=30,
                          check=True, cwd="/")  # fmt: skip
    assert done.stdout == b"421 4.7.0 You may not deliver here\r\n"
    assert f"user {NOBODY - 1} may not deliver: lmtp.peers does not name it" in "".join(serving.made.log_lines())


def resident(pid: int) -> int:
    """Octets of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_of_a_message_stays_in_memory(serving: Serving) -> None:
    """A moment after five messages of 10 MB the workers have about what they had before."""
    with serving.client() as client:
        client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(5))
        before = sum(map(resident, serving.workers()))
        for number in range(40, 45):
            said = client.message(PERSON, [SUPPORT], message(size=10_000_000), queue_id=queue_id(number), size=10_000_000)
            assert said[0].startswith("250 "), said
    wait_for(lambda: sum(map(resident, serving.workers())) < before + 4_000_000, "memory to be given back")


# -- faults


def begin(client: LmtpClient, to: list[str], *, number: int = 0, size: int | None = None) -> None:
    """A whole message, without waiting for what becomes of it."""
    assert client.envelope(PERSON, to, queue_id=queue_id(number), size=size)[-1].startswith("354 ")
    client.send(content(message()))


FAULTS: list[tuple[str, str, str, str]] = [
    ("bug", "import gatepost.gateway as g; g.Gateway.receive = lambda *a, **k: 1 / 0", "internal-error", "what nobody foresaw"),
    ("memory", "import gatepost.gateway as g\ndef f(*a, **k): raise MemoryError\ng.Gateway.receive = f", "internal-error", "a large one"),
    ("hang", "import time, gatepost.gateway as g; g.Gateway.receive = lambda *a, **k: time.sleep(60)", "deadline", "a disk that hangs"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "rule"), [row[1:3] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_our_own_fault_defers_every_recipient(fresh: Serving, change: str, rule: str) -> None:
    """A reply for each, 451, whatever happened, and by the deadline."""
    fresh.start(change=change)
    with fresh.client() as client:
        begin(client, [SUPPORT, "reply+nokey@in.example.com"])
        said = client.replies(2)
    assert [(each[:8], each.rpartition(" ")[2]) for each in said] == [("451 4.3.0", f"(rule={rule})")] * 2 or [
        (each[:9], each.rpartition(" ")[2]) for each in said
    ] == [("451 4.3.0", f"(rule={rule})")] * 2
    assert sum(f"action=defer rule={rule} to=support" in line for line in fresh.made.log_lines()) == 1


def test_a_client_that_has_gone_gets_nothing_handed_over(fresh: Serving) -> None:
    """Nobody would hear that the message is done with: Postfix brings it again, and the app gets it once."""
    go = fresh.made.folder / "go"
    wait = f"lambda *a, **k: ([time.sleep(0.01) for _ in iter(lambda: os.path.exists({str(go)!r}), True)], r(*a, **k))[1]"
    fresh.start(change=f"import os, time, gatepost.gateway as g; r = g.Gateway.receive; g.Gateway.receive = {wait}")
    with fresh.client() as client:
        begin(client, [SUPPORT], number=7)
    go.touch()
    wait_for(lambda: any("action=defer rule=interrupted to=support" in line for line in fresh.made.log_lines()), "the log")
    assert fresh.maildir() == []
    with fresh.client() as client:
        assert client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(7))[0].startswith("250 2.0.0 accepted")
    assert len(fresh.maildir()) == 1


def test_a_store_that_is_gone_defers(fresh: Serving) -> None:
    """And mail passes again once it is back: nobody need restart anything."""
    fresh.start()
    away = fresh.made.store.with_name("away")
    with fresh.client() as client:
        assert client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(1))[0].startswith("250 ")
        fresh.made.store.rename(away)
        fresh.made.store.touch()
        said = client.message(PERSON, [SUPPORT] * 2, message(), queue_id=queue_id(2))
        assert [each.rpartition(" ")[2] for each in said] == ["(rule=store-unavailable)"] * 2
        fresh.made.store.unlink()
        away.rename(fresh.made.store)
        assert client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(2))[0].startswith("250 ")


_SLOW = "import time, gatepost.gateway as g; r = g.Gateway.receive; g.Gateway.receive = lambda *a, **k: (time.sleep({}), r(*a, **k))[1]"


def test_messages_in_flight_are_bounded(fresh: Serving) -> None:
    """Two are; the third is deferred after a short wait, at DATA: it is not even sent."""
    fresh.start(change="import gatepost_filter.lmtp_connection as c; c._PATIENCE = 0.1; " + _SLOW.format(2))
    with fresh.client() as one, fresh.client() as two, fresh.client() as three:
        for number, client in enumerate((one, two)):
            begin(client, [SUPPORT], number=number)
        wait_for(lambda: Path(f"/proc/{fresh.workers()[0]}/task").exists(), "a worker")
        said = three.envelope(PERSON, [SUPPORT], queue_id=queue_id(3))
        assert said[-1] == "451 4.3.2 Too many messages at once, try later (rule=overloaded)"
        assert [client.replies(1)[0][:9] for client in (one, two)] == ["250 2.0.0"] * 2
        assert three.message(PERSON, [SUPPORT], message(), queue_id=queue_id(3))[0].startswith("250 ")
    assert sum(f" {queue_id(3)}: action=defer rule=overloaded to=support" in line for line in fresh.made.log_lines()) == 1


def test_octets_in_flight_are_bounded() -> None:
    """A message that says how large it is waits outside; one that grows beyond is taken, forgotten and deferred."""
    with open_folder() as folder:
        it = Serving(folder, lmtp=", workers: 1, max_bytes: 1MiB")
        try:
            it.start(change="import gatepost_filter.lmtp_connection as c; c._PATIENCE = 0.1; " + _SLOW.format(2))
            with it.client() as one, it.client() as two, it.client() as three:
                begin(one, [SUPPORT], number=1, size=500_000)
                said = two.envelope(PERSON, [SUPPORT], queue_id=queue_id(2), size=900_000)
                assert said[-1].endswith("(rule=overloaded)")
                said = three.message(PERSON, [SUPPORT] * 2, message(size=500_000), queue_id=queue_id(3))
                assert [each.rpartition(" ")[2] for each in said] == ["(rule=overloaded)"] * 2
                assert one.replies(1)[0].startswith("250 ")
                said = two.message(PERSON, [SUPPORT], message(size=3_000_000), queue_id=queue_id(2), size=3_000_000)
                assert said[0].startswith("250 "), "larger than all of the room: alone"
                said = two.message(PERSON, [SUPPORT], message(body="\n" * 700_000), queue_id=queue_id(4), size=700_000)
                assert said[0].startswith("250 "), "grows beyond all of the room: alone, too"
        finally:
            it.stop()


def test_descriptors_that_are_used_up_lose_nothing(fresh: Serving) -> None:
    """Clients wait, or are told to come back; with the others gone, mail passes again."""
    fresh.start(prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)),
                change="import gatepost_filter.lmtp_worker as w; w.Room = type('R', (w.Room,), {}); w._FEW = 1")  # fmt: skip
    clients = [LmtpClient(fresh.path) for _ in range(40)]
    for each in clients:
        each.sock.close()
    with fresh.client() as client:
        said = client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(1))
    assert said[0].startswith("250 ")


#: A user that nobody else is: RLIMIT_NPROC counts all processes and threads of one.
LONELY = 64_123


@contextmanager
def few_threads(patience: float) -> Iterator[Serving]:
    """A master, a worker, and two threads for its clients: more are refused by the kernel. `patience`: seconds to wait for one."""
    with open_folder() as folder:
        it = Serving(folder, lmtp=", workers: 1, max_messages: 20")
        give_to(LONELY, LONELY, it.made)
        try:
            change = f"import gatepost_filter.lmtp_worker as worker; worker._PATIENCE = {patience}"
            it.start(prepare=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (4, 4)), change=change)
            yield it
        finally:
            it.stop()


def no_thread(serving: Serving) -> bool:
    return any("state=trouble" in line and "can't start new thread" in line for line in serving.made.log_lines())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_finds_no_thread_waits_for_one() -> None:
    """A 421 in place of the greeting would count against the whole process; here the message goes on when another has left."""
    with few_threads(60.0) as serving:
        with serving.client(), serving.client() as second:
            waiting = LmtpClient(serving.path)
            wait_for(lambda: no_thread(serving), "the line")
            second.sock.close()
            assert str(waiting.reply()).startswith("220 ")
            waiting.sock.close()
        with serving.client() as client:
            assert client.message(PERSON, [SUPPORT], message(), queue_id=queue_id(1))[0].startswith("250 ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_waits_too_long_for_a_thread_is_told_to_come_back() -> None:
    """Each in his turn; and the end of the process waits for none of them."""
    with few_threads(0.5) as serving, serving.client(), serving.client():
        for _ in range(2):
            waiting = LmtpClient(serving.path)
            assert str(waiting.reply()) == "421 4.3.2 Overloaded, come back later"
            with pytest.raises(EOFError):
                waiting.reply()
            waiting.sock.close()
        waiting = LmtpClient(serving.path)
        serving.signal(signal.SIGTERM)
        assert serving.status() == 0
        assert "killed=" not in serving.made.log_lines()[-1]
        waiting.sock.close()


# -- its life


def test_a_killed_worker_is_replaced_and_the_socket_stays(fresh: Serving) -> None:
    """kill -9: the message in flight is not answered, Postfix brings it again, and it is handed over once."""
    fresh.start()
    (worker,) = fresh.workers()
    inode = fresh.path.stat().st_ino
    with fresh.client() as client:
        assert client.envelope(PERSON, [SUPPORT])[-1].startswith("354 ")
        os.kill(worker, signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionError)):
            client.reply()
    with fresh.client() as client:  # waits in the socket's queue until there is a worker
        assert client.message(PERSON, [SUPPORT], message())[0].startswith("250 ")
    assert len(fresh.maildir()) == 1
    assert fresh.workers() not in ([], [worker])
    assert fresh.path.stat().st_ino == inode
    assert f"worker {worker} ended with -9" in "".join(fresh.made.log_lines())


def test_workers_end_with_the_process_that_started_them(fresh: Serving) -> None:
    """kill -9 of that one: nobody keeps the socket, and the next can start."""
    fresh.start()
    (worker,) = fresh.workers()
    fresh.signal(signal.SIGKILL)
    assert fresh.status() == -9
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the end of the worker")
    fresh.start()
    with fresh.client() as client:
        assert client.message(PERSON, [SUPPORT], message())[0].startswith("250 ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_finishes_what_is_in_flight(fresh: Serving, number: int) -> None:
    """Idle clients are told at once, the message gets its answer, the socket goes, and the status is 0."""
    fresh.start(change=_SLOW.format(1))
    with fresh.client() as idle, fresh.client() as busy:
        begin(busy, [SUPPORT])
        fresh.signal(number)
        assert str(idle.reply()) == "421 4.3.2 Going down, come back"
        assert busy.replies(1)[0].startswith("250 2.0.0 accepted")
        assert fresh.status() == 0
    assert not fresh.path.exists()
    assert "lmtp: state=ended" in fresh.made.log_lines()[-1]


def take_its_place(path: Path) -> None:
    """Another socket, which is somebody else's."""
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))


@pytest.mark.parametrize("remove", [Path.unlink, take_its_place], ids=["removed", "replaced"])
def test_it_ends_where_nobody_can_find_it(fresh: Serving, remove: Callable[[Path], None]) -> None:
    """What is in flight is finished; the status lets systemd start it anew. Else Postfix would defer until it bounces."""
    fresh.start(change=_SLOW.format(1))
    with fresh.client() as busy:
        begin(busy, [SUPPORT])
        remove(fresh.path)
        assert busy.replies(1)[0].startswith("250 2.0.0 accepted")
        assert fresh.status() == 1
    assert any("is not our socket any more" in line for line in fresh.made.log_lines())
    assert fresh.path.exists() == (remove is take_its_place)


def test_the_end_defers_what_takes_too_long(fresh: Serving) -> None:
    """451 for each recipient without an answer; nothing is lost."""
    slow = "import gatepost_filter.lmtp_worker as w; w.FINISH = 0.3; " + _SLOW.format("60 if a[1].recipient == 'x@y' else 0")
    fresh.start(change=slow)
    with fresh.client() as client:
        begin(client, [SUPPORT, "x@y", SUPPORT])
        assert client.replies(1)[0].startswith("250 ")
        fresh.signal(signal.SIGTERM)
        assert client.replies(2) == ["451 4.3.2 Interrupted, try later (rule=interrupted)"] * 2
        assert fresh.status() == 0


def rewrite(serving: Serving, old: str, new: str) -> None:
    """A new file in the old one's place, as an editor does it."""
    file = serving.made.config.with_suffix(".new")
    file.write_text(serving.made.config.read_text().replace(old, new))
    file.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)
    file.rename(serving.made.config)


def test_a_new_configuration_is_in_force_and_a_bad_one_is_not(fresh: Serving) -> None:
    """SIGHUP: the next message is judged by it; a mistake changes nothing and is told; a new worker has the old one, too."""
    fresh.start()

    def sent(number: int) -> str:
        with fresh.client() as client:
            return client.message(PERSON, ["reply+nokey@in.example.com"], message(), queue_id=queue_id(number))[0]

    assert sent(1).startswith("250 2.0.0 parked")
    rewrite(fresh, "timing:", "after_queue: bounce\ntiming:")
    fresh.signal(signal.SIGHUP)
    wait_for(lambda: sum("state=configuration detail=changed" in line for line in fresh.made.log_lines()) >= 2, "both")
    assert sent(2).startswith("550 5.1.1")
    rewrite(fresh, "after_queue: bounce", "after_queue: nonsense")
    fresh.signal(signal.SIGHUP)
    wait_for(lambda: any("not changed: " in line for line in fresh.made.log_lines()), "the mistake")
    assert sent(3).startswith("550 5.1.1")
    os.kill(fresh.workers()[0], signal.SIGKILL)
    assert sent(4).startswith("550 5.1.1")


def test_what_counts_only_at_the_start_is_told(fresh: Serving) -> None:
    """More workers need a restart, and the log says so."""
    fresh.start()
    rewrite(fresh, "workers: 1", "workers: 2")
    fresh.signal(signal.SIGHUP)
    wait_for(lambda: any("lmtp.workers is 2 now: restart for that" in line for line in fresh.made.log_lines()), "the log")


def broken_config(fresh: Serving) -> None:
    fresh.made.config.write_text("routes: [\n")


def no_lmtp(fresh: Serving) -> None:
    text = fresh.made.config.read_text()
    fresh.made.config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("lmtp:")))


def no_folder(fresh: Serving) -> None:
    rewrite(fresh, str(fresh.path), f"{fresh.path.parent}/none/lmtp.sock")


def no_store(fresh: Serving) -> None:
    fresh.made.store.rmdir()


NO_START: list[tuple[str, Callable[[Serving], None], str]] = [
    ("broken configuration", broken_config, "is not YAML"),
    ("no lmtp section", no_lmtp, "there is no lmtp: section"),
    ("no folder for the socket", no_folder, "install -d -o gatepost -g postfix -m 2710"),
    ("no store", no_store, "make it with: install -d"),
    *([("root's store", lambda fresh: os.chown(fresh.made.store, 0, 0), "does not run as root")] if os.geteuid() == 0 else []),
]


@pytest.mark.parametrize(("spoil", "says"), [row[1:3] for row in NO_START], ids=[row[0] for row in NO_START])
def test_it_does_not_start_and_says_why(fresh: Serving, spoil: Callable[[Serving], None], says: str) -> None:
    """75, and no traceback."""
    spoil(fresh)
    fresh.start(wait=False)
    assert fresh.status() == 75
    assert says in fresh.error.read_text()
    assert "Traceback" not in fresh.error.read_text()
    assert not fresh.path.exists()


def test_a_second_one_does_not_take_the_first_one_s_place(fresh: Serving) -> None:
    """Its socket stays its own."""
    fresh.start()
    second = Serving.__new__(Serving)
    second.__dict__ = {**fresh.__dict__, "process": None}
    second.start(wait=False)
    assert second.status() == 75
    assert "somebody listens here already" in fresh.error.read_text()
    with fresh.client() as client:
        assert str(client.command("NOOP")) == "250 2.0.0 Ok"


def test_the_socket_s_mode(fresh: Serving) -> None:
    """Whoever may enter the folder, and is of the group: not everybody."""
    fresh.start()
    assert fresh.path.stat().st_mode & 0o777 == 0o660


# -- systemd


def test_systemd_is_told_how_it_is(fresh: Serving) -> None:
    """READY once workers take clients, WATCHDOG while they live, RELOADING and READY, STOPPING."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = fresh.made.folder / "notify"
        systemd.bind(str(name))
        name.chmod(0o666)
        systemd.settimeout(30)
        fresh.start(environment={"NOTIFY_SOCKET": str(name), "WATCHDOG_USEC": "3000000"})

        def heard(*, but: bytes = b"WATCHDOG=1") -> bytes:
            while (said := systemd.recv(100)) == but:
                continue
            return said

        assert heard() == b"READY=1"
        assert systemd.recv(100) == b"WATCHDOG=1"
        fresh.signal(signal.SIGHUP)
        assert heard().startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert heard() == b"READY=1"
        fresh.signal(signal.SIGTERM)
        assert heard() == b"STOPPING=1"


def test_the_socket_may_be_systemd_s(fresh: Serving) -> None:
    """LISTEN_FDS: it is taken, and left where it is at the end, so that nobody is refused while we restart."""
    path = fresh.made.folder / "given.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        path.chmod(0o666)

        def prepare() -> None:  # as systemd does it: descriptor 3, and our own process id
            os.dup2(listener.fileno(), 3)

        code = "import os; os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))"
        fresh.start(change=code, prepare=prepare, pass_fds=(3,), wait=False)
        fresh.path = path
        with fresh.client() as client:
            assert client.message(PERSON, [SUPPORT], message(), queue_id=QUEUE_ID)[0].startswith("250 ")
        fresh.signal(signal.SIGTERM)
        assert fresh.status() == 0
        assert path.exists()


def test_no_thread_and_no_library_of_the_milter(fresh: Serving) -> None:
    """It forks, so the process that starts workers has one thread; it needs nothing beyond gatepost's own requirements."""
    fresh.start()
    assert len(os.listdir(f"/proc/{fresh.pid}/task")) == 1
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'filter')!r}]; import gatepost_filter.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"aiosmtpd", "asyncio", "Milter", "dns", "cryptography"}
