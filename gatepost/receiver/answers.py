"""What the app says to a webhook, as the body of a 200 answer (application/json).

Promises: what gatepost's webhook sink and `ask:` read.
Never: makes a no of anything but False.
"""

from __future__ import annotations

import json

__all__ = ["accepted", "key_alive", "refuse"]


def key_alive(alive: bool) -> bytes:
    """The body of a 200 answer (application/json) to a `key.check`. TypeError for anything but True and False: what a look-up
    gives that went wrong must not become a no, which refuses the mail for good.
    """
    if not isinstance(alive, bool):
        raise TypeError(f"alive is True or False, not {type(alive).__name__}: answer 503 where you do not know")
    return json.dumps({"alive": alive}).encode("ascii")


def refuse(text: str) -> bytes:
    """The body of a 200 answer (application/json) that refuses the message for good; a sender may see the text."""
    return json.dumps({"gatepost": "refuse", "text": text}).encode("ascii")


def accepted(id: str) -> bytes:  # noqa: A002 - the webhook's own name for it
    """The body of a 200 answer (application/json) that says you have the message: a sink with `confirm: true` waits for it."""
    return json.dumps({"gatepost": "accepted", "id": id}).encode("ascii")
