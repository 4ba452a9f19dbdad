"""Drill: somebody writes the service's database, and the folder of its artifacts."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, insert, select, update
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from pki.metadata import RoleKeys, add_signature, content_target, next_root, sign_targets
from protocol.evidence import SoftwareComponent
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.messages import ActionState, Attack
from protocol.signing import SoftwareSigner
from protocol.updates import ImageCustom, image_target_name
from service.adapters.database.engine import Database, database_url
from service.adapters.database.supply_chain_tables import metadata_targets
from service.adapters.database.update_tables import (
    director_sets,
    image_targets,
    metadata_files,
    release_images,
    releases,
)
from service.adapters.metadata_signer import load_genesis
from service.application.update_repositories import MetadataRole, RepositoryName
from tests.attack.drill import APPLICATION, FIRMWARE, IMAGE, Drill, open_drill
from tests.attesting_device import HONEST, AttestingDevice, component
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """A device after a legitimate update, and a service that rolls out the next one."""
    async with open_drill(tmp_path) as opened:
        yield opened


async def change(drill: Drill, *statements: object) -> None:
    async with drill.world.database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)  # type: ignore[call-overload]  # any statement


async def test_forged_targets_in_the_database_are_refused(drill: Drill) -> None:
    """The snapshot goes on to list what was published; nothing else is what its hash says."""
    action_id = await drill.roll_out("second")
    package = drill.image(APPLICATION, "6.6.6", key=SoftwareSigner.generate())
    digest, length = digest_of(package), len(package)
    listed = await drill.targets()
    name = (await drill.world.releases.get("second")).images[APPLICATION].target
    listed[name] = content_target(name, package, listed[name].custom)
    version, expires = await targets_version(drill), drill.world.clock.now() + timedelta(days=30)
    forged = sign_targets([*listed.values()], SoftwareSigner.generate(), version=version, expires=expires)
    is_targets = (metadata_files.c.role == "targets", metadata_files.c.version == version)
    await change(
        drill,
        update(metadata_files).where(metadata_files.c.repository == "image", *is_targets).values(content=forged),
        update(image_targets).where(image_targets.c.path == name).values(sha256=digest, length=length),
        update(release_images).where(release_images.c.target == name).values(sha256=digest, length=length),
    )
    (drill.world.folders.service / "artifacts" / digest).write_bytes(package)
    await drill.world.repository.begin(load_genesis(drill.world.folders.service))  # signs anew, as at every start
    await drill.assert_refused(action_id, Attack.MIX_AND_MATCH, "LengthOrHashMismatchError")


async def targets_version(drill: Drill) -> int:
    async with drill.world.unit_of_work(read_only=True) as work:
        return await work.metadata.version(RepositoryName.IMAGE, MetadataRole.TARGETS)


async def test_forged_digest_of_an_image_is_refused(drill: Drill) -> None:
    """The Director's tables say other bytes for a target than the operator signed."""
    action_id = await drill.roll_out("second")
    name = (await drill.world.releases.get("second")).images[APPLICATION].target
    package = drill.image(APPLICATION, "6.6.6", key=SoftwareSigner.generate())
    digest, length = digest_of(package), len(package)
    await change(
        drill,
        update(image_targets).where(image_targets.c.path == name).values(sha256=digest, length=length),
        update(release_images).where(release_images.c.target == name).values(sha256=digest, length=length),
    )
    (drill.world.folders.service / "artifacts" / digest).write_bytes(package)
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "expected equal length and hashes")


async def test_forged_security_counter_is_refused(drill: Drill) -> None:
    """The Director's tables say a higher counter, so that fuses would be burnt."""
    action_id = await drill.roll_out("second")
    name = (await drill.world.releases.get("second")).images[FIRMWARE].target
    custom = (await drill.targets())[name].custom
    await change(
        drill,
        update(image_targets).where(image_targets.c.path == name).values(custom={**custom, "security_counter": 99}),
    )
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "security counter: expected 1")


async def test_changed_artifact_is_refused(drill: Drill) -> None:
    """The bytes of an image on the service's disk."""
    action_id = await drill.roll_out("second")
    package = drill.packages["second"][FIRMWARE]
    path = drill.world.folders.service / "artifacts" / digest_of(package)
    path.write_bytes(bytes([package[0] ^ 1]) + package[1:])
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "expected SHA-256")


async def test_changed_release_document_is_refused(drill: Drill) -> None:
    """The bytes of the release document on the service's disk, with a counter as high as he likes."""
    action_id = await drill.roll_out("second")
    target = (await drill.targets())[(await drill.world.releases.get("second")).target]
    path = drill.world.folders.service / "artifacts" / target.hashes["sha256"]
    path.write_bytes(path.read_bytes().replace(b'"counter":2', b'"counter":9'))
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "releases/2-second.json")


async def test_release_with_fewer_images_is_refused(drill: Drill) -> None:
    """The service's tables leave out an image of the release that the operator signed."""
    action_id = await drill.roll_out("second")
    release = await drill.world.releases.get("second")
    await change(
        drill,
        delete(release_images).where(
            release_images.c.release_id == release.release_id, release_images.c.slot == FIRMWARE.value
        ),
    )
    await drill.assert_refused(action_id, Attack.PARTIAL_BUNDLE, "expected an image for m4-0/firmware")


async def test_release_with_an_image_of_another_is_refused(drill: Drill) -> None:
    """The service's tables pair the new application with a firmware of another release."""
    await drill.release("third", "4.0.0")
    action_id = await drill.roll_out("second")
    second, third = await drill.world.releases.get("second"), await drill.world.releases.get("third")
    other = third.images[FIRMWARE]
    await change(
        drill,
        update(release_images)
        .where(release_images.c.release_id == second.release_id, release_images.c.slot == FIRMWARE.value)
        .values(target=other.target, sha256=other.sha256, length=other.length),
    )
    await drill.assert_refused(action_id, Attack.MIX_AND_MATCH, "release second: expected")


async def test_release_that_points_to_an_older_document_is_refused(drill: Drill) -> None:
    """The tables give the first release's images out as the third's, and say that it may go back to them."""
    assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED
    await drill.release("third", "4.0.0")
    action_id = await drill.roll_out("third")
    first, second, third = [await drill.world.releases.get(name) for name in ("first", "second", "third")]
    goes_back = {slot.value: [digest] for slot, digest in second.digests.items()}
    await change(
        drill,
        update(releases)
        .where(releases.c.release_id == third.release_id)
        .values(target=first.target, goes_back=goes_back),
        *(
            update(release_images)
            .where(release_images.c.release_id == third.release_id, release_images.c.slot == slot.value)
            .values(target=image.target, sha256=image.sha256, length=image.length)
            for slot, image in first.images.items()
        ),
    )
    await drill.assert_refused(
        action_id, Attack.ROLLBACK, "release counter: expected at least 2, found 1", release="third"
    )


async def test_director_set_of_another_device_is_refused(drill: Drill) -> None:
    """A row of the Director's sets is copied from one device to another."""
    other = await drill.world.add_device()
    action_id = await drill.roll_out("second")
    drill.world.clock.advance(2)
    await drill.world.director.timestamp(other)
    async with drill.world.database.engine.begin() as connection:
        row = (await connection.execute(select(director_sets).where(director_sets.c.device_id == other))).one()
        values = {**row._mapping, "device_id": drill.device_id, "action_id": action_id}
        await connection.execute(delete(director_sets).where(director_sets.c.device_id == drill.device_id))
        await connection.execute(insert(director_sets).values(values))
    await drill.assert_refused(action_id, Attack.WRONG_DEVICE, f"found {other[:16]}")


async def test_forged_director_set_is_refused(drill: Drill) -> None:
    """A row of the Director's sets with other bytes: only the key makes a set."""
    action_id = await drill.roll_out("second")
    await drill.world.director.timestamp(drill.device_id)
    async with drill.world.database.engine.begin() as connection:
        row = (
            await connection.execute(select(director_sets).where(director_sets.c.device_id == drill.device_id))
        ).one()
        forged = row.targets.replace(b'"security_counter":1', b'"security_counter":9')
        assert forged != row.targets
        await connection.execute(
            update(director_sets).where(director_sets.c.device_id == drill.device_id).values(targets=forged)
        )
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "UnsignedMetadataError")


async def test_timestamp_of_the_image_repository_by_nobody_is_refused(drill: Drill) -> None:
    """A row of the metadata with a later expiry, to freeze the repository."""
    action_id = await drill.roll_out("second")
    content = (await drill.connection.http.get(IMAGE + "timestamp.json")).content
    forged = content.replace(b'"expires":"20', b'"expires":"21')
    await change(
        drill,
        update(metadata_files)
        .where(metadata_files.c.repository == "image", metadata_files.c.role == "timestamp")
        .values(content=forged),
    )
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "UnsignedMetadataError")


async def test_image_that_is_in_the_tables_alone_admits_no_device(tmp_path: Path) -> None:
    """He writes every row that a publication would, of an image that nobody signed; no process lets the device in."""
    folders = make_folders(tmp_path)
    stranger = component(Slot.M4_0_MODEL, b"\x66" * 32)
    async with live_service(folders) as live:
        device = await live.claimed()
        await live.attest(device)
        device.evidence = replace(HONEST, components=(*HONEST.components, stranger))
        await refused(live, device)
        await write(live, *rows_of(stranger))
        await refused(live, device)
    async with live_service(folders) as live:
        await refused(live, device)
        device.evidence = HONEST
        await live.attest(device)


async def test_targets_and_root_that_a_thief_signed_admit_no_device(live: LiveService) -> None:
    """He signs targets that list his image, and a root that names his key, and puts both into the tables."""
    device, thief = await live.claimed(), SoftwareSigner.generate()
    stranger = component(Slot.M4_0_MODEL, b"\x66" * 32)
    device.evidence = replace(HONEST, components=(*HONEST.components, stranger))
    await write(live, *rows_of(stranger))
    genesis = load_genesis(live.folders.service)
    signed = Metadata[Targets].from_bytes(genesis.image_targets).signed
    forged = sign_targets([*signed.targets.values(), target_of(stranger)], thief, version=2, expires=signed.expires)
    root = Metadata[Root].from_bytes(genesis.image_root).signed
    mine = next_root(root, {Targets.type: RoleKeys((thief.public_key,), 1)}, expires=root.expires)
    later = {"repository": "image", "version": 2, "expires_at": signed.expires, "created_at": signed.expires}
    await write(live, insert(metadata_files).values(later | {"role": "targets", "content": forged}))
    await refused(live, device)
    await write(live, insert(metadata_files).values(later | {"role": "root", "content": add_signature(mine, thief)}))
    await refused(live, device)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    """A whole service."""
    async with live_service(make_folders(tmp_path)) as service:
        yield service


async def refused(live: LiveService, device: AttestingDevice) -> None:
    answer = await live.ask_to_attest(device, SoftwareSigner.generate())
    assert answer.status_code == httpx.codes.FORBIDDEN, answer.text
    assert "m4-0/model" in answer.text


async def write(live: LiveService, *statements: object) -> None:
    database = Database(database_url(live.settings.database_location()))
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)  # type: ignore[call-overload]  # any statement
    await database.close()


def target_of(stranger: SoftwareComponent) -> TargetFile:
    slot, image_id = Slot(stranger.type), "00000000-0000-4000-8000-000000006666"
    custom = ImageCustom(
        slot_kind=slot.kind,
        hardware_ids=(slot.core.hardware_id,),
        component_id=image_id,
        image_id=image_id,
        name=stranger.version,
        security_counter=1,
    )
    digest, fields = stranger.measurement.hex(), {"custom": custom.model_dump(mode="json")}
    return TargetFile(1024, {"sha256": digest}, image_target_name(slot, image_id), fields)


def rows_of(stranger: SoftwareComponent) -> list[object]:
    target = target_of(stranger)
    listed = {"path": target.path, "sha256": target.hashes["sha256"], "length": target.length}
    image = {"custom": target.custom, "image_id": target.custom["image_id"], "since_version": 1}
    return [
        insert(image_targets).values(listed | image),
        insert(metadata_targets).values(listed | {"role": "targets"}),
    ]
