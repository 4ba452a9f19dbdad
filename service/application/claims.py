"""Claiming: a device becomes the catalog's by proof of its identity.

Verification of an unverified claim, in this order:
    1. birth certificate: an IDevID of our factory or a trusted manufacturer, for the device that the proof names;
    2. evidence: a PSA token by that identity key;
    3. freshness: its nonce is bound to a challenge in force and to the identity key;
    4. the device is not claimed, or was released to another catalog and comes back;
    5. single use: this device has not used the challenge.
Not checked here: what the device booted; it need not have booted at all. Attestation judges that.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from protocol.errors import ProtocolError
from protocol.evidence import NONCE_BYTES, Evidence, bind_nonce, verify_evidence
from protocol.identity import spki_der
from protocol.messages import ClaimChallenge, ClaimProof
from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.identity import CertificateVerifier, DevicePeer
from service.application.revocation import check_birth_certificate
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.device import Device, DeviceState
from service.domain.errors import ForbiddenError, JsonValue
from service.domain.operator import Actor
from service.domain.product import DeviceGroup


class ClaimProofError(ForbiddenError):
    """The proof of identity is not of this device, or not fresh."""


@dataclass(frozen=True, slots=True)
class ClaimTarget:
    """Where a claimed device goes, and what is said of it.

    Attributes:
        product: id or name.
        group: of the product, id or name.
        attributes: by name; those of an earlier life here are gone.
    """

    product: str
    group: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class Claims:
    """Challenges, and claims by proof."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        certificates: CertificateVerifier,
        standings: Standings,
        clock: Clock,
        entropy: Entropy,
        challenge_lifetime: timedelta,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._certificates = certificates
        self._standings = standings
        self._clock = clock
        self._entropy = entropy
        self._challenge_lifetime = challenge_lifetime

    async def challenge(self, actor: Actor) -> ClaimChallenge:
        """Make a challenge that each device can answer once."""
        now = self._clock.now()
        challenge, expires_at = self._entropy.octets(NONCE_BYTES), now + self._challenge_lifetime
        async with self._unit_of_work() as work:
            await work.claims.prune(now=now)
            await work.claims.add_challenge(challenge, expires_at=expires_at)
            await work.audit.add(actor, Change("claim.challenge", challenge.hex()[:16]), at=now)
            await work.commit()
        return ClaimChallenge(challenge=challenge, expires_at=expires_at)

    async def claim(self, actor: Actor, unverified_proof: ClaimProof, target: ClaimTarget) -> Device:
        """Claim a device into a device group; the steps are those of the module.

        Raises:
            CertificateRefusedError: step 1.
            ClaimProofError: steps 1, 2, 3 or 5.
            AlreadyClaimedError: step 4.
            UnknownProductError: there is no such product.
            UnknownGroupError: the product has no such group.
        """
        peer, evidence = self._identify(unverified_proof)
        async with self._unit_of_work() as work:
            challenge = await self._answered(work, peer, evidence)
            product = await work.products.get(target.product)
            group = await work.products.get_group(target.group, product_id=product.product_id)
            device = await self._store(work, actor, peer, group=group, idevid_chain=unverified_proof.idevid_chain)
            await work.attributes.put({device.device_id: target.attributes})
            # Step 5: single use.
            if not await work.claims.use(challenge, peer.device_id):
                raise ClaimProofError("proof: expected a challenge that the device has not used, found a used one")
            sequence = await work.commit()
        self._standings.change(device.device_id, device.state, sequence=sequence)
        return device

    def _identify(self, unverified_proof: ClaimProof) -> tuple[DevicePeer, Evidence]:
        # Step 1: birth certificate.
        peer = self._certificates.idevid_chain(unverified_proof.idevid_chain.encode())
        if peer.device_id != unverified_proof.device_id:
            raise ClaimProofError(
                f"proof: expected the IDevID of {unverified_proof.device_id[:16]}…, found {peer.device_id[:16]}…"
            )
        # Step 2: evidence.
        try:
            return peer, verify_evidence(unverified_proof.evidence, peer.public_key, identity_spki=peer.spki)
        except ProtocolError as error:
            raise ClaimProofError(f"proof: {error}") from error

    async def _answered(self, work: UnitOfWork, peer: DevicePeer, evidence: Evidence) -> bytes:
        # Step 3: freshness.
        for challenge in await work.claims.challenges(now=self._clock.now()):
            if hmac.compare_digest(bind_nonce(challenge, peer.public_key), evidence.nonce):
                return challenge
        raise ClaimProofError("proof: expected evidence over a challenge in force, found another or expired one")

    async def _store(
        self, work: UnitOfWork, actor: Actor, peer: DevicePeer, *, group: DeviceGroup, idevid_chain: str
    ) -> Device:
        now = self._clock.now()
        device = Device(
            device_id=peer.device_id,
            group_id=group.group_id,
            identity_key=spki_der(peer.public_key),
            idevid_chain=idevid_chain,
            claimed_at=now,
            claimed_by=actor.name,
        )
        # Step 1 again, by the database: another process may have taken a revocation list a moment ago.
        await check_birth_certificate(work, device, issuer_key_id=peer.issuer_key_id)
        # Step 4: not claimed; the key of the table decides, so that of two claims at once one wins.
        known = await work.devices.find(device.device_id)
        if known is not None and known.state is DeviceState.MOVED:
            device = replace(device, version=known.version + 1)
            await work.devices.reclaim(device)
        else:
            await work.devices.add(device)
        facts = {"product": group.product_name, "group": group.name}
        await work.audit.add(actor, Change("device.claim", device.device_id, after=dict(facts)), at=now)
        data: dict[str, JsonValue] = {"group_id": group.group_id, "state": device.state}
        work.record(Event(EventType.DEVICE, device.device_id, "claimed", now, data))
        return device
