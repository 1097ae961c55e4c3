"""A real Postfix that serves others, and what `gatepost postfix --beside` prints for it, put in place as a person would.

Needs root and the package postfix.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from demo.environment import Environment
from demo.postfix_instance import MailRecorder, PrivatePostfix
from tests.ansible_module import Answer, run_module
from tests.installation import message
from tests.integration.conftest import PATIENT, PERSON, given, open_folder
from tests.integration.test_doctor import Wiring, restored
from tests.test_wiring import parameters

#: What the others have: local users, a domain of mailboxes elsewhere, aliases, and Debian's own restrictions.
THEIRS = {
    **PATIENT,
    "mydestination": "$myhostname, localhost",
    "local_recipient_maps": "inline:{anna=x}",
    "virtual_mailbox_domains": "other.example.com",
    "virtual_mailbox_maps": "inline:{someone@other.example.com=x}",
    "virtual_alias_maps": "inline:{office@other.example.com=someone@other.example.com}",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination",
    "recipient_delimiter": "-",
    "maximal_queue_lifetime": "1d",
    "bounce_queue_lifetime": "1d",
}


@dataclass(frozen=True)
class Beside:
    """The others' Postfix with ours in it, what leaves it, and what their mail looked like before."""

    wiring: Wiring
    outbox: MailRecorder
    before: Mapping[str, bytes]

    def printed(self) -> dict[str, str]:
        """What `gatepost postfix --beside` prints for it now."""
        return printed(self.wiring)

    def delivery(self, recipient: str) -> tuple[str, str, str]:
        """Where one message goes: the final recipient, the relay's name, the status."""
        postfix = self.wiring.postfix
        (found,) = postfix.wait_delivery(postfix.send("a@example.net", recipient, message(to=recipient)).queue_id)
        return (found.recipient, found.relay.partition("[")[0], found.status)


def command(wiring: Wiring) -> list[str]:
    """`gatepost postfix` for this configuration and this Postfix's folders."""
    postfix = wiring.postfix
    return [wiring.environment.command, "postfix", "--config", str(wiring.made.config), "--person", PERSON, "--host", postfix.host,
            "--folder", str(postfix.maps_folder), "--queue-directory", str(postfix.queue_folder)]  # fmt: skip


def asked(wiring: Wiring, *more: str) -> subprocess.CompletedProcess[str]:
    """`gatepost postfix --beside --json`."""
    words = [*command(wiring), "--beside", "--json", "--postfix-config", str(wiring.postfix.config_folder), *more]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=60, cwd="/")


def printed(wiring: Wiring) -> dict[str, str]:
    """By file."""
    done = asked(wiring)
    assert (done.returncode, done.stderr) == (0, "")
    files: dict[str, str] = json.loads(done.stdout)
    return files


def put_in_place(wiring: Wiring, files: Mapping[str, str]) -> None:
    """As docs/wiring.md says: a line takes the place of the one of its name, the services come to the end, the tables into their
    folder.
    """
    main, master = wiring.file("main.cf"), wiring.file("master.cf")
    names = "|".join(map(re.escape, parameters(files["main.cf"])))
    main.write_text(re.sub(rf"(?m)^({names}) *=.*\n", "", main.read_text()) + files["main.cf"])
    master.write_text(master.read_text() + files["master.cf"])
    for name in files.keys() - {"main.cf", "master.cf"}:
        wiring.file(name).write_text(files[name])


def their_mail(postfix: PrivatePostfix, outbox: MailRecorder) -> dict[str, bytes]:
    """A message for each of their addresses, as it leaves, without the field that Postfix adds for each hop."""
    found = {}
    for recipient in ("someone@other.example.com", "office@other.example.com"):
        outbox.clear()
        data = message(to=recipient, headers="Date: Sat, 21 Nov 2026 12:00:00 +0000\n")
        postfix.wait_delivery(postfix.send("a@example.net", recipient, data).queue_id)
        (sent,) = outbox.messages
        found[recipient] = re.sub(rb"(?m)^Received:.*(\r?\n[ \t].*)*\r?\n", b"", sent.data)
    return found


@pytest.fixture(scope="module")
def beside(wheel: Environment) -> Iterator[Beside]:
    """Theirs runs first, alone."""
    outbox = MailRecorder()
    with open_folder("beside") as folder:
        made = given(folder / "installed")
        options = {**THEIRS, "virtual_transport": f"smtp:[127.0.0.1]:{outbox.port}"}
        postfix = PrivatePostfix(folder / "postfix", outbox_port=outbox.port, options=options)
        try:
            with postfix:
                before = their_mail(postfix, outbox)
                wiring = Wiring(made, postfix, wheel)
                put_in_place(wiring, printed(wiring))
                postfix.reload()
                yield Beside(wiring, outbox, before)
        finally:
            outbox.close()


def test_the_doctor_is_content(beside: Beside) -> None:
    """Nothing to mend, and nothing that could not be looked at."""
    assert beside.delivery("support@in.example.com")[1:] == ("gatepost", "sent")
    found = beside.wiring.report("--postfix-config", str(beside.wiring.postfix.config_folder), status=0)
    assert {check["status"] for check in found} == {"ok", "not used"}, found


def test_once_in_place_there_is_nothing_to_add(beside: Beside) -> None:
    """Printed again, main.cf has no line, and the tables are those that lie there."""
    files = beside.printed()
    assert parameters(files.pop("main.cf")) == {}
    assert files.pop("master.cf") in beside.wiring.file("master.cf").read_text()
    assert {name: beside.wiring.file(name).read_text() for name in files} == files


def test_postfix_has_nothing_to_complain_of(beside: Beside) -> None:
    """No setting stands twice, none is unknown, and the check of its files finds nothing."""
    assert beside.wiring.postfix.command("postfix", "check") == ""
    assert "warning:" not in beside.wiring.postfix.command("postconf", "-n")
    assert [line for line in beside.wiring.postfix.complaints() if "valid_hostname" not in line] == []


DELIVERIES = [
    ("support@in.example.com", ("support@in.example.com", "gatepost", "sent"), "ours"),
    ("postmaster@in.example.com", (PERSON, "127.0.0.1", "sent"), "the person behind ours"),
    ("abuse@in.example.com", (PERSON, "127.0.0.1", "sent"), "the person behind ours"),
    ("someone@other.example.com", ("someone@other.example.com", "127.0.0.1", "sent"), "theirs"),
    ("office@other.example.com", ("someone@other.example.com", "127.0.0.1", "sent"), "their alias"),
    ("x@example.org", ("x@example.org", "127.0.0.1", "sent"), "their own people may relay as before"),
]


@pytest.mark.parametrize(("recipient", "way", "why"), DELIVERIES, ids=[row[0] for row in DELIVERIES])
def test_each_goes_its_way(beside: Beside, recipient: str, way: tuple[str, str, str], why: str) -> None:
    """Ours comes to gatepost or to the person, theirs goes where it went."""
    assert beside.delivery(recipient) == way, why


def test_their_mail_is_the_same(beside: Beside) -> None:
    """Byte for byte, but for the trace field."""
    assert their_mail(beside.wiring.postfix, beside.outbox) == beside.before


REFUSED = [
    ({"mydestination": "localhost, in.example.com"}, "in.example.com stands in mydestination", "local already"),
    ({"smtpd_reject_unlisted_recipient": "no"}, "would be taken and bounced", "any recipient is taken"),
    ({"maximal_queue_lifetime": "soon"}, "soon: is no time", "a time that is none"),
    ({}, "nowhere/main.cf", "another folder"),
]


@pytest.mark.parametrize(("change", "says", "why"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_cannot_stand_side_by_side_is_refused(beside: Beside, change: dict[str, str], says: str, why: str) -> None:
    """Exit status 75 and the reason; nothing is printed."""
    folder = beside.wiring.postfix.config_folder
    with restored(beside.wiring):
        main = beside.wiring.file("main.cf")
        main.write_text(main.read_text() + "".join(f"{name} = {value}\n" for name, value in change.items()))
        done = asked(beside.wiring, *(() if change else ("--postfix-config", str(folder / "nowhere"))))
    assert (done.returncode, done.stdout) == (75, ""), why
    assert says in done.stderr


RCPT = [
    ("anna@mx.example.com", 250, "their local user"),
    ("root@mx.example.com", 550, "no user of theirs: no alias of ours takes this host's mail"),
    ("postmaster@other.example.com", 550, "no address of theirs: no alias of ours takes it"),
    ("nobody@other.example.com", 550, "as before"),
    ("nobody@in.example.com", 550, "no route has it"),
]


@pytest.mark.parametrize(("address", "code", "why"), RCPT, ids=[row[0] for row in RCPT])
def test_who_exists(beside: Beside, address: str, code: int, why: str) -> None:
    """Each domain keeps its own recipients."""
    with beside.wiring.postfix.session() as session:
        assert session.command("MAIL FROM:<a@example.net>").code == 250
        assert session.command(f"RCPT TO:<{address}>").code == code, why


# --- role postfix ---------------------------------------------------------------------------------------------------------


def role(wiring: Wiring, *, check: bool = False, **arguments: Any) -> Answer:
    """The role's module, with this configuration, for this Postfix."""
    usual = {"mode": "beside", "config_directory": str(wiring.postfix.config_folder), "command": command(wiring)}
    return run_module("postfix", "postfix_config", {**usual, **arguments}, check=check)


def everything(wiring: Wiring) -> dict[str, bytes]:
    """Every file in Postfix's folder, and whatever else lies beside it."""
    top = wiring.postfix.folder
    names = [path for path in top.iterdir() if path.name not in ("queue", "data", "mail.log")]
    files = [file for path in names for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {str(file.relative_to(top)): file.read_bytes() for file in files}


@pytest.fixture
def alone(wheel: Environment) -> Iterator[Wiring]:
    """The others' Postfix, in which nobody has put anything of ours yet."""
    with open_folder("role") as folder:
        made = given(folder / "installed")
        options = {**THEIRS, "virtual_transport": "smtp:[127.0.0.1]:1"}
        with PrivatePostfix(folder / "postfix", options=options) as postfix:
            yield Wiring(made, postfix, wheel)


def test_the_role_puts_in_what_is_printed_and_takes_it_out(alone: Wiring) -> None:
    """Check mode writes nothing and tells all; after a run the files are those that are printed, and the doctor is content; a second
    run changes nothing; `absent` gives back every byte.
    """
    before, files = everything(alone), printed(alone)
    told = role(alone, check=True)
    assert (told.failed, told.result["changed"], everything(alone)) == ("", True, before)
    done = role(alone)
    assert (done.failed, done.result["changed"], done.result["diff"]) == ("", True, told.result["diff"])
    assert parameters(files["main.cf"]).items() <= parameters(alone.file("main.cf").read_text()).items()
    assert all(alone.file(name).read_text() == files[name] for name in files.keys() - {"main.cf", "master.cf"})
    found = alone.report("--postfix-config", str(alone.postfix.config_folder), status=0)
    assert {check["status"] for check in found} == {"ok", "not used"}, found
    second, after = role(alone), everything(alone)
    assert (second.failed, second.result["changed"], second.result["diff"]) == ("", False, [])
    leaving = role(alone, state="absent", check=True)
    assert (leaving.failed, leaving.result["changed"], everything(alone)) == ("", True, after)
    left = role(alone, state="absent")
    assert (left.failed, left.result["changed"], left.result["as_found"]) == ("", True, True)
    assert everything(alone) == before
    assert role(alone, state="absent").result["changed"] is False


WRONG = [
    ({"mydestination": "in.example.com"}, {}, "in.example.com stands in mydestination", "gatepost's own reason"),
    (
        {},
        {"settings": {"enable_long_queue_ids": False}},
        "enable_long_queue_ids: gatepost's fragment sets this",
        "ours is ours",
    ),
    ({}, {"settings": {"smtpd_banner": "a\nb"}}, "one line", "a setting of two lines"),
    ({}, {"settings": {"virtual_alias_maps": "x"}}, "virtual_alias_maps: gatepost's fragment", "a list that ours is added to"),
    ({}, {"command": ["/nowhere/gatepost", "postfix"]}, "/nowhere/gatepost is not there", "gatepost is not installed"),
]


@pytest.mark.parametrize(("theirs", "arguments", "says", "why"), WRONG, ids=[row[3] for row in WRONG])
def test_the_role_changes_nothing_where_it_cannot(
    alone: Wiring, theirs: dict[str, str], arguments: dict[str, Any], says: str, why: str
) -> None:
    """It fails with the reason, and leaves every file as it was."""
    alone.postfix.set(**theirs)
    before = everything(alone)
    answer = role(alone, **arguments)
    assert says in answer.failed, why
    assert everything(alone) == before


def test_check_mode_does_without_gatepost(alone: Wiring) -> None:
    """On a fresh host nothing is installed yet: that something will change is all that is known."""
    answer = role(alone, check=True, command=["/nowhere/gatepost", "postfix"])
    assert (answer.failed, answer.result["changed"], answer.result["diff"]) == ("", True, [])
    assert "not everything is installed yet" in answer.result["notes"][0]
