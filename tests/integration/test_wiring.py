"""The Postfix fragments in a real Postfix: who is accepted at RCPT, what the service is given, what the belt makes of faults.

A stand-in for the pipe script does what the key in the recipient says. Needs root and the package postfix.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.environment import base_python, ensure_user
from demo.postfix_instance import MailRecorder, PrivatePostfix, Reply, wait_for
from gatepost import wiring
from gatepost.settings import MilterSettings, ParkedLimits, ParserLimits, Route, Screening, Settings, Timing

ROUTES = (
    "reply+%{key}@in.example.com",
    "contact.%s@in.example.com",
    "help.desk@in.example.com",
    "%{key}@all.example.com",
    "a*b/c{d}+%{key}@in.example.com",
)
PERSON = "person@example.org"
MESSAGE = b"From: a@example.net\nTo: b@in.example.com\nSubject: hello\nMessage-ID: <1@example.net>\n\nhello\n"

#: Behaves as the recipient's key says, and first writes down what it was given.
STAND_IN = r"""
import json, os, signal, sys, time
given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
data = sys.stdin.buffer.read()
folder = given["config"]
name = f"{time.time_ns()}-{os.getpid()}"
with open(f"{folder}/{name}.tmp", "w") as f:
    json.dump({"argv": sys.argv[1:], "data": data.decode("latin-1"), "uid": os.getuid(), "environment": dict(os.environ)}, f)
os.rename(f"{folder}/{name}.tmp", f"{folder}/{name}.json")
local = given["recipient"].rpartition("@")[0]
what = local.partition("+")[2]
if what.startswith("exit-"):
    code, _, text = what[5:].partition("-")
    if text:
        sys.stdout.write(text.replace("_", " ") + "\n")
        sys.stdout.flush()
    os._exit(int(code))
if what == "traceback":
    raise RuntimeError("nobody foresaw this")
if what == "warned":
    sys.stderr.write("DeprecationWarning: something\n")
    sys.stderr.flush()
    print("4.3.0 try later", flush=True)
    os._exit(1)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "hangs":
    time.sleep(600)
if what == "child-holds-stdout":
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    os._exit(0)
if what == "syntax":
    eval("1 +")
print("accepted rule=accepted", flush=True)
"""


@dataclass(frozen=True)
class Wired:
    """A private Postfix with the fragments in it, what leaves it, and what the stand-in was given."""

    postfix: PrivatePostfix
    outbox: MailRecorder
    seen: Path

    def runs(self) -> list[dict[str, Any]]:
        """Each run of the stand-in, in order."""
        return [json.loads(file.read_text()) for file in sorted(self.seen.glob("*.json"))]

    def run_of(self, queue_id: str) -> dict[str, Any]:
        """The one run for this queue ID."""
        (run,) = [run for run in self.runs() if f"--queue-id={queue_id}" in run["argv"]]
        return run


def wired(
    *, options: dict[str, str] | None = None, change: tuple[str, str, str] | None = None, default_action: str = ""
) -> Iterator[Wired]:
    """A running Postfix; `change`: (file, text, instead) in a fragment. `default_action`: of a milter that does not run."""
    account = ensure_user()
    with tempfile.TemporaryDirectory(prefix="gatepost-wiring.", dir="/var/tmp") as name:
        folder, outbox = Path(name), MailRecorder()
        folder.chmod(0o755)
        seen = folder / "seen"
        seen.mkdir()
        os.chown(seen, account.pw_uid, account.pw_gid)
        script = folder / "stand_in.py"
        script.write_text(STAND_IN)
        routes = tuple(
            Route(name=f"r{number}", address=address, screening=Screening(), deliver=("app",))
            for number, address in enumerate(ROUTES)
        )
        postfix = PrivatePostfix(folder / "postfix", outbox_port=outbox.port, options=options)
        at = postfix.queue_folder / "gatepost" / "milter.sock"
        milter = MilterSettings(socket=f"unix:{at}", authserv_id="mx.example.com").replace(default_action=default_action)
        settings = Settings(
            file=str(seen),
            routes=routes,
            timing=Timing(),
            parked=ParkedLimits(),
            parser=ParserLimits(),
            sinks=(),
            milter=milter if default_action else None,
        )
        fragments = wiring.render(
            settings,
            python=base_python(),
            pipe_script=str(script),
            config=str(seen),
            person=PERSON,
            host=postfix.host,
            folder=str(postfix.maps_folder),
            queue_directory=str(postfix.queue_folder),
        )
        if change:
            file, text, instead = change
            assert text in fragments[file]
            fragments[file] = fragments[file].replace(text, instead)
        postfix.wire(fragments)
        try:
            with postfix:
                yield Wired(postfix, outbox, seen)
        finally:
            outbox.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Wired]:
    """The fragments as they are, except that a hang is ended after 2 s and not after 150."""
    yield from wired(change=("master.cf", "gatepost_time_limit=150s", "gatepost_time_limit=2s"))


@pytest.fixture(scope="module", params=["", "+", "-", "+-."], ids=["no delimiter", "+", "-", "+-."])
def delimited(request: pytest.FixtureRequest) -> Iterator[Wired]:
    """The same with each recipient_delimiter that a host may have set for its own reasons."""
    yield from wired(options={"recipient_delimiter": request.param})


# --- RCPT -----------------------------------------------------------------------------------------------------------------

OK, UNKNOWN, DENIED = (250, "2.1.5"), (550, "5.1.1"), (554, "5.7.1")
RCPT = [
    # what stands in RCPT TO:<...>, the reply, why
    ("reply+k@in.example.com", OK, "a route's address"),
    ("REPLY+K@IN.EXAMPLE.COM", OK, "upper case is the same"),
    ("Reply+kEy@In.example.Com", OK, "mixed case is the same"),
    ('"reply+k"@in.example.com', OK, "quotes that are not needed"),
    ('"reply+k k"@in.example.com', OK, "quotes that are needed: gatepost refuses the key, not Postfix"),
    (r'"reply\+k"@in.example.com', OK, "quoted pair"),
    ("reply+k@in.example.com.", OK, "a final dot"),
    ("reply+a+b@in.example.com", OK, "a delimiter in the key"),
    ("reply+a-b@in.example.com", OK, "another in the key"),
    ("reply+" + "k" * 58 + "@in.example.com", OK, "64 octets, what RFC 5321 4.5.3.1.1 allows"),
    ("contact.k@in.example.com", OK, "the dot as delimiter"),
    ("help.desk@in.example.com", OK, "dedicated"),
    ("a*b/c{d}+k@in.example.com", OK, "characters that mean something in an expression"),
    ("anything@all.example.com", OK, "catch-all"),
    ("postmaster", OK, "RFC 5321 4.5.1: bare"),
    ("PostMaster", OK, "bare, in any case"),
    ("postmaster@in.example.com", OK, "in a routed domain"),
    ("POSTMASTER@All.Example.Com", OK, "in a domain with a catch-all"),
    ("postmaster@[127.0.0.1]", OK, "address literal"),
    ("abuse@in.example.com", OK, "RFC 2142"),
    ("abuse@all.example.com", OK, "RFC 2142, with a catch-all"),
    ("reply+@in.example.com", UNKNOWN, "an empty key"),
    ("reply@in.example.com", UNKNOWN, "no key"),
    ("replyk@in.example.com", UNKNOWN, "no delimiter"),
    ("no-reply+k@in.example.com", UNKNOWN, "something in front"),
    ("contactxk@in.example.com", UNKNOWN, "the dot is a dot"),
    ("helpxdesk@in.example.com", UNKNOWN, "dedicated: the dot is a dot"),
    ("help.desk+x@in.example.com", UNKNOWN, "dedicated: no sub-address, whatever recipient_delimiter says"),
    ("aab/c{d}+k@in.example.com", UNKNOWN, "the star is a star"),
    ("root@in.example.com", UNKNOWN, "an account of this host is no address"),
    ("info@in.example.com", UNKNOWN, "any other name"),
    ("postmaster+x@in.example.com", UNKNOWN, "not an address that must exist"),
    ("mailer-daemon@in.example.com", UNKNOWN, "no route"),
    ("mailer-daemon@all.example.com", UNKNOWN, "never a key, with a catch-all either"),
    ("MAILER-DAEMON@all.example.com", UNKNOWN, "in any case"),
    ("root@[127.0.0.1]", UNKNOWN, "address literal: only postmaster and abuse exist"),
    ("reply+k@[127.0.0.1]", UNKNOWN, "a route's local part is none in an address literal"),
]
RELAY = [
    ("stranger@example.org", "a foreign domain"),
    ("reply+k@example.org", "a route's local part in a foreign domain"),
    ("postmaster@example.org", "a foreign postmaster"),
    ("reply+k@sub.in.example.com", "a subdomain of ours"),
    ("x@sub.all.example.com", "a subdomain of a catch-all domain"),
    ("reply+k@example.com", "our parent domain"),
    ("reply+k@xin.example.com", "a domain that ends like ours"),
    ("reply+k@in.example.com.example.org", "a domain that begins like ours"),
    ("root@mx.example.com", "this host's own name"),
    ("postmaster@mx.example.com", "this host's own name is no mail domain"),
    ("root", "bare, not postmaster"),
    ("root@localhost", "localhost"),
    ("stranger%example.org@in.example.com", "percent hack"),
    ("stranger%example.org@all.example.com", "percent hack through a catch-all"),
    ("stranger%example.org@[127.0.0.1]", "percent hack through an address literal"),
    ("stranger%example.org", "percent hack, bare"),
    ("example.org!stranger@in.example.com", "bang path"),
    ("example.org!stranger@all.example.com", "bang path through a catch-all"),
    ("example.org!stranger", "bang path, bare"),
    ("in.example.com!example.org!stranger", "bang path of two"),
    ("stranger@example.org@in.example.com", "two @"),
    ("stranger@example.org@all.example.com", "two @ through a catch-all"),
    ('"stranger@example.org"@in.example.com', "a quoted @"),
    ('"stranger@example.org"@all.example.com', "a quoted @ through a catch-all"),
    ('"stranger%example.org"@all.example.com', "a quoted %"),
    ("@in.example.com:stranger@example.org", "source route through us (RFC 5321 appendix C)"),
    ("@all.example.com,@in.example.com:stranger@example.org", "source route of two"),
    ("stranger@[192.0.2.1]", "a foreign address literal"),
    ("postmaster@[192.0.2.1]", "a foreign postmaster at an address literal"),
    ("stranger@postmaster", "a word in the alias table as domain"),
]


def rcpt(instance: Wired, address: str) -> Reply:
    with instance.postfix.session() as session:
        assert session.command("MAIL FROM:<a@example.net>").code == 250
        return session.command(f"RCPT TO:<{address}>")


@pytest.mark.parametrize(("address", "reply", "why"), RCPT, ids=[row[0] for row in RCPT])
def test_reply_to_rcpt(delimited: Wired, address: str, reply: tuple[int, str], why: str) -> None:
    """Postfix takes the routes' addresses and those of the people behind a domain, and refuses every other at RCPT."""
    said = rcpt(delimited, address)
    assert (said.code, said.text[:5]) == reply, f"{why}: {said}"


@pytest.mark.parametrize(("address", "why"), RELAY, ids=[row[0] for row in RELAY])
def test_nothing_is_relayed(delimited: Wired, address: str, why: str) -> None:
    """A recipient elsewhere is a permanent refusal, in whatever form it is written, though the client is in mynetworks."""
    said = rcpt(delimited, address)
    assert (said.code, said.text[:5]) == DENIED, f"{why}: {said}"


@pytest.mark.parametrize("sender", ["a@example.net", "", "postmaster@in.example.com", "root@mx.example.com", "root"])
def test_the_sender_opens_no_relay(plain: Wired, sender: str) -> None:
    """Whatever MAIL FROM says, our own domains and the null sender included, a foreign domain stays refused."""
    with plain.postfix.session() as session:
        assert session.command(f"MAIL FROM:<{sender}>").code == 250
        said = session.command("RCPT TO:<stranger@example.org>")
    assert (said.code, said.text[:5]) == DENIED


# --- Postfix is content ---------------------------------------------------------------------------------------------------


def test_postfix_has_nothing_to_complain_of(delimited: Wired) -> None:
    """`postfix check` and `postconf` find nothing to warn of in the fragments, and neither does a start."""
    assert delimited.postfix.command("postfix", "check") == ""
    assert "warning:" not in delimited.postfix.command("postconf", "-n")
    assert "warning:" not in delimited.postfix.command("postconf", "-M")
    assert "warning:" not in delimited.postfix.command("postconf", "-P")
    said_by_clients = r"Illegal address syntax|numeric domain name|valid_hostname|address not listed for hostname"
    assert [line for line in delimited.postfix.complaints() if not re.search(said_by_clients, line)] == []


# --- people ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "postmaster",
        "postmaster@in.example.com",
        "Postmaster@ALL.example.com",
        "postmaster@[127.0.0.1]",
        "abuse@in.example.com",
        "abuse@all.example.com",
    ],
)
def test_there_is_a_person_behind_the_domain(plain: Wired, address: str) -> None:
    """Mail for postmaster and abuse leaves for the person's address and does not come to gatepost."""
    queue_id = plain.postfix.send("a@example.net", address, MESSAGE).queue_id
    (delivery,) = plain.postfix.wait_delivery(queue_id)
    assert (delivery.recipient, delivery.status) == (PERSON, "sent")
    assert not any(f"--queue-id={queue_id}" in run["argv"] for run in plain.runs())


def test_the_hosts_own_mail_finds_the_person(plain: Wired) -> None:
    """What cron writes to root on this host goes to the person, though no domain is delivered to local users."""
    etc = str(plain.postfix.config_folder)
    subprocess.run(
        ["/usr/sbin/sendmail", "-C", etc, "-f", "root", "root"],
        input=b"Subject: from cron\n\n.\n",
        check=True,
        env={"MAIL_CONFIG": etc, "PATH": "/usr/bin:/bin"},
        timeout=30,
        cwd="/",
    )
    wait_for(
        lambda: any(b"from cron" in message.data and message.recipients == (PERSON,) for message in plain.outbox.messages),
        what="the mail from cron",
    )


# --- beside other domains: docs/wiring.md, "A Postfix that has other mail" ------------------------------------------------

BESIDE = [
    ("reply+k@in.example.com", "gatepost", "ours, by transport_maps"),
    ("x@all.example.com", "gatepost", "ours, a catch-all"),
    ("someone@other.example.com", "127.0.0.1", "the other virtual domain's mailbox goes where it went"),
    ("postmaster@in.example.com", "127.0.0.1", "to the person"),
]


@pytest.fixture(scope="module")
def beside() -> Iterator[Wired]:
    """A Postfix with a virtual mailbox domain and local users of its own, to which the routes' domains were added."""
    ours = "in.example.com, all.example.com"
    for instance in wired(
        options={
            "virtual_mailbox_domains": f"other.example.com, {ours}",
            "mydestination": "$myhostname",
            "local_recipient_maps": "proxy:unix:passwd.byname $alias_maps",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        }
    ):
        postfix = instance.postfix
        postfix.stop()
        postfix.set(
            virtual_transport=f"smtp:[127.0.0.1]:{instance.outbox.port}",
            transport_maps="inline:{in.example.com=gatepost: all.example.com=gatepost:}",
            virtual_mailbox_maps=f"inline:{{someone@other.example.com=x}} regexp:{postfix.maps_folder}/recipients.regexp",
        )
        postfix.start()
        yield instance


@pytest.mark.parametrize(("recipient", "relay", "why"), BESIDE, ids=[row[0] for row in BESIDE])
def test_beside_other_domains(beside: Wired, recipient: str, relay: str, why: str) -> None:
    """The routes' domains come to gatepost by transport_maps, and the other domains' mail goes where it went."""
    (delivery,) = beside.postfix.wait_delivery(beside.postfix.send("a@example.net", recipient, MESSAGE).queue_id)
    assert (delivery.relay.partition("[")[0], delivery.status) == (relay, "sent"), why


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("no-one@in.example.com", UNKNOWN),
        ("no-one@other.example.com", UNKNOWN),
        ("reply+k@other.example.com", UNKNOWN),
        ("root@mx.example.com", OK),
    ],
)
def test_who_exists_beside_other_domains(beside: Wired, address: str, reply: tuple[int, str]) -> None:
    """Each domain keeps its own recipients."""
    said = rcpt(beside, address)
    assert (said.code, said.text[:5]) == reply, said


# --- while the milter is down ---------------------------------------------------------------------------------------------


def test_without_a_milter_tempfail_lets_nothing_in() -> None:
    """Every MAIL is answered 451, and the line is one that Postfix takes as it is; the host's own mail goes its way."""
    for instance in wired(default_action="tempfail"):
        for address in ("reply+k@in.example.com", "postmaster@in.example.com"):
            sent = instance.postfix.send("a@example.net", address, MESSAGE)
            assert (sent.mail.code, sent.mail.text[:5]) == (451, "4.7.1")
        assert instance.postfix.command("postfix", "check") == ""
        assert "warning:" not in instance.postfix.command("postconf", "-n")
        assert {line.partition("warning: ")[2] for line in instance.postfix.complaints()} == {
            "connect to Milter service unix:gatepost/milter.sock: No such file or directory"
        }
        test_the_hosts_own_mail_finds_the_person(instance)


def test_without_a_milter_accept_lets_all_in() -> None:
    """Every message passes; the script behind the queue has the envelope that it always has."""
    for instance in wired(default_action="accept"):
        sent = instance.postfix.send("a@example.net", "reply+k@in.example.com", MESSAGE)
        (delivery,) = instance.postfix.wait_delivery(sent.queue_id)
        assert delivery.status == "sent"
        assert "--recipient=reply+k@in.example.com" in instance.run_of(sent.queue_id)["argv"]
        said = rcpt(instance, "reply@in.example.com")
        assert (said.code, said.text[:5]) == UNKNOWN, "Postfix's own refusals stay"


# --- what the service is given --------------------------------------------------------------------------------------------


def test_the_script_is_given_the_envelope(plain: Wired) -> None:
    """Each value stands behind its own option, as it came, and the script runs as gatepost."""
    sent = plain.postfix.send("A.Sender@example.net", "Reply+KEY@In.Example.Com", MESSAGE, helo="client.example.net")
    plain.postfix.wait_delivery(sent.queue_id)
    run = plain.run_of(sent.queue_id)
    argv = [argument for argument in run["argv"] if not argument.startswith("--size=")]
    assert argv == [
        f"--config={plain.seen}",
        "--sender=A.Sender@example.net",
        "--recipient=Reply+KEY@In.Example.Com",
        "--original-recipient=Reply+KEY@In.Example.Com",
        f"--queue-id={sent.queue_id}",
        "--client-address=127.0.0.1",
        "--helo=client.example.net",
    ]
    assert re.fullmatch(r"--size=\d+", run["argv"][1])
    assert run["uid"] == ensure_user().pw_uid
    assert len(sent.queue_id) >= 14, "long queue IDs"


HOSTILE = [
    # sender, recipient, helo, argument expected, why
    ("", "reply+k@in.example.com", "h", "--sender=", "the null sender is empty, not MAILER-DAEMON"),
    ("MAILER-DAEMON@example.net", "reply+k@in.example.com", "h", "--sender=MAILER-DAEMON@example.net", "and cannot be forged"),
    (
        "a@example.net",
        "reply+--config=/evil@in.example.com",
        "h",
        "--recipient=reply+--config=/evil@in.example.com",
        "a key that looks like an option",
    ),
    ("a@example.net", "reply+$HOME`id`|id@in.example.com", "h", "--recipient=reply+$HOME`id`|id@in.example.com", "no shell"),
    ("a@example.net", "reply+${size}@in.example.com", "h", "--recipient=reply+${size}@in.example.com", "no second expansion"),
    ("a@example.net", '"reply+k k"@in.example.com', "h", '--recipient="reply+k k"@in.example.com', "flag q keeps the quotes"),
    ('"a b"@example.net', "reply+k@in.example.com", "h", '--sender="a b"@example.net', "flag q, the sender's too"),
    ("a@example.net", "reply+k@in.example.com", "--config=/evil", "--helo=--config=/evil", "a HELO that looks like an option"),
]


@pytest.mark.parametrize(("sender", "recipient", "helo", "argument", "why"), HOSTILE, ids=[row[4] for row in HOSTILE])
def test_nothing_a_sender_chose_becomes_an_option(
    plain: Wired, sender: str, recipient: str, helo: str, argument: str, why: str
) -> None:
    """However an envelope is worded, the script has the same eight arguments."""
    sent = plain.postfix.send(sender, recipient, MESSAGE, helo=helo)
    plain.postfix.wait_delivery(sent.queue_id)
    argv = plain.run_of(sent.queue_id)["argv"]
    assert argument in argv, why
    assert [item.partition("=")[0] for item in argv] == [
        "--config",
        "--size",
        "--sender",
        "--recipient",
        "--original-recipient",
        "--queue-id",
        "--client-address",
        "--helo",
    ]


def test_an_address_does_not_begin_with_a_hyphen(plain: Wired) -> None:
    """Postfix itself refuses what would look like an option to other programs; gatepost does not count on it."""
    with plain.postfix.session() as session:
        assert session.command("MAIL FROM:<-x@example.net>").code == 501
        assert session.command("MAIL FROM:<x@example.net>").code == 250
        assert session.command("RCPT TO:<--config=/evil@all.example.com>").code == 501


@pytest.mark.parametrize("ending", [b"hello\n", b"hello", b"hello\n\n"], ids=["LF", "none", "two LF"])
def test_the_data_end_in_one_more_line_feed(plain: Wired, ending: bytes) -> None:
    """flags=B adds one LF after the last line; Postfix's own Received comes first, and no field is made of the envelope."""
    data = b"From: a@example.net\nSubject: x\n\n" + ending
    sent = plain.postfix.send("a@example.net", "reply+k@in.example.com", data)
    plain.postfix.wait_delivery(sent.queue_id)
    given = plain.run_of(sent.queue_id)["data"]
    assert given.endswith("\n\n" + ending.decode().rstrip("\n") + "\n" * (1 + max(1, ending.count(b"\n"))))
    head = given.partition("\n\n")[0]
    assert head.startswith("Received: ")
    assert not re.search(r"(?mi)^(return-path|delivered-to|x-original-to):", head)


def test_each_recipient_is_a_run_of_its_own(plain: Wired) -> None:
    """Two recipients of one message are two runs, each with its own fate under the same queue ID."""
    sent = plain.postfix.send(
        "a@example.net", ["reply+one@in.example.com", "reply+exit-75-4.3.0_later@in.example.com", "x@all.example.com"], MESSAGE
    )
    fates = {delivery.recipient: delivery.status for delivery in plain.postfix.wait_delivery(sent.queue_id, count=3)}
    assert fates == {
        "reply+one@in.example.com": "sent",
        "reply+exit-75-4.3.0_later@in.example.com": "deferred",
        "x@all.example.com": "sent",
    }
    runs = [run["argv"] for run in plain.runs() if f"--queue-id={sent.queue_id}" in run["argv"]]
    assert len(runs) == 3


def test_the_first_line_of_output_stands_in_the_log(plain: Wired) -> None:
    """What the script prints on success is what the sysadmin reads on Postfix's status line."""
    sent = plain.postfix.send("a@example.net", "reply+k@in.example.com", MESSAGE)
    (delivery,) = plain.postfix.wait_delivery(sent.queue_id)
    assert (delivery.status, delivery.dsn) == ("sent", "2.0.0")
    assert delivery.text == "delivered via gatepost service (accepted rule=accepted)"


# --- the belt -------------------------------------------------------------------------------------------------------------

FAULTS = [
    # the key, the status that Postfix must log, the code, why
    ("fine", "sent", "2.0.0", "the control"),
    ("exit-0-5.1.1_no", "sent", "2.0.0", "a code counts only with a non-zero exit status"),
    ("exit-1", "deferred", "4.3.0", "an uncaught exception, silent"),
    ("exit-2", "deferred", "4.3.0", "argparse, or a script that is not there"),
    ("exit-64", "deferred", "4.3.0", "EX_USAGE"),
    ("exit-65", "deferred", "4.3.0", "EX_DATAERR: Postfix's own 5.6.0 is no rule of ours"),
    ("exit-66", "deferred", "4.3.0", "EX_NOINPUT"),
    ("exit-67", "deferred", "4.3.0", "EX_NOUSER: 5.1.1 in Postfix's words, not in ours"),
    ("exit-68", "deferred", "4.3.0", "EX_NOHOST"),
    ("exit-67-something", "deferred", "4.3.0", "EX_NOUSER with output that is no code"),
    ("exit-69", "deferred", "4.3.0", "EX_UNAVAILABLE"),
    ("exit-70", "deferred", "4.3.0", "EX_SOFTWARE"),
    ("exit-71", "deferred", "4.3.0", "EX_OSERR"),
    ("exit-73", "deferred", "4.3.0", "EX_CANTCREAT: 5.2.0"),
    ("exit-74", "deferred", "4.3.0", "EX_IOERR"),
    ("exit-75", "deferred", "4.3.0", "EX_TEMPFAIL"),
    ("exit-76", "deferred", "4.3.0", "EX_PROTOCOL: 5.5.0"),
    ("exit-77", "deferred", "4.3.0", "EX_NOPERM: 5.7.0"),
    ("exit-78", "deferred", "4.3.0", "EX_CONFIG: 5.3.5"),
    ("exit-99", "deferred", "4.3.0", "no exit status that has a name"),
    ("exit-120", "deferred", "4.3.0", "Python, when it cannot flush its output"),
    ("exit-126", "deferred", "4.3.0", "a shell: not executable"),
    ("exit-127", "deferred", "4.3.0", "the loader: a library is missing"),
    ("exit-255", "deferred", "4.3.0", "the largest"),
    ("traceback", "deferred", "4.3.0", "an uncaught exception, printed"),
    ("syntax", "deferred", "4.3.0", "a syntax error"),
    ("warned", "deferred", "4.3.0", "a warning in front of the code"),
    ("killed", "deferred", "4.3.0", "out of memory: SIGKILL"),
    ("hangs", "deferred", "4.3.0", "the time limit"),
    ("child-holds-stdout", "deferred", "4.3.0", "exit 0, but a child still holds stdout"),
    ("exit-75-4.4.1_app_is_down", "deferred", "4.4.1", "our own deferral keeps its code"),
    ("exit-70-5.3.0_no", "deferred", "4.3.0", "5.3.0 is Postfix's for what it does not know"),
    ("exit-70-5.2.2_full", "deferred", "4.3.0", "a code that no rule of ours has"),
    ("exit-70-5.7.10_no", "deferred", "4.3.0", "5.7.10 is not 5.7.1"),
    ("exit-70-5.1.1_No_such_address", "bounced", "5.1.1", "a refusal: the recipient"),
    ("exit-1-5.1.1_No_such_address", "bounced", "5.1.1", "a refusal, whatever the exit status"),
    ("exit-70-5.4.6_Mail_loop", "bounced", "5.4.6", "a refusal: a loop"),
    ("exit-70-5.7.1_Refused_by_the_application", "bounced", "5.7.1", "a refusal: the app"),
]


@pytest.fixture(scope="module")
def queued(plain: Wired) -> dict[str, str]:
    """One message for each fault, all of them sent before the first is looked at: key -> queue ID."""
    return {
        key: plain.postfix.send(f"faults+{number}@example.net", f"reply+{key}@in.example.com", MESSAGE).queue_id
        for number, (key, *_) in enumerate(FAULTS)
    }


@pytest.mark.parametrize(("key", "status", "dsn", "why"), FAULTS, ids=[row[0] for row in FAULTS])
def test_only_a_refusal_of_ours_bounces(
    plain: Wired, queued: dict[str, str], key: str, status: str, dsn: str, why: str
) -> None:
    """Every fault around the script ends as a deferral; a code that one of gatepost's rules has still bounces."""
    (delivery,) = plain.postfix.wait_delivery(queued[key])
    assert (delivery.status, delivery.dsn) == (status, dsn), f"{why}: {delivery.text}"


def test_as_many_bounces_left_as_there_were_refusals(plain: Wired, queued: dict[str, str]) -> None:
    """For each refusal one bounce went to its sender, and none for anything else: what is deferred is still in the queue."""
    bounced = sorted(f"faults+{number}@example.net" for number, row in enumerate(FAULTS) if row[1] == "bounced")
    deferred = {queued[row[0]] for row in FAULTS if row[1] == "deferred"}
    for queue_id in queued.values():
        plain.postfix.wait_delivery(queue_id)

    def notices() -> list[str]:
        return sorted(message.recipients[0] for message in plain.outbox.messages if message.sender == "")

    wait_for(lambda: len(notices()) >= len(bounced), what="the bounces")
    wait_for(
        lambda: deferred <= {entry["queue_id"] for entry in plain.postfix.queue() if entry["queue_name"] == "deferred"},
        what="the deferred messages in the queue",
    )
    assert notices() == bounced


BROKEN = [
    # in master.cf, instead, what the log says of it
    (" -I ", " -I /nowhere", r"status=deferred .*No such file", "the script is not there"),
    ("argv=/", "argv=/nowhere/", r"status=deferred .*No such file", "the interpreter is not there"),
    ("user=gatepost", "user=no-such-user", r"fatal: .*no-such-user", "the user is not there"),
]


@pytest.mark.parametrize(("text", "instead", "logged", "why"), BROKEN, ids=[row[3] for row in BROKEN])
def test_what_cannot_start_defers(text: str, instead: str, logged: str, why: str) -> None:
    """A wiring that points to nothing keeps the message in the queue; no bounce leaves."""
    for instance in wired(change=("master.cf", text, instead)):
        sent = instance.postfix.send("a@example.net", "reply+exit-1@in.example.com", MESSAGE)
        wait_for(lambda: re.search(logged, instance.postfix.log()), what=f"{logged} in the log")  # noqa: B023 - called at once
        assert [entry["queue_id"] for entry in instance.postfix.queue()] == [sent.queue_id], why
        assert not [delivery for delivery in instance.postfix.deliveries() if delivery.status != "deferred"], why
        assert instance.outbox.messages == []


def test_the_belt_is_what_defers() -> None:
    """Without status.regexp the same fault bounces: the test can see it, and a person must see to it that the file is there."""
    for instance in wired(change=("master.cf", "/status.regexp", "/nowhere.regexp")):
        sent = instance.postfix.send("a@example.net", "reply+exit-1@in.example.com", MESSAGE)
        (delivery,) = instance.postfix.wait_delivery(sent.queue_id)
        assert delivery.status == "bounced"
        assert any("nowhere.regexp" in line for line in instance.postfix.complaints())


# --- smuggling ------------------------------------------------------------------------------------------------------------

ENDINGS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CRLF.CR": b"\r\n.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "LF.CR": b"\n.\r",
    "CR.LF": b"\r.\n",
}


def smuggle(instance: Wired, ending: bytes) -> int:
    """Sends a message that holds another behind a false end of data; returns how many of the second kind Postfix took."""
    second = (
        b"MAIL FROM:<smuggled@example.net>\r\nRCPT TO:<reply+smuggled@in.example.com>\r\nDATA\r\n"
        b"Subject: second\r\n\r\nsecond\r\n.\r\n"
    )
    before = instance.postfix.log().count("from=<smuggled@example.net>, size=")
    with instance.postfix.session(timeout=10) as session:
        assert session.command("MAIL FROM:<a@example.net>").code == 250
        assert session.command("RCPT TO:<reply+first@in.example.com>").code == 250
        assert session.command("DATA").code == 354
        session.raw(b"Subject: first\r\n\r\nfirst" + ending + second + b"QUIT\r\n")
        while session.reply().code not in (0, 221):
            pass
    wait_for(lambda: not instance.postfix.queue(), what="an empty queue")
    return instance.postfix.log().count("from=<smuggled@example.net>, size=") - before


@pytest.fixture(scope="module")
def strict() -> Iterator[Wired]:
    """The fragments as they are; nothing is deferred here, so that the queue empties."""
    yield from wired()


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_one_message_is_one_message(strict: Wired, ending: bytes) -> None:
    """No end of data but CR LF . CR LF lets a second message through."""
    assert smuggle(strict, ending) == 0
    assert not any("--sender=smuggled@example.net" in run["argv"] for run in strict.runs())


def test_the_smuggling_settings_are_what_stops_it() -> None:
    """The same client gets a second message through where the three settings are taken back: the test can see it."""
    loose = {"smtpd_forbid_bare_newline": "no", "smtpd_forbid_unauth_pipelining": "no", "smtpd_data_restrictions": ""}
    for instance in wired(options=loose):
        assert sum(smuggle(instance, ending) for ending in ENDINGS.values()) >= 2


def test_bare_line_feeds_alone_do_no_harm(strict: Wired) -> None:
    """A careless client's message with bare LF inside, rightly ended, arrives."""
    with strict.postfix.session() as session:
        session.command("MAIL FROM:<a@example.net>")
        session.command("RCPT TO:<reply+lf@in.example.com>")
        session.command("DATA")
        session.raw(b"Subject: x\nX-Two: y\n\nhello\n\r\n.\r\n")
        assert session.reply().code == 250
