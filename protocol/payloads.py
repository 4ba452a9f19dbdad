"""The forms of payloads: what a verified package of a kind holds, taken apart by the parser of its kind."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from protocol.board import parse_board
from protocol.geometry import ImageKind
from protocol.image import IMAGE_TYPE, VerifiedImage
from protocol.learning import template_of
from protocol.model import ModelKind, ModelPackage, parse_model_payload
from protocol.trust_store import parse_trust_store


def parse_model(payload: bytes) -> ModelPackage:
    """Take a model payload apart, and its template if it is one; a .tflite model is TFLM's to read.

    Raises:
        ProtocolError: says where.
    """
    package = parse_model_payload(payload)
    if package.card.kind is ModelKind.ANOMALY_TEMPLATE:
        template_of(package)
    return package


_PARSERS: Mapping[int, Callable[[bytes], object]] = MappingProxyType(
    {
        IMAGE_TYPE[ImageKind.MODEL]: parse_model,
        IMAGE_TYPE[ImageKind.BOARD_CONFIGURATION]: parse_board,
        IMAGE_TYPE[ImageKind.TRUST_STORE]: parse_trust_store,
    }
)


def check_payload(image: VerifiedImage) -> object | None:
    """Return what a verified image's payload holds, None of code of any form; refuse what is not of the kind's form.

    Raises:
        ProtocolError: says where.
    """
    parse = _PARSERS.get(image.info.image_type)
    return None if parse is None else parse(image.payload)
