"""What keys there are, and moving one from its file into a token."""

from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from pki.errors import AmbiguousKeyError, KeyExistsError, KeyMissingError, StoreConfigError, TokenKeyError
from pki.key_inventory import KeyState, import_key, list_keys
from pki.stores import KeyStores, open_keys
from pki.tokens import module_at
from protocol.signing import verify
from tests.softhsm import SoftHsm, fault

FUNCTION_FAILED, DEVICE_REMOVED = 0x06, 0x32
ROLES = ("root", "package")


def _passphrase() -> bytes:
    return b"correct horse battery"


def _stores(folder: Path, softhsm: SoftHsm, roles: list[str]) -> KeyStores:
    softhsm.route(folder, roles)
    return open_keys(folder, passphrase=None)


def _states(stores: KeyStores, *, prove: bool) -> dict[str, KeyState]:
    return {entry.role: entry.state for entry in list_keys(stores, ROLES, prove=prove)}


def test_keys_are_listed_with_their_stores_and_generations(softhsm: SoftHsm, tmp_path: Path) -> None:
    """A file, a key in a token, and a later generation that is where its role is."""
    softhsm.add_token()
    stores = _stores(tmp_path, softhsm, ["root"])
    signers = {role: stores.generate(role) for role in ("root", "root-2", "package")}
    entries = {entry.role: entry for entry in list_keys(stores, ROLES, prove=False)}
    assert {role: entry.public_key for role, entry in entries.items()} == {
        role: signer.public_key for role, signer in signers.items()
    }
    assert {entry.state for entry in entries.values()} == {KeyState.PRESENT}
    assert [entries[role].where for role in ("root-2", "package")] == [
        "token fleet",
        str(tmp_path / "keys" / "package.pem"),
    ]


def test_encrypted_files_are_opened_only_to_prove_them(tmp_path: Path) -> None:
    """Listing asks for no passphrase; a missing key is said to be missing."""
    asked: list[str] = []

    def passphrase() -> bytes:
        asked.append("passphrase")
        return _passphrase()

    stores = open_keys(tmp_path, passphrase=passphrase)
    open_keys(tmp_path, passphrase=_passphrase).generate("root")
    assert (_states(stores, prove=False), asked) == ({"root": KeyState.ENCRYPTED, "package": KeyState.MISSING}, [])
    assert _states(stores, prove=True) == {"root": KeyState.SIGNS, "package": KeyState.MISSING}
    assert asked


def test_unusable_keys_are_listed_with_the_reason(softhsm: SoftHsm, tmp_path: Path) -> None:
    """A token without its PIN does not hide the other keys."""
    softhsm.add_token()
    stores = _stores(tmp_path, softhsm, ["root"])
    stores.generate("package")
    (softhsm.folder / "pin").unlink()
    root, package = list_keys(stores, ROLES, prove=False)
    assert (root.state, package.state) == (KeyState.UNUSABLE, KeyState.PRESENT)
    assert "PIN: expected a readable" in root.problem


def test_key_that_does_not_sign_is_found_out(softhsm: SoftHsm, tmp_path: Path) -> None:
    """It is there and opens; only a proof shows it."""
    softhsm.add_token()
    stores = _stores(tmp_path, softhsm, list(ROLES))
    stores.generate("root")
    with fault("C_SignInit", lambda: FUNCTION_FAILED):
        assert _states(stores, prove=False)["root"] is KeyState.PRESENT
        assert _states(stores, prove=True)["root"] is KeyState.UNUSABLE
    assert _states(stores, prove=True)["root"] is KeyState.SIGNS


def test_import_moves_a_key_and_removes_its_file_last(softhsm: SoftHsm, tmp_path: Path) -> None:
    """First the copy, then keys.toml, then the file; the token then signs for the same public key."""
    softhsm.add_token()
    before = open_keys(tmp_path, passphrase=_passphrase).generate("root")
    softhsm.route(tmp_path, [])
    stores = open_keys(tmp_path, passphrase=_passphrase)
    with pytest.raises(StoreConfigError, match='expected root = "hsm" before its file goes, found file'):
        import_key(stores, "root", "hsm", delete_file=True)
    import_key(stores, "root", "hsm", delete_file=False)
    softhsm.route(tmp_path, ["root"])
    stores = open_keys(tmp_path, passphrase=_passphrase)
    assert next(list_keys(stores, ["root"], prove=False)).leaves_file
    import_key(stores, "root", "hsm", delete_file=True)
    assert not (tmp_path / "keys" / "root.pem").exists()
    assert not next(list_keys(stores, ["root"], prove=False)).leaves_file
    verify(before.public_key, stores.load("root").sign(b"data"), b"data")
    with pytest.raises(KeyMissingError, match=r"expected .*root.pem, found no such file"):
        import_key(open_keys(tmp_path, passphrase=_passphrase), "root", "hsm", delete_file=True)


@pytest.mark.parametrize("same_id", [False, True])
def test_file_goes_only_after_the_token_signed_for_its_key(softhsm: SoftHsm, tmp_path: Path, *, same_id: bool) -> None:
    """The public half of this key and the private one of another bear its label; with one CKA_ID they look like it."""
    softhsm.add_token()
    stores = _stores(tmp_path, softhsm, [])
    kept = stores.files.generate("root")
    import_key(stores, "root", "hsm", delete_file=False)
    softhsm.route(tmp_path, list(ROLES))
    stores = open_keys(tmp_path, passphrase=None)
    stores.generate("package")
    token = stores.tokens["hsm"]
    with module_at(token.uri.module).writing(token.uri) as session:
        root, package = (_private_half(session, role) for role in ROLES)
        root_id = root[Attribute.ID]
        root.destroy()
        package[Attribute.LABEL] = "root"
        if same_id:
            package[Attribute.ID] = root_id
    with pytest.raises(TokenKeyError if same_id else AmbiguousKeyError, match="expected t"):
        import_key(stores, "root", "hsm", delete_file=True)
    assert open_keys(tmp_path, passphrase=None).files.load("root").public_key == kept.public_key


def _private_half(session: pkcs11.Session, role: str) -> pkcs11.Object:
    (found,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: role})
    return found


def test_import_replaces_no_other_key(softhsm: SoftHsm, tmp_path: Path) -> None:
    """The token has another key of this role; file and token stay as they are."""
    token = softhsm.store()
    kept = token.generate("root")
    stores = _stores(tmp_path, softhsm, [])
    stores.generate("root")
    with pytest.raises(KeyExistsError, match="key root: expected none or this one in hsm, found another"):
        import_key(stores, "root", "hsm", delete_file=False)
    assert token.load("root").public_key == kept.public_key
    assert stores.holds("root")


def test_import_into_an_unknown_store_is_refused(softhsm: SoftHsm, tmp_path: Path) -> None:
    """The message names those of keys.toml."""
    with pytest.raises(StoreConfigError, match="expected a store hms, found these: hsm"):
        import_key(_stores(tmp_path, softhsm, []), "root", "hms", delete_file=False)
    with pytest.raises(StoreConfigError, match="expected a store hsm, found these: none"):
        import_key(open_keys(tmp_path / "other", passphrase=None), "root", "hsm", delete_file=False)


def test_key_of_tls_is_not_imported(softhsm: SoftHsm, tmp_path: Path) -> None:
    """OpenSSL could not read it there."""
    with pytest.raises(StoreConfigError, match="key server: expected file, because OpenSSL itself reads it"):
        import_key(_stores(tmp_path, softhsm, []), "server", "hsm", delete_file=False)
