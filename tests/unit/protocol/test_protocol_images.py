"""Image packages: composed, verified, refused; one thing wrong per case."""

import hashlib
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from azuresphere_imagemetadata.image import Image
from azuresphere_imagemetadata.metadata_sections.revocation import RevocationSection
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.geometry import ImageKind
from protocol.identity import IdentityError, spki_der
from protocol.image import (
    DEVELOPMENT_KEY,
    IMAGE_TYPE,
    MAX_PACKAGE_BYTES,
    DevelopmentKeyError,
    ImageInfo,
    PackageError,
    PackageSignatureError,
    compose,
    digest_of,
    key_id,
    verify_package,
)
from protocol.signing import SoftwareSigner, raw_from_der

SIGNER = SoftwareSigner.generate()
KEYS = [SIGNER.public_key]
INFO = ImageInfo(
    image_type=IMAGE_TYPE[ImageKind.MODEL],
    component_id="253ee667-88ae-4f55-acf6-2cdaa9ca15bc",
    image_id="11a11404-de20-41c1-b66e-32354cb78e49",
    name="person@1.0.0",
    security_version=7,
    built_at=datetime(2026, 3, 1, tzinfo=UTC),
)
PAYLOAD = b"the payload of a model"
PACKAGE = compose(PAYLOAD, INFO, SIGNER)


def _resigned(content: bytes) -> bytes:
    """Sign any bytes with the trusted key, as its thief could."""
    return content + raw_from_der(SIGNER.sign(content))


def _with_metadata(metadata: bytes) -> bytes:
    return _resigned(bytes(64) + metadata + struct.pack("<I", len(metadata) + 4))


def test_package_says_what_was_composed() -> None:
    """Info, digest, padded payload and signer come back."""
    image = verify_package(PACKAGE, [SoftwareSigner.generate().public_key, *KEYS], kind=ImageKind.MODEL)
    assert image.info == INFO
    assert image.info.version == "1.0.0"
    assert image.digest == digest_of(PACKAGE) == hashlib.sha256(PACKAGE).hexdigest()
    assert image.payload == PAYLOAD + bytes(2)
    assert image.signer_id == key_id(SIGNER.public_key) == hashlib.sha256(spki_der(SIGNER.public_key)).digest()


def test_any_kind_is_taken_where_none_is_expected() -> None:
    """A service looks at packages of every kind."""
    for kind in ImageKind:
        package = compose(PAYLOAD, replace(INFO, image_type=IMAGE_TYPE[kind]), SIGNER)
        assert verify_package(package, KEYS, kind=None).info.image_type == IMAGE_TYPE[kind]


def test_package_of_another_kind_is_refused() -> None:
    """A model is no application."""
    with pytest.raises(PackageError, match=r"image type: expected 10 \(application\), found 28 \(Other\)"):
        verify_package(PACKAGE, KEYS, kind=ImageKind.APPLICATION)


@pytest.mark.parametrize("size", [0, 75, MAX_PACKAGE_BYTES + 1])
def test_package_of_impossible_length_is_refused(size: int) -> None:
    """Too short for a signature, or larger than the flash."""
    with pytest.raises(PackageError, match=f"image package: expected 76 to 16777216 bytes, found {size}"):
        verify_package(bytes(size), KEYS, kind=None)


def test_package_of_another_key_is_refused() -> None:
    """Only trusted keys count; an empty list trusts nobody."""
    for keys in ([SoftwareSigner.generate().public_key], []):
        with pytest.raises(PackageSignatureError, match=f"by one of {len(keys)} trusted keys, found none"):
            verify_package(PACKAGE, keys, kind=ImageKind.MODEL)


def _development_package(kind: ImageKind) -> bytes:
    """A package as everybody who has azuresphere-imagemetadata can sign it."""
    return bytes(Image(compose(PAYLOAD, replace(INFO, image_type=IMAGE_TYPE[kind]), SIGNER)).serialize())


@pytest.mark.parametrize("trusted", [[], KEYS, [DEVELOPMENT_KEY], [DEVELOPMENT_KEY, *KEYS]])
def test_package_of_the_public_development_key_is_refused(trusted: list[ec.EllipticCurvePublicKey]) -> None:
    """Everybody has Azure Sphere's development key; listing it among the trusted ones does not help."""
    with pytest.raises(DevelopmentKeyError, match="found one by Azure Sphere's public development key"):
        verify_package(_development_package(ImageKind.MODEL), trusted, kind=None)


@pytest.mark.parametrize("kind", [ImageKind.APPLICATION, ImageKind.FIRMWARE, ImageKind.MODEL])
def test_package_of_the_development_key_is_taken_where_it_is_allowed(kind: ImageKind) -> None:
    """A device with the AppDevelopment capability runs what its developer signs."""
    image = verify_package(_development_package(kind), KEYS, kind=kind, allow_development=True)
    assert image.info == replace(INFO, image_type=IMAGE_TYPE[kind])
    assert image.signer_id == key_id(DEVELOPMENT_KEY)


@pytest.mark.parametrize("kind", [ImageKind.BOOT_LOADER, ImageKind.SECURITY_MONITOR, ImageKind.OS])
def test_system_image_of_the_development_key_is_refused_everywhere(kind: ImageKind) -> None:
    """The capability is for applications; the system stays the maker's."""
    with pytest.raises(DevelopmentKeyError, match="expected a signature by the maker"):
        verify_package(_development_package(kind), [DEVELOPMENT_KEY], kind=kind, allow_development=True)


def test_allowed_development_trusts_nobody_else() -> None:
    """Neither another key nor a changed package."""
    package = bytearray(_development_package(ImageKind.MODEL))
    package[0] ^= 1
    with pytest.raises(PackageSignatureError, match="by one of 1 trusted keys, found none"):
        verify_package(bytes(package), KEYS, kind=None, allow_development=True)


@given(st.integers(min_value=0, max_value=len(PACKAGE) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    """Payload, metadata or signature."""
    flipped = bytearray(PACKAGE)
    flipped[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(PackageSignatureError):
        verify_package(bytes(flipped), KEYS, kind=None)


@given(st.integers(min_value=0, max_value=len(PACKAGE) - 1))
def test_any_truncation_is_refused(length: int) -> None:
    """A download that stopped early."""
    with pytest.raises(ProtocolError):
        verify_package(PACKAGE[:length], KEYS, kind=None)


@given(st.binary(min_size=12, max_size=400))
def test_any_bytes_signed_by_a_trusted_key_give_our_error(content: bytes) -> None:
    """Not even the key's thief raises anything but our error."""
    for package in (_resigned(content), _with_metadata(content), _with_metadata(HEADER + content)):
        with pytest.raises(PackageError):
            verify_package(package, KEYS, kind=None)


HEADER = struct.pack("<II", 0x4D345834, 4)
METADATA_START = len(PAYLOAD) + 2
METADATA = PACKAGE[METADATA_START:-64]


@given(st.integers(min_value=0, max_value=len(METADATA) - 1), st.integers(min_value=0, max_value=255))
def test_any_changed_byte_of_signed_metadata_gives_our_error_or_an_image(place: int, value: int) -> None:
    """A trusted key signs nonsense: our error, or an image whose fields are what the bytes say."""
    content = bytearray(PACKAGE[:-64])
    content[METADATA_START + place] = value
    try:
        image = verify_package(_resigned(bytes(content)), KEYS, kind=ImageKind.MODEL)
    except PackageError:
        return
    except IdentityError:
        return
    assert image.info.image_type == INFO.image_type


def test_section_count_of_four_thousand_million_is_refused_at_once() -> None:
    """The library would loop as often as the count says."""
    metadata = struct.pack("<II", 0x4D345834, 0xFFFFFFFF) + bytes(40)
    with pytest.raises(PackageError, match="expected 1 to 16 sections, found 4294967295"):
        verify_package(_with_metadata(metadata), KEYS, kind=None)


def test_metadata_longer_than_the_package_is_refused() -> None:
    """A length that points before the first byte."""
    content = bytes(64) + struct.pack("<I", 4096)
    with pytest.raises(PackageError, match="image metadata: expected 29 to 68 bytes, found 4096"):
        verify_package(_resigned(content), KEYS, kind=None)


def _library_package(*extra: object, thumbprint: str | None = None, signing_type: int = 1) -> bytes:
    """Compose with the library itself, so that sections can be doubled or left out."""
    image = Image(PACKAGE)
    for section in extra:
        image.metadata.add_section(section)
    signature = image.metadata.signature
    assert signature is not None
    if thumbprint is not None:
        signature.signing_cert_thumbprint = bytes.fromhex(thumbprint)
    signature.signing_type.signing_type = signing_type
    return _resigned(bytes(image.data) + image.metadata.serialize())


def test_doubled_section_is_refused() -> None:
    """Two security versions: one for the check, another for the fuse."""
    with pytest.raises(PackageError, match="section 0x5652: expected exactly one, found 2"):
        verify_package(_library_package(RevocationSection()), KEYS, kind=None)


def test_thumbprint_of_another_key_is_refused() -> None:
    """The signature section must name the key that signed."""
    with pytest.raises(PackageError, match="expected the thumbprint of the signing key"):
        verify_package(_library_package(thumbprint="00" * 20), KEYS, kind=None)


def test_other_signing_type_is_refused() -> None:
    """P-384 is not what was verified."""
    with pytest.raises(PackageError, match=r"signing type: expected 1 \(ECDSA P-256\), found 2"):
        verify_package(_library_package(signing_type=2), KEYS, kind=None)


@pytest.mark.parametrize(
    ("payload", "info", "message"),
    [
        (b"", INFO, "payload: expected 1 to"),
        (bytes(MAX_PACKAGE_BYTES), INFO, "payload: expected 1 to 16776192 bytes, found 16777216"),
        (PAYLOAD, replace(INFO, image_type=2), "image type: expected one of"),
        (PAYLOAD, replace(INFO, security_version=-1), "security version: expected 0 to"),
        (PAYLOAD, replace(INFO, security_version=1 << 32), "found 4294967296"),
        (PAYLOAD, replace(INFO, name=""), "image name: expected 1 to 31 bytes, found 0"),
        (PAYLOAD, replace(INFO, name="ä" * 16), "image name: expected 1 to 31 bytes, found 32"),
        (PAYLOAD, replace(INFO, name="a\0b"), "image name"),
        (PAYLOAD, replace(INFO, built_at=datetime(1969, 1, 1, tzinfo=UTC)), "build time: expected one after 1970"),
    ],
)
def test_what_does_not_fit_the_format_is_not_composed(payload: bytes, info: ImageInfo, message: str) -> None:
    """Refused before anything is signed."""
    with pytest.raises(PackageError, match=message):
        compose(payload, info, SIGNER)


def test_component_that_is_no_guid_is_not_composed() -> None:
    """The format holds 16 bytes."""
    with pytest.raises(IdentityError, match="GUID: expected 8-4-4-4-12 hex digits"):
        compose(PAYLOAD, replace(INFO, component_id="model"), SIGNER)


def test_time_is_kept_in_seconds() -> None:
    """Fractions do not survive; nothing else is lost."""
    package = compose(PAYLOAD, replace(INFO, built_at=INFO.built_at + timedelta(milliseconds=900)), SIGNER)
    assert verify_package(package, KEYS, kind=None).info == INFO


@given(st.binary(min_size=1, max_size=2000), st.text(min_size=1, max_size=7), st.integers(0, (1 << 32) - 1))
def test_what_is_composed_is_verified(payload: bytes, name: str, security_version: int) -> None:
    """Any payload and name that fit come back, up to three bytes of padding."""
    info = replace(INFO, name=name.replace("\0", "0"), security_version=security_version)
    image = verify_package(compose(payload, info, SIGNER), KEYS, kind=ImageKind.MODEL)
    assert image.info == info
    assert image.payload.startswith(payload)
    assert len(image.payload) - len(payload) < 4
