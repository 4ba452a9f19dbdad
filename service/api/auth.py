"""Who calls the operator API: a typed endpoint parameter per role.

    async def create(actor: ReleaserActor, ...)

answers 401 without a credential and 403 below the role. A bearer token wins over a client certificate.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api.services import Services, ServicesParameter
from service.application.identity import OperatorPeer
from service.application.operators import CredentialError, RoleError
from service.domain.operator import Actor, Operator, Role

PEER_SCOPE_KEY = "tinyfleet.certificate"  # DER of the client's certificate, put into the ASGI scope by the listener
MAX_TOKEN_CHARACTERS = 512

_bearer = HTTPBearer(auto_error=False, description="Operator token; a client certificate may take its place.")
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def authenticate(request: Request, services: Services, token: str | None) -> Operator:
    """Return the operator who calls.

    Raises:
        CredentialError: no token and no client certificate, or one of nobody.
        CertificateRefusedError: a client certificate that is not an operator's.
    """
    if token is not None:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise CredentialError(f"token: expected at most {MAX_TOKEN_CHARACTERS} characters, found {len(token)}")
        return await services.operators.by_token(token)
    certificate: bytes | None = request.scope.get(PEER_SCOPE_KEY)
    if certificate is None:
        raise CredentialError("credential: expected a bearer token or an operator's certificate, found none")
    peer: OperatorPeer = services.certificates.operator(certificate)
    return await services.operators.by_name(peer.name)


async def _operator(request: Request, services: ServicesParameter, bearer: _Bearer) -> Operator:
    return await authenticate(request, services, None if bearer is None else bearer.credentials)


def _requires(needed: Role) -> Callable[[Operator], Awaitable[Actor]]:
    async def actor_of(operator: Annotated[Operator, Depends(_operator)]) -> Actor:
        if not operator.role.includes(needed):
            raise RoleError(f"role: expected at least {needed}, found {operator.role}")
        return operator.actor

    return actor_of


ViewerActor = Annotated[Actor, Depends(_requires(Role.VIEWER))]
OperatorActor = Annotated[Actor, Depends(_requires(Role.OPERATOR))]
ReleaserActor = Annotated[Actor, Depends(_requires(Role.RELEASER))]
AdminActor = Annotated[Actor, Depends(_requires(Role.ADMIN))]
