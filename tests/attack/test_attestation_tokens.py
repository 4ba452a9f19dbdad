"""Attacks by the token itself: each over the device's own fresh nonce, with the device's own key wherever it helps.

Every one is refused with words, nothing is issued, and its nonce is spent: the honest token over it comes too late.
"""

import asyncio
import hashlib
import hmac
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.evidence import MAX_TOKEN_BYTES, NONCE_BYTES
from protocol.identity import spki_der
from protocol.messages import AttestationReply, AttestationRequest, NonceRequest
from protocol.signing import SoftwareSigner, raw_from_der
from service.application.attestation import AttestationRefusedError
from service.application.device_repositories import NoncePurpose
from service.domain.attestation import Verdict
from tests.attesting_device import AttestingDevice
from tests.hostile_evidence import PROTECTED, claims_of, sign_claims, sign_payload
from tests.integration.service_devices.device_world import DeviceWorld, open_world
from tests.service_folder import make_folders

ES384, HMAC_256 = -35, 5
PEAK_BYTES = 2 << 20  # of one refused token, the whole use case and its database included

Claims = dict[Any, Any]
Spoil = Callable[[Claims], bytes]
Cases = dict[str, tuple[str, Callable[[AttestingDevice], Spoil]]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DeviceWorld]:
    async with open_world(f"sqlite:///{tmp_path / 'control.db'}", make_folders(tmp_path)) as opened:
        yield opened


@pytest.fixture
async def device(world: DeviceWorld) -> AttestingDevice:
    """A device that has attested honestly."""
    device = await world.claimed()
    await world.attest(device)
    return device


async def issued(world: DeviceWorld) -> int:
    """How many certificates the service has issued to anybody."""
    async with world.unit_of_work(read_only=True) as work:
        entries, _ = await work.issuance.page(after=0, limit=1000)
    return len(entries)


async def assert_refused(world: DeviceWorld, device: AttestingDevice, spoil: Spoil, reason: str) -> None:
    """The spoiled token is refused, nothing is issued, and its nonce serves nothing afterwards."""
    count = await issued(world)
    serial = (await world.devices.get(device.device_id)).device.certificate_serial
    nonce, key = await world.nonce(device), SoftwareSigner.generate()
    honest = device.request(nonce, key)
    spoiled = AttestationRequest(evidence=spoil(claims_of(honest.evidence)), csr=honest.csr)
    with pytest.raises(AttestationRefusedError, match=reason):
        await world.attestation.attest(device.peer, spoiled)
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.attest(device.peer, honest)
    assert await issued(world) == count
    assert (await world.devices.get(device.device_id)).device.certificate_serial == serial


async def assert_all_refused(world: DeviceWorld, device: AttestingDevice, cases: Cases) -> None:
    for name, (reason, spoil) in cases.items():
        try:
            await assert_refused(world, device, spoil(device), reason)
        except BaseException as error:
            error.add_note(f"case: {name}")
            raise
    await world.attest(device)


def _es384(device: AttestingDevice) -> Spoil:
    """Signed over SHA-384, as the header says: a true signature by the right key, under another algorithm."""

    def spoil(claims: Claims) -> bytes:
        protected, payload = cbor2.dumps({1: ES384}), cbor2.dumps(claims)
        to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
        signature = device.identity.private_key.sign(to_be_signed, ec.ECDSA(hashes.SHA384()))
        return sign_payload(payload, device.identity, protected=protected, signature=raw_from_der(signature))

    return spoil


def _mac(device: AttestingDevice, *, key: bytes, tag: int) -> Spoil:
    """A MAC whose key is public, in the place of a signature."""

    def spoil(claims: Claims) -> bytes:
        protected, payload = cbor2.dumps({1: HMAC_256}), cbor2.dumps(claims)
        context = "Signature1" if tag == 18 else "MAC0"
        code = hmac.digest(key, cbor2.dumps([context, protected, b"", payload]), hashlib.sha256)
        return sign_payload(payload, device.identity, protected=protected, signature=code, tag=tag)

    return spoil


def _header(protected: bytes = PROTECTED, unprotected: object = None) -> Callable[[AttestingDevice], Spoil]:
    return lambda device: (
        lambda claims: sign_payload(cbor2.dumps(claims), device.identity, protected=protected, unprotected=unprotected)
    )


def _unprotected(**changes: object) -> Callable[[AttestingDevice], Spoil]:
    """The right kid, and more."""
    names = {"alg": 1, "crit": 2, "x5chain": 33}

    def spoil_for(device: AttestingDevice) -> Spoil:
        kid = bytes.fromhex(device.device_id)
        header = {4: kid, **{names[name]: value for name, value in changes.items()}}
        return lambda claims: sign_payload(cbor2.dumps(claims), device.identity, unprotected=header)

    return spoil_for


def _payload(spoil: Callable[[bytes], bytes]) -> Callable[[AttestingDevice], Spoil]:
    """Spoil the encoded claims, and sign them all the same."""
    return lambda device: lambda claims: sign_payload(spoil(cbor2.dumps(claims)), device.identity)


def _claim(**changes: object) -> Callable[[AttestingDevice], Spoil]:
    names = {"nonce": 10, "instance": 256, "profile": 265, "seed": 268, "client": 2394, "stage": 2395, "more": 7777}
    spoiled = {names[name]: value for name, value in changes.items()}
    return lambda device: lambda claims: sign_claims(claims | spoiled, device.identity)


def _token(spoil: Callable[[bytes], bytes]) -> Callable[[AttestingDevice], Spoil]:
    """Spoil the encoded token; nothing signs it anew."""
    return lambda device: lambda claims: spoil(sign_claims(claims, device.identity))


def _without_payload(token: bytes) -> bytes:
    protected, unprotected, _, signature = cbor2.loads(token).value
    return cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, None, signature]))


def _with_claim(encoded: bytes) -> Callable[[bytes], bytes]:
    """Add one claim, encoded as it is, to the encoded claims."""
    return lambda claims: bytes([claims[0] + 1]) + claims[1:] + cbor2.dumps(7777) + encoded


NO_HEADER = "evidence: .*protected header: expected"
NO_FORM = "evidence: .*claims: expected"
NO_TOKEN = "evidence: .*token: expected"

ALGORITHMS: Cases = {
    "ES384 by the identity key": (NO_HEADER, _es384),
    "HS256 with the public key as secret": (
        NO_HEADER,
        lambda device: _mac(device, key=spki_der(device.identity.public_key), tag=18),
    ),
    "COSE_Mac0": (NO_TOKEN, lambda device: _mac(device, key=b"", tag=17)),
    "no algorithm": (NO_HEADER, _header(cbor2.dumps({}))),
    "empty protected header": (NO_HEADER, _header(b"")),
    "algorithm by name": (NO_HEADER, _header(cbor2.dumps({1: "ES256"}))),
    "algorithm none": (NO_HEADER, _header(cbor2.dumps({1: None}))),
    "two algorithms": (NO_HEADER, _header(b"\xa2\x01\x26\x01\x38\x22")),
    "algorithm in a longer form": (NO_HEADER, _header(b"\xa1\x01\x38\x06")),
    "critical header": (NO_HEADER, _header(cbor2.dumps({1: -7, 2: [99], 99: 1}))),
    "certificate chain of its own": (NO_HEADER, _unprotected(x5chain=b"\x30\x00")),
    "algorithm unprotected besides": (NO_HEADER, _unprotected(alg=ES384)),
    "algorithm unprotected alone": (NO_HEADER, _header(b"", {1: -7})),
    "crit unprotected": (NO_HEADER, _unprotected(crit=[4])),
    "no kid": (NO_HEADER, _header(unprotected={})),
    "kid of another device": (NO_HEADER, _header(unprotected={4: bytes(64)})),
    "kid as text": (NO_HEADER, lambda device: _header(unprotected={4: device.device_id})(device)),
    "kid protected": (
        NO_HEADER,
        lambda device: _header(cbor2.dumps({1: -7, 4: bytes.fromhex(device.device_id)}), {})(device),
    ),
    "empty signature": (
        "evidence: .*expected a signature by the identity key",
        lambda device: lambda claims: sign_payload(cbor2.dumps(claims), device.identity, signature=b""),
    ),
    "signature of zeros": (
        "evidence: .*expected a signature by the identity key",
        lambda device: lambda claims: sign_payload(cbor2.dumps(claims), device.identity, signature=bytes(64)),
    ),
    "signature over another context": (
        "evidence: .*expected a signature by the identity key",
        lambda device: (
            lambda claims: sign_payload(
                cbor2.dumps(claims),
                device.identity,
                signature=raw_from_der(
                    device.identity.sign(cbor2.dumps(["Signature", PROTECTED, b"", cbor2.dumps(claims)]))
                ),
            )
        ),
    ),
}

FORMS: Cases = {
    "bytes behind the token": (NO_TOKEN, _token(lambda token: token + b"\x00")),
    "a second token behind it": (NO_TOKEN, _token(lambda token: token * 2)),
    "no tag": (NO_TOKEN, _token(lambda token: token[1:])),
    "tag of a web token around it": (NO_TOKEN, _token(lambda token: b"\xd8\x3d" + token)),
    "tag in a longer form": (NO_TOKEN, _token(lambda token: b"\xd8\x12" + token[1:])),
    "array of indefinite length": (NO_TOKEN, _token(lambda token: b"\xd2\x9f" + token[2:] + b"\xff")),
    "detached payload": (NO_TOKEN, _token(_without_payload)),
    "bytes behind the claims": (NO_FORM, _payload(lambda claims: claims + b"\x00")),
    "claims twice": (NO_FORM, _payload(lambda claims: claims * 2)),
    "a nonce twice": (
        NO_FORM,
        _payload(lambda claims: bytes([claims[0] + 1]) + claims[1:] + b"\x0a" + cbor2.dumps(bytes(32))),
    ),
    "claims of indefinite length": (NO_FORM, _payload(lambda claims: b"\xbf" + claims[1:] + b"\xff")),
    "a key in a longer form": (NO_FORM, _payload(lambda claims: claims.replace(b"\x0a", b"\x18\x0a", 1))),
    "a claim of which half is missing": (NO_FORM, _payload(lambda claims: claims[: len(claims) // 2])),
    "claims in a byte string": (NO_FORM, _payload(cbor2.dumps)),
    "claims in a tag": (NO_FORM, _payload(lambda claims: b"\xd8\x3d" + claims)),
    "a date as claim": (NO_FORM, _claim(more=cbor2.CBORTag(1, 0))),
    "a regular expression as claim": (NO_FORM, _claim(more=cbor2.CBORTag(35, "(a+)+$"))),
    "a shared value that holds itself": (NO_FORM, _payload(_with_claim(b"\xd8\x1c\x81\xd8\x1d\x00"))),
    "a decimal of a billion digits": (NO_FORM, _payload(_with_claim(b"\xc4\x82\x1a\x3b\x9a\xca\x00\x01"))),
    "a bigfloat of a billion bits": (NO_FORM, _payload(_with_claim(b"\xc5\x82\x1a\x3b\x9a\xca\x00\x01"))),
    "a big number": (NO_FORM, _claim(stage=1 << 70)),
    "a floating life cycle": (NO_FORM, _claim(stage=float(0x3000))),
    "not a number": (NO_FORM, _claim(stage=float("nan"))),
    "infinity": (NO_FORM, _claim(client=float("-inf"))),
    "undefined": (NO_FORM, _payload(_with_claim(b"\xf7"))),
}
CLAIMS: Cases = {
    "profile of the drafts": ("evidence: .*profile: expected", _claim(profile="http://arm.com/psa/2.0.0")),
    "instance id of another key": ("evidence: .*instance id: expected", _claim(instance=b"\x01" + bytes(32))),
    "several nonces": ("evidence: .*nonce: expected bytes", _claim(nonce=[bytes(32), bytes(32)])),
    "nonce of no device": ("nonce: expected the service's nonce", _claim(nonce=bytes(32))),
    "client in the secure world": ("evidence: .*client id: expected", _claim(client=1)),
    "life cycle with a third byte": ("evidence: .*life cycle: expected", _claim(stage=0x13000)),
    "no boot seed": ("evidence: .*boot seed: expected", _claim(seed=b"")),
    "more components than slots": (
        "boot-order",
        lambda device: lambda claims: sign_claims(claims | {2399: claims[2399] * 3}, device.identity),
    ),
    "components without the last": (
        "m4-1/firmware: expected a measured image",
        lambda device: lambda claims: sign_claims(claims | {2399: claims[2399][:-1]}, device.identity),
    ),
    "two components changed places": (
        "boot-order",
        lambda device: (
            lambda claims: sign_claims(claims | {2399: [*claims[2399][1::-1], *claims[2399][2:]]}, device.identity)
        ),
    ),
}
BOMBS: dict[str, bytes] = {
    "deep arrays": b"\x81" * (MAX_TOKEN_BYTES - 200),
    "deep maps": b"\xa1\x00" * ((MAX_TOKEN_BYTES - 200) // 2),
    "an array of 2^63": b"\x9b\x7f" + b"\xff" * 7,
    "a map of 2^63": b"\xbb\x7f" + b"\xff" * 7,
    "a byte string of 2^63": b"\x5b\x7f" + b"\xff" * 7,
    "a text of 4 GiB": b"\x7a\xff\xff\xff\xff",
    "many empty arrays": b"\x99\x0e\x00" + b"\x80" * 0xE00,
}


async def test_no_algorithm_but_the_devices_own_is_taken(world: DeviceWorld, device: AttestingDevice) -> None:
    """ES384, MACs, none, unprotected and critical headers, foreign key ids and chains."""
    await assert_all_refused(world, device, ALGORITHMS)


async def test_only_one_encoding_is_taken(world: DeviceWorld, device: AttestingDevice) -> None:
    """Trailing bytes, duplicate keys, indefinite and long forms, tags, floats and numbers beyond 64 bits."""
    await assert_all_refused(world, device, FORMS)


async def test_claims_of_another_profile_device_or_boot_are_refused(
    world: DeviceWorld, device: AttestingDevice
) -> None:
    """Validly signed, one claim wrong."""
    await assert_all_refused(world, device, CLAIMS)


async def test_cbor_bomb_costs_no_memory(world: DeviceWorld, device: AttestingDevice) -> None:
    """As the token, and validly signed as claims: refused by its form, in a few hundred kilobytes."""
    cases: Cases = {}
    for name, bomb in BOMBS.items():
        cases[f"{name} as token"] = (NO_TOKEN, _token(lambda _token, bomb=bomb: bomb))  # type: ignore[misc]
        cases[f"{name} in a tag"] = (NO_TOKEN, _token(lambda _token, bomb=bomb: b"\xd2" + bomb))  # type: ignore[misc]
        cases[f"{name} as claims"] = (NO_FORM, _payload(lambda _claims, bomb=bomb: bomb))  # type: ignore[misc]
    tracemalloc.start()
    try:
        await assert_all_refused(world, device, cases)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()


async def test_oversized_token_is_refused_before_it_is_read(world: DeviceWorld, device: AttestingDevice) -> None:
    """One byte too many, of a token that is otherwise in order."""

    def spoil(claims: Claims) -> bytes:
        return sign_claims(claims | {7777: b"x" * MAX_TOKEN_BYTES}, device.identity)

    await assert_refused(world, device, spoil, f"evidence: .*expected at most {MAX_TOKEN_BYTES} bytes")


async def test_unknown_claims_change_nothing(world: DeviceWorld, device: AttestingDevice) -> None:
    """RFC 9783 §5.1.3: they are left alone, so that a device may say more than the service understands."""
    nonce, key = await world.nonce(device), SoftwareSigner.generate()
    honest = device.request(nonce, key)
    told = sign_claims(claims_of(honest.evidence) | {7777: {"more": [1, None]}}, device.identity)
    reply = await world.attestation.attest(device.peer, AttestationRequest(evidence=told, csr=honest.csr))
    assert reply.certificate_chain


async def test_evidence_and_csr_of_two_honest_requests_do_not_mix(world: DeviceWorld, device: AttestingDevice) -> None:
    """Each half is honest, fresh and the device's own; only together with its own other half is it worth anything."""
    for swapped in (False, True):
        count = await issued(world)
        first = device.request(await world.nonce(device), SoftwareSigner.generate())
        second = device.request(await world.nonce(device), SoftwareSigner.generate())
        evidence, csr = (first.evidence, second.csr) if swapped else (second.evidence, first.csr)
        with pytest.raises(AttestationRefusedError, match="nonce: expected the service's nonce bound to the key"):
            await world.attestation.attest(device.peer, AttestationRequest(evidence=evidence, csr=csr))
        with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
            await world.attestation.attest(device.peer, second)
        assert await issued(world) == count


async def test_one_of_two_requests_over_one_nonce_wins(world: DeviceWorld, device: AttestingDevice) -> None:
    """Sent at once, whichever comes first: one certificate, and the other is told that the nonce is spent."""
    count, nonce = await issued(world), await world.nonce(device)
    requests = [device.request(nonce, SoftwareSigner.generate()) for _ in range(4)]
    tries = (world.attestation.attest(device.peer, request) for request in requests)
    ended = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(outcome, AttestationReply) for outcome in ended) == 1
    refused = [outcome for outcome in ended if isinstance(outcome, AttestationRefusedError)]
    assert all("nonce: expected a nonce that is in force" in str(outcome) for outcome in refused)
    assert (len(refused), await issued(world)) == (3, count + 1)


@pytest.mark.parametrize("purpose", list(NoncePurpose))
async def test_nonce_of_another_purpose_is_refused(
    world: DeviceWorld, device: AttestingDevice, purpose: NoncePurpose
) -> None:
    """A nonce for EST serves no attestation and the other way round; it stays in force for its own purpose."""
    (other,) = set(NoncePurpose) - {purpose}
    request = NonceRequest(device_nonce=bytes(NONCE_BYTES))
    nonce = (await world.attestation.nonce(device.peer, request, purpose=other)).nonce
    honest, count = device.request(nonce, SoftwareSigner.generate()), await issued(world)
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.judge(device.peer, honest, purpose=purpose)
    assert await issued(world) == count
    await world.attestation.judge(device.peer, honest, purpose=other)


async def test_refused_tokens_are_on_record(world: DeviceWorld, device: AttestingDevice) -> None:
    """The operator reads what was wrong with the last one."""
    await assert_refused(world, device, _claim(client=1)(device), "client id")
    (newest,) = await world.results.page_history(device.device_id, before_id=None, limit=1)
    assert newest.appraisal.verdict is Verdict.REFUSED
