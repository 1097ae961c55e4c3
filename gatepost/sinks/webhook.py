"""The webhook: posts a message to the app, signed by Standard Webhooks, and reads from the answer whether the app has it.

Promises: "delivered" only for an answer that the app itself gave, whole, with a 2xx; the body is the same on every attempt, the
signature is fresh; ends by its deadline.
Never: raises for what the other side does; follows a redirect; takes a login page for an answer.
"""

from __future__ import annotations

from binascii import b2a_base64

from gatepost import __version__
from gatepost.digest import hmac_sha256
from gatepost.sinks.delivery import DETAIL_LIMIT, TEXT_LIMIT, Outcome, one_line
from gatepost.sinks.http_post import parse_url, post
from gatepost.sinks.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.settings import Sink
    from gatepost.sinks.delivery import Delivery, OutcomeKind
    from gatepost.sinks.http_post import Answer, Post

__all__ = ["deliver", "judge", "signature", "signed_fields"]

_PROBE: Final = "A probe by gatepost doctor, which came by mail. It carries no message: answer 2xx."
#: Characters of an app's explanation that the log gets.
_EXPLANATION: Final = 120
#: What an HTML page begins with, in lower case, behind white space and a byte order mark.
_PAGE_STARTS: Final = (b"<!doctype", b"<html", b"<head", b"<body", b"<title", b"<meta", b"<script", b"<!--")

#: What a status says that is no 2xx; the rest is "unavailable".
_CANNOT_TAKE: Final = (400, 413, 415, 422)
_MISCONFIGURED: Final = (401, 403, 404, 410)
#: Where a message cannot be the reason: nobody behind the proxy, or too much to do (RFC 9110 15.6.3 to 15.6.5). Not 500: one
#: sender's mail on which an app stumbles must not keep everybody's away.
_GONE: Final = (502, 503, 504)
_MEND: Final = {
    401: "it does not know us: check the sink's secret and the app's login rules for this URL",
    403: "it forbids this: check the sink's secret, the app's CSRF protection and its rights for this URL",
    404: "there is nothing at this URL: check the sink's URL",
    410: "this URL is gone for good: check the sink's URL",
}


def deliver(
    sink: Sink, delivery: Delivery, *, deadline: float, now: Callable[[], float], post: Post = post
) -> Outcome:  # fmt: skip
    """One attempt. `deadline`: time.monotonic() seconds. `now`: Unix seconds, for the signature. `post`: by which way."""
    kind, body = _body(sink, delivery)
    fields = signed_fields(sink.secrets, delivery.id, kind, *body, now=now())
    try:
        answer = post(parse_url(sink.target), fields, *body, ca_file=sink.ca_file, deadline=deadline)
    except WireError as error:
        return _outcome(error.kind, str(error)).replace(gone=str(error) if error.gone else "")
    return judge(answer, delivery.id, confirm=sink.confirm)


def _body(sink: Sink, delivery: Delivery) -> tuple[str, tuple[bytes, ...]]:
    """Content-Type, and the body's parts."""
    if delivery.decision.rule == "probe":
        from gatepost.probe import body as probe_body

        return "application/json", (probe_body(delivery.id, _PROBE, at=delivery.received_at),)
    if sink.format == "raw":
        from gatepost.sinks.head_fields import gatepost_fields, with_fields, without_fields

        return "message/rfc822", with_fields(without_fields(delivery.message.raw), gatepost_fields(delivery))
    from gatepost.sinks.envelope_json import body

    return "application/json", body(delivery)


def signed_fields(secrets: tuple[bytes, ...], webhook_id: str, kind: str, *body: bytes, now: float) -> list[tuple[str, str]]:
    """A signed request's fields. `secrets`: every one signs; none: no signature. `kind`: Content-Type. `now`: Unix seconds."""
    stamp = str(int(now))
    fields = [
        ("User-Agent", f"gatepost/{__version__}"),
        ("Content-Type", kind),
        ("webhook-id", webhook_id),
        ("webhook-timestamp", stamp),
    ]
    if secrets:
        fields.append(("webhook-signature", " ".join(signature(secret, webhook_id, stamp, *body) for secret in secrets)))
    return fields


def signature(secret: bytes, webhook_id: str, timestamp: str, *body: bytes) -> str:
    """Standard Webhooks 1.0: "v1," and the base64 of HMAC-SHA256 over id.timestamp.body."""
    digest = hmac_sha256(secret, f"{webhook_id}.{timestamp}.".encode(), *body)
    return "v1," + b2a_base64(digest, newline=False).decode("ascii")


def judge(answer: Answer, webhook_id: str, *, confirm: bool) -> Outcome:
    """What an answer means: the table of docs/webhook.md."""
    shown = f"{answer.status} {answer.reason}".strip()
    if 200 <= answer.status < 300:
        return _judge_success(answer, shown, webhook_id, confirm=confirm)
    if 300 <= answer.status < 400:
        to = answer.fields.get("location", "").partition("?")[0]
        return _outcome("misconfigured", f"{shown}: a redirect{' to ' + to if to else ''} is not the app and is never "
                                         "followed: check the sink's URL and the app's login rules for it")  # fmt: skip
    detail = shown + _retry_after(answer) + _explanation(answer)
    if answer.status in _CANNOT_TAKE:
        return _outcome("cannot-take", detail)
    if answer.status in _MISCONFIGURED:
        return _outcome("misconfigured", f"{detail}: {_MEND[answer.status]}")
    return _outcome("unavailable", detail).replace(gone=f"it answers {answer.status}" if answer.status in _GONE else "")


def _judge_success(answer: Answer, shown: str, webhook_id: str, *, confirm: bool) -> Outcome:
    if answer.fault:
        late = _outcome("unavailable", f"{shown}, but {answer.fault}")
        return late.replace(gone=f"{answer.status}, but {answer.fault}" if answer.late else "")
    if answer.body and answer.fields.get("content-encoding", "identity").lower() != "identity":
        return _outcome("unavailable", f"{shown}, but its body is encoded and cannot be read: answer without Content-Encoding")
    word = _own_words(answer.body)
    verdict = word.get("gatepost")
    if verdict == "refuse":
        text = word.get("text")
        return Outcome(kind="refused", detail=one_line(f"{shown}, refused", DETAIL_LIMIT),
                       text=one_line(text, TEXT_LIMIT) if isinstance(text, str) else "")  # fmt: skip
    if verdict not in (None, "accepted"):
        return _outcome("unavailable", f'{shown}, but "gatepost" is neither "accepted" nor "refuse"')
    echoed = word.get("id") == webhook_id or answer.body.strip() == webhook_id.encode("ascii")
    if verdict is None and not echoed and _is_page(answer):
        return _outcome("misconfigured", f"{shown}, but an HTML page is not the app's answer (a login page?): check the sink's "
                                         "URL and the app's login rules; the app answers JSON, text/plain or 204")  # fmt: skip
    if confirm and not echoed:
        return _outcome("unavailable", f"{shown}, but confirm is on and the answer does not name the id")
    return _outcome("delivered", shown)


def _own_words(body: bytes) -> dict[str, object]:
    """The JSON object that the app speaks to us in (it has a field "gatepost"); {} for any other body."""
    if b"gatepost" not in body:
        return {}
    import json

    try:
        word = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return word if isinstance(word, dict) and "gatepost" in word else {}


def _is_page(answer: Answer) -> bool:
    """Whether the body is an HTML page, by its Content-Type or by how it begins. No body is no page, whatever its type."""
    start = answer.body[:2_048].replace(b"\0", b"")  # UTF-16, for our purpose
    for mark in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"):
        start = start.removeprefix(mark)
    start = start.strip().lower()
    if not start:
        return False
    kind = answer.fields.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or start.startswith(_PAGE_STARTS):
        return True
    return start.startswith(b"<?xml") and b"<html" in start


def _retry_after(answer: Answer) -> str:
    value = answer.fields.get("retry-after", "")
    return f"; Retry-After: {value}" if value else ""


def _explanation(answer: Answer) -> str:
    """The beginning of a body that a person can read."""
    if not answer.body or _is_page(answer):
        return ""
    return f" ({one_line(answer.body[: 4 * _EXPLANATION].decode('utf-8', 'replace'), _EXPLANATION)})"


def _outcome(kind: OutcomeKind, detail: str) -> Outcome:
    return Outcome(kind=kind, detail=one_line(detail, DETAIL_LIMIT))
