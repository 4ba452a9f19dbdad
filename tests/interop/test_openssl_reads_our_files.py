"""OpenSSL, a stranger to our code, verifies our certificates and opens our keys."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem
from pki.csr import make_csr
from pki.keystore import FileKeyStore
from protocol.identity import FULL_ACCESS_POLICY, UPDATE_ONLY_POLICY, device_id_of
from protocol.signing import SoftwareSigner
from tests.interop.every_certificate import NOW, Issued, every_certificate, make_hierarchy

PASSPHRASE = "correct horse battery"


def _openssl(*arguments: str | Path) -> str:
    run = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)  # noqa: S607
    assert run.returncode == 0, run.stderr
    return run.stdout


def _written(folder: Path, issued: Issued) -> tuple[list[str | Path], Path]:
    """Write a certificate and those above it; the arguments that make openssl trust the root alone."""
    *between, root = issued.above or (issued.certificate,)
    (folder / "root.pem").write_bytes(chain_pem([root]))
    (folder / "between.pem").write_bytes(chain_pem(between or [root]))
    (folder / "leaf.pem").write_bytes(chain_pem([issued.certificate]))
    return ["-CAfile", folder / "root.pem", "-untrusted", folder / "between.pem"], folder / "leaf.pem"


@pytest.mark.parametrize("publish_url", [None, "http://fleet.example:8444"])
def test_openssl_verifies_every_certificate_strictly(tmp_path: Path, publish_url: str | None) -> None:
    """Path, path length, name constraints, RFC 5280 strictness and purpose of each kind; and it can print each."""
    for issued in every_certificate(publish_url=publish_url).values():
        trust, leaf = _written(tmp_path, issued)
        assert "OK" in _openssl("verify", "-x509_strict", "-purpose", issued.purpose, *trust, leaf)
        assert "X509v3 Subject Key Identifier" in _openssl("x509", "-in", leaf, "-noout", "-text")


def test_openssl_prints_what_the_profiles_say(tmp_path: Path) -> None:
    """Constraints, policies, purposes and where revocations are, in OpenSSL's words."""
    expected = {
        "root": ["CA:TRUE, pathlen:1", "Certificate Sign, CRL Sign"],
        "factory": ["CA:TRUE, pathlen:0", "Excluded:\n                  DNS:\n                  IP:0.0.0.0/0.0.0.0"],
        "server-ca": ["Permitted:\n                  DNS:fleet.example", "IP:127.0.0.1/255.255.255.255"],
        "package": ["Code Signing", "CA:FALSE"],
        "ocsp": ["OCSP Signing", "OCSP No Check"],
        "server": ["TLS Web Server Authentication", "DNS:localhost", "/pki/crl/"],
        "idevid": [
            "TLS Web Client Authentication",
            "OCSP - URI:http://fleet.example:8444/pki/ocsp",
            "Dec 31 23:59:59 9999",
        ],
        "ldevid": [f"Policy: {FULL_ACCESS_POLICY.dotted_string}", "Subject Alternative Name: critical"],
        "ldevid-update-only": [f"Policy: {UPDATE_ONLY_POLICY.dotted_string}"],
    }
    certificates = every_certificate(publish_url="http://fleet.example:8444")
    for name, wanted in expected.items():
        _, leaf = _written(tmp_path, certificates[name])
        text = _openssl("x509", "-in", leaf, "-noout", "-text")
        assert [words for words in wanted if words not in text] == [], (name, text)


@pytest.mark.parametrize("host", ["fleet.example", "other.example", "192.0.2.1", "::2"])
@pytest.mark.parametrize("authority", ["factory", "issuing"])
def test_authority_of_devices_cannot_name_a_server(tmp_path: Path, host: str, authority: str) -> None:
    """OpenSSL and cryptography refuse whatever host it names, and OpenSSL a common name, too."""
    tree = make_hierarchy()
    issuer = tree.factory if authority == "factory" else tree.issuing
    leaf = issuer.issue(profiles.server([host], now=NOW), SoftwareSigner.generate().public_key)
    _refused_by_both(
        tmp_path, Issued(leaf, (issuer.certificate, tree.root.certificate), "sslserver"), "excluded subtree"
    )


def test_common_name_of_a_host_is_refused_below_an_authority_of_devices(tmp_path: Path) -> None:
    """By OpenSSL; cryptography never takes a common name for a host."""
    tree = make_hierarchy()
    profile = replace(profiles.ocsp_responder("x", now=NOW), subject=_common_name("fleet.example"))
    leaf = tree.factory.issue(profile, SoftwareSigner.generate().public_key)
    issued = Issued(leaf, (tree.factory.certificate, tree.root.certificate), "any")
    assert "excluded subtree violation" in _refusal(tmp_path, issued)


@pytest.mark.parametrize("host", ["other.example", "192.0.2.1", "::2"])
def test_server_ca_cannot_name_another_host(tmp_path: Path, host: str) -> None:
    """Only those of the declaration."""
    tree = make_hierarchy()
    leaf = tree.server.issue(profiles.server([host], now=NOW), SoftwareSigner.generate().public_key)
    issued = Issued(leaf, (tree.server.certificate, tree.root.certificate), "sslserver")
    _refused_by_both(tmp_path, issued, "permitted subtree")


def test_server_ca_cannot_name_a_device(tmp_path: Path) -> None:
    """RFC 5280 §4.2.1.10: any constraint on URIs refuses a URI without a host, as every URN is."""
    tree, key = make_hierarchy(), SoftwareSigner.generate().public_key
    leaf = tree.server.issue(profiles.ldevid(device_id_of(key), now=NOW), key)
    issued = Issued(leaf, (tree.server.certificate, tree.root.certificate), "sslclient")
    _refused_by_both(tmp_path, issued, "unsupported or invalid name syntax")


def test_authority_below_an_authority_is_refused(tmp_path: Path) -> None:
    """Path length 0: the issuing CA cannot make an authority of another name."""
    tree, signer = make_hierarchy(), SoftwareSigner.generate()
    below = tree.issuing.issue(profiles.issuing_ca("another", now=NOW), signer.public_key)
    key = SoftwareSigner.generate().public_key
    leaf = CertificateAuthority([below], signer).issue(profiles.ldevid(device_id_of(key), now=NOW), key)
    issued = Issued(leaf, (below, tree.issuing.certificate, tree.root.certificate), "sslclient")
    _refused_by_both(tmp_path, issued, "path length constraint exceeded")


def _refused_by_both(folder: Path, issued: Issued, reason: str) -> None:
    assert reason in _refusal(folder, issued)
    policy = ExtensionPolicy.webpki_defaults_ca()
    *between, root = issued.above
    builder = PolicyBuilder().store(Store([root])).time(NOW)
    builder = builder.extension_policies(ca_policy=policy, ee_policy=ExtensionPolicy.permit_all())
    with pytest.raises(VerificationError, match="candidates exhausted"):
        builder.build_client_verifier().verify(issued.certificate, between)


def _refusal(folder: Path, issued: Issued) -> str:
    trust, leaf = _written(folder, issued)
    words = ["openssl", "verify", "-x509_strict", "-purpose", issued.purpose, *map(str, trust), str(leaf)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    return run.stderr


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def test_openssl_accepts_the_server_for_its_names(tmp_path: Path) -> None:
    """Host name and address."""
    trust, server = _written(tmp_path, every_certificate()["server"])
    base = ("verify", "-x509_strict", "-purpose", "sslserver", *trust)
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
