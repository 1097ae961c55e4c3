"""`--probe` of the milter: an SMTP dialogue with the host's own smtpd, as far as one RCPT with a made-up key.

Promises: one connection, from this host to this host, within `PATIENCE` seconds; it ends with QUIT before any message.
Never: sends DATA; asks about a key that somebody has.
"""

from __future__ import annotations

import os
import socket
import time

from gatepost.decision import RULES
from gatepost.doctor.postfix_instance import Instance, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.postfix_instance import Service
    from gatepost.settings import Route, Settings

__all__ = ["PATIENCE", "SmtpError", "first_route", "reply_to_a_bad_key"]

#: Seconds for the whole dialogue: postscreen(8) alone waits 6 before it greets.
PATIENCE: Final = 30.0
_KEY: Final = "gatepost-doctor-"
_PORTS: Final = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}
_LONGEST_REPLY: Final = 65_536


class SmtpError(Exception):
    """There is no dialogue; the text says why."""


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
    key = _KEY + os.urandom(6).hex()
    address = route.address.replace("%{key}", key).replace("%s", key)
    with socket.create_connection(_where(instance, services), timeout=PATIENCE) as there:
        dialogue = _Dialogue(there)
        dialogue.expect("", "220")
        dialogue.expect(f"EHLO {instance.parameter('myhostname')}", "250")
        reply = dialogue.said("MAIL FROM:<>")
        if reply.startswith("250"):
            reply = dialogue.said(f"RCPT TO:<{address}>")
        dialogue.said("QUIT")
    rule = RULES["key-unknown"]
    return address, reply, reply.startswith(f"550 {rule.status} ") and rule.text in reply


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


class _Dialogue:
    """Commands and whole replies (RFC 5321 4.2), all within `PATIENCE`."""

    def __init__(self, there: socket.socket) -> None:
        self._there, self._end, self._rest = there, time.monotonic() + PATIENCE, b""

    def said(self, command: str) -> str:
        """The last line of the reply; "" as command: the greeting."""
        if command:
            self._there.sendall(command.encode() + b"\r\n")
        while True:
            line, found, rest = self._rest.partition(b"\r\n")
            if found:
                self._rest = rest
                if line[3:4] != b"-":
                    return line.decode("ascii", "replace")
                continue
            left = self._end - time.monotonic()
            if left <= 0 or len(self._rest) > _LONGEST_REPLY:
                raise SmtpError(f"{command or 'the greeting'}: no reply in {PATIENCE:.0f} s")
            self._there.settimeout(left)
            data = self._there.recv(4_096)
            if not data:
                raise SmtpError(f"{command or 'the greeting'}: the connection ended")
            self._rest += data

    def expect(self, command: str, code: str) -> None:
        """Raises SmtpError for another reply."""
        reply = self.said(command)
        if not reply.startswith(code):
            raise SmtpError(f"{command or 'the greeting'}: {reply}")
