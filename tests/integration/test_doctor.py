"""The doctor beside a real Postfix: the fragments as they are have no FAIL, and each planted fault is named first.

Also what takes root to plant: files of other users. Needs root and the package postfix.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.environment import USER, Environment
from demo.postfix_instance import PrivatePostfix
from demo.world import World, new_mail
from gatepost.stores.database import DATABASE
from tests.installation import Installation, message
from tests.integration.conftest import PATIENT, PERSON, Service, given, open_folder, own, post, running_milter, wired
from tests.integration.warm_host import LMTP, PIPE, SUPPORT, THIN, Host, warm_host

#: Each check has its line there.
PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


@dataclass(frozen=True)
class Wiring:
    """An installation, the Postfix that runs it, and the command that came with it."""

    made: Installation
    postfix: PrivatePostfix
    environment: Environment

    def report(self, *options: str, status: int | None = None, user: str = "root") -> list[dict[str, str]]:
        """What `gatepost doctor --json` says, worst first; its exit status is checked."""
        account = pwd.getpwnam(user)
        command = [self.environment.command, "doctor", "--json", "--config", str(self.made.config), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/", user=account.pw_uid,
                              group=account.pw_gid, extra_groups=[], env={"PATH": "/usr/bin:/bin", "LANG": "C"})  # fmt: skip
        assert done.stderr == ""
        found: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
        assert status in (None, done.returncode), [check for check in found if check["status"] not in ("ok", "not used")]
        return found

    def file(self, name: str) -> Path:
        """main.cf, master.cf, or a map."""
        folder = self.postfix.config_folder if name.endswith(".cf") else self.postfix.maps_folder
        return folder / name


@pytest.fixture(scope="module")
def wiring(wheel: Environment) -> Iterator[Wiring]:
    """A healthy installation behind a running Postfix; it has had a message."""
    with open_folder("doctor") as folder:
        made = given(folder / "installed")
        service = Service(made=made, python=wheel.python, script=wheel.pipe_script)
        with wired([service]) as (postfix, _):
            letter = post(postfix, "first", "support@in.example.com")
            postfix.wait_delivery(letter.queue_id)
            yield Wiring(made, postfix, wheel)


@contextmanager
def restored(wiring: Wiring) -> Iterator[None]:
    """Postfix's files are afterwards as they were."""
    names = ("main.cf", "master.cf", "recipients.regexp", "aliases.regexp", "status.regexp")
    before = {name: wiring.file(name).read_bytes() for name in names}
    try:
        yield
    finally:
        for name, text in before.items():
            wiring.file(name).write_bytes(text)


def test_the_fragments_as_they_are_have_no_fault(wiring: Wiring) -> None:
    """Nothing to mend, and nothing that could not be looked at. The instance is found without its name."""
    found = wiring.report(status=0)
    assert {check["status"] for check in found} == {"ok", "not used"}, found
    (instance,) = [check for check in found if check["name"] == "postfix"]
    assert str(wiring.postfix.config_folder) in instance["evidence"]
    assert {check["name"].partition(":")[0] for check in found} <= set(re.findall(r"(?m)^\| `([\w-]+)", PAGE.read_text()))
    named = wiring.report("--postfix-config", str(wiring.postfix.config_folder), status=0)
    assert [check for check in named if check["name"] == "postfix"] == [instance]
    account = pwd.getpwnam(USER)
    assert {path.stat().st_uid for path in wiring.made.store.rglob("*")} == {account.pw_uid}


def test_its_own_user_may_ask_too(wiring: Wiring) -> None:
    """As the user gatepost nothing is FAIL; what only root may see is unknown."""
    found = wiring.report("--postfix-config", str(wiring.postfix.config_folder), status=0, user=USER)
    assert {check["name"] for check in found if check["status"] not in ("ok", "not used")} == {"postfix-running"}


def test_a_stranger_is_told_to_be_somebody_else(wiring: Wiring) -> None:
    """Who may not read the secrets gets no report that looks healthy."""
    first = wiring.report(status=75, user="nobody")[0]
    assert (first["name"], first["status"]) == ("secrets-file", "FAIL")
    assert "root or as gatepost" in first["evidence"]


def main_cf(setting: str) -> tuple[str, str, str]:
    """A setting that replaces the fragment's."""
    return ("main.cf", rf"(?m)^{setting.partition('=')[0].strip()} *=.*\n", f"{setting}\n")


#: A change (file, expression, replacement), the check that must be named first, its status, and a word of its evidence.
FAULTS = [
    pytest.param(("master.cf", r"(?s)\ngatepost .*", "\n"), "postfix-service", "FAIL", "no service", id="no service"),
    pytest.param(("master.cf", r"n  n  -  10  pipe", "n  y  -  10  pipe"), "postfix-service", "FAIL", "chrooted",
                 id="a chroot"),
    pytest.param(("master.cf", r"-  n  n  -  10", "-  -  n  -  10"), "postfix-service", "FAIL", "another user",
                 id="unprivileged"),
    pytest.param(("master.cf", r"--config=\S+", "--config=/etc/gatepost/other.yml"), "postfix-config", "FAIL", "other.yml",
                 id="another configuration"),
    pytest.param(("master.cf", r"--config=\S+", ""), "postfix-config", "FAIL", "no --config", id="no configuration"),
    pytest.param(("master.cf", r"user=gatepost", "user=nosuchuser"), "postfix-user", "FAIL", "no such user", id="no such user"),
    pytest.param(("master.cf", r"user=gatepost", "user=nobody"), "postfix-user", "FAIL", "gatepost", id="another user"),
    pytest.param(("master.cf", r"user=gatepost", "user=postfix"), "postfix-user", "FAIL", "runs no command",
                 id="Postfix's user"),
    pytest.param(("master.cf", r"argv=\S+", "argv=/opt/nowhere/bin/python"), "postfix-python", "FAIL", "deferred",
                 id="no Python"),
    pytest.param(("master.cf", r"argv=\S+", "argv=/bin/false"), "postfix-python", "FAIL", "deferred", id="something else"),
    pytest.param(("master.cf", r"/\S+/gatepost_filter", "/opt/nowhere/gatepost_filter"), "postfix-python", "FAIL", "No such",
                 id="no script"),
    pytest.param(("master.cf", r"flags=Bq", "flags=q"), "postfix-flags", "FAIL", "cut off", id="no flag B"),
    pytest.param(("master.cf", r"flags=Bq", "flags=B"), "postfix-flags", "FAIL", "quotes", id="no flag q"),
    pytest.param(("master.cf", r"flags=Bq", "flags=BqDR"), "postfix-flags", "FAIL", "DR", id="flags that add header fields"),
    pytest.param(("master.cf", r"null_sender=", ""), "postfix-flags", "FAIL", "MAILER-DAEMON", id="no null_sender"),
    pytest.param(("master.cf", r"--queue-id=\S+", ""), "postfix-arguments", "FAIL", "--queue-id", id="no queue ID"),
    pytest.param(("master.cf", r"--helo=\S+", "--helo=${client_name}"), "postfix-arguments", "FAIL", "--helo",
                 id="another fact"),
    pytest.param(("master.cf", r" -I ", " "), "postfix-arguments", "FAIL", "-I", id="no -I"),
    pytest.param(("master.cf", r"gatepost_time_limit=150s", "gatepost_time_limit=100s"), "postfix-time-limit", "FAIL", "100 s",
                 id="a time limit below the deadline"),
    pytest.param(("master.cf", r"gatepost_time_limit=150s", "gatepost_time_limit=2m"), "postfix-time-limit", "FAIL", "120 s",
                 id="a time limit that is the deadline"),
    pytest.param(("master.cf", r" *-o pipe_delivery_status_filter=\S+\n", ""), "postfix-belt", "FAIL", "bounces", id="no belt"),
    pytest.param(("status.regexp", r"(?s)\A.*", "/^4/ 4.0.0\n"), "postfix-belt", "FAIL", "as it is",
                 id="a belt that holds nothing"),
    pytest.param(("status.regexp", r"(?s)\A.*", r"/^5\.[0-9.]+ (.*)/ 4.3.0 $1"), "postfix-belt", "warn", "refusals wait",
                 id="a belt that holds everything"),
    pytest.param(("master.cf", r"/status.regexp", "/nowhere.regexp"), "postfix-belt", "FAIL", "nowhere",
                 id="a belt without table"),
    pytest.param(main_cf("gatepost_destination_recipient_limit = 50"), "postfix-recipient-limit", "FAIL", "50",
                 id="50 at once"),
    pytest.param(("main.cf", r"(?m)^gatepost_destination_recipient_limit.*\n", ""), "postfix-recipient-limit", "FAIL", "50",
                 id="the default of recipients at once"),
    pytest.param(main_cf("virtual_mailbox_domains = example.com"), "postfix-domains", "FAIL", "in.example.com", id="no domain"),
    pytest.param(main_cf("mydestination = in.example.com"), "postfix-domains", "FAIL", "mydestination", id="a domain twice"),
    pytest.param(main_cf("virtual_transport = virtual"), "postfix-transport", "FAIL", "virtual", id="another transport"),
    pytest.param(("main.cf", r"\Z", "transport_maps = inline:{in.example.com=smtp:}\n"), "postfix-transport", "FAIL", "smtp",
                 id="a transport map before it"),
    pytest.param(("recipients.regexp", r"(?m)^/.*support.*\n", ""), "postfix-recipients", "FAIL", "support",
                 id="a route missing"),
    pytest.param(("recipients.regexp", r"\Z", "/@in/ OK\n"), "postfix-recipients", "FAIL", "no route", id="any recipient"),
    pytest.param(main_cf("virtual_mailbox_maps ="), "postfix-recipients", "FAIL", "empty", id="no table of recipients"),
    pytest.param(main_cf("smtpd_reject_unlisted_recipient = no"), "postfix-recipients", "FAIL", "unlisted", id="any is taken"),
    pytest.param(("aliases.regexp", r"\Z", "/@in.example.com$/ x@example.org\n"), "postfix-aliases", "FAIL", "x@example.org",
                 id="an alias that takes every key"),
    pytest.param(("aliases.regexp", r"(?s)\A.*", "/^nobody@/ x@example.org\n"), "postfix-people", "FAIL", "postmaster",
                 id="nobody behind postmaster"),
    pytest.param(("aliases.regexp", PERSON, "support@in.example.com"), "postfix-people", "FAIL", "no person",
                 id="a route behind postmaster"),
    pytest.param(main_cf("smtpd_relay_restrictions = permit"), "postfix-relay", "FAIL", "open relay", id="an open relay"),
    pytest.param(main_cf("smtpd_relay_restrictions = permit_mynetworks, defer_unauth_destination"), "postfix-relay", "warn",
                 "454", id="454 for foreign domains"),
    pytest.param(main_cf("smtpd_forbid_bare_newline = no"), "postfix-smuggling", "FAIL", "hide", id="open to smuggling"),
    pytest.param(main_cf("smtpd_forbid_bare_newline_exclusions = $mynetworks"), "postfix-smuggling", "warn", "mynetworks",
                 id="smuggling from mynetworks"),
    pytest.param(main_cf("enable_long_queue_ids = no"), "postfix-queue-ids", "FAIL", "again", id="short queue IDs"),
    pytest.param(main_cf("maximal_queue_lifetime = 3d"), "postfix-lifetimes", "FAIL", "3 d", id="a queue of three days"),
    pytest.param(main_cf("bounce_queue_lifetime = 4"), "postfix-lifetimes", "FAIL", "4 d", id="as long as give_up_after"),
    pytest.param(main_cf("minimal_backoff_time = 3m"), "postfix-backoff", "warn", "180 s", id="a retry within the lease"),
    pytest.param(("main.cf", r"\Z", "soft_bounce = yes\n"), "postfix-brakes", "FAIL", "soft_bounce", id="soft_bounce"),
    pytest.param(("main.cf", r"\Z", "defer_transports = smtp, gatepost\n"), "postfix-brakes", "FAIL", "gatepost",
                 id="held back"),
    pytest.param(main_cf("delay_warning_time = 4h"), "postfix-delay-warning", "warn", "4h", id="delay warnings"),
    pytest.param(main_cf("message_size_limit = 0"), "postfix-size", "warn", "no limit", id="no limit of size"),
    pytest.param(("main.cf", r"\Z", "queue_minfree = 999999999999999\n"), "postfix-disk", "FAIL", "452", id="no room for mail"),
    pytest.param(("main.cf", r"\Z", "mydestination = x.example\n"), "postfix", "warn", "mydestination", id="a setting twice"),
    pytest.param(("main.cf", r"\Z", "smtpd_milters = {unix:gatepost/milter.sock, default_action=tempfail}\n"), "milter", "FAIL",
                 "every client of this Postfix gets 451", id="a milter that gatepost.yml has no more"),
    pytest.param(main_cf("maximal_queue_lifetime = soon"), "postfix-lifetimes", "FAIL", "no time", id="a time that is none"),
    pytest.param(("main.cf", "/recipients.regexp", "/nowhere.regexp"), "postfix-recipients", "FAIL", "nowhere",
                 id="no recipients"),
    pytest.param(("main.cf", "/aliases.regexp", "/nowhere.regexp"), "postfix-aliases", "FAIL", "nowhere", id="no aliases"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "status", "says"), FAULTS)
def test_a_planted_fault_is_named_first(
    wiring: Wiring, change: tuple[str, str, str], name: str, status: str, says: str
) -> None:
    """The first line of the report is the check that the fault belongs to; it says what mends it."""
    file, expression, replacement = change
    with restored(wiring):
        text, changed = re.subn(expression, lambda _: replacement, wiring.file(file).read_text())
        assert changed, change
        wiring.file(file).write_text(text)
        found = wiring.report("--postfix-config", str(wiring.postfix.config_folder), status=1 if status == "FAIL" else 0)
    first = found[0]
    assert (first["name"], first["status"]) == (name, status), found[:3]
    assert says in first["evidence"]
    assert first["mend"]


@pytest.mark.parametrize(("content", "status"), [("mx.example.com\n", "ok"), ("elsewhere.example.org\n", "warn")])
def test_myorigin_may_be_a_file(wiring: Wiring, content: str, status: str) -> None:
    """Debian's way: `myorigin = /etc/mailname`. The name that stands there is the one that a bare postmaster gets."""
    name = wiring.made.folder / "mailname"
    name.write_text(content)
    with restored(wiring):
        file = wiring.file("main.cf")
        file.write_text(re.sub(r"(?m)^myorigin = .*", f"myorigin = {name}", file.read_text()))
        file = wiring.file("aliases.regexp")  # an alias of the bare name would do for both
        assert file.read_text().count("))?$/") == 1
        file.write_text(file.read_text().replace("))?$/", "))$/"))
        found = wiring.report("--postfix-config", str(wiring.postfix.config_folder), status=0)
    (people,) = [check for check in found if check["name"] == "postfix-people"]
    assert people["status"] == status, people


# --- files of other users -------------------------------------------------------------------------------------------------


def of(user: str, *names: str) -> Callable[[Installation], None]:
    """These files, below the installation's folder, belong to somebody else."""

    def plant(made: Installation) -> None:
        for name in names:
            path = made.folder / name
            for each in (path, *path.rglob("*")):
                shutil.chown(each, user, user if user != "nobody" else "nogroup")

    return plant


def left_by_root(made: Installation) -> None:
    """As a command that ran as root would leave it."""
    (made.store / f"{DATABASE}-journal").touch(mode=0o600)


OWNERS = [
    pytest.param(of("root", "store"), "store-folder", "FAIL", "pipe(8) runs nothing as root", id="a store of root's"),
    pytest.param(of("nobody", "store"), "store-folder", "FAIL", "gatepost runs as gatepost", id="a store of somebody else's"),
    pytest.param(of("root", f"store/{DATABASE}"), "store-files", "FAIL", DATABASE, id="a ledger of root's"),
    pytest.param(left_by_root, "store-files", "FAIL", "-journal", id="a journal of root's"),
    pytest.param(of("root", "secrets.yml"), "secrets-file", "FAIL", "cannot read it", id="secrets of root's"),
    pytest.param(of("nobody", "secrets.yml"), "secrets-file", "FAIL", "cannot read it", id="secrets of somebody else's"),
    pytest.param(of("nobody", "gatepost.yml"), "config-file", "warn", "neither root nor gatepost",
                 id="a stranger's configuration"),
    pytest.param(of("nobody", "gatepost.log"), "log", "FAIL", "cannot write", id="a log of somebody else's"),
    pytest.param(of("root", "Maildir"), "sink:app", "FAIL", "may not write", id="a Maildir of root's"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "name", "status", "says"), OWNERS)
def test_a_file_of_another_user_is_named_first(
    wiring: Wiring, plant: Callable[[Installation], None], name: str, status: str, says: str
) -> None:
    """As root the doctor looks with the eyes of the user that the script runs as."""
    try:
        plant(wiring.made)
        first = wiring.report(status=1 if status == "FAIL" else 0)[0]
    finally:
        (wiring.made.store / f"{DATABASE}-journal").unlink(missing_ok=True)
        own(wiring.made)
    assert (first["name"], first["status"]) == (name, status), first
    assert says in first["evidence"]
    assert first["mend"]


def test_a_configuration_that_only_root_can_read(wiring: Wiring) -> None:
    """Root reads it without a word; every message would be deferred."""
    shutil.chown(wiring.made.config, "root", "root")
    wiring.made.config.chmod(0o600)
    try:
        first = wiring.report(status=1)[0]
    finally:
        wiring.made.config.chmod(0o644)
        own(wiring.made)
    assert (first["name"], first["status"]) == ("config-file", "FAIL")


def test_an_instance_without_service_is_found_by_its_domains(wiring: Wiring) -> None:
    """Where no service of the host's runs this configuration, the Postfix that has the routes' domains is looked at."""
    config, domain = wiring.made.config.read_text(), f"x{os.getpid()}.example.com"  # other tests' Postfix may run beside this
    with restored(wiring):
        file = wiring.file("master.cf")
        file.write_text(re.sub(r"(?s)\ngatepost .*", "\n", file.read_text()))
        file = wiring.file("main.cf")
        file.write_text(file.read_text().replace("in.example.com", domain))
        wiring.made.config.write_text(config.replace("in.example.com", domain))
        first = wiring.report(status=1)[0]
    wiring.made.config.write_text(config)
    assert (first["name"], first["status"]) == ("postfix-service", "FAIL")
    assert str(wiring.postfix.config_folder) in first["evidence"]


def test_a_folder_without_postfix_is_named_first(wiring: Wiring) -> None:
    """Where a folder was named there must be a main.cf in it."""
    first = wiring.report("--postfix-config", str(wiring.made.folder), status=1)[0]
    assert (first["name"], first["status"]) == ("postfix", "FAIL")
    assert "main.cf" in first["evidence"]


def test_a_postfix_that_does_not_run_is_named_first(wiring: Wiring) -> None:
    """Nobody takes mail then."""
    wiring.postfix.stop()
    try:
        first = wiring.report("--postfix-config", str(wiring.postfix.config_folder), status=1)[0]
    finally:
        wiring.postfix.start()
    assert (first["name"], first["status"]) == ("postfix-running", "FAIL")


# --- the milter -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answering(milter_wheel: Environment) -> Iterator[Wiring]:
    """A healthy installation whose milter runs, its socket below Postfix's queue folder."""
    with open_folder("doctor-milter") as folder:
        postfix = PrivatePostfix(folder / "postfix", options=PATIENT)
        at = postfix.milter_folder(USER) / "milter.sock"
        made = given(folder / "installed", more=f"milter: {{socket: 'unix:{at}', authserv_id: mx.example.com}}\n")
        service = Service(made=made, python=milter_wheel.python, script=milter_wheel.pipe_script)
        postfix.wire(service.fragments(postfix))
        with running_milter(milter_wheel, made), postfix:
            yield Wiring(made, postfix, milter_wheel)


@contextmanager
def shut(folder: Path) -> Iterator[None]:
    """A socket's folder that nobody but its owner may enter."""
    folder.chmod(0o700)
    try:
        yield
    finally:
        folder.chmod(0o2710)


@contextmanager
def chrooted(wiring: Wiring) -> Iterator[None]:
    """smtpd runs in a chroot, as Debian's does."""
    name = f"127.0.0.1:{wiring.postfix.port}/inet/chroot"
    wiring.postfix.command("postconf", "-F", f"{name}=y")
    wiring.postfix.reload()
    try:
        yield
    finally:
        wiring.postfix.command("postconf", "-F", f"{name}=n")
        wiring.postfix.reload()


def test_a_milter_as_wired_has_no_fault(answering: Wiring) -> None:
    """Nothing to mend; a made-up key is refused by gatepost at the real smtpd, whether or not that is chrooted."""
    for place in (nullcontext(), chrooted(answering)):
        with place:
            found = {check["name"]: check for check in answering.report("--probe", status=0)}
        assert {check["status"] for check in found.values()} == {"ok", "not used"}, found
        assert "550 5.1.1 " in found["milter-probe"]["evidence"]
    assert set(found) - {"sink:app"} <= set(re.findall(r"(?m)^\| `([\w-]+)", PAGE.read_text()))


def test_the_milters_user_may_ask_too(answering: Wiring) -> None:
    """As the user gatepost only what takes root is unknown."""
    found = answering.report("--postfix-config", str(answering.postfix.config_folder), status=0, user=USER)
    unknown = {check["name"] for check in found if check["status"] not in ("ok", "not used")}
    assert unknown == {"postfix-running", "milter-reachable"}


OTHER = "{inet:127.0.0.1:1, default_action=accept}"
OURS = r"(?m)^smtpd_milters = (.*)$"
MILTER_FAULTS = [
    pytest.param(("main.cf", OURS, ""), "milter-wired", "FAIL", "empty", id="not in main.cf"),
    pytest.param(("main.cf", OURS, f"smtpd_milters = {OTHER}"), "milter-wired", "FAIL", "does not name", id="another's alone"),
    pytest.param(("main.cf", "gatepost/milter.sock", "gatepost/other.sock"), "milter-wired", "FAIL", "other.sock",
                 id="another socket"),
    pytest.param(("master.cf", r"(?m)^(127.*smtpd)$", "\\1\n -o smtpd_milters="), "milter-wired", "FAIL", "master.cf",
                 id="taken back for the service"),
    pytest.param(("main.cf", r"\Z", "receive_override_options = no_milters\n"), "milter-bypass", "FAIL", "no_milters",
                 id="no_milters"),
    pytest.param(("main.cf", r"\Z", "smtpd_milter_maps = cidr:/x\n"), "milter-bypass", "warn", "cidr:/x", id="a map of milters"),
    pytest.param(("main.cf", OURS, f"smtpd_milters = \\1, {OTHER}"), "milter-order", "warn", "127.0.0.1:1", id="not the last"),
    pytest.param(("main.cf", "default_action=tempfail", "default_action=accept"), "milter-default-action", "FAIL", "unchecked",
                 id="accepts while it is down"),
    pytest.param(("main.cf", ", default_action=tempfail}", "}\nmilter_default_action = reject"), "milter-default-action", "FAIL",
                 "for good", id="refuses while it is down"),
    pytest.param(("main.cf", "command_timeout=30s", "command_timeout=5s"), "milter-times", "FAIL", "command_timeout", id="5 s"),
    pytest.param(("main.cf", " content_timeout=300s,(.*)", "\\1\nmilter_content_timeout = 1m"), "milter-times", "FAIL",
                 "content_timeout is 60 s", id="a minute for all milters"),
    pytest.param(("main.cf", r"\Z", "milter_protocol = 2\n"), "milter-protocol", "FAIL", "needs 6", id="an old protocol"),
    pytest.param(("main.cf", r"\Z", "non_smtpd_milters = $smtpd_milters\n"), "milter-own-mail", "FAIL", "for ever",
                 id="the host's own mail"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "status", "says"), MILTER_FAULTS)
def test_a_fault_in_the_milters_wiring_is_named_first(
    answering: Wiring, change: tuple[str, str, str], name: str, status: str, says: str
) -> None:
    """The first line of the report is the check that the fault belongs to; it says what mends it."""
    file, expression, replacement = change
    with restored(answering):
        text, changed = re.subn(expression, replacement, answering.file(file).read_text())
        assert changed, change
        answering.file(file).write_text(text)
        named = ("--postfix-config", str(answering.postfix.config_folder))
        first = answering.report(*named, status=1 if status == "FAIL" else 0)[0]
    assert (first["name"], first["status"]) == (name, status), first
    assert says in first["evidence"]
    assert first["mend"]


def test_what_mends_a_missing_milter_keeps_the_others(answering: Wiring) -> None:
    """The command that the report gives puts ours behind what is there; after it the doctor is content."""
    named = ("--postfix-config", str(answering.postfix.config_folder))
    with restored(answering):
        file = answering.file("main.cf")
        file.write_text(re.sub(OURS, f"smtpd_milters = {OTHER}", file.read_text()))
        mend = answering.report(*named, status=1)[0]["mend"]
        subprocess.run(["/bin/sh", "-c", mend], check=True, timeout=60, capture_output=True)
        assert OTHER in file.read_text()
        found = answering.report(*named, status=0)
    assert {check["status"] for check in found} == {"ok", "not used"}, found
    answering.postfix.reload()


def test_a_folder_that_smtpd_may_not_enter_is_named_first(answering: Wiring) -> None:
    """Root connects anywhere; the child that is smtpd's user does not."""
    with shut(answering.postfix.milter_folder(USER)):
        first = answering.report(status=1)[0]
    assert (first["name"], first["status"]) == ("milter-reachable", "FAIL"), first
    assert "Permission denied" in first["evidence"]
    assert "install -d" in first["mend"]


def test_a_socket_outside_of_the_chroot_is_named_first(answering: Wiring) -> None:
    """A milter that listens where a chrooted smtpd sees nothing."""
    made, config = answering.made, answering.made.config.read_text()
    at = answering.postfix.milter_folder(USER)
    try:
        made.config.write_text(config.replace(str(at), str(made.folder)))
        with restored(answering), chrooted(answering), running_milter(answering.environment, made):
            first = answering.report(status=1)[0]
    finally:
        made.config.write_text(config)
    assert (first["name"], first["status"]) == ("milter-wired", "FAIL"), first
    assert "chrooted" in first["evidence"]


PROBES = [
    # the running Postfix's own change, the reply, why
    ({"smtpd_milter_maps": "inline:{127.0.0.1=DISABLE}"}, "250 2.1.5", "a client that passes no milter"),
    ({"smtpd_milters": "{unix:gatepost/nobody.sock, default_action=tempfail}"}, "451 4.7.1", "no milter there, tempfail"),
    ({"smtpd_milters": "{unix:gatepost/nobody.sock, default_action=accept}"}, "250 2.1.5", "no milter there, accept"),
]


@pytest.mark.parametrize(("options", "reply", "why"), PROBES, ids=[row[2] for row in PROBES])
def test_the_probe_sees_what_a_stranger_gets(answering: Wiring, options: dict[str, str], reply: str, why: str) -> None:
    """Whatever the settings say, the reply of the real smtpd to a made-up key is what counts."""
    with restored(answering):
        answering.postfix.set(**options)
        found = {check["name"]: check for check in answering.report("--probe", status=1)}
    answering.postfix.reload()
    assert found["milter-probe"]["status"] == "FAIL", why
    assert reply in found["milter-probe"]["evidence"]


# --- the ladder -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ladder:
    """A healthy installation on the thin rung, and its warm process."""

    wiring: Wiring
    host: Host

    def on(self, transport: str) -> AbstractContextManager[None]:
        """Another rung, and a configuration that says so."""
        return changed(self, transport)

    def report(self, *, status: int | None = None) -> list[dict[str, str]]:
        """Of this instance."""
        return self.wiring.report("--postfix-config", str(self.host.postfix.config_folder), status=status)

    def check(self, name: str) -> dict[str, str]:
        """One check."""
        return next(check for check in self.report() if check["name"] == name)


@contextmanager
def changed(ladder: Ladder, transport: str) -> Iterator[None]:
    config = ladder.host.made.config
    before = config.read_text()
    rung = {PIPE: "pipe", THIN: "thin", LMTP: "lmtp"}[transport]
    config.write_text(before.replace("wiring: thin", f"wiring: {rung}"))
    with restored(ladder.wiring):
        ladder.host.postfix.set(virtual_transport=transport)
        yield
    config.write_text(before)
    ladder.host.postfix.set(virtual_transport=THIN)


@pytest.fixture(scope="module")
def ladder(wheel: Environment) -> Iterator[Ladder]:
    """Wired as `gatepost postfix` prints it; it has had a message."""
    with warm_host(wheel, lmtp=", wiring: thin") as host:
        host.delivered(host.send(SUPPORT, message()))
        yield Ladder(Wiring(host.made, host.postfix, wheel), host)


RUNGS = [
    (PIPE, "rung pipe: virtual_transport = gatepost:", "not used", "asks nobody there"),
    (THIN, "rung thin: virtual_transport = gatepost-thin:", "ok", "the warm process answers gatepost"),
    (LMTP, "rung lmtp: virtual_transport = gatepost-lmtp:unix:gatepost/lmtp.sock", "ok", "the warm process answers postfix"),
]


@pytest.mark.parametrize(("transport", "told", "status", "answers"), RUNGS, ids=["pipe", "thin", "lmtp"])
def test_each_rung_is_told_and_has_no_fault(ladder: Ladder, transport: str, told: str, status: str, answers: str) -> None:
    """Climbing and coming down by the one setting: nothing to mend on any rung."""
    with ladder.on(transport):
        found = ladder.report(status=0)
    assert {check["status"] for check in found} == {"ok", "not used"}, found
    by_name = {check["name"]: check for check in found}
    assert by_name["postfix-rung"]["evidence"].startswith(told)
    assert (by_name["lmtp-socket"]["status"], answers in by_name["lmtp-socket"]["evidence"]) == (status, True)
    assert {name.partition(":")[0] for name in by_name} <= set(re.findall(r"(?m)^\| `([\w-]+)", PAGE.read_text()))


LADDER_FAULTS = [
    pytest.param(THIN, ("master.cf", r"--socket=\S+", "--socket=/nowhere/lmtp.sock"), "postfix-arguments", "FAIL", "/nowhere",
                 id="another socket"),
    pytest.param(THIN, ("master.cf", r"--fallback=local", ""), "postfix-arguments", "FAIL", "--fallback", id="no fallback"),
    pytest.param(THIN, ("master.cf", r"--deadline=12", "--deadline=1200"), "postfix-arguments", "FAIL", "1200", id="a long deadline"),
    pytest.param(THIN, ("master.cf", r"(?s)(gatepost-thin .*?)--queue-id=\S+", r"\1"), "postfix-arguments", "FAIL", "--queue-id",
                 id="no queue ID"),
    pytest.param(THIN, ("master.cf", r" -I -S ", " -S "), "postfix-arguments", "FAIL", "-I", id="no -I"),
    pytest.param(THIN, ("master.cf", r" -I -S ", " -I "), "postfix-arguments", "warn", "slower", id="no -S"),
    pytest.param(THIN, ("master.cf", r"(?s)(gatepost-thin .*?)flags=Bq", r"\1flags=q"), "postfix-flags", "FAIL", "cut off",
                 id="no flag B"),
    pytest.param(THIN, ("master.cf", r"gatepost-thin_time_limit=42s", "gatepost-thin_time_limit=9s"), "postfix-time-limit", "FAIL",
                 "9 s", id="a time limit below the deadline"),
    pytest.param(THIN, ("master.cf", r"(?s)(gatepost-thin .*?)--config=\S+", r"\1--config=/etc/other.yml"), "postfix-config", "FAIL",
                 "other.yml", id="another configuration"),
    pytest.param(THIN, main_cf("gatepost-thin_destination_recipient_limit = 50"), "postfix-recipient-limit", "FAIL", "50",
                 id="50 at once"),
    pytest.param(THIN, main_cf("virtual_transport = gatepost:"), "postfix-rung", "warn", "lmtp.wiring is thin", id="a rung below"),
    pytest.param(PIPE, main_cf("virtual_transport = gatepost-lmtp:unix:gatepost/lmtp.sock"), "postfix-rung", "warn",
                 "lmtp.wiring is pipe", id="a rung above"),
    pytest.param(THIN, ("main.cf", r"\Z", "defer_transports = gatepost-thin\n"), "postfix-brakes", "FAIL", "gatepost-thin",
                 id="held back"),
    pytest.param(LMTP, main_cf("virtual_transport = gatepost-lmtp:unix:gatepost/other.sock"), "postfix-transport", "FAIL",
                 "other.sock", id="LMTP to another socket"),
    pytest.param(LMTP, main_cf("gatepost-lmtp_destination_recipient_limit = 50"), "postfix-recipient-limit", "warn", "50",
                 id="50 at once by LMTP"),
    pytest.param(LMTP, ("master.cf", r" *-o lmtp_send_xforward_command=yes\n", ""), "postfix-lmtp", "FAIL", "no queue ID",
                 id="no XFORWARD"),
    pytest.param(LMTP, ("master.cf", r"lmtp_line_length_limit=0", "lmtp_line_length_limit=998"), "postfix-lmtp", "FAIL", "998",
                 id="lines broken"),
    pytest.param(LMTP, ("master.cf", r"lmtp_data_done_timeout=42s", "lmtp_data_done_timeout=12s"), "postfix-lmtp", "warn", "12 s",
                 id="impatient"),
]  # fmt: skip


@pytest.mark.parametrize(("rung", "change", "name", "status", "says"), LADDER_FAULTS)
def test_a_fault_on_the_ladder_is_named_first(
    ladder: Ladder, rung: str, change: tuple[str, str, str], name: str, status: str, says: str
) -> None:
    """The first line of the report is the check that the fault belongs to; it says what mends it."""
    file, expression, replacement = change
    with ladder.on(rung):
        text, count = re.subn(expression, replacement, ladder.wiring.file(file).read_text())
        assert count, change
        ladder.wiring.file(file).write_text(text)
        first = ladder.report(status=1 if status == "FAIL" else 0)[0]
    assert (first["name"], first["status"]) == (name, status), first
    assert says in first["evidence"]
    assert first["mend"]


ABSENT = [
    (THIN, "", "warn", "as slowly as without it", "the script does the job"),
    (THIN, "--fallback=defer", "FAIL", "waits in the queue", "the script defers"),
    (LMTP, "", "FAIL", "waits in the queue", "Postfix defers"),
]


@pytest.mark.parametrize(("rung", "option", "status", "says"), [row[:4] for row in ABSENT], ids=[row[4] for row in ABSENT])
def test_a_warm_process_that_is_not_there(ladder: Ladder, rung: str, option: str, status: str, says: str) -> None:
    """As bad as what becomes of mail meanwhile."""
    ladder.host.end()
    try:
        with ladder.on(rung):
            if option:
                file = ladder.wiring.file("master.cf")
                file.write_text(file.read_text().replace("--fallback=local", option))
            check = ladder.check("lmtp-socket")
    finally:
        ladder.host.start()
    assert (check["status"], says in check["evidence"]) == (status, True), check
    assert "gatepost-serve" in check["mend"]


def test_a_socket_that_postfix_may_not_reach(ladder: Ladder) -> None:
    """Root connects anywhere; the child that is Postfix's user does not."""
    with shut(ladder.host.socket.parent), ladder.on(LMTP):
        first = ladder.report(status=1)[0]
    assert (first["name"], first["status"]) == ("lmtp-socket", "FAIL"), first
    assert "postfix may not connect" in first["evidence"]
    assert "install -d" in first["mend"]


def test_a_peer_that_is_not_named(ladder: Ladder) -> None:
    """The warm process turns Postfix away."""
    config = ladder.host.made.config
    before = config.read_text()
    config.write_text(before.replace("wiring: thin", "wiring: thin, peers: []"))
    ladder.host.end()
    ladder.host.start()
    try:
        with ladder.on(LMTP):
            first = ladder.report(status=1)[0]
    finally:
        config.write_text(before)
        ladder.host.end()
        ladder.host.start()
    assert (first["name"], first["status"], "postfix may not deliver" in first["evidence"]) == ("lmtp-socket", "FAIL", True), (
        first
    )


def test_a_thin_script_whose_configuration_has_no_warm_process(ladder: Ladder) -> None:
    """Somebody took `lmtp:` out, and left Postfix where it was."""
    config = ladder.host.made.config
    before = config.read_text()
    config.write_text(re.sub(r"(?m)^lmtp:.*\n", "", before))
    try:
        found = {check["name"]: check for check in ladder.report(status=1)}
    finally:
        config.write_text(before)
    assert (found["postfix-arguments"]["status"], "--socket" in found["postfix-arguments"]["evidence"]) == ("FAIL", True)
    assert (found["postfix-rung"]["status"], "no `lmtp:`" in found["postfix-rung"]["evidence"]) == ("warn", True)


# --- the demo -------------------------------------------------------------------------------------------------------------


def test_the_demo_is_healthy() -> None:
    """`make demo`'s installation, with its app and a message through it, then with its milter: nothing to mend, no probe kept."""
    with open_folder("doctor-demo") as folder:
        (folder / "demo").mkdir(mode=0o755)
        world = World(folder / "demo", lambda _: None)
        try:
            world.build(lambda _: None)
            mail = new_mail(world.address("order-7"))
            world.postfix.wait_delivery(world.send(mail).queue_id)
            found = [json.loads(line) for line in world.gatepost("doctor", "--probe", "--json").splitlines()]
            assert {check["status"] for check in found} == {"ok", "not used"}, found
            assert len(world.received(mail, mail.recipients[0])) == 1
            assert len(world.app_log.read_text().splitlines()) == 1
            world.enter("milter")
            found = [json.loads(line) for line in world.gatepost("doctor", "--probe", "--json").splitlines()]
            assert {check["status"] for check in found} == {"ok", "not used"}, found
            assert {check["name"]: check["status"] for check in found}["milter-probe"] == "ok"
        finally:
            world.close()
