"""`gatepost try ADDRESS|FILE.eml`: what would happen to a message here and now, and on what evidence.

Promises: the same decision, by the same code, that the pipe script would make of a message it sees for the first time; and,
where there is a milter, the answers that it would give at RCPT and at the end of the message (but for `limits:`, which only the
store knows). With `--ip` it checks the sender as the milter does, by DNS. A key of a route with `ask:` is asked about.
Never: hands anything over, or touches the store.
"""

from __future__ import annotations

import json
import os
import sys
import time

from gatepost import consequences, policy
from gatepost.cli import add_common
from gatepost.cli.terminal import shown
from gatepost.client_address import numbers
from gatepost.config import load
from gatepost.decision import Envelope
from gatepost.dialogue import authenticator_for
from gatepost.discovery import discover
from gatepost.errors import GatepostError
from gatepost.facts import facts_for, question
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import parse
from gatepost.mail.received import received
from gatepost.smtp_reply import reply_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from gatepost.authentication import Checked
    from gatepost.decision import Decision
    from gatepost.mail.message import Message
    from gatepost.settings import Settings

__all__ = ["add_arguments", "run"]

_ANYBODY = "person@example.org"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost try`."""
    parser.add_argument("what", metavar="ADDRESS|FILE", help="a recipient, or a file with a message (- for standard input)")
    parser.add_argument(
        "--recipient", metavar="ADDRESS", help="the envelope's recipient (default with FILE: whom its head names)"
    )
    parser.add_argument("--sender", metavar="ADDRESS", help="MAIL FROM; '' is the null sender (default: the From address)")
    parser.add_argument("--ip", metavar="ADDRESS", help="the client's address: the sender is checked as the milter would")
    parser.add_argument("--helo", default="unknown", metavar="NAME", help="what the client calls itself (with --ip)")
    parser.add_argument("--queue-id", default="", metavar="ID", help="default: the one in the topmost Received field")
    add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0: the message would be accepted, for every recipient of ours. 1: it would not."""
    settings = load(arguments.config)
    if arguments.ip and numbers(arguments.ip) is None:
        raise GatepostError(f"--ip: {arguments.ip!r} is no IPv4 or IPv6 address")
    refused = 0
    for envelope, message, found_in in _cases(arguments, settings):
        checked = _check_sender(envelope, message, settings) if arguments.ip else None
        facts = _facts(envelope, message, settings, checked)
        decided = policy.decide(envelope, message, settings, facts)
        decision = consequences.behind_queue(decided, settings, envelope)
        answers = _smtp_answers(envelope, settings, facts, decided) if settings.milter is not None else ()
        refused += decision.action != "accept"
        if arguments.json:
            print(json.dumps(_plain(decision, decided, envelope, answers, checked)))
            continue
        if found_in:
            print(f"to {shown(envelope.recipient)} (named by {found_in})")
        for stage, answer in answers:
            print(f"{stage}: {answer}")
        if checked is not None:
            print(f"sender: {checked.sender.verified} ({checked.sender.by or 'nobody says so'})")
            print(f"checked: {' '.join(_results_value(checked, settings).split())}")
        if answers:
            print("behind the queue, where the milter did not see it:")
        _show(decision, decided, settings)
    return 1 if refused else 0


def _facts(envelope: Envelope, message: Message, settings: Settings, checked: Checked | None) -> policy.Facts:
    """What the doors would know: the files, the sender where it was checked, and what the app says of the key."""
    facts = facts_for(envelope, settings, time.time())
    if checked is not None:
        facts = facts.replace(sender=checked.sender, direct=True)
    key = policy.key_to_ask(envelope, message, settings, facts)
    if key is None:
        return facts
    from gatepost.ask import DEADLINE, ask

    answer = ask(question(envelope, settings, key), deadline=time.monotonic() + DEADLINE)
    return facts.replace(alive=answer.alive)


def _check_sender(envelope: Envelope, message: Message, settings: Settings) -> Checked:
    """SPF, DKIM, DMARC and ARC of this message from this client. GatepostError where they cannot be asked."""
    milter = settings.milter
    if milter is None or not milter.authenticate:
        raise GatepostError("--ip: no milter: with authenticate: in the configuration, so no sender is checked")
    try:
        checker = authenticator_for(milter, settings.parser)
        from gatepost.authentication import Mail
    except ImportError as error:
        raise GatepostError(f"--ip: {error.name} is not installed: pip install 'gatepost[milter]'") from error
    assert checker is not None  # authenticate: names a method
    mail = Mail(client_address=envelope.client_address, helo=envelope.helo, mail_from=envelope.sender, raw=message.raw,
                host=milter.authserv_id)  # fmt: skip
    return checker.check(mail, deadline=time.monotonic() + milter.dns_deadline)


def _results_value(checked: Checked, settings: Settings) -> str:
    """The Authentication-Results that the milter would write."""
    from gatepost.authentication import results_value

    return results_value(checked, settings.milter.authserv_id if settings.milter is not None else "")


def _smtp_answers(
    envelope: Envelope, settings: Settings, facts: policy.Facts, decided: Decision
) -> tuple[tuple[str, str], ...]:
    """What the milter would answer at RCPT and, where it gets so far, at the end of the message to this recipient alone."""
    first = policy.at_recipient(envelope, settings, facts)
    if first.rule in ("no-route", "role-address"):
        return (("RCPT", "left to Postfix: no route takes it"),)
    if first.action != "accept":
        return (("RCPT", str(reply_for(first))),)
    return ("RCPT", "250, goes on"), ("end of message", str(reply_for(decided)))


def _cases(arguments: argparse.Namespace, settings: Settings) -> list[tuple[Envelope, Message, str]]:
    """The envelopes and the message that the command line describes; where it names no recipient, those that the head names."""
    if arguments.what != "-" and not os.path.exists(arguments.what):
        if "@" not in arguments.what:
            raise GatepostError(f"{arguments.what}: there is no such file, and it is no address")
        sender = _ANYBODY if arguments.sender is None else arguments.sender
        raw = f"From: {sender or _ANYBODY}\r\nTo: {arguments.what}\r\nSubject: try\r\n\r\ntry\r\n"
        envelope = _envelope(arguments, sender, arguments.what, arguments.queue_id)
        return [(envelope, parse(raw.encode("utf-8", "surrogateescape"), settings.parser), "")]
    message = parse(from_pipe(_read(arguments.what)), settings.parser)
    sender = arguments.sender
    if sender is None:
        sender = message.from_.list[0].address if message.from_.list else _ANYBODY
    queue_id = arguments.queue_id or _topmost_id(message)
    if arguments.recipient:
        return [(_envelope(arguments, sender, arguments.recipient, queue_id), message, "")]
    found = discover(message, settings, now=time.time())
    if not found:
        raise GatepostError("the message names no address of ours: give --recipient ADDRESS (and --sender)")
    return [(_envelope(arguments, sender, each.recipient, queue_id), message, each.found_in) for each in found]


def _envelope(arguments: argparse.Namespace, sender: str, to: str, queue_id: str) -> Envelope:
    client = arguments.ip or ""
    return Envelope(sender=sender, recipient=to, queue_id=queue_id, client_address=client, helo=arguments.helo)


def _topmost_id(message: Message) -> str:
    """The queue ID that the last host to take the message wrote: a file kept on this host has ours on top."""
    top = message.headers.first("received")
    return received(top.value).id if top is not None else ""


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise GatepostError(f"{path}: {error.strerror}") from error


def _plain(
    decision: Decision, decided: Decision, envelope: Envelope, answers: tuple[tuple[str, str], ...], checked: Checked | None
) -> dict[str, object]:
    """`action` is what happens behind the queue; `decided` what the policy said before after_queue; `smtp`: the milter."""
    return {
        "action": decision.action,
        "decided": decided.action,
        "rule": decision.rule,
        "status": decision.status,
        "text": decision.text,
        "route": decision.route or None,
        "recipient": envelope.recipient.encode("utf-8", "replace").decode(),
        "smtp": [{"stage": stage, "answer": answer} for stage, answer in answers],
        "sender": None if checked is None else dict(checked.sender.__dict__),
        "id": None,  # made of the queue ID: only a message in the queue has one
        "key": decision.key
        and {"kind": decision.key.kind, "subject": decision.key.subject, "options": list(decision.key.options)},
        "thread": decision.thread and dict(decision.thread.__dict__),
        "findings": [dict(finding.__dict__) for finding in decision.findings],
        "trace": [dict(step.__dict__) for step in decision.trace],
    }


def _show(decision: Decision, decided: Decision, settings: Settings) -> None:
    print(f"{decision.action}  rule={decision.rule}  route={decision.route or '-'}  {decision.status} {decision.text}")
    if decision.action != decided.action:
        print(
            f"  the rule says {decided.action}; behind the queue after_queue: {settings.after_queue} makes it {decision.action}"
        )
    if decision.key is not None:
        print(f"  key names {decision.key.subject}")
    if decision.thread is not None:
        print(f"  answers {shown(decision.thread.parent_message_id)} ({decision.thread.found_in})")
    print()
    for step in decision.trace:
        print(f"  {'->' if step.applied else '  '} {step.rule:<18} {shown(step.evidence)}")
        if step.applied:
            break
    others = [finding for finding in decision.findings if finding.family == "parser"]
    for finding in others:
        print(f"     noticed: {finding.slug}")
