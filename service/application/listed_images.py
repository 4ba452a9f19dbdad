"""Reference values from the Image repository's targets in force, remembered as long as those are.

What is listed never changes but with a published release, which raises the version of targets.json. So a process
remembers what it has read, and asks for that version alone before it judges; several processes agree, because each
asks in the transaction that judges. A digest that is not listed is looked up again each time.
"""

from collections.abc import Collection, Mapping

from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import MetadataRole, RepositoryName
from service.domain.attestation import ReferenceValue

LARGEST_MEMORY = 10_000  # values, about 1 KiB each


class ListedImages:
    """Implements `ReferenceValues`."""

    def __init__(self) -> None:
        self._version = 0
        self._known: dict[str, ReferenceValue] = {}

    async def find(self, work: UnitOfWork, digests: Collection[str]) -> Mapping[str, ReferenceValue]:
        """See `ReferenceValues.find`."""
        if not digests:
            return {}
        version = await work.metadata.version(RepositoryName.IMAGE, MetadataRole.TARGETS)
        if version != self._version or len(self._known) > LARGEST_MEMORY:
            self._version, self._known = version, {}
        known = self._known
        if missing := [digest for digest in digests if digest not in known]:
            known.update(await _read(work, missing))
        return {digest: known[digest] for digest in digests if digest in known}


async def _read(work: UnitOfWork, digests: Collection[str]) -> dict[str, ReferenceValue]:
    images = await work.metadata.images_of(digests)
    releases = await work.releases.newest_with(digests)
    return {
        digest: ReferenceValue(
            digest=digest,
            name=image.custom.name,
            slot_kinds=frozenset({image.custom.slot_kind}),
            hardware_ids=frozenset(image.custom.hardware_ids),
            release=releases.get(digest, ""),
        )
        for digest, image in images.items()
    }
