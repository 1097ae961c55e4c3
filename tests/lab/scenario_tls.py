"""Encryption of port 25 on a real host: a certificate that was given, and one of an ACME authority, renewed by the client's own timer.

Promises: what is served is looked at from sender, with STARTTLS, against the authority's root; the key is looked for in every file,
log and line of output; what is refused has left the host as it was.
Never: asks an authority outside the lab: pebble is one for tests; renews by hand what a timer is there for.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.lab.fixtures import APP_NAME
from tests.lab.machine import LabError, wait_for
from tests.lab.places import ADDRESSES, HOST_DOMAIN
from tests.lab.post import new_mail
from tests.lab.scenario_chain import update_zone
from tests.lab.scenario_fresh import files_with
from tests.lab.scenario_rungs import doctor, straight_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.controller import Played
    from tests.lab.course import Course
    from tests.lab.guest import Guest
    from tests.lab.post import Mail

__all__ = ["tls"]

_HOST: Final = "r3"
_NAME: Final = f"{_HOST}.{HOST_DOMAIN}"
#: sender's copies of what it believes in.
_OUR_ROOT: Final = "/opt/lab/our-root.pem"
_PEBBLE_ROOT: Final = "/opt/lab/pebble-root.pem"
#: Days that pebble's certificates are good for: fewer than the 30 before which certbot renews, more than those of which the doctor warns.
_DAYS: Final = 20
#: Seconds for the timer's service, which gets a certificate and has Postfix reload.
_RENEWED: Final = 60.0
_ACME: Final = {"postfix_tls": "acme", "postfix_acme_directory": f"https://{APP_NAME}:14000/dir"}


def tls(course: Course) -> None:
    """`--check` of both kinds on a bare host; given, changed, refused; ACME, renewed, trusted."""
    course.world.fresh(_HOST)
    authority = _Authority(course)
    course.world.guest("sender").run("sh", "-c", f"cat >{_OUR_ROOT}", stdin=authority.root)
    first = authority.issue("first")
    for told in (_ACME, first.told):
        played = course.controller.play((_HOST,), "--check", "--diff", "--skip-tags", "mx", variables=told)
        if not course.expect(f"{told['postfix_tls']}: --check on a bare host: exit status", played.status, 0):
            course.note(played.output[-3000:])
    _given(course, authority, first)
    with _pebble(course) as root, _named(course):
        _acme(course, root)


# --- what sender sees -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Served:
    """`word`: OpenSSL's about the chain and the name."""

    word: str
    serial: int
    output: str


def _served(course: Course, root: str, *options: str) -> _Served:
    """What the host shows sender after STARTTLS."""
    output = course.world.guest("sender").try_run(
        "openssl", "s_client", "-starttls", "smtp", "-name", "sender.example.net", "-connect", f"{ADDRESSES[_HOST].ipv4}:25",
        "-servername", _NAME, "-verify_hostname", _NAME, "-CAfile", root, "-no-CApath", *options,
    )  # fmt: skip
    begin, end = output.find("-----BEGIN CERT"), output.find("-----END CERT")
    serial = (
        x509.load_pem_x509_certificate(f"{output[begin:end]}-----END CERTIFICATE-----".encode()).serial_number if end > 0 else 0
    )
    words = [line.partition(": ")[2] for line in output.splitlines() if line.strip().startswith("Verify return code: ")]
    return _Served(words[-1] if words else "", serial, output)


def _shows(course: Course, what: str, serial: int) -> None:
    """That certificate, believed under our root."""
    wait_for(lambda: _served(course, _OUR_ROOT).serial == serial, every=0.5, what=f"{what} at port 25")
    course.expect(f"{what}: sender's word", _served(course, _OUR_ROOT).word, "0 (ok)")


# --- given ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """A chain and its key: files on the controller."""

    certificate: Path
    key: Path
    serial: int

    @property
    def told(self) -> dict[str, str]:
        """The role's variables."""
        return {"postfix_tls": "given", "postfix_tls_certificate": str(self.certificate), "postfix_tls_key": str(self.key)}

    @property
    def secret(self) -> str:
        """A line that stands in the key alone."""
        return self.key.read_text().splitlines()[1]


class _Authority:
    """A root, an issuer below it, and what the issuer has signed."""

    def __init__(self, course: Course) -> None:
        self._folder = course.world.places.folder / "given"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        root_key, self._now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        root = self._signed("the test's root", root_key, "the test's root", root_key, authority=True)
        self._issuer = self._signed("the test's issuer", self._key, "the test's root", root_key, authority=True)
        self.root = root.public_bytes(Encoding.PEM).decode()

    def issue(self, file: str, name: str = _NAME, *, days: int = 10, key: _Pair | None = None) -> _Pair:
        """A chain in that file. `days`: from now to its end; `key`: somebody else's beside it."""
        own = ec.generate_private_key(ec.SECP256R1())
        made = self._signed(name, own, "the test's issuer", self._key, days=days)
        pair = _Pair(self._folder / f"{file}.crt", key.key if key else self._folder / f"{file}.key", made.serial_number)
        pair.certificate.write_bytes(made.public_bytes(Encoding.PEM) + self._issuer.public_bytes(Encoding.PEM))
        if key is None:
            pair.key.touch(mode=0o600)
            pair.key.write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def _signed(
        self, name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *,
        authority: bool = False, days: int = 10,
    ) -> x509.Certificate:  # fmt: skip
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - timedelta(days=30))
            .not_valid_after(self._now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return made.sign(issuer_key, SHA256())


def _given(course: Course, authority: _Authority, first: _Pair) -> None:
    guest, said = course.world.guest(_HOST), []

    def play(pair: _Pair, *arguments: str) -> Played:
        """Everything that Ansible can be made to say is kept."""
        played = course.controller.play((_HOST,), "--diff", "-vvv", *arguments, "--skip-tags", "mx", variables=pair.told)
        said.append(played.output)
        return played

    course.expect("given: exit status", play(first).status, 0)
    _shows(course, "given", first.serial)
    _encrypted_mail(course, "given", _OUR_ROOT)
    second = play(first)
    course.expect("given: second run: changed", second.recaps[_HOST].changed, 0)

    changed, since, before = authority.issue("changed"), course.post.now(), _in_force(course, guest)
    course.expect("changed: exit status", play(changed).status, 0)
    _shows(course, "changed", changed.serial)
    course.expect("changed: Postfix's master", _in_force(course, guest)["master"], before["master"])
    course.hold(
        "changed: Postfix has reloaded",
        any(": reload -- " in line for line in course.post.log(_HOST, since=since)),
        "no such line",
    )

    before = _in_force(course, guest)
    for what, pair, says in (
        ("another key", authority.issue("other-key", key=first), "the key does not fit the certificate"),
        ("expired", authority.issue("expired", days=-1), "the certificate has expired"),
        ("another name", authority.issue("other-name", f"mx1.{HOST_DOMAIN}"), f"is for mx1.{HOST_DOMAIN}, and not for {_NAME}"),
    ):
        played = play(pair, "--tags", "tls")
        course.expect(f"{what}: exit status", played.status, 2)
        course.hold(f"{what}: the message", says in " ".join(played.output.split()), f"actual {played.output[-1500:]}")
        course.expect(f"{what}: what is in force", _in_force(course, guest), before)
    _kept(course, guest, said, first, changed)


def _in_force(course: Course, guest: Guest) -> dict[str, str]:
    """Which files Postfix reads, which certificate it shows, and whether it is the same Postfix."""
    files = guest.run("postconf", "-h", "smtpd_tls_chain_files").replace(",", " ").split()
    return {
        "files": guest.run("sha256sum", "/etc/postfix/main.cf", *files),
        "serial": str(_served(course, _OUR_ROOT).serial),
        "master": guest.run("cat", "/var/spool/postfix/pid/master.pid").strip(),
    }


def _kept(course: Course, guest: Guest, said: list[str], first: _Pair, last: _Pair) -> None:
    """The key is in one file that root alone reads; a key that was replaced is nowhere."""
    course.expect("the first key: files of the host", files_with(guest, first.secret), [])
    files = files_with(guest, last.secret)
    course.expect("the key: files of the host", files, guest.run("postconf", "-h", "smtpd_tls_chain_files").split())
    for file in files:
        course.expect(f"{file}: mode, owner", guest.run("stat", "-c", "%a %U", file).strip(), "600 root")
    for name, secret in (("first", first.secret), ("changed", last.secret)):
        journal = guest.run("sh", "-c", 'journalctl -q -o cat --no-pager | grep -cF -- "$0" || :', secret)
        course.expect(f"the {name} key: lines of the journal", journal.strip(), "0")
        course.none(
            f"the {name} key: runs in which Ansible says it", [number for number, each in enumerate(said) if secret in each]
        )


def _encrypted_mail(course: Course, what: str, root: str) -> None:
    """sender's own Postfix insists on the name and the root, and its mail arrives."""
    mail, since = new_mail(course.post.address("tls")), course.post.now()
    with straight_to(course, _HOST, smtp_tls_security_level="verify", smtp_tls_CAfile=root, smtp_tls_verify_cert_match=_NAME):
        course.post.send(mail)
        course.expect(f"{what}: mail over a verified connection: status", course.post.wait_fates(mail)[0].status, "sent")
    course.expect(f"{what}: its copies at the app", dict(course.post.wait_arrivals([mail])), {mail.message_id: 1})
    lines = [line for line in course.post.log("sender", since=since) if "Verified TLS connection established" in line]
    course.hold(f"{what}: sender's Postfix has verified it", bool(lines), "no such line in its log")


# --- ACME -----------------------------------------------------------------------------------------------------------------


@contextmanager
def _pebble(course: Course) -> Iterator[str]:
    """An authority at the app's host, which looks at port 80 of the name, as the real ones do; its root, which sender believes in."""
    app = course.world.guest("app")
    config = {
        "listenAddress": ":14000", "managementListenAddress": ":15000", "certificate": "/opt/app/app.crt", "privateKey": "/opt/app/app.key",
        "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": False,
        "certificateValidityPeriod": _DAYS * 86_400,
    }  # fmt: skip
    app.run("sh", "-c", "cat >/opt/app/pebble.json", stdin=json.dumps({"pebble": config}))
    # Each renewal is asked for anew (AUTHZREUSE), and no request refused for the sake of a test (NONCEREJECT).
    app.run("systemd-run", "-q", "--unit=pebble", "--setenv=PEBBLE_VA_NOSLEEP=1", "--setenv=PEBBLE_AUTHZREUSE=0",
            "--setenv=PEBBLE_WFE_NONCEREJECT=0", "pebble", "-config", "/opt/app/pebble.json", "-dnsserver", f"{ADDRESSES['dns'].ipv4}:53")  # fmt: skip
    try:
        wait_for(lambda: app.listens(14000) and app.listens(15000), what="pebble")
        ask = f"import urllib.request as r; print(r.urlopen('https://{APP_NAME}:15000/roots/0').read().decode())"
        root = app.run("python3", "-c", ask)
        course.world.guest("sender").run("sh", "-c", f"cat >{_PEBBLE_ROOT}", stdin=root)
        yield root
    finally:
        app.run("systemctl", "stop", "pebble")


@contextmanager
def _named(course: Course) -> Iterator[None]:
    """The host has a name in DNS, and is the last of our domain's MX."""
    mx = f"{HOST_DOMAIN}. 60 MX 90 {_NAME}."
    update_zone(
        course, f"update add {_NAME}. 60 A {ADDRESSES[_HOST].ipv4}", f"update add {_NAME}. 60 AAAA {ADDRESSES[_HOST].ipv6}"
    )
    update_zone(course, f"update add {mx}")
    try:
        yield
    finally:
        update_zone(course, f"update delete {HOST_DOMAIN}. MX 90 {_NAME}.", f"update delete {_NAME}.")


def _acme(course: Course, root: str) -> None:
    guest = course.world.guest(_HOST)
    course.controller.converge((_HOST,), "--skip-tags", "mx", variables=_ACME)
    served = _served(course, _PEBBLE_ROOT)
    course.expect("acme: sender's word", served.word, "0 (ok)")
    course.expect("acme: under another root", _served(course, _OUR_ROOT).word == "0 (ok)", False)
    _protocols(course)
    _encrypted_mail(course, "acme", _PEBBLE_ROOT)
    second = course.controller.converge((_HOST,), "--skip-tags", "mx", variables=_ACME)
    course.expect("acme: second run: changed", second.recaps[_HOST].changed, 0)
    course.expect("acme: second run: the certificate", _served(course, _PEBBLE_ROOT).serial, served.serial)
    timer = (
        guest.try_run("systemctl", "is-active", "certbot.timer").strip(),
        guest.try_run("systemctl", "is-enabled", "certbot.timer").strip(),
    )
    course.expect("acme: its timer", timer, ("active", "enabled"))

    course.expect("the root is not known: chain-certificate", doctor(course, _HOST, "--chain")["chain-certificate"][0], "warn")
    guest.run("sh", "-c", "cat >/usr/local/share/ca-certificates/pebble.crt && update-ca-certificates", stdin=root)
    found = doctor(course, _HOST, "--chain")
    course.expect(
        "the root is known: the chain",
        {name: said for name, said in found.items() if name.startswith("chain") and said[0] != "ok"},
        {},
    )
    course.hold(
        "the root is known: chain-certificate",
        f"for {_DAYS - 1} days" in found["chain-certificate"][1],
        f"actual {found['chain-certificate']}",
    )

    _renewal(course, guest, served.serial)
    third = course.controller.converge((_HOST,), "--skip-tags", "mx", variables=_ACME)
    course.expect("renewed: another run: changed", third.recaps[_HOST].changed, 0)


def _protocols(course: Course) -> None:
    """TLS 1.2 and up; below, the host itself says no."""
    for name, option in (("1.2", "-tls1_2"), ("1.3", "-tls1_3")):
        served = _served(course, _PEBBLE_ROOT, option)
        course.expect(f"TLS {name}", (served.word, f"New, TLSv{name}" in served.output), ("0 (ok)", True))
    for name, option in (("1.1", "-tls1_1"), ("1.0", "-tls1")):
        served = _served(course, _PEBBLE_ROOT, option, "-cipher", "ALL:@SECLEVEL=0")
        course.hold(
            f"TLS {name}", served.serial == 0 and "alert protocol version" in served.output, f"actual {served.output[-600:]}"
        )


# --- renewal --------------------------------------------------------------------------------------------------------------

#: A stranger's client that has said for whom its message is, and takes its time with the rest.
_SLOW: Final = """\
import json, smtplib, sys
job = json.loads(sys.stdin.readline())
with smtplib.SMTP(job["address"], 25, local_hostname="sender.example.net", timeout=60) as server:
    server.starttls()
    server.ehlo()
    server.mail(job["sender"])
    server.rcpt(job["recipient"])
    print("waits", flush=True)
    sys.stdin.readline()
    print(server.data(job["text"])[0])
"""


@contextmanager
def _slow_client(course: Course, mail: Mail) -> Iterator[list[str]]:
    """An open session; what its end was answered."""
    sender, answer = course.world.guest("sender"), list[str]()
    job = {"address": ADDRESSES[_HOST].ipv4, "sender": mail.sender, "recipient": mail.recipients[0], "text": mail.data.decode()}
    with subprocess.Popen(
        sender.inside("python3", "-c", _SLOW), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(json.dumps(job) + "\n")
            client.stdin.flush()
            if client.stdout.readline() != "waits\n":
                raise LabError("the slow client did not get to its message")
            yield answer
            answer.append(client.communicate("\n", timeout=60)[0].strip())
        finally:
            client.kill()


def _renewal(course: Course, guest: Guest, serial: int) -> None:
    """The client's own timer goes off; mail comes meanwhile, and one message is under way all the time."""
    mails = [new_mail(course.post.address("renewal"))]
    master = guest.run("cat", "/var/spool/postfix/pid/master.pid")
    drop_in = "/etc/systemd/system/certbot.timer.d"
    guest.run("sh", "-c", f"mkdir {drop_in} && printf '[Timer]\\nOnActiveSec=1s\\nRandomizedDelaySec=0\\nAccuracySec=1s\\n' >{drop_in}/now.conf "
                          "&& systemctl daemon-reload")  # fmt: skip

    def renewed() -> int:
        new = [new_mail(course.post.address("renewal")) for _ in range(2)]
        course.post.send(*new)
        mails.extend(new)
        now = _served(course, _PEBBLE_ROOT).serial
        return now if now != serial else 0

    with straight_to(course, _HOST), _slow_client(course, mails[0]) as answer:
        guest.run("systemctl", "restart", "certbot.timer")
        wait_for(renewed, timeout=_RENEWED, every=0.5, what="a renewed certificate at port 25")
        wait_for(lambda: course.post.worked_off("sender"), every=1, what="sender's queue to be empty")
    guest.run("sh", "-c", f"rm -r {drop_in} && systemctl daemon-reload && systemctl restart certbot.timer")
    course.expect("renewed: sender's word", _served(course, _PEBBLE_ROOT).word, "0 (ok)")
    course.expect("renewed: Postfix's master", guest.run("cat", "/var/spool/postfix/pid/master.pid"), master)
    course.expect("renewed: the session that was open", answer, ["250"])
    found = course.post.wait_arrivals(mails)
    course.expect("renewed: messages at the app", len(found), len(mails))
    course.expect("renewed: copies of each", set(found.values()), {1})
    course.expect(
        "renewed: certbot.service",
        guest.run("systemctl", "show", "--property=Result", "--value", "certbot.service").strip(),
        "success",
    )
    course.note(f"{len(mails)} messages while the certificate was renewed")
