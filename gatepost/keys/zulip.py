"""Zulip's keys: what it puts in place of `%s` in its email gateway's pattern (docs/key-formats.md).

Promises: takes the forms in the table below and nothing else; a fixed number of passes over at most `LONGEST` characters. Never
raises on any text.
Never: says that a key is live; takes a word beside the token that is neither the channel's name nor an option it knows.

    reply    `mm` and 32 hex digits: the answer to a notification of missed messages
    channel  32 hex digits, the channel's name in front or not, options anywhere; `.` or `+` between any two

A channel whose name is an option's word reads as that option, as in Zulip itself. Of prefer-text and prefer-html the last
counts.
"""

from __future__ import annotations

from gatepost.keys.formats import LONGEST, Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["OPTIONS", "read"]

#: In the order in which a reading gives them.
OPTIONS: Final = ("show-sender", "include-footer", "include-quotes", "prefer-text", "prefer-html")
_EITHER: Final = ("prefer-text", "prefer-html")

_HEX: Final = "0123456789abcdef"
#: A name is letters, digits, `_` and `-`; Zulip before 2.0 wrote anything else as `%` and four digits.
_NAME: Final = "0123456789abcdefghijklmnopqrstuvwxyz_-%"
_TOKEN: Final = 32  # 16 random bytes in hex
_REPLY: Final = "mm"


def read(text: str, kinds: tuple[str, ...] = ()) -> Reading | None:
    """What this key is to Zulip, or None. `kinds`: those that are taken, () for all.

    The subject is the token, for a reply with its `mm`; `options` each once, in the order of `OPTIONS`.
    """
    if not 0 < len(text) <= LONGEST:
        return None
    if text.startswith(_REPLY) and _is_token(text.removeprefix(_REPLY)):
        return Reading(kind="reply", subject=text, raw=text) if not kinds or "reply" in kinds else None
    parts = text.replace("+", ".").split(".")
    words = [part for part in parts if part not in OPTIONS]
    if not 1 <= len(words) <= 2 or not _is_token(words[-1]) or words[0].strip(_NAME) or not words[0]:
        return None
    if kinds and "channel" not in kinds:
        return None
    return Reading(kind="channel", subject=words[-1], options=_options(parts), raw=text)


def _is_token(text: str) -> bool:
    return len(text) == _TOKEN and not text.strip(_HEX)  # nothing is left of a text that has these characters only


def _options(parts: list[str]) -> tuple[str, ...]:
    """The options that hold, each once."""
    preferred = [part for part in parts if part in _EITHER][-1:]
    return tuple(word for word in OPTIONS if word in parts and (word not in _EITHER or word in preferred))
