"""`--probe` of the milter: an SMTP dialogue with the host's own smtpd, as far as one RCPT with a made-up key.

Promises: one connection, from this host to this host, within `PATIENCE` seconds; it ends with QUIT before any message.
Never: sends DATA; asks about a key that somebody has.
"""

from __future__ import annotations

import os
import socket

from gatepost.decision import RULES
from gatepost.doctor.postfix_instance import Instance, words
from gatepost.doctor.smtp_dialogue import Dialogue, SmtpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.postfix_instance import Service
    from gatepost.settings import Route, Settings

__all__ = ["bad_key", "first_route", "is_refusal", "reply_to_a_bad_key"]

_KEY: Final = "gatepost-doctor-"
_PORTS: Final = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}


def first_route(settings: Settings) -> Route | None:
    """A route whose keys gatepost refuses by itself; signed ones first, for these ask nobody."""
    fit = [
        route
        for route in settings.routes
        if route.keys is not None and not route.keys.unchecked and ("%{key}" in route.address or "%s" in route.address)
    ]
    return min(
        fit, key=lambda route: route.keys is None or (route.keys.ask is not None, route.keys.format != "signed"), default=None
    )


def reply_to_a_bad_key(route: Route, instance: Instance, services: tuple[Service, ...]) -> tuple[str, str, bool]:
    """The address, what it was answered (or MAIL, where that was refused), and whether that is gatepost's refusal.

    Raises SmtpError or OSError.
    """
    address = bad_key(route)
    with Dialogue(*_where(instance, services)) as dialogue:
        dialogue.hello(instance.parameter("myhostname"))
        reply = dialogue.said("MAIL FROM:<>")
        if reply.startswith("250"):
            reply = dialogue.said(f"RCPT TO:<{address}>")
        dialogue.said("QUIT")
    return address, reply, is_refusal(reply)


def bad_key(route: Route) -> str:
    """An address of the route with a key that nobody has."""
    key = _KEY + os.urandom(6).hex()
    return route.address.replace("%{key}", key).replace("%s", key)


def is_refusal(reply: str) -> bool:
    """Whether that is what gatepost says of such a key, and not Postfix of an address that no route takes."""
    rule = RULES["key-unknown"]
    return reply.startswith(f"550 {rule.status} ") and rule.text in reply


def _where(instance: Instance, services: tuple[Service, ...]) -> tuple[str, int]:
    """Where smtpd listens for this host: an inet service of smtpd or postscreen, at the first address that Postfix has."""
    listening = [each for each in services if each.kind == "inet"]
    listening += [each for each in instance.services if each.kind == "inet" and each.command == "postscreen"]
    if not listening:
        raise SmtpError("no service of master.cf listens on TCP")
    host, _, port = listening[0].name.rpartition(":")
    number = _PORTS.get(port) or (int(port) if port.isdigit() else socket.getservbyname(port, "tcp"))
    first = next(iter(words(instance.parameter("inet_interfaces"))), "all")
    return host.strip("[]") or (first if first not in ("all", "loopback-only") else "127.0.0.1"), number
