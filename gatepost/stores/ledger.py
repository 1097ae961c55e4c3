"""The ledger: what was first seen when, how it was judged, who is handing it over, and what became of it.

Promises: of all runs that claim one delivery at once exactly one gets it; each claim has a fence, and only the newest fence
can finish. A message is judged once: when it first passes its limits, here or in `judge`; later claims get that judgement. Of a
limit of n exactly n pass, however many processes ask. Every method is one short transaction, or a part of one that works run
`together`; killed at any point, the ledger is as it was before or after it. What `finish` wrote survives a power cut (a ledger
opened with `synced`).
Never: an address or a counted key in the clear (keyed hashes only); a decision (gateway and policy take those); a wait for a
lease.
"""

from __future__ import annotations

from gatepost.digest import hmac_sha256, same
from gatepost.stores import counts
from gatepost.stores.database import DATABASE, Transaction, close, fetch, open_database
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final, Literal

    from gatepost.stores.limits import Counter

    _Delete = Callable[[sqlite3.Connection, float, int], object]

__all__ = ["Claim", "Judged", "Ledger", "Limited", "Recorded", "Row"]

#: Octets kept of an address's HMAC-SHA256: 128 bits, no two addresses meet.
_HASH_BYTES: Final = 16
#: Old counts deleted by each message that is counted: more than the three that it adds, so that they come to an end.
_PRUNE_COUNTS: Final = 8


class Claim(Value):
    """What a run gets when it asks for a delivery.

    "claimed": it is yours until the lease ends; `fence` proves it, `attempts` counts this one too, `judgement` is that of
    the first run that passed, `first_seen` (Unix seconds) that of the first run. "busy": another run has it, at most until
    `until`. "done": `outcome` is what that run recorded. "limited": nobody has it, `limit` (`per_key 50/1m`) is full and has
    room from `until` on; where several are full, it is the one that lasts longest. "waiting": as asked, nobody has it.
    """

    state: Literal["claimed", "busy", "done", "limited", "waiting"]
    fence: int = 0
    attempts: int = 0
    cannot_take: int = 0
    first_seen: float = 0.0
    judgement: str = ""
    until: float = 0.0
    outcome: str = ""
    limit: str = ""


class Row(Value):
    """One delivery as the ledger has it: the fields are the table's columns.

    Times are Unix seconds; `lease_until` 0 = nobody has it; hashes are in hex; `passed` 0 = only limits have answered yet.
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
    passed: int


class Judged(Value):
    """One recipient of a message that was judged before Postfix queued it: `id` is the delivery's, `judgement` any text.

    `counters`: what it is counted by; () where another rule than a limit decides. `wanted` False: it is refused, and for it
    alone the message would not be queued.
    """

    id: str
    recipient: str
    judgement: str
    counters: tuple[Counter, ...] = ()
    wanted: bool = True


class Limited(Value):
    """A delivery that did not pass: `limit` (`per_key 50/1m`) is full until `until`, as in Claim."""

    id: str
    limit: str
    until: float


class Recorded(Value):
    """What is known of a token: when it was recorded (Unix seconds), under which queue ID, and what it is bound to."""

    at: float
    queue_id: str
    binding: bytes


_SELECT: Final = f"SELECT {', '.join(Row._fields)} FROM delivery"  # noqa: S608 our own names

#: An open delivery; only a claim that was limited before replaces one.
_OPEN: Final = (
    "INSERT OR REPLACE INTO delivery (id, queue_id, first_seen, changed, attempts, cannot_take, fence, lease_until,"
    " state, judgement, outcome, sender_hash, recipient_hash, passed)"
    " VALUES (?, CAST(? AS TEXT), ?, ?, ?, 0, ?, ?, 'open', CAST(? AS TEXT), '', ?, ?, ?)"
)


class Ledger:
    """The ledger of one host, open. For one thread at a time (pool.py has one for each of several); not for use across fork."""

    def __init__(self, folder: str, database: sqlite3.Connection) -> None:
        """`database`: from `open_database(folder)`. Raises StoreError where it cannot be read."""
        self._path = f"{folder}/{DATABASE}"
        self._database = database
        #: The transaction that `together` has begun, for methods that would each begin their own.
        self._joined: _Joined | None = None
        row = fetch(database, self._path, "SELECT host_id, hash_key FROM store")[0]
        #: Random, 32 hexadecimal digits, made with the store: part of every delivery id.
        self.host_id: str = row[0]
        #: Random, 32 octets, made with the store: the HMAC key of the address hashes.
        self.hash_key: bytes = row[1]

    @classmethod
    def open(
        cls, folder: str, *, busy_timeout: float = 10.0, any_thread: bool = False, synced: bool = True
    ) -> Ledger:  # fmt: skip
        """The ledger in the store folder, made where there was none. Raises StoreError: see `open_database`."""
        return cls(folder, open_database(folder, busy_timeout=busy_timeout, any_thread=any_thread, synced=synced))

    def together(self, works: Iterable[Callable[[Ledger], None]]) -> None:
        """Runs works that call methods of this ledger, one after the other, in one transaction: one sync for all of them.

        Where one raises, none of them has happened. Raises what it raised, and StoreError.
        """
        with Transaction(self._database, self._path) as database:
            self._joined = _Joined(database)
            try:
                for work in works:
                    work(self)
                self._joined.delete_old()
            finally:
                self._joined = None

    def _transaction(self) -> Transaction | _Joined:
        """For a method that writes: the one that `together` has begun, or one of its own."""
        return self._joined or Transaction(self._database, self._path)

    def _delete_old(self, delete: _Delete, before: float, limit: int) -> None:
        """`limit` old ones at most; those of works together are deleted together."""
        if self._joined is None:
            delete(self._database, before, limit)
        else:
            self._joined.owe(delete, before, limit)

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
        counters: tuple[Counter, ...] = (),
        waits: bool = False,
    ) -> Claim:
        """Asks to hand this delivery over, until `now` + `lease` (Unix seconds, seconds). Raises StoreError.

        `counters` are asked until the delivery first passes, which is when every window of all of them has room: then it is
        counted once under each, and never asked again. Where one is full, nothing is counted and no lease is given; the row
        keeps first_seen, and the next claim is judged afresh. So it is where the delivery `waits` for something else: it is
        judged later, and only its arrival is kept. `judgement` is kept only where this claim passes first.

        A clock that was set back shortens nothing and blocks nothing for ever: a lease that ends more than two leases from now
        counts as over (one lease of grace, so that a small step of the clock does not let a second run in beside the first),
        and first_seen is never later than now. For counts see `counts.count`.
        """
        key = _key(delivery_id)
        with self._transaction() as database:
            row = database.execute(
                "SELECT passed, state, outcome, lease_until, first_seen, fence, attempts, cannot_take, judgement"
                " FROM delivery WHERE id = ?",
                (key,),
            ).fetchone()
            if row is not None and row[0]:
                return _claim_again(database, key, row, now, lease)
            first_seen, attempts = (now, 1) if row is None else (min(row[4], now), row[6] + 1)
            full = None if waits else self._count(database, key, counters, now, lease)
            passes = not waits and full is None
            fence, lease_until, kept = (1, now + lease, judgement) if passes else (0, 0.0, "")
            database.execute(
                _OPEN,
                (key, _utf8(queue_id), first_seen, now, attempts, fence, lease_until, _utf8(kept), self._hash(sender),
                 self._hash(recipient), int(passes)),
            )  # fmt: skip
        if waits:
            return Claim(state="waiting", first_seen=first_seen, attempts=attempts)
        if full:
            until, limit = full
            return Claim(state="limited", limit=limit, until=until, first_seen=first_seen, attempts=attempts)
        return Claim(state="claimed", fence=fence, attempts=attempts, first_seen=first_seen, judgement=judgement)

    def judge(
        self,
        deliveries: tuple[Judged, ...],
        *,
        token: str,
        queue_id: str,
        sender: str,
        binding: bytes,
        now: float,
        lease: float,
        keep_token: bool = False,
    ) -> tuple[Limited, ...]:
        """Records a whole message that was judged before Postfix queued it; those that did not pass. Raises StoreError.

        `token`: 32 hexadecimal digits, random, of this message alone; `binding`: what `recorded` gives back with it. `lease`:
        see `counts.count`. Each delivery that passes its limits is counted and gets a row that nobody has: its first claim is
        attempt 1, gets this judgement, and asks no limit. One that is limited gets neither: its first claim judges it.
        Deliveries that share a counter count one after the other. A row or a token that is there already stays as it is.

        Where limits leave nobody who wants the message nothing is written, not even the token: the caller defers the message,
        and it comes again under another. `keep_token`: it is queued all the same, for recipients that are not here.
        """
        known_as, hashed, written = _token(token), self._hash(sender), _utf8(queue_id)
        wanted = [each for each in deliveries if each.wanted]
        with self._transaction() as database:
            limited = [full for each in wanted if (full := self._pass(database, each, written, hashed, now, lease))]
            if limited and len(limited) == len(wanted) and not keep_token:
                return tuple(limited)
            refused = [each for each in deliveries if not each.wanted]
            limited += [full for each in refused if (full := self._pass(database, each, written, hashed, now, lease))]
            database.execute("INSERT OR IGNORE INTO token VALUES (?, CAST(? AS TEXT), ?, ?)", (known_as, written, now, binding))
        return tuple(limited)

    def _pass(
        self, database: sqlite3.Connection, each: Judged, queue_id: bytes, sender: bytes, now: float, lease: float
    ) -> Limited | None:
        """Counts one delivery and gives it a row that nobody has, unless it is limited, or has a row."""
        key = _key(each.id)
        if database.execute("SELECT 1 FROM delivery WHERE id = ?", (key,)).fetchone() is not None:
            return None
        full = self._count(database, key, each.counters, now, lease)
        if full:
            return Limited(id=each.id, limit=full[1], until=full[0])
        recipient, judgement = self._hash(each.recipient), _utf8(each.judgement)
        database.execute(_OPEN, (key, queue_id, now, now, 0, 0, 0.0, judgement, sender, recipient, 1))
        return None

    def room(self, counters: tuple[Counter, ...], *, now: float, lease: float) -> tuple[float, str] | None:
        """Whether a message would pass now: None, or until when which limit is full, as `judge` would say. Raises StoreError.

        Only reads, and waits for no writer: a store that another process holds for too long is noticed in `judge`. As many
        statements for one key as for another, and one where there are no counters too, so that a damaged store is noticed.
        """
        with Transaction(self._database, self._path, writes=False) as database:
            database.execute("SELECT 1 FROM store").fetchone()
            asked = self._asked(counters)
            return counts.fullest(database, asked, now, lease)[0] if asked else None

    def recorded(self, token: str) -> Recorded | None:
        """What was recorded of a token; None for one that is not known, or is none. Raises StoreError."""
        try:
            known_as = _token(token)
        except ValueError:
            return None
        found = fetch(self._database, self._path, "SELECT at, queue_id, binding FROM token WHERE token = ?", (known_as,))
        return Recorded(**dict(zip(Recorded._fields, found[0], strict=True))) if found else None

    def expect(self, token: str, *, recipient: str, now: float) -> None:
        """From now on (Unix seconds) a message with this token (32 hexadecimal digits, random) is the doctor's. StoreError.

        For this recipient alone; the token goes when tokens of its age do (`prune`), or by `expect_no_more`.
        """
        with Transaction(self._database, self._path) as database:
            database.execute("INSERT INTO token VALUES (?, '', ?, ?)", (_token(token), now, self._probe(recipient)))

    def expects(self, token: str, *, recipient: str) -> bool:
        """Whether `expect` was told so, by whoever knows this token; of a text that is none, never. Raises StoreError."""
        record = self.recorded(token)
        return record is not None and same(record.binding, self._probe(recipient))

    def expect_no_more(self, token: str) -> None:
        """The message with this token has come. Raises StoreError."""
        with Transaction(self._database, self._path) as database:
            database.execute("DELETE FROM token WHERE token = ?", (_token(token),))

    def _count(
        self, database: sqlite3.Connection, delivery: bytes, counters: tuple[Counter, ...], now: float, lease: float
    ) -> tuple[float, str] | None:
        """Until when a window is full, and which; None where the delivery was counted (see `counts.count`)."""
        asked = self._asked(counters)
        if not asked:
            return None
        full = counts.count(database, delivery, asked, now, lease)
        if full is None:
            self._delete_old(counts.prune, now, _PRUNE_COUNTS)
        return full

    def finish(self, delivery_id: str, fence: int, *, outcome: str, now: float, prune: int = 0, keep: float = 0.0) -> bool:
        """Records the end of a claimed delivery, on the disk when this returns; the judgement is cleared. Raises StoreError.

        False: fenced off, a later run has the delivery (or it is pruned), and nothing was written. A second finish under the
        same fence is True and keeps the first outcome. `prune`: at most so many rows, last changed more than `keep` seconds
        ago, and so many tokens go in the same transaction.
        """
        key = _key(delivery_id)
        with self._transaction() as database:
            written = database.execute(
                "UPDATE delivery SET state = 'done', outcome = CAST(? AS TEXT), judgement = '', lease_until = 0, changed = ?"
                " WHERE id = ? AND fence = ? AND fence > 0 AND state = 'open' AND passed",
                (_utf8(outcome), now, key, fence),
            ).rowcount
            if not written:
                return database.execute(
                    "SELECT 1 FROM delivery WHERE id = ? AND fence = ? AND state = 'done'", (key, fence)
                ).fetchone() is not None  # fmt: skip
            if prune > 0:
                self._delete_old(_prune, now - keep, prune)
        return True

    def release(self, delivery_id: str, fence: int, *, cannot_take: bool = False) -> bool:
        """Ends the lease of a delivery that stays in Postfix's queue; the next run need not wait for it. Raises StoreError.

        `cannot_take`: the app said that it cannot take this message; counted. False: the lease was not ours any more.
        """
        with self._transaction() as database:
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
        """Deletes at most `limit` rows last changed more than `keep` seconds before `now`; how many. Raises StoreError.

        At most so many tokens as old as that, and counts that have left all their windows, go with them.
        """
        if limit <= 0:
            return 0
        with self._transaction() as database:
            counts.prune(database, now, limit)
            return _prune(database, now - keep, limit)

    def close(self) -> None:
        """Copies the write-ahead log back and lets go of the file.

        For processes that live on. One that is about to end leaves the ledger open and ends with os._exit: 3 syncs less.
        """
        close(self._database, self._path)

    def _hash(self, address: str) -> bytes:
        """Of the address in lower case: who asks to be forgotten does not know how the case was."""
        return hmac_sha256(self.hash_key, _utf8(address.lower()))[:_HASH_BYTES]

    def _probe(self, recipient: str) -> bytes:
        """What binds a token of the doctor's to its recipient; no stamp of the milter's has this form."""
        return b"probe " + self._hash(recipient)

    def _asked(self, counters: tuple[Counter, ...]) -> list[tuple[bytes, Counter]]:
        """The counters that have a window, each with its hash."""
        return [(self._hash_of(each), each) for each in counters if each.windows]

    def _hash_of(self, counter: Counter) -> bytes:
        """Of what is counted. No address has NUL in it, so none has the hash of a counter."""
        return hmac_sha256(self.hash_key, _utf8(f"count\0{counter.name}\0{counter.subject}"))[:_HASH_BYTES]


class _Joined:
    """A part of a transaction that somebody else begins and ends."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._owed: dict[_Delete, tuple[float, int]] = {}

    def __enter__(self) -> sqlite3.Connection:
        return self._database

    def __exit__(self, *_: object) -> None:
        pass

    def owe(self, delete: _Delete, before: float, limit: int) -> None:
        """So many more are to be deleted at the end."""
        latest, owed = self._owed.get(delete, (before, 0))
        self._owed[delete] = max(latest, before), owed + limit

    def delete_old(self) -> None:
        """Deletes what is owed."""
        for delete, (before, limit) in self._owed.items():
            delete(self._database, before, limit)


def _claim_again(database: sqlite3.Connection, key: bytes, row: tuple[Any, ...], now: float, lease: float) -> Claim:
    """The claim of a delivery that has passed its limits."""
    _, state, outcome, lease_until, first_seen, fence, attempts, cannot_take, judged = row
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


def _prune(database: sqlite3.Connection, before: float, limit: int) -> int:
    """Deletes at most so many rows, and so many tokens, from before that time; how many rows."""
    database.execute(
        "DELETE FROM token WHERE token IN (SELECT token FROM token WHERE at < ? ORDER BY at LIMIT ?)", (before, limit)
    )
    return database.execute(
        "DELETE FROM delivery WHERE id IN (SELECT id FROM delivery WHERE changed < ? ORDER BY changed LIMIT ?)", (before, limit)
    ).rowcount


def _key(delivery_id: str) -> bytes:
    """The 32 octets of a delivery id (64 hexadecimal digits). ValueError for anything else: no message can cause that."""
    key = bytes.fromhex(delivery_id)
    if len(key) != 32:
        raise ValueError(f"not a delivery id: {delivery_id!r}")
    return key


def _token(text: str) -> bytes:
    """The 16 octets of a token (32 hexadecimal digits). ValueError for anything else."""
    token = bytes.fromhex(text)
    if len(token) != 16:
        raise ValueError(f"not a token: {text!r}")
    return token


def _utf8(text: str) -> bytes:
    """SQLite takes no text with surrogates, and a queue ID or address from argv may have them: bound as bytes, cast there."""
    return text.encode("utf-8", "surrogatepass")


def _row(values: tuple[Any, ...]) -> Row:
    fields = dict(zip(Row._fields, values, strict=True))
    for name in ("id", "sender_hash", "recipient_hash"):
        fields[name] = fields[name].hex()
    return Row(**fields)
