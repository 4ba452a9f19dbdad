"""What a unit of work stores of artifacts, metadata, releases, rollouts, actions and the Director."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from protocol.geometry import Slot
from protocol.messages import Cause
from protocol.model import ModelFacts
from protocol.plan import Plan
from protocol.updates import ImageCustom, Order, ReleaseImage
from protocol.versions import Build
from service.domain.action import Action, Hold
from service.domain.release import Artifact, Release
from service.domain.rollout import Rollout, RolloutState
from service.domain.targets import EVERYBODY, Condition
from service.domain.verdict import Verdict


class ArtifactRepository(Protocol):
    """What is known of the bytes in the artifact store."""

    async def add(self, artifact: Artifact, *, by: str, at: datetime) -> None:
        """Store what was verified; the same artifact again changes nothing."""

    async def find(self, digests: Collection[str]) -> Mapping[str, Artifact]:
        """Return those of the artifacts that are there, by SHA-256."""

    async def undescribed(self, *, limit: int) -> Sequence[str]:
        """Return the SHA-256 of at most `limit` packages of models of which no facts are kept."""

    async def describe(self, artifact: Artifact) -> None:
        """Store anew what is known of an artifact that is there."""


class RepositoryName(StrEnum):
    """Uptane's two repositories."""

    IMAGE = "image"
    DIRECTOR = "director"


class MetadataRole(StrEnum):
    """TUF's top-level roles; delegated ones have names of their own."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """A signed file of a repository as it is served."""

    repository: RepositoryName
    role: str
    version: int
    content: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RoleVersion:
    """The newest version of a role's file, without its content.

    Attributes:
        expires_at: UTC, aware.
    """

    repository: RepositoryName
    role: str
    version: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ListedTarget:
    """A target of the Image repository in force, and the one role that lists it.

    Attributes:
        length: bytes.
    """

    path: str
    role: str
    sha256: str
    length: int


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """An image of the Image repository's targets in force."""

    path: str
    sha256: str
    length: int
    custom: ImageCustom
    since_version: int


class MetadataRepository(Protocol):
    """Signed metadata and the images that it lists."""

    async def hold(self) -> None:
        """Keep others from bringing metadata into force until the transaction ends; before anything is read for it."""

    async def put(self, *files: MetadataFile, at: datetime) -> None:
        """Store new versions of files.

        Raises:
            MetadataRaceError: a version is there already.
        """

    async def find(self, repository: RepositoryName, role: str, *, version: int | None = None) -> MetadataFile | None:
        """Return one version of a file, the newest if none is named; None if there is none."""

    async def newest(self, repository: RepositoryName, roles: Collection[str]) -> Mapping[str, MetadataFile]:
        """Return the newest version of several roles' files, by role; those that have none are left out."""

    async def versions(self) -> Sequence[RoleVersion]:
        """Return the newest version of every file of both repositories, by repository and role."""

    async def version(self, repository: RepositoryName, role: str) -> int:
        """Return the newest version of a file, 0 if there is none."""

    async def prune(self, repository: RepositoryName, below: Mapping[str, int]) -> None:
        """Delete the versions below one, by role."""

    async def listed(self, paths: Collection[str]) -> Mapping[str, ListedTarget]:
        """Return the targets of these names, by name; those that no role lists are left out."""

    async def all_listed(self, *, after_path: str, limit: int) -> Sequence[ListedTarget]:
        """Return at most `limit` targets in force by name, beyond `after_path`."""

    async def list_targets(self, targets: Sequence[ListedTarget]) -> None:
        """Note which role lists a target; one that moves is there already."""

    async def unlist_targets(self, paths: Collection[str]) -> None:
        """Forget targets that no role lists any more."""

    async def add_images(self, images: Sequence[ImageTarget]) -> None:
        """Store images that came into force.

        Raises:
            ImageListedError: a target with this image id is in force.
        """

    async def images(self, *, after_path: str, limit: int) -> Sequence[ImageTarget]:
        """Return at most `limit` images by path, beyond `after_path`."""

    async def image(self, image_id: str) -> ImageTarget:
        """Return an image.

        Raises:
            UnknownImageError: there is none of this id.
        """

    async def images_at(self, paths: Collection[str]) -> Mapping[str, ImageTarget]:
        """Return the images of these target names, by name."""

    async def builds(self, *, component_id: str | None, name: str | None) -> Sequence[Build]:
        """Return the builds in force of a component, or of images of a name, whatever their versions."""

    async def models(self) -> Mapping[str, ModelFacts]:
        """Return what is known of the models in force, by SHA-256 of their packages."""

    async def released_builds(self, slot: Slot, component_id: str) -> Sequence[Build]:
        """Return every build of a component that a release has brought for a slot."""

    async def images_of(self, digests: Collection[str]) -> Mapping[str, ImageTarget]:
        """Return the images with these digests, by SHA-256."""


class ReleaseRepository(Protocol):
    """Releases in force."""

    async def add(self, release: Release) -> None:
        """Store a new release.

        Raises:
            NameTakenError: a release has this name.
        """

    async def get(self, id_or_name: str) -> Release:
        """Return a release by GUID or name.

        Raises:
            UnknownReleaseError: there is none.
        """

    async def page(self, *, before_counter: int | None, limit: int) -> Sequence[Release]:
        """Return at most `limit` releases, newest first, with counters below `before_counter`."""

    async def must_pass(self, slot: Slot, component_id: str) -> tuple[str, ReleaseImage] | None:
        """Return name and image of the newest release of a component that devices must pass through, or None."""

    async def way_back_of(self, name: str) -> Release | None:
        """Return the release that was signed to undo another, or None."""

    async def highest_counter(self) -> int:
        """Return the highest release counter, 0 if there is no release."""

    async def newest_with(self, digests: Collection[str]) -> Mapping[str, str]:
        """Return, by SHA-256, the name of the newest release that has the image."""

    async def count(self) -> int:
        """Return how many releases there are."""


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A rollout and what the engine need not know of it.

    Attributes:
        plan: as it was given.
        number: the order of creation; 0 before it is stored.
        look_at: when the worker must look at it, None if only reports move it.
        version: rises with each change; the ETag.
    """

    rollout: Rollout
    plan: Plan
    created_at: datetime
    created_by: str
    number: int = 0
    look_at: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A decision about a rollout, with its place in the order of all decisions."""

    number: int
    decided_at: datetime
    verdict: Verdict


class RolloutRepository(Protocol):
    """Rollouts with their stages."""

    async def add(self, stored: StoredRollout) -> None:
        """Store a new rollout."""

    async def get(self, rollout_id: str, *, lock: bool = False) -> StoredRollout:
        """Return a rollout; `lock` keeps others from changing it until the transaction ends.

        Raises:
            UnknownRolloutError: there is none.
        """

    async def lock(self, rollout_ids: Collection[str]) -> Mapping[str, StoredRollout]:
        """Return rollouts by id, kept from others' changes until the transaction ends; locked the newest first."""

    async def save(self, stored: StoredRollout, *, before: StoredRollout) -> None:
        """Store a changed rollout and those of its stages that differ; its version rises."""

    async def add_verdicts(self, rollout_id: str, verdicts: Sequence[Verdict], *, at: datetime) -> None:
        """Store decisions in the order they were made."""

    async def verdicts(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[StoredVerdict]:
        """Return at most `limit` decisions about a rollout in the order they were made."""

    async def undoing(self, rollout_id: str) -> str | None:
        """Return the id of the newest rollout that undoes another, or None."""

    async def of_action(self, action_id: str) -> StoredRollout | None:
        """Return an action's rollout, locked; None if there is no such action."""

    async def page(self, *, before_number: int | None, limit: int) -> Sequence[StoredRollout]:
        """Return at most `limit` rollouts, newest first."""

    async def of_group(self, group_id: str) -> Sequence[StoredRollout]:
        """Return a group's rollouts that are drafts, run or are paused, oldest first."""

    async def finished(self, group_id: str, *, limit: int) -> Sequence[StoredRollout]:
        """Return at most `limit` rollouts of a group that have finished, newest first."""

    async def due(self, now: datetime, *, limit: int) -> Sequence[str]:
        """Return ids of rollouts that the worker must look at by now."""

    async def next_look(self) -> datetime | None:
        """Return when the next rollout or action is due, None if nothing is."""

    async def states(self) -> Mapping[str, tuple[RolloutState, str]]:
        """Return (state, group id) of every rollout that is not over, by id."""

    async def counts(self) -> Mapping[RolloutState, int]:
        """Return how many rollouts are in each state."""

    async def held(self) -> int:
        """Return how many actions of rollouts that are not over are held."""


@dataclass(frozen=True, slots=True)
class NumberedAction:
    """An action with its place in the order of all actions."""

    number: int
    action: Action


class ActionRepository(Protocol):
    """Actions."""

    async def add(self, actions: Sequence[Action]) -> None:
        """Store new actions in one batch."""

    async def get(self, action_id: str, *, lock: bool = False) -> Action:
        """Return an action.

        Raises:
            UnknownActionError: there is none.
        """

    async def save(self, actions: Sequence[Action]) -> None:
        """Store changed actions."""

    async def queue(self, device_id: str) -> Sequence[Action]:
        """Return a device's unfinished actions: the one it works on first, then in the order of their rollouts."""

    async def unfinished(self, device_ids: Collection[str]) -> Sequence[Action]:
        """Return the unfinished actions of several devices, oldest first."""

    async def newest(self, device_id: str) -> Action | None:
        """Return a device's newest action, or None."""

    async def newest_of(self, device_ids: Collection[str]) -> Mapping[str, Action]:
        """Return the newest actions of several devices, by device; those that have none are left out."""

    async def known(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, int]:
        """Return the stages of those of the devices that have an action in the rollout, apart from ones that heal."""

    async def of_devices(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, Action]:
        """Return the actions of several devices in a rollout, by device, apart from ones that heal."""

    async def scheduled(self, rollout_id: str, *, limit: int) -> Sequence[Action]:
        """Return at most `limit` actions of a rollout that no device was given yet, apart from ones that heal."""

    async def ended_badly(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """Return at most `limit` actions of a rollout that failed or were cancelled, in the order they were made.

        Those that heal are left out.
        """

    async def held(self, rollout_id: str, *, until: datetime, limit: int) -> Sequence[Action]:
        """Return at most `limit` held actions of a rollout whose time has come, the first first."""

    async def holds(self, rollout_id: str) -> Mapping[Hold, int]:
        """Return how many actions of a rollout are held, by what they wait for."""

    async def first_holding(self, rollout_id: str, hold: Hold, *, limit: int) -> Sequence[Action]:
        """Return at most `limit` actions of a rollout that wait for one kind of thing, oldest first."""

    async def first_held(self, rollout_id: str) -> datetime | None:
        """Return when the first held action's time comes; None if no clock ends a hold."""

    async def failed(self, rollout_id: str, *, until: datetime) -> Mapping[frozenset[Cause], int]:
        """Return how many devices of a rollout had failed by a time, at any attempt, by what they have failed for."""

    async def first_failed(
        self, rollout_id: str, causes: frozenset[Cause], *, until: datetime, limit: int
    ) -> Sequence[Action]:
        """Return at most `limit` actions whose devices had failed by a time for exactly these causes, oldest first."""

    async def compared(self, rollout_id: str) -> Mapping[bool, int]:
        """Return how many devices of a rollout have compared a model in shadow, by whether it agrees."""

    async def first_compared(self, rollout_id: str, *, agrees: bool, limit: int) -> Sequence[Action]:
        """Return at most `limit` actions whose devices found that a model in shadow agrees, or not, oldest first."""

    async def due(self, now: datetime, *, limit: int) -> Sequence[Action]:
        """Return at most `limit` actions whose deadline is over, the longest first."""

    async def page(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """Return at most `limit` actions of a rollout in the order they were made."""

    async def page_unfinished(self, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """Return at most `limit` unfinished actions of all rollouts in the order they were made."""

    async def members(self, group_id: str, *, begins: str, condition: Condition = EVERYBODY) -> Sequence[str]:
        """Return the ids of a group's devices that have attested and are not shut out.

        Args:
            group_id: GUID.
            begins: hex digits that the ids begin with; there is no other bound.
            condition: that they meet.
        """

    async def exposed(self, rollout_id: str, group_id: str, *, begins: str, limit: int | None = None) -> Sequence[str]:
        """Return those members of a group, as `members`, that were given a rollout's release, by healing, too.

        Args:
            rollout_id: whose release they were given.
            group_id: of the group that they are in now.
            begins: hex digits that the ids begin with.
            limit: of the devices, whichever are found first; None for all.
        """

    async def count_members(self, group_id: str, *, condition: Condition = EVERYBODY) -> int:
        """Return how many devices `members` would return in all."""

    async def count_exposed(self, rollout_id: str, group_id: str) -> int:
        """Return how many devices `exposed` would return in all."""

    async def missed(self, rollout_id: str, *, by: str | None, limit: int) -> Sequence[str]:
        """Return at most `limit` devices that were given a rollout's release and have no part in another, by id.

        Args:
            rollout_id: whose release they were given.
            by: id of the other rollout, in which one that was cancelled counts as none; None where there is none.
            limit: of the devices.
        """

    async def count_missed(self, rollout_id: str, *, by: str | None) -> int:
        """Return how many devices `missed` would return in all."""


@dataclass(frozen=True, slots=True)
class DirectorSet:
    """The metadata that the Director last signed for a device.

    Attributes:
        version: of all three files.
        action_id: the action that it is for; None where nothing waits.
        attempt: of the action.
        order: what the device is to do.
        root_version: of the Director's root whose key signed it.
        renew_at: from when on a new one is signed, UTC, aware.
    """

    device_id: str
    version: int
    action_id: str | None
    targets: bytes
    snapshot: bytes
    timestamp: bytes
    root_version: int
    renew_at: datetime
    attempt: int = 1
    order: Order = Order.INSTALL


class DirectorRepository(Protocol):
    """One metadata set per device, never removed."""

    async def find(self, device_id: str) -> DirectorSet | None:
        """Return what was last signed for a device, or None."""

    async def put(self, director_set: DirectorSet) -> bool:
        """Store a newer set; False if the stored one is as new or newer."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A verified version manifest."""

    device_id: str
    counter: int
    attack_indicator: str
    envelope: bytes
    received_at: datetime


class InstalledRepository(Protocol):
    """What runs on devices, by their own signed or authenticated word."""

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Mapping[Slot, str]]:
        """Return SHA-256 by slot of each device that ever reported."""

    async def put(self, device_id: str, images: Mapping[Slot, str], *, at: datetime) -> None:
        """Store what runs in some slots of a device."""

    async def put_all(self, images: Mapping[str, Mapping[Slot, str]], *, at: datetime) -> None:
        """Store what runs in some slots of each device, by device id."""

    async def manifests(self, device_ids: Collection[str]) -> Mapping[str, StoredManifest]:
        """Return the last manifest of each device that ever sent one."""

    async def put_manifests(self, manifests: Sequence[StoredManifest]) -> Collection[str]:
        """Store manifests of different devices; returns the ids of those whose counter is above the last one's."""
