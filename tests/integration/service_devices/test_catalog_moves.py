"""Devices that leave for another catalog and come back, and copies of their vouchers; SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pki.catalog import load_catalog
from pki.vouchers import sign_voucher
from protocol.document import DocumentError
from protocol.identity import DeviceId, device_id_of
from protocol.signing import SoftwareSigner
from protocol.voucher import Voucher
from service.adapters.certificates import load_authorities
from service.adapters.possession import PkiPossessionProver
from service.application.approvals import Done
from service.application.audit import Change
from service.application.custody import (
    RELEASE,
    Custody,
    NotInGoodStandingError,
    NotReleasedError,
    NoVoucherError,
    Recipient,
    ReleaseDevice,
    SameCatalogError,
    VoucherMismatchError,
)
from service.application.operators import FileOperator, Operators, RoleError
from service.application.possession import PROOFS_PER_MINUTE, Possession, ProofRateError
from service.application.standing import MovedDeviceError
from service.domain.approval import Approval
from service.domain.device import AlreadyClaimedError, DeviceState, FinalStateError, UnknownDeviceError
from service.domain.operator import Actor, Role
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import OPERATOR, TARGET, DeviceWorld, open_world
from tests.integration.service_updates.update_world import SeededEntropy
from tests.service_folder import Folders
from tests.voucher_roots import usual_roots

ADMIN, SECOND = Actor("ada", Role.ADMIN), Actor("grace", Role.ADMIN)
BUYER = Recipient("11111111-1111-4111-8111-111111111111", "A buyer's catalog", "ab" * 32)
OTHER = Recipient("22222222-2222-4222-8222-222222222222", "Another", "cd" * 32)


@dataclass(frozen=True, slots=True)
class Desk:
    """The use cases of custody on a device world."""

    world: DeviceWorld
    custody: Custody
    possession: Possession
    catalog_id: str

    def voucher(self, device_id: DeviceId, *, sequence: int = 7, catalog_id: str | None = None) -> bytes:
        voucher = Voucher(
            device_id=device_id,
            catalog_id=catalog_id or self.catalog_id,
            catalog_name="tests",
            sequence=sequence,
            issued_at=self.world.clock.now(),
            tls_root=usual_roots().tls,
            director_root=usual_roots().director,
            image_root=usual_roots().image,
            package_keys=(),
            golden_keys=(),
        )
        return sign_voucher(voucher, SoftwareSigner.generate())

    async def claimed(self) -> AttestingDevice:
        """A device that was claimed and has a voucher."""
        device = await self.world.claimed()
        await self.custody.keep_voucher(OPERATOR, device.device_id, self.voucher(device.device_id))
        return device

    async def release(self, device: AttestingDevice, to: Recipient = BUYER) -> object:
        return await self.custody.release(ADMIN, device.device_id, to, reason="sold")

    async def state(self, device: AttestingDevice) -> DeviceState:
        return (await self.world.devices.get(device.device_id)).device.state


def desk_of(world: DeviceWorld) -> Desk:
    catalog_id = load_catalog(world.folders.service / "genesis" / "catalog.json").catalog_id
    world.approvals.register(ReleaseDevice(world.standings, world.clock))
    prover = PkiPossessionProver(load_authorities(world.folders.service), world.clock)
    return Desk(
        world,
        Custody(world.unit_of_work, catalog_id=catalog_id, approvals=world.approvals, clock=world.clock),
        Possession(world.unit_of_work, catalog_id=catalog_id, prover=prover, clock=world.clock),
        catalog_id,
    )


@pytest.fixture
def desk(world: DeviceWorld) -> Desk:
    return desk_of(world)


@pytest.fixture
async def cautious(database: str, folders: Folders) -> AsyncIterator[Desk]:
    """A catalog that demands two persons for a release."""
    async with open_world(database, folders, two_person=[RELEASE]) as world:
        yield desk_of(world)


async def test_released_device_is_shut_out_at_once(desk: Desk) -> None:
    """Its connections close, it is let in no more, and what its release must say is kept."""
    device, kicked = await desk.claimed(), list[str]()
    desk.world.standings.on_shut_out(kicked.append)
    assert isinstance(await desk.release(device), Done)
    assert (await desk.state(device), kicked) == (DeviceState.MOVED, [device.device_id])
    with pytest.raises(MovedDeviceError, match="found it moved"):
        desk.world.standings.check(device.device_id)
    departure = await desk.custody.departure(device.device_id[:16])
    assert (departure.device_id, departure.voucher_sequence, departure.recipient) == (device.device_id, 7, BUYER)


async def test_release_to_the_same_catalog_again_changes_nothing(desk: Desk) -> None:
    """The operator's command may be repeated."""
    device = await desk.claimed()
    await desk.release(device)
    before = await desk.world.devices.get(device.device_id)
    assert await desk.release(device) == Done()
    assert await desk.world.devices.get(device.device_id) == before


async def test_released_device_cannot_go_to_a_third_catalog(desk: Desk) -> None:
    """It is no longer this catalog's to give."""
    device = await desk.claimed()
    await desk.release(device)
    with pytest.raises(FinalStateError, match="found it moved"):
        await desk.release(device, OTHER)
    assert (await desk.custody.departure(device.device_id)).recipient == BUYER


async def test_blocked_device_is_not_released(desk: Desk) -> None:
    """Nobody moves a stolen device by the way."""
    device = await desk.claimed()
    await desk.world.devices.block(OPERATOR, device.device_id, reason="stolen")
    with pytest.raises(NotInGoodStandingError, match="expected in good standing, found it blocked: stolen"):
        await desk.release(device)
    assert await desk.state(device) is DeviceState.BLOCKED
    await desk.world.devices.unblock(OPERATOR, device.device_id)
    await desk.release(device)
    assert await desk.state(device) is DeviceState.MOVED


async def test_device_without_a_voucher_is_not_released(desk: Desk) -> None:
    """Nothing could say which voucher the release ends."""
    device = await desk.world.claimed()
    with pytest.raises(NoVoucherError, match="expected a copy of its voucher, found none"):
        await desk.release(device)
    assert await desk.state(device) is DeviceState.CLAIMED


async def test_device_is_not_released_to_the_catalog_that_has_it(desk: Desk) -> None:
    """It would be shut out for nothing."""
    device = await desk.claimed()
    with pytest.raises(SameCatalogError, match="expected another catalog"):
        await desk.release(device, Recipient(desk.catalog_id, "Ourselves", "ab" * 32))
    assert await desk.state(device) is DeviceState.CLAIMED


async def test_release_takes_an_admin(desk: Desk) -> None:
    """An operator may block, and not give away."""
    device = await desk.claimed()
    with pytest.raises(RoleError, match="expected at least admin, found operator"):
        await desk.custody.release(OPERATOR, device.device_id, BUYER, reason="sold")


async def test_unknown_device_is_not_released(desk: Desk) -> None:
    """Nor has it a departure."""
    unknown = device_id_of(SoftwareSigner.generate().public_key)
    with pytest.raises(UnknownDeviceError):
        await desk.custody.release(ADMIN, unknown, BUYER, reason="sold")
    device = await desk.claimed()
    with pytest.raises(NotReleasedError, match="expected it released to another catalog, found it claimed"):
        await desk.custody.departure(device.device_id)


async def test_release_waits_for_a_second_person(cautious: Desk) -> None:
    """Until then the device works; afterwards it is gone."""
    device = await cautious.claimed()
    await _add_admins(cautious.world)
    waiting = await cautious.release(device)
    assert isinstance(waiting, Approval)
    assert await cautious.state(device) is DeviceState.CLAIMED
    await cautious.world.approvals.approve(SECOND, waiting.approval_id)
    assert await cautious.state(device) is DeviceState.MOVED
    with pytest.raises(MovedDeviceError):
        cautious.world.standings.check(device.device_id)


async def test_release_that_cannot_be_is_not_even_asked_for(cautious: Desk) -> None:
    """No second person is bothered with it."""
    device = await cautious.world.claimed()
    with pytest.raises(NoVoucherError):
        await cautious.release(device)
    assert await cautious.world.approvals.page(before=None, limit=9, pending=True) == []


async def test_device_that_comes_back_is_claimed_anew(desk: Desk) -> None:
    """As if for the first time: no voucher, no certificate, no suspicion of earlier days."""
    device = await desk.claimed()
    await desk.world.attest(device)
    await desk.release(device)
    challenge = (await desk.world.claims.challenge(OPERATOR)).challenge
    back = await desk.world.claims.claim(OPERATOR, device.proof(challenge), TARGET)
    assert (back.state, back.voucher, back.moved_at, back.certificate_serial) == (DeviceState.CLAIMED, None, None, None)
    assert (await desk.world.devices.get(device.device_id)).device == back
    desk.world.standings.check(device.device_id)
    await desk.world.attest(device)
    assert await desk.state(device) is DeviceState.ACTIVE


async def test_of_two_claims_of_a_returned_device_one_wins(desk: Desk) -> None:
    """And a device that is here is not claimed a second time."""
    device = await desk.claimed()
    await desk.release(device)
    challenges = [(await desk.world.claims.challenge(OPERATOR)).challenge for _ in range(2)]
    claims = [desk.world.claims.claim(OPERATOR, device.proof(challenge), TARGET) for challenge in challenges]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyClaimedError", "Device"]
    challenge = (await desk.world.claims.challenge(OPERATOR)).challenge
    with pytest.raises(AlreadyClaimedError):
        await desk.world.claims.claim(OPERATOR, device.proof(challenge), TARGET)


async def test_copy_of_a_voucher_is_audited(desk: Desk) -> None:
    """Which one, on which grounds; a newer one supersedes it."""
    device = await desk.claimed()
    await desk.custody.keep_voucher(OPERATOR, device.device_id, desk.voucher(device.device_id, sequence=8))
    async with desk.world.unit_of_work(read_only=True) as work:
        entries = await work.audit.page(before_id=None, limit=2, subject_id=device.device_id)
    assert [entry.change.action for entry in entries] == ["device.vouched", "device.vouched"]
    assert [entry.change.after["voucher_sequence"] for entry in entries] == [8, 7]
    assert entries[0].change.after["voucher_assertion"] == "logged"


@pytest.mark.parametrize("wrong", ["device", "catalog", "older", "future", "garbage"])
async def test_voucher_that_is_not_this_devices_here_is_not_kept(wrong: str, desk: Desk) -> None:
    """Another device's, another catalog's, a superseded one, one that would supersede all, or none."""
    device = await desk.claimed()
    other = device_id_of(SoftwareSigner.generate().public_key)
    voucher, message = {
        "device": (desk.voucher(other, sequence=9), f"expected device {device.device_id[:16]}"),
        "catalog": (desk.voucher(device.device_id, catalog_id=OTHER.catalog_id), "expected catalog"),
        "older": (desk.voucher(device.device_id, sequence=6), "expected sequence 7 or above, found 6"),
        "future": (desk.voucher(device.device_id, sequence=2**53 - 1), "or below, found 9007199254740991"),
        "garbage": (b"no voucher", "expected a DSSE envelope"),
    }[wrong]
    before = await desk.world.devices.get(device.device_id)
    with pytest.raises((VoucherMismatchError, DocumentError), match=message):
        await desk.custody.keep_voucher(OPERATOR, device.device_id, voucher)
    assert await desk.world.devices.get(device.device_id) == before


async def test_device_that_left_gets_no_voucher_here(desk: Desk) -> None:
    """It would look as if it were still the catalog's."""
    device = await desk.claimed()
    await desk.release(device)
    with pytest.raises(FinalStateError):
        await desk.custody.keep_voucher(OPERATOR, device.device_id, desk.voucher(device.device_id, sequence=9))


async def test_proof_of_possession_is_logged_and_limited(desk: Desk) -> None:
    """In the audit log with its nonce, in the issuance log with its certificate, and so many a minute."""
    proofs = [await desk.possession.prove(ADMIN, f"nonce-{number}") for number in range(PROOFS_PER_MINUTE)]
    async with desk.world.unit_of_work(read_only=True) as work:
        entries, head = await work.issuance.page(after=0, limit=100)
        audited = await work.audit.page(before_id=None, limit=1, subject_id=desk.catalog_id)
    assert [entry.facts for entry in entries][-PROOFS_PER_MINUTE:] == [proof.facts for proof in proofs]
    assert head.sequence == len(entries)
    assert audited[0].change.after == {"nonce": "nonce-9", "serial": proofs[-1].facts.serial}
    async with desk.world.unit_of_work() as work:
        await work.audit.add(ADMIN, Change("catalog.rename", desk.catalog_id), at=desk.world.clock.now())
        await work.commit()
    with pytest.raises(ProofRateError, match="expected at most 10 a minute") as caught:
        await desk.possession.prove(ADMIN, "one-too-many")
    assert caught.value.retry_after_seconds == 60
    desk.world.clock.advance(60)
    later = await desk.possession.prove(ADMIN, "later")
    assert later.not_after > desk.world.clock.now()


async def _add_admins(world: DeviceWorld) -> None:
    in_file = [FileOperator(actor.name, actor.role, actor.name.ljust(64, "0")) for actor in (ADMIN, SECOND)]
    await Operators(world.unit_of_work, clock=world.clock, entropy=SeededEntropy(7)).synchronise(in_file)
    world.clock.advance(1)
