"""Text that a stranger wrote, for a terminal.

Promises: one line in, one line out, which no terminal takes for a command.
Never: changes what is printable.
"""

from __future__ import annotations

__all__ = ["shown"]


def shown(text: str) -> str:
    """The text with control and format characters escaped as Python escapes them; a tab is a space."""
    return "".join(
        c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )
