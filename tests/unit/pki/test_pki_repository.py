"""Update metadata of both repositories: signed, verified, refused."""

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from pki.errors import (
    MetadataExpiredError,
    MetadataSignatureError,
    MetadataVersionError,
    PkiError,
    RepositoryError,
)
from pki.metadata import (
    DirectorSigner,
    add_signature,
    content_target,
    director_root,
    director_target,
    image_root,
    listed_file,
    sign_snapshot,
    sign_targets,
    sign_timestamp,
)
from pki.next_versions import next_release_counter
from pki.repository import (
    MAX_METADATA_BYTES,
    RepositoryInForce,
    UnverifiedRepository,
    differences,
    verify_in_force,
    verify_root,
    verify_targets,
)
from protocol.geometry import Slot
from protocol.signing import TufSigner, tuf_key
from protocol.updates import (
    DEVICE_FIELD,
    DirectorCustom,
    DirectorDevice,
    ImageCustom,
    UpdateMetadataError,
    director_custom,
    image_target_name,
)
from tests.answering_roles import next_targets
from tests.unit.pki.pki_builder import NOW, OpaqueSigner

EXPIRES = NOW + timedelta(days=1)
COMPONENT = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"
IMAGE = "11a11404-de20-41c1-b66e-32354cb78e49"
CUSTOM = ImageCustom(
    slot_kind=Slot.M4_0_MODEL.kind,
    hardware_ids=("mt3620-m4-0",),
    component_id=COMPONENT,
    image_id=IMAGE,
    name="person@1.0.0",
    security_counter=3,
)
IMAGE_TARGET = content_target(image_target_name(Slot.M4_0_MODEL, IMAGE), b"package", CUSTOM.model_dump(mode="json"))


@dataclass
class Repository:
    """The Image repository's keys, and its files at version 1."""

    root: OpaqueSigner = field(default_factory=OpaqueSigner)
    targets: OpaqueSigner = field(default_factory=OpaqueSigner)
    snapshot: OpaqueSigner = field(default_factory=OpaqueSigner)
    timestamp: OpaqueSigner = field(default_factory=OpaqueSigner)

    def __post_init__(self) -> None:
        self.trusted_root = image_root(
            self.root,
            targets=self.targets.public_key,
            snapshot=self.snapshot.public_key,
            timestamp=self.timestamp.public_key,
            expires=NOW + timedelta(days=365),
        )

    def files(self, *, version: int = 1) -> UnverifiedRepository:
        targets = sign_targets([IMAGE_TARGET], self.targets, version=version, expires=EXPIRES)
        return self.above(targets, version=version)

    def above(self, targets: bytes, *, version: int = 1) -> UnverifiedRepository:
        snapshot = sign_snapshot(
            {"targets": listed_file(targets, version=version)}, self.snapshot, version=version, expires=EXPIRES
        )
        stamp = sign_timestamp(snapshot, self.timestamp, snapshot_version=version, version=version, expires=EXPIRES)
        return UnverifiedRepository([], stamp, snapshot, targets)

    def newer_root(self, *, version: int, signers: list[OpaqueSigner], root: OpaqueSigner) -> bytes:
        """The next root.json, whose root role is another key, signed by the given keys."""
        metadata: Metadata[Root] = Metadata.from_bytes(self.trusted_root)
        metadata.signed.version = version
        for key_id in list(metadata.signed.roles["root"].keyids):
            metadata.signed.revoke_key(key_id, "root")
        metadata.signed.add_key(tuf_key(root.public_key), "root")
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(TufSigner(signer), append=True)
        return metadata.to_bytes()


REPOSITORY = Repository()
FILES = REPOSITORY.files()


def _verify(unverified: UnverifiedRepository, **changes: object) -> RepositoryInForce:
    arguments = {"trusted_root": REPOSITORY.trusted_root, "now": NOW} | changes
    return verify_in_force(unverified, **arguments)  # type: ignore[arg-type]


def _with(role: str, content: bytes) -> UnverifiedRepository:
    return UnverifiedRepository(**{name: getattr(FILES, name) for name in FILES.__slots__} | {role: content})


def test_repository_is_verified_from_the_root_down() -> None:
    """What was signed comes back as types, its custom metadata with it."""
    in_force = _verify(FILES)
    assert in_force.targets.targets == {IMAGE_TARGET.path: IMAGE_TARGET}
    assert (in_force.root.version, in_force.root.consistent_snapshot) == (1, False)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_file_signed_by_another_key_is_refused(role: str) -> None:
    """Each role's key, and no other."""
    foreign = _with(role, getattr(Repository().files(), role))
    with pytest.raises(MetadataSignatureError, match=f"{role}: expected signatures by 1 of its keys"):
        _verify(foreign)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_file_of_another_role_is_refused(role: str) -> None:
    """A root in the place of any other file."""
    with pytest.raises(RepositoryError, match=f"{role}: expected metadata of this role, found root"):
        _verify(_with(role, REPOSITORY.trusted_root))


def test_freeze_is_refused() -> None:
    """At its expiry metadata is too old."""
    with pytest.raises(MetadataExpiredError, match="timestamp: expected an expiry after 2026-03-02"):
        _verify(FILES, now=EXPIRES)


def test_expired_root_is_refused() -> None:
    """An old root delegates nothing."""
    with pytest.raises(MetadataExpiredError, match="root: expected an expiry after"):
        _verify(FILES, now=NOW + timedelta(days=366))


def test_rollback_is_refused() -> None:
    """Targets that are older than the last that were seen."""
    with pytest.raises(MetadataVersionError, match="expected at least version 2, found 1"):
        _verify(FILES, minimum_versions={"targets": 2})


def test_mix_and_match_is_refused() -> None:
    """Validly signed targets that the snapshot does not name."""
    other = sign_targets([], REPOSITORY.targets, version=1, expires=EXPIRES)
    with pytest.raises(RepositoryError, match="targets: expected the file that is listed above it"):
        _verify(replace(FILES, targets=other))


def test_snapshot_that_lies_about_a_version_is_refused() -> None:
    """The right file under a wrong version."""
    files = {"targets": listed_file(FILES.targets, version=2)}
    snapshot = sign_snapshot(files, REPOSITORY.snapshot, version=1, expires=EXPIRES)
    stamp = sign_timestamp(snapshot, REPOSITORY.timestamp, snapshot_version=1, version=1, expires=EXPIRES)
    with pytest.raises(MetadataVersionError, match="targets: expected version 2, found 1"):
        _verify(replace(FILES, timestamp=stamp, snapshot=snapshot))


def test_snapshot_without_targets_is_refused() -> None:
    """A snapshot that names no targets.json leads nowhere."""
    snapshot = Metadata(Snapshot(1, expires=EXPIRES, meta={}))
    snapshot.sign(TufSigner(REPOSITORY.snapshot))
    content = snapshot.to_bytes()
    stamp = sign_timestamp(content, REPOSITORY.timestamp, snapshot_version=1, version=1, expires=EXPIRES)
    with pytest.raises(RepositoryError, match=r"snapshot: expected it to list targets\.json"):
        _verify(replace(FILES, timestamp=stamp, snapshot=content))


def test_oversize_metadata_is_refused() -> None:
    """Endless data is cut off before it is parsed."""
    with pytest.raises(RepositoryError, match="root: expected at most 16777216 bytes"):
        verify_root(bytes(MAX_METADATA_BYTES + 1), now=NOW)


def test_root_rotation_is_followed() -> None:
    """Each root is signed by the one before and by itself."""
    second = OpaqueSigner()
    newer = REPOSITORY.newer_root(version=2, signers=[REPOSITORY.root, second], root=second)
    assert verify_root(REPOSITORY.trusted_root, newer=[newer], now=NOW).version == 2


@pytest.mark.parametrize("side", ["old", "new"])
def test_root_signed_by_one_side_alone_is_refused(side: str) -> None:
    """Neither the old key nor the new one alone makes a root."""
    second = OpaqueSigner()
    signers = [REPOSITORY.root if side == "old" else second]
    newer = REPOSITORY.newer_root(version=2, signers=signers, root=second)
    with pytest.raises(MetadataSignatureError, match="root: expected signatures"):
        verify_root(REPOSITORY.trusted_root, newer=[newer], now=NOW)


def test_root_that_skips_a_version_is_refused() -> None:
    """Version 3 does not follow version 1."""
    newer = REPOSITORY.newer_root(version=3, signers=[REPOSITORY.root], root=REPOSITORY.root)
    with pytest.raises(MetadataVersionError, match="root: expected version 2, found 3"):
        verify_root(REPOSITORY.trusted_root, newer=[newer], now=NOW)


def test_next_targets_keep_everything_and_rise_by_one() -> None:
    """An addition that is there already changes nothing."""
    in_force = _verify(FILES)
    addition = content_target("releases/7-main.json", b"{}")
    files = next_targets(in_force, [addition, IMAGE_TARGET], expires=EXPIRES)
    content = add_signature(files["targets"], REPOSITORY.targets)
    proposed = verify_targets(content, root=in_force.root, now=NOW, version=2)
    changes = differences(in_force.targets, proposed)
    assert (changes.added, changes.changed, changes.removed) == (("releases/7-main.json",), (), ())
    assert (next_release_counter(in_force.targets), next_release_counter(proposed)) == (1, 8)


def test_target_never_changes_its_content() -> None:
    """The same name with other bytes is refused before anything is signed."""
    in_force = _verify(FILES)
    with pytest.raises(RepositoryError, match="expected a new name or equal content, found other content"):
        next_targets(in_force, [content_target(IMAGE_TARGET.path, b"other")], expires=EXPIRES)


def test_differences_name_what_changed_and_what_went() -> None:
    """For metadata that somebody else has signed."""
    current = _verify(FILES).targets
    proposed = Targets(2, expires=EXPIRES, targets={"x": content_target("x", b"x")})
    assert differences(current, proposed).removed == (IMAGE_TARGET.path,)
    altered = Targets(2, targets={IMAGE_TARGET.path: content_target(IMAGE_TARGET.path, b"other")})
    assert differences(current, altered).changed == (IMAGE_TARGET.path,)


def test_targets_of_another_version_are_refused() -> None:
    """A proposal must be exactly the next version."""
    in_force = _verify(FILES)
    with pytest.raises(MetadataVersionError, match="targets: expected version 2, found 1"):
        verify_targets(FILES.targets, root=in_force.root, now=NOW, version=2)
    assert verify_targets(FILES.targets, root=in_force.root, now=NOW).version == 1


def test_director_set_names_the_device_even_without_targets() -> None:
    """Another device's metadata cannot be passed off, nothing waiting included."""
    director = OpaqueSigner()
    root_signer = OpaqueSigner()
    root = verify_root(director_root(root_signer, director=director.public_key, expires=EXPIRES), now=NOW)
    files = DirectorSigner(director).sign_set(DirectorDevice(device_id="a" * 128), [], version=5, expires=EXPIRES)
    targets = verify_targets(files.targets, root=root, now=NOW, version=5)
    assert targets.unrecognized_fields[DEVICE_FIELD] == {
        "device_id": "a" * 128,
        "action_id": None,
        "order": "install",
        "shadow": None,
        "attempt": 1,
    }
    for content, role in ((files.snapshot, Snapshot), (files.timestamp, Timestamp)):
        metadata: Metadata[Any] = Metadata.from_bytes(content)
        assert isinstance(metadata.signed, role)
        root.verify_delegate(role.type, metadata.signed_bytes, metadata.signatures)
        assert metadata.signed.version == 5


def test_director_target_is_the_image_in_a_slot() -> None:
    """Same name, length and hash; the Director adds slot, hardware and release."""
    target = director_target(IMAGE_TARGET, slot=Slot.M4_0_MODEL, release="releases/1-main.json")
    assert (target.path, target.length, target.hashes) == (
        IMAGE_TARGET.path,
        IMAGE_TARGET.length,
        IMAGE_TARGET.hashes,
    )
    assert director_custom(target) == DirectorCustom(
        slot=Slot.M4_0_MODEL, hardware_id="mt3620-m4-0", security_counter=3, release="releases/1-main.json"
    )


def test_director_target_of_something_else_is_refused() -> None:
    """A release document is no image."""
    with pytest.raises(UpdateMetadataError, match="expected ImageCustom"):
        director_target(content_target("releases/1-a.json", b"{}"), slot=Slot.M4_0_MODEL, release="releases/1-a.json")


def test_signing_is_compact_and_sorted() -> None:
    """No white space: a device pays for every byte."""
    assert FILES.targets == json.dumps(json.loads(FILES.targets), separators=(",", ":"), sort_keys=True).encode()


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(unverified: bytes) -> None:
    """No input raises anything but PkiError."""
    for role in ("timestamp", "snapshot", "targets"):
        with pytest.raises(PkiError):
            _verify(_with(role, unverified))
    with pytest.raises(PkiError):
        verify_root(unverified, now=NOW)


@given(st.integers(min_value=0, max_value=len(FILES.targets) * 8 - 1))
def test_any_flipped_bit_of_targets_is_refused(bit: int) -> None:
    """By signature, or because it is no longer metadata."""
    flipped = bytearray(FILES.targets)
    flipped[bit // 8] ^= 1 << (bit % 8)
    root = verify_root(REPOSITORY.trusted_root, now=NOW)
    try:
        targets = verify_targets(bytes(flipped), root=root, now=NOW)
    except PkiError:
        return
    assert targets == _verify(FILES).targets  # the bit was in a field that nobody reads


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["timestamp", "snapshot", "targets"]),
    st.sampled_from(["version", "expires", "targets", "meta", "spec_version", "_type", "delegations", "new"]),
    JSON,
)
def test_any_json_in_any_field_gives_our_error(role: str, name: str, value: object) -> None:
    """Metadata that looks right but for one field."""
    content = json.loads(getattr(FILES, role))
    content["signed"][name] = value
    try:
        in_force = _verify(_with(role, json.dumps(content).encode()))
    except PkiError:
        return
    assert in_force == _verify(FILES)  # null in the place of a default
