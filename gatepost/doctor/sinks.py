"""The sinks, and the apps that are asked for keys, from outside: does the host answer, with a certificate that is good; may a

Maildir be written to.

Promises: each has its own check, and its own time; nothing is sent over a connection, so no app notices. A circuit that a
process which stays has open is told.
Never: writes to a Maildir, runs a command's program, or follows a name from the configuration with other rights than a message.
"""

from __future__ import annotations

import os
import time

from gatepost.doctor.check import fail, not_used, ok, warn
from gatepost.doctor.subject import Subject, name_of
from gatepost.sinks import (
    open_circuits,
    wire_tls,  # noqa: F401 - before root's rights are gone: a checkout may be closed to others
)
from gatepost.sinks.http_post import parse_url
from gatepost.sinks.wire import WireError, open_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.check import Questions, Verdict
    from gatepost.settings import Ask, Sink
    from gatepost.sinks.guard import Kind

__all__ = ["PATIENCE", "questions", "sinks_in_use"]

#: Seconds for one sink to answer. A message would wait longer, but an app that needs so long is not well.
PATIENCE: Final = 10.0


def questions(subject: Subject) -> Questions:
    """One for each sink, and one for each URL that is asked, by its first route: in the order of the configuration."""
    asked = {
        route.keys.ask.url: (route.name, route.keys.ask)
        for route in reversed(subject.sound.routes)
        if route.keys is not None and route.keys.ask is not None
    }
    return (
        *(
            (f"sink:{sink.name}", subject.as_owner(lambda sink=sink: _sink(subject, sink)))  # type: ignore[misc]
            for sink in subject.sound.sinks
        ),
        *(
            (f"ask:{name}", subject.as_owner(lambda name=name, ask=ask: _ask(subject, name, ask)))  # type: ignore[misc]
            for name, ask in reversed(asked.values())
        ),
    )


def sinks_in_use(subject: Subject) -> frozenset[str]:
    """The names of the sinks that some route delivers to."""
    return frozenset(name for route in subject.sound.routes for name in route.deliver)


def _sink(subject: Subject, sink: Sink) -> Verdict:
    if sink.name not in sinks_in_use(subject):
        return not_used("no route delivers to it")
    if sink.kind == "webhook":
        verdict = _app(subject, sink.target, sink.ca_file, "the sink's url and ca_file")
        if verdict.status == "ok" and not subject.probe:
            verdict = verdict.replace(evidence=f"{verdict.evidence}; gatepost doctor --probe asks whether it is the app")
    else:
        verdict = _maildir(sink.target) if sink.kind == "maildir" else _command(sink.argv)
    return _circuit(subject, "sink", sink.name) or verdict if verdict.status == "ok" else verdict


def _ask(subject: Subject, route: str, ask: Ask) -> Verdict:
    verdict = _app(subject, ask.url, ask.ca_file, f"ask: of route {route}")
    return _circuit(subject, "ask", route) or verdict if verdict.status == "ok" else verdict


def _circuit(subject: Subject, kind: Kind, name: str) -> Verdict | None:
    """What the processes that stay have seen of the app, where that is worse than what a look from here shows."""
    if not os.path.isdir(subject.sound.store) or not (found := open_circuits.read(subject.sound.store, kind, name)):
        return None
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found[0].since))
    if kind == "sink":
        where = f"{len(found)} of the warm process's workers; messages wait in Postfix's queue"
    else:
        where = f"{len(found)} of the milter and the warm process's workers; mail to its keys has to come again"
    return warn(
        f"{name}: circuit open since {since} after {found[0].failures} failures ({found[0].reason}), in {where}",
        "see that the app is well: one message in each pause tries it, and the first that it answers closes the circuit",
    )


def _app(subject: Subject, target: str, ca_file: str, setting: str) -> Verdict:
    """Name, connection, certificate: what comes before the first octet of a message. `setting`: where the URL stands."""
    try:
        url = parse_url(target)
        open_wire(url.host, url.port, secure=url.secure, ca_file=ca_file, deadline=time.monotonic() + PATIENCE).close()
    except WireError as error:
        mend = "is the app running, and its port open for this host?"
        if error.kind == "misconfigured":
            mend = (
                f"mend the app's certificate, or {setting} in {subject.config};"
                f" look with: openssl s_client -connect {target.partition('://')[2].partition('/')[0]}"
            )
        return fail(f"{_shown(target)}: {error}: mail waits in the queue", mend)
    how = "over TLS, its certificate is good" if url.secure else "without TLS"
    return ok(f"{_shown(target)}: answers {how}")


def _shown(target: str) -> str:
    """The URL without its query, which may hold a token."""
    return target.partition("?")[0]


def _maildir(folder: str) -> Verdict:
    who = name_of(os.geteuid())
    if not os.path.lexists(folder):
        above = os.path.dirname(folder)
        if os.access(above, os.W_OK | os.X_OK):
            return ok(f"{folder}: not there yet; the first message makes it")
        missing = f"{above}: is not there" if not os.path.exists(above) else f"{above}: {who} may not write there"
        return fail(f"{missing}: mail waits in the queue", f"install -d -o {who} -m 0700 {folder}")
    for part in ("", "tmp", "new", "cur"):
        place = os.path.join(folder, part) if part else folder
        if part and not os.path.lexists(place) and os.access(folder, os.W_OK | os.X_OK):
            continue
        if not os.path.isdir(place):
            return fail(
                f"{place}: is no folder: mail waits in the queue", f"move it away, then install -d -o {who} -m 0700 {place}"
            )
        needed = os.W_OK | os.X_OK | (os.R_OK if part else 0)
        if not os.access(place, needed):
            return fail(
                f"{place}: {who} may not write there: mail waits in the queue",
                f"chown -R {who}: {folder}; chmod -R u+rwX {folder}; is it mounted read-only?",
            )
    return ok(f"{folder}: {who} may write to it")


def _command(argv: tuple[str, ...]) -> Verdict:
    """The program is there and may be run; what it does only a message shows."""
    if not argv:
        return fail("it has no program", "name one: command: [/path/to/program]")
    program, who = argv[0], name_of(os.geteuid())
    if not os.path.isfile(program):
        return fail(
            f"{program}: there is no such file, or {who} cannot reach it: mail waits in the queue", "mend the sink's command"
        )
    if not os.access(program, os.X_OK):
        return fail(f"{program}: {who} may not run it: mail waits in the queue", f"chmod a+rx {program}")
    with open(program, "rb") if os.access(program, os.R_OK) else open(os.devnull, "rb") as file:
        first = file.readline(256)
    interpreter = first[2:].split()[:1] if first.startswith(b"#!") else []
    if interpreter and not os.access(interpreter[0], os.X_OK):
        return fail(
            f"{program}: its interpreter {os.fsdecode(interpreter[0])} is not there: mail waits in the queue",
            "mend the program's first line",
        )
    if os.stat(program).st_mode & 0o002:
        return warn(f"{program}: anybody can change it", f"chmod o-w {program}")
    return ok(f"{program}: {who} may run it")
