"""The commands, as a person and as a program see them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatepost.cli import main
from gatepost.decision import Envelope
from gatepost.gateway import Gateway, Receipt
from gatepost.mail.canonical import from_pipe
from gatepost.stores.ledger import Ledger
from tests.installation import Installation, give_to, install, message

NOBODY = 65534
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation that the commands find by $GATEPOST_CONFIG."""
    installed = install(tmp_path)
    monkeypatch.setenv("GATEPOST_CONFIG", str(installed.config))
    return installed


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What a command prints on standard output; its exit status is checked."""
    assert main(words) == status, capsys.readouterr().err
    return capsys.readouterr().out


def asked(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, object]:
    """The JSON object that a command answers."""
    found = json.loads(answer(capsys, *words, "--json", status=status))
    assert isinstance(found, dict)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *words: str, status: int = 75) -> str:
    """What a command that cannot do it says on standard error."""
    assert main(words) == status
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def park(made: Installation, to: str = "nobody@in.example.com", queue_id: str = "Q1") -> Receipt:
    """Something parked."""
    envelope = Envelope(sender="evil\x1b[31m@example.org", recipient=to, queue_id=queue_id)
    return Gateway(made.settings).receive(envelope, from_pipe(message(subject="a\x1b[2Jb")), deadline=time.monotonic() + 20)


def test_config_check_says_what_it_found(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A good file: one line, status 0. A bad one: each mistake with its place, status 1, the same in JSON."""
    assert answer(capsys, "config", "check", str(made.config)) == f"{made.config}: ok, 2 routes, 1 sink\n"
    assert asked(capsys, "config", "check", str(made.config)) == {"ok": True, "problems": [], "warnings": []}
    made.config.write_text(made.config.read_text().replace("deliver: [app]", "deliver: [ap]", 1) + "colour: red\n")
    said = complaint(capsys, "config", "check", str(made.config), status=1)
    assert said.endswith(f"{made.config}: 2 mistakes; it cannot be used\n")
    found = asked(capsys, "config", "check", str(made.config), status=1)
    problems = found["problems"]
    assert isinstance(problems, list)
    assert all(f"{each['file']}:{each['line']}:{each['column']}: {each['text']}" in said for each in problems)


def test_every_command_names_the_mistakes_of_a_bad_config(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """No command works on a configuration that cannot be used; each says where the mistake is."""
    made.config.write_text("routes: []\n")
    for words in (
        ["key", "new", "--subject", "1"],
        ["try", "a@b"],
        ["parked", "list"],
        ["prune"],
        ["postfix", "--person", "a@example.org"],
    ):
        assert f"{made.config}:1:" in complaint(capsys, *words)


def test_a_new_key_is_accepted_and_then_revoked(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """key new gives what an outgoing mail needs; try accepts it; key revoke ends that, and says so again when asked twice."""
    new = asked(capsys, "key", "new", "--route", "replies", "--subject", "42", "--expires", "30d", "--owner", "a@example.org")
    address = str(new["reply_to"])
    assert address == f"reply+{new['key']}@in.example.com"
    assert str(new["message_id"]).startswith(f"<reply-{new['key']}.")
    again = asked(capsys, "key", "new", "--route", "replies", "--subject", "42", "--expires", "30d", "--owner", "a@example.org")
    assert (again["key"], again["message_id"] == new["message_id"]) == (new["key"], False)
    shown = asked(capsys, "key", "show", address)
    assert (shown["result"], shown["subject"], shown["has_owner"]) == ("live", "42", True)
    assert asked(capsys, "try", address)["action"] == "accept"
    for _ in range(2):
        answer(capsys, "key", "revoke", address)
    assert made.revoked.read_text().count("\n") == 1
    assert str(new["key"]) not in made.revoked.read_text()
    assert asked(capsys, "key", "show", str(new["key"]), "--route", "replies", status=1)["result"] == "revoked"
    tried = asked(capsys, "try", address, status=1)
    assert (tried["action"], tried["decided"], tried["rule"]) == ("park", "reject", "key-revoked")


def test_a_dedicated_route_gives_its_own_address(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """Reply-To is the dedicated address; the Message-ID carries the key."""
    new = asked(capsys, "key", "new", "--route", "support", "--subject", "ticket-7")
    assert new["reply_to"] == "support@in.example.com"
    file = made.folder / "reply.eml"
    file.write_bytes(message(headers=f"In-Reply-To: {new['message_id']}\n"))
    tried = asked(capsys, "try", str(file), "--recipient", "support@in.example.com")
    assert tried["key"] == {"kind": "", "subject": "ticket-7", "options": []}


def test_revoke_names_the_routes_that_still_take_the_key(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """Routes that share a secret and not a revoked: file: who revokes must know."""
    said = answer(capsys, "key", "revoke", made.address(made.key()))
    assert "but route support has the same secret" in said


def test_try_shows_no_control_characters(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """Evidence is a stranger's text."""
    file = made.folder / "evil.eml"
    file.write_bytes(message(headers="Auto-Submitted: auto-replied\x1b]0;owned\x07\n"))
    assert "\x1b" not in answer(capsys, "try", str(file), "--recipient", made.address(made.key()), status=1)


def test_try_finds_every_recipient_that_a_message_names(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --recipient the head says whom it is for: one answer for each address of ours."""
    file = made.folder / "two.eml"
    to = made.address(made.key())
    file.write_bytes(message(to=f"someone@example.org, {to}", headers="Cc: reply+bad@in.example.com\n"))
    lines = answer(capsys, "try", str(file), "--json", status=1).splitlines()
    assert [(json.loads(line)["recipient"], json.loads(line)["rule"]) for line in lines] == [
        (to, "accepted"), ("reply+bad@in.example.com", "key-unknown"),
    ]  # fmt: skip
    file.write_bytes(message(to="someone@example.org"))
    assert "names no address of ours" in complaint(capsys, "try", str(file))


KEY_MISTAKES = [
    (["key", "new", "--subject", "1"], "routes with keys: replies, support", "which route is meant"),
    (["key", "new", "--subject", "1", "--route", "x"], "no such route with keys: x", "a typing error"),
    (["key", "new", "--subject", "x" * 17, "--route", "replies"], "17 bytes", "too long for a key"),
    (["key", "new", "--subject", "1", "--route", "replies", "--expires", "soon"], "30d", "the mend is an example"),
    (["key", "show", "a@example.org"], "no route's address takes it", "another domain"),
    (["key", "revoke", "garbage", "--route", "replies"], "nothing to revoke", "not a key"),
    (["key", "revoke", "garbage", "--route", "support"], "no revoked: file", "the route has none"),
    (["try", "nonsense"], "no such file", "neither a file nor an address"),
    (["parked", "show", "ffff"], "no parked message", "nothing there"),
    (["parked", "drop"], "name ids", "never everything by omission"),
    (["parked", "drop", "aa", "--rule", "no-route"], "name ids", "not both"),
]


@pytest.mark.parametrize(("words", "said"), [row[:2] for row in KEY_MISTAKES], ids=[row[2] for row in KEY_MISTAKES])
def test_a_mistake_is_answered_with_the_mend(
    made: Installation, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Status 75, one line on standard error, nothing on standard output."""
    text = complaint(capsys, *words)
    assert said in text
    assert text.count("\n") == 1


def test_try_answers_one_object(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """action, rule, status, text, route, id and a trace of rule, applied, evidence."""
    file = made.folder / "vacation.eml"
    file.write_bytes(message(headers="Auto-Submitted: auto-replied\n"))
    found = asked(capsys, "try", str(file), "--recipient", made.address(made.key()), status=1)
    assert {name: found[name] for name in ("action", "rule", "status", "route", "id")} == {
        "action": "discard", "rule": "automatic", "status": "5.7.1", "route": "replies", "id": None,
    }  # fmt: skip
    trace = found["trace"]
    assert isinstance(trace, list)
    assert [step["rule"] for step in trace if step["applied"]] == ["automatic"]
    assert set(trace[0]) == {"rule", "applied", "evidence"}
    assert "Auto-Submitted: auto-replied" in answer(capsys, "try", str(file), "--recipient", made.address(made.key()), status=1)


def test_try_touches_no_store(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """Asking what would happen leaves no row and no file."""
    asked(capsys, "try", made.address(made.key()))
    assert list(made.store.iterdir()) == []


def test_parked_mail_is_listed_shown_released_and_dropped(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """The life of parked mail; a stranger's control characters never reach the terminal."""
    first, second = park(made), park(made, queue_id="Q2")
    listed = answer(capsys, "parked", "list")
    assert first.id[:12] in listed
    assert "2 parked" in listed
    assert "\x1b" not in listed
    assert "\x1b" not in answer(capsys, "parked", "show", first.id[:12])
    facts = asked(capsys, "parked", "show", first.id)
    assert (facts["rule"], facts["kind"], facts["recipient"]) == ("no-route", "refused", "nobody@in.example.com")
    assert facts["host"] == os.uname().nodename
    assert "name one with --route" in answer(capsys, "parked", "release", first.id, status=1)
    assert "released to app" in answer(capsys, "parked", "release", first.id, "--route", "support")
    assert len(list((made.folder / "Maildir" / "new").iterdir())) == 1
    assert answer(capsys, "parked", "drop", "--rule", "no-route") == "dropped 1\n"
    assert answer(capsys, "parked", "list") == f"nothing is parked on {os.uname().nodename}: each mail host has its own\n"
    assert second.id[:12] not in answer(capsys, "parked", "list")


def test_what_the_sink_does_not_take_stays_parked(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """release answers 1 and says why; the copy is still there."""
    parked = park(made)
    (made.folder / "Maildir").write_text("in the way")
    assert "stays parked" in answer(capsys, "parked", "release", parked.id, "--route", "support", status=1)
    assert "1 parked" in answer(capsys, "parked", "list")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_command_run_as_root_becomes_the_stores_owner(tmp_path: Path) -> None:
    """No file in the store belongs to root afterwards: with such a journal the pipe script could not open its ledger."""
    folder = Path(
        subprocess.run(
            ["mktemp", "-d", "/tmp/gatepost-owner.XXXXXX"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    try:
        folder.chmod(0o755)
        made = install(folder)
        give_to(NOBODY, NOBODY, made)
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from gatepost.cli import main; sys.exit(main(sys.argv[1:]))"
        address = made.address(made.key())
        for words in (["parked", "list"], ["prune"], ["key", "revoke", address]):
            done = subprocess.run([sys.executable, "-c", code, *words, "--config", str(made.config)], capture_output=True,
                                  text=True, timeout=60, check=False)  # fmt: skip
            assert (done.returncode, done.stderr) == (0, ""), words
        owners = {path: path.stat().st_uid for path in [*made.store.rglob("*"), made.revoked]}
        assert len(owners) >= 3
        assert set(owners.values()) == {NOBODY}
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_the_fragments_are_printed_and_written(made: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """gatepost postfix prints each file with its name, or writes them where it is told."""
    printed = answer(capsys, "postfix", "--host", "mx.example.com", "--person", "person@example.org")
    answer(capsys, "postfix", "--host", "mx.example.com", "--person", "person@example.org", "--write", str(tmp_path / "out"))
    for file in (tmp_path / "out").iterdir():
        assert f"##### {file.name}\n{file.read_text()}" in printed
    assert f"--config={made.config}" in (tmp_path / "out" / "master.cf").read_text()


def test_release_goes_on_after_one_that_cannot_be_released(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    """A head alone stays parked, with the reason; the others of the rule are released."""
    park(made, "reply+garbage@in.example.com")
    park(made, "nobody@in.example.com", "Q2")
    assert "only the head was kept" in answer(capsys, "parked", "release", "--rule", "key-unknown", status=1)
    assert "released to app" in answer(capsys, "parked", "release", "--rule", "no-route", "--route", "support")


def test_a_bare_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a word: the list of commands, and status 2."""
    assert "parked" in complaint(capsys, status=2)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """gatepost --help is the map."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"    {name} " in text for name in ("config", "key", "try", "parked", "prune", "postfix"))


@pytest.mark.parametrize(("most", "left"), [(10_000, 0), (600, 100), (250, 450), (3, 697)])
def test_prune_a_few_at_a_time(
    most: int, left: int, made: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old rows go in transactions that hold no message up, and between two of them a message may write."""
    Ledger.open(made.settings.store).close()
    with sqlite3.connect(f"{made.settings.store}/gatepost.sqlite") as database:
        database.executemany(
            "INSERT INTO delivery VALUES (?, 'Q', 1, 1, 1, 0, 1, 0, 'done', '', '', x'', x'', 1)",
            [(n.to_bytes(32),) for n in range(700)],
        )
    database.close()
    asked_for: list[int] = []
    whole = Ledger.prune

    def told(self: Ledger, now: float, keep: float, limit: int) -> int:
        asked_for.append(limit)
        return whole(self, now, keep, limit)

    monkeypatch.setattr(Ledger, "prune", told)
    assert asked(capsys, "prune", f"--most={most}")["ledger_rows"] == 700 - left
    assert max(asked_for) <= 250
