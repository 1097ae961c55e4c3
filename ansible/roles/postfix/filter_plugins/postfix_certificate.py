"""What keeps a given certificate and key from being served by Postfix, or from being believed by senders.

Promises: every fault at once, each in a sentence; an empty list where there is none. What Postfix would only log, to offer
no TLS from then on, is one, too.
Never: puts a word of the key into a fault; reads a file; asks the network. Whether senders know the authority is not looked at.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.x509 import Certificate

__all__ = ["FilterModule", "postfix_certificate"]

#: Bits that OpenSSL's security level 2 (Debian's) wants of an RSA key; with fewer smtpd offers no TLS.
_RSA_BITS = 2048


def postfix_certificate(chain: str, key: str, host: str, now: datetime | None = None) -> list[str]:
    """The faults of a chain and its key, both PEM, for this host's name. `now`: the controller's clock unless it is given."""
    from cryptography import x509  # ansible-core brings it
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    faults = []
    if "PRIVATE KEY-----" in chain:
        faults.append("the certificate's file has a key in it, which belongs into a file of its own")
    if "BEGIN CERTIFICATE-----" in key:
        faults.append("the key's file has a certificate in it, which belongs into a file of its own")
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return [*faults, "the certificate's file has no certificate in PEM form, or one that cannot be read"]
    own = certificates[0]
    faults += _time_faults(own, now or datetime.now(UTC)) + _name_faults(own, host)
    if isinstance(own.public_key(), RSAPublicKey) and own.public_key().key_size < _RSA_BITS:
        faults.append(f"the certificate's key has {own.public_key().key_size} bits; Postfix serves none below {_RSA_BITS}")
    try:
        public = load_pem_private_key(key.encode(), None).public_key()
    except TypeError:
        return [*faults, "the key has a password, and nobody is there to type it: openssl pkey takes it off"]
    except (ValueError, UnsupportedAlgorithm):
        return [*faults, "the key's file has no key in PEM form, or one that cannot be read"]
    fits = [number for number, each in enumerate(certificates, 1) if each.public_key() == public]
    if not fits:
        faults.append("the key does not fit the certificate")
    elif fits[0] != 1:
        faults.append(f"the key fits certificate {fits[0]} of the file: the host's own must be the first, its issuer the next")
    return faults


def _time_faults(own: Certificate, now: datetime) -> list[str]:
    if own.not_valid_after_utc < now:
        return [f"the certificate has expired, on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"]
    if own.not_valid_before_utc > now:
        return [f"the certificate is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"]
    return []


def _name_faults(own: Certificate, host: str) -> list[str]:
    from cryptography import x509

    try:
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if any(_covers(name.lower(), host.lower().rstrip(".")) for name in names):
        return []
    return [f"the certificate is for {', '.join(names) or 'no name at all'}, and not for {host}"]


def _covers(name: str, host: str) -> bool:
    """A name itself, or `*` in the place of its first label (RFC 9525 section 6.3)."""
    return name == host or (name.startswith("*.") and re.sub(r"^[^.]+", "*", host) == name)


class FilterModule:
    """How Ansible finds it."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """The filter by the name that the role uses."""
        return {"postfix_certificate": postfix_certificate}
