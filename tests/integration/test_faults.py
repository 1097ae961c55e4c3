"""Every fault that an app, this host or a person can make, through a real Postfix: none bounces a message, none loses one.

Each row of the tables is one message on its own way: SMTP, Postfix, the pipe script as user gatepost, the app. All are in
flight at once; the tests look at what Postfix wrote and at where each message is. Needs root and the package postfix.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.environment import Environment
from demo.postfix_instance import Delivery, MailRecorder, PrivatePostfix, free_port
from tests.faulty_app import FaultyApp
from tests.installation import DOMAIN, WEBHOOK_SECRET, Installation, webhook
from tests.integration.conftest import (
    TIMING,
    Account,
    Post,
    Service,
    given,
    mount_tmpfs,
    open_folder,
    own,
    post,
    queue_id,
    run_script,
    wired,
    with_routes,
)
from tests.test_sinks_tls import Certificates

#: What Postfix shows of a deferral under each rule.
UNAVAILABLE, MISCONFIGURED, CANNOT_TAKE, CONFIG, STORE, INTERNAL = (
    (dsn, re.escape(f"{text} (rule={rule}") + "[) ]") for dsn, text, rule in (
        ("4.4.1", "The application is not available, try later", "app-unavailable"),
        ("4.3.5", "Mail system configuration error", "app-misconfigured"),
        ("4.3.0", "The application cannot take this message yet", "app-cannot-take"),
        ("4.3.5", "Mail system configuration error", "config-error"),
        ("4.3.0", "Temporary storage failure, try later", "store-unavailable"),
        ("4.3.0", "Temporary failure, try later", "internal-error"),
    ))  # fmt: skip

Wanted = tuple[str, str]


def slug(behaviour: str) -> str:
    """A route's and a sink's name for what the app does: status/503 is status-503."""
    return behaviour.replace("/", "-")


# --- the app's faults -----------------------------------------------------------------------------------------------------

STATUSES: list[tuple[int, Wanted, str]] = [
    (100, UNAVAILABLE, "an interim answer, and then nothing"),
    (101, UNAVAILABLE, "another protocol that nobody asked for"),
    (300, MISCONFIGURED, "several places: none of them is the app"),
    (301, MISCONFIGURED, "moved: the URL is wrong"),
    (302, MISCONFIGURED, "found elsewhere: mostly a login"),
    (303, MISCONFIGURED, "see other: a form's answer"),
    (304, MISCONFIGURED, "not modified: a cache"),
    (305, MISCONFIGURED, "use a proxy"),
    (307, MISCONFIGURED, "temporary redirect: never followed with the message in it"),
    (308, MISCONFIGURED, "permanent redirect: http to https, say"),
    (400, CANNOT_TAKE, "bad request: this message, or a bug of the app"),
    (401, MISCONFIGURED, "the secret is wrong"),
    (402, UNAVAILABLE, "the hosting bill is not paid"),
    (403, MISCONFIGURED, "CSRF protection"),
    (404, MISCONFIGURED, "no such path: or the app is just being deployed"),
    (405, UNAVAILABLE, "the path takes no POST"),
    (406, UNAVAILABLE, "a cautious server"),
    (407, UNAVAILABLE, "a proxy wants a login"),
    (408, UNAVAILABLE, "the server waited too long for us"),
    (409, UNAVAILABLE, "conflict: a lock of the app's"),
    (410, MISCONFIGURED, "gone"),
    (411, UNAVAILABLE, "length required"),
    (412, UNAVAILABLE, "precondition failed"),
    (413, CANNOT_TAKE, "too large for the app"),
    (414, UNAVAILABLE, "URI too long"),
    (415, CANNOT_TAKE, "it takes no JSON"),
    (416, UNAVAILABLE, "range"),
    (417, UNAVAILABLE, "expectation failed"),
    (418, UNAVAILABLE, "a teapot: somebody's humour is no refusal"),
    (421, UNAVAILABLE, "misdirected request"),
    (422, CANNOT_TAKE, "it understood, and cannot"),
    (423, UNAVAILABLE, "locked"),
    (424, UNAVAILABLE, "failed dependency"),
    (425, UNAVAILABLE, "too early"),
    (426, UNAVAILABLE, "upgrade required"),
    (428, UNAVAILABLE, "precondition required"),
    (429, UNAVAILABLE, "too many requests: the queue is where to wait"),
    (431, UNAVAILABLE, "request header fields too large"),
    (451, UNAVAILABLE, "legal reasons: not for a machine to decide"),
    (499, UNAVAILABLE, "a proxy's own"),
    (500, UNAVAILABLE, "a bug of the app"),
    (501, UNAVAILABLE, "not implemented"),
    (502, UNAVAILABLE, "the proxy is up, the app is not"),
    (503, UNAVAILABLE, "maintenance"),
    (504, UNAVAILABLE, "the proxy waited too long"),
    (505, UNAVAILABLE, "HTTP version"),
    (507, UNAVAILABLE, "the app's disk is full"),
    (508, UNAVAILABLE, "loop detected"),
    (511, UNAVAILABLE, "a captive portal"),
    (520, UNAVAILABLE, "a content network's own"),
    (525, UNAVAILABLE, "the same, for TLS behind it"),
    (599, UNAVAILABLE, "the last of the class"),
    (600, UNAVAILABLE, "a class that does not exist"),
    (999, UNAVAILABLE, "what some sites answer to robots"),
]

BEHAVIOURS: list[tuple[str, Wanted, str]] = [
    ("login-page", MISCONFIGURED, "status 200 and a form: nobody has the message"),
    ("login-page-untyped", MISCONFIGURED, "the same without a Content-Type"),
    ("login-page-xhtml", MISCONFIGURED, "the same as XHTML, with 201"),
    ("redirect", MISCONFIGURED, "302 to a place that would have taken it"),
    ("redirect-307", MISCONFIGURED, "307 to a place that would have taken it"),
    ("garbage", UNAVAILABLE, "bytes that are no HTTP"),
    ("smtp", UNAVAILABLE, "another service's port"),
    ("http-09", UNAVAILABLE, "an answer without a head"),
    ("http-2", UNAVAILABLE, "a version that nobody agreed on"),
    ("hang", UNAVAILABLE, "takes the message and says nothing"),
    ("hang-before-read", UNAVAILABLE, "accepts the connection and reads nothing"),
    ("slow-read", UNAVAILABLE, "takes an octet at a time"),
    ("drip-headers", UNAVAILABLE, "a head that never ends, an octet at a time"),
    ("drip-status", UNAVAILABLE, "a status line that never ends"),
    ("drip-body", UNAVAILABLE, "a body that never ends"),
    ("drip-chunks", UNAVAILABLE, "chunks that never end"),
    ("drip-until-close", UNAVAILABLE, "a body without a length that never ends"),
    ("drip-refusal", UNAVAILABLE, "503, and then a body that never ends"),
    ("drip-interim", UNAVAILABLE, "interim answers without end"),
    ("close", UNAVAILABLE, "takes the message and hangs up"),
    ("close-before-read", UNAVAILABLE, "hangs up at once"),
    ("reset", UNAVAILABLE, "takes the message and resets"),
    ("reset-before-read", UNAVAILABLE, "resets at once"),
    ("cut-status", UNAVAILABLE, "cut off in the status line"),
    ("cut-headers", UNAVAILABLE, "cut off in the head of a 200"),
    ("cut-before-body", UNAVAILABLE, "cut off before the body of a 200"),
    ("cut-body", UNAVAILABLE, "cut off in the body of a 200"),
    ("cut-chunk", UNAVAILABLE, "cut off in a chunk"),
    ("cut-chunks", UNAVAILABLE, "cut off between chunks"),
    ("cut-trailer", UNAVAILABLE, "cut off in the trailer"),
    ("huge-headers", UNAVAILABLE, "a field without end"),
    ("many-headers", UNAVAILABLE, "fields without end"),
    ("huge-status", UNAVAILABLE, "a status line without end"),
    ("endless-interim", UNAVAILABLE, "a flood of interim answers"),
    ("endless-body", UNAVAILABLE, "a 200 whose body has no end"),
    ("endless-chunks", UNAVAILABLE, "a 200 whose chunks have no end"),
    ("endless-trailer", UNAVAILABLE, "a 200 whose trailer has no end"),
    ("long-body", UNAVAILABLE, "an octet more than anybody reads"),
    ("two-lengths", UNAVAILABLE, "two lengths: one of them is a lie"),
    ("bad-length", UNAVAILABLE, "a negative length"),
    ("both-framings", UNAVAILABLE, "length and chunks at once"),
    ("other-coding", UNAVAILABLE, "a transfer coding that nobody asked for"),
    ("bad-chunk", UNAVAILABLE, "a chunk size that is none"),
    ("bad-chunk-end", UNAVAILABLE, "a chunk longer than it says"),
    ("bad-field", UNAVAILABLE, "a field without a colon"),
    ("encoded", UNAVAILABLE, "gzip that nobody asked for"),
    ("other-word", UNAVAILABLE, "the app speaks of gatepost, and not a word that is known"),
    ("early-ok", UNAVAILABLE, "says yes before it has the message, and never reads it"),
    ("early-413", CANNOT_TAKE, "says no before it has the message"),
]
LARGE = {"early-ok", "early-413", "hang-before-read", "slow-read"}  # larger than what two sockets' buffers hold
LARGE_SIZE = 12_000_000
#: Seconds. Apps that hang or drip hold a run for as long as that; once they are mended nobody does.
SHORT, LONG = (f"timing: {{deadline: {seconds}s, lease: {seconds + 1}s, give_up_after: 4d}}\n" for seconds in (6, 90))

TAKEN = [
    # what the app does, why
    ("ok", "the control"),
    ("status/201", "created"),
    ("status/202", "accepted"),
    ("status/204", "no content"),
    ("status/206", "odd, but a 2xx"),
    ("status/299", "the last of the class"),
    ("chunked", "chunks"),
    ("until-close", "the connection's end is the body's"),
    ("interim", "100 and 103 before 204"),
    ("empty-html", "an empty body is no login page, whatever its type"),
    ("confirm-as-html", "an answer that names the id is the app's, whatever its type"),
]

#: Sinks that are wrong without the app's doing. Filled in from what listens where: see `elsewhere`.
PLACES: list[tuple[str, Wanted, str]] = [
    ("tls-other-host", MISCONFIGURED, "a certificate for another host"),
    ("tls-unknown-ca", MISCONFIGURED, "a certificate of a CA that nobody named"),
    ("tls-expired", MISCONFIGURED, "a certificate that has expired"),
    ("tls-no-ca-file", MISCONFIGURED, "ca_file names nothing"),
    ("tls-to-plain", MISCONFIGURED, "https to a port that speaks http"),
    ("tls-cut", UNAVAILABLE, "cut off in the handshake"),
    ("tls-hang", UNAVAILABLE, "a handshake that never comes"),
    ("plain-to-tls", UNAVAILABLE, "http to a port that speaks TLS"),
    ("unknown-host", UNAVAILABLE, "a name that nobody has (RFC 6761)"),
    ("refused", UNAVAILABLE, "nobody listens"),
]


@dataclass(frozen=True)
class Apps:
    """The receiving app, and what listens elsewhere."""

    app: FaultyApp
    sinks: dict[str, str]

    @classmethod
    def start(cls, stack: ExitStack, folder: Path) -> Apps:
        """`folder`: for certificates, which the user gatepost must be able to read."""
        folder.mkdir()
        pem = Certificates(str(folder))
        for file in folder.iterdir():
            file.chmod(0o644)

        def listen(**options: Any) -> FaultyApp:
            return stack.enter_context(FaultyApp(secrets=[WEBHOOK_SECRET], **options))

        app, good = listen(), listen(certificate=pem.good)
        wrong, expired = listen(certificate=pem.other_host), listen(certificate=pem.expired)
        sinks = {slug(name): webhook(app.url(name)) for name in (*(row[0] for row in BEHAVIOURS), *(row[0] for row in TAKEN))}
        sinks |= {f"status-{code}": webhook(app.url(f"status/{code}")) for code, *_ in STATUSES}
        sinks |= {
            "tls-other-host": webhook(wrong.url(), ca_file=pem.ca),
            "tls-unknown-ca": webhook(good.url()),
            "tls-expired": webhook(expired.url(), ca_file=pem.ca),
            "tls-no-ca-file": webhook(good.url(), ca_file=str(folder / "nowhere.pem")),
            "tls-to-plain": webhook(listen(tls_fault="plain").url(), ca_file=pem.ca),
            "tls-cut": webhook(listen(tls_fault="cut").url(), ca_file=pem.ca),
            "tls-hang": webhook(listen(tls_fault="hang").url(), ca_file=pem.ca),
            "plain-to-tls": webhook(good.url().replace("https:", "http:")),
            "unknown-host": webhook("https://app.nowhere.invalid/mail"),
            "refused": webhook(f"http://127.0.0.1:{free_port()}/mail"),
        }
        return cls(app, sinks)


# --- our own faults -------------------------------------------------------------------------------------------------------

Mend = Callable[[], object]


@dataclass(frozen=True)
class Room:
    """One installation that is run by a service of its own, with something wrong in it."""

    made: Installation
    venv: Path
    python: Path
    script: Path

    @property
    def secrets(self) -> Path:
        """The secrets file."""
        return self.made.folder / "secrets.yml"

    @property
    def maildir(self) -> Path:
        """Where its Maildir is, if it has one."""
        return self.made.folder / "Maildir"

    @property
    def site(self) -> Path:
        """Where its packages are."""
        return self.script.parent.parent

    def once(self) -> None:
        """One message before anything is wrong: the store is made, the configuration compiled."""
        status, line = run_script(str(self.venv / "bin" / "python"), str(self.script), self.made, b"Subject: first\n\nx\n",
                                  queue_id=queue_id(1), recipient=self.made.address(self.made.key()))  # fmt: skip
        assert status == 0, line


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is broken, how Postfix must log it, and why it is a row of its own.

    `breaks` returns what mends it. `own_environment`: a copy of the installed one, to break. `wrapper`: a shell script that
    stands where the interpreter should be; {python} is the real one. `primed`: a message has passed before. `change`: in
    master.cf. `maildir`: the sink, in place of the app.
    """

    name: str
    breaks: Callable[[Room], Mend]
    wanted: Wanted
    why: str
    own_environment: bool = False
    wrapper: str = ""
    primed: bool = False
    change: tuple[str, str] | None = None
    maildir: bool = False
    size: int = 0


def hide(path: Path) -> Mend:
    """A file or folder is gone."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    return lambda: aside.rename(path)


def change(path: Path, edit: Callable[[bytes], bytes]) -> Mend:
    """A file holds something else. Its owner and mode stay."""
    before = path.read_bytes()
    path.write_bytes(edit(before))
    return lambda: path.write_bytes(before)


def set_mode(path: Path, mode: int) -> Mend:
    """A file or folder has another mode."""
    before = path.stat().st_mode & 0o7777
    path.chmod(mode)
    return lambda: path.chmod(before)


def give_to_root(path: Path, mode: int) -> Mend:
    """A file or folder is root's, with this mode."""
    status = path.stat()

    def back() -> None:
        os.chown(path, status.st_uid, status.st_gid)
        path.chmod(status.st_mode & 0o7777)

    os.chown(path, 0, 0)
    path.chmod(mode)
    return back


def fill(folder: Path) -> Mend:
    """Not a byte more fits on the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return filler.unlink


def on_small_disk(folder: Path, made: Installation, *, size: str) -> None:
    """A folder becomes a disk of its own, with what was in it."""
    inside = [(file.name, file.read_bytes(), file.stat()) for file in folder.iterdir()]
    mount_tmpfs(folder, size)
    for name, data, status in inside:
        (folder / name).write_bytes(data)
        (folder / name).chmod(status.st_mode & 0o7777)
    own(made)


def full_store(room: Room) -> Mend:
    """The disk with the store is full."""
    on_small_disk(room.made.store, room.made, size="1m")
    return fill(room.made.store)


def full_maildir(room: Room) -> Mend:
    """The disk with the Maildir is full: the message does not fit."""
    maildir = room.maildir
    maildir.mkdir()
    on_small_disk(maildir, room.made, size="1m")
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir()
    own(room.made)
    return fill(maildir)


def no_store_rights(room: Room) -> Mend:
    """The store is root's: somebody ran something as root."""
    return give_to_root(room.made.store, 0o755)


def no_maildir_rights(room: Room) -> Mend:
    """The Maildir is root's."""
    maildir = room.maildir
    maildir.mkdir()
    own(room.made)
    return give_to_root(maildir, 0o755)


def no_revoked_rights(room: Room) -> Mend:
    """The revoked file cannot be read: a revoked key must not pass for that."""
    room.made.revoked.write_bytes(b"")
    own(room.made)
    return give_to_root(room.made.revoked, 0o600)


def no_ledger(room: Room) -> Mend:
    """The database and its journals are gone; host-id beside them says that there was one."""
    mends = [hide(file) for file in sorted(room.made.store.glob("gatepost.sqlite*"))]
    return lambda: [mend() for mend in mends]


def damaged_ledger(room: Room) -> Mend:
    """The database holds something else."""
    mend_files = no_ledger(room)
    damaged = room.made.store / "gatepost.sqlite"
    damaged.write_bytes(b"this is not a database\n" * 1000)
    damaged.chmod(0o600)
    own(room.made)

    def mend() -> None:
        for file in room.made.store.glob("gatepost.sqlite*"):
            if file.suffix != ".aside":
                file.unlink()
        mend_files()

    return mend


def no_package(name: str) -> Callable[[Room], Mend]:
    """A package, or a file of one, is gone; with what was compiled from it."""

    def breaks(room: Room) -> Mend:
        path = room.site / name
        mends = [hide(each) for each in (path, *path.parent.glob(f"__pycache__/{path.stem}.*"))]
        return lambda: [mend() for mend in mends]

    return breaks


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Room], Mend]:
    """A file of the package holds something else."""
    return lambda room: change(room.site / name, edit)


def wrapped(room: Room) -> Mend:
    """The wrapper is what is broken; mended, it is the interpreter and no more."""
    return lambda: room.python.write_text(f'#!/bin/sh\nexec {room.venv}/bin/python "$@"\n')


def loud(room: Room) -> Mend:
    """The interpreter itself prints at its start, before the script can stop it; and the app is not there."""
    path = room.site / "loud.pth"
    path.write_text("import sys; sys.stdout.write('DeprecationWarning: something\\n'); sys.stdout.flush()\n")
    mend = change(room.made.config, lambda text: re.sub(rb"http://127\.0\.0\.1:\d+/mail", b"http://127.0.0.1:1/mail", text))

    def both() -> None:
        path.unlink()
        mend()

    return both


BELT = "4.3.0"  # postfix/status.regexp: what Postfix found permanent, and no rule of ours said
OWN = [
    Fault(name="no yaml", breaks=no_package("yaml"), wanted=INTERNAL, own_environment=True,
          why="a library is missing, and there is no compiled copy of the configuration yet"),
    Fault(name="no module", breaks=no_package("gatepost/policy.py"), wanted=INTERNAL, own_environment=True,
          why="a file of the package was deleted"),
    Fault(name="no transport module", breaks=no_package("gatepost_filter/transport.py"), wanted=INTERNAL, own_environment=True,
          why="the script's own other half"),
    Fault(name="no sink module", breaks=no_package("gatepost/sinks/webhook.py"), wanted=INTERNAL, own_environment=True,
          why="a file that is imported only once the message is claimed"),
    Fault(name="no package", breaks=no_package("gatepost"), wanted=INTERNAL, own_environment=True,
          why="an upgrade that stopped half way"),
    Fault(name="syntax error", breaks=edited("gatepost/gateway.py", lambda code: code + b"\nif True\n"), wanted=INTERNAL,
          own_environment=True, why="somebody edited a file in place"),
    Fault(name="zeroed module", breaks=edited("gatepost/policy.py", lambda code: bytes(len(code))), wanted=INTERNAL,
          own_environment=True, why="what some file systems leave after a power cut"),
    Fault(name="bug", breaks=edited("gatepost/policy.py", lambda code: code.replace(b"    case = _Case(", b"    case = _Cas(")),
          wanted=INTERNAL, own_environment=True, why="an exception that nobody foresaw"),
    Fault(name="loud interpreter", breaks=loud, wanted=("4.3.0", r"temporary failure\. Command output: DeprecationWarning"),
          own_environment=True, why="a line before ours hides its code from Postfix: only exit status 75 defers then"),
    Fault(name="no script", breaks=no_package("gatepost_filter/pipe.py"), wanted=(BELT, "can't open file"),
          own_environment=True, why="Python ends with 2: the belt"),
    Fault(name="script with a syntax error", breaks=edited("gatepost_filter/pipe.py", lambda code: b"def\n" + code),
          wanted=(BELT, "SyntaxError"), own_environment=True, why="Python ends with 1 and a traceback: the belt"),
    Fault(name="no python", breaks=lambda room: hide(room.python), wanted=(BELT, "No such file"), own_environment=True,
          why="the interpreter is not there: Postfix's own failure, and the belt"),
    Fault(name="no python library", breaks=lambda room: wrapped(room), wanted=(BELT, r"127|not found"),
          wrapper="exec {python}-that-is-not-there \"$@\"\n", why="a shell's 127: the belt"),
    Fault(name="python killed", breaks=wrapped, wanted=("4.3.0", "signal 9"), wrapper="kill -9 $$\n",
          why="the kernel, out of memory: death by signal"),
    Fault(name="python hangs", breaks=wrapped, wanted=(BELT, "time limit exceeded"), wrapper="exec sleep 600\n",
          change=(r"_time_limit=\d+s", "_time_limit=2s"), why="before our own deadline can hold: Postfix's, and the belt"),
    Fault(name="no memory to start", breaks=wrapped, wanted=("4.3.0", ""), wrapper="ulimit -v 9000\nexec {python} \"$@\"\n",
          why="9 MB: not even an interpreter"),
    Fault(name="no memory for the message", breaks=wrapped, wanted=INTERNAL, size=20_000_000,
          wrapper="ulimit -v 60000\nexec {python} \"$@\"\n", why="60 MB: the interpreter, and not 20 MB of message"),
    Fault(name="no descriptors", breaks=wrapped, wanted=("4.3.0", "rule="), wrapper="ulimit -n 6\nexec {python} \"$@\"\n",
          why="six open files"),
    Fault(name="no file size", breaks=wrapped, wanted=STORE, wrapper="trap '' XFSZ\nulimit -f 8\nexec {python} \"$@\"\n",
          why="no file may pass 4 kB: the ledger cannot be written"),
    Fault(name="no config", breaks=lambda room: hide(room.made.config), wanted=CONFIG, why="the file is gone"),
    Fault(name="broken config", breaks=lambda room: change(room.made.config, lambda text: b"routes: [\n"), wanted=CONFIG,
          why="a person is just editing it"),
    Fault(name="broken config, compiled before", breaks=lambda room: change(room.made.config, lambda text: text + b"xyz: 1\n"),
          wanted=CONFIG, primed=True, why="the compiled copy of yesterday's file does not hide today's mistake"),
    Fault(name="empty config", breaks=lambda room: change(room.made.config, lambda text: b""), wanted=CONFIG,
          why="an editor on a full disk"),
    Fault(name="unreadable config", breaks=lambda room: give_to_root(room.made.config, 0o600), wanted=CONFIG,
          why="root's, mode 0600"),
    Fault(name="config that others may write", breaks=lambda room: set_mode(room.made.config, 0o666), wanted=CONFIG,
          why="refused, and the mail waits"),
    Fault(name="secrets that others may read", breaks=lambda room: set_mode(room.secrets, 0o644),
          wanted=CONFIG, why="refused, and the mail waits"),
    Fault(name="secrets opened later", breaks=lambda room: set_mode(room.secrets, 0o640), wanted=CONFIG,
          primed=True, why="a compiled copy does not excuse it"),
    Fault(name="unreadable secrets", breaks=lambda room: give_to_root(room.secrets, 0o600), wanted=CONFIG,
          why="root's, mode 0600"),
    Fault(name="no secrets", breaks=lambda room: hide(room.secrets), wanted=CONFIG, why="the file is gone"),
    Fault(name="no store", breaks=lambda room: hide(room.made.store), wanted=STORE, why="its disk is not mounted"),
    Fault(name="no store, primed", breaks=lambda room: hide(room.made.store), wanted=STORE, primed=True,
          why="its disk is no longer mounted"),
    Fault(name="store of root", breaks=no_store_rights, wanted=STORE, why="somebody ran something as root"),
    Fault(name="damaged ledger", breaks=damaged_ledger, wanted=STORE, primed=True, why="never silently made anew"),
    Fault(name="no ledger", breaks=no_ledger, wanted=STORE, primed=True, why="host-id says that there was one"),
    Fault(name="full store", breaks=full_store, wanted=STORE, primed=True, why="the disk is full: nothing can be recorded"),
    Fault(name="unreadable revoked file", breaks=no_revoked_rights, wanted=INTERNAL,
          why="a revoked key must not pass because of a wrong mode"),
    Fault(name="maildir of root", breaks=no_maildir_rights, wanted=MISCONFIGURED, maildir=True, why="the sink's folder"),
    Fault(name="full maildir", breaks=full_maildir, wanted=UNAVAILABLE, maildir=True, size=200_000,
          why="the sink's disk is full"),
    Fault(name="wrong word in master.cf", breaks=lambda room: lambda: None, wanted=INTERNAL, change=("--helo=", "--hello="),
          why="a typing error: it cannot be mended here"),
]  # fmt: skip
CANNOT_BE_MENDED = {"wrong word in master.cf"}


def room_for(fault: Fault, folder: Path, wheel: Environment, app: FaultyApp) -> Room:
    """The room of one row, with nothing wrong yet."""
    folder.mkdir()
    made = given(folder / "installed", app="" if fault.maildir else webhook(app.url()), more=LONG if fault.size else TIMING)
    venv = Path(wheel.folder) / "venv"
    script = Path(wheel.pipe_script)
    if fault.own_environment:
        copied = folder / "venv"
        shutil.copytree(venv, copied, symlinks=True)
        venv, script = copied, copied / script.relative_to(venv)
    python = venv / "bin" / "python"
    if fault.wrapper:
        python = folder / "python"
        python.write_text("#!/bin/sh\n" + fault.wrapper.replace("{python}", f"{venv}/bin/python"))
        python.chmod(0o755)
    return Room(made, venv, python, script)


# --- everything at once ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What there is to see once every message of the tables has been tried once, and again once all is mended."""

    first: Mapping[str, Delivery]
    found: Account
    last: Mapping[str, Delivery]
    found_at_last: Account
    log: Sequence[str]
    taken: Mapping[str, Sequence[Mapping[str, str]]]


WANTED = [
    *((f"status {code}", "deferred", wanted, why) for code, wanted, why in STATUSES),
    *((name, "deferred", wanted, why) for name, wanted, why in (*BEHAVIOURS, *PLACES)),
    *((f"taken: {name}", "sent", ("2.0.0", r"accepted route="), why) for name, why in TAKEN),
    *((fault.name, "deferred", fault.wanted, fault.why) for fault in OWN),
    ("from the tree", "sent", ("2.0.0", r"accepted route=replies"), "the control: the checkout, and not the wheel"),
    ("no yaml, compiled before", "sent", ("2.0.0", r"accepted route=replies"), "a message needs no YAML"),
    ("no log", "sent", ("2.0.0", r"accepted route=replies"), "a message does not wait for a log that cannot be written"),
]
MENDED = [row for row in WANTED if row[1] == "deferred" and row[0] not in CANNOT_BE_MENDED]


@pytest.fixture(scope="module")
def seen(wheel: Environment, tree: Environment) -> Iterator[Seen]:
    """Sends every row's message, looks, mends what was broken, tries again, and looks again."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder("faults"))
        apps = Apps.start(stack, folder / "certificates")
        main = with_routes(folder / "main", apps.sinks, timing=SHORT)
        rooms = {fault.name: room_for(fault, folder / f"room-{number}", wheel, apps.app) for number, fault in enumerate(OWN)}
        controls = control_services(folder, wheel, tree, apps.app)
        services = [Service(made=main, python=wheel.python, script=wheel.pipe_script), *controls.values()]
        recipients = {name: service.made.address(service.made.key(f"c{number}"))
                      for number, (name, service) in enumerate(controls.items())}  # fmt: skip
        transports = {recipients[name]: service.name for name, service in controls.items()}
        for number, fault in enumerate(OWN):
            room = rooms[fault.name]
            recipients[fault.name] = room.made.address(room.made.key(f"r{number}"))
            transports[recipients[fault.name]] = f"room-{number}"
            services.append(Service(made=room.made, python=str(room.python), script=str(room.script), name=f"room-{number}",
                                    change=fault.change))  # fmt: skip
        postfix, outbox = stack.enter_context(wired(services, transports=transports))
        yield look(postfix, outbox, apps, main, rooms, recipients, [service.made for service in services])


def control_services(folder: Path, wheel: Environment, tree: Environment, app: FaultyApp) -> dict[str, Service]:
    """What must be delivered though it looks like a fault."""
    fault = Fault(name="", breaks=no_package("yaml"), wanted=INTERNAL, own_environment=True, why="")
    room = room_for(fault, folder / "no-yaml", wheel, app)
    room.once()
    fault.breaks(room)
    of_tree = given(folder / "tree", app=webhook(app.url()), more=TIMING)
    no_log = given(folder / "no-log", app=webhook(app.url()), more=TIMING)
    no_log.log.mkdir()
    return {
        "from the tree": Service(made=of_tree, python=tree.python, script=tree.pipe_script, name="tree"),
        "no yaml, compiled before": Service(made=room.made, python=str(room.python), script=str(room.script), name="no-yaml"),
        "no log": Service(made=no_log, python=wheel.python, script=wheel.pipe_script, name="no-log"),
    }


def look(postfix: PrivatePostfix, outbox: MailRecorder, apps: Apps, main: Installation, rooms: Mapping[str, Room],
         recipients: Mapping[str, str], made: list[Installation]) -> Seen:  # fmt: skip
    """The two rounds."""
    mends: list[Mend] = []
    for fault in OWN:
        if fault.primed:
            rooms[fault.name].once()
        mends.append(fault.breaks(rooms[fault.name]))
    posted = Post(postfix, outbox, apps.app, {}, made)

    def send(name: str, recipient: str, size: int = 0) -> None:
        posted.letters[name] = post(postfix, name, recipient, size=size)

    def to_route(behaviour: str) -> str:
        return f"{slug(behaviour)}+{main.key(slug(behaviour)[:16])}@{DOMAIN}"

    for name, *_ in (*BEHAVIOURS, *PLACES):  # the slow ones first
        send(name, to_route(name), LARGE_SIZE if name in LARGE else 0)
    for code, *_ in STATUSES:
        send(f"status {code}", to_route(f"status/{code}"))
    for name, _ in TAKEN:
        send(f"taken: {name}", to_route(name))
    sizes = {fault.name: fault.size for fault in OWN}
    for name, recipient in recipients.items():
        send(name, recipient, sizes.get(name, 0))
    first = posted.wait(1)
    found = posted.account()

    for mend in mends:
        mend()
    text = main.config.read_text()
    sound = f'webhook: "{apps.app.url()}"'
    text = re.sub(r", ca_file: [^}]*", "", re.sub(r'webhook: "[^"]*"', sound, text))
    main.config.write_text(text.replace(SHORT, LONG))
    last = posted.retry()
    taken: dict[str, list[Mapping[str, str]]] = {}
    for each in apps.app.taken:
        taken.setdefault(each["message_id"], []).append(each)
    of_name = {name: taken.get(letter.message_id, []) for name, letter in posted.letters.items()}
    return Seen(first, found, last, posted.account(), main.log_lines() if main.log.is_file() else [], of_name)


@pytest.mark.parametrize(("name", "status", "wanted", "why"), WANTED, ids=[row[0] for row in WANTED])
def test_what_postfix_says(seen: Seen, name: str, status: str, wanted: Wanted, why: str) -> None:
    """Each fault ends as a deferral with a transient code, worded as docs/design.md's table has it; what was taken is sent."""
    said = seen.first[name]
    assert said.status == status, f"{why}: {said}"
    assert said.dsn in wanted[0].split("|"), f"{why}: {said}"
    assert re.search(wanted[1], said.text), f"{why}: {said}"


def test_nothing_is_bounced_lost_or_doubled(seen: Seen) -> None:
    """Each message is in one place, the queue or the app; no status line says bounced, and nothing has left this host."""
    expected = {name: ("queue",) if status == "deferred" else ("app",) for name, status, *_ in WANTED}
    assert dict(seen.found.places) == expected
    assert seen.found.bounced == ()
    assert seen.found.left == ()


@pytest.mark.parametrize("name", [row[0] for row in MENDED])
def test_what_is_mended_arrives_once(seen: Seen, name: str) -> None:
    """Once the fault is gone the next attempt hands the message over, and the app has it exactly once."""
    assert (seen.last[name].status, seen.last[name].dsn) == ("sent", "2.0.0"), seen.last[name]
    assert seen.found_at_last.places[name] == ("app",)


def test_nothing_is_bounced_lost_or_doubled_at_the_end(seen: Seen) -> None:
    """The accounts close: everything is at the app, but for what could not be mended, which is in the queue."""
    expected = {row[0]: ("queue",) if row[0] in CANNOT_BE_MENDED else ("app",) for row in WANTED}
    assert dict(seen.found_at_last.places) == expected
    assert seen.found_at_last.bounced == ()
    assert seen.found_at_last.left == ()


def test_our_log_names_the_status_and_the_mend(seen: Seen) -> None:
    """For each status the log's line says which rule deferred and what the app answered; a wrong set-up says so loudly."""
    for code, *_ in STATUSES[2:]:
        (line, *_rest) = [each for each in seen.log if f" route=status-{code} " in each]
        assert f'detail="{code} ' in line
    assert all("check the sink's URL" in each for each in seen.log if "route=status-404" in each and "action=defer" in each)


def test_the_tables_are_as_large_as_they_say() -> None:
    """At least thirty status codes, and no row without a reason."""
    assert len({code for code, *_ in STATUSES}) >= 30
    assert all(row[3] for row in WANTED)
    assert len({row[0] for row in WANTED}) == len(WANTED)
