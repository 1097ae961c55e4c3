"""What the world outside says of an envelope: files of dead and of living keys, what is counted, what the app is asked.

Promises: a file counts as it stands now, and is read again only once it has changed. One that is there and cannot be read is a
GatepostError: no key passes, and none is refused, because of a wrong mode.
Never: decides (policy does); asks or counts by itself.
"""

from __future__ import annotations

import os

from gatepost import policy
from gatepost.errors import GatepostError
from gatepost.mail.recipient import recipient
from gatepost.stores.limits import counters_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.ask import Question
    from gatepost.decision import Decision, Envelope, Key
    from gatepost.mail.message import Message
    from gatepost.settings import Route, Settings
    from gatepost.stores.limits import Counter

__all__ = ["counters", "facts_for", "question", "read_list", "read_revoked"]

#: A file of 100,000 revoked keys is 6.5 MB; past this something else is in its place.
_REVOKED_BYTES: Final = 64 * 1_048_576
#: Path -> what tells one state of a file from another, and its content then: a process that lives on is asked at each RCPT.
_held: dict[str, tuple[tuple[int, ...], bytes]] = {}


def _content(path: str, limit: int = -1) -> bytes:
    """A file as it stands now, at most `limit` bytes (-1: all), read again only once it has changed. Raises OSError."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        held = _held.get(path)
        if held is not None and held[0] == mark:
            return held[1]
        # Not `read(limit)`: a buffer of the largest size would be made for the smallest file.
        content = file.read(limit if status.st_size >= limit >= 0 else -1)
        if status.st_size:  # else a pipe, or a file of /proc: it has no state that could be told
            _held[path] = (mark, content)
        return content


def read_revoked(route: Route | None) -> bytes:
    """The route's `revoked:` file as it stands now; none is revoked before `gatepost key revoke` makes the file.

    Raises GatepostError where it is there but cannot be read: a revoked key must not pass because of a wrong mode.
    """
    if route is None or route.keys is None or not route.keys.revoked:
        return b""
    try:
        content = _content(route.keys.revoked, _REVOKED_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise GatepostError(f"{route.keys.revoked}: {error.strerror}: let user gatepost read it") from error
    if len(content) > _REVOKED_BYTES:
        raise GatepostError(
            f"{route.keys.revoked}: larger than {_REVOKED_BYTES} bytes: what stands behind would not be revoked"
        )
    return content


def read_list(route: Route | None) -> bytes:
    """The file of a route's list of keys. GatepostError where it cannot be read: without it every key would be refused."""
    if route is None or route.keys is None or not route.keys.file:
        return b""
    try:
        return _content(route.keys.file)
    except OSError as error:
        raise GatepostError(f"{route.keys.file}: {error.strerror}: the route's list of keys must be there") from error


def facts_for(envelope: Envelope, settings: Settings, now: float) -> policy.Facts:
    """What the world outside says of this envelope, at this time (Unix seconds)."""
    route, _ = policy.route_for(recipient(envelope.recipient), settings)
    return policy.Facts(now=now, revoked=read_revoked(route), listed=read_list(route))


def counters(envelope: Envelope, message: Message, settings: Settings, verdict: Decision) -> tuple[Counter, ...]:
    """What a message is counted by; only what every other rule accepts is counted."""
    if verdict.action != "accept" or verdict.rule == "probe":
        return ()
    people = message.from_.list
    return counters_for(
        settings.limits,
        key=verdict.key.raw if verdict.key is not None else "",
        route=verdict.route,
        sender=people[0].address if len(people) == 1 else "",
        sender_verified=verdict.sender.verified,
        client_address=envelope.client_address,
    )


def question(envelope: Envelope, settings: Settings, key: Key) -> Question:
    """What the app is asked of a key of this recipient's route, which has `ask:`."""
    from gatepost.ask import Question

    to = recipient(envelope.recipient)
    route, _ = policy.route_for(to, settings)
    assert route is not None
    assert route.keys is not None
    assert route.keys.ask is not None  # policy.key_to_ask looked
    where = route.keys.ask
    return Question(
        url=where.url, secrets=where.secrets, ca_file=where.ca_file, route=route.name, raw=key.raw, subject=key.subject,
        options=key.options, kind=key.kind, domain=to.domain,
    )  # fmt: skip
