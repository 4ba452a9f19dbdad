"""Attacks on which images run together: incomplete releases, mixed ones, older images, unmet requirements."""

import hashlib
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from device_sim.network.ports import FalseServerError
from protocol.geometry import Slot
from protocol.messages import ActionState, Attack, Cause
from protocol.updates import ImageCustom, image_target_name
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
from tests.unit.device_update.update_builder import Updated, info_of

OTHER = Slot.M4_1_MODEL
APPLICATION = Slot.A7_APPLICATION
NEXT = LEGITIMATE_COUNTER + 1
THIRD_ACTION = "44444444-4444-4444-8444-444444444444"


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update."""
    return updated_device(tmp_path)


def add_model(device: Updated, slot: Slot, version: str, **custom: object) -> str:
    package = device.model(slot, version=version)
    golden = device.catalog.add_golden(info_of(package).component_id)
    return device.catalog.add_image(slot, package, golden=golden, **custom)


def installs(device: Updated) -> None:
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED, device.wire.reports[-1].detail


def test_release_of_two_images_installs(device: Updated) -> None:
    """The whole of a release is there."""
    targets = {slot: add_model(device, slot, "3.0.0") for slot in (SLOT, OTHER)}
    device.catalog.roll_out(targets, counter=NEXT)
    installs(device)


def test_partial_bundle_is_refused(device: Updated) -> None:
    """A stolen Director key leaves one image of a release out."""
    targets = {slot: add_model(device, slot, "3.0.0") for slot in (SLOT, OTHER)}
    release = device.catalog.add_release(targets, counter=NEXT)
    device.catalog.direct({SLOT: targets[SLOT]}, release)
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "expected an image for m4-1/model", Attack.PARTIAL_BUNDLE)


def test_images_of_two_releases_are_refused(device: Updated) -> None:
    """A stolen Director key mixes two releases, each of which is in order."""
    targets = {slot: add_model(device, slot, "3.0.0") for slot in (SLOT, OTHER)}
    catalog = device.catalog
    mixed = []
    for counter, slot in enumerate(targets, NEXT):
        catalog.direct({slot: targets[slot]}, catalog.add_release({slot: targets[slot]}, counter=counter))
        mixed += catalog.director_targets
    catalog.director_targets = mixed
    catalog.publish()
    assert_refused(device, Cause.VERIFY, "expected one release", Attack.MIX_AND_MATCH)


def test_image_that_the_release_does_not_hold_is_refused(device: Updated) -> None:
    """A stolen Director key adds an image to a release."""
    targets = {slot: add_model(device, slot, "3.0.0") for slot in (SLOT, OTHER)}
    release = device.catalog.add_release({SLOT: targets[SLOT]}, counter=NEXT)
    device.catalog.direct(targets, release)
    device.catalog.publish()
    assert_refused(device, Cause.VERIFY, "expected no image for m4-1/model", Attack.MIX_AND_MATCH)


def test_system_slot_is_refused(device: Updated) -> None:
    """No release brings a boot chain over the air."""
    target = device.catalog.add_image(Slot.OS, device.builder.packages.image(Slot.OS, version="9.0.0"))
    device.catalog.roll_out({Slot.OS: target}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "expected a slot that is updated, found os", Attack.WRONG_HARDWARE)


def test_image_of_another_slot_of_its_kind_is_refused(device: Updated) -> None:
    """Both cores run models; one's image must not come into the other."""
    package = device.model(OTHER, version="3.0.0")
    target = device.catalog.add_image(OTHER, package, hardware_ids=("mt3620-m4-0", "mt3620-m4-1"))
    device.catalog.roll_out({SLOT: target}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "expected a target named for it", Attack.WRONG_HARDWARE)


def test_older_image_in_a_newer_release_is_refused(device: Updated) -> None:
    """Every counter is in order, but the image is older than the one it replaces."""
    offer(device, device.model(version="1.9.0"))
    assert_refused(device, Cause.VERIFY, "expected nothing older than colour@2.0.0", Attack.ROLLBACK)


def test_release_that_goes_back_brings_an_older_image(device: Updated) -> None:
    """The offline keys say which image may be replaced by an older one."""
    target = add_model(device, SLOT, "1.9.0")
    device.catalog.roll_out({SLOT: target}, counter=NEXT, goes_back={SLOT: (device.digests()[SLOT],)})
    installs(device)
    assert device.machine.installed()[SLOT].name == "colour@1.9.0"


def test_release_that_goes_back_from_another_image_is_refused(device: Updated) -> None:
    """A way back counts only from the image that it names."""
    target = add_model(device, SLOT, "1.9.0")
    device.catalog.roll_out({SLOT: target}, counter=NEXT, goes_back={SLOT: ("0" * 64,)})
    assert_refused(device, Cause.VERIFY, "or a release that goes back from it", Attack.ROLLBACK)


def test_device_with_an_unlisted_newer_image_is_healed_by_a_release_that_names_it(device: Updated) -> None:
    """Somebody flashed a signed image that no release lists: an older one comes in its place by the operator's word."""
    unlisted = device.model(version="9.0.0")
    device.machine.flash_factory({SLOT: unlisted})
    device.restart()
    target = add_model(device, SLOT, "3.0.0")
    device.catalog.roll_out({SLOT: target}, counter=NEXT)
    assert_refused(device, Cause.VERIFY, "expected nothing older than colour@9.0.0", Attack.ROLLBACK)
    device.catalog.action_id = THIRD_ACTION
    device.catalog.roll_out({SLOT: target}, counter=NEXT + 1, goes_back={SLOT: (device.digests()[SLOT],)})
    installs(device)
    assert device.machine.installed()[SLOT].name == "colour@3.0.0"


def test_image_whose_requirement_is_unmet_is_refused_before_its_download(device: Updated) -> None:
    """A model that needs a newer application than the device has."""
    package = device.model(version="3.0.0")
    offer(device, package, requires={"application": ">=2.0"})
    assert_refused(device, Cause.REQUIREMENT, "expected application >=2.0, found application@1.0.0", None)
    assert ARTIFACTS + hashlib.sha256(package).hexdigest() not in device.wire.requests


def test_requirement_is_met_by_the_same_release(device: Updated) -> None:
    """A model comes together with the application that it needs."""
    application = device.builder.packages.image(APPLICATION, version="2.0.0")
    targets = {
        SLOT: add_model(device, SLOT, "3.0.0", requires={"application": ">=2.0"}),
        APPLICATION: device.catalog.add_image(APPLICATION, application),
    }
    device.catalog.roll_out(targets, counter=NEXT)
    installs(device)


@pytest.mark.parametrize("slot", [SLOT, OTHER], ids=["installed", "factory"])
def test_update_that_breaks_what_another_image_requires_is_refused(device: Updated, slot: Slot) -> None:
    """What an installed image needs is the Image repository's word, also of an image that the factory flashed."""
    held, catalog = device.machine.installed()[slot], device.catalog
    custom = ImageCustom(
        slot_kind=slot.kind,
        hardware_ids=(slot.core.hardware_id,),
        component_id=held.component_id,
        image_id=held.image_id,
        name=held.name,
        security_counter=held.security_version,
        requires={"application": "<2"},
    )
    name = image_target_name(slot, held.image_id)
    catalog.targets[name] = TargetFile(1, {"sha256": held.digest}, name, {"custom": custom.model_dump(mode="json")})
    package = device.builder.packages.image(APPLICATION, version="2.0.0")
    catalog.roll_out({APPLICATION: catalog.add_image(APPLICATION, package)}, counter=NEXT)
    assert_refused(device, Cause.REQUIREMENT, "expected application <2, found application@2.0.0", None)


def test_false_server_is_told_of_when_the_service_is_back(device: Updated) -> None:
    """Eavesdropping: TLS shows somebody else, to whom nothing was sent; the update goes on with the service."""
    offer(device, device.model(version="3.0.0"))
    answers = iter([FalseServerError("expected a certificate of the service, found another")])
    device.wire.hook = lambda path, _headers: next(answers, None) if path.startswith(ARTIFACTS) else None
    installs(device)
    manifest = last_manifest(device)
    assert manifest.attack is Attack.EAVESDROP
    assert manifest.attack_indicator.startswith("FalseServerError: expected a certificate of the service")
    assert device.wire.reports[-1].action_id == SECOND_ACTION
    device.progress.manifest_due()
    device.progress.send(device.wire)
    assert last_manifest(device).attack is Attack.EAVESDROP  # until the next action ends
