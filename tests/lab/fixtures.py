"""The lab's own hosts: a name server that takes updates, the app, and a stranger's mail server.

Promises: each is set up before it starts, with the same files each time; secrets are new in each lab.
Never: does what a role is there for; is reached from outside the lab.
"""

from __future__ import annotations

import json
import secrets
import shutil
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.lab.machine import CHECKOUT, run
from tests.lab.places import ADDRESSES, CONTROLLER, HOST_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.lab.places import Places

__all__ = [
    "APP_NAME",
    "FILLS",
    "OWN",
    "PERSON",
    "STRANGER",
    "TSIG_NAME",
    "make_authority",
    "make_secrets",
    "read_secrets",
    "variables",
]

#: The hosts that the lab makes itself, in the order in which they start.
OWN: Final = ("dns", "app", "sender")
APP_NAME: Final = "app.example.com"
#: A stranger's address, and the person who reads postmaster's mail; both at sender.
STRANGER: Final = "someone@example.net"
PERSON: Final = "person@example.net"
TSIG_NAME: Final = "lab"
_APP_FOLDER: Final = "/var/lib/app"
#: Signed keys, and where `gatepost key revoke` ends them.
_KEYS: Final = {"format": "signed", "secret": "reply-keys", "revoked": "/var/lib/gatepost/revoked-keys"}
#: Seconds that a stranger's server waits before it tries again; hours in the wild.
_RETRY: Final = 2


def make_secrets(places: Places) -> None:
    """The app's and the routes' secrets, the DNS key; mode 0600."""
    made = {
        "app-webhook": "whsec_" + b64encode(secrets.token_bytes(32)).decode(),
        "reply-keys": secrets.token_hex(32),
        "tsig": b64encode(secrets.token_bytes(32)).decode(),
    }
    file = places.folder / "secrets.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(made))


def read_secrets(places: Places) -> Mapping[str, str]:
    """Secrets by name."""
    made: dict[str, str] = json.loads((places.folder / "secrets.json").read_text())
    return made


def make_authority(places: Places) -> None:
    """A certificate authority that the image believes in, and the app's certificate."""
    folder = places.folder / "authority"
    folder.mkdir(mode=0o700)
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
         "/CN=lab", "-keyout", "ca.key", "-out", "ca.crt"], cwd=folder)  # fmt: skip
    run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={APP_NAME}",
         "-keyout", "app.key", "-out", "app.csr"], cwd=folder)  # fmt: skip
    (folder / "app.ext").write_text(f"subjectAltName=DNS:{APP_NAME}\nextendedKeyUsage=serverAuth\n")
    run(["openssl", "x509", "-req", "-in", "app.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "app.ext", "-out", "app.crt"], cwd=folder)  # fmt: skip


# --- dns ------------------------------------------------------------------------------------------------------------------


def _dns(places: Places, root: Path) -> None:
    """BIND: everything is answered here, the root too, so that nobody waits for a name server that cannot be reached."""
    sender, app = ADDRESSES["sender"], ADDRESSES["app"]
    zones = {
        "lab.root": f"dns.example.net. A {ADDRESSES['dns'].ipv4}\n",
        HOST_DOMAIN: "",
        "example.com": f"app A {app.ipv4}\napp AAAA {app.ipv6}\n",
        "example.net": (
            f"dns A {ADDRESSES['dns'].ipv4}\n"
            f"@ MX 10 sender\nsender A {sender.ipv4}\nsender AAAA {sender.ipv6}\n"
            f'@ TXT "v=spf1 ip4:{sender.ipv4} ip6:{sender.ipv6} -all"\n'
        ),
        "example.org": '@ TXT "v=spf1 -all"\n_dmarc TXT "v=DMARC1; p=reject"\n',
        "club.example": f"@ MX 10 other\nother A {ADDRESSES['other'].ipv4}\nother AAAA {ADDRESSES['other'].ipv6}\n",
    }
    lines = [
        'options { directory "/var/cache/bind"; recursion no; allow-query { any; }; dnssec-validation no; listen-on-v6 { any; }; };',
        f'key "{TSIG_NAME}" {{ algorithm hmac-sha256; secret "{read_secrets(places)["tsig"]}"; }};',
    ]
    folder = root / "var/lib/bind"
    for name, records in zones.items():
        head = "$TTL 1\n@ SOA dns.example.net. hostmaster.example.net. 1 60 60 3600 1\n@ NS dns.example.net.\n"
        file = folder / f"{name}.zone"
        file.write_text(head + records)
        update = f' allow-update {{ key "{TSIG_NAME}"; }};' if name == HOST_DOMAIN else ""
        lines.append(
            f'zone "{"." if name == "lab.root" else name}" {{ type primary; file "/var/lib/bind/{name}.zone";{update} }};'
        )
    (root / "etc/bind/named.conf").write_text("\n".join(lines) + "\n")
    _chroot(root, "chown -R bind:bind /var/lib/bind && named-checkconf -z >/dev/null && systemctl -q enable named")


# --- app ------------------------------------------------------------------------------------------------------------------

_APP_UNIT: Final = f"""\
[Unit]
Description=The app that receives mail
[Service]
Environment=PYTHONPATH=/opt/app PYTHONDONTWRITEBYTECODE=1
EnvironmentFile=/opt/app/environment
ExecStart=/usr/bin/python3 -m tests.lab.receiving_app {_APP_FOLDER} /opt/app/app.crt /opt/app/app.key
Restart=always
[Install]
WantedBy=multi-user.target
"""


def _app(places: Places, root: Path) -> None:
    """The demo's app behind https, as a unit."""
    folder = root / "opt/app"
    for name in ("gatepost", "demo"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/lab").mkdir(parents=True)
    shutil.copy(CHECKOUT / "tests/lab/receiving_app.py", folder / "tests/lab")
    for name in ("app.crt", "app.key"):
        shutil.copy(places.folder / "authority" / name, folder)
    (folder / "environment").write_text(f"WEBHOOK_SECRET={read_secrets(places)['app-webhook']}\n")
    (root / "etc/systemd/system/app.service").write_text(_APP_UNIT)
    _chroot(root, f"mkdir {_APP_FOLDER} && systemctl -q enable app")


# --- sender ---------------------------------------------------------------------------------------------------------------

_SENDER_MAIN: Final = f"""\
compatibility_level = 3.6
myhostname = sender.example.net
mydestination = example.net
mynetworks = 127.0.0.0/8 [::1]/128
local_recipient_maps =
luser_relay = person
alias_maps =
home_mailbox = Maildir/
inet_protocols = all
smtp_tls_security_level = may
smtp_tls_loglevel = 1
minimal_backoff_time = {_RETRY}s
maximal_backoff_time = {_RETRY}s
queue_run_delay = {_RETRY}s
smtp_connect_timeout = 5s
smtp_connection_cache_on_demand = no
enable_long_queue_ids = yes
smtp_destination_concurrency_failed_cohort_limit = 1000
"""


def _sender(places: Places, root: Path) -> None:
    """A Postfix that finds our hosts by their MX records, as any other would; what comes back goes to a Maildir."""
    (root / "etc/postfix/main.cf").write_text(_SENDER_MAIN)
    client(root)
    _chroot(
        root, "useradd -m person && cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf && systemctl -q enable postfix"
    )


def client(root: Path) -> None:
    """What strangers do (client.py), on a host that is one."""
    (root / "opt/lab").mkdir()
    shutil.copy(CHECKOUT / "tests/lab/client.py", root / "opt/lab")


#: What is put on each host before it starts.
FILLS: Final[Mapping[str, Callable[[Places, Path], None]]] = {"dns": _dns, "app": _app, "sender": _sender}


def _chroot(root: Path, script: str) -> None:
    run(["chroot", str(root), "sh", "-c", script], environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})


# --- what is told to the roles --------------------------------------------------------------------------------------------


def variables(places: Places) -> Mapping[str, Any]:
    """What a newcomer writes into the inventory: see ansible/inventory.example.yml."""
    made = read_secrets(places)
    return {
        # Controller and hosts are one step apart here: a stranger's machine must not even see ssh.
        "firewall_ssh_from": [f"{CONTROLLER.ipv4}/32", f"{CONTROLLER.ipv6}/128"],
        # One stranger's host sends everything here, 20 messages a second at times.
        "postfix_client_message_rate": 6000,
        "postfix_client_recipient_rate": 6000,
        "gatepost_domain": HOST_DOMAIN,
        "gatepost_postmaster": PERSON,
        "gatepost_routes": [
            {"name": "replies", "address": f"reply+%{{key}}@{HOST_DOMAIN}", "keys": _KEYS, "deliver": ["app"]},
            {"name": "support", "address": f"support@{HOST_DOMAIN}", "keys": _KEYS, "deliver": ["app"]},
        ],
        "gatepost_sinks": {"app": {"webhook": f"https://{APP_NAME}/mail", "secret": "app-webhook"}},
        "gatepost_wheels": "/srv/wheels",
        "gatepost_secrets": {name: [made[name]] for name in ("reply-keys", "app-webhook")},
        "mx_mode": "update",
        "mx_server": ADDRESSES["dns"].ipv4,
        "mx_tsig_name": TSIG_NAME,
        "mx_tsig_secret": made["tsig"],
        "mx_resolver": [ADDRESSES["dns"].ipv4],
    }
