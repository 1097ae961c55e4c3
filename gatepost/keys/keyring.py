"""A route's keys: is this one live, and whom does it name. Rotation, former domains and revocation come together here.

Promises: unknown, forged, expired and revoked keys cost what a live one costs: every tag, one revocation line, and one pass
over the whole of the revoked: file, wherever in it the line stands.
Never: reads that file (its content is an argument); says in a public text which of the four a key is.
"""

from __future__ import annotations

from gatepost.digest import hmac_sha256
from gatepost.keys.signed import Verdict, day_text, subject_text, today, verify
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from gatepost.settings import KeySettings

__all__ = ["KeyVerdict", "check", "revocation_line"]

#: Stands in for the secret where a route has none, so that the work stays the same.
_NO_SECRET = bytes(32)
#: The same for a subject.
_NOBODY = bytes(8)


class KeyVerdict(Value):
    """What a key is to a route. `subject` is text for people and JSON, "" where no secret vouches for the key.

    `last_day`: as a date, "" for a key without an end. `signed` has the rest: owner, the secret it verified under.
    """

    result: Literal["live", "unknown", "forged", "expired", "revoked"]
    subject: str
    signed: Verdict
    last_day: str = ""
    kind: str = ""
    options: tuple[str, ...] = ()


def check(
    keys: KeySettings, key: str, domain: str, *, now: float, revoked: bytes = b"", listed: Iterable[bytes] = ()
) -> KeyVerdict:  # fmt: skip
    """Judge a key (lower case) that came to an address in this domain at `now` (seconds since 1970-01-01 UTC).

    `revoked` is the content of the route's revoked: file: a line of 64 hex digits for each revoked key, `#` before a comment.
    A key both expired and revoked is "revoked": somebody meant that. `listed`: the content of a list's file; `domain`, `now`:
    for signed keys. Never raises on any key.
    """
    if keys.format != "signed":
        return _check_other(keys, key, revoked, listed)
    signed = verify(key, secrets=keys.secrets, key_id=keys.key_id, domains=(domain, *keys.former_domains), today=today(now))
    secret = signed.secret or (keys.secrets[-1] if keys.secrets else _NO_SECRET)
    named = _names(revoked, revocation_line(secret, keys.key_id, key))
    # Both texts are made of every key: else many guesses would tell an expired one from a forged one by its time.
    subject = subject_text(signed.subject or _NOBODY)
    last_day = day_text(signed.expires or 0)
    return KeyVerdict(
        result="revoked" if named and signed.secret else signed.result,
        subject=subject if signed.secret else "",
        last_day=last_day if signed.expires is not None else "",
        signed=signed,
    )


def _check_other(keys: KeySettings, key: str, revoked: bytes, listed: Iterable[bytes]) -> KeyVerdict:
    """A key of another app's format: live, unknown, or revoked by a file of a list's form."""
    from gatepost.keys import formats  # only for a route that has one

    if keys.format == "signed":
        raise ValueError("signed keys are checked by their tags")
    reading = formats.read(keys.format, key, kinds=keys.kinds, expression=keys.pattern, blocks=listed)
    nobody = Verdict(result="unknown")
    if reading is None:
        return KeyVerdict(result="unknown", subject="", signed=nobody)
    gone = bool(revoked) and formats.read("list", key, blocks=(revoked,)) is not None
    return KeyVerdict(
        result="revoked" if gone else "live", subject=reading.subject, signed=nobody, kind=reading.kind, options=reading.options
    )


def revocation_line(secret: bytes, key_id: str, key: str) -> str:
    """The line, without its line end, that revokes a key: 64 hex digits that do not give the key away.

    `secret` is the one the key verified under (`Verdict.secret`); `key` is in lower case.
    """
    message = f"gatepost revoked 1\0{key_id}\0{key}".encode("utf-8", "surrogatepass")
    return hmac_sha256(secret, message).hex()


def _names(revoked: bytes, line: str) -> bool:
    """Whether the file's content has this line, and not behind a `#`.

    The file is read to its end, then as far as the line, for 100,000 lines in a few milliseconds. A line that is not there
    takes as long: the file is read as far as another line, which the digits themselves choose. Digits in capitals count: a
    person may have typed it. In doubt (other text beside it) it is revoked.
    """
    named = False
    another = revoked.rfind(b"\n", 0, int(line[:8], 16) % (len(revoked) or 1)) + 1
    for spelling in (line.encode("ascii"), line.upper().encode("ascii")):
        times = revoked.count(spelling)
        sought = spelling if times else revoked[another : another + len(spelling)]
        at = -1
        for _ in range(times or 1):
            at = revoked.find(sought, at + 1)
            before = revoked[revoked.rfind(b"\n", 0, at) + 1 : at]
            named |= times > 0 and b"#" not in before
    return named
