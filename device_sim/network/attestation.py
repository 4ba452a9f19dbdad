"""Attestation: prove what was booted, learn the time, and come back with an operational certificate.

Verification of the service's answers, in this order:
    1. signed time: a DSSE envelope by the timestamp role of the Director's root;
    2. it answers this device's own nonce, so it was made now;
    3. it is neither below the floor nor beyond all reason; only then the device's clock is set;
    4. the certificate is for the key that was made for this attestation, names this device, and reaches as far as the
       answer says;
    5. its chain leads to the voucher's TLS root, at the device's time.
The evidence's nonce claim binds the service's nonce to the key of the CSR. Not checked here: TLS, by `network.tls`.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from device_sim.errors import DeviceSimError
from device_sim.hardware.machine import Machine
from device_sim.network.ports import HttpResponse, HttpTransport, UnexpectedResponseError
from device_sim.network.problems import problem_detail, unexpected
from device_sim.network.tls import Credential
from protocol.document import Document, DocumentError, canonical_json, parse_document, verify_document
from protocol.errors import ProtocolError
from protocol.evidence import NONCE_BYTES, bind_nonce
from protocol.identity import Access, DeviceId, access_in, device_id_in
from protocol.messages import (
    TIME_PAYLOAD_TYPE,
    AttestationReply,
    AttestationRequest,
    NonceReply,
    NonceRequest,
    SignedTime,
)
from protocol.voucher import Voucher

NONCE_PATH = "/device/v1/attest/nonce"
ATTEST_PATH = "/device/v1/attest"
MAX_REPLY_BYTES = 64 * 1024
OK, FORBIDDEN = 200, 403

DocumentT = TypeVar("DocumentT", bound=Document)


class AttestationRefusedError(DeviceSimError):
    """The service does not let the device in; the message carries its reason."""


class SignedTimeError(DeviceSimError):
    """The signed time is not the answer to this device's nonce, or nobody trusted signed it."""


class IssuedCertificateError(DeviceSimError):
    """The operational certificate is for another key or device, reaches elsewhere, or its chain leads elsewhere."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What an attestation brings.

    Attributes:
        credential: the operational certificate and its key.
        access: how far it reaches.
        not_after: its end, UTC, aware.
    """

    credential: Credential
    access: Access
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Attester:
    """What attestation needs.

    Attributes:
        machine: has booted.
        voucher: in force.
        transport: with the IDevID.
        timestamp_keys: the Director's, by the newest root that was verified.
    """

    machine: Machine
    voucher: Voucher
    transport: HttpTransport
    timestamp_keys: Sequence[ec.EllipticCurvePublicKey]

    def attest(self) -> Admission:
        """Attest once.

        Raises:
            NetworkError: the service was not reached or broke the protocol.
            AttestationRefusedError: the service refused the device.
            SignedTimeError: steps 1 or 2.
            ClockRollbackError, ClockLeapError: step 3.
            IssuedCertificateError: steps 4 or 5.
        """
        nonce = self._fetch_nonce()
        key, csr = self.machine.rot.new_operational_key()
        evidence = self.machine.attest(bind_nonce(nonce, key.public_key))
        request = AttestationRequest(evidence=evidence, csr=csr)
        reply = _parse(self._post(ATTEST_PATH, request), AttestationReply)
        credential = Credential(key, reply.certificate_chain.encode())
        self._check_certificate(credential, reply.access)
        return Admission(credential, reply.access, credential.leaf.not_valid_after_utc)

    def _fetch_nonce(self) -> bytes:
        device_nonce = secrets.token_bytes(NONCE_BYTES)
        reply = _parse(self._post(NONCE_PATH, NonceRequest(device_nonce=device_nonce)), NonceReply)
        if len(reply.nonce) != NONCE_BYTES:
            raise UnexpectedResponseError(f"nonce: expected {NONCE_BYTES} bytes, found {len(reply.nonce)}")
        # Step 3: the clock and its floor.
        self.machine.learn_time(verify_time(reply.signed_time, device_nonce, trusted_keys=self.timestamp_keys))
        return reply.nonce

    def _post(self, path: str, document: Document) -> HttpResponse:
        response = self.transport.request("POST", path, max_bytes=MAX_REPLY_BYTES, body=canonical_json(document))
        if response.status == FORBIDDEN:
            raise AttestationRefusedError(problem_detail(response))
        if response.status != OK:
            raise unexpected(path, response, expected=OK)
        return response

    def _check_certificate(self, credential: Credential, access: Access) -> None:
        certificates = _load_chain(credential.chain)
        # Step 4: key, name and reach.
        _check_leaf(certificates[0], credential.key.public_key, self.machine.device_id, access=access)
        # Step 5: chain.
        _check_chain(certificates, self.voucher.tls_root_certificate, self.machine.clock.now())


def verify_time(
    unverified_time: bytes, device_nonce: bytes, *, trusted_keys: Sequence[ec.EllipticCurvePublicKey]
) -> datetime:
    """Return the time that the service signed, UTC and aware.

    Args:
        unverified_time: DSSE envelope around a SignedTime.
        device_nonce: what the device sent, 32 bytes.
        trusted_keys: of the Director's timestamp role.

    Raises:
        SignedTimeError: steps 1 or 2.
    """
    # Step 1: signature.
    try:
        signed = verify_document(unverified_time, TIME_PAYLOAD_TYPE, SignedTime, trusted_keys=trusted_keys)
    except ProtocolError as error:
        raise SignedTimeError(f"signed time: {error}") from error
    # Step 2: nonce.
    if not secrets.compare_digest(signed.device_nonce, device_nonce):
        raise SignedTimeError("signed time: expected this device's nonce, found another")
    return signed.now


def _parse(response: HttpResponse, document_type: type[DocumentT]) -> DocumentT:
    try:
        return parse_document(response.body, document_type)
    except DocumentError as error:
        raise UnexpectedResponseError(str(error)) from error


def _load_chain(chain: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise IssuedCertificateError("certificate chain: expected PEM certificates, found other bytes") from error


def _check_leaf(leaf: x509.Certificate, key: ec.EllipticCurvePublicKey, device_id: DeviceId, *, access: Access) -> None:
    if leaf.public_key() != key:
        raise IssuedCertificateError("certificate: expected the key of the CSR, found another")
    try:
        named, reach = device_id_in(leaf), access_in(leaf)
    except ProtocolError as error:
        raise IssuedCertificateError(f"certificate: {error}") from error
    if named != device_id:
        raise IssuedCertificateError(f"certificate: expected device {device_id[:16]}, found {named[:16]}")
    if reach != access:
        raise IssuedCertificateError(f"certificate: expected one for {access} access, found one for {reach}")


def _check_chain(certificates: Sequence[x509.Certificate], root: x509.Certificate, now: datetime) -> None:
    any_extension: Any = ExtensionPolicy.permit_all()  # the leaf's profile is the service's business
    verifier = (
        PolicyBuilder()
        .store(Store([root]))
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=any_extension)
        .time(now)
        .build_client_verifier()
    )
    try:
        verifier.verify(certificates[0], list(certificates[1:]))
    except VerificationError as error:
        raise IssuedCertificateError(f"certificate chain: expected one to the voucher's root, found {error}") from error
