"""The later check of a ceremony: every edited, missing or additional file is named."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.catalog import load_catalog
from pki.ceremony_check import Act, check_ceremony, findings, read_declaration
from pki.errors import ChainError, DeclarationError, TranscriptError
from pki.issuance import certificate_sha256
from pki.manufacturers import TRUST_FILE, TrustList, sign_trust_list
from pki.online import load_certificate, online_keys, requested_key
from pki.profiles import Profile
from pki.roles import OfflineKey, OnlineKey
from pki.transcript import Made, StepKind, read_transcripts, sha256_hex, with_step
from protocol.signing import SoftwareSigner
from tests.unit.pki.held_ceremony_folder import held_ceremony, keys_of
from tests.unit.pki.pki_builder import NOW

CERTIFICATES = (
    *(f"operator/certificates/{name}.pem" for name in ("factory", "server-ca", "package")),
    *(f"service/certificates/{name}.pem" for name in ("root", "factory", "server-ca", "issuing-ca", "server", "ocsp")),
)
OTHER_FILES = (
    *(f"service/csr/{role}.pem" for role in OnlineKey),
    *(f"service/genesis/{name}" for name in ("catalog.json", "director.root.json", "image.root.json")),
)


def _found(folder: Path) -> list[str]:
    return list(check_ceremony(folder, keys=None).findings)


def test_untouched_ceremony_has_no_findings(tmp_path: Path) -> None:
    """Everything is there, the keys are the recorded ones, and the root's digest is the one to compare."""
    folder = held_ceremony(tmp_path)
    checked = check_ceremony(folder, keys=keys_of(folder))
    assert checked.findings == []
    assert checked.certificates == 10
    assert checked.transcripts[0].participants == ("Ada", "Grace")
    assert checked.root_sha256 == certificate_sha256(
        load_certificate(folder / "operator" / "certificates" / "root.pem")
    )


@pytest.mark.parametrize("name", [*CERTIFICATES, *OTHER_FILES])
def test_edited_file_is_named(tmp_path: Path, name: str) -> None:
    """One byte more."""
    path = held_ceremony(tmp_path) / name
    path.write_bytes(path.read_bytes() + b"\n")
    assert [finding for finding in _found(tmp_path) if finding.startswith(f"{name}: expected SHA-256 ")]


@pytest.mark.parametrize("name", [*CERTIFICATES, *OTHER_FILES])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """Whatever else its absence brings about."""
    (held_ceremony(tmp_path) / name).unlink()
    assert [finding for finding in _found(tmp_path) if finding.startswith(f"{name}: expected the ")]


@pytest.mark.parametrize("name", ["operator/certificates/extra.pem", "service/certificates/sub/extra.crt"])
def test_additional_certificate_is_named(tmp_path: Path, name: str) -> None:
    """Of whatever name, in either folder."""
    path = held_ceremony(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a certificate")
    assert _found(tmp_path) == [f"{name}: expected no certificate that no transcript names, found one"]


def test_list_of_manufacturers_is_the_root_s(tmp_path: Path) -> None:
    """Signed by it for this catalog, it may lie beside the certificates; a stranger's may not."""
    folder = held_ceremony(tmp_path)
    path = folder / "operator" / "certificates" / TRUST_FILE
    catalog = load_catalog(folder / "service" / "genesis" / "catalog.json")
    trusted = TrustList(catalog_id=catalog.catalog_id, version=1, made_at=NOW, manufacturers=())
    path.write_bytes(sign_trust_list(trusted, keys_of(folder).load(OfflineKey.ROOT)))
    assert _found(folder) == []
    path.write_bytes(sign_trust_list(trusted, SoftwareSigner.generate()))
    (finding,) = _found(folder)
    assert finding.startswith(
        "operator/certificates/manufacturers.json: manufacturers: expected a list by the catalog's"
    )


def test_half_written_file_of_a_killed_command_is_no_certificate(tmp_path: Path) -> None:
    """pki.files leaves it under a hidden name."""
    folder = held_ceremony(tmp_path)
    (folder / "operator" / "certificates" / ".root.pem.0123456789abcdef").write_bytes(b"half")
    assert _found(folder) == []


def test_missing_or_foreign_root_is_refused(tmp_path: Path) -> None:
    """Without it nothing can be verified; with another one no transcript is signed."""
    folder = held_ceremony(tmp_path)
    root, factory = (folder / "operator" / "certificates" / f"{name}.pem" for name in ("root", "factory"))
    other = self_signed_root(profiles.root_ca("demo", now=NOW), SoftwareSigner.generate())
    root.write_bytes(chain_pem([other.certificate]))
    with pytest.raises(TranscriptError, match=r"0001.json: expected a transcript signed by root, found: Transcript"):
        _found(folder)
    root.write_bytes(factory.read_bytes())
    with pytest.raises(ChainError, match="expected a certificate that signs itself, found another"):
        _found(folder)
    root.unlink()
    with pytest.raises(ChainError, match=r"certificate: expected .*root.pem"):
        _found(folder)


def test_authority_with_another_type_of_key_is_refused(tmp_path: Path) -> None:
    """An RSA root cannot have signed a transcript."""
    folder, key = held_ceremony(tmp_path), rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "demo root")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "operator" / "certificates" / "root.pem").write_bytes(chain_pem([certificate]))
    with pytest.raises(ChainError, match="authority: expected a P-256 key, found another type"):
        _found(folder)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: path.unlink(), TranscriptError, r"declaration: expected .*declaration.yaml"),
        (lambda path: path.write_bytes(b"a"), DeclarationError, "declaration: expected"),
        (
            lambda path: path.write_bytes(path.read_bytes() + b"# \n"),
            TranscriptError,
            r"declaration.yaml: expected SHA-256 .* of transcript 1, found",
        ),
    ],
)
def test_declaration_must_be_the_one_that_was_performed(
    tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    """A comment more is another declaration."""
    damage(held_ceremony(tmp_path) / "operator" / "ceremony" / "declaration.yaml")
    with pytest.raises(error, match=message):
        _found(tmp_path)


def _below_root(folder: Path, profile: Profile, public_key: ec.EllipticCurvePublicKey) -> bytes:
    root = load_certificate(folder / "operator" / "certificates" / "root.pem")
    authority = CertificateAuthority([root], keys_of(folder).load(OfflineKey.ROOT), publish_url="http://fleet.example")
    return chain_pem([authority.issue(profile, public_key)])


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            profiles.authority(
                "demo LDevID issuer",
                path_length=1,
                now=NOW,
                lifetime=profiles.ISSUING_CA_LIFETIME,
                constraints=profiles.NO_HOST,
            ),
            "basicConstraints: expected critical .*path_length=0.*, found critical .*path_length=1",
        ),
        (
            profiles.authority("demo LDevID issuer", path_length=0, now=NOW, lifetime=profiles.ISSUING_CA_LIFETIME),
            "nameConstraints: expected critical .*, found none",
        ),
        (
            profiles.authority(
                "demo LDevID issuer",
                path_length=0,
                now=NOW,
                lifetime=profiles.ISSUING_CA_LIFETIME + timedelta(days=1),
                constraints=profiles.NO_HOST,
            ),
            "end: expected 2031-02-28 12:00:00.*, found 2031-03-01",
        ),
        (
            profiles.authority(
                "demo issuer",
                path_length=0,
                now=NOW,
                lifetime=profiles.ISSUING_CA_LIFETIME,
                constraints=profiles.NO_HOST,
            ),
            "subject: expected CN=demo LDevID issuer, found CN=demo issuer",
        ),
        (
            profiles.authority(
                "demo LDevID issuer",
                path_length=0,
                now=NOW,
                lifetime=profiles.ISSUING_CA_LIFETIME,
                constraints=profiles.NO_HOST,
                revocation=profiles.Revocation.NO_CHECK,
            ),
            "OCSPNoCheck: expected none, found .*; .*cRLDistributionPoints: expected .*, found none",
        ),
    ],
)
def test_certificate_that_the_root_signed_but_nobody_declared_is_refused(
    tmp_path: Path, profile: Profile, message: str
) -> None:
    """Even if its digest were recorded: every field is compared with the declaration."""
    folder = held_ceremony(tmp_path)
    path = folder / "service" / "certificates" / "issuing-ca.pem"
    path.write_bytes(_below_root(folder, profile, requested_key(folder / "service", OnlineKey.ISSUING_CA)))
    found = "; ".join(_as_if_recorded(folder, "service/certificates/issuing-ca.pem"))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


def test_certificate_of_another_fingerprint_is_refused(tmp_path: Path) -> None:
    """The file's digest is right, but not that of the certificate in it."""
    name = "service/certificates/server.pem"
    found = _as_if_recorded(held_ceremony(tmp_path), name, fingerprint="0" * 64)
    assert found == [f"{name}: expected the certificate that the transcript names, found another"]


def _as_if_recorded(folder: Path, name: str, *, fingerprint: str | None = None) -> list[str]:
    """The findings if the transcript named what now lies there."""
    content = (folder / name).read_bytes()
    transcript = read_transcripts(folder / "operator", keys=_signers(folder))[0]
    fingerprint = fingerprint or certificate_sha256(load_certificate(folder / name))
    made = Made(StepKind.CERTIFICATE, name, sha256_hex(content), fingerprint)
    steps = with_step(transcript.steps, made, at=NOW)
    kept = [step for step in steps[:-1] if step.name != name]
    declared = read_declaration(folder / "operator")
    return list(findings(folder, declared, [Act(transcript.began_at, (*kept, steps[-1]))]))


def _signers(folder: Path) -> dict[OfflineKey, ec.EllipticCurvePublicKey]:
    return {OfflineKey.ROOT: keys_of(folder).load(OfflineKey.ROOT).public_key}


def test_certificate_of_another_key_or_issuer_is_refused(tmp_path: Path) -> None:
    """A key that was exchanged, and a server's certificate by the root in the place of the server CA."""
    folder = held_ceremony(tmp_path)
    name = "service/certificates/server.pem"
    profile = profiles.server([*profiles.LOOPBACK_HOSTNAMES, "fleet.example"], now=NOW)
    (folder / name).write_bytes(_below_root(folder, profile, SoftwareSigner.generate().public_key))
    found = _as_if_recorded(folder, name)
    assert f"{name}: expected the recorded key of server, found another" in found
    assert f"{name}: issuer: expected a signature by CN=demo server issuer, found another" in found


def test_certificate_that_no_ceremony_makes_is_refused(tmp_path: Path) -> None:
    """Named by a transcript or not."""
    folder = held_ceremony(tmp_path)
    name = "operator/certificates/voucher.pem"
    (folder / name).write_bytes((folder / "operator" / "certificates" / "factory.pem").read_bytes())
    assert any(
        finding.startswith(f"{name}: certificate: expected one of root") for finding in _as_if_recorded(folder, name)
    )


def test_certificate_with_another_type_of_key_is_refused(tmp_path: Path) -> None:
    """Signed by the root, but of an RSA key."""
    folder, key = held_ceremony(tmp_path), rsa.generate_private_key(65537, 2048)
    name = "service/certificates/issuing-ca.pem"
    profile = profiles.issuing_ca("demo", now=NOW)
    (folder / name).write_bytes(_below_root(folder, profile, key.public_key()))  # type: ignore[arg-type]  # on purpose
    assert f"{name}: authority: expected a P-256 key, found another type or curve" in _as_if_recorded(folder, name)


def test_exchanged_missing_and_moved_keys_are_named(tmp_path: Path) -> None:
    """Offline and online ones, where the stores are opened."""
    folder = held_ceremony(tmp_path)
    offline, online = folder / "operator" / "keys", folder / "service" / "keys"
    (offline / "voucher.pem").unlink()
    (offline / "golden.pem").unlink()
    keys_of(folder).generate(OfflineKey.GOLDEN)
    (online / "director.pem").unlink()
    online_keys(folder / "service").generate(OnlineKey.DIRECTOR)
    found = check_ceremony(folder, keys=keys_of(folder)).findings
    assert [finding.split(" SHA-256")[0] for finding in found] == [
        "key golden: expected",
        "key voucher: expected in store file, found none",
        "key director: expected",
    ]
    assert check_ceremony(folder, keys=None).findings == []


def test_key_in_another_store_than_recorded_is_named(tmp_path: Path) -> None:
    """keys.toml was changed after the ceremony."""
    folder = held_ceremony(tmp_path)
    stores = keys_of(folder)
    moved = type(stores)(stores.files, {}, {OfflineKey.ROOT: "hsm"})
    assert "key root: expected in store file, found hsm" in check_ceremony(folder, keys=moved).findings


def test_operator_s_machine_has_no_online_keys(tmp_path: Path) -> None:
    """They stay with the service, so they are not looked for."""
    folder = held_ceremony(tmp_path)
    for path in (folder / "service" / "keys").iterdir():
        path.unlink()
    (folder / "service" / "keys").rmdir()
    assert check_ceremony(folder, keys=keys_of(folder)).findings == []


def test_unreadable_certificate_is_named(tmp_path: Path) -> None:
    """Neither a traceback nor silence."""
    folder = held_ceremony(tmp_path)
    (folder / "service" / "certificates" / "ocsp.pem").write_bytes(b"-----BEGIN nothing")
    assert any("ocsp.pem: certificate chain: expected X.509" in finding for finding in _found(folder))


@pytest.mark.parametrize("name", ["operator/certificates/root.pem", *CERTIFICATES])
def test_certificate_with_a_flipped_byte_is_found_or_refused(tmp_path: Path, name: str) -> None:
    """Wherever it is: cryptography reads some parts late, and complains of each in another way."""
    folder = held_ceremony(tmp_path)
    path, whole = folder / name, load_certificate(folder / name).public_bytes(Encoding.DER)
    for index in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[index] ^= 0x11
        path.write_bytes(bytes(damaged))
        try:
            found = _found(folder)
        except (ChainError, TranscriptError):
            continue
        assert any(finding.startswith(f"{name}: ") for finding in found)


def test_certificate_whose_issuer_lost_its_key_identifier_is_named(tmp_path: Path) -> None:
    """What should be in it cannot be said then; that is a finding as well."""
    folder = held_ceremony(tmp_path)
    path = folder / "operator" / "certificates" / "factory.pem"
    factory = load_certificate(path).public_bytes(Encoding.DER)
    path.write_bytes(factory.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d7e")))
    assert [
        finding
        for finding in _found(folder)
        if finding.startswith("service/certificates/ocsp.pem: expected certificates that can be read")
    ]


def test_transcript_is_json_that_names_every_step(tmp_path: Path) -> None:
    """For whoever reads it without our code: a DSSE envelope."""
    envelope = json.loads((held_ceremony(tmp_path) / "operator" / "ceremony" / "0001.json").read_bytes())
    assert envelope["payloadType"] == "application/vnd.tinyfleet.ceremony+json"
    assert len(envelope["signatures"]) == 1
