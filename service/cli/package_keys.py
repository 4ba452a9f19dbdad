"""Public keys by which the commands say who signed a package; no passphrase is needed to look."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from pki.catalog import load_catalog
from pki.packages import SIGNING_KEY
from pki.public_keys import load_public_key
from pki.roles import OfflineKey
from protocol.image import (
    DEVELOPMENT_IMAGE_TYPES,
    DEVELOPMENT_KEY,
    IMAGE_TYPE,
    PackageSignatureError,
    is_signed_by,
    key_id,
    key_thumbprint,
    read_info,
)
from protocol.image_layout import SectionId, read_layout

THUMBPRINT_BYTES = 20
KeyOption = Annotated[
    list[Path] | None,
    typer.Option("--key", help="PEM file of a further public key that may have signed; may be repeated."),
]


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A public key, whose it is, and the image types that it may sign."""

    label: str
    public_key: ec.EllipticCurvePublicKey
    image_types: frozenset[int]

    @override
    def __str__(self) -> str:
        return f"{self.label} ({key_id(self.public_key).hex()[:16]}…)"


def known_keys(operator_dir: Path, further: Iterable[Path] | None) -> list[KnownKey]:
    """Return the keys that are known here: the catalog's where there is one, those of files, the development key.

    Raises:
        CatalogError: catalog.json is malformed.
        KeyStoreError: a file holds no P-256 public key.
    """
    catalog = operator_dir / "repository" / "catalog.json"
    every = frozenset(IMAGE_TYPE.values())
    return [
        *(_of_catalog(catalog) if catalog.exists() else ()),
        *(KnownKey(str(path), load_public_key(path), every) for path in further or ()),
        KnownKey("Azure Sphere's public development key", DEVELOPMENT_KEY, DEVELOPMENT_IMAGE_TYPES),
    ]


def _of_catalog(path: Path) -> Iterator[KnownKey]:
    catalog = load_catalog(path)
    for role, keys in ((OfflineKey.PACKAGE, catalog.package_keys), (OfflineKey.ROM, catalog.system_keys)):
        image_types = frozenset(IMAGE_TYPE[kind] for kind, signer in SIGNING_KEY.items() if signer is role)
        yield from (KnownKey(f"{role} key of {catalog.name}", key, image_types) for key in keys)


def signer_of(unverified_package: bytes, keys: Sequence[KnownKey]) -> KnownKey | None:
    """Return the key whose signature is at the end of a package, or None if it is none of these."""
    return next((key for key in keys if is_signed_by(unverified_package, key.public_key)), None)


def signer_before(unverified_package: bytes, keys: Sequence[KnownKey]) -> str:
    """Say in words who signed a package before it is signed anew.

    Raises:
        PackageError: the bytes are no package.
        PackageSignatureError: it names a key that is known, and that key did not sign it: somebody changed it.
    """
    signer = signer_of(unverified_package, keys)
    if signer is not None:
        return f"{signer}, verified"
    named = read_layout(unverified_package).body(SectionId.SIGNATURE)[:THUMBPRINT_BYTES]
    for key in keys:
        if key_thumbprint(key.public_key) == named:
            raise PackageSignatureError(
                f"image package: expected the signature of the {key}, which it names, found none"
            )
    return f"a key that is not known here, SHA-1 thumbprint {named.hex()}; not verified"


def trusted_for(unverified_package: bytes, keys: Sequence[KnownKey]) -> list[ec.EllipticCurvePublicKey]:
    """Return the keys that may sign the type of image that a package says it is."""
    image_type = read_info(unverified_package).image_type
    return [key.public_key for key in keys if image_type in key.image_types]
