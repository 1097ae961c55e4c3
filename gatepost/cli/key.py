"""`gatepost key new|show|revoke`: signed keys by hand. An app mints its own with gatepost.receiver or docs/keys.md.

Promises: `new` gives all that an outgoing mail needs; `show` says what a key is without believing it; `revoke` appends one
line to the route's `revoked:` file, as the store's owner, and says so only when it is on disk.
Never: shows a secret, or writes a key into the revoked: file (only a keyed hash).
"""

from __future__ import annotations

import datetime
import json
import os
import time

from gatepost.cli import add_common
from gatepost.cli.store_owner import become_store_owner
from gatepost.config import load
from gatepost.errors import GatepostError
from gatepost.facts import read_list, read_revoked
from gatepost.keys.keyring import check, revocation_line
from gatepost.keys.listed import line_of
from gatepost.keys.outgoing import domain_of, outgoing
from gatepost.keys.signed import day_text, subject_bytes, today
from gatepost.mail.recipient import recipient
from gatepost.policy import route_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from gatepost.keys.keyring import KeyVerdict
    from gatepost.settings import KeySettings, Route, Settings

__all__ = ["add_arguments", "run_new", "run_revoke", "run_show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost key`."""
    actions = parser.add_subparsers(title="actions", required=True)
    new = actions.add_parser("new", help="mint a key: address, Reply-To and Message-ID of an outgoing mail")
    new.add_argument("--subject", required=True, metavar="TEXT", help="what the key names: 1 to 16 bytes, or 0x and hex digits")
    new.add_argument("--owner", metavar="ADDRESS", help="only this sender may use it (with sender.must-match)")
    new.add_argument("--expires", metavar="DAYS|DATE", help="its last day: 30d, or 2027-01-31 (UTC)")
    new.set_defaults(run=run_new)
    show = actions.add_parser("show", help="what a key is, and what it names")
    show.add_argument("key", metavar="KEY|ADDRESS")
    show.set_defaults(run=run_show)
    revoke = actions.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("key", metavar="KEY|ADDRESS")
    revoke.set_defaults(run=run_revoke)
    for action in (new, show, revoke):
        action.add_argument("--route", metavar="NAME", help="needed where the configuration has several routes with keys")
        add_common(action)


def run_new(arguments: argparse.Namespace) -> int:
    """Mints one key."""
    settings = load(arguments.config)
    route = _route(settings, arguments.route)
    keys = _keys(route)
    if keys.format != "signed":
        raise GatepostError(f"route {route.name} takes keys of format {keys.format}: the app that reads them makes them")
    try:
        made = outgoing(
            address=route.address,
            secret=keys.secrets[-1],
            key_id=keys.key_id,
            subject=subject_bytes(arguments.subject),
            random=os.urandom(8),
            expires=_last_day(arguments.expires) if arguments.expires else None,
            owner=arguments.owner,
        )
    except ValueError as error:
        raise GatepostError(str(error)) from error
    facts = {"route": route.name, "key": made.key, "address": made.reply_to, "reply_to": made.reply_to,
             "message_id": made.message_id}  # fmt: skip
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(f"key:        {made.key}\nReply-To:   {made.reply_to}\nMessage-ID: {made.message_id}")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """0: the key lives. 1: it is refused."""
    settings = load(arguments.config)
    route, _, verdict = _find(settings, arguments)
    signed = verdict.signed
    facts = {
        "route": route.name,
        "result": verdict.result,
        "kind": verdict.kind or None,
        "subject": verdict.subject or None,
        "last_day": day_text(signed.expires) if signed.expires is not None else None,
        "has_owner": bool(signed.owner),
    }
    if arguments.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            word = {True: "yes", False: "no", None: "-"}.get(value, value) if not isinstance(value, str) else value
            print(f"{name.replace('_', ' ') + ':':<10} {word}")
    return 0 if verdict.result == "live" else 1


def run_revoke(arguments: argparse.Namespace) -> int:
    """Appends the key's line, once; 1 where no secret of the route made it."""
    settings = load(arguments.config)
    route, key, verdict = _find(settings, arguments)
    keys = _keys(route)
    if not keys.revoked:
        raise GatepostError(f"route {route.name} has no revoked: file; add one under its keys: in {settings.file}")
    if verdict.result not in ("live", "expired", "revoked"):
        raise GatepostError(f"this is no key of route {route.name} ({verdict.result}): nothing to revoke")
    if verdict.result != "revoked":
        become_store_owner(settings.store)
        signed = keys.format == "signed"
        _append(keys.revoked, revocation_line(verdict.signed.secret, keys.key_id, key) if signed else line_of(key))
    others = _still_taken_by(settings, keys)
    if arguments.json:
        print(json.dumps({"route": route.name, "revoked": True, "file": keys.revoked, "still_taken_by": others}))
        return 0
    print(f"revoked, in {keys.revoked}; mail to it is refused from now on")
    for name in others:
        print(f"but route {name} has the same secret and key_id, and not this revoked: file: replies to it still count there")
    return 0


def _still_taken_by(settings: Settings, keys: KeySettings) -> list[str]:
    """Routes that take the same keys and do not look into the same revoked: file."""
    return [
        route.name
        for route in settings.routes
        if route.keys is not None
        and (route.keys.secret, route.keys.key_id) == (keys.secret, keys.key_id)
        and route.keys.revoked != keys.revoked
    ]


def _append(path: str, line: str) -> None:
    """One line, whole or not at all, on disk before it returns."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, f"{chr(10) if torn else ''}{line}\n".encode("ascii"))
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        mend = "the file and its folder must be writable for the store's owner"
        raise GatepostError(f"{path}: {error.strerror}; {mend}") from error


def _find(settings: Settings, arguments: argparse.Namespace) -> tuple[Route, str, KeyVerdict]:
    """The route, the key in lower case and the verdict on it, for a key or a whole address."""
    text = arguments.key.strip()
    if "@" in text and not arguments.route:
        to = recipient(text)
        found, key = route_for(to, settings)
        if found is None or found.keys is None or key is None:
            raise GatepostError(f"{text}: no route's address takes it with a key")
        route, domain = found, to.domain
    else:
        route = _route(settings, arguments.route)
        key, domain = text.rpartition("@")[0].lower() or text.lower(), domain_of(route.address)
        if "@" in text:
            _, key_text = route_for(recipient(text), settings)
            key = key_text or key
    verdict = check(_keys(route), key, domain, now=time.time(), revoked=read_revoked(route), listed=(read_list(route),))
    return route, key, verdict


def _route(settings: Settings, name: str | None) -> Route:
    """The route of that name, or the only one with keys."""
    with_keys = [route for route in settings.routes if route.keys is not None]
    chosen = [route for route in with_keys if route.name == name] if name else with_keys
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(route.name for route in with_keys) or "none"
    raise GatepostError(
        f"{'no such route with keys: ' + name if name else 'name one with --route'} (routes with keys: {names})"
    )


def _keys(route: Route) -> KeySettings:
    if route.keys is None:
        raise GatepostError(f"route {route.name} takes no keys")
    return route.keys


def _last_day(text: str) -> int:
    """Days since 2020-01-01 of `30d` from today, or of an ISO date."""
    try:
        if text.endswith("d"):
            return today(time.time()) + int(text[:-1])
        return (datetime.date.fromisoformat(text) - datetime.date(2020, 1, 1)).days
    except ValueError:
        raise GatepostError(f"--expires {text}: give days as in 30d, or a date as in 2027-01-31") from None
