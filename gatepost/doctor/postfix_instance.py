"""One Postfix instance as its own commands tell it: parameters, services, look-ups in its tables.

Promises: every command is bounded in time; a table is asked by postmap(1), so the answer is the one that Postfix gets; a
failure is a `PostfixError` with what the command said.
Never: changes a Postfix, sends it mail, or reads its files where a command tells the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["SCRIPT", "Instance", "PostfixError", "Service", "find", "program", "seconds", "service_of", "words"]

#: What the argv of a service that hands messages to gatepost ends its second or third word with.
SCRIPT: Final = os.path.join("gatepost_filter", "pipe.py")
#: Where Postfix's commands are, whatever the PATH of the person says.
_PATH: Final = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin:/bin"
#: Seconds for one command; they answer in milliseconds, but a table may ask a server.
_PATIENCE: Final = 20
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
#: The unit of a time that is written without one (postconf(5)); seconds for the others.
_DEFAULT_UNITS: Final = {"maximal_queue_lifetime": "d", "bounce_queue_lifetime": "d", "delay_warning_time": "h"}
#: Numbers of the fields of a master.cf line (master(5)).
_NAME, _TYPE, _UNPRIVILEGED, _CHROOT, _COMMAND = 0, 1, 3, 4, 7


class PostfixError(Exception):
    """A command of Postfix failed; the text is what it said."""


class Service(Value):
    """One line of master.cf. `attributes`: what stands before `argv=` (flags, user, null_sender). `argv`: the command."""

    name: str
    kind: str
    unprivileged: str
    chroot: str
    command: str
    attributes: dict[str, str]
    argv: tuple[str, ...]

    @property
    def options(self) -> dict[str, str]:
        """`--name=value` words of the command, by name."""
        return dict(word[2:].split("=", 1) for word in self.argv if word.startswith("--") and "=" in word)

    @property
    def script(self) -> str:
        """Our transport script's path, "" where the command is another."""
        return next((word for word in self.argv if word.endswith(SCRIPT)), "")


class Instance(Value):
    """`folder`: the configuration folder. `parameters`: all of them, expanded. `overrides`: (service, name) -> value of -o.

    `complaints`: what postconf(1) warned of.
    """

    folder: str
    parameters: dict[str, str]
    services: tuple[Service, ...]
    overrides: dict[tuple[str, str], str]
    complaints: tuple[str, ...]

    def parameter(self, name: str, service: str = "") -> str:
        """A parameter as the service sees it; "" where it is empty or this release does not know it."""
        return self.overrides.get((service, name), self.parameters.get(name, ""))

    def look_up(self, tables: str, *keys: str) -> str:
        """The first answer of these tables to these keys, in Postfix's order: every table for one key, then the next key.

        "" where none has an answer. Raises PostfixError for a table that cannot be asked.
        """
        for key in keys:
            for table in words(tables):
                found = self._postmap(table, key)
                if found:
                    return found
        return ""

    def _postmap(self, table: str, key: str) -> str:
        status, said, complaint = run("postmap", "-c", self.folder, "-q", key, table)
        known = {each.partition(": warning: ")[2] for each in self.complaints}  # about main.cf, from every command
        new = [line for line in complaint.splitlines() if line.partition(": warning: ")[2] not in known - {""}]
        if new or status > 1:
            raise PostfixError(f"{table}: {'; '.join(new) or f'postmap: exit status {status}'}")
        return said.strip()

    def lists(self, value: str, domain: str) -> bool:
        """Whether a list of domains, files and tables names this one (postconf(5), "domain list")."""
        for word in words(value):
            if word.startswith("/"):
                with open(word, encoding="utf-8", errors="replace") as file:
                    if any(self.lists(line, domain) for line in file if not line.startswith("#")):
                        return True
            elif ":" in word and not word.startswith("["):
                if self.look_up(word, domain):
                    return True
            elif word.lower() == domain:
                return True
        return False

    def seconds(self, name: str, service: str = "") -> float:
        """A time; PostfixError for a value that is none."""
        return seconds(self.parameter(name, service), name)

    def command(self, text: str) -> str:
        """A command of Postfix's for a person to type, for this instance."""
        name, _, rest = text.partition(" ")
        return text if self.folder == "/etc/postfix" else f"{name} -c {self.folder} {rest}"

    def setting(self, assignment: str) -> str:
        """The commands that set a parameter of main.cf."""
        change = self.command(f"postconf -e '{assignment}'")
        return f"{change} && {self.command('postfix reload')}"


def find(folder: str, config: str, domains: tuple[str, ...]) -> Instance | None:
    """The instance in `folder`; where that is "", the one that runs our script with `config`, else the one whose virtual
    mailbox domains have one of `domains`, else the host's default.

    Looked at are the default instance and, as root, those that run. None: there is no Postfix. Raises PostfixError.
    """
    if folder:
        return _read(folder)
    if program("postconf") is None:
        return None
    status, said, _ = run("postconf", "-h", "config_directory")
    default = said.strip() if status == 0 else "/etc/postfix"
    found = []
    for each in (default, *(other for other in _running() if other != default)):
        with suppress(PostfixError):
            found.append(_read(each))
    for instance in found:
        if service_of(instance, config) is not None:
            return instance
    for instance in found:
        with suppress(PostfixError, OSError):
            if any(instance.lists(instance.parameter("virtual_mailbox_domains"), domain) for domain in domains):
                return instance
    return _read(default) if os.path.exists(os.path.join(default, "main.cf")) else None


def service_of(instance: Instance, config: str) -> Service | None:
    """The service that runs our script with this configuration."""
    for service in instance.services:
        given = service.options.get("config", "")
        if service.script and given and os.path.realpath(given) == os.path.realpath(config):
            return service
    return None


def _running() -> list[str]:
    """The configuration folders of the masters that run: master(8) has MAIL_CONFIG in its environment. Only root sees them."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/comm", "rb") as file:
                if file.read().strip() != b"master":
                    continue
            with open(f"/proc/{name}/environ", "rb") as file:
                given = dict(each.partition(b"=")[::2] for each in file.read().split(b"\0"))
        except OSError:
            continue
        folder = os.fsdecode(given.get(b"MAIL_CONFIG", b""))
        if folder.startswith("/"):
            found.append(folder)
    return sorted(set(found))


def _read(folder: str) -> Instance:
    """Everything that three commands tell. Raises PostfixError where one fails: Postfix itself would not start then."""
    parameters, complaints = _told("-x", folder)
    services, more = _told("-M", folder)
    overrides, yet_more = _told("-Px", folder)
    made = {}
    for line in overrides:
        path, _, value = line.partition(" =")  # an empty value has no blank behind it
        service, _, rest = path.partition("/")
        made[service, rest.partition("/")[2]] = value.strip()
    return Instance(
        folder=os.path.abspath(folder),
        parameters={name.strip(): value.strip() for name, _, value in (line.partition("=") for line in parameters)},
        services=tuple(parse_service(line) for line in services),
        overrides=made,
        complaints=tuple(dict.fromkeys((*complaints, *more, *yet_more, *_told("-n", folder)[1]))),
    )


def _told(option: str, folder: str) -> tuple[list[str], list[str]]:
    status, said, complaint = run("postconf", "-c", folder, option)
    if status:
        raise PostfixError(complaint or f"postconf {option}: exit status {status}")
    return [line for line in said.splitlines() if line.strip()], complaint.splitlines()


def parse_service(line: str) -> Service:
    """One line of master.cf, continuation lines joined. Never raises: what is missing is ""."""
    fields = line.split()
    fields += [""] * (_COMMAND + 1 - len(fields))
    rest = fields[_COMMAND + 1 :]
    while rest[:1] == ["-o"]:
        rest = rest[2:]
    at = next((number for number, word in enumerate(rest) if word.startswith("argv=")), len(rest))
    before, argv = rest[:at], tuple(rest[at:])
    return Service(
        name=fields[_NAME],
        kind=fields[_TYPE],
        unprivileged=fields[_UNPRIVILEGED],
        chroot=fields[_CHROOT],
        command=fields[_COMMAND],
        attributes=dict(word.partition("=")[::2] for word in before),
        argv=(argv[0][5:], *argv[1:]) if argv else (),
    )


def words(value: str) -> list[str]:
    """A list in main.cf: white space and commas separate."""
    return value.replace(",", " ").split()


def seconds(text: str, name: str) -> float:
    """A time as postconf(5) has it. Raises PostfixError."""
    number, unit = text.strip(), _DEFAULT_UNITS.get(name, "s")
    if number[-1:].lower() in _UNITS:
        number, unit = number[:-1], number[-1].lower()
    if not number.isdigit():
        raise PostfixError(f"{name} = {text}: is no time")
    return float(int(number) * _UNITS[unit])


def program(name: str) -> str | None:
    """The path of one of Postfix's commands."""
    return shutil.which(name, path=_PATH)


def run(name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error. Raises PostfixError where it is not there or does not end."""
    path = program(name)
    if path is None:
        raise PostfixError(f"{name} is not in {_PATH}")
    try:
        done = subprocess.run(  # noqa: S603 - Postfix's own commands
            [path, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
            timeout=_PATIENCE,
            check=False,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise PostfixError(f"{name} {' '.join(arguments)}: did not end in {_PATIENCE} s") from error
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace").strip()
