"""Identity: what verifies and issues certificates, appraises evidence, and keeps devices."""

from dataclasses import dataclass
from datetime import timedelta

from pki.catalog import load_catalog
from service.adapters.certificates import PkiIssuer, PkiVerifier
from service.adapters.metadata_signer import load_genesis
from service.adapters.possession import PkiPossessionProver
from service.application.attestation import Attestation, AttestationResults
from service.application.claims import Claims
from service.application.custody import Custody, ReleaseDevice
from service.application.device_actions import device_actions
from service.application.devices import Devices
from service.application.est import Est
from service.application.issuer_lists import IssuerLists
from service.application.listed_images import ListedImages
from service.application.possession import Possession
from service.application.request_rate import RequestRate
from service.bootstrap.core import Core
from service.gateway.server import Gateway


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity half: certificates, claims, devices, attestation."""

    certificates: PkiVerifier
    claims: Claims
    devices: Devices
    custody: Custody
    possession: Possession
    attestation: Attestation
    attestations: AttestationResults
    est: Est
    issuer_lists: IssuerLists


def open_identity(core: Core, gateway: Gateway) -> Identity:
    """Make the use cases of identity."""
    certificates = PkiVerifier(core.authorities, core.clock, refuse_revoked=core.revocations.check)
    attestation = _attestation(core)
    issuer_lists = IssuerLists(core.unit_of_work, authority=core.authorities.issuing.authority, clock=core.clock)
    core.feed.subscribe(issuer_lists.hear)
    for action in device_actions(core.standings, core.clock):
        core.approvals.register(action)
    core.approvals.register(ReleaseDevice(core.standings, core.clock))
    catalog_id = load_catalog(core.settings.data_dir / "genesis" / "catalog.json").catalog_id
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
        custody=Custody(core.unit_of_work, catalog_id=catalog_id, approvals=core.approvals, clock=core.clock),
        possession=Possession(
            core.unit_of_work,
            catalog_id=catalog_id,
            prover=PkiPossessionProver(core.authorities, core.clock),
            clock=core.clock,
        ),
        attestation=attestation,
        attestations=AttestationResults(core.unit_of_work),
        issuer_lists=issuer_lists,
        est=Est(
            core.unit_of_work,
            attestation=attestation,
            authorities=lambda: [
                core.authorities.root,
                *core.authorities.issuing.trusted,
                *core.authorities.issuing.crosses,  # RFC 7030 §4.1.3: old with new, and new with old
            ],
        ),
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
        reference_values=ListedImages(load_genesis(core.settings.data_dir).image_root),
        standings=core.standings,
        clones=core.clones,
        clock=core.clock,
        entropy=core.entropy,
        nonce_lifetime=timedelta(seconds=core.settings.nonce_lifetime_seconds),
        nonce_rate=RequestRate(core.clock, per_hour=core.settings.attestations_per_hour),
        claim_rate=RequestRate(core.clock, per_hour=core.settings.attestations_per_hour),
    )
