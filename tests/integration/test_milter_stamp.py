"""What the milter tells the door behind the queue, through a real Postfix: requeued, copied, and among other milters.

Needs root and the package postfix.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from demo.dns_server import DnsServer
from demo.environment import Environment, run_as
from demo.postfix_instance import Sent, free_port, wait_for
from tests.installation import DOMAIN, message
from tests.integration.conftest import TIMING, open_folder, wait_for_empty_queue
from tests.integration.milter_host import MilterHost, client, fields, handed, milter_host

GOOD: Final = "192.0.2.1"
PERSON: Final = "person@good.example.org"
ZONES: Final = {
    name: records
    for domain in ("good.example.org", "evil.example.net")
    for name, records in (
        (domain, {"TXT": [f"v=spf1 ip4:{GOOD} ip6:2001:db8::1 -all"]}),
        (f"_dmarc.{domain}", {"TXT": ["v=DMARC1; p=reject"]}),
    )
}


@pytest.fixture(scope="module")
def host(milter_tree: Environment) -> Iterator[MilterHost]:
    """One host, whose sender is authenticated by SPF and DMARC."""
    strict = (
        f'  - name: strict\n    address: "strict+%{{key}}@{DOMAIN}"\n    keys: {{format: signed, secret: reply-keys}}\n'
        "    screening: {lists: reject}\n    deliver: [app]\n"
    )
    with DnsServer(ZONES) as dns, milter_host(milter_tree, more=strict + TIMING, milter=f"dns: ['{dns.address}']") as made:
        yield made


def send(
    host: MilterHost, to: list[str], data: bytes, *, address: str = GOOD, sender: str = PERSON, door: str = "milter"
) -> Sent:
    """One message of that client's."""
    with host.session(door) as session:
        client(session, name="unknown", address=address, helo="h.good.example.org")
        return session.message(sender, to, data)


def handed_to(host: MilterHost, to: str) -> list[dict[str, Any]]:
    """What the app was sent for that recipient."""
    return [data for data in handed(host.app) if data["envelope"]["recipient"] == to]


# --- requeued -------------------------------------------------------------------------------------------------------------


def requeue(host: MilterHost, times: int) -> list[str]:
    """Gives everything in the queue a new queue ID, so many times; the IDs, the first included."""
    seen = [entry["queue_id"] for entry in host.postfix.queue()]
    for _ in range(times):
        host.postfix.command("postsuper", "-r", "ALL")
        seen += wait_for(partial(_requeued, host, {*seen}), timeout=120, what="the new queue IDs")
    return seen


def _requeued(host: MilterHost, before: set[str]) -> list[str]:
    """The queue IDs, once all are new and were tried. Without a flush pickup(8) looks for them once a minute."""
    queue = host.postfix.queue()
    names = [entry["queue_id"] for entry in queue]
    if before & {*names} or not names:
        host.postfix.flush()
        return []
    return names if all(entry["queue_name"] == "deferred" for entry in queue) else []


def test_a_requeued_message_is_the_same(host: MilterHost) -> None:
    """postsuper -r, twice, with the app down: one id, one hand-over, and what the milter found of the sender is kept."""
    to = host.made.address(host.made.key("requeued"))
    data = message(sender=PERSON, to=to)
    start, host.app.behaviour = len(host.log()), "status/503"
    sent = send(host, [to], data)
    host.postfix.wait_delivery(sent.queue_id)
    host.idle()
    names = requeue(host, 2)
    host.app.behaviour = "ok"
    wait_for_empty_queue(host.postfix, timeout=60)
    lines = [line for line in host.log(start) if not line.door]
    assert ({line.action for line in lines[:-1]}, lines[-1].action) == ({"defer"}, "accept")
    assert list(dict.fromkeys(line.queue_id for line in lines)) == names
    assert len(names) == 3
    assert len({line.id for line in lines}) == 1
    assert [taken["recipient"] for taken in host.app.taken].count(to) == 1
    first, *_, last = handed_to(host, to)
    assert first["envelope"]["queue_id"] != last["envelope"]["queue_id"]
    for each in (first, last):
        assert (each["sender"]["verified"], each["sender"]["by"]) == ("yes", "dmarc mx.example.com")
        assert each["authentication"]["results"][0]["result"] == "pass"
        assert (each["envelope"]["client_address"], each["envelope"]["helo"]) == (GOOD, "h.good.example.org")
    assert first["message"]["sha256"] == last["message"]["sha256"]
    body = message(sender=PERSON, to=to).replace(b"\n", b"\r\n")
    assert base64.b64decode(last["raw"]).count(b"Received: by mx.example.com (Postfix, from userid ") == 2
    raw = base64.b64decode(last["raw"])
    assert last["message"]["sha256"] == hashlib.sha256(raw[raw.index(body[:20]) :]).hexdigest()


def test_what_ends_meanwhile_ends_nothing(host: MilterHost) -> None:
    """The key is revoked while the app is down: what the milter let in under it is handed over, requeued or not; no more."""
    subject = host.made.key("ending")
    to = host.made.address(subject)
    host.app.behaviour = "status/503"
    for _ in range(2):
        sent = send(host, [to], message(sender=PERSON, to=to))
        host.postfix.wait_delivery(sent.queue_id)
    host.idle()
    one, _ = (entry["queue_id"] for entry in host.postfix.queue())
    host.postfix.command("postsuper", "-r", one)
    wait_for(lambda: _requeued(host, {one}), what="the requeued message")
    done = run_as("gatepost", [host.environment.command, "key", "revoke", "--config", str(host.made.config), to])
    assert done.returncode == 0, done
    host.app.behaviour = "ok"
    wait_for_empty_queue(host.postfix, timeout=60)
    assert [taken["recipient"] for taken in host.app.taken].count(to) == 2
    assert str(send(host, [to], message(to=to)).rcpt(to)) == "550 5.1.1 No such address"


def test_a_judgement_is_kept_through_a_requeue(host: MilterHost) -> None:
    """One of two rejects, and the door behind sees neither before both were requeued, and the route's rule was changed."""
    good, strict = (f"{name}+{host.made.key(name)}@{DOMAIN}" for name in ("reply", "strict"))
    host.postfix.set(defer_transports="gatepost")
    start = len(host.log())
    sent = send(host, [good, strict], message(sender=PERSON, headers="List-Id: <boats.example.org>\n"))
    wait_for(lambda: [e for e in host.postfix.queue() if e["queue_name"] == "deferred"], what="it waits")
    requeue(host, 1)
    text = host.made.config.read_text()
    host.made.config.write_text(text.replace("lists: reject", "lists: accept"))
    try:
        host.postfix.set(defer_transports="")
        wait_for_empty_queue(host.postfix, timeout=60)
    finally:
        host.made.config.write_text(text)
    lines = {line.route: line for line in host.log(start) if not line.door and line.id}
    assert (lines["replies"].rule, lines["strict"].rule) == ("accepted", "list")
    assert sent.queue_id not in {line.queue_id for line in lines.values()}
    assert (lines["strict"].action, [m.recipients for m in host.outbox.messages]) == ("reject", [(PERSON,)]), (
        "SPF passed: one notice"
    )


def test_another_name_and_another_family(milter_tree: Environment) -> None:
    """Results under a name that is not this host's, of a client with an IPv6 address: believed, and the message's hash is the same."""
    options = {"inet_protocols": "all"}
    milter = "authserv_id: results.example.net"
    with DnsServer(ZONES) as dns, milter_host(
        milter_tree, more=TIMING, milter=f"{milter}, dns: ['{dns.address}']", options=options
    ) as host:  # fmt: skip
        hashes = []
        for door in ("plain", "milter"):
            to = host.made.address(host.made.key("v6"))
            data = message(sender=PERSON, to="list@example.org", headers="Date: Sat, 21 Nov 2026 12:00:00 +0000\n")
            sent = send(host, [to], data, address="IPv6:2001:db8::1", door=door)
            host.postfix.wait_delivery(sent.queue_id)
            *_, data_of = handed_to(host, to)
            hashes.append(data_of["message"]["sha256"])
    assert (data_of["sender"]["verified"], data_of["sender"]["by"]) == ("yes", "dmarc results.example.net")
    assert data_of["authentication"]["authserv_id"] == "results.example.net"
    assert hashes[0] == hashes[1] == hashlib.sha256(data.replace(b"\n", b"\r\n")).hexdigest()


# --- copied ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A stamped head, sent again: by which client, under which MAIL FROM, with what changed."""

    what: str
    address: str = "203.0.113.66"
    sender: str = PERSON
    change: tuple[bytes, bytes] = (b"", b"")
    why: str


COPIES: Final = [
    Copy(what="by another client", why="the client is part of it"),
    Copy(what="under another MAIL FROM", address=GOOD, sender="other@good.example.org", why="so is MAIL FROM"),
    Copy(what="with another body", address=GOOD, change=(b"\r\n\r\nHello.", b"\r\n\r\nGoodbye."), why="so is the body"),
    Copy(what="with another From", address=GOOD, change=(b"From: A Person <person@good", b"From: A Person <victim@good"),
         why="by the sender himself, who may well have seen it: in a notice, or in another domain of this Postfix"),
    Copy(what="with better results", address=GOOD, change=(b"dkim=none", b"dkim=pass"), why="so are the results"),
    Copy(what="with another verdict", address=GOOD, change=(b"s=yes,mail-from", b"s=yes,temporary"), why="so is the verdict"),
    Copy(what="from the null sender", address=GOOD, sender="", why="so is MAIL FROM"),
]  # fmt: skip


@pytest.fixture(scope="module")
def copied(host: MilterHost) -> bytes:
    """A message as the app got it, with its stamp, from the stamp on."""
    to = host.made.address(host.made.key("copied"))
    sent = send(host, [to], message(sender=PERSON, to=to))
    host.postfix.wait_delivery(sent.queue_id)
    (data,) = handed_to(host, to)
    assert data["sender"]["verified"] == "yes"
    return base64.b64decode(data["raw"])


@contextmanager
def down(host: MilterHost) -> Iterator[None]:
    """Nobody listens at the milter's socket."""
    host.milter.kill()
    try:
        yield
    finally:
        host.milter.start()


def test_a_copied_head_is_not_believed_while_the_milter_is_down(host: MilterHost, copied: bytes) -> None:
    """Whatever is not exactly what the milter saw: nobody is verified, and the id is that of the new queue ID."""
    with down(host):
        for number, row in enumerate(COPIES):
            to = host.made.address(host.made.key(f"copy{number}"))
            changed = copied.replace(*row.change) if row.change[0] else copied
            assert (changed != copied) is bool(row.change[0])
            start = len(host.log())
            sent = send(host, [to], changed, address=row.address, sender=row.sender, door="accept")
            host.postfix.wait_delivery(sent.queue_id)
            (line,) = [line for line in host.log(start) if not line.door]
            if not row.sender:
                assert line.rule == "null-sender", row.why
                continue
            (data,) = handed_to(host, to)
            assert data["sender"]["verified"] == "unknown", row.why
            assert data["authentication"] is None, row.why


def test_the_very_same_message_again(host: MilterHost, copied: bytes) -> None:
    """Same client, MAIL FROM, From, body: SPF would say the same again. Its recipient does not get it twice."""
    with down(host):
        to = host.made.address(host.made.key("copied"))
        before = len(handed_to(host, to))
        sent = send(host, [to], copied, address=GOOD, door="accept")
        (said,) = host.postfix.wait_delivery(sent.queue_id)
        assert said.text.rstrip(")").endswith(" again")
        assert len(handed_to(host, to)) == before


def test_a_stamp_that_nobody_recorded(host: MilterHost, copied: bytes) -> None:
    """Under another queue ID a stamp counts for as long as the store knows its token: the same copy, before and after."""
    found = []
    with down(host):
        for number in range(2):
            to = host.made.address(host.made.key(f"recorded{number}"))
            sent = send(host, [to], copied, address=GOOD, door="accept")
            host.postfix.wait_delivery(sent.queue_id)
            (data,) = handed_to(host, to)
            found.append((data["sender"]["verified"], data["authentication"] is None))
            forget = f"import sqlite3; db = sqlite3.connect({str(host.made.store / 'gatepost.sqlite')!r}, isolation_level=None)"
            forget += "; db.execute('DELETE FROM token')"
            done = run_as("gatepost", [host.environment.python, "-I", "-c", forget])
            assert done.returncode == 0, done
    assert found == [("yes", False), ("unknown", True)]


def test_a_copied_head_is_removed_while_the_milter_is_there(host: MilterHost, copied: bytes) -> None:
    """What claims to be ours goes, whoever sends it; what the milter itself finds stands on top."""
    to = host.made.address(host.made.key("removed"))
    sent = send(host, [to], copied * 1, address="203.0.113.66")
    host.postfix.wait_delivery(sent.queue_id)
    (data,) = handed_to(host, to)
    raw = base64.b64decode(data["raw"])
    assert len(fields(raw, "x-gatepost-stamp")) == len(fields(raw, "authentication-results")) == 1
    assert fields(copied, "x-gatepost-stamp") != fields(raw, "x-gatepost-stamp")
    assert data["sender"]["verified"] == "no", "DMARC fails for that client"


# --- among other milters --------------------------------------------------------------------------------------------------

#: A milter that adds a field at each of the places it is told: a number from the top, or "end".
OTHER: Final = """
import sys
import Milter

class Other(Milter.Base):
    def eom(self):
        for place in sys.argv[2].split(","):
            name, _, at = place.partition("@")
            if at == "end":
                self.addheader(name, "mx2.example.com; spf=pass smtp.mailfrom=x")
            else:
                self.addheader(name, "mx2.example.com; spf=pass smtp.mailfrom=x", int(at))
        return Milter.CONTINUE

Milter.factory = Other
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("other", sys.argv[1], 60)
"""
_R: Final = "Authentication-Results"
CHAINS: Final = [
    ("before", "X-Other@0", "on top of Postfix's Received: ours goes above"),
    ("before", f"{_R}@1,X-Other@0", "results of another authserv-id stay"),
    ("before", "X-Other@end", "at the end"),
    ("behind", "X-Other@0", "above ours"),
    ("behind", f"{_R}@0", "results of another authserv-id above ours"),
    ("behind", "X-Other@1", "between the stamp and its results: where OpenDKIM and OpenDMARC insert"),
    ("behind", f"{_R}@1,X-Other@1", "other results between"),
    ("behind", "X-Other@2,X-Other@3", "below ours"),
    ("behind", "X-Other@end", "at the end"),
]


@contextmanager
def other_milters(environment: Environment) -> Iterator[dict[str, tuple[str, str]]]:
    """One for each row of CHAINS: what stands before ours, and what behind."""
    chains: dict[str, tuple[str, str]] = {}
    with open_folder("other-milter") as folder, ExitStack() as stack:
        script = Path(folder) / "other.py"
        script.write_text(OTHER)
        for side, places, _ in CHAINS:
            port = free_port()
            command = [environment.python, "-I", str(script), f"inet:{port}@127.0.0.1", places]
            process = stack.enter_context(subprocess.Popen(command, cwd="/"))
            stack.callback(process.kill)
            other = f"inet:127.0.0.1:{port}"
            chains[f"{side}: {places}"] = (other, "") if side == "before" else ("", other)
        yield chains


@pytest.fixture(scope="module")
def chained(milter_tree: Environment) -> Iterator[MilterHost]:
    """A host with a door for each chain."""
    with (
        DnsServer(ZONES) as dns,
        other_milters(milter_tree) as chains,
        milter_host(milter_tree, more=TIMING, milter=f"dns: ['{dns.address}']", chains=chains) as made,
    ):
        yield made


@pytest.mark.parametrize(("side", "places", "why"), CHAINS, ids=[f"{row[0]}: {row[1]}" for row in CHAINS])
def test_among_other_milters_the_stamp_holds(chained: MilterHost, side: str, places: str, why: str) -> None:
    """Whatever another milter adds, before ours or behind it: the sender is verified, and the other's fields stay."""
    door = f"{side}: {places}"
    to = chained.made.address(chained.made.key(hashlib.sha256(door.encode()).hexdigest()[:12]))
    sent = wait_for(lambda: _taken(send(chained, [to], message(sender=PERSON, to=to), door=door)), what="both milters")
    assert sent is not None
    chained.postfix.wait_delivery(sent.queue_id)
    (data,) = handed_to(chained, to)
    raw = base64.b64decode(data["raw"])
    assert data["sender"]["verified"] == "yes", why
    assert fields(raw, "x-other").count("mx2.example.com; spf=pass smtp.mailfrom=x") == places.count("X-Other")
    assert len(fields(raw, _R)) == 1 + places.count(_R)
    assert data["authentication"]["authserv_id"] == "mx.example.com"


def _taken(sent: Sent) -> Sent | None:
    """The other milter takes a moment to begin; Postfix says 451 until it does."""
    return sent if sent.queue_id else None
