"""What an enemy tried against the milter and found open, row by row: each stays shut.

Promises: both doors are real, and so are the checks of the sender; only DNS is a table of the test's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from gatepost.authentication import Authenticator, Resolver
from gatepost.authentication.resolver import Answer, Questions
from gatepost.decision import Sender, rule_decision
from gatepost.dialogue import Dialogue, Ending
from gatepost.mail.canonical import crlf
from gatepost.settings import ParserLimits
from tests.test_ask import KeyApp
from tests.test_dialogue import PERSON, TEXT, House, arrived, built

EVIL = "attacker@evil.example"
VICTIM = "victim@good.example"


class Zones(Resolver):
    """evil.example lets 192.0.2.7 send for it, good.example nobody; both ask for DMARC."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def questions(self, deadline: float, limit: int) -> Questions:
        return Questions(self, deadline, limit)

    def ask(self, name: str, kind: str, deadline: float) -> Answer:
        assert deadline > time.monotonic()
        self.asked.append((name, kind))
        texts = {"evil.example": b"v=spf1 ip4:192.0.2.7 -all", "good.example": b"v=spf1 -all"}
        texts |= dict.fromkeys(("_dmarc.evil.example", "_dmarc.good.example"), b"v=DMARC1; p=reject")
        return Answer(exists=True, records=(texts[name],) if kind == "TXT" and name in texts else ())


@pytest.fixture(name="app")
def _app() -> Iterator[KeyApp]:
    with KeyApp(live=()) as running:
        yield running


def opened(folder: Path, app: KeyApp, more: str = "") -> House:
    """Both doors; who looks senders up is what the dialogue makes itself, but for the zones."""
    made = built(folder, app, more)
    house = House(made, app)
    house.dialogue.close()
    milter = made.settings.milter
    assert milter is not None
    house.dialogue = Dialogue(made.settings, now=house.clock)
    found = house.dialogue._authenticator
    assert isinstance(found, Authenticator)
    found._resolver = Zones()
    return house


def two_faced(*, whole: int, cut: int) -> bytes:
    """A From that names the victim where only `cut` octets are read of it, and the attacker where all are."""
    face, true = f"From: {VICTIM}".encode(), f"<{EVIL}>\r\n".encode()
    room = whole - len(face) - len(true)
    folds = b"\r\n " * (room // 3)
    assert len(face) + len(folds) >= cut
    return face + b" " * (room - len(folds)) + folds + true


def filler(octets: int) -> bytes:
    """Fields of together so many octets, each shorter than Postfix's bound."""
    each = b"X-Filler: " + b"x" * 49_988 + b"\r\n"
    rest = octets % len(each)
    assert rest > 20
    return each * (octets // len(each)) + b"X-Filler: " + b"x" * (rest - 12) + b"\r\n"


TWO_FACED = [
    ("the head's limit", "", two_faced(whole=5_000, cut=3_000), ParserLimits().header_bytes,
     "the doors read what stands in front of the message, and so stop at different octets of it"),
    ("a field's limit", "parser: {field_bytes: 1000}", two_faced(whole=5_000, cut=1_000), 0,
     "who checks the sender must read as much of it as who decides"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "author", "ends_at"), [row[1:4] for row in TWO_FACED], ids=[row[0] for row in TWO_FACED])
def test_a_from_that_is_cut_names_nobody(tmp_path: Path, app: KeyApp, more: str, author: bytes, ends_at: int) -> None:
    """Whoever cuts From, the attacker is not verified under the victim's name, and the victim's key does not take his mail."""
    house = opened(tmp_path, app, more)
    head = (filler(ends_at - len(author)) if ends_at else b"") + author
    message = arrived(house.to("owned", house.key(owner=VICTIM)), sender=EVIL, client_address="192.0.2.7",
                      raw=head + b"To: x\r\nSubject: x\r\n\r\nx\r\n")  # fmt: skip
    ending = house.dialogue.end(message)
    assert (ending.action, ending.decision.rule) == ("reject", "sender-mismatch")
    house.dialogue.close()


#: What a stranger writes to look as if the trusted relay had had the message, and vouched for its sender.
PRETENCE = (
    "Received: from x (x [198.51.100.1]) by relay.example.com with ESMTP id F; Sat, 21 Nov 2026 10:00:00 +0000\n"
    "Authentication-Results: relay.example.com; dmarc=pass header.from=example.org; spf=pass smtp.mailfrom=example.org\n"
)


def test_nobody_is_a_trusted_host_by_saying_so(tmp_path: Path, app: KeyApp) -> None:
    """Where no DNS is asked, the milter still knows whom it talks to: a stranger's hop and results of the relay's name are his own."""
    house = House(built(tmp_path, app, edit=lambda more: more.replace("authserv_id:", "authenticate: [], authserv_id:")), app)
    house.dialogue.close()
    house.dialogue = Dialogue(house.settings, now=house.clock)
    own = house.to("owned", house.key(owner="person@example.org"))
    raw = crlf(f"{PRETENCE}{PERSON}{TEXT}".encode())
    for name, rule in (
        ("unknown", "sender-unverified"),
        ("relay.example.net", "sender-unverified"),
        ("relay.example.com", "accepted"),
    ):
        message = arrived(own, house.to(), raw=raw, client_name=name, queue_id=f"Q{name}")
        ending = house.dialogue.end(message)
        assert house.behind(own, ending, message).decision.rule == rule, name
    house.dialogue.close()


def test_while_the_milter_is_down_nobody_vouches_in_writing(tmp_path: Path, app: KeyApp) -> None:
    """default_action=accept: what comes without a stamp may have been written by anybody, so its sender is unknown, and no notice
    of a refusal goes to a MAIL FROM that nobody has checked.
    """
    house = House(
        built(tmp_path, app, edit=lambda more: more.replace("automatic: reject", "automatic: accept, spam: reject")), app
    )
    passed = Ending(action="accept", decision=rule_decision("accept", "accepted"))
    own = house.to("owned", house.key(owner="person@example.org"))
    message = arrived(own, raw=crlf(f"{PRETENCE}{PERSON}{TEXT}".encode()), client_name="unknown")
    receipt = house.behind(own, passed, message)
    assert (receipt.decision.action, receipt.decision.rule) == ("park", "sender-unverified")
    assert not receipt.decision.sender.mail_from_verified
    spam = message.replace(raw=crlf(f"{PRETENCE}X-Spam-Flag: YES\n{PERSON}{TEXT}".encode()), queue_id="Q2")
    receipt = house.behind(house.to("strict"), passed, spam)
    assert (receipt.decision.action, receipt.decision.rule) == ("park", "spam")
    house.dialogue.close()


def test_what_dns_left_open_does_not_wait_for_days_behind_the_queue(tmp_path: Path, app: KeyApp) -> None:
    """The message goes on for another recipient, and nobody asks DNS again: a deferral there would last four days for nothing."""
    house = House(built(tmp_path, app), app)
    house.checks.sender = Sender(verified="unknown", temporary=True)
    own = house.to("owned", house.key(owner="person@example.org"))
    assert house.dialogue.end(arrived(own)).action == "defer", "alone it is the sender's host that waits"
    message = arrived(own, house.to(), queue_id="Q2")
    ending = house.dialogue.end(message)
    assert ending.action == "accept"
    receipt = house.behind(own, ending, message)
    assert (receipt.decision.action, receipt.decision.rule) == ("park", "sender-unverified")
    house.dialogue.close()


def test_a_thousand_recipients_that_discard_are_told_in_one_pass(tmp_path: Path, app: KeyApp) -> None:
    """Whom to delete is looked up once: with a look for each pair, one message held the process for three seconds."""
    house = House(built(tmp_path, app), app)
    to = tuple(house.to("reply", house.key(str(n))) for n in range(200))
    message = arrived(*to, head="Auto-Submitted: auto-replied\n", others=True)
    calls = 0

    def count(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_name == "_form"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        ending = house.dialogue.end(message)
    finally:
        sys.setprofile(before)
    assert len(ending.delete) == len(to)
    assert calls < 10 * len(to)
    house.dialogue.close()
