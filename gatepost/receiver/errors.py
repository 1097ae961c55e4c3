"""What can be wrong with a request: each error says what was learned, and what to answer.

Promises: all are `ReceiverError`; the docstring of `verify_webhook` says which status each is worth.
Never: holds a secret, or more of the body than the path at which it was wrong.
"""

from __future__ import annotations

__all__ = [
    "BodyError",
    "EventTypeError",
    "HeaderError",
    "ReceiverError",
    "SecretError",
    "SignatureError",
    "TimestampError",
]


class ReceiverError(Exception):
    """A request that is not, or not yet, gatepost's message. `id` is its webhook-id as sent, "" if none: not to be trusted."""

    def __init__(self, text: str, *, id: str = "") -> None:  # noqa: A002 - the header's own name
        super().__init__(text)
        self.id = id


class HeaderError(ReceiverError):
    """webhook-id, webhook-timestamp or webhook-signature is missing or malformed. `header` says which."""

    def __init__(self, text: str, *, header: str, id: str = "") -> None:  # noqa: A002
        super().__init__(text, id=id)
        self.header = header


class SignatureError(ReceiverError):
    """No signature fits any secret: not gatepost's, a changed body, or another secret. `tried`: (signatures, secrets)."""

    def __init__(self, text: str, *, id: str, tried: tuple[int, int]) -> None:  # noqa: A002
        super().__init__(text, id=id)
        self.tried = tried


class TimestampError(ReceiverError):
    """Rightly signed, but too long ago or in the future: a replay, or a clock that is wrong. `off`: seconds, past positive."""

    def __init__(self, text: str, *, id: str, timestamp: int, off: float) -> None:  # noqa: A002
        super().__init__(text, id=id)
        self.timestamp = timestamp
        self.off = off


class BodyError(ReceiverError):
    """Rightly signed, but not what this module can read. `path` is where in the body, such as `data.envelope.sender`."""

    def __init__(self, text: str, *, path: str, id: str = "") -> None:  # noqa: A002
        super().__init__(f"{path or 'body'}: {text}", id=id)
        self.path = path


class EventTypeError(BodyError):
    """An event of another type, such as `gatepost.probe`. `type` says which: answer 200 to those you do not know."""

    def __init__(self, *, type: str, id: str, wanted: str) -> None:  # noqa: A002
        super().__init__(f"{type} is not {wanted}: answer 200 to events that you do not know", path="type", id=id)
        self.type = type


class SecretError(ReceiverError, ValueError):
    """The app's own mistake: a webhook secret that is none."""
