"""Papers of a move on the command line: handover, release, voucher, bundle; with a service in memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from device_sim.hardware.machine import Machine
from pki import pkcs8
from pki.errors import ChainError, HandoverError, ManufacturerError
from pki.handover import sign_handover, verify_device_release, verify_handover
from pki.manufacturers import peek_manufacturer, trusted_manufacturers
from pki.profiles import idevid
from protocol.document import peek_document
from protocol.identity import parse_device_id
from protocol.signing import SoftwareSigner
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Assertion, Voucher
from service.cli import moving
from service.cli.catalog_papers import own_handover
from service.cli.client import ApiClient
from service.cli.errors import BadArgumentError
from service.cli.moving import ReleasedElsewhereError, ReleaseWaitsError
from tests.service_folder import Folders, hold_test_ceremony
from tests.unit.cli.offline_service import Operator, wall_clock

DEVICE, SECOND = "ab" * 64, "cd" * 64


@dataclass
class RegistryInMemory:
    """Says who has left, and lets devices go unless it waits for a second person."""

    waits: bool = False
    departed: dict[str, dict[str, str]] = field(default_factory=dict)
    posts: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        device = request.url.path.split("/")[4]
        if request.method == "POST":
            self.posts += 1
            if self.waits:
                return httpx.Response(202, json={"state": "pending", "id": "r1"})
            self.departed[device] = json.loads(request.content)
            return httpx.Response(204)
        if device not in self.departed:
            headers = {"Content-Type": "application/problem+json"}
            return httpx.Response(409, json={"title": "Conflict", "status": 409, "detail": "here"}, headers=headers)
        return httpx.Response(200, json={"device_id": device, "voucher_sequence": 7, **self.departed[device]})


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> RegistryInMemory:
    registry = RegistryInMemory()

    @contextmanager
    def connect(_operator_dir: Path) -> Iterator[ApiClient]:
        with httpx.Client(transport=httpx.MockTransport(registry), base_url="https://service") as http:
            yield ApiClient(http)

    monkeypatch.setattr(moving, "connect", connect)
    return registry


@pytest.fixture(scope="module")
def buyer(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Another company's folders, by a ceremony of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkcs8, "SCRYPT_N", 2)
        return hold_test_ceremony(tmp_path_factory.mktemp("buyer"))


@pytest.fixture
def handover(buyer: Folders, tmp_path: Path) -> tuple[Path, str]:
    """The buyer's handover and its fingerprint."""
    paper = own_handover(buyer.operator, now=wall_clock())
    path = tmp_path / "handover.json"
    path.write_bytes(sign_handover(paper, buyer.keys.load("root")))
    return path, paper.fingerprint


def release(handover: tuple[Path, str], *devices: str, out: Path) -> tuple[object, ...]:
    path, fingerprint = handover
    words = ("device", "release", *devices, "--to", path, "--fingerprint", fingerprint, "--reason", "sold")
    return (*words, "--out", out)


def test_release_names_every_device_and_the_catalog_that_gets_it(
    operator: Operator, registry: RegistryInMemory, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """Signed by the root; the same command again asks for nothing and signs anew."""
    out = tmp_path / "release.json"
    for _ in range(2):
        operator.run(*release(handover, DEVICE, SECOND, out=out))
        signed = verify_device_release(out.read_bytes(), root_key=operator.folders.keys.load("root").public_key)
        assert (signed.devices, signed.to_fingerprint, signed.reason) == ({DEVICE: 7, SECOND: 7}, handover[1], "sold")
    assert registry.posts == 2


def test_release_that_waits_for_a_second_person_is_not_signed(
    operator: Operator, registry: RegistryInMemory, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """No paper leaves the house before the device is shut out."""
    registry.waits, out = True, tmp_path / "release.json"
    operator.refused(ReleaseWaitsError, "found 1 that wait for approval", *release(handover, DEVICE, out=out))
    assert not out.exists()


def test_device_that_went_elsewhere_is_not_released_again(
    operator: Operator, registry: RegistryInMemory, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """It is another catalog's now."""
    registry.departed[DEVICE] = {"fingerprint": "ef" * 32, "catalog_name": "A third", "catalog_id": "x"}
    out = tmp_path / "release.json"
    operator.refused(ReleasedElsewhereError, "found it released to A third", *release(handover, DEVICE, out=out))


def test_fingerprint_must_be_confirmed(
    operator: Operator, registry: RegistryInMemory, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """By the option, or by a yes to what is shown."""
    out, words = tmp_path / "release.json", ("device", "release", DEVICE, "--to", handover[0], "--reason", "sold")
    result = operator.run(*words, "--out", out, expect=1, answer="n\n")
    assert isinstance(result.exception, BadArgumentError)
    assert handover[1] in result.output
    operator.refused(HandoverError, "expected the catalog of", *words, "--out", out, "--fingerprint", "00" * 32)
    assert registry.posts == 0
    operator.run(*words, "--out", out, answer="y\n")
    assert out.exists()


def test_export_is_what_a_manufacturer_needs(operator: Operator, tmp_path: Path) -> None:
    """Verified by the fingerprint that is said with it; on standard output if no file is named."""
    out = tmp_path / "out.json"
    said = operator.run("catalog", "export", "--out", out).stderr
    fingerprint = said.rpartition(": ")[2].strip()
    assert verify_handover(out.read_bytes(), fingerprint=fingerprint).catalog_name
    assert peekable(operator.run("catalog", "export").stdout)


def peekable(text: str) -> bool:
    return set(json.loads(text)) >= {"payload", "payloadType", "signatures"}


def test_trusted_manufacturers_come_and_go(operator: Operator, buyer: Folders, tmp_path: Path) -> None:
    """Signed by the operator's root, into his folder and the service's."""
    maker, bundle = Operator(buyer, operator.service), tmp_path / "manufacturer.json"
    said = maker.run("factory", "bundle", "--name", "Maker", "--crl-url", "http://crl.example", "--out", bundle).stderr
    fingerprint, service = said.rpartition(": ")[2].strip(), operator.folders.service
    words = ("catalog", "trust-manufacturer", bundle, "--service-dir", service)
    operator.refused(ManufacturerError, "expected the manufacturer of", *words, "--fingerprint", "00" * 32)
    for _ in range(2):
        operator.run(*words, "--fingerprint", fingerprint)
        assert [each.name for each in trusted_manufacturers(service)] == ["Maker"]
    own = maker.run(*words[:2], bundle, "--fingerprint", fingerprint, expect=1)
    assert isinstance(own.exception, BadArgumentError)
    operator.run("catalog", "distrust-manufacturer", "Maker", "--service-dir", service)
    assert trusted_manufacturers(service) == ()


def test_bundle_bears_any_name_that_a_catalog_may_have(operator: Operator, tmp_path: Path) -> None:
    """It is the default."""
    path = operator.folders.operator / "repository" / "catalog.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"name": "Example Works, Ltd."}))
    out = tmp_path / "manufacturer.json"
    operator.run("factory", "bundle", "--out", out)
    assert peek_manufacturer(out.read_bytes()).name == "Example Works, Ltd."


@pytest.mark.parametrize(
    ("option", "value"),
    [("name", ""), ("name", "x" * 51), ("ocsp-url", "ocsp.example"), ("crl-url", "file:///etc/passwd")],
)
def test_bundle_refuses_what_it_cannot_say(option: str, value: str, operator: Operator, tmp_path: Path) -> None:
    """And names the option."""
    words = ("factory", "bundle", f"--{option}", value, "--out", tmp_path / "out.json")
    operator.refused(BadArgumentError, f"--{option}: expected what a bundle may say, found '{value[:20]}", *words)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("reason", ["x" * 501, "sold\x1b[2J"])
def test_reason_that_a_release_cannot_say_shuts_nothing_out(
    reason: str, operator: Operator, registry: RegistryInMemory, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """The device stays here."""
    words = list(release(handover, DEVICE, out=tmp_path / "release.json"))
    words[words.index("sold")] = reason
    operator.refused(BadArgumentError, "reason: expected up to 500 printable characters", *words)
    assert (registry.posts, registry.departed) == (0, {})


def test_nobody_is_distrusted_where_nobody_is_trusted(operator: Operator) -> None:
    """A list must exist before somebody leaves it."""
    operator.refused(
        BadArgumentError, "expected a list by `catalog trust-manufacturer`", "catalog", "distrust-manufacturer", "X"
    )


def make_device(devices: Path, folders: Folders) -> Path:
    """A device that a factory has signed."""
    folder = Machine.manufacture(devices)
    device_id = parse_device_id(json.loads((folder / "device.json").read_bytes())["device_id"])
    request = x509.load_pem_x509_csr((folder / "csr.pem").read_bytes())
    leaf = folders.factory.issue(idevid(device_id, now=wall_clock()), request.public_key())  # type: ignore[arg-type]  # P-256
    (folder / "idevid.pem").write_bytes(folders.factory.chain_pem(leaf))
    return folder


def test_device_that_nobody_holds_gets_a_voucher_and_a_line_in_the_log(
    operator: Operator, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """Sold from the shelf: for a folder of devices, or one; with an end if asked for."""
    folder = make_device(tmp_path / "devices", operator.folders)
    words = ("--handover", handover[0], "--fingerprint", handover[1])
    operator.run("factory", "voucher", tmp_path / "devices", *words)
    first = peek_document((folder / "voucher.json").read_bytes(), VOUCHER_PAYLOAD_TYPE, Voucher)
    operator.run("factory", "voucher", folder, *words, "--expires-days", 30)
    voucher = peek_document((folder / "voucher.json").read_bytes(), VOUCHER_PAYLOAD_TYPE, Voucher)
    assert (first.expires_at, first.assertion) == (None, Assertion.LOGGED)
    assert voucher.expires_at is not None
    assert (voucher.sequence > first.sequence, voucher.assertion) == (True, Assertion.VERIFIED)
    listed = json.loads(operator.run("factory", "vouchers", "--json").stdout)
    assert [each["assertion"] for each in listed] == ["logged", "verified"]
    assert "2 vouchers" in operator.run("factory", "vouchers", "--device", voucher.device_id[:12]).stdout


def test_device_of_another_manufacturer_gets_no_voucher_here(
    operator: Operator, buyer: Folders, handover: tuple[Path, str], tmp_path: Path
) -> None:
    """Only who made it may give it away."""
    folder = make_device(tmp_path / "devices", buyer)
    words = ("factory", "voucher", folder, "--handover", handover[0], "--fingerprint", handover[1])
    operator.refused(ChainError, "expected one by the authority of its kind", *words)
    assert not (folder / "voucher.json").exists()


def test_handover_by_another_key_is_refused(operator: Operator, handover: tuple[Path, str], tmp_path: Path) -> None:
    """The fingerprint is right, the signature is not."""
    paper = verify_handover(handover[0].read_bytes(), fingerprint=handover[1])
    handover[0].write_bytes(sign_handover(paper, SoftwareSigner.generate()))
    folder = make_device(tmp_path / "devices", operator.folders)
    words = ("factory", "voucher", folder, "--handover", handover[0], "--fingerprint", handover[1])
    operator.refused(HandoverError, "expected a signature by its own root key", *words)
