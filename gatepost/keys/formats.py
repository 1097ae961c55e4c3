"""The key formats of other apps: their names, their kinds, what a reading of one is, and the one door to all of them.

Promises: `read` gives a `Reading` or None for every text there is, and never raises; the work is bounded by `LONGEST` and the
route's settings, whatever the text. A format's module is loaded only where a route has that format.
Never: says that a key is live. Only `list` knows that; a route with another format needs `ask:` or `unchecked: true`.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, Literal

    Format = Literal["gitlab", "zulip", "pattern", "list"]

__all__ = ["CANNOT_TELL", "FORMATS", "KEY_CHARACTERS", "LONGEST", "Reading", "read"]

#: Octets of the longest key that is looked at. A path has at most 256 with its angle brackets (RFC 5321 4.5.3.1.3), so no
#: mail system that keeps to it carries a longer one; GitLab's own are longer than the 64 that 4.5.3.1.1 allows a local part.
LONGEST: Final = 254

#: What a key is made of, once folded: printable ASCII without white space.
KEY_CHARACTERS: Final = "".join(map(chr, (*range(0x21, 0x41), *range(0x5B, 0x7F))))

#: Each format and its kinds, for `kinds:`; a format without kinds takes no such setting.
FORMATS: Final[dict[Format, tuple[str, ...]]] = {
    "gitlab": ("reply", "note", "issue", "merge-request", "service-desk", "unsubscribe"),
    "zulip": ("channel", "reply"),
    "pattern": (),
    "list": (),
}

#: A made-up key has the same form as a live one: the route must say `ask:` or `unchecked: true`.
CANNOT_TELL: Final = frozenset(("gitlab", "zulip", "pattern"))


class Reading(Value):
    """What a key says of itself. `subject`: what it names, never ""; `options`: words beside it; `raw`: the key as it stood."""

    kind: str
    subject: str
    options: tuple[str, ...] = ()
    raw: str


def read(
    format: Format,  # noqa: A002  # the setting's own name
    text: str,
    *,
    kinds: tuple[str, ...] = (),
    expression: str = "",
    blocks: Iterable[bytes] = (),
) -> Reading | None:
    """What this key (lower case) is in that format, or None: the one answer for whatever is no key there.

    `kinds`: those a route takes, () for all. `expression`: of a `pattern`, one that `pattern.parse` takes; any other reads
    nothing. `blocks`: the content of a `list`, of any sizes, read to the end for every key alike.
    """
    if format == "gitlab":
        from gatepost.keys import gitlab

        return gitlab.read(text, kinds)
    if format == "zulip":
        from gatepost.keys import zulip

        return zulip.read(text, kinds)
    if format == "pattern":
        from gatepost.keys import pattern

        try:
            return pattern.read(text, pattern.parse(expression))
        except pattern.PatternError:
            return None
    from gatepost.keys import listed

    return listed.read(text, blocks)
