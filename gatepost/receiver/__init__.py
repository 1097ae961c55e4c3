"""For the app's author: check that a webhook is gatepost's, read it, answer it, and mint keys for the mail that you send.

A webhook brings a message, or asks whether a key is alive (`ask:`, docs/ask.md).

Promises: nothing of a body is looked at before its signature is right; every error is a `ReceiverError` and carries what was
learned; fields that a later gatepost adds are ignored. Needs Python's standard library and gatepost.keys, no configuration.
Never: opens a connection or a file; logs; keeps state (telling a repeated id apart is the app's: docs/receiver.md).
"""

from __future__ import annotations

from gatepost.keys.outgoing import Outgoing
from gatepost.receiver.answers import accepted, key_alive, refuse
from gatepost.receiver.errors import (
    BodyError,
    EventTypeError,
    HeaderError,
    ReceiverError,
    SecretError,
    SignatureError,
    TimestampError,
)
from gatepost.receiver.minting import mint_key, outgoing
from gatepost.receiver.reading import KEY_CHECK, MESSAGE_RECEIVED, Message, key_check, received
from gatepost.receiver.values import Envelope, Finding, Headers, Key, KeyCheck, Mailbox, Received, Sender, Thread
from gatepost.receiver.verifying import verify_webhook

__all__ = [
    "KEY_CHECK",
    "MESSAGE_RECEIVED",
    "BodyError",
    "Envelope",
    "EventTypeError",
    "Finding",
    "HeaderError",
    "Headers",
    "Key",
    "KeyCheck",
    "Mailbox",
    "Message",
    "Outgoing",
    "Received",
    "ReceiverError",
    "SecretError",
    "Sender",
    "SignatureError",
    "Thread",
    "TimestampError",
    "accepted",
    "key_alive",
    "key_check",
    "mint_key",
    "outgoing",
    "received",
    "refuse",
    "verify_webhook",
]
