"""A milter session collects what the MTA says, asks the dialogue, and spells the answer: nothing else, and nothing twice."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gatepost.daemon.current import Current
from gatepost.daemon.room import Room, UnderWay
from gatepost.decision import RULES, Decision, Envelope, rule_decision
from gatepost.dialogue import Arrived, Dialogue, Ending
from gatepost.settings import Settings
from gatepost.smtp_reply import Reply
from gatepost_milter import session as session_module
from gatepost_milter.kept import IN_MEMORY, Kept
from gatepost_milter.session import GO_ON, Answer, Session, Shared
from tests.installation import Installation, install

MILTER = "milter: {socket: unix:/run/gatepost/milter.sock, authserv_id: mx.example.com, authenticate: []}"
QUEUE_ID = "4jWl4Z5tH8zJv6D"
OURS = "support@in.example.com"


@dataclass
class Recorder:
    """A dialogue that remembers what it was asked; what it answers is the test's choice. `in.example.com` is ours."""

    settings: Settings
    asked: list[Envelope] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)
    closed: int = 0
    at_rcpt: dict[str, Decision] = field(default_factory=dict)
    ending: Ending | None = None
    raises: Exception | None = None

    def recipient(self, envelope: Envelope) -> Decision:
        if self.raises is not None:
            raise self.raises
        self.asked.append(envelope)
        ours = envelope.recipient.lower().endswith("@in.example.com")
        return self.at_rcpt.get(envelope.recipient, rule_decision("accept", "accepted", route="support" if ours else ""))

    def end(self, arrived: Arrived) -> Ending:
        if self.raises is not None:
            raise self.raises
        self.arrived.append(arrived)
        return self.ending or Ending(action="accept", decision=rule_decision("accept", "accepted"))

    def close(self) -> None:
        self.closed += 1


@dataclass
class Tried:
    """A session, and all that stands around it."""

    made: Installation
    session: Session
    shared: Shared
    current: Current[Dialogue]
    recorders: list[Recorder]

    @property
    def recorder(self) -> Recorder:
        return self.recorders[-1]

    def begin(self, *recipients: str, sender: str = "<person@example.org>") -> list[Answer]:
        """A connection and an envelope."""
        self.session.connect("192.0.2.7", "mail.example.org", "mx.example.com")
        self.session.helo("helo.example.org")
        self.session.mail(sender, sender[1:-1].lower())
        return [self.session.rcpt(f"<{each}>", each.lower()) for each in recipients]

    def data(self, body: bytes = b"Hello.\r\n") -> Answer:
        """A head, a body and their end."""
        self.session.header(b"From", b" person@example.org")
        self.session.end_of_headers()
        self.session.body(body)
        return self.finish()

    def finish(self) -> Answer:
        answer = self.session.end_of_message(QUEUE_ID)
        self.session.answered()
        return answer

    @property
    def under_way(self) -> int:
        return self.shared.under_way.finish(0.0)


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Tried]:
    """A session over a recorder."""
    made, recorders = install(tmp_path, more=MILTER), list[Recorder]()

    def opened(settings: Settings) -> Dialogue:
        recorders.append(Recorder(settings))
        return recorders[-1]  # type: ignore[return-value]

    current = Current(str(made.config), opened)
    shared = Shared(current=current, room=Room(8 * IN_MEMORY), under_way=UnderWay())
    yield Tried(made, Session(shared), shared, current, recorders)
    current.close()


# -- what is collected


def test_the_dialogue_hears_everything_the_mta_said(tried: Tried) -> None:
    """Envelope, client, HELO, our own name, queue ID, recipients of ours, that there were others, and the message."""
    assert tried.begin(OURS, "other@example.net", "Reply+K@in.example.com") == [GO_ON] * 3
    assert tried.data() == GO_ON
    assert tried.recorder.asked[0] == Envelope(
        sender="person@example.org",
        recipient=OURS,
        original_recipient=OURS,
        client_address="192.0.2.7",
        helo="helo.example.org",
    )
    assert tried.recorder.arrived == [
        Arrived(
            sender="person@example.org", client_address="192.0.2.7", client_name="mail.example.org", helo="helo.example.org",
            queue_id=QUEUE_ID, host="mx.example.com", recipients=(OURS, "Reply+K@in.example.com"), others=True,
            raw=b"From: person@example.org\r\n\r\nHello.\r\n",
        )
    ]  # fmt: skip


RAW: list[tuple[str, list[tuple[bytes, bytes]], list[bytes], bytes, str]] = [
    ("a space", [(b"A", b" b")], [b"c\r\n"], b"A: b\r\n\r\nc\r\n", "the usual form"),
    ("no space", [(b"A", b"b")], [b"c\r\n"], b"A:b\r\n\r\nc\r\n", "simple canonicalisation sees the difference (RFC 6376 3.4.1)"),
    ("more space", [(b"A", b" \t b  ")], [], b"A: \t b  \r\n\r\n", "at both ends of the value"),
    ("folded", [(b"A", b" b\n\tc\n d")], [], b"A: b\r\n\tc\r\n d\r\n\r\n", "the protocol's line end is LF"),
    ("folded, CRLF", [(b"A", b" b\r\n\tc")], [], b"A: b\r\n\tc\r\n\r\n", "an MTA that leaves the CR gets none doubled"),
    ("empty value", [(b"A", b""), (b"B", b" ")], [], b"A:\r\nB: \r\n\r\n", "is still a field"),
    ("octets", [(b"A", b" \xff\xe9")], [b"\0\xff\r\n"], b"A: \xff\xe9\r\n\r\n\0\xff\r\n", "nothing is decoded"),
    ("same name twice", [(b"A", b" 1"), (b"A", b" 2")], [], b"A: 1\r\nA: 2\r\n\r\n", "in their order"),
    ("no field", [], [b"text\r\n"], b"\r\ntext\r\n", "Postfix puts the blank line there, for the pipe script too"),
    ("chunks", [], [b"a\r", b"\nb\r\n"], b"\r\na\r\nb\r\n", "a chunk may end anywhere"),
    ("no final line end", [], [b"a"], b"\r\na", "as it came"),
    ("nothing", [], [], b"\r\n", "an empty message is one"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "chunks", "raw"), [row[1:4] for row in RAW], ids=[row[0] for row in RAW])
def test_the_message_is_put_together_as_it_came(
    tried: Tried, fields: list[tuple[bytes, bytes]], chunks: list[bytes], raw: bytes
) -> None:
    """Name, colon, value with its white space, CRLF, the folds, a blank line, the body."""
    tried.begin(OURS)
    for name, value in fields:
        tried.session.header(name, value)
    tried.session.end_of_headers()
    for chunk in chunks:
        tried.session.body(chunk)
    tried.finish()
    assert tried.recorder.arrived[0].raw == raw


def test_mail_without_a_recipient_of_ours_is_not_kept_and_not_judged(tried: Tried) -> None:
    """It passes byte for byte; not even its body is asked for."""
    tried.begin("a@example.net", "postmaster@example.net")
    assert not tried.session.wants_body
    assert tried.data(b"x" * 100) == GO_ON
    assert tried.recorder.arrived == []
    assert tried.made.log_lines() == []


def test_a_refused_recipient_refuses_only_itself(tried: Tried) -> None:
    """A dead key among good ones: the message goes on for the others."""
    tried.begin()
    tried.recorder.at_rcpt["dead@in.example.com"] = rule_decision("reject", "key-unknown", route="support")
    answers = [tried.session.rcpt(f"<{to}>", to) for to in (OURS, "dead@in.example.com", "more@in.example.com")]
    assert [str(answer.reply) if answer.reply else "" for answer in answers] == ["", "550 5.1.1 No such address", ""]
    tried.data()
    assert tried.recorder.arrived[0].recipients == (OURS, "more@in.example.com")


def test_a_message_whose_only_recipient_of_ours_was_refused_is_not_kept(tried: Tried) -> None:
    """What is left is others' mail."""
    tried.begin()
    tried.recorder.at_rcpt[OURS] = rule_decision("reject", "key-unknown")
    tried.session.rcpt(f"<{OURS}>", OURS)
    tried.session.rcpt("<a@example.net>", "a@example.net")
    assert not tried.session.wants_body
    assert tried.data() == GO_ON
    assert tried.recorder.arrived == []


def test_one_recipient_twice_is_told_once_and_deleted_by_both_paths(tried: Tried) -> None:
    """Postfix merges them; a deletion must name what RCPT said."""
    tried.begin()
    tried.session.rcpt("<Support@in.example.com>", "support@in.example.com")
    tried.session.rcpt('<"Support"@in.example.com>', "support@in.example.com")
    tried.recorder.ending = Ending(
        action="accept", decision=rule_decision("accept", "accepted"), delete=("Support@in.example.com",)
    )
    answer = tried.data()
    assert tried.recorder.arrived[0].recipients == ("Support@in.example.com",)
    assert answer.delete == ("<Support@in.example.com>", '<"Support"@in.example.com>')


# -- nothing of one message in the next

RESETS: list[tuple[str, Callable[[Tried], object], str]] = [
    ("abort", lambda tried: tried.session.abort(), "RSET, or a client that went away"),
    ("MAIL again", lambda tried: None, "an MTA need not say abort"),
    ("end of message", lambda tried: tried.finish(), "the next message on the same connection"),
    ("connect", lambda tried: tried.session.connect("198.51.100.9", "unknown", "mx.example.com"), "XCLIENT"),
    ("close and connect", lambda tried: quit_new_connection(tried), "SMFIC_QUIT_NC"),
]


def quit_new_connection(tried: Tried) -> None:
    tried.session.close()
    tried.session.connect("198.51.100.9", "x", "y")


@pytest.mark.parametrize("stage", ["mail", "rcpt", "header", "body"])
@pytest.mark.parametrize("reset", [row[1] for row in RESETS], ids=[row[0] for row in RESETS])
def test_a_transaction_begins_with_nothing_of_the_one_before(
    tried: Tried, reset: Callable[[Tried], object], stage: str
) -> None:
    """Whatever ended it and wherever: recipients, others, head and body are those of the new one."""
    tried.begin(*([] if stage == "mail" else ["first@in.example.com", "first@example.net"]), sender="<first@example.org>")
    if stage in ("header", "body"):
        tried.session.header(b"X-First", b" 1")
        tried.session.end_of_headers()
    if stage == "body":
        tried.session.body(b"first" * IN_MEMORY)
    reset(tried)
    tried.recorder.arrived.clear()
    tried.session.mail("<second@example.org>", "second@example.org")
    tried.session.rcpt(f"<{OURS}>", OURS)
    tried.data(b"second\r\n")
    (arrived,) = tried.recorder.arrived
    assert (arrived.sender, arrived.recipients, arrived.others) == ("second@example.org", (OURS,), False)
    assert arrived.raw == b"From: person@example.org\r\n\r\nsecond\r\n"
    assert tried.under_way == 0


def test_another_client_has_another_address_and_no_helo_yet(tried: Tried) -> None:
    """XCLIENT: Postfix connects anew; what the first client called itself says nothing of the second."""
    tried.begin(OURS)
    tried.session.connect("198.51.100.9", "unknown", "mx.example.com")
    tried.session.mail("<>", "")
    tried.session.rcpt(f"<{OURS}>", OURS)
    assert tried.recorder.asked[-1].replace(original_recipient="") == Envelope(
        sender="", recipient=OURS, client_address="198.51.100.9"
    )


def test_what_comes_out_of_order_is_a_deferral_or_nothing(tried: Tried) -> None:
    """RCPT without MAIL defers; head, body and end without an envelope are nobody's."""
    answer = tried.session.rcpt(f"<{OURS}>", OURS)
    assert str(answer.reply) == f"451 4.3.0 {RULES['internal-error'].text}"
    tried.session.header(b"A", b"b")
    tried.session.body(b"c")
    assert tried.finish() == GO_ON
    tried.session.abort()
    tried.session.close()
    assert tried.recorder.arrived == []


# -- what is answered

ENDINGS: list[tuple[str, Ending, Answer, str]] = [
    ("accept", Ending(action="accept", decision=rule_decision("accept", "accepted")), GO_ON, "nothing to change: nothing said"),
    ("accept, with fields",
     Ending(action="accept", decision=rule_decision("accept", "accepted"), insert=(("X-Gatepost-Stamp", "v=1"),),
            remove=(("Authentication-Results", 2), ("Authentication-Results", 1))),
     Answer(insert=(("X-Gatepost-Stamp", "v=1"),), remove=(("Authentication-Results", 2), ("Authentication-Results", 1))),
     "stamp in, forgeries out, in the order given"),
    ("reject", Ending(action="reject", decision=rule_decision("reject", "spam"), insert=(("A", "b"),)),
     Answer(reply=Reply(code=550, status="5.7.1", text="Message was marked as spam")),
     "a refused message is not changed"),
    ("defer", Ending(action="defer", decision=rule_decision("defer", "store-unavailable")),
     Answer(reply=Reply(code=451, status="4.3.0", text="Temporary storage failure, try later")), "our own fault"),
    ("discard", Ending(action="discard", decision=rule_decision("discard", "automatic"), delete=(OURS,)),
     Answer(discard=True, delete=(f"<{OURS}>",)), "all of them: the MTA says 250 and forgets it"),
    ("delete", Ending(action="accept", decision=rule_decision("accept", "accepted"), delete=(OURS,)),
     Answer(delete=(f"<{OURS}>",)), "by the path that RCPT had"),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "answer"), [row[1:3] for row in ENDINGS], ids=[row[0] for row in ENDINGS])
def test_an_ending_is_spelled(tried: Tried, ending: Ending, answer: Answer) -> None:
    """The session says what the dialogue decided and adds nothing."""
    tried.begin(OURS, "a@example.net")
    tried.recorder.ending = ending
    assert tried.data() == answer


# -- whose fault it is


def broken(tried: Tried) -> None:
    tried.recorder.raises = ZeroDivisionError("what nobody foresaw")


def test_an_exception_at_rcpt_defers_that_recipient(tried: Tried) -> None:
    """451 4.3.0 and a line with the place; the next recipient is asked again."""
    tried.begin()
    broken(tried)
    answer = tried.session.rcpt("<reply+abcdefghijklmnop@in.example.com>", None)
    assert str(answer.reply) == f"451 4.3.0 {RULES['internal-error'].text}"
    tried.recorder.raises = None
    assert tried.session.rcpt(f"<{OURS}>", OURS) == GO_ON
    (line,) = tried.made.log_lines()
    assert "NOQUEUE: action=defer rule=internal-error door=milter stage=rcpt to=reply+abcd...@in.example.com" in line
    assert "ZeroDivisionError: what nobody foresaw" in line
    assert "abcdefghijklmnop" not in line


def test_an_exception_at_the_end_defers_the_message(tried: Tried) -> None:
    """451 4.3.0, a line for each recipient of ours, and the session goes on."""
    tried.begin(OURS, "more@in.example.com")
    broken(tried)
    answer = tried.data()
    assert str(answer.reply) == f"451 4.3.0 {RULES['internal-error'].text}"
    assert [f"{QUEUE_ID}: action=defer rule=internal-error" in line for line in tried.made.log_lines()] == [True, True]
    tried.recorder.raises = None
    tried.begin(OURS)
    assert tried.data() == GO_ON


def test_an_exception_in_mid_message_defers_it_at_its_end(tried: Tried) -> None:
    """Where the protocol has no answer (headers), the fault is remembered; nothing half is judged."""
    tried.begin(OURS)
    tried.session.failed(ZeroDivisionError("in a callback"))
    assert not tried.session.wants_body
    answer = tried.data()
    assert answer.reply is not None
    assert answer.reply.code == 451
    assert tried.recorder.arrived == []


def test_a_configuration_that_cannot_be_had_defers_each_recipient(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAIL has no answer of ours: RCPT says it."""

    def fails() -> None:
        raise OSError("no lease")

    monkeypatch.setattr(tried.current, "take", fails)
    (answer,) = tried.begin(OURS)
    assert answer.reply is not None
    assert (answer.reply.code, answer.reply.status) == (451, "4.3.0")
    assert tried.data() == GO_ON, "no recipient was accepted: Postfix does not come that far"


FAULTS_OF_THE_DISK = [
    ("writing", "add", "a full disk: nothing of the message is lost, for the client still has it"),
    ("reading back", "read", "an I/O error"),
]


@pytest.mark.parametrize("method", [row[1] for row in FAULTS_OF_THE_DISK], ids=[row[0] for row in FAULTS_OF_THE_DISK])
def test_a_disk_that_fails_defers_the_message(tried: Tried, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """451 4.3.0 of rule store-unavailable, at the end."""

    def full(self: Kept, *_: object) -> None:
        raise OSError(28, "No space left on device")

    tried.begin(OURS)
    monkeypatch.setattr(Kept, method, full)
    answer = tried.data(b"x" * 100)
    assert str(answer.reply) == f"451 4.3.0 {RULES['store-unavailable'].text}"
    assert "rule=store-unavailable" in tried.made.log_lines()[0]
    assert "No space left on device" in tried.made.log_lines()[0]


# -- the log


def test_each_refused_recipient_has_one_line_without_its_key(tried: Tried) -> None:
    """NOQUEUE before Postfix has a queue ID, then the ID."""
    tried.begin()
    key = "reply+abcdefghijklmnopqrst@in.example.com"
    tried.recorder.at_rcpt[key] = rule_decision("reject", "key-unknown", route="replies", detail="why")
    tried.session.rcpt(f"<{key}>", key)
    tried.session.rcpt(f"<{key}>", key, QUEUE_ID)
    lines = [re.sub(r"^.*?gatepost\[\d+\]: ", "", line) for line in tried.made.log_lines()]
    assert [re.sub(r"ms=\d+", "ms=0", line) for line in lines] == [
        f"{id_}: action=reject rule=key-unknown route=replies door=milter stage=rcpt to=reply+abcd...@in.example.com "
        "client=192.0.2.7 ms=0 detail=why" for id_ in ("NOQUEUE", QUEUE_ID)
    ]  # fmt: skip


def test_the_end_logs_what_the_ending_says(tried: Tried) -> None:
    """A line for each of its `lines`, with delivery id and size."""
    tried.begin(OURS)
    tried.recorder.ending = Ending(
        action="accept", decision=rule_decision("accept", "accepted"),
        lines=(("reply+abcd...@in.example.com", rule_decision("discard", "automatic", route="replies"), "5f0c"),),
    )  # fmt: skip
    tried.data()
    (line,) = tried.made.log_lines()
    assert (
        f"{QUEUE_ID}: action=discard rule=automatic route=replies door=milter stage=end to=reply+abcd...@in.example.com" in line
    )
    assert re.search(r" id=5f0c bytes=36 ms=\d+$", line)


# -- memory, room, life


def test_a_large_message_lies_in_a_file_without_a_name(tried: Tried) -> None:
    """No more than IN_MEMORY of it is in memory, and nothing is left in the store, whatever ends the process."""
    tried.begin(OURS)
    before = sorted(path.name for path in tried.made.store.iterdir())
    body = bytes(range(256)) * (IN_MEMORY // 64)
    answer = tried.data(body)
    assert answer == GO_ON
    assert tried.recorder.arrived[0].raw.endswith(body)
    assert sorted(path.name for path in tried.made.store.iterdir()) == before


def test_large_messages_that_find_no_room_in_time_are_deferred(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below Postfix's own patience: 451, and the room is not lost."""
    monkeypatch.setattr(session_module, "_PATIENCE", 0.01)
    with tried.shared.room.taken(8 * IN_MEMORY, 0.0) as got:
        assert got
        tried.begin(OURS)
        answer = tried.data(b"x" * (2 * IN_MEMORY))
        assert str(answer.reply) == f"451 4.3.0 {RULES['deadline'].text}"
        tried.begin(OURS)
        assert tried.data(b"small") == GO_ON, "a small one waits for nobody"
    tried.begin(OURS)
    assert tried.data(b"x" * (2 * IN_MEMORY)) == GO_ON


def test_after_the_order_to_end_no_message_begins_and_those_under_way_finish(tried: Tried) -> None:
    """RCPT of a new one is 451 4.3.2; one that had a recipient before is judged; others' mail is not held up."""
    tried.begin(OURS)
    late = Session(tried.shared)
    waited: list[int] = []
    waiter = threading.Thread(target=lambda: waited.append(tried.shared.under_way.finish(30.0)))
    waiter.start()
    while not tried.shared.under_way.ending:
        waiter.join(0.01)
    late.connect("198.51.100.9", "unknown", "mx.example.com")
    late.mail("<a@example.net>", "a@example.net")
    assert str(late.rcpt(f"<{OURS}>", OURS).reply) == f"451 4.3.2 {RULES['interrupted'].text}"
    assert late.rcpt("<x@example.net>", "x@example.net") == GO_ON
    assert tried.session.rcpt("<more@in.example.com>", "more@in.example.com") == GO_ON, "it has begun before"
    tried.session.header(b"A", b" b")
    tried.session.end_of_headers()
    assert tried.session.end_of_message(QUEUE_ID) == GO_ON
    assert waited == [], "the answer has not been told yet"
    tried.session.answered()
    waiter.join(30)
    assert waited == [0]


def test_a_transaction_keeps_its_configuration(tried: Tried) -> None:
    """A change of the file in mid-message is for the next one; the old dialogue is let go of after its last."""
    tried.begin(OURS)
    tried.current.look(again=True)
    first, second = tried.recorders
    tried.data()
    assert ([len(each.arrived) for each in tried.recorders], first.closed, second.closed) == ([1, 0], 1, 0)
    tried.begin(OURS)
    tried.data()
    assert [len(each.arrived) for each in tried.recorders] == [1, 1]
