"""The certificate signing request that our devices make, recognised by its bytes.

It is a PKCS#10 request (RFC 2986 §4) by a P-256 key, signed with ECDSA and SHA-256, with an empty subject and one
extension, critical: the device's SAN URI. All its bytes but the key's point and the signature are known beforehand, so
that a request that equals them needs no parser. Any other request is nothing wrong; pki/csr.py parses it.
"""

import functools
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.identity import DeviceId, device_uri, spki_der

_HEAD_BYTES = 4  # of the outer sequence, whose length takes two bytes
_POINT_BYTES = 65  # uncompressed: 04 ‖ x ‖ y (SEC 1 §2.3.3)
_BIT_STRING_HEAD_BYTES = 3  # tag, length, and how many bits of the last byte are unused
_LONGEST_SIGNATURE = 72  # DER, of two numbers of 33 bytes
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # AlgorithmIdentifier (RFC 5758 §3.2)


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """The parts of a request that are not known beforehand; neither key nor signature has been checked.

    Attributes:
        point: of the key, uncompressed, 65 bytes; perhaps not on the curve.
        spki: the key as DER SubjectPublicKeyInfo.
        signed: what the signature is over, DER CertificationRequestInfo.
        signature: DER, perhaps malformed.
    """

    point: bytes
    spki: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Form:
    """What is around the parts: the signed bytes are before ‖ point ‖ between ‖ device id ‖ after."""

    before: bytes
    between: bytes
    after: bytes
    spki_head: bytes


def read_device_request(unverified: bytes, device_id: DeviceId) -> DeviceRequest | None:
    """Return the parts of a request as this device makes it, or None for any other bytes."""
    form = _form()
    begin = _HEAD_BYTES + len(form.before)
    point = unverified[begin : begin + _POINT_BYTES]
    signed = b"".join((form.before, point, form.between, device_id.encode(), form.after))
    signature = unverified[_HEAD_BYTES + len(signed) + len(_ECDSA_WITH_SHA256) + _BIT_STRING_HEAD_BYTES :]
    if len(signature) > _LONGEST_SIGNATURE or unverified != _encoded(signed, signature):
        return None
    return DeviceRequest(point, form.spki_head + point, signed, signature)


def _encoded(signed: bytes, signature: bytes) -> bytes:
    """Encode a CertificationRequest (RFC 2986 §4.2)."""
    bit_string = bytes((0x03, 1 + len(signature), 0)) + signature
    body = signed + _ECDSA_WITH_SHA256 + bit_string
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


@functools.cache
def _form() -> _Form:
    """Take a request apart that has any key and any device id."""
    key, device_id = ec.derive_private_key(1, ec.SECP256R1()), DeviceId("0" * 128)
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(device_id))])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(name, critical=True)
    signed = builder.sign(key, hashes.SHA256()).tbs_certrequest_bytes
    public_key = key.public_key()
    point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    before, rest = signed.split(point)
    between, after = rest.split(device_id.encode())
    return _Form(before, between, after, spki_head=spki_der(public_key).removesuffix(point))
