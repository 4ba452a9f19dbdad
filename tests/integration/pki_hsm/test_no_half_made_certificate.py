"""A token that fails while something is issued: its error comes out, and no certificate, file or row stays behind."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from pki import profiles
from pki.authority import self_signed_root
from pki.errors import TokenMissingError, TokenRemovedError, TokenWriteError
from protocol.signing import SoftwareSigner, verify
from service.bootstrap.service import StartError
from service.config import Settings
from tests.integration.pki_hsm.token_world import folders_in_tokens, init, move_to_token, route_everything, run
from tests.live_service import live_service
from tests.service_folder import make_folders
from tests.softhsm import SoftHsm, fault

DEVICE_MEMORY, DEVICE_REMOVED = 0x31, 0x32
MAX_TRIES = 40


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the commands go by the machine's clock


def _every(period: int, code: int) -> Callable[[], int | None]:
    calls = count(1)
    return lambda: code if next(calls) % period == 0 else None


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_authority_passes_on_what_its_token_says(softhsm: SoftHsm) -> None:
    """The builder of certificates hides neither the error nor makes anything."""
    root = self_signed_root(profiles.root_ca("demo", now=_now()), softhsm.store().generate("root"))
    profile = profiles.operator_client("ada", now=_now())
    public_key = SoftwareSigner.generate().public_key
    with fault("C_SignInit", lambda: DEVICE_REMOVED), pytest.raises(TokenRemovedError, match="expected it in its slot"):
        root.issue(profile, public_key)
    assert root.issue(profile, public_key).public_key() == public_key


@pytest.mark.parametrize(
    ("function", "code", "error"),
    [("C_SignInit", DEVICE_REMOVED, TokenRemovedError), ("C_GenerateKeyPair", DEVICE_MEMORY, TokenWriteError)],
)
def test_ceremony_that_a_token_interrupts_leaves_whole_files_and_goes_on(
    softhsm: SoftHsm, tmp_path: Path, function: str, code: int, error: type[Exception]
) -> None:
    """Every third call fails, time and again; each certificate there is whole, and the ceremony comes to its end."""
    route_everything(tmp_path, softhsm)
    failures = 0
    with fault(function, _every(3, code)):
        while (result := init(tmp_path)).exit_code != 0:
            assert isinstance(result.exception, error | TokenWriteError), result.exception
            assert not (tmp_path / "service" / "operators.json").exists()
            for path in _files(tmp_path / "operator" / "certificates") | _files(tmp_path / "service" / "certificates"):
                assert x509.load_pem_x509_certificates(path.read_bytes())
            failures += 1
            assert failures < MAX_TRIES
    assert failures > 1
    assert not [path for path in _files(tmp_path) if path.name.startswith(".")]


def test_certificate_that_cannot_be_signed_leaves_no_file(softhsm: SoftHsm, tmp_path: Path) -> None:
    """An operator's certificate, issued by the root in a token."""
    folders = folders_in_tokens(tmp_path, softhsm)
    before = _files(tmp_path)
    with fault("C_SignInit", lambda: DEVICE_REMOVED):
        result = run("operator", "certificate", "ada", "--out", tmp_path, "--operator-dir", folders.operator)
    assert isinstance(result.exception, TokenRemovedError)
    assert _files(tmp_path) == before


async def test_service_issues_nothing_without_its_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    """A device that attests is told to come back; no row says that it got a certificate, and then it gets one."""
    softhsm.add_token()
    softhsm.route(tmp_path / "service", ["issuing-ca"])
    folders = make_folders(tmp_path)
    issuer = move_to_token(folders.service, "issuing-ca")
    assert not (folders.service / "keys" / "issuing-ca.pem").exists()
    async with live_service(folders) as service:
        device = await service.claimed()
        before = _rows(service.settings)
        key = SoftwareSigner.generate()
        with fault("C_SignInit", lambda: DEVICE_REMOVED):
            answer = await service.ask_to_attest(device, key)
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert answer.json()["type"] == "urn:tinyfleet:problem:key-store"
        assert "token" not in answer.text
        assert _rows(service.settings) == before
        credential = await service.attest(device)
        assert _rows(service.settings) > before
    leaf, *_ = x509.load_pem_x509_certificates(credential.chain.encode())
    verify(issuer.public_key, leaf.signature, leaf.tbs_certificate_bytes)


def _rows(settings: Settings) -> tuple[int, int]:
    """How many certificates and results the database knows."""
    with closing(sqlite3.connect(settings.data_dir / "tinyfleet.db")) as database:
        query = "SELECT (SELECT count(*) FROM issuance_log), (SELECT count(*) FROM attestations)"
        certificates, results = database.execute(query).fetchone()
    return certificates, results


async def test_service_without_its_token_does_not_start(softhsm: SoftHsm, tmp_path: Path) -> None:
    """It says which token it expected and which are there."""
    folders = folders_in_tokens(tmp_path, softhsm)
    config = folders.service / "keys.toml"
    config.write_text(config.read_text().replace("token=service", "token=servise"))
    with pytest.raises(
        (StartError, TokenMissingError), match=r"expected servise in .*, found these tokens: operator, service"
    ):
        async with live_service(folders):
            pass
