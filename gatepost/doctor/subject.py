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
    `host`: Postfix's myhostname, "" where there is none. `runs_as`: the user that gatepost runs as (`with_user`).
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
    chain: bool = False
    host: str = ""
    now: float
    runs_as: int = -1

    @property
    def sound(self) -> Settings:
        """The settings, for questions that are only asked where there are some."""
        assert self.settings is not None, "asked without settings"
        return self.settings

    @property
    def owner(self) -> int:
        """The store folder's owner; -1 where there is no such folder."""
        try:
            return os.stat(self.sound.store).st_uid
        except OSError:
            return -1

    def with_user(self, of_service: int) -> Subject:
        """The subject with `runs_as`: the user that two of three agree on: the store's owner, the secrets', and master.cf's.

        `of_service`: the last, -1 where there is no service. With one fault, two are right. Where no two agree, it is the
        service's, and without one the store's owner. Nobody takes root for it: pipe(8) runs nothing as root.
        """
        try:
            secrets = os.stat(self.secrets).st_uid if self.secrets else -1
        except OSError:
            secrets = -1
        votes = [user for user in (of_service, self.owner, secrets) if user > 0] or [self.owner]
        return self.replace(runs_as=max(votes, key=votes.count))  # the first of those with the most

    def as_owner(self, question: Question) -> Question:
        """The question, asked only where this process is the user that gatepost runs as: else the answer means nothing."""

        def asked() -> Verdict:
            owner, runs_as = self.owner, name_of(self.runs_as)
            if owner == -1:
                return unknown("there is no store folder", "mend that first")
            if owner != self.runs_as:
                return unknown(f"gatepost runs as {runs_as}, but the store belongs to {name_of(owner)}", "mend that first")
            if owner != os.geteuid():
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
