"""The firewall's rules: what its variables mean, and what the kernel does with real packets between two network namespaces."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jinja2
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLE = Path(__file__).resolve().parent.parent / "ansible" / "roles" / "firewall"


def load() -> ModuleType:
    """The role's filters, which are no package."""
    spec = importlib.util.spec_from_file_location("firewall_rules", ROLE / "filter_plugins" / "firewall_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rules = load()

NETWORKS = [
    ("none", [], {"ipv4": [], "ipv6": []}),
    ("both families", ["192.0.2.0/24", "2001:DB8::/32"], {"ipv4": ["192.0.2.0/24"], "ipv6": ["2001:db8::/32"]}),
    ("one address", ["192.0.2.1", "2001:db8::1/128"], {"ipv4": ["192.0.2.1"], "ipv6": ["2001:db8::1"]}),
    ("bits of a host in a network", ["192.0.2.77/24"], {"ipv4": ["192.0.2.0/24"], "ipv6": []}),
    ("twice", ["192.0.2.1", "192.0.2.1/32"], {"ipv4": ["192.0.2.1"], "ipv6": []}),
]


@pytest.mark.parametrize(("given", "families"), [row[1:] for row in NETWORKS], ids=[row[0] for row in NETWORKS])
def test_networks(given: list[str], families: dict[str, list[str]]) -> None:
    """Networks are sorted by family and written as nft prints them, so that a second run finds them as they are."""
    assert rules.networks(given) == families


COVERS = [
    ("no network is the world", [], "203.0.113.9", True),
    ("within", ["203.0.113.0/24"], "203.0.113.9", True),
    ("outside", ["203.0.113.0/24"], "198.51.100.1", False),
    ("another family", ["203.0.113.0/24"], "2001:db8::1", False),
    ("with a zone", ["fe80::/10"], "fe80::1%eth0", True),
]


@pytest.mark.parametrize(("given", "address", "answer"), [row[1:] for row in COVERS], ids=[row[0] for row in COVERS])
def test_is_the_way_in_covered(given: list[str], address: str, answer: bool) -> None:
    """The address from which Ansible comes gets a rule of its own only where the networks for ssh leave it out."""
    assert rules.covers(given, address) is answer


MISTAKES = [
    ("no port", {"proto": "tcp"}, "port must be"),
    ("port too large", {"port": 65536}, "port must be"),
    ("port in words", {"port": "smtp"}, "invalid literal"),
    ("protocol", {"port": 25, "proto": "sctp"}, "proto must be"),
    ("network", {"port": 25, "from": ["192.0.2.0/33"]}, "192.0.2.0/33"),
    ("network with more", {"port": 25, "from": ["192.0.2.1 } accept"]}, "192.0.2.1 } accept"),
    ("networks as a text", {"port": 25, "from": "192.0.2.1"}, "from must be a list"),
    ("rate without unit", {"port": 25, "rate": "60"}, "rate '60'"),
    ("rate of another unit", {"port": 25, "rate": "60/day"}, "rate '60/day'"),
    ("rate with more", {"port": 25, "rate": "60/minute } accept"}, "rate "),
    ("count of udp", {"port": 53, "proto": "udp", "count": 3}, "count is for tcp"),
    ("negative", {"port": 25, "burst": -1}, "negative"),
    ("misspelled", {"port": 25, "rates": "60/minute"}, "unknown: rates"),
]


@pytest.mark.parametrize(("entry", "says"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_in_firewall_open_is_named(entry: dict[str, Any], says: str) -> None:
    """What is not understood never reaches the ruleset; the error names the entry and what is wrong with it."""
    with pytest.raises(ValueError, match=r"firewall_open, entry 2 ") as raised:
        rules.opened([{"port": 80}, entry])
    assert says in str(raised.value)


def test_an_entry_with_its_defaults() -> None:
    """The least that can be said opens a tcp port to the world without limits; a rate's burst is its number."""
    plain, limited = rules.opened([{"port": 25}, {"port": "465", "rate": "60 / minute", "from": ["2001:db8::/32"]}])
    assert plain == {
        "name": "tcp_25_1",
        "port": 25,
        "proto": "tcp",
        "world": True,
        "ipv4": [],
        "ipv6": [],
        "rate": "",
        "keep": "",
        "burst": 0,
        "count": 0,
    }
    assert (limited["rate"], limited["burst"], limited["keep"], limited["world"]) == ("60/minute", 60, "1m", False)


LISTENING = """LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=120,fd=3))
LISTEN 0      100          0.0.0.0:25        0.0.0.0:*    users:(("master",pid=300,fd=13))
LISTEN 0      128             [::]:2222         [::]:*    users:(("sshd",pid=120,fd=4))
LISTEN 0      128                *:2200            *:*    users:(("sshd",pid=120,fd=5))
"""

SSH = [
    ("nothing known", {}, []),
    ("where sshd listens", {"listening": LISTENING}, [22, 2200, 2222]),
    ("where it will listen", {"configured": "port 2022\nportx 3\nusedns no\n"}, [2022]),
    ("where Ansible came in", {"connection": "198.51.100.1 40000 192.0.2.1 8022"}, [8022]),
    ("no connection by ssh", {"connection": ""}, []),
    ("all", {"listening": LISTENING, "configured": "port 22", "connection": "2001:db8::1 4 2001:db8::2 22"}, [22, 2200, 2222]),
]


@pytest.mark.parametrize(("known", "ports"), [row[1:] for row in SSH], ids=[row[0] for row in SSH])
def test_the_ports_of_ssh(known: dict[str, str], ports: list[int]) -> None:
    """Every way in that can be seen stays open."""
    assert rules.ssh_ports([], **known) == ports
    assert rules.ssh_ports([7], **known) == sorted({7, *ports})


def chain(**changed: Any) -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"} | changed}


CHAINS = [
    ("another table's", [chain()], ["inet filter input"]),
    ("that lets through", [chain(policy="accept")], []),
    ("firewalld's: its last rule rejects", [chain(policy="accept", table="firewalld")], ["inet firewalld input"]),
    ("for what is sent on", [chain(hook="forward")], []),
    ("our own", [chain(table="gatepost")], []),
    ("without a hook", [{"chain": {"family": "ip", "table": "nat", "name": "x"}}], []),
    ("none", [{"metainfo": {}}], []),
]


@pytest.mark.parametrize(("listed", "drops"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_another_table_that_drops_is_seen(listed: list[dict[str, Any]], drops: list[str]) -> None:
    """A base chain of another table that drops what comes in by default would keep port 25 shut whatever ours says."""
    assert rules.other_drops(json.dumps({"nftables": listed})) == drops


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}"])
def test_no_answer_of_nft_is_no_table(text: str) -> None:
    """On a fresh host in check mode there is no nft."""
    assert rules.other_drops(text) == []


def test_a_rule_for_each_network() -> None:
    """ufw and firewalld take one source a rule; firewalld's is in its own language."""
    world, some = rules.opened([{"port": 25}, {"port": 25, "from": ["192.0.2.1", "2001:db8::/32"]}])
    assert [source for _, source in rules.pairs([world, some])] == ["any", "192.0.2.1", "2001:db8::/32"]
    assert rules.rich_rule(world, "any") == 'rule port port="25" protocol="tcp" accept'
    assert (
        rules.rich_rule(some, "2001:db8::/32")
        == 'rule family="ipv6" source address="2001:db8::/32" port port="25" protocol="tcp" accept'
    )


UFW = [
    ("no rule", "", ["any", "192.0.2.0/24"]),
    ("other ports", "ufw allow 22/tcp\nufw deny 80\nufw allow 2525/tcp\nufw deny 25/udp", ["any", "192.0.2.0/24"]),
    ("ours", "ufw allow 25/tcp comment 'gatepost'", []),
    ("the person's own", "ufw allow log 25/tcp comment 'mine, not yours'", []),
    ("its own limit", "ufw limit 25/tcp", []),
    ("both protocols", "ufw allow 25", []),
    ("one network of two", "ufw allow from 192.0.2.0/24 to any port 25 proto tcp", ["any"]),
    ("all of a network", "ufw allow from 192.0.2.0/24", ["any"]),
    (
        "somebody is shut out",
        "ufw deny from 198.51.100.7\nufw deny from 198.51.100.0/24 to any port 25",
        ["any", "192.0.2.0/24"],
    ),
    ("another interface's", "ufw deny in on wg0 to any port 25 proto tcp\nufw allow out 25/tcp", ["any", "192.0.2.0/24"]),
    ("opened before it is shut", "ufw allow 25/tcp\nufw deny 25", []),
]


@pytest.mark.parametrize(("added", "left"), [row[1:] for row in UFW], ids=[row[0] for row in UFW])
def test_what_ufw_lets_through_already_is_left(added: str, left: list[str]) -> None:
    """A rule about the whole of a pair is not asked for again: ufw would put ours in the place of the person's."""
    pairs = rules.pairs(rules.opened([{"port": 25}, {"port": 25, "from": ["192.0.2.0/24"]}]))
    assert [source for _, source in rules.ufw_missing(pairs, added)] == left


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ("ufw deny 25/tcp", "`deny 25/tcp`"),
        ("ufw reject 25 comment 'no mail here'", "`reject 25`"),
        ("ufw deny 25\nufw allow 25/tcp comment 'gatepost'", "`deny 25`"),
        ("ufw deny from 192.0.2.0/24", "`deny from 192.0.2.0/24`"),
    ],
    ids=["the port", "both protocols", "before ours", "all of the network"],
)
def test_a_rule_of_ufw_that_shuts_the_port_is_told(added: str, says: str) -> None:
    """The first rule counts in ufw: behind one that shuts the port ours would open nothing."""
    pairs = rules.pairs(rules.opened([{"port": 25, "from": ["192.0.2.0/24"]}]))
    with pytest.raises(ValueError, match=r"which shuts 25/tcp from 192\.0\.2\.0/24") as raised:
        rules.ufw_missing(pairs, added)
    assert says in str(raised.value)


# --- real packets ---------------------------------------------------------------------------------------------------------------

HOST4, HOST6 = "10.78.0.1", "fd78::1"
ONE, OTHER, THIRD = "10.78.0.2", "10.78.0.3", "10.78.0.4"
SIX_ONE, SIX_SAME, SIX_OTHER = "fd78:0:0:1::2", "fd78:0:0:1::3", "fd78:0:0:2::2"

#: Answers on each port, and closes when the client does.
LISTENER = """
import selectors, socket, sys
seen = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    server = socket.create_server(("::", port), family=socket.AF_INET6, backlog=200, dualstack_ipv6=True)
    seen.register(server, selectors.EVENT_READ, True)
print("ready", flush=True)
while True:
    for key, _ in seen.select():
        if key.data:
            client, _ = key.fileobj.accept()
            client.sendall(b"220 x\\r\\n")
            seen.register(client, selectors.EVENT_READ, False)
        elif not key.fileobj.recv(100):
            seen.unregister(key.fileobj)
            key.fileobj.close()
"""

#: Connects as often as each row says, and tells how often it was greeted, was not answered, was refused.
CLIENT = """
import json, socket, sys
answers, held = [], []
for source, target, port, times, hold in json.loads(sys.argv[1]):
    answer = [0, 0, 0]
    for _ in range(times):
        client = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
        client.settimeout(0.5)
        client.bind((source, 0))
        try:
            client.connect((target, port))
            answer[0 if client.recv(10) else 2] += 1
        except TimeoutError:
            answer[1] += 1
        except OSError:
            answer[2] += 1
        held.append(client) if hold else client.close()
    answers.append(answer)
print(json.dumps(answers))
"""


class Net:
    """Two namespaces and a cable: a host with our rules, and strangers with several addresses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host, self.strangers = f"gp{os.getpid()}h", f"gp{os.getpid()}s"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def inside(self, namespace: str, *words: str) -> str:
        done = subprocess.run(["ip", "netns", "exec", namespace, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self) -> None:
        for name in (self.host, self.strangers):
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        self.ip("link", "add", "v0", "netns", self.host, "type", "veth", "peer", "name", "v0", "netns", self.strangers)
        addresses = ((self.host, HOST4, HOST6), (self.strangers, ONE, OTHER, THIRD, SIX_ONE, SIX_SAME, SIX_OTHER))
        for name, *own in addresses:
            self.ip("-n", name, "link", "set", "v0", "up")
            for address in own:
                self.ip("-n", name, "addr", "add", f"{address}/16", "dev", "v0", *(["nodad"] if ":" in address else []))

    def down(self) -> None:
        for name in (self.host, self.strangers):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def rules(self, opened: list[dict[str, Any]], **changed: Any) -> None:
        """The role's template, checked as the role has it checked, then loaded."""
        file = self.folder / "rules.nft"
        file.write_text(rendered(opened, **changed), encoding="utf-8")
        self.inside(self.host, "nft", "-c", "-f", str(file))
        self.inside(self.host, "nft", "-f", str(file))

    def ask(self, *rows: tuple[str, int, int], hold: bool = False) -> list[list[int]]:
        """For each (source, port, times): how often greeted, not answered, refused."""
        targets = [(source, HOST6 if ":" in source else HOST4, port, times, hold) for source, port, times in rows]
        answers: list[list[int]] = json.loads(self.inside(self.strangers, sys.executable, "-c", CLIENT, json.dumps(targets)))
        return answers


def rendered(opened: list[dict[str, Any]], **changed: Any) -> str:
    """The template as Ansible renders it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["zip"] = lambda one, two: list(zip(one, two, strict=True))
    environment.filters["unique"] = lambda given: list(dict.fromkeys(given))
    given: dict[str, Any] = {
        "firewall_mark": "test",
        "firewall_sources": 65536,
        "firewall_policy": "closed",
        "firewall_limits_only": False,
        "firewall_ssh": [22],
        "firewall_ssh_source": "",
        "firewall_ssh_networks": rules.networks(changed.pop("ssh_from", [])),
        "firewall_entries": rules.opened(opened),
    }
    text: str = environment.get_template("gatepost.nft.j2").render(given | changed)
    return text


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """The two namespaces, with something that listens on the host; gone afterwards."""
    made = Net(tmp_path_factory.mktemp("net"))
    with contextlib.ExitStack() as after:
        after.callback(made.down)
        made.up()
        words = ["ip", "netns", "exec", made.host, sys.executable, "-c", LISTENER, "22", "25", "80", "2222"]
        listener = after.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
        after.callback(listener.terminate)
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        yield made


YES, SHUT = [1, 0, 0], [0, 1, 0]


def test_the_ports_named_are_open_and_the_rest_is_closed(net: Net) -> None:
    """Port 25 and ssh answer over IPv4 and IPv6; whatever else listens does not, and says nothing."""
    net.rules([{"port": 25}])
    assert net.ask((ONE, 25, 1), (SIX_ONE, 25, 1), (ONE, 22, 1), (SIX_ONE, 22, 1)) == [YES] * 4
    assert net.ask((ONE, 80, 1), (SIX_ONE, 80, 1), (ONE, 2222, 1)) == [SHUT] * 3


def test_ipv6_lives(net: Net) -> None:
    """Neighbours find each other anew and are answered echoes: the ICMPv6 that IPv6 needs comes in."""
    net.rules([{"port": 25}])
    for name in (net.host, net.strangers):
        net.ip("-n", name, "neigh", "flush", "all")
    assert net.ask((SIX_OTHER, 25, 1)) == [YES]
    net.inside(net.strangers, "ping", "-c", "1", "-W", "2", HOST6)
    net.inside(net.strangers, "ping", "-c", "1", "-W", "2", HOST4)


def test_the_rate_of_one_source_is_no_other_sources(net: Net) -> None:
    """Above the burst one source waits, a whole IPv6 /64 counts as one, and others, and ssh, come in as before."""
    net.rules([{"port": 25, "rate": "4/minute"}])
    assert net.ask((ONE, 25, 7), (OTHER, 25, 2)) == [[4, 3, 0], [2, 0, 0]]
    assert net.ask((SIX_ONE, 25, 6), (SIX_SAME, 25, 1), (SIX_OTHER, 25, 2)) == [[4, 2, 0], SHUT, [2, 0, 0]]
    assert net.ask((ONE, 22, 6), (SIX_ONE, 22, 6)) == [[6, 0, 0]] * 2


def test_the_connections_of_one_source_are_counted(net: Net) -> None:
    """Above the count a connection is reset, of that source alone; when the others have ended there is room again."""
    net.rules([{"port": 25, "count": 3}])
    assert net.ask((ONE, 25, 5), (OTHER, 25, 3), (SIX_ONE, 25, 3), (SIX_SAME, 25, 1), (SIX_OTHER, 25, 1), hold=True) == [
        [3, 0, 2],
        [3, 0, 0],
        [3, 0, 0],
        [0, 0, 1],
        YES,
    ]
    assert net.ask((ONE, 25, 2)) == [[2, 0, 0]]


def test_a_port_for_some_networks(net: Net) -> None:
    """A port that is for some networks is shut for all others, also where the rest of the host is open."""
    some = [{"port": 25, "from": [OTHER, "fd78:0:0:2::/64"]}]
    net.rules(some)
    assert net.ask((ONE, 25, 1), (OTHER, 25, 1), (SIX_ONE, 25, 1), (SIX_OTHER, 25, 1)) == [SHUT, YES, SHUT, YES]
    net.rules(some, firewall_policy="open")
    assert net.ask((ONE, 25, 1), (OTHER, 25, 1), (ONE, 80, 1)) == [SHUT, YES, YES]


def test_ssh_stays_open_for_who_came_by_it(net: Net) -> None:
    """With networks for ssh, those and the address from which Ansible came get in, on every port of ssh, and nobody else does."""
    net.rules([{"port": 25}], ssh_from=[THIRD], firewall_ssh_source=ONE, firewall_ssh=[22, 2222])
    assert net.ask((ONE, 22, 1), (OTHER, 22, 1), (THIRD, 22, 1), (THIRD, 2222, 1), (SIX_ONE, 22, 1)) == [
        YES,
        SHUT,
        YES,
        YES,
        SHUT,
    ]
    net.rules([{"port": 25}], ssh_from=[THIRD], firewall_ssh_source=SIX_ONE)
    assert net.ask((SIX_ONE, 22, 1), (ONE, 22, 1)) == [YES, SHUT]


def test_beside_another_filter_there_are_limits_alone(net: Net) -> None:
    """Beside ufw and firewalld our table only limits: it opens and shuts nothing."""
    net.rules([{"port": 25, "rate": "2/minute"}], firewall_limits_only=True)
    assert net.ask((ONE, 25, 3), (ONE, 80, 1), (ONE, 2222, 1)) == [[2, 1, 0], YES, YES]


def test_the_rules_are_replaced_and_no_other_table_is_touched(net: Net) -> None:
    """Loaded twice the rules stand there once, and somebody else's table stays."""
    net.rules([{"port": 25}])
    net.inside(net.host, "nft", "add", "table", "inet", "somebody")
    net.rules([{"port": 25}])
    assert sorted(net.inside(net.host, "nft", "list", "tables").split("\n")) == [
        "",
        "table inet gatepost",
        "table inet somebody",
    ]
    assert net.inside(net.host, "nft", "list", "chain", "inet", "gatepost", "input").count("jump tcp_25_1") == 1
    net.inside(net.host, "nft", "delete", "table", "inet", "somebody")
