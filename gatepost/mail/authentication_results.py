"""Authentication-Results: who says what about a message's sender (RFC 8601 2.2).

Promises: one pass over the tokens of one field, at most `RESULTS` results with `PROPERTIES` properties each; comments, quoted
strings and a version are read as the RFC says.
Never: raises; believes anything; reads a field without an authserv-id (Microsoft 365 writes those), or of another version.
"""

from __future__ import annotations

from gatepost.mail.tokens import ATOM, COMMENT, QUOTED, STRAY, tokens
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["AuthenticationResults", "Result", "authentication_results"]

#: Octets of a field; real ones have under 2,000. A longer one is not read.
FIELD_BYTES: Final = 16_384
#: Results of one field. A message with 20 signatures has 25.
RESULTS: Final = 50
#: Properties of one result. DKIM has six.
PROPERTIES: Final = 20


class Result(Value):
    """`method`, `result`, names: lower case. `properties`: name (`header.from`) and value, in order."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...]

    def property(self, name: str) -> str:
        """The first value of that name, "" where there is none."""
        for each, value in self.properties:
            if each == name:
                return value
        return ""


class AuthenticationResults(Value):
    """`authserv_id`: lower case, no final dot."""

    authserv_id: str
    results: tuple[Result, ...]


def authentication_results(value: bytes) -> AuthenticationResults | None:
    """An unfolded value; None where it says not who speaks, or in another version than 1."""
    if len(value) > FIELD_BYTES:
        return None
    parts: list[list[tuple[str, str, bool]]] = [[]]
    for token in tokens(value, b";="):
        kind = token[0]
        if kind == STRAY:  # a quote or comment that nothing closes: where the words end is a guess
            return None
        if kind == ";":
            if len(parts) > RESULTS:
                break
            parts.append([])
        elif kind != COMMENT:
            parts[-1].append(token)
    head = [(kind, word) for kind, word, _ in parts[0]]
    if not head or len(head) > 2 or head[0][0] not in (ATOM, QUOTED) or (len(head) == 2 and head[1] != (ATOM, "1")):
        return None
    read = [_result(part) for part in parts[1:]]
    return AuthenticationResults(
        authserv_id=head[0][1].lower().removesuffix("."), results=tuple(each for each in read if each is not None)
    )


def _result(part: list[tuple[str, str, bool]]) -> Result | None:
    """`method[/version]=result` and its properties; None for `none` and what cannot be read."""
    pairs = _pairs(part)
    if not pairs:
        return None
    (method, result), *properties = pairs
    return Result(
        method=method.partition("/")[0].strip().lower(), result=result.lower(),
        properties=tuple((name.lower(), value) for name, value in properties[:PROPERTIES]),
    )  # fmt: skip


def _pairs(part: list[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    """Name and value around each equals sign. Signs and words that follow a value without space are still the value's."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while at + 1 < len(part):
        if part[at][0] == "=" or part[at + 1][0] != "=":
            at += 1
            continue
        name = part[at][1]
        at += 2
        words: list[str] = []
        while at < len(part) and (not words or not part[at][2]):
            if not words and part[at][0] == "=":
                break
            words.append(part[at][1])
            at += 1
        pairs.append((name, "".join(words)))
    return pairs
