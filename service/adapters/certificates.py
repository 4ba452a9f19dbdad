"""Certificates through pki: verifying devices and operators, issuing LDevIDs, signing the time.

An operator's client certificate counts only if the root itself issued it, so that neither the online issuing CA nor
the factory can make an operator.
"""

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.authority import CertificateAuthority, issuer_key_id
from pki.chains import issued_by, load_chain, verify_idevid, verify_ldevid
from pki.csr import VerifiedCsr, verify_ldevid_csr
from pki.errors import ChainError, CsrError
from pki.issuance import CertificateFacts, IssuanceKind
from pki.manufacturers import Manufacturer, trusted_manufacturers
from pki.online import load_certificate
from pki.profiles import ldevid
from pki.roles import OnlineKey
from pki.signed_time import sign_time
from protocol.errors import ProtocolError
from protocol.identity import OPERATOR_URI_PREFIX, Access, DeviceId, access_in, certificate_uri, device_uri
from service.adapters.issuing_ca import IssuingCaFolder
from service.adapters.online_signers import OnlineSigners
from service.application.clock import Clock
from service.application.identity import (
    CertificateKind,
    CertificateRefusedError,
    CsrRefusedError,
    DevicePeer,
    IssuedCertificate,
    OperatorPeer,
)

RevocationCheck = Callable[[x509.Certificate], None]


@dataclass(frozen=True, slots=True)
class Factory:
    """An authority that issues IDevIDs, and the root that it chains to."""

    certificate: x509.Certificate
    root: x509.Certificate


@dataclass(frozen=True, slots=True)
class Authorities:
    """The certificates that the service trusts and the keys that it issues and signs with.

    Attributes:
        issuing: the generations of the authority that issues LDevIDs; they change while the service runs.
        manufacturers: besides the catalog's own factory, by the list that the offline root signed.
    """

    root: x509.Certificate
    factory: x509.Certificate
    issuing: IssuingCaFolder
    online: OnlineSigners
    manufacturers: tuple[Manufacturer, ...] = ()

    @property
    def issuing_ca(self) -> CertificateAuthority:
        """The authority that issues LDevIDs now."""
        return self.issuing.active

    @property
    def foreign_factories(self) -> tuple[Factory, ...]:
        """What the trusted manufacturers' IDevIDs chain to, each to its own root."""
        return tuple(Factory(each.factory_certificate, each.root_certificate) for each in self.manufacturers)


def load_authorities(data_dir: Path) -> Authorities:
    """Read them from the service's folder.

    Raises:
        PkiError: a key or certificate is missing, malformed, or of another key; run the ceremony.
    """
    certificates = data_dir / "certificates"
    return Authorities(
        root=load_certificate(certificates / "root.pem"),
        factory=load_certificate(certificates / "factory.pem"),
        issuing=IssuingCaFolder(data_dir),
        online=OnlineSigners(data_dir),
        manufacturers=trusted_manufacturers(data_dir),
    )


class PkiVerifier:
    """Implements `CertificateVerifier`.

    Args:
        authorities: whose certificates are trusted.
        clock: source of the time that certificates must be valid at.
        refuse_revoked: raises CertificateRefusedError for a birth certificate that is revoked.
    """

    def __init__(
        self, authorities: Authorities, clock: Clock, *, refuse_revoked: RevocationCheck | None = None
    ) -> None:
        self._authorities = authorities
        self._factories = (Factory(authorities.factory, authorities.root), *authorities.foreign_factories)
        self._clock = clock
        self._refuse_revoked = refuse_revoked

    def device(self, unverified_der: bytes) -> DevicePeer:
        """See `CertificateVerifier.device`."""
        try:
            leaf = load_chain(unverified_der)[0]
        except ChainError as error:
            raise CertificateRefusedError(str(error)) from error
        if self._factory_of(leaf) is not None:
            return self.idevid_chain(unverified_der)
        return self._ldevid(unverified_der)

    def _ldevid(self, unverified_der: bytes) -> DevicePeer:
        issuing_cas, root = self._authorities.issuing.trusted, self._authorities.root
        try:
            verified = verify_ldevid(unverified_der, issuing_cas=issuing_cas, root=root, now=self._clock.now())
            access = access_in(verified.leaf)
        except (ChainError, ProtocolError) as error:
            raise CertificateRefusedError(str(error)) from error
        not_after = verified.leaf.not_valid_after_utc
        return DevicePeer(CertificateKind.LDEVID, verified.device_id, verified.public_key, not_after, access)

    def idevid_chain(self, unverified_pem: bytes) -> DevicePeer:
        """See `CertificateVerifier.idevid_chain`; takes a DER leaf as well."""
        try:
            factory = self._factory_of(load_chain(unverified_pem)[0]) or self._factories[0]
            verified = verify_idevid(
                unverified_pem, factory=factory.certificate, root=factory.root, now=self._clock.now()
            )
        except ChainError as error:
            raise CertificateRefusedError(str(error)) from error
        if self._refuse_revoked is not None:
            self._refuse_revoked(verified.leaf)
        not_after = verified.leaf.not_valid_after_utc
        return DevicePeer(
            CertificateKind.IDEVID,
            verified.device_id,
            verified.public_key,
            not_after,
            Access.FULL,
            issuer_key_id=_key_id(factory.certificate),
        )

    def _factory_of(self, leaf: x509.Certificate) -> Factory | None:
        # By key, not by name alone: two manufacturers may have chosen one name, or that of our own authorities.
        try:
            issuer = leaf.issuer
        except ValueError:  # cryptography parses a name when it is read
            return None
        named = (factory for factory in self._factories if factory.certificate.subject == issuer)
        return next((factory for factory in named if issued_by(leaf, factory.certificate)), None)

    def operator(self, unverified_der: bytes) -> OperatorPeer:
        """See `CertificateVerifier.operator`."""
        try:
            leaf = load_chain(unverified_der)[0]
            uri = certificate_uri(leaf)
            purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (ChainError, ProtocolError, x509.ExtensionNotFound, ValueError) as error:
            raise CertificateRefusedError("operator certificate: expected one URI and a purpose, found none") from error
        now = self._clock.now()
        if not issued_by(leaf, self._authorities.root) or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
            raise CertificateRefusedError("operator certificate: expected one for clients by the root, found another")
        if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
            raise CertificateRefusedError(f"operator certificate: expected valid at {now:%FT%TZ}, found it is not")
        if not uri.startswith(OPERATOR_URI_PREFIX):
            raise CertificateRefusedError(f"operator certificate: expected {OPERATOR_URI_PREFIX}…, found {uri[:60]!r}")
        return OperatorPeer(uri.removeprefix(OPERATOR_URI_PREFIX), leaf.not_valid_after_utc)


class PkiIssuer:
    """Implements `CertificateIssuer`.

    Args:
        authorities: keys of the issuing CA and the Director.
        clock: source of the time that is certified and signed.
        lifetime: validity of an LDevID.
    """

    def __init__(self, authorities: Authorities, clock: Clock, *, lifetime: timedelta) -> None:
        self._authorities = authorities
        self._clock = clock
        self._lifetime = lifetime

    @property
    def signs_here(self) -> bool:
        """See `CertificateIssuer.signs_here`."""
        return self._authorities.issuing_ca.signs_here

    def verify_csr(
        self, unverified_csr: bytes, device_id: DeviceId, *, identity_key: ec.EllipticCurvePublicKey
    ) -> VerifiedCsr:
        """See `CertificateIssuer.verify_csr`."""
        try:
            return verify_ldevid_csr(
                unverified_csr,
                device_id,
                identity_key=identity_key,
                reserved_keys=self._authorities.issuing.reserved_keys,
            )
        except CsrError as error:
            raise CsrRefusedError(str(error)) from error

    def issue(
        self, request: VerifiedCsr, *, access: Access = Access.FULL, lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        """See `CertificateIssuer.issue`."""
        lifetime = self._lifetime if lifetime is None else min(lifetime, self._lifetime)
        now, authority = self._clock.now(), self._authorities.issuing_ca
        profile = ldevid(request.device_id, now=now, lifetime=lifetime, access=access)
        made = authority.make(profile, request.spki)
        facts = CertificateFacts(
            at=now,
            kind=IssuanceKind.LDEVID,
            serial=f"{made.certificate.serial_number:x}",
            subject=device_uri(request.device_id),
            key_sha256=request.key_sha256,
            certificate_sha256=hashlib.sha256(made.der).hexdigest(),
            issuer_sha256=authority.certificate_sha256,
            not_after=profile.not_after,
        )
        chain = ssl.DER_cert_to_PEM_cert(made.der) + authority.chain_text
        return IssuedCertificate(chain, facts.serial, facts.not_after, access, facts)

    def sign_time(self, device_nonce: bytes) -> bytes:
        """See `CertificateIssuer.sign_time`."""
        return sign_time(device_nonce, *self._authorities.online.held(OnlineKey.DIRECTOR), now=self._clock.now())


def _key_id(factory: x509.Certificate) -> str:
    """The subject key identifier, hex; empty without."""
    try:
        return issuer_key_id(factory)
    except x509.ExtensionNotFound:
        return ""
