"""The transparency log's key in a token: made there by the service, listed, used, and never moved there."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.errors import KeyMissingError, StoreConfigError, TokenKeyError, TokenWriteError
from pki.key_inventory import KeyState, import_key, log_key_entry
from pki.log_key import load_log_key, request_log_key, requested_log_key
from pki.roles import LOG_KEY
from pki.stores import open_keys
from pki.token_curves import ED25519, P256
from pki.tokens import module_at
from protocol.notes import UnverifiedNote, verify_note
from protocol.signing import SoftwareSigner
from tests.softhsm import SoftHsm


@pytest.fixture
def folder(softhsm: SoftHsm, tmp_path: Path) -> Path:
    """A service's folder whose log key is in a token."""
    softhsm.add_token()
    folder = tmp_path / "service"
    softhsm.route(folder, [LOG_KEY])
    request_log_key(folder)
    return folder


def test_log_key_is_made_in_its_token_and_signs_notes(folder: Path) -> None:
    """No file, a request signed by it, and a note that verifies; the log is named by its key as ever."""
    assert not (folder / "keys").exists()
    signer = load_log_key(folder)
    assert requested_log_key(folder) == signer.key
    assert signer.key.name.startswith("tinyfleet/")
    note = UnverifiedNote("text\n", (signer.sign("text\n"),)).encode()
    assert list(verify_note(note, [signer.key]).signed_by) == [signer.key]


def test_lost_request_is_made_again_from_the_token(folder: Path) -> None:
    """As after an interruption between token and request."""
    key = load_log_key(folder).key
    (folder / "csr/log.note").unlink()
    request_log_key(folder)
    assert requested_log_key(folder) == key


def test_log_key_in_a_token_is_listed_and_tried(folder: Path) -> None:
    """A file beside it is left over, and not read."""
    entry = log_key_entry(folder, prove=True)
    assert (entry.store, entry.where, entry.state) == ("hsm", "token fleet", KeyState.SIGNS)
    assert not entry.leaves_file
    (folder / "keys").mkdir()
    (folder / "keys/log.key").write_text("of an earlier log")
    assert log_key_entry(folder, prove=False).leaves_file


def test_token_that_lost_the_log_key_is_no_reason_for_another(folder: Path) -> None:
    """The request says which log it was; a second key would begin another log unasked."""
    uri = open_keys(folder, passphrase=None).tokens["hsm"].uri
    with module_at(uri.module).writing(uri) as session:
        for found in list(session.get_objects({})):
            found.destroy()
    request_log_key(folder)
    with pytest.raises(KeyMissingError, match="key log in token fleet: expected one, found none"):
        load_log_key(folder)
    assert log_key_entry(folder, prove=True).state is KeyState.MISSING


def test_key_of_another_curve_does_not_sign_for_the_log(softhsm: SoftHsm) -> None:
    """And the log's does not stand in for a P-256 key."""
    store = softhsm.store()
    store.generate("root")
    store.generate_ed25519(LOG_KEY)
    with pytest.raises(TokenKeyError, match="key root in token fleet: expected a key of Ed25519"):
        store.load_ed25519("root")
    with pytest.raises(TokenKeyError, match="key log in token fleet: expected a key of P-256"):
        store.load(LOG_KEY)


def test_log_key_whose_halves_do_not_fit_is_not_kept(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that signs wrongly is found out before the key counts."""
    store = softhsm.store()
    monkeypatch.setattr("pki.pkcs11.TokenKey.sign_raw", lambda _key, _data: bytes(64))
    with pytest.raises(TokenWriteError, match="expected that it keeps key log"):
        store.generate_ed25519(LOG_KEY)
    assert not store.holds(LOG_KEY)


def test_log_key_is_not_imported(folder: Path) -> None:
    """Its file has another form; a new log begins in the token instead."""
    with pytest.raises(StoreConfigError, match="key log: expected that it is made in its token"):
        import_key(open_keys(folder, passphrase=None), LOG_KEY, "hsm", delete_file=False)


def test_points_are_read_with_and_without_their_header() -> None:
    """Also a bare point that begins as a header does."""
    for point in (bytes([4, 32, *range(30)]), bytes(range(32))):
        assert {ED25519.public_key(form).public_bytes_raw() for form in (point, b"\x04\x20" + point)} == {point}
    key = SoftwareSigner.generate().public_key
    bare = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert P256.public_key(bare) == P256.public_key(P256.point_header + bare) == key
