"""The two kinds of key that a token holds: P-256, and Ed25519 for the transparency log alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pkcs11 import KeyType, Mechanism

from protocol.notes import PUBLIC_KEY_BYTES
from protocol.signing import P256_COORDINATE_BYTES

_OCTET_STRING = 0x04

PublicKey = TypeVar("PublicKey", ec.EllipticCurvePublicKey, Ed25519PublicKey)


@dataclass(frozen=True, slots=True)
class Curve(Generic[PublicKey]):
    """A curve as PKCS#11 has it.

    Attributes:
        name: in messages.
        key_type: CKA_KEY_TYPE.
        parameters: CKA_EC_PARAMS, DER: an OID, by which keys are made, then what else modules say of such keys.
        generation: makes a key pair.
        signing: signs; its input is the digest for P-256, the message for Ed25519.
        point_bytes: length of a point.
        decode: a point's public key; raises ValueError.
    """

    name: str
    key_type: KeyType
    parameters: tuple[bytes, ...]
    generation: Mechanism
    signing: Mechanism
    point_bytes: int
    decode: Callable[[bytes], PublicKey]

    @property
    def point_header(self) -> bytes:
        """What stands before a point: the head of an OCTET STRING."""
        return bytes([_OCTET_STRING, self.point_bytes])

    def public_key(self, point: bytes) -> PublicKey:
        """Return the public key of CKA_EC_POINT; some modules leave the header out.

        Raises:
            ValueError: it is no point of the curve.
        """
        is_wrapped = len(point) == len(self.point_header) + self.point_bytes
        return self.decode(point.removeprefix(self.point_header) if is_wrapped else point)


def _p256_point(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


P256 = Curve(
    name="P-256",
    key_type=KeyType.EC,
    parameters=(bytes.fromhex("06082a8648ce3d030107"),),  # 1.2.840.10045.3.1.7
    generation=Mechanism.EC_KEY_PAIR_GEN,
    signing=Mechanism.ECDSA,
    point_bytes=1 + 2 * P256_COORDINATE_BYTES,
    decode=_p256_point,
)
ED25519 = Curve(
    name="Ed25519",
    key_type=KeyType.EC_EDWARDS,
    # 1.3.101.112 (RFC 8410 §3), or PKCS#11 3.0's curveName "edwards25519", which SoftHSM2 says of private keys.
    parameters=(bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519"),
    generation=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
    signing=Mechanism.EDDSA,
    point_bytes=PUBLIC_KEY_BYTES,
    decode=Ed25519PublicKey.from_public_bytes,
)
