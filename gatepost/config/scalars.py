"""One text of the file to one value: durations, sizes, names, addresses of hosts and apps.

Promises: each function takes the text as it stands and returns the value, or raises ValueError whose text says what is
wrong and what would be right.
Never: guesses a unit; shows a URL (its path may be a secret); looks at a disk or a network.
"""

from __future__ import annotations

import binascii
import ipaddress
import os.path
import re
from urllib.parse import urlsplit

from gatepost.config.notes import shown, suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "absolute_path",
    "address_and_port",
    "choice",
    "count",
    "duration",
    "file_name",
    "host_name",
    "key_secret",
    "label",
    "lmtp_socket",
    "log_target",
    "milter_socket",
    "percent",
    "rate",
    "sender_entry",
    "size",
    "slug",
    "store_folder",
    "truth",
    "user_name",
    "webhook_secret",
    "webhook_url",
]

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])")
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"([0-9]{1,15}) ?([A-Za-z]{0,3})")
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,2})?)%")
_RATE = re.compile(r"([0-9]{1,9})/(.*)")
#: sun_path has 108 with its NUL (unix(7)).
_SOCKET_PATH_BYTES = 107
#: What useradd(8) takes, and adduser's dots.
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: RFC 1034 3.5 and RFC 1123 2.1; the last label of a name is never all digits, or it would read as an address.
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_URL_TEXT = re.compile(r"[!-\[\]-~]+")
#: RFC 2104 3: a key shorter than the hash's output (SHA-256: 32) makes HMAC weaker.
_KEY_SECRET_BYTES = 32
#: Standard Webhooks 1.0, "Signature scheme": 24 to 64 random bytes.
_WEBHOOK_SECRET_BYTES = range(24, 65)


def duration(text: str) -> float:
    """Seconds, more than 0, from a number and its unit."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)} is no duration: write a number and s, m, h or d, such as 90s or 4d")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds <= 0:
        raise ValueError("must be more than 0")
    return seconds


def size(text: str) -> int:
    """Bytes, more than 0. kB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB powers of 1024; none means bytes."""
    found = _SIZE.fullmatch(text)
    if not found or found[2].lower() not in _BYTES:
        raise ValueError(f"{shown(text)} is no size: write a whole number and B, kB, MB, GB, KiB, MiB or GiB, such as 500MB")
    value = int(found[1]) * _BYTES[found[2].lower()]
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def percent(text: str) -> float:
    """A share below 100 %."""
    found = _PERCENT.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)} is no share: write 0% to 99.99%, such as 5%")
    return float(found[1])


def count(least: int, most: int, *, bytes_too: bool = False) -> Callable[[str], int]:
    """A whole number between the two; with `bytes_too`, also a size."""

    def read(text: str) -> int:
        if bytes_too:
            value = size(text)
        elif re.fullmatch("[0-9]{1,15}", text):
            value = int(text)
        else:
            raise ValueError(f"{shown(text)} is no whole number")
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range: {least} to {most:,}")
        return value

    return read


def truth(text: str) -> bool:
    """true or false; `yes`, `on` and `1` are other people's spellings."""
    if text not in ("true", "false"):
        raise ValueError(f"{shown(text)} is neither true nor false")
    return text == "true"


def choice(*allowed: str, later: tuple[str, ...] = ()) -> Callable[[str], str]:
    """One of the words. `later`: words that exist in the design, and not in this version."""

    def read(text: str) -> str:
        if text in later:
            raise ValueError(f"{shown(text)} is not in this version; use {' or '.join(allowed)}")
        if text not in allowed:
            words = ", ".join(allowed)
            raise ValueError(f"{shown(text)} is not one of {words}{suggestion(text, allowed)}")
        return text

    return read


def slug(text: str) -> str:
    """The name of a route or a sink: it stands in logs and in header fields."""
    if not _SLUG.fullmatch(text):
        raise ValueError(f"{shown(text)} is no name: 1 to 40 of a-z, 0-9 and -, with a letter or digit at both ends")
    return text


def label(text: str) -> str:
    """The name of a secret, or a key_id. The text is not shown: people put the secret itself here."""
    if not _LABEL.fullmatch(text):
        raise ValueError("is no name: 1 to 64 of A-Z, a-z, 0-9, -, _ and ., with a letter or digit in front")
    return text


def host_name(text: str) -> str:
    """A host or domain name in lower case, without a final dot."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not text.isascii():
        raise ValueError(f"{shown(text)} is no host name in ASCII: write its xn-- form")
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(part) for part in labels) or labels[-1].isdigit():
        raise ValueError(f"{shown(text)} is no host name, such as mx.example.com")
    return name


def webhook_url(text: str) -> str:
    """An https URL; http only where it stays on this host. Unchanged."""
    if not _URL_TEXT.fullmatch(text):
        raise ValueError("is no URL: only printable ASCII, without blanks and backslashes")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is no URL: its host or port cannot be read") from None
    if parts.scheme not in ("https", "http"):
        raise ValueError("must be a URL that begins with https:// (or http:// to this host itself)")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user or password in it: take it out, the secret signs each message")
    if "#" in text:
        raise ValueError("a URL with a fragment (#...): take it out, no server would see it")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("a URL without a usable port: leave the port out, or write 1 to 65535")
    loopback = _is_loopback(host)
    if parts.scheme == "http" and not loopback:
        raise ValueError("http is for this host only (127.0.0.0/8, [::1], localhost): write https://")
    return text


def _is_loopback(host: str) -> bool:
    """Whether the host of a URL is this host. Raises ValueError where it is no host at all."""
    if "%" in host:
        raise ValueError("a URL whose host has a % in it: write a plain host name")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None:
        # Python 3.13 began to call ::ffff:127.0.0.1 a loopback address; one answer for all versions.
        return address.is_loopback and not getattr(address, "ipv4_mapped", None)
    try:
        return host_name(host) == "localhost"
    except ValueError:
        raise ValueError("a URL whose host is no host name") from None


def absolute_path(text: str) -> str:
    """A path that begins with a slash; `..` and doubled slashes folded."""
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} is no absolute path: begin with /")
    return os.path.normpath("/" + text.lstrip("/"))


def store_folder(text: str) -> str:
    """An absolute folder that is not the root."""
    path = absolute_path(text)
    if path == "/":
        raise ValueError("/ cannot be it: name a folder of its own, such as /var/lib/gatepost")
    return path


def log_target(text: str) -> str:
    """`syslog`, or an absolute file."""
    if text == "syslog":
        return text
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} is neither syslog nor an absolute path{suggestion(text, ('syslog',))}")
    return absolute_path(text)


def user_name(text: str) -> str:
    """A user of this host; whether it exists only the host knows."""
    if not _USER.fullmatch(text):
        raise ValueError(f"{shown(text)} is no user name, such as postfix")
    return text


def lmtp_socket(text: str) -> str:
    """Where the warm process listens: `unix:/PATH`. On a port nobody could tell Postfix from another user."""
    kind, _, rest = text.partition(":")
    if kind != "unix":
        raise ValueError(f"{shown(text)} is no Unix socket: write unix:/PATH")
    return _unix_socket(text, rest)


def _unix_socket(text: str, place: str) -> str:
    path = absolute_path(place)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ValueError(f"{shown(text)}: a socket's path has at most {_SOCKET_PATH_BYTES} bytes (unix(7))")
    return f"unix:{path}"


def milter_socket(text: str) -> str:
    """Where the milter listens, as libmilter writes it: `unix:/PATH`, or `inet:PORT@ADDRESS` on this host's loopback."""
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local"):
        return _unix_socket(text, rest)
    port, _, host = rest.partition("@")
    if kind != "inet" or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65_536:
        raise ValueError(f"{shown(text)} is no socket: write unix:/PATH or inet:PORT@127.0.0.1")
    try:
        local = _is_loopback(host)
    except ValueError:  # none named is every address of this host
        local = False
    if not local:
        raise ValueError(f"{shown(text)}: whoever reaches it may ask which keys live: write inet:{port}@127.0.0.1")
    return f"inet:{int(port)}@{host}"


def address_and_port(text: str) -> str:
    """A DNS server: an IPv4 or IPv6 address, with or without a port: `127.0.0.1:53`, `[::1]:53`."""
    address, port = text, "53"
    if text.startswith("["):
        address, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53" if closed else ""
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{shown(text)} is no address of a DNS server, such as 127.0.0.1 or 127.0.0.1:53") from None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65_536:
        raise ValueError(f"{shown(text)}: a port is 1 to 65535")
    return f"[{known}]:{int(port)}" if known.version == 6 else f"{known}:{int(port)}"


def sender_entry(text: str) -> str:
    """An entry of sender.allow or sender.deny: an address, a domain, `.` and a domain for all below it, or a network."""
    wanted = "write person@example.org, example.org, .example.org (all below it) or 192.0.2.0/24"
    local, at, domain = text.rpartition("@")
    if at:
        if not local or not local.isascii() or not local.isprintable() or any(char in local for char in ' "@<>(),;:\\[]'):
            raise ValueError(f"{shown(text)} is no address without quotes: {wanted}")
        if "*" in local:  # RFC 5321 would have it name one person; who writes it means all
            raise ValueError(f"{shown(text)} would name one address with an asterisk in it: {wanted}")
        return f"{local.lower()}@{host_name(domain)}"
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is not None:
        if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
            raise ValueError(f"{shown(text)} has bits behind its prefix: write {network}")
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        return f"{mapped}/{network.prefixlen - 96}" if mapped is not None and network.prefixlen >= 96 else str(network)
    try:
        name = host_name(text.removeprefix("."))
    except ValueError:
        raise ValueError(f"{shown(text)} is no sender: {wanted}") from None
    return f".{name}" if text.startswith(".") else name


def file_name(folder: str) -> Callable[[str], str]:
    """A file; a relative one is meant from `folder`, the configuration's."""

    def read(text: str) -> str:
        if text.endswith("/") or text.startswith("~"):
            raise ValueError(f"{shown(text)} is no file: write an absolute path, or one from the configuration's folder")
        return absolute_path(os.path.join(folder, text))

    return read


def rate(text: str) -> tuple[int, float]:
    """`50/1m`: so many in so many seconds."""
    found = _RATE.fullmatch(text)
    if not found or int(found[1]) < 1:
        raise ValueError(f"{shown(text)} is no rate: write a number, / and a duration, such as 50/1m")
    return int(found[1]), duration(found[2])


def key_secret(text: str) -> bytes:
    """The HMAC key of signed keys: the text's UTF-8 bytes. What it raises does not show the text."""
    key = text.encode()
    if len(key) < _KEY_SECRET_BYTES:
        raise ValueError(f"is {len(key)} bytes long; at least {_KEY_SECRET_BYTES} are needed: openssl rand -hex 32")
    return key


def webhook_secret(text: str) -> bytes:
    """The HMAC key of a webhook: `whsec_` and base64 of 24 to 64 bytes, decoded. What it raises does not show the text."""
    right = "whsec_ and base64 of 24 to 64 bytes: echo whsec_$(openssl rand -base64 32)"
    if not text.startswith("whsec_"):
        raise ValueError(f"does not begin with whsec_; a webhook's secret is {right}")
    try:
        key = binascii.a2b_base64(text.removeprefix("whsec_").encode(), strict_mode=True)
    except ValueError:  # binascii.Error is one; its text is dropped
        raise ValueError(f"is not base64 behind whsec_; a webhook's secret is {right}") from None
    if len(key) not in _WEBHOOK_SECRET_BYTES:
        raise ValueError(f"is {len(key)} bytes when decoded; a webhook's secret is {right}")
    return key
