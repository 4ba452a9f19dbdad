"""ECDSA P-256 with SHA-256, the one signature algorithm of tinyfleet, behind one small port.

A `Signer` may be a key in memory, an encrypted file, a token, or the simulated root of trust. `TufSigner` lets
python-tuf and DSSE sign with any of them.
"""

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from securesystemslib.signer import Key, SecretsHandler, Signature, SSlibKey
from securesystemslib.signer import Signer as SslibSigner
from typing_extensions import override

from protocol.errors import SignatureError

P256_COORDINATE_BYTES = 32
_ECDSA_SHA256 = ec.ECDSA(hashes.SHA256())
RAW_SIGNATURE_BYTES = 2 * P256_COORDINATE_BYTES


class Signer(Protocol):
    """A P-256 private key that can sign but need not be readable."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over SHA-256 of the data."""


class SoftwareSigner:
    """A private key held in memory."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private_key = private_key

    @classmethod
    def generate(cls) -> "SoftwareSigner":
        """Make a fresh P-256 key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The private key, for the few callers that must store it or hand it to TLS."""
        return self._private_key

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._private_key.public_key()

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over SHA-256 of the data."""
        return self._private_key.sign(data, _ECDSA_SHA256)


def verify(public_key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    """Check a DER ECDSA signature over SHA-256 of the data.

    Raises:
        SignatureError: the key did not make this signature.
    """
    try:
        public_key.verify(signature, data, _ECDSA_SHA256)
    except InvalidSignature as error:
        raise SignatureError("signature: expected one by the given key, found another or none") from error


def raw_from_der(signature: bytes) -> bytes:
    """Turn a DER signature into r‖s, 64 bytes big-endian (RFC 9053 §2.1)."""
    r, s = decode_dss_signature(signature)
    return r.to_bytes(P256_COORDINATE_BYTES, "big") + s.to_bytes(P256_COORDINATE_BYTES, "big")


def der_from_raw(signature: bytes) -> bytes:
    """Turn r‖s, 64 bytes, into a DER signature.

    Raises:
        SignatureError: not 64 bytes.
    """
    if len(signature) != RAW_SIGNATURE_BYTES:
        raise SignatureError(f"raw signature: expected {RAW_SIGNATURE_BYTES} bytes, found {len(signature)}")
    r = int.from_bytes(signature[:P256_COORDINATE_BYTES], "big")
    s = int.from_bytes(signature[P256_COORDINATE_BYTES:], "big")
    return encode_dss_signature(r, s)


def tuf_key(public_key: ec.EllipticCurvePublicKey) -> SSlibKey:
    """Return the key as TUF metadata and DSSE know it; the key id is the SHA-256 of its canonical JSON."""
    return SSlibKey.from_crypto(public_key)


class TufSigner(SslibSigner):
    """Any of our signers, as python-tuf's Metadata.sign and DSSE's Envelope.sign want it."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._key = tuf_key(signer.public_key)

    @property
    @override
    def public_key(self) -> Key:
        """The public half with its TUF key id."""
        return self._key

    @classmethod
    @override
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "TufSigner":
        """Not offered: keys come from key stores, never from a URI."""
        raise NotImplementedError("tinyfleet's keys come from key stores, not from URIs")

    @override
    def sign(self, payload: bytes) -> Signature:
        """Sign the payload."""
        return Signature(self._key.keyid, self._signer.sign(payload).hex())
