"""Asks the app whether a key is alive: one signed POST, and a yes or no that only the app itself can have given.

Promises: an answer is "yes" or "no" only where the app said so, whole, with status 200 and `{"alive": true}` or
`{"alive": false}`; everything else is "unavailable". Ends by its deadline, and by `DEADLINE` seconds in any case. A live key
and a dead one cost the same. docs/ask.md is the contract.
Never: raises; tells the app anything of a sender or a message; asks twice in one call; puts a key into a detail; imports
`threading` or `json` before a key is asked about.
"""

from __future__ import annotations

import os
import time

from gatepost.digest import hmac_sha256
from gatepost.sinks.delivery import DETAIL_LIMIT, one_line
from gatepost.sinks.envelope_json import encode
from gatepost.sinks.http_post import parse_url, post
from gatepost.sinks.webhook import signed_fields
from gatepost.sinks.wire import WireError
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Final, Literal

    from gatepost.sinks.envelope_json import Plain
    from gatepost.sinks.http_post import Answer as HttpAnswer

    Alive = Literal["yes", "no", "unavailable"]

__all__ = ["DEADLINE", "ENTRIES", "IN_FLIGHT", "KEEP_NO", "KEEP_YES", "PAUSE", "Answer", "Asker", "Question", "ask"]

#: Seconds for one question, from the name look-up to the answer's last octet, waiting for others included. An SMTP client waits
#: 5 minutes at RCPT (RFC 5321 4.5.3.2.3), but Postfix gives a milter 30 s (milter_command_timeout) for all it does there.
DEADLINE: Final = 5.0
#: Questions under way to one URL; more wait. An app of few workers keeps some for people, and 8 at 10 ms are 800 a second.
IN_FLIGHT: Final = 8
#: Seconds for which a yes is known: it covers one message from RCPT to its end. A key that dies in between gets its mail
#: refused by the door behind the queue, which asks again.
KEEP_YES: Final = 60.0
#: Seconds for which a no is known. Short, for a no is a 550 for good: who guesses a key that the app has not made yet must not
#: shut it for the person who gets it. It takes a person longer than this to get a mail and answer it.
KEEP_NO: Final = 10.0
#: Seconds for which an app that is not there is left alone, and a key on which it failed. All mail to them waits so long at
#: least, so it is short.
PAUSE: Final = 2.0
#: Answers kept of live keys, and as many of all others: 1.7 MB each. Guesses never push out a live key.
ENTRIES: Final = 10_000
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
    """What came of a question. `detail`: for the log, without the key. `gone`: another key would have fared no better now."""

    alive: Alive
    detail: str
    gone: bool = False


_YES: Final = Answer(alive="yes", detail="the app says that the key is alive")
_NO: Final = Answer(alive="no", detail="the app says that the key is not alive")
_CROWD: Final = Answer(alive="unavailable", detail="the deadline passed while other keys were asked about")
_SAME: Final = Answer(alive="unavailable", detail="the deadline passed while the same key was being asked about")


def ask(question: Question, *, deadline: float, now: Callable[[], float] = time.time) -> Answer:
    """Asks once. `deadline`: time.monotonic() seconds; `DEADLINE` from now if that is sooner. `now`: Unix seconds, for the
    signature. Never raises.
    """
    try:
        answer = _ask(question, min(deadline, time.monotonic() + DEADLINE), now())
    except WireError as error:
        answer = _unavailable(str(error), gone=True)
    except Exception as error:  # noqa: BLE001 - our own fault: mail waits
        answer = _unavailable(f"{type(error).__name__} on our side")
    return _without_key(answer, question.raw)


def _ask(question: Question, deadline: float, now: float) -> Answer:
    body = _body(question, now)
    fields = signed_fields(question.secrets, os.urandom(16).hex(), "application/json", body, now=now)
    return _judge(post(parse_url(question.url), fields, body, ca_file=question.ca_file, deadline=deadline))


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
        return _unavailable(f"{shown}, but {answer.fault}", gone=True)
    if answer.status == 200:
        return _judge_body(answer, shown)
    if 200 <= answer.status < 300:
        return _unavailable(f"{shown}: only 200 with a body answers")
    if 300 <= answer.status < 400:
        to = answer.fields.get("location", "").partition("?")[0]
        return _unavailable(f"{shown}: a redirect{' to ' + to if to else ''} is not the app and is never followed: check ask: "
                            "and the app's login rules for this URL")  # fmt: skip
    if answer.status in _MEND:
        return _unavailable(f"{shown}: {_MEND[answer.status]}")
    later = answer.fields.get("retry-after", "")
    return _unavailable(f"{shown}; Retry-After: {later}" if later else shown, gone=answer.status in _GONE)


def _judge_body(answer: HttpAnswer, shown: str) -> Answer:
    if answer.fields.get("content-encoding", "identity").lower() != "identity":
        return _unavailable(f"{shown}, but its body is encoded and cannot be read: answer without Content-Encoding")
    try:
        word = _decoded(answer.body)
    except (ValueError, RecursionError) as error:
        page = " (a login page?)" if answer.body.lstrip()[:1] == b"<" else ""
        return _unavailable(f"{shown}, but the body is not JSON{page}: {error}")
    alive = word.get("alive") if isinstance(word, dict) else None
    if alive is True:
        return _YES
    if alive is False:
        return _NO
    return _unavailable(f'{shown}, but the body is not an object with "alive": true or false')


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


def _unavailable(detail: str, *, gone: bool = False) -> Answer:
    return Answer(alive="unavailable", detail=one_line(detail, DETAIL_LIMIT), gone=gone)


def _without_key(answer: Answer, raw: str) -> Answer:
    """An app, or what stands in its place, may echo what it was sent; no log gets a key whole."""
    folded = answer.detail.lower()
    return answer.replace(detail=folded.replace(raw.lower(), "...")) if raw and raw.lower() in folded else answer


class Asker:
    """Asks for a process that lives on and has many threads: however many ask at once, the app hears little of it.

    One question about one key at a time, whose answer all get who asked meanwhile; `IN_FLIGHT` questions at a time to one URL;
    answers known for `KEEP_YES` and `KEEP_NO` seconds, under a keyed hash of URL, route, domain and key, so that no route
    answers for another and no key stays in memory. "unavailable" is known for `PAUSE` seconds: of the key, and of every key of
    the URL if the app was gone and answered nobody meanwhile. A key on which alone the app fails stops no other.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        entries: int = ENTRIES,
    ) -> None:
        """`now`: Unix seconds, for signatures. `monotonic`: seconds by which answers grow old. `entries`: see `ENTRIES`."""
        import threading

        self._now = now
        self._monotonic = monotonic
        self._secret = os.urandom(32)
        self._lock = threading.Lock()
        self._landing = threading.Event  # what those wait for who ask the same
        self._condition = threading.Condition
        self._alive = _Answers(entries)
        self._others = _Answers(entries)
        self._asking: dict[bytes, threading.Event] = {}
        self._gates: dict[str, _Gate] = {}  # as many as the configuration has URLs

    def alive(self, question: Question, *, deadline: float) -> Answer:
        """As `ask`. `deadline` is time.monotonic()'s whatever `monotonic` is, and bounds the waiting for others, too."""
        deadline = min(deadline, time.monotonic() + DEADLINE)
        name = self._name(question)
        while True:
            with self._lock:
                if known := self._known(name):
                    return known
                asked = self._asking.get(name)
                if asked is None:
                    mine = self._asking[name] = self._landing()
            if asked is None:
                return self._lead(question, name, mine, deadline)
            if not asked.wait(deadline - time.monotonic()):
                return _SAME

    def _name(self, question: Question) -> bytes:
        """What an answer is kept under; repr() sets the parts apart whatever is in them."""
        parts = (question.url, question.route, question.domain, question.raw)
        return hmac_sha256(self._secret, repr(parts).encode("utf-8"))

    def _known(self, name: bytes) -> Answer | None:
        now = self._monotonic()
        return self._alive.get(name, now) or self._others.get(name, now)

    def _lead(self, question: Question, name: bytes, landing: threading.Event, deadline: float) -> Answer:
        """Asks for all who ask the same; whatever happens, they go on. Those who find nothing known ask in their turn."""
        try:
            with self._lock:
                gate = self._gate(question.url)
                refused = self._enter(gate, deadline)
                before = gate.answered
            if refused:
                return refused
            try:
                given = deadline - time.monotonic()
                answer = ask(question, deadline=deadline, now=self._now)
                with self._lock:
                    if answer.alive != "unavailable" or time.monotonic() < deadline or given >= DEADLINE / 2:
                        self._learn(gate, name, answer, before)  # else there was no time for an answer, and nothing to learn
                return answer
            finally:
                with self._lock:
                    gate.under_way -= 1
                    gate.changed.notify()
        finally:
            with self._lock:
                del self._asking[name]
            landing.set()

    def _gate(self, url: str) -> _Gate:
        if url not in self._gates:
            self._gates[url] = _Gate(self._condition(self._lock))
        return self._gates[url]

    def _enter(self, gate: _Gate, deadline: float) -> Answer | None:
        """Waits, under the lock, until there is room for one more; or says why there will be none."""
        waited_out = False
        while True:
            if paused := gate.paused(self._monotonic()):
                return paused
            if gate.under_way < IN_FLIGHT:
                gate.under_way += 1
                return None
            if waited_out:
                return _CROWD
            waited_out = not gate.changed.wait(max(deadline - time.monotonic(), 0))

    def _learn(self, gate: _Gate, name: bytes, answer: Answer, before: int) -> None:
        """`before`: how many answers the app had given when this question went out."""
        now = self._monotonic()
        if answer.alive == "yes":
            self._alive.keep(name, answer, now + KEEP_YES)
        else:
            self._others.keep(name, answer, now + (KEEP_NO if answer.alive == "no" else PAUSE))
        if answer.alive != "unavailable":
            gate.answered += 1
            gate.why = None
        elif answer.gone and gate.answered == before:
            gate.why, gate.until = answer, now + PAUSE
            gate.changed.notify_all()


class _Answers:
    """Answers until they are too old; at the bound the oldest goes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._kept: dict[bytes, tuple[Answer, float]] = {}

    def get(self, name: bytes, now: float) -> Answer | None:
        answer, until = self._kept.get(name, (None, 0.0))
        return answer if now < until else None

    def keep(self, name: bytes, answer: Answer, until: float) -> None:
        self._kept.pop(name, None)
        self._kept[name] = (answer, until)
        if len(self._kept) > self._bound:
            del self._kept[next(iter(self._kept))]


class _Gate:
    """One URL: how many questions are under way, how many were answered, and why and until when nobody asks there."""

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.under_way = 0
        self.answered = 0
        self.why: Answer | None = None
        self.until = 0.0

    def paused(self, now: float) -> Answer | None:
        return self.why if now < self.until else None
