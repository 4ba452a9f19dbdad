"""Enrolment by EST (RFC 7030): the same appraisal as attestation, for devices that come without our client.

A device enrols by its IDevID, and again by an LDevID that is still valid. Verification of an unverified request, in
this order:
    1. standing: the device is claimed; otherwise it may ask again (RFC 7030 §4.2.3), and operators see that it did;
    2. product: its product lets devices enrol by EST;
    3. evidence: the CSR carries a PSA token (pki/est.py);
    4. attestation: every step of `service.application.attestation`, with a nonce that was given for EST, and the
       identity key that the device had when it was claimed; the LDevID that it connects with counts for nothing here.
A CSR that is refused is recorded as a refusal, as evidence is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cryptography import x509

from pki.errors import CsrError
from pki.est import certificates_only, csr_attributes, evidence_in
from protocol.messages import AttestationRequest
from service.application.attestation import Attestation
from service.application.device_repositories import IssuedNonce, NoncePurpose
from service.application.identity import CsrRefusedError, DevicePeer
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.device import Device
from service.domain.errors import ForbiddenError, InvalidError


class EstRequestError(InvalidError):
    """An enrolment request is not of the form that RFC 7030 and /csrattrs ask for."""


class EstMediaTypeError(InvalidError):
    """The request's content type is not the one of the operation."""


class EstTooLongError(InvalidError):
    """The request is longer than any that could be right."""


class EstDisabledError(ForbiddenError):
    """The device's product does not let devices enrol by EST."""


class EnrolmentPendingError(ForbiddenError):
    """Nobody has claimed the device yet; it may ask again."""


class Est:
    """Enrolment by EST.

    Args:
        attestation: appraises and certifies.
        authorities: returns the certificates of the root and of the issuers, as they are now.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        attestation: Attestation,
        authorities: Callable[[], Sequence[x509.Certificate]],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._attestation = attestation
        self._authorities = authorities

    def ca_certificates(self) -> bytes:
        """Return the certificates of the authorities, PKCS#7, DER."""
        return certificates_only(self._authorities())

    def csr_attributes(self, peer: DevicePeer) -> bytes:
        """Return what a device's CSR should have, DER."""
        return csr_attributes(peer.device_id)

    async def nonce(self, peer: DevicePeer) -> IssuedNonce:
        """Give a device a nonce for its evidence, which serves EST alone.

        Raises:
            DeviceRateError: the device asks too often.
            EnrolmentPendingError: step 1.
            EstDisabledError: step 2.
            AttestationRefusedError: the device may not connect.
        """
        self._attestation.admit_nonce(peer)
        await self._admit(peer)
        return await self._attestation.give_nonce(peer, purpose=NoncePurpose.EST)

    async def enrol(self, peer: DevicePeer, unverified_csr: bytes) -> bytes:
        """Judge a request and return the LDevID, PKCS#7, DER; the steps are those of the module.

        Args:
            peer: the device that is connected, by IDevID or LDevID.
            unverified_csr: DER.

        Raises:
            DeviceRateError: the device asks too often; nothing is recorded.
            EnrolmentPendingError: step 1.
            EstDisabledError: step 2.
            EstRequestError: step 3, or step 4 about the CSR.
            AttestationRefusedError: step 4 about anything else.
        """
        self._attestation.admit_evidence(peer)
        device = await self._admit(peer)
        identity = replace(peer, public_key=device.identity_public_key)
        try:
            # Step 3: evidence.
            request = AttestationRequest(evidence=evidence_in(unverified_csr), csr=unverified_csr)
            # Step 4: attestation.
            reply = await self._attestation.judge(identity, request, purpose=NoncePurpose.EST)
        except CsrError as error:
            await self._attestation.note_refusal(
                peer, "certificate request", expected="one of /csrattrs", found=str(error)
            )
            raise EstRequestError(str(error)) from error
        except CsrRefusedError as error:
            raise EstRequestError(str(error)) from error
        return certificates_only(x509.load_pem_x509_certificates(reply.certificate_chain.encode())[:1])

    async def _admit(self, peer: DevicePeer) -> Device:
        async with self._unit_of_work(read_only=True) as work:
            device = await work.devices.find(peer.device_id)
            group = None if device is None else await work.products.get_group(device.group_id)
            product = None if group is None else await work.products.get(group.product_id)
        # Step 1: standing.
        if device is None:
            await self._attestation.note_refusal(
                peer, "registry", expected="a claimed device", found="an unclaimed one"
            )
            raise EnrolmentPendingError("enrolment: expected a claimed device, found it unclaimed; ask again later")
        # Step 2: product.
        if product is not None and not product.est:
            raise EstDisabledError(f"EST: expected a product that lets its devices enrol so, found {product.name}")
        return device
