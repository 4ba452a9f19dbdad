"""Key stores: what is kept, who may read it, and what is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from pki import files
from pki.errors import KeyExistsError, KeyMissingError, KeyStoreError, PassphraseError
from pki.files import create_file, replace_file
from pki.keystore import MAX_KEY_FILE_BYTES, FileKeyStore, passphrase_source
from pki.pkcs8 import encrypt_private_key
from protocol.errors import SignatureError
from protocol.signing import verify

PASSPHRASE = b"correct horse battery"


def _encrypted(folder: Path, passphrase: bytes = PASSPHRASE) -> FileKeyStore:
    return FileKeyStore(folder, passphrase=lambda: passphrase)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _plain(folder: Path) -> FileKeyStore:
    return FileKeyStore(folder, passphrase=None)


@pytest.mark.parametrize("store", [_encrypted, _plain])
def test_generated_key_is_loaded_again(tmp_path: Path, store: Callable[[Path], FileKeyStore]) -> None:
    """Another store of the same folder signs with the same key, and only its owner can read the file."""
    generated = store(tmp_path / "keys").generate("root")
    loaded = store(tmp_path / "keys").load("root")
    verify(generated.public_key, loaded.sign(b"data"), b"data")
    assert (tmp_path / "keys" / "root.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_key_is_read_once(tmp_path: Path) -> None:
    """A store that has opened a key does not ask for it again."""
    store = _encrypted(tmp_path)
    store.generate("root")
    first = store.load("root")
    store.path("root").unlink()
    assert store.load("root") is first


def test_encrypted_key_uses_scrypt_and_hides_the_key() -> None:
    """The file is PKCS#8 with scrypt, and each encryption has its own salt."""
    key = ec.generate_private_key(ec.SECP256R1())
    first, second = encrypt_private_key(key, PASSPHRASE), encrypt_private_key(key, PASSPHRASE)
    assert first != second
    loaded = load_pem_private_key(first, PASSPHRASE)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.private_numbers() == key.private_numbers()


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second generate is refused and the key stays."""
    store = _plain(tmp_path)
    store.generate("root")
    before = store.path("root").read_bytes()
    with pytest.raises(KeyExistsError, match=r"expected no .*root.pem yet, found one"):
        store.generate("root")
    assert store.path("root").read_bytes() == before


def test_key_that_appears_meanwhile_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ceremonies at once: the second finds the first one's key when it writes its own."""
    store = _plain(tmp_path)
    store.generate("root")
    before = store.path("root").read_bytes()
    monkeypatch.setattr(FileKeyStore, "holds", lambda *_: False)
    with pytest.raises(KeyExistsError, match="found one"):
        store.generate("root")
    assert store.path("root").read_bytes() == before
    assert _names(tmp_path) == ["root.pem"]


def test_missing_key_is_named(tmp_path: Path) -> None:
    """The message names role and file."""
    with pytest.raises(KeyMissingError, match=r"key voucher: expected .*voucher.pem, found no such file"):
        _plain(tmp_path).load("voucher")


def test_wrong_passphrase_is_refused(tmp_path: Path) -> None:
    """Another passphrase does not open the key."""
    _encrypted(tmp_path).generate("root")
    with pytest.raises(PassphraseError, match="key root: expected the passphrase that encrypted it"):
        _encrypted(tmp_path, b"another passphrase").load("root")


def test_short_passphrase_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """Seven bytes are no passphrase."""
    with pytest.raises(PassphraseError, match="expected at least 8 bytes, found 7"):
        _encrypted(tmp_path, b"seven77").generate("root")
    assert _names(tmp_path) == []


def test_plain_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A key without a passphrase is only as secret as its file; its group may read it, as orchestrators have it."""
    store = _plain(tmp_path)
    store.generate("director")
    store.path("director").chmod(0o644)
    with pytest.raises(KeyStoreError, match="closed to others, found mode 0644"):
        _plain(tmp_path).load("director")
    store.path("director").chmod(0o640)
    assert _plain(tmp_path).load("director").public_key == store.load("director").public_key


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A folder in the place of a key is named, not a traceback."""
    (tmp_path / "root.pem").mkdir()
    with pytest.raises(KeyStoreError, match="key root: expected a readable"):
        _plain(tmp_path).load("root")


def _foreign_keys() -> Iterator[tuple[bytes, Callable[[Path], FileKeyStore], str]]:
    plain, p256 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), ec.generate_private_key(ec.SECP256R1())
    yield ec.generate_private_key(ec.SECP384R1()).private_bytes(*plain), _plain, "expected a P-256 key"
    yield ed25519.Ed25519PrivateKey.generate().private_bytes(*plain), _plain, "expected a P-256 key"
    yield b"not a key", _plain, "expected a PKCS#8 key in PEM"
    yield bytes(MAX_KEY_FILE_BYTES + 1), _plain, "expected at most 16384 bytes, found 16385"
    yield p256.private_bytes(*plain), _encrypted, "expected encrypted PKCS#8, found plain"
    protected = p256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
    yield protected, _plain, "expected plain PKCS#8, found encrypted"
    yield protected.replace(b"\n", b"\nA", 1), _encrypted, "expected the passphrase that encrypted it"


@pytest.mark.parametrize(("content", "store", "message"), list(_foreign_keys()))
def test_file_that_holds_no_key_of_ours_is_refused(
    tmp_path: Path, content: bytes, store: Callable[[Path], FileKeyStore], message: str
) -> None:
    """Another curve or type, garbage, or the wrong kind of protection."""
    (tmp_path / "root.pem").write_bytes(content)
    with pytest.raises(KeyStoreError, match=message):
        store(tmp_path).load("root")


def test_keys_of_two_roles_differ(tmp_path: Path) -> None:
    """One role's key does not verify the other's signature."""
    store = _plain(tmp_path)
    package, golden = store.generate("package"), store.generate("golden")
    with pytest.raises(SignatureError, match="expected one by the given key"):
        verify(golden.public_key, package.sign(b"data"), b"data")


def test_passphrase_comes_from_the_file_first(tmp_path: Path) -> None:
    """File, then environment, then prompt; the line's end is not part of it."""
    environment, asked = {"TINYFLEET_PASSPHRASE": "from the environment"}, list[str]()

    def prompt() -> str:
        asked.append("once")
        return "from the prompt"

    file = tmp_path / "passphrase"
    without_file = passphrase_source(file=file, environment=environment, prompt=prompt)
    assert without_file() == b"from the environment"
    alone = passphrase_source(file=file, environment={}, prompt=prompt)
    assert (alone(), alone(), asked) == (b"from the prompt", b"from the prompt", ["once"])
    create_file(file, b"from the file\n", mode=0o640)
    assert passphrase_source(file=file, environment=environment, prompt=prompt)() == b"from the file"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601])
def test_passphrase_file_that_others_may_open_is_refused(mode: int, tmp_path: Path) -> None:
    """Like a PIN file: it opens every key that lies beside it."""
    file = tmp_path / "passphrase"
    file.write_bytes(b"from the file\n")
    file.chmod(mode)
    with pytest.raises(PassphraseError, match=rf"closed to others, found mode {mode:04o}; close it with `chmod 600 "):
        passphrase_source(file=file, environment={}, prompt=lambda: "never asked")()


def test_unreadable_passphrase_file_is_refused(tmp_path: Path) -> None:
    """A passphrase file that cannot be read is not skipped in silence."""
    source = passphrase_source(file=tmp_path, environment={}, prompt=lambda: "never asked")
    with pytest.raises(PassphraseError, match="passphrase: expected a readable"):
        source()


def test_created_file_keeps_its_first_content(tmp_path: Path) -> None:
    """create_file refuses a name that is taken and leaves no temporary file."""
    create_file(tmp_path / "a", b"first", mode=0o600)
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "a", b"second", mode=0o600)
    assert ((tmp_path / "a").read_bytes(), _names(tmp_path)) == (b"first", ["a"])


def test_replaced_file_has_new_content_and_mode(tmp_path: Path) -> None:
    """replace_file puts the new content in place of the old, whole."""
    replace_file(tmp_path / "a", b"first", mode=0o644)
    replace_file(tmp_path / "a", b"second", mode=0o600)
    assert ((tmp_path / "a").read_bytes(), _names(tmp_path)) == (b"second", ["a"])
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old content and no temporary file."""
    replace_file(tmp_path / "a", b"first", mode=0o600)

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "a", b"second", mode=0o600)
    assert ((tmp_path / "a").read_bytes(), _names(tmp_path)) == (b"first", ["a"])
