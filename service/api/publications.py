"""Publications are large: their bodies are read from those alone who may publish.

`MAX_PUBLICATION_BYTES` goes to the routes that take metadata, in place of the app's limit.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

from pki.proposals import MAX_PROPOSAL_BYTES
from service.api.auth import authenticate, check_role
from service.api.idempotency import IdempotentRoute
from service.api.services import services_of
from service.domain.operator import Role

MAX_PUBLICATION_BYTES = MAX_PROPOSAL_BYTES + 64 * 1024  # what a proposal's file holds, and what stands around it


class PublicationRoute(APIRoute):
    """Asks who calls before it reads the body of a POST; the endpoint says which role is needed in the end."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler, which reads the body first."""
        handle = super().get_route_handler()

        async def handle_releasers(request: Request) -> Response:
            if request.method == "POST":
                check_role(await authenticate(request, await services_of(request)), Role.RELEASER)
            return await handle(request)

        return handle_releasers


class IdempotentPublicationRoute(PublicationRoute, IdempotentRoute):
    """Asks who calls, and answers a repeated POST with the stored answer of the first one."""
