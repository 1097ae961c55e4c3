"""Guessing keys over SMTP: a hundred thousand guesses, through a real Postfix with the milter.

Unknown, forged, expired and revoked keys in equal parts, many connections, several at once, RCPT pipelined. Needs root and the
package postfix.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from demo.environment import Environment
from demo.postfix_instance import wait_for
from gatepost.keys.keyring import revocation_line
from tests.faulty_app import FaultyApp, Request, behaviour
from tests.installation import DOMAIN, KEY_ID, SECRET
from tests.integration.conftest import TIMING
from tests.integration.milter_host import MilterHost, milter_host

KINDS: Final = ("unknown", "forged", "expired", "revoked")
GUESSES: Final = 100_000
CONNECTIONS: Final = 100
AT_ONCE: Final = 6
#: Commands in one write. Postfix answers them in order.
BATCH: Final = 200
SEED: Final = 20261121
REFUSED: Final = "550 5.1.1 No such address"
#: Kilobytes that the milter may grow by over all of it: caches that fill, not guesses that are kept.
GROWTH: Final = 30_000


@behaviour
def none_lives(app: FaultyApp, request: Request, argument: str) -> None:
    """An app that knows one key: the one whose subject is `alive`."""
    key = json.loads(request.body)["data"]["key"]
    request.answer(200, json.dumps({"alive": key["subject"].startswith("alive")}).encode(), kind="application/json")


@pytest.fixture(scope="module")
def asked() -> Iterator[FaultyApp]:
    """The app that is asked about keys."""
    with FaultyApp() as app:
        yield app


@pytest.fixture(scope="module")
def host(milter_tree: Environment, asked: FaultyApp) -> Iterator[MilterHost]:
    """A host with a route of signed keys whose app is asked as well, and one of keys that only the app knows."""
    routes = "".join(
        f'  - name: {name}\n    address: "{name}+%{{key}}@{DOMAIN}"\n'
        f"    keys: {{{keys}, ask: '{asked.url('none-lives')}', ask_secret: app-webhook}}\n    deliver: [app]\n"
        for name, keys in (
            ("signed", "format: signed, secret: reply-keys, revoked: revoked"),
            ("asked", "format: pattern, pattern: '[a-z]+[0-9]+'"),
        )
    )
    limits = "limits: {per_key: [1000/1h]}\n"
    options = {"smtpd_client_connection_count_limit": "0", "smtpd_recipient_limit": "100000"}
    with milter_host(milter_tree, more=routes + TIMING + limits, options=options) as made:
        lines = [revocation_line(SECRET.encode(), KEY_ID, made.made.key(f"r{number}")) for number in range(100)]
        made.made.revoked.write_text("\n".join(lines) + "\n")
        yield made


def guesses(host: MilterHost, connection: int) -> list[tuple[str, str]]:
    """Kind and recipient of each guess of one connection, in a random order, each key in it once."""
    made, chance = host.made, random.Random(SEED + connection)
    found = []
    for number in range(GUESSES // CONNECTIONS // len(KINDS)):
        at = connection * 1_000 + number
        keys = {
            "unknown": f"{chance.getrandbits(100):026x}z",
            "forged": made.key(f"f{at}", secret="x" * 40),
            "expired": made.key(f"e{at}", days=-1 - number % 300),
            "revoked": made.key(f"r{number % 100}"),
        }
        found += [(kind, f"signed+{key}@{DOMAIN}") for kind, key in keys.items()]
    chance.shuffle(found)
    return found


def guess(host: MilterHost, recipients: list[str]) -> list[str]:
    """The answers, on one connection."""
    said = []
    with host.session() as session:
        assert session.command("MAIL FROM:<guesser@example.net>").code == 250
        for start in range(0, len(recipients), BATCH):
            batch = recipients[start : start + BATCH]
            session.raw("".join(f"RCPT TO:<{each}>\r\n" for each in batch).encode())
            said += [str(session.reply()) for _ in batch]
    return said


def resident(host: MilterHost) -> int:
    """Kilobytes of the milter's process in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{host.milter.pid}/status").read_text())
    assert found
    return int(found[1])


def test_a_hundred_thousand_guesses(host: MilterHost, asked: FaultyApp) -> None:
    """None is accepted; each gets the same words and one line in our log; the app is asked about none of them; memory is flat."""
    guess(host, [recipient for _, recipient in guesses(host, CONNECTIONS + 1)])
    before, start, requests = resident(host), len(host.log()), len(asked.requests)

    def one(connection: int) -> Counter[tuple[str, str]]:
        tried = guesses(host, connection)
        said = guess(host, [recipient for _, recipient in tried])
        return Counter(zip([kind for kind, _ in tried], said, strict=True))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = sum(pool.map(one, range(CONNECTIONS)), Counter[tuple[str, str]]())
    assert said == {(kind, REFUSED): GUESSES // len(KINDS) for kind in KINDS}
    assert len(asked.requests) == requests, "a key that we know to be dead is nobody's question"
    logged = Counter((line.stage, line.action, line.rule) for line in host.log(start))
    assert logged == {("rcpt", "reject", f"key-{kind}"): GUESSES // len(KINDS) for kind in KINDS}
    assert not host.app.taken
    assert not host.postfix.queue()
    grown = resident(host) - before
    print(f"resident {before} kB, and {grown} kB more")
    assert grown < GROWTH


def test_among_guesses_a_live_key_lives(host: MilterHost, asked: FaultyApp) -> None:
    """The one good key among a thousand on a connection gets its 250, and is the only one the app is asked about."""
    requests = len(asked.requests)
    tried = [recipient for _, recipient in guesses(host, CONNECTIONS + 2)]
    tried.insert(500, f"signed+{host.made.key('alive')}@{DOMAIN}")
    said = guess(host, tried)
    assert [at for at, reply in enumerate(said) if reply != REFUSED] == [500]
    assert said[500] == "250 2.1.5 Ok"
    assert len(asked.requests) == requests + 1


def test_guesses_at_once_are_few_questions(host: MilterHost, asked: FaultyApp) -> None:
    """Ten thousand guesses of a hundred made-up keys, from many connections at once: each key is asked about a few times."""
    requests = len(asked.requests)
    names = [f"asked+guess{number}@{DOMAIN}" for number in range(100)]
    with ThreadPoolExecutor(AT_ONCE * 2) as pool:
        said = [reply for replies in pool.map(lambda _: guess(host, names * 5), range(20)) for reply in replies]
    assert Counter(said) == {REFUSED: 10_000}
    asked_about = Counter(json.loads(request.body)["data"]["key"]["raw"] for request in asked.requests[requests:])
    assert set(asked_about) == {f"guess{number}" for number in range(100)}
    print(f"{asked_about.total()} questions for 10,000 guesses")
    assert asked_about.total() <= 1_000, "what was answered is known for a while"


def ended_after(host: MilterHost, most: int) -> list[str]:
    """The replies to guesses on one connection until Postfix ends it (421); [] where it has not after so many."""
    said: list[str] = []
    with host.session() as session:
        session.command("MAIL FROM:<guesser@example.net>")
        while len(said) <= most:
            reply = session.command(f"RCPT TO:<signed+guess{len(said)}@{DOMAIN}>")
            if reply.code == 421:
                return said
            said.append(str(reply))
    return []


def test_postfix_ends_a_guesser_s_connection(host: MilterHost) -> None:
    """With Postfix's own limit of errors (20 by default) a connection is worth twenty guesses."""
    host.postfix.set(smtpd_hard_error_limit="20")
    try:  # an smtpd that was idle may take one connection more before it sees that the setting is another
        said = wait_for(lambda: ended_after(host, 21), what="an end of the connection")
        assert set(said) == {REFUSED}
        assert len(said) <= 20
    finally:
        host.postfix.set(smtpd_hard_error_limit="10000")
