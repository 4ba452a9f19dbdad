"""What keys there are and whether they can be used, and the one way that a key may move: from a file into a token.

Keys are listed by role with their generations; those that people have named to sign update metadata come after them,
and of a service's folder the transparency log's, an Ed25519 key. That one does not move: where it is to be in a token,
it is made there, and begins a log of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pki.errors import KeyExistsError, KeyMissingError, KeyStoreError, StoreConfigError, TokenKeyError
from pki.log_key import LOG_KEY_FILE, load_log_key
from pki.pkcs11 import TokenSigner
from pki.roles import FIXED_ROLES, LOG_KEY, base_role
from pki.stores import CONFIG_FILE, FILE_STORE, KeyStores, open_keys, refuse_in_token
from protocol.errors import SignatureError
from protocol.notes import verify_signatures
from protocol.signing import verify

_PROOF = b"tinyfleet: this key signs"
_FIRST_GENERATION = 2  # the one before it bears the role's own name


class KeyState(StrEnum):
    """What is known of a key."""

    MISSING = "missing"  # its store has none
    ENCRYPTED = "encrypted"  # a file that no passphrase was asked for
    PRESENT = "present"  # opened
    SIGNS = "signs"  # tried
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key.

    Attributes:
        role: its role, with its generation.
        store: name of the store that it belongs in.
        where: its file or token.
        public_key: None unless it could be read.
        problem: why it is unusable; else empty.
        leaves_file: it belongs in a token, and its file is still there.
    """

    role: str
    store: str
    where: str
    state: KeyState
    public_key: ec.EllipticCurvePublicKey | Ed25519PublicKey | None = None
    problem: str = ""
    leaves_file: bool = False


def list_keys(stores: KeyStores, roles: Iterable[str], *, prove: bool) -> Iterator[KeyEntry]:
    """Look at each role's keys, later generations included.

    Args:
        stores: of an operator's or a service's folder.
        roles: to look for.
        prove: have each key sign; asks for the passphrase of encrypted files.
    """
    for role in roles:
        yield _entry(stores, role, prove=prove)
        number = _FIRST_GENERATION
        while _may_hold(stores, later := f"{role}-{number}"):
            yield _entry(stores, later, prove=prove)
            number += 1


def list_own_keys(stores: KeyStores, *, prove: bool) -> Iterator[KeyEntry]:
    """Look at the keys that people have named themselves, in files and in the tokens of keys.toml; see `list_keys`."""
    own = {name for name in {*stores.files.names(), *stores.routes} if base_role(name) not in FIXED_ROLES}
    for name in sorted(own):
        yield _entry(stores, name, prove=prove)


def log_key_entry(service_dir: Path, *, prove: bool) -> KeyEntry:
    """Look at the transparency log's key.

    Args:
        service_dir: a service's folder.
        prove: have the key sign.
    """
    stores, path = open_keys(service_dir, passphrase=None), service_dir / LOG_KEY_FILE
    state, public_key, problem = _log_key_state(service_dir, prove=prove)
    token = stores.token_of(LOG_KEY)
    where = str(path) if token is None else f"token {token.uri.token}"
    leaves_file = token is not None and path.exists()
    return KeyEntry(LOG_KEY, stores.store_of(LOG_KEY), where, state, public_key, problem, leaves_file=leaves_file)


def import_key(stores: KeyStores, role: str, store: str, *, delete_file: bool) -> TokenSigner:
    """Copy a role's key from its file into a token, where it stays: no token gives a private key out.

    A key that is there already is left alone, so that an import that was interrupted goes on.

    Args:
        stores: of the folder.
        role: its key.
        store: name of the token's store in keys.toml.
        delete_file: remove the file; only where keys.toml names the token for this role, and after the token has signed
            for the file's public key.

    Raises:
        StoreConfigError: there is no such store, or the role belongs elsewhere.
        KeyMissingError: there is no file.
        KeyExistsError: the token has another key of this role.
        TokenKeyError: the token does not sign for the file's public key; the file stays.
        KeyStoreError: file or token cannot be used.
    """
    refuse_in_token(role)
    if role == LOG_KEY:
        raise StoreConfigError(f"key {LOG_KEY}: expected that it is made in its token, found a wish to move it there")
    if store not in stores.tokens:
        known = ", ".join(stores.tokens) or "none"
        raise StoreConfigError(f"{CONFIG_FILE}: expected a store {store[:40]}, found these: {known}")
    if delete_file and (found := stores.store_of(role)) != store:
        raise StoreConfigError(f'{CONFIG_FILE}: expected {role} = "{store}" before its file goes, found {found}')
    imported = _imported(stores, role, store)
    if delete_file:
        _prove(imported, stores.files.load(role).public_key, role=role)
        stores.files.path(role).unlink()
    return imported


def _log_key_state(service_dir: Path, *, prove: bool) -> tuple[KeyState, Ed25519PublicKey | None, str]:
    try:
        signer = load_log_key(service_dir)
        if prove:
            text = f"{_PROOF.decode()}\n"
            verify_signatures(text, [signer.sign(text)], [signer.key])
    except KeyMissingError:
        return KeyState.MISSING, None, ""
    except (KeyStoreError, SignatureError) as error:
        return KeyState.UNUSABLE, None, str(error)
    public_key = Ed25519PublicKey.from_public_bytes(signer.key.public_key)
    return KeyState.SIGNS if prove else KeyState.PRESENT, public_key, ""


def _prove(imported: TokenSigner, public_key: ec.EllipticCurvePublicKey, *, role: str) -> None:
    try:
        verify(public_key, imported.sign(_PROOF), _PROOF)
    except SignatureError as error:
        raise TokenKeyError(
            f"key {role}: expected that the token signs for the key of the file, found that it does not; the file stays"
        ) from error


def _imported(stores: KeyStores, role: str, store: str) -> TokenSigner:
    file_key, token = stores.files.load(role), stores.tokens[store]
    if not token.holds(role):
        return token.take(role, file_key.private_key)
    present = token.load(role)
    if present.public_key != file_key.public_key:
        raise KeyExistsError(f"key {role}: expected none or this one in {store}, found another")
    return present


def _may_hold(stores: KeyStores, role: str) -> bool:
    try:
        return stores.holds(role)
    except KeyStoreError:  # the entry of the role itself says so
        return False


def _entry(stores: KeyStores, role: str, *, prove: bool) -> KeyEntry:
    store, path = stores.store_of(role), stores.files.path(role)
    is_file = store == FILE_STORE
    where = str(path) if is_file else f"token {stores.tokens[store].uri.token}"
    state, public_key, problem = KeyState.MISSING, None, ""
    try:
        if is_file and stores.files.is_encrypted and not prove and stores.holds(role):
            state = KeyState.ENCRYPTED
        elif stores.holds(role):
            state, public_key = _opened(stores, role, prove=prove)
    except (KeyStoreError, SignatureError) as error:
        state, problem = KeyState.UNUSABLE, str(error)
    return KeyEntry(role, store, where, state, public_key, problem, leaves_file=not is_file and path.exists())


def _opened(stores: KeyStores, role: str, *, prove: bool) -> tuple[KeyState, ec.EllipticCurvePublicKey]:
    signer = stores.load(role)
    if not prove:
        return KeyState.PRESENT, signer.public_key
    verify(signer.public_key, signer.sign(_PROOF), _PROOF)
    return KeyState.SIGNS, signer.public_key
