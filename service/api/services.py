"""What the endpoints may call: the use cases, put together once by `service.bootstrap.operators`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from pki.manufacturers import Manufacturer
from service.application.approvals import Approvals
from service.application.artifacts import Artifacts
from service.application.attestation import AttestationResults
from service.application.checkpoints import Checkpoints
from service.application.claims import Claims
from service.application.clock import Clock
from service.application.custody import Custody
from service.application.deltas import Deltas
from service.application.device_attributes import DeviceAttributes
from service.application.device_identity import DeviceIdentities
from service.application.devices import Devices
from service.application.documents import Documents
from service.application.events import EventFeed
from service.application.explanation import Explanations
from service.application.fleet import Fleet
from service.application.idempotency import IdempotencyKeys
from service.application.identity import CertificateVerifier
from service.application.issuer_lists import IssuerLists
from service.application.issuing_ca import IssuingCas
from service.application.learned_states import LearnedStates
from service.application.model_health import ModelHealth
from service.application.operators import Operators
from service.application.possession import Possession
from service.application.products import Products
from service.application.releases import Releases
from service.application.repository import ImageRepository
from service.application.repository_status import RepositoryStatus
from service.application.request_rate import PublicRate
from service.application.revocation import Revocations
from service.application.rollout_approvals import RolloutRequests
from service.application.rollout_facts import RolloutFacts
from service.application.rollouts import Rollouts
from service.application.roots import Roots
from service.application.telemetry import Telemetry
from service.application.transparency import Transparency
from service.application.unit_of_work import UnitOfWorkFactory


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tenant.

    Attributes:
        catalog_id: GUID.
    """

    catalog_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases of the operator API, one field per area; endpoints take it as `ServicesParameter`.

    Attributes:
        manufacturers: whose devices the catalog takes besides its own.
        gateway_stats: returns the gateway's plain counters by name.
    """

    catalog: Catalog
    clock: Clock
    unit_of_work: UnitOfWorkFactory
    certificates: CertificateVerifier
    feed: EventFeed
    idempotency: IdempotencyKeys
    operators: Operators
    products: Products
    claims: Claims
    devices: Devices
    attributes: DeviceAttributes
    identities: DeviceIdentities
    custody: Custody
    possession: Possession
    manufacturers: Sequence[Manufacturer]
    revocations: Revocations
    issuer_lists: IssuerLists
    public_rate: PublicRate
    log_rate: PublicRate
    issuing_cas: IssuingCas
    approvals: Approvals
    explanations: Explanations
    attestations: AttestationResults
    rollout_facts: RolloutFacts
    artifacts: Artifacts
    documents: Documents
    deltas: Deltas
    repository: ImageRepository
    repository_status: RepositoryStatus
    roots: Roots
    transparency: Transparency
    checkpoints: Checkpoints
    releases: Releases
    rollouts: Rollouts
    rollout_requests: RolloutRequests
    telemetry: Telemetry
    fleet: Fleet
    learned_states: LearnedStates
    model_health: ModelHealth
    gateway_stats: Callable[[], Mapping[str, int]]


async def services_of(request: Request) -> Services:
    """Return the use cases that the app was made with."""
    services: Services = request.app.state.services
    return services


ServicesParameter = Annotated[Services, Depends(services_of)]
