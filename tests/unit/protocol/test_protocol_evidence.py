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
        (TOKEN + b"\x00", "token: expected one item, found 1 more bytes"),
        (TOKEN[:-1], "token: expected lengths within the bytes"),
        (TOKEN[1:], "token: expected tag 18"),
        (cbor2.dumps(cbor2.CBORTag(17, _parts())), "token: expected tag 18"),
        (cbor2.dumps(cbor2.CBORTag(18, _parts()[:3])), "token: expected the four parts of a COSE_Sign1"),
        (cbor2.dumps(cbor2.CBORTag(18, {1: 2})), "token: expected the four parts of a COSE_Sign1"),
        (cbor2.dumps(cbor2.CBORTag(18, [*_parts()[:2], "payload", b""])), "token: expected the four parts"),
        (cbor2.dumps(cbor2.CBORTag(18, [*_parts()[:2], None, b""])), "token: expected the four parts"),
        (b"", "token: expected another item, found the end"),
    ],
)
def test_token_of_another_form_is_refused(token: bytes, message: str) -> None:
    """Trailing or missing bytes, another tag, another shape, a detached payload."""
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
NO_MAP = "claims: expected a map from integers and text"
NO_CLAIM = "claims: expected the keys"
NO_ATTRIBUTE = "software component: expected the keys"
WRONG_CLAIMS: dict[str, tuple[dict[Any, Any], str]] = {
    "no nonce": ({key: value for key, value in CLAIMS.items() if key != 10}, NO_CLAIM),
    "boot seed of the drafts": ({2397 if key == 268 else key: value for key, value in CLAIMS.items()}, NO_CLAIM),
    "float as key": ({float(key): value for key, value in CLAIMS.items()}, "claims: expected no tag, float or simple"),
    "bytes as key": (CLAIMS | {b"": 1}, NO_MAP),
    "other profile": (CLAIMS | {265: "other"}, f"profile: expected {PROFILE}, found another"),
    "profile of the drafts": (CLAIMS | {265: "http://arm.com/psa/2.0.0"}, "profile: expected"),
    "huge profile": (CLAIMS | {265: 1 << 20000}, "claims: expected no tag"),
    "other instance": (CLAIMS | {256: b"\x01" + bytes(32)}, "instance id: expected the one of the identity key"),
    "short nonce": (CLAIMS | {10: b"short"}, "nonce: expected bytes of the length"),
    "nonce of 64 bytes": (CLAIMS | {10: bytes(64)}, "nonce: expected bytes of the length"),
    "nonce as text": (CLAIMS | {10: "n" * 32}, "nonce: expected bytes"),
    "nonces in a list": (CLAIMS | {10: [bytes(32)]}, "nonce: expected bytes"),
    "no implementation id": (CLAIMS | {2396: b""}, "implementation id: expected bytes of the length"),
    "long boot seed": (CLAIMS | {268: bytes(33)}, "boot seed: expected bytes of the length"),
    "short boot seed": (CLAIMS | {268: bytes(7)}, "boot seed: expected bytes of the length"),
    "life cycle as text": (CLAIMS | {2395: "secured"}, "life cycle: expected an integer from 0 to 65535"),
    "life cycle of three bytes": (CLAIMS | {2395: 0x13000}, "life cycle: expected an integer from 0 to 65535"),
    "negative life cycle": (CLAIMS | {2395: -1}, "life cycle: expected an integer"),
    "client id as truth": (CLAIMS | {2394: True}, "client id: expected an integer from -1 to -1"),
    "client id of a secure partition": (CLAIMS | {2394: 1}, "client id: expected an integer from -1 to -1"),
    "client id zero": (CLAIMS | {2394: 0}, "client id: expected"),
    "certification of EAN-13 alone": (CLAIMS | {2398: "0123456789012"}, "certification reference: expected"),
    "certification as number": (CLAIMS | {2398: 5}, "certification reference: expected"),
    "verification service as bytes": (CLAIMS | {2400: b"x"}, "verification service indicator: expected text"),
    "no component": (CLAIMS | {2399: []}, "software components: expected a list with at least one"),
    "components as map": (CLAIMS | {2399: {1: 2}}, "software components: expected a list"),
    "number as component": (CLAIMS | {2399: [5]}, "software component: expected a map"),
    "unknown attribute": (CLAIMS | {2399: [COMPONENT | {7: "x"}]}, NO_ATTRIBUTE),
    "no measurement": (CLAIMS | {2399: [{1: "os", 5: b"k" * 32}]}, NO_ATTRIBUTE),
    "other description": (CLAIMS | {2399: [COMPONENT | {6: "sha-512"}]}, "measurement description: expected sha-256"),
    "truth as key": (
        CLAIMS | {2399: [{True if key == 1 else key: value for key, value in COMPONENT.items()}]},
        "claims: expected numbers and strings as keys",
    ),
    "number as type": (CLAIMS | {2399: [COMPONENT | {1: 5}]}, "measurement type: expected text"),
    "short measurement": (CLAIMS | {2399: [COMPONENT | {2: b"m"}]}, "measurement value: expected bytes"),
    "measurement of SHA-512": (CLAIMS | {2399: [COMPONENT | {2: bytes(64)}]}, "measurement value: expected bytes"),
    "long version": (CLAIMS | {2399: [COMPONENT | {4: "v" * 65}]}, "version: expected text of at most 64 printable"),
    "terminal escape": (
        CLAIMS | {2399: [COMPONENT | {4: "os\x1b[2J"}]},
        "version: expected text of at most 64 printable",
    ),
    "zero character": (CLAIMS | {2399: [COMPONENT | {1: "os\x00"}]}, "measurement type: expected text"),
    "written backwards": (CLAIMS | {2400: "\u202egpj.exe"}, "verification service indicator: expected text"),
    "no signer": (CLAIMS | {2399: [COMPONENT | {5: None}]}, "signer id: expected bytes"),
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
    _refused(_token(doubled), "claims: expected numbers and strings as keys, each once")


@pytest.mark.parametrize("pairs", [-1, 1])
def test_map_of_another_length_than_its_head_says_is_refused(pairs: int) -> None:
    """Also where only what follows the device's own claims is read as a map."""
    claims = cbor2.dumps(_claims())
    _refused(_token(bytes([claims[0] + pairs]) + claims[1:]), "claims: expected (one item|another item), found")


@given(st.permutations(sorted(_claims())))
def test_order_of_the_claims_changes_nothing(order: list[int]) -> None:
    """Those of the device itself need not come first."""
    claims = {key: _claims()[key] for key in order}
    assert verify_evidence(_token(cbor2.dumps(claims)), KEY) == EVIDENCE


def test_devices_that_booted_the_same_keep_claims_of_their_own() -> None:
    """What many show alike is read once; nonce, instance id and boot seed are each one's."""
    other, evidence = SoftwareSigner.generate(), replace(EVIDENCE, nonce=b"N" * 32, boot_seed=b"S" * 32)
    assert verify_evidence(sign_evidence(evidence, other), other.public_key) == evidence
    assert verify_evidence(TOKEN, KEY) == EVIDENCE
    kid = {4: bytes.fromhex(device_id_of(other.public_key))}
    with pytest.raises(TokenError, match="instance id: expected the one of the identity key"):
        verify_evidence(_token(cbor2.dumps(_claims()), unprotected=kid, signer=other), other.public_key)


def test_claims_that_are_no_map_are_refused() -> None:
    """A list of the same numbers."""
    _refused(_token(cbor2.dumps([10, 256])), "claims: expected a map")


def test_optional_claims_are_read() -> None:
    """RFC 9783 §4.2.3, §4.5.1, §4.4.1.5, a boot seed of eight bytes, a component without version."""
    full = replace(EVIDENCE, certification_reference="0123456789012-12345", verification_service="https://v.example")
    assert verify_evidence(sign_evidence(full, IDENTITY), KEY) == full
    component = {key: value for key, value in COMPONENT.items() if key != 4}
    claims = CLAIMS | {268: b"s" * 8, 2399: [component | {6: "sha-256"}]}
    found = verify_evidence(_token(cbor2.dumps(claims)), KEY)
    assert (found.boot_seed, found.components[0].version) == (b"s" * 8, "")
    unversioned = replace(EVIDENCE, components=(replace(EVIDENCE.components[0], version=""),))
    assert verify_evidence(sign_evidence(unversioned, IDENTITY), KEY) == unversioned


def test_claims_that_nobody_knows_are_left_alone() -> None:
    """RFC 9783 §5.1.3: the receiver must not error out on claims that it does not understand."""
    claims = CLAIMS | {999: [1, {"deep": [None, True]}], "text": b"x", -70000: "private"}
    assert verify_evidence(_token(cbor2.dumps(claims)), KEY) == EVIDENCE


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
    spoilt = {10: "nonce", 268: "boot_seed", 2395: "lifecycle", 2396: "implementation_id", 2399: "components"}
    same = {name: getattr(EVIDENCE, name) for name in spoilt.values()}
    assert replace(evidence, **{spoilt[claim]: same[spoilt[claim]]}) == EVIDENCE if claim in spoilt else True
