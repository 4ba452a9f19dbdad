"""The payload of a trust store: public keys, each with what it is trusted for.

Azure Sphere's own format is not public; this one is ours. Little-endian:

    0   4  magic "TFK1"
    4   2  u16 number of keys n, 1 to 64
    6   2  reserved, zero
    then n times, ascending by role and then by the key's bytes, so that equal sets have equal bytes:
        1  u8 role
        1  reserved, zero
        2  u16 length of the key
        …  DER SubjectPublicKeyInfo of a P-256 key
    then nothing but the package's own padding of up to 3 zero bytes.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from protocol.errors import MalformedError
from protocol.identity import spki_der

MAGIC = b"TFK1"
MAX_KEYS = 64
MAX_PADDING_BYTES = 3
_HEADER = struct.Struct("<4sHH")
_ENTRY = struct.Struct("<BBH")


class TrustStoreError(MalformedError):
    """The payload is no trust store."""


class TrustRole(IntEnum):
    """What a key is trusted for."""

    SYSTEM = 1  # boot loader, security monitor, OS and trust store
    PACKAGE = 2  # applications, firmware, models and board configuration
    GOLDEN = 3  # golden vectors
    VOUCHER = 4  # which catalog a device belongs to
    ROOT = 5  # root of a catalog's certificates and metadata


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A P-256 public key and what it is trusted for."""

    role: TrustRole
    public_key: ec.EllipticCurvePublicKey


def encode_trust_store(keys: Iterable[TrustedKey]) -> bytes:
    """Lay keys out as a payload; the order of the keys and repetitions do not matter.

    Raises:
        TrustStoreError: no key, or too many.
    """
    entries = sorted({(key.role, spki_der(key.public_key)) for key in keys})
    if not 0 < len(entries) <= MAX_KEYS:
        raise TrustStoreError(f"trust store: expected 1 to {MAX_KEYS} keys, found {len(entries)}")
    body = b"".join(_ENTRY.pack(role, 0, len(der)) + der for role, der in entries)
    return _HEADER.pack(MAGIC, len(entries), 0) + body


def parse_trust_store(payload: bytes) -> tuple[TrustedKey, ...]:
    """Take a verified payload apart.

    Raises:
        TrustStoreError: not byte for byte what `encode_trust_store` writes, padding aside.
    """
    if len(payload) < _HEADER.size:
        raise TrustStoreError(f"trust store: expected at least {_HEADER.size} bytes, found {len(payload)}")
    magic, count, _ = _HEADER.unpack_from(payload)
    if magic != MAGIC or not 0 < count <= MAX_KEYS:
        raise TrustStoreError(f"trust store: expected {MAGIC!r} and 1 to {MAX_KEYS} keys, found {magic!r} and {count}")
    keys = tuple(_entries(payload, count))
    canonical = encode_trust_store(keys)
    padding = payload[len(canonical) :]
    if payload[: len(canonical)] != canonical or any(padding) or len(padding) > MAX_PADDING_BYTES:
        raise TrustStoreError(
            "trust store: expected its one form (ascending, no key twice, zeros after), found another"
        )
    return keys


def _entries(payload: bytes, count: int) -> Iterator[TrustedKey]:
    offset = _HEADER.size
    for number in range(1, count + 1):
        entry = payload[offset : offset + _ENTRY.size]
        if len(entry) < _ENTRY.size:
            raise TrustStoreError(f"trust store, key {number}: expected {_ENTRY.size} bytes, found {len(entry)}")
        role, _, length = _ENTRY.unpack(entry)
        offset += _ENTRY.size + length
        yield TrustedKey(_role(role, number), _public_key(payload[offset - length : offset], number))


def _role(role: int, number: int) -> TrustRole:
    if role not in set(TrustRole):
        raise TrustStoreError(f"trust store, key {number}: expected a role of 1 to {max(TrustRole)}, found {role}")
    return TrustRole(role)


def _public_key(der: bytes, number: int) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustStoreError(f"trust store, key {number}: expected a DER public key, found other bytes") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustStoreError(f"trust store, key {number}: expected P-256, found another type")
    return key
