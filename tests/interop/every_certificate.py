"""One certificate of every kind that any authority issues, with and without a place where revocations are published.

Those of a ceremony that declares everything, and of a rollover, are made the way that the ceremony and the rollover go.
"""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.ceremony_certificates import planned_certificates
from pki.ceremony_declaration import parse_declaration
from pki.issuance import certificate_sha256
from pki.keystore import FileKeyStore
from pki.profiles import Profile
from pki.rollover import Acceptance, accept_generation, request_generation, sign_generation, verify_generation
from protocol.identity import Access, device_id_of
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import DECLARED_CERTIFICATES

NOW = datetime.now(UTC)  # noqa: TID251 - openssl goes by the wall clock
HOSTS = ("fleet.example", *profiles.LOOPBACK_HOSTNAMES)
EVERYTHING_DECLARED = f"""
catalog: Épreuve
participants: [Ada Lovelace, Grace Hopper]
hostnames: [a.fleet.example, 192.0.2.7]
{DECLARED_CERTIFICATES}"""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, and the authorities above it, the root last.

    Attributes:
        purpose: OpenSSL's name of what it is for; "any" where OpenSSL knows none.
    """

    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...]
    purpose: str


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The root and the authorities below it."""

    root: CertificateAuthority
    root_signer: SoftwareSigner
    factory: CertificateAuthority
    issuing: CertificateAuthority
    server: CertificateAuthority


def make_hierarchy(*, publish_url: str | None = None) -> Hierarchy:
    signer = SoftwareSigner.generate()
    certificate = self_signed_root(profiles.root_ca("demo", now=NOW), signer).certificate
    root = CertificateAuthority([certificate], signer, publish_url=publish_url)
    return Hierarchy(
        root,
        signer,
        _below(root, profiles.factory_ca("demo", now=NOW)),
        _below(root, profiles.issuing_ca("demo", now=NOW)),
        _below(root, profiles.server_ca("demo", HOSTS, now=NOW)),
    )


def every_certificate(*, publish_url: str | None = None) -> dict[str, Issued]:
    tree = make_hierarchy(publish_url=publish_url)
    device_id = device_id_of(SoftwareSigner.generate().public_key)
    asked: dict[str, tuple[CertificateAuthority, Profile, str]] = {
        "factory": (tree.root, profiles.factory_ca("demo", now=NOW), "any"),
        "issuing": (tree.root, profiles.issuing_ca("demo", now=NOW), "any"),
        "server-ca": (tree.root, profiles.server_ca("demo", HOSTS, now=NOW), "any"),
        "package": (tree.root, profiles.package_signing("demo", now=NOW), "any"),
        "operator": (tree.root, profiles.operator_client("ada", now=NOW), "sslclient"),
        "cross": (tree.issuing, profiles.issuing_ca("demo", now=NOW), "any"),
        "server": (tree.server, profiles.server(HOSTS, now=NOW), "sslserver"),
        "ocsp": (tree.factory, profiles.ocsp_responder("demo", now=NOW), "ocsphelper"),
        "idevid": (tree.factory, profiles.idevid(device_id, now=NOW), "sslclient"),
        "ldevid": (tree.issuing, profiles.ldevid(device_id, now=NOW), "sslclient"),
        "ldevid-update-only": (
            tree.issuing,
            profiles.ldevid(device_id, now=NOW, access=Access.UPDATE_ONLY),
            "sslclient",
        ),
        "possession": (tree.issuing, profiles.possession_proof("nonce", now=NOW), "any"),
    }
    issued = {name: _issued(tree, authority, profile, purpose) for name, (authority, profile, purpose) in asked.items()}
    root = Issued(tree.root.certificate, (), "any")
    return {"root": root, **issued, **_declared(publish_url), **_rolled_over(tree)}


def _declared(publish_url: str | None) -> dict[str, Issued]:
    """What a ceremony makes whose declaration leaves nothing to the defaults."""
    declaration = parse_declaration(EVERYTHING_DECLARED.encode()).declaration
    authorities, issued = dict[str, CertificateAuthority](), dict[str, Issued]()
    for planned in planned_certificates(declaration, began_at=NOW):
        signer, above = SoftwareSigner.generate(), tuple[x509.Certificate, ...]()
        if planned.issuer is None:
            certificate = self_signed_root(planned.profile, signer).certificate
        else:
            certificate = authorities[planned.issuer].issue(planned.profile, signer.public_key)
            issuer = issued[f"declared {planned.issuer}"]
            above = (issuer.certificate, *issuer.above)
        authorities[planned.role] = CertificateAuthority([certificate], signer, publish_url=publish_url)
        issued[f"declared {planned.role}"] = Issued(certificate, above, "any")
    return issued


def _rolled_over(tree: Hierarchy) -> dict[str, Issued]:
    """The second generation of the issuing CA, and both generations by one another."""
    root = tree.root
    with tempfile.TemporaryDirectory() as folder:
        acceptance = roll_over(Path(folder), root, tree.root_signer)
    new, (_, old) = acceptance.certificate, acceptance.predecessor
    assert acceptance.old_with_new is not None
    return {
        "issuing-2": Issued(new, (root.certificate,), "any"),
        "issuing-2-by-1": Issued(acceptance.new_with_old, (old, root.certificate), "any"),
        "issuing-1-by-2": Issued(acceptance.old_with_new, (new, root.certificate), "any"),
    }


def roll_over(service: Path, root: CertificateAuthority, root_signer: SoftwareSigner) -> Acceptance:
    """Lead a new service's folder to the second generation of its issuing CA."""
    for name in ("csr", "certificates"):
        (service / name).mkdir()
    keys = FileKeyStore(service / "keys", passphrase=None)
    old = root.issue(profiles.issuing_ca("demo", now=NOW), keys.generate("issuing-ca").public_key)
    (service / "certificates" / "issuing-ca.pem").write_bytes(chain_pem([old]))
    number, csr = request_generation(service, keys)
    new = sign_generation(
        csr,
        number,
        unverified_predecessor=old,
        known={certificate_sha256(old)},
        root=root.certificate,
        root_signer=root_signer,
        now=NOW,
    )
    acceptance = verify_generation(service, chain_pem([new]), keys=keys, root=root.certificate, now=NOW)
    accept_generation(service, acceptance)
    return acceptance


def _below(root: CertificateAuthority, profile: Profile) -> CertificateAuthority:
    signer = SoftwareSigner.generate()
    return CertificateAuthority([root.issue(profile, signer.public_key)], signer)


def _issued(tree: Hierarchy, authority: CertificateAuthority, profile: Profile, purpose: str) -> Issued:
    root = tree.root.certificate
    above = (root,) if authority is tree.root else (authority.certificate, root)
    return Issued(authority.issue(profile, SoftwareSigner.generate().public_key), above, purpose)
