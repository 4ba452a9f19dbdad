"""Releases: verified Image targets metadata comes into force, all of it or nothing.

Verification of an operator's release, in this order:
    1. metadata: form, threshold of signatures, version current + 1, expiry (`RepositoryMetadata.verify_targets`);
    2. targets, artifacts, release document and fit (`service.domain.release.check_proposal`);
    3. the release has the name that the operator gave it.
"""

from collections.abc import Mapping, Sequence

from tuf.api.metadata import TargetFile

from protocol.updates import ReleaseDocument
from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.repository import ImageRepository
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import ImageTarget
from service.domain.errors import JsonValue
from service.domain.operator import Actor
from service.domain.release import InvalidReleaseError, Proposal, Release, check_proposal, target_sha256


class Releases:
    """Use cases of releases and images."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, repository: ImageRepository, clock: Clock, entropy: Entropy
    ) -> None:
        self._unit_of_work = unit_of_work
        self._repository = repository
        self._clock = clock
        self._entropy = entropy

    async def create(self, actor: Actor, *, name: str, unverified_targets: bytes, release_target: str) -> Release:
        """Bring a release into force.

        Args:
            actor: who brings it.
            name: of the release, as its document says.
            unverified_targets: the next version of targets.json.
            release_target: target name of the release document.

        Raises:
            ServiceError: the leaf names the broken rule.
            UpdateMetadataError: custom metadata is malformed.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            # Step 1: metadata.
            targets = await self._repository.verify_next(work, unverified_targets, now=now)
            # Step 2: targets.
            proposal = await self._proposal(work, targets.targets)
            document = check_proposal(proposal, release_target)
            # Step 3: name.
            if document.name != name:
                raise InvalidReleaseError(f"release: expected the name {name}, found {document.name} in the document")
            release = self._release(document, release_target, actor)
            await self._repository.publish(work, targets, now=now)
            await work.releases.add(release)
            await self._note(work, actor, release, targets_version=targets.version)
            await work.commit()
        return release

    async def get(self, id_or_name: str) -> Release:
        """Return a release.

        Raises:
            UnknownReleaseError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await work.releases.get(id_or_name)

    async def page(self, *, before_counter: int | None, limit: int) -> Sequence[Release]:
        """Return at most `limit` releases, newest first."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.releases.page(before_counter=before_counter, limit=limit)

    async def images(self, *, after_path: str, limit: int) -> Sequence[ImageTarget]:
        """Return at most `limit` images in force, by path."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.metadata.images(after_path=after_path, limit=limit)

    async def image(self, image_id: str) -> ImageTarget:
        """Return an image in force.

        Raises:
            UnknownImageError: there is none of this id.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await work.metadata.image(image_id)

    async def _proposal(self, work: UnitOfWork, proposed: Mapping[str, TargetFile]) -> Proposal:
        current = await self._repository.current_targets(work)
        added = [target_sha256(target) for name, target in proposed.items() if name not in current]
        return Proposal(
            current=current,
            proposed=proposed,
            artifacts=await work.artifacts.find(added),
            highest_counter=await work.releases.highest_counter(),
        )

    def _release(self, document: ReleaseDocument, target: str, actor: Actor) -> Release:
        return Release(
            release_id=self._entropy.guid(),
            name=document.name,
            counter=document.counter,
            target=target,
            factory=document.factory,
            images=document.images,
            created_at=self._clock.now(),
            created_by=actor.name,
        )

    async def _note(self, work: UnitOfWork, actor: Actor, release: Release, *, targets_version: int) -> None:
        facts: dict[str, JsonValue] = {
            "name": release.name,
            "counter": release.counter,
            "targets_version": targets_version,
        }
        change = Change("release.create", release.release_id, after=facts)
        await work.audit.add(actor, change, at=release.created_at)
        work.record(Event(EventType.RELEASE, release.release_id, "created", release.created_at, facts))
