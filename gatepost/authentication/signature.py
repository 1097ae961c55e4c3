"""One signature over head and body: what DKIM-Signature and ARC-Message-Signature share (RFC 6376 3.5, 3.7, 6.1).

Promises: every field is a `Signature` or a `Refused`; verifying is linear in the message and asks DNS once.
Never: raises anything else but Unanswered; believes a domain, selector or identity that has another character than names have.
"""

from __future__ import annotations

import hashlib

from gatepost.authentication.canonicalization import relaxed_field, simple_field
from gatepost.authentication.names import ascii_domain, is_at_or_under
from gatepost.authentication.public_key import ALGORITHMS, Refused, octets_of_base64
from gatepost.authentication.tags import BadTags, tag_list, without_b
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from gatepost.authentication.canonicalization import Body
    from gatepost.authentication.public_key import PublicKey
    from gatepost.mail.headers import Field

__all__ = [
    "Head",
    "Signature",
    "check_body",
    "check_identity",
    "check_times",
    "digest_of_fields",
    "own_field",
    "read_signature",
    "read_tags",
]

#: Seconds by which a sender's clock may be ahead, or ours.
CLOCKS_DIFFER: Final = 300
#: Octets of a signature field. Real ones have under 3,000.
FIELD_LONGEST: Final = 32_768
#: Digits of a time (RFC 6376 3.5: t=, x=).
_DIGITS: Final = 12
_REQUIRED: Final = ("a", "b", "bh", "d", "h", "s")


class Head:
    """The fields of a message, for picking from the bottom up (RFC 6376 5.4.2)."""

    def __init__(self, raw: bytes, fields: Iterable[Field]) -> None:
        self._raw = raw
        self._by_name: dict[str, list[Field]] = {}
        for field in fields:
            self._by_name.setdefault(field.name, []).append(field)

    def octets(self, field: Field) -> bytes:
        """The whole field as it came."""
        return self._raw[field.start : field.end]

    def count(self, name: str) -> int:
        """How many fields of that name there are."""
        return len(self._by_name.get(name, ()))

    def named(self, name: str) -> list[Field]:
        """The fields of that name, in their order."""
        return self._by_name.get(name, [])

    def pick(self, names: Iterable[str]) -> Iterator[bytes]:
        """For each name the next field from the bottom; nothing where all are taken."""
        left = {name: len(fields) for name, fields in self._by_name.items()}
        for name in names:
            if left.get(name, 0):
                left[name] -= 1
                yield self.octets(self._by_name[name][left[name]])


class Signature(Value):
    """What a field says. `names`: of h=, lower case, in order. `identity`: i=, None where it is left out."""

    algorithm: str
    domain: str
    selector: str
    names: tuple[str, ...]
    relaxed_head: bool
    relaxed_body: bool
    body_hash: bytes
    octets: bytes
    signed_at: int | None
    expires_at: int | None
    identity: str | None


def read_tags(field: bytes) -> dict[str, str]:
    """The tags of a whole field as it came; raises Refused."""
    if len(field) > FIELD_LONGEST:
        raise Refused("permerror", "signature field too long")
    try:
        return tag_list(field.partition(b":")[2].decode("utf-8", "surrogateescape"))
    except BadTags as bad:
        raise Refused("permerror", str(bad)) from bad


def read_signature(tags: dict[str, str]) -> Signature:
    """The signature that the tags make; raises Refused."""
    if any(not tags.get(name) for name in _REQUIRED):
        raise Refused("permerror", "a required tag is missing")
    if tags["a"] not in ALGORITHMS:
        raise Refused("permerror", "algorithm is not supported")
    domain, selector = ascii_domain(tags["d"]), ascii_domain(tags["s"])
    if not domain or not selector:
        raise Refused("permerror", "d= or s= is no domain name")
    relaxed_head, relaxed_body = _forms(tags.get("c", "simple/simple"))
    try:
        octets, body_hash = octets_of_base64(tags["b"]), octets_of_base64(tags["bh"])
    except ValueError as bad:
        raise Refused("permerror", "b= or bh= is no base64") from bad
    signed_at, expires_at = _time(tags, "t"), _time(tags, "x")
    if signed_at is not None and expires_at is not None and expires_at <= signed_at:
        raise Refused("permerror", "x= is not after t=")
    names = tuple([name.strip(" \t\r\n").lower() for name in tags["h"].split(":")])
    if "" in names:
        raise Refused("permerror", "h= is no list of names")
    return Signature(
        algorithm=tags["a"], domain=domain, selector=selector, names=names,
        relaxed_head=relaxed_head, relaxed_body=relaxed_body, body_hash=body_hash, octets=octets,
        signed_at=signed_at, expires_at=expires_at, identity=tags.get("i"),
    )  # fmt: skip


def check_times(signature: Signature, now: float) -> None:
    """Raises Refused for an expired signature, and for one of tomorrow."""
    if signature.expires_at is not None and signature.expires_at < now - CLOCKS_DIFFER:
        raise Refused("fail", "signature expired")
    if signature.signed_at is not None and signature.signed_at > now + CLOCKS_DIFFER:
        raise Refused("fail", "signature from the future")


def check_body(signature: Signature, body: Body) -> None:
    """Raises Refused where the body is not what was signed."""
    if body.sha256(relaxed=signature.relaxed_body) != signature.body_hash:
        raise Refused("fail", "body hash did not verify")


def digest_of_fields(signature: Signature, head: Head, field: bytes) -> bytes:
    """SHA-256 of the signed fields and of the signature's own without its b=."""
    form = relaxed_field if signature.relaxed_head else simple_field
    digest = hashlib.sha256()
    for each in head.pick(signature.names):
        digest.update(form(each))
    digest.update(form(own_field(field)).removesuffix(b"\r\n"))
    return digest.digest()


def own_field(field: bytes) -> bytes:
    """The signature's field without the value of b=."""
    name, colon, value = field.removesuffix(b"\r\n").partition(b":")
    return name + colon + without_b(value)


def check_identity(signature: Signature, key: PublicKey) -> None:
    """Raises Refused where i= is not the domain or below it, or is below where the key forbids that."""
    identity = signature.identity
    if identity is None:
        return
    host = ascii_domain(identity.rpartition("@")[2])
    if "@" not in identity or not is_at_or_under(host, signature.domain) or (key.strict and host != signature.domain):
        raise Refused("fail", "i= is not in the domain d=")


def _forms(text: str) -> tuple[bool, bool]:
    """c=: is the head's form relaxed, is the body's."""
    head, slash, body = text.partition("/")
    forms = {"relaxed": True, "simple": False}
    body = body if slash else "simple"
    if head not in forms or body not in forms:
        raise Refused("permerror", "c= is not supported")
    return forms[head], forms[body]


def _time(tags: dict[str, str], name: str) -> int | None:
    text = tags.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise Refused("permerror", f"{name}= is no time")
    return int(text)
