"""TLS over a `Wire`: OpenSSL works on buffers in memory, and the wire's one loop moves what they hold.

Promises: the certificate's chain, its dates and the host's name are checked (RFC 9525); TLS 1.2 or later (RFC 9325 3.1.1); an
end without close_notify, in an answer whose length nobody gave, is a cut (RFC 9112 9.8).
Never: is imported for a plain connection; reads the environment itself; asks for or offers anything but HTTP/1.1.
"""

from __future__ import annotations

import ssl

from gatepost.sinks.wire import EndedError, Wire, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Final

__all__ = ["TlsWire", "client_context"]

#: Octets encrypted, decrypted or sent at once: four records of the largest size (RFC 8446 5.1).
_CHUNK: Final = 65_536


def client_context(ca_file: str) -> ssl.SSLContext:
    """`ca_file`: PEM, instead of the system's CAs ("" = those). Raises WireError where it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname come with it
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Python sets this by default; an answer that was cut off would look like one that has ended.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.set_alpn_protocols(["http/1.1"])
    try:
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except OSError as error:  # ssl.SSLError is one
        raise WireError("misconfigured", f"CA file {ca_file or 'of the system'}: {_reason(error)}") from error
    return context


class TlsWire(Wire):
    """A connection under TLS; `shake_hands` comes first."""

    def __init__(self, sock: _socket.socket, deadline: float) -> None:
        super().__init__(sock, deadline)
        self._incoming = ssl.MemoryBIO()
        self._sealed = ssl.MemoryBIO()
        self._unsent = memoryview(b"")
        self._tls: ssl.SSLObject | None = None
        self._waits_for_peer = False

    def shake_hands(self, context: ssl.SSLContext, host: str) -> None:
        """The handshake (RFC 8446 4). Raises WireError: a bad certificate or protocol is the set-up, a cut is the network."""
        self.doing = "in the TLS handshake"
        try:
            tls = context.wrap_bio(self._incoming, self._sealed, server_hostname=host)
            while not self._step(tls):
                self.turn()
        except ssl.SSLCertVerificationError as error:
            self._say_why()
            raise WireError("misconfigured", f"TLS: the certificate of {host}: {error.verify_message}") from error
        except ssl.SSLError as error:
            if _is_end(error):
                raise EndedError("TLS: the connection ended in the handshake", gone=True) from error
            self._say_why()
            raise WireError("misconfigured", f"TLS: no agreement with {host}: {_reason(error)}") from error
        except ValueError as error:  # a host name that cannot be one
            raise WireError("misconfigured", f"TLS: {host}: {error}") from error
        self._tls = tls
        self.doing = "waiting for the app"
        self._unseal()

    @staticmethod
    def _step(tls: ssl.SSLObject) -> bool:
        """Whether the handshake is done."""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _say_why(self) -> None:
        """The alert that tells the peer why we go, if it leaves at once."""
        self._send(self._sealed.read())

    @property
    def quiet(self) -> bool:
        """As without TLS; and no part of a record is here that could not be read yet."""
        return not self._incoming.pending and super().quiet

    def _pending(self) -> bool:
        return bool(self._unsent or self._sealed.pending or (self._outgoing and not self._waits_for_peer))

    def _give_some(self) -> None:
        if not self._unsent:
            if self._outgoing and not self._sealed.pending:
                self._seal()
            self._unsent = memoryview(self._sealed.read())
        taken = self._send(self._unsent[:_CHUNK]) if self._unsent else 0
        self._unsent = self._unsent[taken:]
        if self._broken:
            self._unsent = memoryview(self._sealed.read())[:0]

    def _seal(self) -> None:
        """Encrypts some of what is queued."""
        assert self._tls is not None, "queued before the handshake"
        first = self._outgoing[0]
        try:
            taken = self._tls.write(first[:_CHUNK])
        except ssl.SSLWantReadError:
            self._waits_for_peer = True
            return
        except ssl.SSLError as error:
            raise WireError("unavailable", f"TLS: {_reason(error)}") from error
        if taken == len(first):
            self._outgoing.pop(0)
        else:
            self._outgoing[0] = first[taken:]

    def _take_some(self) -> None:
        came = self._receive()
        if came is None:
            return
        if came:
            self._incoming.write(came)
        else:
            self._incoming.write_eof()
        self._waits_for_peer = False
        if self._tls is not None:
            self._unseal()

    def _unseal(self) -> None:
        """Decrypts what has come; at most one chunk came, so this is bounded."""
        assert self._tls is not None, "taken before the handshake"
        try:
            while plain := self._tls.read(_CHUNK):
                self.inbox += plain
                self.heard = True
            self.ended = True
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            if _is_end(error):
                raise EndedError("the connection ended before the answer was whole (TLS: no close_notify)") from error
            raise WireError("unavailable", f"TLS: {_reason(error)}") from error


def _is_end(error: ssl.SSLError) -> bool:
    """Whether the connection ended without close_notify; OpenSSL 3 and Python's releases say it in three ways."""
    return isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", "") or error.strerror or error)
