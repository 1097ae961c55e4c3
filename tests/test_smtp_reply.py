"""A decision as an SMTP reply: the code fits the status, and nothing but the public text is said."""

from __future__ import annotations

from typing import Any

import pytest

from gatepost.decision import RULES, rule_decision
from gatepost.smtp_reply import Reply, reply_for

REPLIES = [
    ("reject", "key-unknown", "550 5.1.1 No such address", "a dead key, each kind of it"),
    ("reject", "key-revoked", "550 5.1.1 No such address", "the same"),
    ("reject", "sender-denied", "550 5.7.1 Sender is not accepted here", "who may not write"),
    ("reject", "sender-not-allowed", "550 5.7.1 Sender is not accepted here", "the same: nobody learns which list it was"),
    ("reject", "malformed", "550 5.6.0 Message is malformed", "what cannot be read"),
    ("reject", "forged-results", "550 5.6.0 Too many forged header fields", "too many to remove"),
    ("reject", "loop", "550 5.4.6 Mail loop", "RFC 3463 X.4.6"),
    ("reject", "unauthenticated", "550 5.7.26 Sender failed authentication", "RFC 7372 3.4"),
    ("defer", "limit", "451 4.7.1 Too many messages, try later", "try later"),
    ("defer", "ask-unavailable", "451 4.3.0 Temporary failure, try later", "the app's fault or ours"),
    ("defer", "store-unavailable", "451 4.3.0 Temporary storage failure, try later", "ours"),
    ("defer", "sender-unchecked", "451 4.7.0 Sender could not be verified yet, try later", "DNS"),
    ("accept", "accepted", "250 2.0.0 accepted", "it goes on"),
    ("park", "sender-mismatch", "250 2.0.0 Sender is not the one this address was made for", "behind the queue"),
    ("discard", "automatic", "250 2.0.0 Automatic mail is not accepted here", "done with"),
]


@pytest.mark.parametrize(
    ("action", "rule", "text"), [row[:3] for row in REPLIES], ids=[f"{r[0]} {r[1]}: {r[3]}" for r in REPLIES]
)
def test_a_reply(action: Any, rule: str, text: str) -> None:
    """Code, status and text of a decision, on one line."""
    assert str(reply_for(rule_decision(action, rule, detail="secret", route="replies"))) == text


def test_every_refusal_has_a_class_that_fits_its_code() -> None:
    """RFC 2034: the status of a 550 begins with 5, of a 451 with 4. No rule is both; an accepted one is 2."""
    for slug, rule in RULES.items():
        action: Any = {"5": "reject", "4": "defer", "2": "park"}[rule.status[0]]
        reply = reply_for(rule_decision(action, slug))
        assert str(reply.code)[0] == reply.status[0], slug
        assert "%" not in reply.text, "libmilter would take it for a format"


TEXTS = [
    ("Closed\r\n250 2.0.0 Ok", "Closed??250 2.0.0 Ok", "no second line"),
    ("geschl\u00f6ssen\0\x1b[2J", "geschl?ssen??[2J", "nothing that a terminal acts on"),
    ("\udcff", "?", "no octet that is no text"),
    ("~ !", "~ !", "printable ASCII as it is"),
]


@pytest.mark.parametrize(("text", "shown"), [row[:2] for row in TEXTS], ids=[row[2] for row in TEXTS])
def test_an_app_s_words_cannot_end_the_line(text: str, shown: str) -> None:
    """What an app says of a refusal stands in the reply as one line of printable ASCII."""
    decision = rule_decision("reject", "app-refused").replace(text=text)
    assert reply_for(decision) == Reply(code=550, status="5.7.1", text=shown)
