"""Attacks on what the service takes from operators and devices: a legitimate release, then exactly one thing wrong.

After each refusal the metadata in force, the releases and what devices may do are what they were.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from pki.metadata import content_target
from pki.roles import OfflineKey
from protocol.document import DocumentError, EnvelopeSignatureError, sign_document
from protocol.geometry import HOME_BYTES, Core, ImageKind, Slot
from protocol.identity import device_id_of
from protocol.image import IMAGE_TYPE, ImageInfo, PackageSignatureError, compose, digest_of
from protocol.messages import MANIFEST_PAYLOAD_TYPE, ActionState, VersionManifest
from protocol.signing import SoftwareSigner
from protocol.updates import UpdateMetadataError
from service.application.artifacts import ArtifactHashError, ArtifactTooLongError
from service.application.manifests import ForeignManifestError, ReplayedManifestError
from service.application.metadata_refusals import (
    MetadataExpiredError,
    MetadataFormError,
    MetadataSignatureRefusedError,
    MetadataVersionError,
)
from service.application.rollouts import NewRollout
from service.application.update_repositories import MetadataRole, RepositoryName
from service.domain.action import UnknownActionError
from service.domain.membership import StagePlan
from service.domain.release import (
    FactoryReleaseError,
    HardwareMismatchError,
    InvalidReleaseError,
    InvalidTargetError,
    MissingArtifactError,
    ReleaseCounterError,
    TargetChangedError,
)
from tests.integration.service_updates.update_world import (
    COMPONENT,
    RELEASER,
    UpdateWorld,
    Upload,
    add_target,
    in_blocks,
    open_world,
)
from tests.rollout_conditions import threshold_plan
from tests.service_folder import make_folders


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service with one device that runs a legitimate release."""
    async with open_world(make_folders(tmp_path / "init"), f"sqlite:///{tmp_path / 'control.db'}") as opened:
        await opened.add_device()
        await opened.release("legitimate")
        rollout = await opened.roll_out("legitimate", (StagePlan(percent=100),))
        await opened.tick()
        await opened.confirm_all(rollout)
        yield opened


async def in_force(world: UpdateWorld) -> list[bytes]:
    return [(await world.repository.file(RepositoryName.IMAGE, role)).content for role in MetadataRole]


async def assert_refused(world: UpdateWorld, upload: Upload, error: type[Exception], match: str) -> None:
    before = await in_force(world)
    with pytest.raises(error, match=match):
        await world.hand_over(upload)
    assert await in_force(world) == before
    assert [release.name for release in await world.releases.page(before_counter=None, limit=10)] == ["legitimate"]


async def good_upload(world: UpdateWorld) -> Upload:
    return await world.prepare("second", {Slot.A7_APPLICATION: world.package("app@2.0.0")})


def spoil(upload: Upload, name: str, **custom: object) -> None:
    """Change fields of one target's custom metadata."""
    for target in upload.targets:
        if target.path.startswith(name) and target.path in upload.contents:
            target.unrecognized_fields["custom"] = {**target.custom, **custom}


async def test_release_with_nothing_wrong_is_taken(world: UpdateWorld) -> None:
    """The builder's upload is right, so each case below has exactly one thing wrong."""
    release = await world.hand_over(await good_upload(world))
    assert release.counter == 2
    with pytest.raises(MetadataVersionError, match="expected version 4, found 3"):
        await world.hand_over(await _same_again(world))


async def _same_again(world: UpdateWorld) -> Upload:
    upload = await world.prepare("third", {Slot.A7_APPLICATION: world.package("app@3.0.0")})
    return replace(upload, version=upload.version - 1)


async def test_targets_of_an_older_version_are_refused(world: UpdateWorld) -> None:
    """Replayed targets: the version must be exactly the next."""
    upload = replace(await good_upload(world), version=1)
    await assert_refused(world, upload, MetadataVersionError, "expected version 3, found 1")


async def test_targets_by_another_key_are_refused(world: UpdateWorld) -> None:
    """A package key is no Image targets key."""
    upload = replace(await good_upload(world), signer=OfflineKey.PACKAGE)
    await assert_refused(world, upload, MetadataSignatureRefusedError, "expected signatures by 1 of its keys")


async def test_expired_targets_are_refused(world: UpdateWorld) -> None:
    """Metadata that no device would take does not come into force."""
    upload = replace(await good_upload(world), expires=world.clock.now() - timedelta(seconds=1))
    await assert_refused(world, upload, MetadataExpiredError, "expected an expiry after")


async def test_targets_that_are_no_metadata_are_refused(world: UpdateWorld) -> None:
    """Other bytes."""
    with pytest.raises(MetadataFormError, match="expected TUF metadata"):
        await world.releases.create(
            RELEASER, name="x", unverified={"targets": b"{}"}, release_target="releases/2-x.json"
        )


async def test_targets_that_drop_one_in_force_are_refused(world: UpdateWorld) -> None:
    """What devices run stays listed."""
    upload = await good_upload(world)
    upload.targets = [target for target in upload.targets if target.path in upload.contents]
    await assert_refused(world, upload, TargetChangedError, "expected it as it is in force, found none")


async def test_targets_that_change_one_in_force_are_refused(world: UpdateWorld) -> None:
    """A name never stands for other bytes."""
    upload = await good_upload(world)
    index = next(i for i, target in enumerate(upload.targets) if target.path not in upload.contents)
    upload.targets[index] = content_target(upload.targets[index].path, b"other", upload.targets[index].custom)
    await assert_refused(world, upload, TargetChangedError, "another content")


async def test_target_without_bytes_is_refused(world: UpdateWorld) -> None:
    """Nothing comes into force that a device could not download."""
    upload = await good_upload(world)
    upload.contents = {name: content for name, content in upload.contents.items() if "images/" not in name}
    await assert_refused(world, upload, MissingArtifactError, "found no artifact")


async def test_target_of_another_length_is_refused(world: UpdateWorld) -> None:
    """The metadata's length is what a device downloads at most."""
    upload = await good_upload(world)
    for index, target in enumerate(upload.targets):
        if target.path in upload.contents and target.path.startswith("images/"):
            fields = target.unrecognized_fields
            upload.targets[index] = TargetFile(target.length + 1, target.hashes, target.path, fields)
    await assert_refused(world, upload, InvalidTargetError, "bytes, found")


@pytest.mark.parametrize(
    ("custom", "error", "match"),
    [
        ({"security_counter": 9}, InvalidTargetError, "expected what its package says"),
        ({"component_id": "22222222-2222-4222-8222-222222222222"}, InvalidTargetError, "what its package says"),
        ({"hardware_ids": ["esp32"]}, HardwareMismatchError, "found \\['esp32'\\]"),
        ({"slot_kind": "os"}, HardwareMismatchError, "expected a package for os"),
        ({"slot_kind": "firmware"}, HardwareMismatchError, "expected a application"),
        ({"hardware_ids": ["mt3620-m4-0"]}, HardwareMismatchError, "for mt3620-a7 as it is named, found"),
        ({"unknown": 1}, UpdateMetadataError, "expected ImageCustom"),
    ],
)
async def test_custom_metadata_that_lies_is_refused(
    world: UpdateWorld, custom: dict[str, object], error: type[Exception], match: str
) -> None:
    """What devices will judge by must be what the signed package says."""
    upload = await good_upload(world)
    spoil(upload, "images/", **custom)
    await assert_refused(world, upload, error, match)


async def test_release_counter_that_does_not_rise_is_refused(world: UpdateWorld) -> None:
    """Counters rise with every release, so that no device can be led back."""
    upload = await good_upload(world)
    content = upload.contents.pop(upload.release_target)
    upload.targets = [target for target in upload.targets if target.path != upload.release_target]
    document = {**json.loads(content), "counter": 1}
    upload.release_target = "releases/1-second.json"
    add_target(upload, upload.release_target, json.dumps(document).encode())
    await assert_refused(world, upload, ReleaseCounterError, "expected above 1, found 1")


async def test_release_document_under_another_name_is_refused(world: UpdateWorld) -> None:
    """The release that the operator confirms is the one in the metadata."""
    upload = replace(await good_upload(world), name="another")
    await assert_refused(world, upload, InvalidReleaseError, "expected the name another, found second")
    wrong = replace(await good_upload(world), release_target="releases/2-other.json")
    await assert_refused(world, wrong, InvalidReleaseError, "expected exactly the new targets .*2-other.json")


async def test_image_that_does_not_fit_is_refused(world: UpdateWorld) -> None:
    """Home slot and shared spare: said by how much."""
    room = HOME_BYTES[Slot.M4_1_FIRMWARE]
    package = world.package("runtime@2.0.0", ImageKind.FIRMWARE, payload=bytes(room))
    upload = await world.prepare("second", {Slot.M4_1_FIRMWARE: package})
    await assert_refused(world, upload, HardwareMismatchError, f"expected at most {room} bytes, found {len(package)}")


async def test_one_image_for_two_slots_is_refused(world: UpdateWorld) -> None:
    """A Director target names one slot."""
    package = world.package("runtime@2.0.0", ImageKind.FIRMWARE)
    upload = await world.prepare("second", {Slot.M4_0_FIRMWARE: package})
    content = json.loads(upload.contents.pop(upload.release_target))
    content["images"]["m4-1/firmware"] = content["images"]["m4-0/firmware"]
    upload.targets = [target for target in upload.targets if target.path != upload.release_target]
    add_target(upload, upload.release_target, json.dumps(content).encode())
    await assert_refused(world, upload, InvalidReleaseError, "expected each image in one slot")


async def test_model_without_listed_golden_vectors_is_refused(world: UpdateWorld) -> None:
    """A device would refuse it, so it does not come into force."""
    model, _ = world.model("person@1.0.0", Core.M4_0)
    upload = await world.prepare("second", {Slot.M4_0_MODEL: model})
    await assert_refused(world, upload, InvalidTargetError, "expected golden vectors that are listed, found None")


async def test_package_by_another_key_is_not_stored(world: UpdateWorld) -> None:
    """Validly formed, signed by nobody the catalog trusts."""
    info = ImageInfo(IMAGE_TYPE[ImageKind.APPLICATION], COMPONENT, COMPONENT, "app@9.0.0", 1, world.clock.now())
    package = compose(b"evil" * 100, info, SoftwareSigner.generate())
    with pytest.raises(PackageSignatureError, match="found none"):
        await world.take(package)
    async with world.unit_of_work(read_only=True) as work:
        assert not await work.artifacts.find([digest_of(package)])
    assert not (world.folders.service / "artifacts" / digest_of(package)).exists()


async def test_golden_vectors_by_another_key_are_not_stored(world: UpdateWorld) -> None:
    """The model's author cannot sign what the model must answer."""
    _, golden = world.model("person@1.0.0", Core.M4_0)
    envelope = json.loads(golden)
    envelope["signatures"][0]["sig"] = "AAAA"
    with pytest.raises(EnvelopeSignatureError, match="found none"):
        await world.take(json.dumps(envelope).encode())


async def test_bytes_of_another_hash_are_not_stored(world: UpdateWorld) -> None:
    """The name is the hash."""
    with pytest.raises(ArtifactHashError, match="expected SHA-256 000000000000"):
        await world.artifacts.take(RELEASER, "0" * 64, in_blocks(world.package("app@2.0.0")))


async def test_endless_upload_is_cut_off(world: UpdateWorld) -> None:
    """More than any package has is refused while it arrives."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(ArtifactTooLongError, match="found more"):
        await world.artifacts.take(RELEASER, "0" * 64, endless())
    assert sent <= 17 << 20


async def test_factory_release_is_never_rolled_out(world: UpdateWorld) -> None:
    """What devices are made with is a reference value, nothing more."""
    images = {Slot.OS: world.package("os@1.0.0", ImageKind.OS)}
    await world.hand_over(await world.prepare("factory", images, factory=True))
    new = NewRollout("factory", "Production", None, threshold_plan((StagePlan(percent=100),)))
    with pytest.raises(FactoryReleaseError, match="found the factory release"):
        await world.rollouts.create(RELEASER, new, start_now=True)


async def test_system_image_is_not_released_over_the_air(world: UpdateWorld) -> None:
    """Boot loader, security monitor and OS have no slot that takes updates."""
    upload = await world.prepare("second", {Slot.OS: world.package("os@1.0.0", ImageKind.OS)})
    await assert_refused(world, upload, HardwareMismatchError, "found a system slot")


async def test_report_of_another_device_is_refused(world: UpdateWorld) -> None:
    """A device moves its own actions only; it cannot learn whether another's exists."""
    victim, attacker = await world.add_devices(2)
    await world.release("second")
    rollout = await world.roll_out("second", (StagePlan(percent=100),))
    await world.tick()
    action = next(n.action for n in await world.actions(rollout) if n.action.device_id == victim)
    with pytest.raises(UnknownActionError, match="expected one of this device"):
        await world.report(attacker, action.action_id, ActionState.REVERTED)
    after = next(n.action for n in await world.actions(rollout) if n.action.device_id == victim)
    assert after == action


async def test_manifest_is_taken_once_and_from_its_own_device(world: UpdateWorld) -> None:
    """Replayed, foreign and forged manifests change nothing."""
    signer, other = SoftwareSigner.generate(), SoftwareSigner.generate()
    device_id, other_id = await world.add_device(signer=signer), await world.add_device(signer=other)

    def manifest(counter: int, digest: str, by: SoftwareSigner = signer) -> bytes:
        document = VersionManifest(
            device_id=device_id_of(signer.public_key),
            counter=counter,
            reported_at=world.clock.now(),
            images={Slot.A7_APPLICATION: digest * 64},
        )
        return sign_document(document, MANIFEST_PAYLOAD_TYPE, by)

    await world.manifests.take_alone(device_id, manifest(5, "a"))
    for attack, error in (
        (manifest(5, "b"), ReplayedManifestError),
        (manifest(4, "b"), ReplayedManifestError),
        (manifest(6, "b", other), EnvelopeSignatureError),
    ):
        with pytest.raises(error):
            await world.manifests.take_alone(device_id, attack)
    with pytest.raises(EnvelopeSignatureError):
        await world.manifests.take_alone(other_id, manifest(7, "b"))
    with pytest.raises(ForeignManifestError, match="expected device"):
        await world.manifests.take_alone(other_id, manifest(8, "b", other))
    async with world.unit_of_work(read_only=True) as work:
        installed = await work.installed.of([device_id, other_id])
    assert installed == {device_id: {Slot.A7_APPLICATION: "a" * 64}}


async def test_release_document_that_is_spoilt_is_not_stored(world: UpdateWorld) -> None:
    """Unknown fields are refused; nothing is guessed."""
    upload = await good_upload(world)
    content = json.loads(upload.contents[upload.release_target])
    with pytest.raises(DocumentError, match="Extra inputs are not permitted"):
        await world.take(json.dumps({**content, "extra": 1}).encode())
