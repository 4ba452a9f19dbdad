"""Key stores: P-256 keys by role.

`KeyStore` is the port; a store gives out a `Signer`, so that a key in a token need not be readable. `FileKeyStore`
keeps `{role}.pem` files, readable by their owner alone: encrypted PKCS#8 for offline keys, plain for the online keys
that a service must read by itself when it starts. A store never overwrites a key.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from pki.errors import KeyExistsError, KeyMissingError, KeyStoreError, PassphraseError
from pki.files import PRIVATE_MODE, create_file
from pki.pkcs8 import encrypt_private_key
from pki.roles import KEY_NAME
from protocol.signing import Signer, SoftwareSigner

PASSPHRASE_VARIABLE = "TINYFLEET_PASSPHRASE"  # noqa: S105 - the variable's name
MIN_PASSPHRASE_BYTES = 8
MAX_KEY_FILE_BYTES = 16 * 1024

Passphrase = Callable[[], bytes]


class KeyStore(Protocol):
    """Where the private keys are, by role."""

    def holds(self, role: str) -> bool:
        """Whether the store has a key of this role."""

    def load(self, role: str) -> Signer:
        """Return the signer of a role.

        Raises:
            KeyMissingError: the store has none.
            KeyStoreError: the key cannot be used.
        """

    def generate(self, role: str) -> Signer:
        """Make and keep a new P-256 key.

        Raises:
            KeyExistsError: the store already has one.
        """


class FileKeyStore:
    """Keys as PKCS#8 files in a folder, mode 0600.

    Args:
        folder: made with mode 0700 when the first key is.
        passphrase: asked when a key is read or made; None keeps keys unencrypted, for a service's online keys.
    """

    def __init__(self, folder: Path, *, passphrase: Passphrase | None) -> None:
        self._folder = folder
        self._passphrase = passphrase
        self._loaded: dict[str, SoftwareSigner] = {}

    @property
    def is_encrypted(self) -> bool:
        """Whether opening a key needs the passphrase."""
        return self._passphrase is not None

    def path(self, role: str) -> Path:
        """Where the key of a role is kept."""
        return self._folder / f"{role}.pem"

    def names(self) -> list[str]:
        """Return the names of the keys that are here, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.pem") if KEY_NAME.fullmatch(path.stem))

    def holds(self, role: str) -> bool:
        """Whether the store has a key of this role."""
        return self.path(role).exists()

    def load(self, role: str) -> SoftwareSigner:
        """Return the signer of a role.

        Raises:
            KeyMissingError: there is no such file.
            PassphraseError: no passphrase, or not the one of this key.
            KeyStoreError: the file is unreadable, holds something else than a P-256 key, or is open to everybody.
        """
        if role not in self._loaded:  # scrypt makes each decryption slow on purpose
            key = self._decode(role, self._read(role))
            self._check_mode(role)
            self._loaded[role] = SoftwareSigner(key)
        return self._loaded[role]

    def generate(self, role: str) -> SoftwareSigner:
        """Make and keep a new P-256 key.

        Raises:
            KeyExistsError: there is such a file; it stays as it was.
            PassphraseError: no passphrase, or too short a one.
        """
        if self.holds(role):
            raise KeyExistsError(f"key {role}: expected no {self.path(role)} yet, found one")
        signer = SoftwareSigner.generate()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            create_file(self.path(role), self._encode(signer.private_key), mode=PRIVATE_MODE)
        except FileExistsError as error:
            raise KeyExistsError(f"key {role}: expected no {self.path(role)} yet, found one") from error
        return signer

    def _read(self, role: str) -> bytes:
        path = self.path(role)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise KeyMissingError(f"key {role}: expected {path}, found no such file") from error
        except OSError as error:
            raise KeyStoreError(f"key {role}: expected a readable {path}, found {error.strerror}") from error

    def _check_mode(self, role: str) -> None:
        mode = self.path(role).stat().st_mode & 0o777
        # The group may read: that is how orchestrators hand a secret to an unprivileged process.
        if self._passphrase is None and mode & 0o007:
            raise KeyStoreError(f"key {role}: expected {self.path(role)} closed to others, found mode {mode:04o}")

    def _encode(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        if self._passphrase is None:
            return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return encrypt_private_key(key, _long_enough(self._passphrase()))

    def _decode(self, role: str, content: bytes) -> ec.EllipticCurvePrivateKey:
        if len(content) > MAX_KEY_FILE_BYTES:
            raise KeyStoreError(f"key {role}: expected at most {MAX_KEY_FILE_BYTES} bytes, found {len(content)}")
        encrypted = b"-----BEGIN ENCRYPTED" in content
        if encrypted != (self._passphrase is not None):
            expected, found = ("encrypted", "plain") if self._passphrase else ("plain", "encrypted")
            raise KeyStoreError(f"key {role}: expected {expected} PKCS#8, found {found}")
        secret = self._passphrase() if self._passphrase else None
        try:
            key = load_pem_private_key(content, secret)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _unreadable(role, secret) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise KeyStoreError(f"key {role}: expected a P-256 key, found another type")
        return key


def passphrase_source(*, file: Path, environment: Mapping[str, str], prompt: Callable[[], str]) -> Passphrase:
    """Return a passphrase that is looked for once, when it is first needed: in the file, the environment, the prompt.

    Raises (when it is called):
        PassphraseError: the file is there but cannot be read, or others can read it.
    """
    found: list[bytes] = []

    def passphrase() -> bytes:
        if not found:
            found.append(_look_for(file, environment, prompt))
        return found[0]

    return passphrase


def _look_for(file: Path, environment: Mapping[str, str], prompt: Callable[[], str]) -> bytes:
    try:
        content, mode = file.read_bytes(), file.stat().st_mode & 0o777
    except FileNotFoundError:
        variable = environment.get(PASSPHRASE_VARIABLE)
        return (prompt() if variable is None else variable).encode()
    except OSError as error:
        raise PassphraseError(f"passphrase: expected a readable {file}, found {error.strerror}") from error
    # As for a key without a passphrase: the group may read.
    if mode & 0o007:
        raise PassphraseError(
            f"passphrase: expected {file} closed to others, found mode {mode:04o}; close it with `chmod 600 {file}`"
        )
    return content.rstrip(b"\r\n")


def _long_enough(passphrase: bytes) -> bytes:
    if len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise PassphraseError(f"passphrase: expected at least {MIN_PASSPHRASE_BYTES} bytes, found {len(passphrase)}")
    return passphrase


def _unreadable(role: str, passphrase: bytes | None) -> KeyStoreError:
    if passphrase is None:
        return KeyStoreError(f"key {role}: expected a PKCS#8 key in PEM, found other bytes")
    return PassphraseError(f"key {role}: expected the passphrase that encrypted it, found another or a damaged file")
