"""The fragments of gatepost.wiring for a Postfix that serves other domains already: what is added to what is there.

Promises: a line that takes the place of another has all of it in it: ours is added to lists, sizes and times only grow; a
setting that is not printed stays as it is. Once all is in place there is nothing more to print. What cannot stand side by side
is a ValueError that says why.
Never: names a bare address, an address literal or this host's own mail in a table, for those are the other users'; reads or
changes a Postfix that is installed.
"""

from __future__ import annotations

import re

from gatepost.doctor.postfix_instance import seconds, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

__all__ = ["beside"]

_MAIN_HEAD: Final = """\
# main.cf, beside other domains: what gatepost adds to the one that is there.
#
# Promises: whatever a line takes the place of is in it, too: take yours of the same name out. A setting that is not here stays
# as it is, and what is in place already is not printed.
# Never: sets what the other domains live by (mydestination, relay_domains, virtual_transport, who may relay).
#
# `gatepost postfix --beside` made it for the main.cf that was there; after a change to routes ask it again. docs/wiring.md.
"""
_ALIASES: Final = """\
# aliases.regexp, beside other domains: a person behind the routes' domains (RFC 5321 section 4.5.1, RFC 2142 section 4).
#
# Promises: postmaster and abuse in these domains reach that person. Once this file has changed: postfix reload.
# Never: matches a bare name, an address literal or another domain: those are this Postfix's other users'.

/^(postmaster|abuse)@({domains})$/  {person}
"""
_TRANSPORT: Final = """\
# transport, a texthash: table: where mail for the routes' domains goes, and for no other. Once it has changed: postfix reload.

{lines}
"""
#: Settings in the order in which they are printed, each with its reason. One that the fragment has and this has not is the
#: others': mydestination, local_recipient_maps, relay_domains, virtual_transport, virtual_alias_domains, delay_warning_time.
_REASONS: Final = {
    "virtual_mailbox_domains": "The routes' domains, behind yours.",
    "transport_maps": "Where their mail goes. In front: a table of yours with a * for everything would take it.",
    "virtual_mailbox_maps": "Which addresses exist in them, behind yours.",
    "virtual_alias_maps": "postmaster and abuse of the routes' domains, behind yours.",
    "gatepost_destination_recipient_limit": "One run for each recipient: an exit status can tell only one fate.",
    "gatepost-thin_destination_recipient_limit": "The same, by the thin script.",
    "gatepost-lmtp_destination_recipient_limit": "By LMTP: each recipient has the whole of timing.deadline.",
    "gatepost-lmtp_destination_concurrency_failed_cohort_limit": "A connection that failed says nothing of the next.",
    "smtpd_milters": "Behind yours, so that it sees what they have found. While it is down all mail passes.",
    "smtpd_relay_restrictions": "As it was, but a foreign domain is answered 554, and not 454 for days.",
    "smtpd_forbid_bare_newline": "SMTP smuggling (CVE-2023-51764): one message is one message.",
    "smtpd_forbid_bare_newline_exclusions": "Nobody is excepted (by default mynetworks is). Name a device that needs it.",
    "smtpd_forbid_unauth_pipelining": "A client that sends commands before it may is cut off.",
    "smtpd_data_restrictions": "The same, on any release.",
    "smtpd_discard_ehlo_keywords": "No notice of success, which anybody forged in MAIL FROM would get.",
    "enable_long_queue_ids": "A queue ID that comes again makes a second message the first.",
    "message_size_limit": "Bytes of a message as it travels; no more than your mailboxes take.",
    "maximal_queue_lifetime": "Longer than timing.give_up_after: at its end Postfix bounces.",
    "bounce_queue_lifetime": "The same for mail from the null sender.",
    "minimal_backoff_time": "The first retry comes after timing.lease.",
    "maximal_backoff_time": "Not below the first.",
}  # fmt: skip
#: Nobody else's mail is treated otherwise by them, or only mail that was forged to hide a second message.
_AS_THEY_ARE: Final = re.compile(
    r"gatepost(-thin|-lmtp)?_\w+|enable_long_queue_ids|smtpd_forbid_(bare_newline|unauth_pipelining)"
)
_TIMES: Final = ("maximal_queue_lifetime", "bounce_queue_lifetime", "minimal_backoff_time", "maximal_backoff_time")
#: Classes of domains; one that stands in two is a warning, and one of them loses.
_OTHER_CLASSES: Final = ("mydestination", "relay_domains", "virtual_alias_domains")
#: Postfix's defaults that name another setting: they count where that is set.
_DEFAULTS: Final = {"virtual_mailbox_domains": "virtual_mailbox_maps", "virtual_alias_maps": "virtual_maps"}
#: A word of a list; braces hold theirs together.
_WORD: Final = re.compile(r"\{[^}]*\}|[^\s,{}]+")


def beside(
    fragments: Mapping[str, str], *, written: Mapping[str, str], effective: Mapping[str, str], folder: str, person: str
) -> dict[str, str]:
    """`fragments`, which `render` made, as they are added to this Postfix: file name -> text; `transport` is a file more.

    `written`: its main.cf by name (`postconf -n`); `effective`: all settings, with defaults and expanded (`postconf -x`);
    `folder`, `person`: as given to `render`. Raises ValueError where ours would not work there, or would harm the others' mail,
    and PostfixError for a time that is none.
    """
    ours = dict(re.findall(r"(?m)^([\w-]+) *= *(.*)$", fragments["main.cf"]))
    domains = words(ours["virtual_mailbox_domains"])
    _refuse(domains, ours, effective)
    wanted = {
        **{name: value for name, value in ours.items() if _AS_THEY_ARE.fullmatch(name)},
        **_lists(ours, written, f"texthash:{folder.rstrip('/')}/transport"),
        **_restrictions(written, effective),
        **_keywords(ours, written, effective),
        **_size(ours, effective),
        **_times(ours, effective),
    }
    lines = [f"# {reason}\n{name} = {wanted[name]}".rstrip() for name, reason in _REASONS.items()
             if wanted.get(name, written.get(name)) != written.get(name)]  # fmt: skip
    return {
        **fragments,
        "main.cf": "\n\n".join((_MAIN_HEAD.rstrip(), *lines)) + "\n",
        "aliases.regexp": _ALIASES.format(domains="|".join(domain.replace(".", r"\.") for domain in domains), person=person),
        "transport": _TRANSPORT.format(lines="\n".join(f"{domain}  {ours['virtual_transport']}" for domain in domains)),
    }


def _refuse(domains: Iterable[str], ours: Mapping[str, str], effective: Mapping[str, str]) -> None:
    """ValueError for what no added line mends. Tables of domains are not asked: the doctor asks them."""
    for name in _OTHER_CLASSES:
        there = words(effective.get(name, "").lower())
        for domain in domains:
            if domain in there:
                raise ValueError(f"{domain} stands in {name}: take it out there, or its mail does not come to gatepost")
    if "default_action=tempfail" in ours.get("smtpd_milters", ""):
        raise ValueError(
            "milter.default_action is tempfail: while the milter is down, the mail of this Postfix's other domains would wait"
            " with its senders; set it to accept (Ansible: gatepost_milter_default_action)"
        )
    if effective.get("smtpd_reject_unlisted_recipient", "yes") != "yes":
        raise ValueError(
            "smtpd_reject_unlisted_recipient is not yes: addresses that no route has would be taken and bounced; set it to yes,"
            " or give gatepost a Postfix of its own"
        )


def _lists(ours: Mapping[str, str], written: Mapping[str, str], transport: str) -> dict[str, str]:
    """Ours added to theirs; what is there already is not added again."""

    def there(name: str) -> str:
        default = _DEFAULTS.get(name, "")
        return written.get(name, f"${default}" if default in written else "")

    def added(name: str) -> str:
        has = _WORD.findall(there(name).lower())
        return _joined(there(name), *(word for word in words(ours[name]) if word.lower() not in has))

    tables = there("transport_maps")
    wanted = {name: added(name) for name in ("virtual_mailbox_domains", "virtual_mailbox_maps", "virtual_alias_maps")}
    wanted["transport_maps"] = tables if transport in words(tables) else _joined(transport, tables)
    if "smtpd_milters" in ours:
        wanted["smtpd_milters"] = _milters(there("smtpd_milters"), ours["smtpd_milters"])
    return wanted


def _milters(there: str, ours: str) -> str:
    """Ours behind theirs; where ours stands already, with other times perhaps, it is written anew."""
    theirs = _WORD.findall(there)
    kept = [word for word in theirs if _endpoint(word) != _endpoint(ours)]
    return _joined(there if kept == theirs else ", ".join(kept), ours)


def _endpoint(milter: str) -> str:
    """`unix:PATH` or `inet:HOST:PORT` of a word of smtpd_milters."""
    return words(milter.strip("{}"))[0]


def _restrictions(written: Mapping[str, str], effective: Mapping[str, str]) -> dict[str, str]:
    """A foreign domain gets a 5xx where it got a 4xx; whoever may relay still may."""
    wanted = {}
    listed = words(written.get("smtpd_relay_restrictions", effective.get("smtpd_relay_restrictions", "")))
    if listed and listed[-1] == "defer_unauth_destination":
        wanted["smtpd_relay_restrictions"] = ", ".join([*listed[:-1], "reject_unauth_destination"])
    there = written.get("smtpd_data_restrictions", "")
    if "reject_unauth_pipelining" not in words(there):
        wanted["smtpd_data_restrictions"] = _joined("reject_unauth_pipelining", there)
    if "smtpd_forbid_bare_newline_exclusions" not in written:  # somebody has thought about it
        wanted["smtpd_forbid_bare_newline_exclusions"] = ""
    return wanted


def _keywords(ours: Mapping[str, str], written: Mapping[str, str], effective: Mapping[str, str]) -> dict[str, str]:
    name = "smtpd_discard_ehlo_keywords"
    more = [word for word in words(ours[name]) if word not in words(effective.get(name, ""))]
    return {name: _joined(written.get(name, ""), *more)} if more else {}


def _size(ours: Mapping[str, str], effective: Mapping[str, str]) -> dict[str, str]:
    """The larger of both, but not past what a mailbox may have: Postfix would refuse to deliver there. 0 is no limit."""
    there = int(effective["message_size_limit"])
    boxes = [int(effective[name]) for name in ("mailbox_size_limit", "virtual_mailbox_limit")]
    wanted = min([int(ours["message_size_limit"]), *(box for box in boxes if box)])
    return {"message_size_limit": str(wanted)} if 0 < there < wanted else {}


def _times(ours: Mapping[str, str], effective: Mapping[str, str]) -> dict[str, str]:
    """At least as long as ours."""
    least = {name: ours.get(ours[name].removeprefix("$"), ours[name]) for name in _TIMES}
    return {name: least[name] for name in _TIMES if seconds(effective[name], name) < seconds(least[name], name)}


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
