"""genesis/catalog.json: the tenant's identity, and whose signatures the service takes on what operators upload.

Public keys only. The ceremony writes it; the service reads it when it starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pki.errors import CatalogError
from protocol.document import Document, Name, canonical_json, parse_document
from protocol.errors import ProtocolError
from protocol.model import Guid
from protocol.voucher import Base64Bytes, encode_public_keys, public_keys

PublicKeys = Sequence[ec.EllipticCurvePublicKey]


@dataclass(frozen=True, slots=True)
class Catalog:
    """A tenant.

    Attributes:
        catalog_id: GUID.
        name: for people.
        package_keys: sign applications, firmware and models.
        system_keys: sign boot loader, security monitor and OS.
        golden_keys: sign golden vectors.
    """

    catalog_id: str
    name: str
    package_keys: PublicKeys
    system_keys: PublicKeys
    golden_keys: PublicKeys


class _CatalogDocument(Document):
    """Keys are DER SubjectPublicKeyInfo, base64."""

    id: Guid
    name: Name
    package_keys: tuple[Base64Bytes, ...]
    system_keys: tuple[Base64Bytes, ...]
    golden_keys: tuple[Base64Bytes, ...]


def encode_catalog(catalog: Catalog) -> bytes:
    """Return the content of catalog.json."""
    return canonical_json(
        _CatalogDocument(
            id=catalog.catalog_id,
            name=catalog.name,
            package_keys=encode_public_keys(catalog.package_keys),
            system_keys=encode_public_keys(catalog.system_keys),
            golden_keys=encode_public_keys(catalog.golden_keys),
        )
    )


def load_catalog(path: Path) -> Catalog:
    """Read catalog.json.

    Raises:
        CatalogError: the file is missing or malformed.
    """
    try:
        document = parse_document(path.read_bytes(), _CatalogDocument)
        return Catalog(
            catalog_id=document.id,
            name=document.name,
            package_keys=public_keys(document.package_keys),
            system_keys=public_keys(document.system_keys),
            golden_keys=public_keys(document.golden_keys),
        )
    except OSError as error:
        raise CatalogError(f"catalog: expected {path} of the ceremony, found: {error.strerror}") from error
    except ProtocolError as error:
        raise CatalogError(f"catalog: expected {path} as the ceremony writes it, found: {error}") from error
