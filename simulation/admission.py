"""Admission of virtual devices: the service's own round of attestation, without keys, signatures and certificates.

Real: the nonce and its single use, the policy of the device's group, reference values, the life cycle, boot seeds and
the suspicion of clones, verdicts, quarantine, records, events, how long a certificate lasts and how far it reaches.
Not real: who signed the evidence, possession of keys, the certificate itself, and the issuance log's chain.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.csr import VerifiedCsr
from pki.issuance import CertificateFacts, IssuanceKind
from protocol.evidence import CLIENT_ID, NONCE_BYTES, Evidence, LifeCycle, SoftwareComponent, bind_nonce_to
from protocol.identity import Access, DeviceId, spki_der
from protocol.signing import SoftwareSigner
from service.application.attestation_round import AttestationRound, Claim, Outcome, check_standing, record_results
from service.application.clock import Clock
from service.application.clones import Clones
from service.application.device_repositories import IssuedNonce, NoncePurpose
from service.application.entropy import Entropy
from service.application.identity import (
    CertificateIssuer,
    CertificateKind,
    DevicePeer,
    IssuedCertificate,
)
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.attestation import Appraisal, ReferenceValue
from simulation.images import FACTORY, Catalogue, VirtualImage

CERTIFICATE_LIFETIME = timedelta(days=1)
NONCE_LIFETIME = timedelta(seconds=120)
IMPLEMENTATION = hashlib.sha256(b"virtual mt3620").digest()
SOMEBODY = SoftwareSigner(ec.derive_private_key(1, ec.SECP256R1()))  # where a key is wanted that nobody uses
SERIAL_DIGITS = 40  # RFC 5280 §4.1.2.2: at most 20 octets
_ISSUER = hashlib.sha256(b"virtual issuer").hexdigest()


class _SomebodysKey:
    """Stands for the identity key of every device; encoded once, because every attestation asks for it."""

    def __init__(self) -> None:
        self._spki = spki_der(SOMEBODY.public_key)

    def public_bytes(self, _encoding: Encoding, _format: PublicFormat) -> bytes:
        """See `EllipticCurvePublicKey.public_bytes`; always DER SubjectPublicKeyInfo."""
        return self._spki


SOMEBODYS_KEY = cast("ec.EllipticCurvePublicKey", _SomebodysKey())  # of its methods a round needs this one alone


@dataclass(frozen=True, slots=True)
class Shown:
    """What a device shows of its boot.

    Attributes:
        boot_seed: 32 bytes.
        components: in the order of the boot.
    """

    boot_seed: bytes
    components: tuple[SoftwareComponent, ...]
    lifecycle: int = LifeCycle.SECURED


class VirtualIssuer:
    """Stands for the issuing CA; implements the part of `CertificateIssuer` that a round needs."""

    signs_here = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def issue(
        self, request: VerifiedCsr, *, access: Access = Access.FULL, lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        """See `CertificateIssuer.issue`."""
        now = self._clock.now()
        not_after = now + min(lifetime or CERTIFICATE_LIFETIME, CERTIFICATE_LIFETIME)
        facts = CertificateFacts(
            at=now,
            kind=IssuanceKind.LDEVID,
            serial=request.key_sha256[:SERIAL_DIGITS],
            subject=f"urn:tinyfleet:device:{request.device_id}",
            key_sha256=request.key_sha256,
            certificate_sha256=request.key_sha256,
            issuer_sha256=_ISSUER,
            not_after=not_after,
        )
        return IssuedCertificate("", facts.serial, not_after, access, facts)


class CatalogueValues:
    """Reference values of a catalogue, all of whose releases are in force; implements `ReferenceValues`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._values: dict[str, ReferenceValue] = {}
        for release in catalogue.releases:
            for image in release.images.values():
                self._values[image.sha256] = _reference(image, release.document.name)
        for system in catalogue.systems.values():
            self._values[system.sha256] = _reference(system, FACTORY)

    async def find(self, work: UnitOfWork, digests: Collection[str]) -> Mapping[str, ReferenceValue]:
        """See `ReferenceValues.find`."""
        del work
        return {digest: self._values[digest] for digest in digests if digest in self._values}


class Admission:
    """Lets virtual devices in; one round holds one device, because requests never wait for one another."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        catalogue: Catalogue,
        clones: Clones,
        standings: Standings,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._standings = standings
        self._clock = clock
        self._entropy = entropy
        issuer = cast("CertificateIssuer", VirtualIssuer(clock))  # of it a round needs `issue` and `signs_here` alone
        values = CatalogueValues(catalogue)
        self._round = AttestationRound(issuer=issuer, reference_values=values, clones=clones)

    async def nonce(self, device_id: DeviceId) -> IssuedNonce | Appraisal:
        """Give a device a nonce, or say why it may have none."""
        now = self._clock.now()
        nonce = self._entropy.octets(NONCE_BYTES)
        given = IssuedNonce(device_id, NoncePurpose.ATTEST, nonce, now + NONCE_LIFETIME)
        async with self._unit_of_work() as work:
            refused = check_standing(await work.devices.find(device_id))
            if refused is None:
                await work.attestations.put_nonces([given])
            else:
                await record_results(work, {device_id: refused}, now=now)
            await work.commit()
        return given if refused is None else refused

    async def attest(self, device_id: DeviceId, nonce: bytes, shown: Shown) -> Outcome:
        """Judge what a device shows over its nonce."""
        claim = self._claim(device_id, nonce, shown)
        async with self._unit_of_work() as work:
            (outcome,) = await self._round.settle(work, [claim], now=self._clock.now())
            sequence = await work.commit()
        if outcome.state is not None:
            self._standings.change(device_id, outcome.state, sequence=sequence)
        return outcome

    def _claim(self, device_id: DeviceId, nonce: bytes, shown: Shown) -> Claim:
        spki = self._entropy.octets(NONCE_BYTES)  # of a key that is fresh each time
        wanted = VerifiedCsr(device_id, SOMEBODYS_KEY, spki, hashlib.sha256(spki).hexdigest())
        evidence = Evidence(
            nonce=bind_nonce_to(nonce, spki),
            implementation_id=IMPLEMENTATION,
            boot_seed=shown.boot_seed,
            lifecycle=shown.lifecycle,
            client_id=CLIENT_ID,
            components=shown.components,
        )
        now: datetime = self._clock.now()
        peer = DevicePeer(
            CertificateKind.IDEVID, device_id, SOMEBODYS_KEY, now + CERTIFICATE_LIFETIME, Access.UPDATE_ONLY
        )
        return Claim(peer, NoncePurpose.ATTEST, wanted, b"", evidence)


def _reference(image: VirtualImage, release: str) -> ReferenceValue:
    custom = image.custom
    return ReferenceValue(
        image.sha256, image.name, frozenset({custom.slot_kind}), frozenset(custom.hardware_ids), release
    )
