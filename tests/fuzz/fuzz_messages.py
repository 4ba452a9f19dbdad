"""Messages of both directions: the JSON documents of the device API, and a service's errors as a device reads them."""

from device_sim.network.ports import HttpResponse
from device_sim.network.problems import unexpected
from protocol.document import Document, canonical_json, parse_document
from protocol.errors import ProtocolError
from protocol.geometry import Core, Slot
from protocol.messages import (
    ActionReport,
    ActionState,
    AttestationReply,
    AttestationRequest,
    ClaimProof,
    InferenceRecord,
    NonceReply,
    NonceRequest,
    PollReply,
)
from protocol.scenario import Scenario
from tests.fuzz.target import Target
from tests.unit.pki.pki_builder import NOW

_GUID, _DIGEST = "8a7d1bbd-3c3f-4b0a-9d0e-6d3c5f6a7b8c", "a" * 64
_SEEDS: tuple[Document, ...] = (
    NonceRequest(device_nonce=bytes(32)),
    NonceReply(nonce=bytes(32), expires_at=NOW, signed_time=b"{}"),
    AttestationRequest(evidence=b"evidence", csr=b"csr"),
    AttestationReply(certificate_chain="PEM", not_after=NOW),
    PollReply(action_id=_GUID, next_poll_seconds=1.5),
    ActionReport(action_id=_GUID, sequence=1, state=ActionState.CONFIRMED, digests={Slot.OS: _DIGEST}),
    InferenceRecord(at=NOW, core=Core.M4_0, sequence=1, model="name@1.0.0", model_sha256=_DIGEST),
    ClaimProof(device_id="a" * 128, idevid_chain="PEM", evidence=b"evidence"),
    Scenario(),
)


def _message_target(seed: Document) -> Target:
    def consume(unverified: bytes) -> None:
        """What was taken can be written, and means the same when it is read again."""
        document = parse_document(unverified, type(seed))
        if parse_document(canonical_json(document), type(seed)) != document:
            raise AssertionError("expected the document to survive its own encoding, found another")

    return Target(f"message-{type(seed).__name__.lower()}", consume, (ProtocolError,), (canonical_json(seed),))


def _problem(unverified: bytes) -> None:
    head, _, body = unverified.partition(b"\n")
    response = HttpResponse(429, {"retry-after": head.decode("latin-1")}, body)
    pause = unexpected("path", response, expected=200).retry_after_seconds
    if not 0 <= pause <= 3600:
        raise AssertionError(f"expected a pause of at most an hour, found {pause}")


TARGETS = (
    *map(_message_target, _SEEDS),
    Target("problem", _problem, (), (b'120\n{"title": "Too many requests", "detail": "later"}',)),
)
