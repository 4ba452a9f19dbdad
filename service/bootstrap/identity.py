"""Identity: what verifies and issues certificates, appraises evidence, and keeps devices."""

from dataclasses import dataclass
from datetime import timedelta

from service.adapters.certificates import PkiIssuer, PkiVerifier
from service.application.attestation import Attestation, AttestationResults
from service.application.claims import Claims
from service.application.device_actions import device_actions
from service.application.devices import Devices
from service.application.listed_images import ListedImages
from service.bootstrap.core import Core
from service.gateway.server import Gateway


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity half: certificates, claims, devices, attestation."""

    certificates: PkiVerifier
    claims: Claims
    devices: Devices
    attestation: Attestation
    attestations: AttestationResults


def open_identity(core: Core, gateway: Gateway) -> Identity:
    """Make the use cases of identity."""
    certificates = PkiVerifier(core.authorities, core.clock, refuse_revoked=core.revocations.check)
    for action in device_actions(core.standings, core.clock):
        core.approvals.register(action)
    return Identity(
        certificates=certificates,
        claims=_claims(core, certificates),
        devices=Devices(
            core.unit_of_work,
            presence=core.presence,
            connectivity=gateway,
            approvals=core.approvals,
            clock=core.clock,
        ),
        attestation=_attestation(core),
        attestations=AttestationResults(core.unit_of_work),
    )


def _claims(core: Core, certificates: PkiVerifier) -> Claims:
    return Claims(
        core.unit_of_work,
        certificates=certificates,
        standings=core.standings,
        clock=core.clock,
        entropy=core.entropy,
        challenge_lifetime=timedelta(seconds=core.settings.challenge_lifetime_seconds),
    )


def _attestation(core: Core) -> Attestation:
    lifetime = timedelta(seconds=core.settings.certificate_lifetime_seconds)
    return Attestation(
        core.unit_of_work,
        issuer=PkiIssuer(core.authorities, core.clock, lifetime=lifetime),
        reference_values=ListedImages(),
        clock=core.clock,
        entropy=core.entropy,
        nonce_lifetime=timedelta(seconds=core.settings.nonce_lifetime_seconds),
    )
