"""Evidence: as a token, as a validly signed payload, as headers of a valid signature, and as plain CBOR."""

import cbor2

from protocol import cbor
from protocol.cbor import CborError
from protocol.errors import ProtocolError
from protocol.evidence import MAX_TOKEN_BYTES, Evidence, LifeCycle, SoftwareComponent, sign_evidence, verify_evidence
from protocol.geometry import Slot
from protocol.identity import device_id_of
from tests.fuzz.target import KEY, SIGNER, Target
from tests.hostile_evidence import sign_payload

_COMPONENTS = tuple(SoftwareComponent(slot.value, b"m" * 32, b"k" * 32, "name@1.0.0") for slot in Slot)
_EVIDENCE = Evidence(b"n" * 32, b"i" * 32, b"s" * 32, LifeCycle.SECURED, -1, _COMPONENTS)
_TOKEN = sign_evidence(_EVIDENCE, SIGNER)
_PARTS = cbor2.loads(_TOKEN).value
PAYLOAD: bytes = _PARTS[2]  # valid claims
_KID = bytes.fromhex(device_id_of(KEY))


def _as_token(unverified: bytes) -> None:
    verify_evidence(unverified, KEY)


def _as_payload(unverified: bytes) -> None:
    verify_evidence(sign_payload(unverified, SIGNER), KEY)


def _as_header(unverified: bytes) -> None:
    verify_evidence(sign_payload(PAYLOAD, SIGNER, protected=unverified), KEY)


def _as_plain(unverified: bytes) -> None:
    item = cbor.decode(unverified, max_bytes=MAX_TOKEN_BYTES)
    if cbor2.dumps(item) != unverified:
        raise AssertionError("expected one encoding of every item, found another")


TARGETS = (
    Target("evidence-token", _as_token, (ProtocolError,), (_TOKEN,)),
    Target("evidence-claims", _as_payload, (ProtocolError,), (PAYLOAD,)),
    Target("evidence-header", _as_header, (ProtocolError,), (_PARTS[0], cbor2.dumps({1: -7, 4: _KID}))),
    Target("cbor", _as_plain, (CborError,), (PAYLOAD, cbor2.dumps([1, {2: "three"}, None]))),
)
