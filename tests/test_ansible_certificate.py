"""Role postfix looks at a given certificate and key before Postfix does, and says what is wrong with them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

PLUGIN = Path(__file__).resolve().parent.parent / "ansible" / "roles" / "postfix" / "filter_plugins" / "postfix_certificate.py"
HOST = "mx1.in.example.com"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postfix_certificate", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faults_of: Any = _load().postfix_certificate

KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def pem(key: Any, password: bytes = b"") -> str:
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    text: str = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock).decode()
    return text


def certificate(
    key: Any = KEY, *, names: Sequence[str] = (HOST,), begins: datetime = NOW - DAY, ends: datetime = NOW + DAY
) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    made = made.not_valid_before(begins).not_valid_after(ends)
    if names:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
    return made.sign(OTHER, SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True)
class Row:
    """`says`: a part of each fault, in order; `why`: what would happen without it."""

    id: str
    why: str
    chain: str
    says: tuple[str, ...] = ()
    key: str = field(default_factory=lambda: pem(KEY))
    host: str = HOST


WEAK = rsa.generate_private_key(65537, 1024)

ROWS = [
    Row("good", "what should pass passes", certificate()),
    Row("with-its-chain", "the issuer's stands behind", certificate() + certificate(OTHER, names=["ca.example"])),
    Row("a-wildcard", "one label in the place of *", certificate(names=["*.in.example.com"])),
    Row("one-of-several", "any name will do, in any case", certificate(names=["www.example.com", HOST.upper()])),
    Row("a-final-dot", "an FQDN may be written with it", certificate(), host=f"{HOST}."),
    Row("rsa", "the usual size", certificate(key := rsa.generate_private_key(65537, 2048)), key=pem(key)),
    Row("valid-until-now", "the last moment still counts", certificate(ends=NOW)),
    Row("expired", "senders that look do not deliver", certificate(ends=NOW - DAY / 2), ("expired, on 2026-05-01 00:00 UTC",)),
    Row("not-yet", "the same", certificate(begins=NOW + DAY / 2), ("not valid before 2026-05-02 00:00 UTC",)),
    Row("another-name", "the same", certificate(names=["mx2.in.example.com"]), ("is for mx2.in.example.com, and not for " + HOST,)),
    Row("no-name", "nobody reads a common name any more", certificate(names=[]), ("is for no name at all",)),
    Row("wildcard-too-short", "* is one label", certificate(names=["*.example.com"]), ("is for *.example.com, and not",)),
    Row("wildcard-alone", "* is for no name of one label", certificate(names=["*"]), ("is for *, and not",), host="mx1"),
    Row("another-key", "Postfix would offer no TLS", certificate(OTHER), ("does not fit",)),
    Row("issuer-first", "the same", certificate(OTHER) + certificate(), ("fits certificate 2 of the file",)),
    Row("password", "nobody types it", certificate(), ("has a password",), key=pem(KEY, b"x")),
    Row("no-key", "a file mixed up", certificate(), ("no key in PEM",), key="x"),
    Row("no-certificate", "a file mixed up", "x", ("no certificate in PEM",)),
    Row("cut-off", "half a file", certificate()[:200], ("no certificate in PEM",)),
    Row("mixed-up", "each in the other's place", pem(KEY), ("has a key in it", "has a certificate", "no certificate"), key=certificate()),
    Row("both-in-one", "the key would be in a file that all read", certificate() + pem(KEY), ("certificate's file has a key",)),
    Row("key-with-certificate", "Postfix would get it twice", certificate(), ("key's file has a certificate",), key=pem(KEY) + certificate()),
    Row("weak", "OpenSSL's security level 2", certificate(WEAK), ("has 1024 bits",), key=pem(WEAK)),
    Row("three-at-once", "all are told in one run", certificate(OTHER, names=["x.example"], ends=NOW - DAY / 2),
        ("expired", "is for x.example", "does not fit")),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_what_is_wrong_is_told(row: Row) -> None:
    """Each fault is one sentence, all at once; none where Postfix can serve it and senders believe it."""
    faults = faults_of(row.chain, row.key, row.host, NOW)
    assert len(faults) == len(row.says), faults
    for fault, part in zip(faults, row.says, strict=True):
        assert part in fault


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_no_fault_shows_the_key(row: Row) -> None:
    """Faults are printed; no line of the key's text stands in one."""
    told = " ".join(faults_of(row.chain, row.key, row.host, NOW))
    assert [line for line in row.key.splitlines() if len(line) > 10 and line in told] == []


def test_the_clock_is_the_controllers() -> None:
    """Without a time it is now."""
    now = datetime.now(UTC)
    assert faults_of(certificate(begins=now - DAY, ends=now + DAY), pem(KEY), HOST) == []
    assert len(faults_of(certificate(begins=now - 2 * DAY, ends=now - DAY), pem(KEY), HOST)) == 1
