"""How the roles of both repositories stand: whose signatures they need, who has signed, when they end."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tuf.api.metadata import Role, Root, Snapshot, Targets, Timestamp

from pki.metadata import BIN_PREFIX, BINS_ROLE, DELTAS_ROLE
from pki.next_state import longest, trusted
from pki.repository import RepositoryInForce, count_signatures, delegated_roles, hash_bins
from service.application.clock import Clock
from service.application.metadata_refusals import refusals
from service.application.role_changes import delegators_in_force
from service.application.unit_of_work import UnitOfWorkFactory
from service.application.update_repositories import MetadataFile, MetadataRole, RepositoryName, RoleVersion

WARNING_BEFORE = timedelta(days=30)
WARNING_SHARE = 0.75  # of what a device reads of a file
_ONLINE = frozenset({MetadataRole.SNAPSHOT.value, MetadataRole.TIMESTAMP.value, DELTAS_ROLE})


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role, or all hash bins together.

    Attributes:
        version: of the file in force, the highest of bins; None where files are made for each device.
        expires_at: of the file in force, the first of bins to end, UTC, aware; None as above.
        key_ids: that may sign.
        signed_by: how many of them have signed the file; None of bins and as above.
        files: how many there are.
        warnings: what an operator should see to.
    """

    repository: RepositoryName
    role: str
    version: int | None
    expires_at: datetime | None
    threshold: int
    key_ids: tuple[str, ...]
    signed_by: int | None
    files: int
    warnings: tuple[str, ...]


class RepositoryStatus:
    """Reads how both repositories stand."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def roles(self) -> Sequence[RoleStatus]:
        """Return every role of both repositories; hash bins count as one."""
        now = self._clock.now()
        async with self._unit_of_work(read_only=True) as work:
            state = await delegators_in_force(work)
            director = await work.metadata.newest(RepositoryName.DIRECTOR, [MetadataRole.ROOT])
            versions = [each for each in await work.metadata.versions() if each.repository is RepositoryName.IMAGE]
            files = await work.metadata.newest(RepositoryName.IMAGE, _single_roles(state))
        with refusals():
            found = [_status(files[role], state, now) for role in _single_roles(state) if role in files]
            found += _bins(state, versions, now)
            return [*found, *_director(director.values(), now)]


def _single_roles(state: RepositoryInForce) -> list[str]:
    return [*MetadataRole, *delegated_roles(state.targets)]


def _status(file: MetadataFile, state: RepositoryInForce, now: datetime) -> RoleStatus:
    delegator = state.delegator_of(file.role)
    wanted = delegator.get_delegated_role(file.role)
    signed_by = count_signatures(file.content, delegator=delegator, role=file.role)
    return RoleStatus(
        repository=file.repository,
        role=file.role,
        version=file.version,
        expires_at=file.expires_at,
        threshold=wanted.threshold,
        key_ids=tuple(wanted.keyids),
        signed_by=signed_by,
        files=1,
        warnings=(*_warnings(file.role, file.expires_at, now), *_length_warnings(file)),
    )


def _bins(state: RepositoryInForce, versions: Sequence[RoleVersion], now: datetime) -> Iterator[RoleStatus]:
    wanted = hash_bins(state.delegated[BINS_ROLE]) if BINS_ROLE in state.delegated else None
    bins = [each for each in versions if wanted is not None and wanted.is_delegated_role(each.role)]
    if wanted is None or not bins:
        return
    first_end = min(each.expires_at for each in bins)
    yield RoleStatus(
        repository=RepositoryName.IMAGE,
        role=BIN_PREFIX,
        version=max(each.version for each in bins),
        expires_at=first_end,
        threshold=wanted.threshold,
        key_ids=tuple(wanted.keyids),
        signed_by=None,
        files=len(bins),
        warnings=tuple(_warnings(BIN_PREFIX, first_end, now)),
    )


def _director(files: Collection[MetadataFile], now: datetime) -> Iterator[RoleStatus]:
    for file in files:
        root = trusted(file.content, Root)
        yield _status(file, RepositoryInForce(root, Targets()), now)
        for role in (Targets.type, Snapshot.type, Timestamp.type):
            yield _per_device(role, root.roles[role])


def _per_device(role: str, wanted: Role) -> RoleStatus:
    return RoleStatus(
        repository=RepositoryName.DIRECTOR,
        role=role,
        version=None,
        expires_at=None,
        threshold=wanted.threshold,
        key_ids=tuple(wanted.keyids),
        signed_by=None,
        files=0,
        warnings=(),
    )


def _warnings(role: str, expires_at: datetime, now: datetime) -> Iterator[str]:
    if expires_at <= now:
        yield f"expired at {expires_at:%Y-%m-%d %H:%M} UTC: devices refuse it"
    elif role not in _ONLINE and expires_at - WARNING_BEFORE <= now:
        yield f"expires in {(expires_at - now).days} days: sign the next version"


def _length_warnings(file: MetadataFile) -> Iterator[str]:
    length, most = len(file.content), longest(file.role)
    if file.role not in _ONLINE and length > WARNING_SHARE * most:
        advice = "" if file.role == MetadataRole.ROOT else ": spread targets over hash bins, `tinyfleet metadata bins`"
        yield f"{length} of the {most} bytes that devices read{advice}"
