"""`--probe`: asks each webhook whether the app is there, takes what we sign, and refuses what we did not.

A probe is a webhook of `type: gatepost.probe` (docs/webhook.md): signed like a message, and no message. A second one carries a
signature by a secret that nobody has; an app that says yes to it would take mail from anybody who knows its URL.

Promises: two requests for each webhook that a route uses, each once, each within `PATIENCE` seconds; the app's own words are
judged as a message's answer is (`webhook.judge`).
Never: sends anything to a Maildir or a program, or to an app that takes `format: raw`: that would take a probe for mail.
"""

from __future__ import annotations

import os
import time
from email.utils import parsedate_to_datetime

from gatepost.doctor.check import fail, not_used, ok, unknown, warn
from gatepost.doctor.sinks import PATIENCE, sinks_in_use
from gatepost.doctor.subject import Subject
from gatepost.probe import body as probe_body
from gatepost.sinks.http_post import parse_url, post
from gatepost.sinks.webhook import judge, signed_fields
from gatepost.sinks.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.check import Questions, Verdict
    from gatepost.settings import Sink
    from gatepost.sinks.http_post import Answer

__all__ = ["questions"]

#: Seconds between our clock and the app's; Standard Webhooks advises an app to refuse what was signed 300 s ago.
_CLOCKS: Final = 240.0
_TEXT: Final = {
    True: "A probe by gatepost doctor. It carries no message: answer 2xx.",
    False: "A probe by gatepost doctor with a wrong signature: answer 401.",
}


class _Asked:
    """One webhook's two answers, each asked for when it is first wanted."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._answers: dict[bool, tuple[str, Answer | None, str]] = {}

    def answer(self, *, well_signed: bool) -> tuple[str, Answer | None, str]:
        """The probe's id, the answer, and why there is none."""
        if well_signed not in self._answers:
            probe_id = os.urandom(32).hex()
            try:
                self._answers[well_signed] = (probe_id, self._post(probe_id, well_signed=well_signed), "")
            except WireError as error:
                self._answers[well_signed] = (probe_id, None, str(error))
        return self._answers[well_signed]

    def _post(self, probe_id: str, *, well_signed: bool) -> Answer:
        stamp = int(time.time())
        body = probe_body(probe_id, _TEXT[well_signed], at=stamp)
        secrets = self.sink.secrets if well_signed else (os.urandom(32),)
        fields = signed_fields(secrets, probe_id, "application/json", body, now=stamp)
        return post(parse_url(self.sink.target), fields, body, ca_file=self.sink.ca_file, deadline=time.monotonic() + PATIENCE)


def questions(subject: Subject) -> Questions:
    """Two for each webhook, the well-signed probe first; none where `--probe` was not asked for."""
    if not subject.probe:
        return ()
    found: Questions = ()
    for sink in subject.sound.sinks:
        if sink.kind == "webhook":
            found += _two(subject, _Asked(sink))
    return found


def _two(subject: Subject, asked: _Asked) -> Questions:
    name = asked.sink.name
    if name not in sinks_in_use(subject):
        return ((f"probe:{name}", lambda: not_used("no route delivers to it")),)
    if asked.sink.format == "raw":
        return (
            (
                f"probe:{name}",
                lambda: unknown(
                    "an app that takes format: raw would take a probe for mail: none was sent",
                    "send it a message, and see that the app refuses one without signature",
                ),
            ),
        )
    return (
        (f"probe:{name}", subject.as_owner(lambda: _taken(asked))),
        (f"probe-signature:{name}", subject.as_owner(lambda: _refused(asked))),
    )


def _taken(asked: _Asked) -> Verdict:
    """What the app makes of a probe that is signed as its messages are."""
    probe_id, answer, why = asked.answer(well_signed=True)
    if answer is None:
        return fail(f"a well-signed probe got no answer: {why}: mail waits in the queue", "is the app running, and well?")
    outcome = judge(answer, probe_id, confirm=False)  # `confirm` is about messages: who knows no probe echoes no id
    shown = f"a well-signed probe was answered: {outcome.detail}"
    if outcome.kind == "refused":
        return warn(shown, "a probe is no message: answer 2xx to events that the app does not know")
    if outcome.kind == "cannot-take":
        return fail(
            shown, "answer 2xx to events that the app does not know (docs/webhook.md); is the body read as it was sent?"
        )
    if outcome.kind == "misconfigured":
        return fail(f"{shown}: mail waits in the queue", "mend the sink's url or secret, or the app's rules for this URL")
    if outcome.kind == "unavailable":
        return fail(f"{shown}: mail waits in the queue", "look into the app's own log")
    return _clocks(answer, shown)


def _clocks(answer: Answer, shown: str) -> Verdict:
    """The app's Date (RFC 9110 6.6.1) against our clock."""
    try:
        off = time.time() - parsedate_to_datetime(answer.fields.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return ok(shown)
    if abs(off) > _CLOCKS:
        return warn(
            f"{shown}; its clock is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} ours: an app that checks"
            " webhook-timestamp will refuse mail",
            "set both clocks, and keep them set (NTP)",
        )
    return ok(shown)


def _refused(asked: _Asked) -> Verdict:
    """What the app makes of a probe that is signed with a secret of nobody's."""
    _, answer, why = asked.answer(well_signed=False)
    if answer is None:
        return unknown(f"a probe with a wrong signature got no answer: {why}")
    shown = f"a probe with a wrong signature was answered: {answer.status} {answer.reason}".rstrip()
    if 200 <= answer.status < 300:
        if _somebody_else(asked):
            return unknown(f"{shown}, but who answers is not the app", "see the other probe")
        return fail(
            f"{shown}: the app does not verify signatures, so whoever knows its URL can give it mail",
            "verify webhook-signature before anything else: docs/webhook.md, docs/receiver.md (verify_webhook)",
        )
    if answer.status in (400, 401, 403):
        return ok(shown)
    if 300 <= answer.status < 400 or answer.status in (404, 410):
        return unknown(f"{shown}: who answers is not the app", "see the other probe")
    return warn(f"{shown}: it was not taken, but a wrong signature should be told from a fault of the app's", "answer 401")


def _somebody_else(asked: _Asked) -> bool:
    """Whether the well-signed probe met a login page, a redirect, or nothing at this URL."""
    probe_id, answer, _ = asked.answer(well_signed=True)
    return (
        answer is not None
        and judge(answer, probe_id, confirm=False).kind == "misconfigured"
        and answer.status not in (401, 403)
    )
