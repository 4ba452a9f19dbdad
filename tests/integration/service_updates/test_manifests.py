"""Version manifests that come at once: one transaction, and each sender's own answer once that is committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocol.document import EnvelopeSignatureError, sign_document
from protocol.geometry import Slot
from protocol.messages import MANIFEST_PAYLOAD_TYPE, VersionManifest
from protocol.signing import SoftwareSigner
from service.application.clones import Clones
from service.application.manifests import ForeignManifestError, Manifests, ReplayedManifestError
from service.application.rounds import LARGEST_ROUND
from service.application.unit_of_work import UnitOfWork
from service.domain.device import UnknownDeviceError
from tests.integration.service_updates.update_world import UpdateWorld, running

STRANGER = "5" * 128


def manifest(world: UpdateWorld, device: str, counter: int, *, by: SoftwareSigner | None = None) -> bytes:
    document = VersionManifest(
        device_id=device,
        counter=counter,
        reported_at=world.clock.now(),
        images={Slot.A7_APPLICATION: f"{counter}" * 64},
        attack_indicator="",
    )
    return sign_document(document, MANIFEST_PAYLOAD_TYPE, by or world.device_keys[device])


async def test_manifests_that_come_at_once_share_a_commit(world: UpdateWorld) -> None:
    """Five good ones with a forged, a foreign, a replayed one and a stranger's: who is refused spoils nobody's."""
    good = await world.add_devices(5)
    forger, impostor, late = await world.add_devices(3)
    commits: list[None] = []
    manifests = world.manifests
    await manifests.take(late, manifest(world, late, 4))
    world.unit_of_work.on_commit = lambda: commits.append(None)
    answers = await asyncio.gather(
        *(manifests.take(device, manifest(world, device, 2)) for device in good),
        manifests.take(forger, manifest(world, forger, 2, by=SoftwareSigner.generate())),
        manifests.take(impostor, manifest(world, good[0], 3, by=world.device_keys[impostor])),
        manifests.take(late, manifest(world, late, 3)),
        manifests.take(STRANGER, manifest(world, good[0], 3)),
        return_exceptions=True,
    )
    assert answers[:5] == [None] * 5
    expected = [EnvelopeSignatureError, ForeignManifestError, ReplayedManifestError, UnknownDeviceError]
    assert [type(answer) for answer in answers[5:]] == expected
    assert len(commits) == 1
    async with world.unit_of_work(read_only=True) as work:
        installed = await work.installed.of([*good, forger, impostor, late])
        stored = await work.installed.manifests([*good, late])
    assert installed == {device: {Slot.A7_APPLICATION: "2" * 64} for device in good} | {
        late: {Slot.A7_APPLICATION: "4" * 64}
    }
    assert {device: last.counter for device, last in stored.items()} == dict.fromkeys(good, 2) | {late: 4}


async def test_manifest_is_acknowledged_once_it_is_committed(world: UpdateWorld) -> None:
    """While the disk has it not yet, no sender has an answer."""
    may_commit, is_committing = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow(*, read_only: bool = False) -> AsyncIterator[UnitOfWork]:
        async with world.unit_of_work(read_only=read_only) as work:
            commit = work.commit

            async def when_it_may() -> int:
                is_committing.set()
                await may_commit.wait()
                return await commit()

            work.commit = when_it_may  # type: ignore[method-assign]  # the same, later
            yield work

    devices = await world.add_devices(2)
    clones = Clones(slow, clock=world.clock, blocks=False)
    async with running(Manifests(slow, clones=clones, clock=world.clock)) as manifests:
        takes = [asyncio.create_task(manifests.take(device, manifest(world, device, 1))) for device in devices]
        await is_committing.wait()
        assert not any(task.done() for task in takes)
        may_commit.set()
        await asyncio.gather(*takes)


async def test_newly_signed_counter_among_others_tells_of_a_clone(world: UpdateWorld) -> None:
    """Another device's manifest in the same round is taken; the twin's is refused and its device suspected."""
    twin, other = await world.add_devices(2)
    manifests = world.manifests
    await manifests.take(twin, manifest(world, twin, 1))
    world.clock.advance(seconds=60)
    answers = await asyncio.gather(
        manifests.take(other, manifest(world, other, 1)),
        manifests.take(twin, manifest(world, twin, 1)),
        return_exceptions=True,
    )
    assert answers[0] is None
    assert isinstance(answers[1], ReplayedManifestError)
    async with world.unit_of_work(read_only=True) as work:
        found = await work.devices.find_many([twin, other])
    assert found[twin].clone_suspected_at is not None
    assert found[other].clone_suspected_at is None


async def test_reboot_storm_is_stored_whole(world: UpdateWorld) -> None:
    """More devices than a round holds."""
    devices = await world.add_devices(LARGEST_ROUND + 2)
    manifests = world.manifests
    await asyncio.gather(*(manifests.take(device, manifest(world, device, 1)) for device in devices))
    async with world.unit_of_work(read_only=True) as work:
        assert set(await work.installed.manifests(devices)) == set(devices)
