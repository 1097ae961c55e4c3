"""The Postfix that brings mail to this configuration, beside the wiring that `gatepost postfix` would print for it.

Promises: what is expected comes from gatepost.wiring alone, so that the doctor and the fragments cannot disagree.
Never: asks for anything that the fragments do not need.
"""

from __future__ import annotations

import os

from gatepost.doctor.check import fail, unknown
from gatepost.doctor.postfix_instance import Instance, PostfixError, Service, find, parse_service, service_of
from gatepost.doctor.subject import user_id
from gatepost.value import Value
from gatepost.wiring import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.doctor.check import Question, Verdict
    from gatepost.doctor.subject import Subject
    from gatepost.settings import Settings

__all__ = ["Wired", "discover", "domains"]

#: Stands for the person in the fragments; no check looks for it.
_PERSON = "postmaster@person.invalid"


class Wired(Value):
    """`service`: the one that runs our script, None where there is none. `fault`: why there is no instance to look at, or "".

    `expected`: the service that the fragments have, `settings`: their main.cf, by name. `host`: myhostname.
    """

    subject: Subject
    instance: Instance | None
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
    expected, settings, limit = _expected(subject, instance)
    service = service_of(instance, subject.config) or _nearest(instance, expected.name)
    return Wired(subject=subject, instance=instance, service=service, expected=expected, settings=settings, limit=limit)


def domains(settings: Settings) -> tuple[str, ...]:
    """The routes' domains, each once, as the fragments have them."""
    return tuple(dict.fromkeys(route.address.rpartition("@")[2].lower() for route in settings.routes))


def _nearest(instance: Instance, name: str) -> Service | None:
    """A service that runs our script with another configuration, or one that has our name."""
    ours = [each for each in instance.services if each.script]
    named = [each for each in instance.services if each.name == name]
    return next(iter((*ours, *named)), None)


def _expected(subject: Subject, instance: Instance) -> tuple[Service, dict[str, str], str]:
    """The fragments' service and settings, and the time limit that they give the service."""
    files = render(
        subject.sound,
        python=subject.python,
        pipe_script=subject.pipe_script,
        config=subject.config,
        person=_PERSON,
        host=instance.parameter("myhostname"),
        folder=f"{instance.folder}/gatepost",
        queue_directory=instance.parameter("queue_directory"),
    )
    master = " ".join(line for line in files["master.cf"].splitlines() if line.strip() and not line.startswith("#"))
    service = parse_service(master)
    settings = {}
    for line in files["main.cf"].splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings[name.strip()] = value.strip()
    option = f"{service.name}_time_limit="
    limit = next((word.removeprefix(option) for word in master.split() if word.startswith(option)), "")
    return service, settings, limit
