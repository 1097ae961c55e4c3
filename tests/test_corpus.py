"""The corpus: every message that is written down in tests/corpus gets the decision that stands beside it."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from gatepost.consequences import behind_queue
from gatepost.decision import Envelope
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import parse
from gatepost.mail.received import received
from gatepost.policy import ORDER, decide
from tests.corpus_cases import FAMILIES, SETTINGS, Case, cases

#: The families that say what a message is; what the parser noticed is asked apart.
SCREENED: Final = ("automatic", "bounces", "loops", "lists", "spam")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_message_of_the_corpus_gets_its_decision(case: Case) -> None:
    """Findings, rule, action, the action behind the queue and the sender are the table's; for odd bytes the flags too."""
    envelope = Envelope(sender=case.sender, recipient=case.recipient, queue_id=case.queue_id)
    message = parse(from_pipe(case.raw), SETTINGS.parser)
    decision = decide(envelope, message, SETTINGS, case.facts)
    found = {finding.slug for finding in decision.findings if finding.family in SCREENED}
    assert found == case.finding, case.reason
    assert (decision.rule, decision.action) == (case.rule, case.action), case.reason
    assert behind_queue(decision, SETTINGS, envelope).action == case.behind, case.reason
    assert (decision.sender.verified, decision.sender.mail_from_verified) == (case.verified, case.mail_from), case.reason
    if case.flags is not None:
        assert message.flags == case.flags, case.reason


def test_the_corpus_is_large_enough() -> None:
    """At least 330 messages, at least 130 of them a person's that pass, and no family without any."""
    count = Counter(case.family for case in cases())
    assert count.total() >= 330
    assert set(count) == set(FAMILIES)
    people = [case for case in cases() if case.family == "person"]
    assert len(people) >= 130
    assert {case.rule for case in people} == {"accepted"}


def test_every_rule_decides_somewhere_in_the_corpus() -> None:
    """Each rule of policy.ORDER has a message that it decides: a new rule brings its messages along.

    But for the doctor's probe: only a store that expects it tells it from mail (tests/test_probe.py).
    """
    assert {slug for slug, _ in ORDER} - {"probe"} == {case.rule for case in cases()}


@pytest.mark.parametrize("case", [case for case in cases() if case.queue_id], ids=lambda case: case.id)
def test_the_envelopes_queue_id_is_the_one_in_the_topmost_received(case: Case) -> None:
    """A case with a queue ID is what Postfix would hand over: its own Received comes first and carries that ID."""
    first = parse(from_pipe(case.raw), SETTINGS.parser).headers.fields[0]
    assert first.name == "received"
    hop = received(first.value)
    assert (hop.by, hop.id) == ("in.example.com", case.queue_id)
