"""Attestation evidence: PSA tokens, one thing wrong per case."""

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.evidence import (
    MAX_TOKEN_BYTES,
    PROFILE,
    Evidence,
    LifeCycle,
    SoftwareComponent,
    TokenError,
    TokenSignatureError,
    bind_nonce,
    instance_id_of,
    sign_evidence,
    verify_evidence,
)
from protocol.identity import device_id_of, spki_der
from protocol.signing import SoftwareSigner, raw_from_der

IDENTITY = SoftwareSigner.generate()
KEY = IDENTITY.public_key
EVIDENCE = Evidence(
    nonce=b"n" * 32,
    implementation_id=b"i" * 32,
    boot_seed=b"s" * 32,
    lifecycle=LifeCycle.SECURED,
    client_id=-1,
    components=(SoftwareComponent("os", b"m" * 32, b"k" * 32, "os@1.0.0"),),
)
TOKEN = sign_evidence(EVIDENCE, IDENTITY)
KID = bytes.fromhex(device_id_of(KEY))
PROTECTED = cbor2.dumps({1: -7})


def _parts() -> list[Any]:
    parts: list[Any] = cbor2.loads(TOKEN).value
    return parts


def _claims() -> dict[Any, Any]:
    claims: dict[Any, Any] = cbor2.loads(_parts()[2])
    return claims


def _token(
    claims: bytes, *, protected: bytes = PROTECTED, unprotected: object = None, tag: int = 18, signer: Any = IDENTITY
) -> bytes:
    """Sign any claims and headers, as a device with broken firmware would."""
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", claims])
    header = {4: KID} if unprotected is None else unprotected
    return cbor2.dumps(cbor2.CBORTag(tag, [protected, header, claims, raw_from_der(signer.sign(to_be_signed))]))


def _refused(token: bytes, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        verify_evidence(token, KEY)


def test_token_says_what_was_signed() -> None:
    """All claims come back."""
    assert verify_evidence(TOKEN, KEY) == EVIDENCE


def test_our_own_encoder_agrees_with_the_library() -> None:
    """The tests' tokens are the same but for the signature."""
    assert verify_evidence(_token(cbor2.dumps(_claims())), KEY) == EVIDENCE


def test_nonce_binds_the_key_of_the_csr() -> None:
    """SHA-256 of nonce and SubjectPublicKeyInfo: evidence cannot be relayed to another key."""
    csr_key = SoftwareSigner.generate().public_key
    assert bind_nonce(b"nonce", csr_key) == hashlib.sha256(b"nonce" + spki_der(csr_key)).digest()
    assert bind_nonce(b"nonce", csr_key) != bind_nonce(b"nonce", KEY)


def test_oversize_token_is_refused() -> None:
    """Before it is parsed."""
    _refused(bytes(MAX_TOKEN_BYTES + 1), "token: expected at most 4096 bytes, found 4097")


def test_token_of_another_device_is_refused() -> None:
    """Its kid names another device; with our kid its signature is another's."""
    other = SoftwareSigner.generate()
    _refused(sign_evidence(EVIDENCE, other), "unprotected header: expected the device id as kid")
    with pytest.raises(TokenSignatureError, match="expected a signature by the identity key"):
        verify_evidence(_token(cbor2.dumps(_claims()), signer=other), KEY)


def test_signature_of_another_length_is_refused() -> None:
    """r‖s is 64 bytes."""
    parts = _parts()
    with pytest.raises(TokenSignatureError, match="expected a signature by the identity key"):
        verify_evidence(cbor2.dumps(cbor2.CBORTag(18, [*parts[:3], parts[3][:-1]])), KEY)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (TOKEN + b"\x00", "expected one CBOR item in preferred serialisation"),
        (TOKEN[:-1], "token: expected CBOR, found CBORDecodeEOF"),
        (TOKEN[1:], "expected a COSE_Sign1 with tag 18"),
        (cbor2.dumps(cbor2.CBORTag(17, _parts())), "expected a COSE_Sign1 with tag 18"),
        (cbor2.dumps(cbor2.CBORTag(18, _parts()[:3])), "expected a COSE_Sign1 with tag 18"),
        (cbor2.dumps(cbor2.CBORTag(18, {1: 2})), "expected a COSE_Sign1 with tag 18"),
        (cbor2.dumps(cbor2.CBORTag(18, [*_parts()[:2], "payload", b""])), "expected a COSE_Sign1 with tag 18"),
        (b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", "token: expected CBOR, found InvalidOperation"),
        (b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", "token: expected CBOR, found Overflow"),
    ],
)
def test_token_of_another_form_is_refused(token: bytes, message: str) -> None:
    """Trailing or missing bytes, another tag, another shape, numbers out of every range."""
    _refused(token, message)


@pytest.mark.parametrize(
    "protected",
    [b"", cbor2.dumps({}), cbor2.dumps({1: -35}), cbor2.dumps({1: 5}), cbor2.dumps({1: -7, 2: [4]})],
)
def test_other_protected_header_is_refused(protected: bytes) -> None:
    """No algorithm, another one, a MAC, or a critical header that we do not know."""
    _refused(_token(cbor2.dumps(_claims()), protected=protected), "protected header: expected alg −7")


@pytest.mark.parametrize("unprotected", [{}, {4: b"other"}, {4: KID, 1: -7}, {4: KID, 5: b""}])
def test_other_unprotected_header_is_refused(unprotected: dict[int, object]) -> None:
    """The device id as kid, and nothing else."""
    _refused(_token(cbor2.dumps(_claims()), unprotected=unprotected), "unprotected header")


COMPONENT = {1: "os", 2: b"m" * 32, 4: "os@1", 5: b"k" * 32}
CLAIMS = _claims()
WRONG_CLAIMS: dict[str, tuple[dict[Any, Any], str]] = {
    "no nonce": ({key: value for key, value in CLAIMS.items() if key != 10}, "claims: expected exactly"),
    "unknown claim": (CLAIMS | {999: 1}, "claims: expected exactly"),
    "float as key": ({float(key): value for key, value in CLAIMS.items()}, "claims: expected exactly"),
    "other profile": (CLAIMS | {265: "other"}, f"profile: expected {PROFILE}, found another"),
    "huge profile": (CLAIMS | {265: 1 << 20000}, "profile: expected"),
    "other instance": (CLAIMS | {256: b"\x01" + bytes(32)}, "instance id: expected the one of the identity key"),
    "short nonce": (CLAIMS | {10: b"short"}, "nonce: expected 32 bytes"),
    "nonce as text": (CLAIMS | {10: "n" * 32}, "nonce: expected 32 bytes"),
    "no implementation id": (CLAIMS | {2396: b""}, "implementation id: expected 32 bytes"),
    "long boot seed": (CLAIMS | {268: bytes(33)}, "boot seed: expected 32 bytes"),
    "life cycle as text": (CLAIMS | {2395: "secured"}, "life cycle: expected an integer, found str"),
    "client id as truth": (CLAIMS | {2394: True}, "client id: expected an integer, found bool"),
    "no component": (CLAIMS | {2399: []}, "software components: expected a list with at least one"),
    "components as map": (CLAIMS | {2399: {1: 2}}, "software components: expected a list"),
    "number as component": (CLAIMS | {2399: [5]}, "software component: expected exactly the keys 1, 2, 4 and 5"),
    "more in a component": (CLAIMS | {2399: [COMPONENT | {6: "x"}]}, "software component: expected exactly the keys"),
    "truth as key": (
        CLAIMS | {2399: [{True if key == 1 else key: value for key, value in COMPONENT.items()}]},
        "software component: expected exactly the keys",
    ),
    "number as type": (CLAIMS | {2399: [COMPONENT | {1: 5}]}, "measurement type: expected text"),
    "short measurement": (CLAIMS | {2399: [COMPONENT | {2: b"m"}]}, "measurement value: expected 32 bytes"),
    "long version": (CLAIMS | {2399: [COMPONENT | {4: "v" * 65}]}, "version: expected text of at most 64 characters"),
    "no signer": (CLAIMS | {2399: [COMPONENT | {5: None}]}, "signer id: expected 32 bytes"),
}


@pytest.mark.parametrize("case", list(WRONG_CLAIMS))
def test_claims_of_another_form_are_refused(case: str) -> None:
    """Validly signed, one claim wrong."""
    claims, message = WRONG_CLAIMS[case]
    _refused(_token(cbor2.dumps(claims)), message)


def test_duplicate_claims_are_refused() -> None:
    """Two nonces: one for the check, another for the log."""
    claims = cbor2.dumps(_claims())
    doubled = bytes([claims[0] + 1]) + claims[1:] + cbor2.dumps(10) + cbor2.dumps(bytes(32))
    _refused(_token(doubled), "claims: expected one CBOR item in preferred serialisation")


def test_claims_that_are_no_map_are_refused() -> None:
    """A list of the same numbers."""
    _refused(_token(cbor2.dumps([10, 256])), "claims: expected exactly")


def test_instance_id_is_that_of_rfc_9783() -> None:
    """0x01 and 32 bytes."""
    assert instance_id_of(KEY) == b"\x01" + hashlib.sha256(spki_der(KEY)).digest()


@given(st.integers(min_value=0, max_value=len(TOKEN) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    """Header, payload or signature."""
    flipped = bytearray(TOKEN)
    flipped[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(ProtocolError):
        verify_evidence(bytes(flipped), KEY)


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(unverified: bytes) -> None:
    """As a token, as a tagged item, and as validly signed claims."""
    for token in (unverified, b"\xd2\x84" + unverified, _token(unverified)):
        with pytest.raises(ProtocolError):
            verify_evidence(token, KEY)


CBOR = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(_claims())), CBOR)
def test_any_value_of_any_claim_gives_our_error_or_evidence(claim: int, value: object) -> None:
    """Validly signed nonsense."""
    claims = _claims() | {claim: value}
    try:
        evidence = verify_evidence(_token(cbor2.dumps(claims)), KEY)
    except TokenError:
        return
    assert replace(evidence, lifecycle=0, client_id=0) == replace(EVIDENCE, lifecycle=0, client_id=0) or claim == 10
