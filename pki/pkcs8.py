"""Encrypted PKCS#8 with scrypt, so that a stolen key file resists guessing of its passphrase.

cryptography's BestAvailableEncryption derives the key with 2,048 rounds of PBKDF2; this module writes the same
container with scrypt instead. Every reader of PKCS#8 takes it: cryptography, `openssl pkey`.

EncryptedPrivateKeyInfo (RFC 5958 §3), DER:
    SEQUENCE
        SEQUENCE  pbes2 (RFC 8018 §6.2)
            SEQUENCE  scrypt: salt, N, r, p (RFC 7914 §7)
            SEQUENCE  aes256-CBC: initialisation vector
        OCTET STRING  PrivateKeyInfo, padded to 16 bytes and encrypted
"""

import base64
import secrets

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

# 16 MiB and five passes, the OWASP minimum: about 0.2 s; openssl's own limit for scrypt is 32 MiB.
SCRYPT_N = 1 << 14
SCRYPT_R = 8
SCRYPT_P = 5
_SALT_BYTES = 16
_PBES2 = bytes.fromhex("06092a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("06092b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES256_CBC = bytes.fromhex("060960864801650304012a")  # 2.16.840.1.101.3.4.1.42
_SEQUENCE, _INTEGER, _OCTET_STRING = 0x30, 0x02, 0x04
_SHORT_FORM_LIMIT = 0x80


def encrypt_private_key(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    """Return the key as encrypted PKCS#8, PEM."""
    salt = secrets.token_bytes(_SALT_BYTES)
    vector = secrets.token_bytes(AES.block_size // 8)
    kdf = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    ciphertext = _encrypt(key, kdf.derive(passphrase), vector)
    derivation = _der(_OCTET_STRING, salt) + b"".join(_integer(value) for value in (SCRYPT_N, SCRYPT_R, SCRYPT_P))
    schemes = _sequence(_SCRYPT + _sequence(derivation)) + _sequence(_AES256_CBC + _der(_OCTET_STRING, vector))
    return _pem(_sequence(_sequence(_PBES2 + _sequence(schemes)) + _der(_OCTET_STRING, ciphertext)))


def _encrypt(key: ec.EllipticCurvePrivateKey, encryption_key: bytes, vector: bytes) -> bytes:
    padder = PKCS7(AES.block_size).padder()
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    encryptor = Cipher(AES(encryption_key), CBC(vector)).encryptor()
    return encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def _sequence(body: bytes) -> bytes:
    return _der(_SEQUENCE, body)


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))  # a leading zero bit: not negative


def _der(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < _SHORT_FORM_LIMIT:
        return bytes([tag, size]) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, _SHORT_FORM_LIMIT | len(octets)]) + octets + body


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, b"-----END ENCRYPTED PRIVATE KEY-----", b""])
