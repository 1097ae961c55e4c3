"""`gatepost try` where there is a milter: the SMTP answers that it would give, and with --ip what DNS says of the sender."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.dns_server import DnsServer
from gatepost.cli import main
from tests.installation import DOMAIN, Installation, install, message

OWNER = "ann@example.org"
ZONES: dict[str, dict[str, list[str]] | str] = {
    "example.org": {"TXT": ["v=spf1 ip4:192.0.2.7 -all"]},
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject"]},
    "silent.example": "silent",
    "_dmarc.silent.example": "silent",
}
RULES = "sender: {{must-match: reject, deny: [198.51.100.0/24, bad.example]}}\nscreening: {{automatic: reject}}\n"
MILTER = "milter: {{socket: 'unix:/run/gatepost/milter.sock', authserv_id: mx.example.com, dns: ['127.0.0.1:{port}'], dns_deadline: 1s}}\n"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """An installation with a milter that asks a DNS server of ours."""
    with DnsServer(ZONES) as server:
        installed = install(tmp_path, more=(RULES + MILTER).format(port=server.port))
        monkeypatch.setenv("GATEPOST_CONFIG", str(installed.config))
        yield installed


def tried(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    """The JSON answer of `gatepost try`, whatever its status."""
    assert main(["try", *words, "--json"]) in (0, 1), capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


GOES_ON = {"stage": "RCPT", "answer": "250, goes on"}
NO_SUCH = [{"stage": "RCPT", "answer": "550 5.1.1 No such address"}]
DENIED = [{"stage": "RCPT", "answer": "550 5.7.1 Sender is not accepted here"}]


def end(answer: str) -> list[dict[str, str]]:
    """A recipient that RCPT takes, and the answer at the end of the message."""
    return [GOES_ON, {"stage": "end of message", "answer": answer}]


#: id, the key, --sender, --ip, the answers, who the sender is.
ROWS = [
    ("spf passes and aligns", "owned", OWNER, "192.0.2.7", end("250 2.0.0 accepted"), "yes"),
    ("spf fails", "owned", OWNER, "192.0.2.8", end("550 5.7.1 Sender could not be verified"), "no"),
    ("another person", "owned", "eve@example.org", "192.0.2.7", end("550 5.7.1 Sender is not the one this address was made for"), "yes"),
    ("DNS is silent", "silent", "ann@silent.example", "192.0.2.7", end("451 4.7.0 Sender could not be verified yet, try later"), "unknown"),
    ("without --ip nobody is checked", "owned", OWNER, "", end("550 5.7.1 Sender could not be verified"), None),
    ("a denied network", "owned", OWNER, "198.51.100.9", DENIED, "no"),
    ("a denied MAIL FROM", "bearer", "x@bad.example", "192.0.2.7", DENIED, "unknown"),
    ("expired", "expired", OWNER, "192.0.2.7", NO_SUCH, "yes"),
    ("a guess", "guess", OWNER, "192.0.2.7", NO_SUCH, "yes"),
    ("not ours", "stranger", OWNER, "192.0.2.7", [{"stage": "RCPT", "answer": "left to Postfix: no route takes it"}], "yes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("which", "sender", "ip", "answers", "verified"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_answers_of_the_milter(
    made: Installation,
    capsys: pytest.CaptureFixture[str],
    which: str,
    sender: str,
    ip: str,
    answers: object,
    verified: str | None,
) -> None:
    """The milter's words for this address, sender and client; the sender is checked only with --ip."""
    addresses = {
        "owned": made.address(made.key(owner=OWNER)),
        "silent": made.address(made.key(owner="ann@silent.example")),
        "bearer": made.address(made.key()),
        "expired": made.address(made.key(days=-2)),
        "guess": f"reply+guess@{DOMAIN}",
        "stranger": f"nobody@{DOMAIN}",
    }
    found = tried(capsys, addresses[which], "--sender", sender, *(["--ip", ip] if ip else []))
    assert found["smtp"] == answers
    checked = found["sender"]
    assert (checked["verified"] if isinstance(checked, dict) else None) == verified
    assert not (made.store / "gatepost.sqlite").exists()


def test_a_file_is_judged_whole(made: Installation, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A message's own head decides at its end; a person reads the same words."""
    file = tmp_path / "vacation.eml"
    file.write_bytes(message(sender=OWNER, headers="Auto-Submitted: auto-replied\n"))
    to = made.address(made.key(owner=OWNER))
    words = (str(file), "--recipient", to, "--ip", "192.0.2.7")
    assert tried(capsys, *words)["smtp"] == end("550 5.7.1 Automatic mail is not accepted here")
    assert main(["try", *words]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "RCPT: 250, goes on",
        "end of message: 550 5.7.1 Automatic mail is not accepted here",
        "sender: yes (dmarc mx.example.com)",
    ]
    assert said[3].startswith("checked: mx.example.com; spf=pass smtp.mailfrom=example.org")


@pytest.mark.parametrize(("words", "said"), [
    (("--ip", "192.0.2.256"), "no IPv4 or IPv6 address"),
    (("--ip", "localhost"), "no IPv4 or IPv6 address"),
    (("--ip", "::g"), "no IPv4 or IPv6 address"),
])  # fmt: skip
def test_what_is_no_client(made: Installation, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    """An --ip that is none is told, and nothing is asked."""
    assert main(["try", f"reply+k@{DOMAIN}", *words]) == 75
    assert said in capsys.readouterr().err


def test_without_a_milter_there_is_nobody_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--ip needs the milter's settings; without --ip the command answers as ever, without SMTP answers."""
    installed = install(tmp_path)
    monkeypatch.setenv("GATEPOST_CONFIG", str(installed.config))
    to = installed.address(installed.key(days=3))
    assert tried(capsys, to)["smtp"] == []
    assert main(["try", to, "--ip", "192.0.2.7"]) == 75
    assert "no milter: with authenticate:" in capsys.readouterr().err
