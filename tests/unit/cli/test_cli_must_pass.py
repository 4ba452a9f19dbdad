"""What `release create` writes of the releases that devices must pass through before the new one."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from tuf.api.metadata import TargetFile

from protocol.geometry import Slot
from protocol.updates import (
    ImageCustom,
    MustPass,
    ReleaseDocument,
    ReleaseImage,
    image_target_name,
    release_target_name,
)
from service.cli.publishing import NewRelease
from service.cli.release_drafts import _after

APP = Slot.A7_APPLICATION
COMPONENT, OTHER = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc", "353ee667-88ae-4f55-acf6-2cdaa9ca15bc"


def image(number: int, component_id: str = COMPONENT) -> TargetFile:
    image_id = f"{number:08d}-88ae-4f55-acf6-2cdaa9ca15bc"
    custom = ImageCustom(
        slot_kind=APP.kind,
        hardware_ids=("mt3620-a7",),
        component_id=component_id,
        image_id=image_id,
        name=f"app@{number}.0.0",
        security_counter=1,
    )
    hashes = {"sha256": f"{number:064x}"}
    return TargetFile(10, hashes, image_target_name(APP, image_id), {"custom": custom.model_dump(mode="json")})


def document(name: str, counter: int, target: TargetFile, *, must_pass: bool) -> ReleaseDocument:
    listed = ReleaseImage(target=target.path, sha256=target.hashes["sha256"], length=target.length)
    return ReleaseDocument(name=name, counter=counter, images={APP: listed}, must_pass=must_pass)


ONE, TWO, THREE = image(1), image(2), image(3)
DOCUMENTS = {
    release_target_name(each.counter, each.name): each
    for each in (document("one", 1, ONE, must_pass=True), document("two", 2, TWO, must_pass=True))
}


def after(release: NewRelease) -> dict[Slot, MustPass]:
    """Work it out on a repository of two releases that devices must pass through."""
    listed = {path: TargetFile(1, {"sha256": "0" * 64}, path) for path in DOCUMENTS}
    images = {each.path: each for each in (ONE, TWO, THREE)}
    in_force: Any = SimpleNamespace(targets=SimpleNamespace(targets=listed), find=images.get)
    working_copy = SimpleNamespace(
        fetch_release=lambda _client, target: DOCUMENTS[target.path], fetch=lambda *_, **__: in_force
    )
    session: Any = SimpleNamespace(working_copy=working_copy, client=None, now=datetime(2030, 1, 1, tzinfo=UTC))
    return dict(_after(session, in_force, release))


def test_newest_release_before_it_is_named() -> None:
    """The last of the two, whose own document names the one before."""
    (must,) = after(NewRelease("three", listed=[THREE])).values()
    assert (must.release, must.sha256, must.name) == ("two", TWO.hashes["sha256"], "app@2.0.0")


@pytest.mark.parametrize(
    "release",
    [
        NewRelease("again", listed=[TWO]),
        NewRelease("older", listed=[ONE]),
        NewRelease("factory", listed=[THREE], factory=True),
        NewRelease("foreign", listed=[image(9, OTHER)]),
    ],
    ids=lambda release: release.name,
)
def test_nothing_is_named_where_nothing_is_jumped_over(release: NewRelease) -> None:
    """The same image, an older one, what devices are made with, another component."""
    assert after(release) == {}
