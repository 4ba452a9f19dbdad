"""Image packages, cross-checked with Microsoft's azuresphere-imagemetadata: what either side makes, the other reads.

Its own verification is used where it has one: `Image.has_valid_signature` with a subclass of its `Signer`.
"""

import hashlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from azuresphere_imagemetadata.image import Image
from azuresphere_imagemetadata.image_metadata import ImageMetadata
from azuresphere_imagemetadata.metadata_sections import (
    ABIDependsSection,
    ABIProvidesSection,
    CompressionSection,
    DebugSection,
    IdentitySection,
    ImagePolicySection,
    RequiredOffsetSection,
    RevocationSection,
    TempImageMetadataSection,
)
from azuresphere_imagemetadata.metadata_sections.abi import ABIIdentity
from azuresphere_imagemetadata.metadata_sections.compression import CompressionType
from azuresphere_imagemetadata.signing.app_development import AppDevelopmentSigner
from azuresphere_imagemetadata.signing.signer import Signer, SigningMap
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from protocol.geometry import ImageKind
from protocol.image import (
    DEVELOPMENT_IMAGE_TYPES,
    DEVELOPMENT_KEY,
    IMAGE_TYPE,
    CompressedImageError,
    Compression,
    DevelopmentKeyError,
    ImageInfo,
    Interface,
    Runtime,
    TemporaryFlags,
    compose,
    key_id,
    read_info,
    resign,
    verify_package,
)
from protocol.signing import SoftwareSigner

PREHASHED = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
OURS = SoftwareSigner.generate()


class TheirSigner(Signer):  # type: ignore[misc]  # the library has no types
    """The library's own subclass point, with a key of ours in the library's hands."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__(SigningMap())
        self.key = key

    @override
    def thumbprint(self, signing_type: Any = 1) -> str:
        der = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha1(der, usedforsecurity=False).hexdigest()

    @override
    def sign_data(self, data: bytes, signing_type: Any = 1) -> bytes:
        return self.key.sign(hashlib.sha256(data).digest(), PREHASHED)

    @override
    def verify(self, stored_signature: bytes, computed_hash: bytes, signing_type: Any = 1) -> bool:
        try:
            self.key.public_key().verify(stored_signature, computed_hash, PREHASHED)
        except (InvalidSignature, ValueError):
            return False
        return True


THEIRS = TheirSigner(OURS.private_key)
WORDS = st.integers(0, (1 << 32) - 1)
INTERFACES = st.lists(st.builds(Interface, st.sampled_from(Runtime), WORDS), max_size=16).map(tuple)
GUIDS = st.uuids().map(str)
INFOS = st.builds(
    ImageInfo,
    image_type=st.sampled_from(sorted(set(IMAGE_TYPE.values()))),
    component_id=GUIDS,
    image_id=GUIDS,
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=7),
    security_version=WORDS,
    built_at=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - hypothesis wants naive ones
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    ),
    temporary=st.sampled_from([TemporaryFlags(flags) for flags in range(4)]),
    depends=INTERFACES,
    provides=INTERFACES,
)
PAYLOADS = st.binary(min_size=1, max_size=500)


def _theirs(payload: bytes, info: ImageInfo, signer: Signer) -> bytes:
    """Compose with the library alone."""
    image = Image()
    image.data = payload
    image.metadata = ImageMetadata(None)
    for section in _their_sections(info):
        image.metadata.add_section(section)
    return bytes(image.serialize(signer))


def _their_sections(info: ImageInfo) -> list[Any]:
    identity, revocation, debug = IdentitySection(), RevocationSection(), DebugSection()
    identity.image_type, identity.component_uid, identity.image_uid = info.image_type, info.component_id, info.image_id
    revocation.version = info.security_version
    debug.debug_time, debug.image_name_raw = int(info.built_at.timestamp()), info.name.encode()
    temporary, depends, provides = TempImageMetadataSection(), ABIDependsSection(), ABIProvidesSection()
    temporary.flags.flags = int(info.temporary)
    for section, interfaces in ((depends, info.depends), (provides, info.provides)):
        section.versions = [
            ABIIdentity(i.version.to_bytes(4, "little") + i.runtime.to_bytes(4, "little")) for i in interfaces
        ]
    return [debug, identity, temporary, depends, provides, revocation]


@given(PAYLOADS, INFOS)
def test_what_we_compose_says_the_same_in_their_library(payload: bytes, info: ImageInfo) -> None:
    """Every field, and the signature by their own verification."""
    image = Image(compose(payload, info, OURS))
    metadata = image.metadata
    assert image.has_valid_signature([THEIRS])
    assert not image.has_valid_signature([AppDevelopmentSigner()])
    assert image.data == payload + bytes(-len(payload) % 4)
    assert (metadata.identity.image_type, metadata.identity.component_uid) == (info.image_type, info.component_id)
    assert metadata.identity.image_uid == info.image_id
    assert metadata.sections_by_name("Revocation")[0].version == info.security_version
    assert metadata.debug.image_name_raw.rstrip(b"\0") == info.name.encode()
    assert metadata.debug.debug_time == int(info.built_at.timestamp())
    assert (metadata.tempinfo.flags.flags if metadata.tempinfo else 0) == info.temporary
    for name, interfaces in (("ABI Depends", info.depends), ("ABI Provides", info.provides)):
        found = [(abi.type, abi.version) for section in metadata.sections_by_name(name) for abi in section.versions]
        assert found == [(each.runtime, each.version) for each in interfaces]
    assert metadata.signature.signing_cert_thumbprint.hex() == THEIRS.thumbprint()


@given(PAYLOADS, INFOS)
def test_what_they_compose_is_verified_here(payload: bytes, info: ImageInfo) -> None:
    """In their order of sections, and with the optional ones there though they say nothing."""
    image = verify_package(_theirs(payload, info, THEIRS), [OURS.public_key], kind=None, allow_development=True)
    assert image.info == info
    assert image.payload == payload + bytes(-len(payload) % 4)
    assert image.signer_id == key_id(OURS.public_key)


@given(PAYLOADS, INFOS)
def test_what_their_development_signer_signs_is_for_development(payload: bytes, info: ImageInfo) -> None:
    """Read by everybody, taken by a device in development, and no system image ever."""
    package = _theirs(payload, info, AppDevelopmentSigner())
    assert read_info(package) == info
    with pytest.raises(DevelopmentKeyError):
        verify_package(package, [DEVELOPMENT_KEY], kind=None)
    if info.image_type in DEVELOPMENT_IMAGE_TYPES:
        assert verify_package(package, [], kind=None, allow_development=True).info == info
    else:
        with pytest.raises(DevelopmentKeyError):
            verify_package(package, [DEVELOPMENT_KEY], kind=None, allow_development=True)


@given(PAYLOADS, INFOS)
@settings(max_examples=50)
def test_what_we_sign_anew_is_what_they_would_sign_anew(payload: bytes, info: ImageInfo) -> None:
    """Their library keeps payload and sections, too; it only puts the signature section last."""
    package = _theirs(payload, info, AppDevelopmentSigner())
    ours, theirs = Image(resign(package, OURS)), Image(bytes(Image(package).serialize(THEIRS)))
    assert ours.has_valid_signature([THEIRS])
    assert theirs.has_valid_signature([THEIRS])
    assert ours.data == theirs.data
    assert _bodies(ours) == _bodies(theirs)


def _bodies(image: Image) -> dict[int, bytes]:
    return {section.section_id: bytes(section.serialize()) for section in image.metadata.sections}


@given(PAYLOADS, INFOS, st.integers(0, (1 << 32) - 1))
@settings(max_examples=50)
def test_their_compressed_image_is_read_and_refused(payload: bytes, info: ImageInfo, size: int) -> None:
    """Whatever it is compressed by."""
    image = Image(_theirs(payload, info, THEIRS))
    section = CompressionSection()
    section.uncompressed_size, section.compression_type.compression_type = size, CompressionType.Lzma
    image.metadata.add_section(section)
    package = bytes(image.serialize(THEIRS))
    assert read_info(package) == replace(info, compression=Compression(size, CompressionType.Lzma))
    with pytest.raises(CompressedImageError):
        verify_package(package, [OURS.public_key], kind=None, allow_development=True)


def test_their_sections_for_the_makers_tools_are_passed_over() -> None:
    """Flash offset and policy are read by nobody here, but are no reason to refuse a package."""
    info = _info(ImageKind.OS)
    image = Image(_theirs(b"an OS", info, THEIRS))
    for section in (RequiredOffsetSection(), ImagePolicySection()):
        image.metadata.add_section(section)
    assert verify_package(bytes(image.serialize(THEIRS)), [OURS.public_key], kind=ImageKind.OS).info == info


@pytest.mark.parametrize("kind", list(ImageKind))
def test_type_of_each_kind_is_one_that_their_library_names(kind: ImageKind) -> None:
    """No number of our own."""
    described = str(Image(compose(b"payload", _info(kind), OURS)).metadata)
    assert "Image Type:        Unknown" not in described
    assert "Image Type:        " in described


def test_development_key_is_the_one_that_they_ship() -> None:
    """Ours is taken from theirs; it is the same whoever asks."""
    certificate = AppDevelopmentSigner().signing_map.ecdsa_256.cert.certificate
    assert certificate.public_key() == DEVELOPMENT_KEY


def test_both_flags_of_a_temporary_image_are_read_where_theirs_reads_one() -> None:
    """A known fault of the library: the names are those of one flag."""
    both = TemporaryFlags.REMOVE_AT_BOOT | TemporaryFlags.UNDER_DEVELOPMENT
    package = compose(b"payload", replace(_info(ImageKind.APPLICATION), temporary=both), OURS)
    assert read_info(package).temporary == both
    assert Image(package).metadata.tempinfo.flags.get_flag_names() == ["RemoveAtBoot"]


def _info(kind: ImageKind) -> ImageInfo:
    guid = str(uuid.UUID(int=7))
    return ImageInfo(IMAGE_TYPE[kind], guid, guid, "name@1.0.0", 1, datetime(2026, 1, 1, tzinfo=UTC))
