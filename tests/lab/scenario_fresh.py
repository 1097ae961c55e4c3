"""A bare host becomes a mail host: what the playbook says, what it leaves behind.

Promises: `--check` is run before anything is there, and changes nothing; the second run and `--check --diff` find nothing to do; a secret is
looked for in every file and every log.
Never: takes Ansible's word alone for what is on the host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tests.lab.fixtures import read_secrets
from tests.lab.places import ADDRESSES, HOST_DOMAIN

if TYPE_CHECKING:
    from tests.lab.course import Course
    from tests.lab.guest import Guest

__all__ = ["check_first", "converge", "files_with", "fresh", "secrets_kept", "settled", "units"]

#: What a host is made of: packages, users, every file's checksum below these folders, and what systemd has enabled.
_STATE: Final = (
    "dpkg-query -W; cat /etc/passwd /etc/group; systemctl list-unit-files --no-legend; "
    "find /etc /opt /srv /var/lib /usr/local -xdev -type f ! -path '/var/lib/systemd/*' ! -path '/srv/*' ! -path '/var/lib/apt/*' "
    "-exec sha256sum {} + 2>/dev/null | sort -k 2"
)
#: systemd's own measure of how much of the system a unit can reach: 0.0 nothing, 10.0 everything.
_EXPOSED: Final = 2.0


def fresh(course: Course) -> None:
    """mx1 and mx2, from nothing."""
    hosts = ("mx1", "mx2")
    check_first(course, *hosts)
    output = converge(course, *hosts)
    settled(course, *hosts)
    for name in hosts:
        guest = course.world.guest(name)
        units(course, guest)
        secrets_kept(course, guest, output)
    _records(course)


def check_first(course: Course, *hosts: str, records: bool = True) -> None:
    """On a fresh host `--check` comes to its end, and changes nothing."""
    before = {name: course.world.guest(name).run("sh", "-c", _STATE) for name in hosts}
    played = course.controller.play(hosts, "--check", "--diff", *_without(records))
    if not course.expect("--check on a fresh host: exit status", played.status, 0):
        course.note(played.output[-3000:])
    for name in hosts:
        recap = played.recaps.get(name)
        course.hold(f"{name}: --check sees work to do", bool(recap and recap.changed), f"actual {recap}")
        course.expect(
            f"{name}: --check changed", _difference(before[name], course.world.guest(name).run("sh", "-c", _STATE)), []
        )


def converge(course: Course, *hosts: str, records: bool = True) -> str:
    """The playbook; its output."""
    played = course.controller.converge(hosts, *_without(records))
    for name in hosts:
        recap = played.recaps[name]
        course.expect(f"{name}: failed, unreachable", (recap.failed, recap.unreachable), (0, 0))
        course.hold(f"{name}: the first run changes the host", recap.changed > 0, f"actual {recap}")
    return played.output


def settled(course: Course, *hosts: str, records: bool = True) -> None:
    """A second run changes nothing, and `--check --diff` shows nothing."""
    for arguments in ((), ("--check", "--diff")):
        played = course.controller.play(hosts, *arguments, *_without(records))
        said = " ".join(arguments) or "second run"
        course.expect(f"{said}: exit status", played.status, 0)
        for name in hosts:
            recap = played.recaps.get(name)
            if not course.expect(f"{name}: {said}: changed", recap and recap.changed, 0):
                course.note(_changed(played.output))
        course.expect(f"{said}: lines of a diff", re.findall(r"^(?:---|\+\+\+|@@).*", played.output, re.MULTILINE), [])


def _without(records: bool) -> tuple[str, ...]:
    """A host that no MX leads to is played without the role mx."""
    return () if records else ("--skip-tags", "mx")


def units(course: Course, guest: Guest) -> None:
    names = re.findall(
        r"^(gatepost\S*\.(?:service|timer))",
        guest.run("systemctl", "list-unit-files", "--no-legend", "gatepost*"),
        re.MULTILINE,
    )
    course.hold(f"{guest.name}: units of ours", {"gatepost-milter.service"} < set(names), f"actual {names}")
    course.expect(f"{guest.name}: systemd", guest.try_run("systemctl", "is-system-running").strip(), "running")
    for unit in ("gatepost-milter.service", *(each for each in names if each.endswith(".timer")), "postfix.service"):
        said = guest.try_run("systemctl", "is-active", unit).strip(), guest.try_run("systemctl", "is-enabled", unit).strip()
        course.expect(f"{guest.name}: {unit}", said, ("active", "enabled"))
    for unit in names:
        if unit.endswith(".service"):
            told = re.search(
                r"exposure level for \S+: ([\d.]+)", guest.try_run("systemd-analyze", "security", "--no-pager", unit)
            )
            level = float(told[1]) if told else 10.0
            course.hold(
                f"{guest.name}: systemd-analyze security {unit}",
                level <= _EXPOSED,
                f"expected at most {_EXPOSED}; actual {level}",
            )
    course.expect(
        f"{guest.name}: postfix check", guest.try_run("sh", "-c", "postfix check 2>&1; postconf -n 2>&1 >/dev/null"), ""
    )


def secrets_kept(course: Course, guest: Guest, output: str) -> None:
    """No secret that mints keys where others read, in a log, or in what Ansible said."""
    for name, secret in read_secrets(course.world.places).items():
        if name == "tsig":
            course.none(f"{guest.name}: files with the DNS key", files_with(guest, secret))
        else:
            found = files_with(guest, secret)
            course.hold(f"{guest.name}: {name} is kept on the host", "/etc/gatepost/secrets.yml" in found, f"actual {found}")
            modes = {path: guest.run("stat", "-c", "%a %U", path).strip() for path in found}
            course.expect(
                f"{guest.name}: who may read {name}", {path: mode for path, mode in modes.items() if mode != "600 gatepost"}, {}
            )
        journal = guest.run("sh", "-c", 'journalctl -q -o cat --no-pager | grep -cF -- "$0" || :', secret)
        course.expect(f"{guest.name}: lines of the journal with {name}", journal.strip(), "0")
        course.expect(f"{guest.name}: Ansible's output with {name}", secret in output, False)


def files_with(guest: Guest, text: str) -> list[str]:
    """Every regular file with that text; the lab's own folders and the kernel's are left out."""
    found = guest.try_run("grep", "-rlsF", "--exclude-dir=repo", "--exclude-dir=wheels", "--", text, "/etc", "/opt", "/root", "/home", "/srv", "/tmp",
                          "/usr/local", "/var", timeout=120)  # fmt: skip
    return [line for line in found.splitlines() if not line.startswith("/var/log/journal/")]


def _records(course: Course) -> None:
    """What the name server says after the role mx, in the order of preference."""

    def ask(name: str, kind: str) -> list[str]:
        text = course.world.guest("dns").run("dig", "+short", "@127.0.0.1", name, kind)
        return sorted(text.lower().splitlines())

    course.expect("MX", ask(HOST_DOMAIN, "MX"), [f"10 mx1.{HOST_DOMAIN}.", f"20 mx2.{HOST_DOMAIN}."])
    for name in ("mx1", "mx2"):
        course.expect(f"{name} A", ask(f"{name}.{HOST_DOMAIN}", "A"), [ADDRESSES[name].ipv4])
        course.expect(f"{name} AAAA", ask(f"{name}.{HOST_DOMAIN}", "AAAA"), [ADDRESSES[name].ipv6])
    course.expect("SPF", [each for each in ask(HOST_DOMAIN, "TXT") if "spf1" in each], ['"v=spf1 -all"'])


def _difference(before: str, after: str) -> list[str]:
    return sorted(set(before.splitlines()) ^ set(after.splitlines()))


def _changed(output: str) -> str:
    """The tasks that said `changed`."""
    found, task = [], ""
    for line in output.splitlines():
        if line.startswith(("TASK", "RUNNING HANDLER")):
            task = line
        elif line.startswith("changed:"):
            found.append(f"{task.rstrip('* ')} {line}")
    return "\n".join(found)
