"""What comes into force is logged in its transaction, in order, once; proofs follow when enough witnesses agree."""

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import pytest
from sqlalchemy import delete, func, select, update
from tuf.api.metadata import Metadata, Root, TargetFile

from protocol.geometry import ImageKind, Slot
from protocol.merkle import leaf_hash, range_hash, subtree_hash
from protocol.notes import SignatureKind, VerifierKey, parse_note
from protocol.tiles import TileKey, decode_entries, edge_keys, keys_for, reader
from protocol.tlog import parse_add_checkpoint, parse_checkpoint
from protocol.transparency import (
    ImageEntry,
    LogEntry,
    LogPolicy,
    RootEntry,
    entry_hash,
    parse_entry,
    policy_field,
    verify_logged,
)
from protocol.updates import ImageCustom
from service.adapters.database.supply_chain_tables import log_checkpoints, log_entries, log_tiles
from service.adapters.database.transparency import SqlLog
from service.application.checkpoints import LogDamagedError
from service.application.publication import Publication
from service.application.transparency import (
    ForeignLogError,
    NotCoveredError,
    Transparency,
    UnknownEntryError,
    UnreadablePolicyError,
    policy_in_force,
)
from service.application.transparency_repository import LoggedEntry
from service.application.update_repositories import ImageTarget, MetadataFile, MetadataRole, RepositoryName
from service.domain.errors import ServiceError
from tests.integration.service_updates.update_world import UpdateWorld
from tests.log_witnesses import Witnesses, cosigner


async def _entries(world: UpdateWorld) -> list[LogEntry]:
    async with world.unit_of_work(read_only=True) as work:
        return [parse_entry(entry) for entry in await work.log.entries(0, 10_000)]


async def _policy(world: UpdateWorld) -> LogPolicy:
    async with world.unit_of_work(read_only=True) as work:
        policy = await policy_in_force(work)
    assert policy is not None
    return policy


async def _image(world: UpdateWorld) -> ImageEntry:
    found = [entry for entry in await _entries(world) if isinstance(entry, ImageEntry)]
    return found[-1]


async def _check_tree(world: UpdateWorld) -> bytes:
    """Check that tiles are what the entries make, and return the root."""
    async with world.unit_of_work(read_only=True) as work:
        size = await work.log.size()
        leaves = [leaf_hash(entry) for entry in await work.log.entries(0, size)]
        assert len(leaves) == size
        tiles = await work.log.tiles(keys_for([(0, size)]))
        root = range_hash((0, size), reader(tiles))
    expected = range_hash((0, size), lambda node: subtree_hash(leaves[node.index << node.height :][: 1 << node.height]))
    assert root == expected
    return root


async def test_roots_and_images_are_logged_in_order(world: UpdateWorld) -> None:
    """Both roots of the genesis, then each image of a release; release documents and golden vectors are not images."""
    await world.release("first")
    await world.release("second")
    entries = await _entries(world)
    assert [(entry.repository, entry.version) for entry in entries if isinstance(entry, RootEntry)] == [
        ("director", 1),
        ("image", 1),
    ]
    assert [entry.name for entry in entries if isinstance(entry, ImageEntry)] == ["a7-first@1.0.0", "a7-second@1.0.0"]
    root = (world.folders.service / "genesis" / "image.root.json").read_bytes()
    assert entries[1].sha256 == hashlib.sha256(root).hexdigest()
    await _check_tree(world)


async def test_start_logs_nothing_twice(world: UpdateWorld) -> None:
    """Whatever is in force is logged already."""
    await world.release("first")
    before = await _entries(world)
    await world.transparency.begin()
    assert await _entries(world) == before


async def test_first_start_with_a_log_logs_what_is_in_force(world: UpdateWorld) -> None:
    """The upgrade from a version without one; more images than a page."""
    await world.release("first")
    async with world.unit_of_work() as work:
        await work.metadata.add_images([_made_up(number) for number in range(1200)])
        await work.commit()
    async with world.database.transaction(read_only=False) as connection:
        for table in (log_entries, log_tiles):
            await connection.execute(delete(table))
        await connection.commit()
    await world.transparency.begin()
    entries = await _entries(world)
    assert len(entries) == len({entry_hash(entry) for entry in entries}) == 2 + 1 + 1200
    await _check_tree(world)


def _made_up(number: int) -> ImageTarget:
    image_id = f"00000000-0000-4000-8000-{number:012x}"
    custom = ImageCustom(
        slot_kind=ImageKind.APPLICATION,
        hardware_ids=("mt3620-a7",),
        component_id=image_id,
        image_id=image_id,
        name=f"app@{number}.0",
        security_counter=1,
    )
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return ImageTarget(f"images/a7/application/{image_id}.img", digest, 1000, custom, since_version=1)


async def test_publication_that_fails_leaves_no_entry(world: UpdateWorld) -> None:
    """One transaction."""
    before = await _entries(world)
    upload = await world.prepare("first", {Slot.A7_APPLICATION: world.package("app@1.0.0")})
    upload.name = "another"  # than the release document says
    with pytest.raises(ServiceError):
        await world.hand_over(upload)
    assert await _entries(world) == before


async def test_many_processes_append_without_a_gap(world: UpdateWorld) -> None:
    """Every transaction waits for its turn: numbers and tiles of each follow the one before."""
    now = world.clock.now()

    async def append(number: int) -> None:
        other = Transparency(world.unit_of_work, key=world.transparency._key, clock=world.clock)
        file = MetadataFile(RepositoryName.DIRECTOR, MetadataRole.ROOT, number, str(number).encode(), now)
        async with world.unit_of_work() as work:
            await other.published(work, Publication((file,)), now=now)
            await work.commit()

    await asyncio.gather(*(append(number) for number in range(2, 42)))
    assert len(await _entries(world)) == 42
    await _check_tree(world)


async def test_appending_touches_the_right_edge_alone(world: UpdateWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of each level, however long the log is."""
    async with world.unit_of_work() as work:
        await work.metadata.add_images([_made_up(number) for number in range(600)])
        await work.commit()
    await world.transparency.begin()
    read, written = list[int](), list[int]()
    tiles, append = SqlLog.tiles, SqlLog.append

    async def counted_tiles(log: SqlLog, keys: Collection[TileKey]) -> Mapping[TileKey, bytes]:
        read.append(len(keys))
        return await tiles(log, keys)

    async def counted_append(
        log: SqlLog, entries: Sequence[LoggedEntry], grown: Mapping[TileKey, bytes], *, at: datetime
    ) -> None:
        written.append(len(grown))
        await append(log, entries, grown, at=at)

    monkeypatch.setattr(SqlLog, "tiles", counted_tiles)
    monkeypatch.setattr(SqlLog, "append", counted_append)
    await world.release("next")
    assert (sum(read), sum(written)) == (len(edge_keys(602)), 1)


async def test_proof_waits_for_the_quorum(world: UpdateWorld, witnesses: Witnesses) -> None:
    """Two of three: one may be down; with two down nothing but proofs waits."""
    await world.release("first")
    entry, checkpoints = await _image(world), witnesses.checkpoints()
    witnesses.down = {2, 3}
    assert not await checkpoints.work()
    with pytest.raises(NotCoveredError):
        await world.transparency.proof(entry_hash(entry))
    with pytest.raises(NotCoveredError):
        await world.transparency.checkpoint()
    await world.release("second")
    assert [bool(state.problem) for state in checkpoints.states()] == [False, True, True]
    witnesses.down = {3}
    assert await checkpoints.work()
    verified = verify_logged(entry, await world.transparency.proof(entry_hash(entry)), await _policy(world))
    assert set(verified.witnessed) == {"witness.example/w1", "witness.example/w2"}
    assert verified.checkpoint.size == 4
    assert verified.checkpoint.root == await _check_tree(world)


async def test_image_that_no_checkpoint_covers_yet_waits(world: UpdateWorld, witnesses: Witnesses) -> None:
    """While older ones are proven by the checkpoint before."""
    checkpoints = witnesses.checkpoints()
    await world.release("first")
    first = await _image(world)
    assert await checkpoints.work()
    await world.release("second")
    with pytest.raises(NotCoveredError, match="expected a checkpoint that covers entry 3, found one of size 3"):
        await world.transparency.proof(entry_hash(await _image(world)))
    verify_logged(first, await world.transparency.proof(entry_hash(first)), await _policy(world))
    with pytest.raises(UnknownEntryError):
        await world.transparency.proof(bytes(32))


async def test_round_that_was_cut_off_is_begun_anew(world: UpdateWorld, witnesses: Witnesses) -> None:
    """A process that was killed between a witness's answer and its own commit: the next asks again."""
    await world.release("first")
    witnesses.down = {2, 3}
    assert not await witnesses.checkpoints().work()
    witnesses.down = set()
    again = witnesses.checkpoints()
    assert await again.work()
    sizes = [parse_add_checkpoint(body).old_size for body in witnesses.asked]
    assert sizes.count(3) == 1  # the one that had cosigned size 3 says so, and is asked from there
    await world.release("second")
    assert await again.work()
    assert [state.size for state in again.states()] == [4, 4, 4]


async def test_two_processes_share_the_witnesses(world: UpdateWorld, witnesses: Witnesses) -> None:
    """Each learns from a conflict how far the other has come."""
    one, other = witnesses.checkpoints(), witnesses.checkpoints()
    for number, worker in enumerate((one, other, one, other)):
        await world.release(f"r{number}")
        assert await worker.work()
    async with world.unit_of_work(read_only=True) as work:
        note = await work.log.checkpoint()
    assert note is not None
    assert parse_checkpoint(parse_note(note).text).size == 6


async def test_log_that_has_lost_entries_gets_no_cosignature(world: UpdateWorld, witnesses: Witnesses) -> None:
    """As after a restore from a backup: the witnesses have seen more, and the operator is told."""
    await world.release("first")
    await world.release("second")
    assert await witnesses.checkpoints().work()
    async with world.database.transaction(read_only=False) as connection:
        last = select(func.max(log_entries.c.number)).scalar_subquery()
        await connection.execute(delete(log_entries).where(log_entries.c.number == last))
        await connection.execute(delete(log_checkpoints))
        await connection.commit()
    again = witnesses.checkpoints()
    assert not await again.work()
    assert all("the log has lost entries" in state.problem for state in again.states())


async def test_policy_that_changes_asks_for_new_cosignatures(world: UpdateWorld, witnesses: Witnesses) -> None:
    """A checkpoint that was enough is no more; the next round makes it enough."""
    await world.release("first")
    witnesses.down = {3}
    checkpoints = witnesses.checkpoints()
    assert await checkpoints.work()
    entry = await _image(world)
    await world.transparency.proof(entry_hash(entry))
    policy = (await _policy(world)).model_copy(update={"quorum": 3})
    await _put_root(world, policy)
    with pytest.raises(NotCoveredError, match="enough witnesses"):
        await world.transparency.proof(entry_hash(entry))
    witnesses.down = set()
    assert await checkpoints.work()
    verify_logged(entry, await world.transparency.proof(entry_hash(entry)), policy)


async def _put_root(world: UpdateWorld, policy: LogPolicy) -> None:
    """Bring a second Image root into force; who signed it is not what these tests are about."""
    file = _root(world, policy_field(policy), version=2)
    async with world.unit_of_work() as work:
        await work.metadata.put(file, at=world.clock.now())
        await work.commit()


def _root(world: UpdateWorld, fields: dict[str, object], *, version: int) -> MetadataFile:
    expires = world.clock.now()
    content = Metadata(Root(version, expires=expires, unrecognized_fields=fields)).to_bytes()
    return MetadataFile(RepositoryName.IMAGE, MetadataRole.ROOT, version, content, expires)


async def test_root_that_names_another_log_is_refused(world: UpdateWorld) -> None:
    """Devices would wait for its proofs for ever; a policy that is none is refused, too."""
    key = VerifierKey("other/log", SignatureKind.ED25519, cosigner(9).key.public_key)
    policy = LogPolicy(origin=key.name, log=str(key))
    now = world.clock.now()
    wrong: list[tuple[dict[str, object], type[Exception]]] = [
        (policy_field(policy), ForeignLogError),
        ({"tinyfleet_log": {}}, UnreadablePolicyError),
    ]
    for fields, error in wrong:
        async with world.unit_of_work() as work:
            with pytest.raises(error, match="Image root"):
                await world.transparency.published(work, Publication((_root(world, fields, version=2),)), now=now)
    assert len(await _entries(world)) == 2


async def test_tiles_are_served_as_far_as_a_checkpoint_goes(world: UpdateWorld, witnesses: Witnesses) -> None:
    """Hashes and entries; what no checkpoint covers is not there yet."""
    with pytest.raises(UnknownEntryError):
        await world.transparency.tile("0/000.p/2")
    assert await witnesses.checkpoints().work()
    hashes = await world.transparency.tile("0/000.p/2")
    entries = decode_entries(await world.transparency.tile("entries/000.p/2"), 2)
    assert hashes == b"".join(leaf_hash(entry) for entry in entries)
    assert await world.transparency.tile("0/000.p/1") == hashes[:32]
    await world.release("first")
    with pytest.raises(UnknownEntryError):
        await world.transparency.tile("entries/000.p/3")


async def test_entries_are_found_by_digest(world: UpdateWorld, witnesses: Witnesses) -> None:
    """With a proof as soon as there is one."""
    await world.release("first")
    entry = await _image(world)
    assert [found.proof for found in await world.transparency.about(entry.sha256)] == [None]
    assert await witnesses.checkpoints().work()
    [found] = await world.transparency.about(entry.sha256)
    assert found.proof is not None
    assert (found.entry.number, found.entry.name) == (2, entry.target)
    verify_logged(entry, found.proof, await _policy(world))
    assert await world.transparency.about("00" * 32) == []


async def test_damaged_tree_is_never_signed(world: UpdateWorld, witnesses: Witnesses) -> None:
    """What contradicts an earlier checkpoint is no log any more; proofs wait, and the log says why."""
    checkpoints = witnesses.checkpoints()
    await world.release("first")
    assert await checkpoints.work()
    async with world.database.transaction(read_only=False) as connection:
        await connection.execute(update(log_tiles).values(content=bytes(3 * 32)))
        await connection.commit()
    await world.release("second")
    asked = len(witnesses.asked)
    with pytest.raises(LogDamagedError, match="when it was 3 long"):
        await checkpoints.work()
    assert len(witnesses.asked) == asked


async def test_many_images_come_into_force_at_once(world: UpdateWorld) -> None:
    """More than a statement of the database takes parameters."""
    now, count = world.clock.now(), 2500
    images = (_made_up(number) for number in range(count))
    added = {
        image.path: TargetFile(
            image.length, {"sha256": image.sha256}, image.path, {"custom": image.custom.model_dump(mode="json")}
        )
        for image in images
    }
    for _ in range(2):  # the second time everything is logged
        async with world.unit_of_work() as work:
            await world.transparency.published(work, Publication((), added), now=now)
            await work.commit()
    assert len(await _entries(world)) == 2 + count
    await _check_tree(world)
