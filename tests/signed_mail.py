"""Keys, signatures and ARC sets for tests, made with dkimpy's canonical forms: another program than the one that is tested.

Promises: what it signs, dkimpy verifies too; every tag can be given or left out, sound or not.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
from functools import cache

import dkim
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from dkim.canonicalization import CanonicalizationPolicy

__all__ = ["MESSAGE", "Key", "arc_set", "ed25519_key", "rsa_key", "short_key", "sign"]

#: A plain message from ann@example.org.
MESSAGE = (
    b"From: Ann <ann@example.org>\r\nTo: reply@in.example.com\r\nSubject: the  pump\t room\r\n"
    b"Date: Mon, 16 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nIt is  dry \r\nagain.\r\n\r\n\r\n"
)


class Key:
    """A private key; `record` is the text of its DNS record."""

    def __init__(self, private: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | bytes, public: bytes) -> None:
        self.private = private
        self.public = base64.b64encode(public).decode()
        self.kind = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else "rsa"
        self.record = f"v=DKIM1; k={self.kind}; p={self.public}"

    def sign(self, octets: bytes) -> str:
        """The signature over the SHA-256 of `octets`, in base64."""
        if isinstance(self.private, bytes):  # a key that is too short for the library
            made = dkim.crypto.RSASSA_PKCS1_v1_5_sign(hashlib.sha256(octets), dkim.parse_pem_private_key(self.private))
        elif isinstance(self.private, rsa.RSAPrivateKey):
            made = self.private.sign(octets, padding.PKCS1v15(), hashes.SHA256())
        else:
            made = self.private.sign(hashlib.sha256(octets).digest())
        return base64.b64encode(bytes(made)).decode()


@cache
def rsa_key(bits: int = 2048, number: int = 0) -> Key:
    """A key of that size; another one for each `number`."""
    private = rsa.generate_private_key(65537, bits)
    return Key(
        private, private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@cache
def ed25519_key(number: int = 0) -> Key:
    """A key of RFC 8463."""
    private = ed25519.Ed25519PrivateKey.generate()
    return Key(private, private.public_key().public_bytes_raw())


@cache
def short_key(bits: int = 768) -> Key:
    """A key that no library makes any more; openssl does."""
    pem = subprocess.run(["openssl", "genrsa", "-traditional", str(bits)], capture_output=True, check=True, timeout=60).stdout
    public = subprocess.run(
        ["openssl", "rsa", "-pubout", "-outform", "DER"], input=pem, capture_output=True, check=True, timeout=60
    )
    return Key(pem, public.stdout)


class _Collector:
    """Takes what dkimpy hashes."""

    name = "sha256"

    def __init__(self) -> None:
        self.octets = b""

    def update(self, octets: bytes) -> None:
        self.octets += octets


def sign(
    message: bytes = MESSAGE,
    key: Key | None = None,
    *,
    domain: str = "example.org",
    selector: str = "s",
    field: str = "DKIM-Signature",
    **given: str | None,
) -> bytes:
    """The message with a signature on top. `given`: tags in place of the usual ones; None leaves one out."""
    key = key or rsa_key()
    form = given.get("c", "relaxed/relaxed") or "simple/simple"
    headers, body = dkim.rfc822_parse(message)
    policy = CanonicalizationPolicy.from_c_value(form.encode())
    body = policy.canonicalize_body(body)
    if given.get("l"):
        body = body[: int(given["l"] or 0)]
    usual = {
        "v": "1", "a": f"{key.kind}-sha256", "c": form, "d": domain, "s": selector, "h": "from:to:subject:date",
        "bh": base64.b64encode(hashlib.sha256(body).digest()).decode(),
    }  # fmt: skip
    tags = {name: value for name, value in {**usual, **given}.items() if value is not None}
    return _signed(headers, policy, tags, tags.get("h", ""), field, key) + message


def _signed(
    headers: list[list[bytes]], policy: CanonicalizationPolicy, tags: dict[str, str], names: str, field: str, key: Key
) -> bytes:
    value = " " + "; ".join(f"{name}={value}" for name, value in tags.items() if name != "b") + ";\r\n\tb="
    collector = _Collector()
    include = [name.strip().lower().encode("utf-8", "surrogateescape") for name in names.split(":")] if names else []
    own = [field.encode(), value.encode("utf-8", "surrogateescape") + b"\r\n"]
    dkim.hash_headers(collector, policy, policy.canonicalize_headers(headers), include, own, {})
    b = tags.get("b", key.sign(collector.octets))
    return f"{field}:{value}{b}\r\n".encode("utf-8", "surrogateescape")


def arc_set(
    message: bytes, instance: int, key: Key | None = None, *, domain: str = "example.org", selector: str = "s", cv: str = "",
    seal: dict[str, str | None] | None = None, ams: dict[str, str | None] | None = None,
) -> bytes:  # fmt: skip
    """The message with one more ARC set on top (RFC 8617 5.1). `seal`, `ams`: tags in place of the usual ones."""
    key = key or rsa_key()
    results = f"ARC-Authentication-Results: i={instance}; mx.example.net; spf=pass\r\n".encode()
    with_ams = sign(message, key, domain=domain, selector=selector, field="ARC-Message-Signature",
                    **{"v": None, "i": str(instance), **(ams or {})})  # fmt: skip
    ams_field = with_ams[: -len(message)]
    # what a seal covers: all sets in order, each results, message signature, seal
    headers, _ = dkim.rfc822_parse(results + with_ams)
    policy = CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
    covered = []
    for number in range(1, instance + 1):
        for kind in (b"arc-authentication-results", b"arc-message-signature", b"arc-seal"):
            covered += [
                each for each in headers if each[0].lower() == kind and f"i={number};".encode() in each[1].replace(b" ", b"")
            ]
    usual = {
        "i": str(instance),
        "cv": cv or ("pass" if instance > 1 else "none"),
        "a": f"{key.kind}-sha256",
        "d": domain,
        "s": selector,
    }
    tags = {name: value for name, value in {**usual, **(seal or {})}.items() if value is not None}
    names = ":".join(each[0].decode() for each in covered)
    # dkimpy picks fields of one name from the bottom: the oldest set stands lowest, so order by set is kept
    return _signed(covered[::-1], policy, tags, names, "ARC-Seal", key) + ams_field + results + message
