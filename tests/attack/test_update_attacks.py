"""The attacks on updates that Uptane names: a legitimate update, then the attack, then nothing has changed."""

import hashlib
from pathlib import Path

import pytest
from tuf.api.metadata import Delegations, Metadata, TargetFile, Targets

from device_sim.network.ports import SlowRetrievalError
from pki.metadata import content_target, listed_file, sign_snapshot, sign_targets, sign_timestamp
from protocol.document import canonical_json, parse_document
from protocol.image import ImageKind
from protocol.messages import ActionState, Attack, Cause
from protocol.signing import SoftwareSigner, TufSigner
from protocol.updates import ReleaseDocument, golden_target_name
from tests.attack.update_refusals import (
    ARTIFACTS,
    LEGITIMATE_COUNTER,
    SECOND_ACTION,
    SLOT,
    assert_refused,
    last_manifest,
    offer,
    updated_device,
)
from tests.unit.device_hardware.device_builder import Packages
from tests.unit.device_update.update_builder import NOW, Updated, info_of


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update."""
    return updated_device(tmp_path)


def test_tampered_package_is_refused(device: Updated) -> None:
    """The service sends an image with one bit flipped."""
    package = device.model(version="3.0.0")
    offer(device, package)
    flipped = bytearray(package)
    flipped[200] ^= 1
    device.catalog.artifacts[hashlib.sha256(package).hexdigest()] = bytes(flipped)
    assert_refused(device, Cause.VERIFY, "expected SHA-256")


def test_package_by_unknown_key_is_refused(device: Updated) -> None:
    """Both repositories list an image that no package key signed."""
    offer(device, Packages().model(SLOT, version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "trusted keys")


def test_package_with_another_identity_is_refused(device: Updated) -> None:
    """A signed package of one name is listed under another."""
    offer(device, device.model(version="3.0.0"), name="colour@9.9.9")
    assert_refused(device, Cause.VERIFY, "colour@9.9.9")


def test_image_kind_that_slot_does_not_hold_is_refused(device: Updated) -> None:
    """The Director wants a firmware image in a model slot."""
    offer(device, device.model(version="3.0.0"), slot_kind=ImageKind.FIRMWARE)
    assert_refused(device, Cause.VERIFY, "expected a model", Attack.WRONG_HARDWARE)


def test_arbitrary_software_by_director_alone_is_refused(device: Updated) -> None:
    """A stolen Director key wants an image that the Image repository does not list."""
    target = offer(device, device.model(version="3.0.0"))
    del device.catalog.targets[target]
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "expected it in the Image repository")


def test_image_targets_by_unknown_key_are_refused(device: Updated) -> None:
    """Stolen online keys publish targets that the offline key did not sign."""
    offer(device, device.model(version="3.0.0"))
    catalog, version = device.catalog, device.catalog.version
    forged = sign_targets(
        list(catalog.targets.values()), SoftwareSigner.generate(), version=version, expires=catalog.expires
    )
    listed = {"targets": listed_file(forged, version=version)}
    snapshot = sign_snapshot(listed, catalog.keys.snapshot, version=version, expires=catalog.expires)
    timestamp = sign_timestamp(
        snapshot, catalog.keys.timestamp, snapshot_version=version, version=version, expires=catalog.expires
    )
    names = ("image/targets.json", "image/snapshot.json", "image/timestamp.json")
    catalog.files |= dict(zip(names, (forged, snapshot, timestamp), strict=True))
    assert_refused(device, Cause.VERIFY, "signed")


def test_director_metadata_by_unknown_key_is_refused(device: Updated) -> None:
    """Somebody between service and device signs the Director's metadata."""
    device.catalog.direct({}, "")
    object.__setattr__(device.catalog.keys, "director", SoftwareSigner.generate())
    offer(device, device.model(version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "signed")


def test_lower_security_counter_is_refused(device: Updated) -> None:
    """An older image comes back in a newer release."""
    raised = device.model(version="3.0.0", security=4)
    offer(device, raised)
    device.run()
    assert device.machine.rot.fuse(SLOT) == 4
    device.catalog.action_id = "44444444-4444-4444-8444-444444444444"
    offer(device, device.model(version="3.1.0", security=3), counter=LEGITIMATE_COUNTER + 2)
    digests = device.digests()
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.FAILED, Cause.VERIFY)
    assert "security counter: expected at least 4, found 3" in report.detail
    assert (report.attack, last_manifest(device).attack) == (Attack.ROLLBACK, Attack.ROLLBACK)
    assert device.digests() == digests


def test_lower_release_counter_is_refused(device: Updated) -> None:
    """The Director goes back to a release that is older than the device's."""
    offer(device, device.model(version="1.9.0"), counter=LEGITIMATE_COUNTER - 1)
    assert_refused(device, Cause.VERIFY, "release counter: expected at least 5, found 4", Attack.ROLLBACK)


def test_security_counter_that_director_lowers_is_refused(device: Updated) -> None:
    """Director and Image repository name different security counters."""
    offer(device, device.model(version="3.0.0"))
    (target,) = device.catalog.director_targets
    target.unrecognized_fields["custom"]["security_counter"] = 9
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "security counter")


def test_frozen_metadata_is_refused(device: Updated) -> None:
    """The service's timestamps have expired by the device's own clock."""
    offer(device, device.model(version="3.0.0"))
    device.catalog.publish(expires=NOW.replace(hour=NOW.hour - 1))
    assert_refused(device, Cause.VERIFY, "expired", Attack.FREEZE)


@pytest.mark.parametrize("repository", ["director", "image"])
def test_older_metadata_is_refused(device: Updated, repository: str) -> None:
    """Metadata that the device has already superseded is replayed, signed and not expired."""
    old = {name: content for name, content in device.catalog.files.items() if name.startswith(repository)}
    offer(device, device.model(version="3.0.0"))
    for _ in device.client.run(SECOND_ACTION):
        if device.machine.spare.length:  # both repositories have been checked
            break
    device.catalog.files |= old
    device.restart()
    assert_refused(device, Cause.VERIFY, "BadVersionNumberError", Attack.ROLLBACK)


def test_mixed_versions_of_image_metadata_are_refused(device: Updated) -> None:
    """Targets of one version are served with the snapshot of another."""
    old_targets = device.catalog.files["image/targets.json"]
    offer(device, device.model(version="3.0.0"))
    device.catalog.files["image/targets.json"] = old_targets
    assert_refused(device, Cause.VERIFY, "LengthOrHashMismatchError", Attack.MIX_AND_MATCH)


def test_mixed_versions_of_director_metadata_are_refused(device: Updated) -> None:
    """The Director's targets of one version are served with the snapshot of another."""
    old_targets = device.catalog.files["director/targets.json"]
    offer(device, device.model(version="3.0.0"))
    device.catalog.files["director/targets.json"] = old_targets
    assert_refused(device, Cause.VERIFY, "BadVersionNumberError", Attack.MIX_AND_MATCH)


def test_wrong_hardware_is_refused(device: Updated) -> None:
    """The Director wants an image on a core that it is not made for."""
    offer(device, device.model(version="3.0.0"), hardware_ids=("mt3620-m4-1",))
    assert_refused(device, Cause.VERIFY, "expected hardware mt3620-m4-0", Attack.WRONG_HARDWARE)


def test_metadata_of_another_device_is_refused(device: Updated) -> None:
    """The Director's word for one device is served to another."""
    offer(device, device.model(version="3.0.0"))
    device.catalog.publish(device_id="f" * 128)
    assert_refused(device, Cause.VERIFY, "found ffffffffffffffff", Attack.WRONG_DEVICE)


def test_empty_metadata_of_another_device_is_refused(device: Updated) -> None:
    """Metadata that wants nothing names its device, too, so it can not hide an update."""
    device.catalog.director_targets = []
    device.catalog.publish(device_id="f" * 128)
    assert_refused(device, Cause.VERIFY, "found ffffffffffffffff", Attack.WRONG_DEVICE)


def test_slot_named_twice_is_refused(device: Updated) -> None:
    """The Director wants two images in one slot."""
    first, second = (offer(device, device.model(version=version)) for version in ("3.0.0", "3.1.0"))
    catalog = device.catalog
    catalog.direct({SLOT: first}, catalog.add_release({SLOT: first}, counter=7))
    kept = catalog.director_targets
    catalog.direct({SLOT: second}, catalog.add_release({SLOT: second}, counter=8))
    catalog.director_targets += kept
    catalog.publish()
    assert_refused(device, Cause.VERIFY, "found it twice")


def test_delegation_by_director_is_refused(device: Updated) -> None:
    """The Director's targets delegate to somebody else."""
    offer(device, device.model(version="3.0.0"))
    metadata = Metadata[Targets].from_bytes(device.catalog.files["director/targets.json"])
    metadata.signed.delegations = Delegations({}, {})
    metadata.sign(TufSigner(device.catalog.keys.director))
    device.catalog.files["director/targets.json"] = metadata.to_bytes()
    assert_refused(device, Cause.VERIFY, "expected no delegations")


def test_director_hash_that_image_repository_does_not_have_is_refused(device: Updated) -> None:
    """Director and Image repository name different bytes under one name."""
    target = offer(device, device.model(version="3.0.0"))
    other = device.model(version="3.0.1")
    wanted = content_target(target, other)
    wanted.unrecognized_fields = device.catalog.director_targets[0].unrecognized_fields
    device.catalog.director_targets = [wanted]
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "expected equal length and hashes")


def test_release_that_does_not_name_the_image_is_refused(device: Updated) -> None:
    """The Director pairs an image with a release that it does not belong to."""
    first = offer(device, device.model(version="3.0.0"))
    release = device.catalog.add_release({SLOT: first}, counter=7)
    second = offer(device, device.model(version="3.1.0"), counter=8)
    device.catalog.direct({SLOT: second}, release)
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "release models: expected", Attack.MIX_AND_MATCH)


def test_swapped_release_document_is_refused(device: Updated) -> None:
    """The service serves another document under a release's hash."""
    offer(device, device.model(version="3.0.0"))
    name = next(name for name in device.catalog.targets if name.startswith("releases/6-"))
    digest = device.catalog.targets[name].hashes["sha256"]
    honest = parse_document(device.catalog.artifacts[digest], ReleaseDocument)
    device.catalog.artifacts[digest] = canonical_json(honest.model_copy(update={"counter": 7}))
    assert_refused(device, Cause.VERIFY, name)


def test_endless_image_is_refused(device: Updated) -> None:
    """The service goes on sending after the image's end."""
    offer(device, device.model(version="3.0.0"))
    for digest, content in device.catalog.artifacts.items():
        device.catalog.artifacts[digest] = content + bytes(len(content)) if _is_image(device, digest) else content
    device.wire.hook = lambda path, _headers: (
        device.wire.serve_whole(path) if _is_image(device, path.removeprefix(ARTIFACTS)) else None
    )
    assert_refused(device, Cause.DOWNLOAD, "found more", Attack.ENDLESS_DATA)


def _is_image(device: Updated, digest: str) -> bool:
    images = (target for name, target in device.catalog.targets.items() if name.startswith("images/"))
    return digest in [target.hashes["sha256"] for target in images]


@pytest.mark.parametrize("file", ["director/timestamp.json", "director/targets.json", "image/snapshot.json"])
def test_endless_metadata_is_refused(device: Updated, file: str) -> None:
    """The service goes on sending after the metadata's longest length."""
    offer(device, device.model(version="3.0.0"))
    device.catalog.files[file] += b" " * 5_000_000
    assert_refused(device, Cause.VERIFY, "found more", Attack.ENDLESS_DATA)


def test_slow_retrieval_is_refused(device: Updated) -> None:
    """The service sends so slowly that no request ends in its time."""
    offer(device, device.model(version="3.0.0"))
    device.wire.hook = lambda path, _headers: (
        SlowRetrievalError("expected the whole answer within 30 s, found less") if path.startswith(ARTIFACTS) else None
    )
    assert_refused(device, Cause.DOWNLOAD, "within 30 s", Attack.SLOW_RETRIEVAL)


def test_missing_image_fails_without_alarm(device: Updated) -> None:
    """An image that the service does not have is a failure, but no sign of an attack."""
    package = device.model(version="3.0.0")
    offer(device, package)
    del device.catalog.artifacts[hashlib.sha256(package).hexdigest()]
    assert_refused(device, Cause.DOWNLOAD, "found nothing", None)


def test_golden_vectors_by_unknown_key_are_refused(device: Updated) -> None:
    """The author of a model signs golden vectors that it passes."""
    package = device.model(version="3.0.0")
    golden = device.catalog.add_golden(info_of(package).component_id, key=SoftwareSigner.generate())
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)}, counter=6)
    assert_refused(device, Cause.VERIFY, "trusted keys")


def test_golden_vectors_of_another_component_are_refused(device: Updated) -> None:
    """A model is to be judged by the vectors of something easier."""
    package = device.model(version="3.0.0")
    theirs = device.catalog.targets.pop(device.catalog.add_golden("55555555-5555-4555-8555-555555555555"))
    golden = golden_target_name(info_of(package).component_id, theirs.hashes["sha256"])
    device.catalog.targets[golden] = TargetFile(theirs.length, theirs.hashes, golden)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)}, counter=6)
    assert_refused(device, Cause.VERIFY, "golden vectors: expected component")


def test_model_without_golden_vectors_is_refused(device: Updated) -> None:
    """A model is to run without being judged."""
    package = device.model(version="3.0.0")
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package)}, counter=6)
    assert_refused(device, Cause.VERIFY, "expected golden vectors")


def test_target_without_custom_metadata_is_refused(device: Updated) -> None:
    """The Director's target does not say which slot it is for."""
    target = offer(device, device.model(version="3.0.0"))
    image = device.catalog.targets[target]
    device.catalog.director_targets = [TargetFile(image.length, image.hashes, image.path)]
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "DirectorCustom")


def test_manifest_counter_rises_with_every_manifest(device: Updated) -> None:
    """A replayed manifest can be told from a new one."""
    offer(device, device.model(version="3.0.0"))
    first = last_manifest(device).counter
    device.run()
    assert last_manifest(device).counter == first + 1
    assert last_manifest(device).images == device.digests()
