"""HMAC-SHA256 (RFC 2104, FIPS 180-4) and a comparison in constant time, without loading OpenSSL.

Promises: the same bytes as `hmac.digest(secret, message, "sha256")` for every secret and message.
Never: imports `hashlib` or `hmac` where the interpreter has SHA-256 built in. They load OpenSSL: 2 ms of each run of the pipe
script, measured, against 0.1 ms; what is hashed here is below 300 bytes, so OpenSSL's speed gains nothing back.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
    from hmac import compare_digest as same
else:
    from _operator import _compare_digest as same  # what hmac.compare_digest is where OpenSSL is missing

    try:
        from _sha2 import sha256  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256  # Python 3.11
        except ImportError:
            from hashlib import sha256  # an interpreter built without its own hashes

__all__ = ["hmac_sha256", "same"]

_BLOCK = 64  # SHA-256's input block, RFC 2104's B
_INNER = bytes(octet ^ 0x36 for octet in range(256))
_OUTER = bytes(octet ^ 0x5C for octet in range(256))


def hmac_sha256(secret: bytes, message: bytes) -> bytes:
    """The 32 bytes of HMAC-SHA256 (RFC 2104 section 2)."""
    if len(secret) > _BLOCK:
        secret = sha256(secret).digest()
    block = secret.ljust(_BLOCK, b"\0")
    inner = sha256(block.translate(_INNER) + message).digest()
    return sha256(block.translate(_OUTER) + inner).digest()
