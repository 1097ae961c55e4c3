"""The milter: is it there, does every message pass through it, and what becomes of mail while it is down.

Promises: asks the milter itself for nothing but its greeting (the option negotiation that Postfix begins with), once as the
caller and once as smtpd would: its user, its folder, its chroot. `--probe` speaks SMTP with the real smtpd up to RCPT.
Never: sends a message.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
import subprocess
from contextlib import suppress

from gatepost.doctor.check import fail, not_used, ok, unknown, warn
from gatepost.doctor.milter_dialogue import first_route, reply_to_a_bad_key
from gatepost.doctor.postfix_instance import Instance, PostfixError, seconds, words
from gatepost.doctor.smtp_dialogue import SmtpError
from gatepost.doctor.subject import name_of
from gatepost.value import Value
from gatepost.wiring import milter_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.doctor.check import Question, Questions, Verdict
    from gatepost.doctor.postfix_instance import Service
    from gatepost.doctor.wired import Wired
    from gatepost.settings import MilterSettings

__all__ = ["Named", "milters", "questions"]

#: What needs the extra [milter], imported as the milter imports it.
_IMPORTS: Final = "import Milter, gatepost.authentication, gatepost_milter.server"
_INSTALL: Final = "apt-get install gcc python3-dev libmilter-dev; then {folder}/pip install 'gatepost[milter]'"
#: Seconds: for those imports; for a connection and the greeting.
_IMPORT_PATIENCE: Final = 30
_PATIENCE: Final = 5.0
#: What stands in the path of our socket (docs/wiring.md): by it our milter is known where no configuration says which is ours.
_NAME: Final = "gatepost"
#: The option negotiation (libmilter's mfdef.h, SMFIC_OPTNEG): protocol 6, everything offered, as Postfix does.
_GREETING: Final = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
_GOODBYE: Final = struct.pack("!Ic", 1, b"Q")
#: Seconds: what `ask:` and the store may take at RCPT; at the end of a message, beside `milter.dns_deadline`: what a large one
#: may wait for its turn, and the rest.
_LEAST_COMMAND: Final = 10.0
_LEAST_CONTENT: Final = 150.0


class Named(Value):
    """One milter of a list in main.cf. `options`: those in its braces."""

    endpoint: str
    options: dict[str, str]


def milters(value: str) -> tuple[Named, ...]:
    """smtpd_milters, taken apart: white space and commas separate, braces hold one milter and its options (postconf(5))."""
    found, depth, word = [], 0, ""
    for letter in f"{value} ":
        depth += (letter == "{") - (letter == "}")
        if depth == 0 and letter in " \t,":
            if word:
                found.append(_named(word))
            word = ""
        else:
            word += letter
    return tuple(each for each in found if each.endpoint)


def _named(word: str) -> Named:
    endpoint, *options = [part.strip() for part in word.strip("{} \t").split(",")]
    return Named(endpoint=endpoint, options=dict(option.partition("=")[::2] for option in options))


def questions(wired: Wired) -> Questions:
    """From whether it is installed to what it answers; one line where the configuration has none."""
    milter = wired.subject.sound.milter
    if milter is None:
        return (("milter", wired.ask(lambda instance: _left_over(wired, instance)) if wired.instance is not None else _none),)
    installed: Questions = (
        ("milter", lambda: _installed(wired)),
        ("milter-socket", lambda: _socket(milter)),
        ("milter-user", lambda: _user(wired, milter)),
    )
    if wired.instance is None and not wired.fault:
        return installed
    return (
        *installed,
        ("milter-wired", wired.ask(lambda instance: _wired(wired, milter, instance))),
        ("milter-reachable", wired.ask(lambda instance: _reachable(milter, instance))),
        ("milter-bypass", wired.ask(_bypass)),
        ("milter-order", _about(wired, milter, _order)),
        ("milter-default-action", _about(wired, milter, lambda *given: _default_action(wired, milter, *given))),
        ("milter-times", _about(wired, milter, lambda *given: _times(wired, milter, *given))),
        ("milter-protocol", wired.ask(_protocol)),
        ("milter-own-mail", wired.ask(lambda instance: _own_mail(milter, instance))),
        *((("milter-probe", wired.ask(lambda instance: _probe(wired, instance))),) if wired.subject.probe else ()),
    )


def _none() -> Verdict:
    return not_used("gatepost.yml has no `milter:`: bad keys are refused behind the queue")


def _left_over(wired: Wired, instance: Instance) -> Verdict:
    """Without `milter:` the milter does not start; a main.cf that still names it does to all mail what default_action says."""
    for service in _smtpds(instance):
        for named in milters(instance.parameter("smtpd_milters", service.name)):
            if _NAME in named.endpoint:
                action = named.options.get("default_action", "").strip() or instance.parameter("milter_default_action")
                return fail(
                    f"smtpd_milters of {service.name} names {named.endpoint}, and {wired.subject.config} has no `milter:`,"
                    f" without which it does not start: {_WHILE_DOWN.get(action, 'mail is refused for good, or is lost')}",
                    f"take it out of smtpd_milters ({instance.command('postfix reload')}), or write milter: again",
                )
    return _none()


# --- the milter itself ----------------------------------------------------------------------------------------------------


def _installed(wired: Wired) -> Verdict:
    """Runs this interpreter with the milter's imports: a library of the system's may be missing, too."""
    python = wired.subject.python
    mend = _INSTALL.format(folder=os.path.dirname(python))
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter
            [python, "-I", "-c", _IMPORTS],
            cwd="/",
            timeout=_IMPORT_PATIENCE,
            check=False,
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C"},
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return fail(f"{python}: {error}", mend)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        return fail(f"`milter:` is configured, and the extra [milter] is not installed: {said[-1]}", mend)
    return ok(f"the extra [milter] is installed: {python}")


def _socket(milter: MilterSettings) -> Verdict:
    """Somebody listens, and greets as a milter does."""
    try:
        with _connected(milter.socket) as there:
            fault = _greeted(there)
    except OSError as error:
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            return unknown(f"{milter.socket}: {error.strerror}", "run gatepost doctor as root")
        return fail(*_not_there(milter, error))
    if fault:
        return fail(
            f"{milter.socket}: {fault}: each client waits until Postfix gives up (command_timeout)",
            "look into gatepost's log; systemctl restart gatepost-milter",
        )
    return ok(f"{milter.socket}: a milter answers")


def _connected(at: str) -> socket.socket:
    """A connection to `milter.socket`. Raises OSError."""
    kind, _, rest = at.partition(":")
    if kind == "inet":
        port, _, host = rest.partition("@")
        return socket.create_connection((host, int(port)), timeout=_PATIENCE)
    there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        there.settimeout(_PATIENCE)
        there.connect(rest)
    except BaseException:
        there.close()
        raise
    return there


def _greeted(there: socket.socket) -> str:
    """What is wrong with the answer to the option negotiation, "" where it is a milter's."""
    try:
        there.sendall(_GREETING)
        head = there.recv(5, socket.MSG_WAITALL)
        with suppress(OSError):
            there.sendall(_GOODBYE)
    except TimeoutError:
        return f"somebody listens, and says nothing for {_PATIENCE:.0f} s"
    except OSError as error:
        return f"the connection broke: {error.strerror}"
    if len(head) < 5 or head[4:] != b"O":
        return f"who answers is no milter: {head!r}"
    return ""


def _not_there(milter: MilterSettings, error: OSError) -> tuple[str, str]:
    """Why nobody answers, and what to do."""
    start = "systemctl start gatepost-milter (`gatepost milter`); its log says why it ended"
    what = _WHILE_DOWN[milter.default_action]
    path = milter.socket.partition(":")[2]
    if milter.socket.startswith("unix:") and not os.path.isdir(os.path.dirname(path)):
        folder = os.path.dirname(path)
        return f"{folder}: is not there, so the milter cannot start: {what}", f"{_make(folder)}; {start}"
    if isinstance(error, FileNotFoundError):
        return f"{path}: is not there, the milter does not run: {what}", start
    if isinstance(error, ConnectionRefusedError):
        return f"{milter.socket}: nobody listens, the milter does not run: {what}", start
    return f"{milter.socket}: {error.strerror or error}: {what}", start


_WHILE_DOWN: Final = {
    "tempfail": "every client of this Postfix gets 451, no mail comes in",
    "accept": "mail passes unchecked, and bad keys are refused behind the queue",
}


def _make(folder: str) -> str:
    """The command that makes the socket's folder: smtpd may enter it, nobody else."""
    return f"install -d -o gatepost -g postfix -m 2710 {folder}"


def _user(wired: Wired, milter: MilterSettings) -> Verdict:
    """Whom the process runs as that listens (SO_PEERCRED, unix(7)): the store's owner, or its log and store are not ours."""
    if not milter.socket.startswith("unix:"):
        return unknown("a TCP socket does not say who listens")
    try:
        with _connected(milter.socket) as there:
            process, user, _ = struct.unpack("3i", there.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError as error:
        return unknown(f"{milter.socket}: {error.strerror}")
    runs_as = wired.subject.runs_as
    if user != runs_as:
        return fail(
            f"process {process} runs as {name_of(user)}, and the store belongs to {name_of(runs_as)}: what the one writes the"
            " other cannot read",
            f"run `gatepost milter` as {name_of(runs_as)}",
        )
    return ok(f"process {process} runs as {name_of(user)}")


# --- Postfix's side -------------------------------------------------------------------------------------------------------


def _smtpds(instance: Instance) -> tuple[Service, ...]:
    """The services that strangers' mail comes in by: smtpd on port 25 or behind postscreen; where there is none, any on TCP."""
    all_ = [each for each in instance.services if each.command == "smtpd" and each.kind in ("inet", "pass")]
    outside = [each for each in all_ if each.kind == "pass" or each.name.rpartition(":")[2] in ("smtp", "25")]
    return tuple(outside or all_)


def _ours(milter: MilterSettings, instance: Instance, service: Service) -> Named | None:
    """Our milter as this smtpd knows it."""
    for named in milters(instance.parameter("smtpd_milters", service.name)):
        if _same(milter, named.endpoint, instance, service):
            return named
    return None


def _same(milter: MilterSettings, endpoint: str, instance: Instance, service: Service) -> bool:
    """Whether that is our socket, seen with the service's eyes."""
    kind, _, rest = endpoint.partition(":")
    if kind == "unix" and milter.socket.startswith("unix:"):
        place = os.path.join(instance.parameter("queue_directory"), rest.lstrip("/") if _chrooted(service) else rest)
        return os.path.realpath(place) == os.path.realpath(milter.socket.partition(":")[2])
    return endpoint.replace("localhost", "127.0.0.1") == milter_endpoint(milter.socket).replace("localhost", "127.0.0.1")


def _chrooted(service: Service) -> bool:
    return service.chroot == "y"  # "-" is n since compatibility level 1


def _setting(wired: Wired, milter: MilterSettings, instance: Instance) -> str:
    """The commands that put our milter at the end of the list, as the fragments have it."""
    services = _smtpds(instance)
    others = [
        f"{{{', '.join((each.endpoint, *(f'{name}={value}' for name, value in each.options.items())))}}}"
        for each in milters(instance.parameter("smtpd_milters"))
        if not any(_same(milter, each.endpoint, instance, service) for service in services)
    ]
    return instance.setting(f"smtpd_milters = {', '.join((*others, wired.settings['smtpd_milters']))}")


def _about(wired: Wired, milter: MilterSettings, question: Callable[[Instance, Service, Named], Verdict]) -> Question:
    """A question about our milter at the first smtpd that has it."""

    def asked(instance: Instance) -> Verdict:
        for service in _smtpds(instance):
            named = _ours(milter, instance, service)
            if named is not None:
                return question(instance, service, named)
        return unknown("main.cf does not name the milter")

    return wired.ask(asked)


def _wired(wired: Wired, milter: MilterSettings, instance: Instance) -> Verdict:
    """Every smtpd that strangers reach names the milter, by a path that it can see."""
    services, path = _smtpds(instance), milter.socket.partition(":")[2]
    if not services:
        return fail(f"{instance.folder}/master.cf: no smtpd takes mail", "docs/wiring.md")
    queue = os.path.realpath(instance.parameter("queue_directory"))
    for service in services:
        below = os.path.realpath(path).startswith(f"{queue}/")
        if _chrooted(service) and milter.socket.startswith("unix:") and not below:
            return fail(
                f"{path}: service {service.name} is chrooted in {queue} and sees only what lies below it:"
                f" {_WHILE_DOWN[milter.default_action]}",
                f"milter: {{socket: unix:{queue}/gatepost/milter.sock}}; {_make(f'{queue}/gatepost')}; "
                "print the fragments again (gatepost postfix)",
            )
        if _ours(milter, instance, service) is None:
            given = instance.parameter("smtpd_milters", service.name) or "empty"
            own = "smtpd_milters" in dict.fromkeys(name for of, name in instance.overrides if of == service.name)
            where = f"service {service.name} of master.cf" if own else "main.cf"
            return fail(
                f"{where} does not name {milter.socket} (smtpd_milters: {given}): no message passes through the milter",
                f"take -o smtpd_milters=... out of {where}" if own else _setting(wired, milter, instance),
            )
    return ok(f"smtpd_milters of {', '.join(service.name for service in services)} names {milter.socket}")


def _reachable(milter: MilterSettings, instance: Instance) -> Verdict:
    """A connection as smtpd makes it, where the caller's own is taken."""
    if _socket(milter).status != "ok":
        return unknown("the milter does not answer")
    owner = instance.parameter("mail_owner") or "postfix"
    if os.geteuid() != 0:
        return unknown(f"only root may try it as {owner}", "run gatepost doctor as root")
    for service in _smtpds(instance):
        named = _ours(milter, instance, service)
        if named is None:
            return unknown("main.cf does not name the milter")
        number = _as_smtpd(named.endpoint, owner, instance.parameter("queue_directory"), chrooted=_chrooted(service))
        if number:
            return fail(
                f"{named.endpoint}: service {service.name}, as {owner}, cannot connect: {os.strerror(number)}:"
                f" {_WHILE_DOWN[milter.default_action]}",
                f"{_make(os.path.dirname(milter.socket.partition(':')[2]))}; the socket must be {owner}'s group's, mode 0660",
            )
    return ok(f"{owner} reaches it")


def _as_smtpd(endpoint: str, user: str, queue: str, *, chrooted: bool) -> int:
    """Connects in a child, with smtpd's user, groups, folder and root; 0, or the errno of what failed."""
    kind, _, rest = endpoint.partition(":")
    account = pwd.getpwnam(user)
    child = os.fork()
    if child == 0:
        number = 255
        try:
            os.setgid(account.pw_gid)
            os.initgroups(user, account.pw_gid)
            os.chdir(queue)
            if chrooted:
                os.chroot(".")
            os.setuid(account.pw_uid)
            if kind == "unix":
                _connected(endpoint).close()
            else:
                host, _, port = rest.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
            number = 0
        except OSError as error:
            number = error.errno or 255
        finally:
            os._exit(number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _bypass(instance: Instance) -> Verdict:
    """Nothing lets mail in past the milters: measured, both do."""
    for service in _smtpds(instance):
        if "no_milters" in words(instance.parameter("receive_override_options", service.name)):
            return fail(
                f"receive_override_options of {service.name} has no_milters: no message passes through the milter",
                "take no_milters out of it (main.cf, or -o in master.cf)",
            )
    maps = instance.parameter("smtpd_milter_maps")
    if maps:
        return warn(
            f"smtpd_milter_maps = {maps}: the clients that it names pass other milters, or none",
            "each of its entries that is no client of your own must name gatepost's milter",
        )
    return ok("no message goes past the milter")


def _order(instance: Instance, service: Service, ours: Named) -> Verdict:
    """Each milter is shown what those before it have changed: a filter's verdict must be there when gatepost looks."""
    named = milters(instance.parameter("smtpd_milters", service.name))
    behind = [each.endpoint for each in named[named.index(ours) + 1 :]]
    if behind:
        return warn(
            f"{', '.join(behind)} comes after gatepost's milter: its verdict is not seen at SMTP time, and what it changes in"
            " a body voids gatepost's stamp",
            f"in smtpd_milters put {ours.endpoint} last",
        )
    return ok("gatepost's milter is the last of " + ", ".join(each.endpoint for each in named))


def _default_action(wired: Wired, milter: MilterSettings, instance: Instance, _: Service, ours: Named) -> Verdict:
    """What Postfix does with mail while the milter is down, against what the configuration says."""
    action = ours.options.get("default_action", "").strip() or instance.parameter("milter_default_action")
    if action != milter.default_action:
        effect = _WHILE_DOWN.get(action, "mail is refused for good, or is lost")
        return fail(
            f"default_action is {action}, milter.default_action {milter.default_action}: while the milter is down {effect}",
            f"{_setting(wired, milter, instance)}; or milter: {{default_action: ...}} in {wired.subject.config}",
        )
    return ok(f"default_action = {action}: while the milter is down {_WHILE_DOWN[action]}")


def _times(wired: Wired, milter: MilterSettings, instance: Instance, _: Service, ours: Named) -> Verdict:
    """Postfix waits longer than gatepost works, or it takes the default action for a message that is still looked at."""
    shown = []
    for name, least, why in (
        ("command_timeout", _LEAST_COMMAND, "what RCPT may take"),
        ("content_timeout", milter.dns_deadline + _LEAST_CONTENT, "milter.dns_deadline, and time for the rest"),
    ):
        limit = _time(ours.options.get(name, ""), f"milter_{name}", instance)
        shown.append(f"{name} {limit:g} s")
        if limit < least:
            return fail(
                f"{name} is {limit:g} s, less than {least:g} s ({why}): Postfix gives up on a milter that is at work",
                _setting(wired, milter, instance),
            )
    return ok(", ".join(shown))


def _time(option: str, name: str, instance: Instance) -> float:
    return seconds(option, name) if option.strip() else instance.seconds(name)


def _protocol(instance: Instance) -> Verdict:
    """The milter asks for the macros that it needs; the protocol must be new enough for that, and for whole header fields."""
    protocol = instance.parameter("milter_protocol")
    if protocol != "6":
        return fail(
            f"milter_protocol = {protocol}: gatepost's milter needs 6, and ends each session at once",
            instance.setting("milter_protocol = 6"),
        )
    return ok("milter_protocol = 6")


def _own_mail(milter: MilterSettings, instance: Instance) -> Verdict:
    """Mail of the host's own has no dialogue: what is refused there stays in the maildrop queue for ever (measured)."""
    for named in milters(instance.parameter("non_smtpd_milters")):
        if any(_same(milter, named.endpoint, instance, service) for service in _smtpds(instance)):
            return fail(
                "non_smtpd_milters names gatepost's milter: local mail to a bad key stays in the maildrop queue for ever",
                "take it out of non_smtpd_milters; " + instance.command("postfix reload"),
            )
    return ok("non_smtpd_milters does not name it")


# --- through the real smtpd -----------------------------------------------------------------------------------------------


def _probe(wired: Wired, instance: Instance) -> Verdict:
    """A made-up key at RCPT, as a stranger would try it."""
    route = first_route(wired.subject.sound)
    if route is None:
        return unknown("no route has keys that gatepost can refuse by itself")
    try:
        address, reply, refused = reply_to_a_bad_key(route, instance, _smtpds(instance))
    except (SmtpError, PostfixError, OSError) as error:
        return unknown(
            f"no dialogue with smtpd: {error}", "see postfix-running; does a firewall close the port to the host itself?"
        )
    shown = f"RCPT TO:<{address}> was answered: {reply}"
    if refused:
        return ok(shown)
    if reply.startswith("2"):
        return fail(
            f"{shown}: a made-up key is taken, and refused behind the queue", "see the checks of the milter; look into its log"
        )
    if reply.startswith("4"):
        return fail(f"{shown}: mail is deferred", "see the checks of the milter and of the store; gatepost's log says why")
    return unknown(f"{shown}: not by gatepost", "see postfix-recipients, and the restrictions of this smtpd")
