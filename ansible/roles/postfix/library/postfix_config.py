#!/usr/bin/python
"""Ansible module: puts gatepost's fragments into main.cf and master.cf, and gives back what was found.

Promises: what is written was first tried by Postfix's own commands in a folder beside it; check mode and diff tell what a real
run would do, on a host without Postfix, too; a second run changes nothing.
Never: runs `postconf -e`, starts or reloads Postfix, or writes a file that Postfix has refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postfix_files import (
    Conflict,
    put_in,
    serves,
    service_key,
    settings,
    take_out,
    with_settings,
)

DOCUMENTATION = r"""
module: postfix_config
short_description: gatepost's fragments in main.cf and master.cf
description:
  - O(mode=own) writes the whole of main.cf, O(head) and below it the fragment. O(mode=beside) puts our domains beside those
    that are there and touches nothing else. master.cf gets our services at its end, either way.
  - What was found is kept in C(gatepost/found) below O(config_directory); O(state=absent) gives it back.
options:
  command:
    description: >-
      C(gatepost postfix) and its options, which prints the fragments. Needed for O(state=present); in check mode it need not be
      installed yet.
    type: list
    elements: str
  head:
    description: With O(mode=own), what stands above the fragment in main.cf.
    type: str
    default: ""
  settings:
    description: Settings of main.cf by name, over everything else. Not those that the fragment has.
    type: dict
    default: {}
  mode:
    description: Whose Postfix it is.
    type: str
    choices: [own, beside]
    default: own
  state:
    description: Whether our mail goes through this Postfix.
    type: str
    choices: [present, absent]
    default: present
  config_directory:
    description: The folder of main.cf.
    type: str
    default: /etc/postfix
  take_over:
    description: Whether to replace the main.cf of a Postfix that serves others.
    type: bool
    default: false
  drop_queue:
    description: With O(state=absent), whether to go on while mail for our domains is in the queue.
    type: bool
    default: false
  allow_smuggling:
    description: Whether to go on with a Postfix that cannot be closed to SMTP smuggling.
    type: bool
    default: false
author: gatepost
"""

EXAMPLES = r"""
- name: Wire gatepost beside other domains
  postfix_config:
    mode: beside
    command: [/opt/gatepost/current/bin/gatepost, postfix, --person=person@example.org, --host=mx.example.com]
"""

RETURN = r"""
restart:
  description: Whether Postfix must be restarted, for a reload does not change where it listens.
  type: bool
  returned: always
as_found:
  description: Whether main.cf and master.cf are now what they were before the first run, to the byte.
  type: bool
  returned: O(state=absent)
notes:
  description: What a person should know.
  type: list
  elements: str
  returned: always
"""

#: What a reload does not change (postconf(5): "Postfix must be stopped and started").
RESTART_FOR = ("inet_interfaces", "inet_protocols")
#: Closes SMTP smuggling (CVE-2023-51764). Debian 12 has it from 3.7.9 on.
SMUGGLING = "smtpd_forbid_bare_newline"
FILES = ("main.cf", "master.cf")


class PostfixConfig:
    """One run of the module. `texts`: what stands in the two files now; a file that is not there has no text."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.folder: str = module.params["config_directory"]
        self.ours = os.path.join(self.folder, "gatepost")
        self.kept = os.path.join(self.ours, "found")
        self.texts = {name: read(os.path.join(self.folder, name)) for name in FILES}
        self.record: dict[str, Any] = json.loads(read(os.path.join(self.kept, "record.json")) or "{}")
        self.notes: list[str] = []
        self.postfix_is_there = bool(module.get_bin_path("postconf"))

    # -- state: present

    def present(self) -> dict[str, Any]:
        """Our mail goes through this Postfix."""
        self._needs_postfix()
        command, mode = self.module.params["command"], self.module.params["mode"]
        if self.module.check_mode and not (os.path.exists(command[0]) and (mode == "own" or self.postfix_is_there)):
            self.notes.append("not everything is installed yet: what gatepost will print for Postfix is not known")
            return {"changed": True, "diff": [], "restart": False}
        if not os.path.exists(command[0]):
            self.module.fail_json(msg=f"{command[0]} is not there: gatepost comes before its Postfix (role gatepost)")
        base = self._base()
        fragments = self._fragments(base["main.cf"] or "")
        main = self._own(base, fragments["main.cf"]) if mode == "own" else self._beside(base, fragments["main.cf"])
        wanted = {"main.cf": main, "master.cf": put_in(base["master.cf"] or "", fragments["master.cf"], service_key)}
        tables = {name: text for name, text in fragments.items() if name not in FILES}
        written = {os.path.join(self.ours, name): text for name, text in tables.items()}
        written |= {os.path.join(self.folder, name): text for name, text in wanted.items()}
        before = {path: read(path) for path in written}
        record = {
            "mode": mode,
            "found": {name: digest(text) for name, text in base.items()} if self._first else self.record["found"],
            "written": {name: digest(text) for name, text in wanted.items()},
        }
        changed = written != before or record != self.record
        if changed and self.postfix_is_there:
            self._try(wanted, tables)
        if changed and not self.module.check_mode:
            if self._first:
                self._keep(base)
            for path, text in written.items():
                self._write(path, text)
            self._write(os.path.join(self.kept, "record.json"), json.dumps(record, indent=1, sort_keys=True) + "\n", 0o600)
        return {"changed": changed, "diff": diffs(before, written), "restart": self._restart(self.texts["main.cf"], main)}

    def _needs_postfix(self) -> None:
        if not self.postfix_is_there:
            if self.module.check_mode:
                self.notes.append("Postfix is not installed yet: what it would say of these files is not known")
                return
            self.module.fail_json(msg="Postfix is not installed: its package comes first (tasks_from: install)")
        _, known, _ = self.module.run_command(["postconf", "-d", SMUGGLING])
        if SMUGGLING in known or self.module.params["allow_smuggling"]:
            return
        _, version, _ = self.module.run_command(["postconf", "-d", "-h", "mail_version"])
        self.module.fail_json(
            msg=f"Postfix {version.strip()} cannot be closed to SMTP smuggling (CVE-2023-51764): a second message, with any"
            f" sender, can hide in a first, for it has no {SMUGGLING}. Upgrade it (3.5.23, 3.6.13, 3.7.9, 3.8.4 or newer;"
            " on Debian: apt-get install --only-upgrade postfix), or set postfix_allow_smuggling to true and know what you do."
        )

    def _base(self) -> dict[str, str | None]:
        """The two files without us: what was found, with what others have changed since."""
        base = {name: None if text is None else take_out(text) for name, text in self.texts.items()}
        if self.record.get("mode") == "own":
            base["main.cf"] = self._kept("main.cf")
        return base

    def _fragments(self, found: str) -> dict[str, str]:
        """What gatepost prints; beside others, for the main.cf that was found."""
        words = [*self.module.params["command"], "--json"]
        if self.module.params["mode"] == "own":
            return self._printed(words)
        with self._scratch({"main.cf": found}) as folder:
            return self._printed([*words, "--beside", f"--postfix-config={folder}"])

    def _printed(self, words: list[str]) -> dict[str, str]:
        status, out, said = self.module.run_command(words)
        if status:
            self.module.fail_json(msg=f"{' '.join(words[:2])} prints no fragments, and nothing was changed: {said.strip()}")
        fragments: dict[str, str] = json.loads(out)
        return fragments

    def _own(self, base: dict[str, str | None], fragment: str) -> str:
        busy = serves(settings(base["main.cf"] or "")) if self._first else []
        if busy and not self.module.params["take_over"]:
            raise Conflict(
                f"this Postfix serves others already ({'; '.join(busy)}), and main.cf would be replaced: set postfix_mode to"
                " beside, or postfix_take_over to true if nobody needs what it does"
            )
        head = with_settings(self.module.params["head"], self._more(fragment))
        twice = sorted(settings(head).keys() & settings(fragment).keys())
        if twice:
            raise Conflict(f"{', '.join(twice)}: gatepost's fragment sets this (docs/wiring.md says why)")
        return f"{head.rstrip()}\n\n{fragment}"

    def _beside(self, base: dict[str, str | None], fragment: str) -> str:
        return put_in(base["main.cf"] or "", with_settings(fragment, self._more(fragment)))

    def _more(self, fragment: str) -> dict[str, str]:
        more = {name: spelled(value) for name, value in self.module.params["settings"].items()}
        taken = sorted(more.keys() & settings(fragment).keys())
        if taken:
            raise Conflict(f"postfix_settings: {', '.join(taken)}: gatepost's fragment sets this (docs/wiring.md says why)")
        return more

    # -- tried before it is written

    @contextmanager
    def _scratch(self, texts: dict[str, str]) -> Any:
        """A copy of Postfix's folder with other files in it."""
        folder = tempfile.mkdtemp(prefix="gatepost-try.", dir=os.path.dirname(self.folder.rstrip("/")))
        try:
            before = os.umask(0o077)  # the copy of a table with passwords is not open to others, not even while it is made
            try:
                shutil.copytree(
                    self.folder,
                    folder,
                    dirs_exist_ok=True,
                    ignore_dangling_symlinks=True,
                    ignore=shutil.ignore_patterns("found"),
                    copy_function=copy_file,
                )
            finally:
                os.umask(before)
            os.chmod(folder, 0o755)  # noqa: S103  # as /etc/postfix is; Postfix's own user reads it
            for name, text in texts.items():
                place = os.path.join(folder, name)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(place, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                    file.write(text.replace(f"{self.ours}/", f"{folder}/gatepost/"))
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _try(self, wanted: dict[str, str], tables: dict[str, str]) -> None:
        """Fails with Postfix's own words where it would not run with these files."""
        texts = wanted | {os.path.join("gatepost", name): text for name, text in tables.items()}
        with self._scratch(texts) as folder:
            commands = [
                ["postconf", "-c", folder, "-n"],
                ["postconf", "-c", folder, "-M"],
                ["postconf", "-c", folder, "-P"],
                *(
                    ["postmap", "-c", folder, "-q", "probe@gatepost.invalid", f"regexp:{folder}/gatepost/{name}"]
                    for name in tables
                    if name.endswith(".regexp")
                ),
                *([] if self.module.check_mode else [["postfix", "-c", folder, "check"]]),  # it mends the queue's folders
            ]
            began = int(time.time())
            for command in commands:
                status, _, said = self.module.run_command(command)
                found_nothing = command[0] == "postmap" and status == 1 and not said
                self._judge(0 if found_nothing else status, said, folder, began)
            # An smtpd on standard input reads every setting of its own, and ends at a wrong one.
            status, out, said = self.module.run_command(["sendmail", "-C", folder, "-bs"], data="QUIT\r\n", binary_data=True)
            self._judge(status or not out.startswith("220 "), f"{out}{said}", folder, began)

    def _judge(self, status: int, said: str, folder: str, began: int) -> None:
        if status:  # without a terminal Postfix tells only the log why
            _, logged, _ = self.module.run_command(["journalctl", "-q", "-o", "cat", f"--since=@{began}", "SYSLOG_FACILITY=2"])
            said += "\n".join(line for line in logged.splitlines() if "fatal:" in line) or "fatal: the mail log says why"
        lines = [line.replace(folder, self.folder) for line in said.splitlines()]
        fatal = [line for line in lines if "fatal:" in line or "error:" in line]
        # A release that does not know the name is told of by _needs_postfix.
        warnings = [line for line in lines if "warning: " in line and "unused parameter: smtpd_forbid" not in line]
        if fatal or (warnings and self.module.params["mode"] == "own"):
            self.module.fail_json(msg="Postfix does not take it, and nothing was changed: " + "; ".join(fatal or warnings))
        self.notes += [line for line in warnings if line not in self.notes]

    @property
    def _first(self) -> bool:
        """Is what is there now what is to be given back? Later runs find our own files."""
        return "found" not in self.record or (self.record["mode"], self.module.params["mode"]) == ("beside", "own")

    def _keep(self, base: dict[str, str | None]) -> None:
        os.makedirs(self.kept, mode=0o700, exist_ok=True)
        for name, text in base.items():
            if text is not None:
                self._write(os.path.join(self.kept, name), text, 0o600)

    def _kept(self, name: str) -> str | None:
        """What was found, if it is still what it was."""
        mark = self.record["found"][name]
        if mark is None:
            return None
        text = read(os.path.join(self.kept, name))
        if text is None or digest(text) != mark:
            raise Conflict(
                f"{self.kept}/{name} is not what was kept there (sha256 {mark}): put the {name} that this host shall have into"
                f" {self.folder} yourself, and delete {self.kept}"
            )
        return text

    # -- state: absent

    def absent(self) -> dict[str, Any]:
        """The files as they were found; what others have changed since stays where it can."""
        self._nobody_waits()
        wanted = self._base()
        before = {os.path.join(self.folder, name): text for name, text in self.texts.items()}
        after = {os.path.join(self.folder, name): wanted[name] for name in FILES}
        edited = self.record.get("mode") == "own" and digest(self.texts["main.cf"]) != self.record["written"]["main.cf"]
        if edited:
            aside = os.path.join(self.folder, "main.cf.edited")
            self.notes.append(f"main.cf was edited since the role wrote it; what it was is now {aside}")
            after[aside] = self.texts["main.cf"]
        tables = sorted(os.listdir(self.ours)) if os.path.isdir(self.ours) else []
        changed = any(read(path) != text for path, text in after.items()) or bool(tables)
        if changed and not self.module.check_mode:
            for path, text in after.items():
                if text is not None:
                    self._write(path, text)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(path)
            shutil.rmtree(self.ours, ignore_errors=True)
        found = self.record.get("found", {})
        return {
            "changed": changed,
            "diff": diffs(before, after),
            "as_found": all(digest(wanted[name]) == mark for name, mark in found.items()),
            "restart": self._restart(self.texts["main.cf"], wanted["main.cf"]),
        }

    def _nobody_waits(self) -> None:
        """Fails while mail for our domains is in the queue: Postfix would bounce it."""
        if not self.record or self.module.params["drop_queue"]:
            return
        if self.record["mode"] == "own":
            domains = settings(self.texts["main.cf"] or "").get("virtual_mailbox_domains", "").replace(",", " ").split()
        else:
            lines = (read(os.path.join(self.ours, "transport")) or "").splitlines()
            domains = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        _, out, _ = self.module.run_command(["postqueue", "-j"])
        entries = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        waiting = [
            entry["queue_id"]
            for entry in entries
            if any(to["address"].rpartition("@")[2].lower() in domains for to in entry["recipients"])
        ]
        if waiting:
            raise Conflict(
                f"{len(waiting)} messages for {', '.join(domains)} wait in this host's queue ({', '.join(waiting[:10])}):"
                " Postfix would bounce them. Let them be delivered (postqueue -f), or set postfix_drop_queue to true."
            )

    # -- small things

    def _restart(self, before: str | None, after: str | None) -> bool:
        old, new = settings(before or ""), settings(after or "")
        return any(old.get(name) != new.get(name) for name in RESTART_FOR)

    def _write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Whole or not at all; a file that is there keeps its owner and mode."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = not os.path.exists(path)
        handle, part = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
        self.module.atomic_move(part, path)
        if new:
            os.chmod(path, mode)


def copy_file(source: str, target: str) -> None:
    """A regular file with its mode; what else lies there (a socket) is not needed."""
    if os.path.isfile(source):
        shutil.copy2(source, target)


def read(path: str) -> str | None:
    """A file's text, any bytes; None for none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def digest(text: str | None) -> str | None:
    """SHA-256, by which a kept copy is known again."""
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def spelled(value: Any) -> str:
    """A YAML value as main.cf has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def diffs(before: dict[str, str | None], after: dict[str, Any]) -> list[dict[str, str]]:
    """For --diff: each file that changes."""
    return [
        {"before_header": path, "after_header": path, "before": before.get(path) or "", "after": text or ""}
        for path, text in after.items()
        if before.get(path) != text
    ]


def main() -> None:
    """One run."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str"},
            "head": {"type": "str", "default": ""},
            "settings": {"type": "dict", "default": {}},
            "mode": {"type": "str", "choices": ["own", "beside"], "default": "own"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "config_directory": {"type": "str", "default": "/etc/postfix"},
            "take_over": {"type": "bool", "default": False},
            "drop_queue": {"type": "bool", "default": False},
            "allow_smuggling": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ("command",))],
        supports_check_mode=True,
    )
    run = PostfixConfig(module)
    try:
        result = run.present() if module.params["state"] == "present" else run.absent()
    except Conflict as conflict:
        module.fail_json(msg=str(conflict))
    module.exit_json(notes=run.notes, **result)


if __name__ == "__main__":
    main()
