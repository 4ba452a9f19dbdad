"""One transaction: what a use case reads and writes, all of it or nothing.

    async with unit_of_work() as work:
        device = await work.devices.get(device_id)
        ...
        await work.audit.add(actor, Change(...), at=now)
        work.record(Event(...))
        await work.commit()

Leaving the block without `commit` rolls back. Recorded events are stored by `commit` in the same transaction, and
`EventFeed` hands them on afterwards. A task opens one unit of work at a time, and never one inside another: with
SQLite a writer waits for the one before it. The order of locks is in `service.application.transactions`.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from service.application.attribute_repository import AttributeRepository
from service.application.audit import AuditLog
from service.application.delta_repository import DeltaRepository
from service.application.device_repositories import (
    ApprovalRepository,
    AttestationRepository,
    ClaimRepository,
    DeviceRepository,
    IdempotencyRepository,
    OperatorRepository,
    ProductRepository,
)
from service.application.disruption_repository import DisruptionRepository
from service.application.document_repository import DocumentRepository
from service.application.events import Event, EventLog
from service.application.health_repository import HealthRepository
from service.application.issuance import IssuanceLog
from service.application.learned_state_repository import LearnedStateRepository
from service.application.lease_repository import LeaseRepository
from service.application.revocation_repository import RevocationRepository
from service.application.site_repository import SiteRepository
from service.application.transparency_repository import LogRepository
from service.application.update_repositories import (
    ActionRepository,
    ArtifactRepository,
    DirectorRepository,
    InstalledRepository,
    MetadataRepository,
    ReleaseRepository,
    RolloutRepository,
)


class UnitOfWork(Protocol):
    """Repositories of one transaction."""

    operators: OperatorRepository
    products: ProductRepository
    devices: DeviceRepository
    attributes: AttributeRepository
    attestations: AttestationRepository
    revocations: RevocationRepository
    issuance: IssuanceLog
    claims: ClaimRepository
    idempotency: IdempotencyRepository
    approvals: ApprovalRepository
    audit: AuditLog
    events: EventLog
    artifacts: ArtifactRepository
    metadata: MetadataRepository
    releases: ReleaseRepository
    deltas: DeltaRepository
    rollouts: RolloutRepository
    actions: ActionRepository
    sites: SiteRepository
    director: DirectorRepository
    installed: InstalledRepository
    documents: DocumentRepository
    disruptions: DisruptionRepository
    leases: LeaseRepository
    log: LogRepository
    learned: LearnedStateRepository
    health: HealthRepository

    def record(self, event: Event) -> None:
        """Add an event that becomes real with the commit."""

    async def commit(self) -> int:
        """Make everything durable, events included; once, at the end.

        Returns:
            Sequence number of the last recorded event, 0 if none was.
        """


class UnitOfWorkFactory(Protocol):
    """Opens units of work."""

    def __call__(self, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """Begin a transaction; a read-only one sees one snapshot and never waits for writers."""
