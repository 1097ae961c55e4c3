"""Mailing lists: marks of a program that passed on what somebody wrote to many.

Promises: each mark names its source and stands for itself; all of them decide alone where `screening.lists` asks. By default a
list's mail is accepted, for a person wrote it.
Never: says that a machine wrote the message.
"""

from __future__ import annotations

from gatepost.decision import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from gatepost.mail.message import Message

__all__ = ["find", "passed_on"]

#: Field, and how it is written.
_MARKS: Final[dict[str, str]] = {
    "list-id": "List-Id",  # RFC 2919
    "list-post": "List-Post",  # RFC 2369 3.4, as the six below
    "list-help": "List-Help",
    "list-subscribe": "List-Subscribe",
    "list-unsubscribe": "List-Unsubscribe",
    "list-owner": "List-Owner",
    "list-archive": "List-Archive",
    "mailing-list": "Mailing-List",  # ezmlm, Yahoo Groups
    "x-mailing-list": "X-Mailing-List",  # Majordomo's patches, vger
    "x-beenthere": "X-BeenThere",  # Mailman
    "x-mailman-version": "X-Mailman-Version",
    "x-ml-name": "X-ML-Name",  # fml
    "x-mlserver": "X-MLServer",
    "x-listname": "X-ListName",  # Listar, Ecartis
}
#: What `Sender` begins or ends with where Majordomo and smartlist run a list: they write no List-* field.
_OWNER: Final = (b"owner-",)
_OWNERS: Final = (b"-owner", b"-bounces", b"-request")


def _marked(message: Message) -> Iterator[Finding]:
    """A field of RFC 2369, RFC 2919 or an older list manager."""
    for field in message.headers.fields:
        if field.name in _MARKS and field.value:
            yield _finding(field.name, f"{_MARKS[field.name]}: {_shown(field.value)}")


def _precedence(message: Message) -> Iterator[Finding]:
    """Precedence: list (RFC 2076 3.9; Mailman's)."""
    for name in ("precedence", "x-precedence"):
        for field in message.headers.all(name):
            if field.value.strip().lower().startswith(b"list"):
                yield _finding("precedence-list", f"{name.title()}: {_shown(field.value)}")


def _owner(message: Message) -> Iterator[Finding]:
    """Sender: owner-LIST@ or LIST-bounces@, the address to which a list wants its bounces (custom; RFC 2142 6 has -request)."""
    field = message.headers.first("sender")
    if field is not None:
        local = field.value.rpartition(b"<")[2].partition(b"@")[0].strip().lower()
        if local.startswith(_OWNER) or local.endswith(_OWNERS):
            yield _finding("list-owner-sender", f"Sender: {_shown(field.value)}")


#: In the order in which they are asked.
DETECTORS: Final = (_marked, _precedence, _owner)


def find(message: Message) -> tuple[Finding, ...]:
    """Every sign of a list, each slug once."""
    found: dict[str, Finding] = {}
    for detector in DETECTORS:
        for finding in detector(message):
            found.setdefault(finding.slug, finding)
    return tuple(found.values())


def passed_on(message: Message) -> bool:
    """Is there any sign of a list?"""
    return any(True for detector in DETECTORS for _ in detector(message))


def _shown(value: bytes) -> str:
    return value[:80].decode("latin-1")


def _finding(slug: str, evidence: str) -> Finding:
    return Finding(slug=slug, family="lists", evidence=evidence)
