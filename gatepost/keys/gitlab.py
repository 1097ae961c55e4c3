"""GitLab's keys: what it puts in place of `%{key}` in its incoming and Service Desk addresses (docs/key-formats.md).

Promises: takes the forms in the table below and nothing else; one reading for each text, the same whatever `kinds` allows; a
fixed number of passes over at most `LONGEST` characters. Never raises on any text.
Never: says that a key is live, or takes a project's path (`group/project+TOKEN`, before GitLab 11.7) or a Service Desk project
key (`SLUG-WORD`): any word with a slash or a dash would pass for one.

    reply          32 hex digits, or PARTITION-KEY, or PARTITION-KEY-NAMESPACE
    unsubscribe    any of those with -unsubscribe or +unsubscribe behind
    service-desk   SLUG-ID-issue-
    note           SLUG-ID-TOKEN-issue-IID
    merge-request  SLUG-ID-TOKEN-merge-request
    issue          SLUG-ID-TOKEN-issue

They are tried in this order. One text has two forms: 11 letters fit a namespace, so PARTITION-KEY-unsubscribe could be a reply
too. It unsubscribes; on a route that does not take that kind it is no key.
"""

from __future__ import annotations

from gatepost.keys.formats import LONGEST, Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["read"]

_DIGITS: Final = "0123456789"
_HEX: Final = _DIGITS + "abcdef"
_BASE36: Final = _DIGITS + "abcdefghijklmnopqrstuvwxyz"
_SLUG: Final = _BASE36 + "-"  # a full path in lower case, everything else made a dash
_TOKEN: Final = _BASE36 + "-_"  # 25 base 36 digits, since GitLab 16 behind `glimt-` or a prefix of the instance

_OLD_KEY: Final = 32  # 16 random bytes in hex
_NEW_KEY: Final = 25  # 16 random bytes in base 36, filled up with zeros
_PARTITION: Final = 4  # digits at most
_NAMESPACE: Final = 13  # digits at most: 64 bits in base 36
_ID: Final = 19  # digits at most: 63 bits


def read(text: str, kinds: tuple[str, ...] = ()) -> Reading | None:
    """What this key is to GitLab, or None. `kinds`: those that are taken, () for all.

    The subject is what GitLab would look up: `reply` and `unsubscribe` the reply key, with its partition and without its
    namespace; `note` the issue as GitLab writes it, `20#34`; else the project's id. The author's token is in `raw` only.
    """
    if not 0 < len(text) <= LONGEST:
        return None
    for kind, reader in _READERS:
        subject = reader(text)
        if subject:
            return Reading(kind=kind, subject=subject, raw=text) if not kinds or kind in kinds else None
    return None


def _only(text: str, characters: str) -> bool:
    return bool(text) and not text.strip(characters)  # nothing is left of a text that has these characters only


def _is_id(text: str) -> bool:
    """A row's number as a database writes it: no zero in front."""
    return len(text) <= _ID and _only(text, _DIGITS) and text[0] != "0"


def _is_word(text: str, characters: str) -> bool:
    """Of these characters, and no dash at either end: it would belong to what stands beside it."""
    return _only(text, characters) and text[0] != "-" and text[-1] != "-"


def _reply(text: str) -> str:
    """The reply key, "" where it is none."""
    if len(text) == _OLD_KEY and _only(text, _HEX):
        return text
    parts = text.split("-", 3)
    if not 2 <= len(parts) <= 3 or not all(_only(part, _BASE36) for part in parts):
        return ""
    partition, key, *namespace = parts
    fits = len(partition) <= _PARTITION and len(key) == _NEW_KEY and (not namespace or len(namespace[0]) <= _NAMESPACE)
    return f"{partition}-{key}" if fits else ""


def _unsubscribe(text: str) -> str:
    for suffix in ("-unsubscribe", "+unsubscribe"):
        if text.endswith(suffix):
            return _reply(text.removesuffix(suffix))
    return ""


def _service_desk(text: str) -> str:
    if not text.endswith("-issue-"):
        return ""
    slug, _, project = text.removesuffix("-issue-").rpartition("-")
    return project if _is_id(project) and _is_word(slug, _SLUG) else ""


def _note(text: str) -> str:
    head, _, issue = text.rpartition("-")
    project = _issue(head)
    return f"{project}#{issue}" if project and _is_id(issue) else ""


def _merge_request(text: str) -> str:
    return _project(text, "-merge-request")


def _issue(text: str) -> str:
    return _project(text, "-issue")


def _project(text: str, action: str) -> str:
    """The project's id of SLUG-ID-TOKEN and an action. A slug may hold numbers: the last one with a token behind is the id."""
    if not text.endswith(action):
        return ""
    parts = text.removesuffix(action).split("-")
    for at in range(len(parts) - 2, 0, -1):
        if _is_id(parts[at]):
            slug, token = "-".join(parts[:at]), "-".join(parts[at + 1 :])
            return parts[at] if _is_word(slug, _SLUG) and _is_word(token, _TOKEN) else ""
    return ""


_READERS: Final = (
    ("unsubscribe", _unsubscribe),
    ("reply", _reply),
    ("service-desk", _service_desk),
    ("note", _note),
    ("merge-request", _merge_request),
    ("issue", _issue),
)
