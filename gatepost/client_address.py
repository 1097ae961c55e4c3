"""The address that a message came from, as Postfix writes it: an IPv4 or IPv6 address as numbers, and the networks around it.

Promises: pure; total: whatever stands in an envelope is an address or nobody. An IPv4-mapped address (RFC 4291 2.5.5.2) is the
IPv4 one.
Never: imports `ipaddress` (it imports functools: 3 ms of every message); asks DNS.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["client_network", "numbers", "within"]

_HEX: Final = frozenset("0123456789abcdefABCDEF")


def numbers(address: str) -> tuple[int, ...] | None:
    """Four octets of an IPv4 address, eight groups of an IPv6 one; None for what names nobody (`unknown`, "", garbage).

    Takes Postfix's forms: with or without `IPv6:` (RFC 5321 4.1.3) or a zone.
    """
    text = address[5:] if address[:5].lower() == "ipv6:" else address
    quad = _ipv4(text)
    if quad is not None:
        return quad
    groups = _ipv6(text.partition("%")[0])
    if groups is not None and groups[:6] == (0, 0, 0, 0, 0, 0xFFFF):
        return (*divmod(groups[6], 256), *divmod(groups[7], 256))
    return groups


def within(address: tuple[int, ...], network: str) -> bool:
    """Is the address (of `numbers`) in the network, `192.0.2.0/24` or `2001:db8::/32`? Not in one of the other kind."""
    base, _, prefix = network.partition("/")
    first = numbers(base)
    if first is None or len(first) != len(address) or not prefix.isdigit():
        return False
    bits = 8 if len(first) == 4 else 16
    rest = max(0, bits * len(first) - int(prefix))
    return _whole(address, bits) >> rest == _whole(first, bits) >> rest


def _whole(parts: tuple[int, ...], bits: int) -> int:
    value = 0
    for part in parts:
        value = value << bits | part
    return value


def client_network(address: str) -> str:
    """The /24 of an IPv4 address, the /64 of an IPv6 one, as text; "" where that names nobody.

    Nobody is also this host itself (127.0.0.0/8, ::1), whose mail came in by another program.
    """
    parts = numbers(address)
    if parts is None:
        return ""
    if len(parts) == 8:
        return "" if parts[:7] == (0,) * 7 and parts[7] < 2 else f"{':'.join(f'{each:x}' for each in parts[:4])}::/64"
    return "" if parts[0] in (0, 127) else f"{parts[0]}.{parts[1]}.{parts[2]}.0/24"


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
