"""Revocation on a device world: the use case, and lists that the factory's offline key signs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509

from pki.authority import CertificateAuthority, issuer_key_id
from pki.revocation import Reason, Revocation, RevocationList, sign_crl
from service.adapters.revocation import load_issuers, load_responder
from service.application.revocation import CrlStatus, Revocations
from service.domain.operator import Actor, Role
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import DeviceWorld

ADMIN = Actor("admin", Role.ADMIN)
LIFETIME = timedelta(days=40)


def birth_certificate(device: AttestingDevice) -> x509.Certificate:
    return x509.load_pem_x509_certificates(device.idevid_chain.encode())[0]


def serial_of(device: AttestingDevice) -> int:
    return birth_certificate(device).serial_number


def revocations_of(world: DeviceWorld) -> Revocations:
    """The use case as one process has it."""
    return Revocations(
        world.unit_of_work,
        issuers=load_issuers(world.folders.service),
        responder=load_responder(world.folders.service),
        standings=world.standings,
        clock=world.clock,
    )


@dataclass
class Revoking:
    """One process, and the operator's factory key."""

    world: DeviceWorld
    revocations: Revocations = field(init=False)
    factory: CertificateAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.revocations = revocations_of(self.world)
        self.factory = self.world.folders.factory

    @property
    def key_id(self) -> str:
        return issuer_key_id(self.factory.certificate)

    def crl(self, number: int, revoked: Mapping[int, Revocation], lifetime: timedelta = LIFETIME) -> RevocationList:
        return sign_crl(self.factory, number=number, revoked=revoked, now=self.world.clock.now(), lifetime=lifetime)

    def revocation(self, reason: Reason = Reason.KEY_COMPROMISE) -> Revocation:
        return Revocation(self.world.clock.now().replace(microsecond=0), reason)

    async def publish(self, number: int, revoked: Mapping[int, Revocation]) -> CrlStatus:
        return await self.revocations.publish(ADMIN, self.key_id, self.crl(number, revoked).der)

    async def revoke(self, device: AttestingDevice, reason: Reason = Reason.KEY_COMPROMISE) -> CrlStatus:
        return await self.publish(1, {serial_of(device): self.revocation(reason)})
