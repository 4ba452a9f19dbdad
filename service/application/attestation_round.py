"""One round of attestation: many devices' claims are judged, recorded and certified in one transaction.

The steps are those of `service.application.attestation`, 3 to 6. Each statement is for all claims of the round, so the
number of statements does not grow with them. Devices are locked in the order of their ids, and the issuance log, which
lets one writer in at a time, is written last.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pki.csr import VerifiedCsr
from protocol.evidence import Evidence, bind_nonce_to
from protocol.geometry import Slot
from protocol.identity import Access
from service.application.clones import Clones
from service.application.device_repositories import NoncePurpose
from service.application.events import Event, EventType
from service.application.identity import CertificateIssuer, DevicePeer, IssuedCertificate
from service.application.reference_values import ReferenceValues
from service.application.unit_of_work import UnitOfWork
from service.domain.attestation import Appraisal, Appraiser, Verdict, refusal
from service.domain.attestation_policy import AttestationPolicy
from service.domain.clone import CloneSuspicion, note_boot_seed
from service.domain.device import Device, DeviceState
from service.domain.errors import JsonValue

_RESTRICTED = Access.UPDATE_ONLY
MOST_BOOTS = 1_000  # that an appraiser has in mind, before the next round begins with none
RESTRICTED_LIFETIME = timedelta(hours=1)  # longest, of a certificate that reaches the update path alone


@dataclass(frozen=True, slots=True)
class Claim:
    """A request whose steps 1 and 2 are done.

    Attributes:
        peer: the device, known by its identity key.
        token: the evidence as it came.
        evidence: its claims, or why it was refused.
    """

    peer: DevicePeer
    purpose: NoncePurpose
    wanted: VerifiedCsr
    token: bytes
    evidence: Evidence | Appraisal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claim.

    Attributes:
        issued: None if it was refused.
        state: where the device stands now; None if that has not changed.
    """

    device_id: str
    appraisal: Appraisal
    issued: IssuedCertificate | None
    state: DeviceState | None


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the round's claims are judged by.

    Attributes:
        devices: by id, locked.
        policies: by group id.
        nonces: taken, in force.
        appraiser: by the reference values of what was measured.
        used_keys: SHA-256 of keys that are in a certificate or are some device's identity key, hex.
    """

    devices: Mapping[str, Device]
    policies: Mapping[str, AttestationPolicy]
    nonces: Mapping[tuple[str, NoncePurpose], bytes]
    appraiser: Appraiser
    used_keys: Collection[str]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A claim with its appraisal, before anything is issued.

    Attributes:
        device: None if there is no such device.
        noted: the device with what a fresh boot seed says; None of evidence that is not fresh.
        policy: of the device's group; None where the claim did not come so far.
        suspicion: what the boot seed raised.
        is_unfit: whether what it booted is refused, whatever else is wrong.
    """

    claim: Claim
    appraisal: Appraisal
    device: Device | None
    noted: Device | None = None
    policy: AttestationPolicy | None = None
    suspicion: CloneSuspicion | None = None
    is_unfit: bool = False


@dataclass(frozen=True, slots=True)
class _Settled:
    """A claim with its result and the device before and after it; both None if there is no such device."""

    claim: Claim
    appraisal: Appraisal
    before: Device | None
    after: Device | None
    issued: IssuedCertificate | None

    @property
    def moved_to(self) -> DeviceState | None:
        """Where the device stands now, if that has changed."""
        if self.before is None or self.after is None or self.before.state is self.after.state:
            return None
        return self.after.state

    @property
    def is_quarantined_again(self) -> bool:
        """Whether a quarantined device got the next certificate of its quarantine; whoever heals it tries again."""
        return self.issued is not None and self.after is not None and self.after.state is DeviceState.QUARANTINED


class AttestationRound:
    """Settles rounds of claims."""

    def __init__(self, *, issuer: CertificateIssuer, reference_values: ReferenceValues, clones: Clones) -> None:
        self._issuer = issuer
        self._clones = clones
        self._reference_values = reference_values
        self._appraiser = Appraiser({})

    async def settle(self, work: UnitOfWork, claims: Sequence[Claim], *, now: datetime) -> Sequence[Outcome]:
        """Judge claims of different devices; the caller commits.

        Raises:
            KeyReusedError: another process has certified one of the keys meanwhile.
        """
        facts = await self._gather(work, claims, now=now)
        judged = [self._judge(claim, facts, now=now) for claim in claims]
        issued = await self._issue_all(judged)
        settled = [_settled(one, its, now=now) for one, its in zip(judged, issued, strict=True)]
        await work.devices.save_attested([one.after for one in settled if one.after and one.after is not one.before])
        for one, its in zip(judged, settled, strict=True):
            if its.after is not None and one.suspicion is not None:
                await self._clones.tell(work, its.after, one.suspicion)
        await _record(work, settled, now=now)
        await work.issuance.append([its.facts for its in issued if its])
        return [Outcome(one.claim.peer.device_id, one.appraisal, one.issued, one.moved_to) for one in settled]

    async def _gather(self, work: UnitOfWork, claims: Sequence[Claim], *, now: datetime) -> _Facts:
        devices = await work.devices.find_many({claim.peer.device_id for claim in claims}, lock=True)
        # Step 4: nonce.
        nonces = await work.attestations.take_nonces({(c.peer.device_id, c.purpose) for c in claims}, now=now)
        keys = [claim.wanted.key_sha256 for claim in claims]
        used = await work.issuance.known_keys(keys, device_ids=[claim.wanted.key_device_id for claim in claims])
        return _Facts(
            devices=devices,
            policies=await work.products.attestation_policies({device.group_id for device in devices.values()}),
            nonces=nonces,
            appraiser=await self._find_appraiser(work, claims),
            used_keys=_used_keys(claims, used),
        )

    async def _find_appraiser(self, work: UnitOfWork, claims: Sequence[Claim]) -> Appraiser:
        """Return the last round's, with the boots that it knows, or a new one where the reference values are others."""
        values = await self._reference_values.find(work, _measured(claims))
        if values != self._appraiser.reference_values or self._appraiser.boots > MOST_BOOTS:
            self._appraiser = Appraiser(values)
        return self._appraiser

    def _judge(self, claim: Claim, facts: _Facts, *, now: datetime) -> _Judged:
        device = facts.devices.get(claim.peer.device_id)
        # Step 3: standing.
        refused = check_standing(device)
        if refused is not None:
            return _Judged(claim, refused, device)
        if isinstance(claim.evidence, Appraisal):
            return _Judged(claim, claim.evidence, device)
        return self._appraise(claim, claim.evidence, facts=facts, now=now)

    def _appraise(self, claim: Claim, evidence: Evidence, *, facts: _Facts, now: datetime) -> _Judged:
        device = facts.devices[claim.peer.device_id]
        policy = facts.policies[device.group_id]
        nonce = facts.nonces.get((device.device_id, claim.purpose))
        expected = None if nonce is None else bind_nonce_to(nonce, claim.wanted.spki)
        # Step 5: policy.
        measured = facts.appraiser.appraise(evidence, expected, policy=policy)
        appraisal = measured
        # Step 6: key.
        if appraisal.verdict.access is not None and claim.wanted.key_sha256 in facts.used_keys:
            appraisal = refusal("certificate key", expected="a fresh one", found="one that has been used before")
        noted, suspicion = None, None
        if evidence.nonce == expected:
            noted, suspicion = note_boot_seed(device, evidence.boot_seed, now)
        is_unfit = measured.verdict is Verdict.REFUSED
        if suspicion is not None and self._clones.blocks and not is_unfit:
            appraisal = refusal("identity", expected="one live device", found=suspicion.text[:200])
        return _Judged(claim, appraisal, device, noted, policy, suspicion, is_unfit)

    async def _issue_all(self, judged: Sequence[_Judged]) -> list[IssuedCertificate | None]:
        # A token takes its time for each signature, so a thread waits for it. What is computed here is computed at
        # once: a thread would only contend with the event loop's for the interpreter.
        if self._issuer.signs_here:
            return list(map(self._issue, judged))
        return await asyncio.to_thread(lambda: list(map(self._issue, judged)))

    def _issue(self, judged: _Judged) -> IssuedCertificate | None:
        access, policy = judged.appraisal.verdict.access, judged.policy
        if access is None or policy is None:
            return None
        return self._issuer.issue(judged.claim.wanted, access=access, lifetime=_lifetime(access, policy))


def check_standing(device: Device | None) -> Appraisal | None:
    """Return why a device gets neither nonce nor certificate, whatever it booted; None if nothing is in its way."""
    if device is None:
        return refusal("registry", expected="a claimed device", found="an unclaimed one")
    if not device.state.may_connect:
        return refusal("registry", expected="a device in good standing", found=f"a {device.state} one")
    return None


def _measured(claims: Sequence[Claim]) -> set[str]:
    evidence = [claim.evidence for claim in claims if isinstance(claim.evidence, Evidence)]
    boots = {id(shown.components): shown.components for shown in evidence}  # devices that booted the same share one
    return {component.measurement.hex() for components in boots.values() for component in components}


def _used_keys(claims: Sequence[Claim], known: Collection[str]) -> set[str]:
    """Return which of the keys are not fresh: known to the service, or two devices of this round want them."""
    keys = Counter(claim.wanted.key_sha256 for claim in claims)
    found = {claim.wanted.key_sha256 for claim in claims if known and claim.wanted.key_device_id in known}
    return found | {key for key, count in keys.items() if count > 1 or key in known}


def _lifetime(access: Access, policy: AttestationPolicy) -> timedelta | None:
    if access is Access.FULL:
        return policy.certificate_lifetime
    return min(policy.certificate_lifetime or RESTRICTED_LIFETIME, RESTRICTED_LIFETIME)


def _settled(judged: _Judged, issued: IssuedCertificate | None, *, now: datetime) -> _Settled:
    return _Settled(judged.claim, judged.appraisal, judged.device, _after(judged, issued, now=now), issued)


def _after(judged: _Judged, issued: IssuedCertificate | None, *, now: datetime) -> Device | None:
    """Return the device with what fresh evidence, accepted or not, leaves in the registry.

    What the device booted is refused: the certificate of before opens nothing more. Only the device can bring that
    about, as fresh evidence is signed by its identity key over a nonce of this moment.
    """
    noted, claim = judged.noted, judged.claim
    if noted is None:
        return judged.device
    if issued is not None:
        return noted.certify(
            issued.serial,
            evidence=claim.token,
            key_sha256=claim.wanted.key_sha256,
            not_after=issued.not_after,
            at=now,
            access=issued.access,
        )
    shown = noted.show(claim.token, now)
    return shown.refuse() if judged.is_unfit else shown


async def _record(work: UnitOfWork, settled: Sequence[_Settled], *, now: datetime) -> None:
    """Store the results with the events that tell of them."""
    for one in settled:
        if one.after is not None and (one.moved_to is not None or one.is_quarantined_again):
            work.record(_state_event(one.after, now))
    changed = await record_results(work, {one.claim.peer.device_id: one.appraisal for one in settled}, now=now)
    for one in settled:
        if one.after is None or one.appraisal.verdict.access is not _RESTRICTED:
            continue
        # No rollout of this catalog put there what it runs, so its reports do not tell.
        await work.installed.put(one.after.device_id, _measured_slots(one.claim.evidence), at=now)
        if one.appraisal.verdict is Verdict.QUARANTINED and one.after.device_id in changed:
            work.record(Event(EventType.SECURITY, one.after.device_id, "quarantined", now, _reasons(one.appraisal)))


async def record_results(work: UnitOfWork, results: Mapping[str, Appraisal], *, now: datetime) -> Collection[str]:
    """Store results by device id, and tell of them: of acceptance once a certificate, of others once a change.

    Returns:
        Ids of the devices whose result has changed.
    """
    changed = set(await work.attestations.record(results, at=now))
    for device_id, appraisal in results.items():
        if appraisal.accepted or device_id in changed:
            change = appraisal.verdict.value
            work.record(Event(EventType.ATTESTATION, device_id, change, now, _reasons(appraisal)))
    return changed


def _reasons(appraisal: Appraisal) -> dict[str, JsonValue]:
    return {"reasons": list(appraisal.reasons)}


def _state_event(device: Device, now: datetime) -> Event:
    change = "activated" if device.state is DeviceState.ACTIVE else device.state.value
    data: dict[str, JsonValue] = {"group_id": device.group_id, "state": device.state}
    return Event(EventType.DEVICE, device.device_id, change, now, data)


def _measured_slots(evidence: Evidence | Appraisal) -> dict[Slot, str]:
    """Return what evidence says runs in which slot; restricted access is for a boot whose form is right."""
    components = evidence.components if isinstance(evidence, Evidence) else ()
    return {Slot(component.type): component.measurement.hex() for component in components}
