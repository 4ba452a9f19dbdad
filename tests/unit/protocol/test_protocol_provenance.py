"""Provenance: an in-toto statement that a package key signed, and no other."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from protocol.cyclonedx import Part
from protocol.document import DocumentError, EnvelopeSignatureError, sign_document
from protocol.provenance import (
    PAYLOAD_TYPE,
    Digests,
    Provenance,
    ProvenanceError,
    ReleaseParameters,
    Resource,
    make_provenance,
    sign_provenance,
    verify_provenance,
)
from protocol.signing import SoftwareSigner

PACKAGE, STRANGER = SoftwareSigner.generate(), SoftwareSigner.generate()
IMAGE = Resource(name="images/a7/application/1.img", digest=Digests(sha256="ab" * 32))
SOURCE = Resource(uri="git+https://example.org/app", digest=Digests(git_commit="cd" * 20))


def provenance(*subject: Resource) -> Provenance:
    """Of a release with some images."""
    return make_provenance(
        ReleaseParameters(release="main", command=("tinyfleet", "release", "create")),
        subject,
        (SOURCE,),
        tinyfleet="1",
        finished_on=datetime(2026, 11, 23, tzinfo=UTC),
    )


def statement(envelope: bytes) -> dict[str, Any]:
    """What the envelope holds."""
    content: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return content


def test_signed_provenance_comes_back() -> None:
    """With the names of in-toto and SLSA."""
    envelope = sign_provenance(provenance(IMAGE), PACKAGE)
    verified = verify_provenance(envelope, [STRANGER.public_key, PACKAGE.public_key])
    assert verified == provenance(IMAGE)
    assert (verified.release, verified.image_digests) == ("main", frozenset({"ab" * 32}))
    content = statement(envelope)
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    assert content["subject"] == [{"name": IMAGE.name, "digest": {"sha256": "ab" * 32}}]
    definition = content["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [{"uri": SOURCE.uri, "digest": {"gitCommit": "cd" * 20}}]
    assert content["predicate"]["runDetails"]["builder"] == {"id": "urn:tinyfleet:cli", "version": {"tinyfleet": "1"}}


def test_provenance_by_a_stranger_is_refused() -> None:
    """Only package keys say what images were made of."""
    with pytest.raises(EnvelopeSignatureError, match="expected a signature by one of 1 trusted keys"):
        verify_provenance(sign_provenance(provenance(IMAGE), STRANGER), [PACKAGE.public_key])


def test_changed_provenance_is_refused() -> None:
    """The signature covers the statement."""
    envelope = json.loads(sign_provenance(provenance(IMAGE), PACKAGE))
    other = base64.b64decode(envelope["payload"]).replace(b"abab", b"abac", 1)
    envelope["payload"] = base64.b64encode(other).decode()
    with pytest.raises(EnvelopeSignatureError):
        verify_provenance(json.dumps(envelope).encode(), [PACKAGE.public_key])


def test_subject_that_stands_twice_or_has_no_hash_is_refused() -> None:
    """Nobody is to wonder which image is meant."""
    for subject in ((IMAGE, IMAGE), (SOURCE,)):
        with pytest.raises(ProvenanceError, match="expected each subject once and by SHA-256"):
            verify_provenance(sign_provenance(provenance(*subject), PACKAGE), [PACKAGE.public_key])


def test_other_documents_in_a_provenance_envelope_are_refused() -> None:
    """Signed by the right key, of the right type, and still something else."""
    with pytest.raises(DocumentError, match="Provenance: subject"):
        verify_provenance(sign_document(Part(), PAYLOAD_TYPE, PACKAGE), [PACKAGE.public_key])
