"""`gatepost try ADDRESS|FILE.eml`: what would happen to a message here and now, and on what evidence.

Promises: the same decision, by the same code, that the pipe script would make of a message it sees for the first time.
Never: hands anything over, or touches the store.
"""

from __future__ import annotations

import json
import os
import sys
import time

from gatepost import policy
from gatepost.cli import add_common
from gatepost.cli.terminal import shown
from gatepost.config import load
from gatepost.decision import Envelope
from gatepost.discovery import discover
from gatepost.errors import GatepostError
from gatepost.gateway import facts_for
from gatepost.mail.canonical import from_pipe
from gatepost.mail.message import parse
from gatepost.mail.received import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

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
    parser.add_argument("--queue-id", default="", metavar="ID", help="default: the one in the topmost Received field")
    add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0: the message would be accepted, for every recipient of ours. 1: it would not."""
    settings = load(arguments.config)
    refused = 0
    for envelope, message, found_in in _cases(arguments, settings):
        facts = facts_for(envelope, settings, time.time())
        decided = policy.decide(envelope, message, settings, facts)
        decision = policy.behind_queue(decided, settings, facts, envelope)
        refused += decision.action != "accept"
        if arguments.json:
            print(json.dumps(_plain(decision, decided, envelope)))
            continue
        if found_in:
            print(f"to {shown(envelope.recipient)} (named by {found_in})")
        _show(decision, decided, settings)
    return 1 if refused else 0


def _cases(arguments: argparse.Namespace, settings: Settings) -> list[tuple[Envelope, Message, str]]:
    """The envelopes and the message that the command line describes; where it names no recipient, those that the head names."""
    if arguments.what != "-" and not os.path.exists(arguments.what):
        if "@" not in arguments.what:
            raise GatepostError(f"{arguments.what}: there is no such file, and it is no address")
        sender = _ANYBODY if arguments.sender is None else arguments.sender
        raw = f"From: {sender or _ANYBODY}\r\nTo: {arguments.what}\r\nSubject: try\r\n\r\ntry\r\n"
        envelope = Envelope(sender=sender, recipient=arguments.what, queue_id=arguments.queue_id)
        return [(envelope, parse(raw.encode("utf-8", "surrogateescape"), settings.parser), "")]
    message = parse(from_pipe(_read(arguments.what)), settings.parser)
    sender = arguments.sender
    if sender is None:
        sender = message.from_.list[0].address if message.from_.list else _ANYBODY
    queue_id = arguments.queue_id or _topmost_id(message)
    if arguments.recipient:
        return [(Envelope(sender=sender, recipient=arguments.recipient, queue_id=queue_id), message, "")]
    found = discover(message, settings, now=time.time())
    if not found:
        raise GatepostError("the message names no address of ours: give --recipient ADDRESS (and --sender)")
    return [(Envelope(sender=sender, recipient=each.recipient, queue_id=queue_id), message, each.found_in) for each in found]


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


def _plain(decision: Decision, decided: Decision, envelope: Envelope) -> dict[str, object]:
    """`action` is what happens behind the queue; `decided` what the policy said before after_queue."""
    return {
        "action": decision.action,
        "decided": decided.action,
        "rule": decision.rule,
        "status": decision.status,
        "text": decision.text,
        "route": decision.route or None,
        "recipient": envelope.recipient.encode("utf-8", "replace").decode(),
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
