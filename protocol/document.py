"""JSON documents: canonical bytes, strict parsing, and DSSE envelopes that sign them.

Vouchers, golden vectors and version manifests are DSSE envelopes (github.com/secure-systems-lab/dsse) around one
JSON document. Verification of an unverified envelope, in this order:
    1. length: at most `max_bytes`;
    2. form: an envelope of the expected payload type;
    3. signature: by one of the trusted keys, over the DSSE pre-authentication encoding;
    4. document: the payload parses as the expected type, unknown fields refused.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError

from protocol.errors import MalformedError, SignatureError
from protocol.signing import Signer, TufSigner, tuf_key

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_ERRORS = 1000
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def _check_moment(value: datetime) -> datetime:
    if not FIRST_MOMENT <= value <= LAST_MOMENT:
        raise ValueError(f"expected a time from {FIRST_MOMENT} to {LAST_MOMENT}, found another")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_check_moment)]
"""A time that can be converted to UTC, and that databases hold."""


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("expected printable characters alone, found others")
    return value


Printable = Annotated[str, AfterValidator(_check_printable)]
"""Text that a terminal shows as it is: no control characters, nothing that turns the direction of writing."""
Name = Annotated[Printable, Field(min_length=1, max_length=50)]
"""What people call a catalog or a manufacturer."""


class Document(BaseModel):
    """A JSON document on a wire: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DocumentError(MalformedError):
    """A JSON document or its envelope is not of the expected form."""


class EnvelopeSignatureError(SignatureError):
    """No trusted key signed the envelope."""


DocumentT = TypeVar("DocumentT", bound=Document)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(document: Document) -> bytes:
    """Return sorted, compact JSON in UTF-8, so that equal documents have equal bytes."""
    return _CANONICAL.encode(document.model_dump(mode="json")).encode()


def parse_document(
    unverified: bytes, document_type: type[DocumentT], *, max_bytes: int = MAX_DOCUMENT_BYTES
) -> DocumentT:
    """Parse a JSON document strictly.

    Raises:
        DocumentError: too long, not JSON, or not of the expected type; names the first wrong field.
    """
    if len(unverified) > max_bytes:
        raise DocumentError(f"{document_type.__name__}: expected at most {max_bytes} bytes, found {len(unverified)}")
    try:
        return document_type.model_validate_json(unverified)
    except ValidationError as error:
        cause = error if error.error_count() <= MAX_ERRORS else None  # a log would write them all
        raise DocumentError(f"{document_type.__name__}: {_first_error(error)}") from cause


def _first_error(error: ValidationError) -> str:
    """Return the first error's text; of very many, which nobody makes by accident, pydantic would write each."""
    if error.error_count() > MAX_ERRORS:
        return f"expected at most {MAX_ERRORS} wrong fields, found {error.error_count()}"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "document"
    return f"{where}: {first['msg']}"


def sign_document(document: Document, payload_type: str, *signers: Signer) -> bytes:
    """Wrap a document into a signed DSSE envelope, JSON bytes."""
    envelope = Envelope(canonical_json(document), payload_type, {})
    for signer in signers:
        envelope.sign(TufSigner(signer))
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()


def verify_document(
    unverified_envelope: bytes,
    payload_type: str,
    document_type: type[DocumentT],
    *,
    trusted_keys: Sequence[ec.EllipticCurvePublicKey],
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> DocumentT:
    """Verify an envelope and return the document inside.

    Raises:
        DocumentError: steps 1, 2 or 4.
        EnvelopeSignatureError: step 3.
    """
    envelope = _parse_envelope(unverified_envelope, payload_type, max_bytes=max_bytes)
    # Step 3: signature.
    try:
        envelope.verify([tuf_key(key) for key in trusted_keys], 1)
    except (VerificationError, ValueError) as error:
        raise EnvelopeSignatureError(
            f"{document_type.__name__}: expected a signature by one of {len(trusted_keys)} trusted keys, found none"
        ) from error
    # Step 4: document.
    return parse_document(envelope.payload, document_type, max_bytes=max_bytes)


def peek_document(
    unverified_envelope: bytes,
    payload_type: str,
    document_type: type[DocumentT],
    *,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> DocumentT:
    """Return what an envelope says without asking who signed it; steps 1, 2 and 4.

    For whoever has no key to ask by, or learns from the document which key to ask by and asks then.

    Raises:
        DocumentError: one of these steps.
    """
    envelope = _parse_envelope(unverified_envelope, payload_type, max_bytes=max_bytes)
    return parse_document(envelope.payload, document_type, max_bytes=max_bytes)


def _parse_envelope(unverified: bytes, payload_type: str, *, max_bytes: int) -> Envelope:
    # Step 1: length.
    if len(unverified) > max_bytes:
        raise DocumentError(f"envelope: expected at most {max_bytes} bytes, found {len(unverified)}")
    # Step 2: form.
    try:
        envelope = Envelope.from_dict(json.loads(unverified))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as error:
        raise DocumentError(f"envelope: expected a DSSE envelope, found {type(error).__name__}") from error
    if envelope.payload_type != payload_type:
        raise DocumentError(f"payload type: expected {payload_type}, found {str(envelope.payload_type)[:80]}")
    return envelope
