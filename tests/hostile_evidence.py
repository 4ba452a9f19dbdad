"""Evidence as a device with broken or hostile firmware makes it: any claims, any headers, one thing wrong at a time."""

from typing import Any

import cbor2

from protocol.identity import device_id_of
from protocol.signing import Signer, raw_from_der

ES256 = -7
PROTECTED = cbor2.dumps({1: ES256})


def sign_claims(claims: dict[Any, Any], identity: Signer) -> bytes:
    """A token over any claims, its envelope as it should be."""
    return sign_payload(cbor2.dumps(claims), identity)


def sign_payload(
    payload: bytes,
    identity: Signer,
    *,
    protected: bytes = PROTECTED,
    unprotected: object = None,
    signature: bytes | None = None,
    tag: int = 18,
) -> bytes:
    """A token over any payload and headers (RFC 9052 §4.4), signed by the identity key unless a signature is given."""
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    header = {4: bytes.fromhex(device_id_of(identity.public_key))} if unprotected is None else unprotected
    made = raw_from_der(identity.sign(to_be_signed)) if signature is None else signature
    return cbor2.dumps(cbor2.CBORTag(tag, [protected, header, payload, made]))


def claims_of(token: bytes) -> dict[Any, Any]:
    """The claims that a token carries."""
    claims: dict[Any, Any] = cbor2.loads(cbor2.loads(token).value[2])
    return claims
