"""Text of main.cf and master.cf: what stands there, ours put in, ours taken out again byte for byte.

Promises: what `put_in` did `take_out` undoes to the byte, wherever somebody else has changed other lines meanwhile; comments,
blank lines and continuation lines that are not ours stay as they are. What cannot be merged is a `Conflict` with its reason.
Never: reads or writes a file; runs a command; changes a setting of somebody else's that gatepost does not need.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "Conflict",
    "Entry",
    "beside",
    "domains_of",
    "entries",
    "merge",
    "person_table",
    "put_in",
    "seconds",
    "serves",
    "service_key",
    "setting_key",
    "settings",
    "take_out",
    "transport_table",
    "with_settings",
]

#: The lines around ours. They are looked for whole: changing them orphans what older releases of the role have written.
BEGIN = "# --- gatepost, begin: written by Ansible; `postfix_state: absent` takes it out ---"
END = "# --- gatepost, end ---"
#: Right below BEGIN where the file's last line had no end.
_NO_END = "# (the line above had no end)"
#: In front of each line that ours takes the place of.
_FOUND = "#gatepost-found:"


class Conflict(Exception):  # noqa: N818  # it is an answer, not an accident
    """Ours and what is there cannot stand side by side; the text says why, and what a person can do."""


class Entry(NamedTuple):
    """A logical line (postconf(5), master(5)): its words, and the physical lines it stands on, comments between left out."""

    text: str
    lines: tuple[int, ...]


# -- the form of the files ---------------------------------------------------------------------------------------------------


def entries(text: str) -> list[Entry]:
    """The logical lines: a line that begins with white space goes on from the one above, past comments and blank lines."""
    found: list[tuple[list[str], list[int]]] = []
    for number, line in enumerate(text.split("\n")):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if line[0] in " \t" and found:
            found[-1][0].append(bare)
            found[-1][1].append(number)
        else:
            found.append(([bare], [number]))
    return [Entry(" ".join(words), tuple(numbers)) for words, numbers in found]


def setting_key(entry: Entry) -> str:
    """The name of a main.cf setting."""
    return entry.text.partition("=")[0].strip()


def service_key(entry: Entry) -> str:
    """`name/type` of a master.cf service."""
    return "/".join(entry.text.split()[:2])


def settings(text: str) -> dict[str, str]:
    """main.cf by name; of a name that stands twice the last one counts, as for Postfix."""
    return {setting_key(entry): entry.text.partition("=")[2].strip() for entry in entries(text) if "=" in entry.text}


def with_settings(text: str, wanted: Mapping[str, str]) -> str:
    """main.cf with these settings: each in the place of the one of that name, new ones at the end."""
    lines: list[str | None] = list(text.split("\n"))
    rest = dict(wanted)
    for entry in entries(text):
        name = setting_key(entry)
        if name not in wanted:
            continue
        for number in entry.lines:
            lines[number] = None
        if name in rest:
            lines[entry.lines[0]] = assignment(name, rest.pop(name))
    kept = "\n".join(line for line in lines if line is not None)
    if not rest:
        return kept
    return kept.rstrip("\n") + "\n\n" + "".join(assignment(name, value) + "\n" for name, value in rest.items())


def assignment(name: str, value: str) -> str:
    """One line of main.cf. Conflict for a value that would be two."""
    if "\n" in value or "\r" in value:
        raise Conflict(f"{name}: a setting of main.cf is one line")
    return f"{name} = {value}".rstrip()


# -- ours in a file that is somebody else's ----------------------------------------------------------------------------------


def put_in(text: str, ours: str, key: Callable[[Entry], str] = setting_key) -> str:
    """The file with `ours` at its end; entries outside that have the key of one of ours become comments.

    Put in twice is the same as once.
    """
    text = take_out(text)
    names = {key(entry) for entry in entries(ours)}
    lines = text.split("\n")
    for entry in entries(text):
        if key(entry) in names:
            for number in entry.lines:
                lines[number] = _FOUND + lines[number]
    text = "\n".join(lines)
    no_end = bool(text) and not text.endswith("\n")
    parts = [text, "\n" * no_end, BEGIN, "\n", f"{_NO_END}\n" * no_end, ours.rstrip("\n"), "\n", END, "\n"]
    return "".join(parts)


def take_out(text: str) -> str:
    """The file as it would be without us. Conflict where our block has a beginning and no end."""
    while BEGIN in (lines := text.split("\n")):
        begin = lines.index(BEGIN)
        if END not in lines[begin:]:
            raise Conflict(f"the line {END!r} is gone: put it back where gatepost's settings end")
        end = lines.index(END, begin)
        before, after = lines[:begin], lines[end + 1 :]
        if lines[begin + 1] == _NO_END and after in ([], [""]):
            after = []
        text = "\n".join([*before, *after])
    return "\n".join(line.removeprefix(_FOUND) for line in text.split("\n"))


# -- a Postfix that serves others, too ---------------------------------------------------------------------------------------


def domains_of(fragment: str) -> list[str]:
    """The domains of our routes, from main.cf's fragment."""
    return _words(settings(fragment)["virtual_mailbox_domains"])


def transport_table(fragment: str) -> str:
    """A texthash: table that sends our domains, and nothing else, where the fragment's virtual_transport says."""
    to = settings(fragment)["virtual_transport"]
    head = "# Written by Ansible (role postfix): where mail for gatepost's domains goes.\n"
    return head + "".join(f"{domain}  {to}\n" for domain in domains_of(fragment))


def person_table(fragment: str, person: str) -> str:
    """A regexp: table of our domains' postmaster and abuse. Bare names, literals and this host's mail are its other users'."""
    domains = "|".join(domain.replace(".", r"\.") for domain in domains_of(fragment))
    head = "# Written by Ansible (role postfix): a person for gatepost's domains, and for no other.\n"
    return f"{head}/^(postmaster|abuse)@({domains})$/  {person}\n"


#: Ours alone: nobody else's mail is treated otherwise by them, or only mail that was forged to hide a second message.
_OURS = re.compile(r"gatepost(-lmtp)?_\w+|enable_long_queue_ids|smtpd_forbid_(bare_newline|unauth_pipelining)")
#: At least as long as ours.
_TIMES = ("maximal_queue_lifetime", "bounce_queue_lifetime", "minimal_backoff_time", "maximal_backoff_time")
#: What another domain lives by: never touched, whatever the fragment says.
_THEIRS = ("mydestination", "local_recipient_maps", "relay_domains", "virtual_alias_domains", "delay_warning_time")
#: Classes of domains of which ours may be in one only.
_OTHER_CLASSES = ("mydestination", "relay_domains", "virtual_alias_domains")


def beside(found: Mapping[str, str], effective: Mapping[str, str], fragment: str, folder: str) -> dict[str, str]:
    """The settings by which our domains stand beside the others (docs/wiring.md, A Postfix that has other mail).

    `found` is main.cf without us, `effective` what Postfix makes of it, defaults filled in and $names expanded; `folder` is
    where our tables lie. A name that the fragment has and this does not return stays as it is. Raises Conflict.
    """
    ours = settings(fragment)
    domains = domains_of(fragment)
    _no_other_class(domains, effective)
    wanted = {name: value for name, value in ours.items() if _OURS.fullmatch(name)}

    def listed(name: str, more: str, *, first: bool = False) -> str:
        there = found.get(name)
        if there is None:  # Postfix's default goes on to count, where it names something that is set
            default = _DEFAULTS.get(name, "")
            there = default if default.removeprefix("$") in found else ""
        parts = [more, there] if first else [there, more]
        return ", ".join(part for part in parts if part)

    wanted["virtual_mailbox_domains"] = listed("virtual_mailbox_domains", ", ".join(domains))
    wanted["virtual_mailbox_maps"] = listed("virtual_mailbox_maps", ours["virtual_mailbox_maps"])
    wanted["virtual_alias_maps"] = listed("virtual_alias_maps", ours["virtual_alias_maps"])
    # In front: a table of theirs with a * for everything would take our mail.
    wanted["transport_maps"] = listed("transport_maps", f"texthash:{folder}/transport", first=True)
    if "smtpd_milters" in ours:
        if "default_action=accept" not in ours["smtpd_milters"]:
            raise Conflict(
                "the milter's default_action is tempfail: while it is down, the mail of this Postfix's other domains would wait"
                " with its senders; set milter.default_action to accept (gatepost_milter_default_action)"
            )
        wanted["smtpd_milters"] = listed("smtpd_milters", ours["smtpd_milters"])
    if effective.get("smtpd_reject_unlisted_recipient", "yes") != "yes":
        raise Conflict(
            "smtpd_reject_unlisted_recipient is not yes: addresses that no route has would be taken and bounced; set it to yes,"
            " or give gatepost a Postfix of its own"
        )
    wanted |= _restrictions(found, effective)
    wanted |= _exclusions(found)
    wanted |= _keywords(found, effective, ours["smtpd_discard_ehlo_keywords"])
    wanted |= _size(effective, int(ours["message_size_limit"]))
    wanted |= _times(effective, ours)
    return {name: value for name, value in wanted.items() if found.get(name) != value and name not in _THEIRS}


#: Postfix's defaults that name another setting.
_DEFAULTS = {"virtual_mailbox_domains": "$virtual_mailbox_maps", "virtual_alias_maps": "$virtual_maps"}


def _no_other_class(domains: Iterable[str], effective: Mapping[str, str]) -> None:
    for name in _OTHER_CLASSES:
        for domain in domains:
            if domain in (word.lower() for word in _words(effective.get(name, ""))):
                raise Conflict(f"{domain} stands in {name}: take it out there, or its mail does not come to gatepost")


def _restrictions(found: Mapping[str, str], effective: Mapping[str, str]) -> dict[str, str]:
    """A foreign domain gets a 5xx where it got a 4xx; whoever may relay still may."""
    wanted = {}
    name = "smtpd_relay_restrictions"
    listed = _words(found.get(name, effective.get(name, "")))
    if listed and listed[-1] == "defer_unauth_destination":
        wanted[name] = ", ".join([*listed[:-1], "reject_unauth_destination"])
    name = "smtpd_data_restrictions"
    listed = _words(found.get(name, ""))
    if "reject_unauth_pipelining" not in listed:
        wanted[name] = ", ".join(["reject_unauth_pipelining", *listed])
    return wanted


def _exclusions(found: Mapping[str, str]) -> dict[str, str]:
    """Nobody's, unless somebody has thought about it: the default excepts all of mynetworks."""
    name = "smtpd_forbid_bare_newline_exclusions"
    return {} if name in found else {name: ""}


def _keywords(found: Mapping[str, str], effective: Mapping[str, str], ours: str) -> dict[str, str]:
    name = "smtpd_discard_ehlo_keywords"
    there = _words(effective.get(name, ""))
    more = [word for word in _words(ours) if word not in there]
    return {name: ", ".join([*_words(found.get(name, "")), *more])} if more else {}


def _size(effective: Mapping[str, str], ours: int) -> dict[str, str]:
    """The larger of both, but not past what a mailbox may have: Postfix would refuse to deliver there. 0 is no limit."""
    there = int(effective.get("message_size_limit", "10240000"))
    boxes = [int(effective.get(name, "51200000")) for name in ("mailbox_size_limit", "virtual_mailbox_limit")]
    wanted = min([ours, *(box for box in boxes if box)])
    return {"message_size_limit": str(wanted)} if there and there < wanted else {}


def _times(effective: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    wanted = {}
    for name in _TIMES:
        least = ours.get(ours[name].removeprefix("$"), ours[name])
        day = "d" if name.endswith("lifetime") else "s"
        if name in effective and seconds(effective[name], day) < seconds(least, "s"):
            wanted[name] = least
    return wanted


def seconds(text: str, unit: str) -> int:
    """A time of Postfix's in seconds; `unit` where it names none. Conflict for what is none."""
    found = re.fullmatch(r"(\d+)([smhdw]?)", text.strip())
    if not found:
        raise Conflict(f"{text!r} is no time that Postfix knows")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}[found[2] or unit]


def serves(found: Mapping[str, str]) -> list[str]:
    """What a main.cf without us does for others, as `name = value`; nothing for a package's that nobody has configured."""
    if found.get("inet_interfaces", "all") in ("loopback-only", "localhost", "127.0.0.1"):
        return []
    names = ("virtual_mailbox_domains", "virtual_alias_domains", "relay_domains", "transport_maps")
    busy = [name for name in names if found.get(name, "") not in ("", "$mydestination")]
    own = {"$myhostname", "localhost.$mydomain", found.get("myhostname", "").lower()}
    local = (word.lower() for word in _words(found.get("mydestination", "")))
    if [word for word in local if "." in word and word not in own and not word.startswith("localhost.")]:
        busy.append("mydestination")
    return [f"{name} = {found[name]}" for name in busy]


def _words(value: str) -> list[str]:
    """A list of Postfix's: white space or commas between, braces held together."""
    return [word for word in re.findall(r"\{[^}]*\}|[^\s,{}]+", value) if word]


def merge(found: str, effective: Mapping[str, str], fragment: str, folder: str, more: Mapping[str, str]) -> str:
    """main.cf with our domains beside the others; `more` are settings that a person asked for by name."""
    base = take_out(found)
    wanted = {**beside(settings(base), effective, fragment, folder), **more}
    return put_in(base, "".join(assignment(name, value) + "\n" for name, value in wanted.items()))
