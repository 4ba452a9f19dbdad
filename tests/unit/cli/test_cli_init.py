"""`tinyfleet init`: the ceremony from the command line."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pki import pkcs8
from pki.chains import issued_by
from pki.errors import CeremonyError, DeclarationError, PassphraseError
from pki.keystore import PASSPHRASE_VARIABLE
from pki.online import load_certificate
from pki.roles import OfflineKey
from protocol.identity import certificate_uri
from service.cli.client import load_credential
from service.cli.errors import CredentialError
from service.cli.held_ceremony import CeremonyHeldError
from service.cli.main import make_app

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven keys for each test."""
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)


def _init(folder: Path, *options: str, answer: str | None = None) -> Result:
    words = ["init", "--data-dir", str(folder), *options]
    return CliRunner().invoke(make_app(words), words, input=answer)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _expect(result: Result, error: type[Exception], message: str) -> None:
    assert result.exit_code == 1
    assert result.exception is not None
    with pytest.raises(error, match=message):
        raise result.exception


def test_init_writes_a_login_that_only_its_owner_reads(tmp_path: Path) -> None:
    """The token is on the operator's side; the service gets its hash; nobody prints it."""
    result = _init(tmp_path, "--url", "https://fleet.example:9443", "--hostname", "fleet.example", "--operator", "ada")
    assert result.exit_code == 0, result.output
    credential = load_credential(tmp_path / "operator")
    assert (credential.url, credential.ca.exists()) == ("https://fleet.example:9443", True)
    operators = json.loads((tmp_path / "service" / "operators.json").read_bytes())
    digest = hashlib.sha256(credential.token.encode()).hexdigest()
    assert operators == [{"name": "ada", "role": "admin", "token_sha256": digest}]
    assert credential.token not in result.output
    for private in ("operator/credential.json", "service/operators.json"):
        assert (tmp_path / private).stat().st_mode & 0o777 == 0o600
    for folder in ("operator", "service"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_operator_certificate_is_issued_by_the_root(tmp_path: Path) -> None:
    """It names the operator and nothing else; its key is the owner's alone; a second one needs other files."""
    assert _init(tmp_path).exit_code == 0
    words = ["operator", "certificate", "ada", "--out", str(tmp_path), "--operator-dir", str(tmp_path / "operator")]
    result = CliRunner().invoke(make_app(words), words)
    assert result.exit_code == 0, result.output
    leaf = load_certificate(tmp_path / "ada.pem")
    assert issued_by(leaf, load_certificate(tmp_path / "operator" / "certificates" / "root.pem"))
    assert certificate_uri(leaf) == "urn:tinyfleet:operator:ada"
    assert (tmp_path / "ada.key").stat().st_mode & 0o777 == 0o600
    _expect(CliRunner().invoke(make_app(words), words), CredentialError, "File exists")


def test_operator_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    """The name becomes a file's."""
    words = ["operator", "certificate", "../ada", "--operator-dir", str(tmp_path)]
    _expect(CliRunner().invoke(make_app(words), words), CredentialError, "expected letters, digits")


def test_finished_ceremony_is_refused_and_stays(tmp_path: Path) -> None:
    """Nothing is overwritten."""
    _init(tmp_path)
    before = _files(tmp_path)
    _expect(_init(tmp_path), CeremonyHeldError, "expected a folder without a finished ceremony")
    assert _files(tmp_path) == before


@pytest.mark.parametrize("missing", ["service/operators.json", "operator/credential.json"])
def test_interrupted_init_goes_on(tmp_path: Path, missing: str) -> None:
    """What is there stays; what is missing is made, and the login works."""
    _init(tmp_path)
    (tmp_path / "service" / "operators.json").unlink()
    (tmp_path / missing).unlink(missing_ok=True)
    before = _files(tmp_path)
    assert _init(tmp_path).exit_code == 0
    after = _files(tmp_path)
    assert {name: after[name] for name in before} == before
    token = load_credential(tmp_path / "operator").token
    assert hashlib.sha256(token.encode()).hexdigest().encode() in after["service/operators.json"]


def test_generated_passphrase_is_kept_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a demo: the file opens the keys without a question."""
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    assert _init(tmp_path, "--generate-passphrase").exit_code == 0
    assert (tmp_path / "operator" / "passphrase").stat().st_mode & 0o777 == 0o600
    key = (tmp_path / "operator" / "keys" / f"{OfflineKey.ROOT}.pem").read_bytes()
    assert b"ENCRYPTED" in key


def test_passphrase_is_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error would lock the keys for ever."""
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    result = _init(tmp_path, answer=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert result.exit_code == 0, result.output


def test_operator_s_own_file_survives_another_run(tmp_path: Path) -> None:
    """A note beside the keys is nobody's to remove, and a certificate that nobody recorded is named, not removed."""
    _init(tmp_path)
    (tmp_path / "service" / "operators.json").unlink()
    note = tmp_path / "operator" / "notes.txt"
    note.write_text("safe 3, shelf 2")
    assert _init(tmp_path).exit_code == 0
    assert note.read_text() == "safe 3, shelf 2"
    (tmp_path / "service" / "operators.json").unlink()
    extra = tmp_path / "operator" / "certificates" / "extra.pem"
    extra.write_text("a certificate of mine")
    _expect(
        _init(tmp_path), CeremonyError, "operator/certificates/extra.pem: expected no certificate that no transcript"
    )
    assert extra.exists()


def test_init_with_other_names_than_it_began_with_is_refused(tmp_path: Path) -> None:
    """What is half made stays half made, as it was."""
    _init(tmp_path, "--hostname", "fleet.example")
    (tmp_path / "service" / "operators.json").unlink()
    before = _files(tmp_path)
    _expect(_init(tmp_path), CeremonyError, "expected the one of this folder's ceremony")
    assert _files(tmp_path) == before


def test_wrong_passphrase_of_an_interrupted_ceremony_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys that are there need the passphrase that they were made with."""
    declaration = tmp_path / "ceremony.yaml"
    declaration.write_text("catalog: demo\nparticipants: [Ada]\n")
    words = ["pki", "ceremony", str(declaration), "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(make_app(words), words, input="yes\n" * 3 + "no\n")
    assert (result.exit_code, " key package in store file" in result.output) == (1, True)
    before = _files(tmp_path)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "another passphrase")
    result = CliRunner().invoke(make_app(words), words, input="yes\n" * 36)
    _expect(result, PassphraseError, "expected the passphrase that encrypted it")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    assert CliRunner().invoke(make_app(words), words, input="yes\n" * 36).exit_code == 0
    after = _files(tmp_path)
    assert {name for name in before if after.get(name) != before[name]} == {"operator/ceremony/journal.json"}


@pytest.mark.parametrize("answer", ["y", "Yes!", "no"])
def test_step_asks_for_a_typed_yes(tmp_path: Path, answer: str) -> None:
    """Enter asks again; what is not the word stops the ceremony."""
    declaration = tmp_path / "ceremony.yaml"
    declaration.write_text("catalog: demo\nparticipants: [Ada]\n")
    words = ["pki", "ceremony", str(declaration), "--data-dir", str(tmp_path / "data")]
    result = CliRunner().invoke(make_app(words), words, input=f"\nyes\n{answer}\nyes\n")
    assert (result.exit_code, " key root in store file; type yes:" in result.output) == (1, True)
    assert not (tmp_path / "data" / "operator" / "keys").exists()
    assert result.output.count("type yes:") == 3


def test_bad_names_are_refused(tmp_path: Path) -> None:
    """Of the catalog and of hosts; nothing is made."""
    for name, size in (("c" * 49, 49), ("工" * 20, 60)):
        message = f"catalog: expected printable .*, 1 to 48 bytes as UTF-8, found {size}"
        _expect(_init(tmp_path / "a", "--catalog", name), DeclarationError, message)
    _expect(_init(tmp_path / "a", "--hostname", "fe80::1%eth0"), DeclarationError, "hostnames.0: .* without a scope")
    _expect(
        _init(tmp_path / "b", "--hostname", "two words"), DeclarationError, "hostnames.0: host name: expected a DNS"
    )
    assert list(tmp_path.iterdir()) == []


def test_damaged_login_of_an_interrupted_init_is_refused(tmp_path: Path) -> None:
    """Our error, not a traceback."""
    _init(tmp_path)
    (tmp_path / "service" / "operators.json").unlink()
    (tmp_path / "operator" / "credential.json").write_text("damaged")
    _expect(_init(tmp_path), CeremonyHeldError, "expected the login that an interrupted ceremony wrote")
