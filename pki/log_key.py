"""Note keys: the transparency log's, which the service holds, and those of witnesses; Ed25519 (docs/adr).

The log's key is a file, or in the token that `log` of keys.toml names (pki/stores.py); a witness's is a file.

    service/keys/log.key    the private half, mode 0600: PRIVATE+KEY+NAME+ID+base64(kind ‖ seed), as Go's
                            golang.org/x/mod/sumdb/note writes it
    service/csr/log.note    what the ceremony takes: a signed note that states the verifier key, signed by that key

The log's origin is the name of its key. Verification of an unverified request, in this order:
    1. form: a note of two lines, the first `REQUEST_HEADER`, the second a verifier key of a log;
    2. possession: the key signed the note.
"""

import base64
import hashlib
from copy import deepcopy
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tuf.api.metadata import Root

from pki.errors import KeyExistsError, KeyMissingError, KeyStoreError, LogRequestError
from pki.files import PRIVATE_MODE, PUBLIC_MODE, create_file
from pki.pkcs11 import Pkcs11KeyStore, TokenKey
from pki.roles import LOG_KEY
from pki.stores import open_keys
from protocol.errors import ProtocolError
from protocol.notes import (
    Cosigner,
    Ed25519Signer,
    NoteSignature,
    NoteSigner,
    SignatureKind,
    UnverifiedNote,
    VerifierKey,
    check_name,
    parse_note,
    parse_vkey,
    verify_note,
)
from protocol.transparency import LOG_FIELD, LogPolicy, policy_field

LOG_KEY_FILE = "keys/log.key"
LOG_REQUEST_FILE = "csr/log.note"
REQUEST_HEADER = "tinyfleet transparency log key"
MAX_KEY_FILE_BYTES = 1024
_PREFIX = "PRIVATE+KEY+"
_ORIGIN_DIGITS = 16


class TokenNoteSigner:
    """A log's key in a token; implements `NoteSigner`.

    Args:
        token_key: the key, whose public half gives the log its name.
    """

    def __init__(self, token_key: TokenKey[Ed25519PublicKey]) -> None:
        self._token_key = token_key
        public_key = token_key.public_key
        self._key = VerifierKey(_origin(public_key), SignatureKind.ED25519, public_key.public_bytes_raw())

    @property
    def key(self) -> VerifierKey:
        """The public half."""
        return self._key

    def sign(self, text: str) -> NoteSignature:
        """Sign a note's text.

        Raises:
            KeyStoreError: the token does not sign.
        """
        return NoteSignature(self._key.name, self._key.key_id, self._token_key.sign_raw(text.encode()))


def request_log_key(service_dir: Path) -> None:
    """Make the log's key and its request, if there is no request yet.

    A request without a key is left alone: it has come from the service's machine to the operator's.

    Raises:
        KeyStoreError: a key that is there cannot be used.
    """
    request = service_dir / LOG_REQUEST_FILE
    if request.exists():
        return
    _make_log_key(service_dir)
    signer = load_log_key(service_dir)
    text = f"{REQUEST_HEADER}\n{signer.key}\n"
    request.parent.mkdir(parents=True, exist_ok=True)
    create_file(request, UnverifiedNote(text, (signer.sign(text),)).encode(), mode=PUBLIC_MODE)


def requested_log_key(service_dir: Path) -> VerifierKey:
    """Return the log's verifier key that the service asks the ceremony to trust.

    Raises:
        LogRequestError: the request is missing, or a step refused.
    """
    path = service_dir / LOG_REQUEST_FILE
    try:
        unverified = path.read_bytes()
    except OSError as error:
        raise LogRequestError(f"log key: expected the service's request in {path}, found: {error.strerror}") from error
    try:
        # Step 1: form.
        header, vkey, *further = parse_note(unverified).text.split("\n")
        key = parse_vkey(vkey, kind=SignatureKind.ED25519)
        # Step 2: possession.
        signed_by = verify_note(unverified, [key]).signed_by
    except (ProtocolError, ValueError) as error:
        raise LogRequestError(f"{path}: expected a log key signed by itself, found: {error}") from error
    if header != REQUEST_HEADER or further != [""] or key not in signed_by:
        raise LogRequestError(f"{path}: expected {REQUEST_HEADER!r} and a key, signed by it, found another note")
    return key


def load_log_key(service_dir: Path) -> NoteSigner:
    """Return the log's signer.

    Raises:
        KeyMissingError: there is no key.
        KeyStoreError: the file holds none of a log, or is open to others; the token cannot be used.
    """
    token = _token(service_dir)
    if token is not None:
        return TokenNoteSigner(token.load_ed25519(LOG_KEY))
    return Ed25519Signer(*_load(service_dir / LOG_KEY_FILE, SignatureKind.ED25519))


def make_witness_key(path: Path, name: str) -> VerifierKey:
    """Make a witness's key.

    Args:
        path: of a new file.
        name: of the witness, unique in the world; a URL without its scheme, such as `witness.example/w1`.

    Raises:
        NoteFormError: the name is none.
        KeyExistsError: there is such a file; it stays as it was.
    """
    private_key = Ed25519PrivateKey.generate()
    _create(path, check_name(name), SignatureKind.COSIGNATURE, private_key)
    return Cosigner(name, private_key).key


def load_witness_key(path: Path) -> Cosigner:
    """Return a witness's signer. Raises as `load_log_key`."""
    return Cosigner(*_load(path, SignatureKind.COSIGNATURE))


def with_log_policy(root: Root, policy: LogPolicy | None) -> Root:
    """Return a copy of an Image root that carries a policy, or none; version, expiry and signatures are the caller's.

    Args:
        root: of the Image repository.
        policy: None for devices that are to ask for no proof.
    """
    changed = deepcopy(root)
    changed.unrecognized_fields.pop(LOG_FIELD, None)
    if policy is not None:
        changed.unrecognized_fields.update(policy_field(policy))
    return changed


def _token(service_dir: Path) -> Pkcs11KeyStore | None:
    return open_keys(service_dir, passphrase=None).token_of(LOG_KEY)


def _make_log_key(service_dir: Path) -> None:
    token, path = _token(service_dir), service_dir / LOG_KEY_FILE
    if token is None and not path.exists():
        private_key = Ed25519PrivateKey.generate()
        _create(path, _origin(private_key.public_key()), SignatureKind.ED25519, private_key)
    elif token is not None and not token.holds(LOG_KEY):
        token.generate_ed25519(LOG_KEY)


def _origin(public_key: Ed25519PublicKey) -> str:
    return f"tinyfleet/{hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:_ORIGIN_DIGITS]}"


def _create(path: Path, name: str, kind: SignatureKind, private_key: Ed25519PrivateKey) -> None:
    public_key = private_key.public_key().public_bytes_raw()
    key_id = VerifierKey(name, kind, public_key).key_id.hex()
    material = base64.b64encode(bytes([kind]) + private_key.private_bytes_raw()).decode()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        create_file(path, f"{_PREFIX}{name}+{key_id}+{material}\n".encode(), mode=PRIVATE_MODE)
    except FileExistsError as error:
        raise KeyExistsError(f"key: expected no {path} yet, found one") from error


def _load(path: Path, kind: SignatureKind) -> tuple[str, Ed25519PrivateKey]:
    try:
        with path.open("rb") as file:
            content, mode = file.read(MAX_KEY_FILE_BYTES + 1), path.stat().st_mode & 0o777
    except FileNotFoundError as error:
        raise KeyMissingError(f"key: expected {path}, found no such file") from error
    except OSError as error:
        raise KeyStoreError(f"key: expected a readable {path}, found {error.strerror}") from error
    # As for the other online keys: the group may read.
    if mode & 0o007:
        raise KeyStoreError(f"key: expected {path} closed to others, found mode {mode:04o}")
    try:
        name, key_id, material = content.decode().removeprefix(_PREFIX).removesuffix("\n").split("+", 2)
        decoded = base64.b64decode(material, validate=True)
        private_key = Ed25519PrivateKey.from_private_bytes(decoded[1:])
        found = VerifierKey(check_name(name), kind, private_key.public_key().public_bytes_raw())
    except (ValueError, ProtocolError) as error:
        raise KeyStoreError(f"key: expected {path} to hold a note key, found other bytes") from error
    if decoded[0] != kind or found.key_id.hex() != key_id:
        raise KeyStoreError(f"key: expected {path} to hold a {kind.name} key, found another or a damaged one")
    return name, private_key
