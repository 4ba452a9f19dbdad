"""One transaction on the control database; implements `UnitOfWork`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database import device_tables as tables
from service.adapters.database.actions import SqlActions
from service.adapters.database.approvals import SqlApprovals
from service.adapters.database.artifacts import SqlArtifacts
from service.adapters.database.attestations import SqlAttestations
from service.adapters.database.attributes import SqlAttributes
from service.adapters.database.claims import SqlClaims
from service.adapters.database.deltas import SqlDeltas
from service.adapters.database.devices import SqlDevices
from service.adapters.database.director_sets import SqlDirectorSets, SqlInstalled
from service.adapters.database.disruptions import SqlDisruptions
from service.adapters.database.documents import SqlDocuments
from service.adapters.database.engine import Database
from service.adapters.database.issuance import SqlIssuanceLog
from service.adapters.database.learned_states import SqlLearnedStates
from service.adapters.database.leases import SqlLeases
from service.adapters.database.logs import SqlAuditLog, SqlEventLog, SqlIdempotency
from service.adapters.database.metadata_files import SqlMetadata
from service.adapters.database.model_health import SqlHealth
from service.adapters.database.notifications import CHANNEL
from service.adapters.database.operators import SqlOperators
from service.adapters.database.products import SqlProducts
from service.adapters.database.releases import SqlReleases
from service.adapters.database.revocations import SqlRevocations
from service.adapters.database.rollouts import SqlRollouts
from service.adapters.database.sites import SqlSites
from service.adapters.database.transparency import SqlLog
from service.adapters.entropy import SystemEntropy
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
from service.application.entropy import Entropy
from service.application.events import Event, EventLog
from service.application.health_repository import HealthRepository
from service.application.issuance import IssuanceLog
from service.application.learned_state_repository import LearnedStateRepository
from service.application.lease_repository import LeaseRepository
from service.application.revocation_repository import RevocationRepository
from service.application.site_repository import SiteRepository
from service.application.transactions import TransactionGivenUpError
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

_EVENT_ORDER_LOCK = 0x7466_6576  # "tfev"
_GIVEN_UP = frozenset({"40001", "40P01"})  # PostgreSQL, appendix A: serialization_failure, deadlock_detected
_RANDOM_BYTES = 4


class SqlUnitOfWork:
    """Repositories on one connection; implements `UnitOfWork`."""

    def __init__(self, connection: AsyncConnection, *, on_commit: Callable[[], None]) -> None:
        self._connection = connection
        self._on_commit = on_commit
        self._recorded: list[Event] = []
        self.operators: OperatorRepository = SqlOperators(connection)
        self.products: ProductRepository = SqlProducts(connection)
        self.devices: DeviceRepository = SqlDevices(connection)
        self.attributes: AttributeRepository = SqlAttributes(connection)
        self.attestations: AttestationRepository = SqlAttestations(connection)
        self.revocations: RevocationRepository = SqlRevocations(connection)
        self.issuance: IssuanceLog = SqlIssuanceLog(connection)
        self.claims: ClaimRepository = SqlClaims(connection)
        self.idempotency: IdempotencyRepository = SqlIdempotency(connection)
        self.approvals: ApprovalRepository = SqlApprovals(connection)
        self.audit: AuditLog = SqlAuditLog(connection)
        self.events: EventLog = SqlEventLog(connection)
        self.artifacts: ArtifactRepository = SqlArtifacts(connection)
        self.metadata: MetadataRepository = SqlMetadata(connection)
        self.releases: ReleaseRepository = SqlReleases(connection)
        self.deltas: DeltaRepository = SqlDeltas(connection)
        self.rollouts: RolloutRepository = SqlRollouts(connection)
        self.actions: ActionRepository = SqlActions(connection)
        self.sites: SiteRepository = SqlSites(connection)
        self.director: DirectorRepository = SqlDirectorSets(connection)
        self.installed: InstalledRepository = SqlInstalled(connection)
        self.documents: DocumentRepository = SqlDocuments(connection)
        self.disruptions: DisruptionRepository = SqlDisruptions(connection)
        self.leases: LeaseRepository = SqlLeases(connection)
        self.log: LogRepository = SqlLog(connection)
        self.learned: LearnedStateRepository = SqlLearnedStates(connection)
        self.health: HealthRepository = SqlHealth(connection)

    def record(self, event: Event) -> None:
        """See `UnitOfWork.record`."""
        self._recorded.append(event)

    async def commit(self) -> int:
        """See `UnitOfWork.commit`."""
        sequence = await self._store_events() if self._recorded else 0
        await self._connection.commit()
        if sequence:
            self._on_commit()
        return sequence

    async def _store_events(self) -> int:
        # PostgreSQL draws sequence numbers before it commits; the lock, held to the commit, makes both orders equal.
        # The notification goes out with the commit and wakes the event feeds of all processes.
        if self._connection.dialect.name == "postgresql":
            lock_and_notify = text("SELECT pg_advisory_xact_lock(:key), pg_notify(:channel, '')")
            await self._connection.execute(lock_and_notify, {"key": _EVENT_ORDER_LOCK, "channel": CHANNEL})
        rows = [
            {
                "type": event.type,
                "subject_id": event.subject_id,
                "change": event.change,
                "at": event.at,
                "data": dict(event.data),
            }
            for event in self._recorded
        ]
        stored = await self._connection.scalars(insert(tables.events).returning(tables.events.c.sequence), rows)
        return max(int(sequence) for sequence in stored)


class SqlUnitOfWorkFactory:
    """Opens units of work on one database; implements `UnitOfWorkFactory`.

    Args:
        entropy: spreads those that were given up and are tried again; the machine's own if left out.

    Attributes:
        on_commit: called after each commit that stored events; `EventFeed.wake` in the running service.
    """

    def __init__(self, database: Database, *, entropy: Entropy | None = None) -> None:
        self._database = database
        self._entropy = entropy or SystemEntropy()
        self.on_commit: Callable[[], None] = _nobody_listens

    @asynccontextmanager
    async def __call__(self, *, read_only: bool = False) -> AsyncIterator[SqlUnitOfWork]:
        """See `UnitOfWorkFactory.__call__`.

        Raises:
            TransactionGivenUpError: the database has ended it, so that others could go on.
        """
        try:
            async with self._database.transaction(read_only=read_only) as connection:
                yield SqlUnitOfWork(connection, on_commit=self.on_commit)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _GIVEN_UP:
                raise
            share = int.from_bytes(self._entropy.octets(_RANDOM_BYTES), "big") / (1 << 8 * _RANDOM_BYTES)
            raise TransactionGivenUpError(type(error.orig).__name__, share=share) from error


def _nobody_listens() -> None:
    return
