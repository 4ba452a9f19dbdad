"""The voucher authority: whom it gives a device, on what grounds, and what it remembers."""

import fcntl
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.errors import HandoverError, VoucherLogError, VoucherRefusedError
from pki.handover import (
    DeviceRelease,
    Handover,
    peek_handover,
    root_key_of,
    sign_device_release,
    sign_handover,
    verify_device_release,
    verify_handover,
)
from pki.voucher_log import MAX_LINE_BYTES, VoucherLog
from pki.vouchers import VoucherAuthority, VoucherRequest
from protocol.document import EnvelopeSignatureError, sign_document
from protocol.identity import DeviceId, device_id_of
from protocol.signing import SoftwareSigner
from protocol.voucher import MAX_SEQUENCE, Assertion, Voucher, encode_public_keys, verify_voucher
from tests.unit.pki.pki_builder import NOW
from tests.voucher_roots import VoucherRoots, make_roots

P256_OID, UNKNOWN_OID = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030109")
AUTHORITY_KEY = SoftwareSigner.generate()
DEVICE = device_id_of(SoftwareSigner.generate().public_key)
OTHER_DEVICE = device_id_of(SoftwareSigner.generate().public_key)


@dataclass(frozen=True, slots=True)
class Company:
    """A catalog and its root key."""

    roots: VoucherRoots
    catalog_id: str

    @classmethod
    def make(cls, digit: str) -> "Company":
        return cls(make_roots(), f"{digit * 8}-1111-4111-8111-111111111111")

    @property
    def handover(self) -> Handover:
        return Handover(
            catalog_id=self.catalog_id,
            catalog_name=f"catalog {self.catalog_id[0]}",
            made_at=NOW,
            tls_root=self.roots.tls,
            director_root=self.roots.director,
            image_root=self.roots.image,
            package_keys=encode_public_keys([SoftwareSigner.generate().public_key]),
            golden_keys=(),
        )

    def release(
        self, to: "Company", *, sequence: int, device: DeviceId = DEVICE, key: SoftwareSigner | None = None
    ) -> bytes:
        document = DeviceRelease(
            from_catalog_id=self.catalog_id,
            to_catalog_id=to.catalog_id,
            to_fingerprint=to.handover.fingerprint,
            released_at=NOW,
            reason="sold",
            devices={device: sequence},
        )
        return sign_device_release(document, key or self.roots.key)


SELLER, BUYER, THIEF = (Company.make(digit) for digit in "abc")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "vouchers.jsonl"


def authority(log: Path) -> VoucherAuthority:
    return VoucherAuthority(AUTHORITY_KEY, VoucherLog(log))


def give(log: Path, to: Company, **request: Any) -> Voucher:
    """Issue a voucher and verify it as the device would."""
    wanted = VoucherRequest(request.pop("device_id", DEVICE), to.handover, **request)
    signed = authority(log).issue(wanted, now=NOW)
    return verify_voucher(signed, wanted.device_id, voucher_key=AUTHORITY_KEY.public_key)


def test_device_that_nobody_holds_goes_to_whom_it_was_sold(log: Path) -> None:
    """Logged only: the manufacturer's own decision."""
    voucher = give(log, SELLER, expires_at=NOW + timedelta(days=30))
    assert (voucher.catalog_id, voucher.assertion) == (SELLER.catalog_id, Assertion.LOGGED)
    assert (voucher.sequence, voucher.issued_at) == (int(NOW.timestamp()), NOW)
    assert voucher.expires_at == NOW + timedelta(days=30)
    assert voucher.tls_root == SELLER.roots.tls


def test_device_that_proved_itself_is_verified(log: Path) -> None:
    """Claimed where it was made."""
    assert give(log, SELLER, is_proved=True).assertion is Assertion.VERIFIED


def test_holder_gets_a_newer_voucher_without_a_release(log: Path) -> None:
    """In the same second the sequence still rises."""
    first, second = give(log, SELLER), give(log, SELLER)
    assert second.sequence == first.sequence + 1
    assert second.assertion is Assertion.VERIFIED


def test_released_device_goes_to_the_new_catalog_and_back(log: Path) -> None:
    """Each move needs its own release, and raises the sequence."""
    first = give(log, SELLER)
    there = give(log, BUYER, unverified_release=SELLER.release(BUYER, sequence=first.sequence))
    assert (there.catalog_id, there.assertion) == (BUYER.catalog_id, Assertion.VERIFIED)
    back = give(log, SELLER, unverified_release=BUYER.release(SELLER, sequence=there.sequence))
    assert [first.sequence, there.sequence, back.sequence] == sorted({first.sequence, there.sequence, back.sequence})
    again = SELLER.release(BUYER, sequence=first.sequence)
    with pytest.raises(VoucherRefusedError, match=f"expected a release from its voucher {back.sequence} to catalog"):
        give(log, BUYER, unverified_release=again)


def test_newer_voucher_supersedes_the_older_one(log: Path) -> None:
    """What a device shows may be an old one that somebody put back."""
    foreign = SELLER.handover.voucher(OTHER_DEVICE, sequence=1, issued_at=NOW, assertion=Assertion.LOGGED)
    assert not authority(log).has_superseded(foreign)
    first = give(log, SELLER)
    assert not authority(log).has_superseded(first)
    second = give(log, SELLER)
    assert authority(log).has_superseded(first)
    assert not authority(log).has_superseded(second)


def test_thief_gets_no_voucher(log: Path) -> None:
    """He has the device in hand and a catalog of his own."""
    give(log, SELLER)
    before = log.read_bytes()
    with pytest.raises(
        VoucherRefusedError, match=r"expected a release by catalog catalog a .*, which holds it, found none"
    ):
        give(log, THIEF)
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("release", "error", "message"),
    [
        (lambda first: THIEF.release(THIEF, sequence=first), HandoverError, "expected one by the catalog that holds"),
        (
            lambda first: SELLER.release(BUYER, sequence=first),
            VoucherRefusedError,
            "another voucher or another catalog",
        ),
        (lambda first: SELLER.release(THIEF, sequence=first - 1), VoucherRefusedError, "another voucher"),
        (
            lambda first: SELLER.release(THIEF, sequence=first, device=OTHER_DEVICE),
            VoucherRefusedError,
            "one for other devices",
        ),
        (lambda _first: b"no release", HandoverError, "expected one by the catalog that holds the device"),
        (lambda _first: sign_handover(SELLER.handover, SELLER.roots.key), HandoverError, "payload type"),
    ],
)
def test_release_that_lets_this_device_not_go_there_is_worth_nothing(
    release: Callable[[int], bytes], error: type[Exception], message: str, log: Path
) -> None:
    """By another key, for another catalog, from another voucher, for another device, or none."""
    first = give(log, SELLER).sequence
    with pytest.raises(error, match=message):
        give(log, THIEF, unverified_release=release(first))


def test_catalog_of_the_same_id_and_another_root_is_no_holder(log: Path) -> None:
    """An id is easily copied."""
    give(log, SELLER)
    with pytest.raises(VoucherRefusedError, match="expected a release"):
        give(log, replace(THIEF, catalog_id=SELLER.catalog_id))


def test_voucher_that_the_device_shows_counts_where_the_log_knows_none(log: Path) -> None:
    """Issued before there was a log."""
    shown = SELLER.handover.voucher(DEVICE, sequence=99, issued_at=NOW, assertion=Assertion.LOGGED)
    envelope = sign_document(shown, "application/vnd.tinyfleet.voucher+json", AUTHORITY_KEY)
    with pytest.raises(VoucherRefusedError, match="catalog a"):
        give(log, BUYER, unverified_voucher=envelope)
    release = SELLER.release(BUYER, sequence=99)
    assert give(log, BUYER, unverified_voucher=envelope, unverified_release=release).catalog_id == BUYER.catalog_id
    # From now on the log knows better than what the device shows.
    with pytest.raises(VoucherRefusedError, match="catalog b"):
        give(log, SELLER, unverified_voucher=envelope)


def test_voucher_of_another_authority_says_nothing(log: Path) -> None:
    """A device that is not ours shows one."""
    shown = SELLER.handover.voucher(DEVICE, sequence=99, issued_at=NOW, assertion=Assertion.LOGGED)
    envelope = sign_document(shown, "application/vnd.tinyfleet.voucher+json", SoftwareSigner.generate())
    with pytest.raises(EnvelopeSignatureError, match="Voucher"):
        give(log, BUYER, unverified_voucher=envelope)


def test_log_remembers_what_was_issued_and_on_what_grounds(log: Path) -> None:
    """One line each, also across processes; a missing file is an empty log."""
    assert list(VoucherLog(log).entries()) == []
    first = give(log, SELLER)
    release = SELLER.release(BUYER, sequence=first.sequence)
    there = give(log, BUYER, unverified_release=release)
    give(log, SELLER, device_id=OTHER_DEVICE)
    entries = list(VoucherLog(log).entries())
    assert [entry.voucher_sha256 for entry in entries[:2]] == [first.digest, there.digest]
    assert [entry.release_sha256 is None for entry in entries] == [True, False, True]
    held = VoucherLog(log).last_of(DEVICE)
    assert held is not None
    assert held.catalog_id == BUYER.catalog_id


def test_one_log_object_serves_many_devices(log: Path) -> None:
    """It reads the file once, and again when somebody else wrote to it."""
    ours, theirs = VoucherLog(log), VoucherLog(log)
    for each, device in ((ours, DEVICE), (theirs, OTHER_DEVICE), (ours, DEVICE)):
        request = VoucherRequest(device, SELLER.handover)
        VoucherAuthority(AUTHORITY_KEY, each).issue(request, now=NOW)
    assert [entry.device_id for entry in theirs.entries()] == [DEVICE, OTHER_DEVICE, DEVICE]
    assert VoucherLog(log).last_of("00" * 64) is None


def test_torn_line_was_never_handed_out(log: Path) -> None:
    """A power cut while the entry was written: the next one takes its place."""
    give(log, SELLER)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"number":2,"vou')
    assert len(list(VoucherLog(log).entries())) == 1
    second = give(log, SELLER)
    assert [entry.voucher_sha256 for entry in VoucherLog(log).entries()][1:] == [second.digest]


def test_log_with_a_torn_end_is_read_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays as it is until the next voucher; a look-up costs no more for it."""
    give(log, SELLER)
    log.write_bytes(log.read_bytes() + b'{"number":2,"vou')
    known, opened, open_path = VoucherLog(log), list[Path](), Path.open

    def count(path: Path, mode: str) -> IO[Any]:
        opened.append(path)
        return open_path(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", count)
        found = [known.last_of(DEVICE) for _ in range(3)]
    assert opened == [log]
    assert found == [found[0]] * 3 != [None] * 3
    log.write_bytes(b"")
    assert known.last_of(DEVICE) is None


class _WatchingSigner:
    """The voucher key, in a token that another command waits for."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.kept_others_out = False

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return AUTHORITY_KEY.public_key

    def sign(self, message: bytes) -> bytes:
        with self._log.open("rb") as other, suppress(BlockingIOError):
            self.kept_others_out = True
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.kept_others_out = False
        return AUTHORITY_KEY.sign(message)


def test_nobody_writes_between_the_look_up_and_the_entry(log: Path) -> None:
    """Two commands at once would each find a device that nobody holds."""
    signer = _WatchingSigner(log)
    VoucherAuthority(signer, VoucherLog(log)).issue(VoucherRequest(DEVICE, SELLER.handover), now=NOW)
    assert signer.kept_others_out


def test_last_sequence_has_no_successor(log: Path) -> None:
    """Our error, and no entry."""
    shown = SELLER.handover.voucher(DEVICE, sequence=MAX_SEQUENCE, issued_at=NOW, assertion=Assertion.LOGGED)
    envelope = sign_document(shown, "application/vnd.tinyfleet.voucher+json", AUTHORITY_KEY)
    with pytest.raises(VoucherRefusedError, match="expected a sequence up to 9223372036854775807"):
        give(log, SELLER, unverified_voucher=envelope)
    assert log.read_bytes() == b""


def _changed(line: bytes, name: str, value: object) -> bytes:
    document = json.loads(line)
    document["voucher"][name] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[1:], "expected entry 1 after 0000000000000000…, found 2"),
        (lambda lines: [lines[0], lines[2]], "expected entry 2 after .*, found 3"),
        (lambda lines: [lines[0], lines[0], lines[2]], "expected entry 2 after .*, found 1"),
        (
            lambda lines: [_changed(lines[0], "catalog_name", "x"), *lines[1:]],
            "entry 1: expected the content of its hash",
        ),
        (lambda lines: [lines[0].replace(b'","', b'", "', 1), *lines[1:]], "entry 1: expected the content of its hash"),
        (lambda lines: [_changed(lines[0], "sequence", 0), *lines[1:]], "entry 1: expected a voucher, found"),
        (lambda lines: [b"no json\n", *lines[1:]], "entry 1: expected a voucher, found"),
        (lambda lines: [b"[" * MAX_LINE_BYTES, *lines], "entry 1: expected below 4096 bytes, found more"),
    ],
    ids=["first-missing", "missing", "doubled", "changed", "reformatted", "malformed", "no-json", "too-long"],
)
def test_log_that_was_changed_gives_no_more_vouchers(
    spoil: Callable[[list[bytes]], list[bytes]], message: str, log: Path
) -> None:
    """Whoever removes the entry of a theft cannot hide that he did."""
    for _ in range(3):
        give(log, SELLER)
    log.write_bytes(b"".join(spoil(log.read_bytes().splitlines(keepends=True))))
    spoiled = log.read_bytes()
    with pytest.raises(VoucherLogError, match=message):
        give(log, SELLER)
    assert log.read_bytes() == spoiled


def test_handover_is_verified_by_the_fingerprint() -> None:
    """What its operator read out."""
    signed = sign_handover(BUYER.handover, BUYER.roots.key)
    assert peek_handover(signed).fingerprint == BUYER.handover.fingerprint
    assert verify_handover(signed, fingerprint=BUYER.handover.fingerprint).catalog_id == BUYER.catalog_id


@pytest.mark.parametrize(
    ("handover", "key", "message"),
    [
        (THIEF.handover, THIEF.roots.key, "expected the catalog of"),
        (BUYER.handover, THIEF.roots.key, "expected a signature by its own root key"),
        (BUYER.handover.model_copy(update={"director_root": b"{}"}), BUYER.roots.key, "Director root: expected"),
        (BUYER.handover.model_copy(update={"package_keys": (b"x",)}), BUYER.roots.key, "public key: expected"),
    ],
)
def test_handover_of_somebody_else_is_refused(handover: Handover, key: SoftwareSigner, message: str) -> None:
    """Another catalog's, forged, or with roots that are none."""
    with pytest.raises(HandoverError, match=message):
        verify_handover(sign_handover(handover, key), fingerprint=BUYER.handover.fingerprint)


def test_bytes_that_are_no_handover_are_refused() -> None:
    """As a file that somebody mixed up."""
    with pytest.raises(HandoverError, match="expected one by `tinyfleet catalog export`"):
        peek_handover(b"no handover")


def test_handover_without_a_certificate_has_no_key() -> None:
    """Signed by whomever, it is of nobody."""
    handover = BUYER.handover.model_copy(update={"tls_root": b"no certificate"})
    with pytest.raises(HandoverError, match="TLS root: expected a DER certificate"):
        verify_handover(sign_handover(handover, BUYER.roots.key), fingerprint=handover.fingerprint)


def test_root_with_a_key_of_another_kind_signs_no_papers() -> None:
    """P-256 alone."""
    handover = BUYER.handover.model_copy(update={"tls_root": _p384_root()})
    voucher = handover.voucher(DEVICE, sequence=1, issued_at=NOW, assertion=Assertion.LOGGED)
    with pytest.raises(HandoverError, match="catalog's root: expected a P-256 key"):
        root_key_of(voucher)


def test_root_with_a_key_that_does_not_load_signs_no_papers() -> None:
    """A certificate that parses only in part: of a curve that there is not."""
    spoiled = BUYER.roots.tls.replace(P256_OID, UNKNOWN_OID)
    handover = BUYER.handover.model_copy(update={"tls_root": spoiled})
    with pytest.raises(HandoverError, match="expected a P-256 key, found none that loads"):
        verify_handover(sign_handover(handover, BUYER.roots.key), fingerprint=handover.fingerprint)


@pytest.mark.parametrize("name", ["Buyer\x1b[2K\rSeller", "Buyer\nconfirmed", "Buyer\u202erelleS", "Buyer\x9b2J", ""])
def test_name_that_a_terminal_would_obey_is_refused(name: str) -> None:
    """It is shown just before the fingerprint that an operator confirms."""
    handover = BUYER.handover.model_copy(update={"catalog_name": name})
    with pytest.raises(HandoverError, match="catalog_name"):
        peek_handover(sign_handover(handover, BUYER.roots.key))


def test_release_is_read_by_its_catalogs_key() -> None:
    """And says which devices go where."""
    release = verify_device_release(SELLER.release(BUYER, sequence=7), root_key=SELLER.roots.key.public_key)
    assert (release.devices, release.to_catalog_id) == ({DEVICE: 7}, BUYER.catalog_id)


def _p384_root() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
