"""The service's folder: keys that it makes itself, what it asks to be signed, and what the ceremony signed.

`request_online_keys` runs on the service's side and makes keys and CSRs; `sign_online_keys` runs where the offline keys
are and reads CSRs alone. Every file is made once: a run that was interrupted goes on where it stopped.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem
from pki.catalog import Catalog, encode_catalog
from pki.chains import load_chain
from pki.csr import make_csr, verify_service_csr
from pki.errors import ChainError, CsrError
from pki.files import PUBLIC_MODE, create_file
from pki.metadata import director_root, image_root, sign_targets
from pki.roles import OnlineKey
from pki.stores import KeyStores, open_keys
from protocol.signing import Signer

ROOT_METADATA_LIFETIME = timedelta(days=365)
TARGETS_METADATA_LIFETIME = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class OfflineAuthority:
    """What signs the service's keys.

    Attributes:
        root: the X.509 root.
        root_signer: its key, which also signs both repositories' root metadata.
        targets: key of the Image repository's targets role.
        factory: the authority that issues IDevIDs and certifies their OCSP responder.
        server_ca: the authority that issues the service's TLS certificates.
        package_key: signs applications, firmware and models.
        system_key: signs boot loader, security monitor and OS.
        golden_key: signs golden vectors.
    """

    root: CertificateAuthority
    root_signer: Signer
    targets: Signer
    factory: CertificateAuthority
    server_ca: CertificateAuthority
    package_key: ec.EllipticCurvePublicKey
    system_key: ec.EllipticCurvePublicKey
    golden_key: ec.EllipticCurvePublicKey


def online_keys(service_dir: Path) -> KeyStores:
    """Return the stores of the service's own keys; files are unencrypted, because the service starts by itself.

    Raises:
        StoreConfigError: keys.toml breaks a rule.
    """
    return open_keys(service_dir, passphrase=None)


def request_online_keys(service_dir: Path) -> None:
    """Make an online key and its CSR for each role that has no CSR yet.

    A CSR without a key is left alone: it has come from the service's machine to the operator's.

    Raises:
        KeyStoreError: a key that is there cannot be used.
    """
    keys = online_keys(service_dir)
    for role in OnlineKey:
        path = _csr_path(service_dir, role)
        if not path.exists():
            signer = keys.load(role) if keys.holds(role) else keys.generate(role)
            _create_missing(path, partial(make_csr, signer, role))


def sign_online_keys(
    service_dir: Path,
    authority: OfflineAuthority,
    *,
    catalog_name: str,
    hostnames: Sequence[str],
    now: datetime,
) -> None:
    """Sign what the service asked for: certificates, and the first metadata of both repositories.

    Args:
        service_dir: holds the CSRs; gets certificates and genesis.
        authority: the offline keys.
        catalog_name: of the tenant, for certificates and genesis/catalog.json.
        hostnames: DNS names and IP addresses of the service besides loopback.
        now: UTC, aware.

    Raises:
        CsrError: a CSR is missing or breaks a rule.
        ProfileError: a host name is none.
    """
    requested = {role: _requested_key(service_dir, role) for role in OnlineKey}
    server = profiles.server([*profiles.LOOPBACK_HOSTNAMES, *hostnames], now=now)
    issuing_ca, ocsp = profiles.issuing_ca(catalog_name, now=now), profiles.ocsp_responder(catalog_name, now=now)
    root, factory, server_ca = authority.root, authority.factory, authority.server_ca
    contents: dict[str, Callable[[], bytes]] = {
        "root": lambda: chain_pem([root.certificate]),
        "factory": lambda: chain_pem([factory.certificate]),
        "server-ca": lambda: chain_pem([server_ca.certificate]),
        "issuing-ca": lambda: chain_pem([root.issue(issuing_ca, requested[OnlineKey.ISSUING_CA])]),
        "server": lambda: server_ca.chain_pem(server_ca.issue(server, requested[OnlineKey.SERVER])),
        "ocsp": lambda: factory.chain_pem(factory.issue(ocsp, requested[OnlineKey.OCSP])),
    }
    for name, content in contents.items():
        _create_missing(service_dir / "certificates" / f"{name}.pem", content)
    _sign_genesis(service_dir / "genesis", authority, requested, catalog_name=catalog_name, now=now)


def issuing_authority(service_dir: Path) -> CertificateAuthority:
    """Return the authority that issues LDevIDs, from the service's folder.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
        ChainError: its certificate is missing, malformed, or of another key.
    """
    certificate = load_certificate(service_dir / "certificates" / "issuing-ca.pem")
    return CertificateAuthority([certificate], online_keys(service_dir).load(OnlineKey.ISSUING_CA))


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a chain file.

    Raises:
        ChainError: the file is missing or holds no certificate.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChainError(f"certificate: expected {path}, found: {error.strerror}") from error
    return load_chain(content)[0]


def _sign_genesis(
    genesis: Path,
    authority: OfflineAuthority,
    requested: dict[OnlineKey, ec.EllipticCurvePublicKey],
    *,
    catalog_name: str,
    now: datetime,
) -> None:
    root, root_expires = authority.root_signer, now + ROOT_METADATA_LIFETIME
    catalog = Catalog(
        catalog_id=str(uuid.uuid4()),
        name=catalog_name,
        package_keys=[authority.package_key],
        system_keys=[authority.system_key],
        golden_keys=[authority.golden_key],
    )
    _create_missing(genesis / "catalog.json", lambda: encode_catalog(catalog))
    _create_missing(
        genesis / "director.root.json",
        lambda: director_root(root, director=requested[OnlineKey.DIRECTOR], expires=root_expires),
    )
    _create_missing(
        genesis / "image.root.json",
        lambda: image_root(
            root,
            targets=authority.targets.public_key,
            snapshot=requested[OnlineKey.SNAPSHOT],
            timestamp=requested[OnlineKey.TIMESTAMP],
            expires=root_expires,
        ),
    )
    _create_missing(
        genesis / "image.targets.json",
        lambda: sign_targets([], authority.targets, version=1, expires=now + TARGETS_METADATA_LIFETIME),
    )


def _requested_key(service_dir: Path, role: OnlineKey) -> ec.EllipticCurvePublicKey:
    path = _csr_path(service_dir, role)
    try:
        unverified_csr = path.read_bytes()
    except OSError as error:
        raise CsrError(f"CSR: expected the service's request in {path}, found: {error.strerror}") from error
    return verify_service_csr(unverified_csr, role)


def _csr_path(service_dir: Path, role: OnlineKey) -> Path:
    return service_dir / "csr" / f"{role}.pem"


def _create_missing(path: Path, content: Callable[[], bytes]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_file(path, content(), mode=PUBLIC_MODE)
