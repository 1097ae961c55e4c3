"""The recipient, as Postfix gives it: local part, domain, and the one form that goes into the delivery id.

Promises: every text has a `Recipient`, quoted local parts, several @, none, 300 characters and octets that are no text
(surrogateescape) included. `fold` gives the same on every Python with the same Unicode tables.
Never: raises; refuses a recipient that Postfix took; folds a character that is not ASCII to one that is.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["NEVER_A_KEY", "ROLES", "Recipient", "fold", "is_role", "recipient"]

#: Addresses that a person must get (RFC 5321 4.5.1, RFC 2142 4 and 5).
ROLES: Final = ("postmaster", "abuse")
#: Local parts that never are a key, a catch-all's included. Mail servers report from mailer-daemon.
NEVER_A_KEY: Final = (*ROLES, "mailer-daemon")


class Recipient(Value):
    """`local`: unquoted, in the case received. `domain`: lower case, no final dot, "" where there is none.

    `final_form`: unquoted, lower case, no final dot. Octets that were no UTF-8 are surrogates (surrogateescape) in all three.
    """

    local: str
    domain: str
    final_form: str


def recipient(text: str) -> Recipient:
    """What stands before and behind the last @ outside quotes (RFC 5321 4.1.2), whatever the text is."""
    local, domain = _unquoted(text) if '"' in text else _split(text)
    domain = fold(domain).removesuffix(".")
    folded = fold(local)
    return Recipient(local=local, domain=domain, final_form=f"{folded}@{domain}" if domain else folded)


def is_role(to: Recipient) -> bool:
    """Is it postmaster@ or abuse@, in any domain and case, or without domain?"""
    return fold(to.local) in ROLES


def fold(text: str) -> str:
    """Lower case, character by character. U+212A KELVIN SIGN stays, or another key would become ours and two recipients one."""
    if text.isascii():
        return text.lower()
    return "".join([_folded(char) for char in text])


def _folded(char: str) -> str:
    low = char.lower()
    return low if char.isascii() or (len(low) == 1 and not low.isascii()) else char


def _split(text: str) -> tuple[str, str]:
    local, at, domain = text.rpartition("@")
    return (local, domain) if at else (text, "")


def _unquoted(text: str) -> tuple[str, str]:
    """Local part without quotes and backslashes, and domain. Where the quotes do not pair, they are ordinary characters."""
    chars: list[str] = []
    quoted = escaped = False
    split = end = -1  # the last @ outside quotes: its place in `chars` and in `text`
    for at, char in enumerate(text):
        if escaped:
            chars.append(char)
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        else:
            if char == "@" and not quoted:
                split, end = len(chars), at
            chars.append(char)
    if quoted:
        return _split(text)
    return ("".join(chars[:split]), text[end + 1 :]) if end >= 0 else ("".join(chars), "")
