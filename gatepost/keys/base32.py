"""Base32 in lower case without padding (RFC 4648 section 6), in one spelling for each value.

Promises: `decode` takes exactly the texts that `encode` makes: upper case, padding, a foreign character, a length that no
bytes have, and spare bits that are not zero give None. Never raises on any text.
Never: imports `base64`, which imports `re`: 5 ms of each run of the pipe script, measured.
"""

from __future__ import annotations

__all__ = ["decode", "encode"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
#: The alphabet that int(text, 32) reads, in the same order.
_TO_DIGITS = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")


def encode(data: bytes) -> str:
    """The text of these bytes; "" for none."""
    spare = -len(data) * 8 % 5
    value = int.from_bytes(data, "big") << spare
    return "".join([_ALPHABET[value >> shift & 31] for shift in range(len(data) * 8 + spare - 5, -1, -5)])


def decode(text: str) -> bytes | None:
    """The bytes of this text, or None where `encode` could not have made it. Linear in the text."""
    if text.strip(_ALPHABET):  # nothing is left of a text that has the alphabet's characters only
        return None
    length, spare = divmod(len(text) * 5, 8)
    value = int(text.translate(_TO_DIGITS) or "0", 32)
    if spare >= 5 or value & ((1 << spare) - 1):
        return None
    return (value >> spare).to_bytes(length, "big")
