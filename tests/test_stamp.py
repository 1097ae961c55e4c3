"""The stamp: what the milter says to the door behind the queue is believed whole and from us, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost import stamp
from gatepost.decision import Envelope, Sender
from gatepost.mail.message import parse
from gatepost.settings import ParserLimits
from gatepost.stamp import Stamp

KEY = b"the store's secret of this host."
HOST_ID = "0123456789abcdef0123456789abcdef"
AUTHSERV_ID = "mx.example.com"
TOKEN = "00112233445566778899aabbccddeeff"
RESULTS = "mx.example.com;\r\n\tspf=pass smtp.mailfrom=example.org;\r\n\tdmarc=pass header.from=example.org"
VERIFIED = Sender(verified="yes", by="dmarc mx.example.com", mail_from_verified=True)
HEAD = b"From: A Person <person@example.org>\r\nSubject: Hello\r\n"
BODY = b"Hello.\r\n\r\nSee you.\r\n"


def envelope(**changes: str) -> Envelope:
    """What Postfix tells of the message."""
    usual = {"sender": "person@example.org", "recipient": "reply+k@in.example.com", "queue_id": "4jWl4Z5tH8zJv6D",
             "client_address": "192.0.2.7"}  # fmt: skip
    return Envelope(**(usual | changes))


def content(head: bytes = HEAD, body: bytes = BODY) -> str:
    return stamp.content_hash(parse(head + b"\r\n" + body, ParserLimits()))


def written(**changes: Any) -> tuple[str, bytes]:
    """The stamp's value and its binding, as the milter writes them."""
    usual: dict[str, Any] = {
        "token": TOKEN, "queue_id": "4jWl4Z5tH8zJv6D", "mail_from": "person@example.org", "client_address": "192.0.2.7",
        "sender": VERIFIED, "results": RESULTS, "content": content(),
    }  # fmt: skip
    return stamp.write(KEY, HOST_ID, **(usual | changes))


def delivered(value: str = "", *, results: str = RESULTS, head: bytes = HEAD, body: bytes = BODY) -> bytes:
    """The message as it comes out of the queue: Postfix's Received, the milter's two fields, what the sender wrote."""
    received = (
        b"Received: from a (a [192.0.2.7]) by mx.example.com (Postfix) with ESMTP id 4jWl4Z5tH8zJv6D;\r\n\tSat, 21 Nov 2026\r\n"
    )
    ours = f"X-Gatepost-Stamp: {value or written()[0]}\r\nAuthentication-Results: {results}\r\n".encode("latin-1")
    return received + ours + head + b"\r\n" + body


def between(fields: bytes) -> bytes:
    """The message with these fields between the stamp and its results."""
    return delivered().replace(b"Authentication-Results", fields + b"Authentication-Results", 1)


def read(raw: bytes, *, key: bytes = KEY, host_id: str = HOST_ID, **changes: str) -> Stamp | None:
    return stamp.read(key, host_id, parse(raw, ParserLimits()), envelope(**changes), AUTHSERV_ID)


VERDICTS: Any = ("yes", "no", "unknown")
SENDERS = [
    None,
    *(
        Sender(verified=verified, by=by, mail_from_verified=mail_from, temporary=temporary)
        for verified in VERDICTS
        for by, mail_from, temporary in product(
            ("", "dmarc mx.example.com", "spf mx.example.com"), (True, False), (True, False)
        )
    ),
]


@pytest.mark.parametrize("sender", SENDERS, ids=repr)
def test_what_was_written_is_read(sender: Sender | None) -> None:
    """Token, verdict, results and binding come back as they went in, under the same queue ID."""
    value, binding = written(sender=sender)
    assert read(delivered(value)) == Stamp(
        token=TOKEN, sender=sender, results=RESULTS.replace("\r\n", "").encode(), moved=False, binding=binding
    )


CLIENTS = [
    ("192.0.2.7", "::ffff:192.0.2.7", "a socket for both families shows IPv4 so"),
    ("IPv6:2001:db8::1", "2001:DB8:0:0::1", "one address in two spellings"),
    ("unknown", "", "nobody is nobody"),
    ("", "unknown", "nobody is nobody"),
]


@pytest.mark.parametrize(("at_smtp", "behind"), [row[:2] for row in CLIENTS], ids=[f"{row[2]} {row[0]}" for row in CLIENTS])
def test_one_client_in_two_spellings(at_smtp: str, behind: str) -> None:
    """The milter and pipe(8) may write one client differently."""
    assert read(delivered(written(client_address=at_smtp)[0]), client_address=behind) is not None


MAIL_FROM = [
    ("", "", "the null reverse-path"),
    ("", "<>", "with its brackets"),
    ("Person@Example.ORG", "person@example.org", "in another case"),
    ('"person"@example.org', "person@example.org", "quotes that it does not need"),
    ("person@example.org.", "person@example.org", "a final dot"),
    ("p\udcff@example.org", "p\udcff@example.org", "octets that are no UTF-8"),
]


@pytest.mark.parametrize(("at_smtp", "behind"), [row[:2] for row in MAIL_FROM], ids=[row[2] for row in MAIL_FROM])
def test_one_reverse_path_in_two_spellings(at_smtp: str, behind: str) -> None:
    """The milter and pipe(8) may write one MAIL FROM differently."""
    assert read(delivered(written(mail_from=at_smtp)[0]), sender=behind) is not None


VALUE = written()[0]
ONE_LINE = VALUE.replace("\r\n\t", " ")

#: What Postfix, or a host on the way to the door, may do with a message that stays the same message.
HARMLESS: list[tuple[str, bytes, str]] = [
    ("as written", delivered(), "nothing"),
    ("on one line", delivered(ONE_LINE), "unfolded"),
    ("folded otherwise", delivered(ONE_LINE.replace("; ", ";\r\n ")), "each part on a line"),
    ("white space at the ends", delivered(f"  {VALUE} \t"), "some programs put it there"),
    ("results on one line", delivered(results=RESULTS.replace("\r\n\t", " ")), "unfolded"),
    ("results folded otherwise", delivered(results=RESULTS.replace(" ", "\r\n   ")), "at each space"),
    ("an empty line more at the end", delivered(body=BODY + b"\r\n"), "Postfix adds one where there is none"),
    ("many empty lines more", delivered(body=BODY + b"\r\n" * 9), "the same"),
    ("ten thousand empty lines more", delivered(body=BODY + b"\r\n" * 10_000), "the same"),
    ("an empty line less", delivered(body=BODY[:-2]), "cut where it is empty"),
    ("another Subject", delivered(head=HEAD.replace(b"Hello", b"[list] Hello")), "nobody's verdict is about it"),
    ("further fields below", delivered(head=HEAD + b"Date: now\r\n"), "cleanup(8) adds what is missing"),
    ("From folded", delivered(head=HEAD.replace(b"Person <", b"Person\r\n\t<")), "the same From"),
    ("another field on top", b"X-Other: y\r\n" + delivered(), "another milter"),
    ("a field between", between(b"X-Other: y\r\n"), "a milter behind ours that inserts at place 1"),
    ("another's results between", between(b"Authentication-Results: mx2.example.com; dkim=fail\r\n"), "OpenDMARC behind ours"),
    ("ten fields between", between(b"X-Other: y\r\n" * 10), "several of them"),
    ("names in capitals", delivered().replace(b"X-Gatepost-Stamp", b"X-GATEPOST-STAMP"), "names have no case (RFC 5322 1.2.2)"),
    ("a second stamp below", delivered(head=b"X-Gatepost-Stamp: " + VALUE.encode() + b"\r\n" + HEAD), "the first one counts"),
]


@pytest.mark.parametrize("raw", [row[1] for row in HARMLESS], ids=[f"{row[0]}: {row[2]}" for row in HARMLESS])
def test_what_is_on_the_way_changes_nothing(raw: bytes) -> None:
    """Folds, empty lines at the end and fields of no concern leave the stamp as it is."""
    found = read(raw)
    assert found is not None
    assert (found.token, found.sender, found.moved) == (TOKEN, VERIFIED, False)


def part(name: str, text: str) -> Callable[[str], str]:
    """The value with another text for one part."""

    def change(value: str) -> str:
        parts = [each.strip().partition("=") for each in value.split(";")]
        assert name in [each[0] for each in parts]
        return "; ".join(f"{each[0]}={text if each[0] == name else each[2]}" for each in parts)

    return change


MAC = ONE_LINE[-64:]
#: id, what is done to the value, why it must not be believed.
FORGED: list[tuple[str, Callable[[str], str], str]] = [
    ("another version", part("v", "2"), "whatever it means"),
    ("no version", part("v", ""), "the same"),
    ("another token", part("t", "f" * 32), "the ledger has nothing of it"),
    ("short token", part("t", TOKEN[:-1]), "no token"),
    ("token in capitals", part("t", TOKEN.upper()), "another text"),
    ("token with a space", part("t", f" {TOKEN[1:]}"), "no token"),
    ("another queue ID", part("q", "4jWl4Z5tH8zJv6E"), "the MAC says which"),
    ("no queue ID", part("q", ""), "the same"),
    ("another client", part("c", "192.0.2.8"), "the MAC says which"),
    ("no client", part("c", "unknown"), "the same"),
    ("verified no", part("s", "no,mail-from"), "the verdict"),
    ("verified by itself", part("s", "yes"), "MAIL FROM was verified"),
    ("temporary too", part("s", "yes,temporary,mail-from"), "it was not"),
    ("not checked", part("s", "none"), "it was"),
    ("a verdict of no kind", part("s", ""), "none"),
    ("words in another order", part("s", "mail-from,yes"), "another text"),
    ("another method", part("m", "spf"), "the MAC says which"),
    ("no method", part("m", ""), "the same"),
    *((f"MAC, digit {at}", part("b", MAC[:at] + ("0" if MAC[at] != "0" else "1") + MAC[at + 1 :]), "every digit counts")
      for at in range(64)),
    ("MAC in capitals", part("b", MAC.upper()), "another text"),
    ("short MAC", part("b", MAC[:-2]), "it could be guessed"),
    ("long MAC", part("b", MAC + "00"), "another text"),
    ("no MAC", part("b", ""), "none"),
    ("MAC of nothing", part("b", "0" * 64), "none"),
    ("without v", lambda value: value.partition("; ")[2], "a part is missing"),
    ("without b", lambda value: value.rpartition(";")[0], "a part is missing"),
    ("v twice", lambda value: f"v=1; {value}", "a part too many"),
    ("b twice", lambda value: f"{value}; b={MAC}", "a part too many"),
    ("s twice", lambda value: value.replace("s=yes,mail-from", "s=yes,mail-from; s=yes,mail-from"), "a part too many"),
    ("a part of no name", lambda value: f"{value};", "a part too many"),
    ("a part nobody knows", lambda value: value.replace("; b=", "; x=1; b="), "a part too many"),
    ("another order", lambda value: value.replace("v=1; ", "").replace("; q=", "; v=1; q="), "order is part of it"),
    ("names in capitals", lambda value: value.replace("t=", "T="), "another name"),
    ("space in front of an equals sign", lambda value: value.replace("t=", "t ="), "another name"),
    ("space behind an equals sign", lambda value: value.replace("q=", "q= "), "another text"),
    ("commas for semicolons", lambda value: value.replace(";", ","), "another form"),
    ("a comment", lambda value: f"(ours) {value}", "another form"),
    ("quoted", lambda value: f'"{value}"', "another form"),
    ("too long", lambda value: value.replace("q=", "q=" + "4" * 300), "no queue ID has that"),
    ("8-bit", lambda value: value.replace("yes", "y\xe9s"), "nothing that we write"),
    ("nothing", lambda value: " ", "none"),
    ("text", lambda value: "yes", "none"),
]  # fmt: skip


@pytest.mark.parametrize("change", [row[1] for row in FORGED], ids=[f"{row[0]}: {row[2]}" for row in FORGED])
def test_a_changed_stamp_is_none(change: Callable[[str], str]) -> None:
    """Each part, each digit of the MAC, their order and their form: changed, nothing of it is believed."""
    changed = change(ONE_LINE)
    assert changed != ONE_LINE
    assert read(delivered(changed)) is None


def test_the_table_of_forged_stamps_is_long_enough() -> None:
    """At least 20 forms beside the single digits, each with a name of its own."""
    assert len({row[0] for row in FORGED}) == len(FORGED) >= 20 + 64


#: id, the message, what of the host and the envelope is another; why.
ELSEWHERE: list[tuple[str, bytes, dict[str, Any], str]] = [
    ("another MAIL FROM", delivered(), {"sender": "other@example.org"}, "copied onto another's mail"),
    ("null MAIL FROM", delivered(), {"sender": ""}, "the same"),
    ("another client", delivered(), {"client_address": "192.0.2.8"}, "copied onto another's mail"),
    ("client unknown", delivered(), {"client_address": "unknown"}, "the queue ID is the same, so the client is known"),
    ("another host", delivered(), {"host_id": "f" * 32}, "another store of ours"),
    ("another key", delivered(), {"key": b"another store's secret, 32 bytes"}, "a stranger's, or another store's"),
    ("another body", delivered(body=b"Goodbye.\r\n"), {}, "copied onto another message"),
    ("a body cut off", delivered(body=BODY[:8]), {}, "not the message"),
    ("a line in front of the body", delivered(body=b"\r\n" + BODY), {}, "not the body"),
    ("body and white space", delivered(body=BODY + b" \r\n"), {}, "not empty"),
    ("another From", delivered(head=HEAD.replace(b"person@", b"victim@")), {}, "a copied head under a victim's name"),
    ("another name in From", delivered(head=HEAD.replace(b"A Person", b"The Boss")), {}, "the same"),
    ("a second From", delivered(head=b"From: victim@example.org\r\n" + HEAD), {}, "the same"),
    ("no From", delivered(head=b"Subject: Hello\r\n"), {}, "the same"),
    ("results changed", delivered(results=RESULTS.replace("dmarc=pass", "dmarc=fail")), {}, "what the MAC covers"),
    ("results of another", delivered(results=RESULTS.replace("mx.", "mx2.")), {}, "what the MAC covers"),
    ("results longer", delivered(results=RESULTS + "; dkim=pass header.d=example.com"), {}, "what the MAC covers"),
    ("results empty", delivered(results=""), {}, "what the MAC covers"),
    ("results with another space", delivered(results=RESULTS.replace("spf=pass ", "spf=pass\xa0")), {}, "8-bit, not white space"),
    ("results with a separator", delivered(results=RESULTS.replace("spf=pass ", "spf=pass\x1c")), {}, "not white space"),
    ("no results", delivered().replace(b"Authentication-Results", b"X-Authentication-Results"), {}, "they belong together"),
    ("results above", delivered().replace(b"X-Gatepost-Stamp", b"Authentication-Results: a\r\nX-Gatepost-Stamp").replace(
        f"\r\nAuthentication-Results: {RESULTS}".encode(), b"", 1), {}, "they stand below"),
    ("eleven fields between", between(b"X-Other: y\r\n" * 11), {}, "more than any milter puts there"),
    ("a stranger's stamp on top", b"X-Gatepost-Stamp: v=1\r\n" + delivered(), {}, "the first one counts"),
    ("no stamp", delivered().replace(b"X-Gatepost-Stamp", b"X-Stamp"), {}, "none"),
    ("the stamp last", HEAD + b"X-Gatepost-Stamp: " + VALUE.encode() + b"\r\n\r\n" + BODY, {}, "no results below"),
    ("the stamp in the body", HEAD + b"\r\n" + delivered(), {}, "no field"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "changes"), [row[1:3] for row in ELSEWHERE], ids=[f"{row[0]}: {row[3]}" for row in ELSEWHERE])
def test_a_stamp_holds_for_its_own_message_alone(raw: bytes, changes: dict[str, Any]) -> None:
    """Another envelope, host, key, From, body or results field: nothing of it is believed."""
    assert read(raw, **changes) is None


def test_a_requeued_message_says_so() -> None:
    """Under another queue ID it is `moved`, with the binding that the milter has recorded; the client may be gone by then."""
    _, binding = written()
    for client in ("192.0.2.7", "unknown", ""):
        found = read(delivered(), queue_id="4jZZZZ5tH8zJv6D", client_address=client)
        assert found is not None
        assert (found.moved, found.binding, found.sender) == (True, binding, VERIFIED)
    assert read(delivered(), queue_id="4jZZZZ5tH8zJv6D", client_address="192.0.2.8") is None


BOUND = [
    ({"mail_from": "other@example.org"}, "MAIL FROM"),
    ({"client_address": "192.0.2.8"}, "client"),
    ({"content": content(body=b"x")}, "body"),
    ({"content": content(head=HEAD.replace(b"person@", b"victim@"))}, "From"),
]


@pytest.mark.parametrize("changes", [row[0] for row in BOUND], ids=[row[1] for row in BOUND])
def test_the_binding_is_of_this_message(changes: dict[str, Any]) -> None:
    """What a moved stamp is compared by has another value for another MAIL FROM, client, From or body; the queue ID is not in it."""
    assert written(**changes)[1] != written()[1]
    assert written(queue_id="Q2", token="f" * 32, results="x")[1] == written()[1]


def test_a_key_has_two_uses_that_never_meet() -> None:
    """The MAC is no binding, and neither tells the other."""
    value, binding = written()
    assert binding.hex() not in value
    assert len(binding) == 32


def test_nothing_of_a_recipient_is_in_it() -> None:
    """Every recipient sees the head: the stamp is the same whoever else gets the message, and has no person in it."""
    value, _ = written()
    assert "@" not in value
    assert "example.org" not in value
    assert all(len(line) < 150 for line in value.split("\r\n"))


@given(st.binary(max_size=500))
def test_any_value_is_one_or_none(value: bytes) -> None:
    """Whatever octets stand in the field, reading it ends, and believes none of them."""
    raw = b"X-Gatepost-Stamp: " + value + b"\r\nAuthentication-Results: x\r\n" + HEAD + b"\r\n" + BODY
    assert read(raw) is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_envelope_can_be_stamped(mail_from: str, client: str) -> None:
    """Whatever MAIL FROM and client are, what was written is read."""
    value, _ = written(mail_from=mail_from, client_address=client)
    assert read(delivered(value), sender=mail_from, client_address=client) is not None
