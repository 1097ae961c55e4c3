"""Is a request gatepost's? Standard Webhooks 1.0.0, as docs/webhook.md tells it.

Promises: nothing of a body is looked at before its signature is right; signatures are compared in constant time.
Never: keeps state: telling a repeated id apart is the app's (docs/receiver.md).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from typing import TYPE_CHECKING, Any, Final

from gatepost.receiver.errors import BodyError, HeaderError, SecretError, SignatureError, TimestampError
from gatepost.receiver.reading import Message, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["verify_webhook"]

TOLERANCE: Final = 300  # seconds: Standard Webhooks' advice; an attempt is signed afresh, so retries are never late
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a mark, no secret
_MIN_SECRET: Final = 24  # bytes: Standard Webhooks asks for 24 to 64
_MAX_DIGITS: Final = 12  # of a timestamp in seconds: beyond the year 30,000


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secrets: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> Message:
    """Check a request by Standard Webhooks 1.0.0 and give what it carries.

    `headers` in any case; `body` as it came, not decoded and encoded again; `secrets`: one or several (while one rotates), each
    `whsec_` and base64; `tolerance` in seconds; `now` in Unix seconds, the clock's time if None. Raises HeaderError,
    SignatureError, TimestampError (answer 401 to these), BodyError (400), SecretError (your own set-up: 500).
    """
    keys = [_webhook_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise SecretError("no webhook secret: give at least one, whsec_ and base64")
    event_id = _header(headers, "webhook-id", id="")
    if "." in event_id:  # it separates id, timestamp and body in what is signed
        raise HeaderError("webhook-id has a dot", header="webhook-id", id=event_id)
    stamp = _header(headers, "webhook-timestamp", id=event_id)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _MAX_DIGITS):
        raise HeaderError("webhook-timestamp is not a number of seconds", header="webhook-timestamp", id=event_id)
    _check_signature(_header(headers, "webhook-signature", id=event_id), keys, event_id, stamp, body)
    off = (time.time() if now is None else now) - int(stamp)
    if abs(off) > tolerance:
        raise TimestampError(
            f"signed {off:.0f} seconds ago, {tolerance:.0f} are allowed: a replay, or a wrong clock",
            id=event_id,
            timestamp=int(stamp),
            off=off,
        )
    content = _content(body, event_id)
    return Message(id=event_id, timestamp=int(stamp), type=text_of(content, "type", "", event_id), body=body, content=content)


def _webhook_key(secret: str) -> bytes:
    text = secret.strip()
    try:
        key = base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_SECRET_PREFIX) or len(key) < _MIN_SECRET:
        raise SecretError(f"a webhook secret is whsec_ and the base64 of {_MIN_SECRET} bytes or more")
    return key


def _header(headers: Mapping[str, str], name: str, *, id: str) -> str:  # noqa: A002
    for given, value in headers.items():
        if given.lower() == name:
            value = value.strip()
            if value:
                return value
    raise HeaderError(f"{name} is missing", header=name, id=id)


def _check_signature(header: str, keys: list[bytes], event_id: str, stamp: str, body: bytes) -> None:
    """Every signature against every key, in constant time; other versions than v1 are not ours to read."""
    signed_content = f"{event_id}.{stamp}.".encode("utf-8", "surrogateescape") + body
    expected = [base64.b64encode(hmac.digest(key, signed_content, "sha256")) for key in keys]
    given = [part[3:].encode("utf-8", "surrogateescape") for part in header.split() if part.startswith("v1,")]
    fits = False
    for mine in expected:
        for theirs in given:
            fits |= hmac.compare_digest(mine, theirs)
    if not fits:
        raise SignatureError(
            "no signature fits: not gatepost's, another secret, or the body is not the bytes that came",
            id=event_id,
            tried=(len(given), len(keys)),
        )


def _content(body: bytes, event_id: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"not JSON: {error}", path="", id=event_id) from None
    if not isinstance(content, dict):
        raise BodyError("not a JSON object", path="", id=event_id)
    return content
