"""The Postfix fragments in postfix/, filled in from a configuration: the one source for a person, the demo and the roles.

Promises: the same settings give the same text; every value that is put in is checked first, so that none can add a line, an
argument or a macro to a Postfix file; a name left unfilled is an error and not a line that Postfix would misread.
Never: reads or changes a Postfix that is installed; runs anything.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from math import ceil
from pathlib import Path

from gatepost.decision import RULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.settings import LmtpSettings, MilterSettings, Settings

__all__ = [
    "FRAGMENTS",
    "MESSAGE_SIZE_LIMIT",
    "QUEUE_DIRECTORY",
    "milter_endpoint",
    "recipient_pattern",
    "render",
    "template_folder",
]

#: The files of postfix/, in the order in which a person reads them.
FRAGMENTS: Final = ("main.cf", "master.cf", "recipients.regexp", "aliases.regexp", "status.regexp")

#: The transport's name in master.cf, and so in the log: status=sent (delivered via gatepost service ...).
_SERVICE: Final = "gatepost"
#: Seconds that Postfix waits longer than the script's own deadline: to start a Python on a busy host, and to end one.
_TIME_LIMIT_MARGIN: Final = 30
#: Postfix's queue folder, where nobody says another. smtpd works there, and in a chroot sees nothing else.
QUEUE_DIRECTORY: Final = "/var/spool/postfix"
#: Bytes of the largest message, base64 included: 25 MiB (postfix/main.cf says why).
MESSAGE_SIZE_LIMIT: Final = 26_214_400
#: How long Postfix waits for the milter: to connect; for one answer, the first of a session included; for the answer at the
#: end of a message. The second is longer than store and `ask:` (5 s) may take at RCPT; the third than a large message may wait
#: for its turn (120 s) with the longest `milter.dns_deadline` (60 s); a client waits 10 minutes (RFC 5321 4.5.3.2.6).
_MILTER_TIMES: Final = "connect_timeout=10s, command_timeout=30s, content_timeout=300s"
#: Lines of the fragments, with and without `lmtp:`.
_WARM_LIMITS: Final = (
    f"{_SERVICE}-thin_destination_recipient_limit = 1\n"
    f"{_SERVICE}-lmtp_destination_recipient_limit = 1\n"
    f"{_SERVICE}-lmtp_destination_concurrency_failed_cohort_limit = 0"
)
_NO_LMTP: Final = f"# ({_SERVICE}-thin, {_SERVICE}-lmtp: none, for gatepost.yml has no `lmtp:`. docs/lmtp.md)"
#: The pipe service in master.cf's template, and what makes it the thin one. As many at once as by LMTP: they wait for the app,
#: and hold little beside their message. -S: nothing of `site` is needed until the script falls back.
_PIPE_SERVICE: Final = re.compile(r"(?ms)^@SERVICE@  unix .*?(?=^$)")
_THIN: Final = (
    ("@SERVICE@  unix  -  n  n  -  10  pipe", "@SERVICE@-thin  unix  -  n  n  -  20  pipe"),
    ("@SERVICE@_time_limit=", "@SERVICE@-thin_time_limit="),
    (" -I @PIPE_SCRIPT@ ", " -I -S @PIPE_SCRIPT@ --socket=@SOCKET@ --fallback=@FALLBACK@ --deadline=@DEADLINE@\n    "),
)
#: Postfix's defaults in seconds, below which the fragment does not go.
_MINIMAL_BACKOFF: Final = 300
_MAXIMAL_BACKOFF: Final = 4_000
#: Seconds by which the first retry comes after the lease.
_BACKOFF_MARGIN: Final = 60

_PLACEHOLDER = re.compile(r"@([A-Z_]+)@")
_KEY = re.compile(r"%\{key\}|%s")
#: What POSIX extended expressions give a meaning, and the table's own delimiter.
_SPECIAL = re.compile(r"([.\[\]{}()\\*+?|^$/])")

#: What a value may be made of. Postfix splits at white space and commas, and expands $ and {.
_PATH = re.compile(r"/[^\s\x00-\x1f\x7f${},\"']*")
_NAME = re.compile(r"[a-z_][a-z0-9_-]*")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[A-Za-z0-9!#%&'*+/=?^_`|~.-]+@[A-Za-z0-9.-]+")


def template_folder() -> Path:
    """Where the fragments lie: postfix/ of a checkout, or share/gatepost/postfix of the environment that holds the package.

    Raises FileNotFoundError, with every folder it looked in, where there are none.
    """
    root = Path(__file__).resolve().parent.parent
    prefixes = [Path(sysconfig.get_path("data")), Path(sys.prefix), *root.parents[2:3], root]
    folders = [root / "postfix", *(prefix / "share" / "gatepost" / "postfix" for prefix in dict.fromkeys(prefixes))]
    for folder in folders:
        if all((folder / name).is_file() for name in FRAGMENTS):
            return folder
    raise FileNotFoundError(f"the Postfix fragments are in none of {', '.join(map(str, folders))}: install gatepost again")


def recipient_pattern(address: str) -> str:
    """A route's address as an anchored POSIX extended expression, without delimiters; `%{key}` and `%s` as `[^@]+`.

    `Reply+%{key}@in.example.com` gives `^reply\\+[^@]+@in\\.example\\.com$`; regexp tables ignore case. Postfix looks up the
    local part unquoted, so a local part that is configured with quotes loses them here. ValueError for what is no address.
    """
    local, at, domain = address.rpartition("@")
    if not at or not local or not _HOST.fullmatch(domain):
        raise ValueError(f"{address!r} is not a route's address (local part, @, domain)")
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    if not local.isprintable() or "@" in local:
        raise ValueError(f"{address!r}: the local part may hold neither @ nor control characters")
    return "^" + "[^@]+".join(map(_literal, _KEY.split(local.lower()))) + "@" + _literal(domain.lower()) + "$"


def render(
    settings: Settings,
    *,
    python: str,
    pipe_script: str,
    config: str,
    person: str,
    host: str,
    folder: str,
    user: str = "gatepost",
    queue_directory: str = QUEUE_DIRECTORY,
    message_size_limit: int = MESSAGE_SIZE_LIMIT,
) -> dict[str, str]:
    """The fragments filled in: file name -> text, in the order of `FRAGMENTS`.

    `python`, `pipe_script`, `config` are absolute paths that `user` can reach; `person` is the address, on another host, that
    has mail for postmaster and abuse; `host` is Postfix's myhostname; `folder` is the absolute path where the three maps will
    lie; `queue_directory` is Postfix's; `message_size_limit` counts bytes as they travel. Raises ValueError for a value that
    Postfix would take apart (white space, quotes, `$`, braces, commas) or that cannot work, with its name, and
    FileNotFoundError without the fragments.
    """
    _check(_PATH, python=python, pipe_script=pipe_script, config=config, folder=folder, queue_directory=queue_directory)
    _check(_ADDRESS, person=person)
    _check(_HOST, host=host)
    _check(_NAME, user=user)
    if user in {"root", "postfix"}:
        raise ValueError(f"user: pipe(8) runs no command as {user}")
    domains = tuple(dict.fromkeys(route.address.rpartition("@")[2].lower() for route in settings.routes))
    if message_size_limit <= 0:
        raise ValueError(f"message_size_limit: {message_size_limit} is no limit (wanted: bytes, more than 0)")
    if not domains:
        raise ValueError("the configuration has no routes: there is nothing to wire")
    if person.rpartition("@")[2].lower() in {*domains, host.lower(), "localhost"}:
        raise ValueError(f"person: {person!r} is no mailbox, for this wiring delivers nothing on this host: name one elsewhere")
    timing = settings.timing
    backoff = max(_MINIMAL_BACKOFF, ceil(timing.lease) + _BACKOFF_MARGIN)
    values = {
        "SERVICE": _SERVICE,
        "DOMAINS": ", ".join(domains),
        "FOLDER": folder.rstrip("/"),
        "RECIPIENTS": "\n".join(dict.fromkeys(_recipient_line(route.address) for route in settings.routes)),
        "PERSON": person,
        "ROLE_DOMAINS": "|".join(map(_literal, dict.fromkeys((*domains, host.lower())))),
        "HOST_MAIL": _host_mail(host.lower(), domains, person),
        "REFUSALS": "|".join(_refusals()),
        "USER": user,
        "PYTHON": python,
        "PIPE_SCRIPT": pipe_script,
        "CONFIG": config,
        "DEADLINE": f"{timing.deadline:g}",
        "TIME_LIMIT": str(ceil(timing.deadline) + _TIME_LIMIT_MARGIN),
        "LEASE": f"{timing.lease:g}",
        "BACKOFF": str(backoff),
        "SIZE_LIMIT": str(message_size_limit),
        "MAX_BACKOFF": str(max(_MAXIMAL_BACKOFF, backoff)),
        "GIVE_UP_AFTER": f"{timing.give_up_after:.10g}",
        "QUEUE_LIFETIME": str(ceil(timing.queue_lifetime)),
        "MILTER": _milter(settings.milter, queue_directory),
        "TRANSPORT": _transport(settings.lmtp, queue_directory),
        "WARM_LIMITS": _WARM_LIMITS if settings.lmtp is not None else _NO_LMTP,
    }
    folder_of = template_folder()
    templates = {name: (folder_of / name).read_text(encoding="utf-8") for name in FRAGMENTS}
    values["WARM_SERVICES"] = _warm_services(settings, templates["master.cf"], values)
    return {name: _fill(template, values) for name, template in templates.items()}


def milter_endpoint(socket: str, queue_directory: str = QUEUE_DIRECTORY, *, name: str = "milter.socket") -> str:
    """`milter.socket` or `lmtp.socket` as Postfix writes it: `unix:PATH` or `inet:HOST:PORT`.

    A socket below the queue folder becomes a path relative to it, which Postfix finds with a chroot and without. Any other
    keeps its path, which only a service without a chroot finds. Raises ValueError for a path that Postfix would take apart.
    """
    kind, _, rest = socket.partition(":")
    if kind == "inet":
        port, _, host = rest.partition("@")
        return f"inet:[{host}]:{port}" if ":" in host else f"inet:{host}:{port}"
    _check(_PATH, **{name: rest})
    return f"unix:{rest.removeprefix(queue_directory.rstrip('/') + '/')}"


def _milter(milter: MilterSettings | None, queue_directory: str) -> str:
    """The setting that names our milter, alone; without one a remark."""
    if milter is None:
        return "# (smtpd_milters: none, for gatepost.yml has no `milter:`. docs/wiring.md, The milter)"
    endpoint = milter_endpoint(milter.socket, queue_directory)
    return f"smtpd_milters = {{{endpoint}, {_MILTER_TIMES}, default_action={milter.default_action}}}"


def _transport(lmtp: LmtpSettings | None, queue_directory: str) -> str:
    """Where the mail goes: the one setting in which the wirings differ."""
    if lmtp is None or lmtp.wiring == "pipe":
        return f"{_SERVICE}:"
    if lmtp.wiring == "thin":
        return f"{_SERVICE}-thin:"
    return f"{_SERVICE}-lmtp:{milter_endpoint(lmtp.socket, queue_directory, name='lmtp.socket')}"


def _warm_services(settings: Settings, master: str, values: dict[str, str]) -> str:
    """The two services that need the warm process; without one a remark."""
    lmtp = settings.lmtp
    if lmtp is None:
        return _NO_LMTP
    path = lmtp.socket.removeprefix("unix:")
    _check(_PATH, **{"lmtp.socket": path})
    pipe_service = _PIPE_SERVICE.search(master)
    assert pipe_service, "the template has the pipe service"
    thin = pipe_service[0]
    for old, new in _THIN:
        thin = thin.replace(old, new)
    return f"{_fill(thin, {**values, 'SOCKET': path, 'FALLBACK': lmtp.fallback})}\n{_lmtp_service(settings)}"


def _lmtp_service(settings: Settings) -> str:
    """The service in which Postfix itself speaks to the warm process."""
    longest = ceil(settings.timing.deadline) + _TIME_LIMIT_MARGIN
    options = ("lmtp_line_length_limit=0", "lmtp_send_xforward_command=yes", f"lmtp_data_done_timeout={longest}s")
    return f"{_SERVICE}-lmtp  unix  -  -  n  -  20  lmtp" + "".join(f"\n    -o {option}" for option in options)


def _fill(template: str, values: dict[str, str]) -> str:
    """The template with every @NAME@ replaced; KeyError for a name that has no value."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _literal(text: str) -> str:
    """Text as an expression that matches nothing else."""
    return _SPECIAL.sub(r"\\\1", text)


def _recipient_line(address: str) -> str:
    return f"/{recipient_pattern(address)}/  OK"


def _host_mail(host: str, domains: tuple[str, ...], person: str) -> str:
    """The line for mail to this host's own name; none where that name is a route's domain, whose addresses are the routes'."""
    if host in domains:
        return f"# (none: {host} is a route's domain)"
    return f"/^[^@]+@{_literal(host)}$/  {person}"


def _refusals() -> list[str]:
    """The codes of the rules that may refuse, as expressions without the leading `5.`: RFC 3463 subject and detail."""
    return sorted({_literal(rule.status[2:]) for rule in RULES.values() if rule.status.startswith("5.")})


def _check(form: re.Pattern[str], **values: str) -> None:
    for name, value in values.items():
        if not form.fullmatch(value):
            raise ValueError(f"{name}: {value!r} cannot stand in a Postfix file (wanted: {_WANTED[form]})")


_WANTED: Final = {
    _PATH: "an absolute path without white space, quotes, commas, $ or braces",
    _NAME: "the name of a system user",
    _HOST: "a host name",
    _ADDRESS: "one mail address, no quoted local part",
}
