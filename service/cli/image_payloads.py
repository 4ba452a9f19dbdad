"""What an image is made of, by its kind: bytes as they are, or a list of keys or a board's YAML turned into a payload.

trust store      keys: [{role: package, file: package.pem}, …]; files beside the list
board            model: acme-eye
                 hardware_revision: B2
                 cores: {m4-0: {adc0: [41, 42]}}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from pki.public_keys import load_public_key
from protocol.board import BoardConfiguration, encode_board
from protocol.document import Document, DocumentT, parse_document
from protocol.geometry import ImageKind
from protocol.image import IMAGE_TYPE, MAX_PACKAGE_BYTES, VerifiedImage
from protocol.model import parse_model_payload
from protocol.trust_store import TrustedKey, TrustRole, encode_trust_store
from service.cli.offered import PackageFileError, read_input

MAX_YAML_BYTES = 64 * 1024


class ListedKey(Document):
    """One key of a trust store's list."""

    role: Annotated[str, Field(pattern=f"^({'|'.join(role.name.lower() for role in TrustRole)})$")]
    file: Annotated[str, Field(min_length=1, max_length=200)]


class KeyList(Document):
    """What a trust store is made of."""

    keys: tuple[ListedKey, ...]


def read_payload(path: Path, kind: ImageKind) -> bytes:
    """Read what an image of a kind is to hold.

    Raises:
        PackageFileError: a file cannot be read, or is no YAML.
        ProtocolError: it is not of the form of its kind.
        KeyStoreError: a file of the list holds no P-256 public key.
    """
    if kind is ImageKind.TRUST_STORE:
        return _trust_store(path)
    if kind is ImageKind.BOARD_CONFIGURATION:
        return encode_board(_from_yaml(path, BoardConfiguration))
    return read_input(path, max_bytes=MAX_PACKAGE_BYTES)


def requires_of_card(image: VerifiedImage) -> Mapping[str, str]:
    """Return what a model's card requires of other images; nothing for an image of another kind."""
    if image.info.image_type != IMAGE_TYPE[ImageKind.MODEL]:
        return {}
    return parse_model_payload(image.payload).card.requires


def _trust_store(path: Path) -> bytes:
    listed = _from_yaml(path, KeyList).keys
    return encode_trust_store(
        TrustedKey(TrustRole[each.role.upper()], load_public_key(path.parent / each.file)) for each in listed
    )


def _from_yaml(path: Path, document_type: type[DocumentT]) -> DocumentT:
    content = read_input(path, max_bytes=MAX_YAML_BYTES)
    try:
        return parse_document(json.dumps(yaml.safe_load(content)).encode(), document_type)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise PackageFileError(f"{path}: expected YAML of a {document_type.__name__}, found: {error}") from error
