"""The doctor's own message: how it is told from mail, and what an app is sent in its place.

Promises: a message is a probe only for the one recipient, and under the one token, that the store expects: 128 random bits that
`gatepost doctor --chain` wrote there. Each retry gives the app the same bytes.
Never: takes a stranger's field for one; lets the content of a probe reach an app.
"""

from __future__ import annotations

import time

from gatepost.mail.message import PROBE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.mail.message import Message
    from gatepost.stores.ledger import Ledger

__all__ = ["body", "is_probe"]


def is_probe(ledger: Ledger, message: Message, to: str) -> bool:
    """Whether this message is the one that the doctor sends to this recipient (its final form). Raises StoreError."""
    field = message.headers.first(PROBE)
    return field is not None and ledger.expects(field.value.decode("ascii", "replace").strip(), recipient=to)


def body(probe_id: str, text: str, *, at: int) -> bytes:
    """A webhook of `type: gatepost.probe` (docs/webhook.md). `at`: Unix seconds."""
    import json

    event = {
        "type": "gatepost.probe",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
        "data": {"id": probe_id, "version": 1, "text": text},
    }
    return json.dumps(event).encode("ascii")
