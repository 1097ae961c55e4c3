"""The webhook over TLS: whose certificate is believed, and what each fault of a handshake or of a connection ends as."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import warnings
from typing import Any

import pytest

from gatepost.settings import Sink
from gatepost.sinks import deliver, wire
from gatepost.sinks.delivery import Outcome
from tests.faulty_app import FaultyApp
from tests.test_sinks import SECRET, in_seconds, make_delivery
from tests.test_sinks_webhook import KEY, LARGE

CA_CONFIG = """
[ca]
default_ca = here
[here]
dir = .
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


class Certificates:
    """A CA and what it signed, in a folder: PEM files with certificate and key."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        for name, text in (("ca.cnf", CA_CONFIG), ("index", ""), ("serial", "01\n")):
            with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                file.write(text)
        self.ca = self._own("ca", "DNS:ca.example.com")
        self.good = self._signed("good", "IP:127.0.0.1,DNS:localhost")
        self.other_host = self._signed("other", "DNS:app.example.org")
        self.expired = self._signed("expired", "IP:127.0.0.1", "-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
        self.not_yet = self._signed("not-yet", "IP:127.0.0.1", "-startdate", "20900101000000Z", "-enddate", "20910101000000Z")
        self.self_signed = self._own("self", "IP:127.0.0.1")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=60)

    def _key(self, name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]

    def _own(self, name: str, names: str) -> str:
        extra = ["-subj", f"/CN={name}", "-days", "3650", "-addext", f"subjectAltName={names}"]
        self._openssl("req", "-x509", *self._key(name), "-out", f"{name}.crt", *extra)
        return self._joined(name)

    def _signed(self, name: str, names: str, *dates: str) -> str:
        request = ["req", *self._key(name), "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"]
        self._openssl(*request, "-out", f"{name}.csr")
        signer = ["ca", "-batch", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-notext"]
        self._openssl(*signer, "-in", f"{name}.csr", "-out", f"{name}.crt", *(dates or ("-days", "3650")))
        return self._joined(name)

    def _joined(self, name: str) -> str:
        path = os.path.join(self.folder, f"{name}.pem")
        with open(path, "wb") as joined:
            for part in (f"{name}.crt", f"{name}.key"):
                with open(os.path.join(self.folder, part), "rb") as file:
                    joined.write(file.read())
        return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(str(tmp_path_factory.mktemp("tls")))


def send(
    app: FaultyApp, ca_file: str, path: str = "mail", *, host: str = "127.0.0.1", seconds: float = 60, **more: Any
) -> Outcome:
    sink = Sink(name="app", kind="webhook", target=app.url(path, host), secrets=(KEY,), ca_file=ca_file)
    return deliver(sink, make_delivery(**more), deadline=in_seconds(seconds))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_certificate_of_the_given_ca_is_believed(certificates: Certificates, host: str) -> None:
    """A certificate that the CA in ca_file signed, for this host or address, is good."""
    with FaultyApp(secrets=[SECRET], certificate=certificates.good) as app:
        assert send(app, certificates.ca, host=host).kind == "delivered"


@pytest.mark.parametrize(
    ("which", "says"),
    [
        pytest.param("other_host", "mismatch", id="another host's certificate"),
        pytest.param("expired", "expired", id="expired"),
        pytest.param("not_yet", "not yet valid", id="not yet valid"),
        pytest.param("self_signed", "self-signed", id="self-signed"),
    ],
)
def test_certificate_that_is_wrong_is_a_misconfiguration(certificates: Certificates, which: str, says: str) -> None:
    """Nothing is sent to a host that cannot prove who it is; the log says what is wrong with its certificate."""
    with FaultyApp(secrets=[SECRET], certificate=getattr(certificates, which)) as app:
        outcome = send(app, certificates.ca)
        assert not app.requests
    assert outcome.kind == "misconfigured"
    assert says in outcome.detail


def test_unknown_ca_is_a_misconfiguration(certificates: Certificates) -> None:
    """Without ca_file the system's CAs decide, and ours is none of them."""
    with FaultyApp(secrets=[SECRET], certificate=certificates.good) as app:
        outcome = send(app, "")
        assert not app.requests
    assert outcome.kind == "misconfigured"
    assert "certificate" in outcome.detail


def test_certificate_itself_may_be_the_ca_file(certificates: Certificates) -> None:
    """A self-signed certificate is good for the host that ca_file pins it to."""
    with FaultyApp(secrets=[SECRET], certificate=certificates.self_signed) as app:
        assert send(app, certificates.self_signed).kind == "delivered"


def test_system_cas_are_asked_without_ca_file(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenSSL takes for the system's CAs is believed."""
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    with FaultyApp(secrets=[SECRET], certificate=certificates.good) as app:
        assert send(app, "").kind == "delivered"


def test_tls_1_1_is_refused(certificates: Certificates) -> None:
    """A server that speaks nothing newer than TLS 1.1 is not spoken to, though OpenSSL could be brought to do it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context, lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for each in (context, lax):
            each.set_ciphers("ALL:@SECLEVEL=0")
            each.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(certificates.good)
    lax.load_verify_locations(certificates.ca)
    with FaultyApp(secrets=[SECRET], tls=context) as app:
        plain = socket.create_connection(("127.0.0.1", app.port), 30)
        with lax.wrap_socket(plain, server_hostname="127.0.0.1") as old:
            assert old.version() == "TLSv1.1", "the test's server is what it should be"
        outcome = send(app, certificates.ca)
        assert not app.taken
    assert outcome.kind == "misconfigured"
    assert "TLS: no agreement" in outcome.detail


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_message_crosses_each_version(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """Eight megabytes arrive whole over TLS 1.2 and 1.3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.good)
    context.minimum_version = context.maximum_version = version
    with FaultyApp(secrets=[SECRET], tls=context) as app:
        assert send(app, certificates.ca, raw=LARGE).kind == "delivered"
        assert app.taken[0]["sha256"] == hashlib.sha256(LARGE).hexdigest()


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("cut", "unavailable", "handshake"),
        ("reset", "unavailable", "handshake"),
        ("hang", "unavailable", "deadline passed while in the TLS handshake"),
        ("plain", "misconfigured", "TLS: no agreement"),
    ],
)
def test_handshake_that_fails(certificates: Certificates, fault: str, kind: str, says: str) -> None:
    """A cut passes; a server that speaks no TLS on this port has to be mended."""
    with FaultyApp(tls_fault=fault) as app:
        outcome = send(app, certificates.ca, seconds=0.7 if fault == "hang" else 60)
    assert outcome.kind == kind, outcome
    assert says in outcome.detail


ROWS = [
    ("ok", "delivered"),
    ("chunked", "delivered"),
    ("confirm", "delivered"),
    ("interim", "delivered"),
    ("until-close", "delivered"),
    ("until-cut", "unavailable"),
    ("status/503", "unavailable"),
    ("refuse", "refused"),
    ("login-page", "misconfigured"),
    ("redirect", "misconfigured"),
    ("hang", "unavailable"),
    ("hang-before-read", "unavailable"),
    ("slow-read", "unavailable"),
    ("drip-headers", "unavailable"),
    ("drip-body", "unavailable"),
    ("cut-headers", "unavailable"),
    ("cut-body", "unavailable"),
    ("cut-chunks", "unavailable"),
    ("reset", "unavailable"),
    ("close", "unavailable"),
    ("garbage", "unavailable"),
    ("huge-headers", "unavailable"),
    ("endless-body", "unavailable"),
    ("early-ok", "unavailable"),
    ("early-413", "cannot-take"),
]
NEED_LARGE = {"hang-before-read", "slow-read", "early-ok", "early-413"}
ENDLESS = {"hang", "hang-before-read", "slow-read", "drip-headers", "drip-body"}


@pytest.mark.parametrize(("path", "kind"), ROWS)
def test_faults_end_alike_under_tls(certificates: Certificates, path: str, kind: str) -> None:
    """What an app does wrong has the same meaning over TLS, and the same deadline; only a cut can be told from an end there."""
    with FaultyApp(secrets=[SECRET], certificate=certificates.good) as app:
        more: dict[str, Any] = {"raw": LARGE} if path in NEED_LARGE else {}
        outcome = send(app, certificates.ca, path, seconds=0.9 if path in ENDLESS else 60, **more)
    assert outcome.kind == kind, outcome


@pytest.mark.parametrize("content", [None, "", "no PEM"], ids=["missing", "empty", "no PEM"])
def test_ca_file_that_cannot_be_used_is_a_misconfiguration(tmp_path: Any, content: str | None) -> None:
    """The detail names the file; nothing is connected to."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    sink = Sink(name="app", kind="webhook", target="https://127.0.0.1:9/", secrets=(KEY,), ca_file=str(ca_file))
    outcome = deliver(sink, make_delivery(), deadline=in_seconds(30))
    assert outcome.kind == "misconfigured"
    assert str(ca_file) in outcome.detail


def test_name_that_is_none_is_an_outcome(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that TLS cannot ask for raises nothing."""
    with FaultyApp(certificate=certificates.good) as app:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", app.port))]
        monkeypatch.setattr(wire, "_addresses", lambda *_: found)
        outcome = send(app, certificates.ca, host=".example.com")
    assert outcome.kind == "misconfigured"
