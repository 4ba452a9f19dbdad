"""The root of trust: identity, fuses, counters and life cycle, none of which falls."""

import json
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from device_sim.errors import DeviceFolderError, PowerCutError, SecurityFloorError
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.root_of_trust import IMPLEMENTATION_ID, RootOfTrust, seeded_identity
from device_sim.hardware.secure_storage import SecureStorage
from protocol.evidence import LifeCycle, SoftwareComponent, verify_evidence
from protocol.geometry import Slot
from protocol.identity import device_id_in, device_id_of
from protocol.signing import SoftwareSigner, verify
from tests.unit.device_hardware.device_builder import DeviceBuilder

COMPONENT = SoftwareComponent("os", bytes(32), bytes(32), "os@1.0.0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rot.json"


@pytest.fixture
def root(path: Path) -> RootOfTrust:
    return RootOfTrust.manufacture(path, seeded_identity(b"unit"))


def reopened(path: Path) -> RootOfTrust:
    return RootOfTrust.open(path, power=PowerSupply())


def test_file_is_readable_by_its_owner_only(root: RootOfTrust, path: Path) -> None:
    """The identity key is in it."""
    root.raise_fuse(Slot.OS, 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_identity_key_signs_and_makes_the_device_id(root: RootOfTrust) -> None:
    """The root of trust is the Signer of its key."""
    verify(root.public_key, root.sign(b"data"), b"data")
    assert root.device_id == device_id_of(root.public_key)


def test_same_seed_gives_the_same_identity() -> None:
    """A simulation repeats; another seed is another device."""
    first, again, other = (seeded_identity(seed) for seed in (b"a", b"a", b"b"))
    assert device_id_of(first.public_key) == device_id_of(again.public_key) != device_id_of(other.public_key)


def test_fuses_and_counters_rise_and_stay_over_a_restart(root: RootOfTrust, path: Path) -> None:
    """What was burnt is burnt."""
    root.raise_fuse(Slot.M4_0_MODEL, 4)
    assert root.increment("manifest") == 1
    root.raise_counter("voucher", 9)
    again = reopened(path)
    assert (again.fuse(Slot.M4_0_MODEL), again.counter("manifest"), again.counter("voucher")) == (4, 1, 9)
    assert again.fuse(Slot.OS) == again.counter("never") == 0


def test_fuse_counter_or_life_cycle_that_would_fall_is_refused(root: RootOfTrust) -> None:
    """Invariant: they only rise."""
    root.raise_fuse(Slot.OS, 4)
    root.raise_counter("voucher", 9)
    with pytest.raises(SecurityFloorError, match="expected at least 4, found 3"):
        root.raise_fuse(Slot.OS, 3)
    with pytest.raises(SecurityFloorError, match="expected at least 9, found 8"):
        root.raise_counter("voucher", 8)
    with pytest.raises(SecurityFloorError, match="expected SECURED or later, found PROVISIONING"):
        root.advance_lifecycle(LifeCycle.PROVISIONING)


def test_evidence_shows_life_cycle_and_boot_seed(root: RootOfTrust) -> None:
    """A device in debug says so, and two boots differ."""
    first = verify_evidence(root.attest(bytes(32), [COMPONENT]), root.public_key)
    root.new_boot_seed()
    root.advance_lifecycle(LifeCycle.RECOVERABLE_DEBUG)
    second = verify_evidence(root.attest(bytes(32), [COMPONENT]), root.public_key)
    assert (first.lifecycle, second.lifecycle) == (LifeCycle.SECURED, LifeCycle.RECOVERABLE_DEBUG)
    assert first.boot_seed != second.boot_seed
    assert first.components == (COMPONENT,)
    assert first.implementation_id == IMPLEMENTATION_ID


def test_app_development_capability_shows_in_the_evidence_until_it_is_taken_away(
    root: RootOfTrust, tmp_path: Path
) -> None:
    """RFC 9783 §4.3.1: cores are open to a debugger, the root of trust is not; a device out of service stays so."""

    def shown() -> int:
        opened = RootOfTrust.open(tmp_path / "rot.json", power=PowerSupply())
        return verify_evidence(opened.attest(bytes(32), [COMPONENT]), root.public_key).lifecycle

    root.set_app_development(allowed=True)
    assert shown() == LifeCycle.NON_PSA_DEBUG
    root.set_app_development(allowed=False)
    assert shown() == LifeCycle.SECURED
    root.set_app_development(allowed=True)
    root.advance_lifecycle(LifeCycle.DECOMMISSIONED)
    assert shown() == LifeCycle.DECOMMISSIONED


def test_csrs_name_the_device_by_uri_and_nothing_else(root: RootOfTrust) -> None:
    """IDevID and LDevID requests: empty subject, critical SAN URI; the operational key is fresh each time."""
    identity = x509.load_pem_x509_csr(root.identity_csr())
    key, der = root.new_operational_key()
    operational = x509.load_der_x509_csr(der)
    for csr in (identity, operational):
        assert csr.is_signature_valid
        assert list(csr.subject) == []
        assert device_id_in(csr) == root.device_id
        assert csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert identity.public_key() == root.public_key
    assert operational.public_key() == key.public_key
    assert key.public_key not in (root.public_key, root.new_operational_key()[0].public_key)


def test_tls_context_gets_the_identity_without_giving_the_key_out(root: RootOfTrust, tmp_path: Path) -> None:
    """The context takes the key of the certificate; a chain of another key is refused by it."""
    own = self_signed(root)
    root.authenticate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), own)
    other = self_signed(RootOfTrust.manufacture(tmp_path / "other.json", SoftwareSigner.generate()))
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        root.authenticate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), other)


def self_signed(root: RootOfTrust) -> bytes:
    name = x509.Name([])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, root.public_key, 1, start, start + timedelta(days=365))
    return builder.sign(root._identity.private_key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"not json", json.dumps({"identity_key": "no key", "lifecycle": 0x3000}).encode()],
)
def test_damaged_file_is_refused(content: bytes, path: Path) -> None:
    """The error says what was expected, and shows no key."""
    path.write_bytes(content)
    with pytest.raises(DeviceFolderError, match=r"rot\.json: expected"):
        reopened(path)


def test_power_cut_leaves_root_of_trust_and_storage_as_they_were(root: RootOfTrust, path: Path) -> None:
    """Their writes are whole or not at all."""
    root.raise_fuse(Slot.OS, 1)
    cut = RootOfTrust.open(path, power=PowerSupply(fails_at=0))
    with pytest.raises(PowerCutError, match="operation 0"):
        cut.raise_fuse(Slot.OS, 2)
    assert reopened(path).fuse(Slot.OS) == 1
    storage = SecureStorage(path.with_name("state.json"), power=PowerSupply(fails_at=1))
    storage.put("a", b"1")
    with pytest.raises(PowerCutError, match="operation 1"):
        storage.put("a", b"2")
    assert SecureStorage(path.with_name("state.json"), power=PowerSupply()).get("a") == b"1"


def test_secure_storage_keeps_bytes_by_name_over_a_restart(tmp_path: Path) -> None:
    """Several names change at once; None removes one."""
    path = tmp_path / "state.json"
    storage = SecureStorage(path, power=PowerSupply())
    storage.update({"a": b"\x00\xff", "b": b"2"})
    storage.update({"b": None, "c": b""})
    again = SecureStorage(path, power=PowerSupply())
    assert (again.names(), again.get("a"), again.get("b"), again.get("c")) == (("a", "c"), b"\x00\xff", None, b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_damaged_secure_storage_is_refused(tmp_path: Path) -> None:
    """A half-written or foreign file is no storage."""
    path = tmp_path / "state.json"
    path.write_text('{"items": {"a": 7}}')
    with pytest.raises(DeviceFolderError, match=r"state\.json: expected secure storage"):
        SecureStorage(path, power=PowerSupply())


def test_device_cannot_be_made_twice(builder: DeviceBuilder) -> None:
    """The same seed finds the device that is there and leaves it alone."""
    folder = builder.manufacture()
    before = (folder / "rot.json").read_bytes()
    with pytest.raises(DeviceFolderError, match="expected none, found device"):
        builder.manufacture()
    assert (folder / "rot.json").read_bytes() == before
