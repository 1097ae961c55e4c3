"""The configuration and its files: can it be used, by the user that gatepost runs as, and by nobody else changed.

Promises: `load` keeps every problem instead of raising; each file is opened as a message would open it.
Never: shows a secret.
"""

from __future__ import annotations

import ipaddress
import os
import stat

from gatepost.config import load_compiled
from gatepost.config.compiled import COPY_NAME
from gatepost.config.loading import build
from gatepost.doctor.check import fail, not_used, ok, unknown, warn
from gatepost.doctor.subject import Subject, mode_of, name_of
from gatepost.errors import ConfigError, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.doctor.check import Questions, Verdict

__all__ = ["load", "questions"]


def load(
    config: str, *, pipe_script: str, python: str, postfix: str, probe: bool, chain: bool, now: float
) -> Subject:  # fmt: skip
    """Reads the configuration as `config check` does. Never raises: the subject has the problems."""
    path = os.path.abspath(config)
    subject = Subject(
        config=path, settings=None, pipe_script=pipe_script, python=python, postfix=postfix, probe=probe, chain=chain, now=now
    )
    try:
        built = build(path)
        settings = built.settings()
    except ConfigError as error:
        foreign = [problem.file for problem in error.problems if problem.file != path]
        return subject.replace(problems=error.problems, secrets=foreign[0] if foreign else "")
    except Exception as error:  # noqa: BLE001 - a bug of ours, and the person must be told which
        own = Problem(file=path, text=f"cannot be read by a fault of gatepost's own: {type(error).__name__}: {error}")
        return subject.replace(problems=(own,))
    return subject.replace(settings=settings, warnings=built.warnings, secrets=built.secrets_path)


def questions(subject: Subject) -> Questions:
    """Where there are no settings, only those that need none."""
    first: Questions = (("config", lambda: _config(subject)),)
    if subject.settings is None:
        if subject.secrets:
            first += (("secrets-file", lambda: _problems(subject, subject.secrets)),)
        return (*first, ("everything-else", _nothing_else))
    return (
        *first,
        ("config-file", subject.as_owner(lambda: _config_file(subject))),
        ("secrets-file", subject.as_owner(lambda: _secrets_file(subject))),
        ("compiled-copy", subject.as_owner(lambda: _compiled_copy(subject))),
        ("key-lists", subject.as_owner(lambda: _key_lists(subject))),
        ("revoked-files", subject.as_owner(lambda: _revoked_files(subject))),
        ("sender", lambda: _sender(subject)),
    )


def _config(subject: Subject) -> Verdict:
    own = [problem for problem in subject.problems if problem.file == subject.config]
    if own:
        return _problems(subject, subject.config)
    if subject.settings is None:
        return unknown(f"{subject.config}: no mistake in it was found, but its secrets file cannot be used")
    if subject.warnings:
        more = f" (and {len(subject.warnings) - 1} more)" if len(subject.warnings) > 1 else ""
        return warn(f"{subject.warnings[0]}{more}", f"edit it; gatepost config check {subject.config} lists all")
    settings = subject.settings
    return ok(f"{subject.config}: routes {_listed(settings.routes)}; sinks {_listed(settings.sinks)}")


def _problems(subject: Subject, file: str) -> Verdict:
    """The mistakes in one file: the first ones, and how many there are."""
    found = [str(problem) for problem in subject.problems if problem.file == file]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    mend = f"gatepost config check {subject.config} lists every mistake; until they are mended all mail waits in the queue"
    return fail("; ".join(found[:3]) + more, mend)


def _nothing_else() -> Verdict:
    return unknown("not looked at: it takes a configuration that can be used", "mend that first, then run this again")


def _config_file(subject: Subject) -> Verdict:
    return _file(subject, subject.config, private=False)


def _secrets_file(subject: Subject) -> Verdict:
    if not subject.secrets:
        return not_used("no route and no sink names a secret")
    return _file(subject, subject.secrets, private=True)


def _file(subject: Subject, path: str, *, private: bool) -> Verdict:
    """May gatepost's user read it, and can anybody but that user and root change it? (`load` has judged its own mode.)"""
    owner = name_of(subject.owner)
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
        folder = os.stat(os.path.dirname(path))
    except OSError as error:
        mend = f"chown {owner}: {path}" + (
            f"; chmod 0600 {path}" if private else f"; chmod a+rX {os.path.dirname(path)} {path}"
        )
        return fail(f"{path}: {owner}, as whom gatepost runs, cannot read it: {error.strerror}", mend)
    shown = f"{path}: mode {mode_of(found.st_mode)}, of {name_of(found.st_uid)}"
    if found.st_uid not in (0, subject.owner):
        return warn(
            f"{shown}: neither root nor {owner} owns it, and its owner can change it",
            f"chown {owner if private else 'root'}: {path}",
        )
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
        return warn(
            f"{shown}, but others may replace it: its folder has mode {mode_of(folder.st_mode)}",
            f"chmod go-w {os.path.dirname(path)}",
        )
    return ok(shown)


def _compiled_copy(subject: Subject) -> Verdict:
    """Reads the configuration as a message does, which keeps a copy where there was none that is fresh."""
    copy = os.path.join(subject.sound.store, COPY_NAME)
    if os.geteuid() == 0:
        return unknown("a copy is neither believed nor written as root")
    try:
        settings = load_compiled(subject.config)
    except ConfigError as error:
        return fail(f"as a message reads it: {error}", f"gatepost config check {subject.config}")
    if settings != subject.settings:
        return fail(f"{copy}: says something else than {subject.config}", f"rm {copy}")
    try:
        found = os.lstat(copy)
    except OSError as error:
        return warn(
            f"{copy}: {error.strerror}: every message reads YAML, which takes several times as long",
            f"write `store: {subject.sound.store}` on a line of its own, and chmod 0700 {subject.sound.store}",
        )
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o600:
        return warn(f"{copy}: mode {mode_of(found.st_mode)}, of {name_of(found.st_uid)}: it is not believed", f"rm {copy}")
    return ok(f"{copy}: made from this configuration")


def _revoked_files(subject: Subject) -> Verdict:
    """A file that is there and cannot be read defers every message of its route; one that cannot be written takes no key."""
    paths = dict.fromkeys(route.keys.revoked for route in subject.sound.routes if route.keys and route.keys.revoked)
    if not paths:
        return not_used("no route names a revoked: file")
    owner = name_of(subject.owner)
    for path in paths:
        folder = os.path.dirname(path)
        if os.path.lexists(path):
            try:
                with open(path, "rb") as file:
                    mode = os.fstat(file.fileno()).st_mode
            except OSError as error:
                return fail(
                    f"{path}: {error.strerror}: mail to its routes is deferred", f"chown {owner}: {path}; chmod 0640 {path}"
                )
            if mode & stat.S_IWOTH:
                return fail(f"{path}: mode {mode_of(mode)}: anybody can make a revoked key good again", f"chmod o-w {path}")
            if not os.access(path, os.W_OK):
                return warn(f"{path}: {owner} cannot write to it: gatepost key revoke will fail", f"chown {owner}: {path}")
        elif not os.access(folder, os.W_OK | os.X_OK):
            return warn(
                f"{folder}: {owner} cannot make a file there: gatepost key revoke will fail",
                f"name a file in {subject.sound.store}, or install -o {owner} -m 0640 /dev/null {path}",
            )
    return ok(", ".join(path if os.path.exists(path) else f"{path} (nothing is revoked yet)" for path in paths))


def _key_lists(subject: Subject) -> Verdict:
    """The files of routes with `format: list`: without theirs no key of such a route can be told from a made-up one."""
    paths = dict.fromkeys(route.keys.file for route in subject.sound.routes if route.keys and route.keys.file)
    if not paths:
        return not_used("no route names a list of keys")
    for path in paths:
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            owner = name_of(subject.runs_as)
            return fail(f"{path}: {error.strerror}: mail to its routes waits", f"let {owner} read it: chown {owner}: {path}")
        if mode & stat.S_IWOTH:
            return fail(f"{path}: mode {mode_of(mode)}: anybody can add a key", f"chmod o-w {path}")
    return ok(", ".join(paths))


def _listed(things: tuple[object, ...]) -> str:
    return ", ".join(str(getattr(thing, "name", "?")) for thing in things)


def _sender(subject: Subject) -> Verdict:
    """Routes that ask who the sender is need somebody who says it: the milter, or a host in front that is trusted."""
    settings = subject.sound
    refusing = [
        route.name
        for route in settings.routes
        if route.must_match in ("reject", "park") or not all(map(_is_network, route.allow))
    ]
    asking = refusing or [route.name for route in settings.routes if route.must_match]
    if not asking:
        return not_used("no route asks who the sender is")
    milter = settings.milter
    if milter is not None and set(milter.authenticate) - {"arc"}:  # which is reported only
        return ok(f"the milter authenticates senders: {', '.join(milter.authenticate)}")
    if settings.trusted:
        return ok(f"trusted: {', '.join(settings.trusted)}")
    mend = "write milter: (docs/wiring.md, The milter), or name the host that writes Authentication-Results under trusted:"
    shown = f"route {asking[0]} asks who the sender is, and nobody says it: no milter: authenticates, trusted: is empty"
    if not refusing:
        return warn(f"{shown}: every message is flagged", mend)
    return fail(f"{shown}: every sender counts as unverified, and no mail gets through", mend)


def _is_network(entry: str) -> bool:
    """Whether an entry of `allow:` is for client addresses, which need nobody to say who they are."""
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return True
