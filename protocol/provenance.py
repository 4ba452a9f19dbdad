"""Where a release's images come from: an in-toto statement with SLSA provenance, in a DSSE envelope.

Statement: in-toto.io/Statement/v1, payload type application/vnd.in-toto+json; predicate: slsa.dev/provenance/v1. The
subjects are the release's image packages by SHA-256. A package key signs the envelope, so that who may make images
that boot says what they were made of. It is their word: nothing here proves that a build did what it says.

Verification of an unverified envelope (`verify_provenance`): protocol/document.py, and
    5. each subject is named once, by SHA-256.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import FailFast, Field

from protocol.cyclonedx import Address, Part, Text, Word
from protocol.document import DocumentError, Moment, sign_document, verify_document
from protocol.model import Sha256Hex
from protocol.signing import Signer
from protocol.updates import ReleaseName

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_PROVENANCE_BYTES = 256 * 1024
_MAX_RESOURCES = 256


class ProvenanceError(DocumentError):
    """A provenance statement breaks a rule of its form."""


class Digests(Part):
    """Digests of a resource: of bytes, or of a git commit."""

    sha256: Sha256Hex | None = None
    git_commit: Annotated[str | None, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")] = None


class Resource(Part):
    """A file or a source (in-toto's ResourceDescriptor)."""

    name: Word | None = None
    uri: Address | None = None
    digest: Digests


Resources = Annotated[tuple[Resource, ...], Field(max_length=_MAX_RESOURCES), FailFast()]


class ReleaseParameters(Part):
    """What the operator asked for.

    Attributes:
        command: as it was given, but for the folders of files; without secrets: none is an argument.
    """

    release: ReleaseName
    command: Annotated[tuple[Text, ...], Field(max_length=_MAX_RESOURCES), FailFast()] = ()


class BuildDefinition(Part):
    """What was to be made, of what."""

    build_type: Literal["urn:tinyfleet:release:1"] = "urn:tinyfleet:release:1"
    external_parameters: ReleaseParameters
    resolved_dependencies: Resources = ()


class BuilderVersion(Part):
    """Which tinyfleet it was."""

    tinyfleet: Word


class Builder(Part):
    """Who made it: the operator's command line."""

    id: Literal["urn:tinyfleet:cli"] = "urn:tinyfleet:cli"
    version: BuilderVersion


class BuildMetadata(Part):
    """When it was made."""

    finished_on: Moment


class RunDetails(Part):
    """How it was made."""

    builder: Builder
    metadata: BuildMetadata


class Predicate(Part):
    """SLSA provenance."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Provenance(Part):
    """An in-toto statement about a release's image packages."""

    statement_type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: Annotated[Resources, Field(min_length=1)]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
    predicate: Predicate

    @property
    def release(self) -> str:
        """The release's name."""
        return self.predicate.build_definition.external_parameters.release

    @property
    def image_digests(self) -> frozenset[str]:
        """SHA-256 of the image packages, hex."""
        return frozenset(each.digest.sha256 for each in self.subject if each.digest.sha256 is not None)


def make_provenance(
    parameters: ReleaseParameters,
    subject: Sequence[Resource],
    materials: Sequence[Resource],
    *,
    tinyfleet: str,
    finished_on: datetime,
) -> Provenance:
    """Say where a release's images come from.

    Args:
        parameters: what was asked for.
        subject: the image packages.
        materials: what went into them.
        tinyfleet: version of tinyfleet.
        finished_on: UTC, aware.
    """
    return Provenance(
        subject=tuple(subject),
        predicate=Predicate(
            build_definition=BuildDefinition(external_parameters=parameters, resolved_dependencies=tuple(materials)),
            run_details=RunDetails(
                builder=Builder(version=BuilderVersion(tinyfleet=tinyfleet)),
                metadata=BuildMetadata(finished_on=finished_on),
            ),
        ),
    )


def sign_provenance(provenance: Provenance, signer: Signer) -> bytes:
    """Sign a statement with the package key; returns the DSSE envelope."""
    return sign_document(provenance, PAYLOAD_TYPE, signer)


def verify_provenance(unverified_envelope: bytes, trusted_keys: Sequence[ec.EllipticCurvePublicKey]) -> Provenance:
    """Verify an envelope and return the statement.

    Raises:
        DocumentError: malformed, or step 5.
        EnvelopeSignatureError: no package key signed it.
    """
    provenance = verify_document(
        unverified_envelope, PAYLOAD_TYPE, Provenance, trusted_keys=trusted_keys, max_bytes=MAX_PROVENANCE_BYTES
    )
    # Step 5: subjects.
    named = [each.digest.sha256 for each in provenance.subject]
    if None in named or len(set(named)) != len(named):
        raise ProvenanceError("provenance: expected each subject once and by SHA-256, found another form")
    return provenance
