"""OpenSSL, with one generation of the issuing CA pinned, accepts certificates by both, each by a cross certificate."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.keystore import FileKeyStore
from pki.rollover import key_role
from protocol.identity import device_id_of
from protocol.signing import SoftwareSigner
from tests.interop.every_certificate import NOW, roll_over


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service's folder after a rollover: root.pem, and a device's certificate by each generation."""
    service = tmp_path_factory.mktemp("rollover")
    root_signer = SoftwareSigner.generate()
    root = self_signed_root(profiles.root_ca("demo", now=NOW), root_signer)
    acceptance = roll_over(service, root, root_signer)
    (_, old), new = acceptance.predecessor, acceptance.certificate
    _write(service, "root", root.certificate)
    keys = FileKeyStore(service / "keys", passphrase=None)
    device = SoftwareSigner.generate()
    profile = profiles.ldevid(device_id_of(device.public_key), now=NOW)
    for generation, certificate in ((1, old), (2, new)):
        authority = CertificateAuthority([certificate], keys.load(key_role(generation)))
        _write(service, f"device-{generation}", authority.issue(profile, device.public_key))
    return service / "certificates"


def _write(service: Path, name: str, certificate: x509.Certificate) -> None:
    (service / "certificates" / f"{name}.pem").write_bytes(chain_pem([certificate]))


def _verify(folder: Path, leaf: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", *options, f"{leaf}.pem"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("leaf", "pinned", "cross"),
    [
        ("device-2", "issuing-ca", "issuing-ca-2-by-1"),
        ("device-1", "issuing-ca-2", "issuing-ca-1-by-2"),
    ],
)
def test_pinned_generation_accepts_the_other(folder: Path, leaf: str, pinned: str, cross: str) -> None:
    """New with old and old with new; without the cross certificate it does not."""
    trust = ("-partial_chain", "-no-CAfile", "-no-CApath", "-trusted", f"{pinned}.pem")
    found = _verify(folder, leaf, *trust, "-untrusted", f"{cross}.pem")
    assert (found.returncode, found.stdout) == (0, f"{leaf}.pem: OK\n"), found.stderr
    assert _verify(folder, leaf, *trust).returncode != 0


@pytest.mark.parametrize(("leaf", "issuer"), [("device-1", "issuing-ca"), ("device-2", "issuing-ca-2")])
def test_root_accepts_both_generations(folder: Path, leaf: str, issuer: str) -> None:
    """Among authorities and cross certificates of one name, OpenSSL finds the way to the root by key identifier."""
    others = ("issuing-ca", "issuing-ca-2", "issuing-ca-2-by-1", "issuing-ca-1-by-2")
    everything = [part for name in others for part in ("-untrusted", f"{name}.pem")]
    for untrusted in (["-untrusted", f"{issuer}.pem"], everything):
        found = _verify(folder, leaf, "-CAfile", "root.pem", *untrusted)
        assert (found.returncode, found.stdout) == (0, f"{leaf}.pem: OK\n"), found.stderr


@pytest.mark.parametrize("cross", ["issuing-ca-2-by-1", "issuing-ca-1-by-2"])
def test_cross_certificate_does_not_lengthen_the_path(folder: Path, cross: str) -> None:
    """Path length 0 below a path length of 0 holds, because it is self-issued; read back from what OpenSSL prints."""
    words = ["openssl", "x509", "-in", f"{cross}.pem", "-noout", "-text"]
    text = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "CA:TRUE, pathlen:0" in text
    lines = [line.strip() for line in text.splitlines()]
    names = {line.partition(":")[2].strip() for line in lines if line.startswith(("Issuer:", "Subject:"))}
    assert names == {"CN = demo LDevID issuer"}
