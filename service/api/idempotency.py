"""The Idempotency-Key header on creating requests: `APIRouter(route_class=IdempotentRoute)`, `idempotency_header`."""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Header, Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

from service.api.auth import authenticate
from service.api.problems import is_refusal
from service.api.services import services_of
from service.application.device_repositories import StoredAnswer
from service.domain.errors import InvalidError

HEADER = "Idempotency-Key"
MAX_KEY_CHARACTERS = 255
_KEPT_HEADERS = ("content-type", "etag", "location")
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class IdempotencyKeyError(InvalidError):
    """The Idempotency-Key header is empty or too long."""


async def idempotency_header(
    key: Annotated[
        str | None,
        Header(alias=HEADER, min_length=1, max_length=MAX_KEY_CHARACTERS, description="Makes a repetition harmless."),
    ] = None,
) -> None:
    """Document the header."""


class IdempotentRoute(APIRoute):
    """Answers a repeated POST with the stored answer of the first one."""

    @override
    def get_route_handler(self) -> _Handler:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            key = request.headers.get(HEADER)
            if key is None or request.method != "POST":
                return await handle(request)
            return await _once(request, key, handle)

        return handle_once


async def _once(request: Request, key: str, handle: _Handler) -> Response:
    if not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise IdempotencyKeyError(f"{HEADER}: expected 1 to {MAX_KEY_CHARACTERS} characters, found {len(key)}")
    services = await services_of(request)
    operator = (await authenticate(request, services)).operator_id
    digest = await _digest(request)
    stored = await services.idempotency.reserve(operator, key, request_sha256=digest)
    if stored is not None:
        return Response(stored.body, status_code=stored.status or 200, headers=dict(stored.headers))
    try:
        response = await handle(request)
    except Exception as error:
        if is_refusal(error):
            await services.idempotency.release(operator, key)
        raise
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    answer = StoredAnswer(digest, response.status_code, headers, bytes(response.body))
    await services.idempotency.complete(operator, key, answer)
    return response


async def _digest(request: Request) -> str:
    head = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(head + await request.body()).hexdigest()
