"""The Director: signs for one device which images it is to run, on demand.

A device that asks for its timestamp gets the metadata of the action that waits for it, or metadata without a target;
both name the device (`protocol.updates.DEVICE_FIELD`) and say what it is to do. What was signed is kept and served
again until the action or the order changes or half of its lifetime is over.

Before a device is given a release, what it will run is judged: the release's images beside what the device runs in its
other slots, by its evidence, manifest or report. Where one requires another version of its neighbour, or one that is
not there (`protocol.versions`), or would take the place of a newer one without its release's word (`goes_back`), or
jump over a release that devices must pass through (`after`), the action fails instead, and its rollout goes on by its
rules. What its group has passed through already the device is given first (`service.application.passages`). A device
that tries again and has come to run the release meanwhile is confirmed without work. One whose evidence shows the
AppDevelopment capability is its developer's: as on Azure Sphere, no deployment reaches it, and its action is withdrawn.
Outside its maintenance window, or while others of its place are at an update and no more may be, a device is given
nothing, and its action waits (`service.application.timing`).

Versions of one device's metadata only rise: max(last + 1, seconds since 1970). The last one is in the database; after
a restore from an older backup the seconds are above every version that was given out before, because no device gets
a new version more often than once a second for long. What was signed before this process began is not served again: in
a database that was restored it may be older than what the device has seen. Nor is what a key signed that the Director's
root in force does not name.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tuf.api.metadata import Root

from pki.next_state import trusted
from protocol.evidence import LifeCycle
from protocol.geometry import Slot
from protocol.messages import ActionState, Cause
from protocol.shadow import ShadowTask
from protocol.updates import DirectorDevice, Order
from protocol.versions import Build, is_older, unmet_requirements
from service.application.clock import Clock
from service.application.enrolment import runs
from service.application.entropy import Entropy
from service.application.passages import awaiting, find_passage, is_behind, jumped, pass_through
from service.application.places import follow_work
from service.application.repository import UnknownMetadataError
from service.application.rollout_changes import action_event, store_actions, store_rollout
from service.application.timing import held_back
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import (
    DirectorSet,
    ImageTarget,
    MetadataRole,
    RepositoryName,
    StoredRollout,
)
from service.domain.action import Action, cancel, confirm_without_work, offer, refuse, withdraw
from service.domain.conditions import Conditions
from service.domain.release import Release

DIRECTOR_LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DirectedImage:
    """An image and the slot that is to hold it."""

    slot: Slot
    image: ImageTarget


@dataclass(frozen=True, slots=True)
class SignedSet:
    """The Director's three files for one device, JSON bytes."""

    targets: bytes
    snapshot: bytes
    timestamp: bytes


@dataclass(frozen=True, slots=True)
class OfferedRelease:
    """An action, the release that it brings its device, and what that is to do with it."""

    action: Action
    release: Release
    order: Order = Order.INSTALL
    task: ShadowTask | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    action: Action
    order: Order


class DirectorSigner(Protocol):
    """Signs with the Director's online key."""

    def follow(self, root: Root) -> None:
        """Sign from now on with the key that a root of the Director names.

        Raises:
            OnlineKeyError: it names none that the service holds.
        """

    def sign_director_set(
        self,
        device: DirectorDevice,
        images: Sequence[DirectedImage],
        *,
        release: str,
        version: int,
        expires: datetime,
    ) -> SignedSet:
        """Sign the three files.

        Args:
            device: whom they are for.
            images: what it is to run; empty where nothing waits.
            release: target name of the release document.
            version: of all three.
            expires: of all three, UTC, aware.
        """


class Director:
    """Serves each device its own metadata."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, signer: DirectorSigner, clock: Clock, entropy: Entropy
    ) -> None:
        self._unit_of_work = unit_of_work
        self._signer = signer
        self._clock = clock
        self._entropy = entropy
        self._began = clock.now()
        self._root_version = 0  # of the root whose key the signer uses

    async def timestamp(self, device_id: str) -> bytes:
        """Return the device's timestamp.json; signs a new set where the last one is not right any more."""
        now = self._clock.now()
        async with self._unit_of_work(read_only=True) as work:
            last = await work.director.find(device_id)
            waiting = await _waiting(work, device_id)
            await self._follow_root(work)
        # put off since it was offered, too
        is_scheduled = waiting is not None and waiting.action.state is ActionState.SCHEDULED
        if last is not None and not is_scheduled and self._is_current(last, waiting, now):
            return last.timestamp
        return (await self._sign_next(device_id, now)).timestamp

    async def file(self, device_id: str, role: str, *, version: int | None = None) -> bytes:
        """Return the device's snapshot.json or targets.json as the last timestamp names it.

        Raises:
            UnknownMetadataError: another role or version, or the device has not asked for a timestamp yet.
        """
        async with self._unit_of_work(read_only=True) as work:
            last = await work.director.find(device_id)
        if last is None or version not in {None, last.version}:
            found = "none" if last is None else last.version
            raise UnknownMetadataError(f"director {role}.json: expected version {found}, found a request for {version}")
        files: Mapping[str, bytes] = {
            MetadataRole.TIMESTAMP: last.timestamp,
            MetadataRole.SNAPSHOT: last.snapshot,
            MetadataRole.TARGETS: last.targets,
        }
        if role not in files:
            raise UnknownMetadataError(f"director: expected {', '.join(files)}, found {role}.json")
        return files[role]

    @tried_again
    async def _sign_next(self, device_id: str, now: datetime) -> DirectorSet:
        await self._withdraw_ended(device_id, now)
        async with self._unit_of_work() as work:
            await self._follow_root(work)
            offered = await self._offer(work, device_id, now)
            last = await work.director.find(device_id)
            if last is not None and self._is_current(last, offered, now):
                await work.commit()  # of an action that was refused
                return last
            version = max(last.version + 1 if last else 1, int(now.timestamp()))
            signed = await self._sign(work, device_id, offered, version=version, now=now)
            await work.director.put(signed)
            await work.commit()
            return signed

    def _is_current(self, last: DirectorSet, waiting: "_Waiting | OfferedRelease | None", now: datetime) -> bool:
        signed_at = last.renew_at - DIRECTOR_LIFETIME / 2
        is_for_action = (last.action_id, last.attempt, last.order) == _named(waiting)
        is_by_key_in_force = last.root_version == self._root_version
        return is_for_action and is_by_key_in_force and self._began <= signed_at and now < last.renew_at

    async def _follow_root(self, work: UnitOfWork) -> None:
        """Sign with the key of the root in force: another process may have taken a new one."""
        version = await work.metadata.version(RepositoryName.DIRECTOR, MetadataRole.ROOT)
        if version != self._root_version:
            root = await work.metadata.find(RepositoryName.DIRECTOR, MetadataRole.ROOT, version=version)
            if root is None:
                raise UnknownMetadataError("director root.json: expected one in force, found none")
            self._signer.follow(trusted(root.content, Root))
            self._root_version = version

    async def _withdraw_ended(self, device_id: str, now: datetime) -> None:
        """Cancel what a rollout offered and has given up: the device asks anew, so it has not begun to install it."""
        async with self._unit_of_work(read_only=True) as work:
            queue = await work.actions.queue(device_id)
        for found in [a for a in queue if a.heals or a.is_kept or a.state is ActionState.OFFERED]:
            await self._withdraw_if_ended(found, now)

    @tried_again
    async def _withdraw_if_ended(self, found: Action, now: datetime) -> None:
        async with self._unit_of_work() as work:
            stored = await work.rollouts.get(found.rollout_id, lock=True)
            action = await work.actions.get(found.action_id, lock=True)
            has_begun = action.is_started and not action.is_kept
            if not has_begun and stored.rollout.has_given_up(action):
                gone = cancel(action, f"rollout {stored.rollout.state}", now=now)
                rollout = await store_actions(work, stored.rollout, [(action, gone)], now=now)
                await store_rollout(work, stored, rollout, now=now)
                await work.commit()

    async def _offer(self, work: UnitOfWork, device_id: str, now: datetime) -> OfferedRelease | None:
        """Return what waits for the device, marked as offered; None if nothing does or it is refused."""
        waiting = await _waiting(work, device_id)
        if waiting is None:
            return None
        found = await find_passage(work, waiting.action)
        if found is not None and await _is_developers(work, device_id):
            found = None
        through = [] if found is None else [found.rollout.rollout_id]
        locked = await work.rollouts.lock({waiting.action.rollout_id, *through})
        stored, passage = locked[waiting.action.rollout_id], locked[through[0]] if through else None
        action = await work.actions.get(waiting.action.action_id, lock=True)
        if not stored.rollout.offers(action):
            return None
        if passage is not None and action.state is ActionState.SCHEDULED:
            return await self._offer_passage(work, passage, stored, action, now=now)
        release, order = await work.releases.get(stored.rollout.release_id), stored.rollout.order_of(action)
        judged = await _judge(work, action, release, order=order, conditions=stored.rollout.conditions, now=now)
        if action.state is ActionState.SCHEDULED and judged.cause is Cause.REQUIREMENT:
            judged = await awaiting(work, stored.rollout, action, now=now) or judged
        elif action.state is ActionState.SCHEDULED and not judged.state.is_final:
            judged = await held_back(work, stored.rollout, action, now=now) or judged
        if judged != action:
            rollout = await store_actions(work, stored.rollout, [(action, judged)], now=now)
            await store_rollout(work, stored, rollout, now=now)
        if judged.state.is_final or judged.state is ActionState.SCHEDULED:
            return None
        return OfferedRelease(judged, release, order, _task(stored.rollout.conditions, order))

    async def _offer_passage(
        self, work: UnitOfWork, passage: StoredRollout, stored: StoredRollout, action: Action, *, now: datetime
    ) -> OfferedRelease | None:
        """Return what a device must have before an action that it may begin; None if others are at work, or it is."""
        held = await held_back(work, stored.rollout, action, now=now)
        if held is not None:
            rollout = await store_actions(work, stored.rollout, [(action, held)], now=now)
            await store_rollout(work, stored, rollout, now=now)
            return None
        queue = await work.actions.queue(action.device_id)
        if passage.rollout.is_undone or queue[0].state is not ActionState.SCHEDULED:
            return None
        release = await work.releases.get(passage.rollout.release_id)
        new = pass_through(passage.rollout, action, now=now, action_id=self._entropy.guid())
        conditions = passage.rollout.conditions
        judged = await _judge(work, new, release, order=Order.INSTALL, conditions=conditions, now=now)
        await work.actions.add([judged])
        await follow_work(work, [(None, judged)])
        work.record(action_event(judged, now))
        return None if judged.state.is_final else OfferedRelease(judged, release)

    async def _sign(
        self, work: UnitOfWork, device_id: str, offered: OfferedRelease | None, *, version: int, now: datetime
    ) -> DirectorSet:
        action_id, attempt, order = _named(offered)
        task = None if offered is None else offered.task
        signed = self._signer.sign_director_set(
            DirectorDevice(device_id=device_id, action_id=action_id, attempt=attempt, order=order, shadow=task),
            [] if offered is None else await _images(work, offered.release),
            release="" if offered is None else offered.release.target,
            version=version,
            expires=now + DIRECTOR_LIFETIME,
        )
        return DirectorSet(
            device_id=device_id,
            version=version,
            action_id=action_id,
            attempt=attempt,
            order=order,
            targets=signed.targets,
            snapshot=signed.snapshot,
            timestamp=signed.timestamp,
            root_version=self._root_version,
            renew_at=now + DIRECTOR_LIFETIME / 2,
        )


def _named(waiting: "_Waiting | OfferedRelease | None") -> tuple[str | None, int, Order]:
    """Return which action, attempt and order metadata is for; the first attempt where nothing waits."""
    if waiting is None:
        return None, 1, Order.INSTALL
    return waiting.action.action_id, waiting.action.attempt, waiting.order


async def _waiting(work: UnitOfWork, device_id: str) -> _Waiting | None:
    """Return the action that the device may have now: the one it works on, else the first in line that is offered.

    None passes another by that the device must have first, however long that is held or paused.
    """
    queue = await work.actions.queue(device_id)
    for action in queue:
        rollout = (await work.rollouts.get(action.rollout_id)).rollout
        is_new = action.state is ActionState.SCHEDULED
        if rollout.offers(action) and not (is_new and await is_behind(work, rollout, queue)):
            return _Waiting(action, rollout.order_of(action))
        if action.state is ActionState.OFFERED and not rollout.has_given_up(action):
            return None  # given to the device before a pause: it may be at work on it
    return None


def _task(conditions: Conditions, order: Order) -> ShadowTask | None:
    return conditions.shadow.task if conditions.shadow is not None and order is Order.SHADOW else None


async def _judge(
    work: UnitOfWork, action: Action, release: Release, *, order: Order, conditions: Conditions, now: datetime
) -> Action:
    """Return an action as it is offered with an order; one that no device was given yet may end without."""
    offered = offer(action, now, timeout=conditions.action_timeout, order=order)
    if action.state is not ActionState.SCHEDULED:
        return offered
    if await _is_developers(work, action.device_id):
        return withdraw(action, "the device has the AppDevelopment capability: no deployment reaches it", now=now)
    installed = (await work.installed.of([action.device_id])).get(action.device_id, {})
    if action.past and runs(release, installed):
        return confirm_without_work(action, now)
    unmet = await _unmet(work, installed, release)
    return refuse(action, unmet, now=now) if unmet else offered


async def _is_developers(work: UnitOfWork, device_id: str) -> bool:
    """Say whether the evidence that was last judged showed the AppDevelopment capability."""
    last = await work.attestations.latest(device_id)
    findings = last.appraisal.findings if last else ()
    return any(
        finding.component == "life-cycle" and finding.found == LifeCycle.NON_PSA_DEBUG.name for finding in findings
    )


async def _unmet(work: UnitOfWork, installed: Mapping[Slot, str], release: Release) -> list[str]:
    """Return what keeps a device from the release; an image that no target in force lists is left out."""
    together = {**installed, **release.digests}
    targets = await work.metadata.images_of({*together.values(), *installed.values()})
    builds = {digest: target.custom.build(digest) for digest, target in targets.items()}
    runs_then = {slot: builds[digest] for slot, digest in together.items() if digest in builds}
    runs_now = {slot: builds[digest] for slot, digest in installed.items() if digest in builds}
    passed_over = (reason for _, reason in jumped(release, runs_now))
    reasons = (_going_back(release, runs_now, runs_then), passed_over, unmet_requirements(runs_then))
    return list(itertools.chain(*reasons))


def _going_back(release: Release, now: Mapping[Slot, Build], then: Mapping[Slot, Build]) -> Iterator[str]:
    """Yield the slots where an older image would take the place of a newer one, and the release does not say so."""
    for slot in release.images:
        before, after = now.get(slot), then.get(slot)
        if before is None or after is None or before.sha256 in release.goes_back.get(slot, ()):
            continue
        if is_older(after, before):
            yield f"{slot}: expected a release that goes back from {before.name}, found {after.name} in {release.name}"


async def _images(work: UnitOfWork, release: Release) -> list[DirectedImage]:
    targets = await work.metadata.images_of(set(release.digests.values()))
    return [DirectedImage(slot, targets[digest]) for slot, digest in release.digests.items()]
