"""What tells two live devices of one identity, and what a single device does without being taken for two."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import DeviceId, spki_der
from protocol.signing import SoftwareSigner
from service.domain import clone
from service.domain.clone import (
    MAX_BOOT_SEEDS,
    REKEYING_GRACE,
    TAKE_OVER_WINDOW,
    TAKE_OVERS,
    CertificateWatch,
    CloneSignal,
    TakeOverWatch,
    manifest_suspicion,
    note_boot_seed,
)
from service.domain.device import Device

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = DeviceId("a" * 128)
DEVICE = Device(
    device_id=ID,
    group_id="g1",
    identity_key=spki_der(SoftwareSigner.generate().public_key),
    idevid_chain="",
    claimed_at=NOW,
    claimed_by="operator",
)


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


def boots(*numbers: int) -> Device:
    device = DEVICE
    for number in numbers:
        device, _ = note_boot_seed(device, seed(number), NOW)
    return device


def test_seed_that_comes_back_after_another_is_two_devices() -> None:
    """One device cannot return to an earlier boot; the evidence names both seeds and is told of once."""
    device, suspicion = note_boot_seed(boots(1, 2), seed(1), NOW)
    assert suspicion is not None
    assert suspicion.signal is CloneSignal.BOOT_SEED
    assert seed(2).hex()[:16] in device.clone_detail
    assert device.clone_suspected_at == NOW
    again, repeated = note_boot_seed(device, seed(2), NOW + timedelta(hours=1))
    assert repeated is None
    assert again.clone_suspected_at == NOW


@given(st.lists(st.integers(1, 4), max_size=40))
def test_device_that_only_reboots_is_never_suspected(attestations_per_boot: list[int]) -> None:
    """Any number of boots, each attesting any number of times, with a seed of its own."""
    device = DEVICE
    for boot, attestations in enumerate(attestations_per_boot):
        for _ in range(attestations):
            device, suspicion = note_boot_seed(device, seed(boot), NOW)
            assert suspicion is None
    assert device.clone_suspected_at is None
    assert len(device.boot_seeds) == min(len(attestations_per_boot), MAX_BOOT_SEEDS)


@given(st.integers(1, MAX_BOOT_SEEDS - 1))
def test_clone_is_found_although_the_other_rebooted_in_between(reboots: int) -> None:
    """The last boots are remembered, not the last one alone."""
    device = boots(0, *range(1, 1 + reboots))
    assert note_boot_seed(device, seed(0), NOW)[1] is not None


def test_evidence_without_a_seed_says_nothing() -> None:
    """RFC 9783 §4.1.3 makes the claim optional."""
    assert note_boot_seed(boots(1, 2), None, NOW) == (boots(1, 2), None)


def test_operator_who_clears_begins_anew() -> None:
    """The boots that the suspicion rested on are forgotten; the next return counts again."""
    suspected, _ = note_boot_seed(boots(1, 2), seed(1), NOW)
    cleared = suspected.clear_suspicion()
    assert (cleared.clone_suspected_at, cleared.clone_detail, cleared.boot_seeds) == (None, "", ())
    assert cleared.version == suspected.version + 1
    assert cleared.clear_suspicion() is cleared
    device = cleared
    for number in (2, 1):
        device, suspicion = note_boot_seed(device, seed(number), NOW)
        assert suspicion is None
    assert note_boot_seed(device, seed(2), NOW)[1] is not None


def certificate(serial: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


OLD, NEW, NEWER = certificate(0xA1), certificate(0xB2), certificate(0xC3)
LATE = REKEYING_GRACE + timedelta(minutes=1)


def test_certificate_and_its_successor_in_turns_are_two_devices() -> None:
    """A thief goes on with the old certificate while the device has the new one; both serials are evidence."""
    watch = CertificateWatch()
    uses = [(OLD, timedelta(0)), (NEW, timedelta(minutes=1)), (OLD, LATE), (OLD, LATE * 2), (NEW, LATE * 3)]
    found = [watch.note(ID, der, NOW + after) for der, after in uses]
    assert found[:-1] == [None] * 4
    assert found[-1] is not None
    assert found[-1].signal is CloneSignal.CERTIFICATE
    assert "a1" in found[-1].detail
    assert "b2" in found[-1].detail


def test_watch_begins_anew_after_it_told() -> None:
    """A device that goes on so is told of again at the earliest after another grace."""
    watch = CertificateWatch()
    for der, after in [(OLD, 0), (NEW, 0), (OLD, 2)]:
        assert watch.note(ID, der, NOW + LATE * after) is None
    assert watch.note(ID, NEW, NOW + LATE * 2) is not None
    assert watch.note(ID, OLD, NOW + LATE * 2) is None
    assert watch.note(ID, NEW, NOW + LATE * 2) is None
    assert watch.note(ID, OLD, NOW + LATE * 2 + REKEYING_GRACE / 2) is None
    assert watch.note(ID, NEW, NOW + LATE * 2 + REKEYING_GRACE / 2) is None


@pytest.mark.parametrize(
    "uses",
    [
        [(OLD, 0), (NEW, 1), (OLD, 2), (NEW, 3), (OLD, 4), (NEW, 5)],  # connections from before, within the grace
        [(OLD, 0), (NEW, 1), (OLD, 30), (OLD, 60), (NEWER, 90)],  # restored from a backup once, then renewed
        [(OLD, 0), (NEW, 700), (NEWER, 1400), (OLD, 2000), (NEW, 2700)],  # renewals alone
        [(OLD, minute) for minute in range(0, 700, 60)],
    ],
)
def test_renewal_of_a_single_device_is_not_suspected(uses: list[tuple[bytes, int]]) -> None:
    """Re-keying overlaps, and one return is no alternation."""
    watch = CertificateWatch()
    for der, minutes in uses:
        assert watch.note(ID, der, NOW + timedelta(minutes=minutes)) is None


def test_take_overs_to_and_fro_are_two_devices() -> None:
    """Two that push each other out; the evidence names both addresses."""
    watch, addresses = TakeOverWatch(), ["192.0.2.1", "192.0.2.2"]
    found = [
        watch.note(
            ID, source=addresses[turn % 2], displaced=addresses[(turn + 1) % 2], at=NOW + timedelta(seconds=turn)
        )
        for turn in range(TAKE_OVERS)
    ]
    assert found[:-1] == [None] * (TAKE_OVERS - 1)
    assert found[-1] is not None
    assert all(address in found[-1].detail for address in addresses)


def test_flapping_and_roaming_device_is_not_suspected() -> None:
    """One address, however often; a new address each time; two addresses, but slowly."""
    flapping, roaming, slow = TakeOverWatch(), TakeOverWatch(), TakeOverWatch()
    for turn in range(10 * TAKE_OVERS):
        at, here, there = NOW + timedelta(seconds=turn), f"192.0.2.{turn}", f"192.0.2.{turn + 1}"
        assert flapping.note(ID, source="192.0.2.1", displaced="192.0.2.1", at=at) is None
        assert roaming.note(ID, source=there, displaced=here, at=at) is None
        later = NOW + turn * TAKE_OVER_WINDOW / (TAKE_OVERS - 2)
        assert slow.note(ID, source=f"192.0.2.{turn % 2}", displaced=f"192.0.2.{1 - turn % 2}", at=later) is None


def test_watches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices beyond the bound push out the oldest, and nothing grows."""
    monkeypatch.setattr(clone, "MAX_WATCHED", 3)
    certificates, take_overs = CertificateWatch(), TakeOverWatch()
    for number in range(10):
        certificates.note(f"{number}", OLD, NOW)
        take_overs.note(f"{number}", source="192.0.2.1", displaced="192.0.2.2", at=NOW)
    assert list(certificates._uses) == list(take_overs._seen) == ["7", "8", "9"]


def test_manifest_says_both_counters() -> None:
    """The text is what an operator reads."""
    text = manifest_suspicion(last=7, found=5).text
    assert text == "manifest: expected a manifest counter above 7, found 5 newly signed"
