"""One certificate of every kind that any authority issues, with and without a place where revocations are published."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from pki import profiles
from pki.authority import CertificateAuthority, self_signed_root
from pki.profiles import Profile
from protocol.identity import Access, device_id_of
from protocol.signing import SoftwareSigner

NOW = datetime.now(UTC)  # noqa: TID251 - openssl goes by the wall clock
HOSTS = ("fleet.example", *profiles.LOOPBACK_HOSTNAMES)


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
    factory: CertificateAuthority
    issuing: CertificateAuthority
    server: CertificateAuthority


def make_hierarchy(*, publish_url: str | None = None) -> Hierarchy:
    signer = SoftwareSigner.generate()
    certificate = self_signed_root(profiles.root_ca("demo", now=NOW), signer).certificate
    root = CertificateAuthority([certificate], signer, publish_url=publish_url)
    return Hierarchy(
        root,
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
    return {"root": Issued(tree.root.certificate, (), "any"), **issued}


def _below(root: CertificateAuthority, profile: Profile) -> CertificateAuthority:
    signer = SoftwareSigner.generate()
    return CertificateAuthority([root.issue(profile, signer.public_key)], signer)


def _issued(tree: Hierarchy, authority: CertificateAuthority, profile: Profile, purpose: str) -> Issued:
    root = tree.root.certificate
    above = (root,) if authority is tree.root else (authority.certificate, root)
    return Issued(authority.issue(profile, SoftwareSigner.generate().public_key), above, purpose)
