"""A stolen team key together with the Director's: what the team may name reaches its own slot and nothing else."""

import hashlib
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from pki.metadata import Delegation, content_target, director_target, role_delegations, sign_targets
from protocol.document import canonical_json
from protocol.geometry import Slot
from protocol.messages import Cause
from protocol.signing import SoftwareSigner
from protocol.updates import (
    DocumentKind,
    ReleaseDocument,
    ReleaseImage,
    document_target_name,
    golden_target_name,
    image_target_name,
    release_target_name,
)
from tests.attack.update_refusals import LEGITIMATE_COUNTER, SLOT, assert_refused, updated_device
from tests.unit.device_update.update_builder import NOW, Updated, info_of

PATHS = ("images/m4-1/model/*", "golden/*/*", "documents/bom/*")  # of a team for the models of m4-1
COUNTER = LEGITIMATE_COUNTER + 1
FOREIGN = "66666666-6666-4666-8666-666666666666"


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update."""
    return updated_device(tmp_path)


def add_application(device: Updated) -> TargetFile:
    package = device.builder.packages.image(Slot.A7_APPLICATION, version="9.9.9")
    return device.catalog.targets.pop(device.catalog.add_image(Slot.A7_APPLICATION, package))


def renamed(target: TargetFile, name: str) -> TargetFile:
    return TargetFile(target.length, target.hashes, name, target.unrecognized_fields)


def release_of(slot: Slot, image: TargetFile) -> bytes:
    listed = ReleaseImage(target=image.path, sha256=image.hashes["sha256"], length=image.length)
    return canonical_json(ReleaseDocument(name="models", counter=COUNTER, images={slot: listed}))


def direct_by_thief(device: Updated, slot: Slot, image: TargetFile, *, release: str, team: list[TargetFile]) -> None:
    """Sign the team's targets and the Director's set as who holds both keys."""
    catalog, key = device.catalog, SoftwareSigner.generate()
    catalog.delegations = role_delegations([Delegation("vision", (key.public_key,), 1, PATHS)])
    catalog.roles["vision"] = sign_targets(team, key, version=1, expires=NOW.replace(year=NOW.year + 1))
    catalog.director_targets = [director_target(image, slot=slot, release=release)]
    catalog.publish()


@pytest.mark.parametrize("kind", ["golden", "bom"])
def test_release_document_among_a_teams_names_is_refused(device: Updated, kind: str) -> None:
    """A release is what the top-level role lists under a release's name."""
    application = add_application(device)
    document = release_of(Slot.A7_APPLICATION, application)
    sha256 = hashlib.sha256(document).hexdigest()
    device.catalog.artifacts[sha256] = document
    names = {"golden": golden_target_name(FOREIGN, sha256), "bom": document_target_name(DocumentKind.BOM, sha256)}
    release = content_target(names[kind], document)
    direct_by_thief(device, Slot.A7_APPLICATION, application, release=release.path, team=[release])
    assert_refused(device, Cause.VERIFY, "expected it in the Image repository, found nothing")


def test_release_document_under_another_name_is_refused(device: Updated) -> None:
    """The name says the counter, so that who lists targets sees which release it is."""
    application = add_application(device)
    device.catalog.targets[application.path] = application
    device.catalog.add("releases/7-models.json", release_of(Slot.A7_APPLICATION, application))
    direct_by_thief(device, Slot.A7_APPLICATION, application, release="releases/7-models.json", team=[])
    assert_refused(device, Cause.VERIFY, "release document releases/6-models.json: expected it under its own name")


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        (golden_target_name(FOREIGN, "0" * 64), "expected an image's name, found another"),
        ("documents/bom/x.json", "expected an image's name, found another"),
        ("images/m4-1/model/application.img", "expected it in the Image repository, found nothing"),
        (image_target_name(Slot.M4_1_MODEL, FOREIGN), "expected a target named for it, found"),
    ],
)
def test_image_among_a_teams_names_is_refused(device: Updated, name: str, detail: str) -> None:
    """An older application that a package key once signed, under every name that the team may give."""
    application = renamed(add_application(device), name)
    document = release_of(Slot.A7_APPLICATION, application)
    release = release_target_name(COUNTER, "models")
    device.catalog.add(release, document)
    direct_by_thief(device, Slot.A7_APPLICATION, application, release=release, team=[application])
    before = device.digests()
    device.run()
    report = device.wire.reports[-1]
    assert (report.state.value, report.cause) == ("failed", Cause.VERIFY)
    assert detail in report.detail
    assert device.digests() == before


def test_golden_vectors_under_another_name_are_refused(device: Updated) -> None:
    """Vectors are what their name says: of the model's component, by digest."""
    package = device.model(version="3.0.0")
    golden = device.catalog.add_golden(info_of(package).component_id)
    target = device.catalog.targets.pop(golden)
    device.catalog.targets["documents/bom/x.json"] = renamed(target, "documents/bom/x.json")
    image = device.catalog.add_image(SLOT, package, golden="documents/bom/x.json")
    device.catalog.roll_out({SLOT: image}, counter=COUNTER)
    assert_refused(device, Cause.VERIFY, "expected golden vectors named by component and digest")


def test_image_of_another_id_is_refused(device: Updated) -> None:
    """A name stands for one build."""
    package = device.model(version="3.0.0")
    golden = device.catalog.add_golden(info_of(package).component_id)
    image = device.catalog.add_image(SLOT, package, golden=golden)
    other = image_target_name(SLOT, FOREIGN)
    device.catalog.targets[other] = renamed(device.catalog.targets.pop(image), other)
    device.catalog.roll_out({SLOT: other}, counter=COUNTER)
    assert_refused(device, Cause.VERIFY, "expected a target named for it")


def test_name_from_before_slots_installs_from_the_top_level_role(device: Updated) -> None:
    """Old catalogs still work: their offline key lists the image itself."""
    package = device.model(version="3.0.0")
    golden = device.catalog.add_golden(info_of(package).component_id)
    image = device.catalog.add_image(SLOT, package, golden=golden)
    old = f"images/{info_of(package).image_id}.img"
    device.catalog.targets[old] = renamed(device.catalog.targets.pop(image), old)
    device.catalog.roll_out({SLOT: old}, counter=COUNTER)
    device.run()
    assert device.digests()[SLOT] == hashlib.sha256(package).hexdigest()
