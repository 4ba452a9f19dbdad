"""The signed transcripts of a ceremony: what was made, in which order, and the digest of each thing.

operator/ceremony/ holds declaration.yaml, journal.json while a ceremony runs, and 0001.json, 0002.json, …: DSSE
envelopes of canonical JSON. The first is the ceremony and signed by the root; each later one tells of a certificate
that was issued after it and is signed by the key that issued it. Verification, in this order:
    1. sequence: the files are numbered from 1 without a gap;
    2. signature: the first by the root; a later one by the root, or by the authority whose files it names;
    3. order: each states its number and the SHA-256 of the file before it;
    4. steps: numbered, and each states the SHA-256 of the step before it, as canonical JSON.
Not checked here: the files that the steps name; pki/ceremony_check.py does.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, Field

from pki.errors import TranscriptError
from pki.files import PUBLIC_MODE, create_file
from pki.roles import OfflineKey
from protocol.document import Document, canonical_json, sign_document, verify_document
from protocol.errors import ProtocolError
from protocol.signing import Signer

CEREMONY_FOLDER = "ceremony"
PAYLOAD_TYPE = "application/vnd.tinyfleet.ceremony+json"
NOTHING_BEFORE = "0" * 64
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SignerKeys = Mapping[OfflineKey, ec.EllipticCurvePublicKey]

# What an authority below the root may tell of: the later generations of what it issues.
_MAY_TELL: Mapping[OfflineKey, re.Pattern[str]] = {
    OfflineKey.ROOT: re.compile(r"(?s:.*)"),
    OfflineKey.SERVER_CA: re.compile(r"(request service/csr|certificate service/certificates)/server-[0-9]{1,4}\.pem"),
    OfflineKey.FACTORY: re.compile(r"(request service/csr|certificate service/certificates)/ocsp-[0-9]{1,4}\.pem"),
}


class StepKind(StrEnum):
    """What a step made or took."""

    DECLARATION = "declaration"
    KEY = "key"
    REQUEST = "request"  # a CSR of the service
    CERTIFICATE = "certificate"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made, or found made by an interrupted run.

    Attributes:
        name: path below the data directory; of a key its role.
        sha256: of the file; of a key that of its SubjectPublicKeyInfo, DER.
        fingerprint: of a certificate the SHA-256 of its DER, of a request that of its key.
        store: of a key the store that holds it.
        adopted: was there before the ceremony began, and is not what the declaration says.
    """

    kind: StepKind
    name: str
    sha256: str
    fingerprint: str = ""
    store: str = ""
    adopted: bool = False


class Step(Document):
    """A step as a transcript has it; see `Made`."""

    number: Annotated[int, Field(ge=1)]
    at: AwareDatetime
    kind: StepKind
    name: str
    sha256: Sha256
    fingerprint: str
    store: str
    adopted: bool
    previous_sha256: Sha256


class Transcript(Document):
    """A ceremony, or a later act.

    Attributes:
        previous_sha256: of the transcript before, the whole file.
        act: "ceremony", or what was issued.
        declaration_sha256: of declaration.yaml.
        began_at: every certificate of the act is valid from here on.
    """

    sequence: Annotated[int, Field(ge=1)]
    previous_sha256: Sha256
    act: str
    declaration_sha256: Sha256
    participants: tuple[str, ...]
    began_at: AwareDatetime
    ended_at: AwareDatetime
    steps: tuple[Step, ...]


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of bytes, hex."""
    return hashlib.sha256(content).hexdigest()


def with_step(steps: Sequence[Step], made: Made, *, at: datetime) -> tuple[Step, ...]:
    """Return the steps and the next one, bound to the last."""
    step = Step(
        number=len(steps) + 1,
        at=at,
        kind=made.kind,
        name=made.name,
        sha256=made.sha256,
        fingerprint=made.fingerprint,
        store=made.store,
        adopted=made.adopted,
        previous_sha256=_step_hash(steps),
    )
    return (*steps, step)


def check_steps(steps: Sequence[Step]) -> None:
    """Verify the chain of steps.

    Raises:
        TranscriptError: step 4.
    """
    for index, step in enumerate(steps):
        expected = _step_hash(steps[:index])
        if step.number != index + 1 or step.previous_sha256 != expected:
            raise TranscriptError(
                f"transcript: expected step {index + 1} after {expected[:16]}…, "
                f"found step {step.number} after {step.previous_sha256[:16]}…"
            )


def transcript_files(operator_dir: Path) -> list[Path]:
    """Return the transcripts of an operator's folder, the ceremony's first."""
    return sorted((operator_dir / CEREMONY_FOLDER).glob("[0-9][0-9][0-9][0-9].json"))


def add_transcript(
    operator_dir: Path,
    signer: Signer,
    *,
    act: str,
    declaration_sha256: str,
    participants: Sequence[str],
    began_at: datetime,
    ended_at: datetime,
    steps: Sequence[Step],
) -> Path:
    """Sign and write the next transcript of an operator's folder; see `Transcript`.

    Raises:
        FileExistsError: another command has just written one.
    """
    before = transcript_files(operator_dir)
    transcript = Transcript(
        sequence=len(before) + 1,
        previous_sha256=sha256_hex(before[-1].read_bytes()) if before else NOTHING_BEFORE,
        act=act,
        declaration_sha256=declaration_sha256,
        participants=tuple(participants),
        began_at=began_at,
        ended_at=ended_at,
        steps=tuple(steps),
    )
    path = operator_dir / CEREMONY_FOLDER / f"{transcript.sequence:04}.json"
    create_file(path, sign_document(transcript, PAYLOAD_TYPE, signer), mode=PUBLIC_MODE)
    return path


def read_transcripts(operator_dir: Path, *, keys: SignerKeys) -> list[Transcript]:
    """Verify the transcripts of an operator's folder.

    Args:
        operator_dir: holds ceremony/.
        keys: public keys of the root and of the authorities that may sign later transcripts.

    Raises:
        TranscriptError: any step; or there is none.
    """
    return list(_verified(transcript_files(operator_dir), keys))


def _verified(files: Sequence[Path], keys: SignerKeys) -> Iterator[Transcript]:
    if not files:
        raise TranscriptError(
            "transcript: expected operator/ceremony/0001.json of a finished ceremony, found none; "
            "a folder of an earlier version gets one by `tinyfleet pki ceremony FILE --adopt`"
        )
    previous = NOTHING_BEFORE
    for number, path in enumerate(files, 1):
        # Step 1: sequence.
        if path.name != f"{number:04}.json":
            raise TranscriptError(f"transcript: expected {number:04}.json, found {path.name}")
        content = path.read_bytes()
        transcript = _signed(content, path.name, keys if number > 1 else {OfflineKey.ROOT: keys[OfflineKey.ROOT]})
        # Step 3: order.
        if (transcript.sequence, transcript.previous_sha256) != (number, previous):
            raise TranscriptError(
                f"{path.name}: expected number {number} after {previous[:16]}…, "
                f"found {transcript.sequence} after {transcript.previous_sha256[:16]}…"
            )
        # Step 4: steps.
        check_steps(transcript.steps)
        previous = sha256_hex(content)
        yield transcript


def _signed(content: bytes, name: str, keys: SignerKeys) -> Transcript:
    # Step 2: signature.
    refusal: ProtocolError | None = None
    for role, key in keys.items():
        try:
            transcript = verify_document(content, PAYLOAD_TYPE, Transcript, trusted_keys=[key])
        except ProtocolError as error:
            refusal = error
            continue
        told = [f"{step.kind} {step.name}" for step in transcript.steps]
        if strange := [each for each in told if not _MAY_TELL[role].fullmatch(each)]:
            raise TranscriptError(f"{name}: expected what {role} issues, found {strange[0]}")
        return transcript
    raise TranscriptError(f"{name}: expected a transcript signed by {', '.join(keys)}, found: {refusal}") from refusal


def _step_hash(steps: Sequence[Step]) -> str:
    return sha256_hex(canonical_json(steps[-1])) if steps else NOTHING_BEFORE
