"""SHA-256 and HMAC-SHA256 (FIPS 180-4, RFC 2104), and a comparison in constant time, without OpenSSL where little is hashed.

Promises: the same bytes as `hashlib.sha256` and `hmac.digest(secret, message, "sha256")` for every input, whichever code makes
them.
Never: imports `hashlib` or `hmac` for less than `LARGE` octets where the interpreter has SHA-256 built in. They load OpenSSL:
2 ms of each run of the pipe script, measured, against 0.1 ms.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256 as _small
    from hmac import compare_digest as same
    from typing import Final
else:
    from _operator import _compare_digest as same  # what hmac.compare_digest is where OpenSSL is missing

    try:
        from _sha2 import sha256 as _small  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256 as _small  # Python 3.11
        except ImportError:
            from hashlib import sha256 as _small  # an interpreter built without its own hashes

__all__ = ["LARGE", "hmac_sha256", "same", "sha256"]

#: Octets from which OpenSSL's SHA-256 saves more than loading it costs (2 ms).
LARGE: Final = 750_000

_BLOCK: Final = 64  # SHA-256's input block, RFC 2104's B
_INNER: Final = bytes(octet ^ 0x36 for octet in range(256))
_OUTER: Final = bytes(octet ^ 0x5C for octet in range(256))


def sha256(*parts: bytes | memoryview) -> bytes:
    """The 32 bytes of SHA-256 over the parts, one behind the other."""
    if sum(map(len, parts)) < LARGE:
        hashed = _small()
    else:
        import hashlib

        hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.digest()


def hmac_sha256(secret: bytes, *parts: bytes) -> bytes:
    """The 32 bytes of HMAC-SHA256 (RFC 2104 section 2) over the parts, one behind the other."""
    if len(secret) > _BLOCK:
        secret = sha256(secret)
    block = secret.ljust(_BLOCK, b"\0")
    return sha256(block.translate(_OUTER), sha256(block.translate(_INNER), *parts))
