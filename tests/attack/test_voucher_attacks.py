"""Attacks on ownership: after a legitimate move, everything a thief can put into a device's letter box.

He may have: other vouchers of the authority, the old catalog's papers and keys, and a programmer. He has neither the
voucher key nor the root of trust. After each attack the device follows the catalog that it followed before, with the
same storage, flash and root of trust.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier

import pytest

from device_sim.errors import BootStoppedError
from device_sim.hardware.clock import FIRST_FLOOR, LAST_TIME
from device_sim.hardware.machine import Machine
from pki.errors import HandoverError, VoucherRefusedError
from pki.handover import DeviceRelease, Handover, sign_device_release, sign_handover, verify_handover
from pki.voucher_log import VoucherLog
from pki.vouchers import VoucherAuthority, VoucherRequest
from protocol.document import LAST_MOMENT, sign_document
from protocol.geometry import SYSTEM_SLOTS, Slot
from protocol.identity import parse_device_id
from protocol.signing import SoftwareSigner
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Assertion, Voucher, encode_public_keys
from tests.unit.device_hardware.device_builder import BUILT_AT, DeviceBuilder
from tests.voucher_roots import VoucherRoots, make_roots


@dataclass(frozen=True, slots=True)
class Company:
    """A catalog: its roots and its package key."""

    name: str
    catalog_id: str
    roots: VoucherRoots
    package: SoftwareSigner

    @property
    def handover(self) -> Handover:
        return Handover(
            catalog_id=self.catalog_id,
            catalog_name=self.name,
            made_at=BUILT_AT,
            tls_root=self.roots.tls,
            director_root=self.roots.director,
            image_root=self.roots.image,
            package_keys=encode_public_keys([self.package.public_key]),
            golden_keys=(),
        )


@dataclass
class Case:
    """A device that went from the seller to the buyer by a release."""

    builder: DeviceBuilder
    authority: VoucherAuthority
    seller: Company
    buyer: Company
    machine: Machine
    old: bytes
    release: bytes

    @property
    def folder(self) -> Path:
        return self.machine.folder

    def sign(self, voucher: Voucher) -> bytes:
        """A voucher that the authority really signed, by mistake."""
        return sign_document(voucher, VOUCHER_PAYLOAD_TYPE, self.builder.packages.keys.voucher)

    def of_seller(self, **changes: object) -> Voucher:
        """The seller's voucher for this device, newer than the one in force, with one thing changed."""
        sequence = self.machine.rot.voucher[0] + 1
        device_id, verified = self.machine.device_id, Assertion.VERIFIED
        fresh = self.seller.handover.voucher(device_id, sequence=sequence, issued_at=BUILT_AT, assertion=verified)
        return fresh.model_copy(update=changes)

    def state(self) -> tuple[bytes, bytes, bytes]:
        names = ("state.json", "rot.json", "flash.bin")
        first, second, third = ((self.folder / name).read_bytes() for name in names)
        return first, second, third


def _company(name: str, digit: str) -> Company:
    return Company(name, f"{digit * 8}-1111-4111-8111-111111111111", make_roots(), SoftwareSigner.generate())


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    builder, seller, buyer = DeviceBuilder(tmp_path / "devices"), _company("Seller", "a"), _company("Buyer", "b")
    authority = VoucherAuthority(builder.packages.keys.voucher, VoucherLog(tmp_path / "vouchers.jsonl"))
    machine = builder.open(builder.manufacture())
    machine.flash_factory(builder.packages.factory_set())
    now = BUILT_AT
    old = authority.issue(VoucherRequest(machine.device_id, seller.handover), now=now)
    (machine.folder / "voucher.json").write_bytes(old)
    machine.flash_factory(_images(builder, seller))
    assert machine.boot().is_claimed
    release = _release(seller, buyer, machine)
    request = VoucherRequest(machine.device_id, buyer.handover, unverified_release=release)
    new = authority.issue(request, now=now + timedelta(days=1))
    (machine.folder / "voucher.json").write_bytes(new)
    assert machine.reboot().is_claimed
    yield Case(builder, authority, seller, buyer, machine, old, release)
    machine.close()


def _images(builder: DeviceBuilder, company: Company) -> dict[Slot, bytes]:
    slots = [slot for slot in builder.packages.factory_set() if slot not in SYSTEM_SLOTS and slot.kind != "model"]
    return {slot: builder.packages.image(slot, key=company.package) for slot in slots}


def _release(seller: Company, buyer: Company, machine: Machine) -> bytes:
    document = DeviceRelease(
        from_catalog_id=seller.catalog_id,
        to_catalog_id=buyer.catalog_id,
        to_fingerprint=buyer.handover.fingerprint,
        released_at=BUILT_AT,
        reason="sold",
        devices={machine.device_id: machine.rot.voucher[0]},
    )
    return sign_device_release(document, seller.roots.key)


OTHER_ID = parse_device_id("ab" * 64)
ATTACKS: dict[str, tuple[Callable[[Case], bytes], str]] = {
    "the old voucher again": (lambda case: case.old, "expected a sequence above"),
    "a voucher of another device": (lambda case: case.sign(case.of_seller(device_id=OTHER_ID)), "expected device"),
    "signed by the old catalog's root": (
        lambda case: sign_document(case.of_seller(), VOUCHER_PAYLOAD_TYPE, case.seller.roots.key),
        "expected a signature",
    ),
    "signed by the device's own key": (
        lambda case: sign_document(case.of_seller(), VOUCHER_PAYLOAD_TYPE, case.machine.rot),
        "expected a signature",
    ),
    "of the same sequence": (
        lambda case: case.sign(case.of_seller(sequence=case.machine.rot.voucher[0])),
        "found another one of that sequence",
    ),
    "expired": (lambda case: case.sign(case.of_seller(expires_at=BUILT_AT)), "expected one that is valid at"),
    "from before the first device": (
        lambda case: case.sign(case.of_seller(issued_at=FIRST_FLOOR - timedelta(seconds=1))),
        "expected one issued from 2026-01-01 to 2100-01-01, found 2025-12-31",
    ),
    "from the next century": (
        lambda case: case.sign(case.of_seller(issued_at=LAST_TIME + timedelta(seconds=1))),
        "expected one issued from",
    ),
    "from the end of time": (
        lambda case: case.sign(case.of_seller(issued_at=LAST_MOMENT)),
        "expected one issued from",
    ),
    "from before time": (
        lambda case: case.sign(case.of_seller(issued_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))))),
        "Voucher: issued_at: ",
    ),
    "of a sequence beyond all others": (lambda case: case.sign(case.of_seller(sequence=10**40)), "Voucher: sequence: "),
    "truncated": (lambda case: case.sign(case.of_seller())[:-40], "expected a DSSE envelope"),
    "empty": (lambda _case: b"", "expected a DSSE envelope"),
    "far too long": (lambda _case: b" " * 70_000, "expected at most 65536 bytes"),
    "deeply nested": (lambda _case: b"[" * 60_000, "expected a DSSE envelope"),
    "an end entity for a TLS root": (
        lambda case: case.sign(case.of_seller(tls_root=case.seller.roots.issued)),
        "expected a self-signed authority",
    ),
    "targets for a Director root": (
        lambda case: case.sign(case.of_seller(director_root=case.seller.roots.targets)),
        "expected root metadata, found Targets",
    ),
    "a root with another's signature": (
        lambda case: case.sign(case.of_seller(image_root=_resigned(case))),
        "expected root metadata that signs itself",
    ),
    "a payload type of something else": (
        lambda case: sign_document(
            case.of_seller(), "application/vnd.tinyfleet.time+json", case.builder.packages.keys.voucher
        ),
        "payload type",
    ),
}


def _resigned(case: Case) -> bytes:
    """The seller's root metadata with the buyer's signatures."""
    root, other = json.loads(case.seller.roots.image), json.loads(case.buyer.roots.image)
    return json.dumps(root | {"signatures": other["signatures"]}).encode()


@pytest.mark.parametrize("attack", ATTACKS, ids=[name.replace(" ", "-") for name in ATTACKS])
def test_device_stays_with_its_owner(attack: str, case: Case) -> None:
    """Whatever is put into the letter box."""
    make, refusal = ATTACKS[attack]
    before = case.state()
    (case.folder / "voucher.json").write_bytes(make(case))
    report = case.machine.reboot()
    assert refusal in report.voucher_refusal
    assert case.machine.voucher is not None
    assert case.machine.voucher.tls_root == case.buyer.roots.tls
    assert case.state() == before


def test_old_owners_images_do_not_boot(case: Case) -> None:
    """A thief with a programmer and the seller's signed images: the device runs none of them."""
    case.machine.flash_factory(_images(case.builder, case.buyer))
    assert len(case.machine.reboot().components) == len(SYSTEM_SLOTS) + 3
    case.machine.flash_factory(_images(case.builder, case.seller))
    with pytest.raises(BootStoppedError, match="expected a signed application image"):
        case.machine.reboot()
    assert case.machine.boot_report is None


def test_release_is_good_for_one_move(case: Case) -> None:
    """The device went back to the seller; the buyer keeps the first release and wants it again."""
    back = case.authority.issue(
        VoucherRequest(
            case.machine.device_id,
            case.seller.handover,
            unverified_release=_release(case.buyer, case.seller, case.machine),
        ),
        now=BUILT_AT + timedelta(days=2),
    )
    (case.folder / "voucher.json").write_bytes(back)
    assert case.machine.reboot().is_claimed
    again = VoucherRequest(case.machine.device_id, case.buyer.handover, unverified_release=case.release)
    with pytest.raises(VoucherRefusedError, match="another voucher"):
        case.authority.issue(again, now=BUILT_AT + timedelta(days=3))


def test_roots_of_two_catalogs_do_not_mix(case: Case) -> None:
    """The thief's own TLS root with the buyer's repositories, or the other way round: no handover says so."""
    thief = _company("Buyer", "b")
    for mixed in (
        case.buyer.handover.model_copy(update={"tls_root": thief.roots.tls}),
        case.buyer.handover.model_copy(update={"director_root": thief.roots.director}),
        case.buyer.handover.model_copy(update={"package_keys": thief.handover.package_keys}),
    ):
        with pytest.raises(HandoverError, match="expected"):
            verify_handover(sign_handover(mixed, thief.roots.key), fingerprint=case.buyer.handover.fingerprint)


def test_thief_with_the_device_in_hand_gets_no_voucher(case: Case) -> None:
    """Not with his own papers, not with the old owner's release, not with a release that he signed himself."""
    thief = _company("Thief", "c")
    for release in (
        None,
        _release(case.seller, thief, case.machine),
        _release(thief, thief, case.machine),
    ):
        request = VoucherRequest(
            case.machine.device_id, thief.handover, unverified_release=release, unverified_voucher=case.old
        )
        with pytest.raises((VoucherRefusedError, HandoverError), match="expected"):
            case.authority.issue(request, now=BUILT_AT + timedelta(days=2))


def test_one_device_is_not_given_to_two_catalogs_at_once(case: Case, tmp_path: Path) -> None:
    """Thieves start their commands at the same moment, for a device that nobody holds yet."""
    thieves, together = [_company("Thief", digit) for digit in "cdef"], Barrier(4)
    log, key = tmp_path / "other.jsonl", case.builder.packages.keys.voucher

    def ask(thief: Company) -> bool:
        authority = VoucherAuthority(key, VoucherLog(log))
        together.wait()
        try:
            authority.issue(VoucherRequest(OTHER_ID, thief.handover), now=BUILT_AT)
        except VoucherRefusedError:
            return False
        return True

    with ThreadPoolExecutor(len(thieves)) as pool:
        assert sorted(pool.map(ask, thieves)) == [False, False, False, True]
    assert len(list(VoucherLog(log).entries())) == 1
