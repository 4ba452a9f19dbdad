"""A Signer in the shape of cryptography's private key, for its certificate and CSR builders."""

from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import Buffer
from typing_extensions import override

from pki.errors import KeyStoreError
from protocol.signing import Signer


class SignerKey(ec.EllipticCurvePrivateKey):
    """Signs and names its public half; everything that would read or use the key otherwise is refused."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    @override
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._signer.public_key.curve

    @property
    @override
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._signer.public_key.key_size

    @override
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._signer.public_key

    @override
    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return a DER ECDSA signature over SHA-256 of the data.

        Raises:
            KeyStoreError: another algorithm is asked for.
        """
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise KeyStoreError("signature: expected ECDSA over SHA-256, found another algorithm")
        return self._signer.sign(bytes(data))

    @override
    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Refused."""
        raise _refusal("key agreement")

    @override
    def private_numbers(self) -> NoReturn:
        """Refused."""
        raise _refusal("its private number")

    @override
    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> NoReturn:
        """Refused."""
        raise _refusal("its private bytes")

    @override
    def __copy__(self) -> "SignerKey":
        return self

    @override
    def __deepcopy__(self, memo: dict[int, object]) -> "SignerKey":
        return self


def _refusal(what: str) -> KeyStoreError:
    return KeyStoreError(f"signing key: expected to be asked for signatures alone, found a request for {what}")
