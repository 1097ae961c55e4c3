"""What the lab shows, in order.

Promises: each row is one scenario; what it needs of those before it stands in its own module.
Never: two scenarios of one name.
"""

from __future__ import annotations

from typing import Final

from tests.lab import (
    scenario_beside,
    scenario_chain,
    scenario_debian13,
    scenario_delivery,
    scenario_dns,
    scenario_door,
    scenario_firewalls,
    scenario_fresh,
    scenario_mutants,
    scenario_outage,
    scenario_rungs,
    scenario_tls,
    scenario_update,
)
from tests.lab.course import Scenario

__all__ = ["SCENARIOS"]

_PAIR: Final = ("mx1", "mx2")

SCENARIOS: Final = (
    Scenario("fresh", "a bare host: --check, converge, a second run, --check --diff", ("mx1", "mx2"), scenario_fresh.fresh),
    Scenario("delivery", "sender finds mx1 by MX; what becomes of each message", _PAIR, scenario_delivery.delivery),
    Scenario("addresses", "the same over IPv6 and over IPv4", _PAIR, scenario_delivery.addresses),
    Scenario("ports", "port 25 is open, and all else is closed", _PAIR, scenario_door.ports),
    Scenario("smuggling", "seven end-of-data variants, none through", _PAIR, scenario_door.smuggling),
    Scenario("relay", "twenty forms of recipient, none through", _PAIR, scenario_door.relay),
    Scenario("chain", "gatepost doctor --chain: whole, and with one hop broken after another", _PAIR, scenario_chain.chain),
    Scenario("outage", "mx1 closed, stopped, both off, rebooted; no message lost", _PAIR, scenario_outage.outage),
    Scenario("rate", "one source that knocks too often", _PAIR, scenario_door.rate),
    Scenario("beside", "a Postfix that serves another domain keeps doing so", ("other",), scenario_beside.beside),
    Scenario(
        "update",
        "20 messages a second, meanwhile a new release, a broken one, a broken variable",
        _PAIR,
        scenario_update.update,
        full=True,
    ),
    Scenario("debian13", "Debian 13, from bare to mail delivered", ("mx13",), scenario_debian13.debian13, full=True),
    Scenario(
        "firewalls",
        "ufw and firewalld, used already; nftables over IPv6",
        ("r2", "r3"),
        scenario_firewalls.firewalls,
        full=True,
    ),
    Scenario("dns", "records to paste and by update, what is refused; beside", ("r2", "other"), scenario_dns.dns, full=True),
    Scenario(
        "tls", "a certificate of ours, and one of an ACME authority with its renewal", ("r3",), scenario_tls.tls, full=True
    ),
    Scenario(
        "rungs", "from pipe to LMTP to thin and back, mail coming all the while", ("r3",), scenario_rungs.rungs, full=True
    ),
    Scenario("mutants", "roles with a mistake in them are found out", ("r2",), scenario_mutants.mutants, full=True),
)
