"""Who is at the other end: what a verified certificate says, and the ports that verify and issue certificates."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from pki.csr import VerifiedCsr
from pki.issuance import CertificateFacts
from protocol.identity import Access, DeviceId, spki_der
from service.domain.errors import ForbiddenError, InvalidError


class CertificateRefusedError(ForbiddenError):
    """A certificate is of a foreign issuer, expired, or names nobody."""


class CsrRefusedError(InvalidError):
    """A certificate signing request breaks a rule of the LDevID profile."""


class CertificateKind(StrEnum):
    """What a device certificate lets its holder do."""

    IDEVID = "IDevID"  # attest, nothing else
    LDEVID = "LDevID"  # everything but attest


@dataclass(frozen=True, slots=True)
class DevicePeer:
    """The device at the other end of a TLS connection.

    Attributes:
        public_key: of the certificate; of an IDevID that is the identity key.
        not_after: end of the certificate's validity, UTC; no request is served at or after it.
        access: how far an LDevID reaches; an IDevID says nothing of it, its kind alone decides.
        issuer_key_id: of an IDevID, subject key identifier of the authority that verified it, hex; otherwise, or where
            the authority has none and so can publish no revocation, empty.
        spki: the public key as DER SubjectPublicKeyInfo.
    """

    kind: CertificateKind
    device_id: DeviceId
    public_key: ec.EllipticCurvePublicKey
    not_after: datetime
    access: Access
    issuer_key_id: str = ""
    spki: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Encode the key once for all that the device asks over its connection."""
        object.__setattr__(self, "spki", spki_der(self.public_key))

    @property
    def key_id(self) -> str:
        """SHA-256 of the certificate's SubjectPublicKeyInfo, hex."""
        return hashlib.sha256(self.spki).hexdigest()


@dataclass(frozen=True, slots=True)
class OperatorPeer:
    """The operator at the other end of a TLS connection, by client certificate."""

    name: str
    not_after: datetime


class CertificateVerifier(Protocol):
    """Verifies unverified certificates against the service's authorities."""

    def device(self, unverified_der: bytes) -> DevicePeer:
        """Verify a device's leaf certificate, IDevID or LDevID.

        Raises:
            CertificateRefusedError: it is neither, or not valid now.
        """

    def idevid_chain(self, unverified_pem: bytes) -> DevicePeer:
        """Verify an IDevID chain, PEM, leaf first.

        Raises:
            CertificateRefusedError: it is none, or of another factory.
        """

    def operator(self, unverified_der: bytes) -> OperatorPeer:
        """Verify an operator's client certificate, which the root itself issued.

        Raises:
            CertificateRefusedError: it is none.
        """


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """An LDevID.

    Attributes:
        chain_pem: leaf, then the issuing CA, then its cross certificates.
        serial: hex.
        not_after: UTC.
        access: how far it reaches.
        facts: for the issuance log, which takes them in the transaction that hands the certificate out.
    """

    chain_pem: str
    serial: str
    not_after: datetime
    access: Access
    facts: CertificateFacts


class CertificateIssuer(Protocol):
    """Issues LDevID certificates."""

    @property
    def signs_here(self) -> bool:
        """Whether to issue is to compute; otherwise it is to wait for a token, and nobody else should."""

    def verify_csr(
        self, unverified_csr: bytes, device_id: DeviceId, *, identity_key: ec.EllipticCurvePublicKey
    ) -> VerifiedCsr:
        """Verify a request of the device that is connected.

        Raises:
            CsrRefusedError: not its request, no proof of possession, or a key that is known to others.
        """

    def issue(
        self, request: VerifiedCsr, *, access: Access = Access.FULL, lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        """Issue the certificate.

        Args:
            request: whose key is in no certificate yet; the issuance log knows.
            access: how far the certificate reaches.
            lifetime: None for the setting's, which a longer one is cut to.
        """

    def sign_time(self, device_nonce: bytes) -> bytes:
        """Return the current time in answer to a device's nonce, signed by the Director's key (DSSE envelope)."""
