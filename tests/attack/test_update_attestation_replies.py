"""What a device must not believe of an attestation endpoint: signed time and certificates."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import load_der_x509_csr, load_pem_x509_certificate

from device_sim.errors import ClockRollbackError, DeviceSimError
from device_sim.network.attestation import (
    AttestationRefusedError,
    Attester,
    IssuedCertificateError,
    SignedTimeError,
)
from device_sim.network.ports import HttpResponse, UnexpectedResponseError
from device_sim.update.uptane import UptaneClient
from pki import profiles
from protocol.identity import Access
from protocol.messages import AttestationReply, AttestationRequest, NonceReply, NonceRequest
from protocol.signing import SoftwareSigner
from tests.integration.device_update.attesting_wire import AttestingWire, Authorities, attestable_device
from tests.unit.device_update.update_builder import NOW, Updated


@dataclasses.dataclass
class Attesting:
    """A device before its attestation, and the endpoint."""

    device: Updated
    wire: AttestingWire

    @property
    def attester(self) -> Attester:
        machine = self.device.machine
        assert machine.voucher is not None
        assert isinstance(self.device.client.uptane, UptaneClient)
        return Attester(machine, machine.voucher, self.wire, self.device.client.uptane.timestamp_keys())


@pytest.fixture
def attesting(tmp_path: Path) -> Attesting:
    return Attesting(*attestable_device(tmp_path, Authorities()))


def test_honest_endpoint_sets_clock_and_certifies(attesting: Attesting) -> None:
    """The legitimate way: the time is learnt, the certificate is for the fresh key."""
    attesting.wire.now = NOW + timedelta(hours=3)
    admission = attesting.attester.attest()
    credential = admission.credential
    assert admission.access is Access.FULL
    assert credential.leaf.public_key() == credential.key.public_key
    assert attesting.device.machine.clock.now() == attesting.wire.now
    assert attesting.attester.attest().credential.key.public_key != credential.key.public_key


def assert_refused(attesting: Attesting, error: type[DeviceSimError], match: str) -> None:
    """The attestation fails and the device's clock is what it was."""
    before = attesting.device.machine.clock.now()
    with pytest.raises(error, match=match):
        attesting.attester.attest()
    assert attesting.device.machine.clock.now() == before


def test_time_by_unknown_key_is_refused(attesting: Attesting) -> None:
    """Only the Director's timestamp role sets clocks."""
    attesting.wire.time_signer = SoftwareSigner.generate()
    assert_refused(attesting, SignedTimeError, "trusted keys")


def test_replayed_time_is_refused(attesting: Attesting) -> None:
    """A signed time of before does not answer this device's nonce."""
    kept = attesting.wire.nonce_reply(NonceRequest(device_nonce=bytes(32)))
    attesting.wire.nonce_reply = lambda request: kept  # type: ignore[method-assign]  # noqa: ARG005
    assert_refused(attesting, SignedTimeError, "expected this device's nonce")


def test_time_below_the_floor_is_refused(attesting: Attesting) -> None:
    """Not even the Director turns the clock back, which would revive expired metadata."""
    attesting.wire.now = NOW - timedelta(days=1)
    assert_refused(attesting, ClockRollbackError, "signed time: expected")


def test_short_nonce_is_refused(attesting: Attesting) -> None:
    """A nonce that is no nonce binds nothing."""
    reply = attesting.wire.nonce_reply

    def short(request: NonceRequest) -> NonceReply:
        return reply(request).model_copy(update={"nonce": b"short"})

    attesting.wire.nonce_reply = short  # type: ignore[method-assign]
    assert_refused(attesting, UnexpectedResponseError, "expected 32 bytes, found 5")


def _for_other_key(wire: AttestingWire, _request: AttestationRequest) -> str:
    leaf = wire.authorities.issuer.issue(profiles.ldevid(wire.device_id, now=NOW), SoftwareSigner.generate().public_key)
    return wire.authorities.issuer.chain_pem(leaf).decode()


def _with_other_reach(wire: AttestingWire, request: AttestationRequest) -> str:
    wire.access = Access.UPDATE_ONLY
    return AttestingWire.certify(wire, request).certificate_chain


def _without_reach(wire: AttestingWire, request: AttestationRequest) -> str:
    profile = dataclasses.replace(profiles.ldevid(wire.device_id, now=NOW), policies=())
    key = load_der_x509_csr(request.csr).public_key()
    return wire.authorities.issuer.chain_pem(wire.authorities.issuer.issue(profile, key)).decode()  # type: ignore[arg-type]


def _by_other_root(wire: AttestingWire, request: AttestationRequest) -> str:
    wire.authorities = Authorities()
    return AttestingWire.certify(wire, request).certificate_chain


def _without_issuer(wire: AttestingWire, request: AttestationRequest) -> str:
    chain = AttestingWire.certify(wire, request).certificate_chain
    end = "-----END CERTIFICATE-----\n"
    return chain.partition(end)[0] + end


def _for_other_device(wire: AttestingWire, request: AttestationRequest) -> str:
    profile = profiles.ldevid("f" * 128, now=NOW)  # type: ignore[arg-type]  # no device has it
    key = load_der_x509_csr(request.csr).public_key()
    return wire.authorities.issuer.chain_pem(wire.authorities.issuer.issue(profile, key)).decode()  # type: ignore[arg-type]


def _expired(wire: AttestingWire, request: AttestationRequest) -> str:
    chain = AttestingWire.certify(wire, request).certificate_chain
    wire.now = load_pem_x509_certificate(chain.encode()).not_valid_before_utc - timedelta(days=2)
    return AttestingWire.certify(wire, request).certificate_chain


@pytest.mark.parametrize(
    ("chain", "match"),
    [
        (_with_other_reach, "expected one for full access, found one for update-only"),
        (_without_reach, "certificate policies: expected full or update-only access"),
        (_for_other_key, "expected the key of the CSR"),
        (_for_other_device, "expected device .*, found ffffffffffffffff"),
        (_by_other_root, "expected one to the voucher's root"),
        (_without_issuer, "expected one to the voucher's root"),
        (_expired, "expected one to the voucher's root"),
        (lambda _wire, _request: "no PEM", "expected PEM certificates"),
    ],
)
def test_certificate_that_is_not_the_devices_is_refused(
    attesting: Attesting, chain: Callable[[AttestingWire, AttestationRequest], str], match: str
) -> None:
    """A certificate must be for this key and device, reach as far as the answer says, now, under the voucher's root."""

    def certify(request: AttestationRequest) -> AttestationReply:
        return AttestationReply(certificate_chain=chain(attesting.wire, request), not_after=NOW)

    attesting.wire.certify = certify  # type: ignore[method-assign]
    with pytest.raises(IssuedCertificateError, match=match):
        attesting.attester.attest()


def test_refusal_carries_the_services_reason(attesting: Attesting) -> None:
    """The operator's words reach the device's event."""
    attesting.wire.refusal = "m4-0/model: expected a reference value, found another"
    assert_refused(attesting, AttestationRefusedError, "m4-0/model: expected a reference value")


@pytest.mark.parametrize(
    ("response", "match"),
    [
        (HttpResponse(500, {}, b"<html>"), "status 500 without a reason"),
        (HttpResponse(503, {}, b'{"title": "Busy"}'), "found 503: Busy"),
        (HttpResponse(429, {}, b"[1]"), "found 429"),
        (HttpResponse(200, {}, b"{}"), "NonceReply: nonce"),
    ],
)
def test_answer_out_of_protocol_is_an_unexpected_response(
    attesting: Attesting, response: HttpResponse, match: str
) -> None:
    """Whatever else comes is worth trying again later, and said in one line."""
    attesting.wire.hook = lambda _path, _headers: response
    assert_refused(attesting, UnexpectedResponseError, match)
