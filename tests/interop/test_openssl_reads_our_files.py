"""OpenSSL, a stranger to our code, verifies our certificates and opens our keys."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.csr import make_csr
from pki.keystore import FileKeyStore
from protocol.identity import device_id_of
from protocol.signing import SoftwareSigner

NOW = datetime.now(UTC)  # noqa: TID251 - openssl goes by the wall clock
PASSPHRASE = "correct horse battery"


def _openssl(*arguments: str | Path) -> str:
    run = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)  # noqa: S607
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_openssl_verifies_every_certificate_strictly(tmp_path: Path) -> None:
    """Path, RFC 5280 strictness and purpose of each kind."""
    root = self_signed_root(profiles.root_ca("demo", now=NOW), SoftwareSigner.generate())
    (tmp_path / "root.pem").write_bytes(chain_pem([root.certificate]))
    key = SoftwareSigner.generate()
    device_id = device_id_of(key.public_key)
    cases = {
        "idevid": (profiles.factory_ca, profiles.idevid(device_id, now=NOW), "sslclient"),
        "ldevid": (profiles.issuing_ca, profiles.ldevid(device_id, now=NOW), "sslclient"),
        "operator": (profiles.issuing_ca, profiles.operator_client("ada", now=NOW), "sslclient"),
    }
    for name, (authority_profile, profile, purpose) in cases.items():
        signer = SoftwareSigner.generate()
        authority = CertificateAuthority([root.issue(authority_profile("demo", now=NOW), signer.public_key)], signer)
        (tmp_path / "ca.pem").write_bytes(chain_pem([authority.certificate]))
        leaf = tmp_path / f"{name}.pem"
        leaf.write_bytes(chain_pem([authority.issue(profile, key.public_key)]))
        trust = ("-CAfile", tmp_path / "root.pem", "-untrusted", tmp_path / "ca.pem")
        assert "OK" in _openssl("verify", "-x509_strict", "-purpose", purpose, *trust, leaf)


def test_openssl_accepts_the_server_for_its_names(tmp_path: Path) -> None:
    """Host name and address."""
    root = self_signed_root(profiles.root_ca("demo", now=NOW), SoftwareSigner.generate())
    (tmp_path / "root.pem").write_bytes(chain_pem([root.certificate]))
    profile = profiles.server(["fleet.example", "127.0.0.1"], now=NOW)
    server = tmp_path / "server.pem"
    server.write_bytes(chain_pem([root.issue(profile, SoftwareSigner.generate().public_key)]))
    base = ("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", tmp_path / "root.pem")
    assert "OK" in _openssl(*base, "-verify_hostname", "fleet.example", server)
    assert "OK" in _openssl(*base, "-verify_ip", "127.0.0.1", server)


def test_openssl_opens_the_encrypted_key(tmp_path: Path) -> None:
    """PKCS#8 with scrypt is nobody's own format."""
    signer = FileKeyStore(tmp_path, passphrase=PASSPHRASE.encode).generate("root")
    public = _openssl("pkey", "-in", tmp_path / "root.pem", "-passin", f"pass:{PASSPHRASE}", "-pubout")
    (tmp_path / "request.pem").write_bytes(make_csr(signer, "root"))
    assert public == _openssl("req", "-in", tmp_path / "request.pem", "-noout", "-pubkey")
    assert "scrypt" in _openssl("asn1parse", "-in", tmp_path / "root.pem")


def test_openssl_verifies_the_request(tmp_path: Path) -> None:
    """Proof of possession of an online key."""
    (tmp_path / "request.pem").write_bytes(make_csr(SoftwareSigner.generate(), "director"))
    assert "CN = director" in _openssl("req", "-in", tmp_path / "request.pem", "-verify", "-noout", "-subject")
