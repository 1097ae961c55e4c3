"""Where an accepted message goes: one module a kind of sink, each loaded only when a message needs it.

The map: `delivery` (what a sink is given, what it answers); `webhook`, `maildir`, `command` (the sinks); `envelope_json` (the
webhook's body), `head_fields` (what stands in front of a raw message); `http_post` over `wire` or `wire_tls` (one request, one
deadline). For a process that stays: `guarded` (each behind a `guard`, that is a `bulkhead` and a `circuit`, and over
connections that are `kept`), `open_circuits` (what the doctor reads).

Promises: `deliver` ends by its deadline and answers with an `Outcome`; only "delivered" lets a door acknowledge the message.
Never: raises for anything that the other side does or fails to do; tries again; keeps anything between two calls.
"""

from __future__ import annotations

import time

from gatepost.sinks.delivery import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.settings import Sink
    from gatepost.sinks.delivery import Delivery
    from gatepost.sinks.http_post import Post

__all__ = ["deliver"]


def deliver(
    sink: Sink, delivery: Delivery, *, deadline: float, now: Callable[[], float] = time.time, post: Post | None = None
) -> Outcome:  # fmt: skip
    """Hands one message to one sink, once.

    `deadline`: time.monotonic() seconds by which it has ended (a disk that hangs is beyond it: the Maildir is not bounded).
    `now`: Unix seconds, for the signature's timestamp. `post`: a webhook's connections, None for one that is closed behind the
    answer. What is not the other side's doing (MemoryError, a bug) passes through; the door defers. A probe (rule `probe`) is
    for webhooks alone: any other sink would take it for mail.
    """
    if delivery.decision.rule == "probe" and (sink.kind != "webhook" or sink.format == "raw"):
        return Outcome(kind="delivered", detail=f"a probe: sink {sink.name} gets none")
    if sink.kind == "maildir":
        from gatepost.sinks import maildir

        return maildir.deliver(sink, delivery, deadline=deadline, now=now)
    if sink.kind == "command":
        from gatepost.sinks import command

        return command.deliver(sink, delivery, deadline=deadline, now=now)
    from gatepost.sinks import http_post, webhook

    return webhook.deliver(sink, delivery, deadline=deadline, now=now, post=post or http_post.post)
