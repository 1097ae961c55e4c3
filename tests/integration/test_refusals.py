"""What is refused on purpose, and what an app never takes, through a real Postfix: it ends as the configuration says.

Each row of the tables is one message on its own way, as in test_faults. Needs root and the package postfix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from demo.environment import Environment, run_as
from demo.postfix_instance import Delivery, free_port
from tests.faulty_app import FaultyApp
from tests.installation import DOMAIN, WEBHOOK_SECRET, Installation, webhook
from tests.integration.conftest import (
    TIMING,
    Account,
    Letter,
    Parked,
    Post,
    Service,
    account,
    given,
    open_folder,
    parked_in,
    post,
    wait_for_empty_queue,
    wired,
    with_routes,
)

# --- deliberate refusals --------------------------------------------------------------------------------------------------

SENDERS = [
    ("person@example.org", "a stranger"),
    ("", "the null sender: nothing could be sent to it (RFC 5321 4.5.5)"),
    ("postmaster@in.example.com", "our own domain, forged"),
    ("root@mx.example.com", "this host's own name, forged"),
    ("reply+nobody@in.example.com", "an address of a route: a notice would come back to us"),
]
REFUSED_KEYS = [
    ("unknown", "no key at all"),
    ("forged", "made with another secret"),
    ("expired", "its last day was yesterday"),
    ("revoked", "named in the revoked: file"),
]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One message that is refused on purpose: under which `after_queue`, what it is, and what must become of it.

    `place`: parked (`head` or `whole`), discarded or bounced. `rule`: the slug, or for a bounce the code and text.
    """

    mode: str
    what: str
    sender: str = "person@example.org"
    place: str
    rule: str
    why: str

    @property
    def name(self) -> str:
        """The test's id."""
        return f"{self.mode}: {self.what} from <{self.sender}>"


REFUSALS = [
    *(Refusal(mode="bounce-verified", what=what, sender=sender, place="head", rule=f"key-{what}", why=f"{why}; {who}")
      for what, why in REFUSED_KEYS for sender, who in SENDERS),
    *(Refusal(mode="bounce-verified", what="closed", sender=sender, place="discarded" if not sender else "whole",
              rule="app-refused" if sender else "null-sender", why=f"the app refuses; {who}") for sender, who in SENDERS),
    Refusal(mode="bounce-verified", what="automatic", place="discarded", rule="automatic", why="a machine is never answered"),
    Refusal(mode="bounce", what="unknown", place="bounced", rule="5.1.1 No such address", why="one notice, to the sender"),
    Refusal(mode="bounce", what="forged", place="bounced", rule="5.1.1 No such address", why="the same words for each"),
    Refusal(mode="bounce", what="expired", place="bounced", rule="5.1.1 No such address", why="the same words for each"),
    Refusal(mode="bounce", what="revoked", place="bounced", rule="5.1.1 No such address", why="the same words for each"),
    Refusal(mode="bounce", what="closed", place="bounced", rule="5.7.1 This discussion is closed.", why="the app's own words"),
    Refusal(mode="bounce", what="unknown", sender="", place="head", rule="key-unknown", why="nothing to send a notice to"),
    Refusal(mode="bounce", what="automatic", place="discarded", rule="automatic", why="a machine is never answered"),
    Refusal(mode="bounce", what="good", sender="", place="discarded", rule="null-sender", why="no person has a null sender"),
    Refusal(mode="park", what="unknown", place="head", rule="key-unknown", why="a refused key is parked as headers only"),
    Refusal(mode="park", what="closed", place="whole", rule="app-refused", why="a person may want to read it"),
    Refusal(mode="park", what="automatic", place="discarded", rule="automatic", why="screening says discard, not reject"),
    Refusal(mode="discard", what="unknown", place="discarded", rule="key-unknown", why="as the person wished"),
    Refusal(mode="discard", what="closed", place="discarded", rule="app-refused", why="as the person wished"),
    *(Refusal(mode="bounce-verified", what=f"status-{code}", place="whole", rule="app-cannot-take", why="the third time")
      for code in (400, 413, 415, 422)),
]  # fmt: skip
MODES = tuple(dict.fromkeys(row.mode for row in REFUSALS))
CANNOT_TAKE_TRIES = 3


@dataclass(frozen=True)
class Refused:
    """What became of every refusal."""

    said: Mapping[str, Sequence[Delivery]]
    letters: Mapping[str, Letter]
    found: Account
    parked: Mapping[str, Parked]
    notices: Sequence[str]


def recipient_of(row: Refusal, number: int, made: Installation) -> str:
    """An address that no other row has, so that each can go its own way."""
    if row.what == "unknown":
        return f"reply+nonsense{number}@{DOMAIN}"
    key = made.key(f"k{number}", days=-1 if row.what == "expired" else None,
                   **({"secret": "x" * 40} if row.what == "forged" else {}))  # fmt: skip
    return made.address(key) if not row.what.startswith(("closed", "status")) else f"{row.what}+{key}@{DOMAIN}"


@pytest.fixture(scope="module")
def refused(wheel: Environment) -> Iterator[Refused]:
    """Sends a message for each row, and what the app cannot take three times."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder("refused"))
        app = stack.enter_context(FaultyApp(secrets=[WEBHOOK_SECRET]))
        sinks = {"closed": webhook(app.url("refuse"))}
        sinks |= {row.what: webhook(app.url(row.what.replace("-", "/"))) for row in REFUSALS if row.what.startswith("status-")}
        services = {mode: Service(made=with_routes(folder / mode, {"app": webhook(app.url()), **sinks}, mode),
                                  python=wheel.python, script=wheel.pipe_script, name=f"after-{mode}" if number else "gatepost")
                    for number, mode in enumerate(MODES)}  # fmt: skip
        recipients = {row.name: recipient_of(row, number, services[row.mode].made) for number, row in enumerate(REFUSALS)}
        for row in REFUSALS:
            if row.what == "revoked":
                revoke(wheel, services[row.mode].made, recipients[row.name])
        transports = {recipients[row.name]: services[row.mode].name for row in REFUSALS}
        postfix, outbox = stack.enter_context(wired(list(services.values()), transports=transports))
        letters = {row.name: post(postfix, row.name, recipients[row.name], sender=row.sender,
                                  headers="Auto-Submitted: auto-replied\n" if row.what == "automatic" else "")
                   for row in REFUSALS}  # fmt: skip
        posted = Post(postfix, outbox, app, letters, [service.made for service in services.values()])
        for count in range(1, CANNOT_TAKE_TRIES + 1):
            posted.wait(count)
        wait_for_empty_queue(postfix, timeout=60)
        yield Refused({name: postfix.deliveries(letter.queue_id) for name, letter in letters.items()}, letters,
                      posted.account(), {each.queue_id: each for made in posted.made for each in parked_in(made)},
                      [message.recipients[0] for message in outbox.messages if message.sender == ""])  # fmt: skip


def revoke(wheel: Environment, made: Installation, address: str) -> None:
    """As a person does it."""
    done = run_as("gatepost", [wheel.command, "key", "revoke", "--config", str(made.config), address])
    assert done.returncode == 0, done


@pytest.mark.parametrize("row", REFUSALS, ids=[row.name for row in REFUSALS])
def test_a_refusal_ends_as_after_queue_says(refused: Refused, row: Refusal) -> None:
    """Behind the queue a refusal is parked, discarded or bounced, as the configuration has it, and Postfix is done with it."""
    letter, said = refused.letters[row.name], refused.said[row.name]
    tries = CANNOT_TAKE_TRIES if row.rule == "app-cannot-take" else 1
    assert [each.status for each in said[:-1]] == ["deferred"] * (tries - 1)
    assert len(said) == tries
    if row.place == "bounced":
        assert (said[-1].status, f"{said[-1].dsn} {said[-1].text}".strip()) == ("bounced", row.rule), row.why
        assert refused.found.places[row.name] == ()
        return
    word = "discarded" if row.place == "discarded" else "parked"
    assert said[-1].status == "sent", row.why
    assert f"({word} rule={row.rule} " in said[-1].text, row.why
    assert refused.found.places[row.name] == (word,)
    if word == "parked":
        parked = refused.parked[letter.queue_id]
        assert (parked.rule, parked.headers_only) == (row.rule, row.place == "head")
        assert parked.kind == ("kept" if row.rule == "app-cannot-take" else "refused")
        assert letter.message_id.encode() in parked.raw
        assert (b"\r\n\r\nHello." in parked.raw) is (row.place == "whole")


def test_a_notice_leaves_for_a_bounce_and_for_nothing_else(refused: Refused) -> None:
    """Exactly one notice, to the sender, for each refusal under `bounce`; with bounce-verified none, whoever the sender."""
    bounced = [row.sender for row in REFUSALS if row.place == "bounced"]
    assert sorted(refused.notices) == sorted(bounced)
    assert sorted(refused.found.left) == sorted(bounced)
    assert len(refused.found.bounced) == len(bounced)
    assert not refused.found.doubled


# --- an app that stays down -----------------------------------------------------------------------------------------------

#: Seconds. The three are days in earnest; their order is what matters.
GIVE_UP_AFTER, QUEUE_LIFETIME = 3, 20
DOWN = [
    ("refused", "nobody listens"),
    ("status-503", "maintenance that never ends"),
    ("status-404", "a URL that is wrong"),
    ("login-page", "a login page in its place"),
    ("hang", "it takes the message and never answers"),
    ("drip-body", "it never comes to an end"),
    ("close", "it hangs up"),
]
MESSAGES_EACH = 3


@dataclass(frozen=True)
class GivenUp:
    """What became of mail for an app that stays down, and of one message that is never given up."""

    letters: Mapping[str, Letter]
    found: Account
    parked: Mapping[str, Parked]
    control: Letter
    notices: Sequence[str]


@pytest.fixture(scope="module")
def given_up(wheel: Environment) -> Iterator[GivenUp]:
    """Tries again and again until the queue is empty."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder("down"))
        app = stack.enter_context(FaultyApp(secrets=[WEBHOOK_SECRET]))
        sinks = {name: webhook(app.url(name.replace("status-", "status/"))) for name, _ in DOWN}
        sinks["refused"] = webhook(f"http://127.0.0.1:{free_port()}/mail")
        timing = f"timing: {{deadline: 3s, lease: 3.5s, give_up_after: {GIVE_UP_AFTER}s}}\n"
        made = with_routes(folder / "main", sinks, timing=timing)
        never = given(folder / "never", app=sinks["refused"], more=TIMING)
        control = never.address(never.key("control"))
        lifetime = {"maximal_queue_lifetime": f"{QUEUE_LIFETIME}s"}
        services = [Service(made=one, python=wheel.python, script=wheel.pipe_script, name=name)
                    for name, one in (("gatepost", made), ("never", never))]  # fmt: skip
        postfix, outbox = stack.enter_context(wired(services, transports={control: "never"}, options=lifetime))
        last = post(postfix, "control", control, sender="control@example.net")
        letters = {f"{name} {number}": post(postfix, f"{name} {number}", f"{name}+{made.key(f'd{number}')}@{DOMAIN}")
                   for number in range(MESSAGES_EACH) for name, _ in DOWN}  # fmt: skip
        wait_for_empty_queue(postfix, timeout=120)
        found = account(letters.values(), postfix=postfix, outbox=outbox, apps=[app], made=[made, never])
        yield GivenUp(letters, found, {each.queue_id: each for each in parked_in(made)}, last,
                      [message.recipients[0] for message in outbox.messages])  # fmt: skip


@pytest.mark.parametrize(("name", "why"), DOWN, ids=[row[0] for row in DOWN])
def test_an_app_that_stays_down_bounces_nothing(given_up: GivenUp, name: str, why: str) -> None:
    """Past give_up_after, and before Postfix would bounce it, the message is parked whole for a person, rule gave-up."""
    for number in range(MESSAGES_EACH):
        letter = given_up.letters[f"{name} {number}"]
        assert given_up.found.places[letter.name] == ("parked",), why
        parked = given_up.parked[letter.queue_id]
        assert (parked.rule, parked.kind, parked.headers_only) == ("gave-up", "kept", False)
        assert parked.raw.endswith(letter.data.replace(b"\n", b"\r\n"))


def test_without_giving_up_postfix_bounces(given_up: GivenUp) -> None:
    """The control: the same app with give_up_after out of reach, and Postfix tells the sender. No other notice has left."""
    assert given_up.found.bounced == (given_up.control.queue_id,)
    assert given_up.notices == [given_up.control.sender]
