"""Task mx_records of role mx, as ansible-playbook runs it: what it asks and changes, and that nobody sees the key's secret.

Every step runs in one play, in order, against a server of our own on loopback; each test looks at the steps that it names.
"""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from demo.dns_server import SERVFAIL, DnsServer
from tests.ansible_module import ANSIBLE, LAB_PYTHON
from tests.test_ansible_mx_dns import KEY, OTHER_SECRET, SECRET, Zones

DOMAIN: Final = "in.example.com"
MX1: Final = {"name": "mx1.in.example.com", "priority": 10, "addresses": ["192.0.2.11", "2001:db8::11"]}
MX2: Final = {"name": "mx2.in.example.com", "priority": 20, "addresses": ["192.0.2.12"]}
AWAY: Final = {"name": "mx.example.org", "addresses": []}
TEXTS: Final = {"spf": "v=spf1 -all", "host_spf": "", "dmarc": "v=DMARC1; p=reject;", "tls_reports": []}
#: What a member of the group in the inventory has; `bare` has nothing but its name.
MEMBERS: Final = {
    "mx1.in.example.com": {"mx_addresses": ["192.0.2.11"]},
    "second": {"gatepost_host": "mx2.in.example.com", "mx_priority": 20, "mx_addresses": ["192.0.2.12"]},
    "bare.in.example.com": {},
}


@dataclass(frozen=True)
class Played:
    """`steps`: what each task said; `text`: everything that ansible-playbook printed; `updates`: what the server was sent."""

    steps: dict[str, dict[str, Any]]
    text: str
    updates: list[list[str]]


def steps(port: int, resolver: int, whole: int, broken: int) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, arguments over the usual ones, and what stands beside the task."""
    update = {"mode": "update"}
    moved = {**MX1, "addresses": ["192.0.2.99"]}
    complete = {"addresses": ["127.0.0.1"], "port": whole}
    named = {"server": {"address": "ns.example.org", "port": port}}
    return [
        ("records are missing, check mode", update, {"check_mode": True}),
        ("records are missing", update, {}),
        ("all is there", update, {}),
        ("all is there, check mode", update, {"check_mode": True}),
        ("a host has moved", {**update, "hosts": [moved, MX2]}, {}),
        ("the hosts of the group", {**update, "hosts": []}, {}),
        ("addresses are others' affair", {**update, "addresses": False, "hosts": [moved, MX2], "resolver": complete}, {}),
        (
            "a host in a zone of another's",
            {**update, "addresses": False, "hosts": [AWAY], "resolver": complete},
            {"check_mode": True},
        ),
        ("the last host leaves", {**update, "state": "absent"}, {}),
        ("the last host has left", {**update, "state": "absent"}, {}),
        ("a resolver that has a part", {}, {}),
        ("a resolver that has all", {"resolver": complete}, {}),
        ("the policy alone", {"mode": "policy", "sts": "enforce", "resolver": {"addresses": [], "port": broken}}, {}),
        ("no such group", {"hosts": [], "group": "nobody"}, {}),
        ("a host without address", {**update, "hosts": [], "group": "bare"}, {}),
        ("no domain", {"domain": "in example"}, {}),
        ("a resolver that is broken", {"resolver": {"addresses": ["127.0.0.1"], "port": broken}}, {}),
        ("a server by name", {**update, **named}, {}),
        ("a secret that is none", update, {"vars": {"mx_tsig_secret": "%%%"}}),
        ("another secret", update, {"vars": {"mx_tsig_secret": OTHER_SECRET}}),
        ("no key", update, {"vars": {"mx_tsig_secret": ""}}),
        ("an argument that is none", {"secret": "x"}, {}),
    ]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One run of ansible-playbook with --diff and -vvvv."""
    folder = tmp_path_factory.mktemp("play")
    part = {DOMAIN: {"MX": ["20 mx2.in.example.com"], "TXT": ["v=spf1 -all"]}, "mx2.in.example.com": {"A": ["192.0.2.12"]}}
    every = {
        **part,
        DOMAIN: {"MX": ["20 mx2.in.example.com", "10 mx1.in.example.com"], "TXT": ["another's", "v=spf1 -all"]},
        "mx.example.org": {"A": ["198.51.100.1"]},
        "mx1.in.example.com": {"A": ["192.0.2.11"], "AAAA": ["2001:db8::11"]},
        f"_dmarc.{DOMAIN}": {"TXT": ["v=DMARC1; p=reject;"]},
    }
    with Zones() as server, DnsServer(part) as resolver, DnsServer(every) as whole, DnsServer({DOMAIN: SERVFAIL}) as broken:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            port = int(server.server_address[1])
            text, results = play(folder, port, resolver.port, whole.port, broken.port)
        finally:
            server.shutdown()
            thread.join()
    return Played(results, text, server.updates)


def play(folder: Path, port: int, resolver: int, whole: int, broken: int) -> tuple[str, dict[str, dict[str, Any]]]:
    """What was printed, and each task's result, which the play writes down itself."""
    usual = {
        "domain": DOMAIN, "hosts": [MX1, MX2], "group": "mail_hosts", "state": "present", "mode": "check", "texts": TEXTS,
        "sts": "none", "sts_web": [], "addresses": True, "server": {"address": "127.0.0.1", "port": port},
        "resolver": {"addresses": ["127.0.0.1"], "port": resolver}, "key": {"name": KEY, "algorithm": "hmac-sha256"}, "ttl": 300,
    }  # fmt: skip
    rows = steps(port, resolver, whole, broken)
    tasks: list[dict[str, Any]] = [
        {"name": name, "mx_records": {**usual, **given}, "ignore_errors": True, "register": f"step{number}", **more}
        for number, (name, given, more) in enumerate(rows)
    ]
    results = folder / "results.json"
    answers = "{{ [" + ", ".join(f"step{number}" for number in range(len(rows))) + "] | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": answers, "dest": str(results), "mode": "0600"}, "no_log": True})
    given = {"mx_tsig_secret": SECRET}
    book = [{"hosts": "mx1.in.example.com", "connection": "local", "gather_facts": False, "vars": given, "tasks": tasks}]
    (folder / "play.yml").write_text(json.dumps(book))
    group = {"hosts": {name: MEMBERS[name] for name in list(MEMBERS)[:2]}}
    bare: dict[str, Any] = {"hosts": {"bare.in.example.com": {}}}
    (folder / "inventory.json").write_text(json.dumps({"all": {"children": {"mail_hosts": group, "bare": bare}}}))
    environment = {
        "ANSIBLE_ACTION_PLUGINS": str(ANSIBLE / "roles" / "mx" / "action_plugins"), "ANSIBLE_NOCOLOR": "1", "HOME": str(folder),
        "ANSIBLE_PYTHON_INTERPRETER": str(LAB_PYTHON), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8",
    }  # fmt: skip
    command = [str(LAB_PYTHON), "-I", str(LAB_PYTHON.parent / "ansible-playbook"), "-vvvv", "--diff", "-i",
               str(folder / "inventory.json"), str(folder / "play.yml")]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found: list[dict[str, Any]] = json.loads(results.read_text())
    return done.stdout + done.stderr, {row[0]: answer for row, answer in zip(rows, found, strict=True)}


CHANGES = [
    ("records are missing, check mode", True, "told; the next step still has it to do"),
    ("records are missing", True, "done"),
    ("all is there", False, "a second run"),
    ("all is there, check mode", False, "a second run, asked only"),
    ("a host has moved", True, "the address that was given counts"),
    ("the hosts of the group", True, "names, priorities and addresses come from the inventory: mx1 moves back"),
    ("addresses are others' affair", False, "mx_host_records: false"),
    ("a host in a zone of another's", True, "our server is not asked for its address; check mode"),
    ("the last host leaves", True, "MX and texts go"),
    ("the last host has left", False, "a second run"),
    ("a resolver that has a part", False, "mode check changes nothing"),
    ("a resolver that has all", False, "mode check changes nothing"),
]


@pytest.mark.parametrize(("step", "changed", "why"), CHANGES, ids=[row[0] for row in CHANGES])
def test_what_changes_is_told(played: Played, step: str, changed: bool, why: str) -> None:
    """`changed` where DNS was changed, or would be in check mode; the text to paste and the diff say the same."""
    answer = played.steps[step]
    assert not answer.get("failed"), answer
    assert answer["changed"] is changed, why
    assert bool(answer.get("diff")) is changed
    if step != "a resolver that has a part":
        assert bool(answer["missing"]) is changed


def test_one_update_a_change_and_none_in_check_mode(played: Played) -> None:
    """Each step that changed sent one message, in their order, and no other step sent any."""
    lines = [
        "+mx1.in.example.com A 192.0.2.11",
        "-mx1.in.example.com A 192.0.2.11",
        "-mx1.in.example.com A 192.0.2.99",
        "-in.example.com MX 10 mx1.in.example.com.",
    ]
    assert [line in update for line, update in zip(lines, played.updates, strict=True)] == [True] * 4


def test_the_diff_is_of_dns(played: Played) -> None:
    """--diff shows the records before and after, as a zone file has them."""
    diff = played.steps["a host has moved"]["diff"]
    assert (diff["before_header"], diff["after_header"]) == ("DNS", "DNS")
    assert "mx1.in.example.com. 300 IN A 192.0.2.11\n" in diff["before"]
    assert "mx1.in.example.com. 300 IN A 192.0.2.99\n" in diff["after"]


def test_what_is_missing_is_ready_to_paste(played: Played) -> None:
    """Mode check asks the resolver, and prints what it does not have, and nothing of what it has."""
    answer = played.steps["a resolver that has a part"]
    lines = [line for line in answer["missing"].splitlines() if not line.startswith(";")]
    assert lines == [
        "mx1.in.example.com. 300 IN A 192.0.2.11",
        "mx1.in.example.com. 300 IN AAAA 2001:db8::11",
        "in.example.com. 300 IN MX 10 mx1.in.example.com.",
        '_dmarc.in.example.com. 300 IN TXT "v=DMARC1; p=reject;"',
    ]
    assert all(line in played.text for line in lines)


def test_the_policy_asks_nobody(played: Played) -> None:
    """The file of MTA-STS, made before DNS is looked at."""
    answer = played.steps["the policy alone"]
    assert answer["policy"].splitlines()[1:4] == ["mode: enforce", "mx: mx1.in.example.com", "mx: mx2.in.example.com"]
    assert (answer.get("failed", False), answer.get("changed", False), answer.get("missing", "")) == (False, False, "")


REFUSED = [
    ("no such group", "the inventory has no group 'nobody': set mx_group"),
    ("a host without address", "DNS has no address for bare.in.example.com, and none is known"),
    ("no domain", "is not a domain name"),
    ("a resolver that is broken", "SERVFAIL"),
    ("a server by name", "mx_server must be an IP address, and mx_tsig_secret base64"),
    ("a secret that is none", "mx_server must be an IP address, and mx_tsig_secret base64"),
    ("another secret", "the secret or its algorithm is wrong"),
    ("no key", "REFUSED: the server does not let this key"),
    ("an argument that is none", "Invalid options for mx_records: secret"),
]


@pytest.mark.parametrize(("step", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_refusal_says_what_to_do(played: Played, step: str, says: str) -> None:
    """It fails with a sentence for the person who set the variables, and without a traceback."""
    answer = played.steps[step]
    assert answer["failed"] is True
    assert says in answer["msg"]
    assert "Traceback" not in json.dumps(answer)


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET, "%%%"], ids=["the key's", "another", "one that is none"])
def test_nobody_sees_the_secret(played: Played, secret: str) -> None:
    """Not in what is printed with -vvvv and --diff, in no result, and in no error."""
    assert "mx_records" in played.text
    assert secret not in played.text
    assert secret not in json.dumps(played.steps)
