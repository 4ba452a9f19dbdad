"""Our evidence in the hands of others: Veraison's verifier reads it, and RFC 9783's own example is read here.

The verifier is a Go program beside this file. It needs the `go` command and, the first time, the Go module proxy;
where either is missing these tests are skipped, and say so.
"""

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE
from cwt.algs.ec2 import EC2Key

from device_sim.hardware.root_of_trust import IMPLEMENTATION_ID, RootOfTrust
from protocol.evidence import (
    PROFILE,
    LifeCycle,
    SoftwareComponent,
    TokenError,
    TokenSignatureError,
    instance_id_of,
    sign_evidence,
    verify_evidence,
)
from protocol.geometry import Slot
from protocol.identity import device_id_of, spki_der
from protocol.signing import SoftwareSigner
from tests.attesting_device import HONEST
from tests.hostile_evidence import sign_claims

pytestmark = pytest.mark.timeout(300)  # the first test builds the verifier

FOLDER = Path(__file__).parent
DOWNLOAD_SECONDS, BUILD_SECONDS, READ_SECONDS = 60, 200, 20
COMPONENTS = tuple(
    SoftwareComponent(slot.value, hashlib.sha256(slot.encode()).digest(), b"\x05" * 32, f"{slot.kind}@1.2.3")
    for slot in Slot
)
# RFC 9783 Appendix A.2: the example COSE_Sign1 and the key that signed it.
RFC_TOKEN = bytes.fromhex(
    "d28443a10126a0590100a8190100582101020202020202020202020202020202020202020202020202020202020202020219095c5820"
    "00000000000000000000000000000000000000000000000000000000000000000a582001010101010101010101010101010101010101"
    "0101010101010101010101010119095a1a7fffffff19095b19300019010978217461673a7073616365727469666965642e6f72672c32"
    "3032333a7073612374666d19010c48000000000000000019095f81a3055820040404040404040404040404040404040404040404040404"
    "04040404040404040258200303030303030303030303030303030303030303030303030303030303030303016450526f545840786e93"
    "7a4c42667af3847399319ca95c7e7dbabdc9b50fdb8de3f6bff4ab82ff80c42140e2a488000219e3e10663193da69c75f52b798ea10b"
    "2f7041a90e8e5a"
)
RFC_KEY = ec.EllipticCurvePublicNumbers(
    int("4e5e22099e3bceb45b446d1355fd1dc3b545947b6fd7c1c89d886798c3726e8f", 16),
    int("80d70b840b256aac34a62ede1043364f044095f003474b91e0182092afb13f2e", 16),
    ec.SECP256R1(),
).public_key()


def _go(*command: str, seconds: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    return subprocess.run(
        ["go", *command],  # noqa: S607 - whatever go the machine has
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Veraison's verifier, built here."""
    if shutil.which("go") is None:
        pytest.skip("expected the go command, found none: Veraison's verifier is not built")
    try:
        fetched = _go("mod", "download", seconds=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"expected the Go module proxy to answer within {DOWNLOAD_SECONDS} s, found it silent")
    if fetched.returncode:
        pytest.skip(f"expected the modules of Veraison's verifier, found: {fetched.stderr.strip()[-300:]}")
    program = tmp_path_factory.mktemp("verifier") / "read-evidence"
    built = _go("build", "-o", str(program), ".", seconds=BUILD_SECONDS)
    assert built.returncode == 0, built.stderr
    return program


def read(verifier: Path, folder: Path, token: bytes, key: ec.EllipticCurvePublicKey) -> dict[str, Any] | str:
    """What the verifier says of a token: its claims, or why it refuses it."""
    (folder / "token.cbor").write_bytes(token)
    (folder / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    command = [verifier, folder / "token.cbor", folder / "key.pem"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READ_SECONDS, check=False)
    claims: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return claims or done.stderr


def test_veraison_reads_every_claim_of_a_simulated_devices_evidence(verifier: Path, tmp_path: Path) -> None:
    """A device's root of trust attests; the signature holds and every claim is what the device put in."""
    device = RootOfTrust.manufacture(tmp_path / "rot.json", SoftwareSigner.generate())
    nonce = hashlib.sha256(b"nonce").digest()
    found = read(verifier, tmp_path, device.attest(nonce, COMPONENTS), device.public_key)
    assert found == {
        "nonce": nonce.hex(),
        "instance_id": "01" + hashlib.sha256(spki_der(device.public_key)).hexdigest(),
        "implementation_id": IMPLEMENTATION_ID.hex(),
        "boot_seed": device.boot_seed.hex(),
        "profile": PROFILE,
        "client_id": -1,
        "lifecycle": LifeCycle.SECURED,
        "components": [
            {
                "type": part.type,
                "measurement": part.measurement.hex(),
                "version": part.version,
                "signer_id": part.signer_id.hex(),
            }
            for part in COMPONENTS
        ],
    }


def test_cwt_verifies_what_the_device_signed() -> None:
    """The library that signs, asked to verify by the public half alone, finds the claims that the verifier finds."""
    identity = SoftwareSigner.generate()
    token = sign_evidence(HONEST, identity)
    numbers = identity.public_key.public_numbers()
    x, y = (value.to_bytes(32, "big") for value in (numbers.x, numbers.y))
    kid = bytes.fromhex(device_id_of(identity.public_key))
    payload = COSE.new().decode(token, EC2Key({1: 2, 2: kid, 3: -7, -1: 1, -2: x, -3: y}))
    claims = cbor2.loads(payload)
    assert (claims[10], claims[268], claims[2399][0][1]) == (
        HONEST.nonce,
        HONEST.boot_seed,
        HONEST.components[0].type,
    )


def test_veraison_refuses_evidence_by_another_key_and_spoiled_evidence(verifier: Path, tmp_path: Path) -> None:
    """It is a verifier, not only a reader: the signature counts, and so does every claim's form."""
    identity = SoftwareSigner.generate()
    token = sign_evidence(HONEST, identity)
    assert "signature verification failed" in read(verifier, tmp_path, token, SoftwareSigner.generate().public_key)
    flipped = token[:-1] + bytes([token[-1] ^ 1])
    assert "signature verification failed" in read(verifier, tmp_path, flipped, identity.public_key)
    short = sign_evidence(replace(HONEST, implementation_id=b"short"), identity)
    assert "validating implementation id" in read(verifier, tmp_path, short, identity.public_key)


def test_veraison_reads_the_example_of_the_rfc(verifier: Path, tmp_path: Path) -> None:
    """So it is RFC 9783 that it reads, and not our idea of it."""
    found = read(verifier, tmp_path, RFC_TOKEN, RFC_KEY)
    assert isinstance(found, dict)
    assert (found["nonce"], found["boot_seed"], found["client_id"]) == ("01" * 32, "00" * 8, 0x7FFFFFFF)
    assert found["components"] == [
        {"type": "PRoT", "measurement": "03" * 32, "version": "", "signer_id": "04" * 32},
    ]


def test_example_of_the_rfc_misses_only_what_our_profile_asks_for() -> None:
    """A kid, an instance id made of the key, the client id of our devices; the rest is taken as it is."""
    with pytest.raises(TokenError, match="unprotected header: expected the device id as kid"):
        verify_evidence(RFC_TOKEN, RFC_KEY)
    protected, _, payload, signature = cbor2.loads(RFC_TOKEN).value
    kid = bytes.fromhex(device_id_of(RFC_KEY))
    with_kid = cbor2.dumps(cbor2.CBORTag(18, [protected, {4: kid}, payload, signature]))
    with pytest.raises(TokenError, match="client id: expected an integer from -1 to -1"):
        verify_evidence(with_kid, RFC_KEY)
    with pytest.raises(TokenSignatureError):
        verify_evidence(with_kid[:-1] + bytes([with_kid[-1] ^ 1]), RFC_KEY)
    identity, claims = SoftwareSigner.generate(), cbor2.loads(payload)
    claims[2394] = -1
    with pytest.raises(TokenError, match="instance id: expected the one of the identity key"):
        verify_evidence(sign_claims(claims, identity), identity.public_key)
    claims[256] = instance_id_of(identity.public_key)
    found = verify_evidence(sign_claims(claims, identity), identity.public_key)
    assert (found.boot_seed, found.components[0].type, found.components[0].version) == (bytes(8), "PRoT", "")
