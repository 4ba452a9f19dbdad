"""Attestation evidence: a PSA token (RFC 9783) in a COSE_Sign1 (RFC 9052), signed by the device's identity key.

The nonce claim is SHA-256(service nonce ‖ DER SubjectPublicKeyInfo of the key in the CSR), so that evidence cannot be
relayed to another key. Verification of an unverified token, in this order:
    1. length: at most `MAX_TOKEN_BYTES`;
    2. form: one COSE_Sign1, tag 18, of the CBOR that `protocol.cbor` lets through;
    3. header (RFC 9052 §3.1): alg −7 (ES256) in the protected header, no crit, kid equal to the device id's bytes;
    4. signature by the identity key;
    5. claims: every claim of the profile with its type and length;
    6. instance id (RFC 9783 §4.2.1): 0x01 ‖ SHA-256 of the identity key's SubjectPublicKeyInfo.
Not checked here: nonce freshness, life cycle policy and measurements; service/domain/attestation appraises those.

What RFC 9783 allows and this verifier refuses, because no device of ours sends it:
    · §5.1.1: CBOR that is not in preferred serialisation, and tags, floats, and keys that are neither numbers nor
      strings in claims that it does not know;
    · §5.2: COSE_Mac0, ES384 and ES512: an identity key is on P-256, and a verifier that knows one algorithm cannot be
      talked into another; a header without kid or with anything besides it;
    · §4.1.1: nonces of 48 and 64 bytes; §4.4.1.2, §4.4.1.4: measurements and signer ids of 48 and 64 bytes, because
      every digest here is SHA-256;
    · §4.1.2: client ids other than −1, which is the one caller of a device's attestation;
    · §4.4.1, §4.5.1: text that is long or not printable, because it is shown to operators;
    · §4.3.2: a token without boot seed, by which a cloned identity shows; §4.4.1.1: a component without type, which
      says the slot.
Claims that it does not know are left alone (§5.1.3: a receiver does not fail on them).
"""

import functools
import hashlib
import re
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cwt import COSE
from cwt.algs.ec2 import EC2Key
from typing_extensions import override

from protocol.cbor import CborError, decode, encode_bytes
from protocol.errors import MalformedError, SignatureError
from protocol.identity import device_id_of, spki_der
from protocol.signing import Signer, der_from_raw, raw_from_der, verify

PROFILE = "tag:psacertified.org,2023:psa#tfm"  # RFC 9783 §4.5.2
MAX_TOKEN_BYTES = 4096
NONCE_BYTES = 32
MAX_TEXT = 64  # characters; the longest name that our formats carry
CLIENT_ID = -1  # RFC 9783 §4.1.2: the caller is in the non-secure world
_SIGN1_TAG = 18
_ES256 = -7
_KEY_TYPES = frozenset({int, str})
_PROTECTED_HEADER = cbor2.dumps({1: _ES256})
# RFC 9052 §4.4: an array of four, of which the last is the payload.
_SIGNATURE1 = b"\x84" + b"".join(map(cbor2.dumps, ("Signature1", _PROTECTED_HEADER, b"")))
_MEASUREMENT_DESCRIPTION = "sha-256"  # RFC 9783 §4.4.1.5: a name of IANA's Named Information Hash Algorithm Registry
_BOOT_SEED_BYTES = range(8, 33)  # RFC 9783 §4.3.2
_LIFE_CYCLES = range(0x10000)  # RFC 9783 §4.3.1: two bytes
_CERTIFICATION_REFERENCE = re.compile(r"[0-9]{13}-[0-9]{5}\Z")  # RFC 9783 §4.2.3: EAN-13+5
_MANDATORY_CLAIMS = frozenset({10, 256, 265, 268, 2394, 2395, 2396, 2399})
_OWN_CLAIMS = frozenset({10, 256, 265, 268})
# How a device's own claims begin a token by deterministic encoding (RFC 8949 §4.2.1): a map of up to 23 pairs, nonce,
# instance id, profile, a boot seed of 32 bytes.
_OWN_FIRST = re.compile(
    rb"([\xa8-\xb7])\x0a\x58\x20(.{32})\x19\x01\x00\x58\x21(.{33})\x19\x01\x09"
    + re.escape(cbor2.dumps(PROFILE))
    + rb"\x19\x01\x0c\x58\x20(.{32})",
    re.DOTALL,
)
_MANDATORY_ATTRIBUTES = frozenset({1, 2, 5})
_ATTRIBUTES = _MANDATORY_ATTRIBUTES | {4, 6}


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
        version: `name@version` of the image; may be empty.
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
        boot_seed: 8 to 32 bytes, random at each boot.
        lifecycle: `LifeCycle` value; the lower byte is the implementation's.
        client_id: `CLIENT_ID`.
        components: in boot order.
        certification_reference: EAN-13+5 of the PSA certificate, or empty.
        verification_service: where a verifier may be found, or empty; a hint for others.
    """

    nonce: bytes
    implementation_id: bytes
    boot_seed: bytes
    lifecycle: int
    client_id: int
    components: tuple[SoftwareComponent, ...]
    certification_reference: str = ""
    verification_service: str = ""


@dataclass(frozen=True, slots=True)
class _Common:
    """The claims of `Evidence` that do not differ from device to device."""

    implementation_id: bytes
    lifecycle: int
    client_id: int
    components: tuple[SoftwareComponent, ...]
    certification_reference: str
    verification_service: str


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
    return bind_nonce_to(service_nonce, spki_der(csr_public_key))


def bind_nonce_to(service_nonce: bytes, csr_spki: bytes) -> bytes:
    """Return the nonce claim for a key that is given as DER SubjectPublicKeyInfo, 32 bytes."""
    return hashlib.sha256(service_nonce + csr_spki).digest()


def instance_id_of(identity_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the instance id claim, 33 bytes (RFC 9783 §4.2.1)."""
    return _instance_id(spki_der(identity_key))


def _instance_id(identity_spki: bytes) -> bytes:
    return b"\x01" + hashlib.sha256(identity_spki).digest()


def sign_evidence(evidence: Evidence, identity: Signer) -> bytes:
    """Encode and sign a PSA token."""
    claims: dict[int, Any] = {
        10: evidence.nonce,
        256: instance_id_of(identity.public_key),
        265: PROFILE,
        268: evidence.boot_seed,
        2394: evidence.client_id,
        2395: evidence.lifecycle,
        2396: evidence.implementation_id,
        2398: evidence.certification_reference,
        2399: [_attributes(component) for component in evidence.components],
        2400: evidence.verification_service,
    }
    claims = {key: value for key, value in claims.items() if value != ""}
    key = _CoseSigner(identity)
    token = COSE.new().encode_and_sign(cbor2.dumps(claims), key, protected={1: _ES256}, unprotected={4: key.kid})
    return bytes(token)


def _attributes(component: SoftwareComponent) -> dict[int, str | bytes]:
    version = {4: component.version} if component.version else {}
    return {1: component.type, 2: component.measurement, **version, 5: component.signer_id}


def verify_evidence(
    unverified_token: bytes, identity_key: ec.EllipticCurvePublicKey, *, identity_spki: bytes | None = None
) -> Evidence:
    """Verify a PSA token by the identity key of the device that is connected.

    Args:
        unverified_token: from anybody.
        identity_key: of the device.
        identity_spki: the same key as DER SubjectPublicKeyInfo, where it is at hand.

    Raises:
        TokenError: steps 1, 2, 3, 5 or 6.
        TokenSignatureError: step 4.
    """
    # Steps 1 and 2: length and form.
    parts = _decode(unverified_token, "token", tag=_SIGN1_TAG)
    if not _is_sign1(parts):
        raise TokenError("token: expected the four parts of a COSE_Sign1, found another array or item")
    protected, unprotected, payload, signature = parts
    identity_spki = identity_spki or spki_der(identity_key)
    _check_header(protected, unprotected, kid=hashlib.sha512(identity_spki).digest())
    # Step 4: signature (RFC 9052 §4.4).
    to_be_signed = _SIGNATURE1 + encode_bytes(payload)
    try:
        verify(identity_key, der_from_raw(signature), to_be_signed)
    except SignatureError as error:
        raise TokenSignatureError("token: expected a signature by the identity key, found another") from error
    return _evidence(payload, instance_id=_instance_id(identity_spki))


def _decode(unverified: bytes, what: str, *, tag: int | None = None) -> Any:
    try:
        return decode(unverified, max_bytes=MAX_TOKEN_BYTES, tag=tag)
    except CborError as error:
        raise TokenError(f"{what}: {error}") from error


def _is_sign1(value: object) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [bytes, dict, bytes, bytes]


def _check_header(protected: bytes, unprotected: dict[Any, Any], *, kid: bytes) -> None:
    # Step 3: header.
    if protected != _PROTECTED_HEADER:
        raise TokenError("protected header: expected alg −7 (ES256) and nothing else, found another")
    if unprotected != {4: kid}:
        raise TokenError("unprotected header: expected the device id as kid and nothing else, found another")


def _evidence(payload: bytes, *, instance_id: bytes) -> Evidence:
    # Step 5: claims.
    own, common = _read_claims(payload)
    if own[265] != PROFILE:
        raise TokenError(f"profile: expected {PROFILE}, found another")
    # Step 6: instance id.
    if own[256] != instance_id:
        raise TokenError("instance id: expected the one of the identity key, found another")
    return Evidence(
        nonce=_octets(own[10], "nonce"),
        implementation_id=common.implementation_id,
        boot_seed=_octets(own[268], "boot seed", _BOOT_SEED_BYTES),
        lifecycle=common.lifecycle,
        client_id=common.client_id,
        components=common.components,
        certification_reference=common.certification_reference,
        verification_service=common.verification_service,
    )


def _read_claims(payload: bytes) -> tuple[dict[Any, Any], _Common]:
    """Return at least the device's own claims, and those that it has in common with others."""
    first = _OWN_FIRST.match(payload)
    if first is None:
        claims = _decode(payload, "claims")
        _check_keys(claims, "claims", mandatory=_MANDATORY_CLAIMS)
        return claims, _common(claims)
    pairs, nonce, instance_id, boot_seed = first.groups()
    # What follows them is a map of the pairs that are left, but for its head.
    common = _shared_common(bytes((pairs[0] - len(_OWN_CLAIMS),)) + payload[first.end() :])
    return {10: nonce, 256: instance_id, 265: PROFILE, 268: boot_seed}, common


@functools.lru_cache(maxsize=1024)  # the devices of a group mostly show the same
def _shared_common(encoded: bytes) -> _Common:
    claims = _decode(encoded, "claims")
    _check_keys(claims, "claims", mandatory=_MANDATORY_CLAIMS - _OWN_CLAIMS)
    if not _OWN_CLAIMS.isdisjoint(claims):
        raise TokenError("claims: expected numbers and strings as keys, each once, found one again")
    return _common(claims)


def _common(claims: dict[Any, Any]) -> _Common:
    return _Common(
        implementation_id=_octets(claims[2396], "implementation id"),
        lifecycle=_integer(claims[2395], "life cycle", _LIFE_CYCLES),
        client_id=_integer(claims[2394], "client id", range(CLIENT_ID, CLIENT_ID + 1)),
        components=_components(claims[2399]),
        certification_reference=_certification_reference(claims.get(2398, "")),
        verification_service=_text(claims.get(2400, ""), "verification service indicator"),
    )


def _components(claim: Any) -> tuple[SoftwareComponent, ...]:
    if not isinstance(claim, list) or not claim:
        raise TokenError("software components: expected a list with at least one, found none")
    return tuple(_component(part) for part in claim)


def _component(part: Any) -> SoftwareComponent:
    _check_keys(part, "software component", mandatory=_MANDATORY_ATTRIBUTES, known=_ATTRIBUTES)
    if part.get(6, _MEASUREMENT_DESCRIPTION) != _MEASUREMENT_DESCRIPTION:
        raise TokenError(f"measurement description: expected {_MEASUREMENT_DESCRIPTION}, found another")
    return SoftwareComponent(
        type=_text(part[1], "measurement type"),
        measurement=_octets(part[2], "measurement value"),
        signer_id=_octets(part[5], "signer id"),
        version=_text(part.get(4, ""), "version"),
    )


def _check_keys(value: Any, what: str, *, mandatory: frozenset[int], known: frozenset[int] | None = None) -> None:
    """Check the keys of a map; None for `known` lets any others be there, too."""
    if not isinstance(value, dict) or not _KEY_TYPES.issuperset(map(type, value)):
        raise TokenError(f"{what}: expected a map from integers and text, found another item")
    if not mandatory <= value.keys() or (known is not None and not value.keys() <= known):
        raise TokenError(f"{what}: expected the keys {sorted(mandatory)}, found others")


def _octets(value: Any, what: str, lengths: Container[int] = (NONCE_BYTES,)) -> bytes:
    if not isinstance(value, bytes) or len(value) not in lengths:
        raise TokenError(f"{what}: expected bytes of the length that the profile says, found another type or length")
    return value


def _integer(value: Any, what: str, values: range) -> int:
    if type(value) is not int or value not in values:
        raise TokenError(f"{what}: expected an integer from {values[0]} to {values[-1]}, found another")
    return value


def _certification_reference(value: Any) -> str:
    if not isinstance(value, str) or (value and not _CERTIFICATION_REFERENCE.match(value)):
        raise TokenError("certification reference: expected EAN-13 and five digits, found another")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise TokenError(f"{what}: expected text of at most {MAX_TEXT} printable characters, found another")
    return value
