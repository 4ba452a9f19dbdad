"""Who a device is, what it last showed, and why it is let in or not: for an operator, in words.

The reasons are in the order in which a device meets what keeps it out: claim, registry, birth certificate, attestation,
certificate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509

from protocol.errors import ProtocolError
from protocol.evidence import Evidence, verify_evidence
from protocol.identity import Access
from service.application.clock import Clock
from service.application.device_repositories import AttestationRecord
from service.application.devices import DeviceView
from service.application.revocation_repository import RevokedCertificate
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.attestation import Verdict, life_cycle_name
from service.domain.device import Device, DeviceState


class Generations(Protocol):
    """The issuing CA's generations."""

    def generation_of(self, issuer_sha256: str) -> int | None:
        """Return the number of the generation with this certificate (SHA-256 of its DER, hex); None if unknown."""

    def is_trusted(self, issuer_sha256: str) -> bool:
        """Say whether what the generation with this certificate issued is accepted."""


@dataclass(frozen=True, slots=True)
class BirthCertificate:
    """The IDevID.

    Attributes:
        serial: lower-case hex.
        issuer: name, RFC 4514.
        revoked: the entry of the list in force; None while it is good.
    """

    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime
    revoked: RevokedCertificate | None


@dataclass(frozen=True, slots=True)
class ShownComponent:
    """One measured image of the last evidence.

    Attributes:
        slot: as the evidence says.
        sha256: of the package, lower-case hex.
        claimed: `name@version` by the device's own word.
        listed: `name@version` by operator-signed metadata; None where it is not listed.
    """

    slot: str
    sha256: str
    claimed: str
    listed: str | None


@dataclass(frozen=True, slots=True)
class ShownEvidence:
    """The last fresh evidence, decoded.

    Attributes:
        at: when it came, UTC.
        boot_seed: hex.
        implementation_id: hex.
    """

    at: datetime
    life_cycle: str
    boot_seed: str
    implementation_id: str
    components: tuple[ShownComponent, ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether the device is let in now.

    Attributes:
        access: how far it reaches; None if nowhere.
        reasons: what keeps it out or restricted, first things first; why it is let in where nothing does.
    """

    access: Access | None
    reasons: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        """Whether it reaches anything."""
        return self.access is not None


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Everything that an operator wants to know of a device's identity.

    Attributes:
        birth_certificate: None for a device that was put into the registry without one.
        issuing_ca: generation of the authority that issued the LDevID in force; None if unknown.
    """

    birth_certificate: BirthCertificate | None
    evidence: ShownEvidence | None
    issuing_ca: int | None
    admission: Admission


class DeviceIdentities:
    """Explains who devices are."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, generations: Generations, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._generations = generations
        self._clock = clock

    async def of(self, view: DeviceView) -> DeviceIdentity:
        """Explain one device.

        Args:
            view: with its last attestation result.
        """
        device = view.device
        async with self._unit_of_work(read_only=True) as work:
            revoked = await work.revocations.of_device(device.device_id)
            evidence = await _shown(work, device)
            issuer = await _issuer(work, device)
        return DeviceIdentity(
            birth_certificate=_birth_certificate(device, revoked),
            evidence=evidence,
            issuing_ca=None if issuer is None else self._generations.generation_of(issuer),
            admission=admission_of(
                device,
                view.attestation,
                revoked=revoked,
                issuer_trusted=self._is_trusted(issuer),
                now=self._clock.now(),
            ),
        )

    async def has_trusted_issuer(self, device: Device) -> bool:
        """Say whether what made the device's operational certificate is trusted; yes where nobody knows what did."""
        async with self._unit_of_work(read_only=True) as work:
            return self._is_trusted(await _issuer(work, device))

    def _is_trusted(self, issuer: str | None) -> bool:
        return issuer is None or self._generations.is_trusted(issuer)


async def _issuer(work: UnitOfWork, device: Device) -> str | None:
    return await work.issuance.issuer_of(device.certificate_key_sha256 or "")


def admission_of(
    device: Device,
    record: AttestationRecord | None,
    *,
    revoked: RevokedCertificate | None,
    issuer_trusted: bool,
    now: datetime,
) -> Admission:
    """Say whether a device is let in, how far, and why.

    Args:
        device: as it is registered.
        record: its last attestation result.
        revoked: its birth certificate's entry on a revocation list.
        issuer_trusted: whether the issuing CA's generation that made its operational certificate is trusted.
        now: UTC, aware.
    """
    obstacles = tuple(_obstacles(device, record, revoked=revoked, issuer_trusted=issuer_trusted, now=now))
    ends_at = device.certificate_not_after
    in_force = issuer_trusted and ends_at is not None and now < ends_at
    if not device.state.may_connect or revoked is not None or not in_force:
        return Admission(None, obstacles)
    return Admission(device.access, obstacles or ("its evidence is as the group's policy demands",))


def _obstacles(
    device: Device,
    record: AttestationRecord | None,
    *,
    revoked: RevokedCertificate | None,
    issuer_trusted: bool,
    now: datetime,
) -> Iterator[str]:
    yield from _registry_obstacles(device)
    if revoked is not None:
        yield f"its birth certificate is revoked since {_time(revoked.revoked_at)}: {revoked.reason}"
    if record is None:
        yield "it has never attested"
        if device.voucher is None:
            yield "the service keeps no voucher of it: without one it follows no catalog"
    elif not record.appraisal.accepted:
        done = _DONE[record.appraisal.verdict]
        for reason in record.appraisal.reasons:
            yield f"{done} since {_time(record.since)}: {reason}"
    if device.certificate_not_after is None:
        yield "it has no operational certificate"
    elif not issuer_trusted:
        yield "its operational certificate is by a generation of the issuing CA that is trusted no longer"
    elif device.certificate_not_after <= now:
        yield f"its operational certificate ended at {_time(device.certificate_not_after)}"
    elif record is not None and record.appraisal.verdict is Verdict.REFUSED and device.access is not None:
        yield f"its certificate of before is in force until {_time(device.certificate_not_after)}"


_DONE = {
    Verdict.REFUSED: "attestation refused it",
    Verdict.QUARANTINED: "attestation quarantined it",
    Verdict.UPDATE_ONLY: "attestation lets it update alone",
}


def _registry_obstacles(device: Device) -> Iterator[str]:
    if device.state is DeviceState.DECOMMISSIONED:
        yield f"it is decommissioned since {_time(device.decommissioned_at)}"
    elif device.state is DeviceState.MOVED:
        yield f"it belongs to {device.moved_to} since {_time(device.moved_at)}"
    elif device.blocked_at is not None:
        yield f"it is blocked since {_time(device.blocked_at)}: {device.blocked_reason}"
    if device.clone_suspected_at is not None:
        yield f"two devices seem to be it since {_time(device.clone_suspected_at)}: {device.clone_detail}"


def _birth_certificate(device: Device, revoked: RevokedCertificate | None) -> BirthCertificate | None:
    if not device.idevid_chain:
        return None
    leaf = x509.load_pem_x509_certificates(device.idevid_chain.encode())[0]
    return BirthCertificate(
        serial=f"{leaf.serial_number:x}",
        issuer=leaf.issuer.rfc4514_string(),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        revoked=revoked,
    )


async def _shown(work: UnitOfWork, device: Device) -> ShownEvidence | None:
    evidence = _decoded(device)
    if evidence is None or device.evidence_at is None:
        return None
    digests = {component.measurement.hex() for component in evidence.components}
    listed = await work.metadata.images_of(digests)
    return ShownEvidence(
        at=device.evidence_at,
        life_cycle=life_cycle_name(evidence.lifecycle),
        boot_seed=evidence.boot_seed.hex(),
        implementation_id=evidence.implementation_id.hex(),
        components=tuple(
            ShownComponent(
                slot=part.type,
                sha256=part.measurement.hex(),
                claimed=part.version,
                listed=listed[part.measurement.hex()].custom.name if part.measurement.hex() in listed else None,
            )
            for part in evidence.components
        ),
    )


def _decoded(device: Device) -> Evidence | None:
    if device.evidence is None:
        return None
    try:
        return verify_evidence(device.evidence, device.identity_public_key)
    except ProtocolError:  # of a release whose profile was another
        return None


def _time(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
