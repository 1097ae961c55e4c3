"""What the tests against a real Postfix share: environments, installations, a wired Postfix, and who has which message.

Promises: whatever is made lies in folders below /var/tmp that every user can enter, and is gone at the end; so is every
process, ended by its id. Waiting is polling, and bounded.
Never: touches another Postfix, or mail that it did not send.
"""

from __future__ import annotations

import ctypes
import email
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from demo.environment import Environment, ensure_user, make_environment
from demo.postfix_instance import Delivery, MailRecorder, PostfixError, PrivatePostfix, wait_for
from gatepost import wiring
from tests.faulty_app import FaultyApp
from tests.installation import DOMAIN, Installation, give_to, install, message

__all__ = [
    "TIMING",
    "Account",
    "Letter",
    "Parked",
    "Post",
    "Service",
    "account",
    "ended",
    "flush_if_idle",
    "given",
    "in_maildir",
    "listens",
    "mount_tmpfs",
    "open_folder",
    "own",
    "parked_in",
    "post",
    "queue_id",
    "run_script",
    "running_milter",
    "start_script",
    "wait_for_empty_queue",
    "wired",
    "with_routes",
]

#: Seconds: enough for a run on a busy machine; what a run that ended in mid-way left behind is soon over.
TIMING: Final = "timing: {deadline: 12s, lease: 13s, give_up_after: 4d}\n"
#: Behind postmaster and abuse; no test writes there.
PERSON: Final = "person@example.org"
#: Nothing is tried again unless a test says so (`flush`): one `status=` line for each attempt that is meant.
PATIENT: Final = {"minimal_backoff_time": "3600s", "maximal_backoff_time": "3600s", "queue_run_delay": "3600s"}
_MNT_DETACH: Final = 2


# --- folders, users, environments -----------------------------------------------------------------------------------------


@contextmanager
def open_folder(name: str) -> Iterator[Path]:
    """A folder of its own that every user can enter; deleted at the end, with what is mounted in it unmounted first."""
    path = Path(tempfile.mkdtemp(prefix=f"gatepost-{name}.", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for mounted in mounts_below(path):
            unmount(mounted)
        wait_for(lambda: gone(path), timeout=20, what=f"the end of {path}")


def gone(folder: Path) -> bool:
    """Deletes a folder; whether it is gone: a process that is just ending may have written there meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted below a folder, the innermost first."""
    places = (Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines())
    return sorted((place for place in places if folder in place.parents), reverse=True)


def mount_tmpfs(folder: Path, size: str) -> None:
    """A small disk of its own, which belongs to the user gatepost."""
    account = ensure_user()
    folder.mkdir(exist_ok=True)
    options = f"size={size},mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "gatepost-test", str(folder)], check=True, timeout=30)


def unmount(folder: Path) -> None:
    """Also where a process is still at work there: it is detached, and goes with the last one."""
    if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(folder), _MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"umount {folder}")


@pytest.fixture(scope="session")
def wheel() -> Iterator[Environment]:
    """gatepost as a person installs it: from the wheel that was built just now."""
    with open_folder("wheel") as folder:
        yield make_environment(folder, source="wheel")


@pytest.fixture(scope="session")
def milter_wheel() -> Iterator[Environment]:
    """The same, with the extra [milter]."""
    with open_folder("milter-wheel") as folder:
        yield make_environment(folder, source="wheel", milter=True)


@pytest.fixture(scope="session")
def tree() -> Iterator[Environment]:
    """gatepost as the checkout has it."""
    with open_folder("tree") as folder:
        yield make_environment(folder, source="tree")


@pytest.fixture(scope="session")
def milter_tree() -> Iterator[Environment]:
    """gatepost as the checkout has it, with the extra [milter]."""
    with open_folder("milter-tree") as folder:
        yield make_environment(folder, source="tree", milter=True)


def given(folder: Path, *, app: str = "", more: str = "", sinks: str = "") -> Installation:
    """A configuration with its store in `folder` (made), all of it the user gatepost's.

    `app`, `more`: see tests.installation. `sinks`: further lines below `sinks:`.
    """
    folder.mkdir(mode=0o755, exist_ok=True)
    made = install(folder, app=app, more=more)
    with made.config.open("a") as file:
        file.write(sinks)
    own(made)
    return made


def own(made: Installation) -> None:
    """Everything in it is the user gatepost's."""
    account = ensure_user()
    give_to(account.pw_uid, account.pw_gid, made)


def with_routes(folder: Path, sinks: Mapping[str, str], after_queue: str = "bounce-verified",
                timing: str = TIMING) -> Installation:  # fmt: skip
    """One configuration, with a route for each sink: `NAME+%{key}@in.example.com`. The sink `app` has its routes anyway."""
    app = sinks.get("app", "")
    sinks = {name: sink for name, sink in sinks.items() if name != "app"}
    routes = "".join(f"  - name: {name}\n"
                     f'    address: "{name}+%{{key}}@{DOMAIN}"\n'
                     f"    keys: {{format: signed, secret: reply-keys}}\n"
                     f"    deliver: [{name}]\n" for name in sinks)  # fmt: skip
    lines = "".join(f"  {name}: {sink}\n" for name, sink in sinks.items())
    return given(folder, app=app, more=f"{routes}{timing}after_queue: {after_queue}\n", sinks=lines)


# --- Postfix --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service of master.cf: the rendered fragment for one installation, run by this interpreter and script.

    The one called `gatepost` is the fragment as it is; any other is the same under its own name. `change`: (pattern,
    replacement) in the rendered text, which must be there.
    """

    made: Installation
    python: str
    script: str
    name: str = "gatepost"
    change: tuple[str, str] | None = None

    def fragments(self, postfix: PrivatePostfix) -> dict[str, str]:
        """All the files that `gatepost postfix` would print."""
        made = wiring.render(self.made.settings, python=self.python, pipe_script=self.script, config=str(self.made.config),
                             person=PERSON, host=postfix.host, folder=str(postfix.maps_folder),
                             queue_directory=str(postfix.queue_folder))  # fmt: skip
        master = re.sub(r"(?m)^gatepost(?= )|\bgatepost(?=_time_limit=)", self.name, made["master.cf"])
        if self.change:
            master, changed = re.subn(*self.change, master)
            assert changed, self.change
        return {**made, "master.cf": master}


@contextmanager
def wired(services: Sequence[Service], *, transports: Mapping[str, str] | None = None,
          options: Mapping[str, str] | None = None) -> Iterator[tuple[PrivatePostfix, MailRecorder]]:  # fmt: skip
    """A running Postfix with the first service's fragments in it, and a recorder of whatever leaves it.

    `transports`: recipient address -> the name of the service that has its mail; any other goes to the first.
    """
    outbox = MailRecorder()
    with open_folder("postfix") as folder:
        postfix = PrivatePostfix(folder / "instance", outbox_port=outbox.port, options={**PATIENT, **(options or {})})
        fragments = services[0].fragments(postfix)
        fragments["master.cf"] = "\n".join(service.fragments(postfix)["master.cf"] for service in services)
        if transports:
            fragments["transport"] = "".join(f"{address}  {name}:\n" for address, name in transports.items())
            fragments["main.cf"] += f"\ntransport_maps = texthash:{postfix.maps_folder}/transport\n"
        postfix.wire(fragments)
        try:
            with postfix:
                yield postfix, outbox
        finally:
            outbox.close()


@contextmanager
def running_milter(environment: Environment, made: Installation) -> Iterator[subprocess.Popen[bytes]]:
    """`gatepost milter` as the user gatepost, listening where the configuration says (`unix:`); killed at the end."""
    milter, who = made.settings.milter, ensure_user()
    assert milter is not None
    with (made.folder / "milter.out").open("ab") as out:
        process = subprocess.Popen(
            [environment.command, "milter", "--config", str(made.config)], user=who.pw_uid, group=who.pw_gid, extra_groups=[],
            cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C"}, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or listens(Path(milter.socket.removeprefix("unix:"))), what="the milter")
        assert process.poll() is None, (made.folder / "milter.out").read_text()
        yield process
    finally:
        process.kill()
        process.wait(30)


def listens(place: Path) -> bool:
    """Whether somebody takes a connection at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there, suppress(OSError):
        there.connect(str(place))
        return True
    return False


def flush_if_idle(postfix: PrivatePostfix) -> bool:
    """Whether the queue is empty; where something is in it and nothing on its way, everything is tried again.

    Not earlier: a message is still active for a moment after its `status=` line, and a flush would pass it by.
    """
    queue = postfix.queue()
    if queue and not any(entry["queue_name"] == "active" for entry in queue):
        postfix.flush()
    return not queue


def wait_for_empty_queue(postfix: PrivatePostfix, *, timeout: float) -> None:
    """Tries everything again until nothing is queued, notices included; PostfixError, and what is left, after `timeout` s."""
    try:
        wait_for(lambda: flush_if_idle(postfix), timeout=timeout, what="an empty queue")
    except PostfixError as error:
        raise PostfixError(f"{error}\n{postfix.queue()}\n{postfix.log_tail(40)}") from None


# --- who has which message ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A message that Postfix took. `message_id` is in the message, with its angle brackets, and in no other."""

    name: str
    sender: str
    recipient: str
    queue_id: str
    message_id: str
    data: bytes = field(repr=False)


def post(postfix: PrivatePostfix, name: str, recipient: str, *, sender: str = "person@example.org", headers: str = "",
         size: int = 0, data: bytes = b"") -> Letter:  # fmt: skip
    """Sends one message through SMTP. `data`: in place of a person's message; it needs no Message-ID."""
    message_id = f"<{uuid.uuid4().hex}@example.org>"
    whole = data or message(to=recipient, subject=name, headers=headers, size=size)
    whole = re.sub(rb"(?m)^Message-ID: .*\n", b"", whole)
    whole = f"Date: Sat, 21 Nov 2026 12:00:00 +0000\nMessage-ID: {message_id}\n".encode() + whole
    sent = postfix.send(sender, recipient, whole)
    assert sent.queue_id, f"{name}: {sent}"
    return Letter(name=name, sender=sender, recipient=recipient, queue_id=sent.queue_id, message_id=message_id, data=whole)


def in_apps(apps: Iterable[FaultyApp]) -> Counter[str]:
    """Message-ID -> how many deliveries the apps took."""
    return Counter(taken["message_id"] for app in apps for taken in app.taken)


def in_maildir(folder: Path) -> Counter[str]:
    """Message-ID -> how many files there are in a Maildir's new/."""
    files = sorted((folder / "new").iterdir()) if (folder / "new").is_dir() else []
    return Counter(str(email.message_from_bytes(file.read_bytes())["Message-ID"]) for file in files)


@dataclass(frozen=True)
class Parked:
    """One parked message, as its files say."""

    queue_id: str
    rule: str
    kind: str
    headers_only: bool
    raw: bytes = field(repr=False)


def parked_in(made: Installation) -> list[Parked]:
    """What is parked, read from the files: root must not open the database."""
    found = []
    for file in sorted((made.store / "parked").glob("*.json")):
        meta = json.loads(file.read_text())
        raw = file.with_suffix(".eml").read_bytes()
        found.append(Parked(meta["queue_id"], meta["rule"], meta["kind"], meta["headers_only"], raw))
    return found


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where everything is: by message, the places that have it. A message that nobody has is lost.

    `bounced`: the queue IDs that Postfix gave up, at once or at the end of their time. `left`: the recipients of whatever has
    left this host.
    """

    places: Mapping[str, tuple[str, ...]]
    bounced: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def lost(self) -> list[str]:
        """The names of messages that are nowhere."""
        return [name for name, places in self.places.items() if not places]

    @property
    def doubled(self) -> dict[str, tuple[str, ...]]:
        """The messages that are in more than one place, or twice in one."""
        return {name: places for name, places in self.places.items() if len(places) > 1}


def account(letters: Iterable[Letter], *, postfix: PrivatePostfix, outbox: MailRecorder, apps: Iterable[FaultyApp],
            made: Iterable[Installation]) -> Account:  # fmt: skip
    """Looks everywhere: queue, app, Maildir, parked mail, and Postfix's log for what was discarded."""
    made = list(made)
    queued = Counter(entry["queue_id"] for entry in postfix.queue())
    taken = in_apps(apps) + sum((in_maildir(each.folder / "Maildir") for each in made), Counter[str]())
    parked = Counter(each.queue_id for one in made for each in parked_in(one))
    deliveries = postfix.deliveries()
    discarded = Counter(each.queue_id for each in deliveries if each.status == "sent" and "(discarded " in each.text)
    places = {
        letter.name: (
            *["queue"] * queued[letter.queue_id],
            *["app"] * taken[letter.message_id],
            *["parked"] * parked[letter.queue_id],
            *["discarded"] * discarded[letter.queue_id],
        )
        for letter in letters
    }
    bounced = tuple(each.queue_id for each in deliveries if each.status not in ("sent", "deferred"))
    bounced += tuple(re.findall(r": (\w+): from=<[^\n]*>, status=(?:force-)?expired,", postfix.log()))
    return Account(places=places, bounced=bounced, left=tuple(r for m in outbox.messages for r in m.recipients))


@dataclass
class Post:
    """A running Postfix, what was sent through it, and where it may be."""

    postfix: PrivatePostfix
    outbox: MailRecorder
    app: FaultyApp
    letters: dict[str, Letter]
    made: list[Installation]

    def wait(self, count: int) -> dict[str, Delivery]:
        """The newest status line of each message, once each has `count`, or is done with; tries again what is short of it."""

        def newest() -> dict[str, Delivery]:
            lines: dict[str, list[Delivery]] = {}
            for each in self.postfix.deliveries():
                lines.setdefault(each.queue_id, []).append(each)
            found = {name: lines.get(letter.queue_id, []) for name, letter in self.letters.items()}
            done = all(len(each) >= count or (each and each[-1].status != "deferred") for each in found.values())
            if not done and count > 1:
                flush_if_idle(self.postfix)
            return {name: each[-1] for name, each in found.items()} if done else {}

        return wait_for(newest, timeout=120, what=f"{count} attempts at every message")

    def retry(self) -> dict[str, Delivery]:
        """Tries again what is queued, until nobody holds a lease that a run left behind when it ended in mid-way."""
        count = 1

        def free() -> dict[str, Delivery]:
            nonlocal count
            count += 1
            newest = self.wait(count)
            return {} if any("(rule=in-flight)" in each.text for each in newest.values()) else newest

        return wait_for(free, timeout=120, what="the end of every lease")

    def account(self) -> Account:
        """Where every message is now."""
        return account(self.letters.values(), postfix=self.postfix, outbox=self.outbox, apps=[self.app], made=self.made)


# --- runs of the script without Postfix -----------------------------------------------------------------------------------


def queue_id(number: int) -> str:
    """A long queue ID of a message that Postfix took just now: `enable_long_queue_ids` in postconf(5)."""
    digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"

    def written(value: int, places: int) -> str:
        return "".join(digits[value // 52**place % 52] for place in reversed(range(places)))

    return f"{written(int(time.time()), 6)}{written(number, 4)}z1"


def start_script(python: str, script: str, made: Installation, *, queue_id: str, recipient: str,
                 flags: Sequence[str] = ()) -> subprocess.Popen[bytes]:  # fmt: skip
    """Starts the pipe script as pipe(8) does: as gatepost, in a session of its own, with stdout and stderr as one stream.

    `flags`: the interpreter's, beside -I. Unlike pipe(8)'s, the pipe to it holds a megabyte: a message of less can be written
    at once, whatever the script does.
    """
    who = ensure_user()
    words = [f"--config={made.config}", "--size=1234", "--sender=person@example.org", f"--recipient={recipient}",
             f"--original-recipient={recipient}", f"--queue-id={queue_id}", "--client-address=192.0.2.7",
             "--helo=mail.example.org"]  # fmt: skip
    return subprocess.Popen(
        [python, "-I", *flags, script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd="/", user=who.pw_uid, group=who.pw_gid, extra_groups=[], env={"PATH": "/usr/bin:/bin", "LANG": "C"},
        start_new_session=True, pipesize=1 << 20)  # fmt: skip


def run_script(python: str, script: str, made: Installation, data: bytes, *, queue_id: str, recipient: str,
               flags: Sequence[str] = ()) -> tuple[int, str]:  # fmt: skip
    """One whole run: exit status and the one line. `data`: the message with LF line ends, without the LF of flag B."""
    with start_script(python, script, made, queue_id=queue_id, recipient=recipient, flags=flags) as process:
        output, _ = process.communicate(data + b"\n", timeout=60)
    return process.returncode, output.decode("ascii").rstrip("\n")


@contextmanager
def ended(processes: Callable[[], Iterable[int]]) -> Iterator[None]:
    """Whatever happens, these processes are ended by their ids."""
    try:
        yield
    finally:
        for pid in processes():
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
