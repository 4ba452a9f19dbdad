"""Delegated roles on the device: teams, hash bins, and what their keys do not reach."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Delegations, MetaFile, TargetFile

from device_sim.update.repository import CONFIG, MAX_KEPT_DELEGATED, MetadataStore
from pki.metadata import (
    BINS_PATHS,
    BINS_ROLE,
    Delegation,
    RoleKeys,
    add_signature,
    bin_delegations,
    listed_file,
    role_delegations,
    sign_snapshot,
    sign_targets,
    sign_timestamp,
    targets_metadata,
)
from protocol.geometry import Slot
from protocol.messages import ActionState, Attack, Cause
from protocol.signing import SoftwareSigner
from protocol.updates import image_target_name
from tests.attack.update_refusals import LEGITIMATE_COUNTER, SLOT, assert_refused, updated_device
from tests.unit.device_update.update_builder import NOW, Updated, info_of

NEXT = LEGITIMATE_COUNTER + 1
TEAM = "vision"
PATHS = ("images/m4-0/model/*", "golden/*/*")
EXPIRES = NOW + timedelta(days=1)
BITS = 12  # 4,096 hash bins


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update."""
    return updated_device(tmp_path)


@pytest.fixture
def team() -> SoftwareSigner:
    """The team's key."""
    return SoftwareSigner.generate()


def delegate(device: Updated, team: SoftwareSigner, *, paths: tuple[str, ...] = PATHS) -> None:
    device.catalog.delegations = role_delegations([Delegation(TEAM, (team.public_key,), 1, paths)])


def taken_over(device: Updated, *names: str) -> list[TargetFile]:
    """Take targets out of the top-level role, for another to list."""
    return [device.catalog.targets.pop(name) for name in names]


def add_model(device: Updated, slot: Slot = SLOT, version: str = "3.0.0", **custom: object) -> tuple[str, str]:
    """A model and its golden vectors; their target names."""
    package = device.model(slot, version=version)
    golden = device.catalog.add_golden(info_of(package).component_id)
    return device.catalog.add_image(slot, package, golden=golden, **custom), golden


def installs(device: Updated) -> None:
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED, device.wire.reports[-1].detail


def test_team_brings_its_image(device: Updated, team: SoftwareSigner) -> None:
    """What the team may sign is as good as what the offline key signs."""
    delegate(device, team)
    image, golden = add_model(device)
    device.catalog.roles[TEAM] = sign_targets(taken_over(device, image, golden), team, version=1, expires=EXPIRES)
    device.catalog.roll_out({SLOT: image}, counter=NEXT)
    installs(device)


def test_team_beyond_its_paths_is_refused(device: Updated, team: SoftwareSigner) -> None:
    """A stolen team key lists an application; nobody asks the team for one."""
    delegate(device, team)
    application = device.builder.packages.image(Slot.A7_APPLICATION, version="2.0.0")
    image = device.catalog.add_image(Slot.A7_APPLICATION, application)
    device.catalog.roles[TEAM] = sign_targets(taken_over(device, image), team, version=1, expires=EXPIRES)
    device.catalog.roll_out({Slot.A7_APPLICATION: image}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "expected it in the Image repository, found nothing")


def test_team_with_a_foreign_image_under_its_own_name_is_refused(device: Updated, team: SoftwareSigner) -> None:
    """A stolen team key and a stolen Director key: the name is the team's, the slot is not."""
    delegate(device, team)
    image, golden = add_model(device, hardware_ids=("mt3620-m4-0", "mt3620-m4-1"))
    device.catalog.roles[TEAM] = sign_targets(taken_over(device, image, golden), team, version=1, expires=EXPIRES)
    device.catalog.roll_out({Slot.M4_1_MODEL: image}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "expected a target named for it", Attack.WRONG_HARDWARE)


def test_team_without_package_key_gets_nothing_to_run(device: Updated, team: SoftwareSigner) -> None:
    """A stolen team key lists bytes that no package key signed."""
    delegate(device, team)
    packages = replace(device.builder.packages, keys=replace(device.builder.packages.keys, package=team))
    package = packages.model(SLOT, version="3.0.0")
    golden = device.catalog.add_golden(info_of(package).component_id)
    image = device.catalog.add_image(SLOT, package, golden=golden)
    device.catalog.roles[TEAM] = sign_targets(taken_over(device, image, golden), team, version=1, expires=EXPIRES)
    device.catalog.roll_out({SLOT: image}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "trusted keys")


def test_team_metadata_by_too_few_is_refused(device: Updated, team: SoftwareSigner) -> None:
    """The team needs two signatures, and one key was stolen."""
    second = SoftwareSigner.generate()
    both = Delegation(TEAM, (team.public_key, second.public_key), 2, PATHS)
    device.catalog.delegations = role_delegations([both])
    image, golden = add_model(device)
    unsigned = targets_metadata(taken_over(device, image, golden), version=1, expires=EXPIRES)
    once = add_signature(unsigned, team)
    device.catalog.roles[TEAM] = once
    device.catalog.roll_out({SLOT: image}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "UnsignedMetadataError")
    device.catalog.action_id = "44444444-4444-4444-8444-444444444444"
    device.catalog.roles[TEAM] = add_signature(once, second)
    device.catalog.publish()
    installs(device)


@pytest.mark.parametrize("attack", ["older", "forgotten", "other bytes"])
def test_stolen_online_keys_do_not_take_a_team_back(device: Updated, team: SoftwareSigner, attack: str) -> None:
    """Snapshot and timestamp key are stolen: an older version of a team's targets, none, or another file."""
    delegate(device, team)
    catalog = device.catalog
    image, golden = add_model(device)
    listed = taken_over(device, image, golden)
    catalog.roles[TEAM] = sign_targets(listed, team, version=2, expires=EXPIRES)
    catalog.roll_out({SLOT: image}, counter=NEXT)
    installs(device)
    catalog.action_id = "44444444-4444-4444-8444-444444444444"
    catalog.publish()
    old = sign_targets(listed[:0], team, version=1, expires=EXPIRES)
    shown = {"older": {TEAM: listed_file(old, version=1)}, "forgotten": {}, "other bytes": {TEAM: MetaFile(3)}}[attack]
    sign_online(device, shown)
    catalog.files[f"image/{TEAM}.json"] = old
    digests = device.digests()
    device.run()
    report = device.wire.reports[-1]
    expected = {"older": Attack.ROLLBACK, "forgotten": Attack.ROLLBACK, "other bytes": Attack.MIX_AND_MATCH}[attack]
    assert (report.state, report.attack) == (ActionState.FAILED, expected)
    assert device.digests() == digests


def sign_online(device: Updated, roles: dict[str, MetaFile]) -> None:
    """Sign snapshot and timestamp over the top-level targets in force and whatever is said of other roles."""
    catalog = device.catalog
    version = catalog.version + 1
    top = listed_file(catalog.files["image/targets.json"], version=catalog.version)
    files = {"targets": top, **roles}
    snapshot = sign_snapshot(files, catalog.keys.snapshot, version=version, expires=EXPIRES)
    timestamp = sign_timestamp(
        snapshot, catalog.keys.timestamp, snapshot_version=version, version=version, expires=EXPIRES
    )
    catalog.files |= {"image/snapshot.json": snapshot, "image/timestamp.json": timestamp}


class Bins:
    """4,096 hash bins below the top-level targets."""

    def __init__(self, device: Updated) -> None:
        keys = device.catalog.keys.targets
        self.device = device
        self.keys = keys
        self.delegations = bin_delegations(RoleKeys((keys.public_key,)), bits=BITS)
        device.catalog.delegations = role_delegations([Delegation(BINS_ROLE, (keys.public_key,), 1, BINS_PATHS)])
        device.catalog.roles[BINS_ROLE] = sign_targets(
            [], keys, version=1, expires=EXPIRES, delegations=self.delegations
        )

    def name_for(self, target: str) -> str:
        assert self.delegations.succinct_roles is not None
        return self.delegations.succinct_roles.get_role_for_target(target)

    def fill(self, targets: list[TargetFile], *, signer: SoftwareSigner | None = None, into: str = "") -> None:
        """Sign the bins of targets; `into` puts all of them into one."""
        by_bin: dict[str, list[TargetFile]] = {}
        for target in targets:
            by_bin.setdefault(into or self.name_for(target.path), []).append(target)
        for name, content in by_bin.items():
            self.device.catalog.roles[name] = sign_targets(content, signer or self.keys, version=1, expires=EXPIRES)

    def list_all(self) -> None:
        """Publish a snapshot that lists every bin, each with its length and hash; most are empty."""
        assert self.delegations.succinct_roles is not None
        catalog = self.device.catalog
        empty = sign_targets([], self.keys, version=1, expires=EXPIRES)
        every = [*self.delegations.succinct_roles.get_roles()]
        sign_online(self.device, {**dict.fromkeys(every, listed_file(empty, version=1)), **catalog.listed_roles()})
        catalog.files = {f"image/{name}.json": empty for name in every} | catalog.files
        catalog.version += 1


def test_image_comes_through_one_of_4096_bins(device: Updated) -> None:
    """The snapshot lists every bin; the device reads those of what it gets and of what it runs, each once."""
    bins = Bins(device)
    image, golden = add_model(device)
    bins.fill(taken_over(device, image, golden))
    device.catalog.roll_out({SLOT: image}, counter=NEXT)
    bins.list_all()
    assert 256 * 1024 < len(device.catalog.files["image/snapshot.json"]) < CONFIG.snapshot_max_length
    installed = [image_target_name(slot, held.image_id) for slot, held in device.machine.installed().items()]
    installs(device)
    fetched = [path.rpartition("/")[2].removesuffix(".json") for path in device.wire.requests if "image/bin-" in path]
    needed = {bins.name_for(name) for name in (image, golden, *installed) if name not in device.catalog.targets}
    assert sorted(fetched) == sorted(needed)


def test_bin_by_unknown_key_is_refused(device: Updated) -> None:
    """Stolen online keys list a bin that the offline key did not sign."""
    bins = Bins(device)
    image, golden = add_model(device)
    bins.fill(taken_over(device, image, golden), signer=SoftwareSigner.generate())
    device.catalog.roll_out({SLOT: image}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "UnsignedMetadataError")


def test_target_in_a_bin_that_is_not_its_own_is_refused(device: Updated) -> None:
    """A name belongs to the bin that its hash says."""
    bins = Bins(device)
    image, golden = add_model(device)
    wrong = next(name for name in ("bin-000", "bin-001") if name != bins.name_for(image))
    bins.fill(taken_over(device, image), into=wrong)
    bins.fill([*taken_over(device, golden)])
    own = sign_targets([], bins.keys, version=1, expires=EXPIRES)
    device.catalog.roles.setdefault(bins.name_for(image), own)
    device.catalog.roll_out({SLOT: image}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "expected it in the Image repository, found nothing")


@pytest.mark.parametrize("shape", ["chain", "circle"])
def test_too_many_delegations_are_refused(device: Updated, team: SoftwareSigner, shape: str) -> None:
    """Roles that delegate on and on, or to one another: the device stops, whatever is behind them."""
    catalog = device.catalog
    names = [f"role-{number}" for number in range(CONFIG.max_delegations + 2)]
    image, golden = add_model(device)
    taken_over(device, golden)
    (target,) = taken_over(device, image)
    catalog.delegations = to_role(names[0], team)
    follower = {"chain": names[1:], "circle": [names[1], names[0]]}[shape]
    for name, following in zip(names, follower, strict=False):
        catalog.roles[name] = sign_targets([], team, version=1, expires=EXPIRES, delegations=to_role(following, team))
    if shape == "chain":
        catalog.roles[names[-1]] = sign_targets([target], team, version=1, expires=EXPIRES)
    catalog.targets[image] = target
    catalog.direct({SLOT: image}, catalog.add_release({SLOT: image}, counter=NEXT))
    del catalog.targets[image]
    catalog.publish()
    assert_refused(device, Cause.VERIFY, "expected it in the Image repository, found nothing")
    assert len([path for path in device.wire.requests if "/role-" in path]) <= 2 * CONFIG.max_delegations


def to_role(name: str, key: SoftwareSigner) -> Delegations:
    return role_delegations([Delegation(name, (key.public_key,), 1, PATHS)])


def test_storage_keeps_few_delegated_roles(device: Updated) -> None:
    """A device that needed many bins over the years does not keep them all; the top-level roles stay."""
    store = MetadataStore(device.machine.storage, "uptane/image", anchor=device.catalog.image_root)
    store.begin_check()
    for number in range(MAX_KEPT_DELEGATED + 5):
        store.write(f"bin-{number}", b"{}")
    store.begin_check()
    store.write("bin-7", b"{}")
    store.save()
    kept = MetadataStore(device.machine.storage, "uptane/image", anchor=device.catalog.image_root)
    assert [number for number in range(40) if kept.read(f"bin-{number}")] == [7]
    assert all(kept.read(role) for role in ("root", "timestamp", "snapshot", "targets"))
