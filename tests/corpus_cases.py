"""The corpus as a table: each message of tests/corpus with the decision that it must get. Every door runs this same table.

Promises: keys are minted here with a fixed secret, so that a case is the same bytes on every run and on any day: a live key has
no last day, an expired one ended in 2024.
Never: judges a message itself, or repairs its line ends: a file's bytes go out as they are, but for the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from gatepost.decision import Sender
from gatepost.keys import signed
from gatepost.keys.keyring import revocation_line
from gatepost.policy import Facts
from gatepost.settings import Ask, KeySettings, ParkedLimits, ParserLimits, Route, Screening, Settings, Sink, Timing

__all__ = ["CORPUS", "FACTS", "FAMILIES", "KEYS", "SETTINGS", "Case", "cases", "filled"]

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
FAMILIES: Final = ("person", "automatic", "bounces", "loops", "lists", "spam", "sender", "keys", "odd")

_DOMAIN: Final = "in.example.com"
_SECRET: Final = b"the corpus signs its keys with this secret"
_ANOTHER_SECRET: Final = b"and a stranger would sign them with another"
_LAST_DAY_OF_2024: Final = 1_826  # days since 2020-01-01


def _mint(
    key_id: str,
    subject: bytes,
    *,
    secret: bytes = _SECRET,
    domain: str = _DOMAIN,
    expires: int | None = None,
    owner: str | None = None,
) -> str:
    return signed.mint(secret=secret, key_id=key_id, domain=domain, subject=subject, expires=expires, owner=owner)


#: What stands for {name} in a case's addresses and in its message. {LIVE} is {live} in capitals.
KEYS: Final[dict[str, str]] = {
    "live": _mint("reply-keys", b"thread-1"),
    "LIVE": _mint("reply-keys", b"thread-1").upper(),
    "expired": _mint("reply-keys", b"thread-2", expires=_LAST_DAY_OF_2024),
    "revoked": _mint("reply-keys", b"thread-3"),
    "ended": _mint("reply-keys", b"thread-4", expires=_LAST_DAY_OF_2024),  # revoked as well
    "forged": _mint("reply-keys", b"thread-1", secret=_ANOTHER_SECRET),
    "elsewhere": _mint("reply-keys", b"thread-1", domain="in.example.net"),
    "unknown": "spring-offer",
    "owned": _mint("owner-keys", b"account-1", owner="nora@example.org"),
    "ownerless": _mint("owner-keys", b"account-2"),
    "strict": _mint("strict-keys", b"thread-1"),
    "machines": _mint("machine-keys", b"job-1"),
    "quiet": _mint("quiet-keys", b"thread-1"),
    "picky": _mint("picky-keys", b"thread-1"),
    "asked": _mint("asked-keys", b"thread-1"),
}


def _route(name: str, address: str, key_id: str, *, ask: Ask | None = None, **more: Any) -> Route:
    keys = KeySettings(secret=key_id, key_id=key_id, secrets=(_SECRET,), ask=ask)
    return Route(**{"name": name, "address": address, "keys": keys, "screening": Screening(), "deliver": ("app",), **more})


#: What the corpus is judged by: defaults, but for the routes whose names say otherwise. mx.example.com is an MX of ours.
SETTINGS: Final = Settings(
    file="tests/corpus",
    trusted=("mx.example.com",),
    routes=(
        _route("replies", "reply+%{key}@in.example.com", "reply-keys"),
        _route("support", "support@in.example.com", "reply-keys"),
        _route("owned", "owned+%{key}@in.example.com", "owner-keys", must_match="park"),
        _route(
            "strict",
            "strict+%{key}@in.example.com",
            "strict-keys",
            screening=Screening(automatic="reject", loops="reject", bounces="reject"),
        ),
        _route(
            "machines",
            "machines+%{key}@in.example.com",
            "machine-keys",
            screening=Screening(automatic="accept", loops="accept", bounces="accept"),
        ),
        _route(
            "quiet", "quiet+%{key}@in.example.com", "quiet-keys", screening=Screening(lists="reject", unauthenticated="reject")
        ),
        _route(
            "picky",
            "picky+%{key}@in.example.com",
            "picky-keys",
            screening=Screening(malformed="reject"),
            allow=("example.org", "198.51.100.0/24"),
            deny=("nora@example.org", ".example.net"),
        ),
        _route("asked", "asked+%{key}@in.example.com", "asked-keys", ask=Ask(url="https://app.example.com/mail/key")),
    ),
    timing=Timing(),
    parked=ParkedLimits(),
    parser=ParserLimits(),
    sinks=(Sink(name="app", kind="maildir", target="/nonexistent"),),
)

#: 2026-06-30: behind the date of every message. The door knows nothing of the sender: only a trusted hop's fields may. A case
#: that needs more has it in `facts`.
FACTS: Final = Facts(
    now=1_782_777_600.0,
    revoked="".join(f"{revocation_line(_SECRET, 'reply-keys', KEYS[name])}\n" for name in ("revoked", "ended")).encode(),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of a cases.yml, its keys filled in, and the bytes of its message.

    `raw`: as pipe(8) gives it but for the LF of flags=B. `finding`: the slugs of every family but parser and sender.
    `behind`: the action after `consequences.behind_queue`. `verified`, `mail_from`: of `Decision.sender`. `flags`: the parser's; None
    where the family does not ask. `alive`: what the app says of the key, "" where nobody asks it. `dns_silent`: our own checks
    asked DNS and had no answer; else there were none.
    """

    family: str
    name: str
    raw: bytes
    sender: str
    recipient: str
    queue_id: str
    finding: frozenset[str]
    rule: str
    action: str
    behind: str
    verified: str
    mail_from: bool
    flags: tuple[str, ...] | None
    alive: Literal["", "yes", "no", "unavailable"]
    dns_silent: bool
    reason: str

    @property
    def id(self) -> str:
        """What a test calls it: family/name."""
        return f"{self.family}/{self.name}"

    @property
    def facts(self) -> Facts:
        """What only the world outside knows of it."""
        sender = Sender(temporary=True) if self.dns_silent else None
        return FACTS.replace(alive=self.alive, sender=sender, direct=self.dns_silent)


def filled(template: bytes) -> bytes:
    """A template with the keys in their places."""
    for name, key in KEYS.items():
        template = template.replace(b"{%b}" % name.encode("ascii"), key.encode("ascii"))
    return template


@cache
def cases() -> tuple[Case, ...]:
    """Every case, family by family, in the order of its table. Raises ValueError for a table that does not fit its folder."""
    return tuple(case for family in FAMILIES for case in _family(family))


_COLUMNS: Final = {
    "file",
    "sender",
    "recipient",
    "queue_id",
    "finding",
    "rule",
    "action",
    "behind",
    "verified",
    "mail_from",
    "alive",
    "dns_silent",
    "reason",
}


def _family(family: str) -> list[Case]:
    folder = CORPUS / family
    table = yaml.safe_load((folder / "cases.yml").read_text(encoding="utf-8"))
    rows = [{"queue_id": "", **table["defaults"], **row} for row in table["cases"]]
    named = sorted(row["file"] for row in rows)
    present = sorted(path.name for path in folder.glob("*.eml"))
    if named != present:
        raise ValueError(f"{family}: cases.yml and the folder differ in {sorted({*named} ^ {*present}) or 'a doubled row'}")
    return [_case(family, row, (folder / row["file"]).read_bytes()) for row in rows]


def _case(family: str, row: dict[str, Any], template: bytes) -> Case:
    row = {"behind": row["action"], "verified": "unknown", "mail_from": False, "alive": "", "dns_silent": False, **row}
    columns = _COLUMNS | {"flags"} if family == "odd" else _COLUMNS
    if row.keys() != columns:
        raise ValueError(f"{family}/{row['file']}: columns {sorted(row.keys() ^ columns)} are missing or unknown")
    return Case(
        family=family,
        name=row["file"].removesuffix(".eml"),
        raw=filled(template),
        sender=filled(row["sender"].encode()).decode(),
        recipient=filled(row["recipient"].encode()).decode(),
        queue_id=row["queue_id"],
        finding=frozenset(row["finding"]),
        rule=row["rule"],
        action=row["action"],
        behind=row["behind"],
        verified=row["verified"],
        mail_from=row["mail_from"],
        flags=tuple(row["flags"]) if family == "odd" else None,
        alive=row["alive"],
        dns_silent=row["dns_silent"],
        reason=row["reason"],
    )
