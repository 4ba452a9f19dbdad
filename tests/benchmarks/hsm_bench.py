"""Signatures and certificates per second with a key in SoftHSM2, beside a key from a file, in one run on one core.

A certificate is what the issuing CA does for a device: one CSR checked, one LDevID issued, through the product's own
code. Its peer is the bare `cryptography` loop: a CSR's signature checked and a certificate of the same extensions
signed, by the library alone with the key in memory.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pki import profiles
from pki.authority import CertificateAuthority, self_signed_root
from pki.csr import verify_ldevid_csr
from pki.keystore import FileKeyStore
from pki.signer_key import SignerKey
from protocol.identity import device_id_of, device_uri
from protocol.signing import Signer, SoftwareSigner
from tests.softhsm import make_softhsm

SECONDS = 2.0  # of each measurement, which is done ROUNDS times in turn with the others
ROUNDS = 3
ROLE = "issuing-ca"


@dataclass(frozen=True, slots=True)
class Device:
    """Who asks for a certificate."""

    identity: SoftwareSigner
    key: SoftwareSigner
    csr: bytes

    @classmethod
    def make(cls) -> "Device":
        """Make a device with its request, DER."""
        identity, key = SoftwareSigner.generate(), SoftwareSigner.generate()
        uri = x509.UniformResourceIdentifier(device_uri(device_id_of(identity.public_key)))
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        return cls(identity, key, builder.sign(SignerKey(key), hashes.SHA256()).public_bytes(Encoding.DER))


def authority(signer: Signer, now: datetime) -> CertificateAuthority:
    """Return an issuing CA of this key below a root of its own."""
    root = self_signed_root(profiles.root_ca("bench", now=now), SoftwareSigner.generate())
    return CertificateAuthority([root.issue(profiles.issuing_ca("bench", now=now), signer.public_key)], signer)


def issue(issuer: CertificateAuthority, device: Device, now: datetime) -> Callable[[], object]:
    """Return one check and issue through the product."""
    device_id, identity_key = device_id_of(device.identity.public_key), device.identity.public_key
    lifetime = timedelta(days=1)

    def once() -> object:
        verified = verify_ldevid_csr(device.csr, device_id, identity_key=identity_key)
        return issuer.issue(profiles.ldevid(device_id, now=now, lifetime=lifetime), verified.public_key)

    return once


def bare(issuer: CertificateAuthority, device: Device, now: datetime) -> Callable[[], object]:
    """Return one check and issue by cryptography alone; extensions as the product's certificate has them."""
    key, example = SoftwareSigner.generate().private_key, issue(issuer, device, now)()
    assert isinstance(example, x509.Certificate)
    extensions = list(example.extensions)

    def once() -> object:
        request = x509.load_der_x509_csr(device.csr)
        assert request.is_signature_valid
        builder = x509.CertificateBuilder(
            issuer_name=issuer.certificate.subject,
            subject_name=request.subject,
            public_key=request.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now,
            not_valid_after=now + timedelta(days=1),
            extensions=extensions,
        )
        return builder.sign(key, hashes.SHA256())

    return once


def rates(measured: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return how often each is done per second: the best of several rounds, in turn."""
    best = dict.fromkeys(measured, 0.0)
    for _ in range(ROUNDS):
        for name, once in measured.items():
            count, begin = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - begin) < SECONDS:
                once()
                count += 1
            best[name] = max(best[name], count / elapsed)
    return best


def row(name: str, found: dict[str, float], *, ours: str, peer: str, note: str) -> dict[str, object]:
    """Return one row of the table."""
    mine, other = found[ours], found[peer]
    return {
        "name": name,
        "ours": mine,
        "peer": other,
        "ratio": mine / other,
        "unit": "1/s",
        "note": note,
    }


def main() -> None:
    """Print the rows."""
    now, device, data = datetime.now(UTC), Device.make(), bytes(500)  # noqa: TID251 - any time will do
    with tempfile.TemporaryDirectory() as folder:
        hsm = make_softhsm(Path(folder) / "hsm")
        os.environ["SOFTHSM2_CONF"] = str(hsm.conf)
        token = hsm.store().generate(ROLE)
        file = FileKeyStore(Path(folder) / "keys", passphrase=None).generate(ROLE)
        in_token, in_file = authority(token, now), authority(file, now)
        found = rates(
            {
                "token": lambda: token.sign(data),
                "file": lambda: file.sign(data),
                "issue token": issue(in_token, device, now),
                "issue file": issue(in_file, device, now),
                "bare": bare(in_file, device, now),
            }
        )
    bare_loop = "CSR check and issue, one core; peer: bare cryptography loop, key in memory"
    rows = [
        row("signatures in SoftHSM2", found, ours="token", peer="file", note="ECDSA P-256, 500 B; peer: key of a file"),
        row("certificates, key in SoftHSM2", found, ours="issue token", peer="bare", note=bare_loop),
        row("certificates, key of a file", found, ours="issue file", peer="bare", note=bare_loop),
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
