"""`make demo`: real mail through a private Postfix to a small app, one scenario after the other, and what became of each.

Promises: exit status 0 only where every scenario went as expected; whatever happens, Ctrl-C included, what it started is ended
and its folder deleted, unless KEEP=1 asks to leave it running; then .demo/ in the checkout says where it is, and
`make demo-stop` ends it. Every wait is bounded.
Never: ends a process or deletes a folder that is not a demo's own; runs beside another demo of the same checkout.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":  # the folder of this file would hide the package `demo` behind this file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.environment import CHECKOUT, SetUpError
from demo.postfix_instance import LOOPBACK, PostfixError, PrivatePostfix
from demo.scenarios import ACTS, Course, Tale
from demo.world import AUTHSERV_ID, DOMAIN, FOLDER_PREFIX, World

if TYPE_CHECKING:
    from collections.abc import Mapping
    from subprocess import Popen

__all__ = ["Notes", "environment_text", "identity", "main"]

#: Seconds for everything. A whole demo takes about a minute; each wait in it has a limit of its own.
_AT_MOST: Final = 600
#: Columns of a terminal that the output fits into.
_WIDTH: Final = 100
_FIRST_COLUMN: Final = 14


class NotNowError(Exception):
    """What stands in the way; the text says what to do."""


# --- what is running ------------------------------------------------------------------------------------------------------


def identity(pid: int) -> str:
    """When this process was started (proc(5), field 22), "" where there is none. A process id alone may come again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Notes:
    """.demo/ in the checkout: what runs for the demo, so that another command can end it. Belongs to the checkout's owner."""

    def __init__(self, folder: Path = CHECKOUT / ".demo") -> None:
        self.folder = folder
        self._state = folder / "state.json"

    def lock(self) -> int:
        """One command at a time; NotNowError where there is another. The lock ends with the process."""
        self.folder.mkdir(mode=0o755, exist_ok=True)
        file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._give_away()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotNowError("another `make demo` or `make demo-stop` is at work in this checkout: wait for its end") from None
        return file

    def write(self, folder: Path, port: int, processes: Mapping[str, Popen[bytes]]) -> None:
        """Whole or not at all."""
        running = [{"name": name, "pid": each.pid, "started": identity(each.pid)} for name, each in processes.items()]
        part = self._state.with_suffix(".part")
        part.write_text(json.dumps({"folder": str(folder), "port": port, "processes": running}) + "\n")
        part.rename(self._state)
        self._give_away()

    def write_environment(self, text: str) -> Path:
        """The file that a shell can source."""
        file = self.folder / "env"
        file.write_text(text)
        self._give_away()
        return file

    def stop(self) -> bool:
        """Ends what the notes name, each process only if it is still the same one; True where there was something."""
        try:
            state = json.loads(self._state.read_text())
            folder, port, processes = Path(state["folder"]), int(state["port"]), state["processes"]
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError) as error:
            mend = f"look for {FOLDER_PREFIX}* and its processes by hand, then delete this file"
            raise NotNowError(f"{self._state} cannot be read ({error}): {mend}") from error
        for each in processes:
            if each["started"] and identity(each["pid"]) == each["started"]:
                with suppress(ProcessLookupError):
                    os.kill(each["pid"], signal.SIGKILL)
        if _is_ours(folder):
            PrivatePostfix(folder / "postfix", port=port).remove()
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def forget(self) -> None:
        """Nothing runs any more; .demo/ goes, with the lock in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _give_away(self) -> None:
        owner = CHECKOUT.stat()
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _is_ours(folder: Path) -> bool:
    """Made by mkdtemp below, by root."""
    if not re.fullmatch(re.escape(FOLDER_PREFIX) + r"\w+", str(folder)) or folder.is_symlink() or not folder.is_dir():
        return False
    return folder.stat().st_uid == 0


# --- the run --------------------------------------------------------------------------------------------------------------


def run(notes: Notes, *, keep: bool) -> int:
    """Everything; returns the exit status."""
    if notes.stop():
        _show("demo: ended the one that was still there")
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=os.path.basename(FOLDER_PREFIX), dir=os.path.dirname(FOLDER_PREFIX)))
    folder.chmod(0o755)
    world = World(folder, lambda world: notes.write(world.folder, world.postfix.port, world.processes))
    kept = False
    try:
        notes.write(folder, world.postfix.port, {})
        world.build(lambda text: _show(f"demo: {text}"))
        _show(f"demo: ready after {time.monotonic() - started:.0f} s\n")
        good = _play(world)
        if keep:
            world.enter("milter")
            world.mend()
            _leave_running(world, notes)
            kept = True
    finally:
        if not kept:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            world.close()
            notes.forget()
    wanted = sum(len(act.scenarios) for act in ACTS)
    _show(f"demo: {good} of {wanted} as expected" + ("" if kept else f" (in {time.monotonic() - started:.0f} s)"))
    return 0 if good == wanted else 1


def _play(world: World) -> int:
    """Every scenario of every act; how many went as expected."""
    good, number, history = 0, 0, {}  # type: ignore[var-annotated]
    for act in ACTS:
        _show("\n".join(_wrapped("--- ", act.title, indent=4)) + "\n")
        world.mend()
        world.enter(act.door)
        for scenario in act.scenarios:
            number += 1
            tale = Tale()
            try:
                world.mend()
                scenario(Course(world, tale, history))
            except Exception as error:  # noqa: BLE001 - whatever breaks a scenario, the others still show something
                tale.wrong.append(f"it broke off: {type(error).__name__}: {error}")
            good += not tale.wrong
            _show(_block(number, scenario.__doc__ or "", tale))
            if tale.wrong:
                _show(textwrap.indent(world.tails(), "    ") + "\n")
    return good


def _block(number: int, title: str, tale: Tale) -> str:
    """One scenario as text: its title, then what Postfix said, what was decided, where the message is, what is wrong."""
    lines = _wrapped(f"{number:2}  ", " ".join(title.split()), indent=4)
    for name, texts in (("Postfix", tale.postfix), ("decision", tale.decision), ("now", tale.now), ("WRONG", tale.wrong)):
        for at, text in enumerate(texts):
            lines += _wrapped(f"    {name if at == 0 else '':<{_FIRST_COLUMN - 4}}", _short(text), indent=_FIRST_COLUMN)
    return "\n".join(lines) + "\n"


def _wrapped(first: str, text: str, *, indent: int) -> list[str]:
    parts = text.splitlines() or [""]
    lines = textwrap.wrap(parts[0], _WIDTH, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False)
    for part in parts[1:]:
        lines += textwrap.wrap(part, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)
    return lines or [first]


def _short(text: str) -> str:
    """Ids and keys as long as a person can compare them."""
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{38,56}\b", r"\1...", text)  # Postfix's own line may cut it
    return re.sub(r"(?i)\b((?:reply|ticket)[+-][a-z2-7]{6})[a-z2-7]{10,}", r"\1...", text)


def _leave_running(world: World, notes: Notes) -> None:
    values = {
        "SMTP_HOST": LOOPBACK,
        "SMTP_PORT": str(world.postfix.port),
        "GATEPOST_CONFIG": str(world.config),
        "MAIL_LOG": str(world.postfix.log_file),
        "GATEPOST_LOG": str(world.log_file),
        "APP_LOG": str(world.app_log),
        "GOOD_ADDRESS": world.address("order-7"),
        "EXPIRED_ADDRESS": world.address("order-7", expires="2024-02-29"),
        "UNKNOWN_ADDRESS": f"reply+nosuchkey@{DOMAIN}",
        "AUTHSERV_ID": AUTHSERV_ID,
        "GATEPOST": str(world.command),
        "POSTFIX_CONFIG": str(world.postfix.config_folder),
        "PERSON_FOLDER": str(world.folder / "person"),
        "DEMO_FOLDER": str(world.folder),
    }
    file = os.path.relpath(notes.write_environment(environment_text(values)), CHECKOUT)
    as_root = "sudo " if "SUDO_USER" in os.environ else ""
    _show(f"""\
It stays up until `make demo-stop`. Try it (the names are in {file}):

    swaks --server {LOOPBACK} --port {values["SMTP_PORT"]} --from you@example.net \\
          --to {values["GOOD_ADDRESS"]}
    # and --to {values["UNKNOWN_ADDRESS"]}: refused by the milter

    . {file}
    tail -f $MAIL_LOG $GATEPOST_LOG $APP_LOG
    {as_root}$GATEPOST parked list
    {as_root}postqueue -c $POSTFIX_CONFIG -p      # what waits; -f tries it again
""")


def environment_text(values: Mapping[str, str]) -> str:
    """One NAME=value a line, quoted where a shell would take the value apart."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(f"it took longer than {_AT_MOST} s" if number == signal.SIGALRM else signal.Signals(number).name)


def _stop(notes: Notes) -> int:
    stopped = notes.stop()
    notes.forget()
    _show("demo: stopped, its folder deleted" if stopped else "demo: nothing was left running")
    return 0


def main(arguments: list[str]) -> int:
    """`demo.py` runs the demo, `demo.py --stop` ends what KEEP=1 left. Exit status 0: as expected."""
    if arguments not in ([], ["--stop"]):
        _show("usage: make demo, KEEP=1 make demo, make demo-stop")
        return 2
    if os.geteuid():
        _show("demo: a Postfix can be started by root only: use `make demo`, which asks sudo")
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _interrupted)
    signal.alarm(_AT_MOST)
    os.umask(0o022)
    notes = Notes()
    try:
        notes.lock()
        return _stop(notes) if arguments else run(notes, keep=os.environ.get("KEEP", "") not in ("", "0", "no"))
    except (NotNowError, SetUpError, PostfixError, OSError) as error:
        _show(f"demo: {error}")
    except KeyboardInterrupt as error:
        _show(f"\ndemo: broken off {error}".rstrip())
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
