"""Keys that a guesser may send: unknown, forged, expired and revoked ones of one length, many of each.

Promises: apart from what makes a key dead, all are alike: a new subject each, an expiry, the same number of characters.
Never: one that lives.
"""

from __future__ import annotations

import os
import time
from typing import Final

from gatepost.keys.keyring import revocation_line
from gatepost.keys.signed import mint, today

__all__ = ["KINDS", "dead_keys", "revoked_file"]

KINDS: Final = ("unknown", "forged", "expired", "revoked")
_SUBJECT_BYTES: Final = 8
#: A key's first character says its version: `c` or `d` for 1. This one is of version 8.
_NO_VERSION: Final = "q"


def dead_keys(count: int, *, secret: bytes, key_id: str, domain: str) -> dict[str, list[str]]:
    """`count` keys of each of KINDS, for this domain."""
    day = today(time.time())
    made: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, keys in made.items():
        for _ in range(count):
            key = mint(
                secret=os.urandom(32) if kind == "forged" else secret, key_id=key_id, domain=domain,
                subject=os.urandom(_SUBJECT_BYTES), expires=day + (-1 if kind == "expired" else 30),
            )  # fmt: skip
            keys.append(_NO_VERSION + key[1:] if kind == "unknown" else key)
    return made


def revoked_file(keys: list[str], *, secret: bytes, key_id: str) -> str:
    """The content of a `revoked:` file that names these keys."""
    return "".join(f"{revocation_line(secret, key_id, key)}\n" for key in keys)
