"""Limits: what a message is counted by, and how many may pass in which time.

Promises: pure; total: whatever stands in an envelope gives counters, never an error. Each counter belongs to one key, one
sender or network, or one route, so that nobody can use up another's share.
Never: counts (the ledger does, in the transaction that claims the delivery); keeps a sender or a key in the clear.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import LimitSettings

    #: So many messages (at least 1) in so many seconds.
    Window = tuple[int, float]

__all__ = ["Counter", "client_network", "counters_for"]

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_HEX: Final = frozenset("0123456789abcdefABCDEF")


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


def client_network(address: str) -> str:
    """The /24 of an IPv4 address, the /64 of an IPv6 one, as text; "" where that names nobody.

    Takes Postfix's forms: with or without `IPv6:` (RFC 5321 4.1.3) or a zone. An IPv4-mapped address (RFC 4291 2.5.5.2) is the
    IPv4 one. Nobody: `unknown`, "", garbage, and this host itself (127.0.0.0/8, ::1), whose mail came in by another program.
    """
    text = address[5:] if address[:5].lower() == "ipv6:" else address
    quad = _ipv4(text)
    if quad is None:
        groups = _ipv6(text.partition("%")[0])
        if groups is None:
            return ""
        if groups[:6] != (0, 0, 0, 0, 0, 0xFFFF):
            return "" if groups[:7] == (0,) * 7 and groups[7] < 2 else f"{':'.join(f'{each:x}' for each in groups[:4])}::/64"
        quad = (*divmod(groups[6], 256), *divmod(groups[7], 256))
    return "" if quad[0] in (0, 127) else f"{quad[0]}.{quad[1]}.{quad[2]}.0/24"


# By hand: `ipaddress` costs each message 3 ms (it imports functools), and a socket's inet_pton is not for a pure module.


def _ipv4(text: str) -> tuple[int, ...] | None:
    """Four numbers, or None. A leading zero is refused: some read it as octal."""
    parts = text.split(".", 4)
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        return None
    if any(part != "0" and part[0] == "0" for part in parts):
        return None
    quad = tuple(map(int, parts))
    return quad if max(quad) < 256 else None


def _ipv6(text: str) -> tuple[int, ...] | None:
    """Eight groups (RFC 4291 2.2), or None."""
    head, gap, tail = text.partition("::")
    if gap and "." in head:
        return None
    front, back = _groups(head), _groups(tail)
    if front is None or back is None:
        return None
    missing = 8 - len(front) - len(back)
    if missing < 1 if gap else missing != 0:
        return None
    return (*front, *(0,) * missing, *back)


def _groups(text: str) -> tuple[int, ...] | None:
    """The groups on one side of `::`, the last two perhaps written as an IPv4 address."""
    if not text:
        return ()
    parts = text.split(":")
    last = _ipv4(parts[-1]) if "." in parts[-1] else ()
    if last is None:
        return None
    if last:
        parts[-1:] = [f"{last[0] * 256 + last[1]:x}", f"{last[2] * 256 + last[3]:x}"]
    if not all(0 < len(part) < 5 and _HEX.issuperset(part) for part in parts):
        return None
    return tuple(int(part, 16) for part in parts)
