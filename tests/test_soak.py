"""The soak's own judgement: where it sees a message, what it calls lost, and that each fault it is there for is one to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.postfix_instance import Delivery
from gatepost.consequences import keeps_headers_only
from gatepost.decision import RULES
from tests.installation import DOMAIN
from tests.soak import app
from tests.soak.count import Balance, balance
from tests.soak.evidence import Evidence, Line, Take
from tests.soak.letters import FATES, KINDS, letter, number_of
from tests.soak.mutants import MUTANTS, apply
from tests.soak.senders import Copy

ROOT = Path(__file__).resolve().parent.parent
QUEUE_ID = "4jWl4Z5tH8zJv6D"
KIND = {kind.name: kind for kind in KINDS}


def copy(kind: str = "a reply", *, queue_id: str = QUEUE_ID, place: int = 0) -> Copy:
    """What was sent as number 7."""
    return Copy(7, KIND[kind], KIND[kind].fates[place], "<7.0.1@sender.example.net>", f"desk1+key{place}@{DOMAIN}", queue_id)


def take(
    how: str = "ok", *, at: float = 100.0, took: bool = True, answered: bool = True, octets: str = "a", whole: bool = True
) -> Take:
    """One request of number 7."""
    evidence = Evidence(host_id="host")
    id_ = evidence.id(QUEUE_ID, copy().recipient)
    return Take(at, how, took, answered, id_, copy().message_id, copy().recipient, octets, whole)


def delivery(status: str = "sent", text: str = "250 2.0.0 accepted route=desk1 id=1") -> Delivery:
    """Postfix's line about number 7."""
    return Delivery(QUEUE_ID, copy().recipient, "", "mx[lmtp.sock]", "2.0.0" if status == "sent" else "5.1.1", status, text)


def line(action: str, rule: str, **fields: str) -> Line:
    """Our own line about number 7."""
    id_ = Evidence(host_id="host").id(QUEUE_ID, copy().recipient)
    return Line({"action": action, "rule": rule, "id": id_, **fields})


def evidence(*found: Take | Line | Delivery, state: str = "done") -> Evidence:
    """All that there is about number 7. `state`: its row in the ledger, "" for none."""
    made = Evidence(host_id="host")
    for each in found:
        kinds: dict[type, list[object]] = {Take: made.takes, Line: made.lines, Delivery: made.deliveries}  # type: ignore[dict-item]
        kinds[type(each)].append(each)
    if state:
        made.rows[made.id(QUEUE_ID, copy().recipient)] = state
    return made


def judged(sent: Copy, found: Evidence, *killed: float) -> Balance:
    """The balance of one message."""
    return balance([sent], found, list(killed))


def queued(found: Evidence) -> Evidence:
    found.queued.add((QUEUE_ID, copy().recipient))
    return found


def parked(found: Evidence, rule: str = "app-cannot-take") -> Evidence:
    found.parked[QUEUE_ID, copy().recipient] = rule
    return found


def told(found: Evidence, number: int = 7) -> Evidence:
    found.notices[number] = 1
    return found


ACCEPT = line("accept", "accepted")
WELL: list[tuple[str, Copy, Callable[[], Evidence], tuple[float, ...], str]] = [
    ("handed over", copy(), lambda: evidence(take(), ACCEPT, delivery()), (), "the plain case"),
    ("still queued", copy(), lambda: queued(evidence(state="")), (), "not lost, and not yet there"),
    ("handed over", copy(), lambda: queued(evidence(take(), ACCEPT)), (), "Postfix has not heard of it yet"),
    ("handed over", copy(), lambda: evidence(take("cut"), take(at=101), ACCEPT, delivery()), (), "the app was cut off"),
    ("handed over", copy(), lambda: evidence(take(answered=False), take(at=101), ACCEPT, delivery()), (), "the app was killed"),
    ("handed over", copy(), lambda: evidence(take(), take(at=106), ACCEPT, delivery()), (100.3,), "we were killed"),
    ("parked", copy("the app cannot take it"), lambda: parked(evidence(delivery())), (), "after three tries"),
    ("parked", copy("no key, null sender"), lambda: parked(evidence(delivery()), "key-unknown"), (), "nobody to tell"),
    ("discarded", copy("no key, null sender"), lambda: evidence(line("discard", "key-unknown")), (), "no room for its head"),
    ("discarded", copy("a loop"), lambda: evidence(delivery(text="250 2.0.0 discarded rule=loop route=desk1")), (), "by Postfix's log alone"),
    ("discarded", copy("a loop"), lambda: evidence(line("discard", "loop")), (), "by ours alone"),
    ("refused", copy("spam"), lambda: told(evidence(line("reject", "spam"), delivery("bounced", "said: 550"))), (), "with a notice"),
    ("refused", copy("no key"), lambda: told(evidence(delivery("bounced", "said: 550 5.1.1 No such address (in"))), (), "by its text"),
    ("refused", copy("no such address", queue_id=""), lambda: evidence(state=""), (), "the client was told at RCPT"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fate", "sent", "found", "killed"), [row[:4] for row in WELL], ids=[f"{row[0]}: {row[4]}" for row in WELL]
)
def test_what_is_well(fate: str, sent: Copy, found: Callable[[], Evidence], killed: tuple[float, ...]) -> None:
    """Each fate is seen from its own evidence, and is no fault where it may be."""
    made = judged(sent, found(), *killed)
    assert (made.faults, made.messages, made.fates[fate], made.fates.total()) == ([], 1, 1, 1)


FAULTS: list[tuple[str, Copy, Callable[[], Evidence], tuple[float, ...], str]] = [
    ("lost: ", copy(), lambda: evidence(ACCEPT, delivery()), (), "acknowledged, and the app has not got it"),
    ("lost: ", copy(), lambda: evidence(take("error", took=False), state=""), (), "the app did not take it, and the queue is empty"),
    ("refused (internal", copy(), lambda: evidence(line("reject", "internal-error"), delivery("bounced", "x")), (), "our own fault"),
    ("refused (x)", copy(), lambda: evidence(delivery("bounced", "x")), (), "a bounce without a rule"),
    ("in 2 places", copy(), lambda: parked(evidence(take(), ACCEPT, delivery())), (), "handed over and parked"),
    ("discarded (loop) and not", copy(), lambda: evidence(line("discard", "loop")), (), "nobody has it"),
    ("handed over () and not", copy("spam"), lambda: told(evidence(take(), ACCEPT, delivery())), (), "the app has what was to be refused"),
    ("parked (gave-up) and not", copy(), lambda: parked(evidence(delivery()), "gave-up"), (), "put aside, and nothing was wrong"),
    ("handed over twice", copy(), lambda: evidence(take(), take(at=101), ACCEPT, delivery()), (), "nobody was cut off or killed"),
    ("handed over twice", copy(), lambda: evidence(take(), take(at=101), ACCEPT, delivery()), (90.0, 110.0), "killed at other times"),
    ("asked with other", copy(), lambda: evidence(take("cut", octets="b"), take(at=101), ACCEPT), (), "not the same bytes"),
    ("accepted 2 times", copy(), lambda: evidence(take(), take(at=101), ACCEPT, ACCEPT), (100.5,), "two runs at once"),
    ("not whole", copy(), lambda: evidence(take(whole=False), ACCEPT), (), "cut short, or changed"),
    ("acknowledged, and open", copy(), lambda: evidence(take(), ACCEPT, delivery(), state="open"), (), "the ledger forgets"),
    ("acknowledged, and missing", copy(), lambda: evidence(take(), ACCEPT, delivery(), state=""), (), "the ledger has no row"),
    ("the sender of number 7 was not", copy("spam"), lambda: evidence(line("reject", "spam")), (), "refused, and nobody is told"),
    ("a notice to the sender", copy(), lambda: told(evidence(take(), ACCEPT)), (), "told of a message that is there"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "sent", "found", "killed"), [row[:4] for row in FAULTS], ids=[row[4] for row in FAULTS])
def test_what_is_not(fault: str, sent: Copy, found: Callable[[], Evidence], killed: tuple[float, ...]) -> None:
    """Each fault is told, alone."""
    made = judged(sent, found(), *killed)
    assert [each[: len(fault)] for each in made.faults] == [fault]
    assert made.lost == (fault == "lost: ")
    assert made.bounced == fault.startswith("refused (")


def test_what_the_ledger_could_not_be_told_is_no_fault() -> None:
    """A full disk after the hand-over: acknowledged all the same, and our log says so."""
    untold = line("", "store-unavailable", detail="has it, but the ledger could not be told: disk is full")
    assert judged(copy(), evidence(take(), ACCEPT, untold, delivery(), state="open")).faults == []
    made = judged(copy(), evidence(take(), take(at=101), ACCEPT, untold, delivery()))  # and Postfix was stopped meanwhile
    assert made.faults == []
    assert sum(made.twice.values()) == 1


def test_letters_are_the_same_for_the_same_seed() -> None:
    """So that a run can be repeated; and each hundred has every kind."""
    assert [letter(1, number) for number in range(30)] == [letter(1, number) for number in range(30)]
    assert letter(1, 20) != letter(2, 20)
    assert {letter(3, number).kind for number in range(100, 200)} == {*KINDS}
    assert letter(1, 5, 1).message_id != letter(1, 5).message_id
    assert number_of(letter(1, 5).sender) == 5
    assert number_of("n5@example.org") == -1


def test_kinds_name_fates_and_rules_that_there_are() -> None:
    """A misspelt one would make every run fail, or none."""
    for kind in KINDS:
        assert len(kind.fates) == len(kind.to)
        assert {*kind.fates} <= {*FATES}
        assert {*kind.rules} <= {*RULES}
    assert keeps_headers_only("key-unknown")


def test_the_app_knows_whether_a_message_is_whole() -> None:
    """One octet less, or more, or another, and it is not."""
    sent = letter(1, 11)  # "the app refuses it"
    assert sent.kind.name == "the app refuses it"
    raw = b"Received: by mx.example.com\r\n" + sent.data.replace(b"\n", b"\r\n")
    for octets, whole in ((raw, True), (raw[:-1], False), (raw + b"\n", False), (raw.replace(b"Thank", b"thank"), False)):
        data = {
            "id": "1",
            "raw": base64.b64encode(octets).decode(),
            "message": {"message_id": ""},
            "envelope": {"recipient": ""},
        }
        facts, will = app.read(json.dumps({"data": data}).encode())
        assert (facts["whole"], will) == (whole, "refuse")


@pytest.mark.parametrize("name", [name for name, (file, _, _) in MUTANTS.items() if file])
def test_mutants_find_their_place(name: str, tmp_path: Path) -> None:
    """What a mutant changes is still there: it would else prove nothing."""
    file, old, new = MUTANTS[name]
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text((ROOT / file).read_text())
    apply(name, tmp_path)
    changed = (tmp_path / file).read_text()
    compile(changed, file, "exec")
    assert changed.count(new) == (ROOT / file).read_text().count(old) >= 1
