"""What the processes that stay have in common: room for messages, the configuration in force, the socket, systemd."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gatepost.daemon import systemd
from gatepost.daemon.current import Current
from gatepost.daemon.endpoint import EndpointError, clear, endpoint, identity, remove
from gatepost.daemon.room import Room
from gatepost.errors import ConfigError
from gatepost.settings import Settings
from tests.installation import Installation, install

ROOT = Path(__file__).resolve().parent.parent
MILTER = "milter: {socket: unix:/run/gatepost/milter.sock, authserv_id: mx.example.com, authenticate: []}"


def test_room_is_given_in_turn_and_only_so_much_of_it() -> None:
    """Never more than there is; who waits too long gets none and takes none."""
    room, most, now, lock = Room(10), 0, 0, threading.Lock()

    def work(size: int) -> None:
        nonlocal most, now
        for _ in range(200):
            with room.taken(size, 30.0) as got:
                assert got
                with lock:
                    now += min(size, 10)
                    most = max(most, now)
                with lock:
                    now -= min(size, 10)

    threads = [threading.Thread(target=work, args=(size,)) for size in (1, 3, 4, 7, 10, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert now == 0
    assert most <= 10
    with room.taken(10, 0.0) as all_of_it, room.taken(1, 0.0) as none:
        assert (all_of_it, none) == (True, False)
    with room.taken(10, 0.0) as again:
        assert again


def test_nobody_overtakes_a_large_message_that_waits() -> None:
    """Else small ones would keep it out until its time is over."""
    room, got = Room(10), list[bool]()

    def wait_for_all_of_it() -> None:
        with room.taken(10, 30.0) as large:
            got.append(large)

    with room.taken(6, 0.0):
        waiter = threading.Thread(target=wait_for_all_of_it)
        waiter.start()
        while not room._waiting:
            waiter.join(0.01)
        with room.taken(1, 0.0) as small:
            assert not small
    waiter.join(30)
    assert got == [True]


# -- the configuration in force


class Opened:
    """What stands on a configuration; it only knows whether it was closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Watched:
    """A configuration on disk, the clock, and what was told."""

    def __init__(self, made: Installation) -> None:
        self.made, self.time = made, 100.0
        self.opened: list[Opened] = []
        self.told: list[str] = []
        self.current = Current(str(made.config), self.open, note=self.told.append, now=lambda: self.time)

    def open(self, settings: Settings) -> Opened:
        self.opened.append(Opened(settings))
        return self.opened[-1]

    def after(self) -> str:
        """The after_queue of the configuration that a transaction gets two seconds later."""
        self.time += 2.0
        lease = self.current.take()
        lease.give_back()
        return str(lease.settings.after_queue)

    def write(self, text: str) -> None:
        """A new file in the old one's place, as an editor does it."""
        new = self.made.config.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self.made.config)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(install(tmp_path, more=MILTER))


def changed(watched: Watched) -> str:
    return watched.made.config.read_text() + "after_queue: park\n"


def test_a_change_on_disk_is_in_force_for_the_next_transaction(watched: Watched) -> None:
    """Without a restart; the old one's engine is closed."""
    assert watched.after() == "bounce-verified"
    watched.write(changed(watched))
    assert (watched.after(), watched.told) == ("park", ["changed"])
    assert [each.closed for each in watched.opened] == [True, False]
    assert watched.after() == "park"
    assert len(watched.opened) == 2, "read once for each change"


def test_the_disk_is_looked_at_once_a_second(watched: Watched) -> None:
    """A thousand messages a second do not make a thousand stats."""
    watched.write(changed(watched))
    lease = watched.current.take()
    assert lease.settings.after_queue == "bounce-verified"
    watched.time += 1.0
    assert watched.current.take().settings.after_queue == "park"
    watched.write(changed(watched).replace("after_queue: park\nafter_queue: park", "after_queue: discard"))
    watched.time += 0.5
    assert watched.current.take().settings.after_queue == "park", "the last look was half a second ago"
    watched.time += 0.5
    assert watched.current.take().settings.after_queue == "discard"


BAD: list[tuple[str, Callable[[Watched], None], str, str]] = [
    ("not YAML", lambda watched: watched.write("routes: [\n"), "gatepost.yml:", "a person is just editing it"),
    ("gone", lambda watched: watched.made.config.unlink(), "gatepost.yml", "an editor that removes first"),
    ("no milter", lambda watched: watched.write(changed(watched).replace(MILTER, "")), "", "then nothing can stand on it"),
    ("secrets gone", lambda watched: (watched.made.folder / "secrets.yml").unlink(), "secrets.yml", "a rotation in two steps"),
    ("secrets readable", lambda watched: share_secrets(watched), "secrets.yml", "refused at the start, so refused here"),
]


def share_secrets(watched: Watched) -> None:
    (watched.made.folder / "secrets.yml").chmod(0o644)


@pytest.mark.parametrize(("spoil", "says"), [row[1:3] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_change_changes_nothing_and_is_told_once(watched: Watched, spoil: Callable[[Watched], None], says: str) -> None:
    """The configuration in force still serves; a second look at the same mistake is silent; the mend is taken."""
    good, secrets = changed(watched), (watched.made.folder / "secrets.yml").read_text()

    def open_engine(settings: Settings) -> Opened:
        if settings.milter is None:
            raise ValueError("the configuration has no milter:")
        return watched.open(settings)

    watched.current._open_engine = open_engine
    spoil(watched)
    assert watched.after() == "bounce-verified"
    told = list(watched.told)
    assert told
    assert all(line.startswith("not changed: ") for line in told)
    assert says in told[0]
    assert watched.after() == "bounce-verified"
    assert watched.told == told
    assert not watched.opened[0].closed
    (watched.made.folder / "secrets.yml").write_text(secrets)
    (watched.made.folder / "secrets.yml").chmod(0o600)
    watched.write(good)
    assert (watched.after(), watched.told[-1]) == ("park", "changed")


def test_a_mended_mode_is_noticed(watched: Watched) -> None:
    """What the log told to do (chmod, chown) is all that is needed."""
    share_secrets(watched)
    assert watched.after() == "bounce-verified"
    assert "chmod 600" in watched.told[0]
    (watched.made.folder / "secrets.yml").chmod(0o600)
    watched.after()
    assert watched.told[1:] == ["changed"]


class Faults:
    """What the kernel says of a file that is opened; how often it was tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.number = 0
        self.tried = 0
        whole = os.open

        def opened(name: str, *arguments: int, **options: int) -> int:
            if str(name) == str(path):
                self.tried += 1
                if self.number:
                    raise OSError(self.number, os.strerror(self.number))
            return whole(name, *arguments, **options)

        monkeypatch.setattr(os, "open", opened)


#: File, what the kernel says, whether it is tried again by itself, why.
UNREADABLE = [
    ("gatepost.yml", errno.EIO, True, "a disk, or a server of files, that comes back"),
    ("gatepost.yml", errno.ENOENT, True, "between two steps of who replaces it"),
    ("gatepost.yml", errno.EMFILE, True, "as many clients as there are descriptors"),
    ("gatepost.yml", errno.EACCES, False, "a person must mend it, and that is noticed"),
    ("secrets.yml", errno.EIO, True, "it is part of the configuration"),
    ("secrets.yml", errno.ESTALE, True, "replaced on another host"),
    ("secrets.yml", errno.EACCES, False, "a person must mend it, and that is noticed"),
]


@pytest.mark.parametrize(
    ("name", "number", "passing"), [row[:3] for row in UNREADABLE],
    ids=[f"{row[0]} {errno.errorcode[row[1]]}: {row[3]}" for row in UNREADABLE],
)  # fmt: skip
def test_what_cannot_be_read_for_a_reason_that_passes_is_tried_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, name: str, number: int, passing: bool
) -> None:
    """By itself, without a transaction or another change, each time later up to a bound; told once, and told when it is taken."""
    watched.write(changed(watched))
    faults = Faults(monkeypatch, watched.made.folder / name)
    faults.number = number
    assert watched.after() == "bounce-verified"
    (told,) = watched.told
    assert told.startswith(f"not changed: {watched.made.folder / name}: cannot be read")
    assert told.endswith("; it is tried again by itself") == passing
    moments, began = [], watched.time
    while watched.time < began + 250:
        before = faults.tried
        watched.current.retry()
        moments += [watched.time - began] * (faults.tried > before)
        watched.time += 0.5
    assert moments == ([1, 3, 7, 15, 31, 63, 123, 183, 243] if passing else [])
    assert watched.told == [told]
    faults.number = 0
    watched.time += 60
    watched.current.retry()
    assert watched.told[1:] == ["changed"] * passing
    assert watched.current.settings.after_queue == ("park" if passing else "bounce-verified")
    tried = faults.tried
    watched.time += 600
    watched.current.retry()
    assert faults.tried == tried, "what was taken, and what is wrong, is not tried again"


def test_a_change_begins_anew(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has mended it need not wait for the pause; a mistake in it is told, and not tried again."""
    watched.write(changed(watched))
    faults = Faults(monkeypatch, watched.made.config)
    faults.number = errno.EIO
    assert watched.after() == "bounce-verified"
    watched.time += 300
    watched.current.retry()
    watched.write("routes: [\n")
    faults.number = 0
    assert watched.after() == "bounce-verified"
    assert "is not YAML" in watched.told[1]
    tried = faults.tried
    watched.time += 300
    watched.current.retry()
    assert faults.tried == tried
    faults.number = errno.EIO
    watched.current.look(again=True)
    assert [line.partition("cannot be read")[1] for line in watched.told[2:]] == ["cannot be read"], "who asks gets an answer"


def test_a_changed_secret_is_noticed(watched: Watched) -> None:
    """Rotation: the secrets file is part of the configuration."""
    path = watched.made.folder / "secrets.yml"
    path.write_text(path.read_text().replace("for tests only", "for tests alone"))
    watched.after()
    assert watched.told == ["changed"]


def test_an_old_configuration_is_closed_after_its_last_transaction(watched: Watched) -> None:
    """Two hold it; giving back twice counts once."""
    first, second = watched.current.take(), watched.current.take()
    watched.write(changed(watched))
    assert watched.after() == "park"
    first.give_back()
    first.give_back()
    assert not watched.opened[0].closed
    second.give_back()
    assert watched.opened[0].closed


def test_a_bad_configuration_does_not_start(tmp_path: Path) -> None:
    """ConfigError, with its problems."""
    made = install(tmp_path, more="milter: {socket: nowhere}")
    with pytest.raises(ConfigError):
        Watched(made)


# -- the socket


def listening(path: Path, backlog: int = 1) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(backlog)
    return server


def test_a_stale_socket_is_removed(tmp_path: Path) -> None:
    """A crash leaves one behind; libmilter would not listen on it."""
    path = tmp_path / "milter.sock"
    listening(path).close()
    assert path.exists()
    with clear(endpoint(f"unix:{path}")):
        assert not path.exists()


def somebody(path: Path) -> None:
    KEPT.append(listening(path))


def somebody_busy(path: Path) -> None:
    server = listening(path, 0)
    KEPT.append(server)
    for _ in range(4):  # its queue is full: a further client would wait
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        KEPT.append(client)
        with suppress(BlockingIOError):
            client.connect(str(path))


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_folder(path: Path) -> None:
    path.mkdir()


KEPT: list[socket.socket] = []
TAKEN: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("in use", somebody, "listens here already", "a second milter would take the first one's place unheard"),
    ("in use and busy", somebody_busy, "listens here already", "a full backlog is no dead socket"),
    ("a file", a_file, "is no socket", "somebody's data"),
    ("a folder", a_folder, "is no socket", "a mistake in the configuration"),
]


@pytest.mark.parametrize(("take", "says"), [row[1:3] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_a_place_that_is_taken_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take: Callable[[Path], None], says: str
) -> None:
    """An error that says what is there."""
    monkeypatch.setattr("gatepost.daemon.endpoint._PATIENCE", 0.1)
    path = tmp_path / "milter.sock"
    take(path)
    try:
        with pytest.raises(EndpointError, match=says), clear(endpoint(f"unix:{path}")):
            pytest.fail("it is not ours")
        assert path.exists()
    finally:
        while KEPT:
            KEPT.pop().close()


def test_a_folder_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    """The command that mends it."""
    at = endpoint(f"unix:{tmp_path}/none/milter.sock")
    with pytest.raises(EndpointError, match="install -d -o gatepost -g postfix -m 2710"), clear(at):
        pytest.fail("there is no such folder")


def test_of_two_that_start_at_once_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else both would find the stale socket, and the second remove the first one's new one."""
    monkeypatch.setattr("gatepost.daemon.endpoint._PATIENCE", 0.1)
    at = endpoint(f"unix:{tmp_path}/milter.sock")
    with clear(at), pytest.raises(EndpointError, match="about to listen"), clear(at):
        pytest.fail("both at once")


def test_only_our_own_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    """A new process may listen at the same place before the old one has ended."""
    path, at = tmp_path / "milter.sock", endpoint(f"unix:{tmp_path}/milter.sock")
    first = listening(path)
    ours = identity(at)
    path.rename(tmp_path / "old")  # so that its inode is not given to the next
    second = listening(path)
    remove(at, ours)
    assert path.exists()
    remove(at, identity(at))
    assert not path.exists()
    first.close()
    second.close()


def test_a_socket_of_the_network_has_no_file() -> None:
    """Nothing to look for, nothing to remove."""
    at = endpoint("inet:8891@127.0.0.1")
    with clear(at):
        assert (at.path, identity(at)) == ("", None)
    remove(at, None)


# -- systemd


def not_a_socket() -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 3)


def a_port() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    os.dup2(server.fileno(), 3)


def does_not_listen() -> None:
    mute = socket.socket(socket.AF_UNIX)
    os.dup2(mute.fileno(), 3)


GIVEN: list[tuple[str, Callable[[], None] | None, str, str, str]] = [
    ("nothing", None, "", "None", "no systemd"),
    ("another's", None, "os.environ.update(LISTEN_PID='1', LISTEN_FDS='1')", "None", "our parent's, which we inherited"),
    ("none", None, "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='0')", "None", "an empty unit"),
    ("two", None, "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')", "gave 2 sockets", "which one is ours?"),
    ("closed", None, "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')", "names no socket", "nothing there"),
    ("a file", not_a_socket, "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')", "names no socket", "no socket"),
    ("a port", a_port, "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')", "is no Unix socket", "anybody could connect"),
    ("mute", does_not_listen, "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')", "is no Unix socket that", "Accept=yes"),
]  # fmt: skip


@pytest.mark.parametrize(("give", "environment", "said"), [row[1:4] for row in GIVEN], ids=[row[0] for row in GIVEN])
def test_what_systemd_may_give(give: Callable[[], None] | None, environment: str, said: str) -> None:
    """One Unix socket that listens, or an error that says what is wrong with it; what was said to another is not for us."""
    code = (
        f"import os, sys; sys.path[:0] = [{str(ROOT)!r}]\nfrom gatepost.daemon import systemd\nfrom gatepost.errors import "
        f"GatepostError\n{environment}\ntry:\n    print(systemd.the_socket(), [n for n in os.environ if n.startswith('LISTEN_')])\n"
        "except GatepostError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], preexec_fn=give, pass_fds=(3,) if give else (), capture_output=True, text=True,
        check=True, timeout=30,
    )  # fmt: skip
    assert said in done.stdout
    assert "[]" in done.stdout or said != "None"


WATCHDOGS = [
    ({}, 0.0, "nobody asks"), ({"WATCHDOG_USEC": "3000000"}, 1.5, "twice as often as needed"), ({"WATCHDOG_USEC": "x"}, 0.0, "nonsense"),
    ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0, "another's"), ({"WATCHDOG_USEC": "0"}, 0.0, "off"),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "seconds"), [row[:2] for row in WATCHDOGS], ids=[row[2] for row in WATCHDOGS])
def test_how_often_systemd_wants_to_hear(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float) -> None:
    """sd_watchdog_enabled(3)."""
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog() == seconds
