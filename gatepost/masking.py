"""Addresses and answers as a log may show them: without the whole of a key.

Promises: two recipients of one message still look different, unless their keys begin alike.
Never: shows a key whole, nor one that is not longer than twice what is shown.
"""

from __future__ import annotations

from gatepost.mail.recipient import fold, recipient
from gatepost.policy import route_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.decision import Key
    from gatepost.settings import Settings

__all__ = ["masked", "without_key"]

#: Characters of a key that a log may show; a key that is not longer than twice that is not shown at all.
_KEY_SHOWN: Final = 4


def masked(address: str, settings: Settings) -> str:
    """A recipient for the log: its key cut short, and so is any local part that no route takes (it may be a key misspelt)."""
    to = recipient(address)
    route, key = route_for(to, settings)
    if key is None and (route is not None or len(to.local) <= 2 * _KEY_SHOWN):
        return to.final_form
    hidden = key or fold(to.local)
    shown = hidden[:_KEY_SHOWN] if len(hidden) > 2 * _KEY_SHOWN else ""
    return to.final_form.replace(hidden, f"{shown}...", 1)


def without_key(text: str, key: Key | None) -> str:
    """A text for the log (an app may echo the address in its answer) without the whole of the key."""
    if key is None or fold(key.raw) not in fold(text):
        return text
    return fold(text).replace(fold(key.raw), f"{key.raw[:_KEY_SHOWN]}...")
