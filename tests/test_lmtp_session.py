"""What a client of the warm process is told between messages: no reply about a message is permanent but a rule's."""

from __future__ import annotations

import pytest

from gatepost.decision import Envelope
from gatepost_filter.lmtp_session import MOST_RECIPIENTS, Session

FORWARD = "XFORWARD NAME=mail.example.org ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=mail.example.org IDENT=4jWl4Z5tH8zJv6D SOURCE=REMOTE"
START = ["LHLO mx.example.com", FORWARD]
MAIL = "MAIL FROM:<person@example.org> SIZE=1234 BODY=8BITMIME SMTPUTF8"
RCPT = "RCPT TO:<reply+k@in.example.com>"
WHOLE = f"XGATEPOST --recipient={b'reply+k@in.example.com'.hex()} --queue-id={b'4jWl4Z5tH8zJv6D'.hex()}"


def told(*commands: str) -> list[str]:
    """The last line of each reply."""
    session = Session()
    return [session.command(each.encode("utf-8", "surrogateescape")).reply.split("\r\n")[-1] for each in commands]


def envelopes(*commands: str) -> list[Envelope]:
    """What a message would have after these."""
    session = Session()
    for each in commands:
        session.command(each.encode("utf-8", "surrogateescape"))
    return session.envelopes()


def test_lhlo_offers_what_the_other_rungs_have() -> None:
    """8-bit and UTF-8 mail needs no change on its way, XFORWARD tells who sent it; no CHUNKING, no DSN, no limit of size."""
    said = Session().command(b"LHLO mx").reply.split("\r\n")
    assert [line[:4] for line in said] == ["250-"] * (len(said) - 1) + ["250 "]
    assert [line[4:] for line in said[1:]] == [
        "PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "ENHANCEDSTATUSCODES", "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
    ]  # fmt: skip


ORDERS: list[tuple[str, list[str], str, str]] = [
    ("a message", [*START, MAIL, RCPT, "DATA"], "354 End data with <CR><LF>.<CR><LF>", "as Postfix sends it"),
    ("lower case", ["lhlo x", FORWARD, "mail from:<>", "rcpt to:<a@b>", "data"], "354 End", "RFC 5321 2.4"),
    ("space in front", [*START, "MAIL FROM: <a@b>"], "250 2.1.0", "seen in the wild"),
    ("no LHLO", [FORWARD], "451 4.5.1", "RFC 5321 4.1.4"),
    ("MAIL without LHLO", [MAIL], "451 4.5.1", "the same"),
    ("no XFORWARD", [START[0], MAIL], "451 4.3.5", "without a queue ID nobody could tell a retry from another message"),
    ("no IDENT", [START[0], "XFORWARD ADDR=192.0.2.7", MAIL], "451 4.3.5", "the same"),
    ("unknown IDENT", [START[0], "XFORWARD IDENT=[UNAVAILABLE]", MAIL], "451 4.3.5", "the same"),
    ("made here", [START[0], "XFORWARD SOURCE=LOCAL", MAIL], "250 2.1.0", "Postfix tells no more of it: its Received field does"),
    ("RCPT first", [*START, RCPT], "451 4.5.1", "after a MAIL that found no favour, too"),
    ("DATA first", [*START, "DATA"], "451 4.5.1", "the same"),
    ("DATA without RCPT", [*START, MAIL, "DATA"], "451 4.5.1", "RFC 2033 4.2 has 503; Postfix would keep the message either way"),
    ("MAIL twice", [*START, MAIL, MAIL], "451 4.5.1", "the first stands"),
    ("XFORWARD late", [*START, MAIL, FORWARD], "451 4.5.1", "it is about the message that follows"),
    ("no path", [*START, "MAIL FROM:person@example.org"], "451 4.5.2", "a syntax error bounces nothing"),
    ("no word", [*START, "MAIL <person@example.org>"], "451 4.5.2", "the same"),
    ("open path", [*START, "MAIL FROM:<person@example.org"], "451 4.5.2", "the same"),
    ("empty RCPT", [*START, MAIL, "RCPT TO:<>"], "451 4.5.2", "the same"),
    ("XFORWARD without =", [START[0], "XFORWARD IDENT"], "451 4.5.2", "the same"),
    ("HELO", ["HELO mx"], "451 4.5.1", "RFC 2033 4.1 forbids 2xx; a 5xx would bounce"),
    ("EHLO", ["EHLO mx"], "451 4.5.1", "the same"),
    ("BDAT", [*START, MAIL, RCPT, "BDAT 3 LAST"], "500 5.5.1", "not offered"),
    ("AUTH", ["AUTH PLAIN"], "500 5.5.1", "not offered"),
    ("nothing", [""], "500 5.5.1", "no command at all"),
    ("octets", ["\udcff\udcfe"], "500 5.5.1", "no text"),
    ("NOOP", ["NOOP"], "250 2.0.0", "a sign of life"),
    ("VRFY", ["VRFY x"], "252 2.0.0", "RFC 5321 3.5.3: says nothing"),
    ("RSET", ["RSET"], "250 2.0.0", "Postfix asks before it uses a connection again"),
    ("QUIT", ["QUIT"], "221 2.0.0", "the end"),
    ("after RSET", [*START, MAIL, RCPT, "RSET", "DATA"], "451 4.5.1", "everything is forgotten"),
    ("after RSET, MAIL", [*START, MAIL, "RSET", MAIL], "451 4.3.5", "the queue ID as well: the next message has another"),
    ("after LHLO, MAIL", [*START, "LHLO x", MAIL], "451 4.3.5", "RFC 5321 4.1.4: as RSET"),
    ("other parameters", [*START, "MAIL FROM:<a@b> RET=HDRS ENVID=x X=y"], "250 2.1.0", "not offered: not for us to bounce"),
    ("the thin script", [WHOLE, "DATA"], "354 End", "it says the whole envelope at once, and has no name of its own to say"),
    ("XGATEPOST after MAIL", [*START, MAIL, WHOLE], "451 4.5.1", "one message, one envelope"),
    ("XGATEPOST twice", [WHOLE, WHOLE], "451 4.5.1", "the first stands"),
    ("MAIL after XGATEPOST", [*START, WHOLE, MAIL], "451 4.5.1", "the same"),
    ("RCPT after XGATEPOST", [WHOLE, RCPT], "451 4.5.1", "there is one recipient"),
    ("XGATEPOST after RSET", [WHOLE, "RSET", "DATA"], "451 4.5.1", "everything is forgotten"),
    ("no recipient", ["XGATEPOST --queue-id=71"], "451 4.5.2", "nothing to decide about"),
    ("no queue ID", ["XGATEPOST --recipient=6140622e63"], "451 4.5.2", "a retry could not be told from another message"),
    ("two recipients", [f"{WHOLE} --recipient=61"], "451 4.5.2", "the first would be lost: the script tells what is wrong"),
    ("unknown word", [f"{WHOLE} --verbose=61"], "451 4.5.2", "master.cf is wrong"),
    ("bare word", [f"{WHOLE} app"], "451 4.5.2", "the same"),
    ("no hex", [f"{WHOLE} --helo=xyz"], "451 4.5.2", "not our script"),
    ("no size", [f"{WHOLE} --size={b'1k'.hex()}"], "451 4.5.2", "room is asked for by it"),
    ("a size of 5,000 digits", [f"{WHOLE} --size={b'1'.hex() * 5_000}"], "451 4.5.2", "int() refuses it"),
    ("XGATEPOST alone", ["XGATEPOST"], "451 4.5.2", "a syntax error bounces nothing"),
    ("ORCPT", [*START, MAIL, f"{RCPT} ORCPT=rfc822;other@in.example.com NOTIFY=NEVER"], "250 2.1.5", "taken and never read"),
]  # fmt: skip


@pytest.mark.parametrize(("commands", "last"), [row[1:3] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_orders(commands: list[str], last: str) -> None:
    """The last of these commands is told this."""
    assert told(*commands)[-1].startswith(last)


def test_recipients_are_bounded() -> None:
    """One more is for another transaction: 452, and Postfix brings it by itself (RFC 5321 4.5.3.1.10)."""
    said = told(*START, MAIL, *[RCPT] * (MOST_RECIPIENTS + 1))
    assert (said[-2], said[-1]) == ("250 2.1.5 Ok", "452 4.5.3 Too many recipients")


FACTS: list[tuple[str, str, dict[str, str], str]] = [
    ("all", FORWARD, {"client_address": "192.0.2.7", "helo": "mail.example.org"}, "as Postfix sends it"),
    ("IPv6", "XFORWARD ADDR=IPv6:2001:db8::1 IDENT=q", {"client_address": "2001:db8::1"}, "pipe(8) has it without the prefix"),
    ("unknown", "XFORWARD ADDR=[UNAVAILABLE] HELO=[TEMPUNAVAIL] IDENT=q", {}, "mail that this host made"),
    ("xtext", "XFORWARD HELO=a+2Bb+3Dc+20d IDENT=q", {"helo": "a+b=c d"}, "XFORWARD_README: RFC 3461 4"),
    ("xtext, UTF-8", "XFORWARD HELO=+C3+A4 IDENT=q", {"helo": "ä"}, "octets of one character"),
    ("xtext, octet", "XFORWARD HELO=+FF IDENT=q", {"helo": "\udcff"}, "no UTF-8: a surrogate, as in the pipe's arguments"),
    ("not xtext", "XFORWARD HELO=a+zz IDENT=q", {"helo": "a+zz"}, "stays as it is"),
    ("two lines", "XFORWARD ADDR=192.0.2.1\nXFORWARD IDENT=q HELO=x", {"client_address": "192.0.2.1", "helo": "x"}, "Postfix may"),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "wanted"), [row[1:3] for row in FACTS], ids=[row[0] for row in FACTS])
def test_xforward_gives_what_the_pipe_s_arguments_give(forward: str, wanted: dict[str, str]) -> None:
    """Client address and HELO are those of the other rungs, letter by letter."""
    (found,) = envelopes(START[0], *forward.split("\n"), MAIL, RCPT)
    assert {name: getattr(found, name) for name in ("client_address", "helo")} == {"client_address": "", "helo": "", **wanted}


PATHS: list[tuple[str, str, str]] = [
    ("<>", "", "the null reverse-path"),
    ("<Person@Example.ORG>", "Person@Example.ORG", "as it stands"),
    ('<"a b"@example.org>', '"a b"@example.org', "quotes stay, as with flag q of pipe(8)"),
    ('<"a>b"@example.org> SIZE=1', '"a>b"@example.org', "a bracket in quotes ends nothing"),
    (r'<"a\">b"@example.org>', r'"a\">b"@example.org', "nor does a quoted quote"),
    ("<käy@example.org>", "käy@example.org", "SMTPUTF8"),
    ("<\udcff@example.org>", "\udcff@example.org", "octets that are no text"),
]


@pytest.mark.parametrize(("path", "address"), [row[:2] for row in PATHS], ids=[row[2] for row in PATHS])
def test_paths(path: str, address: str) -> None:
    """The address between the brackets; the recipient's is the original recipient too, for ORCPT is never read."""
    if not address:
        assert envelopes(*START, f"MAIL FROM:{path}", RCPT)[0].sender == ""
        return
    rcpt = f"RCPT TO:{path} ORCPT=rfc822;other@in.example.com"
    (found,) = envelopes(*START, f"MAIL FROM:{path}", rcpt)
    assert (found.sender, found.recipient, found.original_recipient) == (address, address, address)


SIZES = [
    ("SIZE=1234", "1234"),
    ("BODY=8BITMIME SIZE=7 SMTPUTF8", "7"),
    ("", ""),
    ("SIZE=x", ""),
    ("XSIZE=5", ""),
    ("size=9", "9"),
]


@pytest.mark.parametrize(("parameters", "size"), SIZES)
def test_size(parameters: str, size: str) -> None:
    """For the log, and to know how much room the message will want."""
    session = Session()
    for each in (*START, f"MAIL FROM:<a@b> {parameters}"):
        session.command(each.encode())
    assert session.size == size


def test_a_message_has_its_own_queue_id() -> None:
    """What XFORWARD said is forgotten with its message: another's queue ID would make two messages one."""
    session = Session()
    for each in (*START, MAIL, RCPT):
        session.command(each.encode())
    assert [each.queue_id for each in session.envelopes()] == ["4jWl4Z5tH8zJv6D"]
    session.reset()
    assert (session.queue_id, session.envelopes()) == ("", [])
    assert session.command(MAIL.encode()).reply.startswith("451 4.3.5")
