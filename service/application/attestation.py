"""Attestation: a device proves what it booted, and gets an LDevID certificate for a day (RFC 9334).

A device is known by its IDevID here, which TLS and the gate have verified. Its request is judged in this order:
    1. request: the CSR names this device and proves possession of a fresh key (pki/csr.py);
    2. evidence: a PSA token that this device's identity key signed (protocol/evidence.py);
    3. standing: the device is claimed and not blocked;
    4. nonce: taken now, whatever follows, so that it serves one request of this device alone;
    5. policy: nonce binding, life cycle, boot and measurements (service/domain/attestation.py);
    6. key: fresh, so neither in any certificate so far nor any device's identity key.
Steps 3 to 6, the record and the certificate are one transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from protocol.errors import ProtocolError
from protocol.evidence import NONCE_BYTES, Evidence, bind_nonce, verify_evidence
from protocol.messages import AttestationReply, AttestationRequest, NonceReply, NonceRequest
from service.application.clock import Clock
from service.application.device_repositories import AttestationRecord
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.identity import CertificateIssuer, CertificateRequest, DevicePeer, IssuedCertificate
from service.application.reference_values import ReferenceValues
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.attestation import Appraisal, Finding, ReferenceValue, appraise, refusal
from service.domain.device import Device
from service.domain.errors import ForbiddenError, JsonValue


class AttestationRefusedError(ForbiddenError):
    """The device may not come in; `members` holds the appraisal."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A request whose steps 1 and 2 passed, with what it is measured by."""

    request: CertificateRequest
    evidence: Evidence
    reference_values: Mapping[str, ReferenceValue]


class Attestation:
    """Nonces, appraisal and certificates."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        issuer: CertificateIssuer,
        reference_values: ReferenceValues,
        clock: Clock,
        entropy: Entropy,
        nonce_lifetime: timedelta,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._issuer = issuer
        self._reference_values = reference_values
        self._clock = clock
        self._entropy = entropy
        self._nonce_lifetime = nonce_lifetime

    async def nonce(self, peer: DevicePeer, request: NonceRequest) -> NonceReply:
        """Give a device a nonce, which replaces any before it, and the signed time.

        Raises:
            AttestationRefusedError: the device is unclaimed or blocked.
        """
        nonce, expires_at = self._entropy.octets(NONCE_BYTES), self._clock.now() + self._nonce_lifetime
        async with self._unit_of_work() as work:
            refused = _check_standing(await work.devices.find(peer.device_id))
            if refused is None:
                await work.attestations.put_nonce(nonce, peer.device_id, expires_at=expires_at)
            else:
                await self._record(work, peer, refused)
            await work.commit()
        if refused is not None:
            raise _refused_error(refused)
        return NonceReply(nonce=nonce, expires_at=expires_at, signed_time=self._issuer.sign_time(request.device_nonce))

    async def attest(self, peer: DevicePeer, request: AttestationRequest) -> AttestationReply:
        """Judge evidence and answer with a certificate; the steps are those of the module.

        Raises:
            CsrRefusedError: step 1.
            AttestationRefusedError: any other step; recorded.
        """
        # Step 1: request.
        wanted = self._issuer.verify_csr(request.csr, peer.device_id, identity_key=peer.public_key)
        claim = await self._verify(peer, request, wanted)
        async with self._unit_of_work() as work:
            appraisal, device = await self._appraise(work, peer, claim)
            issued = None
            if device is not None and appraisal.accepted:
                issued = await self._certify(work, device, wanted)
            await self._record(work, peer, appraisal)
            await work.commit()
        if issued is None:
            raise _refused_error(appraisal)
        return AttestationReply(certificate_chain=issued.chain_pem, not_after=issued.not_after)

    async def _verify(
        self, peer: DevicePeer, request: AttestationRequest, wanted: CertificateRequest
    ) -> _Claim | Appraisal:
        # Step 2: evidence.
        try:
            evidence = verify_evidence(request.evidence, peer.public_key)
        except ProtocolError as error:
            return refusal("evidence", expected="a PSA token by the device's identity key", found=str(error)[:200])
        digests = {component.measurement.hex() for component in evidence.components}
        return _Claim(wanted, evidence, await self._reference_values.find(digests))

    async def _appraise(
        self, work: UnitOfWork, peer: DevicePeer, claim: _Claim | Appraisal
    ) -> tuple[Appraisal, Device | None]:
        # Step 3: standing.
        device = await work.devices.find(peer.device_id)
        refused = _check_standing(device)
        # Step 4: nonce.
        nonce = await work.attestations.take_nonce(peer.device_id, now=self._clock.now())
        if refused is not None:
            return refused, device
        if isinstance(claim, Appraisal):
            return claim, device
        # Step 5: policy.
        expected = None if nonce is None else bind_nonce(nonce, claim.request.public_key)
        appraisal = appraise(claim.evidence, expected, reference_values=claim.reference_values)
        # Step 6: key.
        if appraisal.accepted and await _is_known(work, claim.request):
            return refusal("certificate key", expected="a fresh one", found="one that has been used before"), device
        return appraisal, device

    async def _certify(self, work: UnitOfWork, device: Device, wanted: CertificateRequest) -> IssuedCertificate:
        issued, now = self._issuer.issue(wanted), self._clock.now()
        certified = device.certify(issued.serial, key_sha256=wanted.key_sha256, not_after=issued.not_after, at=now)
        await work.devices.certify(certified)
        await work.issuance.append([issued.facts])
        if device.activated_at is None:
            work.record(Event(EventType.DEVICE, device.device_id, "activated", now, {"group_id": device.group_id}))
        return issued

    async def _record(self, work: UnitOfWork, peer: DevicePeer, appraisal: Appraisal) -> AttestationRecord:
        now = self._clock.now()
        record = await work.attestations.record(peer.device_id, appraisal, at=now)
        # An accepted device is heard of once a certificate; one that is refused over and over, once per reason.
        if appraisal.accepted or record.times == 1:
            change = "accepted" if appraisal.accepted else "refused"
            reasons: list[JsonValue] = list(appraisal.reasons)
            work.record(Event(EventType.ATTESTATION, peer.device_id, change, now, {"reasons": reasons}))
        return record


class AttestationResults:
    """Attestation results for operators to read."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def page_latest(
        self, *, after_device_id: str | None, limit: int, accepted: bool | None
    ) -> Sequence[AttestationRecord]:
        """Return at most `limit` devices' last results by device id, those of unclaimed devices included."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.attestations.page_latest(after_device_id=after_device_id, limit=limit, accepted=accepted)

    async def page_history(self, device: str, *, before_id: int | None, limit: int) -> Sequence[AttestationRecord]:
        """Return at most `limit` results of one device, newest first.

        Raises:
            UnknownDeviceError: there is no such device.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.devices.get(device)
            return await work.attestations.page_history(found.device_id, before_id=before_id, limit=limit)


def finding_facts(finding: Finding) -> dict[str, JsonValue]:
    """Return a finding as a reader of the API sees it."""
    return {
        "component": finding.component,
        "expected": finding.expected,
        "found": finding.found,
        "accepted": finding.accepted,
    }


def _check_standing(device: Device | None) -> Appraisal | None:
    if device is None:
        return refusal("registry", expected="a claimed device", found="an unclaimed one")
    if device.blocked_at is not None:
        return refusal("registry", expected="a device in good standing", found="a blocked one")
    return None


async def _is_known(work: UnitOfWork, request: CertificateRequest) -> bool:
    return bool(await work.issuance.known_keys([request.key_sha256], device_ids=[request.key_device_id]))


def _refused_error(appraisal: Appraisal) -> AttestationRefusedError:
    findings: list[JsonValue] = [finding_facts(finding) for finding in appraisal.findings if not finding.accepted]
    return AttestationRefusedError("; ".join(appraisal.reasons), members={"appraisal": findings})
