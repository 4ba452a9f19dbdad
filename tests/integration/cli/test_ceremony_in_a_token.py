"""A ceremony whose root, package and issuing keys are in a PKCS#11 token (SoftHSM2)."""

from pathlib import Path

import pytest

from pki.ceremony import hold_ceremony
from pki.ceremony_check import check_ceremony
from pki.ceremony_declaration import parse_declaration
from pki.ceremony_renewal import issue_again
from pki.errors import CeremonyError, PinError, TokenError
from pki.online import request_again, request_online_keys
from pki.roles import OfflineKey, OnlineKey
from pki.stores import open_keys
from tests.softhsm import SoftHsm, softhsm
from tests.unit.pki.pki_builder import NOW

__all__ = ["softhsm"]

DECLARATION = b"catalog: demo\nparticipants: [Ada]\nkey_stores: {root: hsm, package: hsm, server-ca: hsm, rom: file}\n"
IN_TOKEN = [OfflineKey.ROOT, OfflineKey.PACKAGE, OfflineKey.SERVER_CA]


def _hold(folder: Path) -> None:
    hold_ceremony(
        folder,
        parse_declaration(DECLARATION),
        keys=open_keys(folder / "operator", passphrase=None),
        clock=lambda: NOW,
        confirm=lambda _number, _count, _text: None,
    )


def _prepare(folder: Path, hsm: SoftHsm) -> Path:
    hsm.add_token()
    hsm.route(folder / "operator", [*IN_TOKEN])
    hsm.route(folder / "service", [OnlineKey.ISSUING_CA])
    request_online_keys(folder / "service")
    return folder


def test_keys_of_a_ceremony_stay_in_the_token(tmp_path: Path, softhsm: SoftHsm) -> None:
    """The transcript names each key's store; the check opens them all; a renewal signs by the token."""
    folder = _prepare(tmp_path / "data", softhsm)
    _hold(folder)
    keys = open_keys(folder / "operator", passphrase=None)
    checked = check_ceremony(folder, keys=keys)
    assert checked.findings == []
    stores = {step.name: step.store for step in checked.transcripts[0].steps if step.store}
    assert {role for role, store in stores.items() if store == "hsm"} == set(IN_TOKEN)
    files = {path.stem for path in (folder / "operator" / "keys").iterdir()}
    assert files == {role.value for role in OfflineKey if role not in IN_TOKEN}
    assert not (folder / "service" / "keys" / "issuing-ca.pem").exists()
    request_again(folder / "service", OnlineKey.SERVER)
    issue_again(folder, OnlineKey.SERVER, keys=keys, now=NOW)
    assert check_ceremony(folder, keys=keys).findings == []


def test_declared_token_without_keys_toml_is_refused(tmp_path: Path) -> None:
    """Before a root key is made as a file."""
    request_online_keys(tmp_path / "service")
    with pytest.raises(CeremonyError, match=r"key_stores.root: expected store 'hsm' in .*, found 'file'"):
        _hold(tmp_path)
    assert not (tmp_path / "operator").exists()


def test_locked_token_makes_no_half_ceremony(tmp_path: Path, softhsm: SoftHsm) -> None:
    """A wrong PIN says so, and the same command goes on once the PIN is right."""
    folder = _prepare(tmp_path / "data", softhsm)
    pin = softhsm.folder / "pin"
    right = pin.read_text()
    pin.write_text("000000\n")
    with pytest.raises((PinError, TokenError), match="PIN"):
        _hold(folder)
    assert not (folder / "operator" / "certificates").exists()
    pin.write_text(right)
    _hold(folder)
    assert check_ceremony(folder, keys=open_keys(folder / "operator", passphrase=None)).findings == []
