"""An update while 20 messages a second come in: a new release, a broken one, a broken variable.

Promises: every message of the load is looked for at the app, by its own Message-ID; what is in force is read on the host.
Never: counts a message as lost before its sender has tried again.
"""

from __future__ import annotations

import json
import subprocess
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final

from tests.lab.fixtures import STRANGER
from tests.lab.machine import wait_for
from tests.lab.post import new_mail
from tests.lab.trees import change, copy_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.course import Course

__all__ = ["update"]

#: Messages a second, and at most in all.
_RATE: Final = 20
_MOST: Final = 2400
_STOP: Final = "/opt/lab/stop"
_HOSTS: Final = ("mx1", "mx2")
#: Seconds for what has piled up meanwhile to be worked off.
_WORKED_OFF: Final = 600.0


class _Load:
    """Mail at a steady rate, from a thread; ends at a file."""

    def __init__(self, course: Course) -> None:
        self._course, self.mark, self.ids = course, uuid.uuid4().hex[:8], list[str]()
        self._sender = course.world.guest("sender")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error = ""

    def _run(self) -> None:
        address = self._course.post.address("load")
        text = (
            new_mail(address)
            .data.decode()
            .replace("Message-ID: <", "X-Was: <", 1)
            .replace("Subject:", "Message-ID: {message_id}\nSubject:", 1)
        )
        job = {
            "rate": _RATE,
            "most": _MOST,
            "mark": self.mark,
            "stop": _STOP,
            "sender": STRANGER,
            "recipient": address,
            "text": text,
        }
        try:
            self.ids = json.loads(self._sender.run("python3", "/opt/lab/client.py", "pace", stdin=json.dumps(job), timeout=900))
        except (Exception, subprocess.TimeoutExpired) as error:
            self.error = str(error)

    def __enter__(self) -> _Load:
        self._sender.run("rm", "-f", _STOP)
        self._thread.start()
        wait_for(lambda: self.arrived() or self.error, what="the first message of the load")
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.run("touch", _STOP)
        self._thread.join(60)

    def arrived(self) -> dict[str, int]:
        """Copies at the app by Message-ID; one hand-over that came twice under one id counts once."""
        text = self._course.world.guest("app").try_run("grep", "-sF", self.mark, "/var/lib/app/received.jsonl", timeout=60)
        seen = {(line["id"], line["message_id"]) for line in map(json.loads, text.splitlines())}
        found: dict[str, int] = {}
        for _, message_id in seen:
            found[message_id] = found.get(message_id, 0) + 1
        return found


def update(course: Course) -> None:
    """Under load: a new release comes into use; a broken one and a broken variable do not; then all is counted."""
    new, broken = copy_tree(course.world.places, "new"), copy_tree(course.world.places, "broken")
    change(new, "gatepost/__init__.py", '"""', '"""A new release. ')
    change(broken, "filter/gatepost_filter/pipe.py", "import posix\n", "import no_such_module\nimport posix\n")
    with _Load(course) as load:
        before = _in_force(course)
        _play(course, new, 0)
        after = _in_force(course)
        for name in _HOSTS:
            course.hold(
                f"{name}: a new release is in use",
                after[name]["release"] != before[name]["release"],
                f"still {after[name]['release']}",
            )
        _play(course, broken, 2)
        course.expect("after a broken release: what is in force", _in_force(course), after)
        _play(course, new, 2, gatepost_config={"timing": {"deadline": "soon"}})
        course.expect("after a broken variable: what is in force", _in_force(course), after)
    course.expect("the load itself", load.error, "")
    course.hold("messages of the load", len(load.ids) >= 20 * _RATE, f"expected at least {20 * _RATE}; actual {len(load.ids)}")
    # Behind it Postfix would wait for minutes, and strangers for hours: what is left is tried again at once.
    wait_for(
        lambda: not [host for host in ("sender", *_HOSTS) if not course.post.worked_off(host)],
        timeout=_WORKED_OFF,
        every=2,
        what="the load to be worked off",
    )
    found = load.arrived()
    course.expect("messages of the load that the app has not", sorted(set(load.ids) - set(found)), [])
    course.expect("messages of the load that the app has twice", [each for each, copies in found.items() if copies > 1], [])
    log = course.world.guest("sender").try_run(
        "sh", "-c", "journalctl -q --facility=mail -o cat | grep -c 'to=<reply+.*status=bounced.*load' || :"
    )
    course.expect("bounced", log.strip(), "0")
    course.expect("waiting anywhere", _waiting(course), 0)
    course.note(f"{len(load.ids)} messages at {_RATE} a second")


def _play(course: Course, tree: Path, status: int, **variables: Any) -> None:
    course.controller.tree = tree
    try:
        played = course.controller.play(_HOSTS, "--skip-tags", "mx", variables=variables)
    finally:
        course.controller.tree = course.checkout
    what = f"the playbook of {tree.name}{' with ' + ', '.join(variables) if variables else ''}: exit status"
    course.expect(what, played.status, status)


def _in_force(course: Course) -> dict[str, dict[str, str]]:
    """Of each host: the release in use, the configuration's checksum, what runs."""
    return {
        name: {
            "release": guest.run("readlink", "-f", "/opt/gatepost/current").strip(),
            "configuration": guest.run(
                "sha256sum", "/etc/gatepost/gatepost.yml", "/etc/postfix/main.cf", "/etc/postfix/master.cf"
            ),
            "milter": guest.try_run("systemctl", "is-active", "gatepost-milter").strip(),
            "postfix": guest.try_run("systemctl", "is-active", "postfix").strip(),
        }
        for name, guest in ((name, course.world.guest(name)) for name in _HOSTS)
    }


def _waiting(course: Course) -> int:
    return sum(course.post.queue(host) for host in ("sender", *_HOSTS))
