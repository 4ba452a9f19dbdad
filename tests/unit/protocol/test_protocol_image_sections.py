"""Sections of image packages: temporary images, interfaces, compression, names, layouts, and signing anew."""

import struct
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.geometry import ImageKind
from protocol.image import (
    DEVELOPMENT_KEY,
    IMAGE_TYPE,
    CompressedImageError,
    Compression,
    ImageInfo,
    Interface,
    PackageError,
    PackageSignatureError,
    Runtime,
    TemporaryFlags,
    TemporaryImageError,
    compose,
    flag_names,
    is_signed_by,
    key_thumbprint,
    package_bytes,
    read_info,
    resign,
    verify_package,
)
from protocol.image_layout import Section, SectionId, read_layout, read_section, read_sections, signed_part
from protocol.signing import SoftwareSigner, raw_from_der

SIGNER = SoftwareSigner.generate()
KEYS = [SIGNER.public_key]
INFO = ImageInfo(
    image_type=IMAGE_TYPE[ImageKind.APPLICATION],
    component_id="253ee667-88ae-4f55-acf6-2cdaa9ca15bc",
    image_id="11a11404-de20-41c1-b66e-32354cb78e49",
    name="app@1.0.0",
    security_version=7,
    built_at=datetime(2026, 3, 1, tzinfo=UTC),
)
PAYLOAD = b"the payload"
PACKAGE = compose(PAYLOAD, INFO, SIGNER)
BOTH = TemporaryFlags.REMOVE_AT_BOOT | TemporaryFlags.UNDER_DEVELOPMENT


def _signed(content: bytes) -> bytes:
    return content + raw_from_der(SIGNER.sign(content))


def _with(section_id: int, body: bytes, *, package: bytes = PACKAGE) -> bytes:
    """The package with one section more, or with another body for one that it has."""
    layout = read_layout(package)
    others = [section for section in layout.sections if section.section_id != section_id]
    return _signed(signed_part(layout.payload, [*others, Section(section_id, body)]))


def _without(section_id: int) -> bytes:
    layout = read_layout(PACKAGE)
    return _signed(signed_part(layout.payload, [s for s in layout.sections if s.section_id != section_id]))


@pytest.mark.parametrize("flags", [*TemporaryFlags, BOTH])
def test_temporary_image_is_for_a_device_in_development(flags: TemporaryFlags) -> None:
    """Whoever signed it; a device with the capability takes it and learns every flag."""
    package = compose(PAYLOAD, replace(INFO, temporary=flags), SIGNER)
    with pytest.raises(TemporaryImageError, match=rf"found a temporary one \({flag_names(flags)}\)"):
        verify_package(package, KEYS, kind=None)
    assert verify_package(package, KEYS, kind=None, allow_development=True).info.temporary == flags
    assert read_info(package).temporary == flags


def test_temporary_image_without_flags_stays() -> None:
    """A section that says nothing changes nothing."""
    package = _with(SectionId.TEMPORARY, bytes(4))
    assert verify_package(package, KEYS, kind=None).info == INFO


def test_names_of_both_flags_are_told() -> None:
    """The library tells one."""
    assert flag_names(BOTH) == "remove at boot, under development"
    assert flag_names(TemporaryFlags(0)) == ""


def test_unknown_flag_of_a_temporary_image_is_refused() -> None:
    """Nobody knows what it asks for."""
    with pytest.raises(PackageError, match="temporary image: expected flags of 3, found 0x4"):
        verify_package(_with(SectionId.TEMPORARY, struct.pack("<I", 4)), KEYS, kind=None)


@given(
    st.lists(st.builds(Interface, st.sampled_from(Runtime), st.integers(0, (1 << 32) - 1)), max_size=16).map(tuple),
    st.lists(st.builds(Interface, st.sampled_from(Runtime), st.integers(0, (1 << 32) - 1)), max_size=16).map(tuple),
)
def test_interfaces_come_back(depends: tuple[Interface, ...], provides: tuple[Interface, ...]) -> None:
    """In their order, each list in a section of its own."""
    info = replace(INFO, depends=depends, provides=provides)
    assert verify_package(compose(PAYLOAD, info, SIGNER), KEYS, kind=None).info == info


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "section 0x444e: expected 4 bytes, found 0"),
        (struct.pack("<I", 2) + bytes(8), "section 0x444e: expected 20 bytes, found 12"),
        (struct.pack("<I", 0) + bytes(8), "section 0x444e: expected 4 bytes, found 12"),
        (struct.pack("<I", 0xFFFFFFFF), "section 0x444e: expected 34359738364 bytes, found 4"),
        (struct.pack("<III", 1, 0, 4), "found 4 is not a valid Runtime"),
        (struct.pack("<I", 17) + bytes(17 * 8), "interfaces: expected at most 16, found 17"),
    ],
)
def test_interfaces_of_another_form_are_refused(body: bytes, message: str) -> None:
    """A count that is not the body's, an unknown runtime, too many."""
    with pytest.raises(PackageError, match=message):
        verify_package(_with(SectionId.DEPENDS, body), KEYS, kind=None)


def test_compressed_image_is_shown_but_not_taken() -> None:
    """No device here unpacks one."""
    package = _with(SectionId.COMPRESSION, struct.pack("<II", 5000, 1))
    with pytest.raises(CompressedImageError, match=r"app@1\.0\.0: expected a payload that runs as it is"):
        verify_package(package, KEYS, kind=None, allow_development=True)
    assert read_info(package).compression == Compression(5000, 1)
    with pytest.raises(CompressedImageError, match="payload: expected one that is not compressed"):
        compose(PAYLOAD, read_info(package), SIGNER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depends": (Interface(Runtime.OS, 1 << 32),)}, "interface version: expected 0 to 2"),
        ({"provides": (Interface(Runtime.OS, 1),) * 17}, "interfaces: expected at most 16, found 17"),
    ],
)
def test_interfaces_that_do_not_fit_are_not_composed(changes: dict[str, object], message: str) -> None:
    """Refused before anything is signed."""
    with pytest.raises(PackageError, match=message):
        compose(PAYLOAD, replace(INFO, **changes), SIGNER)  # type: ignore[arg-type]  # one wrong field each


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"a" * 32, "image name: expected at most 31 bytes and zeros after them"),
        (b"a\0b".ljust(32, b"\0"), "image name: expected at most 31 bytes"),
        (b"\xff".ljust(32, b"\0"), "image metadata: expected Azure Sphere sections, found"),
    ],
)
def test_name_of_another_form_is_refused(name: bytes, message: str) -> None:
    """A name is text that ends once."""
    with pytest.raises(PackageError, match=message):
        verify_package(_with(SectionId.DEBUG, bytes(8) + name), KEYS, kind=None)


def test_build_time_that_no_calendar_holds_is_refused() -> None:
    """The field has 64 bits."""
    for seconds in (1 << 63, (1 << 64) - 1, 1 << 40):
        body = struct.pack("<Q32s", seconds, b"app@1.0.0")
        with pytest.raises(PackageError, match="image metadata: expected Azure Sphere sections"):
            verify_package(_with(SectionId.DEBUG, body), KEYS, kind=None)


@pytest.mark.parametrize("section_id", [SectionId.IDENTITY, SectionId.REVOCATION, SectionId.DEBUG, SectionId.SIGNATURE])
def test_package_without_a_mandatory_section_is_refused(section_id: SectionId) -> None:
    """Not even with a trusted signature."""
    with pytest.raises(PackageError, match=f"section {section_id:#06x}: expected exactly one, found 0"):
        verify_package(_without(section_id), KEYS, kind=None)


@pytest.mark.parametrize(
    ("section_id", "body", "message"),
    [
        (0x4141, b"", "section 0x4141: expected one of Azure Sphere's, found an unknown one"),
        (SectionId.REVOCATION, bytes(5), "section 0x5652: expected 4 bytes, found 5"),
        (SectionId.POLICY, b"", "section 0x5049: expected 4 bytes, found 0"),
    ],
)
def test_section_of_another_form_is_refused(section_id: int, body: bytes, message: str) -> None:
    """Unknown, or of another length."""
    with pytest.raises(PackageError, match=message):
        verify_package(_with(section_id, body), KEYS, kind=None)


def test_flash_offset_and_policy_are_passed_over() -> None:
    """They are for the maker's tools."""
    package = _with(SectionId.POLICY, bytes(4), package=_with(SectionId.FLASH_OFFSET, bytes(4)))
    assert verify_package(package, KEYS, kind=ImageKind.APPLICATION).info == INFO


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (bytes(40), "expected the magic 0x4d345834, found 0x00000000"),
        (struct.pack("<II", 0x4D345834, 0), "expected 1 to 16 sections, found 0"),
        (struct.pack("<II", 0x4D345834, 1), "expected a section of at least 4 bytes, found 0"),
        (struct.pack("<IIHH", 0x4D345834, 1, 0x5652, 4) + bytes(3), "section 0x5652: expected 4 bytes, found 3"),
        (struct.pack("<IIHH", 0x4D345834, 1, 0x5652, 1) + bytes(3), "expected nothing after 1 sections, found 2 bytes"),
    ],
)
def test_metadata_that_does_not_add_up_is_refused(metadata: bytes, message: str) -> None:
    """Each length is checked before it is used."""
    with pytest.raises(PackageError, match=message):
        read_sections(metadata)


def test_layout_of_too_few_bytes_is_refused() -> None:
    """Also where nobody has checked the length before."""
    with pytest.raises(PackageError, match="image package: expected 76 to 16777216 bytes, found 75"):
        read_layout(bytes(75))


@given(st.binary(max_size=200), st.integers(0, 250))
def test_any_bytes_are_a_section_or_our_error(metadata: bytes, offset: int) -> None:
    """Offsets come from lengths in the file."""
    try:
        section = read_section(metadata, offset)
    except PackageError:
        return
    assert section.body in metadata


def test_package_signed_anew_has_the_same_payload_and_metadata() -> None:
    """Only the signature section and the signature differ; the old key counts no more."""
    other = SoftwareSigner.generate()
    info = replace(INFO, depends=(Interface(Runtime.OS, 3),), temporary=BOTH)
    package = compose(PAYLOAD, info, SIGNER)
    again = resign(package, other)
    image = verify_package(again, [other.public_key], kind=ImageKind.APPLICATION, allow_development=True)
    assert (image.info, len(again)) == (info, len(package))
    before, after = read_layout(package), read_layout(again)
    assert before.payload == after.payload
    assert [s for s in before.sections if s.section_id != SectionId.SIGNATURE] == [
        s for s in after.sections if s.section_id != SectionId.SIGNATURE
    ]
    assert after.body(SectionId.SIGNATURE)[:20] == key_thumbprint(other.public_key)
    with pytest.raises(PackageSignatureError):
        verify_package(again, KEYS, kind=None)


@given(st.integers(1, 5000))
def test_length_of_a_package_is_known_before_it_is_signed(payload_bytes: int) -> None:
    """A model card says how much flash its own package takes."""
    assert package_bytes(payload_bytes) == len(compose(bytes(payload_bytes), INFO, SIGNER))


def test_what_is_no_package_is_not_signed_anew() -> None:
    """Our key never stands under what we do not understand."""
    for package in (b"", PACKAGE[:-1], _without(SectionId.IDENTITY), _with(0x4141, b"")):
        with pytest.raises(PackageError):
            resign(package, SIGNER)


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error_when_read_or_signed_anew(content: bytes) -> None:
    """Nothing is verified there, so nothing is trusted."""
    for unverified in (content, content + struct.pack("<I", 40) + bytes(64)):
        with pytest.raises(ProtocolError):
            read_info(unverified)
        with pytest.raises(ProtocolError):
            resign(unverified, SIGNER)


def test_signature_of_no_number_is_nobodys() -> None:
    """Zeros, or too few bytes, verify under no key."""
    for package in (bytes(100), bytes(10), b""):
        assert not is_signed_by(package, DEVELOPMENT_KEY)
