"""master.cf: the service that hands a message to gatepost, and what Postfix makes of the script's end.

Promises: compares with the service that `gatepost postfix` prints, word by word; the interpreter is run as the service's user,
with nothing but an import.
Never: runs the script itself (it would log a deferral).
"""

from __future__ import annotations

import os
import pwd
import subprocess

from gatepost import __version__
from gatepost.decision import RULES
from gatepost.doctor.check import fail, not_used, ok, unknown, warn
from gatepost.doctor.postfix_instance import Instance, PostfixError, Service, run
from gatepost.doctor.subject import name_of, user_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.check import Questions, Verdict
    from gatepost.doctor.wired import Wired

__all__ = ["questions"]

#: What a run of the script needs, imported as the script finds it (see its _find_gatepost).
_IMPORTS: Final = """\
import os, sys
script = sys.argv[1]
open(script, "rb").close()
folder = os.path.dirname(os.path.dirname(os.path.abspath(script)))
sys.path.insert(0, folder)
if not os.path.isdir(os.path.join(folder, "gatepost")):
    sys.path.insert(0, os.path.dirname(folder))
import gatepost, gatepost.config.loading, gatepost.gateway, gatepost.log, gatepost.sinks.maildir, gatepost.sinks.webhook
import gatepost.sinks.wire_tls, gatepost_filter.pipe, gatepost_filter.thin, gatepost_filter.transport
print(gatepost.__version__)
"""
#: Seconds for that; a fifth of one is usual.
_PATIENCE: Final = 30
#: pipe(8)'s flags that change what the script is given: header fields added, dots doubled, case folded, another line end.
_HARMFUL: Final = "DORFuhX.>"
_NEEDED: Final = {
    "B": "without it the script takes every message for one that was cut off, and defers it",
    "q": "without it a quoted local part loses its quotes",
}
#: What the belt must make of a fault: the text of a status, and the code that it must have afterwards.
_FAULT: Final = "5.3.0 Command died with status 1"


def questions(wired: Wired) -> Questions:
    """From whether there is a Postfix at all to the belt."""
    if wired.instance is None and not wired.fault:
        why = "not asked for" if wired.subject.postfix == "none" else "there is no Postfix here"
        return (("postfix", lambda: not_used(why)),)
    return (
        ("postfix", lambda: _postfix(wired)),
        ("postfix-running", wired.ask(_running)),
        ("postfix-service", wired.ask(lambda instance: _service(wired, instance))),
        ("postfix-config", wired.ask_service(lambda instance, service, _: _config(wired, instance, service))),
        ("postfix-user", wired.ask_service(lambda instance, service, _: _user(wired, instance, service))),
        ("postfix-python", wired.ask_service(lambda instance, service, _: _python(instance, service))),
        ("postfix-flags", wired.ask_service(_flags)),
        ("postfix-arguments", wired.ask_service(_arguments)),
        ("postfix-time-limit", wired.ask_service(lambda instance, service, _: _time_limit(wired, instance, service))),
        ("postfix-belt", wired.ask_service(lambda instance, service, _: _belt(instance, service))),
    )


def _postfix(wired: Wired) -> Verdict:
    """Can Postfix read its own configuration, and has it anything to say to it."""
    instance = wired.instance
    if instance is None:
        mend = "postfix check; --postfix-config names the folder of main.cf"
        return fail(f"{wired.subject.postfix or 'Postfix'}: {wired.fault}", mend)
    if instance.complaints:
        more = f" (and {len(instance.complaints) - 1} more)" if len(instance.complaints) > 1 else ""
        return warn(f"{instance.folder}: {instance.complaints[0]}{more}", f"mend it, then {instance.command('postfix check')}")
    return ok(f"{instance.folder}: Postfix {instance.parameter('mail_version')}, {instance.parameter('myhostname')}")


def _running(instance: Instance) -> Verdict:
    if os.geteuid() != 0:
        return unknown("only root may ask whether Postfix runs", "run gatepost doctor as root")
    status, _, said = run("postfix", "-c", instance.folder, "status")
    if status:
        said = said.rpartition("postfix-script: ")[2] or "postfix status says no"
        return fail(f"{instance.folder}: {said}", instance.command("postfix start"))
    return ok(f"{instance.folder}: the mail system is running")


def _replace(instance: Instance) -> str:
    reload = instance.command("postfix reload")
    return f"replace the service in {instance.folder}/master.cf by what `gatepost postfix` prints, then {reload}"


def _service(wired: Wired, instance: Instance) -> Verdict:
    """Is there a service at all, and of the right form."""
    service, expected = wired.service, wired.expected
    if service is None or expected is None:
        return fail(
            f"{instance.folder}/master.cf: no service runs gatepost's script: no mail comes to gatepost",
            "docs/wiring.md: gatepost postfix prints what belongs into it",
        )
    shown = f"{instance.folder}/master.cf: service {service.name}"
    if (service.kind, service.command) != (expected.kind, expected.command):
        wanted = f"{expected.kind} ... {expected.command}"
        return fail(f"{shown}: is {service.kind} ... {service.command}, not {wanted}", _replace(instance))
    if not service.script:
        return fail(f"{shown}: does not run gatepost's script: {' '.join(service.argv[:3])}", _replace(instance))
    # "-" is Postfix's default: unprivileged y; chroot n since compatibility level 1, and y before.
    if service.unprivileged != "n":
        return fail(
            f"{shown}: its fourth field is {service.unprivileged}, so pipe(8) cannot become another user", _replace(instance)
        )
    if service.chroot not in ("n", "-"):
        return fail(f"{shown}: it is chrooted, and finds neither Python nor the store", _replace(instance))
    return ok(f"{shown} runs {service.script}")


def _config(wired: Wired, instance: Instance, service: Service) -> Verdict:
    given = service.options.get("config", "")
    if not given:
        return fail(f"service {service.name} has no --config=: every message is deferred", _replace(instance))
    if not os.path.isabs(given):
        return fail(
            f"service {service.name}: --config={given} is not absolute; its folder would be the queue", _replace(instance)
        )
    if os.path.realpath(given) != os.path.realpath(wired.subject.config):
        there = "" if os.path.exists(given) else ", which is not there: every message is deferred"
        return fail(f"service {service.name} reads {given}{there}; this is about {wired.subject.config}", _replace(instance))
    return ok(f"--config={given}")


def _user(wired: Wired, instance: Instance, service: Service) -> Verdict:
    """Who the script runs as: there, neither root nor Postfix's own user, and the store's owner."""
    user = service.attributes.get("user", "").partition(":")[0]
    if not user:
        return fail(f"service {service.name} has no user=: pipe(8) does not start", _replace(instance))
    if user_id(user) < 0:
        return fail(f"user={user}: there is no such user: mail waits in the queue", f"useradd --system --user-group {user}")
    if user_id(user) == 0 or user == instance.parameter("mail_owner"):
        return fail(f"user={user}: pipe(8) runs no command as {user}: mail waits in the queue", _replace(instance))
    runs_as = wired.subject.runs_as
    if runs_as != user_id(user):
        return fail(
            f"user={user}, but store and secrets belong to {name_of(runs_as)}: all mail waits in the queue",
            f"user={name_of(runs_as)} in {instance.folder}/master.cf",
        )
    return ok(f"user={user}")


def _python(instance: Instance, service: Service) -> Verdict:
    """Runs the interpreter as pipe(8) would, with the imports of a message."""
    name, _, group = service.attributes.get("user", "").partition(":")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return unknown(f"there is no user {name}")
    if os.geteuid() not in (0, account.pw_uid):
        return unknown(f"only root may try it as {name}", "run gatepost doctor as root")
    python = service.argv[0]
    group_id = _group_id(group, account.pw_gid)
    as_user = {"user": account.pw_uid, "group": group_id, "extra_groups": []} if os.geteuid() == 0 else {}
    reinstall = "install gatepost where that user can reach and read it, not below a closed home folder: docs/wiring.md"
    try:
        done = subprocess.run(  # noqa: S603 - what master.cf names
            [python, "-I", "-c", _IMPORTS, service.script],
            cwd="/",
            timeout=_PATIENCE,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LANG": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            **as_user,
        )  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        return fail(f"{python} as {name}: did not start in {_PATIENCE} s", "look at the disk that it lies on")
    except OSError as error:
        return fail(f"{python} as {name}: {error.strerror}: every message is deferred", reinstall)
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode or not said:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        return fail(f"{python} -I {service.script} as {name}: {lines[-1]}: every message is deferred", reinstall)
    if said != __version__:
        return warn(
            f"{python} as {name} runs gatepost {said}, this command is {__version__}",
            f"run the command of that installation, or mend argv= in {instance.folder}/master.cf",
        )
    return ok(f"{python} as {name} runs gatepost {said}")


def _group_id(name: str, default: int) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid if name else default
    except KeyError:
        return default


def _flags(instance: Instance, service: Service, expected: Service) -> Verdict:
    flags, wanted = service.attributes.get("flags", ""), expected.attributes.get("flags", "")
    for flag in wanted:
        if flag not in flags:
            return fail(f"flags={flags} lacks {flag}: {_NEEDED.get(flag, 'the script counts on it')}", _replace(instance))
    harmful = [flag for flag in flags if flag in _HARMFUL and flag not in wanted]
    if harmful:
        return fail(f"flags={flags} has {''.join(harmful)}, which changes what the script is given", _replace(instance))
    null_sender = service.attributes.get("null_sender", "MAILER-DAEMON")
    if null_sender:
        return fail(
            f"the null sender is given as {null_sender}, which anybody can write: null_sender= must be empty",
            _replace(instance),
        )
    return ok(f"flags={flags} null_sender=")


def _arguments(instance: Instance, service: Service, expected: Service) -> Verdict:
    """The words of argv, but for the paths: each fact of the envelope in the option that is meant for it."""
    if "-I" not in service.argv[: service.argv.index(service.script) if service.script else 0]:
        return fail("argv= lacks -I: working folder and environment decide what is imported", _replace(instance))
    if not service.script.startswith("/") or not service.argv[0].startswith("/"):
        return fail(f"argv={service.argv[0]} ... {service.script}: a path is not absolute", _replace(instance))
    wanted = {word for word in expected.argv if word.startswith("--") and not word.startswith("--config=")}
    given = {word for word in service.argv if word.startswith("--") and not word.startswith("--config=")}
    missing, foreign = sorted(wanted - given), sorted(given - wanted)
    if missing or foreign:
        said = [f"{verb} {' '.join(options)}" for verb, options in (("lacks", missing), ("has", foreign)) if options]
        return fail(f"argv= {' and '.join(said)}", _replace(instance))
    loose = [word for word in service.argv if "${" in word and not word.startswith("--")]
    if loose:
        return fail(f"argv= has {' '.join(loose)} alone: what a sender wrote could stand as an option", _replace(instance))
    if "-S" in expected.argv and "-S" not in service.argv:
        return warn("argv= lacks -S: each message starts a third slower than it could", _replace(instance))
    return ok(f"every option is there: {' '.join(sorted(service.options))}")


def _time_limit(wired: Wired, instance: Instance, service: Service) -> Verdict:
    """pipe(8)'s limit against ours: what Postfix has to end is a bounce without the belt."""
    name, deadline = f"{service.name}_time_limit", wired.subject.sound.timing.deadline
    own = instance.parameter(name, service.name)
    limit = instance.seconds(name, service.name) if own else instance.seconds("command_time_limit")
    change = instance.command(f"postconf -P '{service.name}/unix/{name}={wired.limit}'")
    mend = f"{change} && {instance.command('postfix reload')}; or a shorter timing.deadline"
    shown = f"{name} is {limit:g} s, timing.deadline {deadline:g} s"
    if limit <= deadline:
        return fail(f"{shown}: Postfix ends the script before it ends itself, which bounces without the belt", mend)
    if limit < deadline + 10:
        return warn(f"{shown}: a busy host needs more to start and end a Python", mend)
    return ok(shown)


def _belt(instance: Instance, service: Service) -> Verdict:
    """Faults defer, refusals that a rule has pass, and the table is there to say so."""
    name = "pipe_delivery_status_filter"
    tables = instance.parameter(name, service.name)
    if not tables:
        return fail(
            f"service {service.name} has no {name}: a missing library, a traceback or a hang bounces", _replace(instance)
        )
    mend = f"put status.regexp of `gatepost postfix --write` there, readable; then {instance.command('postfix reload')}"
    try:
        made = instance.look_up(tables, _FAULT)
        refusals = {f"{rule.status} {rule.text}" for rule in RULES.values() if rule.status.startswith("5.")}
        changed = sorted(text for text in refusals if instance.look_up(tables, text))
    except PostfixError as error:
        if os.geteuid() != 0:
            raise
        return fail(f"{error}: there is no belt, a missing library, a traceback or a hang bounces", mend)
    if not made.startswith("4."):
        return fail(f"{tables}: leaves `{_FAULT}` as it is: faults around the script bounce", mend)
    if changed:
        return warn(f"{tables}: changes `{changed[0]}`, which a rule of gatepost says: refusals wait in the queue", mend)
    return ok(f"{tables}: faults are deferred, refusals pass")
