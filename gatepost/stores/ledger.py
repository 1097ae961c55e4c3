"""The ledger: what was first seen when, how it was judged, who is handing it over, and what became of it.

Promises: of all runs that claim one delivery at once exactly one gets it; each claim has a fence, and only the newest fence
can finish. A message is judged once: later claims get the judgement of the first. Every method is one short transaction;
killed at any point, the ledger is as it was before or after it. What `finish` returned True for survives a power cut.
Never: an address in the clear (keyed hashes only); a decision (gateway and policy take those); a wait for a lease.
"""

from __future__ import annotations

from gatepost.digest import hmac_sha256
from gatepost.stores.database import DATABASE, Transaction, close, fetch, open_database
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any, Final, Literal

__all__ = ["Claim", "Ledger", "Row"]

#: Octets kept of an address's HMAC-SHA256: 128 bits, no two addresses meet.
_HASH_BYTES: Final = 16



class Claim(Value):
    """What a run gets when it asks for a delivery.

    "claimed": it is yours until the lease ends; `fence` proves it, `attempts` counts this one too, `judgement` and
    `first_seen` (Unix seconds) are those of the first run. "busy": another run has it, at most until `until`. "done":
    `outcome` is what that run recorded.
    """

    state: Literal["claimed", "busy", "done"]
    fence: int = 0
    attempts: int = 0
    cannot_take: int = 0
    first_seen: float = 0.0
    judgement: str = ""
    until: float = 0.0
    outcome: str = ""


class Row(Value):
    """One delivery as the ledger has it: the fields are the table's columns.

    Times are Unix seconds; `lease_until` 0 = nobody has it; hashes are in hex.
    """

    id: str
    queue_id: str
    first_seen: float
    changed: float
    attempts: int
    cannot_take: int
    fence: int
    lease_until: float
    state: Literal["open", "done"]
    judgement: str
    outcome: str
    sender_hash: str
    recipient_hash: str


_SELECT: Final = f"SELECT {', '.join(Row._fields)} FROM delivery"  # noqa: S608 our own names


class Ledger:
    """The ledger of one host, open. One for each process; not for use across fork or threads."""

    def __init__(self, folder: str, database: sqlite3.Connection) -> None:
        """`database`: from `open_database(folder)`. Raises StoreError where it cannot be read."""
        self._path = f"{folder}/{DATABASE}"
        self._database = database
        row = fetch(database, self._path, "SELECT host_id, hash_key FROM store")[0]
        #: Random, 32 hexadecimal digits, made with the store: part of every delivery id.
        self.host_id: str = row[0]
        #: Random, 32 octets, made with the store: the HMAC key of the address hashes.
        self.hash_key: bytes = row[1]

    @classmethod
    def open(cls, folder: str, *, busy_timeout: float = 10.0) -> Ledger:
        """The ledger in the store folder, made where there was none. Raises StoreError: see `open_database`."""
        return cls(folder, open_database(folder, busy_timeout=busy_timeout))

    def claim(
        self,
        delivery_id: str,
        *,
        now: float,
        lease: float,
        judgement: str,
        queue_id: str,
        sender: str,
        recipient: str,
    ) -> Claim:
        """Asks to hand this delivery over, until `now` + `lease` (Unix seconds, seconds). Raises StoreError.

        `judgement` is kept only where this is the first claim. A clock that was set back shortens nothing and blocks nothing
        for ever: a lease that ends more than two leases from now counts as over (one lease of grace, so that a small step of
        the clock does not let a second run in beside the first), and first_seen is never later than now.
        """
        key = _key(delivery_id)
        with Transaction(self._database, self._path) as database:
            row = database.execute(
                "SELECT state, outcome, lease_until, first_seen, fence, attempts, cannot_take, judgement"
                " FROM delivery WHERE id = ?",
                (key,),
            ).fetchone()
            if row is None:
                database.execute(
                    "INSERT INTO delivery VALUES (?, CAST(? AS TEXT), ?, ?, 1, 0, 1, ?, 'open', CAST(? AS TEXT), '', ?, ?)",
                    (key, _utf8(queue_id), now, now, now + lease, _utf8(judgement), self._hash(sender), self._hash(recipient)),
                )
                return Claim(state="claimed", fence=1, attempts=1, first_seen=now, judgement=judgement)
            state, outcome, lease_until, first_seen, fence, attempts, cannot_take, judged = row
            first_seen = min(first_seen, now)
            if state == "done":
                return Claim(state="done", outcome=outcome, first_seen=first_seen, attempts=attempts, cannot_take=cannot_take)
            if now < lease_until <= now + 2 * lease:
                return Claim(state="busy", until=lease_until, first_seen=first_seen, attempts=attempts)
            database.execute(
                "UPDATE delivery SET first_seen = ?, changed = ?, attempts = ?, fence = ?, lease_until = ? WHERE id = ?",
                (first_seen, now, attempts + 1, fence + 1, now + lease, key),
            )
        return Claim(
            state="claimed",
            fence=fence + 1,
            attempts=attempts + 1,
            cannot_take=cannot_take,
            first_seen=first_seen,
            judgement=judged,
        )

    def finish(self, delivery_id: str, fence: int, *, outcome: str, now: float, prune: int = 0, keep: float = 0.0) -> bool:
        """Records the end of a claimed delivery, on the disk when this returns; the judgement is cleared. Raises StoreError.

        False: fenced off, a later run has the delivery (or it is pruned), and nothing was written. A second finish under the
        same fence is True and keeps the first outcome. `prune`: at most so many rows, last changed more than `keep` seconds
        ago, go in the same transaction.
        """
        key = _key(delivery_id)
        with Transaction(self._database, self._path) as database:
            written = database.execute(
                "UPDATE delivery SET state = 'done', outcome = CAST(? AS TEXT), judgement = '', lease_until = 0, changed = ?"
                " WHERE id = ? AND fence = ? AND state = 'open'",
                (_utf8(outcome), now, key, fence),
            ).rowcount
            if not written:
                return database.execute(
                    "SELECT 1 FROM delivery WHERE id = ? AND fence = ? AND state = 'done'", (key, fence)
                ).fetchone() is not None  # fmt: skip
            if prune > 0:
                _prune(database, now - keep, prune)
        return True

    def release(self, delivery_id: str, fence: int, *, cannot_take: bool = False) -> bool:
        """Ends the lease of a delivery that stays in Postfix's queue; the next run need not wait for it. Raises StoreError.

        `cannot_take`: the app said that it cannot take this message; counted. False: the lease was not ours any more.
        """
        with Transaction(self._database, self._path) as database:
            written = database.execute(
                "UPDATE delivery SET lease_until = 0, cannot_take = cannot_take + ?"
                " WHERE id = ? AND fence = ? AND lease_until > 0",
                (int(cannot_take), _key(delivery_id), fence),
            ).rowcount
        return bool(written)

    def look(self, delivery_id: str) -> Row | None:
        """The row of one delivery, or None. Raises StoreError."""
        found = fetch(self._database, self._path, f"{_SELECT} WHERE id = ?", (_key(delivery_id),))
        return _row(found[0]) if found else None

    def rows(self, *, queue_id: str) -> Iterator[Row]:
        """The rows of one queue ID, oldest first. Raises StoreError.

        A walk through the table, 0.3 s for a million rows: only commands ask, and an index would cost every message a page.
        """
        chosen = f"{_SELECT} WHERE queue_id = CAST(? AS TEXT) ORDER BY first_seen, id"
        return map(_row, fetch(self._database, self._path, chosen, (_utf8(queue_id),)))

    def prune(self, now: float, keep: float, limit: int) -> int:
        """Deletes at most `limit` rows last changed more than `keep` seconds before `now`; how many. Raises StoreError."""
        if limit <= 0:
            return 0
        with Transaction(self._database, self._path) as database:
            return _prune(database, now - keep, limit)

    def close(self) -> None:
        """Copies the write-ahead log back and lets go of the file.

        For processes that live on. One that is about to end leaves the ledger open and ends with os._exit: 3 syncs less.
        """
        close(self._database, self._path)

    def _hash(self, address: str) -> bytes:
        """Of the address in lower case: who asks to be forgotten does not know how the case was."""
        return hmac_sha256(self.hash_key, _utf8(address.lower()))[:_HASH_BYTES]


def _prune(database: sqlite3.Connection, before: float, limit: int) -> int:
    return database.execute(
        "DELETE FROM delivery WHERE id IN (SELECT id FROM delivery WHERE changed < ? ORDER BY changed LIMIT ?)", (before, limit)
    ).rowcount


def _key(delivery_id: str) -> bytes:
    """The 32 octets of a delivery id (64 hexadecimal digits). ValueError for anything else: no message can cause that."""
    key = bytes.fromhex(delivery_id)
    if len(key) != 32:
        raise ValueError(f"not a delivery id: {delivery_id!r}")
    return key


def _utf8(text: str) -> bytes:
    """SQLite takes no text with surrogates, and a queue ID or address from argv may have them: bound as bytes, cast there."""
    return text.encode("utf-8", "surrogatepass")


def _row(values: tuple[Any, ...]) -> Row:
    fields = dict(zip(Row._fields, values, strict=True))
    for name in ("id", "sender_hash", "recipient_hash"):
        fields[name] = fields[name].hex()
    return Row(**fields)
