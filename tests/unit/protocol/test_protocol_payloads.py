"""Trust stores and board configurations: laid out, taken apart, refused."""

import json
import struct
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from protocol.board import MAX_BOARD_BYTES, BoardConfiguration, BoardError, encode_board, parse_board
from protocol.document import DocumentError
from protocol.errors import ProtocolError
from protocol.geometry import Core, ImageKind
from protocol.identity import spki_der
from protocol.image import IMAGE_TYPE, ImageInfo, VerifiedImage
from protocol.payloads import check_payload
from protocol.signing import SoftwareSigner
from protocol.trust_store import TrustedKey, TrustRole, TrustStoreError, encode_trust_store, parse_trust_store

FIRST, SECOND = sorted((SoftwareSigner.generate().public_key for _ in range(2)), key=spki_der)
KEYS = (
    TrustedKey(TrustRole.SYSTEM, FIRST),
    TrustedKey(TrustRole.PACKAGE, FIRST),
    TrustedKey(TrustRole.PACKAGE, SECOND),
)
STORE = encode_trust_store(KEYS)
BOARD = BoardConfiguration(
    model="acme-eye", hardware_revision="B2", cores={Core.M4_0: {"adc0": (41, 42), "gpio9": (9,)}, Core.A7: {}}
)
BOARD_PAYLOAD = encode_board(BOARD)


def _entry(role: int, der: bytes) -> bytes:
    return struct.pack("<BBH", role, 0, len(der)) + der


def _store(*entries: bytes, count: int | None = None, reserved: int = 0) -> bytes:
    return struct.pack("<4sHH", b"TFK1", len(entries) if count is None else count, reserved) + b"".join(entries)


def _der(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_trusted_keys_come_back_in_one_order() -> None:
    """Equal sets have equal bytes, and a package's padding is passed over."""
    assert encode_trust_store([*reversed(KEYS), KEYS[0]]) == STORE
    for padding in (b"", bytes(3)):
        assert parse_trust_store(STORE + padding) == KEYS


@pytest.mark.parametrize("count", [0, 65])
def test_trust_store_of_no_or_too_many_keys_is_not_made(count: int) -> None:
    """A device that trusts nobody takes no update."""
    keys = [TrustedKey(TrustRole.ROOT, SoftwareSigner.generate().public_key) for _ in range(count)]
    with pytest.raises(TrustStoreError, match=f"trust store: expected 1 to 64 keys, found {count}"):
        encode_trust_store(keys)


A, B = _entry(1, spki_der(FIRST)), _entry(1, spki_der(SECOND))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"TFK1", "trust store: expected at least 8 bytes, found 4"),
        (b"TFK2" + STORE[4:], "trust store: expected b'TFK1' and 1 to 64 keys, found b'TFK2' and 3"),
        (_store(), "and 1 to 64 keys, found b'TFK1' and 0"),
        (_store(A, count=2), "trust store, key 2: expected 4 bytes, found 0"),
        (_store(A)[:-1], "trust store, key 1: expected a DER public key"),
        (_store(_entry(9, spki_der(FIRST))), "trust store, key 1: expected a role of 1 to 5, found 9"),
        (_store(_entry(1, _der(ec.generate_private_key(ec.SECP384R1()).public_key()))), "key 1: expected P-256"),
        (_store(_entry(1, _der(rsa.generate_private_key(65537, 2048).public_key()))), "key 1: expected P-256"),
        (_store(B, A), "expected its one form"),
        (_store(A, A), "expected its one form"),
        (_store(A, reserved=1), "expected its one form"),
        (_store(A) + bytes(4), "expected its one form"),
        (_store(A) + b"\1", "expected its one form"),
    ],
)
def test_trust_store_of_another_form_is_refused(payload: bytes, message: str) -> None:
    """One wrong thing each."""
    with pytest.raises(TrustStoreError, match=message):
        parse_trust_store(payload)


def test_board_configuration_comes_back() -> None:
    """With a package's padding behind it."""
    for padding in (b"", bytes(3)):
        assert parse_board(BOARD_PAYLOAD + padding) == BOARD


def test_board_configuration_that_is_too_large_is_not_made() -> None:
    """It lives in flash."""
    pins = iter(range(100))
    many = {f"gpio{number}": (next(pins),) for number in range(64)}
    board = BOARD.model_copy(update={"cores": {Core.A7: many}, "model": "m" * MAX_BOARD_BYTES})
    with pytest.raises(BoardError, match="board configuration: expected at most 16384 bytes"):
        encode_board(board)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"TFB1", "expected at least 8 bytes, found 4"),
        (b"TFB2" + BOARD_PAYLOAD[4:], "expected b'TFB1' and at most 16384 bytes, found b'TFB2'"),
        (struct.pack("<4sI", b"TFB1", MAX_BOARD_BYTES + 1), "found b'TFB1' and 16385"),
        (BOARD_PAYLOAD[:-1], "zeros to the next 4, found"),
        (BOARD_PAYLOAD + bytes(4), "and 4 more"),
        (BOARD_PAYLOAD + b"\1", "and 1 more"),
    ],
)
def test_board_payload_of_another_form_is_refused(payload: bytes, message: str) -> None:
    """Truncated, of another magic, or with more behind it."""
    with pytest.raises(BoardError, match=message):
        parse_board(payload)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model"),
        ({"hardware_revision": "B 2"}, "hardware_revision"),
        ({"cores": {}}, "cores"),
        ({"cores": {"m4-2": {}}}, "cores.m4-2"),
        ({"cores": {"a7": {"can0": [1]}}}, "cores.a7.can0"),
        ({"cores": {"a7": {"adc0": []}}}, "cores.a7.adc0"),
        ({"cores": {"a7": {"adc0": [100]}}}, "cores.a7.adc0.0"),
        (
            {"cores": {"a7": {"adc0": [1]}, "m4-0": {"adc0": [2]}}},
            "expected each peripheral once, found peripheral adc0",
        ),
        ({"cores": {"a7": {"adc0": [1]}, "m4-0": {"adc1": [1]}}}, "expected each pin once, found pin 1 twice"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_board_document_with_a_wrong_field_is_refused(changes: dict[str, object], message: str) -> None:
    """The error names the field, and a core cannot take what is another's."""
    document = json.dumps(json.loads(BOARD.model_dump_json()) | changes).encode()
    with pytest.raises(DocumentError, match=message):
        parse_board(struct.pack("<4sI", b"TFB1", len(document)) + document)


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(payload: bytes) -> None:
    """With and without the right head."""
    for candidate in (payload, b"TFK1" + payload, _store(payload, count=1)):
        with pytest.raises(ProtocolError):
            parse_trust_store(candidate)
    for candidate in (payload, struct.pack("<4sI", b"TFB1", len(payload)) + payload):
        with pytest.raises(ProtocolError):
            parse_board(candidate)


@given(st.integers(0, len(STORE) * 8 - 1))
def test_any_flipped_bit_of_a_trust_store_is_refused_or_another_set(bit: int) -> None:
    """No two payloads are the same set."""
    flipped = bytearray(STORE)
    flipped[bit // 8] ^= 1 << (bit % 8)
    try:
        keys = parse_trust_store(bytes(flipped))
    except TrustStoreError:
        return
    assert keys != KEYS


def _image(kind: ImageKind, payload: bytes) -> VerifiedImage:
    guid, at = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc", datetime(2026, 11, 23, tzinfo=UTC)
    return VerifiedImage(ImageInfo(IMAGE_TYPE[kind], guid, guid, "image@1.0.0", 1, at), "a" * 64, payload, bytes(32))


@pytest.mark.parametrize(
    ("kind", "payload"), [(ImageKind.TRUST_STORE, STORE), (ImageKind.BOARD_CONFIGURATION, BOARD_PAYLOAD)]
)
def test_payload_of_its_kind_passes(kind: ImageKind, payload: bytes) -> None:
    """And any other is refused, also where the signature verified."""
    check_payload(_image(kind, payload))
    with pytest.raises(ProtocolError):
        check_payload(_image(kind, b"garbage"))


def test_code_of_any_form_passes() -> None:
    """What an application or a boot loader looks like is its maker's business."""
    check_payload(_image(ImageKind.APPLICATION, b"garbage"))
