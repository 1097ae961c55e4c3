"""A decision as text: what the ledger keeps of a verdict until the message is done, and of its end.

Promises: `thaw(freeze(decision))` is the decision without its trace, whatever characters a stranger put into it; a later
version reads what this one wrote (unknown lines are passed over).
Never: JSON. `json` brings `re` and costs every message 6 ms, and nobody but `thaw` reads this
(docs/decisions/0001-start-up-is-the-cost.md).

One line for each part, its fields between tabs: `decision`, `key`, `kind`, `thread`, `sender`, and a `finding` for each.
Within a field tabs, line ends, backslashes and everything that is not printable ASCII are escaped as Python escapes them.
"""

from __future__ import annotations

from codecs import unicode_escape_decode, unicode_escape_encode  # by name they would be looked up in a file of their own

from gatepost.decision import Decision, Finding, Key, Sender, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["freeze", "thaw"]


def freeze(decision: Decision) -> str:
    """The text of a decision, without its trace."""
    verdict = (decision.action, decision.rule, decision.status, decision.text, decision.detail, decision.route)
    parts: list[tuple[str, ...]] = [("decision", *verdict)]
    if decision.key is not None:
        parts.append(("key", decision.key.raw, decision.key.subject, *decision.key.options))
        if decision.key.kind:
            parts.append(("kind", decision.key.kind))
    if decision.thread is not None:
        parts.append(("thread", decision.thread.found_in, decision.thread.parent_message_id))
    if decision.sender != Sender():
        sender = decision.sender
        mail_from, temporary = ("mail-from" if sender.mail_from_verified else ""), ("temporary" if sender.temporary else "")
        parts.append(("sender", sender.verified, sender.by, mail_from, temporary))
    parts += [_finding(each) for each in decision.findings]
    return "\n".join("\t".join(unicode_escape_encode(field)[0].decode("ascii") for field in part) for part in parts)


def _finding(finding: Finding) -> tuple[str, ...]:
    """A finding's line; its strength stands there only where it does not decide alone."""
    line = ("finding", finding.slug, finding.family, finding.evidence)
    return line if finding.strength == "alone" else (*line, finding.strength)


def thaw(text: str) -> Decision:
    """The decision of a text that `freeze` wrote; ValueError for any other text."""
    found: dict[str, Any] = {}
    findings = []
    for line in text.split("\n"):
        name, *fields = (unicode_escape_decode(field.encode("ascii"))[0] for field in line.split("\t"))
        if name == "decision":
            found.update(zip(("action", "rule", "status", "text", "detail", "route"), fields, strict=True))
        elif name == "key":
            raw, subject, *options = fields
            found["key"] = Key(raw=raw, subject=subject, options=tuple(options))
        elif name == "kind" and "key" in found:
            (kind,) = fields
            found["key"] = found["key"].replace(kind=kind)
        elif name == "thread":
            found_in, parent = fields
            found["thread"] = Thread(found_in=found_in, parent_message_id=parent)
        elif name == "finding":
            slug, family, evidence, *strength = fields
            strong = "second" not in strength  # findings had no strength at first: all of them decided alone
            findings.append(Finding(slug=slug, family=family, evidence=evidence,  # type: ignore[arg-type]  # as frozen
                                    strength="alone" if strong else "second"))  # fmt: skip
        elif name == "sender":
            verified, by, mail_from, *temporary = fields  # senders had no `temporary` at first
            found["sender"] = Sender(verified=verified, by=by, mail_from_verified=bool(mail_from),  # type: ignore[arg-type]
                                     temporary="temporary" in temporary)  # fmt: skip
    if "action" not in found:
        raise ValueError("no decision in it")
    return Decision(**found, findings=tuple(findings))
