"""Mail that a machine sent: what its header fields say of themselves.

Promises: each detector answers for one field, with its source beside it; strength "decides alone" for all that are here.
Never: reads the body or a subject; takes `Auto-Submitted: no`, a List-Id or a mailing list's Precedence for a machine.
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.mail.comments import without_comments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from gatepost.mail.message import Message

    Detector = Callable[[Message], Iterator[Finding]]

__all__ = ["DETECTORS", "find"]

#: What a sender writes into a yes/no field when it means no.
_NO: Final = (b"", b"no", b"false", b"0", b"none")


def _first_word(value: bytes) -> bytes:
    """The first token of a structured value, lower case, without comments, parameters and quotes."""
    words = without_comments(value).replace(b";", b" ; ").replace(b",", b" ").split(None, 1)
    return words[0].strip(b'"').lower() if words else b""


def _shown(value: bytes) -> str:
    return value[:80].decode("latin-1")


def _auto_submitted(message: Message) -> Iterator[Finding]:
    """RFC 3834 5: any keyword but "no", with optional parameters and comments; a field without a keyword says nothing."""
    for field in message.headers.all("auto-submitted"):
        if _first_word(field.value) not in (b"no", b"", b";"):
            yield Finding(slug="auto-submitted", family="automatic", evidence=f"Auto-Submitted: {_shown(field.value)}")


def _autoreply(message: Message) -> Iterator[Finding]:
    """X-Autoreply (GitLab's and many helpdesks' mark) and X-Autorespond (autoresponders since the 1990s)."""
    for name, title in (("x-autoreply", "X-Autoreply"), ("x-autorespond", "X-Autorespond")):
        for field in message.headers.all(name):
            if _first_word(field.value) not in _NO:
                yield Finding(slug=name, family="automatic", evidence=f"{title}: {_shown(field.value)}")


def _precedence(message: Message) -> Iterator[Finding]:
    """Precedence (sendmail's field, RFC 2076 3.9, discouraged but used): auto_reply and junk are machines; bulk is too,

    unless a List-* field of RFC 2369 or 2919 stands beside it: then a list marks what a person wrote.
    """
    listed = any(message.headers.first(name) for name in ("list-id", "list-post", "list-unsubscribe"))
    for field in message.headers.all("precedence"):
        word = _first_word(field.value).replace(b"-", b"_")
        if word in (b"junk", b"auto_reply") or (word == b"bulk" and not listed):
            slug = "precedence-" + word.decode("ascii").replace("_", "-")
            yield Finding(slug=slug, family="automatic", evidence=f"Precedence: {_shown(field.value)}")


#: In the order in which they are asked; the first finding is the one a log line names.
DETECTORS: Final[tuple[Detector, ...]] = (_auto_submitted, _autoreply, _precedence)


def find(message: Message) -> tuple[Finding, ...]:
    """Every sign that a machine sent this message."""
    return tuple(finding for detector in DETECTORS for finding in detector(message))
