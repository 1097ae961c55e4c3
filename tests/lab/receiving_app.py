"""The demo's app (demo/app.py) on a host of its own: https, all addresses, port 443.

    WEBHOOK_SECRET=whsec_... python3 -m tests.lab.receiving_app FOLDER CERTIFICATE KEY

Promises: what demo/app.py promises.
Never: runs outside the lab.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

from demo.app import Inbox, Webhook

__all__ = ["main"]


class _App(ThreadingHTTPServer):
    """The handler finds `inbox` and `secret` here, as in demo.app.App."""

    address_family = socket.AF_INET6
    request_queue_size = 128

    def __init__(self, folder: Path, certificate: str, key: str) -> None:
        super().__init__(("::", 443), Webhook)
        self.inbox = Inbox(folder)
        self.secret = os.environ["WEBHOOK_SECRET"]
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)

    def get_request(self) -> tuple[socket.socket, object]:
        """The handshake is done by the thread that reads: a client that is slow at it holds nobody up."""
        connection, client = super().get_request()
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), client


def main() -> None:
    """Serves until it is ended."""
    folder, certificate, key = sys.argv[1:]
    with _App(Path(folder), certificate, key) as app:
        app.serve_forever()


if __name__ == "__main__":
    main()
