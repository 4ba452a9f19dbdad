"""Manufacturers whose devices a catalog takes besides its own: their bundles, and the signed list of those trusted.

    manufacturer.json    made by the manufacturer and signed by his root key: the chain of his IDevIDs, the keys that
                         verify his vouchers and system images, and where he says what he revoked
    manufacturers.json   made by the catalog's operator and signed by the catalog's root key, which is offline: the
                         service reads it when it starts and can add nobody to it

Verification of an unverified bundle, in this order:
    1. length, form, document;
    2. the root is the one of the fingerprint, SHA-256 of its DER, which the operator got from the manufacturer himself;
    3. its key signed the envelope;
    4. contents: the root is an authority by itself, the factory's certificate is an authority by the root, keys load.
Verification of an unverified list: length, form and document; signature by the catalog's root key; this catalog; each
manufacturer by step 4, names and roots once each. Not checked here: that the list is the newest; whoever can put an old
one into the service's folder controls the service, and takes no device without a voucher of its manufacturer.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from pki.catalog import load_catalog
from pki.chains import issued_by, verify_idevid
from pki.errors import ChainError, ManufacturerError
from pki.online import load_certificate
from protocol.document import Document, Moment, Name, peek_document, sign_document, verify_document
from protocol.errors import ProtocolError
from protocol.identity import X509_ERRORS, IdentityError, p256_key
from protocol.model import Guid
from protocol.signing import Signer
from protocol.voucher import Base64Bytes, public_keys

MANUFACTURER_PAYLOAD_TYPE = "application/vnd.tinyfleet.manufacturer+json"
TRUST_PAYLOAD_TYPE = "application/vnd.tinyfleet.manufacturers+json"
TRUST_FILE = "manufacturers.json"
MAX_BUNDLE_BYTES = 64 * 1024
MAX_MANUFACTURERS = 64
_MAX_TRUST_BYTES = MAX_MANUFACTURERS * MAX_BUNDLE_BYTES
_Url = Annotated[str, Field(pattern=r"^https?://[!-~]{1,500}$")]


class Manufacturer(Document):
    """What a catalog must know of a manufacturer to take his devices.

    Attributes:
        name: of the manufacturer, for people.
        root: DER certificate of his X.509 root.
        factory: DER certificate of the authority that issues his IDevIDs.
        voucher_key: DER SubjectPublicKeyInfo; verifies his vouchers.
        rom_key: DER SubjectPublicKeyInfo; verifies boot loader, security monitor and OS of his devices.
        ocsp_url: his OCSP responder; None if he has none.
        crl_url: his list of revoked IDevIDs; None if he publishes none.
    """

    name: Name
    made_at: Moment
    root: Base64Bytes
    factory: Base64Bytes
    voucher_key: Base64Bytes
    rom_key: Base64Bytes
    ocsp_url: _Url | None = None
    crl_url: _Url | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root, lower-case hex: what the manufacturer is known by."""
        return hashlib.sha256(self.root).hexdigest()

    @property
    def root_certificate(self) -> x509.Certificate:
        """The X.509 root; ManufacturerError if there is no certificate."""
        return _certificate(self.root, "root")

    @property
    def factory_certificate(self) -> x509.Certificate:
        """The issuer of the IDevIDs; ManufacturerError if there is no certificate."""
        return _certificate(self.factory, "factory")

    @property
    def system_key(self) -> ec.EllipticCurvePublicKey:
        """The key of system images; VoucherError if there is none."""
        return public_keys([self.rom_key])[0]

    def made(self, unverified_idevid_chain: bytes, *, now: datetime) -> bool:
        """Say whether an IDevID, PEM, leaf first, is by this manufacturer and valid at a time, UTC and aware."""
        factory, root = self.factory_certificate, self.root_certificate
        try:
            verify_idevid(unverified_idevid_chain, factory=factory, root=root, now=now)
        except ChainError:
            return False
        return True

    def check(self) -> None:
        """Check the contents.

        Raises:
            ManufacturerError: step 4.
        """
        # Step 4: contents.
        root, factory = self.root_certificate, self.factory_certificate
        if not (_is_authority(root) and issued_by(root, root)):
            raise ManufacturerError(f"manufacturer {self.name}: expected a self-signed root, found another certificate")
        if not (_is_authority(factory) and issued_by(factory, root)):
            raise ManufacturerError(
                f"manufacturer {self.name}: expected a factory authority by his root, found another"
            )
        try:
            public_keys([self.voucher_key, self.rom_key])
        except ProtocolError as error:
            raise ManufacturerError(f"manufacturer {self.name}: {error}") from error


class TrustList(Document):
    """The manufacturers that a catalog trusts.

    Attributes:
        version: rises with each change.
    """

    catalog_id: Guid
    version: Annotated[int, Field(ge=1)]
    made_at: Moment
    manufacturers: Annotated[tuple[Manufacturer, ...], Field(max_length=MAX_MANUFACTURERS)]

    def check(self) -> None:
        """Check every manufacturer.

        Raises:
            ManufacturerError: step 4, or a name or root that stands there twice.
        """
        for manufacturer in self.manufacturers:
            manufacturer.check()
        names = {manufacturer.name for manufacturer in self.manufacturers}
        roots = {manufacturer.fingerprint for manufacturer in self.manufacturers}
        if not len(names) == len(roots) == len(self.manufacturers):
            raise ManufacturerError("manufacturers: expected each name and root once, found one twice")

    def trusting(self, manufacturer: Manufacturer, *, made_at: datetime) -> "TrustList":
        """Return the next list, with a manufacturer more, or with his newer bundle in place of the older one.

        Raises:
            ManufacturerError: another manufacturer has the name, or the bundle is older than the one in the list.
        """
        for known in self.manufacturers:
            if known.fingerprint == manufacturer.fingerprint and known.made_at > manufacturer.made_at:
                raise ManufacturerError(
                    f"manufacturer {manufacturer.name}: expected a bundle made since {known.made_at:%FT%TZ}, "
                    f"found one of {manufacturer.made_at:%FT%TZ}"
                )
        others = tuple(known for known in self.manufacturers if known.fingerprint != manufacturer.fingerprint)
        changed = {"version": self.version + 1, "made_at": made_at, "manufacturers": (*others, manufacturer)}
        successor = self.model_copy(update=changed)
        successor.check()
        return successor

    def without(self, name: str, *, made_at: datetime) -> "TrustList":
        """Return the next list, with a manufacturer less.

        Raises:
            ManufacturerError: there is none of this name.
        """
        others = tuple(known for known in self.manufacturers if known.name != name)
        if len(others) == len(self.manufacturers):
            raise ManufacturerError(f"manufacturers: expected one of the name {name[:50]!r}, found none")
        return self.model_copy(update={"version": self.version + 1, "made_at": made_at, "manufacturers": others})


def sign_manufacturer(manufacturer: Manufacturer, root: Signer) -> bytes:
    """Sign a bundle by the manufacturer's root key; a DSSE envelope, JSON bytes."""
    return sign_document(manufacturer, MANUFACTURER_PAYLOAD_TYPE, root)


def peek_manufacturer(unverified: bytes) -> Manufacturer:
    """Return what a bundle says, so that an operator can compare its fingerprint; nothing is verified.

    Raises:
        ManufacturerError: step 1.
    """
    # Step 1: form.
    try:
        return peek_document(unverified, MANUFACTURER_PAYLOAD_TYPE, Manufacturer, max_bytes=MAX_BUNDLE_BYTES)
    except ProtocolError as error:
        raise ManufacturerError(f"bundle: expected one by `tinyfleet factory bundle`, found: {error}") from error


def verify_manufacturer(unverified: bytes, *, fingerprint: str) -> Manufacturer:
    """Verify a bundle, by the steps of the module.

    Args:
        unverified: DSSE envelope.
        fingerprint: of the manufacturer, SHA-256, lower-case hex.

    Raises:
        ManufacturerError: any step.
    """
    claimed = peek_manufacturer(unverified)
    # Step 2: fingerprint.
    if claimed.fingerprint != fingerprint:
        raise ManufacturerError(f"bundle: expected the manufacturer of {fingerprint}, found {claimed.fingerprint}")
    # Step 3: signature.
    try:
        manufacturer = verify_document(
            unverified,
            MANUFACTURER_PAYLOAD_TYPE,
            Manufacturer,
            trusted_keys=[_root_key(claimed.root_certificate)],
            max_bytes=MAX_BUNDLE_BYTES,
        )
    except ProtocolError as error:
        raise ManufacturerError("bundle: expected a signature by its own root key, found none") from error
    manufacturer.check()
    return manufacturer


def sign_trust_list(trusted: TrustList, root: Signer) -> bytes:
    """Sign a list by the catalog's root key; a DSSE envelope, JSON bytes."""
    return sign_document(trusted, TRUST_PAYLOAD_TYPE, root)


def verify_trust_list(unverified: bytes, *, root: x509.Certificate, catalog_id: str) -> TrustList:
    """Verify a list.

    Args:
        unverified: DSSE envelope.
        root: the catalog's.
        catalog_id: GUID of the catalog that it must be of.

    Raises:
        ManufacturerError: it is none, by another key, of another catalog, or a manufacturer in it is malformed.
    """
    try:
        trusted = verify_document(
            unverified, TRUST_PAYLOAD_TYPE, TrustList, trusted_keys=[_root_key(root)], max_bytes=_MAX_TRUST_BYTES
        )
    except ProtocolError as error:
        raise ManufacturerError(f"manufacturers: expected a list by the catalog's root key, found: {error}") from error
    if trusted.catalog_id != catalog_id:
        raise ManufacturerError(f"manufacturers: expected catalog {catalog_id}, found {trusted.catalog_id}")
    trusted.check()
    return trusted


def load_trust_list(path: Path, *, root: x509.Certificate, catalog_id: str) -> TrustList | None:
    """Read a list; None if there is no file. Raises as `verify_trust_list`."""
    if not path.exists():
        return None
    return verify_trust_list(path.read_bytes(), root=root, catalog_id=catalog_id)


def trusted_manufacturers(service_dir: Path) -> tuple[Manufacturer, ...]:
    """Return the manufacturers of a service's folder, in the order of the list; none if there is no list.

    Raises:
        ManufacturerError: the list is not of this catalog, or not by its root key.
        PkiError: the catalog's root or genesis/catalog.json is missing or malformed.
    """
    path = service_dir / "certificates" / TRUST_FILE
    if not path.exists():
        return ()
    root = load_certificate(service_dir / "certificates" / "root.pem")
    catalog = load_catalog(service_dir / "genesis" / "catalog.json")
    return verify_trust_list(path.read_bytes(), root=root, catalog_id=catalog.catalog_id).manufacturers


def _certificate(der: bytes, name: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except X509_ERRORS as error:
        raise ManufacturerError(f"{name}: expected a DER certificate, found other bytes") from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *X509_ERRORS):
        return False


def _root_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        return p256_key(certificate)
    except IdentityError as error:
        raise ManufacturerError(f"root: {error}") from error
