"""Root rotation as an old device follows it: step by step, in both repositories, and what it refuses on the way."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from pki.metadata import DirectorSigner, RoleKeys, add_signature, next_root, root_metadata
from protocol.messages import ActionState, Attack, Cause
from protocol.signing import SoftwareSigner
from protocol.updates import DirectorDevice
from tests.attack.update_refusals import SECOND_ACTION, assert_refused, offer, updated_device
from tests.unit.device_update.update_builder import NOW, Updated

FAR = NOW + timedelta(days=365)
ONLINE = ("timestamp", "snapshot", "targets")
REPOSITORIES = ("director", "image")
THIRD_ACTION = "44444444-4444-4444-8444-444444444444"


class Roots:
    """Both repositories' roots, as the people of a ceremony rotate them."""

    def __init__(self, device: Updated) -> None:
        self.catalog = device.catalog
        self.current = {"director": device.catalog.director_root, "image": device.catalog.image_root}
        self.signers: dict[str, list[SoftwareSigner]] = {name: [device.catalog.keys.root] for name in REPOSITORIES}

    def rotate(
        self,
        repository: str,
        changed: dict[str, RoleKeys] | None = None,
        *,
        new_root: list[SoftwareSigner] | None = None,
        threshold: int = 1,
        expires: datetime = FAR,
    ) -> int:
        """Publish the next root, signed by the keys of the last one and its own; returns its version."""
        signers = new_root or self.signers[repository]
        root = RoleKeys(tuple(signer.public_key for signer in signers), threshold)
        last = Metadata[Root].from_bytes(self.current[repository]).signed
        content = next_root(last, {**(changed or {}), "root": root} if new_root else changed or {}, expires=expires)
        for signer in {id(each): each for each in (*self.signers[repository], *signers)}.values():
            content = add_signature(content, signer)
        self.current[repository], self.signers[repository] = content, signers
        version = last.version + 1
        self.catalog.files[f"{repository}/{version}.root.json"] = content
        return version

    def renew_online(self) -> None:
        """Give every online role of both repositories, and the Image targets, new keys."""
        fresh = {name: SoftwareSigner.generate() for name in ("director", "targets", "snapshot", "timestamp")}
        self.catalog.keys = replace(self.catalog.keys, **fresh)
        self.rotate("director", dict.fromkeys(ONLINE, RoleKeys((fresh["director"].public_key,))))
        self.rotate("image", {role: RoleKeys((fresh[role].public_key,)) for role in ONLINE})


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update."""
    return updated_device(tmp_path)


def installs(device: Updated) -> None:
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED, device.wire.reports[-1].detail


def test_old_device_follows_every_rotation_of_both_repositories(device: Updated) -> None:
    """It slept while root keys, thresholds and online keys changed, some twice; then it updates."""
    roots = Roots(device)
    for repository in REPOSITORIES:
        people = [SoftwareSigner.generate() for _ in range(3)]
        roots.rotate(repository, new_root=people, threshold=2)
        roots.rotate(repository)
        roots.rotate(repository, new_root=[SoftwareSigner.generate()])
    roots.renew_online()
    offer(device, device.model(version="3.0.0"))
    installs(device)
    for repository in REPOSITORIES:
        asked = [path for path in device.wire.requests if path.endswith(".root.json") and f"/{repository}/" in path]
        assert [path.rpartition("/")[2] for path in asked][-5:] == [f"{number}.root.json" for number in (2, 3, 4, 5, 6)]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_expired_root_on_the_way_is_followed(device: Updated, repository: str) -> None:
    """TUF 5.3.10: only the last root's expiry counts, or a device that slept for a year were lost."""
    roots = Roots(device)
    roots.rotate(repository, expires=NOW - timedelta(days=30))
    roots.rotate(repository)
    offer(device, device.model(version="3.0.0"))
    installs(device)


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_expired_last_root_is_refused(device: Updated, repository: str) -> None:
    """Freeze: the newer root is held back."""
    Roots(device).rotate(repository, expires=NOW - timedelta(seconds=1))
    offer(device, device.model(version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "Final root.json is expired", Attack.FREEZE)


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_skipped_root_is_refused(device: Updated, repository: str) -> None:
    """Version 3 in the place of version 2, so that the device never sees the keys that version 2 revoked."""
    roots = Roots(device)
    roots.rotate(repository)
    roots.rotate(repository)
    device.catalog.files[f"{repository}/2.root.json"] = device.catalog.files.pop(f"{repository}/3.root.json")
    offer(device, device.model(version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "Expected root version 2", Attack.ROLLBACK)


@pytest.mark.parametrize("signed", ["by the old alone", "by the new alone", "by one of two"])
def test_root_by_too_few_is_refused(device: Updated, signed: str) -> None:
    """A new root needs the threshold of the old keys and of its own."""
    old, new, second = device.catalog.keys.root, SoftwareSigner.generate(), SoftwareSigner.generate()
    last = Metadata[Root].from_bytes(device.catalog.image_root).signed
    people = RoleKeys((new.public_key, second.public_key), 2) if "two" in signed else RoleKeys((new.public_key,))
    content = next_root(last, {"root": people}, expires=FAR)
    for signer in {"by the old alone": [old], "by the new alone": [new], "by one of two": [old, new]}[signed]:
        content = add_signature(content, signer)
    device.catalog.files["image/2.root.json"] = content
    offer(device, device.model(version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "UnsignedMetadataError")


def test_stolen_director_key_is_worthless_after_its_rotation(device: Updated) -> None:
    """The operator rotates; the thief goes on signing, with versions as high as he likes."""
    stolen = device.catalog.keys.director
    roots = Roots(device)
    roots.renew_online()
    offer(device, device.model(version="3.0.0"))
    installs(device)
    device.catalog.action_id = THIRD_ACTION
    named = DirectorDevice(device_id=device.catalog.device_id, action_id=THIRD_ACTION)
    forged = DirectorSigner(stolen).sign_set(
        named, device.catalog.director_targets, version=10**9, expires=device.catalog.expires
    )
    kept = dict(device.catalog.files)
    device.catalog.files |= {
        "director/targets.json": forged.targets,
        "director/snapshot.json": forged.snapshot,
        "director/timestamp.json": forged.timestamp,
    }
    digests = device.digests()
    device.run()
    report = device.wire.reports[-1]
    assert (report.action_id, report.state, report.attack) == (
        THIRD_ACTION,
        ActionState.FAILED,
        Attack.ARBITRARY_SOFTWARE,
    )
    assert device.digests() == digests
    device.catalog.files = kept
    device.catalog.action_id = SECOND_ACTION
    device.catalog.publish()
    device.run()
    assert device.digests() == digests


def test_one_of_the_image_targets_keys_alone_brings_nothing(device: Updated) -> None:
    """After the operator asked for two of three, one stolen key signs in vain, with every online key besides."""
    first, _, third = people = [SoftwareSigner.generate() for _ in range(3)]
    Roots(device).rotate("image", {"targets": RoleKeys(tuple(each.public_key for each in people), 2)})
    device.catalog.keys = replace(device.catalog.keys, targets=first)
    offer(device, device.model(version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "UnsignedMetadataError")
    device.catalog.action_id = THIRD_ACTION
    device.catalog.more_targets_keys = [third]
    device.catalog.publish()
    installs(device)


def test_stolen_targets_key_may_not_sign_a_root(device: Updated) -> None:
    """The targets key has no say about keys."""
    thief = device.catalog.keys.targets
    own = RoleKeys((thief.public_key,))
    content = add_signature(root_metadata(dict.fromkeys(("root", *ONLINE), own), expires=FAR, version=2), thief)
    device.catalog.files["image/2.root.json"] = content
    offer(device, device.model(version="3.0.0"))
    assert_refused(device, Cause.VERIFY, "UnsignedMetadataError")
