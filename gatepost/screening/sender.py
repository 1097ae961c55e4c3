"""Who sent the message: what trusted hosts say of the From address and of MAIL FROM (RFC 8601).

Promises: only fields above the first Received that is not ours, only with a trusted authserv-id; of each method the topmost
field counts. `yes` is one of: dmarc=pass for the From domain; dkim=pass by exactly that domain; spf=pass for exactly that
domain in MAIL FROM. `no` is dmarc=fail alone: SPF speaks of MAIL FROM, and a broken signature is as none (RFC 6376 6.1). A
From that names not exactly one address is nobody's, and `no` whatever anybody says of it; so is one that a limit of the parser
has cut, or may have hidden: two readers that stop at different octets would read two senders.
Never: asks DNS; compares organizational domains (that needs the Public Suffix List; DMARC has done it where it passes).
"""

from __future__ import annotations

from gatepost.decision import Sender
from gatepost.mail.recipient import recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

    from gatepost.decision import Envelope
    from gatepost.mail.authentication_results import Result
    from gatepost.mail.headers import Field
    from gatepost.mail.message import Message

    Verified = Literal["yes", "no", "unknown"]

__all__ = ["one_sender", "verdict"]

#: What `mailboxes` may notice in a From that still names one sender: nothing of this.
_NOBODY: Final = frozenset(("encoded-word-in-address", "group", "no-domain", "nul", "too-many"))
#: A head of which a part was not read: another From may stand there, or the rest of this one.
_CUT: Final = frozenset(("header-too-large", "too-many-fields"))
#: Fields of trusted hosts that are read. Each host writes one to three.
_FIELDS: Final = 10


def one_sender(message: Message) -> str:
    """The one address of From, "" where it names nobody: none, several, a group, NUL, an encoded word in the address, or where
    the parser's limits have left a part of it, or of the head, unread.
    """
    people, fields = message.from_, message.headers.all("from")
    if len(people.list) != 1 or len(fields) != 1 or not _NOBODY.isdisjoint(people.flags):
        return ""
    if not _CUT.isdisjoint(message.headers.flags) or fields[0].end - fields[0].start > message.limits.field_bytes:
        return ""
    return people.list[0].address


def verdict(message: Message, fields: tuple[Field, ...], trusted: tuple[str, ...], envelope: Envelope) -> Sender:
    """What `fields` (of `passage.ours`) say of this sender. `trusted`: authserv-ids, lower case, no final dot."""
    address = one_sender(message)
    results = _results(fields, trusted)
    mail_from = recipient(envelope.sender).domain if envelope.sender not in ("", "<>") else ""
    spf = any(_passes(each, "spf") and _domain(each.property("smtp.mailfrom")) == mail_from for _, each in results)
    verified, by = _verified(results, recipient(address).domain if address else "")
    return Sender(verified=verified if address else "no", by=by if address else "",
                  mail_from_verified=bool(mail_from) and spf)  # fmt: skip


def _results(fields: tuple[Field, ...], trusted: tuple[str, ...]) -> list[tuple[str, Result]]:
    """Who says it, and what: of each method only what the topmost field with it says."""
    written = [field for field in fields if field.name == "authentication-results"]
    if not written or not trusted:
        return []
    from gatepost.mail.authentication_results import authentication_results  # a host without trusted: never needs it

    found: list[tuple[str, Result]] = []
    methods: set[str] = set()
    believed = 0
    for field in written[: 4 * _FIELDS]:
        read = authentication_results(field.value)
        if read is None or read.authserv_id not in trusted:
            continue
        found += [(read.authserv_id, each) for each in read.results if each.method not in methods]
        methods |= {each.method for each in read.results}
        believed += 1
        if believed == _FIELDS:
            break
    return found


def _verified(results: list[tuple[str, Result]], domain: str) -> tuple[Verified, str]:
    """The verdict on From's domain, and by whom and what."""
    dmarc = [(who, each) for who, each in results if each.method == "dmarc" and _domain(each.property("header.from")) == domain]
    for who, each in dmarc:
        if each.result == "pass":
            return "yes", f"dmarc {who}"
    for who, each in dmarc:
        if each.result == "fail":
            return "no", f"dmarc {who}"
    for method, name in (("dkim", "header.d"), ("dkim", "header.i"), ("spf", "smtp.mailfrom")):
        for who, each in results:
            if _passes(each, method) and _domain(each.property(name)) == domain:
                return "yes", f"{method} {who}"
    return "unknown", ""


def _passes(each: Result, method: str) -> bool:
    return each.method == method and each.result == "pass"


def _domain(value: str) -> str:
    """The domain of a property that holds one, or an address."""
    return value.rpartition("@")[2].strip("<>").lower().removesuffix(".")
