"""Asks the app whether a key is alive: one signed POST, and a yes or no that only the app itself can have given.

Promises: an answer is "yes" or "no" only where the app said so, whole, with status 200 and `{"alive": true}` or
`{"alive": false}`; everything else is "unavailable". Ends by its deadline, and by `DEADLINE` seconds in any case. A live key
and a dead one cost the same. docs/ask.md is the contract.
Never: raises; tells the app anything of a sender or a message; asks twice in one call; puts a key into a detail; imports `json`
before a key is asked about.

For a process that stays there is `asker`.
"""

from __future__ import annotations

import os
import time

from gatepost.sinks.delivery import DETAIL_LIMIT, one_line
from gatepost.sinks.envelope_json import encode
from gatepost.sinks.http_post import parse_url, post
from gatepost.sinks.webhook import signed_fields
from gatepost.sinks.wire import WireError
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal

    from gatepost.sinks.envelope_json import Plain
    from gatepost.sinks.http_post import Answer as HttpAnswer

    Alive = Literal["yes", "no", "unavailable"]

__all__ = ["DEADLINE", "Answer", "Question", "ask", "our_fault", "put", "unavailable"]

#: Seconds for one question, from the name look-up to the answer's last octet, waiting for others included. An SMTP client waits
#: 5 minutes at RCPT (RFC 5321 4.5.3.2.3), but Postfix gives a milter 30 s (milter_command_timeout) for all it does there.
DEADLINE: Final = 5.0
#: The version of `data`; it grows when a field is removed or changes its meaning, not when one is added.
_VERSION: Final = 1

#: Where nothing that the next key could change stands between us and the app (RFC 6585 4; RFC 9110 15.6.3 to 15.6.5).
_GONE: Final = (429, 502, 503, 504)
_MEND: Final = {
    401: "it does not know us: check the secret of ask: and the app's login rules for this URL",
    403: "it forbids this: check the secret of ask:, the app's CSRF protection and its rights for this URL",
    404: "there is nothing at this URL: check ask: (a dead key is 200 and false)",
    405: "this URL takes no POST: check ask:",
    410: "this URL is gone for good: check ask: (a dead key is 200 and false)",
}


class Question(Value):
    """Is this key alive? `secrets`: HMAC keys, decoded; every one signs. `raw`, `subject`, `options`, `kind`: as in `Key`.

    `domain`: of the address that the key came to.
    """

    url: str
    secrets: tuple[bytes, ...] = ()
    ca_file: str = ""
    route: str
    raw: str
    subject: str
    options: tuple[str, ...] = ()
    kind: str = ""
    domain: str = ""


class Answer(Value):
    """What came of a question. `detail`: for the log, without the key.

    `gone`: why another key would fare no better now, "" where this one may be the reason; never a word of the app's.
    """

    alive: Alive
    detail: str
    gone: str = ""


_YES: Final = Answer(alive="yes", detail="the app says that the key is alive")
_NO: Final = Answer(alive="no", detail="the app says that the key is not alive")


def ask(question: Question, *, deadline: float, now: Callable[[], float] = time.time) -> Answer:
    """Asks once. `deadline`: time.monotonic() seconds; `DEADLINE` from now if that is sooner. `now`: Unix seconds, for the
    signature. Never raises.
    """
    try:
        return put(question, deadline=min(deadline, time.monotonic() + DEADLINE), now=now())
    except Exception as error:  # noqa: BLE001 - mail waits
        return our_fault(error)


def put(question: Question, *, deadline: float, now: float) -> Answer:
    """Asks once, until the deadline; raises what is our own fault."""
    body = _body(question, now)
    fields = signed_fields(question.secrets, os.urandom(16).hex(), "application/json", body, now=now)
    try:
        answer = _judge(post(parse_url(question.url), fields, body, ca_file=question.ca_file, deadline=deadline))
    except WireError as error:
        answer = unavailable(str(error), gone=str(error) if error.gone else "")
    return _without_key(answer, question.raw)


def our_fault(error: Exception) -> Answer:
    """What `put` raised, as an answer."""
    return unavailable(f"{type(error).__name__} on our side")


def _body(question: Question, now: float) -> bytes:
    """One line of ASCII, valid by docs/key-check.schema.json."""
    event: Plain = {
        "type": "key.check",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "data": {
            "version": _VERSION,
            "route": question.route,
            "domain": question.domain,
            "key": {
                "raw": question.raw,
                "subject": question.subject,
                "options": question.options,
                "kind": question.kind,
            },
        },
    }
    return encode(event).encode("ascii")


def _judge(answer: HttpAnswer) -> Answer:
    """The table of docs/ask.md."""
    shown = f"{answer.status} {answer.reason}".strip()
    if answer.fault:
        return unavailable(f"{shown}, but {answer.fault}", gone=f"{answer.status}, but {answer.fault}" if answer.late else "")
    if answer.status == 200:
        return _judge_body(answer, shown)
    if 200 <= answer.status < 300:
        return unavailable(f"{shown}: only 200 with a body answers")
    if 300 <= answer.status < 400:
        to = answer.fields.get("location", "").partition("?")[0]
        return unavailable(f"{shown}: a redirect{' to ' + to if to else ''} is not the app and is never followed: check ask: "
                            "and the app's login rules for this URL")  # fmt: skip
    if answer.status in _MEND:
        return unavailable(f"{shown}: {_MEND[answer.status]}")
    later = answer.fields.get("retry-after", "")
    gone = f"it answers {answer.status}" if answer.status in _GONE else ""
    return unavailable(f"{shown}; Retry-After: {later}" if later else shown, gone=gone)


def _judge_body(answer: HttpAnswer, shown: str) -> Answer:
    if answer.fields.get("content-encoding", "identity").lower() != "identity":
        return unavailable(f"{shown}, but its body is encoded and cannot be read: answer without Content-Encoding")
    try:
        word = _decoded(answer.body)
    except (ValueError, RecursionError) as error:
        page = " (a login page?)" if answer.body.lstrip()[:1] == b"<" else ""
        return unavailable(f"{shown}, but the body is not JSON{page}: {error}")
    alive = word.get("alive") if isinstance(word, dict) else None
    if alive is True:
        return _YES
    if alive is False:
        return _NO
    return unavailable(f'{shown}, but the body is not an object with "alive": true or false')


def _decoded(body: bytes) -> object:
    """JSON (RFC 8259) of which there is one reading only; ValueError or RecursionError for anything else. No type is asked for:
    PHP says text/html of all it prints.
    """
    import json

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        whole = dict(pairs)
        if len(whole) != len(pairs):
            raise ValueError("a name stands twice in an object")
        return whole

    def no_number(text: str) -> object:
        raise ValueError(f"{text} is no number")

    decoded: object = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number)
    return decoded


def unavailable(detail: str, *, gone: str = "") -> Answer:
    """Nobody knows, and why."""
    return Answer(alive="unavailable", detail=one_line(detail, DETAIL_LIMIT), gone=gone)


def _without_key(answer: Answer, raw: str) -> Answer:
    """An app, or what stands in its place, may echo what it was sent; no log gets a key whole."""
    folded = answer.detail.lower()
    return answer.replace(detail=folded.replace(raw.lower(), "...")) if raw and raw.lower() in folded else answer
