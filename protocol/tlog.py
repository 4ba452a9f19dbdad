"""A transparency log as it is written and served: checkpoints, proofs, requests to witnesses (C2SP).

    checkpoint (tlog-checkpoint)       a signed note: origin, size, base64 of the root hash, one line each
    proof (tlog-proof)                 "c2sp.org/tlog-proof@v1", "index N", the inclusion proof in base64, an empty
                                       line, the checkpoint
    add-checkpoint (tlog-witness)      "old N", the consistency proof in base64, an empty line, the checkpoint

Tiles are in protocol/tiles.py, signed notes in protocol/notes.py, the tree itself in protocol/merkle.py.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import MalformedError
from protocol.merkle import HASH_BYTES, MAX_PROOF_HASHES, MAX_SIZE
from protocol.notes import MAX_NOTE_BYTES, MAX_SIGNATURES, NoteSignature, UnverifiedNote, parse_note

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
MAX_EXTRA_BYTES = 4096
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 16 * 1024
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 16 * 1024
MAX_DECIMAL_DIGITS = len(str(MAX_SIZE))
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]*)\Z")


class LogFormError(MalformedError):
    """The bytes are no checkpoint, no proof or no request to a witness."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head.

    Attributes:
        origin: unique name of the log.
        size: leaves.
        root: hash of the tree, 32 bytes.
        extensions: further lines; nobody vouches for them.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text that is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class UnverifiedProof:
    """A proof whose signatures and hashes nobody has checked.

    Attributes:
        index: of the entry.
        hashes: of the inclusion proof, 32 bytes each, the leaf's sibling first.
        checkpoint: the signed note, as it was received.
        extra: opaque; nobody vouches for it.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    def encode(self) -> bytes:
        """Return the proof's bytes."""
        extra = [f"extra {base64.b64encode(self.extra).decode()}"] if self.extra else []
        lines = [PROOF_HEADER, *extra, f"index {self.index}", *_encoded(self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to a witness, unverified.

    Attributes:
        old_size: of the last checkpoint that the log thinks the witness has cosigned.
        hashes: of the consistency proof from there, 32 bytes each.
        checkpoint: the signed note, as it was received.
    """

    old_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """Return the request's body."""
        lines = [f"old {self.old_size}", *_encoded(self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse the text of a checkpoint's note.

    Raises:
        LogFormError: it is none.
    """
    origin, size, root, *extensions = [*text.split("\n")[:-1], "", "", ""]
    extensions = extensions[:-3]
    if not (text.endswith("\n") and origin and size and root and all(extensions)):
        raise LogFormError("checkpoint: expected origin, size and root hash, found other lines")
    return Checkpoint(origin, parse_decimal(size), _hash(root), tuple(extensions))


def parse_proof(unverified: bytes) -> UnverifiedProof:
    """Parse a proof; nothing in it is verified but its form.

    Raises:
        LogFormError: it is none.
        NoteFormError: its checkpoint is no note.
    """
    head, checkpoint = _parts(unverified, MAX_PROOF_BYTES)
    header, *lines = head
    if header != PROOF_HEADER:
        raise LogFormError(f"proof: expected {PROOF_HEADER}, found {header[:40]!r}")
    extra = _extra(lines.pop(0)) if lines and lines[0].startswith("extra ") else b""
    if not lines:
        raise LogFormError("proof: expected an index, found none")
    return UnverifiedProof(_named(lines[0], "index"), _hashes(lines[1:]), checkpoint, extra)


def parse_add_checkpoint(unverified: bytes) -> AddCheckpoint:
    """Parse a request to a witness; nothing in it is verified but its form.

    Raises:
        LogFormError: it is none.
        NoteFormError: its checkpoint is no note.
    """
    head, checkpoint = _parts(unverified, MAX_REQUEST_BYTES)
    return AddCheckpoint(_named(head[0], "old"), _hashes(head[1:]), checkpoint)


def with_signatures(checkpoint: bytes, further: Sequence[NoteSignature]) -> bytes:
    """Return a checkpoint's note with further signatures below it, those that it has already left out.

    Raises:
        NoteFormError: the bytes are no note.
        LogFormError: they would be more than a note may have.
    """
    note = parse_note(checkpoint)
    signatures = tuple(dict.fromkeys((*note.signatures, *further)))
    if len(signatures) > MAX_SIGNATURES:
        raise LogFormError(f"checkpoint: expected at most {MAX_SIGNATURES} signatures, found {len(signatures)}")
    return UnverifiedNote(note.text, signatures).encode()


def parse_decimal(text: str) -> int:
    """Parse a size or an index: ASCII digits without leading zeros, at most `MAX_SIZE`.

    Raises:
        LogFormError: it is none.
    """
    if len(text) > MAX_DECIMAL_DIGITS or not _DECIMAL.match(text) or int(text) > MAX_SIZE:
        raise LogFormError(f"number: expected 0 to 2^62 in decimal, found {text[:40]!r}")
    return int(text)


def _parts(unverified: bytes, max_bytes: int) -> tuple[list[str], bytes]:
    """Return the lines before the first empty one, at least one, and the note behind it."""
    if len(unverified) > max_bytes:
        raise LogFormError(f"log: expected at most {max_bytes} bytes, found {len(unverified)}")
    head, separator, checkpoint = unverified.partition(b"\n\n")
    if not separator:
        raise LogFormError("log: expected an empty line before the checkpoint, found none")
    parse_checkpoint(parse_note(checkpoint).text)
    try:
        return head.decode("ascii").split("\n"), checkpoint
    except UnicodeDecodeError as error:
        raise LogFormError("log: expected ASCII before the checkpoint, found other bytes") from error


def _named(line: str, name: str) -> int:
    found, _, number = line.partition(" ")
    if found != name:
        raise LogFormError(f"log: expected a line {name!r} with a number, found {line[:40]!r}")
    return parse_decimal(number)


def _encoded(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF_HASHES:
        raise LogFormError(f"proof: expected at most {MAX_PROOF_HASHES} hashes, found {len(lines)}")
    return tuple(map(_hash, lines))


def _hash(line: str) -> bytes:
    decoded = _base64(line)
    if len(decoded) != HASH_BYTES:
        raise LogFormError(f"hash: expected {HASH_BYTES} bytes in base64, found {line[:60]!r}")
    return decoded


def _extra(line: str) -> bytes:
    decoded = _base64(line.removeprefix("extra "))
    if not 0 < len(decoded) <= MAX_EXTRA_BYTES:
        raise LogFormError(f"extra: expected 1 to {MAX_EXTRA_BYTES} bytes in base64, found {line[:60]!r}")
    return decoded


def _base64(text: str) -> bytes:
    """Return decoded base64, nothing where it is none or is not written in the one canonical way."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return decoded if base64.b64encode(decoded).decode() == text else b""
