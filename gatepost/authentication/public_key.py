"""Key records of DKIM and ARC, and what they can verify (RFC 6376 3.6.1, RFC 8301, RFC 8463).

Promises: every record is a key or a `Refused` with its result (RFC 8601 2.7.1); a key verifies in bounded time.
Never: raises anything else; takes a key for another algorithm or service than it is made for.
"""

from __future__ import annotations

import binascii

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gatepost.authentication.tags import BadTags, tag_list
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.resolver import Questions

__all__ = ["ALGORITHMS", "PublicKey", "Refused", "octets_of_base64", "public_key"]

#: Signature algorithm -> type of key. rsa-sha1 must not be verified (RFC 8301 3.1).
ALGORITHMS: Final = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}
#: Bits of an RSA key. Below: policy (RFC 8301 3.2). Above: nobody needs to support them, and they cost time.
RSA_SHORTEST: Final = 1024
RSA_LONGEST: Final = 8192
#: RFC 8017 asks for no bound; real keys have 65,537, and a long exponent costs time.
EXPONENT_LONGEST: Final = 33
_SPACE: Final = str.maketrans("", "", " \t\r\n")


class Refused(Exception):  # noqa: N818  a verdict on a stranger's message
    """A signature does not count: `result` (RFC 8601 2.7.1) and why, in words of ours."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


class PublicKey(Value):
    """`strict`: the record says that i= may not be a subdomain (t=s)."""

    key: RSAPublicKey | Ed25519PublicKey
    strict: bool

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Is this the signature of that SHA-256?"""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
            else:
                self.key.verify(signature, digest)
        except (InvalidSignature, ValueError):
            return False
        return True


def public_key(selector: str, domain: str, algorithm: str, questions: Questions) -> PublicKey:
    """The key that a signature names. Raises Refused, and Unanswered where DNS does not say."""
    records = questions.ask(f"{selector}._domainkey.{domain}", "TXT").texts
    # A wildcard or a CNAME may bring other texts along; two keys leave open which (RFC 6376 3.6.2.2).
    keys = [record for record in records if b"p" in [part.partition(b"=")[0].strip() for part in record.split(b";")[:20]]]
    if not keys:
        raise Refused("permerror", "no key for signature")
    if len(keys) > 1:
        raise Refused("permerror", "more than one key record")
    try:
        tags = tag_list(keys[0].decode("utf-8", "surrogateescape"))
    except BadTags as bad:
        raise Refused("permerror", "key record is no list of tags") from bad
    _usable(tags, algorithm)
    return PublicKey(key=_key(tags["p"], ALGORITHMS[algorithm]), strict="s" in _words(tags.get("t", "")))


def octets_of_base64(text: str) -> bytes:
    """The octets; raises ValueError. White space may stand anywhere (RFC 6376 2.10)."""
    return binascii.a2b_base64(text.translate(_SPACE).encode("ascii"), strict_mode=True)


def _usable(tags: dict[str, str], algorithm: str) -> None:
    """Is the record for this? Raises Refused."""
    if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
        raise Refused("permerror", "key record of another version")
    if not tags["p"]:
        raise Refused("fail", "key revoked")
    if tags.get("k", "rsa") != ALGORITHMS[algorithm]:
        raise Refused("permerror", "key is for another algorithm")
    if "h" in tags and "sha256" not in _words(tags["h"]):
        raise Refused("permerror", "key is for another hash")
    if "s" in tags and not {"*", "email"} & set(_words(tags["s"])):
        raise Refused("permerror", "key is for another service")


def _words(text: str) -> list[str]:
    return [word.strip(" \t\r\n") for word in text.split(":")]


def _key(text: str, kind: str) -> RSAPublicKey | Ed25519PublicKey:
    try:
        octets = octets_of_base64(text)
        key = Ed25519PublicKey.from_public_bytes(octets) if kind == "ed25519" else load_der_public_key(octets)
    except (ValueError, TypeError, UnsupportedAlgorithm) as bad:
        raise Refused("permerror", "key cannot be read") from bad
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_SHORTEST:
            raise Refused("policy", f"RSA key below {RSA_SHORTEST} bits")
        if key.key_size > RSA_LONGEST or key.public_numbers().e.bit_length() > EXPONENT_LONGEST:
            raise Refused("permerror", "RSA key too large")
        return key
    if isinstance(key, Ed25519PublicKey):
        return key
    raise Refused("permerror", "key cannot be read")
