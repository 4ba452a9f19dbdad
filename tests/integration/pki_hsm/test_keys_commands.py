"""`tinyfleet pki keys`: listing keys, and importing one into a token."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pki.keystore import PASSPHRASE_VARIABLE
from pki.stores import open_keys
from service.cli.pki_keys import UnusableKeyError, app
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.service_folder import Folders
from tests.softhsm import SoftHsm


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """What the ceremony left, every key in a file."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    return make_quick_folders(tmp_path)


def _run(*words: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result


def test_list_shows_every_role_without_a_passphrase(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's files are encrypted, so their keys are not known; with --verify each signs."""
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    where = ("list", "--operator-dir", folders.operator)
    listed = json.loads(_run(*where, "--json").stdout)
    assert {entry["state"] for entry in listed} == {"encrypted"}
    assert "root" in _run(*where).stdout
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    assert {entry["state"] for entry in json.loads(_run(*where, "--json", "--verify").stdout)} == {"signs"}


def test_key_of_the_log_is_listed_and_tried(folders: Folders) -> None:
    """It is the service's and always a file; a damaged one is named, one that is gone is missing."""
    where, file = ("list", "--data-dir", folders.service), folders.service / "keys" / "log.key"
    for option, state in (((), "present"), (("--verify",), "signs")):
        entry = json.loads(_run(*where, "--json", *option).stdout)[-1]
        assert (entry["role"], entry["store"], entry["where"], entry["state"]) == ("log", "file", str(file), state)
        assert len(entry["public_key_sha256"]) == 64
    file.write_text(file.read_text()[:-9])
    assert "log: key: expected" in _run(*where, "--verify", exit_code=1).stderr
    file.unlink()
    assert json.loads(_run(*where, "--json").stdout)[-1]["state"] == "missing"


def test_key_moves_into_the_token_step_by_step(softhsm: SoftHsm, folders: Folders) -> None:
    """Each step says what comes next, and the public key stays the same."""
    softhsm.add_token()
    softhsm.route(folders.service, [])
    before = open_keys(folders.service, passphrase=None).load("director").public_key
    step = ("import", "director", "--store", "hsm", "--data-dir", folders.service)
    assert 'until keys.toml has, under [roles]: director = "hsm"' in _run(*step).stderr
    softhsm.route(folders.service, ["director"])
    assert "--delete-file removes it" in _run(*step).stderr
    where = ("list", "--data-dir", folders.service)
    assert "a file of it is still in keys/" in _run(*where).stderr
    _run(*step, "--delete-file")
    assert not (folders.service / "keys" / "director.pem").exists()
    listed = {entry["role"]: entry for entry in json.loads(_run(*where, "--json", "--verify").stdout)}
    assert (listed["director"]["where"], listed["director"]["state"]) == ("token fleet", "signs")
    assert open_keys(folders.service, passphrase=None).load("director").public_key == before


def test_list_names_keys_that_do_not_sign(softhsm: SoftHsm, folders: Folders) -> None:
    """The token is not there: the others are listed, and with --verify the command fails."""
    softhsm.route(folders.service, ["director"])
    where = ("list", "--data-dir", folders.service)
    assert "director: token: expected fleet in" in _run(*where).stderr
    result = _run(*where, "--verify", exit_code=1)
    assert isinstance(result.exception, UnusableKeyError)
    assert str(result.exception).endswith("found that these do not: director")
