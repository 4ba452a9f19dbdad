"""`tinyfleet pki request|issue|status|ceremony --verify`: what is printed, and how it exits."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pki import pkcs8
from pki.authority import CertificateAuthority
from pki.ceremony_certificates import key_sha256
from pki.errors import CeremonyError
from pki.keystore import PASSPHRASE_VARIABLE, FileKeyStore
from pki.online import load_certificate, requested_key
from pki.revocation import sign_crl
from pki.roles import OfflineKey
from service.cli import clock
from service.cli.errors import BadArgumentError
from service.cli.main import make_app
from service.cli.pki_ceremony import CeremonyDiffersError
from service.cli.pki_certificates import EndsSoonError

PASSPHRASE = "correct horse battery"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory after `tinyfleet init`."""
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    words = ["init", "--data-dir", str(tmp_path)]
    assert CliRunner().invoke(make_app(words), words).exit_code == 0
    return tmp_path


def _pki(*options: str | Path) -> Result:
    words = ["pki", *map(str, options)]
    return CliRunner().invoke(make_app(words), words)


def _expect(result: Result, error: type[Exception], message: str) -> None:
    assert result.exit_code == 1
    assert result.exception is not None
    with pytest.raises(error, match=message):
        raise result.exception


def test_status_lists_certificates_and_metadata(folder: Path) -> None:
    """What ends first comes first; nothing needs attention after a ceremony."""
    result = _pki("status", "--data-dir", folder, "--check", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    by_file = {entry["file"]: entry for entry in found}
    server = by_file["service/certificates/server.pem"]
    assert (server["subject"], server["issuer"]) == ("O=tinyfleet service", "CN=tinyfleet server issuer")
    assert server["days_left"] in {729, 730}
    assert by_file["operator/repository/1.root.json"]["subject"] == "root"
    assert "service/genesis/catalog.json" not in by_file
    assert by_file["service/genesis/factory.crl"]["subject"] == "revocation list 1"
    assert by_file["service/genesis/factory.crl"]["issuer"] == "CN=tinyfleet IDevID issuer"
    days = [entry["days_left"] for entry in found]
    assert days == sorted(days)
    table = _pki("status", "--data-dir", folder)
    assert (table.exit_code, "Certificates and metadata" in table.stdout) == (0, True)


def test_status_fails_when_something_ends_soon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --check, below thirty days or after the end; without it, it only says so."""
    begin = clock.now()
    monkeypatch.setattr(clock, "now", lambda: begin + timedelta(days=705))
    _expect(_pki("status", "--data-dir", folder, "--check"), EndsSoonError, r"found less for .*certificates/server.pem")
    _expect(
        _pki("status", "--data-dir", folder, "--check"), EndsSoonError, r"found less for .*service/genesis/root.crl"
    )
    result = _pki("status", "--data-dir", folder)
    assert (result.exit_code, "24 !" in result.stdout) == (0, True)
    monkeypatch.setattr(clock, "now", lambda: begin + timedelta(days=20 * 365))
    entries = json.loads(_pki("status", "--data-dir", folder, "--json").stdout)
    assert entries[0]["days_left"] < 0


@pytest.mark.parametrize(
    "name", ["service/certificates/server.pem", "service/genesis/image.root.json", "service/genesis/root.crl"]
)
def test_status_names_what_it_cannot_read(folder: Path, name: str) -> None:
    """A damaged file is no file that never ends."""
    (folder / name).write_text("{}}")
    _expect(_pki("status", "--data-dir", folder, "--check"), EndsSoonError, f"found less for {name}")


def test_status_survives_a_revocation_list_with_a_flipped_byte(folder: Path) -> None:
    """A list that can be read in part only is named, and ends the listing of no other."""
    path = folder / "service" / "genesis" / "root.crl"
    whole = path.read_bytes()
    for index in range(60):  # version, algorithm, issuer, dates
        damaged = bytearray(whole)
        damaged[index] ^= 1
        path.write_bytes(bytes(damaged))
        result = _pki("status", "--data-dir", folder, "--json")
        assert result.exit_code == 0, result.exception
        assert len(json.loads(result.stdout)) > 10


def test_status_shows_the_newest_revocation_list(folder: Path) -> None:
    """The operator's second one takes the place of the ceremony's."""
    certificate = load_certificate(folder / "operator" / "certificates" / "factory.pem")
    keys = FileKeyStore(folder / "operator" / "keys", passphrase=PASSPHRASE.encode)
    authority = CertificateAuthority([certificate], keys.load(OfflineKey.FACTORY))
    (folder / "operator" / "revocation").mkdir()
    newer = sign_crl(authority, number=2, revoked={}, now=clock.now(), lifetime=timedelta(days=40))
    (folder / "operator" / "revocation" / "newer.crl").write_bytes(newer.der)
    found = {entry["file"]: entry for entry in json.loads(_pki("status", "--data-dir", folder, "--json").stdout)}
    assert found["operator/revocation/newer.crl"]["subject"] == "revocation list 2"
    assert "service/genesis/factory.crl" not in found


def test_status_of_nothing_is_a_wrong_argument(tmp_path: Path) -> None:
    """A mistyped folder is not all well."""
    result = _pki("status", "--data-dir", tmp_path)
    assert isinstance(result.exception, BadArgumentError)


def test_server_is_renewed_by_three_commands(folder: Path) -> None:
    """Request at the service, issue at the operator, verify."""
    _expect(_pki("issue", "server", "--data-dir", folder), CeremonyError, "expected a request that waits")
    requested = _pki("request", "server", "--service-dir", folder / "service")
    shown = f"key, SHA-256: {key_sha256(requested_key(folder / 'service', 'server-2'))}"
    assert "service/csr/server-2.pem" in requested.stdout.replace("\n", "")
    assert shown in requested.stdout.splitlines()
    issued = _pki("issue", "server", "--data-dir", folder)
    assert issued.exit_code == 0, issued.output
    assert shown in issued.stdout.splitlines()
    assert "server-2.pem, ends " in issued.stdout.replace("\n", "")
    assert "takes it when it starts the next time" in issued.stdout
    verified = _pki("ceremony", "--verify", folder, "--with-keys", "--json")
    facts = json.loads(verified.stdout)
    assert (facts["findings"], facts["transcripts"], facts["participants"]) == ([], 2, ["admin"])
    papers = _pki("ceremony", "--verify", folder, "--root", facts["root_sha256"])
    assert papers.exit_code == 0


def test_only_server_and_responder_are_renewed_so(folder: Path) -> None:
    """The issuing CA has its own way, `pki rollover`."""
    for command in (["request", "issuing-ca"], ["issue", "director"]):
        result = _pki(*command)
        assert isinstance(result.exception, BadArgumentError)
        assert result.exception.exit_code == 2
    assert not (folder / "service" / "csr" / "issuing-ca-2.pem").exists()


def test_missing_requests_are_made(tmp_path: Path) -> None:
    """On the service's machine, before the ceremony: six P-256 keys and the log's."""
    result = _pki("request", "--service-dir", tmp_path)
    assert result.exit_code == 0
    assert len(list((tmp_path / "csr").iterdir())) == len(list((tmp_path / "keys").iterdir())) == 7
    shown = key_sha256(requested_key(tmp_path, "ocsp"))
    assert f"key ocsp, SHA-256: {shown}" in result.stdout.splitlines()


def test_verification_prints_findings_and_fails(folder: Path) -> None:
    """A line each."""
    (folder / "operator" / "certificates" / "package.pem").unlink()
    result = _pki("ceremony", "--verify", "--data-dir", folder)
    _expect(result, CeremonyDiffersError, "expected what was recorded and declared, found 2 differences")
    assert "operator/certificates/package.pem: expected the certificate that the transcript names" in result.stdout


def test_ceremony_without_a_declaration_is_wrong_usage(tmp_path: Path) -> None:
    """Exit code 2, nothing made."""
    result = _pki("ceremony", "--data-dir", tmp_path)
    assert isinstance(result.exception, BadArgumentError)
    assert list(tmp_path.iterdir()) == []
