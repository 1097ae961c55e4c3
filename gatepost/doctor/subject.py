"""What is examined: one configuration on one host, and who looks at it.

Promises: made once, before the first question; a question takes everything it needs from here or from the host itself.
Never: changes anything.
"""

from __future__ import annotations

import os
import pwd

from gatepost.doctor.check import unknown
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.doctor.check import Question, Verdict
    from gatepost.errors import Problem
    from gatepost.settings import Settings

__all__ = ["Subject", "mode_of", "name_of", "user_id"]


class Subject(Value):
    """`config`: absolute. `settings`: None where the configuration cannot be used, for `problems`.

    `secrets`: the secrets file, "" where none is needed or nothing is known of it. `pipe_script`, `python`: this
    installation's own, to compare with. `postfix`: a configuration folder, "" = find it, "none" = there is none to look at.
    """

    config: str
    settings: Settings | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    secrets: str = ""
    pipe_script: str
    python: str
    postfix: str = ""
    probe: bool = False
    now: float

    @property
    def sound(self) -> Settings:
        """The settings, for questions that are only asked where there are some."""
        assert self.settings is not None, "asked without settings"
        return self.settings

    @property
    def owner(self) -> int:
        """The store folder's owner, who is the user that gatepost runs as; -1 where there is no such folder."""
        try:
            return os.stat(self.sound.store).st_uid
        except OSError:
            return -1

    def as_owner(self, question: Question) -> Question:
        """The question, asked only where this process is the store's owner: for anybody else the answer means nothing."""

        def asked() -> Verdict:
            owner = self.owner
            if owner not in (-1, os.geteuid()):
                return unknown(
                    f"this runs as {name_of(os.geteuid())}, and the store belongs to {name_of(owner)}",
                    "run gatepost doctor as root",
                )
            return question()

        return asked


def name_of(user: int) -> str:
    """A user as a person knows it."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def user_id(name: str) -> int:
    """-1 where there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return -1


def mode_of(mode: int) -> str:
    """Permission bits as chmod takes them."""
    return f"{mode & 0o7777:04o}"
