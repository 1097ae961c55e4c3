"""The Postfix that brings mail to this configuration, beside the wiring that `gatepost postfix` would print for it.

Promises: what is expected comes from gatepost.wiring alone, so that the doctor and the fragments cannot disagree.
Never: asks for anything that the fragments do not need.
"""

from __future__ import annotations

import os
from contextlib import suppress

from gatepost.doctor.check import fail, unknown
from gatepost.doctor.postfix_instance import Instance, PostfixError, Service, find, parse_service, service_of
from gatepost.doctor.subject import user_id
from gatepost.mail.recipient import recipient
from gatepost.value import Value
from gatepost.wiring import milter_endpoint, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from gatepost.doctor.check import Question, Verdict
    from gatepost.doctor.subject import Subject
    from gatepost.settings import Route, Settings

    #: Of the ladder (docs/lmtp.md); "" is none.
    Rung = Literal["", "pipe", "thin", "lmtp"]

__all__ = ["Way", "Wired", "discover", "domains", "sample", "ways"]

#: Stands for the person in the fragments; no check looks for it.
_PERSON = "postmaster@person.invalid"
#: Stands for a key.
_KEY = "gatepost-doctor-key"


class Way(Value):
    """Where Postfix delivers a route's mail: `TRANSPORT:NEXTHOP`, the setting that says so, and which rung that is."""

    transport: str
    setting: str
    rung: Rung

    @property
    def name(self) -> str:
        """The service in master.cf."""
        return self.transport.partition(":")[0]


class Wired(Value):
    """`service`: the one that runs our script, None where there is none. `fault`: why there is no instance to look at, or "".

    `ways`: of each route, in their order. Of several services that run our script it is about the one that has their mail.
    `expected`: the service that the fragments have in its place, `settings`: their main.cf, by name. `limit`: its time limit.
    """

    subject: Subject
    instance: Instance | None
    ways: tuple[Way, ...] = ()
    service: Service | None = None
    fault: str = ""
    expected: Service | None = None
    settings: dict[str, str]
    limit: str = ""

    @property
    def user(self) -> int:
        """Whom the service runs as; -1 where there is no service, or no such user."""
        return user_id(self.service.attributes.get("user", "").partition(":")[0]) if self.service else -1

    def ask(self, question: Callable[[Instance], Verdict]) -> Question:
        """A question about the instance."""

        def asked() -> Verdict:
            if self.instance is None:
                return unknown(self.fault or "there is no Postfix to look at")
            try:
                return question(self.instance)
            except PostfixError as error:
                if os.geteuid() != 0:  # a table with a password in it is root's to read
                    return unknown(str(error), "run gatepost doctor as root")
                return fail(
                    f"{error}: Postfix has the same trouble, and no mail comes in", self.instance.command("postfix check")
                )

        return asked

    def ask_service(self, question: Callable[[Instance, Service, Service], Verdict]) -> Question:
        """A question about the service, beside the expected one."""

        def asked(instance: Instance) -> Verdict:
            if self.service is None or self.expected is None:
                return unknown("no service runs gatepost's script")
            return question(instance, self.service, self.expected)

        return self.ask(asked)


def discover(subject: Subject) -> Wired:
    """Finds the instance, its service for this configuration, and what the fragments would be. Never raises PostfixError."""
    if subject.postfix == "none":
        return Wired(subject=subject, instance=None, settings={})
    try:
        instance = find(subject.postfix, subject.config, domains(subject.sound))
    except PostfixError as error:
        return Wired(subject=subject, instance=None, settings={}, fault=str(error))
    if instance is None:
        return Wired(subject=subject, instance=None, settings={})
    fragments = _fragments(subject, instance)
    expected = _services(fragments["master.cf"])
    found: tuple[Way, ...] = ()
    with suppress(PostfixError):  # a table that cannot be asked: the check of the transport tells of it
        found = ways(instance, subject.sound)
    service = (
        _script_service(instance, found) or service_of(instance, subject.config) or _nearest(instance, expected[0][0].name)
    )
    thin = service is not None and "socket" in service.options and len(expected) > 1
    wanted, text = expected[1] if thin else expected[0]
    return Wired(
        subject=subject,
        instance=instance,
        ways=found,
        service=service,
        expected=wanted,
        settings=_settings(fragments["main.cf"]),
        limit=next((word for word in text.split() if "_time_limit=" in word), "=").partition("=")[2],
    )


def domains(settings: Settings) -> tuple[str, ...]:
    """The routes' domains, each once, as the fragments have them."""
    return tuple(dict.fromkeys(route.address.rpartition("@")[2].lower() for route in settings.routes))


def sample(route: Route) -> str:
    """An address that the route takes, as Postfix asks its tables for it."""
    return recipient(route.address.replace("%{key}", _KEY).replace("%s", _KEY)).final_form


def ways(instance: Instance, settings: Settings) -> tuple[Way, ...]:
    """The way of each route's mail. Raises PostfixError for a table that cannot be asked."""
    return tuple(_way(instance, route, settings) for route in settings.routes)


def _way(instance: Instance, route: Route, settings: Settings) -> Way:
    """By transport_maps, else by virtual_transport; an entry with a next hop alone changes only that."""
    address = sample(route)
    found = instance.look_up(instance.parameter("transport_maps"), address, address.rpartition("@")[2])
    setting = "transport_maps" if found.partition(":")[0] else "virtual_transport"
    transport = found if found.partition(":")[0] else instance.parameter("virtual_transport")
    name, _, nexthop = transport.partition(":")
    return Way(transport=transport, setting=setting, rung=_rung(instance, name, nexthop, settings))


def _rung(instance: Instance, name: str, nexthop: str, settings: Settings) -> Rung:
    """Told by what the service does, and not by its name: a host may have given it another."""
    service = next((each for each in instance.services if (each.name, each.kind) == (name, "unix")), None)
    if service is None:
        return ""
    if service.script:
        return "thin" if "socket" in service.options else "pipe"
    if service.command == "lmtp" and settings.lmtp is not None:
        queue = instance.parameter("queue_directory")
        ours = milter_endpoint(settings.lmtp.socket, queue, name="lmtp.socket")
        return "lmtp" if nexthop in (ours, settings.lmtp.socket) else ""
    return ""


def _script_service(instance: Instance, found: tuple[Way, ...]) -> Service | None:
    """The service that runs our script for the first route whose mail comes that way."""
    names = [way.name for way in found if way.rung in ("pipe", "thin")]
    return next((each for name in names for each in instance.services if each.name == name and each.script), None)


def _nearest(instance: Instance, name: str) -> Service | None:
    """A service that runs our script with another configuration, or one that has our name."""
    ours = [each for each in instance.services if each.script]
    named = [each for each in instance.services if each.name == name]
    return next(iter((*ours, *named)), None)


def _fragments(subject: Subject, instance: Instance) -> dict[str, str]:
    """What `gatepost postfix` would print for this instance."""
    return render(
        subject.sound,
        python=subject.python,
        pipe_script=subject.pipe_script,
        config=subject.config,
        person=_PERSON,
        host=instance.parameter("myhostname"),
        folder=f"{instance.folder}/gatepost",
        queue_directory=instance.parameter("queue_directory"),
    )


def _services(master: str) -> list[tuple[Service, str]]:
    """The fragment's services, each with its text in one line."""
    texts: list[str] = []
    for line in master.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace():
            texts[-1] += line
        else:
            texts.append(line)
    return [(parse_service(text), text) for text in texts]


def _settings(main: str) -> dict[str, str]:
    """main.cf by name."""
    lines = (line.partition("=") for line in main.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in lines}
