"""EST (RFC 7030, RFC 8951) on the device listener, for devices that enrol without our client.

Bodies are base64, as RFC 7030 §4 has it, with line ends or without. What is refused is answered by a problem document:
400 for a request that is malformed, 403 for a device that may not enrol, 413 and 415; 202 with Retry-After for one that
nobody has claimed yet. A client without a certificate, which RFC 7030 answers by 401, does not get past the handshake.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pki.csr import MAX_CSR_BYTES
from protocol.est import CSRATTRS_MEDIA_TYPE, NONCE_MEDIA_TYPE, PATH, PKCS7_MEDIA_TYPE, PKCS10_MEDIA_TYPE
from service.api.device_gate import BodyTooLongError, peer_of, read_body
from service.application.est import (
    EnrolmentPendingError,
    Est,
    EstMediaTypeError,
    EstRequestError,
    EstTooLongError,
)

MAX_BODY_BYTES = 2 * MAX_CSR_BYTES  # base64 with line ends
RETRY_AFTER_SECONDS = 300
_CERTIFICATES = f"{PKCS7_MEDIA_TYPE}; smime-type=certs-only"
_Endpoint = Callable[[Request], Awaitable[Response]]


def est_routes(est: Est, *, nonce_seconds: float) -> list[Route]:
    """Return the routes of EST.

    Args:
        est: the use case.
        nonce_seconds: how long a nonce is in force.
    """

    async def cacerts(_request: Request) -> Response:
        return _encoded(est.ca_certificates(), _CERTIFICATES)

    async def csrattrs(request: Request) -> Response:
        return _encoded(est.csr_attributes(peer_of(request.scope)), CSRATTRS_MEDIA_TYPE)

    async def nonce(request: Request) -> Response:
        given = await est.nonce(peer_of(request.scope))
        encoded = base64.urlsafe_b64encode(given.nonce).decode().rstrip("=")
        content = {"nonce": encoded, "expiry": int(nonce_seconds)}
        return JSONResponse(content, media_type=NONCE_MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def enrol(request: Request) -> Response:
        unverified_csr = await _decoded(request)
        return _encoded(await est.enrol(peer_of(request.scope), unverified_csr), _CERTIFICATES)

    return [
        Route(f"{PATH}/cacerts", cacerts, methods=["GET"]),
        Route(f"{PATH}/csrattrs", csrattrs, methods=["GET"]),
        Route(f"{PATH}/nonce", _patient(nonce), methods=["GET"]),
        Route(f"{PATH}/simpleenroll", _patient(enrol), methods=["POST"]),
        Route(f"{PATH}/simplereenroll", _patient(enrol), methods=["POST"]),
    ]


def _patient(endpoint: _Endpoint) -> _Endpoint:
    """Tell a device that nobody has claimed yet to come again."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except EnrolmentPendingError as error:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return Response(f"{error}\n", status_code=202, media_type="text/plain", headers=headers)

    return answer


async def _decoded(request: Request) -> bytes:
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != PKCS10_MEDIA_TYPE:
        raise EstMediaTypeError(f"content type: expected {PKCS10_MEDIA_TYPE}, found {media_type[:80]!r}")
    try:
        body = await read_body(request, max_bytes=MAX_BODY_BYTES)
        return base64.b64decode(b"".join(body.split()), validate=True)
    except BodyTooLongError as error:
        raise EstTooLongError(str(error)) from error
    except binascii.Error as error:
        raise EstRequestError("body: expected a PKCS#10 request in base64, found other text") from error


def _encoded(der: bytes, media_type: str) -> Response:
    # RFC 8951 §3: clients ignore the transfer encoding's header; those of before look for it.
    headers = {"Content-Transfer-Encoding": "base64"}
    return Response(base64.encodebytes(der), media_type=media_type, headers=headers)
