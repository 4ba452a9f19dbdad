"""The attestation endpoints of the device API: what an IDevID reaches, and nothing else."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.document import parse_document
from protocol.messages import AttestationRequest, NonceRequest
from service.api.device_gate import ATTEST_PATH, document_response, peer_of, read_body
from service.application.attestation import Attestation


def attest_routes(attestation: Attestation) -> list[Route]:
    """Return the routes of nonce and attestation."""

    async def nonce(request: Request) -> Response:
        wanted = parse_document(await read_body(request), NonceRequest)
        return document_response(await attestation.nonce(peer_of(request.scope), wanted))

    async def attest(request: Request) -> Response:
        unverified = parse_document(await read_body(request), AttestationRequest)
        return document_response(await attestation.attest(peer_of(request.scope), unverified))

    return [
        Route(f"{ATTEST_PATH}/nonce", nonce, methods=["POST"]),
        Route(ATTEST_PATH, attest, methods=["POST"]),
    ]
