"""A route's configured address, with the key's place in it: `reply+%{key}@in.example.com`; `%s` is read as `%{key}`.

Promises: anchored at both ends; user part and domain in any case; the key is judged before it is folded. A catch-all
(`%{key}@domain`) never takes postmaster, abuse or mailer-daemon for a key.
Never: used to refuse a recipient that Postfix took for what it looks like; loads email-validator but in `check_pattern`, which
only `config check` and its like call: it would cost every message of the pipe script 60 ms.
"""

from __future__ import annotations

from gatepost.mail.recipient import NEVER_A_KEY, fold
from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.mail.recipient import Recipient

__all__ = ["AddressPattern", "Match", "check_pattern", "compile_pattern", "overlap", "parse_pattern"]

_PLACEHOLDER: Final = "%{key}"
#: RFC 5321 4.5.3.1.1, in octets.
_LONGEST_LOCAL: Final = 64
#: Private names that email-validator refuses because they are not on the Internet; a private Postfix may serve them.
_PRIVATE: Final = ("localhost", "local")


class Match(Value):
    """A pattern takes a recipient. `key`: what stands in the key's place, in lower case; "" for a dedicated address.

    `well_formed`: False where that can be no key: nothing stands there, or something that is not ASCII. Such a recipient is an
    unknown key, not an unknown address.
    """

    key: str
    well_formed: bool
    dedicated: bool


#: Patterns kept, for a process that lives on: more than any host has routes. (No functools: the pipe script does without.)
_COMPILED: Final = 10_000
_compiled: dict[str, AddressPattern] = {}


class AddressPattern(Value):
    """`text`: with `%{key}`. `prefix`, `suffix`: of the local part, folded. `domains`: folded, A-labels and U-labels.

    `dedicated`: the address has no place for a key; it is then all in `prefix`.
    """

    text: str
    prefix: str
    suffix: str
    domains: tuple[str, ...]
    dedicated: bool

    def match(self, to: Recipient) -> Match | None:
        """How the pattern takes this recipient, or None."""
        if to.domain not in self.domains:
            return None
        local = fold(to.local)  # as long as what it folds
        if self.dedicated:
            return Match(key="", well_formed=True, dedicated=True) if local == self.prefix else None
        end = len(local) - len(self.suffix)
        if end < len(self.prefix) or not (local.startswith(self.prefix) and local.endswith(self.suffix)):
            return None
        if local in NEVER_A_KEY:
            return None
        key = local[len(self.prefix) : end]
        return Match(key=key, well_formed=bool(key) and key.isascii(), dedicated=False)


def compile_pattern(text: str) -> AddressPattern:
    """The pattern of a text that `check_pattern` returned. Raises ValueError as `parse_pattern` does."""
    pattern = _compiled.get(text)
    if pattern is None:
        pattern = parse_pattern(text)
        if len(_compiled) >= _COMPILED:
            _compiled.clear()
        _compiled[text] = pattern
    return pattern


def parse_pattern(text: str) -> AddressPattern:
    """The pattern of a configured address. Raises ValueError that says what is wrong and what would be right.

    What it does not see: characters that no address may have. `check_pattern` does.
    """
    local, at, domain = text.rpartition("@")
    if not at:
        raise ValueError(f"no domain in {text!r}: write it as reply+%{{key}}@in.example.com")
    if "%" in domain:
        raise ValueError(f"a placeholder in the domain {domain!r}: the key stands before the @")
    domains = _domain_forms(domain)
    if not local:
        raise ValueError(f"nothing before the @ in {text!r}: write %{{key}}@{domain} to take every address of the domain")
    if "@" in local or '"' in local:
        raise ValueError(f"quotes or a second @ in {text!r}: write the part before the @ without them")
    prefix, suffix = _split_local(local)
    if suffix is None and fold(prefix) in NEVER_A_KEY:
        raise ValueError(f"{prefix}@ is kept for a person (RFC 2142): choose another address")
    canonical = prefix if suffix is None else f"{prefix}{_PLACEHOLDER}{suffix}"
    return AddressPattern(
        text=f"{canonical}@{domain.removesuffix('.')}",
        prefix=fold(prefix),
        suffix=fold(suffix or ""),
        domains=domains,
        dedicated=suffix is None,
    )


def check_pattern(text: str) -> str:
    """The canonical text of a configured address that mail can be sent to. Raises ValueError as `parse_pattern` does.

    Looks at the form only: no DNS. Domains for tests and private networks (`.test`, `.localhost`, `.local`) pass.
    """
    from email_validator import EmailNotValidError, validate_email

    pattern = parse_pattern(text)
    local, _, domain = pattern.text.rpartition("@")
    sample = local.replace(_PLACEHOLDER, "k")  # the shortest key
    head, dot, last = domain.rpartition(".")
    private = fold(last) in _PRIVATE
    try:
        valid = validate_email(
            f"{sample}@{head}{dot}test" if private else f"{sample}@{domain}",
            check_deliverability=False,
            allow_smtputf8=True,
            test_environment=True,
        )
    except EmailNotValidError as error:
        raise ValueError(f"{text!r} is no address that mail can be sent to: {error}") from error
    ascii_domain = valid.ascii_domain  # the form that keys are signed for and Postfix is configured with
    checked = f"{ascii_domain.removesuffix('test')}{fold(last)}" if private else ascii_domain
    if len(sample.encode()) > _LONGEST_LOCAL:
        raise ValueError(f"the part before the @ in {text!r} is longer than {_LONGEST_LOCAL} octets: shorten it")
    if not sample.isascii():
        # The validator's normal form (NFC), with the key's place where it was.
        local = _normal(pattern.text.rpartition("@")[0])
    return f"{local}@{fold(checked)}"


def overlap(one: AddressPattern, other: AddressPattern) -> bool:
    """Is there an address that both take? An empty or malformed key counts, as `AddressPattern.match` sees it."""
    if not set(one.domains) & set(other.domains):
        return False
    if one.dedicated and other.dedicated:
        return one.prefix == other.prefix
    if one.dedicated or other.dedicated:
        fixed, open_ = (one, other) if one.dedicated else (other, one)
        return (
            len(fixed.prefix) >= len(open_.prefix) + len(open_.suffix)
            and fixed.prefix.startswith(open_.prefix)
            and fixed.prefix.endswith(open_.suffix)
        )
    # The longer prefix, any key, and the longer suffix make an address that both take.
    prefixes = one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
    suffixes = one.suffix.endswith(other.suffix) or other.suffix.endswith(one.suffix)
    return prefixes and suffixes


def _split_local(local: str) -> tuple[str, str | None]:
    """What stands before and behind the key's place; (local, None) where it has none."""
    spelled = local.replace("%s", _PLACEHOLDER)
    parts = spelled.split(_PLACEHOLDER)
    if any("%" in part for part in parts):
        raise ValueError(f"a % that is no placeholder in {local!r}: the key's place is %{{key}} or %s")
    if len(parts) > 2:
        raise ValueError(f"two placeholders in {local!r}: a recipient has one key, write %{{key}} once")
    return parts[0], parts[1] if len(parts) == 2 else None


def _domain_forms(domain: str) -> tuple[str, ...]:
    """The domain as it may arrive: A-labels (xn--...) and U-labels (RFC 5890 2.3.2.1)."""
    name = fold(domain).removesuffix(".")
    if not name:
        raise ValueError("no domain behind the @: write it as reply+%{key}@in.example.com")
    labels = name.split(".")
    if "" in labels:
        raise ValueError(f"an empty label in the domain {domain!r}: two dots stand together, or one at the start")
    if name.isascii() and "xn--" not in name:
        return (name,)
    forms = (name, ".".join(map(_a_label, labels)), ".".join(map(_u_label, labels)))
    return tuple(sorted(set(forms)))


def _a_label(label: str) -> str:
    # Punycode alone: the label is in its normal form, `check_pattern` has seen to it. Python's idna codec is IDNA 2003.
    return label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")


def _u_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return label[4:].encode("ascii").decode("punycode")
    except ValueError:  # no A-label after all: it then only matches as it is written
        return label


def _normal(text: str) -> str:
    from unicodedata import normalize

    return normalize("NFC", text)
