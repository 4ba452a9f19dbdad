"""A service's update half on a real database with the real ceremony's keys, and an operator and devices beside it.

Nothing is mocked: packages are composed and signed, metadata is signed offline and verified by the service. Only time
and randomness are the tests' own.
"""

import asyncio
import hashlib
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from tuf.api.metadata import Delegations, Metadata, TargetFile, Targets

from pki.keystore import KeyStore
from pki.metadata import content_target, sign_targets
from pki.packages import SIGNING_KEY, sign_golden, sign_package
from pki.roles import OfflineKey
from protocol.document import canonical_json
from protocol.geometry import Core, ImageKind, Slot
from protocol.identity import device_id_of, spki_der
from protocol.image import IMAGE_TYPE, ImageInfo, digest_of, verify_package
from protocol.messages import ActionReport, ActionState, Cause
from protocol.model import (
    GoldenVector,
    GoldenVectors,
    InputContract,
    Measured,
    ModelCard,
    compose_model_payload,
)
from protocol.signing import Signer, SoftwareSigner
from protocol.updates import (
    ImageCustom,
    MustPass,
    ReleaseDocument,
    ReleaseImage,
    golden_target_name,
    image_custom,
    image_target_name,
    release_target_name,
)
from service.adapters.artifact_store import ObjectArtifactStore, open_store
from service.adapters.database.engine import Database, database_url
from service.adapters.database.event_reader import SqlEventReader
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.adapters.log_signer import open_log_key
from service.adapters.metadata_signer import PkiMetadata, load_genesis, load_trusted_keys
from service.adapters.witnesses import HttpWitnesses
from service.application.artifacts import Artifacts
from service.application.checkpoints import Checkpoints
from service.application.clones import Clones
from service.application.deltas import DeltaPolicy, DeltaQueue
from service.application.director import Director
from service.application.events import Event, EventFeed, EventType
from service.application.lease_repository import Lease
from service.application.manifests import Manifests
from service.application.poll import PendingActions, Poll, PollPacing
from service.application.products import Products
from service.application.releases import Releases
from service.application.reports import Reports
from service.application.repository import ImageRepository
from service.application.rollout_ticks import RolloutTicks
from service.application.rollouts import NewRollout, Rollouts, RolloutView
from service.application.transparency import Transparency
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import MetadataRole, NumberedAction, RepositoryName
from service.domain.device import Device
from service.domain.membership import StagePlan
from service.domain.operator import Actor, Role
from service.domain.release import Release
from tests.rollout_conditions import threshold_plan
from tests.service_folder import Folders

RELEASER = Actor("releaser", Role.RELEASER)
LEASE = "rollouts"
COMPONENT = "11111111-1111-4111-8111-111111111111"


class VirtualClock:
    """Time that stands until a test moves it."""

    def __init__(self) -> None:
        # The ceremony's certificates and metadata are of today.
        self.time = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251 - see above

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class SeededEntropy:
    """Randomness that a seed repeats."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def guid(self) -> str:
        return str(uuid.UUID(bytes=self.octets(16), version=4))


class RememberedKeys:
    """The operator's key store, with each key decrypted once: the ceremony is the same for all tests of a process."""

    _known: ClassVar[dict[str, Signer]] = {}

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    def holds(self, role: str) -> bool:
        return self._keys.holds(role)

    def load(self, role: str) -> Signer:
        if role not in self._known:
            self._known[role] = self._keys.load(role)
        return self._known[role]

    def generate(self, role: str) -> Signer:
        return self._keys.generate(role)


@dataclass
class Upload:
    """What an operator's CLI has signed and is about to hand over; tests spoil one thing of it."""

    name: str
    targets: list[TargetFile]
    contents: dict[str, bytes]
    release_target: str
    version: int
    expires: datetime
    signer: OfflineKey = OfflineKey.IMAGE_TARGETS
    delegations: Delegations | None = None


@dataclass
class UpdateWorld:
    """The update half and the people around it."""

    folders: Folders
    database: Database
    clock: VirtualClock = field(default_factory=VirtualClock)
    entropy: SeededEntropy = field(default_factory=SeededEntropy)

    def __post_init__(self) -> None:
        data_dir = self.folders.service
        self.unit_of_work = SqlUnitOfWorkFactory(self.database)
        self.feed = EventFeed(SqlEventReader(self.unit_of_work))
        self.metadata = PkiMetadata.load(data_dir)
        self.store = store = ObjectArtifactStore(open_store("", default_folder=data_dir / "artifacts"))
        ports = {"clock": self.clock, "entropy": self.entropy}
        self.artifacts = Artifacts(self.unit_of_work, store=store, keys=load_trusted_keys(data_dir), clock=self.clock)
        self.transparency, self.checkpoints = open_log(self)
        listeners = (DeltaQueue(DeltaPolicy()), self.transparency)
        self.repository = ImageRepository(
            self.unit_of_work, metadata=self.metadata, clock=self.clock, listeners=listeners
        )
        self.releases = Releases(self.unit_of_work, repository=self.repository, clock=self.clock, entropy=self.entropy)
        self.rollouts = Rollouts(self.unit_of_work, clock=self.clock, entropy=self.entropy)
        self.ticks = RolloutTicks(self.unit_of_work, clock=self.clock, entropy=self.entropy)
        clones = Clones(self.unit_of_work, clock=self.clock, blocks=False)
        self.reports = Reports(self.unit_of_work, clock=self.clock)
        self.manifests = Manifests(self.unit_of_work, clones=clones, clock=self.clock)
        self.director = Director(self.unit_of_work, signer=self.metadata, clock=self.clock, entropy=self.entropy)
        self.products = Products(self.unit_of_work, **ports)  # type: ignore[arg-type]  # both ports by name
        self.pending = PendingActions()
        self.poll = Poll(self.pending, pacing=PollPacing(), entropy=self.entropy)
        self.device_keys: dict[str, SoftwareSigner] = {}
        self.keys = RememberedKeys(self.folders.keys)

    async def begin(self) -> None:
        """First start: genesis, a product with its groups, the feed."""
        await self.repository.begin(load_genesis(self.folders.service))
        await self.transparency.begin()
        await self.products.create(RELEASER, name="Camera", description="")
        await self.feed.start()
        self.feed.subscribe(self.pending.hear)
        await self.pending.load(self.unit_of_work)

    async def add_device(self, group: str = "Production", *, signer: SoftwareSigner | None = None) -> str:
        """Claim and activate a device."""
        signer = signer or SoftwareSigner.generate()
        device_id = device_id_of(signer.public_key)
        self.device_keys[device_id] = signer
        now = self.clock.now()
        async with self.unit_of_work() as work:
            found = await work.products.get_group(group)
            device = Device(
                device_id=device_id,
                group_id=found.group_id,
                identity_key=spki_der(signer.public_key),
                idevid_chain="",
                claimed_at=now,
                claimed_by="releaser",
            )
            await work.devices.add(device)
            certified = device.certify(
                "01", evidence=b"token", key_sha256="00", not_after=now + timedelta(days=1), at=now
            )
            await work.devices.save_attested([certified])
            work.record(Event(EventType.DEVICE, device_id, "activated", now))
            await work.commit()
        return device_id

    async def add_devices(self, count: int, group: str = "Production") -> list[str]:
        return [await self.add_device(group) for _ in range(count)]

    async def change_device(self, device_id: str, change: str, group: str | None = None) -> None:
        """Block or decommission a device, or move it to another group, with its event."""
        now = self.clock.now()
        async with self.unit_of_work() as work:
            device = await work.devices.get(device_id)
            changed = device.decommission(now) if change == "decommissioned" else device.block("test", now)
            if group is not None:
                changed = device.move((await work.products.get_group(group)).group_id)
            await work.devices.save(changed, replaces_version=device.version)
            work.record(Event(EventType.DEVICE, device_id, change, now))
            await work.commit()

    def package(
        self, name: str, kind: ImageKind = ImageKind.APPLICATION, payload: bytes = b"", counter: int = 1
    ) -> bytes:
        """Compose and sign a package; its ids follow from its name."""
        info = ImageInfo(
            image_type=IMAGE_TYPE[kind],
            component_id=COMPONENT,
            image_id=str(uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4)),
            name=name,
            security_version=counter,
            built_at=self.clock.now(),
        )
        content = payload or name.encode() * 64
        return sign_package(content, info, kind=kind, keys=self.keys)

    def model(self, name: str, core: Core, model_bytes: int = 4096) -> tuple[bytes, bytes]:
        """Compose a model package and its golden vectors."""
        title, _, version = name.partition("@")
        card = ModelCard(
            name=title,
            version=version,
            component_id=COMPONENT,
            core=core,
            input=InputContract(shape=(1,), dtype="int8"),
            labels=("a", "b"),
            measured=Measured(model_bytes=model_bytes, arena_bytes=1024, macs=1),
        )
        vectors = GoldenVectors(
            component_id=COMPONENT,
            vectors=(GoldenVector(name="one", input="AA==", expected=(0.1, 0.9), tolerance=0.01),),
        )
        payload = compose_model_payload(card, bytes(model_bytes))
        package = self.package(name, ImageKind.MODEL, payload)
        return package, sign_golden(vectors, self.keys)

    async def prepare(
        self, name: str, images: Mapping[Slot, bytes], *, golden: bytes | None = None, factory: bool = False
    ) -> Upload:
        """Sign everything that a release needs; nothing is handed over yet."""
        async with self.unit_of_work(read_only=True) as work:
            current = (await self._targets(work)).targets
            counter = await work.releases.highest_counter() + 1
        upload = Upload(name, [], {}, release_target_name(counter, name), 0, self.clock.now() + timedelta(days=30))
        golden_name = None
        if golden is not None:
            golden_name = golden_target_name(COMPONENT, digest_of(golden))
            add_target(upload, golden_name, golden)
        listed = {}
        for slot, package in images.items():
            target = image_target(self, package, slot, golden_name if slot.kind is ImageKind.MODEL else None)
            add_target(upload, target.path, package, target)
            listed[slot] = ReleaseImage(target=target.path, sha256=digest_of(package), length=len(package))
        document = ReleaseDocument(name=name, counter=counter, images=listed, factory=factory)
        add_target(upload, upload.release_target, canonical_json(document))
        known = {target.path for target in upload.targets}
        upload.targets = [target for path, target in current.items() if path not in known] + upload.targets
        async with self.unit_of_work(read_only=True) as work:
            in_force = await self._targets(work)
        upload.version, upload.delegations = in_force.version + 1, in_force.delegations
        return upload

    async def hand_over(self, upload: Upload) -> Release:
        """Upload artifacts and metadata as the CLI does."""
        for content in upload.contents.values():
            await self.take(content)
        return await self.releases.create(
            RELEASER,
            name=upload.name,
            unverified={"targets": self.sign(upload)},
            release_target=upload.release_target,
        )

    def sign(self, upload: Upload) -> bytes:
        signer = self.keys.load(upload.signer)
        return sign_targets(
            upload.targets,
            signer,
            version=upload.version,
            expires=upload.expires,
            delegations=upload.delegations,
        )

    async def take(self, content: bytes) -> None:
        await self.artifacts.take(RELEASER, digest_of(content), in_blocks(content))

    async def release(self, name: str, slots: Sequence[Slot] = (Slot.A7_APPLICATION,)) -> Release:
        """Bring a release of applications and firmware into force."""
        images = {slot: self.package(f"{slot.core.value}-{name}@1.0.0"[:31], slot.kind) for slot in slots}
        return await self.hand_over(await self.prepare(name, images))

    async def roll_out(self, release: str, stages: Sequence[StagePlan], **conditions: object) -> RolloutView:
        new = NewRollout(release, "Production", None, threshold_plan(stages, **conditions))  # type: ignore[arg-type]
        return await self.rollouts.create(RELEASER, new, start_now=True)

    async def tick(self, owner: str = "worker", *, largest_gap: timedelta = timedelta(days=365)) -> None:
        """Tick until nothing is due, and let the feed follow; a longer gap since the last one was an outage."""
        for _ in range(1000):
            async with self.unit_of_work() as work:
                lease = await work.leases.acquire(
                    LEASE, owner, now=self.clock.now(), lifetime=timedelta(seconds=15), largest_gap=largest_gap
                )
                await work.commit()
            assert lease is not None
            if await self.ticks.tick(lease) is None:
                break
        while await self.feed.catch_up():
            pass

    async def lease(self, owner: str) -> Lease | None:
        async with self.unit_of_work() as work:
            found = await work.leases.acquire(
                LEASE, owner, now=self.clock.now(), lifetime=timedelta(seconds=15), largest_gap=timedelta(minutes=1)
            )
            await work.commit()
        return found

    async def actions(self, rollout: RolloutView) -> list[NumberedAction]:
        found = await self.rollouts.actions(rollout.stored.rollout.rollout_id, after_number=0, limit=10_000)
        return list(found)

    async def report(
        self,
        device_id: str,
        action_id: str,
        state: ActionState,
        *,
        sequence: int = 9,
        cause: Cause | None = None,
        digests: Mapping[Slot, str] | None = None,
    ) -> None:
        report = ActionReport(action_id=action_id, sequence=sequence, state=state, cause=cause, digests=digests or {})
        await self.reports.report(device_id, report)

    async def confirm_all(self, rollout: RolloutView) -> int:
        """Let every device with an unfinished action confirm it."""
        unfinished = [n.action for n in await self.actions(rollout) if n.action.due_at is not None]
        for action in unfinished:
            await self.report(
                action.device_id, action.action_id, ActionState.CONFIRMED, digests=rollout.release.digests
            )
        return len(unfinished)

    async def _targets(self, work: UnitOfWork) -> Targets:
        found = await work.metadata.find(RepositoryName.IMAGE, MetadataRole.TARGETS)
        assert found is not None
        return Metadata[Targets].from_bytes(found.content).signed


def open_log(world: UpdateWorld) -> tuple[Transparency, Checkpoints]:
    """Open the transparency log of the service's folder, which nobody witnesses."""
    key = open_log_key(world.folders.service)
    unit_of_work, clock = world.unit_of_work, world.clock
    checkpoints = Checkpoints(unit_of_work, signer=key, witnesses=(), client=HttpWitnesses(), clock=clock)
    return Transparency(unit_of_work, key=key.key, clock=clock), checkpoints


def say(upload: Upload, **said: object) -> ReleaseDocument:
    """Have the operator's release document say more than its images."""
    document = ReleaseDocument.model_validate_json(upload.contents[upload.release_target]).model_copy(update=said)
    upload.targets = [target for target in upload.targets if target.path != upload.release_target]
    add_target(upload, upload.release_target, canonical_json(document))
    return document


def must_pass_of(upload: Upload) -> dict[Slot, MustPass]:
    """Describe a release that devices must pass through, as those after it do."""
    document = ReleaseDocument.model_validate_json(upload.contents[upload.release_target])
    targets = {target.path: image_custom(target) for target in upload.targets if target.path.startswith("images/")}
    return {
        slot: MustPass(
            release=document.name,
            sha256=image.sha256,
            component_id=targets[image.target].component_id,
            name=targets[image.target].name,
            built_at=targets[image.target].built_at,
        )
        for slot, image in document.images.items()
    }


def image_target(world: UpdateWorld, package: bytes, slot: Slot, golden: str | None) -> TargetFile:
    """Describe a package as the CLI does."""
    signing = world.keys.load(SIGNING_KEY[slot.kind]).public_key
    info = verify_package(package, [signing], kind=slot.kind).info
    custom = ImageCustom(
        slot_kind=slot.kind,
        hardware_ids=(slot.core.hardware_id,),
        component_id=info.component_id,
        image_id=info.image_id,
        name=info.name,
        security_counter=info.security_version,
        built_at=info.built_at,
        golden=golden,
    )
    return content_target(image_target_name(slot, info.image_id), package, custom.model_dump(mode="json"))


def add_target(upload: Upload, name: str, content: bytes, target: TargetFile | None = None) -> None:
    upload.targets.append(target or content_target(name, content))
    upload.contents[name] = content


async def in_blocks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


@asynccontextmanager
async def running(manifests: Manifests) -> AsyncIterator[Manifests]:
    """Manifests whose rounds are settled meanwhile."""
    task = asyncio.create_task(manifests.run())
    try:
        yield manifests
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def open_world(folders: Folders, url: str) -> AsyncIterator[UpdateWorld]:
    """Open the update half on an empty database."""
    database = Database(database_url(url))
    try:
        await migrate(database)
        world = UpdateWorld(folders, database)
        await world.begin()
        async with running(world.manifests):
            yield world
    finally:
        await database.close()
