"""Image and model packages: signed by the package key, with metadata out of hand."""

from protocol.errors import ProtocolError
from protocol.geometry import Slot
from protocol.image import verify_package
from protocol.model import parse_model_payload
from protocol.signing import raw_from_der
from tests.fuzz.target import KEY, SIGNER, Target
from tests.unit.device_hardware.device_builder import Packages

RAW_SIGNATURE_BYTES = 64
_PACKAGES = Packages()
_IMAGE = _PACKAGES.image(Slot.M4_0_FIRMWARE, key=SIGNER)
_MODEL = verify_package(_PACKAGES.model(Slot.M4_0_MODEL), [_PACKAGES.keys.package.public_key], kind=None).payload


def _package(unverified: bytes) -> None:
    verify_package(unverified, [KEY], kind=None)


def _signed_package(unverified: bytes) -> None:
    _package(unverified + raw_from_der(SIGNER.sign(unverified)))


TARGETS = (
    Target("image-package", _package, (ProtocolError,), (_IMAGE,)),
    Target("image-metadata", _signed_package, (ProtocolError,), (_IMAGE[:-RAW_SIGNATURE_BYTES],)),
    Target("model-payload", parse_model_payload, (ProtocolError,), (_MODEL,)),
)
