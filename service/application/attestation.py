"""Attestation: a device proves what it booted, and gets an LDevID certificate for a day (RFC 9334).

A device is known by its IDevID here, which TLS and the gate have verified. Its request is judged in this order:
    1. request: the CSR names this device and proves possession of a fresh key (pki/csr.py);
    2. evidence: a PSA token that this device's identity key signed (protocol/evidence.py);
    3. standing: the device is claimed and may connect;
    4. nonce: taken now, whatever follows, so that it serves one request of this device and purpose alone;
    5. policy of the device's group: nonce binding, life cycle, boot and measurements (service/domain/attestation.py);
    6. key: fresh, so neither in any certificate so far nor any device's identity key.
A refusal at any step is recorded; one that judges nothing of what the device booted leaves the latest result as it was
(`service.domain.attestation.Appraisal.is_judged`). Steps 3 to 6, the record and the certificate are one transaction,
which requests that come at once share (`service.application.attestation_round`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from protocol.errors import ProtocolError
from protocol.evidence import NONCE_BYTES, Evidence, verify_evidence
from protocol.messages import AttestationReply, AttestationRequest, NonceReply, NonceRequest
from service.application.attestation_round import AttestationRound, Claim, Outcome, check_standing, record_results
from service.application.clock import Clock
from service.application.clones import Clones
from service.application.device_repositories import AttestationRecord, IssuedNonce, NoncePurpose
from service.application.entropy import Entropy
from service.application.identity import CertificateIssuer, CsrRefusedError, DevicePeer
from service.application.reference_values import ReferenceValues
from service.application.request_rate import RequestRate
from service.application.rounds import Rounds
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.attestation import Appraisal, Finding, Verdict, refusal
from service.domain.errors import ForbiddenError, JsonValue


class AttestationRefusedError(ForbiddenError):
    """The device may not come in; `members` holds the appraisal."""


class Attestation:
    """Nonces, appraisal and certificates; `run` must run."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        issuer: CertificateIssuer,
        reference_values: ReferenceValues,
        clones: Clones,
        standings: Standings,
        clock: Clock,
        entropy: Entropy,
        nonce_lifetime: timedelta,
        nonce_rate: RequestRate | None = None,
        claim_rate: RequestRate | None = None,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._nonce_rate = nonce_rate
        self._claim_rate = claim_rate
        self._issuer = issuer
        self._standings = standings
        self._clock = clock
        self._entropy = entropy
        self._nonce_lifetime = nonce_lifetime
        self._round = AttestationRound(issuer=issuer, reference_values=reference_values, clones=clones)
        self._nonces = Rounds(self._give_nonces, key=lambda nonce: nonce.device_id)
        self._claims = Rounds(self._settle, key=lambda claim: claim.peer.device_id)
        self._refusals = Rounds(self._refuse, key=lambda refused: refused.device_id)

    async def run(self) -> None:
        """Settle what devices ask, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nonces.run())
            tasks.create_task(self._claims.run())
            tasks.create_task(self._refusals.run())

    async def nonce(
        self, peer: DevicePeer, request: NonceRequest, *, purpose: NoncePurpose = NoncePurpose.ATTEST
    ) -> NonceReply:
        """Give a device a nonce, which replaces any before it of that purpose, and the signed time.

        Raises:
            DeviceRateError: the device asks too often.
            AttestationRefusedError: the device is unclaimed or may not connect.
        """
        self.admit_nonce(peer)
        given = await self.give_nonce(peer, purpose=purpose)
        signed_time = self._issuer.sign_time(request.device_nonce)
        return NonceReply(nonce=given.nonce, expires_at=given.expires_at, signed_time=signed_time)

    def admit_nonce(self, peer: DevicePeer) -> None:
        """Count a request for a nonce, before anything is done about it.

        Raises:
            DeviceRateError: the device asks too often.
        """
        if self._nonce_rate is not None:
            self._nonce_rate.admit(peer.device_id)

    def admit_evidence(self, peer: DevicePeer) -> None:
        """Count a request to judge evidence, before anything is done about it.

        Raises:
            DeviceRateError: the device asks too often.
        """
        if self._claim_rate is not None:
            self._claim_rate.admit(peer.device_id)

    async def give_nonce(self, peer: DevicePeer, *, purpose: NoncePurpose) -> IssuedNonce:
        """Give a device whose request was counted a nonce alone.

        Raises:
            AttestationRefusedError: as for `nonce`.
        """
        nonce, expires_at = self._entropy.octets(NONCE_BYTES), self._clock.now() + self._nonce_lifetime
        given = IssuedNonce(peer.device_id, purpose, nonce, expires_at)
        refused = await self._nonces.settled(given)
        if refused is not None:
            raise _refused_error(refused)
        return given

    async def attest(self, peer: DevicePeer, request: AttestationRequest) -> AttestationReply:
        """Judge evidence and answer with a certificate, as `judge` does.

        Raises:
            DeviceRateError: the device asks too often.
            CsrRefusedError: as for `judge`.
            AttestationRefusedError: as for `judge`.
        """
        self.admit_evidence(peer)
        return await self.judge(peer, request, purpose=NoncePurpose.ATTEST)

    async def judge(self, peer: DevicePeer, request: AttestationRequest, *, purpose: NoncePurpose) -> AttestationReply:
        """Judge evidence whose request was counted; the steps are those of the module.

        Args:
            peer: the device, by its identity key.
            request: evidence and CSR.
            purpose: of the nonce that the evidence is over.

        Raises:
            CsrRefusedError: step 1; recorded.
            AttestationRefusedError: any other step; recorded.
        """
        # Step 1: request.
        try:
            wanted = self._issuer.verify_csr(request.csr, peer.device_id, identity_key=peer.public_key)
        except CsrRefusedError as error:
            await self.note_refusal(peer, "certificate request", expected="one that may be certified", found=str(error))
            raise
        # Step 2: evidence.
        evidence = _verify(request.evidence, peer)
        outcome = await self._claims.settled(Claim(peer, purpose, wanted, request.evidence, evidence))
        issued = outcome.issued
        if issued is None:
            raise _refused_error(outcome.appraisal)
        return AttestationReply(certificate_chain=issued.chain_pem, not_after=issued.not_after, access=issued.access)

    async def note_refusal(self, peer: DevicePeer, component: str, *, expected: str, found: str) -> None:
        """Record for operators what was refused before anything was judged; a bad standing goes before it."""
        result = refusal(component, expected=expected, found=found[:200])
        await self._refusals.settled(_Refused(peer.device_id, result))

    async def _refuse(self, refused: Sequence["_Refused"]) -> Sequence[None]:
        async with self._unit_of_work() as work:
            devices = await work.devices.find_many({one.device_id for one in refused})
            results = {one.device_id: check_standing(devices.get(one.device_id)) or one.result for one in refused}
            await record_results(work, results, now=self._clock.now())
            await work.commit()
        return [None] * len(refused)

    async def _settle(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        async with self._unit_of_work() as work:
            outcomes = await self._round.settle(work, claims, now=self._clock.now())
            sequence = await work.commit()
        for outcome in outcomes:
            if outcome.state is not None:
                self._standings.change(outcome.device_id, outcome.state, sequence=sequence)
        return outcomes

    async def _give_nonces(self, nonces: Sequence[IssuedNonce]) -> Sequence[Appraisal | None]:
        """Store the nonces of devices that may have one, and return why the others may not."""
        async with self._unit_of_work() as work:
            devices = await work.devices.find_many({nonce.device_id for nonce in nonces})
            refused = {nonce.device_id: check_standing(devices.get(nonce.device_id)) for nonce in nonces}
            await work.attestations.put_nonces([nonce for nonce in nonces if refused[nonce.device_id] is None])
            recorded = {device_id: appraisal for device_id, appraisal in refused.items() if appraisal is not None}
            if recorded:
                await record_results(work, recorded, now=self._clock.now())
            await work.commit()
        return [refused[nonce.device_id] for nonce in nonces]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A request that was refused before anything was judged."""

    device_id: str
    result: Appraisal


class AttestationResults:
    """Attestation results for operators to read."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def page_latest(
        self, *, after_device_id: str | None, limit: int, verdict: Verdict | None
    ) -> Sequence[AttestationRecord]:
        """Return at most `limit` devices' latest results by device id, those of unclaimed devices included."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.attestations.page_latest(after_device_id=after_device_id, limit=limit, verdict=verdict)

    async def page_history(self, device: str, *, before_id: int | None, limit: int) -> Sequence[AttestationRecord]:
        """Return at most `limit` results of one device, newest first.

        Raises:
            UnknownDeviceError: there is no such device.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.devices.get(device)
            return await work.attestations.page_history(found.device_id, before_id=before_id, limit=limit)


def finding_facts(finding: Finding) -> dict[str, JsonValue]:
    """Return a finding as a refused device sees it."""
    return {
        "component": finding.component,
        "expected": finding.expected,
        "found": finding.found,
        "accepted": finding.accepted,
    }


def _verify(unverified_token: bytes, peer: DevicePeer) -> Evidence | Appraisal:
    try:
        return verify_evidence(unverified_token, peer.public_key, identity_spki=peer.spki)
    except ProtocolError as error:
        return refusal("evidence", expected="a PSA token by the device's identity key", found=str(error)[:200])


def _refused_error(appraisal: Appraisal) -> AttestationRefusedError:
    findings: list[JsonValue] = [finding_facts(finding) for finding in appraisal.findings if not finding.accepted]
    return AttestationRefusedError("; ".join(appraisal.reasons), members={"appraisal": findings})
