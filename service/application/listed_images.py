"""Reference values from the Image repository's signed files, remembered as long as those are in force.

The tables say where to look, and are not believed: whoever writes the database could add a row. What an image is comes
from the role's file, verified from the root that the ceremony left in the service's folder. Of a digest, in this order:
    1. place: the tables name a target and the role that lists it; else it is not listed;
    2. signatures: root by root from the ceremony's, `targets`, hash bins, and the role (`pki.repository`);
    3. target: the role lists one of this name and digest.
Expiry is not looked at: devices take no update by an expired role, yet what they run is still their operator's word.

Whatever changes these files or whose they are brings a new snapshot. So a process remembers what it has verified, and
asks for the snapshot's version alone before it judges; several processes agree, because each asks in the transaction
that judges. A digest that is not listed is looked up again each time.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import structlog
from tuf.api.metadata import TargetFile, Targets

from pki.errors import RepositoryError
from pki.metadata import BIN_PREFIX, BINS_ROLE
from pki.repository import verify_listings
from protocol.updates import ImageCustom, image_custom
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import MetadataRole, RepositoryName
from service.domain.attestation import ReferenceValue

LARGEST_MEMORY = 10_000  # values or targets, 1 to 3 KiB each
_log = structlog.get_logger()

_Listing = Mapping[str, TargetFile]


@dataclass(frozen=True, slots=True)
class _Memory:
    """What has been verified while one snapshot is in force.

    Attributes:
        snapshot: its version.
        listings: targets of verified roles, by role; those of too many targets are left out.
        values: by SHA-256.
    """

    snapshot: int
    listings: dict[str, _Listing] = field(default_factory=dict)
    values: dict[str, ReferenceValue] = field(default_factory=dict)

    def is_full(self) -> bool:
        return len(self.values) + sum(map(len, self.listings.values())) > 2 * LARGEST_MEMORY


class ListedImages:
    """Implements `ReferenceValues`.

    Args:
        image_root: root.json of the Image repository that the ceremony made, trusted.
    """

    def __init__(self, image_root: bytes) -> None:
        self._image_root = image_root
        self._memory = _Memory(snapshot=0)

    async def find(self, work: UnitOfWork, digests: Collection[str]) -> Mapping[str, ReferenceValue]:
        """See `ReferenceValues.find`."""
        if not digests:
            return {}
        memory = await self._remembered(work)
        if missing := [digest for digest in digests if digest not in memory.values]:
            memory.values.update(await self._read(work, missing, memory))
        return {digest: memory.values[digest] for digest in digests if digest in memory.values}

    async def _remembered(self, work: UnitOfWork) -> _Memory:
        snapshot = await _snapshot(work)
        if snapshot != self._memory.snapshot or self._memory.is_full():
            self._memory = _Memory(snapshot)
        return self._memory

    async def _read(self, work: UnitOfWork, digests: Collection[str], memory: _Memory) -> Mapping[str, ReferenceValue]:
        # Step 1: place.
        names = {digest: image.path for digest, image in (await work.metadata.images_of(digests)).items()}
        homes = {name: target.role for name, target in (await work.metadata.listed(names.values())).items()}
        listings = await self._listings(work, set(homes.values()), memory)
        # Step 3: target.
        found = {digest: listings.get(homes.get(name, ""), {}).get(name) for digest, name in names.items()}
        signed = {digest: target for digest, target in found.items() if target and _is_of(target, digest)}
        releases = await work.releases.newest_with(signed.keys())
        return {
            digest: _value(digest, image_custom(target), releases.get(digest, "")) for digest, target in signed.items()
        }

    async def _listings(self, work: UnitOfWork, roles: Collection[str], memory: _Memory) -> Mapping[str, _Listing]:
        """Return what roles list, by role; none of a role whose file is not signed as it must be."""
        missing = set(roles) - memory.listings.keys()
        if not missing:
            return memory.listings
        # Step 2: signatures.
        try:
            verified = await self._verified(work, missing)
        except RepositoryError as error:
            if await _snapshot(work) == memory.snapshot:
                _log.error("listings_refused", roles=sorted(missing)[:4], detail=str(error))
                return memory.listings
            verified = await self._verified(work, missing)  # a publication came between two reads
        memory.listings.update({role: each for role, each in verified.items() if len(each) <= LARGEST_MEMORY})
        return {**memory.listings, **verified}

    async def _verified(self, work: UnitOfWork, roles: Collection[str]) -> Mapping[str, _Listing]:
        above = {MetadataRole.TARGETS.value} | {BINS_ROLE for role in roles if role.startswith(f"{BIN_PREFIX}-")}
        files = await work.metadata.newest(RepositoryName.IMAGE, above | set(roles))
        if Targets.type not in files:
            raise RepositoryError("targets: expected a file in force, found none")
        roots = await _newer_roots(work)
        listings = await asyncio.to_thread(
            verify_listings,
            {role: file.content for role, file in files.items()},
            trusted_root=self._image_root,
            newer_roots=roots,
        )
        return {role: listings.metadata_of(role).targets for role in roles if role in files}


async def _snapshot(work: UnitOfWork) -> int:
    return await work.metadata.version(RepositoryName.IMAGE, MetadataRole.SNAPSHOT)


async def _newer_roots(work: UnitOfWork) -> list[bytes]:
    """Return every root after the ceremony's, which is the first."""
    newest = await work.metadata.version(RepositoryName.IMAGE, MetadataRole.ROOT)
    found = [
        await work.metadata.find(RepositoryName.IMAGE, MetadataRole.ROOT, version=version)
        for version in range(2, newest + 1)
    ]
    return [file.content for file in found if file is not None]


def _is_of(target: TargetFile, digest: str) -> bool:
    return target.hashes.get("sha256") == digest


def _value(digest: str, custom: ImageCustom, release: str) -> ReferenceValue:
    return ReferenceValue(
        digest=digest,
        name=custom.name,
        slot_kinds=frozenset({custom.slot_kind}),
        hardware_ids=frozenset(custom.hardware_ids),
        release=release,
    )
