"""ARC: is the chain of a message's handlers whole (RFC 8617 5.2). Reported only: nothing is believed for it.

Promises: none, pass, fail, or temperror where DNS did not answer; at most 50 sets, whatever the message has.
Never: raises for what a message contains.
"""

from __future__ import annotations

import hashlib
import re

from gatepost.authentication.canonicalization import relaxed_field
from gatepost.authentication.names import ascii_domain
from gatepost.authentication.public_key import ALGORITHMS, Refused, octets_of_base64, public_key
from gatepost.authentication.resolver import Unanswered
from gatepost.authentication.signature import (
    check_body,
    check_times,
    digest_of_fields,
    own_field,
    read_signature,
    read_tags,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.canonicalization import Body
    from gatepost.authentication.resolver import Questions
    from gatepost.authentication.signature import Head

__all__ = ["check_arc"]

#: Sets of one message (RFC 8617 4.2.1).
SETS: Final = 50
_RESULTS: Final = "arc-authentication-results"
_MESSAGE: Final = "arc-message-signature"
_SEAL: Final = "arc-seal"
_KINDS: Final = (_RESULTS, _MESSAGE, _SEAL)  # in the order in which a seal covers them (RFC 8617 5.1.1)
#: The instance opens the value (RFC 8617 4.1.1); comments may not.
_INSTANCE: Final = re.compile(r"[ \t\r\n]{0,200}i[ \t\r\n]{0,200}=[ \t\r\n]{0,200}([0-9]{1,3})[ \t\r\n]{0,200};")
_SEAL_TAGS: Final = ("i", "a", "b", "cv", "d", "s")


def check_arc(head: Head, body: Body, questions: Questions, now: float) -> str:
    """The chain's status."""
    try:
        return _status(head, body, questions, now)
    except Refused:
        return "fail"
    except Unanswered:
        return "temperror"
    except Exception:  # noqa: BLE001  a library's fault on a stranger's input: no message may raise
        return "fail"


def _status(head: Head, body: Body, questions: Questions, now: float) -> str:
    fields = [field for kind in _KINDS for field in head.named(kind)]
    if not fields:
        return "none"
    if len(fields) > SETS * len(_KINDS):
        raise Refused("fail", "too many fields")
    chain = _chain([(field.name, head.octets(field)) for field in fields])
    seals = [read_tags(each[_SEAL]) for each in chain]
    _check_seals(seals)
    _check_message(chain[-1][_MESSAGE], head, body, questions, now)
    for count in range(len(chain), 0, -1):
        _check_seal(chain[:count], seals[count - 1], questions)
    return "pass"


def _chain(fields: list[tuple[str, bytes]]) -> list[dict[str, bytes]]:
    """The sets, the first first: each with one field of each kind, without a gap. Raises Refused."""
    sets: dict[int, dict[str, bytes]] = {}
    for name, octets in fields:
        instance = _instance(name, octets)
        kinds = sets.setdefault(instance, {})
        if name in kinds:
            raise Refused("fail", "one set has two fields of a kind")
        kinds[name] = octets
    if sorted(sets) != list(range(1, len(sets) + 1)) or any(len(kinds) < len(_KINDS) for kinds in sets.values()):
        raise Refused("fail", "a set or a field of one is missing")
    return [sets[instance] for instance in sorted(sets)]


def _instance(name: str, octets: bytes) -> int:
    if name == _RESULTS:
        found = _INSTANCE.match(octets.partition(b":")[2][:1000].decode("latin-1"))
        text = found[1] if found else ""
    else:
        text = read_tags(octets).get("i", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= SETS):
        raise Refused("fail", "i= is no instance")
    return int(text)


def _check_seals(seals: list[dict[str, str]]) -> None:
    """What the seals themselves say of the chain (RFC 8617 5.2, steps 2 and 3). Raises Refused."""
    for at, seal in enumerate(seals):
        if any(not seal.get(tag) for tag in _SEAL_TAGS) or "h" in seal:
            raise Refused("fail", "a seal lacks a tag, or has h=")
        if seal["cv"] != ("pass" if at else "none"):
            raise Refused("fail", "cv= does not fit")


def _check_message(field: bytes, head: Head, body: Body, questions: Questions, now: float) -> None:
    """The latest ARC-Message-Signature (step 4). Raises Refused or Unanswered."""
    signature = read_signature(read_tags(field))
    if _SEAL in signature.names:
        raise Refused("fail", "ARC-Seal is signed by the message signature")
    check_times(signature, now)
    key = public_key(signature.selector, signature.domain, signature.algorithm, questions)
    check_body(signature, body)
    if not key.verifies(signature.octets, digest_of_fields(signature, head, field)):
        raise Refused("fail", "signature did not verify")


def _check_seal(chain: list[dict[str, bytes]], seal: dict[str, str], questions: Questions) -> None:
    """The last seal of `chain`, over all before it (step 5). Raises Refused or Unanswered."""
    domain, selector = ascii_domain(seal["d"]), ascii_domain(seal["s"])
    if seal["a"] not in ALGORITHMS or not domain or not selector:
        raise Refused("fail", "algorithm, d= or s= cannot be used")
    try:
        octets = octets_of_base64(seal["b"])
    except ValueError as bad:
        raise Refused("fail", "b= is no base64") from bad
    digest = hashlib.sha256()
    covered = [kinds[kind] for kinds in chain for kind in _KINDS]
    for each in covered[:-1]:
        digest.update(relaxed_field(each))
    digest.update(relaxed_field(own_field(covered[-1])).removesuffix(b"\r\n"))
    if not public_key(selector, domain, seal["a"], questions).verifies(octets, digest.digest()):
        raise Refused("fail", "seal did not verify")
