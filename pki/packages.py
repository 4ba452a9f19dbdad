"""Sign image packages and golden vectors, each with the key of its role, and say which keys may have signed them."""

from collections.abc import Mapping
from types import MappingProxyType

from pki.catalog import Catalog, PublicKeys
from pki.keystore import KeyStore
from pki.roles import OfflineKey
from protocol.document import sign_document
from protocol.geometry import ImageKind
from protocol.image import ImageInfo, compose
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVectors

SIGNING_KEY: Mapping[ImageKind, OfflineKey] = MappingProxyType(
    {
        ImageKind.BOOT_LOADER: OfflineKey.ROM,
        ImageKind.SECURITY_MONITOR: OfflineKey.ROM,
        ImageKind.OS: OfflineKey.ROM,
        ImageKind.APPLICATION: OfflineKey.PACKAGE,
        ImageKind.FIRMWARE: OfflineKey.PACKAGE,
        ImageKind.MODEL: OfflineKey.PACKAGE,
        ImageKind.BOARD_CONFIGURATION: OfflineKey.PACKAGE,
        ImageKind.TRUST_STORE: OfflineKey.ROM,
    }
)


def trusted_keys(catalog: Catalog, kind: ImageKind) -> PublicKeys:
    """Return the keys of a catalog that may sign packages of a kind."""
    return catalog.system_keys if SIGNING_KEY[kind] is OfflineKey.ROM else catalog.package_keys


def sign_package(payload: bytes, info: ImageInfo, *, kind: ImageKind, keys: KeyStore) -> bytes:
    """Make a signed image package, by the key of its kind.

    Raises:
        PackageError: the payload or a field does not fit the format.
        KeyStoreError: the key is missing or cannot be used.
    """
    return compose(payload, info, keys.load(SIGNING_KEY[kind]))


def sign_golden(vectors: GoldenVectors, keys: KeyStore) -> bytes:
    """Sign golden vectors with the `golden` key; a DSSE envelope, JSON bytes.

    Raises:
        KeyStoreError: the key is missing or cannot be used.
    """
    return sign_document(vectors, GOLDEN_PAYLOAD_TYPE, keys.load(OfflineKey.GOLDEN))
