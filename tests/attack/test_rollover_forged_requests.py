"""A service that lies: the operator's offline root signs no authority but the next generation of its issuing CA."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pki.authority import chain_pem
from pki.csr import make_csr
from pki.errors import GenerationCertificateError
from pki.issuance import OPERATOR_LOG_FILE
from pki.keystore import PASSPHRASE_VARIABLE
from pki.online import load_certificate
from protocol.signing import SoftwareSigner
from service.cli import pki_rollover
from service.cli.errors import AnswerError, CliError
from service.cli.pki_rollover import AlreadySignedError, request, sign
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.service_folder import Folders

Items = list[dict[str, Any]]


class LyingService:
    """Answers the operator's client as it likes."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        own = load_certificate(folders.service / "certificates" / "issuing-ca.pem")
        self.items: object = [generation(chain_pem([own]).decode())]
        self.requested: dict[str, object] = {"number": 2, "csr": new_csr()}

    def get(self, _path: str) -> dict[str, object]:
        return {"items": self.items}

    def post(self, _path: str) -> dict[str, object]:
        return self.requested

    def claim_in_force(self, certificate: x509.Certificate) -> None:
        """Show another certificate as the generation in force."""
        self.items = [generation(chain_pem([certificate]).decode())]

    def request(self) -> None:
        request(operator_dir=self.folders.operator)

    def sign(self) -> None:
        sign(offline=True, operator_dir=self.folders.operator)


def generation(certificate: str) -> dict[str, object]:
    return {
        "number": 1,
        "state": "active",
        "certificate": certificate,
        "cross_certificates": [],
        "not_after": None,
        "certificates_issued": 0,
        "last_not_after": None,
    }


def new_csr() -> str:
    return make_csr(SoftwareSigner.generate(), "issuing-ca-2").decode()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LyingService:
    folders = make_quick_folders(tmp_path)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    lying = LyingService(folders)

    @contextmanager
    def connected(_operator_dir: Path) -> Iterator[LyingService]:
        yield lying

    monkeypatch.setattr(pki_rollover, "connect", connected)
    return lying


def contents(folders: Folders) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folders.operator.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("claimed", ["package", "factory", "server-ca", "root"])
def test_root_signs_nothing_like_another_certificate_of_its_own(service: LyingService, claimed: str) -> None:
    """The package's signer would become an authority with its name, and the server CA one that names servers."""
    folders = service.folders
    service.claim_in_force(load_certificate(folders.operator / "certificates" / f"{claimed}.pem"))
    service.request()
    before = contents(folders)
    with pytest.raises(GenerationCertificateError, match="expected a generation in force that the operator's records"):
        service.sign()
    assert contents(folders) == before


def test_second_request_of_one_number_replaces_none_that_is_signed(service: LyingService) -> None:
    """It is refused when it comes, and nothing is said to be signed that is of another key."""
    service.request()
    service.sign()
    before = contents(service.folders)
    service.requested = {"number": 2, "csr": new_csr()}
    with pytest.raises(AlreadySignedError, match="expected the request that the root has signed, found another"):
        service.request()
    assert contents(service.folders) == before
    (service.folders.operator / "csr" / "issuing-ca-2.pem").write_text(new_csr())
    with pytest.raises(AlreadySignedError, match="found that of another key"):
        service.sign()


def test_request_that_is_not_signed_yet_is_replaced(service: LyingService) -> None:
    """As after a service was restored; the same request may come again after it was signed, too."""
    service.request()
    service.requested = {"number": 2, "csr": new_csr()}
    for _ in "ab":
        service.request()
        service.sign()
    folder = service.folders.operator
    signed = load_certificate(folder / "certificates" / "issuing-ca-2.pem")
    requested = x509.load_pem_x509_csr(str(service.requested["csr"]).encode())
    assert signed.public_key() == requested.public_key()
    assert (folder / OPERATOR_LOG_FILE).read_bytes().count(f'"{signed.serial_number:x}"'.encode()) == 1


def no_generations(service: LyingService) -> None:
    service.items = []


def no_list(service: LyingService) -> None:
    service.items = None


def no_state(service: LyingService) -> None:
    service.items = [{"number": 1}]


def no_certificate(service: LyingService) -> None:
    service.items = [{**generation(""), "certificate": None}]


def no_csr(service: LyingService) -> None:
    service.requested = {"number": 2}


def other_folder(service: LyingService) -> None:
    service.requested["number"] = "../2"


@pytest.mark.parametrize("lie", [no_generations, no_list, no_state, no_certificate, no_csr, other_folder])
def test_answer_that_makes_no_sense_is_one_line(service: LyingService, lie: Callable[[LyingService], None]) -> None:
    """Nothing is written, and no traceback is shown."""
    lie(service)
    before = contents(service.folders)
    with pytest.raises(AnswerError, match="/pki/issuing-cas: expected") as refused:
        service.request()
    assert isinstance(refused.value, CliError)
    assert contents(service.folders) == before
