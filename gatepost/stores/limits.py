"""Limits: what a message is counted by, and how many may pass in which time.

Promises: pure; total: whatever stands in an envelope gives counters, never an error. Each counter belongs to one key, one
sender or network, or one route, so that nobody can use up another's share.
Never: counts (the ledger does, in the transaction that claims the delivery); keeps a sender or a key in the clear.
"""

from __future__ import annotations

from gatepost.client_address import client_network
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import LimitSettings

    #: So many messages (at least 1) in so many seconds.
    Window = tuple[int, float]

__all__ = ["Counter", "counters_for"]

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


class Counter(Value):
    """One thing that is counted. `name`: the setting's; `subject`: whose share it is, as text of any content.

    `windows`: each is a sliding one; a message passes only where all have room. The longest says how long a count is kept.
    """

    name: str
    subject: str
    windows: tuple[Window, ...]

    def limit(self, window: Window) -> str:
        """One window as the configuration writes it: `per_key 50/1m`."""
        count, seconds = window
        size, unit = next((each for each in _UNITS if seconds % each[0] == 0), (1, "s"))
        return f"{self.name} {count}/{seconds / size:.12g}{unit}"


def counters_for(
    limits: LimitSettings, *, key: str, route: str, sender: str, sender_verified: str, client_address: str
) -> tuple[Counter, ...]:
    """What an accepted message is counted by: its key (not where `key` is ""), its sender, its route.

    `sender` counts only where `sender_verified` is "yes": anybody can write another's address. Otherwise the network that
    the message came from counts; where that is unknown too, nothing does, because strangers would share it.
    """
    network = client_network(client_address)
    subjects = (
        # One text may be a key of two routes, and then names two things.
        ("per_key", f"{route} {key}" if key else "", limits.per_key),
        ("per_sender", _sender(sender, sender_verified, network), limits.per_sender),
        ("per_route", route, limits.per_route),
    )
    return tuple(Counter(name=name, subject=who, windows=windows) for name, who, windows in subjects if who and windows)


def _sender(sender: str, verified: str, network: str) -> str:
    """The two kinds in different words: no address is ever counted as a network."""
    if sender and verified == "yes":
        return f"address {sender.lower()}"
    return f"network {network}" if network else ""
