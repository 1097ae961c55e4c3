"""What gatepost remembers between two runs, on one host: SQLite for the ledger, plain files for parked mail.

The map: `database` opens the one SQLite file (or says why it cannot); `ledger` is what was first seen, leased and done;
`parked` is mail put aside for a person; `durable` writes a file so that a power cut leaves the old one or the new one.

Promises: every failure is a `StoreError` with what to do; importing this file imports nothing.
Never: made anew in silence. A store that has gone is an error, not an empty store.
"""

__all__ = ["database", "durable", "ledger", "parked"]
