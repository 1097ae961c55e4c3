"""Signed keys: what stands in a route's address, minted by the app and checked with a secret, no database. All pure.

The map: `signed` is the format (mint, verify, owner, subject as text); `keyring` judges a key for a route (rotation, former
domains, revocation); `reply_ids` are the Message-IDs that carry a key; `outgoing` is what a new mail needs (address, Reply-To,
Message-ID); `base32` is here because the standard library's costs start-up time, as `gatepost.digest` is.

Promises: the format of docs/keys.md, byte for byte; importing this file imports nothing.
Never: reads a file, a clock or a source of randomness: they are arguments.
"""

__all__ = ["base32", "keyring", "outgoing", "reply_ids", "signed"]
