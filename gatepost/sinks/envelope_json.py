"""The webhook's body: one JSON object that holds all an app needs to know of a message.

Promises: the same bytes on every attempt; ASCII; no lone surrogate and no U+0000 (databases refuse both: U+FFFD stands there);
valid by docs/webhook.schema.json. The raw message is encoded once: beside a message of n octets stand 1.33 n while it is sent.
Never: depends on the clock or the number of the attempt; parses the message.
"""

from __future__ import annotations

import time
from binascii import b2a_base64

try:
    from _json import encode_basestring_ascii as _quote  # what json.encoder uses; `json` itself costs 5 ms (it imports re)
except ImportError:  # another Python than CPython
    from json.encoder import py_encode_basestring_ascii as _quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.decision import Decision
    from gatepost.mail.authentication_results import AuthenticationResults
    from gatepost.mail.message import Mailboxes, Message
    from gatepost.sinks.delivery import Delivery

    Plain = None | int | str | list["Plain"] | tuple["Plain", ...] | dict[str, "Plain"]

__all__ = ["VERSION", "body", "encode"]

#: The version of `data`; it grows when a field is removed or changes its meaning, not when one is added.
VERSION: Final = 1


def body(delivery: Delivery) -> tuple[bytes, ...]:
    """The request's body in parts."""
    head = encode(
        {
            "type": "message.received",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(delivery.received_at)),
            "data": _data(delivery),
        }
    )
    # `raw` is the last field: only the closing braces of `data` and of the whole stand behind it.
    return head[:-2].encode("ascii") + b',"raw":"', b2a_base64(delivery.message.raw, newline=False), b'"}}'


def _data(delivery: Delivery) -> dict[str, Plain]:
    """`data` without `raw`."""
    envelope, decision = delivery.envelope, delivery.decision
    return {
        "version": VERSION,
        "id": delivery.id,
        "route": delivery.route,
        "key": _key(decision),
        "thread": _thread(decision),
        "sender": _sender(delivery),
        "envelope": {
            "sender": envelope.sender,
            "recipient": envelope.recipient,
            "original_recipient": envelope.original_recipient,
            "client_address": envelope.client_address,
            "helo": envelope.helo,
            "queue_id": envelope.queue_id,
        },
        "authentication": _authentication(delivery.authentication),
        "message": _message(delivery.message, delivery.sha256),
        "findings": [
            {"slug": each.slug, "family": each.family, "evidence": each.evidence, "strength": each.strength}
            for each in decision.findings
        ],
        "limits_hit": [*delivery.message.limits_hit],
    }


def _key(decision: Decision) -> Plain:
    key = decision.key
    return {"raw": key.raw, "subject": key.subject, "options": [*key.options], "kind": key.kind} if key else None


def _thread(decision: Decision) -> Plain:
    thread = decision.thread
    return {"found_in": thread.found_in, "parent_message_id": thread.parent_message_id} if thread else None


def _authentication(found: AuthenticationResults | None) -> Plain:
    """The results of each method (RFC 8601 2.2); of properties of one name the first."""
    if found is None:
        return None
    results: list[Plain] = [
        {"method": each.method, "result": each.result, "properties": dict(reversed(each.properties))} for each in found.results
    ]
    return {"authserv_id": found.authserv_id, "results": results}


def _sender(delivery: Delivery) -> Plain:
    """The first mailbox of the From field; RFC 5322 3.6.2 allows several, and `message.from` has them all."""
    first = delivery.message.from_.list[:1]
    address, name = (first[0].address, first[0].name) if first else ("", "")
    return {"address": address, "name": name, "verified": delivery.sender_verified, "by": delivery.sender_verified_by}


def _message(message: Message, sha256: str) -> Plain:
    return {
        "message_id": message.message_id,
        "in_reply_to": [*message.in_reply_to],
        "references": [*message.references],
        "subject": message.subject,
        "from": _mailboxes(message.from_),
        "to": _mailboxes(message.to),
        "cc": _mailboxes(message.cc),
        "date": message.date,
        "sha256": sha256,
    }


def _mailboxes(field: Mailboxes) -> Plain:
    return [{"address": each.address, "name": each.name} for each in field.list]


def encode(value: Plain) -> str:
    """JSON (RFC 8259) without white space, keys in the order given. The depth is the caller's to bound; `_data` has its own."""
    if isinstance(value, str):
        return _quote(_clean(value))
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quote(name)}:{encode(each)}" for name, each in value.items()]) + "}"
    return "[" + ",".join([encode(each) for each in value]) + "]"


def _clean(text: str) -> str:
    """The text with U+FFFD for each lone surrogate (an octet that was not UTF-8, PEP 383) and each U+0000."""
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return "".join(["\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text])
