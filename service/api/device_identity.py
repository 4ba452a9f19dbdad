"""A device's identity at the wire: birth certificate, last evidence, and why it is let in or not."""

from datetime import datetime

from pydantic import BaseModel

from protocol.identity import Access
from service.application.device_identity import BirthCertificate, DeviceIdentity, ShownEvidence


class RevocationModel(BaseModel):
    """Since when and why a certificate is revoked."""

    revoked_at: datetime
    reason: str


class BirthCertificateModel(BaseModel):
    """The IDevID."""

    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime
    revoked: RevocationModel | None


class ComponentModel(BaseModel):
    """A measured image; `claimed` is the device's word, `listed` that of signed metadata."""

    slot: str
    sha256: str
    claimed: str
    listed: str | None


class EvidenceModel(BaseModel):
    """The last fresh evidence, decoded."""

    at: datetime
    life_cycle: str
    boot_seed: str
    implementation_id: str
    components: list[ComponentModel]


class AdmissionModel(BaseModel):
    """Whether the device is let in now, how far, and why."""

    admitted: bool
    access: Access | None
    reasons: list[str]


class IdentityModel(BaseModel):
    """Who a device is; `issuing_ca` is the generation that issued the certificate in force."""

    idevid: BirthCertificateModel | None
    evidence: EvidenceModel | None
    issuing_ca: int | None
    admission: AdmissionModel


def identity_model(identity: DeviceIdentity) -> IdentityModel:
    """Return an identity as the API shows it."""
    admission = identity.admission
    return IdentityModel(
        idevid=None if identity.birth_certificate is None else _birth_certificate(identity.birth_certificate),
        evidence=None if identity.evidence is None else _evidence(identity.evidence),
        issuing_ca=identity.issuing_ca,
        admission=AdmissionModel(admitted=admission.admitted, access=admission.access, reasons=list(admission.reasons)),
    )


def _birth_certificate(certificate: BirthCertificate) -> BirthCertificateModel:
    revoked = certificate.revoked
    return BirthCertificateModel(
        serial=certificate.serial,
        issuer=certificate.issuer,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        revoked=None if revoked is None else RevocationModel(revoked_at=revoked.revoked_at, reason=revoked.reason),
    )


def _evidence(evidence: ShownEvidence) -> EvidenceModel:
    return EvidenceModel(
        at=evidence.at,
        life_cycle=evidence.life_cycle,
        boot_seed=evidence.boot_seed,
        implementation_id=evidence.implementation_id,
        components=[
            ComponentModel(slot=part.slot, sha256=part.sha256, claimed=part.claimed, listed=part.listed)
            for part in evidence.components
        ],
    )
