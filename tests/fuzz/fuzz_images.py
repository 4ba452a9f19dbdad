"""Image packages and what they hold: signed by the package key, with metadata out of hand; shown, signed anew, read."""

import struct
from datetime import UTC, datetime

from protocol.board import BoardConfiguration, encode_board, parse_board
from protocol.errors import ProtocolError
from protocol.geometry import Core, ImageKind, Slot
from protocol.image import (
    IMAGE_TYPE,
    ImageInfo,
    Interface,
    Runtime,
    TemporaryFlags,
    compose,
    read_info,
    resign,
    verify_package,
)
from protocol.image_layout import Section, SectionId, read_layout, signed_part
from protocol.model import parse_model_payload
from protocol.signing import RAW_SIGNATURE_BYTES, raw_from_der
from protocol.trust_store import TrustedKey, TrustRole, encode_trust_store, parse_trust_store
from service.cli.image_sections import explain_package
from tests.fuzz.target import KEY, SIGNER, Target
from tests.unit.device_hardware.device_builder import Packages

_PACKAGES = Packages()
_IMAGE = _PACKAGES.image(Slot.M4_0_FIRMWARE, key=SIGNER)
_MODEL = verify_package(_PACKAGES.model(Slot.M4_0_MODEL), [_PACKAGES.keys.package.public_key], kind=None).payload
_COMPONENT = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"
_EVERY_SECTION = compose(
    b"payload",
    ImageInfo(
        IMAGE_TYPE[ImageKind.APPLICATION],
        _COMPONENT,
        _COMPONENT,
        "app@1.0.0",
        3,
        datetime(2026, 3, 1, tzinfo=UTC),
        temporary=TemporaryFlags.UNDER_DEVELOPMENT,
        depends=(Interface(Runtime.OS, 3), Interface(Runtime.SECURE_WORLD, 1)),
        provides=(Interface(Runtime.APPLICATION, 7),),
    ),
    SIGNER,
)
_BOARD = encode_board(
    BoardConfiguration(model="eye", hardware_revision="B2", cores={Core.M4_0: {"adc0": (41,), "gpio9": (9,)}})
)
_TRUST_STORE = encode_trust_store([TrustedKey(role, KEY) for role in TrustRole])


def _compressed() -> bytes:
    layout = read_layout(_IMAGE)
    section = Section(SectionId.COMPRESSION, struct.pack("<II", 5000, 1))
    content = signed_part(layout.payload, [*layout.sections, section])
    return content + raw_from_der(SIGNER.sign(content))


def _package(unverified: bytes) -> None:
    verify_package(unverified, [KEY], kind=None, allow_development=True)


def _signed_package(unverified: bytes) -> None:
    """Whatever the key signs is verified, or refused with our error; what is verified is signed anew and verified."""
    package = unverified + raw_from_der(SIGNER.sign(unverified))
    image = verify_package(package, [KEY], kind=None, allow_development=True)
    again = verify_package(resign(package, SIGNER), [KEY], kind=None, allow_development=True)
    assert (again.info, again.payload) == (image.info, image.payload)


def _resigned(unverified: bytes) -> None:
    """What is signed anew says what it said before."""
    again = resign(unverified, SIGNER)
    assert read_layout(again).payload == read_layout(unverified).payload


_SEEDS = (_IMAGE, _EVERY_SECTION, _compressed())
TARGETS = (
    Target("image-package", _package, (ProtocolError,), _SEEDS),
    Target("image-metadata", _signed_package, (ProtocolError,), tuple(seed[:-RAW_SIGNATURE_BYTES] for seed in _SEEDS)),
    Target("image-info", read_info, (ProtocolError,), _SEEDS),
    Target("image-signed-anew", _resigned, (ProtocolError,), _SEEDS),
    Target("image-explained", explain_package, (), (*_SEEDS, _EVERY_SECTION[:-70])),
    Target("model-payload", parse_model_payload, (ProtocolError,), (_MODEL,)),
    Target("trust-store", parse_trust_store, (ProtocolError,), (_TRUST_STORE,)),
    Target("board-configuration", parse_board, (ProtocolError,), (_BOARD,)),
)
