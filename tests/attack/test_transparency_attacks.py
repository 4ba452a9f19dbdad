"""Attacks on the transparency log: a legitimate update, then a view of the log that is false, and nothing has changed.

Who attacks holds the service: its database, the log's key, the answers to devices. It does not hold the offline keys,
nor the witnesses.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sim.network.ports import NetworkError
from device_sim.update.errors import UpdateError
from device_sim.update.transparency import (
    PROOF_PATH,
    STORED,
    ForeignLogError,
    LogForkedError,
    LogRolledBackError,
    NotLoggedError,
    UnwitnessedError,
)
from pki.log_key import load_log_key
from protocol.geometry import Slot
from protocol.identity import DeviceId
from protocol.merkle import Node, inclusion_ranges, prove, range_hash, subtree_hash
from protocol.messages import Attack
from protocol.notes import Cosigner, Ed25519Signer, NoteSignature, NoteSigner, UnverifiedNote, parse_note
from protocol.tlog import Checkpoint, UnverifiedProof, parse_proof
from protocol.transparency import ImageEntry, LogEntry, entry_hash, parse_entry
from service.application.rollouts import RolloutView
from service.domain.membership import StagePlan
from tests.attack.director_device import ConnectedDevice
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.log_witnesses import AT, Witnesses, cosigner, forget_log, require_witnesses
from tests.service_folder import make_folders

QUORUM = 2


class Scene:
    """A witnessed service, a device that has taken one update by it, and the attacker between them."""

    def __init__(self, world: UpdateWorld, witnesses: Witnesses, device: ConnectedDevice, first: RolloutView) -> None:
        self.world = world
        self.witnesses = witnesses
        self.device = device
        self.first = first
        self.log = load_log_key(world.folders.service)

    async def entries(self) -> list[LogEntry]:
        async with self.world.unit_of_work(read_only=True) as work:
            return [parse_entry(entry) for entry in await work.log.entries(0, 1000)]

    async def image(self) -> ImageEntry:
        """Return the entry of the image that the device is to install."""
        return [entry for entry in await self.entries() if isinstance(entry, ImageEntry)][-1]

    async def path(self) -> str:
        return PROOF_PATH + entry_hash(await self.image()).hex()

    async def genuine(self) -> UnverifiedProof:
        return parse_proof(await self.world.transparency.proof(entry_hash(await self.image())))

    async def answer(self, proof: bytes) -> None:
        """Have the attacker answer the device's question about the image."""
        self.device.attacker.instead[await self.path()] = proof

    def forged(
        self,
        entries: list[LogEntry],
        index: int,
        *,
        signatures: list[NoteSignature] | None = None,
        cosigners: list[Cosigner] | None = None,
        log: NoteSigner | None = None,
        origin: str = "",
    ) -> bytes:
        """Prove an entry in a tree of the attacker's making, signed by the stolen log key."""
        leaves = [entry_hash(entry) for entry in entries]

        def read(node: Node) -> bytes:
            return subtree_hash(leaves[node.index << node.height : (node.index + 1) << node.height])

        root = range_hash((0, len(leaves)), read)
        text = Checkpoint(origin or self.log.key.name, len(leaves), root).text()
        signed = [(log or self.log).sign(text), *(each.sign(text, at=AT) for each in cosigners or [])]
        note = UnverifiedNote(text, (*signed, *(signatures or []))).encode()
        return UnverifiedProof(index, tuple(prove(inclusion_ranges(index, len(leaves)), read)), note).encode()

    async def refused(self, error: type[UpdateError], match: str, *, attack: Attack) -> None:
        """The device refuses, has nothing new in its memory, and goes on as soon as the attacker is gone."""
        before = self.device.storage.get(STORED)
        with pytest.raises(error, match=match) as refused:
            await self.device.check()
        assert refused.value.attack is attack
        assert self.device.storage.get(STORED) == before
        self.device.attacker.instead.clear()
        assert len((await self.device.check()).targets) == 1


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A device that has verified one release and is to take a second one."""
    folders = make_folders(tmp_path / "init")
    require_witnesses(folders, tuple(str(cosigner(number).key) for number in (1, 2, 3)), quorum=QUORUM)
    async with open_world(folders, f"sqlite:///{tmp_path / 'control.db'}") as world:
        witnesses = Witnesses(world, tmp_path / "witnesses")
        world.checkpoints = witnesses.checkpoints()
        device = ConnectedDevice(world, DeviceId(await world.add_device()))
        first = await _roll_out(world, "first")
        assert len((await device.check()).targets) == 1
        yield Scene(world, witnesses, device, first)


async def _roll_out(world: UpdateWorld, name: str) -> RolloutView:
    await world.hand_over(await world.prepare(name, {Slot.A7_APPLICATION: world.package(f"app-{name}@1.0.0")}))
    rollout = await world.roll_out(name, (StagePlan(percent=100),))
    await world.tick()
    return rollout


async def _grow(world: UpdateWorld) -> None:
    """Log an image that is not for the device."""
    slot = Slot.M4_0_FIRMWARE
    await world.hand_over(await world.prepare("other", {slot: world.package("firmware@1.0.0", slot.kind)}))


async def test_image_that_was_never_logged_is_refused(scene: Scene) -> None:
    """Signed by everybody and logged nowhere: the attacker shows a proof of another image."""
    entries, image = await scene.entries(), await scene.image()
    secret = [entry for entry in entries if entry != image]
    await scene.answer(scene.forged([*secret, *secret[:1]], 1, cosigners=[cosigner(1), cosigner(2)]))
    await scene.refused(NotLoggedError, "expected root", attack=Attack.ARBITRARY_SOFTWARE)


async def test_proof_of_another_image_is_refused(scene: Scene) -> None:
    """Genuine in every signature."""
    other = (await scene.entries())[0]
    await scene.answer(await scene.world.transparency.proof(entry_hash(other)))
    await scene.refused(NotLoggedError, "expected root", attack=Attack.ARBITRARY_SOFTWARE)


async def test_entry_with_other_facts_is_refused(scene: Scene) -> None:
    """Logged with another security counter, or for other hardware, than the metadata says."""
    image = await scene.image()
    for change in ({"security_counter": 9}, {"hardware_ids": ("other",)}, {"bom": "00" * 32}):
        tampered = image.model_copy(update=change)
        entries = [tampered if entry == image else entry for entry in await scene.entries()]
        await scene.answer(scene.forged(entries, entries.index(tampered), cosigners=[cosigner(1), cosigner(2)]))
        await scene.refused(NotLoggedError, "expected root", attack=Attack.ARBITRARY_SOFTWARE)


async def test_forked_log_is_refused(scene: Scene) -> None:
    """Another tree of the size that the device has seen, cosigned by witnesses that were stolen as well."""
    entries, image = await scene.entries(), await scene.image()
    forked = [entries[0].model_copy(update={"version": 7}), *entries[1:]]
    await scene.answer(scene.forged(forked, forked.index(image), cosigners=[cosigner(1), cosigner(2)]))
    await scene.refused(LogForkedError, "expected root .* found another", attack=Attack.SPLIT_VIEW)


async def test_truncated_log_is_refused(scene: Scene) -> None:
    """Entries that the device has seen behind the image are gone."""
    image, path = await scene.image(), await scene.path()
    await _grow(scene.world)
    await scene.device.check()
    scene.device.attacker.instead[path] = scene.forged([image], 0, cosigners=[cosigner(1), cosigner(2)])
    await scene.refused(LogRolledBackError, "expected at least 4 entries, found 1", attack=Attack.ROLLBACK)


async def test_replayed_checkpoint_is_refused(scene: Scene) -> None:
    """Genuine, but from before what the device has seen since."""
    old, path = await scene.genuine(), await scene.path()
    await _grow(scene.world)
    await scene.device.check()
    scene.device.attacker.instead[path] = old.encode()
    await scene.refused(LogRolledBackError, "expected at least 4 entries, found 3", attack=Attack.ROLLBACK)


@pytest.mark.parametrize(
    "numbers", [[], [1], [1, 1], [1, 9]], ids=["none", "too few", "one witness twice", "one and a stranger"]
)
async def test_log_that_too_few_have_witnessed_is_refused(scene: Scene, numbers: list[int]) -> None:
    """A view for this device alone: the log key is stolen, the witnesses are not."""
    entries, image = await scene.entries(), await scene.image()
    shown = [*entries, entries[0].model_copy(update={"version": 7})]
    cosigners = [cosigner(number) for number in numbers]
    await scene.answer(scene.forged(shown, shown.index(image), cosigners=cosigners))
    await scene.refused(UnwitnessedError, "expected 2 of 3 witnesses", attack=Attack.SPLIT_VIEW)


async def test_cosignature_of_another_checkpoint_is_refused(scene: Scene) -> None:
    """A genuine one, put below a forged tree."""
    entries, image = await scene.entries(), await scene.image()
    genuine = parse_note((await scene.genuine()).checkpoint).signatures
    shown = [*entries, entries[0].model_copy(update={"version": 7})]
    stolen = [each for each in genuine if each.name != scene.log.key.name]
    await scene.answer(scene.forged(shown, shown.index(image), signatures=stolen))
    await scene.refused(ForeignLogError, "to verify, found it does not", attack=Attack.ARBITRARY_SOFTWARE)


async def test_checkpoint_of_another_log_is_refused(scene: Scene) -> None:
    """Another origin, or another key under the log's name."""
    entries, image = await scene.entries(), await scene.image()
    witnesses = [cosigner(1), cosigner(2)]
    name = scene.log.key.name
    await scene.answer(scene.forged(entries, entries.index(image), origin="other/log", cosigners=witnesses))
    await scene.refused(ForeignLogError, "expected origin", attack=Attack.ARBITRARY_SOFTWARE)
    other = Ed25519Signer(name, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    await scene.answer(scene.forged(entries, entries.index(image), log=other, cosigners=witnesses))
    await scene.refused(ForeignLogError, "expected a signature by", attack=Attack.ARBITRARY_SOFTWARE)


@pytest.mark.parametrize("content", [b"", b"nothing", b"x" * 1_000_000], ids=["empty", "nothing", "endless"])
async def test_what_is_no_proof_is_refused(scene: Scene, content: bytes) -> None:
    """Bounded before it is read."""
    await scene.answer(content)
    await scene.refused(NotLoggedError, "expected", attack=Attack.ARBITRARY_SOFTWARE)


async def test_proof_that_is_late_is_waited_for(scene: Scene) -> None:
    """Witnesses that are down are no attack: the device asks again."""
    await scene.world.confirm_all(scene.first)
    await scene.world.tick()
    await _roll_out(scene.world, "second")
    scene.witnesses.down = {2, 3}
    assert not await scene.world.checkpoints.work()
    with pytest.raises(NetworkError, match="found 503") as later:
        await scene.device.check_alone()
    assert later.value.retry_after_seconds > 0
    scene.witnesses.down = set()
    assert len((await scene.device.check()).targets) == 1


async def test_log_is_not_asked_where_the_root_does_not_ask_for_it(tmp_path: Path) -> None:
    """A catalog from before there was a log."""
    folders = make_folders(tmp_path / "init")
    forget_log(folders)
    async with open_world(folders, f"sqlite:///{tmp_path / 'control.db'}") as world:
        device = ConnectedDevice(world, DeviceId(await world.add_device()))
        await _roll_out(world, "first")
        assert len((await device.check()).targets) == 1
        assert device.storage.get(STORED) is None
        assert not any(path.startswith(PROOF_PATH) for path in device.attacker.seen)
