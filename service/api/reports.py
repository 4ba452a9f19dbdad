"""Reports and version manifests of devices."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.document import parse_document
from protocol.messages import ActionReport
from service.api.device_gate import BASE_PATH, peer_of, read_body
from service.application.manifests import MAX_MANIFEST_BYTES, Manifests
from service.application.reports import Reports

MAX_REPORT_BYTES = 8 * 1024


def report_routes(reports: Reports, manifests: Manifests) -> list[Route]:
    """Return the routes of what devices say of themselves."""

    async def report(request: Request) -> Response:
        body = await read_body(request, max_bytes=MAX_REPORT_BYTES)
        await reports.report(peer_of(request.scope).device_id, parse_document(body, ActionReport))
        return Response(status_code=204)

    async def manifest(request: Request) -> Response:
        body = await read_body(request, max_bytes=MAX_MANIFEST_BYTES)
        await manifests.take(peer_of(request.scope).device_id, body)
        return Response(status_code=204)

    return [
        Route(f"{BASE_PATH}/reports", report, methods=["POST"]),
        Route(f"{BASE_PATH}/manifest", manifest, methods=["POST"]),
    ]
