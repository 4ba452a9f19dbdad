"""What the transparency log says of images and roots, and what a device asks of it before it takes them.

The Image repository's root may carry, in its field `tinyfleet_log`, the policy of the log: its key, its witnesses, and
how many of them must have cosigned. The root keys sign it, so whoever trusts the root knows whom to believe.

An entry is canonical JSON of an `ImageEntry` or a `RootEntry`; anybody who has the verified metadata computes the same
bytes. Verification that one is logged, in this order:
    1. form: the proof is one (C2SP tlog-proof), within its bounds;
    2. log: the checkpoint is of the policy's origin, and the log's key signed it;
    3. witnesses: the quorum of the policy's witnesses cosigned it, each counted once;
    4. inclusion: the entry is the leaf that the proof leads from to the checkpoint's root.
Not checked here: that checkpoints never shrink, which takes a memory (device_sim/update/transparency.py).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from tuf.api.metadata import Root, TargetFile

from protocol.document import Document, canonical_json
from protocol.errors import MalformedError, ProtocolError
from protocol.geometry import ImageKind
from protocol.merkle import check_inclusion, leaf_hash
from protocol.model import Sha256Hex
from protocol.notes import MAX_VKEY_CHARACTERS, NoteFormError, SignatureKind, VerifierKey, parse_vkey, verify_note
from protocol.tlog import Checkpoint, parse_checkpoint, parse_proof
from protocol.updates import DocumentKind, ImageCustom, image_custom

LOG_FIELD = "tinyfleet_log"  # field of the Image repository's root.signed
MAX_WITNESSES = 16
MAX_LOG_ENTRY_BYTES = 4096
_BOM_TARGET = re.compile(rf"documents/{DocumentKind.BOM}/([0-9a-f]{{64}})\.json\Z")


class LogPolicyError(MalformedError):
    """A policy is not of the expected form."""


class LogEntryError(MalformedError):
    """An entry is not of the expected form."""


class OriginError(ProtocolError):
    """The checkpoint is of another log."""


class LogKeyError(ProtocolError):
    """The log's key did not sign the checkpoint."""


class QuorumError(ProtocolError):
    """Too few of the policy's witnesses cosigned the checkpoint."""


Vkey = Annotated[str, Field(min_length=1, max_length=MAX_VKEY_CHARACTERS)]


class LogPolicy(Document):
    """Whom to believe about the log.

    Attributes:
        origin: of its checkpoints; also the name of its key (C2SP tlog-policy).
        log: verifier key of the log, as text.
        witnesses: verifier keys of the witnesses, as text; no two of one name or one key.
        quorum: how many of them must have cosigned a checkpoint.
    """

    origin: Annotated[str, Field(min_length=1, max_length=200)]
    log: Vkey
    witnesses: Annotated[tuple[Vkey, ...], Field(max_length=MAX_WITNESSES)] = ()
    quorum: Annotated[int, Field(ge=0, le=MAX_WITNESSES)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            keys = [self.log_key, *self.witness_keys]
        except NoteFormError as error:
            raise ValueError(str(error)) from error
        if self.origin != keys[0].name:
            raise ValueError(f"expected the log's key to be named {self.origin[:80]!r}, found {keys[0].name[:80]!r}")
        if len({key.public_key for key in keys}) < len(keys) or len({key.name for key in keys}) < len(keys):
            raise ValueError("expected every key and name once, found one twice")
        if self.quorum > len(self.witnesses):
            raise ValueError(f"expected a quorum of at most {len(self.witnesses)} witnesses, found {self.quorum}")
        return self

    @property
    def log_key(self) -> VerifierKey:
        """The log's key."""
        return parse_vkey(self.log, kind=SignatureKind.ED25519)

    @property
    def witness_keys(self) -> tuple[VerifierKey, ...]:
        """The witnesses' keys."""
        return tuple(parse_vkey(each, kind=SignatureKind.COSIGNATURE) for each in self.witnesses)


class ImageEntry(Document):
    """An image came into force.

    Attributes:
        target: name in the Image repository; it names the slot.
        name: of the image, name@version.
        sha256: of the package.
        bom: SHA-256 of the bill of materials, where the metadata names one.
    """

    kind: Literal["image"] = "image"
    target: Annotated[str, Field(min_length=1, max_length=300)]
    name: Annotated[str, Field(max_length=300)]
    sha256: Sha256Hex
    length: Annotated[int, Field(ge=0)]
    slot_kind: ImageKind
    hardware_ids: tuple[str, ...]
    security_counter: Annotated[int, Field(ge=0)]
    bom: Sha256Hex | None = None


class RootEntry(Document):
    """A root came into force.

    Attributes:
        repository: image or director.
        sha256: of root.json, all its bytes.
    """

    kind: Literal["root"] = "root"
    repository: Literal["image", "director"]
    version: Annotated[int, Field(ge=1)]
    sha256: Sha256Hex


LogEntry = ImageEntry | RootEntry
_ENTRY: TypeAdapter[LogEntry] = TypeAdapter(Annotated[LogEntry, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that the log signed and the quorum of witnesses cosigned.

    Attributes:
        witnessed: name of each witness of the policy that cosigned, and when: POSIX time, seconds.
    """

    checkpoint: Checkpoint
    witnessed: Mapping[str, int]


def target_entry(target: TargetFile) -> ImageEntry:
    """Return what the log says of an image target. Raises as `image_entry`.

    Raises:
        UpdateMetadataError: its custom metadata is malformed.
    """
    sha256 = target.hashes.get("sha256", "")
    return image_entry(target.path, image_custom(target), sha256=sha256, length=target.length)


def image_entry(target: str, custom: ImageCustom, *, sha256: str, length: int) -> ImageEntry:
    """Return what the log says of an image.

    Args:
        target: name in the Image repository.
        custom: what the Image repository says of it.
        sha256: of the package, hex.
        length: of the package, bytes.

    Raises:
        LogEntryError: the digest is none, or its bill of materials is no such target.
    """
    try:
        return ImageEntry(
            target=target,
            name=custom.name,
            sha256=sha256,
            length=length,
            slot_kind=custom.slot_kind,
            hardware_ids=custom.hardware_ids,
            security_counter=custom.security_counter,
            bom=None if custom.bom is None else _bom_sha256(custom.bom),
        )
    except ValidationError as error:
        raise LogEntryError(f"target {target[:80]}: {error.errors()[0]['msg']}") from error


def entry_bytes(entry: LogEntry) -> bytes:
    """Return the bytes that are logged."""
    return canonical_json(entry)


def entry_hash(entry: LogEntry) -> bytes:
    """Return the leaf hash of an entry, 32 bytes: what its proof is asked for by."""
    return leaf_hash(entry_bytes(entry))


def parse_entry(unverified: bytes) -> LogEntry:
    """Parse an entry.

    Raises:
        LogEntryError: it is none, or not in canonical form.
    """
    if len(unverified) > MAX_LOG_ENTRY_BYTES:
        raise LogEntryError(f"entry: expected at most {MAX_LOG_ENTRY_BYTES} bytes, found {len(unverified)}")
    try:
        entry = _ENTRY.validate_json(unverified)
    except ValidationError as error:
        raise LogEntryError(f"entry: {error.errors(include_url=False, include_input=False)[0]['msg']}") from error
    if entry_bytes(entry) != unverified:
        raise LogEntryError("entry: expected canonical JSON, found another form")
    return entry


def parse_policy(unverified: object) -> LogPolicy:
    """Parse the policy in a root's field.

    Raises:
        LogPolicyError: it is none.
    """
    try:
        return LogPolicy.model_validate_json(json.dumps(unverified))
    except (ValidationError, TypeError) as error:
        found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise LogPolicyError(f"log policy: {found}") from error


def policy_of(root: Root) -> LogPolicy | None:
    """Return the policy that a verified Image root carries, or None.

    Raises:
        LogPolicyError: it carries something else.
    """
    field = root.unrecognized_fields.get(LOG_FIELD)
    return None if field is None else parse_policy(field)


def policy_field(policy: LogPolicy) -> dict[str, object]:
    """Return the root's field that carries a policy."""
    return {LOG_FIELD: policy.model_dump(mode="json")}


def verify_checkpoint(unverified: bytes, policy: LogPolicy) -> VerifiedCheckpoint:
    """Verify a checkpoint by a policy: steps 2 and 3.

    Raises:
        NoteFormError, LogFormError: it is none.
        NoteSignatureError: a key of the policy is named by a signature that it did not make.
        OriginError, LogKeyError, QuorumError: the broken rule.
    """
    log, witnesses = policy.log_key, policy.witness_keys
    note = verify_note(unverified, [log, *witnesses])
    checkpoint = parse_checkpoint(note.text)
    # Step 2: log.
    if checkpoint.origin != policy.origin:
        raise OriginError(f"checkpoint: expected origin {policy.origin!r}, found {checkpoint.origin[:80]!r}")
    if log not in note.signed_by:
        raise LogKeyError(f"checkpoint: expected a signature by {policy.log}, found none")
    # Step 3: witnesses.
    witnessed = {key.name: at for key, at in note.signed_by.items() if key in witnesses}
    if len(witnessed) < policy.quorum:
        raise QuorumError(
            f"checkpoint of size {checkpoint.size}: expected {policy.quorum} of {len(witnesses)} witnesses, "
            f"found {len(witnessed)}: {', '.join(sorted(witnessed)) or 'none'}"
        )
    return VerifiedCheckpoint(checkpoint, witnessed)


def verify_logged(entry: LogEntry, unverified_proof: bytes, policy: LogPolicy) -> VerifiedCheckpoint:
    """Verify that an entry is in the log: the steps of the module's docstring.

    Args:
        entry: computed from verified metadata.
        unverified_proof: C2SP tlog-proof.
        policy: of a verified root.

    Returns:
        the checkpoint that the proof leads to.

    Raises:
        LogFormError, NoteFormError: step 1.
        NoteSignatureError, OriginError, LogKeyError: step 2 or 3.
        QuorumError: step 3.
        TreeFormError, InclusionError: step 4.
    """
    # Step 1: form.
    proof = parse_proof(unverified_proof)
    verified = verify_checkpoint(proof.checkpoint, policy)
    # Step 4: inclusion.
    head = verified.checkpoint
    check_inclusion(entry_hash(entry), proof.index, proof.hashes, size=head.size, root=head.root)
    return verified


def _bom_sha256(target: str) -> str:
    match = _BOM_TARGET.match(target)
    return "" if match is None else match[1]
