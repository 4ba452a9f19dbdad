"""Attacks on going back: a legitimate release, its successor with the way back, then exactly one thing wrong."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pki.metadata import content_target
from protocol.document import canonical_json
from protocol.geometry import ImageKind, Slot
from protocol.image import digest_of
from protocol.updates import (
    DocumentCustom,
    DocumentKind,
    ReleaseDocument,
    document_target_name,
    image_custom,
    release_target_name,
)
from service.domain.release import (
    InvalidReleaseError,
    InvalidTargetError,
    ReleaseCounterError,
    UnmetRequirementError,
    WayBackError,
)
from tests.integration.service_updates.update_world import (
    RELEASER,
    UpdateWorld,
    Upload,
    add_target,
    open_world,
)
from tests.service_folder import make_folders

APP = Slot.A7_APPLICATION


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service whose devices run version 2 of the application."""
    async with open_world(make_folders(tmp_path / "init"), f"sqlite:///{tmp_path / 'control.db'}") as opened:
        await opened.hand_over(await opened.prepare("first", {APP: opened.package("app@2.0.0", counter=2)}))
        yield opened


async def in_force(world: UpdateWorld) -> object:
    async with world.unit_of_work(read_only=True) as work:
        return await work.metadata.versions(), await work.releases.page(before_counter=None, limit=9)


async def publish(world: UpdateWorld, upload: Upload, *, way_back: str | None = None) -> None:
    for content in upload.contents.values():
        await world.take(content)
    await world.releases.create(
        RELEASER,
        name=upload.name,
        unverified={"targets": world.sign(upload)},
        release_target=upload.release_target,
        way_back_target=way_back,
    )


async def assert_refused(
    world: UpdateWorld, upload: Upload, error: type[Exception], match: str, *, way_back: str | None = None
) -> None:
    before = await in_force(world)
    with pytest.raises(error, match=match):
        await publish(world, upload, way_back=way_back)
    assert await in_force(world) == before


def rewrite(upload: Upload, **changes: Any) -> None:
    """Change fields of the release document."""
    document = ReleaseDocument.model_validate_json(upload.contents.pop(upload.release_target))
    upload.targets = [target for target in upload.targets if target.path != upload.release_target]
    add_target(upload, upload.release_target, canonical_json(document.model_copy(update=changes)))


@dataclass
class Forward:
    """A release of version 3 and the way back to version 2, signed together."""

    upload: Upload
    back: ReleaseDocument
    digest: str

    @property
    def way_back(self) -> str:
        return release_target_name(self.back.counter, self.back.name)

    def with_back(self, **changes: Any) -> "Forward":
        return replace(self, back=self.back.model_copy(update=changes))

    def ready(self) -> Upload:
        add_target(self.upload, self.way_back, canonical_json(self.back))
        return self.upload


async def forward(world: UpdateWorld, *, counter: int = 2) -> Forward:
    upload = await world.prepare("second", {APP: world.package("app@3.0.0", counter=counter)})
    digest = ReleaseDocument.model_validate_json(upload.contents[upload.release_target]).images[APP].sha256
    first = await world.releases.get("first")
    back = ReleaseDocument(
        name="second-back",
        counter=3,
        images=first.images,
        goes_back={APP: (digest,)},
        way_back_of="second",
    )
    return Forward(upload, back, digest)


async def test_release_and_its_way_back_come_together(world: UpdateWorld) -> None:
    """The builder's upload is right; the service keeps what the documents say, and the counter goes on after both."""
    made = await forward(world)
    ends = world.clock.now() + timedelta(days=700)
    rewrite(made.upload, support_ends=ends)
    await publish(world, made.ready(), way_back=made.way_back)
    released, back = await world.releases.get("second"), await world.releases.get("second-back")
    assert (released.way_back_of, released.support_ends, released.goes_back) == (None, ends, {})
    assert (back.way_back_of, back.counter, back.goes_back) == ("second", 3, {APP: (made.digest,)})
    third = await world.prepare("third", {APP: world.package("app@4.0.0", counter=2)})
    assert third.release_target == "releases/4-third.json"
    await publish(world, third)


async def test_older_image_without_a_word_is_refused(world: UpdateWorld) -> None:
    """Version 1 after version 2: by version, or by its time where the version is the same."""
    older = {APP: world.package("app@1.0.0", counter=2)}
    await assert_refused(world, await world.prepare("second", older), WayBackError, "expected nothing older than app@2")
    world.clock.advance(-3600)
    again = {APP: world.package("app-again@2.0.0", counter=2)}
    await assert_refused(world, await world.prepare("second", again), WayBackError, "found app-again@2.0.0")


async def test_release_that_says_from_where_it_goes_back_is_taken(world: UpdateWorld) -> None:
    """From the newest one that was released before."""
    upload = await world.prepare("second", {APP: world.package("app@1.0.0", counter=2)})
    newest = (await world.releases.get("first")).images[APP].sha256
    rewrite(upload, goes_back={APP: ("0" * 64,)})
    await assert_refused(world, upload, WayBackError, "or a release that goes back from it")
    rewrite(upload, goes_back={APP: (newest,), Slot.M4_0_FIRMWARE: (newest,)})
    await assert_refused(world, upload, WayBackError, "expected to go back in its own slots, found m4-0/firmware")
    rewrite(upload, goes_back={APP: (newest,)})
    await publish(world, upload)


async def test_way_back_that_comes_later_is_refused(world: UpdateWorld) -> None:
    """It is signed together with its release, by whom that took, or it is a release of its own."""
    made = await forward(world)
    await publish(world, made.upload)
    late = await world.prepare("second-back", {APP: world.package("app@5.0.0", counter=2)})
    rewrite(late, way_back_of="second")
    await assert_refused(world, late, WayBackError, "expected it in the same publication as second, found it alone")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"way_back_of": "first"}, "expected the name of its release"),
        ({"way_back_of": None}, "expected the name of its release"),
        ({"counter": 4}, "the counter after it"),
        ({"factory": True}, "no factory release"),
        ({"goes_back": {}}, "expected nothing older than app@3.0.0"),
        ({"goes_back": {APP: ("0" * 64,)}}, "expected to go back from .* alone, found others"),
    ],
)
async def test_way_back_that_says_something_else_is_refused(
    world: UpdateWorld, changes: dict[str, Any], match: str
) -> None:
    """It undoes its release and nothing else."""
    made = (await forward(world)).with_back(**changes)
    await assert_refused(world, made.ready(), WayBackError, match, way_back=made.way_back)


async def test_way_back_with_a_new_image_is_refused(world: UpdateWorld) -> None:
    """What it brings back was in force before; the release's own image is not."""
    made = await forward(world)
    new = ReleaseDocument.model_validate_json(made.upload.contents[made.upload.release_target]).images
    made = made.with_back(images=new)
    await assert_refused(world, made.ready(), WayBackError, "expected an image in force", way_back=made.way_back)


async def test_way_back_to_a_slot_that_the_release_leaves_alone_is_refused(world: UpdateWorld) -> None:
    """It cannot carry another change."""
    await world.release("firmware", (Slot.M4_0_FIRMWARE,))
    firmware = (await world.releases.get("firmware")).images
    made = (await forward(world)).with_back(images=firmware, counter=4, goes_back={})
    await assert_refused(world, made.ready(), WayBackError, "for a slot of second", way_back=made.way_back)


async def test_way_back_below_the_fuses_is_refused(world: UpdateWorld) -> None:
    """A device that has confirmed the release would refuse it, so it does not come into force."""
    made = await forward(world, counter=3)
    match = "expected a security counter of at least 3, found 2"
    await assert_refused(world, made.ready(), WayBackError, match, way_back=made.way_back)


async def test_way_back_with_a_counter_not_above_is_refused(world: UpdateWorld) -> None:
    """Counters rise within a publication, too."""
    made = (await forward(world)).with_back(counter=2)
    await assert_refused(world, made.ready(), ReleaseCounterError, "expected above 2, found 2", way_back=made.way_back)


async def test_second_document_that_nobody_means_is_refused(world: UpdateWorld) -> None:
    """Exactly the documents that the operator names."""
    made = await forward(world)
    await assert_refused(world, made.ready(), InvalidReleaseError, "expected exactly the new targets")


async def test_images_that_contradict_each_other_are_refused(world: UpdateWorld) -> None:
    """A requirement within one release counts; one on an image beside it is left to the Director and the device."""
    packages = {
        APP: world.package("app@3.0.0", counter=2),
        Slot.M4_0_FIRMWARE: world.package("rt@1.0.0", ImageKind.FIRMWARE),
    }
    upload = await world.prepare("second", packages)
    demand(upload, "app", {"rt": ">=2"})
    await assert_refused(world, upload, UnmetRequirementError, "a7/application, app@3.0.0: expected rt >=2, found rt@1")
    demand(upload, "app", {"rt": "<2", "elsewhere": ">=9"})
    await publish(world, upload)
    assert image_custom(next(t for t in upload.targets if t.custom and t.custom.get("name") == "app@3.0.0")).requires


def demand(upload: Upload, name: str, requires: Mapping[str, str]) -> None:
    for target in upload.targets:
        if target.path in upload.contents and target.custom and str(target.custom["name"]).startswith(f"{name}@"):
            target.unrecognized_fields["custom"] = {**target.custom, "requires": dict(requires)}


async def test_documents_must_say_what_they_are(world: UpdateWorld) -> None:
    """Names, kinds and subjects of documents, and the bills that images name."""
    upload = await world.prepare("second", {APP: world.package("app@3.0.0", counter=2)})
    release = upload.contents[upload.release_target]
    name = document_target_name(DocumentKind.VEX, digest_of(release))
    custom = DocumentCustom(kind=DocumentKind.VEX, subject="second").model_dump(mode="json")
    upload.targets.append(content_target(name, release, custom))
    await assert_refused(world, upload, InvalidTargetError, "expected bytes of a vex, found a release")
    upload.targets.pop()
    rewrite(upload, documents={DocumentKind.VEX: name})
    await assert_refused(world, upload, InvalidReleaseError, "expected vex documents that are listed")
    rewrite(upload, documents={})
    image = next(t for t in upload.targets if t.path in upload.contents and t.path.startswith("images/"))
    image.unrecognized_fields["custom"] = {**image.custom, "bom": "golden/x"}
    await assert_refused(
        world, upload, InvalidTargetError, "expected a bill of materials that is listed, found golden/x"
    )


async def test_factory_release_may_be_of_older_images(world: UpdateWorld) -> None:
    """Reference values of devices that are made with them; nothing of it is rolled out."""
    older = await world.prepare("factory", {APP: world.package("app@1.0.0", counter=2)}, factory=True)
    await publish(world, older)
    assert (await world.releases.get("factory")).factory
