r"""Signed notes (C2SP signed-note): a text and the lines of those who signed it.

    text, ending in a newline
    (empty line)
    — NAME base64(key ID, 4 bytes ‖ signature)        one or more

Two kinds of signature are known, both Ed25519 (RFC 8032), because C2SP's logs and witnesses use no P-256:
    0x01  over the text itself: a log's own
    0x04  a witness's cosignature (C2SP tlog-cosignature): 8 bytes of POSIX time, then over
          "cosignature/v1\ntime N\n" and the text

A key is known by its name and its key ID, SHA-256(name ‖ \n ‖ kind ‖ public key)[:4], and written as a *vkey*:
`NAME+hex(key ID)+base64(kind ‖ public key)`. Verification of an unverified note, in this order:
    1. length: at most `MAX_NOTE_BYTES`, and `MAX_SIGNATURES` lines;
    2. form: UTF-8 without control characters, a text, an empty line, signature lines;
    3. signatures: those of known keys, each of which must verify; others are ignored.
Which known keys must have signed is the caller's to say: `VerifiedNote.signed_by`.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from typing_extensions import override

from protocol.errors import MalformedError, SignatureError

MAX_NOTE_BYTES = 128 * 1024  # sixteen signatures of 5 kB each, which post-quantum ones have
MAX_SIGNATURES = 32
MAX_NAME_CHARACTERS = 200
MAX_VKEY_CHARACTERS = MAX_NAME_CHARACTERS + 100
KEY_ID_BYTES, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, TIME_BYTES = 4, 32, 64, 8
_NAME = re.compile(r"[^\s+\x00-\x20\x7f]+\Z")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})\Z")


class NoteFormError(MalformedError):
    """The bytes are no signed note, or the text no verifier key."""


class NoteSignatureError(SignatureError):
    """A known key's signature does not verify, or a key that must have signed has not."""


class SignatureKind(IntEnum):
    """What a signature is over; the byte that C2SP assigns."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a note key.

    Attributes:
        public_key: Ed25519, 32 bytes.
    """

    name: str
    kind: SignatureKind
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """What a signature line names it by beside its name, 4 bytes."""
        named = self.name.encode() + b"\n" + bytes([self.kind]) + self.public_key
        return hashlib.sha256(named).digest()[:KEY_ID_BYTES]

    @override
    def __str__(self) -> str:
        material = base64.b64encode(bytes([self.kind]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One line below a note.

    Attributes:
        key_id: 4 bytes.
        signature: whatever the kind of the key makes, not empty.
    """

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """Return the line, newline included."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class UnverifiedNote:
    """A note whose signatures nobody has checked.

    Attributes:
        text: ends in a newline.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return f"{self.text}\n{''.join(each.line() for each in self.signatures)}".encode()


@dataclass(frozen=True, slots=True)
class VerifiedNote:
    """A note of which every signature by a known key has been verified.

    Attributes:
        signed_by: the known keys that signed, with the POSIX time of a cosignature, 0 of another.
        signatures: theirs, in the note's order; those of unknown keys are left out.
    """

    text: str
    signed_by: Mapping[VerifierKey, int]
    signatures: tuple[NoteSignature, ...]


class NoteSigner(Protocol):
    """A key that signs notes but need not be readable."""

    @property
    def key(self) -> VerifierKey:
        """The public half."""

    def sign(self, text: str) -> NoteSignature:
        """Sign a note's text."""


class Ed25519Signer:
    """A log's key in memory; implements `NoteSigner`."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._key = VerifierKey(check_name(name), SignatureKind.ED25519, private_key.public_key().public_bytes_raw())

    @property
    def key(self) -> VerifierKey:
        """The public half."""
        return self._key

    def sign(self, text: str) -> NoteSignature:
        """Sign a note's text."""
        return NoteSignature(self._key.name, self._key.key_id, self._private_key.sign(text.encode()))


class Cosigner:
    """A witness's key in memory, which says when it saw what it signs."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        public_key = private_key.public_key().public_bytes_raw()
        self._key = VerifierKey(check_name(name), SignatureKind.COSIGNATURE, public_key)

    @property
    def key(self) -> VerifierKey:
        """The public half."""
        return self._key

    def sign(self, text: str, *, at: int) -> NoteSignature:
        """Cosign a checkpoint's text.

        Args:
            text: of the note.
            at: POSIX time, seconds, above 0.
        """
        signature = self._private_key.sign(_cosigned(text, at))
        return NoteSignature(self._key.name, self._key.key_id, at.to_bytes(TIME_BYTES, "big") + signature)


def check_name(name: str) -> str:
    """Return the name of a key if it may be one: without spaces, plus signs and control characters.

    Raises:
        NoteFormError: it may not.
    """
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.match(name):
        raise NoteFormError(f"key name: expected no space, plus or control character, found {name[:80]!r}")
    return name


def parse_vkey(text: str, *, kind: SignatureKind | None = None) -> VerifierKey:
    """Parse a verifier key.

    Args:
        text: `NAME+hex+base64`.
        kind: which it must be of; None takes both.

    Raises:
        NoteFormError: it is none, its key ID is not that of its name and key, or it is of another kind.
    """
    name, _, rest = text.partition("+")
    key_id, _, material = rest.partition("+")
    if len(text) > MAX_VKEY_CHARACTERS:
        raise NoteFormError(f"verifier key: expected at most {MAX_VKEY_CHARACTERS} characters, found {len(text)}")
    known = {bytes([each]): each for each in SignatureKind if kind in {None, each}}
    decoded = _base64(material)
    found = known.get(decoded[:1])
    if found is None or len(decoded) != 1 + PUBLIC_KEY_BYTES:
        raise NoteFormError(f"verifier key: expected NAME+ID+KEY of an Ed25519 key, found {text[:80]!r}")
    key = VerifierKey(check_name(name), found, decoded[1:])
    if key.key_id.hex() != key_id:
        raise NoteFormError(f"verifier key {name[:80]}: expected key ID {key.key_id.hex()}, found {key_id[:20]!r}")
    return key


def parse_note(unverified: bytes) -> UnverifiedNote:
    """Parse a note; its signatures are not checked.

    Raises:
        NoteFormError: step 1 or 2.
    """
    # Step 1: length.
    if len(unverified) > MAX_NOTE_BYTES:
        raise NoteFormError(f"note: expected at most {MAX_NOTE_BYTES} bytes, found {len(unverified)}")
    # Step 2: form.
    text, _, below = _text(unverified).rpartition("\n\n")
    if not text or not below.endswith("\n"):
        raise NoteFormError("note: expected a text, an empty line and signature lines, found another form")
    return UnverifiedNote(f"{text}\n", tuple(parse_signatures(below)))


def parse_signatures(lines: str) -> list[NoteSignature]:
    """Parse signature lines, each ending in a newline.

    Raises:
        NoteFormError: a line is none, or there are more than `MAX_SIGNATURES`.
    """
    found = lines.split("\n")[:-1]
    if len(found) > MAX_SIGNATURES:
        raise NoteFormError(f"note: expected at most {MAX_SIGNATURES} signatures, found {len(found)}")
    return [_signature(line) for line in found]


def verify_note(unverified: bytes, keys: Collection[VerifierKey]) -> VerifiedNote:
    """Verify a note by the keys that are known.

    Raises:
        NoteFormError: step 1 or 2.
        NoteSignatureError: step 3.
    """
    note = parse_note(unverified)
    return VerifiedNote(note.text, *verify_signatures(note.text, note.signatures, keys))


def verify_signatures(
    text: str, signatures: Sequence[NoteSignature], keys: Collection[VerifierKey]
) -> tuple[Mapping[VerifierKey, int], tuple[NoteSignature, ...]]:
    """Verify the signatures of known keys over a text; a key counts once, however often it signed.

    Returns:
        the keys with their cosignatures' POSIX times, and their signatures.

    Raises:
        NoteSignatureError: step 3.
    """
    # Step 3: signatures.
    known = {(key.name, key.key_id): key for key in keys}
    signed_by, verified = dict[VerifierKey, int](), list[NoteSignature]()
    for signature in signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None and key not in signed_by:
            signed_by[key] = _verify(text, signature.signature, key)
            verified.append(signature)
    return signed_by, tuple(verified)


def _verify(text: str, signature: bytes, key: VerifierKey) -> int:
    """Verify one signature and return its time."""
    is_timed = key.kind is SignatureKind.COSIGNATURE
    time, raw = (signature[:TIME_BYTES], signature[TIME_BYTES:]) if is_timed else (b"", signature)
    at = int.from_bytes(time, "big")
    signed = _cosigned(text, at) if is_timed else text.encode()
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(raw, signed)
    except InvalidSignature as error:
        raise NoteSignatureError(f"note: expected the signature of {key.name} to verify, found it does not") from error
    return at


def _cosigned(text: str, at: int) -> bytes:
    # C2SP tlog-cosignature, "Ed25519 signed message".
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _text(unverified: bytes) -> str:
    try:
        text = unverified.decode()
    except UnicodeDecodeError as error:
        raise NoteFormError("note: expected UTF-8, found other bytes") from error
    if _CONTROL.search(text):
        raise NoteFormError("note: expected no control characters but newlines, found some")
    return text


def _signature(line: str) -> NoteSignature:
    match = _SIGNATURE_LINE.match(line)
    decoded = _base64(match[2]) if match else b""
    if match is None or len(decoded) <= KEY_ID_BYTES:
        raise NoteFormError(f"note: expected a signature line, found {line[:80]!r}")
    return NoteSignature(match[1], decoded[:KEY_ID_BYTES], decoded[KEY_ID_BYTES:])


def _base64(text: str) -> bytes:
    """Return decoded base64, nothing where it is none or is not written in the one canonical way."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return decoded if base64.b64encode(decoded).decode() == text else b""
