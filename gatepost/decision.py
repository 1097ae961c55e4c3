"""What becomes of one message for one recipient: a value, and the table of every rule that may decide.

Promises: a `Decision` names its action, its rule, an enhanced status code (RFC 3463) and a public text. `RULES` lists every
slug that a log, a reply, the ledger or a command can show; a rule that is not in it cannot decide.
Never: a bool or a bare number as a verdict; in a public text, anything that tells one refused key from another.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

    Action = Literal["accept", "reject", "defer", "discard", "park"]

__all__ = ["RULES", "Decision", "Envelope", "Finding", "Key", "Rule", "Sender", "Step", "Thread", "rule_decision"]


class Envelope(Value):
    """What Postfix knows of a message and one of its recipients (RFC 5321); never read from headers.

    `sender` is "" for the null reverse-path. Text that was not UTF-8 holds surrogates (surrogateescape).
    """

    sender: str
    recipient: str
    original_recipient: str = ""
    queue_id: str = ""
    client_address: str = ""
    helo: str = ""


class Finding(Value):
    """One observed fact about a message. `family` says which setting of `screening` judges it.

    `strength`: whether it decides alone or needs a second of another kind (docs/findings.md has both, with the source).
    """

    slug: str
    family: Literal["automatic", "bounces", "loops", "lists", "spam", "parser", "sender"]
    evidence: str
    strength: Literal["alone", "second"] = "alone"


class Sender(Value):
    """Who sent a message, as far as somebody whom we believe says so.

    `verified`: is the From address authenticated; `by`: who says so, and by which method. `mail_from_verified`: SPF passed for
    the domain of MAIL FROM itself. `temporary`: it is unknown because DNS did not answer, and may be known later.
    """

    verified: Literal["yes", "no", "unknown"] = "unknown"
    by: str = ""
    mail_from_verified: bool = False
    temporary: bool = False


class Step(Value):
    """One line of a decision's trace: did this rule apply, and on what evidence."""

    rule: str
    applied: bool
    evidence: str


class Key(Value):
    """A key that was found and checked: as it stood (lower case), what it names, what came with it.

    `kind`: of a format that has several (docs/key-formats.md), else "".
    """

    raw: str
    subject: str
    options: tuple[str, ...] = ()
    kind: str = ""


class Thread(Value):
    """A reply's thread, by a Message-ID of ours: the header field that names it, and that Message-ID with its brackets."""

    found_in: str
    parent_message_id: str


class Decision(Value):
    """One message, one recipient, one verdict. `text` may be seen by anybody; `detail` goes to the log only."""

    action: Action
    rule: str
    status: str
    text: str
    detail: str = ""
    route: str = ""
    key: Key | None = None
    thread: Thread | None = None
    findings: tuple[Finding, ...] = ()
    sender: Sender = Sender()
    trace: tuple[Step, ...] = ()


class Rule(Value):
    """A slug's fixed part: the status of a refusal or deferral under it, its public text, and what it means to a sysadmin."""

    status: str
    text: str
    meaning: str


_NO_SUCH_ADDRESS = "No such address"

RULES: Final[dict[str, Rule]] = {
    # accepted
    "accepted": Rule(status="2.0.0", text="accepted", meaning="every rule let it pass; the first sink has it"),
    # the recipient (RFC 3463 X.1.1: bad destination mailbox address); one text for all, so that a guess learns nothing
    "no-route": Rule(status="5.1.1", text=_NO_SUCH_ADDRESS, meaning="the recipient matches no route's address"),
    "key-unknown": Rule(status="5.1.1", text=_NO_SUCH_ADDRESS, meaning="what stands in the key's place is no key"),
    "key-forged": Rule(status="5.1.1", text=_NO_SUCH_ADDRESS, meaning="has a signed key's form; no secret of ours made it"),
    "key-expired": Rule(status="5.1.1", text=_NO_SUCH_ADDRESS, meaning="a key of ours, past its last day"),
    "key-revoked": Rule(status="5.1.1", text=_NO_SUCH_ADDRESS, meaning="a key of ours that the revoked: file names"),
    "role-address": Rule(
        status="2.0.0", text="kept for a person", meaning="postmaster@ or abuse@ came to gatepost: parked whole, no rule asked"
    ),
    # what the message is (X.7.1: delivery not authorized; X.4.6: routing loop)
    "loop": Rule(status="5.4.6", text="Mail loop", meaning="the message was here before, or we made it"),
    "bounce": Rule(status="5.7.1", text="Delivery reports are not accepted here", meaning="a bounce or delivery report"),
    "automatic": Rule(status="5.7.1", text="Automatic mail is not accepted here", meaning="sent by a machine, not a person"),
    "null-sender": Rule(
        status="5.7.1",
        text="Delivery reports are not accepted here",
        meaning="MAIL FROM:<> and nothing else says what it is: no person sends that",
    ),
    "list": Rule(status="5.7.1", text="Mailing lists are not accepted here", meaning="came through a mailing list"),
    "spam": Rule(status="5.7.1", text="Message was marked as spam", meaning="a trusted host's filter says that it is spam"),
    "malformed": Rule(
        status="5.6.0", text="Message is malformed", meaning="its head is past a limit of `parser:`, so not all of it was read"
    ),
    "sender-denied": Rule(
        status="5.7.1", text="Sender is not accepted here", meaning="sender.deny names the client, MAIL FROM or From"
    ),
    "sender-not-allowed": Rule(
        status="5.7.1", text="Sender is not accepted here", meaning="sender.allow names neither the client nor a verified From"
    ),
    "sender-mismatch": Rule(
        status="5.7.1",
        text="Sender is not the one this address was made for",
        meaning="must-match: the From address is not the key's owner",
    ),
    "sender-unverified": Rule(
        status="5.7.1", text="Sender could not be verified", meaning="must-match: nobody authenticated the From address"
    ),
    "sender-unchecked": Rule(
        status="4.7.0",
        text="Sender could not be verified yet, try later",
        meaning="must-match or sender.allow needs a verified sender, and DNS did not answer",
    ),
    "unauthenticated": Rule(
        status="5.7.26",  # RFC 7372 3.4
        text="Sender failed authentication",
        meaning="a trusted host says that the From address is not authentic, or From names nobody",
    ),
    "forged-results": Rule(
        status="5.6.0",
        text="Too many forged header fields",
        meaning="more than 50 fields claim to be this host's own results: refused, for removing them would hold Postfix up",
    ),
    "probe": Rule(
        status="2.0.0",
        text="a probe",
        meaning="gatepost doctor --chain sent it, to see that mail comes through: no message",
    ),
    # what became of it behind the decision
    "app-refused": Rule(
        status="5.7.1", text="Refused by the application", meaning="the app said so in its answer or exit status"
    ),
    "app-cannot-take": Rule(
        status="4.3.0",
        text="The application cannot take this message yet",
        meaning="the app answered 400, 413, 415 or 422; parked after 3 tries",
    ),
    "app-misconfigured": Rule(
        status="4.3.5",
        text="Mail system configuration error",
        meaning="the app answered 401, 403, 404 or 410: URL, secret or rights are wrong",
    ),
    "app-unavailable": Rule(
        status="4.4.1",
        text="The application is not available, try later",
        meaning="the sink did not take it, or did not answer in time: it stays in Postfix's queue",
    ),
    "gave-up": Rule(
        status="2.0.0",
        text="kept for a person",
        meaning="first seen more than give_up_after ago: parked whole before Postfix would bounce it",
    ),
    "limit": Rule(
        status="4.7.1",
        text="Too many messages, try later",
        meaning="more came for the key, from the sender or to the route than `limits:` lets pass; the next try asks again",
    ),
    "ask-unavailable": Rule(
        status="4.3.0", text="Temporary failure, try later", meaning="the app did not say whether the key is alive (ask:)"
    ),
    "in-flight": Rule(
        status="4.3.2", text="Already being delivered, try later", meaning="another run of the same message holds the lease"
    ),
    # our own faults: always a deferral
    "incomplete-input": Rule(
        status="4.3.0", text="Message was cut off, try later", meaning="standard input ended before the whole message was there"
    ),
    "deadline": Rule(status="4.3.0", text="Took too long, try later", meaning="timing.deadline passed"),
    "interrupted": Rule(status="4.3.2", text="Interrupted, try later", meaning="a signal ended the run"),
    "overloaded": Rule(
        status="4.3.2",
        text="Too many messages at once, try later",
        meaning="as many messages, or bytes, are in flight as `lmtp:` allows, and none was done with soon enough",
    ),
    "no-server": Rule(
        status="4.3.2",
        text="Temporarily not available, try later",
        meaning="no warm process answers the thin pipe script as it should, and `lmtp.fallback` is `defer`",
    ),
    "config-error": Rule(
        status="4.3.5",
        text="Mail system configuration error",
        meaning="the configuration cannot be used: run gatepost config check",
    ),
    "store-unavailable": Rule(
        status="4.3.0",
        text="Temporary storage failure, try later",
        meaning="the store cannot be opened, is locked, full or corrupt",
    ),
    "parked-full": Rule(
        status="4.3.1",
        text="Mail system full, try later",
        meaning="parked mail is at its cap with mail that must not be dropped",
    ),
    "internal-error": Rule(status="4.3.0", text="Temporary failure, try later", meaning="what nobody foresaw"),
}


def rule_decision(action: Action, rule: str, *, detail: str = "", route: str = "") -> Decision:
    """A decision with the rule's own status and text; KeyError for a slug that `RULES` does not list."""
    fixed = RULES[rule]
    return Decision(action=action, rule=rule, status=fixed.status, text=fixed.text, detail=detail, route=route)
