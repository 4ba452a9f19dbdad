"""What the endpoints may call: the use cases, put together once by `service.bootstrap`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.application.clock import Clock
from service.application.identity import CertificateVerifier
from service.application.operators import Operators
from service.application.telemetry import Telemetry
from service.application.unit_of_work import UnitOfWorkFactory


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases of the operator API, one field per area; endpoints take it as `ServicesParameter`."""

    clock: Clock
    unit_of_work: UnitOfWorkFactory
    certificates: CertificateVerifier
    operators: Operators
    telemetry: Telemetry


async def services_of(request: Request) -> Services:
    """Return the use cases that the app was made with."""
    services: Services = request.app.state.services
    return services


ServicesParameter = Annotated[Services, Depends(services_of)]
