"""Learned states byte for byte: the largest, every spoiled bit, and whatever somebody may send in their place."""

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.geometry import Core
from protocol.learned_backup import LearnedOrder, LearnedUpload, OrderKind
from protocol.learned_state import (
    DIGEST_BYTES,
    HEADER,
    MAX_STATE_BYTES,
    ForeignStateError,
    LearnedPrototype,
    LearnedState,
    LearnedStateError,
    encode_state,
    parse_state,
    require_layout,
    state_bytes,
)
from protocol.model import ModelKind
from protocol.payloads import parse_model
from tests.learning_template import COMPONENT, LAYOUT, learning_template, template_card, template_payload

FULL = LearnedState(
    component_id=COMPONENT,
    layout_sha256=LAYOUT.sha256,
    template_sha256=learning_template().sha256,
    features=18,
    windows=4_294_967_295,
    sensitivity=1.5,
    prototypes=tuple(
        LearnedPrototype(number + 1, tuple(-0.5 * n for n in range(18)), tuple(0.25 * n for n in range(18)))
        for number in range(8)
    ),
)
FLOAT32 = st.floats(-1000, 1000, width=32)


def sealed(body: bytes) -> bytes:
    """Somebody who wants to get past the digest has no trouble to."""
    return body + hashlib.sha256(body).digest()


def with_bytes(offset: int, value: bytes) -> bytes:
    body = encode_state(FULL)[:-DIGEST_BYTES]
    return sealed(body[:offset] + value + body[offset + len(value) :])


def test_largest_state_is_as_long_as_documented() -> None:
    """96 bytes of header, 8 prototypes of 18 means and variances and a count, 32 bytes of digest."""
    packed = encode_state(FULL)
    assert len(packed) == MAX_STATE_BYTES == 96 + 8 * 4 * 37 + 32 == 1312
    assert parse_state(packed) == FULL
    assert packed[:8] == b"TFLS\x01\x12\x08\x00"
    assert packed[88:96] == struct.pack("<If", 4_294_967_295, 1.5)
    assert packed[96:128] == struct.pack("<8I", *range(1, 9))
    assert packed[128:132] == struct.pack("<f", -0.0)


def test_state_of_nothing_learned_is_a_state() -> None:
    """A device that has just begun."""
    empty = replace(FULL, windows=0, prototypes=())
    assert parse_state(encode_state(empty)) == empty
    assert len(encode_state(empty)) == state_bytes(features=18, prototypes=0)


@pytest.mark.parametrize(
    ("spoiled", "text"),
    [
        (b"", "expected 128 to 1312 bytes, found 0"),
        (encode_state(FULL) + b"\0", "found 1313"),
        (with_bytes(0, b"TFLX"), "expected b'TFLS' version 1"),
        (with_bytes(4, b"\x02"), "found b'TFLS' 2"),
        (with_bytes(7, b"\x01"), "version 1"),
        (with_bytes(5, b"\x02"), "as many bytes as its counts say"),
        (with_bytes(6, b"\x09"), "for 9 prototypes"),
        (sealed(encode_state(FULL)[:-DIGEST_BYTES][:-4]), "as many bytes as its counts say, found 1308"),
        (encode_state(FULL)[:-1] + b"\0", "expected the SHA-256 of its bytes"),
        (with_bytes(92, struct.pack("<f", 0)), "expected a sensitivity"),
        (with_bytes(92, struct.pack("<f", float("nan"))), "expected a sensitivity"),
        (with_bytes(96, bytes(4)), "at least one window"),
        (with_bytes(128, struct.pack("<f", float("nan"))), "expected means"),
        (with_bytes(128, struct.pack("<f", 1001)), "expected means"),
        (with_bytes(1312 - 36, struct.pack("<f", -1)), "expected variances"),
        (with_bytes(1312 - 36, struct.pack("<f", float("inf"))), "expected variances"),
    ],
)
def test_what_is_no_state_is_refused_and_says_why(spoiled: bytes, text: str) -> None:
    """Length, magic, counts, digest and every number, in this order."""
    with pytest.raises(LearnedStateError, match=text):
        parse_state(spoiled)


@given(st.integers(0, 8 * MAX_STATE_BYTES - 1))
def test_every_flipped_bit_is_found(bit: int) -> None:
    """The digest finds it, if nothing before does."""
    spoiled = bytearray(encode_state(FULL))
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LearnedStateError):
        parse_state(bytes(spoiled))


@given(st.binary(max_size=MAX_STATE_BYTES + 8))
def test_any_bytes_are_a_state_or_our_error(content: bytes) -> None:
    """Also behind a good header and under a good digest."""
    head = encode_state(FULL)[: HEADER.size]
    for unverified in (content, head + content, sealed(head + content), sealed(b"TFLS\x01" + content)):
        try:
            state = parse_state(unverified)
        except LearnedStateError:
            continue
        assert encode_state(state) == unverified


@given(
    st.integers(3, 18).flatmap(
        lambda features: st.lists(
            st.tuples(
                st.integers(1, 2**32 - 1),
                st.tuples(*[FLOAT32] * features),
                st.tuples(*[st.floats(0, 1000, width=32)] * features),
            ),
            max_size=8,
        ).map(lambda rows: (features, rows))
    )
)
def test_every_state_comes_back(made: tuple[int, list[tuple[int, tuple[float, ...], tuple[float, ...]]]]) -> None:
    """Float32 for float32."""
    features, rows = made
    state = replace(FULL, features=features, prototypes=tuple(LearnedPrototype(*row) for row in rows))
    assert parse_state(encode_state(state)) == state


def test_state_counts_for_its_component_and_features_alone() -> None:
    """What another component learned, or from other features, says nothing here."""
    require_layout(FULL, component_id=COMPONENT, layout=LAYOUT)
    with pytest.raises(ForeignStateError, match="expected one of component 0"):
        require_layout(FULL, component_id="0" * 8 + COMPONENT[8:], layout=LAYOUT)
    with pytest.raises(ForeignStateError, match="expected features by layout"):
        require_layout(FULL, component_id=COMPONENT, layout=LAYOUT.model_copy(update={"bands": 12}))


def test_uploads_and_orders_are_bounded() -> None:
    """Of cores that run models, no longer than a state, and an order brings a state where it restores one."""
    upload = LearnedUpload(core=Core.M4_0, state=encode_state(FULL))
    assert parse_document(canonical_json(upload), LearnedUpload) == upload
    with pytest.raises(DocumentError, match="expected a core that runs models, found a7"):
        parse_document(b'{"core": "a7", "state": "AA=="}', LearnedUpload)
    with pytest.raises(DocumentError, match="at most 1312 items"):
        parse_document(canonical_json(upload.model_copy(update={"state": bytes(1313)})), LearnedUpload)
    order = LearnedOrder(order_id=COMPONENT, core=Core.M4_1, kind=OrderKind.RESET)
    assert order.state is None
    with pytest.raises(DocumentError, match="expected one in a restore alone"):
        parse_document(canonical_json(order.model_copy(update={"kind": OrderKind.RESTORE})), LearnedOrder)


def test_payload_of_a_template_is_checked_as_one() -> None:
    """Where the service takes packages; a card alone is not enough."""
    template = learning_template()
    payload = template_payload(template)
    assert parse_model(payload).card.name == "vibration"
    plain = template_card(template).model_copy(update={"kind": ModelKind.TFLITE})
    assert parse_model(template_payload(template, plain)).card.kind is ModelKind.TFLITE
    with pytest.raises(DocumentError):
        parse_model(payload.replace(b'"policy":"keep"', b'"policy":"deep"'))
