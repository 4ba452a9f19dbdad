"""The device API as an ASGI app behind a gate: no request gets past it without a certificate in force.

Checked on every request, in this order (deny by default):
    1. certificate: the connection's, verified as LDevID or IDevID when it was made;
    2. time: within the certificate's validity now, because a resumed or kept-alive connection outlives it;
    3. reach: what the table below lets its kind and access reach, and of other paths an LDevID of full access alone;
    4. standing: the device is claimed and may connect. For an IDevID the attestation use case checks this, and says
       why in its record.
A device that is quarantined has update-only access from that moment on, whatever older certificate it shows.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.document import Document, canonical_json
from protocol.identity import Access
from service.api.listeners import DEVICE_SCOPE_KEY
from service.api.problems import problem
from service.application.clock import Clock
from service.application.identity import CertificateKind, CertificateRefusedError, DevicePeer
from service.application.standing import Standings
from service.domain.errors import InvalidError

BASE_PATH = "/device/v1"
ATTEST_PATH = f"{BASE_PATH}/attest"
EST_PATH = "/.well-known/est"  # RFC 7030 §3.2.2
MAX_BODY_BYTES = 64 * 1024


class Caller(StrEnum):
    """Who a certificate makes of the device that shows it."""

    IDEVID = "IDevID"
    FULL = "LDevID of full access"
    UPDATE_ONLY = "LDevID of update-only access"


# Who reaches a path and what is below it; the first that fits counts.
REACH: Sequence[tuple[str, frozenset[Caller]]] = (
    (f"{BASE_PATH}/poll", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (f"{BASE_PATH}/uptane", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (f"{BASE_PATH}/artifacts", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (f"{BASE_PATH}/transparency", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (f"{BASE_PATH}/reports", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (f"{BASE_PATH}/manifest", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (ATTEST_PATH, frozenset({Caller.IDEVID})),
    (f"{EST_PATH}/cacerts", frozenset(Caller)),
    (f"{EST_PATH}/csrattrs", frozenset(Caller)),
    (f"{EST_PATH}/nonce", frozenset(Caller)),
    (f"{EST_PATH}/simplereenroll", frozenset({Caller.FULL, Caller.UPDATE_ONLY})),
    (f"{EST_PATH}/simpleenroll", frozenset({Caller.IDEVID})),
)
_OTHERS = frozenset({Caller.FULL})
_PUBLIC = f"{EST_PATH}/cacerts"  # of a device certificate whatever has become of the device
_log = structlog.get_logger()


class BodyTooLongError(InvalidError):
    """A device sent more than any of its messages needs."""


class DeviceGate:
    """Lets devices in good standing through to the device API.

    Args:
        routes: of the device API; endpoints find their caller by `peer_of`.
        exact: ASGI apps by path, tried before the routes; for the path that every device polls.
        below: ASGI apps by folder, for the paths right below it, tried next; for what devices ask for again and again.
        heard: called with each device that passed, for last-seen.
    """

    def __init__(
        self,
        *,
        routes: Sequence[BaseRoute],
        exact: Mapping[str, ASGIApp],
        below: Mapping[str, ASGIApp],
        standings: Standings,
        clock: Clock,
        heard: Callable[[str, datetime], None],
    ) -> None:
        self._router: ASGIApp = Router(routes, redirect_slashes=False)
        self._exact = dict(exact)
        self._below = dict(below)
        self._standings = standings
        self._clock = clock
        self._heard = heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            self._admit(scope)
            await self._app_of(scope["path"])(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the outermost frame: whatever it is becomes a problem document
            await _answer(error, scope, receive, send)

    def _app_of(self, path: str) -> ASGIApp:
        return self._exact.get(path) or self._below.get(path.rpartition("/")[0]) or self._router

    def _admit(self, scope: Scope) -> None:
        peer = scope.get(DEVICE_SCOPE_KEY)
        # Step 1: certificate.
        if isinstance(peer, CertificateRefusedError):
            raise peer
        if not isinstance(peer, DevicePeer):
            raise CertificateRefusedError("certificate: expected a device's, found none")
        # Step 2: time.
        now = self._clock.now()
        if now >= peer.not_after:
            raise CertificateRefusedError(f"certificate: expected valid at {now:%FT%TZ}, ended {peer.not_after:%FT%TZ}")
        # Step 3: reach.
        caller, allowed = self._caller(peer), reach_of(scope["path"])
        if caller not in allowed:
            expected = " or ".join(f"an {each}" for each in Caller if each in allowed)
            raise CertificateRefusedError(
                f"certificate: expected {expected} for {scope['path'][:80]}, found an {caller}"
            )
        # Step 4: standing.
        if caller is not Caller.IDEVID and scope["path"] != _PUBLIC:
            self._standings.check(peer.device_id)
        self._heard(peer.device_id, now)

    def _caller(self, peer: DevicePeer) -> Caller:
        if peer.kind is CertificateKind.IDEVID:
            return Caller.IDEVID
        is_full = peer.access is Access.FULL and self._standings.access(peer.device_id) is Access.FULL
        return Caller.FULL if is_full else Caller.UPDATE_ONLY


def reach_of(path: str) -> frozenset[Caller]:
    """Return who reaches a path."""
    for base, callers in REACH:
        if path.startswith(base) and path[len(base) : len(base) + 1] in {"", "/"}:
            return callers
    return _OTHERS


async def _answer(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(error, scope["path"])
    if response.status_code >= 500:  # noqa: PLR2004 - HTTP's own fault class
        _log.error("device_request_failed", path=scope["path"], exc_info=error)
    await response(scope, receive, send)


def peer_of(scope: Scope) -> DevicePeer:
    """Return the device that passed the gate."""
    peer: DevicePeer = scope[DEVICE_SCOPE_KEY]
    return peer


async def read_body(request: Request, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Read a request's body.

    Raises:
        BodyTooLongError: it is longer than `max_bytes`; the rest is not read.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLongError(f"body: expected at most {max_bytes} bytes, found more")
    return bytes(body)


def document_response(document: Document) -> Response:
    """Return a protocol document as a response."""
    return Response(canonical_json(document), media_type="application/json")
