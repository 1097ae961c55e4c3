"""A part of the benchmark in a process of its own, as user gatepost.

Promises: the child shares nothing with its parent but what it returns; it is small, so that the memory of the processes it
starts is theirs.
Never: returns into the caller's code in the child.
"""

from __future__ import annotations

import json
import os
import pwd
import traceback
from typing import TYPE_CHECKING, TypeVar

from demo.environment import USER

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["as_user"]

_T = TypeVar("_T")


def as_user(work: Callable[[], _T]) -> _T:
    """What `work` returns (plain data: it travels as JSON), done by a child as user gatepost. RuntimeError where it failed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            _become_user()
            with open(writer, "w", encoding="utf-8") as pipe:
                json.dump(work(), pipe)
            status = 0
        except BaseException:  # noqa: BLE001 - a child must not run on into its parent's code
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("a part of the benchmark failed; what it said stands above")
    result: _T = json.loads(said)
    return result


def _become_user() -> None:
    """The rest of this process is user gatepost, as the pipe script and the milter are."""
    account = pwd.getpwnam(USER)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.chdir("/")
