"""Tag=value lists: signatures, key records (RFC 6376 3.2).

Promises: one pass; names and values without the white space around them; the value of `b` can be taken out of the octets as
they came.
Never: raises for another reason than `BadTags`; takes a list with one name twice.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["BadTags", "tag_list", "without_b"]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SPACE: Final = " \t\r\n"


class BadTags(Exception):  # noqa: N818  a verdict on a stranger's text
    """The text is no tag list; says why in words of ours."""


def tag_list(text: str) -> dict[str, str]:
    """The tags, in their order. A semicolon may stand at the end."""
    parts = text.split(";")
    if not parts[-1].strip(_SPACE):
        parts.pop()
    tags: dict[str, str] = {}
    for part in parts:
        name, sign, value = part.partition("=")
        name = name.strip(_SPACE)
        if not sign or not _NAME.fullmatch(name):
            raise BadTags("not a list of tags")
        if name in tags:
            raise BadTags("the same tag twice")
        tags[name] = value.strip(_SPACE)
    return tags


def without_b(value: bytes) -> bytes:
    """A field's value with the value of its tag `b` taken out, and the white space around that (RFC 6376 3.5, 3.7)."""
    parts = value.split(b";")
    for at, part in enumerate(parts):
        name, sign, _ = part.partition(b"=")
        if sign and name.strip() == b"b":
            parts[at] = name + sign
    return b";".join(parts)
