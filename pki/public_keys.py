"""Public keys as files that people hand to one another: PEM, or the CSR by which a service shows a key of its own.

A person's key has its public half beside it, `keys/{name}.pub`: which keys are one's own is known without a passphrase.
It is a note; what signs is the private key, whichever that is.
"""

from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from pki.errors import KeyStoreError
from pki.files import PUBLIC_MODE, replace_file
from pki.stores import KeyStores

MAX_PUBLIC_KEY_BYTES = 16 * 1024


def encode_public_key(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key's file."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a P-256 public key from a PEM file: the key alone, or a CSR that bears it.

    Raises:
        KeyStoreError: the file cannot be read or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PUBLIC_KEY_BYTES + 1)
    except OSError as error:
        raise KeyStoreError(f"{path}: expected a readable public key, found: {error.strerror}") from error
    key = _decoded(content) if len(content) <= MAX_PUBLIC_KEY_BYTES else None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyStoreError(f"{path}: expected a P-256 public key or a CSR in PEM, found something else")
    return key


def public_half(stores: KeyStores, name: str) -> ec.EllipticCurvePublicKey:
    """Return the public half of one's own key; where it is not noted yet, open the key and note it.

    Raises:
        KeyStoreError: the key is missing or cannot be used.
    """
    path = note_path(stores, name)
    if path.exists():
        return load_public_key(path)
    public_key = stores.load(name).public_key
    with suppress(OSError):  # keys may lie on a medium that is read-only; it is a note
        note_public_half(stores, name, public_key)
    return public_key


def note_public_half(stores: KeyStores, name: str, public_key: ec.EllipticCurvePublicKey) -> Path:
    """Write a key's public half beside where its file is or would be, and return where."""
    path = note_path(stores, name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, encode_public_key(public_key), mode=PUBLIC_MODE)
    return path


def note_path(stores: KeyStores, name: str) -> Path:
    """Return where a key's public half is noted."""
    return stores.files.path(name).with_suffix(".pub")


def _decoded(content: bytes) -> object:
    try:
        if b"CERTIFICATE REQUEST" in content:
            request = x509.load_pem_x509_csr(content)
            return request.public_key() if request.is_signature_valid else None
        return load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        return None
