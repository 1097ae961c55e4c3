"""`gatepost doctor --chain` beside a real Postfix with the milter, DNS on loopback and an app: the hop that fails is named.

smtpd listens at port 25 of a loopback address of its own, as the world would find it. Needs root and the package postfix.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.dns_server import SILENT, DnsServer
from demo.environment import Environment
from gatepost.doctor.chain import questions
from gatepost.doctor.subject import Subject
from tests.integration.conftest import open_folder
from tests.integration.milter_host import MilterHost, milter_host

#: The address that the MX has: this host's, and nobody else's on it.
HERE = "127.25.25.25"
DOMAIN = "in.example.com"
MX = "mx.example.com"
SERVICE = f"{HERE}:25/inet"


@dataclass(frozen=True)
class Chained:
    """A host that the world finds, its DNS, and the certificate that its clients trust."""

    host: MilterHost
    dns: DnsServer
    certificate: Path

    def report(self, *, trusted: bool = True) -> dict[str, dict[str, str]]:
        """The checks of the chain, by name."""
        command = [self.host.environment.command, "doctor", "--chain", "--json", "--config", str(self.host.made.config)]
        where = {"SSL_CERT_FILE": str(self.certificate) if trusted else "/dev/null"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/",
                              env={"PATH": "/usr/bin:/bin", "LANG": "C", **where})  # fmt: skip
        assert done.stderr == ""
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return {check["name"]: check for check in found if check["name"].startswith("chain-")}


@pytest.fixture(scope="module")
def chained(milter_wheel: Environment) -> Iterator[Chained]:
    """All is well with it."""
    with open_folder("chain") as folder, DnsServer() as dns:
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        names = ["-subj", f"/CN={MX}", "-addext", f"subjectAltName=DNS:{MX}"]
        made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
        subprocess.run(["openssl", "req", "-x509", "-days", "90", *names, *made, "-out", str(certificate)],
                       check=True, capture_output=True, timeout=60)  # fmt: skip
        smtpd = f"{HERE}:25 inet n - n - - smtpd"
        for name, value in (("security_level", "may"), ("cert_file", certificate), ("key_file", key)):
            smtpd += f"\n    -o smtpd_tls_{name}={value}"
        asks = f"authenticate: [], dns: ['{dns.address}']"
        with milter_host(milter_wheel, host=MX, milter=asks, master=[smtpd]) as host:
            found = Chained(host, dns, certificate)
            well(found)
            yield found


def well(chained: Chained) -> None:
    """DNS as it should be, and an app that takes what it is sent."""
    chained.dns.add({DOMAIN: {"MX": [f"10 {MX}", "20 mx2.example.com"]}, MX: {"A": [HERE]}, f"_mta-sts.{DOMAIN}": {}})
    chained.host.app.behaviour = "ok"


@contextmanager
def service(chained: Chained, **settings: str) -> Iterator[None]:
    """Settings of the smtpd at port 25 for a while."""
    postfix = chained.host.postfix
    postfix.command("postconf", "-P", *(f"{SERVICE}/{name}={value}" for name, value in settings.items()))
    postfix.reload()
    try:
        yield
    finally:
        postfix.command("postconf", "-PX", *(f"{SERVICE}/{name}" for name in settings))
        postfix.reload()


def events(chained: Chained) -> list[bytes]:
    """What the app was sent so far; the doctor also connects, and says nothing."""
    return [request.body for request in list(chained.host.app.requests) if request.body]


def types(bodies: list[bytes]) -> set[str]:
    """Of webhooks."""
    return {json.loads(body)["type"] for body in bodies}


def test_a_probe_walks_all_the_way(chained: Chained) -> None:
    """Every hop is ok; the app gets one gatepost.probe and no message, our log has rule=probe, the store expects it no more."""
    before, lines = len(events(chained)), len(chained.host.made.log_lines())
    found = chained.report()
    assert {name: check["status"] for name, check in found.items()} == {
        f"chain-mx:{DOMAIN}": "ok",
        "chain-port": "ok",
        "chain-certificate": "ok",
        "chain-relay": "ok",
        "chain-bad-key": "ok",
        "chain-probe": "ok",
    }, found
    (event,) = events(chained)[before:]
    assert types([event]) == {"gatepost.probe"}
    queue_id = found["chain-probe"]["evidence"].partition(":")[0]
    (line,) = [each for each in chained.host.log(lines) if each.queue_id == queue_id]
    assert (line.action, line.rule, line.sink) == ("accept", "probe", "app")
    chained.host.idle()


#: What is wrong in DNS or at the app, the hop that is named, its status, and a word of the evidence.
FAULTS = [
    pytest.param({DOMAIN: {"TXT": ["none"]}}, f"chain-mx:{DOMAIN}", "FAIL", "there is no MX", id="no MX"),
    pytest.param({DOMAIN: {"MX": ["0 ."]}}, f"chain-mx:{DOMAIN}", "FAIL", "takes no mail", id="a null MX"),
    pytest.param({DOMAIN: {"MX": ["10 other.example.net"]}, "other.example.net": {"A": ["192.0.2.1"]}}, f"chain-mx:{DOMAIN}",
                 "FAIL", "none of them is this host", id="another's MX"),
    pytest.param({MX: {"TXT": ["no address"]}}, f"chain-mx:{DOMAIN}", "FAIL", "has no address", id="an MX without address"),
    pytest.param({DOMAIN: SILENT}, f"chain-mx:{DOMAIN}", "unknown", "does not answer", id="DNS is silent"),
    pytest.param({MX: {"A": ["127.25.25.26"]}}, "chain-port", "FAIL", "127.25.25.26: Connection refused", id="another address"),
    pytest.param({MX: {"A": [HERE, "127.25.25.26"]}}, "chain-port", "FAIL", "127.25.25.26", id="one of two addresses"),
]  # fmt: skip


@pytest.mark.parametrize(("zones", "name", "status", "says"), FAULTS)
def test_the_hop_that_fails_is_named(
    chained: Chained, zones: Mapping[str, Mapping[str, list[str]] | str], name: str, status: str, says: str
) -> None:
    """What stands behind the fault is not a fault as well; while the host is not found no probe is sent."""
    before = len(events(chained))
    chained.dns.add(zones)
    try:
        found = chained.report()
    finally:
        well(chained)
    assert (found[name]["status"], says in found[name]["evidence"]) == (status, True), found[name]
    assert found[name]["mend"]
    assert [each for each, check in found.items() if check["status"] in ("FAIL", "warn") and each != name] == []
    reached = found["chain-port"]["status"] != "unknown" and HERE in str(zones.get(MX, HERE))
    assert len(events(chained)) - before == (1 if reached and HERE in str(zones) else 0)


def test_a_certificate_for_nobody_is_told(chained: Chained) -> None:
    """Without MTA-STS senders deliver all the same; with a policy they need not, and it is a FAIL."""
    found = chained.report(trusted=False)["chain-certificate"]
    assert (found["status"], "self-signed" in found["evidence"]) == ("warn", True), found
    chained.dns.add({f"_mta-sts.{DOMAIN}": {"TXT": ["v=STSv1; id=1"]}})
    try:
        found = chained.report(trusted=False)["chain-certificate"]
        assert (found["status"], "MTA-STS" in found["evidence"]) == ("FAIL", True), found
        assert chained.report()["chain-certificate"]["status"] == "ok"
    finally:
        well(chained)


#: A milter's socket at which nobody listens.
NOBODY = "inet:127.0.0.1:1"
#: Settings of smtpd, the hop, its status, a word.
SETTINGS = [
    pytest.param({"smtpd_tls_security_level": "none"}, "chain-certificate", "warn", "no STARTTLS", id="no TLS"),
    pytest.param(
        {"smtpd_relay_restrictions": "permit_mynetworks,reject_unauth_destination", "mynetworks": "127.0.0.0/8"},
        "chain-relay",
        "unknown",
        "may relay",
        id="a relay for itself",
    ),
    pytest.param({"smtpd_relay_restrictions": "defer_unauth_destination"}, "chain-relay", "warn", "4", id="a deferring relay"),
    pytest.param({"smtpd_milters": ""}, "chain-bad-key", "FAIL", "not refused at RCPT", id="no milter"),
    pytest.param({"smtpd_milters": NOBODY}, "chain-bad-key", "FAIL", "MAIL FROM:<>: 451", id="a milter that is gone"),
    pytest.param(
        {"smtpd_milters": NOBODY}, "chain-relay", "unknown", "nobody's mail is taken", id="a milter that is gone, relay"
    ),
    pytest.param({"smtpd_milters": NOBODY}, "chain-probe", "unknown", "no mail is taken", id="a milter that is gone, probe"),
    pytest.param({"smtpd_client_restrictions": "reject"}, "chain-probe", "FAIL", "554 5.7.1", id="nobody gets in"),
]


@pytest.mark.parametrize(("settings", "name", "status", "says"), SETTINGS)
def test_what_smtpd_says_is_shown(chained: Chained, settings: Mapping[str, str], name: str, status: str, says: str) -> None:
    """The reply stands in the evidence."""
    with service(chained, **settings):
        found = chained.report()
    assert (found[name]["status"], says in found[name]["evidence"]) == (status, True), found[name]


def test_an_app_that_takes_nothing_is_the_hop(chained: Chained) -> None:
    """The probe waits in the queue as a message would; once the app is back it gets the same bytes, and still no message."""
    chained.host.app.behaviour = "status/503"
    before = len(events(chained))
    try:
        found = chained.report()["chain-probe"]
    finally:
        well(chained)
    assert (found["status"], "the app did not take it" in found["evidence"]) == ("FAIL", True), found
    queue_id = found["evidence"].partition(":")[0]
    chained.host.postfix.command("postqueue", "-i", queue_id)
    chained.host.wait_log(lambda log: [each for each in log if each.queue_id == queue_id and each.action == "accept"])
    chained.host.idle()
    sent = events(chained)[before:]
    assert len(sent) >= 2
    assert (len(set(sent)), types(sent)) == (1, {"gatepost.probe"})


def test_nothing_is_asked_unless_asked_for(chained: Chained) -> None:
    """Without --chain there is no such check."""
    settings = chained.host.made.settings
    subject = Subject(config=str(chained.host.made.config), settings=settings, pipe_script="", python="", now=0.0)
    assert questions(subject) == ()
    assert len(questions(subject.replace(chain=True))) == 6
