"""Releases and other new targets: verified metadata of the Image repository comes into force, all of it or nothing.

Verification of an operator's publication, in this order:
    1. metadata: every file and every name (`service.application.role_changes`);
    2. targets, artifacts, release documents and fit (`service.domain.release_checks`);
    3. the release has the name that the operator gave it;
    4. ways back (`service.domain.ways_back`);
    5. the releases that devices must pass through before it (there, too).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from tuf.api.metadata import TargetFile

from protocol.geometry import Slot
from protocol.updates import MustPass, ReleaseDocument, ReleaseImage
from protocol.versions import Build
from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.repository import ImageRepository
from service.application.role_changes import VerifiedChange, hold_verified, verify_ahead
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import ImageTarget
from service.domain.errors import JsonValue
from service.domain.operator import Actor
from service.domain.release import InvalidReleaseError, Release, target_sha256
from service.domain.release_checks import Proposal, builds_of, check_targets, referenced
from service.domain.ways_back import check_after, check_goes_back, check_no_way_back, check_way_back

_SHOWN_ROLES = 16


class Releases:
    """Use cases of releases and images."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, repository: ImageRepository, clock: Clock, entropy: Entropy
    ) -> None:
        self._unit_of_work = unit_of_work
        self._repository = repository
        self._clock = clock
        self._entropy = entropy

    async def create(
        self,
        actor: Actor,
        *,
        name: str,
        unverified: Mapping[str, bytes],
        release_target: str,
        way_back_target: str | None = None,
    ) -> Release:
        """Bring a release into force, and its way back with it.

        Args:
            actor: who brings it.
            name: of the release, as its document says.
            unverified: metadata files by role, each of the next version.
            release_target: target name of the release document.
            way_back_target: target name of the document of the release that undoes it.

        Raises:
            ServiceError: the leaf names the broken rule.
            UpdateMetadataError: custom metadata is malformed.
        """
        now = self._clock.now()
        meant = [release_target] if way_back_target is None else [release_target, way_back_target]
        # Step 1: metadata.
        ahead = await verify_ahead(self._unit_of_work, unverified, now=now)
        async with self._unit_of_work() as work:
            change = await hold_verified(work, ahead)
            # Step 2: targets.
            proposal = await self._proposal(work, change.added)
            documents = check_targets(proposal, meant)
            # Step 3: name.
            if documents[0].name != name:
                raise InvalidReleaseError(f"release: expected the name {name}, found {documents[0].name}")
            await _check_ways_back(work, documents, proposal)
            await self._repository.publish(work, change, now=now)
            releases = [
                self._release(document, target, actor) for document, target in zip(documents, meant, strict=True)
            ]
            for release in releases:
                await work.releases.add(release)
                await self._note(work, actor, release, change)
            await note_roles(work, actor, change, at=now)
            await work.commit()
        return releases[0]

    async def publish(self, actor: Actor, unverified: Mapping[str, bytes]) -> Mapping[str, int]:
        """Bring targets and delegations into force that make no release: of teams, documents, renewals.

        Args:
            actor: who brings them.
            unverified: metadata files by role, each of the next version.

        Returns:
            Version in force by role.

        Raises:
            ServiceError: the leaf names the broken rule.
            UpdateMetadataError: custom metadata is malformed.
        """
        now = self._clock.now()
        ahead = await verify_ahead(self._unit_of_work, unverified, now=now)
        async with self._unit_of_work() as work:
            change = await hold_verified(work, ahead)
            check_targets(await self._proposal(work, change.added), [])
            await self._repository.publish(work, change, now=now)
            versions = {file.role: file.version for file in change.files}
            facts: dict[str, JsonValue] = {"targets": len(change.added), **_summary(versions)}
            await work.audit.add(actor, Change("repository.publish", "image-repository", after=facts), at=now)
            work.record(Event(EventType.RELEASE, "image-repository", "published", now, facts))
            await note_roles(work, actor, change, at=now)
            await work.commit()
        return versions

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

    async def _proposal(self, work: UnitOfWork, added: Mapping[str, TargetFile]) -> Proposal:
        artifacts = await work.artifacts.find([target_sha256(target) for target in added.values()])
        names = referenced(added, artifacts)
        images = await work.metadata.images_at(names)
        listed = await work.metadata.listed(names)
        in_force = {
            name: TargetFile(each.length, {"sha256": each.sha256}, name, _custom(images.get(name)))
            for name, each in listed.items()
        }
        highest = await work.releases.highest_counter()
        return Proposal(added=added, in_force=in_force, artifacts=artifacts, highest_counter=highest)

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
            goes_back=document.goes_back,
            way_back_of=document.way_back_of,
            support_ends=document.support_ends,
            must_pass=document.must_pass,
            after=document.after,
        )

    async def _note(self, work: UnitOfWork, actor: Actor, release: Release, change: VerifiedChange) -> None:
        facts: dict[str, JsonValue] = {
            "name": release.name,
            "counter": release.counter,
            **_summary({file.role: file.version for file in change.files}),
        }
        if release.way_back_of is not None:
            facts["way_back_of"] = release.way_back_of
        await work.audit.add(actor, Change("release.create", release.release_id, after=facts), at=release.created_at)
        work.record(Event(EventType.RELEASE, release.release_id, "created", release.created_at, facts))


async def note_roles(work: UnitOfWork, actor: Actor, change: VerifiedChange, *, at: datetime) -> None:
    """Write down whose signatures count otherwise than before: for the audit log, and as a security event."""
    if not change.delegated and not change.dropped:
        return
    facts: dict[str, JsonValue] = {
        "delegated": _shortened(change.delegated),
        "dropped": _shortened(change.dropped),
    }
    await work.audit.add(actor, Change("repository.delegate", "image-repository", after=facts), at=at)
    work.record(Event(EventType.SECURITY, "image-repository", "roles-changed", at, facts))


async def _check_ways_back(work: UnitOfWork, documents: Sequence[ReleaseDocument], proposal: Proposal) -> None:
    # Step 4: ways back.
    check_no_way_back(documents[0])
    builds = builds_of(documents[0], proposal)
    if not documents[0].factory:
        check_goes_back(documents[0], builds, await _released(work, builds))
        # Step 5: releases that devices must pass through.
        must = {slot: await work.releases.must_pass(slot, build.component_id) for slot, build in builds.items()}
        targets = await work.metadata.images_at([image.target for _, image in filter(None, must.values())])
        check_after(documents[0], builds, {slot: _must_pass(found, targets) for slot, found in must.items() if found})
    for back in documents[1:]:
        check_way_back(back, documents[0], proposal)
        older = builds_of(back, proposal)
        released = await _released(work, older)
        check_goes_back(back, older, {slot: [*each, builds[slot]] for slot, each in released.items()})


def _must_pass(found: tuple[str, ReleaseImage], targets: Mapping[str, ImageTarget]) -> MustPass:
    name, image = found
    build = targets[image.target].custom.build(image.sha256)
    return MustPass(
        release=name,
        sha256=build.sha256,
        component_id=build.component_id,
        name=build.name,
        built_at=build.built_at,
    )


async def _released(work: UnitOfWork, builds: Mapping[Slot, Build]) -> dict[Slot, Sequence[Build]]:
    """Return what releases have brought of the same components for the same slots."""
    return {slot: await work.metadata.released_builds(slot, build.component_id) for slot, build in builds.items()}


def _custom(image: ImageTarget | None) -> dict[str, object]:
    return {} if image is None else {"custom": image.custom.model_dump(mode="json")}


def _summary(versions: Mapping[str, int]) -> dict[str, JsonValue]:
    """Return a role's version where few roles change, else how many do."""
    if len(versions) > _SHOWN_ROLES:
        return {"roles": len(versions)}
    return {f"{role}_version": version for role, version in versions.items()}


def _shortened(roles: frozenset[str]) -> JsonValue:
    if len(roles) > _SHOWN_ROLES:
        return f"{len(roles)} roles"
    return list[JsonValue](sorted(roles))
