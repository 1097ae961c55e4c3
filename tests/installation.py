"""A gatepost installation in a folder of its own: configuration, secrets, store, and keys to send mail to."""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass
from pathlib import Path

from gatepost.config import load
from gatepost.keys.outgoing import fill
from gatepost.keys.signed import mint, today
from gatepost.settings import Settings

DOMAIN = "in.example.com"
SECRET = "a secret of thirty-two bytes or more, for tests only"
KEY_ID = "reply-keys"
WEBHOOK_KEY = b"a webhook secret of tests, 32 b."
WEBHOOK_SECRET = "whsec_" + base64.b64encode(WEBHOOK_KEY).decode()

CONFIG = """\
store: {store}
log: {log}
routes:
  - name: replies
    address: "reply+%{{key}}@in.example.com"
    keys: {{format: signed, secret: reply-keys, revoked: {revoked}}}
    deliver: [app]
  - name: support
    address: "support@in.example.com"
    keys: {{format: signed, secret: reply-keys}}
    deliver: [app]
{more}
sinks:
  app: {app}
"""


@dataclass(frozen=True)
class Installation:
    """Where everything of one installation lies."""

    folder: Path
    config: Path
    store: Path
    log: Path
    revoked: Path

    @property
    def settings(self) -> Settings:
        """The configuration as it is on disk now."""
        return load(str(self.config))

    def key(self, subject: str = "42", *, days: int | None = None, owner: str | None = None, secret: str = SECRET) -> str:
        """A key that the replies route takes; `days` from today until it expires."""
        expires = None if days is None else today(time.time()) + days
        return mint(
            secret=secret.encode(), key_id=KEY_ID, domain=DOMAIN, subject=subject.encode(), expires=expires, owner=owner
        )

    def address(self, key: str) -> str:
        """The address of the replies route that carries this key."""
        return fill(f"reply+%{{key}}@{DOMAIN}", key)

    def log_lines(self) -> list[str]:
        """What gatepost has logged so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []


def install(folder: Path, *, app: str = "", more: str = "") -> Installation:
    """Writes configuration, secrets and store into `folder` (which must exist and be reachable for whoever runs gatepost).

    `app`: the sink named app, as flow YAML; default: a Maildir in the folder. `more`: further top-level lines of the file.
    """
    made = Installation(folder, folder / "gatepost.yml", folder / "store", folder / "gatepost.log", folder / "revoked")
    made.store.mkdir(mode=0o700, exist_ok=True)
    text = CONFIG.format(
        store=made.store, log=made.log, revoked=made.revoked, more=more, app=app or f"{{maildir: {folder / 'Maildir'}}}"
    )
    made.config.write_text(text)
    made.config.chmod(0o644)
    secrets = folder / "secrets.yml"
    secrets.write_text(f"reply-keys: ['{SECRET}']\napp-webhook: ['{WEBHOOK_SECRET}']\n")
    secrets.chmod(0o600)
    return made


def give_to(user_id: int, group_id: int, made: Installation) -> None:
    """Makes another user the owner of the whole installation."""
    for root, folders, files in os.walk(made.folder):
        for name in (root, *(os.path.join(root, each) for each in (*folders, *files))):
            os.chown(name, user_id, group_id)


def webhook(url: str, **options: str) -> str:
    """A webhook sink as flow YAML."""
    more = "".join(f", {name}: {value}" for name, value in options.items())
    return f'{{webhook: "{url}", secret: app-webhook{more}}}'


def message(
    *, sender: str = "person@example.org", to: str = f"support@{DOMAIN}", subject: str = "Hello", body: str = "Hello.\n",
    headers: str = "", size: int = 0,
) -> bytes:  # fmt: skip
    """A person's message with LF line ends, as pipe(8) writes it but for the LF of flag B; `size`: bytes of padding."""
    head = f"From: A Person <{sender}>\nTo: {to}\nSubject: {subject}\nMessage-ID: <1.{abs(hash((to, subject)))}@example.org>\n"
    text = f"{head}{headers}MIME-Version: 1.0\nContent-Type: text/plain\n\n{body}".encode()
    return text + (b"x" * 75 + b"\n") * (size // 76)
