"""The paths of MAIL FROM and RCPT TO, as pipe(8) will spell them later (with its flag `q`).

A milter gets what the client wrote, `<"Reply+k"@In.example.com.>`, and the macros {mail_addr} and {rcpt_addr}: Postfix's own
form, `reply+k@in.example.com`, but folded. pipe(8) gives that form in the case received: `Reply+k@In.example.com`.

Promises: total: any two texts have an answer. What folds alike in the macro folds alike in the answer.
Never: takes a source route (RFC 5321 4.1.2: to be ignored), a comment or the brackets for a part of the address.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["address"]

_ATOM: Final = r"[^\s\x00-\x1f\x7f\"\\@<>()\[\],;:.]+"
#: A dot-atom (RFC 5321 4.1.2, RFC 6531 3.3) on both sides: what Postfix leaves as it is.
_PLAIN: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_ATOM}(?:\.{_ATOM})*")
_ROUTE: Final = re.compile(r"\s*@[^:]*:")


def address(written: str, macro: str | None) -> str:
    """The address of a path; "" for the null reverse-path. `macro`: None where the MTA does not give it."""
    text = written.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    if _PLAIN.fullmatch(text):
        return text
    if macro is None:
        return _ROUTE.sub("", text, count=1).strip().removesuffix(".")
    return _in_case_of(text, macro)


def _in_case_of(written: str, folded: str) -> str:
    """`folded` with each character in the case in which `written` has it, from the right; what is not in there stays."""
    found: list[str] = []
    end = len(written)
    low = written.lower()
    if len(low) != end:  # a character whose lower case is longer: then places in one are not places in the other
        return folded
    for char in reversed(folded):
        at = low.rfind(char, 0, end)
        if at < 0:
            found.append(char)
        else:
            found.append(written[at])
            end = at
    return "".join(reversed(found))
