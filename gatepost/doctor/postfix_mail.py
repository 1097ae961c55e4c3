"""main.cf: which mail Postfix takes for gatepost, who else gets none, and how long it waits.

Promises: asks Postfix's own tables with addresses of the routes; what is expected is what `gatepost postfix` prints.
Never: sends a message, or opens an SMTP connection.
"""

from __future__ import annotations

import os

from gatepost.doctor.check import fail, ok, unknown, warn
from gatepost.doctor.postfix_instance import Instance, PostfixError, words
from gatepost.doctor.wired import Wired, domains, sample, ways
from gatepost.mail.address import compile_pattern
from gatepost.mail.recipient import ROLES, recipient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.doctor.check import Questions, Verdict

__all__ = ["questions"]

#: Stands for an address that no route has.
_NOBODY: Final = "gatepost-doctor-asks-for-nobody"
#: Actions of smtpd_*_restrictions that end the list for a foreign domain, and what it is answered then.
_REFUSES: Final = ("reject_unauth_destination", "reject")
_DEFERS: Final = ("defer_unauth_destination", "defer", "defer_if_permit", "defer_if_reject")
#: queue_minfree's default: smtpd wants so many times message_size_limit free (postconf(5)).
_QUEUE_ROOM: Final = 1.5


def questions(wired: Wired) -> Questions:
    """In the order in which a message meets them."""
    if wired.instance is None:
        return ()
    return (
        ("postfix-domains", wired.ask(lambda instance: _domains(wired, instance))),
        ("postfix-transport", wired.ask(lambda instance: _transport(wired, instance))),
        ("postfix-recipient-limit", wired.ask(lambda instance: _recipient_limit(wired, instance))),
        ("postfix-recipients", wired.ask(lambda instance: _recipients(wired, instance))),
        ("postfix-aliases", wired.ask(lambda instance: _aliases(wired, instance))),
        ("postfix-people", wired.ask(lambda instance: _people(wired, instance))),
        ("postfix-relay", wired.ask(_relay)),
        ("postfix-smuggling", wired.ask(lambda instance: _smuggling(wired, instance))),
        ("postfix-queue-ids", wired.ask(lambda instance: _queue_ids(wired, instance))),
        ("postfix-lifetimes", wired.ask(lambda instance: _lifetimes(wired, instance))),
        ("postfix-backoff", wired.ask(lambda instance: _backoff(wired, instance))),
        ("postfix-brakes", wired.ask(lambda instance: _brakes(wired, instance))),
        ("postfix-delay-warning", wired.ask(_delay_warning)),
        ("postfix-size", wired.ask(_size)),
        ("postfix-disk", wired.ask(_disk)),
        ("postfix-delimiter", wired.ask(_delimiter)),
    )


def _expected(wired: Wired, instance: Instance, name: str) -> str:
    """The commands that set a parameter as the fragments have it; other domains may live by what else stands there."""
    wanted = wired.settings[name]
    if any(word not in words(wanted) for word in words(instance.parameter(name))):
        return f"{instance.setting(f'{name} = {wanted}')}; beside other domains what gatepost postfix --beside prints"
    return instance.setting(f"{name} = {wanted}")


def _domains(wired: Wired, instance: Instance) -> Verdict:
    """Each route's domain is a virtual mailbox domain, and nothing else."""
    ours = instance.parameter("virtual_mailbox_domains")
    for domain in domains(wired.subject.sound):
        if not instance.lists(ours, domain):
            both = ", ".join(dict.fromkeys((*words(ours), domain)))
            return fail(
                f"{domain}: is not in virtual_mailbox_domains ({ours or 'empty'}): its mail is refused",
                instance.setting(f"virtual_mailbox_domains = {both}"),
            )
        for name in ("mydestination", "virtual_alias_domains", "relay_domains"):
            if instance.lists(instance.parameter(name), domain):
                return fail(
                    f"{domain}: is in virtual_mailbox_domains and in {name}: one of them loses", f"take it out of {name}"
                )
    return ok(f"virtual_mailbox_domains = {ours}")


def _transport(wired: Wired, instance: Instance) -> Verdict:
    """Where Postfix delivers each route's mail: transport_maps first, then virtual_transport."""
    if wired.service is None:
        return unknown("no service runs gatepost's script")
    ours, found = wired.settings["virtual_transport"], ways(instance, wired.subject.sound)
    for route, way in zip(wired.subject.sound.routes, found, strict=True):
        if not way.rung:
            address = sample(route)
            return fail(
                f"{address}: {way.setting} says {way.transport}: its mail does not come to gatepost",
                f"{instance.setting(f'virtual_transport = {ours}')}; where other mail needs {way.transport}:"
                f" {address.rpartition('@')[2]} {ours} in transport_maps",
            )
    return ok(f"every route's mail goes to {', '.join(dict.fromkeys(way.transport for way in found))}")


def _recipient_limit(wired: Wired, instance: Instance) -> Verdict:
    """One for a script, whose exit status tells one fate; by LMTP several would share one deadline."""
    found = [way for way in wired.ways if way.rung]
    if not found:
        return unknown("no route's mail comes to gatepost")
    shown = []
    for way in found:
        name = f"{way.name}_destination_recipient_limit"
        value = instance.parameter(name) or instance.parameter("default_destination_recipient_limit")
        mend = instance.setting(f"{name} = 1")
        if value != "1" and way.rung == "lmtp":
            return warn(f"{name} is {value}: a slow app takes the time of the other recipients of a message", mend)
        if value != "1":
            return fail(f"{name} is {value}: one run of the script gets several recipients, and can tell only one fate", mend)
        shown.append(f"{name} = 1")
    return ok(", ".join(dict.fromkeys(shown)))


def _keys(address: str, delimiters: str) -> tuple[str, ...]:
    """What Postfix asks a table of addresses for, in its order: the address, that without extension, the domain."""
    local, _, domain = address.rpartition("@")
    cut = min((at for at in (local.find(each, 1) for each in delimiters) if at > 0), default=0)
    return (address, *((f"{local[:cut]}@{domain}",) if cut else ()), f"@{domain}")


def _recipients(wired: Wired, instance: Instance) -> Verdict:
    """RCPT takes an address of each route, and refuses one that no route has."""
    tables = instance.parameter("virtual_mailbox_maps")
    mend = f"write recipients.regexp anew (gatepost postfix --write), then {_expected(wired, instance, 'virtual_mailbox_maps')}"
    if not tables:
        return fail("virtual_mailbox_maps is empty: any name in the routes' domains is taken, and bounced later", mend)
    if instance.parameter("smtpd_reject_unlisted_recipient") != "yes":
        return fail(
            "smtpd_reject_unlisted_recipient is not yes: any name in the routes' domains is taken, and bounced later",
            instance.setting("smtpd_reject_unlisted_recipient = yes"),
        )
    delimiters = instance.parameter("recipient_delimiter")
    for route in wired.subject.sound.routes:
        if not instance.look_up(tables, *_keys(sample(route), delimiters)):
            return fail(f"route {route.name}: {tables} does not take {sample(route)}: its mail is refused at RCPT", mend)
    for domain in domains(wired.subject.sound):
        nobody = _nobody(wired, domain)
        if instance.look_up(tables, *_keys(nobody, delimiters)):
            return fail(f"{tables} takes {nobody}, which no route has: it is bounced later, to forged senders too", mend)
    return ok(f"{tables}: takes an address of each route, and no other")


def _nobody(wired: Wired, domain: str) -> str:
    """An address that no route takes: where a catch-all takes any name, the one that is never a key."""
    address = recipient(f"{_NOBODY}@{domain}")
    if any(compile_pattern(route.address).match(address) for route in wired.subject.sound.routes):
        return f"mailer-daemon@{domain}"
    return address.final_form


def _aliases(wired: Wired, instance: Instance) -> Verdict:
    """Nothing rewrites a route's address before it gets to gatepost."""
    delimiters = instance.parameter("recipient_delimiter")
    for name in ("canonical_maps", "recipient_canonical_maps", "virtual_alias_maps"):
        tables = instance.parameter(name)
        for route in wired.subject.sound.routes:
            address = sample(route)
            found = instance.look_up(tables, *_keys(address, delimiters))
            if found and found.lower() != address:
                return fail(
                    f"route {route.name}: {name} makes {found} of {address}: its mail goes there, not to gatepost",
                    f"take the entry that matches it out of {tables}",
                )
    return ok("no alias and no canonical map touches a route's address")


def _people(wired: Wired, instance: Instance) -> Verdict:
    """Mail for postmaster and abuse reaches somebody outside the routes (RFC 5321 4.5.1, RFC 2142 4)."""
    tables, ours = instance.parameter("virtual_alias_maps"), domains(wired.subject.sound)
    mend = f"write aliases.regexp anew (gatepost postfix --write), then {_expected(wired, instance, 'virtual_alias_maps')}"
    delimiters, found = instance.parameter("recipient_delimiter"), ""
    for address in (f"{role}@{domain}" for role in ROLES for domain in ours):
        found = instance.look_up(tables, *_keys(address, delimiters))
        if not found:
            return fail(f"{address}: no alias in virtual_alias_maps ({tables or 'empty'}): a person must get it", mend)
        if found.rpartition("@")[2].lower() in ours:
            return fail(f"{address} goes to {found}, an address of a route's domain: no person gets it", mend)
    origin = _origin(instance)
    alias = instance.look_up(tables, f"postmaster@{origin}", "postmaster")
    if not alias and not instance.lists(instance.parameter("mydestination"), origin):
        return warn(f"bare postmaster (postmaster@{origin}) has no alias and is no local user: bounced later", mend)
    return ok(f"postmaster and abuse go to {found}")


def _origin(instance: Instance) -> str:
    """myorigin; Debian's Postfix takes a path for a file whose first line is the name (/etc/mailname)."""
    origin = instance.parameter("myorigin")
    if not origin.startswith("/"):
        return origin
    try:
        with open(origin, encoding="utf-8") as file:
            return file.readline().strip()
    except OSError as error:
        raise PostfixError(f"myorigin = {origin}: {error.strerror}") from error


def _relay(instance: Instance) -> Verdict:
    """What a foreign domain is answered by the first word that decides, relay restrictions first."""
    name = "smtpd_relay_restrictions"
    listed = words(instance.parameter(name)) + words(instance.parameter("smtpd_recipient_restrictions"))
    mend = instance.setting(f"{name} = reject_unauth_destination") + "; with senders of your own, what permits them in front"
    for word in listed:
        if word in _REFUSES:
            return ok(f"{name} = {instance.parameter(name)}")
        if word in _DEFERS:
            return warn(f"{name} ends in {word}: a foreign domain is answered 454, and its client comes back for days", mend)
        if word == "permit":
            return fail(f"{name} says permit before it refuses anything: an open relay", mend)
    return fail(f"neither {name} nor smtpd_recipient_restrictions refuses a foreign domain: an open relay", mend)


def _smuggling(wired: Wired, instance: Instance) -> Verdict:
    """SMTP smuggling (CVE-2023-51764): one message is one message."""
    name = "smtpd_forbid_bare_newline"
    value = instance.parameter(name)
    if not value:
        return fail(
            f"Postfix {instance.parameter('mail_version')} has no {name}: a second message can hide in a first",
            "upgrade Postfix: 3.5.23, 3.6.13, 3.7.9, 3.8.4 or later",
        )
    if value not in ("yes", "normalize", "reject"):
        return fail(f"{name} = {value}: a second message can hide in a first", _expected(wired, instance, name))
    exclusions = words(instance.parameter(f"{name}_exclusions"))
    networks = words(instance.parameter("mynetworks"))
    if exclusions and set(networks) & set(exclusions):
        return warn(
            f"{name}_exclusions has all of mynetworks: a webmail there relays strangers' text",
            instance.setting(f"{name}_exclusions ="),
        )
    pipelining = instance.parameter("smtpd_forbid_unauth_pipelining") == "yes"
    if not pipelining and "reject_unauth_pipelining" not in words(instance.parameter("smtpd_data_restrictions")):
        return warn(
            "smtpd_forbid_unauth_pipelining is not yes: a client may send commands before it may",
            _expected(wired, instance, "smtpd_forbid_unauth_pipelining"),
        )
    return ok(f"{name} = {value}")


def _queue_ids(wired: Wired, instance: Instance) -> Verdict:
    if instance.parameter("enable_long_queue_ids") != "yes":
        return fail(
            "enable_long_queue_ids is not yes: queue IDs come again, and a message is taken for an earlier one",
            _expected(wired, instance, "enable_long_queue_ids"),
        )
    return ok("enable_long_queue_ids = yes")


def _lifetimes(wired: Wired, instance: Instance) -> Verdict:
    """Longer than give_up_after, or Postfix bounces what gatepost would have kept."""
    give_up = wired.subject.sound.timing.give_up_after
    shown = []
    for name in ("maximal_queue_lifetime", "bounce_queue_lifetime"):
        lifetime = instance.seconds(name)
        shown.append(f"{name} {_days(lifetime)}")
        if lifetime <= give_up:
            return fail(
                f"{name} is {_days(lifetime)}, timing.give_up_after {_days(give_up)}: Postfix bounces, to forged senders too,"
                " before gatepost parks",
                f"{_expected(wired, instance, name)}; or a shorter timing.give_up_after",
            )
    return ok(f"{', '.join(shown)}; timing.give_up_after {_days(give_up)}")


def _days(time: float) -> str:
    return f"{time / 86_400:.3g} d" if time >= 86_400 else f"{time:g} s"


def _backoff(wired: Wired, instance: Instance) -> Verdict:
    lease, first = wired.subject.sound.timing.lease, instance.seconds("minimal_backoff_time")
    shown = f"minimal_backoff_time {first:g} s, timing.lease {lease:g} s"
    if first <= lease:
        return warn(
            f"{shown}: after a crash the first retry comes while the lease still runs, and waits once more",
            _expected(wired, instance, "minimal_backoff_time"),
        )
    return ok(shown)


def _brakes(wired: Wired, instance: Instance) -> Verdict:
    """What is good for a test and must not stay."""
    if instance.parameter("soft_bounce") == "yes":
        return fail(
            "soft_bounce = yes: refusals wait in the queue, and senders try for days", instance.setting("soft_bounce = no")
        )
    for service in {way.name for way in wired.ways if way.rung} & {*words(instance.parameter("defer_transports"))}:
        return fail(f"defer_transports has {service}: all mail waits in the queue", instance.setting("defer_transports ="))
    return ok("neither soft_bounce nor defer_transports holds mail back")


def _delay_warning(instance: Instance) -> Verdict:
    if instance.seconds("delay_warning_time"):
        value = instance.parameter("delay_warning_time")
        return warn(
            f"delay_warning_time = {value}: while the app is down Postfix writes to senders, who may be forged",
            instance.setting("delay_warning_time = 0h"),
        )
    return ok("senders get no delay warnings")


def _size(instance: Instance) -> Verdict:
    limit = int(instance.parameter("message_size_limit") or 0)
    if not limit:
        return warn(
            "message_size_limit = 0: there is no limit, and each run of the script holds its message in memory",
            instance.setting("message_size_limit = 26214400"),
        )
    return ok(f"message_size_limit = {limit}: attachments of up to about {limit * 0.72 / 1e6:.0f} MB")


def _disk(instance: Instance) -> Verdict:
    """Room for the queue: without it Postfix answers 452 (queue_minfree)."""
    place = instance.parameter("queue_directory")
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    wanted = int(_QUEUE_ROOM * int(instance.parameter("message_size_limit") or 0))
    least = max(int(instance.parameter("queue_minfree") or 0), wanted)
    shown = f"{place}: {free // 1_048_576} MiB free"
    if free < least:
        return fail(
            f"{shown}, Postfix wants {least // 1_048_576} MiB: it answers 452, no mail comes in", f"make room: df -h {place}"
        )
    return ok(shown)


def _delimiter(instance: Instance) -> Verdict:
    """Only told: gatepost reads the key from the whole recipient, and the fragments' tables see whole addresses only."""
    value = instance.parameter("recipient_delimiter")
    return ok(f"recipient_delimiter = {value}".rstrip() + (": harmless, gatepost does not use it" if value else " (none)"))
