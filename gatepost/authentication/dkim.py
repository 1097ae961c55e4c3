"""DKIM: every signature of a message with a result of its own (RFC 6376, 8301, 8463; results: RFC 8601 2.7.1).

| result | means |
|---|---|
| pass | verified, and nothing is wrong with it |
| fail | does not verify, expired, from the future, key revoked, From not signed, i= not in d= |
| policy | does not count here: l=, an RSA key below 1,024 bits, a second Subject (From, To ...) that is not signed |
| permerror | cannot be verified: no key, no such algorithm, syntax |
| temperror | DNS did not answer |

Promises: at most `SIGNATURES` signatures from the top, whatever the message has.
Never: raises for what a message contains.
"""

from __future__ import annotations

from gatepost.authentication.names import ascii_domain
from gatepost.authentication.public_key import ALGORITHMS, Refused, public_key
from gatepost.authentication.resolver import Unanswered
from gatepost.authentication.results import DkimResult
from gatepost.authentication.signature import (
    check_body,
    check_identity,
    check_times,
    digest_of_fields,
    read_signature,
    read_tags,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.canonicalization import Body
    from gatepost.authentication.resolver import Questions
    from gatepost.authentication.signature import Head, Signature

__all__ = ["SIGNATURES", "check_dkim"]

#: Signatures looked at, from the top. Long lists of forwarders have five.
SIGNATURES: Final = 10
#: Fields that a message has once (RFC 5322 3.6, RFC 2045). Where one is signed and a further one is not, a reader may show what
#: nobody signed (RFC 6376 8.15).
_ONCE: Final = (
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references",
    "content-type", "content-transfer-encoding",
)  # fmt: skip
#: Characters of b= that tell two signatures apart (RFC 6008 4).
_START: Final = 8
_BASE64: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def check_dkim(head: Head, body: Body, questions: Questions, now: float) -> tuple[DkimResult, ...]:
    """The results, from the top."""
    fields = head.named("dkim-signature")[:SIGNATURES]
    return tuple([_result(head.octets(field), head, body, questions, now) for field in fields])


def _result(field: bytes, head: Head, body: Body, questions: Questions, now: float) -> DkimResult:
    tags: dict[str, str] = {}
    result, reason = "pass", ""
    try:
        tags = read_tags(field)
        _verify(tags, field, head, body, questions, now)
    except Refused as refused:
        result, reason = refused.result, refused.reason
    except Unanswered:
        result, reason = "temperror", "DNS did not answer"
    except Exception:  # noqa: BLE001  a library's fault on a stranger's input: no message may raise
        result, reason = "permerror", "cannot be verified"
    return DkimResult(
        result=result, reason=reason, domain=ascii_domain(tags.get("d", "")), selector=ascii_domain(tags.get("s", "")),
        algorithm=tags["a"] if tags.get("a") in ALGORITHMS else "", start=_start(tags.get("b", "")),
    )  # fmt: skip


def _verify(tags: dict[str, str], field: bytes, head: Head, body: Body, questions: Questions, now: float) -> None:
    """RFC 6376 6.1, what is cheap first. Raises Refused or Unanswered; returns where the signature holds."""
    if tags.get("v") != "1":
        raise Refused("permerror", "v= is not 1")
    signature = read_signature(tags)
    if "q" in tags and "dns/txt" not in [word.strip(" \t\r\n") for word in tags["q"].split(":")]:
        raise Refused("permerror", "q= is not supported")
    if "from" not in signature.names:
        raise Refused("fail", "From is not signed")
    check_times(signature, now)
    if "l" in tags:
        raise Refused("policy", "l= leaves a part of the body unsigned")
    key = public_key(signature.selector, signature.domain, signature.algorithm, questions)
    check_identity(signature, key)
    check_body(signature, body)
    if not key.verifies(signature.octets, digest_of_fields(signature, head, field)):
        raise Refused("fail", "signature did not verify")
    _check_once(signature, head)


def _check_once(signature: Signature, head: Head) -> None:
    for name in _ONCE:
        signed = signature.names.count(name)
        if signed and head.count(name) > max(signed, 1):
            raise Refused("policy", f"a further {name} field is not signed")


def _start(text: str) -> str:
    start = "".join(text.split())[:_START]
    return start if len(start) == _START and _BASE64.issuperset(start) else ""
