"""Attestation evidence: a PSA token (RFC 9783) in a COSE_Sign1 (RFC 9052), signed by the device's identity key.

The nonce claim is SHA-256(service nonce ‖ DER SubjectPublicKeyInfo of the key in the CSR), so that evidence cannot be
relayed to another key. Verification of an unverified token, in this order:
    1. length: at most `MAX_TOKEN_BYTES`;
    2. form: one CBOR item in preferred serialisation, no trailing bytes, no duplicate map keys: COSE_Sign1, tag 18;
    3. header (RFC 9052 §3.1): alg −7 (ES256) in the protected header, no crit, kid equal to the device id's bytes;
    4. signature by the identity key;
    5. claims: every claim of the profile with its type and length, nothing unknown;
    6. instance id (RFC 9783 §4.2.1): 0x01 ‖ SHA-256 of the identity key's SubjectPublicKeyInfo.
Not checked here: nonce freshness, life cycle policy and measurements; service/domain/attestation appraises those.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cwt import COSE
from cwt.algs.ec2 import EC2Key
from typing_extensions import override

from protocol.errors import MalformedError, SignatureError
from protocol.identity import device_id_of, spki_der
from protocol.signing import Signer, der_from_raw, raw_from_der, verify

PROFILE = "tag:psacertified.org,2023:psa#tfm"  # RFC 9783 §4.5.2
MAX_TOKEN_BYTES = 4096
NONCE_BYTES = 32
_SIGN1_TAG = 18
_ES256 = -7


class LifeCycle(IntEnum):
    """Security life cycle (RFC 9783 §4.3.1): the value's upper byte decides."""

    UNKNOWN = 0x0000
    ASSEMBLY_AND_TEST = 0x1000
    PROVISIONING = 0x2000
    SECURED = 0x3000
    NON_PSA_DEBUG = 0x4000
    RECOVERABLE_DEBUG = 0x5000
    DECOMMISSIONED = 0x6000


class TokenError(MalformedError):
    """The evidence is no PSA token of the expected form."""


class TokenSignatureError(SignatureError):
    """The identity key did not sign the evidence."""


@dataclass(frozen=True, slots=True)
class SoftwareComponent:
    """One measured image (RFC 9783 §4.4.1).

    Attributes:
        type: slot name, e.g. `m4-0/model`.
        measurement: SHA-256 of the image package, 32 bytes.
        signer_id: SHA-256 of the signing key's SubjectPublicKeyInfo, 32 bytes.
        version: `name@version` of the image.
    """

    type: str
    measurement: bytes
    signer_id: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The claims of a PSA token.

    Attributes:
        nonce: 32 bytes, see `bind_nonce`.
        implementation_id: 32 bytes, which hardware design this is.
        boot_seed: 32 bytes, random at each boot.
        lifecycle: `LifeCycle` value.
        client_id: negative for a caller in the non-secure world.
        components: in boot order.
    """

    nonce: bytes
    implementation_id: bytes
    boot_seed: bytes
    lifecycle: int
    client_id: int
    components: tuple[SoftwareComponent, ...]


class _CoseSigner(EC2Key):
    """An EC2 key that signs by our Signer, so that the private key may be unreadable."""

    def __init__(self, signer: Signer) -> None:
        numbers = signer.public_key.public_numbers()
        kid = bytes.fromhex(device_id_of(signer.public_key))
        x, y = (value.to_bytes(32, "big") for value in (numbers.x, numbers.y))
        super().__init__({1: 2, 2: kid, 3: _ES256, -1: 1, -2: x, -3: y})
        self._signer = signer

    @override
    def sign(self, msg: bytes) -> bytes:
        return raw_from_der(self._signer.sign(msg))


def bind_nonce(service_nonce: bytes, csr_public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the nonce claim that binds evidence to the key of a CSR, 32 bytes."""
    return hashlib.sha256(service_nonce + spki_der(csr_public_key)).digest()


def instance_id_of(identity_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the instance id claim, 33 bytes (RFC 9783 §4.2.1)."""
    return b"\x01" + hashlib.sha256(spki_der(identity_key)).digest()


def sign_evidence(evidence: Evidence, identity: Signer) -> bytes:
    """Encode and sign a PSA token."""
    claims = {
        10: evidence.nonce,
        256: instance_id_of(identity.public_key),
        265: PROFILE,
        268: evidence.boot_seed,
        2394: evidence.client_id,
        2395: evidence.lifecycle,
        2396: evidence.implementation_id,
        2399: [{1: part.type, 2: part.measurement, 4: part.version, 5: part.signer_id} for part in evidence.components],
    }
    key = _CoseSigner(identity)
    token = COSE.new().encode_and_sign(cbor2.dumps(claims), key, protected={1: _ES256}, unprotected={4: key.kid})
    return bytes(token)


def verify_evidence(unverified_token: bytes, identity_key: ec.EllipticCurvePublicKey) -> Evidence:
    """Verify a PSA token by the identity key of the device that is connected.

    Raises:
        TokenError: steps 1, 2, 3, 5 or 6.
        TokenSignatureError: step 4.
    """
    # Step 1: length.
    if len(unverified_token) > MAX_TOKEN_BYTES:
        raise TokenError(f"token: expected at most {MAX_TOKEN_BYTES} bytes, found {len(unverified_token)}")
    # Step 2: form.
    tagged = _load(unverified_token, "token")
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag != _SIGN1_TAG or not _is_sign1(tagged.value):
        raise TokenError(f"token: expected a COSE_Sign1 with tag {_SIGN1_TAG}, found another CBOR item")
    protected, unprotected, payload, signature = tagged.value
    _check_header(protected, unprotected, identity_key)
    # Step 4: signature (RFC 9052 §4.4).
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    try:
        verify(identity_key, der_from_raw(signature), to_be_signed)
    except SignatureError as error:
        raise TokenSignatureError("token: expected a signature by the identity key, found another") from error
    return _evidence(_load(payload, "claims"), identity_key)


def _load(data: bytes, what: str) -> Any:
    reader = BytesIO(data)
    try:
        item = cbor2.CBORDecoder(reader).decode()
        encoded = cbor2.dumps(item)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, ArithmeticError) as error:
        raise TokenError(f"{what}: expected CBOR, found {type(error).__name__}") from error
    # Re-encoding differs when keys were duplicated, bytes trail, or the serialisation was not the preferred one.
    if encoded != data:
        raise TokenError(f"{what}: expected one CBOR item in preferred serialisation, found another encoding")
    return item


def _is_sign1(value: object) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [bytes, dict, bytes, bytes]


def _check_header(protected: bytes, unprotected: dict[Any, Any], identity_key: ec.EllipticCurvePublicKey) -> None:
    # Step 3: header.
    kid = bytes.fromhex(device_id_of(identity_key))
    if protected != cbor2.dumps({1: _ES256}):
        raise TokenError("protected header: expected alg −7 (ES256) and nothing else, found another")
    if unprotected != {4: kid}:
        raise TokenError("unprotected header: expected the device id as kid and nothing else, found another")


def _evidence(claims: Any, identity_key: ec.EllipticCurvePublicKey) -> Evidence:
    # Step 5: claims.
    expected = {10, 256, 265, 268, 2394, 2395, 2396, 2399}
    if not _is_map(claims, expected):
        raise TokenError(f"claims: expected exactly {sorted(expected)}, found others")
    if claims[265] != PROFILE:
        raise TokenError(f"profile: expected {PROFILE}, found another")
    # Step 6: instance id.
    if claims[256] != instance_id_of(identity_key):
        raise TokenError("instance id: expected the one of the identity key, found another")
    return Evidence(
        nonce=_octets(claims[10], "nonce"),
        implementation_id=_octets(claims[2396], "implementation id"),
        boot_seed=_octets(claims[268], "boot seed"),
        lifecycle=_integer(claims[2395], "life cycle"),
        client_id=_integer(claims[2394], "client id"),
        components=_components(claims[2399]),
    )


def _components(claim: Any) -> tuple[SoftwareComponent, ...]:
    if not isinstance(claim, list) or not claim:
        raise TokenError("software components: expected a list with at least one, found none")
    return tuple(_component(part) for part in claim)


def _component(part: Any) -> SoftwareComponent:
    if not _is_map(part, {1, 2, 4, 5}):
        raise TokenError("software component: expected exactly the keys 1, 2, 4 and 5, found others")
    return SoftwareComponent(
        type=_text(part[1], "measurement type"),
        measurement=_octets(part[2], "measurement value"),
        signer_id=_octets(part[5], "signer id"),
        version=_text(part[4], "version"),
    )


def _is_map(value: Any, keys: set[int]) -> bool:
    # 1.0 and True are equal to 1 as keys of a dict, but are other claims.
    return isinstance(value, dict) and value.keys() == keys and all(type(key) is int for key in value)


def _octets(value: Any, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != NONCE_BYTES:
        raise TokenError(f"{what}: expected {NONCE_BYTES} bytes, found another type or length")
    return value


def _integer(value: Any, what: str) -> int:
    if type(value) is not int:
        raise TokenError(f"{what}: expected an integer, found {type(value).__name__}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > 64:  # noqa: PLR2004 - longest name that our formats carry
        raise TokenError(f"{what}: expected text of at most 64 characters, found another")
    return value
