"""Spam verdicts: what a filter on a trusted host wrote, and nothing that the message brought along.

Promises: reads only the fields that `passage.ours` gives; each detector names the filter whose documentation defines the field.
Never: scores anything itself; takes a verdict of "no spam" for anything.
"""

from __future__ import annotations

from gatepost.decision import Finding
from gatepost.mail.comments import without_comments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from gatepost.mail.headers import Field

__all__ = ["DETECTORS", "find"]

#: Stars of X-Spam-Level that are spam where no status stands beside them: SpamAssassin's default required_score.
_LEVEL: Final = 5
#: Exchange's spam confidence level from which on a message is spam (Microsoft: 5 and 6 spam, 7 to 9 with high confidence).
_SCL: Final = 5


def _word(value: bytes) -> bytes:
    words = without_comments(value).replace(b",", b" ").replace(b";", b" ").split(None, 1)
    return words[0].lower() if words else b""


def _yes(value: bytes) -> bool:
    """SpamAssassin, rspamd, Barracuda: "Yes" first, then scores."""
    return _word(value) in (b"yes", b"true", b"spam")


def _spamd_result(value: bytes) -> bool:
    """rspamd: `default: True [15.20 / 15.00]; ...`; its milter writes `default: False` for what passed."""
    return _word(value.partition(b":")[2]) == b"true"


def _rspamd_action(value: bytes) -> bool:
    """rspamd: the actions that it takes on spam; "soft reject" and "greylist" are for later, "no action" is ham."""
    return without_comments(value).strip().lower() in (b"reject", b"add header", b"rewrite subject", b"quarantine", b"discard")


def _level(value: bytes) -> bool:
    """SpamAssassin: a star for each point."""
    return len(value) - len(value.lstrip(b"*+")) >= _LEVEL


def _scl(value: bytes) -> bool:
    """Exchange: a number from -1 to 9."""
    word = _word(value)
    return word.isdigit() and len(word) == 1 and int(word) >= _SCL


def _forefront(value: bytes) -> bool:
    """Microsoft 365: `CIP:...;SCL:5;SFV:SPM;...`; SFV is SPM (spam), or SKB and SKS (spam by a rule)."""
    parts = [part.strip().upper() for part in value.split(b";", 64)[:64]]
    return any(part in (b"SFV:SPM", b"SFV:SKB", b"SFV:SKS") or (part.startswith(b"SCL:") and _scl(part[4:])) for part in parts)


def _fail(value: bytes) -> bool:
    """Amazon SES: PASS, FAIL, GRAY or PROCESSING_FAILED."""
    return _word(value) == b"fail"


def _proofpoint(value: bytes) -> bool:
    """Proofpoint: `rule=spam policy=... score=100`; another rule is notspam or the name of a policy."""
    return b"rule=spam" in value.lower().split()


def _yandex(value: bytes) -> bool:
    """Yandex: 1 is ham, 4 is spam."""
    return _word(value) == b"4"


def _infected(value: bytes) -> bool:
    """ClamAV's milter and amavis."""
    return _word(value) in (b"infected", b"yes")


#: Field, how it is written, what in it says spam.
DETECTORS: Final[dict[str, tuple[str, Callable[[bytes], bool]]]] = {
    "x-spam-flag": ("X-Spam-Flag", _yes),
    "x-spam-status": ("X-Spam-Status", _yes),
    "x-spam-level": ("X-Spam-Level", _level),
    "x-spam": ("X-Spam", _yes),
    "x-spamd-result": ("X-Spamd-Result", _spamd_result),
    "x-rspamd-action": ("X-Rspamd-Action", _rspamd_action),
    "x-rspamd-flag": ("X-Rspamd-Flag", _yes),
    "x-ms-exchange-organization-scl": ("X-MS-Exchange-Organization-SCL", _scl),
    "x-forefront-antispam-report": ("X-Forefront-Antispam-Report", _forefront),
    "x-ses-spam-verdict": ("X-SES-Spam-Verdict", _fail),
    "x-ses-virus-verdict": ("X-SES-Virus-Verdict", _fail),
    "x-barracuda-spam-flag": ("X-Barracuda-Spam-Flag", _yes),
    "x-barracuda-spam-status": ("X-Barracuda-Spam-Status", _yes),
    "x-proofpoint-spam-details": ("X-Proofpoint-Spam-Details", _proofpoint),
    "x-bogosity": ("X-Bogosity", _yes),
    "x-dspam-result": ("X-DSPAM-Result", _yes),
    "x-crm114-status": ("X-CRM114-Status", _yes),
    "x-yandex-spam": ("X-Yandex-Spam", _yandex),
    "x-virus-status": ("X-Virus-Status", _infected),
    "x-amavis-alert": ("X-Amavis-Alert", _infected),
}


def find(fields: tuple[Field, ...]) -> tuple[Finding, ...]:
    """Every verdict of spam among fields that may be believed, each slug once."""
    found: dict[str, Finding] = {}
    for field in fields:
        if field.name in DETECTORS:
            title, says_spam = DETECTORS[field.name]
            if says_spam(field.value):
                evidence = f"{title}: {field.value[:80].decode('latin-1')}"
                found.setdefault(field.name, Finding(slug=field.name, family="spam", evidence=evidence))
    if "x-spam-level" in found and any(field.name in ("x-spam-status", "x-spam-flag") for field in fields):
        found["x-spam-level"] = found["x-spam-level"].replace(strength="second")
    return tuple(found.values())
