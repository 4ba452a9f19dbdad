"""What only the service reads: MQTT packets of a gateway's peer, and the appraisal of evidence that a device signed."""

from protocol.errors import ProtocolError
from protocol.evidence import verify_evidence
from service.domain.attestation import appraise
from service.domain.attestation_policy import AttestationPolicy, UnknownSoftware
from service.gateway import codec
from service.gateway.errors import GatewayError
from tests.fuzz.fuzz_evidence import PAYLOAD
from tests.fuzz.target import KEY, SIGNER, Target
from tests.hostile_evidence import sign_payload

_POLICY = AttestationPolicy(minimum_os="1.2", unknown=UnknownSoftware.QUARANTINE)
_CONNECT = bytes.fromhex("101000044d5154540402003c0004") + b"name"
_SUBSCRIBE = bytes.fromhex("820a00010005") + b"a/b/#\x01"
_LONGEST_FINDING = 700  # characters


def _packets(unverified: bytes) -> None:
    """Frames in two pieces, each then parsed as what it says it is."""
    reader = codec.FrameReader(1 << 16)
    half = len(unverified) // 2
    for header, body in [*reader.feed(unverified[:half]), *reader.feed(unverified[half:])]:
        _parse(header, body)


def _parse(header: int, body: bytes) -> None:
    if header == codec.CONNECT:
        codec.parse_connect(body)
    elif header & 0xF0 == codec.PUBLISH:
        codec.split_publish(header, body)
    elif header == codec.SUBSCRIBE:
        codec.parse_subscribe(body)
    elif header == codec.UNSUBSCRIBE:
        codec.parse_unsubscribe(body)
    else:
        codec.parse_puback(body)


def _appraisal(unverified: bytes) -> None:
    """Whatever a device signs is judged, never accepted without reference values, and told in a few words."""
    evidence = verify_evidence(sign_payload(unverified, SIGNER), KEY)
    appraisal = appraise(evidence, evidence.nonce, policy=_POLICY, reference_values={})
    if appraisal.accepted or not appraisal.reasons:
        raise AssertionError("expected evidence without reference values refused, found it accepted")
    if any(len(finding.found) > _LONGEST_FINDING for finding in appraisal.findings):
        raise AssertionError("expected a finding of a few words, found a long one")


TARGETS = (
    Target("mqtt-packets", _packets, (GatewayError,), (_CONNECT, _CONNECT + _SUBSCRIBE, b"\x30\x05\x00\x01ahi")),
    Target("appraisal", _appraisal, (ProtocolError,), (PAYLOAD,)),
)
