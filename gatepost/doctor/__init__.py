"""The doctor: is this installation well, and if not, what is to be done.

The map: `check` (one answer), `subject` (what is examined); the families `configuration`, `store`, `host`, `sinks`, `probe`,
`chain` (with `smtp_dialogue`), `postfix_service`, `postfix_mail`, `postfix_rung` and `milter` (with `milter_dialogue`), the
last four over `wired` (what is found, beside what is expected) and `postfix_instance` (what Postfix's commands tell).

Promises: every check gives an answer, whatever is broken; the causes come before their effects; nothing is changed but what
any message would change (the compiled copy, a ledger of an older version). As root, Postfix is asked first; then the process
becomes the store's owner for good, so that what it sees is what the script sees, and it leaves no file of root's.
Never: sends a message but the probe that `--chain` asks for; says "ok" of what it did not look at.
"""

from __future__ import annotations

import time
from contextlib import suppress

from gatepost.doctor import (
    chain,
    configuration,
    host,
    milter,
    postfix_mail,
    postfix_rung,
    postfix_service,
    probe,
    sinks,
    store,
)
from gatepost.doctor.check import Check, answer, unknown, worst_first
from gatepost.doctor.wired import discover
from gatepost.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.doctor.check import Questions
    from gatepost.doctor.subject import Subject

__all__ = ["Check", "examine", "worst_first"]

#: What is looked at with the rights of the caller, and then as the store's owner, in this order.
_AS_CALLER: Final = (postfix_service.questions, postfix_mail.questions, postfix_rung.questions, milter.questions)
_AS_OWNER: Final = (configuration.questions, store.questions, host.questions, sinks.questions, probe.questions, chain.questions)


def examine(
    config: str,
    *,
    pipe_script: str,
    python: str,
    become_owner: Callable[[str], None],
    postfix: str = "",
    probe: bool = False,
    chain: bool = False,
) -> tuple[Check, ...]:
    """Every check, in the order in which causes come before effects. Never raises for what is wrong with the installation.

    `become_owner`: makes this process the owner of the store folder that it is given, where it may. `postfix`: the folder of a
    main.cf, "" = find it, "none" = there is none to look at.
    """
    subject = configuration.load(
        config, pipe_script=pipe_script, python=python, postfix=postfix, probe=probe, chain=chain, now=time.time()
    )
    if subject.settings is None:
        return _answers(configuration.questions(subject))
    subject, wiring = _postfix(subject)
    with suppress(StoreError):  # where there is no such folder: store-folder says so
        become_owner(subject.sound.store)
    own: tuple[Check, ...] = ()
    for family in _AS_OWNER:
        own += _answers(family(subject))
    return own + wiring


def _postfix(subject: Subject) -> tuple[Subject, tuple[Check, ...]]:
    """What Postfix's own commands show, and the subject with the user that gatepost runs as."""
    try:
        wired = discover(subject)
    except Exception as error:  # noqa: BLE001 - whatever it is, the rest is still worth a look
        why = f"{type(error).__name__}: {error}"
        return subject.with_user(-1), (answer("postfix", lambda: unknown(why)),)
    host = wired.instance.parameter("myhostname") if wired.instance is not None else ""
    subject = subject.with_user(wired.user).replace(host=host)
    wired = wired.replace(subject=subject)
    found: tuple[Check, ...] = ()
    for family in _AS_CALLER:
        found += _answers(family(wired))
    return subject, found


def _answers(questions: Questions) -> tuple[Check, ...]:
    return tuple(answer(name, question) for name, question in questions)
