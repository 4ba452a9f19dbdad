"""The two HTTPS listeners: operators (token or client certificate) and devices (client certificate required).

uvicorn knows nothing of client certificates, so `TlsProtocol` reads the peer's and puts it into each request's scope.
On the device listener it also verifies the certificate once per connection, keeps the connection by device id, so that
blocking a device closes it at once, and closes it at the certificate's end. `service.api.device_gate` checks both
again on every request, because a TLS session resumes although its client certificate has expired.
"""

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.auth import PEER_SCOPE_KEY
from service.api.gathered_writes import GatheredWrites
from service.application.clock import Clock
from service.application.identity import CertificateKind, CertificateRefusedError, CertificateVerifier, DevicePeer

DEVICE_SCOPE_KEY = "tinyfleet.device"  # DevicePeer, or the CertificateRefusedError that says why there is none
KEEP_ALIVE_SECONDS = 75
GRACEFUL_SECONDS = 1
MAX_CONNECTIONS = 10_000
_LONGEST_TIMER_SECONDS = 7 * 86_400.0  # an IDevID ends in the year 9999


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What a TLS listener shows and trusts.

    Attributes:
        certificate: chain file, leaf first.
        key: private key of the leaf, PEM.
        root: the one trust anchor for clients.
        intermediates: issuers below it, so that a client may send its leaf alone.
    """

    certificate: Path
    key: Path
    root: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()


def tls_context(files: ServerFiles, *, certificate_required: bool) -> ssl.SSLContext:
    """Make a listener's TLS context: TLS 1.2 or newer, forward secret, clients verified against the root.

    Args:
        files: what the listener shows and trusts.
        certificate_required: whether a client without a certificate is turned away in the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Sessions resume from this process's memory: a ticket would carry the client's whole certificate.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 1
    context.load_cert_chain(files.certificate, files.key)
    trusted = (files.root, *files.intermediates)
    context.load_verify_locations(cadata=b"".join(certificate.public_bytes(Encoding.DER) for certificate in trusted))
    context.verify_mode = ssl.CERT_REQUIRED if certificate_required else ssl.CERT_OPTIONAL
    return context


@dataclass(slots=True)
class DeviceConnections:
    """Verifies the devices that connect and keeps their live connections.

    Attributes:
        used: called once per connection with the device's id and its LDevID, DER, to find clones; returns at once.
    """

    certificates: CertificateVerifier
    clock: Clock
    used: Callable[[str, bytes, datetime], None]
    _live: defaultdict[str, set[asyncio.Transport]] = field(default_factory=lambda: defaultdict(set))

    def identify(self, certificate_der: bytes) -> DevicePeer | CertificateRefusedError:
        """Return who connected, or why it is nobody; raising in a connection callback would only be logged."""
        try:
            peer = self.certificates.device(certificate_der)
        except CertificateRefusedError as error:
            return error
        if peer.kind is CertificateKind.LDEVID:
            self.used(peer.device_id, certificate_der, self.clock.now())
        return peer

    def add(self, device_id: str, transport: asyncio.Transport) -> None:
        """Keep a live connection."""
        self._live[device_id].add(transport)

    def discard(self, device_id: str, transport: asyncio.Transport) -> None:
        """Forget a connection that ended."""
        transports = self._live[device_id]
        transports.discard(transport)
        if not transports:
            del self._live[device_id]

    def kick(self, device_id: str) -> bool:
        """Close a device's connections at once, idle or in a request; False if there was none."""
        transports = list(self._live.get(device_id, ()))
        for transport in transports:
            transport.abort()
        return bool(transports)

    def kick_refused(self) -> None:
        """Close the connections whose certificates are trusted no longer."""
        for transport in [transport for transports in self._live.values() for transport in transports]:
            certificate_der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            try:
                self.certificates.device(certificate_der)
            except CertificateRefusedError:
                transport.abort()

    def seconds_until(self, end: datetime) -> float:
        """Return the time until a certificate ends, bounded for a timer."""
        return min((end - self.clock.now()).total_seconds(), _LONGEST_TIMER_SECONDS)


class TlsProtocol(HttpToolsProtocol):
    """HTTP/1.1 that tells the app who the TLS peer is, and gives no idle connection away for free.

    Attributes:
        devices: on the device listener, what verifies and keeps connections; None on the operator listener.
    """

    devices: DeviceConnections | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._certificate: bytes | None = None
        self._peer: DevicePeer | CertificateRefusedError | None = None
        self._end: asyncio.TimerHandle | None = None
        self._tls: asyncio.Transport

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(GatheredWrites(transport, self.loop))
        self._tls = transport
        # uvicorn times out only between requests; a connection that sends none must end as well.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self._certificate = None if tls is None else tls.getpeercert(binary_form=True)
        if self.devices is not None and self._certificate is not None:
            self._peer = self.devices.identify(self._certificate)
            if isinstance(self._peer, DevicePeer):
                self.devices.add(self._peer.device_id, transport)
                self._end = self.loop.call_later(self.devices.seconds_until(self._peer.not_after), transport.abort)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        if self.devices is not None and isinstance(self._peer, DevicePeer):
            self.devices.discard(self._peer.device_id, self._tls)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, object] = self.scope  # type: ignore[assignment]  # uvicorn's scope type knows no more keys
        scope[PEER_SCOPE_KEY] = self._certificate
        scope[DEVICE_SCOPE_KEY] = self._peer


class Listener(uvicorn.Server):
    """One HTTPS listener on a socket that is bound at once; `serve_forever` in a task group, `stop` from anywhere."""

    def __init__(
        self, app: ASGIApp, *, address: tuple[str, int], tls: ssl.SSLContext, devices: DeviceConnections | None = None
    ) -> None:
        protocol = type("DeviceTlsProtocol", (TlsProtocol,), {"devices": devices}) if devices else TlsProtocol
        config = Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
            ssl_context_factory=lambda _config, _default: tls,
        )
        super().__init__(config)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=config.backlog)

    @property
    def port(self) -> int:
        """The port that is bound."""
        port: int = self._socket.getsockname()[1]
        return port

    async def serve_forever(self) -> None:
        """Serve until `stop`."""
        await self.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Finish requests for at most a second, then close everything."""
        self.should_exit = True

    def close(self) -> None:
        """Give the socket back when nothing was served."""
        self._socket.close()

    @override
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the one who runs several listeners."""
        yield
