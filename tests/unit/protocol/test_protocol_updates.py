"""Director against Image repository: agreement, and each way to break it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import TargetFile

from protocol.errors import ProtocolError
from protocol.geometry import ImageKind, Slot
from protocol.updates import (
    DirectorCustom,
    DirectorMismatchError,
    DocumentCustom,
    DocumentKind,
    ImageCustom,
    JumpedReleaseError,
    MustPass,
    ReleaseDocument,
    ReleaseImage,
    RollbackError,
    UpdateMetadataError,
    WrongHardwareError,
    check_agreement,
    delta_target_name,
    director_custom,
    document_custom,
    document_target_name,
    golden_target_name,
    image_custom,
    image_target_name,
    release_target_name,
    slot_of_image_target,
)
from protocol.versions import Build

IMAGE_ID = "11a11404-de20-41c1-b66e-32354cb78e49"
SHA256 = "a" * 64
SLOT = Slot.M4_0_MODEL
NAME = image_target_name(SLOT, IMAGE_ID)
DIRECTOR = DirectorCustom(
    slot=SLOT, hardware_id="mt3620-m4-0", security_counter=3, release=release_target_name(5, "main")
)
IMAGE = ImageCustom(
    slot_kind=ImageKind.MODEL,
    hardware_ids=("mt3620-m4-0", "mt3620-m4-1"),
    component_id="253ee667-88ae-4f55-acf6-2cdaa9ca15bc",
    image_id=IMAGE_ID,
    name="person@1.0.0",
    security_counter=3,
)
RELEASE = ReleaseDocument(name="main", counter=5, images={SLOT: ReleaseImage(target=NAME, sha256=SHA256, length=100)})


def _target(
    custom: DirectorCustom | ImageCustom, *, name: str = NAME, length: int = 100, sha256: str = SHA256
) -> TargetFile:
    return TargetFile(length, {"sha256": sha256}, name, {"custom": custom.model_dump(mode="json")})


def _check(**changes: Any) -> tuple[DirectorCustom, ImageCustom]:
    arguments: Mapping[str, Any] = {
        "director": _target(DIRECTOR),
        "image": _target(IMAGE),
        "release": RELEASE,
        "security_floor": 3,
        "release_floor": 5,
    } | changes
    return check_agreement(**arguments)


def test_agreement_gives_both_sides() -> None:
    """At the floors exactly: not below is enough."""
    assert _check() == (DIRECTOR, IMAGE)


def test_names_are_those_of_the_contract() -> None:
    """Target names carry id, digest or counter."""
    assert golden_target_name("c", "d") == "golden/c/d.json"
    assert (NAME, DIRECTOR.release) == (f"images/m4-0/model/{IMAGE_ID}.img", "releases/5-main.json")


def test_target_that_the_image_repository_lacks_is_refused() -> None:
    """The Director alone cannot make an image."""
    with pytest.raises(DirectorMismatchError, match="expected it in the Image repository, found nothing"):
        _check(image=None)


@pytest.mark.parametrize("changes", [{"length": 101}, {"sha256": "b" * 64}])
def test_other_length_or_hash_is_refused(changes: dict[str, Any]) -> None:
    """Mix and match of two images."""
    with pytest.raises(DirectorMismatchError, match="expected equal length and hashes"):
        _check(image=_target(IMAGE, **changes))


def _director(**changes: Any) -> TargetFile:
    return _target(DIRECTOR.model_copy(update=changes))


def _image(**changes: Any) -> TargetFile:
    return _target(IMAGE.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"director": _director(hardware_id="mt3620-m4-1")}, "slot m4-0/model: expected hardware mt3620-m4-0"),
        ({"image": _image(hardware_ids=("mt3620-m4-1",))}, "slot m4-0/model: expected hardware mt3620-m4-0"),
        ({"image": _image(slot_kind=ImageKind.FIRMWARE)}, "slot m4-0/model: expected a model, found a firmware"),
    ],
)
def test_image_for_other_hardware_is_refused(changes: dict[str, Any], message: str) -> None:
    """Another core, or another kind of slot."""
    with pytest.raises(WrongHardwareError, match=message):
        _check(**changes)


def test_security_counter_must_agree() -> None:
    """The Director cannot lower what the operator signed."""
    with pytest.raises(DirectorMismatchError, match=r"security counter: expected 3 \(Image repository\), found 2"):
        _check(director=_director(security_counter=2))


def test_image_below_the_fuse_is_refused() -> None:
    """Rollback of an image."""
    with pytest.raises(RollbackError, match="security counter: expected at least 4, found 3"):
        _check(security_floor=4)


@pytest.mark.parametrize(
    "images",
    [
        {Slot.M4_1_MODEL: ReleaseImage(target=NAME, sha256=SHA256, length=100)},
        {SLOT: ReleaseImage(target=image_target_name(SLOT, "other"), sha256=SHA256, length=100)},
        {SLOT: ReleaseImage(target=NAME, sha256="b" * 64, length=100)},
    ],
)
def test_release_that_names_another_image_is_refused(images: dict[Slot, ReleaseImage]) -> None:
    """The release lists another slot, target or digest."""
    with pytest.raises(DirectorMismatchError, match=r"release main: expected images/.* for m4-0/model, found another"):
        _check(release=RELEASE.model_copy(update={"images": images}))


def test_release_below_the_last_one_is_refused() -> None:
    """Rollback of a release."""
    with pytest.raises(RollbackError, match="release counter: expected at least 6, found 5"):
        _check(release_floor=6)


def test_target_without_custom_metadata_is_refused() -> None:
    """Neither side may leave it out."""
    bare = TargetFile(100, {"sha256": SHA256}, NAME)
    with pytest.raises(UpdateMetadataError, match="expected DirectorCustom, found 1 wrong fields"):
        director_custom(bare)
    with pytest.raises(UpdateMetadataError, match="expected ImageCustom, found 1 wrong fields"):
        image_custom(bare)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*DirectorCustom.model_fields, *ImageCustom.model_fields]), JSON)
def test_any_custom_metadata_gives_our_error_or_agreement(name: str, value: object) -> None:
    """A Director that lies in any field."""
    custom = DIRECTOR.model_dump(mode="json") | {name: value}
    director = TargetFile(100, {"sha256": SHA256}, NAME, {"custom": custom})
    try:
        wanted, _ = _check(director=director)
    except ProtocolError:
        return
    assert wanted.slot == SLOT


def test_names_hold_slots_and_digests() -> None:
    """A document's name has its kind, a patch's name both images; only an image's name has a slot."""
    assert document_target_name(DocumentKind.BOM, "d") == "documents/bom/d.json"
    assert delta_target_name("a", "b") == "deltas/a/b.delta"
    assert slot_of_image_target(NAME) is SLOT
    assert slot_of_image_target(f"images/{IMAGE_ID}.img") is None


def test_name_of_another_image_is_refused() -> None:
    """A name stands for one build."""
    name = image_target_name(SLOT, "22a11404-de20-41c1-b66e-32354cb78e49")
    with pytest.raises(DirectorMismatchError, match=f"image {IMAGE_ID}: expected a target named for it, found"):
        _check(director=_target(DIRECTOR, name=name), image=_target(IMAGE, name=name))


def test_endless_image_name_is_refused() -> None:
    """A version is compared digit by digit; it has its bound."""
    with pytest.raises(UpdateMetadataError, match="found 1 wrong fields"):
        image_custom(_target(IMAGE.model_copy(update={"name": "person@" + "9" * 122})))


def test_image_named_for_another_slot_is_refused() -> None:
    """Whoever may name images of one slot cannot bring them into another."""
    name = image_target_name(Slot.M4_1_MODEL, IMAGE_ID)
    with pytest.raises(WrongHardwareError, match="slot m4-0/model: expected a target named for it"):
        _check(director=_target(DIRECTOR, name=name), image=_target(IMAGE, name=name))


NEWER = Build("c" * 64, IMAGE.component_id, "person@1.1.0")


def test_older_image_needs_a_release_that_goes_back() -> None:
    """From exactly the image that is installed."""
    with pytest.raises(RollbackError, match=r"nothing older than person@1\.1\.0.*found person@1\.0\.0"):
        _check(installed=NEWER)
    back = RELEASE.model_copy(update={"goes_back": {SLOT: (NEWER.sha256,)}})
    assert _check(release=back, installed=NEWER) == (DIRECTOR, IMAGE)
    elsewhere = RELEASE.model_copy(update={"goes_back": {SLOT: ("d" * 64,), Slot.M4_1_MODEL: (NEWER.sha256,)}})
    with pytest.raises(RollbackError, match="or a release that goes back from it"):
        _check(release=elsewhere, installed=NEWER)


def test_newer_image_needs_no_way_back() -> None:
    """Nor one of another component."""
    assert _check(installed=replace(NEWER, name="person@0.9.0")) == (DIRECTOR, IMAGE)
    assert _check(installed=replace(NEWER, component_id=IMAGE_ID)) == (DIRECTOR, IMAGE)


def test_document_says_what_it_speaks_of() -> None:
    """Its custom metadata is as strict as that of an image."""
    said = DocumentCustom(kind=DocumentKind.VEX, subject="main")
    target = TargetFile(1, {"sha256": SHA256}, "documents/vex/d.json", {"custom": said.model_dump(mode="json")})
    assert document_custom(target) == said
    with pytest.raises(UpdateMetadataError, match="expected DocumentCustom"):
        document_custom(_target(IMAGE))


BEFORE = Build("b" * 64, IMAGE.component_id, "person@1.0.0")
THROUGH = MustPass(release="through", sha256="c" * 64, component_id=IMAGE.component_id, name="person@1.5.0")


def _with_passage(installed: Build | None) -> tuple[DirectorCustom, ImageCustom]:
    release = RELEASE.model_copy(update={"after": {DIRECTOR.slot: THROUGH}})
    return _check(release=release, installed=installed, image=_image(name="person@2.0.0"))


def test_release_that_a_device_must_pass_through_is_not_jumped_over() -> None:
    """Older than the image of that release: refused, and the error says which one comes first."""
    with pytest.raises(JumpedReleaseError, match=r"expected release through with person@1\.5\.0 confirmed before main"):
        _with_passage(BEFORE)


@pytest.mark.parametrize(
    "installed",
    [THROUGH.build, replace(BEFORE, name="person@1.6.0"), replace(BEFORE, component_id="d" * 8), None],
)
def test_device_that_has_passed_through_or_never_had_the_component_goes_on(installed: Build | None) -> None:
    """That image, a newer one, another component, or an empty slot."""
    assert _with_passage(installed)[0] == DIRECTOR


@pytest.mark.parametrize(
    ("offered", "precedes"),
    [
        (replace(BEFORE, name="person@2.0.0"), True),
        (BEFORE, False),
        (THROUGH.build, False),
        (replace(BEFORE, name="person@2.0.0", component_id="d" * 8), False),
    ],
)
def test_release_names_what_precedes_it(offered: Build, precedes: bool) -> None:  # noqa: FBT001 - a parameter
    """A newer image of the component does; a way back, the same image and another component do not."""
    assert THROUGH.precedes(offered) is precedes
