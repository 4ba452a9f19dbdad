"""Model payloads and golden vectors: laid out, taken apart, refused."""

import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.document import DocumentError, parse_document
from protocol.errors import ProtocolError
from protocol.geometry import Core
from protocol.model import (
    ALIGNMENT_BYTES,
    MAGIC,
    MAX_CARD_BYTES,
    Evaluation,
    GoldenReference,
    GoldenVector,
    GoldenVectors,
    InputContract,
    Measured,
    ModelCard,
    ModelPackageError,
    OutputContract,
    PredictedLatency,
    Quantised,
    compose_model_payload,
    parse_model_payload,
)

MODEL = b"\x1c\0\0\0TFL3" + bytes(range(200))
COMPONENT = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"


def _card(*, model_bytes: int = len(MODEL), labels: tuple[str, ...] = ("no person", "person")) -> ModelCard:
    return ModelCard(
        name="person",
        version="1.0.0",
        component_id=COMPONENT,
        core=Core.M4_0,
        input=InputContract(shape=(1, 96, 96, 3), dtype="int8", offset=-128.0),
        labels=labels,
        measured=Measured(model_bytes=model_bytes, arena_bytes=2048, macs=1000),
    )


PAYLOAD = compose_model_payload(_card(), MODEL)


def test_card_and_model_come_back() -> None:
    """Also with the padding of the package behind them."""
    for padding in (b"", bytes(3)):
        package = parse_model_payload(PAYLOAD + padding)
        assert (package.card, package.model) == (_card(), MODEL)


FULL_CARD = _card().model_copy(
    update={
        "input": InputContract(
            shape=(1, 96, 96, 3),
            dtype="int8",
            offset=-128.0,
            quantised=Quantised(scale=0.0078125, zero_point=-1),
            meaning="RGB picture",
        ),
        "output": OutputContract(
            shape=(1, 2), dtype="int8", quantised=Quantised(scale=0.00390625, zero_point=-128), meaning="probability"
        ),
        "measured": Measured(model_bytes=len(MODEL), arena_bytes=2048, macs=1000, flash_bytes=4096),
        "latency": (PredictedLatency(profile="reference", milliseconds=12.5, error_share=0.35),),
        "golden": GoldenReference(component_id=COMPONENT, sha256="0" * 64, vectors=3),
        "evaluation": (Evaluation(dataset="Visual Wake Words", metric="accuracy", value=0.83, samples=8059),),
        "requires": {"telemetry-app": ">=2.1"},
        "licence": "Apache-2.0",
        "licence_notes": "Name the authors.",
        "trained_on": "its training part",
        "evaluated_on": "its validation part",
    }
)


def test_card_with_every_fact_comes_back() -> None:
    """Well below what a card may take."""
    package = parse_model_payload(compose_model_payload(FULL_CARD, MODEL))
    assert package.card == FULL_CARD
    assert len(FULL_CARD.model_dump_json()) < MAX_CARD_BYTES // 4


def test_card_of_an_earlier_package_is_read() -> None:
    """It has none of the fields that came later."""
    later = {"output", "latency", "golden", "evaluation", "requires", "licence_notes", "trained_on", "evaluated_on"}
    fields = json.loads(_card().model_dump_json(exclude=later))
    del fields["input"]["quantised"], fields["input"]["meaning"], fields["measured"]["flash_bytes"]
    card = json.dumps(fields).encode()
    head = struct.pack("<4sI8x", MAGIC, len(card)) + card
    payload = head + bytes(-len(head) % ALIGNMENT_BYTES) + MODEL
    assert parse_model_payload(payload).card == _card()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("output", {"shape": [1, 2], "dtype": "int4"}),
        ("output", {"shape": [-1], "dtype": "int8"}),
        ("output", {"shape": [1, 2], "dtype": "int8", "quantised": {"scale": 0, "zero_point": 0}}),
        ("output", {"shape": [1, 2], "dtype": "int8", "quantised": {"scale": 1, "zero_point": 1 << 31}}),
        ("latency", [{"profile": "reference", "milliseconds": -1, "error_share": 0.35}]),
        ("latency", [{"profile": "reference", "milliseconds": 1, "error_share": 0.35}] * 9),
        ("golden", {"component_id": COMPONENT, "sha256": "00", "vectors": 3}),
        ("golden", {"component_id": COMPONENT, "sha256": "0" * 64, "vectors": 0}),
        ("evaluation", [{"dataset": "d", "metric": "accuracy", "value": 0.9, "samples": 0}]),
        ("requires", {"telemetry-app": "newest"}),
        ("requires", {"a b": ">=1"}),
        ("licence_notes", "n" * 401),
        ("trained_on", 5),
    ],
)
def test_card_with_a_fact_of_another_form_is_refused(field: str, value: object) -> None:
    """The error names the field."""
    content = json.loads(FULL_CARD.model_dump_json()) | {field: value}
    with pytest.raises(DocumentError, match=f"ModelCard: {field}"):
        parse_document(json.dumps(content).encode(), ModelCard)


def test_model_is_aligned_for_the_kernels() -> None:
    """The weights start at a multiple of 16 bytes."""
    assert PAYLOAD.index(MODEL) % ALIGNMENT_BYTES == 0


def test_card_that_is_too_large_is_not_composed() -> None:
    """A card lives in flash beside the model."""
    with pytest.raises(ModelPackageError, match="model card: expected at most 8192 bytes, found"):
        compose_model_payload(_card(labels=("l" * 64,) * 200), MODEL)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"TFM1", "model payload: expected at least 16 bytes, found 4"),
        (b"TFM2" + PAYLOAD[4:], "model payload: expected b'TFM1'"),
        (struct.pack("<4sI8x", MAGIC, MAX_CARD_BYTES + 1), "and a card of at most 8192 bytes"),
        (PAYLOAD[:-1], f"model: expected {len(MODEL)} bytes, found {len(MODEL) - 1}"),
        (compose_model_payload(_card(model_bytes=-5), MODEL), "model: expected -5 bytes"),
    ],
)
def test_payload_of_another_form_is_refused(payload: bytes, message: str) -> None:
    """Truncated, of another magic, or with a card that lies about lengths."""
    with pytest.raises(ModelPackageError, match=message):
        parse_model_payload(payload)


def test_card_of_another_form_is_refused() -> None:
    """The card is a strict document."""
    card = json.dumps({"name": "person"}).encode()
    with pytest.raises(DocumentError, match="ModelCard: version: Field required"):
        parse_model_payload(struct.pack("<4sI8x", MAGIC, len(card)) + card)


@given(st.binary(max_size=400))
def test_any_bytes_give_our_error(payload: bytes) -> None:
    """With and without the right head."""
    for candidate in (payload, MAGIC + payload, struct.pack("<4sI8x", MAGIC, len(payload)) + payload):
        with pytest.raises(ProtocolError):
            parse_model_payload(candidate)


@pytest.mark.parametrize("rest", [b"\1", b"\0" * 8 + b"\1", b"more"])
def test_bytes_after_the_model_are_refused(rest: bytes) -> None:
    """But for zeros, which are padding."""
    assert parse_model_payload(PAYLOAD + b"\0" * 3).model == MODEL
    with pytest.raises(ModelPackageError, match="expected nothing but zeros after it"):
        parse_model_payload(PAYLOAD + rest)


@given(st.integers(min_value=0, max_value=len(PAYLOAD) * 8 - 1))
@example(2235)  # the card's length of the model, 208, becomes 200
def test_any_flipped_bit_gives_our_error_or_a_package(bit: int) -> None:
    """The signature is the package's; here only the form counts."""
    flipped = bytearray(PAYLOAD)
    flipped[bit // 8] ^= 1 << (bit % 8)
    try:
        package = parse_model_payload(bytes(flipped))
    except ProtocolError:
        return
    assert len(package.model) == len(MODEL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Person Detection"),
        ("name", ""),
        ("version", "1.0"),
        ("component_id", "person"),
        ("core", "m4-2"),
        ("labels", [""]),
        ("description", "d" * 1001),
        ("input", {"shape": [1], "dtype": "int4"}),
        ("surprise", 1),
    ],
)
def test_card_with_a_wrong_field_is_refused(field: str, value: object) -> None:
    """The error names the field."""
    content = json.loads(_card().model_dump_json()) | {field: value}
    with pytest.raises(DocumentError, match=f"ModelCard: {field}"):
        parse_document(json.dumps(content).encode(), ModelCard)


def test_golden_vector_gives_its_input_bytes() -> None:
    """Base64 in the document, bytes for the core."""
    assert GoldenVector(name="a", input="AQID", expected=(0.5,), tolerance=0.1).input_bytes == b"\x01\x02\x03"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "not base64!"}, "vectors.0.input"),
        ({"tolerance": 0}, "vectors.0.tolerance"),
        ({"tolerance": float("nan")}, "vectors.0.tolerance"),
        ({"expected": [float("inf")]}, "vectors.0.expected.0"),
    ],
)
def test_golden_vector_of_another_form_is_refused(changes: dict[str, object], message: str) -> None:
    """No base64, or a number with which nothing can be compared."""
    vector = {"name": "a", "input": "AQID", "expected": [0.5], "tolerance": 0.1} | changes
    content = json.dumps({"component_id": COMPONENT, "vectors": [vector]}).encode()
    with pytest.raises(DocumentError, match=message):
        parse_document(content, GoldenVectors)


def test_golden_vectors_without_a_vector_are_refused() -> None:
    """Nothing to answer is no test."""
    with pytest.raises(DocumentError, match="GoldenVectors: vectors: Tuple should have at least 1 item"):
        parse_document(json.dumps({"component_id": COMPONENT, "vectors": []}).encode(), GoldenVectors)
