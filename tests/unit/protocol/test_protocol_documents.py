"""JSON documents and their signed envelopes: strict, and nothing but our errors."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.cyclonedx import Bom, Vex
from protocol.document import (
    MAX_ERRORS,
    Document,
    DocumentError,
    EnvelopeSignatureError,
    canonical_json,
    parse_document,
    sign_document,
    verify_document,
)
from protocol.errors import ProtocolError
from protocol.messages import (
    ActionReport,
    ActionState,
    AttestationRequest,
    ClaimProof,
    InferenceRecord,
    NonceReply,
    NonceRequest,
    PollReply,
    SignedTime,
    VersionManifest,
)
from protocol.model import GoldenVectors, ModelCard
from protocol.provenance import Provenance
from protocol.scenario import Scenario
from protocol.signing import SoftwareSigner, TufSigner, tuf_key
from protocol.updates import DirectorCustom, ImageCustom, ReleaseDocument
from protocol.voucher import Voucher

SIGNER = SoftwareSigner.generate()
KEYS = [SIGNER.public_key]
DOCUMENT = SignedTime(device_nonce=b"n" * 32, now=datetime(2026, 3, 1, tzinfo=UTC))
TYPE = "application/vnd.tinyfleet.time+json"
ENVELOPE = sign_document(DOCUMENT, TYPE, SIGNER)
DOCUMENT_TYPES: tuple[type[Document], ...] = (
    ActionReport, AttestationRequest, ClaimProof, DirectorCustom, GoldenVectors, ImageCustom, InferenceRecord,
    ModelCard, NonceReply, NonceRequest, PollReply, ReleaseDocument, Scenario, SignedTime, VersionManifest, Voucher,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)


def _verify(envelope: bytes) -> SignedTime:
    return verify_document(envelope, TYPE, SignedTime, trusted_keys=KEYS, max_bytes=4096)


def _envelope(**changes: object) -> bytes:
    return json.dumps(json.loads(ENVELOPE) | changes).encode()


def test_signed_document_comes_back() -> None:
    """One of several trusted keys is enough."""
    others = [SoftwareSigner.generate().public_key, *KEYS]
    assert verify_document(ENVELOPE, TYPE, SignedTime, trusted_keys=others) == DOCUMENT


def test_canonical_json_is_sorted_and_compact() -> None:
    """Equal documents have equal bytes."""
    assert canonical_json(DOCUMENT) == (
        b'{"device_nonce":"' + base64.b64encode(b"n" * 32) + b'","now":"2026-03-01T00:00:00Z"}'
    )


def test_envelope_of_another_key_is_refused() -> None:
    """Also when no key is trusted."""
    for keys in ([SoftwareSigner.generate().public_key], []):
        with pytest.raises(EnvelopeSignatureError, match=f"by one of {len(keys)} trusted keys, found none"):
            verify_document(ENVELOPE, TYPE, SignedTime, trusted_keys=keys)


def test_envelope_of_another_payload_type_is_refused() -> None:
    """The signed time is no voucher."""
    with pytest.raises(DocumentError, match="payload type: expected other, found application/vnd"):
        verify_document(ENVELOPE, "other", SignedTime, trusted_keys=KEYS)


def test_payload_type_is_under_the_signature() -> None:
    """Relabelled, the signature no longer holds."""
    relabelled = _envelope(payloadType="other")
    with pytest.raises(EnvelopeSignatureError):
        verify_document(relabelled, "other", SignedTime, trusted_keys=KEYS)


def test_oversize_envelope_is_refused() -> None:
    """Before it is parsed."""
    with pytest.raises(DocumentError, match="envelope: expected at most 4096 bytes, found 5000"):
        _verify(bytes(5000))


def test_oversize_document_is_refused() -> None:
    """Before it is parsed."""
    with pytest.raises(DocumentError, match="SignedTime: expected at most 10 bytes, found 11"):
        parse_document(bytes(11), SignedTime, max_bytes=10)


def test_unknown_field_is_named() -> None:
    """The first wrong field, and where."""
    content = b'{"device_nonce":"AAAA","now":"2026-03-01T00:00:00Z","extra":1}'
    with pytest.raises(DocumentError, match="SignedTime: extra: Extra inputs are not permitted"):
        parse_document(content, SignedTime)


def test_signed_document_of_another_form_is_refused() -> None:
    """A trusted key signs the wrong document."""
    envelope = sign_document(PollReply(next_poll_seconds=1), TYPE, SIGNER)
    with pytest.raises(DocumentError, match="SignedTime: device_nonce: Field required"):
        _verify(envelope)


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": 5},
        {"payload": "ä"},
        {"payloadType": 5},
        {"signatures": None},
        {"signatures": {}},
        {"signatures": [5]},
        {"signatures": [{"keyid": tuf_key(SIGNER.public_key).keyid, "sig": 5}]},
        {"signatures": [{"keyid": tuf_key(SIGNER.public_key).keyid, "sig": "AAAA"}]},
        {"signatures": []},
    ],
)
def test_damaged_envelope_is_refused(changes: dict[str, object]) -> None:
    """Each field in turn."""
    with pytest.raises((DocumentError, EnvelopeSignatureError)):
        _verify(_envelope(**changes))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 4000, b'{"payload": 1}', b"1e999"])
def test_no_envelope_is_refused(content: bytes) -> None:
    """Other JSON, no JSON, and nesting without end."""
    with pytest.raises(DocumentError, match="envelope: expected a DSSE envelope"):
        _verify(content)


@given(st.integers(min_value=0, max_value=len(ENVELOPE) * 8 - 1))
def test_any_flipped_bit_is_refused_or_says_the_same(bit: int) -> None:
    """White space and letter case of hex may change; the document may not."""
    flipped = bytearray(ENVELOPE)
    flipped[bit // 8] ^= 1 << (bit % 8)
    try:
        document = _verify(bytes(flipped))
    except ProtocolError:
        return
    assert document == DOCUMENT


@given(st.sampled_from(["payload", "payloadType", "signatures", "keyid"]), JSON)
def test_any_json_in_any_field_of_an_envelope_gives_our_error(name: str, value: object) -> None:
    """No form of an envelope raises anything else."""
    changes = {name: value}
    if name == "keyid":
        changes = {"signatures": [{"keyid": value, "sig": value}]}
    try:
        assert _verify(_envelope(**changes)) == DOCUMENT
    except ProtocolError:
        return


@given(st.sampled_from(DOCUMENT_TYPES), st.binary(max_size=200))
def test_any_bytes_give_our_error_or_a_document(document_type: type[Document], unverified: bytes) -> None:
    """Garbage is a DocumentError, for every document."""
    _parse_or_refuse(document_type, unverified)


@given(st.sampled_from(DOCUMENT_TYPES), st.data())
def test_any_json_gives_our_error_or_a_document(document_type: type[Document], data: st.DataObject) -> None:
    """Objects with the right names and any values."""
    names = sorted(document_type.model_fields)
    value = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, JSON)) | JSON)
    _parse_or_refuse(document_type, json.dumps(value).encode())


def _parse_or_refuse(document_type: type[Document], unverified: bytes) -> None:
    try:
        document = parse_document(unverified, document_type)
    except DocumentError:
        return
    again = parse_document(canonical_json(document), document_type)
    assert canonical_json(again) == canonical_json(document)


def test_tuf_signer_names_its_key_and_takes_no_uri() -> None:
    """Keys come from key stores alone."""
    signer = TufSigner(SIGNER)
    assert signer.public_key == tuf_key(SIGNER.public_key)
    signer.public_key.verify_signature(signer.sign(b"data"), b"data")
    with pytest.raises(NotImplementedError, match="from key stores, not from URIs"):
        TufSigner.from_priv_key_uri("file:key", signer.public_key)


def test_action_states_know_what_is_final_and_what_failed() -> None:
    """The last five are final; three of them count against a rollout."""
    final = [state for state in ActionState if state.is_final]
    assert final == list(ActionState)[-5:]
    assert [state.value for state in ActionState if state.is_failure] == ["reverted", "failed", "timed-out"]


@pytest.mark.parametrize(
    ("document_type", "start", "item", "end"),
    [
        (Vex, b'{"vulnerabilities":[', b"{}", b"]}"),
        (Bom, b'{"components":[', b"0", b"]}"),
        (Bom, b'{"dependencies":[', b"{}", b"]}"),
        (Bom, b'{"compositions":[{"aggregate":"complete","assemblies":[', b"0", b"]}]}"),
        (Provenance, b'{"subject":[', b"{}", b"]}"),
        (GoldenVectors, b'{"vectors":[', b"{}", b"]}"),
        (GoldenVectors, b'{"vectors":[{"expected":[', b'""', b"]}]}"),
    ],
)
def test_first_wrong_item_of_many_ends_the_reading(
    document_type: type[Document], start: bytes, item: bytes, end: bytes
) -> None:
    """Errors do not grow with the document, so that one upload cannot stop the service."""
    few, many = (start + b",".join([item] * count) + end for count in (1, 100_000))
    with pytest.raises(ValidationError) as one:
        document_type.model_validate_json(few)
    with pytest.raises(ValidationError) as all_:
        document_type.model_validate_json(many)
    assert all_.value.error_count() == one.value.error_count() < 12


def test_very_many_unknown_fields_are_counted_and_not_written() -> None:
    """The refusal says how many, and keeps no text of each."""
    names = b",".join(b'"%x":0' % number for number in range(2000))
    with pytest.raises(DocumentError, match=f"expected at most {MAX_ERRORS} wrong fields, found 200") as refusal:
        parse_document(b"{" + names + b"}", GoldenVectors)
    assert refusal.value.__cause__ is None
