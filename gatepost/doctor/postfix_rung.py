"""Which rung of the ladder the routes' mail takes: the pipe script, the same thin, or LMTP; and does the warm process answer.

Promises: connects as the user that Postfix would connect as, and hears the greeting alone.
Never: says a word to the warm process.
"""

from __future__ import annotations

import os
import pwd
import socket

from gatepost.doctor.check import Verdict, fail, not_used, ok, unknown, warn
from gatepost.doctor.postfix_instance import Instance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.check import Questions
    from gatepost.doctor.wired import Way, Wired
    from gatepost.settings import LmtpSettings

__all__ = ["questions"]

#: Seconds for a connection and the greeting.
_PATIENCE: Final = 5.0
#: How ours ends (gatepost_filter.lmtp_session, which the doctor does not import), and how one begins that does not want us.
_GREETING: Final = " LMTP gatepost"
_UNWANTED: Final = "421 4.7.0 "
_WITHOUT: Final = {
    "local": "each message is done by the whole script, as slowly as without it (lmtp.fallback: local)",
    "defer": "all mail waits in the queue (lmtp.fallback: defer)",
}
_ABSENT: Final = "all mail waits in the queue"
#: The settings of the service that speaks LMTP: what must stand there, and what happens else.
_LMTP: Final = (
    ("lmtp_send_xforward_command", "yes", "the warm process is told no queue ID: every message is deferred"),
    ("lmtp_line_length_limit", "0", "long lines are broken: raw, and its SHA-256, are not what the script would hand over"),
)


def questions(wired: Wired) -> Questions:
    """The rung, and what it stands on."""
    if wired.instance is None:
        return ()
    return (
        ("postfix-rung", wired.ask(lambda instance: _rung(wired, instance))),
        ("postfix-lmtp", wired.ask(lambda instance: _lmtp_service(wired, instance))),
        ("lmtp-socket", wired.ask(lambda instance: _socket(wired, instance))),
    )


def _way(wired: Wired) -> Way | None:
    """The first route's that comes to gatepost at all."""
    return next((way for way in wired.ways if way.rung), None)


def _rung(wired: Wired, instance: Instance) -> Verdict:
    """Told; and whether the configuration says the same."""
    lmtp, way = wired.subject.sound.lmtp, _way(wired)
    if way is None:
        return unknown("no route's mail comes to gatepost")
    rungs = list(dict.fromkeys(each.rung for each in wired.ways if each.rung))
    shown = f"rung {way.rung}: {way.setting} = {way.transport}"
    if len(rungs) > 1:
        return warn(f"the routes are on different rungs: {', '.join(rungs)}", instance.setting(_wanted(wired)))
    if lmtp is None and way.rung == "thin":
        return warn(
            f"{shown}, and {wired.subject.config} has no `lmtp:`: there is no warm process, the script asks for it in vain",
            f"write lmtp: again, or {instance.setting(_wanted(wired))}",
        )
    if lmtp is None:
        return ok(f"{shown}: a Python for each message (docs/lmtp.md says when to climb)")
    if way.rung != lmtp.wiring:
        return warn(
            f"{shown}, but lmtp.wiring is {lmtp.wiring}",
            f"{instance.setting(_wanted(wired))}; or lmtp: {{wiring: {way.rung}}} in {wired.subject.config}",
        )
    return ok(f"{shown}, {_what(way, wired, lmtp)}")


def _wanted(wired: Wired) -> str:
    return f"virtual_transport = {wired.settings['virtual_transport']}"


def _what(way: Way, wired: Wired, lmtp: LmtpSettings) -> str:
    """What the rung does, and what it does where nobody answers."""
    if way.rung == "pipe":
        return "a Python for each message; the warm process is configured, and nobody asks it"
    if way.rung == "thin":
        return f"the script hands each message to {lmtp.socket}; where nobody answers there {_WITHOUT[_fallback(wired)]}"
    return f"Postfix speaks to {lmtp.socket}; where nobody answers there {_ABSENT}"


def _fallback(wired: Wired) -> str:
    """What the script in master.cf does; the configuration may have changed since."""
    given = wired.service.options.get("fallback", "") if wired.service is not None else ""
    return given if given in _WITHOUT else "local"


def _lmtp_service(wired: Wired, instance: Instance) -> Verdict:
    """What Postfix's LMTP client is told for our service."""
    way = _way(wired)
    if way is None or way.rung != "lmtp":
        return not_used("Postfix does not speak LMTP to gatepost")
    replace = f"replace the service in {instance.folder}/master.cf by what `gatepost postfix` prints, then "
    replace += instance.command("postfix reload")
    for name, wanted, effect in _LMTP:
        value = instance.parameter(name, way.name)
        if value != wanted:
            return fail(f"service {way.name}: {name} is {value}, not {wanted}: {effect}", replace)
    name, deadline = "lmtp_data_done_timeout", wired.subject.sound.timing.deadline
    if instance.seconds(name, way.name) <= deadline:
        return warn(
            f"service {way.name}: {name} is {instance.parameter(name, way.name)}, timing.deadline {deadline:g} s: Postfix gives"
            " up on messages that are at work, and brings them again",
            replace,
        )
    return ok(f"service {way.name}: {', '.join(f'{each[0]}={each[1]}' for each in _LMTP)}")


def _socket(wired: Wired, instance: Instance) -> Verdict:
    """Does the warm process answer whom Postfix would send."""
    lmtp, way = wired.subject.sound.lmtp, _way(wired)
    if lmtp is None:
        return not_used("gatepost.yml has no `lmtp:`")
    if way is None or way.rung == "pipe":
        return not_used(f"{lmtp.socket}: Postfix runs the whole script, and asks nobody there")
    owner = instance.parameter("mail_owner") or "postfix"
    user = owner if way.rung == "lmtp" or wired.service is None else wired.service.attributes.get("user", "").partition(":")[0]
    try:
        greeting = _greeting(lmtp.socket.removeprefix("unix:"), pwd.getpwnam(user))
    except KeyError:
        return unknown(f"there is no user {user}")
    except PermissionError as error:
        if os.geteuid() != 0:
            return unknown(f"{lmtp.socket}: {error.strerror}", "run gatepost doctor as root")
        return _missing(wired, way, f"{lmtp.socket}: {user} may not connect: {error.strerror}", _folder(lmtp))
    except OSError as error:
        start = "systemctl start gatepost-serve (`gatepost serve`); its log says why it ended"
        return _missing(wired, way, f"{lmtp.socket}: nobody answers: {error.strerror or error}", start)
    if greeting.startswith(_UNWANTED):
        return _missing(wired, way, f"{lmtp.socket}: {user} may not deliver", f"lmtp: {{peers: [{user}]}}")
    if not greeting.endswith(_GREETING):
        return _missing(
            wired, way, f"{lmtp.socket}: who answers is not gatepost: {greeting!r}", "look who listens there: ss -xlp"
        )
    return ok(f"{lmtp.socket}: the warm process answers {user}")


def _missing(wired: Wired, way: Way, what: str, mend: str) -> Verdict:
    """As bad as what becomes of mail meanwhile."""
    if way.rung == "thin":
        fallback = _fallback(wired)
        return (warn if fallback == "local" else fail)(f"{what}: {_WITHOUT[fallback]}", mend)
    return fail(f"{what}: {_ABSENT}", mend)


def _folder(lmtp: LmtpSettings) -> str:
    return f"install -d -o gatepost -g postfix -m 2710 {os.path.dirname(lmtp.socket.removeprefix('unix:'))}"


def _greeting(path: str, account: pwd.struct_passwd) -> str:
    """What a connection hears first: as root, that of a child with this user's rights. Raises OSError."""
    if os.geteuid() != 0:
        return _heard(path).decode("latin-1").strip()
    ear, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        number = 255
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.write(mouth, _heard(path))
            number = 0
        except TimeoutError:
            number = 110
        except OSError as error:
            number = error.errno or 255
        finally:
            os._exit(number)
    os.close(mouth)
    with os.fdopen(ear, "rb") as told:
        said = told.read()
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        raise OSError(number, os.strerror(number))
    return said.decode("latin-1").strip()


def _heard(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        there.settimeout(_PATIENCE)
        there.connect(path)
        return there.recv(200)
