"""Who calls the operator API: a typed endpoint parameter per role.

    async def create(actor: ReleaserActor, ...)

answers 401 without a credential and 403 below the role. A bearer token wins over a client certificate.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api.services import Services, ServicesParameter
from service.application.operators import CredentialError, RoleError
from service.domain.operator import Actor, Operator, Role

PEER_SCOPE_KEY = "tinyfleet.certificate"  # DER of the client's certificate, put into the ASGI scope by the listener
MAX_TOKEN_CHARACTERS = 512

_bearer = HTTPBearer(auto_error=False, description="Operator token; a client certificate may take its place.")


async def authenticate(request: Request, services: Services) -> Operator:
    """Return the operator who calls; asked once per request.

    Raises:
        CredentialError: no token and no client certificate, or one of nobody.
        CertificateRefusedError: a client certificate that is not an operator's.
    """
    known: Operator | None = getattr(request.state, "operator", None)
    if known is None:
        known = await _authenticate(request, services)
        request.state.operator = known
    return known


def check_role(operator: Operator, needed: Role) -> None:
    """Refuse an operator below a role.

    Raises:
        RoleError: the role is below.
    """
    if not operator.role.includes(needed):
        raise RoleError(f"role: expected at least {needed}, found {operator.role}")


async def _authenticate(request: Request, services: Services) -> Operator:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise CredentialError(f"token: expected at most {MAX_TOKEN_CHARACTERS} characters, found {len(token)}")
        return await services.operators.by_token(token)
    certificate: bytes | None = request.scope.get(PEER_SCOPE_KEY)
    if certificate is None:
        raise CredentialError("credential: expected a bearer token or an operator's certificate, found none")
    return await services.operators.by_name(services.certificates.operator(certificate).name)


async def _operator(
    request: Request,
    services: ServicesParameter,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Operator:
    return await authenticate(request, services)


def _requires(needed: Role) -> Callable[[Operator], Awaitable[Actor]]:
    async def actor_of(operator: Annotated[Operator, Depends(_operator)]) -> Actor:
        check_role(operator, needed)
        return operator.actor

    return actor_of


ViewerActor = Annotated[Actor, Depends(_requires(Role.VIEWER))]
OperatorActor = Annotated[Actor, Depends(_requires(Role.OPERATOR))]
ReleaserActor = Annotated[Actor, Depends(_requires(Role.RELEASER))]
AdminActor = Annotated[Actor, Depends(_requires(Role.ADMIN))]
