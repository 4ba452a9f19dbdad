"""Attacks by a service that lies, or by whoever writes a device's folder, on what the operator signs offline.

After a legitimate command, each lie: no paper is signed, no list published, no voucher logged.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from typer.testing import CliRunner, Result

from pki.handover import Handover, sign_handover, verify_device_release
from pki.keystore import PASSPHRASE_VARIABLE
from pki.vouchers import VoucherRequest
from protocol.errors import ProtocolError
from protocol.messages import ClaimProof
from protocol.signing import SoftwareSigner
from protocol.voucher import Assertion
from service.cli import clock, moving, pki_revoke
from service.cli.asked_device import AnotherDeviceError
from service.cli.catalog_papers import own_handover
from service.cli.claiming import ClaimProofError, VoucherDesk, claim_devices
from service.cli.client import ApiClient
from service.cli.errors import AnswerError, BadArgumentError
from service.cli.factory_papers import voucher_authority
from service.cli.main import make_app
from service.cli.moving import AnotherVoucherError
from tests.attesting_device import AttestingDevice
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.service_folder import Folders
from tests.voucher_roots import make_roots

CHALLENGE, OTHER_CHALLENGE = b"\x11" * 32, b"\x22" * 32


@dataclass
class LyingService:
    """Answers every question about a device with the same document, and takes whatever is sent."""

    answer: dict[str, object] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            self.taken.append(request.url.path)
            return httpx.Response(204)
        if "/pki/crls/" in request.url.path:
            headers = {"Content-Type": "application/problem+json"}
            return httpx.Response(404, json={"title": "Not found", "status": 404, "detail": ""}, headers=headers)
        if request.url.path.endswith("/devices"):
            return httpx.Response(200, json={"items": []})
        return httpx.Response(200, json=self.answer)


@dataclass
class Case:
    """An operator, his lying service, two devices that he made, and the catalog that buys one of them."""

    folders: Folders
    service: LyingService
    device: AttestingDevice
    victim: AttestingDevice
    buyer: Handover
    buyer_key: SoftwareSigner

    @property
    def client(self) -> ApiClient:
        http = httpx.Client(transport=httpx.MockTransport(self.service), base_url="https://service")
        return ApiClient(http)

    @property
    def desk(self) -> VoucherDesk:
        return VoucherDesk.open(self.folders.operator, None)

    @property
    def out(self) -> Path:
        return self.folders.operator / "release.json"

    def logged(self) -> bytes:
        log = self.folders.operator / "vouchers.jsonl"
        return log.read_bytes() if log.exists() else b""

    def run(self, *words: object) -> Result:
        command = [*map(str, words), "--operator-dir", str(self.folders.operator)]
        return CliRunner().invoke(make_app(command), command)

    def release(self, device: str, *, reason: str = "sold") -> Result:
        handover = self.folders.operator / "handover.json"
        handover.write_bytes(sign_handover(self.buyer, self.buyer_key))
        to = ("--to", handover, "--fingerprint", self.buyer.fingerprint)
        return self.run("device", "release", device, *to, "--reason", reason, "--out", self.out)

    def say_released(self, device_id: str, sequence: object) -> None:
        known = {"fingerprint": self.buyer.fingerprint, "catalog_name": self.buyer.catalog_name}
        self.service.answer = {"device_id": device_id, "voucher_sequence": sequence, **known}

    def put(self, proof: ClaimProof) -> Path:
        """A folder of one device's folder, as its maker or a thief left it."""
        folder = self.folders.operator.parent / "devices" / "one"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "device.json").write_text(json.dumps({"device_id": proof.device_id}))
        (folder / "claim.json").write_text(proof.model_dump_json())
        return folder

    def claim(self, proof: ClaimProof) -> list[str]:
        folder = self.put(proof)
        target = {"product": "p", "group": "g"}
        return claim_devices(self.client, folder.parent, desk=self.desk, prove=False, **target).claimed


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    folders, service, roots = make_quick_folders(tmp_path / "data"), LyingService(), make_roots()
    changes = {"catalog_name": "Buyer", "catalog_id": "b" * 8 + "-1111-4111-8111-111111111111", "tls_root": roots.tls}
    buyer = own_handover(folders.operator, now=clock.now()).model_copy(update=changes)
    case = Case(folders, service, AttestingDevice(folders), AttestingDevice(folders), buyer, roots.key)
    for module in (moving, pki_revoke):
        _connect(module, case, monkeypatch)
    return case


def _connect(module: ModuleType, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connect(_operator_dir: Path) -> Iterator[ApiClient]:
        yield case.client

    monkeypatch.setattr(module, "connect", connect)


def _give_to_us(case: Case, device: AttestingDevice) -> int:
    """Log a voucher of a device to this catalog; its sequence."""
    request = VoucherRequest(device.device_id, case.desk.handover)
    authority = voucher_authority(case.folders.operator)
    authority.issue(request, now=clock.now())
    return json.loads(case.logged().splitlines()[-1])["voucher"]["sequence"]  # type: ignore[no-any-return]


def test_service_cannot_have_another_device_released(case: Case) -> None:
    """Asked for one, it names another; by the whole id or by its beginning."""
    device, victim = case.device.device_id, case.victim.device_id
    for asked in (device, device[:16]):
        case.say_released(device, 7)
        assert case.release(asked).exception is None
        case.out.unlink()
        for named in (victim, "", None, device[:-1]):
            case.say_released(named, 7)  # type: ignore[arg-type]
            assert isinstance(case.release(asked).exception, AnotherDeviceError)
    assert not case.out.exists()


def test_beginning_that_fits_many_devices_releases_none(case: Case) -> None:
    """The service would choose."""
    case.say_released(case.device.device_id, 7)
    assert isinstance(case.release(case.device.device_id[:7]).exception, BadArgumentError)
    assert not case.out.exists()


@pytest.mark.parametrize("sequence", [0, -1, 1 << 63, "7", None, True])
def test_release_ends_a_voucher_that_can_be(case: Case, sequence: object) -> None:
    """Our error, before anything is signed."""
    case.say_released(case.device.device_id, sequence)
    assert isinstance(case.release(case.device.device_id).exception, AnswerError)
    assert not case.out.exists()


def test_service_cannot_have_a_device_released_from_another_voucher(case: Case) -> None:
    """A device that was made here has its last voucher in the log."""
    sequence = _give_to_us(case, case.device)
    case.say_released(case.device.device_id, sequence + 1)
    assert isinstance(case.release(case.device.device_id).exception, AnotherVoucherError)
    assert not case.out.exists()
    case.say_released(case.device.device_id, sequence)
    assert case.release(case.device.device_id).exception is None
    root = case.folders.keys.load("root").public_key
    assert verify_device_release(case.out.read_bytes(), root_key=root).devices == {case.device.device_id: sequence}


def test_service_cannot_have_another_device_revoked(case: Case) -> None:
    """It would be shut out for good; the list of the revoked stays as it was."""
    words = ("pki", "revoke", case.device.device_id, "--reason", "key-compromise")
    case.service.answer = {"idevid_chain": case.victim.idevid_chain}
    assert isinstance(case.run(*words).exception, AnotherDeviceError)
    assert (case.service.taken, (case.folders.operator / "revocation").exists()) == ([], False)
    case.service.answer = {"idevid_chain": case.device.idevid_chain}
    assert case.run(*words).exception is None
    assert len(case.service.taken) == 1


def test_voucher_goes_to_the_device_of_the_chain(case: Case) -> None:
    """Who writes claim.json names another device than the one that the factory signed."""
    assert case.claim(case.device.proof(CHALLENGE)) == [case.device.device_id]
    before = case.logged()
    forged = case.victim.proof(CHALLENGE).model_copy(update={"device_id": case.device.device_id})
    (case.put(forged) / "voucher.json").unlink()
    with pytest.raises(ClaimProofError, match="expected the IDevID of device"):
        case.claim(forged)
    assert case.logged() == before


def test_voucher_needs_evidence_by_the_devices_own_key(case: Case) -> None:
    """A thief has the public chain, and signs with a key of his own."""
    proof, own = case.device.proof(CHALLENGE), case.victim.proof(CHALLENGE)
    thief = replace(case.device, identity=SoftwareSigner.generate()).proof(CHALLENGE).evidence
    for evidence in (own.evidence, thief, b""):
        with pytest.raises(ProtocolError, match="expected"):
            case.desk.voucher(case.put(proof), proof.model_copy(update={"evidence": evidence}))
    assert case.logged() == b""


def test_voucher_needs_evidence_over_the_challenge_of_this_command(case: Case) -> None:
    """A proof of last year shows nothing of who has the device now."""
    proof = case.device.proof(OTHER_CHALLENGE)
    folder = case.put(proof)
    with pytest.raises(ClaimProofError, match="expected evidence over the challenge of this command"):
        case.desk.voucher(folder, proof, challenge=CHALLENGE)
    assert case.logged() == b""
    case.desk.voucher(folder, case.device.proof(CHALLENGE), challenge=CHALLENGE)
    assert json.loads(case.logged())["voucher"]["assertion"] == Assertion.VERIFIED
