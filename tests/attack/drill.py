"""A compromise drill: the service's use cases on a real database, real keys, and a whole simulated device.

The device has made a legitimate update to the release `first`; `second` waits for it when the thief strikes. Whoever
stole a key signs with it (`stolen`), and answers in the service's place (`connection.attacker`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from tuf.api.metadata import Metadata, TargetFile, Targets

from device_sim.hardware.root_of_trust import seeded_identity
from device_sim.hardware.secure_storage import RELEASE_FLOOR
from device_sim.update.client import UpdateClient
from device_sim.update.installer import Installer
from device_sim.update.progress import Progress
from device_sim.update.uptane import Floors, Instruction, UptaneClient
from pki.metadata import DirectorSigner, director_target
from pki.online import online_keys
from pki.roles import OfflineKey, OnlineKey
from protocol.document import sign_document
from protocol.geometry import HOME_BYTES, Slot
from protocol.identity import DeviceId
from protocol.image import digest_of
from protocol.messages import ActionReport, ActionState, Attack
from protocol.signing import Signer, SoftwareSigner
from protocol.updates import DirectorDevice
from protocol.voucher import VOUCHER_PAYLOAD_TYPE
from service.application.events import Event, EventType
from service.application.security_events import ATTACK_INDICATED, ATTACK_REFUSED
from service.domain.membership import StagePlan
from tests.attack.director_device import DIRECTOR, ConnectedDevice
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.service_folder import make_folders
from tests.unit.device_hardware.device_builder import DeviceBuilder, Keys, Packages

APPLICATION, FIRMWARE = Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE
IMAGE = "/device/v1/uptane/image/"
ARTIFACTS = "/device/v1/artifacts/"
SEED = b"drill"
FRAME = np.full((8, 8, 3), 100, np.uint8)
MAX_STEPS = 2_000  # of one update; more is a device that asks for ever


@dataclass(frozen=True)
class State:
    """What a thief must not change."""

    flash: bytes
    digests: Mapping[Slot, str]
    fuses: Mapping[Slot, int]
    floors: Mapping[str, bytes | None]


@dataclass
class Drill:
    """The service, the device, and whoever stands between them."""

    world: UpdateWorld
    builder: DeviceBuilder
    folder: Path
    connection: ConnectedDevice
    packages: dict[str, dict[Slot, bytes]] = field(default_factory=dict)
    reports: list[ActionReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wake()

    @property
    def device_id(self) -> DeviceId:
        return self.connection.device_id

    def wake(self) -> None:
        """Open and boot the device, and make its update client."""
        self.machine = self.builder.open(self.folder)
        self.machine.boot()
        assert self.machine.voucher is not None
        self.progress = Progress(self.machine, observe=self.reports.append)
        installer = Installer(
            self.machine,
            self.progress,
            package_keys=[self.builder.packages.keys.package.public_key],
            look=lambda _core: FRAME,
            reach_service=lambda: None,
        )
        self.client = UpdateClient(
            self.machine,
            UptaneClient(self.device_id, self.machine.voucher, self.machine.storage),
            installer,
            self.progress,
            transport=lambda: self.connection,
            retry_seconds=lambda _failures: 0.0,
        )

    def restart(self) -> None:
        """Lose everything volatile."""
        self.machine.close()
        self.wake()

    def state(self) -> State:
        storage = self.machine.storage
        return State(
            flash=(self.folder / "flash.bin").read_bytes()[: sum(HOME_BYTES.values())],
            digests={slot: image.digest for slot, image in self.machine.installed().items()},
            fuses={slot: self.machine.rot.fuse(slot) for slot in Slot},
            floors={name: storage.get(name) for name in storage.names() if name.startswith(RELEASE_FLOOR)},
        )

    def image(self, slot: Slot, version: str, *, key: SoftwareSigner | None = None) -> bytes:
        """Make an image, by the operator's package key unless told otherwise."""
        return self.builder.packages.image(slot, version=version, key=key)

    async def release(self, name: str, version: str, slots: tuple[Slot, ...] = (APPLICATION, FIRMWARE)) -> None:
        """Have the operator sign a release and bring it into force."""
        self.packages[name] = {slot: self.image(slot, version) for slot in slots}
        await self.world.hand_over(await self.world.prepare(name, self.packages[name]))

    async def roll_out(self, name: str, **conditions: object) -> str:
        """Roll a release out; returns the device's action."""
        await self.world.roll_out(name, (StagePlan(percent=100),), **conditions)
        await self.world.tick()
        action_id = self.world.pending.waiting(self.device_id)
        assert action_id is not None
        return action_id

    async def run(self, action_id: str) -> ActionState:
        """Let the device run an action to its end and report; returns that end."""
        assert await self.world.checkpoints.work()
        await asyncio.to_thread(self._run, action_id)
        await self.world.tick()
        assert self.reports[-1].action_id == action_id
        return self.reports[-1].state

    def _run(self, action_id: str) -> None:
        self.machine.learn_time(self.world.clock.now())
        steps = islice(self.client.run(action_id), MAX_STEPS)
        assert sum(1 for _ in steps) < MAX_STEPS
        self.progress.send(self.connection)

    async def check(self) -> Instruction:
        """Let the device ask what it is to run, without an action."""
        assert await self.world.checkpoints.work()
        return await asyncio.to_thread(self._check)

    def _check(self) -> Instruction:
        now = self.world.clock.now()
        self.machine.learn_time(now)
        floors = Floors(security=self.machine.rot.fuse, release=self.client.installer.release_floor)
        return self.client.uptane.check(self.connection, now, floors=floors, installed=self.machine.installed())

    def seen_versions(self) -> dict[str, int]:
        """Return the versions that the device keeps, by repository and role."""
        kept = {name: json.loads(self.machine.storage.get(f"uptane/{name}") or b"") for name in ("director", "image")}
        return {
            f"{repository}/{role}": json.loads(text)["signed"]["version"]
            for repository, document in kept.items()
            for role, text in document["files"].items()
        }

    async def assert_refused(self, action_id: str, attack: Attack, detail: str, *, release: str = "second") -> None:
        """Run the attacked action: the device stays what it was, and the operator is told of it."""
        before, known = self.state(), len(await self.security_events())
        state = await self.run(action_id)
        report = self.reports[-1]
        assert (state, report.attack) == (ActionState.FAILED, attack), report.detail
        assert detail in report.detail
        for _ in range(2):
            assert self.state() == before
            self.restart()
        refused, indicated = (await self.security_events())[known:]
        assert (refused.change, refused.subject_id) == (ATTACK_REFUSED, self.device_id)
        assert refused.data["attack"] == attack
        assert (refused.data["rule"], refused.data["release"]) == (report.rule, release)
        assert (refused.data["action_id"], refused.data["detail"]) == (action_id, report.detail)
        assert (indicated.change, indicated.data["attack"]) == (ATTACK_INDICATED, attack)

    async def security_events(self) -> list[Event]:
        """Return what an operator reads, oldest first."""
        async with self.world.unit_of_work(read_only=True) as work:
            found = await work.events.page(EventType.SECURITY, before=None, limit=100)
        return [stored.event for stored in reversed(found)]

    def stolen(self, key: OnlineKey) -> Signer:
        """Take a key from the service's folder."""
        return online_keys(self.world.folders.service).load(key)

    async def targets(self) -> dict[str, TargetFile]:
        """Return the Image repository's targets, which everybody can read."""
        content = (await self.connection.http.get(IMAGE + "targets.json")).content
        return Metadata[Targets].from_bytes(content).signed.targets

    async def direct(self, wanted: Mapping[Slot, TargetFile], release: str, action_id: str) -> None:
        """Have the thief of the Director's key say what the device is to run."""
        self.say([director_target(target, slot=slot, release=release) for slot, target in wanted.items()], action_id)

    def say(self, targets: list[TargetFile], action_id: str) -> None:
        """Sign a Director's set with the stolen key, newer than any other, and serve it."""
        now = self.world.clock.now()
        signed = DirectorSigner(self.stolen(OnlineKey.DIRECTOR)).sign_set(
            DirectorDevice(device_id=self.device_id, action_id=action_id),
            targets,
            version=int(now.timestamp()) + 10**6,
            expires=now.replace(year=now.year + 1),
        )
        self.connection.attacker.instead |= {
            f"{DIRECTOR}timestamp.json": signed.timestamp,
            f"{DIRECTOR}snapshot.json": signed.snapshot,
            f"{DIRECTOR}targets.json": signed.targets,
        }

    def serve(self, content: bytes) -> None:
        """Have the thief serve bytes as an artifact."""
        self.connection.attacker.instead[ARTIFACTS + digest_of(content)] = content


@asynccontextmanager
async def open_drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """Open a service and a device that runs its release `first`; `second` is signed, and not rolled out yet."""
    async with open_world(make_folders(tmp_path / "init"), f"sqlite:///{tmp_path / 'control.db'}") as world:
        drill = Drill(world, *await _device(_device_folder(tmp_path), world))
        await drill.release("first", "2.0.0")
        assert await drill.run(await drill.roll_out("first")) is ActionState.CONFIRMED
        await drill.release("second", "3.0.0")
        world.clock.advance(2)
        yield drill
        drill.machine.close()


def _device_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "devices"
    folder.mkdir()
    return folder


async def _device(folder: Path, world: UpdateWorld) -> tuple[DeviceBuilder, Path, ConnectedDevice]:
    builder = DeviceBuilder(folder)
    rom, package = (cast(SoftwareSigner, world.keys.load(role)) for role in (OfflineKey.ROM, OfflineKey.PACKAGE))
    builder.packages = Packages(Keys(rom=rom, package=package))
    made = builder.manufacture(seed=SEED)
    connection = ConnectedDevice(world, DeviceId(await world.add_device(signer=seeded_identity(SEED))))
    envelope = sign_document(connection.voucher, VOUCHER_PAYLOAD_TYPE, builder.packages.keys.voucher)
    (made / "voucher.json").write_bytes(envelope)
    machine = builder.open(made)
    machine.flash_factory(builder.packages.factory_set())
    machine.close()
    return builder, made, connection
