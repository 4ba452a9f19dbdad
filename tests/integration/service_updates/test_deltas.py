"""Patches in the service: queued by releases, made in the background, signed online, withdrawn, never half-done."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

import pytest
from tuf.api.metadata import Metadata, Targets

from pki.metadata import DELTAS_ROLE
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.updates import delta_target_name
from service.adapters import patch_process
from service.adapters.artifact_store import ArtifactStoreError
from service.adapters.patch_process import applied, make_patch
from service.adapters.patches import PatchProcessError, ProcessPatchMaker
from service.application import deltas
from service.application.delta_repository import Delta, DeltaState
from service.application.deltas import (
    MAX_OFFERED,
    DeltaMaker,
    DeltaPolicy,
    DeltaPorts,
    Deltas,
    PatchMakeError,
    PatchMaker,
    UnknownDeltaError,
    key_of,
)
from service.application.update_repositories import RepositoryName
from service.domain.membership import StagePlan
from tests.integration.service_updates.update_world import UpdateWorld

SLOT = Slot.A7_APPLICATION
WEIGHTS = hashlib.shake_128(b"weights").digest(6000)
EVERYONE = (StagePlan(percent=100),)


class PatchesHere:
    """Makes patches in this process."""

    async def make(self, old: bytes, new: bytes) -> bytes:
        return make_patch(old, new)


class Dying:
    """A maker whose process is killed."""

    async def make(self, old: bytes, new: bytes) -> bytes:
        del old, new
        raise asyncio.CancelledError


def maker_of(
    world: UpdateWorld, *, patches: PatchMaker | None = None, policy: DeltaPolicy | None = None, leads: bool = True
) -> DeltaMaker:
    ports = DeltaPorts(
        unit_of_work=world.unit_of_work,
        repository=world.repository,
        store=world.store,
        patches=patches or PatchesHere(),
        clock=world.clock,
        is_leader=lambda: leads,
    )
    return DeltaMaker(ports, policy or DeltaPolicy())


async def drain(maker: DeltaMaker) -> None:
    while await maker.work():
        pass


async def released(world: UpdateWorld, version: int, *, payload: bytes = b"") -> bytes:
    """Release an application whose payload differs a little from version to version."""
    content = payload or bytes((byte + version) % 256 for byte in WEIGHTS)
    package = world.package(f"app@{version}.0.0", payload=content)
    await world.hand_over(await world.prepare(f"r{version}", {SLOT: package}))
    return package


async def install(world: UpdateWorld, package: bytes, device_ids: Sequence[str]) -> None:
    async with world.unit_of_work() as work:
        for device_id in device_ids:
            await work.installed.put(device_id, {SLOT: digest_of(package)}, at=world.clock.now())
        await work.commit()


async def all_deltas(world: UpdateWorld) -> list[Delta]:
    return list(await Deltas(world.unit_of_work).page(after=None, limit=100))


async def listed(world: UpdateWorld) -> list[str]:
    file = await world.repository.file(RepositoryName.IMAGE, DELTAS_ROLE)
    return sorted(Metadata[Targets].from_bytes(file.content).signed.targets)


async def changes(world: UpdateWorld) -> list[str]:
    async with world.unit_of_work(read_only=True) as work:
        return [each.event.change for each in await work.events.after(0) if each.event.type == "delta"]


async def bytes_of(world: UpdateWorld, sha256: str) -> bytes | None:
    length = await world.store.length(sha256)
    if length is None:
        return None
    return b"".join([block async for block in world.store.read(sha256, start=0, end=length)])


async def test_release_is_patched_from_what_devices_have(world: UpdateWorld) -> None:
    """The patch is made in a process of its own, listed by the role, stored, and makes the package."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(2))
    new = await released(world, 2)
    (queued,) = await all_deltas(world)
    assert (queued.from_sha256, queued.to_sha256, queued.state) == (digest_of(old), digest_of(new), DeltaState.QUEUED)
    await drain(maker_of(world, patches=ProcessPatchMaker()))
    (made,) = await all_deltas(world)
    assert made.state is DeltaState.OFFERED
    assert made.percent is not None
    assert made.percent < 30
    assert await listed(world) == [delta_target_name(digest_of(old), digest_of(new))]
    patch = await bytes_of(world, made.patch_sha256 or "")
    assert patch is not None
    assert applied(patch, old) == new
    assert await changes(world) == ["offered"]


async def test_patch_that_is_hardly_smaller_is_not_offered(world: UpdateWorld) -> None:
    """Two images with nothing in common: the full image, and the reason is kept."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    await released(world, 2, payload=hashlib.shake_128(b"other").digest(6000))
    await drain(maker_of(world))
    (delta,) = await all_deltas(world)
    assert delta.state is DeltaState.TOO_LARGE
    assert "expected at most 70 % of the full image" in delta.reason
    assert await listed(world) == []


async def test_patch_that_cannot_be_made_is_told(world: UpdateWorld) -> None:
    """The bytes of the old image are gone; the next patch is made all the same."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    await released(world, 2)
    for _ in range(2):  # the second finds nothing, and that is no error
        await world.store.delete(digest_of(old))
    await drain(maker_of(world))
    (delta,) = await all_deltas(world)
    assert delta.state is DeltaState.FAILED
    assert "expected 1 to" in delta.reason
    assert await changes(world) == ["failed"]


async def test_process_that_was_given_nonsense_fails() -> None:
    """An image of no bytes: the child ends with an error, and the maker says so."""
    with pytest.raises(PatchMakeError, match="expected one, found exit code"):
        await ProcessPatchMaker().make(b"", b"new")


@pytest.mark.parametrize("stores", [False, True], ids=["while it is made", "after it was stored"])
async def test_kill_leaves_the_patch_queued(world: UpdateWorld, *, stores: bool) -> None:
    """Whoever comes next makes the same bytes, and lists them once."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    new = await released(world, 2)
    if stores:
        patch = make_patch(old, new)
        await world.store.put(digest_of(patch), patch)
    with pytest.raises(asyncio.CancelledError):
        await maker_of(world, patches=Dying()).work()
    (queued,) = await all_deltas(world)
    assert queued.state is DeltaState.QUEUED
    await drain(maker_of(world))
    (made,) = await all_deltas(world)
    assert made.patch_sha256 == digest_of(make_patch(old, new))
    assert len(await listed(world)) == 1


async def test_two_makers_list_a_patch_once(world: UpdateWorld) -> None:
    """The second one finds the row settled."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    await released(world, 2)
    first = maker_of(world)

    class Overtaken:
        async def make(self, old: bytes, new: bytes) -> bytes:
            await drain(first)
            return make_patch(old, new)

    await maker_of(world, patches=Overtaken()).work()
    assert await changes(world) == ["offered"]


async def test_patches_stay_queued_where_nobody_may_sign_them(
    world: UpdateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the delegation in force none is made; with it, they are."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    await released(world, 2)
    with monkeypatch.context() as patched:
        patched.setattr(deltas, "delegated_roles", lambda _targets: ())
        await drain(maker_of(world, patches=Dying()))
    assert [delta.state for delta in await all_deltas(world)] == [DeltaState.QUEUED]
    await drain(maker_of(world))
    assert [delta.state for delta in await all_deltas(world)] == [DeltaState.OFFERED]


async def test_passing_fault_puts_a_patch_off(world: UpdateWorld) -> None:
    """The store is away, twice: the patch goes behind the others, the maker rests, longer each time, then makes all."""
    first, second = await released(world, 1), await released(world, 2)
    devices = await world.add_devices(2)
    await install(world, first, devices[:1])
    await install(world, second, devices[1:])
    await released(world, 3)

    class Faulty:
        tried: ClassVar[list[bytes]] = []

        async def make(self, old: bytes, new: bytes) -> bytes:
            self.tried.append(old)
            if len(self.tried) in {1, 2}:
                raise ArtifactStoreError("artifact store: expected an answer, found none")
            return make_patch(old, new)

    maker, faulty = maker_of(world, patches=Faulty()), Faulty()
    world.clock.advance(1)
    for rest_seconds in (60, 120):
        assert not await maker._survive()
        assert {delta.state for delta in await all_deltas(world)} == {DeltaState.QUEUED}
        tries = len(faulty.tried)
        world.clock.advance(rest_seconds - 1)
        assert not await maker._survive()
        assert len(faulty.tried) == tries
        world.clock.advance(1)
    await drain(maker)
    assert {delta.state for delta in await all_deltas(world)} == {DeltaState.OFFERED}
    assert faulty.tried[0] != faulty.tried[1]


async def test_process_that_somebody_killed_may_work_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say: another error than that of images that make no patch."""
    monkeypatch.setattr(patch_process, "__name__", "tests.killed_process")
    with pytest.raises(PatchProcessError, match="ended by signal 9"):
        await ProcessPatchMaker().make(b"old", b"new")


async def test_only_the_leading_process_makes_patches(world: UpdateWorld) -> None:
    """Another one leaves them alone."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    await released(world, 2)
    assert not await maker_of(world, leads=False).work()
    assert [delta.state for delta in await all_deltas(world)] == [DeltaState.QUEUED]


async def test_most_common_images_are_patched_from(world: UpdateWorld) -> None:
    """A rare one gets the full image; an image that the catalog does not list is never read."""
    common, rare = await released(world, 1), await released(world, 2)
    devices = await world.add_devices(4)
    await install(world, common, devices[:2])
    await install(world, rare, devices[2:3])
    await install(world, b"flashed over a cable", devices[3:])
    maker = maker_of(world, policy=DeltaPolicy(sources=1))
    await maker._look(world.clock.now())
    new = await released(world, 3)
    assert {delta.from_sha256 for delta in await all_deltas(world)} == {digest_of(common), digest_of(rare)}
    async with world.unit_of_work() as work:
        assert list(await work.deltas.installed_in(SLOT, limit=1)) == [digest_of(common)]
        assert await work.deltas.find(digest_of(common), digest_of(new)) is not None


async def test_image_that_appears_during_a_rollout_is_patched_from(world: UpdateWorld) -> None:
    """A device with another version joins after the release: the next look queues its patch."""
    first, second = await released(world, 1), await released(world, 2)
    devices = await world.add_devices(2)
    await install(world, first, devices[:1])
    new = await released(world, 3)
    await world.roll_out("r3", EVERYONE)
    maker = maker_of(world)
    await drain(maker)
    await install(world, second, devices[1:])
    world.clock.advance(601)
    await drain(maker)
    found = {(delta.from_sha256, delta.to_sha256): delta.state for delta in await all_deltas(world)}
    assert found[digest_of(second), digest_of(new)] is DeltaState.OFFERED


async def test_patch_that_nobody_needs_is_withdrawn(world: UpdateWorld) -> None:
    """When no device has the old image any more: from the role, from the store, and from the list."""
    old = await released(world, 1)
    devices = await world.add_devices(1)
    await install(world, old, devices)
    new = await released(world, 2)
    maker = maker_of(world)
    await drain(maker)
    (made,) = await all_deltas(world)
    await install(world, new, devices)
    world.clock.advance(601)
    await drain(maker)
    assert await all_deltas(world) == []
    assert await listed(world) == []
    assert await bytes_of(world, made.patch_sha256 or "") is None
    assert await changes(world) == ["offered", "withdrawn"]


async def test_patches_that_are_switched_off_are_withdrawn(world: UpdateWorld) -> None:
    """And none is queued any more."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    await released(world, 2)
    await drain(maker_of(world))
    off = maker_of(world, policy=DeltaPolicy(sources=0))
    await drain(off)
    assert await listed(world) == []
    async with world.unit_of_work() as work:
        assert await off._queue.wanted(work, SLOT, "0" * 64, length=9, now=world.clock.now()) == ()


async def test_only_so_many_patches_are_offered(world: UpdateWorld) -> None:
    """The role's file stays small: the oldest go, and none is made again however often it is wanted."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    new = await released(world, 2)
    await world.roll_out("r2", EVERYONE)
    maker = maker_of(world)
    await drain(maker)
    now = world.clock.now() + timedelta(seconds=1)
    async with world.unit_of_work() as work:
        for number in range(MAX_OFFERED):
            sha256 = f"{number:064x}"
            delta = Delta(digest_of(old), sha256, 100, now, now, DeltaState.OFFERED, patch_sha256=sha256)
            await work.deltas.save(replace(delta, created_at=now.replace(microsecond=number)))
        await work.commit()
    for _ in range(3):
        world.clock.advance(601)
        await drain(maker)
    found = {delta.to_sha256: delta for delta in await all_deltas(world)}
    assert sum(delta.state is DeltaState.OFFERED for delta in found.values()) == MAX_OFFERED
    assert (found[digest_of(new)].state, found[digest_of(new)].patch_sha256) == (DeltaState.SUPERSEDED, None)
    assert await listed(world) == []
    assert await changes(world) == ["offered", "withdrawn"]


async def test_patch_beyond_the_bound_is_not_made(world: UpdateWorld) -> None:
    """Newer ones wait already: it is settled before anything is computed."""
    old = await released(world, 1)
    await install(world, old, await world.add_devices(1))
    new = await released(world, 2)
    maker = maker_of(world, patches=Dying())
    await maker._look(world.clock.now())
    maker._look_at = world.clock.now() + timedelta(days=1)
    now = world.clock.now() + timedelta(seconds=1)
    async with world.unit_of_work() as work:
        await work.deltas.queue(
            [Delta(digest_of(old), f"{number:064x}", 100, now, now) for number in range(MAX_OFFERED)]
        )
        await work.commit()
    assert await maker.work()
    found = {delta.to_sha256: delta.state for delta in await all_deltas(world)}
    assert found[digest_of(new)] is DeltaState.SUPERSEDED


async def test_patches_are_listed_by_page_and_shown(world: UpdateWorld) -> None:
    """In the order of their key, each once."""
    devices = await world.add_devices(2)
    for version, device_id in enumerate(devices, 1):
        await install(world, await released(world, version), [device_id])
    await released(world, 3)
    patches = Deltas(world.unit_of_work)
    whole = await patches.page(after=None, limit=10)
    paged: list[Delta] = []
    while page := await patches.page(after=key_of(paged[-1]) if paged else None, limit=1):
        paged.extend(page)
    assert paged == list(whole)
    assert len(whole) == 3
    assert await patches.get(whole[0].from_sha256, whole[0].to_sha256) == whole[0]
    with pytest.raises(UnknownDeltaError, match="expected one from 000000000000"):
        await patches.get("0" * 64, "1" * 64)


class UnpluggedError(ArtifactStoreError):
    """The store went away."""


async def test_bytes_of_a_withdrawn_patch_are_swept_after_an_interruption(
    world: UpdateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away when they should go: the next look removes them, and then the row."""
    maker = maker_of(world)
    _, new, device = await _two_releases(world)
    await drain(maker)
    made = (await all_deltas(world))[0].patch_sha256 or ""
    await install(world, new, [device])

    async def away(_sha256: str) -> None:
        raise UnpluggedError("artifact store: expected it, found nothing")

    world.clock.advance(3600)
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "delete", away)
        with pytest.raises(UnpluggedError):
            await drain(maker)
    assert [(each.state, await listed(world)) for each in await all_deltas(world)] == [(DeltaState.WITHDRAWN, [])]
    assert await bytes_of(world, made) is not None
    world.clock.advance(3600)
    await drain(maker_of(world))
    assert (await all_deltas(world), await bytes_of(world, made)) == ([], None)
    assert (await changes(world)).count("withdrawn") == 1


async def test_bytes_of_a_patch_that_was_never_offered_are_swept(world: UpdateWorld) -> None:
    """Its maker was killed between store and offer, and then nobody needed it any more."""
    old, new, device = await _two_releases(world)
    maker = maker_of(world)
    publish = world.repository.publish_online

    async def killed(*_arguments: object, **_options: object) -> None:
        raise asyncio.CancelledError

    world.repository.publish_online = killed  # type: ignore[assignment,method-assign]  # the process ends here
    with pytest.raises(asyncio.CancelledError):
        await drain(maker)
    world.repository.publish_online = publish  # type: ignore[method-assign]
    patch = digest_of(make_patch(old, new))
    assert await bytes_of(world, patch) is not None
    await install(world, new, [device])
    world.clock.advance(3600)
    await drain(maker_of(world))
    assert (await all_deltas(world), await bytes_of(world, patch)) == ([], None)


async def _two_releases(world: UpdateWorld) -> tuple[bytes, bytes, str]:
    """A device has the first; a patch to the second is queued."""
    old = await released(world, 1)
    (device,) = await world.add_devices(1)
    await install(world, old, [device])
    return old, await released(world, 2), device
