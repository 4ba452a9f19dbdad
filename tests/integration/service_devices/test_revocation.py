"""Revocation of birth certificates, on both databases."""

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from pki.authority import chain_pem, issuer_key_id
from pki.revocation import Reason, sign_crl, verify_crl
from pki.signer_key import SignerKey
from protocol.signing import SoftwareSigner
from service.adapters.certificates import PkiVerifier, load_authorities
from service.application.attestation import AttestationRefusedError
from service.application.claims import Claims
from service.application.events import EventType
from service.application.issuer_lists import IssuerLists
from service.application.revocation import (
    DUE,
    PUBLISHED,
    CrlRefusedError,
    CrlState,
    CrlSupersededError,
    NoCrlError,
    RevokedDeviceError,
    RevokedIdevidError,
    UnknownIssuerError,
)
from service.application.standing import BlockedDeviceError
from service.application.unit_of_work import UnitOfWork
from service.domain.device import DeviceState
from service.domain.errors import VersionConflictError
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import (
    CHALLENGE_SECONDS,
    OPERATOR,
    TARGET,
    DeviceWorld,
    in_background,
)
from tests.integration.service_devices.revoking import (
    ADMIN,
    LIFETIME,
    Revoking,
    birth_certificate,
    revocations_of,
    serial_of,
)
from tests.integration.service_updates.update_world import SeededEntropy
from tests.service_folder import Folders


@pytest.fixture
def revoking(world: DeviceWorld) -> Revoking:
    return Revoking(world)


def ocsp_request(device: AttestingDevice, revoking: Revoking) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        birth_certificate(device), revoking.factory.certificate, hashes.SHA256()
    )
    return builder.build().public_bytes(Encoding.DER)


def without_authority_key_id(certificate: x509.Certificate, folders: Folders) -> x509.Certificate:
    """The same certificate by the same factory, but for the extension."""
    builder = x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        certificate.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    for extension in certificate.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(SignerKey(folders.keys.load("factory")), hashes.SHA256())


async def state_of(world: DeviceWorld, device: AttestingDevice) -> DeviceState:
    return (await world.devices.get(device.device_id)).device.state


async def security_events(world: DeviceWorld) -> list[str]:
    async with world.unit_of_work(read_only=True) as work:
        return [each.event.change for each in await work.events.after(0) if each.event.type is EventType.SECURITY]


async def test_revoked_device_is_shut_out_and_stays_so(world: DeviceWorld, revoking: Revoking) -> None:
    """Live connections are closed, no certificate comes any more, and nobody unblocks it."""
    device, other, closed = await world.claimed(), await world.claimed(), list[str]()
    await world.attest(device)
    world.standings.on_shut_out(closed.append)
    status = await revoking.revoke(device)
    assert (status.state, status.issuer) == (CrlState.CURRENT, "factory")
    assert closed == [device.device_id]
    with pytest.raises(BlockedDeviceError, match="found it blocked"):
        world.standings.check(device.device_id)
    with pytest.raises(AttestationRefusedError, match="registry: expected a device in good standing"):
        await world.attest(device)
    with pytest.raises(RevokedDeviceError, match="expected an IDevID in force"):
        await world.devices.unblock(OPERATOR, device.device_id)
    assert await state_of(world, device) is DeviceState.BLOCKED
    assert await state_of(world, other) is DeviceState.CLAIMED


async def test_revocation_is_audited_and_told(world: DeviceWorld, revoking: Revoking) -> None:
    """Who published which list, what it revoked, and why the device is blocked."""
    device = await world.claimed()
    await revoking.revoke(device)
    async with world.unit_of_work(read_only=True) as work:
        entries = await work.audit.page(before_id=None, limit=10)
    by_action = {entry.change.action: entry for entry in entries}
    assert by_action["crl.publish"].actor == ADMIN.name
    assert by_action["crl.publish"].change.after["revoked"] == [f"{serial_of(device):x}"]
    assert by_action["device.blocked"].change.after["reason"] == "IDevID revoked: key-compromise"
    assert await security_events(world) == [PUBLISHED]


async def test_released_hold_lets_the_operator_unblock(world: DeviceWorld, revoking: Revoking) -> None:
    """A hold ends by the next list; the block ends by the operator's word."""
    device = await world.claimed()
    await revoking.revoke(device, Reason.CERTIFICATE_HOLD)
    await revoking.publish(2, {})
    assert await state_of(world, device) is DeviceState.BLOCKED
    await world.devices.unblock(OPERATOR, device.device_id)
    await world.attest(device)
    assert await state_of(world, device) is DeviceState.ACTIVE


async def test_hold_becomes_a_revocation_for_ever(world: DeviceWorld, revoking: Revoking) -> None:
    """The reason changes, and with it what the next list may do."""
    device = await world.claimed()
    await revoking.revoke(device, Reason.CERTIFICATE_HOLD)
    await revoking.publish(2, {serial_of(device): revoking.revocation(Reason.KEY_COMPROMISE)})
    with pytest.raises(CrlSupersededError, match="still revoked, found it missing"):
        await revoking.publish(3, {})
    with pytest.raises(RevokedDeviceError, match="key-compromise"):
        await world.devices.unblock(OPERATOR, device.device_id)


async def test_decommissioned_device_stays_decommissioned(world: DeviceWorld, revoking: Revoking) -> None:
    """A final state is not turned into a block."""
    device = await world.claimed()
    await world.devices.decommission(ADMIN, device.device_id, reason="sold")
    await revoking.revoke(device)
    assert await state_of(world, device) is DeviceState.DECOMMISSIONED


async def test_revoked_birth_certificate_cannot_connect(world: DeviceWorld, revoking: Revoking) -> None:
    """Nor an unclaimed device's, which no block could reach."""
    device = AttestingDevice(world.folders)
    verifier = PkiVerifier(
        load_authorities(world.folders.service), world.clock, refuse_revoked=revoking.revocations.check
    )
    assert verifier.idevid_chain(device.idevid_chain.encode()).device_id == device.device_id
    await revoking.revoke(device)
    with pytest.raises(RevokedIdevidError, match=r"found it revoked since .* \(key-compromise\)"):
        verifier.idevid_chain(device.idevid_chain.encode())
    other = AttestingDevice(world.folders)
    assert verifier.idevid_chain(other.idevid_chain.encode()).device_id == other.device_id


async def test_revoked_device_cannot_be_claimed(world: DeviceWorld, revoking: Revoking) -> None:
    """Not even by a process whose copy of the list is older than the database."""
    device = AttestingDevice(world.folders)
    await revoking.revoke(device)
    claims = Claims(
        world.unit_of_work,
        certificates=PkiVerifier(load_authorities(world.folders.service), world.clock),
        standings=world.standings,
        clock=world.clock,
        entropy=SeededEntropy(),
        challenge_lifetime=timedelta(seconds=CHALLENGE_SECONDS),
    )
    challenge = (await claims.challenge(OPERATOR)).challenge
    with pytest.raises(RevokedIdevidError, match="expected one in force"):
        await claims.claim(OPERATOR, device.proof(challenge), TARGET)


async def test_revoked_device_without_authority_key_id_cannot_be_claimed(
    world: DeviceWorld, revoking: Revoking
) -> None:
    """Some manufacturers leave the extension out; who verified the certificate is known all the same."""
    device = AttestingDevice(world.folders)
    bare = without_authority_key_id(birth_certificate(device), world.folders)
    device.idevid_chain = chain_pem([bare]).decode()
    claims = Claims(
        world.unit_of_work,
        certificates=PkiVerifier(load_authorities(world.folders.service), world.clock),
        standings=world.standings,
        clock=world.clock,
        entropy=SeededEntropy(),
        challenge_lifetime=timedelta(seconds=CHALLENGE_SECONDS),
    )
    challenge = (await claims.challenge(OPERATOR)).challenge
    await revoking.revoke(device)
    with pytest.raises(RevokedIdevidError, match="expected one in force"):
        await claims.claim(OPERATOR, device.proof(challenge), TARGET)
    await revoking.publish(2, {serial_of(device): revoking.revocation(), 9: revoking.revocation()})


async def test_database_that_is_away_is_asked_again(
    world: DeviceWorld, revoking: Revoking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service goes on, and takes the list over as soon as it can."""
    monkeypatch.setattr("service.application.revocation.RETRY_SECONDS", 0.01)
    await revoking.publish(1, {})
    elsewhere, failures = revocations_of(world), [SQLAlchemyError("away"), OSError("away")]

    def unit_of_work(*, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        if failures:
            raise failures.pop()
        return world.unit_of_work(read_only=read_only)

    monkeypatch.setattr(elsewhere, "_unit_of_work", unit_of_work)
    with capture_logs() as logs:
        async with in_background(elsewhere.run()):
            while not elsewhere.statuses()[1].crl:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.01)
    assert [entry["event"] for entry in logs] == ["crls_unread", "crls_unread"]


async def test_another_process_takes_the_list_over(world: DeviceWorld, revoking: Revoking) -> None:
    """It hears of it by the event feed."""
    device, elsewhere = AttestingDevice(world.folders), revocations_of(world)
    await world.feed.start()
    world.feed.subscribe(elsewhere.hear)
    leaf = birth_certificate(device)
    task = asyncio.create_task(elsewhere.run())
    try:
        await revoking.revoke(device)
        await world.feed.catch_up()
        while not elsewhere.statuses()[1].crl:  # noqa: ASYNC110 - nothing tells a test
            await asyncio.sleep(0.01)
        with pytest.raises(RevokedIdevidError, match="expected one in force"):
            elsewhere.check(leaf)
    finally:
        task.cancel()


async def test_list_survives_a_restart(world: DeviceWorld, revoking: Revoking) -> None:
    """Overdue or not, what it revoked stays revoked."""
    device = AttestingDevice(world.folders)
    await revoking.revoke(device)
    world.clock.advance((LIFETIME + timedelta(days=1)).total_seconds())
    restarted = revocations_of(world)
    await restarted.load()
    assert restarted.crl(revoking.key_id).number == 1
    assert restarted.statuses()[1].state is CrlState.OVERDUE
    with pytest.raises(RevokedIdevidError, match="expected one in force"):
        restarted.check(birth_certificate(device))


async def test_list_that_is_due_is_told_once(world: DeviceWorld, revoking: Revoking) -> None:
    """A quarter of its lifetime before the end, and again only for the next list."""
    await revoking.publish(1, {})
    await revoking.revocations.keep_house(world.clock.now())
    world.clock.advance((LIFETIME * 0.8).total_seconds())
    for _ in range(2):
        await revoking.revocations.keep_house(world.clock.now())
    assert await security_events(world) == [PUBLISHED, DUE]
    assert revoking.revocations.statuses()[1].state is CrlState.DUE


async def test_of_two_lists_at_once_one_is_taken(world: DeviceWorld, revoking: Revoking) -> None:
    """Neither loses the other's revocation without a word."""
    await revoking.publish(1, {})
    first, second = (revoking.crl(2, {serial: revoking.revocation()}) for serial in (71, 72))
    another = revocations_of(world)
    results = await asyncio.gather(
        revoking.revocations.publish(ADMIN, revoking.key_id, first.der),
        another.publish(ADMIN, revoking.key_id, second.der),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Exception)]
    assert len(refused) == 1
    assert isinstance(refused[0], CrlSupersededError | VersionConflictError)


async def test_foreign_list_is_refused(world: DeviceWorld, revoking: Revoking) -> None:
    """Of an unknown authority, or signed by another one of ours."""
    foreign = sign_crl(world.folders.root, number=1, revoked={}, now=world.clock.now(), lifetime=LIFETIME)
    with pytest.raises(CrlRefusedError, match="found another issuer's"):
        await revoking.revocations.publish(ADMIN, revoking.key_id, foreign.der)
    with pytest.raises(UnknownIssuerError, match="expected the key id of factory, root, server-ca"):
        await revoking.revocations.publish(ADMIN, "00", foreign.der)
    with pytest.raises(NoCrlError, match="expected one of factory, found none"):
        revoking.revocations.crl(revoking.key_id)


async def test_root_publishes_its_own_list(world: DeviceWorld, revoking: Revoking) -> None:
    """Every offline authority has one; only the factory's is about devices."""
    crl = sign_crl(
        world.folders.root, number=1, revoked={9: revoking.revocation()}, now=world.clock.now(), lifetime=LIFETIME
    )
    (status,) = [each for each in revoking.revocations.statuses() if each.issuer == "root"]
    published = await revoking.revocations.publish(ADMIN, status.issuer_key_id, crl.der)
    assert (published.issuer, published.state) == ("root", CrlState.CURRENT)


async def test_ocsp_follows_the_list(world: DeviceWorld, revoking: Revoking) -> None:
    """From try later to good to revoked, without a restart."""
    device = AttestingDevice(world.folders)
    request = ocsp_request(device, revoking)

    async def status() -> str:
        answer = ocsp.load_der_ocsp_response((await revoking.revocations.answer(request)).der)
        good = answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        return answer.certificate_status.name if good else answer.response_status.name

    found = [await status()]
    await revoking.publish(1, {})
    found.append(await status())
    await revoking.publish(2, {serial_of(device): revoking.revocation()})
    assert [*found, await status()] == ["TRY_LATER", "GOOD", "REVOKED"]


async def test_many_revocations_find_their_devices(world: DeviceWorld, revoking: Revoking) -> None:
    """A list is as long as it has to be; it blocks those that are ours."""
    device = await world.claimed()
    strangers = {serial: revoking.revocation() for serial in range(1, 2001)}
    await revoking.publish(1, strangers | {serial_of(device): revoking.revocation()})
    assert await state_of(world, device) is DeviceState.BLOCKED
    async with world.unit_of_work(read_only=True) as work:
        entries = await work.audit.page(before_id=None, limit=10)
    named = next(entry.change.after["revoked"] for entry in entries if entry.change.action == "crl.publish")
    assert isinstance(named, list)
    assert named[-1] == "and 1981 more"


async def test_issuer_list_names_unexpired_certificates_of_devices_that_are_shut_out(world: DeviceWorld) -> None:
    """Each with the reason of its state, for as long as it would be valid."""
    issuing = load_authorities(world.folders.service).issuing
    lists, authority = IssuerLists(world.unit_of_work, authority=issuing.authority, clock=world.clock), issuing.active
    key_id = issuer_key_id(authority.certificate)
    blocked, gone, honest = await world.claimed(), await world.claimed(), await world.claimed()
    chains = {device.device_id: await world.attest(device) for device in (blocked, gone, honest)}
    assert (await lists.crl(key_id)).revoked == {}
    await world.devices.block(OPERATOR, blocked.device_id, reason="lost")
    await world.devices.decommission(ADMIN, gone.device_id, reason="sold")
    assert (await lists.crl(key_id)).revoked == {}, "a cached list serves for a minute"
    world.clock.advance(60)
    found = await lists.crl(key_id)
    serials = {
        device.device_id: x509.load_pem_x509_certificates(chains[device.device_id].encode())[0].serial_number
        for device in (blocked, gone)
    }
    assert {serial: each.reason for serial, each in found.revoked.items()} == {
        serials[blocked.device_id]: Reason.CERTIFICATE_HOLD,
        serials[gone.device_id]: Reason.CESSATION_OF_OPERATION,
    }
    assert verify_crl(found.der, issuer=authority.certificate, now=world.clock.now()) == found
    world.clock.advance(86_400)
    assert (await lists.crl(key_id)).revoked == {}


async def test_shut_out_device_makes_the_issuer_list_stale(world: DeviceWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the minute, but some seconds; what devices do by themselves has nothing signed."""
    issuing = load_authorities(world.folders.service).issuing
    lists = IssuerLists(world.unit_of_work, authority=issuing.authority, clock=world.clock)
    await world.feed.start()
    world.feed.subscribe(lists.hear)
    key_id, device, other = issuer_key_id(issuing.active.certificate), await world.claimed(), await world.claimed()
    await world.attest(device)
    first = await lists.crl(key_id)
    await world.attest(other)
    world.clock.advance(6)
    await heard(world)
    assert await lists.crl(key_id) is first, "an attestation revokes nothing"
    await world.devices.block(OPERATOR, device.device_id, reason="lost")
    await heard(world)
    with monkeypatch.context() as patch:
        patch.setattr(lists, "_unit_of_work", away)
        with pytest.raises(OSError, match="away"):
            await lists.crl(key_id)
    second = await lists.crl(key_id)
    assert (len(first.revoked), len(second.revoked)) == (0, 1)
    assert second.number > first.number
    await world.devices.unblock(OPERATOR, device.device_id)
    await heard(world)
    assert await lists.crl(key_id) is second, "no list lives less than some seconds"
    world.clock.advance(6)
    assert (await lists.crl(key_id)).revoked == {}
    with pytest.raises(UnknownIssuerError, match="expected the key id of one of the catalog's"):
        await lists.crl("00")


async def heard(world: DeviceWorld) -> None:
    while await world.feed.catch_up():
        pass


def away(*, read_only: bool) -> NoReturn:
    raise OSError(f"away, {read_only=}")


async def test_fresh_key_does_not_help_a_revoked_device(world: DeviceWorld, revoking: Revoking) -> None:
    """Its identity is what is revoked."""
    device = await world.claimed()
    await revoking.revoke(device)
    with pytest.raises(AttestationRefusedError, match="registry"):
        await world.attest(device, key=SoftwareSigner.generate())
