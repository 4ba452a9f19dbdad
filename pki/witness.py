"""A witness of transparency logs: cosigns what only grows (C2SP tlog-witness, tlog-cosignature).

It keeps one checkpoint of each log that it knows, the newest that it has cosigned. Verification of an unverified
add-checkpoint request, in this order, each with the status that the specification gives it:
    1. form: an old size, a proof, a checkpoint (400);
    2. origin: of a log that the witness knows (404);
    3. signature: by the log's key (403);
    4. sizes: the old one is not above the checkpoint's (400), and is that of the kept checkpoint (409);
    5. consistency: the proof leads from the kept checkpoint to the new one; an empty tree has the empty root (422).
What passes is kept, durably and whole, before the cosignature leaves: a witness that forgets could be shown two pasts.
"""

import hashlib
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path

from pki.errors import WitnessRefusedError, WitnessStateError
from pki.files import PUBLIC_MODE, replace_file
from protocol.errors import ProtocolError
from protocol.merkle import EMPTY_ROOT, check_consistency
from protocol.notes import (
    Cosigner,
    NoteSignatureError,
    UnverifiedNote,
    VerifiedNote,
    VerifierKey,
    parse_note,
    verify_note,
)
from protocol.tlog import AddCheckpoint, Checkpoint, parse_add_checkpoint, parse_checkpoint

CHECKPOINT_FILE = "checkpoint"
_NOTHING = Checkpoint("", 0, EMPTY_ROOT)


class WitnessState:
    """The checkpoints that a witness has cosigned, a folder per log named by the SHA-256 of its origin.

    Args:
        folder: one process at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, origin_sha256: str) -> bytes | None:
        """Return the newest checkpoint of a log with the cosignature, or None.

        Raises:
            WitnessStateError: it cannot be read; None would let the log begin anew.
        """
        try:
            return self._path(origin_sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WitnessStateError(f"witness: expected to read what it has cosigned, found: {error}") from error

    def write(self, origin_sha256: str, checkpoint: bytes) -> None:
        """Keep a checkpoint, on disk when this returns.

        Raises:
            WitnessStateError: it cannot be written.
        """
        path = self._path(origin_sha256)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, checkpoint, mode=PUBLIC_MODE)
        except OSError as error:
            raise WitnessStateError(f"witness: expected to keep what it cosigns, found: {error}") from error

    def _path(self, origin_sha256: str) -> Path:
        return self._folder / origin_sha256 / CHECKPOINT_FILE


class CheckpointWitness:
    """Cosigns checkpoints of the logs that it knows.

    Args:
        cosigner: the witness's key.
        logs: keys of the logs; the name of each is its origin.
        state: what has been cosigned.
    """

    def __init__(self, cosigner: Cosigner, logs: Iterable[VerifierKey], state: WitnessState) -> None:
        self._cosigner = cosigner
        self._logs: Mapping[str, VerifierKey] = {log.name: log for log in logs}
        self._state = state

    def add_checkpoint(self, unverified: bytes, *, at: int) -> str:
        """Verify a request and cosign its checkpoint; calls must follow one another.

        Args:
            unverified: body of the request.
            at: POSIX time, seconds.

        Returns:
            the cosignature's line.

        Raises:
            WitnessRefusedError: a step refused.
            WitnessStateError: the state cannot be read or written.
        """
        request, log, note = self._checked(unverified)
        head, kept = parse_checkpoint(note.text), self._kept(log)
        # Step 4: sizes.
        if request.old_size > head.size:
            raise WitnessRefusedError(HTTPStatus.BAD_REQUEST, f"old size: expected at most {head.size}")
        if request.old_size != kept.size:
            raise WitnessRefusedError(HTTPStatus.CONFLICT, f"old size: expected {kept.size}", size=kept.size)
        # Step 5: consistency.
        if head.size == 0 and head.root != EMPTY_ROOT:
            raise WitnessRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "root: expected that of an empty tree")
        try:
            check_consistency(request.hashes, old_size=kept.size, old_root=kept.root, size=head.size, root=head.root)
        except ProtocolError as error:
            raise WitnessRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        signature = self._cosigner.sign(note.text, at=at)
        self._state.write(_sha256(log), UnverifiedNote(note.text, (*note.signatures, signature)).encode())
        return signature.line()

    def checkpoint(self, origin_sha256: str) -> bytes | None:
        """Return the newest checkpoint of a log with its and the witness's signature, or None.

        Args:
            origin_sha256: of the log's origin, hex.
        """
        known = {_sha256(log) for log in self._logs.values()}
        return self._state.read(origin_sha256) if origin_sha256 in known else None

    def _checked(self, unverified: bytes) -> tuple[AddCheckpoint, VerifierKey, VerifiedNote]:
        # Step 1: form.
        try:
            request = parse_add_checkpoint(unverified)
        except ProtocolError as error:
            raise WitnessRefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
        # Step 2: origin.
        log = self._logs.get(parse_checkpoint(parse_note(request.checkpoint).text).origin)
        if log is None:
            raise WitnessRefusedError(HTTPStatus.NOT_FOUND, "origin: expected a log that this witness knows")
        # Step 3: signature.
        try:
            note = verify_note(request.checkpoint, [log])
        except NoteSignatureError as error:
            raise WitnessRefusedError(HTTPStatus.FORBIDDEN, str(error)) from error
        if log not in note.signed_by:
            raise WitnessRefusedError(HTTPStatus.FORBIDDEN, f"checkpoint: expected a signature by {log}")
        return request, log, note

    def _kept(self, log: VerifierKey) -> Checkpoint:
        kept = self._state.read(_sha256(log))
        if kept is None:
            return _NOTHING
        try:
            note = verify_note(kept, [log, self._cosigner.key])
            head = parse_checkpoint(note.text)
        except ProtocolError as error:
            raise WitnessStateError(f"witness: expected a checkpoint that it has cosigned, found: {error}") from error
        if {log, self._cosigner.key} != set(note.signed_by) or head.origin != log.name:
            raise WitnessStateError("witness: expected a checkpoint by the log and itself, found another")
        return head


def _sha256(log: VerifierKey) -> str:
    return hashlib.sha256(log.name.encode()).hexdigest()
