"""One transaction on storage in memory; implements `UnitOfWork`.

There is one thread and nothing suspends, so one unit of work is open at a time and locks are not needed. What an
unfinished one has changed is undone, queues and indexes included.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, cast

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
from service.application.events import Event, EventLog, StoredEvent
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
from simulation.errors import TransactionError
from simulation.storage.actions import MemoryActions
from simulation.storage.attributes import MemoryAttributes
from simulation.storage.devices import MemoryAttestations, MemoryDevices, MemoryIssuance, MemoryProducts
from simulation.storage.disruptions import MemoryDisruptions
from simulation.storage.health import MemoryHealth
from simulation.storage.journal import Journal, Unreached
from simulation.storage.logs import MemoryAudit, MemoryEvents
from simulation.storage.sites import MemorySites
from simulation.storage.updates import (
    MemoryDirectorSets,
    MemoryInstalled,
    MemoryLeases,
    MemoryMetadata,
    MemoryReleases,
    MemoryRollouts,
)


class MemoryUnitOfWork:
    """The repositories, and whether a transaction on them is open; the same object for one after the other.

    Attributes:
        on_commit: called after each commit that stored events.
    """

    def __init__(self) -> None:
        self._journal = journal = Journal()
        self._recorded: list[Event] = []
        self._is_open = False
        self.on_commit: Callable[[], None] = _nobody_listens
        self._devices, self._events, self._leases = MemoryDevices(journal), MemoryEvents(), MemoryLeases(journal)
        attributes = MemoryAttributes(journal)
        self.attributes: AttributeRepository = attributes
        self.installed: InstalledRepository = MemoryInstalled(journal)
        actions = MemoryActions(journal, self._devices, attributes=self.attributes, installed=self.installed)
        self.products = cast("ProductRepository", MemoryProducts(journal))
        self.devices = cast("DeviceRepository", self._devices)
        self.attestations = cast("AttestationRepository", MemoryAttestations(journal))
        self.issuance = cast("IssuanceLog", MemoryIssuance(journal))
        self.audit: AuditLog = MemoryAudit(journal)
        self.events = cast("EventLog", self._events)
        self.metadata = cast("MetadataRepository", MemoryMetadata(journal))
        self.releases = cast("ReleaseRepository", MemoryReleases(journal))
        rollouts = MemoryRollouts(journal, actions)
        self.rollouts = cast("RolloutRepository", rollouts)
        self.actions = cast("ActionRepository", actions)
        self.sites: SiteRepository = MemorySites(journal)
        self.director: DirectorRepository = MemoryDirectorSets(journal)
        self.disruptions: DisruptionRepository = MemoryDisruptions(
            journal, actions, attributes, is_running=rollouts.is_running
        )
        self.leases: LeaseRepository = self._leases
        self.health: HealthRepository = MemoryHealth(journal)
        self._leave_out()

    def _leave_out(self) -> None:
        """Put a clear refusal in the place of what no scenario reaches."""
        self.operators = cast("OperatorRepository", Unreached("operators"))
        self.revocations = cast("RevocationRepository", Unreached("revocations"))
        self.claims = cast("ClaimRepository", Unreached("claims"))
        self.idempotency = cast("IdempotencyRepository", Unreached("idempotency"))
        self.approvals = cast("ApprovalRepository", Unreached("approvals"))
        self.artifacts = cast("ArtifactRepository", Unreached("artifacts"))
        self.deltas = cast("DeltaRepository", Unreached("deltas"))
        self.documents = cast("DocumentRepository", Unreached("documents"))
        self.log = cast("LogRepository", Unreached("log"))
        self.learned = cast("LearnedStateRepository", Unreached("learned"))

    def record(self, event: Event) -> None:
        """See `UnitOfWork.record`."""
        self._recorded.append(event)

    async def commit(self) -> int:
        """See `UnitOfWork.commit`.

        Raises:
            TransactionError: no unit of work is open.
        """
        if not self._is_open:
            raise TransactionError("unit of work: expected an open one to commit, found none")
        self._journal.keep()
        if not self._recorded:
            return 0
        sequence = self._events.append(self._recorded)
        self._recorded.clear()
        self.on_commit()
        return sequence

    def begin(self, *, read_only: bool) -> None:
        """Open the next unit of work.

        Raises:
            TransactionError: another one is open.
        """
        if self._is_open:
            raise TransactionError("unit of work: expected one at a time, found another one open")
        self._is_open, self._journal.is_read_only = True, read_only

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.undo()
        self._recorded.clear()
        self._is_open = self._journal.is_read_only = False

    def forget_events(self, read_up_to: int) -> None:
        """Drop the events that the worker has acted on and everybody else has read, too.

        Args:
            read_up_to: sequence number of the last event that was handed on.
        """
        self._events.forget(min(read_up_to, self._leases.acted_on()))


class MemoryDatabase:
    """Opens units of work; implements `UnitOfWorkFactory`. What it holds outlives the service's process."""

    def __init__(self) -> None:
        self.work = MemoryUnitOfWork()

    def __call__(self, *, read_only: bool = False) -> MemoryUnitOfWork:
        """See `UnitOfWorkFactory.__call__`."""
        self.work.begin(read_only=read_only)
        return self.work


class MemoryEventReader:
    """Reads events of a database; implements `EventReader`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._events = database.work.events

    async def after(self, sequence: int) -> Sequence[StoredEvent]:
        """See `EventReader.after`."""
        return await self._events.after(sequence)

    async def last_sequence(self) -> int:
        """See `EventReader.last_sequence`."""
        return await self._events.last_sequence()


def _nobody_listens() -> None:
    return
