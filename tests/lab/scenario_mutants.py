"""Roles with a mistake in them: the figure that is there for that mistake must be the one that is wrong.

Promises: each mutant is made in a copy; the same functions look that look at the roles as they are, and find nothing wrong there; a
mutant that is not found is an error of the lab.
Never: takes another figure's failure for the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.lab.course import Course, Verdict
from tests.lab.machine import LabError, wait_for
from tests.lab.post import new_mail
from tests.lab.scenario_delivery import whole_keys
from tests.lab.scenario_door import hand, ports, relay
from tests.lab.scenario_fresh import secrets_kept, settled
from tests.lab.scenario_outage import rebooted
from tests.lab.scenario_update import counted
from tests.lab.trees import change, copy_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["mutants"]

_HOST: Final = "r2"
_ROLES: Final = "ansible/roles"


@dataclass(frozen=True)
class _Mutant:
    """A mistake, who looks for it, and the beginning of the line that must say so. `changes`: (file, old, new)."""

    id: str
    changes: tuple[tuple[str, str, str], ...]
    look: Callable[[Course, str], None]
    says: str


def _settled(course: Course, output: str) -> None:
    settled(course, _HOST, records=False)


def _ports(course: Course, output: str) -> None:
    ports(course, (_HOST,))


def _reboot(course: Course, output: str) -> None:
    rebooted(course, _HOST)


def _secrets(course: Course, output: str) -> None:
    secrets_kept(course, course.world.guest(_HOST), output)


def _relay(course: Course, output: str) -> None:
    relay(course, _HOST)


def _keys(course: Course, output: str) -> None:
    mails, since = [new_mail(course.post.address(f"case-{number}")) for number in range(3)], course.post.now()
    hand(course, _HOST, *mails)
    course.post.wait_arrivals(mails)
    whole_keys(course, _HOST, mails, since)


def _count(course: Course, output: str) -> None:
    mails = [new_mail(course.post.address(f"case-{number}")) for number in range(20)]
    hand(course, _HOST, *mails)
    wait_for(lambda: course.post.worked_off(_HOST), timeout=60, what=f"{_HOST}'s queue to be empty")
    counted(course, {mail.message_id for mail in mails}, course.post.arrivals(mails))


#: A task in front of the role's first one.
_FIRST: Final = "- name: Wire gatepost to Postfix\n"
_MUTANTS: Final = (
    _Mutant("a task that always changes",
            ((f"{_ROLES}/postfix/tasks/main.yml", _FIRST, "- name: Mutant\n  ansible.builtin.command: {argv: [touch, /root/mutant]}\n\n" + _FIRST),),
            _settled, f"{_HOST}: second run: changed"),
    _Mutant("port 25 left shut", ((f"{_ROLES}/postfix/defaults/main.yml", "- {port: 25, rate", "- {port: 26, rate"),), _ports, f"{_HOST}: open ports of"),
    _Mutant("nftables not enabled at boot",
            ((f"{_ROLES}/firewall/tasks/nftables.yml", "    name: nftables.service\n    enabled: true", "    name: nftables.service\n    enabled: false"),),
            _reboot, f"{_HOST}: after the reboot: packet filter"),
    _Mutant("a secret that everybody may read",
            ((f"{_ROLES}/postfix/tasks/main.yml", _FIRST,
              "- name: Mutant\n  ansible.builtin.shell: install -m 0644 /etc/gatepost/secrets.yml /var/lib/mutant\n  changed_when: false\n\n" + _FIRST),),
            _secrets, f"{_HOST}: who may read reply-keys"),
    _Mutant("a minting secret in the log",
            ((f"{_ROLES}/postfix/tasks/main.yml", _FIRST,
              "- name: Mutant\n  ansible.builtin.command: {argv: [logger, '{{ gatepost_secrets | to_json }}']}\n  changed_when: false\n\n" + _FIRST),),
            _secrets, f"{_HOST}: lines of the journal with reply-keys"),
    _Mutant("a secret in what Ansible says",
            ((f"{_ROLES}/postfix/tasks/main.yml", _FIRST, "- name: Mutant\n  ansible.builtin.debug: {var: gatepost_secrets}\n\n" + _FIRST),),
            _secrets, f"{_HOST}: Ansible's output with reply-keys"),
    _Mutant("a whole key in our log",
            (("gatepost/masking.py", "_KEY_SHOWN: Final = 4", "_KEY_SHOWN: Final = 400"),
             ("gatepost/masking.py", 'if len(hidden) > 2 * _KEY_SHOWN else ""', "")),
            _keys, f"{_HOST}: lines of ours with a whole key"),
    _Mutant("an open relay",
            (("postfix/main.cf", "smtpd_relay_restrictions = reject_unauth_destination", "smtpd_relay_restrictions = check_client_access static:OK, reject_unauth_destination"),), _relay, "RCPT TO:<x@example.org> at"),
    _Mutant("a release that loses messages",
            (("gatepost/sinks/webhook.py", "    kind, body = _body(sink, delivery)\n",
              '    if delivery.id[0] in "01234567":\n        return _outcome("delivered", "204")\n    kind, body = _body(sink, delivery)\n'),),
            _count, "messages that the app has not"),
)  # fmt: skip


def mutants(course: Course) -> None:
    """Each alone, on a host as it is after an installation; before them the roles as they are."""
    looks = dict.fromkeys(mutant.look for mutant in _MUTANTS)
    course.expect("no mutant: figures that are wrong", _look(course, course.checkout, looks, "no mutant").wrong, [])
    for number, mutant in enumerate(_MUTANTS):
        tree = copy_tree(course.world.places, f"mutant-{number}")
        for path, old, new in mutant.changes:
            change(tree, path, old, new)
        wrong = _look(course, tree, [mutant.look], mutant.id).wrong
        found = [line for line in wrong if line.startswith(mutant.says)]
        course.hold(f"mutant: {mutant.id}", bool(found), f"no line begins with {mutant.says!r}: {wrong}")
        if found:
            course.note(f"{mutant.id}: found by {found[0].partition(': expected')[0][:100]}, one of {len(wrong)} wrong")


def _look(course: Course, tree: Path, looks: Iterable[Callable[[Course, str], None]], what: str) -> Verdict:
    """A new host, made by the roles of that tree; what these have to say of it."""
    course.world.fresh(_HOST)
    verdict = Verdict()
    course.controller.tree = tree
    try:
        played = course.controller.play((_HOST,), "--skip-tags", "mx")
        if played.status:
            raise LabError(f"{what}: the playbook fails by itself\n{played.output[-2000:]}")
        for look in looks:
            try:
                look(Course(course.world, verdict), played.output)
            except LabError as error:
                verdict.wrong.append(str(error))
    finally:
        course.controller.tree = course.checkout
    return verdict
