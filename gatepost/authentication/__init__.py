"""Who a message is really from: SPF, DKIM, DMARC and ARC, for the milter (docs/authentication.md).

| module | what it does |
|---|---|
| `authenticator` | `Mail` -> `Checked`: all methods under one deadline, and the `Sender` that follows |
| `results`, `results_field` | the values; the Authentication-Results field that tells them (RFC 8601) |
| `spf` | RFC 7208, by pyspf |
| `dkim` | RFC 6376, 8301, 8463: every signature |
| `arc` | RFC 8617: reported only |
| `signature`, `public_key`, `tags`, `canonicalization` | what DKIM and ARC share; cryptography checks the signatures |
| `dmarc`, `dmarc_record`, `tree_walk`, `alignment` | RFC 9989, and records of RFC 7489 |
| `resolver`, `cache` | DNS, by dnspython: bounded questions, one deadline, TCP, answers kept |
| `names` | domain names in the one form in which they are compared |

Promises: a message never raises; a time-out is temperror, never fail; time, memory and DNS questions have bounds that no
message moves.
Never: imported by the pipe script; decides what becomes of a message.
"""

from __future__ import annotations

from gatepost.authentication.authenticator import METHODS, Authenticator, Mail
from gatepost.authentication.resolver import Resolver
from gatepost.authentication.results import Checked, DkimResult, DmarcResult, SpfResult
from gatepost.authentication.results_field import results_value

__all__ = [
    "METHODS",
    "Authenticator",
    "Checked",
    "DkimResult",
    "DmarcResult",
    "Mail",
    "Resolver",
    "SpfResult",
    "results_value",
]
