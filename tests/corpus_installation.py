"""The corpus' settings (tests/corpus_cases.py) as an installation on disk, for the doors that run as processes."""

from __future__ import annotations

from pathlib import Path

from gatepost.keys.keyring import revocation_line
from tests.corpus_cases import KEYS, SETTINGS
from tests.installation import WEBHOOK_SECRET, Installation

__all__ = ["corpus_installation"]


def corpus_installation(folder: Path, *, app: str, more: str, ask: str = "") -> Installation:
    """In `folder`, which is made. `app`: the sink, as flow YAML; `more`: further top-level lines.

    `ask`: whom the routes that ask the app ask; "": they do not.
    """
    folder.mkdir(mode=0o755)
    made = Installation(folder, folder / "gatepost.yml", folder / "store", folder / "gatepost.log", folder / "revoked")
    made.store.mkdir(mode=0o700)
    routes = ""
    for route in SETTINGS.routes:
        assert route.keys is not None
        asked = f", ask: '{ask}'" if ask and route.keys.ask is not None else ""
        screening = ", ".join(f"{name}: {getattr(route.screening, name)}" for name in route.screening._fields)
        sender = [f"must-match: {route.must_match}"] if route.must_match else []
        sender += [f"{name}: [{', '.join(given)}]" for name, given in (("allow", route.allow), ("deny", route.deny)) if given]
        routes += (
            f"  - name: {route.name}\n"
            f'    address: "{route.address}"\n'
            f"    keys: {{format: signed, secret: corpus, key_id: {route.keys.key_id}, revoked: {made.revoked}{asked}}}\n"
            f"    screening: {{{screening}}}\n"
            f"    sender: {{{', '.join(sender)}}}\n"
            f"    deliver: [app]\n"
        )
    made.config.write_text(
        f"store: {made.store}\nlog: {made.log}\ntrusted: [{', '.join(SETTINGS.trusted)}]\nroutes:\n{routes}"
        f"sinks:\n  app: {app}\n{more}"
    )
    made.config.chmod(0o644)
    (secret,) = {route.keys.secrets[0] for route in SETTINGS.routes if route.keys is not None}
    secrets = folder / "secrets.yml"
    secrets.write_text(f"corpus: ['{secret.decode()}']\napp-webhook: ['{WEBHOOK_SECRET}']\n")
    secrets.chmod(0o600)
    made.revoked.write_text("".join(f"{revocation_line(secret, 'reply-keys', KEYS[each])}\n" for each in ("revoked", "ended")))
    return made
